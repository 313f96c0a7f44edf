//! The agent: one process per data directory that archives and fetches ahead, and answers the hooks of PostgreSQL.
//!
//! - [`run`] is the agent's life, from taking its place to leaving it. [`AgentOptions`] say how it works.
//! - [`client`] is what a hook needs to ask it: no runtime, no store.
//! - [`protocol`] is what they say to each other, [`spool`] where they meet.
//! - [`status`] is what the agent tells of itself.
//!
//! What holds: without an agent everything works, and a hook that does not get an answer does the work itself; nothing is
//! told to be archived that is not durable under its name in this repository; nothing is archived that PostgreSQL does
//! not want archived; no file holds an ack.

mod acks;
pub mod client;
mod doubts;
mod gets;
mod http;
mod level;
pub mod lifecycle;
pub mod metrics;
pub mod places;
pub mod protocol;
mod push;
mod queue;
mod recent;
mod server;
pub mod spool;
pub mod status;
#[cfg(test)]
mod tests;
mod told;
mod trend;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use walden_core::ErrorKind;
use walden_store::{CompressionLevel, SettingsFingerprint};

pub use self::acks::{ACK_AGE_MAX, ACKS_MAX};
use self::doubts::{Doubts, doubt};
use self::gets::Gets;
pub use self::http::UNHEALTHY_AFTER_DEFAULT;
pub use self::level::{CALM_STEPS, LevelFacts, LevelRange, LevelReason, LevelState};
use self::lifecycle::{Fate, Leaving, Premises, Starter, take_place};
use self::metrics::PressureGauge;
use self::places::About;
pub use self::push::AHEAD_FOR;
use self::push::{Pusher, PusherSetup};
use self::server::{Calls, Server, ServerParts};
pub use self::spool::Spool;
use self::status::AgentCounters;
pub use self::status::AgentStatus;
pub use self::told::status_of;
pub(crate) use self::told::{AgentFound, find_agent};
use crate::archiver::{Archiver, Pipeline, PipelineLimits};
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// How long an agent that leaves waits for what it has begun.
const FINISH_WITHIN: Duration = Duration::from_secs(20);
/// With a limit of the rate, so many files are archived ahead at once: more would only take the rate from the file that
/// PostgreSQL waits for.
const IN_FLIGHT_AT_RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
/// How often it looks whether its place is still its own.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// An agent that a hook started ends after this long without a call and without work, unless set.
pub const IDLE_DEFAULT: Duration = Duration::from_mins(1);
/// zstd's level under the longest queue: a segment takes a fifth less of the processor than at level 1, for an object three
/// quarters larger.
const LEVEL_IN_A_HURRY: i32 = -7;
/// Disk space for files that are fetched ahead, unless set, in bytes.
pub const PREFETCH_BYTES_DEFAULT: u64 = 256 << 20;

/// How an agent works.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The data directory whose hooks it answers.
    pub data: DataDirectory,
    /// What stands for its settings and credentials: [`walden_store::settings_fingerprint`].
    pub settings: SettingsFingerprint,
    /// Whether a hook started it: it then ends when it is idle, and gives way to a resident one.
    pub on_demand: bool,
    /// How long without a call and without work is idle; for agents that a hook started.
    pub idle: Duration,
    /// Memory, sealers, and files in flight.
    pub limits: PipelineLimits,
    /// The best and the fastest level of compression.
    pub levels: LevelRange,
    /// Bytes per second that the store of the context was opened to send and receive at most; `None` for as many as it
    /// can.
    pub max_rate: Option<u64>,
    /// Where metrics and health are given over HTTP; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Archiving that did not get on for this long is told as not healthy.
    pub unhealthy_after: Duration,
    /// Disk space for files that are fetched ahead, in bytes; 0 for none.
    pub prefetch_bytes: u64,
    /// What its status warns of, as far as whoever starts it knows: that nobody will find it, mostly.
    pub warnings: Vec<String>,
    /// How long it waits, when it leaves, for what it has begun.
    pub finish_within: Duration,
}

impl AgentOptions {
    /// A resident agent with the defaults: see [`PipelineLimits::default`], [`IDLE_DEFAULT`], [`PREFETCH_BYTES_DEFAULT`].
    /// The levels go from `best` to -7.
    #[must_use]
    pub fn new(data: DataDirectory, settings: SettingsFingerprint, best: CompressionLevel) -> Self {
        Self {
            data,
            settings,
            on_demand: false,
            idle: IDLE_DEFAULT,
            limits: PipelineLimits::default(),
            levels: LevelRange::new(best, CompressionLevel::new(LEVEL_IN_A_HURRY).unwrap_or(best)),
            max_rate: None,
            metrics: None,
            unhealthy_after: UNHEALTHY_AFTER_DEFAULT,
            prefetch_bytes: PREFETCH_BYTES_DEFAULT,
            warnings: Vec::new(),
            finish_within: FINISH_WITHIN,
        }
    }
}

/// Why an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEnd {
    /// It was told to: by a signal, by `walden agent stop`, or to give way to another one.
    Stopped,
    /// Nobody called for a while.
    Idle,
    /// Its place is not its own any more: the spool or the data directory is gone, or others are there.
    Displaced,
    /// Another one was there already, and this one was started by a hook.
    NotNeeded,
    /// A hook started it, and the hook's server has ended.
    ServerGone,
    /// A hook started it, and it became the server's child, which it must not be.
    Fostered,
}

/// The life of an agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// Why it ended.
    pub end: AgentEnd,
    /// The same in words.
    pub why: String,
    /// Its last status; `None` when another agent was there.
    pub status: Option<AgentStatus>,
}

/// Tells the agent's status at any time. Cheap to clone.
#[derive(Clone)]
pub struct StatusHandle(Arc<StatusParts>);

struct StatusParts {
    ctx: Context,
    spool: Spool,
    on_demand: bool,
    started_at: Timestamp,
    started: Duration,
    pusher: Pusher,
    gets: Arc<Gets>,
    counters: Arc<AgentCounters>,
    pressure: PressureGauge,
    metrics: Option<SocketAddr>,
    leaving: Leaving,
    doubts: Doubts,
}

impl StatusHandle {
    /// The status now.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let parts = &self.0;
        let (push, level, load) = parts.pusher.status();
        AgentStatus {
            schema: 1,
            pid: std::process::id(),
            build: protocol::build().to_owned(),
            on_demand: parts.on_demand,
            leaving: parts.leaving.why().is_some(),
            warnings: parts.doubts.told(),
            started_at: parts.started_at,
            uptime_seconds: since_boot().saturating_sub(parts.started).as_secs_f64(),
            data_directory: parts.spool.data_directory().to_owned(),
            server: parts.ctx.server.clone(),
            repository: parts.ctx.store.identity(),
            push,
            level,
            load,
            prefetch: parts.gets.status(),
            store: parts.ctx.store.counters(),
            metrics: parts.metrics,
            pressure: parts.pressure.last(),
            errors: parts.counters.errors(),
            latencies: parts.counters.latencies(),
        }
    }
}

/// Time since the machine started, its sleep included: goes on whatever is done to the clock.
pub(crate) fn since_boot() -> Duration {
    // There since Linux 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Lives an agent's life: until `stop` ends, or there is a reason of its own to leave. What was begun then is finished,
/// for a while.
///
/// # Errors
/// Kind `config` without a state directory, and when another resident agent is there; `local_io` when the spool can't be
/// used; `internal` when a part of the agent failed, which ends it.
pub async fn run(
    ctx: Context,
    mut options: AgentOptions,
    stop: impl Future<Output = ()>,
) -> Result<AgentReport> {
    // What this program is, before an upgrade replaces its file.
    let _ = protocol::build();
    if ctx.store.limiter().is_some() {
        options.limits.in_flight = options.limits.in_flight.min(IN_FLIGHT_AT_RATE);
    }
    let spool = locate(&ctx, &options)?;
    let lock = match take_place(&spool, options.on_demand).await? {
        Ok(lock) => lock,
        Err(pid) if options.on_demand => {
            let why = format!("an agent runs already pid={pid}");
            return Ok(AgentReport { schema: 1, end: AgentEnd::NotNeeded, why, status: None });
        }
        Err(pid) => {
            let path = spool.directory().display();
            let message = format!("an agent runs already pid={pid} spool={path}");
            let error = EngineError::failed(ErrorKind::Config, message);
            return Err(error.with_hint("walden agent status tells of it, walden agent stop ends it"));
        }
    };
    let (premises, listener) = Premises::open(&spool, lock, options.on_demand)?;
    tidy(&ctx, &options, &spool);
    let metrics = http::listen(&options).await?;
    let server = assemble(ctx, &options, spool, metrics.as_ref().and_then(http::HttpListener::address));
    let pusher = server.0.pusher.clone();
    let pushing = tokio::spawn(async move { pusher.run().await });
    let serving = tokio::spawn(server.clone().run(listener));
    let telling = tokio::spawn(tell(metrics, options.data.clone(), server.0.status.clone()));
    let doubting = tokio::spawn(doubt(server.0.status.clone(), options.clone()));
    tracing::info!(pid = std::process::id(), path = %premises.path().display(), "the agent is there");
    let stays = || !pushing.is_finished() && !serving.is_finished();
    let (end, why) = stay(&premises, &options, &server, stays, stop).await;
    tracing::info!(%why, "the agent leaves");
    let is_whole = stays();
    serving.abort();
    doubting.abort();
    finish(&premises, &server, options.finish_within).await;
    server.0.gets.close();
    pushing.abort();
    telling.abort();
    if !is_whole {
        return Err(EngineError::failed(ErrorKind::Internal, format!("the agent has ended: {why}")));
    }
    Ok(AgentReport { schema: 1, end, why, status: Some(server.0.status.status()) })
}

/// Says whose the place is, and clears what agents before have left.
fn tidy(ctx: &Context, options: &AgentOptions, spool: &Spool) {
    let caller = spool.caller();
    let about = About {
        schema: 1,
        pid: std::process::id(),
        build: protocol::build().to_owned(),
        on_demand: options.on_demand,
        started_at: ctx.clock.now(),
        data_directory: spool.data_directory().to_owned(),
        identity: caller.data_directory,
        repository: caller.repository.clone(),
        server: caller.server.clone(),
    };
    places::describe(spool.directory(), &about);
    if options.prefetch_bytes == 0 {
        // Otherwise what fetches ahead empties it.
        let _ = places::empty(&spool.prefetch_directory());
    }
    let (state, own, now) = (ctx.state_directory.clone(), spool.clone(), ctx.clock.now());
    // Not waited for: files may be many.
    tokio::task::spawn_blocking(move || {
        state.map(|state| places::clear_stale(&state, &own, std::time::SystemTime::from(now)))
    });
}

fn locate(ctx: &Context, options: &AgentOptions) -> Result<Spool> {
    let Some(state_directory) = &ctx.state_directory else {
        let message = "an agent needs a state directory, and there is none";
        return Err(EngineError::failed(ErrorKind::Config, message).with_hint("set state_directory"));
    };
    let path = options.data.path();
    let located = Spool::locate(state_directory, path, &ctx.store.identity(), &ctx.server, &options.settings);
    located.map_err(|source| EngineError::local("look at", path, source))
}

/// How long a limit of the rate may hold up one call: all that may be in flight goes before it, or beside it.
fn time_at_rate(ctx: &Context, options: &AgentOptions) -> Duration {
    let Some(limiter) = ctx.store.limiter() else { return Duration::ZERO };
    let size =
        options.data.control().map_or(walden_pg::WalSegmentSize::MAX, |control| control.wal_segment_size);
    let files = u64::from(options.limits.in_flight.get()) + u64::from(queue::PLACES_FOR_HOOKS);
    Duration::from_secs(size.bytes().saturating_mul(files).div_ceil(limiter.bytes_per_second().get()))
}

/// Looks at the room that WAL has, and gives metrics to those who ask, for ever.
async fn tell(metrics: Option<http::HttpListener>, data: DataDirectory, status: StatusHandle) {
    let (gauge, clock) = (status.0.pressure.clone(), Arc::clone(&status.0.ctx.clock));
    let serve = async {
        if let Some(listener) = metrics {
            listener.serve(Arc::new(move || status.status())).await;
        }
    };
    tokio::join!(gauge.watch(data, clock), serve);
}

fn assemble(ctx: Context, options: &AgentOptions, spool: Spool, metrics: Option<SocketAddr>) -> Server {
    let counters: Arc<AgentCounters> = Arc::default();
    let leaving = Leaving::default();
    let at_rate = time_at_rate(&ctx, options);
    let archiver = Archiver::new(ctx.clone()).with_data_directory(Some(options.data.clone()));
    let pusher = Pusher::new(PusherSetup {
        pipeline: Pipeline::new(archiver, with_places_for_hooks(options.limits)),
        limits: options.limits,
        data: options.data.clone(),
        range: options.levels,
        clock: Arc::clone(&ctx.clock),
        counters: Arc::clone(&counters),
        // A file's history, the file itself, and looking at what is in its place.
        push_deadline: ctx.store_deadline * 3 + Duration::from_mins(1) + at_rate,
    });
    let (data, directory) = (options.data.clone(), spool.prefetch_directory());
    let gets = Arc::new(Gets::open(ctx.clone(), data, directory, options.prefetch_bytes));
    let caller = spool.caller().clone();
    let status = StatusHandle(Arc::new(StatusParts {
        started_at: ctx.clock.now(),
        started: since_boot(),
        ctx,
        spool,
        on_demand: options.on_demand,
        pusher: pusher.clone(),
        gets: Arc::clone(&gets),
        counters: Arc::clone(&counters),
        pressure: PressureGauge::default(),
        metrics,
        leaving: leaving.clone(),
        doubts: Doubts::new(&options.data, options.warnings.clone()),
    }));
    let (on_demand, calls) = (options.on_demand, Calls::begun_now());
    Server(Arc::new(ServerParts {
        caller,
        on_demand,
        pusher,
        gets,
        counters,
        status,
        leaving,
        calls,
        at_rate,
    }))
}

/// The queue keeps to the limit for what nobody waits for; the pipeline has room for what is waited for besides.
fn with_places_for_hooks(limits: PipelineLimits) -> PipelineLimits {
    PipelineLimits { in_flight: limits.in_flight.saturating_add(queue::PLACES_FOR_HOOKS), ..limits }
}

/// Stays until there is a reason to leave.
async fn stay(
    premises: &Premises,
    options: &AgentOptions,
    server: &Server,
    is_whole: impl Fn() -> bool,
    stop: impl Future<Output = ()>,
) -> (AgentEnd, String) {
    let parts = &server.0;
    let mut stop = std::pin::pin!(stop);
    let starter = options.on_demand.then(|| premises.starter());
    let mut look_around = tokio::time::interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stop => return (AgentEnd::Stopped, "told to stop".to_owned()),
            () = parts.leaving.told() => {
                return (AgentEnd::Stopped, parts.leaving.why().unwrap_or_default());
            }
            _ = look_around.tick() => {}
        }
        if let Some(why) = premises.lost() {
            return (AgentEnd::Displaced, why.to_owned());
        }
        if !is_whole() {
            // Otherwise it would be heard from for ever, and hooks would wait for what nobody begins.
            return (AgentEnd::Stopped, "a part of it broke off, which is a defect".to_owned());
        }
        let busy = parts.calls.is_open() || parts.pusher.is_busy() || parts.gets.is_busy();
        match starter.as_ref().map_or(Fate::Stay, Starter::fate) {
            Fate::Fostered => return (AgentEnd::Fostered, "it has become the server's child".to_owned()),
            Fate::ServerGone if !busy => return (AgentEnd::ServerGone, "the server has ended".to_owned()),
            Fate::ServerGone | Fate::Stay => {}
        }
        if options.on_demand && !busy && parts.calls.idle_for() >= options.idle {
            return (AgentEnd::Idle, format!("nobody called for {} s", options.idle.as_secs()));
        }
    }
}

/// Lets what was begun end, and begins nothing more.
async fn finish(premises: &Premises, server: &Server, within: Duration) {
    let parts = &server.0;
    parts.leaving.leave("leaving");
    premises.close();
    parts.pusher.leave();
    parts.gets.leave();
    let end = Instant::now() + within;
    while (parts.pusher.is_busy() || parts.calls.is_open()) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unfinished = parts.pusher.in_flight();
    if unfinished > 0 {
        tracing::info!("{unfinished} files not finished; PostgreSQL's next calls archive them");
    }
    let left = end.saturating_duration_since(Instant::now());
    if tokio::time::timeout(left, parts.pusher.settle()).await.is_err() {
        tracing::info!("what was left to do is given up; nothing is lost by that");
    }
}
