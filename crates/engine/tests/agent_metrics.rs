//! The metrics of a running agent, scraped over HTTP and held to the rules of OpenMetrics 1.0.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on ends loudly")]
#![expect(clippy::float_cmp, reason = "the numbers compared are whole, and exact")]

mod openmetrics;

use std::fs::{File, FileTimes};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use openmetrics::{Page, parse};
use tempfile::TempDir;
use tokio::sync::oneshot;
use walden_core::{Pressure, PressureUnknown};
use walden_engine::agent::client::{self, PushAnswer};
use walden_engine::agent::metrics::render;
use walden_engine::agent::{self, AgentOptions, AgentReport, AgentStatus, Spool};
use walden_engine::{
    Check, CheckStatus, Context, DataDirectory, InitRequest, NoProgress, SystemClock, check, init,
};
use walden_store::{
    CompressionLevel, Environment, SettingsFingerprint, Store, StoreConfig, StoreUrl, settings_fingerprint,
};

const CONTROL: &[u8] = include_bytes!("../../pg/fixtures/pg17/pg_control");
const PAGE: &[u8] = include_bytes!("../../pg/fixtures/pg17/000000010000000000000002.page");
const NAME: &str = "000000010000000000000002";
/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_mins(1);

struct Bench {
    _directory: TempDir,
    ctx: Context,
    data: DataDirectory,
    settings: SettingsFingerprint,
}

/// A data directory with one segment, and a repository that takes it.
async fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let pgdata = directory.path().join("data");
    for inside in ["data/global", "data/pg_wal/archive_status", "state", "repo"] {
        std::fs::create_dir_all(directory.path().join(inside)).unwrap();
    }
    let mut control = CONTROL.to_vec();
    control.resize(8192, 0);
    std::fs::write(pgdata.join("global/pg_control"), control).unwrap();
    let size = usize::try_from(walden_pg::SegmentHeader::parse(PAGE).unwrap().segment_size.bytes()).unwrap();
    let mut segment = PAGE.to_vec();
    segment.resize(size, 0);
    std::fs::write(pgdata.join("pg_wal").join(NAME), segment).unwrap();
    let url: StoreUrl = format!("file://{}/repo", directory.path().display()).parse().unwrap();
    let (config, environment) = (StoreConfig::default(), Environment::default());
    let ctx = Context {
        store: Store::open(&url, &config, &environment).unwrap(),
        server: "main".parse().unwrap(),
        clock: Arc::new(SystemClock),
        progress: Arc::new(NoProgress),
        state_directory: Some(directory.path().join("state")),
        store_deadline: Duration::from_secs(20),
        host: "db1".into(),
    };
    let data = DataDirectory::open(&pgdata).unwrap();
    init(&ctx, &InitRequest { data: data.clone() }).await.unwrap();
    Bench { _directory: directory, ctx, data, settings: settings_fingerprint(&config, &environment) }
}

/// An agent that runs, and where it gives metrics.
struct Running {
    stop: oneshot::Sender<()>,
    life: tokio::task::JoinHandle<walden_engine::Result<AgentReport>>,
    spool: Spool,
    metrics: SocketAddr,
}

impl Bench {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join("pg_wal").join(name)
    }

    /// Marks the segment ready, a while ago.
    fn ready(&self, ago: Duration) {
        let file = File::create(self.path(&format!("archive_status/{NAME}.ready"))).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap() - ago;
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    }

    async fn start(&self, unhealthy_after: Duration) -> Running {
        let mut options =
            AgentOptions::new(self.data.clone(), self.settings.clone(), CompressionLevel::DEFAULT);
        options.metrics = Some("127.0.0.1:0".parse().unwrap());
        options.unhealthy_after = unhealthy_after;
        let (stop, stopped) = oneshot::channel();
        let life = tokio::spawn(agent::run(self.ctx.clone(), options, async {
            let _ = stopped.await;
        }));
        let state = self.ctx.state_directory.clone().unwrap();
        let identity = self.ctx.store.identity();
        let spool =
            Spool::locate(&state, self.data.path(), &identity, &self.ctx.server, &self.settings).unwrap();
        let status = until(|| client::status(&spool).ok().filter(|status| status.pressure.is_some())).await;
        Running { stop, life, spool, metrics: status.metrics.unwrap() }
    }
}

/// Asks until there is an answer; each time on a thread that may block.
async fn until<T: Send>(mut ask: impl FnMut() -> Option<T> + Send) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = tokio::task::block_in_place(&mut ask) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The answer to a request: its code, head and body.
fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_owned(), body.to_owned())
}

impl Running {
    fn scrape(&self) -> Page {
        let (code, head, body) = tokio::task::block_in_place(|| get(self.metrics, "/metrics"));
        assert_eq!(code, 200);
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        parse(&body).unwrap_or_else(|error| panic!("{error}\n{body}"))
    }

    fn health(&self) -> (u16, String) {
        let (code, _, body) = tokio::task::block_in_place(|| get(self.metrics, "/healthz"));
        (code, body)
    }

    fn push(&self, path: &Path) {
        let answer = tokio::task::block_in_place(|| client::push(&self.spool, path, PATIENCE));
        assert!(matches!(answer, PushAnswer::Done { .. }), "{answer:?}");
    }

    async fn end(self) -> AgentReport {
        let _ = self.stop.send(());
        self.life.await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_does_shows_in_its_metrics() {
    let bench = bench().await;
    let agent = bench.start(Duration::from_mins(10)).await;
    let before = agent.scrape();
    assert_eq!(before.value("walden_wal_archived_files_total"), 0.0);
    assert_eq!(before.value("walden_push_call_seconds_count"), 0.0);
    assert_eq!(before.value("walden_wal_queue_files"), 0.0);
    assert_eq!(before.labels("walden_agent_info", "server"), "main");
    assert!(before.find("walden_wal_last_archived_time_seconds").is_none());
    assert_eq!(agent.health(), (200, "ok: nothing waits to be archived\n".to_owned()));

    bench.ready(Duration::from_secs(5));
    agent.push(&bench.path(NAME));
    let after = agent.scrape();
    let moved = |name: &str| after.value(name) - before.value(name);
    assert_eq!(moved("walden_wal_archived_files_total"), 1.0);
    assert_eq!(moved("walden_wal_archived_bytes_total"), f64::from(1 << 24));
    assert_eq!(moved("walden_push_calls_total{result=\"ahead\"}"), 0.0);
    assert_eq!(moved("walden_push_calls_total{result=\"waited\"}"), 1.0);
    for histogram in ["push_call", "seal", "send"] {
        assert_eq!(moved(&format!("walden_{histogram}_seconds_count")), 1.0, "{histogram}");
        assert_eq!(moved(&format!("walden_{histogram}_seconds_bucket{{le=\"+Inf\"}}")), 1.0, "{histogram}");
    }
    assert!(moved("walden_store_requests_total{operation=\"put\"}") >= 1.0);
    assert!(
        moved("walden_store_sent_bytes_total{operation=\"put\"}") >= moved("walden_wal_stored_bytes_total")
    );
    assert_eq!(after.value("walden_wal_last_archived_timeline"), 1.0);
    assert_eq!(after.value("walden_wal_last_archived_position_bytes"), f64::from(3 << 24));
    assert!(after.value("walden_wal_compression_ratio") > 1.0);
    assert!(after.value("walden_memory_resident_bytes") > 1e6);
    assert!(after.value("walden_wal_disk_size_bytes") >= after.value("walden_wal_disk_free_bytes"));
    assert_eq!(after.value("walden_wal_disk_full_in_seconds"), f64::INFINITY);

    // The same numbers over both ways.
    let report = agent.end().await;
    let page = parse(&render(&report.status.unwrap())).unwrap();
    assert_eq!(page.value("walden_wal_archived_files_total"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_waits_makes_the_agent_unhealthy_until_it_is_archived() {
    let bench = bench().await;
    let agent = bench.start(Duration::from_mins(10)).await;
    bench.ready(Duration::from_mins(11));
    // No hook called, so nothing is archived ahead.
    let body = until(|| Some(agent.health()).filter(|(code, _)| *code == 503)).await.1;
    assert!(body.starts_with("files wait to be archived: 1, the oldest for 66"), "{body}");
    assert!(agent.scrape().value("walden_wal_unarchived_seconds") >= 660.0);
    agent.push(&bench.path(NAME));
    assert_eq!(agent.health().0, 200);
    assert_eq!(agent.scrape().value("walden_wal_unarchived_seconds"), 0.0);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hold_connections_do_not_pile_up() {
    let bench = bench().await;
    let agent = bench.start(Duration::from_mins(10)).await;
    let mut held: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(agent.metrics).unwrap()).collect();
    let refused = || {
        let mut stream = TcpStream::connect(agent.metrics).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut answer = Vec::new();
        // Closed without a word, or reset.
        (stream.read_to_end(&mut answer).is_err() || answer.is_empty()).then_some(())
    };
    until(refused).await;
    // The work of the agent is not held up by any of it.
    bench.ready(Duration::ZERO);
    agent.push(&bench.path(NAME));
    held.clear();
    until(|| refused().is_none().then_some(())).await;
    assert_eq!(agent.health().0, 200);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_an_error_of_the_configuration() {
    let bench = bench().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options =
        AgentOptions::new(bench.data.clone(), bench.settings.clone(), CompressionLevel::DEFAULT);
    options.metrics = Some(taken.local_addr().unwrap());
    let error = agent::run(bench.ctx.clone(), options, std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), walden_core::ErrorKind::Config);
    assert!(error.hint().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_of_the_disk_with_an_agent_and_without() {
    let bench = bench().await;
    let disk = async || -> Check {
        let report =
            check(&bench.ctx, Some(&bench.data), None, walden_engine::drill::DRILL_MAX_AGE).await.unwrap();
        report.checks.into_iter().find(|check| check.name == "disk").unwrap()
    };
    let calm = disk().await;
    assert!(calm.detail.starts_with("no segment waits to be archived"), "{}", calm.detail);
    assert_ne!(calm.status, CheckStatus::Failure);
    // Files of the future, which no rate can be had from.
    bench.ready(Duration::ZERO);
    let file = File::options().write(true).open(bench.path(&format!("archive_status/{NAME}.ready"))).unwrap();
    file.set_times(
        FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200)),
    )
    .unwrap();
    assert!(disk().await.detail.starts_with("files in pg_wal/archive_status are newer than now"));
    // With an agent, check tells what the agent tells: by and by that is what it saw itself, whatever the files' dates are.
    let agent = bench.start(Duration::from_mins(10)).await;
    let beginning = |detail: &str| detail.split([';', ':']).next().unwrap().to_owned();
    loop {
        let told = tokio::task::block_in_place(|| agent::status_of(&bench.ctx, &bench.data)).unwrap();
        let shown = disk().await;
        if told.pressure.is_some_and(|told| {
            !told.detail.starts_with("files in") && beginning(&told.detail) == beginning(&shown.detail)
        }) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.end().await;
}

#[test]
fn every_page_is_valid_whatever_the_status_holds() {
    let text = include_str!("../src/agent/http/status.json");
    let mut status: AgentStatus = serde_json::from_str(text).unwrap();
    let page = parse(&render(&status)).unwrap();
    assert_eq!(page.value("walden_errors_total{kind=\"denied\"}"), 2.0);
    assert_eq!(page.value("walden_push_call_seconds_count"), 0.0);
    // A build with everything that a label must escape.
    status.build = "a\"b\\c\nd".to_owned();
    let mut pressure: walden_core::WalPressure = serde_json::from_str(
        r#"{"state":"full","waiting_bytes":1,"room_bytes":0,"free_bytes":0,"total_bytes":5,"detail":"x"}"#,
    )
    .unwrap();
    let unknown = Pressure::Unknown { reason: PressureUnknown::TooShort };
    for (state, expected) in
        [(Pressure::Full, 0.0), (Pressure::Fills { seconds: 7 }, 7.0), (unknown, f64::NAN)]
    {
        pressure.pressure = state;
        status.pressure = Some(pressure.clone());
        let page = parse(&render(&status)).unwrap();
        let told = page.value("walden_wal_disk_full_in_seconds");
        assert!(told.to_bits() == expected.to_bits() || (told.is_nan() && expected.is_nan()), "{told}");
        assert_eq!(page.labels("walden_agent_info", "build"), status.build);
    }
}
