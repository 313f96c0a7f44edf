//! The JSON of every verb as strict types: a key that is new, renamed or gone fails to be read, and must then be
//! told in `docs/cli.md`.

#![expect(dead_code, reason = "the fields are there to be demanded")]

mod agent;
mod drill;
mod plan;
mod verify;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(crate) use self::agent::{AgentList, AgentStatus, AgentStop, NoAgent};
pub(crate) use self::drill::{Drill, DrillList};
pub(crate) use self::plan::{Plan, Required, Target};
pub(crate) use self::verify::Verify;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cost {
    pub(crate) elapsed_ms: u64,
    pub(crate) store: BTreeMap<String, Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) retries: u64,
    pub(crate) errors: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Writer {
    pub(crate) host: String,
    pub(crate) instance: String,
    pub(crate) version: String,
    pub(crate) at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capabilities {
    pub(crate) conditional_create: String,
    pub(crate) range_reads: bool,
    pub(crate) list_after: bool,
    pub(crate) probed_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Init {
    pub(crate) schema: u32,
    pub(crate) url: String,
    pub(crate) repository_id: String,
    pub(crate) repository_created: bool,
    pub(crate) server_created: bool,
    pub(crate) incarnation_created: bool,
    pub(crate) incarnation: String,
    pub(crate) segment_bytes: u64,
    pub(crate) capabilities: Capabilities,
    pub(crate) histories: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Push {
    pub(crate) schema: u32,
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) sha256: String,
    pub(crate) damage: Option<PushDamage>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PushDamage {
    pub(crate) count: u64,
    pub(crate) places: Vec<DamagedPlace>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DamagedPlace {
    pub(crate) lsn: String,
    pub(crate) what: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Found {
    pub(crate) op: String,
    pub(crate) time: String,
    pub(crate) lsn: String,
    pub(crate) timeline: u32,
    pub(crate) xid: Option<u32>,
    pub(crate) database: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) table: Option<String>,
    pub(crate) rows: Option<u64>,
    pub(crate) rows_at_least: bool,
    pub(crate) name: Option<String>,
    pub(crate) names_from: Option<String>,
    pub(crate) on_newest: bool,
    pub(crate) plan: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Difference {
    pub(crate) key: String,
    pub(crate) what: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogRebuild {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) directories: u64,
    pub(crate) unfinished: u64,
    pub(crate) written: u64,
    pub(crate) same: u64,
    pub(crate) differences: Vec<Difference>,
    pub(crate) segments: u64,
    pub(crate) scanned: u64,
    pub(crate) damaged: u64,
    pub(crate) backups: u64,
    pub(crate) forgotten: u64,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Amount {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Foreign {
    pub(crate) key: String,
    pub(crate) reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IncarnationContents {
    pub(crate) incarnation: String,
    pub(crate) current: bool,
    pub(crate) timelines: Vec<u32>,
    pub(crate) segments: Amount,
    pub(crate) segments_by_rollup: u64,
    pub(crate) backups: Amount,
    pub(crate) unfinished_backups: u64,
    pub(crate) histories: Amount,
    pub(crate) pins: Amount,
    pub(crate) drills: Amount,
    pub(crate) verifications: Amount,
    pub(crate) retention_runs: Amount,
    pub(crate) first_commit: Option<String>,
    pub(crate) last_commit: Option<String>,
    pub(crate) foreign: Vec<Foreign>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerContents {
    pub(crate) server: String,
    pub(crate) revisions: Amount,
    pub(crate) leases: Amount,
    pub(crate) incarnations: Vec<IncarnationContents>,
    pub(crate) foreign: Vec<Foreign>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogShow {
    pub(crate) schema: u32,
    pub(crate) url: String,
    pub(crate) servers: Vec<ServerContents>,
    pub(crate) foreign: Vec<Foreign>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalIndexRebuild {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) directories: u64,
    pub(crate) unfinished: u64,
    pub(crate) written: u64,
    pub(crate) same: u64,
    pub(crate) differences: Vec<Difference>,
    pub(crate) segments: u64,
    pub(crate) scanned: u64,
    pub(crate) damaged: u64,
    #[serde(default)]
    pub(crate) backups: Option<u64>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Get {
    pub(crate) schema: u32,
    pub(crate) name: String,
    pub(crate) outcome: String,
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalList {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) segments: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) timelines: Vec<TimelineWal>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimelineWal {
    pub(crate) timeline: u32,
    pub(crate) history: bool,
    pub(crate) runs: Vec<WalRun>,
    pub(crate) partials: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalRun {
    pub(crate) first: String,
    pub(crate) last: String,
    pub(crate) count: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) start_lsn: String,
    pub(crate) end_lsn: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalShow {
    pub(crate) schema: u32,
    pub(crate) key: String,
    pub(crate) object_bytes: u64,
    pub(crate) header: Header,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) schema: u32,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) plain_bytes: u64,
    pub(crate) plain_sha256: String,
    pub(crate) stored_bytes: u64,
    #[serde(default)]
    pub(crate) stored_sha256: Option<String>,
    pub(crate) index_bytes: u64,
    pub(crate) codec: String,
    pub(crate) writer: Writer,
    pub(crate) wal: WalIdentity,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalIdentity {
    pub(crate) system_id: String,
    pub(crate) timeline: u32,
    pub(crate) segment_size: u32,
    pub(crate) start_lsn: String,
    pub(crate) end_lsn: String,
    #[serde(default)]
    pub(crate) summary: Option<Summary>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub(crate) facts: WalFacts,
    pub(crate) wal_end: String,
    pub(crate) joined: bool,
    pub(crate) straddler: Option<Straddler>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalFacts {
    pub(crate) commits: u64,
    pub(crate) aborts: u64,
    pub(crate) first_commit: Option<CommitMark>,
    pub(crate) last_commit: Option<CommitMark>,
    pub(crate) commit_times: Option<Range>,
    pub(crate) end_times: Option<Range>,
    pub(crate) xids: Option<Range>,
    pub(crate) flags: Vec<String>,
    pub(crate) maxima: Option<Required>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitMark {
    pub(crate) lsn: String,
    pub(crate) xid: u32,
    pub(crate) time: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Straddler {
    pub(crate) lsn: String,
    pub(crate) matters: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) at: String,
    pub(crate) timelines: Vec<TimelineWindow>,
    pub(crate) newest: Option<Moment>,
    pub(crate) rpo_seconds: Option<i64>,
    pub(crate) by_rollup: u64,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Moment {
    pub(crate) lsn: String,
    pub(crate) time: Option<String>,
    pub(crate) xid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestorableRange {
    pub(crate) first: Moment,
    pub(crate) last: Moment,
    pub(crate) wal_end_lsn: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimelineWindow {
    pub(crate) timeline: u32,
    pub(crate) parent: Option<u32>,
    pub(crate) fork_lsn: Option<String>,
    pub(crate) first: Option<Moment>,
    pub(crate) last: Option<Moment>,
    pub(crate) restorable: Vec<RestorableRange>,
    pub(crate) history_missing: bool,
    pub(crate) segments: u64,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) damaged: Vec<String>,
    pub(crate) backups: Vec<RestorableBackup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) url: String,
    pub(crate) at: String,
    pub(crate) ok: bool,
    pub(crate) checks: Vec<Finding>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) detail: String,
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerShow {
    pub(crate) schema: u32,
    pub(crate) url: String,
    pub(crate) repository: RepositoryRecord,
    pub(crate) server: ServerRecord,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepositoryRecord {
    pub(crate) repository_id: String,
    pub(crate) format: u32,
    pub(crate) created_by: Writer,
    pub(crate) capabilities: Capabilities,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerRecord {
    pub(crate) revision: u32,
    pub(crate) server: String,
    pub(crate) repository_id: String,
    pub(crate) current: String,
    pub(crate) incarnations: Vec<IncarnationEntry>,
    pub(crate) adoptions: Vec<Adoption>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IncarnationEntry {
    pub(crate) incarnation: String,
    pub(crate) added_by: Writer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adopt {
    pub(crate) schema: u32,
    pub(crate) incarnation: String,
    pub(crate) reasons: Vec<String>,
    pub(crate) revision: Option<u32>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigShow {
    pub(crate) schema: u32,
    pub(crate) files: Vec<String>,
    pub(crate) settings: Vec<ShownSetting>,
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShownSetting {
    pub(crate) name: String,
    pub(crate) value: serde_json::Value,
    pub(crate) origin: Origin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the key is called so")]
pub(crate) struct Version {
    pub(crate) schema: u32,
    pub(crate) version: String,
    pub(crate) format: u32,
    pub(crate) postgresql: Vec<u32>,
    pub(crate) features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Error {
    pub(crate) error: ErrorBody,
    #[serde(default)]
    pub(crate) refusal: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorBody {
    pub(crate) kind: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) nearest_before: Option<Moment>,
    pub(crate) nearest_after: Option<Moment>,
    pub(crate) rejected: Vec<Rejected>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gap {
    pub(crate) first: String,
    pub(crate) last: String,
    pub(crate) count: u64,
    pub(crate) start_lsn: String,
    pub(crate) end_lsn: String,
    pub(crate) partial: bool,
    pub(crate) cause: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestorableBackup {
    pub(crate) id: String,
    pub(crate) first: Moment,
    pub(crate) last: Option<Moment>,
    pub(crate) wal_end_lsn: Option<String>,
    pub(crate) finished_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adoption {
    pub(crate) incarnation: String,
    pub(crate) writer: Writer,
    pub(crate) reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rejected {
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) expected_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tablespace {
    pub(crate) oid: u32,
    pub(crate) path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    pub(crate) plain_bytes: u64,
    pub(crate) plain_sha256: String,
    pub(crate) object_bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChecksumFailure {
    pub(crate) path: String,
    pub(crate) blocks: Vec<u32>,
    pub(crate) count: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceSettings {
    pub(crate) server_version: String,
    pub(crate) max_connections: u32,
    pub(crate) max_worker_processes: u32,
    pub(crate) max_wal_senders: u32,
    pub(crate) max_prepared_transactions: u32,
    pub(crate) max_locks_per_transaction: u32,
    pub(crate) wal_level: String,
    pub(crate) data_checksums: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) source: String,
    pub(crate) label: String,
    pub(crate) timeline: u32,
    pub(crate) stop_timeline: u32,
    pub(crate) start_lsn: String,
    pub(crate) checkpoint_lsn: String,
    pub(crate) stop_lsn: String,
    pub(crate) next_xid: u64,
    pub(crate) oldest_xid: Option<u64>,
    pub(crate) segment_size: u32,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) files: u64,
    pub(crate) packs: u32,
    pub(crate) manifest: Reference,
    #[serde(default)]
    pub(crate) names: Option<Reference>,
    pub(crate) tablespaces: Vec<Tablespace>,
    pub(crate) settings: SourceSettings,
    pub(crate) checksum_failures: Vec<ChecksumFailure>,
    pub(crate) writer: Writer,
    /// With `backup show` alone.
    #[serde(default)]
    pub(crate) cost: Option<Cost>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seconds {
    pub(crate) giving_way: f64,
    pub(crate) checking: f64,
    pub(crate) checkpoint: f64,
    pub(crate) copying: f64,
    pub(crate) waiting: f64,
    pub(crate) finishing: f64,
    pub(crate) total: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalWait {
    pub(crate) first: String,
    pub(crate) last: String,
    pub(crate) segments: u64,
    pub(crate) waited_for: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupCreate {
    pub(crate) schema: u32,
    pub(crate) backup: Backup,
    pub(crate) seconds: Seconds,
    pub(crate) bytes_per_second: u64,
    pub(crate) stored_bytes_per_second: u64,
    pub(crate) wal: WalWait,
    pub(crate) vanished_files: u64,
    pub(crate) warnings: Vec<String>,
    pub(crate) store: BTreeMap<String, Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PgSetting {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MovedTablespace {
    pub(crate) oid: u32,
    pub(crate) from: String,
    pub(crate) to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: Option<String>,
    pub(crate) reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub(crate) path: String,
    pub(crate) target: String,
    pub(crate) as_directory: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Started {
    pub(crate) state: String,
    pub(crate) pid: Option<u32>,
    pub(crate) port: Option<u16>,
    pub(crate) socket_directory: Option<String>,
    pub(crate) timeline: Option<u32>,
    pub(crate) locked_relations: u64,
    pub(crate) replay_lsn: Option<String>,
    pub(crate) last_transaction_at: Option<String>,
    pub(crate) stop_message: Option<String>,
    pub(crate) stop_check: StopCheck,
    pub(crate) log: String,
    pub(crate) connect_command: Option<String>,
    pub(crate) elapsed_ms: u64,
    pub(crate) not_asked: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StopCheck {
    pub(crate) outcome: String,
    pub(crate) planned_lsn: String,
    pub(crate) replayed_to: Option<String>,
    pub(crate) message: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restore {
    pub(crate) schema: u32,
    pub(crate) server: String,
    pub(crate) incarnation: String,
    pub(crate) backup: String,
    pub(crate) target: Target,
    pub(crate) target_exclusive: bool,
    pub(crate) target_timeline: u32,
    pub(crate) pgdata: String,
    pub(crate) tablespaces: Vec<MovedTablespace>,
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) owner: Option<Owner>,
    pub(crate) links: Vec<Link>,
    pub(crate) left_out: Vec<String>,
    pub(crate) generated: Vec<String>,
    pub(crate) settings: Vec<PgSetting>,
    pub(crate) dropped_settings: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) start_command: String,
    pub(crate) started: Option<Started>,
    pub(crate) cost: Cost,
}

/// Reads a document strictly.
pub(crate) fn read<T: DeserializeOwned>(document: &str) -> T {
    serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}"))
}

/// Reads an example of the documentation, which names its form.
pub(crate) fn read_example(form: &str, document: &str) {
    match form {
        "Error" => drop(read::<Error>(document)),
        "Init" => drop(read::<Init>(document)),
        "ServerShow" => drop(read::<ServerShow>(document)),
        "Adopt" => drop(read::<Adopt>(document)),
        "Check" => drop(read::<Check>(document)),
        "ConfigShow" => drop(read::<ConfigShow>(document)),
        "Push" => drop(read::<Push>(document)),
        "Get" => drop(read::<Get>(document)),
        "CatalogShow" => drop(read::<CatalogShow>(document)),
        "CatalogRebuild" => drop(read::<CatalogRebuild>(document)),
        "WalList" => drop(read::<WalList>(document)),
        "WalShow" => drop(read::<WalShow>(document)),
        "WalFind" => drop(read::<Vec<Found>>(document)),
        "WalIndexRebuild" => drop(read::<WalIndexRebuild>(document)),
        "BackupCreate" => drop(read::<BackupCreate>(document)),
        "BackupList" => drop(read::<Vec<Backup>>(document)),
        "Window" => drop(read::<Window>(document)),
        "Plan" => drop(read::<Plan>(document)),
        "Restore" => drop(read::<Restore>(document)),
        "Drill" => drop(read::<Drill>(document)),
        "DrillList" => drop(read::<DrillList>(document)),
        "AgentStatus" => drop(read::<AgentStatus>(document)),
        "AgentList" => drop(read::<AgentList>(document)),
        "AgentStop" => drop(read::<AgentStop>(document)),
        "NoAgent" => drop(read::<NoAgent>(document)),
        "Verify" => drop(read::<Verify>(document)),
        "Version" => drop(read::<Version>(document)),
        other => panic!("no such form: {other}"),
    }
}
