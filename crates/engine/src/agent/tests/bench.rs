//! A data directory with segments, a repository, an agent and its hooks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use walden_pg::SegmentHeader;
use walden_store::{
    CompressionLevel, Environment, SettingsFingerprint, StoreConfig, settings_fingerprint, store_identity,
};
use walden_testkit::stores::{S3Server, TestStore};

use crate::agent::client::{self, PushAnswer};
use crate::agent::protocol::Frame;
use crate::agent::{AgentOptions, AgentReport, AgentStatus, Spool, run};
use crate::clock::SystemClock;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::init::{InitRequest, init};
use crate::progress::NoProgress;

const CONTROL: &[u8] = include_bytes!("../../../../pg/fixtures/pg17/pg_control");
const PAGE: &[u8] = include_bytes!("../../../../pg/fixtures/pg17/000000010000000000000002.page");
/// A hook's patience in these tests: longer than anything here should take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A data directory, a repository, and what is between them.
pub(super) struct Bench {
    pub(super) directory: TempDir,
    pub(super) ctx: Context,
    pub(super) data: DataDirectory,
    pub(super) spool: Spool,
    pub(super) settings: SettingsFingerprint,
}

/// An agent that runs in this process.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    life: JoinHandle<crate::Result<AgentReport>>,
}

impl Running {
    /// Tells it to stop, and waits.
    pub(super) async fn stop(self) -> AgentReport {
        let _ = self.stop.send(());
        self.life.await.unwrap().unwrap()
    }

    /// Waits until it ends of its own accord.
    pub(super) async fn end(self) -> crate::Result<AgentReport> {
        let Self { stop, life } = self;
        let report = life.await.unwrap();
        drop(stop);
        report
    }

    pub(super) fn has_ended(&self) -> bool {
        self.life.is_finished()
    }
}

/// With a repository in a directory.
pub(super) async fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("repo");
    std::fs::create_dir(&repository).unwrap();
    bench_over(directory, &TestStore::directory(&repository)).await
}

/// With a repository on a server that can be made to fail.
pub(super) async fn bench_on_s3() -> (Bench, S3Server) {
    let server = S3Server::start().unwrap();
    let bench = bench_over(tempfile::tempdir().unwrap(), &server.store("repo")).await;
    (bench, server)
}

async fn bench_over(directory: TempDir, store: &TestStore) -> Bench {
    let (pgdata, state) = (directory.path().join("data"), directory.path().join("state"));
    for made in [pgdata.join("global"), pgdata.join("pg_wal/archive_status"), state.clone()] {
        std::fs::create_dir_all(made).unwrap();
    }
    let mut control = CONTROL.to_vec();
    control.resize(8192, 0);
    std::fs::write(pgdata.join("global/pg_control"), control).unwrap();
    let environment: Environment = store.environment.iter().cloned().collect();
    let config = StoreConfig::default();
    let settings = settings_fingerprint(&config, &environment);
    let ctx = Context {
        store: store.open(&config).unwrap(),
        server: "main".parse().unwrap(),
        clock: Arc::new(SystemClock),
        progress: Arc::new(NoProgress),
        state_directory: Some(state.clone()),
        store_deadline: Duration::from_secs(20),
        host: "db1".into(),
    };
    let data = DataDirectory::open(&pgdata).unwrap();
    init(&ctx, &InitRequest { data: data.clone() }).await.unwrap();
    let identity = store_identity(&store.url.parse().unwrap(), &config, &environment).unwrap();
    let spool = Spool::locate(&state, &pgdata, &identity, &ctx.server, &settings).unwrap();
    Bench { directory, ctx, data, spool, settings }
}

/// The name of the segment with this number.
pub(super) fn name(number: u64) -> String {
    let size = SegmentHeader::parse(PAGE).unwrap().segment_size.bytes();
    let per_log = (1 << 32) / size;
    format!("00000001{:08X}{:08X}", number / per_log, number % per_log)
}

/// A segment whose first page is right for its number and whose rest is `fill`.
pub(super) fn segment(number: u64, fill: u8) -> Vec<u8> {
    let size = SegmentHeader::parse(PAGE).unwrap().segment_size.bytes();
    let mut bytes = PAGE.to_vec();
    bytes[8..16].copy_from_slice(&(number * size).to_le_bytes());
    bytes.resize(usize::try_from(size).unwrap(), fill);
    bytes
}

impl Bench {
    pub(super) fn wal(&self, name: &str) -> PathBuf {
        self.data.path().join("pg_wal").join(name)
    }

    pub(super) fn status_file(&self, name: &str, ending: &str) -> PathBuf {
        self.wal("archive_status").join(format!("{name}.{ending}"))
    }

    /// Finishes a segment, as the server does.
    pub(super) fn finish(&self, number: u64) -> String {
        let name = name(number);
        let whole = segment(number, 0);
        // Behind the first page there are zeros, and no disk is needed for those.
        std::fs::write(self.wal(&name), &whole[..PAGE.len()]).unwrap();
        File::options().write(true).open(self.wal(&name)).unwrap().set_len(whole.len() as u64).unwrap();
        std::fs::write(self.status_file(&name, "ready"), b"").unwrap();
        name
    }

    /// Does what PostgreSQL's archiver does after a success.
    pub(super) fn done(&self, name: &str) {
        std::fs::rename(self.status_file(name, "ready"), self.status_file(name, "done")).unwrap();
    }

    pub(super) fn options(&self) -> AgentOptions {
        let best = CompressionLevel::DEFAULT;
        AgentOptions::new(self.data.clone(), self.settings.clone(), best)
    }

    /// Starts an agent, and waits until it answers.
    pub(super) async fn start(&self, options: AgentOptions) -> Running {
        let running = self.launch(options);
        self.until("the agent answers", |_| true).await;
        running
    }

    /// Starts an agent.
    pub(super) fn launch(&self, options: AgentOptions) -> Running {
        let (stop, stopped) = oneshot::channel();
        let life = tokio::spawn(run(self.ctx.clone(), options, async {
            // A test that lets go of it lets it live.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Running { stop, life }
    }

    /// What a hook gets for a file.
    pub(super) async fn push(&self, name: &str) -> PushAnswer {
        self.push_within(name, PATIENCE).await
    }

    pub(super) async fn push_within(&self, name: &str, deadline: Duration) -> PushAnswer {
        let (spool, path) = (self.spool.clone(), self.wal(name));
        tokio::task::spawn_blocking(move || client::push(&spool, &path, deadline)).await.unwrap()
    }

    pub(super) async fn status(&self) -> Option<AgentStatus> {
        let spool = self.spool.clone();
        tokio::task::spawn_blocking(move || client::status(&spool).ok()).await.unwrap()
    }

    /// Waits until the status is as wanted.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        let mut last = None;
        for _ in 0..1_500 {
            last = self.status().await;
            if let Some(status) = last.take_if(|status| wanted(status)) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain until {what}: {last:#?}");
    }

    /// What the agent answers to these very bytes.
    pub(super) async fn send_raw(&self, bytes: Vec<u8>) -> Option<Frame> {
        let spool = self.spool.clone();
        let raw = move || {
            let mut stream = UnixStream::connect(spool.socket_path()).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(&bytes).ok()?;
            stream.shutdown(std::net::Shutdown::Write).ok()?;
            let mut answer = Vec::new();
            // A connection that is closed over unread bytes is reset.
            let _ = stream.read_to_end(&mut answer);
            Frame::read(&mut answer.as_slice()).ok()
        };
        tokio::task::spawn_blocking(raw).await.unwrap()
    }

    /// Archives a file as a hook without an agent does.
    pub(super) async fn push_directly(&self, name: &str) -> crate::Result<crate::PushReport> {
        crate::Archiver::new(self.ctx.clone()).push(&Path::new("pg_wal").join(name), self.data.path()).await
    }

    /// What the archive gives back.
    pub(super) async fn fetched(&self, name: &str) -> Vec<u8> {
        let fetcher = crate::Fetcher::new(self.ctx.clone());
        fetcher.fetch(name, Path::new("pg_wal/RECOVERYXLOG"), self.data.path()).await.unwrap();
        std::fs::read(self.wal("RECOVERYXLOG")).unwrap()
    }
}
