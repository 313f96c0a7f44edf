//! Reading, scanning, hashing and compressing one segment, on threads that may block.

use std::fs::Metadata;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use walden_core::ErrorKind;
use walden_core::index::{IndexerOptions, SegmentIndex, SegmentIndexer};
use walden_pg::SegmentName;
use walden_store::{CHUNK_BYTES, Chunk, CompressionLevel, IdentityHash, Reservation, SealedFrames, Sealer};

use super::super::wal_file::{WalFile, seal_failed};
use super::SegmentTimings;
use super::identity::FileIdentity;
use super::lane::Carrier;
use crate::error::{EngineError, Result};

/// A segment on its way from the file to its compressed frames.
pub(super) struct Job {
    pub(super) file: WalFile,
    /// As the file was before it was read.
    pub(super) identity: FileIdentity,
    pub(super) segment: SegmentName,
    pub(super) options: IndexerOptions,
    pub(super) level: CompressionLevel,
    pub(super) memory: Memory,
    pub(super) carrier: Option<Carrier>,
    pub(super) timings: SegmentTimings,
}

/// Where the plain bytes are held.
pub(super) enum Memory {
    /// All of them, in chunks of this reservation.
    Whole { reserved: Reservation, chunks: Vec<Chunk> },
    /// A piece at a time, while nothing else is in flight: for segments that are larger than the whole memory.
    Streamed(Reservation),
}

/// A segment whose frames are made.
pub(super) struct Compressed {
    pub(super) frames: SealedFrames,
    pub(super) index: Option<SegmentIndex>,
    pub(super) timings: SegmentTimings,
    /// Of a segment that is alone: what keeps others out until its object, which no chunks hold, is sent.
    pub(super) alone: Option<Reservation>,
}

impl Job {
    /// Reads the whole file, without looking at it: for when it is not known yet what comes before it.
    pub(super) fn read(mut self) -> Result<Self> {
        self.fill(&mut Scan::none())?;
        Ok(self)
    }

    /// Does all that is left to do. What comes after the segment hears what it carries over as soon as that is known.
    pub(super) fn complete(
        mut self,
        previous: Option<&SegmentIndex>,
        sealer: &mut Sealer,
    ) -> Result<Compressed> {
        let mut scan = Scan::begin(self.options, self.segment, previous);
        match &self.memory {
            Memory::Streamed(_) => return self.stream(scan, sealer),
            Memory::Whole { chunks, .. } if chunks.is_empty() => self.fill(&mut scan)?,
            Memory::Whole { chunks, .. } => chunks.iter().for_each(|chunk| scan.feed(chunk.filled())),
        }
        let index = scan.finish(&self.file.path);
        if let Some(carrier) = self.carrier.take() {
            carrier.carry(index.as_ref());
        }
        self.timings.scan = scan.took;
        let Memory::Whole { reserved, chunks } = self.memory else {
            return Err(EngineError::failed(ErrorKind::Internal, "a segment lost its memory".to_owned()));
        };
        let start = sealer.start_with(self.level, IdentityHash::Plain, self.file.contents(), Some(reserved));
        start.and_then(|()| sealer.begin_frame(self.file.bytes)).map_err(seal_failed)?;
        for chunk in chunks {
            sealer.write(chunk.filled()).map_err(seal_failed)?;
            sealer.recycle(chunk);
        }
        close(sealer, index, self.timings, None)
    }

    /// Reads the file into the chunks, and makes sure that it stayed what it was.
    fn fill(&mut self, scan: &mut Scan) -> Result<()> {
        let Memory::Whole { reserved, chunks } = &mut self.memory else { return Ok(()) };
        let mut left = self.file.bytes;
        while left > 0 {
            let mut chunk = reserved.take().unwrap_or_else(Chunk::unpooled);
            let begun = Instant::now();
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            fill_chunk(&self.file, &mut chunk, wanted)?;
            self.timings.read += begun.elapsed();
            scan.feed(chunk.filled());
            left -= wanted as u64;
            chunks.push(chunk);
        }
        self.refuse_changed()
    }

    fn stream(mut self, mut scan: Scan, sealer: &mut Sealer) -> Result<Compressed> {
        let start = sealer.start_with(self.level, IdentityHash::Plain, self.file.contents(), None);
        start.and_then(|()| sealer.begin_frame(self.file.bytes)).map_err(seal_failed)?;
        let mut left = self.file.bytes;
        while left > 0 {
            let mut chunk = Chunk::unpooled();
            if let Memory::Streamed(reserved) = &mut self.memory {
                chunk = reserved.take().unwrap_or(chunk);
            }
            let begun = Instant::now();
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            fill_chunk(&self.file, &mut chunk, wanted)?;
            self.timings.read += begun.elapsed();
            scan.feed(chunk.filled());
            sealer.write(chunk.filled()).map_err(seal_failed)?;
            left -= wanted as u64;
            if let Memory::Streamed(reserved) = &mut self.memory {
                reserved.put(chunk);
            }
        }
        self.refuse_changed()?;
        let index = scan.finish(&self.file.path);
        if let Some(carrier) = self.carrier.take() {
            carrier.carry(index.as_ref());
        }
        self.timings.scan = scan.took;
        let alone = match self.memory {
            Memory::Streamed(reserved) => Some(reserved),
            Memory::Whole { .. } => None,
        };
        close(sealer, index, self.timings, alone)
    }

    /// The name must still lead to the file that was read, and nothing of it may have changed: a segment that PostgreSQL
    /// recycles under us becomes another one.
    fn refuse_changed(&self) -> Result<()> {
        let failed = |source| EngineError::local("look at", &self.file.path, source);
        let is_same = |metadata: Metadata| FileIdentity::of(&metadata) == self.identity;
        let named = self.file.path.metadata().map_err(failed)?;
        let read = self.file.file.metadata().map_err(failed)?;
        if is_same(named) && is_same(read) { Ok(()) } else { Err(changed(&self.file.path)) }
    }
}

fn close(
    sealer: &mut Sealer,
    index: Option<SegmentIndex>,
    timings: SegmentTimings,
    alone: Option<Reservation>,
) -> Result<Compressed> {
    sealer.end_frame().map_err(seal_failed)?;
    let times = sealer.times();
    let timings = SegmentTimings { hash: times.hash, compress: times.compress, ..timings };
    Ok(Compressed { frames: sealer.take_frames().map_err(seal_failed)?, index, timings, alone })
}

/// Fills a chunk with exactly so many bytes.
fn fill_chunk(file: &WalFile, chunk: &mut Chunk, wanted: usize) -> Result<()> {
    let mut filled = 0;
    while let Some(room) = chunk.room().get_mut(..wanted - filled).filter(|room| !room.is_empty()) {
        match (&file.file).read(room) {
            Ok(0) => return Err(changed(&file.path)),
            Ok(read) => {
                chunk.advance(read);
                filled += read;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(EngineError::local("read", &file.path, source)),
        }
    }
    Ok(())
}

pub(super) fn changed(path: &Path) -> EngineError {
    let name = path.file_name().unwrap_or_default().display();
    EngineError::failed(ErrorKind::Invalid, format!("the file changed while it was read name={name}"))
}

/// An indexer that may fail: what it fails on is archived without an index, which is worth more than a full disk.
struct Scan {
    indexer: Option<SegmentIndexer>,
    has_failed: bool,
    took: Duration,
}

impl Scan {
    fn none() -> Self {
        Self { indexer: None, has_failed: false, took: Duration::ZERO }
    }

    fn begin(options: IndexerOptions, segment: SegmentName, previous: Option<&SegmentIndex>) -> Self {
        let mut scan = Self::none();
        scan.run(|_| match SegmentIndexer::new(options, segment, previous) {
            Ok(indexer) => Some(indexer),
            Err(error) => {
                tracing::debug!(%segment, %error, "no index is made");
                None
            }
        });
        scan
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.run(|indexer| {
            indexer.map(|mut indexer| {
                indexer.feed(bytes);
                indexer
            })
        });
    }

    fn finish(&mut self, path: &Path) -> Option<SegmentIndex> {
        let begun = Instant::now();
        let indexer = self.indexer.take();
        let index = catch_unwind(AssertUnwindSafe(|| indexer.map(SegmentIndexer::finish)));
        self.took += begun.elapsed();
        self.has_failed |= index.is_err();
        if self.has_failed {
            tracing::error!(path = %path.display(), "the indexer failed: the segment is archived without an index");
        }
        index.ok().flatten()
    }

    fn run(&mut self, step: impl FnOnce(Option<SegmentIndexer>) -> Option<SegmentIndexer>) {
        let begun = Instant::now();
        let indexer = self.indexer.take();
        match catch_unwind(AssertUnwindSafe(|| step(indexer))) {
            Ok(indexer) => self.indexer = indexer,
            // Nobody sees the indexer again that was left in the middle of something.
            Err(_) => self.has_failed = true,
        }
        self.took += begun.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walden_pg::{TimelineId, WalSegmentSize};

    #[test]
    fn an_indexer_that_fails_is_not_asked_again() {
        let size = WalSegmentSize::DEFAULT;
        let segment = SegmentName::new(TimelineId::FIRST, 0, 1);
        let mut scan = Scan::begin(IndexerOptions::new(size), segment, None);
        assert!(scan.indexer.is_some());
        scan.run(|_| panic!("as a bug in the indexer would"));
        scan.feed(&[0; 100]);
        assert!(scan.has_failed && scan.indexer.is_none());
        assert_eq!(scan.finish(Path::new("segment")), None);
    }
}
