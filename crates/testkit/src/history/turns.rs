//! Another server takes over: recoveries with promotion, in the middle of a history.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use walden_pg::{Lsn, TimelineHistory, TimelineId};

use super::archive::BackupTaken;
use super::live::{Live, Mark};
use super::recovery::{configuration, copy_tree, last_word, restore_command, write};
use super::script::Turn;
use crate::postgres::{Error, PgServer, Result, StopMode, wait_until};

/// So many places are tried; each costs a start of a server.
const TRIES_MAX: usize = 4;

/// A standby that has replayed nothing for so long has replayed everything.
const STANDBY_IDLE: Duration = Duration::from_millis(350);

/// A standby that is not consistent by then will never be.
const STANDBY_CONSISTENT_MAX: Duration = Duration::from_secs(5);

/// A recovery that may take the history on.
struct Attempt {
    backup: BackupTaken,
    standby: bool,
    settings: Vec<(String, String)>,
    told: String,
}

impl Live<'_> {
    /// Stops the server and lets another one, recovered from the archive, go on in its place. When none of the
    /// places that were picked can be recovered, the old one goes on.
    pub(super) fn recover(&mut self, turn: Turn) -> Result<String> {
        if self.dice.percent(70) {
            self.server.archive_current_segment()?;
        }
        let mode = if self.dice.percent(70) { StopMode::Fast } else { StopMode::Immediate };
        self.server.stop(mode)?;
        let wal = self.dir.join("live-wal");
        self.archive.unpack_wal(&wal)?;
        for _ in 0..TRIES_MAX {
            let Some(attempt) = self.draw_attempt(turn) else { continue };
            let Some(server) = self.attempt(&attempt)? else {
                self.log.push(format!("    {} failed", attempt.told));
                continue;
            };
            self.take_over(server)?;
            return Ok(format!("{mode:?}; {}; now timeline {}", attempt.told, self.timeline()));
        }
        self.server.start()?;
        Ok(format!("{mode:?}; nowhere to go"))
    }

    fn draw_attempt(&mut self, turn: Turn) -> Option<Attempt> {
        let newest = self.histories.last()?.clone();
        let mut told = format!("{turn:?}");
        let mut settings: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: String| {
            told.extend([" ", name, "=", &value]);
            settings.push((name.to_owned(), value));
        };
        let history = if turn == Turn::Sibling {
            let history = self.dice.pick(&self.histories)?.clone();
            set("recovery_target_timeline", history.timeline().to_string());
            history
        } else {
            set("recovery_target_timeline", "latest".to_owned());
            newest
        };
        let mut limit = None;
        if matches!(turn, Turn::Recent | Turn::Back | Turn::Sibling) {
            let reachable: Vec<Mark> =
                self.marks.iter().filter(|mark| wanted(turn, &history, mark)).copied().collect();
            let lsn = self.dice.pick(&reachable)?.lsn;
            set("recovery_target_lsn", lsn.to_string());
            set("recovery_target_inclusive", "off".to_owned());
            set("recovery_target_action", "promote".to_owned());
            limit = Some(lsn);
        }
        let usable: Vec<BackupTaken> = self
            .backups
            .iter()
            .filter(|backup| on_path(&history, backup) && limit.is_none_or(|limit| backup.stop_lsn <= limit))
            .cloned()
            .collect();
        let backup = self.dice.pick(&usable)?.clone();
        told.extend([" from ", &backup.id]);
        Some(Attempt { backup, standby: turn == Turn::Standby, settings, told })
    }

    /// Recovers and promotes; `None` when PostgreSQL gives up.
    fn attempt(&mut self, attempt: &Attempt) -> Result<Option<PgServer>> {
        let number = self.log.len();
        let data = self.dir.join("live").join(format!("data-{number}"));
        copy_tree(&attempt.backup.template, &data)?;
        let mut settings = attempt.settings.clone();
        settings.push(("restore_command".to_owned(), restore_command(&self.dir.join("live-wal"))));
        settings.push(("max_connections".to_owned(), self.connections.to_string()));
        write(&data.join("postgresql.auto.conf"), &configuration(settings.iter()))?;
        write(&data.join(if attempt.standby { "standby.signal" } else { "recovery.signal" }), "")?;
        self.archive.adopt(&data)?;
        let mut server = self.successor(&data)?;
        server.spawn()?;
        // An error says that it has ended meanwhile.
        if attempt.standby && !promote_when_idle(&mut server).unwrap_or(false) {
            return Ok(self.gave_up(&server, &data));
        }
        let mut ended = false;
        let deadline = server.deadline();
        wait_until(deadline, "the end of a recovery", || {
            ended = server.has_ended()?;
            let complete = server.log_since_start().contains("archive recovery complete");
            Ok((ended || complete).then_some(()))
        })?;
        if ended {
            return Ok(self.gave_up(&server, &data));
        }
        server.wait_ready()?;
        server.wait_until_promoted()?;
        Ok(Some(server))
    }

    fn gave_up(&mut self, server: &PgServer, data: &Path) -> Option<PgServer> {
        self.log.push(format!("    gave up: {}", last_word(&server.log_since_start())));
        let _ = fs::remove_dir_all(data);
        None
    }

    /// The recovered server is the history's own from now on, and its new timeline is known to the archive.
    fn take_over(&mut self, server: PgServer) -> Result<()> {
        let timeline = server.timeline()?;
        let name = format!("{}.history", timeline.hex());
        server.wait_for_archived_file(&name)?;
        let path = server.data_dir().join("pg_wal").join(&name);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        self.histories.push(TimelineHistory::parse(timeline, &bytes)?);
        let old: PathBuf = self.server.data_dir().to_path_buf();
        self.server = server;
        let _ = fs::remove_dir_all(old);
        Ok(())
    }
}

/// Waits until a standby has replayed everything, and promotes it; false when it ended instead, or waits in vain
/// for the WAL that would make it consistent.
fn promote_when_idle(server: &mut PgServer) -> Result<bool> {
    let started = Instant::now();
    while !server.log_since_start().contains("consistent recovery state reached") {
        if server.has_ended()? || started.elapsed() > STANDBY_CONSISTENT_MAX {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    server.wait_ready()?;
    let session = server.session()?;
    let position = "SELECT pg_last_wal_replay_lsn()";
    let mut last: Lsn = session.value(position)?;
    loop {
        std::thread::sleep(STANDBY_IDLE);
        if server.has_ended()? {
            return Ok(false);
        }
        let now: Lsn = session.value(position)?;
        if now == last {
            break;
        }
        last = now;
    }
    session.execute("SELECT pg_promote(false)")?;
    Ok(true)
}

/// Whether a mark is one that such a turn goes to.
fn wanted(turn: Turn, history: &TimelineHistory, mark: &Mark) -> bool {
    let on_path = history.timeline_of(mark.lsn) == mark.timeline;
    on_path && (turn != Turn::Recent || mark.timeline == history.timeline()) && {
        let before_a_fork = history.entries().iter().any(|entry| mark.lsn < entry.switch_lsn);
        turn != Turn::Back || before_a_fork || history.entries().is_empty()
    }
}

fn on_path(history: &TimelineHistory, backup: &BackupTaken) -> bool {
    let timeline_before = |end: Lsn| -> TimelineId { history.timeline_of(end.checked_sub(1).unwrap_or(end)) };
    history.timeline_of(backup.start_lsn) == backup.timeline
        && timeline_before(backup.stop_lsn) == backup.timeline
}
