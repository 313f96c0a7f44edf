//! Uploads that were begun and never completed.

use walden_core::{ErrorKind, IncarnationLayout, ObjectKey, OpenUpload};
use walden_store::StoreError;

use crate::context::Context;
use crate::error::Result;

/// The open uploads of an incarnation. A store without such a listing, or one that refuses it, has none to clear; the
/// latter is told.
///
/// # Errors
/// Of the store.
pub(super) async fn open_uploads(
    ctx: &Context,
    layout: &IncarnationLayout,
    notes: &mut Vec<String>,
) -> Result<Vec<OpenUpload>> {
    let open = match ctx.store.open_uploads(&layout.prefix(), &ctx.listing_budget()).await {
        Ok(open) => open,
        Err(StoreError::Unsupported { .. }) => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::Denied => {
            notes.push(format!("unfinished uploads were not listed: {error}"));
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    let known = open.into_iter().filter_map(|upload| {
        let key = ObjectKey::parse(&upload.key).ok()?;
        Some(OpenUpload { key, upload: upload.id, started: Some(upload.begun), bytes: 0 })
    });
    Ok(known.collect())
}

/// Removes the parts of an upload.
///
/// # Errors
/// Of the store.
pub(super) async fn abort(ctx: &Context, upload: &OpenUpload) -> Result<()> {
    let Some(begun) = upload.started else { return Ok(()) };
    let upload = walden_store::OpenUpload { key: upload.key.to_string(), id: upload.upload.clone(), begun };
    Ok(ctx.store.abort_upload(&upload, &ctx.budget()).await?)
}
