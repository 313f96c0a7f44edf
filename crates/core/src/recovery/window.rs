//! What can be restored: for each timeline the first and the last moment, the gaps in its WAL and their likely
//! causes, and how old the newest restorable commit is.

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{Lsn, SegmentId, SegmentName, SegmentNumber, TimelineId};

use super::answer::{Moment, Need};
use super::plan::Way;
use super::refuse::{Reach, reach_of};
use super::request::TargetTimeline;
use super::walk::{Found, Sought};
use crate::index::WalFlags;
use crate::layout::{BackupId, Incarnation, ServerName};
use crate::snapshot::CatalogSnapshot;

/// Segments may be archived so far ahead of the oldest one that is not: by an agent, with what it has in flight.
const AT_ONCE_MAX: u64 = 80;

/// A run of segments that are not in the archive although later ones are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowGap {
    /// The first missing segment.
    pub first: SegmentName,
    /// The last missing segment.
    pub last: SegmentName,
    /// How many are missing.
    pub count: u64,
    /// Where the gap begins.
    pub start_lsn: Lsn,
    /// Where WAL goes on.
    pub end_lsn: Lsn,
    /// Whether a part of it is there as `.partial`: a promotion or a crash left it incomplete.
    pub partial: bool,
    /// What most likely happened.
    pub cause: String,
}

/// A backup and how far it can be rolled forward without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorableBackup {
    /// The backup.
    pub id: BackupId,
    /// The first moment that can be restored with it.
    pub first: Moment,
    /// The last one; `None` when even the WAL that makes it consistent is missing.
    pub last: Option<Moment>,
    /// The end of the WAL that follows it without a gap.
    pub wal_end_lsn: Option<Lsn>,
    /// When it ended, by the source's clock.
    pub finished_at: Timestamp,
}

/// A stretch of WAL of which every moment can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestorableRange {
    /// The first moment.
    pub first: Moment,
    /// The last one.
    pub last: Moment,
    /// The end of the WAL.
    pub wal_end_lsn: Lsn,
}

/// What can be restored on one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineWindow {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it forked from, when its history is in the archive.
    pub parent: Option<TimelineId>,
    /// Where it forked.
    pub fork_lsn: Option<Lsn>,
    /// The first moment that can be restored: the end of the oldest usable backup on the way to it.
    pub first: Option<Moment>,
    /// The last one.
    pub last: Option<Moment>,
    /// Everything in between that can be restored, without overlaps, in rising order.
    pub restorable: Vec<RestorableRange>,
    /// Whether the timeline's history is missing or damaged: then nothing can be restored to it.
    pub history_missing: bool,
    /// Segments in the archive.
    pub segments: u64,
    /// What is missing in between.
    pub gaps: Vec<WindowGap>,
    /// Segments with damaged WAL, as far as they are known: recovery stops there.
    pub damaged: Vec<SegmentName>,
    /// The backups on the way to it, oldest first.
    pub backups: Vec<RestorableBackup>,
}

/// Everything that can be restored of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryWindow {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The moment of looking.
    pub at: Timestamp,
    /// The timelines, oldest first.
    pub timelines: Vec<TimelineWindow>,
    /// The newest moment that can be restored, on the newest timeline that has one.
    pub newest: Option<Moment>,
    /// How old it is, in seconds: what would be lost if the server were lost now.
    pub rpo_seconds: Option<i64>,
    /// Segments that count as archived by the word of rollups: their directories were not listed. None of them lies on the
    /// way from the newest usable backup to [`Self::newest`], unless that way is longer than is listed for a window.
    pub by_rollup: u64,
}

/// So many segments before the newest moment are listed at most. Sixteen pages of a listing or so: with a backup every week
/// that is 23 MiB of WAL in every minute.
const LISTED_SEGMENTS_MAX: u64 = 16 * 1024;

/// The answer to what can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Windowing {
    /// This.
    Window(Box<RecoveryWindow>),
    /// More must be known.
    Needs(Vec<Need>),
}

/// Says what can be restored from a snapshot of the catalog; asks for more as
/// [`plan_recovery`](super::plan_recovery) does.
#[must_use]
pub fn recovery_window(snapshot: &CatalogSnapshot, now: Timestamp) -> Windowing {
    match look(snapshot, now) {
        Ok(window) => Windowing::Window(Box::new(window)),
        Err(need) => Windowing::Needs(vec![need]),
    }
}

fn look(snapshot: &CatalogSnapshot, now: Timestamp) -> Sought<RecoveryWindow> {
    let mut timelines = Vec::new();
    for timeline in snapshot.timelines() {
        timelines.push(timeline_window(snapshot, timeline)?);
    }
    let newest = timelines.iter().rev().find(|timeline| timeline.last.is_some());
    if let Some(newest) = newest {
        way_is_listed(snapshot, newest)?;
    }
    let newest = newest.and_then(|timeline| timeline.last);
    let age = newest.and_then(|moment| moment.time).map(|time| now.duration_since(time).as_secs().max(0));
    Ok(RecoveryWindow {
        schema: 1,
        server: snapshot.incarnation.server.clone(),
        incarnation: snapshot.incarnation.incarnation(),
        at: now,
        timelines,
        newest,
        rpo_seconds: age,
        by_rollup: snapshot.told_segments(),
    })
}

/// Asks for the directories from the newest usable backup to the newest moment: that much rests on objects, and the
/// segment behind it is seen to be missing.
fn way_is_listed(snapshot: &CatalogSnapshot, timeline: &TimelineWindow) -> Sought<()> {
    let usable = timeline.backups.iter().filter(|backup| backup.last.is_some());
    let Some(newest) = usable.max_by_key(|backup| (backup.wal_end_lsn, backup.first.lsn)) else {
        return Ok(());
    };
    let (Some(backup), Some(wal_end)) = (snapshot.backup(&newest.id), newest.wal_end_lsn) else {
        return Ok(());
    };
    let Ok(way) = Way::to_timeline(snapshot, TargetTimeline::Id(timeline.timeline), backup) else {
        return Ok(());
    };
    let end = snapshot.incarnation.segment_size.segment_of(wal_end);
    let from = SegmentNumber::new(end.get().saturating_sub(LISTED_SEGMENTS_MAX));
    way.walk(snapshot).listed_between(from, end)
}

fn timeline_window(snapshot: &CatalogSnapshot, timeline: TimelineId) -> Sought<TimelineWindow> {
    let history = snapshot.histories.get(&timeline);
    let history_missing = history.is_none() && timeline != TimelineId::FIRST;
    let fork = history.and_then(|history| history.entries().last());
    let backups = if history_missing { Vec::new() } else { backups_to(snapshot, timeline)? };
    let usable = || backups.iter().filter(|backup| backup.last.is_some());
    let newest = usable().max_by_key(|backup| backup.wal_end_lsn);
    let present = snapshot.present(timeline);
    Ok(TimelineWindow {
        timeline,
        parent: fork.map(|entry| entry.timeline),
        fork_lsn: fork.map(|entry| entry.switch_lsn),
        first: usable().map(|backup| backup.first).min_by_key(|first| first.lsn),
        last: newest.and_then(|backup| backup.last),
        restorable: restorable(&backups),
        history_missing,
        segments: present.iter().map(|(first, last)| last.get() - first.get() + 1).sum(),
        gaps: gaps(snapshot, timeline, &present),
        damaged: damaged(snapshot, timeline)?,
        backups,
    })
}

/// The backups on the way to a timeline and how far each goes. From the newest back: an older one that leads to the
/// start of a newer one goes exactly as far.
fn backups_to(snapshot: &CatalogSnapshot, timeline: TimelineId) -> Sought<Vec<RestorableBackup>> {
    let ways = snapshot
        .backups
        .iter()
        .filter_map(|backup| Way::to_timeline(snapshot, TargetTimeline::Id(timeline), backup).ok());
    let mut ways: Vec<Way<'_>> = ways.collect();
    ways.sort_by_key(|way| (way.backup.start_lsn, way.backup.stop_lsn));
    let mut backups = Vec::new();
    let mut newer: Option<(SegmentNumber, Option<Reach>)> = None;
    for way in ways.iter().rev() {
        let walk = way.walk(snapshot);
        let leads = match &newer {
            // With the segment in which it starts: what is damaged there before its start hurts the older one.
            Some((number, _)) => walk.follow(Some(number.next()))? == Found::Led,
            None => false,
        };
        let reach = match &newer {
            // A newer one that does not get consistent tells nothing of how far the WAL goes.
            Some((_, Some(reach))) if leads && reach.wal_end >= way.backup.stop_lsn => Some(reach.clone()),
            _ => reach_of(snapshot, way)?,
        };
        let backup = way.backup;
        let first = Moment { lsn: backup.stop_lsn, time: Some(backup.finished_at), xid: None };
        backups.push(RestorableBackup {
            id: backup.id.clone(),
            first,
            last: reach.as_ref().map(|reach| reach.last),
            wal_end_lsn: reach.as_ref().map(|reach| reach.wal_end),
            finished_at: backup.finished_at,
        });
        newer = Some((walk.first(), reach));
    }
    backups.sort_by_key(|backup| backup.first.lsn);
    Ok(backups)
}

/// The reaches of backups, sorted by their beginnings, joined where they overlap.
fn restorable(backups: &[RestorableBackup]) -> Vec<RestorableRange> {
    let mut ranges: Vec<RestorableRange> = Vec::new();
    for backup in backups {
        let (Some(last), Some(wal_end_lsn)) = (backup.last, backup.wal_end_lsn) else { continue };
        match ranges.last_mut() {
            Some(range) if backup.first.lsn <= range.wal_end_lsn => {
                if wal_end_lsn > range.wal_end_lsn {
                    (range.last, range.wal_end_lsn) = (last, wal_end_lsn);
                }
            }
            _ => ranges.push(RestorableRange { first: backup.first, last, wal_end_lsn }),
        }
    }
    ranges
}

/// The holes between the segments of one timeline, and the one between its fork and its first segment.
fn gaps(
    snapshot: &CatalogSnapshot,
    timeline: TimelineId,
    present: &[(SegmentNumber, SegmentNumber)],
) -> Vec<WindowGap> {
    let size = snapshot.incarnation.segment_size;
    let fork = snapshot.histories.get(&timeline).and_then(|history| history.entries().last());
    let fork = fork.map(|entry| size.segment_of(entry.switch_lsn));
    let mut expected = fork;
    let newest = present.last().map_or(SegmentNumber::new(0), |(_, last)| *last);
    let mut gaps = Vec::new();
    for (first, last) in present {
        if let Some(missing) = expected.filter(|expected| expected < first) {
            let name = |number| SegmentId::new(timeline, number).name(size);
            let names = (name(missing), name(first.previous().unwrap_or(*first)));
            let partial = snapshot.partials.iter().any(|partial| (names.0..=names.1).contains(partial));
            gaps.push(WindowGap {
                first: names.0,
                last: names.1,
                count: first.get() - missing.get(),
                start_lsn: size.start_of(missing),
                end_lsn: size.start_of(*first),
                partial,
                cause: cause(partial, fork == Some(missing), newest.get() - missing.get() <= AT_ONCE_MAX)
                    .to_owned(),
            });
        }
        expected = Some(last.next());
    }
    gaps
}

fn cause(partial: bool, at_fork: bool, is_among_newest: bool) -> &'static str {
    match (partial, at_fork) {
        (true, _) => "only a .partial of it is there: a promotion or a crash left the segment incomplete",
        (false, true) => {
            "the segment in which the timeline begins is missing: the promoted server did not archive it, or it was \
             deleted"
        }
        (false, false) if is_among_newest => {
            "it may be on its way, since several segments are archived at once; if not: archiving was off or went \
             elsewhere for a while, or the objects were deleted from the store"
        }
        (false, false) => {
            "archiving was off or went elsewhere for a while, or the objects were deleted from the store"
        }
    }
}

/// The segments with damaged WAL.
fn damaged(snapshot: &CatalogSnapshot, timeline: TimelineId) -> Sought<Vec<SegmentName>> {
    for ((_, log), summary) in snapshot.logs.range((timeline, 0)..=(timeline, u32::MAX)) {
        if summary.facts.flags.any(WalFlags::DAMAGED) && !snapshot.summarized.contains(&(timeline, *log)) {
            return Err(Need::Summaries { timeline, log: *log });
        }
    }
    let bounds = [0, u64::MAX].map(|number| SegmentId::new(timeline, SegmentNumber::new(number)));
    let known = snapshot.summaries.range(bounds[0]..=bounds[1]);
    let damaged = known.filter(|(_, summary)| summary.facts.flags.any(WalFlags::DAMAGED));
    Ok(damaged.map(|(id, _)| id.name(snapshot.incarnation.segment_size)).collect())
}
