//! The records of segments, read from the segments themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use walden_core::index::{DamageNote, may_matter};
use walden_core::{
    CatalogSnapshot, ErrorKind, IncarnationLayout, ParameterMark, RecordSpan, RestorePointMark,
    SegmentDetail, SegmentEnd, TransactionEndMark,
};
use walden_pg::wal::decode::TransactionEnd;
use walden_pg::wal::{
    Damage, OnDamage, Payload, Record, SegmentOutcome, Stop, WalScanner, WalScannerOptions,
};
use walden_pg::{ArchiveFileName, Lsn, SegmentId, SegmentNumber, WalSegmentSize};
use walden_store::{Expected, StoreError};

use crate::context::Context;
use crate::error::{EngineError, Result};

/// Plain bytes of segments that are held at once, unless a single segment is larger.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// Segments that are fetched at once at most.
const FETCHES_MAX: u64 = 8;
/// A commit record of so many bytes names 16 million subtransactions; what is longer is judged by its beginning.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// A segment's bytes, or what is wrong with its object.
pub(crate) type Fetched = std::result::Result<Arc<Vec<u8>>, String>;

/// Reads the segments of paths, each fetched once as long as it is held.
pub(super) struct DetailReader<'a> {
    ctx: &'a Context,
    layout: IncarnationLayout,
    held: BTreeMap<SegmentId, Fetched>,
}

impl<'a> DetailReader<'a> {
    pub(super) fn new(ctx: &'a Context, snapshot: &CatalogSnapshot) -> Self {
        let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
        Self { ctx, layout, held: BTreeMap::new() }
    }

    /// Reads consecutive segments of a path in this order, the first one cold, and tells their records to the
    /// snapshot.
    pub(super) async fn read(&mut self, snapshot: &mut CatalogSnapshot, path: &[SegmentId]) -> Result<()> {
        let Some(first) = path.first() else { return Ok(()) };
        let size = snapshot.incarnation.segment_size;
        let mut options = WalScannerOptions::new(size);
        options.system_id = Some(snapshot.incarnation.system_id);
        options.major = Some(snapshot.incarnation.major);
        options.max_kept_bytes = RECORD_BYTES_MAX;
        // Damage before a backup's start is none of its recovery's business: the planner decides.
        options.on_damage = OnDamage::Resync;
        let mut scanner = WalScanner::new(options);
        let at_once = (HELD_BYTES_MAX / size.bytes()).clamp(1, FETCHES_MAX);
        for batch in path.chunks(usize::try_from(at_once).unwrap_or(1)) {
            self.hold(batch, size.bytes()).await?;
            for id in batch {
                let Some(fetched) = self.held.get(id).cloned() else { continue };
                let detail = match fetched {
                    Ok(bytes) => {
                        let (id, read_from) = (*id, first.number);
                        let scan = tokio::task::spawn_blocking(move || {
                            let detail = scan(&mut scanner, id, read_from, &bytes, size);
                            (scanner, detail)
                        });
                        let (returned, detail) = scan.await.map_err(|error| {
                            EngineError::failed(ErrorKind::Internal, format!("a scan ended early: {error}"))
                        })?;
                        scanner = returned;
                        detail?
                    }
                    Err(what) => unreadable(*id, first.number, size.start_of(id.number), what),
                };
                snapshot.add_detail(detail);
            }
        }
        Ok(())
    }

    /// Fetches what is not held yet, and lets go of the rest when that would be too much.
    async fn hold(&mut self, wanted: &[SegmentId], segment_bytes: u64) -> Result<()> {
        let missing: Vec<SegmentId> =
            wanted.iter().copied().filter(|id| !self.held.contains_key(id)).collect();
        let after = (self.held.len() + missing.len()) as u64;
        if after.saturating_mul(segment_bytes) > HELD_BYTES_MAX {
            self.held.retain(|id, _| wanted.contains(id));
        }
        let (ctx, layout) = (self.ctx, &self.layout);
        let fetches = stream::iter(missing)
            .map(async |id| Ok::<_, EngineError>((id, fetch_segment(ctx, layout, id, segment_bytes).await?)));
        let mut fetches = std::pin::pin!(fetches.buffer_unordered(usize::try_from(FETCHES_MAX).unwrap_or(1)));
        while let Some(fetched) = fetches.next().await {
            let (id, fetched) = fetched?;
            self.held.insert(id, fetched);
        }
        Ok(())
    }
}

/// Fetches a segment with its hash checked; an object that is damaged in the store is a finding and no error.
pub(crate) async fn fetch_segment(
    ctx: &Context,
    layout: &IncarnationLayout,
    id: SegmentId,
    segment_bytes: u64,
) -> Result<Fetched> {
    let Some(size) = WalSegmentSize::new(segment_bytes).ok() else {
        return Ok(Err("its size is no size of segments".to_owned()));
    };
    let name = id.name(size);
    let (text, key) = (name.to_string(), layout.archive_file(ArchiveFileName::Segment(name)));
    let expected = Expected { name: &text, max_plain_bytes: segment_bytes };
    let budget = ctx.budget_for(segment_bytes);
    match ctx.store.fetch_sealed(&key, expected, || Ok(Vec::new()), &budget).await {
        Ok(opened) => Ok(Ok(Arc::new(opened.plain))),
        Err(StoreError::Corrupt { source, .. }) if source.is_unsupported() => {
            Err(EngineError::failed(ErrorKind::Unsupported, format!("cannot read {key}: {source}")))
        }
        Err(StoreError::Corrupt { source, .. }) => Ok(Err(format!("the object is damaged: {source}"))),
        Err(StoreError::Size { reason, bytes, .. }) => {
            Ok(Err(format!("the object is damaged: {reason} bytes={bytes}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// What is told of a segment that can't be read.
fn unreadable(segment: SegmentId, read_from: SegmentNumber, lsn: Lsn, what: String) -> SegmentDetail {
    SegmentDetail { end: SegmentEnd::Damaged { lsn, what }, ..empty(segment, read_from) }
}

fn empty(segment: SegmentId, read_from: SegmentNumber) -> SegmentDetail {
    SegmentDetail {
        segment,
        read_from,
        joined: false,
        records: Vec::new(),
        ends: Vec::new(),
        restore_points: Vec::new(),
        parameters: Vec::new(),
        backup_ends: Vec::new(),
        damage: Vec::new(),
        damage_count: 0,
        end: SegmentEnd::GoesOn,
    }
}

fn scan(
    scanner: &mut WalScanner,
    id: SegmentId,
    read_from: SegmentNumber,
    bytes: &[u8],
    size: WalSegmentSize,
) -> Result<SegmentDetail> {
    let mut detail = empty(id, read_from);
    let name = id.name(size);
    let outcome = scanner
        .scan_segment(name, bytes, |record| note(&mut detail, record))
        .map_err(|source| EngineError::Format { what: name.to_string(), source })?;
    detail.joined = outcome.joined;
    detail.damage_count = outcome.damage_count + detail.damage.len() as u64;
    detail.damage.extend(outcome.damage.iter().map(note_of));
    detail.damage.sort_by_key(|damage| damage.lsn);
    detail.end = end_of(&outcome);
    Ok(detail)
}

/// Notes what a record says that decides where a recovery stops.
fn note(detail: &mut SegmentDetail, record: &Record<'_>) {
    let span = RecordSpan { start: record.lsn, end: record.end };
    detail.records.push(span);
    let payload = match record.payload() {
        Ok(payload) => payload,
        Err(fault) => {
            tracing::warn!(lsn = %record.lsn, %fault, "a record with a good checksum can't be understood");
            if may_matter(record.bytes()) {
                detail.damage.push(DamageNote { lsn: record.lsn, what: fault.to_string() });
            }
            return;
        }
    };
    let end =
        |end: TransactionEnd<'_>, commit| TransactionEndMark { span, xid: end.xid, time: end.time, commit };
    let level = |wal_level| ParameterMark { span, maxima: None, wal_level };
    match payload {
        Payload::Commit(commit) => detail.ends.push(end(commit, true)),
        Payload::Abort(abort) => detail.ends.push(end(abort, false)),
        Payload::RestorePoint(point) => detail.restore_points.push(RestorePointMark {
            span,
            name: String::from_utf8_lossy(point.name).into_owned(),
            time: point.time,
        }),
        Payload::ParameterChange(change) => detail.parameters.push(ParameterMark {
            span,
            maxima: Some(change.maxima),
            wal_level: change.wal_level,
        }),
        Payload::Checkpoint(_, checkpoint) => detail.parameters.extend(checkpoint.wal_level.map(level)),
        Payload::CheckpointRedo(wal_level) => detail.parameters.extend(wal_level.map(level)),
        Payload::EndOfRecovery(recovered) => detail.parameters.extend(recovered.wal_level.map(level)),
        Payload::BackupEnd(start) => detail.backup_ends.push((span, start)),
        _ => {}
    }
}

fn note_of(damage: &Damage) -> DamageNote {
    DamageNote { lsn: damage.lsn, what: damage.fault.to_string() }
}

fn end_of(outcome: &SegmentOutcome) -> SegmentEnd {
    match &outcome.stop {
        Stop::SegmentEnd => SegmentEnd::GoesOn,
        Stop::SwitchTail { .. } => SegmentEnd::Switched,
        Stop::ZeroTail { lsn } | Stop::RecycledTail { lsn } => SegmentEnd::Ends(*lsn),
        Stop::Truncated { lsn } => {
            SegmentEnd::Damaged { lsn: *lsn, what: "the segment is shorter than it must be".to_owned() }
        }
        Stop::Corrupt(damage) => SegmentEnd::Damaged { lsn: damage.lsn, what: damage.fault.to_string() },
        stop => SegmentEnd::Damaged {
            lsn: outcome.end.unwrap_or(Lsn::INVALID),
            what: format!("the WAL ends in a way that is not known: {stop:?}"),
        },
    }
}
