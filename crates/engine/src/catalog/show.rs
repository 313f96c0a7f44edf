//! `walden catalog show`: what is in the repository, and what does not belong there.
//!
//! In requests in proportion to the answer: directories are listed, not the segments in them, and rollups tell of the
//! rest. The contents of backups are not listed, nor is a LOG directory of which a rollup tells.

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use walden_core::index::TimeRange;
use walden_core::{
    ArchiveObject, CatalogSnapshot, ErrorKind, Incarnation, IncarnationLayout, Need, ServerName, Stray,
    repository_key,
};
use walden_pg::{PgTimestamp, SegmentId, SegmentNumber, TimelineId};
use walden_store::PROBE_PREFIX;

use super::{load_overview, satisfy};
use crate::context::Context;
use crate::error::Result;
use crate::server::{explain_absence, read_incarnation, read_repository, read_server};

/// What `walden catalog show` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// Where the repository is.
    pub url: String,
    /// The servers that were looked at, by name.
    pub servers: Vec<ServerContents>,
    /// What lies beside the servers and does not belong there; looked for only when all servers are shown.
    pub foreign: Vec<Stray>,
}

/// What is there of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerContents {
    /// Its name.
    pub server: ServerName,
    /// Records of its revisions.
    pub revisions: Amount,
    /// Records of its leases.
    pub leases: Amount,
    /// Its incarnations, by name.
    pub incarnations: Vec<IncarnationContents>,
    /// What does not belong there or is damaged, outside of the incarnations.
    pub foreign: Vec<Stray>,
}

/// Objects of one sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What is there of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IncarnationContents {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Whether it is the one that is archived now.
    pub current: bool,
    /// Timelines of which anything is there.
    pub timelines: Vec<TimelineId>,
    /// Segments.
    pub segments: Amount,
    /// Segments among them that count by the word of rollups alone.
    pub segments_by_rollup: u64,
    /// Finished backups, with the bytes that their records tell.
    pub backups: Amount,
    /// Backups without a commit record: under way, or interrupted.
    pub unfinished_backups: u64,
    /// Timeline history files.
    pub histories: Amount,
    /// Revisions of pins.
    pub pins: Amount,
    /// Evidence of drills.
    pub drills: Amount,
    /// Records of verifications.
    pub verifications: Amount,
    /// Audit records of retention.
    pub retention_runs: Amount,
    /// The earliest commit in the first LOG directories of the timelines, as far as their facts are known.
    pub first_commit: Option<Timestamp>,
    /// The latest commit in the last ones.
    pub last_commit: Option<Timestamp>,
    /// What does not belong there, or is damaged. Never touched.
    pub foreign: Vec<Stray>,
}

/// Looks what is in the repository of one server, or of all.
///
/// # Errors
/// Of the store; kind `not_found` when the server or the repository is not there. Damaged records are findings.
pub async fn catalog_report(ctx: &Context, all_servers: bool) -> Result<CatalogReport> {
    let mut report = CatalogReport {
        schema: 1,
        url: ctx.store.url().to_string(),
        servers: Vec::new(),
        foreign: Vec::new(),
    };
    if !all_servers {
        match read_contents(ctx).await? {
            Some(server) => report.servers.push(server),
            None => return Err(explain_absence(ctx, None).await),
        }
        return Ok(report);
    }
    let level = ctx.store.list_level("", &ctx.listing_budget()).await?;
    let repository = repository_key();
    let there = level.objects.iter().any(|object| object.key == repository.as_str());
    if !there && read_repository(ctx).await?.is_none() {
        return Err(explain_absence(ctx, None).await);
    }
    let others = level.objects.into_iter().filter(|object| object.key != repository.as_str());
    report.foreign.extend(others.map(|object| foreign(object.key)));
    for prefix in level.directories {
        let name = prefix.trim_end_matches('/');
        if name == PROBE_PREFIX {
            let reason = "left by a probe that was interrupted, unless walden init runs just now";
            report.foreign.push(Stray { key: prefix, reason: reason.to_owned() });
            continue;
        }
        let contents = match name.parse::<ServerName>() {
            Ok(server) => read_contents(&Context { server, ..ctx.clone() }).await?,
            Err(_) => None,
        };
        match contents {
            Some(server) => report.servers.push(server),
            None => report.foreign.push(foreign(prefix)),
        }
    }
    let odd = ctx.store.odd_names().into_iter().filter(|name| {
        let of_server = |server: &ServerContents| name.starts_with(&format!("{}/", server.server));
        !report.servers.iter().any(of_server)
    });
    let odd: Vec<Stray> = odd.map(odd_name).collect();
    report.foreign.extend(odd);
    Ok(report)
}

fn foreign(key: String) -> Stray {
    Stray { key, reason: "nothing of this name belongs here".to_owned() }
}

fn odd_name(key: String) -> Stray {
    Stray { key, reason: "a part of its name is empty, . or ..".to_owned() }
}

/// What is there of the context's server; `None` when it has no revision.
async fn read_contents(ctx: &Context) -> Result<Option<ServerContents>> {
    let layout = ctx.layout();
    let level = ctx.store.list_level(&layout.prefix(), &ctx.listing_budget()).await?;
    let has = |prefix: &str| level.directories.iter().any(|directory| directory == prefix);
    if !has(&layout.revisions_prefix()) {
        return Ok(None);
    }
    let mut contents = ServerContents {
        server: ctx.server.clone(),
        revisions: Amount::default(),
        leases: Amount::default(),
        incarnations: Vec::new(),
        foreign: level.objects.iter().map(|object| foreign(object.key.clone())).collect(),
    };
    let is_revision = |key: &str| layout.parse_revision(key).is_some();
    contents.revisions = amount(ctx, &layout.revisions_prefix(), is_revision, &mut contents.foreign).await?;
    if has(&layout.leases_prefix()) {
        let is_lease = |key: &str| layout.parse_retention_lease(key).is_some();
        contents.leases = amount(ctx, &layout.leases_prefix(), is_lease, &mut contents.foreign).await?;
    }
    let current = match read_server(ctx).await {
        Ok(record) => record.map(|record| record.current),
        Err(error) if is_damage(error.kind()) => {
            let key = layout.revisions_prefix();
            contents.foreign.push(Stray { key, reason: format!("the newest revision: {}", chain(&error)) });
            None
        }
        Err(error) => return Err(error),
    };
    for prefix in &level.directories {
        match layout.parse_incarnation_prefix(prefix) {
            Some(incarnation) => {
                let own = read_incarnation_contents(ctx, incarnation, current == Some(incarnation)).await?;
                contents.incarnations.push(own);
            }
            None if [layout.revisions_prefix(), layout.leases_prefix()].contains(prefix) => {}
            None => contents.foreign.push(foreign(prefix.clone())),
        }
    }
    let below = |name: &String| name.starts_with(&layout.prefix());
    let mut odd: Vec<String> = ctx.store.odd_names().into_iter().filter(below).collect();
    for incarnation in &mut contents.incarnations {
        let prefix = layout.incarnation(incarnation.incarnation).prefix();
        let own = odd.extract_if(.., |name| name.starts_with(&prefix));
        incarnation.foreign.extend(own.map(odd_name));
    }
    contents.foreign.extend(odd.into_iter().map(odd_name));
    Ok(Some(contents))
}

fn is_damage(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Counts the objects under a prefix that belong there, and notes the others.
async fn amount(
    ctx: &Context,
    prefix: &str,
    belongs: impl Fn(&str) -> bool,
    others: &mut Vec<Stray>,
) -> Result<Amount> {
    let mut amount = Amount::default();
    let listing = ctx.store.list(prefix, &ctx.listing_budget());
    let mut listing = std::pin::pin!(listing);
    while let Some(object) = listing.try_next().await? {
        if belongs(&object.key) {
            amount.add(object.bytes);
        } else {
            others.push(foreign(object.key));
        }
    }
    Ok(amount)
}

async fn read_incarnation_contents(
    ctx: &Context,
    incarnation: Incarnation,
    current: bool,
) -> Result<IncarnationContents> {
    let layout = ctx.layout().incarnation(incarnation);
    let mut contents = IncarnationContents {
        incarnation,
        current,
        timelines: Vec::new(),
        segments: Amount::default(),
        segments_by_rollup: 0,
        backups: Amount::default(),
        unfinished_backups: 0,
        histories: Amount::default(),
        pins: Amount::default(),
        drills: Amount::default(),
        verifications: Amount::default(),
        retention_runs: Amount::default(),
        first_commit: None,
        last_commit: None,
        foreign: Vec::new(),
    };
    let has = read_small_directories(ctx, &layout, &mut contents).await?;
    let record = match read_incarnation(ctx, incarnation).await {
        Ok(Some(record)) => record,
        Ok(None) => {
            let reason = "it is missing: this incarnation can't be archived, planned or restored".to_owned();
            contents.foreign.push(Stray { key: layout.marker().to_string(), reason });
            return Ok(contents);
        }
        Err(error) if is_damage(error.kind()) => {
            contents.foreign.push(Stray { key: layout.marker().to_string(), reason: chain(&error) });
            return Ok(contents);
        }
        Err(error) => return Err(error),
    };
    if has {
        let mut snapshot = load_overview(ctx, &record).await?;
        bring_ends(ctx, &mut snapshot).await?;
        fill_in(&mut contents, &snapshot);
    }
    Ok(contents)
}

/// Counts what is listed whole: everything but WAL and backups. Whether there are any of those.
async fn read_small_directories(
    ctx: &Context,
    layout: &IncarnationLayout,
    contents: &mut IncarnationContents,
) -> Result<bool> {
    let level = ctx.store.list_level(&layout.prefix(), &ctx.listing_budget()).await?;
    let marker = layout.marker();
    let others = level.objects.into_iter().filter(|object| object.key != marker.as_str());
    contents.foreign.extend(others.map(|object| foreign(object.key)));
    let is = |belongs: fn(&ArchiveObject) -> bool| {
        move |key: &str| layout.parse(key).is_some_and(|object| belongs(&object))
    };
    let mut has = false;
    for prefix in level.directories {
        let others = &mut contents.foreign;
        if prefix == layout.wal_prefix() || prefix == layout.backups_prefix() {
            has = true;
        } else if prefix == layout.history_prefix() {
            has = true;
            // What is foreign among them, the overview tells.
            let belongs = is(|object| matches!(object, ArchiveObject::File(_)));
            contents.histories = amount(ctx, &prefix, belongs, &mut Vec::new()).await?;
        } else if prefix == layout.pins_prefix() {
            let belongs = is(|object| matches!(object, ArchiveObject::Pin { .. }));
            contents.pins = amount(ctx, &prefix, belongs, others).await?;
        } else if prefix == layout.drills_prefix() {
            let belongs = is(|object| matches!(object, ArchiveObject::Drill(_)));
            contents.drills = amount(ctx, &prefix, belongs, others).await?;
        } else if prefix == layout.verifications_prefix() {
            let belongs = is(|object| matches!(object, ArchiveObject::Verification(_)));
            contents.verifications = amount(ctx, &prefix, belongs, others).await?;
        } else if prefix == layout.retention_runs_prefix() {
            let belongs = is(|object| matches!(object, ArchiveObject::RetentionRun { .. }));
            contents.retention_runs = amount(ctx, &prefix, belongs, others).await?;
        } else {
            others.push(foreign(prefix));
        }
    }
    Ok(has)
}

/// Brings what the first and the last LOG directory of each timeline hold, unless a rollup has told.
async fn bring_ends(ctx: &Context, snapshot: &mut CatalogSnapshot) -> Result<()> {
    let size = snapshot.incarnation.segment_size;
    let mut needs: Vec<Need> = Vec::new();
    for timeline in snapshot.timelines() {
        let present = snapshot.present(timeline);
        let ends =
            present.first().map(|range| range.0).into_iter().chain(present.last().map(|range| range.1));
        for number in ends {
            let log = log_of(timeline, number, size);
            let place = (timeline, log);
            let known = snapshot.summarized.contains(&place) || snapshot.logs.contains_key(&place);
            let need = Need::Summaries { timeline, log };
            if !known && !needs.contains(&need) {
                needs.push(need);
            }
        }
    }
    if needs.is_empty() { Ok(()) } else { satisfy(ctx, snapshot, &needs).await }
}

fn log_of(timeline: TimelineId, number: SegmentNumber, size: walden_pg::WalSegmentSize) -> u32 {
    SegmentId::new(timeline, number).name(size).log()
}

fn fill_in(contents: &mut IncarnationContents, snapshot: &CatalogSnapshot) {
    contents.timelines = snapshot.timelines();
    let (listed, bytes) = snapshot.segment_totals();
    contents.segments_by_rollup = snapshot.told_segments();
    let told = snapshot.logs.iter().filter(|((timeline, log), _)| !snapshot.is_listed(*timeline, *log));
    let told_bytes: u64 = told.map(|(_, log)| log.object_bytes).sum();
    contents.segments = Amount { count: listed + contents.segments_by_rollup, bytes: bytes + told_bytes };
    for backup in &snapshot.backups {
        contents.backups.add(backup.stored_bytes);
    }
    contents.unfinished_backups = snapshot.unfinished_backups.len() as u64;
    let facts = snapshot.logs.values().map(|log| log.facts.commit_times);
    let facts = facts.chain(snapshot.summaries.values().map(|summary| summary.facts.commit_times));
    let times: Vec<TimeRange> = facts.flatten().collect();
    let moment = |time: PgTimestamp| Timestamp::from_microsecond(time.unix_micros()).ok();
    contents.first_commit = times.iter().map(|range| range.min).min().and_then(moment);
    contents.last_commit = times.iter().map(|range| range.max).max().and_then(moment);
    contents.foreign.extend(snapshot.strays.iter().cloned());
    contents.foreign.sort_by(|a, b| a.key.cmp(&b.key));
    contents.foreign.dedup();
}
