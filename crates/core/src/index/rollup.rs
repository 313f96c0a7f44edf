//! Rollups: the summaries of one LOG directory of segments, and of all directories before it, in one object.
//!
//! Derived: everything in one can be made again from the segments, and nothing depends on one being there.

use serde::{Deserialize, Serialize};
use walden_pg::{SegmentNumber, TimelineId};

use super::facts::{SegmentSummary, WalFacts};

/// A segment as a rollup, or the index of a later segment, remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollupEntry {
    /// The segment.
    pub number: SegmentNumber,
    /// Size of its object in bytes.
    pub object_bytes: u32,
    /// Length of its index frame in bytes, the frame header included: the object's last bytes.
    pub index_bytes: u32,
    /// What is in it; `None` when it was archived without an index.
    pub summary: Option<SegmentSummary>,
}

/// Consecutive segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberRange {
    /// The first.
    pub first: SegmentNumber,
    /// How many, at least 1.
    pub count: u32,
}

impl NumberRange {
    /// The last.
    #[must_use]
    pub fn last(&self) -> SegmentNumber {
        SegmentNumber::new(self.first.get() + u64::from(self.count).saturating_sub(1))
    }

    /// Whether a segment is among them.
    #[must_use]
    pub fn contains(&self, number: SegmentNumber) -> bool {
        (self.first..=self.last()).contains(&number)
    }
}

/// A whole LOG directory in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSummary {
    /// The directory: the middle eight digits of its segments' names.
    pub log: u32,
    /// The segments that are there, in rising order; neighbours are joined.
    pub present: Vec<NumberRange>,
    /// Their objects' bytes.
    pub object_bytes: u64,
    /// What is in them.
    pub facts: WalFacts,
    /// Whether some facts may be missing: a segment without a summary, or one whose first record was not joined
    /// although it may matter.
    pub incomplete: bool,
}

/// The rollup of a LOG directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollup {
    /// The timeline.
    pub timeline: TimelineId,
    /// The directory.
    pub log: u32,
    /// Its segments in rising order.
    pub segments: Vec<RollupEntry>,
    /// Earlier directories of the timeline as far as they were known, in rising order, so that the newest rollup
    /// tells of the whole timeline.
    pub earlier: Vec<LogSummary>,
}
