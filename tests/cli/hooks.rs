//! How `wal push` and `wal get` end: PostgreSQL acts on the exit code.

use std::path::Path;
use std::process::Command;

use crate::support::{Bench, NEXT_SEGMENT, Run, SEGMENT};

/// What a failing `wal get` is run with: each must be kept apart from "not in the archive".
const FAILURES: &[(&str, &[&str], i32)] = &[
    (
        "missing repository",
        &["--repo", "file:///nowhere/at/all", "wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"],
        11,
    ),
    ("other server", &["--server", "other", "wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"], 11),
    ("bad name", &["wal", "get", "x.history", "pg_wal/RECOVERYXLOG"], 17),
    ("bad URL", &["--repo", "nonsense", "wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"], 10),
    ("unknown option", &["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG", "--rep", "x"], 2),
    ("missing argument", &["wal", "get", SEGMENT], 2),
    ("verb misspelt", &["wal", "gett", SEGMENT, "pg_wal/RECOVERYXLOG"], 2),
    (
        "no such configuration",
        &["--config", "/nowhere.toml", "wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"],
        10,
    ),
];

fn signal(bench: &Bench, name: &str) {
    std::fs::write(bench.pgdata().join(name), b"").unwrap();
}

#[test]
fn in_archive_recovery_every_failure_stops_the_server() {
    let bench = Bench::with_segment();
    signal(&bench, "recovery.signal");
    for (what, arguments, code) in FAILURES {
        let run = bench.run(arguments);
        assert_eq!(run.code, 200 + code, "{what}: {}", run.stderr);
    }
}

#[test]
fn without_signal_files_the_destination_tells_that_it_is_recovery() {
    let bench = Bench::with_segment();
    for (what, arguments, code) in FAILURES.iter().filter(|(_, arguments, _)| arguments.len() != 3) {
        let run = bench.run(arguments);
        assert_eq!(run.code, 200 + code, "{what}: {}", run.stderr);
    }
}

#[test]
fn on_a_standby_failures_keep_their_codes() {
    let bench = Bench::with_segment();
    signal(&bench, "standby.signal");
    signal(&bench, "recovery.signal");
    for (what, arguments, code) in FAILURES {
        let run = bench.run(arguments);
        assert_eq!(run.code, *code, "{what}: {}", run.stderr);
    }
}

#[test]
fn outside_of_recovery_failures_keep_their_codes() {
    let bench = Bench::with_segment();
    let destination = bench.pgdata().join("pg_wal").join(NEXT_SEGMENT);
    let run = bench.run(&["--server", "other", "wal", "get", NEXT_SEGMENT, destination.to_str().unwrap()]);
    assert_eq!(run.code, 11, "{}", run.stderr);
}

#[test]
fn absence_is_1_everywhere_and_says_nothing() {
    for files in [&[][..], &["recovery.signal"], &["standby.signal"]] {
        let bench = Bench::with_segment();
        for name in files {
            signal(&bench, name);
        }
        for name in [NEXT_SEGMENT, "00000002.history"] {
            let run = bench.run(&["wal", "get", name, "pg_wal/RECOVERYXLOG"]);
            assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (1, "", ""), "{name}");
        }
        assert!(!bench.pgdata().join("pg_wal/RECOVERYXLOG").exists());
    }
}

#[test]
fn a_file_that_is_there_is_fetched_and_nothing_is_said() {
    let bench = Bench::with_segment();
    signal(&bench, "recovery.signal");
    let run = bench.run(&["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
    let fetched = std::fs::read(bench.pgdata().join("pg_wal/RECOVERYXLOG")).unwrap();
    assert_eq!(fetched, std::fs::read(bench.segment()).unwrap());
}

#[test]
fn a_damaged_object_stops_recovery_and_leaves_no_file() {
    let bench = Bench::with_segment();
    signal(&bench, "recovery.signal");
    let object = find(&bench.repository(), SEGMENT);
    let mut bytes = std::fs::read(&object).unwrap();
    // Not in the index at its end, which a fetch does not read.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let run = bench.run(&["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"]);
    assert_eq!(run.code, 214, "{}", run.stderr);
    assert!(!bench.pgdata().join("pg_wal/RECOVERYXLOG").exists());
}

fn find(directory: &Path, name: &str) -> std::path::PathBuf {
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.file_name().unwrap().to_str().unwrap().starts_with(name) {
                return path;
            }
        }
    }
    panic!("{name} is not there");
}

#[test]
fn a_push_never_ends_above_125() {
    let bench = Bench::with_repository();
    signal(&bench, "recovery.signal");
    let path = bench.segment();
    let path = path.to_str().unwrap();
    for (what, arguments, code) in [
        ("missing repository", &["--repo", "file:///nowhere/at/all", "wal", "push", path][..], 11),
        ("bad URL", &["--repo", "nonsense", "wal", "push", path], 10),
        ("unknown option", &["wal", "push", path, "--rep"], 2),
        ("missing argument", &["wal", "push"], 2),
        ("missing file", &["wal", "push", "pg_wal/0000000100000000000000FF"], 18),
        ("not an archived file", &["wal", "push", "pg_wal/x"], 17),
        ("other server", &["--server", "other", "wal", "push", path], 11),
    ] {
        let run = bench.run(arguments);
        assert_eq!(run.code, code, "{what}: {}", run.stderr);
    }
}

#[test]
fn a_conflict_overwrites_nothing_and_names_both() {
    let bench = Bench::with_segment();
    let mut other = std::fs::read(bench.segment()).unwrap();
    other[9000] ^= 1;
    std::fs::write(bench.segment(), other).unwrap();
    let before = std::fs::read(find(&bench.repository(), SEGMENT)).unwrap();
    let run = bench.run(&["wal", "push", bench.segment().to_str().unwrap()]);
    assert_eq!(run.code, 12, "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert_eq!(std::fs::read(find(&bench.repository(), SEGMENT)).unwrap(), before);
}

#[test]
fn the_server_log_gets_one_line_that_says_it_all() {
    let bench = Bench::with_repository();
    signal(&bench, "recovery.signal");
    let lines = |run: Run| {
        assert_eq!(run.stdout, "");
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        run.stderr
    };
    let path = format!("pg_wal/{SEGMENT}");
    let said: Vec<String> = [
        &["--server", "other", "wal", "push", &path][..],
        &["--server", "other", "wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"],
        &["wal", "push"],
        &["wal", "get", SEGMENT],
        &["--config", "/nowhere.toml", "wal", "push", &path],
    ]
    .iter()
    .map(|arguments| lines(bench.run(arguments)))
    .collect();
    insta::assert_snapshot!("server_log", said.concat());
}

#[test]
fn nobody_reading_is_no_failure() {
    let bench = Bench::with_segment();
    for arguments in
        [&["wal", "list"][..], &["config", "show"], &["--help"], &["completions", "bash"], &["man"]]
    {
        // The reader is gone before anything is written.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command: Command = bench.command(arguments);
        command.stdout(writer);
        let run = bench.finish(command);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}");
    }
}
