//! Carrying out the steps of a history.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walden_pg::{Lsn, PgMajor, TimelineHistory, TimelineId, WalSegmentSize};

use super::archive::{Archive, BackupTaken};
use super::clock::SteppedClock;
use super::dice::Dice;
use super::script::{Script, Step};
use super::work::{self, Labels};
use crate::postgres::{Error, PgServer, PgServerBuilder, Result, StopMode};

/// Longest wait for one step of a server.
const DEADLINE: Duration = Duration::from_mins(2);

/// A history has no more base backups than this: each is a template on disk.
const BACKUPS_MAX: usize = 5;
/// Nor more prepared transactions at once, of `max_prepared_transactions`.
const PREPARED_MAX: usize = 12;

/// A position that the history was at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The timeline.
    pub timeline: TimelineId,
    /// The end of WAL.
    pub lsn: Lsn,
}

/// A history under way.
pub struct Live<'a> {
    pub(super) archive: &'a dyn Archive,
    /// Everything that the history keeps on disk.
    pub(super) dir: PathBuf,
    pub(super) server: PgServer,
    pub(super) major: PgMajor,
    segment_size: WalSegmentSize,
    clock: Option<SteppedClock>,
    pub(super) dice: Dice,
    labels: Labels,
    /// The highest `max_connections` so far.
    pub(super) connections: u64,
    /// The histories of all timelines so far.
    pub(super) histories: Vec<TimelineHistory>,
    pub(super) marks: Vec<Mark>,
    pub(super) backups: Vec<BackupTaken>,
    pub(super) log: Vec<String>,
}

/// A history that is over.
#[derive(Debug)]
pub struct LiveHistory {
    /// The version.
    pub major: PgMajor,
    /// The size of its segments.
    pub segment_size: WalSegmentSize,
    /// Its base backups.
    pub backups: Vec<BackupTaken>,
    /// Positions that it was at.
    pub marks: Vec<Mark>,
    /// Whether its clock could be set.
    pub clock_steps: bool,
    /// What happened, for people.
    pub log: Vec<String>,
}

impl<'a> Live<'a> {
    /// Carries out a script. Templates of the backups are left in `dir`, which must be one of the server's account.
    ///
    /// # Errors
    /// When a server or the archive does not do what every history needs.
    pub fn carry_out(
        script: &Script,
        major: PgMajor,
        archive: &'a dyn Archive,
        dir: &Path,
    ) -> Result<LiveHistory> {
        let segment_size = WalSegmentSize::new(script.segment_mib << 20)?;
        let clock = SteppedClock::new(dir)?;
        let builder = with_clock(settings(major).wal_segment_size(segment_size), clock.as_ref());
        let server = archive.environment(archive.archiving(builder)).start()?;
        archive.created(&server)?;
        server.execute(work::CREATE)?;
        for sub in ["templates", "live", "live-wal"] {
            let path = dir.join(sub);
            fs::create_dir(&path).map_err(|e| Error::io("create", &path, e))?;
            server.account().own(&path)?;
        }
        let mut live = Self {
            archive,
            dir: dir.to_path_buf(),
            server,
            major,
            segment_size,
            clock,
            dice: Dice::new(script.seed ^ 0x5EED),
            labels: Labels::default(),
            connections: 30,
            histories: vec![TimelineHistory::parse(TimelineId::FIRST, b"")?],
            marks: Vec::new(),
            backups: Vec::new(),
            log: Vec::new(),
        };
        for step in &script.steps {
            if let Err(error) = live.step(step).and_then(|()| live.mark()) {
                let so_far = format!("{}\n{step:?}", live.log.join("\n"));
                return Err(Error::Undertaking {
                    so_far,
                    log: live.server.log_end(),
                    source: Box::new(error),
                });
            }
        }
        live.finish(script)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let told = match step {
            Step::Work { clients, transactions } => self.work(*clients, *transactions)?,
            Step::Prepare => self.prepare()?,
            Step::Finish { commit } => self.finish_prepared(*commit)?,
            Step::RestorePoint(name) => self.server.create_restore_point(name)?.to_string(),
            Step::Idle => {
                self.server.execute("SELECT pg_switch_wal()")?;
                self.server.execute("CHECKPOINT")?;
                std::thread::sleep(Duration::from_millis(20));
                String::new()
            }
            Step::Checkpoint => self.server.execute("CHECKPOINT").map(|()| String::new())?,
            Step::Large(bytes) => self.large(*bytes)?.to_string(),
            Step::Crash => self.crash()?,
            Step::CrashInRecord => self.crash_in_record()?,
            Step::Connections(number) => self.change_connections(*number)?,
            Step::Minimal => self.minimal()?,
            Step::ClockStep(milliseconds) => match &mut self.clock {
                Some(clock) => {
                    clock.step(*milliseconds)?;
                    format!("offset {} ms", clock.offset_ms())
                }
                None => "no libfaketime".to_owned(),
            },
            Step::Backup { busy } => self.backup(*busy)?,
            Step::Recover(turn) => self.recover(*turn)?,
        };
        self.log.push(format!("{step:?} {told}").trim_end().to_owned());
        Ok(())
    }

    /// Notes where the history is.
    fn mark(&mut self) -> Result<()> {
        let mark =
            Mark { timeline: self.timeline(), lsn: self.server.value("SELECT pg_current_wal_insert_lsn()")? };
        self.log.push(format!("    at {} on timeline {}", mark.lsn, mark.timeline));
        self.marks.push(mark);
        Ok(())
    }

    /// The timeline that is written now.
    pub(super) fn timeline(&self) -> TimelineId {
        self.histories.last().map_or(TimelineId::FIRST, TimelineHistory::timeline)
    }

    fn work(&mut self, clients: u64, transactions: u64) -> Result<String> {
        let done = work::run(&self.server, &mut self.dice, &self.labels, clients, transactions)?;
        Ok(format!("{done} done"))
    }

    fn prepare(&mut self) -> Result<String> {
        if self.prepared()?.len() >= PREPARED_MAX {
            return Ok("enough are prepared".to_owned());
        }
        self.server.execute(&work::prepare(&mut self.dice, &self.labels))?;
        Ok(String::new())
    }

    fn prepared(&self) -> Result<Vec<String>> {
        let rows = self.server.query("SELECT gid FROM pg_prepared_xacts ORDER BY gid")?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    fn finish_prepared(&mut self, commit: bool) -> Result<String> {
        let prepared = self.prepared()?;
        let Some(gid) = self.dice.pick(&prepared) else { return Ok("none".to_owned()) };
        let verb = if commit { "COMMIT" } else { "ROLLBACK" };
        self.server.execute(&format!("{verb} PREPARED '{gid}'"))?;
        Ok(gid.clone())
    }

    fn large(&self, bytes: u64) -> Result<Lsn> {
        self.server.value(&format!("SELECT pg_logical_emit_message(false, 'walden', repeat('A', {bytes}))"))
    }

    fn crash(&mut self) -> Result<String> {
        let mut dice = self.dice.split();
        let delay = Duration::from_millis(self.dice.between(5, 60));
        let mode = if self.dice.percent(50) { StopMode::Immediate } else { StopMode::Fast };
        // The clients connect before the server is told to stop, and their errors are what is wanted.
        let sessions = 4;
        let config = self.server.client_config();
        let deadline = self.server.deadline();
        let labels = &self.labels;
        let server = &mut self.server;
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..sessions {
                let session = crate::postgres::PgSession::connect(&config, deadline)?;
                let mut dice = dice.split();
                scope.spawn(move || work::run_session(&session, &mut dice, labels, 200));
            }
            std::thread::sleep(delay);
            server.stop(mode)
        })?;
        self.server.start()?;
        Ok(format!("{mode:?} after {} ms", delay.as_millis()))
    }

    /// Loses the segment in which a large record ends: the next start finds it cut off, and overwrites it.
    fn crash_in_record(&mut self) -> Result<String> {
        self.server.execute("CHECKPOINT")?;
        let bytes = self.segment_size.bytes() + self.dice.between(10_000, 200_000);
        let end = self.large(bytes)?;
        let timeline = self.timeline();
        self.server.stop(StopMode::Immediate)?;
        let number = self.segment_size.last_segment_before(end);
        let name = walden_pg::SegmentId::new(timeline, number).name(self.segment_size);
        let lost = self.server.data_dir().join("pg_wal").join(name.to_string());
        fs::remove_file(&lost).map_err(|e| Error::io("remove", &lost, e))?;
        self.server.start()?;
        Ok(format!("up to {end}, {name} lost"))
    }

    fn change_connections(&mut self, number: u64) -> Result<String> {
        self.server.execute(&format!("ALTER SYSTEM SET max_connections = {number}"))?;
        self.server.restart()?;
        self.connections = self.connections.max(number);
        Ok(String::new())
    }

    /// A moment without enough WAL to recover through.
    fn minimal(&mut self) -> Result<String> {
        for (level, senders, archiving) in [("minimal", 0, "off"), ("replica", 10, "on")] {
            self.server.execute(&format!("ALTER SYSTEM SET wal_level = {level}"))?;
            self.server.execute(&format!("ALTER SYSTEM SET max_wal_senders = {senders}"))?;
            self.server.execute(&format!("ALTER SYSTEM SET archive_mode = {archiving}"))?;
            self.server.restart()?;
        }
        Ok(String::new())
    }

    fn backup(&mut self, busy: bool) -> Result<String> {
        if self.backups.len() >= BACKUPS_MAX {
            return Ok("there are enough".to_owned());
        }
        let mut dice = self.dice.split();
        let templates = self.dir.join("templates");
        let taken = std::thread::scope(|scope| {
            let (server, labels) = (&self.server, &self.labels);
            let clients = busy.then(|| scope.spawn(move || work::run(server, &mut dice, labels, 3, 40)));
            let taken = self.archive.backup(server, &templates);
            if let Some(clients) = clients {
                let _ = clients.join();
            }
            taken
        })?;
        let told = format!(
            "{} from {} to {} on timeline {}",
            taken.id, taken.start_lsn, taken.stop_lsn, taken.timeline
        );
        self.backups.push(taken);
        Ok(told)
    }

    fn finish(mut self, script: &Script) -> Result<LiveHistory> {
        if script.archives_last {
            self.server.archive_current_segment()?;
            self.log.push("the last segment is archived".to_owned());
        }
        self.server.stop(StopMode::Fast)?;
        Ok(LiveHistory {
            major: self.major,
            segment_size: self.segment_size,
            backups: self.backups,
            marks: self.marks,
            clock_steps: self.clock.is_some(),
            log: self.log,
        })
    }

    /// A server over a recovered data directory, with the archive and the clock of this history. Its settings are
    /// those of the backup.
    pub(super) fn successor(&self, data: &Path) -> Result<PgServer> {
        let builder = with_clock(PgServer::builder(self.major).deadline(DEADLINE), self.clock.as_ref());
        self.archive.environment(builder).adopt(data)
    }
}

/// The settings of the first server, which backups hand down to its successors.
fn settings(major: PgMajor) -> PgServerBuilder {
    PgServer::builder(major)
        .setting("autovacuum", "off")
        // In the data directory, which is removed: what killed servers leave in /dev/shm stays there.
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("track_commit_timestamp", "on")
        .setting("max_prepared_transactions", "20")
        .setting("wal_retrieve_retry_interval", "100ms")
        .setting("max_wal_size", "64MB")
        .setting("min_wal_size", "32MB")
        .deadline(DEADLINE)
}

fn with_clock(builder: PgServerBuilder, clock: Option<&SteppedClock>) -> PgServerBuilder {
    let variables = clock.map(SteppedClock::environment).unwrap_or_default();
    variables.into_iter().fold(builder, |builder, (name, value)| builder.env(&name, value))
}
