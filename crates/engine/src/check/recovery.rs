//! Would a recovery work now? It is planned, and the objects of its backup are counted.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use walden_core::{
    BackupRecord, CatalogSnapshot, RecoveryAction, RecoveryRates, RecoveryRequest, RecoveryTarget,
    TargetTimeline,
};
use walden_pg::ArchiveFileName;

use super::{ArchiverFacts, Check, counted, shown};
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::planning::plan_from;

/// Plans a recovery of everything that is archived, and looks at what it would fetch.
pub(super) async fn recovery_checks(ctx: &Context, snapshot: &mut CatalogSnapshot) -> Result<Vec<Check>> {
    const NAME: &str = "recovery";
    let request = RecoveryRequest {
        target: RecoveryTarget::Latest,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: RecoveryAction::Promote,
        backup: None,
        rates: RecoveryRates::default(),
    };
    let plan = match plan_from(ctx, snapshot, &request).await {
        Ok(plan) => plan,
        Err(EngineError::Refused(refusal)) => {
            let hint = refusal.hint.clone().unwrap_or_else(|| "walden plan says more".to_owned());
            let detail = format!("a recovery to the end of the archive is not possible: {}", refusal.message);
            return Ok(vec![Check::failure(NAME, detail, &hint)]);
        }
        Err(error) => return Err(error),
    };
    let last = plan.stop.last_kept.map_or_else(
        || format!("backup {}", plan.backup.id),
        |commit| format!("transaction {}, committed {}", commit.xid, shown(commit.time)),
    );
    let detail = format!("a recovery to the end of the archive would have everything up to {last}");
    let mut checks = vec![Check::ok(NAME, detail)];
    if let Some(backup) = snapshot.backup(&plan.backup.id) {
        checks.push(objects_check(ctx, backup).await?);
    }
    Ok(checks)
}

/// Whether all objects of a backup are there, with the sizes that its record tells.
async fn objects_check(ctx: &Context, backup: &BackupRecord) -> Result<Check> {
    const NAME: &str = "backup objects";
    let layout = ctx.layout().incarnation(backup.incarnation).backup(&backup.id);
    let listing = ctx.store.list(layout.prefix(), &ctx.listing_budget());
    let listed: Vec<_> = listing.try_collect().await?;
    let sizes: BTreeMap<&str, u64> =
        listed.iter().map(|object| (object.key.as_str(), object.bytes)).collect();
    let mut wrong = Vec::new();
    let mut bytes = 0;
    for pack in 0..backup.packs {
        let key = layout.pack(pack);
        match sizes.get(key.as_str()) {
            Some(size) => bytes += size,
            None => wrong.push(format!("{key} is missing")),
        }
    }
    let others = [(layout.manifest(), Some(&backup.manifest)), (layout.names(), backup.names.as_ref())];
    for (key, reference) in others {
        let Some(reference) = reference else { continue };
        match sizes.get(key.as_str()) {
            Some(size) if *size == reference.object_bytes => bytes += size,
            Some(size) => wrong.push(format!("{key} has {size} bytes instead of {}", reference.object_bytes)),
            None => wrong.push(format!("{key} is missing")),
        }
    }
    if wrong.is_empty() && bytes != backup.stored_bytes {
        wrong.push(format!("its objects have {bytes} bytes together instead of {}", backup.stored_bytes));
    }
    Ok(match wrong.first() {
        None => Check::ok(NAME, format!("backup {} has all its objects, with their sizes", backup.id)),
        Some(first) => Check::failure(
            NAME,
            format!(
                "backup {} can't be restored: {}, such as {first}",
                backup.id,
                counted(wrong.len(), "problem")
            ),
            "take a new backup now: walden backup create; then look for the object in the store",
        ),
    })
}

/// What the server says it archived last must be in this archive: else it archives elsewhere.
pub(super) fn arrival_check(snapshot: &CatalogSnapshot, facts: &ArchiverFacts) -> Option<Check> {
    const NAME: &str = "arrival";
    let (name, at) = facts.last_archived.as_ref()?;
    let there = match name.parse().ok()? {
        ArchiveFileName::Segment(segment) => {
            snapshot.has_segment(segment.id(snapshot.incarnation.segment_size).ok()?)
        }
        ArchiveFileName::History(timeline) => {
            snapshot.histories.contains_key(&timeline) || snapshot.damaged_histories.contains_key(&timeline)
        }
        ArchiveFileName::Partial(_) | ArchiveFileName::BackupHistory { .. } => return None,
    };
    Some(if there {
        Check::ok(NAME, format!("{name}, which the server archived last, is in this archive"))
    } else {
        Check::failure(
            NAME,
            format!(
                "the server says that it archived {name} at {}, and it is not in this archive",
                shown(*at)
            ),
            "archive_command sends the WAL elsewhere: compare its --repo and --server, or WALDEN_REPO and WALDEN_SERVER \
             in the server's environment, with the ones of this check",
        )
    })
}
