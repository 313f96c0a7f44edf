//! `walden catalog show`, `walden catalog rebuild`.

use walden_core::Stray;
use walden_engine::{
    Amount, CatalogRebuildReport, CatalogReport, DifferenceKind, IncarnationContents, ServerContents,
    catalog_rebuild, catalog_report,
};

use crate::args::{CatalogShowArgs, CatalogVerb, IncarnationArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Text, count, size};

/// Foreign objects that are shown of each place at most.
const FOREIGN_SHOWN_MAX: usize = 20;
/// Differences that are shown at most.
const DIFFERENCES_SHOWN_MAX: usize = 20;

pub(super) fn run(session: &Session, verb: &CatalogVerb) -> Result<Exit, Failure> {
    match verb {
        CatalogVerb::Show(arguments) => show(session, arguments),
        CatalogVerb::Rebuild(which) => rebuild(session, which),
    }
}

fn show(session: &Session, arguments: &CatalogShowArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let report = runtime::run(async { Ok(catalog_report(&ctx, arguments.all_servers).await?) })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render(text, &report))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render(text: &mut Text, report: &CatalogReport) {
    text.facts(&[("repository", report.url.clone())]);
    for server in &report.servers {
        render_server(text, server);
    }
    render_foreign(text, &report.foreign);
}

fn render_server(text: &mut Text, server: &ServerContents) {
    text.heading(&format!("Server {}", server.server));
    let mut facts = vec![("revisions", amount(server.revisions))];
    if server.leases.count > 0 {
        facts.push(("leases", amount(server.leases)));
    }
    text.facts(&facts);
    for incarnation in &server.incarnations {
        render_incarnation(text, incarnation);
    }
    render_foreign(text, &server.foreign);
}

fn render_incarnation(text: &mut Text, of: &IncarnationContents) {
    let current = if of.current { ", archived now" } else { "" };
    text.heading(&format!("Incarnation {}{current}", of.incarnation));
    let mut segments = amount(of.segments);
    if of.segments_by_rollup > 0 {
        segments = format!("{segments}, of which {} by the word of rollups", of.segments_by_rollup);
    }
    let mut backups = amount(of.backups);
    if of.unfinished_backups > 0 {
        backups = format!("{backups}, and {} unfinished", of.unfinished_backups);
    }
    let timelines: Vec<String> = of.timelines.iter().map(ToString::to_string).collect();
    let mut facts = vec![
        ("timelines", if timelines.is_empty() { "none".to_owned() } else { timelines.join(", ") }),
        ("segments", segments),
        ("backups", backups),
    ];
    let rest = [
        ("history files", of.histories),
        ("pins", of.pins),
        ("drills", of.drills),
        ("verifications", of.verifications),
        ("retention runs", of.retention_runs),
    ];
    facts.extend(rest.into_iter().filter(|(_, of)| of.count > 0).map(|(name, of)| (name, amount(of))));
    facts.extend(of.first_commit.map(|at| ("first commit", text.moment(at))));
    facts.extend(of.last_commit.map(|at| ("last commit", text.moment(at))));
    text.facts(&facts);
    render_foreign(text, &of.foreign);
}

fn amount(of: Amount) -> String {
    match of.count {
        0 => "none".to_owned(),
        many => format!("{many}, {}", size(of.bytes)),
    }
}

fn render_foreign(text: &mut Text, foreign: &[Stray]) {
    if foreign.is_empty() {
        return;
    }
    text.gap();
    let heading = format!("{} foreign or damaged, left alone:", count(foreign.len() as u64, "object"));
    let heading = text.paint().yellow(&heading);
    text.line(heading);
    let mut lines: Vec<String> = foreign
        .iter()
        .take(FOREIGN_SHOWN_MAX)
        .map(|stray| format!("{:?}: {}", stray.key, stray.reason))
        .collect();
    if foreign.len() > FOREIGN_SHOWN_MAX {
        lines.push(format!("and {} more: --output json has all", foreign.len() - FOREIGN_SHOWN_MAX));
    }
    text.bullets(&lines);
}

fn rebuild(session: &Session, which: &IncarnationArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let report = runtime::run(async {
        let record = session.incarnation_of_server(&ctx, which.incarnation).await?;
        Ok(catalog_rebuild(&ctx, &record).await?)
    })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render_rebuild(text, &report))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render_rebuild(text: &mut Text, report: &CatalogRebuildReport) {
    let derived = &report.derived;
    let differences = derived.differences.len();
    let answer = match differences {
        0 => "Everything derived says what the objects say.".to_owned(),
        some => format!("{} made anew.", count(some as u64, "derived object")),
    };
    let answer = text.paint().bold(&answer);
    text.line(answer);
    let words = |what| match what {
        DifferenceKind::Missing => "was missing",
        DifferenceKind::Unusable => "could not be used",
        DifferenceKind::Different => "said something else",
    };
    let lines = derived.differences.iter().take(DIFFERENCES_SHOWN_MAX);
    let mut lines: Vec<String> =
        lines.map(|difference| format!("{} {}", difference.key, words(difference.what))).collect();
    if differences > DIFFERENCES_SHOWN_MAX {
        lines.push(format!("and {} more", differences - DIFFERENCES_SHOWN_MAX));
    }
    text.bullets(&lines);
    text.gap();
    let mut facts = vec![
        ("server", format!("{}, incarnation {}", derived.server, derived.incarnation)),
        ("rollups", format!("{} written, {} as they were", derived.written, derived.same)),
        (
            "LOG directories",
            format!("{}, of which {} not complete yet", derived.directories, derived.unfinished),
        ),
    ];
    facts.extend(derived.backups.map(|backups| ("backup records", backups.to_string())));
    if report.forgotten > 0 {
        facts.push(("local cache", format!("{} forgotten", count(report.forgotten, "file"))));
    }
    text.facts(&facts);
}
