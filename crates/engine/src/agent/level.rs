//! How hard to compress, decided anew every second from what waits and from what was busy.
//!
//! The steps go from the best level allowed to the fastest one. There are three situations:
//! - **Nothing waits.** There is time: a step towards the best level.
//! - **Files wait and all sealers are busy.** The processor is the limit: towards the fastest level, one step when twice as
//!   many files wait as there are sealers, and one more with every doubling. At once, because the queue grows meanwhile.
//! - **Files wait and a sealer is idle.** When everything that may be in flight is being sent, the network is the limit:
//!   smaller objects help, and there is a core to make them; a step towards the best level. When not, it is the memory,
//!   which is free again the sooner a file is sealed: if the queue grows, a step towards the fastest level.
//!
//! Steps towards the best level are taken slowly, one after [`CALM_STEPS`] observations that all ask for it, those towards
//! the fastest at once; so the level does not flutter at the border between two of them. Where it came nearer to the best
//! one because of the network and finds the processor busy, it goes back by one step, and so stays where both are.

use serde::{Deserialize, Serialize};
use walden_store::CompressionLevel;

/// So many observations in a row must ask for a better level before it gets one step better.
pub const CALM_STEPS: u32 = 4;
/// Files may wait, per sealer, before compression gets faster.
const WAITING_PER_SEALER: u64 = 2;
/// The levels worth choosing between for WAL, best first: what lies between them takes more time than the next one and saves
/// nothing (docs/benchmarks.md has the table). Below -3 an eighth to a fifth of the time is saved for objects half as large
/// again: that is for a queue that has doubled three times since -3 was reached, so -3 stands there for three steps.
const USEFUL: [i32; 6] = [6, 1, -1, -3, -3, -3];

/// The levels that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelRange {
    best: i32,
    fastest: i32,
}

impl LevelRange {
    /// From `best` to `fastest`; a `fastest` that compresses harder than `best` counts as `best`, so that the level is
    /// always the same.
    #[must_use]
    pub fn new(best: CompressionLevel, fastest: CompressionLevel) -> Self {
        // 0 is zstd's other word for 3.
        let number = |level: CompressionLevel| if level.get() == 0 { 3 } else { level.get() };
        Self { best: number(best), fastest: number(fastest).min(number(best)) }
    }

    /// The best level.
    #[must_use]
    pub fn best(self) -> i32 {
        self.best
    }

    /// The fastest level.
    #[must_use]
    pub fn fastest(self) -> i32 {
        self.fastest
    }

    /// The levels, best first: both ends, and between them those that are worth it.
    fn levels(self) -> impl Iterator<Item = i32> {
        let between = USEFUL.into_iter().filter(move |level| self.fastest < *level && *level < self.best);
        let fastest = (self.fastest < self.best).then_some(self.fastest);
        std::iter::once(self.best).chain(between).chain(fastest)
    }

    /// How many steps lie between the two.
    fn steps(self) -> u32 {
        u32::try_from(self.levels().count()).unwrap_or(1).saturating_sub(1)
    }

    /// The level so many steps from the best one.
    fn at(self, step: u32) -> CompressionLevel {
        let level = self.levels().nth(step as usize).unwrap_or(self.fastest);
        CompressionLevel::new(level).unwrap_or(CompressionLevel::DEFAULT)
    }
}

/// What was known over the last second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelFacts {
    /// Files that wait and are not begun.
    pub waiting: u64,
    /// The same a second before.
    pub waiting_before: u64,
    /// Files that may be compressed at once.
    pub sealers: u64,
    /// Whether mostly that many were.
    pub sealers_busy: bool,
    /// Whether mostly everything that may be in flight was, and was being sent.
    pub senders_busy: bool,
}

/// Why the level is what it is: the last situation that changed it or kept it at an end of the range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelReason {
    /// Nothing waits.
    #[default]
    Idle,
    /// Files wait or are being archived, and nothing asks for another level.
    Steady,
    /// Files wait for the processor.
    Backlog,
    /// Files wait for the network.
    Network,
    /// Files wait for memory.
    Memory,
}

impl LevelReason {
    /// The word used in JSON and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Steady => "steady",
            Self::Backlog => "backlog",
            Self::Network => "network",
            Self::Memory => "memory",
        }
    }
}

/// The level, and what led to it. Begins at the best level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelState {
    step: u32,
    calm: u32,
    reason: LevelReason,
}

/// What a situation asks for.
enum Wish {
    /// At least so many steps from the best level.
    Faster(u32, LevelReason),
    /// One step towards the best level.
    Better(LevelReason),
    /// Nothing.
    Stay,
}

impl LevelState {
    /// The level for the next file.
    #[must_use]
    pub fn level(self, range: LevelRange) -> CompressionLevel {
        range.at(self.step)
    }

    /// Why.
    #[must_use]
    pub fn reason(self) -> LevelReason {
        self.reason
    }

    /// Why, told while files wait or are being archived, or none is: never that nothing waits while something does.
    #[must_use]
    pub fn reason_while(self, works: bool) -> LevelReason {
        if works && self.reason == LevelReason::Idle { LevelReason::Steady } else { self.reason }
    }

    /// The state after one more observation: once a second.
    #[must_use]
    pub fn next(self, range: LevelRange, facts: &LevelFacts) -> Self {
        match self.wish(facts) {
            Wish::Faster(step, reason) => {
                // Where the network was the limit a moment ago, the way back is one step: the best level is near.
                let most = if self.reason == LevelReason::Network { self.step + 1 } else { range.steps() };
                // What is faster already stays so: there is work waiting.
                let step = self.step.max(step.min(most)).min(range.steps());
                Self { step, calm: 0, reason }
            }
            Wish::Better(reason) if self.step == 0 => Self { step: 0, calm: 0, reason },
            Wish::Better(reason) if self.calm + 1 >= CALM_STEPS => {
                Self { step: self.step - 1, calm: 0, reason }
            }
            Wish::Better(_) => Self { calm: self.calm + 1, ..self },
            Wish::Stay => Self { calm: 0, ..self },
        }
    }

    fn wish(self, facts: &LevelFacts) -> Wish {
        if facts.waiting == 0 {
            return Wish::Better(LevelReason::Idle);
        }
        let bearable = WAITING_PER_SEALER * facts.sealers.max(1);
        if facts.sealers_busy {
            return match (facts.waiting / bearable).checked_ilog2() {
                None => Wish::Stay,
                Some(doublings) => Wish::Faster(doublings + 1, LevelReason::Backlog),
            };
        }
        if facts.senders_busy {
            return Wish::Better(LevelReason::Network);
        }
        if facts.waiting > facts.waiting_before && facts.waiting >= bearable {
            return Wish::Faster(self.step + 1, LevelReason::Memory);
        }
        Wish::Stay
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(best: i32, fastest: i32) -> LevelRange {
        let level = |level| CompressionLevel::new(level).unwrap();
        LevelRange::new(level(best), level(fastest))
    }

    fn facts(waiting: u64, sealers_busy: bool, senders_busy: bool) -> LevelFacts {
        LevelFacts { waiting, waiting_before: waiting, sealers: 2, sealers_busy, senders_busy }
    }

    fn after(mut state: LevelState, range: LevelRange, times: u32, facts: &LevelFacts) -> (i32, LevelReason) {
        for _ in 0..times {
            state = state.next(range, facts);
        }
        (state.level(range).get(), state.reason())
    }

    #[test]
    fn the_ladder_has_both_ends_and_what_is_worth_it_between() {
        let levels =
            |range: LevelRange| (0..=range.steps()).map(|step| range.at(step).get()).collect::<Vec<_>>();
        assert_eq!(levels(range(1, -3)), [1, -1, -3]);
        assert_eq!(levels(range(3, -2)), [3, 1, -1, -2]);
        assert_eq!(levels(range(19, -7)), [19, 6, 1, -1, -3, -3, -3, -7], "the last one is for a long queue");
        assert_eq!(levels(range(-1, -3)), [-1, -3]);
        assert_eq!(levels(range(9, 7)), [9, 7]);
        assert_eq!(levels(range(1, 5)), [1], "a range the wrong way round is one level");
        assert_eq!(levels(range(0, -1)), [3, 1, -1], "0 is another word for 3");
        assert_eq!(range(3, -2).at(99).get(), -2);
    }

    #[test]
    fn the_longer_the_queue_the_faster_while_the_processor_is_the_limit() {
        let range = range(6, -3);
        let level = |waiting| after(LevelState::default(), range, 1, &facts(waiting, true, false));
        assert_eq!(level(3), (6, LevelReason::Idle), "a short queue is none");
        assert_eq!(level(4), (1, LevelReason::Backlog));
        assert_eq!(level(8), (-1, LevelReason::Backlog));
        assert_eq!(level(16), (-3, LevelReason::Backlog));
        assert_eq!(level(2_000), (-3, LevelReason::Backlog));
    }

    #[test]
    fn size_is_given_up_for_speed_only_when_the_queue_is_long() {
        let range = range(1, -7);
        let level = |waiting| after(LevelState::default(), range, 9, &facts(waiting, true, false)).0;
        assert_eq!([3, 4, 8, 16, 63, 64, 2_000].map(level), [1, -1, -3, -3, -3, -7, -7]);
    }

    #[test]
    fn nothing_is_told_to_be_idle_while_files_wait() {
        let state = LevelState::default();
        assert_eq!(state.reason_while(false), LevelReason::Idle);
        assert_eq!(state.reason_while(true), LevelReason::Steady);
        let busy = state.next(range(6, -3), &facts(2_000, true, false));
        assert_eq!(busy.reason_while(true), LevelReason::Backlog);
        assert_eq!(serde_json::to_value(LevelReason::Steady).unwrap(), LevelReason::Steady.as_str());
    }

    #[test]
    fn a_slow_network_is_met_with_smaller_objects() {
        let range = range(6, -3);
        let mut state = LevelState::default().next(range, &facts(100, true, false));
        let fast = state.level(range).get();
        for _ in 0..CALM_STEPS {
            assert_eq!(state.level(range).get(), fast, "not at once");
            state = state.next(range, &facts(100, false, true));
        }
        assert_eq!((fast, state.level(range).get(), state.reason()), (-3, -1, LevelReason::Network));
        assert_eq!(after(state, range, 100, &facts(100, false, true)), (6, LevelReason::Network));
    }

    #[test]
    fn the_queue_does_not_grow_beside_an_idle_core_without_an_answer() {
        // Neither all sealers nor all senders are busy: memory keeps the next file out.
        let growing = LevelFacts { waiting_before: 3, ..facts(20, false, false) };
        assert_eq!(after(LevelState::default(), range(6, -3), 1, &growing), (1, LevelReason::Memory));
        assert_eq!(after(LevelState::default(), range(6, -3), 50, &growing), (-3, LevelReason::Memory));
        let shrinking = LevelFacts { waiting_before: 30, ..growing };
        assert_eq!(after(LevelState::default(), range(6, -3), 50, &shrinking).0, 6);
    }

    #[test]
    fn the_level_comes_back_slowly_when_nothing_waits() {
        let range = range(3, -2);
        let busy = LevelState::default().next(range, &facts(2_000, true, false));
        assert_eq!(busy.level(range).get(), -2);
        assert_eq!(after(busy, range, CALM_STEPS - 1, &facts(0, false, false)).0, -2);
        assert_eq!(after(busy, range, CALM_STEPS, &facts(0, false, false)).0, -1);
        assert_eq!(after(busy, range, CALM_STEPS * 4, &facts(0, false, false)), (3, LevelReason::Idle));
    }

    #[test]
    fn a_queue_at_the_border_does_not_make_it_flutter() {
        let range = range(6, -3);
        let (mut state, mut changes) = (LevelState::default(), 0);
        for turn in 0..200_u64 {
            // Now the sealers are busy and now not, and the queue is now short and now gone.
            let next = state.next(range, &facts(turn % 6, turn % 2 == 1, false));
            changes += u32::from(next.level(range) != state.level(range));
            state = next;
        }
        assert!(changes <= 2, "{changes}");
    }

    #[test]
    fn between_processor_and_network_it_stays_near_the_level_where_both_are_busy() {
        let range = range(9, -3);
        let mut state = LevelState::default().next(range, &facts(2_000, true, false));
        let mut seen = Vec::new();
        for second in 0..400 {
            // Above level 4 the processor is the limit, below it the network.
            let too_good = state.level(range).get() > 4;
            state = state.next(range, &facts(2_000, too_good, !too_good));
            if second >= 100 {
                seen.push(state.level(range).get());
            }
        }
        assert!(seen.iter().all(|level| [1, 6].contains(level)), "{seen:?}");
        assert!(seen.iter().filter(|level| **level == 1).count() > seen.len() / 2);
    }

    proptest! {
        #[test]
        fn the_level_is_always_in_the_range(
            best in -7_i32..=19, fastest in -7_i32..=19,
            observed in prop::collection::vec((0_u64..5_000, 0_u64..5_000, 0_u64..9, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let range = range(best, fastest);
            let mut state = LevelState::default();
            for (waiting, waiting_before, sealers, sealers_busy, senders_busy) in observed {
                let facts = LevelFacts { waiting, waiting_before, sealers, sealers_busy, senders_busy };
                let before = state.level(range);
                state = state.next(range, &facts);
                let level = state.level(range);
                prop_assert!((range.fastest()..=range.best()).contains(&level.get()));
                // With a queue and a processor that is the limit it never gets slower.
                if waiting > 0 && sealers_busy {
                    prop_assert!(level <= before);
                }
            }
        }
    }
}
