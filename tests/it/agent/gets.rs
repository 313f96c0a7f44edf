//! Fetching ahead, seen from the hooks: each file once and right, whatever is done to the spool, and nothing for those who
//! are no recovery.

use std::fs::{self, File};
use std::process::Output;

use http::Method;
use walden_testkit::stores::{Fault, FaultRule};

use super::bench::{Bench, segment, segment_name, until};
use crate::support::{describe, run};

const ABSENT: i32 = 1;
const FATAL: i32 = 200;
const CORRUPT: i32 = 14;
const UNAVAILABLE: i32 = 15;

/// A data directory in archive recovery, whose archive has segments of these numbers.
fn bench(numbers: std::ops::Range<u64>) -> Bench {
    let mut bench = Bench::s3();
    bench.walden.set("WALDEN_WAL_GET_DEADLINE", "5s");
    for number in numbers {
        let name = bench.write(number, number);
        bench.must(&["wal", "push", &format!("pg_wal/{name}")]);
        fs::remove_file(bench.wal(&name)).unwrap();
    }
    fs::write(bench.data().join("recovery.signal"), b"").unwrap();
    drop(bench.store().take_requests());
    bench
}

impl Bench {
    /// What recovery calls.
    fn get(&self, number: u64) -> Output {
        run(&mut self.command(&["-v", "wal", "get", &segment_name(number), "pg_wal/RECOVERYXLOG"]))
    }

    /// It must give the right file, which recovery then takes away.
    fn fetch(&self, number: u64) -> Output {
        let output = self.get(number);
        assert!(output.status.success(), "{number}: {}", describe(&output));
        let file = self.wal("RECOVERYXLOG");
        assert!(fs::read(&file).unwrap() == segment(number, number), "{number} is another file");
        fs::remove_file(file).unwrap();
        output
    }

    /// Fetches some in order, until others are ready.
    fn fetch_until_ready(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.fetch(number);
        }
        self.until_status("files to be ready", |status| {
            let prefetch = &status["prefetch"];
            prefetch["files"].as_u64() >= Some(2) && prefetch["in_flight"] == 0
        });
    }
}

fn was_ready(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("the agent had it ready")
}

#[test]
fn segments_in_order_cost_a_request_each_and_are_mostly_ready() {
    let bench = bench(12..42);
    let ready = (12..42).filter(|number| was_ready(&bench.fetch(*number))).count();
    assert!(ready > 15, "{ready}");
    let requests = bench.store().take_requests();
    for number in 12..42 {
        let of_it = requests.iter().filter(|request| request.path.contains(&segment_name(number)));
        assert_eq!(of_it.count(), 1, "{number}");
    }
    // The end: it is absent, and the proof of that costs what it does without an agent.
    drop(bench.store().take_requests());
    for _ in 0..5 {
        let output = bench.get(42);
        assert_eq!(output.status.code(), Some(ABSENT), "{}", describe(&output));
    }
    let requests = bench.store().take_requests();
    assert!(requests.len() <= 10, "{requests:#?}");
    assert!(!bench.wal("RECOVERYXLOG").try_exists().unwrap());
}

#[test]
fn what_was_done_to_a_file_in_the_spool_never_reaches_recovery() {
    let bench = bench(12..28);
    let _agent = bench.start();
    bench.fetch_until_ready(12..16);
    let spool = bench.processes.spool().join("prefetch");
    let mut treated = 0;
    for entry in fs::read_dir(&spool).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[600_000] ^= 1;
        match treated % 3 {
            0 => fs::write(&path, &bytes).unwrap(),
            1 => {
                let other = spool.join("other");
                fs::write(&other, &bytes).unwrap();
                fs::rename(&other, &path).unwrap();
            }
            _ => fs::write(&path, &bytes[..1000]).unwrap(),
        }
        File::options().write(true).open(&path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
        treated += 1;
    }
    assert!(treated >= 2, "{treated}");
    for number in 16..22 {
        bench.fetch(number);
    }
    // Gone altogether, directory and all.
    fs::remove_dir_all(&spool).unwrap();
    for number in 22..28 {
        bench.fetch(number);
    }
}

#[test]
fn an_agent_killed_between_two_gets_loses_nothing() {
    let bench = bench(12..40);
    for number in 12..40 {
        bench.fetch(number);
        if number % 4 == 0 {
            bench.processes.kill_agents();
            // The next hook may start one at once.
            for spool in bench.processes.spools() {
                let _ = fs::remove_file(spool.join("lock"));
            }
        }
    }
}

#[test]
fn a_damaged_object_is_told_as_without_an_agent() {
    let bench = bench(12..20);
    let _agent = bench.start();
    let bad = segment_name(15);
    let objects = bench.objects();
    let path = objects.iter().find(|path| path.to_str().unwrap().contains(&bad)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    for number in 12..15 {
        bench.fetch(number);
    }
    for _ in 0..3 {
        let through = bench.get(15);
        let direct =
            run(bench.command(&["wal", "get", &bad, "pg_wal/RECOVERYXLOG"]).env("WALDEN_AGENT", "off"));
        assert_eq!(through.status.code(), Some(FATAL + CORRUPT), "{}", describe(&through));
        assert_eq!(direct.status.code(), Some(FATAL + CORRUPT), "{}", describe(&direct));
        assert!(!bench.wal("RECOVERYXLOG").try_exists().unwrap());
    }
    // Behind it all is well.
    bench.fetch(16);
}

#[test]
fn a_store_that_is_down_is_no_absence() {
    let bench = bench(12..20);
    let _agent = bench.start();
    bench.fetch_until_ready(12..16);
    for fault in [Fault::Unavailable, Fault::HangBefore, Fault::ResetBefore] {
        bench.store().clear_faults();
        bench.store().inject(FaultRule::next(fault, Method::GET, u32::MAX));
        // There, and beyond the end.
        for number in [60, 61] {
            let output = bench.get(number);
            assert_eq!(output.status.code(), Some(FATAL + UNAVAILABLE), "{fault:?}: {}", describe(&output));
        }
    }
    bench.store().clear_faults();
    for number in 16..20 {
        bench.fetch(number);
    }
    until("the end to be proven", || bench.get(20).status.code() == Some(ABSENT));
}

#[test]
fn only_recovery_gets_what_was_fetched_ahead() {
    let bench = bench(12..24);
    let _agent = bench.start();
    bench.fetch_until_ready(12..16);
    let calls = bench.status().unwrap()["prefetch"]["calls"].clone();
    drop(bench.store().take_requests());
    // pg_rewind asks backwards, under the files' own names.
    for number in (16..21).rev() {
        let name = segment_name(number);
        let output = run(&mut bench.command(&["wal", "get", &name, &format!("pg_wal/{name}")]));
        assert!(output.status.success(), "{}", describe(&output));
        assert!(fs::read(bench.wal(&name)).unwrap() == segment(number, number), "{number}");
        fs::remove_file(bench.wal(&name)).unwrap();
        let requests = bench.store().take_requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
    }
    assert_eq!(bench.status().unwrap()["prefetch"]["calls"], calls);
}
