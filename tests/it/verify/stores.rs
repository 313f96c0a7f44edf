//! A store that fails is no damage, and neither is an archive that is at work.

use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use walden_pg::{PgMajor, WalSegmentSize};
use walden_testkit::stores::{Fault, FaultRule};

use super::archive::{Archive, Verified};
use crate::stores::faulty_s3;
use crate::support::{Repository, Walden, commit_rows, run};

const FOR_EVER: u32 = u32::MAX;

#[test]
fn what_the_store_does_not_give_is_not_proven() {
    let (repository, s3) = faulty_s3();
    let mut archive = Archive::make(PgMajor::V18, repository);
    archive.walden.set("WALDEN_STORE_OPERATION_TIMEOUT", "3s");
    let verify = |arguments: &[&str]| {
        Verified::of(&run(&mut archive
            .walden
            .command(&[&["verify", "--output", "json"], arguments].concat())))
    };
    verify(&["--level", "deep"]).assert_good("before");
    let names = archive.walden.json(&["wal", "list"]);
    let segment = names["timelines"][0]["runs"][0]["first"].as_str().unwrap().to_owned();
    for fault in [Fault::Unavailable, Fault::ResetBefore, Fault::Denied] {
        for level in ["hash", "deep"] {
            s3.inject(FaultRule::next(fault, Method::GET, FOR_EVER).on(&segment));
            let verified = verify(&["--level", level, "--wal-only"]);
            s3.clear_faults();
            assert_eq!(verified.code, 28, "{fault:?} {level}: {:#}", verified.report);
            assert_eq!(verified.report["verdict"], "not_proven");
            assert_eq!(verified.report["consequences"], serde_json::Value::Null);
            let told = verified.told();
            assert!(
                told.iter().all(|(verdict, kind, _)| verdict == "not_proven" && kind == "store_error"),
                "{told:?}"
            );
            assert!(told.iter().any(|(_, _, key)| key.contains(&segment)), "{told:?}");
        }
    }
    // Damage on the way is read again, and is none.
    for fault in [Fault::WrongBytes(5_000), Fault::Truncated(500), Fault::Stalled(500), Fault::Unavailable] {
        for on in [segment.as_str(), "/pack/", "manifest.zst", ".history"] {
            s3.inject(FaultRule::next(fault, Method::GET, 1).on(on));
            let verified = verify(&["--level", "deep"]);
            s3.clear_faults();
            verified.assert_good(&format!("{fault:?} on {on}"));
        }
    }
}

#[test]
fn an_archive_at_work_is_no_damage() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let server = walden.server(PgMajor::V17).wal_segment_size(size).data_checksums(true).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 1);
    walden.json_at(&server, &["backup", "create"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..12 {
                commit_rows(&server, 20);
                server
                    .execute("SELECT pg_logical_emit_message(false, 'walden', repeat('A', 1500000))")
                    .unwrap();
                server.switch_wal().unwrap();
                if round % 5 == 3 {
                    walden.json_at(&server, &["backup", "create"]);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut runs = 0;
        while !done.load(Ordering::Relaxed) || runs < 3 {
            for level in ["presence", "hash", "deep"] {
                let output = run(&mut walden.command(&["verify", "--output", "json", "--level", level]));
                Verified::of(&output).assert_good(&format!("run {runs} at {level}"));
            }
            runs += 1;
        }
    });
}
