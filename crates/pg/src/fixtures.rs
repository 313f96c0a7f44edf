//! Real files of real servers, for the tests. `fixtures/README.md` says how they were made.

use crate::major::PgMajor;

macro_rules! fixture {
    ($($path:literal),+) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/", $($path),+)).as_slice()
    };
}

/// The start of `pg_control` of a running server.
pub(crate) const CONTROL_IN_PRODUCTION: [(PgMajor, &[u8]); 6] = [
    (PgMajor::V13, fixture!("pg13/pg_control")),
    (PgMajor::V14, fixture!("pg14/pg_control")),
    (PgMajor::V15, fixture!("pg15/pg_control")),
    (PgMajor::V16, fixture!("pg16/pg_control")),
    (PgMajor::V17, fixture!("pg17/pg_control")),
    (PgMajor::V18, fixture!("pg18/pg_control")),
];

/// The start of `pg_control` of the same servers, shut down.
pub(crate) const CONTROL_SHUT_DOWN: [(PgMajor, &[u8]); 6] = [
    (PgMajor::V13, fixture!("pg13/pg_control.shut_down")),
    (PgMajor::V14, fixture!("pg14/pg_control.shut_down")),
    (PgMajor::V15, fixture!("pg15/pg_control.shut_down")),
    (PgMajor::V16, fixture!("pg16/pg_control.shut_down")),
    (PgMajor::V17, fixture!("pg17/pg_control.shut_down")),
    (PgMajor::V18, fixture!("pg18/pg_control.shut_down")),
];

/// What `pg_control_system()` said of the server of version 18.
pub(crate) const SYSTEM_ID_18: &str = "7710205456159029101";
/// What `pg_control_checkpoint()` said of its checkpoint time, in seconds since 1970.
pub(crate) const CHECKPOINT_TIME_18: i64 = 1_795_172_099;

/// The first page of a segment, with the segment's name.
pub(crate) const SEGMENT_PAGES: [(PgMajor, &str, &[u8]); 6] = [
    (PgMajor::V13, "00000001000000000000000C", fixture!("pg13/00000001000000000000000C.page")),
    (PgMajor::V14, "000000010000000000000002", fixture!("pg14/000000010000000000000002.page")),
    (PgMajor::V15, "000000010000000000000002", fixture!("pg15/000000010000000000000002.page")),
    (PgMajor::V16, "000000010000000000000006", fixture!("pg16/000000010000000000000006.page")),
    (PgMajor::V17, "000000010000000000000002", fixture!("pg17/000000010000000000000002.page")),
    (PgMajor::V18, "00000001000000000000000B", fixture!("pg18/00000001000000000000000B.page")),
];

/// A backup label with the backup history file and the tablespace map of the same backup.
pub(crate) struct BackupFiles {
    pub(crate) major: PgMajor,
    pub(crate) label: &'static [u8],
    pub(crate) history: &'static [u8],
    pub(crate) tablespace_map: &'static [u8],
}

macro_rules! backup_files {
    ($major:ident, $dir:literal, $history:literal) => {
        BackupFiles {
            major: PgMajor::$major,
            label: fixture!($dir, "/backup_label"),
            history: fixture!($dir, "/", $history),
            tablespace_map: fixture!($dir, "/tablespace_map"),
        }
    };
}

/// The files of one backup of each server.
pub(crate) const BACKUPS: [BackupFiles; 6] = [
    backup_files!(V13, "pg13", "00000001000000000000000C.00000028.backup"),
    backup_files!(V14, "pg14", "000000010000000000000002.00000028.backup"),
    backup_files!(V15, "pg15", "000000010000000000000002.00000028.backup"),
    backup_files!(V16, "pg16", "000000010000000000000006.00000028.backup"),
    backup_files!(V17, "pg17", "000000010000000000000002.00000028.backup"),
    backup_files!(V18, "pg18", "00000001000000000000000B.00000028.backup"),
];

/// Block 3 of `pg_proc` of servers with checksums, versions 13 and 18.
pub(crate) const HEAP_PAGES: [&[u8]; 2] = [fixture!("pg13/heap_page_3"), fixture!("pg18/heap_page_3")];
