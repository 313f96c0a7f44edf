//! Which segments recovery will ask for next.
//!
//! `XLogFileReadAnyTLI` in `src/backend/access/transam/xlogrecovery.c` (13 and 14: `xlog.c`) asks for a segment on every
//! timeline of the expected history from the newest to the oldest, leaving out those that begin in a later segment, and
//! stops at those older than the one it read last. Which history is expected it tells nobody, but it asked for the file,
//! and keeps it in `pg_wal`.

use std::collections::BTreeMap;
use std::path::Path;

use walden_pg::{
    ArchiveFileName, SegmentId, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize,
};

use crate::fs::read_if_present;

/// A larger history file is not looked at, in bytes: each ancestor takes a line.
const HISTORY_BYTES_MAX: u64 = 1 << 20;
/// No more history files than these are looked at in `pg_wal`, the newest.
const HISTORIES_MAX: usize = 256;

/// What is known of the timelines that recovery follows.
#[derive(Debug, Default)]
pub(super) struct Timelines {
    known: BTreeMap<TimelineId, TimelineHistory>,
    /// Whether `pg_wal` was looked through.
    looked: bool,
    /// The timeline of the segment that recovery read last (`curFileTLI`).
    current: Option<TimelineId>,
    /// What recovery asked for in vain since it read a segment.
    missed: Vec<SegmentName>,
    /// The history by which the next asks are foretold.
    expected: Option<TimelineHistory>,
}

impl Timelines {
    /// Takes note of a history file that recovery was given.
    pub(super) fn learn(&mut self, timeline: TimelineId, file: &Path) {
        let bytes = read_if_present(file, HISTORY_BYTES_MAX).ok().flatten();
        // What can't be read, recovery can't follow either.
        let history = bytes.and_then(|bytes| TimelineHistory::parse(timeline, &bytes).ok());
        if let Some(history) = history {
            self.known.insert(timeline, history);
        }
    }

    /// Takes note of an ask, and decides which history is followed: the newest one that explains it.
    ///
    /// `directory` is `pg_wal`: a recovery that began before us has left there the histories that it asked for.
    pub(super) fn note_ask(&mut self, segment: SegmentId, size: WalSegmentSize, directory: &Path) {
        if self.current.is_some_and(|current| segment.timeline < current) {
            // It started over.
            self.current = None;
        }
        if !self.known.contains_key(&segment.timeline) && !self.looked {
            self.looked = true;
            self.look_through(directory);
        }
        let explains = |history: &&TimelineHistory| self.explains(history, segment, size);
        let newest = self.known.values().rev().find(explains).cloned();
        self.expected = newest.or_else(|| Some(TimelineHistory::without_parents(segment.timeline)));
    }

    /// Recovery was given a segment.
    pub(super) fn note_found(&mut self, segment: SegmentId) {
        self.missed.clear();
        self.current = Some(segment.timeline);
    }

    /// Recovery was told that a segment is absent.
    pub(super) fn note_absent(&mut self, name: SegmentName) {
        if self.missed.last() != Some(&name) && self.missed.len() < HISTORIES_MAX {
            self.missed.push(name);
        }
    }

    /// The name under which recovery will ask for a segment first. It asks for an older timeline's only when that one is
    /// absent: then something is missing at a fork, and the asks are answered one by one.
    pub(super) fn first_name(&self, number: SegmentNumber, size: WalSegmentSize) -> Option<SegmentName> {
        let timeline = searched(self.expected.as_ref()?, number, size, self.current).next()?;
        Some(SegmentId::new(timeline, number).name(size))
    }

    /// The newest timeline of the history that is followed: the next one that recovery looks for is newer.
    pub(super) fn newest(&self) -> Option<TimelineId> {
        self.expected.as_ref().map(TimelineHistory::timeline)
    }

    /// Whether recovery would ask for this segment if it followed this history: all newer timelines that it would have
    /// asked for before were asked for in vain.
    fn explains(&self, history: &TimelineHistory, segment: SegmentId, size: WalSegmentSize) -> bool {
        for timeline in searched(history, segment.number, size, self.current) {
            if timeline == segment.timeline {
                return true;
            }
            if !self.missed.contains(&SegmentId::new(timeline, segment.number).name(size)) {
                return false;
            }
        }
        false
    }

    fn look_through(&mut self, directory: &Path) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut found: Vec<TimelineId> = names
            .filter_map(|name| match name {
                ArchiveFileName::History(timeline) => Some(timeline),
                _ => None,
            })
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        for timeline in found.into_iter().take(HISTORIES_MAX) {
            if !self.known.contains_key(&timeline) {
                self.learn(timeline, &directory.join(ArchiveFileName::History(timeline).to_string()));
            }
        }
    }
}

/// The timelines on which recovery looks for a segment, in order.
fn searched(
    history: &TimelineHistory,
    number: SegmentNumber,
    size: WalSegmentSize,
    current: Option<TimelineId>,
) -> impl Iterator<Item = TimelineId> + '_ {
    history
        .ranges()
        .take_while(move |range| current.is_none_or(|current| range.timeline >= current))
        .filter(move |range| !range.begin.is_valid() || size.segment_of(range.begin) <= number)
        .map(|range| range.timeline)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::MIN;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn segment(timeline: u32, number: u64) -> SegmentId {
        SegmentId::new(tli(timeline), SegmentNumber::new(number))
    }

    fn names(timelines: &Timelines, number: u64) -> Vec<(u32, u64)> {
        let number = SegmentNumber::new(number);
        let history = timelines.expected.as_ref().unwrap();
        let names: Vec<(u32, u64)> = searched(history, number, SIZE, timelines.current)
            .map(|timeline| (timeline.get(), number.get()))
            .collect();
        let first = timelines.first_name(number, SIZE).map(|name| name.id(SIZE).unwrap());
        assert_eq!(first.map(|id| (id.timeline.get(), id.number.get())), names.first().copied());
        names
    }

    /// `forks`: parent, and the segment in whose middle it was left.
    fn history(timeline: u32, forks: &[(u32, u64)]) -> String {
        let lines = forks.iter().map(|(parent, at)| {
            let lsn = SIZE.start_of(SegmentNumber::new(*at)).saturating_add(4096);
            format!("{parent}\t{lsn}\tpromoted\n")
        });
        let text: String = lines.collect();
        TimelineHistory::parse(tli(timeline), text.as_bytes()).unwrap().render()
    }

    struct Bench(tempfile::TempDir, Timelines);

    impl Bench {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), Timelines::default())
        }

        fn write(&self, timeline: u32, forks: &[(u32, u64)]) -> std::path::PathBuf {
            let path = self.0.path().join(format!("{timeline:08X}.history"));
            std::fs::write(&path, history(timeline, forks)).unwrap();
            path
        }

        fn ask(&mut self, timeline: u32, number: u64) {
            self.1.note_ask(segment(timeline, number), SIZE, self.0.path());
        }

        fn found(&mut self, timeline: u32, number: u64) {
            self.ask(timeline, number);
            self.1.note_found(segment(timeline, number));
        }

        fn absent(&mut self, timeline: u32, number: u64) {
            self.ask(timeline, number);
            self.1.note_absent(segment(timeline, number).name(SIZE));
        }
    }

    #[test]
    fn without_a_history_the_same_timeline_goes_on() {
        let mut bench = Bench::new();
        bench.found(1, 5);
        assert_eq!(names(&bench.1, 6), [(1, 6)]);
        assert_eq!(bench.1.newest(), Some(tli(1)));
    }

    #[test]
    fn the_child_is_taken_from_the_segment_of_the_fork_on() {
        let mut bench = Bench::new();
        let file = bench.write(3, &[(1, 10), (2, 12)]);
        bench.1.learn(tli(3), &file);
        bench.found(1, 8);
        assert_eq!(names(&bench.1, 9), [(1, 9)]);
        assert_eq!(names(&bench.1, 10), [(2, 10), (1, 10)]);
        assert_eq!(names(&bench.1, 12), [(3, 12), (2, 12), (1, 12)]);
        bench.found(2, 10);
        assert_eq!(names(&bench.1, 11), [(2, 11)]);
        assert_eq!(names(&bench.1, 12), [(3, 12), (2, 12)]);
    }

    #[test]
    fn a_recovery_that_began_before_is_told_by_the_histories_in_pg_wal() {
        let mut bench = Bench::new();
        bench.write(2, &[(1, 10)]);
        // A side branch that is newer, and does not explain an ask on timeline 2.
        bench.write(3, &[(1, 10)]);
        bench.found(2, 11);
        assert_eq!(names(&bench.1, 12), [(2, 12)]);
        assert_eq!(bench.1.newest(), Some(tli(2)));
    }

    #[test]
    fn an_ask_that_a_history_does_not_explain_ends_its_use() {
        let mut bench = Bench::new();
        let file = bench.write(2, &[(1, 10)]);
        bench.1.learn(tli(2), &file);
        bench.found(1, 9);
        assert_eq!(names(&bench.1, 10), [(2, 10), (1, 10)]);
        // Recovery stays on timeline 1: that is its target.
        bench.found(1, 10);
        assert_eq!(names(&bench.1, 11), [(1, 11)]);
    }

    #[test]
    fn the_parent_after_a_miss_on_the_child_is_explained() {
        let mut bench = Bench::new();
        let file = bench.write(2, &[(1, 10)]);
        bench.1.learn(tli(2), &file);
        bench.found(1, 9);
        bench.absent(2, 10);
        bench.found(1, 10);
        assert_eq!(names(&bench.1, 11), [(2, 11), (1, 11)]);
    }

    #[test]
    fn a_switch_point_before_the_one_of_the_parent_is_read_as_postgresql_does() {
        let mut bench = Bench::new();
        let file = bench.write(3, &[(1, 12), (2, 10)]);
        bench.1.learn(tli(3), &file);
        bench.found(1, 9);
        assert_eq!(names(&bench.1, 10), [(3, 10), (1, 10)]);
    }

    /// What `XLogFileReadAnyTLI` asks for, written down from its source.
    fn read_any_tli(history: &TimelineHistory, number: u64, current: u32) -> Vec<u32> {
        let mut asked = Vec::new();
        for entry in history.ranges() {
            if entry.timeline.get() < current {
                break;
            }
            if entry.begin.is_valid() && number < entry.begin.get() / SIZE.bytes() {
                continue;
            }
            asked.push(entry.timeline.get());
        }
        asked
    }

    proptest! {
        #[test]
        fn the_asks_are_those_of_postgresql(
            forks in prop::collection::vec(1_u64..30, 1..5),
            numbers in prop::collection::vec(1_u64..40, 1..20),
            present: u64,
        ) {
            let mut bench = Bench::new();
            let forks: Vec<(u32, u64)> = (1..).zip(forks).collect();
            let newest = u32::try_from(forks.len()).unwrap() + 1;
            let file = bench.write(newest, &forks);
            bench.1.learn(tli(newest), &file);
            let text = std::fs::read(&file).unwrap();
            let history = TimelineHistory::parse(tli(newest), &text).unwrap();
            let mut current = 0;
            for number in numbers {
                let asks = read_any_tli(&history, number, current);
                let Some(&last) = asks.last() else { break };
                for timeline in asks.iter().copied() {
                    bench.ask(timeline, number);
                    // The history is the only one there is: every ask of a recovery along it is explained.
                    prop_assert_eq!(bench.1.newest(), Some(tli(newest)));
                    let foretold: Vec<u32> =
                        names(&bench.1, number).into_iter().map(|(timeline, _)| timeline).collect();
                    prop_assert_eq!(&foretold, &asks);
                    if timeline == last || present >> (number % 64) & 1 == 1 {
                        bench.1.note_found(segment(timeline, number));
                        current = timeline;
                        break;
                    }
                    bench.1.note_absent(segment(timeline, number).name(SIZE));
                }
            }
        }
    }
}
