//! The last segment of a timeline that this server has left.
//!
//! After a switchover or a failover several servers may hold the segment in which a timeline was left, each with
//! other bytes behind that point: zeros, recycled WAL, or what the old primary still wrote. None of that is the
//! server's own WAL any more: it went on on the child timeline, whose segment of the same number has everything up
//! to the fork. So only the bytes before the fork decide whether two of them are the same. Otherwise a pair with
//! `archive_mode = always`, or a second failover, would block archiving for ever over bytes that nobody reads.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use walden_core::{ObjectKey, SegmentFacts};
use walden_pg::{ArchiveFileName, Lsn, TimelineHistory, TimelineId};
use walden_store::{Expected, Store};

use super::TEXT_BYTES_MAX;
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// Where this server left `timeline`, by the newest history beside the file; `None` when it did not.
fn left_at(path: &Path, timeline: TimelineId) -> Result<Option<Lsn>> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let failed = |source| EngineError::local("list", directory, source);
    let mut newest: Option<TimelineId> = None;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(Ok(ArchiveFileName::History(found))) = name.to_str().map(str::parse) {
            newest = newest.max(Some(found));
        }
    }
    let Some(newest) = newest.filter(|newest| *newest > timeline) else { return Ok(None) };
    let file = directory.join(ArchiveFileName::History(newest).to_string());
    let Some(bytes) = read_if_present(&file, TEXT_BYTES_MAX)? else { return Ok(None) };
    // Unreadable is no proof of anything: the conflict stands.
    let Ok(history) = TimelineHistory::parse(newest, &bytes) else { return Ok(None) };
    Ok(history.switch_point_of(timeline))
}

/// Whether the stored file and the one at `path` are equal up to the point where this server left their timeline,
/// and that point lies in them.
pub(super) async fn same_up_to_fork(
    ctx: &Context,
    store: &Store,
    key: &ObjectKey,
    name: ArchiveFileName,
    path: &Path,
    facts: SegmentFacts,
) -> Result<bool> {
    let Some(left) = left_at(path, name.timeline())? else { return Ok(false) };
    let Some(before) =
        left.bytes_since(facts.page_address).filter(|bytes| *bytes <= facts.segment_size.bytes())
    else {
        return Ok(false);
    };
    let text = name.to_string();
    let expected = Expected { name: &text, max_plain_bytes: facts.segment_size.bytes() };
    let stored = store.fetch_sealed(key, expected, || Ok(Vec::new()), &ctx.budget()).await?;
    let mut ours = Vec::new();
    let read = File::open(path).and_then(|file| file.take(before).read_to_end(&mut ours));
    read.map_err(|source| EngineError::local("read", path, source))?;
    let theirs = usize::try_from(before).ok().and_then(|before| stored.plain.get(..before));
    Ok(ours.len() as u64 == before && theirs == Some(ours.as_slice()))
}
