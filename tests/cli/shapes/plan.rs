//! The JSON of `walden plan`.

use serde::Deserialize;

use super::{Cost, Moment, PgSetting, Rejected};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) value: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) target: Target,
    pub(crate) exclusive: bool,
    pub(crate) timeline: serde_json::Value,
    pub(crate) action: String,
    pub(crate) backup: Option<String>,
    pub(crate) rates: Rates,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rates {
    pub(crate) restore_bytes_per_second: u64,
    pub(crate) replay_bytes_per_second: u64,
    pub(crate) source: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Commit {
    pub(crate) xid: u32,
    pub(crate) time: String,
    pub(crate) lsn: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stop {
    pub(crate) lsn: String,
    pub(crate) replayed_to: String,
    pub(crate) timeline: u32,
    pub(crate) kind: String,
    pub(crate) last_kept: Option<Commit>,
    pub(crate) first_left_out: Option<Commit>,
    pub(crate) commits_left_out: u64,
    pub(crate) commits_left_out_exact: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys are PostgreSQL's settings")]
pub(crate) struct Required {
    pub(crate) max_connections: u32,
    pub(crate) max_worker_processes: u32,
    pub(crate) max_wal_senders: u32,
    pub(crate) max_prepared_transactions: u32,
    pub(crate) max_locks_per_transaction: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Estimate {
    pub(crate) seconds: u64,
    pub(crate) restore_seconds: u64,
    pub(crate) replay_seconds: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) basis: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    pub(crate) id: String,
    pub(crate) timeline: u32,
    pub(crate) start_lsn: String,
    pub(crate) stop_lsn: String,
    pub(crate) finished_at: String,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) reason: String,
    pub(crate) expected_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathStep {
    pub(crate) timeline: u32,
    pub(crate) start_lsn: String,
    pub(crate) end_lsn: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segments {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) first: Option<String>,
    pub(crate) last: Option<String>,
    pub(crate) missing: Vec<String>,
    pub(crate) missing_count: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) planned_at: String,
    pub(crate) request: Request,
    pub(crate) backup: Choice,
    pub(crate) rejected: Vec<Rejected>,
    pub(crate) target_timeline: u32,
    pub(crate) timeline_path: Vec<PathStep>,
    pub(crate) segments: Segments,
    pub(crate) stop: Stop,
    pub(crate) left_out_by_order: Vec<Commit>,
    pub(crate) left_out_by_order_count: u64,
    pub(crate) left_out_by_order_exact: bool,
    pub(crate) same_name: Vec<Moment>,
    pub(crate) required: Required,
    pub(crate) estimate: Estimate,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) warnings: Vec<String>,
    pub(crate) settings: Vec<PgSetting>,
    pub(crate) cost: Cost,
}
