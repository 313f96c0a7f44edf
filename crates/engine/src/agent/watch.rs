//! What PostgreSQL wants archived: looked at whole now and then, and followed in between.
//!
//! The kernel tells of every `.ready` file that comes or goes. That is for speed; what must be right comes from looking
//! at the directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::net::unix::pipe::Receiver;

/// How the names end of the files that say that a file wants to be archived.
const READY: &str = ".ready";

/// Room for many events.
const EVENTS_BYTES: usize = 4096;

/// Where they are, below the data directory.
pub(super) const STATUS_DIRECTORY: &str = "pg_wal/archive_status";

/// All files that want to be archived, with the dates of their `.ready` files.
///
/// # Errors
/// When the directory can't be read.
pub(super) fn scan(data_directory: &Path) -> io::Result<Vec<(String, Timestamp)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_directory.join(STATUS_DIRECTORY))? {
        let entry = entry?;
        let Some(name) = wanted(&entry.file_name()) else { continue };
        // Gone since: archived.
        let Ok(metadata) = entry.metadata() else { continue };
        found.push((name, date(&metadata)));
    }
    Ok(found)
}

fn wanted(file: &OsStr) -> Option<String> {
    file.to_str()?.strip_suffix(READY).map(str::to_owned)
}

fn date(metadata: &std::fs::Metadata) -> Timestamp {
    metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What happened to a `.ready` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It came.
    Came(String, Timestamp),
    /// It is gone.
    Gone(String),
    /// More happened than was told: look at the directory.
    Unknown,
}

/// Follows the directory.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Inotify,
    /// The same open file once more, as what tokio can wait for: nothing is read through it.
    readable: Receiver,
}

impl Watch {
    /// Begins to follow the directory of a data directory.
    ///
    /// # Errors
    /// When the kernel has no more watches to give, or the directory is not there. Looking now and then must do.
    pub(super) fn begin(data_directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(&data_directory.join(STATUS_DIRECTORY), events)?;
        let readable = Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, readable })
    }

    /// Waits for changes.
    ///
    /// # Errors
    /// When the directory can't be followed any more: begin anew.
    pub(super) async fn changes(&mut self, data_directory: &Path) -> io::Result<Vec<Change>> {
        loop {
            self.readable.readable().await?;
            match self.inotify.read_events() {
                Ok(events) => return changes(&events, data_directory),
                // Only a read of its own that finds nothing has tokio wait again. Should it find something, that is not
                // looked into.
                Err(Errno::EAGAIN) => match self.readable.try_read(&mut [0; EVENTS_BYTES]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                    Ok(_) => return Ok(vec![Change::Unknown]),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn changes(events: &[InotifyEvent], data_directory: &Path) -> io::Result<Vec<Change>> {
    let ends = AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_IGNORED
        | AddWatchFlags::IN_UNMOUNT;
    let mut changes = Vec::new();
    for event in events {
        if event.mask.intersects(ends) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the directory is gone"));
        }
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            changes.push(Change::Unknown);
            continue;
        }
        let Some(name) = event.name.as_deref().and_then(wanted) else { continue };
        let came = event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        let path = data_directory.join(STATUS_DIRECTORY).join(format!("{name}{READY}"));
        // The event is of the past; the file may have gone or come again since.
        changes.push(match path.symlink_metadata() {
            Ok(metadata) => Change::Came(name, date(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Change::Gone(name),
            Err(_) if came => Change::Unknown,
            Err(_) => Change::Gone(name),
        });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_and_goes_is_told_and_a_look_finds_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let status = directory.path().join(STATUS_DIRECTORY);
        std::fs::create_dir_all(&status).unwrap();
        let mut watch = Watch::begin(directory.path()).unwrap();
        let names = |changes: Vec<Change>| {
            let names = changes.into_iter().map(|change| match change {
                Change::Came(name, at) => {
                    assert!(at > Timestamp::UNIX_EPOCH);
                    format!("+{name}")
                }
                Change::Gone(name) => format!("-{name}"),
                Change::Unknown => "?".to_owned(),
            });
            names.collect::<Vec<_>>()
        };
        std::fs::write(status.join("a.ready"), b"").unwrap();
        std::fs::write(status.join("b.done"), b"").unwrap();
        assert_eq!(names(watch.changes(directory.path()).await.unwrap()), ["+a"]);
        let found = scan(directory.path()).unwrap();
        assert_eq!(found.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
        std::fs::rename(status.join("a.ready"), status.join("a.done")).unwrap();
        assert_eq!(names(watch.changes(directory.path()).await.unwrap()), ["-a"]);
        assert_eq!(scan(directory.path()).unwrap(), []);
        std::fs::remove_dir_all(directory.path().join("pg_wal")).unwrap();
        assert!(scan(directory.path()).is_err());
        // First the files go, then the directory.
        while watch.changes(directory.path()).await.is_ok() {}
        assert!(Watch::begin(directory.path()).is_err());
    }
}
