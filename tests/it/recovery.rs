//! The main job, on real servers: archive, back up under load, restore to every kind of target, count the rows.

use std::path::PathBuf;

use serde_json::Value;
use walden_pg::PgMajor;

use crate::support::{Mark, Repository, Walden, commit_rows, count_rows};

/// An archive with a backup and marks on both sides of it.
struct History {
    walden: Walden,
    server: walden_testkit::postgres::PgServer,
    /// Rows at the backup.
    before: i64,
    marks: Vec<Mark>,
    backup: Value,
}

/// A server that archives: rows, a backup while clients write, rows, a restore point in the middle, more rows.
fn history(major: PgMajor, repository: &Repository) -> History {
    let walden = Walden::new(repository, "main");
    let server = walden.server(major).start().unwrap();
    walden.init(&server);
    let before = commit_rows(&server, 3).last().unwrap().rows;
    let load = server.start_load(2).unwrap();
    let report = walden.json_at(&server, &["backup", "create"]);
    let written = load.stop();
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    let mut marks = commit_rows(&server, 5);
    server.create_restore_point("half way").unwrap();
    marks.extend(commit_rows(&server, 5));
    server.archive_current_segment().unwrap();
    History { walden, server, before, marks, backup: report }
}

impl History {
    /// Restores to a target, starts the server, and returns it once the target is reached.
    fn restore(&self, target: &[&str], action: &str) -> walden_testkit::postgres::PgServer {
        let data = self.server.scratch_dir(&format!(
            "restored-{}",
            target.concat().replace(|c: char| !c.is_ascii_alphanumeric(), "")
        ));
        let data: PathBuf = data.unwrap();
        let path = data.to_str().unwrap();
        let arguments = [&["restore", "--pgdata", path, "--target-action", action], target].concat();
        self.walden.json(&arguments);
        let mut restored = self.walden.restored(self.server.major(), &data);
        restored.start().unwrap();
        match action {
            "pause" => restored.wait_until_paused().unwrap(),
            _ => restored.wait_until_promoted().unwrap(),
        }
        restored
    }

    fn rows_at(&self, target: &[&str]) -> i64 {
        count_rows(&self.restore(target, "pause"))
    }
}

/// Every target on the local directory.
fn every_target(major: PgMajor) {
    let repository = Repository::local();
    let history = history(major, &repository);
    let middle = &history.marks[4];
    let (xid, lsn) = (middle.xid.to_string(), middle.lsn.to_string());
    assert_eq!(history.rows_at(&["--target-time", &middle.time]), middle.rows, "time");
    assert_eq!(history.rows_at(&["--target-xid", &xid]), middle.rows, "xid");
    assert_eq!(
        history.rows_at(&["--target-xid", &xid, "--target-exclusive"]),
        middle.rows - 1,
        "xid, exclusive"
    );
    assert_eq!(history.rows_at(&["--target-lsn", &lsn, "--target-exclusive"]), middle.rows, "lsn, exclusive");
    assert_eq!(history.rows_at(&["--target-name", "half way"]), middle.rows, "name");
    let consistent = history.rows_at(&["--target-immediate"]);
    assert_eq!(consistent, history.before, "immediate");
    let last = history.marks.last().unwrap().rows;
    assert_eq!(count_rows(&history.restore(&[], "promote")), last, "latest");
}

/// One target, for the stores.
fn one_target(major: PgMajor, repository: &Repository) {
    let history = history(major, repository);
    let middle = &history.marks[4];
    let plan = history.walden.json(&["plan", "--target-time", &middle.time]);
    assert_eq!(plan["backup"]["id"], listed(&history)["id"]);
    assert_eq!(plan["segments"]["missing"], Value::Array(Vec::new()));
    assert!(plan["segments"]["count"].as_u64().unwrap() >= 2, "{plan}");
    assert_eq!(history.rows_at(&["--target-time", &middle.time]), middle.rows);
}

/// The one backup in the list.
fn listed(history: &History) -> Value {
    let list = history.walden.json(&["backup", "list"]);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1, "{list:?} {:?}", history.backup);
    for key in [
        "id",
        "kind",
        "timeline",
        "start_lsn",
        "stop_lsn",
        "started_at",
        "finished_at",
        "bytes",
        "stored_bytes",
    ] {
        assert!(!list[0][key].is_null(), "{key}: {list:?}");
    }
    list[0].clone()
}

macro_rules! on_every_major {
    ($($name:ident $stores:ident $major:ident)*) => { $(
        #[test]
        fn $name() {
            every_target(PgMajor::$major);
        }

        #[test]
        fn $stores() {
            one_target(PgMajor::$major, &crate::stores::s3());
        }
    )* };
}

on_every_major! {
    postgresql_13_to_every_target postgresql_13_on_s3 V13
    postgresql_14_to_every_target postgresql_14_on_s3 V14
    postgresql_15_to_every_target postgresql_15_on_s3 V15
    postgresql_16_to_every_target postgresql_16_on_s3 V16
    postgresql_17_to_every_target postgresql_17_on_s3 V17
    postgresql_18_to_every_target postgresql_18_on_s3 V18
}

#[test]
fn on_azure() {
    one_target(PgMajor::V17, &crate::stores::azure());
}

#[test]
fn on_google_cloud_storage() {
    one_target(PgMajor::V17, &crate::stores::gcs());
}
