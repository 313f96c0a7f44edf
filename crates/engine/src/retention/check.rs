//! What `walden check` says of retention: is there a policy, does the archive fulfil it, when was the last run.

use jiff::{SignedDuration, Timestamp};
use walden_core::{IncarnationRecord, PromisedWindow, RetentionOutcome, RetentionPolicy, postgres_time};

use super::audit::retention_log;
use crate::catalog::load_overview;
use crate::check::{Check, CheckStatus};
use crate::context::Context;
use crate::error::Result;
use crate::planning::window_from;

/// A policy that nobody has carried out for so long is worth a word.
const RUN_WARNING: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The checks of retention. Without a policy there is one line, which says so.
///
/// # Errors
/// Of the store.
pub async fn retention_checks(
    ctx: &Context,
    record: &IncarnationRecord,
    policy: Option<&RetentionPolicy>,
) -> Result<Vec<Check>> {
    let Some(policy) = policy else {
        let detail = "no policy is configured: nothing is removed, and the archive grows";
        return Ok(vec![check("retention", CheckStatus::Ok, detail.to_owned(), None)]);
    };
    Ok(vec![promise_check(ctx, record, policy).await?, run_check(ctx).await?])
}

fn check(name: &'static str, status: CheckStatus, detail: String, hint: Option<&str>) -> Check {
    Check { name, status, detail, hint: hint.map(str::to_owned) }
}

/// Whether the first restorable moment is as old as the window.
async fn promise_check(ctx: &Context, record: &IncarnationRecord, policy: &RetentionPolicy) -> Result<Check> {
    const NAME: &str = "retention";
    let now = ctx.clock.now();
    let mut snapshot = load_overview(ctx, record).await?;
    let window = window_from(ctx, &mut snapshot).await?;
    let Some(newest) = window.timelines.iter().max_by_key(|timeline| timeline.timeline) else {
        let detail = "nothing can be restored, whatever the policy promises".to_owned();
        return Ok(check(NAME, CheckStatus::Warning, detail, Some("walden backup create")));
    };
    let usable = newest.backups.iter().filter(|backup| backup.last.is_some()).count();
    if usable < policy.minimum_fulls as usize {
        let detail = format!(
            "fewer restorable backups than are promised have={usable} promised={}",
            policy.minimum_fulls
        );
        return Ok(check(NAME, CheckStatus::Warning, detail, Some("take backups: walden backup create")));
    }
    let PromisedWindow::Last(promised) = policy.window else {
        return Ok(check(NAME, CheckStatus::Ok, format!("{usable} restorable backups are there"), None));
    };
    let from = promised.before(now);
    let reached = newest.first.and_then(|first| first.time);
    Ok(match reached {
        Some(first) if first <= from => {
            let detail = format!("the window of {promised} is reached: moments since {}", shown(first));
            check(NAME, CheckStatus::Ok, detail, None)
        }
        Some(first) => {
            // A young archive can't have it yet; that is no fault, and still worth knowing.
            let detail = format!(
                "the window of {promised} is not reached yet: the first restorable moment is {}",
                shown(first)
            );
            check(NAME, CheckStatus::Ok, detail, None)
        }
        None => {
            let detail = format!("the window of {promised} is not reached: nothing can be restored");
            check(NAME, CheckStatus::Warning, detail, Some("walden window shows why"))
        }
    })
}

fn shown(moment: Timestamp) -> String {
    postgres_time(moment)
}

/// When the last run was, and how it ended.
async fn run_check(ctx: &Context) -> Result<Check> {
    const NAME: &str = "retention run";
    let hint = Some("run it from a timer: walden retention apply --yes");
    let Some(last) = retention_log(ctx, 1).await?.into_iter().next() else {
        return Ok(check(NAME, CheckStatus::Warning, "the policy was never carried out".to_owned(), hint));
    };
    let began = last.id.started_at().unwrap_or(Timestamp::MIN);
    let age = ctx.clock.now().duration_since(began);
    let at = shown(began);
    Ok(match last.done.map(|done| (done.outcome, done.message)) {
        Some((RetentionOutcome::Finished, _)) if age <= RUN_WARNING => {
            check(NAME, CheckStatus::Ok, format!("the last run, at {at}, finished"), None)
        }
        Some((RetentionOutcome::Finished, _)) => {
            check(NAME, CheckStatus::Warning, format!("the last run was at {at}"), hint)
        }
        Some((_, message)) => {
            let why = message.unwrap_or_default();
            let detail = format!("the last run, at {at}, did not finish: {why}");
            check(NAME, CheckStatus::Warning, detail, Some("walden retention log; a new run goes on"))
        }
        None => {
            let detail = format!("the last run, at {at}, has no end: it is at work, or was ended");
            check(NAME, CheckStatus::Ok, detail, None)
        }
    })
}
