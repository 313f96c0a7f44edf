//! Writing files: every run in its place, and each file compared with its SHA-256.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use walden_core::ErrorKind;

use super::inventory::{PlannedFile, display};
use super::packs::{Fetched, Packs, blocking, run_of, wrong_hash};
use super::reads::{Task, extent_of};
use super::tree::Tree;
use crate::error::{EngineError, Result};
use crate::progress::Progress;

/// Reads of one task that are fetched ahead of the one that is being written.
const READ_AHEAD: usize = 2;
/// A file that must be read again to be hashed is read in pieces of this size, in bytes.
const REREAD_BYTES: usize = 1 << 20;
/// Zeros for the holes of a file that is being hashed.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Carries out tasks.
pub(super) struct Writer {
    pub(super) packs: Packs,
    pub(super) tree: Arc<Tree>,
    /// Each file is flushed when it is complete.
    pub(super) sync_files: bool,
    pub(super) progress: Arc<dyn Progress>,
}

impl Writer {
    /// Writes all files of all tasks, `jobs` tasks at once.
    ///
    /// # Errors
    /// Of kind `corrupt` for what is not what the manifest says; of the store; of the file system.
    pub(super) async fn write_all(&self, tasks: impl Stream<Item = Result<Task>>, jobs: usize) -> Result<()> {
        tasks.try_for_each_concurrent(jobs, |task| self.carry_out(task)).await
    }

    async fn carry_out(&self, task: Task) -> Result<()> {
        let Task { files, reads } = task;
        let (tree, sync) = (Arc::clone(&self.tree), self.sync_files);
        let mut open = blocking(move || OpenFiles::begin(tree, files, sync)).await?;
        self.progress.advance(open.take_written());
        let mut fetched = stream::iter(reads).map(|read| self.packs.fetch(read)).buffered(READ_AHEAD);
        let mut next = fetched.try_next().await?;
        while let Some(read) = next {
            // The reads that follow come in while this one is written.
            let write = blocking(move || open.write(&read));
            let (written, following) = futures::join!(write, fetched.try_next());
            open = written?;
            self.progress.advance(open.take_written());
            next = following?;
        }
        open.all_complete()
    }
}

/// The files of one task; each is open from its first run to its last.
struct OpenFiles {
    tree: Arc<Tree>,
    sync: bool,
    files: Vec<PlannedFile>,
    states: Vec<State>,
    /// Plain bytes written, holes included, and not yet told to the progress.
    written: u64,
}

enum State {
    Waiting,
    Open(Filling),
    Complete,
}

/// A file that is being filled.
struct Filling {
    file: File,
    hash: Sha256,
    /// The hash covers the file up to here.
    hashed: u64,
    /// The extent that continues the hash.
    next: usize,
    /// How many extents were written.
    written: usize,
}

impl OpenFiles {
    /// Files without stored bytes are complete at once.
    fn begin(tree: Arc<Tree>, files: Vec<PlannedFile>, sync: bool) -> Result<Self> {
        let states = files.iter().map(|_| State::Waiting).collect();
        let mut open = Self { tree, sync, files, states, written: 0 };
        for index in 0..open.files.len() {
            if open.files.get(index).is_some_and(|file| file.extents.is_empty()) {
                open.fill(index, |_, _| Ok(()))?;
            }
        }
        Ok(open)
    }

    fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    fn write(mut self, fetched: &Fetched) -> Result<Self> {
        for (frame, plain) in fetched.read.frames.iter().zip(&fetched.frames) {
            for run in &frame.runs {
                let Some(extent) = extent_of(&self.files, *run) else { continue };
                self.fill(run.file, |planned, filling| {
                    filling.write_run(run.extent, extent.file_offset, run_of(plain, planned, extent)?)
                })?;
            }
        }
        Ok(self)
    }

    /// Opens a file if it is not open yet, lets `work` fill it, and closes it when it is complete.
    fn fill(
        &mut self,
        index: usize,
        work: impl FnOnce(&PlannedFile, &mut Filling) -> Result<(), FillError>,
    ) -> Result<()> {
        let (Some(planned), Some(state)) = (self.files.get(index), self.states.get_mut(index)) else {
            return Ok(());
        };
        let failed = |error: FillError| match error {
            FillError::Io(source) => EngineError::local("write", &self.tree.place_of(&planned.path), source),
            FillError::Other(error) => error,
        };
        let mut filling = match std::mem::replace(state, State::Complete) {
            State::Waiting => {
                let file = self.tree.create_file(&planned.path, planned.mode)?;
                let begun = Filling::begin(file, planned.bytes).map_err(failed)?;
                self.written += planned.bytes - planned.stored_plain_bytes();
                begun
            }
            State::Open(filling) => filling,
            State::Complete => return Ok(()),
        };
        let before = filling.written;
        work(planned, &mut filling).map_err(failed)?;
        let done = planned.extents.get(before..filling.written).unwrap_or_default();
        self.written += done.iter().map(|extent| extent.bytes).sum::<u64>();
        if filling.written == planned.extents.len() {
            filling.finish(planned, self.sync).map_err(failed)?;
        } else {
            *state = State::Open(filling);
        }
        Ok(())
    }

    fn all_complete(&self) -> Result<()> {
        let torn = self.states.iter().position(|state| !matches!(state, State::Complete));
        match torn.and_then(|index| self.files.get(index)) {
            None => Ok(()),
            Some(file) => {
                let message = format!("a file was left incomplete file={}", display(&file.path));
                Err(EngineError::failed(ErrorKind::Internal, message))
            }
        }
    }
}

enum FillError {
    Io(io::Error),
    Other(EngineError),
}

impl From<io::Error> for FillError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<EngineError> for FillError {
    fn from(error: EngineError) -> Self {
        Self::Other(error)
    }
}

impl Filling {
    fn begin(file: File, bytes: u64) -> Result<Self, FillError> {
        // What no extent covers stays a hole.
        file.set_len(bytes)?;
        Ok(Self { file, hash: Sha256::new(), hashed: 0, next: 0, written: 0 })
    }

    fn write_run(&mut self, extent: usize, offset: u64, bytes: &[u8]) -> Result<(), FillError> {
        self.file.write_all_at(bytes, offset)?;
        self.written += 1;
        if extent == self.next {
            self.hash_zeros(offset);
            self.hash.update(bytes);
            self.hashed = offset + bytes.len() as u64;
            self.next += 1;
        }
        Ok(())
    }

    fn hash_zeros(&mut self, until: u64) {
        while self.hashed < until {
            let now = usize::try_from(until - self.hashed).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hash.update(ZEROS.get(..now).unwrap_or_default());
            self.hashed += now as u64;
        }
    }

    /// Compares the file with its hash; what did not come in order is read again.
    fn finish(mut self, planned: &PlannedFile, sync: bool) -> Result<(), FillError> {
        if self.next == planned.extents.len() {
            self.hash_zeros(planned.bytes);
        }
        let mut buffer = if self.hashed < planned.bytes { vec![0; REREAD_BYTES] } else { Vec::new() };
        while self.hashed < planned.bytes {
            let left = usize::try_from(planned.bytes - self.hashed).unwrap_or(usize::MAX);
            let now = left.min(REREAD_BYTES);
            let piece = buffer.get_mut(..now).unwrap_or_default();
            self.file.read_exact_at(piece, self.hashed)?;
            self.hash.update(piece);
            self.hashed += now as u64;
        }
        let found: [u8; 32] = self.hash.finalize().into();
        if found != planned.sha256 {
            return Err(wrong_hash(planned, &found).into());
        }
        if sync {
            self.file.sync_all()?;
        }
        Ok(())
    }
}
