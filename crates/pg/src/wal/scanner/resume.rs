//! Going on with a scan that another process began.
//!
//! What one process leaves to the next can be old or wrong: a file that was not written to the end, or
//! another server's. So it is believed only when the segment agrees with it, and never makes a sound
//! segment look damaged: what does not agree is dropped, and the segment is read as if begun cold.

use crate::crc;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::segment::SegmentNumber;
use crate::wal::fault::Fault;
use crate::wal::page::PageHeader;
use crate::wal::record::{RecordHeader, check_header, check_length};
use crate::wal::scanner::{Halt, Mode, Pass, WalScanner};

/// The beginning of a record that goes on in the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingBytes<'a> {
    /// Where the record begins.
    pub lsn: Lsn,
    /// How many of its bytes were seen.
    pub have: u32,
    /// How many bytes it says it has.
    pub total: u32,
    /// The first of the bytes that were seen, without page headers; not all of them if there were more
    /// than are kept.
    pub bytes: &'a [u8],
    /// The CRC-32C of all bytes that were seen, behind the record's header (24 bytes), kept or not. It is
    /// only needed where `bytes` are not all of them: without it such a record cannot be checked.
    pub checksum: Option<u32>,
}

impl PendingBytes<'_> {
    /// Whether a record can be in this state before a segment that begins at `start`.
    fn is_possible(&self, start: Lsn) -> bool {
        self.lsn < start
            && check_length(self.total).is_ok()
            && (1..self.total).contains(&self.have)
            && self.bytes.len() <= self.have as usize
    }

    /// The CRC-32C of what was seen behind the header, if it is known.
    fn crc_of_rest(&self) -> Option<u32> {
        if self.bytes.len() == self.have as usize {
            return Some(crc::crc32c(self.bytes.get(RecordHeader::SIZE..).unwrap_or_default()));
        }
        // Without a header, the record could not be told from another.
        self.checksum.filter(|_| self.bytes.len() >= RecordHeader::SIZE)
    }
}

/// Whether the scanner has seen for itself what it knows of the WAL so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It has.
    Seen,
    /// It was told, and has not read a page since.
    Told,
    /// It was told, and the segment's first page agrees; no record has yet.
    Agrees,
}

impl WalScanner {
    /// Goes on behind a segment that another process has scanned, so that the segment `next`, begun
    /// next, is joined as it would have been there.
    ///
    /// `last_record` and `pending` are what that scan told at the segment's end:
    /// [`SegmentOutcome::last_record`](super::SegmentOutcome::last_record), or that of an earlier
    /// segment if no record ended in it, and [`WalScanner::pending_bytes`]. Whatever was scanned before
    /// by this scanner is forgotten. The options still say of which server the segments must be.
    ///
    /// Nothing of this is believed blindly. If it cannot be, if a pending record cannot be checked
    /// because its bytes were not all kept, or if the segment does not agree with it (the length of the
    /// rest of the record, its checksum, the next record's link), the segment is not joined: the outcome
    /// says so, and the segment's own records are all read, as in a segment that was begun cold. This is
    /// never called damage. The timeline of a joined record is taken from the segment's first page.
    pub fn resume(
        &mut self,
        next: SegmentNumber,
        last_record: Option<Lsn>,
        pending: Option<PendingBytes<'_>>,
    ) {
        self.current = None;
        self.partial_page.clear();
        self.forget();
        self.page_timeline = None;
        self.next_segment = Some(next);
        let start = self.options.segment_size.start_of(next);
        if last_record.is_some_and(|last| last >= pending.map_or(start, |pending| pending.lsn)) {
            return;
        }
        self.mode = match pending {
            None if last_record.is_none() => return,
            None => Mode::Records,
            Some(pending) => {
                let Some(crc) = pending.crc_of_rest().filter(|_| pending.is_possible(start)) else { return };
                self.assembly.restore((pending.lsn, pending.total, pending.have), pending.bytes, crc);
                Mode::Assembling
            }
        };
        self.previous = last_record;
        self.proof = Proof::Told;
    }

    /// After [`WalScanner::finish_segment`]: the beginning of the record that goes on in the next
    /// segment, of which at most [`max_kept_bytes`](super::WalScannerOptions::max_kept_bytes) are kept.
    /// `None` if no record does, or none can be joined.
    pub fn pending_bytes(&self) -> Option<PendingBytes<'_>> {
        let goes_on = self.current.is_none() && self.next_segment.is_some() && self.mode == Mode::Assembling;
        goes_on.then(|| PendingBytes {
            lsn: self.assembly.lsn,
            have: self.assembly.have(),
            total: self.assembly.total,
            bytes: self.assembly.kept(),
            checksum: Some(self.assembly.crc_of_rest()),
        })
    }

    /// After [`WalScanner::finish_segment`]: the bytes at the start of the segment that belong to a
    /// record which began earlier and was not joined, without page headers. At most
    /// [`max_head_bytes`](super::WalScannerOptions::max_head_bytes) of
    /// [`SegmentOutcome::head`](super::SegmentOutcome::head); the rest of them was not kept.
    pub fn head_bytes(&self) -> &[u8] {
        &self.head
    }

    /// Whether what the scanner was told agrees with the first page that it reads.
    pub(super) fn check_resumed_page(&mut self, page: &PageHeader, pass: &mut Pass<'_>) {
        if self.proof != Proof::Told {
            return;
        }
        self.proof = Proof::Agrees;
        let (continues, overwrites) = (page.flags.continues_record(), page.flags.overwrites_record());
        let agrees = if self.mode == Mode::Assembling {
            self.assembly.timeline = page.timeline;
            if continues { page.remaining == self.assembly.missing() } else { overwrites }
        } else {
            !continues
        };
        if !agrees {
            self.forget();
            pass.current.outcome.joined = false;
        }
    }

    /// Judges what the first record's header says, of which `checked` is the verdict that believes what
    /// the scanner was told.
    pub(super) fn check_resumed_link(
        &mut self,
        checked: Result<(), Fault>,
        (header, lsn, major): (&RecordHeader, Lsn, PgMajor),
        pass: &mut Pass<'_>,
    ) -> Result<(), Fault> {
        match checked {
            Ok(()) => self.proof = Proof::Seen,
            Err(Fault::PreviousRecord { .. }) => {
                self.proof = Proof::Seen;
                self.previous = None;
                pass.current.outcome.joined = false;
                pass.current.outcome.overwritten.clear();
                return check_header(header, lsn, None, major);
            }
            Err(_) => {}
        }
        checked
    }

    /// Judges whether a record was rightly joined to what the scanner was told of its beginning.
    pub(super) fn judge_resumed(
        &mut self,
        delivered: Result<(), Halt>,
        pass: &mut Pass<'_>,
    ) -> Result<(), Halt> {
        if self.proof == Proof::Seen {
            return delivered;
        }
        self.proof = Proof::Seen;
        let outcome = &mut pass.current.outcome;
        match delivered {
            Err(Halt::Broken(_)) => {
                outcome.joined = false;
                outcome.skipped_head = outcome.skipped_head.saturating_add(outcome.head);
                self.previous = None;
                Ok(())
            }
            other => {
                outcome.head = 0;
                self.head.clear();
                other
            }
        }
    }

    /// Keeps what a segment begins with of a record that may not be joined.
    pub(super) fn keep_head(&mut self, piece: &[u8], length: u32, pass: &mut Pass<'_>) {
        let outcome = &mut pass.current.outcome;
        // Behind damage, it would be another record's.
        if outcome.damage_count > 0 {
            return;
        }
        let room = self.options.max_head_bytes.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend_from_slice(piece.get(..room).unwrap_or_default());
        outcome.head = outcome.head.saturating_add(length);
    }
}

#[cfg(test)]
mod tests;
