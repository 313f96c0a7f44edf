//! No false ack: what a hook is told to be archived is in the archive, byte for byte, whatever was done to the file
//! after the agent had archived it ahead; and nothing is archived that PostgreSQL does not want archived here.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use walden_testkit::fault::SplitMix64;

use super::bench::{Bench, segment, until};
use crate::support::{describe, run};

const CONFLICT: i32 = 12;
const WRONG_SERVER: i32 = 13;
const INVALID: i32 = 17;

/// Segments that the agent has archived ahead: no hook has asked for any of them.
fn archived_ahead(bench: &Bench, numbers: std::ops::Range<u64>) -> Vec<String> {
    let first = bench.finish(numbers.start - 1);
    let names = bench.finish_all(numbers);
    bench.archive(&first);
    bench.until_acks(names.len() as u64);
    names
}

/// Gives a file the date that it had.
fn set_back(file: &File, to: std::time::SystemTime) {
    file.set_modified(to).unwrap();
}

#[test]
fn a_file_that_changed_after_it_was_archived_ahead_is_a_conflict() {
    let bench = Bench::local();
    let _agent = bench.start();
    let names = archived_ahead(&bench, 12..18);
    let [in_place, one_bit, replaced, truncated, grown, same] = names.as_slice() else { panic!("{names:?}") };
    let modified = |name: &str| fs::metadata(bench.wal(name)).unwrap().modified().unwrap();

    // Written to in place: all of it, and one bit of it; the date is set back.
    let before = modified(in_place);
    bench.write(12, 99);
    set_back(&File::options().write(true).open(bench.wal(in_place)).unwrap(), before);
    let before = modified(one_bit);
    let mut bytes = segment(13, 13);
    bytes[500_000] ^= 1;
    fs::write(bench.wal(one_bit), bytes).unwrap();
    set_back(&File::options().write(true).open(bench.wal(one_bit)).unwrap(), before);
    // Another file under the name, of the same length and date.
    let (other, before) = (bench.wal("other"), modified(replaced));
    fs::write(&other, segment(14, 99)).unwrap();
    set_back(&File::options().write(true).open(&other).unwrap(), before);
    fs::rename(&other, bench.wal(replaced)).unwrap();
    // Shorter and longer, each with the old date.
    for (name, bytes) in [(truncated, 700_000), (grown, 1_100_000)] {
        let before = modified(name);
        let file = File::options().write(true).open(bench.wal(name)).unwrap();
        file.set_len(bytes).unwrap();
        set_back(&file, before);
    }
    for (name, code) in [
        (in_place, CONFLICT),
        (one_bit, CONFLICT),
        (replaced, CONFLICT),
        (truncated, INVALID),
        (grown, INVALID),
    ] {
        let output = bench.push(name);
        assert_eq!(output.status.code(), Some(code), "{name}: {}", describe(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(name.as_str()), "{said}");
    }
    // Nothing of it has got into the archive, and what was not touched is done without any work.
    for (name, number) in names.iter().zip(12..) {
        assert!(bench.stored(name).unwrap() == segment(number, number), "{name}");
    }
    // The bytes of before in the file that was written to: that is an ack, or a push that finds the same.
    bench.write(12, 12);
    assert!(bench.push(in_place).status.success());
    let output = bench.archive(same);
    assert!(String::from_utf8_lossy(&output.stderr).contains("archived"), "{}", describe(&output));
}

#[test]
fn an_untouched_file_that_was_archived_ahead_costs_no_request() {
    let bench = Bench::s3();
    let _agent = bench.start();
    let names = archived_ahead(&bench, 12..16);
    for name in &names {
        drop(bench.store().take_requests());
        let output = bench.push(name);
        assert!(output.status.success(), "{}", describe(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("by the agent, before it was asked for"), "{said}");
        assert_eq!(bench.store().take_requests(), []);
        bench.assert_stored(name);
        bench.mark_done(name);
    }
}

/// The file is exchanged at any moment of the agent's reading it: before, between two reads, between read and stamp,
/// after the ack. Whenever the hook then answers 0, the archive has what the file held from before the hook's start.
#[test]
fn a_file_exchanged_while_it_is_archived_is_never_acknowledged_with_other_bytes() {
    let seed = 0x5EED;
    let mut random = SplitMix64(seed);
    let bench = Bench::local();
    let _agent = bench.start();
    let (mut refused, mut done, mut caught) = (0, 0, 0);
    // From now on the agent archives whatever becomes ready.
    let first = bench.finish(99);
    bench.archive(&first);
    for number in 100..140 {
        let name = bench.finish(number);
        let path = bench.wal(&name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // At once, before the agent can have read it, or at any moment of its work or after that.
        let pause = if number % 3 == 0 { 0 } else { random.draw() % 100_000 };
        std::thread::sleep(Duration::from_micros(pause));
        if random.draw().is_multiple_of(2) {
            bench.write(number, 1);
            set_back(&File::options().write(true).open(&path).unwrap(), modified);
        } else {
            let other = bench.wal("other");
            fs::write(&other, segment(number, 1)).unwrap();
            set_back(&File::options().write(true).open(&other).unwrap(), modified);
            fs::rename(&other, &path).unwrap();
        }
        let mut output = bench.push(&name);
        if output.status.code() == Some(INVALID) {
            // It was being read, and the change was seen: the archiver tries again.
            caught += 1;
            output = bench.push(&name);
        }
        match output.status.code() {
            Some(0) => {
                done += 1;
                bench.assert_stored(&name);
            }
            Some(CONFLICT) => {
                refused += 1;
                assert!(bench.stored(&name).unwrap() == segment(number, number), "{name}");
            }
            _ => panic!("seed {seed}: {}", describe(&output)),
        }
        bench.mark_done(&name);
    }
    println!(
        "seed {seed}: exchanged early enough {done} times, while it was read {caught}, too late {refused}"
    );
    assert!(refused > 0 && done > 0, "no file was exchanged after, or before, it was read");
}

#[test]
fn nothing_is_archived_ahead_while_no_hook_calls() {
    let bench = Bench::local();
    let names = bench.finish_all(12..16);
    let mut agent = bench.start();
    bench.until_status("the files to be seen", |status| status["push"]["ready_files"] == 4);
    // archive_command may be off. Two looks at the directory pass without anything being begun.
    std::thread::sleep(Duration::from_secs(2));
    let later = bench.finish(16);
    let push = &bench.until_status("the new file", |status| status["push"]["ready_files"] == 5)["push"];
    assert_eq!(
        (&push["archived_files"], &push["in_flight"], &push["ahead"]),
        (&0.into(), &0.into(), &false.into())
    );
    assert_eq!(bench.names_stored(), Vec::<String>::new());
    bench.archive(&names[0]);
    bench.until_acks(4);
    // Told to end, it ends, and what it had done stays done.
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.wait(), Some(0));
    bench.archive(&later);
    assert_eq!(bench.names_stored().len(), 5);
}

#[test]
fn nothing_is_archived_a_minute_after_the_last_hook() {
    // It takes that minute.
    if std::env::var_os("WALDEN_CAMPAIGN").is_none() {
        return;
    }
    let bench = Bench::local();
    let _agent = bench.start();
    let first = bench.finish(12);
    bench.archive(&first);
    bench.until_status("the end of working ahead", |status| status["push"]["ahead"] == false);
    bench.finish_all(13..16);
    bench.until_status("the files to be seen", |status| status["push"]["ready_files"] == 3);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(bench.names_stored(), [first]);
}

#[test]
fn a_restored_copy_is_never_archived_by_an_agent() {
    let bench = Bench::local();
    let _agent = bench.start();
    let names = archived_ahead(&bench, 12..14);
    let repository = bench.json(&["server", "show"]);
    let (server, repository) = (&repository["server"], &repository["repository"]["repository_id"]);
    let marker = serde_json::json!({
        "schema": 1, "repository_id": repository, "server": server["server"], "incarnation": server["current"],
        "backup": "20260101T000000Z-0123", "restored_at": "2026-01-01T00:00:00Z",
    });
    fs::write(bench.data().join("walden.restored.json"), marker.to_string()).unwrap();
    let later = bench.finish_all(14..18);
    for name in [&later[0], &later[1], &names[0]] {
        let through = bench.push(name);
        let direct = run(bench.hook(name).env("WALDEN_AGENT", "off"));
        assert_eq!(through.status.code(), Some(WRONG_SERVER), "{}", describe(&through));
        assert_eq!(direct.status.code(), Some(WRONG_SERVER), "{}", describe(&direct));
    }
    bench.until_status("nothing in flight", |status| status["push"]["in_flight"] == 0);
    assert_eq!(bench.names_stored().len(), 3, "what was archived before the marker came");
}

/// The data directory is replaced in place by one of another system, whose segments have the same names.
#[test]
fn another_system_in_the_same_place_is_refused_as_without_an_agent() {
    let bench = Bench::local();
    let _agent = bench.start();
    let names = archived_ahead(&bench, 12..14);
    let inode = fs::metadata(bench.data()).unwrap().ino();
    let mut control = include_bytes!("../../../crates/pg/fixtures/pg17/pg_control").to_vec();
    control.resize(8192, 0);
    fs::write(bench.data().join("global/pg_control"), &control).unwrap();
    fs::write(bench.data().join("PG_VERSION"), "17\n").unwrap();
    let page = include_bytes!("../../../crates/pg/fixtures/pg17/000000010000000000000002.page");
    let mut foreign = page.to_vec();
    foreign[8..16].copy_from_slice(&(12_u64 << 20).to_le_bytes());
    foreign.resize(1 << 20, 0);
    fs::write(bench.wal(&names[0]), &foreign).unwrap();
    assert_eq!(fs::metadata(bench.data()).unwrap().ino(), inode, "the agent stays");
    let through = bench.push(&names[0]);
    let direct = run(bench.hook(&names[0]).env("WALDEN_AGENT", "off"));
    assert!(!direct.status.success(), "{}", describe(&direct));
    assert_eq!(through.status.code(), direct.status.code(), "{}{}", describe(&through), describe(&direct));

    // A segment of the old system in the new one's directory, which the agent has an ack of.
    let through = bench.push(&names[1]);
    let direct = run(bench.hook(&names[1]).env("WALDEN_AGENT", "off"));
    assert_eq!(through.status.code(), direct.status.code(), "{}{}", describe(&through), describe(&direct));
    until("nothing in flight", || bench.status().is_none_or(|status| status["push"]["in_flight"] == 0));
    fs::write(bench.data().join("global/pg_control"), {
        let mut control = include_bytes!("../../../crates/pg/fixtures/pg18/pg_control").to_vec();
        control.resize(8192, 0);
        control
    })
    .unwrap();
    fs::write(bench.data().join("PG_VERSION"), "18\n").unwrap();
    assert!(bench.stored(&names[0]).unwrap() == segment(12, 12));
    bench.assert_stored(&names[1]);
}
