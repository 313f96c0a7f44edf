//! `walden wal list` and `walden wal show`: what is in the archive, by name.

use serde::Serialize;
use walden_core::{CatalogSnapshot, ErrorKind, Incarnation, ObjectHeader, ServerName};
use walden_pg::{ArchiveFileName, Lsn, SegmentId, SegmentName, TimelineId};
use walden_store::HeaderRead;

use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::server::find_incarnation;

/// Consecutive segments that are all in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalRun {
    /// The first segment.
    pub first: SegmentName,
    /// The last segment.
    pub last: SegmentName,
    /// How many.
    pub count: u64,
    /// Their bytes in the store.
    pub stored_bytes: u64,
    /// Where the first begins.
    pub start_lsn: Lsn,
    /// Where the last ends.
    pub end_lsn: Lsn,
}

/// The WAL of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineWal {
    /// The timeline.
    pub timeline: TimelineId,
    /// Whether its history file is in the archive; timeline 1 has none.
    pub history: bool,
    /// Its segments; more than one run means a gap.
    pub runs: Vec<WalRun>,
    /// Its partial segments.
    pub partials: Vec<SegmentName>,
}

/// What `walden wal list` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalListReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Segments in all.
    pub segments: u64,
    /// Their bytes in the store.
    pub stored_bytes: u64,
    /// The timelines, oldest first.
    pub timelines: Vec<TimelineWal>,
}

/// Sums up the WAL of a snapshot.
#[must_use]
pub fn wal_list(snapshot: &CatalogSnapshot) -> WalListReport {
    let size = snapshot.incarnation.segment_size;
    let (segments, stored_bytes) = snapshot.segment_totals();
    let timelines = snapshot.timelines().into_iter().map(|timeline| {
        let runs = snapshot.segments.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        TimelineWal {
            timeline,
            history: snapshot.histories.contains_key(&timeline),
            runs: runs
                .iter()
                .map(|run| WalRun {
                    first: SegmentId::new(timeline, run.first).name(size),
                    last: SegmentId::new(timeline, run.last()).name(size),
                    count: run.stored_bytes.len() as u64,
                    stored_bytes: run.stored_bytes.iter().map(|bytes| u64::from(*bytes)).sum(),
                    start_lsn: size.start_of(run.first),
                    end_lsn: size.end_of(run.last()),
                })
                .collect(),
            partials: snapshot.partials.iter().copied().filter(|name| name.timeline() == timeline).collect(),
        }
    });
    WalListReport {
        schema: 1,
        server: snapshot.incarnation.server.clone(),
        incarnation: snapshot.incarnation.incarnation(),
        segments,
        stored_bytes,
        timelines: timelines.collect(),
    }
}

/// What `walden wal show` tells of one archived file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalShowReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// Where it is in the store.
    pub key: String,
    /// Size of the object in bytes.
    pub object_bytes: u64,
    /// What its header says.
    pub header: ObjectHeader,
}

/// Reads the header of one archived file of the server's current incarnation.
///
/// # Errors
/// Kind `not_found` when the archive does not hold it; and what the store gives, `corrupt` when its header is not
/// readable.
pub async fn wal_show(ctx: &Context, name: ArchiveFileName) -> Result<WalShowReport> {
    // Reading the marker first makes "not there" a fact.
    let record = find_incarnation(ctx, None).await?;
    let key = ctx.layout().incarnation(record.incarnation()).archive_file(name);
    match ctx.store.get_header(&key, &ctx.budget()).await? {
        HeaderRead::Found { header, object_bytes } => {
            Ok(WalShowReport { schema: 1, key: key.to_string(), object_bytes, header: *header })
        }
        HeaderRead::Missing => {
            let message = format!("the archive does not hold {name} incarnation={}", record.incarnation());
            Err(EngineError::failed(ErrorKind::NotFound, message)
                .with_hint("walden wal list shows what it holds"))
        }
    }
}
