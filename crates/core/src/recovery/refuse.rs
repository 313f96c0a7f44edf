//! Turning "no backup can serve" into the reason that helps most, and the nearest moments that can be had.

use jiff::Timestamp;
use walden_pg::Lsn;

use super::answer::{BackupRejection, Moment, Refusal, RefusalReason, RejectedBackup};
use super::branches::branches_with;
use super::plan::Way;
use super::request::{RecoveryRequest, RecoveryTarget, postgres_time};
use super::stop::timestamp;
use super::walk::{Found, Sought};
use crate::snapshot::CatalogSnapshot;

pub(super) fn check_request(request: &RecoveryRequest, now: Timestamp) -> Result<(), Refusal> {
    let refuse = |message: &str| Err(Refusal::new(RefusalReason::InvalidRequest, message));
    match &request.target {
        RecoveryTarget::Time(time) if *time > now => {
            let message = format!("the target time {} is in the future", postgres_time(*time));
            Err(Refusal::new(RefusalReason::TargetAfterArchive, message)
                .hint("leave the target out to recover everything that is archived"))
        }
        RecoveryTarget::Name(name) if name.is_empty() || name.len() > 63 => {
            refuse("a restore point's name has 1 to 63 bytes")
        }
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_) if request.exclusive => {
            refuse("exclusive has a meaning only with a time, an LSN or a transaction")
        }
        _ => Ok(()),
    }
}

pub(super) fn no_backup(snapshot: &CatalogSnapshot) -> Refusal {
    let unfinished = snapshot.unfinished_backups.len();
    let message = if unfinished == 0 {
        "there is no base backup in the archive".to_owned()
    } else {
        format!("there is no finished base backup in the archive; unfinished={unfinished}")
    };
    Refusal::new(RefusalReason::NoBackup, message).hint("take one with walden backup create")
}

/// The refusal, when every way was tried.
pub(super) fn refuse(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    ways: &[Way<'_>],
    mut rejected: Vec<RejectedBackup>,
) -> Sought<Refusal> {
    rejected.sort_by(|a, b| b.id.cmp(&a.id));
    let mut refusal = why(request, &rejected);
    if refusal.reason == RefusalReason::TargetNotFound {
        refusal = say_where(snapshot, request, ways, refusal)?;
    }
    let (before, after) = nearest(snapshot, request, ways, &rejected)?;
    if refusal.hint.is_none() {
        refusal.hint = Some(hint(&refusal, before.as_ref(), after.as_ref()));
    }
    Ok(Refusal { nearest_before: before, nearest_after: after, rejected, ..refusal })
}

fn why(request: &RecoveryRequest, rejected: &[RejectedBackup]) -> Refusal {
    use BackupRejection as Why;
    let any = |reason| rejected.iter().find(|rejected| rejected.reason == reason);
    let target = request.target.describe();
    let walls = [
        (Why::MissingSegments, RefusalReason::MissingSegments),
        (Why::DamagedWal, RefusalReason::DamagedWal),
        (Why::WalLevelMinimal, RefusalReason::WalLevelMinimal),
    ];
    let wall = walls.into_iter().find_map(|(reason, refused)| Some((any(reason)?, refused)));
    if any(Why::TargetNotFound).is_some() {
        let reason = match request.target {
            RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) => RefusalReason::TargetAfterArchive,
            _ => RefusalReason::TargetNotFound,
        };
        let mut message = match request.target {
            RecoveryTarget::Time(_) => format!(
                "no transaction in the archive ended after {target}: PostgreSQL would replay everything, not find it, \
                 and end with an error"
            ),
            RecoveryTarget::Lsn(_) => format!("{target} lies beyond the end of the archive"),
            _ => format!("{target} is not in the archive"),
        };
        if let Some((rejected, _)) = wall {
            let unsearched = format!("backup {}: {}", rejected.id, rejected.message);
            message = format!("{message}; but not all of it could be searched: {unsearched}");
        }
        return Refusal::new(reason, message);
    }
    if let Some((rejected, reason)) = wall {
        return Refusal::new(reason, format!("backup {}: {}", rejected.id, rejected.message));
    }
    if let Some(early) = any(Why::StopsBeforeConsistency) {
        let message = format!("backup {}: {}", early.id, early.message);
        return Refusal::new(RefusalReason::TargetBeforeBackups, message);
    }
    if any(Why::EndsAfterTarget).is_some() {
        return Refusal::new(RefusalReason::TargetBeforeBackups, format!("no backup ended before {target}"));
    }
    if let Some(unsupported) = any(Why::Unsupported) {
        let message = format!("backup {}: {}", unsupported.id, unsupported.message);
        return Refusal::new(RefusalReason::Unsupported, message).hint("use a newer walden");
    }
    if let Some(missing) = any(Why::MissingHistory) {
        return Refusal::new(RefusalReason::UnknownTimeline, missing.message.clone()).hint(
            "restore the history file, or name the timeline with --target-timeline: walden window lists them",
        );
    }
    if request.backup.is_some()
        && let Some(other) = any(Why::NotOnPath)
    {
        let message = format!("backup {}: {}", other.id, other.message);
        return Refusal::new(RefusalReason::NoBackupOnPath, message)
            .hint("choose another --target-timeline, or leave --backup out");
    }
    let message = "no backup is on the way to the target timeline";
    Refusal::new(RefusalReason::NoBackupOnPath, message).hint("choose another --target-timeline")
}

/// A transaction or a restore point that was not found: is it on another timeline, or before the backup asked for?
fn say_where(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    ways: &[Way<'_>],
    refusal: Refusal,
) -> Sought<Refusal> {
    let target = request.target.describe();
    let on = ways.first().map(|way| way.target_timeline);
    let branches = branches_with(snapshot, request, on.filter(|_| request.backup.is_none()))?;
    if let Some(branch) = branches.iter().find(|branch| Some(branch.timeline) == on) {
        let message =
            format!("{target} is in the archive, at {}, but not behind this backup", branch.last.lsn);
        return Ok(Refusal { message, ..refusal }.hint("leave --backup out"));
    }
    if let Some(branch) = branches.first() {
        let on = on.map(|on| format!(" to timeline {on}")).unwrap_or_default();
        let timeline = branch.timeline;
        let message =
            format!("{target} is not on the way{on}: it is on timeline {timeline}, at {}", branch.last.lsn);
        return Ok(Refusal { message, ..refusal }.hint(format!("--target-timeline {timeline}")));
    }
    if matches!(request.target, RecoveryTarget::Xid(_)) && refusal.hint.is_none() {
        let hint = "a subtransaction that committed has no record of its own: use the id of the transaction that it \
                    belongs to; and a transaction that wrote nothing has no record either";
        return Ok(refusal.hint(hint));
    }
    Ok(refusal)
}

fn hint(refusal: &Refusal, before: Option<&Moment>, after: Option<&Moment>) -> String {
    let moment = |moment: &Moment| match moment.time {
        Some(time) => format!("{} (--target-lsn {})", postgres_time(time), moment.lsn),
        None => format!("--target-lsn {}", moment.lsn),
    };
    let near = match (before, after) {
        (Some(before), Some(after)) => {
            format!("the nearest moments are {} and {}", moment(before), moment(after))
        }
        (Some(before), None) => format!("the nearest moment before is {}", moment(before)),
        (None, Some(after)) => format!("the nearest moment after is {}", moment(after)),
        (None, None) => return "walden window shows what can be restored".to_owned(),
    };
    match refusal.reason {
        RefusalReason::TargetAfterArchive => {
            format!("{near}; without a target everything archived is recovered")
        }
        _ => format!("{near}; walden window shows all of it"),
    }
}

/// The last moment at or before the target and the first one after it that can be restored.
fn nearest(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    ways: &[Way<'_>],
    rejected: &[RejectedBackup],
) -> Sought<(Option<Moment>, Option<Moment>)> {
    // Those that end after the target were turned down before they became ways.
    let mut all = Vec::new();
    let on_path = snapshot.backups.iter().filter(|backup| {
        backup.requires.is_empty() && request.backup.as_ref().is_none_or(|id| *id == backup.id)
    });
    for backup in on_path {
        if let Ok(way) = Way::to_timeline(snapshot, request.timeline, backup) {
            all.push(way);
        }
    }
    all.sort_by_key(|way| (way.backup.finished_at, way.backup.stop_lsn));
    let too_early = |way: &Way<'_>| {
        let early = BackupRejection::StopsBeforeConsistency;
        rejected.iter().any(|other| other.id == way.backup.id && other.reason == early)
    };
    let is_before = |way: &Way<'_>| match &request.target {
        _ if too_early(way) => false,
        RecoveryTarget::Time(time) => way.backup.finished_at <= *time,
        RecoveryTarget::Lsn(lsn) => way.backup.stop_lsn <= *lsn,
        RecoveryTarget::Latest | RecoveryTarget::Immediate => true,
        // Where it is can't be known; but a way that was turned down because it meets the target too early is
        // surely behind it.
        RecoveryTarget::Xid(_) | RecoveryTarget::Name(_) => {
            !ways.iter().any(|tried| tried.backup.id == way.backup.id)
        }
    };
    let mut before = None;
    for way in all.iter().rev().filter(|way| is_before(way)) {
        let end = reach_end(snapshot, way)?;
        let fits = |moment: &Moment| match &request.target {
            RecoveryTarget::Time(time) => moment.time.is_some_and(|reached| reached <= *time),
            RecoveryTarget::Lsn(lsn) => moment.lsn <= *lsn,
            _ => true,
        };
        if let Some(end) = end.filter(fits) {
            before = Some(end);
            break;
        }
    }
    let mut after = None;
    // Where a transaction or a name is can't be known, but that it is met before a backup is consistent tells.
    let unplaced = matches!(request.target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_));
    let is_after = |way: &Way<'_>| if unplaced { too_early(way) } else { !is_before(way) };
    for way in all.iter().filter(|way| is_after(way)) {
        if reach_end(snapshot, way)?.is_some() {
            let backup = way.backup;
            after = Some(Moment { lsn: backup.stop_lsn, time: Some(backup.finished_at), xid: None });
            break;
        }
    }
    if matches!(request.target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_)) {
        before = None;
    }
    Ok((before, after))
}

/// The last moment that a way reaches; `None` when it does not even become consistent.
pub(super) fn reach_end(snapshot: &CatalogSnapshot, way: &Way<'_>) -> Sought<Option<Moment>> {
    Ok(reach_of(snapshot, way)?.map(|reach| reach.last))
}

/// How far a way goes.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    /// The last moment.
    pub(super) last: Moment,
    /// The end of the WAL that can be replayed.
    pub(super) wal_end: Lsn,
}

/// How far a way goes; `None` when it does not even become consistent.
pub(super) fn reach_of(snapshot: &CatalogSnapshot, way: &Way<'_>) -> Sought<Option<Reach>> {
    let walk = way.walk(snapshot);
    let Found::Wall(wall) = walk.follow(None)? else { return Ok(None) };
    let (wal_end, number, limit) = walk.end_at(&wall)?;
    if wal_end < way.backup.stop_lsn {
        return Ok(None);
    }
    let commit = walk.last_commit(number, limit)?;
    let last = match commit {
        Some(commit) if commit.lsn >= way.backup.stop_lsn => {
            Moment { lsn: commit.lsn, time: Some(timestamp(commit.time)), xid: Some(commit.xid) }
        }
        _ => Moment { lsn: way.backup.stop_lsn, time: Some(way.backup.finished_at), xid: None },
    };
    Ok(Some(Reach { last, wal_end }))
}
