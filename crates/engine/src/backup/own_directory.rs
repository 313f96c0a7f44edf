//! Whether the data directory is the running server's own.
//!
//! A clone or a standby has the same system identifier, and a running clone may be ahead of the server in its WAL,
//! so nothing in a `pg_control` tells them apart. What does is to let the server write something: the file of an
//! exported snapshot appears in its own data directory only, and names the process that we talk to.

use std::io;
use std::path::Path;

use walden_core::ErrorKind;
use walden_pg::{ClusterState, Lsn};

use super::postgres::{ExportedSnapshot, PostgresControl, ServerIdentity};
use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// Where a server keeps exported snapshots, relative to its data directory.
const SNAPSHOTS: &str = "pg_snapshots";

/// Makes the server write into its data directory, and looks for that in this one.
///
/// # Errors
/// Kind `wrong_server` when it is not there, `postgres` when the session fails, `local_io` when the file can't be
/// read.
pub(super) async fn prove_directory<P: PostgresControl>(
    postgres: &mut P,
    server: &ServerIdentity,
    data: &DataDirectory,
) -> Result<()> {
    let snapshot = postgres.export_snapshot().await?;
    let is_there = holds(data.path(), &snapshot);
    postgres.drop_snapshot().await?;
    if is_there? {
        return Ok(());
    }
    Err(EngineError::failed(
        ErrorKind::WrongServer,
        format!(
            "the data directory is not the one that the server at the connection runs in: the snapshot that the \
             server exported is not in it path={} server_data_directory={}",
            data.path().display(),
            server.data_directory.as_deref().unwrap_or("unknown")
        ),
    )
    .with_hint("check --pgdata or PGDATA against PGHOST and PGPORT: they may name two copies of one server"))
}

/// Whether this data directory holds the snapshot's file with the line of its backend.
fn holds(data: &Path, snapshot: &ExportedSnapshot) -> Result<bool> {
    // A name from a server that is not trusted yet must not lead out of the directory.
    if snapshot.name.is_empty() || snapshot.name.contains('/') {
        return Ok(false);
    }
    let path = data.join(SNAPSHOTS).join(&snapshot.name);
    let contents = match std::fs::read(&path) {
        Ok(contents) => contents,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(EngineError::local("read", &path, error)),
    };
    let line = format!("pid:{}", snapshot.backend_pid);
    Ok(contents.split(|byte| *byte == b'\n').any(|found| found == line.as_bytes()))
}

/// The second look, after the start: the checkpoint that began the backup must be in the directory.
///
/// # Errors
/// Kind `wrong_server` when it is not; what reading `pg_control` can give.
pub(super) fn check_directory(data: &DataDirectory, start_lsn: Lsn) -> Result<()> {
    let control = data.control()?;
    if control.state == ClusterState::InProduction && control.checkpoint.redo >= start_lsn {
        return Ok(());
    }
    Err(EngineError::failed(
        ErrorKind::WrongServer,
        format!(
            "the data directory is that of a copy of the server and not its own path={} state={:?} redo={} \
             backup_start={start_lsn}",
            data.path().display(),
            control.state.description(),
            control.checkpoint.redo
        ),
    )
    .with_hint("check --pgdata against the server's data_directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_backend_counts() {
        let data = tempfile::tempdir().unwrap();
        let snapshot = |name: &str| ExportedSnapshot { name: name.to_owned(), backend_pid: 12482 };
        assert!(!holds(data.path(), &snapshot("1")).unwrap(), "without the directory");
        std::fs::create_dir(data.path().join(SNAPSHOTS)).unwrap();
        assert!(!holds(data.path(), &snapshot("1")).unwrap(), "without the file");
        for (contents, expected) in [
            ("vxid:3/2\npid:12482\ndbid:5\n", true),
            ("vxid:3/2\npid:124820\ndbid:5\n", false),
            ("vxid:3/2\npid:1248\ndbid:5\n", false),
            ("", false),
        ] {
            std::fs::write(data.path().join(SNAPSHOTS).join("1"), contents).unwrap();
            assert_eq!(holds(data.path(), &snapshot("1")).unwrap(), expected, "{contents}");
        }
        std::fs::write(data.path().join("outside"), "pid:12482\n").unwrap();
        assert!(!holds(data.path(), &snapshot("../outside")).unwrap());
        assert!(!holds(data.path(), &snapshot("")).unwrap());
    }
}
