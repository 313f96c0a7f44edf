//! Reading the catalog: a snapshot of one incarnation's archive from listings, rollups and small records.
//!
//! [`load_snapshot`] lists everything. [`load_overview`] reads what answers most questions about an archive of any
//! size with a few requests, and [`satisfy`] brings what a planner finds missing in it.

mod cache;
mod details;
mod directory;
mod needs;
mod overview;
mod records;
mod show;
mod summaries;

use futures::TryStreamExt;
use walden_core::{ArchiveObject, CatalogSnapshot, IncarnationLayout, IncarnationRecord, Stray};
use walden_pg::ArchiveFileName;

pub(crate) use self::cache::Kept;
pub(crate) use self::details::fetch_segment;
pub(crate) use self::directory::Directory;
pub use self::needs::satisfy;
pub use self::overview::load_overview;
pub use self::records::read_backup_record;
pub(crate) use self::records::{HISTORY_BYTES_MAX, read_all_histories};
use self::records::{read_backups, read_histories};
pub use self::show::{Amount, CatalogReport, IncarnationContents, ServerContents, catalog_report};
pub(crate) use self::summaries::{SummaryReader, predecessor};
use crate::context::Context;
use crate::error::Result;

/// Reads of small records, indexes and headers under way at once.
pub(crate) const READS_AT_ONCE: usize = 16;

/// Reads what is in the archive of an incarnation: its segments by listing, its histories and backup records by
/// reading them. Requests: one for each thousand segments, and one for each history and each backup.
///
/// Fails closed: a listing that can't be finished is an error and never a shorter archive. Objects that don't
/// belong or can't be read become strays.
///
/// # Errors
/// Of the store.
pub async fn load_snapshot(ctx: &Context, incarnation: &IncarnationRecord) -> Result<CatalogSnapshot> {
    let layout = ctx.layout().incarnation(incarnation.incarnation());
    let mut snapshot = CatalogSnapshot::new(incarnation.clone());
    list_wal(ctx, &layout, &mut snapshot).await?;
    read_histories(ctx, &layout).await?.add_to(&mut snapshot);
    read_backups(ctx, &layout, false).await?.add_to(&mut snapshot);
    Ok(snapshot)
}

/// Reads the histories and the records of the backups, each from its own place, into a snapshot of what was listed.
///
/// # Errors
/// Of the store.
pub(crate) async fn read_small_objects(
    ctx: &Context,
    layout: &IncarnationLayout,
    snapshot: &mut CatalogSnapshot,
) -> Result<()> {
    read_histories(ctx, layout).await?.add_to(snapshot);
    read_backups(ctx, layout, false).await?.add_to(snapshot);
    Ok(())
}

async fn list_wal(ctx: &Context, layout: &IncarnationLayout, snapshot: &mut CatalogSnapshot) -> Result<()> {
    let listing = ctx.store.list(&layout.wal_prefix(), &ctx.listing_budget());
    let mut listing = std::pin::pin!(listing);
    while let Some(object) = listing.try_next().await? {
        add_listed(layout, snapshot, object);
    }
    Ok(())
}

/// Adds one object below `wal/` to the snapshot.
fn add_listed(layout: &IncarnationLayout, snapshot: &mut CatalogSnapshot, object: walden_store::Listed) {
    match layout.parse(&object.key) {
        Some(ArchiveObject::File(ArchiveFileName::Segment(name))) => snapshot.add_segment(name, object.bytes),
        Some(ArchiveObject::File(ArchiveFileName::Partial(name))) => snapshot.partials.push(name),
        Some(ArchiveObject::File(_) | ArchiveObject::Rollup { .. }) => {}
        _ => {
            snapshot.strays.push(foreign(object.key));
        }
    }
}

fn foreign(key: String) -> Stray {
    Stray { key, reason: "nothing of this name belongs here".to_owned() }
}
