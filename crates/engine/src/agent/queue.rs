//! Which file is archived next.
//!
//! The order is PostgreSQL's (`src/backend/postmaster/pgarch.c`): history files first, then by name. Before all stands what
//! a hook waits for. A file that fails is tried again later and later, and keeps no other from its turn; when the failure
//! is not the file's own but the archive's, nothing is tried ahead for a while.
//!
//! Pure: it is told what happens and when, and says what to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use walden_core::ErrorKind;
use walden_pg::ArchiveFileName;

/// The pause after a file's first failure; it doubles with every further one.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// A file that was archived is not archived again ahead for this long, when there is no ack.
const AGAIN_AFTER: Duration = Duration::from_mins(15);
/// Files that hooks wait for are begun even when all places are taken, up to so many.
pub(super) const PLACES_FOR_HOOKS: u32 = 2;

/// A file's place in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    behind_histories: bool,
    name: String,
}

impl Place {
    fn of(name: &str) -> Self {
        let history = matches!(name.parse(), Ok(ArchiveFileName::History(_)));
        Self { behind_histories: !history, name: name.to_owned() }
    }
}

/// A file that PostgreSQL wants archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ready {
    /// The date of its `.ready` file.
    since: Timestamp,
    failed: u32,
    not_before: Duration,
    /// Archived by us since its `.ready` file came.
    archived: bool,
}

/// How a push ended, as far as the queue is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PushEnd {
    /// The file is in the archive.
    Archived,
    /// It failed with an error of this kind.
    Failed(ErrorKind),
}

/// What may be begun now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Files in flight at most.
    pub(super) in_flight_max: usize,
    /// Whether files may be begun that no hook waits for.
    pub(super) ahead: bool,
}

/// The files that PostgreSQL wants archived, those that hooks wait for, and those in flight.
#[derive(Debug, Default)]
pub(super) struct PushQueue {
    ready: BTreeMap<Place, Ready>,
    asked: VecDeque<String>,
    in_flight: BTreeSet<String>,
    /// Failures in a row that were not a file's own.
    failed: u32,
    ahead_not_before: Duration,
}

impl PushQueue {
    /// Takes what a look at `archive_status` found: each file with the date of its `.ready` file. Files that are not among
    /// them need not be archived any more. Names that PostgreSQL does not archive are left out.
    pub(super) fn replace(&mut self, found: impl IntoIterator<Item = (String, Timestamp)>) {
        let mut before = std::mem::take(&mut self.ready);
        for (name, since) in found {
            if is_archivable(&name) {
                let place = Place::of(&name);
                let known = before.remove(&place).map(|ready| Ready { since, ..ready });
                self.ready.insert(place, known.unwrap_or(Ready::new(since)));
            }
        }
    }

    /// A `.ready` file appeared.
    pub(super) fn add(&mut self, name: &str, since: Timestamp) {
        if is_archivable(name) {
            let ready = self.ready.entry(Place::of(name)).or_insert(Ready::new(since));
            ready.since = since;
        }
    }

    /// A `.ready` file is gone.
    pub(super) fn remove(&mut self, name: &str) {
        self.ready.remove(&Place::of(name));
    }

    /// Whether the `.ready` file of a name is there.
    pub(super) fn is_ready(&self, name: &str) -> bool {
        self.ready.contains_key(&Place::of(name))
    }

    /// The date of a `.ready` file.
    pub(super) fn ready_since(&self, name: &str) -> Option<Timestamp> {
        self.ready.get(&Place::of(name)).map(|ready| ready.since)
    }

    /// A hook waits for this file: it is next, whether it failed a moment ago or not.
    pub(super) fn ask(&mut self, name: &str) {
        if !self.asked.iter().any(|asked| asked == name) {
            self.asked.push_back(name.to_owned());
        }
    }

    /// Nobody waits for this file any more.
    pub(super) fn unask(&mut self, name: &str) {
        self.asked.retain(|asked| asked != name);
    }

    /// Takes the file that is to be begun now, if there is one. `archived` tells those that need not be pushed.
    pub(super) fn next(
        &mut self,
        now: Duration,
        allowance: Allowance,
        archived: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let most = if self.asked.is_empty() { 0 } else { PLACES_FOR_HOOKS as usize };
        if self.in_flight.len() >= allowance.in_flight_max + most {
            return None;
        }
        let free = |name: &String| !self.in_flight.contains(name);
        let name = match self.asked.iter().find(|name| free(name)) {
            Some(name) => name.clone(),
            None => self.next_ahead(now, allowance, archived)?,
        };
        self.in_flight.insert(name.clone());
        Some(name)
    }

    fn next_ahead(
        &self,
        now: Duration,
        allowance: Allowance,
        archived: impl Fn(&str) -> bool,
    ) -> Option<String> {
        if !allowance.ahead || now < self.ahead_not_before || self.in_flight.len() >= allowance.in_flight_max
        {
            return None;
        }
        let fits = |place: &Place, ready: &Ready| {
            ready.not_before <= now && !self.in_flight.contains(&place.name) && !archived(&place.name)
        };
        let found = self.ready.iter().find(|(place, ready)| fits(place, ready));
        found.map(|(place, _)| place.name.clone())
    }

    /// A push ended.
    pub(super) fn ended(&mut self, name: &str, end: PushEnd, now: Duration) {
        self.in_flight.remove(name);
        match end {
            PushEnd::Archived => {
                self.failed = 0;
                self.ahead_not_before = Duration::ZERO;
                if let Some(ready) = self.ready.get_mut(&Place::of(name)) {
                    // Mostly there is an ack. When it could not be kept, this keeps the file from being pushed for ever.
                    *ready = Ready { failed: 0, not_before: now + AGAIN_AFTER, archived: true, ..*ready };
                }
            }
            PushEnd::Failed(kind) => {
                if let Some(ready) = self.ready.get_mut(&Place::of(name)) {
                    ready.failed = ready.failed.saturating_add(1);
                    ready.not_before = now + pause(ready.failed);
                }
                if !is_of_the_file(kind) {
                    self.failed = self.failed.saturating_add(1);
                    self.ahead_not_before = now + pause(self.failed);
                }
            }
        }
    }

    /// When [`Self::next`] may have something that it does not have now, other than by an event.
    pub(super) fn wakes_at(&self, now: Duration) -> Option<Duration> {
        let files = self.ready.values().map(|ready| ready.not_before);
        files.chain([self.ahead_not_before]).filter(|at| *at > now).min()
    }

    /// How many `.ready` files there are.
    pub(super) fn ready_files(&self) -> usize {
        self.ready.len()
    }

    /// Whether a file is in flight.
    pub(super) fn is_in_flight(&self, name: &str) -> bool {
        self.in_flight.contains(name)
    }

    /// How many files are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many files were archived and are still wanted, as far as `max`: PostgreSQL has not asked for them yet.
    pub(super) fn archived_ahead(&self, max: usize) -> usize {
        self.ready.values().filter(|ready| ready.archived).take(max).count()
    }

    /// The files that are not archived, in their order, with the dates of their `.ready` files.
    pub(super) fn unarchived<'a>(
        &'a self,
        archived: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a str, Timestamp)> + 'a {
        let all = self.ready.iter().filter(move |(place, _)| !archived(&place.name));
        all.map(|(place, ready)| (place.name.as_str(), ready.since))
    }

    /// The files that failed: name, how often, and how long until they are tried again.
    pub(super) fn retries(&self, now: Duration) -> impl Iterator<Item = (&str, u32, Duration)> {
        let failed = self.ready.iter().filter(|(_, ready)| ready.failed > 0);
        failed.map(move |(place, ready)| {
            (place.name.as_str(), ready.failed, ready.not_before.saturating_sub(now))
        })
    }
}

impl Ready {
    fn new(since: Timestamp) -> Self {
        Self { since, failed: 0, not_before: Duration::ZERO, archived: false }
    }
}

fn is_archivable(name: &str) -> bool {
    name.parse::<ArchiveFileName>().is_ok()
}

fn pause(failed: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

/// Whether a failure says something about the file, and nothing about the next one.
pub(super) fn is_of_the_file(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::LocalIo)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const ALL: Allowance = Allowance { in_flight_max: 3, ahead: true };

    fn queue(names: &[&str]) -> PushQueue {
        let mut queue = PushQueue::default();
        queue.replace(names.iter().map(|name| ((*name).to_owned(), Timestamp::UNIX_EPOCH)));
        queue
    }

    fn segment(number: u32) -> String {
        format!("0000000100000000{number:08X}")
    }

    fn next(queue: &mut PushQueue) -> Option<String> {
        queue.next(NOW, ALL, |_| false)
    }

    #[test]
    fn histories_first_then_by_name_and_before_all_what_is_waited_for() {
        let names = [
            "000000020000000000000003",
            "000000010000000000000002.00000028.backup",
            "00000003.history",
            "000000010000000000000002",
            "00000002.history",
            "000000010000000000000002.partial",
            "walden.conf",
            "000000010000000000000002.temp",
        ];
        let mut queue = queue(&names);
        queue.ask("000000090000000000000001");
        let allowance = Allowance { in_flight_max: 99, ahead: true };
        let order: Vec<_> = std::iter::from_fn(|| queue.next(NOW, allowance, |_| false)).collect();
        let expected = [
            "000000090000000000000001",
            "00000002.history",
            "00000003.history",
            "000000010000000000000002",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000002.partial",
            "000000020000000000000003",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_hook_finds_a_place_even_when_all_are_taken() {
        let names: Vec<_> = (0..9).map(segment).collect();
        let mut queue = queue(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(std::iter::from_fn(|| next(&mut queue)).count(), 3);
        queue.ask(&names[7]);
        assert_eq!(next(&mut queue).as_ref(), Some(&names[7]));
        assert_eq!(next(&mut queue), None);
        // What is in flight already is not begun again.
        queue.ask(&names[0]);
        assert_eq!(next(&mut queue), None);
    }

    #[test]
    fn nothing_is_begun_ahead_unless_allowed_and_nothing_that_is_archived() {
        let mut queue = queue(&[&segment(1), &segment(2)]);
        let asked_only = Allowance { ahead: false, ..ALL };
        assert_eq!(queue.next(NOW, asked_only, |_| false), None);
        queue.ask(&segment(2));
        assert_eq!(queue.next(NOW, asked_only, |_| false), Some(segment(2)));
        queue.unask(&segment(2));
        assert_eq!(queue.next(NOW, ALL, |name| name == segment(1)), None);
        assert_eq!(next(&mut queue), Some(segment(1)));
    }

    #[test]
    fn a_file_that_fails_waits_longer_each_time_and_stops_no_other() {
        let mut queue = queue(&[&segment(1), &segment(2)]);
        let mut now = NOW;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(queue.next(now, ALL, |_| false), Some(segment(1)));
            queue.ended(&segment(1), PushEnd::Failed(ErrorKind::Conflict), now);
            assert_eq!(queue.next(now, ALL, |_| false), Some(segment(2)), "the other goes on");
            queue.ended(&segment(2), PushEnd::Archived, now);
            assert_eq!(queue.next(now, ALL, |_| false), None, "not again, even without an ack");
            assert_eq!(queue.wakes_at(now), Some(now + Duration::from_secs(expected)));
            assert_eq!(queue.next(now + Duration::from_millis(expected * 999), ALL, |_| false), None);
            now += Duration::from_secs(expected);
            queue.replace([(segment(1), Timestamp::UNIX_EPOCH)]);
            queue.add(&segment(2), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(queue.retries(now).collect::<Vec<_>>(), [(segment(1).as_str(), 8, Duration::ZERO)]);
        queue.ended(&segment(1), PushEnd::Failed(ErrorKind::Conflict), now);
        queue.ask(&segment(1));
        assert_eq!(queue.next(now, ALL, |_| true), Some(segment(1)), "a hook does not wait for that");
    }

    #[test]
    fn when_the_archive_fails_only_what_is_waited_for_is_tried() {
        let names: Vec<_> = (0..2_000).map(segment).collect();
        let mut queue = queue(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut now, mut tries) = (NOW, 0);
        while now < NOW + Duration::from_mins(10) {
            while let Some(name) = queue.next(now, ALL, |_| false) {
                tries += 1;
                queue.ended(&name, PushEnd::Failed(ErrorKind::Denied), now);
            }
            now += Duration::from_millis(100);
        }
        assert!((10..30).contains(&tries), "{tries}");
        queue.ask(&names[5]);
        assert_eq!(queue.next(now, ALL, |_| false).as_ref(), Some(&names[5]));
        queue.ended(&names[5], PushEnd::Archived, now);
        queue.unask(&names[5]);
        assert!(queue.next(now, ALL, |_| false).is_some(), "one success ends the pause");
    }

    #[test]
    fn a_new_look_keeps_what_is_known_of_a_file() {
        let mut queue = queue(&[&segment(1), &segment(2)]);
        assert_eq!(next(&mut queue), Some(segment(1)));
        queue.ended(&segment(1), PushEnd::Failed(ErrorKind::Invalid), NOW);
        queue.replace([(segment(1), Timestamp::UNIX_EPOCH), (segment(3), Timestamp::UNIX_EPOCH)]);
        assert_eq!(queue.retries(NOW).count(), 1);
        assert!(!queue.is_ready(&segment(2)));
        assert_eq!(next(&mut queue), Some(segment(3)));
        queue.ended(&segment(3), PushEnd::Archived, NOW);
        assert_eq!(queue.archived_ahead(9), 1);
        queue.remove(&segment(1));
        assert_eq!((queue.ready_files(), queue.in_flight(), queue.archived_ahead(9)), (1, 0, 1));
        // Its next `.ready` file is of another file.
        queue.remove(&segment(3));
        queue.add(&segment(3), Timestamp::UNIX_EPOCH);
        assert_eq!((queue.archived_ahead(9), next(&mut queue)), (0, Some(segment(3))));
    }

    proptest! {
        #[test]
        fn no_file_is_ever_in_flight_twice_nor_more_than_allowed(
            events in prop::collection::vec((0_u8..6, 0_u32..12), 1..200),
        ) {
            let mut queue = PushQueue::default();
            let mut flying = BTreeSet::new();
            for (at, (event, number)) in events.into_iter().enumerate() {
                let (now, name) = (Duration::from_secs(at as u64), segment(number));
                match event {
                    0 => queue.add(&name, Timestamp::UNIX_EPOCH),
                    1 => queue.remove(&name),
                    2 => queue.ask(&name),
                    3 => queue.unask(&name),
                    4 => {
                        if let Some(name) = queue.next(now, ALL, |_| false) {
                            prop_assert!(flying.insert(name));
                        }
                    }
                    _ => if let Some(name) = flying.pop_first() {
                        let end = if number % 2 == 0 { PushEnd::Archived } else { PushEnd::Failed(ErrorKind::Denied) };
                        queue.ended(&name, end, now);
                    }
                }
                prop_assert!(flying.len() <= ALL.in_flight_max + PLACES_FOR_HOOKS as usize);
                prop_assert_eq!(queue.in_flight(), flying.len());
            }
        }
    }
}
