//! Many pushes at once.
//!
//! A [`Pipeline`] does what [`Archiver::push_from`] does, for several files at the same time and within limits. Every
//! check that a single push makes is made here, and nothing is reported before it is durable.
//!
//! A segment is read once, into chunks of memory that is reserved for it before. Its records are looked at in the order
//! of the WAL: what reaches from one segment into the next goes from hand to hand in memory (see `lane`), so that the
//! indexes are those that pushes one by one would have made. Hashing and compressing keep to nobody's order; each chunk
//! that was compressed makes room for compressed bytes, and what is not needed goes back at once.
//!
//! Who waits for whom: a call waits at the gate until a place and memory are free, and takes its turn before the next one
//! passes. From there on it waits only for calls that passed before it, and keeps no thread while it does: so there is
//! always one that can go on.

mod behind;
mod identity;
mod job;
mod lane;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use walden_core::index::SegmentIndex;
use walden_core::{ErrorKind, IncarnationRecord};
use walden_pg::ArchiveFileName;
use walden_store::{CHUNK_BYTES, ChunkPool, CompressionLevel, IdentityHash, Sealer, Store};

use self::behind::Behind;
pub use self::identity::{FileIdentity, STAMPS_SETTLED_AFTER};
use self::job::{Compressed, Job, Memory, changed};
use self::lane::{Carrier, Lanes, Turn};
use super::indexing::options_for;
use super::wal_file::{Sealed, WalFile, seal_failed};
use super::{Archiver, Committed, Origin, PushReport, internal};
use crate::authority::Authority;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// How much a [`Pipeline`] may take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineLimits {
    /// Memory for the bytes of files, plain and compressed, in bytes.
    pub memory_bytes: u64,
    /// Files that are hashed and compressed at once: each keeps a core busy.
    pub sealers: NonZeroU32,
    /// Files that are worked on at once, those being sent included.
    pub in_flight: NonZeroU32,
}

impl PipelineLimits {
    /// The default of [`PipelineLimits::memory_bytes`]: 40 MiB.
    pub const DEFAULT_MEMORY_BYTES: u64 = 40 << 20;
    /// The default of [`PipelineLimits::in_flight`].
    pub const DEFAULT_IN_FLIGHT: NonZeroU32 = NonZeroU32::MIN.saturating_add(7);
}

impl Default for PipelineLimits {
    /// [`Self::DEFAULT_MEMORY_BYTES`], as many sealers as there are cores, [`Self::DEFAULT_IN_FLIGHT`].
    fn default() -> Self {
        let cores =
            std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok());
        Self {
            memory_bytes: Self::DEFAULT_MEMORY_BYTES,
            sealers: cores.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
            in_flight: Self::DEFAULT_IN_FLIGHT,
        }
    }
}

/// What a push through a [`Pipeline`] did.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// What a push by itself reports.
    pub report: PushReport,
    /// The file whose bytes are in the archive now, by the stamps that it had before and after it was read.
    pub file: FileIdentity,
    /// What took how long.
    pub timings: SegmentTimings,
    /// The level that it was compressed at.
    pub level: CompressionLevel,
}

/// Where the time of one push went: time on the clock, not of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentTimings {
    /// Until its turn came, memory was free for it, and everything was known that had to be asked before.
    pub wait: Duration,
    /// Reading the file.
    pub read: Duration,
    /// Looking at its records for the index.
    pub scan: Duration,
    /// SHA-256.
    pub hash: Duration,
    /// Compressing.
    pub compress: Duration,
    /// From the first byte sent until it was known to be durable, with all tries.
    pub send: Duration,
}

/// What a [`Pipeline`] is doing, and what it did up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PipelineLoad {
    /// Calls that wait for their turn.
    pub waiting: u64,
    /// Files that are being read, hashed and compressed, or wait for a sealer.
    pub sealing: u64,
    /// Objects that are being sent.
    pub sending: u64,
    /// Memory that is reserved for files in work, in bytes.
    pub memory_reserved: u64,
    /// Files that were sealed.
    pub sealed: u64,
    /// Their length in bytes.
    pub plain_bytes: u64,
    /// The size of their objects in bytes.
    pub stored_bytes: u64,
    /// Time spent on reading, hashing and compressing, the times of all sealers added up.
    pub seal_time: Duration,
    /// Time spent on sending, the times of all objects added up.
    pub send_time: Duration,
}

/// Archives many files at once. Cheap to clone; clones share the limits.
#[derive(Clone)]
pub struct Pipeline {
    shared: Arc<Shared>,
}

struct Shared {
    archiver: Archiver,
    pool: ChunkPool,
    lanes: Arc<Lanes>,
    behind: Arc<Behind>,
    /// Held while waiting for a place and for memory, so that those who wait come in the order of their calls.
    gate: tokio::sync::Mutex<()>,
    in_flight: Arc<Semaphore>,
    sealers: Arc<Semaphore>,
    /// Compressors that nobody uses.
    idle: Mutex<Vec<Sealer>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicU64,
    sealing: AtomicU64,
    sending: AtomicU64,
    sealed: AtomicU64,
    plain_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    seal_nanos: AtomicU64,
    send_nanos: AtomicU64,
}

/// A segment that passed the gate.
struct Entered {
    file: WalFile,
    identity: FileIdentity,
    turn: Turn,
    carrier: Carrier,
    memory: Memory,
    level: CompressionLevel,
    place: OwnedSemaphorePermit,
}

/// What passed the gate.
enum Passed {
    Segment(Box<Entered>),
    /// A file that is no segment of a timeline, and small or rare.
    Other,
}

impl Pipeline {
    /// A pipeline over an archiver, whose own compression level is not used.
    #[must_use]
    pub fn new(archiver: Archiver, limits: PipelineLimits) -> Self {
        let behind = Behind::new();
        let lanes = Lanes::new(archiver.ctx.clone(), Arc::clone(&behind));
        let semaphore = |permits: NonZeroU32| Arc::new(Semaphore::new(permits.get().min(1 << 16) as usize));
        let shared = Shared {
            archiver,
            pool: ChunkPool::new(limits.memory_bytes),
            lanes,
            behind,
            gate: tokio::sync::Mutex::const_new(()),
            in_flight: semaphore(limits.in_flight),
            sealers: semaphore(limits.sealers),
            idle: Mutex::default(),
            counts: Counts::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Archives a file of a data directory, as [`Archiver::push_from`] does. Many calls may be made at once; they begin
    /// in the order in which they were first polled, which should be the order of the WAL: then every segment's index is
    /// joined to the one before. Files that are no segments wait for nobody.
    ///
    /// May be given up at any time by dropping the future: the object is then in the archive or not.
    ///
    /// # Errors
    /// As [`Archiver::push`]; and of kind `invalid` when the file changed while it was read, by its stamps.
    pub async fn push(&self, path: &Path, data: &DataDirectory, level: CompressionLevel) -> Result<Pushed> {
        let asked = Instant::now();
        let waiting = Counted::new(&self.shared.counts.waiting);
        let passed = self.pass(path, level).await?;
        drop(waiting);
        match passed {
            Passed::Segment(entered) => self.push_segment(*entered, data, asked).await,
            Passed::Other => self.push_other(path, data, level, asked).await,
        }
    }

    /// What it is doing, and what it did up to now.
    #[must_use]
    pub fn load(&self) -> PipelineLoad {
        let counts = &self.shared.counts;
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        PipelineLoad {
            waiting: get(&counts.waiting),
            sealing: get(&counts.sealing),
            sending: get(&counts.sending),
            memory_reserved: self.shared.pool.reserved_bytes(),
            sealed: get(&counts.sealed),
            plain_bytes: get(&counts.plain_bytes),
            stored_bytes: get(&counts.stored_bytes),
            seal_time: Duration::from_nanos(get(&counts.seal_nanos)),
            send_time: Duration::from_nanos(get(&counts.send_nanos)),
        }
    }

    /// Returns when what is left to do behind the pushes that ended is done: writing the memory for the pushes of other
    /// processes, and the rollups of directories that were completed. All of that may be lost without harm.
    pub async fn settle(&self) {
        self.shared.lanes.write_memories();
        self.shared.behind.settled().await;
    }

    /// Returns memory to the system that is only kept for what comes next.
    pub fn trim(&self) {
        self.shared.pool.trim();
        self.shared.idle().clear();
    }

    /// Waits for a place and, for a segment, for memory; then takes its turn.
    async fn pass(&self, path: &Path, level: CompressionLevel) -> Result<Passed> {
        let shared = &self.shared;
        let closed = |_| EngineError::failed(ErrorKind::Internal, "the pipeline is closed".to_owned());
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(ArchiveFileName::Segment(segment)) = name else {
            // A history comes before the segments that need it: it waits for none of them.
            return Ok(Passed::Other);
        };
        let _gate = shared.gate.lock().await;
        let place = Arc::clone(&shared.in_flight).acquire_owned().await.map_err(closed)?;
        let file = WalFile::open(path)?;
        // Without readable facts nothing is known of its place in the WAL.
        let Some(facts) = file.facts else { return Ok(Passed::Other) };
        let Ok(id) = segment.id(facts.segment_size) else { return Ok(Passed::Other) };
        let incarnation = file.incarnation(None)?;
        let identity = file.identity;
        let whole = u32::try_from(file.bytes.div_ceil(CHUNK_BYTES as u64)).unwrap_or(u32::MAX);
        let wanted = whole.saturating_add(SPARE_CHUNKS);
        let reserved = shared.pool.reserve(wanted).await;
        let memory = if wanted > shared.pool.chunks() {
            Memory::Streamed(reserved)
        } else {
            Memory::Whole { reserved, chunks: Vec::with_capacity(whole as usize) }
        };
        let (turn, carrier) = shared.lanes.enter(incarnation, id, facts.segment_size, path);
        Ok(Passed::Segment(Box::new(Entered { file, identity, turn, carrier, memory, level, place })))
    }

    async fn push_segment(&self, entered: Entered, data: &DataDirectory, asked: Instant) -> Result<Pushed> {
        let Entered { file, identity, turn, carrier, memory, level, place } = entered;
        let shared = &self.shared;
        let archiver = &shared.archiver;
        let sealing = Counted::new(&shared.counts.sealing);
        let Authority { record, conditional_create, .. } = &archiver.admit(&file, Some(data)).await?;
        let store = archiver.ctx.store.with_conditional_create(*conditional_create);
        let_stamps_settle(&file, identity).await?;
        let wait = asked.elapsed();
        let (origin, fields) = (Origin::of(&file), archiver.header_fields(record, &file));
        let job = Job {
            segment: turn.segment(),
            options: options_for(record.incarnation(), record.segment_size),
            timings: SegmentTimings { wait, ..SegmentTimings::default() },
            carrier: Some(carrier),
            file,
            identity,
            level,
            memory,
        };
        let Compressed { frames, index, mut timings, alone } = self.compress(job, &turn).await?;
        let siblings = turn.siblings().await;
        let closing = blocking(move || {
            let index = index.map(|index| SegmentIndex { siblings, ..index });
            Sealed::close(frames, fields, index)
        });
        let sealed = closing.await?;
        let object_bytes = sealed.object.object_bytes();
        turn.sealed(sealed.index.as_ref(), object_bytes, sealed.object.header().index_bytes);
        drop(sealing);
        shared.counts.count_sealed(&origin, object_bytes, timings);
        let report = self.send(&store, record, &origin, sealed, turn, &mut timings).await?;
        drop((alone, place));
        Ok(Pushed { report, file: identity, timings, level })
    }

    /// Reads, scans, hashes and compresses, on one thread where that is possible.
    async fn compress(&self, job: Job, turn: &Turn) -> Result<Compressed> {
        let (mut job, mut thread) = (job, self.thread().await?);
        if !turn.is_previous_known() {
            if matches!(job.memory, Memory::Whole { .. }) {
                (job, thread) = blocking(move || job.read().map(|job| (job, thread))).await?;
            }
            // The one before may need the thread.
            drop(thread);
            turn.previous().await;
            thread = self.thread().await?;
        }
        let previous = turn.previous().await;
        if matches!(job.memory, Memory::Streamed(_)) {
            self.shared.pool.trim();
        }
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let _thread = thread;
            let idle = shared.idle().pop();
            let mut sealer = match idle {
                Some(sealer) => sealer,
                None => Sealer::new(job.level, IdentityHash::Plain).map_err(seal_failed)?,
            };
            let compressed = job.complete(previous.as_deref(), &mut sealer)?;
            shared.idle().push(sealer);
            Ok(compressed)
        };
        blocking(work).await
    }

    /// The right to keep a core busy.
    async fn thread(&self) -> Result<OwnedSemaphorePermit> {
        let closed = |_| EngineError::failed(ErrorKind::Internal, "the pipeline is closed".to_owned());
        Arc::clone(&self.shared.sealers).acquire_owned().await.map_err(closed)
    }

    /// Sends an object, and notes what is durable then.
    async fn send(
        &self,
        store: &Store,
        record: &IncarnationRecord,
        origin: &Origin,
        sealed: Sealed,
        turn: Turn,
        timings: &mut SegmentTimings,
    ) -> Result<PushReport> {
        let counts = &self.shared.counts;
        let _sending = Counted::new(&counts.sending);
        let begun = Instant::now();
        let committed = self.shared.archiver.commit(store, record, origin, &sealed).await;
        timings.send = begun.elapsed();
        counts.send_nanos.fetch_add(nanos(timings.send), Ordering::Relaxed);
        let Committed { report, stored_bytes } = committed?;
        if let (Some(index), Some(stored_bytes)) = (sealed.index, stored_bytes) {
            turn.durable(record, index, stored_bytes);
        }
        Ok(report)
    }

    /// Pushes a file by itself.
    async fn push_other(
        &self,
        path: &Path,
        data: &DataDirectory,
        level: CompressionLevel,
        asked: Instant,
    ) -> Result<Pushed> {
        let sending = Counted::new(&self.shared.counts.sending);
        let file = WalFile::open(path)?;
        if file.facts.is_some() {
            // A partial segment goes on from what was pushed last, by the memory for all processes.
            self.settle().await;
        }
        let identity = file.identity;
        let_stamps_settle(&file, identity).await?;
        let begun = Instant::now();
        let archiver = self.shared.archiver.clone().with_level(level);
        let report = archiver.push_from(path, data).await?;
        if look(path)? != identity {
            return Err(changed(path));
        }
        drop(sending);
        let timings = SegmentTimings {
            wait: begun.duration_since(asked),
            send: begun.elapsed(),
            ..SegmentTimings::default()
        };
        Ok(Pushed { report, file: identity, timings, level })
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sealer>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn count_sealed(&self, origin: &Origin, object_bytes: u64, timings: SegmentTimings) {
        let SegmentTimings { read, scan, hash, compress, .. } = timings;
        self.sealed.fetch_add(1, Ordering::Relaxed);
        self.plain_bytes.fetch_add(origin.bytes, Ordering::Relaxed);
        self.stored_bytes.fetch_add(object_bytes, Ordering::Relaxed);
        self.seal_nanos.fetch_add(nanos(read + scan + hash + compress), Ordering::Relaxed);
    }
}

/// Besides the chunks for the plain bytes: what is begun of the compressed ones before the first of those is free.
const SPARE_CHUNKS: u32 = 2;

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))?
}

/// A number that is one higher as long as this lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(number: &'a AtomicU64) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn look(path: &Path) -> Result<FileIdentity> {
    let metadata = path.metadata().map_err(|source| EngineError::local("look at", path, source))?;
    Ok(FileIdentity::of(&metadata))
}

/// Waits until a later write to the file would change its stamps. It must not change meanwhile: what was read of it
/// already would be of another one.
async fn let_stamps_settle(file: &WalFile, identity: FileIdentity) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the kernel takes the stamps from this clock")]
    let wait = identity.settles_in(SystemTime::now());
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
        if look(&file.path)? != identity {
            return Err(changed(&file.path));
        }
    }
    Ok(())
}
