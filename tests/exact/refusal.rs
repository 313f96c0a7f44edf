//! Refusals: PostgreSQL must refuse, too, or get it wrong without a word in a way that is known.

use std::fmt;

use serde_json::Value;
use walden_pg::{PgMajor, TimelineId};
use walden_testkit::history::{BackupTaken, Ending, Stopped, WalEnd};

use crate::damage::Damage;
use crate::judge::{Judge, mismatch};
use crate::tally::Verdict;
use crate::targets::{Goal, Target, Timeline};

/// What PostgreSQL did with a target that the plan refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Real {
    /// The WAL ended before the target.
    NotReached,
    /// The target came before the backup was consistent.
    TooEarly,
    /// The WAL ended before the backup was consistent, or before it even began.
    WalShort,
    /// The backup is not on the way to the timeline.
    OffPath,
    /// The timeline has no history.
    NoTimeline,
    /// `restore_command` said that a file cannot be had.
    Unreadable,
    /// The WAL was written with `wal_level=minimal`.
    Minimal,
    /// The settings contradict each other, or are not understood.
    Refused,
    /// Something else.
    Other(String),
    /// It stopped, and the result is newer than the target.
    Newer,
    /// It stopped at the target, and the result is right; only the backup's own end is later than the target.
    RightDuringBackup,
    /// It stopped early, at a hole or at damage, or went on along an older timeline past a fork.
    LedAstray,
    /// It went through the WAL of another timeline than the backup's from the start.
    Mixed,
    /// It followed an older timeline, since `latest` ends at the first history that is missing.
    OlderBranch,
    /// It stopped, and nothing seems wrong with that.
    Works(Box<Stopped>),
}

impl Real {
    /// Whether PostgreSQL came to a stop and took queries.
    fn has_stopped(&self) -> bool {
        matches!(
            self,
            Self::Newer | Self::RightDuringBackup | Self::LedAstray | Self::OlderBranch | Self::Works(_)
        )
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReached => "ends without the target",
            Self::TooEarly => "target before consistency",
            Self::WalShort => "WAL too short for the backup",
            Self::OffPath => "backup not on the path",
            Self::NoTimeline => "no such timeline",
            Self::Unreadable => "file can't be had",
            Self::Minimal => "wal_level=minimal",
            Self::Refused => "settings refused",
            Self::Other(message) => message,
            Self::Newer => "SILENT: newer than the target",
            Self::RightDuringBackup => "right, though during the backup",
            Self::LedAstray => "SILENT: a hole, damage or a missing fork",
            Self::Mixed => "SILENT: a backup and another timeline's WAL",
            Self::OlderBranch => "SILENT: an older branch",
            Self::Works(_) => "works",
        })
    }
}

/// What PostgreSQL may do where a backup is rejected for such a reason.
fn fits(judge: &Judge<'_>, reason: &str, target: &Target, real: &Real) -> bool {
    match reason {
        // An index tells what a torn object held.
        _ if matches!(judge.archive.damage, Damage::Torn(_)) && *real == Real::Unreadable => true,
        "ends_after_target" => {
            matches!(
                real,
                Real::TooEarly
                    | Real::NotReached
                    | Real::WalShort
                    | Real::Newer
                    | Real::RightDuringBackup
                    | Real::OffPath
                    | Real::LedAstray
                    | Real::Unreadable
                    | Real::Minimal
            )
        }
        "stops_before_consistency" => {
            matches!(real, Real::TooEarly) || (*real == Real::WalShort && target.goal == Goal::Latest)
        }
        // 13 and 14 take the timeline from the checkpoint's record and not from the backup's label: where another
        // timeline has a checkpoint at the same position, they mix two timelines without a word.
        "not_on_path" if judge.history.major < PgMajor::V15 && real.has_stopped() => true,
        "not_on_path" => matches!(real, Real::OffPath | Real::TooEarly | Real::WalShort | Real::NotReached),
        // Past a fork whose segment is missing, the parent's WAL may hold anything.
        "missing_segments" => {
            matches!(real, Real::NotReached | Real::WalShort | Real::LedAstray | Real::Minimal)
        }
        "damaged_wal" => {
            matches!(real, Real::NotReached | Real::WalShort | Real::LedAstray | Real::Unreadable)
        }
        "wal_level_minimal" => matches!(real, Real::Minimal),
        "target_not_found" => {
            matches!(real, Real::NotReached) || (*real == Real::WalShort && target.goal != Goal::Latest)
        }
        // Without the history of the backup's own timeline PostgreSQL takes it for one without parents; and `latest`
        // is an older branch then, without a word. Whatever comes of that is of no interest.
        "missing_history" if target.timeline == Timeline::Latest => !matches!(real, Real::Other(_)),
        "missing_history" if target.timeline == Timeline::Current => !matches!(real, Real::Other(_)),
        "missing_history" => matches!(real, Real::NoTimeline | Real::OlderBranch | Real::OffPath),
        _ => false,
    }
}

/// Compares a refusal with what PostgreSQL does with each backup that it speaks of.
pub(crate) fn compare(judge: &Judge<'_>, target: &Target, refusal: &Value) -> Verdict {
    let reason = refusal["reason"].as_str().unwrap_or_default().to_owned();
    let mut seen = Vec::new();
    for rejected in refusal["rejected"].as_array().into_iter().flatten() {
        let why = rejected["reason"].as_str().unwrap_or_default();
        if why == "not_requested" {
            continue;
        }
        let id = rejected["id"].as_str().unwrap_or_default();
        let backup = judge.history.backups.iter().find(|backup| backup.id == id).unwrap();
        let real = classify(judge, target, backup, judge.recover_by_hand(target, backup));
        if !fits(judge, why, target, &real) {
            let what = format!("backup {id} is rejected ({why}), PostgreSQL: {real:?}");
            return mismatch(target, refusal, &format!("{what}\nrejected: {}", refusal["rejected"]));
        }
        let mixed = why == "not_on_path" && real.has_stopped();
        seen.push((why.to_owned(), if mixed { Real::Mixed } else { real }));
    }
    if seen.is_empty() {
        return without_backups(judge, target, refusal, &reason);
    }
    if let Some(wrong) = wrong_summary(&reason, &seen) {
        return mismatch(target, refusal, &format!("{wrong}\nrejected: {}", refusal["rejected"]));
    }
    // The most remarkable one stands for all.
    let (_, real) = seen.iter().max_by_key(|(_, real)| weight(real)).unwrap();
    let how = format!("{reason}: PostgreSQL: {real}");
    if matches!(real, Real::RightDuringBackup | Real::Works(_)) {
        Verdict::Careful(how)
    } else {
        Verdict::SameRefusal(how)
    }
}

/// Whether the reason of the whole is that of one of its parts.
fn wrong_summary(reason: &str, seen: &[(String, Real)]) -> Option<String> {
    let parts: &[&str] = match reason {
        "target_before_backups" => &["ends_after_target", "stops_before_consistency"],
        "no_backup_on_path" => &["not_on_path"],
        "missing_segments" => &["missing_segments"],
        "damaged_wal" => &["damaged_wal"],
        "wal_level_minimal" => &["wal_level_minimal"],
        "target_not_found" | "target_after_archive" => &["target_not_found"],
        "unknown_timeline" => &["missing_history"],
        _ => &[],
    };
    let fits = seen.iter().any(|(why, _)| parts.contains(&why.as_str()));
    (!fits).then(|| format!("the reason {reason} is none of the backups' reasons"))
}

fn weight(real: &Real) -> u32 {
    match real {
        Real::RightDuringBackup | Real::Works(_) => 9,
        Real::Newer | Real::Mixed | Real::LedAstray | Real::OlderBranch => 8,
        Real::NotReached => 5,
        Real::TooEarly => 4,
        Real::WalShort | Real::Minimal | Real::Unreadable => 3,
        _ => 1,
    }
}

/// A refusal that looks at no backup: PostgreSQL must fail with each of them.
fn without_backups(judge: &Judge<'_>, target: &Target, refusal: &Value, reason: &str) -> Verdict {
    let mut how = String::new();
    for backup in
        judge.history.backups.iter().filter(|backup| target.backup.as_ref().is_none_or(|id| *id == backup.id))
    {
        let real = classify(judge, target, backup, judge.recover_by_hand(target, backup));
        if let Real::Works(_) | Real::Other(_) = real {
            return mismatch(
                target,
                refusal,
                &format!("refused ({reason}), PostgreSQL with {}: {real:?}", backup.id),
            );
        }
        how = format!("{reason}: PostgreSQL: {real}");
    }
    Verdict::SameRefusal(how)
}

/// The program failed and did not refuse: it may where an object cannot be read that recovery needs, too.
pub(crate) fn compare_failure(judge: &Judge<'_>, target: &Target, said: &str) -> Verdict {
    if matches!(judge.archive.damage, Damage::Torn(_)) && said.contains("exit status: 14") {
        let backups = judge.history.backups.iter();
        let asked = backups.filter(|backup| target.backup.as_ref().is_none_or(|id| *id == backup.id));
        let endings: Vec<Real> = asked
            .map(|backup| classify(judge, target, backup, judge.recover_by_hand(target, backup)))
            .collect();
        if !endings.iter().any(|real| matches!(real, Real::Works(_))) {
            return Verdict::SameRefusal("corrupt object: PostgreSQL: can't have it either".to_owned());
        }
        return Verdict::Careful("the plan can't read a torn object that recovery would not need".to_owned());
    }
    Verdict::Mismatch(format!("walden plan {}\nthe program failed: {said}", target.options().join(" ")))
}

fn classify(judge: &Judge<'_>, target: &Target, backup: &BackupTaken, ending: Ending) -> Real {
    match ending {
        Ending::Hung { log } => Real::Other(format!("it hangs: {log}")),
        Ending::Failed { message } => classify_failure(&message),
        Ending::Stopped(stopped) => classify_stop(judge, target, backup, stopped),
    }
}

fn classify_failure(message: &str) -> Real {
    let has = |text: &str| message.contains(text);
    if has("recovery ended before configured recovery target was reached") {
        Real::NotReached
    } else if has("requested recovery stop point is before consistent recovery point") {
        Real::TooEarly
    } else if has("WAL ends before")
        || has("online backup was canceled")
        || has("could not locate required checkpoint")
        || has("could not find redo location")
    {
        Real::WalShort
    } else if has("is not a child of this server's history")
        || has("is not in this server's history")
        || has("does not contain minimum recovery point")
    {
        Real::OffPath
    } else if has("recovery target timeline") && has("does not exist") {
        Real::NoTimeline
    } else if has("could not restore file") {
        Real::Unreadable
    } else if has("wal_level=minimal") || has("wal_level was not set to") || has("wal_level is \"minimal\"") {
        Real::Minimal
    } else if has("configuration file") || has("multiple recovery targets") {
        Real::Refused
    } else {
        Real::Other(message.to_owned())
    }
}

fn classify_stop(judge: &Judge<'_>, target: &Target, backup: &BackupTaken, stopped: Box<Stopped>) -> Real {
    let timeline = judge.timeline(target, backup);
    if target.timeline == Timeline::Latest
        && judge.intact.histories().keys().next_back().is_some_and(|newest| *newest > timeline)
    {
        return Real::OlderBranch;
    }
    if is_astray(judge, timeline, backup, &stopped) {
        return Real::LedAstray;
    }
    if matches!(target.goal, Goal::Time(_)) {
        let files = judge.intact;
        let start = files.segments().first().map(|id| files.segment_size().start_of(id.number)).unwrap();
        let path = judge.path(timeline, start, true);
        let mut kept = path.commits().filter(|(record, ..)| record.end <= stopped.replayed_to);
        let newer = kept.any(|(_, _, time)| target.is_past(time));
        return if newer { Real::Newer } else { Real::RightDuringBackup };
    }
    Real::Works(stopped)
}

/// Whether PostgreSQL came to an end that is not that of the archive, or left the path to its timeline.
fn is_astray(judge: &Judge<'_>, timeline: TimelineId, backup: &BackupTaken, stopped: &Stopped) -> bool {
    let path = judge.path(timeline, backup.start_lsn, false);
    if stopped.replayed_to > path.end_lsn() {
        return true;
    }
    let files = &judge.archive.files;
    let history = files.history(timeline).unwrap();
    let ends_at = match &path.end {
        WalEnd::Missing(name) => name.id(files.segment_size()).unwrap().number,
        WalEnd::Ends(lsn) | WalEnd::Damaged(lsn, _) => files.segment_size().segment_of(*lsn),
    };
    // The path goes on behind its end: that end is a hole.
    let beyond = files.segments().iter().any(|id| {
        id.number > ends_at && *id == files.segment_on(&history, files.segment_size().start_of(id.number))
    });
    let damaged = matches!(path.end, WalEnd::Damaged(..));
    // Timelines that begin at the end or behind it were promised by the history.
    let promised =
        history.entries().iter().any(|entry| files.segment_size().segment_of(entry.switch_lsn) >= ends_at);
    beyond || damaged || promised
}
