//! One deadline for an operation and everything it repeats.
//!
//! object_store's own retries are switched off: it repeats a conditional PUT whose answer was lost and then
//! reports our own object as a stranger's. Every repetition is decided here, inside a budget that the caller gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::random::random_number;

/// The first pause between two tries, before jitter.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two tries, before jitter.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// With less than this left no further try is begun.
const LAST_CALL: Duration = Duration::from_millis(20);
/// Up to this many bytes in flight a try may take half of what is left at most, so that a second one fits.
const SMALL_BYTES: u64 = 1 << 20;

/// How long one try may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TryLimits {
    /// For the request itself, whatever its size.
    pub request: Duration,
    /// Bytes per second that a connection must carry at least; a try gets this much more time for its body.
    pub throughput_min: u64,
}

impl TryLimits {
    fn wanted(self, bytes: u64) -> Duration {
        let millis = bytes.saturating_mul(1000) / self.throughput_min.max(1);
        self.request.saturating_add(Duration::from_millis(millis))
    }
}

/// The time that one operation may take, retries included. Clones share it.
///
/// The clock is tokio's monotonic one, which tests can pause and move.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    /// The end, but for what was granted.
    deadline: Instant,
    /// Nanoseconds granted on top, because a limit of the rate took them.
    granted: Arc<AtomicU64>,
    jitter: Arc<Jitter>,
}

impl RetryBudget {
    /// A budget of `total` from now on, with jitter that differs from process to process.
    #[must_use]
    pub fn new(total: Duration) -> Self {
        Self::seeded(total, random_number())
    }

    /// A budget of `total` from now on, whose pauses are a function of `seed`.
    #[must_use]
    pub fn seeded(total: Duration, seed: u64) -> Self {
        // A century stands for "never": Instant can't hold every Duration.
        let total = total.min(Duration::from_hours(100 * 365 * 24));
        Self {
            deadline: Instant::now() + total,
            granted: Arc::default(),
            jitter: Arc::new(Jitter(AtomicU64::new(seed))),
        }
    }

    /// The same budget, cut to `total` from now if that is sooner.
    #[must_use]
    pub fn at_most(&self, total: Duration) -> Self {
        let sooner = Self::seeded(total, self.jitter.next());
        // What was granted up to now counts for the older deadline only, and what is granted from now on for both.
        let deadline = sooner.deadline.checked_sub(self.granted()).unwrap_or(sooner.deadline);
        Self { deadline: self.deadline.min(deadline), granted: Arc::clone(&self.granted), ..sooner }
    }

    /// The same budget, longer by the time that `bytes` take at the slowest rate allowed: for operations on objects
    /// whose size is known and may be large.
    #[must_use]
    pub fn with_time_for(&self, bytes: u64, limits: TryLimits) -> Self {
        let more =
            TryLimits { request: Duration::ZERO, ..limits }.wanted(bytes).min(Duration::from_hours(24));
        Self { deadline: self.deadline + more, ..self.clone() }
    }

    /// When it ends.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline + self.granted()
    }

    /// Makes this budget and all that share it longer by `time`, which a limit of the rate took.
    pub(crate) fn grant(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.granted.fetch_add(nanos, Ordering::Relaxed);
    }

    fn granted(&self) -> Duration {
        // Bounded as the total is, for the same reason.
        Duration::from_nanos(self.granted.load(Ordering::Relaxed)).min(Duration::from_hours(100 * 365 * 24))
    }

    /// What is left of it.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// How long one try that moves `bytes` may take: the request's time plus the body's at the slowest rate
    /// allowed, never more than what is left, and for small bodies never more than half of it.
    #[must_use]
    pub fn try_timeout(&self, bytes: u64, limits: TryLimits) -> Duration {
        let left = self.remaining();
        let most = if bytes <= SMALL_BYTES { left / 2 } else { left };
        limits.wanted(bytes).min(most.max(LAST_CALL))
    }

    /// The pause before the next try when `failed` tries have failed, at least one; `None` when the budget is
    /// spent. Doubles from [`BACKOFF_FIRST`] to [`BACKOFF_MAX`], and between half and the whole of that is drawn.
    #[must_use]
    pub fn backoff(&self, failed: u32) -> Option<Duration> {
        let left = self.remaining();
        if left < LAST_CALL {
            return None;
        }
        let doubled =
            BACKOFF_FIRST.saturating_mul(1_u32 << failed.saturating_sub(1).min(16)).min(BACKOFF_MAX);
        let half = doubled / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        let pause = half + Duration::from_micros(self.jitter.next() % micros);
        // Near the end a pause leaves room for the try that follows it.
        Some(pause.min(left / 2))
    }
}

/// SplitMix64: pauses need to differ, not to be unpredictable.
#[derive(Debug)]
struct Jitter(AtomicU64);

impl Jitter {
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TryLimits = TryLimits { request: Duration::from_secs(20), throughput_min: 1 << 20 };

    #[tokio::test(start_paused = true)]
    async fn two_tries_of_a_small_object_fit() {
        for total in [1, 10, 60, 120] {
            let budget = RetryBudget::seeded(Duration::from_secs(total), 1);
            let first = budget.try_timeout(8192, LIMITS);
            tokio::time::advance(first).await;
            let pause = budget.backoff(1).unwrap();
            tokio::time::advance(pause).await;
            let second = budget.try_timeout(8192, LIMITS);
            assert!(second >= Duration::from_millis(20), "{total} s: second try has {second:?}");
            assert!(first + pause + second <= Duration::from_secs(total));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_gets_the_time_that_the_slowest_link_needs() {
        let budget = RetryBudget::seeded(Duration::from_mins(10), 1);
        assert_eq!(budget.try_timeout(16 << 20, LIMITS), Duration::from_secs(36));
        let budget = RetryBudget::seeded(Duration::from_secs(30), 1);
        assert_eq!(budget.try_timeout(16 << 20, LIMITS), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn time_for_a_large_object_comes_on_top() {
        let budget = RetryBudget::seeded(Duration::from_secs(10), 1);
        assert_eq!(budget.with_time_for(256 << 20, LIMITS).remaining(), Duration::from_secs(266));
        assert_eq!(budget.remaining(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_limit_of_the_rate_took_is_granted_to_all_who_share_the_budget() {
        let budget = RetryBudget::seeded(Duration::from_secs(10), 1);
        let longer = budget.with_time_for(10 << 20, LIMITS);
        tokio::time::advance(Duration::from_secs(8)).await;
        budget.grant(Duration::from_secs(7));
        let shorter = budget.at_most(Duration::from_secs(3));
        assert_eq!(budget.remaining(), Duration::from_secs(9));
        assert_eq!(longer.remaining(), Duration::from_secs(19));
        assert_eq!(shorter.remaining(), Duration::from_secs(3));
        shorter.grant(Duration::from_secs(1));
        assert_eq!(budget.remaining(), Duration::from_secs(10));
        assert_eq!(shorter.remaining(), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_within_bounds_and_end_with_the_budget() {
        let budget = RetryBudget::seeded(Duration::from_secs(1000), 7);
        for (failed, longest) in [(1, 100), (2, 200), (4, 800), (7, 5000), (60, 5000)] {
            for _ in 0..100 {
                let pause = budget.backoff(failed).unwrap().as_millis();
                assert!(pause >= longest / 2 && pause <= longest, "{failed}: {pause}");
            }
        }
        tokio::time::advance(Duration::from_millis(999_990)).await;
        assert_eq!(budget.backoff(1), None);
        assert!(budget.at_most(Duration::from_secs(5)).remaining() <= Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_pauses() {
        let draw = |seed| {
            let budget = RetryBudget::seeded(Duration::from_mins(1), seed);
            (1..20).map(|n| budget.backoff(n)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
