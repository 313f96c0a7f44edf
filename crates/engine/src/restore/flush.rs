//! Making a restored cluster durable before `pg_control` makes it startable.
//!
//! Where the kernel flushes a whole file system in one call and tells every write error since the file system was
//! opened for it (`syncfs`, Linux 5.8 and later, on file systems known to do it right), that is far cheaper than
//! a flush of every file. Everywhere else each file is flushed when it is complete, and each directory at the end.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::tree::Tree;
use crate::error::{EngineError, Result};

/// How a cluster is made durable.
#[derive(Debug)]
pub(super) enum Flush {
    /// File by file.
    Each,
    /// The whole file systems of these directories. The handles were opened before the first write, so no error
    /// since then is missed.
    FileSystems(Vec<(PathBuf, Arc<OwnedFd>)>),
}

impl Flush {
    /// Chooses for a tree to which nothing was written yet.
    pub(super) fn choose(tree: &Tree) -> Self {
        let tops = tree.tops();
        let whole = kernel_tells_errors() && tops.iter().all(|(_, directory)| is_known(directory));
        if whole { Self::FileSystems(tops) } else { Self::Each }
    }

    /// Whether each file is to be flushed when it is complete.
    pub(super) fn is_each(&self) -> bool {
        matches!(self, Self::Each)
    }

    /// Flushes what is left: all of it, or the directories.
    ///
    /// # Errors
    /// [`EngineError::Local`] when anything could not be written: the restore has failed then.
    pub(super) fn finish(&self, tree: &Tree, directories: &[(Vec<u8>, u32)]) -> Result<()> {
        match self {
            Self::Each => {
                for (path, _) in directories {
                    tree.sync_directory(path)?;
                }
                for (path, directory) in tree.tops() {
                    nix::unistd::fsync(&*directory)
                        .map_err(|errno| EngineError::local("flush directory", &path, errno.into()))?;
                }
            }
            Self::FileSystems(tops) => {
                for (path, directory) in tops {
                    flush_file_system(directory).map_err(|errno| {
                        EngineError::local("flush the file system of", path, errno.into())
                    })?;
                }
            }
        }
        tree.sync_parents()
    }
}

#[cfg(target_os = "linux")]
fn flush_file_system(directory: &OwnedFd) -> nix::Result<()> {
    nix::unistd::syncfs(directory)
}

#[cfg(not(target_os = "linux"))]
fn flush_file_system(_: &OwnedFd) -> nix::Result<()> {
    Err(nix::Error::ENOSYS)
}

#[cfg(target_os = "linux")]
fn is_known(directory: &OwnedFd) -> bool {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs};
    let known = [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC];
    fstatfs(directory).is_ok_and(|found| known.contains(&found.filesystem_type()))
}

#[cfg(not(target_os = "linux"))]
fn is_known(_: &OwnedFd) -> bool {
    false
}

/// From 5.8 on `syncfs` tells that an earlier write failed.
fn kernel_tells_errors() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    is_at_least_5_8(&release)
}

fn is_at_least_5_8(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 8)
}

#[cfg(test)]
mod tests {
    use super::super::destination::Place;
    use super::*;

    #[test]
    fn both_ways_end_well() {
        let top = tempfile::tempdir().unwrap();
        let place = Place { path: top.path().join("data"), existing: None };
        let tree = Tree::create(&place, &[], None).unwrap();
        tree.make_directory(b"base").unwrap();
        let directories = [(b"base".to_vec(), 0o700)];
        Flush::Each.finish(&tree, &directories).unwrap();
        Flush::choose(&tree).finish(&tree, &directories).unwrap();
        assert!(Flush::Each.finish(&tree, &[(b"gone".to_vec(), 0o700)]).is_err());
    }

    #[test]
    fn kernels() {
        for (release, tells) in [
            ("5.8.0-1-amd64\n", true),
            ("5.7.19", false),
            ("4.18.0-553.el8", false),
            ("6.1", true),
            ("", false),
        ] {
            assert_eq!(is_at_least_5_8(release), tells, "{release}");
        }
    }
}
