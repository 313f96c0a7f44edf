//! Everything under a server's prefix, from listings alone.
//!
//! Every directory is listed object by object. Rollups say what is in segments, never that they are there; and where a
//! rollup disagrees with the listing, the segments are asked. Whatever can't be listed or read fails the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use walden_core::index::LogSummary;
use walden_core::{
    ArchiveObject, BackupId, BackupName, CatalogSnapshot, ErrorKind, FileObject, Incarnation,
    IncarnationInventory, IncarnationLayout, IncarnationRecord, Inventory, ObjectKey, Pin, PinRecord,
    RecordKind, RecordObject, RecordRole, RetentionRunRecord, ServerRecord, Stray,
};
use walden_pg::{ArchiveFileName, SegmentName, SegmentNumber};
use walden_store::{Listed, RetryBudget};

use super::uploads::open_uploads;
use crate::catalog::{READS_AT_ONCE, load_overview, read_small_objects};
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::progress::Unit;
use crate::server::{explain_absence, read_incarnation, read_record, read_server};

/// The listing of ten million objects may take this long.
const LISTING_DEADLINE: Duration = Duration::from_hours(1);
/// So many audit records are looked at for removals that were begun, the newest first.
const RUNS_READ_MAX: usize = 200;

/// What is there, and what of it could not be read.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) inventory: Inventory,
    /// What is told of the pins and audit records that can't be read.
    pub(crate) notes: Vec<String>,
}

/// What the listing of one incarnation showed beside its inventory.
struct Found {
    life: IncarnationInventory,
    /// The newest revision of each pin.
    pins: BTreeMap<BackupId, u32>,
    /// All revisions of the pins.
    pin_records: Vec<(BackupId, RecordObject)>,
    /// The audit records of what runs were about to do.
    runs: BTreeSet<BackupId>,
}

fn listing_budget(ctx: &Context) -> RetryBudget {
    RetryBudget::new(ctx.store_deadline.max(LISTING_DEADLINE))
}

/// Lists and reads what is there of the server.
///
/// # Errors
/// Kind `not_found` when the server is not there; kind `corrupt` when an incarnation has objects and no marker; and what
/// the store gives: a listing that can't be finished is an error and never a smaller archive.
pub(crate) async fn survey(ctx: &Context) -> Result<Survey> {
    let Some(server) = read_server(ctx).await? else { return Err(explain_absence(ctx, None).await) };
    let strays = strays_beside(ctx, &server).await?;
    ctx.progress.begin("listing the archive", Unit::Count, 0);
    let found = incarnations(ctx, &server).await;
    ctx.progress.end();
    let mut found = found?;
    let mut notes = Vec::new();
    let mut pins = BTreeMap::new();
    for one in &mut found {
        let layout = ctx.layout().incarnation(one.life.incarnation());
        one.life.uploads = open_uploads(ctx, &layout, &mut notes).await?;
        pins.extend(read_pins(ctx, one, &mut notes).await?);
    }
    add_leftovers(ctx, &mut found, &mut notes).await?;
    for one in &mut found {
        // What was said about a backup that is gone is history; what is said of one that is there is no record to age.
        let there = &one.life.backups;
        let gone = one.pin_records.iter().filter(|(id, _)| !there.contains_key(id));
        let gone: Vec<RecordObject> = gone.map(|(_, record)| record.clone()).collect();
        one.life.records.extend(gone);
    }
    let pinned = pins.values().filter(|pin: &&PinRecord| pin.pinned);
    let pinned =
        pinned.map(|pin| Pin { backup: pin.backup.clone(), until: pin.until, reason: pin.reason.clone() });
    let inventory = Inventory {
        server: ctx.server.clone(),
        current: server.current,
        pins: pinned.collect(),
        incarnations: found.into_iter().map(|one| one.life).collect(),
        running: Vec::new(),
        strays,
    };
    Ok(Survey { inventory, notes })
}

async fn incarnations(ctx: &Context, server: &ServerRecord) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in &server.incarnations {
        match read_incarnation(ctx, entry.incarnation).await? {
            Some(record) => found.push(incarnation(ctx, &record).await?),
            None if entry.incarnation == server.current => {
                return Err(explain_absence(ctx, Some(entry.incarnation)).await);
            }
            None => check_empty(ctx, entry.incarnation).await?,
        }
    }
    Ok(found)
}

/// An incarnation that was let in and never got its marker has nothing; anything else is not to be decided over.
async fn check_empty(ctx: &Context, incarnation: Incarnation) -> Result<()> {
    let prefix = ctx.layout().incarnation(incarnation).prefix();
    let listing = ctx.store.list(&prefix, &ctx.listing_budget());
    let mut listing = std::pin::pin!(listing);
    match listing.try_next().await? {
        None => Ok(()),
        Some(object) => {
            let message = format!(
                "an incarnation has objects and no marker incarnation={incarnation} key={}",
                object.key
            );
            Err(EngineError::failed(ErrorKind::Corrupt, message).with_hint(
                "walden init on its server writes the marker again; until then nothing is removed",
            ))
        }
    }
}

/// What lies beside the incarnations and is not known.
async fn strays_beside(ctx: &Context, server: &ServerRecord) -> Result<Vec<Stray>> {
    let layout = ctx.layout();
    let level = ctx.store.list_level(&layout.prefix(), &ctx.listing_budget()).await?;
    let known = [layout.revisions_prefix(), layout.leases_prefix()];
    let is_named =
        |incarnation: Incarnation| server.incarnations.iter().any(|entry| entry.incarnation == incarnation);
    let mut strays: Vec<Stray> = level.objects.into_iter().map(|object| stray(object.key)).collect();
    for prefix in level.directories.into_iter().filter(|prefix| !known.contains(prefix)) {
        match layout.parse_incarnation_prefix(&prefix) {
            Some(incarnation) if is_named(incarnation) => {}
            Some(_) => {
                let reason = "the server's record does not name this incarnation".to_owned();
                strays.push(Stray { key: prefix, reason });
            }
            None => strays.push(stray(prefix)),
        }
    }
    Ok(strays)
}

fn stray(key: String) -> Stray {
    Stray { key, reason: "nothing of this name belongs here".to_owned() }
}

async fn incarnation(ctx: &Context, record: &IncarnationRecord) -> Result<Found> {
    let layout = ctx.layout().incarnation(record.incarnation());
    let mut catalog = CatalogSnapshot::new(record.clone());
    // What rollups tell of the contents of segments; that they are there, the listing says.
    catalog.logs = load_overview(ctx, record).await?.logs;
    let mut found = Found {
        life: IncarnationInventory::new(catalog),
        pins: BTreeMap::new(),
        pin_records: Vec::new(),
        runs: BTreeSet::new(),
    };
    let listing = ctx.store.list(&layout.prefix(), &listing_budget(ctx));
    let mut listing = std::pin::pin!(listing);
    while let Some(object) = listing.try_next().await? {
        ctx.progress.advance(1);
        found.add(&layout, object);
    }
    found.doubt_rollups();
    read_small_objects(ctx, &layout, &mut found.life.catalog).await?;
    found.settle(&layout);
    Ok(found)
}

impl Found {
    fn add(&mut self, layout: &IncarnationLayout, object: Listed) {
        let Ok(key) = object.object_key() else {
            self.life.catalog.strays.push(stray(object.key));
            return;
        };
        let (bytes, written) = (object.bytes, Some(object.modified));
        match layout.parse(key.as_str()) {
            Some(ArchiveObject::Marker) => {}
            Some(ArchiveObject::File(ArchiveFileName::Segment(name))) => self.add_segment(name, &object),
            Some(ArchiveObject::File(ArchiveFileName::History(timeline))) => {
                self.life.histories.insert(timeline, bytes);
            }
            Some(ArchiveObject::File(name)) => {
                if let ArchiveFileName::Partial(segment) = name {
                    self.life.catalog.partials.push(segment);
                }
                self.life.files.push(FileObject { name, bytes, written });
            }
            Some(ArchiveObject::Rollup { timeline, log }) => {
                self.life.rollups.insert((timeline, log), bytes);
            }
            Some(ArchiveObject::BackupRollup) => self.life.backup_rollup = Some(bytes),
            Some(ArchiveObject::Backup(id)) => self.add_backup(layout, &id, object),
            Some(ArchiveObject::Pin { backup, revision }) => {
                let newest = self.pins.entry(backup.clone()).or_insert(revision);
                *newest = (*newest).max(revision);
                self.pin_records.push((backup, record_of(RecordRole::Pin, key, &object)));
            }
            Some(ArchiveObject::RetentionRun { id, done }) => {
                if !done {
                    self.runs.insert(id);
                }
                self.life.records.push(record_of(RecordRole::Audit, key, &object));
            }
            Some(ArchiveObject::Verification(_)) => {
                self.life.records.push(record_of(RecordRole::Verification, key, &object));
            }
            Some(ArchiveObject::Drill(_)) => {
                self.life.records.push(record_of(RecordRole::Evidence, key, &object));
            }
            None => self.life.catalog.strays.push(stray(object.key)),
        }
    }

    fn add_segment(&mut self, name: SegmentName, object: &Listed) {
        self.life.catalog.add_segment(name, object.bytes);
        if name.id(self.life.catalog.incarnation.segment_size).is_ok() {
            self.life.note_written(name.timeline(), name.log(), object.modified);
        }
    }

    fn add_backup(&mut self, layout: &IncarnationLayout, id: &BackupId, object: Listed) {
        let backup = layout.backup(id);
        if !backup.owns(&object.key) {
            self.life.catalog.strays.push(stray(object.key));
            return;
        }
        let objects = self.life.backups.entry(id.clone()).or_default();
        objects.objects += 1;
        objects.bytes += object.bytes;
        objects.newest = objects.newest.max(Some(object.modified));
        let oldest = objects.oldest.map_or(object.modified, |oldest| oldest.min(object.modified));
        objects.oldest = Some(oldest);
        if backup.commit().as_str() == object.key {
            objects.committed = Some(object.modified);
        }
    }

    /// A rollup's word on the contents of a directory counts while it tells of the objects that are listed.
    fn doubt_rollups(&mut self) {
        let catalog = &mut self.life.catalog;
        let size = catalog.incarnation.segment_size;
        let mut logs = std::mem::take(&mut catalog.logs);
        logs.retain(|(timeline, log), told| {
            let first = u64::from(*log) * size.segments_per_log();
            let end = first + size.segments_per_log();
            let (mut there, mut bytes) = (Vec::new(), 0u64);
            let runs = catalog.segments.get(timeline).map(Vec::as_slice).unwrap_or_default();
            let skip = runs.partition_point(|run| run.last().get() < first);
            for run in runs.iter().skip(skip).take_while(|run| run.first.get() < end) {
                let (from, until) = (run.first.get().max(first), (run.last().get() + 1).min(end));
                for number in from..until {
                    bytes += run.bytes_of(SegmentNumber::new(number)).map_or(0, u64::from);
                    there.push(number);
                }
            }
            told.incomplete |= !tells_of(told, &there, bytes);
            !there.is_empty()
        });
        catalog.logs = logs;
    }

    /// Brings together what the listing and the records say.
    fn settle(&mut self, layout: &IncarnationLayout) {
        let life = &mut self.life;
        // Objects that are not a backup's make no backup of their directory.
        let strays: BTreeSet<&str> = life.catalog.strays.iter().map(|stray| stray.key.as_str()).collect();
        let has_foreign = |id: &BackupId| {
            let backup = layout.backup(id);
            strays.iter().any(|key| key.starts_with(backup.prefix()))
        };
        let backups = &life.backups;
        let unfinished = life.catalog.unfinished_backups.iter();
        let unfinished = unfinished.filter(|id| backups.contains_key(*id) || !has_foreign(id));
        let unfinished: Vec<BackupId> = unfinished.cloned().collect();
        life.catalog.unfinished_backups = unfinished;
        // Damaged records and histories have groups of their own.
        life.catalog.strays.retain(|stray| {
            let known = layout.parse(&stray.key);
            let file = matches!(known, Some(ArchiveObject::File(ArchiveFileName::History(_))));
            let commit =
                matches!(known, Some(ArchiveObject::Backup(id)) if layout.backup(&id).owns(&stray.key));
            !file && !commit
        });
        life.catalog.strays.sort_by(|a, b| a.key.cmp(&b.key));
        life.catalog.strays.dedup_by(|a, b| a.key == b.key);
        life.catalog.partials.sort_unstable();
    }
}

fn record_of(role: RecordRole, key: ObjectKey, object: &Listed) -> RecordObject {
    RecordObject { role, key, bytes: object.bytes, written: Some(object.modified) }
}

/// Whether a rollup tells of these segments and of all their bytes.
fn tells_of(told: &LogSummary, there: &[u64], bytes: u64) -> bool {
    let numbers = told.present.iter().flat_map(|range| range.first.get()..=range.last().get());
    numbers.eq(there.iter().copied()) && told.object_bytes == bytes
}

/// The newest revision of each pin. One that can't be read counts as a pin without an end.
async fn read_pins(
    ctx: &Context,
    found: &Found,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<BackupId, PinRecord>> {
    let layout = ctx.layout().incarnation(found.life.incarnation());
    let reads = found.pins.iter().map(async |(backup, revision)| {
        let key = layout.pin(backup, *revision);
        (backup, *revision, read_record::<PinRecord>(ctx, RecordKind::Pin, &key).await)
    });
    let mut reads = std::pin::pin!(stream::iter(reads).buffer_unordered(READS_AT_ONCE));
    let mut pins = BTreeMap::new();
    while let Some((backup, revision, read)) = reads.next().await {
        match read {
            Ok(Some(pin)) if pin.backup == *backup && pin.revision == revision => {
                pins.insert(backup.clone(), pin);
            }
            Err(error @ EngineError::Store(_)) => return Err(error),
            Ok(_) | Err(_) => {
                notes.push(format!(
                    "the pin of backup {backup} can't be read: it is taken for one without an end"
                ));
                pins.insert(backup.clone(), unreadable_pin(ctx, backup, revision));
            }
        }
    }
    Ok(pins)
}

fn unreadable_pin(ctx: &Context, backup: &BackupId, revision: u32) -> PinRecord {
    PinRecord {
        backup: backup.clone(),
        revision,
        pinned: true,
        until: None,
        reason: "its pin can't be read".to_owned(),
        writer: ctx.writer("unknown"),
    }
}

/// Notes which backups without a commit record are what runs have left.
async fn add_leftovers(ctx: &Context, found: &mut [Found], notes: &mut Vec<String>) -> Result<()> {
    if found.iter().all(|one| one.life.catalog.unfinished_backups.is_empty()) {
        return Ok(());
    }
    let mut runs: Vec<(BackupId, ObjectKey)> = Vec::new();
    for one in found.iter() {
        let layout = ctx.layout().incarnation(one.life.incarnation());
        runs.extend(one.runs.iter().map(|id| (id.clone(), layout.retention_run(id))));
    }
    runs.sort();
    let mut begun: BTreeSet<BackupName> = BTreeSet::new();
    for (id, key) in runs.iter().rev().take(RUNS_READ_MAX) {
        match read_record::<RetentionRunRecord>(ctx, RecordKind::RetentionRun, key).await {
            Ok(Some(RetentionRunRecord::Begun(run))) => begun.extend(run.backups),
            Ok(_) => {}
            Err(error @ EngineError::Store(_)) => return Err(error),
            Err(error) => notes.push(format!("the audit record of run {id} can't be read: {error}")),
        }
    }
    for one in found {
        let incarnation = one.life.incarnation();
        let unfinished = one.life.catalog.unfinished_backups.iter();
        let left = unfinished.filter(|id| begun.contains(&BackupName { incarnation, id: (*id).clone() }));
        one.life.leftovers = left.cloned().collect();
    }
    Ok(())
}
