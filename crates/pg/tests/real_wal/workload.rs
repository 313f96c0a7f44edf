//! A server, and what it does to write WAL of every kind.

use std::fs;
use std::path::{Path, PathBuf};

use walden_pg::wal::{Stop, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, PgMajor, SegmentId, SegmentName, TimelineId, WalSegmentSize};
use walden_testkit::postgres::{PgServer, PgSession, Result, StopMode};

use crate::scanned::Scan;

/// A server that has stopped writing, and the segments that it archived.
pub(crate) struct Archive {
    pub(crate) server: PgServer,
    pub(crate) size: WalSegmentSize,
    pub(crate) dir: PathBuf,
    /// The segments on the path to the last timeline, in order.
    pub(crate) segments: Vec<SegmentName>,
    /// The segment that the server was writing, as it was between two positions that the server told.
    live: (SegmentName, Vec<u8>),
    live_end: std::ops::RangeInclusive<Lsn>,
}

/// Statements of one session each; a failing one fails the test.
const STATEMENTS: &[&str] = &[
    "CREATE TABLE t (id serial PRIMARY KEY, n int, payload text)",
    "INSERT INTO t (n, payload) SELECT g, repeat(md5(g::text), g % 9) FROM generate_series(1, 6000) g",
    "UPDATE t SET n = n + 1 WHERE id % 3 = 0",
    "DELETE FROM t WHERE id % 7 = 0",
    "COPY t (n) FROM PROGRAM 'seq 1 4000'",
    "CREATE TABLE big (id int, body text); ALTER TABLE big ALTER body SET STORAGE EXTERNAL",
    "INSERT INTO big SELECT g, repeat('x', 30000 + g) FROM generate_series(1, 40) g",
    "CREATE INDEX ON t USING hash (n); CREATE INDEX ON t USING brin (n); CREATE INDEX ON t (payload)",
    "CREATE TABLE docs AS SELECT g AS id, to_tsvector('simple', md5(g::text) || ' word') AS words,
        point(g, g % 50) AS place, md5(g::text) AS key FROM generate_series(1, 2000) g",
    "CREATE INDEX ON docs USING gin (words); CREATE INDEX ON docs USING gist (place);
     CREATE INDEX ON docs USING spgist (place)",
    "INSERT INTO docs SELECT g, to_tsvector('simple', md5(g::text)), point(g, 1), 'k' FROM generate_series(1, 500) g",
    "CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 100)",
    "CHECKPOINT",
    "UPDATE t SET payload = payload || 'y' WHERE id < 900",
    "BEGIN; INSERT INTO t (n) VALUES (1); SAVEPOINT a; INSERT INTO t (n) VALUES (2); ROLLBACK TO a;
     INSERT INTO t (n) VALUES (3); SAVEPOINT b; DELETE FROM t WHERE n = 3; RELEASE b; COMMIT",
    "DO $$ BEGIN FOR i IN 1..90 LOOP BEGIN INSERT INTO t (n) VALUES (i);
        IF i % 10 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    "BEGIN; DELETE FROM t WHERE id < 500; ROLLBACK",
    "BEGIN; INSERT INTO t (n) SELECT g FROM generate_series(1, 50) g; SAVEPOINT p; CREATE TABLE made (i int);
     PREPARE TRANSACTION 'kept by the test'",
    "BEGIN; UPDATE t SET n = 0 WHERE id = 1; PREPARE TRANSACTION 'given up'",
    "COMMIT PREPARED 'kept by the test'",
    "ROLLBACK PREPARED 'given up'",
    "SELECT pg_create_restore_point('before the drop')",
    "CREATE TABLE doomed (i int PRIMARY KEY, body text); INSERT INTO doomed SELECT g, 'b' FROM generate_series(1, 100) g",
    "BEGIN; DROP TABLE doomed; ROLLBACK",
    "BEGIN; SAVEPOINT d; DROP TABLE doomed; RELEASE d; COMMIT",
    "TRUNCATE big",
    "VACUUM t",
    "VACUUM FULL docs",
    "VACUUM FULL pg_class",
    "ALTER TABLE t ALTER n TYPE bigint",
    "CREATE SCHEMA many; CREATE TABLE many.a (i int); CREATE TABLE many.b (i int) ; CREATE VIEW many.v AS SELECT 1",
    "DROP SCHEMA many CASCADE",
    "CREATE TABLE parts (i int) PARTITION BY RANGE (i); CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
     CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (100) TO (200)",
    "INSERT INTO parts SELECT g FROM generate_series(0, 99) g; UPDATE parts SET i = 150 WHERE i < 5",
    "CREATE UNLOGGED TABLE quick (i int PRIMARY KEY); INSERT INTO quick VALUES (1)",
    "CREATE TABLE uniq (k int PRIMARY KEY, v int); INSERT INTO uniq VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET v = 2;
     INSERT INTO uniq VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET v = 2",
    "CREATE DATABASE other",
    "ALTER DATABASE other SET work_mem = '5MB'",
    "DROP DATABASE other",
    "SELECT pg_switch_wal()",
    "SELECT pg_logical_emit_message(true, 'walden', 'a message')",
    "SELECT pg_logical_emit_message(false, 'walden', repeat('M', 2500000))",
    "SELECT pg_create_restore_point('before the drop')",
];

impl Archive {
    pub(crate) fn make(major: PgMajor, size: WalSegmentSize, wal_level: &str) -> Result<Self> {
        let compression = if major.number().is_multiple_of(2) { "on" } else { "off" };
        let mut server = PgServer::builder(major)
            .wal_segment_size(size)
            .setting("wal_level", wal_level)
            .setting("wal_compression", compression)
            .setting("max_prepared_transactions", "10")
            .setting("track_commit_timestamp", "on")
            .setting("wal_keep_size", "2GB")
            .setting("max_wal_size", "4GB")
            .setting("archive_mode", "on")
            .setting("archive_command", "/bin/true")
            .init()?;
        let dir = server.scratch_dir("archive")?;
        // After a crash a segment can be archived once more.
        let command = format!(
            "if test -e {0}/%f; then cmp %p {0}/%f; else cp %p {0}/.%f && mv {0}/.%f {0}/%f; fi",
            dir.display()
        );
        append_setting(&server, "archive_command", &command);
        server.start()?;
        write(&server)?;
        change_parameters(&mut server)?;
        online_backup(&server)?;
        cut_off_a_record(&mut server, size)?;
        fork(&mut server)?;
        server.execute("CREATE TABLE afterwards AS SELECT 1 AS i")?;
        server.archive_current_segment()?;
        server.execute("CREATE TABLE last AS SELECT g FROM generate_series(1, 3000) g; CHECKPOINT")?;
        server.archive_current_segment()?;
        server.execute("CREATE TABLE unarchived AS SELECT 1 AS i")?;
        let written: Lsn = server.value("SELECT pg_current_wal_flush_lsn()")?;
        let timeline = server.timeline()?;
        let live = SegmentId::new(timeline, size.last_segment_before(written)).name(size);
        let bytes =
            fs::read(server.data_dir().join("pg_wal").join(live.to_string())).expect("read a segment");
        let inserted: Lsn = server.value("SELECT pg_current_wal_insert_lsn()")?;
        let segments = path_segments(&dir, timeline, size);
        Ok(Self { server, size, dir, segments, live: (live, bytes), live_end: written..=inserted })
    }

    /// What the server was told to do must be what the scanner found.
    pub(crate) fn check(&self, scan: &Scan) {
        let points: Vec<_> = scan.facts("restore point ").collect();
        let twice = "restore point before the drop";
        assert_eq!(points, [twice, twice, "restore point in between"]);
        assert!(scan.facts("parameters 77 ").next().is_some());
        assert_eq!(scan.facts("backup end ").count(), 1);
        assert_eq!(scan.facts("overwritten ").count(), 1);
        assert_eq!(scan.facts("prepare gid=kept by the test ").count(), 1);
        assert_eq!(scan.facts("commit prepared=").count(), 1);
        assert_eq!(scan.facts("abort prepared=").count(), 1);
        assert!(scan.facts("checkpoint ").any(|text| text.contains(" tli=2 prev=1 ")));
        let stops: Vec<&Stop> = scan.outcomes.iter().map(|outcome| &outcome.stop).collect();
        assert!(stops.iter().any(|stop| matches!(stop, Stop::SegmentEnd)), "{stops:?}");
        assert!(stops.iter().any(|stop| matches!(stop, Stop::SwitchTail { .. })), "{stops:?}");
        let cut_off: usize = scan.outcomes.iter().map(|outcome| outcome.overwritten.len()).sum();
        assert_eq!(cut_off, 1);
        self.check_live();
    }

    /// The segment that the server was writing ends where the server said.
    fn check_live(&self) {
        let mut scanner = WalScanner::new(WalScannerOptions::new(self.size));
        let outcome = scanner.scan_segment(self.live.0, &self.live.1, |_| {}).expect("a name of this size");
        assert!(matches!(outcome.stop, Stop::ZeroTail { .. } | Stop::RecycledTail { .. }), "{outcome:?}");
        let end = outcome.end.expect("records");
        assert!(self.live_end.contains(&end), "{end} in {:?}", self.live_end);
    }
}

fn append_setting(server: &PgServer, name: &str, value: &str) {
    let file = server.data_dir().join("postgresql.conf");
    let mut text = fs::read_to_string(&file).expect("read the configuration");
    text.extend([name, " = '", value, "'\n"]);
    fs::write(&file, text).expect("write the configuration");
}

fn write(server: &PgServer) -> Result<()> {
    let session = server.session()?;
    for statement in STATEMENTS {
        session.execute(statement)?;
    }
    shared_row_locks(&session, &server.session()?)?;
    // Concurrent commits, so that records of several transactions are mixed.
    server.pgbench_init(1)?;
    server.pgbench(4, 2)?;
    Ok(())
}

fn shared_row_locks(one: &PgSession, two: &PgSession) -> Result<()> {
    one.execute("BEGIN; SELECT id FROM t WHERE id < 30 FOR KEY SHARE")?;
    two.execute("BEGIN; SELECT id FROM t WHERE id < 30 FOR KEY SHARE; COMMIT")?;
    one.execute("COMMIT")
}

fn change_parameters(server: &mut PgServer) -> Result<()> {
    server.execute("ALTER SYSTEM SET max_connections = 77")?;
    server.restart()
}

fn online_backup(server: &PgServer) -> Result<()> {
    let session = server.session()?;
    if server.major() >= PgMajor::V15 {
        session.execute("SELECT pg_backup_start('test', true); SELECT pg_backup_stop(false)")
    } else {
        session.execute("SELECT pg_start_backup('test', true, false); SELECT pg_stop_backup(false, false)")
    }
}

/// Makes the server lose the end of a record in a crash: it begins in one segment, and the segments
/// after that one are lost.
fn cut_off_a_record(server: &mut PgServer, size: WalSegmentSize) -> Result<()> {
    server.execute("SELECT pg_create_restore_point('in between'); CHECKPOINT")?;
    let start: Lsn = server.value("SELECT pg_current_wal_insert_lsn()")?;
    let bytes = size.bytes() + size.bytes() / 4;
    server.execute(&format!("SELECT pg_logical_emit_message(false, 'walden', repeat('A', {bytes}))"))?;
    // Its commit brings the message to the disk.
    server.execute("CREATE TABLE lost (i int)")?;
    server.stop(StopMode::Immediate)?;
    let wal = server.data_dir().join("pg_wal");
    for entry in fs::read_dir(&wal).expect("read pg_wal") {
        let name = entry.expect("read pg_wal").file_name();
        let Some(name) = name.to_str().and_then(|name| name.parse::<SegmentName>().ok()) else { continue };
        if name.id(size).expect("a name of this size").number > size.segment_of(start) {
            fs::remove_file(wal.join(name.to_string())).expect("remove a segment");
        }
    }
    server.start()?;
    server.execute("CREATE TABLE went_on AS SELECT 1 AS i")
}

/// Recovers to the end of the WAL, which makes a new timeline.
fn fork(server: &mut PgServer) -> Result<()> {
    server.stop(StopMode::Fast)?;
    append_setting(server, "restore_command", "/bin/false");
    fs::write(server.data_dir().join("recovery.signal"), "").expect("write recovery.signal");
    server.start()?;
    server.wait_until_promoted()
}

/// The segments from the first one to the last, each of the newest timeline that has it.
fn path_segments(dir: &Path, newest: TimelineId, size: WalSegmentSize) -> Vec<SegmentName> {
    let mut found = std::collections::BTreeMap::new();
    for entry in fs::read_dir(dir).expect("read the archive") {
        let name = entry.expect("read the archive").file_name();
        let Some(name) = name.to_str().and_then(|name| name.parse::<SegmentName>().ok()) else { continue };
        assert!(name.timeline() <= newest);
        let number = name.id(size).expect("a name of this size").number;
        found.entry(number).and_modify(|old: &mut SegmentName| *old = name.max(*old)).or_insert(name);
    }
    found.into_values().collect()
}
