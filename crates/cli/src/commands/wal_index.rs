//! `walden wal index rebuild`.

use walden_engine::{RebuildReport, RebuildRequest, index_rebuild};

use crate::args::WalIndexRebuildArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Text, count};

pub(super) fn rebuild(session: &Session, arguments: &WalIndexRebuildArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let request = RebuildRequest { timeline: arguments.timeline, all: arguments.all };
    let report = runtime::run(async {
        let record = session.incarnation(&ctx, arguments.which.incarnation.incarnation).await?;
        Ok(index_rebuild(&ctx, &record, request).await?)
    })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render(text, &report))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render(text: &mut Text, report: &RebuildReport) {
    let directories = match report.directories {
        1 => "1 LOG directory".to_owned(),
        many => format!("{many} LOG directories"),
    };
    let mut facts = vec![
        ("server", format!("{}, incarnation {}", report.server, report.incarnation)),
        ("found", format!("{directories}, of which {} not complete yet", report.unfinished)),
        ("written", format!("{}, of {}", count(report.written, "rollup"), count(report.segments, "segment"))),
    ];
    if report.scanned > 0 {
        facts.push(("without an index", format!("{}, read whole", count(report.scanned, "segment"))));
    }
    if report.damaged > 0 {
        facts.push(("damaged", count(report.damaged, "segment")));
    }
    if let Some(backups) = report.backups {
        facts.push(("backup records", backups.to_string()));
    }
    text.facts(&facts);
}
