//! A plan in words: the answer first, then a drawing, then the facts.

use walden_core::{CatalogSnapshot, RecoveryPlan, RecoveryTarget, RejectedBackup, Stop, StopKind};

use super::words::Words;
use crate::draw::Drawing;
use crate::text::{Align, Table, Text, conf_line, count, seconds, size};

/// Rows of a table that are shown at most.
const ROWS_MAX: usize = 10;

/// The whole plan.
pub(super) fn render(text: &mut Text, plan: &RecoveryPlan, snapshot: &CatalogSnapshot, words: &Words) {
    render_answer(text, plan);
    text.gap();
    Drawing::of(snapshot).with_plan(plan).draw(text);
    text.gap();
    render_facts(text, plan);
    render_left_out(text, plan);
    if !plan.warnings.is_empty() {
        text.heading("Warnings");
        text.bullets(&plan.warnings);
    }
    render_rejected(text, "Backups not taken", &plan.rejected);
    text.heading("Settings that restore writes");
    for setting in plan.settings.iter().filter(|setting| !setting.value.is_empty()) {
        text.line(conf_line(&setting.name, &setting.value));
    }
    text.heading("Next");
    text.line(format!("  {}", words.restore(&plan.request)));
}

/// What one will have, in a few lines.
pub(crate) fn render_answer(text: &mut Text, plan: &RecoveryPlan) {
    let stop = &plan.stop;
    let have = match stop.last_kept {
        Some(commit) => format!(
            "You will have every commit up to that of transaction {} in the order of the WAL, {}.",
            commit.xid,
            text.exact_moment(commit.time)
        ),
        None => format!(
            "You will have what backup {} holds, of {}: no transaction commits between its start and the stop.",
            plan.backup.id,
            text.moment(plan.backup.finished_at)
        ),
    };
    let have = text.paint().bold(&have);
    text.line(have);
    text.line(match stop.first_left_out {
        Some(commit) => format!(
            "Left out {} after it; the first is transaction {}, committed {}.",
            match (stop.commits_left_out, stop.commits_left_out_exact) {
                (1, true) => "is 1 commit".to_owned(),
                (commits, true) => format!("are {commits} commits"),
                (commits, false) => format!("are at least {commits} commits"),
            },
            commit.xid,
            text.exact_moment(commit.time)
        ),
        None if !stop.commits_left_out_exact => {
            "Where the WAL breaks off behind the stop, what follows was not counted.".to_owned()
        }
        None => "No commit that is archived on the way is left out.".to_owned(),
    });
    if plan.left_out_by_order_count > 0 {
        let at_least = if plan.left_out_by_order_exact { "" } else { "at least " };
        let line = format!(
            "Of these {at_least}{} a time at or before the target: see below.",
            if plan.left_out_by_order_count == 1 {
                "1 commit has".to_owned()
            } else {
                format!("{} commits have", plan.left_out_by_order_count)
            }
        );
        let line = text.paint().yellow(&line);
        text.line(line);
    }
    text.line(format!(
        "It takes about {}: {} to fetch, {} of WAL to replay.",
        seconds(plan.estimate.seconds),
        size(plan.bytes),
        size(plan.estimate.wal_bytes)
    ));
}

fn render_facts(text: &mut Text, plan: &RecoveryPlan) {
    let backup = &plan.backup;
    let estimate = &plan.estimate;
    let mut facts = vec![
        ("target", target_in_words(text, &plan.request.target, plan.request.exclusive)),
        ("server", format!("{}, incarnation {}", plan.server, plan.incarnation)),
        ("backup", format!("{}, finished {}", backup.id, text.moment(backup.finished_at))),
        ("", format!("{}, {} stored", size(backup.bytes), size(backup.stored_bytes))),
        ("", backup.reason.clone()),
        ("timelines", timelines(plan)),
    ];
    let segments = &plan.segments;
    facts.push((
        "segments",
        match (segments.first, segments.last) {
            (Some(first), Some(last)) => {
                format!("{}, {first} to {last}, {} stored, all there", segments.count, size(segments.bytes))
            }
            _ => "none".to_owned(),
        },
    ));
    facts.extend([
        ("to fetch", format!("{} in about {}", size(plan.bytes), count(plan.requests, "request"))),
        (
            "time",
            format!(
                "about {}: {} to restore, {} to replay",
                seconds(estimate.seconds),
                seconds(estimate.restore_seconds),
                seconds(estimate.replay_seconds)
            ),
        ),
        ("", estimate.basis.clone()),
        ("stops", stop_in_words(&plan.stop)),
        ("", format!("replayed to {} on timeline {}", plan.stop.replayed_to, plan.stop.timeline)),
        ("then", plan.request.action.as_str().to_owned()),
        ("needs", required(plan)),
    ]);
    text.facts(&facts);
}

/// What was asked for.
pub(crate) fn target_in_words(text: &Text, target: &RecoveryTarget, exclusive: bool) -> String {
    let target = match target {
        RecoveryTarget::Time(time) => text.exact_moment(*time),
        other => other.describe(),
    };
    if exclusive { format!("just before {target}") } else { target }
}

/// Where and how PostgreSQL stops.
pub(crate) fn stop_in_words(stop: &Stop) -> String {
    let lsn = stop.lsn;
    match stop.kind {
        StopKind::BeforeTransactionEnd => {
            format!("before the first commit or abort that is past the target, at {lsn}")
        }
        StopKind::BeforeTransaction => format!("before the commit or abort of the transaction, at {lsn}"),
        StopKind::AfterTransaction => format!("after the commit or abort of the transaction, at {lsn}"),
        StopKind::BeforeLsn => format!("before the record at {lsn}"),
        StopKind::AfterLsn => format!("after the record at {lsn}"),
        StopKind::AfterRestorePoint => format!("after the restore point at {lsn}"),
        StopKind::AtConsistency => format!("as soon as the backup is consistent, at {lsn}"),
        StopKind::EndOfWal => format!("at the end of the archived WAL, {lsn}"),
    }
}

/// `1 until 0/5000060, then 2`.
fn timelines(plan: &RecoveryPlan) -> String {
    let steps = &plan.timeline_path;
    let mut parts = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let last = at + 1 == steps.len();
        parts.push(match step.end_lsn {
            Some(end) if !last => format!("{} until {end}", step.timeline),
            _ => step.timeline.to_string(),
        });
    }
    let mut path = parts.join(", then ");
    if steps.last().is_none_or(|step| step.timeline != plan.target_timeline) {
        path.push_str("; it stops before timeline ");
        path.push_str(&plan.target_timeline.to_string());
        path.push_str(" begins");
    }
    path
}

fn required(plan: &RecoveryPlan) -> String {
    let required = &plan.required;
    format!(
        "at least max_connections={}, max_worker_processes={}, max_wal_senders={}, max_prepared_transactions={}, \
         max_locks_per_transaction={}",
        required.max_connections,
        required.max_worker_processes,
        required.max_wal_senders,
        required.max_prepared_transactions,
        required.max_locks_per_transaction
    )
}

fn render_left_out(text: &mut Text, plan: &RecoveryPlan) {
    if plan.left_out_by_order.is_empty() {
        return;
    }
    text.heading("Left out although their time is not past the target: they come after the stop in the WAL");
    let mut table = Table::new(&[("XID", Align::Right), ("COMMITTED", Align::Left), ("LSN", Align::Left)]);
    for commit in plan.left_out_by_order.iter().take(ROWS_MAX) {
        table.row([commit.xid.to_string(), text.exact_moment(commit.time), commit.lsn.to_string()]);
    }
    text.table(&table);
    more(text, plan.left_out_by_order_count, "commit");
}

/// The backups that were looked at, newest first.
pub(super) fn render_rejected(text: &mut Text, heading: &str, rejected: &[RejectedBackup]) {
    if rejected.is_empty() {
        return;
    }
    text.heading(heading);
    let mut table = Table::new(&[("BACKUP", Align::Left), ("TAKES", Align::Right), ("WHY NOT", Align::Left)]);
    for backup in rejected.iter().take(ROWS_MAX) {
        let takes = backup.expected_seconds.map_or_else(|| "-".to_owned(), seconds);
        table.row([backup.id.to_string(), takes, backup.message.clone()]);
    }
    text.table(&table);
    more(text, rejected.len() as u64, "backup");
}

fn more(text: &mut Text, all: u64, thing: &str) {
    let hidden = all.saturating_sub(ROWS_MAX as u64);
    if hidden > 0 {
        text.line(format!("and {}; --output json has more", count(hidden, &format!("more {thing}"))));
    }
}
