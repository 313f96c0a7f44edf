//! System identifiers.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, quoted};
use crate::hex;
use crate::serde_text::serde_as_text;

/// The number that `initdb` gives to a data directory and that every segment and `pg_control`
/// carries. Physical copies share it. Serialised as decimal text, because it needs all 64 bits and
/// JSON readers often have only 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(u64);

impl SystemId {
    /// The identifier with this number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The identifier as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        hex::parse_decimal(text).map(Self).ok_or_else(|| Error::InvalidSystemId { text: quoted(text) })
    }
}

serde_as_text!(SystemId, "a system identifier as decimal text");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_decimal_text_is_accepted() {
        for bad in ["", "-1", "+1", "0x1", "1 ", "18446744073709551616"] {
            assert!(bad.parse::<SystemId>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<SystemId>("7").is_err());
    }

    proptest! {
        #[test]
        fn round_trips(value: u64) {
            let id = SystemId::new(value);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<SystemId>(&json).unwrap(), id);
        }
    }
}
