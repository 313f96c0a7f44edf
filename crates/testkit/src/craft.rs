//! Writes WAL record by record, as PostgreSQL would.

#![expect(clippy::expect_used, reason = "a test tool: its callers keep to what fits")]
#![expect(clippy::indexing_slicing, reason = "offsets within a segment that was made whole")]

use std::collections::BTreeMap;

use walden_pg::wal::RecordHeader;
use walden_pg::{
    Lsn, PageHeader, PgMajor, SegmentId, SegmentName, SegmentNumber, SystemId, TimelineId, WalSegmentSize,
};

const PAGE: usize = 8192;

/// Writes records one after the other into segments.
#[derive(Debug, Clone)]
pub struct Crafter {
    size: WalSegmentSize,
    major: PgMajor,
    system_id: SystemId,
    timeline: TimelineId,
    /// Where the next record begins, page headers not counted.
    pub at: Lsn,
    /// Where the last record began.
    pub previous: Lsn,
    segments: BTreeMap<SegmentNumber, Vec<u8>>,
    /// Where the last record ends.
    record_end: Lsn,
}

impl Crafter {
    /// A writer that begins with segment `first`, where a record of an earlier segment came before.
    #[must_use]
    pub fn new(size: WalSegmentSize, major: PgMajor, system_id: SystemId, first: u64) -> Self {
        let at = size.start_of(SegmentNumber::new(first));
        Self {
            size,
            major,
            system_id,
            timeline: TimelineId::FIRST,
            at,
            previous: at.checked_sub(0x100).unwrap_or_default(),
            segments: BTreeMap::new(),
            record_end: at,
        }
    }

    /// Goes on with a segment, behind a record that may have nothing to do with what was written before.
    pub fn jump(&mut self, number: u64, previous: Lsn) {
        self.at = self.size.start_of(SegmentNumber::new(number));
        self.previous = previous;
        self.record_end = self.at;
    }

    /// A writer that goes on from here on another timeline. As a server that is promoted does, it begins with a copy of
    /// the segment up to here, whose page headers are of the old timeline.
    #[must_use]
    pub fn fork(&self, timeline: TimelineId) -> Self {
        let number = self.size.segment_of(self.at);
        let keeps = |segment: &SegmentNumber| *segment == number && self.size.offset_in_segment(self.at) > 0;
        let segments = self.segments.iter().filter(|(number, _)| keeps(number));
        Self {
            timeline,
            segments: segments.map(|(number, bytes)| (*number, bytes.clone())).collect(),
            ..self.clone()
        }
    }

    /// Writes a record with main data only; returns where it begins.
    pub fn record(&mut self, xid: u32, manager: u8, info: u8, main: &[u8]) -> Lsn {
        let mut body = Vec::new();
        match u8::try_from(main.len()) {
            Ok(0) => {}
            Ok(length) => body.extend_from_slice(&[255, length]),
            Err(_) => {
                body.push(254);
                body.extend_from_slice(&number(main.len()).to_le_bytes());
            }
        }
        body.extend_from_slice(main);
        self.record_with_body(xid, manager, info, &body)
    }

    /// Writes a record with these bytes behind its header.
    pub fn record_with_body(&mut self, xid: u32, manager: u8, info: u8, body: &[u8]) -> Lsn {
        self.skip_page_header(0);
        let lsn = self.at;
        let bytes = encode(self.previous, xid, manager, info, body);
        self.write(&bytes, 0);
        self.at = self.at.align_up();
        self.previous = lsn;
        self.record_end = self.at;
        lsn
    }

    /// Writes the beginning of a record of which `lost` bytes are lost in a crash, and goes on at the next page.
    pub fn cut_off_record(&mut self, length: usize, lost: usize) -> Lsn {
        self.skip_page_header(0);
        let lsn = self.at;
        let mut body = vec![254];
        body.extend_from_slice(&number(length).to_le_bytes());
        body.resize(body.len() + length, 7);
        let bytes = encode(self.previous, 1, 21, 0, &body);
        self.write(&bytes[..bytes.len() - lost], lost);
        self.at = Lsn::new(self.at.get().next_multiple_of(PAGE as u64));
        self.page_header(0, 0x0008);
        lsn
    }

    /// Writes a switch record and goes on with the next segment.
    pub fn switch(&mut self) -> Lsn {
        let lsn = self.record(0, 0, 0x40, &[]);
        self.at = self.size.start_of(self.size.segment_of(lsn).next());
        self.record_end = self.at;
        lsn
    }

    /// The segments that were begun, with zeros after the end of the last one.
    #[must_use]
    pub fn segments(&self) -> Vec<(SegmentName, Vec<u8>)> {
        let name = |number: &SegmentNumber| SegmentId::new(self.timeline, *number).name(self.size);
        self.segments.iter().map(|(number, bytes)| (name(number), bytes.clone())).collect()
    }

    fn write(&mut self, mut bytes: &[u8], lost: usize) {
        while !bytes.is_empty() {
            self.skip_page_header(number(bytes.len() + lost));
            let offset = place(self.size.offset_in_segment(self.at));
            let room = PAGE - offset % PAGE;
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.segment_at(self.at)[offset..offset + piece.len()].copy_from_slice(piece);
            self.at = self.at.saturating_add(piece.len() as u64);
            bytes = rest;
        }
    }

    /// At the start of a page, writes its header. `remaining` bytes of a record are to come, unless a record begins here.
    fn skip_page_header(&mut self, remaining: u32) {
        if self.at.get().is_multiple_of(PAGE as u64) {
            let continues = remaining > 0 && self.at > self.record_end;
            self.page_header(if continues { remaining } else { 0 }, u16::from(continues));
        }
    }

    fn page_header(&mut self, remaining: u32, mut info: u16) {
        let at = self.at;
        let is_first = self.size.offset_in_segment(at) == 0;
        if is_first {
            info |= 0x0002;
        }
        let mut header = Vec::new();
        header.extend_from_slice(&magic(self.major).to_le_bytes());
        header.extend_from_slice(&info.to_le_bytes());
        header.extend_from_slice(&self.timeline.get().to_le_bytes());
        header.extend_from_slice(&at.get().to_le_bytes());
        header.extend_from_slice(&remaining.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        if is_first {
            header.extend_from_slice(&self.system_id.get().to_le_bytes());
            header.extend_from_slice(&number(place(self.size.bytes())).to_le_bytes());
            header.extend_from_slice(&number(PAGE).to_le_bytes());
        }
        assert!(matches!(header.len(), PageHeader::SHORT_SIZE | PageHeader::LONG_SIZE));
        let offset = place(self.size.offset_in_segment(at));
        self.segment_at(at)[offset..offset + header.len()].copy_from_slice(&header);
        self.at = at.saturating_add(header.len() as u64);
    }

    fn segment_at(&mut self, at: Lsn) -> &mut Vec<u8> {
        let length = place(self.size.bytes());
        self.segments.entry(self.size.segment_of(at)).or_insert_with(|| vec![0; length])
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("a length within a segment")
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset within a segment")
}

/// A record's bytes.
#[must_use]
pub fn encode(previous: Lsn, xid: u32, manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&number(RecordHeader::SIZE + body.len()).to_le_bytes());
    bytes.extend_from_slice(&xid.to_le_bytes());
    bytes.extend_from_slice(&previous.get().to_le_bytes());
    bytes.extend_from_slice(&[info, manager, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn magic(major: PgMajor) -> u16 {
    match major {
        PgMajor::V13 => 0xD106,
        PgMajor::V14 => 0xD10D,
        PgMajor::V15 => 0xD110,
        PgMajor::V16 => 0xD113,
        PgMajor::V17 => 0xD116,
        PgMajor::V18 => 0xD118,
    }
}
