//! When a drilled server came how far, by its own log.
//!
//! Its lines begin with `%n [%p] ` (seconds since 1970 with milliseconds, and the process) and are PostgreSQL's own
//! (`src/backend/access/transam/xlogrecovery.c`, before 15 `xlog.c`; `src/backend/postmaster/postmaster.c`).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Lines kept of a log.
const TAIL_LINES: usize = 40;
/// Longer lines are cut, in bytes.
const LINE_BYTES_MAX: u64 = 4096;
/// So much of a log is read at most, in bytes.
const LOG_BYTES_MAX: u64 = 4 << 30;

/// What a log says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct LogTimes {
    /// The first line, in seconds since 1970.
    pub(super) begun: Option<f64>,
    /// Recovery had replayed what it was to replay.
    pub(super) replayed: Option<f64>,
    /// The server took connections and was no longer in recovery.
    pub(super) open: Option<f64>,
    /// Segments that came from the archive.
    pub(super) segments: u64,
    /// The last lines, without the many about segments.
    pub(super) tail: Vec<String>,
}

/// Opens a log. It lies in a directory of the server's account, which must not lead root to another file.
pub(super) fn open_log(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    Ok(file)
}

impl LogTimes {
    /// Reads a log; what can't be read says nothing.
    pub(super) fn read(path: &Path) -> Self {
        let Ok(file) = open_log(path) else { return Self::default() };
        Self::of(BufReader::new(file.take(LOG_BYTES_MAX)))
    }

    fn of(mut lines: impl BufRead) -> Self {
        let mut times = Self::default();
        let mut tail: VecDeque<String> = VecDeque::new();
        loop {
            let mut line = Vec::new();
            match lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if times.take(line) {
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line.to_owned());
            }
        }
        times.tail = tail.into();
        times
    }

    /// Takes a line; whether it is worth to be kept.
    fn take(&mut self, line: &str) -> bool {
        let at = || line.split_once(' ').and_then(|(at, _)| at.parse::<f64>().ok());
        if self.begun.is_none() {
            self.begun = at();
        }
        let Some((_, message)) = line.split_once("LOG:  ") else { return !line.is_empty() };
        if message.starts_with("restored log file ") {
            self.segments += u64::from(!message.contains(".history\""));
            return false;
        }
        if message.starts_with("redo done at ") || message.starts_with("redo is not required") {
            self.replayed = self.replayed.or_else(at);
        } else if message.starts_with("recovery has paused")
            || message.starts_with("pausing at the end of recovery")
        {
            self.replayed = at().or(self.replayed);
        } else if message == "database system is ready to accept connections" {
            self.open = at();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_to_the_end_of_the_archive() {
        let log = "1795171145.100 [7] LOG:  starting PostgreSQL 17.10\n\
                   1795171145.200 [9] LOG:  restored log file \"000000010000000000000003\" from archive\n\
                   1795171145.300 [9] LOG:  database system is ready to accept read-only connections\n\
                   walden wal get 000000010000000000000004: not in the archive\n\
                   1795171146.350 [9] LOG:  redo done at 0/3000060\n\
                   1795171146.360 [9] LOG:  restored log file \"00000002.history\" from archive\n\
                   1795171147.500 [7] LOG:  database system is ready to accept connections\n";
        let times = LogTimes::of(log.as_bytes());
        assert_eq!(times.begun, Some(1_795_171_145.1));
        assert_eq!(times.replayed, Some(1_795_171_146.35));
        assert_eq!(times.open, Some(1_795_171_147.5));
        assert_eq!((times.segments, times.tail.len()), (1, 5));
    }

    #[test]
    fn a_pause_is_the_end_of_the_replay() {
        let log = "1.000 [9] LOG:  recovery has paused\n5.000 [9] LOG:  redo done at 0/3000060\n\
                   6.000 [7] LOG:  database system is ready to accept connections";
        let times = LogTimes::of(log.as_bytes());
        assert_eq!((times.replayed, times.open), (Some(1.0), Some(6.0)));
        assert_eq!(LogTimes::of(&b"\xff\n\n"[..]).tail.len(), 1);
    }

    #[test]
    fn no_link_is_followed_to_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let (secret, log) = (directory.path().join("secret"), directory.path().join("log"));
        std::fs::write(&secret, "1.0 [1] LOG:  x\n").unwrap();
        std::os::unix::fs::symlink(&secret, &log).unwrap();
        assert_eq!(LogTimes::read(&secret).tail.len(), 1);
        assert_eq!(LogTimes::read(&log), LogTimes::default());
    }

    #[test]
    fn the_tail_is_bounded() {
        let log = "1.0 [1] LOG:  x\n".repeat(1000);
        assert_eq!(LogTimes::of(log.as_bytes()).tail.len(), TAIL_LINES);
    }
}
