//! Pins: an operator's word that a backup stays, as a log of records for each backup.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use walden_core::{
    ArchiveObject, BackupId, ErrorKind, IncarnationLayout, IncarnationRecord, PinRecord, RecordKind,
};
use walden_store::CreateOutcome;

use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::lease::lease_holder;
use crate::server::{read_record, read_repository, render_record};

/// Most tries to write the next revision of a pin while others do the same.
const REVISION_TRIES_MAX: u32 = 8;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 1000;

/// What an operator says about a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRequest {
    /// The backup.
    pub backup: BackupId,
    /// Whether it is pinned from now on.
    pub pinned: bool,
    /// Until when; `None` without an end.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The newest revision of the backup's pin.
    pub pin: PinRecord,
    /// Whether it was written now; false when it said the same already.
    pub written: bool,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// The newest revision of each pin, by listing.
///
/// # Errors
/// Of the store.
pub(super) async fn newest_revisions(
    ctx: &Context,
    layout: &IncarnationLayout,
) -> Result<BTreeMap<BackupId, u32>> {
    let listing = ctx.store.list(&layout.pins_prefix(), &ctx.listing_budget());
    let mut listing = std::pin::pin!(listing);
    let mut newest = BTreeMap::new();
    while let Some(object) = listing.try_next().await? {
        if let Some(ArchiveObject::Pin { backup, revision }) = layout.parse(&object.key) {
            let of = newest.entry(backup).or_insert(revision);
            *of = revision.max(*of);
        }
    }
    Ok(newest)
}

/// The newest revision of each backup's pin, pinned or not.
///
/// # Errors
/// Of the store, and when one can't be read.
pub async fn read_pins(
    ctx: &Context,
    incarnation: &IncarnationRecord,
) -> Result<BTreeMap<BackupId, PinRecord>> {
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    let mut pins = BTreeMap::new();
    for (backup, revision) in newest_revisions(ctx, &layout).await? {
        let key = layout.pin(&backup, revision);
        if let Some(pin) = read_record::<PinRecord>(ctx, RecordKind::Pin, &key).await? {
            pins.insert(backup, pin);
        }
    }
    Ok(pins)
}

/// Pins a backup, or lets go of it.
///
/// A retention run that is under way looks for pins right before commit records go, so a pin that is written while the
/// commit record is there, and still there afterwards, holds.
///
/// # Errors
/// Kind `not_found` when the backup is not there, before the pin or after it; kind `conflict` when others keep
/// changing the pin; and what the store gives.
pub async fn pin(ctx: &Context, incarnation: &IncarnationRecord, request: &PinRequest) -> Result<PinReport> {
    let ctx = &with_capabilities(ctx).await?;
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    if request.pinned {
        check_there(ctx, &layout, &request.backup).await?;
    }
    let reason: String = request.reason.chars().take(REASON_CHARS_MAX).collect();
    let mut tries = 0;
    let (pin, written) = loop {
        let newest = newest_revisions(ctx, &layout).await?.remove(&request.backup);
        let there = match newest {
            Some(revision) => {
                read_record::<PinRecord>(ctx, RecordKind::Pin, &layout.pin(&request.backup, revision)).await?
            }
            None => None,
        };
        let says_same = there.as_ref().is_some_and(|there| {
            there.pinned == request.pinned
                && (!request.pinned || (there.until == request.until && there.reason == reason))
        });
        if let Some(there) = there.filter(|_| says_same) {
            break (there, false);
        }
        if newest.is_none() && !request.pinned {
            let message = format!("the backup is not pinned id={}", request.backup);
            return Err(EngineError::failed(ErrorKind::NotFound, message));
        }
        let revision = newest.unwrap_or(0).saturating_add(1);
        let record = PinRecord {
            backup: request.backup.clone(),
            revision,
            pinned: request.pinned,
            until: request.until.filter(|_| request.pinned),
            reason: reason.clone(),
            writer: ctx.writer("backup pin"),
        };
        let key = layout.pin(&request.backup, revision);
        let bytes = render_record(RecordKind::Pin, &key, &record)?;
        match ctx.store.create_record_once(&key, &bytes, &ctx.budget()).await? {
            CreateOutcome::Created | CreateOutcome::AlreadyStored(_) => break (record, true),
            CreateOutcome::Conflict(_) if tries < REVISION_TRIES_MAX => tries += 1,
            CreateOutcome::Conflict(_) => {
                let message = format!("others kept changing the pin id={}", request.backup);
                return Err(EngineError::failed(ErrorKind::Conflict, message).with_hint("try again"));
            }
        }
    };
    let mut warnings = Vec::new();
    if request.pinned {
        // First the lease, then the record: a run that ends in between has removed what it removes by then.
        let holder = lease_holder(ctx).await?;
        check_there(ctx, &layout, &request.backup).await?;
        if let Some(holder) = holder {
            warnings.push(format!(
                "a retention run is under way ({holder}): look with walden backup show {} when it has ended",
                request.backup
            ));
        }
    }
    Ok(PinReport { schema: 1, pin, written, warnings })
}

async fn check_there(ctx: &Context, layout: &IncarnationLayout, backup: &BackupId) -> Result<()> {
    let listed: Vec<_> =
        ctx.store.list(layout.backup(backup).prefix(), &ctx.listing_budget()).try_collect().await?;
    if listed.iter().any(|object| object.key == layout.backup(backup).commit().as_str()) {
        return Ok(());
    }
    let state = if listed.is_empty() { "" } else { " (it is unfinished, or being removed)" };
    let error = EngineError::failed(ErrorKind::NotFound, format!("no such backup{state} id={backup}"));
    Err(error.with_hint("walden backup list shows them"))
}

/// The context with a store that knows how far it is trusted to refuse a second create.
pub(super) async fn with_capabilities(ctx: &Context) -> Result<Context> {
    let Some(repository) = read_repository(ctx).await? else {
        return Err(crate::server::explain_absence(ctx, None).await);
    };
    let create = repository.capabilities.conditional_create;
    Ok(Context { store: ctx.store.with_conditional_create(create), ..ctx.clone() })
}
