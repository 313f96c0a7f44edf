//! Real recoveries and a real standby, with an agent that fetches ahead: they end where they end without one, and stop
//! where they stop without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::Value;
use walden_pg::{Lsn, PgMajor, WalSegmentSize};
use walden_testkit::postgres::{PgServer, StopMode};
use walden_testkit::stores::{Fault, FaultRule, S3Server};

use super::bench::{Processes, until};
use crate::stores::faulty_s3;
use crate::support::{Mark, Repository, Walden, commit_rows, count_rows, describe, run};

/// A server that has archived through its agent, and a backup from before.
struct History {
    processes: Processes,
    walden: Walden,
    server: PgServer,
    s3: Arc<S3Server>,
    marks: Vec<Mark>,
    _repository: Repository,
}

/// With so many segments of 1 MiB after the backup, each with a row of its own.
fn history(major: PgMajor, segments: usize) -> History {
    let (repository, s3) = faulty_s3();
    let mut walden = Walden::new(&repository, "main");
    let processes = Processes::of(&mut walden);
    walden.set("WALDEN_WAL_GET_DEADLINE", "5s");
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let server = walden.server(major).wal_segment_size(size).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 1);
    walden.json_at(&server, &["backup", "create"]);
    let mut history = History { processes, walden, server, s3, marks: Vec::new(), _repository: repository };
    history.go_on(segments);
    history
}

impl History {
    /// Writes so many segments more, and waits until they are archived.
    fn go_on(&mut self, segments: usize) {
        for _ in 0..segments {
            // Enough that every stored segment is larger than the place that a fault damages.
            self.server.insert_rows(300).unwrap();
            self.marks.extend(commit_rows(&self.server, 1));
            self.server.switch_wal().unwrap();
        }
        self.server.archive_current_segment().unwrap();
    }

    fn rows(&self) -> i64 {
        self.marks.last().unwrap().rows
    }

    /// Restores, and makes the server that is not started yet.
    fn restore(&self, name: &str, arguments: &[&str]) -> (PgServer, PathBuf) {
        let data = self.server.scratch_dir(name).unwrap();
        self.walden.json(&[&["restore", "--pgdata", data.to_str().unwrap()], arguments].concat());
        (self.walden.restored(self.server.major(), &data), data)
    }

    /// What the agent of a data directory tells of fetching ahead.
    fn prefetch(&self, data: &Path) -> Option<Value> {
        let arguments = ["agent", "status", "--pgdata", data.to_str().unwrap(), "--output", "json"];
        let output = run(&mut self.walden.command(&arguments));
        let status: Option<Value> =
            output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap());
        status.map(|status| status["prefetch"].clone())
    }

    /// How often each segment was read since the last look.
    fn segments_read(&self) -> Vec<(String, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for request in self.s3.take_requests() {
            if request.method == Method::GET && request.path.contains("/wal/") {
                let name = request.path.rsplit('/').next().unwrap().to_owned();
                *counts.entry(name).or_insert(0) += 1;
            }
        }
        counts.into_iter().collect()
    }
}

fn same_end(major: PgMajor) {
    let history = history(major, 14);
    let middle = &history.marks[9];
    let xid = middle.xid.to_string();
    let mut ends = Vec::new();
    for agent in ["off", "auto"] {
        let mut walden_environment = history.walden.environment.clone();
        walden_environment.retain(|(name, _)| name != "WALDEN_AGENT");
        let data = history.server.scratch_dir(&format!("restored-{agent}")).unwrap();
        history.walden.json(&["restore", "--pgdata", data.to_str().unwrap(), "--target-xid", &xid]);
        drop(history.s3.take_requests());
        let builder = PgServer::builder(major).env("WALDEN_AGENT", agent);
        let builder =
            walden_environment.iter().fold(builder, |builder, (name, value)| builder.env(name, value));
        let mut restored = builder.adopt(&data).unwrap();
        restored.start().unwrap();
        restored.wait_until_paused().unwrap();
        let replayed: Lsn = restored.value("SELECT pg_last_wal_replay_lsn()").unwrap();
        ends.push((count_rows(&restored), replayed));
        if agent == "auto" {
            let prefetch = history.prefetch(&data).unwrap();
            assert!(
                prefetch["hits"].as_u64().unwrap() + prefetch["waited"].as_u64().unwrap() >= 4,
                "{prefetch}"
            );
            let read = history.segments_read();
            let more: usize = read.iter().map(|(_, times)| times - 1).sum();
            assert!(more <= 1, "the first may be asked for twice: {read:?}");
        }
    }
    assert_eq!(ends[0], ends[1]);
    assert_eq!(ends[1].0, middle.rows);
}

#[test]
fn postgresql_13_stops_at_the_same_place_with_and_without_an_agent() {
    same_end(PgMajor::V13);
}

#[test]
fn postgresql_17_stops_at_the_same_place_with_and_without_an_agent() {
    same_end(PgMajor::V17);
}

#[test]
fn agents_killed_in_the_middle_of_a_recovery_change_nothing() {
    let history = history(PgMajor::V17, 24);
    let (mut restored, _) = history.restore("restored", &[]);
    let done = AtomicBool::new(false);
    let (processes, spool) = (&history.processes, history.processes.state_directory().to_owned());
    let killed = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(60));
                killed += processes.kill_agents();
                // The next hook may start one at once.
                for entry in fs::read_dir(&spool).unwrap().flatten() {
                    let _ = fs::remove_file(entry.path().join("lock"));
                }
            }
            killed
        });
        restored.start().unwrap();
        restored.wait_until_promoted().unwrap();
        done.store(true, Ordering::Relaxed);
        killer.join().unwrap()
    });
    println!("{killed} agents killed");
    assert_eq!(count_rows(&restored), history.rows());
}

/// Stops as it does without an agent, does not promote, and finishes when what was wrong is put right.
fn stops_and_finishes(major: PgMajor, fault: Fault) {
    let history = history(major, 10);
    let (mut restored, data) = history.restore("restored", &["--target-action", "promote"]);
    history.s3.inject(FaultRule::next(fault, Method::GET, u32::MAX).on("/wal/").after(4));
    restored.spawn().unwrap();
    let status = restored.wait_exit().unwrap();
    let log = restored.log_since_start();
    assert!(!status.success() && log.contains("FATAL"), "{log}");
    assert!(!log.contains("archive recovery complete"), "{log}");
    assert!(data.join("recovery.signal").try_exists().unwrap(), "recovery is not over");
    history.s3.clear_faults();
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&restored), history.rows());
}

#[test]
fn postgresql_13_stops_when_the_store_is_down_under_the_agent() {
    stops_and_finishes(PgMajor::V13, Fault::Unavailable);
}

#[test]
fn postgresql_17_stops_when_the_store_hangs_under_the_agent() {
    stops_and_finishes(PgMajor::V17, Fault::HangBefore);
}

#[test]
fn a_damaged_segment_stops_recovery_with_the_same_words() {
    let history = history(PgMajor::V17, 10);
    let names: Vec<_> = history.s3.requests().into_iter().filter(|r| r.method == Method::PUT).collect();
    let path = &names.iter().filter(|request| request.path.contains("/wal/")).nth_back(3).unwrap().path;
    let file = history.s3.object_file(path.trim_start_matches("/bucket/"));
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    fs::write(&file, &damaged).unwrap();

    let mut said = Vec::new();
    for agent in ["off", "auto"] {
        let (mut restored, data) = history.restore(&format!("restored-{agent}"), &[]);
        if agent == "off" {
            restored = {
                drop(restored);
                let mut builder = PgServer::builder(PgMajor::V17);
                for (name, value) in &history.walden.environment {
                    builder = builder.env(name, value);
                }
                builder.env("WALDEN_AGENT", "off").adopt(&data).unwrap()
            };
        }
        restored.spawn().unwrap();
        assert!(!restored.wait_exit().unwrap().success());
        let log = restored.log_since_start();
        assert!(data.join("recovery.signal").try_exists().unwrap(), "{log}");
        let line =
            log.lines().find(|line| line.contains("walden wal get")).unwrap_or_else(|| panic!("{log}"));
        said.push(line.to_owned());
    }
    assert_eq!(said[0], said[1]);
    fs::write(&file, &whole).unwrap();
    let (mut restored, _) = history.restore("healed", &[]);
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&restored), history.rows());
}

#[test]
fn a_recovery_over_a_timeline_switch_takes_the_right_segments() {
    let mut history = history(PgMajor::V17, 6);
    let fork = history.marks[3].clone();
    let (mut branch, data) =
        history.restore("branch", &["--target-time", &fork.time, "--target-action", "promote"]);
    branch.start().unwrap();
    branch.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&branch), fork.rows);
    history.walden.json_at(&branch, &["server", "adopt", "--pgdata", data.to_str().unwrap()]);
    // The old timeline has segments of the same numbers, and goes on.
    history.go_on(4);
    let mut rows = fork.rows;
    for _ in 0..6 {
        branch.insert_rows(300).unwrap();
        rows = commit_rows(&branch, 1)[0].rows;
        branch.switch_wal().unwrap();
    }
    branch.archive_current_segment().unwrap();
    let (mut restored, data) = history.restore("restored", &[]);
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&restored), rows);
    let prefetch = history.prefetch(&data).unwrap();
    assert!(prefetch["hits"].as_u64().unwrap() + prefetch["waited"].as_u64().unwrap() > 0, "{prefetch}");
    // And the old one, to its end.
    let (mut old, _) = history.restore("old", &["--target-timeline", "1"]);
    old.start().unwrap();
    old.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&old), history.rows());
}

#[test]
fn a_standby_follows_through_the_archive_at_two_requests_a_poll() {
    let mut history = history(PgMajor::V17, 6);
    let data = history.server.scratch_dir("standby").unwrap();
    history.walden.json(&["restore", "--pgdata", data.to_str().unwrap()]);
    fs::remove_file(data.join("recovery.signal")).unwrap();
    fs::write(data.join("standby.signal"), b"").unwrap();
    let mut builder = PgServer::builder(PgMajor::V17).setting("wal_retrieve_retry_interval", "200ms");
    for (name, value) in &history.walden.environment {
        builder = builder.env(name, value);
    }
    let mut standby = builder.adopt(&data).unwrap();
    standby.start().unwrap();
    for _ in 0..2 {
        let rows = history.rows();
        until("the standby to follow", || count_rows(&standby) >= rows);
        assert_eq!(count_rows(&standby), rows);
        history.go_on(6);
    }
    let rows = history.rows();
    until("the standby to follow", || count_rows(&standby) >= rows);
    // It polls now, and nothing comes. The primary is silent.
    history.server.stop(StopMode::Immediate).unwrap();
    let calls = |history: &History| history.prefetch(&data).unwrap()["calls"].as_u64().unwrap();
    let begun = calls(&history);
    drop(history.s3.take_requests());
    until("a few polls", || calls(&history) >= begun + 12);
    let requests = history.s3.take_requests().len() as u64;
    let polls = calls(&history) - begun;
    println!("{requests} requests in {polls} calls");
    assert!(requests <= 2 * polls + 2, "{requests} requests for {polls} calls");

    // With the store down it goes on polling and does not promote; then it is promoted and has all.
    history.s3.inject(FaultRule::next(Fault::Unavailable, Method::GET, 20));
    standby.wait_for_log("walden wal get").unwrap();
    assert!(standby.in_recovery().unwrap());
    history.s3.clear_faults();
    history.walden.json_at(&standby, &["server", "adopt", "--pgdata", data.to_str().unwrap()]);
    standby.execute("SELECT pg_promote()").unwrap();
    standby.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&standby), rows);
    let output = run(&mut history.walden.command(&["window"]));
    assert!(output.status.success(), "{}", describe(&output));
}
