//! Where PostgreSQL stops: its rules, applied to the records of the archive.
//!
//! PostgreSQL source: `recoveryStopsBefore` and `recoveryStopsAfter` in
//! `src/backend/access/transam/xlogrecovery.c` (13 and 14: `xlog.c`). Every record from the redo position on is
//! looked at, also before the backup is consistent.

use jiff::Timestamp;
use walden_pg::{Lsn, PgTimestamp, SegmentNumber, Xid};

use super::answer::{Commit, Moment, Stop, StopKind};
use super::detail::{RecordSpan, SegmentDetail};
use super::request::{RecoveryRequest, RecoveryTarget};
use super::walk::{Found, Onward, Sought, Visit, Walk, Wall};
use crate::index::{CommitMark, WalFacts, WalFlags};
use crate::records::{BackupRecord, BackupSource};

/// Most commits that are listed as left out by order.
const LEFT_OUT_LISTED_MAX: usize = 100;
/// Of so many segments behind the stop the records are read for that list; of others the summaries must do.
const LEFT_OUT_SEGMENTS_READ_MAX: u32 = 8;
/// In so many segments restore points of the same name are looked for.
const SAME_NAME_SEGMENTS_MAX: u32 = 16;

/// A stop that was found, and how far the WAL must be there for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StopFound {
    pub(super) stop: Stop,
    /// The last segment that recovery reads.
    pub(super) last_segment: SegmentNumber,
}

/// Where recovery with this backup and this path stops, or which wall it meets before the target.
pub(super) fn find_stop(
    walk: &Walk<'_>,
    backup: &BackupRecord,
    request: &RecoveryRequest,
) -> Sought<Result<StopFound, Wall>> {
    let target = Target::of(request, backup, walk);
    let found =
        walk.search(target.from, &|facts| target.may_be_in(facts), &|detail| target.look(detail, walk.start));
    match found? {
        Found::Hit(hit) => {
            let replayed_to =
                if hit.before { walk.end_before(hit.number, hit.span.start)? } else { hit.span.end };
            let below = if hit.before { hit.span.start } else { Lsn::new(hit.span.start.get() + 1) };
            let (first_left_out, commits_left_out, commits_left_out_exact) =
                commits_from(walk, hit.number, below)?;
            let stop = Stop {
                lsn: hit.span.start,
                replayed_to,
                timeline: walk.timeline_before(replayed_to).unwrap_or(backup.timeline),
                kind: target.kind(hit.before),
                last_kept: walk.last_commit(hit.number, below)?.map(commit),
                first_left_out: first_left_out.map(commit),
                commits_left_out,
                commits_left_out_exact,
            };
            Ok(Ok(StopFound { stop, last_segment: hit.number }))
        }
        Found::Wall(Wall::EndOfArchive) if matches!(request.target, RecoveryTarget::Latest) => {
            let (end, number, limit) = walk.end_at(&Wall::EndOfArchive)?;
            let stop = Stop {
                lsn: end,
                replayed_to: end,
                timeline: walk.timeline_before(end).unwrap_or(backup.timeline),
                kind: StopKind::EndOfWal,
                last_kept: walk.last_commit(number, limit)?.map(commit),
                first_left_out: None,
                commits_left_out: 0,
                commits_left_out_exact: true,
            };
            Ok(Ok(StopFound { stop, last_segment: number }))
        }
        Found::Wall(wall) => Ok(Err(wall)),
        // Nothing bounds this search but the WAL itself.
        Found::Led => Ok(Err(Wall::EndOfArchive)),
    }
}

/// A target in the terms of records.
struct Target<'a> {
    request: &'a RecoveryRequest,
    backup: &'a BackupRecord,
    time: PgTimestamp,
    /// It can't lie before this segment.
    from: SegmentNumber,
}

impl<'a> Target<'a> {
    fn of(request: &'a RecoveryRequest, backup: &'a BackupRecord, walk: &Walk<'_>) -> Self {
        let size = backup.segment_size;
        let from = match &request.target {
            RecoveryTarget::Lsn(lsn) => size.segment_of(*lsn),
            RecoveryTarget::Immediate => size.last_segment_before(backup.stop_lsn),
            RecoveryTarget::Latest
            | RecoveryTarget::Time(_)
            | RecoveryTarget::Xid(_)
            | RecoveryTarget::Name(_) => walk.first(),
        };
        let time = match &request.target {
            RecoveryTarget::Time(time) => pg_time(*time),
            _ => PgTimestamp::new(0),
        };
        Self { request, backup, time, from }
    }

    fn may_be_in(&self, facts: &WalFacts) -> bool {
        match &self.request.target {
            RecoveryTarget::Latest => false,
            RecoveryTarget::Lsn(_) => true,
            RecoveryTarget::Immediate => self.is_standbys() || facts.flags.any(WalFlags::BACKUP_END),
            RecoveryTarget::Time(_) => facts.end_times.is_some_and(|times| self.is_past(times.max)),
            RecoveryTarget::Xid(xid) => facts.xids.is_some_and(|xids| xids.may_hold(low(*xid))),
            RecoveryTarget::Name(_) => facts.flags.any(WalFlags::RESTORE_POINT),
        }
    }

    fn is_standbys(&self) -> bool {
        self.backup.source == BackupSource::Standby
    }

    /// Whether recovery stops before a commit or abort of this time.
    fn is_past(&self, time: PgTimestamp) -> bool {
        if self.request.exclusive { time >= self.time } else { time > self.time }
    }

    /// The first record of a segment that recovery stops before (true) or after (false).
    fn look(&self, detail: &SegmentDetail, start: Lsn) -> Option<(RecordSpan, bool)> {
        let exclusive = self.request.exclusive;
        let read = |span: &RecordSpan| span.start >= start;
        match &self.request.target {
            RecoveryTarget::Latest => None,
            // Nothing tells of the end of a standby's backup but its position.
            RecoveryTarget::Immediate if self.is_standbys() => {
                let first =
                    detail.records.iter().find(|record| read(record) && record.end >= self.backup.stop_lsn);
                first.map(|record| (*record, false))
            }
            RecoveryTarget::Immediate => {
                let ours = detail.backup_ends.iter().find(|(span, began)| {
                    read(span) && *began == self.backup.start_lsn && span.end >= self.backup.stop_lsn
                });
                ours.map(|(span, _)| (*span, false))
            }
            RecoveryTarget::Time(_) => {
                let mut ends = detail.ends.iter().filter(|end| read(&end.span));
                ends.find(|end| self.is_past(end.time)).map(|end| (end.span, true))
            }
            RecoveryTarget::Xid(xid) => {
                let mut ends = detail.ends.iter().filter(|end| read(&end.span));
                ends.find(|end| end.xid == low(*xid)).map(|end| (end.span, exclusive))
            }
            RecoveryTarget::Lsn(lsn) => {
                let from = (*lsn).max(start);
                let first = detail.records.partition_point(|record| record.start < from);
                detail.records.get(first).map(|record| (*record, exclusive))
            }
            RecoveryTarget::Name(name) => {
                let mut points = detail.restore_points.iter().filter(|point| read(&point.span));
                points.find(|point| point.name == *name).map(|point| (point.span, false))
            }
        }
    }

    fn kind(&self, before: bool) -> StopKind {
        match (&self.request.target, before) {
            (RecoveryTarget::Latest, _) => StopKind::EndOfWal,
            (RecoveryTarget::Immediate, _) => StopKind::AtConsistency,
            (RecoveryTarget::Time(_), _) => StopKind::BeforeTransactionEnd,
            (RecoveryTarget::Xid(_), true) => StopKind::BeforeTransaction,
            (RecoveryTarget::Xid(_), false) => StopKind::AfterTransaction,
            (RecoveryTarget::Lsn(_), true) => StopKind::BeforeLsn,
            (RecoveryTarget::Lsn(_), false) => StopKind::AfterLsn,
            (RecoveryTarget::Name(_), _) => StopKind::AfterRestorePoint,
        }
    }
}

/// The first commit at or after a position in a segment and behind it, how many there are, and whether all were
/// counted.
fn commits_from(
    walk: &Walk<'_>,
    number: SegmentNumber,
    from: Lsn,
) -> Sought<(Option<CommitMark>, u64, bool)> {
    let (mut first, mut count) = (None, 0);
    let mut add = |next: Option<CommitMark>, commits: u64| {
        first = first.or(next);
        count += commits;
    };
    let add_detail = |add: &mut dyn FnMut(Option<CommitMark>, u64), detail: &SegmentDetail, from: Lsn| {
        let within = from..walk.readable_below(detail);
        let ends = detail.ends.iter().filter(|end| end.commit && within.contains(&end.span.start));
        ends.for_each(|end| add(Some(end.mark()), 1));
    };
    let here = walk.detail(number)?;
    add_detail(&mut add, here, from);
    let all = match walk.ends_in(here) {
        Some(end) => end,
        None => walk.onward(number, &mut |piece| {
            match piece {
                Onward::Log(facts) => add(facts.first_commit, facts.commits),
                Onward::Segment(_, Some(summary)) => add(summary.facts.first_commit, summary.facts.commits),
                Onward::Segment(number, None) => add_detail(&mut add, walk.detail(number)?, Lsn::INVALID),
            }
            Ok(Visit::Pass)
        })?,
    };
    Ok((first, count, all))
}

/// Commits that recovery by time leaves out although their time is not past the target.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    pub(super) listed: Vec<Commit>,
    pub(super) count: u64,
    pub(super) exact: bool,
}

/// Looks behind the stop for commits whose time is not past the target.
pub(super) fn left_out_by_order(
    walk: &Walk<'_>,
    backup: &BackupRecord,
    request: &RecoveryRequest,
    found: &StopFound,
) -> Sought<LeftOut> {
    let mut left_out = LeftOut { exact: true, ..LeftOut::default() };
    if !matches!(request.target, RecoveryTarget::Time(_)) {
        return Ok(left_out);
    }
    let target = Target::of(request, backup, walk);
    let at_or_before = |time| !target.is_past(time);
    let add = |left_out: &mut LeftOut, detail: &SegmentDetail| {
        let within = found.stop.lsn..walk.readable_below(detail);
        let ends = detail.ends.iter().filter(|end| end.commit && within.contains(&end.span.start));
        for end in ends.filter(|end| at_or_before(end.time)) {
            left_out.count += 1;
            if left_out.listed.len() < LEFT_OUT_LISTED_MAX {
                left_out.listed.push(commit(end.mark()));
            }
        }
    };
    let here = walk.detail(found.last_segment)?;
    add(&mut left_out, here);
    if let Some(end) = walk.ends_in(here) {
        return Ok(LeftOut { exact: end, ..left_out });
    }
    let mut read = 0;
    let all = walk.onward(found.last_segment, &mut |piece| {
        let some = |facts: &WalFacts| facts.commit_times.is_some_and(|times| at_or_before(times.min));
        match piece {
            Onward::Log(facts) => return Ok(if some(facts) { Visit::Open } else { Visit::Pass }),
            Onward::Segment(_, Some(summary)) if !some(&summary.facts) => {}
            Onward::Segment(number, _) if read < LEFT_OUT_SEGMENTS_READ_MAX => {
                read += 1;
                add(&mut left_out, walk.detail(number)?);
            }
            Onward::Segment(_, Some(summary))
                if summary.facts.commit_times.is_some_and(|times| at_or_before(times.max)) =>
            {
                left_out.count += summary.facts.commits;
            }
            Onward::Segment(_, _) => left_out.exact = false,
        }
        Ok(Visit::Pass)
    })?;
    left_out.exact &= all;
    Ok(left_out)
}

/// All restore points of the target's name on the way to the end of the archive, and whether all were looked for.
pub(super) fn same_name(walk: &Walk<'_>, name: &str, found: &StopFound) -> Sought<(Vec<Moment>, bool)> {
    let moments = |detail: &SegmentDetail| -> Vec<Moment> {
        let within = found.stop.lsn..walk.readable_below(detail);
        let points = detail.restore_points.iter().filter(|point| point.name == name);
        let points = points.filter(|point| within.contains(&point.span.start));
        points
            .map(|point| Moment { lsn: point.span.start, time: Some(timestamp(point.time)), xid: None })
            .collect()
    };
    let here = walk.detail(found.last_segment)?;
    let (mut met, mut read, mut all) = (moments(here), 0, true);
    if let Some(end) = walk.ends_in(here) {
        return Ok((met, end));
    }
    let seen = walk.onward(found.last_segment, &mut |piece| {
        let some = |facts: &WalFacts| facts.flags.any(WalFlags::RESTORE_POINT);
        match piece {
            Onward::Log(facts) => return Ok(if some(facts) { Visit::Open } else { Visit::Pass }),
            Onward::Segment(_, Some(summary)) if !some(&summary.facts) => {}
            Onward::Segment(number, _) if read < SAME_NAME_SEGMENTS_MAX => {
                read += 1;
                met.extend(moments(walk.detail(number)?));
            }
            Onward::Segment(_, _) => {
                all = false;
                return Ok(Visit::Stop);
            }
        }
        Ok(Visit::Pass)
    })?;
    Ok((met, all && seen))
}

/// A commit with a calendar time.
pub(super) fn commit(mark: CommitMark) -> Commit {
    Commit { xid: mark.xid, time: timestamp(mark.time), lsn: mark.lsn }
}

/// PostgreSQL's time as a calendar time; beyond the calendar's ends, its end.
pub(crate) fn timestamp(time: PgTimestamp) -> Timestamp {
    let end = if time.unix_micros() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(time.unix_micros()).unwrap_or(end)
}

/// A calendar time as PostgreSQL's, rounded to its microseconds as PostgreSQL's input does.
pub(crate) fn pg_time(time: Timestamp) -> PgTimestamp {
    let micros = time.as_nanosecond().div_euclid(1000);
    PgTimestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// What PostgreSQL compares of a transaction id.
#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the id in records")]
fn low(xid: u64) -> Xid {
    Xid::new(xid as u32)
}
