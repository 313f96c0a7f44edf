//! Reading the records of consecutive segments.
//!
//! The scanner is fed bytes and calls back with records. It never holds more than one page, one record
//! (up to [`WalScannerOptions::max_kept_bytes`]) and a few numbers, whatever the segment size. A record
//! within one page is handed out in place; one that crosses pages is put together in a buffer that is
//! used again. Checked are every page header, the checksum of every record and its link to the one
//! before.

use crate::crc::Scratch;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::segment::{SegmentName, SegmentNumber, WalSegmentSize};
use crate::system_id::SystemId;
use crate::timeline::TimelineId;
use crate::wal::assembly::Assembly;
use crate::wal::fault::Fault;
use crate::wal::items::Items;
use crate::wal::outcome::{Damage, Overwritten, PendingRecord, SegmentOutcome, Stop};
use crate::wal::page::{PageHeader, SegmentHeader};
use crate::wal::record::{Record, RecordHeader, check_crc, check_header, check_length, check_rest, is_next};

mod resume;

pub use resume::PendingBytes;
use resume::Proof;

/// What to do at a damaged place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Stop: nothing behind the damage is read. As recovery does.
    #[default]
    Stop,
    /// Note the damage and go on. Behind a record that is damaged within, this is the next record, which
    /// must link to it. Else it is the first record that begins on a later page; the records in between
    /// are lost, and the next one's link to the one before it is not checked.
    Resync,
}

/// What a scanner is to expect.
#[derive(Debug, Clone, Copy)]
pub struct WalScannerOptions {
    /// The server's segment size, without which a segment's name says nothing.
    pub segment_size: WalSegmentSize,
    /// The server's system identifier; `None` takes that of the first segment.
    pub system_id: Option<SystemId>,
    /// The server's major version; `None` takes that of the first segment.
    pub major: Option<PgMajor>,
    /// What to do at a damaged place.
    pub on_damage: OnDamage,
    /// Of a record longer than this only the beginning is handed out, in bytes. Its checksum is checked
    /// all the same. At least 4 KiB are always kept.
    pub max_kept_bytes: usize,
    /// Of a record that reaches into a segment which was not joined, so many bytes are kept for
    /// [`WalScanner::head_bytes`].
    pub max_head_bytes: usize,
}

impl WalScannerOptions {
    /// The default of [`WalScannerOptions::max_kept_bytes`]: 8 MiB, a commit of two million
    /// subtransactions.
    pub const DEFAULT_MAX_KEPT_BYTES: usize = 8 << 20;

    /// Options for a server with this segment size, with nothing else known, that stop at damage.
    pub const fn new(segment_size: WalSegmentSize) -> Self {
        Self {
            segment_size,
            system_id: None,
            major: None,
            on_damage: OnDamage::Stop,
            max_kept_bytes: Self::DEFAULT_MAX_KEPT_BYTES,
            max_head_bytes: 0,
        }
    }
}

/// The largest WAL page that PostgreSQL can be built with is 64 KiB; this is the usual one.
const USUAL_PAGE_SIZE: usize = 8192;

/// Where in the stream of records the scanner is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// Nothing is known of what came before the next page.
    Cold,
    /// In a record whose beginning was not seen, with so many bytes to come.
    SkippingHead { missing: u32 },
    /// The next page begins with a record.
    Records,
    /// In a record whose beginning is in the assembly.
    Assembling,
    /// Behind a switch, at this position: there is nothing until the next segment.
    SwitchTail(Lsn),
    /// A record should begin here but does not follow the one before it. The next page decides whether
    /// these are old contents of a file that was used again, or damage.
    Doubtful(Damage),
    /// The WAL ended. If a later page is as it should be, it did not.
    Ended(Stop),
    /// Nothing more is read of this segment.
    Stopped(Damage),
}

/// A reader of records from consecutive segments.
///
/// Feed it segment by segment, each with [`WalScanner::scan_segment`] or in pieces with
/// [`WalScanner::begin_segment`], [`WalScanner::feed`] and [`WalScanner::finish_segment`]. A segment
/// that follows the one before it by number is joined to it, so that records which cross the border
/// are read whole; its timeline may be a newer one, as on a timeline path. Any other segment is begun
/// cold: the rest of a record that began before it is skipped.
#[derive(Debug)]
pub struct WalScanner {
    options: WalScannerOptions,
    system_id: Option<SystemId>,
    major: Option<PgMajor>,
    mode: Mode,
    /// Where the last record begins that was read whole.
    previous: Option<Lsn>,
    /// The timeline of the last page.
    page_timeline: Option<TimelineId>,
    /// The segment that would join what was read so far.
    next_segment: Option<SegmentNumber>,
    /// The next page's position.
    position: Lsn,
    page_size: Option<usize>,
    /// The beginning of a page whose rest has not been fed yet.
    partial_page: Vec<u8>,
    assembly: Assembly,
    /// Whether the state comes from elsewhere, and was found to be true.
    proof: Proof,
    /// The beginning of the bytes of a record that reaches into the segment.
    head: Vec<u8>,
    items: Items,
    scratch: Scratch,
    current: Option<Current>,
}

/// The segment being scanned.
#[derive(Debug)]
struct Current {
    outcome: SegmentOutcome,
    end: Lsn,
    too_long: bool,
}

/// The segment being scanned, and who takes its records.
struct Pass<'s> {
    current: Current,
    sink: &'s mut dyn FnMut(&Record<'_>),
}

/// A record of which all bytes were seen and whose header was checked.
struct Found<'a> {
    lsn: Lsn,
    end: Lsn,
    timeline: TimelineId,
    header: RecordHeader,
    bytes: &'a [u8],
    /// The CRC-32C of the bytes behind the header, if it was computed on the way.
    crc_of_rest: Option<u32>,
}

/// What ends the reading of a page early.
enum Halt {
    /// The WAL ends properly.
    End(Stop),
    /// Something is there that is not a record which follows: decided by the next page.
    Doubt(Damage),
    /// Damage beyond doubt.
    Broken(Damage),
    /// The segment is another server's: nothing of it must be read.
    Foreign(Damage),
}

fn broken(lsn: Lsn, fault: Fault) -> Halt {
    Halt::Broken(Damage { lsn, fault })
}

impl WalScanner {
    /// A scanner that has read nothing.
    pub fn new(options: WalScannerOptions) -> Self {
        Self {
            system_id: options.system_id,
            major: options.major,
            mode: Mode::Cold,
            previous: None,
            page_timeline: None,
            next_segment: None,
            position: Lsn::INVALID,
            page_size: None,
            partial_page: Vec::new(),
            assembly: Assembly::new(options.max_kept_bytes),
            proof: Proof::Seen,
            head: Vec::new(),
            items: Items::default(),
            scratch: Scratch::new(),
            current: None,
            options,
        }
    }

    /// Reads a whole segment and hands its records to `sink`.
    ///
    /// # Errors
    /// [`Error::SegmentNameOutOfRange`] if no segment of this size has such a name. Whatever is wrong
    /// with the bytes is told by the outcome.
    pub fn scan_segment(
        &mut self,
        name: SegmentName,
        bytes: &[u8],
        mut sink: impl FnMut(&Record<'_>),
    ) -> Result<SegmentOutcome, Error> {
        self.begin_segment(name)?;
        self.feed(bytes, &mut sink);
        Ok(self.finish_segment(&mut sink))
    }

    /// Begins a segment. A segment that was begun before and not finished is given up.
    ///
    /// # Errors
    /// [`Error::SegmentNameOutOfRange`] if no segment of this size has such a name.
    pub fn begin_segment(&mut self, name: SegmentName) -> Result<(), Error> {
        let size = self.options.segment_size;
        let number = name.id(size)?.number;
        let unfinished = self.current.take().is_some();
        let follows = !unfinished && self.next_segment == Some(number);
        if !follows {
            self.forget();
            self.page_timeline = None;
        }
        let joined = match self.mode {
            Mode::Assembling => true,
            Mode::Records => self.previous.is_some(),
            _ => false,
        };
        self.head.clear();
        self.position = size.start_of(number);
        self.next_segment = None;
        self.page_size = None;
        self.partial_page.clear();
        let outcome = SegmentOutcome::begun(name, joined);
        self.current = Some(Current { outcome, end: size.end_of(number), too_long: false });
        Ok(())
    }

    /// Reads the next bytes of the segment that was begun, any number of them, and hands records to
    /// `sink`. Without a segment nothing is read.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&Record<'_>)) {
        let Some(current) = self.current.take() else { return };
        let mut pass = Pass { current, sink: &mut sink };
        while !bytes.is_empty() {
            if self.position >= pass.current.end {
                pass.current.too_long = true;
                break;
            }
            bytes = self.take_page(bytes, &mut pass);
        }
        self.current = Some(pass.current);
    }

    /// Ends the segment and tells what it was.
    ///
    /// Without a segment this is the outcome of an empty one.
    pub fn finish_segment(&mut self, mut sink: impl FnMut(&Record<'_>)) -> SegmentOutcome {
        let Some(current) = self.current.take() else {
            let mut outcome = SegmentOutcome::begun(SegmentName::new(TimelineId::FIRST, 0, 0), false);
            outcome.stop = Stop::Truncated { lsn: Lsn::INVALID };
            return outcome;
        };
        let mut pass = Pass { current, sink: &mut sink };
        let input_end = self.position.saturating_add(self.partial_page.len() as u64);
        // The input may end within a page. The records that are there whole are still good.
        let page = std::mem::take(&mut self.partial_page);
        if page.len() >= PageHeader::LONG_SIZE {
            self.read_page(&page, &mut pass);
        }
        let mut current = pass.current;
        if current.outcome.joined {
            current.outcome.head = 0;
            self.head.clear();
        }
        current.outcome.stop = match std::mem::replace(&mut self.mode, Mode::Cold) {
            Mode::Stopped(damage) | Mode::Doubtful(damage) => Stop::Corrupt(damage),
            Mode::Ended(stop) => stop,
            _ if current.too_long => Stop::Corrupt(Damage { lsn: current.end, fault: Fault::TooLong }),
            _ if input_end < current.end => Stop::Truncated { lsn: input_end },
            Mode::SwitchTail(lsn) => {
                self.join_next(&current, Mode::Records);
                Stop::SwitchTail { lsn }
            }
            mode => {
                current.outcome.pending = self.pending(&mode);
                self.join_next(&current, mode);
                Stop::SegmentEnd
            }
        };
        current.outcome
    }

    fn join_next(&mut self, current: &Current, mode: Mode) {
        self.mode = mode;
        self.next_segment = Some(self.options.segment_size.segment_of(current.end));
    }

    /// The record that was begun and is not complete.
    fn pending(&self, mode: &Mode) -> Option<PendingRecord> {
        (*mode == Mode::Assembling).then(|| PendingRecord {
            lsn: self.assembly.lsn,
            have: self.assembly.have(),
            total: self.assembly.total,
        })
    }

    /// Takes at most one page off the front of `bytes`, and reads it when it is complete.
    fn take_page<'b>(&mut self, bytes: &'b [u8], pass: &mut Pass<'_>) -> &'b [u8] {
        // The first page tells how long pages are; before that only its header is asked for.
        let wanted = self.page_size.unwrap_or(PageHeader::LONG_SIZE);
        if self.partial_page.is_empty()
            && let Some((page, rest)) = bytes.split_at_checked(wanted)
        {
            if self.page_size.is_none() {
                self.learn_page_size(page);
                return bytes;
            }
            self.read_page(page, pass);
            return rest;
        }
        let missing = wanted.saturating_sub(self.partial_page.len()).min(bytes.len());
        let (piece, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        self.partial_page.extend_from_slice(piece);
        if self.partial_page.len() == wanted {
            let mut page = std::mem::take(&mut self.partial_page);
            if self.page_size.is_none() {
                self.learn_page_size(&page);
            } else {
                self.read_page(&page, pass);
                page.clear();
            }
            self.partial_page = page;
        }
        rest
    }

    fn learn_page_size(&mut self, head: &[u8]) {
        let told = SegmentHeader::parse(head).ok().and_then(|header| usize::try_from(header.block_size).ok());
        self.page_size = Some(told.unwrap_or(USUAL_PAGE_SIZE));
    }

    /// Reads one page, which is shorter than the others only where the input ends.
    fn read_page(&mut self, page: &[u8], pass: &mut Pass<'_>) {
        let address = self.position;
        self.position = address.saturating_add(page.len() as u64);
        match &self.mode {
            Mode::SwitchTail(_) | Mode::Stopped(_) => return,
            Mode::Ended(stop) => {
                if !self.is_next_page(page, address, pass) {
                    return;
                }
                let lsn = match stop {
                    Stop::ZeroTail { lsn } | Stop::RecycledTail { lsn } => *lsn,
                    _ => address,
                };
                self.damaged(Damage { lsn, fault: Fault::Hole { resumes_at: address } }, pass);
            }
            Mode::Doubtful(damage) => {
                let damage = damage.clone();
                if !self.is_next_page(page, address, pass) {
                    self.mode = Mode::Ended(Stop::RecycledTail { lsn: damage.lsn });
                    return;
                }
                self.damaged(damage, pass);
            }
            Mode::Cold | Mode::SkippingHead { .. } | Mode::Records | Mode::Assembling => {}
        }
        if matches!(self.mode, Mode::Stopped(_)) {
            return;
        }
        match self.read_records(page, address, pass) {
            Ok(()) => {}
            Err(Halt::End(stop)) => {
                pass.current.outcome.pending = self.pending(&self.mode);
                self.mode = Mode::Ended(stop);
            }
            Err(Halt::Doubt(damage)) => self.mode = Mode::Doubtful(damage),
            Err(Halt::Broken(damage)) => self.damaged(damage, pass),
            Err(Halt::Foreign(damage)) => self.mode = Mode::Stopped(damage),
        }
    }

    /// Notes damage, and goes on or not, as the options say.
    fn damaged(&mut self, damage: Damage, pass: &mut Pass<'_>) {
        match self.options.on_damage {
            OnDamage::Stop => self.mode = Mode::Stopped(damage),
            OnDamage::Resync => {
                pass.current.outcome.pending = None;
                pass.current.outcome.note(damage);
                self.forget();
            }
        }
    }

    /// Knows nothing any more of what came before.
    fn forget(&mut self) {
        self.mode = Mode::Cold;
        self.previous = None;
        self.proof = Proof::Seen;
    }

    /// Goes on behind a record that is damaged within, where the options allow it. If its length is
    /// damaged too, what follows will not link to it.
    fn pass_over(&mut self, damage: Damage, pass: &mut Pass<'_>) -> Result<(), Halt> {
        if self.options.on_damage == OnDamage::Stop {
            return Err(Halt::Broken(damage));
        }
        self.previous = Some(damage.lsn);
        pass.current.outcome.note(damage);
        Ok(())
    }

    /// Whether a page is what WAL would go on with here.
    fn is_next_page(&self, page: &[u8], address: Lsn, pass: &Pass<'_>) -> bool {
        PageHeader::parse(page).is_ok_and(|header| {
            header.address == address
                && self.major.is_none_or(|major| major == header.major)
                && header.timeline <= pass.current.outcome.segment.timeline()
        })
    }

    /// Checks a page's header.
    fn check_page(&mut self, page: &[u8], address: Lsn, pass: &mut Pass<'_>) -> Result<PageHeader, Halt> {
        let header = match PageHeader::parse(page) {
            Ok(header) => header,
            Err(Error::UnknownPageMagic { magic: 0 }) if page.iter().all(|&byte| byte == 0) => {
                return Err(Halt::End(Stop::ZeroTail { lsn: address }));
            }
            Err(error) => return Err(broken(address, Fault::PageHeader(error))),
        };
        // Whose the segment is comes first: the rest is judged as its own server's.
        let is_first = self.options.segment_size.offset_in_segment(address) == 0;
        if is_first && header.flags.has_long_header() {
            self.check_segment(page, address, pass)?;
        }
        if header.address < address {
            return Err(Halt::End(Stop::RecycledTail { lsn: address }));
        }
        if header.address > address {
            return Err(broken(address, Fault::PageAddress { found: header.address }));
        }
        if header.flags.has_long_header() != is_first {
            return Err(broken(address, Fault::PageHeaderLength));
        }
        if *self.major.get_or_insert(header.major) != header.major {
            return Err(broken(address, Fault::PageMajor { found: header.major.number() }));
        }
        let too_new = header.timeline > pass.current.outcome.segment.timeline();
        if too_new || self.page_timeline.is_some_and(|before| header.timeline < before) {
            return Err(broken(address, Fault::PageTimeline { found: header.timeline }));
        }
        self.page_timeline = Some(header.timeline);
        Ok(header)
    }

    /// Checks what only a segment's first page tells: whose it is.
    fn check_segment(&mut self, page: &[u8], address: Lsn, pass: &mut Pass<'_>) -> Result<(), Halt> {
        let header = SegmentHeader::parse(page).map_err(|error| broken(address, Fault::PageHeader(error)))?;
        pass.current.outcome.header = Some(header);
        let foreign = |fault| Err(Halt::Foreign(Damage { lsn: address, fault }));
        if header.segment_size != self.options.segment_size {
            return foreign(Fault::SegmentSize { found: header.segment_size.bytes() });
        }
        if self.major.is_some_and(|major| major != header.page.major) {
            return foreign(Fault::PageMajor { found: header.page.major.number() });
        }
        if *self.system_id.get_or_insert(header.system_id) != header.system_id {
            return foreign(Fault::SystemIdentifier { found: header.system_id.get() });
        }
        Ok(())
    }

    /// Reads everything on a page.
    fn read_records(&mut self, page: &[u8], address: Lsn, pass: &mut Pass<'_>) -> Result<(), Halt> {
        let header = self.check_page(page, address, pass)?;
        let Some(mut at) = self.read_continuation(page, address, &header, pass)? else {
            return Ok(());
        };
        if matches!(self.mode, Mode::SwitchTail(_)) {
            return Ok(());
        }
        self.mode = Mode::Records;
        while let Some(rest) = page.get(at..)
            && let Some(total) = rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
        {
            let lsn = address.saturating_add(at as u64);
            let next = rest.first_chunk().map(RecordHeader::parse).filter(|header| {
                self.major.is_some_and(|major| is_next(header, self.previous, major))
                    && self.proof == Proof::Seen
            });
            let parsed = match next {
                Some(header) => Some(header),
                None => self.check_start(lsn, total, rest, pass)?,
            };
            let length = total as usize;
            let (Some(bytes), Some(parsed)) = (rest.get(..length), parsed) else {
                self.assembly.begin(lsn, header.timeline, total, rest);
                self.mode = Mode::Assembling;
                return Ok(());
            };
            at += length.next_multiple_of(8);
            self.deliver(
                &Found {
                    lsn,
                    end: address.saturating_add(at as u64),
                    timeline: header.timeline,
                    header: parsed,
                    bytes,
                    crc_of_rest: None,
                },
                pass,
            )?;
            if matches!(self.mode, Mode::SwitchTail(_)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Checks what is at the place where a record should begin, as far as it is on this page.
    #[cold]
    fn check_start(
        &mut self,
        lsn: Lsn,
        total: u32,
        rest: &[u8],
        pass: &mut Pass<'_>,
    ) -> Result<Option<RecordHeader>, Halt> {
        let parsed = rest.first_chunk().map(RecordHeader::parse);
        let mut checked = match (&parsed, self.major) {
            (Some(header), Some(major)) => check_header(header, lsn, self.previous, major),
            _ => check_length(total),
        };
        if self.proof != Proof::Seen
            && let (Some(header), Some(major)) = (&parsed, self.major)
        {
            checked = self.check_resumed_link(checked, (header, lsn, major), pass);
        }
        let Err(fault) = checked else { return Ok(parsed) };
        if total == 0 && rest.iter().all(|&byte| byte == 0) {
            return Err(Halt::End(Stop::ZeroTail { lsn }));
        }
        // What follows the record before is WAL, and damaged; what does not can be an old record.
        let follows =
            self.previous.is_some() && parsed.is_some_and(|header| self.previous == Some(header.previous));
        let damage = Damage { lsn, fault };
        Err(if follows { Halt::Broken(damage) } else { Halt::Doubt(damage) })
    }

    /// Reads the rest of a record that began on an earlier page. Returns where in the page the first
    /// record begins, or `None` if the page has none.
    fn read_continuation(
        &mut self,
        page: &[u8],
        address: Lsn,
        header: &PageHeader,
        pass: &mut Pass<'_>,
    ) -> Result<Option<usize>, Halt> {
        let body = header.size();
        self.check_resumed_page(header, pass);
        let outcome = &mut pass.current.outcome;
        let Some(expected) = self.expected_continuation(address, header, outcome)? else {
            return Ok(Some(body));
        };
        let available = page.get(body..).unwrap_or_default();
        let piece = available.get(..expected as usize).unwrap_or(available);
        // A piece is at most a page long.
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        if self.mode == Mode::Assembling {
            if self.proof != Proof::Seen {
                self.keep_head(piece, length, pass);
            }
            self.assembly.add(piece);
        } else {
            outcome.skipped_head = outcome.skipped_head.saturating_add(length);
            self.mode = Mode::SkippingHead { missing: expected.saturating_sub(length) };
            self.keep_head(piece, length, pass);
        }
        if piece.len() < expected as usize {
            return Ok(None);
        }
        let at = (body + piece.len()).next_multiple_of(8);
        if self.mode == Mode::Assembling {
            let delivered = self.deliver_assembled(address.saturating_add(at as u64), pass);
            self.judge_resumed(delivered, pass)?;
        }
        Ok(Some(at))
    }

    /// How many bytes of an earlier record the page and those after it must have, `None` if the page
    /// begins with a record.
    fn expected_continuation(
        &mut self,
        address: Lsn,
        header: &PageHeader,
        outcome: &mut SegmentOutcome,
    ) -> Result<Option<u32>, Halt> {
        let continues = header.flags.continues_record();
        let expected = match self.mode {
            Mode::Assembling if !continues && header.flags.overwrites_record() => {
                outcome.overwritten.push(Overwritten { record: self.assembly.lsn, page: address });
                return Ok(None);
            }
            Mode::Assembling => self.assembly.missing(),
            Mode::SkippingHead { missing } => missing,
            Mode::Cold if continues => header.remaining,
            _ if continues => return Err(broken(address, Fault::UnexpectedContinuation)),
            _ => return Ok(None),
        };
        if !continues {
            return Err(broken(address, Fault::MissingContinuation));
        }
        if header.remaining != expected || expected == 0 || expected > RecordHeader::MAX_RECORD {
            return Err(broken(address, Fault::ContinuationLength { expected, found: header.remaining }));
        }
        Ok(Some(expected))
    }

    /// Checks and hands out the record in the assembly, which is complete.
    fn deliver_assembled(&mut self, end: Lsn, pass: &mut Pass<'_>) -> Result<(), Halt> {
        let Assembly { lsn, timeline, total, .. } = self.assembly;
        let (Some(header), Some(major)) = (self.assembly.header(), self.major) else {
            return Err(broken(lsn, Fault::RecordLength { found: total }));
        };
        check_header(&header, lsn, self.previous, major).map_err(|fault| broken(lsn, fault))?;
        let crc_of_rest = Some(self.assembly.crc_of_rest());
        let bytes = self.assembly.take_bytes();
        let delivered = self.deliver(&Found { lsn, end, timeline, header, bytes: &bytes, crc_of_rest }, pass);
        self.assembly.put_back(bytes);
        delivered
    }

    /// Checks a record's checksum and parts and hands it out.
    #[expect(clippy::inline_always, reason = "called once per record, and slow with its arguments in memory")]
    #[inline(always)]
    fn deliver(&mut self, found: &Found<'_>, pass: &mut Pass<'_>) -> Result<(), Halt> {
        let Found { lsn, mut end, timeline, header, bytes, crc_of_rest } = *found;
        let Some(major) = self.major else { return Ok(()) };
        let checked = match crc_of_rest {
            Some(crc_of_rest) => check_rest(&header, bytes, crc_of_rest),
            None => check_crc(&header, bytes, &mut self.scratch),
        };
        let checked = checked.and_then(|()| self.items.parse(bytes, &header, major));
        if let Err(fault) = checked {
            // Of a record that another process began, it is not known which part of it is wrong.
            if self.proof != Proof::Seen {
                return Err(broken(lsn, fault));
            }
            return self.pass_over(Damage { lsn, fault }, pass);
        }
        if header.is_switch() {
            self.mode = Mode::SwitchTail(end);
            end = pass.current.end;
        }
        self.previous = Some(lsn);
        let outcome = &mut pass.current.outcome;
        outcome.records += 1;
        outcome.first_record.get_or_insert(lsn);
        outcome.last_record = Some(lsn);
        outcome.end = Some(end);
        (pass.sink)(&Record { lsn, end, timeline, major, header, bytes, items: &self.items });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
