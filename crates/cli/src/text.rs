//! Text for people: tables, lists of facts, sizes, times, colours.

use std::fmt::Write;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::failure::{Failure, one_line};

/// Puts colours around words, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// No colours.
    Plain,
    /// ANSI escape sequences.
    Ansi,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// For what is wrong.
    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// For what needs a look.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("1;33", text)
    }

    /// For what is well.
    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// For headings and names.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what matters less.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// How a column of a table is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a heading.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    fn width(&self, column: usize) -> usize {
        let heading = self.columns.get(column).map_or(0, |(heading, _)| heading.chars().count());
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading]).max().unwrap_or(0)
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (at, (cell, (_, align))) in cells.iter().zip(&self.columns).enumerate() {
            let width = self.width(at);
            let gap = if at == 0 { "" } else { "  " };
            let _ = match align {
                Align::Left => write!(line, "{gap}{cell:<width$}"),
                Align::Right => write!(line, "{gap}{cell:>width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A text under construction.
#[derive(Debug)]
pub(crate) struct Text {
    out: String,
    paint: Paint,
    /// The system's unless one is given; looked up for the first moment, because that takes a millisecond.
    zone: Option<TimeZone>,
    canvas: Canvas,
}

/// What can be drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Canvas {
    /// Columns.
    pub(crate) columns: usize,
    /// Whether lines may be drawn with more than ASCII.
    pub(crate) unicode: bool,
}

impl Text {
    /// An empty text; moments are shown in UTC and in `zone`, or in the system's.
    pub(crate) fn new(paint: Paint, zone: impl Into<Option<TimeZone>>) -> Self {
        Self { out: String::new(), paint, zone: zone.into(), canvas: Canvas { columns: 80, unicode: false } }
    }

    /// The same on another canvas.
    pub(crate) fn with_canvas(self, canvas: Canvas) -> Self {
        Self { canvas, ..self }
    }

    /// What can be drawn on.
    pub(crate) fn canvas(&self) -> Canvas {
        self.canvas
    }

    /// The finished text, in characters that the canvas has.
    pub(crate) fn finish(self) -> String {
        if self.canvas.unicode { self.out } else { spelled_out(&self.out) }
    }

    /// The colours in use.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// One line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.out.push_str(line.as_ref());
        self.out.push('\n');
    }

    /// An empty line, unless the text is empty.
    pub(crate) fn gap(&mut self) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
    }

    /// A heading after an empty line.
    pub(crate) fn heading(&mut self, heading: &str) {
        self.gap();
        let heading = self.paint.bold(heading);
        self.line(heading);
    }

    /// Facts, one on a line: the names aligned, the values after them.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) {
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in facts {
            let name = self.paint.dim(&format!("{name:<width$}"));
            self.line(format!("{name}  {value}").trim_end());
        }
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) {
        let headings: Vec<String> = table.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let headings = self.paint.bold(&table.line(&headings));
        self.line(headings);
        for row in &table.rows {
            self.line(table.line(row));
        }
    }

    /// Items with a dash before each.
    pub(crate) fn bullets<T: AsRef<str>>(&mut self, items: &[T]) {
        for item in items {
            self.line(format!("  - {}", item.as_ref()));
        }
    }

    /// A failure: the error, its causes and the hint, one line each.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        self.line(format!("{} {}", self.paint.red("error:"), one_line(&failure.message)));
        for cause in &failure.causes {
            self.line(format!("{} {}", self.paint.bold("cause:"), one_line(cause)));
        }
        if let Some(hint) = &failure.hint {
            self.line(format!("{} {}", self.paint.bold("hint:"), one_line(hint)));
        }
    }

    /// A moment in UTC and, where it differs, in the local zone.
    pub(crate) fn moment(&self, moment: Timestamp) -> String {
        match &self.zone {
            Some(zone) => show_moment(moment, zone),
            None => show_moment(moment, &TimeZone::system()),
        }
    }

    /// The same to the microsecond in UTC.
    pub(crate) fn exact_moment(&self, moment: Timestamp) -> String {
        let utc = moment.strftime("%Y-%m-%d %H:%M:%S%.6f UTC").to_string();
        match self.moment(moment).split_once(" (") {
            Some((_, local)) => format!("{utc} ({local}"),
            None => utc,
        }
    }
}

/// A moment to the second in UTC and, where it differs, in `zone`: `2026-11-20 14:31:58 UTC (15:31:58 +01)`.
pub(crate) fn show_moment(moment: Timestamp, zone: &TimeZone) -> String {
    let utc = moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let local = moment.to_zoned(zone.clone());
    if local.offset().seconds() == 0 {
        return utc;
    }
    let same_day = local.date() == moment.to_zoned(TimeZone::UTC).date();
    let form = if same_day { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    format!("{utc} ({} {})", local.strftime(form), show_offset(local.offset().seconds()))
}

fn show_offset(seconds: i32) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.abs() / 60;
    match minutes % 60 {
        0 => format!("{sign}{:02}", minutes / 60),
        rest => format!("{sign}{:02}:{rest:02}", minutes / 60),
    }
}

/// A size as people read it: `512 B`, `16.0 MiB`, `1.5 TiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths in integers: exact for every u64.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while tenths >= 10_240 {
        tenths /= 1024;
        unit = units.next();
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, unit.unwrap_or(&"EiB"))
}

/// A duration as people read it: `450 ms`, `1.4 s`, `12 s`, `3 min 20 s`, `5 h 2 min`, `3 d 4 h`.
pub(crate) fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0 => format!("{} ms", duration.as_millis().max(0)),
        1..10 => format!("{}.{} s", seconds, duration.subsec_millis().max(0) / 100),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of seconds: `0 s`, `90 s`, `3 min 20 s`.
pub(crate) fn seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        _ => duration(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))),
    }
}

/// Text that a person can paste into a shell as one word.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line of postgresql.conf. In quotes PostgreSQL reads a backslash as an escape (`GUC_scanstr` in
/// `src/backend/utils/misc/guc-file.l`).
pub(crate) fn conf_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

/// The text without the one sign of ours that is not ASCII. Names and messages of others are left as they are.
pub(crate) fn spelled_out(text: &str) -> String {
    text.replace('…', "...")
}

/// "1 segment", "2 segments".
pub(crate) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_right() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (16 << 20, "16.0 MiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1_500_000_000_000, "1.3 TiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_are_short_and_right() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (450, "450 ms"),
            (1450, "1.4 s"),
            (12_999, "12 s"),
            (200_000, "3 min 20 s"),
            (18_120_000, "5 h 2 min"),
            (273_600_000, "3 d 4 h"),
            (-5, "0 ms"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn moments_are_shown_in_utc_and_locally() {
        let moment = "2026-11-20T23:31:58.204113Z".parse().unwrap();
        let show = |zone: &str| show_moment(moment, &TimeZone::get(zone).unwrap());
        assert_eq!(show("UTC"), "2026-11-20 23:31:58 UTC");
        assert_eq!(show("Europe/Berlin"), "2026-11-20 23:31:58 UTC (2026-11-21 00:31:58 +01)");
        assert_eq!(show("America/St_Johns"), "2026-11-20 23:31:58 UTC (20:01:58 -03:30)");
    }

    #[test]
    fn tables_are_aligned_without_trailing_spaces() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["a".into(), "10.0 MiB".into(), String::new()]);
        table.row(["long name".into(), "1 B".into(), "x".into()]);
        let mut text = Text::new(Paint::Plain, TimeZone::UTC);
        text.table(&table);
        assert_eq!(text.finish(), "NAME           SIZE  NOTE\na          10.0 MiB\nlong name       1 B  x\n");
    }

    #[test]
    fn a_failure_has_one_line_for_each_part() {
        let failure = Failure {
            causes: vec!["HTTP 503\nSlowDown".into()],
            ..Failure::new(walden_core::ErrorKind::Unavailable, "store unavailable").with_hint("try again")
        };
        let mut text = Text::new(Paint::Plain, TimeZone::UTC);
        text.failure(&failure);
        assert_eq!(text.finish(), "error: store unavailable\ncause: HTTP 503 SlowDown\nhint: try again\n");
    }
}
