//! The hook's side: synchronous and small. No runtime, no store, no TLS; a call is a connection, a line and an answer.
//!
//! Whatever goes wrong between hook and agent, the answer is [`DoItYourself`]: the hook then does what it would have done
//! without an agent. Only what the agent met in the archive or in the data directory is told as a failure.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use walden_core::ErrorKind;

use super::protocol::{
    AgentFailure, Answer, Ask, Beat, Call, Farewell, Frame, FrameKind, GetAsk, ProtocolError, ReadyFile,
    Refusal, bare_frame, build, frame,
};
pub use super::spool::Spool;
use super::status::AgentStatus;
use crate::archiver::{FileIdentity, PushReport};

/// A hook that hears nothing for this long does the work itself. The agent is heard from every second.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);
/// An agent with a limit of the rate has hooks wait longer by the time that the bytes take, but by no more than this.
pub const AT_RATE_MAX: Duration = Duration::from_mins(15);

/// What of a hook's deadline it waits for the agent: half of it. With the other half it does the work itself, should the
/// agent be heard from and yet not get done.
#[must_use]
pub fn share_of_agent(deadline: Duration) -> Duration {
    deadline / 2
}

/// Why the hook does the work itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoItYourself {
    /// No agent runs for this data directory, repository and server.
    #[error("no agent runs")]
    NoAgent,
    /// The directory where it would be can't be used.
    #[error("the agent's directory can't be used: {0}")]
    NoPlace(String),
    /// It has more to do than it can take.
    #[error("the agent is busy")]
    Busy,
    /// It, or one before it, was silent for [`SILENCE_MAX`].
    #[error("the agent does not answer")]
    Silent,
    /// It was at work for a hook for too long a moment ago, and the hook was done in no time.
    #[error("the agent did not get done a moment ago")]
    Late,
    /// It is of another build.
    #[error("the agent is of another build build={build} pid={pid}")]
    OtherBuild {
        /// Its build.
        build: String,
        /// Its process.
        pid: u32,
        /// Whether it was asked to leave: an agent that a hook started is, so that an upgrade replaces it.
        asked_to_leave: bool,
    },
    /// What it said is not understood.
    #[error("the agent's answer is broken: {0}")]
    Broken(String),
    /// It sent the hook away.
    #[error("{0}")]
    SentAway(String),
    /// The file is not in the `pg_wal` of the data directory.
    #[error("the file is not in pg_wal of the data directory")]
    Elsewhere,
}

/// How a push through the agent ended.
#[derive(Debug, Clone, PartialEq)]
pub enum PushAnswer {
    /// The file is in the archive.
    Done {
        /// What a push by the hook itself would have reported.
        report: PushReport,
        /// Whether it had been archived before the hook asked.
        ahead: bool,
    },
    /// The agent tried, and the hook would have met the same.
    Failed(AgentFailure),
    /// The deadline passed; the agent may still be at work on it.
    Late {
        /// How long it was waited for: the deadline, and what a limit of the rate adds.
        waited: Duration,
    },
    /// The hook does the work itself.
    DoItYourself(DoItYourself),
}

/// How a get through the agent ended.
#[derive(Debug, Clone, PartialEq)]
pub enum GetAnswer {
    /// The file waits in the spool.
    Ready(ReadyFile),
    /// It is proven not to be in the archive.
    Absent,
    /// The agent tried, and the hook would have met the same.
    Failed(AgentFailure),
    /// The deadline passed.
    Late {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The hook does the work itself.
    DoItYourself(DoItYourself),
}

/// Has the agent archive the file at `path`, absolute or relative to the current directory; waits for `deadline` at most,
/// and for up to [`AT_RATE_MAX`] more when the agent says that it keeps to a rate.
#[must_use]
pub fn push(spool: &Spool, path: &Path, deadline: Duration) -> PushAnswer {
    let Some(name) = name_in_pg_wal(spool, path) else {
        return PushAnswer::DoItYourself(DoItYourself::Elsewhere);
    };
    // Of what can't be looked at the direct way tells best.
    let Ok(metadata) = std::fs::metadata(path) else {
        return PushAnswer::DoItYourself(DoItYourself::Elsewhere);
    };
    let ask = Ask::Push { name, file: FileIdentity::of(&metadata) };
    match call(spool, ask, deadline) {
        Ok(Answer::Done { report, ahead }) => PushAnswer::Done { report, ahead },
        Ok(Answer::Failed(failure)) if is_of_the_agent(failure.kind) => {
            PushAnswer::DoItYourself(failed_itself(&failure))
        }
        Ok(Answer::Failed(failure)) => PushAnswer::Failed(failure),
        Ok(Answer::DoItYourself { reason }) => PushAnswer::DoItYourself(DoItYourself::SentAway(reason)),
        Ok(_) => PushAnswer::DoItYourself(unfitting()),
        Err(Unanswered::Late { waited }) => PushAnswer::Late { waited },
        Err(Unanswered::DoItYourself(reason)) => PushAnswer::DoItYourself(reason),
    }
}

/// Asks the agent for a file of the archive, which PostgreSQL wants at `destination`, absolute; waits as [`push`] does.
#[must_use]
pub fn get(spool: &Spool, name: &str, destination: &Path, deadline: Duration) -> GetAnswer {
    let ask = Ask::Get(GetAsk { name: name.to_owned(), destination: destination.to_owned() });
    match call(spool, ask, deadline) {
        Ok(Answer::Ready(file)) => GetAnswer::Ready(file),
        Ok(Answer::Absent) => GetAnswer::Absent,
        Ok(Answer::Failed(failure)) if is_of_the_agent(failure.kind) => {
            GetAnswer::DoItYourself(failed_itself(&failure))
        }
        Ok(Answer::Failed(failure)) => GetAnswer::Failed(failure),
        Ok(Answer::DoItYourself { reason }) => GetAnswer::DoItYourself(DoItYourself::SentAway(reason)),
        Ok(_) => GetAnswer::DoItYourself(unfitting()),
        Err(Unanswered::Late { waited }) => GetAnswer::Late { waited },
        Err(Unanswered::DoItYourself(reason)) => GetAnswer::DoItYourself(reason),
    }
}

/// The agent's status.
///
/// # Errors
/// Why there is none.
pub fn status(spool: &Spool) -> Result<AgentStatus, DoItYourself> {
    match call(spool, Ask::Status, SILENCE_MAX * 2) {
        Ok(Answer::Status(status)) => Ok(*status),
        Ok(Answer::DoItYourself { reason }) => Err(DoItYourself::SentAway(reason)),
        Ok(_) => Err(unfitting()),
        Err(Unanswered::Late { .. }) => Err(DoItYourself::Silent),
        Err(Unanswered::DoItYourself(reason)) => Err(reason),
    }
}

/// Asks an agent that a hook started, of whatever build, to leave; a resident one stays.
///
/// # Errors
/// When none answers.
pub fn leave(spool: &Spool) -> Result<Farewell, DoItYourself> {
    part(spool, FrameKind::Leave)
}

/// Asks the agent, of whatever build and however it was started, to end.
///
/// # Errors
/// When none answers.
pub fn stop(spool: &Spool) -> Result<Farewell, DoItYourself> {
    part(spool, FrameKind::Stop)
}

/// The name of a file that is in `pg_wal` of the spool's data directory.
fn name_in_pg_wal(spool: &Spool, path: &Path) -> Option<String> {
    let absolute = std::path::absolute(path).ok()?;
    let parent = absolute.parent()?;
    let expected = spool.data_directory().join("pg_wal");
    // Mostly the same words; if not, the same directory may still be meant.
    if parent != expected && parent.canonicalize().ok()? != expected.canonicalize().ok()? {
        return None;
    }
    Some(absolute.file_name()?.to_str()?.to_owned())
}

/// Whether a failure may be the agent's alone: a defect that its process met, or that it may not open as many files, or
/// not this one. Who meets it in the hook, too, is told so there.
fn is_of_the_agent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Internal | ErrorKind::LocalIo)
}

fn failed_itself(failure: &AgentFailure) -> DoItYourself {
    DoItYourself::SentAway(format!("the agent failed: {}", failure.message))
}

fn unfitting() -> DoItYourself {
    DoItYourself::Broken("it answers something else than what was asked".to_owned())
}

/// Takes down that the agent did not get done in time what the hook then did itself: hooks do without it for a while, and
/// one that a hook started is asked to leave, so that another one takes its place. Tells whether it leaves.
pub fn note_late(spool: &Spool) -> bool {
    spool.note_late(now());
    leave(spool).is_ok_and(|farewell| farewell.leaving)
}

enum Unanswered {
    Late { waited: Duration },
    DoItYourself(DoItYourself),
}

impl From<DoItYourself> for Unanswered {
    fn from(reason: DoItYourself) -> Self {
        Self::DoItYourself(reason)
    }
}

fn call(spool: &Spool, ask: Ask, deadline: Duration) -> Result<Answer, Unanswered> {
    let begun = Instant::now();
    let mut end = begun + deadline;
    if !matches!(ask, Ask::Status) && spool.is_late(now()) {
        return Err(DoItYourself::Late.into());
    }
    let mut connection = Connection::open(spool)?;
    let call = Call { caller: spool.caller().clone(), ask };
    let bytes = frame(FrameKind::Call, build(), &call).map_err(|error| broken(&error))?;
    let answered = connection.send(&bytes, end).and_then(|()| {
        loop {
            let frame = connection.receive(end)?;
            match frame.kind {
                FrameKind::Beat if frame.is_of(build()) => end = begun + deadline + at_rate(&frame),
                _ => return Ok(frame),
            }
        }
    });
    let frame = match answered {
        Err(_) if end <= Instant::now() => return Err(Unanswered::Late { waited: begun.elapsed() }),
        Err(ProtocolError::Io(error)) if is_timeout(&error) => {
            spool.note_silence(now());
            return Err(DoItYourself::Silent.into());
        }
        Err(error) => return Err(broken(&error).into()),
        Ok(frame) => frame,
    };
    match frame.kind {
        FrameKind::Answer if frame.is_of(build()) => Ok(frame.parse().map_err(|error| broken(&error))?),
        FrameKind::Refused => Err(refused(spool, &frame).into()),
        kind => Err(DoItYourself::Broken(format!("a frame of an unexpected kind kind={kind:?}")).into()),
    }
}

/// What a limit of the rate adds to the deadline.
fn at_rate(beat: &Frame) -> Duration {
    let said = beat.parse::<Beat>().map_or(Duration::ZERO, |beat| Duration::from_millis(beat.at_rate_ms));
    said.min(AT_RATE_MAX)
}

fn refused(spool: &Spool, frame: &Frame) -> DoItYourself {
    let refusal = match frame.parse::<Refusal>() {
        Ok(refusal) => refusal,
        Err(error) => return broken(&error),
    };
    let asked_to_leave = refusal.on_demand && leave(spool).is_ok_and(|farewell| farewell.leaving);
    DoItYourself::OtherBuild { build: frame.build.clone(), pid: refusal.pid, asked_to_leave }
}

fn part(spool: &Spool, kind: FrameKind) -> Result<Farewell, DoItYourself> {
    let end = Instant::now() + SILENCE_MAX;
    let mut connection = Connection::open(spool)?;
    let answered = connection.send(&bare_frame(kind, build()), end);
    let frame = answered.and_then(|()| connection.receive(end)).map_err(|error| match error {
        ProtocolError::Io(error) if is_timeout(&error) => DoItYourself::Silent,
        error => broken(&error),
    })?;
    if frame.kind != FrameKind::Answer {
        return Err(unfitting());
    }
    frame.parse().map_err(|error| broken(&error))
}

fn broken(error: &ProtocolError) -> DoItYourself {
    DoItYourself::Broken(error.to_string())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[expect(clippy::disallowed_methods, reason = "compared with the dates of files, which are from this clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// A connection to the agent, on which no wait is longer than [`SILENCE_MAX`].
struct Connection(UnixStream);

impl Connection {
    fn open(spool: &Spool) -> Result<Self, DoItYourself> {
        // Without the socket there is nothing to ask; most machines without an agent end here.
        let opened = spool.open().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DoItYourself::NoAgent,
            _ => DoItYourself::NoPlace(format!("{error} path={}", spool.directory().display())),
        })?;
        if spool.is_silent(now()) {
            return Err(DoItYourself::Silent);
        }
        let connected = Self::connect(&opened.socket_address(spool)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => DoItYourself::NoAgent,
            io::ErrorKind::WouldBlock => {
                // The queue of connections is full: it is stopped, or overwhelmed.
                DoItYourself::Busy
            }
            _ => DoItYourself::Broken(error.to_string()),
        })?;
        // The path may lead elsewhere by now, if others can write to what is above it.
        let peer = getsockopt(&connected.0, PeerCredentials).map_err(io::Error::from);
        match peer.and_then(|peer| opened.is_of(peer.uid())) {
            Ok(true) => Ok(connected),
            Ok(false) => Err(DoItYourself::Broken("another user listens there".to_owned())),
            Err(error) => Err(DoItYourself::Broken(error.to_string())),
        }
    }

    /// Connects without waiting: an agent that was stopped takes no connections, and would keep the hook for ever.
    fn connect(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(Self(stream))
    }

    fn send(&mut self, bytes: &[u8], end: Instant) -> Result<(), ProtocolError> {
        self.0.set_write_timeout(Some(patience(end)?))?;
        self.0.write_all(bytes)?;
        Ok(())
    }

    /// One frame; a sender that gives it byte by byte gets no more time than one that gives it at once.
    fn receive(&mut self, end: Instant) -> Result<Frame, ProtocolError> {
        let end = end.min(Instant::now() + SILENCE_MAX);
        Frame::read(&mut Timed { stream: &self.0, end })
    }
}

/// What is left until `end`; a timeout of zero would mean none.
fn patience(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.min(SILENCE_MAX)) }
}

struct Timed<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(patience(self.end)?))?;
        (&mut &*self.stream).read(buffer)
    }
}

/// From this size on, in bytes, glibc gives memory back to the system when it is freed. Left alone it stops doing so for
/// the chunks that segments are read into, and keeps a third more than the agent's budget. A variable and its value: it must
/// be in the environment when an agent's process begins.
pub const ALLOCATOR_SETTING: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// What became of an attempt to start an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartOutcome {
    /// One is on its way.
    Started {
        /// Its process.
        pid: u32,
    },
    /// Not now: another hook tried a moment ago, or this user is not the data directory's.
    NotNow,
}

/// Starts `program` with `arguments` as an agent of its own, and does not wait for it. Standard input and output lead to
/// `/dev/null`, standard error to [`Spool::log_path`], which is emptied. The agent itself leaves the hook's session first
/// thing ([`super::lifecycle::detach`]).
///
/// # Errors
/// Of the operating system. Whoever calls does without.
pub fn start_on_demand(
    spool: &Spool,
    program: &Path,
    arguments: impl IntoIterator<Item = OsString>,
) -> io::Result<StartOutcome> {
    if !spool.may_start(now())? {
        return Ok(StartOutcome::NotNow);
    }
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(spool.log_path())?;
    log.set_len(0)?;
    let mut command = Command::new(program);
    let (allocator, bytes) = ALLOCATOR_SETTING;
    if std::env::var_os(allocator).is_none() {
        command.env(allocator, bytes);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Nobody waits for it: it is init's when the hook has ended.
    let child = command.spawn()?;
    Ok(StartOutcome::Started { pid: child.id() })
}

/// The names of the files that PostgreSQL wants archived, as long as there are at most `max` of them and some; looks at
/// no more than that. For the decision whether an agent is worth starting.
///
/// # Errors
/// When `archive_status` can't be read.
pub fn ready_files(data_directory: &Path, max: usize) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(data_directory.join("pg_wal/archive_status"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|ending| ending == "ready")).take(max).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::spool::tests::spool_in;

    #[test]
    fn an_agent_is_started_now_and_then_and_its_complaints_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        std::fs::create_dir(spool.directory()).unwrap();
        std::fs::write(spool.log_path(), b"of the one before\n").unwrap();
        let start = |script: &str| {
            start_on_demand(&spool, Path::new("/bin/sh"), ["-c".into(), script.into()]).unwrap()
        };
        let started = start("echo to nowhere; echo complaint >&2");
        let StartOutcome::Started { pid } = started else { panic!("not started") };
        assert_eq!(start("echo second >&2"), StartOutcome::NotNow);
        let log = || std::fs::read_to_string(spool.log_path()).unwrap();
        while !log().contains("complaint") {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!log().contains("nowhere") && !log().contains("of the one before"), "{}", log());
        assert_ne!(pid, std::process::id());
    }

    #[test]
    fn files_that_wait_are_counted_only_as_far_as_asked() {
        let directory = tempfile::tempdir().unwrap();
        assert!(ready_files(directory.path(), 2).is_err());
        let status = directory.path().join("pg_wal/archive_status");
        std::fs::create_dir_all(&status).unwrap();
        assert_eq!(ready_files(directory.path(), 2).unwrap(), Vec::<PathBuf>::new());
        for name in ["a.done", "b.ready", "c.ready", "d.ready"] {
            std::fs::write(status.join(name), b"").unwrap();
        }
        assert_eq!(ready_files(directory.path(), 2).unwrap().len(), 2);
        assert_eq!(ready_files(directory.path(), 9).unwrap().len(), 3);
    }

    #[test]
    fn only_files_of_this_pg_wal_are_the_agents_whatever_path_leads_there() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        let (data, elsewhere) = (directory.path().join("data"), directory.path().join("wal"));
        std::fs::create_dir(&elsewhere).unwrap();
        // pg_wal is often a link to another disk.
        std::os::unix::fs::symlink(&elsewhere, data.join("pg_wal")).unwrap();
        let name = |path: PathBuf| name_in_pg_wal(&spool, &path);
        assert_eq!(name(data.join("pg_wal/00000002.history")).as_deref(), Some("00000002.history"));
        assert_eq!(name(elsewhere.join("00000002.history")).as_deref(), Some("00000002.history"));
        assert_eq!(name(data.join("00000002.history")), None);
        assert_eq!(name(directory.path().join("nowhere/00000002.history")), None);
    }
}
