//! Level hash: every byte of one object, read and compared with the hashes that it was stored with.

use std::io::Write;
use std::sync::Arc;

use walden_core::index::{IndexError, Rollup, SegmentIndex};
use walden_core::{
    BackupRecord, CatalogSnapshot, Finding, FindingKind, FindingVerdict, IncarnationLayout, ObjectHeader,
    ObjectKey, ObjectKind, RecordKind, SealedError, Subject, VerifyInventory, decode_envelope,
};
use walden_pg::{ArchiveFileName, SegmentId, TimelineHistory};
use walden_store::{
    Expected, HeaderRead, Place, RetryBudget, StoreError, UnsealError, Unsealed, Unsealer, open_index,
};

use crate::context::Context;
use crate::server::RECORD_BYTES_MAX;

/// Largest file of PostgreSQL's other than a segment, and largest derived object, in plain bytes.
const SMALL_BYTES_MAX: u64 = 64 << 20;
/// More plain bytes than any pack has: a bound for the arithmetic; nothing is kept.
const PACK_PLAIN_BYTES_MAX: u64 = 1 << 40;

/// About as much as the object of a pack has, in bytes.
const PACK_BYTES: u64 = 32 << 20;
/// What arrives damaged is read so often before it counts as damaged in the store.
const READS_OF_DAMAGED: u32 = 3;
/// So much is handed to the decompressor at once, at least, in bytes.
const BATCH_BYTES: usize = 256 << 10;

/// What reading an object showed.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// It is what was stored; findings may tell of what does no harm to its contents.
    Good(T, Vec<Finding>),
    /// It is not.
    Bad(Finding),
    /// It was not there.
    Gone,
    /// Whether it is good is not known.
    Unknown(Finding),
}

impl<T> Seen<T> {
    /// The same about something else that was held.
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Good(held, findings) => Seen::Good(map(held), findings),
            Self::Bad(finding) => Seen::Bad(finding),
            Self::Gone => Seen::Gone,
            Self::Unknown(finding) => Seen::Unknown(finding),
        }
    }
}

/// Where objects are and what is known of them.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) layout: IncarnationLayout,
    pub(super) snapshot: Arc<CatalogSnapshot>,
    pub(super) inventory: Arc<VerifyInventory>,
}

/// An object as it must be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) key: ObjectKey,
    name: String,
    kind: ObjectKind,
    max_plain_bytes: u64,
    /// The segment, for its place in the WAL.
    segment: Option<SegmentId>,
    /// The SHA-256 of the plain bytes that another record is bound to.
    plain_sha256: Option<String>,
}

impl Objects {
    /// The record of the backup at a place of the inventory.
    pub(super) fn record(&self, backup: u32) -> Option<&BackupRecord> {
        self.snapshot.backup(self.inventory.backups.get(backup as usize)?)
    }

    /// What the object of a subject must be; `None` for what is no sealed object.
    pub(super) fn wanted(&self, subject: Subject) -> Option<Wanted> {
        let size = self.snapshot.incarnation.segment_size;
        let of_file = |file: ArchiveFileName, kind, max_plain_bytes, segment| Wanted {
            key: self.layout.archive_file(file),
            name: file.to_string(),
            kind,
            max_plain_bytes,
            segment,
            plain_sha256: None,
        };
        let of_backup = |key: ObjectKey, kind, max_plain_bytes| {
            let name = key.as_str().rsplit('/').next().unwrap_or_default().to_owned();
            Wanted { key, name, kind, max_plain_bytes, segment: None, plain_sha256: None }
        };
        Some(match subject {
            Subject::Segment(id) => {
                of_file(ArchiveFileName::Segment(id.name(size)), ObjectKind::Segment, size.bytes(), Some(id))
            }
            Subject::File(file @ ArchiveFileName::Partial(name)) => {
                of_file(file, ObjectKind::PartialSegment, size.bytes(), name.id(size).ok())
            }
            Subject::File(file @ ArchiveFileName::History(_)) => {
                of_file(file, ObjectKind::TimelineHistory, SMALL_BYTES_MAX, None)
            }
            Subject::File(file) => of_file(file, ObjectKind::BackupHistory, SMALL_BYTES_MAX, None),
            Subject::Manifest(backup) => {
                let record = self.record(backup)?;
                let key = self.layout.backup(&record.id).manifest();
                let plain_sha256 = Some(record.manifest.plain_sha256.clone());
                Wanted { plain_sha256, ..of_backup(key, ObjectKind::Manifest, record.manifest.plain_bytes) }
            }
            Subject::Names(backup) => {
                let record = self.record(backup)?;
                let plain = record.names.as_ref().map_or(SMALL_BYTES_MAX, |names| names.plain_bytes);
                let key = self.layout.backup(&record.id).names();
                let plain_sha256 = record.names.as_ref().map(|names| names.plain_sha256.clone());
                Wanted { plain_sha256, ..of_backup(key, ObjectKind::Names, plain) }
            }
            Subject::Pack(backup, number) => {
                let record = self.record(backup)?;
                of_backup(self.layout.backup(&record.id).pack(number), ObjectKind::Pack, PACK_PLAIN_BYTES_MAX)
            }
            Subject::Rollup(timeline, log) => Wanted {
                key: self.layout.rollup(timeline, log).key().clone(),
                name: format!("{}/{log:08X}/rollup", timeline.hex()),
                kind: ObjectKind::Rollup,
                max_plain_bytes: SMALL_BYTES_MAX,
                segment: None,
                plain_sha256: None,
            },
            Subject::BackupRollup => Wanted {
                key: self.layout.backup_rollup().key().clone(),
                name: "backup/rollup".to_owned(),
                kind: ObjectKind::BackupRollup,
                max_plain_bytes: SMALL_BYTES_MAX,
                segment: None,
                plain_sha256: None,
            },
            Subject::CommitRecord(_) | Subject::Part(..) => return None,
        })
    }

    /// What a finding about an object is also about.
    pub(super) fn place(&self, subject: Subject, finding: Finding) -> Finding {
        let size = self.snapshot.incarnation.segment_size;
        match subject {
            Subject::Segment(id) => finding.of_segment(id.name(size)),
            Subject::File(ArchiveFileName::Partial(name)) => finding.of_segment(name),
            other => match other.backup().and_then(|backup| self.inventory.backups.get(backup as usize)) {
                Some(id) => finding.of_backup(id),
                None => finding,
            },
        }
    }

    /// Reads an object that is not needed further.
    pub(super) async fn prove(&self, ctx: &Context, subject: Subject) -> Seen<()> {
        if let Subject::CommitRecord(backup) = subject {
            return self.prove_record(ctx, backup).await;
        }
        let Some(wanted) = self.wanted(subject) else { return Seen::Good((), Vec::new()) };
        let keeps = !matches!(subject, Subject::Segment(_) | Subject::Pack(..) | Subject::Manifest(_));
        if !keeps {
            return self.open(ctx, &wanted, std::io::sink).await.map(|_| ());
        }
        match self.open(ctx, &wanted, Vec::new).await {
            Seen::Good(opened, findings) => match understand(subject, &opened.plain) {
                Ok(()) => Seen::Good((), findings),
                Err(message) => Seen::Bad(damaged(FindingKind::RecordDamaged, &wanted.key, message)),
            },
            other => other.map(|_| ()),
        }
    }

    /// Reads a sealed object. What seems damaged is read once more before it is called so.
    pub(super) async fn open<W, D>(&self, ctx: &Context, wanted: &Wanted, mut sink: D) -> Seen<Unsealed<W>>
    where
        W: Write + Send + 'static,
        D: FnMut() -> W,
    {
        let expected = Expected { name: &wanted.name, max_plain_bytes: wanted.max_plain_bytes };
        // What the time allowed grows with: small objects may be larger than they ever are.
        let moved = match wanted.kind {
            ObjectKind::Segment | ObjectKind::PartialSegment => wanted.max_plain_bytes,
            ObjectKind::Manifest | ObjectKind::Names => wanted.max_plain_bytes.min(1 << 30),
            ObjectKind::Pack => PACK_BYTES,
            _ => 0,
        };
        let budget = || ctx.budget_for(moved);
        let (mut reads, mut fetched) =
            (1, read_strictly(ctx, &wanted.key, expected, sink(), &budget()).await);
        while reads < READS_OF_DAMAGED
            && matches!(&fetched, Err(StoreError::Corrupt { source, .. }) if !source.is_unsupported())
        {
            reads += 1;
            fetched = read_strictly(ctx, &wanted.key, expected, sink(), &budget()).await;
        }
        match fetched {
            Ok(opened) => match self.check_header(wanted, &opened.header) {
                Some(finding) => Seen::Bad(finding),
                None => {
                    let findings = index_findings(wanted, &opened);
                    Seen::Good(opened, findings)
                }
            },
            Err(error) if error.is_object_not_found() => Seen::Gone,
            Err(error) => sort_error(&wanted.key, &error),
        }
    }

    /// Looks at the header alone, for the size that it tells and for whom it belongs to.
    pub(super) async fn prove_header(&self, ctx: &Context, subject: Subject) -> Seen<()> {
        let Some(wanted) = self.wanted(subject) else { return Seen::Good((), Vec::new()) };
        let mut read = ctx.store.get_header(&wanted.key, &ctx.budget()).await;
        if matches!(&read, Err(StoreError::Corrupt { .. })) {
            read = ctx.store.get_header(&wanted.key, &ctx.budget()).await;
        }
        match read {
            Ok(HeaderRead::Missing) => Seen::Gone,
            Ok(HeaderRead::Found { header, object_bytes }) => {
                if header.name != wanted.name {
                    let message = format!("its header says that it is {}", header.name);
                    return Seen::Bad(damaged(FindingKind::WrongObject, &wanted.key, message));
                }
                if let Some(finding) = self.check_header(&wanted, &header) {
                    return Seen::Bad(finding);
                }
                let told = header.stored_bytes.saturating_add(header.index_bytes);
                if object_bytes < told {
                    let message = format!("it has {object_bytes} bytes, and its contents alone {told}");
                    return Seen::Bad(damaged(FindingKind::Truncated, &wanted.key, message));
                }
                Seen::Good((), Vec::new())
            }
            Err(error) => sort_error(&wanted.key, &error),
        }
    }

    async fn prove_record(&self, ctx: &Context, backup: u32) -> Seen<()> {
        let Some(record) = self.record(backup) else { return Seen::Good((), Vec::new()) };
        let key = self.layout.backup(&record.id).commit();
        match ctx.store.get(&key, RECORD_BYTES_MAX, &ctx.budget()).await {
            Ok(bytes) => match decode_envelope::<BackupRecord>(RecordKind::Backup, &bytes) {
                Ok(read) if read == *record => Seen::Good((), Vec::new()),
                Ok(_) => {
                    let message = "it does not say what it said a moment ago";
                    Seen::Bad(damaged(FindingKind::RecordDamaged, &key, message))
                }
                Err(error) if error.is_unknown_schema() => Seen::Unknown(unsupported(&key, &error)),
                Err(error) => Seen::Bad(damaged(FindingKind::RecordDamaged, &key, error.to_string())),
            },
            Err(error) if error.is_object_not_found() => Seen::Gone,
            Err(error) => sort_error(&key, &error),
        }
    }

    /// Whether a header is of the object that belongs here.
    fn check_header(&self, wanted: &Wanted, header: &ObjectHeader) -> Option<Finding> {
        let incarnation = self.layout.incarnation();
        if header.server != *self.layout.server() || header.incarnation != incarnation {
            let message = format!(
                "it belongs to incarnation {} of server {}, written by {}",
                header.incarnation, header.server, header.writer
            );
            return Some(damaged(FindingKind::ForeignWriter, &wanted.key, message));
        }
        if header.kind != wanted.kind {
            let message = format!("its header says that it is a {:?}", header.kind);
            return Some(damaged(FindingKind::WrongObject, &wanted.key, message));
        }
        // The contents were compared with the header's hash; whether they are the right ones the commit record says.
        if wanted.plain_sha256.is_some() && header.plain_sha256 != wanted.plain_sha256 {
            let message = "it is whole, and not the one that the backup's commit record tells of";
            return Some(damaged(FindingKind::WrongObject, &wanted.key, message));
        }
        let size = self.snapshot.incarnation.segment_size;
        let (Some(id), Some(wal)) = (wanted.segment, &header.wal) else { return None };
        if wal.system_id != incarnation.system_id {
            let message =
                format!("its WAL is of the system {}, and was written by {}", wal.system_id, header.writer);
            return Some(damaged(FindingKind::ForeignWriter, &wanted.key, message));
        }
        let fits = wal.timeline == id.timeline
            && wal.segment_size == size
            && wal.start_lsn == size.start_of(id.number)
            && (wanted.kind != ObjectKind::Segment || header.plain_bytes == size.bytes());
        (!fits).then(|| {
            let message = format!(
                "its header says that it is the WAL from {} on, timeline {}, {} bytes",
                wal.start_lsn, wal.timeline, header.plain_bytes
            );
            damaged(FindingKind::WrongObject, &wanted.key, message)
        })
    }
}

/// Reads a sealed object and compares everything that can be compared.
async fn read_strictly<W: Write + Send + 'static>(
    ctx: &Context,
    key: &ObjectKey,
    expected: Expected<'_>,
    sink: W,
    budget: &RetryBudget,
) -> Result<Unsealed<W>, StoreError> {
    let corrupt = |source| {
        let place = Place { url: ctx.store.url().to_string(), key: Some(key.to_string()) };
        StoreError::Corrupt { place, source }
    };
    let ended = |error: tokio::task::JoinError| StoreError::Internal { message: error.to_string() };
    let mut reader = ctx.store.reader(key, budget).await?;
    let mut unsealer = Unsealer::new(expected, sink).map_err(corrupt)?.strict();
    loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let Some(chunk) = reader.next_chunk().await? else { break };
            bytes += chunk.len();
            batch.push(chunk);
        }
        if batch.is_empty() {
            let finished = tokio::task::spawn_blocking(move || unsealer.finish());
            return finished.await.map_err(ended)?.map_err(corrupt);
        }
        let opened = tokio::task::spawn_blocking(move || {
            batch.iter().try_for_each(|chunk| unsealer.push(chunk)).map(|()| unsealer)
        });
        unsealer = opened.await.map_err(ended)?.map_err(corrupt)?;
    }
}

/// What is wrong with the index of an object whose contents are good.
fn index_findings<W>(wanted: &Wanted, opened: &Unsealed<W>) -> Vec<Finding> {
    match index_of(opened) {
        Err(reason) => vec![damaged(
            FindingKind::IndexDamaged,
            &wanted.key,
            format!("the contents are good, the index is damaged: {reason}"),
        )],
        Ok(Some(index)) if wanted.name != index.segment.to_string() && wanted.kind == ObjectKind::Segment => {
            vec![damaged(
                FindingKind::IndexDisagrees,
                &wanted.key,
                format!("the contents are good, the index is of segment {}", index.segment),
            )]
        }
        Ok(_) => Vec::new(),
    }
}

/// The index of an opened segment, when it has one that this version understands.
pub(super) fn index_of<W>(opened: &Unsealed<W>) -> Result<Option<SegmentIndex>, String> {
    let content = match &opened.index {
        None => return Ok(None),
        Some(Err(error)) => return Err(error.to_string()),
        Some(Ok(content)) => content,
    };
    let plain = open_index(content).map_err(|error| error.to_string())?;
    match SegmentIndex::decode(&plain) {
        Ok(index) => Ok(Some(index)),
        Err(IndexError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the plain bytes of a small object can be understood.
fn understand(subject: Subject, plain: &[u8]) -> Result<(), String> {
    match subject {
        Subject::File(ArchiveFileName::History(timeline)) => {
            TimelineHistory::parse(timeline, plain).map(|_| ()).map_err(|error| error.to_string())
        }
        Subject::Rollup(timeline, log) => match Rollup::decode(plain) {
            Ok(rollup) if rollup.timeline == timeline && rollup.log == log => Ok(()),
            Ok(rollup) => Err(format!("it tells of directory {}/{:08X}", rollup.timeline.hex(), rollup.log)),
            Err(IndexError::Unsupported { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        },
        _ => Ok(()),
    }
}

pub(super) fn damaged(kind: FindingKind, key: &ObjectKey, message: impl Into<String>) -> Finding {
    Finding::new(FindingVerdict::Damaged, kind, key.as_str(), message)
}

fn unsupported(key: &ObjectKey, error: &dyn std::fmt::Display) -> Finding {
    Finding::new(FindingVerdict::NotProven, FindingKind::Unsupported, key.as_str(), error.to_string())
}

/// Tells damage from what could not be looked at.
pub(super) fn sort_error<T>(key: &ObjectKey, error: &StoreError) -> Seen<T> {
    match error {
        StoreError::Corrupt { source, .. } if source.is_unsupported() => {
            Seen::Unknown(unsupported(key, source))
        }
        StoreError::Corrupt { source, .. } => Seen::Bad(damaged(kind_of(source), key, source.to_string())),
        StoreError::Size { reason, bytes, .. } => {
            Seen::Bad(damaged(FindingKind::SizeDiffers, key, format!("{reason} bytes={bytes}")))
        }
        error => {
            let mut message = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            Seen::Unknown(Finding::new(
                FindingVerdict::NotProven,
                FindingKind::StoreError,
                key.as_str(),
                message,
            ))
        }
    }
}

fn kind_of(error: &UnsealError) -> FindingKind {
    match error {
        UnsealError::Name { .. } => FindingKind::WrongObject,
        UnsealError::Truncated { .. } => FindingKind::Truncated,
        UnsealError::TrailingBytes { .. } => FindingKind::TrailingBytes,
        UnsealError::Frame(SealedError::Damaged { .. })
        | UnsealError::Zstd { .. }
        | UnsealError::Length { .. }
        | UnsealError::Hash { .. } => FindingKind::HashDiffers,
        UnsealError::TooLarge { .. } => FindingKind::SizeDiffers,
        UnsealError::Frame(_) | UnsealError::Write(_) => FindingKind::Unreadable,
    }
}
