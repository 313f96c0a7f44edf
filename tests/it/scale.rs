//! An archive of a million segments (15 TiB) and 400 backups: a plan and the window take few requests and little
//! memory, and the plan stops where the WAL says.
//!
//! The objects are made when they are asked for. `WALDEN_SCALE_PROGRAM` names another build of the program, to
//! measure its CPU time.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use walden_core::index::{
    Carry, CommitMark, LogSummary, Rollup, RollupEntry, SegmentIndex, SegmentSummary, TimeRange,
    TouchedBlocks, WalFacts, WalFlags, XidRange,
};
use walden_core::{
    BackupId, BackupKind, BackupRecord, BackupSource, IncarnationEntry, IncarnationLayout, IncarnationRecord,
    ObjectKind, ObjectReference, RecordKind, ServerLayout, ServerRecord, ServerSettings, WalIdentity, Writer,
    encode_envelope,
};
use walden_pg::{
    ArchiveFileName, PgMajor, PgTimestamp, SegmentId, SegmentNumber, SystemId, TimelineId, WalSegmentSize,
    Xid,
};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, SealedObject, seal_bytes};
use walden_testkit::stores::{Contents, VirtualBucket, VirtualObject};

const SEGMENTS: u64 = 1_000_000;
const BACKUPS: u64 = 400;
const SIZE: u64 = 16 << 20;
const PER_LOG: u64 = 256;
/// The moment of the first segment; each takes a second.
const BEGIN: i64 = 1_700_000_000;
/// The segment whose contents are there: recovery to its middle second stops in it.
const STOP: u64 = 765_432;
const TIMELINE: TimelineId = TimelineId::FIRST;

fn segment_size() -> WalSegmentSize {
    WalSegmentSize::new(SIZE).unwrap()
}

fn writer() -> Writer {
    Writer::new("db1", "/data", Timestamp::UNIX_EPOCH)
}

fn record() -> IncarnationRecord {
    IncarnationRecord {
        server: "main".parse().unwrap(),
        repository_id: "0".repeat(32),
        system_id: SystemId::new(7),
        major: PgMajor::new(17).unwrap(),
        segment_size: segment_size(),
        created_by: writer(),
    }
}

fn layout() -> IncarnationLayout {
    ServerLayout::new(record().server).incarnation(record().incarnation())
}

fn micros(number: u64, part: i64) -> PgTimestamp {
    let second = BEGIN + i64::try_from(number).unwrap();
    PgTimestamp::from_unix_micros(second * 1_000_000 + part)
}

/// Two commits a segment, right at its start and 64 bytes on; then a switch.
fn commits(number: u64) -> [CommitMark; 2] {
    let start = segment_size().start_of(SegmentNumber::new(number));
    let xid = u32::try_from(number * 2 + 1000).unwrap();
    [(0u32, 40u64, 250_000), (1, 80, 750_000)].map(|(next, offset, part)| CommitMark {
        lsn: start.saturating_add(offset),
        xid: Xid::new(xid + next),
        time: micros(number, part),
    })
}

fn summary(number: u64) -> SegmentSummary {
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
fn plain(number: u64) -> Vec<u8> {
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

fn fields(kind: ObjectKind, name: String, wal: Option<WalIdentity>) -> HeaderFields {
    let record = record();
    HeaderFields {
        kind,
        name,
        server: record.server.clone(),
        incarnation: record.incarnation(),
        writer: writer(),
        wal,
    }
}

fn sealed_segment(number: u64, siblings: Vec<RollupEntry>) -> SealedObject {
    let id = SegmentId::new(TIMELINE, SegmentNumber::new(number));
    let name = id.name(segment_size());
    let index = SegmentIndex {
        segment: name,
        segment_size: segment_size(),
        major: Some(record().major),
        summary: summary(number),
        events: Vec::new(),
        blocks: TouchedBlocks::default(),
        damage: Vec::new(),
        damage_count: 0,
        head: Vec::new(),
        head_bytes: 0,
        carry: Carry::default(),
        siblings,
    };
    let wal = WalIdentity {
        system_id: record().system_id,
        timeline: TIMELINE,
        segment_size: segment_size(),
        start_lsn: segment_size().start_of(id.number),
        end_lsn: segment_size().end_of(id.number),
        summary: Some(index.summary),
    };
    let fields = fields(ObjectKind::Segment, name.to_string(), Some(wal));
    let encoded = index.encode();
    seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, &plain(number), Some(&encoded))
        .unwrap()
}

/// Size of the objects that are never read.
const OBJECT_BYTES: u32 = 4_000_000;

fn entry(number: u64) -> RollupEntry {
    static STOP_BYTES: OnceLock<u32> = OnceLock::new();
    let object_bytes = match number {
        STOP => *STOP_BYTES
            .get_or_init(|| u32::try_from(sealed_segment(STOP, Vec::new()).object_bytes()).unwrap()),
        _ => OBJECT_BYTES,
    };
    RollupEntry {
        number: SegmentNumber::new(number),
        object_bytes,
        index_bytes: 20_000,
        summary: Some(summary(number)),
    }
}

fn numbers_of(log: u32) -> std::ops::Range<u64> {
    let first = u64::from(log) * PER_LOG;
    first.max(1)..(first + PER_LOG).min(SEGMENTS + 1)
}

fn sealed_rollup(log: u32) -> Bytes {
    let entries = |log: u32| -> Vec<RollupEntry> { numbers_of(log).map(entry).collect() };
    static EARLIER: OnceLock<Vec<LogSummary>> = OnceLock::new();
    let last = u32::try_from(SEGMENTS / PER_LOG).unwrap();
    let earlier = EARLIER.get_or_init(|| (0..last).map(|log| LogSummary::of(log, &entries(log))).collect());
    let rollup = Rollup {
        timeline: TIMELINE,
        log,
        segments: entries(log),
        earlier: earlier.iter().take(log as usize).cloned().collect(),
    };
    let name = format!("{}/{log:08X}/rollup", TIMELINE.hex());
    let fields = fields(ObjectKind::Rollup, name, None);
    let sealed =
        seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, &rollup.encode(), None).unwrap();
    Bytes::from(sealed.to_vec())
}

/// Backup `n` begins and ends in the segment that is its share of the way.
fn backup(n: u64) -> BackupRecord {
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
        packs: 1000,
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

fn later(make: impl Fn() -> Bytes + Send + Sync + 'static) -> VirtualObject {
    let contents: Contents = Arc::new(make);
    VirtualObject { bytes: 100_000, contents: Some(contents) }
}

fn segment_key(number: u64) -> String {
    let name = SegmentId::new(TIMELINE, SegmentNumber::new(number)).name(segment_size());
    layout().archive_file(ArchiveFileName::Segment(name)).to_string()
}

fn objects() -> BTreeMap<String, VirtualObject> {
    let (record, layout) = (record(), layout());
    let mut objects: BTreeMap<String, VirtualObject> = (1..=SEGMENTS)
        .map(|number| (segment_key(number), VirtualObject::listed(OBJECT_BYTES.into())))
        .collect();
    let last_log = u32::try_from(SEGMENTS / PER_LOG).unwrap();
    for log in 0..last_log {
        objects.insert(layout.rollup(TIMELINE, log).to_string(), later(move || sealed_rollup(log)));
    }
    let siblings = numbers_of(last_log).take_while(|number| *number < SEGMENTS).map(entry).collect();
    for (number, siblings) in [(STOP, Vec::new()), (SEGMENTS, siblings)] {
        let object = Bytes::from(sealed_segment(number, siblings).to_vec());
        objects.insert(segment_key(number), VirtualObject::of(object));
    }
    let mut records = |key: String, text: Vec<u8>| {
        objects.insert(key, VirtualObject::of(Bytes::from(text)));
    };
    records(layout.marker().to_string(), encode_envelope(RecordKind::Incarnation, &record).unwrap());
    let server = ServerRecord {
        revision: 1,
        server: record.server.clone(),
        repository_id: record.repository_id.clone(),
        current: record.incarnation(),
        incarnations: vec![IncarnationEntry { incarnation: record.incarnation(), added_by: writer() }],
        adoptions: Vec::new(),
    };
    let revision = ServerLayout::new(record.server.clone()).revision(1).to_string();
    records(revision, encode_envelope(RecordKind::Server, &server).unwrap());
    let mut all = Vec::new();
    for backup in (0..BACKUPS).map(backup) {
        let text = encode_envelope(RecordKind::Backup, &backup).unwrap();
        all.extend_from_slice(text.trim_ascii_end());
        all.push(b'\n');
        records(layout.backup(&backup.id).commit().to_string(), text);
    }
    let fields = fields(ObjectKind::BackupRollup, "backup/rollup".to_owned(), None);
    let sealed = seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, &all, None).unwrap();
    records(layout.backup_rollup().to_string(), sealed.to_vec());
    objects
}

/// Runs the program and measures it.
fn measured(bucket: &VirtualBucket, arguments: &[&str]) -> (Value, usize, u64) {
    let program =
        std::env::var("WALDEN_SCALE_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_walden").to_owned());
    let directory = tempfile::tempdir().unwrap();
    let usage = directory.path().join("usage");
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M %U %S", "-o"]).arg(&usage).arg(Path::new(&program)).args(arguments);
    command.args(["--output", "json"]).env("HOME", directory.path());
    let store = bucket.store();
    command.env("WALDEN_REPO", store.url).env("WALDEN_SERVER", "main").envs(store.environment);
    let _before = bucket.take_requests();
    let output = command.output().unwrap();
    let requests = bucket.take_requests();
    assert!(output.status.success(), "{}\n{}", super::support::describe(&output), requests.join("\n"));
    let usage = std::fs::read_to_string(usage).unwrap();
    let peak_kib = usage.split(' ').next().unwrap().parse().unwrap();
    println!("{arguments:?}: {} requests; peak KiB, user s, system s: {}", requests.len(), usage.trim());
    assert!(requests.len() <= 40, "{}", requests.join("\n"));
    assert!(peak_kib < 256 << 10, "{peak_kib} KiB");
    (serde_json::from_slice(&output.stdout).unwrap(), requests.len(), peak_kib)
}

#[test]
fn a_million_segments_are_planned_over_in_few_requests() {
    let bucket = VirtualBucket::start(objects()).unwrap();
    let stop = commits(STOP);
    let middle = Timestamp::from_microsecond(stop[0].time.unix_micros() + 100_000).unwrap();
    let (plan, _, _) = measured(&bucket, &["plan", "--target-time", &middle.to_string()]);
    assert_eq!(plan["stop"]["last_kept"]["xid"], stop[0].xid.get());
    assert_eq!(plan["stop"]["first_left_out"]["xid"], stop[1].xid.get());
    assert_eq!(plan["stop"]["lsn"], stop[1].lsn.to_string());
    let before = (0..BACKUPS).map(backup).filter(|backup| backup.finished_at <= middle).last().unwrap();
    assert_eq!(plan["backup"]["id"], before.id.as_str());
    let first = segment_size().segment_of(before.start_lsn).get();
    assert_eq!(plan["segments"]["count"], STOP - first + 1);
    let (latest, _, _) = measured(&bucket, &["plan"]);
    assert_eq!(latest["stop"]["last_kept"]["xid"], commits(SEGMENTS)[1].xid.get());
    let (window, _, _) = measured(&bucket, &["window"]);
    let only = &window["timelines"][0];
    assert_eq!(only["segments"], SEGMENTS);
    assert_eq!(only["gaps"], serde_json::json!([]));
    assert_eq!(only["last"]["xid"], commits(SEGMENTS)[1].xid.get());
    assert_eq!(only["backups"].as_array().unwrap().len() as u64, BACKUPS);
}
