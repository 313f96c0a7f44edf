//! A small drawing of an archive: its timelines with their forks, the WAL that is there and that is missing, the
//! backups, and the way that a recovery takes.
//!
//! One row is one timeline, one column a stretch of WAL, as many bytes wide as the canvas makes it. What is too
//! small to be seen gets a column all the same.

use std::collections::{BTreeMap, BTreeSet};

use walden_core::{CatalogSnapshot, Moment, RecoveryPlan};
use walden_pg::{Lsn, TimelineId};

use crate::text::{Canvas, Paint, Text};

/// Timelines that are drawn at most.
const ROWS_MAX: usize = 12;
/// Columns that a drawing has at least, beside the names of the timelines.
const COLUMNS_MIN: usize = 16;

/// One timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    timeline: TimelineId,
    parent: Option<TimelineId>,
    fork: Option<Lsn>,
    /// The WAL that is there, in rising order.
    runs: Vec<(Lsn, Lsn)>,
    /// The part that a recovery replays.
    way: Option<(Lsn, Lsn)>,
}

/// Something at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    timeline: TimelineId,
    lsn: Lsn,
    what: Glyph,
}

/// What a cell shows; a later one hides an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Glyph {
    /// Nothing.
    Blank,
    /// A fork on its way down to its timeline.
    Down,
    /// WAL that is there.
    Wal,
    /// WAL that will be replayed.
    Way,
    /// WAL that is missing.
    Gap,
    /// Where a timeline leaves its parent.
    Fork,
    /// Where a timeline begins.
    Begin,
    /// A backup.
    Backup,
    /// The nearest moment before a target that can't be reached.
    Before,
    /// The nearest moment after it.
    After,
    /// The backup that a plan starts from.
    Chosen,
    /// Where recovery stops.
    Stop,
}

impl Glyph {
    const fn character(self, unicode: bool) -> char {
        match (self, unicode) {
            (Self::Blank, _) => ' ',
            (Self::Down, true) => '│',
            (Self::Down, false) => '|',
            (Self::Wal, true) => '─',
            (Self::Wal, false) => '-',
            (Self::Way, true) => '━',
            (Self::Way, false) => '=',
            (Self::Gap, true) => '╌',
            (Self::Gap, false) => '.',
            (Self::Fork, true) => '┬',
            (Self::Fork, false) => '+',
            (Self::Begin, true) => '└',
            (Self::Begin, false) => '\\',
            (Self::Backup, true) => '○',
            (Self::Backup, false) => 'o',
            (Self::Before, true) => '◂',
            (Self::Before, false) => '<',
            (Self::After, true) => '▸',
            (Self::After, false) => '>',
            (Self::Chosen, true) => '●',
            (Self::Chosen, false) => 'B',
            (Self::Stop, true) => '◆',
            (Self::Stop, false) => 'X',
        }
    }

    /// What the legend says of it, if it needs to be said.
    const fn meaning(self) -> Option<&'static str> {
        match self {
            Self::Blank | Self::Down | Self::Fork | Self::Begin => None,
            Self::Wal => Some("archived"),
            Self::Way => Some("replayed"),
            Self::Gap => Some("missing"),
            Self::Backup => Some("backup"),
            Self::Before => Some("nearest before"),
            Self::After => Some("nearest after"),
            Self::Chosen => Some("this backup"),
            Self::Stop => Some("stops here"),
        }
    }

    fn painted(self, text: &str, paint: Paint) -> String {
        match self {
            Self::Gap => paint.red(text),
            Self::Way | Self::Chosen => paint.green(text),
            Self::Stop | Self::Before | Self::After => paint.yellow(text),
            Self::Blank | Self::Down | Self::Wal | Self::Fork | Self::Begin => paint.dim(text),
            Self::Backup => text.to_owned(),
        }
    }
}

/// An archive to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drawing {
    lines: Vec<Line>,
    marks: Vec<Mark>,
}

impl Drawing {
    /// What a snapshot holds.
    pub(crate) fn of(snapshot: &CatalogSnapshot) -> Self {
        let size = snapshot.incarnation.segment_size;
        let line = |timeline| {
            let fork = snapshot.histories.get(&timeline).and_then(|history| history.entries().last());
            let fork_lsn = fork.map(|entry| entry.switch_lsn);
            // The segment with the fork in it begins with the parent's WAL.
            let begin = fork_lsn.unwrap_or(Lsn::INVALID);
            let present = snapshot.present(timeline).into_iter();
            let runs = present.map(|(first, last)| (size.start_of(first), size.start_of(last.next())));
            Line {
                timeline,
                parent: fork.map(|entry| entry.timeline),
                fork: fork_lsn,
                runs: runs.map(|(from, to)| (from.max(begin), to.max(begin))).collect(),
                way: None,
            }
        };
        let backups = snapshot.backups.iter();
        Self {
            lines: snapshot.timelines().into_iter().map(line).collect(),
            marks: backups
                .map(|backup| Mark {
                    timeline: backup.stop_timeline,
                    lsn: backup.stop_lsn,
                    what: Glyph::Backup,
                })
                .collect(),
        }
    }

    /// Whether there is nothing to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.runs.is_empty())
    }

    /// With the way that a plan takes.
    pub(crate) fn with_plan(mut self, plan: &RecoveryPlan) -> Self {
        for step in &plan.timeline_path {
            let end = step.end_lsn.map_or(plan.stop.replayed_to, |end| end.min(plan.stop.replayed_to));
            if let Some(line) = self.lines.iter_mut().find(|line| line.timeline == step.timeline) {
                line.way = Some((step.start_lsn.max(plan.backup.start_lsn), end));
            }
        }
        self.marks.push(Mark {
            timeline: plan.backup.timeline,
            lsn: plan.backup.stop_lsn,
            what: Glyph::Chosen,
        });
        self.marks.push(Mark { timeline: plan.stop.timeline, lsn: plan.stop.replayed_to, what: Glyph::Stop });
        self
    }

    /// With the moments nearest to a target that can't be reached, on the timeline that is followed or else on the
    /// newest that has their WAL.
    pub(crate) fn with_nearest(
        mut self,
        timeline: Option<TimelineId>,
        before: Option<&Moment>,
        after: Option<&Moment>,
    ) -> Self {
        let pairs = [(before, Glyph::Before), (after, Glyph::After)];
        for (moment, what) in pairs.into_iter().filter_map(|(moment, what)| Some((moment?, what))) {
            let holds = |line: &&Line| {
                line.runs.iter().any(|(from, to)| (*from..=*to).contains(&moment.lsn))
                    && timeline.is_none_or(|timeline| line.timeline <= timeline)
                    && line.fork.is_none_or(|fork| fork <= moment.lsn)
            };
            if let Some(line) = self.lines.iter().rev().find(holds) {
                self.marks.push(Mark { timeline: line.timeline, lsn: moment.lsn, what });
            }
        }
        self
    }

    /// Draws it, with a legend of what it shows; nothing when there is no WAL.
    pub(crate) fn draw(&self, text: &mut Text) {
        let (canvas, paint) = (text.canvas(), text.paint());
        for line in self.rows(canvas, paint) {
            text.line(line);
        }
    }

    fn rows(&self, canvas: Canvas, paint: Paint) -> Vec<String> {
        let shown = self.shown();
        let names: Vec<String> = shown.iter().map(|line| format!("timeline {}", line.timeline)).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        let columns = canvas.columns.saturating_sub(width + 2).max(COLUMNS_MIN);
        let Some(axis) = Axis::of(&shown, columns) else { return Vec::new() };
        let grid = self.grid(&shown, &axis);
        let mut rows = Vec::new();
        for (name, cells) in names.iter().zip(&grid) {
            let row = format!("{}  {}", paint.dim(&format!("{name:<width$}")), inked(cells, canvas, paint));
            rows.push(row.trim_end().to_owned());
        }
        let (first, last) = (axis.first.to_string(), axis.last.to_string());
        let room = columns.saturating_sub(first.len());
        let scale = format!("{:width$}  {first}{last:>room$}", "");
        rows.push(paint.dim(scale.trim_end()));
        let hidden = self.lines.len() - shown.len();
        if hidden > 0 {
            rows.push(paint.dim(&format!("{:width$}  and {hidden} more", "")));
        }
        let used: BTreeSet<Glyph> = grid.iter().flatten().copied().collect();
        for line in legend(used, columns, canvas, paint) {
            rows.push(format!("{:width$}  {line}", ""));
        }
        rows
    }

    /// The timelines that are drawn: those of the way, and the newest.
    fn shown(&self) -> Vec<&Line> {
        let mut newest_first: Vec<&Line> = self.lines.iter().rev().collect();
        newest_first.sort_by_key(|line| line.way.is_none());
        newest_first.truncate(ROWS_MAX);
        newest_first.sort_by_key(|line| line.timeline);
        newest_first
    }

    fn grid(&self, shown: &[&Line], axis: &Axis) -> Vec<Vec<Glyph>> {
        let mut grid = vec![vec![Glyph::Blank; axis.columns]; shown.len()];
        let rows: BTreeMap<TimelineId, usize> =
            shown.iter().enumerate().map(|(row, line)| (line.timeline, row)).collect();
        for (row, line) in shown.iter().enumerate() {
            let Some(cells) = grid.get_mut(row) else { continue };
            fill_line(cells, line, axis);
        }
        for (row, line) in shown.iter().enumerate() {
            let (Some(fork), Some(parent)) = (line.fork, line.parent.and_then(|parent| rows.get(&parent)))
            else {
                continue;
            };
            let column = axis.column(fork);
            set(&mut grid, *parent, column, Glyph::Fork);
            for between in parent + 1..row {
                set(&mut grid, between, column, Glyph::Down);
            }
            set(&mut grid, row, column, Glyph::Begin);
        }
        for mark in &self.marks {
            if let Some(row) = rows.get(&mark.timeline) {
                set(&mut grid, *row, axis.column(mark.lsn), mark.what);
            }
        }
        grid
    }
}

/// What the glyphs mean, in lines of so many columns.
fn legend(used: BTreeSet<Glyph>, columns: usize, canvas: Canvas, paint: Paint) -> Vec<String> {
    const BETWEEN: &str = "   ";
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (glyph, meaning) in used.into_iter().filter_map(|glyph| Some((glyph, glyph.meaning()?))) {
        let character = glyph.character(canvas.unicode).to_string();
        let item = format!("{} {meaning}", glyph.painted(&character, paint));
        let width = meaning.len() + 2;
        match lines.last_mut() {
            Some((used, line)) if *used + BETWEEN.len() + width <= columns => {
                line.push_str(BETWEEN);
                line.push_str(&item);
                *used += BETWEEN.len() + width;
            }
            _ => lines.push((width, item)),
        }
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

fn fill_line(cells: &mut [Glyph], line: &Line, axis: &Axis) {
    for (from, to) in &line.runs {
        fill(cells, axis, *from, *to, Glyph::Wal);
    }
    if let Some((from, to)) = line.way {
        fill(cells, axis, from, to, Glyph::Way);
    }
    let begin = line.fork.into_iter().map(|fork| (fork, fork));
    let ends: Vec<(Lsn, Lsn)> = begin.chain(line.runs.iter().copied()).collect();
    for ((_, before), (after, _)) in ends.iter().zip(ends.iter().skip(1)) {
        if before < after {
            fill(cells, axis, *before, *after, Glyph::Gap);
        }
    }
}

/// Fills the columns of a stretch, at least one.
fn fill(cells: &mut [Glyph], axis: &Axis, from: Lsn, to: Lsn, glyph: Glyph) {
    let (first, last) = (axis.column(from), axis.column(to.checked_sub(1).unwrap_or(to)));
    for cell in cells.iter_mut().take(last + 1).skip(first) {
        *cell = (*cell).max(glyph);
    }
}

fn set(grid: &mut [Vec<Glyph>], row: usize, column: usize, glyph: Glyph) {
    if let Some(cell) = grid.get_mut(row).and_then(|cells| cells.get_mut(column)) {
        *cell = (*cell).max(glyph);
    }
}

/// The cells as text, painted in runs of the same kind.
fn inked(cells: &[Glyph], canvas: Canvas, paint: Paint) -> String {
    let used = cells.iter().rposition(|cell| *cell != Glyph::Blank).map_or(0, |last| last + 1);
    let mut out = String::new();
    for run in cells.get(..used).unwrap_or_default().chunk_by(|a, b| a == b) {
        let Some(glyph) = run.first() else { continue };
        let text: String = run.iter().map(|glyph| glyph.character(canvas.unicode)).collect();
        out.push_str(&if *glyph == Glyph::Blank { text } else { glyph.painted(&text, paint) });
    }
    out
}

/// The positions of the columns.
#[derive(Debug, Clone, Copy)]
struct Axis {
    first: Lsn,
    last: Lsn,
    columns: usize,
}

impl Axis {
    fn of(lines: &[&Line], columns: usize) -> Option<Self> {
        let ends = lines.iter().flat_map(|line| line.runs.iter().flat_map(|(from, to)| [*from, *to]));
        let positions: Vec<Lsn> = ends.collect();
        let (first, last) = (positions.iter().min()?, positions.iter().max()?);
        Some(Self { first: *first, last: *last, columns })
    }

    fn column(&self, lsn: Lsn) -> usize {
        let inside = lsn.clamp(self.first, self.last);
        let span = u128::from(self.last.get() - self.first.get()).max(1);
        let at = u128::from(inside.get() - self.first.get()) * (self.columns as u128) / span;
        usize::try_from(at).unwrap_or(usize::MAX).min(self.columns.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn line(timeline: u32, fork: Option<(u32, u64)>, runs: &[(u64, u64)]) -> Line {
        let id = |number| TimelineId::new(number).unwrap();
        Line {
            timeline: id(timeline),
            parent: fork.map(|(parent, _)| id(parent)),
            fork: fork.map(|(_, at)| at_mib(at)),
            runs: runs.iter().map(|(from, to)| (at_mib(*from), at_mib(*to))).collect(),
            way: None,
        }
    }

    fn at_mib(mib: u64) -> Lsn {
        Lsn::new(mib << 20)
    }

    fn mark(timeline: u32, mib: u64, what: Glyph) -> Mark {
        Mark { timeline: TimelineId::new(timeline).unwrap(), lsn: at_mib(mib), what }
    }

    fn drawn(drawing: &Drawing, columns: usize, unicode: bool) -> String {
        let mut text = Text::new(Paint::Plain, TimeZone::UTC).with_canvas(Canvas { columns, unicode });
        drawing.draw(&mut text);
        text.finish()
    }

    /// Both alphabets and a narrow terminal.
    fn all(drawing: &Drawing) -> String {
        let drawn = |columns: usize, unicode| {
            let text = drawn(drawing, columns, unicode);
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
            text
        };
        [drawn(72, true), drawn(72, false), drawn(40, false)].join("\n")
    }

    #[test]
    fn one_timeline_with_a_gap() {
        let lines = vec![line(1, None, &[(1, 40), (44, 60)])];
        let marks = vec![mark(1, 5, Glyph::Backup), mark(1, 50, Glyph::Backup)];
        insta::assert_snapshot!(all(&Drawing { lines, marks }));
    }

    #[test]
    fn a_way_over_two_forks() {
        let mut lines = vec![
            line(1, None, &[(1, 64)]),
            line(2, Some((1, 30)), &[(30, 50)]),
            line(3, Some((1, 40)), &[(40, 90)]),
        ];
        lines[0].way = Some((at_mib(8), at_mib(40)));
        lines[2].way = Some((at_mib(40), at_mib(77)));
        let marks = vec![
            mark(1, 8, Glyph::Chosen),
            mark(1, 2, Glyph::Backup),
            mark(2, 45, Glyph::Backup),
            mark(3, 77, Glyph::Stop),
        ];
        insta::assert_snapshot!(all(&Drawing { lines, marks }));
    }

    #[test]
    fn a_missing_fork_segment_and_a_hole_too_small_for_a_column() {
        let lines = vec![line(1, None, &[(1, 500), (501, 1000)]), line(2, Some((1, 900)), &[(930, 1000)])];
        let marks = vec![mark(1, 100, Glyph::Before), mark(2, 950, Glyph::After)];
        insta::assert_snapshot!(all(&Drawing { lines, marks }));
    }

    #[test]
    fn many_timelines_and_none() {
        let mut lines = vec![line(1, None, &[(1, 10)])];
        lines.extend(
            (2..40).map(|id| line(id, Some((id - 1, u64::from(id) * 4)), &[(u64::from(id) * 4, 200)])),
        );
        lines[0].way = Some((at_mib(2), at_mib(8)));
        insta::assert_snapshot!(drawn(&Drawing { lines, marks: Vec::new() }, 60, true));
        assert_eq!(drawn(&Drawing { lines: Vec::new(), marks: Vec::new() }, 60, true), "");
    }
}
