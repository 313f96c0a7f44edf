//! The record that a verification leaves in the repository, and finding the newest one.

use walden_core::{ArchiveObject, BackupId, ErrorKind, IncarnationLayout, RecordKind, VerifyRecord};
use walden_store::CreateOutcome;

use super::report::VerifyReport;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::init::random_id;
use crate::server::{read_record, read_repository, render_record};

/// Records that are looked at, from the newest back, when newer ones can't be read.
const LOOKED_AT_MAX: usize = 3;

/// Writes the record of a run; gives its key.
///
/// # Errors
/// Of the store.
pub(super) async fn write_record(
    ctx: &Context,
    layout: &IncarnationLayout,
    report: &VerifyReport,
) -> Result<String> {
    let salt =
        random_id()?.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok()).unwrap_or_default();
    let id = BackupId::new(report.started_at, salt);
    let key = layout.verification(&id);
    let record = VerifyRecord {
        id,
        server: report.server.clone(),
        incarnation: report.incarnation,
        level: report.level,
        scope: report.scope.clone(),
        started_at: report.started_at,
        finished_at: report.finished_at,
        objects: report.plan.in_scope.objects,
        proven: report.proven.objects,
        fresh: report.plan.fresh.objects,
        bytes_read: report.bytes_read,
        complete: report.complete,
        damaged: report.counts.damaged,
        missing: report.counts.missing,
        not_proven: report.counts.not_proven,
        writer: ctx.writer("verify"),
    };
    let bytes = render_record(RecordKind::Verify, &key, &record)?;
    let create = read_repository(ctx).await?.map(|repository| repository.capabilities.conditional_create);
    let store = create.map_or_else(|| ctx.store.clone(), |create| ctx.store.with_conditional_create(create));
    match store.create_record_once(&key, &bytes, &ctx.budget()).await? {
        CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => Ok(key.to_string()),
        CreateOutcome::Conflict(_) => {
            Err(EngineError::failed(ErrorKind::Conflict, format!("another record has the name key={key}")))
        }
    }
}

/// The newest record that can be read, and how many can't be before it.
///
/// # Errors
/// Of the store.
pub(crate) async fn newest_record(ctx: &Context, layout: &IncarnationLayout) -> Result<Option<VerifyRecord>> {
    let level = ctx.store.list_level(&layout.verifications_prefix(), &ctx.listing_budget()).await?;
    let ids = level.objects.iter().rev().filter_map(|object| match layout.parse(&object.key) {
        Some(ArchiveObject::Verification(id)) => Some(id),
        _ => None,
    });
    for id in ids.take(LOOKED_AT_MAX) {
        match read_record::<VerifyRecord>(ctx, RecordKind::Verify, &layout.verification(&id)).await {
            Ok(Some(record)) => return Ok(Some(record)),
            Ok(None) | Err(EngineError::Record { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
