//! What `walden agent` says.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Count;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoAgent {
    pub(crate) schema: u32,
    pub(crate) running: bool,
    pub(crate) data_directory: String,
    pub(crate) repository: String,
    pub(crate) server: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentList {
    pub(crate) schema: u32,
    pub(crate) state_directory: String,
    pub(crate) agents: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listed {
    pub(crate) state: String,
    pub(crate) pid: Option<u32>,
    pub(crate) on_demand: Option<bool>,
    pub(crate) build: Option<String>,
    pub(crate) started_at: Option<String>,
    pub(crate) data_directory: Option<String>,
    pub(crate) data_directory_gone: bool,
    pub(crate) server: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) directory: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentStop {
    pub(crate) schema: u32,
    pub(crate) pid: u32,
    pub(crate) on_demand: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentStatus {
    pub(crate) schema: u32,
    pub(crate) pid: u32,
    pub(crate) build: String,
    pub(crate) on_demand: bool,
    pub(crate) leaving: bool,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    pub(crate) started_at: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) data_directory: String,
    pub(crate) server: String,
    pub(crate) repository: String,
    pub(crate) push: PushStatus,
    pub(crate) level: LevelStatus,
    pub(crate) load: LoadStatus,
    pub(crate) prefetch: PrefetchStatus,
    pub(crate) store: BTreeMap<String, Count>,
    #[serde(default)]
    pub(crate) pressure: Option<Pressure>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) latencies: BTreeMap<String, Histogram>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PushStatus {
    pub(crate) ahead: bool,
    pub(crate) last_call_seconds: Option<f64>,
    pub(crate) queue_files: u64,
    pub(crate) queue_bytes: u64,
    pub(crate) unarchived_seconds: f64,
    pub(crate) ready_files: u64,
    pub(crate) in_flight: u64,
    pub(crate) acks: u64,
    pub(crate) last_archived: Option<LastArchived>,
    pub(crate) last_failure: Option<LastFailure>,
    pub(crate) retries: Vec<Retry>,
    pub(crate) archived_files: u64,
    pub(crate) already_stored_files: u64,
    pub(crate) archived_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) calls: u64,
    pub(crate) calls_ahead: u64,
    pub(crate) calls_failed: u64,
    pub(crate) ahead_failed: u64,
    pub(crate) damaged_segments: u64,
    pub(crate) recent: Recent,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recent {
    pub(crate) seconds: f64,
    pub(crate) archived_files: u64,
    pub(crate) archived_bytes: u64,
    pub(crate) stored_bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LastArchived {
    pub(crate) name: String,
    pub(crate) at: String,
    pub(crate) seconds_ago: f64,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) level: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LastFailure {
    pub(crate) name: String,
    pub(crate) at: String,
    pub(crate) failure: Failure,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retry {
    pub(crate) name: String,
    pub(crate) failed: u32,
    pub(crate) again_in_seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LevelStatus {
    pub(crate) level: i32,
    pub(crate) reason: String,
    pub(crate) best: i32,
    pub(crate) fastest: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadStatus {
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_reserved_bytes: u64,
    pub(crate) memory_resident_bytes: u64,
    pub(crate) in_flight_limit: u64,
    pub(crate) sealers_limit: u64,
    pub(crate) waiting: u64,
    pub(crate) sealing: u64,
    pub(crate) sending: u64,
    pub(crate) seal_seconds: f64,
    pub(crate) send_seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrefetchStatus {
    pub(crate) declined: u64,
    pub(crate) limit_bytes: u64,
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) in_flight: u64,
    pub(crate) calls: u64,
    pub(crate) hits: u64,
    pub(crate) waited: u64,
    pub(crate) misses: u64,
    pub(crate) absent: u64,
    pub(crate) dropped: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pressure {
    pub(crate) state: String,
    pub(crate) seconds: Option<u64>,
    pub(crate) reason: Option<String>,
    pub(crate) made_bytes_per_second: Option<u64>,
    pub(crate) archived_bytes_per_second: Option<u64>,
    pub(crate) over_seconds: Option<u64>,
    pub(crate) waiting_bytes: u64,
    pub(crate) room_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Histogram {
    pub(crate) counts: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) sum_seconds: f64,
}
