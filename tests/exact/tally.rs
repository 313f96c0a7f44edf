//! What was tried, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::time::Duration;

/// How plan and PostgreSQL agreed about one target, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The plan says where PostgreSQL stopped.
    SameStop,
    /// Plan and PostgreSQL refuse alike, or the plan refuses what PostgreSQL gets wrong without a word: how.
    SameRefusal(String),
    /// The plan is more careful than it would have to be, on purpose: how.
    Careful(String),
    /// They agree, but PostgreSQL needs help with a defect of its own: which.
    Limit(String),
    /// They differ.
    Mismatch(String),
}

/// Counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) histories: u64,
    pub(crate) targets: u64,
    pub(crate) recoveries: u64,
    pub(crate) stops: u64,
    /// Time for making histories, and for trying targets on them.
    pub(crate) making: Duration,
    pub(crate) trying: Duration,
    kinds: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<String, u64>,
    careful: BTreeMap<String, u64>,
    limits: BTreeMap<String, u64>,
    pub(crate) mismatches: Vec<String>,
}

impl Tally {
    pub(crate) fn note(&mut self, kind: &'static str, verdict: Verdict) {
        self.targets += 1;
        *self.kinds.entry(kind).or_default() += 1;
        match verdict {
            Verdict::SameStop => self.stops += 1,
            Verdict::SameRefusal(how) => *self.refusals.entry(how).or_default() += 1,
            Verdict::Careful(how) => *self.careful.entry(how).or_default() += 1,
            Verdict::Limit(how) => *self.limits.entry(how).or_default() += 1,
            Verdict::Mismatch(how) => self.mismatches.push(how),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.targets += other.targets;
        self.recoveries += other.recoveries;
        self.stops += other.stops;
        self.making += other.making;
        self.trying += other.trying;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        for (how, count) in other.refusals {
            *self.refusals.entry(how).or_default() += count;
        }
        for (how, count) in other.careful {
            *self.careful.entry(how).or_default() += count;
        }
        for (how, count) in other.limits {
            *self.limits.entry(how).or_default() += count;
        }
        self.mismatches.extend(other.mismatches);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        writeln!(
            f,
            "{} targets on {} histories, {} recoveries: {} same stop, {} same refusal, {} careful, {} with a defect of PostgreSQL, {} MISMATCHES",
            self.targets,
            self.histories,
            self.recoveries,
            self.stops,
            sum(&self.refusals),
            sum(&self.careful),
            sum(&self.limits),
            self.mismatches.len()
        )?;
        let kinds: Vec<String> = self.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let seconds = (self.making.as_secs(), self.trying.as_secs());
        writeln!(
            f,
            "  {} s for the histories, {} s for the targets: {}",
            seconds.0,
            seconds.1,
            kinds.join("; ")
        )?;
        for (title, counts) in
            [("refused", &self.refusals), ("careful", &self.careful), ("defect", &self.limits)]
        {
            for (how, count) in counts {
                writeln!(f, "  {title} {count:>5}  {how}")?;
            }
        }
        Ok(())
    }
}

/// Says something past the test harness, which shows the output of failed tests only.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}
