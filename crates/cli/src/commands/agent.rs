//! `walden agent`: run it, ask it, end it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use walden_core::ErrorKind;
use walden_engine::agent::client::{self, DoItYourself, Spool};
use walden_engine::agent::protocol::Farewell;
use walden_engine::agent::spool::AgentLock;

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
        Some(AgentVerb::Status(_)) => status(session),
        Some(AgentVerb::Stop(_)) => stop(session),
        None => super::agent_run::run(session, arguments.run.on_demand),
    }
}

/// The place of the agent of the data directory that was named.
pub(super) fn named_spool(session: &Session) -> Result<Spool, Failure> {
    let data = session.data_directory()?;
    spool(session, data.path())?.ok_or_else(|| {
        Failure::new(ErrorKind::Config, "an agent needs a state directory, and none is known")
            .with_hint("set WALDEN_STATE_DIRECTORY, XDG_STATE_HOME or HOME")
    })
}

fn status(session: &Session) -> Result<Exit, Failure> {
    let spool = named_spool(session)?;
    match client::status(&spool) {
        Ok(status) => {
            session.printer.report(&status, |text| render(text, &status))?;
            Ok(Exit::Done)
        }
        Err(DoItYourself::NoAgent) => tell_none(session, &spool),
        Err(reason) => Err(unanswered(&reason)),
    }
}

fn stop(session: &Session) -> Result<Exit, Failure> {
    let spool = named_spool(session)?;
    let Farewell { pid, on_demand, .. } = match client::stop(&spool) {
        Ok(farewell) => farewell,
        Err(DoItYourself::NoAgent) => return tell_none(session, &spool),
        Err(reason) => return Err(unanswered(&reason)),
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
fn unanswered(reason: &DoItYourself) -> Failure {
    let kind = match reason {
        DoItYourself::OtherBuild { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Unavailable,
    };
    let hint = match reason {
        DoItYourself::OtherBuild { .. } => {
            "until it is replaced, pushes and gets do their work themselves; walden agent stop ends it, or restart its service"
        }
        _ => "until it answers, pushes and gets do their work themselves; killing it does no harm",
    };
    Failure::new(kind, reason.to_string()).with_hint(hint)
}
