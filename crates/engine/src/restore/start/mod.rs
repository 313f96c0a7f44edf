//! Starting a restored server and waiting until it has met its target.
//!
//! The server is started as pg_ctl starts it: its own process group, no input, its log in a file; it goes on when
//! we end. What it does is seen in its log, in `postmaster.pid`, and in its answers where it lets us in.

mod log;
mod observe;
mod process;
mod programs;
mod verdict;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use walden_core::{ErrorKind, RecoveryAction, RecoveryPlan, RecoveryTarget};
use walden_pg::{ArchiveFileName, ClusterState, Lsn, TimelineHistory, TimelineId};

use self::log::{Log, PORT_TAKEN, explain};
pub(crate) use self::observe::options_of_sessions;
use self::observe::{Answer, PidFile, Questioner};
pub(crate) use self::process::Process;
pub(crate) use self::programs::{Programs, find_programs};
use self::verdict::{Planned, Seen, judge};
use super::owner::{Owner, user_name};
use super::report::{ServerState, StartReport};
use super::request::StartOptions;
use super::steps::start_command;
use super::{log_of, shell_path, shell_word};
use crate::catalog::HISTORY_BYTES_MAX;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;
use crate::progress::Unit;

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A restored server to be started.
pub(crate) struct Server<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) plan: &'a RecoveryPlan,
    pub(crate) options: &'a StartOptions,
    pub(crate) programs: &'a Programs,
    pub(crate) pgdata: &'a Path,
    pub(crate) owner: Option<Owner>,
}

/// A server that was started, with what was seen of it up to now.
pub(crate) struct Started {
    /// Its process.
    pub(crate) process: Process,
    log: Log,
    at: Instant,
}

/// What one look at the server found.
enum Look {
    /// Not there yet.
    Recovering,
    /// The target is met.
    Reached(ServerState),
    /// The process has ended.
    Ended(ExitStatus),
}

impl Server<'_> {
    /// Starts the server and waits for its target. The server goes on running when this fails for want of time.
    ///
    /// # Errors
    /// Of kind `postgres` when it ends instead, with its last words and what they mean, or takes too long; of kind
    /// `local_io` when it can't be started.
    pub(super) async fn start_and_wait(&self) -> Result<StartReport> {
        let started = self.start()?;
        self.wait_for_target(started).await
    }

    /// Starts the server and waits for nothing.
    ///
    /// # Errors
    /// Of kind `local_io` when it can't be started.
    pub(crate) fn start(&self) -> Result<Started> {
        let path = log_of(self.pgdata);
        let log = Log::follow(&path);
        Ok(Started { at: Instant::now(), process: self.spawn(&path)?, log })
    }

    /// Waits until the server has met its target.
    ///
    /// # Errors
    /// As [`Self::start_and_wait`].
    pub(crate) async fn wait_for_target(&self, started: Started) -> Result<StartReport> {
        let path = log_of(self.pgdata);
        let Started { process, mut log, at: started } = started;
        let mut users: Vec<String> = self.options.user.iter().cloned().collect();
        if users.is_empty() {
            users.extend(user_name(self.owner));
            users.push("postgres".to_owned());
            users.dedup();
        }
        let mut questioner =
            Questioner::new(self.plan.incarnation.major, users, options_of_sessions(&self.options.settings));
        let pid = process.id();
        self.ctx.progress.begin("replaying WAL", Unit::Count, self.plan.segments.count);
        let outcome = self.wait(&process, &mut log, &mut questioner, started).await;
        self.ctx.progress.end();
        let ended = matches!(outcome, Ok((ServerState::ShutDown, _)));
        let (state, answer) = outcome?;
        let pid_file = PidFile::read(self.pgdata).filter(|file| !ended && file.pid == pid);
        let (port, socket_directory) =
            pid_file.map_or((None, None), |file| (file.port, file.socket_directory));
        let connect_command = port.zip(socket_directory.as_deref()).map(|(port, directory)| {
            let user = questioner.user().unwrap_or("postgres");
            format!("psql -h {} -p {port} -U {} postgres", shell_path(directory), shell_word(user))
        });
        let replay_lsn = answer.as_ref().and_then(|answer| answer.replay_lsn);
        let timeline = answer.as_ref().and_then(|answer| answer.timeline);
        let seen = Seen {
            replay_lsn,
            written_to: self.written_to(),
            followed: timeline.and_then(|timeline| self.followed(timeline)),
            stop_message: log.stop_message.as_deref(),
        };
        let stop_check = judge(Planned::of(self.plan), seen);
        Ok(StartReport {
            state,
            pid: (!ended).then_some(pid),
            port,
            socket_directory,
            timeline,
            locked_relations: answer.as_ref().map_or(0, |answer| answer.locked_relations),
            replay_lsn,
            last_transaction_at: answer
                .and_then(|answer| answer.last_transaction_at)
                .or(log.last_transaction_at),
            stop_message: log.stop_message,
            stop_check,
            log: path,
            connect_command,
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            not_asked: questioner.refused,
        })
    }

    fn spawn(&self, log: &Path) -> Result<Process> {
        let failed = |source| EngineError::local("open", log, source);
        // The owner of the directory may be another user: nobody's link is followed.
        let flags = nix::libc::O_NOFOLLOW;
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(log)
            .map_err(failed)?;
        if let Some(owner) = self.owner {
            nix::unistd::fchown(&output, Some(owner.uid), Some(owner.gid))
                .map_err(|errno| failed(errno.into()))?;
        }
        let program = self.programs.directory.join("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(self.pgdata);
        for (name, value) in self.settings() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD"] {
            command.env_remove(name);
        }
        let errors = output.try_clone().map_err(failed)?;
        command.current_dir(self.pgdata).stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        if let Some(owner) = self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
            // What restore_command reads must be the owner's files and not root's.
            let user = nix::unistd::User::from_uid(owner.uid).ok().flatten();
            command.env("HOME", user.as_ref().map_or(self.pgdata, |user| &user.dir));
            for name in ["USER", "LOGNAME"] {
                match &user {
                    Some(user) => command.env(name, &user.name),
                    None => command.env_remove(name),
                };
            }
            for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
                command.env_remove(name);
            }
        }
        let child = command.spawn().map_err(|source| EngineError::local("start", &program, source))?;
        Ok(Process::watch(child))
    }

    /// What the command line says: it holds until the server is restarted.
    fn settings(&self) -> Vec<(String, String)> {
        let mut settings = vec![
            // What is said about the recovery must be where we look for it, and in words that we know.
            ("logging_collector".to_owned(), "off".to_owned()),
            ("log_destination".to_owned(), "stderr".to_owned()),
            ("lc_messages".to_owned(), "C".to_owned()),
            // The configuration, or a file that it includes, may name the source's.
            ("data_directory".to_owned(), self.pgdata.display().to_string()),
        ];
        if let Some(port) = self.options.port {
            settings.push(("port".to_owned(), port.to_string()));
        }
        if let Some(directory) = &self.options.socket_directory {
            // A list in PostgreSQL: quotes keep a comma in a name.
            let quoted = directory.display().to_string().replace('"', "\"\"");
            settings.push(("unix_socket_directories".to_owned(), format!("\"{quoted}\"")));
        }
        settings.extend(
            self.options.settings.iter().map(|setting| (setting.name.clone(), setting.value.clone())),
        );
        settings
    }

    async fn wait(
        &self,
        process: &Process,
        log: &mut Log,
        questioner: &mut Questioner,
        started: Instant,
    ) -> Result<(ServerState, Option<Answer>)> {
        let mut told = 0;
        loop {
            // The end is looked for first, so that the log is read after the last line was written.
            let ended = process.ended();
            log.read();
            let segments = log.restored_segments.min(self.plan.segments.count);
            self.ctx.progress.advance(segments.saturating_sub(told));
            told = told.max(segments);
            let mut answer = None;
            let look = match ended {
                Some(status) => Look::Ended(status),
                None => self.look(process.id(), log, questioner, &mut answer).await,
            };
            match look {
                Look::Reached(state) => return Ok((state, answer)),
                Look::Ended(status) => return self.judge_end(status, log).map(|state| (state, None)),
                Look::Recovering => {}
            }
            if started.elapsed() >= self.options.timeout {
                return Err(self.too_long(log, process.id()));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn look(
        &self,
        pid: u32,
        log: &Log,
        questioner: &mut Questioner,
        answer: &mut Option<Answer>,
    ) -> Look {
        let Some(pid_file) = PidFile::read(self.pgdata).filter(|file| file.pid == pid) else {
            return Look::Recovering;
        };
        if !pid_file.takes_connections {
            return Look::Recovering;
        }
        *answer = questioner.ask(&pid_file).await;
        let (promoted, paused) = match answer {
            Some(answer) => (!answer.in_recovery, answer.paused),
            // Without an answer the server's own marks tell, once it is clear that there will be none.
            None if questioner.refused.is_some() => (self.is_in_production(), log.paused),
            None => return Look::Recovering,
        };
        match (promoted, paused) {
            (true, _) => Look::Reached(ServerState::Promoted),
            (false, true) => Look::Reached(ServerState::Paused),
            (false, false) => Look::Recovering,
        }
    }

    /// How far the files of a server in recovery may be written, running or shut down.
    fn written_to(&self) -> Option<(Lsn, TimelineId)> {
        let control = DataDirectory::open(self.pgdata).and_then(|data| data.control()).ok()?;
        let recovers =
            matches!(control.state, ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery);
        let timeline = control.min_recovery_timeline.filter(|_| control.min_recovery_point.is_valid())?;
        recovers.then_some((control.min_recovery_point, timeline))
    }

    /// The timeline that the server followed before it began its own: the last one in the history that it wrote at its
    /// promotion (`writeTimeLineHistory` in `src/backend/access/transam/timeline.c`).
    fn followed(&self, own: TimelineId) -> Option<TimelineId> {
        let file = self.pgdata.join("pg_wal").join(ArchiveFileName::History(own).to_string());
        let bytes = read_if_present(&file, HISTORY_BYTES_MAX).ok().flatten()?;
        TimelineHistory::parse(own, &bytes).ok()?.parent()
    }

    /// What `pg_control` says once recovery is over.
    fn is_in_production(&self) -> bool {
        let control = DataDirectory::open(self.pgdata).and_then(|data| data.control());
        control.is_ok_and(|control| control.state == ClusterState::InProduction)
    }

    /// A server that has ended may have done just what it was told to.
    fn judge_end(&self, status: ExitStatus, log: &Log) -> Result<ServerState> {
        let state =
            DataDirectory::open(self.pgdata).and_then(|data| data.control()).map(|control| control.state);
        let stops = self.plan.request.target != RecoveryTarget::Latest;
        let told_to = stops && self.plan.request.action == RecoveryAction::Shutdown;
        if told_to && matches!(state, Ok(ClusterState::ShutDownInRecovery)) && log.fatal.is_none() {
            return Ok(ServerState::ShutDown);
        }
        let fatal = log.fatal.as_deref();
        let mut said = fatal.map_or_else(|| format!("it ended with {status}"), str::to_owned);
        if let Some(command) = &log.command_failure {
            said = format!("{said}; {command}");
        }
        let log_path = log_of(self.pgdata);
        // Restoring again would find a directory that is not empty.
        let again = self.start_again(fatal.and_then(explain) == Some(PORT_TAKEN));
        let again = format!("to start it without restoring again: {again}");
        let hint = match fatal.and_then(explain) {
            Some(meaning) => format!("{meaning}; the log is {}; {again}", log_path.display()),
            None => format!("{again}; the last lines of {}:\n{}", log_path.display(), log.tail()),
        };
        let message = format!("the restored server did not reach its target: {said}");
        Err(EngineError::failed(ErrorKind::Postgres, message).with_hint(hint))
    }

    /// The command line that starts it by hand, as it was started. Which port is free a person must say.
    fn start_again(&self, port_taken: bool) -> String {
        let port =
            if port_taken { Some("PORT".to_owned()) } else { self.options.port.map(|port| port.to_string()) };
        let mut settings: Vec<(&str, String)> = port.map(|port| ("port", port)).into_iter().collect();
        if let Some(directory) = &self.options.socket_directory {
            settings.push(("unix_socket_directories", shell_path(directory)));
        }
        start_command(self.pgdata, self.owner, Some(self.programs), &settings)
    }

    fn too_long(&self, log: &Log, pid: u32) -> EngineError {
        let message = format!(
            "the restored server has not reached its target within {} seconds segments={} pid={pid}",
            self.options.timeout.as_secs(),
            log.restored_segments
        );
        let hint = format!("it goes on recovering: follow {}", log_of(self.pgdata).display());
        EngineError::failed(ErrorKind::Postgres, message).with_hint(hint)
    }
}
