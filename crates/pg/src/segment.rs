//! WAL segments: their size, their numbers and their names.
//!
//! PostgreSQL source: `src/include/access/xlog_internal.h` (`XLByteToSeg`, `XLogFileName`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, quoted};
use crate::hex;
use crate::lsn::Lsn;
use crate::serde_text::serde_as_text;
use crate::timeline::TimelineId;

/// The size of a server's WAL segments: a power of two from 1 MiB to 1 GiB. Serialised as a number
/// of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct WalSegmentSize(u32);

impl WalSegmentSize {
    /// The smallest size, 1 MiB.
    pub const MIN: Self = Self(1 << 20);
    /// The size unless `initdb --wal-segsize` says otherwise, 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);
    /// The largest size, 1 GiB.
    pub const MAX: Self = Self(1 << 30);

    /// The segment size of this many bytes.
    ///
    /// # Errors
    /// [`Error::InvalidSegmentSize`] unless it is a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<Self, Error> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&size) => {
                Ok(Self(size))
            }
            _ => Err(Error::InvalidSegmentSize { bytes }),
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// How many segments share the middle eight digits of their names: 4 (1 GiB) to 4096 (1 MiB).
    pub const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.get() / self.bytes())
    }

    /// The last segment needed to have everything before `end`, the position after the last byte.
    ///
    /// An end that lies on a segment boundary belongs to the segment before it. Position 0 has
    /// nothing before it and gives segment 0.
    pub const fn last_segment_before(self, end: Lsn) -> SegmentNumber {
        SegmentNumber(end.get().saturating_sub(1) / self.bytes())
    }

    /// The position of the segment's first byte. Saturates at the last segment boundary for numbers
    /// past the end of the address space.
    pub const fn start_of(self, number: SegmentNumber) -> Lsn {
        let last = u64::MAX / self.bytes();
        let number = if number.0 > last { last } else { number.0 };
        Lsn::new(number * self.bytes())
    }

    /// The position after the segment's last byte, which is the next segment's first. Saturates at
    /// [`Lsn::MAX`].
    pub const fn end_of(self, number: SegmentNumber) -> Lsn {
        self.start_of(number).saturating_add(self.bytes())
    }

    /// The byte's distance from the start of its segment.
    pub const fn offset_in_segment(self, lsn: Lsn) -> u64 {
        lsn.get() % self.bytes()
    }

    /// The number of the last segment in the address space.
    const fn last_number(self) -> u64 {
        u64::MAX / self.bytes()
    }
}

impl fmt::Display for WalSegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for WalSegmentSize {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<Self, Error> {
        Self::new(bytes)
    }
}

impl From<WalSegmentSize> for u64 {
    fn from(size: WalSegmentSize) -> Self {
        size.bytes()
    }
}

/// The number of a segment: its first byte's LSN divided by the segment size. It means nothing
/// without that size. The first segment that a server writes is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// The segment with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The segment after this one. Saturates at the largest number.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The segment before this one, `None` before segment 0.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A segment of a timeline, in the form to calculate with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId {
    /// The timeline in the segment's name.
    pub timeline: TimelineId,
    /// The segment's number.
    pub number: SegmentNumber,
}

impl SegmentId {
    /// Segment `number` of `timeline`.
    pub const fn new(timeline: TimelineId, number: SegmentNumber) -> Self {
        Self { timeline, number }
    }

    /// The segment's file name. A number past the end of the address space gives the name of the
    /// last segment; [`WalSegmentSize::segment_of`] never yields one.
    pub fn name(self, size: WalSegmentSize) -> SegmentName {
        let number = self.number.0.min(size.last_number());
        let per_log = size.segments_per_log();
        // Both quotients fit: the number is at most (2^64 - 1) / size, and per_log * size is 2^32.
        let log = u32::try_from(number / per_log).unwrap_or(u32::MAX);
        let seg = u32::try_from(number % per_log).unwrap_or(u32::MAX);
        SegmentName { timeline: self.timeline, log, seg }
    }

    /// The next segment of the same timeline.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { timeline: self.timeline, number: self.number.next() }
    }
}

/// The name of a segment: 24 upper-case hexadecimal digits, eight each for the timeline, the upper
/// half of the LSN and the segment within it. Orders as the text does. The name alone does not say
/// which LSNs the segment holds: that takes the segment size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    seg: u32,
}

impl SegmentName {
    /// The name of these three parts.
    pub const fn new(timeline: TimelineId, log: u32, seg: u32) -> Self {
        Self { timeline, log, seg }
    }

    /// The timeline: the first eight digits.
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The upper 32 bits of the segment's LSNs: the middle eight digits.
    pub const fn log(self) -> u32 {
        self.log
    }

    /// The segment among those with the same [`SegmentName::log`]: the last eight digits.
    pub const fn seg(self) -> u32 {
        self.seg
    }

    /// The segment that this name means with segments of `size`.
    ///
    /// # Errors
    /// [`Error::SegmentNameOutOfRange`] if no segment of that size has such a name.
    pub fn id(self, size: WalSegmentSize) -> Result<SegmentId, Error> {
        let per_log = size.segments_per_log();
        if u64::from(self.seg) >= per_log {
            return Err(self.out_of_range(size));
        }
        let number = SegmentNumber(u64::from(self.log) * per_log + u64::from(self.seg));
        Ok(SegmentId { timeline: self.timeline, number })
    }

    /// The position of the segment's first byte.
    ///
    /// # Errors
    /// As [`SegmentName::id`].
    pub fn start_lsn(self, size: WalSegmentSize) -> Result<Lsn, Error> {
        Ok(size.start_of(self.id(size)?.number))
    }

    /// The name of the next segment of the same timeline.
    ///
    /// # Errors
    /// As [`SegmentName::id`], and for the last segment of the address space.
    pub fn next(self, size: WalSegmentSize) -> Result<Self, Error> {
        let id = self.id(size)?;
        if id.number.0 >= size.last_number() {
            return Err(self.out_of_range(size));
        }
        Ok(id.next().name(size))
    }

    fn out_of_range(self, size: WalSegmentSize) -> Error {
        Error::SegmentNameOutOfRange { name: self.to_string(), segment_size: size.bytes() }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.seg)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentName({self})")
    }
}

impl FromStr for SegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let part = |range| text.get(range).and_then(hex::parse_upper8);
        let parts =
            if text.len() == 24 { (part(0..8), part(8..16), part(16..24)) } else { (None, None, None) };
        match parts {
            (Some(timeline), Some(log), Some(seg)) => {
                TimelineId::new(timeline).ok().map(|timeline| Self { timeline, log, seg })
            }
            _ => None,
        }
        .ok_or_else(|| Error::InvalidSegmentName { text: quoted(text) })
    }
}

serde_as_text!(SegmentName, "a segment name of 24 upper-case hexadecimal digits");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes() -> impl Strategy<Value = WalSegmentSize> {
        (20u32..=30).prop_map(|bits| WalSegmentSize::new(1 << bits).unwrap())
    }

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn sizes_are_powers_of_two_from_1_mib_to_1_gib() {
        for bits in 0..64 {
            assert_eq!(WalSegmentSize::new(1 << bits).is_ok(), (20..=30).contains(&bits), "2^{bits}");
        }
        for bad in [0, (1 << 20) + 1, 3 << 20, (1 << 30) + 1, (1 << 32) + (1 << 20), u64::MAX] {
            assert!(WalSegmentSize::new(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<WalSegmentSize>("5").is_err());
        assert_eq!(serde_json::to_string(&WalSegmentSize::DEFAULT).unwrap(), "16777216");
    }

    #[test]
    fn names_are_those_of_pg_walfile_name() {
        let at = |lsn: &str, size: WalSegmentSize| {
            SegmentId::new(TimelineId::FIRST, size.segment_of(lsn.parse().unwrap())).name(size).to_string()
        };
        assert_eq!(at("0/1000028", WalSegmentSize::DEFAULT), "000000010000000000000001");
        assert_eq!(at("1/FF000000", WalSegmentSize::DEFAULT), "0000000100000001000000FF");
        assert_eq!(at("0/FFFFFFFF", WalSegmentSize::MIN), "000000010000000000000FFF");
        assert_eq!(at("7/C0000000", WalSegmentSize::MAX), "000000010000000700000003");
    }

    #[test]
    fn an_end_on_a_boundary_belongs_to_the_segment_before() {
        let size = WalSegmentSize::DEFAULT;
        let boundary: Lsn = "0/3000000".parse().unwrap();
        assert_eq!(size.segment_of(boundary).get(), 3);
        assert_eq!(size.last_segment_before(boundary).get(), 2);
        assert_eq!(size.last_segment_before(boundary.saturating_add(1)).get(), 3);
        assert_eq!(size.last_segment_before(Lsn::INVALID).get(), 0);
    }

    #[test]
    fn a_name_may_not_fit_the_size() {
        let size = WalSegmentSize::DEFAULT;
        assert!(name("000000010000000000000100").id(size).is_err());
        assert!(name("000000010000000000000100").id(WalSegmentSize::MIN).is_ok());
        assert!(name("000000010000000000000004").id(WalSegmentSize::MAX).is_err());
        assert_eq!(name("0000000100000000000000FF").next(size), Ok(name("000000010000000100000000")));
        assert!(name("00000001FFFFFFFF000000FF").next(size).is_err());
        assert_eq!(name("0000000A00000002000000A0").start_lsn(size), Ok("2/A0000000".parse().unwrap()));
    }

    #[test]
    fn only_24_upper_case_digits_are_a_name() {
        for bad in [
            "",
            "00000000000000000000000A",
            "00000001000000000000000a",
            "00000001000000000000000",
            "0000000100000000000000001",
            "+00000010000000000000001",
            "0000000100000000000000é",
            "00000001000000000000001\n",
        ] {
            assert!(bad.parse::<SegmentName>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(timeline in 1u32.., log: u32, seg: u32) {
            let name = SegmentName::new(TimelineId::new(timeline).unwrap(), log, seg);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<SegmentName>(&json).unwrap(), name);
        }

        #[test]
        fn every_lsn_is_in_its_segment(lsn: u64, size in sizes(), timeline in 1u32..) {
            let lsn = Lsn::new(lsn);
            let id = SegmentId::new(TimelineId::new(timeline).unwrap(), size.segment_of(lsn));
            let start = size.start_of(id.number);
            prop_assert_eq!(start.checked_add(size.offset_in_segment(lsn)), Some(lsn));
            prop_assert!(lsn < size.end_of(id.number) || lsn == Lsn::MAX);
            let name = id.name(size);
            prop_assert_eq!(name.id(size), Ok(id));
            prop_assert_eq!(name.start_lsn(size), Ok(start));
        }

        #[test]
        fn names_order_as_their_text_and_as_their_numbers(a: u64, b: u64, size in sizes()) {
            let id = |lsn| SegmentId::new(TimelineId::FIRST, size.segment_of(Lsn::new(lsn)));
            let (a, b) = (id(a), id(b));
            let (name_a, name_b) = (a.name(size), b.name(size));
            prop_assert_eq!(a.cmp(&b), name_a.cmp(&name_b));
            prop_assert_eq!(name_a.cmp(&name_b), name_a.to_string().cmp(&name_b.to_string()));
        }

        #[test]
        fn out_of_range_numbers_saturate(number: u64, size in sizes()) {
            let number = SegmentNumber::new(number);
            let id = SegmentId::new(TimelineId::FIRST, number);
            prop_assert!(size.start_of(number) <= size.end_of(number));
            prop_assert!(id.name(size).id(size).unwrap().number <= number);
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "[0-9A-Fa-f.é]{0,30}") {
            if let Ok(name) = text.parse::<SegmentName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
