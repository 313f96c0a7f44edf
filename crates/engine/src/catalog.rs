//! Reading the catalog: a snapshot of one incarnation's archive from listings and small records.

use futures::{StreamExt, TryStreamExt, stream};
use walden_core::{
    ArchiveObject, BackupId, BackupRecord, CatalogSnapshot, IncarnationLayout, IncarnationRecord, ObjectKey,
    RecordKind, Stray,
};
use walden_pg::{ArchiveFileName, TimelineHistory, TimelineId};
use walden_store::{Expected, open_sealed};

use crate::context::Context;
use crate::error::Result;
use crate::server::read_record;

/// Largest history file read, in bytes: thousands of lines.
pub(crate) const HISTORY_BYTES_MAX: u64 = 16 << 20;
/// Reads of small records under way at once.
const READS_AT_ONCE: usize = 16;

/// Reads what is in the archive of an incarnation: its segments by listing, its histories and backup records by
/// reading them. Requests: one for each thousand segments, and one for each history and each backup.
///
/// Fails closed: a listing that can't be finished is an error and never a shorter archive. Objects that don't
/// belong or can't be read become strays.
///
/// # Errors
/// Of the store.
pub async fn load_snapshot(ctx: &Context, incarnation: &IncarnationRecord) -> Result<CatalogSnapshot> {
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    let mut snapshot = CatalogSnapshot::new(incarnation.clone());
    list_wal(ctx, &layout, &mut snapshot).await?;
    read_histories(ctx, &layout, &mut snapshot).await?;
    read_backups(ctx, &layout, &mut snapshot).await?;
    Ok(snapshot)
}

async fn list_wal(ctx: &Context, layout: &IncarnationLayout, snapshot: &mut CatalogSnapshot) -> Result<()> {
    let listing = ctx.store.list(&layout.wal_prefix(), &ctx.listing_budget());
    let mut listing = std::pin::pin!(listing);
    while let Some(object) = listing.try_next().await? {
        match layout.parse(&object.key) {
            Some(ArchiveObject::File(ArchiveFileName::Segment(name))) => {
                snapshot.add_segment(name, object.bytes);
            }
            Some(ArchiveObject::File(ArchiveFileName::Partial(name))) => snapshot.partials.push(name),
            Some(ArchiveObject::File(_) | ArchiveObject::Rollup { .. }) => {}
            Some(ArchiveObject::Marker | ArchiveObject::Backup(_) | ArchiveObject::BackupRollup) | None => {
                let reason = "nothing of this name belongs here".to_owned();
                snapshot.strays.push(Stray { key: object.key, reason });
            }
        }
    }
    Ok(())
}

async fn read_histories(
    ctx: &Context,
    layout: &IncarnationLayout,
    snapshot: &mut CatalogSnapshot,
) -> Result<()> {
    let listed: Vec<_> =
        ctx.store.list(&layout.history_prefix(), &ctx.listing_budget()).try_collect().await?;
    let mut wanted = Vec::new();
    for object in listed {
        match layout.parse(&object.key) {
            Some(ArchiveObject::File(ArchiveFileName::History(timeline))) => wanted.push(timeline),
            _ => snapshot.strays.push(Stray { key: object.key, reason: "not a history file".to_owned() }),
        }
    }
    let reads = stream::iter(wanted).map(async |timeline| {
        let history = read_history(ctx, layout, timeline).await;
        (timeline, history)
    });
    let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
    while let Some((timeline, history)) = reads.next().await {
        match history? {
            Ok(history) => {
                snapshot.histories.insert(timeline, history);
            }
            Err(reason) => {
                let key = layout.archive_file(ArchiveFileName::History(timeline)).to_string();
                snapshot.damaged_histories.insert(timeline, reason.clone());
                snapshot.strays.push(Stray { key, reason });
            }
        }
    }
    Ok(())
}

/// A history file, or what is wrong with it.
async fn read_history(
    ctx: &Context,
    layout: &IncarnationLayout,
    timeline: TimelineId,
) -> Result<Result<TimelineHistory, String>> {
    let name = ArchiveFileName::History(timeline);
    let bytes = ctx.store.get(&layout.archive_file(name), HISTORY_BYTES_MAX, &ctx.budget()).await?;
    let text = name.to_string();
    let plain = match open_sealed(&bytes, Expected { name: &text, max_plain_bytes: HISTORY_BYTES_MAX }) {
        Ok(opened) => opened.plain,
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(TimelineHistory::parse(timeline, &plain).map_err(|error| error.to_string()))
}

/// What a directory under `backup/` turned out to be.
enum BackupDirectory {
    Finished(Box<BackupRecord>),
    Unfinished(BackupId),
    Unreadable(BackupId, Stray),
    Stray(Stray),
}

async fn read_backups(
    ctx: &Context,
    layout: &IncarnationLayout,
    snapshot: &mut CatalogSnapshot,
) -> Result<()> {
    let level = ctx.store.list_level(&layout.backups_prefix(), &ctx.listing_budget()).await?;
    for object in level.objects {
        if layout.parse(&object.key) == Some(ArchiveObject::BackupRollup) {
            continue;
        }
        snapshot.strays.push(Stray { key: object.key, reason: "not a backup".to_owned() });
    }
    let reads = stream::iter(level.directories).map(async |prefix| read_backup(ctx, layout, prefix).await);
    let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
    while let Some(found) = reads.try_next().await? {
        match found {
            BackupDirectory::Finished(record) => snapshot.backups.push(*record),
            BackupDirectory::Unfinished(id) => snapshot.unfinished_backups.push(id),
            BackupDirectory::Unreadable(id, stray) => {
                snapshot.unreadable_backups.insert(id, stray.reason.clone());
                snapshot.strays.push(stray);
            }
            BackupDirectory::Stray(stray) => snapshot.strays.push(stray),
        }
    }
    snapshot.backups.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
    snapshot.unfinished_backups.sort();
    snapshot.strays.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(())
}

async fn read_backup(ctx: &Context, layout: &IncarnationLayout, prefix: String) -> Result<BackupDirectory> {
    let Some(id) = layout.parse_backup_prefix(&prefix) else {
        return Ok(BackupDirectory::Stray(Stray { key: prefix, reason: "not a backup".to_owned() }));
    };
    let key: ObjectKey = layout.backup(&id).commit();
    match read_record::<BackupRecord>(ctx, RecordKind::Backup, &key).await {
        Ok(Some(record)) if record.id == id && record.incarnation == layout.incarnation() => {
            Ok(BackupDirectory::Finished(Box::new(record)))
        }
        Ok(Some(record)) => {
            let reason = format!("it is the record of backup {} of {}", record.id, record.incarnation);
            Ok(BackupDirectory::Stray(Stray { key: key.to_string(), reason }))
        }
        Ok(None) => Ok(BackupDirectory::Unfinished(id)),
        Err(error @ crate::EngineError::Record { .. }) => {
            let reason = match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            };
            Ok(BackupDirectory::Unreadable(id, Stray { key: key.to_string(), reason }))
        }
        Err(error) => Err(error),
    }
}
