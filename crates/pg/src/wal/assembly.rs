//! Putting together a record that does not lie within one page.

use crate::crc;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::wal::record::RecordHeader;

/// The beginning of a record whose rest is still to come.
///
/// The buffer grows with the bytes that were seen, never by the length that the record claims, and
/// never beyond a limit: the checksum is computed on the way, so that the bytes past the limit need
/// not be kept.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) lsn: Lsn,
    pub(crate) timeline: TimelineId,
    pub(crate) total: u32,
    have: u32,
    kept: Vec<u8>,
    limit: usize,
    crc_of_rest: u32,
}

impl Assembly {
    /// An assembly that keeps at most `limit` bytes of a record, but always its headers.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            lsn: Lsn::INVALID,
            timeline: TimelineId::FIRST,
            total: 0,
            have: 0,
            kept: Vec::new(),
            limit: limit.max(Self::MIN_LIMIT),
            crc_of_rest: 0,
        }
    }

    /// More than the headers of a record with all 33 blocks take.
    const MIN_LIMIT: usize = 4096;

    /// Begins with the bytes of a record of length `total` that are on its first page.
    pub(crate) fn begin(&mut self, lsn: Lsn, timeline: TimelineId, total: u32, bytes: &[u8]) {
        self.lsn = lsn;
        self.timeline = timeline;
        self.total = total;
        self.have = 0;
        self.kept.clear();
        self.crc_of_rest = 0;
        self.add(bytes);
    }

    /// Goes on with a record of which `have` bytes were seen elsewhere, and `bytes` kept; `crc_of_rest`
    /// covers all those behind the header.
    pub(crate) fn restore(&mut self, (lsn, total, have): (Lsn, u32, u32), bytes: &[u8], crc_of_rest: u32) {
        self.begin(lsn, TimelineId::FIRST, total, &[]);
        self.kept.extend_from_slice(bytes.get(..self.limit).unwrap_or(bytes));
        self.have = have;
        self.crc_of_rest = crc_of_rest;
    }

    /// Adds bytes, which must not be more than [`Assembly::missing`].
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let had = self.have as usize;
        let behind_header = RecordHeader::SIZE.saturating_sub(had).min(bytes.len());
        if let Some(rest) = bytes.get(behind_header..) {
            self.crc_of_rest = crc::append(self.crc_of_rest, rest);
        }
        // Nothing is kept behind bytes that were not.
        let limit = if self.kept.len() == had { self.limit } else { 0 };
        let room = limit.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
        // A piece is at most a page long.
        self.have = self.have.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }

    /// How many bytes were seen.
    pub(crate) const fn have(&self) -> u32 {
        self.have
    }

    /// How many bytes are still to come.
    pub(crate) const fn missing(&self) -> u32 {
        self.total.saturating_sub(self.have)
    }

    /// The record's header, once it is there.
    pub(crate) fn header(&self) -> Option<RecordHeader> {
        self.kept.first_chunk().map(RecordHeader::parse)
    }

    /// The CRC-32C of the bytes behind the header.
    pub(crate) const fn crc_of_rest(&self) -> u32 {
        self.crc_of_rest
    }

    /// The first of the bytes that were seen, as many as are kept.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Takes the kept bytes out; give them back with [`Assembly::put_back`] to use their memory again.
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Gives the buffer back.
    pub(crate) fn put_back(&mut self, bytes: Vec<u8>) {
        self.kept = bytes;
        self.kept.clear();
    }
}
