//! Processes of a server that outlive its postmaster: children that have not yet noticed a kill, and
//! archive or restore commands that hang.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for killed processes to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills every process that works in this data directory, and waits until none does. The server, its
/// children and the commands that they run all have it as their working directory.
pub(super) fn kill_all_in(data: &Path) {
    let Ok(data) = fs::canonicalize(data) else { return };
    let started = Instant::now();
    loop {
        let found = processes_in(&data);
        if found.is_empty() || started.elapsed() > PATIENCE {
            return;
        }
        for pid in found {
            // It fails when the process has gone by itself, which is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes_in(data: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (fs::read_link(entry.path().join("cwd")).ok()? == data).then(|| Pid::from_raw(pid))
        })
        .collect()
}
