//! What a push costs: segments of a real server, one by one and several at once, into a directory and an S3 server.
//!
//! The WAL is that of a server under pgbench, made anew by each run, or that of the stopped data directory in
//! `$WALDEN_BENCH_DATA`. With `WALDEN_BENCH_PROFILE=N` nothing is compared: the segments are pushed N times over, 4 in
//! flight, at the level in `$WALDEN_BENCH_LEVEL`, to an S3 server that is a process of its own, and a table tells where the
//! time of a segment went, what the processor spent on it, and the most memory that the process had.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a benchmark reports to a person")]
#![expect(clippy::cast_precision_loss, reason = "figures for people have three digits")]

use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Runtime;
use walden_engine::{
    Archiver, Context, DataDirectory, InitRequest, NoProgress, Pipeline, PipelineLimits, SegmentTimings,
    SystemClock, init,
};
use walden_pg::{PgMajor, SegmentName};
use walden_store::{CompressionLevel, Environment, Store, StoreConfig, StoreUrl};
use walden_testkit::postgres::{PgServer, StopMode};
use walden_testkit::stores::S3Server;

const DATA_ENV: &str = "WALDEN_BENCH_DATA";
const PROFILE_ENV: &str = "WALDEN_BENCH_PROFILE";
const LEVEL_ENV: &str = "WALDEN_BENCH_LEVEL";
const MEMORY_ENV: &str = "WALDEN_BENCH_MEMORY_MIB";
const SERVE_ENV: &str = "WALDEN_BENCH_SERVE";
const SEGMENTS: usize = 8;

/// Real WAL; the directory lives as long as this.
struct Wal {
    _server: Option<PgServer>,
    data: DataDirectory,
    segments: Vec<PathBuf>,
}

impl Wal {
    fn find() -> Self {
        if let Some(directory) = std::env::var_os(DATA_ENV) {
            return Self::of(Path::new(&directory), None);
        }
        let mut server = PgServer::builder(PgMajor::V17)
            .setting("synchronous_commit", "off")
            .setting("wal_keep_size", "4GB")
            .setting("max_wal_size", "4GB")
            .start()
            .expect("a server; run `cargo xtask setup`");
        server.pgbench_init(20).expect("pgbench");
        server.pgbench(4, 30).expect("pgbench");
        server.switch_wal().expect("a switch");
        server.stop(StopMode::Fast).expect("a stopped server");
        let data = server.data_dir().to_path_buf();
        Self::of(&data, Some(server))
    }

    fn of(directory: &Path, server: Option<PgServer>) -> Self {
        let entries = std::fs::read_dir(directory.join("pg_wal")).expect("a data directory");
        let paths = entries.map(|entry| entry.expect("a directory entry").path());
        let mut segments: Vec<PathBuf> = paths
            .filter(|path| {
                path.file_name().and_then(|name| name.to_str()?.parse::<SegmentName>().ok()).is_some()
            })
            .collect();
        segments.sort();
        // The last ones are empty, or not complete.
        segments.truncate(segments.len().saturating_sub(3));
        let segments = segments.split_off(segments.len().saturating_sub(SEGMENTS));
        let data = DataDirectory::open(directory).expect("a data directory");
        Self { _server: server, data, segments }
    }

    fn bytes(&self) -> u64 {
        self.segments.len() as u64 * 16 * 1024 * 1024
    }
}

/// A store, and how often it was begun with.
struct Place {
    name: &'static str,
    ctx: Context,
    rounds: u32,
}

impl Place {
    fn new(name: &'static str, url: &str, environment: &Environment, state: &Path) -> Self {
        let url: StoreUrl = url.parse().expect("a URL");
        let store = Store::open(&url, &StoreConfig::default(), environment).expect("a store");
        let ctx = Context {
            store,
            server: "main".parse().expect("a name"),
            clock: Arc::new(SystemClock),
            progress: Arc::new(NoProgress),
            state_directory: Some(state.to_path_buf()),
            store_deadline: Duration::from_mins(1),
            host: "bench".to_owned(),
        };
        Self { name, ctx, rounds: 0 }
    }

    /// An archive with nothing in it but the first segment, by which everything is known that is asked once.
    fn begin(&mut self, runtime: &Runtime, wal: &Wal) -> Context {
        self.rounds += 1;
        let server = format!("{}-{}", std::process::id(), self.rounds).parse().expect("a name");
        let ctx = Context { server, ..self.ctx.clone() };
        let first = wal.segments.first().expect("a segment");
        runtime.block_on(async {
            init(&ctx, &InitRequest { data: wal.data.clone() }).await.expect("an archive");
            Archiver::new(ctx.clone()).push_from(first, &wal.data).await.expect("a push");
        });
        ctx
    }
}

fn limits() -> PipelineLimits {
    let memory = std::env::var(MEMORY_ENV).ok().and_then(|mib| mib.parse::<u64>().ok());
    PipelineLimits {
        in_flight: NonZeroU32::MIN.saturating_add(3),
        memory_bytes: memory.map_or(PipelineLimits::DEFAULT_MEMORY_BYTES, |mib| mib << 20),
        ..PipelineLimits::default()
    }
}

fn one_by_one(runtime: &Runtime, ctx: Context, wal: &Wal) -> Duration {
    let archiver = Archiver::new(ctx);
    let begun = Instant::now();
    runtime.block_on(async {
        for path in &wal.segments {
            archiver.push_from(path, &wal.data).await.expect("a push");
        }
    });
    begun.elapsed()
}

/// Pushes all segments, some at once.
fn at_once(
    runtime: &Runtime,
    ctx: Context,
    wal: &Wal,
    level: CompressionLevel,
) -> (Duration, Vec<SegmentTimings>, u64) {
    let pipeline = Pipeline::new(Archiver::new(ctx), limits());
    let begun = Instant::now();
    let pushes = stream::iter(&wal.segments).map(|path| pipeline.push(path, &wal.data, level));
    let pushed: Vec<_> = runtime
        .block_on(pushes.buffered(2 * limits().in_flight.get() as usize).try_collect())
        .expect("pushes");
    runtime.block_on(pipeline.settle());
    let took = begun.elapsed();
    (took, pushed.iter().map(|pushed| pushed.timings).collect(), pipeline.load().stored_bytes)
}

fn compare(criterion: &mut Criterion, runtime: &Runtime) {
    let wal = Wal::find();
    let directories = tempfile::tempdir().expect("a directory");
    let at = |name: &str| {
        let path = directories.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        path
    };
    let server = S3Server::start().expect("an S3 server");
    let s3 = server.store("r");
    let state = at("state");
    let places = [
        Place::new("directory", &format!("file://{}", at("repo").display()), &Environment::default(), &state),
        Place::new("s3", &s3.url, &s3.environment.iter().cloned().collect(), &state),
    ];
    for mut place in places {
        let mut group = criterion.benchmark_group(format!("push/{}", place.name));
        group.throughput(Throughput::Bytes(wal.bytes())).sample_size(10);
        group.bench_function("one by one", |bencher| {
            bencher.iter_custom(|rounds| {
                (0..rounds).map(|_| one_by_one(runtime, place.begin(runtime, &wal), &wal)).sum()
            });
        });
        group.bench_function("4 at once", |bencher| {
            bencher.iter_custom(|rounds| {
                let round =
                    |_| at_once(runtime, place.begin(runtime, &wal), &wal, CompressionLevel::DEFAULT).0;
                (0..rounds).map(round).sum()
            });
        });
        group.finish();
    }
}

/// Seconds of processor time that this process took.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    // Linux counts in hundredths of a second whatever its own clock does.
    (ticks(11) + ticks(12)) / 100.0
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().unwrap_or_default()
}

/// An S3 server in a process of its own.
struct ServerProcess(Child);

impl ServerProcess {
    fn start() -> (Self, Environment) {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .env(SERVE_ENV, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let lines = lines.map_while(Result::ok).take_while(|line| line != "ready");
        let pairs: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())))
            .collect();
        (Self(child), pairs.into_iter().collect())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn serve() {
    let server = S3Server::start().expect("an S3 server");
    for (name, value) in server.environment() {
        println!("{name}={value}");
    }
    println!("ready");
    let _ = std::io::stdin().lines().count();
}

fn profile(rounds: u32, runtime: &Runtime) {
    let wal = Wal::find();
    let level = std::env::var(LEVEL_ENV).ok().and_then(|level| level.parse().ok()).unwrap_or(1);
    let level = CompressionLevel::new(level).expect("a level");
    let (_server, environment) = ServerProcess::start();
    let state = tempfile::tempdir().expect("a directory");
    let mut place = Place::new("s3", "s3://bucket/r", &environment, state.path());
    let archives: Vec<Context> = (0..rounds).map(|_| place.begin(runtime, &wal)).collect();
    let (base, segments) = (status_kib("VmRSS"), f64::from(rounds) * wal.segments.len() as f64);
    let before = (processor_seconds(), place.ctx.store.counters());
    let (mut took, mut stored, mut all) = (Duration::ZERO, 0, Vec::new());
    for ctx in archives {
        let (time, timings, bytes) = at_once(runtime, ctx, &wal, level);
        took += time;
        stored += bytes;
        all.extend(timings);
    }
    let processor = (processor_seconds() - before.0) * 1e3 / segments;
    let plain = wal.bytes() as f64 * f64::from(rounds);
    println!(
        "level {}: {:.0} MiB/s, ratio {:.2}, processor {processor:.1} ms a segment, memory {} MiB at most, {} before",
        level.get(),
        plain / took.as_secs_f64() / f64::from(1 << 20),
        plain / stored as f64,
        status_kib("VmHWM") >> 10,
        base >> 10
    );
    let mean = |part: fn(&SegmentTimings) -> Duration| {
        all.iter().map(part).sum::<Duration>().as_secs_f64() * 1e3 / all.len() as f64
    };
    println!(
        "read {:.1}, scan {:.1}, hash {:.1}, compress {:.1}, send {:.1} ms on the clock",
        mean(|timings| timings.read),
        mean(|timings| timings.scan),
        mean(|timings| timings.hash),
        mean(|timings| timings.compress),
        mean(|timings| timings.send)
    );
    let asked = place.ctx.store.counters().since(&before.1);
    eprintln!(
        "{:.2} requests a segment, the first segment of each round asked for twice",
        asked.requests() as f64 / segments
    );
}

fn main() {
    if std::env::var_os(SERVE_ENV).is_some() {
        return serve();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    match std::env::var(PROFILE_ENV).ok().and_then(|rounds| rounds.parse().ok()) {
        Some(rounds) => profile(rounds, &runtime),
        None => {
            let mut criterion = Criterion::default().configure_from_args();
            compare(&mut criterion, &runtime);
            criterion.final_summary();
        }
    }
}
