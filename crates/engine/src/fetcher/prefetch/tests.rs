//! A recovery's asks against real stores: what is answered, what it costs, and what is dropped.

mod answers;
mod costs;
mod drops;
mod model;
mod taking;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use walden_core::{ErrorKind, Incarnation, ObjectKey, ObjectKind};
use walden_pg::{ArchiveFileName, SegmentId, SegmentNumber, TimelineId, WalSegmentSize};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, Store, StoreConfig, seal_bytes};
use walden_testkit::stores::{S3Server, TestStore};

use super::*;
use crate::clock::SystemClock;
use crate::data_directory::RESTORED_MARKER;
use crate::fetcher::FetchOutcome;
use crate::init::{InitRequest, init};
use crate::progress::NoProgress;

const SIZE: WalSegmentSize = WalSegmentSize::MIN;
const CONTROL: &[u8] = include_bytes!("../../../../pg/fixtures/pg17/pg_control");

/// What came of an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Bytes(Vec<u8>),
    Absent,
    Failed(ErrorKind),
    DoItYourself,
    /// Offered, and not to be had.
    Gone,
}

/// An archive, a data directory, and a prefetcher between them.
struct Bench {
    directory: tempfile::TempDir,
    server: Option<S3Server>,
    ctx: Context,
    data: DataDirectory,
    incarnation: Incarnation,
    prefetcher: Option<Prefetcher>,
    /// The time by which proofs age, in milliseconds.
    now: Arc<AtomicU64>,
}

fn options() -> PrefetchOptions {
    PrefetchOptions { limit_bytes: 8 << 20, reserve_bytes: 0, ..PrefetchOptions::default() }
}

impl Bench {
    async fn s3() -> Self {
        Self::over(true, options()).await
    }

    async fn local() -> Self {
        Self::over(false, options()).await
    }

    async fn over(s3: bool, options: PrefetchOptions) -> Self {
        // Without a disk to wait for, where there is a file system in memory.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let pgdata = directory.path().join("data");
        for part in ["global", "pg_wal", "pg_tblspc"] {
            std::fs::create_dir_all(pgdata.join(part)).unwrap();
        }
        std::fs::write(pgdata.join("global/pg_control"), control()).unwrap();
        std::fs::create_dir(directory.path().join("repo")).unwrap();
        let server = s3.then(|| S3Server::start_in(&directory.path().join("s3"), "bucket").unwrap());
        let place = match &server {
            Some(server) => server.store("repo"),
            None => TestStore::directory(&directory.path().join("repo")),
        };
        let ctx = Context {
            store: open(&place),
            server: "main".parse().unwrap(),
            clock: Arc::new(SystemClock),
            progress: Arc::new(NoProgress),
            state_directory: None,
            store_deadline: Duration::from_secs(20),
            host: "db1".into(),
        };
        let data = DataDirectory::open(&pgdata).unwrap();
        init(&ctx, &InitRequest { data: data.clone() }).await.unwrap();
        let incarnation = data.incarnation().unwrap();
        let mut bench =
            Self { directory, server, ctx, data, incarnation, prefetcher: None, now: Arc::default() };
        bench.begin(options);
        if let Some(server) = &bench.server {
            let _ = server.take_requests();
        }
        bench
    }

    /// Begins anew, as after a restart of the agent.
    fn begin(&mut self, options: PrefetchOptions) {
        self.prefetcher = None;
        let now = Arc::clone(&self.now);
        let moment: Moment = Box::new(move || Duration::from_millis(now.load(Ordering::Relaxed)));
        let (ctx, data, spool) = (self.ctx.clone(), self.data.clone(), self.spool());
        self.prefetcher = Some(Prefetcher::with_moments(ctx, data, spool, options, moment).unwrap());
    }

    fn prefetcher(&self) -> &Prefetcher {
        self.prefetcher.as_ref().unwrap()
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("prefetch")
    }

    fn spooled(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.spool()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn wal(&self) -> PathBuf {
        self.data.path().join("pg_wal")
    }

    fn pass(&self, milliseconds: u64) {
        self.now.fetch_add(milliseconds, Ordering::Relaxed);
    }

    fn signal(&self, name: &str) {
        std::fs::write(self.data.path().join(name), "").unwrap();
    }

    fn object(&self, name: &str) -> PathBuf {
        let layout = self.ctx.layout().incarnation(self.incarnation);
        self.file_of(&layout.archive_file(name.parse().unwrap()))
    }

    fn marker(&self) -> PathBuf {
        self.file_of(&self.ctx.layout().incarnation(self.incarnation).marker())
    }

    fn file_of(&self, key: &ObjectKey) -> PathBuf {
        match &self.server {
            Some(server) => server.object_file(&format!("repo/{key}")),
            None => self.directory.path().join("repo").join(key.as_str()),
        }
    }

    /// Archives a file.
    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.object(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Nobody sees half of it.
        let aside = self.directory.path().join("aside");
        std::fs::write(&aside, self.sealed(name, bytes)).unwrap();
        std::fs::rename(aside, path).unwrap();
    }

    fn sealed(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let kind = match name.parse().unwrap() {
            ArchiveFileName::History(_) => ObjectKind::TimelineHistory,
            _ => ObjectKind::Segment,
        };
        let fields = HeaderFields {
            kind,
            name: name.to_owned(),
            server: self.ctx.server.clone(),
            incarnation: self.incarnation,
            writer: self.ctx.writer("/data"),
            wal: None,
        };
        let sealed = seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, bytes, None);
        sealed.unwrap().to_vec()
    }

    fn put_segment(&self, timeline: u32, number: u64) {
        self.put(&name(timeline, number), &content(timeline, number));
    }

    fn put_segments(&self, timeline: u32, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.put_segment(timeline, number);
        }
    }

    async fn ask(&self, name: &str) -> Got {
        let destination = self.destination(name);
        let _ = std::fs::remove_file(&destination);
        match self.prefetcher().get(name, &destination).await {
            GetAnswer::Ready(file) => self.take(&file, name),
            GetAnswer::Absent => Got::Absent,
            GetAnswer::Failed(error) => Got::Failed(error.kind()),
            GetAnswer::DoItYourself { .. } => Got::DoItYourself,
        }
    }

    fn destination(&self, name: &str) -> PathBuf {
        self.wal().join(if name.ends_with(".history") { "RECOVERYHISTORY" } else { "RECOVERYXLOG" })
    }

    fn take(&self, file: &ReadyFile, name: &str) -> Got {
        let destination = self.destination(name);
        match take_prefetched(file, name, &destination, Path::new("/")) {
            Ok(Taken::Taken { bytes }) => {
                let taken = std::fs::read(&destination).unwrap();
                assert_eq!(taken.len() as u64, bytes);
                Got::Bytes(taken)
            }
            Ok(Taken::Gone) => Got::Gone,
            Err(error) => Got::Failed(error.kind()),
        }
    }

    async fn ask_segment(&self, timeline: u32, number: u64) -> Got {
        self.ask(&name(timeline, number)).await
    }

    /// Asks for a segment that is there.
    async fn found(&self, timeline: u32, number: u64) {
        let got = self.ask_segment(timeline, number).await;
        assert!(got == Got::Bytes(content(timeline, number)), "{timeline} {number}: {}", short(&got));
    }

    /// The same without a prefetcher.
    async fn direct(&self, name: &str) -> Got {
        let destination = self.destination(name);
        let _ = std::fs::remove_file(&destination);
        let fetched = Fetcher::new(self.ctx.clone()).fetch(name, &destination, Path::new("/")).await;
        match fetched {
            Ok(report) if report.outcome == FetchOutcome::Fetched => {
                Got::Bytes(std::fs::read(&destination).unwrap())
            }
            Ok(_) => Got::Absent,
            Err(error) => Got::Failed(error.kind()),
        }
    }

    /// Waits until nothing is being fetched ahead.
    async fn settle(&self) {
        until(|| self.prefetcher().numbers().in_flight == 0).await;
    }

    /// The requests since the last call: method, and what the path and query say of it.
    fn take_requests(&self) -> Vec<String> {
        let Some(server) = &self.server else { return Vec::new() };
        let requests = server.take_requests().into_iter().map(|request| {
            assert_eq!(request.method, "GET");
            if request.query.contains("list-type") {
                assert!(request.query.contains("max-keys=3"), "{}", request.query);
                return "LIST".to_owned();
            }
            let file = request.path.rsplit('/').next().unwrap_or_default();
            file.trim_end_matches(".zst").to_owned()
        });
        requests.collect()
    }
}

fn open(place: &TestStore) -> Store {
    place.open(&StoreConfig::default()).unwrap()
}

/// Waits for what must come.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what must come did not come");
}

/// A `pg_control` whose segments are the smallest ones.
fn control() -> Vec<u8> {
    let mut control = CONTROL.to_vec();
    control[228..232].copy_from_slice(&u32::try_from(SIZE.bytes()).unwrap().to_le_bytes());
    let crc = crc32c::crc32c(&control[..288]);
    control[288..292].copy_from_slice(&crc.to_le_bytes());
    control.resize(8192, 0);
    control
}

fn name(timeline: u32, number: u64) -> String {
    let timeline = TimelineId::new(timeline).unwrap();
    SegmentId::new(timeline, SegmentNumber::new(number)).name(SIZE).to_string()
}

/// The bytes of a segment: like no other's.
fn content(timeline: u32, number: u64) -> Vec<u8> {
    let line = format!("segment {number} of timeline {timeline}\n").into_bytes();
    line.iter().copied().cycle().take(1 << 20).collect()
}

/// The text of a history file whose timelines were left in the middle of these segments.
fn history(forks: &[(u32, u64)]) -> String {
    let lines = forks.iter().map(|(parent, at)| {
        let lsn = SIZE.start_of(SegmentNumber::new(*at)).saturating_add(4096);
        format!("{parent}\t{lsn}\tpromoted\n")
    });
    lines.collect()
}

fn short(got: &Got) -> String {
    match got {
        Got::Bytes(bytes) => format!("Bytes({:?})", String::from_utf8_lossy(&bytes[..bytes.len().min(40)])),
        other => format!("{other:?}"),
    }
}
