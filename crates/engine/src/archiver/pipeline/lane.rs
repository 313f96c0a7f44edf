//! What pushes in flight know of each other, so that each segment's index is what it would be had they come one by one.
//!
//! Each timeline is a lane. A push takes its turn in it when it begins; whoever comes after it goes on from what its
//! scan carries over, without waiting for its compression or its sending. What is durable is remembered here, and in the
//! file that other processes read; that, and the rollups of LOG directories that are complete, are written behind the
//! pushes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use walden_core::index::{RollupEntry, SegmentIndex, TouchedBlocks};
use walden_core::{Incarnation, IncarnationRecord};
use walden_pg::{SegmentId, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

use super::super::completed::roll_up_if_complete;
use super::super::indexing::{Memory, SIBLINGS_MAX, parents_segment, without_contents};
use super::behind::Behind;
use crate::context::Context;
use crate::indexing::entry_of;

/// While there is more to come, the memory for other processes is written no more often.
const MEMORY_WRITTEN_EVERY: Duration = Duration::from_millis(250);

/// What one push tells those after it.
#[derive(Clone)]
enum Told<T> {
    NotYet,
    Nothing,
    This(T),
}

impl<T> Told<T> {
    fn of(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Self::This)
    }
}

/// What a scan carries over to the next one.
type Scanned = Told<Arc<SegmentIndex>>;
/// What later segments repeat of one that is sealed.
type Sealed = Told<RollupEntry>;

/// All lanes of one pipeline.
pub(super) struct Lanes {
    ctx: Context,
    behind: Arc<Behind>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<LaneKey, Lane>,
    tickets: u64,
}

type LaneKey = (Incarnation, TimelineId);

#[derive(Default)]
struct Lane {
    turns: Vec<Entered>,
    /// The newest segment that is durable, as far as is known here.
    newest: Option<Memory>,
    /// Durable segments of the LOG directories that are being worked on.
    known: BTreeMap<SegmentNumber, RollupEntry>,
    /// LOG directories that may be complete, once nothing of them is in flight.
    owed: BTreeMap<u32, IncarnationRecord>,
    /// The file for other processes is older than what is known here.
    is_dirty: bool,
    written_at: Option<Instant>,
}

/// A push in flight, as others see it.
struct Entered {
    ticket: u64,
    segment: SegmentName,
    number: SegmentNumber,
    scanned: watch::Receiver<Scanned>,
    sealed: watch::Receiver<Sealed>,
}

/// A push's place in its lane; left when this is dropped.
pub(super) struct Turn {
    lanes: Arc<Lanes>,
    key: LaneKey,
    ticket: u64,
    segment: SegmentName,
    number: SegmentNumber,
    previous: Previous,
    /// The segments before it in its LOG directory that were durable when it began.
    known_before: Vec<RollupEntry>,
    /// Of those that were in flight.
    before: Vec<watch::Receiver<Sealed>>,
    sealed: watch::Sender<Sealed>,
    durable: Option<(IncarnationRecord, Memory)>,
}

/// What the segment before carries over.
enum Previous {
    Known(Option<Arc<SegmentIndex>>),
    InFlight(watch::Receiver<Scanned>),
}

/// Tells those who come after a segment what its scan carries over to them; that it carries nothing over when dropped.
pub(super) struct Carrier(watch::Sender<Scanned>);

impl Carrier {
    pub(super) fn carry(self, index: Option<&SegmentIndex>) {
        let carried = index.map(|index| {
            Arc::new(SegmentIndex {
                segment: index.segment,
                segment_size: index.segment_size,
                major: index.major,
                summary: index.summary,
                carry: index.carry.clone(),
                first_record: index.first_record,
                events: Vec::new(),
                blocks: TouchedBlocks::default(),
                damage: Vec::new(),
                damage_count: 0,
                head: Vec::new(),
                head_bytes: 0,
                siblings: Vec::new(),
            })
        });
        self.0.send_replace(Told::of(carried));
    }
}

impl Lanes {
    pub(super) fn new(ctx: Context, behind: Arc<Behind>) -> Arc<Self> {
        Arc::new(Self { ctx, behind, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn for a segment at `path`. Turns are in the order of these calls.
    pub(super) fn enter(
        self: &Arc<Self>,
        incarnation: Incarnation,
        id: SegmentId,
        size: WalSegmentSize,
        path: &Path,
    ) -> (Turn, Carrier) {
        let key = (incarnation, id.timeline);
        let segment = id.name(size);
        let mut state = self.state();
        let previous = self.previous(&mut state, key, id, size, path);
        state.tickets += 1;
        let ticket = state.tickets;
        let lane = state.lanes.entry(key).or_default();
        let same_log = lane.turns.iter().filter(|other| other.segment.log() == segment.log());
        let before = same_log.filter(|other| other.number < id.number);
        let before = before.map(|other| other.sealed.clone()).collect();
        let first = SegmentNumber::new(u64::from(segment.log()) * size.segments_per_log());
        let known_before = lane.known.range(first..id.number).map(|(_, entry)| *entry).collect();
        let (scanned, scanned_by_others) = watch::channel(Told::NotYet);
        let (sealed, sealed_by_others) = watch::channel(Told::NotYet);
        lane.turns.push(Entered {
            ticket,
            segment,
            number: id.number,
            scanned: scanned_by_others,
            sealed: sealed_by_others,
        });
        drop(state);
        let lanes = Arc::clone(self);
        let number = id.number;
        let turn = Turn {
            lanes,
            key,
            ticket,
            segment,
            number,
            previous,
            known_before,
            before,
            sealed,
            durable: None,
        };
        (turn, Carrier(scanned))
    }

    /// What comes before a segment: in flight, remembered here, or left by another process.
    fn previous(
        &self,
        state: &mut State,
        key: LaneKey,
        id: SegmentId,
        size: WalSegmentSize,
        path: &Path,
    ) -> Previous {
        let Some(before) = id.number.previous() else { return Previous::Known(None) };
        let lane = state.lanes.entry(key).or_default();
        if let Some(found) = lane.find(before) {
            return found;
        }
        lane.learn(Memory::read(&self.ctx, key.0, key.1));
        if let Some(found) = lane.find(before) {
            return found;
        }
        // As one by one: the parent's last segment is before the first one of a timeline, and before no other.
        if lane.newest.is_some() || !lane.turns.is_empty() || key.1 == TimelineId::FIRST {
            return Previous::Known(None);
        }
        let Some(before) = parents_segment(path, id.name(size), size) else { return Previous::Known(None) };
        let parent = (key.0, before.timeline);
        let lane = state.lanes.entry(parent).or_default();
        if let Some(found) = lane.find(before.number) {
            return found;
        }
        lane.learn(Memory::read(&self.ctx, parent.0, parent.1));
        lane.find(before.number).unwrap_or(Previous::Known(None))
    }

    /// Writes what was not written yet for other processes.
    pub(super) fn write_memories(self: &Arc<Self>) {
        let state = self.state();
        let dirty: Vec<LaneKey> =
            state.lanes.iter().filter(|(_, lane)| lane.is_dirty).map(|(key, _)| *key).collect();
        drop(state);
        for key in dirty {
            self.write_memory(key);
        }
    }

    fn write_memory(self: &Arc<Self>, key: LaneKey) {
        let lanes = Arc::clone(self);
        self.behind.run(async move {
            // Taken only now, so that an older one never comes after a newer one.
            let Some((memory, known)) = lanes.state().lanes.get_mut(&key).and_then(Lane::take_unwritten)
            else {
                return;
            };
            let write = tokio::task::spawn_blocking(move || memory.write(&lanes.ctx, key.0, known));
            let _ = write.await;
        });
    }

    /// Ends a turn.
    fn leave(self: &Arc<Self>, turn: &mut Turn) {
        let mut state = self.state();
        let Some(lane) = state.lanes.get_mut(&turn.key) else { return };
        lane.turns.retain(|other| other.ticket != turn.ticket);
        if let Some((record, memory)) = turn.durable.take() {
            lane.add(turn.number, &record, memory);
        }
        let complete = lane.take_complete();
        let due = lane.written_at.is_none_or(|at| at.elapsed() >= MEMORY_WRITTEN_EVERY);
        let write = lane.is_dirty && (due || lane.turns.is_empty());
        drop(state);
        if write {
            self.write_memory(turn.key);
        }
        for (record, segment, known) in complete {
            let ctx = self.ctx.clone();
            self.behind.run(async move {
                roll_up_if_complete(&ctx, &record, segment, known, ctx.store_deadline).await;
            });
        }
    }
}

impl Lane {
    fn find(&self, before: SegmentNumber) -> Option<Previous> {
        // The last one, should the same file be pushed twice at once.
        if let Some(turn) = self.turns.iter().rev().find(|turn| turn.number == before) {
            return Some(Previous::InFlight(turn.scanned.clone()));
        }
        let newest = self.newest.as_ref()?;
        let number = newest.index.segment.id(newest.index.segment_size).ok()?.number;
        (number == before).then(|| Previous::Known(Some(Arc::new(newest.index.clone()))))
    }

    /// Takes what another process, or an earlier one, left.
    fn learn(&mut self, memory: Option<Memory>) {
        let Some(memory) = memory else { return };
        if self.newest.as_ref().is_some_and(|own| own.index.segment >= memory.index.segment) {
            return;
        }
        for entry in memory.entries() {
            self.known.entry(entry.number).or_insert(entry);
        }
        self.newest = Some(memory);
    }

    /// Takes a segment that is durable.
    fn add(&mut self, number: SegmentNumber, record: &IncarnationRecord, memory: Memory) {
        let segment = memory.index.segment;
        let per_log = record.segment_size.segments_per_log();
        let last_of_log = SegmentNumber::new(u64::from(segment.log()) * per_log + (per_log - 1));
        let Some(entry) = entry_of(&memory.index, memory.object_bytes, memory.index_bytes) else { return };
        self.known.insert(number, entry);
        let newest = self.newest.as_ref().map(|newest| newest.index.segment);
        let is_late = newest.is_some_and(|newest| newest > segment);
        // Whoever is only overtaken by those after it does not complete anything.
        let has_left = newest.is_some_and(|newest| newest.log() != segment.log());
        if number == last_of_log || (is_late && (has_left || self.known.contains_key(&last_of_log))) {
            self.owed.insert(segment.log(), record.clone());
        }
        if !is_late {
            self.newest = Some(memory);
        }
        self.is_dirty |= !is_late || !has_left;
    }

    /// The LOG directories that may be complete and of which nothing is in flight, with what is known of them; what
    /// nobody needs any more is forgotten.
    fn take_complete(&mut self) -> Vec<(IncarnationRecord, SegmentName, Vec<RollupEntry>)> {
        let flying: BTreeSet<u32> = self.turns.iter().map(|turn| turn.segment.log()).collect();
        let log_of = |number: SegmentNumber, size: WalSegmentSize| number.get() / size.segments_per_log();
        let mut complete = Vec::new();
        self.owed.retain(|log, record| {
            if flying.contains(log) {
                return true;
            }
            let size = record.segment_size;
            let of_log = self.known.values().filter(|entry| log_of(entry.number, size) == u64::from(*log));
            let known: Vec<RollupEntry> = of_log.copied().collect();
            let timeline = self.newest.as_ref().map(|newest| newest.index.segment.timeline());
            if let (Some(last), Some(timeline)) = (known.last(), timeline) {
                complete.push((record.clone(), SegmentId::new(timeline, last.number).name(size), known));
            }
            false
        });
        if let Some(newest) = &self.newest {
            let size = newest.index.segment_size;
            let current = newest.index.segment.log();
            let owed = &self.owed;
            self.known.retain(|number, _| {
                let log = log_of(*number, size);
                log == u64::from(current)
                    || u32::try_from(log).is_ok_and(|log| flying.contains(&log) || owed.contains_key(&log))
            });
        }
        complete
    }

    /// What other processes are to know, if they don't.
    fn take_unwritten(&mut self) -> Option<(Memory, Vec<RollupEntry>)> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        self.written_at = Some(Instant::now());
        let newest = self.newest.clone()?;
        let per_log = newest.index.segment_size.segments_per_log();
        let log = u64::from(newest.index.segment.log());
        let of_log = self.known.values().filter(|entry| entry.number.get() / per_log == log);
        Some((newest, of_log.copied().collect()))
    }
}

impl Turn {
    pub(super) fn segment(&self) -> SegmentName {
        self.segment
    }

    /// Whether it is known by now what the segment before carries over.
    pub(super) fn is_previous_known(&self) -> bool {
        match &self.previous {
            Previous::Known(_) => true,
            // Whoever was to tell it may be gone.
            Previous::InFlight(told) => {
                !matches!(*told.borrow(), Told::NotYet) || told.has_changed().is_err()
            }
        }
    }

    /// Waits for what the segment before carries over.
    pub(super) async fn previous(&self) -> Option<Arc<SegmentIndex>> {
        match &self.previous {
            Previous::Known(index) => index.clone(),
            Previous::InFlight(scanned) => wait_for(scanned.clone()).await,
        }
    }

    /// What the index repeats of the segments before, in rising order. Waits for those in flight to be sealed, because
    /// the sizes of their objects are told.
    pub(super) async fn siblings(&self) -> Vec<RollupEntry> {
        let mut told: BTreeMap<SegmentNumber, RollupEntry> =
            self.known_before.iter().map(|entry| (entry.number, *entry)).collect();
        for sealed in &self.before {
            if let Some(entry) = wait_for(sealed.clone()).await {
                told.insert(entry.number, entry);
            }
        }
        if let Some(lane) = self.lanes.state().lanes.get(&self.key) {
            for entry in told.values_mut() {
                // What is durable has the size that it has, whatever was sealed here.
                *entry = lane.known.get(&entry.number).copied().unwrap_or(*entry);
            }
        }
        let mut told: Vec<RollupEntry> = told.into_values().collect();
        told.split_off(told.len().saturating_sub(SIBLINGS_MAX))
    }

    /// Tells those after it what to repeat of it.
    pub(super) fn sealed(&self, index: Option<&SegmentIndex>, object_bytes: u64, index_bytes: u64) {
        let entry = index.and_then(|index| entry_of(index, object_bytes, index_bytes));
        self.sealed.send_replace(Told::of(entry));
    }

    /// Notes that the segment is in the archive, as an object of this size with an index frame of this size.
    pub(super) fn durable(
        mut self,
        record: &IncarnationRecord,
        index: SegmentIndex,
        (object_bytes, index_bytes): (u64, u64),
    ) {
        let memory = Memory { index: without_contents(index), object_bytes, index_bytes };
        self.durable = Some((record.clone(), memory));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let lanes = Arc::clone(&self.lanes);
        lanes.leave(self);
    }
}

/// Waits until something is told; nothing when whoever was to tell it is gone.
async fn wait_for<T: Clone>(mut told: watch::Receiver<Told<T>>) -> Option<T> {
    match &*told.wait_for(|told| !matches!(told, Told::NotYet)).await.ok()? {
        Told::This(value) => Some(value.clone()),
        Told::Nothing | Told::NotYet => None,
    }
}
