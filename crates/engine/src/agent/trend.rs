//! What was busy, and how the queue grew, over the last second: single moments say little about either.

use std::time::Duration;

use super::level::LevelFacts;

/// So much is looked at before the level is judged.
const JUDGED_OVER: Duration = Duration::from_secs(1);
/// Busy means busy for this part of the time, in hundredths.
const BUSY_PERCENT: u32 = 70;

/// One moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// Files that wait and are not begun.
    pub(super) waiting: u64,
    /// Whether every sealer had a file.
    pub(super) sealers_busy: bool,
    /// Whether everything that may be in flight was, and most of it was being sent.
    pub(super) senders_busy: bool,
}

/// The moments since the level was last judged.
#[derive(Debug, Default)]
pub(super) struct Trend {
    begun: Option<(Duration, u64)>,
    last: Option<(Duration, Moment)>,
    sealers_busy: Duration,
    senders_busy: Duration,
}

impl Trend {
    /// Takes a moment; gives what was over the time since the last judgement, when that is long enough, and begins anew.
    pub(super) fn observe(&mut self, now: Duration, moment: Moment, sealers: u64) -> Option<LevelFacts> {
        if let Some((at, before)) = self.last.replace((now, moment)) {
            // It was so until now.
            let time = now.saturating_sub(at);
            self.sealers_busy += if before.sealers_busy { time } else { Duration::ZERO };
            self.senders_busy += if before.senders_busy { time } else { Duration::ZERO };
        }
        let (begun, waiting_before) = *self.begun.get_or_insert((now, moment.waiting));
        let all = now.saturating_sub(begun);
        if all < JUDGED_OVER {
            return None;
        }
        let is_busy = |busy: Duration| busy * 100 >= all * BUSY_PERCENT;
        let facts = LevelFacts {
            waiting: moment.waiting,
            waiting_before,
            sealers,
            sealers_busy: is_busy(self.sealers_busy),
            senders_busy: is_busy(self.senders_busy),
        };
        *self = Self { begun: Some((now, moment.waiting)), last: self.last, ..Self::default() };
        Some(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(sealers_busy: bool, senders_busy: bool) -> Moment {
        Moment { waiting: 7, sealers_busy, senders_busy }
    }

    #[test]
    fn busy_is_what_was_so_most_of_the_time() {
        let ms = Duration::from_millis;
        let mut trend = Trend::default();
        assert_eq!(trend.observe(ms(5_000), Moment { waiting: 3, ..moment(true, false) }, 2), None);
        // Many moments say otherwise, and together last no time at all.
        for _ in 0..100 {
            assert_eq!(trend.observe(ms(5_750), moment(false, true), 2), None);
        }
        let facts = trend.observe(ms(6_000), moment(false, false), 2).unwrap();
        let expected =
            LevelFacts { waiting: 7, waiting_before: 3, sealers: 2, sealers_busy: true, senders_busy: false };
        assert_eq!(facts, expected);
        // What was before does not count twice.
        assert_eq!(trend.observe(ms(6_900), moment(false, true), 2), None);
        let facts = trend.observe(ms(7_000), moment(true, true), 2).unwrap();
        assert_eq!((facts.sealers_busy, facts.senders_busy, facts.waiting_before), (false, false, 7));
    }
}
