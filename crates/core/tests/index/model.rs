//! The indexes of segments against a plain model: all records in one list, each put where it ends.

use std::collections::{BTreeMap, BTreeSet};

use walden_core::index::{
    CommitMark, EventKind, RelationFork, RelationOperation, SegmentIndex, TimeRange, WalFacts, XidRange,
    resolve_border,
};
use walden_pg::wal::decode::RowChange;
use walden_pg::wal::{Payload, Record, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, PgMajor, RelFileLocator, SegmentNumber, Xid};
use walden_testkit::postgres::{PgServer, Result};

use crate::archive::{self, SIZE, Segment};

#[derive(Default)]
struct Model {
    facts: BTreeMap<SegmentNumber, WalFacts>,
    blocks: BTreeMap<SegmentNumber, BTreeMap<RelationFork, BTreeSet<u32>>>,
    restore_points: BTreeMap<SegmentNumber, Vec<String>>,
    /// Where each begins that goes over a border, by the segment in which it ends.
    crossing: BTreeMap<SegmentNumber, Lsn>,
    /// Rows deleted and updated by committed transactions, by commit record.
    mass: BTreeMap<(Lsn, RelFileLocator), (u64, u64)>,
}

/// Rows deleted and updated by transactions and subtransactions that have not ended.
type Rows = BTreeMap<(Xid, RelFileLocator), (u64, u64)>;

const MASS: u64 = 100;

impl Model {
    fn of(segments: &[Segment]) -> Self {
        let mut model = Self::default();
        let mut rows = Rows::new();
        let mut scanner = WalScanner::new(WalScannerOptions::new(SIZE));
        for (name, bytes) in segments {
            let outcome = scanner
                .scan_segment(*name, bytes, |record| {
                    let at = SIZE.last_segment_before(record.end);
                    model.facts.entry(at).or_default();
                    if SIZE.segment_of(record.lsn) != at {
                        model.crossing.insert(at, record.lsn);
                    }
                    let blocks = model.blocks.entry(at).or_default();
                    for block in record.blocks() {
                        let fork = RelationFork { relation: block.locator, fork: block.fork };
                        blocks.entry(fork).or_default().insert(block.block);
                    }
                    model.note(at, record, &mut rows);
                })
                .expect("a name of this size");
            assert!(!outcome.is_damaged(), "{outcome:?}");
        }
        model.mass.retain(|_, (deleted, updated)| *deleted >= MASS || *updated >= MASS);
        model
    }

    /// Notes what a record says, which ends in segment `at`.
    fn note(&mut self, at: SegmentNumber, record: &Record<'_>, rows: &mut Rows) {
        let facts = self.facts.entry(at).or_default();
        match record.payload().expect("a payload") {
            Payload::Commit(end) => {
                facts.commits += 1;
                let mark = CommitMark { lsn: record.lsn, xid: end.xid, time: end.time };
                facts.first_commit = facts.first_commit.or(Some(mark));
                facts.last_commit = Some(mark);
                let one = WalFacts {
                    commit_times: Some(TimeRange::of(end.time)),
                    end_times: Some(TimeRange::of(end.time)),
                    xids: Some(XidRange::of(end.xid)),
                    ..WalFacts::default()
                };
                facts.append(&one);
                for xid in end.subxacts.iter().chain([end.xid]) {
                    let own: Vec<_> = rows
                        .range((xid, RelFileLocator::default())..)
                        .take_while(|(key, _)| key.0 == xid)
                        .map(|(key, rows)| (*key, *rows))
                        .collect();
                    for ((xid, relation), (deleted, updated)) in own {
                        let sum = self.mass.entry((record.lsn, relation)).or_default();
                        sum.0 += deleted;
                        sum.1 += updated;
                        rows.remove(&(xid, relation));
                    }
                }
            }
            Payload::Abort(end) => {
                facts.aborts += 1;
                let one = WalFacts {
                    end_times: Some(TimeRange::of(end.time)),
                    xids: Some(XidRange::of(end.xid)),
                    ..WalFacts::default()
                };
                facts.append(&one);
                let gone: BTreeSet<Xid> = end.subxacts.iter().chain([end.xid]).collect();
                rows.retain(|(xid, _), _| !gone.contains(xid));
            }
            Payload::RestorePoint(point) => {
                let name = String::from_utf8_lossy(point.name).into_owned();
                self.restore_points.entry(at).or_default().push(name);
            }
            Payload::HeapChange(change) => {
                let counts = rows.entry((record.header.xid, change.table)).or_default();
                match change.change {
                    RowChange::Delete => counts.0 += 1,
                    RowChange::Update | RowChange::MoveAway => counts.1 += 1,
                    RowChange::Insert | RowChange::UndoInsert => {}
                }
            }
            _ => {}
        }
    }

    fn check(&self, indexes: &[SegmentIndex], touched: bool) {
        for index in indexes {
            let at = index.segment.id(SIZE).expect("a name of this size").number;
            let facts = index.summary.facts;
            let mut expected = self.facts.get(&at).copied().unwrap_or_default();
            expected.flags = facts.flags;
            expected.maxima = facts.maxima;
            assert_eq!(facts, expected, "{}", index.segment);
            let points: Vec<String> = index
                .events
                .iter()
                .filter_map(|event| match &event.kind {
                    EventKind::RestorePoint { name, .. } => Some(name.clone()),
                    _ => None,
                })
                .collect();
            assert_eq!(points, self.restore_points.get(&at).cloned().unwrap_or_default());
            assert!(index.events.is_sorted_by_key(|event| event.lsn), "{:?}", index.events);
            if touched {
                let blocks: BTreeMap<RelationFork, BTreeSet<u32>> = index
                    .blocks
                    .forks
                    .iter()
                    .filter(|(_, touched)| !touched.blocks.is_empty())
                    .map(|(fork, touched)| (*fork, touched.blocks.iter().collect()))
                    .collect();
                assert_eq!(blocks, self.blocks.get(&at).cloned().unwrap_or_default(), "{}", index.segment);
            }
        }
    }

    fn check_mass_changes(&self, indexes: &[SegmentIndex]) {
        let mut found = BTreeMap::<(Lsn, RelFileLocator), (u64, u64)>::new();
        for event in indexes.iter().flat_map(|index| &index.events) {
            let EventKind::Transaction(transaction) = &event.kind else { continue };
            for change in &transaction.changes {
                let Some(files) = change.files else { continue };
                match change.operation {
                    RelationOperation::MassDelete => {
                        found.entry((event.lsn, files)).or_default().0 = change.rows;
                    }
                    RelationOperation::MassUpdate => {
                        found.entry((event.lsn, files)).or_default().1 = change.rows;
                    }
                    _ => {}
                }
            }
        }
        let expected: BTreeMap<_, _> = self
            .mass
            .iter()
            .map(|(key, (deleted, updated))| {
                let told = |rows: u64| if rows >= MASS { rows } else { 0 };
                (*key, (told(*deleted), told(*updated)))
            })
            .collect();
        assert!(!expected.is_empty());
        assert_eq!(found, expected);
    }
}

const WORKLOAD: &[&str] = &[
    "CREATE TABLE t (id serial PRIMARY KEY, n int, payload text)",
    "INSERT INTO t (n, payload) SELECT g, repeat(md5(g::text), g % 9) FROM generate_series(1, 6000) g",
    "UPDATE t SET n = n + 1 WHERE id % 3 = 0",
    "SELECT pg_create_restore_point('one')",
    "DELETE FROM t WHERE id % 7 = 0",
    "BEGIN; DELETE FROM t WHERE id < 500; ROLLBACK",
    "BEGIN; UPDATE t SET n = 0 WHERE id < 300; SAVEPOINT a; UPDATE t SET n = 1; ROLLBACK TO a;
     UPDATE t SET n = 2 WHERE id < 300; SAVEPOINT b; DELETE FROM t WHERE id < 600; RELEASE b; COMMIT",
    "DO $$ BEGIN FOR i IN 1..150 LOOP BEGIN UPDATE t SET n = i WHERE id = 601;
        IF i % 10 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    "CREATE TABLE wide (id int, body text); ALTER TABLE wide ALTER body SET STORAGE EXTERNAL",
    "INSERT INTO wide SELECT g, repeat('x', 30000 + g) FROM generate_series(1, 100) g",
    "SELECT pg_logical_emit_message(false, 'walden', repeat('M', 2500000))",
    "BEGIN; UPDATE t SET n = 7; PREPARE TRANSACTION 'kept'",
    "BEGIN; UPDATE wide SET id = 0 WHERE id < 0; DELETE FROM wide WHERE id > 90; PREPARE TRANSACTION 'given up'",
    "CHECKPOINT",
    "COMMIT PREPARED 'kept'; ROLLBACK PREPARED 'given up'",
    "SELECT pg_create_restore_point('one')",
    "DROP TABLE wide",
    "VACUUM FULL t",
];

fn work(server: &PgServer) -> Result<()> {
    let session = server.session()?;
    for statements in WORKLOAD {
        if statements.contains("$$") {
            session.execute(statements)?;
            continue;
        }
        for statement in statements.split(';') {
            session.execute(statement)?;
        }
    }
    server.pgbench_init(1)?;
    server.pgbench(4, 2)?;
    server.archive_current_segment()?;
    Ok(())
}

fn check(major: PgMajor) -> Result<()> {
    let (server, dir) = archive::server(major, "replica")?;
    work(&server)?;
    let segments = archive::segments(&dir);
    let model = Model::of(&segments);
    assert!(segments.len() > 10 && model.crossing.len() > 5, "{} {}", segments.len(), model.crossing.len());

    let joined = archive::index_all(&segments);
    for pair in joined.windows(2) {
        assert!(pair[1].summary.joined, "{:?}\nafter {:?}", pair[1].summary, pair[0].carry);
    }
    model.check(&joined, true);
    model.check_mass_changes(&joined);
    let straddlers: BTreeMap<SegmentNumber, Lsn> = joined
        .iter()
        .filter_map(|index| {
            let next = index.segment.id(SIZE).expect("a name of this size").number.next();
            Some((next, index.summary.straddler?.lsn))
        })
        .collect();
    for (at, lsn) in &model.crossing {
        assert!(straddlers.values().any(|straddler| straddler == lsn), "{at} {lsn}");
    }

    alone(&segments, &model);
    Ok(())
}

/// Indexes each segment alone, and mends the borders afterwards.
fn alone(segments: &[Segment], model: &Model) {
    let cold: Vec<SegmentIndex> =
        segments.iter().map(|segment| archive::index(segment, None, 65_536)).collect();
    let mut mended = cold.clone();
    let mut unjoined = 0;
    for (place, index) in mended.iter_mut().enumerate() {
        let number = index.segment.id(SIZE).expect("a name of this size").number;
        if index.summary.joined {
            continue;
        }
        unjoined += 1;
        let Some(previous) = place.checked_sub(1).map(|place| &cold[place]) else { continue };
        if !resolve_border(previous, index) {
            // Only a record that is longer than what is kept of it, or than a segment, can't be mended.
            let lsn = model.crossing.get(&number);
            let kept = previous
                .carry
                .pending
                .as_ref()
                .is_some_and(|pending| pending.bytes.len() == pending.have as usize);
            assert!(
                lsn.is_none_or(|lsn| SIZE.segment_of(*lsn).next() != number) || !kept,
                "{}",
                index.segment
            );
        }
    }
    assert!(unjoined > 5);
    let whole: Vec<SegmentIndex> = mended.into_iter().filter(|index| index.summary.joined).collect();
    assert!(whole.len() + 10 > segments.len(), "{} of {}", whole.len(), segments.len());
    model.check(&whole, true);
    // Without what was carried over, counts are lower bounds, and say so.
    for event in whole.iter().flat_map(|index| &index.events) {
        let EventKind::Transaction(transaction) = &event.kind else { continue };
        for change in &transaction.changes {
            let Some(files) = change.files else { continue };
            let (deleted, updated) = model.mass.get(&(event.lsn, files)).copied().unwrap_or_default();
            let rows = match change.operation {
                RelationOperation::MassDelete => deleted,
                RelationOperation::MassUpdate => updated,
                _ => continue,
            };
            assert!(
                change.rows == rows || transaction.began_earlier && change.rows < rows,
                "{event:?} {rows}"
            );
        }
    }
}

#[test]
fn indexes_of_13_are_what_the_model_says() {
    check(PgMajor::V13).expect("a server; run `cargo xtask setup`");
}

#[test]
fn indexes_of_17_are_what_the_model_says() {
    check(PgMajor::V17).expect("a server; run `cargo xtask setup`");
}
