//! Drills as text and as JSON.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use walden_core::{BackupId, DrillCheck, DrillOutcome, DrillRecord, DrillTarget, Incarnation, ServerName};
use walden_engine::drill::{DrillReport, UnreadableEvidence, list_evidence, read_evidence};

use super::drill_id;
use crate::args::{DrillListArgs, DrillShowArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, duration, size};

/// Width of the bars of phases, in characters.
const BAR_WIDTH: u32 = 30;

/// `walden drill list --output json`.
#[derive(Debug, Serialize)]
struct ListDocument<'a> {
    schema: u32,
    server: &'a ServerName,
    incarnation: Incarnation,
    /// How many there are in all.
    count: usize,
    drills: Vec<Summary<'a>>,
    unreadable: &'a [UnreadableEvidence],
}

/// One drill of the list.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    id: &'a BackupId,
    ok: bool,
    outcome: DrillOutcome,
    target: &'a DrillTarget,
    started_at: Timestamp,
    finished_at: Timestamp,
    backup: Option<&'a BackupId>,
    rto_seconds: Option<f64>,
    rpo_seconds: Option<f64>,
    checks: usize,
    failed_checks: Vec<&'a str>,
    error: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn of(record: &'a DrillRecord) -> Self {
        Self {
            id: &record.id,
            ok: record.ok,
            outcome: record.outcome,
            target: &record.target,
            started_at: record.started_at,
            finished_at: record.finished_at,
            backup: record.backup.as_ref().map(|backup| &backup.id),
            rto_seconds: record.rto_seconds,
            rpo_seconds: record.rpo_seconds,
            checks: record.checks.len(),
            failed_checks: record.failed_checks().map(|check| check.name.as_str()).collect(),
            error: record.error.as_ref().map(|error| error.message.as_str()),
        }
    }
}

/// `walden drill show --output json`.
#[derive(Debug, Serialize)]
struct ShowDocument<'a> {
    schema: u32,
    #[serde(flatten)]
    record: &'a DrillRecord,
}

pub(super) fn list(session: &Session, asked: &DrillListArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let (incarnation, found) = runtime::run(async {
        let incarnation = session.incarnation(&ctx, asked.which.incarnation.incarnation).await?;
        let found = list_evidence(&ctx, &incarnation, asked.last).await?;
        Ok((incarnation, found))
    })?;
    let document = ListDocument {
        schema: 1,
        server: &incarnation.server,
        incarnation: incarnation.incarnation(),
        count: found.count,
        drills: found.drills.iter().map(Summary::of).collect(),
        unreadable: &found.unreadable,
    };
    for unreadable in &found.unreadable {
        session.printer.warning(&format!("drill {} can't be read: {}", unreadable.id, unreadable.reason));
    }
    session.printer.report(&document, |text| render_list(text, &found.drills, found.count))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render_list(text: &mut Text, drills: &[DrillRecord], count: usize) {
    if drills.is_empty() {
        text.line(if count == 0 {
            "there was no drill yet: walden drill"
        } else {
            "none of them can be read"
        });
        return;
    }
    let columns = [
        ("ID", Align::Left),
        ("RESULT", Align::Left),
        ("TARGET", Align::Left),
        ("RTO", Align::Right),
        ("RPO", Align::Right),
        ("CHECKS", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for drill in drills {
        let good = drill.checks.iter().filter(|check| check.ok && !check.skipped).count();
        table.row([
            drill.id.to_string(),
            drill.outcome.describe().to_owned(),
            drill.target.describe(),
            seconds_or_dash(drill.rto_seconds),
            seconds_or_dash(drill.rpo_seconds),
            if drill.checks.is_empty() { "-".to_owned() } else { format!("{good}/{}", drill.checks.len()) },
        ]);
    }
    text.table(&table);
    if count > drills.len() {
        text.line(format!("the newest {} of {count}; more with --last", drills.len()));
    }
}

pub(super) fn show(session: &Session, asked: &DrillShowArgs) -> Result<Exit, Failure> {
    let id = drill_id(&asked.id)?;
    let ctx = session.context()?;
    let record = runtime::run(async {
        let incarnation = session.incarnation(&ctx, asked.which.incarnation.incarnation).await?;
        Ok(read_evidence(&ctx, &incarnation, id.as_ref()).await?)
    })?;
    let document = ShowDocument { schema: 1, record: &record };
    session.printer.report(&document, |text| {
        render(text, &record);
        render_origin(text, &record);
    })?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

/// Seconds as a person reads them.
pub(super) fn in_seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.2} s");
    }
    duration(SignedDuration::try_from_secs_f64(seconds.round()).unwrap_or(SignedDuration::MAX))
}

pub(super) fn seconds_or_dash(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), in_seconds)
}

/// The facts of a drill: what people ask first stands first. The same in text, Markdown and HTML.
pub(super) fn facts(
    record: &DrillRecord,
    moment: impl Fn(Timestamp) -> String,
) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("drill", record.id.to_string()),
        ("server", format!("{}, incarnation {}", record.server, record.incarnation)),
        ("target", record.target.describe()),
    ];
    if let Some(draw) = &record.draw {
        let window = format!("{} to {}", moment(draw.from), moment(draw.to));
        facts.push(("drawn", format!("seed {} out of {window}", draw.seed)));
    }
    if let Some(backup) = &record.backup {
        let bytes = size(backup.bytes);
        facts.push(("backup", format!("{}, ended {}, {bytes}", backup.id, moment(backup.finished_at))));
    }
    if let Some(stop) = &record.stop {
        facts.push(("planned stop", format!("{} on timeline {}", stop.expected_lsn, stop.expected_timeline)));
        if let Some(message) = &stop.message {
            facts.push(("real stop", message.clone()));
        }
        if let Some(last) = &stop.expected_last {
            facts.push(("last commit", format!("transaction {}, {}", last.xid, moment(last.at))));
        }
    }
    facts.push((
        "RTO",
        match record.rto_seconds {
            Some(seconds) => format!("{} from the start to connections at the target", in_seconds(seconds)),
            None => "not reached".to_owned(),
        },
    ));
    if let Some(seconds) = record.rpo_seconds {
        facts.push((
            "RPO",
            format!("{} between the last transaction and the moment wanted", in_seconds(seconds)),
        ));
    }
    if let Some(segments) = record.segments {
        facts.push(("WAL", count(segments, "segment")));
    }
    facts
}

pub(super) fn check_word(check: &DrillCheck) -> &'static str {
    match (check.ok, check.skipped) {
        (false, _) => "failed",
        (true, true) => "skipped",
        (true, false) => "ok",
    }
}

/// A drill for people.
pub(super) fn render(text: &mut Text, record: &DrillRecord) {
    let paint = text.paint();
    let verdict = record.describe();
    text.line(if record.ok { paint.green(&verdict) } else { paint.red(&verdict) });
    if let Some(hint) = record.error.as_ref().and_then(|error| error.hint.as_ref()) {
        text.line(paint.dim(&format!("-> {hint}")));
    }
    text.gap();
    let facts = facts(record, |moment| text.moment(moment));
    text.facts(&facts);
    render_phases(text, record);
    if !record.checks.is_empty() {
        text.heading("Checks");
        let width = record.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        for check in &record.checks {
            let word = format!("{:<7}", check_word(check));
            let word = match (check.ok, check.skipped) {
                (false, _) => paint.red(&word),
                (true, true) => paint.yellow(&word),
                (true, false) => paint.green(&word),
            };
            text.line(format!("{word}  {:<width$}  {}", check.name, check.detail));
        }
    }
    if !record.log.is_empty() {
        text.heading("The server's last lines");
        for line in &record.log {
            text.line(line);
        }
    }
    if let Some(path) = &record.log_path {
        text.gap();
        text.line(format!("the whole log: {path} on {}", record.writer.host));
    }
}

fn render_phases(text: &mut Text, record: &DrillRecord) {
    if record.phases.is_empty() {
        return;
    }
    text.heading("Phases");
    let longest = record.phases.iter().map(|phase| phase.seconds).fold(0.0, f64::max);
    let mark = if text.canvas().unicode { "█" } else { "#" };
    for phase in &record.phases {
        let share = if longest > 0.0 { phase.seconds / longest } else { 0.0 };
        let width = (0..BAR_WIDTH).take_while(|step| f64::from(*step) < share * f64::from(BAR_WIDTH)).count();
        text.line(format!("{:<8} {:>10}  {}", phase.name, in_seconds(phase.seconds), mark.repeat(width)));
    }
}

fn render_origin(text: &mut Text, record: &DrillRecord) {
    text.heading("Made by");
    let mut facts = vec![
        ("writer", format!("{}:{}", record.writer.host, record.writer.instance)),
        ("walden", record.versions.walden.clone()),
    ];
    if let Some(version) = &record.versions.postgres {
        facts.push(("PostgreSQL here", version.clone()));
    }
    if let Some(version) = &record.versions.source {
        facts.push(("PostgreSQL of the source", version.clone()));
    }
    if let Some(sha256) = record.backup.as_ref().and_then(|backup| backup.record_sha256.as_ref()) {
        facts.push(("SHA-256 of backup.json", sha256.clone()));
    }
    if let Some(sha256) = record.backup.as_ref().and_then(|backup| backup.manifest_sha256.as_ref()) {
        facts.push(("SHA-256 of the manifest", sha256.clone()));
    }
    text.facts(&facts);
    if !record.warnings.is_empty() {
        text.heading("Warnings");
        text.bullets(&record.warnings);
    }
}

/// What became of the evidence.
pub(super) fn render_evidence(text: &mut Text, report: &DrillReport) {
    text.gap();
    let paint = text.paint();
    match (&report.evidence, &report.evidence_error) {
        (_, Some(error)) => text.line(paint.red(&format!("the evidence was NOT stored: {}", error.message))),
        (Some(key), None) => text.line(format!("evidence: {key}")),
        (None, None) => text.line("no evidence was stored, as asked for"),
    }
}
