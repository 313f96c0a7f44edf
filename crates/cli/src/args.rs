//! The command line, as clap parses it. Nothing is decided here: settings go through [`crate::config`].

mod help;
mod target;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use walden_pg::TimelineId;

pub(crate) use self::target::TargetArgs;
use self::target::parse_timeline_id;

const COMMON: &str = "Common options";

/// WAL archiving and point-in-time recovery for PostgreSQL
#[derive(Debug, Parser)]
#[command(
    name = "walden",
    version,
    long_about = help::WALDEN,
    after_help = help::WALDEN_EXAMPLES,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The form of what goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Made for people.
    #[default]
    Text,
    /// Made for programs: one JSON document.
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Options that every verb takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    /// The repository: file:///dir, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix [env: WALDEN_REPO]
    #[arg(long, value_name = "URL", global = true, help_heading = COMMON)]
    pub(crate) repo: Option<String>,
    /// The name of the archived server in the repository [default: main] [env: WALDEN_SERVER]
    #[arg(long, value_name = "NAME", global = true, help_heading = COMMON)]
    pub(crate) server: Option<String>,
    /// Read this configuration file instead of the usual ones [env: WALDEN_CONFIG]
    #[arg(long, value_name = "FILE", global = true, help_heading = COMMON)]
    pub(crate) config: Option<PathBuf>,
    /// What goes to stdout: text for people or json for programs
    #[arg(
        long, value_name = "FORMAT", value_enum, default_value = "text", hide_possible_values = true, global = true,
        help_heading = COMMON
    )]
    pub(crate) output: OutputFormat,
    /// Say more on stderr: requests, bytes and time; twice for diagnostic messages
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = COMMON)]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = COMMON)]
    pub(crate) quiet: bool,
    /// When to use colours: auto, always or never
    #[arg(
        long, value_name = "WHEN", value_enum, default_value = "auto", hide_possible_values = true, global = true,
        help_heading = COMMON
    )]
    pub(crate) color: ColorChoice,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Set up the repository for a server: run it once, on the database host
    #[command(long_about = help::INIT, after_help = help::INIT_EXAMPLES)]
    Init(PgdataArgs),
    /// Show whose archive this is, or let another system in
    #[command(subcommand, long_about = help::SERVER)]
    Server(ServerVerb),
    /// Look whether archiving works and what can be restored
    #[command(long_about = help::CHECK, after_help = help::CHECK_EXAMPLES)]
    Check(PgdataArgs),
    /// Show the effective configuration
    #[command(subcommand, long_about = help::CONFIG)]
    Config(ConfigVerb),
    /// Archive and fetch WAL: archive_command and restore_command
    #[command(subcommand, long_about = help::WAL)]
    Wal(WalVerb),
    /// Take and list base backups
    #[command(subcommand, long_about = help::BACKUP)]
    Backup(BackupVerb),
    /// Show what can be restored: timelines, backups, gaps
    #[command(long_about = help::WINDOW, after_help = help::WINDOW_EXAMPLES)]
    Window(PgdataArgs),
    /// Show how a target would be restored, and touch nothing
    #[command(long_about = help::PLAN, after_help = help::PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Print the completions for a shell
    #[command(after_help = help::COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all verbs into a directory
    #[command(after_help = help::MAN_EXAMPLES)]
    Man {
        /// The directory to write them into
        directory: Option<PathBuf>,
    },
    /// Print the version and what it supports
    Version,
}

/// The data directory of the server at hand.
#[derive(Debug, Clone, Args)]
pub(crate) struct PgdataArgs {
    /// The data directory of the server [env: WALDEN_PGDATA, PGDATA]
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: Option<PathBuf>,
}

/// `walden server …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerVerb {
    /// Show the server's incarnations and who archives it
    #[command(long_about = help::SERVER_SHOW, after_help = help::SERVER_SHOW_EXAMPLES)]
    Show,
    /// Let a data directory archive here although something speaks against it
    #[command(long_about = help::SERVER_ADOPT, after_help = help::SERVER_ADOPT_EXAMPLES)]
    Adopt(PgdataArgs),
}

/// `walden config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show every setting, its value and where it comes from
    #[command(long_about = help::CONFIG_SHOW, after_help = help::CONFIG_SHOW_EXAMPLES)]
    Show,
}

/// `walden wal …`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalVerb {
    /// Archive one file: for archive_command
    #[command(long_about = help::WAL_PUSH, after_help = help::WAL_PUSH_EXAMPLES)]
    Push {
        /// The file to archive: %p
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Fetch one file: for restore_command
    #[command(long_about = help::WAL_GET, after_help = help::WAL_GET_EXAMPLES)]
    Get {
        /// The file that is wanted: %f
        #[arg(value_name = "NAME")]
        name: String,
        /// Where to put it: %p
        #[arg(value_name = "DEST")]
        destination: PathBuf,
    },
    /// List the segments in the archive, as runs without gaps
    #[command(long_about = help::WAL_LIST, after_help = help::WAL_LIST_EXAMPLES)]
    List(WalListArgs),
    /// Show what the archive knows about one file
    #[command(long_about = help::WAL_SHOW, after_help = help::WAL_SHOW_EXAMPLES)]
    Show {
        /// The file, such as 000000010000000000000003 or 00000002.history
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// `walden wal list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WalListArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    /// Only this timeline (decimal, or hexadecimal with 0x)
    #[arg(long, value_name = "TIMELINE", value_parser = parse_timeline_id)]
    pub(crate) timeline: Option<TimelineId>,
}

/// `walden backup …`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupVerb {
    /// List the backups
    #[command(long_about = help::BACKUP_LIST, after_help = help::BACKUP_LIST_EXAMPLES)]
    List(PgdataArgs),
    /// Show one backup
    #[command(long_about = help::BACKUP_SHOW, after_help = help::BACKUP_SHOW_EXAMPLES)]
    Show {
        #[command(flatten)]
        pgdata: PgdataArgs,
        /// The backup; "latest" for the newest
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// `walden backup create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupCreateArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    /// How many files to read at once [env: WALDEN_JOBS]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<u32>,
}

/// `walden plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// `walden restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// The directory to restore into: missing or empty
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) pgdata: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How many files to write at once [env: WALDEN_JOBS]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<u32>,
}
