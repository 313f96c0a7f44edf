//! `walden window`.

use walden_core::{RecoveryWindow, TimelineWindow, recovery_window};
use walden_engine::load_snapshot;

use crate::args::WhichArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count};

pub(super) fn run(session: &Session, which: &WhichArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let window = runtime::run(async {
        let record = session.incarnation(&ctx, which.incarnation.incarnation).await?;
        let snapshot = load_snapshot(&ctx, &record).await?;
        Ok(recovery_window(&snapshot, session.now()))
    })?;
    session.printer.report(&session.with_cost(&window, &ctx), |text| render(text, &window))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render(text: &mut Text, window: &RecoveryWindow) {
    text.facts(&[
        ("server", format!("{}, incarnation {}", window.server, window.incarnation)),
        ("looked at", text.moment(window.at)),
    ]);
    if window.timelines.is_empty() {
        text.gap();
        text.line("nothing is archived yet");
    }
    for timeline in &window.timelines {
        render_timeline(text, timeline);
    }
}

fn render_timeline(text: &mut Text, timeline: &TimelineWindow) {
    let fork = match (timeline.parent, timeline.fork_lsn) {
        (Some(parent), Some(lsn)) => format!(", from timeline {parent} at {lsn}"),
        _ => String::new(),
    };
    text.heading(&format!("Timeline {}{fork}", timeline.timeline));
    let ranges = timeline.restorable.iter().map(|range| format!("{} to {}", range.first, range.last));
    let ranges: Vec<String> = ranges.collect();
    let reach = if timeline.history_missing {
        text.paint().red("nothing: the timeline's history file is missing or damaged")
    } else if ranges.is_empty() {
        text.paint().yellow("nothing: no backup leads here with all its WAL")
    } else {
        ranges.join(", ")
    };
    text.facts(&[("restorable", reach), ("segments", timeline.segments.to_string())]);
    if !timeline.backups.is_empty() {
        let mut table = Table::new(&[
            ("BACKUP", Align::Left),
            ("FINISHED", Align::Left),
            ("FROM LSN", Align::Left),
            ("TO LSN", Align::Left),
        ]);
        for backup in &timeline.backups {
            let last = backup.last.map_or_else(|| "WAL is missing".to_owned(), |last| last.to_string());
            table.row([
                backup.id.to_string(),
                text.moment(backup.finished_at),
                backup.first.to_string(),
                last,
            ]);
        }
        text.table(&table);
    }
    for gap in &timeline.gaps {
        let partial = if gap.partial { "; a part of it is there as .partial" } else { "" };
        let what =
            format!("gap: {} missing, {} to {}{partial}", count(gap.count, "segment"), gap.first, gap.last);
        let what = text.paint().red(&what);
        text.line(what);
    }
}
