//! `walden wal push`: the archive_command.
//!
//! A file is checked, sealed in one pass and written with one conditional PUT; success is reported only when an
//! object with these very bytes stands in the store. Nothing is ever overwritten: what is there already is either
//! the same, which is success, or another file, which is a conflict that names both writers.

mod left_timeline;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use walden_core::{
    ErrorKind, Incarnation, IncarnationRecord, Incoming, ObjectHeader, ObjectKey, ObjectKind, SegmentFacts,
    WalIdentity, judge_archive, sha256_hex,
};
use walden_pg::{ArchiveFileName, SegmentHeader, TimelineHistory, TimelineId};
use walden_store::{
    CompressionLevel, CreateOutcome, Existing, Expected, HeaderFields, HeaderRead, IdentityHash, SealError,
    SealedObject, Sealer, Store, open_sealed,
};

use self::left_timeline::same_up_to_fork;
use crate::authority::Authority;
use crate::catalog::HISTORY_BYTES_MAX;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;
/// A backup history file or history file is never larger.
const TEXT_BYTES_MAX: u64 = HISTORY_BYTES_MAX;

/// How a push ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushOutcome {
    /// The file is in the archive now.
    Stored,
    /// The same bytes were there already.
    AlreadyStored,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        let incarnation = file.incarnation(data)?;
        let mut authority = Authority::obtain(&self.ctx, incarnation).await?;
        judge_archive(&file.incoming(), Some(&authority.record))?;
        refuse_restored(&authority.record, data)?;
        if let Some(timeline) = file.needs_history() {
            self.ensure_history(&mut authority, timeline, path, &file).await?;
        }
        let store = self.ctx.store.with_conditional_create(authority.conditional_create);
        let report = self.store_file(&store, incarnation, file).await?;
        if let Ok(ArchiveFileName::History(timeline)) = report.name.parse() {
            authority.add_history(&self.ctx, timeline, &report.sha256);
        }
        Ok(report)
    }

    async fn store_file(&self, store: &Store, incarnation: Incarnation, file: WalFile) -> Result<PushReport> {
        let (name, bytes) = (file.name, file.bytes);
        let key = self.ctx.layout().incarnation(incarnation).archive_file(name);
        let fields = HeaderFields {
            kind: object_kind(name),
            name: name.to_string(),
            server: self.ctx.server.clone(),
            incarnation,
            writer: self.ctx.writer(&file.instance()),
            wal: file.wal_identity(),
        };
        let (path, facts) = (file.path.clone(), file.facts);
        let level = self.level;
        let sealed = tokio::task::spawn_blocking(move || file.seal(level, fields));
        let sealed =
            sealed.await.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))??;
        let outcome = match store.create_once(&key, &sealed, &self.ctx.budget()).await? {
            CreateOutcome::Created => PushOutcome::Stored,
            CreateOutcome::AlreadyStored(_) => PushOutcome::AlreadyStored,
            CreateOutcome::Conflict(existing) => {
                let error = conflict(&key, &existing, sealed.header());
                let comparable = existing.header().is_some_and(|header| header.name == name.to_string());
                let Some(facts) = facts.filter(|_| comparable) else { return Err(error) };
                if !same_up_to_fork(&self.ctx, store, &key, name, &path, facts).await? {
                    return Err(error);
                }
                PushOutcome::AlreadyStored
            }
        };
        Ok(PushReport {
            schema: 1,
            name: name.to_string(),
            outcome,
            key: key.to_string(),
            bytes,
            stored_bytes: sealed.object_bytes(),
            sha256: sealed.header().plain_sha256.clone().unwrap_or_default(),
        })
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
            Box::pin(self.store_file(&store, incarnation, WalFile::open(&beside)?)).await?;
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
            marker.restored_at,
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

/// A file that PostgreSQL wants archived, opened and looked at.
#[derive(Debug)]
struct WalFile {
    path: PathBuf,
    file: File,
    name: ArchiveFileName,
    bytes: u64,
    modified: SystemTime,
    facts: Option<SegmentFacts>,
}

impl WalFile {
    fn open(path: &Path) -> Result<Self> {
        let text = path.file_name().unwrap_or_default().to_string_lossy();
        let name: ArchiveFileName = text.parse().map_err(|_| {
            let message = format!("not the name of a file that PostgreSQL archives name={text:?}");
            EngineError::failed(ErrorKind::Invalid, message)
                .with_hint("archive_command must pass %p: walden wal push %p")
        })?;
        let failed = |source| EngineError::local("open", path, source);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let message = format!("not a regular file path={}", path.display());
            return Err(EngineError::failed(ErrorKind::Invalid, message));
        }
        let mut opened = Self {
            path: path.to_owned(),
            file,
            name,
            bytes: metadata.len(),
            modified: metadata.modified().map_err(failed)?,
            facts: None,
        };
        if opened.name.is_segment_sized() {
            opened.facts = opened.read_facts()?;
        } else if opened.bytes > TEXT_BYTES_MAX {
            let message = format!("too large for a history file name={name} bytes={}", opened.bytes);
            return Err(EngineError::failed(ErrorKind::Invalid, message));
        }
        if let ArchiveFileName::History(timeline) = opened.name {
            opened.check_history(timeline)?;
        }
        // What the file says of itself is judged before anyone is asked about it.
        judge_archive(&opened.incoming(), None)?;
        Ok(opened)
    }

    /// A history that can't be read, or names no parent, would be kept for ever in the right one's place.
    fn check_history(&self, timeline: TimelineId) -> Result<()> {
        let bytes = read_if_present(&self.path, TEXT_BYTES_MAX)?.unwrap_or_default();
        let history = TimelineHistory::parse(timeline, &bytes)
            .map_err(|source| EngineError::Format { what: self.path.display().to_string(), source })?;
        if history.entries().is_empty() {
            let message = format!("the history file names no parent name={}", self.name);
            return Err(
                EngineError::failed(ErrorKind::Invalid, message).with_hint("it is torn: look at the disk")
            );
        }
        Ok(())
    }

    fn read_facts(&self) -> Result<Option<SegmentFacts>> {
        use std::os::unix::fs::FileExt;
        let mut page = [0; 64];
        let mut filled = 0;
        while let Some(rest) = page.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(EngineError::local("read", &self.path, source)),
            }
        }
        let Ok(header) = SegmentHeader::parse(page.get(..filled).unwrap_or_default()) else {
            return Ok(None);
        };
        Ok(Some(SegmentFacts {
            major: header.page.major,
            system_id: header.system_id,
            timeline: header.page.timeline,
            segment_size: header.segment_size,
            page_address: header.page.address,
        }))
    }

    fn incoming(&self) -> Incoming {
        Incoming { name: self.name, bytes: self.bytes, facts: self.facts }
    }

    /// Whose file it is: a segment says so itself, a history file is its data directory's.
    fn incarnation(&self, data: Option<&DataDirectory>) -> Result<Incarnation> {
        match (self.facts, data) {
            (Some(facts), _) => Ok(Incarnation { system_id: facts.system_id, major: facts.major }),
            (None, Some(data)) => data.incarnation(),
            (None, None) => Err(EngineError::failed(
                ErrorKind::Config,
                format!("whose file this is can't be seen: no data directory around it name={}", self.name),
            )
            .with_hint(
                "run it in the data directory, as PostgreSQL does, or give an absolute path into its pg_wal",
            )),
        }
    }

    /// The timeline whose history must be in the archive before this file.
    fn needs_history(&self) -> Option<TimelineId> {
        self.facts.is_some().then(|| self.name.timeline()).filter(|timeline| *timeline > TimelineId::FIRST)
    }

    fn wal_identity(&self) -> Option<WalIdentity> {
        let facts = self.facts?;
        Some(WalIdentity {
            system_id: facts.system_id,
            timeline: self.name.timeline(),
            segment_size: facts.segment_size,
            start_lsn: facts.page_address,
            end_lsn: facts.page_address.saturating_add(facts.segment_size.bytes()),
            summary: None,
        })
    }

    /// The data directory as far as the path shows it, for messages.
    fn instance(&self) -> String {
        let absolute = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.parent().and_then(Path::parent).unwrap_or(&absolute).display().to_string()
    }

    /// The name must still lead to the file that was read, and nothing may have been written to it meanwhile: a
    /// segment that PostgreSQL recycles under us becomes another one.
    fn refuse_changed(&self) -> Result<()> {
        let failed = |source| EngineError::local("look at", &self.path, source);
        let (named, read) = (self.path.metadata().map_err(failed)?, self.file.metadata().map_err(failed)?);
        let same = (named.dev(), named.ino()) == (read.dev(), read.ino());
        if same && read.len() == self.bytes && read.modified().map_err(failed)? == self.modified {
            return Ok(());
        }
        let message = format!("the file changed while it was read name={}", self.name);
        Err(EngineError::failed(ErrorKind::Invalid, message))
    }

    /// Reads the file once: hashed and compressed on the way.
    fn seal(mut self, level: CompressionLevel, fields: HeaderFields) -> Result<SealedObject> {
        let seal_failed = |error: SealError| match error {
            SealError::Length { announced, given } => EngineError::failed(
                ErrorKind::Invalid,
                format!("the file changed while it was read announced={announced} given={given}"),
            ),
            other => EngineError::failed(ErrorKind::Internal, other.to_string()),
        };
        let mut sealer = Sealer::new(level, IdentityHash::Plain).map_err(seal_failed)?;
        sealer.begin_frame(self.bytes).map_err(seal_failed)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => sealer.write(buffer.get(..read).unwrap_or_default()).map_err(seal_failed)?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(EngineError::local("read", &self.path, source)),
            }
        }
        sealer.end_frame().map_err(seal_failed)?;
        self.refuse_changed()?;
        sealer.finish(fields, None).map_err(seal_failed)
    }
}
