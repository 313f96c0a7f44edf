//! The options of `walden verify`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};
use walden_core::{BackupId, VerifyLevel, VerifySample};
use walden_engine::verify::{VerifyOptions, VerifyTarget};

use super::{MaxRate, WhichArgs, parse_rate};
use crate::config::Size;
use crate::failure::Failure;
use crate::times::{parse_time, parse_zone};

const WHAT: &str = "What to verify";
const HOW_MUCH: &str = "How much of it";

/// `walden verify`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// How closely to look: presence (listings), hash (every byte of every object), deep (every WAL record, file and page)
    #[arg(
        long,
        value_name = "LEVEL",
        value_enum,
        default_value = "hash",
        hide_possible_values = true,
        hide_default_value = true
    )]
    level: LevelArg,
    /// Leave a record of the run in the repository, which walden check tells of
    #[arg(long)]
    record: bool,
    /// This backup, and the WAL that makes it consistent
    #[arg(long, value_name = "ID", conflicts_with = "latest", help_heading = WHAT)]
    backup: Option<BackupId>,
    /// The newest backup, and all WAL behind it
    #[arg(long, help_heading = WHAT)]
    latest: bool,
    /// Only what was stored since: 2026-11-20T14:00:00Z, "2 days ago"
    #[arg(long, value_name = "TIME", help_heading = WHAT)]
    since: Option<String>,
    /// The zone of a time that names none: Europe/Berlin, UTC, +02:00
    #[arg(long, value_name = "ZONE", help_heading = WHAT)]
    timezone: Option<String>,
    /// Only WAL
    #[arg(long, conflicts_with = "backups_only", help_heading = WHAT)]
    wal_only: bool,
    /// Only backups
    #[arg(long, help_heading = WHAT)]
    backups_only: bool,
    /// Only a part of the bytes, such as 5%: what has gone unproven for the longest time, then by lot
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, help_heading = HOW_MUCH)]
    sample: Option<u32>,
    /// The seed of the lot; drawn and printed unless given
    #[arg(long, value_name = "NUMBER", requires = "sample", help_heading = HOW_MUCH)]
    seed: Option<u64>,
    /// Skip what was proven within this time at this level or a closer one, such as 30d
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = HOW_MUCH)]
    max_age: Option<Duration>,
    /// Read so much at most, such as 50GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = HOW_MUCH)]
    max_bytes: Option<u64>,
    /// Read for so long at most, such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_age, help_heading = HOW_MUCH)]
    max_time: Option<Duration>,
    /// Most bytes per second fetched from the store, such as 50MB
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = HOW_MUCH)]
    pub(crate) max_rate: Option<MaxRate>,
    /// How many objects to read at once; one per core unless set [env: WALDEN_JOBS]
    #[arg(long, value_name = "N", help_heading = HOW_MUCH)]
    pub(crate) jobs: Option<u32>,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LevelArg {
    /// Listings against the catalog.
    Presence,
    /// Every byte.
    Hash,
    /// What is in it.
    Deep,
}

impl VerifyArgs {
    /// The zone that times are given in.
    ///
    /// # Errors
    /// A usage failure when it is not understood.
    pub(crate) fn zone(&self) -> Result<Option<TimeZone>, Failure> {
        let zone = self.timezone.as_deref().map(parse_zone).transpose();
        zone.map_err(|error| Failure::usage(error.reason).with_hint(error.hint))
    }

    /// What the engine is asked for.
    ///
    /// # Errors
    /// A usage failure for a time that is not understood.
    pub(crate) fn options(&self, now: Timestamp, jobs: u32) -> Result<VerifyOptions, Failure> {
        let zone = self.zone()?;
        let since = self.since.as_deref().map(|text| parse_time(text, zone.as_ref(), now)).transpose();
        let level = match self.level {
            LevelArg::Presence => VerifyLevel::Presence,
            LevelArg::Hash => VerifyLevel::Hash,
            LevelArg::Deep => VerifyLevel::Deep,
        };
        let target = match &self.backup {
            Some(id) => VerifyTarget::Backup(id.clone()),
            None if self.latest => VerifyTarget::Latest,
            None => VerifyTarget::Everything,
        };
        let drawn = u64::try_from(now.as_nanosecond() & i128::from(u32::MAX)).unwrap_or_default();
        let sample =
            self.sample.map(|millionths| VerifySample { millionths, seed: self.seed.unwrap_or(drawn) });
        Ok(VerifyOptions {
            target,
            since: since.map_err(|error| Failure::usage(error.reason).with_hint(error.hint))?,
            wal: !self.backups_only,
            backups: !self.wal_only,
            sample,
            max_bytes: self.max_bytes,
            max_time: self.max_time,
            max_age: self.max_age,
            jobs: usize::try_from(jobs).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN),
            record: self.record,
            ..VerifyOptions::new(level)
        })
    }
}

/// Reads `5%` or `0.5 %` as millionths.
fn parse_percent(text: &str) -> Result<u32, String> {
    let form = || "write it like 5% or 0.5%".to_owned();
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 4 {
        return Err(form());
    }
    let whole: u32 = whole.parse().map_err(|_| form())?;
    let part: u32 = format!("{part:0<4}").parse().map_err(|_| form())?;
    whole
        .checked_mul(10_000)
        .and_then(|whole| whole.checked_add(part))
        .filter(|millionths| (1..=1_000_000).contains(millionths))
        .ok_or_else(|| "a sample is more than 0 % and at most 100 %".to_owned())
}

fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<Size>().map(|size| size.0).map_err(str::to_owned)
}

/// A stretch of time in days or less; a day has 24 hours.
fn parse_age(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let length = length.and_then(|length| Duration::try_from(length).ok());
    length.filter(|length| !length.is_zero()).ok_or_else(|| "write it like 30d, 12h or 90m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_to_the_last_digit() {
        for (text, millionths) in [
            ("5%", 50_000),
            ("5", 50_000),
            ("0.5%", 5_000),
            ("100%", 1_000_000),
            ("0.0001 %", 1),
            ("12.34%", 123_400),
        ] {
            assert_eq!(parse_percent(text), Ok(millionths), "{text}");
        }
        for text in ["", "%", "0%", "101%", "-5%", "5.%", ".5%", "1.00001%", "a%", "99999999999%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_may_be_in_days() {
        assert_eq!(parse_age("30d"), Ok(Duration::from_hours(30 * 24)));
        assert_eq!(parse_age("90m"), Ok(Duration::from_mins(90)));
        for text in ["", "0s", "1mo", "-3d", "x"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }
}
