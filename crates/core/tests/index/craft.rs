//! WAL that is written record by record, as PostgreSQL would.

use std::collections::BTreeMap;

use walden_pg::wal::RecordHeader;
use walden_pg::{
    Lsn, PageHeader, PgMajor, SegmentId, SegmentName, SegmentNumber, TimelineId, WalSegmentSize,
};

const PAGE: usize = 8192;
const SYSTEM_ID: u64 = 7_710_205_456_159_029_101;

/// Writes records one after the other into segments.
pub(crate) struct Crafter {
    size: WalSegmentSize,
    major: PgMajor,
    pub(crate) at: Lsn,
    pub(crate) previous: Lsn,
    segments: BTreeMap<SegmentNumber, Vec<u8>>,
    /// Where the last record ends.
    record_end: Lsn,
}

pub(crate) const SIZE: WalSegmentSize = WalSegmentSize::MIN;

impl Crafter {
    /// A writer of segments of 1 MiB that begins with segment 1, where a record of an earlier segment came before.
    pub(crate) fn new(major: PgMajor) -> Self {
        Self::of_size(SIZE, major)
    }

    /// The same with segments of another size.
    pub(crate) fn of_size(size: WalSegmentSize, major: PgMajor) -> Self {
        Self {
            size,
            major,
            at: size.start_of(SegmentNumber::new(1)),
            previous: Lsn::new(0xFFF00),
            segments: BTreeMap::new(),
            record_end: size.start_of(SegmentNumber::new(1)),
        }
    }

    /// Goes on with a segment, behind a record that may have nothing to do with what was written before.
    pub(crate) fn jump(&mut self, number: u64, previous: Lsn) {
        self.at = self.size.start_of(SegmentNumber::new(number));
        self.previous = previous;
        self.record_end = self.at;
    }

    /// Writes a record with main data only.
    pub(crate) fn record(&mut self, xid: u32, manager: u8, info: u8, main: &[u8]) -> Lsn {
        let mut body = Vec::new();
        match u8::try_from(main.len()) {
            Ok(0) => {}
            Ok(length) => body.extend_from_slice(&[255, length]),
            Err(_) => {
                body.push(254);
                body.extend_from_slice(&u32::try_from(main.len()).expect("a number in range").to_le_bytes());
            }
        }
        body.extend_from_slice(main);
        self.record_with_body(xid, manager, info, &body)
    }

    /// Writes a record with these bytes behind its header.
    fn record_with_body(&mut self, xid: u32, manager: u8, info: u8, body: &[u8]) -> Lsn {
        self.skip_page_header(0);
        let lsn = self.at;
        let bytes = encode(self.previous, xid, manager, info, body);
        self.write(&bytes, 0);
        self.at = self.at.align_up();
        self.previous = lsn;
        self.record_end = self.at;
        lsn
    }

    /// Writes the beginning of a record of which `lost` bytes are lost in a crash, and goes on at the
    /// next page.
    pub(crate) fn cut_off_record(&mut self, length: usize, lost: usize) -> Lsn {
        self.skip_page_header(0);
        let lsn = self.at;
        let mut body = vec![254];
        body.extend_from_slice(&u32::try_from(length).expect("a number in range").to_le_bytes());
        body.resize(body.len() + length, 7);
        let bytes = encode(self.previous, 1, 21, 0, &body);
        self.write(&bytes[..bytes.len() - lost], lost);
        let page = (self.at.get()).next_multiple_of(PAGE as u64);
        self.at = Lsn::new(page);
        self.page_header(0, 0x0008);
        lsn
    }

    /// Writes a switch record and goes on with the next segment.
    pub(crate) fn switch(&mut self) -> Lsn {
        let lsn = self.record(0, 0, 0x40, &[]);
        let number = self.size.segment_of(lsn).next();
        self.at = self.size.start_of(number);
        self.record_end = self.at;
        lsn
    }

    /// The segments that were begun, with zeros after the end of the last one.
    pub(crate) fn segments(&self) -> Vec<(SegmentName, Vec<u8>)> {
        let name = |number: &SegmentNumber| SegmentId::new(TimelineId::FIRST, *number).name(self.size);
        self.segments.iter().map(|(number, bytes)| (name(number), bytes.clone())).collect()
    }

    fn write(&mut self, mut bytes: &[u8], lost: usize) {
        while !bytes.is_empty() {
            self.skip_page_header(u32::try_from(bytes.len() + lost).expect("a number in range"));
            let offset = usize::try_from(self.size.offset_in_segment(self.at)).expect("a number in range");
            let room = PAGE - offset % PAGE;
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.segment_at(self.at)[offset..offset + piece.len()].copy_from_slice(piece);
            self.at = self.at.checked_add(piece.len() as u64).expect("a number in range");
            bytes = rest;
        }
    }

    /// At the start of a page, writes its header. `remaining` bytes of a record are to come, unless a
    /// record begins here.
    fn skip_page_header(&mut self, remaining: u32) {
        if self.at.get().is_multiple_of(PAGE as u64) {
            let continues = remaining > 0 && self.in_record();
            self.page_header(if continues { remaining } else { 0 }, u16::from(continues));
        }
    }

    /// Whether the position is behind bytes of a record that is not complete.
    fn in_record(&self) -> bool {
        self.at > self.record_end
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
        header.extend_from_slice(&TimelineId::FIRST.get().to_le_bytes());
        header.extend_from_slice(&at.get().to_le_bytes());
        header.extend_from_slice(&remaining.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        if is_first {
            header.extend_from_slice(&SYSTEM_ID.to_le_bytes());
            header.extend_from_slice(
                &u32::try_from(self.size.bytes()).expect("a number in range").to_le_bytes(),
            );
            header.extend_from_slice(&u32::try_from(PAGE).expect("a number in range").to_le_bytes());
        }
        assert!(matches!(header.len(), PageHeader::SHORT_SIZE | PageHeader::LONG_SIZE));
        let offset = usize::try_from(self.size.offset_in_segment(at)).expect("a number in range");
        self.segment_at(at)[offset..offset + header.len()].copy_from_slice(&header);
        self.at = at.checked_add(header.len() as u64).expect("a number in range");
    }

    fn segment_at(&mut self, at: Lsn) -> &mut Vec<u8> {
        let length = usize::try_from(self.size.bytes()).expect("a number in range");
        let number = self.size.segment_of(at);
        self.segments.entry(number).or_insert_with(|| vec![0; length])
    }
}

/// A record's bytes.
fn encode(previous: Lsn, xid: u32, manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let total = u32::try_from(RecordHeader::SIZE + body.len()).expect("a number in range");
    bytes.extend_from_slice(&total.to_le_bytes());
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
