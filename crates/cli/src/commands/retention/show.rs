//! Retention for people: plans, what was done, the log.

use jiff::SignedDuration;
use walden_core::{
    Fate, GroupChange, GroupKind, Moment, ObjectGroup, PinRecord, PlanDiff, RecordRole, RestorableRange,
    RetentionOutcome, RetentionPlan, RetentionPolicy, WindowChange,
};
use walden_engine::retention::{RetentionLogEntry, RetentionReport};

use crate::text::{Align, Table, Text, count, duration, size};

/// Rows of one kind that are shown at most.
const SHOWN_MAX: usize = 100;

pub(super) fn plan(text: &mut Text, plan: &RetentionPlan, is_ahead: bool) {
    let mut facts = vec![
        ("server", format!("{}, incarnation {}", plan.server, plan.current)),
        (if is_ahead { "planned for" } else { "planned at" }, text.moment(plan.at)),
    ];
    if plan.asked.is_empty() {
        facts.push(("policy", policy(&plan.policy)));
    }
    text.facts(&facts);
    let removals = |group: &&ObjectGroup| group.fate.is_removal();
    if plan.asked.is_empty() {
        groups(text, "Stays", plan.groups.iter().filter(|group| !removals(group)));
    }
    groups(text, "Goes", plan.groups.iter().filter(removals));
    text.gap();
    if plan.is_empty() {
        let nothing = text.paint().green("Nothing goes.");
        text.line(nothing);
    } else {
        let goes = format!(
            "{} with {} go; {} with {} stay.",
            count(plan.removed.objects, "object"),
            size(plan.removed.bytes),
            count(plan.kept.objects, "object"),
            size(plan.kept.bytes)
        );
        let goes = text.paint().bold(&goes);
        text.line(goes);
    }
    windows(text, &plan.windows);
    for warning in &plan.warnings {
        let word = text.paint().yellow("warning:");
        text.line(format!("{word} {}", warning.message));
    }
}

/// What is not left out of a policy because it keeps nothing.
fn policy(policy: &RetentionPolicy) -> String {
    let mut parts = vec![format!("window {}", policy.window), format!("{} full", policy.minimum_fulls)];
    let tiers = [
        ("daily", policy.daily),
        ("weekly", policy.weekly),
        ("monthly", policy.monthly),
        ("yearly", policy.yearly),
    ];
    parts.extend(tiers.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")));
    parts.join(", ")
}

fn groups<'g>(text: &mut Text, heading: &str, groups: impl Iterator<Item = &'g ObjectGroup>) {
    let groups: Vec<&ObjectGroup> = groups.collect();
    if groups.is_empty() {
        return;
    }
    text.heading(heading);
    let mut table = Table::new(&[
        ("WHAT", Align::Left),
        ("OBJECTS", Align::Right),
        ("SIZE", Align::Right),
        ("WHY", Align::Left),
    ]);
    for group in groups.iter().take(SHOWN_MAX) {
        table.row([name(&group.kind), group.objects.to_string(), size(group.bytes), group.message.clone()]);
    }
    text.table(&table);
    let more = groups.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        text.line(format!("and {more} more; --output json has them"));
    }
}

/// A group by its name.
fn name(kind: &GroupKind) -> String {
    match kind {
        GroupKind::Backup { id, incremental, restorable, .. } => {
            let kind = if *incremental { "incremental backup" } else { "backup" };
            let state = if *restorable { "" } else { ", not restorable" };
            format!("{kind} {id}{state}")
        }
        GroupKind::UnfinishedBackup { id } => format!("unfinished backup {id}"),
        GroupKind::Segments { first, last, .. } if first == last => format!("WAL {first}"),
        GroupKind::Segments { first, last, .. } => format!("WAL {first} to {last}"),
        GroupKind::File { name } => name.to_string(),
        GroupKind::Rollup { timeline, log } => format!("rollup of {}/{log:08X}", timeline.hex()),
        GroupKind::BackupRollup => "copy of the commit records".to_owned(),
        GroupKind::History { timeline } => format!("history of timeline {timeline}"),
        GroupKind::Record { role, key } => {
            let what = match role {
                RecordRole::Evidence => "drill",
                RecordRole::Audit => "retention run",
                RecordRole::Verification => "verification",
                RecordRole::Pin => "pin of",
                RecordRole::Lease => "lease",
            };
            let name = key.as_str().rsplit('/').find(|part| part.len() > 13).unwrap_or(key.as_str());
            format!("{what} {}", name.trim_end_matches(".json"))
        }
        GroupKind::Upload { key, .. } => format!("unfinished upload of {key}"),
        GroupKind::Foreign { key } => key.clone(),
    }
}

fn windows(text: &mut Text, windows: &[WindowChange]) {
    let lost: Vec<&WindowChange> = windows.iter().filter(|window| !window.lost.is_empty()).collect();
    if !lost.is_empty() {
        text.heading("Moments that stop being restorable");
        for window in lost {
            for stretch in &window.lost {
                let from = moment(text, &stretch.from);
                let to = moment(text, &stretch.to);
                let from = if stretch.from_stays { format!("after {from}") } else { format!("from {from}") };
                let to = if stretch.to_stays { format!("to before {to}") } else { format!("to {to}") };
                let line = text.paint().red(&format!("timeline {}: {from} {to}", window.timeline));
                text.line(line);
            }
        }
    }
    if windows.is_empty() {
        return;
    }
    text.heading("What can be restored");
    for window in windows {
        if window.before == window.after {
            text.line(format!("timeline {}: {}, as now", window.timeline, ranges(text, &window.after)));
        } else {
            text.line(format!("timeline {} now:    {}", window.timeline, ranges(text, &window.before)));
            text.line(format!("timeline {} after:  {}", window.timeline, ranges(text, &window.after)));
        }
    }
}

fn ranges(text: &Text, ranges: &[RestorableRange]) -> String {
    if ranges.is_empty() {
        return "nothing".to_owned();
    }
    let each =
        ranges.iter().map(|range| format!("{} to {}", moment(text, &range.first), moment(text, &range.last)));
    each.collect::<Vec<_>>().join("; ")
}

fn moment(text: &Text, moment: &Moment) -> String {
    moment.time.map_or_else(|| moment.lsn.to_string(), |time| text.moment(time))
}

pub(super) fn comparison(text: &mut Text, compared: &PlanDiff) {
    text.heading("Beside what the configured policy would do now");
    let before = format!(
        "{} with {}",
        count(compared.removed_before.objects, "object"),
        size(compared.removed_before.bytes)
    );
    let after = format!(
        "{} with {}",
        count(compared.removed_after.objects, "object"),
        size(compared.removed_after.bytes)
    );
    text.facts(&[("configured, now", format!("{before} go")), ("this plan", format!("{after} go"))]);
    if compared.changes.is_empty() {
        text.line("The same goes by both.");
        return;
    }
    let mut table =
        Table::new(&[("WHAT", Align::Left), ("CONFIGURED", Align::Left), ("THIS PLAN", Align::Left)]);
    for change in compared.changes.iter().take(SHOWN_MAX) {
        let GroupChange { kind, before, after, .. } = change;
        table.row([name(kind), fate(before.as_ref()), fate(after.as_ref())]);
    }
    text.table(&table);
    let more = compared.changes.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        text.line(format!("and {more} more; --output json has them"));
    }
}

fn fate(fate: Option<&Fate>) -> String {
    match fate {
        None => "is not there".to_owned(),
        Some(fate) if fate.is_removal() => "goes".to_owned(),
        Some(_) => "stays".to_owned(),
    }
}

pub(super) fn done(text: &mut Text, report: &RetentionReport) {
    text.gap();
    let paint = text.paint();
    let line = match report.outcome {
        RetentionOutcome::Finished if report.plan.is_empty() => paint.green("Nothing had to go."),
        RetentionOutcome::Finished => paint.green("Done."),
        RetentionOutcome::Stopped => paint.yellow("Stopped: run it again to finish."),
        RetentionOutcome::Denied => paint.red("The store refuses us the right to remove."),
    };
    text.line(line);
    let took = SignedDuration::try_from_secs_f64(report.seconds).unwrap_or_default();
    let mut facts =
        vec![("removed", format!("{}, in {}", count(report.removed_objects, "object"), duration(took)))];
    if report.locked_objects > 0 {
        let locked = format!(
            "{}: the store does not let go of them yet (Object Lock, immutability or a hold); a later run will",
            count(report.locked_objects, "object")
        );
        facts.push(("locked", text.paint().yellow(&locked)));
    }
    if report.denied_objects > 0 {
        facts.push(("denied", text.paint().red(&count(report.denied_objects, "object"))));
    }
    if report.aborted_uploads > 0 {
        facts.push(("uploads", format!("{} ended", report.aborted_uploads)));
    }
    if let Some(message) = &report.message {
        facts.push(("because", message.clone()));
    }
    facts.push(("run", format!("{} (walden retention log)", report.run)));
    text.facts(&facts);
}

pub(super) fn log(text: &mut Text, runs: &[RetentionLogEntry]) {
    if runs.is_empty() {
        text.line("there was no retention run yet");
        return;
    }
    let mut table = Table::new(&[
        ("RUN", Align::Left),
        ("BEGAN", Align::Left),
        ("BY", Align::Left),
        ("PLANNED", Align::Right),
        ("REMOVED", Align::Right),
        ("LOCKED", Align::Right),
        ("OUTCOME", Align::Left),
    ]);
    for run in runs {
        let began = run.begun.as_ref().map(|begun| text.moment(begun.writer.at)).unwrap_or_default();
        let by = run.begun.as_ref().map(|begun| begun.writer.host.clone()).unwrap_or_default();
        let planned = run.begun.as_ref().map(|begun| begun.removed.objects.to_string()).unwrap_or_default();
        let removed = run.done.as_ref().map(|done| done.removed_objects.to_string()).unwrap_or_default();
        let locked = run.done.as_ref().map(|done| done.locked_objects.to_string()).unwrap_or_default();
        table.row([run.id.to_string(), began, by, planned, removed, locked, outcome(run)]);
    }
    text.table(&table);
}

fn outcome(run: &RetentionLogEntry) -> String {
    if let Some(unreadable) = &run.unreadable {
        return format!("can't be read: {unreadable}");
    }
    match &run.done {
        None => "no end is written: it runs, or was ended without a word".to_owned(),
        Some(done) => {
            let word = match done.outcome {
                RetentionOutcome::Finished => "finished",
                RetentionOutcome::Stopped => "stopped",
                RetentionOutcome::Denied => "denied",
            };
            match &done.message {
                Some(message) => format!("{word}: {message}"),
                None => word.to_owned(),
            }
        }
    }
}

/// "pinned until …: reason", or "not pinned".
pub(in crate::commands) fn pin(text: &Text, pin: &PinRecord) -> String {
    match (pin.pinned, pin.until) {
        (false, _) => "not pinned".to_owned(),
        (true, None) => format!("pinned: {}", pin.reason),
        (true, Some(until)) => format!("pinned until {}: {}", text.moment(until), pin.reason),
    }
}
