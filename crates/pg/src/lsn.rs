//! Positions in the WAL.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, quoted};
use crate::hex;
use crate::serde_text::serde_as_text_or_number;

/// A log sequence number: a byte position in the WAL of one timeline.
///
/// Written as PostgreSQL writes it, `X/Y`: the upper and the lower 32 bits in hexadecimal, without
/// leading zeros (`XLogRecPtr` and `LSN_FORMAT_ARGS` in `src/include/access/xlogdefs.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`, "no position": no record ever starts at 0.
    pub const INVALID: Self = Self(0);
    /// The last position that can be written.
    pub const MAX: Self = Self(u64::MAX);

    /// The position at byte `value`.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The position as a number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is a position at all, that is, not [`Lsn::INVALID`].
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// The position `bytes` before, or `None` before the start of the address space.
    pub fn checked_sub(self, bytes: u64) -> Option<Self> {
        self.0.checked_sub(bytes).map(Self)
    }

    /// The position `bytes` further on, or [`Lsn::MAX`].
    #[must_use]
    pub const fn saturating_add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// How many bytes this position is past `earlier`, or `None` if it lies before it.
    pub fn bytes_since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The first position at or after this one where a record may start: records are aligned to 8
    /// bytes (`MAXALIGN`). Saturates at the last aligned position.
    #[must_use]
    pub const fn align_up(self) -> Self {
        Self(self.0.saturating_add(7) & !7)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Parses `X/Y`, each part one to eight hexadecimal digits of either case, as `pg_lsn` does.
    fn from_str(text: &str) -> Result<Self, Error> {
        text.split_once('/')
            .and_then(|(high, low)| Some((hex::parse_up_to8(high)?, hex::parse_up_to8(low)?)))
            .map(|(high, low)| Self(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| Error::InvalidLsn { text: quoted(text) })
    }
}

serde_as_text_or_number!(Lsn, "an LSN such as \"16/B374D848\"");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_postgres_text() {
        assert_eq!(Lsn::new(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn::INVALID.to_string(), "0/0");
        assert_eq!(Lsn::MAX.to_string(), "FFFFFFFF/FFFFFFFF");
        assert_eq!("0/01000028".parse(), Ok(Lsn::new(0x100_0028)));
        assert_eq!("a/bC".parse(), Ok(Lsn::new(0xA_0000_00BC)));
        for bad in ["", "/", "0", "0/", "/0", "0/0/0", "+1/0", "0/123456789", "0 /0", "g/0", "0/-1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn arithmetic_has_ends() {
        assert_eq!(Lsn::MAX.checked_add(1), None);
        assert_eq!(Lsn::INVALID.checked_sub(1), None);
        assert_eq!(Lsn::MAX.saturating_add(5), Lsn::MAX);
        assert_eq!(Lsn::new(9).bytes_since(Lsn::new(4)), Some(5));
        assert_eq!(Lsn::new(4).bytes_since(Lsn::new(9)), None);
        assert_eq!(Lsn::new(9).align_up(), Lsn::new(16));
        assert_eq!(Lsn::new(16).align_up(), Lsn::new(16));
        assert_eq!(Lsn::MAX.align_up(), Lsn::new(!7));
    }

    proptest! {
        #[test]
        fn round_trips(value: u64) {
            let lsn = Lsn::new(value);
            prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
            let json = serde_json::to_string(&lsn).unwrap();
            prop_assert_eq!(json.clone(), format!("\"{lsn}\""));
            prop_assert_eq!(serde_json::from_str::<Lsn>(&json).unwrap(), lsn);
        }

        #[test]
        fn any_text_is_taken_or_refused(text: String) {
            let _ = text.parse::<Lsn>();
        }
    }
}
