//! Asking the retention planner, and bringing what it misses, until it answers.

use jiff::Timestamp;
use walden_core::{
    BackupId, ErrorKind, Inventory, Need, Retaining, RetentionNeed, RetentionPlan, RetentionPolicy,
    RetentionRefusal, RetentionRefusalReason, plan_removal, plan_retention,
};

use crate::catalog::satisfy;
use crate::context::Context;
use crate::error::{EngineError, Result};

/// A planner asks for a few things in a few rounds; one that asks on and on has a defect.
const ROUNDS_MAX: usize = 10_000;

/// Plans over an inventory, to which is added what the plan needs.
///
/// # Errors
/// Kinds `config`, `not_found` and `must_stay` for a refusal; and what the store gives.
pub(crate) async fn plan_over(
    ctx: &Context,
    inventory: &mut Inventory,
    policy: &RetentionPolicy,
    asked: &[BackupId],
    at: Timestamp,
) -> Result<RetentionPlan> {
    let mut last: Vec<RetentionNeed> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let answer = if asked.is_empty() {
            plan_retention(inventory, policy, at)
        } else {
            plan_removal(inventory, policy, asked, at)
        };
        match answer {
            Retaining::Plan(plan) => return Ok(*plan),
            Retaining::Refused(refusal) => return Err(refused(&refusal)),
            Retaining::Needs(needs) if needs.is_empty() || needs == last => {
                return Err(defect(&format!("the planner asked for the same again needs={needs:?}")));
            }
            Retaining::Needs(needs) => {
                tracing::debug!(?needs, "the planner needs more");
                bring(ctx, inventory, &needs).await?;
                last = needs;
            }
        }
    }
    Err(defect("the planner asked too often"))
}

async fn bring(ctx: &Context, inventory: &mut Inventory, needs: &[RetentionNeed]) -> Result<()> {
    for life in &mut inventory.incarnations {
        let incarnation = life.incarnation();
        let own = needs.iter().filter(|need| need.incarnation == incarnation);
        let own: Vec<Need> = own.map(|need| need.need.clone()).collect();
        if !own.is_empty() {
            satisfy(ctx, &mut life.catalog, &own).await?;
        }
    }
    Ok(())
}

fn refused(refusal: &RetentionRefusal) -> EngineError {
    let kind = match refusal.reason {
        RetentionRefusalReason::InvalidPolicy => ErrorKind::Config,
        RetentionRefusalReason::UnknownIncarnation | RetentionRefusalReason::UnknownBackup => {
            ErrorKind::NotFound
        }
        RetentionRefusalReason::MustStay => ErrorKind::MustStay,
        RetentionRefusalReason::IncompleteListing => ErrorKind::Internal,
    };
    EngineError::failed(kind, refusal.message.clone())
}

fn defect(message: &str) -> EngineError {
    EngineError::failed(ErrorKind::Internal, message)
}
