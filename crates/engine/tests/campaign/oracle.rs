//! What must hold when nothing goes wrong any more.

use std::collections::BTreeMap;
use std::path::PathBuf;

use walden_core::{
    BackupRecord, CatalogSnapshot, IncarnationRecord, RecordKind, RecoveryAction, RecoveryRates,
    RecoveryRequest, RecoveryTarget, TargetTimeline, decode_envelope,
};
use walden_engine::restore::{ArchiveMode, RestoreRequest, execute};
use walden_engine::{Context, RebuildRequest, find_incarnation, index_rebuild, load_snapshot, plan};
use walden_pg::{ArchiveFileName, SegmentId, SegmentName};
use walden_store::{Expected, open_sealed};
use walden_testkit::simulation::{ActorId, Effect};

use crate::actors::fetch_one;
use crate::keeping::{Restorable, commits_in, compare, pinned_are_there, restorable};
use crate::wal::{Commit, SIZE};
use crate::world::{Dice, Host, World};

/// The whole inquiry; what is found is told to the model.
pub(crate) async fn inquire(world: &World, before: Option<&Restorable>) {
    let actor = world.actor();
    let host = world.host("oracle", None);
    every_promise_is_kept(world, &host, actor).await;
    no_object_was_replaced(world);
    let ctx = world.context(&host, actor);
    let record = match find_incarnation(&ctx, None).await {
        Ok(record) => record,
        Err(error) => return world.model.broken(format!("the incarnation can't be found: {error}")),
    };
    every_object_is_sound(world, &record);
    let backups = all_backups(world, &record);
    for backup in &backups {
        backup_is_whole(world, &ctx, &record, backup);
    }
    pinned_are_there(world, &backups);
    if let Some(before) = before {
        compare(world, before, &restorable(world, &backups));
    }
    catalog_survives_a_rebuild(world, &ctx, &record).await;
    for (number, backup) in backups.iter().enumerate() {
        backup_can_be_planned(world, &ctx, &record, backup, number).await;
    }
}

async fn every_promise_is_kept(world: &World, host: &Host, actor: ActorId) {
    for name in world.model.all_acked().keys() {
        if !world.was_removed(name) && fetch_one(world, host, actor, name).await.is_none() {
            world
                .model
                .broken(format!("an acknowledged file can't be fetched although nothing fails name={name}"));
        }
    }
    if fetch_one(world, host, actor, "0000000900000000000000EE").await != Some(false) {
        world.model.broken("what was never there is not absent although nothing fails".to_owned());
    }
}

/// Only what is derived may be overwritten, and only what is a probe's may be removed, besides what retention removes.
fn no_object_was_replaced(world: &World) {
    let removers = world.removers.lock().unwrap().clone();
    let enforced = world.cast.conditional == walden_testkit::simulation::ConditionalPuts::Enforced;
    for effect in world.stage.effects() {
        match effect {
            Effect::Overwritten { key, before, after } => {
                let derived = key.ends_with("/rollup") || key.contains("/probe/");
                // Elsewhere a repetition after a crash may replace what is the same but for who wrote it, and when.
                let same = || {
                    let plain = (plain(&before), plain(&after));
                    key.contains(".json") || (plain.0.is_some() && plain.0 == plain.1)
                };
                if !derived && before != after && (enforced || !same()) {
                    world.model.broken(format!("an object was overwritten key={key}"));
                }
            }
            // What is derived may be made anew from the rest at any time.
            Effect::Removed { key, by, .. }
                if !key.contains("/probe/") && !key.ends_with("/rollup") && !removers.contains(&by) =>
            {
                world.model.broken(format!("an object was removed key={key}"));
            }
            Effect::Created { .. } | Effect::Removed { .. } => {}
        }
    }
}

/// What a sealed object holds.
fn plain(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, _) = walden_core::decode_header_frame(bytes).ok()?;
    let expected = Expected { name: &header.name, max_plain_bytes: 1 << 30 };
    open_sealed(bytes, expected).ok().map(|opened| opened.plain)
}

/// Every object in the archive is what its name says, and can be opened.
fn every_object_is_sound(world: &World, record: &IncarnationRecord) {
    let layout = walden_core::ServerLayout::new(record.server.clone()).incarnation(record.incarnation());
    for (key, stored) in world.stage.objects() {
        let Some(key) = key.strip_prefix("prefix/") else { continue };
        if !key.starts_with(&layout.prefix()) {
            continue;
        }
        if layout.parse(key).is_none() && !key.contains("/probe/") {
            world.model.broken(format!("an object has no meaning key={key}"));
        }
        if key.contains(".zst") && plain(&stored.bytes).is_none() && !key.contains("/pack/") {
            world.model.broken(format!("an object can't be opened key={key}"));
        }
    }
}

/// Every commit record in the store, whoever was told of it; all that the model knows are among them.
pub(crate) fn all_backups(world: &World, record: &IncarnationRecord) -> Vec<BackupRecord> {
    let layout = walden_core::ServerLayout::new(record.server.clone()).incarnation(record.incarnation());
    let objects = world.stage.objects();
    let (removals, removers) = (world.stage.removals(), world.removers.lock().unwrap().clone());
    let mut backups = Vec::new();
    for (key, stored) in &objects {
        if key.starts_with(&format!("prefix/{}backup/", layout.prefix())) && key.ends_with("/backup.json") {
            match decode_envelope::<BackupRecord>(RecordKind::Backup, &stored.bytes) {
                Ok(backup) => backups.push(backup),
                Err(error) => world.model.broken(format!("a backup's record is damaged key={key}: {error}")),
            }
        }
    }
    for promised in world.model.backups() {
        let key = format!("prefix/{}", layout.backup(&promised.id).commit());
        let removed = removals.iter().any(|(gone, by)| *gone == key && removers.contains(by));
        if !backups.contains(&promised) && !removed {
            world.model.broken(format!("a committed backup is not there or another id={}", promised.id));
        }
    }
    backups
}

/// All that a backup consists of is there: packs, manifest, and the WAL from its start to its stop.
fn backup_is_whole(world: &World, ctx: &Context, record: &IncarnationRecord, backup: &BackupRecord) {
    let archive = ctx.layout().incarnation(record.incarnation());
    let layout = archive.backup(&backup.id);
    let objects = world.stage.objects();
    let is_there = |key: &walden_core::ObjectKey| objects.contains_key(&format!("prefix/{key}"));
    let mut needed = vec![layout.manifest()];
    needed.extend((0..backup.packs).map(|number| layout.pack(number)));
    let last = SIZE.last_segment_before(backup.stop_lsn);
    let mut number = SIZE.segment_of(backup.start_lsn);
    while number <= last {
        let name = SegmentId::new(backup.timeline, number).name(SIZE);
        needed.push(archive.archive_file(ArchiveFileName::Segment(name)));
        number = number.next();
    }
    for key in needed.iter().filter(|key| !is_there(key)) {
        world.model.broken(format!("a committed backup lacks an object id={} key={key}", backup.id));
    }
}

/// What a reader of the catalog knows, in a form that can be compared.
fn known(snapshot: &CatalogSnapshot) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        snapshot.segments,
        snapshot.histories,
        snapshot.partials,
        snapshot.backups,
        snapshot.unfinished_backups,
        snapshot.strays
    )
}

async fn catalog_survives_a_rebuild(world: &World, ctx: &Context, record: &IncarnationRecord) {
    let read = async || load_snapshot(ctx, record).await;
    let before = match read().await {
        Ok(before) => before,
        Err(error) => return world.model.broken(format!("the catalog can't be read: {error}")),
    };
    for name in world.model.all_acked().keys() {
        let id = name.parse::<SegmentName>().ok().and_then(|name| name.id(SIZE).ok());
        if id.is_some_and(|id| !before.has_segment(id)) && !world.was_removed(name) {
            world.model.broken(format!("the catalog lacks an acknowledged segment name={name}"));
        }
    }
    if !before.strays.is_empty() || !before.unreadable_backups.is_empty() {
        world.model.broken(format!("the catalog finds damage: {}", known(&before)));
    }
    if let Err(error) = index_rebuild(ctx, record, RebuildRequest { timeline: None, all: true }).await {
        return world.model.broken(format!("the rollups can't be made: {error}"));
    }
    match read().await {
        Ok(after) if known(&after) == known(&before) => {}
        Ok(after) => {
            world.model.broken(format!(
                "a rebuild changed the catalog: {} {}",
                known(&before),
                known(&after)
            ));
        }
        Err(error) => world.model.broken(format!("the catalog can't be read after a rebuild: {error}")),
    }
}

/// The commits that a recovery from a backup along its own timeline can reach, by the model: up to the first segment
/// that is not there.
fn reachable(world: &World, backup: &BackupRecord) -> Vec<Commit> {
    let objects = world.stage.objects();
    let mut commits = Vec::new();
    let mut number = SIZE.segment_of(backup.start_lsn);
    loop {
        let segment = SegmentId::new(backup.timeline, number);
        let end = format!("/{}.zst", segment.name(SIZE));
        if !objects.keys().any(|key| key.ends_with(&end)) {
            return commits;
        }
        commits.extend(commits_in(world, segment));
        number = number.next();
    }
}

/// Whether segments of the backup's timeline are missing behind it, with others behind them.
fn has_gap(world: &World, backup: &BackupRecord) -> bool {
    let objects = world.stage.objects();
    let names = objects.keys().filter_map(|key| key.rsplit('/').next()?.strip_suffix(".zst")?.parse().ok());
    let ids = names.filter_map(|name: SegmentName| name.id(SIZE).ok());
    let behind =
        ids.filter(|id| id.timeline == backup.timeline && id.number >= SIZE.segment_of(backup.start_lsn));
    let numbers: Vec<u64> = behind.map(|id| id.number.get()).collect();
    let last = numbers.iter().max().copied().unwrap_or_default();
    last + 1 != SIZE.segment_of(backup.start_lsn).get() + numbers.len() as u64
}

fn request(backup: &BackupRecord, target: RecoveryTarget) -> RecoveryRequest {
    RecoveryRequest {
        target,
        exclusive: false,
        timeline: TargetTimeline::Current,
        action: RecoveryAction::Pause,
        backup: Some(backup.id.clone()),
        rates: RecoveryRates::default(),
    }
}

/// The real planner finds a way to the end of the backup, and to commits behind it, and stops where the model says.
async fn backup_can_be_planned(
    world: &World,
    ctx: &Context,
    record: &IncarnationRecord,
    backup: &BackupRecord,
    number: usize,
) {
    let mut dice = Dice::new(world.seed, 7 + number as u64);
    let behind: Vec<_> =
        reachable(world, backup).into_iter().filter(|commit| commit.lsn >= backup.stop_lsn).collect();
    let mut targets = vec![RecoveryTarget::Immediate];
    // What was kept for its own sake may have lost the WAL behind it.
    if !has_gap(world, backup) {
        targets.push(RecoveryTarget::Latest);
    }
    let chosen = (!behind.is_empty()).then(|| *dice.of(&behind));
    targets.extend(chosen.map(|commit| RecoveryTarget::Xid(u64::from(commit.xid))));
    // PostgreSQL needs to see a later transaction.
    let followed = chosen.filter(|commit| behind.iter().any(|later| later.time > commit.time));
    targets.extend(followed.map(|commit| {
        RecoveryTarget::Time(jiff::Timestamp::from_microsecond(commit.time.unix_micros()).unwrap())
    }));
    let mut plans = Vec::new();
    for target in targets {
        let what = format!("{target:?}");
        match plan(ctx, record, &request(backup, target)).await {
            Ok(plan) => plans.push(plan),
            Err(error) => {
                world.model.broken(format!("no plan for {what} backup={}: {error}", backup.id));
            }
        }
    }
    if let Some(commit) = chosen
        && let Some(plan) = plans.iter().find(|plan| matches!(plan.request.target, RecoveryTarget::Xid(_)))
    {
        let stop = format!("{:?}", plan.stop);
        if !stop.contains(&commit.xid.to_string()) {
            world.model.broken(format!("the plan for xid {} stops elsewhere: {stop}", commit.xid));
        }
    }
    // Restoring takes the longest, and so is done by some runs only.
    if let Some(plan) = plans.last().filter(|_| world.seed.is_multiple_of(8) && number == 0) {
        restored_as_it_was(world, ctx, plan).await;
    }
}

async fn restored_as_it_was(world: &World, ctx: &Context, plan: &walden_core::RecoveryPlan) {
    let target: PathBuf = world.path("restored");
    let request = RestoreRequest {
        pgdata: target.clone(),
        tablespace_mapping: Vec::new(),
        allow_tablespaces: Vec::new(),
        jobs: std::num::NonZeroUsize::new(1),
        restore_command: "walden wal get %f %p".into(),
        settings: Vec::new(),
        archive_mode: ArchiveMode::Preserve,
        start: None,
        drill: false,
    };
    if let Err(error) = execute(ctx, plan, request).await {
        return world.model.broken(format!("a planned restore fails although nothing fails: {error}"));
    }
    let expected: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("base/5/16384", vec![0; 16384]),
        ("base/5/pg_filenode.map", vec![0x5A; 524]),
        ("PG_VERSION", b"17\n".to_vec()),
    ]);
    for (path, bytes) in expected {
        if std::fs::read(target.join(path)).ok().as_ref() != Some(&bytes) {
            world.model.broken(format!("a restored file is another one path={path}"));
        }
    }
}
