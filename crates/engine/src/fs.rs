//! Files that are either there and durable, or not there: the one place where the engine writes to disk.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{EngineError, Result};

/// Flushes a directory, so that the names in it survive a crash.
///
/// # Errors
/// [`EngineError::Local`] when it can't be opened or flushed.
pub fn sync_directory(path: &Path) -> Result<()> {
    let failed = |source| EngineError::local("flush directory", path, source);
    File::open(path).map_err(failed)?.sync_all().map_err(failed)
}

/// How the names of temporary files end.
const TEMPORARY: &str = ".walden-tmp";

/// Removes what processes that are gone have left beside a destination; failing to is harmless.
fn remove_abandoned(destination: &Path, prefix: &str) {
    let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(entries) = std::fs::read_dir(parent.unwrap_or(Path::new("."))) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(TEMPORARY));
        // Behind the number of the process there may be one of its own.
        let pid = pid.and_then(|pid| pid.split('-').next()?.parse::<i32>().ok());
        let Some(pid) = pid else { continue };
        let alive =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH);
        if !alive {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The temporary files of this process: several may be on their way to one destination at the same time.
static IN_USE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A path for a temporary file that no other file of this process has, as long as this lives.
#[derive(Debug)]
struct OwnPath(PathBuf);

impl OwnPath {
    fn beside(destination: &Path, name: &str) -> Self {
        let pid = std::process::id();
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut path = destination.with_file_name(format!(".{name}.{pid}{TEMPORARY}"));
        let mut number = 1_u64;
        while !in_use.insert(path.clone()) {
            path = destination.with_file_name(format!(".{name}.{pid}-{number}{TEMPORARY}"));
            number += 1;
        }
        Self(path)
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        IN_USE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A new file beside its destination, gone again unless it is published.
#[derive(Debug)]
pub struct TemporaryFile {
    file: Option<File>,
    path: OwnPath,
    published: bool,
}

impl TemporaryFile {
    /// Creates a file (mode 0600) in the directory of `destination`, named after it.
    ///
    /// # Errors
    /// [`EngineError::Local`] when it can't be created.
    pub fn beside(destination: &Path) -> Result<Self> {
        let name = destination.file_name().unwrap_or_default().to_string_lossy();
        remove_abandoned(destination, &format!(".{name}."));
        let own = OwnPath::beside(destination, &name);
        let path = &own.0;
        // What a process of the same number left there, or a link that somebody else put there, is not written to.
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(EngineError::local("remove old temporary file", path, error)),
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| EngineError::local("create", path, source))?;
        Ok(Self { file: Some(file), path: own, published: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Flushes the file, gives it its name (replacing what had it), and flushes the directory.
    ///
    /// # Errors
    /// [`EngineError::Local`]; the destination is then as it was, unless only the last flush failed.
    pub fn publish(mut self, destination: &Path) -> Result<()> {
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(|source| EngineError::local("flush", &self.path.0, source))?;
        }
        self.rename(destination)?;
        let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))
    }

    fn rename(&mut self, destination: &Path) -> Result<()> {
        std::fs::rename(&self.path.0, destination)
            .map_err(|source| EngineError::local("rename to", destination, source))?;
        // It has its name now: dropping must not remove it.
        self.published = true;
        Ok(())
    }
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed"))?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path.0);
        }
    }
}

/// Writes a whole file durably, replacing what was there in one step.
///
/// # Errors
/// [`EngineError::Local`].
pub fn write_durably(destination: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = TemporaryFile::beside(destination)?;
    file.write_all(bytes).map_err(|source| EngineError::local("write", file.path(), source))?;
    file.publish(destination)
}

/// Writes a whole file for what may be lost without harm: replaces what was there in one step, and waits for no disk.
///
/// # Errors
/// [`EngineError::Local`].
pub fn replace_quickly(destination: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = TemporaryFile::beside(destination)?;
    for part in parts {
        file.write_all(part).map_err(|source| EngineError::local("write", file.path(), source))?;
    }
    file.rename(destination)
}

/// Reads a small file whole; `None` when it is not there.
///
/// # Errors
/// [`EngineError::Local`] on any other error, and when it is larger than `bytes_max`.
pub fn read_if_present(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let failed = |source| EngineError::local("read", path, source);
    // A pipe in its place must not hang us.
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) if !file.metadata().map_err(failed)?.is_file() => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {bytes_max} bytes"),
        )));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpublished_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("RECOVERYXLOG");
        let mut file = TemporaryFile::beside(&destination).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_published_file_replaces_and_leaves_no_other_name() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("a");
        write_durably(&destination, b"one").unwrap();
        write_durably(&destination, b"two").unwrap();
        assert_eq!(read_if_present(&destination, 3).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_quick_replacement_follows_no_link_and_leaves_no_other_name() {
        let directory = tempfile::tempdir().unwrap();
        let (destination, other) = (directory.path().join("index"), directory.path().join("other"));
        std::fs::write(&other, b"precious").unwrap();
        let name = |pid: u32| directory.path().join(format!(".index.{pid}{TEMPORARY}"));
        std::os::unix::fs::symlink(&other, name(std::process::id())).unwrap();
        // No process has this number: Linux stops at 4194304.
        std::fs::write(name(99_999_999), b"half").unwrap();
        replace_quickly(&destination, &[b"one", b"two"]).unwrap();
        assert_eq!(std::fs::read(&destination).unwrap(), b"onetwo");
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(!std::fs::symlink_metadata(&destination).unwrap().is_symlink());
    }

    #[test]
    fn two_files_on_their_way_to_one_name_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("a");
        let mut first = TemporaryFile::beside(&destination).unwrap();
        let mut second = TemporaryFile::beside(&destination).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        let third = TemporaryFile::beside(&destination).unwrap();
        second.publish(&destination).unwrap();
        assert_eq!(std::fs::read(&destination).unwrap(), b"second");
        drop(third);
        first.publish(&destination).unwrap();
        assert_eq!(std::fs::read(&destination).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn reading_is_bounded_and_tells_absent_from_unreadable() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        assert!(read_if_present(&file, 3).unwrap().is_none());
        write_durably(&file, b"four").unwrap();
        assert!(read_if_present(&file, 3).is_err());
        assert!(read_if_present(&file.join("below"), 3).is_err());
    }
}
