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
use walden_core::index::{Carry, LogSummary, Rollup, RollupEntry, SegmentIndex, TouchedBlocks};
use walden_core::{
    IncarnationEntry, IncarnationLayout, ObjectKind, RecordKind, ServerLayout, ServerRecord, WalIdentity,
    encode_envelope,
};
use walden_pg::{ArchiveFileName, SegmentId, SegmentNumber};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, SealedObject, seal_bytes};
use walden_testkit::million::{
    self, BACKUPS, OBJECT_BYTES, PER_LOG, SEGMENTS, STOP, TIMELINE, backup, commits, logs, numbers_of, plain,
    record, segment_size, summary, writer,
};
use walden_testkit::stores::{Contents, VirtualBucket, VirtualObject};

fn layout() -> IncarnationLayout {
    ServerLayout::new(record().server).incarnation(record().incarnation())
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
        first_record: None,
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

fn entry(number: u64) -> RollupEntry {
    static STOP_BYTES: OnceLock<u32> = OnceLock::new();
    let stop_bytes = || u32::try_from(sealed_segment(STOP, Vec::new()).object_bytes()).unwrap();
    let usual = million::entry(number);
    if number == STOP {
        return RollupEntry { object_bytes: *STOP_BYTES.get_or_init(stop_bytes), ..usual };
    }
    usual
}

fn sealed_rollup(log: u32) -> Bytes {
    static EARLIER: OnceLock<Vec<LogSummary>> = OnceLock::new();
    let earlier = EARLIER.get_or_init(|| logs(entry));
    let rollup = Rollup {
        timeline: TIMELINE,
        log,
        segments: numbers_of(log).map(entry).collect(),
        earlier: earlier.iter().take(log as usize).cloned().collect(),
    };
    let name = format!("{}/{log:08X}/rollup", TIMELINE.hex());
    let fields = fields(ObjectKind::Rollup, name, None);
    let sealed =
        seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, &rollup.encode(), None).unwrap();
    Bytes::from(sealed.to_vec())
}

fn later(make: impl Fn() -> Bytes + Send + Sync + 'static) -> VirtualObject {
    let contents: Contents = Arc::new(make);
    VirtualObject { bytes: 100_000, contents: Some(contents) }
}

fn segment_key(number: u64) -> String {
    let name = SegmentId::new(TIMELINE, SegmentNumber::new(number)).name(segment_size());
    layout().archive_file(ArchiveFileName::Segment(name)).to_string()
}

pub(crate) fn objects() -> BTreeMap<String, VirtualObject> {
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
    let before = (0..BACKUPS).map(backup).rfind(|backup| backup.finished_at <= middle).unwrap();
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
