//! Looking again before something is called missing.

use walden_core::{
    CatalogSnapshot, Finding, FindingKind, FindingVerdict, IncarnationLayout, IncarnationRecord, ProofId,
    Subject, VerifyObject, wal_within,
};
use walden_pg::{ArchiveFileName, SegmentId};

use super::inventory::Listing;
use super::objects::Objects;
use crate::context::Context;
use crate::error::Result;

/// What became of objects that were not there when they were to be read.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) findings: Vec<Finding>,
    /// Objects that nobody needs any more.
    pub(super) removed: Vec<VerifyObject>,
    /// Objects that are lost.
    pub(super) lost: Vec<VerifyObject>,
}

/// Looks at the catalog again for objects that vanished: retention, or a backup's removal, takes away what nobody
/// needs; what the catalog still counts on is missing.
///
/// # Errors
/// Of the store.
pub(super) async fn settle_gone(
    ctx: &Context,
    (incarnation, layout): (&IncarnationRecord, &IncarnationLayout),
    objects: &Objects,
    gone: Vec<VerifyObject>,
) -> Result<Settled> {
    let mut settled = Settled::default();
    if gone.is_empty() {
        return Ok(settled);
    }
    // Without the marker nothing is proven absent.
    ctx.store.prove_visible(&layout.marker(), &ctx.budget()).await?;
    let listing = Listing::read(ctx, incarnation, layout).await?;
    let listed: std::collections::BTreeSet<ProofId> =
        listing.objects.iter().map(|object| object.id).collect();
    for object in gone {
        let Some(key) = key_of(objects, object.subject) else { continue };
        if is_listed(&listing, objects, &object, &listed) {
            let message = "it is listed, and could not be found when it was to be read";
            let finding = Finding::new(FindingVerdict::NotProven, FindingKind::StoreError, key, message);
            settled.findings.push(objects.place(object.subject, finding));
        } else if is_needed(&listing, objects, object.subject) {
            let message = "it vanished while it was to be read, and the catalog still counts on it";
            let finding = Finding::new(FindingVerdict::Missing, FindingKind::Absent, key, message);
            let finding = objects.place(object.subject, finding);
            let optional = matches!(object.subject, Subject::Names(_));
            settled.findings.push(if optional { finding } else { finding.that_stops_recovery() });
            settled.lost.push(object);
        } else {
            settled.removed.push(object);
        }
    }
    Ok(settled)
}

/// The key of what vanished.
fn key_of(objects: &Objects, subject: Subject) -> Option<String> {
    match subject {
        Subject::CommitRecord(backup) | Subject::Part(backup, _) => {
            let record = objects.record(backup)?;
            Some(objects.layout.backup(&record.id).commit().to_string())
        }
        other => objects.wanted(other).map(|wanted| wanted.key.to_string()),
    }
}

fn is_listed(
    listing: &Listing,
    objects: &Objects,
    object: &VerifyObject,
    listed: &std::collections::BTreeSet<ProofId>,
) -> bool {
    let of_backup = |backup: u32| listing.backups.get(objects.inventory.backups.get(backup as usize)?);
    match object.subject {
        Subject::CommitRecord(backup) => of_backup(backup).is_some_and(|backup| backup.commit.is_some()),
        Subject::Manifest(backup) | Subject::Part(backup, _) => {
            of_backup(backup).is_some_and(|backup| backup.manifest.is_some())
        }
        Subject::Names(backup) => of_backup(backup).is_some_and(|backup| backup.names.is_some()),
        Subject::Pack(backup, number) => {
            of_backup(backup).is_some_and(|backup| backup.packs.contains_key(&number))
        }
        _ => listed.contains(&object.id),
    }
}

/// Whether a finished backup waited for the segment, and has no other of this number. It goes after the backup's record.
fn is_within_backup(snapshot: &CatalogSnapshot, id: SegmentId) -> bool {
    snapshot.backups.iter().any(|backup| {
        wal_within(backup)
            .into_iter()
            .any(|(timeline, first, last)| timeline == id.timeline && (first..=last).contains(&id.number))
            && ![backup.timeline, backup.stop_timeline]
                .into_iter()
                .any(|timeline| snapshot.has_segment(SegmentId::new(timeline, id.number)))
    })
}

/// Whether the catalog, looked at again, counts on an object that is not there.
fn is_needed(listing: &Listing, objects: &Objects, subject: Subject) -> bool {
    let snapshot = &listing.snapshot;
    match subject {
        Subject::Segment(id) => {
            if is_within_backup(snapshot, id) {
                return true;
            }
            let Some(runs) = snapshot.segments.get(&id.timeline) else { return false };
            // Retention takes the oldest ones, and the ones between backups; those are told as gaps, or are none.
            let newest = runs.last().map(walden_core::SegmentRun::last);
            let oldest = runs.first().map(|run| run.first);
            let starts = snapshot.backups.iter().filter(|backup| backup.timeline == id.timeline);
            let begins =
                starts.map(|backup| snapshot.incarnation.segment_size.segment_of(backup.start_lsn)).min();
            newest.is_some_and(|newest| id.number > newest)
                || (oldest.is_some_and(|oldest| id.number > oldest)
                    && begins.is_some_and(|begin| id.number >= begin))
        }
        Subject::File(ArchiveFileName::History(timeline)) => snapshot.segments.contains_key(&timeline),
        // For people and tools; PostgreSQL does not read them.
        Subject::File(_) | Subject::Rollup(..) | Subject::BackupRollup => false,
        other => {
            let id = other.backup().and_then(|backup| objects.inventory.backups.get(backup as usize));
            id.is_some_and(|id| snapshot.backup(id).is_some())
        }
    }
}
