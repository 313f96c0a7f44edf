//! What an operator promises to keep.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Most backups that one count of a policy may ask for.
const COUNT_MAX: u32 = 10_000;
/// A longer time is `forever`: a hundred thousand days.
const SECONDS_MAX: i64 = 100_000 * 86_400;
/// A window is at least so long: who writes `6m` means months, and gets minutes.
const WINDOW_SECONDS_MIN: i64 = 3_600;
/// What is unfinished may be under way for at least this long.
const UNFINISHED_SECONDS_MIN: i64 = 3_600;

/// How long something is kept: `14d`, `36h`, `2w`, `1y` (365 days), or `forever`.
///
/// A day has 86,400 seconds here, whatever a zone does to its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HowLong {
    /// So many seconds.
    Seconds(i64),
    /// Without an end.
    Forever,
}

impl HowLong {
    /// So many days.
    #[must_use]
    pub const fn days(days: u32) -> Self {
        Self::Seconds(days as i64 * 86_400)
    }

    /// The moment before which things have been kept long enough; the calendar's beginning for `forever`.
    #[must_use]
    pub fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Seconds(seconds) => {
                now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
            }
            Self::Forever => Timestamp::MIN,
        }
    }
}

impl fmt::Display for HowLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Seconds(seconds) if seconds % 86_400 == 0 => write!(f, "{}d", seconds / 86_400),
            Self::Seconds(seconds) if seconds % 3_600 == 0 => write!(f, "{}h", seconds / 3_600),
            Self::Seconds(seconds) if seconds % 60 == 0 => write!(f, "{}m", seconds / 60),
            Self::Seconds(seconds) => write!(f, "{seconds}s"),
        }
    }
}

impl FromStr for HowLong {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let invalid = || PolicyError::Duration { value: text.chars().take(64).collect() };
        let unit_at = text.len().checked_sub(1).ok_or_else(invalid)?;
        let (digits, unit) = text.split_at_checked(unit_at).ok_or_else(invalid)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            "y" => 365 * 86_400,
            _ => return Err(invalid()),
        };
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let seconds = digits.parse::<i64>().ok().and_then(|count| count.checked_mul(unit));
        seconds.filter(|seconds| *seconds <= SECONDS_MAX).map(Self::Seconds).ok_or_else(invalid)
    }
}

impl TryFrom<String> for HowLong {
    type Error = PolicyError;
    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<HowLong> for String {
    fn from(time: HowLong) -> Self {
        time.to_string()
    }
}

/// The recovery window that is promised: a time, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PromisedWindow {
    /// Every moment of the last so long stays restorable, as far as it is today.
    Last(HowLong),
    /// No time is promised: WAL is kept from the oldest of [`RetentionPolicy::minimum_fulls`] on.
    None,
}

impl fmt::Display for PromisedWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(time) => time.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for PromisedWindow {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text == "none" { Ok(Self::None) } else { Ok(Self::Last(text.parse()?)) }
    }
}

impl TryFrom<String> for PromisedWindow {
    type Error = PolicyError;
    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<PromisedWindow> for String {
    fn from(window: PromisedWindow) -> Self {
        window.to_string()
    }
}

/// The zone in whose days, weeks, months and years the tiers count: `UTC`, or a name of the tz database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyZone {
    name: String,
    zone: TimeZone,
}

impl PolicyZone {
    /// Coordinated universal time.
    #[must_use]
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// The zone's rules.
    pub(super) fn zone(&self) -> TimeZone {
        self.zone.clone()
    }
}

impl fmt::Display for PolicyZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for PolicyZone {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text == "UTC" {
            return Ok(Self::utc());
        }
        match TimeZone::get(text) {
            Ok(zone) => Ok(Self { name: text.to_owned(), zone }),
            Err(_) => Err(PolicyError::Zone { value: text.chars().take(64).collect() }),
        }
    }
}

impl TryFrom<String> for PolicyZone {
    type Error = PolicyError;
    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<PolicyZone> for String {
    fn from(zone: PolicyZone) -> Self {
        zone.name
    }
}

/// What is kept. Everything that no rule keeps is removed; every rule alone is enough to keep.
///
/// | field | default |
/// |---|---|
/// | `window` | `14d` |
/// | `minimum_fulls` | 2 |
/// | `daily`, `weekly`, `monthly`, `yearly` | 0 |
/// | `zone` | `UTC` |
/// | `dead_timelines` | `14d` |
/// | `old_incarnations` | `90d` |
/// | `unfinished_backups` | `2d` |
/// | `uploads` | `2d` |
/// | `evidence` | `400d` |
/// | `audit` | `400d` |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionPolicy {
    /// The recovery window: every moment of it stays restorable, so the newest full backup that ended before it began
    /// is kept, with all WAL from its start.
    pub window: PromisedWindow,
    /// At least so many of the newest restorable full backups are kept, however old they are.
    pub minimum_fulls: u32,
    /// Full backups of so many days: the last of each day that has one.
    pub daily: u32,
    /// Full backups of so many ISO weeks.
    pub weekly: u32,
    /// Full backups of so many months.
    pub monthly: u32,
    /// Full backups of so many years.
    pub yearly: u32,
    /// Where days, weeks, months and years begin.
    pub zone: PolicyZone,
    /// A timeline that the newest one does not follow is kept for so long after its last write; never shorter than
    /// the window.
    pub dead_timelines: HowLong,
    /// An incarnation that is not archived any more is kept for so long after its last write, never shorter than the
    /// window; afterwards only what tiers and pins hold.
    pub old_incarnations: HowLong,
    /// A backup without a commit record is kept for so long after its last write: it may be under way.
    pub unfinished_backups: HowLong,
    /// Parts of an upload that was never completed are kept for so long.
    pub uploads: HowLong,
    /// Records of drills.
    pub evidence: HowLong,
    /// Records of retention runs.
    pub audit: HowLong,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            window: PromisedWindow::Last(HowLong::days(14)),
            minimum_fulls: 2,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            zone: PolicyZone::utc(),
            dead_timelines: HowLong::days(14),
            old_incarnations: HowLong::days(90),
            unfinished_backups: HowLong::days(2),
            uploads: HowLong::days(2),
            evidence: HowLong::days(400),
            audit: HowLong::days(400),
        }
    }
}

impl RetentionPolicy {
    /// Checks that the policy keeps something, and that its numbers make sense.
    ///
    /// # Errors
    /// When it keeps nothing, its window is empty or shorter than an hour, a count is above 10,000, or what is unfinished would not have an
    /// hour.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let tiers = [self.daily, self.weekly, self.monthly, self.yearly];
        if self.window == PromisedWindow::Last(HowLong::Seconds(0)) {
            return Err(PolicyError::EmptyWindow);
        }
        if let PromisedWindow::Last(window) = self.window
            && window < HowLong::Seconds(WINDOW_SECONDS_MIN)
        {
            return Err(PolicyError::ShortWindow { value: window });
        }
        if self.window == PromisedWindow::None && self.minimum_fulls == 0 && tiers == [0; 4] {
            return Err(PolicyError::KeepsNothing);
        }
        let names = ["minimum_fulls", "daily", "weekly", "monthly", "yearly"];
        let counts = std::iter::once(self.minimum_fulls).chain(tiers);
        if let Some((name, value)) = names.into_iter().zip(counts).find(|(_, value)| *value > COUNT_MAX) {
            return Err(PolicyError::Count { name, value });
        }
        let unfinished = [("unfinished_backups", self.unfinished_backups), ("uploads", self.uploads)];
        let least = HowLong::Seconds(UNFINISHED_SECONDS_MIN);
        match unfinished.into_iter().find(|(_, time)| *time < least) {
            Some((name, value)) => Err(PolicyError::TooShort { name, value }),
            None => Ok(()),
        }
    }

    /// How long a timeline that nobody follows any more is kept: with the window at least. `None` when only the
    /// window's rule by count is there, and the policy for dead timelines decides alone.
    pub(super) fn hold(&self, own: HowLong) -> HowLong {
        match self.window {
            PromisedWindow::Last(window) => window.max(own),
            PromisedWindow::None => own,
        }
    }

    /// So many restorable full backups hold the WAL where no window does.
    pub(super) fn counted_fulls(&self) -> usize {
        self.minimum_fulls.max(1) as usize
    }
}

/// A retention policy that can't be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A time is not readable.
    #[error("not a time such as 14d, 36h, 2w, 1y or forever value={value:?}")]
    Duration {
        /// The text, cut to 64 characters.
        value: String,
    },
    /// A zone is not known.
    #[error("not a time zone of the tz database value={value:?}")]
    Zone {
        /// The text, cut to 64 characters.
        value: String,
    },
    /// Nothing would be kept.
    #[error("the retention policy keeps nothing: set a window, minimum_fulls or a tier")]
    KeepsNothing,
    /// The window has no length.
    #[error("the recovery window is empty: give it a length, or none")]
    EmptyWindow,
    /// The window is so short that it can't be meant.
    #[error("a recovery window has an hour at least, and m stands for minutes window={value}")]
    ShortWindow {
        /// The window.
        value: HowLong,
    },
    /// A count is too large.
    #[error("a count of backups is at most 10000 {name}={value}")]
    Count {
        /// The field.
        name: &'static str,
        /// Its value.
        value: u32,
    },
    /// What may be under way would be removed.
    #[error("what is unfinished may be under way: keep it for an hour at least {name}={value}")]
    TooShort {
        /// The field.
        name: &'static str,
        /// Its value.
        value: HowLong,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_print() {
        for (text, printed) in
            [("14d", "14d"), ("2w", "14d"), ("36h", "36h"), ("90m", "90m"), ("61s", "61s"), ("1y", "365d")]
        {
            assert_eq!(text.parse::<HowLong>().unwrap().to_string(), printed);
        }
        assert_eq!("forever".parse::<HowLong>(), Ok(HowLong::Forever));
        for text in ["", "d", "14", "-1d", "+1d", "1.5d", "14 d", "1é", "99999999999999999999d", "300y"] {
            assert!(text.parse::<HowLong>().is_err(), "{text:?}");
        }
        assert!(HowLong::Forever > HowLong::days(90_000));
        assert_eq!(HowLong::Forever.before(Timestamp::UNIX_EPOCH), Timestamp::MIN);
        assert_eq!(HowLong::days(90_000).before(Timestamp::MIN), Timestamp::MIN);
    }

    #[test]
    fn fields_are_strict_and_have_defaults() {
        let policy: RetentionPolicy = serde_json::from_str("{}").unwrap();
        assert_eq!(policy, RetentionPolicy::default());
        assert!(serde_json::from_str::<RetentionPolicy>(r#"{"dayly": 3}"#).is_err());
        let text = r#"{"window": "none", "weekly": 4, "zone": "Europe/Berlin"}"#;
        let policy: RetentionPolicy = serde_json::from_str(text).unwrap();
        assert_eq!((policy.window, policy.weekly), (PromisedWindow::None, 4));
        let again = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<RetentionPolicy>(&again).unwrap(), policy);
        assert!(serde_json::from_str::<RetentionPolicy>(r#"{"zone": "Mars/Olympus"}"#).is_err());
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let nothing =
            RetentionPolicy { window: PromisedWindow::None, minimum_fulls: 0, ..RetentionPolicy::default() };
        assert_eq!(nothing.validate(), Err(PolicyError::KeepsNothing));
        assert_eq!(RetentionPolicy { monthly: 1, ..nothing }.validate(), Ok(()));
        let empty = RetentionPolicy { window: "0d".parse().unwrap(), ..RetentionPolicy::default() };
        assert_eq!(empty.validate(), Err(PolicyError::EmptyWindow));
        let minutes = RetentionPolicy { window: "6m".parse().unwrap(), ..RetentionPolicy::default() };
        assert!(matches!(minutes.validate(), Err(PolicyError::ShortWindow { .. })));
        let many = RetentionPolicy { daily: 10_001, ..RetentionPolicy::default() };
        assert!(matches!(many.validate(), Err(PolicyError::Count { name: "daily", .. })));
        let short = RetentionPolicy { uploads: "59m".parse().unwrap(), ..RetentionPolicy::default() };
        assert!(matches!(short.validate(), Err(PolicyError::TooShort { name: "uploads", .. })));
        assert_eq!(RetentionPolicy::default().validate(), Ok(()));
    }
}
