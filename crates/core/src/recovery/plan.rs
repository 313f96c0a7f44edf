//! `plan_recovery`: which backup, which timelines, which segments, or why not.

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{Lsn, SegmentName, SegmentNumber, TimelineId};

use super::path::{PathStep, TimelinePath, latest_timeline};
use super::request::{RecoveryRequest, RecoveryTarget, TargetTimeline, postgres_time};
use crate::layout::{BackupId, Incarnation, ServerName};
use crate::records::BackupRecord;
use crate::snapshot::CatalogSnapshot;

/// Most missing segments that a plan or a refusal lists by name; the count is always exact.
const MISSING_LISTED_MAX: usize = 100;

/// The backup that a plan starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupChoice {
    /// Its name.
    pub id: BackupId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Recovery reads WAL from here.
    pub start_lsn: Lsn,
    /// Recovery is consistent from here.
    pub stop_lsn: Lsn,
    /// When it ended, by the source's clock.
    pub finished_at: Timestamp,
    /// Plain bytes that the restored data directory will have.
    pub bytes: u64,
    /// Bytes to fetch.
    pub stored_bytes: u64,
    /// Why this one.
    pub reason: String,
}

/// Why a backup was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupRejection {
    /// The request names another.
    NotRequested,
    /// It ends after the target.
    EndsAfterTarget,
    /// It is not on the path to the target timeline.
    NotOnPath,
    /// WAL that it needs is missing.
    MissingSegments,
    /// A newer version wrote it, with something that this version does not know.
    Unsupported,
    /// Another backup serves better.
    Outranked,
    /// The history of the target timeline is missing or can't be followed.
    MissingHistory,
    /// Its commit record can't be read.
    Unreadable,
}

/// A backup that was looked at and not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedBackup {
    /// Its name.
    pub id: BackupId,
    /// Why, for machines.
    pub reason: BackupRejection,
    /// Why, for people.
    pub message: String,
}

/// The segments that a plan reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SegmentNeeds {
    /// How many; at most, where the target's place in the WAL is not proved.
    pub count: u64,
    /// Their bytes in the store.
    pub bytes: u64,
    /// The first.
    pub first: Option<SegmentName>,
    /// The last.
    pub last: Option<SegmentName>,
    /// The missing ones, at most 100 of them; a plan has none.
    pub missing: Vec<SegmentName>,
    /// How many are missing.
    pub missing_count: u64,
}

/// How far the plan has proved that the target will be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The target lies inside WAL that is present without a gap.
    Proved,
    /// All WAL to the end of the archive is present, but whether the target lies in it was not read.
    WalPresent,
}

/// A setting for the restored server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// PostgreSQL's name of it.
    pub name: String,
    /// Its value, unquoted.
    pub value: String,
}

/// How the target will be met: every choice with its reason. Executors carry it out and decide nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryPlan {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The moment of planning.
    pub planned_at: Timestamp,
    /// What was asked for.
    pub request: RecoveryRequest,
    /// Where to start.
    pub backup: BackupChoice,
    /// The backups not taken, newest first.
    pub rejected: Vec<RejectedBackup>,
    /// The timeline that recovery follows.
    pub target_timeline: TimelineId,
    /// The timelines on the way, oldest first.
    pub timeline_path: Vec<PathStep>,
    /// The segments on the way.
    pub segments: SegmentNeeds,
    /// WAL is present without a gap up to here.
    pub wal_end_lsn: Lsn,
    /// How far the target is proved.
    pub reach: Reach,
    /// Requests to the store, about.
    pub requests: u64,
    /// Bytes to fetch: backup and segments.
    pub bytes: u64,
    /// What was proved.
    pub proved: Vec<String>,
    /// What was not.
    pub not_proved: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The recovery settings that restore writes; `restore_command` is added by it.
    pub settings: Vec<Setting>,
}

/// Why a request can't be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// There is no backup at all.
    NoBackup,
    /// The backup asked for does not exist.
    UnknownBackup,
    /// The target timeline has no history in the archive.
    UnknownTimeline,
    /// Every backup ends after the target.
    TargetBeforeBackups,
    /// No backup lies on the path to the target timeline.
    NoBackupOnPath,
    /// WAL between every backup and the target is missing.
    MissingSegments,
    /// The target lies beyond the end of the archive.
    TargetAfterArchive,
    /// Backups exist that only a newer version can read.
    Unsupported,
    /// The request contradicts itself.
    InvalidRequest,
}

/// The answer no, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why, for machines.
    pub reason: RefusalReason,
    /// Why, for people.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The nearest position before the target that can be reached.
    pub nearest_before: Option<Lsn>,
    /// The nearest position after the target that can be reached.
    pub nearest_after: Option<Lsn>,
    /// The backups looked at, newest first.
    pub rejected: Vec<RejectedBackup>,
}

impl Refusal {
    fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message, hint: None, nearest_before: None, nearest_after: None, rejected: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Plans a recovery over a snapshot of the catalog. Nothing is read and nothing decided later: the same
/// arguments give the same plan.
///
/// # Errors
/// A [`Refusal`] when the request can't be met, or can't be proved to be met without losing WAL.
pub fn plan_recovery(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    now: Timestamp,
) -> Result<RecoveryPlan, Refusal> {
    check_request(request, now)?;
    if snapshot.backups.is_empty() {
        return Err(no_backup(snapshot));
    }
    if let Some(id) = request.backup.as_ref().filter(|id| snapshot.backup(id).is_none()) {
        let refusal =
            Refusal::new(RefusalReason::UnknownBackup, format!("backup {id} is not in the archive"));
        return Err(refusal.hint("walden backup list shows the ones that are"));
    }
    let mut rejected: Vec<RejectedBackup> = snapshot
        .unreadable_backups
        .iter()
        .map(|(id, why)| RejectedBackup {
            id: id.clone(),
            reason: BackupRejection::Unreadable,
            message: format!("its record can't be read: {why}"),
        })
        .collect();
    let (mut chosen, mut before_gap): (Option<Candidate<'_>>, Option<Candidate<'_>>) = (None, None);
    for backup in candidates(snapshot, request) {
        if let Some(chosen) = &chosen {
            rejected.push(reject(backup, BackupRejection::Outranked, chosen.outranks()));
            continue;
        }
        match consider(snapshot, request, backup) {
            Ok(candidate) if candidate.gap.is_none() => chosen = Some(candidate),
            Ok(candidate) => {
                rejected.push(reject(backup, BackupRejection::MissingSegments, candidate.describe_gap()));
                before_gap.get_or_insert(candidate);
            }
            Err((reason, message)) => rejected.push(reject(backup, reason, message)),
        }
    }
    if chosen.is_none()
        && let Some(candidate) = before_gap
    {
        rejected.retain(|rejected| rejected.id != candidate.backup.id);
        chosen = Some(candidate);
    }
    match chosen {
        Some(candidate) => Ok(candidate.into_plan(snapshot, request, now, rejected)),
        None => Err(refuse(snapshot, request, rejected)),
    }
}

fn check_request(request: &RecoveryRequest, now: Timestamp) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(RefusalReason::InvalidRequest, message));
    match &request.target {
        RecoveryTarget::Time(time) if *time > now => {
            let refusal = Refusal::new(
                RefusalReason::TargetAfterArchive,
                format!("the target time {} is in the future", postgres_time(*time)),
            );
            Err(refusal.hint("leave the target out to recover everything that is archived"))
        }
        RecoveryTarget::Name(name) if name.is_empty() || name.len() > 63 => {
            refuse("a restore point's name has 1 to 63 bytes".to_owned())
        }
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_) if request.exclusive => {
            refuse("exclusive has a meaning only with a time, an LSN or a transaction".to_owned())
        }
        _ => Ok(()),
    }
}

fn no_backup(snapshot: &CatalogSnapshot) -> Refusal {
    let unfinished = snapshot.unfinished_backups.len();
    let message = if unfinished == 0 {
        "there is no base backup in the archive".to_owned()
    } else {
        format!("there is no finished base backup in the archive; unfinished={unfinished}")
    };
    Refusal::new(RefusalReason::NoBackup, message).hint("take one with walden backup create")
}

/// The backups in the order in which they should be tried. The newest one needs the least WAL; but where the
/// target's place in the WAL is unknown only the oldest is surely before it.
fn candidates<'a>(snapshot: &'a CatalogSnapshot, request: &RecoveryRequest) -> Vec<&'a BackupRecord> {
    let mut backups: Vec<&BackupRecord> = snapshot.backups.iter().collect();
    backups.sort_by_key(|backup| (backup.finished_at, backup.stop_lsn));
    if !matches!(request.target, RecoveryTarget::Name(_)) {
        backups.reverse();
    }
    backups
}

fn reject(backup: &BackupRecord, reason: BackupRejection, message: String) -> RejectedBackup {
    RejectedBackup { id: backup.id.clone(), reason, message }
}

/// A backup that can serve the request.
struct Candidate<'a> {
    backup: &'a BackupRecord,
    target_timeline: TimelineId,
    steps: Vec<PathStep>,
    needs: SegmentNeeds,
    wal_end_lsn: Lsn,
    /// What is missing behind [`Self::wal_end_lsn`]; the target may lie before it.
    gap: Option<SegmentNeeds>,
}

/// A timeline newer than the one that `latest` leads to, which is in the archive and can't be followed there: a
/// lost or damaged history must not turn `latest` into an older branch without a word.
fn unreachable_timeline(snapshot: &CatalogSnapshot, latest: TimelineId) -> Option<TimelineId> {
    let known =
        snapshot.segments.keys().chain(snapshot.histories.keys()).chain(snapshot.damaged_histories.keys());
    known.copied().filter(|timeline| *timeline > latest).max()
}

fn consider<'a>(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    backup: &'a BackupRecord,
) -> Result<Candidate<'a>, (BackupRejection, String)> {
    if request.backup.as_ref().is_some_and(|id| *id != backup.id) {
        return Err((BackupRejection::NotRequested, "another backup was asked for".to_owned()));
    }
    if let Some(feature) = backup.requires.first() {
        return Err((BackupRejection::Unsupported, format!("it needs a newer walden: feature {feature:?}")));
    }
    ends_before_target(backup, request)?;
    let target_timeline = match request.timeline {
        TargetTimeline::Latest => latest_timeline(snapshot, backup.timeline),
        TargetTimeline::Current => backup.stop_timeline,
        TargetTimeline::Id(timeline) => timeline,
    };
    let history = snapshot.histories.get(&target_timeline);
    if history.is_none() && target_timeline != TimelineId::FIRST {
        let message = format!("the history file of timeline {target_timeline} is not in the archive");
        return Err((BackupRejection::MissingHistory, message));
    }
    if request.timeline == TargetTimeline::Latest
        && let Some(beyond) = unreachable_timeline(snapshot, target_timeline)
    {
        let message = format!(
            "timeline {beyond} is in the archive, but its history can't be followed from timeline {target_timeline}"
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
    let Walk { all, reached, wal_end_lsn } = walk(snapshot, &path, backup, &request.target);
    let steps = path.from(backup.start_lsn);
    if all.missing_count == 0 {
        return Ok(Candidate { backup, target_timeline, steps, needs: all, wal_end_lsn, gap: None });
    }
    // A moment, a transaction or a name may lie before the gap; where it does not, PostgreSQL ends with an error
    // at the gap and does not promote. The end of the archive, or a position, is known to lie behind it.
    let may_lie_before =
        matches!(request.target, RecoveryTarget::Time(_) | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_));
    if may_lie_before && wal_end_lsn >= backup.stop_lsn {
        return Ok(Candidate { backup, target_timeline, steps, needs: reached, wal_end_lsn, gap: Some(all) });
    }
    Err((BackupRejection::MissingSegments, describe_missing(&all)))
}

/// A target before the end of the backup is refused, although PostgreSQL might stop later without a word.
fn ends_before_target(
    backup: &BackupRecord,
    request: &RecoveryRequest,
) -> Result<(), (BackupRejection, String)> {
    let early = match &request.target {
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_) => None,
        RecoveryTarget::Time(time) => {
            (*time < backup.finished_at).then(|| format!("at {}", backup.finished_at))
        }
        RecoveryTarget::Lsn(lsn) => (*lsn < backup.stop_lsn).then(|| format!("at LSN {}", backup.stop_lsn)),
        RecoveryTarget::Xid(xid) => {
            // A transaction that was running at the end of the backup may end after it: taken when asked for.
            let over = xid_precedes(*xid, backup.oldest_xid.unwrap_or(0));
            let begun = xid_precedes(*xid, backup.next_xid) && (over || request.backup.is_none());
            begun.then(|| format!("when the next transaction was {}", backup.next_xid))
        }
    };
    match early {
        Some(when) => Err((BackupRejection::EndsAfterTarget, format!("it ended after the target, {when}"))),
        None => Ok(()),
    }
}

/// Whether a transaction began before the one numbered `next` (64 bits): by all 64 bits when the request has
/// them, else as PostgreSQL compares 32-bit ids (`TransactionIdPrecedes`).
fn xid_precedes(xid: u64, next: u64) -> bool {
    match u32::try_from(xid) {
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the id on the wire")]
        Ok(low) if next > u64::from(u32::MAX) => (low.wrapping_sub(next as u32)) > u32::MAX / 2,
        _ => xid < next,
    }
}

/// What [`walk`] found.
struct Walk {
    /// Everything on the way to the target, or to the end of the archive.
    all: SegmentNeeds,
    /// What is there before the first missing segment.
    reached: SegmentNeeds,
    /// Where that ends.
    wal_end_lsn: Lsn,
}

/// Follows the path from the backup's start to where the target needs it.
fn walk(
    snapshot: &CatalogSnapshot,
    path: &TimelinePath,
    backup: &BackupRecord,
    target: &RecoveryTarget,
) -> Walk {
    let size = snapshot.incarnation.segment_size;
    let first = size.segment_of(backup.start_lsn);
    let last = last_needed(snapshot, path, backup, target);
    let mut all = SegmentNeeds::default();
    let mut reached = None;
    let mut wal_end_lsn = size.start_of(first);
    for number in first.get()..=last.get() {
        let number = SegmentNumber::new(number);
        let Some(id) = path.segment(number, size) else { continue };
        let name = id.name(size);
        if let Some(bytes) = snapshot.segment_bytes(id) {
            all.bytes += u64::from(bytes);
            if all.missing_count == 0 {
                wal_end_lsn = size.end_of(number);
            }
        } else {
            if all.missing_count == 0 {
                reached = Some(all.clone());
            }
            all.missing_count += 1;
            if all.missing.len() < MISSING_LISTED_MAX {
                all.missing.push(name);
            }
        }
        all.count += 1;
        all.first.get_or_insert(name);
        all.last = Some(name);
    }
    Walk { reached: reached.unwrap_or_else(|| all.clone()), all, wal_end_lsn }
}

/// The last segment that a target needs, as far as names tell.
fn last_needed(
    snapshot: &CatalogSnapshot,
    path: &TimelinePath,
    backup: &BackupRecord,
    target: &RecoveryTarget,
) -> SegmentNumber {
    let size = snapshot.incarnation.segment_size;
    let consistent = size.last_segment_before(backup.stop_lsn);
    let archived = path.steps().iter().filter_map(|step| {
        // A timeline begins in the segment of its fork, even if nothing of it has arrived yet.
        let fork = (step.start_lsn > Lsn::INVALID).then(|| size.segment_of(step.start_lsn));
        // A parent's segments beyond the fork are of another branch.
        let end = step.end_lsn.map(|end| size.segment_of(end));
        let last = snapshot.last_segment(step.timeline).map(|last| end.map_or(last, |end| last.min(end)));
        last.max(fork)
    });
    let archived = archived.max().unwrap_or(consistent).max(consistent);
    match target {
        RecoveryTarget::Immediate => consistent,
        // One segment beyond the archive is enough to see that the target is not in it.
        RecoveryTarget::Lsn(lsn) => size.segment_of(*lsn).clamp(consistent, archived.next()),
        _ => archived,
    }
}

fn describe_missing(needs: &SegmentNeeds) -> String {
    let names: Vec<String> = needs.missing.iter().take(3).map(ToString::to_string).collect();
    let more = if needs.missing_count > 3 { ", …" } else { "" };
    format!(
        "WAL is missing: {} of {} segments ({}{more})",
        needs.missing_count,
        needs.count,
        names.join(", ")
    )
}

impl Candidate<'_> {
    fn describe_gap(&self) -> String {
        self.gap.as_ref().map(describe_missing).unwrap_or_default()
    }

    fn outranks(&self) -> String {
        format!("{} serves better", self.backup.id)
    }

    fn into_plan(
        self,
        snapshot: &CatalogSnapshot,
        request: &RecoveryRequest,
        now: Timestamp,
        mut rejected: Vec<RejectedBackup>,
    ) -> RecoveryPlan {
        rejected.sort_by(|a, b| b.id.cmp(&a.id));
        let backup = self.backup;
        let reach = match request.target {
            RecoveryTarget::Latest | RecoveryTarget::Immediate => Reach::Proved,
            // The segments are there; the records in them were not read.
            RecoveryTarget::Lsn(_)
            | RecoveryTarget::Time(_)
            | RecoveryTarget::Xid(_)
            | RecoveryTarget::Name(_) => Reach::WalPresent,
        };
        let histories = self.target_timeline.get().saturating_sub(1);
        RecoveryPlan {
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
                reason: self.reason(request, &rejected),
            },
            target_timeline: self.target_timeline,
            wal_end_lsn: self.wal_end_lsn,
            reach,
            requests: 2 + u64::from(backup.packs) + self.needs.count + u64::from(histories),
            bytes: backup.stored_bytes + self.needs.bytes,
            proved: self.proved(),
            not_proved: self.not_proved(request),
            warnings: self.warnings(snapshot, request, &rejected),
            settings: self.settings(request),
            rejected,
            timeline_path: self.steps,
            segments: self.needs,
            request: request.clone(),
        }
    }

    fn reason(&self, request: &RecoveryRequest, rejected: &[RejectedBackup]) -> String {
        let on = format!("on the way to timeline {}", self.target_timeline);
        let surely = rejected.iter().all(|rejected| rejected.reason == BackupRejection::Outranked);
        match (&request.backup, &request.target) {
            (Some(_), _) => "it was asked for".to_owned(),
            (None, RecoveryTarget::Name(_)) if surely => {
                format!("the oldest {on}: it is surely before the restore point")
            }
            (None, RecoveryTarget::Name(_)) => {
                format!("the oldest usable one {on}; the restore point may lie before it")
            }
            (None, target) if self.gap.is_some() => {
                format!("the newest {on} that ended before {}; WAL behind it is missing", target.describe())
            }
            (None, RecoveryTarget::Latest | RecoveryTarget::Immediate) => {
                format!("the newest {on} with all its WAL")
            }
            (None, target) => {
                format!("the newest {on} that ended before {}, with all its WAL", target.describe())
            }
        }
    }

    fn proved(&self) -> Vec<String> {
        let needs = &self.needs;
        let mut proved =
            vec![format!("the record of backup {}, which is written last, is there", self.backup.id)];
        if let (Some(first), Some(last)) = (needs.first, needs.last) {
            proved.push(format!("all {} segments from {first} to {last} are in the archive", needs.count));
        }
        for step in self.steps.iter().skip(1).filter(|step| step.start_lsn < self.wal_end_lsn) {
            proved.push(format!(
                "timeline {} takes over at {}, with its own segment",
                step.timeline, step.start_lsn
            ));
        }
        proved
    }

    fn not_proved(&self, request: &RecoveryRequest) -> Vec<String> {
        let end = self.wal_end_lsn;
        let mut not_proved = vec![
            "that every object of the backup is still whole: restore checks each one by its hash".to_owned(),
        ];
        match &request.target {
            RecoveryTarget::Latest | RecoveryTarget::Immediate => {}
            RecoveryTarget::Time(_) => not_proved.push(format!(
                "that a transaction ended after the target before the WAL ends at {end}: without one PostgreSQL stops \
                 there with an error and does not promote"
            )),
            RecoveryTarget::Lsn(lsn) => {
                not_proved.push(format!("that a complete record begins at {lsn} or later"));
            }
            RecoveryTarget::Xid(xid) => not_proved.push(format!("that transaction {xid} ended before {end}")),
            RecoveryTarget::Name(name) => not_proved.push(format!(
                "that restore point {name:?} was made between {} and {end}",
                self.backup.stop_lsn
            )),
        }
        not_proved
    }

    fn warnings(
        &self,
        snapshot: &CatalogSnapshot,
        request: &RecoveryRequest,
        rejected: &[RejectedBackup],
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.gap.is_some() {
            warnings.push(format!(
                "{}: the target must lie before {}; if it does not, PostgreSQL ends with an error there",
                self.describe_gap(),
                self.wal_end_lsn
            ));
        }
        if let RecoveryTarget::Name(_) = request.target {
            warnings.push(format!(
                "if the name was used more than once, the first one after backup {} counts; choose another with \
                 --backup, or its position with --target-lsn",
                self.backup.id
            ));
        }
        if !matches!(request.target, RecoveryTarget::Latest | RecoveryTarget::Immediate) {
            warnings.extend(self.abandoned(snapshot));
        }
        if let Some(partial) = snapshot.partials.iter().max() {
            warnings.push(format!(
                "{partial}.partial is in the archive: PostgreSQL never reads it, what is only in it is not recovered"
            ));
        }
        let newer = |other: &&RejectedBackup| {
            other.reason == BackupRejection::NotOnPath
                && other.id > self.backup.id
                && request.backup.is_none()
        };
        if let Some(newest) = rejected.iter().filter(newer).max_by(|a, b| a.id.cmp(&b.id))
            && let Some(backup) = snapshot.backup(&newest.id)
        {
            let other = backup.timeline;
            warnings.push(format!(
                "a newer backup, {}, is on timeline {other}, another branch than timeline {}: if that one is meant, \
                 --target-timeline {other}",
                newest.id, self.target_timeline
            ));
        }
        for unreadable in rejected.iter().filter(|rejected| rejected.reason == BackupRejection::Unreadable) {
            warnings.push(format!("backup {}: {}", unreadable.id, unreadable.message));
        }
        if !self.backup.checksum_failures.is_empty() {
            let files = self.backup.checksum_failures.len();
            warnings.push(format!("the backup holds pages with wrong checksums files={files}"));
        }
        warnings
    }

    /// Parents that go on after the path has left them: a moment there is sought on the child, and not found.
    fn abandoned(&self, snapshot: &CatalogSnapshot) -> Vec<String> {
        let size = snapshot.incarnation.segment_size;
        let goes_on = |step: &&PathStep| {
            step.end_lsn.is_some_and(|end| {
                snapshot.last_segment(step.timeline).is_some_and(|last| last > size.segment_of(end))
            })
        };
        let left = self.steps.iter().filter(goes_on);
        left.map(|step| {
            let (timeline, end) = (step.timeline, step.end_lsn.unwrap_or_default());
            format!(
                "timeline {timeline} goes on after the fork at {end}: moments there are reached with \
                 --target-timeline {timeline} only"
            )
        })
        .collect()
    }

    fn settings(&self, request: &RecoveryRequest) -> Vec<Setting> {
        let target = match &request.target {
            RecoveryTarget::Latest => None,
            RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
            RecoveryTarget::Time(time) => Some(("recovery_target_time", postgres_time(*time))),
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        // The unused targets are written empty, so that none left over from the source can clash; and before the
        // chosen one, because PostgreSQL takes an empty one after it for a second target
        // (`assign_recovery_target*`, src/backend/access/transam/xlogrecovery.c).
        let all = ["", "_time", "_lsn", "_xid", "_name"].map(|suffix| format!("recovery_target{suffix}"));
        let unused = all.into_iter().filter(|name| target.as_ref().is_none_or(|(chosen, _)| chosen != name));
        let mut settings: Vec<Setting> = unused.map(|name| Setting { name, value: String::new() }).collect();
        settings.extend(target.map(|(name, value)| Setting { name: name.to_owned(), value }));
        let inclusive = if request.exclusive { "off" } else { "on" };
        for (name, value) in [
            ("recovery_target_inclusive", inclusive.to_owned()),
            // A number: `latest` would be decided again, by what the archive shows then.
            ("recovery_target_timeline", self.target_timeline.to_string()),
            ("recovery_target_action", request.action.as_str().to_owned()),
        ] {
            settings.push(Setting { name: name.to_owned(), value });
        }
        settings
    }
}

/// Turns "no backup can serve" into the reason that helps most.
fn refuse(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    mut rejected: Vec<RejectedBackup>,
) -> Refusal {
    rejected.sort_by(|a, b| b.id.cmp(&a.id));
    let any = |reason| rejected.iter().find(|rejected| rejected.reason == reason);
    let target = request.target.describe();
    let refusal = if let Some(missing) = any(BackupRejection::MissingSegments) {
        missing_segments(snapshot, request, missing)
    } else if any(BackupRejection::EndsAfterTarget).is_some() {
        let message = format!("no backup ended before {target}");
        Refusal::new(RefusalReason::TargetBeforeBackups, message)
            .hint("choose a later target: walden backup list shows when each backup ended")
    } else if let Some(unsupported) = any(BackupRejection::Unsupported) {
        Refusal::new(
            RefusalReason::Unsupported,
            format!("backup {}: {}", unsupported.id, unsupported.message),
        )
    } else if let Some(missing) = any(BackupRejection::MissingHistory) {
        Refusal::new(RefusalReason::UnknownTimeline, missing.message.clone()).hint(
            "restore the history file, or name the timeline with --target-timeline: walden window lists them",
        )
    } else {
        let message = "no backup is on the way to the target timeline";
        Refusal::new(RefusalReason::NoBackupOnPath, message).hint("choose another --target-timeline")
    };
    let nearest_after = (refusal.reason == RefusalReason::TargetBeforeBackups)
        .then(|| snapshot.backups.iter().map(|backup| backup.stop_lsn).min())
        .flatten();
    Refusal { nearest_after, rejected, ..refusal }
}

fn missing_segments(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    missing: &RejectedBackup,
) -> Refusal {
    let reached = snapshot.backup(&missing.id).and_then(|backup| {
        let timeline = match request.timeline {
            TargetTimeline::Latest => latest_timeline(snapshot, backup.timeline),
            TargetTimeline::Current => backup.stop_timeline,
            TargetTimeline::Id(timeline) => timeline,
        };
        let path = TimelinePath::to(timeline, snapshot.histories.get(&timeline));
        let end = walk(snapshot, &path, backup, &request.target).wal_end_lsn;
        (end >= backup.stop_lsn).then_some((end, path))
    });
    let nearest_before = reached.as_ref().map(|(end, _)| *end);
    let beyond = match (&request.target, &reached) {
        (RecoveryTarget::Lsn(lsn), Some((end, path))) => {
            let size = snapshot.incarnation.segment_size;
            let archived = path.steps().iter().filter_map(|step| snapshot.last_segment(step.timeline)).max();
            archived.is_some_and(|last| size.end_of(last) <= *lsn && size.end_of(last) == *end)
        }
        _ => false,
    };
    let mut refusal = if beyond {
        let end = nearest_before.unwrap_or_default();
        let message = format!("{} lies beyond the end of the archive at {end}", request.target.describe());
        Refusal::new(RefusalReason::TargetAfterArchive, message)
    } else {
        let message = format!("backup {}: {}", missing.id, missing.message);
        Refusal::new(RefusalReason::MissingSegments, message)
    };
    refusal.nearest_before = nearest_before;
    refusal.hint = Some(match nearest_before {
        Some(end) => {
            format!("what can be reached without a gap ends at {end}: walden window shows all of it")
        }
        None => "no backup can be made consistent: take a new one with walden backup create".to_owned(),
    });
    refusal
}
