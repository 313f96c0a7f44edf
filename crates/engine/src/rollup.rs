//! Rollups in the store: summaries of LOG directories of segments, and the copy of all backup records.
//!
//! Derived from other objects, and overwritten by whoever has newer ones: nothing may depend on one being there, and
//! what can't be read counts as not there.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use walden_core::index::Rollup;
use walden_core::{
    ArchiveObject, BackupId, BackupRecord, DerivedKey, ErrorKind, Incarnation, IncarnationLayout, ObjectKind,
    RecordKind, decode_envelope,
};
use walden_pg::TimelineId;
use walden_store::{
    CompressionLevel, Expected, HeaderFields, IdentityHash, Level, RetryBudget, SealedObject, open_sealed,
    seal_bytes,
};

use crate::catalog::READS_AT_ONCE;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::rebuild::DifferenceKind;
use crate::server::RECORD_BYTES_MAX;

/// Largest plain rollup read or written, in bytes.
const PLAIN_BYTES_MAX: u64 = 64 << 20;
/// Largest object of one, in bytes.
const OBJECT_BYTES_MAX: u64 = PLAIN_BYTES_MAX + (1 << 20);

/// Reads the rollup of a LOG directory; `None` when there is none that this version can use.
///
/// # Errors
/// Of the store.
pub(crate) async fn read_rollup(
    ctx: &Context,
    layout: &IncarnationLayout,
    (timeline, log): (TimelineId, u32),
    budget: &RetryBudget,
) -> Result<Option<Rollup>> {
    let key = layout.rollup(timeline, log);
    let Some(plain) = read_derived(ctx, &key, &rollup_name(timeline, log), budget).await? else {
        return Ok(None);
    };
    match Rollup::decode(&plain) {
        Ok(rollup) if rollup.timeline == timeline && rollup.log == log => Ok(Some(rollup)),
        Ok(_) => Ok(unusable(&key, "it is of another directory")),
        Err(error) => Ok(unusable(&key, &error.to_string())),
    }
}

/// Writes the rollup of a LOG directory.
///
/// # Errors
/// Of the store.
pub(crate) async fn write_rollup(
    ctx: &Context,
    layout: &IncarnationLayout,
    rollup: &Rollup,
    budget: &RetryBudget,
) -> Result<()> {
    let (timeline, log) = (rollup.timeline, rollup.log);
    let object = seal(ctx, layout, ObjectKind::Rollup, rollup_name(timeline, log), &rollup.encode())?;
    Ok(ctx.store.replace_derived(&layout.rollup(timeline, log), &object, budget).await?)
}

fn rollup_name(timeline: TimelineId, log: u32) -> String {
    format!("{}/{log:08X}/rollup", timeline.hex())
}

/// A backup's record as it stands in the store, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordCopy {
    pub(crate) id: BackupId,
    pub(crate) record: BackupRecord,
    /// The whole `backup.json`.
    pub(crate) text: Bytes,
}

impl RecordCopy {
    /// Takes the bytes of a `backup.json`; `None` when they are not a record of this incarnation.
    pub(crate) fn of(incarnation: Incarnation, text: Bytes) -> Option<Self> {
        let record: BackupRecord = decode_envelope(RecordKind::Backup, &text).ok()?;
        let id = record.id.clone();
        (record.incarnation == incarnation).then_some(Self { id, record, text })
    }
}

const BACKUPS_NAME: &str = "backup/rollup";

/// Reads the copy of all backup records, as far as it is there and readable.
///
/// # Errors
/// Of the store.
pub(crate) async fn read_backup_rollup(
    ctx: &Context,
    layout: &IncarnationLayout,
    budget: &RetryBudget,
) -> Result<Vec<RecordCopy>> {
    let plain = read_derived(ctx, &layout.backup_rollup(), BACKUPS_NAME, budget).await?.unwrap_or_default();
    let plain = Bytes::from(plain);
    let mut copies = Vec::new();
    let mut at = 0;
    for line in plain.split_inclusive(|byte| *byte == b'\n') {
        copies.extend(RecordCopy::of(layout.incarnation(), plain.slice(at..at + line.len())));
        at += line.len();
    }
    Ok(copies)
}

/// Writes the copy of all backup records.
///
/// # Errors
/// Of the store.
pub(crate) async fn write_backup_rollup(
    ctx: &Context,
    layout: &IncarnationLayout,
    copies: &[RecordCopy],
    budget: &RetryBudget,
) -> Result<()> {
    let mut sorted: Vec<&RecordCopy> = copies.iter().collect();
    sorted.sort_by(|a, b| a.id.cmp(&b.id));
    sorted.dedup_by(|a, b| a.id == b.id);
    let mut plain = Vec::new();
    for copy in sorted {
        plain.extend_from_slice(copy.text.trim_ascii_end());
        plain.push(b'\n');
    }
    let object = seal(ctx, layout, ObjectKind::BackupRollup, BACKUPS_NAME.to_owned(), &plain)?;
    Ok(ctx.store.replace_derived(&layout.backup_rollup(), &object, budget).await?)
}

/// Brings the copy of all backup records up to date: with `fresh`, a record that was just written, and what is missing
/// in it or, with `anew`, everything. Returns how many records are in it now.
///
/// # Errors
/// Of the store.
pub(crate) async fn refresh_backup_rollup(
    ctx: &Context,
    layout: &IncarnationLayout,
    fresh: Option<RecordCopy>,
    anew: bool,
) -> Result<usize> {
    let budget = ctx.listing_budget();
    let level = ctx.store.list_level(&layout.backups_prefix(), &budget).await?;
    let is_there =
        level.objects.iter().any(|object| layout.parse(&object.key) == Some(ArchiveObject::BackupRollup));
    let old = if is_there && !anew { read_backup_rollup(ctx, layout, &budget).await? } else { Vec::new() };
    let copies = collect_copies(ctx, layout, &level, old, fresh).await?;
    if is_there || !copies.is_empty() {
        write_backup_rollup(ctx, layout, &copies, &budget).await?;
    }
    Ok(copies.len())
}

/// As [`refresh_backup_rollup`] without a fresh record; writes nothing when what is there says the same. Returns also how
/// that differed.
///
/// # Errors
/// Of the store.
pub(crate) async fn renew_backup_rollup(
    ctx: &Context,
    layout: &IncarnationLayout,
    anew: bool,
) -> Result<(usize, Option<DifferenceKind>)> {
    let budget = ctx.listing_budget();
    let level = ctx.store.list_level(&layout.backups_prefix(), &budget).await?;
    let is_there =
        level.objects.iter().any(|object| layout.parse(&object.key) == Some(ArchiveObject::BackupRollup));
    let old = if is_there { read_backup_rollup(ctx, layout, &budget).await? } else { Vec::new() };
    let known = if anew { Vec::new() } else { old.clone() };
    let mut copies = collect_copies(ctx, layout, &level, known, None).await?;
    copies.sort_by(|a, b| a.id.cmp(&b.id));
    if copies == old {
        return Ok((copies.len(), None));
    }
    write_backup_rollup(ctx, layout, &copies, &budget).await?;
    let what = match (is_there, old.is_empty()) {
        (false, _) => DifferenceKind::Missing,
        (true, true) => DifferenceKind::Unusable,
        (true, false) => DifferenceKind::Different,
    };
    Ok((copies.len(), Some(what)))
}

/// The records of the backups that are listed: those that are known, and the others read.
async fn collect_copies(
    ctx: &Context,
    layout: &IncarnationLayout,
    level: &Level,
    old: Vec<RecordCopy>,
    fresh: Option<RecordCopy>,
) -> Result<Vec<RecordCopy>> {
    let budget = ctx.listing_budget();
    let mut known: BTreeMap<BackupId, RecordCopy> =
        old.into_iter().chain(fresh.clone()).map(|copy| (copy.id.clone(), copy)).collect();
    let mut copies: Vec<RecordCopy> = Vec::new();
    let mut unknown = Vec::new();
    for id in level.directories.iter().filter_map(|prefix| layout.parse_backup_prefix(prefix)) {
        match known.remove(&id) {
            Some(copy) => copies.push(copy),
            None => unknown.push(id),
        }
    }
    // A listing may be too old to show what was just written.
    copies.extend(fresh.filter(|fresh| known.contains_key(&fresh.id)));
    let reads = stream::iter(unknown).map(async |id| {
        let key = layout.backup(&id).commit();
        match ctx.store.get(&key, RECORD_BYTES_MAX, &budget).await {
            Ok(text) => Ok(RecordCopy::of(layout.incarnation(), text).filter(|copy| copy.id == id)),
            // Under way, or interrupted.
            Err(error) if error.is_object_not_found() => Ok(None),
            Err(error) => Err(EngineError::from(error)),
        }
    });
    let read: Vec<Option<RecordCopy>> = reads.buffer_unordered(READS_AT_ONCE).try_collect().await?;
    copies.extend(read.into_iter().flatten());
    Ok(copies)
}

async fn read_derived(
    ctx: &Context,
    key: &DerivedKey,
    name: &str,
    budget: &RetryBudget,
) -> Result<Option<Vec<u8>>> {
    let bytes = match ctx.store.get(key.key(), OBJECT_BYTES_MAX, budget).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_object_not_found() => return Ok(None),
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(unusable(key, &error.to_string())),
        Err(error) => return Err(error.into()),
    };
    match open_sealed(&bytes, Expected { name, max_plain_bytes: PLAIN_BYTES_MAX }) {
        Ok(opened) => Ok(Some(opened.plain)),
        Err(error) => Ok(unusable(key, &error.to_string())),
    }
}

fn unusable<T>(key: &DerivedKey, reason: &str) -> Option<T> {
    tracing::warn!(%key, reason, "a rollup can't be used: walden catalog rebuild makes it anew");
    None
}

fn seal(
    ctx: &Context,
    layout: &IncarnationLayout,
    kind: ObjectKind,
    name: String,
    plain: &[u8],
) -> Result<SealedObject> {
    if plain.len() as u64 > PLAIN_BYTES_MAX {
        let message = format!("a rollup would be too large name={name} bytes={}", plain.len());
        return Err(EngineError::failed(ErrorKind::Internal, message));
    }
    let fields = HeaderFields {
        kind,
        name,
        server: ctx.server.clone(),
        incarnation: layout.incarnation(),
        writer: ctx.writer(""),
        wal: None,
    };
    seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, plain, None)
        .map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))
}
