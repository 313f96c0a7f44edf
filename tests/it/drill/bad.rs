//! Drills that must not go well, and are recorded all the same.

use walden_pg::PgMajor;

use super::{Bench, check, corrupt, object, phases};
use crate::support::{describe, run};

#[test]
fn what_is_wrong_is_told_by_code_and_evidence() {
    let bench = Bench::new(PgMajor::V17);

    let sql = bench.file(
        "assertions.sql",
        "-- name: holds\nSELECT count(*) > 0 FROM walden_marks;\n-- name: does not\nSELECT id < 5 FROM walden_marks;\n\
         -- name: no truth\nSELECT 1;\n-- name: no table\nSELECT true FROM nothing;\n-- name: no rows\nSELECT false WHERE false;\n\
         -- name: writes\nDELETE FROM walden_marks RETURNING true;\n-- name: null\nSELECT NULL::boolean;",
    );
    let failed = bench.drill(24, &["--sql", sql.to_str().unwrap(), "--skip-check", "amcheck"]);
    assert_eq!((failed["ok"].as_bool(), failed["outcome"].as_str()), (Some(false), Some("checks_failed")));
    for (name, ok) in [
        ("holds", true),
        ("does not", false),
        ("no truth", false),
        ("no table", false),
        ("no rows", true),
        ("writes", true),
        ("null", false),
    ] {
        // The first "writes" is the drill's own.
        assert_eq!(check(&failed, name)["ok"], ok, "{name}: {failed:#}");
    }
    let checks = failed["checks"].as_array().unwrap();
    let deleted = checks.iter().rfind(|check| check["name"] == "writes").unwrap();
    assert!(deleted["detail"].as_str().unwrap().contains("read-only transaction"), "{deleted}");
    assert_eq!(bench.evidence(failed["id"].as_str().unwrap())["checks"], failed["checks"]);

    let broken = bench.drill(19, &["--setting", "shared_buffers=1024GB"]);
    assert_eq!(broken["outcome"], "failed");
    assert_eq!(broken["error"]["kind"], "postgres");
    assert!(broken["log"].to_string().contains("FATAL"), "{broken:#}");
    let log = std::fs::read_to_string(broken["log_path"].as_str().unwrap()).unwrap();
    assert!(log.contains("FATAL"), "{log}");
    assert_eq!(phases(&broken), ["plan", "fetch", "replay"]);
    let hint = broken["error"]["hint"].as_str().unwrap_or_default();
    assert!(!hint.contains("start"), "{hint}");

    let slow = bench.file("slow.sql", "SELECT pg_sleep(100) IS NOT NULL");
    let late = bench.drill(15, &["--timeout", "6s", "--sql", slow.to_str().unwrap()]);
    assert_eq!(late["outcome"], "timed_out");

    let refused = bench.drill(22, &["--target-xid", "123456789"]);
    assert_eq!(refused["outcome"], "no_plan");
    assert_eq!(refused["error"]["kind"], "target");

    let unset = bench.drill(10, &["--setting", "archive_mode=on"]);
    assert!(unset["error"]["message"].as_str().unwrap().contains("archive_mode"), "{unset:#}");

    let refused = run(&mut bench.command(&["--target-action", "shutdown"]));
    assert_eq!(refused.status.code(), Some(2), "{}", describe(&refused));
    let list = bench.walden.json(&["drill", "list"]);
    let outcomes: Vec<_> =
        list["drills"].as_array().unwrap().iter().map(|drill| drill["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["checks_failed", "failed", "timed_out", "no_plan", "failed"]);
    assert_eq!(list["drills"][0]["failed_checks"].as_array().unwrap().len(), 5);
}

#[test]
fn damage_in_the_store_is_found() {
    let bench = Bench::new(PgMajor::V17);
    corrupt(&object(&bench, "/pack/"));
    let report = bench.drill(14, &[]);
    assert_eq!((report["ok"].as_bool(), report["outcome"].as_str()), (Some(false), Some("failed")));
    assert_eq!(report["error"]["kind"], "corrupt");
    assert_eq!(phases(&report), ["plan", "fetch"]);
    let evidence = bench.evidence("latest");
    assert_eq!(evidence["error"], report["error"]);
    assert!(evidence["backup"]["record_sha256"].is_string());
}

#[test]
fn a_sequence_behind_its_column_and_an_index_that_is_not_valid_are_found() {
    let bench = Bench::new(PgMajor::V17);
    let server = &bench.server;
    server.execute("CREATE TABLE behind (id bigserial PRIMARY KEY, twin integer)").unwrap();
    server.execute("INSERT INTO behind VALUES (100, 1), (101, 1)").unwrap();
    assert!(server.execute("CREATE UNIQUE INDEX CONCURRENTLY not_valid ON behind (twin)").is_err());
    server.archive_current_segment().unwrap();
    let report = bench.drill(24, &["--skip-check", "amcheck"]);
    let sequences = check(&report, "sequences");
    assert!(
        sequences["detail"].as_str().unwrap().contains("\"behind_id_seq\" gave nothing, the column has 101"),
        "{sequences}"
    );
    let indexes = check(&report, "indexes");
    assert!(indexes["detail"].as_str().unwrap().contains("public.not_valid"), "{indexes}");
    let skipped =
        bench.drill(0, &["--skip-check", "amcheck", "--skip-check", "sequences", "--skip-check", "indexes"]);
    assert_eq!(skipped["ok"], true);
}
