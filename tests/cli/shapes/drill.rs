//! The JSON of `walden drill`.

use serde::Deserialize;

use super::{Cost, Writer};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillTarget {
    pub(crate) kind: String,
    pub(crate) value: Option<String>,
    pub(crate) exclusive: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) from: String,
    pub(crate) to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillCheck {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) detail: String,
    #[serde(default)]
    pub(crate) skipped: bool,
    pub(crate) seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillBackup {
    pub(crate) id: String,
    pub(crate) finished_at: String,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) record_sha256: Option<String>,
    pub(crate) manifest_sha256: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillCommit {
    pub(crate) xid: u32,
    pub(crate) at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillStop {
    pub(crate) expected_lsn: String,
    pub(crate) expected_timeline: u32,
    pub(crate) expected_last: Option<DrillCommit>,
    pub(crate) expected_left_out: Option<DrillCommit>,
    pub(crate) real_lsn: Option<String>,
    pub(crate) real_last_at: Option<String>,
    pub(crate) outcome: Option<String>,
    pub(crate) message: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versions {
    pub(crate) walden: String,
    pub(crate) postgres: Option<String>,
    pub(crate) source: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillError {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drill {
    pub(crate) schema: u32,
    pub(crate) id: String,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) repository_id: String,
    pub(crate) ok: bool,
    pub(crate) outcome: String,
    pub(crate) target: DrillTarget,
    pub(crate) draw: Option<Draw>,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) phases: Vec<Phase>,
    pub(crate) rto_seconds: Option<f64>,
    pub(crate) rpo_seconds: Option<f64>,
    pub(crate) checks: Vec<DrillCheck>,
    pub(crate) backup: Option<DrillBackup>,
    pub(crate) stop: Option<DrillStop>,
    pub(crate) plan: Option<serde_json::Value>,
    pub(crate) restored_bytes: Option<u64>,
    pub(crate) segments: Option<u64>,
    pub(crate) versions: Versions,
    pub(crate) warnings: Vec<String>,
    pub(crate) error: Option<DrillError>,
    #[serde(default)]
    pub(crate) log: Vec<String>,
    pub(crate) log_path: Option<String>,
    pub(crate) writer: Writer,
    pub(crate) evidence: Option<String>,
    pub(crate) evidence_error: Option<DrillError>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListedDrill {
    pub(crate) id: String,
    pub(crate) ok: bool,
    pub(crate) outcome: String,
    pub(crate) target: DrillTarget,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) backup: Option<String>,
    pub(crate) rto_seconds: Option<f64>,
    pub(crate) rpo_seconds: Option<f64>,
    pub(crate) checks: usize,
    pub(crate) failed_checks: Vec<String>,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnreadableDrill {
    pub(crate) id: String,
    pub(crate) reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrillList {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) count: usize,
    pub(crate) drills: Vec<ListedDrill>,
    pub(crate) unreadable: Vec<UnreadableDrill>,
}
