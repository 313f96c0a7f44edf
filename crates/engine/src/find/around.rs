//! The commits around a moment: those on both sides of the place where a recovery to that time stops.

use jiff::Timestamp;
use walden_core::Need;
use walden_core::index::SegmentSummary;
use walden_pg::{PgTimestamp, SegmentId, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};

use super::Finder;
use crate::error::Result;

/// So many commits are wanted on each side.
const COMMITS: u64 = 10;
/// In so many bytes of segments at most on each side, but always in four segments.
const BYTES: u64 = 64 << 20;
/// So many segments without a commit are passed over on each side.
const EMPTY: u32 = 1024;

/// What is still wanted on one side of the stop.
struct Side {
    commits: u64,
    segments: u64,
    empty: u32,
}

impl Side {
    fn new(size: WalSegmentSize) -> Self {
        Self { commits: COMMITS, segments: (BYTES / size.bytes()).max(4), empty: EMPTY }
    }

    fn goes_on(&self) -> bool {
        self.commits > 0 && self.segments > 0 && self.empty > 0
    }

    /// Takes a segment, if there may be commits in it.
    fn take(&mut self, id: Option<SegmentId>, summary: Option<SegmentSummary>) -> Option<SegmentId> {
        let is_empty = summary.is_some_and(|summary| summary.joined && summary.facts.commits == 0);
        if is_empty || id.is_none() {
            self.empty -= 1;
            return None;
        }
        self.segments -= 1;
        self.commits = self.commits.saturating_sub(summary.map_or(0, |summary| summary.facts.commits));
        id
    }
}

impl Finder<'_> {
    /// Reads the segments around the place on the path to the newest timeline where a commit or an abort is first
    /// later than the moment.
    pub(super) async fn around(&mut self, moment: Timestamp) -> Result<Vec<SegmentId>> {
        let micros = moment.as_microsecond();
        let moment = PgTimestamp::from_unix_micros(micros);
        let numbers = self.numbers();
        let Some((first, last)) = numbers else { return Ok(Vec::new()) };
        let stop = self.first_later(moment, (first, last)).await?.unwrap_or(last);
        // Those of the stop's own segment may all lie on one side of it.
        let mut segments: Vec<SegmentId> = self.on_path(stop).into_iter().collect();
        let mut side = Side::new(self.snapshot.incarnation.segment_size);
        let mut number = stop.previous();
        while let Some(at) = number.filter(|at| *at >= first && side.goes_on()) {
            segments.extend(side.take(self.on_path(at), self.summary(at).await?));
            number = at.previous();
        }
        segments.reverse();
        let mut side = Side::new(self.snapshot.incarnation.segment_size);
        let mut number = stop.next();
        while number <= last && side.goes_on() {
            segments.extend(side.take(self.on_path(number), self.summary(number).await?));
            number = number.next();
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
