//! Where else a target is: on a timeline that the path does not follow.

use jiff::Timestamp;
use walden_pg::TimelineId;

use super::answer::Moment;
use super::plan::Way;
use super::refuse::reach_of;
use super::request::{RecoveryRequest, RecoveryTarget, TargetTimeline};
use super::stop::{StopFound, find_stop};
use super::walk::Sought;
use crate::snapshot::CatalogSnapshot;

/// So many timelines are looked at, the newest first.
const TIMELINES_MAX: usize = 8;

/// A timeline on which a target is, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) timeline: TimelineId,
    /// The last moment that recovery to the target would have there.
    pub(super) last: Moment,
    /// Whether recovery to the target stops there. If not, the timeline ended before the target time.
    pub(super) stops: bool,
}

/// The other timelines on which a transaction or a restore point is.
pub(super) fn branches_with(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    except: Option<TimelineId>,
) -> Sought<Vec<Branch>> {
    let mut branches = Vec::new();
    for timeline in others(snapshot, except) {
        if let Some((way, found)) = stop_on(snapshot, request, timeline)? {
            let kept = found.stop.last_kept;
            let last = Moment {
                lsn: found.stop.lsn,
                time: kept.map_or(Some(way.backup.finished_at), |commit| Some(commit.time)),
                xid: kept.map(|commit| commit.xid),
            };
            branches.push(Branch { timeline, last, stops: true });
        }
    }
    Ok(branches)
}

/// The other timeline that has the newest commit at or before a target time, if that is newer than `kept`: there the
/// server was at that time.
pub(super) fn later_branch(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    except: TimelineId,
    kept: Option<Timestamp>,
) -> Sought<Option<Branch>> {
    let RecoveryTarget::Time(target) = request.target else { return Ok(None) };
    let mut later: Option<Branch> = None;
    for timeline in others(snapshot, Some(except)) {
        let branch = match stop_on(snapshot, request, timeline)? {
            Some((_, found)) => found.stop.last_kept.map(|commit| Branch {
                timeline,
                last: Moment { lsn: commit.lsn, time: Some(commit.time), xid: Some(commit.xid) },
                stops: true,
            }),
            None => end_of(snapshot, timeline, target)?.map(|last| Branch { timeline, last, stops: false }),
        };
        let newest = later.map_or(kept, |later| later.last.time);
        later = branch.filter(|branch| branch.last.xid.is_some() && branch.last.time > newest).or(later);
    }
    Ok(later)
}

fn others(snapshot: &CatalogSnapshot, except: Option<TimelineId>) -> Vec<TimelineId> {
    let timelines = snapshot.timelines().into_iter().rev();
    timelines.filter(|timeline| Some(*timeline) != except).take(TIMELINES_MAX).collect()
}

/// Where recovery to the target stops on a timeline, with the newest backup that serves.
fn stop_on<'a>(
    snapshot: &'a CatalogSnapshot,
    request: &RecoveryRequest,
    timeline: TimelineId,
) -> Sought<Option<(Way<'a>, StopFound)>> {
    let request = RecoveryRequest { timeline: TargetTimeline::Id(timeline), backup: None, ..request.clone() };
    let mut backups: Vec<_> = snapshot.backups.iter().collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.finished_at));
    for backup in backups {
        let Ok(way) = Way::of(snapshot, &request, backup) else { continue };
        let found = find_stop(&way.walk(snapshot), backup, &request)?;
        if let Ok(found) = found
            && found.stop.replayed_to >= backup.stop_lsn
        {
            return Ok(Some((way, found)));
        }
    }
    Ok(None)
}

/// The last moment of a timeline that ended before a time.
fn end_of(snapshot: &CatalogSnapshot, timeline: TimelineId, target: Timestamp) -> Sought<Option<Moment>> {
    let mut backups: Vec<_> = snapshot.backups.iter().filter(|backup| backup.finished_at <= target).collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.finished_at));
    for backup in backups {
        let Ok(way) = Way::to_timeline(snapshot, TargetTimeline::Id(timeline), backup) else { continue };
        if let Some(reach) = reach_of(snapshot, &way)? {
            return Ok(Some(reach.last).filter(|last| last.time.is_some_and(|time| time <= target)));
        }
    }
    Ok(None)
}
