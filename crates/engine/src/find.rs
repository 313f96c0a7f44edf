//! `walden wal find`: what happened, where, and what it was done to.
//!
//! Rollups and summaries say which segments may hold what is looked for; only their indexes are read, and the segments
//! themselves only where single commits are asked for.

mod around;
mod names;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use walden_core::index::find::{FindQuery, Found, FoundEvent, Paths, find as find_in};
use walden_core::index::{SegmentIndex, TouchedBlocks, WalFacts, resolve_border};
use walden_core::{CatalogSnapshot, ErrorKind, IncarnationRecord, Need, SegmentDetail};
use walden_pg::{ArchiveFileName, SegmentId, TimelineId};
use walden_store::StoreError;

use crate::catalog::{READS_AT_ONCE, fetch_segment, load_overview, predecessor, satisfy};
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::indexing::index_segment;

/// So many indexes are read for events at most.
const INDEXES_MAX: usize = 4096;
/// So many segments are fetched for their records at most.
const SEGMENTS_MAX: usize = 64;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FindReport {
    /// The events, in the order of timelines and positions.
    pub events: Vec<FoundEvent>,
    /// What limits the answer, in words.
    pub notes: Vec<String>,
}

/// Finds what a query asks for in the archive of an incarnation.
///
/// # Errors
/// Of the store. What can't be read there is told in the notes.
pub async fn find(ctx: &Context, incarnation: &IncarnationRecord, query: &FindQuery) -> Result<FindReport> {
    let snapshot = load_overview(ctx, incarnation).await?;
    let mut finder = Finder::new(ctx, snapshot);
    if query.needs_events() {
        finder.read_events(query).await?;
    }
    let details = if let Some(moment) = query.around {
        finder.around(moment).await?
    } else if query.needs_records() {
        finder.records(query).await?
    } else {
        Vec::new()
    };
    let book = finder.name_book(query).await?;
    let indexes = finder.indexes.iter().map(|(id, index)| (*id, index));
    let details = details.iter().filter_map(|id| finder.snapshot.details.get(id));
    let found = find_in(query, indexes, details, &book);
    Ok(finder.report(found))
}

/// The work on one query.
struct Finder<'a> {
    ctx: &'a Context,
    snapshot: CatalogSnapshot,
    /// What was read, without its touched blocks.
    indexes: BTreeMap<SegmentId, SegmentIndex>,
    notes: Vec<String>,
}

impl<'a> Finder<'a> {
    fn new(ctx: &'a Context, snapshot: CatalogSnapshot) -> Self {
        Self { ctx, snapshot, indexes: BTreeMap::new(), notes: Vec::new() }
    }

    fn paths(&self) -> Paths {
        Paths::new(
            self.snapshot.histories.clone(),
            self.snapshot.newest_timeline().unwrap_or(TimelineId::FIRST),
        )
    }

    /// Learns of all segments whose directory may hold what is looked for, and gives those that may, oldest first.
    async fn segments(&mut self, wanted: impl Fn(SegmentId, &WalFacts) -> bool) -> Result<Vec<SegmentId>> {
        let size = self.snapshot.incarnation.segment_size;
        let mut needs = BTreeSet::new();
        for timeline in self.snapshot.timelines() {
            for (first, last) in self.snapshot.present(timeline) {
                let log = |number| SegmentId::new(timeline, number).name(size).log();
                for log in log(first)..=log(last) {
                    // A whole directory is looked at by its first segment.
                    let number = size.segment_of(walden_pg::Lsn::new(u64::from(log) << 32));
                    let told = self.snapshot.logs.get(&(timeline, log));
                    let may = told.is_none_or(|told| {
                        told.incomplete || wanted(SegmentId::new(timeline, number), &told.facts)
                    });
                    if may && !self.snapshot.summarized.contains(&(timeline, log)) {
                        needs.insert(Need::Summaries { timeline, log });
                    }
                }
            }
        }
        let needs: Vec<Need> = needs.into_iter().collect();
        satisfy(self.ctx, &mut self.snapshot, &needs).await?;
        let summaries = self.snapshot.summaries.iter();
        Ok(summaries
            .filter(|(id, summary)| wanted(**id, &summary.facts) || !summary.joined)
            .map(|(id, _)| *id)
            .collect())
    }

    /// The newest of some segments, with a note when there are more.
    fn newest(&mut self, mut segments: Vec<SegmentId>, max: usize, what: &str) -> Vec<SegmentId> {
        if segments.len() > max {
            let note = format!(
                "{} segments may hold {what}; only the newest {max} were looked at: narrow it with --between",
                segments.len()
            );
            self.notes.push(note);
            segments.sort_by_key(|id| (id.number, id.timeline));
            segments = segments.split_off(segments.len() - max);
            segments.sort_unstable();
        }
        segments
    }

    async fn read_events(&mut self, query: &FindQuery) -> Result<()> {
        let segments = self.segments(|_, facts| query.may_hold_events(facts)).await?;
        let segments = self.newest(segments, INDEXES_MAX, "such events");
        self.read_indexes(segments).await
    }

    /// Reads the indexes of segments that were not read yet.
    async fn read_indexes(&mut self, segments: Vec<SegmentId>) -> Result<()> {
        let missing: Vec<SegmentId> =
            segments.into_iter().filter(|id| !self.indexes.contains_key(id)).collect();
        let (ctx, snapshot) = (self.ctx, &self.snapshot);
        let reads = stream::iter(missing)
            .map(async |id| Ok::<_, EngineError>((id, joined_index(ctx, snapshot, id).await?)));
        let read: Vec<_> = reads.buffer_unordered(READS_AT_ONCE).try_collect().await?;
        for (id, index) in read {
            match index {
                Some(index) => {
                    self.indexes.insert(id, index);
                }
                None => {
                    let name = id.name(self.snapshot.incarnation.segment_size);
                    self.notes.push(format!("segment {name} can't be read"));
                }
            }
        }
        Ok(())
    }

    /// Reads the segments that may hold commits that are looked for.
    async fn records(&mut self, query: &FindQuery) -> Result<Vec<SegmentId>> {
        let segments = self.segments(|_, facts| query.may_hold_records(facts)).await?;
        let segments = self.newest(segments, SEGMENTS_MAX, "such commits");
        self.read_records(&segments).await?;
        Ok(segments)
    }

    /// Reads the records of segments, and what of them begins in the segment before.
    async fn read_records(&mut self, segments: &[SegmentId]) -> Result<()> {
        let size = self.snapshot.incarnation.segment_size;
        let mut paths: Vec<Vec<SegmentId>> = Vec::new();
        for id in segments {
            let before = predecessor(&self.snapshot.histories, size, *id);
            match paths.last_mut() {
                Some(path) if path.last().copied() == before => path.push(*id),
                _ => {
                    let before = before.filter(|before| self.snapshot.has_segment(*before));
                    paths.push(before.into_iter().chain([*id]).collect());
                }
            }
        }
        let needs: Vec<Need> = paths.into_iter().map(|path| Need::Details { path }).collect();
        satisfy(self.ctx, &mut self.snapshot, &needs).await?;
        let damaged: Vec<String> = segments
            .iter()
            .filter_map(|id| self.snapshot.details.get(id))
            .filter_map(|detail| damage_note(detail, size))
            .collect();
        self.notes.extend(damaged);
        Ok(())
    }

    fn report(self, found: Found) -> FindReport {
        let mut notes = self.notes;
        if found.unnamed > 0 {
            notes.push(format!(
                "{} changes of relations whose names are not known were left out; without --table they are shown",
                found.unnamed
            ));
        }
        if found.incomplete > 0 {
            notes.push(format!("{} transactions changed more than the archive remembers", found.incomplete));
        }
        FindReport { events: found.events, notes }
    }
}

fn damage_note(detail: &SegmentDetail, size: walden_pg::WalSegmentSize) -> Option<String> {
    let first = detail.damage.first()?;
    let name = detail.segment.name(size);
    Some(format!("segment {name} is damaged at {}: {}", first.lsn, first.what))
}

/// The index of a segment, with the record that reaches in from the segment before.
async fn joined_index(
    ctx: &Context,
    snapshot: &CatalogSnapshot,
    id: SegmentId,
) -> Result<Option<SegmentIndex>> {
    let Some(mut index) = read_index(ctx, snapshot, id).await? else { return Ok(None) };
    if !index.summary.joined
        && let Some(before) = predecessor(&snapshot.histories, index.segment_size, id)
        && let Some(before) = read_index(ctx, snapshot, before).await?
    {
        resolve_border(&before, &mut index);
    }
    index.blocks = TouchedBlocks::default();
    Ok(Some(index))
}

/// The index of a segment as it is stored, or made anew from the segment where that can't be used.
async fn read_index(
    ctx: &Context,
    snapshot: &CatalogSnapshot,
    id: SegmentId,
) -> Result<Option<SegmentIndex>> {
    let record = &snapshot.incarnation;
    let (size, name) = (record.segment_size, id.name(record.segment_size));
    let layout = ctx.layout().incarnation(record.incarnation());
    if let Some(object_bytes) = snapshot.segment_bytes(id) {
        let key = layout.archive_file(ArchiveFileName::Segment(name));
        match ctx.store.get_index(&key, u64::from(object_bytes), None, &ctx.budget()).await {
            Ok(read) => {
                let index = read.plain.and_then(|plain| SegmentIndex::decode(&plain).ok());
                if let Some(index) = index.filter(|index| index.segment == name) {
                    return Ok(Some(index));
                }
            }
            Err(StoreError::Corrupt { .. } | StoreError::Size { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    } else if !snapshot.has_segment(id) {
        return Ok(None);
    }
    let Ok(bytes) = fetch_segment(ctx, &layout, id, size.bytes()).await? else { return Ok(None) };
    let major = record.major;
    let indexed = tokio::task::spawn_blocking(move || index_segment(name, size, major, &bytes).ok()).await;
    indexed.map_err(|error| EngineError::failed(ErrorKind::Internal, format!("a scan ended early: {error}")))
}
