//! Copying the files: threads that read, threads that compress, and packs that fill.
//!
//! Readers take files in the order of the manifest, check and hash them, and hand chunks of a mebibyte to the
//! compressors; so one large file keeps all compressors busy, and small ones travel together. Every stage waits
//! for the next one: memory is [`MEMORY_BYTES`] at most beside the manifest, whatever the cluster.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedReceiver;
use walden_core::ErrorKind;
use walden_store::CompressionLevel;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::collect::Collector;
use super::lines::seal_error;
use super::pace::Pace;
use super::packs::{FullPack, Location, PACK_BYTES, PACKS_IN_MEMORY, PackWriter};
use super::queue::{Queue, Stopped, lock};
use super::reader::{CHUNK_BYTES, Checksums, Chunk, FileRead, ReadError, Reader, SMALL_BYTES, Sink};
use super::scan::{ItemKind, Scan};
use crate::error::{EngineError, Result};
use crate::progress::Progress;

/// Most threads of each sort.
pub const JOBS_MAX: usize = 8;
/// Chunks between readers and compressors.
const CHUNKS_WAITING: usize = JOBS_MAX;
/// Small files that one reader takes up at once, at most.
const FILES_AT_ONCE: usize = 4096;
/// Bytes that copying holds in memory at most, with [`JOBS_MAX`] jobs: the packs, for each thread a chunk and for
/// each compressor its output and some 3 MiB of its own, and the chunks between them.
pub const MEMORY_BYTES: usize =
    PACKS_IN_MEMORY * PACK_BYTES + (2 * JOBS_MAX + CHUNKS_WAITING) * CHUNK_BYTES + JOBS_MAX * (4 << 20);

/// What the copying threads share.
pub(super) struct Shared {
    scan: Arc<Scan>,
    root: PathBuf,
    checksums: Option<Checksums>,
    level: CompressionLevel,
    next_item: Mutex<usize>,
    readers_left: AtomicUsize,
    chunks: Queue<Chunk>,
    buffers: Mutex<Vec<Vec<u8>>>,
    pub(super) packs: PackWriter,
    pub(super) collector: Collector,
    progress: Arc<dyn Progress>,
    pace: Arc<Pace>,
    stopped: AtomicBool,
    error: Mutex<Option<EngineError>>,
}

/// What to copy and how.
pub(super) struct CopyRequest {
    pub(super) scan: Arc<Scan>,
    pub(super) root: PathBuf,
    pub(super) checksums: Option<Checksums>,
    pub(super) level: CompressionLevel,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) pace: Arc<Pace>,
}

impl Shared {
    /// The state of a copy that has not begun, and where its packs come out.
    pub(super) fn new(request: CopyRequest, jobs: usize) -> Result<(Arc<Self>, UnboundedReceiver<FullPack>)> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let shared = Self {
            collector: Collector::new(Arc::clone(&request.scan))?,
            scan: request.scan,
            root: request.root,
            checksums: request.checksums,
            level: request.level,
            next_item: Mutex::new(0),
            readers_left: AtomicUsize::new(jobs),
            chunks: Queue::new(CHUNKS_WAITING),
            buffers: Mutex::new(Vec::new()),
            packs: PackWriter::new(sender),
            progress: request.progress,
            pace: request.pace,
            stopped: AtomicBool::new(false),
            error: Mutex::new(None),
        };
        Ok((Arc::new(shared), receiver))
    }

    /// Ends all threads soon.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.chunks.stop();
        self.collector.stop();
        self.packs.stop();
    }

    /// Ends all threads because of an error; the first one counts.
    pub(super) fn fail(&self, error: EngineError) {
        lock(&self.error).get_or_insert(error);
        self.stop();
    }

    /// The error that ended the threads.
    pub(super) fn take_error(&self) -> Option<EngineError> {
        lock(&self.error).take()
    }

    /// Starts the threads.
    pub(super) fn start(self: &Arc<Self>, jobs: usize) -> Result<Vec<JoinHandle<()>>> {
        let mut threads = Vec::with_capacity(2 * jobs);
        for number in 0..2 * jobs {
            let shared = Arc::clone(self);
            let (name, work): (_, fn(&Self)) = if number % 2 == 0 {
                (format!("backup-read-{}", number / 2), Self::run_reader)
            } else {
                (format!("backup-zstd-{}", number / 2), Self::run_compressor)
            };
            let spawned = std::thread::Builder::new().name(name).spawn(move || work(&shared));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.stop();
                    return Err(EngineError::failed(
                        ErrorKind::LocalIo,
                        format!("cannot start a thread: {error}"),
                    ));
                }
            }
        }
        Ok(threads)
    }

    /// The next files for one reader: a large one alone, or small ones that fill a chunk together. As indexes into
    /// the items, from the first to after the last; between them may be what is not a file.
    fn next_files(&self) -> Option<std::ops::Range<usize>> {
        let mut next = lock(&self.next_item);
        let (mut files, mut bytes) = (0, 0);
        let mut range = *next..*next;
        while let Some(item) = self.scan.items.get(range.end) {
            if let ItemKind::File { bytes: size } = item.kind {
                let fits = bytes + size <= CHUNK_BYTES as u64 && size <= SMALL_BYTES && files < FILES_AT_ONCE;
                if files > 0 && !fits {
                    break;
                }
                (files, bytes) = (files + 1, bytes + size);
            }
            range.end += 1;
            if bytes > SMALL_BYTES && files == 1 {
                break;
            }
        }
        *next = range.end;
        (files > 0).then_some(range)
    }

    fn run_reader(&self) {
        match self.read_files() {
            Ok(()) | Err(ReadError::Stopped) => {}
            Err(ReadError::Failed(error)) => self.fail(error),
        }
        if self.readers_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.chunks.close();
        }
    }

    fn read_files(&self) -> Result<(), ReadError> {
        let mut reader = Reader::new(self, self.checksums);
        while let Some(files) = self.next_files() {
            self.collector.wait_for_turn(files.start)?;
            for index in files {
                let Some(item) = self.scan.items.get(index) else { break };
                if !matches!(item.kind, ItemKind::File { .. }) {
                    continue;
                }
                if self.stopped.load(Ordering::Relaxed) {
                    return Err(ReadError::Stopped);
                }
                let path = self.scan.path(item);
                let absolute =
                    self.root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path));
                match reader.read(index, &path, &absolute)? {
                    FileRead::Vanished => self.collector.vanished(index)?,
                    FileRead::Read(facts, failure) => {
                        if let Some(failure) = &failure {
                            tracing::warn!(
                                path = failure.path,
                                pages = failure.count,
                                "page checksums are wrong"
                            );
                        }
                        self.collector.read(index, facts, failure)?;
                    }
                }
            }
            // The next files may be far away: what waits here would hold up the manifest.
            reader.flush()?;
        }
        Ok(())
    }

    fn run_compressor(&self) {
        match self.compress_chunks() {
            Ok(()) | Err(ReadError::Stopped) => {}
            Err(ReadError::Failed(error)) => self.fail(error),
        }
    }

    fn compress_chunks(&self) -> Result<(), ReadError> {
        let mut frames = FrameMaker::new(self.level)?;
        while let Some(chunk) = self.chunks.pop() {
            let location = frames.place(&chunk.plain, &self.packs)?;
            self.collector.located(&chunk.pieces, location)?;
            lock(&self.buffers).push(chunk.plain);
        }
        Ok(())
    }
}

impl Sink for Shared {
    fn put(&self, chunk: Chunk) -> Result<(), Stopped> {
        self.chunks.push(chunk)
    }

    fn buffer(&self) -> Vec<u8> {
        lock(&self.buffers).pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
        self.pace.after(bytes, &self.stopped);
    }
}

/// Compresses chunks to frames: with content size and checksum, as every sealed object's.
pub(super) struct FrameMaker {
    compressor: Compressor<'static>,
    frame: Vec<u8>,
}

impl FrameMaker {
    pub(super) fn new(level: CompressionLevel) -> Result<Self> {
        let mut compressor = Compressor::new(level.get()).map_err(seal_error)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true)).map_err(seal_error)?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true)).map_err(seal_error)?;
        let room = zstd::zstd_safe::compress_bound(CHUNK_BYTES);
        Ok(Self { compressor, frame: Vec::with_capacity(room) })
    }

    /// Compresses a chunk and adds it to a pack. Waits while the packs are full; not to be called from async code.
    pub(super) fn place(&mut self, plain: &[u8], packs: &PackWriter) -> Result<Location, ReadError> {
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.frame).map_err(seal_error)?;
        Ok(packs.add(&self.frame, plain.len())?)
    }
}
