//! The time of a simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// When every simulation begins, in seconds since 1970.
pub const EPOCH_SECONDS: i64 = 1_795_000_000;

/// A clock of one host: the simulation's time, and how far it is off.
#[derive(Debug, Clone)]
pub struct SimulatedClock {
    begun: Instant,
    off_by_millis: Arc<AtomicI64>,
}

impl SimulatedClock {
    /// A clock that is right, where the simulation began at `begun`.
    #[must_use]
    pub fn new(begun: Instant) -> Self {
        Self { begun, off_by_millis: Arc::default() }
    }

    /// Lets the clock, and its clones, jump: from now on it is this far off the simulation's time.
    pub fn set_off_by(&self, millis: i64) {
        self.off_by_millis.store(millis, Ordering::Relaxed);
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.begun.elapsed()).unwrap_or_default();
        let off = SignedDuration::from_millis(self.off_by_millis.load(Ordering::Relaxed));
        let base = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        base.saturating_add(since).and_then(|now| now.saturating_add(off)).unwrap_or(base)
    }
}
