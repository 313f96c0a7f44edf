//! The directory of a drill: made, marked, locked, and removed again, whatever happens.
//!
//! Its name begins with [`PREFIX`], it holds the marker [`MARKER`], and as long as the drill lives it holds a lock on
//! that file. A drill that was killed leaves the directory without the lock: the next drill over the same base directory
//! ends the server that may still run in it and removes it. What has no marker of ours, or a lock, is never touched.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};
use walden_core::{BackupId, ErrorKind, ServerName};

use crate::error::{EngineError, Result};
use crate::fs::read_if_present;
use crate::restore::Owner;

/// How the name of a drill's directory begins.
pub(super) const PREFIX: &str = "walden-drill-";
/// The file that makes a directory a drill's.
pub(super) const MARKER: &str = "walden.drill.json";
/// Longest path of a socket, in bytes: `sun_path` has 108 with its end.
const SOCKET_BYTES_MAX: usize = 107;
/// How long a server may take to end at once.
const SERVER_END: Duration = Duration::from_secs(20);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Work that was interrupted may still write for a moment while its files are removed.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// What the marker says, for people and for the next drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    schema: u32,
    drill: BackupId,
    server: ServerName,
    pid: u32,
    started_at: Timestamp,
}

/// The directory of a running drill. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    owner: Option<Owner>,
    /// Held until the marker is gone.
    lock: Option<Flock<File>>,
}

impl Place {
    /// Makes a directory for a drill in `base`, which is made too when only it is missing.
    ///
    /// # Errors
    /// Of kind `local_io`; of kind `config` when its path is too long for a socket.
    pub(super) fn make(
        base: &Path,
        id: &BackupId,
        server: &ServerName,
        started_at: Timestamp,
        owner: Option<Owner>,
    ) -> Result<Self> {
        let failed = |path: &Path, source| EngineError::local("make", path, source);
        let is_new = !base.is_dir();
        DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(|e| failed(base, e))?;
        if let Some(owner) = owner.filter(|_| is_new) {
            give_away(base, owner)?;
        }
        let base = base.canonicalize().map_err(|source| EngineError::local("resolve", base, source))?;
        if let Some(owner) = owner {
            check_reach(&base, owner)?;
        }
        let path = base.join(format!("{PREFIX}{id}"));
        let socket = path.join(SOCKET_DIRECTORY).join(".s.PGSQL.5432");
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            let message = format!("the path of a drill is too long for a socket path={}", socket.display());
            return Err(EngineError::failed(ErrorKind::Config, message)
                .with_hint("name a directory with a shorter path: --directory"));
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(&path, e))?;
        let marker = path.join(MARKER);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&marker);
        let file = file.map_err(|e| failed(&marker, e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| EngineError::local("lock", &marker, errno.into()))?;
        let mut place = Self { path, owner, lock: Some(lock) };
        let said = Marker {
            schema: 1,
            drill: id.clone(),
            server: server.clone(),
            pid: std::process::id(),
            started_at,
        };
        let said = serde_json::to_vec(&said).unwrap_or_default();
        if let Some(lock) = place.lock.as_mut() {
            lock.write_all(&said).map_err(|source| EngineError::local("write", &marker, source))?;
        }
        place.give_away(&place.path)?;
        for name in [DATA_DIRECTORY, SOCKET_DIRECTORY, STATE_DIRECTORY, TABLESPACES_DIRECTORY] {
            place.make_directory(&place.path.join(name))?;
        }
        Ok(place)
    }

    /// The new data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join(DATA_DIRECTORY)
    }

    /// The directory of the server's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_DIRECTORY)
    }

    /// The state directory of what fetches WAL.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join(STATE_DIRECTORY)
    }

    /// Makes the place of a tablespace.
    ///
    /// # Errors
    /// Of kind `local_io`.
    pub(super) fn tablespace(&self, oid: u32) -> Result<PathBuf> {
        let path = self.path.join(TABLESPACES_DIRECTORY).join(oid.to_string());
        self.make_directory(&path)?;
        Ok(path)
    }

    /// Writes a file that the server reads.
    ///
    /// # Errors
    /// Of kind `local_io`.
    pub(super) fn write(&self, name: &str, contents: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(contents.as_bytes()))
            .map_err(|source| EngineError::local("write", &path, source))?;
        self.give_away(&path)?;
        Ok(path)
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        let made = DirBuilder::new().mode(0o700).create(path);
        made.map_err(|source| EngineError::local("make", path, source))?;
        // Whatever the mask says: PostgreSQL takes no other mode. By the open directory, because the server's account may
        // put a link in its place, which root would follow.
        open_directory(path)
            .and_then(|made| made.set_permissions(Permissions::from_mode(0o700)))
            .map_err(|source| EngineError::local("change the mode of", path, source))?;
        self.give_away(path)
    }

    fn give_away(&self, path: &Path) -> Result<()> {
        self.owner.map_or(Ok(()), |owner| give_away(path, owner))
    }

    /// Ends the server that may run in it and removes everything.
    ///
    /// # Errors
    /// Of kind `local_io` when something can't be removed; the next drill tries again.
    pub(super) fn remove(mut self) -> Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        let Some(lock) = self.lock.take() else { return Ok(()) };
        let removed = clear(&self.path, &lock);
        drop(lock);
        removed
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "the directory of a drill was not removed");
        }
    }
}

fn give_away(path: &Path, owner: Owner) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
        .map_err(|source| EngineError::local("give away", path, source))
}

/// Whether the server's account can pass all directories down to the drill's; only modes are looked at.
fn check_reach(base: &Path, owner: Owner) -> Result<()> {
    for above in base.ancestors() {
        let metadata = above.metadata().map_err(|source| EngineError::local("look at", above, source))?;
        let needed = if metadata.uid() == owner.uid.as_raw() {
            0o100
        } else if metadata.gid() == owner.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        if metadata.mode() & needed == 0 {
            let message = format!("the server's account can't reach the drill path={}", above.display());
            return Err(EngineError::failed(ErrorKind::Config, message).with_hint(
                "name a directory that it can pass with --directory, or run walden as that account",
            ));
        }
    }
    Ok(())
}

const DATA_DIRECTORY: &str = "data";
const SOCKET_DIRECTORY: &str = "s";
const STATE_DIRECTORY: &str = "state";
const TABLESPACES_DIRECTORY: &str = "tablespaces";

/// Opens a directory, and nothing that a link leads to.
fn open_directory(path: &Path) -> std::io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The drill's directory, held open, and a path by which it is reached whatever is put in its place meanwhile. It is the
/// drill's if the marker in it is the one that is locked: a drill of root's lies in a directory of the server's account.
fn hold(path: &Path, lock: &File) -> std::io::Result<(File, PathBuf)> {
    let held = open_directory(path)?;
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    let reached = if by_number.is_dir() { by_number } else { path.to_owned() };
    let (marker, locked) = (std::fs::symlink_metadata(reached.join(MARKER))?, lock.metadata()?);
    if (marker.dev(), marker.ino()) != (locked.dev(), locked.ino()) {
        return Err(std::io::Error::other("it is not the directory that the drill has made"));
    }
    Ok((held, reached))
}

/// Ends what runs in a drill's directory and removes it, the marker last.
fn clear(path: &Path, lock: &File) -> Result<()> {
    end_server_of(&path.join(DATA_DIRECTORY), None);
    let held = hold(path, lock).map_err(|source| EngineError::local("remove", path, source));
    let (_held, reached) = held?;
    for tries in 1.. {
        match remove_contents(&reached).and_then(|()| std::fs::remove_dir(path)) {
            Ok(()) => break,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(source) if tries >= REMOVAL_TRIES => return Err(EngineError::local("remove", path, source)),
            Err(_) => std::thread::sleep(REMOVAL_PAUSE),
        }
    }
    Ok(())
}

fn remove_contents(path: &Path) -> std::io::Result<()> {
    let marker = path.join(MARKER);
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.path() == marker {
            continue;
        }
        // Links are removed and not followed.
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    match std::fs::remove_file(&marker) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends a server at once, and waits until it is gone: the one whose number is known, or the one that
/// `postmaster.pid` names. A process that does not run in this data directory is left alone.
pub(super) fn end_server_of(data: &Path, known: Option<u32>) {
    let named = || {
        let bytes = read_if_present(&data.join("postmaster.pid"), 1 << 16).ok().flatten()?;
        String::from_utf8_lossy(&bytes).lines().next()?.trim().parse().ok()
    };
    let Some(pid) = known.or_else(named).and_then(|pid: u32| i32::try_from(pid).ok()) else { return };
    if pid <= 1 || !runs_in(pid, data) {
        return;
    }
    for (signal, pause) in [(Signal::SIGQUIT, SERVER_END), (Signal::SIGKILL, SERVER_END)] {
        if kill(Pid::from_raw(pid), signal).is_err() {
            return;
        }
        let looks = pause.as_millis() / LOOK_PAUSE.as_millis();
        for _ in 0..looks {
            if !runs_in(pid, data) {
                return;
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }
}

/// Whether a process runs with this data directory as its own: a postmaster changes into it. Where the system does not
/// tell the directories of processes, the number in `postmaster.pid` must do.
fn runs_in(pid: i32, data: &Path) -> bool {
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return false;
    }
    if !Path::new("/proc/self/cwd").is_symlink() {
        return true;
    }
    let Ok(cwd) = std::fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
    // The link of a directory that was removed has a note at its end.
    cwd == data || data.canonicalize().is_ok_and(|data| data == cwd)
}

/// Removes what drills that were killed have left in `base`. Returns what was done, and what could not be, in words.
pub(super) fn sweep(base: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(base) else { return Vec::new() };
    let mut told = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .is_some_and(|id| id.parse::<BackupId>().is_ok());
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let Some(lock) = abandoned(&path) else { continue };
        match clear(&path, &lock) {
            Ok(()) => told.push(format!("removed what an earlier drill had left: {}", path.display())),
            Err(error) => told.push(format!("what an earlier drill has left could not be removed: {error}")),
        }
        drop(lock);
    }
    told
}

/// The lock of a drill's directory, when the drill is gone.
fn abandoned(path: &Path) -> Option<Flock<File>> {
    let marker = path.join(MARKER);
    // Nobody else's marker is believed, and no link is followed to one.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&marker).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() {
        return None;
    }
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    // One that was killed while it wrote its first line has an empty marker, and nothing else.
    let bytes = read_if_present(&marker, 1 << 16).ok()??;
    (bytes.is_empty() || serde_json::from_slice::<Marker>(&bytes).is_ok()).then_some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(base: &Path) -> Place {
        let id = "20261120T103905Z-7f3a".parse().unwrap();
        Place::make(base, &id, &"main".parse().unwrap(), Timestamp::UNIX_EPOCH, None).unwrap()
    }

    #[test]
    fn a_drill_leaves_nothing_behind() {
        let base = tempfile::tempdir().unwrap();
        let place = make(&base.path().join("drills"));
        std::fs::write(place.data().join("PG_VERSION"), "17\n").unwrap();
        std::os::unix::fs::symlink("/", place.data().join("link")).unwrap();
        place.tablespace(16_385).unwrap();
        place.remove().unwrap();
        assert_eq!(std::fs::read_dir(base.path().join("drills")).unwrap().count(), 0);
        drop(make(&base.path().join("drills")));
        assert_eq!(std::fs::read_dir(base.path().join("drills")).unwrap().count(), 0);
    }

    #[test]
    fn only_what_a_dead_drill_has_left_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let living = make(base.path());
        let dead = base.path().join("walden-drill-20261120T103906Z-0000");
        let foreign = base.path().join("walden-drill-20261120T103907Z-0000");
        let other = base.path().join("walden-drill-notes");
        for path in [&dead, &foreign, &other] {
            std::fs::create_dir_all(path.join("data")).unwrap();
            std::fs::write(path.join("data/PG_VERSION"), "17\n").unwrap();
        }
        let marker = std::fs::read(living.path.join(MARKER)).unwrap();
        std::fs::write(dead.join(MARKER), &marker).unwrap();
        std::fs::write(other.join(MARKER), &marker).unwrap();
        let target = base.path().join("elsewhere");
        std::fs::write(&target, &marker).unwrap();
        std::os::unix::fs::symlink(&target, foreign.join(MARKER)).unwrap();
        let told = sweep(base.path());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(!dead.is_dir() && foreign.is_dir() && other.is_dir() && living.data().is_dir());
        drop(living);
        assert_eq!(sweep(&base.path().join("absent")), Vec::<String>::new());
    }

    #[test]
    fn what_was_put_in_the_place_of_a_drill_is_left_alone() {
        // A link, and a directory with a marker that is another one.
        for is_link in [true, false] {
            let base = tempfile::tempdir().unwrap();
            let (elsewhere, moved) = (base.path().join("elsewhere"), base.path().join("moved"));
            std::fs::create_dir(&elsewhere).unwrap();
            std::fs::write(elsewhere.join("kept"), b"").unwrap();
            std::fs::write(elsewhere.join(MARKER), b"").unwrap();
            let place = make(base.path());
            let path = place.path.clone();
            std::fs::rename(&path, &moved).unwrap();
            if is_link {
                std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            } else {
                std::fs::rename(&elsewhere, &path).unwrap();
            }
            assert!(place.remove().is_err());
            assert!(path.join("kept").is_file() && moved.join(DATA_DIRECTORY).is_dir());
        }
    }

    #[test]
    fn a_path_that_no_socket_fits_in_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let id = "20261120T103905Z-7f3a".parse().unwrap();
        let long = base.path().join("x".repeat(80));
        let error =
            Place::make(&long, &id, &"main".parse().unwrap(), Timestamp::UNIX_EPOCH, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().unwrap().contains("--directory"));
    }
}
