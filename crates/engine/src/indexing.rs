//! Making the index of a segment, in the ways that the verbs need it.

use walden_core::index::{IndexError, IndexerOptions, RollupEntry, SegmentIndex, SegmentIndexer};
use walden_pg::{PgMajor, SegmentName, WalSegmentSize};

/// Indexes a whole segment with nothing known of the one before.
///
/// # Errors
/// [`IndexError::SegmentName`].
pub(crate) fn index_segment(
    name: SegmentName,
    size: WalSegmentSize,
    major: PgMajor,
    bytes: &[u8],
) -> Result<SegmentIndex, IndexError> {
    let options = IndexerOptions { major: Some(major), ..IndexerOptions::new(size) };
    let mut indexer = SegmentIndexer::new(options, name, None)?;
    indexer.feed(bytes);
    Ok(indexer.finish())
}

/// What others may remember of an indexed segment.
pub(crate) fn entry_of(index: &SegmentIndex, object_bytes: u64, index_bytes: u64) -> Option<RollupEntry> {
    Some(RollupEntry {
        number: index.segment.id(index.segment_size).ok()?.number,
        object_bytes: u32::try_from(object_bytes).ok()?,
        index_bytes: u32::try_from(index_bytes).ok()?,
        summary: Some(index.summary),
    })
}
