//! An archive of a million segments (15 TiB) and 400 backups, by arithmetic: what a planner is to be quick over.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "numbers that are known to fit")]

use jiff::Timestamp;
use walden_core::index::{
    CommitMark, LogSummary, RollupEntry, SegmentSummary, TimeRange, WalFacts, WalFlags, XidRange,
};
use walden_core::{
    BackupId, BackupKind, BackupRecord, BackupSource, IncarnationRecord, ObjectReference, RecordSpan,
    SegmentDetail, SegmentEnd, ServerSettings, TransactionEndMark, Writer,
};
use walden_pg::{PgMajor, PgTimestamp, SegmentId, SegmentNumber, SystemId, TimelineId, WalSegmentSize, Xid};

/// Segments, numbered from 1.
pub const SEGMENTS: u64 = 1_000_000;
/// Backups, evenly spread.
pub const BACKUPS: u64 = 400;
/// Bytes of a segment.
pub const SIZE: u64 = 16 << 20;
/// Segments of a LOG directory.
pub const PER_LOG: u64 = 256;
/// The moment of the first segment; each takes a second.
pub const BEGIN: i64 = 1_700_000_000;
/// The segment whose contents are there: recovery to its middle second stops in it.
pub const STOP: u64 = 765_432;
/// The only timeline.
pub const TIMELINE: TimelineId = TimelineId::FIRST;

/// The size of the segments.
#[must_use]
pub fn segment_size() -> WalSegmentSize {
    WalSegmentSize::new(SIZE).unwrap()
}

/// Who wrote everything.
#[must_use]
pub fn writer() -> Writer {
    Writer::new("db1", "/data", Timestamp::UNIX_EPOCH)
}

/// Whose archive it is.
#[must_use]
pub fn record() -> IncarnationRecord {
    IncarnationRecord {
        server: "main".parse().unwrap(),
        repository_id: "0".repeat(32),
        system_id: SystemId::new(7),
        major: PgMajor::new(17).unwrap(),
        segment_size: segment_size(),
        created_by: writer(),
    }
}

fn micros(number: u64, part: i64) -> PgTimestamp {
    let second = BEGIN + i64::try_from(number).unwrap();
    PgTimestamp::from_unix_micros(second * 1_000_000 + part)
}

/// Two commits a segment, right at its start and 64 bytes on; then a switch.
#[must_use]
pub fn commits(number: u64) -> [CommitMark; 2] {
    let start = segment_size().start_of(SegmentNumber::new(number));
    let xid = u32::try_from(number * 2 + 1000).unwrap();
    [(0u32, 40u64, 250_000), (1, 80, 750_000)].map(|(next, offset, part)| CommitMark {
        lsn: start.saturating_add(offset),
        xid: Xid::new(xid + next),
        time: micros(number, part),
    })
}

/// What is in a segment.
#[must_use]
pub fn summary(number: u64) -> SegmentSummary {
    let [first, last] = commits(number);
    let times = TimeRange { min: first.time, max: last.time };
    let facts = WalFacts {
        commits: 2,
        first_commit: Some(first),
        last_commit: Some(last),
        commit_times: Some(times),
        end_times: Some(times),
        xids: Some(XidRange { min: first.xid, max: last.xid }),
        flags: WalFlags::SWITCHED,
        ..WalFacts::default()
    };
    let wal_end = segment_size().end_of(SegmentNumber::new(number));
    SegmentSummary { facts, wal_end, joined: true, straddler: None }
}

/// The segment as PostgreSQL 17 would write it: a long page header, two commits, a switch, zeros.
#[must_use]
pub fn plain(number: u64) -> Vec<u8> {
    let start = segment_size().start_of(SegmentNumber::new(number)).get();
    let mut bytes = Vec::with_capacity(usize::try_from(SIZE).unwrap());
    bytes.extend_from_slice(&0xD116u16.to_le_bytes());
    bytes.extend_from_slice(&2u16.to_le_bytes());
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&7u64.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(SIZE).unwrap().to_le_bytes());
    bytes.extend_from_slice(&8192u32.to_le_bytes());
    let mut previous = start - 8;
    for commit in commits(number) {
        let time = commit.time.get().to_le_bytes();
        put_record(&mut bytes, previous, commit.xid.get(), (0x00, 1), &[&[255u8, 8][..], &time].concat());
        previous = commit.lsn.get();
    }
    put_record(&mut bytes, previous, 0, (0x40, 0), &[]);
    bytes.resize(usize::try_from(SIZE).unwrap(), 0);
    bytes
}

fn put_record(bytes: &mut Vec<u8>, previous: u64, xid: u32, (info, manager): (u8, u8), rest: &[u8]) {
    let mut header = Vec::new();
    header.extend_from_slice(&u32::try_from(24 + rest.len()).unwrap().to_le_bytes());
    header.extend_from_slice(&xid.to_le_bytes());
    header.extend_from_slice(&previous.to_le_bytes());
    header.extend_from_slice(&[info, manager, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(rest), &header);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// Size of the objects that are never read.
pub const OBJECT_BYTES: u32 = 4_000_000;

/// The segments of a LOG directory.
#[must_use]
pub fn numbers_of(log: u32) -> std::ops::Range<u64> {
    let first = u64::from(log) * PER_LOG;
    first.max(1)..(first + PER_LOG).min(SEGMENTS + 1)
}

/// Backup `n` begins and ends in the segment that is its share of the way.
#[must_use]
pub fn backup(n: u64) -> BackupRecord {
    let number = 1 + n * (SEGMENTS / BACKUPS);
    let start = segment_size().start_of(SegmentNumber::new(number));
    let second = BEGIN + i64::try_from(number).unwrap();
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let record = record();
    BackupRecord {
        id: BackupId::new(at(second), 1),
        kind: BackupKind::Full,
        parent: None,
        server: record.server.clone(),
        incarnation: record.incarnation(),
        source: BackupSource::Primary,
        label: "scale".into(),
        timeline: TIMELINE,
        stop_timeline: TIMELINE,
        start_lsn: start.saturating_add(40),
        checkpoint_lsn: start.saturating_add(40),
        stop_lsn: start.saturating_add(80),
        next_xid: 1000,
        oldest_xid: None,
        segment_size: segment_size(),
        started_at: at(second),
        finished_at: at(second),
        bytes: 1 << 40,
        stored_bytes: 1 << 38,
        files: 1000,
        packs: 0,
        manifest: ObjectReference { plain_bytes: 1, plain_sha256: "0".repeat(64), object_bytes: 1 },
        names: None,
        tablespaces: Vec::new(),
        settings: ServerSettings {
            server_version: "17.10".into(),
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            wal_level: "replica".into(),
            data_checksums: true,
        },
        checksum_failures: Vec::new(),
        requires: Vec::new(),
        writer: writer(),
    }
}

/// The summaries of the LOG directories that are full, as the newest rollup has them.
#[must_use]
pub fn logs(entry: impl Fn(u64) -> RollupEntry) -> Vec<LogSummary> {
    let last = u32::try_from(SEGMENTS / PER_LOG).unwrap();
    let of = |log| LogSummary::of(log, &numbers_of(log).map(&entry).collect::<Vec<_>>());
    (0..last).map(of).collect()
}

/// A segment that is not looked into, as a rollup remembers it.
#[must_use]
pub fn entry(number: u64) -> RollupEntry {
    RollupEntry {
        number: SegmentNumber::new(number),
        object_bytes: OBJECT_BYTES,
        index_bytes: 20_000,
        summary: Some(summary(number)),
    }
}

/// The records of a segment.
#[must_use]
pub fn detail(number: u64) -> SegmentDetail {
    let start = segment_size().start_of(SegmentNumber::new(number));
    let ends = commits(number).map(|commit| TransactionEndMark {
        span: RecordSpan { start: commit.lsn, end: commit.lsn.saturating_add(40) },
        xid: commit.xid,
        time: commit.time,
        commit: true,
    });
    let switch = RecordSpan { start: start.saturating_add(120), end: start.saturating_add(SIZE) };
    SegmentDetail {
        segment: SegmentId::new(TIMELINE, SegmentNumber::new(number)),
        read_from: SegmentNumber::new(number),
        joined: true,
        records: ends.iter().map(|end| end.span).chain([switch]).collect(),
        ends: ends.to_vec(),
        restore_points: Vec::new(),
        parameters: Vec::new(),
        backup_ends: Vec::new(),
        damage: Vec::new(),
        damage_count: 0,
        end: SegmentEnd::Switched,
    }
}
