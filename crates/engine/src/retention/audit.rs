//! Audit records: what a run was about to do, and what it did.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use walden_core::{
    ArchiveObject, BackupId, ErrorKind, Incarnation, RecordKind, RetentionBegun, RetentionDone,
    RetentionRunRecord,
};
use walden_store::CreateOutcome;

use crate::catalog::READS_AT_ONCE;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::server::{explain_absence, read_record, read_server, render_record};

/// One run, by its records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetentionLogEntry {
    /// The name of the run.
    pub id: BackupId,
    /// Whose records tell of it.
    pub incarnation: Incarnation,
    /// What it was about to do; absent when that record is gone or can't be read.
    pub begun: Option<RetentionBegun>,
    /// What it did; absent while it runs, and when it was ended without a word.
    pub done: Option<RetentionDone>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// Writes one record of a run.
///
/// # Errors
/// Kind `conflict` when its name is taken; and what the store gives.
pub(super) async fn write_audit(
    ctx: &Context,
    incarnation: Incarnation,
    record: &RetentionRunRecord,
) -> Result<()> {
    let layout = ctx.layout().incarnation(incarnation);
    let key = match record {
        RetentionRunRecord::Begun(begun) => layout.retention_run(&begun.id),
        RetentionRunRecord::Done(done) => layout.retention_run_done(&done.id),
    };
    let bytes = render_record(RecordKind::RetentionRun, &key, record)?;
    match ctx.store.create_record_once(&key, &bytes, &ctx.budget()).await? {
        CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => Ok(()),
        CreateOutcome::Conflict(_) => {
            let message = format!("another run has this name key={key}");
            Err(EngineError::failed(ErrorKind::Conflict, message).with_hint("try again"))
        }
    }
}

/// The newest runs of a server, the newest first, `limit` at most.
///
/// # Errors
/// Kind `not_found` when the server is not there; and what the store gives.
pub async fn retention_log(ctx: &Context, limit: usize) -> Result<Vec<RetentionLogEntry>> {
    let Some(server) = read_server(ctx).await? else { return Err(explain_absence(ctx, None).await) };
    let mut runs: BTreeMap<(BackupId, Incarnation), BTreeSet<bool>> = BTreeMap::new();
    for entry in &server.incarnations {
        let layout = ctx.layout().incarnation(entry.incarnation);
        let listing = ctx.store.list(&layout.retention_runs_prefix(), &ctx.listing_budget());
        let mut listing = std::pin::pin!(listing);
        while let Some(object) = listing.try_next().await? {
            if let Some(ArchiveObject::RetentionRun { id, done }) = layout.parse(&object.key) {
                runs.entry((id, entry.incarnation)).or_default().insert(done);
            }
        }
    }
    let newest = runs.into_iter().rev().take(limit);
    let reads = newest.map(async |((id, incarnation), parts)| read_run(ctx, id, incarnation, &parts).await);
    stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await
}

async fn read_run(
    ctx: &Context,
    id: BackupId,
    incarnation: Incarnation,
    parts: &BTreeSet<bool>,
) -> Result<RetentionLogEntry> {
    let layout = ctx.layout().incarnation(incarnation);
    let mut entry = RetentionLogEntry { id, incarnation, begun: None, done: None, unreadable: None };
    for done in parts {
        let key = if *done { layout.retention_run_done(&entry.id) } else { layout.retention_run(&entry.id) };
        match read_record::<RetentionRunRecord>(ctx, RecordKind::RetentionRun, &key).await {
            Ok(Some(RetentionRunRecord::Begun(begun))) => entry.begun = Some(*begun),
            Ok(Some(RetentionRunRecord::Done(done))) => entry.done = Some(*done),
            Ok(None) => {}
            Err(error @ EngineError::Store(_)) => return Err(error),
            Err(error) => entry.unreadable = Some(error.to_string()),
        }
    }
    Ok(entry)
}
