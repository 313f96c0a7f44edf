//! All agents of a state directory.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use walden_core::ErrorKind;
use walden_engine::agent::client::{self, DoItYourself};
use walden_engine::agent::places::{Holder, Place};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::text::{Align, Table, Text};

/// `walden agent status --all`.
#[derive(Debug, Serialize)]
struct AgentList {
    schema: u32,
    state_directory: PathBuf,
    agents: Vec<Listed>,
}

/// One place of an agent.
#[derive(Debug, Serialize)]
struct Listed {
    state: State,
    pid: Option<u32>,
    on_demand: Option<bool>,
    build: Option<String>,
    started_at: Option<Timestamp>,
    data_directory: Option<PathBuf>,
    data_directory_gone: bool,
    server: Option<String>,
    repository: Option<String>,
    directory: PathBuf,
}

/// How an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    Leaving,
    NotRunning,
    NoAnswer,
    OtherBuild,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Leaving => "leaving",
            Self::NotRunning => "not running",
            Self::NoAnswer => "no answer",
            Self::OtherBuild => "other build",
        }
    }

    fn of(place: &Place) -> Self {
        if place.holder == Holder::Nobody {
            return Self::NotRunning;
        }
        // One of an older version does not say how it is to be asked.
        let Some(spool) = place.spool() else { return Self::OtherBuild };
        match client::status(&spool) {
            Ok(status) if status.leaving => Self::Leaving,
            Ok(_) => Self::Running,
            Err(DoItYourself::OtherBuild { .. }) => Self::OtherBuild,
            Err(_) => Self::NoAnswer,
        }
    }
}

impl Listed {
    fn of(place: Place) -> Self {
        let (state, gone) = (State::of(&place), place.is_orphaned());
        let about = place.about;
        Self {
            state,
            pid: place.holder.pid(),
            on_demand: about.as_ref().map(|about| about.on_demand),
            build: about.as_ref().map(|about| about.build.clone()),
            started_at: about.as_ref().map(|about| about.started_at),
            data_directory_gone: gone,
            server: about.as_ref().map(|about| about.server.to_string()),
            repository: about.as_ref().map(|about| about.repository.clone()),
            data_directory: about.map(|about| about.data_directory),
            directory: place.directory,
        }
    }
}

pub(super) fn run(session: &Session) -> Result<Exit, Failure> {
    let state = session.effective.config.state_directory.as_deref().ok_or_else(no_state_directory)?;
    let places = Place::all(state).map_err(|error| {
        let message = format!("cannot read the state directory path={}", state.display());
        Failure::new(ErrorKind::LocalIo, message).caused_by(&error)
    })?;
    let agents: Vec<Listed> = places.into_iter().map(Listed::of).collect();
    let list = AgentList { schema: 1, state_directory: state.to_owned(), agents };
    session.printer.report(&list, |text| render(text, state, &list.agents))?;
    let lives = list.agents.iter().any(|agent| agent.state != State::NotRunning);
    Ok(if lives { Exit::Done } else { Exit::NoAgent })
}

/// What to say without a state directory.
pub(super) fn no_state_directory() -> Failure {
    Failure::new(ErrorKind::Config, "an agent needs a state directory, and none is known")
        .with_hint("set WALDEN_STATE_DIRECTORY, XDG_STATE_HOME or HOME")
}

fn render(text: &mut Text, state: &Path, agents: &[Listed]) {
    if agents.is_empty() {
        text.line(format!("no agent has been in {}", state.display()));
        return;
    }
    let mut table = Table::new(&[
        ("PID", Align::Right),
        ("STATE", Align::Left),
        ("SERVER", Align::Left),
        ("REPOSITORY", Align::Left),
        ("DATA DIRECTORY", Align::Left),
    ]);
    let or_dash = |word: Option<String>| word.unwrap_or_else(|| "-".to_owned());
    for agent in agents {
        let gone = if agent.data_directory_gone { " (gone)" } else { "" };
        let data = agent.data_directory.as_ref().map(|data| format!("{}{gone}", data.display()));
        table.row([
            or_dash(agent.pid.map(|pid| pid.to_string())),
            agent.state.words().to_owned(),
            or_dash(agent.server.clone()),
            or_dash(agent.repository.clone()),
            or_dash(data),
        ]);
    }
    text.table(&table);
}
