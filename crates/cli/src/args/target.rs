//! The options that name a recovery target, under PostgreSQL's own names.

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use walden_core::{BackupId, RecoveryAction, RecoveryRates, RecoveryRequest, RecoveryTarget, TargetTimeline};
use walden_pg::{Lsn, TimelineId};

use crate::failure::Failure;
use crate::times::{parse_time, parse_zone};

const HEADING: &str = "Recovery target";

/// Where recovery shall stop. At most one target; without one recovery goes to the end of the archive.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// Stop at this moment: every transaction that committed up to it is kept
    ///
    /// Written with an offset ("2026-11-20 14:31:58.204113+00", 2026-11-20T14:31:58Z), relative ("5 minutes ago",
    /// "2 hours ago"), or in words ("yesterday 14:32"). A time without a zone is refused unless --timezone says
    /// which zone is meant. "latest" stands for the end of the archive, and never
    /// waits for more.
    #[arg(long, value_name = "TIME", group = "target", help_heading = HEADING)]
    pub(crate) target_time: Option<String>,
    /// The zone of a time that names none: Europe/Berlin, UTC, +02:00
    #[arg(long, value_name = "ZONE", requires = "target_time", help_heading = HEADING)]
    pub(crate) timezone: Option<String>,
    /// Stop at this position in the WAL, such as 16/B374D848
    #[arg(long, value_name = "LSN", group = "target", help_heading = HEADING)]
    pub(crate) target_lsn: Option<Lsn>,
    /// Stop when this transaction has ended
    #[arg(long, value_name = "XID", group = "target", help_heading = HEADING)]
    pub(crate) target_xid: Option<u64>,
    /// Stop at a restore point made with pg_create_restore_point()
    #[arg(long, value_name = "NAME", group = "target", help_heading = HEADING)]
    pub(crate) target_name: Option<String>,
    /// Stop as soon as the backup is consistent
    #[arg(long, group = "target", help_heading = HEADING)]
    pub(crate) target_immediate: bool,
    /// Stop just before the target instead of just after it (with a time, an LSN or a transaction)
    #[arg(long, help_heading = HEADING)]
    pub(crate) target_exclusive: bool,
    /// The timeline to follow: latest (the default), current (the backup's own), or a number
    ///
    /// A number is decimal, as in PostgreSQL's messages and history files; the digits of a file name are
    /// hexadecimal, and are taken with 0x in front.
    #[arg(long, value_name = "TIMELINE", default_value = "latest", hide_default_value = true, value_parser = parse_timeline, help_heading = HEADING)]
    pub(crate) target_timeline: TargetTimeline,
    /// What the server does at the target: pause (read-only, so that you can look first), promote or shutdown
    ///
    /// The default is pause with a target and promote without one. At a pause, look at the data; then either
    /// `SELECT pg_wal_replay_resume()` to promote, or restore again with another target.
    #[arg(long, value_name = "ACTION", value_enum, hide_possible_values = true, help_heading = HEADING)]
    pub(crate) target_action: Option<ActionArg>,
    /// Start from this backup instead of the best one
    #[arg(long, value_name = "ID", help_heading = HEADING)]
    pub(crate) backup: Option<BackupId>,
}

/// `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ActionArg {
    /// Stay read-only at the target.
    Pause,
    /// Open for writing on a new timeline.
    Promote,
    /// Stop the server.
    Shutdown,
}

impl From<ActionArg> for RecoveryAction {
    fn from(action: ActionArg) -> Self {
        match action {
            ActionArg::Pause => Self::Pause,
            ActionArg::Promote => Self::Promote,
            ActionArg::Shutdown => Self::Shutdown,
        }
    }
}

impl TargetArgs {
    /// The request for the planner; `now` is what relative times count from.
    ///
    /// # Errors
    /// A usage failure when the time or the zone is not understood.
    pub(crate) fn request(&self, now: Timestamp, rates: RecoveryRates) -> Result<RecoveryRequest, Failure> {
        let target = self.target(now)?;
        let action = self.target_action.map_or_else(|| default_action(&target), RecoveryAction::from);
        Ok(RecoveryRequest {
            target,
            exclusive: self.target_exclusive,
            timeline: self.target_timeline,
            action,
            backup: self.backup.clone(),
            rates,
        })
    }

    /// The zone that times are given in, and shown in.
    ///
    /// # Errors
    /// A usage failure when it is not understood.
    pub(crate) fn zone(&self) -> Result<Option<TimeZone>, Failure> {
        let zone = self.timezone.as_deref().map(parse_zone).transpose();
        zone.map_err(|error| usage("--timezone", error))
    }

    fn target(&self, now: Timestamp) -> Result<RecoveryTarget, Failure> {
        if let Some(text) = &self.target_time {
            let zone = self.zone()?;
            return time_target(text, zone.as_ref(), now);
        }
        Ok(match (self.target_lsn, self.target_xid, &self.target_name, self.target_immediate) {
            (Some(lsn), ..) => RecoveryTarget::Lsn(lsn),
            (_, Some(xid), ..) => RecoveryTarget::Xid(xid),
            (_, _, Some(name), _) => RecoveryTarget::Name(name.clone()),
            (_, _, _, true) => RecoveryTarget::Immediate,
            (None, None, None, false) => RecoveryTarget::Latest,
        })
    }
}

fn time_target(text: &str, zone: Option<&TimeZone>, now: Timestamp) -> Result<RecoveryTarget, Failure> {
    if text.trim() == "latest" {
        return Ok(RecoveryTarget::Latest);
    }
    let moment = parse_time(text, zone, now).map_err(|error| usage("--target-time", error))?;
    Ok(RecoveryTarget::Time(moment))
}

fn usage(option: &str, error: crate::times::TimeError) -> Failure {
    Failure::usage(format!("{option}: {}", error.reason)).with_hint(error.hint)
}

/// With a target somebody wants to look before the decision is final; without one nothing is left to decide.
pub(crate) fn default_action(target: &RecoveryTarget) -> RecoveryAction {
    match target {
        RecoveryTarget::Latest => RecoveryAction::Promote,
        RecoveryTarget::Immediate
        | RecoveryTarget::Time(_)
        | RecoveryTarget::Lsn(_)
        | RecoveryTarget::Xid(_)
        | RecoveryTarget::Name(_) => RecoveryAction::Pause,
    }
}

/// Reads `latest`, `current`, a decimal number, or a hexadecimal one with `0x`.
pub(crate) fn parse_timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => parse_timeline_id(number).map(TargetTimeline::Id),
    }
}

/// Reads a timeline's number: decimal, or hexadecimal with `0x`.
pub(crate) fn parse_timeline_id(text: &str) -> Result<TimelineId, String> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let sound = (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = sound.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
        return number.and_then(|number| TimelineId::new(number).ok()).ok_or_else(|| {
            "0x is followed by 1 to 8 hexadecimal digits, and a timeline is above 0".to_owned()
        });
    }
    if text.starts_with('0') {
        return Err(
            "timelines begin at 1 and are decimal without leading zeros, because 00000010 in a file name is \
                    timeline 16 and PostgreSQL would read 010 as 8; for the digits of a file name write 0x"
                .to_owned(),
        );
    }
    text.parse().map_err(|_| "write a number such as 3".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Verb};

    fn request(options: &[&str]) -> Result<RecoveryRequest, Failure> {
        let words = [&["walden", "plan"], options].concat();
        let cli = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let Verb::Plan(arguments) = cli.verb else { panic!("{words:?}") };
        let now = "2026-11-20T14:00:00Z".parse().unwrap();
        arguments.target.request(now, RecoveryRates::default())
    }

    #[test]
    fn each_target_becomes_the_request_of_its_name() {
        let moment = "2026-11-20T13:55:00Z".parse().unwrap();
        for (options, target) in [
            (&[][..], RecoveryTarget::Latest),
            (&["--target-time", "latest"], RecoveryTarget::Latest),
            (&["--target-time", "5 minutes ago"], RecoveryTarget::Time(moment)),
            (
                &["--target-time", "2026-11-20 14:55", "--timezone", "Europe/Berlin"],
                RecoveryTarget::Time(moment),
            ),
            (&["--target-lsn", "16/B374D848"], RecoveryTarget::Lsn("16/B374D848".parse().unwrap())),
            (&["--target-xid", "742"], RecoveryTarget::Xid(742)),
            (&["--target-name", "before_migration"], RecoveryTarget::Name("before_migration".into())),
            (&["--target-immediate"], RecoveryTarget::Immediate),
        ] {
            assert_eq!(request(options).unwrap().target, target, "{options:?}");
        }
    }

    #[test]
    fn a_target_pauses_and_the_end_promotes_unless_told() {
        let action = |options: &[&str]| request(options).unwrap().action;
        assert_eq!(action(&[]), RecoveryAction::Promote);
        assert_eq!(action(&["--target-xid", "7"]), RecoveryAction::Pause);
        assert_eq!(action(&["--target-immediate"]), RecoveryAction::Pause);
        assert_eq!(action(&["--target-xid", "7", "--target-action", "shutdown"]), RecoveryAction::Shutdown);
        assert_eq!(action(&["--target-action", "pause"]), RecoveryAction::Pause);
    }

    #[test]
    fn timelines_are_decimal_and_hexadecimal_only_with_0x() {
        let id = |number| Ok(TargetTimeline::Id(TimelineId::new(number).unwrap()));
        assert_eq!(parse_timeline("latest"), Ok(TargetTimeline::Latest));
        assert_eq!(parse_timeline("current"), Ok(TargetTimeline::Current));
        assert_eq!(parse_timeline("16"), id(16));
        assert_eq!(parse_timeline("0x10"), id(16));
        assert_eq!(parse_timeline("0X0000001A"), id(26));
        for bad in
            ["", "0", "010", "00000010", "0x", "0x0", "0x100000000", "0x+1", "1A", "-1", "4294967296", "x"]
        {
            assert!(parse_timeline(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_targets_are_one_too_many() {
        let words = ["walden", "plan", "--target-xid", "7", "--target-immediate"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
