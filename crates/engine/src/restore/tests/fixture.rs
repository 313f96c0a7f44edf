//! A small archive with one backup, made by hand in a local directory.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use walden_core::index::{SegmentSummary, TimeRange, WalFacts, XidRange};
use walden_core::{
    BackupId, BackupKind, BackupLayout, BackupRecord, BackupSource, CatalogSnapshot, Extent, FileEntry,
    Incarnation, IncarnationRecord, ManifestEntry, ManifestHeader, ManifestPath, ManifestTotals,
    ObjectHeader, ObjectKey, ObjectKind, ObjectReference, Planning, RecordKind, RecordSpan, RecoveryAction,
    RecoveryPlan, RecoveryRates, RecoveryRequest, RecoveryTarget, SegmentDetail, SegmentEnd, ServerLayout,
    ServerSettings, Tablespace, TargetTimeline, TransactionEndMark, Writer, encode_envelope,
    encode_padded_header_frame, plan_recovery,
};
use walden_pg::{ControlFile, Lsn, PgTimestamp, SegmentName, TimelineId, Xid};
use walden_store::{
    CompressionLevel, Environment, HeaderFields, IdentityHash, Store, StoreConfig, seal_bytes,
};

use crate::clock::Clock;
use crate::context::Context;
use crate::progress::{NoProgress, Progress};
use crate::restore::{ArchiveMode, RestoreRequest};

const CONTROL: &[u8] = include_bytes!("../../../../pg/fixtures/pg17/pg_control");
const HEADER_BYTES: usize = 4096;

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        at(10_000)
    }
}

pub(in crate::restore) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

/// Bytes that do not compress and differ from seed to seed.
pub(in crate::restore) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(bytes)
    .collect()
}

pub(in crate::restore) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(in crate::restore) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// An archive under construction.
pub(in crate::restore) struct Fixture {
    top: TempDir,
    pub(in crate::restore) ctx: Context,
    /// Entries by their paths, which is their order.
    pub(in crate::restore) entries: BTreeMap<Vec<u8>, ManifestEntry>,
    /// What was backed up, for comparison.
    pub(in crate::restore) contents: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The frames of pack 0.
    pub(in crate::restore) frames: Vec<u8>,
    pub(in crate::restore) tablespaces: Vec<Tablespace>,
    pub(in crate::restore) record: BackupRecord,
}

impl Fixture {
    /// A data directory as small as one can be.
    pub(in crate::restore) fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let store = top.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let url = format!("file://{}", store.display()).parse().unwrap();
        let ctx = Context {
            store: Store::open(&url, &StoreConfig::default(), &Environment::default()).unwrap(),
            server: "main".parse().unwrap(),
            clock: Arc::new(FixedClock),
            progress: Arc::new(NoProgress),
            state_directory: None,
            store_deadline: Duration::from_secs(10),
            host: "here".into(),
        };
        let control = ControlFile::parse(CONTROL).unwrap();
        let record = record(&control);
        let mut fixture = Self {
            top,
            ctx,
            entries: BTreeMap::new(),
            contents: BTreeMap::new(),
            frames: Vec::new(),
            tablespaces: Vec::new(),
            record,
        };
        for path in ["base", "base/5", "global", "pg_tblspc", "pg_wal"] {
            fixture.directory(path, 0o700);
        }
        let label = format!(
            "START WAL LOCATION: {} (file 00000001000000000000000B)\nCHECKPOINT LOCATION: {}\n\
             BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 10:00:00 UTC\nLABEL: test\n\
             START TIMELINE: 1\n",
            fixture.record.start_lsn, fixture.record.checkpoint_lsn
        );
        fixture.file("backup_label", label.as_bytes());
        fixture.file("PG_VERSION", b"17\n");
        let mut control = CONTROL.to_vec();
        control.resize(ControlFile::FILE_SIZE, 0);
        fixture.file("global/pg_control", &control);
        fixture.file("postgresql.conf", b"max_connections = 200\nmax_worker_processes = 32\nmax_wal_senders = 30\nmax_prepared_transactions = 50\nmax_locks_per_transaction = 100\n");
        fixture.file("postgresql.auto.conf", b"# old\nrecovery_target_xid = '7'\nwork_mem = '8MB'\n");
        fixture.file("pg_hba.conf", b"local all all trust\n");
        fixture.file("pg_ident.conf", b"");
        fixture
    }

    pub(in crate::restore) fn path(&self, name: &str) -> PathBuf {
        self.top.path().canonicalize().unwrap().join(name)
    }

    pub(in crate::restore) fn target(&self) -> PathBuf {
        self.path("restored")
    }

    pub(in crate::restore) fn with_progress(&mut self, progress: Arc<dyn Progress>) {
        self.ctx.progress = progress;
    }

    fn layout(&self) -> BackupLayout {
        ServerLayout::new(self.ctx.server.clone())
            .incarnation(self.record.incarnation)
            .backup(&self.record.id)
    }

    /// The file that holds an object.
    pub(in crate::restore) fn object(&self, key: &ObjectKey) -> PathBuf {
        self.path("store").join(key.as_str())
    }

    pub(in crate::restore) fn pack(&self) -> PathBuf {
        self.object(&self.layout().pack(0))
    }

    pub(in crate::restore) fn manifest_key(&self) -> ObjectKey {
        self.layout().manifest()
    }

    pub(in crate::restore) fn manifest(&self) -> PathBuf {
        self.object(&self.manifest_key())
    }

    pub(in crate::restore) fn directory(&mut self, path: &str, mode: u32) {
        let entry = ManifestEntry::Directory { path: ManifestPath::Text(path.into()), mode };
        self.entries.insert(path.into(), entry);
    }

    pub(in crate::restore) fn link(&mut self, path: &str, target: &str) {
        let text = |text: &str| ManifestPath::Text(text.into());
        self.entries.insert(path.into(), ManifestEntry::Link { path: text(path), target: text(target) });
    }

    /// Compresses a frame into the pack and returns where it is.
    pub(in crate::restore) fn frame(&mut self, plain: &[u8]) -> (u64, u64) {
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        compressor.include_checksum(true).unwrap();
        let frame = compressor.compress(plain).unwrap();
        self.raw_frame(&frame)
    }

    pub(in crate::restore) fn raw_frame(&mut self, frame: &[u8]) -> (u64, u64) {
        let offset = (HEADER_BYTES + self.frames.len()) as u64;
        self.frames.extend_from_slice(frame);
        (offset, frame.len() as u64)
    }

    /// Adds a file whose bytes are in one frame each mebibyte.
    pub(in crate::restore) fn file(&mut self, path: &str, bytes: &[u8]) {
        let mut extents = Vec::new();
        for (number, piece) in bytes.chunks(1 << 20).enumerate() {
            let (frame_offset, frame_bytes) = self.frame(piece);
            let file_offset = (number << 20) as u64;
            extents.push(Extent {
                file_offset,
                bytes: piece.len() as u64,
                pack: 0,
                frame_offset,
                frame_bytes,
                skip: 0,
            });
        }
        self.file_of(path, bytes, extents);
    }

    pub(in crate::restore) fn file_of(&mut self, path: &str, bytes: &[u8], extents: Vec<Extent>) {
        self.entries.insert(
            path.into(),
            ManifestEntry::File(FileEntry {
                path: ManifestPath::Text(path.into()),
                bytes: bytes.len() as u64,
                mode: 0o600,
                modified: 0,
                sha256: sha256(bytes),
                extents,
            }),
        );
        self.contents.insert(path.into(), bytes.to_vec());
    }

    pub(in crate::restore) fn entry(&mut self, path: &str) -> &mut FileEntry {
        match self.entries.get_mut(path.as_bytes()) {
            Some(ManifestEntry::File(file)) => file,
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::restore) fn header(&self) -> ManifestEntry {
        ManifestEntry::Header(ManifestHeader {
            schema: 1,
            backup: self.record.id.clone(),
            user: None,
            group: None,
        })
    }

    /// All lines of the manifest, in order.
    pub(in crate::restore) fn lines(&self) -> Vec<ManifestEntry> {
        let mut totals = ManifestTotals::default();
        for entry in self.entries.values() {
            match entry {
                ManifestEntry::File(file) => {
                    totals.files += 1;
                    totals.bytes = totals.bytes.saturating_add(file.bytes);
                }
                ManifestEntry::Directory { .. } => totals.directories += 1,
                _ => {}
            }
        }
        let mut lines = vec![self.header()];
        lines.extend(self.entries.values().cloned());
        lines.push(ManifestEntry::Totals(totals));
        lines
    }

    pub(in crate::restore) fn publish(&mut self) -> RecoveryPlan {
        let lines = self.lines();
        self.publish_lines(&lines)
    }

    pub(in crate::restore) fn publish_lines(&mut self, lines: &[ManifestEntry]) -> RecoveryPlan {
        let mut plain = Vec::new();
        for line in lines {
            plain.extend_from_slice(serde_json::to_string(line).unwrap().as_bytes());
            plain.push(b'\n');
        }
        self.publish_manifest(&plain)
    }

    /// Writes the pack, a manifest of these plain bytes, and the records; returns a plan to the end.
    pub(in crate::restore) fn publish_manifest(&mut self, plain: &[u8]) -> RecoveryPlan {
        let fields = HeaderFields {
            kind: ObjectKind::Manifest,
            name: "manifest.zst".into(),
            server: self.record.server.clone(),
            incarnation: self.record.incarnation,
            writer: self.record.writer.clone(),
            wal: None,
        };
        let sealed = seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, plain, None).unwrap();
        write(&self.manifest(), &sealed.to_vec());
        self.record.manifest = ObjectReference {
            plain_bytes: plain.len() as u64,
            plain_sha256: sha256(plain),
            object_bytes: sealed.object_bytes(),
        };
        self.record.tablespaces.clone_from(&self.tablespaces);
        let pack_header = ObjectHeader {
            kind: ObjectKind::Pack,
            name: "00000000.zst".into(),
            plain_sha256: None,
            stored_sha256: Some(sha256(&self.frames)),
            stored_bytes: self.frames.len() as u64,
            ..sealed.header().clone()
        };
        let mut pack = encode_padded_header_frame(&pack_header, HEADER_BYTES).unwrap();
        pack.extend_from_slice(&self.frames);
        write(&self.pack(), &pack);
        self.publish_records()
    }

    pub(in crate::restore) fn publish_records(&self) -> RecoveryPlan {
        let incarnation = IncarnationRecord {
            server: self.record.server.clone(),
            repository_id: "ab".repeat(16),
            system_id: self.record.incarnation.system_id,
            major: self.record.incarnation.major,
            segment_size: self.record.segment_size,
            created_by: self.record.writer.clone(),
        };
        let marker = ServerLayout::new(self.ctx.server.clone()).incarnation(self.record.incarnation).marker();
        self.write_record(RecordKind::Incarnation, &marker, &incarnation);
        self.write_record(RecordKind::Backup, &self.layout().commit(), &self.record);
        let mut snapshot = CatalogSnapshot::new(incarnation);
        let segment: SegmentName = "00000001000000000000000B".parse().unwrap();
        snapshot.add_segment(segment, 1000);
        add_one_commit(&mut snapshot, segment, self.record.stop_lsn, at(3000));
        snapshot.backups.push(self.record.clone());
        let request = RecoveryRequest {
            target: RecoveryTarget::Time(at(2000)),
            exclusive: false,
            timeline: TargetTimeline::Latest,
            action: RecoveryAction::Pause,
            backup: None,
            rates: RecoveryRates::default(),
        };
        match plan_recovery(&snapshot, &request, at(9000)) {
            Planning::Plan(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::restore) fn write_record<T: Serialize>(
        &self,
        kind: RecordKind,
        key: &ObjectKey,
        record: &T,
    ) {
        write(&self.object(key), &encode_envelope(kind, record).unwrap());
    }

    pub(in crate::restore) fn request(&self) -> RestoreRequest {
        RestoreRequest {
            pgdata: self.target(),
            tablespace_mapping: Vec::new(),
            allow_tablespaces: Vec::new(),
            jobs: std::num::NonZeroUsize::new(3),
            restore_command: "walden wal get %f %p".into(),
            settings: Vec::new(),
            archive_mode: ArchiveMode::Preserve,
            drill: false,
            start: None,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

fn record(control: &ControlFile) -> BackupRecord {
    let incarnation = Incarnation { system_id: control.system_id, major: control.major };
    let start = 0xB * control.wal_segment_size.bytes() + 0x28;
    BackupRecord {
        id: BackupId::new(at(0), 0x7f3a),
        kind: BackupKind::Full,
        parent: None,
        server: "main".parse().unwrap(),
        incarnation,
        source: BackupSource::Primary,
        label: "test".into(),
        timeline: TimelineId::FIRST,
        stop_timeline: TimelineId::FIRST,
        start_lsn: Lsn::new(start),
        checkpoint_lsn: Lsn::new(start + 0x58),
        stop_lsn: Lsn::new(start + 0x100),
        next_xid: 1000,
        oldest_xid: None,
        segment_size: control.wal_segment_size,
        started_at: at(0),
        finished_at: at(10),
        bytes: 4000,
        stored_bytes: 2000,
        files: 10,
        packs: 1,
        manifest: ObjectReference { plain_bytes: 0, plain_sha256: String::new(), object_bytes: 0 },
        names: None,
        tablespaces: Vec::new(),
        settings: ServerSettings {
            server_version: "17.10".into(),
            max_connections: 117,
            max_worker_processes: 25,
            max_wal_senders: 17,
            max_prepared_transactions: 34,
            max_locks_per_transaction: 81,
            wal_level: "replica".into(),
            data_checksums: true,
        },
        checksum_failures: Vec::new(),
        requires: Vec::new(),
        writer: Writer::new("db1", "/data", at(0)),
    }
}

/// Makes the segment hold a single commit, right behind the backup.
fn add_one_commit(snapshot: &mut CatalogSnapshot, name: SegmentName, after: Lsn, when: Timestamp) {
    let size = snapshot.incarnation.segment_size;
    let segment = name.id(size).unwrap();
    let before = RecordSpan { start: after.checked_sub(32).unwrap(), end: after };
    let span = RecordSpan { start: after, end: after.saturating_add(64) };
    let time = PgTimestamp::from_unix_micros(when.as_microsecond());
    let end = TransactionEndMark { span, xid: Xid::new(700), time, commit: true };
    let facts = WalFacts {
        commits: 1,
        first_commit: Some(end.mark()),
        last_commit: Some(end.mark()),
        commit_times: Some(TimeRange::of(time)),
        end_times: Some(TimeRange::of(time)),
        xids: Some(XidRange::of(end.xid)),
        ..WalFacts::default()
    };
    let summary = SegmentSummary { facts, wal_end: span.end, joined: true, straddler: None };
    snapshot.summaries.insert(segment, summary);
    snapshot.summarized.insert((segment.timeline, name.log()));
    snapshot.add_detail(SegmentDetail {
        segment,
        read_from: segment.number,
        joined: true,
        // What ends the backup, and the commit right after it.
        records: vec![before, span],
        ends: vec![end],
        restore_points: Vec::new(),
        parameters: Vec::new(),
        backup_ends: Vec::new(),
        damage: Vec::new(),
        damage_count: 0,
        end: SegmentEnd::GoesOn,
    });
}
