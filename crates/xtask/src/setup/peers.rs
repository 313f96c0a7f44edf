//! The tools that `cargo xtask bench` compares walden with. Installed only when a bench asks for them; one that can't be
//! installed is left out, and the report says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{debian, lock, part};
use crate::failure::{Failure, Result};
use crate::proc;

/// Debian's suite whose pgBackRest is taken, whatever the host's own suite is.
const SUITE: &str = "forky";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian for x86-64 keeps libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PGBACKREST: &str = "usr/bin/pgbackrest";
/// Barman Cloud and everything it needs.
const BARMAN: &str = include_str!("barman-requirements.txt");

/// What is there, and what is not.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// pgBackRest's program.
    pub(crate) pgbackrest: Option<PathBuf>,
    /// The directory of Barman's programs.
    pub(crate) barman: Option<PathBuf>,
    /// Who is left out, and why, in one line.
    pub(crate) missing: Vec<(String, String)>,
}

/// Finds the peers, and installs those that are missing if `install` says so.
pub(crate) fn ensure(bench: &Path, install: bool) -> Result<Peers> {
    let _lock = lock(bench)?;
    let mut peers = Peers::default();
    let mut add = |name: &str, dir: &str, version: &str, program: &str, how: fn(&Path) -> Result<()>| {
        let place = bench.join(dir);
        let there = place.join(".walden-testbench").is_file();
        let installed = if install || there {
            part(bench, dir, version, how)
        } else {
            Err(Failure::new("not installed, and this run installs nothing"))
        };
        match installed {
            Ok(()) => Some(place.join(program)),
            Err(failure) => {
                println!("{name} is left out: {failure}");
                let text = failure.to_string();
                let line = text.lines().next().unwrap_or_default().to_owned();
                peers.missing.push((name.to_owned(), line));
                None
            }
        }
    };
    let pgbackrest = add("pgBackRest", "peers/pgbackrest", SUITE, PGBACKREST, pgbackrest);
    let barman = add("Barman Cloud", "peers/barman", BARMAN, "bin", barman);
    Ok(Peers { pgbackrest, barman, ..peers })
}

fn barman(place: &Path) -> Result<()> {
    proc::quiet(Command::new("python3").args(["-m", "venv"]).arg(place))?;
    let list = place.join("requirements.txt");
    fs::write(&list, BARMAN).map_err(|e| Failure::io("write", &list, &e))?;
    let mut pip = Command::new(place.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary", ":all:", "--requirement"]).arg(&list);
    proc::quiet(&mut pip)?;
    proc::quiet(Command::new(place.join("bin/barman-cloud-wal-archive")).arg("--version")).map(drop)
}

/// Unpacks the package and all that it needs below `place`, and makes the program use that suite's loader and
/// libraries. The host's packages are not touched.
fn pgbackrest(place: &Path) -> Result<()> {
    debian::ensure_program("patchelf", "patchelf")?;
    if !Path::new(KEYRING).is_file() {
        return Err(Failure::new(format!("it is taken from Debian, and {KEYRING} is not here")));
    }
    let apt = PrivateApt::new(&place.join("apt"))?;
    proc::quiet(apt.command().args(["-qq", "update"]))?;
    proc::quiet(apt.command().args(["-qq", "-y", "--download-only", "install", "pgbackrest"]))?;
    for package in apt.downloaded()? {
        proc::quiet(Command::new("dpkg").arg("-x").arg(package).arg(place))?;
    }
    let libraries = place.join(LIBRARIES);
    let loader = libraries.join("ld-linux-x86-64.so.2");
    if !loader.is_file() {
        return Err(Failure::new(format!("the suite {SUITE} has no loader at {}", loader.display())));
    }
    let program = place.join(PGBACKREST);
    let mut patch = Command::new("patchelf");
    patch.arg("--set-interpreter").arg(&loader).arg("--force-rpath").arg("--set-rpath").arg(&libraries);
    proc::quiet(patch.arg(&program))?;
    // The libraries look for each other there too. Not the C library itself, which the loader finds beside it.
    let entries = fs::read_dir(&libraries).map_err(|e| Failure::io("read", &libraries, &e))?;
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let plain = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        if plain && name.contains(".so") && !name.starts_with("ld-") && !name.starts_with("libc.") {
            // What is not a library for this machine stays as it is.
            proc::succeeds(
                Command::new("patchelf").arg("--force-rpath").arg("--set-rpath").arg(&libraries).arg(&path),
            );
        }
    }
    fs::remove_dir_all(&apt.root).map_err(|e| Failure::io("remove", &apt.root, &e))?;
    let said = proc::quiet(Command::new(&program).arg("version"))?;
    if said.starts_with("pgBackRest 2.") {
        Ok(())
    } else {
        Err(Failure::new(format!("`pgbackrest version` says: {said}")))
    }
}

/// apt with everything of its own below one directory, for one suite from the mirror that the host's apt uses.
struct PrivateApt {
    root: PathBuf,
}

impl PrivateApt {
    fn new(root: &Path) -> Result<Self> {
        let targets =
            proc::quiet(Command::new("apt-get").args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)"]))?;
        let mirror = debian_mirror(&targets)
            .ok_or_else(|| Failure::new("it is taken from Debian's mirror, and apt knows none here"))?;
        for dir in ["etc/preferences.d", "state/lists/partial", "cache/archives/partial"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(|e| Failure::io("create", &dir, &e))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n");
        for (file, text) in [("status", ""), ("etc/sources.list", source.as_str())] {
            let file = root.join(file);
            fs::write(&file, text).map_err(|e| Failure::io("write", &file, &e))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    fn command(&self) -> Command {
        let root = self.root.display();
        let mut command = Command::new("apt-get");
        for option in [
            format!("Dir::Etc={root}/etc"),
            format!("Dir::Etc::sourcelist={root}/etc/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State={root}/state"),
            format!("Dir::State::status={root}/status"),
            format!("Dir::Cache={root}/cache"),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let archives = self.root.join("cache/archives");
        let entries = fs::read_dir(&archives).map_err(|e| Failure::io("read", &archives, &e))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
    }
}

/// The first of Debian's archives, not its security updates, in lines of origin and address.
fn debian_mirror(targets: &str) -> Option<&str> {
    let mut mirrors: Vec<&str> = targets
        .lines()
        .filter_map(|line| line.strip_prefix("Debian "))
        .filter(|address| !address.contains("security"))
        .collect();
    mirrors.sort_unstable();
    mirrors.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_and_not_the_one_for_security_updates() {
        let targets = "Other http://a.example/apt\nDebian http://d.example/debian-security\n\
                       Debian http://d.example/debian\nDebian http://d.example/debian\n";
        assert_eq!(debian_mirror(targets), Some("http://d.example/debian"));
        assert_eq!(debian_mirror("Other http://a.example/apt\n"), None);
    }

    #[test]
    fn every_requirement_has_its_exact_version() {
        let lines: Vec<&str> = BARMAN.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(
            lines.iter().all(|line| line.split_once("==").is_some_and(|(_, version)| !version.is_empty()))
        );
        assert!(lines.contains(&"barman==3.19.1"));
    }
}
