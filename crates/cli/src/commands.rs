//! The verbs: each asks the engine once and renders the answer.

mod agent;
mod agent_list;
mod agent_run;
mod agent_status;
mod backup;
mod catalog;
mod check;
mod config;
mod drill;
mod findable;
mod generate;
mod hook_command;
mod hooks;
mod init;
mod plan;
mod restore;
mod retention;
mod server;
mod verify;
mod version;
mod wal;
mod wal_find;
mod wal_index;
mod window;

use std::path::PathBuf;

use jiff::tz::TimeZone;

use crate::args::{
    AgentRunArgs, AgentStatusArgs, AgentStopArgs, AgentVerb, BackupPinArgs, BackupUnpinArgs, BackupVerb,
    ConfigVerb, OutputFormat, RateArgs, ServerVerb, Verb, WalIndexVerb, WalVerb,
};
use crate::config::Flags;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// Runs a verb.
///
/// # Errors
/// Whatever it fails with.
pub(crate) fn run(session: &Session, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Init(_) => init::run(session),
        Verb::Server(ServerVerb::Show) => server::show(session),
        Verb::Server(ServerVerb::Adopt(_)) => server::adopt(session),
        Verb::Check(arguments) => check::run(session, &arguments),
        Verb::Config(ConfigVerb::Show) => config::show(session),
        Verb::Wal(WalVerb::Push(asked)) => hooks::push(session, &asked.path),
        Verb::Wal(WalVerb::Get(asked)) => hooks::get(session, &asked.name, &asked.destination),
        Verb::Wal(WalVerb::List(arguments)) => wal::list(session, &arguments),
        Verb::Wal(WalVerb::Show { name }) => wal::show(session, &name),
        Verb::Wal(WalVerb::Find(arguments)) => wal_find::run(session, &arguments),
        Verb::Wal(WalVerb::Index(WalIndexVerb::Rebuild(arguments))) => {
            wal_index::rebuild(session, &arguments)
        }
        Verb::Backup(BackupVerb::Create(arguments)) => backup::create(session, &arguments),
        Verb::Backup(BackupVerb::List(which)) => backup::list(session, &which),
        Verb::Backup(BackupVerb::Show { which, id }) => backup::show(session, &which, &id),
        Verb::Backup(BackupVerb::Pin(arguments)) => retention::pin(session, &arguments),
        Verb::Backup(BackupVerb::Unpin(arguments)) => retention::unpin(session, &arguments),
        Verb::Backup(BackupVerb::Delete(arguments)) => retention::delete(session, &arguments),
        Verb::Retention(verb) => retention::run(session, &verb),
        Verb::Catalog(verb) => catalog::run(session, &verb),
        Verb::Window(which) => window::run(session, &which),
        Verb::Plan(arguments) => plan::run(session, &arguments),
        Verb::Restore(arguments) => restore::run(session, &arguments),
        Verb::Drill(arguments) => drill::run(session, &arguments),
        Verb::Verify(arguments) => verify::run(session, &arguments),
        Verb::Agent(arguments) => agent::run(session, &arguments),
        Verb::Completions { shell } => generate::completions(shell),
        Verb::Man { directory } => generate::man(directory.as_deref()),
        Verb::Version => version::run(session),
    }
}

impl RateArgs {
    fn add_flags(self, flags: &mut Flags) {
        flags.set("recovery.restore_rate", "--restore-rate", self.restore_rate.map(i64::from));
        flags.set("recovery.replay_rate", "--replay-rate", self.replay_rate.map(i64::from));
    }
}

impl AgentRunArgs {
    fn add_flags(&self, flags: &mut Flags) {
        flags.set("agent.memory", "--memory", self.memory.as_deref());
        flags.set("agent.in_flight", "--in-flight", self.in_flight.map(i64::from));
        flags.set("agent.max_rate", "--max-rate", self.max_rate.as_deref());
        flags.set("agent.prefetch", "--prefetch", self.prefetch.as_deref());
        flags.set("agent.metrics", "--metrics", self.metrics.as_deref());
        flags.set("agent.unhealthy_after", "--unhealthy-after", self.unhealthy_after.as_deref());
        flags.set("agent.idle", "--idle", self.idle.as_deref());
    }
}

impl Verb {
    /// The zone that the verb's times are given in, when the command line says so.
    ///
    /// # Errors
    /// A usage failure when it is not understood.
    pub(crate) fn zone(&self) -> Result<Option<TimeZone>, Failure> {
        match self {
            Self::Plan(arguments) => arguments.target.zone(),
            Self::Restore(arguments) => arguments.target.zone(),
            Self::Drill(arguments) => arguments.run.target.zone(),
            Self::Verify(arguments) => arguments.zone(),
            _ => Ok(None),
        }
    }

    /// Whether it is a process that stays, and tells on stderr what happens.
    pub(crate) fn keeps_a_log(&self) -> bool {
        matches!(self, Self::Agent(arguments) if arguments.verb.is_none())
    }

    /// Refuses a form of output that only `walden plan` has.
    ///
    /// # Errors
    /// A usage failure.
    pub(crate) fn check_output(&self, format: OutputFormat) -> Result<(), Failure> {
        match format {
            OutputFormat::Text | OutputFormat::Json => Ok(()),
            OutputFormat::Postgres | OutputFormat::Cnpg | OutputFormat::Zalando => match self {
                Self::Plan(_) => Ok(()),
                _ => {
                    let message = format!("--output {} works with walden plan alone", format.as_str());
                    Err(Failure::usage(message).with_hint("here it is text or json"))
                }
            },
        }
    }

    /// Adds the settings that the verb's own options give.
    ///
    /// # Errors
    /// Kind `config` for a path that is not UTF-8.
    pub(crate) fn add_flags(&self, flags: &mut Flags) -> Result<(), Failure> {
        let (pgdata, jobs): (Option<&PathBuf>, Option<u32>) = match self {
            Self::Init(pgdata) | Self::Server(ServerVerb::Adopt(pgdata)) => (pgdata.pgdata.as_ref(), None),
            Self::Check(arguments) => (arguments.pgdata.pgdata.as_ref(), None),
            Self::Window(which) | Self::Backup(BackupVerb::List(which) | BackupVerb::Show { which, .. }) => {
                (which.pgdata.as_ref(), None)
            }
            Self::Wal(WalVerb::List(arguments)) => (arguments.which.pgdata.as_ref(), None),
            Self::Wal(WalVerb::Find(arguments)) => (arguments.which.pgdata.as_ref(), None),
            Self::Wal(WalVerb::Index(WalIndexVerb::Rebuild(arguments))) => {
                (arguments.which.pgdata.as_ref(), None)
            }
            Self::Backup(
                BackupVerb::Pin(BackupPinArgs { which, .. })
                | BackupVerb::Unpin(BackupUnpinArgs { which, .. }),
            ) => (which.pgdata.as_ref(), None),
            Self::Backup(BackupVerb::Delete(_)) | Self::Retention(_) => (None, None),
            Self::Backup(BackupVerb::Create(arguments)) => (arguments.pgdata.pgdata.as_ref(), arguments.jobs),
            Self::Plan(arguments) => {
                arguments.rates.add_flags(flags);
                (arguments.which.pgdata.as_ref(), None)
            }
            // Its --pgdata is where to restore to, not a server at hand.
            Self::Restore(arguments) => {
                arguments.rates.add_flags(flags);
                (None, arguments.jobs)
            }
            Self::Drill(arguments) => arguments.add_flags(flags)?,
            Self::Verify(arguments) => (arguments.which.pgdata.as_ref(), arguments.jobs),
            Self::Agent(arguments) => match &arguments.verb {
                None => {
                    arguments.run.add_flags(flags);
                    (arguments.run.pgdata.as_ref(), None)
                }
                Some(
                    AgentVerb::Status(AgentStatusArgs { pgdata, state, .. })
                    | AgentVerb::Stop(AgentStopArgs { pgdata, state }),
                ) => {
                    let directory = state.state_directory.as_deref();
                    flags.set_path("state_directory", "--state-directory", directory)?;
                    (pgdata.pgdata.as_ref(), None)
                }
            },
            Self::Server(ServerVerb::Show)
            | Self::Catalog(_)
            | Self::Config(ConfigVerb::Show)
            | Self::Wal(WalVerb::Push(_) | WalVerb::Get(_) | WalVerb::Show { .. })
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Version => (None, None),
        };
        flags.set_path("pgdata", "--pgdata", pgdata.map(PathBuf::as_path))?;
        flags.set("jobs", "--jobs", jobs.map(i64::from));
        Ok(())
    }
}
