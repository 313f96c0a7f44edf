//! What the hooks answer when the store fails: the right exit code, one line that helps, and nothing lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use http::Method;
use walden_pg::PgMajor;
use walden_testkit::postgres::{PgServer, StopMode};
use walden_testkit::stores::{Fault, FaultRule, S3Server};

use crate::stores::faulty_s3;
use crate::support::{Walden, commit_rows, describe, run};

/// The exit codes of docs/cli.md that matter here, and what is added to them in archive recovery.
const ABSENT: i32 = 1;
const NOT_FOUND: i32 = 11;
const CORRUPT: i32 = 14;
const UNAVAILABLE: i32 = 15;
const DENIED: i32 = 16;
const LOCAL_IO: i32 = 18;
const FATAL: i32 = 200;

/// Faults that never end.
const FOR_EVER: u32 = u32::MAX;

/// A stopped server whose one segment waits to be archived to S3.
struct Bench {
    walden: Walden,
    server: PgServer,
    s3: Arc<S3Server>,
    segment: PathBuf,
    name: String,
}

fn bench() -> Bench {
    let (repository, s3) = faulty_s3();
    let mut walden = Walden::new(&repository, "main");
    // Every call gives up after a few seconds: tests must not wait for the deadlines of real life.
    walden.environment.push(("WALDEN_WAL_PUSH_DEADLINE".into(), "4s".into()));
    walden.environment.push(("WALDEN_WAL_GET_DEADLINE".into(), "4s".into()));
    let mut server = PgServer::builder(PgMajor::V17).setting("archive_mode", "on").start().unwrap();
    walden.init(&server);
    commit_rows(&server, 1);
    let name = server.switch_wal().unwrap().to_string();
    server.stop(StopMode::Fast).unwrap();
    let segment = server.data_dir().join("pg_wal").join(&name);
    drop(s3.take_requests());
    Bench { walden, server, s3, segment, name }
}

impl Bench {
    fn push(&self) -> Output {
        run(&mut self.walden.command(&["wal", "push", self.segment.to_str().unwrap()]))
    }

    /// `wal get` as the server in archive recovery would run it.
    fn get(&self, name: &str) -> Output {
        let mut command = self.walden.command(&["wal", "get", name, "pg_wal/RECOVERYXLOG"]);
        run(command.current_dir(self.server.data_dir()))
    }

    fn signal(&self, name: &str) {
        fs::write(self.server.data_dir().join(name), b"").unwrap();
    }

    fn destination(&self) -> PathBuf {
        self.server.data_dir().join("pg_wal/RECOVERYXLOG")
    }

    fn fault(&self, fault: Fault, method: Method, times: u32) {
        self.s3.clear_faults();
        self.s3.inject(FaultRule::next(fault, method, times));
    }
}

fn assert_code(output: &Output, code: i32, what: &str) {
    assert_eq!(output.status.code(), Some(code), "{what}: {}", describe(output));
}

/// What a hook says fits on one line of the server log.
fn assert_one_line(output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.trim_end().lines().count(), 1, "{what}: {said}");
}

#[test]
fn a_push_that_succeeds_over_faults_is_readable() {
    let bench = bench();
    for fault in
        [Fault::Unavailable, Fault::LostAnswer, Fault::ResetBefore, Fault::ResetAfter, Fault::Conflict]
    {
        let what = format!("{fault:?}");
        bench.fault(fault, Method::PUT, 1);
        let pushed = bench.push();
        bench.s3.clear_faults();
        assert_code(&pushed, 0, &what);
        assert_code(&bench.get(&bench.name), 0, &what);
        assert!(fs::read(bench.destination()).unwrap() == fs::read(&bench.segment).unwrap(), "{what}");
        remove_objects(&bench);
    }
}

/// Makes the archive empty again, so that the next push is a first one.
fn remove_objects(bench: &Bench) {
    let list = bench.walden.json(&["wal", "show", &bench.name]);
    fs::remove_file(bench.s3.object_file(&format!("repo/{}", list["key"].as_str().unwrap()))).unwrap();
}

#[test]
fn a_push_is_never_acknowledged_while_the_store_fails() {
    let bench = bench();
    for (fault, code) in [
        (Fault::Unavailable, UNAVAILABLE),
        (Fault::ResetBefore, UNAVAILABLE),
        (Fault::HangBefore, UNAVAILABLE),
        (Fault::Denied, DENIED),
        (Fault::NoSuchBucket, NOT_FOUND),
    ] {
        let what = format!("{fault:?}");
        bench.fault(fault, Method::PUT, FOR_EVER);
        let pushed = bench.push();
        assert_code(&pushed, code, &what);
        assert_one_line(&pushed, &what);
        assert!(String::from_utf8_lossy(&pushed.stderr).contains(&bench.name), "{}", describe(&pushed));
    }
    bench.s3.clear_faults();
    assert_code(&bench.get(&bench.name), ABSENT, "nothing arrived");
    assert_code(&bench.push(), 0, "the store is back");
}

#[test]
fn only_a_proven_absence_ends_a_recovery() {
    let bench = bench();
    assert_code(&bench.push(), 0, "push");
    bench.signal("recovery.signal");
    assert_code(&bench.get("0000000100000000000000EE"), ABSENT, "absent");
    assert_code(&bench.get("00000009.history"), ABSENT, "absent history");
    for (fault, code) in [
        (Fault::Unavailable, UNAVAILABLE),
        (Fault::ResetBefore, UNAVAILABLE),
        (Fault::HangBefore, UNAVAILABLE),
        (Fault::Denied, DENIED),
        (Fault::NoSuchBucket, NOT_FOUND),
    ] {
        for name in [bench.name.as_str(), "0000000100000000000000EE", "00000009.history"] {
            let what = format!("{fault:?} {name}");
            bench.fault(fault, Method::GET, FOR_EVER);
            let got = bench.get(name);
            assert_code(&got, FATAL + code, &what);
            assert_one_line(&got, &what);
            assert!(!bench.destination().try_exists().unwrap(), "{what}");
        }
    }
    // The file is missing and the proof can't be had: that is not an absence.
    bench.s3.clear_faults();
    bench.s3.inject(FaultRule::next(Fault::Unavailable, Method::GET, FOR_EVER).on("incarnation.json"));
    assert_code(&bench.get("0000000100000000000000EE"), FATAL + UNAVAILABLE, "no proof");
    bench.s3.clear_faults();
    bench.s3.inject(FaultRule::next(Fault::NoSuchBucket, Method::GET, FOR_EVER).on("incarnation.json"));
    assert_code(&bench.get("0000000100000000000000EE"), FATAL + NOT_FOUND, "no marker");
}

#[test]
fn damage_on_the_way_is_read_again_and_damage_in_the_store_is_told() {
    let bench = bench();
    assert_code(&bench.push(), 0, "push");
    bench.signal("recovery.signal");
    for fault in [Fault::Truncated(500), Fault::WrongBytes(5_000), Fault::Stalled(500), Fault::ResetAfter] {
        let what = format!("{fault:?}");
        bench.fault(fault, Method::GET, 1);
        assert_code(&bench.get(&bench.name), 0, &what);
        assert!(fs::read(bench.destination()).unwrap() == fs::read(&bench.segment).unwrap(), "{what}");
        fs::remove_file(bench.destination()).unwrap();
    }
    bench.fault(Fault::WrongBytes(5_000), Method::GET, FOR_EVER);
    let got = bench.get(&bench.name);
    assert_code(&got, FATAL + CORRUPT, "damaged every time");
    assert!(!bench.destination().try_exists().unwrap());
    assert_eq!(litter(bench.server.data_dir()), Vec::<String>::new());
}

#[test]
fn a_standby_keeps_its_codes_small() {
    let bench = bench();
    bench.signal("recovery.signal");
    bench.signal("standby.signal");
    bench.fault(Fault::Unavailable, Method::GET, FOR_EVER);
    assert_code(&bench.get(&bench.name), UNAVAILABLE, "standby");
    bench.s3.clear_faults();
    assert_code(&bench.get(&bench.name), ABSENT, "absent");
}

#[test]
fn a_mistake_in_restore_command_never_looks_like_the_end() {
    let bench = bench();
    bench.signal("recovery.signal");
    let at = |arguments: &[&str]| {
        let mut command = bench.walden.command(arguments);
        run(command.current_dir(bench.server.data_dir()))
    };
    for arguments in [
        &["wal", "get", "--no-such-option", "x", "pg_wal/RECOVERYXLOG"][..],
        &["wal", "get", &bench.name][..],
        &["wal", "get", "not-a-wal-file", "pg_wal/RECOVERYXLOG"][..],
        &["--repo", "s3x://nothing", "wal", "get", &bench.name, "pg_wal/RECOVERYXLOG"][..],
        &["--server", "mian", "wal", "get", &bench.name, "pg_wal/RECOVERYXLOG"][..],
        &["--config", "/nonexistent.toml", "wal", "get", &bench.name, "pg_wal/RECOVERYXLOG"][..],
    ] {
        let output = at(arguments);
        let code = output.status.code().unwrap();
        assert!(code > 200, "{arguments:?}: {}", describe(&output));
    }
}

#[test]
fn the_steady_state_costs_one_request() {
    let mut bench = bench();
    assert_code(&bench.push(), 0, "the first push asks whose archive it is");
    bench.server.start().unwrap();
    commit_rows(&bench.server, 1);
    let next = bench.server.switch_wal().unwrap().to_string();
    bench.server.stop(StopMode::Fast).unwrap();
    drop(bench.s3.take_requests());
    let path = bench.server.data_dir().join("pg_wal").join(&next);
    assert_code(&run(&mut bench.walden.command(&["wal", "push", path.to_str().unwrap()])), 0, "push");
    assert_eq!(bench.s3.take_requests().len(), 1, "pushed");
    assert_code(&bench.get(&next), 0, "get");
    assert_eq!(bench.s3.take_requests().len(), 1, "fetched");
    assert_code(&bench.get("0000000100000000000000EE"), ABSENT, "absent");
    assert_eq!(bench.s3.take_requests().len(), 2, "absent");
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let bench = bench();
    assert_code(&bench.push(), 0, "push");
    bench.signal("recovery.signal");
    // A pg_wal of 8 MiB that only this command sees; a segment has 16.
    let script =
        "mount -t tmpfs -o size=8m tmpfs pg_wal || exit 99; \"$0\" \"$@\"; code=$?; ls -A pg_wal; exit $code";
    let get = bench.walden.command(&["wal", "get", &bench.name, "pg_wal/RECOVERYXLOG"]);
    let mut starved = std::process::Command::new("unshare");
    starved.arg(if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" }).args(["sh", "-c", script]);
    starved.arg(get.get_program()).args(get.get_args()).current_dir(bench.server.data_dir());
    starved.envs(get.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(&mut starved);
    assert_code(&output, FATAL + LOCAL_IO, "full disk");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{}", describe(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing is left in pg_wal");
    assert_code(&bench.get(&bench.name), 0, "there is room again");
}

/// Temporary files of ours that were left in pg_wal.
fn litter(data: &Path) -> Vec<String> {
    let names = fs::read_dir(data.join("pg_wal")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("walden-tmp")).collect()
}
