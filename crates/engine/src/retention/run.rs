//! `retention apply` and `backup delete`: the lease, a fresh listing, the checks, the audit records, the removal.

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use walden_core::{
    BackupId, ErrorKind, GroupChange, GroupKind, Inventory, Pin, RetentionDone, RetentionOutcome,
    RetentionPlan, RetentionPolicy, RetentionRunRecord, RetentionWarningKind, ServerName, check_plan,
    diff_plans, postgres_time,
};

use super::audit::write_audit;
use super::execute::{Counts, Ended, Executor, RetentionStop};
use super::inventory::{Survey, survey};
use super::pins::with_capabilities;
use super::planning::plan_over;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::init::random_id;
use crate::lease::{Lease, store_now};
use crate::progress::Unit;

/// A plan that was shown longer ago than this is not carried out.
const SHOWN_AGE_MAX: SignedDuration = SignedDuration::from_hours(1);
/// This host's clock may be ahead of the store's by so much.
const CLOCKS_APART: SignedDuration = SignedDuration::from_hours(1);
/// A plan is made anew so often, when the store keeps commit records that were to go.
const ROUNDS_MAX: usize = 4;
/// Differences that are told of a plan that would remove more than the one that was shown.
const CHANGES_TOLD_MAX: usize = 3;

/// What an operator allows although a warning speaks against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Nothing was archived for longer than the window. It is known, and the window may go all the same.
    pub nothing_new: bool,
    /// The newest object was written in the future, so a clock is wrong. It is known, and ages may be judged by it.
    pub clock_behind: bool,
}

impl Allowed {
    fn words(self) -> Vec<String> {
        let words = [(self.nothing_new, "nothing_new"), (self.clock_behind, "clock_behind")];
        words.into_iter().filter(|(allowed, _)| *allowed).map(|(_, word)| word.to_owned()).collect()
    }
}

/// What is there of a server, for plans: listed once, and planned over as often as one likes.
#[derive(Debug)]
pub struct RetentionSurvey {
    survey: Survey,
}

impl RetentionSurvey {
    /// Lists everything under the server's prefix.
    ///
    /// # Errors
    /// Kind `not_found` when the server is not there; and what the store gives: a listing that can't be finished is an
    /// error and never a smaller archive.
    pub async fn take(ctx: &Context) -> Result<Self> {
        Ok(Self { survey: survey(ctx).await? })
    }

    /// Plans by a policy for a moment: now, or one ahead to see what would go by then if nothing new came.
    ///
    /// # Errors
    /// Kind `config` when the policy can't be meant; and what the store gives.
    pub async fn plan(
        &mut self,
        ctx: &Context,
        policy: &RetentionPolicy,
        at: Timestamp,
    ) -> Result<RetentionPlan> {
        plan_over(ctx, &mut self.survey.inventory, policy, &[], at).await
    }

    /// Plans the removal of backups by name, and of nothing else.
    ///
    /// # Errors
    /// Kind `not_found` when one is not there, kind `must_stay` when one has to stay; and what the store gives.
    pub async fn plan_removal(
        &mut self,
        ctx: &Context,
        policy: &RetentionPolicy,
        asked: &[BackupId],
        at: Timestamp,
    ) -> Result<RetentionPlan> {
        plan_over(ctx, &mut self.survey.inventory, policy, asked, at).await
    }

    /// What could not be read of pins and audit records.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.survey.notes
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetentionReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The name of the run: its audit records have it.
    pub run: BackupId,
    /// How it ended.
    pub outcome: RetentionOutcome,
    /// Why it did not finish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The plan that was carried out.
    pub plan: RetentionPlan,
    /// Objects removed; those that were gone already count.
    pub removed_objects: u64,
    /// Objects that the store does not let go of yet: Object Lock, immutability, a retention period or a hold.
    pub locked_objects: u64,
    /// Some of their keys.
    pub locked: Vec<String>,
    /// Objects that we have no right to remove.
    pub denied_objects: u64,
    /// Uploads whose parts were removed.
    pub aborted_uploads: u64,
    /// Rollups written again.
    pub rollups: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The warnings of a plan that stop a run, unless they are allowed.
#[must_use]
pub fn stopping_warnings(plan: &RetentionPlan, allowed: Allowed) -> Vec<&str> {
    let stops = |kind| match kind {
        RetentionWarningKind::NothingNew => !allowed.nothing_new,
        RetentionWarningKind::ClockBehind => !allowed.clock_behind,
        _ => false,
    };
    plan.warnings
        .iter()
        .filter(|warning| stops(warning.kind))
        .map(|warning| warning.message.as_str())
        .collect()
}

/// Carries out a plan that was just shown: takes the lease, lists everything again, plans again for the same moment, and
/// removes what both plans remove, when the new one removes nothing else.
///
/// # Errors
/// Kind `busy` while another run has the lease; kind `must_stay` when the plan would remove more than was shown, when
/// it breaks a promise, or when something that goes is needed meanwhile; and what the store gives. A run that was begun
/// and failed has written so, and running again finishes it.
pub async fn apply_retention(
    ctx: &Context,
    shown: &RetentionPlan,
    allowed: Allowed,
    stop: Option<RetentionStop>,
) -> Result<RetentionReport> {
    let started = Instant::now();
    let ctx = &with_capabilities(ctx).await?;
    check_age(ctx, shown)?;
    let id = BackupId::new(ctx.clock.now(), random_salt()?);
    let mut lease = Lease::take(ctx, &format!("retention {id}")).await?;
    let mut run = Run { ctx, shown, allowed, id, stop, counts: Counts::default(), started };
    let done = run.under(&mut lease).await;
    if run.counts.under_way {
        // A request that may still arrive must find the lease taken: it expires after any such request is over.
        tracing::warn!("a removal got no answer: the lease is left to expire");
    } else {
        lease.release().await;
    }
    done
}

fn check_age(ctx: &Context, shown: &RetentionPlan) -> Result<()> {
    let age = ctx.clock.now().duration_since(shown.at);
    if age <= SHOWN_AGE_MAX && age >= -SHOWN_AGE_MAX {
        return Ok(());
    }
    let message = format!("the plan is for another moment than now: {}", postgres_time(shown.at));
    Err(EngineError::failed(ErrorKind::MustStay, message).with_hint("make a new one: walden retention plan"))
}

fn random_salt() -> Result<u16> {
    let digits = random_id()?;
    Ok(digits.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok()).unwrap_or_default())
}

struct Run<'a> {
    ctx: &'a Context,
    shown: &'a RetentionPlan,
    allowed: Allowed,
    id: BackupId,
    stop: Option<RetentionStop>,
    counts: Counts,
    started: Instant,
}

impl Run<'_> {
    async fn under(&mut self, lease: &mut Lease) -> Result<RetentionReport> {
        self.check_clock().await?;
        let mut locked = BTreeSet::new();
        let (mut inventory, mut plan) = self.plan_again(&locked).await?;
        lease.ensure().await?;
        self.write_begun(&plan, lease).await?;
        self.ctx.progress.begin("removing", Unit::Count, plan.removed.objects);
        let mut ended = Ok(Ended::Whole);
        for _ in 0..ROUNDS_MAX {
            let stop = &mut self.stop;
            ended = Executor::new(self.ctx, lease, stop, &mut self.counts, &plan, &inventory).run().await;
            let Ok(Ended::LockedBackups(kept)) = &ended else { break };
            // What the store does not let go of is a backup still, and keeps what it needs.
            locked.extend(kept.iter().cloned());
            match self.plan_again(&locked).await {
                Ok((there, again)) => (inventory, plan) = (there, again),
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        self.ctx.progress.end();
        self.write_done(&ended).await?;
        let (outcome, message) = self.outcome(&ended);
        ended?;
        Ok(self.report(plan, outcome, message))
    }

    /// Ages are counted from the times at which the store wrote things. A plan for a moment that the store's clock has not
    /// come to promises less than it says: whichever of the clocks is wrong, nothing goes.
    async fn check_clock(&self) -> Result<()> {
        let now = store_now(self.ctx).await?;
        let ahead = self.shown.at.duration_since(now);
        if ahead <= CLOCKS_APART || self.shown.is_empty() {
            return Ok(());
        }
        let message = format!(
            "this host's clock is ahead of the store's, which says {}: the window would be shorter than promised seconds={}",
            postgres_time(now),
            ahead.as_secs()
        );
        Err(EngineError::failed(ErrorKind::MustStay, message)
            .with_hint("nothing was removed; set the clocks right"))
    }

    /// Lists and plans again, and makes sure that the plan removes nothing that was not shown and breaks no promise.
    async fn plan_again(&self, locked: &BTreeSet<BackupId>) -> Result<(Inventory, RetentionPlan)> {
        let shown = self.shown;
        let mut inventory = survey(self.ctx).await?.inventory;
        inventory.pins.extend(locked.iter().map(|backup| Pin {
            backup: backup.clone(),
            until: None,
            reason: "the store does not let go of its record".to_owned(),
        }));
        let asked: Vec<BackupId> = shown.asked.iter().filter(|id| !locked.contains(id)).cloned().collect();
        let plan = if asked.is_empty() && !shown.asked.is_empty() {
            self.nothing_left()
        } else {
            plan_over(self.ctx, &mut inventory, &shown.policy, &asked, shown.at).await?
        };
        let more = more_than_shown(shown, &plan);
        if !more.is_empty() {
            let named: Vec<String> = more.iter().take(CHANGES_TOLD_MAX).map(name_of).collect();
            let message = format!(
                "the archive changed since the plan was shown: now more would go count={} such_as={}",
                more.len(),
                named.join(", ")
            );
            return Err(EngineError::failed(ErrorKind::MustStay, message)
                .with_hint("nothing of it was removed; look at a new plan: walden retention plan"));
        }
        if let Some(warning) = stopping_warnings(&plan, self.allowed).first().filter(|_| !plan.is_empty()) {
            return Err(EngineError::failed(ErrorKind::MustStay, format!("stopped by a warning: {warning}"))
                .with_hint(
                    "look at the clocks and at archiving; walden retention apply --help says how to go on",
                ));
        }
        check_plan(&plan, &inventory).map_err(|broken| {
            EngineError::failed(ErrorKind::MustStay, format!("the plan would break a promise: {broken}"))
                .with_hint("nothing was removed; look at a new plan: walden retention plan")
        })?;
        Ok((inventory, plan))
    }

    /// The plan when the store keeps everything that was asked for.
    fn nothing_left(&self) -> RetentionPlan {
        RetentionPlan {
            deletions: Vec::new(),
            groups: Vec::new(),
            windows: Vec::new(),
            stale_directories: Vec::new(),
            ..self.shown.clone()
        }
    }

    async fn write_begun(&self, plan: &RetentionPlan, lease: &Lease) -> Result<()> {
        let writer = self.ctx.writer("retention");
        let begun = plan.begun(self.id.clone(), lease.fence(), writer, self.allowed.words());
        let begun = begun
            .map_err(|error| EngineError::failed(ErrorKind::Internal, format!("no audit record: {error}")))?;
        write_audit(self.ctx, self.current(), &RetentionRunRecord::Begun(Box::new(begun))).await
    }

    /// Which incarnation's audit records tell of the run.
    fn current(&self) -> walden_core::Incarnation {
        self.shown.current
    }

    async fn write_done(&self, ended: &Result<Ended>) -> Result<()> {
        let (outcome, message) = self.outcome(ended);
        let counts = &self.counts;
        let done = RetentionDone {
            id: self.id.clone(),
            writer: self.ctx.writer("retention"),
            outcome,
            message,
            removed_objects: counts.removed,
            locked_objects: counts.locked,
            locked: counts.locked_keys.clone(),
            denied_objects: counts.denied,
            aborted_uploads: counts.aborted_uploads,
            rollups: counts.rollups,
        };
        let written = write_audit(self.ctx, self.current(), &RetentionRunRecord::Done(Box::new(done))).await;
        match (written, ended) {
            // What ended the run is what must be told.
            (Err(error), Err(_)) => {
                tracing::warn!(%error, "the end of the run could not be written down");
                Ok(())
            }
            (written, _) => written,
        }
    }

    fn outcome(&self, ended: &Result<Ended>) -> (RetentionOutcome, Option<String>) {
        match ended {
            Ok(Ended::Whole) => (RetentionOutcome::Finished, None),
            Ok(Ended::LockedBackups(_)) => {
                let message = "the store kept commit records again and again".to_owned();
                (RetentionOutcome::Stopped, Some(message))
            }
            Ok(Ended::Denied) => (RetentionOutcome::Denied, self.counts.denied_message.clone()),
            Ok(Ended::Signal) => (RetentionOutcome::Stopped, Some("a signal asked to stop".to_owned())),
            Err(error) => (RetentionOutcome::Stopped, Some(error.to_string())),
        }
    }

    fn report(
        &self,
        plan: RetentionPlan,
        outcome: RetentionOutcome,
        message: Option<String>,
    ) -> RetentionReport {
        let counts = self.counts.clone();
        RetentionReport {
            schema: 1,
            server: self.ctx.server.clone(),
            run: self.id.clone(),
            outcome,
            message,
            plan,
            removed_objects: counts.removed,
            locked_objects: counts.locked,
            locked: counts.locked_keys,
            denied_objects: counts.denied,
            aborted_uploads: counts.aborted_uploads,
            rollups: counts.rollups,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

/// What a plan removes and the shown one did not. Rollups are derived: whether there is one decides nothing.
fn more_than_shown(shown: &RetentionPlan, plan: &RetentionPlan) -> Vec<GroupChange> {
    let derived = |kind: &GroupKind| matches!(kind, GroupKind::Rollup { .. } | GroupKind::BackupRollup);
    let goes = |change: &GroupChange| change.after.as_ref().is_some_and(walden_core::Fate::is_removal);
    // A backup whose commit record is gone already is an unfinished one, and goes as it was shown.
    let begun = |kind: &GroupKind| match kind {
        GroupKind::UnfinishedBackup { id } => shown.groups.iter().any(|group| {
            let same = matches!(&group.kind, GroupKind::Backup { id: own, .. } if own == id);
            same && group.fate.is_removal()
        }),
        _ => false,
    };
    let mut more = diff_plans(shown, plan).changes;
    more.retain(|change| goes(change) && !derived(&change.kind) && !begun(&change.kind));
    more
}

fn name_of(change: &GroupChange) -> String {
    match &change.kind {
        GroupKind::Backup { id, .. } | GroupKind::UnfinishedBackup { id } => format!("backup {id}"),
        GroupKind::Segments { first, last, .. } => format!("segments {first} to {last}"),
        GroupKind::File { name } => name.to_string(),
        GroupKind::History { timeline } => format!("history of timeline {timeline}"),
        GroupKind::Record { key, .. } | GroupKind::Upload { key, .. } => key.to_string(),
        GroupKind::Rollup { .. } | GroupKind::BackupRollup | GroupKind::Foreign { .. } => {
            "a rollup".to_owned()
        }
    }
}
