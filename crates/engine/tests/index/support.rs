//! An archive in a directory, and real WAL to push into it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use walden_core::index::{Rollup, SegmentIndex, SegmentSummary};
use walden_core::{CatalogSnapshot, IncarnationLayout, IncarnationRecord, Need};
use walden_engine::{
    Archiver, Context, DataDirectory, InitRequest, NoProgress, PushReport, SystemClock, find_incarnation,
    init, load_snapshot, satisfy,
};
use walden_pg::{ArchiveFileName, PgMajor, SegmentId, SegmentName, TimelineId, WalSegmentSize};
use walden_store::{Environment, Expected, HeaderRead, Store, StoreConfig, StoreUrl, open_sealed};
use walden_testkit::postgres::{PgServer, StopMode};

/// Real WAL: the files of a server that was stopped, with its `pg_control`.
pub(crate) struct Wal {
    directory: TempDir,
    pub(crate) segments: Vec<SegmentName>,
}

impl Wal {
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    pub(crate) fn file(&self, name: impl std::fmt::Display) -> PathBuf {
        self.directory.path().join("pg_wal").join(name.to_string())
    }

    /// Another copy, to be damaged.
    pub(crate) fn copy(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy_directory(self.directory.path(), directory.path());
        Self { directory, segments: self.segments.clone() }
    }

    fn of(server: &PgServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("global")).unwrap();
        let control = "global/pg_control";
        std::fs::copy(server.data_dir().join(control), directory.path().join(control)).unwrap();
        copy_directory(&server.data_dir().join("pg_wal"), &directory.path().join("pg_wal"));
        Self { directory, segments: Vec::new() }
    }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// WAL of segments of 1 MiB from shortly before the end of the first LOG directory to shortly behind it. With
/// `second_timeline` the server is promoted there and writes a few segments more.
pub(crate) fn real_wal(second_timeline: bool) -> Wal {
    let mut server = PgServer::builder(PgMajor::new(17).unwrap())
        .wal_segment_size(WalSegmentSize::new(1 << 20).unwrap())
        .setting("wal_keep_size", "200MB")
        .setting("autovacuum", "off")
        .setting("restore_command", "false")
        .init()
        .unwrap();
    begin_wal_at(server.data_dir(), "000000010000000000000FF8");
    server.start().unwrap();
    write_some(&server, 12 << 20);
    let mut last = server.switch_wal().unwrap();
    let mut timelines = vec![last];
    if second_timeline {
        server.stop(StopMode::Fast).unwrap();
        let signal = server.data_dir().join("recovery.signal");
        std::fs::write(&signal, b"").unwrap();
        give_to_owner_of(server.data_dir(), &signal);
        server.start().unwrap();
        server.wait_until_promoted().unwrap();
        write_some(&server, 3 << 20);
        last = server.switch_wal().unwrap();
        timelines.push(last);
    }
    server.stop(StopMode::Fast).unwrap();
    let mut wal = Wal::of(&server);
    let names = std::fs::read_dir(server.data_dir().join("pg_wal")).unwrap();
    let names = names.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<SegmentName>().ok());
    let whole =
        |name: &SegmentName| timelines.iter().any(|last| last.timeline() == name.timeline() && name <= last);
    wal.segments = names.filter(whole).collect();
    wal.segments.sort_unstable();
    assert!(wal.segments.len() > 12, "{:?}", wal.segments);
    wal
}

/// Lets a new server write its WAL from a segment on, as pg_resetwal does: an empty WAL with one checkpoint.
fn begin_wal_at(data: &Path, segment: &str) {
    let control_file = data.join("global/pg_control");
    let mut control = std::fs::read(&control_file).unwrap();
    let crc_of = |bytes: &[u8]| crc32c::crc32c(bytes).to_le_bytes();
    let crc_at = (128..control.len() - 4).find(|at| crc_of(&control[..*at]) == control[*at..at + 4]).unwrap();
    let wal = data.join("pg_wal");
    let old = std::fs::read_dir(&wal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_file())
        .unwrap();
    let mut bytes = std::fs::read(&old).unwrap();
    std::fs::remove_file(&old).unwrap();
    let size = WalSegmentSize::new(bytes.len() as u64).unwrap();
    let name: SegmentName = segment.parse().unwrap();
    let start = name.start_lsn(size).unwrap();
    let redo = start.saturating_add(40).get().to_le_bytes();
    // `checkPoint` and `checkPointCopy.redo`.
    for at in [32, 40] {
        control[at..at + 8].copy_from_slice(&redo);
    }
    let crc = crc_of(&control[..crc_at]);
    control[crc_at..crc_at + 4].copy_from_slice(&crc);
    std::fs::write(&control_file, &control).unwrap();
    // A long header, and no record that goes on in it.
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[16..20].fill(0);
    bytes[8..16].copy_from_slice(&start.get().to_le_bytes());
    bytes[40..].fill(0);
    // A shutdown checkpoint: 88 bytes of data behind a header of 24 and two bytes that announce them.
    let record = &mut bytes[40..40 + 114];
    record[0] = 114;
    record[24..26].copy_from_slice(&[255, 88]);
    record[26..].copy_from_slice(&control[40..128]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(wal.join(segment), bytes).unwrap();
    give_to_owner_of(data, &wal.join(segment));
}

fn give_to_owner_of(data: &Path, file: &Path) {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(data).unwrap();
    std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// Transactions of all lengths, so that records cross borders: commits among them.
fn write_some(server: &PgServer, bytes: u64) {
    let session = server.session().unwrap();
    session.execute("CREATE TABLE IF NOT EXISTS t (a int, b text)").unwrap();
    let start: walden_pg::Lsn = session.value("SELECT pg_current_wal_insert_lsn()").unwrap();
    let mut number = 0;
    loop {
        number += 1;
        // Commits that name many subtransactions are long, and likely to cross a border.
        session
            .execute(&format!(
                "DO $$ BEGIN FOR i IN 1..150 LOOP BEGIN INSERT INTO t VALUES (i, repeat(md5(i::text), {}));
                 EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$",
                number % 7 + 1
            ))
            .unwrap();
        if number % 5 == 0 {
            server.create_restore_point(&format!("point {number}")).unwrap();
        }
        let now: walden_pg::Lsn = session.value("SELECT pg_current_wal_insert_lsn()").unwrap();
        if now >= start.saturating_add(bytes) {
            return;
        }
    }
}

/// An archive.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    pub(crate) ctx: Context,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["repo", "state"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let url: StoreUrl = format!("file://{}/repo", directory.path().display()).parse().unwrap();
        let ctx = Context {
            store: Store::open(&url, &StoreConfig::default(), &Environment::default()).unwrap(),
            server: "main".parse().unwrap(),
            clock: Arc::new(SystemClock),
            progress: Arc::new(NoProgress),
            state_directory: Some(directory.path().join("state")),
            store_deadline: Duration::from_secs(20),
            host: "db1".into(),
        };
        Self { directory, ctx }
    }

    /// An archive with this WAL pushed in order.
    pub(crate) async fn with(wal: &Wal) -> Self {
        let bench = Self::new();
        bench.init(wal).await;
        bench.push_all(wal, &wal.segments).await;
        bench
    }

    pub(crate) async fn init(&self, wal: &Wal) {
        let data = DataDirectory::open(&wal.data()).unwrap();
        init(&self.ctx, &InitRequest { data }).await.unwrap();
    }

    pub(crate) async fn push(&self, wal: &Wal, name: impl std::fmt::Display) -> PushReport {
        Archiver::new(self.ctx.clone()).push(&wal.file(name), &wal.data()).await.unwrap()
    }

    pub(crate) async fn push_all(&self, wal: &Wal, names: &[SegmentName]) {
        for name in names {
            self.push(wal, name).await;
        }
    }

    pub(crate) async fn record(&self) -> IncarnationRecord {
        find_incarnation(&self.ctx, None).await.unwrap()
    }

    pub(crate) async fn layout(&self) -> IncarnationLayout {
        self.ctx.layout().incarnation(self.record().await.incarnation())
    }

    /// What a reader makes of the whole archive.
    pub(crate) async fn summarized(&self) -> CatalogSnapshot {
        let record = self.record().await;
        let mut snapshot = load_snapshot(&self.ctx, &record).await.unwrap();
        let mut needs = Vec::new();
        for (timeline, runs) in &snapshot.segments {
            for run in runs {
                for number in [run.first, run.last()] {
                    let log = SegmentId::new(*timeline, number).name(record.segment_size).log();
                    needs.push(Need::Summaries { timeline: *timeline, log });
                }
            }
        }
        satisfy(&self.ctx, &mut snapshot, &needs).await.unwrap();
        snapshot
    }

    /// The index and the header's summary of one archived segment.
    pub(crate) async fn index(&self, name: SegmentName) -> (SegmentIndex, SegmentSummary) {
        let key = self.layout().await.archive_file(ArchiveFileName::Segment(name));
        let found = self.ctx.store.get_header(&key, &self.ctx.budget()).await.unwrap();
        let HeaderRead::Found { header, object_bytes } = found else { panic!("{name} is missing") };
        let read = self.ctx.store.get_index(&key, object_bytes, None, &self.ctx.budget()).await.unwrap();
        assert_eq!(read.index_bytes, header.index_bytes);
        let index = SegmentIndex::decode(&read.plain.unwrap()).unwrap();
        (index, header.wal.unwrap().summary.unwrap())
    }

    pub(crate) fn state_files(&self, kind: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path().join("state")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(kind)).collect()
    }

    pub(crate) fn forget_state(&self) {
        for file in self.state_files("") {
            std::fs::remove_file(file).unwrap();
        }
    }

    pub(crate) fn rollup_file(&self, layout: &IncarnationLayout, timeline: TimelineId, log: u32) -> PathBuf {
        self.directory.path().join("repo").join(layout.rollup(timeline, log).to_string())
    }

    pub(crate) async fn rollup(&self, timeline: TimelineId, log: u32) -> Option<Rollup> {
        self.rollup_of(&self.layout().await, timeline, log)
    }

    pub(crate) fn rollup_of(
        &self,
        layout: &IncarnationLayout,
        timeline: TimelineId,
        log: u32,
    ) -> Option<Rollup> {
        let bytes = std::fs::read(self.rollup_file(layout, timeline, log)).ok()?;
        let name = format!("{}/{log:08X}/rollup", timeline.hex());
        let opened = open_sealed(&bytes, Expected { name: &name, max_plain_bytes: 1 << 30 }).unwrap();
        Some(Rollup::decode(&opened.plain).unwrap())
    }
}
