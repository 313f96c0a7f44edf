//! `walden drill`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use walden_core::Setting;

use super::{IncarnationArgs, RateArgs, TargetArgs, WhichArgs, help, parse_rate, parse_setting};
use crate::config::MaxRate;

const SERVER: &str = "Drilled server";
const CHECKS: &str = "Checks";

/// `walden drill`, and what can be asked about the drills that were.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DrillArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<DrillVerb>,
    #[command(flatten)]
    pub(crate) run: DrillRunArgs,
}

/// A drill.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrillRunArgs {
    #[command(flatten)]
    pub(crate) incarnation: IncarnationArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Draw the target: any moment of the recovery window, each as likely as the others
    #[arg(long, conflicts_with = "target", help_heading = "Recovery target")]
    pub(crate) random: bool,
    /// Draw with this number, which an earlier drill has told: the same window gives the same moment
    #[arg(long, value_name = "N", requires = "random", help_heading = "Recovery target")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) rates: RateArgs,
    /// Drill in a directory of its own below this one [default: drill in the state directory; for root the one for
    /// temporary files] [env: WALDEN_DRILL_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// How long everything may take, such as 4h [default: 12h] [env: WALDEN_DRILL_TIMEOUT]
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// Store no evidence in the repository
    #[arg(long)]
    pub(crate) no_evidence: bool,
    /// How many files to write at once; one per core unless set [env: WALDEN_JOBS]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<u32>,
    /// Most bytes per second fetched from the store, such as 50MB; replay has the agent's limit
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) max_rate: Option<MaxRate>,
    /// A file of SQL assertions: each statement gives true in every row it has [env: WALDEN_DRILL_SQL]
    ///
    /// Statements end with a semicolon; a comment "-- name: …" before one names it. A statement holds when the first
    /// column of all its rows is true; one that gives no row holds, one that gives something else than true or false
    /// does not. A statement without a result (SET …) prepares the next ones. Nothing can be written.
    #[arg(long, value_name = "FILE", help_heading = CHECKS)]
    pub(crate) sql: Option<PathBuf>,
    /// The database that the assertions are made in [default: postgres] [env: WALDEN_DRILL_DATABASE]
    #[arg(long, value_name = "NAME", help_heading = CHECKS)]
    pub(crate) database: Option<String>,
    /// Leave a check out: last transaction, writes, indexes, sequences, assertions, row counts, amcheck or page checksums;
    /// may be repeated
    #[arg(long, value_name = "CHECK", value_parser = parse_check, help_heading = CHECKS)]
    pub(crate) skip_check: Vec<String>,
    /// The directory of the server's programs; else PATH and the usual places are searched [env: WALDEN_DRILL_PG_BIN]
    #[arg(long, value_name = "DIR", help_heading = SERVER)]
    pub(crate) pg_bin: Option<PathBuf>,
    /// The account to run the server as, when root drills [default: postgres] [env: WALDEN_DRILL_USER]
    #[arg(long, value_name = "NAME", help_heading = SERVER)]
    pub(crate) user: Option<String>,
    /// The role to ask as, a superuser of the source; else the account's name and postgres are tried [env: WALDEN_DRILL_ROLE]
    #[arg(long, value_name = "NAME", help_heading = SERVER)]
    pub(crate) role: Option<String>,
    /// A library to preload although it is not known to act on the server alone, such as timescaledb; may be repeated
    #[arg(long, value_name = "NAME", help_heading = SERVER)]
    pub(crate) preload: Vec<String>,
    /// A setting for the server, such as shared_buffers=1GB; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting, help_heading = SERVER)]
    pub(crate) setting: Vec<Setting>,
}

/// `walden drill …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DrillVerb {
    /// List the drills there were: when, to where, what came of it
    #[command(long_about = help::DRILL_LIST, after_help = help::DRILL_LIST_EXAMPLES)]
    List(DrillListArgs),
    /// Show everything that is recorded of one drill
    #[command(long_about = help::DRILL_SHOW, after_help = help::DRILL_SHOW_EXAMPLES)]
    Show(DrillShowArgs),
    /// Write a report of one drill, as Markdown or as one HTML page
    #[command(long_about = help::DRILL_REPORT, after_help = help::DRILL_REPORT_EXAMPLES)]
    Report(DrillReportArgs),
}

/// `walden drill list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrillListArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Only the newest ones, so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) last: usize,
}

/// `walden drill show`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrillShowArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// The drill; "latest" for the newest
    #[arg(value_name = "ID", default_value = "latest")]
    pub(crate) id: String,
}

/// `walden drill report`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrillReportArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// The drill; "latest" for the newest
    #[arg(value_name = "ID", default_value = "latest")]
    pub(crate) id: String,
    /// The form: markdown, or html for one page that needs nothing else
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "markdown", hide_possible_values = true)]
    pub(crate) format: ReportFormat,
    /// How many drills the trend shows at most
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) last: usize,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Markdown.
    Markdown,
    /// One HTML page.
    Html,
}

fn parse_check(text: &str) -> Result<String, String> {
    // Whether recovery stopped where the plan said is what a drill is for.
    let known = || walden_engine::drill::CHECK_NAMES.iter().filter(|name| **name != "recovery stop");
    match known().find(|name| **name == text.replace(['-', '_'], " ")) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!("it is one of {}", known().copied().collect::<Vec<_>>().join(", "))),
    }
}
