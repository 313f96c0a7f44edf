//! What comes from the distribution: client programs, Python, Node.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::{paths, proc};

/// Programs that the servers from npm lack and that tests and demo use.
const CLIENT_PROGRAMS: [&str; 3] = ["psql", "pgbench", "pg_waldump"];

/// The tests stop the program and starve it at chosen system calls and set the clocks of servers, the bench asks for
/// peak memory, and `zstd` proves that a stored object opens without walden. With the package of each.
const TEST_PROGRAMS: [(&str, &str); 5] =
    [("faketime", "faketime"), ("kill", "procps"), ("strace", "strace"), ("time", "time"), ("zstd", "zstd")];

/// The account that runs the servers when the tests run as root.
const SERVER_USER: &str = "postgres";

/// Told to Debian's PostgreSQL packages for the time of the installation only.
const NO_CLUSTER_FILE: &str = "/etc/postgresql-common/createcluster.d/walden-testbench.conf";
const NO_CLUSTER: &str = "create_main_cluster = false\n";

/// Installs the packages that are missing; does nothing, and needs no rights, when none is.
pub(super) fn ensure() -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    if !proc::succeeds(Command::new("apt-get").arg("--version")) {
        return Err(Failure::new(format!(
            "missing here: {}; install what they hold by hand, since there is no apt-get",
            packages.join(", ")
        )));
    }
    println!("installing from the distribution: {}", packages.join(", "));
    if !paths::is_root() {
        println!("that needs root, so apt-get runs through sudo");
        if !proc::succeeds(Command::new("sudo").args(["-n", "true"])) {
            return Err(Failure::new(format!(
                "sudo does not work without a password here; run this as root, then try again: apt-get install {}",
                packages.join(" ")
            )));
        }
    }
    let installed = forbid_cluster().and_then(|()| install(&packages));
    let allowed = allow_cluster();
    installed.and(allowed)?;
    match missing().as_slice() {
        [] => Ok(()),
        still => Err(Failure::new(format!("still missing after apt-get: {}", still.join(", ")))),
    }
}

/// Installs one more program, of the package that holds it, unless it is there.
pub(super) fn ensure_program(program: &str, package: &'static str) -> Result<()> {
    let there = || proc::succeeds(Command::new("which").arg(program));
    if there() {
        return Ok(());
    }
    install(&[package])?;
    if there() { Ok(()) } else { Err(Failure::new(format!("the package {package} holds no {program}"))) }
}

fn missing() -> Vec<&'static str> {
    let mut packages = Vec::new();
    let no_account = paths::is_root() && paths::account(SERVER_USER).is_none();
    if no_account || paths::distribution_bin(&CLIENT_PROGRAMS).is_none() {
        packages.push("postgresql");
    }
    if !proc::succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
        packages.extend(["python3", "python3-venv"]);
    }
    for (program, package) in TEST_PROGRAMS {
        if !proc::succeeds(Command::new("which").arg(program)) {
            packages.push(package);
        }
    }
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let wait = "DPkg::Lock::Timeout=300";
    proc::quiet(as_root("apt-get").args(["-o", wait, "-qq", "update"]))?;
    let options = ["-o", wait, "-qq", "-y", "--no-install-recommends", "install"];
    proc::quiet(
        as_root("env").args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(options).args(packages),
    )?;
    Ok(())
}

/// Installing the server's package would create a cluster and start it.
fn forbid_cluster() -> Result<()> {
    let script =
        format!("mkdir -p \"$(dirname {NO_CLUSTER_FILE})\" && printf '{NO_CLUSTER}' > {NO_CLUSTER_FILE}");
    proc::quiet(as_root("sh").args(["-c", &script])).map(drop)
}

fn allow_cluster() -> Result<()> {
    if fs::metadata(Path::new(NO_CLUSTER_FILE)).is_err() {
        return Ok(());
    }
    proc::quiet(as_root("rm").args(["-f", NO_CLUSTER_FILE])).map(drop)
}

fn as_root(program: &str) -> Command {
    if paths::is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    }
}
