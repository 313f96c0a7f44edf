//! The command line, as clap parses it. Nothing is decided here: settings go through [`crate::config`].

mod agent;
mod catalog;
mod drill;
mod find;
mod help;
mod hooks;
mod retention;
mod target;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use walden_core::{Incarnation, Setting};
use walden_engine::Niceness;
use walden_engine::restore::TablespaceMapping;
use walden_pg::TimelineId;

pub(crate) use self::agent::{AgentArgs, AgentRunArgs, AgentStatusArgs, AgentStopArgs, AgentVerb};
pub(crate) use self::catalog::{CatalogShowArgs, CatalogVerb};
pub(crate) use self::drill::{
    DrillArgs, DrillListArgs, DrillReportArgs, DrillRunArgs, DrillShowArgs, DrillVerb, ReportFormat,
};
pub(crate) use self::find::WalFindArgs;
pub(crate) use self::retention::{
    AllowArgs, BackupDeleteArgs, BackupPinArgs, BackupUnpinArgs, RetentionApplyArgs, RetentionLogArgs,
    RetentionPlanArgs, RetentionVerb,
};
use self::target::parse_timeline_id;
pub(crate) use self::target::{TargetArgs, default_action};
pub(crate) use self::verify::VerifyArgs;
use crate::config::MaxRate;
use crate::failure::Failure;

const COMMON: &str = "Common options";
const START: &str = "Start the server";
const ESTIMATE: &str = "Estimate";

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
    /// `walden plan`: lines for postgresql.conf.
    Postgres,
    /// `walden plan`: a manifest for CloudNativePG.
    Cnpg,
    /// `walden plan`: a `clone` section for Zalando's operator.
    Zalando,
}

impl OutputFormat {
    /// The word on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Postgres => "postgres",
            Self::Cnpg => "cnpg",
            Self::Zalando => "zalando",
        }
    }
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

impl ColorChoice {
    /// Whether output that goes to a terminal, or not, is coloured.
    pub(crate) fn is_used(self, is_terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && !no_color,
        }
    }
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
    /// What goes to stdout: text for people (the default) or json for programs; plan also has postgres, cnpg, zalando
    #[arg(
        long, value_name = "FORMAT", value_enum, default_value = "text", hide_possible_values = true, hide_default_value = true, global = true,
        help_heading = COMMON
    )]
    pub(crate) output: OutputFormat,
    /// Say more on stderr: requests, bytes and time; twice for diagnostic messages
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = COMMON)]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = COMMON)]
    pub(crate) quiet: bool,
    /// When to use colours: auto (the default), always or never
    #[arg(
        long, value_name = "WHEN", value_enum, default_value = "auto", hide_possible_values = true, hide_default_value = true, global = true,
        help_heading = COMMON
    )]
    pub(crate) color: ColorChoice,
    /// Do it in this process, whether an agent runs or not, and start none [env: WALDEN_AGENT=off]
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) no_agent: bool,
}

impl Cli {
    /// Parses a command line; those of PostgreSQL's hooks the short way.
    ///
    /// # Errors
    /// What clap has to say, help and version included.
    pub(crate) fn parse_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        match hooks::parse_hook(arguments) {
            Some(cli) => Ok(cli),
            None => Self::try_parse_from(arguments),
        }
    }
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
    Check(CheckArgs),
    /// Show the effective configuration
    #[command(subcommand, long_about = help::CONFIG)]
    Config(ConfigVerb),
    /// Archive and fetch WAL: archive_command and restore_command
    #[command(subcommand, long_about = help::WAL)]
    Wal(WalVerb),
    /// Take and list base backups
    #[command(subcommand, long_about = help::BACKUP)]
    Backup(BackupVerb),
    /// Remove what the policy no longer promises: plan it, do it, look back
    #[command(subcommand, long_about = help::RETENTION)]
    Retention(RetentionVerb),
    /// Show what is in the repository, and make what is derived from it again
    #[command(subcommand, long_about = help::CATALOG)]
    Catalog(CatalogVerb),
    /// Show what can be restored: timelines, backups, gaps
    #[command(long_about = help::WINDOW, after_help = help::WINDOW_EXAMPLES)]
    Window(WhichArgs),
    /// Show how a target would be restored, and touch nothing
    #[command(long_about = help::PLAN, after_help = help::PLAN_EXAMPLES)]
    Plan(Box<PlanArgs>),
    /// Restore to a moment, into an empty data directory
    #[command(long_about = help::RESTORE, after_help = help::RESTORE_EXAMPLES)]
    Restore(Box<RestoreArgs>),
    /// Restore for practice: start a copy, question it, keep the evidence
    #[command(long_about = help::DRILL, after_help = help::DRILL_EXAMPLES)]
    Drill(Box<DrillArgs>),
    /// Look whether what is archived is still what was stored, and what can't be restored if not
    #[command(long_about = help::VERIFY, after_help = help::VERIFY_EXAMPLES)]
    Verify(Box<VerifyArgs>),
    /// Archive and fetch ahead of PostgreSQL's calls, in the background
    #[command(long_about = help::AGENT, after_help = help::AGENT_EXAMPLES)]
    Agent(Box<AgentArgs>),
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

/// Which of the server's incarnations is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// The data directory whose archive is meant; else the server's current incarnation
    #[arg(long, value_name = "DIR", conflicts_with = "incarnation")]
    pub(crate) pgdata: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) incarnation: IncarnationArgs,
}

/// An incarnation by its name.
#[derive(Debug, Clone, Args)]
pub(crate) struct IncarnationArgs {
    /// This incarnation (see walden server show): the archive from before an initdb or a pg_upgrade
    #[arg(long, value_name = "ID")]
    pub(crate) incarnation: Option<Incarnation>,
}

/// How to reach the server.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArgs {
    /// How to connect to the server: a connection string or URL, as for psql [env: PGHOST, PGPORT, PGUSER, …]
    ///
    /// What it leaves out comes from the variables, service file and password file that psql uses. A password
    /// does not belong on a command line, where every user of the host can read it: use PGPASSFILE.
    #[arg(long, short = 'd', value_name = "CONNSTR")]
    dbname: Option<String>,
}

impl ConnectionArgs {
    /// The connection string, when one was given.
    ///
    /// # Errors
    /// A usage failure when it holds a password. Not left to clap, which would show the whole text.
    pub(crate) fn dbname(&self) -> Result<Option<&str>, Failure> {
        let Some(text) = self.dbname.as_deref() else { return Ok(None) };
        let squeezed: String = text.to_ascii_lowercase().split_whitespace().collect();
        let in_url =
            squeezed.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()?.rsplit_once('@'));
        if squeezed.contains("password=") || in_url.is_some_and(|(user, _)| user.contains(':')) {
            let message = "--dbname holds a password, which every user of this host can read";
            return Err(Failure::usage(message).with_hint("put it into the password file: PGPASSFILE"));
        }
        Ok(Some(text))
    }
}

/// `walden check`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
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
    Push(WalPushArgs),
    /// Fetch one file: for restore_command
    #[command(long_about = help::WAL_GET, after_help = help::WAL_GET_EXAMPLES)]
    Get(WalGetArgs),
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
    /// Find what happened: drops, truncations, mass changes, restore points, commits
    #[command(long_about = help::WAL_FIND, after_help = help::WAL_FIND_EXAMPLES)]
    Find(Box<WalFindArgs>),
    /// Make what is derived from the archived WAL again
    #[command(subcommand, long_about = help::WAL_INDEX)]
    Index(WalIndexVerb),
}

/// `walden wal push`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WalPushArgs {
    /// The file to archive: %p
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
}

/// `walden wal get`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WalGetArgs {
    /// The file that is wanted: %f
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Where to put it: %p
    #[arg(value_name = "DEST")]
    pub(crate) destination: PathBuf,
}

/// `walden wal index …`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalIndexVerb {
    /// Make the summaries of LOG directories that are missing
    #[command(long_about = help::WAL_INDEX_REBUILD, after_help = help::WAL_INDEX_REBUILD_EXAMPLES)]
    Rebuild(WalIndexRebuildArgs),
}

/// `walden wal index rebuild`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WalIndexRebuildArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Only this timeline (decimal, or hexadecimal with 0x)
    #[arg(long, value_name = "TIMELINE", value_parser = parse_timeline_id)]
    pub(crate) timeline: Option<TimelineId>,
    /// Also those that are there
    #[arg(long)]
    pub(crate) all: bool,
}

/// `walden wal list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WalListArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Only this timeline (decimal, or hexadecimal with 0x)
    #[arg(long, value_name = "TIMELINE", value_parser = parse_timeline_id)]
    pub(crate) timeline: Option<TimelineId>,
}

/// `walden backup …`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupVerb {
    /// Take a base backup of a running server
    #[command(long_about = help::BACKUP_CREATE, after_help = help::BACKUP_CREATE_EXAMPLES)]
    Create(BackupCreateArgs),
    /// List the backups
    #[command(long_about = help::BACKUP_LIST, after_help = help::BACKUP_LIST_EXAMPLES)]
    List(WhichArgs),
    /// Show one backup
    #[command(long_about = help::BACKUP_SHOW, after_help = help::BACKUP_SHOW_EXAMPLES)]
    Show {
        #[command(flatten)]
        which: WhichArgs,
        /// The backup; "latest" for the newest
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Keep a backup whatever the retention policy says
    #[command(long_about = help::BACKUP_PIN, after_help = help::BACKUP_PIN_EXAMPLES)]
    Pin(BackupPinArgs),
    /// Let go of a pinned backup
    #[command(long_about = help::BACKUP_UNPIN, after_help = help::BACKUP_UNPIN_EXAMPLES)]
    Unpin(BackupUnpinArgs),
    /// Remove backups by name
    #[command(long_about = help::BACKUP_DELETE, after_help = help::BACKUP_DELETE_EXAMPLES)]
    Delete(BackupDeleteArgs),
}

/// `walden backup create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupCreateArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// A label for people, written into the backup
    #[arg(long, value_name = "TEXT", default_value = "walden")]
    pub(crate) label: String,
    /// The checkpoint that a backup begins with: fast (now, with all its I/O) or spread (minutes later, gently)
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value = "fast",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub(crate) checkpoint: CheckpointArg,
    /// How many files to read at once; one per core unless set [env: WALDEN_JOBS]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<u32>,
    /// Most bytes per second sent to the store, such as 50MB
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) max_rate: Option<MaxRate>,
    /// Most bytes per second read from the data directory, such as 100MB
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) max_read_rate: Option<MaxRate>,
    /// Run at a lower priority on the processor: 0 to 19, where 19 gives way to everything else
    #[arg(long, value_name = "N")]
    pub(crate) nice: Option<Niceness>,
}

/// How a backup begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckpointArg {
    /// At once.
    Fast,
    /// Spread over time.
    Spread,
}

/// `walden plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) rates: RateArgs,
}

/// How fast this place is, for estimates.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RateArgs {
    /// How fast backups are restored here, in MB/s, for the estimate [default: 100] [env: WALDEN_RECOVERY_RESTORE_RATE]
    #[arg(long, value_name = "MB/S", help_heading = ESTIMATE)]
    pub(crate) restore_rate: Option<u32>,
    /// How fast WAL is fetched and replayed here, in MB/s, for the estimate [default: 50] [env: WALDEN_RECOVERY_REPLAY_RATE]
    #[arg(long, value_name = "MB/S", help_heading = ESTIMATE)]
    pub(crate) replay_rate: Option<u32>,
}

/// `walden restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// The directory to restore into: missing or empty
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: PathBuf,
    #[command(flatten)]
    pub(crate) incarnation: IncarnationArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) rates: RateArgs,
    /// A new place for a tablespace, by its old path or OID; may be repeated
    #[arg(long, value_name = "OLD=NEW")]
    pub(crate) tablespace_mapping: Vec<TablespaceMapping>,
    /// A directory that replay may use for a tablespace made after the backup, though it is not empty; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(crate) allow_tablespace: Vec<PathBuf>,
    /// A setting for the restored server, such as shared_buffers=1GB; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub(crate) setting: Vec<Setting>,
    /// archive_mode of the restored server: auto (as it was, if all that archives is walden wal push, which refuses
    /// to archive into its source; else off), preserve (as it was) or off
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub(crate) archive_mode: ArchiveModeArg,
    /// How many files to write at once; one per core unless set [env: WALDEN_JOBS]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<u32>,
    /// Most bytes per second fetched from the store, such as 50MB; replay has the agent's limit
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) max_rate: Option<MaxRate>,
    /// Start the server and wait until it has reached the target
    #[arg(long, help_heading = START)]
    pub(crate) start: bool,
    /// The directory of the server's programs; else PATH and the usual places are searched
    #[arg(long, value_name = "DIR", requires = "start", help_heading = START)]
    pub(crate) pg_bin: Option<PathBuf>,
    /// The port to start it on
    #[arg(long, value_name = "PORT", requires = "start", help_heading = START)]
    pub(crate) port: Option<u16>,
    /// The directory of its socket
    #[arg(long, value_name = "DIR", requires = "start", help_heading = START)]
    pub(crate) socket_directory: Option<PathBuf>,
    /// How long to wait for the target, such as 30m
    #[arg(long, value_name = "TIME", requires = "start", default_value = "24h", value_parser = parse_span, help_heading = START)]
    pub(crate) start_timeout: Duration,
}

/// What becomes of `archive_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveModeArg {
    /// As the backup has it when walden alone archives, else off.
    Auto,
    /// As the backup has it.
    Preserve,
    /// Off.
    Off,
}

fn parse_setting(text: &str) -> Result<Setting, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok(Setting { name: name.trim().to_owned(), value: value.trim().to_owned() })
        }
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<MaxRate, String> {
    let text = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
    serde::Deserialize::deserialize(text).map_err(|error| error.to_string())
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    parsed.filter(|span| !span.is_zero()).ok_or_else(|| "write it like 90s, 30m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn passwords_in_connection_strings_are_found() {
        let checked = |text: &str| {
            let arguments = ConnectionArgs { dbname: Some(text.to_owned()) };
            arguments.dbname().map(|_| ()).map_err(|failure| failure.sentence())
        };
        for good in
            ["postgres", "host=/run dbname=a user=b", "postgres://user@host:5432/db", "postgres://[::1]:5/x"]
        {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in ["host=h PASSWORD = x", "postgres://u:x@h/d", "postgresql://h/d?password=x"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
