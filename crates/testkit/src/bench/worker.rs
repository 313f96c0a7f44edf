//! One case, run in a process of its own so that the kernel's accounts of its children are the tool's alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::hooks::{Call, Hook, same_bytes};
use super::meter::{TreeMeter, TreeUsage, kill_descendants};
use super::store::stored;

/// What is done with the tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// All segments are ready; they are archived in order.
    Push,
    /// A segment becomes ready every so many microseconds; they are archived in order.
    Paced {
        /// Time between two segments, in microseconds.
        interval_us: u64,
    },
    /// Eight segments at a time are ready: the first is archived, the tool is given time to archive the others ahead of
    /// being asked, and then it is asked for them, without a shell between. Only these calls are told.
    Acked {
        /// The URL of the store.
        endpoint: String,
        /// Its bucket; the last part of some key begins with a segment's name once that is archived.
        bucket: String,
    },
    /// All segments are fetched in order, and afterwards compared with those in this directory.
    Fetch {
        /// The segments as they were archived.
        originals: PathBuf,
    },
    /// The same as recovery does it: after each segment a core is busy for so long, as replay keeps it.
    Replay {
        /// The segments as they were archived.
        originals: PathBuf,
        /// Time to replay a segment, in microseconds.
        each_us: u64,
    },
    /// Segments are asked for that are not in the archive.
    Absent,
    /// The command is run once for each segment, without a shell between.
    Start,
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What is done.
    pub work: Work,
    /// The hook, with PostgreSQL's placeholders.
    pub command: String,
    /// Ends what the hook has left running, if it does not end by itself.
    pub stop: Option<String>,
    /// The data directory.
    pub directory: PathBuf,
    /// All of the tool's environment besides `PATH`.
    pub environment: Vec<(String, String)>,
    /// Takes what the tool writes.
    pub log: PathBuf,
    /// The segments, in order.
    pub segments: Vec<String>,
    /// After this many seconds the tool is killed and the case has failed.
    pub deadline_seconds: u64,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// From before the first call until after the last one.
    pub seconds: f64,
    /// Each call, in milliseconds.
    pub calls_ms: Vec<f64>,
    /// Calls that failed and were repeated.
    pub failures: usize,
    /// Paced: from ready to archived, in milliseconds, for each segment.
    pub lags_ms: Vec<f64>,
    /// What the tool has used, daemons and `stop` included.
    pub usage: TreeUsage,
}

/// After the deadline, what runs is killed so often.
const KILL_EVERY: Duration = Duration::from_millis(50);
/// What is left running after the last call and after `stop` may end by itself within this.
const LINGER: Duration = Duration::from_secs(20);
/// So many files become ready at once for a tool that works ahead, ...
const AHEAD_BATCH: usize = 8;
/// ... it gets this long to archive them all after a call, before it is called for the next one, ...
const AHEAD_MAX: Duration = Duration::from_secs(3);
/// ... and this long to settle when all are there.
const AHEAD_SETTLE: Duration = Duration::from_millis(300);

/// Runs a case in this process, which must do nothing else and must not have run another one.
///
/// # Errors
/// When the tool fails, with the end of what it wrote; when a fetched segment is another one; when the deadline passes.
pub fn run(case: &Case) -> io::Result<Outcome> {
    let hook = Hook {
        command: case.command.clone(),
        directory: case.directory.clone(),
        environment: case.environment.clone(),
        log: case.log.clone(),
    };
    let meter = TreeMeter::start()?;
    let deadline = Duration::from_secs(case.deadline_seconds);
    let (over, ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut wait = deadline;
        let mut late = false;
        // Again and again: a hook that failed is tried again.
        while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            late = true;
            wait = KILL_EVERY;
            let _ = kill_descendants();
        }
        late
    });
    let begun = Instant::now();
    let worked = work(case, &hook);
    let whole = begun.elapsed().as_secs_f64();
    drop(over);
    let late = watch.join().unwrap_or(false);
    if let Some(stop) = &case.stop {
        hook.shell(stop)?;
    }
    let usage = meter.finish(LINGER)?;
    if late {
        return Err(io::Error::other(format!("killed after {deadline:?}:\n{}", hook.log_end())));
    }
    let worked = worked?;
    if let Work::Fetch { originals } | Work::Replay { originals, .. } = &case.work {
        compare(case, originals)?;
    }
    Ok(Outcome {
        seconds: worked.measured.map_or(whole, |measured| measured.as_secs_f64()),
        failures: worked.calls.iter().filter(|call| !call.succeeded).count(),
        calls_ms: worked.calls.iter().map(|call| call.elapsed.as_secs_f64() * 1e3).collect(),
        lags_ms: worked.lags.iter().map(|lag| lag.as_secs_f64() * 1e3).collect(),
        usage,
    })
}

#[derive(Default)]
struct Worked {
    calls: Vec<Call>,
    lags: Vec<Duration>,
    /// The part of the time that counts, when it is not all of it.
    measured: Option<Duration>,
}

fn work(case: &Case, hook: &Hook) -> io::Result<Worked> {
    let mut worked = Worked::default();
    match &case.work {
        Work::Push => {
            case.segments.iter().try_for_each(|name| hook.mark_ready(name))?;
            let begun = Instant::now();
            for name in &case.segments {
                worked.calls.extend(hook.archive(name)?);
            }
            worked.measured = Some(begun.elapsed());
        }
        Work::Paced { interval_us } => {
            let interval = Duration::from_micros(*interval_us);
            (worked.calls, worked.lags) = hook.archive_paced(&case.segments, interval)?;
        }
        Work::Acked { endpoint, bucket } => return acked(case, hook, endpoint, bucket),
        Work::Fetch { .. } => fetch(case, hook, Duration::ZERO, &mut worked)?,
        Work::Replay { each_us, .. } => fetch(case, hook, Duration::from_micros(*each_us), &mut worked)?,
        Work::Absent => {
            for name in &case.segments {
                // That it fails is what is asked for.
                worked.calls.push(Call { succeeded: true, ..hook.restore_absent(name)? });
            }
        }
        Work::Start => {
            for name in &case.segments {
                worked.calls.push(hook.call_directly(name, name)?);
            }
        }
    }
    Ok(worked)
}

/// Fetches all segments, and does nothing useful for so long after each.
fn fetch(case: &Case, hook: &Hook, replay: Duration, worked: &mut Worked) -> io::Result<()> {
    let kept = kept(case);
    fs::create_dir_all(&kept)?;
    for name in &case.segments {
        worked.calls.push(hook.restore(name, &kept.join(name))?);
        let begun = Instant::now();
        while begun.elapsed() < replay {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

fn acked(case: &Case, hook: &Hook, endpoint: &str, bucket: &str) -> io::Result<Worked> {
    let mut worked = Worked::default();
    for batch in case.segments.chunks(AHEAD_BATCH) {
        batch.iter().try_for_each(|name| hook.mark_ready(name))?;
        let mut rest = batch;
        // The first call may only start what works ahead, and the next ones may come before it is there.
        while let Some((asked, ahead)) = rest.split_first() {
            hook.archive(asked)?;
            rest = ahead;
            if become_stored(ahead, endpoint, bucket)? {
                break;
            }
        }
        std::thread::sleep(AHEAD_SETTLE);
        for name in rest {
            worked.calls.push(hook.archive_directly(name)?);
        }
    }
    if worked.calls.is_empty() {
        return Err(io::Error::other(format!("it did not work ahead:\n{}", hook.log_end())));
    }
    worked.measured = Some(worked.calls.iter().map(|call| call.elapsed).sum());
    Ok(worked)
}

/// Waits until all of these are stored; whether they were before the patience was over.
fn become_stored(segments: &[String], endpoint: &str, bucket: &str) -> io::Result<bool> {
    let begun = Instant::now();
    while !all_stored(segments, &stored(endpoint, bucket)?) {
        if begun.elapsed() > AHEAD_MAX {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

/// Whether each segment's name begins the last part of a key.
fn all_stored(segments: &[String], objects: &[(String, u64)]) -> bool {
    let names: Vec<&str> = objects.iter().filter_map(|(key, _)| key.rsplit('/').next()).collect();
    segments.iter().all(|segment| names.iter().any(|name| name.starts_with(segment.as_str())))
}

fn kept(case: &Case) -> PathBuf {
    case.directory.join("fetched")
}

fn compare(case: &Case, originals: &Path) -> io::Result<()> {
    for name in &case.segments {
        let fetched = kept(case).join(name);
        if !same_bytes(&fetched, &originals.join(name))? {
            return Err(io::Error::other(format!("{name} is not what was archived")));
        }
        fs::remove_file(fetched)?;
    }
    Ok(())
}
