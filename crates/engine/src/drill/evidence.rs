//! The evidence of drills in the repository.

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use walden_core::{
    ArchiveObject, BackupId, DrillRecord, ErrorKind, IncarnationRecord, ObjectKey, RecordKind,
};
use walden_store::CreateOutcome;

use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::server::{read_record, read_repository, render_record};

/// So many records are read at once.
const READS: usize = 8;

/// A record that is there and can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableEvidence {
    /// The drill.
    pub id: BackupId,
    /// Why.
    pub reason: String,
}

/// The evidence of the newest drills.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvidenceList {
    /// How many there are in all.
    pub count: usize,
    /// The newest ones that can be read, oldest first.
    pub drills: Vec<DrillRecord>,
    /// Those among the newest that can't be read.
    pub unreadable: Vec<UnreadableEvidence>,
}

/// Stores the evidence of a drill, once.
///
/// # Errors
/// Of the store; of kind `conflict` when another drill has this name.
pub(super) async fn store_evidence(ctx: &Context, record: &DrillRecord) -> Result<ObjectKey> {
    let key = ctx.layout().incarnation(record.incarnation).drill(&record.id);
    let Some(repository) = read_repository(ctx).await? else {
        return Err(EngineError::failed(ErrorKind::NotFound, "the repository is gone"));
    };
    let store = ctx.store.with_conditional_create(repository.capabilities.conditional_create);
    let bytes = render_record(RecordKind::Drill, &key, record)?;
    match store.create_record_once(&key, &bytes, &ctx.budget()).await? {
        CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => Ok(key),
        CreateOutcome::Conflict(_) => {
            Err(EngineError::failed(ErrorKind::Conflict, format!("another drill has this name key={key}")))
        }
    }
}

/// The names of all drills, oldest first.
async fn names(ctx: &Context, incarnation: &IncarnationRecord) -> Result<Vec<BackupId>> {
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    let listed: Vec<_> = ctx.store.list(&layout.drills_prefix(), &ctx.listing_budget()).try_collect().await?;
    let mut names: Vec<BackupId> = listed
        .iter()
        .filter_map(|object| match layout.parse(&object.key) {
            Some(ArchiveObject::Drill(id)) => Some(id),
            _ => None,
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Reads the evidence of the newest `most` drills of an incarnation.
///
/// # Errors
/// Of the store. A record that is damaged, or newer than this version, is part of the answer.
pub async fn list_evidence(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    most: usize,
) -> Result<EvidenceList> {
    let mut names = names(ctx, incarnation).await?;
    let count = names.len();
    names.drain(..count.saturating_sub(most));
    let read = |id: BackupId| async move {
        let found = read_one(ctx, incarnation, &id).await;
        (id, found)
    };
    let found: Vec<_> = futures::stream::iter(names).map(read).buffered(READS).collect().await;
    let mut list = EvidenceList { count, drills: Vec::new(), unreadable: Vec::new() };
    for (id, found) in found {
        match found {
            Ok(Some(record)) => list.drills.push(record),
            // Removed in this moment, by whoever may.
            Ok(None) => {}
            Err(error @ EngineError::Record { .. }) => {
                let reason =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                list.unreadable.push(UnreadableEvidence { id, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(list)
}

async fn read_one(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    id: &BackupId,
) -> Result<Option<DrillRecord>> {
    let key = ctx.layout().incarnation(incarnation.incarnation()).drill(id);
    read_record(ctx, RecordKind::Drill, &key).await
}

/// Reads the evidence of one drill, or of the newest one.
///
/// # Errors
/// Of the store; of kind `not_found` when there is no such drill.
pub async fn read_evidence(
    ctx: &Context,
    incarnation: &IncarnationRecord,
    id: Option<&BackupId>,
) -> Result<DrillRecord> {
    let newest = match id {
        Some(_) => None,
        None => names(ctx, incarnation).await?.pop(),
    };
    let missing = |message: String| {
        EngineError::failed(ErrorKind::NotFound, message)
            .with_hint("walden drill list shows the drills there were")
    };
    let Some(id) = id.or(newest.as_ref()) else {
        return Err(missing(format!("there was no drill yet incarnation={}", incarnation.incarnation())));
    };
    let record = read_one(ctx, incarnation, id).await?;
    record.ok_or_else(|| missing(format!("there is no such drill id={id}")))
}
