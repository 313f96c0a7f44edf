//! Numbers that need to differ, not to be unpredictable.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A number that differs from call to call and from process to process: for jitter and for names that must not meet.
#[must_use]
pub fn random_number() -> u64 {
    seeded_number().unwrap_or_else(|| RandomState::new().build_hasher().finish())
}

/// The next number of this thread's seed, if it was given one: in place of numbers of the system's.
#[must_use]
pub fn seeded_number() -> Option<u64> {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let state = SEEDED.get()?.wrapping_add(STEP);
    SEEDED.set(Some(state));
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Some(z ^ (z >> 31))
}

/// Makes all that this thread draws from now on a function of `seed`: for simulations, which run on one thread.
pub fn seed_this_thread(seed: u64) {
    SEEDED.set(Some(seed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_unless_the_thread_is_seeded() {
        let draw = || (0..8).map(|_| random_number()).collect::<Vec<_>>();
        assert_ne!(draw(), draw());
        let seeded = |seed| {
            let thread = std::thread::spawn(move || {
                seed_this_thread(seed);
                (0..8).map(|_| random_number()).collect::<Vec<_>>()
            });
            thread.join().unwrap()
        };
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
    }
}
