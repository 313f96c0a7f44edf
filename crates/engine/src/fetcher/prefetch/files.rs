//! The files that wait for a hook, and the directory they lie in.
//!
//! Only memory says which files are good: whatever lies in the directory when it is opened is removed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::archiver::FileIdentity;
use crate::error::{EngineError, Result};

/// The directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    next: AtomicU64,
}

impl Directory {
    /// Makes the directory if it is missing, for its owner alone, and removes what is in it. Neither it nor the one that
    /// it lies in may be another user's, who could have led it elsewhere.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|source| EngineError::local("make directory", &path, source))?,
        }
        for directory in path.parent().into_iter().chain([path.as_path()]) {
            refuse_others(directory)
                .map_err(|source| EngineError::local("use directory", directory, source))?;
        }
        let directory = Self { path, next: AtomicU64::new(0) };
        directory.wipe()?;
        Ok(directory)
    }

    /// Removes all files.
    pub(super) fn wipe(&self) -> Result<()> {
        let failed = |source| EngineError::local("empty directory", &self.path, source);
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(EngineError::local("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A file under a name that no other had or will have.
    pub(super) fn create(&self, name: &str) -> io::Result<NewFile> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = Removed(self.path.join(format!("{name}.{number}")));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path.0)?;
        Ok(NewFile { file, path })
    }

    /// Bytes of the file system that are free to this account; 0 when that can't be told.
    pub(super) fn free_bytes(&self) -> u64 {
        let Ok(found) = nix::sys::statvfs::statvfs(&self.path) else { return 0 };
        found.blocks_available().saturating_mul(found.fragment_size())
    }
}

/// Bytes of the file system of `path`; `None` when that can't be told.
pub(super) fn total_bytes(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    Some(found.blocks().saturating_mul(found.fragment_size()))
}

fn refuse_others(directory: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        let message = format!("it belongs to another user uid={}", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

/// Removes the file when it is dropped; that another has moved it away is no error.
#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file that is being written. What is written comes in large pieces already.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    path: Removed,
}

impl NewFile {
    pub(super) fn path(&self) -> &Path {
        &self.path.0
    }

    /// Says that all is written, and right.
    pub(super) fn complete(self, guard_clean: bool) -> Result<WholeFile> {
        let identity = identity(&self.file, &self.path.0)?;
        Ok(WholeFile { path: self.path, identity, guard_clean, unflushed: Some(self.file) })
    }
}

fn identity(file: &File, path: &Path) -> Result<FileIdentity> {
    let found = file.metadata().map_err(|source| EngineError::local("look at", path, source))?;
    Ok(FileIdentity::of(&found))
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A whole, verified file. Removed when this is dropped, unless a hook has taken it.
///
/// It need not be durable: a crash of the machine takes the agent with it, and the next one empties the directory;
/// PostgreSQL, which removes what lies under the temporary name before it asks, flushes what it was given before it gives
/// it a segment's name.
#[derive(Debug)]
pub(super) struct WholeFile {
    path: Removed,
    pub(super) identity: FileIdentity,
    pub(super) guard_clean: bool,
    /// Until it is flushed, or was not to be.
    unflushed: Option<File>,
}

/// A file that is to be flushed.
#[derive(Debug)]
pub(super) struct Unflushed {
    file: File,
    path: PathBuf,
}

impl Unflushed {
    /// Flushes it to the disk, and looks at it again: some network file systems set its dates only now.
    pub(super) fn flush(self) -> Result<FileIdentity> {
        self.file.sync_all().map_err(|source| EngineError::local("flush", &self.path, source))?;
        identity(&self.file, &self.path)
    }
}

impl WholeFile {
    pub(super) fn path(&self) -> &Path {
        &self.path.0
    }

    /// What is left to be done to have it on the disk, for the one who does it.
    pub(super) fn take_unflushed(&mut self) -> Option<Unflushed> {
        let path = self.path.0.clone();
        self.unflushed.take().map(|file| Unflushed { file, path })
    }

    /// Whether it is still there, and still the one that was written.
    pub(super) fn is_there(&self) -> bool {
        is_file(self.path(), &self.identity)
    }
}

/// Whether the path leads to this file, and not by a link.
pub(super) fn is_file(path: &Path, identity: &FileIdentity) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && FileIdentity::of(&found) == *identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_followed_to_what_would_be_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let (elsewhere, link) = (directory.path().join("elsewhere"), directory.path().join("prefetch"));
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("kept"), b"").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(Directory::open(link.clone()).is_err());
        assert!(elsewhere.join("kept").try_exists().unwrap());
        std::fs::remove_file(&link).unwrap();
        Directory::open(link).unwrap();
    }
}
