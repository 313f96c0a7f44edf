//! Moments as people write them.
//!
//! A recovery target that is wrong by one hour loses or keeps the wrong transactions, so nothing is guessed: a
//! time without a zone needs `--timezone`, a local time that a clock change made ambiguous is refused with both
//! candidates, and what is not understood is refused with the forms that are.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Span, SpanRelativeTo, Timestamp};

/// Longest text looked at, in bytes.
const TEXT_BYTES_MAX: usize = 128;

const FORMS: &str = "write 2026-11-20T14:31:58Z, \"2026-11-20 14:31:58.204113+00\", \"5 minutes ago\" or \
                     \"yesterday 14:32\" with --timezone";

/// Why a text is not a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct TimeError {
    /// What is wrong with it.
    pub(crate) reason: String,
    /// How to write it.
    pub(crate) hint: String,
}

fn refuse<T>(reason: impl Into<String>, hint: impl Into<String>) -> Result<T, TimeError> {
    Err(TimeError { reason: reason.into(), hint: hint.into() })
}

/// Reads an IANA name (`Europe/Berlin`), `UTC`, or an offset (`+02:00`).
///
/// # Errors
/// When it is none of them. Abbreviations such as `CET` are not taken: several zones share one.
pub(crate) fn parse_zone(text: &str) -> Result<TimeZone, TimeError> {
    if let Some(offset) = parse_offset(text) {
        return Ok(TimeZone::fixed(offset));
    }
    let named = text.contains('/').then(|| TimeZone::get(text).ok()).flatten();
    match named {
        Some(zone) => Ok(zone),
        None => refuse(
            format!("time zone is not known value={text:?}"),
            "write an offset such as +02:00, UTC, or a full name such as Europe/Berlin; abbreviations are shared \
             by several zones",
        ),
    }
}

/// Reads a moment. `zone` is what a time without its own zone is in; `now` is what relative times count from.
///
/// # Errors
/// When the text is not understood, names no zone and `zone` is `None`, is finer than PostgreSQL's microseconds,
/// or is a local time that a clock change skipped or repeated.
pub(crate) fn parse_time(
    text: &str,
    zone: Option<&TimeZone>,
    now: Timestamp,
) -> Result<Timestamp, TimeError> {
    let text = text.trim();
    if text.len() > TEXT_BYTES_MAX {
        return refuse("time is longer than 128 bytes", FORMS);
    }
    if let Some(amount) = strip_word(text, "ago") {
        return parse_ago(amount, now);
    }
    let (day, rest) = split_day(text)?;
    let (clock, own_zone, named_zone) = split_zone(rest)?;
    let time = parse_clock(clock, text)?;
    let Some(zone) = own_zone.as_ref().or(zone) else {
        return refuse(
            format!("time has no zone value={text:?}"),
            "add an offset such as +02:00 or Z, or say with --timezone which zone is meant",
        );
    };
    let date = match day {
        Day::Date(date) => date,
        Day::Today => now.to_zoned(zone.clone()).date(),
        Day::Yesterday => match now.to_zoned(zone.clone()).date().yesterday() {
            Ok(date) => date,
            Err(_) => return refuse("time is out of range", FORMS),
        },
    };
    let moment = resolve(DateTime::from_parts(date, time), zone)?;
    // By which of the two the clock went, the text does not say.
    if let Some(named) = named_zone.filter(|named| named.to_offset(moment) != zone.to_offset(moment)) {
        return refuse(
            format!(
                "the offset is not the zone's at that time, which has {} value={text:?}",
                named.to_offset(moment)
            ),
            "write the offset or the zone, not both",
        );
    }
    Ok(moment)
}

enum Day {
    Date(Date),
    Today,
    Yesterday,
}

/// `text` without `word` at its end, when a space parts them.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let before = text.strip_suffix(word)?;
    before.ends_with(char::is_whitespace).then(|| before.trim_end())
}

fn parse_ago(amount: &str, now: Timestamp) -> Result<Timestamp, TimeError> {
    let hint = "write \"5 minutes ago\", \"2 hours ago\", \"1h 30m ago\" or \"3 days ago\"";
    let Ok(span) = amount.parse::<Span>() else {
        return refuse(format!("time is not understood value={:?}", format!("{amount} ago")), hint);
    };
    if span.is_negative() {
        return refuse("time is negative and ago: it lies in the future", hint);
    }
    if span.get_years() != 0 || span.get_months() != 0 {
        return refuse("months and years have no fixed length", "say it in days, or write the date");
    }
    // A day is 24 hours here: no zone is needed to count them.
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok();
    let moment = duration.and_then(|duration| now.checked_sub(duration).ok());
    match moment {
        Some(moment) => Ok(moment),
        None => refuse("time is out of range", hint),
    }
}

/// Splits `2026-11-20 …`, `2026-11-20T…`, `today …` and `yesterday …`.
fn split_day(text: &str) -> Result<(Day, &str), TimeError> {
    for (word, day) in [("today", Day::Today), ("yesterday", Day::Yesterday)] {
        if let Some(rest) = text.strip_prefix(word).filter(|rest| rest.starts_with(char::is_whitespace)) {
            return Ok((day, rest.trim_start()));
        }
        if text == word {
            return refuse(
                format!("time of day is missing value={text:?}"),
                format!("write \"{word} 14:32\""),
            );
        }
    }
    let not_understood =
        || TimeError { reason: format!("time is not understood value={text:?}"), hint: FORMS.to_owned() };
    if text.eq_ignore_ascii_case("now") {
        return refuse(
            "no transaction ends now or later in the archive, so recovery would never stop",
            "leave the target out to recover everything that is archived",
        );
    }
    let (date, rest) = text.split_at_checked(10).ok_or_else(not_understood)?;
    let shape = date.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    if !shape {
        return Err(not_understood());
    }
    let date: Date = date.parse().map_err(|_| TimeError {
        reason: format!("there is no such day value={date:?}"),
        hint: "dates are year-month-day".to_owned(),
    })?;
    let rest = match rest.chars().next() {
        Some('T' | 't') => rest.get(1..).unwrap_or_default(),
        Some(space) if space.is_whitespace() => rest.trim_start(),
        None => {
            return refuse(
                format!("time of day is missing value={text:?}"),
                "write it out, 00:00 for the start of the day",
            );
        }
        Some(_) => return Err(not_understood()),
    };
    Ok((Day::Date(date), rest))
}

/// Splits the time of day from the zone that may follow it, and from a zone in brackets that must agree with it.
fn split_zone(text: &str) -> Result<(&str, Option<TimeZone>, Option<TimeZone>), TimeError> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(text.len());
    let (clock, zone) = text.split_at_checked(end).unwrap_or((text, ""));
    let zone = zone.trim_start();
    // RFC 9557's form, as in 2026-11-20T15:31:58+01:00[Europe/Berlin]. There Z says nothing about the local clock.
    let (zone, named) = match zone.split_once('[') {
        Some(("", name)) => (name.strip_suffix(']').unwrap_or(name), None),
        Some((offset, name)) => {
            let named = parse_zone(name.strip_suffix(']').unwrap_or(name))?;
            (offset, (!offset.eq_ignore_ascii_case("z")).then_some(named))
        }
        None => (zone, None),
    };
    if zone.is_empty() {
        return Ok((clock, None, None));
    }
    parse_zone(zone).map(|zone| (clock, Some(zone), named))
}

fn parse_clock(clock: &str, whole: &str) -> Result<Time, TimeError> {
    let (hms, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let parts: Vec<&str> = hms.split(':').collect();
    let two_digits = |part: &&str| part.len() == 2;
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(two_digits) {
        return refuse(format!("time is not understood value={whole:?}"), FORMS);
    }
    if fraction.len() > 6 {
        return refuse(
            format!("time is finer than microseconds value={whole:?}"),
            "PostgreSQL counts in microseconds: give at most 6 digits after the point",
        );
    }
    let dangling = clock.ends_with('.') || (!fraction.is_empty() && parts.len() != 3);
    match clock.parse::<Time>() {
        Ok(time) if !dangling => Ok(time),
        _ => refuse(format!("there is no such time of day value={clock:?}"), FORMS),
    }
}

/// `Z`, `UTC`, `GMT`, `+02`, `+0200`, `+02:00`, `+02:00:00` (PostgreSQL writes the last for old dates).
fn parse_offset(text: &str) -> Option<Offset> {
    if ["z", "utc", "gmt"].iter().any(|name| text.eq_ignore_ascii_case(name)) {
        return Some(Offset::UTC);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let number = |part: &str| {
        (part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| part.parse::<i32>().ok())?
    };
    let parts: Vec<&str> = match digits.len() {
        4 if !digits.contains(':') => vec![digits.get(..2)?, digits.get(2..)?],
        _ => digits.split(':').collect(),
    };
    let (hours, minutes, seconds) = match parts.as_slice() {
        [hours] => (number(hours)?, 0, 0),
        [hours, minutes] => (number(hours)?, number(minutes)?, 0),
        [hours, minutes, seconds] => (number(hours)?, number(minutes)?, number(seconds)?),
        _ => return None,
    };
    if hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60 + seconds)).ok()
}

fn resolve(local: DateTime, zone: &TimeZone) -> Result<Timestamp, TimeError> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    // The moment that the local time is by one offset, as the clocks of another showed it.
    let at = |by: Offset, shown: Offset| {
        by.to_timestamp(local).map(|moment| moment.display_with_offset(shown).to_string())
    };
    match ambiguous.offset() {
        AmbiguousOffset::Fold { before, after } => match (at(before, before), at(after, after)) {
            (Ok(first), Ok(second)) => refuse(
                format!("local time {local} happened twice, because the clock was set back"),
                format!("write {first} or {second}"),
            ),
            _ => refuse("time is out of range", FORMS),
        },
        AmbiguousOffset::Gap { before, after } => match (at(after, before), at(before, after)) {
            (Ok(first), Ok(second)) => refuse(
                format!("local time {local} never was, because the clock was set forward"),
                format!("write {first} or {second}"),
            ),
            _ => refuse("time is out of range", FORMS),
        },
        AmbiguousOffset::Unambiguous { offset } => match offset.to_timestamp(local) {
            Ok(moment) => Ok(moment),
            Err(_) => refuse("time is out of range", FORMS),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A Friday in November, at 15:00 in Berlin.
    fn now() -> Timestamp {
        "2026-11-20T14:00:00Z".parse().unwrap()
    }

    fn parse(text: &str, zone: Option<&str>) -> Result<String, TimeError> {
        let zone = zone.map(|zone| parse_zone(zone).unwrap());
        parse_time(text, zone.as_ref(), now()).map(|moment| moment.to_string())
    }

    fn refusal(text: &str, zone: Option<&str>) -> String {
        let error = parse(text, zone).unwrap_err();
        format!("{} | {}", error.reason, error.hint)
    }

    #[test]
    fn every_documented_form_is_read() {
        for (text, zone, moment) in [
            ("2026-11-20T14:31:58Z", None, "2026-11-20T14:31:58Z"),
            ("2026-11-20T14:31:58.204113+02:00", None, "2026-11-20T12:31:58.204113Z"),
            ("2026-11-20t14:31:58z", None, "2026-11-20T14:31:58Z"),
            ("2026-11-20 14:31:58.204113+00", None, "2026-11-20T14:31:58.204113Z"),
            ("2026-11-20 14:31:58.2-0330", None, "2026-11-20T18:01:58.2Z"),
            ("1890-01-01 00:00:00+00:53:28", None, "1889-12-31T23:06:32Z"),
            ("2026-11-20 14:31:58 UTC", None, "2026-11-20T14:31:58Z"),
            ("2026-11-20 14:31 Europe/Berlin", None, "2026-11-20T13:31:00Z"),
            ("2026-11-20T15:31:58+01:00[Europe/Berlin]", None, "2026-11-20T14:31:58Z"),
            ("2026-11-20T14:31:58Z[Europe/Berlin]", None, "2026-11-20T14:31:58Z"),
            ("2026-11-20T15:31:58[Europe/Berlin]", None, "2026-11-20T14:31:58Z"),
            ("2026-11-20 14:31", Some("Europe/Berlin"), "2026-11-20T13:31:00Z"),
            ("2026-11-20 14:31", Some("-05:00"), "2026-11-20T19:31:00Z"),
            ("2026-11-20 14:31Z", Some("Europe/Berlin"), "2026-11-20T14:31:00Z"),
            ("5 minutes ago", None, "2026-11-20T13:55:00Z"),
            ("2 hours ago", None, "2026-11-20T12:00:00Z"),
            ("1h 30m ago", None, "2026-11-20T12:30:00Z"),
            ("3 days ago", None, "2026-11-17T14:00:00Z"),
            ("1 week ago", None, "2026-11-13T14:00:00Z"),
            ("yesterday 14:32", Some("Europe/Berlin"), "2026-11-19T13:32:00Z"),
            ("yesterday 14:32+02", None, "2026-11-19T12:32:00Z"),
            ("today 00:30", Some("Asia/Tokyo"), "2026-11-19T15:30:00Z"),
            ("  2026-11-20 14:31:58+00 ", None, "2026-11-20T14:31:58Z"),
        ] {
            assert_eq!(parse(text, zone).as_deref(), Ok(moment), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        for text in ["2026-11-20 14:31:58", "2026-11-20T14:31", "yesterday 14:32", "today 08:00"] {
            assert!(refusal(text, None).contains("has no zone"), "{text}");
        }
    }

    #[test]
    fn a_clock_change_is_refused_with_both_candidates() {
        assert_eq!(
            refusal("2026-10-25 02:30", Some("Europe/Berlin")),
            "local time 2026-10-25T02:30:00 happened twice, because the clock was set back | \
             write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"
        );
        assert_eq!(
            refusal("2026-03-29 02:30", Some("Europe/Berlin")),
            "local time 2026-03-29T02:30:00 never was, because the clock was set forward | \
             write 2026-03-29T01:30:00+01:00 or 2026-03-29T03:30:00+02:00"
        );
    }

    #[test]
    fn what_is_not_a_moment_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "not understood"),
            ("now", "never stop"),
            ("14:32", "not understood"),
            ("2026-11-20", "time of day is missing"),
            ("yesterday", "time of day is missing"),
            ("2026-02-30 10:00Z", "no such day"),
            ("2026-11-20 25:00Z", "no such time of day"),
            ("2026-11-20 14:31.5Z", "no such time of day"),
            ("2026-11-20 14:31:58.Z", "no such time of day"),
            ("2026-11-20 1:2Z", "not understood"),
            ("2026-11-20 14Z", "not understood"),
            ("20.11.2026 14:31Z", "not understood"),
            ("11/20/2026 14:31Z", "not understood"),
            ("2026-11-20_14:31Z", "not understood"),
            ("2026-11-20 14:31:58.2041131Z", "finer than microseconds"),
            ("2026-11-20 14:31:58 CET", "abbreviations"),
            ("2026-11-20 14:31:58 Mars/Olympus", "not known"),
            ("2026-11-20 14:31:58+25", "not known"),
            (
                "2026-11-20 12:37:26+02[Asia/Tokyo]",
                "the offset is not the zone's at that time, which has +09",
            ),
            ("2026-07-20 12:37:26+01:00[Europe/Berlin]", "which has +02"),
            ("2026-11-20 12:37:26+01:00[Mars/Olympus]", "not known"),
            ("1 month ago", "no fixed length"),
            ("2 years ago", "no fixed length"),
            ("-5 minutes ago", "in the future"),
            ("soon ago", "not understood"),
            ("ago", "not understood"),
            ("9999999 days ago", "not understood"),
            ("7000000 days ago", "out of range"),
        ] {
            assert!(refusal(text, None).contains(reason), "{text}: {}", refusal(text, None));
        }
        assert!(refusal(&"2".repeat(200), None).contains("128 bytes"));
    }

    #[test]
    fn zones_are_full_names_or_offsets() {
        for good in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "+05:30", "Z", "-08"] {
            assert!(parse_zone(good).is_ok(), "{good}");
        }
        for bad in ["", "CET", "PST", "local", "Europe/", "+5", "/etc/passwd", "../UTC"] {
            assert!(parse_zone(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*", zoned: bool) {
            let zone = zoned.then_some(TimeZone::UTC);
            let _ = parse_time(&text, zone.as_ref(), now());
        }

        #[test]
        fn what_postgres_and_rfc_3339_write_is_read_back(micros in -2_000_000_000_000_000_i64..4_000_000_000_000_000) {
            let moment = Timestamp::from_microsecond(micros).unwrap();
            for text in [
                moment.to_string(),
                moment.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string(),
                moment.display_with_offset(jiff::tz::offset(-7)).to_string(),
            ] {
                prop_assert_eq!(parse_time(&text, None, now()), Ok(moment), "{}", text);
            }
        }
    }
}
