//! What can't be restored because of damage: the recovery planner's word over the archive without what is damaged.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use walden_pg::{SegmentId, SegmentNumber, TimelineId};

use crate::index::{SegmentSummary, WalFacts};
use crate::layout::BackupId;
use crate::recovery::{Moment, RecoveryWindow};
use crate::retention::{WindowChange, window_changes};
use crate::snapshot::{CatalogSnapshot, SegmentRun};

/// Stretches of missing segments longer than this are not thought back for the comparison.
const PUT_BACK_MAX: u64 = 1 << 16;

/// What can't be used any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// Segments that are damaged.
    pub segments: BTreeSet<SegmentId>,
    /// Segments that are not there, as ranges: the first and how many.
    pub missing: BTreeSet<(SegmentId, u64)>,
    /// Backups that can't be restored, with the reason.
    pub backups: BTreeMap<BackupId, String>,
    /// Timelines whose history file is damaged.
    pub histories: BTreeMap<TimelineId, String>,
}

impl Losses {
    /// Whether nothing is lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
            && self.missing.is_empty()
            && self.backups.is_empty()
            && self.histories.is_empty()
    }

    /// Takes what is lost out of a snapshot. May be called again after a planner's needs were brought.
    pub fn take_out(&self, snapshot: &mut CatalogSnapshot) {
        for id in &self.segments {
            if let Some(runs) = snapshot.segments.get_mut(&id.timeline) {
                split(runs, id.number);
            }
            snapshot.summaries.remove(id);
            snapshot.details.remove(id);
        }
        // A rollup would still tell of the segments, but what was listed counts alone.
        snapshot.segments.retain(|_, runs| !runs.is_empty());
        for (id, reason) in &self.backups {
            if snapshot.backups.iter().any(|backup| backup.id == *id) {
                snapshot.backups.retain(|backup| backup.id != *id);
                snapshot.unreadable_backups.insert(id.clone(), reason.clone());
            }
        }
        for (timeline, reason) in &self.histories {
            if snapshot.histories.remove(timeline).is_some() {
                snapshot.damaged_histories.insert(*timeline, reason.clone());
            }
        }
    }

    /// Puts what is missing into a snapshot, as if it held nothing of note: so that the window before it went can be
    /// told. May be called again after a planner's needs were brought.
    pub fn put_back(&self, snapshot: &mut CatalogSnapshot) {
        let size = snapshot.incarnation.segment_size;
        for (first, count) in self.missing.iter().filter(|(_, count)| *count <= PUT_BACK_MAX) {
            for offset in 0..*count {
                let id = SegmentId::new(
                    first.timeline,
                    SegmentNumber::new(first.number.get().saturating_add(offset)),
                );
                if snapshot.segment_bytes(id).is_none() {
                    snapshot.add_segment(id.name(size), 0);
                }
                snapshot.details.remove(&id);
                snapshot.summaries.insert(
                    id,
                    SegmentSummary {
                        facts: WalFacts::default(),
                        wal_end: size.end_of(id.number),
                        joined: true,
                        straddler: None,
                    },
                );
            }
        }
    }
}

/// Removes a number from runs.
fn split(runs: &mut Vec<SegmentRun>, number: SegmentNumber) {
    let after = runs.partition_point(|run| run.first <= number);
    let Some(at) = after.checked_sub(1) else { return };
    let Some(run) = runs.get_mut(at).filter(|run| run.bytes_of(number).is_some()) else { return };
    let offset = usize::try_from(number.get() - run.first.get()).unwrap_or(usize::MAX);
    let mut rest = run.stored_bytes.split_off(offset.min(run.stored_bytes.len()));
    let behind = if rest.is_empty() { Vec::new() } else { rest.split_off(1) };
    let is_empty = run.stored_bytes.is_empty();
    if !behind.is_empty() {
        runs.insert(after, SegmentRun { first: number.next(), stored_bytes: behind });
    }
    if is_empty {
        runs.remove(at);
    }
}

/// What damage costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Consequences {
    /// Backups that can't be restored any more, to any moment.
    pub backups_lost: Vec<BackupId>,
    /// The timelines of which something can't be restored any more.
    pub windows: Vec<WindowChange>,
    /// The newest moment that could be restored if nothing were wrong.
    pub newest_before: Option<Moment>,
    /// The newest moment that can be restored.
    pub newest_after: Option<Moment>,
    /// The newest backup that still leads to [`Self::newest_after`].
    pub served_by: Option<BackupId>,
}

impl Consequences {
    /// Whether anything can't be restored because of the damage.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        !self.backups_lost.is_empty() || !self.windows.is_empty()
    }
}

/// Compares what could be restored without the damage with what can be restored with it.
#[must_use]
pub fn consequences(before: &RecoveryWindow, after: &RecoveryWindow) -> Consequences {
    let usable = |window: &RecoveryWindow| -> BTreeSet<BackupId> {
        let backups = window.timelines.iter().flat_map(|timeline| &timeline.backups);
        backups.filter(|backup| backup.last.is_some()).map(|backup| backup.id.clone()).collect()
    };
    let still = usable(after);
    let windows = window_changes(before, after).into_iter().filter(|change| !change.lost.is_empty());
    let newest = after.timelines.iter().rev().find(|timeline| timeline.last.is_some());
    let serving = newest.and_then(|timeline| {
        let leads = timeline.backups.iter().filter(|backup| backup.last == timeline.last);
        leads.max_by_key(|backup| backup.first.lsn)
    });
    Consequences {
        backups_lost: usable(before).difference(&still).cloned().collect(),
        windows: windows.collect(),
        newest_before: before.newest,
        newest_after: after.newest,
        served_by: serving.map(|backup| backup.id.clone()),
    }
}
