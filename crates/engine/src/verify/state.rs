//! What a run has found so far. It outlives the work: an interrupted run still tells what it has.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use walden_core::{Finding, FindingVerdict, Losses, Subject, Tally, VerifyLevel, VerifyObject};
use walden_pg::SegmentId;

use super::memory::Memory;
use super::report::FindingCounts;

/// Findings that are told one by one; the rest is counted.
pub(super) const FINDINGS_MAX: usize = 10_000;

/// The state that all readers share.
#[derive(Debug)]
pub(super) struct State {
    inner: Mutex<Inner>,
    /// Bytes that were read or are about to be.
    reserved: AtomicU64,
    /// Bytes that came from the store.
    pub(super) read: AtomicU64,
    max_bytes: Option<u64>,
    stopped: AtomicBool,
}

/// What is found.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) memory: Memory,
    pub(super) findings: Vec<Finding>,
    pub(super) counts: FindingCounts,
    pub(super) losses: Losses,
    /// Objects that were not there when they were to be read.
    pub(super) gone: Vec<VerifyObject>,
    pub(super) proven: Tally,
    pub(super) failed: Tally,
    pub(super) over_budget: Tally,
}

impl State {
    pub(super) fn new(memory: Memory, max_bytes: Option<u64>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                memory,
                findings: Vec::new(),
                counts: FindingCounts::default(),
                losses: Losses::default(),
                gone: Vec::new(),
                proven: Tally::default(),
                failed: Tally::default(),
                over_budget: Tally::default(),
            }),
            reserved: AtomicU64::new(0),
            read: AtomicU64::new(0),
            max_bytes,
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins nothing new any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Asks for leave to read so many bytes.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let Some(max) = self.max_bytes else { return !self.is_stopped() };
        let before = self.reserved.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > max {
            self.reserved.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        !self.is_stopped()
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes an object that is good.
    pub(super) fn prove(&self, object: &VerifyObject, level: VerifyLevel, now: Timestamp) {
        let mut inner = self.lock();
        inner.proven.add(object.bytes);
        inner.memory.prove(object.id, object.fingerprint, level, now);
    }

    /// Notes what is wrong with an object; findings without harm leave it proven.
    pub(super) fn settle(
        &self,
        object: &VerifyObject,
        findings: Vec<Finding>,
        level: VerifyLevel,
        now: Timestamp,
    ) {
        let is_good = findings.iter().all(|finding| finding.verdict == FindingVerdict::Notice);
        if is_good {
            self.prove(object, level, now);
        } else {
            let mut inner = self.lock();
            inner.failed.add(object.bytes);
            if findings.iter().any(Finding::is_harm) {
                inner.memory.forget(object.id);
            }
        }
        self.add(findings);
    }

    /// Notes findings.
    pub(super) fn add(&self, findings: Vec<Finding>) {
        let mut inner = self.lock();
        for finding in findings {
            inner.counts.add(&finding);
            if inner.findings.len() < FINDINGS_MAX {
                inner.findings.push(finding);
            }
        }
    }

    /// Notes that a segment can't be used.
    pub(super) fn lose_segment(&self, id: SegmentId) {
        self.lock().losses.segments.insert(id);
    }

    /// Notes that something was not there when it was to be read.
    pub(super) fn note_gone(&self, object: &VerifyObject) {
        self.lock().gone.push(*object);
    }

    pub(super) fn note_over_budget(&self, object: &VerifyObject) {
        self.lock().over_budget.add(object.bytes);
    }
}

/// The segment that an object is, when it is one.
pub(super) fn segment_of(object: &VerifyObject) -> Option<SegmentId> {
    match object.subject {
        Subject::Segment(id) => Some(id),
        _ => None,
    }
}
