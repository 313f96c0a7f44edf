//! Whose archive it is, on real servers: strangers, clones and restored copies stay out until they are let in.

use std::fs;
use std::path::Path;

use walden_pg::{PgMajor, WalSegmentSize};
use walden_testkit::postgres::{PgServer, StopMode};

use crate::support::{Repository, Walden, commit_rows, count_rows, describe, run};

/// The exit codes of docs/cli.md that matter here.
const CONFLICT: i32 = 12;
const WRONG_SERVER: i32 = 13;
const INVALID: i32 = 17;

/// Every file below a directory with its bytes, to see that nothing changed.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The WAL objects of a repository, which no refused push may touch.
fn archived(repository: &Repository) -> Vec<(String, Vec<u8>)> {
    let mut objects = contents(repository.directory.as_ref().unwrap());
    objects.retain(|(path, _)| path.contains("/wal/") || path.contains("/history/"));
    objects
}

/// The newest complete segment in a server's pg_wal.
fn a_segment(server: &PgServer) -> String {
    let segment = server.switch_wal().unwrap();
    server.data_dir().join("pg_wal").join(segment.to_string()).display().to_string()
}

#[test]
fn another_system_under_the_same_name_is_refused() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let owner = walden.server(PgMajor::V16).start().unwrap();
    walden.init(&owner);
    commit_rows(&owner, 1);
    owner.archive_current_segment().unwrap();
    let before = archived(&repository);

    let stranger = walden.server(PgMajor::V16).start().unwrap();
    commit_rows(&stranger, 1);
    stranger.switch_wal().unwrap();
    stranger.wait_for_log("another system's archive").unwrap();
    assert!(stranger.log_since_start().contains("walden server adopt"), "{}", stranger.log_since_start());
    let failed: i64 = stranger.value("SELECT failed_count FROM pg_stat_archiver").unwrap();
    assert!(failed > 0, "the archiver counts it: its exit code is small enough");
    let error = walden.fails(WRONG_SERVER, &["init", "--pgdata", stranger.data_dir().to_str().unwrap()]);
    assert_eq!(error["kind"], "wrong_server");
    assert_eq!(archived(&repository), before);

    walden.json_at(&stranger, &["server", "adopt", "--pgdata", stranger.data_dir().to_str().unwrap()]);
    stranger.archive_current_segment().unwrap();
    // The first owner's incarnation is still known, and its WAL untouched.
    commit_rows(&owner, 1);
    owner.archive_current_segment().unwrap();
    let after = archived(&repository);
    assert!(before.iter().all(|object| after.contains(object)));
}

#[test]
fn a_clone_that_archives_meets_a_conflict_and_overwrites_nothing() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let mut original = walden.server(PgMajor::V15).start().unwrap();
    walden.init(&original);
    commit_rows(&original, 2);
    original.stop(StopMode::Fast).unwrap();
    let copy = original.scratch_dir("clone").unwrap();
    let copied =
        run(std::process::Command::new("cp").arg("-a").arg(original.data_dir().join(".")).arg(&copy));
    assert!(copied.status.success(), "{}", describe(&copied));

    original.start().unwrap();
    commit_rows(&original, 3);
    original.archive_current_segment().unwrap();
    let before = archived(&repository);
    let mut clone = walden.restored(PgMajor::V15, &copy);
    clone.start().unwrap();
    commit_rows(&clone, 5);
    let segment = a_segment(&clone);
    clone.wait_for_log("another file is stored under the name").unwrap();
    let output = run(&mut walden.command_at(&clone, &["wal", "push", &segment]));
    assert_eq!(output.status.code(), Some(CONFLICT), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("written_by=").count(), 2, "both writers are named: {said}");
    assert_eq!(archived(&repository), before);
}

#[test]
fn a_restored_server_archives_only_after_it_was_adopted() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let server = walden.server(PgMajor::V17).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 2);
    walden.json_at(&server, &["backup", "create"]);
    let rows = commit_rows(&server, 2).last().unwrap().rows;
    server.archive_current_segment().unwrap();
    let before = archived(&repository);

    let data = server.scratch_dir("restored").unwrap();
    let path = data.to_str().unwrap();
    walden.json(&["restore", "--pgdata", path]);
    let mut restored = walden.restored(PgMajor::V17, &data);
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&restored), rows);
    commit_rows(&restored, 1);
    restored.wait_for_log("was restored from the archive of this very server").unwrap();
    assert_eq!(archived(&repository), before, "nothing of the copy reached its source");

    walden.json_at(&restored, &["server", "adopt", "--pgdata", path]);
    restored.archive_current_segment().unwrap();
    let after = archived(&repository);
    assert!(after.iter().any(|(path, _)| path.ends_with("/history/00000002.history.zst")));
    assert!(after.iter().any(|(path, _)| path.contains("/wal/00000002/")));
    assert!(before.iter().all(|object| after.contains(object)));

    // The new timeline can be restored through: from the old backup, over the fork.
    let rows = commit_rows(&restored, 1).last().unwrap().rows;
    restored.archive_current_segment().unwrap();
    let again = server.scratch_dir("again").unwrap();
    let plan = walden.json(&["plan"]);
    assert_eq!(plan["target_timeline"], 2);
    assert_eq!(plan["timeline_path"].as_array().unwrap().len(), 2, "{plan}");
    walden.json(&["restore", "--pgdata", again.to_str().unwrap()]);
    let mut second = walden.restored(PgMajor::V17, &again);
    second.start().unwrap();
    second.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&second), rows);
}

#[test]
fn two_promotions_to_one_timeline_conflict() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let server = walden.server(PgMajor::V16).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 2);
    walden.json_at(&server, &["backup", "create"]);
    let first_mark = commit_rows(&server, 1).remove(0);
    let second_mark = commit_rows(&server, 1).remove(0);
    commit_rows(&server, 1);
    server.archive_current_segment().unwrap();

    let promote = |name: &str, time: &str| {
        let data = server.scratch_dir(name).unwrap();
        let path = data.to_str().unwrap();
        walden.json(&["restore", "--pgdata", path, "--target-time", time, "--target-action", "promote"]);
        let mut restored = walden.restored(PgMajor::V16, &data);
        restored.start().unwrap();
        restored.wait_until_promoted().unwrap();
        walden.json_at(&restored, &["server", "adopt", "--pgdata", path]);
        restored
    };
    // Both are restored before either archives, so both choose timeline 2.
    let one = promote("one", &first_mark.time);
    let two = {
        let data = server.scratch_dir("two").unwrap();
        let path = data.to_str().unwrap();
        walden.json(&[
            "restore",
            "--pgdata",
            path,
            "--target-time",
            &second_mark.time,
            "--target-timeline",
            "1",
        ]);
        (walden.restored(PgMajor::V16, &data), data)
    };
    one.archive_current_segment().unwrap();
    let (mut two, data) = two;
    fs::write(data.join("pg_wal/00000002.history"), "1\t0/1\tanother server\n").unwrap();
    let path = data.join("pg_wal/00000002.history");
    walden.json(&["server", "adopt", "--pgdata", data.to_str().unwrap()]);
    let output = run(&mut walden.command(&["wal", "push", path.to_str().unwrap()]));
    assert_eq!(output.status.code(), Some(CONFLICT), "{}", describe(&output));
    fs::remove_file(&path).unwrap();
    // Started against this archive it sees timeline 2 and goes on to 3.
    two.start().unwrap();
    two.wait_until_paused().unwrap();
    two.execute("SELECT pg_wal_replay_resume()").unwrap();
    two.wait_until_promoted().unwrap();
    assert_eq!(two.timeline().unwrap().get(), 3);
}

/// Archive, back up and restore with segments of this size.
fn segments_of(major: PgMajor, mebibytes: u64) {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let size = WalSegmentSize::new(mebibytes << 20).unwrap();
    let server = walden.server(major).wal_segment_size(size).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 1);
    walden.json_at(&server, &["backup", "create"]);
    server.generate_wal(3 << 20).unwrap();
    let mark = commit_rows(&server, 2).remove(0);
    server.archive_current_segment().unwrap();
    let data = server.scratch_dir("restored").unwrap();
    walden.json(&["restore", "--pgdata", data.to_str().unwrap(), "--target-time", &mark.time]);
    let mut restored = walden.restored(major, &data);
    restored.start().unwrap();
    restored.wait_until_paused().unwrap();
    assert_eq!(count_rows(&restored), mark.rows);
}

#[test]
fn small_segments() {
    segments_of(PgMajor::V13, 1);
}

#[test]
fn large_segments() {
    segments_of(PgMajor::V18, 64);
}

#[test]
fn torn_and_renamed_segments_are_refused() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let server = walden.server(PgMajor::V14).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 1);
    let segment = a_segment(&server);
    server.wait_for_archived(segment.rsplit('/').next().unwrap().parse().unwrap()).unwrap();
    let before = archived(&repository);
    let bytes = fs::read(&segment).unwrap();
    let scratch = server.scratch_dir("files").unwrap();
    for (name, bytes) in [
        ("0000000100000000000000AA", bytes.as_slice()),
        ("0000000100000000000000AB", &bytes[..bytes.len() / 2]),
        ("0000000100000000000000AC", b""),
        ("0000000100000000000000AD", &vec![0; bytes.len()]),
    ] {
        let path = scratch.join(name);
        fs::write(&path, bytes).unwrap();
        let output = run(&mut walden.command_at(&server, &["wal", "push", path.to_str().unwrap()]));
        assert_eq!(output.status.code(), Some(INVALID), "{name}: {}", describe(&output));
    }
    assert_eq!(archived(&repository), before);
}
