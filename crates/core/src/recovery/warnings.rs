//! What a person should know of a plan that is good.

use walden_pg::{Lsn, TimelineId};

use super::answer::{BackupRejection, RecoveryPlan, RejectedBackup};
use super::branches::Branch;
use super::path::TimelinePath;
use super::request::{RecoveryTarget, postgres_time};
use crate::index::WalFlags;
use crate::records::{BackupRecord, BackupSource};
use crate::snapshot::CatalogSnapshot;

pub(super) fn warnings(
    snapshot: &CatalogSnapshot,
    plan: &RecoveryPlan,
    backup: &BackupRecord,
    path: &TimelinePath,
    all_of_name: bool,
) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(of_order(plan));
    warnings.extend(of_name(plan, all_of_name));
    if !matches!(plan.request.target, RecoveryTarget::Latest | RecoveryTarget::Immediate) {
        warnings.extend(of_abandoned(snapshot, path, backup.start_lsn));
    }
    if let Some(partial) = snapshot.partials.iter().max() {
        warnings.push(format!(
            "{partial}.partial is in the archive: PostgreSQL never reads it, what is only in it is not recovered"
        ));
    }
    warnings.extend(of_other_branch(snapshot, plan));
    for unreadable in plan.rejected.iter().filter(|other| other.reason == BackupRejection::Unreadable) {
        warnings.push(format!("backup {}: {}", unreadable.id, unreadable.message));
    }
    if !backup.checksum_failures.is_empty() {
        let files = backup.checksum_failures.len();
        warnings.push(format!("the backup holds pages with wrong checksums files={files}"));
    }
    warnings.extend(of_flags(snapshot, plan, backup));
    warnings
}

/// The server was on another timeline at the target time.
pub(super) fn of_branch(branch: &Branch, on: TimelineId) -> String {
    let timeline = branch.timeline;
    let last = match (branch.last.xid, branch.last.time) {
        (Some(xid), Some(time)) => format!("transaction {xid}, committed {}", postgres_time(time)),
        _ => format!("at {}", branch.last.lsn),
    };
    let how = if branch.stops {
        format!("--target-timeline {timeline}")
    } else {
        format!("--target-timeline {timeline} without a target time, because the timeline ended before it")
    };
    format!(
        "at the target time the server was on timeline {timeline}: its last commit by then, {last}, is not on the way \
         to timeline {on} and will not be there; to have it: {how}"
    )
}

fn of_order(plan: &RecoveryPlan) -> Option<String> {
    let (count, exact) = (plan.left_out_by_order_count, plan.left_out_by_order_exact);
    if count == 0 && exact {
        return None;
    }
    if count == 0 {
        return Some(
            "commits with a time at or before the target may come after the stop in the WAL, and are left out then: not \
             all of it was looked through for them"
                .to_owned(),
        );
    }
    let at_least = if exact { "" } else { "at least " };
    let last = plan.left_out_by_order.last().map(|commit| {
        // What lies between them comes along, whatever its time.
        let listed = match plan.left_out_by_order.len() {
            1 if count == 1 => "it".to_owned(),
            all if all as u64 == count && exact => "them".to_owned(),
            some => format!("the first {some} of them"),
        };
        format!("; --target-xid {} has {listed} too, and all that the WAL holds before", commit.xid)
    });
    let commits = if count == 1 { "commit has" } else { "commits have" };
    Some(format!(
        "{at_least}{count} {commits} a time at or before the target but a place after the stop in the WAL: left out{}",
        last.unwrap_or_default()
    ))
}

fn of_name(plan: &RecoveryPlan, all: bool) -> Option<String> {
    let RecoveryTarget::Name(name) = &plan.request.target else { return None };
    if plan.same_name.len() <= 1 && all {
        return None;
    }
    let places: Vec<String> = plan.same_name.iter().map(|point| point.lsn.to_string()).collect();
    let more = if all { "" } else { ", and perhaps later ones that were not looked for" };
    Some(format!(
        "restore point {name:?} was made more than once, at {}{more}: the first after backup {} counts; for another \
         one use its position with --target-lsn, or an older backup with --backup",
        places.join(", "),
        plan.backup.id
    ))
}

/// Parents that go on after the path has left them: a moment there is sought on the child, and not found.
fn of_abandoned(snapshot: &CatalogSnapshot, path: &TimelinePath, start: Lsn) -> Vec<String> {
    let size = snapshot.incarnation.segment_size;
    let steps = path.from(start);
    let left = steps.iter().filter(|step| {
        step.end_lsn.is_some_and(|end| {
            snapshot.last_known_segment(step.timeline).is_some_and(|last| last > size.segment_of(end))
        })
    });
    left.map(|step| {
        let (timeline, end) = (step.timeline, step.end_lsn.unwrap_or_default());
        format!(
            "timeline {timeline} goes on after the fork at {end}: moments there are reached with --target-timeline \
             {timeline} only"
        )
    })
    .collect()
}

fn of_other_branch(snapshot: &CatalogSnapshot, plan: &RecoveryPlan) -> Option<String> {
    if plan.request.backup.is_some() {
        return None;
    }
    let newer =
        |other: &&RejectedBackup| other.reason == BackupRejection::NotOnPath && other.id > plan.backup.id;
    let newest = plan.rejected.iter().filter(newer).max_by(|a, b| a.id.cmp(&b.id))?;
    let timeline = snapshot.backup(&newest.id)?.timeline;
    Some(format!(
        "a newer backup, {}, is on timeline {timeline}, another branch than timeline {}: if that one is meant, \
         --target-timeline {timeline}",
        newest.id, plan.target_timeline
    ))
}

/// What the flags of the segments on the way say, as far as they are known.
fn of_flags(snapshot: &CatalogSnapshot, plan: &RecoveryPlan, backup: &BackupRecord) -> Vec<String> {
    let size = snapshot.incarnation.segment_size;
    let (first, last) = (size.segment_of(backup.start_lsn), size.last_segment_before(plan.stop.replayed_to));
    let mut flags = WalFlags::NONE;
    for step in &plan.timeline_path {
        let ids = snapshot.summaries.range(
            walden_pg::SegmentId::new(step.timeline, first)..=walden_pg::SegmentId::new(step.timeline, last),
        );
        ids.for_each(|(_, summary)| flags.add(summary.facts.flags));
        let logs = snapshot.logs.range((step.timeline, 0)..=(step.timeline, u32::MAX));
        let on_way = logs.filter(|(_, log)| {
            log.present.first().is_some_and(|range| range.first >= first)
                && log.present.last().is_some_and(|range| range.last() <= last)
        });
        on_way.for_each(|(_, log)| flags.add(log.facts.flags));
    }
    let mut warnings = Vec::new();
    if flags.any(WalFlags::FULL_PAGE_WRITES_OFF) && backup.source == BackupSource::Standby {
        warnings.push(
            "full_page_writes was off after the backup, which was taken from a standby: its pages may be torn"
                .to_owned(),
        );
    }
    warnings
}
