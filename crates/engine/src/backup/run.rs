//! One backup from its first check to its record.

use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use walden_core::{
    BackupId, BackupKind, BackupLayout, BackupRecord, BackupSource, ErrorKind, IncarnationLayout,
    ManifestEntry, ManifestHeader, ManifestTotals, ObjectKind, ObjectReference, RecordKind, Tablespace,
    Writer,
};
use walden_pg::{BackupLabel, ControlFile, Lsn, TablespaceMap};
use walden_store::{CompressionLevel, HeaderFields, SealedObject, random_number};

use super::archived::{ExpectedRecords, verify_archived};
use super::checks::{Checked, check};
use super::collect::Collected;
use super::copy::{CopyRequest, JOBS_MAX, Shared};
use super::late::{label_files, pack_late_files, read_control};
use super::lines::{LineSealer, reference};
use super::names::ServerNames;
use super::own_directory::{check_directory, prove_directory};
use super::pace::{Pace, give_way};
use super::packs::PackIdentity;
use super::pages::PageRules;
use super::postgres::{PostgresControl, ServerIdentity, StoppedBackup};
use super::reader::Checksums;
use super::report::{BackupReport, BackupRequest, BackupSeconds, Checkpoint, LABEL_BYTES_MAX};
use super::scan::{LateFile, LinkedTablespace, Scan, ScanRequest, scan};
use super::still_there::prove_stored;
use super::upload::{created, upload_packs};
use super::wait::{NeededWal, WalWait, wait_for_wal};
use crate::agent::status_of;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::progress::Unit;
use crate::rollup::{RecordCopy, refresh_backup_rollup};
use crate::server::render_record;

/// How often the session with the server is looked at while files are copied.
const SESSION_LOOK: Duration = Duration::from_secs(1);
/// How long a finished backup waits until its record is repeated in the copy of all records.
const ROLLUP_DEADLINE: Duration = Duration::from_secs(30);

/// Ends a task when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Send + 'static> Task<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    async fn join(mut self) -> Result<T> {
        (&mut self.0)
            .await
            .map_err(|error| EngineError::failed(ErrorKind::Internal, format!("a task ended: {error}")))
    }
}

/// Runs blocking work on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| EngineError::failed(ErrorKind::Internal, format!("a thread ended: {error}")))?
}

/// Ends the copying threads when the backup ends, however it ends.
struct Copying(Arc<Shared>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Names read beside the copying.
type NamesTask = Task<Result<(LineSealer, Vec<String>)>>;

/// Takes backups of one server.
#[derive(Clone)]
pub struct BackupRunner {
    ctx: Context,
    request: BackupRequest,
}

/// A backup that has begun.
struct Begun {
    id: BackupId,
    layout: BackupLayout,
    archive: IncarnationLayout,
    identity: PackIdentity,
    server: ServerIdentity,
    root: PathBuf,
    control: ControlFile,
    started_at: Timestamp,
    start_lsn: Lsn,
}

/// What copying gave.
struct Copied {
    collected: Collected,
    late: Vec<(LateFile, ManifestEntry)>,
    tablespaces: Vec<LinkedTablespace>,
    stopped: StoppedBackup,
    label: BackupLabel,
    finished_at: Timestamp,
    next_xid: u64,
    oldest_xid: Option<u64>,
    packs: u32,
    pack_bytes: u64,
    totals: ManifestTotals,
}

/// What was stored beside the packs.
struct Described {
    manifest: ObjectReference,
    names: Option<ObjectReference>,
}

impl BackupRunner {
    /// A runner for backups like `request`.
    ///
    /// # Errors
    /// Kind `config` for a number of jobs out of its range, or a label that the server would refuse or that is
    /// more than one line.
    pub fn new(ctx: &Context, request: BackupRequest) -> Result<Self> {
        let refuse = |message: String| Err(EngineError::failed(ErrorKind::Config, message));
        if !(1..=JOBS_MAX).contains(&request.jobs) {
            return refuse(format!("the number of jobs is 1 to {JOBS_MAX} jobs={}", request.jobs));
        }
        if request.label.len() > LABEL_BYTES_MAX || request.label.chars().any(char::is_control) {
            return refuse(format!("a label is one line of at most {LABEL_BYTES_MAX} bytes"));
        }
        Ok(Self { ctx: ctx.clone(), request })
    }

    /// Takes a backup over the given session; `interrupted` ends it early. The backup exists only if this returns
    /// its report: an interrupted or failed one leaves objects without a record, which are never taken for a backup.
    ///
    /// # Errors
    /// Kinds `config`, `unsupported`, `wrong_server`, `not_found` from the checks, `postgres` when the session
    /// fails or ends, `local_io` for files that can't be read, `conflict` when the archive holds another server's
    /// WAL under the names that are needed, or what was stored is gone, `unavailable` when the WAL does not arrive or
    /// the backup was interrupted; and what storing can give.
    pub async fn run<P: PostgresControl>(
        &self,
        mut postgres: P,
        interrupted: impl Future<Output = ()> + Send,
    ) -> Result<BackupReport> {
        let result = tokio::select! {
            result = self.carry_out(&mut postgres) => result,
            () = interrupted => Err(interruption()),
        };
        if result.is_err() {
            self.ctx.progress.end();
            postgres.abort().await;
        }
        result
    }

    async fn carry_out<P: PostgresControl>(&self, postgres: &mut P) -> Result<BackupReport> {
        let counters = self.ctx.store.counters();
        let mut watch = Stopwatch::start();
        let server = postgres.identify().await?;
        let checked = check(&self.ctx, &server, self.request.pgdata.as_deref()).await?;
        let (runner, mut warnings) = (self.trusting(&checked), checked.warnings.clone());
        let mut seconds = BackupSeconds { checking: watch.lap(), ..BackupSeconds::default() };

        let begun = runner.begin(postgres, server, checked).await?;
        let names = runner.read_names(postgres.names(), &begun.id);
        seconds.checkpoint = watch.lap();

        let pace = Arc::new(Pace::new(self.request.max_read_rate));
        let giving_way = runner.give_way(&begun, &pace);
        let copied = Arc::new(runner.copy(postgres, &begun, &pace, &mut warnings).await?);
        seconds.copying = watch.lap();
        drop(giving_way);
        seconds.giving_way = pace.held().as_secs_f64();

        let described = runner.describe(&begun, &copied, names, &mut warnings).await?;
        seconds.finishing = watch.lap();

        let wal = runner.wait(postgres, &begun, &copied).await?;
        seconds.waiting = watch.lap();

        let record = runner.commit(&begun, &copied, described).await?;
        warnings.extend(copied.checksum_warning());
        seconds.finishing += watch.lap();
        seconds.total = watch.total();
        Ok(BackupReport {
            schema: 1,
            bytes_per_second: rate(record.bytes, seconds.copying),
            stored_bytes_per_second: rate(copied.pack_bytes, seconds.copying),
            backup: record,
            seconds,
            wal,
            vanished_files: copied.collected.vanished,
            warnings,
            store: runner.ctx.store.counters().since(&counters),
        })
    }

    /// The same runner with a store that is trusted as far as the repository says.
    fn trusting(&self, checked: &Checked) -> Self {
        let store = self.ctx.store.with_conditional_create(checked.authority.conditional_create);
        Self { ctx: Context { store, ..self.ctx.clone() }, request: self.request.clone() }
    }

    /// Starts the backup in the server.
    async fn begin<P: PostgresControl>(
        &self,
        postgres: &mut P,
        server: ServerIdentity,
        checked: Checked,
    ) -> Result<Begun> {
        let root = checked.data.path().to_owned();
        let writer: Writer = self.ctx.writer(&root.display().to_string());
        let incarnation = checked.authority.record.incarnation();
        let archive = self.ctx.layout().incarnation(incarnation);
        let id = BackupId::new(self.ctx.clock.now(), salt());
        prove_directory(postgres, &server, &checked.data).await?;
        self.ctx.progress.begin("checkpoint", Unit::Count, 0);
        let started_at = postgres.now().await?;
        let fast = self.request.checkpoint == Checkpoint::Fast;
        let start_lsn = postgres.start_backup(&self.request.label, fast).await?;
        self.ctx.progress.end();
        check_directory(&checked.data, start_lsn)?;
        tracing::info!(%id, %start_lsn, "backup started");
        Ok(Begun {
            layout: archive.backup(&id),
            identity: PackIdentity { server: self.ctx.server.clone(), incarnation, writer },
            id,
            archive,
            server,
            root,
            control: checked.control,
            started_at,
            start_lsn,
        })
    }

    /// Begins to read the names, so that they are of the time of the start.
    fn read_names(&self, names: Option<ServerNames>, id: &BackupId) -> Option<NamesTask> {
        let (level, id) = (self.request.level, id.clone());
        names.map(|names| {
            Task::spawn(async move {
                let mut lines = LineSealer::new(level)?;
                let warnings = names.read(&id, &mut lines).await?;
                Ok((lines, warnings))
            })
        })
    }

    /// Copies the data directory and ends the backup in the server.
    async fn copy<P: PostgresControl>(
        &self,
        postgres: &mut P,
        begun: &Begun,
        pace: &Arc<Pace>,
        warnings: &mut Vec<String>,
    ) -> Result<Copied> {
        let scanned = self.scan(begun, warnings).await?;
        let tablespaces = scanned.tablespaces.clone();
        self.ctx.progress.begin("copying", Unit::Bytes, scanned.bytes);
        let request = CopyRequest {
            scan: Arc::new(scanned),
            root: begun.root.clone(),
            checksums: begun.checksums(),
            level: self.request.level,
            progress: Arc::clone(&self.ctx.progress),
            pace: Arc::clone(pace),
        };
        let (shared, full) = Shared::new(request, self.request.jobs)?;
        let copying = Copying(Arc::clone(&shared));
        let uploads = Task::spawn(upload_packs(
            self.ctx.clone(),
            begun.layout.clone(),
            begun.identity.clone(),
            full,
            Arc::clone(&shared),
        ));
        copy_files(&shared, self.request.jobs, postgres).await?;
        let collected = shared.collector.finish()?.filter(Collected::has_places_for_all);
        let collected = collected.ok_or_else(|| {
            EngineError::failed(
                ErrorKind::Internal,
                "the manifest of the backup is not complete after copying",
            )
        })?;

        let root = begun.root.clone();
        let control = blocking(move || read_control(&root)).await?;
        let stopped = postgres.stop_backup().await?;
        let finished_at = postgres.now().await?;
        // Before the next one is asked for: whatever begins between the two lies between them.
        let oldest_xid = postgres.oldest_xid().await.ok();
        let next_xid = postgres.next_xid().await?;
        let label = begun.check_label(&stopped)?;
        let mut files = label_files(&stopped, control.mode, finished_at);
        files.push(control);
        let late_bytes: u64 = files.iter().map(|file| file.contents.len() as u64).sum();
        let late_shared = Arc::clone(&shared);
        let level = self.request.level;
        let (late, packs) = blocking(move || {
            let late = pack_late_files(&late_shared, level, &files)?;
            let packs = late_shared.packs.finish().unwrap_or_default();
            Ok((late, packs))
        })
        .await?;
        let pack_bytes = uploads.join().await?;
        if let Some(error) = shared.take_error() {
            return Err(error);
        }
        drop(copying);
        self.ctx.progress.end();
        let mut totals = collected.totals.clone();
        totals.files += late.len() as u64;
        totals.bytes += late_bytes;
        Ok(Copied {
            collected,
            late,
            tablespaces,
            stopped,
            label,
            finished_at,
            next_xid,
            oldest_xid,
            packs,
            pack_bytes,
            totals,
        })
    }

    /// Holds the readers up while the agent of the same data directory has too much to do.
    fn give_way(&self, begun: &Begun, pace: &Arc<Pace>) -> Option<Task<()>> {
        let data = DataDirectory::open(&begun.root).ok()?;
        let (ctx, progress) = (self.ctx.clone(), Arc::clone(&self.ctx.progress));
        Some(Task::spawn(give_way(Arc::clone(pace), progress, move || status_of(&ctx, &data))))
    }

    async fn scan(&self, begun: &Begun, warnings: &mut Vec<String>) -> Result<Scan> {
        self.ctx.progress.begin("looking through files", Unit::Count, 0);
        let request = begun.scan_request();
        let mut scanned = blocking(move || scan(&request)).await?;
        self.ctx.progress.end();
        warnings.append(&mut scanned.warnings);
        if scanned.more_warnings > 0 {
            warnings.push(format!("and {} more of these", scanned.more_warnings));
        }
        for tablespace in &mut scanned.tablespaces {
            if tablespace.target.is_relative() {
                tablespace.target = begun.root.join("pg_tblspc").join(&tablespace.target);
            }
            if tablespace.target.to_str().is_none() {
                return Err(EngineError::failed(
                    ErrorKind::Unsupported,
                    format!("the path of a tablespace is not UTF-8 oid={}", tablespace.oid),
                ));
            }
        }
        Ok(scanned)
    }

    /// Stores the manifest and the names.
    async fn describe(
        &self,
        begun: &Begun,
        copied: &Arc<Copied>,
        names: Option<NamesTask>,
        warnings: &mut Vec<String>,
    ) -> Result<Described> {
        self.ctx.progress.begin("finishing", Unit::Count, 0);
        let header = begun.manifest_header();
        let fields = begun.fields(ObjectKind::Manifest, "manifest.zst");
        let (level, sealing) = (self.request.level, Arc::clone(copied));
        let sealed = blocking(move || seal_manifest(header, &sealing, level, fields)).await?;
        let manifest = self.store(&begun.layout.manifest(), &sealed).await?;
        drop(sealed);
        let names = match names {
            None => None,
            Some(task) => match task.join().await? {
                Ok((lines, mut unread)) => {
                    warnings.append(&mut unread);
                    let sealed = lines.finish(begun.fields(ObjectKind::Names, "names.zst"))?;
                    Some(self.store(&begun.layout.names(), &sealed).await?)
                }
                Err(error) => {
                    tracing::warn!(%error, "the names of databases and tables are not in the backup");
                    warnings
                        .push(format!("the names of databases and tables are not in the backup: {error}"));
                    None
                }
            },
        };
        self.ctx.progress.end();
        Ok(Described { manifest, names })
    }

    async fn store(&self, key: &walden_core::ObjectKey, sealed: &SealedObject) -> Result<ObjectReference> {
        let budget = self.ctx.budget_for(sealed.object_bytes());
        created(key, &self.ctx.store.create_once(key, sealed, &budget).await?)?;
        Ok(reference(sealed))
    }

    async fn wait<P: PostgresControl>(
        &self,
        postgres: &mut P,
        begun: &Begun,
        copied: &Copied,
    ) -> Result<WalWait> {
        let needed = NeededWal {
            timeline: copied.timeline(),
            segment_size: begun.control.wal_segment_size,
            start_lsn: begun.start_lsn,
            stop_lsn: copied.stopped.lsn,
        };
        let timeout = self.request.wal_timeout;
        let waited = wait_for_wal(&self.ctx, &begun.archive, needed, timeout, postgres).await?;
        let expected = ExpectedRecords {
            wal: needed,
            incarnation: begun.identity.incarnation,
            checkpoint_lsn: copied.label.checkpoint_lsn,
        };
        self.ctx.progress.begin("looking into the archived WAL", Unit::Count, 0);
        verify_archived(&self.ctx, &begun.archive, expected).await?;
        self.ctx.progress.end();
        Ok(waited)
    }

    /// Writes the record: from here on the backup exists.
    async fn commit(&self, begun: &Begun, copied: &Copied, described: Described) -> Result<BackupRecord> {
        let names_bytes = described.names.as_ref().map_or(0, |names| names.object_bytes);
        let mut settings = begun.server.settings.clone();
        settings.data_checksums = begun.control.has_data_checksums();
        let record = BackupRecord {
            id: begun.id.clone(),
            kind: BackupKind::Full,
            parent: None,
            server: self.ctx.server.clone(),
            incarnation: begun.identity.incarnation,
            source: BackupSource::Primary,
            label: self.request.label.clone(),
            timeline: copied.timeline(),
            stop_timeline: copied.timeline(),
            start_lsn: begun.start_lsn,
            checkpoint_lsn: copied.label.checkpoint_lsn,
            stop_lsn: copied.stopped.lsn,
            next_xid: copied.next_xid,
            oldest_xid: copied.oldest_xid,
            segment_size: begun.control.wal_segment_size,
            started_at: begun.started_at,
            finished_at: copied.finished_at,
            bytes: copied.totals.bytes,
            stored_bytes: copied.pack_bytes + described.manifest.object_bytes + names_bytes,
            files: copied.totals.files,
            packs: copied.packs,
            manifest: described.manifest,
            names: described.names,
            tablespaces: copied.tablespaces(&begun.control)?,
            settings,
            checksum_failures: copied.collected.failures.clone(),
            requires: Vec::new(),
            writer: self.ctx.writer(&begun.root.display().to_string()),
        };
        prove_stored(&self.ctx, &begun.layout, record.packs, record.names.is_some()).await?;
        let key = begun.layout.commit();
        let bytes = render_record(RecordKind::Backup, &key, &record)?;
        created(&key, &self.ctx.store.create_record_once(&key, &bytes, &self.ctx.budget()).await?)?;
        tracing::info!(id = %record.id, bytes = record.bytes, stored_bytes = record.stored_bytes, "backup finished");
        self.repeat_record(begun, bytes).await;
        Ok(record)
    }

    /// Adds the record to the copy of all records, so that they can be read at once. The backup exists by now, and needs no
    /// copy: a failure is only told.
    async fn repeat_record(&self, begun: &Begun, record: Bytes) {
        let copy = RecordCopy::of(begun.identity.incarnation, record);
        let refreshed = refresh_backup_rollup(&self.ctx, &begun.archive, copy, false);
        match tokio::time::timeout(ROLLUP_DEADLINE, refreshed).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the copy of all backup records was not written"),
            Err(_) => tracing::warn!("the copy of all backup records was not written in time"),
        }
    }
}

/// The error of a backup that the caller ended.
pub(super) fn interruption() -> EngineError {
    EngineError::failed(
        ErrorKind::Unavailable,
        "the backup was interrupted; what it stored is no backup and is listed as unfinished",
    )
}

/// Reads and packs all files; ends early when something fails or the session with the server ends.
async fn copy_files<P: PostgresControl>(shared: &Arc<Shared>, jobs: usize, postgres: &mut P) -> Result<()> {
    let threads = shared.start(jobs)?;
    let mut joined =
        tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    let mut look = tokio::time::interval(SESSION_LOOK);
    let sound = loop {
        tokio::select! {
            sound = &mut joined => break sound.unwrap_or(false),
            _ = look.tick() => {
                if postgres.is_closed() {
                    shared.fail(EngineError::Postgres {
                        action: "go on with the backup",
                        message: "the session with the server ended, which aborts the backup".to_owned(),
                        source: None,
                    });
                }
            }
        }
    };
    match shared.take_error() {
        Some(error) => Err(error),
        None if !sound => Err(EngineError::failed(ErrorKind::Internal, "a copying thread panicked")),
        None => Ok(()),
    }
}

fn seal_manifest(
    header: ManifestHeader,
    copied: &Copied,
    level: CompressionLevel,
    fields: HeaderFields,
) -> Result<SealedObject> {
    let mut lines = LineSealer::new(level)?;
    lines.push(&ManifestEntry::Header(header))?;
    copied.collected.each_block(&copied.late, |block| lines.push_rendered(block))?;
    lines.push(&ManifestEntry::Totals(copied.totals.clone()))?;
    lines.finish(fields)
}

impl Begun {
    fn scan_request(&self) -> ScanRequest {
        // A relative path is relative to the data directory.
        let statistics = self.server.stats_temp_directory.as_deref().map(PathBuf::from);
        let inside = statistics.and_then(|path| match path.strip_prefix(&self.root) {
            Ok(inside) => Some(inside.to_owned()),
            Err(_) => path.is_relative().then_some(path),
        });
        ScanRequest {
            root: self.root.clone(),
            tablespace_directory: self.control.tablespace_directory(),
            statistics_directory: inside.and_then(|path| path.to_str().map(str::to_owned)),
        }
    }

    fn checksums(&self) -> Option<Checksums> {
        let page_bytes = usize::try_from(self.control.block_size).unwrap_or(8192);
        self.control.has_data_checksums().then_some(Checksums {
            rules: PageRules { page_bytes, start_lsn: self.start_lsn },
            relation_segment_blocks: self.control.relation_segment_blocks,
        })
    }

    /// Reads the label, which must be of the backup that was begun.
    fn check_label(&self, stopped: &StoppedBackup) -> Result<BackupLabel> {
        let label = BackupLabel::parse(&stopped.label)
            .map_err(|source| EngineError::Format { what: "backup_label".to_owned(), source })?;
        if label.start_lsn != self.start_lsn || stopped.lsn <= self.start_lsn {
            return Err(EngineError::failed(
                ErrorKind::Postgres,
                format!(
                    "the server's backup_label is not of this backup start={} label={} stop={}",
                    self.start_lsn, label.start_lsn, stopped.lsn
                ),
            ));
        }
        Ok(label)
    }

    fn manifest_header(&self) -> ManifestHeader {
        let metadata = std::fs::metadata(&self.root).ok();
        let user = metadata.as_ref().and_then(|metadata| {
            nix::unistd::User::from_uid(metadata.uid().into()).ok().flatten().map(|user| user.name)
        });
        let group = metadata.as_ref().and_then(|metadata| {
            nix::unistd::Group::from_gid(metadata.gid().into()).ok().flatten().map(|group| group.name)
        });
        ManifestHeader { schema: 1, backup: self.id.clone(), user, group }
    }

    fn fields(&self, kind: ObjectKind, name: &str) -> HeaderFields {
        HeaderFields {
            kind,
            name: name.to_owned(),
            server: self.identity.server.clone(),
            incarnation: self.identity.incarnation,
            writer: self.identity.writer.clone(),
            wal: None,
        }
    }
}

impl Copied {
    fn timeline(&self) -> walden_pg::TimelineId {
        self.label.start_timeline.unwrap_or_else(|| self.label.start_segment.timeline())
    }

    /// What a person should know about the pages.
    fn checksum_warning(&self) -> Option<String> {
        let files = self.collected.failures.len() as u64 + self.collected.more_failures;
        let listed = self.collected.failures.len();
        (files > 0).then(|| {
            format!("page checksums are wrong in {files} files, of which {listed} are listed with the backup: look at the disk")
        })
    }

    /// The tablespaces outside of the data directory: those whose files are in the backup, and those of the
    /// server's map. One that was made between the start and the walk is in no map.
    fn tablespaces(&self, control: &ControlFile) -> Result<Vec<Tablespace>> {
        let map = TablespaceMap::parse(&self.stopped.tablespace_map, control.major)
            .map_err(|source| EngineError::Format { what: "tablespace_map".to_owned(), source })?;
        let mut all = std::collections::BTreeMap::new();
        for (oid, path) in map.entries() {
            all.insert(oid.get(), path.to_string_lossy().into_owned());
        }
        for tablespace in &self.tablespaces {
            all.insert(tablespace.oid, tablespace.target.to_string_lossy().into_owned());
        }
        Ok(all.into_iter().map(|(oid, path)| Tablespace { oid, path }).collect())
    }
}

/// Times the phases.
struct Stopwatch {
    start: Instant,
    lap: Instant,
}

impl Stopwatch {
    fn start() -> Self {
        let now = Instant::now();
        Self { start: now, lap: now }
    }

    /// Seconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(self.lap).as_secs_f64();
        self.lap = now;
        lap
    }

    fn total(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a figure for people, and floats saturate"
)]
fn rate(bytes: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 }
}

/// Four digits that keep two backups of one second apart.
fn salt() -> u16 {
    u16::try_from(random_number() & 0xFFFF).unwrap_or_default()
}
