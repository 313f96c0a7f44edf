//! What is fetched ahead, and what of it is still wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use walden_pg::{ArchiveFileName, SegmentId, SegmentName, SegmentNumber};

use super::absence::Absence;
use super::files::WholeFile;
use super::situation::Situation;
use super::timelines::Timelines;

/// A task that is given up when nobody wants its result any more.
#[derive(Debug)]
pub(super) struct Task(pub(super) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where the fetching of a segment stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// Under way, or waiting for its turn.
    Fetching {
        /// Who does it: given up with this.
        task: Arc<Task>,
        /// Whether its turn has come.
        begun: bool,
        /// Closed when it is over.
        over: watch::Receiver<()>,
    },
    /// Verified.
    Ready {
        /// Where it waits.
        file: WholeFile,
        /// Whether it was offered to a hook.
        offered: bool,
        /// While it is being flushed.
        flushing: Option<Flushing>,
    },
}

/// The flushing of a file that nobody has asked for yet.
///
/// It spares recovery the wait for the disk, since PostgreSQL flushes each segment before it replays it. A file is not
/// offered meanwhile: the kernel tells of a write that failed only once, and it must not tell that to us about a file that
/// PostgreSQL has.
#[derive(Debug)]
pub(super) struct Flushing {
    /// Who does it.
    pub(super) _task: Arc<Task>,
    /// Closed when it is over.
    pub(super) over: watch::Receiver<()>,
}

/// A segment that is fetched ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Tells it from one that was given up.
    pub(super) number: u64,
    /// Its name.
    pub(super) name: SegmentName,
    pub(super) stage: Stage,
}

impl Ahead {
    /// Whether a hook may be about to take it.
    pub(super) fn is_offered(&self) -> bool {
        matches!(self.stage, Stage::Ready { offered: true, .. })
    }

    /// Whether it was fetched, and nobody asked for it.
    pub(super) fn is_waste(&self) -> bool {
        matches!(self.stage, Stage::Ready { offered: false, .. })
    }
}

/// What is known of one recovery, and done for it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) situation: Option<Situation>,
    pub(super) timelines: Timelines,
    /// The segment that recovery was given last.
    last: Option<SegmentNumber>,
    /// How many it was given in order, since it began anew or the end of the archive was met.
    run: u32,
    /// Whether the end of the archive was met.
    caught_up: bool,
    /// Nothing is fetched ahead from here on: it was absent, or failed.
    barrier: Option<SegmentNumber>,
    pub(super) ahead: BTreeMap<SegmentNumber, Ahead>,
    /// The history file that was offered last.
    pub(super) history: Option<WholeFile>,
    pub(super) absence: Option<Absence>,
    /// Numbers the tasks.
    pub(super) tasks: u64,
}

impl State {
    /// Forgets everything that was learnt of another recovery. What is returned is for dropping without the lock.
    #[must_use]
    pub(super) fn enter(&mut self, situation: &Situation) -> Option<Self> {
        if self.situation.as_ref() == Some(situation) {
            return None;
        }
        let fresh = Self { situation: Some(situation.clone()), tasks: self.tasks, ..Self::default() };
        Some(std::mem::replace(self, fresh))
    }

    /// Whether a proof of a moment ago answers this ask; one that does not is forgotten.
    pub(super) fn is_known_absent(&mut self, name: ArchiveFileName, now: Duration) -> bool {
        let known = self.absence.as_mut().is_some_and(|absence| absence.answer(name, now));
        self.absence = self.absence.filter(|_| known);
        known
    }

    /// Takes note of an ask that was explained by [`Timelines::note_ask`]: gives up what is not on the way from there,
    /// `max` segments far.
    #[must_use]
    pub(super) fn prune(&mut self, asked: SegmentId, name: SegmentName, max: u64) -> Vec<Ahead> {
        let in_order = self.last.is_none_or(|last| asked.number == last || asked.number == last.next());
        if !in_order {
            self.run = 0;
            self.barrier = None;
        }
        let size = self.situation.as_ref().map(|situation| situation.segment_size);
        let (timelines, end) = (&self.timelines, asked.number.get().saturating_add(max));
        let gone = self.ahead.extract_if(.., |number, ahead| {
            if *number == asked.number {
                return ahead.name != name;
            }
            let next = size.and_then(|size| timelines.first_name(*number, size));
            *number < asked.number || number.get() > end || next != Some(ahead.name)
        });
        gone.map(|(_, ahead)| ahead).collect()
    }

    /// Recovery was given a segment.
    pub(super) fn note_found(&mut self, found: SegmentId) {
        self.timelines.note_found(found);
        if self.last != Some(found.number) {
            self.run = self.run.saturating_add(1);
        }
        self.last = Some(found.number);
        self.barrier = self.barrier.filter(|barrier| found.number < *barrier);
    }

    /// Recovery was told that a segment is absent.
    pub(super) fn note_absent(&mut self, name: SegmentName) {
        self.timelines.note_absent(name);
        self.run = 0;
        self.caught_up = true;
    }

    /// Nothing is to be fetched ahead from this segment on, until recovery has got past it.
    #[must_use]
    pub(super) fn stop_at(&mut self, number: SegmentNumber) -> Vec<Ahead> {
        self.barrier = Some(self.barrier.map_or(number, |barrier| barrier.min(number)));
        let fetching = |ahead: &Ahead| matches!(ahead.stage, Stage::Fetching { .. });
        self.ahead.extract_if(number.., |_, ahead| fetching(ahead)).map(|(_, ahead)| ahead).collect()
    }

    /// The segments to be fetched ahead now, at most `max`, that are not yet.
    pub(super) fn wanted(&self, max: u64) -> Vec<(SegmentNumber, SegmentName)> {
        let (Some(last), Some(situation)) = (self.last, &self.situation) else { return Vec::new() };
        let window = window(self.run, self.caught_up, max);
        let numbers = std::iter::successors(Some(last.next()), |number| Some(number.next()));
        numbers
            .take(usize::try_from(window).unwrap_or(usize::MAX))
            .take_while(|number| self.barrier.is_none_or(|barrier| *number < barrier))
            .filter(|number| !self.ahead.contains_key(number))
            .filter_map(|number| Some((number, self.timelines.first_name(number, situation.segment_size)?)))
            .collect()
    }

    /// How many segments are being fetched, and wait for their turn.
    pub(super) fn fetching(&self) -> u64 {
        let fetching = |ahead: &&Ahead| matches!(ahead.stage, Stage::Fetching { .. });
        self.ahead.values().filter(fetching).count() as u64
    }

    /// The files that are ready and were not offered yet: how many, and their bytes.
    pub(super) fn ready(&self) -> (u64, u64) {
        let bytes = self.ahead.values().filter_map(|ahead| match &ahead.stage {
            Stage::Ready { file, offered: false, .. } => Some(file.identity.bytes),
            _ => None,
        });
        bytes.fold((0, 0), |(files, sum), bytes| (files + 1, sum + bytes))
    }
}

/// How far to fetch ahead after so many segments in order: four after the first, and twice as far after each. A recovery that has met the end of
/// the archive is given one at a time as they arrive, and only more than one in a row show that there is something ahead.
fn window(run: u32, caught_up: bool, max: u64) -> u64 {
    match run.saturating_sub(u32::from(caught_up)) {
        0 => 0,
        steps => (2_u64 << steps.min(32)).min(max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_and_stays_inside_its_bounds() {
        let windows = |caught_up| (0..5).map(|run| window(run, caught_up, 7)).collect::<Vec<_>>();
        assert_eq!(windows(false), [0, 4, 7, 7, 7]);
        assert_eq!(windows(true), [0, 0, 4, 7, 7]);
        assert_eq!(window(u32::MAX, false, u64::MAX), 1 << 33);
        assert_eq!(window(3, false, 0), 0);
    }
}
