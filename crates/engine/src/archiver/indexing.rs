//! What a push knows before it indexes a segment, and what it leaves for the next one.
//!
//! The memory is a file in the state directory for each timeline: the index of the newest segment pushed, without what
//! the next push can't use, and what was pushed before it in the same LOG directory. It may be lost at any time: then a
//! record that crosses the border is joined by whoever reads both indexes, and readers ask for more indexes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use walden_core::index::{IndexerOptions, Rollup, RollupEntry, SegmentIndex, SegmentIndexer, TouchedBlocks};
use walden_core::{Incarnation, IncarnationRecord, sha256_hex};
use walden_pg::{ArchiveFileName, SegmentId, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};

use super::TEXT_BYTES_MAX;
use crate::catalog::predecessor;
use crate::context::Context;
use crate::fs::{read_if_present, replace_quickly};
use crate::indexing::entry_of;

/// An index repeats at most so many of the segments before it: a whole LOG directory of 16 MiB segments.
pub(super) const SIBLINGS_MAX: usize = 256;
/// The largest file of these that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
const TAG: &[u8; 8] = b"WALDENP1";

/// What is known before a segment is indexed.
#[derive(Debug)]
pub(super) struct Indexing {
    name: SegmentName,
    options: IndexerOptions,
    /// What was pushed last on this timeline.
    memory: Option<Memory>,
    /// The segment before, where it is of another timeline.
    parent: Option<Memory>,
}

impl Indexing {
    /// Looks for what the last push left; `None` for files that are no segments. `path` is the file's.
    pub(super) fn prepare(
        ctx: &Context,
        record: &IncarnationRecord,
        name: ArchiveFileName,
        path: &Path,
    ) -> Option<Self> {
        let (ArchiveFileName::Segment(name) | ArchiveFileName::Partial(name)) = name else { return None };
        let options = options_for(record.incarnation(), record.segment_size);
        let incarnation = record.incarnation();
        let memory = Memory::read(ctx, incarnation, name.timeline());
        let mut indexing = Self { name, options, memory, parent: None };
        if indexing.memory.is_none() && name.timeline() != TimelineId::FIRST {
            indexing.parent = indexing.find_parent(ctx, incarnation, path);
        }
        Some(indexing)
    }

    /// The first segment of a timeline goes on where one of its parent ended.
    fn find_parent(&self, ctx: &Context, incarnation: Incarnation, path: &Path) -> Option<Memory> {
        let before = parents_segment(path, self.name, self.options.segment_size)?;
        let memory = Memory::read(ctx, incarnation, before.timeline)?;
        (memory.index.segment == before.name(self.options.segment_size)).then_some(memory)
    }

    /// An indexer that goes on where the segment before ended, if that was pushed last.
    pub(super) fn begin(&self) -> Option<SegmentIndexer> {
        let previous = self.memory.as_ref().or(self.parent.as_ref()).map(|memory| &memory.index);
        match SegmentIndexer::new(self.options, self.name, previous) {
            Ok(indexer) => Some(indexer),
            Err(error) => {
                tracing::debug!(segment = %self.name, %error, "no index is made");
                None
            }
        }
    }

    /// Whether a segment may be the last one that its LOG directory was waiting for: it is the last by its name, or a
    /// later one was pushed before it.
    pub(super) fn may_complete(&self, name: SegmentName) -> bool {
        let last = name.id(self.options.segment_size).is_ok_and(|id| {
            (id.number.get() + 1).is_multiple_of(self.options.segment_size.segments_per_log())
        });
        last || self.memory.as_ref().is_some_and(|memory| memory.index.segment > name)
    }

    /// What the index repeats of the segments before it.
    pub(super) fn siblings(&self) -> Vec<RollupEntry> {
        let Ok(own) = self.name.id(self.options.segment_size) else { return Vec::new() };
        let mut before: Vec<RollupEntry> = self.known_before().collect();
        before.retain(|entry| entry.number < own.number);
        before.split_off(before.len().saturating_sub(SIBLINGS_MAX))
    }

    fn known_before(&self) -> impl Iterator<Item = RollupEntry> + '_ {
        let same = self.memory.iter().filter(|memory| memory.index.segment.log() == self.name.log());
        same.flat_map(Memory::entries)
    }

    /// Notes for the next push that a segment is in the archive; returns what is known of its LOG directory now, in
    /// rising order.
    pub(super) fn remember(
        &self,
        ctx: &Context,
        incarnation: Incarnation,
        index: SegmentIndex,
        (object_bytes, index_bytes): (u64, u64),
    ) -> Vec<RollupEntry> {
        let Some(own) = entry_of(&index, object_bytes, index_bytes) else { return Vec::new() };
        let mut known: BTreeMap<_, _> = self.known_before().map(|entry| (entry.number, entry)).collect();
        known.insert(own.number, own);
        let newest = match &self.memory {
            // A late one: the newest stays.
            Some(memory) if memory.index.segment > self.name => {
                if memory.index.segment.log() != self.name.log() {
                    return known.into_values().collect();
                }
                memory.clone()
            }
            _ => Memory { index: without_contents(index), object_bytes, index_bytes },
        };
        newest.write(ctx, incarnation, known.values().copied().collect());
        known.into_values().collect()
    }
}

/// What the indexer of a segment of this incarnation is to expect.
pub(super) fn options_for(incarnation: Incarnation, segment_size: WalSegmentSize) -> IndexerOptions {
    IndexerOptions {
        system_id: Some(incarnation.system_id),
        major: Some(incarnation.major),
        ..IndexerOptions::new(segment_size)
    }
}

/// The segment from which records reach into this one, by the history of its timeline that lies beside the file.
pub(super) fn parents_segment(path: &Path, name: SegmentName, size: WalSegmentSize) -> Option<SegmentId> {
    let timeline = name.timeline();
    let beside = path.with_file_name(ArchiveFileName::History(timeline).to_string());
    let bytes = read_if_present(&beside, TEXT_BYTES_MAX).ok()??;
    let history = TimelineHistory::parse(timeline, &bytes).ok()?;
    predecessor(&BTreeMap::from([(timeline, history)]), size, name.id(size).ok()?)
}

/// What is left of an index when only the next push is to read it.
pub(super) fn without_contents(index: SegmentIndex) -> SegmentIndex {
    SegmentIndex {
        events: Vec::new(),
        blocks: TouchedBlocks::default(),
        damage: Vec::new(),
        head: Vec::new(),
        siblings: Vec::new(),
        ..index
    }
}

/// What was pushed last on a timeline.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// Its siblings are all segments of its LOG directory that are known, and not only those of the object's index.
    pub(super) index: SegmentIndex,
    pub(super) object_bytes: u64,
    pub(super) index_bytes: u64,
}

impl Memory {
    pub(super) fn read(ctx: &Context, incarnation: Incarnation, timeline: TimelineId) -> Option<Self> {
        let file = state_file(ctx, incarnation, timeline, "index")?;
        let bytes = checked(&file)?;
        let (sizes, index) = bytes.split_at_checked(16)?;
        let (object_bytes, index_bytes) = sizes.split_first_chunk::<8>()?;
        let index = SegmentIndex::decode(index).ok()?;
        (index.segment.timeline() == timeline).then_some(Self {
            index,
            object_bytes: u64::from_le_bytes(*object_bytes),
            index_bytes: u64::from_le_bytes(index_bytes.try_into().ok()?),
        })
    }

    /// What is known of the segments of its LOG directory, itself included, in rising order.
    pub(super) fn entries(&self) -> impl Iterator<Item = RollupEntry> + '_ {
        let own = entry_of(&self.index, self.object_bytes, self.index_bytes);
        self.index.siblings.iter().copied().chain(own)
    }

    pub(super) fn write(mut self, ctx: &Context, incarnation: Incarnation, known: Vec<RollupEntry>) {
        let Some(file) = state_file(ctx, incarnation, self.index.segment.timeline(), "index") else { return };
        let own = self.index.segment.id(self.index.segment_size).map(|id| id.number).ok();
        self.index.siblings = known.into_iter().filter(|entry| Some(entry.number) != own).collect();
        let mut content = self.object_bytes.to_le_bytes().to_vec();
        content.extend_from_slice(&self.index_bytes.to_le_bytes());
        content.extend_from_slice(&self.index.encode());
        write_checked(&file, &content);
    }
}

/// The last rollup written from here for a timeline.
pub(super) fn remembered_rollup(
    ctx: &Context,
    incarnation: Incarnation,
    timeline: TimelineId,
) -> Option<Rollup> {
    let rollup = Rollup::decode(&checked(&state_file(ctx, incarnation, timeline, "rollup")?)?).ok()?;
    (rollup.timeline == timeline).then_some(rollup)
}

pub(super) fn remember_rollup(ctx: &Context, incarnation: Incarnation, rollup: &Rollup) {
    if let Some(file) = state_file(ctx, incarnation, rollup.timeline, "rollup") {
        write_checked(&file, &rollup.encode());
    }
}

/// One for each store, server, incarnation and timeline.
fn state_file(ctx: &Context, incarnation: Incarnation, timeline: TimelineId, kind: &str) -> Option<PathBuf> {
    let directory = ctx.state_directory.as_ref()?;
    let identity = format!("{}\n{}\n{incarnation}", ctx.store.identity(), ctx.server);
    let digest = sha256_hex(identity.as_bytes());
    let digest = digest.get(..16).unwrap_or(&digest);
    Some(directory.join(format!("{kind}-{digest}-{}", timeline.hex())))
}

/// A file's content behind its tag and checksum.
fn checked(file: &Path) -> Option<Vec<u8>> {
    let bytes = read_if_present(file, FILE_BYTES_MAX).ok()??;
    let (crc, content) = bytes.strip_prefix(TAG)?.split_first_chunk::<4>()?;
    (crc32c::crc32c(content) == u32::from_le_bytes(*crc)).then(|| content.to_vec())
}

fn write_checked(file: &Path, content: &[u8]) {
    let crc = crc32c::crc32c(content).to_le_bytes();
    if let Err(error) = replace_quickly(file, &[TAG, &crc, content]) {
        tracing::debug!(%error, "could not remember what was pushed");
    }
}
