//! `walden wal list` and `show`.

use jiff::Timestamp;
use walden_core::index::SegmentSummary;
use walden_engine::{WalListReport, WalShowReport, load_snapshot, wal_list, wal_show};

use crate::args::WalListArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, size};

pub(super) fn list(session: &Session, arguments: &WalListArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let mut report = runtime::run(async {
        let record = session.incarnation(&ctx, arguments.which.incarnation.incarnation).await?;
        Ok(wal_list(&load_snapshot(&ctx, &record).await?))
    })?;
    if let Some(wanted) = arguments.timeline {
        report.timelines.retain(|timeline| timeline.timeline == wanted);
        let runs = || report.timelines.iter().flat_map(|timeline| &timeline.runs);
        (report.segments, report.stored_bytes) =
            (runs().map(|run| run.count).sum(), runs().map(|run| run.stored_bytes).sum());
    }
    session.printer.report(&session.with_cost(&report, &ctx), |text| render_list(text, &report))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render_list(text: &mut Text, report: &WalListReport) {
    text.facts(&[
        ("server", format!("{}, incarnation {}", report.server, report.incarnation)),
        ("archived", format!("{}, {}", count(report.segments, "segment"), size(report.stored_bytes))),
    ]);
    let mut table = Table::new(&[
        ("TIMELINE", Align::Right),
        ("FIRST SEGMENT", Align::Left),
        ("LAST SEGMENT", Align::Left),
        ("COUNT", Align::Right),
        ("STORED", Align::Right),
        ("FROM LSN", Align::Left),
        ("TO LSN", Align::Left),
        ("NOTE", Align::Left),
    ]);
    let mut rows = 0;
    for timeline in &report.timelines {
        for (at, run) in timeline.runs.iter().enumerate() {
            rows += 1;
            table.row([
                timeline.timeline.to_string(),
                run.first.to_string(),
                run.last.to_string(),
                run.count.to_string(),
                size(run.stored_bytes),
                run.start_lsn.to_string(),
                run.end_lsn.to_string(),
                if at == 0 { String::new() } else { "after a gap".to_owned() },
            ]);
        }
    }
    if rows > 0 {
        text.gap();
        text.table(&table);
    }
    for timeline in &report.timelines {
        let number = timeline.timeline;
        if number.get() > 1 && !timeline.history {
            text.line(format!("timeline {number}: its history file is missing"));
        }
        for partial in &timeline.partials {
            text.line(format!("timeline {number}: {partial}.partial is there"));
        }
    }
}

pub(super) fn show(session: &Session, name: &str) -> Result<Exit, Failure> {
    let parsed = name.parse().map_err(|error: walden_pg::Error| {
        Failure::usage("not the name of a file that PostgreSQL archives")
            .caused_by(&error)
            .with_hint("segments have 24 hexadecimal digits, histories 8 and .history")
    })?;
    let ctx = session.context()?;
    let report = runtime::run(async { Ok(wal_show(&ctx, parsed).await?) })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render_show(text, &report))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render_show(text: &mut Text, report: &WalShowReport) {
    let header = &report.header;
    let mut facts = vec![
        ("file", header.name.clone()),
        ("key", report.key.clone()),
        ("size", exact_size(header.plain_bytes)),
        ("stored", exact_size(report.object_bytes)),
    ];
    if let Some(hash) = &header.plain_sha256 {
        facts.push(("SHA-256", hash.clone()));
    }
    if let Some(wal) = &header.wal {
        facts.push(("timeline", wal.timeline.to_string()));
        facts.push(("LSN", format!("{} to {}", wal.start_lsn, wal.end_lsn)));
        facts.push(("system identifier", wal.system_id.get().to_string()));
        if let Some(summary) = &wal.summary {
            summary_facts(text, summary, &mut facts);
        }
    }
    facts.push(("archived", text.moment(header.writer.at)));
    facts.push(("by", format!("walden {} on {}", header.writer.version, header.writer.host)));
    facts.push(("from", header.writer.instance.clone()));
    text.facts(&facts);
}

/// `34 B`, `16.0 MiB (16777216 bytes)`.
fn exact_size(bytes: u64) -> String {
    match bytes {
        0..1024 => size(bytes),
        _ => format!("{} ({bytes} bytes)", size(bytes)),
    }
}

/// What is in a segment.
fn summary_facts(text: &Text, summary: &SegmentSummary, facts: &mut Vec<(&'static str, String)>) {
    let held = &summary.facts;
    let ends = format!("{}, {}", count(held.commits, "commit"), count(held.aborts, "abort"));
    facts.push(("transactions", ends));
    for (name, mark) in [("first commit", held.first_commit), ("last commit", held.last_commit)] {
        let Some(mark) = mark else { continue };
        let time = Timestamp::from_microsecond(mark.time.unix_micros());
        let time = time.map_or_else(|_| String::new(), |time| format!(", {}", text.moment(time)));
        facts.push((name, format!("transaction {} at {}{time}", mark.xid, mark.lsn)));
    }
    facts.push(("WAL ends at", summary.wal_end.to_string()));
    let flags: Vec<String> = held.flags.names().map(|name| name.replace('_', " ")).collect();
    if !flags.is_empty() {
        facts.push(("notable", flags.join(", ")));
    }
}
