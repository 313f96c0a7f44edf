//! `walden verify`.

use walden_core::{Consequences, Finding, FindingVerdict, LostMoments, Moment};
use walden_engine::verify::{StopReason, Verdict, VerifyReport, verify};

use crate::args::VerifyArgs;
use crate::config::MaxRate;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Text, count, size};

/// Findings, backups and stretches that are shown at most.
const SHOWN_MAX: usize = 50;

pub(super) fn run(session: &Session, arguments: &VerifyArgs) -> Result<Exit, Failure> {
    let jobs = session.effective.config.jobs.get();
    let options = arguments.options(session.now(), jobs)?;
    let max_rate = arguments.max_rate.map(MaxRate::bytes_per_second);
    let timeout = session.effective.config.store.operation_timeout();
    let ctx = session.context_at_rate(timeout, max_rate)?;
    let report = runtime::run_until_signal(|stop| async {
        let record = session.incarnation(&ctx, arguments.which.incarnation.incarnation).await?;
        Ok(verify(&ctx, &record, &options, stop).await?)
    })?;
    session.printer.report(&session.with_cost(&report, &ctx), |text| render(text, &report))?;
    session.note_cost(&ctx);
    Ok(match (report.verdict, report.stopped) {
        (Verdict::Damaged, _) => Exit::DamageFound,
        (_, Some(StopReason::Interrupted)) => Exit::Interrupted,
        (Verdict::NotProven, _) => Exit::NotProven,
        (Verdict::Good, _) => Exit::Done,
    })
}

fn render(text: &mut Text, report: &VerifyReport) {
    render_answer(text, report);
    render_findings(text, report);
    if let Some(consequences) = &report.consequences {
        render_consequences(text, consequences);
    }
    if let Some(reason) = &report.consequences_unknown {
        text.gap();
        let line =
            text.paint().yellow(&format!("What can't be restored because of it could not be told: {reason}"));
        text.line(line);
    }
    text.gap();
    render_facts(text, report);
}

fn render_answer(text: &mut Text, report: &VerifyReport) {
    let paint = text.paint();
    let counts = &report.counts;
    let line = match report.verdict {
        Verdict::Damaged => {
            let what = match (counts.damaged, counts.missing) {
                (0, missing) => format!("{} missing", count(missing, "thing")),
                (damaged, 0) => format!("{} of damage", count(damaged, "finding")),
                (damaged, missing) => {
                    format!("{} of damage, {} missing", count(damaged, "finding"), count(missing, "thing"))
                }
            };
            paint.red(&format!("The archive is not good: {what}."))
        }
        Verdict::NotProven => {
            paint.yellow("Nothing wrong was found, but not everything that was asked for could be read.")
        }
        Verdict::Good if report.presence.segments + report.presence.backups == 0 => {
            paint.yellow("Nothing is archived here yet: there was nothing to verify.")
        }
        Verdict::Good if report.complete => paint.green("All is good at this level."),
        Verdict::Good => paint.green("What was looked at is good."),
    };
    text.line(line);
    match report.stopped {
        Some(StopReason::Interrupted) => text.line("The run was interrupted; what it proved is remembered."),
        Some(StopReason::MaxTime) => text.line("The time allowed was over before all was read."),
        None => {}
    }
}

fn render_findings(text: &mut Text, report: &VerifyReport) {
    let paint = text.paint();
    if !report.findings.is_empty() {
        text.gap();
    }
    for finding in report.findings.iter().take(SHOWN_MAX) {
        let verdict = match finding.verdict {
            FindingVerdict::Damaged => paint.red("damaged   "),
            FindingVerdict::Missing => paint.red("missing   "),
            FindingVerdict::NotProven => paint.yellow("not proven"),
            FindingVerdict::Notice => paint.dim("notice    "),
        };
        text.line(format!("{verdict}  {}", finding.key));
        text.line(format!("            {}{}", place_of(finding), finding.message));
    }
    let counts = &report.counts;
    let all = counts.damaged + counts.missing + counts.not_proven + counts.notices;
    let more = all.saturating_sub(report.findings.len().min(SHOWN_MAX) as u64);
    if more > 0 {
        text.line(format!("and {} more; --output json has up to 10,000 of them", count(more, "finding")));
    }
}

/// The file and the blocks that a finding is about.
fn place_of(finding: &Finding) -> String {
    let Some(file) = &finding.file else { return String::new() };
    let blocks: Vec<String> = finding.blocks.iter().take(10).map(ToString::to_string).collect();
    match (blocks.len(), finding.blocks.len()) {
        (0, _) => format!("{file}: "),
        (1, _) => format!("{file}, block {}: ", blocks.concat()),
        (shown, all) if shown < all => format!("{file}, blocks {} and more: ", blocks.join(", ")),
        _ => format!("{file}, blocks {}: ", blocks.join(", ")),
    }
}

fn render_consequences(text: &mut Text, consequences: &Consequences) {
    text.heading("What can't be restored because of it");
    if !consequences.is_loss() {
        text.line("Nothing: every moment can still be reached, with one backup or another.");
    }
    for id in consequences.backups_lost.iter().take(SHOWN_MAX) {
        let line = text.paint().red(&format!("backup {id} can't be restored"));
        text.line(line);
    }
    for change in &consequences.windows {
        for lost in change.lost.iter().take(SHOWN_MAX) {
            let line = text.paint().red(&format!(
                "timeline {}: the moments {}",
                change.timeline,
                stretch(text, lost)
            ));
            text.line(line);
        }
    }
    text.gap();
    let mut facts = Vec::new();
    if let Some(newest) = consequences.newest_before {
        facts.push(("newest without it", describe(text, &newest)));
    }
    facts.push((
        "newest now",
        consequences
            .newest_after
            .map_or_else(|| "nothing can be restored".to_owned(), |newest| describe(text, &newest)),
    ));
    if let Some(id) = &consequences.served_by {
        facts.push(("restored from", format!("backup {id}")));
    }
    text.facts(&facts);
}

fn stretch(text: &Text, lost: &LostMoments) -> String {
    let from = if lost.from_stays { "after" } else { "from" };
    let to = if lost.to_stays { "before" } else { "up to" };
    format!("{from} {} {to} {}", describe(text, &lost.from), describe(text, &lost.to))
}

/// A moment by its time and its position.
fn describe(text: &Text, moment: &Moment) -> String {
    match moment.time {
        Some(time) => format!("{} (LSN {})", text.moment(time), moment.lsn),
        None => format!("LSN {}", moment.lsn),
    }
}

fn render_facts(text: &mut Text, report: &VerifyReport) {
    let listed = &report.presence;
    let mut facts = vec![
        ("server", format!("{}, incarnation {}", report.server, report.incarnation)),
        ("level", report.level.to_string()),
        ("scope", report.scope.clone()),
        (
            "listed",
            format!(
                "{}, {}: {}, {}",
                count(listed.objects, "object"),
                size(listed.bytes),
                count(listed.segments, "segment"),
                count(listed.backups, "backup")
            ),
        ),
    ];
    if let Some(seed) = report.seed {
        facts.push(("seed", seed.to_string()));
    }
    let tally =
        |tally: &walden_core::Tally| format!("{}, {}", count(tally.objects, "object"), size(tally.bytes));
    let plan = &report.plan;
    if plan.in_scope.objects > 0 {
        facts.push(("proven", tally(&report.proven)));
    }
    for (name, left) in [
        ("proven before", &plan.fresh),
        ("not drawn", &plan.unsampled),
        ("beyond --max-bytes", &plan.over_budget),
        ("not reached", &report.not_reached),
        ("not good", &report.failed),
    ] {
        if left.objects > 0 {
            facts.push((name, tally(left)));
        }
    }
    if report.removed_meanwhile > 0 {
        facts.push(("removed meanwhile", count(report.removed_meanwhile, "object")));
    }
    if report.bytes_read > 0 {
        facts.push(("read", format!("{}, {}/s", size(report.bytes_read), size(report.bytes_per_second))));
    }
    if let Some(note) = &report.memory.note {
        facts.push(("memory", note.clone()));
    }
    if let Some(record) = &report.record {
        facts.push(("record", record.clone()));
    }
    text.facts(&facts);
}
