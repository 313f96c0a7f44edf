//! Whole backups of made-up data directories over a made-up session.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use walden_core::{
    BackupRecord, ErrorKind, Extent, FileEntry, Incarnation, ManifestEntry, RecordKind, decode_envelope,
    decode_header_frame,
};
use walden_pg::{ControlFile, Lsn};
use walden_store::{Environment, Expected, Store, StoreConfig, StoreUrl, open_extent, open_sealed};

mod wal;

use super::checks::tests::identity;
use super::names::ServerNames;
use super::*;
use crate::clock::SystemClock;
use crate::error::EngineError;
use crate::init::{InitRequest, init};
use crate::progress::{NoProgress, Progress, Unit};
use crate::rollup::{read_backup_rollup, refresh_backup_rollup};

const CONTROL: &[u8] = include_bytes!("../../../pg/fixtures/pg17/pg_control");

/// A context over a local directory that is there.
pub(super) fn context(store: &Path) -> Context {
    let url = StoreUrl::from_directory(store).unwrap();
    Context {
        store: Store::open(&url, &StoreConfig::default(), &Environment::default()).unwrap(),
        server: "main".parse().unwrap(),
        clock: Arc::new(SystemClock),
        progress: Arc::new(NoProgress),
        state_directory: None,
        store_deadline: Duration::from_secs(20),
        host: "db1".into(),
    }
}

fn control() -> ControlFile {
    ControlFile::parse(CONTROL).unwrap()
}

pub(super) fn incarnation() -> Incarnation {
    Incarnation { system_id: control().system_id, major: control().major }
}

/// What a test does at one point of a backup.
type Hook = Option<Box<dyn FnOnce() + Send>>;

/// A session with no server behind it.
#[derive(Default)]
pub(super) struct FakePostgres {
    pub(super) archiver: ArchiverState,
    data: Option<PathBuf>,
    tablespace_map: Vec<u8>,
    /// Runs when the backup has started.
    after_start: Hook,
    /// Runs when the backup has stopped.
    after_stop: Hook,
    /// Where the backup starts instead of where `pg_control` says.
    start: Option<Lsn>,
    /// Where the server runs instead of in the data directory that is named.
    runs_in: Option<PathBuf>,
    /// Whether it never says how archiving goes.
    pub(super) is_mute: bool,
    closed: bool,
    aborted: Arc<AtomicBool>,
}

const START: u64 = 0x200_0028;
const STOP: u64 = 0x200_0150;

const SNAPSHOT: &str = "00000003-00000002-1";

impl FakePostgres {
    fn snapshots(&self) -> PathBuf {
        self.runs_in.as_ref().or(self.data.as_ref()).unwrap().join("pg_snapshots")
    }
}

impl PostgresControl for FakePostgres {
    async fn identify(&mut self) -> Result<ServerIdentity> {
        let data_directory = self.data.as_ref().map(|path| path.display().to_string());
        let control = control();
        Ok(ServerIdentity {
            system_id: control.system_id,
            major: control.major,
            data_directory,
            ..identity()
        })
    }

    async fn export_snapshot(&mut self) -> Result<ExportedSnapshot> {
        let directory = self.snapshots();
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(SNAPSHOT), "vxid:3/2\npid:4711\ndbid:5\n").unwrap();
        Ok(ExportedSnapshot { name: SNAPSHOT.into(), backend_pid: 4711 })
    }

    async fn drop_snapshot(&mut self) -> Result<()> {
        std::fs::remove_file(self.snapshots().join(SNAPSHOT)).unwrap();
        Ok(())
    }

    async fn start_backup(&mut self, _label: &str, _fast: bool) -> Result<Lsn> {
        if let Some(hook) = self.after_start.take() {
            hook();
        }
        Ok(self.start.unwrap_or(Lsn::new(START)))
    }

    async fn stop_backup(&mut self) -> Result<StoppedBackup> {
        if let Some(hook) = self.after_stop.take() {
            hook();
        }
        Ok(StoppedBackup {
            lsn: Lsn::new(STOP),
            label: b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                CHECKPOINT LOCATION: 0/2000080\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
                START TIME: 2026-11-20 10:00:00 UTC\nLABEL: walden\nSTART TIMELINE: 1\n"
                .to_vec(),
            tablespace_map: self.tablespace_map.clone(),
        })
    }

    async fn now(&mut self) -> Result<Timestamp> {
        Ok("2026-11-20T10:00:00Z".parse().unwrap())
    }

    async fn next_xid(&mut self) -> Result<u64> {
        Ok(777)
    }

    async fn oldest_xid(&mut self) -> Result<u64> {
        Ok(700)
    }

    async fn archiver(&mut self) -> Result<ArchiverState> {
        if self.is_mute {
            std::future::pending::<()>().await;
        }
        Ok(self.archiver.clone())
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn names(&self) -> Option<ServerNames> {
        None
    }

    async fn abort(&mut self) {
        self.aborted.store(true, Ordering::Relaxed);
    }
}

/// A data directory, a repository made for it, and a session.
struct Bench {
    directory: tempfile::TempDir,
    ctx: Context,
    postgres: FakePostgres,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("repo")).unwrap();
        let ctx = context(&directory.path().join("repo"));
        let bench = Self { directory, ctx, postgres: FakePostgres::default() };
        let mut file = CONTROL.to_vec();
        file.resize(8192, 0);
        bench.write("global/pg_control", &file);
        bench.write("PG_VERSION", b"17\n");
        bench.write("pg_wal/archive_status/x", b"");
        let data = crate::DataDirectory::open(&bench.data()).unwrap();
        init(&bench.ctx, &InitRequest { data: data.clone() }).await.unwrap();
        bench
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn write(&self, path: &str, contents: &[u8]) {
        let path = self.data().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    fn archive(&self) -> PathBuf {
        self.directory.path().join(format!("repo/main/{}", incarnation()))
    }

    /// A session whose server archives the backup's one segment when it stops.
    fn session(&mut self) -> FakePostgres {
        let directory = self.archive().join("wal/00000001/00000000");
        let mut postgres = std::mem::take(&mut self.postgres);
        postgres.data = Some(self.data());
        postgres.after_stop.get_or_insert(Box::new(move || {
            wal::archive(&directory, &wal::segment(START, STOP, 0));
        }));
        postgres
    }

    async fn run(&mut self) -> Result<BackupReport> {
        let request =
            BackupRequest { jobs: 2, wal_timeout: Duration::from_secs(5), ..BackupRequest::default() };
        let postgres = self.session();
        BackupRunner::new(&self.ctx, request)?.run(postgres, std::future::pending()).await
    }

    /// The files that a backup's objects hold, by reading them as a restore would.
    fn restored(&self, record: &BackupRecord) -> BTreeMap<String, Vec<u8>> {
        let directory = self.archive().join("backup").join(record.id.as_str());
        let stored = std::fs::read(directory.join("backup.json")).unwrap();
        assert_eq!(decode_envelope::<BackupRecord>(RecordKind::Backup, &stored).unwrap(), *record);
        let manifest = std::fs::read(directory.join("manifest.zst")).unwrap();
        assert_eq!(manifest.len() as u64, record.manifest.object_bytes);
        let expected = Expected { name: "manifest.zst", max_plain_bytes: record.manifest.plain_bytes };
        let opened = open_sealed(&manifest, expected).unwrap();
        assert_eq!(opened.header.plain_sha256.unwrap(), record.manifest.plain_sha256);
        let text = String::from_utf8(opened.plain).unwrap();
        let lines: Vec<ManifestEntry> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let packs: Vec<Vec<u8>> = (0..record.packs)
            .map(|number| std::fs::read(directory.join(format!("pack/{number:08}.zst"))).unwrap())
            .collect();
        let stored = packs.iter().map(Vec::len).sum::<usize>() + manifest.len();
        assert_eq!(stored as u64, record.stored_bytes);
        check_lines(&lines, record);
        let files = lines.iter().filter_map(|line| match line {
            ManifestEntry::File(file) => Some((file.path.to_string(), contents(file, &packs))),
            _ => None,
        });
        files.collect()
    }

    fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![self.archive().join("backup")];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries.map(std::result::Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else {
                    found.push(entry.file_name().into_string().unwrap());
                }
            }
        }
        found.sort();
        found
    }
}

fn check_lines(lines: &[ManifestEntry], record: &BackupRecord) {
    let Some(ManifestEntry::Header(header)) = lines.first() else { panic!("no header") };
    assert_eq!(header.backup, record.id);
    let Some(ManifestEntry::Totals(totals)) = lines.last() else { panic!("no totals") };
    let path = |line: &ManifestEntry| match line {
        ManifestEntry::Directory { path, .. } | ManifestEntry::Link { path, .. } => path.to_bytes().unwrap(),
        ManifestEntry::File(file) => file.path.to_bytes().unwrap(),
        ManifestEntry::Header(_) | ManifestEntry::Totals(_) => panic!("in the middle"),
    };
    let paths: Vec<Vec<u8>> = lines[1..lines.len() - 1].iter().map(path).collect();
    assert!(paths.is_sorted_by(|a, b| a < b), "in order, and none twice");
    let files: Vec<&FileEntry> = lines
        .iter()
        .filter_map(|line| match line {
            ManifestEntry::File(file) => Some(file),
            _ => None,
        })
        .collect();
    assert_eq!((totals.files, totals.files), (files.len() as u64, record.files));
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    assert_eq!((totals.bytes, record.bytes), (bytes, bytes));
}

/// A file's bytes from the packs, checked.
fn contents(file: &FileEntry, packs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.bytes).unwrap()];
    for Extent { file_offset, bytes: length, pack, frame_offset, frame_bytes, skip } in &file.extents {
        let at = |value: &u64| usize::try_from(*value).unwrap();
        let pack = &packs[at(pack)];
        let (header, front) = decode_header_frame(pack).unwrap();
        assert_eq!((front, header.stored_bytes), (4096, pack.len() as u64 - 4096));
        assert!(header.plain_sha256.is_none() && header.stored_sha256.is_some());
        let frame = &pack[at(frame_offset)..at(frame_offset) + at(frame_bytes)];
        let plain = zstd::zstd_safe::get_frame_content_size(frame).unwrap().unwrap();
        let plain = open_extent(frame, plain).unwrap();
        bytes[at(file_offset)..at(file_offset) + at(length)]
            .copy_from_slice(&plain[at(skip)..at(skip) + at(length)]);
    }
    assert_eq!(packs::hex(&Sha256::digest(&bytes)), file.sha256, "{}", file.path);
    bytes
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_comes_back_and_the_record_says_what_it_is() {
    let mut bench = Bench::new().await;
    let large = [noise(1, 3 << 20), vec![0; 2 << 20], noise(2, 700_001)].concat();
    bench.write("base/5/16384", &large);
    bench.write("base/5/16384_fsm", &vec![0; 24_576]);
    bench.write("base/5/PG_VERSION", b"17\n");
    bench.write("postgresql.auto.conf", b"");
    for n in 0..3000 {
        bench.write(&format!("base/6/{n}"), &noise(n, usize::try_from(n).unwrap() % 900));
    }
    bench.write("base/6-x", b"sorts between base/6 and base/6/0");
    let report = bench.run().await.unwrap();
    let record = &report.backup;
    assert_eq!((record.start_lsn.get(), record.stop_lsn.get(), record.next_xid), (START, STOP, 777));
    assert_eq!(record.oldest_xid, Some(700));
    assert_eq!(record.checkpoint_lsn.to_string(), "0/2000080");
    assert_eq!((report.wal.segments, report.wal.last.to_string().as_str()), (1, "000000010000000000000002"));
    let restored = bench.restored(record);
    assert_eq!(restored["base/5/16384"], large);
    assert_eq!(restored["base/5/16384_fsm"], vec![0; 24_576]);
    assert!(restored["backup_label"].starts_with(b"START WAL LOCATION: 0/2000028"));
    assert!(!restored.contains_key("tablespace_map"));
    for (path, contents) in &restored {
        if path != "backup_label" {
            assert_eq!(*contents, std::fs::read(bench.data().join(path)).unwrap(), "{path}");
        }
    }
    assert_eq!(restored.len(), 3000 + 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_repeated_in_one_object() {
    let mut bench = Bench::new().await;
    let first = bench.run().await.unwrap().backup;
    let layout = bench.ctx.layout().incarnation(incarnation());
    let read = async |ctx: &Context| {
        let copies = read_backup_rollup(ctx, &layout, &ctx.budget()).await.unwrap();
        copies.into_iter().map(|copy| copy.record).collect::<Vec<_>>()
    };
    assert_eq!(read(&bench.ctx).await, std::slice::from_ref(&first));
    // Lost or damaged, it is made again; a record that only it holds is no backup.
    std::fs::write(bench.archive().join("backup/rollup"), b"rubbish").unwrap();
    assert_eq!(read(&bench.ctx).await, []);
    let marker = crate::server::read_incarnation(&bench.ctx, incarnation()).await.unwrap().unwrap();
    let before = bench.ctx.store.counters();
    let overview = crate::load_overview(&bench.ctx, &marker).await.unwrap();
    assert_eq!(overview.backups, std::slice::from_ref(&first));
    assert_eq!(overview.strays, []);
    assert_eq!(bench.ctx.store.counters().since(&before).get.requests, 2, "the rollup and the record");
    refresh_backup_rollup(&bench.ctx, &layout, None, false).await.unwrap();
    let before = bench.ctx.store.counters();
    let mut overview = crate::load_overview(&bench.ctx, &marker).await.unwrap();
    assert_eq!(bench.ctx.store.counters().since(&before).get.requests, 1, "the rollup alone");
    std::fs::remove_file(bench.archive().join(format!("backup/{}/backup.json", first.id))).unwrap();
    crate::read_backup_record(&bench.ctx, &mut overview, &first.id).await.unwrap();
    assert_eq!((overview.backups.len(), overview.unfinished_backups), (0, vec![first.id.clone()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_cut_and_stored_while_copying_goes_on() {
    let mut bench = Bench::new().await;
    for n in 1..5 {
        bench.write(&format!("base/5/{n}"), &noise(n, 15 << 20));
    }
    let report = bench.run().await.unwrap();
    assert_eq!(report.backup.packs, 3);
    let restored = bench.restored(&report.backup);
    assert_eq!(restored["base/5/4"], noise(4, 15 << 20));
    let objects = bench.objects();
    let packs: Vec<String> = (0..3).map(|n| format!("{n:08}.zst")).collect();
    let others = ["backup.json", "manifest.zst", "rollup"].map(str::to_owned);
    assert_eq!(objects, [packs.as_slice(), &others].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_vanish_after_the_walk_are_left_out() {
    struct Vanishing {
        file: PathBuf,
    }
    impl Progress for Vanishing {
        fn begin(&self, phase: &str, _unit: Unit, _total: u64) {
            if phase == "copying" {
                std::fs::remove_file(&self.file).unwrap();
            }
        }
        fn advance(&self, _amount: u64) {}
        fn end(&self) {}
    }
    let mut bench = Bench::new().await;
    bench.write("base/5/1", b"stays");
    bench.write("base/5/2", b"goes");
    bench.write("base/5/3", b"stays too");
    bench.ctx.progress = Arc::new(Vanishing { file: bench.data().join("base/5/2") });
    let report = bench.run().await.unwrap();
    assert_eq!(report.vanished_files, 1);
    let restored = bench.restored(&report.backup);
    let kept: Vec<&str> =
        restored.keys().map(String::as_str).filter(|path| path.starts_with("base")).collect();
    assert_eq!(kept, ["base/5/1", "base/5/3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_begins_after_the_start() {
    let mut bench = Bench::new().await;
    let late = bench.data().join("base/5/9");
    bench.write("base/5/1", b"x");
    bench.postgres.after_start = Some(Box::new(move || std::fs::write(late, b"made meanwhile").unwrap()));
    let report = bench.run().await.unwrap();
    assert_eq!(bench.restored(&report.backup)["base/5/9"], b"made meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_of_a_copy_is_found_out() {
    let mut bench = Bench::new().await;
    // The server's checkpoint is newer than what this directory has seen.
    bench.postgres.start = Some(Lsn::new(0x900_0028));
    let aborted = Arc::clone(&bench.postgres.aborted);
    let error = bench.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongServer, "{error}");
    assert!(aborted.load(Ordering::Relaxed));
    assert!(bench.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_of_a_running_clone_is_found_out() {
    let mut bench = Bench::new().await;
    // The clone's pg_control says all that the server's own would.
    let own = bench.directory.path().join("own");
    bench.postgres.runs_in = Some(own);
    let started = Arc::new(AtomicBool::new(false));
    let start = Arc::clone(&started);
    bench.postgres.after_start = Some(Box::new(move || start.store(true, Ordering::Relaxed)));
    let error = bench.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongServer, "{error}");
    assert!(error.to_string().contains(&format!("path={}", bench.data().display())), "{error}");
    assert!(error.to_string().contains("server_data_directory="), "{error}");
    assert!(!started.load(Ordering::Relaxed), "before a backup is started");
    assert!(bench.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_of_another_server_under_the_names_needed_is_found_out() {
    let own = || wal::segment(START, STOP, 0);
    let cases: [(&str, Vec<u8>); 5] = [
        ("end of the backup", wal::segment(START - 8, STOP, 0)),
        ("end of the backup", wal::segment(START, STOP, 8)),
        ("checkpoint", vec![0; own().len()]),
        ("checkpoint", [vec![1; 8192], own().split_off(8192)].concat()),
        ("checkpoint", wal::of_another_system(own())),
    ];
    for (missing, segment) in cases {
        let mut bench = Bench::new().await;
        let directory = bench.archive().join("wal/00000001/00000000");
        bench.postgres.after_stop = Some(Box::new(move || wal::archive(&directory, &segment)));
        let error = bench.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains(missing), "{missing}: {error}");
        assert!(error.hint().unwrap().contains("walden wal show 000000010000000000000002"));
        assert!(!bench.objects().contains(&"backup.json".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_are_recorded_with_their_map() {
    let mut bench = Bench::new().await;
    let space = bench.directory.path().join("space");
    let inside = space.join(control().tablespace_directory()).join("5");
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(inside.join("16390"), b"far away").unwrap();
    std::fs::create_dir(bench.data().join("pg_tblspc")).unwrap();
    std::os::unix::fs::symlink(&space, bench.data().join("pg_tblspc/16385")).unwrap();
    bench.postgres.tablespace_map = format!("16385 {}\n", space.display()).into_bytes();
    let report = bench.run().await.unwrap();
    let oids: Vec<u32> = report.backup.tablespaces.iter().map(|space| space.oid).collect();
    assert_eq!(oids, [16385]);
    assert_eq!(report.backup.tablespaces[0].path, space.display().to_string());
    let restored = bench.restored(&report.backup);
    let path = format!("pg_tblspc/16385/{}/5/16390", control().tablespace_directory());
    assert_eq!(restored[&path], b"far away");
    assert!(restored["tablespace_map"].starts_with(b"16385 /"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_aborts_the_backup() {
    let mut bench = Bench::new().await;
    bench.write("base/5/1", &noise(1, 4 << 20));
    bench.postgres.closed = true;
    let aborted = Arc::clone(&bench.postgres.aborted);
    let error = bench.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Postgres, "{error}");
    assert!(aborted.load(Ordering::Relaxed));
    assert!(!bench.objects().contains(&"backup.json".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_has_no_record() {
    let mut bench = Bench::new().await;
    bench.write("base/5/1", &noise(1, 8 << 20));
    // The segment never comes, so the interruption comes first.
    bench.postgres.after_stop = Some(Box::new(|| {}));
    let aborted = Arc::clone(&bench.postgres.aborted);
    let postgres = bench.session();
    let runner = BackupRunner::new(&bench.ctx, BackupRequest::default()).unwrap();
    let archive = bench.archive();
    let interrupted = async move {
        let has_manifest = || {
            let backups = std::fs::read_dir(archive.join("backup")).ok();
            backups.into_iter().flatten().any(|entry| entry.unwrap().path().join("manifest.zst").is_file())
        };
        while !has_manifest() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let error = runner.run(postgres, interrupted).await.unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert!(aborted.load(Ordering::Relaxed));
    assert_eq!(bench.objects(), ["00000000.zst", "manifest.zst"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_listed_and_the_backup_kept() {
    let mut bench = Bench::new().await;
    // Positions before the start, an initialised page, and no checksum that fits.
    let mut page = vec![1; 8192];
    page[..8].fill(0);
    for path in ["base/5/3", "base/5/2"] {
        bench.write(path, &page);
    }
    let report = bench.run().await.unwrap();
    let failures: Vec<(&str, &[u32])> = report
        .backup
        .checksum_failures
        .iter()
        .map(|failure| (failure.path.as_str(), failure.blocks.as_slice()))
        .collect();
    assert_eq!(failures, [("base/5/2", [0].as_slice()), ("base/5/3", &[0])]);
    assert!(
        report.warnings.iter().any(|warning| warning.contains("wrong in 2 files")),
        "{:?}",
        report.warnings
    );
    assert_eq!(bench.restored(&report.backup)["base/5/2"], page);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_fails_the_backup_by_name() {
    let mut bench = Bench::new().await;
    bench.write("base/5/1", b"x");
    // Readable to nobody, root included.
    std::os::unix::fs::symlink(bench.data().join("base/5/2"), bench.data().join("base/5/2")).unwrap();
    let error = bench.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalIo);
    assert!(error.to_string().contains("base/5/2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_fails_the_backup() {
    let mut bench = Bench::new().await;
    bench.write("base/5/1", &noise(1, 40 << 20));
    std::fs::write(bench.archive().join("backup"), b"in the way").unwrap();
    let error = bench.run().await.unwrap_err();
    assert!(matches!(error, EngineError::Store(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_adds_up_to_what_was_announced() {
    #[derive(Default)]
    struct Sum {
        copying: AtomicBool,
        total: AtomicU64,
        done: AtomicU64,
    }
    impl Progress for Sum {
        fn begin(&self, phase: &str, _unit: Unit, total: u64) {
            self.copying.store(phase == "copying", Ordering::Relaxed);
            self.total.fetch_add(if phase == "copying" { total } else { 0 }, Ordering::Relaxed);
        }
        fn advance(&self, amount: u64) {
            let counts = self.copying.load(Ordering::Relaxed);
            self.done.fetch_add(if counts { amount } else { 0 }, Ordering::Relaxed);
        }
        fn end(&self) {
            self.copying.store(false, Ordering::Relaxed);
        }
    }
    let mut bench = Bench::new().await;
    bench.write("base/5/1", &noise(1, 5 << 20));
    bench.write("base/5/2", &vec![0; 3 << 20]);
    let sum = Arc::new(Sum::default());
    bench.ctx.progress = Arc::clone(&sum) as Arc<dyn Progress>;
    bench.run().await.unwrap();
    assert_eq!(sum.done.load(Ordering::Relaxed), sum.total.load(Ordering::Relaxed));
    assert!(sum.total.load(Ordering::Relaxed) >= 8 << 20);
}

#[tokio::test]
async fn requests_are_held_to_their_bounds() {
    let store = tempfile::tempdir().unwrap();
    let ctx = context(store.path());
    let refused = |request: BackupRequest| BackupRunner::new(&ctx, request).map(drop).unwrap_err().kind();
    assert_eq!(refused(BackupRequest { jobs: 0, ..BackupRequest::default() }), ErrorKind::Config);
    assert_eq!(refused(BackupRequest { jobs: JOBS_MAX + 1, ..BackupRequest::default() }), ErrorKind::Config);
    assert_eq!(
        refused(BackupRequest { label: "a\nb".into(), ..BackupRequest::default() }),
        ErrorKind::Config
    );
    assert_eq!(
        refused(BackupRequest { label: "x".repeat(1025), ..BackupRequest::default() }),
        ErrorKind::Config
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_objects_were_removed_while_it_waited_for_wal_is_none() {
    let mut bench = Bench::new().await;
    let (archive, wal_directory) = (bench.archive(), bench.archive().join("wal/00000001/00000000"));
    // When everything is stored a pack goes, and only then the WAL comes.
    let remover = std::thread::spawn(move || {
        let backups = archive.join("backup");
        for _ in 0..1000 {
            let entries = std::fs::read_dir(&backups).into_iter().flatten();
            let directory = entries
                .map(|entry| entry.unwrap().path())
                .find(|path| std::fs::metadata(path.join("manifest.zst")).is_ok());
            if let Some(directory) = directory {
                std::fs::remove_file(directory.join("pack/00000000.zst")).unwrap();
                break;
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        wal::archive(&wal_directory, &wal::segment(START, STOP, 0));
    });
    bench.postgres.after_stop = Some(Box::new(|| {}));
    let error = bench.run().await.unwrap_err();
    remover.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("was removed while it ran"), "{error}");
    assert!(!bench.objects().contains(&"backup.json".to_owned()));
}
