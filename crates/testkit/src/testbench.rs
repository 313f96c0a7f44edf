//! Where `cargo xtask setup` has put the servers and emulators that tests start.
//!
//! Nothing is searched for beyond one directory, and nothing is installed from here: what is missing
//! is an error that names the command to run.

use std::io;
use std::path::{Path, PathBuf};

use walden_pg::PgMajor;

/// Names the directory of the test bench; `cargo xtask test` sets it.
pub const TESTBENCH_ENV: &str = "WALDEN_TESTBENCH";

/// Where root keeps the test bench.
const ROOT_TESTBENCH: &str = "/var/cache/walden-testbench";

/// The test bench of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Testbench {
    dir: PathBuf,
}

impl Testbench {
    /// The bench named by [`TESTBENCH_ENV`], else `/var/cache/walden-testbench` for root, else
    /// `~/.cache/walden-testbench`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] with the command to run when that directory is not there.
    pub fn locate() -> io::Result<Self> {
        let named = std::env::var_os(TESTBENCH_ENV).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let home =
            || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/walden-testbench"));
        let root = || nix::unistd::geteuid().is_root().then(|| PathBuf::from(ROOT_TESTBENCH));
        let dir = named.or_else(root).or_else(home).unwrap_or_else(|| PathBuf::from(ROOT_TESTBENCH));
        installed(dir).map(|dir| Self { dir })
    }

    /// The directory of the whole bench.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory with `initdb`, `pg_ctl` and `postgres` of a major.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is not installed.
    pub fn postgres_bin(&self, major: PgMajor) -> io::Result<PathBuf> {
        installed(self.dir.join(format!("postgres/{}/bin", major.number())))
    }

    /// The Python whose environment holds moto.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is not installed.
    pub fn moto_python(&self) -> io::Result<PathBuf> {
        installed(self.dir.join("moto/bin/python"))
    }

    /// The Python whose environment holds kubernetes-validate and PyYAML.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is not installed.
    pub fn kubernetes_python(&self) -> io::Result<PathBuf> {
        installed(self.dir.join("kubernetes/bin/python"))
    }

    /// Azurite's blob service; started as `azurite-blob --blobHost 127.0.0.1 --blobPort PORT …`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is not installed.
    pub fn azurite_blob(&self) -> io::Result<PathBuf> {
        installed(self.dir.join("azurite/node_modules/.bin/azurite-blob"))
    }
}

fn installed(path: PathBuf) -> io::Result<PathBuf> {
    if path.try_exists()? {
        return Ok(path);
    }
    let message = format!("not installed; run `cargo xtask setup`: path={}", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}
