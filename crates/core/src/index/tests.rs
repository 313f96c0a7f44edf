use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use roaring::RoaringBitmap;
use walden_pg::{
    Fork, Lsn, Oid, ParameterMaxima, PgMajor, PgTimestamp, RelFileLocator, RelFileNumber, SegmentName,
    SegmentNumber, TimelineId, WalLevel, WalSegmentSize, Xid,
};

use super::*;

fn locator() -> impl Strategy<Value = RelFileLocator> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(tablespace, database, relation)| RelFileLocator {
        tablespace: Oid::new(tablespace),
        database: Oid::new(database),
        relation: RelFileNumber::new(relation),
    })
}

fn timeline() -> impl Strategy<Value = TimelineId> {
    (1u32..).prop_map(|number| TimelineId::new(number).unwrap())
}

fn mark() -> impl Strategy<Value = CommitMark> {
    (any::<u64>(), any::<u32>(), any::<i64>()).prop_map(|(lsn, xid, time)| CommitMark {
        lsn: Lsn::new(lsn),
        xid: Xid::new(xid),
        time: PgTimestamp::new(time),
    })
}

fn maxima() -> impl Strategy<Value = ParameterMaxima> {
    any::<[u32; 5]>().prop_map(|[a, b, c, d, e]| ParameterMaxima {
        max_connections: a,
        max_worker_processes: b,
        max_wal_senders: c,
        max_prepared_transactions: d,
        max_locks_per_transaction: e,
    })
}

fn facts() -> impl Strategy<Value = WalFacts> {
    let flags = vec(0usize..18, 0..5).prop_map(|bits| {
        let known = [WalFlags::DROP, WalFlags::DAMAGED, WalFlags::CHECKPOINT, WalFlags::NAMES];
        bits.iter().filter_map(|bit| known.get(*bit)).fold(WalFlags::NONE, |all, flag| all.with(*flag))
    });
    let range = || proptest::option::of(any::<(i64, i64)>());
    (
        (any::<u32>(), any::<u32>()),
        proptest::option::of(mark()),
        proptest::option::of(mark()),
        range(),
        range(),
        proptest::option::of(any::<(u32, u32)>()),
        flags,
        proptest::option::of(maxima()),
    )
        .prop_map(|((commits, aborts), first_commit, last_commit, commit, end, xids, flags, maxima)| {
            let times = |(min, max)| TimeRange { min: PgTimestamp::new(min), max: PgTimestamp::new(max) };
            WalFacts {
                commits: commits.into(),
                aborts: aborts.into(),
                first_commit,
                last_commit,
                commit_times: commit.map(times),
                end_times: end.map(times),
                xids: xids.map(|(min, max)| XidRange { min: Xid::new(min), max: Xid::new(max) }),
                flags,
                maxima,
            }
        })
}

fn summary() -> impl Strategy<Value = SegmentSummary> {
    (facts(), any::<u64>(), any::<bool>(), proptest::option::of((any::<u64>(), any::<bool>()))).prop_map(
        |(facts, wal_end, joined, straddler)| SegmentSummary {
            facts,
            wal_end: Lsn::new(wal_end),
            joined,
            straddler: straddler.map(|(lsn, matters)| Straddler { lsn: Lsn::new(lsn), matters }),
        },
    )
}

fn operation() -> impl Strategy<Value = RelationOperation> {
    prop_oneof![
        Just(RelationOperation::Drop),
        Just(RelationOperation::Truncate),
        Just(RelationOperation::Rewrite),
        Just(RelationOperation::MassDelete),
        Just(RelationOperation::MassUpdate)
    ]
}

fn change() -> impl Strategy<Value = RelationChange> {
    let files = || proptest::option::of(locator());
    (operation(), proptest::option::of(any::<u32>()), files(), files(), any::<u64>()).prop_map(
        |(operation, relation, files, new_files, rows)| RelationChange {
            operation,
            relation: relation.map(Oid::new),
            files,
            new_files,
            rows,
        },
    )
}

fn kind() -> impl Strategy<Value = EventKind> {
    let oid = || any::<u32>().prop_map(Oid::new);
    let time = || any::<i64>().prop_map(PgTimestamp::new);
    prop_oneof![
        (any::<String>(), time()).prop_map(|(name, time)| EventKind::RestorePoint { name, time }),
        (timeline(), timeline(), time()).prop_map(|(timeline, previous_timeline, time)| {
            EventKind::EndOfRecovery { timeline, previous_timeline, time }
        }),
        (timeline(), timeline(), any::<(bool, u64, u64, i64)>()).prop_map(
            |(timeline, previous_timeline, (shutdown, redo, next_xid, time))| EventKind::Checkpoint {
                shutdown,
                redo: Lsn::new(redo),
                timeline,
                previous_timeline,
                next_xid,
                time,
            }
        ),
        maxima().prop_map(|maxima| EventKind::ParameterChange { maxima, wal_level: WalLevel::Minimal }),
        any::<bool>().prop_map(EventKind::FullPageWrites),
        any::<u64>().prop_map(|lsn| EventKind::BackupEnd(Lsn::new(lsn))),
        any::<u64>().prop_map(|lsn| EventKind::OverwrittenRecord(Lsn::new(lsn))),
        (oid(), any::<u32>(), time()).prop_map(|(database, xid, time)| EventKind::DatabaseDropped {
            database,
            xid: Xid::new(xid),
            time
        }),
        (any::<u32>(), time(), proptest::option::of(oid()), vec(change(), 0..4), any::<bool>()).prop_map(
            |(xid, time, database, changes, began_earlier)| {
                EventKind::Transaction(NotableTransaction {
                    xid: Xid::new(xid),
                    time,
                    database,
                    changes,
                    began_earlier,
                    left_out: 3,
                })
            }
        ),
        (oid(), oid(), any::<String>(), oid(), any::<char>()).prop_map(
            |(database, relation, name, schema, kind)| {
                EventKind::RelationNamed(RelationName {
                    database,
                    relation,
                    name,
                    schema,
                    file_number: 7,
                    tablespace: Oid::new(0),
                    kind,
                    xid: Xid::new(9),
                })
            }
        ),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u64>(), any::<u64>(), kind()).prop_map(|(lsn, end_lsn, kind)| Event {
        lsn: Lsn::new(lsn),
        end_lsn: Lsn::new(end_lsn),
        kind,
    })
}

fn block_list() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        vec(any::<u32>(), 0..20),
        // So dense that a bitmap is shorter than a list.
        (any::<u32>(), 0u32..30_000)
            .prop_map(|(first, count)| { (0..count).map(|block| first.saturating_add(block)).collect() }),
    ]
}

fn blocks() -> impl Strategy<Value = TouchedBlocks> {
    let fork = (locator(), 0u8..4)
        .prop_map(|(relation, fork)| RelationFork { relation, fork: Fork::from_number(fork).unwrap() });
    let touched = (block_list(), proptest::option::of(any::<u32>()))
        .prop_map(|(blocks, limit)| ForkBlocks { blocks: RoaringBitmap::from_iter(blocks), limit });
    (btree_map(fork, touched, 0..5), vec(any::<(u32, u32)>(), 0..3)).prop_map(|(forks, whole)| {
        let whole_databases = whole.into_iter().map(|(a, b)| (Oid::new(a), Oid::new(b))).collect();
        TouchedBlocks { forks, whole_databases }
    })
}

fn open() -> impl Strategy<Value = OpenTransaction> {
    let rows = (locator(), any::<u64>(), any::<u64>()).prop_map(|(files, deleted, updated)| RowCounts {
        files,
        deleted,
        updated,
    });
    let created = (locator(), any::<u64>()).prop_map(|(files, lsn)| CreatedFiles {
        files,
        lsn: Lsn::new(lsn),
        filling: Filling::Pages,
    });
    (any::<u32>(), any::<bool>(), vec(rows, 0..3), vec(created, 0..3), vec(any::<u32>(), 0..3)).prop_map(
        |(xid, prepared, rows, created, oids)| {
            let oids: Vec<Oid> = oids.into_iter().map(Oid::new).collect();
            let pairs: Vec<_> = oids.iter().map(|oid| (*oid, RelFileNumber::new(oid.get()))).collect();
            OpenTransaction {
                xid: Xid::new(xid),
                prepared,
                rows,
                created,
                locked: oids.clone(),
                made: oids,
                moved: pairs.clone(),
                rewritten: pairs,
                databases: vec![(Oid::new(1), Lsn::new(2), Lsn::new(3))],
                class_rows: [1, 2, 3],
                ..OpenTransaction::default()
            }
        },
    )
}

fn entry() -> impl Strategy<Value = RollupEntry> {
    (any::<u64>(), any::<u32>(), any::<u32>(), proptest::option::of(summary())).prop_map(
        |(number, object_bytes, index_bytes, summary)| RollupEntry {
            number: SegmentNumber::new(number),
            object_bytes,
            index_bytes,
            summary,
        },
    )
}

fn carry() -> impl Strategy<Value = Carry> {
    let pending = (any::<u64>(), any::<[u32; 3]>(), vec(any::<u8>(), 0..100)).prop_map(
        |(lsn, [have, total, checksum], bytes)| Fragment {
            lsn: Lsn::new(lsn),
            have,
            total,
            checksum: Some(checksum),
            bytes,
        },
    );
    (proptest::option::of(pending), vec(open(), 0..3), any::<u32>()).prop_map(|(pending, open, number)| {
        Carry {
            next: Some(SegmentNumber::new(number.into())),
            last_record: Some(Lsn::new(number.into())),
            pending,
            open,
            open_left_out: number,
            complete_from: Some(Xid::new(number)),
            class_files: vec![(Oid::new(number), RelFileNumber::new(number))],
            class_rows: vec![ClassTuple {
                database: Oid::new(number),
                block: number,
                offset: 3,
                seen: Lsn::new(number.into()),
                columns: vec![1, 2, 3],
            }],
        }
    })
}

fn index() -> impl Strategy<Value = SegmentIndex> {
    (summary(), vec(event(), 0..5), blocks(), vec(any::<u8>(), 0..100), carry(), vec(entry(), 0..3)).prop_map(
        |(summary, events, blocks, head, carry, siblings)| SegmentIndex {
            segment: SegmentName::new(TimelineId::FIRST, 1, 2),
            segment_size: WalSegmentSize::DEFAULT,
            major: Some(PgMajor::V16),
            summary,
            events,
            blocks,
            damage: vec![DamageNote { lsn: Lsn::new(5), what: "a fault".to_owned() }],
            damage_count: 1,
            head_bytes: u32::try_from(head.len()).unwrap(),
            head,
            carry,
            siblings,
            first_record: Some(FirstRecord { lsn: Lsn::new(7), previous: Lsn::new(6) }),
        },
    )
}

/// Puts segments into a directory of 256.
fn within(log: u32, mut entries: Vec<RollupEntry>) -> Vec<RollupEntry> {
    for entry in &mut entries {
        entry.number = SegmentNumber::new(u64::from(log) * 256 + entry.number.get() % 256);
    }
    entries.sort_by_key(|entry| entry.number);
    entries.dedup_by_key(|entry| entry.number);
    entries
}

fn log_summary() -> impl Strategy<Value = LogSummary> {
    (any::<u32>(), vec(entry(), 0..4)).prop_map(|(log, entries)| LogSummary::of(log, &within(log, entries)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_index_is_read_as_it_was_written(index in index()) {
        prop_assert_eq!(SegmentIndex::decode(&index.encode()).unwrap(), index);
    }

    #[test]
    fn sections_that_are_not_known_are_passed_over(index in index(), section: Vec<u8>) {
        let mut bytes = index.encode();
        bytes.push(200);
        bytes.extend(u32::try_from(section.len()).unwrap().to_le_bytes());
        bytes.extend(section);
        prop_assert_eq!(SegmentIndex::decode(&bytes).unwrap(), index);
    }

    #[test]
    fn an_index_that_is_cut_off_is_refused(index in index(), cut in 1usize..2000) {
        let bytes = index.encode();
        // Where a section ends, only what comes behind it is missing: that may be nothing that must be there.
        let carry_is_last = index.siblings.is_empty();
        let kept = bytes.len().saturating_sub(cut);
        let decoded = SegmentIndex::decode(&bytes[..kept]);
        prop_assert!(decoded.is_err() || !carry_is_last);
    }

    #[test]
    fn a_damaged_index_never_panics(index in index(), at: usize, byte: u8, more in vec((any::<usize>(), any::<u8>()), 0..3)) {
        let mut bytes = index.encode();
        for (at, byte) in more.into_iter().chain([(at, byte)]) {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = SegmentIndex::decode(&bytes);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, as_index: bool) {
        let mut whole = if as_index { b"WSIX\x01".to_vec() } else { b"WROL\x01".to_vec() };
        whole.extend(&bytes);
        let _ = (SegmentIndex::decode(&whole), Rollup::decode(&whole), SegmentIndex::decode(&bytes));
        let _ = blocks_codec::decode(&bytes);
    }

    #[test]
    fn a_rollup_is_read_as_it_was_written(segments in vec(entry(), 0..6), earlier in vec(log_summary(), 0..4)) {
        let segments = within(u32::MAX, segments);
        let rollup = Rollup::build(TimelineId::FIRST, u32::MAX, segments, earlier);
        prop_assert_eq!(Rollup::decode(&rollup.encode()).unwrap(), rollup);
    }

    #[test]
    fn a_rollup_with_any_numbers_is_refused_or_harmless(
        log in 0u32..3, segments in vec(entry(), 0..3), range in any::<(u64, u32)>(), object_bytes: u64,
    ) {
        let present = vec![NumberRange { first: SegmentNumber::new(range.0), count: range.1 }];
        let (facts, incomplete) = (WalFacts { commits: u64::MAX, ..WalFacts::default() }, false);
        let earlier = vec![LogSummary { log: 0, present, object_bytes, facts, incomplete }];
        let rollup = Rollup::build(TimelineId::FIRST, log, segments, earlier);
        if let Ok(decoded) = Rollup::decode(&rollup.encode()) {
            let numbers = decoded.segments.iter().map(|entry| entry.number);
            let ranges = decoded.earlier.iter().flat_map(|log| &log.present).map(NumberRange::last);
            prop_assert!(numbers.chain(ranges).all(|number| number.get() < 3 << 12));
        }
        let mut all = facts;
        all.append(&facts);
        prop_assert_eq!(all.commits, u64::MAX);
    }

    #[test]
    fn facts_of_a_directory_are_those_of_its_parts(a in vec(facts(), 0..6), split in 0usize..6) {
        let sum = |facts: &[WalFacts]| {
            facts.iter().fold(WalFacts::default(), |mut all, next| { all.append(next); all })
        };
        let (left, right) = a.split_at(split.min(a.len()));
        let mut joined = sum(left);
        joined.append(&sum(right));
        prop_assert_eq!(joined, sum(&a));
    }
}

fn plain(number: u64, joined: bool, straddler: Option<bool>) -> RollupEntry {
    let lsn = Lsn::new(number.saturating_mul(100));
    RollupEntry {
        number: SegmentNumber::new(number),
        object_bytes: 10,
        index_bytes: 1,
        summary: Some(SegmentSummary {
            facts: WalFacts { commits: 1, ..WalFacts::default() },
            wal_end: lsn,
            joined,
            straddler: straddler.map(|matters| Straddler { lsn, matters }),
        }),
    }
}

#[test]
fn a_directory_tells_what_is_missing_in_it() {
    let whole =
        [plain(4, true, Some(true)), plain(5, true, None), plain(6, true, None), plain(8, true, None)];
    let summary = LogSummary::of(1, &whole);
    let ranges: Vec<_> = summary.present.iter().map(|range| (range.first.get(), range.count)).collect();
    assert_eq!(ranges, [(4, 3), (8, 1)]);
    assert_eq!((summary.facts.commits, summary.object_bytes, summary.incomplete), (4, 40, false));
    // A record that matters may be missing.
    assert!(LogSummary::of(1, &[plain(4, true, Some(true)), plain(5, false, None)]).incomplete);
    // What was before is not known.
    assert!(LogSummary::of(1, &[plain(4, false, None)]).incomplete);
    assert!(LogSummary::of(1, &[plain(4, true, None), plain(6, false, None)]).incomplete);
    assert!(LogSummary::of(1, &[RollupEntry { summary: None, ..plain(4, true, None) }]).incomplete);
}

#[test]
fn a_rollup_tells_only_of_its_own_directories() {
    let rollup = |number: u64, first: u64, count: u32| {
        let mut earlier = LogSummary::of(1, &[]);
        earlier.present.push(NumberRange { first: SegmentNumber::new(first), count });
        let rollup = Rollup::build(TimelineId::FIRST, 2, vec![plain(number, true, None)], vec![earlier]);
        Rollup::decode(&rollup.encode())
    };
    rollup(2 * 256, 256, 256).unwrap();
    rollup(2 * 4 + 3, 4, 4).unwrap();
    for (number, first, count) in [
        // Of another directory, with the size that the others have.
        (3 * 256, 256, 256),
        (2 * 256, 256, 257),
        (2 * 256, 256, 0),
        (2 * 256, u64::MAX, u32::MAX),
        (u64::MAX, 256, 256),
        // No segment is so small.
        (2 << 13, 1 << 13, 1),
    ] {
        assert!(
            matches!(rollup(number, first, count), Err(IndexError::Damaged { .. })),
            "{number} {first} {count}"
        );
    }
    assert_eq!(NumberRange { first: SegmentNumber::new(u64::MAX), count: 9 }.last().get(), u64::MAX);
}

#[test]
fn a_directory_with_a_record_that_was_not_understood_tells_that_facts_may_be_missing() {
    let mut entry = plain(4, true, None);
    if let Some(summary) = &mut entry.summary {
        summary.facts.flags.add(WalFlags::NOT_UNDERSTOOD);
    }
    assert!(LogSummary::of(1, &[entry]).incomplete);
}

#[test]
fn a_rollup_keeps_the_last_entry_of_each_segment() {
    let old = RollupEntry { object_bytes: 1, ..plain(3, true, None) };
    let entries = vec![plain(4, true, None), old, plain(3, true, None)];
    let rollup =
        Rollup::build(TimelineId::FIRST, 2, entries, vec![LogSummary::of(2, &[]), LogSummary::of(1, &[])]);
    assert_eq!(rollup.segments, [plain(3, true, None), plain(4, true, None)]);
    assert_eq!(rollup.earlier, [LogSummary::of(1, &[])]);
}

#[test]
fn only_indexes_are_read() {
    assert!(matches!(SegmentIndex::decode(b""), Err(IndexError::Foreign { .. })));
    assert!(matches!(SegmentIndex::decode(b"WROL\x01"), Err(IndexError::Foreign { .. })));
    assert!(matches!(SegmentIndex::decode(b"WSIX\x02"), Err(IndexError::Unsupported { schema: 2, .. })));
    assert!(matches!(SegmentIndex::decode(b"WSIX\x01"), Err(IndexError::Damaged { .. })));
}

#[test]
fn a_bitmap_with_runs_is_refused() {
    let mut bitmap: RoaringBitmap = (0..60_000).collect();
    bitmap.optimize();
    let mut bytes = vec![0, 1, 1, 1, 0x80, u8::try_from(bitmap.serialized_size()).unwrap()];
    bitmap.serialize_into(&mut bytes).unwrap();
    assert!(blocks_codec::decode(&bytes).is_err());
}
