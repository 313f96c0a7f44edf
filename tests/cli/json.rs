//! The JSON of every verb that needs no running server, read through strict types.

use serde::de::DeserializeOwned;

use crate::shapes::{
    self, Adopt, CatalogRebuild, CatalogShow, Check, ConfigShow, Error, Found, Get, Init, Push, ServerShow,
    Version, WalIndexRebuild, WalList, WalShow, Window,
};
use crate::support::{Bench, NEXT_SEGMENT, SEGMENT};

fn read<T: DeserializeOwned>(bench: &Bench, code: i32, arguments: &[&str]) -> T {
    let run = bench.run(&[arguments, &["--output", "json"]].concat());
    assert_eq!((run.code, run.stderr.as_str()), (code, ""), "{arguments:?} {}", run.stdout);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    shapes::read(&run.stdout)
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
    // On a local directory the file is looked for once more after the proof.
    assert_eq!(absent.cost.store["get"].requests, 3);
    let list: WalList = read(&bench, 0, &["wal", "list"]);
    assert_eq!((list.segments, list.timelines[0].runs[0].first.as_str()), (1, SEGMENT));
    let other: WalList = read(&bench, 0, &["wal", "list", "--timeline", "0x10"]);
    assert_eq!((other.segments, other.timelines.len()), (0, 0));
    let found: Vec<Found> = read(&bench, 0, &["wal", "find"]);
    assert!(found.is_empty());
    let rebuilt: WalIndexRebuild = read(&bench, 0, &["wal", "index", "rebuild", "--all"]);
    assert_eq!((rebuilt.directories, rebuilt.unfinished, rebuilt.written), (1, 1, 0));
    let rebuilt: CatalogRebuild = read(&bench, 0, &["catalog", "rebuild"]);
    assert_eq!((rebuilt.written, rebuilt.same, rebuilt.differences.len()), (0, 0, 0));
    for arguments in [&["catalog", "show"][..], &["catalog", "show", "--all-servers"]] {
        let contents: CatalogShow = read(&bench, 0, arguments);
        let incarnation = &contents.servers[0].incarnations[0];
        assert_eq!((incarnation.segments.count, incarnation.segments.bytes), (1, stored.stored_bytes));
        assert!(incarnation.current && incarnation.foreign.is_empty() && contents.foreign.is_empty());
    }
    let shown: WalShow = read(&bench, 0, &["wal", "show", SEGMENT]);
    assert!(shown.header.wal.summary.is_some());
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

#[test]
fn verify_good_and_damaged() {
    let bench = Bench::with_segment();
    for level in ["presence", "hash", "deep"] {
        let good: shapes::Verify = read(&bench, 0, &["verify", "--level", level]);
        assert_eq!((good.verdict.as_str(), good.level.as_str(), good.complete), ("good", level, true));
        assert_eq!((good.presence.segments, good.findings.len()), (1, 0));
    }
    let show: WalShow = read(&bench, 0, &["wal", "show", SEGMENT]);
    let object = bench.repository().join(show.key);
    let mut bytes = std::fs::read(&object).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let damaged: shapes::Verify = read(&bench, 27, &["verify", "--record"]);
    assert_eq!((damaged.verdict.as_str(), damaged.counts.damaged), ("damaged", 1));
    assert_eq!(damaged.findings[0].segment.as_deref(), Some(SEGMENT));
    assert!(damaged.consequences.is_some_and(|consequences| consequences.newest_after.is_none()));
    let check: Check = read(&bench, 24, &["check"]);
    assert!(check.checks.iter().any(|check| check.name == "verified" && check.status == "warning"));
    let _: Error = read(&bench, 2, &["verify", "--sample", "0%"]);
    let _: Error = read(&bench, 11, &["verify", "--latest"]);
}
