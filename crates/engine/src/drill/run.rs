//! The steps of a drill, in their order.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use nix::unistd::{User, geteuid};
use serde::Serialize;
use tokio::time::Instant;
use walden_core::{
    BackupId, BackupRecord, CatalogSnapshot, DrillBackup, DrillCheck, DrillCommit, DrillError, DrillOutcome,
    DrillPhase, DrillRecord, DrillStop, DrillTarget, DrillVersions, ErrorKind, IncarnationRecord,
    RecoveryAction, RecoveryPlan, RecoveryRequest, RecoveryTarget, draw_targets, sha256_hex,
};

use super::checks::Questions;
use super::evidence::store_evidence;
use super::isolation::{self, PORT, Surroundings};
use super::place::{Place, end_server_of, sweep};
use super::request::DrillRequest;
use super::session::Door;
use super::times::{LogTimes, open_log};
use super::watchdog::Watchdog;
use crate::agent::{Spool, client};
use crate::catalog::load_overview;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::init::random_id;
use crate::planning::{plan_from, window_from};
use crate::progress::Unit;
use crate::restore::{
    self, ArchiveMode, Owner, Process, Programs, RestoreRequest, Server, ServerState, StartOptions,
    StartReport, TablespaceMapping, find_programs, log_of, shell_word,
};
use crate::server::RECORD_BYTES_MAX;

/// Room that a server needs besides its files and its WAL, in bytes.
const SPARE_BYTES: u64 = 256 << 20;
/// How long the store has to take the evidence of a drill that somebody ended.
const EVIDENCE_TIME: Duration = Duration::from_mins(2);
/// How many logs of failed drills are kept beside each other.
const LOGS_KEPT: usize = 10;
/// So much of a log is kept at most, in bytes.
const LOG_BYTES_KEPT: u64 = 64 << 20;
/// Pause between two looks at a promotion.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long a question about the recovery may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// The account of the server when root asks and names none.
const SERVER_USER: &str = "postgres";

/// What came of a drill, and of its evidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrillReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// Everything about it.
    #[serde(flatten)]
    pub record: DrillRecord,
    /// The key of the evidence, when it was stored.
    pub evidence: Option<String>,
    /// Why it was not stored although it should have been.
    pub evidence_error: Option<DrillError>,
}

/// A seed for [`DrillRequest::seed`].
///
/// # Errors
/// Of kind `local_io`, when the system gives no random bytes.
pub fn random_seed() -> Result<u64> {
    let digits = random_id()?;
    // Few enough digits that a person can type them, and that every JSON reader keeps them.
    Ok(u64::from_str_radix(digits.get(..8).unwrap_or_default(), 16).unwrap_or_default())
}

/// Drills: plans, restores, starts, questions, cleans up, stores the evidence. Ends early, and cleans up just the same,
/// when `cancel` ends.
///
/// # Errors
/// Only before anything has begun. Whatever goes wrong later is what the drill found.
pub async fn drill(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    request: DrillRequest,
    cancel: impl Future<Output = ()>,
) -> Result<DrillReport> {
    let swept = blocking({
        let base = request.base.clone();
        move || sweep(&base)
    })
    .await?;
    let mut run = Run::new(ctx, incarnation, request, swept);
    let deadline = run.deadline;
    let ended = {
        let mut cancel = std::pin::pin!(cancel);
        tokio::select! {
            biased;
            done = run.work() => Ended::Done(done),
            () = &mut cancel => Ended::Cancelled,
            () = tokio::time::sleep_until(deadline) => Ended::OutOfTime,
        }
    };
    ctx.progress.end();
    run.conclude(ended);
    run.clean_up().await;
    let Run { record, request, .. } = run;
    let mut report = DrillReport { schema: 1, record, evidence: None, evidence_error: None };
    if request.evidence {
        let stored = tokio::time::timeout(EVIDENCE_TIME, store_evidence(ctx, &report.record)).await;
        match stored {
            Ok(Ok(key)) => report.evidence = Some(key.to_string()),
            Ok(Err(error)) => report.evidence_error = Some(described(&error)),
            Err(_) => {
                let message = "the store did not take the evidence in time";
                report.evidence_error =
                    Some(described(&EngineError::failed(ErrorKind::Unavailable, message)));
            }
        }
    }
    Ok(report)
}

/// How the work came to its end.
enum Ended {
    Done(Result<()>),
    Cancelled,
    OutOfTime,
}

/// A drill under way: what is known of it, and what must go again.
struct Run<'a> {
    ctx: &'a Context,
    incarnation: &'a IncarnationRecord,
    request: DrillRequest,
    begun: Instant,
    deadline: Instant,
    record: DrillRecord,
    /// The phase under way: its name and its beginning.
    phase: Option<(&'static str, Instant)>,
    place: Option<Place>,
    server: Option<(Process, Watchdog)>,
    /// The checks that were made up to now: they count when time runs out on the way.
    made: Mutex<Vec<DrillCheck>>,
}

impl<'a> Run<'a> {
    fn new(
        ctx: &'a Context,
        incarnation: &'a IncarnationRecord,
        request: DrillRequest,
        warnings: Vec<String>,
    ) -> Self {
        let started_at = ctx.clock.now();
        let record = DrillRecord {
            id: BackupId::new(started_at, fraction_of_second(started_at)),
            server: incarnation.server.clone(),
            incarnation: incarnation.incarnation(),
            repository_id: incarnation.repository_id.clone(),
            ok: false,
            outcome: DrillOutcome::Failed,
            target: DrillTarget::of(&request.recovery.target, request.recovery.exclusive),
            draw: None,
            started_at,
            finished_at: started_at,
            phases: Vec::new(),
            rto_seconds: None,
            rpo_seconds: None,
            checks: Vec::new(),
            backup: None,
            stop: None,
            plan: None,
            restored_bytes: None,
            segments: None,
            versions: DrillVersions {
                walden: env!("CARGO_PKG_VERSION").to_owned(),
                ..DrillVersions::default()
            },
            warnings,
            error: None,
            log: Vec::new(),
            log_path: None,
            writer: ctx.writer(&request.base.display().to_string()),
        };
        let begun = Instant::now();
        let deadline = begun + request.timeout;
        Self {
            ctx,
            incarnation,
            request,
            begun,
            deadline,
            record,
            phase: None,
            place: None,
            server: None,
            made: Mutex::default(),
        }
    }

    /// Everything up to the last check.
    async fn work(&mut self) -> Result<()> {
        let owner = self.owner()?;
        self.begin("plan");
        let (plan, backup) = self.plan().await?;
        let programs = self.programs(&plan)?;
        self.check_room(&plan)?;
        self.begin("fetch");
        self.fetch(&plan, &backup, owner).await?;
        self.begin("replay");
        let options = self.options_to_start(&programs, owner)?;
        let data = self.place()?.data();
        let server = Server {
            ctx: self.ctx,
            plan: &plan,
            options: &options,
            programs: &programs,
            pgdata: &data,
            owner,
        };
        let started = server.start()?;
        self.server = Some((started.process.clone(), Watchdog::over(started.process.id())));
        let clock_at_start = Instant::now();
        let reached = server.wait_for_target(started).await.map_err(without_advice)?;
        let roles = self.roles(owner);
        let door = Door::find(&self.place()?.socket(), &roles, &options.settings, self.deadline).await?;
        self.note_stop(&plan, &reached, &door).await?;
        if reached.state == ServerState::Paused {
            self.begin("promote");
            promote(&door).await?;
        }
        self.record.rto_seconds = Some(rounded(self.begun.elapsed()));
        self.end_phase();
        self.split_replay(&reached, &data, clock_at_start.elapsed());
        self.note_rpo(&plan);
        self.begin("checks");
        self.ctx.progress.begin("checking", Unit::Count, 0);
        let questions = Questions {
            door: &door,
            plan: &plan,
            request: &self.request,
            programs: &programs,
            owner,
            major: plan.incarnation.major,
            made: &self.made,
        };
        questions.ask(&reached.stop_check).await;
        self.end_phase();
        Ok(())
    }

    fn place(&self) -> Result<&Place> {
        self.place
            .as_ref()
            .ok_or_else(|| EngineError::failed(ErrorKind::Internal, "the drill has no directory"))
    }

    fn begin(&mut self, name: &'static str) {
        self.end_phase();
        self.phase = Some((name, Instant::now()));
    }

    fn end_phase(&mut self) {
        if let Some((name, begun)) = self.phase.take() {
            self.record.phases.push(DrillPhase { name: name.to_owned(), seconds: rounded(begun.elapsed()) });
        }
    }

    /// Whom everything belongs to, when root asks.
    fn owner(&self) -> Result<Option<Owner>> {
        let config = |message: String, hint: &str| {
            Err(EngineError::failed(ErrorKind::Config, message).with_hint(hint.to_owned()))
        };
        let named = self.request.user.as_deref();
        let look = |name: &str| User::from_name(name).ok().flatten();
        if !geteuid().is_root() {
            return match named.map(|name| (name, look(name))) {
                Some((name, user)) if user.as_ref().is_none_or(|user| user.uid != geteuid()) => config(
                    format!("only root can run the server as another user user={name}"),
                    "run walden as that user, or leave --user out",
                ),
                _ => Ok(None),
            };
        }
        let name = named.unwrap_or(SERVER_USER);
        match look(name) {
            Some(user) if !user.uid.is_root() => Ok(Some(Owner { uid: user.uid, gid: user.gid })),
            Some(_) => config(
                "PostgreSQL does not run as root".to_owned(),
                "name another user of this host with --user, or run walden as one",
            ),
            None => config(
                format!("PostgreSQL does not run as root, and this host has no user {name:?}"),
                "name a user of this host with --user, or run walden as one",
            ),
        }
    }

    fn programs(&mut self, plan: &RecoveryPlan) -> Result<Programs> {
        let options = self.start_options(Path::new("/"));
        let missing = || EngineError::failed(ErrorKind::Config, "the programs of PostgreSQL were not found");
        let found =
            find_programs(plan.incarnation.major, Some(&options)).and_then(|found| found.ok_or_else(missing));
        let programs = found.map_err(|error| match error {
            EngineError::Failed { kind, message, .. } => EngineError::failed(kind, message)
                .with_hint("install them, or name their directory with --pg-bin"),
            error => error,
        })?;
        self.record.versions.postgres = programs.version();
        Ok(programs)
    }

    fn roles(&self, owner: Option<Owner>) -> Vec<String> {
        if let Some(role) = &self.request.role {
            return vec![role.clone()];
        }
        let mut roles: Vec<String> = restore::user_name(owner).into_iter().collect();
        if !roles.iter().any(|role| role == SERVER_USER) {
            roles.push(SERVER_USER.to_owned());
        }
        roles
    }

    /// The plan, and the record of its backup.
    async fn plan(&mut self) -> Result<(RecoveryPlan, BackupRecord)> {
        let mut snapshot = load_overview(self.ctx, self.incarnation).await?;
        let plan = match self.request.seed {
            Some(seed) => self.plan_of_draw(&mut snapshot, seed).await?,
            None => {
                let request = promoting(&self.request.recovery, self.request.recovery.target.clone());
                plan_from(self.ctx, &mut snapshot, &request).await?
            }
        };
        let backup = snapshot.backup(&plan.backup.id).cloned().ok_or_else(|| {
            EngineError::failed(ErrorKind::NotFound, format!("backup {} is gone", plan.backup.id))
        })?;
        let key = self.ctx.layout().incarnation(plan.incarnation).backup(&backup.id).commit();
        let bytes = self.ctx.store.get(&key, RECORD_BYTES_MAX, &self.ctx.budget()).await?;
        self.record.backup = Some(DrillBackup {
            id: backup.id.clone(),
            finished_at: backup.finished_at,
            bytes: backup.bytes,
            stored_bytes: backup.stored_bytes,
            record_sha256: Some(sha256_hex(&bytes)),
            manifest_sha256: Some(backup.manifest.plain_sha256.clone()),
        });
        self.record.versions.source = Some(backup.settings.server_version.clone());
        self.record.plan = serde_json::to_value(&plan).ok();
        self.record.warnings.extend(plan.warnings.iter().cloned());
        let commit = |commit: walden_core::Commit| DrillCommit { xid: commit.xid.get(), at: commit.time };
        self.record.stop = Some(DrillStop {
            expected_lsn: plan.stop.replayed_to,
            expected_timeline: plan.stop.timeline,
            expected_last: plan.stop.last_kept.map(commit),
            expected_left_out: plan.stop.first_left_out.map(commit),
            real_lsn: None,
            real_last_at: None,
            outcome: None,
            message: None,
        });
        Ok((plan, backup))
    }

    /// Plans for the first of the drawn moments that can be planned for.
    async fn plan_of_draw(&mut self, snapshot: &mut CatalogSnapshot, seed: u64) -> Result<RecoveryPlan> {
        let window = window_from(self.ctx, snapshot).await?;
        let Some(drawn) = draw_targets(&window, seed) else {
            // Nothing to draw from: the planner says best why.
            let request = promoting(&self.request.recovery, RecoveryTarget::Latest);
            plan_from(self.ctx, snapshot, &request).await?;
            let message = "the recovery window has no two moments to draw one from";
            return Err(EngineError::failed(ErrorKind::Target, message)
                .with_hint("drill the end of the archive: without --random"));
        };
        self.record.draw = Some(drawn.draw);
        let mut refused = None;
        for target in drawn.targets {
            self.record.target = DrillTarget::of(&target, self.request.recovery.exclusive);
            let request = promoting(&self.request.recovery, target);
            match plan_from(self.ctx, snapshot, &request).await {
                Err(EngineError::Refused(refusal)) => refused = refused.or(Some(refusal)),
                planned => return planned,
            }
        }
        Err(refused.map_or_else(
            || EngineError::failed(ErrorKind::Internal, "no moment was drawn"),
            EngineError::Refused,
        ))
    }

    /// Refuses, before anything is written, what would fill the file system.
    fn check_room(&self, plan: &RecoveryPlan) -> Result<()> {
        let there = self.request.base.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let Ok(found) = statvfs(there) else { return Ok(()) };
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        let wal = plan.estimate.wal_bytes;
        let need = plan.backup.bytes.saturating_add(wal).saturating_add(SPARE_BYTES);
        if free >= need {
            return Ok(());
        }
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let message = format!(
            "not enough room for a drill: {} MB needed (backup {} MB, WAL {} MB, and some to spare), {} MB free path={}",
            megabytes(need),
            megabytes(plan.backup.bytes),
            megabytes(wal),
            megabytes(free),
            there.display()
        );
        Err(EngineError::failed(ErrorKind::LocalIo, message)
            .with_hint("make room, or drill elsewhere: --directory; nothing was written"))
    }

    /// Restores the backup.
    async fn fetch(
        &mut self,
        plan: &RecoveryPlan,
        backup: &BackupRecord,
        owner: Option<Owner>,
    ) -> Result<()> {
        let record = &self.record;
        let place = Place::make(&self.request.base, &record.id, &record.server, record.started_at, owner)?;
        let place = self.place.insert(place);
        let mut tablespace_mapping = Vec::new();
        for space in &backup.tablespaces {
            let to = place.tablespace(space.oid)?;
            tablespace_mapping.push(TablespaceMapping { from: space.oid.to_string(), to });
        }
        let state = shell_word(&place.state().to_string_lossy()).replace('%', "%%");
        let request = RestoreRequest {
            pgdata: place.data(),
            tablespace_mapping,
            allow_tablespaces: Vec::new(),
            jobs: self.request.jobs,
            // What is fetched ahead lies in the drill's own directory.
            restore_command: format!("WALDEN_STATE_DIRECTORY={state} {}", self.request.restore_command),
            settings: Vec::new(),
            archive_mode: ArchiveMode::Off,
            drill: true,
            start: None,
        };
        let report = restore::execute(self.ctx, plan, request).await.map_err(without_advice)?;
        self.record.restored_bytes = Some(report.bytes);
        Ok(())
    }

    fn start_options(&self, socket: &Path) -> StartOptions {
        StartOptions {
            bin_directory: self.request.bin_directory.clone(),
            port: Some(PORT),
            socket_directory: Some(socket.to_owned()),
            timeout: self.deadline.saturating_duration_since(Instant::now()),
            settings: Vec::new(),
            user: self.request.role.clone(),
        }
    }

    fn options_to_start(&mut self, programs: &Programs, owner: Option<Owner>) -> Result<StartOptions> {
        let place = self.place()?;
        // Nobody but the owner of the directory can reach the socket.
        let hba_file = place.write("pg_hba.conf", "local all all trust\n")?;
        let ident_file = place.write("pg_ident.conf", "")?;
        let data = place.data();
        let around = Surroundings {
            major: self.record.incarnation.major,
            programs,
            data: &data,
            hba_file: &hba_file,
            ident_file: &ident_file,
            pid_file: &place.socket().join("server.pid"),
            owner,
            preload: &self.request.preload,
        };
        let mut isolated = isolation::isolate(&around);
        // What keeps the server to itself is not up for change.
        if let Some(refused) = self.request.settings.iter().find(|asked| isolated.fixes(&asked.name)) {
            let message =
                format!("a drill sets this itself, to keep the server to itself name={}", refused.name);
            return Err(EngineError::failed(ErrorKind::Config, message));
        }
        isolated.settings.extend(self.request.settings.iter().cloned());
        let options = StartOptions { settings: isolated.settings, ..self.start_options(&place.socket()) };
        self.record.warnings.extend(isolated.notes);
        Ok(options)
    }

    /// What is known of the stop.
    async fn note_stop(&mut self, plan: &RecoveryPlan, reached: &StartReport, door: &Door) -> Result<()> {
        let check = &reached.stop_check;
        let real_last_at = last_replayed(door).await?;
        if let Some(stop) = &mut self.record.stop {
            stop.real_lsn = check.replayed_to;
            stop.real_last_at = real_last_at;
            stop.outcome =
                serde_json::to_value(check.outcome).ok().and_then(|text| Some(text.as_str()?.to_owned()));
            stop.message = Some(check.message.clone());
        }
        tracing::info!(planned = %plan.stop.replayed_to, message = %check.message, "the server has met its target");
        Ok(())
    }

    /// Without a target the server promotes by itself: its log tells when it had replayed everything.
    fn split_replay(&mut self, reached: &StartReport, data: &Path, since_start: Duration) {
        let times = LogTimes::read(&log_of(data));
        self.record.segments = Some(times.segments);
        if reached.state != ServerState::Promoted {
            return;
        }
        let promotion = times.replayed.zip(times.open).map(|(replayed, open)| (open - replayed).max(0.0));
        let Some(promotion) = promotion.filter(|seconds| *seconds <= since_start.as_secs_f64()) else {
            return;
        };
        if let Some(replay) = self.record.phases.iter_mut().find(|phase| phase.name == "replay") {
            replay.seconds = to_milliseconds((replay.seconds - promotion).max(0.0));
            let promote = DrillPhase { name: "promote".to_owned(), seconds: to_milliseconds(promotion) };
            self.record.phases.push(promote);
        }
    }

    /// What would have been lost: from the last transaction that is there to the moment that was wanted.
    fn note_rpo(&mut self, plan: &RecoveryPlan) {
        let wanted = match plan.request.target {
            RecoveryTarget::Latest => self.record.started_at,
            RecoveryTarget::Time(time) => time,
            _ => return,
        };
        let Some(stop) = &self.record.stop else { return };
        let planned = stop.expected_last.map(|commit| commit.at);
        let last = match stop.outcome.as_deref() {
            Some("as_planned") => planned.or(stop.real_last_at),
            _ => stop.real_last_at,
        };
        let last: Timestamp = last.unwrap_or(plan.backup.finished_at);
        // A source whose clock is ahead loses nothing by that.
        let lost = wanted.duration_since(last).as_secs_f64().max(0.0);
        self.record.rpo_seconds = Some(to_milliseconds(lost));
    }

    /// Says what came of it.
    fn conclude(&mut self, ended: Ended) {
        self.end_phase();
        self.record.checks = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let failed_stop = || {
            let outcome = self.record.stop.as_ref().and_then(|stop| stop.outcome.as_deref());
            outcome == Some("elsewhere")
        };
        let (outcome, error) = match ended {
            Ended::Done(Ok(())) if failed_stop() => (DrillOutcome::StoppedElsewhere, None),
            Ended::Done(Ok(())) if self.record.checks.iter().any(|check| !check.ok) => {
                (DrillOutcome::ChecksFailed, None)
            }
            Ended::Done(Ok(())) => (DrillOutcome::Ok, None),
            Ended::Done(Err(error)) => match &error {
                EngineError::Refused(_) => (DrillOutcome::NoPlan, Some(described(&error))),
                error if error.kind() == ErrorKind::Target => (DrillOutcome::NoPlan, Some(described(error))),
                _ if Instant::now() >= self.deadline => (DrillOutcome::TimedOut, Some(described(&error))),
                error => (DrillOutcome::Failed, Some(described(error))),
            },
            Ended::Cancelled => {
                let message = "the drill was interrupted";
                let error = EngineError::failed(ErrorKind::Unavailable, message);
                (DrillOutcome::Interrupted, Some(described(&error)))
            }
            Ended::OutOfTime => {
                let seconds = self.request.timeout.as_secs();
                let message = format!("the drill was not done within its time seconds={seconds}");
                let error =
                    EngineError::failed(ErrorKind::Unavailable, message).with_hint("give it more: --timeout");
                (DrillOutcome::TimedOut, Some(described(&error)))
            }
        };
        self.record.ok = outcome == DrillOutcome::Ok;
        self.record.outcome = outcome;
        self.record.error = error;
        self.record.finished_at = self.ctx.clock.now();
    }

    /// Keeps what is needed of a failure, and removes everything else.
    async fn clean_up(&mut self) {
        let Some(place) = self.place.take() else { return };
        let (ctx, data) = (self.ctx.clone(), place.data());
        let server = self.server.take();
        let keeps = !self.record.ok;
        let kept = self.request.base.join(format!("{}{}.log", super::place::PREFIX, self.record.id));
        let spool = self.spool(&place);
        let cleaned = blocking(move || {
            if let Some((process, watchdog)) = server {
                if process.ended().is_none() {
                    end_server_of(&data, Some(process.id()));
                }
                drop(watchdog);
            }
            if let Some(spool) = spool {
                // It goes by itself, too; but it would be in the way of the removal.
                drop(client::stop(&spool));
            }
            let tail = if keeps { LogTimes::read(&log_of(&data)).tail } else { Vec::new() };
            let log = if keeps { keep_log(&log_of(&data), &kept) } else { Ok(None) };
            (tail, log, place.remove())
        })
        .await;
        drop(ctx);
        match cleaned {
            Ok((tail, log, removed)) => {
                self.record.log = tail;
                match log {
                    Ok(path) => self.record.log_path = path.map(|path| path.display().to_string()),
                    Err(error) => self.record.warnings.push(format!("the log was not kept: {error}")),
                }
                if let Err(error) = removed {
                    self.record.warnings.push(format!("the directory of the drill was not removed: {error}"));
                }
            }
            Err(error) => self.record.warnings.push(format!("cleaning up failed: {error}")),
        }
    }

    /// The spool of the agent that may fetch ahead for the drilled server.
    fn spool(&self, place: &Place) -> Option<Spool> {
        let identity = self.ctx.store.identity();
        let settings = &self.request.agent_settings;
        Spool::locate(&place.state(), &place.data(), &identity, &self.ctx.server, settings).ok()
    }
}

/// The part of a second, in 65536ths: names of drills sort by their beginning.
fn fraction_of_second(moment: Timestamp) -> u16 {
    let nanoseconds = u64::try_from(moment.subsec_nanosecond()).unwrap_or_default();
    u16::try_from((nanoseconds << 16) / 1_000_000_000).unwrap_or(u16::MAX)
}

/// The same request for another target; a target is paused at, so that the promotion can be measured.
fn promoting(request: &RecoveryRequest, target: RecoveryTarget) -> RecoveryRequest {
    let action = match target {
        RecoveryTarget::Latest => RecoveryAction::Promote,
        _ => RecoveryAction::Pause,
    };
    RecoveryRequest { target, action, ..request.clone() }
}

/// Ends the recovery of a server that waits at its target, and waits until it is open for writing.
async fn promote(door: &Door) -> Result<()> {
    let failed = |said: super::session::Said| {
        EngineError::failed(ErrorKind::Postgres, format!("the restored server was not promoted: {said}"))
    };
    let session = door.open("postgres", true).await.map_err(failed)?;
    session.run("SELECT pg_catalog.pg_wal_replay_resume()", ANSWER_TIME).await.map_err(failed)?;
    loop {
        let row = session.one("SELECT pg_catalog.pg_is_in_recovery()", ANSWER_TIME).await.map_err(failed)?;
        if matches!(row.try_get(0), Ok(false)) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The time of the last transaction that was replayed.
async fn last_replayed(door: &Door) -> Result<Option<Timestamp>> {
    let failed = |said: &dyn std::fmt::Display| {
        EngineError::failed(ErrorKind::Postgres, format!("the restored server did not answer: {said}"))
    };
    let session = door.open("postgres", true).await.map_err(|said| failed(&said))?;
    let sql = "SELECT (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()) * 1000000)::int8";
    let row = session.one(sql, ANSWER_TIME).await.map_err(|said| failed(&said))?;
    let microseconds: Option<i64> = row.try_get(0).map_err(|error| failed(&error))?;
    Ok(microseconds.and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok()))
}

/// An error as it is recorded, with what lies underneath.
fn described(error: &EngineError) -> DrillError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !message.contains(&next) {
            message = format!("{message}: {next}");
        }
        cause = error.source();
    }
    DrillError { kind: error.kind().as_str().to_owned(), message, hint: error.hint() }
}

/// What a restore advises is about a directory that a drill removes itself.
fn without_advice(error: EngineError) -> EngineError {
    const ABOUT_THE_DIRECTORY: [&str; 5] = [
        "the directory is not complete",
        "the data directory itself is complete",
        "to start it without restoring again",
        "the log is ",
        "it goes on recovering",
    ];
    match error {
        EngineError::Failed { kind, message, hint: Some(hint) } => {
            let kept: Vec<&str> = hint
                .split("; ")
                .take_while(|part| !ABOUT_THE_DIRECTORY.iter().any(|about| part.starts_with(about)))
                .collect();
            let hint = (!kept.is_empty()).then(|| kept.join("; "));
            EngineError::Failed { kind, message, hint }
        }
        error => error,
    }
}

/// Copies the end of a log beside the drills, and removes the oldest of those that were kept before.
fn keep_log(log: &Path, kept: &Path) -> std::io::Result<Option<PathBuf>> {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let mut source = match open_log(log) {
        Ok(source) => source,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = source.metadata()?.len();
    source.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_KEPT)))?;
    let mut copy = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(kept)?;
    std::io::copy(&mut source.take(LOG_BYTES_KEPT), &mut copy)?;
    copy.flush()?;
    prune_logs(kept.parent().unwrap_or(Path::new("/")));
    Ok(Some(kept.to_owned()))
}

fn prune_logs(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    let mut logs: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let id =
                name.to_str().and_then(|name| name.strip_prefix(super::place::PREFIX)?.strip_suffix(".log"));
            id.is_some_and(|id| id.parse::<BackupId>().is_ok())
        })
        .map(|entry| entry.path())
        .collect();
    logs.sort();
    for old in logs.iter().rev().skip(LOGS_KEPT) {
        drop(std::fs::remove_file(old));
    }
}

/// Work that blocks, off the threads that must not.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        EngineError::failed(ErrorKind::Internal, format!("a part of the drill failed: {error}"))
    })
}

fn rounded(elapsed: Duration) -> f64 {
    to_milliseconds(elapsed.as_secs_f64())
}

fn to_milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
