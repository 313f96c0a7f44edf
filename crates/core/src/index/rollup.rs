//! Rollups: the summaries of one LOG directory of segments, and of all directories before it, in one object.
//!
//! Derived: everything in one can be made again from the segments, and nothing depends on one being there.

use serde::{Deserialize, Serialize};
use walden_pg::{SegmentNumber, TimelineId};

use super::codec::{Kind, SectionWriter, Sections};
use super::error::{IndexError, Result};
use super::facts::{SegmentSummary, WalFacts, WalFlags};

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
        SegmentNumber::new(self.first.get().saturating_add(u64::from(self.count).saturating_sub(1)))
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
    /// Whether some facts may be missing: a segment without a summary, one that was not joined to the one before, or
    /// one with a record that was not understood.
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

const KIND: Kind = Kind { magic: *b"WROL", what: "a rollup" };
const HEAD: u8 = 1;
const SEGMENTS: u8 = 2;
const EARLIER: u8 = 3;

/// More segments than any LOG directory has.
const SEGMENTS_READ_MAX: usize = 1 << 13;
/// A whole timeline up to 2 EiB of WAL.
const EARLIER_READ_MAX: usize = 1 << 29;

impl Rollup {
    /// The rollup of a directory from what is known of its segments, in any order; of several entries for one
    /// segment the last counts.
    #[must_use]
    pub fn build(
        timeline: TimelineId,
        log: u32,
        mut segments: Vec<RollupEntry>,
        mut earlier: Vec<LogSummary>,
    ) -> Self {
        keep_last_of_each(&mut segments, |entry| entry.number);
        earlier.retain(|summary| summary.log < log);
        keep_last_of_each(&mut earlier, |summary| summary.log);
        Self { timeline, log, segments, earlier }
    }

    /// The rollup as bytes, to be compressed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut sections = SectionWriter::new(KIND);
        sections.structure(HEAD, &(self.timeline, self.log));
        sections.list(SEGMENTS, &self.segments);
        sections.list(EARLIER, &self.earlier);
        sections.finish()
    }

    /// Reads what [`Rollup::encode`] wrote.
    ///
    /// # Errors
    /// As [`SegmentIndex::decode`](super::SegmentIndex::decode). Numbers of segments that are not of their directory,
    /// whatever the segment size, are damage.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let sections = Sections::read(KIND, bytes)?;
        let (timeline, log) = sections.structure(HEAD, "the rollup's head")?;
        let segments = sections.list(SEGMENTS, "the rollup's list of segments", SEGMENTS_READ_MAX)?;
        let earlier = sections.list(EARLIER, "the rollup's list of directories", EARLIER_READ_MAX)?;
        if !are_in_their_directories((log, &segments), &earlier) {
            return Err(IndexError::Damaged { part: "the rollup's numbers of segments" });
        }
        Ok(Self::build(timeline, log, segments, earlier))
    }
}

/// Whether there is a segment size with which all segments are of the directories that they are told for, and ranges
/// of them rise.
fn are_in_their_directories((log, segments): (u32, &[RollupEntry]), earlier: &[LogSummary]) -> bool {
    let rise = |summary: &LogSummary| {
        let gaps = summary.present.windows(2).all(|pair| match pair {
            [before, after] => before.last() < after.first,
            _ => true,
        });
        gaps && summary.present.iter().all(|range| range.count > 0)
    };
    let fits = |per_log: u64| {
        let is_of = |log: u32, number: SegmentNumber| number.get() / per_log == u64::from(log);
        segments.iter().all(|entry| is_of(log, entry.number))
            && earlier.iter().all(|summary| {
                summary
                    .present
                    .iter()
                    .all(|range| is_of(summary.log, range.first) && is_of(summary.log, range.last()))
            })
    };
    // A directory has 4 GiB of WAL, and segments have 1 MiB to 1 GiB.
    earlier.iter().all(rise) && (2..=12).any(|power| fits(1 << power))
}

/// Sorts by a key, and keeps the last of those with the same one.
fn keep_last_of_each<T, K: Ord>(values: &mut Vec<T>, key: impl Fn(&T) -> K) {
    values.reverse();
    values.sort_by_key(&key);
    values.dedup_by_key(|value| key(value));
}

impl LogSummary {
    /// What the segments of a directory hold together. The entries are of that directory, in rising order.
    #[must_use]
    pub fn of(log: u32, entries: &[RollupEntry]) -> Self {
        let mut summary =
            Self { log, present: Vec::new(), object_bytes: 0, facts: WalFacts::default(), incomplete: false };
        let mut before: Option<&RollupEntry> = None;
        for entry in entries {
            summary.object_bytes = summary.object_bytes.saturating_add(entry.object_bytes.into());
            let follows = before.is_some_and(|before| before.number.next() == entry.number);
            match summary.present.last_mut() {
                Some(range) if follows => range.count = range.count.saturating_add(1),
                _ => summary.present.push(NumberRange { first: entry.number, count: 1 }),
            }
            match &entry.summary {
                Some(own) => {
                    summary.facts.append(&own.facts);
                    summary.incomplete |= !own.joined || own.facts.flags.any(WalFlags::NOT_UNDERSTOOD);
                }
                None => summary.incomplete = true,
            }
            before = Some(entry);
        }
        summary
    }
}
