//! `plan_recovery`: which backup, which timelines, which segments, where it stops; or why not.

use jiff::Timestamp;
use walden_pg::{Lsn, ParameterMaxima, TimelineId};

use super::answer::{
    BackupChoice, BackupRejection, Estimate, Planning, RecoveryPlan, RecoveryRates, Refusal, RefusalReason,
    RejectedBackup,
};
use super::branches::later_branch;
use super::path::{TimelinePath, latest_timeline};
use super::refuse::{check_request, no_backup, refuse};
use super::request::{RecoveryRequest, RecoveryTarget, TargetTimeline, postgres_time};
use super::settings::settings;
use super::stop::{StopFound, find_stop, left_out_by_order, same_name};
use super::walk::{Sought, Walk, Wall};
use super::warnings::{of_branch, warnings};
use crate::records::BackupRecord;
use crate::snapshot::CatalogSnapshot;

/// Plans a recovery over a snapshot of the catalog. Nothing is read and nothing decided later: the same arguments
/// give the same answer.
///
/// [`Planning::Needs`] says what else must be known; with it in the snapshot the caller asks again. Each round
/// asks for something new, so that the rounds end.
#[must_use]
pub fn plan_recovery(snapshot: &CatalogSnapshot, request: &RecoveryRequest, now: Timestamp) -> Planning {
    match decide(snapshot, request, now) {
        Ok(Ok(plan)) => Planning::Plan(Box::new(plan)),
        Ok(Err(refusal)) => Planning::Refused(Box::new(refusal)),
        Err(need) => Planning::Needs(vec![need]),
    }
}

fn decide(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    now: Timestamp,
) -> Sought<Result<RecoveryPlan, Refusal>> {
    if let Err(refusal) = check_request(request, now) {
        return Ok(Err(refusal));
    }
    if snapshot.backups.is_empty() {
        return Ok(Err(no_backup(snapshot)));
    }
    if let Some(id) = request.backup.as_ref().filter(|id| snapshot.backup(id).is_none()) {
        let message = format!("backup {id} is not in the archive");
        let refusal = Refusal::new(RefusalReason::UnknownBackup, message);
        return Ok(Err(refusal.hint("walden backup list shows the ones that are")));
    }
    let mut rejected = unreadable(snapshot);
    let mut ways = Vec::new();
    for backup in newest_first(snapshot) {
        match Way::of(snapshot, request, backup) {
            Ok(way) => ways.push(way),
            Err((reason, message)) => rejected.push(reject(backup, reason, message)),
        }
    }
    let Some(chosen) = choose(snapshot, request, &ways, &mut rejected)? else {
        return refuse(snapshot, request, &ways, rejected).map(Err);
    };
    assemble(snapshot, request, now, chosen, rejected).map(Ok)
}

fn unreadable(snapshot: &CatalogSnapshot) -> Vec<RejectedBackup> {
    let unreadable = snapshot.unreadable_backups.iter().map(|(id, why)| RejectedBackup {
        id: id.clone(),
        reason: BackupRejection::Unreadable,
        message: format!("its record can't be read: {why}"),
        expected_seconds: None,
    });
    unreadable.collect()
}

fn newest_first(snapshot: &CatalogSnapshot) -> Vec<&BackupRecord> {
    let mut backups: Vec<&BackupRecord> = snapshot.backups.iter().collect();
    backups.sort_by_key(|backup| std::cmp::Reverse((backup.finished_at, backup.stop_lsn)));
    backups
}

fn reject(backup: &BackupRecord, reason: BackupRejection, message: String) -> RejectedBackup {
    RejectedBackup { id: backup.id.clone(), reason, message, expected_seconds: None }
}

/// A backup, and the path from it to the timeline that is asked for.
pub(super) struct Way<'a> {
    pub(super) backup: &'a BackupRecord,
    pub(super) target_timeline: TimelineId,
    pub(super) path: TimelinePath,
}

impl<'a> Way<'a> {
    /// The way that starts with a backup, if the request can go it at all.
    pub(super) fn of(
        snapshot: &CatalogSnapshot,
        request: &RecoveryRequest,
        backup: &'a BackupRecord,
    ) -> Result<Self, (BackupRejection, String)> {
        if request.backup.as_ref().is_some_and(|id| *id != backup.id) {
            return Err((BackupRejection::NotRequested, "another backup was asked for".to_owned()));
        }
        if let Some(feature) = backup.requires.first() {
            let message = format!("it needs a newer walden: feature {feature:?}");
            return Err((BackupRejection::Unsupported, message));
        }
        let way = Self::to_timeline(snapshot, request.timeline, backup)?;
        // PostgreSQL might stop at the first later transaction, without a word that it is newer than asked for.
        if let RecoveryTarget::Time(time) = request.target
            && time < backup.finished_at
        {
            let message = format!("it ended after the target, at {}", postgres_time(backup.finished_at));
            return Err((BackupRejection::EndsAfterTarget, message));
        }
        Ok(way)
    }

    /// The way from a backup to a timeline.
    pub(super) fn to_timeline(
        snapshot: &CatalogSnapshot,
        timeline: TargetTimeline,
        backup: &'a BackupRecord,
    ) -> Result<Self, (BackupRejection, String)> {
        let target_timeline = match timeline {
            TargetTimeline::Latest => latest_timeline(snapshot, backup.timeline),
            TargetTimeline::Current => backup.stop_timeline,
            TargetTimeline::Id(timeline) => timeline,
        };
        let history = snapshot.histories.get(&target_timeline);
        if history.is_none() && target_timeline != TimelineId::FIRST {
            let message = format!("the history file of timeline {target_timeline} is not in the archive");
            return Err((BackupRejection::MissingHistory, message));
        }
        if timeline == TargetTimeline::Latest
            && let Some(beyond) = snapshot.newest_timeline().filter(|newest| *newest > target_timeline)
        {
            // A lost or damaged history must not turn `latest` into an older branch without a word.
            let message = format!(
                "timeline {beyond} is in the archive, but its history can't be followed from timeline \
                 {target_timeline}"
            );
            return Err((BackupRejection::MissingHistory, message));
        }
        let path = TimelinePath::to(target_timeline, history);
        let last_byte = backup.stop_lsn.checked_sub(1).unwrap_or(backup.stop_lsn);
        if path.timeline_at(backup.start_lsn) != Some(backup.timeline)
            || path.timeline_at(last_byte) != Some(backup.stop_timeline)
        {
            let message = format!("it is not on the way to timeline {target_timeline}");
            return Err((BackupRejection::NotOnPath, message));
        }
        Ok(Self { backup, target_timeline, path })
    }

    /// The WAL along it.
    pub(super) fn walk<'b>(&'b self, snapshot: &'b CatalogSnapshot) -> Walk<'b> {
        Walk::new(snapshot, &self.path, self.backup.start_lsn)
    }
}

/// A way that reaches the target.
struct Chosen<'w, 'a> {
    way: &'w Way<'a>,
    found: StopFound,
    estimate: Estimate,
}

/// Tries the ways, newest backup first. Of those that come to the same stop the fastest is taken; an older backup is
/// looked at only if its arithmetic is better, and one that stops elsewhere is not taken for its speed.
fn choose<'w, 'a>(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    ways: &'w [Way<'a>],
    rejected: &mut Vec<RejectedBackup>,
) -> Sought<Option<Chosen<'w, 'a>>> {
    let mut best: Option<Chosen<'w, 'a>> = None;
    for way in ways {
        let backup = way.backup;
        if let Some(chosen) = &best {
            let estimate = estimate(&request.rates, backup, chosen.found.stop.replayed_to);
            if estimate.seconds >= chosen.estimate.seconds {
                let better = &chosen.way.backup.id;
                let message = format!("{better} is expected to be faster: {}", estimate.basis);
                let rejection = reject(backup, BackupRejection::Outranked, message);
                rejected.push(RejectedBackup { expected_seconds: Some(estimate.seconds), ..rejection });
                continue;
            }
        }
        match reach(snapshot, request, way)? {
            // Speed must not decide what one gets.
            Ok(found) if best.as_ref().is_some_and(|best| best.found.stop.lsn != found.stop.lsn) => {
                let message = format!("recovery with it would stop elsewhere, at {}", found.stop.lsn);
                rejected.push(reject(backup, BackupRejection::Outranked, message));
            }
            Ok(found) => {
                let estimate = estimate(&request.rates, backup, found.stop.replayed_to);
                if let Some(slower) = best.replace(Chosen { way, found, estimate }) {
                    let message =
                        format!("{} is expected to be faster: {}", backup.id, slower.estimate.basis);
                    let rejection = reject(slower.way.backup, BackupRejection::Outranked, message);
                    let seconds = Some(slower.estimate.seconds);
                    rejected.push(RejectedBackup { expected_seconds: seconds, ..rejection });
                }
            }
            Err((reason, message)) => rejected.push(reject(backup, reason, message)),
        }
    }
    Ok(best)
}

/// Where a way stops for the target, or why it never comes there.
fn reach(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    way: &Way<'_>,
) -> Sought<Result<StopFound, (BackupRejection, String)>> {
    let walk = way.walk(snapshot);
    let found = match find_stop(&walk, way.backup, request)? {
        Ok(found) => found,
        Err(wall) => return Ok(Err(describe_wall(&walk, request, &wall))),
    };
    if found.stop.replayed_to < way.backup.stop_lsn {
        let early = format!(
            "recovery would come to the target at {} and is consistent only from {}",
            found.stop.lsn, way.backup.stop_lsn
        );
        return Ok(Err((BackupRejection::StopsBeforeConsistency, early)));
    }
    walk.listed_up_to(found.last_segment)?;
    Ok(Ok(found))
}

/// Why recovery meets no target before a wall.
pub(super) fn describe_wall(
    walk: &Walk<'_>,
    request: &RecoveryRequest,
    wall: &Wall,
) -> (BackupRejection, String) {
    match wall {
        Wall::EndOfArchive => {
            let what = match &request.target {
                RecoveryTarget::Time(_) => "no transaction ended after it".to_owned(),
                RecoveryTarget::Lsn(_) => "no record begins there or later".to_owned(),
                RecoveryTarget::Immediate => {
                    "the WAL that makes the backup consistent is not there".to_owned()
                }
                other => format!("{} is not in it", other.describe()),
            };
            let message =
                format!("the WAL that follows it, up to the end of the archive, was searched: {what}");
            match &request.target {
                RecoveryTarget::Immediate => (BackupRejection::MissingSegments, message),
                _ => (BackupRejection::TargetNotFound, message),
            }
        }
        Wall::Missing(number) => {
            let count = walk.missing_run(*number);
            let name = walk.name(*number).map(|name| name.to_string()).unwrap_or_default();
            let more = if count > 1 { format!(" and {} after it", count - 1) } else { String::new() };
            (BackupRejection::MissingSegments, format!("WAL is missing: segment {name}{more}"))
        }
        Wall::EndsEarly(lsn) => {
            let message = format!("the WAL ends at {lsn} inside a segment although later segments are there");
            (BackupRejection::DamagedWal, message)
        }
        Wall::Damaged(lsn, what) => {
            (BackupRejection::DamagedWal, format!("the WAL is damaged at {lsn}: {what}"))
        }
        Wall::Minimal(lsn) => {
            let message =
                format!("from {lsn} on the WAL was written with wal_level = minimal: recovery ends there");
            (BackupRejection::WalLevelMinimal, message)
        }
    }
}

/// How long a recovery takes: the backup first, then the WAL.
fn estimate(rates: &RecoveryRates, backup: &BackupRecord, replayed_to: Lsn) -> Estimate {
    let wal_bytes = replayed_to.bytes_since(backup.start_lsn).unwrap_or(0);
    let restore_seconds = backup.bytes.div_ceil(rates.restore_bytes_per_second.max(1));
    let replay_seconds = wal_bytes.div_ceil(rates.replay_bytes_per_second.max(1));
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    let basis = format!(
        "{} MB of backup at {} MB/s and {} MB of WAL at {} MB/s ({})",
        megabytes(backup.bytes),
        megabytes(rates.restore_bytes_per_second),
        megabytes(wal_bytes),
        megabytes(rates.replay_bytes_per_second),
        rates.source
    );
    Estimate { seconds: restore_seconds + replay_seconds, restore_seconds, replay_seconds, wal_bytes, basis }
}

fn assemble(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    now: Timestamp,
    chosen: Chosen<'_, '_>,
    mut rejected: Vec<RejectedBackup>,
) -> Sought<RecoveryPlan> {
    let Chosen { way, found, estimate } = chosen;
    let backup = way.backup;
    let walk = way.walk(snapshot);
    let left_out = left_out_by_order(&walk, backup, request, &found)?;
    let (same, all_of_name) = match &request.target {
        RecoveryTarget::Name(name) => same_name(&walk, name, &found)?,
        _ => (Vec::new(), true),
    };
    let settings_of_backup = ParameterMaxima {
        max_connections: backup.settings.max_connections,
        max_worker_processes: backup.settings.max_worker_processes,
        max_wal_senders: backup.settings.max_wal_senders,
        max_prepared_transactions: backup.settings.max_prepared_transactions,
        max_locks_per_transaction: backup.settings.max_locks_per_transaction,
    };
    let required = walk.required(settings_of_backup, found.last_segment, found.stop.replayed_to)?;
    rejected.sort_by(|a, b| b.id.cmp(&a.id));
    let segments = walk.needs(found.last_segment);
    let histories = u64::from(way.target_timeline.get().saturating_sub(1));
    let mut plan = RecoveryPlan {
        schema: 1,
        server: snapshot.incarnation.server.clone(),
        incarnation: snapshot.incarnation.incarnation(),
        planned_at: now,
        backup: BackupChoice {
            id: backup.id.clone(),
            timeline: backup.timeline,
            start_lsn: backup.start_lsn,
            stop_lsn: backup.stop_lsn,
            finished_at: backup.finished_at,
            bytes: backup.bytes,
            stored_bytes: backup.stored_bytes,
            reason: reason(request, way, &rejected),
            expected_seconds: estimate.seconds,
        },
        target_timeline: way.target_timeline,
        timeline_path: way.path.between(backup.start_lsn, found.stop.replayed_to),
        stop: found.stop,
        left_out_by_order_count: left_out.count,
        left_out_by_order: left_out.listed,
        left_out_by_order_exact: left_out.exact,
        same_name: same,
        required,
        requests: 2 + u64::from(backup.packs) + segments.count + histories,
        bytes: backup.stored_bytes + segments.bytes,
        estimate,
        warnings: Vec::new(),
        settings: settings(request, way.target_timeline),
        rejected,
        segments,
        request: request.clone(),
    };
    plan.warnings = warnings(snapshot, &plan, backup, &way.path, all_of_name);
    let kept = plan.stop.last_kept.map(|commit| commit.time);
    if let Some(branch) = later_branch(snapshot, request, way.target_timeline, kept)? {
        plan.warnings.insert(0, of_branch(&branch, way.target_timeline));
    }
    Ok(plan)
}

fn reason(request: &RecoveryRequest, way: &Way<'_>, rejected: &[RejectedBackup]) -> String {
    let on = format!("on the way to timeline {}", way.target_timeline);
    let outranked = rejected.iter().filter(|other| other.reason == BackupRejection::Outranked).count();
    match (&request.backup, outranked) {
        (Some(_), _) => "it was asked for".to_owned(),
        (None, 0) => format!("the only one {on} that reaches the target"),
        (None, _) => format!("of those {on} that reach the target, the one that is expected to be fastest"),
    }
}
