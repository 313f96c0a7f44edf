//! Measures the program as its users feel it: the hooks, a backup, a restore. Run by `cargo xtask bench`.
//!
//! `measure PATH-OF-WALDEN [SCALE]`: a PostgreSQL 17 server with pgbench tables of that scale (50 by default), its
//! real WAL, a local directory and the in-process S3 server. Prints a table; writes the same as JSON to
//! `target/bench/walden.json`.

#![expect(clippy::print_stdout, reason = "it reports to a person")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that can't be made ends loudly"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people have three digits")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use walden_pg::{ArchiveFileName, PgMajor};
use walden_testkit::postgres::{PgServer, ServerAccount, StopMode};
use walden_testkit::stores::S3Server;

/// Calls of each hook.
const CALLS: usize = 20;
/// Runs of `walden --version`.
const STARTS: usize = 200;

/// One way to reach a repository.
struct Place {
    name: &'static str,
    url: String,
    environment: Vec<(String, String)>,
}

/// The program, run as the server's account under GNU time.
struct Program {
    path: PathBuf,
    account: ServerAccount,
    home: tempfile::TempDir,
}

/// What one run took.
struct Run {
    wall: Duration,
    peak_kib: u64,
    cpu_seconds: f64,
    output: Output,
}

impl Program {
    fn run(&self, place: &Place, server: &PgServer, arguments: &[&str]) -> Run {
        let mut command = Command::new("/usr/bin/time");
        let usage = self.home.path().join("usage");
        command.args(["-f", "%M %U %S", "-o", usage.to_str().unwrap()]).arg(&self.path).args(arguments);
        server.run_as_server_user(&mut command);
        command.env("HOME", self.home.path()).env("WALDEN_REPO", &place.url).env("WALDEN_SERVER", "main");
        command.envs(place.environment.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let output = command.output().unwrap();
        let wall = started.elapsed();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        let usage = fs::read_to_string(usage).unwrap();
        let numbers: Vec<f64> = usage.split_whitespace().map(|number| number.parse().unwrap()).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "kibibytes of memory")]
        Run { wall, peak_kib: numbers[0] as u64, cpu_seconds: numbers[1] + numbers[2], output }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value below which so many percent of the sorted values lie.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn spread(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let round = |value: f64| (value * 10.0).round() / 10.0;
    json!({ "p50_ms": round(percentile(&values, 50)), "p99_ms": round(percentile(&values, 99)) })
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let given = PathBuf::from(arguments.next().unwrap());
    let scale: u32 = arguments.next().map_or(50, |scale| scale.parse().unwrap());
    let account = ServerAccount::current().unwrap();
    let home = account.temp_dir().unwrap();
    let program = Program { path: account.executable(&given).unwrap(), account, home };

    println!("binary: {:.1} MB", fs::metadata(&given).unwrap().len() as f64 / 1e6);
    let starts = starts(&program);
    println!("walden --version, {STARTS} runs: {starts}");
    let mut server = PgServer::builder(PgMajor::V17)
        .setting("archive_mode", "on")
        .setting("max_wal_size", "8GB")
        .setting("wal_keep_size", "4GB")
        .setting("shared_buffers", "256MB")
        .deadline(Duration::from_mins(15))
        .start()
        .unwrap();
    server.pgbench_init(scale).unwrap();
    server.pgbench(4, 15).unwrap();
    let local = program.account.temp_dir().unwrap();
    let s3 = S3Server::start().unwrap();
    let store = s3.store("repo");
    let places = [
        Place { name: "local", url: format!("file://{}", local.path().display()), environment: Vec::new() },
        Place { name: "s3", url: store.url, environment: store.environment },
    ];
    let mut report = json!({ "binary_bytes": fs::metadata(&given).unwrap().len(), "version": starts });
    for place in &places {
        let measured = hooks(&program, place, &server, &s3);
        println!("{}: {measured:#}", place.name);
        report[place.name] = measured;
    }
    for place in &places {
        let measured = backup_and_restore(&program, place, &mut server);
        println!("{}: {measured:#}", place.name);
        report[place.name]["backup"] = measured;
    }
    fs::create_dir_all("target/bench").unwrap();
    fs::write("target/bench/walden.json", format!("{report:#}\n")).unwrap();
}

fn starts(program: &Program) -> Value {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let output = Command::new(&program.path).arg("--version").output().unwrap();
        times.push(milliseconds(started.elapsed()));
        assert!(output.status.success());
    }
    spread(times)
}

/// Real segments that the server still has.
fn segments(server: &PgServer) -> Vec<PathBuf> {
    let newest: String = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())").unwrap();
    let mut found: Vec<PathBuf> = fs::read_dir(server.data_dir().join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            matches!(name.parse(), Ok(ArchiveFileName::Segment(_))) && *name < *newest
        })
        .collect();
    found.sort();
    found.truncate(CALLS + 1);
    assert!(found.len() > CALLS, "the load makes more segments than that");
    found
}

fn hooks(program: &Program, place: &Place, server: &PgServer, s3: &S3Server) -> Value {
    program.run(place, server, &["init", "--pgdata", server.data_dir().to_str().unwrap()]);
    let segments = segments(server);
    // The first push asks whose archive it is; the steady state begins after it.
    program.run(place, server, &["wal", "push", segments[0].to_str().unwrap()]);
    drop(s3.take_requests());
    let mut result = json!({});
    for verb in ["push", "get"] {
        let (mut walls, mut peak, mut cpu) = (Vec::new(), 0, 0.0);
        for path in &segments[1..] {
            let name = path.file_name().unwrap().to_str().unwrap();
            let aside = server.data_dir().join("pg_wal/RECOVERYXLOG");
            let run = match verb {
                "push" => program.run(place, server, &["wal", "push", path.to_str().unwrap()]),
                _ => program.run(place, server, &["wal", "get", name, aside.to_str().unwrap()]),
            };
            walls.push(milliseconds(run.wall));
            peak = peak.max(run.peak_kib);
            cpu += run.cpu_seconds;
            if verb == "get" {
                assert!(fs::read(&aside).unwrap() == fs::read(path).unwrap(), "{name}");
                fs::remove_file(&aside).unwrap();
            }
        }
        let mut measured = spread(walls);
        measured["peak_mib"] = json!(peak / 1024);
        measured["cpu_ms"] = json!((cpu / CALLS as f64 * 1e3).round());
        if place.name == "s3" {
            measured["requests_per_call"] = json!(s3.take_requests().len() as f64 / CALLS as f64);
        }
        result[verb] = measured;
    }
    result
}

fn backup_and_restore(program: &Program, place: &Place, server: &mut PgServer) -> Value {
    server.set("archive_command", &archive_command(program, place)).unwrap();
    server.archive_current_segment().unwrap();
    let backup = program.run(place, server, &["backup", "create", "--output", "json"]);
    let list = program.run(place, server, &["backup", "list", "--output", "json"]);
    let list: Value = serde_json::from_slice(&list.output.stdout).unwrap();
    let bytes = list[0]["bytes"].as_f64().unwrap();
    let data = server.scratch_dir(&format!("restored-{}", place.name)).unwrap();
    let restore =
        program.run(place, server, &["restore", "--target-immediate", "--pgdata", data.to_str().unwrap()]);
    let rate = |run: &Run| (bytes / 1e6 / run.wall.as_secs_f64()).round();
    let measured = json!({
        "plain_mb": (bytes / 1e6).round(),
        "stored_mb": (list[0]["stored_bytes"].as_f64().unwrap() / 1e6).round(),
        "backup_seconds": backup.wall.as_secs_f64(), "backup_mb_per_second": rate(&backup),
        "backup_cpu_seconds": backup.cpu_seconds, "backup_peak_mib": backup.peak_kib / 1024,
        "restore_seconds": restore.wall.as_secs_f64(), "restore_mb_per_second": rate(&restore),
        "restore_cpu_seconds": restore.cpu_seconds, "restore_peak_mib": restore.peak_kib / 1024,
    });
    restored_starts(&data, place, program);
    fs::remove_dir_all(&data).unwrap();
    measured
}

fn archive_command(program: &Program, place: &Place) -> String {
    let environment: Vec<String> =
        place.environment.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
    let home = program.home.path().display();
    format!(
        "HOME={home} {} WALDEN_REPO={} WALDEN_SERVER=main {} wal push %p",
        environment.join(" "),
        place.url,
        program.path.display()
    )
}

/// A figure for a restore that does not start would be worth nothing.
fn restored_starts(data: &Path, place: &Place, program: &Program) {
    let builder = PgServer::builder(PgMajor::V17).env("HOME", program.home.path().to_str().unwrap());
    let builder = place.environment.iter().fold(builder, |builder, (name, value)| builder.env(name, value));
    let mut restored = builder.adopt(data).unwrap();
    restored.start().unwrap();
    assert!(restored.value::<i64>("SELECT count(*) FROM pgbench_accounts").unwrap() > 0);
    restored.stop(StopMode::Fast).unwrap();
}
