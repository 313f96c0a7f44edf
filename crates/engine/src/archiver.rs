//! `walden wal push`: the archive_command.
//!
//! A file is checked, sealed and indexed in one pass and written with one conditional PUT; success is reported only when an
//! object with these very bytes stands in the store. Nothing is ever overwritten: what is there already is either
//! the same, which is success, or another file, which is a conflict that names both writers.

mod completed;
mod indexing;
mod left_timeline;
mod pipeline;
mod wal_file;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walden_core::index::{DamageNote, SegmentIndex, WalFlags};
use walden_core::{
    ErrorKind, IncarnationRecord, ObjectHeader, ObjectKey, ObjectKind, SegmentFacts, encode_header_frame,
    judge_archive, sha256_hex,
};
use walden_pg::{ArchiveFileName, TimelineHistory, TimelineId};
use walden_store::{
    CompressionLevel, CreateOutcome, Existing, Expected, HeaderFields, HeaderRead, SealedObject, Store,
    open_sealed,
};

use self::completed::roll_up_if_complete;
use self::indexing::Indexing;
use self::left_timeline::same_up_to_fork;
pub use self::pipeline::{
    FileIdentity, Pipeline, PipelineLimits, PipelineLoad, Pushed, STAMPS_SETTLED_AFTER, SegmentTimings,
};
use self::wal_file::{Sealed, WalFile};
use crate::authority::Authority;
use crate::catalog::HISTORY_BYTES_MAX;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// So many damaged places are told one by one.
const DAMAGE_TOLD_MAX: usize = 8;
/// A backup history file or history file is never larger.
const TEXT_BYTES_MAX: u64 = HISTORY_BYTES_MAX;

/// How a push ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushOutcome {
    /// The file is in the archive now.
    Stored,
    /// The same bytes were there already.
    AlreadyStored,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The file.
    pub name: String,
    /// How it ended.
    pub outcome: PushOutcome,
    /// Where it is.
    pub key: String,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Size of the object in bytes.
    pub stored_bytes: u64,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What is damaged in the segment: recovery will not get past it. It was archived all the same.
    pub damage: Option<PushDamage>,
}

/// Damage that was found in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushDamage {
    /// How many places are damaged.
    pub count: u64,
    /// The first of them, at most 8.
    pub places: Vec<DamageNote>,
}

impl PushDamage {
    fn of(index: &SegmentIndex) -> Option<Self> {
        index.summary.facts.flags.any(WalFlags::DAMAGED).then(|| Self {
            count: index.damage_count,
            places: index.damage.iter().take(DAMAGE_TOLD_MAX).cloned().collect(),
        })
    }
}

/// Archives files of one server. Cheap to clone.
#[derive(Clone)]
pub struct Archiver {
    ctx: Context,
    level: CompressionLevel,
    /// Whose a file is when its path does not show it.
    fallback: Option<DataDirectory>,
}

impl Archiver {
    /// An archiver that compresses at the default level.
    #[must_use]
    pub fn new(ctx: Context) -> Self {
        Self { ctx, level: CompressionLevel::DEFAULT, fallback: None }
    }

    /// The same, at another level.
    #[must_use]
    pub fn with_level(self, level: CompressionLevel) -> Self {
        Self { level, ..self }
    }

    /// The same, for files whose path does not show which data directory they belong to.
    #[must_use]
    pub fn with_data_directory(self, fallback: Option<DataDirectory>) -> Self {
        Self { fallback, ..self }
    }

    /// Archives the file at `path`, a `%p` of PostgreSQL's; relative to `current_directory`.
    ///
    /// # Errors
    /// Kind `invalid` for what PostgreSQL would not archive, `wrong_server` for what belongs elsewhere, `conflict`
    /// when other bytes stand under the name; and what reading the file and the store can give. After any error
    /// PostgreSQL keeps the file and the same push may simply be made again.
    pub async fn push(&self, path: &Path, current_directory: &Path) -> Result<PushReport> {
        let data = DataDirectory::of_wal_path(path, current_directory);
        self.push_file(&current_directory.join(path), data.as_ref().or(self.fallback.as_ref())).await
    }

    /// Archives a file that is known to belong to a data directory.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn push_from(&self, path: &Path, data: &DataDirectory) -> Result<PushReport> {
        self.push_file(path, Some(data)).await
    }

    async fn push_file(&self, path: &Path, data: Option<&DataDirectory>) -> Result<PushReport> {
        let file = WalFile::open(path)?;
        let mut authority = self.admit(&file, data).await?;
        let store = self.ctx.store.with_conditional_create(authority.conditional_create);
        let report = self.store_file(&store, &authority.record, file).await?;
        if let Ok(ArchiveFileName::History(timeline)) = report.name.parse() {
            authority.add_history(&self.ctx, timeline, &report.sha256);
        }
        Ok(report)
    }

    /// Everything that is asked before a file is read: whether it may be archived here at all.
    async fn admit(&self, file: &WalFile, data: Option<&DataDirectory>) -> Result<Authority> {
        let incarnation = file.incarnation(data)?;
        let mut authority = Authority::obtain(&self.ctx, incarnation).await?;
        judge_archive(&file.incoming(), Some(&authority.record))?;
        refuse_restored(&authority.record, data)?;
        if let Some(timeline) = file.needs_history() {
            self.ensure_history(&mut authority, timeline, &file.path, file).await?;
        }
        Ok(authority)
    }

    async fn store_file(
        &self,
        store: &Store,
        record: &IncarnationRecord,
        file: WalFile,
    ) -> Result<PushReport> {
        let started = tokio::time::Instant::now();
        let origin = Origin::of(&file);
        let indexing = Indexing::prepare(&self.ctx, record, origin.name, &origin.path)
            .filter(|_| origin.facts.is_some());
        let (sealed, indexing) = self.seal(record, file, indexing).await?;
        let Committed { report, stored_bytes } = self.commit(store, record, &origin, &sealed).await?;
        if let (Some(index), Some(indexing), Some(stored_bytes), ArchiveFileName::Segment(segment)) =
            (sealed.index, indexing, stored_bytes, origin.name)
        {
            let known = indexing.remember(&self.ctx, record.incarnation(), index, stored_bytes);
            if indexing.may_complete(segment) {
                // What is left of the push's time, so that this can't make a push late whose segment is stored.
                let left = self.ctx.store_deadline.saturating_sub(started.elapsed());
                roll_up_if_complete(&self.ctx, record, segment, known, left).await;
            }
        }
        Ok(report)
    }

    /// Writes a sealed file under its name, once, and settles what it means when the name is taken.
    async fn commit(
        &self,
        store: &Store,
        record: &IncarnationRecord,
        origin: &Origin,
        Sealed { object, index }: &Sealed,
    ) -> Result<Committed> {
        let name = origin.name;
        let key = self.ctx.layout().incarnation(record.incarnation()).archive_file(name);
        let mut stored_bytes = (object.object_bytes(), object.header().index_bytes);
        let outcome = match store.create_once(&key, object, &self.ctx.budget()).await? {
            CreateOutcome::Created => PushOutcome::Stored,
            CreateOutcome::AlreadyStored(existing) => {
                stored_bytes = existing.header().map_or(stored_bytes, stored_sizes);
                PushOutcome::AlreadyStored
            }
            CreateOutcome::Conflict(existing) => {
                let error = conflict(&key, &existing, object.header());
                let comparable = existing.header().is_some_and(|header| header.name == name.to_string());
                let Some(facts) = origin.facts.filter(|_| comparable) else { return Err(error) };
                if !same_up_to_fork(&self.ctx, store, &key, name, &origin.path, facts).await? {
                    return Err(error);
                }
                let outcome = PushOutcome::AlreadyStored;
                let report = report(name, outcome, &key, origin.bytes, object, index.as_ref());
                // Whoever left the timeline here has nothing to remember of it.
                return Ok(Committed { report, stored_bytes: None });
            }
        };
        let report = report(name, outcome, &key, origin.bytes, object, index.as_ref());
        if let Some(damage) = &report.damage {
            let place = damage.places.first();
            tracing::error!(
                segment = %name, places = damage.count, lsn = ?place.map(|place| place.lsn),
                what = place.map(|place| place.what.as_str()), "the segment is damaged, and archived as it is"
            );
        }
        Ok(Committed { report, stored_bytes: Some(stored_bytes) })
    }

    /// The writer's part of the header of a file's object.
    fn header_fields(&self, record: &IncarnationRecord, file: &WalFile) -> HeaderFields {
        HeaderFields {
            kind: object_kind(file.name),
            name: file.name.to_string(),
            server: self.ctx.server.clone(),
            incarnation: record.incarnation(),
            writer: self.ctx.writer(&file.instance()),
            wal: file.wal_identity(),
        }
    }

    /// Reads and seals a file on another thread. Should the indexer fail on what is in it, it is sealed without an index:
    /// an archive without an index is worth more than a full disk.
    async fn seal(
        &self,
        record: &IncarnationRecord,
        file: WalFile,
        indexing: Option<Indexing>,
    ) -> Result<(Sealed, Option<Indexing>)> {
        let fields = self.header_fields(record, &file);
        let (level, path, without) = (self.level, file.path.clone(), fields.clone());
        let indexes = indexing.is_some();
        let sealing = tokio::task::spawn_blocking(move || {
            let sealed = file.seal(level, fields, indexing.as_ref());
            sealed.map(|sealed| (sealed, indexing))
        });
        match sealing.await {
            Err(error) if indexes && error.is_panic() => {
                tracing::error!(path = %path.display(), "the indexer failed: the segment is archived without an index");
                let file = WalFile::open(&path)?;
                let sealing = tokio::task::spawn_blocking(move || file.seal(level, without, None));
                Ok((sealing.await.map_err(|error| internal(&error))??, None))
            }
            sealed => sealed.map_err(|error| internal(&error))?,
        }
    }

    /// A segment of a timeline above 1 is accepted only when the timeline's history is in the archive and agrees
    /// with the one beside the segment; a history that is only beside it is archived first.
    async fn ensure_history(
        &self,
        authority: &mut Authority,
        timeline: TimelineId,
        path: &Path,
        file: &WalFile,
    ) -> Result<()> {
        let name = ArchiveFileName::History(timeline);
        let beside = path.with_file_name(name.to_string());
        let local = read_if_present(&beside, TEXT_BYTES_MAX)?;
        let incarnation = authority.record.incarnation();
        if let Some(local) = &local {
            let sha256 = sha256_hex(local);
            refuse_before_fork(timeline, local, file)?;
            if authority.knows_history(timeline, &sha256) {
                return Ok(());
            }
            // Equal is success, different is a conflict, missing is filled in: exactly a push of the history.
            let store = self.ctx.store.with_conditional_create(authority.conditional_create);
            Box::pin(self.store_file(&store, &authority.record, WalFile::open(&beside)?)).await?;
            authority.add_history(&self.ctx, timeline, &sha256);
            return Ok(());
        }
        let key = self.ctx.layout().incarnation(incarnation).archive_file(name);
        match self.ctx.store.get_header(&key, &self.ctx.budget()).await? {
            HeaderRead::Found { .. } => {
                let text = name.to_string();
                let bytes = self.ctx.store.get(&key, TEXT_BYTES_MAX, &self.ctx.budget()).await?;
                let expected = Expected { name: &text, max_plain_bytes: TEXT_BYTES_MAX };
                let opened = open_sealed(&bytes, expected).map_err(|error| {
                    EngineError::failed(ErrorKind::Corrupt, format!("cannot use {key}: {error}"))
                })?;
                refuse_before_fork(timeline, &opened.plain, file)
            }
            HeaderRead::Missing => Err(EngineError::failed(
                ErrorKind::WrongServer,
                format!("{} is of timeline {timeline}, whose history is not in the archive history={name}", file.name),
            )
            .with_hint(format!(
                "archive {name} first: PostgreSQL keeps it in pg_wal, and walden init archives what it finds there"
            ))),
        }
    }
}

/// What is known of a file once it is sealed and gone.
#[derive(Debug, Clone)]
struct Origin {
    name: ArchiveFileName,
    path: PathBuf,
    bytes: u64,
    facts: Option<SegmentFacts>,
}

impl Origin {
    fn of(file: &WalFile) -> Self {
        Self { name: file.name, path: file.path.clone(), bytes: file.bytes, facts: file.facts }
    }
}

/// What [`Archiver::commit`] did.
struct Committed {
    report: PushReport,
    /// The size of the object that has the name now, and of its index frame; `None` when it holds another file.
    stored_bytes: Option<(u64, u64)>,
}

fn internal(error: &tokio::task::JoinError) -> EngineError {
    EngineError::failed(ErrorKind::Internal, error.to_string())
}

/// The size of an object and of its index frame, by its header.
fn stored_sizes(header: &ObjectHeader) -> (u64, u64) {
    let front = encode_header_frame(header).map_or(0, |frame| frame.len() as u64);
    (front + header.stored_bytes + header.index_bytes, header.index_bytes)
}

fn report(
    name: ArchiveFileName,
    outcome: PushOutcome,
    key: &ObjectKey,
    bytes: u64,
    object: &SealedObject,
    index: Option<&SegmentIndex>,
) -> PushReport {
    PushReport {
        schema: 1,
        name: name.to_string(),
        outcome,
        key: key.to_string(),
        bytes,
        stored_bytes: object.object_bytes(),
        sha256: object.header().plain_sha256.clone().unwrap_or_default(),
        damage: index.and_then(PushDamage::of),
    }
}

/// The segment must not lie before the point where its timeline began.
fn refuse_before_fork(timeline: TimelineId, history: &[u8], file: &WalFile) -> Result<()> {
    let what = || format!("{timeline}.history beside {}", file.name);
    let history = TimelineHistory::parse(timeline, history)
        .map_err(|source| EngineError::Format { what: what(), source })?;
    let (Some(facts), Some(entry)) = (file.facts, history.entries().last()) else { return Ok(()) };
    if facts.segment_size.segment_of(facts.page_address) < facts.segment_size.segment_of(entry.switch_lsn) {
        return Err(EngineError::failed(
            ErrorKind::Invalid,
            format!("{} lies before the fork of its timeline fork={}", file.name, entry.switch_lsn),
        ));
    }
    Ok(())
}

/// A restored copy has the system identifier of its source: it stays out until an operator lets it in.
fn refuse_restored(record: &IncarnationRecord, data: Option<&DataDirectory>) -> Result<()> {
    let Some(data) = data else {
        return Err(EngineError::failed(
            ErrorKind::Config,
            "whose file this is can't be seen: no data directory around it".to_owned(),
        )
        .with_hint("run it in the data directory, as PostgreSQL does, or name it with --pgdata"));
    };
    let Some(marker) = data.restored_marker()? else { return Ok(()) };
    if marker.repository_id != record.repository_id || marker.server != record.server {
        return Ok(());
    }
    Err(EngineError::failed(
        ErrorKind::WrongServer,
        format!(
            "this data directory was restored from the archive of this very server at {} server={} path={}",
            walden_core::postgres_time(marker.restored_at),
            marker.server,
            data.path().display()
        ),
    )
    .with_hint(
        "if it replaces the server for good: walden server adopt; if it is a copy: archive_mode=off, or another \
         --server",
    ))
}

fn object_kind(name: ArchiveFileName) -> ObjectKind {
    match name {
        ArchiveFileName::Segment(_) => ObjectKind::Segment,
        ArchiveFileName::Partial(_) => ObjectKind::PartialSegment,
        ArchiveFileName::BackupHistory { .. } => ObjectKind::BackupHistory,
        ArchiveFileName::History(_) => ObjectKind::TimelineHistory,
    }
}

fn conflict(key: &ObjectKey, existing: &Existing, ours: &ObjectHeader) -> EngineError {
    let name = &ours.name;
    let (theirs, hint) = match existing {
        Existing::Sealed(header) if header.name == ours.name => (
            format!("written_by={} sha256={}", header.writer, header.identity_hash().unwrap_or("unknown")),
            "two servers archive into one place, or a server went back in time: find out which of the two writers is \
             right and stop the other; the stored file was kept",
        ),
        Existing::Sealed(header) => (
            format!("it holds {:?} name={}", header.kind, header.name),
            "look at the object: it is not in its place",
        ),
        Existing::Record(_) => ("it holds a record".to_owned(), "look at the object: it is not in its place"),
        Existing::Unreadable { reason, object_bytes } => (
            format!("it is not readable reason={reason:?} object_bytes={object_bytes}"),
            "look at the object; when it is worthless, move it away and the next push will store the file",
        ),
    };
    EngineError::failed(
        ErrorKind::Conflict,
        format!(
            "another file is stored under the name {name}: {theirs}; ours: written_by={} sha256={} key={key}",
            ours.writer,
            ours.identity_hash().unwrap_or("unknown")
        ),
    )
    .with_hint(hint)
}
