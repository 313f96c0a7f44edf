//! The scanner against PostgreSQL's own readers of WAL, on WAL of real servers of every major version.
//!
//! Every record that `pg_waldump` or `pg_walinspect` shows must be read by the scanner with the same
//! position, previous record, transaction, resource manager, length, image length and block references,
//! and no other; and what transaction, XLOG, standby, storage and database records say must agree with
//! their descriptions.
//!
//! 15 and later are compared with `pg_walinspect`, which comes with the server. Where a `pg_waldump` of
//! the major version is at hand, the comparison is with that too: the distribution's, or one in
//! `$WALDEN_PG_WALDUMP/<major>/`. 13 and 14 have nothing but `pg_waldump`; without it the test says so
//! and only checks what the server itself can tell. 14's WAL is read by 13's `pg_waldump` if there is no
//! other: the records have the same form, only the pages' magic number differs.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells what it skipped"
)]

mod describe;
mod expected;
mod scanned;
mod workload;

use walden_pg::{PgMajor, WalSegmentSize};

use crate::expected::{WalDump, wal_inspect};
use crate::scanned::{Scan, compare};
use crate::workload::Archive;

fn check(major: PgMajor, segment_mib: u64, wal_level: &str) {
    let size = WalSegmentSize::new(segment_mib << 20).expect("a segment size");
    let archive = Archive::make(major, size, wal_level).expect("a server with WAL");
    let scan = Scan::of(&archive);
    archive.check(&scan);
    let mut compared = 0;
    if major >= PgMajor::V15 {
        let expected = wal_inspect(&archive, &scan).expect("pg_walinspect");
        compared += compare(&scan, &expected, "pg_walinspect", true);
    }
    if let Some(dump) = WalDump::find(major) {
        let expected = dump.run(&archive, &scan);
        compared += compare(&scan, &expected, "pg_waldump", dump.knows_every_kind());
    }
    if compared == 0 {
        eprintln!("SKIPPED for {major}: no pg_waldump here; the records were checked without it");
    } else {
        eprintln!("{major}: {} records, {compared} comparisons", scan.records.len());
    }
}

#[test]
fn major_13() {
    check(PgMajor::V13, 1, "replica");
}

#[test]
fn major_14() {
    check(PgMajor::V14, 1, "replica");
}

/// Apart, because 13's `pg_waldump` cannot read such records of 14.
#[test]
fn major_14_with_logical_decoding() {
    let archive = Archive::make(PgMajor::V14, WalSegmentSize::MIN, "logical").expect("a server with WAL");
    archive.check(&Scan::of(&archive));
}

#[test]
fn major_15() {
    check(PgMajor::V15, 1, "logical");
}

#[test]
fn major_16() {
    check(PgMajor::V16, 16, "replica");
}

#[test]
fn major_17() {
    check(PgMajor::V17, 1, "logical");
}

#[test]
fn major_18() {
    check(PgMajor::V18, 64, "replica");
}
