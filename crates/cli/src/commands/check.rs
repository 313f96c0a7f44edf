//! `walden check`.

use walden_engine::{CheckReport, CheckStatus, check};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::Text;

pub(super) fn run(session: &Session) -> Result<Exit, Failure> {
    let data = session.data_directory_if_named()?;
    let ctx = session.context()?;
    let report = runtime::run(async { Ok(check(&ctx, data.as_ref(), None).await?) })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render(text, &report))?;
    session.note_cost(&ctx);
    Ok(if report.ok { Exit::Done } else { Exit::ProblemsFound })
}

fn render(text: &mut Text, report: &CheckReport) {
    text.facts(&[("server", report.server.clone()), ("repository", report.url.clone())]);
    text.gap();
    let width = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let paint = text.paint();
    for check in &report.checks {
        let status = match check.status {
            CheckStatus::Ok => paint.green("ok     "),
            CheckStatus::Warning => paint.yellow("warning"),
            CheckStatus::Failure => paint.red("failed "),
        };
        text.line(format!("{status}  {:<width$}  {}", check.name, check.detail));
        if let Some(hint) = &check.hint {
            text.line(format!("{:9}{:width$}  {}", "", "", paint.dim(&format!("-> {hint}"))));
        }
    }
    text.gap();
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let (failed, warned) = (count(CheckStatus::Failure), count(CheckStatus::Warning));
    text.line(match (failed, warned) {
        (0, 0) => paint.green("all is well"),
        (0, warned) => paint.yellow(&format!("works, with {}", crate::text::count(warned as u64, "warning"))),
        (failed, _) => paint.red(&format!("{} failed", crate::text::count(failed as u64, "check"))),
    });
}
