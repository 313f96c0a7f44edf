//! The options of `walden wal find`.

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use walden_core::index::find::{FindOperation, FindQuery, TablePattern};

use super::WhichArgs;
use crate::failure::Failure;
use crate::times::{parse_time, parse_zone};

const HEADING: &str = "What to look for";

/// `walden wal find`. Everything that is said must hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct WalFindArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Only this table: orders, public.orders or shop.public.orders; * stands for any letters
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    table: Option<TablePattern>,
    /// Only events of this kind, several times for several: drop, truncate, rewrite, mass-delete, mass-update,
    /// database-drop, restore-point, commit
    #[arg(long, value_name = "KIND", help_heading = HEADING)]
    op: Vec<FindOperation>,
    /// Only what this transaction did, and its end
    #[arg(long, value_name = "XID", help_heading = HEADING)]
    xid: Option<u64>,
    /// Only what happened between these moments, written as for --target-time
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2, help_heading = HEADING)]
    between: Vec<String>,
    /// Only restore points of this name
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    restore_point: Option<String>,
    /// The commits around this moment: ten before the place where a recovery to it stops, and ten behind
    #[arg(long, value_name = "TIME", conflicts_with_all = ["between", "table", "op", "xid", "restore_point"], help_heading = HEADING)]
    around: Option<String>,
    /// The zone of times that name none: Europe/Berlin, UTC, +02:00
    #[arg(long, value_name = "ZONE", help_heading = HEADING)]
    timezone: Option<String>,
    /// Tell so many events at most, the newest ones
    #[arg(long, value_name = "COUNT", default_value_t = 100, help_heading = HEADING)]
    pub(crate) limit: usize,
}

impl WalFindArgs {
    /// What is looked for; `now` is what relative times count from.
    ///
    /// # Errors
    /// A usage failure when a time or the zone is not understood.
    pub(crate) fn query(&self, now: Timestamp) -> Result<FindQuery, Failure> {
        let zone = self.timezone.as_deref().map(parse_zone).transpose();
        let zone = zone.map_err(|error| usage("--timezone", error))?;
        let moment = |option, text: Option<&String>| moment(option, text, zone.as_ref(), now);
        let (from, to) =
            (moment("--between", self.between.first())?, moment("--between", self.between.get(1))?);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(Failure::usage("--between: the first moment is later than the second"));
        }
        Ok(FindQuery {
            table: self.table.clone(),
            operations: self.op.clone(),
            xid: self.xid,
            from,
            to,
            restore_point: self.restore_point.clone(),
            around: moment("--around", self.around.as_ref())?,
        })
    }
}

fn moment(
    option: &str,
    text: Option<&String>,
    zone: Option<&TimeZone>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Failure> {
    let parsed = text.map(|text| parse_time(text, zone, now)).transpose();
    parsed.map_err(|error| usage(option, error))
}

fn usage(option: &str, error: crate::times::TimeError) -> Failure {
    Failure::usage(format!("{option}: {}", error.reason)).with_hint(error.hint)
}
