//! The steps of a restore, in their order.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use futures::stream::{self, Stream};
use jiff::Timestamp;
use walden_core::{
    BackupKind, BackupRecord, BackupSource, ErrorKind, IncarnationRecord, RecordKind, RecoveryPlan,
};

use super::configure::{self, Configuration, RECOVERY_SIGNAL, needed_directories};
use super::destination::{
    InProgress, Place, TablespacePlace, check_space, look_at_data_directory, look_at_tablespaces,
};
use super::files::Writer;
use super::flush::Flush;
use super::inventory::{AUTO_CONF, CONTROL, Inventory, Judge, MAP, Step, display};
use super::manifest::{ManifestReader, StoredManifest};
use super::originals::{Originals, made_during_backup};
use super::owner::{self, Owner};
use super::packs::{Packs, blocking};
use super::reads::{Task, TaskBuilder};
use super::report::{RestoreReport, RestoredLink, RestoredOwner, RestoredTablespace};
use super::request::RestoreRequest;
use super::start::{self, Programs};
use super::tree::Tree;
use super::{IN_PROGRESS_MARKER, PLAN_FILE, log_of, shell_path};
use crate::context::Context;
use crate::data_directory::{RESTORED_MARKER, RestoredMarker};
use crate::error::{EngineError, Result};
use crate::progress::Unit;
use crate::server::{read_incarnation, read_record};

/// More workers than this only wait for each other.
const JOBS_MAX: usize = 64;

/// How far a restore has come: decides what is said when it fails.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was written.
    Looking = 0,
    /// The directories are being filled.
    Filling = 1,
    /// The data directory is complete and durable.
    Complete = 2,
}

/// One restore.
pub(super) struct Restore<'a> {
    ctx: &'a Context,
    plan: &'a RecoveryPlan,
    request: RestoreRequest,
    stage: AtomicU8,
    /// What must be removed after a failure.
    filling: OnceLock<Vec<String>>,
}

/// What is known before the first write.
struct Prepared {
    record: BackupRecord,
    incarnation: IncarnationRecord,
    data: Place,
    tablespaces: Vec<TablespacePlace>,
    manifest: StoredManifest,
    inventory: Inventory,
    originals: Originals,
    configuration: Configuration,
    map: Option<Vec<u8>>,
    owner: Option<(Owner, RestoredOwner)>,
    packs: Packs,
}

impl<'a> Restore<'a> {
    pub(super) fn new(ctx: &'a Context, plan: &'a RecoveryPlan, request: RestoreRequest) -> Self {
        Self { ctx, plan, request, stage: AtomicU8::new(Stage::Looking as u8), filling: OnceLock::new() }
    }

    fn reached(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Adds to an error what it left behind.
    pub(super) fn explain(&self, error: EngineError) -> EngineError {
        let stage = self.stage.load(Ordering::Relaxed);
        let filling = self.filling.get().map(|directories| directories.join(" ")).unwrap_or_default();
        let after = if stage == Stage::Filling as u8 {
            format!(
                "the directory is not complete and no server can start from it: remove {filling} and restore again"
            )
        } else if stage == Stage::Complete as u8 {
            "the data directory itself is complete and durable".to_owned()
        } else {
            return error;
        };
        let hint = error.hint().map_or_else(|| after.clone(), |hint| format!("{hint}; {after}"));
        let kind = error.kind();
        let message = match error {
            EngineError::Failed { message, .. } => message,
            // Errors of other layers have no room for a hint: they become one that has, causes and all.
            error => with_causes(&error),
        };
        EngineError::Failed { kind, message, hint: Some(hint) }
    }

    pub(super) async fn run(&self) -> Result<RestoreReport> {
        let started_at = self.ctx.clock.now();
        configure::check_request(&self.request)?;
        let programs = start::find_programs(self.plan.incarnation.major, self.request.start.as_ref())?;
        let prepared = self.prepare().await?;
        if self.request.start.is_some()
            && prepared.owner.as_ref().is_some_and(|(owner, _)| owner.uid.is_root())
        {
            return Err(EngineError::failed(
                ErrorKind::Config,
                "the server would belong to root, and PostgreSQL does not run as root",
            )
            .with_hint(
                "make the empty target directory first, and give it to the user that shall run the server",
            ));
        }
        let Prepared { data, .. } = &prepared;
        let pgdata = data.path.clone();
        let (prepared, fetched) = self.fill(prepared, started_at).await?;
        self.reached(Stage::Complete);
        let finished_at = self.ctx.clock.now();
        let mut report =
            self.report(&prepared, &pgdata, programs.as_ref(), (started_at, finished_at), fetched);
        if let (Some(options), Some(programs)) = (&self.request.start, &programs) {
            let owner = prepared.owner.as_ref().map(|(owner, _)| *owner);
            let server =
                start::Server { ctx: self.ctx, plan: self.plan, options, programs, pgdata: &pgdata, owner };
            let started = server.start_and_wait().await?;
            report.warnings.extend(locked_warning(started.locked_relations));
            report.started = Some(started);
        }
        Ok(report)
    }

    /// Everything that can be known and refused before the first write.
    async fn prepare(&self) -> Result<Prepared> {
        let data = look_at_data_directory(&self.request.pgdata)?;
        let layout = self.ctx.layout().incarnation(self.plan.incarnation).backup(&self.plan.backup.id);
        let record = self.read_record().await?;
        let incarnation = read_incarnation(self.ctx, self.plan.incarnation).await?.ok_or_else(|| {
            let message = format!("the archive of incarnation {} is gone", self.plan.incarnation);
            EngineError::failed(ErrorKind::NotFound, message)
        })?;
        let tablespaces = look_at_tablespaces(&record.tablespaces, &self.request.tablespace_mapping, &data)?;
        let mut manifest = StoredManifest::of(&record, layout.manifest());
        let inventory = judge(self.ctx, &mut manifest, &record).await?;
        check_space(&data, &tablespaces, &inventory, record.segment_size.bytes())?;
        let packs = Packs::new(self.ctx, layout);
        let originals = Originals::read(&packs, &inventory, &record).await?;
        let map = originals.map_to(&tablespaces, self.plan)?;
        let late = made_during_backup(&originals.tablespace_map, &tablespaces)?;
        let mut configuration = configure::compose(self.plan, &record, &originals, &self.request, &data.path);
        configuration.warnings.extend(late);
        let owner = owner::decide(&data, inventory.header.as_ref());
        Ok(Prepared {
            record,
            incarnation,
            data,
            tablespaces,
            manifest,
            inventory,
            originals,
            configuration,
            map,
            owner,
            packs,
        })
    }

    async fn read_record(&self) -> Result<BackupRecord> {
        let plan = self.plan;
        if plan.server != self.ctx.server {
            let message =
                format!("the plan is for another server plan={} server={}", plan.server, self.ctx.server);
            return Err(EngineError::failed(ErrorKind::Config, message));
        }
        let key = self.ctx.layout().incarnation(plan.incarnation).backup(&plan.backup.id).commit();
        let record: Option<BackupRecord> = read_record(self.ctx, RecordKind::Backup, &key).await?;
        let Some(record) = record else {
            let message = format!("backup {} is gone since it was planned with key={key}", plan.backup.id);
            return Err(EngineError::failed(ErrorKind::NotFound, message).with_hint("plan again"));
        };
        if let Some(feature) = record.requires.first() {
            let message = format!("backup {} needs a newer walden: feature {feature:?}", record.id);
            return Err(EngineError::failed(ErrorKind::Unsupported, message)
                .with_hint("use a newer version of walden"));
        }
        if record.kind != BackupKind::Full {
            let message = format!("backup {} is incremental, which this version can't restore", record.id);
            return Err(EngineError::failed(ErrorKind::Unsupported, message)
                .with_hint("use a newer version of walden"));
        }
        let same = record.id == plan.backup.id
            && record.server == plan.server
            && record.incarnation == plan.incarnation
            && record.timeline == plan.backup.timeline
            && record.start_lsn == plan.backup.start_lsn
            && record.stop_lsn == plan.backup.stop_lsn;
        if same {
            return Ok(record);
        }
        let message =
            format!("the record of backup {} is not the one that was planned with key={key}", plan.backup.id);
        Err(EngineError::failed(ErrorKind::Corrupt, message)
            .with_hint("plan again; if it stays, take another backup"))
    }

    /// Makes the directories and everything in them; `pg_control` last. Returns what was fetched, in bytes.
    async fn fill(&self, prepared: Prepared, started_at: Timestamp) -> Result<(Prepared, u64)> {
        let mut prepared = prepared;
        let tops: Vec<_> = std::iter::once(&prepared.data)
            .chain(prepared.tablespaces.iter().map(|space| &space.place))
            .map(|place| place.path.clone())
            .collect();
        let owner = prepared.owner.as_ref().map(|(owner, _)| *owner);
        let _ = self.filling.set(tops.iter().map(|path| shell_path(path)).collect());
        self.reached(Stage::Filling);
        let tree = Arc::new(Tree::create(&prepared.data, &prepared.tablespaces, owner)?);
        let flush = Flush::choose(&tree);
        let marker =
            InProgress { schema: 1, backup: self.plan.backup.id.clone(), started_at, directories: tops };
        tree.claim(IN_PROGRESS_MARKER.as_bytes(), &json(&marker)?)?;
        add_needed_directories(&mut prepared.inventory, self.plan);
        for (path, _) in &prepared.inventory.directories {
            tree.make_directory(path)?;
        }
        let Prepared { record, mut manifest, packs, .. } = prepared;
        let progress = Arc::clone(&self.ctx.progress);
        let writer = Writer { packs, tree: Arc::clone(&tree), sync_files: flush.is_each(), progress };
        self.ctx.progress.begin("restoring files", Unit::Bytes, prepared.inventory.totals.bytes);
        let judge = Judge::new(&record);
        let tasks = tasks(manifest.read(self.ctx)?, judge);
        writer.write_all(tasks, self.jobs()).await?;
        self.ctx.progress.end();
        let fetched = writer.packs.fetched_bytes() + manifest.object_bytes();
        let prepared = Prepared { record, manifest, packs: writer.packs, ..prepared };
        let modes = FileModes::of(&prepared.inventory);
        self.configure(&tree, &prepared, modes)?;
        self.ctx.progress.begin("flushing to disk", Unit::Count, 0);
        let prepared = finish(tree, flush, prepared, modes).await?;
        self.ctx.progress.end();
        Ok((prepared, fetched))
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        self.request.jobs.map_or_else(cores, NonZeroUsize::get).clamp(1, JOBS_MAX)
    }

    /// Writes what is not copied from the backup; the signal file last, because it makes a start a recovery.
    fn configure(&self, tree: &Tree, prepared: &Prepared, modes: FileModes) -> Result<()> {
        let Prepared { configuration, .. } = prepared;
        for (name, contents) in &configuration.generated {
            tree.write_file(name.as_bytes(), contents, modes.file)?;
        }
        tree.write_file(AUTO_CONF, &configuration.auto_conf.text, modes.file)?;
        if let Some(map) = &prepared.map {
            tree.write_file(MAP, map, modes.file)?;
        }
        tree.link_tablespaces()?;
        tree.write_file(PLAN_FILE.as_bytes(), &json(self.plan)?, modes.file)?;
        let marker = RestoredMarker {
            schema: 1,
            repository_id: prepared.incarnation.repository_id.clone(),
            server: self.plan.server.clone(),
            incarnation: self.plan.incarnation,
            backup: self.plan.backup.id.clone(),
            restored_at: self.ctx.clock.now(),
            allowed_tablespaces: self
                .request
                .allow_tablespaces
                .iter()
                .map(|path| path.to_string_lossy().into_owned())
                .collect(),
            drill: self.request.drill,
        };
        tree.write_file(RESTORED_MARKER.as_bytes(), &json(&marker)?, modes.file)?;
        tree.write_file(RECOVERY_SIGNAL, b"", modes.file)
    }

    fn report(
        &self,
        prepared: &Prepared,
        pgdata: &Path,
        programs: Option<&Programs>,
        (started_at, finished_at): (Timestamp, Timestamp),
        stored_bytes: u64,
    ) -> RestoreReport {
        let Prepared { inventory, configuration, tablespaces, .. } = prepared;
        let owner = prepared.owner.as_ref().map(|(owner, _)| *owner);
        let mut warnings = configuration.warnings.clone();
        warnings.extend(more_warnings(prepared));
        RestoreReport {
            schema: 1,
            server: self.plan.server.clone(),
            incarnation: self.plan.incarnation,
            backup: self.plan.backup.id.clone(),
            target: self.plan.request.target.clone(),
            target_exclusive: self.plan.request.exclusive,
            target_timeline: self.plan.target_timeline,
            pgdata: pgdata.to_owned(),
            tablespaces: tablespaces
                .iter()
                .map(|space| RestoredTablespace {
                    oid: space.oid,
                    from: space.original.clone(),
                    to: space.place.path.clone(),
                })
                .collect(),
            files: inventory.totals.files - inventory.left_out.len() as u64,
            directories: inventory.directories.len() as u64,
            bytes: inventory.bytes.values().sum(),
            stored_bytes,
            started_at,
            finished_at,
            owner: prepared.owner.as_ref().map(|(_, owner)| owner.clone()),
            links: inventory
                .links
                .iter()
                .map(|link| RestoredLink {
                    path: display(&link.path),
                    target: link.target.clone(),
                    as_directory: link.as_directory,
                })
                .collect(),
            left_out: inventory.left_out.clone(),
            generated: configuration.generated.iter().map(|(name, _)| (*name).to_owned()).collect(),
            settings: configuration.settings.clone(),
            dropped_settings: configuration.auto_conf.dropped.clone(),
            warnings,
            start_command: start_command(pgdata, owner, programs, &[]),
            started: None,
        }
    }
}

fn locked_warning(relations: u64) -> Option<String> {
    (relations > 0).then(|| {
        format!(
            "a transaction that was open at the target keeps relations locked, and who reads them waits: \
             SELECT pg_wal_replay_resume() promotes and frees them, an earlier target does without the transaction \
             relations={relations}"
        )
    })
}

fn more_warnings(prepared: &Prepared) -> Vec<String> {
    let mut warnings = Vec::new();
    for link in &prepared.inventory.links {
        let path = display(&link.path);
        warnings.push(if link.as_directory {
            format!("{path} was a link to {}; it is a directory now", link.target)
        } else {
            format!("{path} was a link to {} and is not restored", link.target)
        });
    }
    if prepared.owner.as_ref().is_some_and(|(owner, _)| owner.uid.is_root()) {
        warnings.push(
            "the restored files belong to root, and PostgreSQL does not run as root: give them to the server's user \
             before starting"
                .to_owned(),
        );
    }
    if prepared.record.source == BackupSource::Standby {
        warnings.push("the backup was taken from a standby".to_owned());
    }
    warnings
}

/// An error and what it came from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The modes of files that we write, and of the data directory.
#[derive(Debug, Clone, Copy)]
struct FileModes {
    file: u32,
    top: u32,
}

impl FileModes {
    /// As the source had them: PostgreSQL wants 0700, or 0750 for a group that may read.
    fn of(inventory: &Inventory) -> Self {
        if inventory.group_access() {
            Self { file: 0o640, top: 0o750 }
        } else {
            Self { file: 0o600, top: 0o700 }
        }
    }
}

/// Modes, flushes, `pg_control`, and then no marker any more.
async fn finish(tree: Arc<Tree>, flush: Flush, prepared: Prepared, modes: FileModes) -> Result<Prepared> {
    blocking(move || {
        let directories = &prepared.inventory.directories;
        // The deepest first, so that a mode never stands in the way.
        for (path, mode) in directories.iter().rev() {
            tree.set_directory_mode(path, *mode)?;
        }
        for space in &prepared.tablespaces {
            tree.set_directory_mode(format!("pg_tblspc/{}", space.oid).as_bytes(), modes.top)?;
        }
        tree.set_directory_mode(b"", modes.top)?;
        flush.finish(&tree, directories)?;
        tree.write_file(CONTROL, &prepared.originals.control_bytes, modes.file)?;
        tree.remove_file(IN_PROGRESS_MARKER.as_bytes())?;
        Ok(prepared)
    })
    .await
}

/// Adds the directories without which no server starts, where the backup does not list them.
fn add_needed_directories(inventory: &mut Inventory, plan: &RecoveryPlan) {
    for needed in needed_directories(plan.incarnation.major) {
        if !inventory.directories.iter().any(|(path, _)| path == needed.as_bytes()) {
            let mode = FileModes::of(inventory).top;
            inventory.directories.push((needed.as_bytes().to_vec(), mode));
        }
    }
    // Parents before what is in them.
    inventory.directories.sort();
}

/// Reads and judges the whole manifest.
async fn judge(ctx: &Context, manifest: &mut StoredManifest, record: &BackupRecord) -> Result<Inventory> {
    let mut judge = Judge::new(record);
    let mut reader = manifest.read(ctx)?;
    ctx.progress.begin("reading the manifest", Unit::Count, record.files);
    while let Some(entry) = reader.next().await? {
        if let Step::File(_) = judge.take(entry)? {
            ctx.progress.advance(1);
        }
    }
    ctx.progress.end();
    judge.finish()
}

/// The work of writing all files, made while the manifest is read for the second time.
fn tasks(reader: ManifestReader<'_>, judge: Judge) -> impl Stream<Item = Result<Task>> {
    struct State<'a> {
        reader: ManifestReader<'a>,
        judge: Option<Judge>,
        builder: TaskBuilder,
        ready: VecDeque<Task>,
    }
    let state = State { reader, judge: Some(judge), builder: TaskBuilder::default(), ready: VecDeque::new() };
    stream::try_unfold(state, |mut state| async move {
        loop {
            if let Some(task) = state.ready.pop_front() {
                return Ok(Some((task, state)));
            }
            let Some(mut judge) = state.judge.take() else { return Ok(None) };
            if let Some(entry) = state.reader.next().await? {
                if let Step::File(file) = judge.take(entry)?
                    && !is_written_later(&file.path)
                {
                    state.ready.extend(state.builder.add(file));
                }
                state.judge = Some(judge);
            } else {
                judge.finish()?;
                state.ready.extend(state.builder.finish());
            }
        }
    })
}

/// Files that are written in another form, or last.
fn is_written_later(path: &[u8]) -> bool {
    [CONTROL, AUTO_CONF, MAP].contains(&path)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| {
        EngineError::failed(ErrorKind::Internal, format!("can't be written as JSON: {error}"))
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The command line that starts the server by hand.
pub(super) fn start_command(
    pgdata: &Path,
    owner: Option<Owner>,
    programs: Option<&Programs>,
    settings: &[(&str, String)],
) -> String {
    let user = owner.and_then(|owner| owner::user_name(Some(owner)));
    let mut words: Vec<String> = Vec::new();
    if let Some(user) = user {
        words.extend(["sudo".to_owned(), "-u".to_owned(), user]);
    }
    words.push(
        programs
            .map_or_else(|| "pg_ctl".to_owned(), |programs| shell_path(&programs.directory.join("pg_ctl"))),
    );
    words.extend(["-D".to_owned(), shell_path(pgdata), "-l".to_owned(), shell_path(&log_of(pgdata))]);
    // The configuration, or a file that it includes, may name the source's.
    let mut options = vec![format!("-c data_directory={}", shell_path(pgdata))];
    options.extend(settings.iter().map(|(name, value)| format!("-c {name}={value}")));
    words.extend(["-o".to_owned(), super::shell_word(&options.join(" ")), "start".to_owned()]);
    words.join(" ")
}
