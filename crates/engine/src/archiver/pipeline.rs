//! Many pushes at once.
//!
//! A [`Pipeline`] does what [`Archiver::push_from`] does, for several files at the same time and within limits. Every
//! check that a single push makes is made here, and nothing is reported before it is durable.

mod identity;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use walden_core::ErrorKind;
use walden_store::CompressionLevel;

pub use self::identity::{FileIdentity, STAMPS_SETTLED_AFTER};
use super::{Archiver, PushReport};
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
    /// Until its turn came, and memory was free for it.
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
    in_flight: Semaphore,
    waiting: AtomicU64,
    sealing: AtomicU64,
    sealed: AtomicU64,
    plain_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

impl Pipeline {
    /// A pipeline over an archiver, whose own compression level is not used.
    #[must_use]
    pub fn new(archiver: Archiver, limits: PipelineLimits) -> Self {
        let in_flight = Semaphore::new(limits.in_flight.get() as usize);
        let shared = Shared {
            archiver,
            in_flight,
            waiting: AtomicU64::new(0),
            sealing: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
            plain_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Archives a file of a data directory, as [`Archiver::push_from`] does. Many calls may be made at once; they are
    /// begun in the order in which they were first polled, which is best the order of the WAL.
    ///
    /// May be given up at any time by dropping the future: the object is then in the archive or not.
    ///
    /// # Errors
    /// As [`Archiver::push`]; and of kind `invalid` when the file changed while it was read, by its stamps.
    pub async fn push(&self, path: &Path, data: &DataDirectory, level: CompressionLevel) -> Result<Pushed> {
        let shared = &self.shared;
        let waiting = Counted::new(&shared.waiting);
        let asked = tokio::time::Instant::now();
        let closed = |_| EngineError::failed(ErrorKind::Internal, "the pipeline is closed".to_owned());
        let _slot = shared.in_flight.acquire().await.map_err(closed)?;
        drop(waiting);
        let sealing = Counted::new(&shared.sealing);
        let wait = asked.elapsed();
        let file = settled(path).await?;
        let started = tokio::time::Instant::now();
        let archiver = shared.archiver.clone().with_level(level);
        let report = archiver.push_from(path, data).await?;
        if look(path)? != file {
            return Err(changed(path));
        }
        drop(sealing);
        shared.sealed.fetch_add(1, Ordering::Relaxed);
        shared.plain_bytes.fetch_add(report.bytes, Ordering::Relaxed);
        shared.stored_bytes.fetch_add(report.stored_bytes, Ordering::Relaxed);
        let timings = SegmentTimings { wait, send: started.elapsed(), ..SegmentTimings::default() };
        Ok(Pushed { report, file, timings, level })
    }

    /// What it is doing, and what it did up to now.
    #[must_use]
    pub fn load(&self) -> PipelineLoad {
        let shared = &self.shared;
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        PipelineLoad {
            waiting: get(&shared.waiting),
            sealing: get(&shared.sealing),
            sealed: get(&shared.sealed),
            plain_bytes: get(&shared.plain_bytes),
            stored_bytes: get(&shared.stored_bytes),
            ..PipelineLoad::default()
        }
    }

    /// Returns when what is left to do behind the pushes that ended is done: writing the memory for the pushes of other
    /// processes, and the rollups of directories that were completed. All of that may be lost without harm.
    #[expect(clippy::unused_async, reason = "nothing is left behind yet")]
    pub async fn settle(&self) {}
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

/// A file that is written to again and again is given up after so many looks.
const LOOKS_MAX: u32 = 10;

/// The identity of a file once a later write would change it.
async fn settled(path: &Path) -> Result<FileIdentity> {
    let mut file = look(path)?;
    for _ in 0..LOOKS_MAX {
        #[expect(clippy::disallowed_methods, reason = "the kernel takes the stamps from this clock")]
        let wait = file.settles_in(SystemTime::now());
        if wait.is_zero() {
            return Ok(file);
        }
        tokio::time::sleep(wait).await;
        let again = look(path)?;
        // Left alone for so long, whatever the clock says.
        if again == file {
            return Ok(file);
        }
        file = again;
    }
    Err(changed(path))
}

fn changed(path: &Path) -> EngineError {
    let path: PathBuf = path.into();
    EngineError::failed(
        ErrorKind::Invalid,
        format!("the file changed while it was read path={}", path.display()),
    )
}
