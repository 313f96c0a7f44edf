//! Drawing a moment of the recovery window: for drills that nobody has chosen the target of.

use jiff::Timestamp;

use super::DrillDraw;
use crate::recovery::{RecoveryTarget, RecoveryWindow};

/// So many moments are drawn with one seed: those after the first serve when a plan for the one before is refused.
const DRAWS: usize = 16;

/// Moments that were drawn, the one to try first in front.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// Where they come from.
    pub draw: DrillDraw,
    /// The moments.
    pub targets: Vec<RecoveryTarget>,
}

/// Draws moments out of what can be restored on the newest timeline that has any: every microsecond of it is as likely
/// as every other. `None` when nothing there has two moments with a time.
///
/// The same window and seed give the same moments.
#[must_use]
pub fn draw_targets(window: &RecoveryWindow, seed: u64) -> Option<Draw> {
    let timed = |range: &crate::recovery::RestorableRange| {
        let (from, to) = (range.first.time?, range.last.time?);
        (from < to).then_some((from.as_microsecond(), to.as_microsecond()))
    };
    let ranges: Vec<(i64, i64)> = window
        .timelines
        .iter()
        .rev()
        .map(|timeline| timeline.restorable.iter().filter_map(timed).collect::<Vec<_>>())
        .find(|ranges| !ranges.is_empty())?;
    let lengths = ranges.iter().map(|(from, to)| from.abs_diff(*to));
    let whole: u64 = lengths.clone().fold(0, u64::saturating_add);
    let mut state = seed;
    let targets = (0..DRAWS).filter_map(|_| {
        // The remainder's bias is one in 2^64 over a span of microseconds: nothing.
        let mut at = next(&mut state).checked_rem(whole)?;
        for ((from, _), length) in ranges.iter().zip(lengths.clone()) {
            if at < length {
                let moment = from.checked_add(i64::try_from(at).ok()?)?;
                return Timestamp::from_microsecond(moment).ok().map(RecoveryTarget::Time);
            }
            at -= length;
        }
        None
    });
    let targets: Vec<RecoveryTarget> = targets.collect();
    let (first, last) = (ranges.first()?.0, ranges.last()?.1);
    let draw = DrillDraw {
        seed,
        from: Timestamp::from_microsecond(first).ok()?,
        to: Timestamp::from_microsecond(last).ok()?,
    };
    (!targets.is_empty()).then_some(Draw { draw, targets })
}

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and the same on every platform and in every version.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walden_pg::{Lsn, TimelineId};

    use super::*;
    use crate::recovery::{Moment, RestorableRange, TimelineWindow};

    fn moment(second: Option<i64>) -> Moment {
        let time = second.map(|second| Timestamp::from_second(second).unwrap());
        Moment { lsn: Lsn::new(1), time, xid: None }
    }

    /// From which second to which one a range can be restored, as far as that is known.
    type Seconds = (Option<i64>, Option<i64>);

    fn window(timelines: &[&[Seconds]]) -> RecoveryWindow {
        let timeline = |(index, ranges): (usize, &&[Seconds])| TimelineWindow {
            timeline: TimelineId::new(u32::try_from(index).unwrap() + 1).unwrap(),
            parent: None,
            fork_lsn: None,
            first: None,
            last: None,
            restorable: ranges
                .iter()
                .map(|(from, to)| RestorableRange {
                    first: moment(*from),
                    last: moment(*to),
                    wal_end_lsn: Lsn::new(1),
                })
                .collect(),
            history_missing: false,
            segments: 0,
            gaps: Vec::new(),
            damaged: Vec::new(),
            backups: Vec::new(),
        };
        RecoveryWindow {
            schema: 1,
            server: "main".parse().unwrap(),
            incarnation: "7401234567890123456-17".parse().unwrap(),
            at: Timestamp::UNIX_EPOCH,
            timelines: timelines.iter().enumerate().map(timeline).collect(),
            newest: None,
            rpo_seconds: None,
            by_rollup: 0,
        }
    }

    fn seconds(draw: &Draw) -> Vec<i64> {
        let second = |target: &RecoveryTarget| match target {
            RecoveryTarget::Time(time) => time.as_second(),
            other => panic!("{other:?}"),
        };
        draw.targets.iter().map(second).collect()
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        for ranges in [&[][..], &[(None, Some(5))], &[(Some(5), Some(5))], &[(Some(6), Some(5))]] {
            assert_eq!(draw_targets(&window(&[ranges]), 7), None, "{ranges:?}");
        }
    }

    #[test]
    fn the_newest_timeline_that_has_moments_is_drawn_from() {
        let draw =
            draw_targets(&window(&[&[(Some(10), Some(20))], &[(Some(30), Some(40))], &[]]), 7).unwrap();
        assert!(seconds(&draw).iter().all(|second| (30..40).contains(second)), "{draw:?}");
        assert_eq!((draw.draw.from.as_second(), draw.draw.to.as_second()), (30, 40));
    }

    #[test]
    fn a_seed_stands_for_its_moments() {
        let window = window(&[&[(Some(0), Some(1000)), (Some(5000), Some(9000))]]);
        let first = draw_targets(&window, 42).unwrap();
        assert_eq!(first, draw_targets(&window, 42).unwrap());
        assert_ne!(first.targets, draw_targets(&window, 43).unwrap().targets);
        // Written down, because a seed in an old report must stand for the same moment for ever.
        assert_eq!(seconds(&first)[..3], [6755, 6126, 7462]);
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_a_range(seed: u64, gaps in prop::collection::vec((1_i64..1000, 1_i64..1000), 1..5)) {
            let mut at = 0;
            let ranges: Vec<(Option<i64>, Option<i64>)> = gaps
                .iter()
                .map(|(gap, length)| {
                    let from = at + gap;
                    at = from + length;
                    (Some(from), Some(at))
                })
                .collect();
            let draw = draw_targets(&window(&[&ranges]), seed).unwrap();
            for second in seconds(&draw) {
                prop_assert!(ranges.iter().any(|(from, to)| from.unwrap() <= second && second < to.unwrap()));
            }
        }
    }
}
