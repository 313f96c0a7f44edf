//! `walden server show`, `walden server adopt`.

use walden_engine::{AdoptReport, adopt as adopt_data_directory, server_report};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text};

pub(super) fn show(session: &Session) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let report = runtime::run(async { Ok(server_report(&ctx).await?) })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| {
        let server = &report.server;
        text.facts(&[
            ("repository", format!("{} (format {})", report.url, report.repository.format)),
            ("repository id", report.repository.repository_id.clone()),
            ("made", {
                let by = &report.repository.created_by;
                format!("{} by walden {} on {}", text.moment(by.at), by.version, by.host)
            }),
            ("server", format!("{} (revision {})", server.server, server.revision)),
        ]);
        text.heading("Incarnations");
        let mut table = Table::new(&[
            ("INCARNATION", Align::Left),
            ("CURRENT", Align::Left),
            ("ADDED", Align::Left),
            ("HOST", Align::Left),
            ("DATA DIRECTORY", Align::Left),
        ]);
        for entry in &server.incarnations {
            let current = if entry.incarnation == server.current { "yes" } else { "" };
            let by = &entry.added_by;
            table.row([
                entry.incarnation.to_string(),
                current.to_owned(),
                text.moment(by.at),
                by.host.clone(),
                by.instance.clone(),
            ]);
        }
        text.table(&table);
        if !server.adoptions.is_empty() {
            text.heading("Adoptions");
            for adoption in &server.adoptions {
                text.line(format!(
                    "{}  {}  {}:{}  {}",
                    text.moment(adoption.writer.at),
                    adoption.incarnation,
                    adoption.writer.host,
                    adoption.writer.instance,
                    adoption.reason
                ));
            }
        }
    })?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

pub(super) fn adopt(session: &Session) -> Result<Exit, Failure> {
    let data = session.data_directory()?;
    let ctx = session.context()?;
    let report = runtime::run(async { Ok(adopt_data_directory(&ctx, &data).await?) })?;
    let server = session.effective.config.server.to_string();
    session
        .printer
        .report(&session.with_cost(&report, &ctx), |text| render_adoption(text, &report, &server))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render_adoption(text: &mut Text, report: &AdoptReport, server: &str) {
    if report.reasons.is_empty() {
        text.line(format!("{} may archive as {server} already: nothing was changed", report.incarnation));
        return;
    }
    text.line(format!("{} may archive as {server} now, although:", report.incarnation));
    text.bullets(&report.reasons);
}
