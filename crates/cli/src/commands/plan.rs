//! `walden plan`.

use jiff::Timestamp;
use walden_core::{CatalogSnapshot, RecoveryPlan, RecoveryRequest, plan_recovery};
use walden_engine::load_snapshot;

use crate::args::PlanArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, size};

pub(super) fn run(session: &Session, arguments: &PlanArgs) -> Result<Exit, Failure> {
    let now = session.now();
    let request = arguments.target.request(now)?;
    let ctx = session.context()?;
    let plan = runtime::run(async {
        let record = session.incarnation(&ctx, arguments.which.incarnation.incarnation).await?;
        let snapshot = load_snapshot(&ctx, &record).await?;
        decide(&snapshot, &request, now)
    })?;
    session.printer.report(&session.with_cost(&plan, &ctx), |text| render(text, &plan))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

/// Plans, and turns a refusal into the failure of the verb.
pub(super) fn decide(
    snapshot: &CatalogSnapshot,
    request: &RecoveryRequest,
    now: Timestamp,
) -> Result<RecoveryPlan, Failure> {
    plan_recovery(snapshot, request, now).map_err(Failure::from)
}

/// The plan in words.
pub(super) fn render(text: &mut Text, plan: &RecoveryPlan) {
    let backup = &plan.backup;
    let exclusive = if plan.request.exclusive { "just before " } else { "" };
    let path: Vec<String> = plan.timeline_path.iter().map(|step| step.timeline.to_string()).collect();
    let segments = match (plan.segments.first, plan.segments.last) {
        (Some(first), Some(last)) => {
            format!("{}, {} to {}, {}", plan.segments.count, first, last, size(plan.segments.bytes))
        }
        _ => "none".to_owned(),
    };
    text.facts(&[
        ("target", format!("{exclusive}{}", plan.request.target.describe())),
        ("server", format!("{}, incarnation {}", plan.server, plan.incarnation)),
        ("backup", format!("{}, finished {}", backup.id, text.moment(backup.finished_at))),
        ("", format!("{}, {} stored", size(backup.bytes), size(backup.stored_bytes))),
        ("", backup.reason.clone()),
        ("timelines", path.join(" -> ")),
        ("segments", segments),
        ("to fetch", format!("{} in about {}", size(plan.bytes), count(plan.requests, "request"))),
        ("WAL ends at", plan.wal_end_lsn.to_string()),
        ("at the target", plan.request.action.as_str().to_owned()),
    ]);
    for (heading, items) in
        [("Proved", &plan.proved), ("Not proved", &plan.not_proved), ("Warnings", &plan.warnings)]
    {
        if !items.is_empty() {
            text.heading(heading);
            text.bullets(items);
        }
    }
    if !plan.rejected.is_empty() {
        text.heading("Backups not taken");
        let mut table = Table::new(&[("BACKUP", Align::Left), ("WHY", Align::Left)]);
        for rejected in &plan.rejected {
            table.row([rejected.id.to_string(), rejected.message.clone()]);
        }
        text.table(&table);
    }
    text.heading("Settings that restore writes");
    for setting in plan.settings.iter().filter(|setting| !setting.value.is_empty()) {
        text.line(format!("{} = '{}'", setting.name, setting.value.replace('\'', "''")));
    }
}
