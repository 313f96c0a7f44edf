//! Timelines.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, quoted};
use crate::hex;

/// The number of a timeline: 1 after `initdb`, a new one after every recovery that ended in a
/// promotion. Text is decimal, as in history files and settings; file names use [`TimelineId::hex`].
/// Serialised as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that `initdb` makes. It has no history file.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The timeline with this number.
    ///
    /// # Errors
    /// [`Error::InvalidTimeline`] for 0.
    pub fn new(number: u32) -> Result<Self, Error> {
        NonZeroU32::new(number).map(Self).ok_or_else(|| Error::InvalidTimeline { text: number.to_string() })
    }

    /// The number, never 0.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The eight upper-case hexadecimal digits that file names start with.
    pub fn hex(self) -> String {
        format!("{:08X}", self.get())
    }

    /// Parses what [`TimelineId::hex`] writes: exactly eight upper-case hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::InvalidTimeline`] for anything else, and for `00000000`.
    pub fn from_hex(text: &str) -> Result<Self, Error> {
        hex::parse_upper8(text)
            .and_then(|number| Self::new(number).ok())
            .ok_or_else(|| Error::InvalidTimeline { text: quoted(text) })
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TimelineId {
    type Err = Error;

    /// Parses a decimal number. Unlike PostgreSQL's setting, a leading 0 does not mean octal: it is
    /// refused, because whoever writes one most likely means the hexadecimal digits of a file name.
    fn from_str(text: &str) -> Result<Self, Error> {
        hex::parse_decimal(text)
            .filter(|_| !text.starts_with('0'))
            .and_then(|number| u32::try_from(number).ok())
            .and_then(|number| Self::new(number).ok())
            .ok_or_else(|| Error::InvalidTimeline { text: quoted(text) })
    }
}

impl TryFrom<u32> for TimelineId {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        Self::new(number)
    }
}

impl From<TimelineId> for u32 {
    fn from(timeline: TimelineId) -> Self {
        timeline.get()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_and_odd_spellings_are_refused() {
        assert!(TimelineId::new(0).is_err());
        for bad in ["", "0", "01", "00000010", "+1", "-1", "0x1", "4294967296", "1 "] {
            assert!(bad.parse::<TimelineId>().is_err(), "{bad:?}");
        }
        for bad in ["", "00000000", "0000000a", "1", "000000001"] {
            assert!(TimelineId::from_hex(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<TimelineId>("0").is_err());
        assert_eq!(TimelineId::FIRST.get(), 1);
    }

    proptest! {
        #[test]
        fn round_trips(number in 1u32..) {
            let timeline = TimelineId::new(number).unwrap();
            prop_assert_eq!(timeline.to_string().parse(), Ok(timeline));
            prop_assert_eq!(TimelineId::from_hex(&timeline.hex()), Ok(timeline));
            let json = serde_json::to_string(&timeline).unwrap();
            prop_assert_eq!(&json, &number.to_string());
            prop_assert_eq!(serde_json::from_str::<TimelineId>(&json).unwrap(), timeline);
        }
    }
}
