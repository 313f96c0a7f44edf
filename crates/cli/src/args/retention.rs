//! `walden retention`, and the verbs of `walden backup` that decide what stays.

use clap::{Args, Subcommand};
use walden_core::{BackupId, ErrorKind, HowLong, PolicyZone, PromisedWindow, RetentionPolicy};

use super::{WhichArgs, help};
use crate::failure::Failure;

const POLICY: &str = "Policy";
const ALLOW: &str = "Although a warning speaks against it";

/// `walden retention …`.
#[derive(Debug, Subcommand)]
pub(crate) enum RetentionVerb {
    /// Show what would stay and what would go, and which moments with it
    #[command(long_about = help::RETENTION_PLAN, after_help = help::RETENTION_PLAN_EXAMPLES)]
    Plan(Box<RetentionPlanArgs>),
    /// Show a plan, and carry it out
    #[command(long_about = help::RETENTION_APPLY, after_help = help::RETENTION_APPLY_EXAMPLES)]
    Apply(Box<RetentionApplyArgs>),
    /// List the runs there were: what they were about to remove, and what they did
    #[command(long_about = help::RETENTION_LOG, after_help = help::RETENTION_LOG_EXAMPLES)]
    Log(RetentionLogArgs),
}

/// A policy on the command line: each option stands for the setting of the same name in `[retention]`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyArgs {
    /// The recovery window: every moment of the last so long stays restorable; 14d, 36h, forever, none
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) window: Option<PromisedWindow>,
    /// At least so many of the newest restorable full backups stay
    #[arg(long, value_name = "N", help_heading = POLICY)]
    pub(crate) keep_full: Option<u32>,
    /// Full backups of so many days
    #[arg(long, value_name = "N", help_heading = POLICY)]
    pub(crate) daily: Option<u32>,
    /// Full backups of so many ISO weeks
    #[arg(long, value_name = "N", help_heading = POLICY)]
    pub(crate) weekly: Option<u32>,
    /// Full backups of so many months
    #[arg(long, value_name = "N", help_heading = POLICY)]
    pub(crate) monthly: Option<u32>,
    /// Full backups of so many years
    #[arg(long, value_name = "N", help_heading = POLICY)]
    pub(crate) yearly: Option<u32>,
    /// The zone of those days and weeks, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", help_heading = POLICY)]
    pub(crate) zone: Option<PolicyZone>,
    /// A timeline that is not followed any more stays for so long after its last write
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) dead_timelines: Option<HowLong>,
    /// So long does an incarnation that is not archived any more
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) old_incarnations: Option<HowLong>,
    /// So long does a backup that was never finished
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) unfinished_backups: Option<HowLong>,
    /// So long do the parts of an upload that was never completed
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) uploads: Option<HowLong>,
    /// So long do records of drills and verifications
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) evidence: Option<HowLong>,
    /// So long do records of retention runs
    #[arg(long, value_name = "TIME", help_heading = POLICY)]
    pub(crate) audit: Option<HowLong>,
}

impl PolicyArgs {
    /// The policy with what the command line says laid over it, and whether it says anything.
    ///
    /// # Errors
    /// Kind `config` when it can't be meant.
    pub(crate) fn over(&self, policy: &RetentionPolicy) -> Result<(RetentionPolicy, bool), Failure> {
        let base = policy.clone();
        let changed = RetentionPolicy {
            window: self.window.unwrap_or(base.window),
            minimum_fulls: self.keep_full.unwrap_or(base.minimum_fulls),
            daily: self.daily.unwrap_or(base.daily),
            weekly: self.weekly.unwrap_or(base.weekly),
            monthly: self.monthly.unwrap_or(base.monthly),
            yearly: self.yearly.unwrap_or(base.yearly),
            zone: self.zone.clone().unwrap_or(base.zone),
            dead_timelines: self.dead_timelines.unwrap_or(base.dead_timelines),
            old_incarnations: self.old_incarnations.unwrap_or(base.old_incarnations),
            unfinished_backups: self.unfinished_backups.unwrap_or(base.unfinished_backups),
            uploads: self.uploads.unwrap_or(base.uploads),
            evidence: self.evidence.unwrap_or(base.evidence),
            audit: self.audit.unwrap_or(base.audit),
        };
        changed.validate().map_err(|error| Failure::new(ErrorKind::Config, error.to_string()))?;
        let says = self.says_anything();
        Ok((changed, says))
    }

    fn says_anything(&self) -> bool {
        let counts = [self.keep_full, self.daily, self.weekly, self.monthly, self.yearly];
        let times = [
            self.dead_timelines,
            self.old_incarnations,
            self.unfinished_backups,
            self.uploads,
            self.evidence,
            self.audit,
        ];
        self.window.is_some()
            || self.zone.is_some()
            || counts.iter().any(Option::is_some)
            || times.iter().any(Option::is_some)
    }
}

/// `walden retention plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RetentionPlanArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// Plan for a moment ahead, as if nothing new came until then: 30d, 2026-12-31 or 2026-12-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Also show how it differs from what the configured policy would do now
    #[arg(long)]
    pub(crate) compare: bool,
}

/// `walden retention apply`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RetentionApplyArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// Do not ask: carry out the plan that is shown
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) allow: AllowArgs,
}

/// What is allowed although a warning speaks against it.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct AllowArgs {
    /// Go on although nothing was archived for longer than the window: the server is gone for good, and what goes is not
    /// missed
    #[arg(long, help_heading = ALLOW)]
    pub(crate) allow_nothing_new: bool,
    /// Go on although the newest object was written in the future by this host's clock: I know which clock is wrong, and
    /// that ages are judged by this one
    #[arg(long, help_heading = ALLOW)]
    pub(crate) allow_clock_behind: bool,
}

/// `walden retention log`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RetentionLogArgs {
    /// Only the newest ones, so many
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) last: usize,
}

/// `walden backup pin`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupPinArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// The backup
    #[arg(value_name = "ID")]
    pub(crate) id: BackupId,
    /// Why it has to stay: whoever meets the pin will read it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Until when: 90d, 2027-01-31 or 2027-01-31T12:00:00Z; without it the pin has no end
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

/// `walden backup unpin`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupUnpinArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// The backup
    #[arg(value_name = "ID")]
    pub(crate) id: BackupId,
    /// Why it need not stay any more
    #[arg(long, value_name = "TEXT", default_value = "let go of", hide_default_value = true)]
    pub(crate) reason: String,
}

/// `walden backup delete`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupDeleteArgs {
    /// The backup; several at once
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<BackupId>,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) allow: AllowArgs,
}
