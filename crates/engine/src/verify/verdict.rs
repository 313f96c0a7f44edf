//! What can't be restored because of what was found: the recovery planner's word, with the damage and without it.

use walden_core::{
    CatalogSnapshot, Consequences, ErrorKind, Losses, RecoveryWindow, Windowing, consequences,
    recovery_window,
};

use crate::catalog::satisfy;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::rollup::read_backup_rollup;

/// A planner asks for a few things in a few rounds; one that asks on and on has a defect.
const ROUNDS_MAX: usize = 1_000;

/// Asks what could be restored if nothing were wrong, and what can be.
///
/// # Errors
/// Of the store.
pub(super) async fn weigh(ctx: &Context, catalog: &CatalogSnapshot, losses: &Losses) -> Result<Consequences> {
    let mut before = catalog.clone();
    if !catalog.unreadable_backups.is_empty() || !catalog.unfinished_backups.is_empty() {
        think_back(ctx, &mut before).await?;
    }
    let before = window(ctx, before, |snapshot| losses.put_back(snapshot)).await?;
    let after = window(ctx, catalog.clone(), |snapshot| losses.take_out(snapshot)).await?;
    Ok(consequences(&before, &after))
}

/// Takes the records that can't be read from the copy of all records, as far as it has them.
async fn think_back(ctx: &Context, snapshot: &mut CatalogSnapshot) -> Result<()> {
    let layout = ctx.layout().incarnation(snapshot.incarnation.incarnation());
    let copies = read_backup_rollup(ctx, &layout, &ctx.listing_budget()).await?;
    for copy in copies {
        let unfinished = snapshot.unfinished_backups.iter().position(|id| *id == copy.id);
        if snapshot.unreadable_backups.remove(&copy.id).is_some() || unfinished.is_some() {
            unfinished.map(|at| snapshot.unfinished_backups.remove(at));
            snapshot.backups.push(copy.record);
        }
    }
    snapshot.backups.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
    Ok(())
}

/// The recovery window over a snapshot that is adjusted after everything that is brought into it.
async fn window(
    ctx: &Context,
    mut snapshot: CatalogSnapshot,
    adjust: impl Fn(&mut CatalogSnapshot),
) -> Result<RecoveryWindow> {
    adjust(&mut snapshot);
    let mut last = Vec::new();
    for _ in 0..ROUNDS_MAX {
        match recovery_window(&snapshot, ctx.clock.now()) {
            Windowing::Window(window) => return Ok(*window),
            Windowing::Needs(needs) => {
                if needs.is_empty() || needs == last {
                    break;
                }
                satisfy(ctx, &mut snapshot, &needs).await?;
                adjust(&mut snapshot);
                last = needs;
            }
        }
    }
    Err(EngineError::failed(ErrorKind::Internal, "the planner asked for the same again"))
}
