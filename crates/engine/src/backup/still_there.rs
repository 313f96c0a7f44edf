//! Whether everything that a backup stored is still there when its record is written.
//!
//! A backup that writes nothing for long (it waits for its WAL, say) looks interrupted, and retention removes what was
//! interrupted. Its record would then tell of objects that are gone.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use walden_core::{BackupLayout, ErrorKind, ObjectKey};
use walden_store::HeaderRead;

use crate::context::Context;
use crate::error::{EngineError, Result};

/// Looks for the packs, the manifest and the names of a backup.
///
/// # Errors
/// Kind `conflict` when one of them is gone; and what the store gives.
pub(super) async fn prove_stored(
    ctx: &Context,
    layout: &BackupLayout,
    packs: u32,
    names: bool,
) -> Result<()> {
    let listing = ctx.store.list(layout.prefix(), &ctx.listing_budget());
    let listed: BTreeSet<String> = listing.map_ok(|object| object.key).try_collect().await?;
    let others = [Some(layout.manifest()), names.then(|| layout.names())];
    let stored = (0..packs).map(|number| layout.pack(number)).chain(others.into_iter().flatten());
    for key in stored.filter(|key| !listed.contains(key.as_str())) {
        // A listing may be too old to show what was just written.
        if matches!(ctx.store.get_header(&key, &ctx.budget()).await?, HeaderRead::Missing) {
            return Err(gone(&key));
        }
    }
    Ok(())
}

fn gone(key: &ObjectKey) -> EngineError {
    let message = format!("an object of this backup was removed while it ran key={key}");
    EngineError::failed(ErrorKind::Conflict, message).with_hint(
        "take the backup again; retention takes one that writes nothing for unfinished_backups for interrupted",
    )
}
