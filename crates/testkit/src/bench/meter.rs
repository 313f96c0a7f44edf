//! What a tree of processes has used: daemons and their children too, whoever started them.
//!
//! The process that measures becomes the reaper of its descendants, so that a daemon that left its parent comes back to
//! it when it ends. What the kernel has added up for the children that were waited for is then the whole tree, to the
//! microsecond; nothing is sampled but the sum of memory at one moment.
//!
//! The accounts are those of the whole process: only one tree can be measured at a time, and a process that measures
//! should do little else. Peak memory is of all children since the process began: a fresh process per measurement.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Between two looks at the memory of the tree.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// Between two looks whether the last process has ended.
const REAP_EVERY: Duration = Duration::from_millis(2);
/// Killed processes end within this, or the measurement fails.
const KILLED_MAX: Duration = Duration::from_secs(10);

/// What a tree of processes has used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TreeUsage {
    /// User and system time of all of them, in seconds.
    pub cpu_seconds: f64,
    /// Most resident memory of any one of them, in bytes; at least this process's own, which started them.
    pub largest_rss_bytes: u64,
    /// Most resident memory of all of them at one moment, sampled, in bytes. Pages that they share count for each.
    pub sum_rss_bytes: u64,
    /// Processes that did not end by themselves and were killed.
    pub killed: usize,
}

/// Measures the descendants of this process from now on.
#[derive(Debug)]
pub struct TreeMeter {
    cpu_before: f64,
    peak_pages: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<()>,
}

impl TreeMeter {
    /// Starts to measure.
    ///
    /// # Errors
    /// When the kernel has no reapers of descendants, or no thread can be started.
    pub fn start() -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let cpu_before = children_cpu_seconds()?;
        let (peak_pages, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (peak, stopped) = (Arc::clone(&peak_pages), Arc::clone(&stop));
        let sampler = std::thread::Builder::new().name("meter".to_owned()).spawn(move || {
            let mut tree = Tree::new(std::process::id());
            while !stopped.load(Ordering::Relaxed) {
                let pages = tree.look().iter().map(|(_, pages)| pages).sum();
                peak.fetch_max(pages, Ordering::Relaxed);
                std::thread::sleep(SAMPLE_EVERY);
            }
        })?;
        Ok(Self { cpu_before, peak_pages, stop, sampler })
    }

    /// Waits for every descendant that is left, kills those that are still there after `patience`, and tells what all
    /// have used. Children that the caller started must have been waited for by the caller: their statuses are lost.
    ///
    /// # Errors
    /// When processes can't be waited for, or survive being killed.
    pub fn finish(self, patience: Duration) -> io::Result<TreeUsage> {
        let killed = reap_all(patience)?;
        self.stop.store(true, Ordering::Relaxed);
        if self.sampler.join().is_err() {
            return Err(io::Error::other("the sampler of memory ended early"));
        }
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        Ok(TreeUsage {
            cpu_seconds: children_cpu_seconds()? - self.cpu_before,
            largest_rss_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
            sum_rss_bytes: self.peak_pages.load(Ordering::Relaxed) * page_bytes(),
            killed,
        })
    }
}

/// Kills every descendant of this process now, and returns how many there were.
///
/// # Errors
/// Never for a process that has just ended; else what the kernel says.
pub fn kill_descendants() -> io::Result<usize> {
    let found = Tree::new(std::process::id()).look();
    for (pid, _) in &found {
        let Ok(pid) = i32::try_from(*pid) else { continue };
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found.len())
}

/// The user and system time of a running process, in seconds. The kernel tells it in ticks of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn process_cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = |index| field(&stat, index).ok_or_else(|| io::Error::other("no times in /proc/PID/stat"));
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    #[expect(clippy::cast_precision_loss, reason = "ticks are few")]
    Ok((ticks(USER_TICKS)? + ticks(SYSTEM_TICKS)?) as f64 / per_second as f64)
}

fn children_cpu_seconds() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds of CPU time")]
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

fn reap_all(patience: Duration) -> io::Result<usize> {
    let begun = Instant::now();
    let mut killed = 0;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(killed),
            Err(error) => return Err(error.into()),
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => continue,
        }
        if begun.elapsed() > patience + KILLED_MAX {
            return Err(io::Error::other("processes survive being killed"));
        }
        if begun.elapsed() > patience {
            killed = killed.max(kill_descendants()?);
        }
        std::thread::sleep(REAP_EVERY);
    }
}

/// Fields of `/proc/PID/stat` behind the name in parentheses, counted from 0.
const PARENT: usize = 1;
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const RESIDENT_PAGES: usize = 21;

fn field(stat: &str, index: usize) -> Option<u64> {
    // The name may hold anything, parentheses and spaces too.
    stat.rsplit_once(')')?.1.split_whitespace().nth(index)?.parse().ok()
}

/// The processes below one, found in `/proc`. Those once seen elsewhere are not looked at again.
struct Tree {
    root: u32,
    foreign: HashSet<u32>,
}

impl Tree {
    fn new(root: u32) -> Self {
        Self { root, foreign: HashSet::new() }
    }

    /// Descendants with their resident pages.
    fn look(&mut self) -> Vec<(u32, u64)> {
        let mut unknown = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid == self.root || self.foreign.contains(&pid) {
                continue;
            }
            // It may have ended since.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            if let (Some(parent), Some(pages)) = (field(&stat, PARENT), field(&stat, RESIDENT_PAGES)) {
                unknown.push((pid, parent, pages));
            }
        }
        let mut ours = HashSet::from([u64::from(self.root)]);
        let mut found = Vec::new();
        loop {
            let (children, others): (Vec<_>, Vec<_>) =
                unknown.into_iter().partition(|(_, parent, _)| ours.contains(parent));
            unknown = others;
            if children.is_empty() {
                break;
            }
            ours.extend(children.iter().map(|(pid, _, _)| u64::from(*pid)));
            found.extend(children.iter().map(|(pid, _, pages)| (*pid, *pages)));
        }
        self.foreign.extend(unknown.iter().map(|(pid, _, _)| *pid));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_does_not_confuse_its_fields() {
        let stat =
            "42 (a) b (c) S 7 1 1 0 -1 4194560 5 6 7 8 90 10 0 0 20 0 1 0 1234 5678 321 18446744073709551615";
        assert_eq!(field(stat, PARENT), Some(7));
        assert_eq!(field(stat, USER_TICKS), Some(90));
        assert_eq!(field(stat, SYSTEM_TICKS), Some(10));
        assert_eq!(field(stat, RESIDENT_PAGES), Some(321));
        assert_eq!(field("42 (cut", PARENT), None);
    }
}
