//! Timeline histories.
//!
//! PostgreSQL source: `src/backend/access/transam/timeline.c`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::error::{Error, quoted};
use crate::hex;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// One line of a history file: where an ancestor was left.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The position where its child begins: the first byte that is no longer the ancestor's.
    pub switch_lsn: Lsn,
    /// Why, in PostgreSQL's words; for people.
    pub reason: String,
}

/// A timeline's part in a history: the positions for which it is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimelineRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position, [`Lsn::INVALID`] for the oldest timeline.
    pub begin: Lsn,
    /// The position after the last one, `None` for the newest timeline.
    pub end: Option<Lsn>,
}

impl TimelineRange {
    /// Whether the position lies in the range. Empty ranges (end at or before begin) hold nothing.
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.begin <= lsn && self.end.is_none_or(|end| lsn < end)
    }
}

/// The ancestors of a timeline, as its history file tells them.
///
/// The entries keep the order of the file, oldest first. Their switch positions need *not* ascend:
/// after a recovery to a point before an earlier fork, a file may say `1 0/1200000` and then
/// `2 0/111D980`, and PostgreSQL reads it properly because it searches from the newest entry on. So
/// does [`TimelineHistory::timeline_of`]; nothing here is ever sorted by position.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimelineHistory {
    timeline: TimelineId,
    entries: Vec<HistoryEntry>,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors: timeline 1, or one without a history file.
    pub const fn without_parents(timeline: TimelineId) -> Self {
        Self { timeline, entries: Vec::new() }
    }

    /// Parses the history file of `timeline`.
    ///
    /// Blank lines and lines that start with `#` are skipped. A line is the ancestor's decimal number,
    /// white space, the switch position, and the rest is the reason.
    ///
    /// # Errors
    /// [`Error::InvalidHistory`] where PostgreSQL would refuse the file: a line of another form, or
    /// timelines that do not ascend up to `timeline`.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, Error> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let invalid = |why| Error::InvalidHistory { line: index + 1, why, text: quoted(line) };
            let entry =
                parse_line(line).ok_or_else(|| invalid("not of the form <timeline> <LSN> <reason>"))?;
            if entries.last().is_some_and(|last| entry.timeline <= last.timeline) {
                return Err(invalid("timelines do not ascend"));
            }
            if entry.timeline >= timeline {
                return Err(invalid("an ancestor is not older than the timeline itself"));
            }
            entries.push(entry);
        }
        Ok(Self { timeline, entries })
    }

    /// The file's text: one line per entry, as PostgreSQL writes them. Line breaks in a reason become
    /// spaces.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let reason = entry.reason.replace(['\n', '\r'], " ");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}\t{}\t{}", entry.timeline, entry.switch_lsn, reason.trim_ascii());
        }
        text
    }

    /// The history of a timeline that leaves this one at `switch_lsn`.
    ///
    /// # Errors
    /// [`Error::InvalidTimeline`] if `child` is not newer than this timeline.
    pub fn fork(&self, child: TimelineId, switch_lsn: Lsn, reason: &str) -> Result<Self, Error> {
        if child <= self.timeline {
            return Err(Error::InvalidTimeline { text: child.to_string() });
        }
        let mut entries = self.entries.clone();
        entries.push(HistoryEntry { timeline: self.timeline, switch_lsn, reason: reason.to_owned() });
        Ok(Self { timeline: child, entries })
    }

    /// The timeline whose history this is.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The entries in the order of the file, oldest ancestor first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The timeline that the file names as the direct parent.
    pub fn parent(&self) -> Option<TimelineId> {
        self.entries.last().map(|entry| entry.timeline)
    }

    /// Every timeline of the history with its range, newest first: the order in which PostgreSQL
    /// searches.
    pub fn ranges(&self) -> impl Iterator<Item = TimelineRange> + '_ {
        let ends = std::iter::once((self.timeline, None))
            .chain(self.entries.iter().rev().map(|entry| (entry.timeline, Some(entry.switch_lsn))));
        let begins =
            self.entries.iter().rev().map(|entry| entry.switch_lsn).chain(std::iter::once(Lsn::INVALID));
        // PostgreSQL takes a switch position of 0 for "no end".
        ends.zip(begins).map(|((timeline, end), begin)| TimelineRange {
            timeline,
            begin,
            end: end.filter(|end| end.is_valid()),
        })
    }

    /// The timeline on which the byte at `lsn` is to be read, searching from the newest on
    /// (`tliOfPointInHistory`).
    pub fn timeline_of(&self, lsn: Lsn) -> TimelineId {
        // The search cannot fail: whatever lies before a range's begin lies before the end of the next
        // older one, and the oldest has no begin.
        self.ranges().find(|range| range.contains(lsn)).map_or(self.timeline, |range| range.timeline)
    }

    /// The position where `ancestor` was left, `None` for the timeline itself and for strangers
    /// (`tliSwitchPoint`).
    pub fn switch_point_of(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.entries.iter().rev().find(|entry| entry.timeline == ancestor).map(|entry| entry.switch_lsn)
    }

    /// The next newer timeline of this history after `ancestor`, `None` for the timeline itself and for
    /// strangers.
    pub fn child_of(&self, ancestor: TimelineId) -> Option<TimelineId> {
        let index = self.entries.iter().position(|entry| entry.timeline == ancestor)?;
        Some(self.entries.get(index + 1).map_or(self.timeline, |entry| entry.timeline))
    }

    /// Whether `timeline` is this timeline or one of its ancestors.
    pub fn contains(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.entries.iter().any(|entry| entry.timeline == timeline)
    }

    /// The ancestors, newest first.
    pub fn ancestors(&self) -> impl Iterator<Item = TimelineId> + '_ {
        self.entries.iter().rev().map(|entry| entry.timeline)
    }

    /// The timeline path: all ancestors, oldest first, then the timeline itself.
    pub fn path(&self) -> impl Iterator<Item = TimelineId> + '_ {
        self.entries.iter().map(|entry| entry.timeline).chain(std::iter::once(self.timeline))
    }
}

fn parse_line(line: &str) -> Option<HistoryEntry> {
    let (timeline, rest) = line.split_once(|c: char| c.is_ascii_whitespace())?;
    let timeline = u32::try_from(hex::parse_decimal(timeline)?).ok()?;
    let rest = rest.trim_ascii_start();
    let (lsn, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    Some(HistoryEntry {
        timeline: TimelineId::new(timeline).ok()?,
        switch_lsn: lsn.parse().ok()?,
        reason: reason.trim_ascii().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_as_postgres_writes_it() {
        // The second line is preceded by an empty one because the server copies the parent's file
        // and adds its own line after a line break.
        let file = b"1\t0/3000110\tno recovery target specified\n\n2\t0/5000060\tat restore point \"x y\"\n";
        let history = TimelineHistory::parse(tli(3), file).unwrap();
        assert_eq!(history.path().collect::<Vec<_>>(), [tli(1), tli(2), tli(3)]);
        assert_eq!(history.ancestors().collect::<Vec<_>>(), [tli(2), tli(1)]);
        assert_eq!(history.parent(), Some(tli(2)));
        assert_eq!(history.entries()[1].reason, "at restore point \"x y\"");
        assert_eq!(history.timeline_of(lsn("0/300010F")), tli(1));
        assert_eq!(history.timeline_of(lsn("0/3000110")), tli(2));
        assert_eq!(history.timeline_of(lsn("0/5000060")), tli(3));
        assert_eq!(history.switch_point_of(tli(2)), Some(lsn("0/5000060")));
        assert_eq!(history.switch_point_of(tli(3)), None);
        assert_eq!(history.child_of(tli(1)), Some(tli(2)));
        assert_eq!(history.child_of(tli(2)), Some(tli(3)));
        assert_eq!(history.child_of(tli(3)), None);
        assert!(history.contains(tli(3)) && history.contains(tli(1)) && !history.contains(tli(4)));
    }

    #[test]
    fn switch_points_need_not_ascend() {
        // Physically timeline 3 forked from timeline 1; timeline 2 has no positions of its own.
        let history = TimelineHistory::parse(tli(3), b"1\t0/1200000\ta\n2\t0/111D980\tb\n").unwrap();
        assert_eq!(history.timeline_of(lsn("0/111D97F")), tli(1));
        assert_eq!(history.timeline_of(lsn("0/111D980")), tli(3));
        assert_eq!(history.timeline_of(lsn("0/1200000")), tli(3));
        assert_eq!(history.entries()[0].timeline, tli(1));
        let ranges: Vec<_> = history.ranges().map(|r| (r.timeline.get(), r.begin, r.end)).collect();
        assert_eq!(
            ranges,
            [
                (3, lsn("0/111D980"), None),
                (2, lsn("0/1200000"), Some(lsn("0/111D980"))),
                (1, Lsn::INVALID, Some(lsn("0/1200000"))),
            ]
        );
    }

    #[test]
    fn comments_blanks_and_spaces_are_taken() {
        let file = b"# a comment\r\n\r\n   1   A/B   \n\t# more\n2 0/C\tr";
        let history = TimelineHistory::parse(tli(9), file).unwrap();
        assert_eq!(history.entries().len(), 2);
        assert_eq!(history.entries()[0].reason, "");
        assert_eq!(TimelineHistory::parse(tli(9), b"").unwrap(), TimelineHistory::without_parents(tli(9)));
    }

    #[test]
    fn what_postgres_refuses_is_refused() {
        for bad in [
            "1",
            "x\t0/1\tr",
            "1\t01\tr",
            "0\t0/1\tr",
            "2\t0/1\ta\n1\t0/2\tb",
            "1\t0/1\ta\n1\t0/2\tb",
            "3\t0/1\t",
        ] {
            assert!(TimelineHistory::parse(tli(3), bad.as_bytes()).is_err(), "{bad:?}");
        }
        let error = TimelineHistory::parse(tli(3), b"1\t0/1\ta\n\nnonsense").unwrap_err();
        assert!(error.to_string().contains("line=3"), "{error}");
    }

    #[test]
    fn a_fork_adds_one_line() {
        let first = TimelineHistory::without_parents(TimelineId::FIRST);
        let second = first.fork(tli(2), lsn("0/3000110"), "no recovery target specified").unwrap();
        assert_eq!(second.render(), "1\t0/3000110\tno recovery target specified\n");
        assert!(second.fork(tli(2), lsn("0/4000000"), "").is_err());
    }

    fn histories() -> impl Strategy<Value = TimelineHistory> {
        let entry = (1u32..1000, any::<u64>(), "[ -~]{0,30}");
        prop::collection::vec(entry, 0..8).prop_map(|list| {
            let mut history = TimelineHistory::without_parents(TimelineId::FIRST);
            for (step, at, reason) in list {
                let child = tli(history.timeline().get() + step);
                history = history.fork(child, Lsn::new(at), reason.trim()).unwrap();
            }
            history
        })
    }

    /// The server's loop over its list, newest first, with 0 for "none".
    fn naive_timeline_of(history: &TimelineHistory, lsn: Lsn) -> TimelineId {
        let mut list = Vec::new();
        let mut previous_end = Lsn::INVALID;
        for entry in history.entries() {
            list.insert(0, (entry.timeline, previous_end, entry.switch_lsn));
            previous_end = entry.switch_lsn;
        }
        list.insert(0, (history.timeline(), previous_end, Lsn::INVALID));
        for (timeline, begin, end) in list {
            if (!begin.is_valid() || begin <= lsn) && (!end.is_valid() || lsn < end) {
                return timeline;
            }
        }
        panic!("timeline not found");
    }

    proptest! {
        #[test]
        fn rendered_histories_parse_back(history in histories()) {
            let parsed = TimelineHistory::parse(history.timeline(), history.render().as_bytes());
            prop_assert_eq!(parsed, Ok(history));
        }

        #[test]
        fn lookup_is_the_servers(history in histories(), at: u64, pick: prop::sample::Index) {
            let mut points = vec![Lsn::new(at), Lsn::INVALID, Lsn::MAX];
            points.extend(history.entries().iter().map(|entry| entry.switch_lsn));
            let point = *pick.get(&points);
            prop_assert_eq!(history.timeline_of(point), naive_timeline_of(&history, point));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(timeline in 1u32.., bytes: Vec<u8>) {
            let _ = TimelineHistory::parse(tli(timeline), &bytes);
        }

        #[test]
        fn mutated_files_are_taken_or_refused(history in histories(), at: prop::sample::Index, byte: u8) {
            let mut bytes = history.render().into_bytes();
            if !bytes.is_empty() {
                let index = at.index(bytes.len());
                bytes[index] = byte;
            }
            if let Ok(parsed) = TimelineHistory::parse(history.timeline(), &bytes) {
                prop_assert!(parsed.entries().is_sorted_by_key(|entry| entry.timeline));
            }
        }
    }
}
