//! `walden plan`.

mod manifests;
mod refusal;
#[cfg(test)]
pub(super) mod tests;
mod text;
mod words;

use jiff::Timestamp;
use walden_core::{CatalogSnapshot, IncarnationRecord, RecoveryPlan, RecoveryRequest, Refusal};
use walden_engine::{Context, EngineError, load_overview, plan_from};

pub(super) use self::text::{render_answer, stop_in_words, target_in_words};
pub(super) use self::words::Words;
use super::hook_command::hook_command;
use crate::args::{OutputFormat, PlanArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::write_stdout;
use crate::runtime;
use crate::session::Session;

pub(super) fn run(session: &Session, arguments: &PlanArgs) -> Result<Exit, Failure> {
    let now = session.now();
    let request = arguments.target.request(now, session.effective.rates())?;
    let named = arguments.which.incarnation.incarnation;
    let words = Words::new(session, named, arguments.which.pgdata.as_deref());
    let ctx = session.context()?;
    let planned = runtime::run(async {
        let record = session.incarnation(&ctx, named).await?;
        plan(&ctx, &record, &request).await
    })?;
    let plan = match &planned.answer {
        Ok(plan) => plan,
        Err(refusal) => return refuse(session, &ctx, &words, &request, &planned.snapshot, refusal),
    };
    print(session, &ctx, &words, plan, &planned.snapshot, now)?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn print(
    session: &Session,
    ctx: &Context,
    words: &Words,
    plan: &RecoveryPlan,
    snapshot: &CatalogSnapshot,
    now: Timestamp,
) -> Result<(), Failure> {
    let restore_command = || hook_command(&session.effective, "wal get %f %p");
    let written = match session.printer.format() {
        OutputFormat::Text | OutputFormat::Json => {
            return session.printer.report(&session.with_cost(plan, ctx), |text| {
                text::render(text, plan, snapshot, words);
            });
        }
        OutputFormat::Postgres => manifests::postgres(plan, &restore_command()?),
        OutputFormat::Cnpg => manifests::cnpg(plan, session.effective.repo()?, now),
        OutputFormat::Zalando => manifests::zalando(plan, words, now)?,
    };
    for warning in &plan.warnings {
        session.printer.warning(warning);
    }
    write_stdout(written.as_bytes())
}

/// The planner's answer, and what it was decided over.
pub(super) struct Planned {
    pub(super) answer: Result<RecoveryPlan, Box<Refusal>>,
    pub(super) snapshot: CatalogSnapshot,
}

/// Asks the planner.
///
/// # Errors
/// Of the store. A refusal is an answer.
pub(super) async fn plan(
    ctx: &Context,
    record: &IncarnationRecord,
    request: &RecoveryRequest,
) -> Result<Planned, Failure> {
    let mut snapshot = load_overview(ctx, record).await?;
    let answer = match plan_from(ctx, &mut snapshot, request).await {
        Ok(plan) => Ok(plan),
        Err(EngineError::Refused(refusal)) => Err(refusal),
        Err(error) => return Err(error.into()),
    };
    Ok(Planned { answer, snapshot })
}

/// Tells a refusal: to people in full on stderr, to programs as the failure that it is.
///
/// # Errors
/// The refusal as a failure, with `--output json`.
pub(super) fn refuse(
    session: &Session,
    ctx: &Context,
    words: &Words,
    request: &RecoveryRequest,
    snapshot: &CatalogSnapshot,
    refusal: &Refusal,
) -> Result<Exit, Failure> {
    session.note_cost(ctx);
    if session.printer.format() == OutputFormat::Json {
        return Err(refusal.clone().into());
    }
    session.printer.aside(|text| refusal::render(text, refusal, request, snapshot, words));
    Ok(Exit::Target)
}
