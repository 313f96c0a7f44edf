//! Histories and backup records.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use walden_core::{
    ArchiveObject, BackupId, BackupRecord, CatalogSnapshot, IncarnationLayout, ObjectKey, RecordKind, Stray,
};
use walden_pg::{ArchiveFileName, TimelineHistory, TimelineId};
use walden_store::{Expected, Listed, open_sealed};

use super::READS_AT_ONCE;
use super::cache::Kept;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::rollup::read_backup_rollup;
use crate::server::{READS_OF_DAMAGED, read_record};

/// Largest history file read, in bytes: thousands of lines.
pub(crate) const HISTORY_BYTES_MAX: u64 = 16 << 20;

/// The history files of an archive.
#[derive(Debug, Default)]
pub(super) struct Histories {
    good: BTreeMap<TimelineId, TimelineHistory>,
    damaged: BTreeMap<TimelineId, String>,
    strays: Vec<Stray>,
}

impl Histories {
    pub(super) fn add_to(self, snapshot: &mut CatalogSnapshot) {
        snapshot.histories.extend(self.good);
        snapshot.damaged_histories.extend(self.damaged);
        snapshot.strays.extend(self.strays);
        snapshot.strays.sort_by(|a, b| a.key.cmp(&b.key));
    }
}

/// The histories that can be read, by timeline.
///
/// # Errors
/// Of the store.
pub(crate) async fn read_all_histories(
    ctx: &Context,
    layout: &IncarnationLayout,
) -> Result<BTreeMap<TimelineId, TimelineHistory>> {
    Ok(read_histories(ctx, layout).await?.good)
}

pub(super) async fn read_histories(ctx: &Context, layout: &IncarnationLayout) -> Result<Histories> {
    let listed: Vec<_> =
        ctx.store.list(&layout.history_prefix(), &ctx.listing_budget()).try_collect().await?;
    let (mut found, mut wanted) = (Histories::default(), Vec::new());
    for object in listed {
        match layout.parse(&object.key) {
            Some(ArchiveObject::File(ArchiveFileName::History(timeline))) => wanted.push((timeline, object)),
            _ => found.strays.push(Stray { key: object.key, reason: "not a history file".to_owned() }),
        }
    }
    let kept = Kept::of(ctx);
    let kept = &kept;
    let reads = stream::iter(wanted).map(async |(timeline, object)| {
        let read = read_history(ctx, layout, timeline, kept, &object).await;
        (timeline, read)
    });
    let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
    while let Some((timeline, history)) = reads.next().await {
        match history? {
            Ok(history) => {
                found.good.insert(timeline, history);
            }
            Err(reason) => {
                let key = layout.archive_file(ArchiveFileName::History(timeline)).to_string();
                found.damaged.insert(timeline, reason.clone());
                found.strays.push(Stray { key, reason });
            }
        }
    }
    Ok(found)
}

/// A history file that was listed, or what is wrong with it. It is never changed, so it is fetched once.
async fn read_history(
    ctx: &Context,
    layout: &IncarnationLayout,
    timeline: TimelineId,
    kept: &Kept,
    listed: &Listed,
) -> Result<Result<TimelineHistory, String>> {
    if let Some(Ok(history)) = kept.get(listed).map(|bytes| parse_history(timeline, &bytes)) {
        return Ok(Ok(history));
    }
    let key = layout.archive_file(ArchiveFileName::History(timeline));
    let mut reads = 1;
    loop {
        let bytes = ctx.store.get(&key, HISTORY_BYTES_MAX, &ctx.budget()).await?;
        let history = parse_history(timeline, &bytes);
        if history.is_ok() {
            kept.put(listed, &bytes);
        } else if reads < READS_OF_DAMAGED {
            // The damage may lie on the way.
            reads += 1;
            continue;
        }
        return Ok(history);
    }
}

fn parse_history(timeline: TimelineId, bytes: &[u8]) -> Result<TimelineHistory, String> {
    let text = ArchiveFileName::History(timeline).to_string();
    let opened = open_sealed(bytes, Expected { name: &text, max_plain_bytes: HISTORY_BYTES_MAX })
        .map_err(|error| error.to_string())?;
    TimelineHistory::parse(timeline, &opened.plain).map_err(|error| error.to_string())
}

/// The backups of an archive.
#[derive(Debug, Default)]
pub(super) struct Backups {
    finished: Vec<BackupRecord>,
    unfinished: Vec<BackupId>,
    unreadable: BTreeMap<BackupId, String>,
    strays: Vec<Stray>,
}

impl Backups {
    pub(super) fn add_to(self, snapshot: &mut CatalogSnapshot) {
        snapshot.backups.extend(self.finished);
        snapshot.backups.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
        snapshot.unfinished_backups.extend(self.unfinished);
        snapshot.unfinished_backups.sort();
        snapshot.unreadable_backups.extend(self.unreadable);
        snapshot.strays.extend(self.strays);
        snapshot.strays.sort_by(|a, b| a.key.cmp(&b.key));
    }

    fn add(&mut self, found: BackupDirectory) {
        match found {
            BackupDirectory::Finished(record) => self.finished.push(*record),
            BackupDirectory::Unfinished(id) => self.unfinished.push(id),
            BackupDirectory::Unreadable(id, stray) => {
                self.unreadable.insert(id, stray.reason.clone());
                self.strays.push(stray);
            }
            BackupDirectory::Stray(stray) => self.strays.push(stray),
        }
    }
}

/// What a directory under `backup/` turned out to be.
enum BackupDirectory {
    Finished(Box<BackupRecord>),
    Unfinished(BackupId),
    Unreadable(BackupId, Stray),
    Stray(Stray),
}

/// Reads the records of all backups that are listed. `by_rollup` takes those that the backups' rollup repeats from
/// there: one request for all of them. A backup whose removal was interrupted may then still look finished.
pub(super) async fn read_backups(
    ctx: &Context,
    layout: &IncarnationLayout,
    by_rollup: bool,
) -> Result<Backups> {
    let level = ctx.store.list_level(&layout.backups_prefix(), &ctx.listing_budget()).await?;
    let mut found = Backups::default();
    let mut known = BTreeMap::new();
    for object in level.objects {
        if layout.parse(&object.key) != Some(ArchiveObject::BackupRollup) {
            found.strays.push(Stray { key: object.key, reason: "not a backup".to_owned() });
        } else if by_rollup {
            let copies = read_backup_rollup(ctx, layout, &ctx.listing_budget()).await?;
            known.extend(copies.into_iter().map(|copy| (copy.id, copy.record)));
        }
    }
    let mut unknown = Vec::new();
    for prefix in level.directories {
        match layout.parse_backup_prefix(&prefix).and_then(|id| known.remove(&id)) {
            Some(record) => found.finished.push(record),
            None => unknown.push(prefix),
        }
    }
    let reads = stream::iter(unknown).map(async |prefix| read_backup(ctx, layout, prefix).await);
    let mut reads = std::pin::pin!(reads.buffer_unordered(READS_AT_ONCE));
    while let Some(read) = reads.try_next().await? {
        found.add(read);
    }
    Ok(found)
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
        Err(error @ EngineError::Record { .. }) => {
            let reason = match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            };
            Ok(BackupDirectory::Unreadable(id, Stray { key: key.to_string(), reason }))
        }
        Err(error) => Err(error),
    }
}

/// Reads the commit record of one backup from its own place, or what is there instead into the snapshot: before a plan
/// is given, what a rollup told of its backup is looked up.
///
/// # Errors
/// Of the store.
pub async fn read_backup_record(ctx: &Context, snapshot: &mut CatalogSnapshot, id: &BackupId) -> Result<()> {
    let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
    let prefix = layout.backup(id).prefix().to_owned();
    let read = read_backup(ctx, &layout, prefix).await?;
    snapshot.backups.retain(|backup| backup.id != *id);
    let mut found = Backups::default();
    found.add(read);
    found.add_to(snapshot);
    Ok(())
}
