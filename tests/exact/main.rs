//! Is the planner exactly right? Hostile histories on real servers, many targets, and for each of them what
//! `walden plan` says beside what PostgreSQL does.
//!
//! The default tests try some targets on one history of every major. `WALDEN_CAMPAIGN=1` (`cargo xtask test --all`)
//! goes on until it has tried `WALDEN_EXACT_TARGETS` of them; 5,000 unless set. `WALDEN_SEED` repeats a history.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on ends loudly, and says where"
)]

mod campaign;
mod damage;
mod judge;
mod named;
mod refusal;
mod slots;
mod tally;
mod targets;
mod walden;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

use walden_pg::PgMajor;
use walden_testkit::history::Script;

use crate::campaign::Effort;
use crate::damage::Damage;
use crate::tally::{Tally, say};

/// Of the default tests.
const DEFAULT: Effort = Effort { intact: 36, damaged: 4, on_damaged: 10 };
/// Random steps of their histories.
const DEFAULT_STEPS: u64 = 16;
/// Of each history of the campaign.
const CAMPAIGN: Effort = Effort { intact: 60, damaged: 5, on_damaged: 14 };
/// Random steps of its histories.
const CAMPAIGN_STEPS: u64 = 26;
/// Targets of the campaign.
const CAMPAIGN_TARGETS: u64 = 5_000;
/// Mismatches that are told in full.
const TOLD: usize = 12;

/// What all tests of this run have found so far.
static WHOLE: Mutex<Option<Tally>> = Mutex::new(None);

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number: {text}")))
}

/// Says what was found, and fails the test when anything differs.
pub(crate) fn conclude(title: &str, tally: Tally) {
    say(&format!("{title}: {tally}"));
    let mismatches = tally.mismatches.clone();
    let mut whole = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = whole.get_or_insert_default();
    whole.add(tally);
    say(&format!("so far: {whole}"));
    let told: Vec<String> = mismatches.iter().take(TOLD).map(|mismatch| format!("\n{mismatch}\n")).collect();
    assert!(mismatches.is_empty(), "{} mismatches\n{}", mismatches.len(), told.concat());
}

fn default_history(major: PgMajor) {
    let seed = variable("WALDEN_SEED").unwrap_or(1000 + major.number());
    if let Some(tally) = campaign::history(major, &Script::draw(seed, DEFAULT_STEPS), DEFAULT, Damage::draw) {
        conclude(&format!("PostgreSQL {major}, seed {seed}"), tally);
    }
}

macro_rules! on_every_major {
    ($($name:ident $major:ident)*) => { $(
        #[test]
        fn $name() {
            default_history(PgMajor::$major);
        }
    )* };
}

on_every_major! {
    postgresql_13_stops_where_the_plan_says V13
    postgresql_14_stops_where_the_plan_says V14
    postgresql_15_stops_where_the_plan_says V15
    postgresql_16_stops_where_the_plan_says V16
    postgresql_17_stops_where_the_plan_says V17
    postgresql_18_stops_where_the_plan_says V18
}

/// Two halves, so that two cores have work.
fn campaign_half(offset: u64) {
    if std::env::var_os("WALDEN_CAMPAIGN").is_none_or(|value| value == "0") {
        return;
    }
    let wanted = variable("WALDEN_EXACT_TARGETS").unwrap_or(CAMPAIGN_TARGETS) / 2;
    let random = RandomState::new().build_hasher().finish() % 1_000_000_000;
    let first = variable("WALDEN_SEED").unwrap_or(random);
    say(&format!("campaign from seed {first}"));
    let majors = [PgMajor::V13, PgMajor::V14, PgMajor::V15, PgMajor::V16, PgMajor::V17, PgMajor::V18];
    let mut tally = Tally::default();
    let mut round = offset;
    while tally.targets < wanted {
        let (seed, major) = (first + round, majors[usize::try_from(round % 6).unwrap()]);
        round += 2;
        let script = Script::draw(seed, CAMPAIGN_STEPS);
        let Some(found) = campaign::history(major, &script, CAMPAIGN, Damage::draw) else {
            assert!(round < 12 || tally.targets > 0, "no major is installed");
            continue;
        };
        if !found.mismatches.is_empty() {
            say(&format!("PostgreSQL {major}, seed {seed}: {found}"));
        }
        tally.add(found);
    }
    conclude("campaign", tally);
}

#[test]
fn campaign_first_half() {
    campaign_half(0);
}

#[test]
fn campaign_second_half() {
    campaign_half(1);
}
