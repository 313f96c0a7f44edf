//! A good archive.

use walden_pg::PgMajor;

use super::archive::Archive;

fn has_no_finding(major: PgMajor) {
    let archive = Archive::local(major);
    let copy = archive.copy();
    for level in ["presence", "hash", "deep"] {
        let verified = copy.verify(&["--level", level]);
        verified.assert_good(level);
        assert_eq!(verified.findings(), [] as [serde_json::Value; 0], "{level}");
        assert_eq!(verified.report["complete"], true, "{level}");
        assert_eq!(verified.report["presence"]["backups"], 2);
        assert_eq!(verified.report["presence"]["timelines"], 2);
        if level != "presence" {
            assert_eq!(verified.report["proven"], verified.report["plan"]["in_scope"], "{level}");
        }
    }
    let (old, new) = (archive.backups[0].as_str(), archive.backups[1].as_str());
    for scope in
        [&["--latest"][..], &["--backup", old], &["--backup", new, "--wal-only"], &["--backups-only"]]
    {
        for level in ["hash", "deep"] {
            let verified = copy.verify(&[&["--level", level], scope].concat());
            verified.assert_good(&format!("{scope:?} {level}"));
            assert!(verified.report["proven"]["objects"].as_u64().unwrap() > 1, "{:#}", verified.report);
        }
    }
    assert_eq!(copy.verify(&["--backup", "20200101T000000Z-0000"]).code, 11);
    // What is proven is remembered, for each level and for those below.
    let again = copy.verify(&["--level", "hash", "--max-age", "1d"]);
    again.assert_good("again");
    assert_eq!(again.report["plan"]["fresh"], again.report["plan"]["in_scope"]);
    assert_eq!(again.report["bytes_read"], 0);
    assert_eq!(again.report["complete"], true);
}

#[test]
fn postgresql_13_has_no_finding() {
    has_no_finding(PgMajor::V13);
}

#[test]
fn postgresql_18_has_no_finding() {
    has_no_finding(PgMajor::V18);
}
