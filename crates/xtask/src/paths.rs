//! Where things are: the workspace, the build's output, the test bench, and who we are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Names the directory of the test bench. The harness in `walden-testkit` reads it too.
pub(crate) const TESTBENCH_ENV: &str = "WALDEN_TESTBENCH";

/// Where root keeps the test bench: its home is closed to the user that runs the servers.
const ROOT_TESTBENCH: &str = "/var/cache/walden-testbench";

/// The top of the working tree.
pub(crate) fn workspace() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .and_then(Path::parent)
        .map(Path::to_path_buf)
        .ok_or_else(|| Failure::new(format!("no workspace above {}", here.display())))
}

/// The directory of the test bench, which need not exist yet.
pub(crate) fn testbench() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(TESTBENCH_ENV).filter(|dir| !dir.is_empty()) {
        let dir = PathBuf::from(dir);
        return if dir.is_absolute() {
            Ok(dir)
        } else {
            Err(Failure::new(format!("{TESTBENCH_ENV} must be an absolute path, not {}", dir.display())))
        };
    }
    if is_root() {
        return Ok(PathBuf::from(ROOT_TESTBENCH));
    }
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .ok_or_else(|| Failure::new(format!("neither {TESTBENCH_ENV} nor HOME is set")))?;
    Ok(PathBuf::from(home).join(".cache/walden-testbench"))
}

/// Where the running `xtask`, and so every debug program of the workspace, was built.
pub(crate) fn debug_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("cannot find myself: {e}")))?;
    program
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| Failure::new(format!("no directory above {}", program.display())))
}

/// The user and group that this process runs as.
pub(crate) fn own_ids() -> (u32, u32) {
    // The owner of /proc/self is the effective user of this process.
    fs::metadata("/proc/self").map_or((u32::MAX, u32::MAX), |m| (m.uid(), m.gid()))
}

pub(crate) fn is_root() -> bool {
    own_ids().0 == 0
}

/// The user and group numbers of an account in `/etc/passwd`.
pub(crate) fn account(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let user = fields.nth(1)?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some((user, group))
    })
}

/// The program directory of the newest PostgreSQL packaged by the distribution that holds all of `programs`.
pub(crate) fn distribution_bin(programs: &[&str]) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let major = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            programs.iter().all(|program| bin.join(program).is_file()).then_some((major, bin))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}
