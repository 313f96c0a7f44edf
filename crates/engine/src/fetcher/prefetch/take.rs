//! The hook's side: takes a file that the agent has ready. No runtime, no store, no request.

use std::fs::File;
use std::io;
use std::path::Path;

use walden_core::ErrorKind;

use super::super::{ReplayGuard, parse_name};
use super::files::is_file;
use crate::agent::protocol::ReadyFile;
use crate::archiver::FileIdentity;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::fs::TemporaryFile;

/// How taking a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is at its destination.
    Taken {
        /// Its length in bytes.
        bytes: u64,
    },
    /// It is not there any more, or is not what was offered: the caller fetches it itself.
    Gone,
}

/// Moves a file that the agent has ready to `destination` (a `%p`), relative to `current_directory`.
///
/// The file need not be durable, and its new name is not made so: the destination is a temporary name of PostgreSQL's,
/// which removes what it finds there before it asks (`RestoreArchivedFile` in
/// `src/backend/access/transam/xlogarchive.c`), and flushes file and directory when it gives the segment its own name
/// (`KeepFileRestoredFromArchive`, `durable_rename`). From another file system the file is copied, and then flushed as a
/// file that was fetched.
///
/// # Errors
/// Of kind `conflict` for a segment whose replay would take another server's tablespace directory. Everything that is
/// wrong with the offered file itself is [`Taken::Gone`].
pub fn take_prefetched(
    offered: &ReadyFile,
    name: &str,
    destination: &Path,
    current_directory: &Path,
) -> Result<Taken> {
    if !is_file(&offered.path, &offered.file) {
        return Ok(Taken::Gone);
    }
    let target = current_directory.join(destination);
    if !offered.guard_clean {
        match guard(offered, name, destination, current_directory) {
            // The direct way says what is wrong, if it still is.
            Err(error) if error.kind() != ErrorKind::Conflict => return Ok(Taken::Gone),
            looked => looked?,
        }
    }
    match std::fs::rename(&offered.path, &target) {
        Ok(()) if arrived(&target, &offered.file) => Ok(Taken::Taken { bytes: offered.file.bytes }),
        Ok(()) => {
            // Somebody exchanged it after we had looked.
            std::fs::remove_file(&target).map_err(|source| EngineError::local("remove", &target, source))?;
            Ok(Taken::Gone)
        }
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(copy(offered, &target)),
        Err(_) => Ok(Taken::Gone),
    }
}

fn guard(offered: &ReadyFile, name: &str, destination: &Path, current_directory: &Path) -> Result<()> {
    let name = parse_name(name)?;
    let Some(segment) = name.segment().filter(|_| name.is_segment_sized()) else { return Ok(()) };
    let Some(data) = DataDirectory::of_wal_path(destination, current_directory) else { return Ok(()) };
    let Some(guard) = ReplayGuard::of(&data, data.control()?.wal_segment_size)? else { return Ok(()) };
    let target = current_directory.join(destination);
    guard.check(segment, &offered.path, target.parent().unwrap_or(Path::new(".")))
}

/// Whether the destination is the file that was offered; its new name has changed the last stamp.
fn arrived(target: &Path, offered: &FileIdentity) -> bool {
    std::fs::symlink_metadata(target).is_ok_and(|found| {
        let found = FileIdentity { ctime_ns: offered.ctime_ns, ..FileIdentity::of(&found) };
        found == *offered
    })
}

/// Copies the file and removes it; whatever fails, the direct way may do better.
fn copy(offered: &ReadyFile, target: &Path) -> Taken {
    let copied = || -> io::Result<bool> {
        let mut from = File::open(&offered.path)?;
        let mut to = TemporaryFile::beside(target).map_err(into_io)?;
        let bytes = io::copy(&mut from, &mut to)?;
        // Looked at again after the last byte: these are the bytes that were verified.
        if bytes != offered.file.bytes
            || FileIdentity::of(&from.metadata()?) != offered.file
            || !is_file(&offered.path, &offered.file)
        {
            return Ok(false);
        }
        to.publish(target).map_err(into_io)?;
        Ok(true)
    };
    match copied() {
        Ok(true) => {
            let _ = std::fs::remove_file(&offered.path);
            Taken::Taken { bytes: offered.file.bytes }
        }
        Ok(false) | Err(_) => Taken::Gone,
    }
}

fn into_io(error: EngineError) -> io::Error {
    match error {
        EngineError::Local { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}
