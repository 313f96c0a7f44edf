//! What a verification reports.

use jiff::Timestamp;
use serde::Serialize;
use walden_core::{
    Consequences, Finding, FindingVerdict, Incarnation, ServerName, Tally, VerifyLevel, VerifyPlan,
};

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// What was looked at is good.
    Good,
    /// Something is damaged or missing.
    Damaged,
    /// Nothing wrong was found, but something could not be looked at.
    NotProven,
}

/// Why a run ended before its plan did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It was asked to stop.
    Interrupted,
    /// The time allowed was over.
    MaxTime,
}

/// How many findings there are of each sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FindingCounts {
    /// Damaged.
    pub damaged: u64,
    /// Missing.
    pub missing: u64,
    /// Not proven.
    pub not_proven: u64,
    /// Notices.
    pub notices: u64,
}

impl FindingCounts {
    pub(super) fn add(&mut self, finding: &Finding) {
        *(match finding.verdict {
            FindingVerdict::Damaged => &mut self.damaged,
            FindingVerdict::Missing => &mut self.missing,
            FindingVerdict::NotProven => &mut self.not_proven,
            FindingVerdict::Notice => &mut self.notices,
        }) += 1;
    }

    /// The answer in one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.damaged + self.missing > 0 {
            Verdict::Damaged
        } else if self.not_proven > 0 {
            Verdict::NotProven
        } else {
            Verdict::Good
        }
    }
}

/// What the listing showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PresenceTotals {
    /// All objects of the incarnation.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Timelines with segments, a history or a backup.
    pub timelines: u64,
    /// Segments.
    pub segments: u64,
    /// Finished backups.
    pub backups: u64,
    /// Backups without a commit record.
    pub unfinished_backups: u64,
}

/// What is remembered of earlier runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    /// Objects of which the last proof is remembered.
    pub objects: u64,
    /// What a person should know about the memory.
    pub note: Option<String>,
}

/// What `walden verify` did and found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Where the repository is.
    pub url: String,
    /// How closely was looked.
    pub level: VerifyLevel,
    /// What was looked at, in words.
    pub scope: String,
    /// The seed of the sample.
    pub seed: Option<u64>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The answer in one word.
    pub verdict: Verdict,
    /// Whether all of the scope is proven, now or within the age allowed.
    pub complete: bool,
    /// Why it ended early.
    pub stopped: Option<StopReason>,
    /// What the listing showed.
    pub presence: PresenceTotals,
    /// What was to be read, and what was left out and why.
    pub plan: VerifyPlan,
    /// What was read and found good.
    pub proven: Tally,
    /// What was read, or tried, and is not proven good.
    pub failed: Tally,
    /// What was planned and not reached.
    pub not_reached: Tally,
    /// Objects that were removed while the run went on: no findings.
    pub removed_meanwhile: u64,
    /// Bytes of objects that were read.
    pub bytes_read: u64,
    /// The same in a second.
    pub bytes_per_second: u64,
    /// How many findings there are.
    pub counts: FindingCounts,
    /// What was found, harm first; at most 10,000.
    pub findings: Vec<Finding>,
    /// What can't be restored because of it; null when nothing is wrong, or when that could not be told.
    pub consequences: Option<Consequences>,
    /// Why that could not be told.
    pub consequences_unknown: Option<String>,
    /// What is remembered.
    pub memory: MemoryReport,
    /// The key of the record, when one was written.
    pub record: Option<String>,
}
