//! The push side of the agent: archives what hooks wait for, and what they will ask for next.
//!
//! Whatever is pushed goes the way of a push by a hook itself, with all its checks: the agent only decides which file is
//! pushed when, and how hard it is compressed. A hook is told "done" in two cases only: the very file that it sees was
//! pushed since it asked, or there is an ack of that file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::poll;
use tokio::sync::{Notify, oneshot};
use walden_core::ErrorKind;
use walden_pg::{ArchiveFileName, WalSegmentSize};
use walden_store::CompressionLevel;

use super::acks::{ACKS_MAX, Acks};
use super::level::{LevelRange, LevelState};
use super::protocol::{AgentFailure, Answer};
use super::queue::{Allowance, PushEnd, PushQueue, is_of_the_file};
use super::recent::{Recent, Totals};
use super::since_boot;
use super::status::{
    AgentCounters, LastArchived, LastFailure, LevelStatus, LoadStatus, PushStatus, RetryStatus, add,
    resident_bytes,
};
use super::trend::{Moment, Trend};
use super::watch::{Change, Watch, scan};
use crate::archiver::{FileIdentity, Pipeline, PipelineLimits, Pushed};
use crate::clock::Clock;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// Files are archived ahead for this long after a hook last called: as long as PostgreSQL's archiver sleeps between two
/// looks at its queue. When archiving is turned off, no hook calls.
pub const AHEAD_FOR: Duration = Duration::from_mins(1);
/// The directory is looked at whole this often …
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// … and less often when looking takes long: the pause is so many times longer.
const LOOK_PAUSE_PER_LOOK: u32 = 20;
/// A call leads to a look after this part of the pause.
const LOOK_SOONER_WHEN_CALLED: u32 = 5;
/// So many files are told in the status that failed and are tried again.
const RETRIES_TOLD: usize = 8;

/// Archives files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pusher(Arc<Inner>);

struct Inner {
    pipeline: Pipeline,
    limits: PipelineLimits,
    data: DataDirectory,
    range: LevelRange,
    clock: Arc<dyn Clock>,
    counters: Arc<AgentCounters>,
    /// A push that takes longer is given up.
    push_deadline: Duration,
    segment_size: u64,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    queue: PushQueue,
    acks: Acks,
    waiters: Vec<Waiter>,
    tickets: u64,
    level: LevelState,
    trend: Trend,
    recent: Recent,
    last_call: Option<Duration>,
    looked_at: Option<Duration>,
    /// The directory is looked at again after this long, or when asked to.
    look_pause: Duration,
    look_now: bool,
    leaving: bool,
    last_archived: Option<(Duration, LastArchived)>,
    last_failure: Option<LastFailure>,
}

/// A hook that waits.
struct Waiter {
    ticket: u64,
    name: String,
    /// The file as the hook sees it.
    file: FileIdentity,
    tell: oneshot::Sender<Answer>,
}

/// A push that was begun.
struct Begun {
    name: String,
    /// Hooks with a smaller one asked before it began.
    ticket: u64,
    asked: bool,
    level: CompressionLevel,
}

/// What a [`Pusher`] works with.
pub(super) struct PusherSetup {
    pub(super) pipeline: Pipeline,
    pub(super) limits: PipelineLimits,
    pub(super) data: DataDirectory,
    pub(super) range: LevelRange,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Arc<AgentCounters>,
    pub(super) push_deadline: Duration,
}

impl Pusher {
    pub(super) fn new(setup: PusherSetup) -> Self {
        let PusherSetup { pipeline, limits, data, range, clock, counters, push_deadline } = setup;
        let size = data.control().ok().map(|control| control.wal_segment_size);
        let segment_size = size.map_or(16 << 20, WalSegmentSize::bytes);
        let (state, wake) = (Mutex::default(), Notify::new());
        let inner = Inner {
            pipeline,
            limits,
            data,
            range,
            clock,
            counters,
            push_deadline,
            segment_size,
            state,
            wake,
        };
        Self(Arc::new(inner))
    }

    /// Answers a hook that wants a file archived, which is `file` as the hook sees it. May be given up at any time.
    pub(super) async fn push(&self, name: &str, file: FileIdentity) -> Answer {
        let inner = &self.0;
        let started = tokio::time::Instant::now();
        add(&inner.counters.calls, 1);
        let answer = match self.begin_call(name, file) {
            Err(answer) => answer,
            Ok((receive, _waiting)) => {
                receive.await.unwrap_or_else(|_| yourself("the agent lost the answer"))
            }
        };
        match &answer {
            Answer::Done { ahead: true, .. } => add(&inner.counters.calls_ahead, 1),
            Answer::Failed(_) => add(&inner.counters.calls_failed, 1),
            _ => {}
        }
        inner.counters.push_calls.observe(started.elapsed());
        answer
    }

    /// Answers at once, or gives what to wait for.
    fn begin_call(
        &self,
        name: &str,
        file: FileIdentity,
    ) -> Result<(oneshot::Receiver<Answer>, Waiting), Answer> {
        if name.parse::<ArchiveFileName>().is_err() {
            return Err(yourself("not the name of a file that PostgreSQL archives"));
        }
        // Other containers may have other files at the same path.
        let seen = std::fs::metadata(self.0.path(name)).map(|metadata| FileIdentity::of(&metadata));
        if seen.ok() != Some(file) {
            return Err(yourself("the agent sees another file at this path"));
        }
        let now = since_boot();
        let mut state = self.0.state();
        if state.leaving {
            return Err(yourself("the agent is leaving"));
        }
        state.last_call = Some(now);
        if let Some(report) = state.acks.take_fitting(name, &file, now) {
            return Err(Answer::Done { report, ahead: true });
        }
        state.tickets += 1;
        let ticket = state.tickets;
        let (tell, receive) = oneshot::channel();
        state.waiters.push(Waiter { ticket, name: name.to_owned(), file, tell });
        state.queue.ask(name);
        let sooner = state.look_pause / LOOK_SOONER_WHEN_CALLED;
        state.look_now |= state.looked_at.is_none_or(|at| now.saturating_sub(at) >= sooner);
        drop(state);
        self.0.wake.notify_one();
        Ok((receive, Waiting { inner: Arc::clone(&self.0), ticket }))
    }

    /// Begins what there is to begin, for ever.
    pub(super) async fn run(&self) {
        let mut watch = None;
        loop {
            // Who waits does not wait for a look, which may take long.
            self.begin_all().await;
            if self.0.wants_look() {
                if watch.is_none() {
                    // Before the look: what happens meanwhile is told.
                    watch = Watch::begin(self.0.data.path()).ok();
                }
                self.look().await;
                self.begin_all().await;
            }
            let pause = self.0.pause();
            tokio::select! {
                () = self.0.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                changes = follow(&mut watch, &self.0.data) => match changes {
                    Ok(changes) => self.0.note(changes),
                    Err(error) => {
                        tracing::debug!(%error, "archive_status can't be followed");
                        watch = None;
                        self.0.state().look_now = true;
                    }
                },
            }
        }
    }

    /// Looks at the directory.
    async fn look(&self) {
        let data = self.0.data.path().to_owned();
        let started = tokio::time::Instant::now();
        let found = tokio::task::spawn_blocking(move || scan(&data)).await;
        let now = since_boot();
        let mut state = self.0.state();
        (state.looked_at, state.look_now) = (Some(now), false);
        state.look_pause = LOOK_PAUSE.max(started.elapsed() * LOOK_PAUSE_PER_LOOK);
        match found {
            Ok(Ok(found)) => {
                let State { queue, acks, .. } = &mut *state;
                queue.replace(found);
                acks.retain(|name| queue.is_ready(name), now);
            }
            Ok(Err(error)) => tracing::debug!(%error, "cannot look at archive_status"),
            Err(error) => tracing::error!(%error, "looking at archive_status failed"),
        }
    }

    async fn begin_all(&self) {
        while let Some(begun) = self.0.begin() {
            let inner = Arc::clone(&self.0);
            let mut push = Box::pin(async move { inner.carry_out(begun).await });
            // The pipeline takes them in the order of their first poll; the order of tasks is nobody's.
            if poll!(&mut push).is_pending() {
                tokio::spawn(push);
            }
        }
    }

    /// Begins nothing more, and sends away the hooks whose files are not in flight.
    pub(super) fn leave(&self) {
        let mut state = self.0.state();
        state.leaving = true;
        let State { queue, waiters, .. } = &mut *state;
        for waiter in std::mem::take(waiters) {
            if queue.is_in_flight(&waiter.name) {
                waiters.push(waiter);
            } else {
                queue.unask(&waiter.name);
                let _ = waiter.tell.send(yourself("the agent is leaving"));
            }
        }
    }

    /// Whether something is being archived, or waited for.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.0.state();
        state.queue.in_flight() > 0 || !state.waiters.is_empty()
    }

    /// Files that are being archived.
    pub(super) fn in_flight(&self) -> usize {
        self.0.state().queue.in_flight()
    }

    /// Waits for what is left to do behind the pushes that ended.
    pub(super) async fn settle(&self) {
        self.0.pipeline.settle().await;
    }

    pub(super) fn status(&self) -> (PushStatus, LevelStatus, LoadStatus) {
        let push = self.0.push_status();
        (push, self.0.level_status(), self.0.load_status())
    }
}

async fn follow(watch: &mut Option<Watch>, data: &DataDirectory) -> std::io::Result<Vec<Change>> {
    match watch {
        Some(watch) => watch.changes(data.path()).await,
        // Tried again with the next look.
        None => std::future::pending().await,
    }
}

fn yourself(reason: &str) -> Answer {
    Answer::DoItYourself { reason: reason.to_owned() }
}

/// As long as a hook waits.
struct Waiting {
    inner: Arc<Inner>,
    ticket: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        let Some(at) = state.waiters.iter().position(|waiter| waiter.ticket == self.ticket) else { return };
        let waiter = state.waiters.swap_remove(at);
        // The hook went without an answer, and PostgreSQL counts that as a failure, too.
        add(&self.inner.counters.calls_failed, 1);
        if !state.waiters.iter().any(|other| other.name == waiter.name) {
            state.queue.unask(&waiter.name);
        }
    }
}

/// As long as a push is under way: however it ends, the file is not in flight any more.
struct InFlight<'a> {
    inner: &'a Inner,
    begun: &'a Begun,
    ended: bool,
}

impl InFlight<'_> {
    fn end(&mut self, pushed: Result<Pushed>) {
        self.ended = true;
        self.inner.end(self.begun, pushed);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // An agent that leaves gives up what takes too long, and says so once for all: see `finish`.
        if self.inner.state().leaving && !std::thread::panicking() {
            self.inner.give_up(self.begun);
        } else {
            let message = format!("the push broke off name={}", self.begun.name);
            self.inner.end(self.begun, Err(EngineError::failed(ErrorKind::Internal, message)));
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.path().join("pg_wal").join(name)
    }

    fn wants_look(&self) -> bool {
        let state = self.state();
        let due = |at| since_boot().saturating_sub(at) >= state.look_pause;
        state.look_now || state.looked_at.is_none_or(due)
    }

    /// How long there is nothing to do, unless something happens.
    fn pause(&self) -> Duration {
        let (state, now) = (self.state(), since_boot());
        let look_in =
            state.looked_at.map_or(Duration::ZERO, |at| (at + state.look_pause).saturating_sub(now));
        let wakes_in = state.queue.wakes_at(now).map_or(look_in, |at| at.saturating_sub(now));
        // Once a second the level is looked at.
        look_in.min(wakes_in).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    fn note(&self, changes: Vec<Change>) {
        let mut state = self.state();
        for change in changes {
            match change {
                Change::Came(name, at) => state.queue.add(&name, at),
                Change::Gone(name) => {
                    state.queue.remove(&name);
                    state.acks.forget(&name);
                }
                Change::Unknown => state.look_now = true,
            }
        }
    }

    /// Takes the next file to push, and the level for it.
    fn begin(&self) -> Option<Begun> {
        let now = since_boot();
        let mut state = self.state();
        self.observe(&mut state, now);
        let allowance = Allowance {
            in_flight_max: self.limits.in_flight.get() as usize,
            ahead: state.may_work_ahead(now),
        };
        let State { queue, acks, waiters, tickets, .. } = &mut *state;
        let name = queue.next(now, allowance, |name| acks.has(name, now))?;
        let asked = waiters.iter().any(|waiter| waiter.name == name);
        *tickets += 1;
        Some(Begun { name, ticket: *tickets, asked, level: state.level.level(self.range) })
    }

    /// Judges the level anew, when it is time.
    fn observe(&self, state: &mut State, now: Duration) {
        state.recent.observe(now, self.totals());
        let load = self.pipeline.load();
        let (sealers, places) =
            (u64::from(self.limits.sealers.get()), u64::from(self.limits.in_flight.get()));
        let sealers_busy = load.sealing >= sealers;
        // Those who wait for memory wait for what is being sent, too.
        let full = load.waiting > 0 || load.sealing + load.sending >= places;
        let senders_busy = full && !sealers_busy && load.sending > load.sealing;
        let moment = Moment { waiting: state.waiting(), sealers_busy, senders_busy };
        let Some(facts) = state.trend.observe(now, moment, sealers) else { return };
        let next = state.level.next(self.range, &facts);
        if next.level(self.range) != state.level.level(self.range) {
            tracing::debug!(
                level = next.level(self.range).get(),
                reason = next.reason().as_str(),
                ?facts,
                "compression changes"
            );
        }
        state.level = next;
    }

    fn totals(&self) -> Totals {
        use std::sync::atomic::Ordering::Relaxed;
        Totals {
            files: self.counters.archived_files.load(Relaxed),
            bytes: self.counters.archived_bytes.load(Relaxed),
            stored_bytes: self.counters.stored_bytes.load(Relaxed),
        }
    }

    async fn carry_out(&self, begun: Begun) {
        let mut in_flight = InFlight { inner: self, begun: &begun, ended: false };
        let path = self.path(&begun.name);
        let push = self.pipeline.push(&path, &self.data, begun.level);
        let pushed = match tokio::time::timeout(self.push_deadline, push).await {
            Ok(pushed) => pushed,
            Err(_) => Err(EngineError::failed(
                ErrorKind::Unavailable,
                format!(
                    "the push was given up deadline={}s name={}",
                    self.push_deadline.as_secs(),
                    begun.name
                ),
            )),
        };
        in_flight.end(pushed);
    }

    fn end(&self, begun: &Begun, pushed: Result<Pushed>) {
        match pushed {
            Ok(pushed) => self.end_archived(begun, &pushed),
            Err(error) => self.end_failed(begun, &error),
        }
        self.wake.notify_one();
    }

    /// Tells those who wait for a push that was given up because the agent leaves.
    fn give_up(&self, begun: &Begun) {
        let mut state = self.state();
        state.queue.ended(&begun.name, PushEnd::Failed(ErrorKind::Unavailable), since_boot());
        state.queue.unask(&begun.name);
        for waiter in std::mem::take(&mut state.waiters) {
            if waiter.name == begun.name {
                let _ = waiter.tell.send(yourself("the agent is leaving"));
            } else {
                state.waiters.push(waiter);
            }
        }
    }

    fn end_archived(&self, begun: &Begun, pushed: &Pushed) {
        let now = since_boot();
        let mut state = self.state();
        self.count(&state, begun, pushed);
        state.queue.ended(&begun.name, PushEnd::Archived, now);
        let last = LastArchived {
            name: begun.name.clone(),
            at: self.clock.now(),
            seconds_ago: 0.0,
            bytes: pushed.report.bytes,
            stored_bytes: pushed.report.stored_bytes,
            level: pushed.level.get(),
        };
        state.last_archived = Some((now, last));
        let State { queue, acks, waiters, .. } = &mut *state;
        if queue.is_ready(&begun.name) {
            acks.insert(pushed.file, pushed.report.clone(), now);
        }
        for waiter in std::mem::take(waiters) {
            let answer = if waiter.name != begun.name {
                None
            } else if waiter.file == pushed.file
                && (waiter.ticket < begun.ticket || acks.has(&waiter.name, now))
            {
                Some(Answer::Done { report: pushed.report.clone(), ahead: false })
            } else if waiter.ticket < begun.ticket {
                Some(yourself("the file changed while the agent archived it"))
            } else {
                None
            };
            match answer {
                Some(answer) => drop(waiter.tell.send(answer)),
                None => waiters.push(waiter),
            }
        }
        if !waiters.iter().any(|waiter| waiter.name == begun.name) {
            queue.unask(&begun.name);
        }
    }

    fn count(&self, state: &State, begun: &Begun, pushed: &Pushed) {
        let counters = &self.counters;
        add(&counters.archived_files, 1);
        add(&counters.archived_bytes, pushed.report.bytes);
        add(&counters.stored_bytes, pushed.report.stored_bytes);
        if pushed.report.outcome == crate::archiver::PushOutcome::AlreadyStored {
            add(&counters.already_stored_files, 1);
        }
        if pushed.report.damage.is_some() {
            add(&counters.damaged_segments, 1);
        }
        let timings = pushed.timings;
        counters.seal.observe(timings.read + timings.scan + timings.hash + timings.compress);
        counters.send.observe(timings.send);
        if let Some(since) = state.queue.ready_since(&begun.name) {
            let delay = Duration::try_from(self.clock.now().duration_since(since)).unwrap_or_default();
            counters.archive_delay.observe(delay);
        }
    }

    fn end_failed(&self, begun: &Begun, error: &EngineError) {
        let (now, kind) = (since_boot(), error.kind());
        let failure = AgentFailure::from(error);
        tracing::warn!(name = %begun.name, asked = begun.asked, kind = kind.as_str(), %error, "a push failed");
        self.counters.error(kind);
        let mut state = self.state();
        if !begun.asked {
            add(&self.counters.ahead_failed, 1);
        }
        state.queue.ended(&begun.name, PushEnd::Failed(kind), now);
        state.queue.unask(&begun.name);
        if doubts_the_archive(kind) {
            state.acks.clear();
        }
        state.last_failure =
            Some(LastFailure { name: begun.name.clone(), at: self.clock.now(), failure: failure.clone() });
        let waiters = std::mem::take(&mut state.waiters);
        for waiter in waiters {
            if waiter.name == begun.name {
                // What was wrong with the file may have been so before the hook asked.
                let answer = if waiter.ticket < begun.ticket || !is_of_the_file(kind) {
                    Answer::Failed(failure.clone())
                } else {
                    yourself("a push of the file that was under way before failed")
                };
                let _ = waiter.tell.send(answer);
            } else {
                state.waiters.push(waiter);
            }
        }
    }

    fn push_status(&self) -> PushStatus {
        use std::sync::atomic::Ordering::Relaxed;
        let (now, today) = (since_boot(), self.clock.now());
        let state = self.state();
        let State { queue, acks, .. } = &*state;
        let mut push = PushStatus {
            ahead: state.may_work_ahead(now),
            last_call_seconds: state.last_call.map(|at| now.saturating_sub(at).as_secs_f64()),
            ready_files: queue.ready_files() as u64,
            in_flight: queue.in_flight() as u64,
            acks: acks.len() as u64,
            last_failure: state.last_failure.clone(),
            last_archived: state.last_archived.as_ref().map(|(at, last)| LastArchived {
                seconds_ago: now.saturating_sub(*at).as_secs_f64(),
                ..last.clone()
            }),
            archived_files: self.counters.archived_files.load(Relaxed),
            already_stored_files: self.counters.already_stored_files.load(Relaxed),
            damaged_segments: self.counters.damaged_segments.load(Relaxed),
            archived_bytes: self.counters.archived_bytes.load(Relaxed),
            stored_bytes: self.counters.stored_bytes.load(Relaxed),
            recent: state.recent.status(now, self.totals()),
            calls: self.counters.calls.load(Relaxed),
            calls_ahead: self.counters.calls_ahead.load(Relaxed),
            calls_failed: self.counters.calls_failed.load(Relaxed),
            ahead_failed: self.counters.ahead_failed.load(Relaxed),
            ..PushStatus::default()
        };
        let mut oldest = today;
        for (name, since) in queue.unarchived(|name| acks.has(name, now)) {
            push.queue_files += 1;
            oldest = oldest.min(since);
            if matches!(name.parse(), Ok(ArchiveFileName::Segment(_) | ArchiveFileName::Partial(_))) {
                push.queue_bytes += self.segment_size;
            }
        }
        push.unarchived_seconds = today.duration_since(oldest).as_secs_f64();
        push.retries = queue
            .retries(now)
            .take(RETRIES_TOLD)
            .map(|(name, failed, again_in)| RetryStatus {
                name: name.to_owned(),
                failed,
                again_in_seconds: again_in.as_secs_f64(),
            })
            .collect();
        push
    }

    fn level_status(&self) -> LevelStatus {
        let state = self.state();
        let (level, works) = (state.level, state.waiting() > 0 || state.queue.in_flight() > 0);
        LevelStatus {
            level: level.level(self.range).get(),
            reason: level.reason_while(works),
            best: self.range.best(),
            fastest: self.range.fastest(),
        }
    }

    fn load_status(&self) -> LoadStatus {
        let load = self.pipeline.load();
        LoadStatus {
            memory_limit_bytes: self.limits.memory_bytes,
            memory_reserved_bytes: load.memory_reserved,
            memory_resident_bytes: resident_bytes(),
            in_flight_limit: u64::from(self.limits.in_flight.get()),
            sealers_limit: u64::from(self.limits.sealers.get()),
            waiting: load.waiting,
            sealing: load.sealing,
            sending: load.sending,
            seal_seconds: load.seal_time.as_secs_f64(),
            send_seconds: load.send_time.as_secs_f64(),
        }
    }
}

impl State {
    /// Whether files may be archived that no hook waits for.
    fn may_work_ahead(&self, now: Duration) -> bool {
        let called = self.last_call.is_some_and(|at| now.saturating_sub(at) < AHEAD_FOR);
        let called = called || !self.waiters.is_empty();
        called && !self.leaving && self.queue.archived_ahead(ACKS_MAX) + self.queue.in_flight() < ACKS_MAX
    }

    /// Files that wait and are not begun.
    fn waiting(&self) -> u64 {
        let begun = self.queue.archived_ahead(ACKS_MAX) + self.queue.in_flight();
        self.queue.ready_files().saturating_sub(begun) as u64
    }
}

/// Whether a failure says that the archive may not be what it was, or not ours any more: then nothing is believed that was
/// remembered of it.
fn doubts_the_archive(kind: ErrorKind) -> bool {
    !is_of_the_file(kind) && kind != ErrorKind::Unavailable
}
