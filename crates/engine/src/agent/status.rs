//! What an agent tells of itself, and what it counts for that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walden_core::{ErrorKind, ServerName, WalPressure};
use walden_store::CounterSnapshot;

use super::level::LevelReason;
use super::protocol::AgentFailure;

/// The status of an agent: a document of schema 1, the same over the socket, as JSON for people's programs, and as the
/// source of the metrics. New fields may come; these keep their names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The agent's process.
    pub pid: u32,
    /// The version of the program, and what tells its build from others of the same version.
    pub build: String,
    /// Whether a hook started it: then it ends when it is not called for a while.
    pub on_demand: bool,
    /// Whether it ends as soon as what it has begun is done.
    pub leaving: bool,
    /// What somebody should look at: that the calls of the server will not find it, or that the server is not in the
    /// repository. Missing when there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// When it started, by the clock of this machine.
    pub started_at: Timestamp,
    /// For how long it has been running, in seconds; not changed by a clock that is set.
    pub uptime_seconds: f64,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The server.
    pub server: ServerName,
    /// Which store: its URL, endpoint and account.
    pub repository: String,
    /// Archiving.
    pub push: PushStatus,
    /// How hard it compresses, and why.
    pub level: LevelStatus,
    /// What it works with and on.
    pub load: LoadStatus,
    /// Fetching ahead.
    pub prefetch: PrefetchStatus,
    /// What was asked of the store since it started.
    pub store: CounterSnapshot,
    /// Where metrics and health are given over HTTP; missing when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// The room that WAL has, and how long it lasts; missing until it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<WalPressure>,
    /// Failures since it started, of pushes and gets, by [`ErrorKind::as_str`]; kinds that did not occur are missing.
    pub errors: BTreeMap<String, u64>,
    /// How long things took.
    pub latencies: Latencies,
}

/// Archiving, in an [`AgentStatus`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PushStatus {
    /// Whether files are archived before PostgreSQL asks for them: while a push was asked for within the last minute.
    pub ahead: bool,
    /// Seconds since a push was last asked for; missing when none was.
    pub last_call_seconds: Option<f64>,
    /// Files that PostgreSQL wants archived and that are not in the archive as far as the agent knows.
    pub queue_files: u64,
    /// Their length together in bytes, estimated from the number of segments.
    pub queue_bytes: u64,
    /// For how many seconds the oldest of them has been waiting: so much WAL would be lost with the machine, at least.
    /// By the date of its `.ready` file; 0 when none waits.
    pub unarchived_seconds: f64,
    /// Files whose `.ready` file is there: those that wait, and those that are archived without PostgreSQL having asked yet.
    pub ready_files: u64,
    /// Files that are being archived now.
    pub in_flight: u64,
    /// Files that are archived and that PostgreSQL has not asked for yet.
    pub acks: u64,
    /// The file that was archived last.
    pub last_archived: Option<LastArchived>,
    /// The last failure.
    pub last_failure: Option<LastFailure>,
    /// Files that failed and are tried again, the first 8 by name.
    pub retries: Vec<RetryStatus>,
    /// Files archived since the agent started.
    pub archived_files: u64,
    /// Of those, how many were in the archive already.
    pub already_stored_files: u64,
    /// Of those, how many are damaged segments, which no recovery gets past.
    #[serde(default)]
    pub damaged_segments: u64,
    /// Their length in bytes.
    pub archived_bytes: u64,
    /// The size of their objects in bytes.
    pub stored_bytes: u64,
    /// What was archived lately.
    #[serde(default)]
    pub recent: RecentStatus,
    /// Pushes that hooks asked for.
    pub calls: u64,
    /// Of those, how many were answered at once because the file had been archived before.
    pub calls_ahead: u64,
    /// Of those, how many ended with a failure.
    pub calls_failed: u64,
    /// Pushes of the agent's own accord that failed.
    pub ahead_failed: u64,
}

/// What was archived over the last minute, or since the agent started when that is less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RecentStatus {
    /// How long that is, in seconds.
    pub seconds: f64,
    /// Files archived in that time.
    pub archived_files: u64,
    /// Their length in bytes.
    pub archived_bytes: u64,
    /// The size of their objects in bytes.
    pub stored_bytes: u64,
}

/// A file that was archived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastArchived {
    /// Its name.
    pub name: String,
    /// When, by the clock of this machine.
    pub at: Timestamp,
    /// How many seconds ago.
    pub seconds_ago: f64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The size of its object in bytes.
    pub stored_bytes: u64,
    /// The level that it was compressed at.
    pub level: i32,
}

/// A push that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastFailure {
    /// The file.
    pub name: String,
    /// When, by the clock of this machine.
    pub at: Timestamp,
    /// Why.
    pub failure: AgentFailure,
}

/// A file that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryStatus {
    /// The file.
    pub name: String,
    /// How often it failed.
    pub failed: u32,
    /// When it is tried again at the latest, in seconds from now; sooner when PostgreSQL asks for it.
    pub again_in_seconds: f64,
}

/// Compression, in an [`AgentStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// The level that the next file is compressed at.
    pub level: i32,
    /// Why.
    pub reason: LevelReason,
    /// The best level allowed.
    pub best: i32,
    /// The fastest level allowed.
    pub fastest: i32,
}

/// What the agent works with and on, in an [`AgentStatus`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// Memory for the bytes of files, at most, in bytes.
    pub memory_limit_bytes: u64,
    /// What of it is reserved.
    pub memory_reserved_bytes: u64,
    /// The memory of the whole process in bytes, as the kernel tells it.
    pub memory_resident_bytes: u64,
    /// Files that may be worked on at once.
    pub in_flight_limit: u64,
    /// Files that may be compressed at once.
    pub sealers_limit: u64,
    /// Files that wait for their turn.
    pub waiting: u64,
    /// Files that are being read, hashed and compressed.
    pub sealing: u64,
    /// Objects that are being sent.
    pub sending: u64,
    /// Seconds spent on reading, hashing and compressing, all threads added up.
    pub seal_seconds: f64,
    /// Seconds spent on sending, all objects added up.
    pub send_seconds: f64,
}

/// Fetching ahead, in an [`AgentStatus`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefetchStatus {
    /// Disk space that files fetched ahead may take, in bytes; 0 turns it off.
    pub limit_bytes: u64,
    /// What they take.
    pub bytes: u64,
    /// How many they are.
    pub files: u64,
    /// Files that are being fetched.
    pub in_flight: u64,
    /// Gets that hooks asked for.
    pub calls: u64,
    /// Of those, how many found their file ready.
    pub hits: u64,
    /// Of those, how many waited for a file that was being fetched.
    pub waited: u64,
    /// Of those, how many found nothing ready.
    pub misses: u64,
    /// Of those, how many were told that the file is not in the archive.
    pub absent: u64,
    /// Files that were fetched and dropped without having been asked for.
    pub dropped: u64,
    /// Files that could not be fetched, or were not what they should be.
    pub failed: u64,
    /// Of the gets that hooks asked for, how many were sent away or failed: the hook then did the work itself, or told why.
    pub declined: u64,
}

/// How long things took, in an [`AgentStatus`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Pushes that hooks asked for, from the call to the answer.
    pub push_calls: HistogramSnapshot,
    /// Gets that hooks asked for, from the call to the answer.
    pub get_calls: HistogramSnapshot,
    /// Reading, hashing and compressing a file.
    pub seal: HistogramSnapshot,
    /// Sending an object, with all tries.
    pub send: HistogramSnapshot,
    /// From a file's `.ready` to its being archived.
    pub archive_delay: HistogramSnapshot,
}

/// The upper bounds of the buckets of all histograms, in seconds; one more bucket takes what is above.
pub const BUCKETS_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const BUCKETS: usize = BUCKETS_SECONDS.len() + 1;

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramSnapshot {
    /// For each of [`BUCKETS_SECONDS`] how many were above the one before and not above it; then how many were above all.
    pub counts: Vec<u64>,
    /// How many they are.
    pub count: u64,
    /// How long they took together, in seconds.
    pub sum_seconds: f64,
}

/// Counts durations.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS_SECONDS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = self.counts.get(bucket.unwrap_or(BUCKETS - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let sum = Duration::from_micros(self.sum_micros.load(Ordering::Relaxed));
        HistogramSnapshot { count: counts.iter().sum(), counts, sum_seconds: sum.as_secs_f64() }
    }
}

/// What the agent counts. Shared by all its parts.
#[derive(Debug, Default)]
pub struct AgentCounters {
    /// [`Latencies::push_calls`].
    pub push_calls: Histogram,
    /// [`Latencies::get_calls`].
    pub get_calls: Histogram,
    /// [`Latencies::seal`].
    pub seal: Histogram,
    /// [`Latencies::send`].
    pub send: Histogram,
    /// [`Latencies::archive_delay`].
    pub archive_delay: Histogram,
    /// [`PushStatus::archived_files`].
    pub archived_files: AtomicU64,
    /// [`PushStatus::already_stored_files`].
    pub already_stored_files: AtomicU64,
    /// [`PushStatus::damaged_segments`].
    pub damaged_segments: AtomicU64,
    /// [`PushStatus::archived_bytes`].
    pub archived_bytes: AtomicU64,
    /// [`PushStatus::stored_bytes`].
    pub stored_bytes: AtomicU64,
    /// [`PushStatus::calls`].
    pub calls: AtomicU64,
    /// [`PushStatus::calls_ahead`].
    pub calls_ahead: AtomicU64,
    /// [`PushStatus::calls_failed`].
    pub calls_failed: AtomicU64,
    /// [`PushStatus::ahead_failed`].
    pub ahead_failed: AtomicU64,
    errors: Mutex<BTreeMap<ErrorKind, u64>>,
}

impl AgentCounters {
    /// Counts a failure.
    pub fn error(&self, kind: ErrorKind) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(kind).or_default() += 1;
    }

    /// [`AgentStatus::errors`].
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().map(|(kind, count)| (kind.as_str().to_owned(), *count)).collect()
    }

    /// [`AgentStatus::latencies`].
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        Latencies {
            push_calls: self.push_calls.snapshot(),
            get_calls: self.get_calls.snapshot(),
            seal: self.seal.snapshot(),
            send: self.send.snapshot(),
            archive_delay: self.archive_delay.snapshot(),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// The memory of this process in bytes; 0 when the kernel does not tell.
pub(super) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_one_bucket() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 60_000, 60_001, 1_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts.len(), BUCKETS_SECONDS.len() + 1);
        assert_eq!((snapshot.counts[0], snapshot.counts[1]), (2, 1));
        assert_eq!((snapshot.counts[14], snapshot.counts[15]), (1, 2));
        assert_eq!(snapshot.count, 6);
        assert!((snapshot.sum_seconds - 1120.004).abs() < 1e-6, "{}", snapshot.sum_seconds);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let counters = AgentCounters::default();
        counters.error(ErrorKind::Denied);
        counters.error(ErrorKind::Denied);
        counters.error(ErrorKind::Conflict);
        let expected = BTreeMap::from([("conflict".to_owned(), 1), ("denied".to_owned(), 2)]);
        assert_eq!(counters.errors(), expected);
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!(resident_bytes() > 1 << 20);
    }
}
