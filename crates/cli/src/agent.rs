//! The agent of the server at hand, as the hooks of PostgreSQL meet it: where it is, why it was not used, and when to
//! start one.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use walden_core::ErrorKind;
use walden_engine::DataDirectory;
use walden_engine::agent::client::{self, DoItYourself, Spool, StartOutcome};
use walden_engine::agent::protocol::AgentFailure;
use walden_store::{Environment, settings_fingerprint, store_identity};

use crate::config::{AgentStart, Effective};
use crate::failure::Failure;
use crate::printer::log_line;
use crate::session::{Session, show_duration};

/// The place where the agent of a data directory and its hooks meet; `None` without a state directory.
///
/// # Errors
/// Kind `config` when the repository is not named or can't be told from its settings; `local_io` when the data
/// directory can't be looked at.
pub(crate) fn spool(session: &Session, data: &Path) -> Result<Option<Spool>, Failure> {
    spool_of(&session.effective, &session.environment, data)
}

/// The same, with settings that are not this program's own.
///
/// # Errors
/// As [`spool`].
pub(crate) fn spool_of(
    effective: &Effective,
    environment: &Environment,
    data: &Path,
) -> Result<Option<Spool>, Failure> {
    let config = &effective.config;
    let Some(state) = config.state_directory.as_deref() else { return Ok(None) };
    let repository = store_identity(effective.repo()?, &config.store, environment)?;
    let settings = settings_fingerprint(&config.store, environment);
    Spool::locate(state, data, &repository, &config.server, &settings).map(Some).map_err(|error| {
        let message = format!("cannot look at the data directory path={}", data.display());
        Failure::new(ErrorKind::LocalIo, message).caused_by(&error)
    })
}

/// The agent that a hook may ask, and may start when there is none.
pub(crate) struct HookAgent<'a> {
    session: &'a Session,
    data: DataDirectory,
    spool: Spool,
    /// Whether there is none, as far as it was asked.
    missing: bool,
    /// How long it was waited for in vain.
    late: Option<Duration>,
}

impl<'a> HookAgent<'a> {
    /// The agent of a data directory, whether it runs or not. `None` when none is wanted, or there is no place for one,
    /// which is told to who wants to hear it: what is wrong then is told by the direct way, which needs the same settings.
    pub(crate) fn find(session: &'a Session, data: Option<&DataDirectory>) -> Option<Self> {
        if session.effective.config.agent.start == AgentStart::Off {
            return None;
        }
        let why_not =
            |reason: &str| session.printer.note(&format!("walden agent: {reason}; done without it"));
        for warning in session.effective.agent_warnings() {
            session.printer.note(&format!("walden agent: {warning}"));
        }
        let Some(data) = data else {
            why_not("the file is not in the pg_wal of a data directory");
            return None;
        };
        let spool = match spool(session, data.path()) {
            Ok(Some(spool)) => spool,
            Ok(None) => {
                why_not("there is no state directory to meet it in");
                return None;
            }
            Err(failure) => {
                why_not(&failure.sentence());
                return None;
            }
        };
        Some(Self { session, data: data.clone(), spool, missing: false, late: None })
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &DataDirectory {
        &self.data
    }

    /// Where it is.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Takes down that the hook does the work itself, and tells why when there is more to it than that no agent runs.
    pub(crate) fn sends_away(&mut self, reason: &DoItYourself) {
        self.missing =
            matches!(reason, DoItYourself::NoAgent | DoItYourself::OtherBuild { asked_to_leave: true, .. });
        self.session.printer.note(&format!("walden agent: {reason}; done without it"));
    }

    /// Takes down that the agent was waited for in vain: the hook does the work itself.
    pub(crate) fn is_late(&mut self, waited: Duration) {
        self.late = Some(waited);
        let waited = show_duration(waited);
        self.session.printer.note(&format!("walden agent: not done within {waited}; done without it"));
    }

    /// Tells of an agent that did not get done what this hook has done: it may hang, and nobody would notice.
    pub(crate) fn tell_if_late(&self) {
        let Some(waited) = self.late else { return };
        let leaves = client::note_late(&self.spool);
        let rest = if leaves {
            "it was asked to leave, another one takes its place"
        } else {
            "calls do without it for a minute; hint: walden agent status tells what it does, restart it if it hangs"
        };
        let waited = show_duration(waited);
        log_line(&format!("walden agent: not done within {waited} what was then done without it; {rest}"));
    }

    /// Starts an agent when there is none, the settings let hooks do so, and `worth` says that there is work for it. It
    /// is not waited for, and that it can't be started is no failure of the hook.
    pub(crate) fn start_if(&self, worth: impl FnOnce(&DataDirectory) -> bool) {
        let wanted = self.session.effective.config.agent.start == AgentStart::Auto;
        if !wanted || !self.missing || !worth(&self.data) {
            return;
        }
        let note = match self.start() {
            Ok(StartOutcome::Started { pid }) => format!("walden agent: started pid={pid}"),
            // Somebody else did a moment ago, or may not.
            Ok(StartOutcome::NotNow) => return,
            Err(failure) => format!("walden agent: not started: {}", failure.sentence()),
        };
        self.session.printer.note(&note);
    }

    fn start(&self) -> Result<StartOutcome, Failure> {
        let failed = |error: &std::io::Error| {
            let place = self.spool.directory().display();
            Failure::new(ErrorKind::LocalIo, format!("cannot start an agent path={place}")).caused_by(error)
        };
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let arguments = self.arguments()?;
        client::start_on_demand(&self.spool, &program, arguments).map_err(|error| failed(&error))
    }

    /// What the agent is started with: the options of this hook. Everything else it takes from the same environment and
    /// files.
    fn arguments(&self) -> Result<Vec<OsString>, Failure> {
        let config = &self.session.effective.config;
        let mut arguments: Vec<OsString> = ["agent", "--on-demand", "--pgdata"].map(OsString::from).into();
        arguments.push(self.data.path().into());
        arguments.extend(["--repo".into(), self.session.effective.repo()?.to_string().into()]);
        arguments.extend(["--server".into(), config.server.as_str().into()]);
        if let Some(file) = &self.session.config_file {
            // It leaves this directory.
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            arguments.extend(["--config".into(), file.into()]);
        }
        Ok(arguments)
    }
}

impl From<AgentFailure> for Failure {
    fn from(failure: AgentFailure) -> Self {
        let AgentFailure { kind, message, mut causes, hint } = failure;
        // Some messages say their cause already.
        causes.retain(|cause| !message.contains(cause.as_str()));
        Self { causes, hint, ..Self::new(kind, message) }
    }
}
