//! The values of settings: lengths of time, sizes, rates, levels; each read strictly and shown as it is written.

use std::num::NonZero;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use walden_store::CompressionLevel;

/// Most files read or written at once.
pub(crate) const JOBS_MAX: u32 = 256;

/// A length of time above zero, written `20s`, `2m` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let duration = SignedDuration::try_from(self.0).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&format_args!("{duration:#}"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed: Result<SignedDuration, _> = text.parse();
        let parsed = parsed.ok().and_then(|duration| Duration::try_from(duration).ok());
        parsed
            .filter(|duration| !duration.is_zero())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a length of time is written like 20s, 2m or 1h 30m"))
    }
}

/// How many files at once, 1 to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Jobs(Option<u32>);

impl Jobs {
    /// As set, else one for each core. The cores are counted when they matter: that reads a dozen files of the system,
    /// and a hook has no use for them.
    pub(crate) fn get(self) -> u32 {
        self.0.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
            u32::try_from(cores).unwrap_or(JOBS_MAX).min(JOBS_MAX)
        })
    }
}

impl Serialize for Jobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.get())
    }
}

impl<'de> Deserialize<'de> for Jobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u32::try_from(number)
            .ok()
            .filter(|number| (1..=JOBS_MAX).contains(number))
            .map(|number| Self(Some(number)))
            .ok_or_else(|| serde::de::Error::custom("jobs are 1 to 256"))
    }
}

/// A rate in MB/s, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Rate(u32);

impl Rate {
    const BYTES: u64 = 1_000_000;

    pub(super) fn of(bytes_per_second: u64) -> Self {
        Self(u32::try_from(bytes_per_second / Self::BYTES).unwrap_or(u32::MAX).max(1))
    }

    /// In bytes per second.
    pub(crate) fn bytes_per_second(self) -> u64 {
        u64::from(self.0) * Self::BYTES
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u32::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a rate is a whole number of MB/s, at least 1"))
    }
}

/// zstd's level, -7 to 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level(pub(crate) CompressionLevel);

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.0.get())
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        i32::try_from(number)
            .ok()
            .and_then(CompressionLevel::new)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("compression levels are -7 to 19"))
    }
}

/// A number of bytes, written `64MiB`, `50MB` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// The units, largest first. `B` stands last, because every other one ends with it.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl std::str::FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a size is a whole number with a unit, such as 64MiB, 50MB or 4096B";
        let text = text.trim();
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let (number, unit) = unit.unwrap_or((text, 1));
        let number = number.trim_end();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FORM);
        }
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).map(Self).ok_or(FORM)
    }
}

impl std::fmt::Display for Size {
    /// In the largest unit that divides it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = UNITS.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        match unit {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_shown_in_the_largest_that_fits() {
        for (text, bytes, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("50MB", 50_000_000, "50MB"),
            ("50 MB", 50_000_000, "50MB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("1000kB", 1_000_000, "1MB"),
            ("4097", 4097, "4097B"),
            ("12B", 12, "12B"),
            ("0", 0, "0B"),
            ("2TiB", 2 << 40, "2TiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for text in ["", "MiB", "-1MiB", "+1MiB", "1.5GiB", "64M", "64mib", "1 MiB/s", "99999999999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
