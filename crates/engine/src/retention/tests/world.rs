//! An archive in memory: segments of 1 MiB with two commits each, one every hour, and backups.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use walden_core::index::{CommitMark, SegmentSummary, TimeRange, WalFacts, WalFlags, XidRange};
use walden_core::{
    BackupId, BackupKind, BackupRecord, BackupSource, Capabilities, ConditionalCreate, IncarnationEntry,
    IncarnationLayout, IncarnationRecord, ObjectKind, ObjectReference, RecordKind, RecoveryAction,
    RecoveryRates, RecoveryRequest, RecoveryTarget, RepositoryRecord, RetentionPlan, RetentionPolicy,
    ServerLayout, ServerRecord, ServerSettings, TargetTimeline, WalIdentity, Writer, encode_envelope,
    repository_key,
};
use walden_pg::{
    ArchiveFileName, Lsn, PgMajor, PgTimestamp, SegmentId, SegmentNumber, SystemId, TimelineId,
    WalSegmentSize, Xid,
};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, Store, TryLimits, seal_bytes};

use super::store::MemoryStore;
use crate::clock::Clock;
use crate::context::Context;
use crate::error::Result;
use crate::planning::plan;
use crate::progress::NoProgress;
use crate::retention::{Allowed, RetentionReport, RetentionSurvey, apply_retention};

pub(super) const SIZE: u64 = 1 << 20;
/// The moment of segment 0.
const BEGIN: i64 = 1_790_000_000;
/// Seconds from one segment to the next.
pub(super) const STEP: i64 = 3600;

pub(super) fn size() -> WalSegmentSize {
    WalSegmentSize::new(SIZE).unwrap()
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// When a segment was written, and a moment between its two commits.
pub(super) fn written(number: u64) -> Timestamp {
    at(BEGIN + i64::try_from(number).unwrap() * STEP)
}

pub(super) fn between(number: u64) -> Timestamp {
    written(number).checked_add(SignedDuration::from_millis(500)).unwrap()
}

#[derive(Debug)]
struct FixedClock(Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

pub(super) fn record() -> IncarnationRecord {
    IncarnationRecord {
        server: "main".parse().unwrap(),
        repository_id: "0".repeat(32),
        system_id: SystemId::new(7),
        major: PgMajor::new(17).unwrap(),
        segment_size: size(),
        created_by: writer(),
    }
}

fn writer() -> Writer {
    Writer::new("db1", "/data", at(BEGIN))
}

pub(super) fn layout() -> IncarnationLayout {
    ServerLayout::new(record().server).incarnation(record().incarnation())
}

/// A world and its clock.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) now: Timestamp,
}

impl World {
    /// A server without anything.
    pub(super) fn new() -> Self {
        let world = Self { store: MemoryStore::default(), now: at(BEGIN) };
        let record = record();
        let capabilities = Capabilities {
            conditional_create: ConditionalCreate::Enforced,
            range_reads: true,
            list_after: true,
            probed_at: at(BEGIN),
        };
        let repository = RepositoryRecord {
            repository_id: record.repository_id.clone(),
            format: 1,
            created_by: writer(),
            capabilities,
        };
        let server = ServerRecord {
            revision: 1,
            server: record.server.clone(),
            repository_id: record.repository_id.clone(),
            current: record.incarnation(),
            incarnations: vec![IncarnationEntry { incarnation: record.incarnation(), added_by: writer() }],
            adoptions: Vec::new(),
        };
        let revision = ServerLayout::new(record.server.clone()).revision(1);
        let put = |key: &str, bytes: Vec<u8>| world.store.put_at(key, bytes, at(BEGIN));
        put(repository_key().as_str(), encode_envelope(RecordKind::Repository, &repository).unwrap());
        put(revision.as_str(), encode_envelope(RecordKind::Server, &server).unwrap());
        put(layout().marker().as_str(), encode_envelope(RecordKind::Incarnation, &record).unwrap());
        world
    }

    /// Segments from the first to the last, an hour each; the world's time is that of the last.
    pub(super) fn with_segments(mut self, first: u64, last: u64) -> Self {
        for number in first..=last {
            self.store.put_at(&segment_key(number), segment(number), written(number));
        }
        self.now = written(last).checked_add(SignedDuration::from_secs(60)).unwrap();
        self.store.state().now = self.now;
        self
    }

    /// A backup that begins and ends in a segment.
    pub(super) fn backup(&self, number: u64, parent: Option<&BackupId>) -> BackupId {
        let record = backup(number, parent.cloned());
        let keys = layout().backup(&record.id);
        for key in [keys.pack(0), keys.manifest()] {
            self.store.put_at(key.as_str(), vec![1; 50], written(number));
        }
        let text = encode_envelope(RecordKind::Backup, &record).unwrap();
        self.store.put_at(keys.commit().as_str(), text, written(number));
        record.id
    }

    pub(super) fn context(&self) -> Context {
        let url = "s3://memory/".parse().unwrap();
        let limits = TryLimits { request: Duration::from_secs(5), throughput_min: 1 << 20 };
        Context {
            store: Store::over(url, Arc::new(self.store.clone()), limits),
            server: record().server,
            clock: Arc::new(FixedClock(self.now)),
            progress: Arc::new(NoProgress),
            state_directory: None,
            store_deadline: Duration::from_secs(5),
            host: "here".into(),
        }
    }

    /// As a process that starts anew finds it.
    pub(super) fn anew(&self) -> Self {
        Self { store: self.store.copy(), now: self.now }
    }

    pub(super) async fn plan(&self, policy: &RetentionPolicy) -> RetentionPlan {
        self.try_plan(policy).await.unwrap()
    }

    pub(super) async fn try_plan(&self, policy: &RetentionPolicy) -> Result<RetentionPlan> {
        let ctx = self.context();
        RetentionSurvey::take(&ctx).await?.plan(&ctx, policy, self.now).await
    }

    pub(super) async fn apply(&self, plan: &RetentionPlan) -> Result<RetentionReport> {
        apply_retention(&self.context(), plan, Allowed::default(), None).await
    }

    /// The segment that recovery to a moment between two commits stops in, by the recovery planner.
    pub(super) async fn recovers(&self, moment: Timestamp) -> Option<Lsn> {
        let request = RecoveryRequest {
            target: RecoveryTarget::Time(moment),
            exclusive: false,
            timeline: TargetTimeline::Latest,
            backup: None,
            action: RecoveryAction::Promote,
            rates: RecoveryRates::default(),
        };
        plan(&self.context(), &record(), &request).await.ok().map(|plan| plan.stop.lsn)
    }

    pub(super) fn has(&self, part: &str) -> bool {
        self.store.keys().iter().any(|key| key.contains(part))
    }

    pub(super) fn segments(&self) -> Vec<u64> {
        let keys = self.store.keys();
        let names = keys.iter().filter_map(|key| match layout().parse(key) {
            Some(walden_core::ArchiveObject::File(ArchiveFileName::Segment(name))) => name.id(size()).ok(),
            _ => None,
        });
        names.map(|id| id.number.get()).collect()
    }
}

pub(super) fn segment_key(number: u64) -> String {
    let name = SegmentId::new(TimelineId::FIRST, SegmentNumber::new(number)).name(size());
    layout().archive_file(ArchiveFileName::Segment(name)).to_string()
}

fn commits(number: u64) -> [CommitMark; 2] {
    let start = size().start_of(SegmentNumber::new(number));
    let xid = u32::try_from(number * 2 + 1000).unwrap();
    let micros = written(number).as_microsecond();
    [(0u32, 40u64, 250_000), (1, 80, 750_000)].map(|(next, offset, part)| CommitMark {
        lsn: start.saturating_add(offset),
        xid: Xid::new(xid + next),
        time: PgTimestamp::from_unix_micros(micros + part),
    })
}

fn segment(number: u64) -> Vec<u8> {
    let id = SegmentId::new(TimelineId::FIRST, SegmentNumber::new(number));
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
    let summary = SegmentSummary { facts, wal_end: size().end_of(id.number), joined: true, straddler: None };
    let wal = WalIdentity {
        system_id: record().system_id,
        timeline: id.timeline,
        segment_size: size(),
        start_lsn: size().start_of(id.number),
        end_lsn: size().end_of(id.number),
        summary: Some(summary),
    };
    let fields = HeaderFields {
        kind: ObjectKind::Segment,
        name: id.name(size()).to_string(),
        server: record().server,
        incarnation: record().incarnation(),
        writer: writer(),
        wal: Some(wal),
    };
    let level = CompressionLevel::new(1).unwrap();
    seal_bytes(level, IdentityHash::Plain, fields, &plain(number), None).unwrap().to_vec()
}

/// The segment as PostgreSQL 17 would write it: a long page header, two commits, a switch, zeros.
fn plain(number: u64) -> Vec<u8> {
    let start = size().start_of(SegmentNumber::new(number)).get();
    let mut bytes = Vec::new();
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

fn backup(number: u64, parent: Option<BackupId>) -> BackupRecord {
    let start = size().start_of(SegmentNumber::new(number));
    let record = record();
    BackupRecord {
        id: BackupId::new(written(number), 1),
        kind: if parent.is_some() { BackupKind::Incremental } else { BackupKind::Full },
        parent,
        server: record.server.clone(),
        incarnation: record.incarnation(),
        source: BackupSource::Primary,
        label: "test".into(),
        timeline: TimelineId::FIRST,
        stop_timeline: TimelineId::FIRST,
        start_lsn: start.saturating_add(40),
        checkpoint_lsn: start.saturating_add(40),
        stop_lsn: start.saturating_add(80),
        next_xid: 1000,
        oldest_xid: None,
        segment_size: size(),
        started_at: written(number),
        finished_at: written(number),
        bytes: 1 << 20,
        stored_bytes: 100,
        files: 1,
        packs: 1,
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
