//! `walden agent`: run it, ask it, end it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use walden_core::ErrorKind;
use walden_engine::agent::client::{self, DoItYourself, Spool};
use walden_engine::agent::places::{About, Holder, Place};
use walden_engine::agent::protocol::Farewell;
use walden_engine::agent::spool::AgentLock;
use walden_store::store_identity;

use super::agent_list::no_state_directory;
use super::agent_status::render;
use crate::agent::spool;
use crate::args::{AgentArgs, AgentVerb};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// How long `stop` waits for the agent to finish what it has begun.
const STOP_TIMEOUT: Duration = Duration::from_mins(2);
/// How often it looks.
const STOP_PAUSE: Duration = Duration::from_millis(50);

/// There is nobody to ask.
#[derive(Debug, Serialize)]
struct NoAgent<'a> {
    schema: u32,
    running: bool,
    data_directory: &'a Path,
    repository: &'a str,
    server: &'a str,
}

/// `walden agent stop`.
#[derive(Debug, Serialize)]
struct StopReport {
    schema: u32,
    pid: u32,
    on_demand: bool,
}

pub(super) fn run(session: &Session, arguments: &AgentArgs) -> Result<Exit, Failure> {
    match &arguments.verb {
        Some(AgentVerb::Status(asked)) if asked.all => super::agent_list::run(session),
        Some(AgentVerb::Status(_)) => status(session),
        Some(AgentVerb::Stop(_)) => stop(session),
        None => super::agent_run::run(session, arguments.run.on_demand),
    }
}

/// The place of the agent of the data directory that was named, which may be gone.
fn named_spool(session: &Session) -> Result<Spool, Failure> {
    match session.data_directory() {
        Ok(data) => spool(session, data.path())?.ok_or_else(no_state_directory),
        Err(failure) => spool_of_gone(session).ok_or(failure),
    }
}

/// The place of an agent whose data directory is not there any more, as it said itself.
fn spool_of_gone(session: &Session) -> Option<Spool> {
    let config = &session.effective.config;
    let named = config.pgdata.as_deref()?;
    // Agents have it without symbolic links.
    let real = named.parent().and_then(|parent| Some(parent.canonicalize().ok()?.join(named.file_name()?)));
    let repository = session.effective.repo().ok();
    let repository =
        repository.and_then(|repo| store_identity(repo, &config.store, &session.environment).ok());
    let places = Place::all(config.state_directory.as_deref()?).ok()?;
    let is_meant = |about: &About| {
        (about.data_directory == named || Some(&about.data_directory) == real.as_ref())
            && about.server == config.server
            && repository.as_ref().is_none_or(|repository| *repository == about.repository)
    };
    places
        .into_iter()
        .filter(|place| place.about.as_ref().is_some_and(is_meant))
        .find_map(|place| place.spool())
}

fn status(session: &Session) -> Result<Exit, Failure> {
    let spool = named_spool(session)?;
    match client::status(&spool) {
        Ok(status) => {
            session.printer.report(&status, |text| render(text, &status))?;
            Ok(Exit::Done)
        }
        Err(DoItYourself::NoAgent) => tell_none(session, &spool),
        Err(reason) => Err(unanswered(&reason, &spool)),
    }
}

fn stop(session: &Session) -> Result<Exit, Failure> {
    let spool = named_spool(session)?;
    let Farewell { pid, on_demand, .. } = match client::stop(&spool) {
        Ok(farewell) => farewell,
        Err(DoItYourself::NoAgent) => return tell_none(session, &spool),
        Err(reason) => return Err(unanswered(&reason, &spool)),
    };
    while !has_left(&spool, pid) {
        if session.elapsed() > STOP_TIMEOUT {
            let message = format!("the agent was asked to end and is still at work pid={pid}");
            return Err(Failure::new(ErrorKind::Unavailable, message)
                .with_hint("it ends when what it has begun is done; killing it does no harm either"));
        }
        std::thread::sleep(STOP_PAUSE);
    }
    let report = StopReport { schema: 1, pid, on_demand };
    session.printer.report(&report, |text| text.line(format!("the agent has ended pid={pid}")))?;
    Ok(Exit::Done)
}

/// Whether the agent of this process is gone: nobody holds its place, or another one does.
fn has_left(spool: &Spool, pid: u32) -> bool {
    match AgentLock::take(spool) {
        Ok(Ok(_)) => true,
        Ok(Err(holder)) => holder.is_some_and(|holder| holder != pid),
        // The state directory is gone, and the agent with it.
        Err(_) => true,
    }
}

fn tell_none(session: &Session, spool: &Spool) -> Result<Exit, Failure> {
    let caller = spool.caller();
    let report = NoAgent {
        schema: 1,
        running: false,
        data_directory: spool.data_directory(),
        repository: &caller.repository,
        server: caller.server.as_str(),
    };
    session.printer.report(&report, |text| {
        text.line("no agent runs");
        text.facts(&[
            ("server", report.server.to_owned()),
            ("repository", report.repository.to_owned()),
            ("data directory", report.data_directory.display().to_string()),
        ]);
    })?;
    Ok(Exit::NoAgent)
}

/// An agent is there and has no answer for this program.
fn unanswered(reason: &DoItYourself, spool: &Spool) -> Failure {
    if let DoItYourself::OtherBuild { .. } = reason {
        return Failure::new(ErrorKind::Unsupported, reason.to_string()).with_hint(
            "until it is replaced, pushes and gets do their work themselves; walden agent stop ends it, or restart its service",
        );
    }
    let Some(pid) = Holder::of(spool).ok().and_then(Holder::pid) else {
        return Failure::new(ErrorKind::Unavailable, reason.to_string()).with_hint(
            "until it answers, pushes and gets do their work themselves; killing it does no harm",
        );
    };
    let way_out = if is_stopped(pid) {
        format!("the process is stopped: kill -CONT {pid} lets it go on, kill -KILL {pid} ends it")
    } else {
        format!("kill -KILL {pid} ends it, or restart its service")
    };
    Failure::new(ErrorKind::Unavailable, format!("{reason} pid={pid}")).with_hint(format!(
        "{way_out}; pushes and gets do their work themselves meanwhile, and nothing is lost"
    ))
}

/// Whether a process was stopped (`SIGSTOP`), and does nothing for that reason (proc(5), `stat`).
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with('T'))
}
