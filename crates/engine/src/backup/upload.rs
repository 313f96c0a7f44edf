//! Storing packs while more of them fill.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::UnboundedReceiver;
use walden_core::{BackupLayout, ErrorKind, ObjectKey};
use walden_store::CreateOutcome;

use super::copy::Shared;
use super::packs::{FullPack, PackIdentity};
use crate::context::Context;
use crate::error::{EngineError, Result};

/// Stores every pack that comes; returns how many bytes they have. A failure stops the copying.
pub(super) async fn upload_packs(
    ctx: Context,
    layout: BackupLayout,
    identity: PackIdentity,
    mut full: UnboundedReceiver<FullPack>,
    shared: Arc<Shared>,
) -> u64 {
    // How many are under way at once is bounded by the places for packs in memory.
    let mut under_way = FuturesUnordered::new();
    let mut stored = 0;
    let mut open = true;
    loop {
        tokio::select! {
            pack = full.recv(), if open => match pack {
                Some(pack) => under_way.push(upload(&ctx, &layout, identity.clone(), pack)),
                None => open = false,
            },
            Some(done) = under_way.next() => match done {
                Ok(bytes) => stored += bytes,
                Err(error) => {
                    shared.fail(error);
                    return stored;
                }
            },
            else => return stored,
        }
    }
}

async fn upload(ctx: &Context, layout: &BackupLayout, identity: PackIdentity, pack: FullPack) -> Result<u64> {
    let sealed = tokio::task::spawn_blocking(move || pack.seal(identity)).await;
    let sealed = sealed.map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))??;
    let key = layout.pack(sealed.number);
    let outcome =
        ctx.store.create_once(&key, &sealed.object, &ctx.budget_for(sealed.object.object_bytes())).await?;
    created(&key, &outcome)?;
    Ok(sealed.object.object_bytes())
}

/// Says whether an object of a backup stands where it belongs. Nobody else writes under a backup's name, so one
/// that is there already is ours, from a try whose answer was lost; another one is nobody's to overwrite.
pub(super) fn created(key: &ObjectKey, outcome: &CreateOutcome) -> Result<()> {
    match outcome {
        CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => Ok(()),
        CreateOutcome::Conflict(_) => Err(EngineError::failed(
            ErrorKind::Conflict,
            format!("another object has a name of this backup, which was not overwritten key={key}"),
        )
        .with_hint("take the backup again: it gets a name of its own")),
    }
}
