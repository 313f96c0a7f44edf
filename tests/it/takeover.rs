//! A store that fails in the middle of a recovery never makes a server promote: it stops, and finishes rightly
//! when the store is back.

use http::Method;
use walden_pg::PgMajor;
use walden_testkit::stores::{Fault, FaultRule};

use crate::stores::faulty_s3;
use crate::support::{Walden, commit_rows, count_rows};

fn stops_and_finishes(major: PgMajor, fault: Fault) {
    let (repository, s3) = faulty_s3();
    let mut walden = Walden::new(&repository, "main");
    walden.environment.push(("WALDEN_WAL_GET_DEADLINE".into(), "3s".into()));
    let server = walden.server(major).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 1);
    walden.json_at(&server, &["backup", "create"]);
    for _ in 0..4 {
        // Enough that every stored segment is larger than the place that a fault damages.
        server.insert_rows(2_000).unwrap();
        commit_rows(&server, 5);
        server.archive_current_segment().unwrap();
    }
    let rows = count_rows(&server);
    let data = server.scratch_dir("restored").unwrap();
    walden.json(&["restore", "--pgdata", data.to_str().unwrap(), "--target-action", "promote"]);

    // The first segments arrive, then the store fails: without care the server would promote right here.
    s3.inject(FaultRule::next(fault, Method::GET, u32::MAX).on("/wal/").after(2));
    let mut restored = walden.restored(major, &data);
    restored.spawn().unwrap();
    let status = restored.wait_exit().unwrap();
    assert!(!status.success(), "{}", restored.log_since_start());
    let log = restored.log_since_start();
    assert!(log.contains("FATAL") && !log.contains("archive recovery complete"), "{log}");
    assert!(data.join("recovery.signal").try_exists().unwrap(), "recovery is not over");

    s3.clear_faults();
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&restored), rows);
}

#[test]
fn postgresql_13_stops_when_the_store_is_unavailable() {
    stops_and_finishes(PgMajor::V13, Fault::Unavailable);
}

#[test]
fn postgresql_15_stops_when_the_store_hangs() {
    stops_and_finishes(PgMajor::V15, Fault::HangBefore);
}

#[test]
fn postgresql_17_stops_when_rights_are_taken_away() {
    stops_and_finishes(PgMajor::V17, Fault::Denied);
}

#[test]
fn postgresql_18_stops_when_answers_are_damaged() {
    stops_and_finishes(PgMajor::V18, Fault::WrongBytes(3_000));
}
