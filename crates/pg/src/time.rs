//! Times as PostgreSQL stores them. Turning them into calendar dates is left to the callers.

use serde::{Deserialize, Serialize};

/// Microseconds between 1970-01-01 and 2000-01-01, both 00:00 UTC.
const UNIX_MICROS_OF_PG_EPOCH: i64 = 946_684_800_000_000;

/// A `TimestampTz`: microseconds since 2000-01-01 00:00 UTC. Commit and restore-point times are such.
/// Serialised as that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PgTimestamp(i64);

impl PgTimestamp {
    /// The moment `micros` microseconds after 2000-01-01 00:00 UTC.
    pub const fn new(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 2000-01-01 00:00 UTC.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The moment `micros` microseconds after 1970-01-01 00:00 UTC, saturating at the earliest.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(UNIX_MICROS_OF_PG_EPOCH))
    }

    /// Microseconds since 1970-01-01 00:00 UTC, saturating at the latest.
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(UNIX_MICROS_OF_PG_EPOCH)
    }
}

/// A `pg_time_t`: seconds since 1970-01-01 00:00 UTC. Checkpoints and `pg_control` have such times.
/// Serialised as that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(i64);

impl UnixSeconds {
    /// The moment `seconds` seconds after 1970-01-01 00:00 UTC.
    pub const fn new(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970-01-01 00:00 UTC.
    pub const fn get(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_thirty_years_apart() {
        assert_eq!(PgTimestamp::new(0).unix_micros(), 946_684_800_000_000);
        assert_eq!(PgTimestamp::from_unix_micros(946_684_800_000_001).get(), 1);
        assert_eq!(PgTimestamp::new(i64::MAX).unix_micros(), i64::MAX);
    }
}
