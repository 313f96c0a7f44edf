//! All agents' directories of a state directory: whose they are, who has them, and what of them nobody needs any more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};
use walden_core::ServerName;

use super::protocol::DirectoryIdentity;
use super::spool::Spool;

/// How the names of agents' directories begin; 16 hexadecimal digits follow.
pub(super) const PREFIX: &str = "agent-";
const ABOUT_BYTES_MAX: u64 = 64 << 10;
/// A lock file holds a number and the end of a line.
const LOCK_BYTES_MAX: u64 = 32;
/// The files of a directory that no agent has and that doesn't say whose it is are left alone for this long.
const UNKNOWN_KEPT: Duration = Duration::from_hours(24);

/// What an agent writes into its directory about itself. People read it, and it says whose the directory was; nothing
/// else is believed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The agent's process.
    pub pid: u32,
    /// Its build: see [`super::protocol::build`].
    pub build: String,
    /// Whether a hook started it.
    pub on_demand: bool,
    /// When it started, by the clock of its machine.
    pub started_at: Timestamp,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The data directory, as the agent saw it when it started.
    pub identity: DirectoryIdentity,
    /// Which store: its URL, endpoint and account.
    pub repository: String,
    /// The server.
    pub server: ServerName,
}

/// Who has the place of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: no agent lives there.
    Nobody,
    /// A process, whose number is known if its lock could be read.
    Process(Option<u32>),
}

impl Holder {
    /// Looks who holds a lock; nobody notices.
    ///
    /// # Errors
    /// Of the operating system, when the file is there and can't be looked at.
    pub fn of(spool: &Spool) -> io::Result<Self> {
        Self::of_lock(&spool.lock_path())
    }

    fn of_lock(path: &Path) -> io::Result<Self> {
        let file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nobody),
            opened => opened?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Self::Nobody),
            Err(std::fs::TryLockError::WouldBlock) => Ok(Self::Process(pid_in(path))),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The number of the process, if there is one and it is known.
    #[must_use]
    pub fn pid(self) -> Option<u32> {
        match self {
            Self::Nobody => None,
            Self::Process(pid) => pid,
        }
    }
}

pub(super) fn pid_in(lock: &Path) -> Option<u32> {
    let bytes = crate::fs::read_if_present(lock, LOCK_BYTES_MAX).ok().flatten()?;
    String::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// An agent's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub directory: PathBuf,
    /// What its last agent wrote about itself; `None` when it could not, or was of an older version.
    pub about: Option<About>,
    /// Who has it now.
    pub holder: Holder,
}

impl Place {
    /// All of a state directory, by name; those that can't be looked at are left out.
    ///
    /// # Errors
    /// When the state directory can't be read. One that is not there has none.
    pub fn all(state_directory: &Path) -> io::Result<Vec<Self>> {
        let entries = match std::fs::read_dir(state_directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut places: Vec<Self> = entries.filter_map(|entry| Self::at(entry.ok()?.path())).collect();
        places.sort_by(|one, other| one.directory.cmp(&other.directory));
        Ok(places)
    }

    fn at(directory: PathBuf) -> Option<Self> {
        let digits = directory.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let is_ours = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_ours || !std::fs::symlink_metadata(&directory).ok()?.is_dir() {
            return None;
        }
        let holder = Holder::of_lock(&directory.join("lock")).ok()?;
        let about = crate::fs::read_if_present(&about_path(&directory), ABOUT_BYTES_MAX).ok().flatten();
        Some(Self { about: about.and_then(|about| serde_json::from_slice(&about).ok()), directory, holder })
    }

    /// Where the agent can be asked; `None` when it is not known whose the place is.
    #[must_use]
    pub fn spool(&self) -> Option<Spool> {
        self.about.as_ref().map(|about| Spool::of_place(self.directory.clone(), about))
    }

    /// Whether the data directory is gone, as far as is known.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.about.as_ref().is_some_and(|about| about.data_directory.try_exists().is_ok_and(|there| !there))
    }

    /// Removes what nobody needs, if no agent has the place: of a data directory that is gone all of it; of one that is not
    /// known the files fetched ahead, after a day.
    fn clear(&self, now: SystemTime) -> io::Result<bool> {
        let metadata = std::fs::symlink_metadata(&self.directory)?;
        if self.holder != Holder::Nobody || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Ok(false);
        }
        let whole = self.is_orphaned();
        let idle = now.duration_since(metadata.modified()?).unwrap_or_default();
        if !whole && (self.about.is_some() || idle < UNKNOWN_KEPT) {
            return Ok(false);
        }
        // Whoever comes meanwhile finds it taken, or sees within a second that the lock is not in its place any more.
        let lock = self.directory.join("lock");
        let held = OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(&lock);
        if held.as_ref().is_ok_and(|held| held.try_lock().is_err()) {
            return Ok(false);
        }
        let emptied = empty(&self.directory.join("prefetch"))?;
        if !whole {
            return Ok(emptied > 0);
        }
        let _ = std::fs::remove_dir(self.directory.join("prefetch"));
        empty(&self.directory)?;
        let _ = std::fs::remove_dir(&self.directory);
        Ok(true)
    }
}

/// Clears what dead agents of other data directories have left in a state directory; gives how many places. Nothing fails
/// because of it.
pub(super) fn clear_stale(state_directory: &Path, own: &Spool, now: SystemTime) -> usize {
    let places = Place::all(state_directory).unwrap_or_default();
    let others = places.iter().filter(|place| place.directory != own.directory());
    let mut cleared = 0;
    for place in others {
        match place.clear(now) {
            Ok(true) => {
                cleared += 1;
                tracing::info!(path = %place.directory.display(), "cleared what an agent had left");
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(path = %place.directory.display(), %error, "not cleared"),
        }
    }
    cleared
}

/// Removes the files in a directory, and no directory in it.
pub(super) fn empty(directory: &Path) -> io::Result<usize> {
    let entries = match std::fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Ok(metadata) if !metadata.is_dir() => return Ok(0),
        metadata => metadata.and_then(|_| std::fs::read_dir(directory))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

pub(super) fn about_path(directory: &Path) -> PathBuf {
    directory.join("about.json")
}

/// Writes what an agent says of itself. A full disk keeps nobody from working.
pub(super) fn describe(directory: &Path, about: &About) {
    let written = serde_json::to_vec(about).map_err(io::Error::from).and_then(|bytes| {
        let path = about_path(directory);
        let _ = std::fs::remove_file(&path);
        let mut options = OpenOptions::new();
        let mut file: File = options.write(true).create_new(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, &bytes)
    });
    if let Err(error) = written {
        tracing::debug!(%error, "the agent's directory does not say whose it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::spool::AgentLock;
    use crate::agent::spool::tests::spool_in;

    fn about(spool: &Spool) -> About {
        About {
            schema: 1,
            pid: 4711,
            build: "1.2.3+a.b".to_owned(),
            on_demand: true,
            started_at: Timestamp::UNIX_EPOCH,
            data_directory: spool.data_directory().to_owned(),
            identity: spool.caller().data_directory,
            repository: spool.caller().repository.clone(),
            server: spool.caller().server.clone(),
        }
    }

    /// A state directory with the place of an agent that left files, and the place of another one.
    fn places() -> (tempfile::TempDir, Spool, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let spool = spool_in(directory.path());
        drop(AgentLock::take(&spool).unwrap().unwrap());
        std::fs::create_dir(spool.prefetch_directory()).unwrap();
        std::fs::write(spool.prefetch_directory().join("000000010000000000000002"), b"x").unwrap();
        std::fs::write(spool.log_path(), b"x").unwrap();
        let other = directory.path().join("agent-0123456789abcdef");
        std::fs::create_dir(&other).unwrap();
        (directory, spool, other)
    }

    fn own(directory: &Path, place: PathBuf) -> Spool {
        let mut about = about(&spool_in(directory));
        about.data_directory = directory.to_owned();
        Spool::of_place(place, &about)
    }

    #[test]
    fn a_place_says_whose_it_is_and_who_has_it() {
        let (directory, spool, other) = places();
        let all = Place::all(directory.path()).unwrap();
        assert_eq!(all.len(), 2, "the data directory is none: {all:?}");
        assert!(all.iter().all(|place| place.about.is_none() && place.holder == Holder::Nobody));
        describe(spool.directory(), &about(&spool));
        let held = AgentLock::take(&spool).unwrap().unwrap();
        let all = Place::all(directory.path()).unwrap();
        let place = all.iter().find(|place| place.directory != other).unwrap();
        assert_eq!(place.about.as_ref(), Some(&about(&spool)));
        assert_eq!(place.holder.pid(), Some(std::process::id()));
        assert_eq!(place.spool().unwrap().socket_path(), spool.socket_path());
        drop(held);
        assert_eq!(Holder::of(&spool).unwrap(), Holder::Nobody);
        assert_eq!(Place::all(Path::new("/nowhere")).unwrap(), []);
    }

    #[test]
    fn what_is_left_of_a_data_directory_that_is_gone_is_cleared_and_nothing_else() {
        let (directory, spool, other) = places();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let own = own(directory.path(), other.clone());
        describe(spool.directory(), &about(&spool));
        assert_eq!(clear_stale(directory.path(), &own, now), 0, "its data directory is there");
        std::fs::remove_dir_all(spool.data_directory()).unwrap();
        let held = AgentLock::take(&spool).unwrap().unwrap();
        assert_eq!(clear_stale(directory.path(), &own, now), 0, "an agent has it");
        drop(held);
        assert_eq!(clear_stale(directory.path(), &own, now), 1);
        assert!(!spool.directory().try_exists().unwrap());
        assert!(other.try_exists().unwrap());
    }

    #[test]
    fn files_of_nobody_known_are_cleared_after_a_day() {
        let (directory, spool, other) = places();
        let own = own(directory.path(), other);
        let written = spool.directory().metadata().unwrap().modified().unwrap();
        assert_eq!(clear_stale(directory.path(), &own, written + UNKNOWN_KEPT / 2), 0);
        assert_eq!(clear_stale(directory.path(), &own, written + UNKNOWN_KEPT), 1);
        assert_eq!(std::fs::read_dir(spool.prefetch_directory()).unwrap().count(), 0);
        assert!(spool.lock_path().try_exists().unwrap());
    }

    #[test]
    fn a_link_in_the_state_directory_leads_nowhere() {
        let (directory, _, other) = places();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("prefetch")).unwrap();
        std::fs::write(elsewhere.join("prefetch/x"), b"x").unwrap();
        let link = directory.path().join("agent-fedcba9876543210");
        std::os::unix::fs::symlink(&elsewhere, link).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("prefetch"), other.join("prefetch")).unwrap();
        let own = spool_in(directory.path());
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        clear_stale(directory.path(), &own, later);
        assert!(elsewhere.join("prefetch/x").try_exists().unwrap());
    }
}
