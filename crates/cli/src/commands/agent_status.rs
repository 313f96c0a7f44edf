//! The status of the agent, for people.

use std::fmt::Write;
use std::time::Duration;

use walden_core::Pressure;
use walden_engine::agent::LevelReason;
use walden_engine::agent::status::{
    AgentStatus, BUCKETS_SECONDS, HistogramSnapshot, PrefetchStatus, PushStatus,
};
use walden_store::Operation;

use crate::session::show_duration;
use crate::text::{Align, Table, Text, count, size};

pub(super) fn render(text: &mut Text, status: &AgentStatus) {
    let started = if status.on_demand { "started on demand" } else { "resident" };
    let leaving = if status.leaving { ", ends when what it has begun is done" } else { "" };
    let build = status.build.split('+').next().unwrap_or(&status.build);
    text.facts(&[
        ("agent", format!("pid {}, {started}, for {}{leaving}", status.pid, seconds(status.uptime_seconds))),
        ("version", build.to_owned()),
        ("server", status.server.to_string()),
        ("repository", status.repository.clone()),
        ("data directory", status.data_directory.display().to_string()),
    ]);
    if !status.warnings.is_empty() {
        text.gap();
        let label = text.paint().yellow("warning:");
        for warning in &status.warnings {
            text.line(format!("{label} {warning}"));
        }
    }
    text.gap();
    text.facts(&push_facts(status));
    text.gap();
    text.facts(&machine_facts(status));
    let latencies = latencies(status);
    if let Some(table) = latencies {
        text.gap();
        text.table(&table);
    }
    failures(text, &status.push);
}

fn push_facts(status: &AgentStatus) -> Vec<(&'static str, String)> {
    let push = &status.push;
    let mut facts = vec![("queue", queue(push)), ("in flight", in_flight(status))];
    if let Some(last) = &push.last_archived {
        facts.push((
            "last archived",
            format!(
                "{}, {} ago: {} as {} at level {}",
                last.name,
                seconds(last.seconds_ago),
                size(last.bytes),
                size(last.stored_bytes),
                last.level
            ),
        ));
    }
    facts.push(("archived", archived(push)));
    facts.extend(rate(push).map(|rate| ("rate", rate)));
    if push.damaged_segments > 0 {
        facts.push((
            "DAMAGED WAL",
            format!("in {}: see walden check", count(push.damaged_segments, "segment")),
        ));
    }
    let ahead = match (push.ahead, push.last_call_seconds) {
        (true, _) => "works ahead of PostgreSQL".to_owned(),
        (false, Some(_)) if push.acks > 0 => {
            format!("is ahead: {} archived and not asked for yet", count(push.acks, "file"))
        }
        (false, Some(ago)) => format!("waits: the last push was asked for {} ago", seconds(ago)),
        (false, None) => "waits: no push was asked for yet".to_owned(),
    };
    facts.push(("archiving", ahead));
    facts.push((
        "asked for",
        format!(
            "{}, {} of them archived before, {} failed",
            count(push.calls, "file"),
            push.calls_ahead,
            push.calls_failed
        ),
    ));
    facts
}

fn queue(push: &PushStatus) -> String {
    if push.queue_files == 0 {
        return "nothing waits".to_owned();
    }
    format!(
        "{}, {}; the oldest waits for {}",
        count(push.queue_files, "file"),
        size(push.queue_bytes),
        seconds(push.unarchived_seconds)
    )
}

fn in_flight(status: &AgentStatus) -> String {
    let load = &status.load;
    if status.push.in_flight == 0 {
        return format!("none, {} at most", load.in_flight_limit);
    }
    format!(
        "{} of {} at most: {} compressing, {} sending, {} waiting",
        status.push.in_flight, load.in_flight_limit, load.sealing, load.sending, load.waiting
    )
}

fn archived(push: &PushStatus) -> String {
    if push.archived_files == 0 {
        return "nothing yet".to_owned();
    }
    let tenths = push.archived_bytes.saturating_mul(10) / push.stored_bytes.max(1);
    format!(
        "{}, {} as {} ({}.{} to 1); {} there already",
        count(push.archived_files, "file"),
        size(push.archived_bytes),
        size(push.stored_bytes),
        tenths / 10,
        tenths % 10,
        push.already_stored_files
    )
}

/// How much was archived lately.
fn rate(push: &PushStatus) -> Option<String> {
    let recent = &push.recent;
    let millis = span(recent.seconds).as_millis();
    // Of less than a second nothing can be said.
    let rate = (u128::from(recent.archived_bytes) * 1000).checked_div(millis).filter(|_| millis >= 1000)?;
    let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
    let over = seconds(recent.seconds);
    Some(format!("{rate}/s over the last {over}: {}", count(recent.archived_files, "file")))
}

fn machine_facts(status: &AgentStatus) -> Vec<(&'static str, String)> {
    let (level, load) = (&status.level, &status.load);
    let why = match level.reason {
        LevelReason::Idle => "nothing waits",
        LevelReason::Steady => "nothing asks for another",
        LevelReason::Backlog => "files wait for the processor",
        LevelReason::Network => "files wait for the network",
        LevelReason::Memory => "files wait for memory",
    };
    let range = if level.best == level.fastest {
        "as set".to_owned()
    } else {
        format!("{} to {} allowed", level.fastest, level.best)
    };
    vec![
        ("compression", format!("level {}, since {why}; {range}", level.level)),
        (
            "memory",
            format!(
                "{} of {} reserved; the process has {}",
                size(load.memory_reserved_bytes),
                size(load.memory_limit_bytes),
                size(load.memory_resident_bytes)
            ),
        ),
        ("room for WAL", room(status)),
        ("prefetch", prefetch(&status.prefetch)),
        ("store", store(status)),
    ]
}

/// How long the file system of pg_wal has room at the present rates.
fn room(status: &AgentStatus) -> String {
    let Some(pressure) = &status.pressure else { return "not looked at yet".to_owned() };
    let free = format!("{} free", size(pressure.free_bytes));
    match pressure.pressure {
        Pressure::NotFilling => format!("{free}; what waits does not grow"),
        Pressure::Fills { seconds } => {
            format!("{free}; full in {} at the present rates", crate::text::seconds(seconds))
        }
        Pressure::Full => format!("{free}: FULL, there is no room for another segment"),
        Pressure::Unknown { .. } => format!("{free}; the rates are not known yet"),
    }
}

fn prefetch(prefetch: &PrefetchStatus) -> String {
    if prefetch.limit_bytes == 0 {
        return "off".to_owned();
    }
    let held = format!(
        "{}, {} of {}",
        count(prefetch.files, "file"),
        size(prefetch.bytes),
        size(prefetch.limit_bytes)
    );
    if prefetch.calls == 0 {
        return format!("{held}; no file was asked for yet");
    }
    format!(
        "{held}; of {} asked for {} ready, {} on their way, {} not ready, {} absent, {} sent away",
        prefetch.calls, prefetch.hits, prefetch.waited, prefetch.misses, prefetch.absent, prefetch.declined
    )
}

fn store(status: &AgentStatus) -> String {
    let all = Operation::ALL.map(|operation| status.store.of(operation));
    let sum = |of: fn(&walden_store::OperationCount) -> u64| all.iter().map(of).sum::<u64>();
    let requests = sum(|one| one.requests);
    let (retries, errors) = (sum(|one| one.retries), sum(|one| one.errors));
    let mut said = format!(
        "{}, {} sent, {} received",
        count(requests, "request"),
        size(sum(|one| one.bytes_sent)),
        size(sum(|one| one.bytes_received))
    );
    if retries > 0 {
        let _ = write!(said, ", {retries} tried again");
    }
    if errors > 0 {
        let _ = write!(said, ", {}", count(errors, "error"));
    }
    said
}

/// How long things took, as the bounds below which half and 99 % of them were.
fn latencies(status: &AgentStatus) -> Option<Table> {
    let of = &status.latencies;
    let rows = [
        ("push asked for", &of.push_calls),
        ("get asked for", &of.get_calls),
        ("compress", &of.seal),
        ("send", &of.send),
        ("ready to archived", &of.archive_delay),
    ];
    let mut table = Table::new(&[
        ("TIME OF", Align::Left),
        ("COUNT", Align::Right),
        ("MEAN", Align::Right),
        ("HALF BELOW", Align::Right),
        ("99 % BELOW", Align::Right),
    ]);
    let mut any = false;
    for (name, histogram) in rows.iter().filter(|(_, histogram)| histogram.count > 0) {
        any = true;
        table.row([
            (*name).to_owned(),
            histogram.count.to_string(),
            mean(histogram),
            quantile(histogram, 50),
            quantile(histogram, 99),
        ]);
    }
    any.then_some(table)
}

fn mean(histogram: &HistogramSnapshot) -> String {
    let micros = span(histogram.sum_seconds).as_micros() / u128::from(histogram.count.max(1));
    short(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
}

/// The bound of the bucket that a percentile is in.
fn quantile(histogram: &HistogramSnapshot, percent: u64) -> String {
    let wanted = (histogram.count * percent).div_ceil(100);
    let mut below = 0;
    for (bound, count) in BUCKETS_SECONDS.iter().zip(&histogram.counts) {
        below += count;
        if below >= wanted {
            return short(span(*bound));
        }
    }
    format!("over {}", seconds(BUCKETS_SECONDS.last().copied().unwrap_or_default()))
}

fn failures(text: &mut Text, push: &PushStatus) {
    let paint = text.paint();
    if push.retries.is_empty() && push.last_failure.is_none() {
        return;
    }
    text.gap();
    if let Some(last) = &push.last_failure {
        let when = text.moment(last.at);
        let label = paint.yellow("last failure:");
        text.line(format!("{label} {}, {when}: {}", last.name, last.failure.message));
        if let Some(hint) = &last.failure.hint {
            text.line(paint.dim(&format!("-> {hint}")));
        }
    }
    for retry in &push.retries {
        text.line(format!(
            "{} failed {}, again in {} at the latest",
            retry.name,
            count(u64::from(retry.failed), "time"),
            seconds(retry.again_in_seconds)
        ));
    }
}

fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn seconds(seconds: f64) -> String {
    show_duration(span(seconds))
}

/// A duration that may be shorter than 10 ms.
fn short(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => show_duration(duration),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::text::Paint;

    /// The block of a document that follows `begin`, up to the end of it.
    fn block<'a>(document: &'a str, begin: &str) -> &'a str {
        document.split_once(begin).unwrap().1.split_once("```").unwrap().0
    }

    fn documented() -> AgentStatus {
        let document = include_str!("../../../../docs/cli.md");
        serde_json::from_str(block(document, "<!-- json: AgentStatus -->\n```json\n")).unwrap()
    }

    fn shown(status: &AgentStatus) -> String {
        let mut text = Text::new(Paint::Plain, TimeZone::UTC);
        render(&mut text, status);
        text.finish()
    }

    #[test]
    fn the_documents_show_the_same_status_in_both_forms() {
        let document = include_str!("../../../../docs/operations/agent.md");
        let shown = shown(&documented());
        assert_eq!(shown, block(document, "```text\n"), "{shown}");
    }

    #[test]
    fn an_agent_that_has_just_started_has_little_to_say() {
        let mut status = documented();
        status.push = PushStatus::default();
        status.latencies = walden_engine::agent::status::Latencies::default();
        status.pressure = None;
        status.on_demand = true;
        let shown = shown(&status);
        for words in [
            "started on demand",
            "nothing waits",
            "nothing yet",
            "waits: no push was asked for yet",
            "not looked at yet",
        ] {
            assert!(shown.contains(words), "{words}\n{shown}");
        }
        assert!(!shown.contains("99 % BELOW") && !shown.contains("last"), "{shown}");
    }

    #[test]
    fn percentiles_are_the_bounds_of_buckets() {
        let mut histogram = HistogramSnapshot { counts: vec![0; 16], count: 100, sum_seconds: 0.25 };
        histogram.counts[1] = 98;
        histogram.counts[15] = 2;
        assert_eq!((quantile(&histogram, 50).as_str(), mean(&histogram).as_str()), ("2.5 ms", "2.5 ms"));
        assert_eq!(quantile(&histogram, 99), "over 60 s");
    }
}
