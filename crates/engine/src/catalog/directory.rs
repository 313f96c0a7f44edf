//! One LOG directory of segments, as a listing shows it.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use walden_core::index::LogSummary;
use walden_core::{ArchiveObject, CatalogSnapshot, IncarnationLayout, Listed, Stray};
use walden_pg::{ArchiveFileName, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

use super::foreign;
use crate::context::Context;
use crate::error::Result;

/// The objects of one LOG directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) timeline: TimelineId,
    pub(crate) log: u32,
    /// The segments with the bytes of their objects.
    pub(crate) segments: BTreeMap<SegmentNumber, u64>,
    /// Whether it has a rollup.
    pub(crate) has_rollup: bool,
    partials: Vec<SegmentName>,
    strays: Vec<Stray>,
}

impl Directory {
    pub(crate) fn new(timeline: TimelineId, log: u32) -> Self {
        Self {
            timeline,
            log,
            segments: BTreeMap::new(),
            has_rollup: false,
            partials: Vec::new(),
            strays: Vec::new(),
        }
    }

    /// Lists a directory: one request, or two with many other files in it.
    pub(crate) async fn list(
        ctx: &Context,
        layout: &IncarnationLayout,
        size: WalSegmentSize,
        (timeline, log): (TimelineId, u32),
    ) -> Result<Self> {
        let mut directory = Self::new(timeline, log);
        let listing = ctx.store.list(&layout.log_prefix(timeline, log), &ctx.listing_budget());
        let mut listing = std::pin::pin!(listing);
        while let Some(object) = listing.try_next().await? {
            directory.add(layout, size, object);
        }
        Ok(directory)
    }

    /// Lists consecutive directories in one listing: those that have objects, and what lies beside them.
    pub(crate) async fn list_range(
        ctx: &Context,
        layout: &IncarnationLayout,
        size: WalSegmentSize,
        timeline: TimelineId,
        (first, last): (u32, u32),
    ) -> Result<(BTreeMap<u32, Self>, Vec<Stray>)> {
        let (mut directories, mut strays) = (BTreeMap::new(), Vec::new());
        if first == last {
            directories.insert(first, Self::list(ctx, layout, size, (timeline, first)).await?);
            return Ok((directories, strays));
        }
        let (prefix, after) = (layout.timeline_prefix(timeline), layout.log_prefix(timeline, first));
        let listing = ctx.store.list_after(&prefix, after.trim_end_matches('/'), &ctx.listing_budget());
        let mut listing = std::pin::pin!(listing);
        while let Some(object) = listing.try_next().await? {
            let directory = object.key.rsplit_once('/').map(|(directory, _)| directory);
            let Some(log) = directory.and_then(|directory| layout.parse_log_prefix(timeline, directory))
            else {
                strays.push(foreign(object.key));
                continue;
            };
            if log > last {
                break;
            }
            directories.entry(log).or_insert_with(|| Self::new(timeline, log)).add(layout, size, object);
        }
        Ok((directories, strays))
    }

    fn add(&mut self, layout: &IncarnationLayout, size: WalSegmentSize, object: walden_store::Listed) {
        match layout.parse(&object.key) {
            Some(ArchiveObject::File(ArchiveFileName::Segment(name))) => match name.id(size) {
                Ok(id) => {
                    self.segments.insert(id.number, object.bytes);
                }
                Err(error) => self.strays.push(Stray { key: object.key, reason: error.to_string() }),
            },
            Some(ArchiveObject::File(ArchiveFileName::Partial(name))) => self.partials.push(name),
            Some(ArchiveObject::Rollup { .. }) => self.has_rollup = true,
            Some(ArchiveObject::File(_)) => {}
            _ => {
                self.strays.push(foreign(object.key));
            }
        }
    }

    /// Whether a rollup tells of the segments that are here, and of all their bytes.
    fn agrees_with(&self, told: &LogSummary) -> bool {
        let numbers = told.present.iter().flat_map(|range| range.first.get()..=range.last().get());
        let bytes = self.segments.values().map(|bytes| (*bytes).min(u64::from(u32::MAX))).sum::<u64>();
        numbers.eq(self.segments.keys().map(|number| number.get())) && told.object_bytes == bytes
    }

    /// Tells the snapshot what was listed.
    pub(crate) fn add_to(&self, snapshot: &mut CatalogSnapshot) {
        let size = snapshot.incarnation.segment_size;
        for (number, bytes) in &self.segments {
            snapshot.add_segment(walden_pg::SegmentId::new(self.timeline, *number).name(size), *bytes);
        }
        if let Some(told) = snapshot.logs.get_mut(&(self.timeline, self.log)) {
            // What a rollup says counts while it agrees with the objects; else each segment is asked.
            told.incomplete |= !self.agrees_with(told);
        }
        let is_new = match &mut snapshot.listed {
            Listed::All => false,
            Listed::Some(listed) => listed.insert((self.timeline, self.log)),
        };
        if is_new {
            snapshot.partials.extend(&self.partials);
            snapshot.partials.sort_unstable();
            snapshot.strays.extend(self.strays.iter().cloned());
            snapshot.strays.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }
}
