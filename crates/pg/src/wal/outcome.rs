//! What scanning a segment told.

use crate::lsn::Lsn;
use crate::segment::SegmentName;
use crate::wal::fault::Fault;
use crate::wal::page::SegmentHeader;

/// How the WAL in a segment ended.
///
/// [`Stop::ZeroTail`] and [`Stop::RecycledTail`] are the proper end of the newest segment of a
/// timeline. In a segment that has a successor they are damage: only the caller knows which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The WAL goes on to the segment's last byte, and into the next segment.
    SegmentEnd,
    /// A switch ended the segment early; the next record is at the start of the next segment.
    SwitchTail {
        /// The position after the switch record.
        lsn: Lsn,
    },
    /// The rest of the segment has not been written: zeros.
    ZeroTail {
        /// Where the zeros begin.
        lsn: Lsn,
    },
    /// The rest of the segment has not been written: it holds what was in the file when it was an
    /// older segment.
    RecycledTail {
        /// Where the old contents begin.
        lsn: Lsn,
    },
    /// The input ended before the segment's end.
    Truncated {
        /// The position after the last byte of the input.
        lsn: Lsn,
    },
    /// The WAL cannot be read on from here.
    Corrupt(Damage),
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged WAL: lsn={lsn}")]
pub struct Damage {
    /// The position of the page or of the record.
    pub lsn: Lsn,
    /// What is wrong with it.
    #[source]
    pub fault: Fault,
}

/// A record of which only the beginning exists, because a crash cut it off and the server then wrote
/// on from the next page. This is not damage: the record never took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overwritten {
    /// Where the record begins.
    pub record: Lsn,
    /// The page that takes the place of its rest.
    pub page: Lsn,
}

/// A record that goes on in the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRecord {
    /// Where it begins.
    pub lsn: Lsn,
    /// How many of its bytes have been seen.
    pub have: u32,
    /// How many bytes it says it has.
    pub total: u32,
}

/// What scanning a segment told, besides the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentOutcome {
    /// The segment.
    pub segment: SegmentName,
    /// Its header, if that could be read.
    pub header: Option<SegmentHeader>,
    /// Whether the scan joined the end of the segment before. If not, the bytes of a record that began
    /// there were skipped, and the first record's link to the one before it was not checked.
    pub joined: bool,
    /// The bytes that belong to a record whose beginning was not seen: at the start of a segment that was
    /// not joined, and after damage.
    pub skipped_head: u32,
    /// Of those, the bytes at the segment's start; all of them belong to one record. What they are tells
    /// [`WalScanner::head_bytes`](super::WalScanner::head_bytes).
    pub head: u32,
    /// How many records were read whole.
    pub records: u64,
    /// Where the first of them begins; in the segment before, if it began there.
    pub first_record: Option<Lsn>,
    /// Where the last of them begins.
    pub last_record: Option<Lsn>,
    /// The position after the last of them, where the next record would begin (before any page header
    /// there); `None` without records.
    pub end: Option<Lsn>,
    /// The record that goes on in the next segment, or that the WAL ends in.
    pub pending: Option<PendingRecord>,
    /// Records that a crash cut off for ever.
    pub overwritten: Vec<Overwritten>,
    /// How the segment ended.
    pub stop: Stop,
    /// The damaged places that the scan went past, the first [`SegmentOutcome::MAX_DAMAGE`] of them.
    /// Only with [`OnDamage::Resync`](super::OnDamage::Resync).
    pub damage: Vec<Damage>,
    /// How many damaged places the scan went past.
    pub damage_count: u64,
}

impl SegmentOutcome {
    /// How many damaged places are told one by one.
    pub const MAX_DAMAGE: usize = 64;

    /// The outcome of a segment of which nothing has been read yet.
    pub(crate) fn begun(segment: SegmentName, joined: bool) -> Self {
        Self {
            segment,
            header: None,
            joined,
            skipped_head: 0,
            head: 0,
            records: 0,
            first_record: None,
            last_record: None,
            end: None,
            pending: None,
            overwritten: Vec::new(),
            stop: Stop::SegmentEnd,
            damage: Vec::new(),
            damage_count: 0,
        }
    }

    /// Notes a damaged place that the scan goes past.
    pub(crate) fn note(&mut self, damage: Damage) {
        self.damage_count += 1;
        if self.damage.len() < Self::MAX_DAMAGE {
            self.damage.push(damage);
        }
    }

    /// Whether any damage was met.
    pub fn is_damaged(&self) -> bool {
        self.damage_count > 0 || matches!(self.stop, Stop::Corrupt(_))
    }
}
