//! What WAL tells of rows of `pg_class`, against `pg_class` of real servers.

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells its counts"
)]

use std::collections::BTreeMap;
use std::fs;

use walden_pg::wal::decode::ClassRow;
use walden_pg::wal::{BlockImage, ImageCompression, Record, Stop, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, PgMajor, RelFileNumber, SegmentName, WalSegmentSize};
use walden_testkit::postgres::{PgServer, PgSession, Result};

/// The statements of each step. Behind a checkpoint, the first change of each page has an image of it.
const STEPS: &[&str] = &[
    "CREATE TABLE orders (id serial PRIMARY KEY, body text); CREATE VIEW seen AS SELECT 1 AS i;
     CREATE TABLE parts (i int PRIMARY KEY) PARTITION BY RANGE (i); CREATE TYPE pair AS (a int, b int);
     CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100); CREATE SCHEMA elsewhere;
     CREATE TABLE elsewhere.placed TABLESPACE space AS SELECT 1 AS i; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS i",
    "CHECKPOINT",
    "ALTER TABLE orders RENAME TO renamed_behind_an_image; CREATE TABLE \"Ünï\" (i int)",
    "ALTER TABLE renamed_behind_an_image RENAME TO renamed_again",
    "ALTER TABLE renamed_again RENAME TO x; ALTER TABLE elsewhere.placed SET SCHEMA public",
    "BEGIN; CREATE TABLE undone (i int); ROLLBACK; INSERT INTO x (body) SELECT 'b' FROM generate_series(1, 10);
     TRUNCATE x; ALTER TABLE x ALTER id TYPE bigint",
    "CHECKPOINT",
    "VACUUM FULL x",
    "DROP TABLE placed; CREATE TABLE placed (i int)",
    "VACUUM FULL pg_class",
    "CREATE TABLE behind_the_move (i int PRIMARY KEY); ALTER TABLE behind_the_move RENAME TO found",
    "DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE many%s (i int)', i); END LOOP; END $$",
    "CHECKPOINT",
    "DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('ALTER TABLE many%s RENAME TO other%s', i, i * 7); END LOOP; END $$",
];

/// How much of what was there to be seen was seen.
#[derive(Debug, Default)]
struct Counts {
    rows: usize,
    whole: usize,
    from_images: usize,
    unreadable: usize,
}

/// The rows of `pg_class` that the WAL from `start` on tells, by place; a later one takes the place of an
/// earlier one.
fn told(
    server: &PgServer,
    start: Lsn,
    class_file: RelFileNumber,
    counts: &mut Counts,
) -> BTreeMap<(u32, u16), ClassRow> {
    let size = WalSegmentSize::MIN;
    let mut names: Vec<SegmentName> = fs::read_dir(server.data_dir().join("pg_wal"))
        .expect("read pg_wal")
        .filter_map(|entry| entry.expect("read pg_wal").file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    let mut rows = BTreeMap::new();
    let mut take = |record: &Record<'_>| {
        if record.lsn < start {
            return;
        }
        let image = |image: &BlockImage| (image.compression, record.restore_image(image).is_some());
        for row in record.class_rows(class_file) {
            counts.rows += 1;
            counts.whole += usize::from(row.oid.is_some() && row.kind.is_some());
            let block = record.block(0).expect("the row's block");
            if let (Some((compression, readable)), true) =
                (block.image.as_ref().map(image), record.block_data(block).is_empty())
            {
                assert_eq!(readable, compression != Some(ImageCompression::Zstd));
                counts.from_images += 1;
                counts.unreadable += usize::from(!readable);
                assert_eq!(row.kind.is_some(), readable, "{row:?}");
            }
            rows.insert((row.block, row.offset), row);
        }
    };
    let mut scanner = WalScanner::new(WalScannerOptions::new(size));
    for name in names {
        let bytes = fs::read(server.data_dir().join("pg_wal").join(name.to_string())).expect("a segment");
        let outcome = scanner.scan_segment(name, &bytes, &mut take).expect("a name of this size");
        if !matches!(outcome.stop, Stop::SegmentEnd | Stop::SwitchTail { .. }) {
            break;
        }
    }
    rows
}

/// What the server says: by place, the OID, name, schema, file number, tablespace and kind.
type Stored = BTreeMap<(u32, u16), [String; 6]>;

fn stored(session: &PgSession) -> Result<Stored> {
    let rows = session.query(
        "SELECT ctid, oid, relname, relnamespace, relfilenode, reltablespace, relkind FROM pg_class WHERE oid >= 16384",
    )?;
    let stored = rows.into_iter().map(|row| {
        let mut fields = row.into_iter().map(Option::unwrap_or_default);
        let place = fields.next().expect("a place");
        let (block, offset) = place.trim_matches(['(', ')']).split_once(',').expect("a place");
        let place = (block.parse().expect("a block"), offset.parse().expect("an offset"));
        (place, fields.collect::<Vec<_>>().try_into().expect("six columns"))
    });
    Ok(stored.collect())
}

fn agrees(row: &ClassRow, stored: &[String; 6]) -> bool {
    let fields = [
        row.oid.map(|oid| oid.to_string()),
        row.name.as_ref().map(|name| String::from_utf8_lossy(name).into_owned()),
        row.namespace.map(|oid| oid.to_string()),
        row.file_number.map(|number| number.to_string()),
        row.tablespace.map(|oid| oid.to_string()),
        row.kind.map(|kind| char::from(kind).to_string()),
    ];
    fields.iter().zip(stored).all(|(told, stored)| told.as_ref().is_none_or(|told| told == stored))
}

fn check(major: PgMajor, compression: &str) -> Result<()> {
    let server = PgServer::builder(major)
        .wal_segment_size(WalSegmentSize::MIN)
        .setting("autovacuum", "off")
        .setting("wal_keep_size", "1GB")
        .setting("max_wal_size", "1GB")
        .start()?;
    let session = server.session()?;
    if let Err(error) = session.execute(&format!("SET wal_compression = {compression}")) {
        eprintln!("SKIPPED {major} with wal_compression={compression}: {error}");
        return Ok(());
    }
    let space = server.scratch_dir("tablespace")?;
    session.execute(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()))?;
    let mut counts = Counts::default();
    let mut before = Stored::new();
    for step in STEPS {
        let start: Lsn = session.value("SELECT pg_current_wal_insert_lsn()")?;
        session.execute(step)?;
        let class_file: u32 = session.value("SELECT pg_relation_filenode('pg_class')")?;
        session.execute("SELECT pg_switch_wal()")?;
        let told = told(&server, start, RelFileNumber::new(class_file), &mut counts);
        let stored = stored(&session)?;
        for (place, row) in &stored {
            match told.get(place) {
                Some(told) => assert!(agrees(told, row), "{major} {compression} {step}: {told:?} {row:?}"),
                None => {
                    let moved = step.contains("FULL pg_class");
                    assert!(moved || before.get(place) == Some(row), "{major} {compression} {step}: {row:?}");
                }
            }
        }
        before = stored;
    }
    eprintln!("{major} {compression}: {counts:?}");
    assert!(counts.whole > 300 && counts.from_images >= 3, "{counts:?}");
    assert!(
        counts.whole + counts.unreadable < counts.rows,
        "updates leave out what did not change: {counts:?}"
    );
    Ok(())
}

#[test]
fn before_15_images_are_plain_or_pglz() -> Result<()> {
    check(PgMajor::V13, "off")?;
    check(PgMajor::V13, "on")?;
    check(PgMajor::V14, "on")
}

#[test]
fn from_15_on_there_are_more() -> Result<()> {
    // Of the servers that tests usually start, none was built with LZ4 or Zstandard; a distribution's are.
    check(PgMajor::V15, "pglz")?;
    check(PgMajor::V15, "lz4")?;
    check(PgMajor::V15, "zstd")?;
    check(PgMajor::V16, "lz4")?;
    check(PgMajor::V17, "pglz")
}

#[test]
fn in_18_the_kind_is_elsewhere() -> Result<()> {
    check(PgMajor::V18, "off")?;
    check(PgMajor::V18, "pglz")?;
    check(PgMajor::V18, "lz4")
}
