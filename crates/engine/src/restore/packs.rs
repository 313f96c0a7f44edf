//! Reading packs: ranges fetched, their frames decompressed.
//!
//! Memory: what is fetched and not yet written takes permits for its stored and its plain bytes, whatever the
//! number of workers. Each task hands its reads on in order, and permits are given first come first served, so a
//! read that waits for permits never waits for itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use walden_core::{BackupLayout, ErrorKind, Extent};
use walden_store::{EXTENT_BYTES_MAX, StoreError, open_extent};
use zstd::zstd_safe;

use super::inventory::{PlannedFile, display};
use super::reads::{Frame, Read, Task, TaskBuilder, extent_of};
use crate::context::Context;
use crate::error::{EngineError, Result};

/// Memory for what is fetched and not yet written, in KiB.
const MEMORY_KIB: u32 = 128 << 10;
/// A frame that arrives damaged is fetched this often before it counts as damaged in the store.
const FETCHES_OF_DAMAGED: u32 = 2;

/// Reads of the small files that are looked at early, under way at once.
const SMALL_READS_AT_ONCE: usize = 4;

const DAMAGED_HINT: &str = "what was restored so far is not usable: restore from another backup (--backup); walden backup list shows them";

/// The packs of one backup.
pub(super) struct Packs {
    ctx: Context,
    layout: BackupLayout,
    memory: Arc<Semaphore>,
    fetched: AtomicU64,
}

/// A read whose frames are decompressed.
pub(super) struct Fetched {
    pub(super) read: Read,
    /// The plain bytes of each of the read's frames.
    pub(super) frames: Vec<Vec<u8>>,
    _memory: OwnedSemaphorePermit,
}

impl Packs {
    pub(super) fn new(ctx: &Context, layout: BackupLayout) -> Self {
        let memory = Arc::new(Semaphore::new(MEMORY_KIB as usize));
        Self { ctx: ctx.clone(), layout, memory, fetched: AtomicU64::new(0) }
    }

    /// Bytes fetched so far.
    pub(super) fn fetched_bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// The whole of a few small files, by their paths, their hashes checked.
    ///
    /// # Errors
    /// As [`Self::fetch`], and of kind `corrupt` when one is larger than `bytes_max`.
    pub(super) async fn read_small<'a>(
        &self,
        files: impl Iterator<Item = &'a PlannedFile>,
        bytes_max: u64,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut builder = TaskBuilder::default();
        let mut tasks = Vec::new();
        for file in files {
            if file.bytes > bytes_max {
                let path = display(&file.path);
                let message =
                    format!("a file of the backup is absurdly large file={path} bytes={}", file.bytes);
                return Err(EngineError::failed(ErrorKind::Corrupt, message));
            }
            tasks.extend(builder.add(file.clone()));
        }
        tasks.extend(builder.finish());
        let mut all = BTreeMap::new();
        for Task { files, reads } in tasks {
            let length = |file: &PlannedFile| usize::try_from(file.bytes).unwrap_or_default();
            let mut wholes: Vec<Vec<u8>> = files.iter().map(|file| vec![0; length(file)]).collect();
            let mut fetched = stream::iter(reads).map(|read| self.fetch(read)).buffered(SMALL_READS_AT_ONCE);
            while let Some(read) = fetched.try_next().await? {
                fill(&mut wholes, &files, &read)?;
            }
            for (file, whole) in files.iter().zip(wholes) {
                let found: [u8; 32] = Sha256::digest(&whole).into();
                if found != file.sha256 {
                    return Err(wrong_hash(file, &found));
                }
                all.insert(file.path.clone(), whole);
            }
        }
        Ok(all)
    }

    /// Fetches one read and decompresses its frames.
    ///
    /// # Errors
    /// Of kind `corrupt` for what is not what the manifest says; of the store.
    pub(super) async fn fetch(&self, read: Read) -> Result<Fetched> {
        let stored_bytes = read.range.end.saturating_sub(read.range.start);
        let kib =
            u32::try_from((stored_bytes + read.plain_bytes) / 1024 + 1).unwrap_or(u32::MAX).min(MEMORY_KIB);
        let memory = Arc::clone(&self.memory).acquire_many_owned(kib).await;
        let memory = memory.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))?;
        let number = u32::try_from(read.pack).unwrap_or(u32::MAX);
        let key = self.layout.pack(number);
        let mut fetches = 0;
        loop {
            fetches += 1;
            let stored = self
                .ctx
                .store
                .get_range(
                    &key,
                    read.range.clone(),
                    &self.ctx.budget_for(read.range.end.saturating_sub(read.range.start)),
                )
                .await;
            let stored = stored.map_err(|error| unreadable_pack(error, number))?;
            self.fetched.fetch_add(stored.len() as u64, Ordering::Relaxed);
            let (frames, start) = (read.frames.clone(), read.range.start);
            match blocking(move || decompress(&stored, start, &frames)).await {
                Ok(frames) => return Ok(Fetched { read, frames, _memory: memory }),
                Err(error) if fetches < FETCHES_OF_DAMAGED && error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(%key, %error, "a part of a pack arrived damaged: reading it again");
                }
                Err(error) => {
                    let message = format!("a pack of the backup is damaged: {error} key={key}");
                    return Err(EngineError::failed(error.kind(), message).with_hint(DAMAGED_HINT));
                }
            }
        }
    }
}

/// Copies the runs of a read into the files that they belong to.
fn fill(wholes: &mut [Vec<u8>], files: &[PlannedFile], fetched: &Fetched) -> Result<()> {
    for (frame, plain) in fetched.read.frames.iter().zip(&fetched.frames) {
        for run in &frame.runs {
            let (Some(file), Some(extent)) = (files.get(run.file), extent_of(files, *run)) else { continue };
            let bytes = run_of(plain, file, extent)?;
            let at = usize::try_from(extent.file_offset).unwrap_or(usize::MAX);
            let whole =
                wholes.get_mut(run.file).and_then(|whole| whole.get_mut(at..)?.get_mut(..bytes.len()));
            if let Some(place) = whole {
                place.copy_from_slice(bytes);
            }
        }
    }
    Ok(())
}

/// Runs what blocks beside the reactor.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| EngineError::failed(ErrorKind::Internal, format!("a worker ended: {error}")))?
}

/// A pack that is missing or too short is damage of the backup, and not of the request.
fn unreadable_pack(error: StoreError, number: u32) -> EngineError {
    match error {
        StoreError::ObjectNotFound { .. } | StoreError::Size { .. } => {
            let message = format!("a pack of the backup is missing or cut off: {error} pack={number}");
            EngineError::failed(ErrorKind::Corrupt, message).with_hint(DAMAGED_HINT)
        }
        error => error.into(),
    }
}

fn decompress(stored: &Bytes, start: u64, frames: &[Frame]) -> Result<Vec<Vec<u8>>> {
    let corrupt = |frame: &Frame, reason: &dyn std::fmt::Display| {
        EngineError::failed(ErrorKind::Corrupt, format!("frame at {}: {reason}", frame.offset))
    };
    let mut plain = Vec::with_capacity(frames.len());
    for frame in frames {
        let range = usize::try_from(frame.offset - start).ok().zip(usize::try_from(frame.bytes).ok());
        let slice = range.and_then(|(at, bytes)| stored.get(at..)?.get(..bytes));
        let Some(slice) = slice else { return Err(corrupt(frame, &"it lies outside of what was read")) };
        // The frame's own word for its size decides how much memory is taken, so it is bounded first.
        match zstd_safe::get_frame_content_size(slice) {
            Ok(Some(bytes)) if bytes <= EXTENT_BYTES_MAX => {
                plain.push(open_extent(slice, bytes).map_err(|error| corrupt(frame, &error))?);
            }
            Ok(Some(bytes)) => {
                return Err(corrupt(frame, &format!("it says that it has {bytes} plain bytes")));
            }
            Ok(None) => return Err(corrupt(frame, &"it does not say its size")),
            Err(_) => return Err(corrupt(frame, &"it is not a zstd frame")),
        }
    }
    Ok(plain)
}

/// The bytes of one run in its frame.
///
/// # Errors
/// Of kind `corrupt` when the frame is too short for it.
pub(super) fn run_of<'a>(plain: &'a [u8], file: &PlannedFile, extent: Extent) -> Result<&'a [u8]> {
    let range = usize::try_from(extent.skip).ok().zip(usize::try_from(extent.bytes).ok());
    let run = range.and_then(|(skip, bytes)| plain.get(skip..)?.get(..bytes));
    run.ok_or_else(|| {
        let message = format!(
            "a frame of the backup is shorter than the manifest says file={} pack={}",
            display(&file.path),
            extent.pack
        );
        EngineError::failed(ErrorKind::Corrupt, message).with_hint(DAMAGED_HINT)
    })
}

/// A file is not the one that was backed up.
pub(super) fn wrong_hash(file: &PlannedFile, found: &[u8]) -> EngineError {
    let mut packs: Vec<u64> = file.extents.iter().map(|extent| extent.pack).collect();
    packs.dedup();
    let packs: Vec<String> = packs.iter().take(8).map(ToString::to_string).collect();
    let message = format!(
        "a restored file is not what was backed up: its SHA-256 differs file={} packs={} expected={} found={}",
        display(&file.path),
        packs.join(","),
        hex(&file.sha256),
        hex(found)
    );
    EngineError::failed(ErrorKind::Corrupt, message).with_hint(DAMAGED_HINT)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}
