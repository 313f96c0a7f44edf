//! `walden verify`.

use serde::Deserialize;
use serde_json::Value;

use super::Cost;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verify {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) url: String,
    pub(crate) level: String,
    pub(crate) scope: String,
    pub(crate) seed: Option<u64>,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) seconds: f64,
    pub(crate) verdict: String,
    pub(crate) complete: bool,
    pub(crate) stopped: Option<String>,
    pub(crate) presence: Presence,
    pub(crate) plan: VerifyPlan,
    pub(crate) proven: Tally,
    pub(crate) failed: Tally,
    pub(crate) not_reached: Tally,
    pub(crate) removed_meanwhile: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) counts: Counts,
    pub(crate) findings: Vec<Finding>,
    pub(crate) consequences: Option<Consequences>,
    pub(crate) consequences_unknown: Option<String>,
    pub(crate) memory: Memory,
    pub(crate) record: Option<String>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tally {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Presence {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) timelines: u64,
    pub(crate) segments: u64,
    pub(crate) backups: u64,
    pub(crate) unfinished_backups: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyPlan {
    pub(crate) planned: Tally,
    pub(crate) in_scope: Tally,
    pub(crate) fresh: Tally,
    pub(crate) unsampled: Tally,
    pub(crate) over_budget: Tally,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    pub(crate) damaged: u64,
    pub(crate) missing: u64,
    pub(crate) not_proven: u64,
    pub(crate) notices: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finding {
    pub(crate) verdict: String,
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) message: String,
    pub(crate) segment: Option<String>,
    pub(crate) last_segment: Option<String>,
    pub(crate) backup: Option<String>,
    pub(crate) file: Option<String>,
    #[serde(default)]
    pub(crate) blocks: Vec<u32>,
    pub(crate) lsn: Option<String>,
    pub(crate) stops_recovery: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Consequences {
    pub(crate) backups_lost: Vec<String>,
    /// As in a retention plan.
    pub(crate) windows: Vec<Value>,
    pub(crate) newest_before: Option<Value>,
    pub(crate) newest_after: Option<Value>,
    pub(crate) served_by: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) objects: u64,
    pub(crate) note: Option<String>,
}
