//! `walden wal find` on the archives of real servers.

use serde_json::Value;
use walden_pg::{PgMajor, WalSegmentSize};
use walden_testkit::postgres::PgServer;

use crate::support::{Repository, Walden, describe, run};

struct Archive {
    walden: Walden,
    server: PgServer,
    /// Moments between which each step was done.
    before: String,
    after: String,
    dropped_xid: u64,
    _repository: Repository,
}

const BEFORE_BACKUP: &[&str] = &[
    "CREATE TABLE orders (id int PRIMARY KEY, body text)",
    "INSERT INTO orders SELECT g, md5(g::text) FROM generate_series(1, 500) g",
    "CREATE TABLE items (id int PRIMARY KEY, body text)",
    "INSERT INTO items SELECT g, 'b' FROM generate_series(1, 21000) g",
    "CREATE TABLE in_savepoint (id int)",
    "CREATE TABLE in_block (id int)",
    "CREATE TABLE kept (id int)",
    "INSERT INTO kept VALUES (1)",
    "CREATE TABLE log (id int, body text)",
    "INSERT INTO log SELECT g, repeat('x', 3000) FROM generate_series(1, 50) g",
    // Its files have another number than the table.
    "TRUNCATE log",
    "INSERT INTO log SELECT g, repeat('x', 3000) FROM generate_series(1, 50) g",
    "CREATE TABLE parts (id int) PARTITION BY RANGE (id)",
    "CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100)",
    "CREATE SCHEMA audit",
    "CREATE TABLE audit.one (id int)",
    "CREATE TABLE audit.two (id int)",
    "CREATE DATABASE doomed",
];

const AFTER_BACKUP: &[&str] = &[
    "CREATE TABLE later (id int PRIMARY KEY)",
    "ALTER TABLE items RENAME TO goods",
    "BEGIN; DROP TABLE kept; ROLLBACK",
    "BEGIN; SAVEPOINT s; DROP TABLE kept; ROLLBACK TO s; INSERT INTO kept VALUES (2); COMMIT",
    "BEGIN; SAVEPOINT s; DROP TABLE in_savepoint; RELEASE s; COMMIT",
    "DO $$ BEGIN BEGIN DROP TABLE in_block; EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
    "DROP TABLE parts",
    "DROP SCHEMA audit CASCADE",
    "TRUNCATE log",
    "VACUUM FULL goods",
    "UPDATE goods SET body = 'c' WHERE id <= 10000",
    "DELETE FROM goods WHERE id <= 12000",
    "BEGIN; DELETE FROM goods; ROLLBACK",
    "DELETE FROM goods WHERE id <= 12100",
    "DROP TABLE later",
    "CREATE TEMP TABLE scratch (id int); DROP TABLE scratch",
    "DROP DATABASE doomed",
    "SELECT pg_create_restore_point('before the end')",
];

fn execute(server: &PgServer, statements: &[&str]) {
    let session = server.session().unwrap();
    for text in statements {
        let parts = if text.contains("$$") { vec![*text] } else { text.split(';').collect() };
        for statement in parts {
            session.execute(statement).unwrap();
        }
    }
}

fn moment(server: &PgServer) -> String {
    server
        .value("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        .unwrap()
}

fn archive(major: PgMajor) -> Archive {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let server = walden
        .server(major)
        .wal_segment_size(WalSegmentSize::MIN)
        .setting("autovacuum", "off")
        .start()
        .unwrap();
    walden.init(&server);
    execute(&server, BEFORE_BACKUP);
    walden.json_at(&server, &["backup", "create"]);
    let before = moment(&server);
    execute(&server, AFTER_BACKUP);
    let session = server.session().unwrap();
    session.execute("BEGIN").unwrap();
    let dropped_xid = session.value("SELECT txid_current()").unwrap();
    session.execute("DROP TABLE orders").unwrap();
    session.execute("COMMIT").unwrap();
    let after = moment(&server);
    session.execute("INSERT INTO kept VALUES (3)").unwrap();
    server.archive_current_segment().unwrap();
    Archive { walden, server, before, after, dropped_xid, _repository: repository }
}

impl Archive {
    fn find(&self, arguments: &[&str]) -> Vec<Value> {
        let found = self.walden.json(&[&["wal", "find"], arguments].concat());
        found.as_array().unwrap().clone()
    }

    /// What was found, in short.
    fn told(&self, arguments: &[&str]) -> Vec<String> {
        self.find(arguments).iter().map(short).collect()
    }
}

fn short(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    let rows = event["rows"].as_u64().map(|rows| format!(" {rows}")).unwrap_or_default();
    let table = match event["schema"].as_str() {
        Some(schema) => format!("{schema}.{}", text("table")),
        None => text("table"),
    };
    format!("{} {} {table}{rows}", text("op"), text("database"))
}

fn check(major: PgMajor) {
    let archive = archive(major);
    let between = ["--between", &archive.before, &archive.after];
    let mut all = archive.told(&between);
    all.sort();
    let mut expected = vec![
        "drop postgres public.in_block",
        "drop postgres public.in_savepoint",
        "drop postgres public.parts",
        "drop postgres public.parts1",
        "drop postgres audit.one",
        "drop postgres audit.two",
        "drop postgres public.later",
        "drop postgres public.orders",
        "truncate postgres public.log",
        "rewrite postgres public.goods",
        "mass-update postgres public.goods 10000",
        "mass-delete postgres public.goods 12000",
        "database-drop doomed -",
        "restore-point - -",
    ];
    expected.sort_unstable();
    assert_eq!(all, expected, "{major}");

    let drops = archive.find(&["--table", "orders", "--op", "drop"]);
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert_eq!(drops[0]["xid"].as_u64(), Some(archive.dropped_xid));
    assert!(drops[0]["names_from"].as_str().unwrap().starts_with("backup "), "{drops:?}");
    let time = drops[0]["time"].as_str().unwrap();
    assert!(archive.before.as_str() < time && time < archive.after.as_str(), "{time}");
    assert_eq!(archive.told(&["--table", "audit.*", "--op", "truncate"]), [""; 0]);
    assert_eq!(archive.told(&["--table", "audit.*"]).len(), 2);
    let later = archive.find(&["--table", "later"]);
    assert_eq!((later.len(), later[0]["names_from"].as_str()), (1, Some("wal")));
    assert!(archive.told(&["--table", "kept"]).is_empty());
    assert_eq!(archive.find(&["--restore-point", "before the end"]).len(), 1);
    assert!(archive.find(&["--restore-point", "another"]).is_empty());
    commits(&archive);
    let plan = drops[0]["plan"].as_str().unwrap();
    comes_back(&archive, plan);
}

/// Single commits, which only the records tell.
fn commits(archive: &Archive) {
    let xid = archive.dropped_xid.to_string();
    let of_xid = archive.told(&["--xid", &xid]);
    assert_eq!(of_xid, ["drop postgres public.orders", "commit - -"]);
    let around = archive.find(&["--around", &archive.after]);
    let xids: Vec<u64> = around.iter().filter_map(|event| event["xid"].as_u64()).collect();
    assert!(around.iter().all(|event| event["op"] == "commit"), "{around:?}");
    let place = xids.iter().position(|xid| *xid == archive.dropped_xid).unwrap();
    assert_eq!((place, xids.len()), (9, 11), "{around:?}");
    let first = &around[place + 1];
    assert!(first["time"].as_str().unwrap() > archive.after.as_str(), "{first}");
}

/// The plan that is told with a drop leads to just before it.
fn comes_back(archive: &Archive, plan: &str) {
    let words: Vec<&str> = plan.split_whitespace().skip(1).collect();
    let output = run(&mut archive.walden.command(&words));
    assert!(output.status.success(), "{}", describe(&output));
    let target = &words[1..];
    let data = archive.server.scratch_dir("restored").unwrap();
    // At a pause the transaction that drops the table is under way, and holds its lock.
    let promoted = ["restore", "--target-action", "promote", "--pgdata", data.to_str().unwrap()];
    archive.walden.json(&[&promoted, target].concat());
    let mut restored = archive.walden.restored(archive.server.major(), &data);
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(restored.value::<i64>("SELECT count(*) FROM orders").unwrap(), 500);
    assert_eq!(restored.value::<i64>("SELECT count(*) FROM goods").unwrap(), 8900);
    assert_eq!(restored.value::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'later'").unwrap(), 0);
}

macro_rules! on_majors {
    ($($name:ident $major:ident)*) => { $(
        #[test]
        fn $name() {
            check(PgMajor::$major);
        }
    )* };
}

on_majors! {
    find_on_13 V13
    find_on_14 V14
    find_on_15 V15
    find_on_17 V17
    find_on_18 V18
}
