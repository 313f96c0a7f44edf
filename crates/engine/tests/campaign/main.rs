//! The campaign of faults: many small worlds, each decided by one number.
//!
//! In each world servers archive, others fetch, backups are taken and catalogs read, all at once and by the real code of
//! the engine, over a store that fails, loses answers, is slow, and forgets nothing that it said it had. Actors crash
//! between any two requests. Then nothing fails any more, and everything that was promised must be there.
//!
//! `WALDEN_FAULT_SEEDS` says how many worlds (or `from..to` which), `WALDEN_FAULT_SEED` shows a single one. With
//! `WALDEN_CAMPAIGN=1`, as `cargo xtask test --all no_promise_is_broken` sets it, there are 10,000.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on ends loudly"
)]

mod actors;
mod documentation;
mod keeping;
mod model;
mod oracle;
mod postgres;
mod regressions;
mod run;
mod wal;
mod world;

use std::ops::Range;

use self::run::{Outcome, run};
use self::world::{Broken, Cast};
use walden_testkit::simulation::{ConditionalPuts, Defect, Faults};

/// Worlds in the default tests, and in the long campaign.
const SEEDS: u64 = 300;
const CAMPAIGN_SEEDS: u64 = 10_000;

fn seeds() -> Range<u64> {
    let asked = std::env::var("WALDEN_FAULT_SEEDS").unwrap_or_default();
    if let Some((from, to)) = asked.split_once("..") {
        return from.parse().unwrap()..to.parse().unwrap();
    }
    let default = if std::env::var_os("WALDEN_CAMPAIGN").is_some() { CAMPAIGN_SEEDS } else { SEEDS };
    0..asked.parse().unwrap_or(default)
}

#[test]
fn no_promise_is_broken_whatever_fails() {
    if let Ok(seed) = std::env::var("WALDEN_FAULT_SEED") {
        let seed = seed.parse().unwrap();
        let outcome = run(seed, Cast::of(seed));
        panic!("{}", outcome.describe());
    }
    let outcomes = run::many(seeds());
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).collect();
    if let Some(first) = failed.first() {
        let shown = run::smallest(first);
        let numbers: Vec<u64> = failed.iter().map(|outcome| outcome.seed).collect();
        panic!(
            "{} of {} worlds broke a promise: {numbers:?}\n{}",
            failed.len(),
            outcomes.len(),
            shown.describe()
        );
    }
}

#[test]
fn the_same_number_makes_the_same_world() {
    for seed in [3, 17, 58] {
        let [one, other] = [(); 2].map(|()| run(seed, Cast::of(seed)));
        let (one, other) = (run::comparable(&one), run::comparable(&other));
        let differs = one.0.iter().zip(&other.0).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one, other, "seed {seed}");
    }
}

/// Runs worlds in which something is broken until that is noticed.
fn notices(broken: Broken, expected: &str, change: impl Fn(&mut Cast)) {
    for seed in 0..300 {
        let mut cast = Cast::of(seed);
        (cast.broken, cast.conditional) = (Some(broken), ConditionalPuts::Enforced);
        change(&mut cast);
        let outcome = run(seed, cast);
        if outcome.violations.iter().any(|violation| violation.contains(expected)) {
            return;
        }
    }
    panic!("{broken:?} was not noticed: {expected}");
}

#[test]
fn the_campaign_notices_that_an_acknowledged_object_is_gone() {
    notices(Broken::Store(Defect::LosesObjects), "an acknowledged file was called absent", |_| {});
}

#[test]
fn the_campaign_notices_that_an_acknowledged_object_is_damaged() {
    notices(Broken::Store(Defect::DamagesObjects), "an acknowledged file can't be fetched", |_| {});
}

#[test]
fn the_campaign_notices_that_a_failure_is_called_an_absence() {
    notices(Broken::Store(Defect::CallsFailuresAbsent), "an acknowledged file was called absent", |cast| {
        (cast.faults, cast.getters) = (Faults { error_before: 100, ..Faults::NONE }, 2);
    });
}

#[test]
fn the_campaign_notices_an_overwritten_object() {
    notices(Broken::Overwrites, "an object was overwritten", |cast| {
        (cast.primary, cast.clone) = (true, true);
    });
}

#[test]
fn the_campaign_notices_a_false_acknowledgement() {
    notices(Broken::FalseAck, "an acknowledged file was called absent", |cast| {
        cast.faults = Faults { error_before: 600, ..Faults::NONE };
    });
}

#[test]
fn the_campaign_notices_retention_that_removes_the_last_first() {
    notices(Broken::ReversedRetention, "a committed backup lacks an object", |cast| {
        (cast.retentions, cast.backups, cast.primary, cast.clone) = (1, 3, true, false);
        cast.faults = Faults::NONE;
    });
}

#[test]
fn the_campaign_notices_retention_that_keeps_less_than_promised() {
    notices(Broken::ShorterWindow, "inside the window can't be restored any more", |cast| {
        (cast.retentions, cast.backups, cast.primary, cast.clone) = (1, 3, true, false);
    });
}
