//! Major versions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::hex;

/// A supported major version of PostgreSQL. Serialised as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub enum PgMajor {
    /// PostgreSQL 13
    V13,
    /// PostgreSQL 14
    V14,
    /// PostgreSQL 15
    V15,
    /// PostgreSQL 16
    V16,
    /// PostgreSQL 17
    V17,
    /// PostgreSQL 18
    V18,
}

impl PgMajor {
    /// Every supported major version, oldest first.
    pub const ALL: [Self; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The major version with this number.
    ///
    /// # Errors
    /// [`Error::UnsupportedMajor`] unless it is 13 to 18.
    pub fn new(number: u64) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|major| major.number() == number)
            .ok_or(Error::UnsupportedMajor { major: number })
    }

    /// The number, 13 to 18.
    pub const fn number(self) -> u64 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The major version of a server by its `server_version_num`, such as 150008.
    ///
    /// # Errors
    /// [`Error::UnsupportedMajor`] unless it is of 13 to 18.
    pub fn from_server_version_num(version: u64) -> Result<Self, Error> {
        Self::new(version / 10_000)
    }
}

impl fmt::Display for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl FromStr for PgMajor {
    type Err = Error;

    /// Parses the number, as in a `PG_VERSION` file without its line end.
    fn from_str(text: &str) -> Result<Self, Error> {
        hex::parse_decimal(text).ok_or(Error::UnsupportedMajor { major: 0 }).and_then(Self::new)
    }
}

impl TryFrom<u64> for PgMajor {
    type Error = Error;

    fn try_from(number: u64) -> Result<Self, Error> {
        Self::new(number)
    }
}

impl From<PgMajor> for u64 {
    fn from(major: PgMajor) -> Self {
        major.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for major in PgMajor::ALL {
            assert_eq!(PgMajor::new(major.number()), Ok(major));
            assert_eq!(major.to_string().parse(), Ok(major));
            let json = serde_json::to_string(&major).unwrap();
            assert_eq!(json, major.number().to_string());
            assert_eq!(serde_json::from_str::<PgMajor>(&json).unwrap(), major);
        }
        assert_eq!(PgMajor::from_server_version_num(150_008), Ok(PgMajor::V15));
        assert_eq!(PgMajor::new(12), Err(Error::UnsupportedMajor { major: 12 }));
        assert!("19".parse::<PgMajor>().is_err());
        assert!("x".parse::<PgMajor>().is_err());
        assert!(serde_json::from_str::<PgMajor>("19").is_err());
    }
}
