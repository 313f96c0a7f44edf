//! Carrying out a verification.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use walden_core::{
    Consequences, Finding, FindingKind, FindingVerdict, IncarnationLayout, IncarnationRecord, Losses,
    Subject, Tally, VerifyInventory, VerifyLevel, VerifyObject, VerifyPlan, VerifyRequest, VerifyScope,
    plan_verify,
};

use super::confirm::settle_gone;
use super::inventory::Listing;
use super::memory::Memory;
use super::objects::{Objects, Seen};
use super::options::VerifyOptions;
use super::parts::prove_parts;
use super::presence::{presence, still_found};
use super::record::write_record;
use super::report::{MemoryReport, PresenceTotals, StopReason, Verdict, VerifyReport};
use super::state::{State, segment_of};
use super::verdict::weigh;
use super::wal::{partial_of, prove_partial, prove_run};
use crate::context::Context;
use crate::error::Result;
use crate::progress::Unit;

/// How long a segment that may be on its way is waited for before it counts as not there yet.
const LATE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Neighbouring segments that are read one after the other at level deep.
const RUN_SEGMENTS_MAX: usize = 64;
/// Memory for segments and files that are looked into, in KiB.
const MEMORY_KIB: u32 = 256 << 10;

/// What the readers work with.
pub(super) struct Work {
    pub(super) ctx: Context,
    pub(super) objects: Objects,
    pub(super) state: State,
    pub(super) level: VerifyLevel,
    /// One permit for each object that may be read at once.
    pub(super) reads: Semaphore,
    /// Permits for memory, in KiB.
    pub(super) memory: Semaphore,
}

impl Work {
    /// Takes memory for so many bytes.
    pub(super) async fn hold(&self, bytes: u64) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(MEMORY_KIB);
        self.memory.acquire_many(kib).await.ok()
    }
}

/// What is read by one reader without others beside it.
enum Portion {
    One(VerifyObject),
    Segments(Vec<VerifyObject>),
    Parts(u32, Vec<VerifyObject>),
}

/// Verifies the archive of an incarnation, until it is done or `stop` ends.
///
/// # Errors
/// When the archive can't be listed, or the backup asked for is not there. Whatever is wrong with its objects is a finding.
pub async fn verify(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    options: &VerifyOptions,
    stop: impl Future<Output = ()> + Send,
) -> Result<VerifyReport> {
    let (started_at, begin) = (ctx.clock.now(), Instant::now());
    let mut stop = std::pin::pin!(stop);
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    ctx.progress.begin("listing", Unit::Count, 0);
    let listing = tokio::select! {
        listing = Listing::read(ctx, incarnation, &layout) => listing?,
        () = &mut stop => return Ok(nothing(ctx, incarnation, options, started_at)),
    };
    let (scope, words) = options.scope(&listing.snapshot)?;
    let (findings, losses) = look(ctx, incarnation, &layout, &listing, &scope).await?;
    ctx.progress.end();

    let memory = Memory::open(ctx, incarnation.incarnation());
    let inventory = listing.inventory(&layout, options.level);
    let request = VerifyRequest {
        level: options.level,
        scope,
        sample: options.sample,
        max_bytes: options.max_bytes,
        max_age: options.max_age,
    };
    let plan = plan_verify(&inventory, &memory.proofs, &request, started_at);
    let totals = totals(&listing);
    let snapshot = Arc::new(listing.snapshot);
    let work = Work {
        ctx: ctx.clone(),
        objects: Objects { layout: layout.clone(), snapshot, inventory: Arc::new(inventory) },
        state: State::new(memory, options.max_bytes),
        level: options.level,
        reads: Semaphore::new(options.jobs.get()),
        memory: Semaphore::new(MEMORY_KIB as usize),
    };
    work.state.add(findings);
    work.state.lock().losses = losses;

    let read_from = Instant::now();
    let stopped = read_until(&work, &plan, options, (begin, stop)).await;
    let reading = read_from.elapsed();
    let removed = settle(&work, incarnation, &layout).await;
    let (consequences, consequences_unknown) = tell_consequences(&work).await;

    let base = VerifyReport {
        seed: options.sample.map(|sample| sample.seed),
        seconds: begin.elapsed().as_secs_f64(),
        stopped,
        presence: totals,
        plan,
        removed_meanwhile: removed,
        consequences,
        consequences_unknown,
        scope: words,
        ..nothing(ctx, incarnation, options, started_at)
    };
    let mut report = conclude(&work, base, reading);
    if options.record {
        report.record = Some(write_record(ctx, &layout, &report).await?);
    }
    Ok(report)
}

/// Reads what is planned, until it is done, the time allowed is over, or `stop` ends.
async fn read_until(
    work: &Work,
    plan: &VerifyPlan,
    options: &VerifyOptions,
    (begin, stop): (Instant, impl Future<Output = ()>),
) -> Option<StopReason> {
    let jobs = options.jobs.get();
    let deadline = options.max_time.map(|max| begin + max);
    work.ctx.progress.begin("verifying", Unit::Bytes, plan.planned.bytes);
    let stopped = tokio::select! {
        () = read_all(work, portions(&work.objects.inventory, plan, options.level), jobs) => None,
        () = stop => Some(StopReason::Interrupted),
        () = until(deadline) => Some(StopReason::MaxTime),
    };
    work.state.stop();
    work.ctx.progress.end();
    stopped
}

/// Adds what was found to the report.
fn conclude(work: &Work, base: VerifyReport, reading: std::time::Duration) -> VerifyReport {
    let mut inner = work.state.lock();
    let bytes_read = work.state.read.load(Ordering::Relaxed);
    let mut plan = base.plan.clone();
    plan.over_budget.objects += inner.over_budget.objects;
    plan.over_budget.bytes = plan.over_budget.bytes.saturating_add(inner.over_budget.bytes);
    plan.planned.objects = plan.planned.objects.saturating_sub(inner.over_budget.objects);
    plan.planned.bytes = plan.planned.bytes.saturating_sub(inner.over_budget.bytes);
    let done = inner.proven.objects + inner.failed.objects + base.removed_meanwhile;
    let not_reached = Tally {
        objects: plan.planned.objects.saturating_sub(done),
        bytes: plan.planned.bytes.saturating_sub(inner.proven.bytes + inner.failed.bytes),
    };
    inner
        .findings
        .sort_by(|a, b| (a.verdict, &a.key, a.lsn, &a.file).cmp(&(b.verdict, &b.key, b.lsn, &b.file)));
    let left_out =
        not_reached.objects + plan.unsampled.objects + plan.over_budget.objects + inner.failed.objects;
    // Limits that let nothing be proven must not look like an archive that is good.
    let nothing = inner.proven.objects + plan.fresh.objects == 0
        && plan.planned.objects + plan.over_budget.objects > base.removed_meanwhile
        && base.stopped != Some(StopReason::Interrupted);
    let verdict = match inner.counts.verdict() {
        Verdict::Good if nothing => Verdict::NotProven,
        told => told,
    };
    VerifyReport {
        verdict,
        complete: left_out == 0 && base.stopped.is_none() && verdict == Verdict::Good,
        plan,
        proven: inner.proven,
        failed: inner.failed,
        not_reached,
        bytes_read,
        bytes_per_second: rate(bytes_read, reading),
        counts: inner.counts,
        findings: std::mem::take(&mut inner.findings),
        memory: MemoryReport { objects: inner.memory.proofs.len() as u64, note: inner.memory.note.clone() },
        finished_at: work.ctx.clock.now(),
        ..base
    }
}

/// The report of a run that was ended before it had seen anything.
fn nothing(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    options: &VerifyOptions,
    started_at: Timestamp,
) -> VerifyReport {
    VerifyReport {
        schema: 1,
        server: incarnation.server.clone(),
        incarnation: incarnation.incarnation(),
        url: ctx.store.url().to_string(),
        level: options.level,
        scope: String::new(),
        seed: None,
        started_at,
        finished_at: ctx.clock.now(),
        seconds: 0.0,
        verdict: Verdict::NotProven,
        complete: false,
        stopped: Some(StopReason::Interrupted),
        presence: PresenceTotals::default(),
        plan: VerifyPlan::default(),
        proven: Tally::default(),
        failed: Tally::default(),
        not_reached: Tally::default(),
        removed_meanwhile: 0,
        bytes_read: 0,
        bytes_per_second: 0,
        counts: super::report::FindingCounts::default(),
        findings: Vec::new(),
        consequences: None,
        consequences_unknown: None,
        memory: MemoryReport::default(),
        record: None,
    }
}

/// What the listing tells; harm only when a second listing shows it too.
async fn look(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    layout: &IncarnationLayout,
    listing: &Listing,
    scope: &VerifyScope,
) -> Result<(Vec<Finding>, Losses)> {
    let first = presence(layout, listing, scope, ctx.clock.now());
    let is_late =
        |finding: &Finding| finding.kind == FindingKind::Gap && finding.verdict == FindingVerdict::NotProven;
    if first.0.iter().any(is_late) {
        // Archivers with several segments under way leave such gaps for a moment.
        tokio::time::sleep(LATE_PATIENCE).await;
    } else if !first.0.iter().any(Finding::is_harm) {
        return Ok(first);
    }
    let again = Listing::read(ctx, incarnation, layout).await?;
    let second = presence(layout, &again, scope, ctx.clock.now());
    Ok((still_found(first.0, &second.0), second.1))
}

fn totals(listing: &Listing) -> PresenceTotals {
    let snapshot = &listing.snapshot;
    PresenceTotals {
        objects: listing.object_count,
        bytes: listing.bytes,
        timelines: snapshot.timelines().len() as u64,
        segments: snapshot.segment_totals().0,
        backups: snapshot.backups.len() as u64,
        unfinished_backups: snapshot.unfinished_backups.len() as u64,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn rate(bytes: u64, time: std::time::Duration) -> u64 {
    let millis = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// What is read together, in the order of the plan.
fn portions(inventory: &VerifyInventory, plan: &VerifyPlan, level: VerifyLevel) -> Vec<Portion> {
    let mut units: Vec<Portion> = Vec::new();
    let mut parts: BTreeMap<u32, usize> = BTreeMap::new();
    for object in plan.items.iter().filter_map(|at| inventory.objects.get(*at as usize)) {
        match (object.subject, units.last_mut()) {
            (Subject::Part(backup, _), _) => match parts.get(&backup).and_then(|at| units.get_mut(*at)) {
                Some(Portion::Parts(_, members)) => members.push(*object),
                _ => {
                    parts.insert(backup, units.len());
                    units.push(Portion::Parts(backup, vec![*object]));
                }
            },
            (Subject::Segment(_), _) if level != VerifyLevel::Deep => units.push(Portion::One(*object)),
            (Subject::Segment(id), Some(Portion::Segments(run))) if run.len() < RUN_SEGMENTS_MAX => {
                let last = run.last().and_then(segment_of);
                if last.is_some_and(|last| last.timeline == id.timeline && last.number.next() == id.number) {
                    run.push(*object);
                } else {
                    units.push(Portion::Segments(vec![*object]));
                }
            }
            (Subject::Segment(_), _) => units.push(Portion::Segments(vec![*object])),
            _ => units.push(Portion::One(*object)),
        }
    }
    units
}

async fn read_all(work: &Work, units: Vec<Portion>, jobs: usize) {
    stream::iter(units)
        .for_each_concurrent(jobs.max(2), |unit| async {
            match unit {
                Portion::One(object) => prove_one(work, &object).await,
                Portion::Segments(run) => prove_run(work, &run).await,
                Portion::Parts(backup, parts) => prove_parts(work, backup, &parts, jobs).await,
            }
        })
        .await;
}

/// Reads one object by itself.
async fn prove_one(work: &Work, object: &VerifyObject) {
    if work.state.is_stopped() {
        return;
    }
    if !work.state.reserve(object.bytes) {
        work.state.note_over_budget(object);
        return;
    }
    let Ok(_permit) = work.reads.acquire().await else { return };
    if let Some(name) = partial_of(object.subject).filter(|_| work.level == VerifyLevel::Deep) {
        return prove_partial(work, object, name).await;
    }
    let header_only = work.level == VerifyLevel::Deep && matches!(object.subject, Subject::Pack(..));
    let seen = if header_only {
        work.objects.prove_header(&work.ctx, object.subject).await
    } else {
        work.objects.prove(&work.ctx, object.subject).await
    };
    work.state.count_read(object.bytes);
    work.ctx.progress.advance(object.bytes);
    settle_one(work, object, seen);
}

/// Notes what reading an object showed; gives what it held when it is good.
pub(super) fn settle_one<T>(work: &Work, object: &VerifyObject, seen: Seen<T>) -> Option<T> {
    let now = work.ctx.clock.now();
    let place = |finding| work.objects.place(object.subject, finding);
    match seen {
        Seen::Good(held, findings) => {
            let findings = findings.into_iter().map(place).collect();
            work.state.settle(object, findings, work.level, now);
            Some(held)
        }
        Seen::Bad(finding) => {
            work.state.settle(object, vec![lose(work, object.subject, place(finding))], work.level, now);
            None
        }
        Seen::Unknown(finding) => {
            work.state.settle(object, vec![place(finding)], work.level, now);
            None
        }
        Seen::Gone => {
            work.state.note_gone(object);
            None
        }
    }
}

/// Notes what is lost with an object.
pub(super) fn lose(work: &Work, subject: Subject, finding: Finding) -> Finding {
    let mut inner = work.state.lock();
    let losses = &mut inner.losses;
    match subject {
        Subject::Segment(id) => {
            losses.segments.insert(id);
        }
        Subject::File(walden_pg::ArchiveFileName::History(timeline)) => {
            losses.histories.insert(timeline, finding.message.clone());
        }
        Subject::CommitRecord(backup)
        | Subject::Manifest(backup)
        | Subject::Pack(backup, _)
        | Subject::Part(backup, _) => {
            if let Some(id) = work.objects.inventory.backups.get(backup as usize) {
                losses.backups.insert(id.clone(), finding.message.clone());
            }
        }
        Subject::Names(_) | Subject::Rollup(..) | Subject::BackupRollup | Subject::File(_) => return finding,
    }
    drop(inner);
    finding.that_stops_recovery()
}

/// Looks again for what was not there; gives how many objects were rightly removed.
async fn settle(work: &Work, incarnation: &IncarnationRecord, layout: &IncarnationLayout) -> u64 {
    let gone = std::mem::take(&mut work.state.lock().gone);
    let vanished = gone.clone();
    match settle_gone(&work.ctx, (incarnation, layout), &work.objects, gone).await {
        Ok(settled) => {
            for object in &settled.lost {
                lose(
                    work,
                    object.subject,
                    Finding::new(FindingVerdict::Missing, FindingKind::Absent, "", "it vanished"),
                );
            }
            let mut inner = work.state.lock();
            let failed = vanished.len() - settled.removed.len();
            inner.failed.objects += failed as u64;
            drop(inner);
            work.state.add(settled.findings);
            settled.removed.len() as u64
        }
        Err(error) => {
            let mut findings = Vec::new();
            for object in vanished {
                work.state.lock().failed.add(object.bytes);
                let key = work.objects.wanted(object.subject).map(|wanted| wanted.key.to_string());
                let message =
                    format!("it was not found, and the catalog could not be looked at again: {error}");
                let finding = Finding::new(
                    FindingVerdict::NotProven,
                    FindingKind::StoreError,
                    key.unwrap_or_default(),
                    message,
                );
                findings.push(work.objects.place(object.subject, finding));
            }
            work.state.add(findings);
            0
        }
    }
}

/// What can't be restored because of what was found.
async fn tell_consequences(work: &Work) -> (Option<Consequences>, Option<String>) {
    let (losses, harm) = {
        let inner = work.state.lock();
        (inner.losses.clone(), inner.counts.damaged + inner.counts.missing > 0)
    };
    if !harm {
        return (None, None);
    }
    match weigh(&work.ctx, &work.objects.snapshot, &losses).await {
        Ok(consequences) => (Some(consequences), None),
        Err(error) => (None, Some(error.to_string())),
    }
}
