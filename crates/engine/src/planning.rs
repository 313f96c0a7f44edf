//! `walden plan` and `walden window`: asking the planner, and bringing what it misses, until it answers.

use walden_core::{
    CatalogSnapshot, ErrorKind, IncarnationRecord, Need, Planning, RecoveryPlan, RecoveryRequest,
    RecoveryWindow, Windowing, plan_recovery, recovery_window,
};

use crate::catalog::{load_overview, read_backup_record, satisfy};
use crate::context::Context;
use crate::error::{EngineError, Result};

/// A planner asks for a few things in a few rounds; one that asks on and on has a defect.
const ROUNDS_MAX: usize = 10_000;

/// Plans a recovery from what is in the archive of an incarnation.
///
/// # Errors
/// [`EngineError::Refused`] when the request can't be met; and what the store gives.
pub async fn plan(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    request: &RecoveryRequest,
) -> Result<RecoveryPlan> {
    let mut snapshot = load_overview(ctx, incarnation).await?;
    plan_from(ctx, &mut snapshot, request).await
}

/// Plans a recovery from a snapshot, to which is added what the plan needs.
///
/// # Errors
/// As [`plan`].
pub async fn plan_from(
    ctx: &Context,
    snapshot: &mut CatalogSnapshot,
    request: &RecoveryRequest,
) -> Result<RecoveryPlan> {
    let mut asked = Asked::default();
    loop {
        match plan_recovery(snapshot, request, ctx.clock.now()) {
            Planning::Needs(needs) => asked.bring(ctx, snapshot, needs).await?,
            Planning::Refused(refusal) => return Err(EngineError::Refused(refusal)),
            Planning::Plan(plan) => {
                // A rollup may have told of the backup: what its own record says counts.
                let told = snapshot.backup(&plan.backup.id).cloned();
                read_backup_record(ctx, snapshot, &plan.backup.id).await?;
                if told.as_ref() == snapshot.backup(&plan.backup.id) {
                    return Ok(*plan);
                }
            }
        }
        asked.count_round()?;
    }
}

/// Says what can be restored from the archive of an incarnation.
///
/// # Errors
/// What the store gives.
pub async fn window(ctx: &Context, incarnation: &IncarnationRecord) -> Result<RecoveryWindow> {
    let mut snapshot = load_overview(ctx, incarnation).await?;
    window_from(ctx, &mut snapshot).await
}

/// Says what can be restored from a snapshot, to which is added what that needs.
///
/// # Errors
/// As [`window`].
pub async fn window_from(ctx: &Context, snapshot: &mut CatalogSnapshot) -> Result<RecoveryWindow> {
    let mut asked = Asked::default();
    loop {
        match recovery_window(snapshot, ctx.clock.now()) {
            Windowing::Window(window) => return Ok(*window),
            Windowing::Needs(needs) => asked.bring(ctx, snapshot, needs).await?,
        }
        asked.count_round()?;
    }
}

/// What was asked for so far: what was brought once must not be missed again.
#[derive(Default)]
struct Asked {
    last: Vec<Need>,
    rounds: usize,
}

impl Asked {
    async fn bring(&mut self, ctx: &Context, snapshot: &mut CatalogSnapshot, needs: Vec<Need>) -> Result<()> {
        if needs.is_empty() || needs == self.last {
            return Err(defect(&format!("the planner asked for the same again needs={needs:?}")));
        }
        tracing::debug!(?needs, "the planner needs more");
        satisfy(ctx, snapshot, &needs).await?;
        self.last = needs;
        Ok(())
    }

    fn count_round(&mut self) -> Result<()> {
        self.rounds += 1;
        if self.rounds < ROUNDS_MAX { Ok(()) } else { Err(defect("the planner asked too often")) }
    }
}

fn defect(message: &str) -> EngineError {
    EngineError::failed(ErrorKind::Internal, message)
}
