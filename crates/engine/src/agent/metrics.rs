//! The agent's status as metrics, in OpenMetrics text.
//!
//! A page is made of one [`AgentStatus`], so that metrics, the status document and the hooks' answers never disagree, and
//! counting costs nothing while nobody asks. Labels have few values, all of them known here or bounded by what they
//! name; file names are none. Names end in their unit, counters in `_total`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use walden_core::{Pressure, WalPressure};
use walden_pg::{SegmentName, WalSegmentSize};
use walden_store::Operation;

use super::level::LevelReason;
use super::since_boot;
use super::status::{AgentStatus, BUCKETS_SECONDS, HistogramSnapshot, LastArchived};
use crate::clock::Clock;
use crate::data_directory::DataDirectory;
use crate::error::EngineError;
use crate::pressure::PressureWatch;

/// The room of pg_wal is looked at this often, and less often when looking takes long.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The pressure on pg_wal as it was last judged. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct PressureGauge(Arc<Mutex<Option<WalPressure>>>);

impl PressureGauge {
    /// The last judgement.
    pub(super) fn last(&self) -> Option<WalPressure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges again and again, for ever.
    pub(super) async fn watch(&self, data: DataDirectory, clock: Arc<dyn Clock>) {
        let mut watch = None;
        loop {
            let started = tokio::time::Instant::now();
            let (data, clock) = (data.clone(), Arc::clone(&clock));
            let looked = tokio::task::spawn_blocking(move || {
                let mut watch = match watch {
                    Some(watch) => watch,
                    None => PressureWatch::new(data.path(), data.control()?.wal_segment_size),
                };
                let judged = watch.look(since_boot(), clock.now());
                let failed = |source| EngineError::local("look at", &data.path().join("pg_wal"), source);
                Ok::<_, EngineError>((watch, judged.map_err(failed)?))
            });
            watch = match looked.await {
                Ok(Ok((watch, judged))) => {
                    *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(judged);
                    Some(watch)
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the room of pg_wal is not known");
                    None
                }
                Err(error) => {
                    tracing::error!(%error, "looking at the room of pg_wal failed");
                    None
                }
            };
            tokio::time::sleep(LOOK_EVERY.max(started.elapsed() * 20)).await;
        }
    }
}

/// The media type of a page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page of metrics that a status makes: OpenMetrics text, ending in `# EOF`.
#[must_use]
pub fn render(status: &AgentStatus) -> String {
    let mut registry = Registry::with_prefix("walden");
    registry.register_collector(Box::new(Page(status.clone())));
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Page(AgentStatus);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut to, status) = (Families(encoder), &self.0);
        agent(&mut to, status)?;
        queue(&mut to, status)?;
        archived(&mut to, status)?;
        calls(&mut to, status)?;
        compression(&mut to, status)?;
        load(&mut to, status)?;
        store(&mut to, status)?;
        prefetch(&mut to, status)?;
        if let Some(pressure) = &status.pressure {
            room(&mut to, pressure)?;
        }
        latencies(&mut to, status)
    }
}

/// Takes one family after another.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: f64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        encoder.encode_gauge(&value)
    }

    fn files(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        encoder.encode_gauge(&value)
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
        encoder.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A counter for each value of one label.
    fn counters<'v>(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (value, count) in values {
            let labels = [(label, value)];
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// A gauge for each value of one label.
    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            let labels = [(label, value)];
            encoder.encode_family(&labels)?.encode_gauge(&count)?;
        }
        Ok(())
    }

    fn seconds(&mut self, name: &str, help: &str, histogram: &HistogramSnapshot) -> fmt::Result {
        let mut encoder =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let bounds = BUCKETS_SECONDS.into_iter().chain([f64::INFINITY]);
        // A histogram in which nothing was counted may be empty.
        let counts = histogram.counts.iter().copied().chain(std::iter::repeat(0));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        encoder.encode_histogram::<NoLabelSet>(histogram.sum_seconds, histogram.count, &buckets, None)
    }
}

fn agent(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let server = status.server.to_string();
    let labels = [("server", server.as_str()), ("build", status.build.as_str())];
    to.0.encode_descriptor("agent", "The server and the build of the agent", None, MetricType::Info)?
        .encode_info(&labels)?;
    let started = status.started_at.as_microsecond();
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let started = started as f64 / 1e6;
    to.gauge("agent_start_time", Some(&Unit::Seconds), "When the agent started, since 1970", started)?;
    let help = "How long the agent has been running";
    to.gauge("agent_uptime", Some(&Unit::Seconds), help, status.uptime_seconds)
}

fn queue(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let push = &status.push;
    to.files("wal_queue_files", "Files that PostgreSQL wants archived and that are not", push.queue_files)?;
    to.bytes("wal_queue", "Their length", push.queue_bytes)?;
    let help = "How long the oldest of them has been waiting: so much WAL would be lost with the machine";
    to.gauge("wal_unarchived", Some(&Unit::Seconds), help, push.unarchived_seconds)?;
    let help = "Files that are marked ready, archived or not";
    to.files("wal_ready_files", help, push.ready_files)?;
    to.files("wal_in_flight_files", "Files that are being archived", push.in_flight)?;
    to.files("wal_ahead_files", "Files archived that PostgreSQL has not asked for yet", push.acks)
}

fn archived(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let push = &status.push;
    to.counter("wal_archived_files", None, "Files archived", push.archived_files)?;
    let help = "Files that were in the archive already";
    to.counter("wal_already_stored_files", None, help, push.already_stored_files)?;
    let help = "Segments that were archived although they are damaged: no recovery gets past them";
    to.counter("wal_damaged_segments", None, help, push.damaged_segments)?;
    to.counter("wal_archived", Some(&Unit::Bytes), "Their length", push.archived_bytes)?;
    to.counter("wal_stored", Some(&Unit::Bytes), "The size of their objects", push.stored_bytes)?;
    if push.stored_bytes > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = push.archived_bytes as f64 / push.stored_bytes as f64;
        let help = "Length of the files archived by the size of their objects";
        to.gauge("wal_compression_ratio", None, help, ratio)?;
    }
    let Some(last) = &push.last_archived else { return Ok(()) };
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
    let at = last.at.as_microsecond() as f64 / 1e6;
    to.gauge(
        "wal_last_archived_time",
        Some(&Unit::Seconds),
        "When a file was last archived, since 1970",
        at,
    )?;
    to.gauge("wal_last_archived_age", Some(&Unit::Seconds), "How long ago that was", last.seconds_ago)?;
    let Some((timeline, end)) = position(last) else { return Ok(()) };
    to.files("wal_last_archived_timeline", "The timeline of the segment archived last", timeline)?;
    to.bytes("wal_last_archived_position", "The position (LSN) behind the segment archived last", end)
}

/// The timeline of a segment, and the position behind it.
fn position(last: &LastArchived) -> Option<(u64, u64)> {
    let name: SegmentName = last.name.parse().ok()?;
    let size = WalSegmentSize::new(last.bytes).ok()?;
    let start = name.start_lsn(size).ok()?;
    Some((name.timeline().get().into(), start.checked_add(last.bytes)?.get()))
}

fn calls(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let push = &status.push;
    let waited = push.calls.saturating_sub(push.calls_ahead).saturating_sub(push.calls_failed);
    let results = [("ahead", push.calls_ahead), ("waited", waited), ("failed", push.calls_failed)];
    let help = "Calls of archive_command: found archived ahead, waited for, or failed";
    to.counters("push_calls", None, help, "result", results)?;
    let help = "Files that could not be archived ahead, at one try each";
    to.counter("push_ahead_failures", None, help, push.ahead_failed)?;
    let errors = status.errors.iter().map(|(kind, count)| (kind.as_str(), *count));
    to.counters("errors", None, "Pushes and gets that failed, by the kind of the error", "kind", errors)
}

fn compression(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let level = &status.level;
    let help = "The level that the next file is compressed at";
    to.gauge("wal_compression_level", None, help, level.level.into())?;
    let reasons = [
        LevelReason::Idle,
        LevelReason::Steady,
        LevelReason::Backlog,
        LevelReason::Network,
        LevelReason::Memory,
    ];
    let told = reasons.map(|reason| (reason.as_str(), u64::from(reason == level.reason)));
    to.gauges("wal_compression_level_reason", "Why: 1 for the reason that holds", "reason", told)
}

fn load(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let load = &status.load;
    to.bytes("memory_resident", "Memory of the whole process", load.memory_resident_bytes)?;
    to.bytes("memory_reserved", "Memory reserved for the bytes of files", load.memory_reserved_bytes)?;
    to.bytes("memory_limit", "How much of it there may be", load.memory_limit_bytes)?;
    let stages = [("waiting", load.waiting), ("sealing", load.sealing), ("sending", load.sending)];
    to.gauges("pipeline_files", "Files on their way into the archive", "stage", stages)?;
    let help = "How long was spent on reading, hashing and compressing, threads added up";
    to.gauge("seal_busy", Some(&Unit::Seconds), help, load.seal_seconds)?;
    let help = "How long was spent on sending, objects added up";
    to.gauge("send_busy", Some(&Unit::Seconds), help, load.send_seconds)
}

fn store(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let each = |count: fn(&walden_store::OperationCount) -> u64| {
        Operation::ALL.map(|operation| (operation.as_str(), count(&status.store.of(operation))))
    };
    let label = "operation";
    to.counters("store_requests", None, "Requests to the store", label, each(|count| count.requests))?;
    let help = "Requests that repeated an earlier one";
    to.counters("store_retries", None, help, label, each(|count| count.retries))?;
    let help = "Requests that failed on the way or were answered with an error";
    to.counters("store_errors", None, help, label, each(|count| count.errors))?;
    let (sent, received) = (each(|count| count.bytes_sent), each(|count| count.bytes_received));
    to.counters("store_sent", Some(&Unit::Bytes), "Bytes of bodies sent", label, sent)?;
    to.counters("store_received", Some(&Unit::Bytes), "Bytes of bodies received", label, received)
}

fn prefetch(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let prefetch = &status.prefetch;
    let results = [
        ("hit", prefetch.hits),
        ("waited", prefetch.waited),
        ("miss", prefetch.misses),
        ("absent", prefetch.absent),
        ("declined", prefetch.declined),
    ];
    let help =
        "Calls of restore_command: found ready, waited for, not ready, not in the archive, or sent away";
    to.counters("get_calls", None, help, "result", results)?;
    to.files("prefetch_files", "Files fetched ahead", prefetch.files)?;
    to.files("prefetch_in_flight_files", "Files that are being fetched ahead", prefetch.in_flight)?;
    to.bytes("prefetch", "Disk space that they take", prefetch.bytes)?;
    to.bytes("prefetch_limit", "Disk space that they may take", prefetch.limit_bytes)?;
    to.counter("prefetch_dropped_files", None, "Files fetched ahead for nothing", prefetch.dropped)?;
    to.counter("prefetch_failed_files", None, "Files that could not be fetched ahead", prefetch.failed)
}

fn room(to: &mut Families<'_>, pressure: &WalPressure) -> fmt::Result {
    to.bytes("wal_disk_free", "Free bytes of the file system of pg_wal", pressure.free_bytes)?;
    to.bytes("wal_disk_size", "Bytes of the file system of pg_wal", pressure.total_bytes)?;
    to.bytes("wal_disk_room", "Bytes of WAL for which there is room", pressure.room_bytes)?;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let full_in = match pressure.pressure {
        Pressure::NotFilling => f64::INFINITY,
        Pressure::Fills { seconds } => seconds as f64,
        Pressure::Full => 0.0,
        Pressure::Unknown { .. } => f64::NAN,
    };
    let help = "When pg_wal is full at the present rates: +Inf when the queue does not grow, NaN when that is not known";
    to.gauge("wal_disk_full_in", Some(&Unit::Seconds), help, full_in)?;
    if let Some(made) = pressure.made_bytes_per_second {
        to.files("wal_made_bytes_per_second", "WAL that the server makes", made)?;
    }
    if let Some(archived) = pressure.archived_bytes_per_second {
        to.files("wal_archived_bytes_per_second", "WAL that is archived", archived)?;
    }
    Ok(())
}

fn latencies(to: &mut Families<'_>, status: &AgentStatus) -> fmt::Result {
    let latencies = &status.latencies;
    to.seconds("push_call", "Calls of archive_command, from the call to the answer", &latencies.push_calls)?;
    to.seconds("get_call", "Calls of restore_command, from the call to the answer", &latencies.get_calls)?;
    to.seconds("seal", "Reading, hashing and compressing a file", &latencies.seal)?;
    to.seconds("send", "Sending an object, with all tries", &latencies.send)?;
    to.seconds("archive_delay", "From a file's being ready to its being archived", &latencies.archive_delay)
}
