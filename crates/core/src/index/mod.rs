//! The WAL index: what is known of a segment without reading it again, made in the pass that archives it.
//!
//! A [`SegmentSummary`] is in the sealed header, the rest of a [`SegmentIndex`] in the index frame, and a
//! [`Rollup`] repeats the summaries of a whole LOG directory. All of it is derived from the segments.

mod blocks;
mod blocks_codec;
mod border;
mod class_rows;
mod classify;
mod codec;
mod collect;
mod error;
mod events;
mod facts;
pub mod find;
mod indexer;
mod rollup;
mod segment_index;
mod touched;
mod transactions;

#[cfg(test)]
mod tests;

pub use blocks::{ForkBlocks, RelationFork, TouchedBlocks};
pub use border::resolve_border;
pub use collect::may_matter;
pub use error::IndexError;
pub use events::{Event, EventKind, NotableTransaction, RelationChange, RelationName, RelationOperation};
pub use facts::{CommitMark, SegmentSummary, Straddler, TimeRange, WalFacts, WalFlags, XidRange, larger};
pub use indexer::{IndexerOptions, SegmentIndexer};
pub use rollup::{LogSummary, NumberRange, Rollup, RollupEntry};
pub use segment_index::{
    Carry, ClassTuple, CreatedFiles, DamageNote, FRAGMENT_BYTES_MAX, Filling, FirstRecord, Fragment,
    OpenTransaction, RowCounts, SegmentIndex,
};
