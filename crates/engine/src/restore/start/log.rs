//! Following the log of a server that we started: it tells what is known before anybody can connect.
//!
//! The server is started with `lc_messages = C`, so the lines are PostgreSQL's own
//! (`src/backend/access/transam/xlogrecovery.c`, before 15 `xlog.c`; the same words from 13 to 18).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Lines kept to show when the server dies.
const SHOWN_LINES: usize = 12;
/// How much is read at once, in bytes.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Longer lines are cut, in characters.
const LINE_CHARACTERS_MAX: usize = 500;

/// What the log has said so far.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    at: u64,
    torn: Vec<u8>,
    /// Segments that came from the archive.
    pub(super) restored_segments: u64,
    /// Where recovery stopped, in the server's words.
    pub(super) stop_message: Option<String>,
    /// Recovery waits at its target.
    pub(super) paused: bool,
    /// The time of the last transaction, in the server's words.
    pub(super) last_transaction_at: Option<String>,
    /// What our restore_command said last about a failure.
    pub(super) command_failure: Option<String>,
    /// The last FATAL or PANIC that is not about a client.
    pub(super) fatal: Option<String>,
    /// The line before was a part of it.
    after_fatal: bool,
    last_lines: VecDeque<String>,
}

impl Log {
    /// Follows a log from the end that it has now.
    pub(super) fn follow(path: &Path) -> Self {
        let at = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self {
            path: path.to_owned(),
            at,
            torn: Vec::new(),
            restored_segments: 0,
            stop_message: None,
            paused: false,
            last_transaction_at: None,
            command_failure: None,
            fatal: None,
            after_fatal: false,
            last_lines: VecDeque::new(),
        }
    }

    /// Takes what was written since; what can't be read now may be readable next time.
    pub(super) fn read(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        loop {
            let mut bytes = Vec::new();
            let read = file.seek(SeekFrom::Start(self.at));
            if read.is_err() || Read::by_ref(&mut file).take(READ_BYTES_MAX).read_to_end(&mut bytes).is_err()
            {
                return;
            }
            if bytes.is_empty() {
                return;
            }
            self.at += bytes.len() as u64;
            self.take(&bytes);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.torn.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.torn);
                self.take_line(String::from_utf8_lossy(&line).trim_end());
            } else if self.torn.len() > LINE_CHARACTERS_MAX * 8 {
                self.torn.truncate(LINE_CHARACTERS_MAX * 8);
            }
        }
    }

    fn take_line(&mut self, line: &str) {
        let line: String = line.chars().take(LINE_CHARACTERS_MAX).collect();
        if let Some((_, message)) = line.split_once("LOG:  ") {
            if message.starts_with("restored log file ") {
                self.restored_segments += 1;
                self.command_failure = None;
                // The many lines about segments would push out the few that explain.
                return;
            }
            if message.starts_with("recovery stopping ") {
                self.stop_message = Some(message.to_owned());
            } else if message.starts_with("recovery has paused")
                || message.starts_with("pausing at the end of recovery")
            {
                self.paused = true;
            } else if let Some(time) = message.strip_prefix("last completed transaction was at log time ") {
                self.last_transaction_at = Some(time.to_owned());
            }
        }
        if line.starts_with("walden wal get ") {
            self.command_failure = Some(line.clone());
        }
        for more in ["DETAIL:  ", "HINT:  "] {
            if let Some((_, message)) = line.split_once(more)
                && let Some(fatal) = self.fatal.as_mut().filter(|_| self.after_fatal)
            {
                fatal.push_str("; ");
                fatal.push_str(message);
                self.keep(line);
                return;
            }
        }
        self.after_fatal = false;
        for level in ["FATAL:  ", "PANIC:  "] {
            if let Some((_, message)) = line.split_once(level)
                && !is_about_a_client(message)
            {
                self.fatal = Some(message.to_owned());
                self.after_fatal = true;
            }
        }
        self.keep(line);
    }

    fn keep(&mut self, line: String) {
        if self.last_lines.len() == SHOWN_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    /// The last lines, for people.
    pub(super) fn tail(&self) -> String {
        self.last_lines.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

/// Fatal for one connection, ours mostly, and not for the server.
fn is_about_a_client(message: &str) -> bool {
    [
        "authentication failed",
        "no pg_hba.conf entry",
        "the database system is",
        "role \"",
        "terminating connection",
        "connection to client",
    ]
    .iter()
    .any(|client| message.contains(client))
}

/// What it means that a server can't listen.
pub(super) const PORT_TAKEN: &str = "another server uses the port: choose a free one";

/// What a fatal message means, and what to do.
pub(super) fn explain(fatal: &str) -> Option<&'static str> {
    let explanations = [
        (
            "recovery ended before configured recovery target was reached",
            "the archive ends before the target: no such transaction, time or restore point is in it; plan again with a \
             target that walden window shows, or without one",
        ),
        (
            "requested recovery stop point is before consistent recovery point",
            "the target lies before the end of the backup: choose a later target or an earlier backup",
        ),
        (
            "insufficient parameter settings",
            "raise the setting that the server names above, then start it again",
        ),
        (
            "ends before end of online backup",
            "WAL that the backup needs is missing: walden window shows what is in the archive",
        ),
        (
            "could not restore file",
            "restore_command failed: make it work for the user that runs the server, then start the server again",
        ),
        (
            "restore_command",
            "restore_command failed: make it work for the user that runs the server, then start the server again",
        ),
        (
            "could not access file",
            "an extension of the source is not installed here: install it and start again",
        ),
        (
            "could not load library",
            "an extension of the source is not installed here: install it and start again",
        ),
        ("Address already in use", PORT_TAKEN),
        ("could not create any TCP/IP sockets", PORT_TAKEN),
        ("lock file", PORT_TAKEN),
        (
            "could not create any Unix-domain sockets",
            "choose another directory for the socket (unix_socket_directories)",
        ),
        (
            "data directory \"",
            "the owner or the mode of the data directory is not right for the user that runs the server",
        ),
        (
            "unrecognized configuration parameter",
            "a setting of the source needs an extension, or another major",
        ),
    ];
    explanations.iter().find(|(words, _)| fatal.contains(words)).map(|(_, explanation)| *explanation)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn log(text: &str) -> Log {
        let mut log = Log::follow(Path::new("/nowhere"));
        log.take(text.as_bytes());
        log
    }

    #[test]
    fn a_recovery_that_pauses() {
        let log = log(
            "2026-11-20 11:08:10.001 UTC [7] LOG:  restored log file \"000000010000000000000003\" from archive\n\
             2026-11-20 11:08:10.002 UTC [7] LOG:  recovery stopping before commit of transaction 741, time 2026-11-20 11:07:00+00\n\
             2026-11-20 11:08:10.003 UTC [7] LOG:  recovery has paused\n\
             2026-11-20 11:08:10.004 UTC [9] FATAL:  Peer authentication failed for user \"postgres\"\n\
             half",
        );
        assert_eq!(log.restored_segments, 1);
        assert!(log.paused);
        assert_eq!(
            log.stop_message.as_deref(),
            Some("recovery stopping before commit of transaction 741, time 2026-11-20 11:07:00+00")
        );
        assert_eq!(log.fatal, None);
        assert!(!log.tail().contains("restored log file") && log.tail().contains("recovery has paused"));
    }

    #[test]
    fn a_recovery_that_fails_is_explained() {
        let log = log("x LOG:  redo done at 0/3000060\n\
             x LOG:  last completed transaction was at log time 2026-11-20 11:07:00.5+00\n\
             x FATAL:  recovery ended before configured recovery target was reached\n\
             x DETAIL:  more of it\n\
             x LOG:  startup process (PID 7) exited with exit code 1\n\
             x HINT:  of something else\n");
        let fatal = log.fatal.as_deref().unwrap();
        assert_eq!(fatal, "recovery ended before configured recovery target was reached; more of it");
        assert!(explain(fatal).unwrap().contains("the archive ends before the target"));
        assert_eq!(log.last_transaction_at.as_deref(), Some("2026-11-20 11:07:00.5+00"));
        assert_eq!(explain("something new"), None);
    }

    #[test]
    fn only_what_is_new_is_followed_and_lines_may_come_in_parts() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"x FATAL:  of an earlier start\n").unwrap();
        let mut log = Log::follow(file.path());
        file.write_all(b"x LOG:  recovery has pau").unwrap();
        log.read();
        assert!(!log.paused && log.fatal.is_none());
        file.write_all(b"sed\n").unwrap();
        log.read();
        assert!(log.paused);
    }
}
