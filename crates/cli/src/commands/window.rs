//! `walden window`.

use walden_core::{CatalogSnapshot, Moment, RecoveryWindow, TimelineWindow};
use walden_engine::{load_overview, window_from};

use crate::args::WhichArgs;
use crate::draw::Drawing;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, seconds};

/// Backups, ranges and segments that are shown of each timeline at most.
const SHOWN_MAX: usize = 10;

pub(super) fn run(session: &Session, which: &WhichArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let (window, snapshot) = runtime::run(async {
        let record = session.incarnation(&ctx, which.incarnation.incarnation).await?;
        let mut snapshot = load_overview(&ctx, &record).await?;
        let window = window_from(&ctx, &mut snapshot).await?;
        Ok((window, snapshot))
    })?;
    session.printer.report(&session.with_cost(&window, &ctx), |text| render(text, &window, &snapshot))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render(text: &mut Text, window: &RecoveryWindow, snapshot: &CatalogSnapshot) {
    render_answer(text, window);
    let drawing = Drawing::of(snapshot);
    if !drawing.is_empty() {
        text.gap();
        drawing.draw(text);
    }
    text.gap();
    let mut facts = vec![
        ("server", format!("{}, incarnation {}", window.server, window.incarnation)),
        ("looked at", text.moment(window.at)),
    ];
    if window.by_rollup > 0 {
        let told = count(window.by_rollup, "segment");
        facts.push((
            "not listed",
            format!("{told}, there by the word of rollups; walden check lists them all"),
        ));
    }
    text.facts(&facts);
    for timeline in &window.timelines {
        render_timeline(text, timeline);
    }
}

fn render_answer(text: &mut Text, window: &RecoveryWindow) {
    let Some(newest) = window.newest else {
        let nothing = if window.timelines.is_empty() {
            "Nothing is archived yet."
        } else {
            "Nothing can be restored: no backup has all the WAL that it needs."
        };
        let nothing = text.paint().red(nothing);
        text.line(nothing);
        return;
    };
    let age = window.rpo_seconds.map_or_else(
        || "of unknown age".to_owned(),
        |age| format!("{} old", seconds(u64::try_from(age).unwrap_or(0))),
    );
    let what = if newest.xid.is_some() { "Newest restorable commit" } else { "Newest restorable moment" };
    let line = text.paint().bold(&format!("{what}: {age}."));
    text.line(line);
    text.line(format!("It is {}.", describe(text, &newest)));
}

/// A moment by its time, its transaction and its position.
fn describe(text: &Text, moment: &Moment) -> String {
    let time = moment.time.map(|time| text.exact_moment(time));
    match (time, moment.xid) {
        (Some(time), Some(xid)) => format!("{time}, transaction {xid}, LSN {}", moment.lsn),
        (Some(time), None) => format!("{time}, the end of a backup, LSN {}", moment.lsn),
        _ => format!("LSN {}", moment.lsn),
    }
}

fn render_timeline(text: &mut Text, timeline: &TimelineWindow) {
    let fork = match (timeline.parent, timeline.fork_lsn) {
        (Some(parent), Some(lsn)) => format!(", from timeline {parent} at {lsn}"),
        _ => String::new(),
    };
    text.heading(&format!("Timeline {}{fork}", timeline.timeline));
    let mut facts = Vec::new();
    match (timeline.first, timeline.last) {
        (Some(first), Some(last)) => {
            facts.push(("first", describe(text, &first)));
            facts.push(("last", describe(text, &last)));
        }
        _ if timeline.history_missing => {
            let why = "nothing: the timeline's history file is missing or damaged";
            facts.push(("restorable", text.paint().red(why)));
        }
        _ => {
            let why = "nothing: no backup leads here with all its WAL";
            facts.push(("restorable", text.paint().yellow(why)));
        }
    }
    if timeline.restorable.len() > 1 {
        let pieces = count(timeline.restorable.len() as u64, "piece");
        facts.push(("", text.paint().yellow(&format!("not everything in between, but {pieces}:"))));
        for range in timeline.restorable.iter().rev().take(SHOWN_MAX) {
            let piece = format!(
                "{} to {}",
                range.first.time.map_or_else(|| range.first.lsn.to_string(), |time| text.moment(time)),
                range.last.time.map_or_else(|| range.last.lsn.to_string(), |time| text.moment(time))
            );
            facts.push(("", piece));
        }
    }
    facts.push(("segments", timeline.segments.to_string()));
    text.facts(&facts);
    render_backups(text, timeline);
    for gap in &timeline.gaps {
        let what = match gap.count {
            1 => format!("gap: segment {} is missing", gap.first),
            more => format!("gap: {more} segments are missing, {} to {}", gap.first, gap.last),
        };
        let what = text.paint().red(&what);
        text.line(what);
        text.line(format!("     {}", gap.cause));
    }
    if !timeline.damaged.is_empty() {
        let names: Vec<String> = timeline.damaged.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
        let more = timeline.damaged.len().saturating_sub(SHOWN_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let what = format!("damaged WAL: {}{more}: recovery stops there", names.join(", "));
        let what = text.paint().red(&what);
        text.line(what);
    }
}

fn render_backups(text: &mut Text, timeline: &TimelineWindow) {
    if timeline.backups.is_empty() {
        return;
    }
    let mut table = Table::new(&[
        ("BACKUP", Align::Left),
        ("FINISHED", Align::Left),
        ("FROM LSN", Align::Left),
        ("TO LSN", Align::Left),
    ]);
    let hidden = timeline.backups.len().saturating_sub(SHOWN_MAX);
    for backup in timeline.backups.iter().skip(hidden) {
        let last = backup.wal_end_lsn.map_or_else(|| "WAL is missing".to_owned(), |last| last.to_string());
        table.row([
            backup.id.to_string(),
            text.moment(backup.finished_at),
            backup.first.lsn.to_string(),
            last,
        ]);
    }
    text.table(&table);
    if hidden > 0 {
        text.line(format!("and {}; --output json has them", count(hidden as u64, "older backup")));
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use walden_core::{Windowing, recovery_window};

    use super::*;
    use crate::commands::plan::tests::{Archive, ZONE, moment, promoted, with_gap};
    use crate::text::{Canvas, Paint};

    fn told(archive: &Archive) -> String {
        let snapshot = archive.snapshot();
        let window = match recovery_window(&snapshot, moment(7200)) {
            Windowing::Window(window) => *window,
            Windowing::Needs(needs) => panic!("{needs:?}"),
        };
        let canvas = Canvas { columns: 100, unicode: true };
        let mut text = Text::new(Paint::Plain, TimeZone::get(ZONE).unwrap()).with_canvas(canvas);
        render(&mut text, &window, &snapshot);
        text.finish()
    }

    #[test]
    fn a_promotion() {
        insta::assert_snapshot!(told(&promoted()));
    }

    #[test]
    fn a_gap() {
        insta::assert_snapshot!(told(&with_gap()));
    }
}
