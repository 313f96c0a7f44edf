//! `walden check`: is this server archived, and would a recovery find what it needs?

mod agent;
mod bucket;
mod disk;
mod drilled;
mod recovery;
mod verified;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use walden_core::{CatalogSnapshot, ConditionalCreate, IncarnationRecord, Need, RecoveryWindow};
use walden_pg::{ArchiveFileName, SegmentId, SegmentName, SystemId, TimelineId, WalSegmentSize};
use walden_store::{HeaderRead, StoreError};

use self::agent::agent_check;
use self::bucket::bucket_checks;
use self::disk::disk_check;
use self::drilled::drilled_check;
use self::recovery::{arrival_check, recovery_checks};
use self::verified::verified_check;
use crate::agent::{AgentFound, find_agent};
use crate::catalog::{load_overview, satisfy};
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};
use crate::init::random_id;
use crate::planning::window_from;
use crate::pressure::wal_pressure;
use crate::server::{find_incarnation, read_repository};

/// A file that waits longer than this to be archived is worth a warning, in seconds.
const WAIT_WARNING_SECONDS: i64 = 300;
/// A file that waits longer than this means that archiving has stopped, in seconds.
const WAIT_FAILURE_SECONDS: i64 = 3600;
/// So many waiting files are worth a warning, however young.
const WAITING_WARNING: usize = 64;

/// So many damaged segments are named.
const DAMAGED_TOLD_MAX: usize = 8;

/// What one check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, but someone should look.
    Warning,
    /// Does not work: recovery or archiving is in danger.
    Failure,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it found.
    pub status: CheckStatus,
    /// In words.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Ok, detail: detail.into(), hint: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, hint: &str) -> Self {
        Self { name, status: CheckStatus::Warning, detail: detail.into(), hint: Some(hint.to_owned()) }
    }

    fn failure(name: &'static str, detail: impl Into<String>, hint: &str) -> Self {
        Self { name, status: CheckStatus::Failure, detail: detail.into(), hint: Some(hint.to_owned()) }
    }
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: String,
    /// Where the repository is.
    pub url: String,
    /// When.
    pub at: Timestamp,
    /// Whether no check failed.
    pub ok: bool,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

/// What a running server says about its archiver (`pg_settings`, `pg_stat_archiver`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiverFacts {
    /// `archive_mode`.
    pub archive_mode: String,
    /// `archive_command`.
    pub archive_command: String,
    /// `archive_library`; empty before 15.
    pub archive_library: String,
    /// `wal_level`.
    pub wal_level: String,
    /// The system identifier of the server that answered.
    pub system_id: Option<SystemId>,
    /// The last file that was archived, and when.
    pub last_archived: Option<(String, Timestamp)>,
    /// The last failure, and when.
    pub last_failed: Option<(String, Timestamp)>,
}

/// Runs all checks that the given sources allow. A good drill older than `drill_max_age` is worth a warning.
///
/// # Errors
/// Only when the repository can't be read at all, or the server is not in it; everything else is a finding.
pub async fn check(
    ctx: &Context,
    data: Option<&DataDirectory>,
    postgres: Option<&ArchiverFacts>,
    drill_max_age: Duration,
) -> Result<CheckReport> {
    let now = ctx.clock.now();
    let record = find_incarnation(ctx, data).await?;
    let mut checks =
        vec![Check::ok("server", format!("{} archives {}", record.server, record.incarnation()))];
    checks.push(store_check(ctx).await?);
    checks.extend(bucket_checks(ctx).await);
    // Looked at before the archive is: what waits now and is archived meanwhile is missing nowhere.
    let mut waiting = BTreeSet::new();
    if let Some(data) = data {
        checks.push(marker_check(data, &record)?);
        let queue = Queue::read(data)?;
        checks.push(queue_check(&queue, now));
        waiting = queue.segments;
        let agent = find_agent_of(ctx, data).await;
        let seen = match &agent {
            Some(AgentFound::Running(status)) => status.pressure.clone(),
            _ => None,
        };
        checks.push(agent_check(agent));
        // As the agent saw the queue grow, and without one by the dates of its files.
        checks.push(disk_check(&seen.map_or_else(|| wal_pressure(data, now), Ok)?));
    }
    if let Some(facts) = postgres {
        match facts.system_id.filter(|answered| *answered != record.system_id) {
            Some(other) => checks.push(other_server(other, &record)),
            None => checks.extend(archiver_checks(facts)),
        }
    }
    let mut snapshot = load_overview(ctx, &record).await?;
    list_all(ctx, &mut snapshot).await?;
    let own_facts =
        postgres.filter(|facts| facts.system_id.is_none_or(|answered| answered == record.system_id));
    checks.extend(own_facts.and_then(|facts| arrival_check(&snapshot, facts)));
    let newest = newest_segments(&snapshot);
    summarize(ctx, &mut snapshot, &newest).await?;
    let window = window_from(ctx, &mut snapshot).await?;
    checks.push(backups_check(&snapshot, now));
    checks.push(coverage_check(&window, record.segment_size, &waiting));
    if !snapshot.backups.is_empty() {
        checks.extend(recovery_checks(ctx, &mut snapshot).await?);
    }
    checks.push(damage_check(ctx, &snapshot, &window).await?);
    checks.extend(commit_check(&window));
    checks.extend(index_check(ctx, &snapshot, newest.last().copied()).await?);
    checks.push(strays_check(&snapshot));
    checks.extend(verified_check(ctx, &record, now).await?);
    checks.extend(drilled_check(ctx, &record, &snapshot, drill_max_age).await?);
    let ok = checks.iter().all(|check| check.status != CheckStatus::Failure);
    Ok(CheckReport {
        schema: 1,
        server: ctx.server.to_string(),
        url: ctx.store.url().to_string(),
        at: now,
        ok,
        checks,
    })
}

/// Probes the store again: rights and behaviour change after a repository is made.
async fn store_check(ctx: &Context) -> Result<Check> {
    const NAME: &str = "store";
    let recorded = read_repository(ctx).await?.map(|repository| repository.capabilities.conditional_create);
    let probed = match ctx.store.probe(&random_id()?, ctx.clock.now(), &ctx.budget()).await {
        Ok(probed) => probed.conditional_create,
        Err(error) => {
            let hint = "archiving needs the rights to write, read, list and delete objects";
            return Ok(Check::failure(NAME, format!("a probe object could not be handled: {error}"), hint));
        }
    };
    if let Some(recorded) = recorded.filter(|recorded| *recorded != probed) {
        let detail = format!("the store changed how it creates objects recorded={recorded:?} now={probed:?}");
        return Ok(Check::failure(NAME, detail, "find out what changed: names may no longer be protected"));
    }
    Ok(match probed {
        ConditionalCreate::Enforced => {
            Check::ok(NAME, "objects are readable, writable, and created only once")
        }
        ConditionalCreate::Ignored | ConditionalCreate::Unsupported => Check::warning(
            NAME,
            "this store does not refuse a second create: files are looked for before and read back after they are \
             written, but two writers of one name at the same instant can't be kept apart with certainty",
            "use a store with conditional writes, or make sure that only one server can ever archive here",
        ),
    })
}

async fn find_agent_of(ctx: &Context, data: &DataDirectory) -> Option<AgentFound> {
    let (asking, directory) = (ctx.clone(), data.clone());
    tokio::task::spawn_blocking(move || find_agent(&asking, &directory)).await.ok().flatten()
}

fn marker_check(data: &DataDirectory, record: &IncarnationRecord) -> Result<Check> {
    const NAME: &str = "data directory";
    Ok(match data.restored_marker()? {
        Some(marker) if marker.repository_id == record.repository_id && marker.server == record.server => {
            Check::failure(
                NAME,
                format!(
                    "it was restored from this server's archive at {}: archiving is refused",
                    shown(marker.restored_at)
                ),
                "walden server adopt, if it replaces the server for good",
            )
        }
        _ => Check::ok(NAME, format!("{} belongs to this archive", data.path().display())),
    })
}

/// What PostgreSQL still wants archived (`pg_wal/archive_status/*.ready`).
#[derive(Debug, Default)]
struct Queue {
    files: usize,
    oldest: Option<(String, Timestamp)>,
    /// The segments among them.
    segments: BTreeSet<SegmentName>,
}

impl Queue {
    fn read(data: &DataDirectory) -> Result<Self> {
        let directory = data.path().join("pg_wal/archive_status");
        let failed = |source| EngineError::local("look at", &directory, source);
        let mut queue = Self::default();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((name, Ok(file))) = name.strip_suffix(".ready").map(|name| (name, name.parse())) else {
                continue;
            };
            // Archived in this very moment: gone is good.
            let Ok(since) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
            let Ok(since) = Timestamp::try_from(since) else { continue };
            queue.files += 1;
            if let ArchiveFileName::Segment(segment) = file {
                queue.segments.insert(segment);
            }
            if queue.oldest.as_ref().is_none_or(|(_, before)| since < *before) {
                queue.oldest = Some((name.to_owned(), since));
            }
        }
        Ok(queue)
    }
}

fn queue_check(queue: &Queue, now: Timestamp) -> Check {
    const NAME: &str = "archive queue";
    let Some((name, since)) = &queue.oldest else { return Check::ok(NAME, "nothing waits to be archived") };
    let age = now.duration_since(*since).as_secs().max(0);
    let (files, wait) = (counted(queue.files, "file"), if queue.files == 1 { "waits" } else { "wait" });
    let detail = format!("{files} {wait} to be archived, the oldest ({name}) for {}", lasted(age));
    let hint = "look for walden's messages in the server log; pg_wal grows until archiving works";
    if age >= WAIT_FAILURE_SECONDS {
        Check::failure(NAME, detail, hint)
    } else if age >= WAIT_WARNING_SECONDS || queue.files >= WAITING_WARNING {
        Check::warning(NAME, detail, hint)
    } else {
        Check::ok(NAME, detail)
    }
}

/// What another server says of its archiver proves nothing about this one.
fn other_server(answered: SystemId, record: &IncarnationRecord) -> Check {
    Check::failure(
        "connection",
        format!(
            "another server answered than the one that is archived answered={answered} archived={}",
            record.system_id
        ),
        "point --dbname or PGHOST and PGPORT at the server of this archive",
    )
}

fn archiver_checks(facts: &ArchiverFacts) -> Vec<Check> {
    let mut checks = Vec::new();
    let mode = "archive_mode";
    checks.push(match facts.archive_mode.as_str() {
        "on" | "always" => Check::ok(mode, format!("archive_mode is {}", facts.archive_mode)),
        other => {
            Check::failure(mode, format!("archive_mode is {other}"), "set archive_mode = on and restart")
        }
    });
    let command = "archive_command";
    checks.push(if facts.archive_command.contains("walden") || facts.archive_library.contains("walden") {
        Check::ok(command, format!("archive_command is {:?}", facts.archive_command))
    } else {
        let detail = format!("archive_command is {:?}: it does not call walden", facts.archive_command);
        Check::failure(
            command,
            detail,
            "walden init prints the whole line for postgresql.conf; it is harmless to run again",
        )
    });
    let archiver = "archiver";
    checks.push(match (&facts.last_archived, &facts.last_failed) {
        (archived, Some((name, at))) if archived.as_ref().is_none_or(|(_, done)| done < at) => {
            Check::failure(
                archiver,
                format!("the last try to archive failed, at {} file={name}", shown(*at)),
                "the server log has walden's message",
            )
        }
        (Some((name, at)), _) => Check::ok(archiver, format!("last archived {name} at {}", shown(*at))),
        (None, _) => Check::warning(
            archiver,
            "nothing was archived since the statistics began",
            "SELECT pg_switch_wal() makes the server archive a segment",
        ),
    });
    checks
}

fn backups_check(snapshot: &CatalogSnapshot, now: Timestamp) -> Check {
    const NAME: &str = "backups";
    let Some(newest) = snapshot.backups.iter().map(|backup| backup.finished_at).max() else {
        return Check::failure(
            NAME,
            match snapshot.unfinished_backups.len() {
                0 => "there is no finished backup".to_owned(),
                unfinished => format!("there is no finished backup; {} began", counted(unfinished, "backup")),
            },
            "walden backup create",
        );
    };
    let backups = counted(snapshot.backups.len(), "backup");
    let detail = format!("{backups}, the newest ended {} ago", lasted(now.duration_since(newest).as_secs()));
    let damaged: usize = snapshot.backups.iter().map(|backup| backup.checksum_failures.len()).sum();
    if damaged > 0 {
        let detail = format!("{detail}; files with wrong page checksums: {damaged}");
        return Check::warning(NAME, detail, "walden backup show lists the pages");
    }
    Check::ok(NAME, detail)
}

fn coverage_check(window: &RecoveryWindow, size: WalSegmentSize, waiting: &BTreeSet<SegmentName>) -> Check {
    const NAME: &str = "coverage";
    let unusable: Vec<&str> = window
        .timelines
        .iter()
        .flat_map(|timeline| &timeline.backups)
        .filter(|backup| backup.last.is_none())
        .map(|backup| backup.id.as_str())
        .collect();
    if !unusable.is_empty() {
        let detail = format!("WAL that makes these backups consistent is missing: {}", unusable.join(", "));
        return Check::failure(
            NAME,
            detail,
            "they can't be restored; take a new one with walden backup create",
        );
    }
    // Gaps before the first backup hurt nobody; gaps before the newest one end moments, not the archive.
    let (mut open, mut past, mut arriving) = (0, 0, 0);
    for timeline in &window.timelines {
        let Some(first) = timeline.first else { continue };
        let usable = timeline.backups.iter().filter(|backup| backup.last.is_some());
        let newest = usable.map(|backup| backup.first.lsn).max();
        for gap in timeline.gaps.iter().filter(|gap| gap.end_lsn > first.lsn) {
            let behind = newest.is_some_and(|newest| newest >= gap.end_lsn);
            // Several are archived at once: what PostgreSQL keeps until it is archived is late, not lost.
            let late = waiting
                .range(gap.first..=gap.last)
                .filter(|segment| segment.timeline() == timeline.timeline && segment.id(size).is_ok())
                .count() as u64;
            arriving += late;
            *(if behind { &mut past } else { &mut open }) += gap.count.saturating_sub(late);
        }
    }
    if open > 0 {
        let detail = format!("{} after the newest backup: moments behind can't be reached", missing(open));
        return Check::failure(
            NAME,
            detail,
            "take a new backup now: walden backup create; walden window shows the gaps",
        );
    }
    if past > 0 {
        let detail = format!(
            "{} between backups: moments behind, up to the next backup, can't be reached",
            missing(past)
        );
        return Check::warning(NAME, detail, "walden window shows the gaps");
    }
    if window.timelines.iter().all(|timeline| timeline.backups.is_empty()) {
        return Check::warning(
            NAME,
            "there is no backup from which WAL could be replayed",
            "walden backup create",
        );
    }
    if arriving > 0 {
        let detail = format!("{}, which PostgreSQL keeps until archived; no other gap", missing(arriving));
        return Check::ok(NAME, detail);
    }
    Check::ok(NAME, "no gap in the WAL after the first backup")
}

/// "1 backup", "2 backups".
fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Segments that are not there.
fn missing(segments: u64) -> String {
    if segments == 1 { "1 segment is missing".to_owned() } else { format!("{segments} segments are missing") }
}

/// A stretch of time as people read it; nothing is below 0.
fn lasted(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A moment as people read it.
fn shown(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Lists what so far only rollups tell of: a check takes nobody's word for an object. Then asks the segments of directories
/// whose rollups say something else than the listing: what is in them may be damaged.
async fn list_all(ctx: &Context, snapshot: &mut CatalogSnapshot) -> Result<()> {
    let mut unlisted: BTreeMap<TimelineId, (u32, u32)> = BTreeMap::new();
    for (timeline, log) in snapshot.logs.keys().filter(|(timeline, log)| !snapshot.is_listed(*timeline, *log))
    {
        let (_, last) = unlisted.entry(*timeline).or_insert((*log, *log));
        *last = *log;
    }
    let needs: Vec<Need> = unlisted
        .into_iter()
        .map(|(timeline, (first_log, last_log))| Need::Listing { timeline, first_log, last_log })
        .collect();
    satisfy(ctx, snapshot, &needs).await?;
    let doubtful =
        snapshot.logs.iter().filter(|(place, told)| told.incomplete && !snapshot.summarized.contains(place));
    let needs: Vec<Need> =
        doubtful.map(|((timeline, log), _)| Need::Summaries { timeline: *timeline, log: *log }).collect();
    satisfy(ctx, snapshot, &needs).await
}

/// The newest segment of each timeline, by timeline.
fn newest_segments(snapshot: &CatalogSnapshot) -> Vec<SegmentId> {
    let timelines = snapshot.timelines().into_iter();
    timelines
        .filter_map(|timeline| Some(SegmentId::new(timeline, snapshot.last_known_segment(timeline)?)))
        .collect()
}

/// Reads what the newest directories hold: damage is most likely to be news there.
async fn summarize(ctx: &Context, snapshot: &mut CatalogSnapshot, newest: &[SegmentId]) -> Result<()> {
    let size = snapshot.incarnation.segment_size;
    let places = newest.iter().map(|id| (id.timeline, id.name(size).log()));
    let missing = places.filter(|place| !snapshot.summarized.contains(place));
    let needs: Vec<Need> = missing.map(|(timeline, log)| Need::Summaries { timeline, log }).collect();
    satisfy(ctx, snapshot, &needs).await
}

/// Damage in the WAL came from the server; an object that is not what was stored came from the store.
async fn damage_check(ctx: &Context, snapshot: &CatalogSnapshot, window: &RecoveryWindow) -> Result<Check> {
    const NAME: &str = "WAL";
    let damaged: Vec<SegmentName> =
        window.timelines.iter().flat_map(|timeline| &timeline.damaged).copied().collect();
    if damaged.is_empty() {
        return Ok(Check::ok(NAME, "no damage is known in the archived WAL"));
    }
    let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
    let mut told = Vec::new();
    let (mut objects, mut wal) = (false, false);
    for name in damaged.iter().take(DAMAGED_TOLD_MAX) {
        let key = layout.archive_file(ArchiveFileName::Segment(*name));
        match ctx.store.get_header(&key, &ctx.budget()).await {
            Err(StoreError::Corrupt { .. }) => {
                objects = true;
                told.push(format!("{name} (the object is not what was stored)"));
            }
            Ok(_) => {
                wal = true;
                told.push(name.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let hint = match (objects, wal) {
        (true, false) => {
            "take a new backup now: walden backup create; then look at the object in the store: an older version of it or \
             another copy may be whole"
        }
        (true, true) => {
            "take a new backup now: walden backup create; then look at the store for the objects, and at the disk below \
             pg_wal for the others"
        }
        (false, _) => "take a new backup now: walden backup create; then look at the disk below pg_wal",
    };
    let detail = match damaged.len() {
        1 => format!("segment {} is damaged, and no recovery gets past it", told.concat()),
        more => format!("{more} segments are damaged, and no recovery gets past them: {}", told.join(", ")),
    };
    Ok(Check::failure(NAME, detail, hint))
}

/// How old the newest commit is that can be restored.
fn commit_check(window: &RecoveryWindow) -> Option<Check> {
    let seconds = window.rpo_seconds?;
    let newest = window.newest?;
    let at = newest.time.map(|time| format!(" ({})", shown(time))).unwrap_or_default();
    let age = lasted(seconds);
    // Without a transaction it is the end of a backup.
    let (name, what) = match newest.xid {
        Some(_) => ("newest commit", "commit"),
        None => ("newest moment", "moment"),
    };
    Some(Check::ok(name, format!("the newest {what} that can be restored is {age} old{at}")))
}

/// Whether the newest segment has an index: what archives it is then up to date.
async fn index_check(
    ctx: &Context,
    snapshot: &CatalogSnapshot,
    newest: Option<SegmentId>,
) -> Result<Option<Check>> {
    const NAME: &str = "WAL index";
    let Some(newest) = newest else { return Ok(None) };
    let name = newest.name(snapshot.incarnation.segment_size);
    let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
    let key = layout.archive_file(ArchiveFileName::Segment(name));
    Ok(Some(match ctx.store.get_header(&key, &ctx.budget()).await {
        Ok(HeaderRead::Found { header, .. }) if header.index_bytes > 0 => {
            Check::ok(NAME, format!("the newest segment, {name}, has one"))
        }
        Ok(HeaderRead::Found { .. }) => Check::warning(
            NAME,
            format!("the newest segment, {name}, has none: plans must fetch whole segments"),
            "the server archives with an older walden: update it",
        ),
        Ok(HeaderRead::Missing) => return Ok(None),
        Err(error @ StoreError::Corrupt { .. }) => Check::failure(
            NAME,
            format!("the newest segment can't be read: {error}"),
            "look at the object; take a new backup if it is lost: walden backup create",
        ),
        Err(error) => return Err(error.into()),
    }))
}

fn strays_check(snapshot: &CatalogSnapshot) -> Check {
    const NAME: &str = "strays";
    match snapshot.strays.first() {
        None => Check::ok(NAME, "nothing foreign or damaged in the archive"),
        Some(first) => Check::warning(
            NAME,
            match snapshot.strays.len() {
                1 => format!("1 object does not belong or can't be read: {}: {}", first.key, first.reason),
                more => format!(
                    "{more} objects do not belong or can't be read, such as {}: {}",
                    first.key, first.reason
                ),
            },
            "look at what is there; walden leaves it alone",
        ),
    }
}
