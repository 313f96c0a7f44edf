//! What of a data directory a base backup leaves out.
//!
//! PostgreSQL source: `excludeDirContents` and `excludeFiles` in `src/backend/backup/basebackup.c` (13 and 14:
//! `src/backend/replication/basebackup.c`), `PG_TEMP_FILE_PREFIX` in `src/include/common/file_utils.h`.

use crate::data_directory::RESTORED_MARKER;

/// Directories of the data directory that must be there at a start, and whose contents mean nothing to another
/// server.
const EMPTIED_DIRECTORIES: [&[u8]; 7] = [
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_replslot",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
];

/// Files that are left out wherever they are.
const LEFT_OUT_ANYWHERE: [&[u8]; 8] = [
    b".DS_Store",
    b"backup_label",
    b"backup_manifest",
    b"current_logfiles.tmp",
    b"postgresql.auto.conf.tmp",
    b"postmaster.opts",
    b"postmaster.pid",
    b"tablespace_map",
];

/// Files that a restore puts into the data directory itself.
const LEFT_OUT_AT_TOP: [&[u8]; 3] = [RESTORED_MARKER.as_bytes(), b"recovery.signal", b"standby.signal"];

/// Names that begin like this belong to temporary files, or to a cache that the server makes anew.
const LEFT_OUT_PREFIXES: [&[u8]; 2] = [b"pgsql_tmp", b"pg_internal.init"];

/// How our own unfinished files end.
const OWN_TEMPORARY_SUFFIX: &[u8] = b".walden-tmp";

/// PostgreSQL's own directories, which stay usable when somebody has put one of them elsewhere behind a link.
const OWN_DIRECTORIES: [&[u8]; 9] = [
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_logical",
    b"pg_multixact",
    b"pg_stat",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_xact",
];

/// Configuration without which the server would not start, or not as it was.
const CONFIGURATION_FILES: [&[u8]; 4] =
    [b"pg_hba.conf", b"pg_ident.conf", b"postgresql.auto.conf", b"postgresql.conf"];

/// Whether a file or directory called `name` is left out; `top` says that it lies directly in the data directory.
pub(super) fn is_left_out(name: &[u8], top: bool) -> bool {
    LEFT_OUT_ANYWHERE.contains(&name)
        || (top && LEFT_OUT_AT_TOP.contains(&name))
        || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.ends_with(OWN_TEMPORARY_SUFFIX)
}

/// Whether the directory of this path, relative to the data directory, is kept and its contents are not.
/// `statistics` is `stats_temp_directory` where it lies in the data directory.
pub(super) fn is_emptied(path: &[u8], statistics: Option<&[u8]>) -> bool {
    path == b"pg_wal" || EMPTIED_DIRECTORIES.contains(&path) || statistics == Some(path)
}

/// Directories below `pg_wal` that are kept, empty.
pub(super) const WAL_DIRECTORIES: [&[u8]; 2] = [b"archive_status", b"summaries"];

/// Whether a link at this path is followed: its contents belong to the cluster, wherever they lie.
pub(super) fn is_followed(path: &[u8]) -> bool {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    OWN_DIRECTORIES.contains(&first) || CONFIGURATION_FILES.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [
            "backup_label",
            "postmaster.pid",
            "pgsql_tmp",
            "pgsql_tmp123.0",
            "pg_internal.init",
            "pg_internal.init.77",
            ".RECOVERYXLOG.12.walden-tmp",
        ] {
            assert!(is_left_out(name.as_bytes(), false), "{name}");
        }
        for name in ["backup_label.old", "PG_VERSION", "pg_filenode.map", "16384", "postgresql.auto.conf"] {
            assert!(!is_left_out(name.as_bytes(), true), "{name}");
        }
        assert!(is_left_out(b"standby.signal", true) && !is_left_out(b"standby.signal", false));
    }

    #[test]
    fn directories() {
        assert!(is_emptied(b"pg_replslot", None) && !is_emptied(b"base/pg_replslot", None));
        assert!(is_emptied(b"my_stats", Some(b"my_stats")) && !is_emptied(b"my_stats", None));
        assert!(is_followed(b"base/5") && is_followed(b"pg_hba.conf"));
        assert!(is_followed(b"postgresql.auto.conf"));
        assert!(!is_followed(b"log") && !is_followed(b"x/pg_hba.conf"));
    }
}
