//! What can be restored: for each timeline the reach of its backups and the gaps in its WAL.

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{Lsn, SegmentName, SegmentNumber, TimelineId};

use super::path::TimelinePath;
use crate::layout::{BackupId, Incarnation, ServerName};
use crate::snapshot::CatalogSnapshot;

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
}

/// A backup and how far it can be rolled forward without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorableBackup {
    /// The backup.
    pub id: BackupId,
    /// The first position that can be restored with it.
    pub first: Lsn,
    /// The end of the WAL that follows it without a gap on its timeline; `None` when even the WAL that makes
    /// it consistent is missing.
    pub last: Option<Lsn>,
    /// When it ended, by the source's clock.
    pub finished_at: Timestamp,
}

/// A stretch of WAL of which every position can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestorableRange {
    /// The first position.
    pub first: Lsn,
    /// The end of it.
    pub last: Lsn,
}

/// What can be restored on one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineWindow {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it forked from, and where, when its history is in the archive.
    pub parent: Option<TimelineId>,
    /// Where it forked.
    pub fork_lsn: Option<Lsn>,
    /// The first position that can be restored: the end of the oldest usable backup on the way to it.
    pub first: Option<Lsn>,
    /// The end of the WAL that can be reached.
    pub last: Option<Lsn>,
    /// Everything in between that can be restored, without overlaps, in rising order.
    pub restorable: Vec<RestorableRange>,
    /// Whether the timeline's history is missing or damaged: then nothing can be restored to it.
    pub history_missing: bool,
    /// Segments in the archive.
    pub segments: u64,
    /// What is missing in between.
    pub gaps: Vec<WindowGap>,
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
}

/// Says what can be restored from a snapshot of the catalog.
#[must_use]
pub fn recovery_window(snapshot: &CatalogSnapshot, now: Timestamp) -> RecoveryWindow {
    RecoveryWindow {
        schema: 1,
        server: snapshot.incarnation.server.clone(),
        incarnation: snapshot.incarnation.incarnation(),
        at: now,
        timelines: snapshot
            .timelines()
            .into_iter()
            .map(|timeline| timeline_window(snapshot, timeline))
            .collect(),
    }
}

fn timeline_window(snapshot: &CatalogSnapshot, timeline: TimelineId) -> TimelineWindow {
    let history = snapshot.histories.get(&timeline);
    let history_missing = history.is_none() && timeline != TimelineId::FIRST;
    let path = TimelinePath::to(timeline, history);
    let fork = history.and_then(|history| history.entries().last());
    let mut backups: Vec<RestorableBackup> = snapshot
        .backups
        .iter()
        .filter(|backup| {
            let last_byte = backup.stop_lsn.checked_sub(1).unwrap_or(backup.stop_lsn);
            path.timeline_at(backup.start_lsn) == Some(backup.timeline)
                && path.timeline_at(last_byte) == Some(backup.stop_timeline)
        })
        .map(|backup| {
            let end = contiguous_end(snapshot, &path, backup.start_lsn);
            RestorableBackup {
                id: backup.id.clone(),
                first: backup.stop_lsn,
                last: end.filter(|end| *end >= backup.stop_lsn && !history_missing),
                finished_at: backup.finished_at,
            }
        })
        .collect();
    backups.sort_by_key(|backup| backup.first);
    let usable = || backups.iter().filter(|backup| backup.last.is_some());
    let runs = snapshot.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
    TimelineWindow {
        timeline,
        parent: fork.map(|entry| entry.timeline),
        fork_lsn: fork.map(|entry| entry.switch_lsn),
        first: usable().map(|backup| backup.first).min(),
        last: usable().filter_map(|backup| backup.last).max(),
        restorable: restorable(&backups),
        history_missing,
        segments: runs.iter().map(|run| run.stored_bytes.len() as u64).sum(),
        gaps: gaps(snapshot, timeline),
        backups,
    }
}

/// The reaches of backups, sorted by their beginnings, joined where they overlap.
fn restorable(backups: &[RestorableBackup]) -> Vec<RestorableRange> {
    let mut ranges: Vec<RestorableRange> = Vec::new();
    for (first, last) in backups.iter().filter_map(|backup| Some((backup.first, backup.last?))) {
        match ranges.last_mut() {
            Some(range) if first <= range.last => range.last = range.last.max(last),
            _ => ranges.push(RestorableRange { first, last }),
        }
    }
    ranges
}

/// The end of the WAL that is present without a gap from `start` on.
fn contiguous_end(snapshot: &CatalogSnapshot, path: &TimelinePath, start: Lsn) -> Option<Lsn> {
    let size = snapshot.incarnation.segment_size;
    let mut end = None;
    let mut number = size.segment_of(start);
    while let Some(id) = path.segment(number, size) {
        if snapshot.segment_bytes(id).is_none() {
            break;
        }
        end = Some(size.end_of(number));
        number = number.next();
    }
    end
}

/// The holes between the runs of one timeline, and the one between its fork and its first segment.
fn gaps(snapshot: &CatalogSnapshot, timeline: TimelineId) -> Vec<WindowGap> {
    let size = snapshot.incarnation.segment_size;
    let runs = snapshot.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
    let fork = snapshot.histories.get(&timeline).and_then(|history| history.entries().last());
    let mut expected: Option<SegmentNumber> = fork.map(|entry| size.segment_of(entry.switch_lsn));
    let mut gaps = Vec::new();
    for run in runs {
        if let Some(expected) = expected.filter(|expected| *expected < run.first) {
            let last = run.first.previous().unwrap_or(run.first);
            let name = |number| walden_pg::SegmentId::new(timeline, number).name(size);
            let (first, last) = (name(expected), name(last));
            gaps.push(WindowGap {
                first,
                last,
                count: run.first.get() - expected.get(),
                start_lsn: size.start_of(expected),
                end_lsn: size.start_of(run.first),
                partial: snapshot.partials.iter().any(|partial| (first..=last).contains(partial)),
            });
        }
        expected = Some(run.last().next());
    }
    gaps
}
