//! Whether the server's own commands will find an agent that somebody runs: they compute its place from their settings.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use walden_core::ErrorKind;
use walden_engine::DataDirectory;
use walden_engine::agent::client::Spool;
use walden_engine::agent::spool::ServerProcess;
use walden_engine::restore::{PushCommand, configured_push};
use walden_store::Environment;

use crate::agent::spool_of;
use crate::args::Cli;
use crate::config::{AgentStart, Effective, Flags, load};
use crate::failure::Failure;
use crate::session::Session;

/// Makes the state directory, when it is missing.
///
/// # Errors
/// Kind `config` when there is none, or this account can't make directories in it.
pub(super) fn usable_state_directory(session: &Session) -> Result<(), Failure> {
    const HINT: &str = "set WALDEN_STATE_DIRECTORY to a directory that this account can write, for the server's commands, too";
    let Some(directory) = session.effective.config.state_directory.as_deref() else {
        let message = "an agent needs a state directory, and none is known";
        return Err(Failure::new(ErrorKind::Config, message).with_hint(HINT));
    };
    let unusable = |reason: &str| {
        let message = format!("the state directory can't be used: {reason} path={}", directory.display());
        Failure::new(ErrorKind::Config, message).with_hint(HINT)
    };
    if directory.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(unusable("it is not a directory"));
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| unusable("it can't be made").caused_by(&error))?;
    let access = access(directory, AccessFlags::W_OK | AccessFlags::X_OK);
    access.map_err(|error| unusable("it can't be written to").caused_by(&std::io::Error::from(error)))
}

/// Why the server's own commands would not ask an agent with the settings in effect here, as far as that shows: in the
/// environment of the server when it runs, and in its archive_command.
pub(super) fn doubts(session: &Session, data: &DataDirectory) -> Vec<String> {
    let mut doubts: Vec<String> = session.effective.agent_warnings().map(str::to_owned).collect();
    let server = ServerProcess::of(data.path()).and_then(|server| environment_of(server.pid, data.path()));
    let command = configured_push(data.path());
    if server.is_none() && command.is_none() {
        return doubts;
    }
    // Of a server that does not run the environment is not known; this one's is the best guess.
    let environment = server.unwrap_or_else(|| session.environment.clone());
    if let Some((theirs, environment)) = settings_of_commands(session, environment, command.as_ref()) {
        doubts.extend(differs(session, data, &theirs, &environment));
    }
    doubts
}

/// The environment that a server was started with; `None` when this account may not see it, or the process is another one.
fn environment_of(pid: i32, data: &Path) -> Option<Environment> {
    let process = Path::new("/proc").join(pid.to_string());
    // The server runs in its data directory (`ChangeToDataDir`); in another namespace the number is somebody else's.
    if std::fs::read_link(process.join("cwd")).ok()? != data.canonicalize().ok()? {
        return None;
    }
    let bytes = std::fs::read(process.join("environ")).ok()?;
    let variables = bytes.split(|byte| *byte == 0).filter_map(|variable| {
        let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Some(variables.collect())
}

/// What the command of the server computes its settings from, and what they are. Without a command these are the
/// repository and the server in effect here, in the server's environment.
fn settings_of_commands(
    session: &Session,
    environment: Environment,
    command: Option<&PushCommand>,
) -> Option<(Effective, Environment)> {
    let mut flags = Flags::default();
    let config = &session.effective.config;
    let (repo, server) = (config.repo.as_ref().map(ToString::to_string), config.server.as_str());
    let Some(command) = command else {
        flags.set("repo", "--repo", repo);
        flags.set("server", "--server", Some(server));
        return Some((load(None, &environment, flags).ok()?, environment));
    };
    let variables = environment.with_prefix("").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Environment = variables.chain(command.variables.iter().cloned()).collect();
    let words = std::iter::once("walden").chain(command.arguments.iter().map(String::as_str));
    let cli = Cli::parse_arguments(&words.map(Into::into).collect::<Vec<_>>()).ok()?;
    flags.set("repo", "--repo", cli.common.repo.as_deref());
    flags.set("server", "--server", cli.common.server.as_deref());
    flags.set("agent.start", "--no-agent", cli.common.no_agent.then_some("off"));
    Some((load(cli.common.config.as_deref(), &environment, flags).ok()?, environment))
}

/// What keeps commands with these settings from an agent with the settings in effect here.
fn differs(
    session: &Session,
    data: &DataDirectory,
    theirs: &Effective,
    environment: &Environment,
) -> Option<String> {
    if theirs.config.agent.start == AgentStart::Off {
        return Some("the server's commands ask no agent: agent.start is off there".to_owned());
    }
    let ours = spool_of(&session.effective, &session.environment, data.path()).ok().flatten()?;
    // Settings without a repository are an error that the server's log tells of.
    let found = spool_of(theirs, environment, data.path()).ok()?;
    let Some(found) = found else {
        return Some("the server's commands have no state directory, and find no agent".to_owned());
    };
    (found.directory() != ours.directory()).then(|| {
        let parts = parts_that_differ(&ours, &found).join(", ");
        format!("the server's commands look for their agent elsewhere and will not ask this one: {parts}")
    })
}

fn parts_that_differ(ours: &Spool, theirs: &Spool) -> Vec<String> {
    let state = |spool: &Spool| spool.directory().parent().map(|state| state.display().to_string());
    let pairs = [
        ("state_directory", state(ours), state(theirs)),
        ("repository", Some(ours.caller().repository.clone()), Some(theirs.caller().repository.clone())),
        ("server", Some(ours.caller().server.to_string()), Some(theirs.caller().server.to_string())),
    ];
    let different = pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs);
    different
        .map(|(name, ours, theirs)| {
            format!("{name} here={} there={}", ours.unwrap_or_default(), theirs.unwrap_or_default())
        })
        .collect()
}
