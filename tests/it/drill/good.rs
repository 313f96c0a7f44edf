//! Drills that go well, to every kind of target.

use walden_pg::PgMajor;

use super::{Bench, check, phases};

fn drill_everything(major: PgMajor) {
    let bench = Bench::new(major);
    let rows = |count: i64| {
        bench.file(
            &format!("rows-{count}.sql"),
            &format!("SET work_mem = '8MB';\n-- name: rows\nSELECT count(*) = {count} FROM walden_marks;\n"),
        )
    };
    let drill = |count: i64, options: &[&str]| {
        let sql = rows(count);
        let report = bench.drill(0, &[options, &["--sql", sql.to_str().unwrap()]].concat());
        assert_eq!(report["ok"], true, "{report:#}");
        assert_eq!(report["outcome"], "ok");
        assert_eq!(phases(&report), ["plan", "fetch", "replay", "promote", "checks"], "{report:#}");
        assert!(report["rto_seconds"].as_f64().unwrap() > 0.0);
        for name in
            ["recovery stop", "last transaction", "writes", "indexes", "sequences", "rows", "row counts"]
        {
            let check = check(&report, name);
            assert!(check["ok"] == true && check["skipped"].is_null(), "{check}");
        }
        assert_eq!(report["stop"]["expected_lsn"], report["stop"]["real_lsn"]);
        assert_eq!(report["error"], serde_json::Value::Null);
        report
    };
    let all = 11;
    let latest = drill(all, &[]);
    assert_eq!(latest["target"]["kind"], "latest");
    assert!(latest["rpo_seconds"].as_f64().unwrap() > 0.0);
    assert!(latest["segments"].as_u64().unwrap() > 0);
    let told = check(&latest, "row counts")["detail"].as_str().unwrap();
    assert!(told.contains("public.walden_marks: 11"), "{told}");
    assert!(check(&latest, "amcheck")["ok"] == true);

    let mark = &bench.marks[2];
    drill(mark.rows, &["--target-lsn", &mark.lsn.to_string(), "--target-exclusive"]);
    drill(mark.rows, &["--target-xid", &mark.xid.to_string()]);
    let time = drill(mark.rows, &["--target-time", &mark.time]);
    assert!(time["rpo_seconds"].as_f64().unwrap() >= 0.0);
    let named = drill(8, &["--target-name", "before_the_end"]);
    assert_eq!(named["rpo_seconds"], serde_json::Value::Null);
    assert_eq!(named["target"]["value"], "before_the_end");
    drill(3, &["--target-immediate"]);

    let evidence = bench.evidence(latest["id"].as_str().unwrap());
    for key in ["id", "ok", "phases", "checks", "rto_seconds", "plan", "backup", "versions", "stop", "writer"]
    {
        assert_eq!(evidence[key], latest[key], "{key}");
    }
    assert_eq!(evidence["backup"]["record_sha256"].as_str().unwrap().len(), 64);
    let list = bench.walden.json(&["drill", "list"]);
    assert_eq!((list["count"].as_u64(), list["drills"].as_array().unwrap().len()), (Some(6), 6));
    // The source has seen nothing of all this.
    let marks: i64 = bench.server.value("SELECT count(*) FROM walden_marks").unwrap();
    assert_eq!(marks, all);
}

#[test]
fn a_drill_comes_to_every_kind_of_target() {
    drill_everything(PgMajor::V17);
}

#[test]
fn drills_of_all_majors() {
    if std::env::var_os("WALDEN_CAMPAIGN").is_none_or(|value| value == "0") {
        return;
    }
    for major in PgMajor::ALL {
        println!("PostgreSQL {major}");
        drill_everything(major);
    }
}

#[test]
fn a_random_moment_is_drawn_again_by_its_seed() {
    let bench = Bench::new(PgMajor::V17);
    let first = bench.drill(0, &["--random"]);
    let seed = first["draw"]["seed"].as_u64().unwrap().to_string();
    assert_eq!(first["target"]["kind"], "time");
    let again = bench.drill(0, &["--random", "--seed", &seed]);
    assert_eq!(first["target"], again["target"]);
    let quiet = bench.drill(0, &["--no-evidence", "--skip-check", "amcheck", "--skip-check", "row-counts"]);
    assert!(quiet["evidence"].is_null());
    assert_eq!(check(&quiet, "row counts")["skipped"], true);
}

/// What a source does for itself must do nothing in a copy of it.
#[test]
fn a_copy_keeps_to_itself() {
    let bench = Bench::new(PgMajor::V17);
    let outside = bench.server.scratch_dir("outside").unwrap();
    let touch = |name: &str| format!("touch {}/{name}", outside.display());
    for (name, value) in [
        ("archive_command", touch("archived").as_str()),
        ("archive_cleanup_command", &touch("cleaned")),
        ("recovery_end_command", &touch("ended")),
        ("primary_conninfo", "host=192.0.2.1 dbname=postgres"),
        ("shared_preload_libraries", "pg_cron_that_is_not_there"),
        ("external_pid_file", &format!("{}/pid", outside.display())),
        ("synchronous_standby_names", "somebody"),
        ("ssl_cert_file", "/nowhere/server.crt"),
        ("hba_file", "/nowhere/pg_hba.conf"),
        ("listen_addresses", "*"),
    ] {
        bench.server.execute(&format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''"))).unwrap();
    }
    bench.walden.json_at(&bench.server, &["backup", "create"]);
    let report = bench.drill(0, &[]);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("pg_cron_that_is_not_there"), "{warnings}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}
