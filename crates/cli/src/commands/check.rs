//! `walden check`.

use walden_engine::backup::{ConnectionOptions, archiver_facts};
use walden_engine::find_incarnation;
use walden_engine::retention::retention_checks;
use walden_engine::{ArchiverFacts, Check, CheckReport, CheckStatus, check};

use crate::args::CheckArgs;
use crate::env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::Text;

pub(super) fn run(session: &Session, arguments: &CheckArgs) -> Result<Exit, Failure> {
    let data = session.data_directory_if_named()?;
    let ctx = session.context()?;
    let dbname = arguments.connection.dbname()?;
    let asked = asks_the_server(session, dbname);
    let drill_max_age = session.effective.config.drill.max_age.0;
    let report = runtime::run(async {
        let (facts, unanswered) = ask(dbname, asked).await;
        let mut report = check(&ctx, data.as_ref(), facts.as_ref(), drill_max_age).await?;
        report.checks.extend(unanswered);
        let policy = session.effective.config.retention.as_ref();
        let record = find_incarnation(&ctx, data.as_ref()).await?;
        report.checks.extend(retention_checks(&ctx, &record, policy).await?);
        Ok(report)
    })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render(text, &report))?;
    session.note_cost(&ctx);
    Ok(if report.ok { Exit::Done } else { Exit::ProblemsFound })
}

/// Whether somebody said where the server is. It is asked in any case, at the usual socket; but then no answer is
/// less of a surprise.
fn asks_the_server(session: &Session, dbname: Option<&str>) -> bool {
    let named = |name: &&str| session.environment.get(name).is_some();
    dbname.is_some() || env::CONNECTION.iter().any(named)
}

/// What the server says about its archiver, or a finding that it does not answer: it may well be down.
async fn ask(dbname: Option<&str>, named: bool) -> (Option<ArchiverFacts>, Option<Check>) {
    let facts = match ConnectionOptions::resolve(dbname) {
        Ok(connection) => archiver_facts(connection).await,
        Err(error) => Err(error),
    };
    match facts {
        Ok(facts) => (Some(facts), None),
        Err(error) => {
            let failure = Failure::from(error);
            let check = Check {
                name: "connection",
                status: CheckStatus::Warning,
                detail: format!("the server was not asked about its archiver: {}", failure.sentence()),
                hint: if named {
                    failure.hint
                } else {
                    Some("say where it is with --dbname, or PGHOST and PGPORT".to_owned())
                },
            };
            (None, Some(check))
        }
    }
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
