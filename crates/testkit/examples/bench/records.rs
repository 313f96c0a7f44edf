//! What was measured.

use serde::Serialize;
use walden_testkit::bench::statistics::{Spread, percentile};
use walden_testkit::bench::store::Methods;
use walden_testkit::bench::worker::Outcome;

const MIB: f64 = 1024.0 * 1024.0;
const SEGMENT_MIB: f64 = 16.0;
/// With so many files, tools that work ahead find their way: the calls of a replay are told from the one after them.
const FIRST_CALLS: usize = 8;

/// One case that went well.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// The tool.
    pub(crate) tool: String,
    /// What it did: `push`, `fetch`, `replay`, `absent`, `acked`, `start`, `push_near`, `push_far`, `paced`.
    pub(crate) what: String,
    /// The round, from 1.
    pub(crate) round: usize,
    /// Segments, or calls.
    pub(crate) count: usize,
    /// From the first call to the end of the last.
    pub(crate) seconds: f64,
    /// Plain bytes of WAL in that time, in MiB/s; nothing where no WAL was moved.
    pub(crate) mib_per_second: Option<f64>,
    /// The middle call, in milliseconds.
    pub(crate) p50_ms: f64,
    /// All but one in a hundred are not longer.
    pub(crate) p99_ms: f64,
    /// The mean of all calls, in milliseconds: what recovery waits for a segment.
    pub(crate) mean_ms: f64,
    /// CPU time of the whole tree of processes for each segment or call, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Most resident memory of one process, in MiB.
    pub(crate) largest_rss_mib: f64,
    /// Most resident memory of all at one moment, in MiB.
    pub(crate) sum_rss_mib: f64,
    /// Requests for each segment or call.
    pub(crate) requests: f64,
    /// All requests by method.
    pub(crate) methods: Methods,
    /// CPU time of the store for each segment or call, in milliseconds; nobody's.
    pub(crate) store_cpu_ms: f64,
    /// Plain bytes for each stored one, where something was stored.
    pub(crate) stored_ratio: Option<f64>,
    /// Calls that failed and were repeated.
    pub(crate) failures: usize,
    /// Processes that had to be killed at the end.
    pub(crate) killed: usize,
}

impl Record {
    /// The figures of an outcome.
    pub(crate) fn new(tool: &str, what: &str, round: usize, count: usize, outcome: &Outcome) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (each, bytes) = (count.max(1) as f64, |bytes: u64| bytes as f64 / MIB);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let timed = outcome.calls_ms.len().max(1) as f64;
        let moves = !matches!(what, "replay" | "absent" | "acked" | "start");
        let all = outcome.calls_ms.as_slice();
        let first = if what == "replay" { FIRST_CALLS.min(all.len() / 2) } else { 0 };
        let calls = all.get(first..).unwrap_or_default();
        Self {
            tool: tool.to_owned(),
            what: what.to_owned(),
            round,
            count,
            seconds: outcome.seconds,
            mib_per_second: moves.then_some(SEGMENT_MIB * each / outcome.seconds),
            p50_ms: percentile(calls, 50.0).unwrap_or(0.0),
            p99_ms: percentile(calls, 99.0).unwrap_or(0.0),
            mean_ms: all.iter().sum::<f64>() / timed,
            cpu_ms: outcome.usage.cpu_seconds * 1e3 / each,
            largest_rss_mib: bytes(outcome.usage.largest_rss_bytes),
            sum_rss_mib: bytes(outcome.usage.sum_rss_bytes),
            requests: 0.0,
            methods: Methods::new(),
            store_cpu_ms: 0.0,
            stored_ratio: None,
            failures: outcome.failures,
            killed: outcome.usage.killed,
        }
    }

    /// The same with what the store says about it.
    pub(crate) fn with_store(self, methods: Methods, cpu_seconds: f64, stored_bytes: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (each, all, stored) =
            (self.count.max(1) as f64, methods.values().sum::<u64>() as f64, stored_bytes as f64 / MIB);
        let pushed = self.what.starts_with("push") && stored > 0.0;
        Self {
            requests: all / each,
            methods,
            store_cpu_ms: cpu_seconds * 1e3 / each,
            stored_ratio: pushed.then_some(SEGMENT_MIB * each / stored),
            ..self
        }
    }
}

/// The largest rate that a tool holds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Held {
    /// The tool.
    pub(crate) tool: String,
    /// In MiB/s; none when it fell behind at every rate that was tried.
    pub(crate) mib_per_second: Option<f64>,
    /// The smallest rate at which it fell behind, in MiB/s.
    pub(crate) too_much: Option<f64>,
    /// The middle time from ready to archived at the rate that it holds, in milliseconds.
    pub(crate) lag_ms: Option<f64>,
}

/// A case that failed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failed {
    /// The tool.
    pub(crate) tool: String,
    /// What it was to do.
    pub(crate) what: String,
    /// Why it did not.
    pub(crate) why: String,
}

/// Everything measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Results {
    /// Every case of every round.
    pub(crate) records: Vec<Record>,
    /// The paced runs.
    pub(crate) held: Vec<Held>,
    /// What failed.
    pub(crate) failed: Vec<Failed>,
}

impl Results {
    /// A figure over the rounds of a tool.
    pub(crate) fn spread(
        &self,
        tool: &str,
        what: &str,
        figure: impl Fn(&Record) -> Option<f64>,
    ) -> Option<Spread> {
        let mine = self.records.iter().filter(|record| record.tool == tool && record.what == what);
        Spread::of(&mine.filter_map(figure).collect::<Vec<_>>())
    }

    /// Its median.
    pub(crate) fn median(
        &self,
        tool: &str,
        what: &str,
        figure: impl Fn(&Record) -> Option<f64>,
    ) -> Option<f64> {
        self.spread(tool, what, figure).map(|spread| spread.median)
    }
}
