//! How an agent comes, stays and goes.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use walden_core::ErrorKind;

use super::client;
use super::protocol::DirectoryIdentity;
use super::spool::{AgentLock, OpenSpool, ServerProcess, Spool};
use crate::error::{EngineError, Result};

/// An agent that was asked to leave may take so long until it is gone; twice what it takes to finish its work.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(40);
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(200);
/// The log of an agent that a hook started is emptied when it is larger, in bytes.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Leaves the session of the hook that started this process, and closes what it left open: the pipes to PostgreSQL's log
/// collector, which would not end, and whatever the server had open. Changes to `/`.
///
/// First thing in the life of an agent that was started on demand, before anything else is opened.
///
/// # Errors
/// Of the operating system.
pub fn detach() -> io::Result<()> {
    // Fails for the leader of a group, which then is on its own already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The one of the listing itself is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// The server whose hook started the agent.
#[derive(Debug)]
pub(super) struct Starter {
    spool: Spool,
    /// `None` when no server ran when the agent started.
    server: Option<ServerProcess>,
}

/// What an agent on demand finds when it looks for the server whose hook started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs, or never ran.
    Stay,
    /// It has ended, and nothing more is asked for.
    ServerGone,
    /// The agent has become its child: the server is process 1 of its namespace, or was made to reap orphans. When the
    /// agent is killed then, the server ends all its sessions.
    Fostered,
}

impl Starter {
    pub(super) fn of(spool: &Spool) -> Self {
        Self { spool: spool.clone(), server: ServerProcess::of(spool.data_directory()) }
    }

    /// Looks at the server, and at whose child this process is.
    pub(super) fn fate(&self) -> Fate {
        let now = ServerProcess::of(self.spool.data_directory());
        let parent = nix::unistd::getppid().as_raw();
        if let Some(server) = now.as_ref().filter(|server| server.pid == parent) {
            self.spool.note_fostered(server);
            return Fate::Fostered;
        }
        match &self.server {
            Some(server) if now.as_ref() != Some(server) || !server.lives() => Fate::ServerGone,
            _ => Fate::Stay,
        }
    }
}

/// Says that the agent is to end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving(Arc<LeavingParts>);

#[derive(Debug, Default)]
struct LeavingParts {
    why: Mutex<Option<String>>,
    told: Notify,
}

impl Leaving {
    /// Ends the agent; the first reason counts.
    pub(super) fn leave(&self, why: &str) {
        let mut told = self.0.why.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none() {
            *told = Some(why.to_owned());
            self.0.told.notify_one();
        }
    }

    /// Why, once it is to end.
    pub(super) fn why(&self) -> Option<String> {
        self.0.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it is to end. For one task.
    pub(super) async fn told(&self) {
        while self.why().is_none() {
            self.0.told.notified().await;
        }
    }
}

/// Takes the agent's place, or tells the number of the process that has it. A resident agent asks one that a hook started
/// to leave.
pub(super) async fn take_place(
    spool: &Spool,
    on_demand: bool,
) -> Result<std::result::Result<AgentLock, u32>> {
    let end = Instant::now() + TAKE_OVER_WITHIN;
    let mut asked = false;
    loop {
        let taken = AgentLock::take(spool);
        let holder = match taken.map_err(|source| EngineError::local("lock", &spool.lock_path(), source))? {
            Ok(lock) => return Ok(Ok(lock)),
            Err(holder) => holder.unwrap_or_default(),
        };
        if on_demand {
            return Ok(Err(holder));
        }
        if !asked {
            let asking = spool.clone();
            let farewell = tokio::task::spawn_blocking(move || client::leave(&asking)).await;
            match farewell.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))? {
                Ok(farewell) if farewell.leaving => asked = true,
                Ok(farewell) => return Ok(Err(farewell.pid)),
                // It may be about to come or to go; or it is stopped, and then nobody can take its place.
                Err(error) => tracing::debug!(%error, "the agent that runs was not reached"),
            }
        }
        if end <= Instant::now() {
            return Ok(Err(holder));
        }
        tokio::time::sleep(TAKE_OVER_PAUSE).await;
    }
}

/// The place of a running agent: lock, socket and data directory, as they were when it began.
#[derive(Debug)]
pub(super) struct Premises {
    spool: Spool,
    lock: AgentLock,
    /// Held so that the socket's address stays good.
    _directory: OpenSpool,
    socket: DirectoryIdentity,
    on_demand: bool,
}

impl Premises {
    /// Binds the socket; what an agent before left there is removed.
    pub(super) fn open(spool: &Spool, lock: AgentLock, on_demand: bool) -> Result<(Self, UnixListener)> {
        let path = spool.socket_path();
        let failed = |action| {
            let path = path.clone();
            move |source| EngineError::local(action, &path, source)
        };
        let directory = spool.open().map_err(failed("open the directory of"))?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove the old socket")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(directory.socket_address(spool)).map_err(failed("bind"))?;
        let metadata = std::fs::symlink_metadata(&path).map_err(failed("look at"))?;
        let socket = DirectoryIdentity::of(&metadata);
        spool.end_silence();
        spool.end_lateness();
        let premises = Self { spool: spool.clone(), lock, _directory: directory, socket, on_demand };
        Ok((premises, listener))
    }

    /// The server whose hook started the agent, if one did.
    pub(super) fn starter(&self) -> Starter {
        Starter::of(&self.spool)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &std::path::Path {
        self.spool.directory()
    }

    /// Why the agent can't stay, if so. Looked at every second.
    pub(super) fn lost(&self) -> Option<&'static str> {
        self.tidy();
        let data = std::fs::metadata(self.spool.data_directory());
        let has_control = self.spool.data_directory().join("global/pg_control").try_exists();
        if !data.is_ok_and(|data| DirectoryIdentity::of(&data) == self.spool.caller().data_directory)
            || !has_control.unwrap_or(false)
        {
            return Some("the data directory is gone, or another one");
        }
        if !self.lock.is_in_place(&self.spool) || !self.has_socket() {
            return Some("the spool was removed, or another agent has taken the place");
        }
        None
    }

    fn has_socket(&self) -> bool {
        let named = std::fs::symlink_metadata(self.spool.socket_path());
        named.is_ok_and(|named| DirectoryIdentity::of(&named) == self.socket)
    }

    fn tidy(&self) {
        // It may have been stopped, and goes on.
        self.spool.end_silence();
        let log = self.spool.log_path();
        let size = std::fs::symlink_metadata(&log).map_or(0, |metadata| metadata.size());
        if self.on_demand && size > LOG_BYTES_MAX {
            let _ = OpenOptions::new().write(true).open(&log).and_then(|log| log.set_len(0));
        }
    }

    /// Takes the socket away, so that nobody calls any more; the lock is held until this is dropped.
    pub(super) fn close(&self) {
        if self.has_socket() {
            let _ = std::fs::remove_file(self.spool.socket_path());
        }
    }
}
