//! What the segments of one LOG directory hold: from its rollup where that agrees with the listing, else from the
//! newest index, which repeats what its writer knew of the segments before, else from each segment.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use tokio::sync::Semaphore;
use walden_core::index::{
    Rollup, RollupEntry, SegmentIndex, SegmentSummary, WalFacts, WalFlags, resolve_border,
};
use walden_core::{CatalogSnapshot, ErrorKind, IncarnationLayout};
use walden_pg::{ArchiveFileName, SegmentId, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};
use walden_store::{HeaderRead, StoreError};

use super::details::fetch_segment;
use super::{Directory, READS_AT_ONCE};
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::indexing::index_segment;
use crate::rollup::read_rollup;

/// The newest index tells of segments before it. When so many told of none, all that is left is read at once.
const SILENT_READS_MAX: u32 = 2;

/// Plain bytes of segments without an index that are held at once, unless a single segment is larger.
const SCANNED_BYTES_MAX: u64 = 64 << 20;

/// Reads summaries of an archive's segments.
pub(crate) struct SummaryReader<'a> {
    ctx: &'a Context,
    layout: IncarnationLayout,
    snapshot: &'a CatalogSnapshot,
    size: WalSegmentSize,
    /// One permit for each segment that may be held; `None` when no segment may be fetched for its facts.
    scans: Option<Semaphore>,
}

/// What is known of one directory while it is read.
#[derive(Default)]
struct Known {
    entries: BTreeMap<SegmentNumber, RollupEntry>,
    /// The indexes that were read whole.
    indexes: BTreeMap<SegmentNumber, SegmentIndex>,
    /// Segments whose facts were read from themselves.
    scanned: u64,
    /// A segment was met that would have to be fetched, and was not to be.
    refused: bool,
}

/// The summaries of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectorySummaries {
    /// One entry for each segment that was listed, in rising order.
    pub(crate) entries: Vec<RollupEntry>,
    /// Segments that had to be fetched whole, because they have no index.
    pub(crate) scanned: u64,
    /// Segments of which nothing is known, because they were not to be fetched.
    pub(crate) unknown: u64,
}

impl DirectorySummaries {
    /// How many of the segments have damaged WAL.
    pub(crate) fn damaged(&self) -> u64 {
        let summaries = self.entries.iter().filter_map(|entry| entry.summary);
        summaries.filter(|summary| summary.facts.flags.any(WalFlags::DAMAGED)).count() as u64
    }
}

impl<'a> SummaryReader<'a> {
    /// A reader; the snapshot tells what is in the archive and the histories, for the borders between segments.
    pub(crate) fn new(ctx: &'a Context, snapshot: &'a CatalogSnapshot) -> Self {
        let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
        let size = snapshot.incarnation.segment_size;
        let scans = Some(Semaphore::new(scans_at_once(size)));
        Self { ctx, layout, snapshot, size, scans }
    }

    /// Fetches no segments: of those that have neither an index nor a summary nothing will be known, nor of what would be
    /// read after the first such.
    pub(crate) fn without_scans(self) -> Self {
        Self { scans: None, ..self }
    }

    /// Lists a directory and reads what its segments hold.
    ///
    /// # Errors
    /// Of the store. An object that is damaged there is told as a damaged segment.
    pub(crate) async fn list_and_read(
        &self,
        timeline: TimelineId,
        log: u32,
    ) -> Result<(Directory, DirectorySummaries)> {
        let directory = Directory::list(self.ctx, &self.layout, self.size, (timeline, log)).await?;
        let rollup = if directory.has_rollup {
            read_rollup(self.ctx, &self.layout, (timeline, log), &self.ctx.listing_budget()).await?
        } else {
            None
        };
        let summaries = self.read(&directory, rollup.as_ref(), &[]).await?;
        Ok((directory, summaries))
    }

    /// Reads what the segments of a listed directory hold. What is told of a segment by its rollup, or by `told`, is
    /// taken when the size of its object is the one listed.
    ///
    /// # Errors
    /// As [`Self::list_and_read`].
    pub(crate) async fn read(
        &self,
        directory: &Directory,
        rollup: Option<&Rollup>,
        told: &[RollupEntry],
    ) -> Result<DirectorySummaries> {
        let mut known = Known::default();
        known.take(directory, told);
        known.take(directory, rollup.map(|rollup| rollup.segments.as_slice()).unwrap_or_default());
        let mut told_nothing = 0;
        while told_nothing < SILENT_READS_MAX && !known.refused {
            let Some((number, bytes)) = known.missing(directory).next_back() else { break };
            let before = known.entries.len();
            known.add(directory, self.read_one(directory, number, bytes).await?);
            told_nothing += u32::from(known.entries.len() == before + 1);
        }
        let left: Vec<_> = if known.refused { Vec::new() } else { known.missing(directory).collect() };
        let reads =
            stream::iter(left).map(async |(number, bytes)| self.read_one(directory, number, bytes).await);
        let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
        while let Some(read) = reads.next().await {
            known.add(directory, read?);
            if known.refused {
                break;
            }
        }
        if !known.refused {
            self.join_borders(directory, &mut known).await?;
        }
        let entries: Vec<RollupEntry> = known.entries.into_values().collect();
        let told = entries.iter().filter(|entry| entry.summary.is_some()).count();
        let unknown = directory.segments.len().saturating_sub(told) as u64;
        Ok(DirectorySummaries { entries, scanned: known.scanned, unknown })
    }

    async fn read_one(&self, directory: &Directory, number: SegmentNumber, bytes: u64) -> Result<ReadOne> {
        let id = SegmentId::new(directory.timeline, number);
        let mut read = ReadOne { number, object_bytes: bytes, index_bytes: 0, known: Told::Nothing };
        match self.stored_index(id, bytes, None).await? {
            Some((index_bytes, index)) => {
                read.index_bytes = index_bytes;
                read.known = Told::Index(Box::new(index));
            }
            None => {
                if let Some((index_bytes, summary)) = self.header_summary(id).await? {
                    read.index_bytes = index_bytes;
                    read.known = Told::Summary(summary);
                } else {
                    read.known = self.scan(id).await?;
                }
            }
        }
        Ok(read)
    }

    /// The index of a segment as it is stored; `None` when there is none that can be used.
    async fn stored_index(
        &self,
        id: SegmentId,
        object_bytes: u64,
        index_bytes: Option<u64>,
    ) -> Result<Option<(u64, SegmentIndex)>> {
        let name = id.name(self.size);
        let key = self.layout.archive_file(ArchiveFileName::Segment(name));
        let read = self.ctx.store.get_index(&key, object_bytes, index_bytes, &self.ctx.budget()).await;
        let unusable = |reason: &dyn std::fmt::Display| {
            tracing::warn!(segment = %name, %reason, "its index can't be used");
            Ok(None)
        };
        match read {
            Ok(read) => match read.plain.map(|plain| SegmentIndex::decode(&plain)) {
                None => Ok(None),
                Some(Ok(index)) if index.segment == name => Ok(Some((read.index_bytes, index))),
                Some(Ok(index)) => unusable(&format!("it is of {}", index.segment)),
                Some(Err(error)) => unusable(&error),
            },
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Size { .. })) => unusable(&error),
            Err(error) => Err(error.into()),
        }
    }

    async fn header_summary(&self, id: SegmentId) -> Result<Option<(u64, SegmentSummary)>> {
        let key = self.layout.archive_file(ArchiveFileName::Segment(id.name(self.size)));
        match self.ctx.store.get_header(&key, &self.ctx.budget()).await {
            Ok(HeaderRead::Found { header, .. }) => {
                // An index that was announced and can't be read speaks against the whole object.
                let summary = header.wal.as_ref().and_then(|wal| wal.summary);
                let summary = summary.filter(|_| header.index_bytes == 0);
                Ok(summary.map(|summary| (header.index_bytes, summary)))
            }
            Ok(HeaderRead::Missing) | Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Fetches a segment and makes its index, if that is allowed.
    async fn scan(&self, id: SegmentId) -> Result<Told> {
        let Some(scans) = &self.scans else { return Ok(Told::Nothing) };
        // Held until the bytes are gone; closed it never is.
        let _permit = scans.acquire().await;
        let (name, size) = (id.name(self.size), self.size);
        let damaged = |what: String| {
            tracing::warn!(segment = %name, what, "a segment can't be read");
            Told::Summary(damaged_summary(size, id))
        };
        let bytes = match fetch_segment(self.ctx, &self.layout, id, size.bytes()).await? {
            Ok(bytes) => bytes,
            Err(what) => return Ok(damaged(what)),
        };
        let major = self.snapshot.incarnation.major;
        let indexed = tokio::task::spawn_blocking(move || index_segment(name, size, major, &bytes)).await;
        let indexed = indexed.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))?;
        Ok(match indexed {
            Ok(index) => Told::Scan(Box::new(index)),
            Err(error) => damaged(error.to_string()),
        })
    }

    /// Looks at the segments whose first record began in the one before and was not joined when they were archived,
    /// where it may matter.
    async fn join_borders(&self, directory: &Directory, known: &mut Known) -> Result<()> {
        let unjoined: Vec<SegmentId> = known
            .entries
            .values()
            .filter(|entry| entry.summary.is_some_and(|summary| !summary.joined))
            .map(|entry| SegmentId::new(directory.timeline, entry.number))
            .collect();
        for id in unjoined {
            let histories = &self.snapshot.histories;
            let Some(previous) = predecessor(histories, self.size, id) else { continue };
            let Some(before) = self.index_of(directory, known, previous).await? else { continue };
            let Some(mut next) = self.index_of(directory, known, id).await? else { continue };
            if resolve_border(&before, &mut next)
                && let Some(entry) = known.entries.get_mut(&id.number)
            {
                entry.summary = Some(next.summary);
            }
        }
        Ok(())
    }

    /// The whole index of a segment; `None` when the segment is not in the archive.
    async fn index_of(
        &self,
        directory: &Directory,
        known: &mut Known,
        id: SegmentId,
    ) -> Result<Option<SegmentIndex>> {
        let here = id.timeline == directory.timeline;
        if here && let Some(index) = known.indexes.get(&id.number) {
            return Ok(Some(index.clone()));
        }
        let sizes = match known.entries.get(&id.number).filter(|_| here) {
            Some(entry) => Some((u64::from(entry.object_bytes), Some(u64::from(entry.index_bytes)))),
            None if !self.snapshot.has_segment(id) => return Ok(None),
            None => self.snapshot.segment_bytes(id).map(|bytes| (u64::from(bytes), None)),
        };
        let sizes = match sizes {
            Some(sizes) => Some(sizes),
            None => self.sizes_by_header(id).await?,
        };
        let Some((object_bytes, index_bytes)) = sizes else { return Ok(None) };
        let stored = match index_bytes {
            Some(0) => None,
            index_bytes => self.stored_index(id, object_bytes, index_bytes).await?,
        };
        let index = match stored {
            Some((_, index)) => Some(index),
            None => match self.scan(id).await? {
                Told::Scan(index) => Some(*index),
                _ => None,
            },
        };
        if here && let Some(index) = &index {
            known.indexes.insert(id.number, index.clone());
        }
        Ok(index)
    }

    async fn sizes_by_header(&self, id: SegmentId) -> Result<Option<(u64, Option<u64>)>> {
        let key = self.layout.archive_file(ArchiveFileName::Segment(id.name(self.size)));
        match self.ctx.store.get_header(&key, &self.ctx.budget()).await {
            Ok(HeaderRead::Found { header, object_bytes }) => {
                Ok(Some((object_bytes, Some(header.index_bytes))))
            }
            Ok(HeaderRead::Missing) | Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What reading one segment's object told.
struct ReadOne {
    number: SegmentNumber,
    object_bytes: u64,
    index_bytes: u64,
    known: Told,
}

enum Told {
    Nothing,
    Index(Box<SegmentIndex>),
    Scan(Box<SegmentIndex>),
    Summary(SegmentSummary),
}

impl Known {
    /// Takes what others tell of segments, where it agrees with the listing.
    fn take(&mut self, directory: &Directory, told: &[RollupEntry]) {
        for entry in told {
            let listed = directory.segments.get(&entry.number).copied();
            if entry.summary.is_some() && listed == Some(u64::from(entry.object_bytes)) {
                self.entries.entry(entry.number).or_insert(*entry);
            }
        }
    }

    fn add(&mut self, directory: &Directory, read: ReadOne) {
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let entry = |summary| RollupEntry {
            number: read.number,
            object_bytes: small(read.object_bytes),
            index_bytes: small(read.index_bytes),
            summary,
        };
        match read.known {
            Told::Nothing => {
                self.refused = true;
                self.entries.insert(read.number, entry(None));
            }
            Told::Summary(summary) => {
                self.entries.insert(read.number, entry(Some(summary)));
            }
            Told::Index(index) => {
                self.entries.insert(read.number, entry(Some(index.summary)));
                self.take(directory, &index.siblings);
                self.indexes.insert(read.number, *index);
            }
            Told::Scan(index) => {
                self.scanned += 1;
                self.entries.insert(read.number, entry(Some(index.summary)));
                self.indexes.insert(read.number, *index);
            }
        }
    }

    /// The listed segments of which nothing is known.
    fn missing<'a>(
        &'a self,
        directory: &'a Directory,
    ) -> impl DoubleEndedIterator<Item = (SegmentNumber, u64)> + 'a {
        let all = directory.segments.iter().map(|(number, bytes)| (*number, *bytes));
        all.filter(|(number, _)| !self.entries.contains_key(number))
    }
}

/// So many segments may be held at once while they are read.
fn scans_at_once(size: WalSegmentSize) -> usize {
    usize::try_from(SCANNED_BYTES_MAX / size.bytes()).unwrap_or(1).max(1)
}

/// What is told of a segment whose object can't be read.
fn damaged_summary(size: WalSegmentSize, id: SegmentId) -> SegmentSummary {
    SegmentSummary {
        facts: WalFacts { flags: WalFlags::DAMAGED, ..WalFacts::default() },
        wal_end: size.start_of(id.number),
        joined: false,
        straddler: None,
    }
}

/// The segment from which records reach into this one: of the newest timeline that had begun by then.
pub(crate) fn predecessor(
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    size: WalSegmentSize,
    id: SegmentId,
) -> Option<SegmentId> {
    let number = id.number.previous()?;
    if id.timeline == TimelineId::FIRST {
        return Some(SegmentId::new(id.timeline, number));
    }
    let history = histories.get(&id.timeline)?;
    let begun = history.ranges().find(|range| size.segment_of(range.begin) <= number)?;
    Some(SegmentId::new(begun.timeline, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_without_an_index_are_held_a_few_at_once() {
        for (mib, expected) in [(1, 64), (16, 4), (64, 1), (1024, 1)] {
            assert_eq!(scans_at_once(WalSegmentSize::new(mib << 20).unwrap()), expected);
        }
    }
}
