//! Level deep of the WAL: every record's checksum, every link to the record before, across segments and timelines, and
//! whether the index tells what is there.

use std::sync::Arc;

use walden_core::index::{IndexerOptions, SegmentIndex, SegmentIndexer, WalFlags};
use walden_core::{Finding, FindingKind, FindingVerdict, ObjectHeader, ObjectKey, Subject, VerifyObject};
use walden_pg::wal::{Damage, Fault, OnDamage, SegmentOutcome, Stop, WalScanner, WalScannerOptions};
use walden_pg::{ArchiveFileName, Lsn, SegmentId, SegmentName, WalSegmentSize};
use walden_store::Unsealed;

use super::objects::{Seen, damaged, index_of};
use super::run::{Work, settle_one};
use super::state::segment_of;
use crate::catalog::predecessor;

/// Damaged places of one segment that are told one by one.
const TOLD_MAX: usize = 16;
/// A record of so many bytes is kept to be checked whole.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// What is asked of one segment.
struct Asked {
    id: SegmentId,
    name: SegmentName,
    size: WalSegmentSize,
    key: ObjectKey,
    header: ObjectHeader,
    stored: Option<SegmentIndex>,
    /// The index of the segment before, as it is stored.
    previous: Option<Arc<SegmentIndex>>,
    options: IndexerOptions,
    has_successor: bool,
}

/// What looking into a segment showed.
struct Looked {
    findings: Vec<Finding>,
    /// No recovery gets past the segment, and the catalog does not know it yet.
    is_lost: bool,
}

/// The reader of consecutive segments.
struct Chain {
    scanner: Option<WalScanner>,
    previous: Option<Arc<SegmentIndex>>,
}

impl Chain {
    fn new(work: &Work) -> Self {
        Self { scanner: Some(scanner(work)), previous: None }
    }

    /// Begins anew: the next segment is not joined.
    fn forget(&mut self, work: &Work) {
        *self = Self::new(work);
    }

    async fn look(&mut self, work: &Work, mut asked: Asked, plain: Vec<u8>) -> Looked {
        let scanner = self.scanner.take().unwrap_or_else(|| scanner(work));
        asked.previous = self.previous.take();
        let looked = tokio::task::spawn_blocking(move || look(scanner, asked, &plain)).await;
        match looked {
            Ok((scanner, looked, index)) => {
                (self.scanner, self.previous) = (Some(scanner), index.map(Arc::new));
                looked
            }
            Err(error) => {
                self.forget(work);
                let message = format!("a scan ended early: {error}");
                let finding = Finding::new(FindingVerdict::NotProven, FindingKind::StoreError, "", message);
                Looked { findings: vec![finding], is_lost: false }
            }
        }
    }
}

fn scanner(work: &Work) -> WalScanner {
    let incarnation = &work.objects.snapshot.incarnation;
    let mut options = WalScannerOptions::new(incarnation.segment_size);
    options.system_id = Some(incarnation.system_id);
    options.major = Some(incarnation.major);
    options.max_kept_bytes = RECORD_BYTES_MAX;
    options.on_damage = OnDamage::Resync;
    WalScanner::new(options)
}

/// Proves consecutive segments of a timeline.
pub(super) async fn prove_run(work: &Work, run: &[VerifyObject]) {
    let mut chain = Chain::new(work);
    let mut doubt = match run.first().and_then(segment_of) {
        Some(first) => match warm_up(work, &mut chain, first).await {
            Before::Read => None,
            Before::Doubt(finding) => Some(finding),
            Before::NoRoom => return run.iter().for_each(|object| work.state.note_over_budget(object)),
        },
        None => None,
    };
    for object in run {
        if work.state.is_stopped() {
            return;
        }
        let (Some(id), Some(wanted)) = (segment_of(object), work.objects.wanted(object.subject)) else {
            continue;
        };
        if !work.state.reserve(object.bytes) {
            work.state.note_over_budget(object);
            chain.forget(work);
            continue;
        }
        let Ok(_permit) = work.reads.acquire().await else { return };
        let _memory = work.hold(work.objects.snapshot.incarnation.segment_size.bytes()).await;
        let seen = work.objects.open(&work.ctx, &wanted, Vec::new).await;
        work.state.count_read(object.bytes);
        work.ctx.progress.advance(object.bytes);
        let (opened, mut findings) = match seen {
            Seen::Good(opened, findings) => (opened, findings),
            bad => {
                settle_one(work, object, bad.map(|_| ()));
                chain.forget(work);
                continue;
            }
        };
        let (asked, plain) = asked(work, id, &wanted.key, opened);
        let looked = chain.look(work, asked, plain).await;
        findings.extend(looked.findings);
        findings.extend(doubt.take());
        if looked.is_lost {
            work.state.lose_segment(id);
        }
        let findings = findings.into_iter().map(|finding| work.objects.place(object.subject, finding));
        work.state.settle(object, findings.collect(), work.level, work.ctx.clock.now());
    }
}

fn asked(work: &Work, id: SegmentId, key: &ObjectKey, opened: Unsealed<Vec<u8>>) -> (Asked, Vec<u8>) {
    let snapshot = &work.objects.snapshot;
    let size = snapshot.incarnation.segment_size;
    let options = IndexerOptions { major: Some(snapshot.incarnation.major), ..IndexerOptions::new(size) };
    let asked = Asked {
        id,
        name: id.name(size),
        size,
        key: key.clone(),
        stored: index_of(&opened).ok().flatten(),
        header: opened.header,
        previous: None,
        options,
        has_successor: snapshot.has_segment(SegmentId::new(id.timeline, id.number.next())),
    };
    (asked, opened.plain)
}

/// What is known of the segment before a run.
enum Before {
    /// All that can be: the link to it can be followed, or there is none to follow.
    Read,
    /// It could not be read.
    Doubt(Finding),
    /// It does not fit into the bytes allowed.
    NoRoom,
}

/// Reads the segment before a run, so that the first link can be followed. What is wrong with it is told when its own turn
/// comes; what could not be read leaves a doubt about the link.
async fn warm_up(work: &Work, chain: &mut Chain, first: SegmentId) -> Before {
    let snapshot = &work.objects.snapshot;
    let size = snapshot.incarnation.segment_size;
    let before = predecessor(&snapshot.histories, size, first);
    let before = before.and_then(|before| Some((before, snapshot.segment_bytes(before)?)));
    let Some((before, bytes)) = before else { return Before::Read };
    let Some(wanted) = work.objects.wanted(Subject::Segment(before)) else { return Before::Read };
    let bytes = u64::from(bytes);
    if !work.state.reserve(bytes) {
        return if work.state.is_stopped() { Before::Read } else { Before::NoRoom };
    }
    let Ok(_permit) = work.reads.acquire().await else { return Before::Read };
    let _memory = work.hold(size.bytes()).await;
    let seen = work.objects.open(&work.ctx, &wanted, Vec::new).await;
    work.state.count_read(bytes);
    match seen {
        Seen::Good(opened, _) => {
            let (asked, plain) = asked(work, before, &wanted.key, opened);
            let _ = chain.look(work, asked, plain).await;
            Before::Read
        }
        Seen::Bad(_) | Seen::Gone => Before::Read,
        Seen::Unknown(finding) => {
            let key = work.objects.wanted(Subject::Segment(first)).map(|wanted| wanted.key.to_string());
            let message =
                format!("its link to {} could not be followed: {}", before.name(size), finding.message);
            let kind = FindingKind::StoreError;
            Before::Doubt(Finding::new(FindingVerdict::NotProven, kind, key.unwrap_or_default(), message))
        }
    }
}

/// Looks into a segment.
fn look(mut scanner: WalScanner, asked: Asked, plain: &[u8]) -> (WalScanner, Looked, Option<SegmentIndex>) {
    let outcome = match scanner.scan_segment(asked.name, plain, |_| {}) {
        Ok(outcome) => outcome,
        Err(error) => {
            let finding = damaged(FindingKind::WalDamaged, &asked.key, error.to_string());
            return (scanner, Looked { findings: vec![finding], is_lost: true }, None);
        }
    };
    let mut looked = judge(&asked, &outcome);
    if !outcome.is_damaged() {
        looked.findings.extend(compare_index(&asked, plain));
    }
    (scanner, looked, asked.stored)
}

/// What the outcome of a scan says of the segment.
fn judge(asked: &Asked, outcome: &SegmentOutcome) -> Looked {
    let known = asked.stored.as_ref().map(|index| index.summary.facts.flags).unwrap_or_default();
    let was_so = |flag: WalFlags| known.any(flag);
    let mut findings = Vec::new();
    let last = match &outcome.stop {
        Stop::Corrupt(damage) => Some(damage),
        _ => None,
    };
    for damage in outcome.damage.iter().chain(last).take(TOLD_MAX) {
        findings.push(tell(asked, outcome, damage, was_so(WalFlags::DAMAGED)));
    }
    let more = (outcome.damage_count + u64::from(last.is_some())).saturating_sub(findings.len() as u64);
    if let Some(first) = findings.first_mut().filter(|_| more > 0) {
        first.message = format!("{}; and {more} more places", first.message);
    }
    let mut is_lost = !findings.is_empty() && !was_so(WalFlags::DAMAGED);
    let early = match outcome.stop {
        Stop::ZeroTail { lsn } | Stop::RecycledTail { lsn } if asked.has_successor => Some(lsn),
        Stop::Truncated { lsn } => Some(lsn),
        _ => None,
    };
    if let Some(lsn) = early {
        let message = format!("the WAL ends at {lsn}, and yet the archive has the segment behind it");
        findings.push(damaged(FindingKind::WalEndsEarly, &asked.key, message).at(lsn).that_stops_recovery());
        is_lost |= !was_so(WalFlags::ENDS_EARLY);
    }
    Looked { findings, is_lost }
}

/// One damaged place.
fn tell(asked: &Asked, outcome: &SegmentOutcome, damage: &Damage, was_so: bool) -> Finding {
    let fault = match std::error::Error::source(&damage.fault) {
        Some(source) => format!("{}: {source}", damage.fault),
        None => damage.fault.to_string(),
    };
    let kind =
        if is_link(asked, outcome, damage) { FindingKind::ChainBroken } else { FindingKind::WalDamaged };
    let what = match kind {
        FindingKind::ChainBroken => format!("the WAL does not go on from the segment before: {fault}"),
        _ => fault,
    };
    let since = if was_so { "; it was so when it was archived" } else { "" };
    damaged(kind, &asked.key, format!("{what} lsn={}{since}", damage.lsn))
        .at(damage.lsn)
        .that_stops_recovery()
}

/// Whether damage is about how a segment goes on from the one before, and not about what is in it.
fn is_link(asked: &Asked, outcome: &SegmentOutcome, damage: &Damage) -> bool {
    let start = asked.size.start_of(asked.id.number);
    let page = Lsn::new(start.get().saturating_add(8192));
    let at_start = damage.lsn < page || outcome.first_record.is_none_or(|first| damage.lsn <= first);
    let about_link = matches!(
        damage.fault,
        Fault::PreviousRecord { .. }
            | Fault::MissingContinuation
            | Fault::UnexpectedContinuation
            | Fault::ContinuationLength { .. }
    );
    outcome.joined && at_start && about_link
}

/// Whether the index tells what is there. Where an index was made with the one before, it is made so again.
fn compare_index(asked: &Asked, plain: &[u8]) -> Option<Finding> {
    let stored = asked.stored.as_ref().filter(|index| index.segment == asked.name)?;
    let told = asked.header.wal.as_ref().and_then(|wal| wal.summary);
    if told.is_some_and(|told| told != stored.summary) {
        let message = "the contents are good, but header and index tell different things";
        return Some(damaged(FindingKind::IndexDisagrees, &asked.key, message));
    }
    let previous = asked.previous.as_deref();
    if stored.summary.joined && previous.is_none() {
        return None;
    }
    let ways = if stored.summary.joined { [previous, None] } else { [None, previous] };
    let agrees = ways.into_iter().any(|previous| {
        SegmentIndexer::new(asked.options, asked.name, previous).is_ok_and(|mut indexer| {
            indexer.feed(plain);
            agree(stored, &indexer.finish())
        })
    });
    if agrees {
        return None;
    }
    let message = "the contents are good, but the index tells something else; it can be made again from them";
    let mut finding = damaged(FindingKind::IndexDisagrees, &asked.key, message);
    if asked.header.writer.version != env!("CARGO_PKG_VERSION") {
        // Another version may have told other things.
        finding.verdict = FindingVerdict::Notice;
    }
    Some(finding)
}

/// Whether two indexes of a segment tell the same of what planners decide by.
fn agree(a: &SegmentIndex, b: &SegmentIndex) -> bool {
    const FLAGS: [WalFlags; 9] = [
        WalFlags::RESTORE_POINT,
        WalFlags::CHECKPOINT,
        WalFlags::PARAMETER_CHANGE,
        WalFlags::WAL_LEVEL_MINIMAL,
        WalFlags::TIMELINE_BEGINS,
        WalFlags::BACKUP_END,
        WalFlags::SWITCHED,
        WalFlags::ENDS_EARLY,
        WalFlags::DAMAGED,
    ];
    let (x, y) = (&a.summary.facts, &b.summary.facts);
    x.commits == y.commits
        && x.aborts == y.aborts
        && x.first_commit == y.first_commit
        && x.last_commit == y.last_commit
        && x.commit_times == y.commit_times
        && x.end_times == y.end_times
        && x.xids == y.xids
        && x.maxima == y.maxima
        && FLAGS.iter().all(|flag| x.flags.any(*flag) == y.flags.any(*flag))
        && a.summary.wal_end == b.summary.wal_end
        && a.summary.straddler == b.summary.straddler
        && a.blocks == b.blocks
}

/// Looks into a partial segment: what it has must be good; it may end anywhere.
pub(super) async fn prove_partial(work: &Work, object: &VerifyObject, name: SegmentName) {
    let Some(wanted) = work.objects.wanted(object.subject) else { return };
    let _memory = work.hold(work.objects.snapshot.incarnation.segment_size.bytes()).await;
    let seen = match work.objects.open(&work.ctx, &wanted, Vec::new).await {
        Seen::Good(opened, mut findings) => {
            let (mut scanner, plain) = (scanner(work), opened.plain);
            let scanned =
                tokio::task::spawn_blocking(move || scanner.scan_segment(name, &plain, |_| {})).await;
            if let Ok(Ok(outcome)) = scanned {
                let last = match &outcome.stop {
                    Stop::Corrupt(damage) => Some(damage),
                    _ => None,
                };
                findings.extend(outcome.damage.iter().chain(last).take(TOLD_MAX).map(|damage| {
                    let message = format!("{} lsn={}", damage.fault, damage.lsn);
                    damaged(FindingKind::WalDamaged, &wanted.key, message).at(damage.lsn)
                }));
            }
            Seen::Good((), findings)
        }
        other => other.map(|_| ()),
    };
    work.state.count_read(object.bytes);
    work.ctx.progress.advance(object.bytes);
    settle_one(work, object, seen);
}

/// Whether a file is a partial segment.
pub(super) fn partial_of(subject: Subject) -> Option<SegmentName> {
    match subject {
        Subject::File(ArchiveFileName::Partial(name)) => Some(name),
        _ => None,
    }
}
