//! The verbs: each asks the engine once and renders the answer.

mod backup;
mod check;
mod config;
mod generate;
mod init;
mod plan;
mod server;
mod version;
mod wal;
mod window;

use crate::args::{BackupVerb, ConfigVerb, ServerVerb, Verb, WalVerb};
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
        Verb::Check(_) => check::run(session),
        Verb::Config(ConfigVerb::Show) => config::show(session),
        Verb::Wal(WalVerb::Push { path }) => wal::push(session, &path),
        Verb::Wal(WalVerb::Get { name, destination }) => wal::get(session, &name, &destination),
        Verb::Wal(WalVerb::List(arguments)) => wal::list(session, &arguments),
        Verb::Wal(WalVerb::Show { name }) => wal::show(session, &name),
        Verb::Backup(BackupVerb::List(_)) => backup::list(session),
        Verb::Backup(BackupVerb::Show { id, .. }) => backup::show(session, &id),
        Verb::Window(_) => window::run(session),
        Verb::Plan(arguments) => plan::run(session, &arguments),
        Verb::Completions { shell } => generate::completions(shell),
        Verb::Man { directory } => generate::man(directory.as_deref()),
        Verb::Version => version::run(session),
    }
}

impl Verb {
    /// Adds the settings that the verb's own options give.
    ///
    /// # Errors
    /// Kind `config` for a path that is not UTF-8.
    pub(crate) fn add_flags(&self, flags: &mut Flags) -> Result<(), Failure> {
        let (pgdata, jobs): (_, Option<u32>) = match self {
            Self::Init(pgdata)
            | Self::Check(pgdata)
            | Self::Window(pgdata)
            | Self::Server(ServerVerb::Adopt(pgdata))
            | Self::Backup(BackupVerb::List(pgdata) | BackupVerb::Show { pgdata, .. }) => {
                (Some(pgdata), None)
            }
            Self::Wal(WalVerb::List(arguments)) => (Some(&arguments.pgdata), None),
            Self::Plan(arguments) => (Some(&arguments.pgdata), None),
            Self::Server(ServerVerb::Show)
            | Self::Config(ConfigVerb::Show)
            | Self::Wal(WalVerb::Push { .. } | WalVerb::Get { .. } | WalVerb::Show { .. })
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Version => (None, None),
        };
        flags.set_path("pgdata", "--pgdata", pgdata.and_then(|pgdata| pgdata.pgdata.as_deref()))?;
        flags.set("jobs", "--jobs", jobs.map(i64::from));
        Ok(())
    }
}
