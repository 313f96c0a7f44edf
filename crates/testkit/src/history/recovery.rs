//! One recovery by a real server: from an unpacked backup and a directory of WAL to where PostgreSQL stops.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use walden_pg::{Lsn, PgMajor, PgTimestamp, Xid};

use super::wal_files::TORN;
use crate::postgres::{Error, PgServer, Result, ServerAccount, wait_until};

/// Pause between two looks at a recovering server.
const POLL: Duration = Duration::from_millis(4);

/// A recovery that takes longer hangs.
const DEADLINE: Duration = Duration::from_mins(1);

/// What the server says when it has reached a target and waits there.
const PAUSED: &str = "pausing at the end of recovery";
/// What it says when recovery is over.
const COMPLETE: &str = "archive recovery complete";

/// A recovery to be made.
#[derive(Debug)]
pub struct Recovery<'a> {
    /// The version of the backup.
    pub major: PgMajor,
    /// The unpacked backup; it is copied.
    pub template: &'a Path,
    /// Where segments and histories are, as files. One that has a `<name>.torn` beside it cannot be had: asking
    /// for it ends with 214, as for any failure that is not a proven absence.
    pub wal: &'a Path,
    /// A directory of the server's account where the copy can be made.
    pub scratch: &'a Path,
    /// Settings besides those that every recovery here has.
    pub settings: Vec<(String, String)>,
}

/// How a recovery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It stopped, and the server takes queries.
    Stopped(Box<Stopped>),
    /// The server gave up.
    Failed {
        /// Its last word.
        message: String,
    },
    /// Neither happened in time.
    Hung {
        /// The end of the log.
        log: String,
    },
}

/// Where a recovery stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// What the server said about it; nothing when it came to the end of the WAL.
    pub said: Option<StopLine>,
    /// Whether it promoted itself.
    pub promoted: bool,
    /// `pg_last_wal_replay_lsn()`
    pub replayed_to: Lsn,
    /// `pg_last_committed_xact()`: the last transaction whose commit was replayed.
    pub last_commit: Option<LastCommit>,
    /// The transactions that left a row in the table in which each transaction of the history leaves its number.
    pub transactions: BTreeSet<u64>,
}

/// A transaction and its commit time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCommit {
    /// The transaction.
    pub xid: Xid,
    /// When it committed.
    pub time: PgTimestamp,
}

/// The line `recovery stopping …` of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopLine {
    /// Before or after the end of a transaction.
    Transaction {
        /// Before it, not after.
        before: bool,
        /// It is a commit, not an abort.
        commit: bool,
        /// The transaction.
        xid: Xid,
        /// The time of its end.
        time: PgTimestamp,
    },
    /// Before or after the record at a position.
    Lsn {
        /// Before it, not after.
        before: bool,
        /// Where the record begins.
        lsn: Lsn,
    },
    /// At a restore point.
    RestorePoint {
        /// Its name.
        name: String,
        /// Its time.
        time: PgTimestamp,
    },
    /// As soon as the backup was consistent.
    Consistent,
}

impl Recovery<'_> {
    /// Recovers in a fresh copy of the backup and removes it.
    ///
    /// # Errors
    /// What keeps the attempt from being made; how the recovery itself ends is its value.
    pub fn run(&self) -> Result<Ending> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let data = self.scratch.join(format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed)));
        let ending = self.run_in(&data);
        if std::env::var_os("WALDEN_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&data);
        }
        ending
    }

    fn run_in(&self, data: &Path) -> Result<Ending> {
        self.prepare(data)?;
        let mut server = PgServer::builder(self.major)
            .setting("autovacuum", "off")
            .setting("shared_buffers", "8MB")
            .deadline(DEADLINE)
            .adopt(data)?;
        server.spawn()?;
        let started = Instant::now();
        loop {
            let ended = server.has_ended()?;
            let log = server.log_since_start();
            if log.contains(PAUSED) || (log.contains(COMPLETE) && !ended) {
                if !log.contains(PAUSED) {
                    // Without hot standby it says that it is ready, and refuses, until it is promoted.
                    wait_until(DEADLINE, "promotion", || {
                        Ok(server.in_recovery().is_ok_and(|recovering| !recovering).then_some(()))
                    })?;
                }
                return look(&server, &server.log_since_start());
            }
            if ended {
                return Ok(Ending::Failed { message: last_word(&log) });
            }
            if started.elapsed() > DEADLINE {
                return Ok(Ending::Hung { log });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Copies the backup and writes its configuration.
    fn prepare(&self, data: &Path) -> Result<()> {
        copy_tree(self.template, data)?;
        let text = self.configuration();
        write(&data.join("postgresql.auto.conf"), &text)?;
        write(&data.join("recovery.signal"), "")
    }

    fn configuration(&self) -> String {
        let always = [
            ("restore_command".to_owned(), restore_command(self.wal)),
            ("archive_mode".to_owned(), "off".to_owned()),
            ("hot_standby".to_owned(), "on".to_owned()),
            ("fsync".to_owned(), "off".to_owned()),
        ];
        configuration(always.iter().chain(&self.settings))
    }
}

/// A `restore_command` that copies from a directory.
pub(super) fn restore_command(wal: &Path) -> String {
    let wal = wal.display();
    format!("[ -e {wal}/%f.{TORN} ] && exit 214; [ -e {wal}/%f ] || exit 1; cp {wal}/%f %p || exit 215")
}

/// Settings as lines of a configuration file.
pub(super) fn configuration<'a>(settings: impl Iterator<Item = &'a (String, String)>) -> String {
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "''");
    let lines: Vec<String> = settings.map(|(name, value)| format!("{name} = '{}'\n", quote(value))).collect();
    lines.concat()
}

/// Copies a data directory, sharing its blocks where the file system can.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    let output = command.output().map_err(|e| Error::io("start cp", from, e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Program { program: "cp".to_owned(), status: output.status, output: said })
}

pub(super) fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::io("write", path, e))?;
    ServerAccount::current()?.own(path)
}

/// Asks a server that has stopped recovering where it is.
fn look(server: &PgServer, log: &str) -> Result<Ending> {
    let session = server.session()?;
    let last = session.query("SELECT xid, timestamp FROM pg_last_committed_xact()")?;
    let last_commit = match last.first().map(Vec::as_slice) {
        Some([Some(xid), Some(time)]) => {
            let xid = xid.parse().ok().map(Xid::new);
            xid.zip(parse_time(time)).map(|(xid, time)| LastCommit { xid, time })
        }
        _ => None,
    };
    let rows = session.query(&format!("SELECT xid FROM {}", super::work::TABLE))?;
    Ok(Ending::Stopped(Box::new(Stopped {
        said: log.lines().find_map(parse_stop_line),
        promoted: session.value::<String>("SELECT pg_is_in_recovery()")? == "f",
        replayed_to: session.value("SELECT pg_last_wal_replay_lsn()")?,
        last_commit,
        transactions: rows.iter().flatten().flatten().filter_map(|xid| xid.parse().ok()).collect(),
    })))
}

/// The message of the first fatal error in a log; without one the last line.
pub(super) fn last_word(log: &str) -> String {
    let fatal = log.lines().find_map(|line| {
        let at = ["FATAL:  ", "PANIC:  "].iter().find_map(|level| Some(line.find(level)? + level.len()))?;
        line.get(at..)
    });
    fatal.or_else(|| log.lines().last()).unwrap_or_default().to_owned()
}

/// A time as PostgreSQL prints it in UTC.
fn parse_time(text: &str) -> Option<PgTimestamp> {
    let time: Timestamp = text.trim().parse().ok()?;
    Some(PgTimestamp::from_unix_micros(time.as_microsecond()))
}

fn parse_stop_line(line: &str) -> Option<StopLine> {
    let (_, what) = line.split_once("recovery stopping ")?;
    if what.starts_with("after reaching consistency") {
        return Some(StopLine::Consistent);
    }
    if let Some(rest) = what.strip_prefix("at restore point \"") {
        let (name, time) = rest.rsplit_once("\", time ")?;
        return Some(StopLine::RestorePoint { name: name.to_owned(), time: parse_time(time)? });
    }
    let (side, rest) = what.split_once(' ')?;
    let before = side == "before";
    if let Some(lsn) = rest.strip_prefix("WAL location (LSN) \"") {
        return Some(StopLine::Lsn { before, lsn: lsn.trim_end().trim_end_matches('"').parse().ok()? });
    }
    let (end, rest) = rest.split_once(" of transaction ")?;
    let (xid, time) = rest.split_once(", time ")?;
    let (xid, time) = (Xid::new(xid.parse().ok()?), parse_time(time)?);
    Some(StopLine::Transaction { before, commit: end == "commit", xid, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_stop_is_understood() {
        let time = PgTimestamp::from_unix_micros(1_795_184_431_790_108);
        let line = |said: &str| parse_stop_line(&format!("2026-11-20 14:20:31 UTC [7] startup LOG:  {said}"));
        let at = "time 2026-11-20 14:20:31.790108+00";
        for (said, expected) in [
            (
                format!("recovery stopping before commit of transaction 743, {at}"),
                StopLine::Transaction { before: true, commit: true, xid: Xid::new(743), time },
            ),
            (
                format!("recovery stopping after abort of transaction 9, {at}"),
                StopLine::Transaction { before: false, commit: false, xid: Xid::new(9), time },
            ),
            (
                "recovery stopping before WAL location (LSN) \"0/2A00028\"".to_owned(),
                StopLine::Lsn { before: true, lsn: "0/2A00028".parse().unwrap() },
            ),
            (
                format!("recovery stopping at restore point \"a \" b\", {at}"),
                StopLine::RestorePoint { name: "a \" b".to_owned(), time },
            ),
            ("recovery stopping after reaching consistency".to_owned(), StopLine::Consistent),
        ] {
            assert_eq!(line(&said), Some(expected), "{said}");
        }
        assert_eq!(line("redo starts at 0/2A00028"), None);
    }

    #[test]
    fn the_first_fatal_error_is_the_reason() {
        let log = "x [1] startup LOG:  a\nx [1] startup FATAL:  recovery ended before configured recovery target \
                   was reached\nx [0] postmaster LOG:  b\n";
        assert_eq!(last_word(log), "recovery ended before configured recovery target was reached");
        assert_eq!(last_word("a\nwaiting for WAL"), "waiting for WAL");
    }

    #[test]
    fn values_are_quoted() {
        let settings = [("a".to_owned(), "it's \\ here".to_owned())];
        assert_eq!(configuration(settings.iter()), "a = 'it''s \\\\ here'\n");
    }
}
