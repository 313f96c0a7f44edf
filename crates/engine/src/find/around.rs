//! The commits around a moment: those on both sides of the place where a recovery to that time stops.

use jiff::Timestamp;
use walden_core::Need;
use walden_core::index::SegmentSummary;
use walden_pg::{PgTimestamp, SegmentId, SegmentNumber, TimelineHistory, TimelineId};

use super::Finder;
use crate::error::Result;

/// So many commits are wanted on each side.
const COMMITS: u64 = 10;
/// In so many segments at most on each side.
const SEGMENTS: usize = 4;

impl Finder<'_> {
    /// Reads the segments around the place on the path to the newest timeline where a commit or an abort is first
    /// later than the moment.
    pub(super) async fn around(&mut self, moment: Timestamp) -> Result<Vec<SegmentId>> {
        let micros = moment.as_microsecond();
        let moment = PgTimestamp::from_unix_micros(micros);
        let numbers = self.numbers();
        let Some((first, last)) = numbers else { return Ok(Vec::new()) };
        let stop = self.first_later(moment, (first, last)).await?.unwrap_or(last);
        let mut segments = Vec::new();
        let mut commits = 0;
        let mut number = Some(stop);
        while let Some(at) = number.filter(|at| *at >= first)
            && segments.len() < SEGMENTS
            && (commits < COMMITS || at == stop)
        {
            // Those of the stop's own segment may all lie behind it.
            let own = self.summary(at).await?.map_or(0, |summary| summary.facts.commits);
            commits += if at == stop { 0 } else { own };
            segments.extend(self.on_path(at));
            number = at.previous();
        }
        segments.reverse();
        let (mut at, mut commits, mut behind) = (stop.next(), 0, 0);
        while at <= last && commits < COMMITS && behind < SEGMENTS {
            commits += self.summary(at).await?.map_or(0, |summary| summary.facts.commits);
            segments.extend(self.on_path(at));
            (at, behind) = (at.next(), behind + 1);
        }
        self.read_records(&segments).await?;
        Ok(segments)
    }

    /// The first and the last segment of the path to the newest timeline.
    fn numbers(&self) -> Option<(SegmentNumber, SegmentNumber)> {
        let newest = self.snapshot.newest_timeline()?;
        let alone = TimelineHistory::without_parents(newest);
        let history = self.snapshot.histories.get(&newest).unwrap_or(&alone);
        let present = history.path().flat_map(|timeline| self.snapshot.present(timeline));
        present.reduce(|all, range| (all.0.min(range.0), all.1.max(range.1)))
    }

    /// The segment of a number on the path to the newest timeline, when it is in the archive.
    fn on_path(&self, number: SegmentNumber) -> Option<SegmentId> {
        let newest = self.snapshot.newest_timeline()?;
        let size = self.snapshot.incarnation.segment_size;
        let timeline = match self.snapshot.histories.get(&newest) {
            Some(history) => history.ranges().find(|range| size.segment_of(range.begin) <= number)?.timeline,
            None => newest,
        };
        Some(SegmentId::new(timeline, number)).filter(|id| self.snapshot.has_segment(*id))
    }

    async fn summary(&mut self, number: SegmentNumber) -> Result<Option<SegmentSummary>> {
        let Some(id) = self.on_path(number) else { return Ok(None) };
        self.summarize(id).await?;
        Ok(self.snapshot.summaries.get(&id).copied())
    }

    async fn summarize(&mut self, id: SegmentId) -> Result<()> {
        let place = self.directory_of(id);
        if !self.snapshot.summarized.contains(&place) {
            let (timeline, log) = place;
            super::satisfy(self.ctx, &mut self.snapshot, &[Need::Summaries { timeline, log }]).await?;
        }
        Ok(())
    }

    fn directory_of(&self, id: SegmentId) -> (TimelineId, u32) {
        (id.timeline, id.name(self.snapshot.incarnation.segment_size).log())
    }

    /// The first segment with an end of a transaction later than the moment.
    async fn first_later(
        &mut self,
        moment: PgTimestamp,
        (first, last): (SegmentNumber, SegmentNumber),
    ) -> Result<Option<SegmentNumber>> {
        let size = self.snapshot.incarnation.segment_size;
        let per_log = size.segments_per_log();
        let mut number = first;
        while number <= last {
            let end = SegmentNumber::new((number.get() / per_log).saturating_add(1).saturating_mul(per_log));
            let Some(id) = self.on_path(number) else {
                number = number.next();
                continue;
            };
            let told = self.snapshot.logs.get(&self.directory_of(id));
            let is_over = told.is_some_and(|told| {
                !told.incomplete && told.facts.end_times.is_none_or(|times| times.max <= moment)
            });
            // All of a directory is of one timeline, but for those in which a timeline ends.
            let whole = SegmentNumber::new(end.get().saturating_sub(1));
            if is_over && self.on_path(whole.min(last)).is_some_and(|last| last.timeline == id.timeline) {
                number = end;
                continue;
            }
            self.summarize(id).await?;
            let summary = self.snapshot.summaries.get(&id);
            if summary.and_then(|summary| summary.facts.end_times).is_some_and(|times| times.max > moment) {
                return Ok(Some(number));
            }
            number = number.next();
        }
        Ok(None)
    }
}
