//! `walden wal push`, `get`, `list` and `show`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use walden_core::ErrorKind;
use walden_core::index::SegmentSummary;
use walden_engine::{
    Archiver, FetchOutcome, Fetcher, PushDamage, PushOutcome, WalListReport, WalShowReport, load_snapshot,
    wal_list, wal_show,
};

use crate::args::{OutputFormat, WalListArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::log_line;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, size};

/// How much sooner the store gives up than the verb, so that its own reason is told and not just the deadline.
const ROOM_FOR_THE_REASON: Duration = Duration::from_secs(1);

pub(super) fn push(session: &Session, path: &Path) -> Result<Exit, Failure> {
    let config = &session.effective.config.wal;
    let deadline = config.push_deadline.0;
    let ctx = session.context_within(inner_deadline(deadline))?;
    let archiver = Archiver::new(ctx.clone())
        .with_level(config.compression_level.0)
        .with_data_directory(session.data_directory_if_named().ok().flatten());
    let current = current_directory()?;
    let report = runtime::run_hook(deadline, async { Ok(archiver.push(path, &current).await?) })?;
    let words = match report.outcome {
        PushOutcome::Stored => "archived",
        PushOutcome::AlreadyStored => "was in the archive already, with these bytes",
    };
    session.printer.note(&format!(
        "walden wal push {}: {words}; {} as {}",
        report.name,
        size(report.bytes),
        size(report.stored_bytes)
    ));
    if let Some(damage) = &report.damage {
        log_line(&damage_line(&report.name, damage));
    }
    session.note_cost(&ctx);
    // Silent in text: PostgreSQL calls this for every segment. And the file is archived, whoever reads stdout.
    if session.printer.format() == OutputFormat::Json {
        drop(session.printer.report(&session.with_cost(&report, &ctx), |_| {}));
    }
    Ok(Exit::Done)
}

/// What the server log is told of a damaged segment.
fn damage_line(name: &str, damage: &PushDamage) -> String {
    let place = match damage.places.first() {
        Some(first) => format!("at {}: {}", first.lsn, first.what),
        None => "at an unknown place".to_owned(),
    };
    let more = match damage.count.saturating_sub(1) {
        0 => String::new(),
        more => format!(", and {} more", count(more, "place")),
    };
    format!(
        "walden wal push {name}: DAMAGED WAL {place}{more}; archived as it is, but no recovery gets past it; hint: take \
         a new backup now (walden backup create) and look at the disk below pg_wal"
    )
}

pub(super) fn get(session: &Session, name: &str, destination: &Path) -> Result<Exit, Failure> {
    let deadline = session.effective.config.wal.get_deadline.0;
    let ctx = session.context_within(inner_deadline(deadline))?;
    let fetcher = Fetcher::new(ctx.clone());
    let current = current_directory()?;
    let report =
        runtime::run_hook(deadline, async { Ok(fetcher.fetch(name, destination, &current).await?) })?;
    let (exit, words) = match report.outcome {
        FetchOutcome::Fetched => (Exit::Done, format!("fetched, {}", size(report.bytes))),
        // Routine: PostgreSQL asks for histories and segments until one is missing.
        FetchOutcome::Absent => (Exit::Absent, "not in the archive".to_owned()),
    };
    session.printer.note(&format!("walden wal get {}: {words}", report.name));
    session.note_cost(&ctx);
    if session.printer.format() == OutputFormat::Json {
        drop(session.printer.report(&session.with_cost(&report, &ctx), |_| {}));
    }
    Ok(exit)
}

fn inner_deadline(deadline: Duration) -> Duration {
    deadline.saturating_sub(ROOM_FOR_THE_REASON.min(deadline / 10))
}

fn current_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        Failure::new(ErrorKind::LocalIo, "cannot tell the current directory").caused_by(&error)
    })
}

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

#[cfg(test)]
mod tests {
    use walden_core::index::DamageNote;

    use super::*;

    #[test]
    fn damage_is_one_line_with_segment_place_and_meaning() {
        let place =
            |lsn: u64| DamageNote { lsn: walden_pg::Lsn::new(lsn), what: "wrong checksum".to_owned() };
        let damage = PushDamage { count: 3, places: vec![place(0x30_0000), place(0x30_0100)] };
        let line = damage_line("000000010000000000000003", &damage);
        assert!(!line.contains('\n'));
        assert!(
            line.starts_with(
                "walden wal push 000000010000000000000003: DAMAGED WAL at 0/300000: wrong checksum, and 2 places more; \
                 archived as it is, but no recovery gets past it"
            ),
            "{line}"
        );
        let nowhere = damage_line("x", &PushDamage { count: 1, places: Vec::new() });
        assert!(nowhere.contains("at an unknown place; archived"), "{nowhere}");
    }
}
