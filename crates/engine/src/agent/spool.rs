//! The directory in which an agent and the hooks of its data directory meet.
//!
//! It holds nothing that must be believed: a lock, a socket, and files that were fetched ahead, which are checked before
//! they are used. It may be removed at any time; the agent then ends, and the next one makes a new one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use walden_core::{ServerName, sha256_hex};
use walden_store::SettingsFingerprint;

use super::places::{About, PREFIX, pid_in};
use super::protocol::{Caller, DirectoryIdentity};

/// A longer path does not surely fit into a socket's address, which holds 108 bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// `postmaster.pid` is never larger, in bytes.
const PID_FILE_BYTES_MAX: u64 = 64 << 10;
/// Hooks try to start an agent this often at most.
pub const START_PAUSE: Duration = Duration::from_secs(10);
/// An agent that was silent is not asked again for this long.
pub const SILENCE_REMEMBERED: Duration = Duration::from_secs(30);
/// An agent that did not get done what a hook then did itself is not asked again for this long.
pub const LATE_REMEMBERED: Duration = Duration::from_mins(1);

/// The place of one agent: of one data directory, repository and server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    directory: PathBuf,
    data_directory: PathBuf,
    caller: Caller,
}

impl Spool {
    /// Finds the place; nothing is made, and nothing but the data directory is looked at.
    ///
    /// `repository` is [`walden_store::store_identity`] and `settings` is [`walden_store::settings_fingerprint`].
    ///
    /// # Errors
    /// When the data directory can't be looked at.
    pub fn locate(
        state_directory: &Path,
        data_directory: &Path,
        repository: &str,
        server: &ServerName,
        settings: &SettingsFingerprint,
    ) -> io::Result<Self> {
        let data_directory = data_directory.canonicalize()?;
        let metadata = data_directory.metadata()?;
        let identity = format!("{}\n{repository}\n{server}", data_directory.display());
        let digest = sha256_hex(identity.as_bytes());
        let directory = state_directory.join(format!("{PREFIX}{}", digest.get(..16).unwrap_or(&digest)));
        let caller = Caller {
            repository: repository.to_owned(),
            server: server.clone(),
            data_directory: DirectoryIdentity::of(&metadata),
            settings: settings.to_hex(),
        };
        Ok(Self { directory, data_directory, caller })
    }

    /// The place of an agent that was found in a state directory: to ask it, and to end it. Its data directory may be gone.
    pub(super) fn of_place(directory: PathBuf, about: &About) -> Self {
        let caller = Caller {
            repository: about.repository.clone(),
            server: about.server.clone(),
            data_directory: about.identity,
            settings: String::new(),
        };
        Self { directory, data_directory: about.data_directory.clone(), caller }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The data directory, without symbolic links.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// Whose agent it is: what hooks say of themselves, and what the agent compares it with.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The file that the running agent holds locked, with its process number in it. Its date is that of the last attempt
    /// to start one.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// The socket.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// Where files are that were fetched ahead.
    #[must_use]
    pub fn prefetch_directory(&self) -> PathBuf {
        self.directory.join("prefetch")
    }

    /// Where an agent that a hook started writes what it has to say.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    fn silence_path(&self) -> PathBuf {
        self.directory.join("silent")
    }

    fn late_path(&self) -> PathBuf {
        self.directory.join("late")
    }

    /// Makes the directory if it is missing, for its owner alone.
    ///
    /// # Errors
    /// When it can't be made, or is there and is not a directory of this user that others can't enter.
    pub fn make(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let opened = self.open()?;
        if opened.0.metadata()?.mode() & 0o077 != 0 {
            opened.0.set_permissions(std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Opens the directory.
    ///
    /// # Errors
    /// When it is not there, is a symbolic link, or belongs to another user: then whoever listens there is a stranger. Root
    /// takes that of the data directory's owner, too.
    pub fn open(&self) -> io::Result<OpenSpool> {
        let directory =
            OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(&self.directory)?;
        let (owner, user) = (directory.metadata()?.uid(), nix::unistd::geteuid());
        // Of a data directory that is gone nobody knows whose it was.
        let is_its_owner = || self.data_directory.metadata().map_or(true, |data| data.uid() == owner);
        let served = user.is_root() && is_its_owner();
        if owner != user.as_raw() && !served {
            let message = format!("the agent's directory belongs to another user uid={owner}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(OpenSpool(directory))
    }

    /// Takes the right to try to start an agent: given once every [`START_PAUSE`], to the owner of the data directory
    /// only, because an agent of root's would be of no use to the others.
    ///
    /// Never where the postmaster is process 1, as in a container without an init: the agent would become its child when
    /// the hook ends, and a child of its that is killed has it end all sessions and recover (`HandleChildCrash` in
    /// `src/backend/postmaster/postmaster.c`). Nor for a server whose child an agent became before: see
    /// [`Self::note_fostered`].
    ///
    /// # Errors
    /// Of the operating system; whoever can't write here does without an agent.
    pub fn may_start(&self, now: SystemTime) -> io::Result<bool> {
        if self.data_directory.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
            return Ok(false);
        }
        let server = ServerProcess::of(&self.data_directory);
        if server.is_some_and(|server| server.pid == 1 || self.was_fostered_by(&server)) {
            return Ok(false);
        }
        self.make()?;
        let path = self.lock_path();
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let lock = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let lock = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(&path)?;
                if is_recent(&lock, now, START_PAUSE)? {
                    return Ok(false);
                }
                lock
            }
            created => created?,
        };
        lock.set_modified(now)?;
        Ok(true)
    }

    /// Takes down that an agent became the child of this server, so that hooks of this server start no other.
    pub fn note_fostered(&self, server: &ServerProcess) {
        // Without it the next one ends as soon as it notices, like this one.
        let _ = std::fs::write(self.fostered_path(), server.line());
    }

    fn was_fostered_by(&self, server: &ServerProcess) -> bool {
        let noted = crate::fs::read_if_present(&self.fostered_path(), PID_FILE_BYTES_MAX).ok().flatten();
        noted.is_some_and(|noted| noted == server.line().as_bytes())
    }

    fn fostered_path(&self) -> PathBuf {
        self.directory.join("fostered")
    }

    /// Whether the agent was found silent a moment ago.
    #[must_use]
    pub fn is_silent(&self, now: SystemTime) -> bool {
        is_marked(&self.silence_path(), now, SILENCE_REMEMBERED)
    }

    /// Has other hooks do without the agent for [`SILENCE_REMEMBERED`].
    pub fn note_silence(&self, now: SystemTime) {
        mark(&self.silence_path(), now);
    }

    /// Whether a hook had to do a moment ago what the agent did not get done.
    #[must_use]
    pub fn is_late(&self, now: SystemTime) -> bool {
        is_marked(&self.late_path(), now, LATE_REMEMBERED)
    }

    /// Has other hooks do without the agent for [`LATE_REMEMBERED`].
    pub fn note_late(&self, now: SystemTime) {
        mark(&self.late_path(), now);
    }

    /// Has hooks ask again: another agent is there.
    pub fn end_lateness(&self) {
        let _ = std::fs::remove_file(self.late_path());
    }

    /// Has hooks ask again: the agent is well.
    pub fn end_silence(&self) {
        let _ = std::fs::remove_file(self.silence_path());
    }
}

fn is_marked(path: &Path, now: SystemTime, pause: Duration) -> bool {
    File::open(path).and_then(|marker| is_recent(&marker, now, pause)).unwrap_or(false)
}

fn mark(path: &Path, now: SystemTime) {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW);
    // Without it the next hook waits, too.
    let _ = options.open(path).and_then(|marker| marker.set_modified(now));
}

/// Whether a file was written to less than `pause` before or after `now`: a clock that was set back by more must not keep
/// anybody waiting.
fn is_recent(file: &File, now: SystemTime, pause: Duration) -> io::Result<bool> {
    let modified = file.metadata()?.modified()?;
    let age = now.duration_since(modified).or_else(|_| modified.duration_since(now));
    Ok(age.unwrap_or_default() < pause)
}

/// The running server of a data directory, as `postmaster.pid` tells it (`CreateLockFile` in
/// `src/backend/utils/init/miscinit.c`): its process, and when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProcess {
    /// The postmaster's process, in the namespace of the server.
    pub pid: i32,
    started: String,
}

impl ServerProcess {
    /// Reads the file; `None` when it is not there, or is not what it should be.
    #[must_use]
    pub fn of(data_directory: &Path) -> Option<Self> {
        let path = data_directory.join("postmaster.pid");
        let bytes = crate::fs::read_if_present(&path, PID_FILE_BYTES_MAX).ok().flatten()?;
        let text = String::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        // A stand-alone backend has a negative number.
        let pid = lines.next()?.trim().parse::<i32>().ok()?.checked_abs()?;
        Some(Self { pid, started: lines.nth(1).unwrap_or_default().trim().to_owned() })
    }

    /// Whether there is a process of this number.
    #[must_use]
    pub fn lives(&self) -> bool {
        let process = nix::unistd::Pid::from_raw(self.pid);
        nix::sys::signal::kill(process, None) != Err(nix::errno::Errno::ESRCH)
    }

    fn line(&self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }
}

/// The directory, held open, so that paths into it can't be led elsewhere.
#[derive(Debug)]
pub struct OpenSpool(File);

impl OpenSpool {
    /// Whether this user may be who listens here: the directory's owner, or who asks.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn is_of(&self, uid: u32) -> io::Result<bool> {
        Ok(uid == nix::unistd::geteuid().as_raw() || uid == self.0.metadata()?.uid())
    }

    /// A path to the socket that fits into a socket's address; good as long as this lives.
    #[must_use]
    pub fn socket_address(&self, spool: &Spool) -> PathBuf {
        let path = spool.socket_path();
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return path;
        }
        PathBuf::from(format!("/proc/self/fd/{}/socket", self.0.as_raw_fd()))
    }
}

/// Held by the agent as long as it lives; gone with it, however it ends.
#[derive(Debug)]
pub struct AgentLock {
    file: File,
    inode: u64,
}

impl AgentLock {
    /// Takes the lock, or tells who has it: its process number, when it can be read.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn take(spool: &Spool) -> io::Result<Result<Self, Option<u32>>> {
        spool.make()?;
        let path = spool.lock_path();
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.mode(0o600).custom_flags(O_NOFOLLOW).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Ok(Err(pid_in(&path)));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let inode = file.metadata()?.ino();
        // The number is for people; a full disk keeps nobody from working.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Ok(Self { file, inode }))
    }

    /// Whether the path still leads to the file that is locked: if not, another agent may have another one.
    #[must_use]
    pub fn is_in_place(&self, spool: &Spool) -> bool {
        let named = std::fs::symlink_metadata(spool.lock_path());
        let held = self.file.metadata();
        named.is_ok_and(|named| held.is_ok_and(|held| (named.dev(), named.ino()) == (held.dev(), self.inode)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use walden_store::{Environment, StoreConfig, settings_fingerprint};

    use super::*;

    /// A spool for an empty data directory.
    pub(in super::super) fn spool_in(directory: &Path) -> Spool {
        let data = directory.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let settings = settings_fingerprint(&StoreConfig::default(), &Environment::default());
        Spool::locate(directory, &data, "file:///repo", &"main".parse().unwrap(), &settings).unwrap()
    }

    #[test]
    fn each_data_directory_repository_and_server_has_its_own_place() {
        let directory = tempfile::tempdir().unwrap();
        let one = spool_in(directory.path());
        let settings = settings_fingerprint(&StoreConfig::default(), &Environment::default());
        let locate = |data: &str, repository: &str, server: &str| {
            let data = directory.path().join(data);
            Spool::locate(directory.path(), &data, repository, &server.parse().unwrap(), &settings).unwrap()
        };
        assert_eq!(locate("data", "file:///repo", "main"), one);
        assert_eq!(locate("../", "file:///repo", "main").directory().parent(), Some(directory.path()));
        assert_ne!(locate("data", "file:///other", "main").directory(), one.directory());
        assert_ne!(locate("data", "file:///repo", "other").directory(), one.directory());
        std::os::unix::fs::symlink(directory.path().join("data"), directory.path().join("link")).unwrap();
        assert_eq!(locate("link", "file:///repo", "main").directory(), one.directory());
        assert!(!one.directory().try_exists().unwrap(), "nothing is made by looking");
    }

    #[test]
    fn the_directory_is_for_its_owner_and_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        spool.make().unwrap();
        std::fs::set_permissions(spool.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
        spool.make().unwrap();
        assert_eq!(spool.directory().metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::remove_dir(spool.directory()).unwrap();
        std::os::unix::fs::symlink(directory.path(), spool.directory()).unwrap();
        assert!(spool.open().is_err() && spool.make().is_err());
    }

    #[test]
    fn one_holds_the_lock_and_the_other_learns_who() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        let held = AgentLock::take(&spool).unwrap().unwrap();
        assert!(held.is_in_place(&spool));
        assert_eq!(AgentLock::take(&spool).unwrap().unwrap_err(), Some(std::process::id()));
        std::fs::remove_dir_all(spool.directory()).unwrap();
        assert!(!held.is_in_place(&spool));
        let other = AgentLock::take(&spool).unwrap().unwrap();
        assert!(other.is_in_place(&spool) && !held.is_in_place(&spool));
        drop(other);
        AgentLock::take(&spool).unwrap().unwrap();
    }

    #[test]
    fn starts_are_tried_now_and_then_whatever_the_clock_does() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(spool.may_start(at(1000)).unwrap());
        assert!(!spool.may_start(at(1009)).unwrap());
        assert!(spool.may_start(at(1010)).unwrap());
        assert!(!spool.may_start(at(1005)).unwrap());
        assert!(spool.may_start(at(10)).unwrap(), "set back by far");
        assert!(!spool.is_silent(at(10)));
        spool.note_silence(at(10));
        assert!(spool.is_silent(at(39)) && !spool.is_silent(at(40)));
        spool.end_silence();
        assert!(!spool.is_silent(at(10)));
        spool.note_late(at(10));
        assert!(spool.is_late(at(69)) && !spool.is_late(at(70)) && !spool.is_silent(at(10)));
        spool.end_lateness();
        assert!(!spool.is_late(at(10)));
    }

    #[test]
    fn none_is_started_that_would_become_the_servers_child() {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        let server = spool.data_directory().join("postmaster.pid");
        std::fs::write(&server, b"1\n/pgdata\n").unwrap();
        assert!(!spool.may_start(SystemTime::UNIX_EPOCH).unwrap());
        std::fs::write(&server, b"17\n/pgdata\n1700000000\n5432\n").unwrap();
        assert!(spool.may_start(SystemTime::UNIX_EPOCH).unwrap());
        // A server that was made to reap orphans is known once one became its child, as long as it runs.
        spool.note_fostered(&ServerProcess::of(spool.data_directory()).unwrap());
        let later = SystemTime::UNIX_EPOCH + START_PAUSE;
        assert!(!spool.may_start(later).unwrap());
        std::fs::write(&server, b"17\n/pgdata\n1700000001\n5432\n").unwrap();
        assert!(spool.may_start(later).unwrap());
    }

    #[test]
    fn a_long_path_is_reached_through_the_open_directory() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        for place in [directory.path(), &long] {
            let spool = spool_in(place);
            spool.make().unwrap();
            let opened = spool.open().unwrap();
            let listener = std::os::unix::net::UnixListener::bind(opened.socket_address(&spool)).unwrap();
            std::os::unix::net::UnixStream::connect(opened.socket_address(&spool)).unwrap();
            assert!(spool.socket_path().try_exists().unwrap());
            drop(listener);
        }
    }
}
