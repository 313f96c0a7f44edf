//! Fetching ahead of a recovery.
//!
//! A [`Prefetcher`] answers what a recovery asks for, in the order in which it asks, and has the next segments ready
//! before they are asked for. It changes no answer: a file is offered only when it passed every check of a direct get;
//! "absent" is proven for the ask itself, or was a moment ago; and whatever it can't do as well as a direct get it leaves
//! to the hook. What is ready is known to this process alone, so nothing outlives it.
//!
//! Only the asks of a recovery are answered: segments for `RECOVERYXLOG` and histories for `RECOVERYHISTORY`. pg_rewind,
//! which goes backwards, asks under the file's own name.

mod absence;
mod files;
mod situation;
mod state;
mod take;
mod timelines;

use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use walden_core::ErrorKind;
use walden_pg::{ArchiveFileName, SegmentId, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use walden_store::RetryBudget;

use self::absence::{Absence, Listed, list_newer};
use self::files::{Directory, Unflushed, WholeFile};
use self::situation::Situation;
use self::state::{Ahead, Flushing, Stage, State, Task};
pub use self::take::{Taken, take_prefetched};
use super::tablespaces::ReplayGuard;
use super::{FILE_BYTES_MAX, Fetcher, Wanted};
use crate::agent::protocol::ReadyFile;
use crate::agent::since_boot;
use crate::context::Context;
use crate::data_directory::{DataDirectory, RecoveryMode};
use crate::error::{EngineError, Result};

/// A history file takes no more than this, as a rule, in bytes.
const HISTORY_BYTES: u64 = 1 << 20;

/// How much is fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefetchOptions {
    /// Disk space for fetched segments, in bytes: the one that is being taken included, so nothing is fetched ahead
    /// unless it has room for two, and hooks fetch for themselves unless it has room for one.
    pub limit_bytes: u64,
    /// So much of the file system is left free, in bytes; with less, hooks fetch for themselves.
    pub reserve_bytes: u64,
    /// Segments that are fetched ahead at once.
    pub parallel: NonZeroU32,
    /// What is fetched ahead is dropped when nothing was asked for this long.
    pub idle: Duration,
}

impl Default for PrefetchOptions {
    /// 256 MiB, 1 GiB, 4 at once, a minute.
    fn default() -> Self {
        Self {
            limit_bytes: 256 << 20,
            reserve_bytes: 1 << 30,
            parallel: NonZeroU32::MIN.saturating_add(3),
            idle: Duration::from_mins(1),
        }
    }
}

impl PrefetchOptions {
    /// The same with a reserve of no more than a tenth of the file system of `path`.
    #[must_use]
    pub fn on_file_system_of(self, path: &Path) -> Self {
        let tenth = files::total_bytes(path).map_or(u64::MAX, |total| total / 10);
        Self { reserve_bytes: self.reserve_bytes.min(tenth), ..self }
    }
}

/// The answer to what a recovery asked for.
#[derive(Debug)]
pub enum GetAnswer {
    /// It waits to be taken with [`take_prefetched`].
    Ready(ReadyFile),
    /// It is proven not to be in the archive.
    Absent,
    /// What a direct get would have met.
    Failed(EngineError),
    /// The hook fetches it itself.
    DoItYourself {
        /// Why, in words.
        reason: &'static str,
    },
}

/// What a [`Prefetcher`] has, and what it did up to now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefetchNumbers {
    /// Bytes of the files that were fetched ahead and not yet asked for.
    pub bytes: u64,
    /// How many they are.
    pub files: u64,
    /// Files that are being fetched ahead, or wait for their turn.
    pub in_flight: u64,
    /// Asks.
    pub calls: u64,
    /// Asks that found their file ready.
    pub hits: u64,
    /// Asks that waited for their file, which was being fetched.
    pub waited: u64,
    /// Asks whose file was fetched for them.
    pub misses: u64,
    /// Asks answered with "absent".
    pub absent: u64,
    /// Files that were fetched ahead and dropped without having been asked for.
    pub dropped: u64,
    /// Files that could not be fetched ahead, or were not what they should be; those that are absent are not counted.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    hits: AtomicU64,
    waited: AtomicU64,
    misses: AtomicU64,
    absent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

fn count(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

/// Tells the time since some fixed moment, with which the age of a proof is measured.
type Moment = Box<dyn Fn() -> Duration + Send + Sync>;

/// Answers the asks of the recoveries of one data directory. Dropping it removes all that is fetched ahead.
pub struct Prefetcher {
    inner: Arc<Inner>,
}

struct Inner {
    fetcher: Fetcher,
    data: DataDirectory,
    options: PrefetchOptions,
    directory: Directory,
    turns: Semaphore,
    state: Mutex<State>,
    asked: Mutex<Instant>,
    counts: Counts,
    /// Whether the store may be able to prove absence by a listing.
    lists: AtomicBool,
    /// Nothing is fetched ahead any more.
    left: AtomicBool,
    /// The log has been told that there is too little room.
    told_of_room: AtomicBool,
    moment: Moment,
}

impl std::fmt::Debug for Prefetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefetcher").field("data", &self.inner.data).finish_non_exhaustive()
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.close();
    }
}

impl Prefetcher {
    /// A prefetcher of a data directory, which keeps its files in `directory`: its own, made if it is missing, and
    /// emptied. Files are taken with a rename, so it is best on the file system of `pg_wal`.
    ///
    /// To be called inside of a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::Local`] when the directory can't be made or emptied.
    pub fn new(
        ctx: Context,
        data: DataDirectory,
        directory: PathBuf,
        options: PrefetchOptions,
    ) -> Result<Self> {
        Self::with_moments(ctx, data, directory, options, Box::new(since_boot))
    }

    fn with_moments(
        ctx: Context,
        data: DataDirectory,
        directory: PathBuf,
        options: PrefetchOptions,
        moment: Moment,
    ) -> Result<Self> {
        let inner = Arc::new(Inner {
            fetcher: Fetcher::new(ctx),
            data,
            options,
            directory: Directory::open(directory)?,
            turns: Semaphore::new(options.parallel.get() as usize),
            state: Mutex::default(),
            asked: Mutex::new(Instant::now()),
            counts: Counts::default(),
            lists: AtomicBool::new(true),
            left: AtomicBool::new(false),
            told_of_room: AtomicBool::new(false),
            moment,
        });
        tokio::spawn(forget_when_idle(Arc::downgrade(&inner), options.idle));
        Ok(Self { inner })
    }

    /// Answers the ask for the file `name` (a `%f`), wanted at `destination` (a `%p`, absolute).
    ///
    /// May be given up at any time by dropping the future, and be called for several asks at once.
    pub async fn get(&self, name: &str, destination: &Path) -> GetAnswer {
        count(&self.inner.counts.calls);
        let answer = Arc::clone(&self.inner).answer(name, destination).await;
        let answer = answer.unwrap_or_else(GetAnswer::Failed);
        match answer {
            GetAnswer::Absent => count(&self.inner.counts.absent),
            // The spool may be at fault: the direct way does not need it.
            GetAnswer::Failed(error) if error.kind() == ErrorKind::LocalIo => {
                tracing::debug!(%error, name, "a local failure: left to the hook");
                return GetAnswer::DoItYourself { reason: "the spool could not be used" };
            }
            _ => {}
        }
        answer
    }

    /// Fetches nothing ahead any more, and drops what nobody was offered.
    pub fn leave(&self) {
        self.inner.left.store(true, Ordering::Relaxed);
        let ahead: Vec<Ahead> = {
            let mut state = self.inner.state();
            state.ahead.extract_if(.., |_, ahead| !ahead.is_offered()).map(|(_, ahead)| ahead).collect()
        };
        self.inner.discard(ahead);
    }

    /// Removes everything.
    pub fn close(&self) {
        self.inner.left.store(true, Ordering::Relaxed);
        self.inner.forget();
        let _ = self.inner.directory.wipe();
    }

    /// What it has, and what it did.
    #[must_use]
    pub fn numbers(&self) -> PrefetchNumbers {
        let (in_flight, (files, bytes)) = {
            let state = self.inner.state();
            (state.fetching(), state.ready())
        };
        let counts = &self.inner.counts;
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        PrefetchNumbers {
            bytes,
            files,
            in_flight,
            calls: get(&counts.calls),
            hits: get(&counts.hits),
            waited: get(&counts.waited),
            misses: get(&counts.misses),
            absent: get(&counts.absent),
            dropped: get(&counts.dropped),
            failed: get(&counts.failed),
        }
    }
}

/// Drops what nobody asks for any more.
async fn forget_when_idle(inner: Weak<Inner>, idle: Duration) {
    loop {
        tokio::time::sleep(idle / 4).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.asked().elapsed() >= idle {
            inner.forget();
        }
    }
}

/// What to do about an ask for a segment.
enum Next {
    Offer(ReadyFile),
    Absent,
    Wait(watch::Receiver<()>),
    Fetch,
}

/// What one ask is about.
struct Ask<'a> {
    situation: &'a Situation,
    budget: RetryBudget,
    wanted: Wanted,
    /// Whether a guard stands before replay: then what it would look for is looked for ahead.
    guarded: bool,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        let state = std::mem::take(&mut *self.state());
        self.discard(state.ahead.into_values());
    }

    /// Drops what was fetched ahead, without the lock.
    fn discard(&self, ahead: impl IntoIterator<Item = Ahead>) {
        let waste = ahead.into_iter().filter(Ahead::is_waste).count();
        self.counts.dropped.fetch_add(waste as u64, Ordering::Relaxed);
    }

    async fn answer(self: Arc<Self>, name: &str, destination: &Path) -> Result<GetAnswer> {
        let elsewhere = GetAnswer::DoItYourself { reason: "it is not what a recovery asks for" };
        let Ok(name) = name.parse::<ArchiveFileName>() else { return Ok(elsewhere) };
        let is_for = |file: &str| destination.file_name().is_some_and(|name| name == file);
        let segment = match name {
            ArchiveFileName::Segment(segment) if is_for("RECOVERYXLOG") => Some(segment),
            ArchiveFileName::History(_) if is_for("RECOVERYHISTORY") => None,
            _ => return Ok(elsewhere),
        };
        *self.asked() = Instant::now();
        let looking = (Arc::clone(&self), destination.to_owned());
        let looked = tokio::task::spawn_blocking(move || looking.0.look(&looking.1, segment.is_some()));
        let looked =
            looked.await.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()));
        let Some((situation, guarded)) = looked?? else { return Ok(elsewhere) };
        let forgotten = self.state().enter(&situation);
        self.discard(forgotten.into_iter().flat_map(|state| state.ahead.into_values()));
        let ctx = &self.fetcher.ctx;
        let wanted = Wanted::new(ctx, name, situation.incarnation, Some(situation.segment_size));
        let ask = Ask { situation: &situation, budget: ctx.budget(), wanted, guarded };
        match (name, segment) {
            (_, Some(segment)) => self.segment(&ask, segment, destination).await,
            (ArchiveFileName::History(timeline), _) => self.history(&ask, timeline).await,
            _ => Ok(elsewhere),
        }
    }

    /// Looks at the data directory as a direct get does before it asks the store; `None` when the destination is not in
    /// this one.
    fn look(&self, destination: &Path, is_segment: bool) -> Result<Option<(Situation, bool)>> {
        let Some(data) = DataDirectory::of_wal_path(destination, Path::new("/")) else { return Ok(None) };
        if !is_same(data.path(), self.data.path())? {
            return Ok(None);
        }
        let situation = Situation::of(&data)?;
        let guarded = is_segment && ReplayGuard::of(&data, situation.segment_size)?.is_some();
        Ok(Some((situation, guarded)))
    }

    async fn history(self: Arc<Self>, ask: &Ask<'_>, timeline: TimelineId) -> Result<GetAnswer> {
        let previous = {
            let mut state = self.state();
            if state.is_known_absent(ask.wanted.name, (self.moment)()) {
                return Ok(GetAnswer::Absent);
            }
            state.history.take()
        };
        drop(previous);
        let mut found = self.fetch(ask, || ()).await?;
        if found.is_none() {
            self.fetcher.prove_absent(ask.situation.incarnation, &ask.budget).await?;
            if self.fetcher.looks_twice() {
                found = self.fetch(ask, || ()).await?;
            }
        }
        let Some(file) = found else { return Ok(GetAnswer::Absent) };
        count(&self.counts.misses);
        let offered = offer(&file);
        let mut state = self.state();
        state.timelines.learn(timeline, file.path());
        state.history = Some(file);
        Ok(GetAnswer::Ready(offered))
    }

    async fn segment(
        self: Arc<Self>,
        ask: &Ask<'_>,
        name: SegmentName,
        destination: &Path,
    ) -> Result<GetAnswer> {
        let size = ask.situation.segment_size;
        let Ok(id) = name.id(size) else {
            return Ok(GetAnswer::DoItYourself { reason: "no segment of this size has such a name" });
        };
        let directory = destination.parent().unwrap_or(Path::new("."));
        if self.options.limit_bytes < size.bytes() {
            return Ok(GetAnswer::DoItYourself {
                reason: "the disk space for fetching ahead holds no segment",
            });
        }
        let mut next = self.note_ask(ask, id, name, directory);
        if let Next::Wait(mut over) = next {
            // A fetch that was begun earlier may hang by now: half of the time is left for a new one.
            let patience = self.fetcher.ctx.store_deadline / 2;
            let _ = tokio::time::timeout(patience, over.changed()).await;
            next = self.after_wait(id, name);
            if matches!(next, Next::Offer(_)) {
                count(&self.counts.waited);
            }
        } else if matches!(next, Next::Offer(_)) {
            count(&self.counts.hits);
        }
        let answer = match next {
            Next::Offer(file) => GetAnswer::Ready(file),
            Next::Absent => return Ok(GetAnswer::Absent),
            Next::Wait(_) | Next::Fetch => match self.fetch_or_prove(ask, id, name).await? {
                Some(file) => GetAnswer::Ready(file),
                None => return Ok(GetAnswer::Absent),
            },
        };
        self.state().note_found(id);
        self.fetch_ahead(ask.guarded);
        Ok(answer)
    }

    /// How many segments may be fetched ahead.
    fn ahead_max(&self, size: WalSegmentSize) -> u64 {
        (self.options.limit_bytes / size.bytes()).saturating_sub(1)
    }

    fn note_ask(&self, ask: &Ask<'_>, id: SegmentId, name: SegmentName, directory: &Path) -> Next {
        let size = ask.situation.segment_size;
        let mut state = self.state();
        if state.is_known_absent(ask.wanted.name, (self.moment)()) {
            return Next::Absent;
        }
        state.timelines.note_ask(id, size, directory);
        let gone = state.prune(id, name, self.ahead_max(size));
        let (next, stale) = next_step(&mut state, id, name, false);
        drop(state);
        self.discard(gone);
        self.discard(stale);
        next
    }

    fn after_wait(&self, id: SegmentId, name: SegmentName) -> Next {
        let (next, stale) = next_step(&mut self.state(), id, name, true);
        self.discard(stale);
        next
    }

    /// Fetches the segment that was asked for; `None` when it is proven to be absent. The next ones are begun as soon as
    /// the store sends it.
    async fn fetch_or_prove(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        id: SegmentId,
        name: SegmentName,
    ) -> Result<Option<ReadyFile>> {
        let begin = || {
            self.state().note_found(id);
            self.fetch_ahead(ask.guarded);
        };
        let mut found = self.fetch(ask, begin).await?;
        if found.is_none() {
            let at = (self.moment)();
            let no_history_after = self.prove_absent(ask).await?;
            if self.fetcher.looks_twice() {
                found = self.fetch(ask, begin).await?;
            }
            if found.is_none() {
                let mut state = self.state();
                state.note_absent(name);
                let absence = Absence { segment: name, at, no_history_after, again: true };
                state.absence = Some(absence).filter(|_| ask.situation.mode == RecoveryMode::Standby);
                return Ok(None);
            }
        }
        let Some(file) = found else { return Ok(None) };
        count(&self.counts.misses);
        let offered = offer(&file);
        let stage = Stage::Ready { file, offered: true, flushing: None };
        let mut state = self.state();
        state.tasks += 1;
        let ahead = Ahead { number: state.tasks, name, stage };
        let replaced = state.ahead.insert(id.number, ahead);
        drop(state);
        self.discard(replaced);
        Ok(Some(offered))
    }

    /// Proves that the archive is seen, after the store has said that a segment is not there. For a standby, which asks
    /// for the next history at once, the proof is one that answers that too, where the store can give it.
    async fn prove_absent(&self, ask: &Ask<'_>) -> Result<Option<TimelineId>> {
        let newest = self.state().timelines.newest();
        let incarnation = ask.situation.incarnation;
        if ask.situation.mode == RecoveryMode::Standby
            && let Some(newest) = newest
            && self.lists.load(Ordering::Relaxed)
        {
            match list_newer(&self.fetcher, incarnation, newest, &ask.budget).await {
                Ok(Listed::NothingNewer) => return Ok(Some(newest)),
                Ok(Listed::Visible) => return Ok(None),
                Ok(Listed::Nothing) => {}
                Ok(Listed::Unable) => self.lists.store(false, Ordering::Relaxed),
                Err(error) => {
                    tracing::debug!(%error, "a listing proves nothing: asking for the marker");
                    // Whoever may read need not be allowed to list.
                    let denied = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported);
                    self.lists.fetch_and(!denied, Ordering::Relaxed);
                }
            }
        }
        self.fetcher.prove_absent(incarnation, &ask.budget).await?;
        Ok(None)
    }

    /// Fetches a file into the spool, with all checks; `None` when the store says that it is not there. `found` is called
    /// when the store begins to send it.
    async fn fetch(&self, ask: &Ask<'_>, mut found: impl FnMut() + Send) -> Result<Option<WholeFile>> {
        let wanted = &ask.wanted;
        let text = wanted.name.to_string();
        let size =
            if wanted.name.is_segment_sized() { ask.situation.segment_size.bytes() } else { HISTORY_BYTES };
        if !self.has_room(size.min(FILE_BYTES_MAX), 0) {
            return Err(EngineError::failed(ErrorKind::LocalIo, "the spool's file system is nearly full"));
        }
        let create = || {
            found();
            self.directory.create(&text)
        };
        let read = self.fetcher.read(wanted, create, &ask.budget).await?;
        let Some((written, _)) = read else { return Ok(None) };
        let scanned = wanted.name.segment().filter(|_| ask.guarded);
        let segment_size = ask.situation.segment_size;
        let completed = tokio::task::spawn_blocking(move || {
            let clean = match scanned {
                // A scan that fails has found nothing out: the guard itself will look.
                Some(segment) => {
                    ReplayGuard::finds_nothing(segment_size, segment, written.path()).unwrap_or(false)
                }
                None => false,
            };
            written.complete(clean)
        });
        let completed =
            completed.await.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()));
        completed?.map(Some)
    }

    /// Whether there is room for a file beside those that are being fetched; says so in the log when there is none, once.
    fn has_room(&self, bytes: u64, others: u64) -> bool {
        let free = self.directory.free_bytes();
        let needed = bytes.saturating_add(others).saturating_add(self.options.reserve_bytes);
        if free >= needed {
            return true;
        }
        if !self.told_of_room.swap(true, Ordering::Relaxed) {
            let reserve = self.options.reserve_bytes;
            tracing::warn!(
                free,
                needed,
                reserve,
                "too little room to fetch ahead: hooks fetch for themselves"
            );
        }
        false
    }

    /// Begins to fetch what is wanted ahead and is not being fetched yet.
    fn fetch_ahead(self: &Arc<Self>, guarded: bool) {
        let mut state = self.state();
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        let Some(situation) = state.situation.clone() else { return };
        let size = situation.segment_size;
        for (number, name) in state.wanted(self.ahead_max(size)) {
            let others = state.fetching().saturating_mul(size.bytes());
            if !self.has_room(size.bytes(), others) {
                return;
            }
            state.tasks += 1;
            let task_number = state.tasks;
            let job = Job { task: task_number, number, name, situation: situation.clone(), guarded };
            let (ending, over) = watch::channel(());
            let inner = Arc::clone(self);
            let task = tokio::spawn(async move {
                inner.run(job, &ending).await;
                drop(ending);
            });
            let task = Arc::new(Task(task.abort_handle()));
            let stage = Stage::Fetching { task, begun: false, over };
            state.ahead.insert(number, Ahead { number: task_number, name, stage });
        }
    }

    async fn run(self: Arc<Self>, job: Job, ending: &watch::Sender<()>) {
        let Ok(turn) = self.turns.acquire().await else { return };
        if let Some(Ahead { stage: Stage::Fetching { begun, .. }, .. }) =
            self.state().ahead.get_mut(&job.number)
        {
            *begun = true;
        }
        let found = self.fetch_job(&job).await;
        drop(turn);
        let flush = match found {
            Ok(Some(file)) => self.keep(&job, file, ending),
            Ok(None) => {
                self.stop_at(&job);
                None
            }
            Err(error) => {
                self.failed(&job, &error);
                None
            }
        };
        let Some(unflushed) = flush else { return };
        let flushed = tokio::task::spawn_blocking(move || unflushed.flush()).await;
        match flushed.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string())) {
            Ok(Ok(identity)) => {
                let mut state = self.state();
                if let Some(Ahead { stage: Stage::Ready { file, flushing, .. }, .. }) = state.of_task(&job) {
                    file.identity = identity;
                    *flushing = None;
                }
            }
            Ok(Err(error)) | Err(error) => self.failed(&job, &error),
        }
    }

    /// Keeps a file that was fetched ahead. With it comes what is to be flushed: nothing when somebody waits for it, who
    /// does not have to wait for the disk too.
    fn keep(&self, job: &Job, mut file: WholeFile, ending: &watch::Sender<()>) -> Option<Unflushed> {
        let mut state = self.state();
        let ahead = state.of_task(job)?;
        let Stage::Fetching { task, over, .. } = &ahead.stage else { return None };
        // The one of the stage itself is always there.
        let is_waited_for = ending.receiver_count() > 1;
        let unflushed = if is_waited_for { None } else { file.take_unflushed() };
        let flushing = unflushed.as_ref().map(|_| Flushing { _task: task.clone(), over: over.clone() });
        ahead.stage = Stage::Ready { file, offered: false, flushing };
        unflushed
    }

    /// A file could not be fetched ahead, or not be kept.
    fn failed(&self, job: &Job, error: &EngineError) {
        if self.state().of_task(job).is_some() {
            tracing::debug!(%error, segment = %job.name, "could not be fetched ahead");
            count(&self.counts.failed);
            self.stop_at(job);
        }
    }

    fn stop_at(&self, job: &Job) {
        let mut state = self.state();
        if state.of_task(job).is_none() {
            // Given up in the meantime.
            return;
        }
        let own = state.ahead.remove(&job.number);
        let gone = state.stop_at(job.number);
        drop(state);
        drop(own);
        self.discard(gone);
    }

    async fn fetch_job(&self, job: &Job) -> Result<Option<WholeFile>> {
        let (ctx, situation) = (&self.fetcher.ctx, &job.situation);
        let name = ArchiveFileName::Segment(job.name);
        let wanted = Wanted::new(ctx, name, situation.incarnation, Some(situation.segment_size));
        self.fetch(&Ask { situation, budget: ctx.budget(), wanted, guarded: job.guarded }, || ()).await
    }
}

/// A segment to be fetched ahead.
struct Job {
    task: u64,
    number: SegmentNumber,
    name: SegmentName,
    situation: Situation,
    guarded: bool,
}

impl State {
    /// What this task fetches, unless that was given up.
    fn of_task(&mut self, job: &Job) -> Option<&mut Ahead> {
        self.ahead.get_mut(&job.number).filter(|ahead| ahead.number == job.task)
    }
}

/// Whether two paths lead to one directory.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).map_err(|source| EngineError::local("look at", path, source))?;
        Ok::<_, EngineError>((found.dev(), found.ino()))
    };
    Ok(one == other || identity(one)? == identity(other)?)
}

fn offer(file: &WholeFile) -> ReadyFile {
    ReadyFile { path: file.path().to_owned(), file: file.identity, guard_clean: file.guard_clean }
}

/// What to do about a segment that is asked for, and what is to be dropped for it.
fn next_step(state: &mut State, id: SegmentId, asked: SegmentName, waited: bool) -> (Next, Option<Ahead>) {
    let Some(ahead) = state.ahead.get_mut(&id.number) else { return (Next::Fetch, None) };
    match &mut ahead.stage {
        Stage::Ready { flushing: Some(Flushing { over, .. }), .. } if ahead.name == asked && !waited => {
            return (Next::Wait(over.clone()), None);
        }
        Stage::Ready { file, offered, flushing: None } if ahead.name == asked && file.is_there() => {
            *offered = true;
            return (Next::Offer(offer(file)), None);
        }
        Stage::Fetching { begun: true, over, .. } if ahead.name == asked && !waited => {
            return (Next::Wait(over.clone()), None);
        }
        // Another timeline's, gone, still waiting for its turn, or waited for long enough.
        Stage::Ready { .. } | Stage::Fetching { .. } => {}
    }
    (Next::Fetch, state.ahead.remove(&id.number))
}

#[cfg(test)]
mod tests;
