//! When was a restore last tried, and did it work?

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use walden_core::{CatalogSnapshot, DrillOutcome, DrillRecord, IncarnationRecord};

use super::{Check, lasted, shown};
use crate::context::Context;
use crate::drill::list_evidence;
use crate::error::Result;

const NAME: &str = "drill";
/// So many drills are looked back for one that went well.
const LOOKED_BACK: usize = 20;

/// The newest drill, and how old the newest good one is. Nothing is said of an archive that is too young for a drill.
pub(super) async fn drilled_check(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    snapshot: &CatalogSnapshot,
    max_age: Duration,
) -> Result<Option<Check>> {
    let now = ctx.clock.now();
    let drills = list_evidence(ctx, incarnation, LOOKED_BACK).await?.drills;
    let oldest = snapshot.backups.iter().map(|backup| backup.finished_at).min();
    Ok(judge(&drills, oldest, now, SignedDuration::try_from(max_age).unwrap_or(SignedDuration::MAX)))
}

fn judge(
    drills: &[DrillRecord],
    oldest_backup: Option<Timestamp>,
    now: Timestamp,
    max_age: SignedDuration,
) -> Option<Check> {
    let since = |moment: Timestamp| now.duration_since(moment);
    let ago = |moment: Timestamp| lasted(since(moment).as_secs().max(0));
    let Some(newest) = drills.last() else {
        let oldest = oldest_backup.filter(|oldest| since(*oldest) > max_age)?;
        let detail = format!("no restore was ever tried, and the oldest backup is from {}", shown(oldest));
        return Some(Check::warning(NAME, detail, "walden drill"));
    };
    if !newest.ok {
        let detail =
            format!("the newest drill, {}, {} ago: {}", newest.id, ago(newest.started_at), newest.describe());
        let hint = "walden drill show tells everything about it";
        return Some(if endangers_recovery(newest) {
            Check::failure(NAME, detail, hint)
        } else {
            Check::warning(NAME, detail, hint)
        });
    }
    let rto = newest.rto_seconds.map(|seconds| format!(", in {seconds:.1} s")).unwrap_or_default();
    let detail =
        format!("the newest drill, {} ago, was good: {}{rto}", ago(newest.started_at), newest.describe());
    Some(if since(newest.started_at) > max_age {
        Check::warning(NAME, format!("{detail}; that is long ago"), "walden drill")
    } else {
        Check::ok(NAME, detail)
    })
}

/// Whether a drill shows that a recovery would not work; others show that something is to be looked at, or that the
/// drill itself had no room, no time or no way to the store.
fn endangers_recovery(drill: &DrillRecord) -> bool {
    match drill.outcome {
        DrillOutcome::StoppedElsewhere | DrillOutcome::NoPlan => true,
        DrillOutcome::Failed => {
            let kind = drill.error.as_ref().map(|error| error.kind.as_str());
            matches!(kind, Some("corrupt" | "postgres" | "not_found"))
        }
        DrillOutcome::Ok
        | DrillOutcome::ChecksFailed
        | DrillOutcome::TimedOut
        | DrillOutcome::Interrupted => false,
    }
}

#[cfg(test)]
mod tests {
    use walden_core::DrillError;

    use super::super::CheckStatus;
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn drill(outcome: DrillOutcome, kind: &str) -> DrillRecord {
        let text = r#"{"id":"20261120T103905Z-7f3a","server":"main","incarnation":"7401234567890123456-17",
            "repository_id":"x","ok":false,"outcome":"failed","target":{"kind":"latest"},
            "started_at":"2026-11-20T10:39:05Z","finished_at":"2026-11-20T10:40:05Z","phases":[],"checks":[],
            "rto_seconds":12.34,"rpo_seconds":null,"versions":{"walden":"1"},
            "writer":{"host":"h","instance":"i","version":"1","at":"2026-11-20T10:39:05Z"}}"#;
        let record: DrillRecord = serde_json::from_str(text).unwrap();
        let error = DrillError { kind: kind.to_owned(), message: "x".to_owned(), hint: None };
        DrillRecord { ok: outcome == DrillOutcome::Ok, outcome, error: Some(error), ..record }
    }

    fn judged(drills: &[DrillRecord], days: i64) -> Option<(CheckStatus, String)> {
        let begun = "2026-11-20T10:39:05Z".parse::<Timestamp>().unwrap();
        let check = judge(drills, Some(begun), begun + DAY * i32::try_from(days).unwrap(), DAY * 30);
        check.map(|check| (check.status, check.detail))
    }

    #[test]
    fn a_good_drill_grows_old() {
        let good = [drill(DrillOutcome::Failed, "corrupt"), drill(DrillOutcome::Ok, "")];
        let (status, detail) = judged(&good, 29).unwrap();
        assert_eq!(status, CheckStatus::Ok);
        assert!(detail.contains("was good: restored to the end of the archive, in 12.3 s"), "{detail}");
        assert_eq!(judged(&good, 31).unwrap().0, CheckStatus::Warning);
    }

    #[test]
    fn a_young_archive_needs_no_drill_yet() {
        assert_eq!(judged(&[], 29), None);
        assert_eq!(judged(&[], 31).unwrap().0, CheckStatus::Warning);
    }

    #[test]
    fn only_what_endangers_recovery_is_a_failure() {
        let status = |outcome, kind| judged(&[drill(outcome, kind)], 1).unwrap().0;
        assert_eq!(status(DrillOutcome::StoppedElsewhere, ""), CheckStatus::Failure);
        assert_eq!(status(DrillOutcome::NoPlan, "target"), CheckStatus::Failure);
        assert_eq!(status(DrillOutcome::Failed, "corrupt"), CheckStatus::Failure);
        assert_eq!(status(DrillOutcome::Failed, "local_io"), CheckStatus::Warning);
        assert_eq!(status(DrillOutcome::ChecksFailed, ""), CheckStatus::Warning);
        assert_eq!(status(DrillOutcome::Interrupted, "unavailable"), CheckStatus::Warning);
    }
}
