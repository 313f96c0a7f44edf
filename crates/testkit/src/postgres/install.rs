//! The programs of a PostgreSQL major, and the client programs that serve all of them.

use std::fs;
use std::path::{Path, PathBuf};

use walden_pg::PgMajor;

use super::error::{Error, Result};
use crate::testbench::Testbench;

/// An installed server of one major: `initdb`, `pg_ctl` and `postgres`, no client programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresInstall {
    major: PgMajor,
    bin: PathBuf,
}

impl PostgresInstall {
    /// The server of this major in the test bench.
    ///
    /// # Errors
    /// [`Error::Testbench`] when it is not installed.
    pub fn find(major: PgMajor) -> Result<Self> {
        let bin =
            Testbench::locate().and_then(|bench| bench.postgres_bin(major)).map_err(Error::Testbench)?;
        Ok(Self { major, bin })
    }

    /// Its major version.
    pub fn major(&self) -> PgMajor {
        self.major
    }

    /// The directory of its programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }
}

/// The distribution's client programs; the newest major that has them all. `psql` and `pgbench` work with
/// every supported server, `pg_waldump` only with WAL of its own major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPrograms {
    major: u64,
    bin: PathBuf,
}

impl ClientPrograms {
    /// Finds them.
    ///
    /// # Errors
    /// [`Error::Testbench`] when none are installed.
    pub fn find() -> Result<Self> {
        let missing = |e| Error::Testbench(e);
        let mut found = Vec::new();
        for entry in fs::read_dir("/usr/lib/postgresql").map_err(missing)? {
            let entry = entry.map_err(missing)?;
            let bin = entry.path().join("bin");
            let whole = ["psql", "pgbench", "pg_waldump"].iter().all(|program| bin.join(program).is_file());
            if let (true, Some(major)) =
                (whole, entry.file_name().to_str().and_then(|name| name.parse().ok()))
            {
                found.push(Self { major, bin });
            }
        }
        found.into_iter().max_by_key(|programs| programs.major).ok_or_else(|| {
            Error::Testbench(std::io::Error::other("no client programs; run `cargo xtask setup`"))
        })
    }

    /// Their major version, as a number: it may be one that Walden does not know.
    pub fn major(&self) -> u64 {
        self.major
    }

    /// The directory of the programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }
}
