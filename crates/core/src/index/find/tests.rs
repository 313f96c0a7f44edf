use std::collections::BTreeMap;

use walden_pg::{
    Lsn, Oid, PgTimestamp, RelFileLocator, RelFileNumber, SegmentName, TimelineHistory, WalSegmentSize,
};

use super::*;
use crate::index::{
    Carry, RelationChange, RelationName, RelationOperation, SegmentSummary, TouchedBlocks, WalFacts,
};
use crate::recovery::{RecordSpan, SegmentEnd, TransactionEndMark};

const SHOP: Oid = Oid::new(16_384);

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn at(second: i64) -> PgTimestamp {
    PgTimestamp::from_unix_micros(second * 1_000_000)
}

fn file(number: u32) -> RelFileLocator {
    RelFileLocator { tablespace: Oid::PG_DEFAULT, database: SHOP, relation: RelFileNumber::new(number) }
}

/// Timeline 2 left timeline 1 at 0/3000500.
fn book() -> NameBook {
    let history = TimelineHistory::parse(timeline(2), b"1\t0/3000500\tno reason\n").unwrap();
    NameBook::new(Paths::new(BTreeMap::from([(timeline(2), history)]), timeline(2)))
}

fn named(relation: u32, name: &str, file_number: u32, kind: char) -> NamedRelation {
    NamedRelation {
        relation: Oid::new(relation),
        name: name.into(),
        schema: Oid::new(2200),
        file_number,
        kind,
        from: NamesFrom::Wal,
    }
}

fn place(number: u32, lsn: u64) -> Place {
    Place { timeline: timeline(number), lsn: Lsn::new(lsn) }
}

fn index(number: u32, events: Vec<Event>) -> (SegmentId, SegmentIndex) {
    let segment = SegmentName::new(timeline(number), 0, 3);
    let index = SegmentIndex {
        segment,
        segment_size: WalSegmentSize::DEFAULT,
        major: None,
        summary: SegmentSummary {
            facts: WalFacts::default(),
            wal_end: Lsn::new(0x400_0000),
            joined: true,
            straddler: None,
        },
        events,
        blocks: TouchedBlocks::default(),
        damage: Vec::new(),
        damage_count: 0,
        head: Vec::new(),
        head_bytes: 0,
        carry: Carry::default(),
        siblings: Vec::new(),
        first_record: None,
    };
    (segment.id(WalSegmentSize::DEFAULT).unwrap(), index)
}

fn event(lsn: u64, kind: EventKind) -> Event {
    Event { lsn: Lsn::new(lsn), end_lsn: Lsn::new(lsn + 64), kind }
}

fn change(operation: RelationOperation, relation: Option<u32>, files: Option<u32>) -> RelationChange {
    RelationChange {
        operation,
        relation: relation.map(Oid::new),
        files: files.map(file),
        new_files: None,
        rows: 12_000,
    }
}

fn transaction(second: i64, changes: Vec<RelationChange>) -> EventKind {
    EventKind::Transaction(NotableTransaction {
        xid: Xid::new(700),
        time: at(second),
        database: Some(SHOP),
        changes,
        began_earlier: true,
        left_out: 0,
    })
}

fn look(query: &FindQuery, indexes: &[(SegmentId, SegmentIndex)], book: &NameBook) -> Found {
    find(query, indexes.iter().map(|(id, index)| (*id, index)), &[], book)
}

fn told(found: &Found) -> Vec<(u32, &'static str, String)> {
    let told = |event: &FoundEvent| {
        (
            event.timeline.get(),
            event.op.as_str(),
            event.table.clone().or(event.name.clone()).unwrap_or_default(),
        )
    };
    found.events.iter().map(told).collect()
}

#[test]
fn a_drop_has_the_name_that_the_table_had_then() {
    let mut book = book();
    book.add_database(place(1, 0x100), SHOP, "shop".into(), NamesFrom::Wal);
    book.add_relation(place(1, 0x100), SHOP, named(20_000, "orders", 20_000, 'r'));
    book.add_relation(place(1, 0x100), SHOP, named(20_003, "orders_pkey", 20_003, 'i'));
    book.add_relation(place(1, 0x300_0200), SHOP, named(20_000, "old_orders", 20_000, 'r'));
    // Of another past.
    book.add_relation(place(1, 0x300_0600), SHOP, named(20_000, "never", 20_000, 'r'));
    let dropped = || {
        vec![
            change(RelationOperation::Drop, Some(20_000), Some(20_000)),
            change(RelationOperation::Drop, Some(20_003), Some(20_003)),
        ]
    };
    let events = vec![
        event(0x300_0100, transaction(100, dropped())),
        event(0x300_0400, transaction(200, dropped())),
        event(0x300_0700, transaction(300, dropped())),
    ];
    let found = look(&FindQuery::default(), &[index(2, events)], &book);
    assert_eq!(
        told(&found),
        [(1, "drop", "orders".into()), (1, "drop", "old_orders".into()), (2, "drop", "old_orders".into())]
    );
    let first = &found.events[0];
    assert_eq!((first.database.as_deref(), first.schema.as_deref()), (Some("shop"), Some("public")));
    assert_eq!((first.rows, first.rows_at_least, first.on_newest), (None, false, true));
}

#[test]
fn what_two_segments_tell_of_one_place_is_told_once() {
    let drop = |lsn| event(lsn, transaction(100, vec![change(RelationOperation::Drop, Some(5), Some(5))]));
    let parent = index(1, vec![drop(0x300_0100), drop(0x300_0600)]);
    let child = index(2, vec![drop(0x300_0100), drop(0x300_0600)]);
    let found = look(&FindQuery::default(), &[parent, child], &book());
    let places: Vec<_> =
        found.events.iter().map(|event| (event.timeline.get(), event.lsn.get(), event.on_newest)).collect();
    assert_eq!(places, [(1, 0x300_0100, true), (1, 0x300_0600, false), (2, 0x300_0600, true)]);
}

#[test]
fn files_tell_the_relation_that_had_them() {
    let mut book = book();
    book.add_relation(place(1, 0x100), SHOP, named(20_000, "orders", 20_900, 'r'));
    book.add_relation(place(1, 0x300_0200), SHOP, named(20_000, "orders", 21_000, 'r'));
    let events = vec![
        event(0x300_0200, transaction(100, vec![change(RelationOperation::Truncate, None, Some(20_900))])),
        event(0x300_0300, transaction(101, vec![change(RelationOperation::MassDelete, None, Some(21_000))])),
        event(0x300_0400, transaction(102, vec![change(RelationOperation::MassDelete, None, Some(9))])),
    ];
    let indexes = [index(1, events)];
    let found = look(&FindQuery::default(), &indexes, &book);
    assert_eq!(
        told(&found),
        [
            (1, "truncate", "orders".into()),
            (1, "mass-delete", "orders".into()),
            (1, "mass-delete", "file 9".into())
        ]
    );
    assert_eq!((found.events[1].rows, found.events[1].rows_at_least), (Some(12_000), true));
    let query = FindQuery { table: "orders".parse().ok(), ..FindQuery::default() };
    let found = look(&query, &indexes, &book);
    assert_eq!((found.events.len(), found.unnamed), (2, 1));
}

#[test]
fn what_sessions_drop_when_they_end_is_not_told() {
    let mut book = book();
    book.add_relation(place(1, 0x100), SHOP, named(20_000, "scratch", 20_000, 'r'));
    book.add_relation(place(1, 0x100), SHOP, named(20_010, "parts", 0, 'p'));
    let changes = vec![
        change(RelationOperation::Drop, Some(20_000), None),
        change(RelationOperation::Drop, Some(20_010), None),
    ];
    let found =
        look(&FindQuery::default(), &[index(1, vec![event(0x300_0100, transaction(1, changes))])], &book);
    assert_eq!(told(&found), [(1, "drop", "parts".into())]);
}

#[test]
fn names_in_the_wal_count_from_their_commit_on() {
    let mut book = book();
    let name = RelationName {
        database: SHOP,
        relation: Oid::new(20_000),
        name: "orders".into(),
        schema: Oid::new(77),
        file_number: 20_000,
        tablespace: Oid::new(0),
        kind: 'r',
        xid: Xid::new(5),
    };
    book.add_event(timeline(2), &event(0x300_0100, EventKind::RelationNamed(name)));
    let relation = book.relation(SHOP, Oid::new(20_000), place(1, 0x300_0200)).unwrap();
    assert_eq!(
        (relation.name.as_str(), book.schema(SHOP, relation.schema, place(1, 0x300_0200))),
        ("orders", None)
    );
    assert_eq!(book.relation_of_file(SHOP, 20_000, place(2, 0x300_0900)), Some(Oid::new(20_000)));
}

#[test]
fn new_files_are_those_of_the_relation_that_had_the_old_ones() {
    let mut book = book();
    book.add_relation(place(1, 0x100), SHOP, named(20_000, "orders", 20_900, 'r'));
    let moved = |relation, old: Option<u32>, new| RelationChange {
        new_files: Some(file(new)),
        ..change(RelationOperation::Rewrite, relation, old)
    };
    let changes = vec![moved(None, Some(20_900), 21_000)];
    book.add_event(timeline(1), &event(0x300_0100, transaction(100, changes)));
    let changes = vec![moved(Some(20_000), None, 22_000)];
    book.add_event(timeline(1), &event(0x300_0200, transaction(100, changes)));
    for (number, lsn) in [(20_900, 0x300_0100), (21_000, 0x300_0150), (22_000, 0x300_0250)] {
        assert_eq!(book.relation_of_file(SHOP, number, place(1, lsn)), Some(Oid::new(20_000)), "{number}");
    }
}

#[test]
fn points_and_databases_are_found_by_what_they_are() {
    let point = |lsn, name: &str| event(lsn, EventKind::RestorePoint { name: name.into(), time: at(50) });
    let database = EventKind::DatabaseDropped { database: Oid::new(9), xid: Xid::new(4), time: at(60) };
    let indexes =
        [index(1, vec![point(0x300_0100, "a"), point(0x300_0200, "b"), event(0x300_0300, database)])];
    let found = look(&FindQuery::default(), &indexes, &book());
    assert_eq!(found.events.len(), 3);
    assert_eq!(found.events[2].database.as_deref(), Some("database 9"));
    let query = FindQuery { restore_point: Some("b".into()), ..FindQuery::default() };
    assert_eq!(told(&look(&query, &indexes, &book())), [(1, "restore-point", "b".into())]);
    let query = FindQuery { from: Some(timestamp(at(55))), ..FindQuery::default() };
    assert_eq!(told(&look(&query, &indexes, &book())), [(1, "database-drop", String::new())]);
}

fn detail(ends: impl IntoIterator<Item = (u64, u32, i64, bool)>) -> SegmentDetail {
    let end = |(lsn, xid, second, commit)| TransactionEndMark {
        span: RecordSpan { start: Lsn::new(lsn), end: Lsn::new(lsn + 8) },
        xid: Xid::new(xid),
        time: at(second),
        commit,
    };
    let (segment, _) = index(1, Vec::new());
    SegmentDetail {
        segment,
        read_from: segment.number,
        joined: true,
        records: Vec::new(),
        ends: ends.into_iter().map(end).collect(),
        restore_points: Vec::new(),
        parameters: Vec::new(),
        backup_ends: Vec::new(),
        damage: Vec::new(),
        damage_count: 0,
        end: SegmentEnd::GoesOn,
    }
}

#[test]
fn around_a_moment_are_the_commits_on_both_sides_of_the_stop() {
    let commits = (0..40u32).map(|number| {
        let second = if number == 25 { 20 } else { i64::from(number) };
        (0x300_0100 + u64::from(number) * 8, number, second, number != 12)
    });
    let detail = detail(commits);
    let query = FindQuery { around: Some(timestamp(at(17))), ..FindQuery::default() };
    let found = find(&query, [], [&detail], &book());
    let xids: Vec<u32> = found.events.iter().filter_map(|event| event.xid).map(Xid::get).collect();
    assert_eq!(xids, [7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]);
    let query = FindQuery { xid: Some(12), ..FindQuery::default() };
    let found = find(&query, [], [&detail, &detail], &book());
    assert_eq!(found.events.iter().map(|event| event.op).collect::<Vec<_>>(), [FindOperation::Abort]);
}
