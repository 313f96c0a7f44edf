//! The JSON of every verb that needs no running server, read through strict types: a key that is new, renamed or
//! gone fails here, and must then be told in `docs/cli.md`.

#![expect(dead_code, reason = "the fields are there to be demanded")]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::support::{Bench, NEXT_SEGMENT, SEGMENT};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    elapsed_ms: u64,
    store: BTreeMap<String, Count>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    requests: u64,
    bytes_sent: u64,
    bytes_received: u64,
    retries: u64,
    errors: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Writer {
    host: String,
    instance: String,
    version: String,
    at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Capabilities {
    conditional_create: String,
    range_reads: bool,
    list_after: bool,
    probed_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Init {
    schema: u32,
    url: String,
    repository_id: String,
    repository_created: bool,
    server_created: bool,
    incarnation_created: bool,
    incarnation: String,
    segment_bytes: u64,
    capabilities: Capabilities,
    histories: Vec<String>,
    warnings: Vec<String>,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Push {
    schema: u32,
    name: String,
    outcome: String,
    key: String,
    bytes: u64,
    stored_bytes: u64,
    sha256: String,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    schema: u32,
    name: String,
    outcome: String,
    key: String,
    bytes: u64,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WalList {
    schema: u32,
    server: String,
    incarnation: String,
    segments: u64,
    stored_bytes: u64,
    timelines: Vec<TimelineWal>,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimelineWal {
    timeline: u32,
    history: bool,
    runs: Vec<WalRun>,
    partials: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WalRun {
    first: String,
    last: String,
    count: u64,
    stored_bytes: u64,
    start_lsn: String,
    end_lsn: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WalShow {
    schema: u32,
    key: String,
    object_bytes: u64,
    header: Header,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u32,
    kind: String,
    name: String,
    server: String,
    incarnation: String,
    plain_bytes: u64,
    plain_sha256: String,
    stored_bytes: u64,
    #[serde(default)]
    stored_sha256: Option<String>,
    index_bytes: u64,
    codec: String,
    writer: Writer,
    wal: WalFacts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WalFacts {
    system_id: String,
    timeline: u32,
    segment_size: u32,
    start_lsn: String,
    end_lsn: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    schema: u32,
    server: String,
    incarnation: String,
    at: String,
    timelines: Vec<TimelineWindow>,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimelineWindow {
    timeline: u32,
    parent: Option<u32>,
    fork_lsn: Option<String>,
    first: Option<String>,
    last: Option<String>,
    segments: u64,
    gaps: Vec<serde_json::Value>,
    backups: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    schema: u32,
    server: String,
    url: String,
    at: String,
    ok: bool,
    checks: Vec<Finding>,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    name: String,
    status: String,
    detail: String,
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerShow {
    schema: u32,
    url: String,
    repository: RepositoryRecord,
    server: ServerRecord,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryRecord {
    repository_id: String,
    format: u32,
    created_by: Writer,
    capabilities: Capabilities,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerRecord {
    revision: u32,
    server: String,
    repository_id: String,
    current: String,
    incarnations: Vec<IncarnationEntry>,
    adoptions: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IncarnationEntry {
    incarnation: String,
    added_by: Writer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopt {
    schema: u32,
    incarnation: String,
    reasons: Vec<String>,
    revision: Option<u32>,
    cost: Cost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigShow {
    schema: u32,
    files: Vec<String>,
    settings: Vec<Setting>,
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    name: String,
    value: serde_json::Value,
    origin: Origin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    kind: String,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the key is called so")]
struct Version {
    schema: u32,
    version: String,
    format: u32,
    postgresql: Vec<u32>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Error {
    error: ErrorBody,
    #[serde(default)]
    refusal: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorBody {
    kind: String,
    message: String,
    #[serde(default)]
    causes: Vec<String>,
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    reason: String,
    message: String,
    hint: Option<String>,
    nearest_before: Option<String>,
    nearest_after: Option<String>,
    rejected: Vec<serde_json::Value>,
}

fn read<T: DeserializeOwned>(bench: &Bench, code: i32, arguments: &[&str]) -> T {
    let run = bench.run(&[arguments, &["--output", "json"]].concat());
    assert_eq!((run.code, run.stderr.as_str()), (code, ""), "{arguments:?} {}", run.stdout);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{}", run.stdout))
}

#[test]
fn init_and_server() {
    let bench = Bench::new();
    let made: Init = read(&bench, 0, &["init"]);
    assert!(made.repository_created && made.server_created && made.incarnation_created);
    let again: Init = read(&bench, 0, &["init"]);
    assert!(!again.repository_created && !again.server_created && !again.incarnation_created);
    assert_eq!(again.repository_id, made.repository_id);
    let shown: ServerShow = read(&bench, 0, &["server", "show"]);
    assert_eq!((shown.server.revision, shown.server.current.as_str()), (1, made.incarnation.as_str()));
    let adopted: Adopt = read(&bench, 0, &["server", "adopt"]);
    assert_eq!((adopted.revision, adopted.reasons.len()), (None, 0));
}

#[test]
fn push_get_list_show() {
    let bench = Bench::with_repository();
    let path = format!("pg_wal/{SEGMENT}");
    let stored: Push = read(&bench, 0, &["wal", "push", &path]);
    assert_eq!((stored.outcome.as_str(), stored.bytes), ("stored", 1 << 20));
    let again: Push = read(&bench, 0, &["wal", "push", &path]);
    assert_eq!((again.outcome.as_str(), &again.sha256), ("already_stored", &stored.sha256));
    let fetched: Get = read(&bench, 0, &["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"]);
    assert_eq!(fetched.outcome, "fetched");
    let absent: Get = read(&bench, 1, &["wal", "get", NEXT_SEGMENT, "pg_wal/RECOVERYXLOG"]);
    assert_eq!((absent.outcome.as_str(), absent.bytes), ("absent", 0));
    assert_eq!(absent.cost.store["get"].requests, 2);
    let list: WalList = read(&bench, 0, &["wal", "list"]);
    assert_eq!((list.segments, list.timelines[0].runs[0].first.as_str()), (1, SEGMENT));
    let other: WalList = read(&bench, 0, &["wal", "list", "--timeline", "0x10"]);
    assert_eq!((other.segments, other.timelines.len()), (0, 0));
    let shown: WalShow = read(&bench, 0, &["wal", "show", SEGMENT]);
    assert_eq!(shown.header.plain_sha256, stored.sha256);
}

#[test]
fn steady_state_costs_one_request_a_segment() {
    let bench = Bench::with_segment();
    let path = format!("pg_wal/{SEGMENT}");
    std::fs::remove_dir_all(bench.repository().join("main")).unwrap();
    std::fs::remove_file(bench.repository().join("repository.json")).unwrap();
    bench.ok(&["init"]);
    // The first push asks whose archive this is and remembers the answer.
    let warm: Push = read(&bench, 0, &["wal", "push", &path]);
    assert_eq!(warm.cost.store["put"].requests, 1);
    let fetched: Get = read(&bench, 0, &["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"]);
    let requests: u64 = fetched.cost.store.values().map(|count| count.requests).sum();
    assert_eq!(requests, 1);
}

#[test]
fn window_check_config_version() {
    let bench = Bench::with_segment();
    let window: Window = read(&bench, 0, &["window"]);
    assert_eq!((window.timelines[0].timeline, window.timelines[0].segments), (1, 1));
    let check: Check = read(&bench, 24, &["check"]);
    assert!(!check.ok && check.checks.iter().any(|finding| finding.status == "failure"));
    let config: ConfigShow = read(&bench, 0, &["config", "show"]);
    let repo = config.settings.iter().find(|setting| setting.name == "repo").unwrap();
    assert_eq!(
        (repo.origin.kind.as_str(), repo.origin.name.as_deref()),
        ("environment", Some("WALDEN_REPO"))
    );
    let version: Version = read(&bench, 0, &["version"]);
    assert_eq!(version.postgresql, [13, 14, 15, 16, 17, 18]);
    let backups: Vec<serde_json::Value> = read(&bench, 0, &["backup", "list"]);
    assert!(backups.is_empty());
}

#[test]
fn errors_and_refusals() {
    let bench = Bench::with_segment();
    let refused: Error = read(&bench, 22, &["plan"]);
    assert_eq!(
        (refused.error.kind.as_str(), refused.refusal.unwrap().reason.as_str()),
        ("target", "no_backup")
    );
    let error: Error = read(&bench, 11, &["--server", "other", "check"]);
    assert!(error.refusal.is_none() && error.error.hint.is_some());
    let usage: Error = read(&bench, 2, &["--nonsense"]);
    assert_eq!(usage.error.kind, "usage");
}
