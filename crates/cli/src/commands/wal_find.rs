//! `walden wal find`.

use serde::Serialize;
use walden_core::index::find::{FindOperation, FoundEvent};
use walden_core::{RecoveryAction, RecoveryRates, RecoveryRequest, RecoveryTarget, TargetTimeline};
use walden_engine::find;

use super::plan::Words;
use crate::args::WalFindArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count};

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    event: FoundEvent,
    /// The command that plans a recovery to just before it.
    plan: String,
}

pub(super) fn run(session: &Session, arguments: &WalFindArgs) -> Result<Exit, Failure> {
    let query = arguments.query(session.now())?;
    let named = arguments.which.incarnation.incarnation;
    let words = Words::new(session, named, arguments.which.pgdata.as_deref());
    let ctx = session.context()?;
    let report = runtime::run(async {
        let record = session.incarnation(&ctx, named).await?;
        Ok(find(&ctx, &record, &query).await?)
    })?;
    for note in &report.notes {
        session.printer.warning(note);
    }
    let hidden = report.events.len().saturating_sub(arguments.limit);
    if hidden > 0 {
        let all = count(report.events.len() as u64, "event");
        session.printer.warning(&format!("the newest {} of {all}; --limit shows more", arguments.limit));
    }
    let lines: Vec<Line> = report
        .events
        .into_iter()
        .skip(hidden)
        .map(|event| Line { plan: words.plan(&before(&event)), event })
        .collect();
    session.printer.report(&lines, |text| render(text, &lines))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

/// What asks for the moment just before an event.
fn before(event: &FoundEvent) -> RecoveryRequest {
    RecoveryRequest {
        target: RecoveryTarget::Lsn(event.lsn),
        exclusive: true,
        timeline: if event.on_newest { TargetTimeline::Latest } else { TargetTimeline::Id(event.timeline) },
        action: RecoveryAction::Pause,
        backup: None,
        rates: RecoveryRates::default(),
    }
}

fn render(text: &mut Text, lines: &[Line]) {
    if lines.is_empty() {
        text.line("Nothing of the kind is in the archive.");
        return;
    }
    let mut table = Table::new(&[
        ("WHAT", Align::Left),
        ("TIME", Align::Left),
        ("LSN", Align::Left),
        ("XID", Align::Right),
        ("DATABASE", Align::Left),
        ("NAME", Align::Left),
        ("ROWS", Align::Right),
    ]);
    for Line { event, .. } in lines {
        let rows = event.rows.map(|rows| format!("{rows}{}", if event.rows_at_least { "+" } else { "" }));
        table.row([
            event.op.as_str().to_owned(),
            text.exact_moment(event.time),
            event.lsn.to_string(),
            event.xid.map(|xid| xid.to_string()).unwrap_or_default(),
            event.database.clone().unwrap_or_default(),
            name_of(event),
            rows.unwrap_or_default(),
        ]);
    }
    text.table(&table);
    text.gap();
    if lines.iter().any(|line| line.event.table.is_some() && line.event.names_from.is_none()) {
        text.line("Numbers stand for names that neither a backup nor the WAL tells.");
    }
    text.line("To look at the moment just before one of them:");
    let mut plans: Vec<&str> = lines.iter().map(|line| line.plan.as_str()).collect();
    plans.dedup();
    text.bullets(&plans);
    if lines.iter().any(|line| locks(line.event.op)) {
        text.gap();
        text.line("There the transaction is still under way, and holds its lock on the table: nobody can read it while");
        text.line("recovery is paused. SELECT pg_wal_replay_resume() ends that, or --target-action promote.");
    }
}

/// Whether the table is locked against reading until the transaction ends. Recovery holds such locks, too.
fn locks(op: FindOperation) -> bool {
    matches!(op, FindOperation::Drop | FindOperation::Truncate | FindOperation::Rewrite)
}

/// A table with its schema, or a restore point.
fn name_of(event: &FoundEvent) -> String {
    match (&event.schema, &event.table, &event.name) {
        (Some(schema), Some(table), _) => format!("{schema}.{table}"),
        (None, Some(table), _) => table.clone(),
        (_, None, name) => name.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use walden_core::index::find::NamesFrom;
    use walden_pg::{Lsn, TimelineId, Xid};

    use super::*;
    use crate::text::{Canvas, Paint};

    fn event(op: FindOperation, lsn: u64) -> FoundEvent {
        FoundEvent {
            op,
            time: "2026-11-20T14:31:58.204113Z".parse().unwrap(),
            lsn: Lsn::new(lsn),
            timeline: TimelineId::FIRST,
            xid: Some(Xid::new(74_213)),
            database: Some("shop".into()),
            schema: Some("public".into()),
            table: Some("orders".into()),
            rows: None,
            rows_at_least: false,
            name: None,
            names_from: Some(NamesFrom::Wal),
            on_newest: true,
        }
    }

    fn lines() -> Vec<Line> {
        let mass = FoundEvent {
            rows: Some(12_000),
            rows_at_least: true,
            ..event(FindOperation::MassDelete, 0x16_0000_0100)
        };
        let point = FoundEvent {
            xid: None,
            database: None,
            schema: None,
            table: None,
            names_from: None,
            name: Some("before_migration".into()),
            on_newest: false,
            ..event(FindOperation::RestorePoint, 0x16_0000_0400)
        };
        let unnamed = FoundEvent {
            database: Some("database 5".into()),
            schema: None,
            table: Some("relation 16412".into()),
            names_from: None,
            ..event(FindOperation::Truncate, 0x16_0000_0500)
        };
        [event(FindOperation::Drop, 0x16_0000_0040), mass, point, unnamed]
            .map(|event| Line { plan: Words::default().plan(&before(&event)), event })
            .into()
    }

    #[test]
    fn each_event_has_a_line_and_a_plan() {
        let mut text = Text::new(Paint::Plain, TimeZone::get("Europe/Berlin").unwrap())
            .with_canvas(Canvas { columns: 120, unicode: true });
        render(&mut text, &lines());
        insta::assert_snapshot!(text.finish());
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&lines()[..2]).unwrap());
    }
}
