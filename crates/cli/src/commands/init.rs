//! `walden init`.

use walden_engine::{InitReport, InitRequest, init};

use super::hook_command::hook_command;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Text, size};

pub(super) fn run(session: &Session) -> Result<Exit, Failure> {
    let request = InitRequest { data: session.data_directory()? };
    let ctx = session.context()?;
    let report = runtime::run(async { Ok(init(&ctx, &request).await?) })?;
    for warning in &report.warnings {
        session.printer.warning(warning);
    }
    let server = session.effective.config.server.to_string();
    let command = hook_command(&session.effective, "wal push %p")?;
    session
        .printer
        .report(&session.with_cost(&report, &ctx), |text| render(text, &report, &server, &command))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render(text: &mut Text, report: &InitReport, server: &str, command: &str) {
    let made = |now: bool| if now { "made now" } else { "was there" };
    text.facts(&[
        ("repository", format!("{} ({})", report.url, made(report.repository_created))),
        ("server", format!("{server} ({})", made(report.server_created))),
        (
            "incarnation",
            format!(
                "{} ({}), segments of {}",
                report.incarnation,
                made(report.incarnation_created),
                size(report.segment_bytes)
            ),
        ),
    ]);
    if !report.histories.is_empty() {
        text.facts(&[("archived now", report.histories.join(", "))]);
    }
    text.heading("To archive from this server, in postgresql.conf");
    text.line("archive_mode = on");
    text.line(format!("archive_command = '{}'", command.replace('\\', r"\\").replace('\'', "''")));
    text.gap();
    text.line(
        "archive_mode needs a restart, archive_command a reload. Then: walden check, walden backup create",
    );
}
