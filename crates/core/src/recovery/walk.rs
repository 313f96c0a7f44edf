//! The WAL that recovery would read, from a backup's start along a path of timelines: as far as it goes, and what
//! is in it. Directories whose facts rule them out are passed over whole; only where an answer hangs on a record
//! are the records asked for.

use std::collections::BTreeSet;

use walden_pg::{Lsn, ParameterMaxima, SegmentId, SegmentName, SegmentNumber, TimelineId, WalLevel};

use super::answer::Need;
use super::detail::{RecordSpan, SegmentDetail, SegmentEnd, TransactionEndMark};
use super::path::TimelinePath;
use crate::index::{CommitMark, LogSummary, SegmentSummary, WalFacts, WalFlags, larger};
use crate::snapshot::CatalogSnapshot;

/// So many directories behind a stop are looked into segment by segment.
const OPENED_BEHIND_MAX: usize = 16;

/// Something must be known first.
pub(super) type Sought<T> = Result<T, Need>;

/// Why recovery can't read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wall {
    /// The archive ends: nothing of the path is there behind it.
    EndOfArchive,
    /// A segment is missing although later ones of the path are there.
    Missing(SegmentNumber),
    /// The WAL in a segment ends early although later ones of the path are there.
    EndsEarly(Lsn),
    /// A record or page is damaged.
    Damaged(Lsn, String),
    /// `wal_level = minimal` came into force.
    Minimal(Lsn),
}

/// A record that recovery stops at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    /// The record.
    pub(super) span: RecordSpan,
    /// Whether it is left out.
    pub(super) before: bool,
    /// The segment in which it ends.
    pub(super) number: SegmentNumber,
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The record.
    Hit(Hit),
    /// The WAL ended before.
    Wall(Wall),
    /// The WAL leads to the segment where the search was to end.
    Led,
}

/// The WAL from a position on along a path.
pub(super) struct Walk<'a> {
    snapshot: &'a CatalogSnapshot,
    path: &'a TimelinePath,
    /// Recovery reads from here; earlier records are none of its business.
    pub(super) start: Lsn,
    first: SegmentNumber,
    /// The last segment of the path that is there, gaps or not.
    last: Option<SegmentNumber>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(snapshot: &'a CatalogSnapshot, path: &'a TimelinePath, start: Lsn) -> Self {
        let size = snapshot.incarnation.segment_size;
        let first = size.segment_of(start);
        let on_step = path.steps().iter().filter_map(|step| {
            // A parent's segments from the fork on are of another branch.
            let end = step.end_lsn.map(|end| size.segment_of(end));
            let last = snapshot.last_known_segment(step.timeline)?;
            Some(end.map_or(last, |end| last.min(end)))
        });
        // A timeline begins in the segment of its fork, even if nothing of it has arrived yet.
        let forks = path.steps().iter().filter(|step| step.start_lsn > Lsn::INVALID);
        let forks = forks.map(|step| size.segment_of(step.start_lsn));
        Self { snapshot, path, start, first, last: on_step.chain(forks).max() }
    }

    fn id(&self, number: SegmentNumber) -> Option<SegmentId> {
        self.path.segment(number, self.snapshot.incarnation.segment_size)
    }

    fn log_of(&self, id: SegmentId) -> u32 {
        id.name(self.snapshot.incarnation.segment_size).log()
    }

    /// The first and the last segment of the directory that a segment is in.
    fn directory_of(&self, number: SegmentNumber) -> (SegmentNumber, SegmentNumber) {
        let each = self.snapshot.incarnation.segment_size.segments_per_log();
        let first = number.get() - number.get() % each;
        (SegmentNumber::new(first), SegmentNumber::new(first + (each - 1)))
    }

    /// A directory that can be taken as a whole: none of its segments is another's matter.
    fn whole_log(&self, number: SegmentNumber) -> Option<(&'a LogSummary, SegmentNumber, SegmentNumber)> {
        let (log, first, last) = self.full_log(number)?;
        let id = self.id(first)?;
        (first > self.first && id.timeline == self.id(last)?.timeline).then_some((log, first, last))
    }

    /// The directory of a segment, if all its segments are there and a rollup tells what they hold. Recovery may
    /// begin inside: what is not in the whole of it is not in the rest either.
    fn full_log(&self, number: SegmentNumber) -> Option<(&'a LogSummary, SegmentNumber, SegmentNumber)> {
        let (first, last) = self.directory_of(number);
        let id = self.id(number)?;
        if self.id(last)? != SegmentId::new(id.timeline, last) {
            return None;
        }
        let log = self.snapshot.logs.get(&(id.timeline, self.log_of(id)))?;
        let [present] = log.present.as_slice() else { return None };
        let full = present.first == first && u64::from(present.count) == last.get() - first.get() + 1;
        let listed_full = || {
            !self.snapshot.is_listed(id.timeline, log.log)
                || self.snapshot.holds_all(id.timeline, first, last)
        };
        (full && !log.incomplete && listed_full()).then_some((log, first, last))
    }

    /// The directory that can be passed over from a segment on, if nothing in it is sought, and its last segment.
    fn log_to_pass(&self, number: SegmentNumber) -> Option<(&'a LogSummary, SegmentNumber)> {
        let (log, first, last) = self.full_log(number)?;
        (first == number || number == self.first).then_some((log, last))
    }

    /// The directory that begins with a segment, if it can be taken as a whole, and its last segment.
    fn log_from(&self, number: SegmentNumber) -> Option<(&'a LogSummary, SegmentNumber)> {
        let (log, first, last) = self.whole_log(number)?;
        (first == number).then_some((log, last))
    }

    /// The summary of a segment; `None` when it was archived without one.
    fn summary(&self, id: SegmentId) -> Sought<Option<&'a SegmentSummary>> {
        let log = self.log_of(id);
        if let Some(summary) = self.snapshot.summaries.get(&id) {
            return Ok(Some(summary));
        }
        if self.snapshot.summarized.contains(&(id.timeline, log)) {
            return Ok(None);
        }
        Err(Need::Summaries { timeline: id.timeline, log })
    }

    /// The records of a segment, the one included that reaches in from before, wherever on the path it began.
    pub(super) fn detail(&self, number: SegmentNumber) -> Sought<&'a SegmentDetail> {
        let from = self.begin_of_reach(number)?;
        let known = self.id(number).and_then(|id| self.snapshot.details.get(&id));
        if let Some(detail) = known.filter(|detail| detail.joined || detail.read_from <= from) {
            return Ok(detail);
        }
        let path = (from.get()..=number.get()).map(SegmentNumber::new);
        Err(Need::Details { path: path.filter_map(|number| self.id(number)).collect() })
    }

    /// The segment in which the record begins that reaches into a segment; itself when none does, or when what
    /// lies before is none of the recovery's business. Of a segment that nobody has joined to the one before, at
    /// least that one: its last record is what the first one here must link to.
    fn begin_of_reach(&self, number: SegmentNumber) -> Sought<SegmentNumber> {
        let size = self.snapshot.incarnation.segment_size;
        let mut from = number;
        let is_joined = match self.id(number) {
            Some(id) => self.summary(id)?.is_some_and(|summary| summary.joined),
            None => true,
        };
        while let Some(previous) = from.previous().filter(|previous| *previous >= self.first) {
            let Some(id) = self.id(previous).filter(|id| self.snapshot.has_segment(*id)) else { break };
            let straddler = match self.summary(id)? {
                Some(SegmentSummary { straddler: Some(straddler), .. }) => *straddler,
                Some(summary) if summary.joined || summary.wal_end > size.start_of(previous) => {
                    if from == number && !is_joined {
                        from = previous;
                    }
                    break;
                }
                // Nothing is known of it, or only that a record reaches in: it may reach through.
                Some(_) | None => {
                    from = previous;
                    continue;
                }
            };
            from = previous;
            if straddler.lsn >= size.start_of(previous) {
                break;
            }
        }
        Ok(from)
    }

    /// Whether the WAL may break at a segment's beginning, or a record reaches in from before that nobody has seen
    /// whole: the facts may lack it, and whatever it is, it may be damaged. Or a record inside was not understood.
    fn is_blind(&self, id: SegmentId, summary: &SegmentSummary) -> bool {
        let previous = id.number.previous().filter(|previous| *previous >= self.first);
        let previous = previous.and_then(|previous| self.id(previous));
        let unjoined =
            !summary.joined && previous.is_some_and(|previous| self.snapshot.has_segment(previous));
        unjoined || summary.facts.flags.any(WalFlags::NOT_UNDERSTOOD)
    }

    /// Looks for the first record, by position, that `look` finds; only where `may` says that the facts allow it.
    /// Nothing is looked for before the segment `from`, but the WAL must lead there.
    pub(super) fn search(
        &self,
        from: SegmentNumber,
        may: &dyn Fn(&WalFacts) -> bool,
        look: &dyn Fn(&SegmentDetail) -> Option<(RecordSpan, bool)>,
    ) -> Sought<Found> {
        self.search_until(from, None, may, look)
    }

    /// Follows the WAL to where it ends, or to the segment `until`.
    pub(super) fn follow(&self, until: Option<SegmentNumber>) -> Sought<Found> {
        self.search_until(self.first, until, &|_| false, &|_| None)
    }

    fn search_until(
        &self,
        from: SegmentNumber,
        until: Option<SegmentNumber>,
        may: &dyn Fn(&WalFacts) -> bool,
        look: &dyn Fn(&SegmentDetail) -> Option<(RecordSpan, bool)>,
    ) -> Sought<Found> {
        let walls = WalFlags::DAMAGED.with(WalFlags::ENDS_EARLY).with(WalFlags::WAL_LEVEL_MINIMAL);
        let may = |facts: &WalFacts, last: SegmentNumber| last >= from && may(facts);
        let mut number = self.first;
        loop {
            if until.is_some_and(|until| number >= until) {
                return Ok(Found::Led);
            }
            if let Some((log, last)) = self.log_to_pass(number)
                && !may(&log.facts, last)
                && !log.facts.flags.any(walls)
            {
                number = last.next();
                continue;
            }
            let Some(id) = self.id(number).filter(|id| self.snapshot.has_segment(*id)) else {
                return Ok(Found::Wall(self.absent(number)));
            };
            let summary = self.summary(id)?;
            let open = match summary {
                None => true,
                Some(summary) => {
                    may(&summary.facts, number)
                        || summary.facts.flags.any(walls)
                        || self.is_blind(id, summary)
                }
            };
            if open {
                let detail = self.detail(number)?;
                let hit = look(detail).map(|(span, before)| Hit { span, before, number });
                let wall = self.wall_in(detail);
                match (hit, wall) {
                    (Some(hit), Some((at, _))) if hit.span.start < at => return Ok(Found::Hit(hit)),
                    (Some(hit), None) => return Ok(Found::Hit(hit)),
                    (_, Some((_, wall))) => return Ok(Found::Wall(wall)),
                    (None, None) => {}
                }
            }
            number = number.next();
        }
    }

    fn absent(&self, number: SegmentNumber) -> Wall {
        match self.last {
            Some(last) if last >= number => Wall::Missing(number),
            _ => Wall::EndOfArchive,
        }
    }

    /// Records of a segment from here on can't be read: [`Lsn::MAX`] where all can.
    pub(super) fn readable_below(&self, detail: &SegmentDetail) -> Lsn {
        self.wall_in(detail).map_or(Lsn::MAX, |(at, _)| at)
    }

    /// Whether the WAL ends inside a segment: with true where that is the end of the archive.
    pub(super) fn ends_in(&self, detail: &SegmentDetail) -> Option<bool> {
        self.wall_in(detail).map(|(_, wall)| wall == Wall::EndOfArchive)
    }

    /// Where recovery can't go on inside a segment. `wal_level = minimal` ends it from 14 on; 13 goes on with a
    /// warning, but with `hot_standby = on`, as it is unless switched off, ends as well (`CheckRequiredParameterValues`
    /// in `src/backend/access/transam/xlog.c`). What it would go on without is missing after recovery.
    fn wall_in(&self, detail: &SegmentDetail) -> Option<(Lsn, Wall)> {
        let minimal = detail.parameters.iter().find(|change| {
            change.maxima.is_some()
                && change.wal_level == WalLevel::Minimal
                && change.span.start >= self.start
        });
        let minimal = minimal.map(|change| (change.span.start, Wall::Minimal(change.span.start)));
        match (minimal, self.damage_in(detail)) {
            (Some(minimal), Some(damage)) if damage.0 < minimal.0 => Some(damage),
            (minimal, damage) => minimal.or(damage),
        }
    }

    fn damage_in(&self, detail: &SegmentDetail) -> Option<(Lsn, Wall)> {
        if let Some(damage) = detail.damage.iter().find(|damage| damage.lsn >= self.start) {
            return Some((damage.lsn, Wall::Damaged(damage.lsn, damage.what.clone())));
        }
        // Not all places are told one by one; the others are behind the last that is.
        if let Some(last) = detail.damage.last()
            && detail.damage_count > detail.damage.len() as u64
        {
            let (at, what) = (last.lsn.max(self.start), "there is more damage than is told".to_owned());
            return Some((at, Wall::Damaged(at, what)));
        }
        // Right behind damage records are missing: is the one among them that recovery begins with?
        if detail.segment.number == self.first
            && !detail.damage.is_empty()
            && detail.records.binary_search_by_key(&self.start, |record| record.start).is_err()
        {
            return Some((self.start, Wall::Damaged(self.start, "no record begins there".to_owned())));
        }
        match &detail.end {
            SegmentEnd::GoesOn | SegmentEnd::Switched => None,
            SegmentEnd::Damaged { lsn, what } => Some((*lsn, Wall::Damaged(*lsn, what.clone()))),
            SegmentEnd::Ends(lsn) if self.last.is_none_or(|last| last <= detail.segment.number) => {
                Some((*lsn, Wall::EndOfArchive))
            }
            SegmentEnd::Ends(lsn) => Some((*lsn, Wall::EndsEarly(*lsn))),
        }
    }

    /// The end of the last record before a position in (or at the start of) a segment.
    pub(super) fn end_before(&self, number: SegmentNumber, start: Lsn) -> Sought<Lsn> {
        let mut number = number;
        loop {
            if start == Lsn::MAX
                && let Some(end) = self.whole_end(number)?
            {
                return Ok(end.max(self.start));
            }
            let detail = self.detail(number)?;
            let before = detail.records.partition_point(|record| record.start < start);
            if let Some(record) = before.checked_sub(1).and_then(|at| detail.records.get(at)) {
                return Ok(record.end.max(self.start));
            }
            match number.previous().filter(|previous| *previous >= self.first) {
                Some(previous) => number = previous,
                None => return Ok(self.start),
            }
        }
    }

    /// The end of the last record in a segment, where its summary tells.
    fn whole_end(&self, number: SegmentNumber) -> Sought<Option<Lsn>> {
        let Some(id) = self.id(number).filter(|id| self.snapshot.has_segment(*id)) else { return Ok(None) };
        let Some(summary) = self.summary(id)? else { return Ok(None) };
        let some = summary.wal_end > self.snapshot.incarnation.segment_size.start_of(number);
        Ok((some && !self.is_blind(id, summary)).then_some(summary.wal_end))
    }

    /// The end of the last record that recovery reads before a wall, and the segment it ends in.
    ///
    /// The third is a position that no record behind the end begins before: [`Lsn::MAX`] where the last segment
    /// counts whole.
    pub(super) fn end_at(&self, wall: &Wall) -> Sought<(Lsn, SegmentNumber, Lsn)> {
        let size = self.snapshot.incarnation.segment_size;
        if self.id(self.first).is_none_or(|id| !self.snapshot.has_segment(id)) {
            return Ok((self.start, self.first, self.start));
        }
        let (last, limit) = match wall {
            Wall::EndOfArchive => (self.last.unwrap_or(self.first), Lsn::MAX),
            Wall::Missing(number) => (number.previous().unwrap_or(*number), Lsn::MAX),
            Wall::EndsEarly(lsn) | Wall::Damaged(lsn, _) | Wall::Minimal(lsn) => {
                (size.segment_of(*lsn), *lsn)
            }
        };
        let last = last.max(self.first);
        Ok((self.end_before(last, limit)?, last, limit))
    }

    /// The last commit before a position, no earlier than where recovery starts.
    pub(super) fn last_commit(&self, number: SegmentNumber, below: Lsn) -> Sought<Option<CommitMark>> {
        if below <= self.start {
            return Ok(None);
        }
        let mut number = number;
        if below < Lsn::MAX {
            let at = self.detail(number)?;
            let kept = at.ends.iter().rev().filter(|end| end.commit && end.span.start < below);
            if let Some(end) = kept.map(TransactionEndMark::mark).next() {
                return Ok((end.lsn >= self.start).then_some(end));
            }
        } else {
            number = number.next();
        }
        while let Some(previous) = number.previous().filter(|previous| *previous >= self.first) {
            number = previous;
            if let Some((log, first, last)) = self.whole_log(number)
                && last == number
                && log.facts.commits == 0
            {
                number = first;
                continue;
            }
            let Some(id) = self.id(number).filter(|id| self.snapshot.has_segment(*id)) else {
                return Ok(None);
            };
            let mark = match self.summary(id)? {
                Some(summary) if !self.is_blind(id, summary) => summary.facts.last_commit,
                _ => self
                    .detail(number)?
                    .ends
                    .iter()
                    .rev()
                    .find(|end| end.commit)
                    .map(TransactionEndMark::mark),
            };
            if let Some(mark) = mark {
                return Ok((mark.lsn >= self.start).then_some(mark));
            }
        }
        Ok(None)
    }

    /// Visits the WAL behind a segment, as coarsely as `visit` allows: it says whether facts can be passed over.
    /// Ends at the first wall: with false unless it is the end of the archive. With false also after so many
    /// directories that had to be looked into: what lies behind a stop is good to know, and never worth reading an
    /// archive for.
    pub(super) fn onward(
        &self,
        from: SegmentNumber,
        visit: &mut dyn FnMut(Onward<'_>) -> Sought<Visit>,
    ) -> Sought<bool> {
        let walls = WalFlags::DAMAGED.with(WalFlags::ENDS_EARLY).with(WalFlags::WAL_LEVEL_MINIMAL);
        let mut number = from.next();
        let mut opened = BTreeSet::new();
        loop {
            if let Some((log, last)) = self.log_from(number)
                && !log.facts.flags.any(walls)
            {
                match visit(Onward::Log(&log.facts))? {
                    Visit::Pass => {
                        number = last.next();
                        continue;
                    }
                    Visit::Open => {}
                    Visit::Stop => return Ok(true),
                }
            }
            let Some(id) = self.id(number).filter(|id| self.snapshot.has_segment(*id)) else {
                return Ok(self.absent(number) == Wall::EndOfArchive);
            };
            opened.insert((id.timeline, self.log_of(id)));
            if opened.len() > OPENED_BEHIND_MAX {
                return Ok(false);
            }
            let summary = match self.summary(id)? {
                Some(summary) if !summary.facts.flags.any(walls) && !self.is_blind(id, summary) => {
                    Some(summary)
                }
                _ => None,
            };
            if visit(Onward::Segment(number, summary))? == Visit::Stop {
                return Ok(true);
            }
            if summary.is_none()
                && let Some((_, wall)) = self.wall_in(self.detail(number)?)
            {
                return Ok(wall == Wall::EndOfArchive);
            }
            number = number.next();
        }
    }

    /// The settings that recovery needs up to and with a segment: the largest of those given and all changes.
    pub(super) fn required(
        &self,
        at_least: ParameterMaxima,
        hit: SegmentNumber,
        replayed_to: Lsn,
    ) -> Sought<ParameterMaxima> {
        let mut required = at_least;
        let mut number = self.first;
        while number <= hit {
            if let Some((log, last)) = self.log_to_pass(number)
                && last < hit
            {
                required = log.facts.maxima.map_or(required, |maxima| larger(required, maxima));
                number = last.next();
                continue;
            }
            let Some(id) = self.id(number).filter(|id| self.snapshot.has_segment(*id)) else { break };
            let summary = self.summary(id)?;
            if number == hit || summary.is_none() {
                let changes = self.detail(number)?.parameters.iter();
                let seen = |span: &RecordSpan| span.start >= self.start && span.end <= replayed_to;
                let maxima = changes.filter(|change| seen(&change.span)).filter_map(|change| change.maxima);
                required = maxima.fold(required, larger);
            } else if let Some(maxima) = summary.and_then(|summary| summary.facts.maxima) {
                required = larger(required, maxima);
            }
            number = number.next();
        }
        Ok(required)
    }

    /// Checks that every directory up to a segment was listed, object by object.
    pub(super) fn listed_up_to(&self, hit: SegmentNumber) -> Sought<()> {
        self.listed_between(self.first, hit)
    }

    /// Checks that every directory from a segment on, but none before the first, up to another was listed.
    pub(super) fn listed_between(&self, from: SegmentNumber, hit: SegmentNumber) -> Sought<()> {
        let mut wanted: Option<(TimelineId, u32, u32)> = None;
        let mut number = from.max(self.first);
        while number <= hit {
            let Some(id) = self.id(number) else { break };
            let log = self.log_of(id);
            if !self.snapshot.is_listed(id.timeline, log) {
                match &mut wanted {
                    None => wanted = Some((id.timeline, log, log)),
                    Some((timeline, _, last)) if *timeline == id.timeline => *last = log,
                    Some(_) => break,
                }
            }
            // A path changes its timeline inside of a directory, too.
            let (_, last) = self.directory_of(number);
            let same = self.id(last).is_some_and(|end| end.timeline == id.timeline);
            number = if same { last.next() } else { number.next() };
        }
        match wanted {
            None => Ok(()),
            Some((timeline, first_log, last_log)) => Err(Need::Listing { timeline, first_log, last_log }),
        }
    }

    /// The segments from the start up to and with one, and those of them that are missing.
    pub(super) fn needs(&self, hit: SegmentNumber) -> super::answer::SegmentNeeds {
        let size = self.snapshot.incarnation.segment_size;
        let mut needs = super::answer::SegmentNeeds::default();
        for number in (self.first.get()..=hit.get()).map(SegmentNumber::new) {
            let Some(id) = self.id(number) else { continue };
            let name: SegmentName = id.name(size);
            match self.snapshot.segment_bytes(id) {
                Some(bytes) => needs.bytes += u64::from(bytes),
                None => needs.add_missing(name),
            }
            needs.count += 1;
            needs.first.get_or_insert(name);
            needs.last = Some(name);
        }
        needs
    }

    /// The first segment.
    pub(super) fn first(&self) -> SegmentNumber {
        self.first
    }

    /// How many segments are missing from one on, until the path goes on.
    pub(super) fn missing_run(&self, from: SegmentNumber) -> u64 {
        let size = self.snapshot.incarnation.segment_size;
        let there = self.path.steps().iter().flat_map(|step| {
            let begin = size.segment_of(step.start_lsn).max(from);
            let ranges = self.snapshot.present(step.timeline).into_iter();
            let on_path = move |number: &SegmentNumber| self.timeline(*number) == Some(step.timeline);
            ranges
                .filter(move |(_, last)| *last >= begin)
                .map(move |(first, _)| first.max(begin))
                .filter(on_path)
        });
        let goes_on = there.min().or(self.last.map(SegmentNumber::next)).unwrap_or(from);
        goes_on.get().saturating_sub(from.get()).max(1)
    }

    /// The timeline of the last byte before a position.
    pub(super) fn timeline_before(&self, lsn: Lsn) -> Option<TimelineId> {
        self.path.timeline_at(lsn.checked_sub(1).unwrap_or(lsn))
    }

    /// The name of a segment of the path.
    pub(super) fn name(&self, number: SegmentNumber) -> Option<SegmentName> {
        self.id(number).map(|id| id.name(self.snapshot.incarnation.segment_size))
    }

    /// The timeline of the path at a segment.
    pub(super) fn timeline(&self, number: SegmentNumber) -> Option<TimelineId> {
        self.id(number).map(|id| id.timeline)
    }
}

/// A piece of the WAL behind a segment.
pub(super) enum Onward<'a> {
    /// The facts of a whole directory.
    Log(&'a WalFacts),
    /// A segment, and its summary if it tells everything.
    Segment(SegmentNumber, Option<&'a SegmentSummary>),
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// Nothing more is wanted of it.
    Pass,
    /// Its segments are wanted one by one.
    Open,
    /// Nothing behind it is wanted either.
    Stop,
}
