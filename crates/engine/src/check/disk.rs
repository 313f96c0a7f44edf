//! Whether pg_wal has room, and for how long.

use walden_core::{Pressure, WalPressure};

use super::Check;

const NAME: &str = "disk";
/// When pg_wal is full within this time, somebody must act now.
const FULL_FAILURE_SECONDS: u64 = 3600;
/// Rates over less than this are a burst rather than a trend: no failure yet.
const FAILURE_OVER_SECONDS: u64 = 60;
/// When pg_wal is full within this time, somebody should know.
const FULL_WARNING_SECONDS: u64 = 24 * 3600;
/// With less room than this part of the file system, a failing archive leaves little time: one in fifty.
const LITTLE_ROOM: u64 = 50;

/// What the pressure on pg_wal means.
pub(super) fn disk_check(pressure: &WalPressure) -> Check {
    let detail = pressure.detail.clone();
    let archive = "archiving is slower than the server: look for walden's messages in the server log; give walden more of \
                   the processor and the network, or make room for pg_wal";
    match pressure.pressure {
        Pressure::Full => Check::failure(
            NAME,
            detail,
            "make room for pg_wal now, but remove nothing from it by hand: the server stops when it can't write WAL",
        ),
        Pressure::Fills { seconds }
            if seconds < FULL_FAILURE_SECONDS
                && pressure.over_seconds.is_some_and(|over| over >= FAILURE_OVER_SECONDS) =>
        {
            Check::failure(NAME, detail, archive)
        }
        Pressure::Fills { seconds } if seconds < FULL_WARNING_SECONDS => {
            Check::warning(NAME, detail, archive)
        }
        _ if pressure.room_bytes < pressure.total_bytes / LITTLE_ROOM => Check::warning(
            NAME,
            detail,
            "there is little room should archiving ever stop: make some for pg_wal",
        ),
        Pressure::Fills { .. } | Pressure::NotFilling | Pressure::Unknown { .. } => Check::ok(NAME, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CheckStatus;
    use super::*;

    fn judged(pressure: Pressure, room_bytes: u64) -> CheckStatus {
        judged_over(60, pressure, room_bytes)
    }

    fn judged_over(seconds: u64, pressure: Pressure, room_bytes: u64) -> CheckStatus {
        let detail = "the arithmetic".to_owned();
        let pressure = WalPressure {
            pressure,
            made_bytes_per_second: None,
            archived_bytes_per_second: None,
            over_seconds: Some(seconds),
            waiting_bytes: 0,
            room_bytes,
            free_bytes: room_bytes,
            total_bytes: 1000,
            detail: detail.clone(),
        };
        let check = disk_check(&pressure);
        assert_eq!((check.name, check.detail), ("disk", detail));
        assert_eq!(check.hint.is_none(), check.status == CheckStatus::Ok);
        check.status
    }

    #[test]
    fn the_sooner_the_disk_is_full_the_worse() {
        let fills = |seconds| judged(Pressure::Fills { seconds }, 500);
        assert_eq!(judged(Pressure::Full, 0), CheckStatus::Failure);
        assert_eq!(fills(0), CheckStatus::Failure);
        assert_eq!(fills(3599), CheckStatus::Failure);
        assert_eq!(judged_over(59, Pressure::Fills { seconds: 0 }, 500), CheckStatus::Warning);
        assert_eq!(fills(3600), CheckStatus::Warning);
        assert_eq!(fills(86_399), CheckStatus::Warning);
        assert_eq!(fills(86_400), CheckStatus::Ok);
        assert_eq!(judged(Pressure::NotFilling, 500), CheckStatus::Ok);
        assert_eq!(judged(Pressure::NotFilling, 19), CheckStatus::Warning);
    }
}
