//! `backup_label`, and the backup history file that repeats it.
//!
//! PostgreSQL source: `build_backup_content` in `src/backend/access/transam/xlogbackup.c` (before 15
//! in `xlog.c`) writes them; `read_backup_label` in `xlogrecovery.c` reads the label.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, quoted};
use crate::hex;
use crate::lsn::Lsn;
use crate::segment::SegmentName;
use crate::timeline::TimelineId;

/// How the backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupMethod {
    /// A non-exclusive backup, by the functions or by the replication protocol: `streamed`.
    Streamed,
    /// An exclusive backup, which 15 no longer has: `pg_start_backup`.
    Exclusive,
}

/// From what kind of server the backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupSource {
    /// `primary`, or `master` in PostgreSQL 13.
    Primary,
    /// `standby`.
    Standby,
}

/// The backup that an incremental backup needs to be combined with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IncrementalFrom {
    /// The start position of the earlier backup.
    pub lsn: Lsn,
    /// The start timeline of the earlier backup.
    pub timeline: TimelineId,
}

/// The contents of `backup_label`: where recovery of a base backup has to start.
///
/// Displays as PostgreSQL writes it, except that 13's `master` becomes `primary`. Where the file goes
/// back into a data directory, write the bytes that the server gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BackupLabel {
    /// The redo position of the backup's checkpoint.
    pub start_lsn: Lsn,
    /// The segment of the start position, with the backup's start timeline.
    pub start_segment: SegmentName,
    /// The position of the checkpoint's record.
    pub checkpoint_lsn: Lsn,
    /// How the backup was taken, if it says.
    pub method: Option<BackupMethod>,
    /// From what kind of server, if it says.
    pub source: Option<BackupSource>,
    /// When the backup began, in the server's `log_timezone`; for people.
    pub start_time: Option<String>,
    /// The label that the backup was given. Bytes that are not UTF-8 are replaced.
    pub label: Option<String>,
    /// The timeline at the start, if it says.
    pub start_timeline: Option<TimelineId>,
    /// Set for an incremental backup (17 and later), which no server starts from as it is.
    pub incremental_from: Option<IncrementalFrom>,
}

/// The contents of a backup history file, `<segment>.<offset>.backup`: the label and where the backup
/// ended. For people and tools; recovery never reads it.
///
/// Displays as PostgreSQL writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BackupHistory {
    /// The lines that `backup_label` has too.
    pub label: BackupLabel,
    /// The end of the backup: the position after the end-of-backup record.
    pub stop_lsn: Lsn,
    /// The segment that the file names for the stop position. From 16 on this is the segment *after*
    /// the last one needed if the stop position lies on a boundary; calculate from `stop_lsn`.
    pub stop_segment: SegmentName,
    /// When the backup ended, in the server's `log_timezone`; for people.
    pub stop_time: Option<String>,
    /// The timeline at the end, if it says.
    pub stop_timeline: Option<TimelineId>,
}

impl BackupLabel {
    /// Parses `backup_label`.
    ///
    /// The first two lines must be there and be exact, as the server demands. The others are taken
    /// where they are found, the first of a kind counts, and unknown lines are skipped.
    ///
    /// # Errors
    /// [`Error::InvalidBackupLabel`] with the line that is missing or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split_inclusive('\n');
        let start = lines.next().unwrap_or_default();
        let checkpoint = lines.next().unwrap_or_default();
        Self::from_lines(start, checkpoint, &text)
    }

    fn from_lines(start: &str, checkpoint: &str, text: &str) -> Result<Self, Error> {
        let (start_lsn, start_segment) = position_line(start, START)?;
        let checkpoint_lsn =
            exact_line(checkpoint, CHECKPOINT)?.parse().map_err(|_| invalid(CHECKPOINT, checkpoint))?;
        let typed = |name, find: fn(&str) -> bool| match value_of(text, name) {
            Some(value) if !find(value) => Err(invalid(name, value)),
            value => Ok(value),
        };
        let method = typed(METHOD, |value| method_of(value).is_some())?.and_then(method_of);
        let source = typed(SOURCE, |value| source_of(value).is_some())?.and_then(source_of);
        Ok(Self {
            start_lsn,
            start_segment,
            checkpoint_lsn,
            method,
            source,
            start_time: value_of(text, START_TIME).map(str::to_owned),
            label: value_of(text, LABEL).map(str::to_owned),
            start_timeline: timeline_line(text, START_TIMELINE)?,
            incremental_from: incremental_lines(text)?,
        })
    }
}

impl BackupHistory {
    /// Parses a backup history file.
    ///
    /// # Errors
    /// [`Error::InvalidBackupLabel`] with the line that is missing or malformed; the first three are
    /// required.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split_inclusive('\n');
        let start = lines.next().unwrap_or_default();
        let stop = lines.next().unwrap_or_default();
        let checkpoint = lines.next().unwrap_or_default();
        let (stop_lsn, stop_segment) = position_line(stop, STOP)?;
        Ok(Self {
            label: BackupLabel::from_lines(start, checkpoint, &text)?,
            stop_lsn,
            stop_segment,
            stop_time: value_of(&text, STOP_TIME).map(str::to_owned),
            stop_timeline: timeline_line(&text, STOP_TIMELINE)?,
        })
    }
}

const START: &str = "START WAL LOCATION: ";
const STOP: &str = "STOP WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";
const METHOD: &str = "BACKUP METHOD: ";
const SOURCE: &str = "BACKUP FROM: ";
const START_TIME: &str = "START TIME: ";
const LABEL: &str = "LABEL: ";
const START_TIMELINE: &str = "START TIMELINE: ";
const STOP_TIME: &str = "STOP TIME: ";
const STOP_TIMELINE: &str = "STOP TIMELINE: ";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN: ";
const INCREMENTAL_TIMELINE: &str = "INCREMENTAL FROM TLI: ";

fn invalid(name: &'static str, text: &str) -> Error {
    Error::InvalidBackupLabel { name: name.trim_end().trim_end_matches(':'), text: quoted(text.trim_end()) }
}

/// The rest of a line that must begin with `name` and end in a bare line feed.
fn exact_line<'a>(line: &'a str, name: &'static str) -> Result<&'a str, Error> {
    line.strip_prefix(name).and_then(|rest| rest.strip_suffix('\n')).ok_or_else(|| invalid(name, line))
}

/// A line `<name><LSN> (file <segment>)`.
fn position_line(line: &str, name: &'static str) -> Result<(Lsn, SegmentName), Error> {
    exact_line(line, name)?
        .strip_suffix(')')
        .and_then(|rest| rest.split_once(" (file "))
        .and_then(|(lsn, segment)| Some((lsn.parse().ok()?, segment.parse().ok()?)))
        .ok_or_else(|| invalid(name, line))
}

/// What follows `name` on the first line that begins with it.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split('\n').find_map(|line| line.strip_prefix(name))
}

fn timeline_line(text: &str, name: &'static str) -> Result<Option<TimelineId>, Error> {
    let Some(value) = value_of(text, name) else { return Ok(None) };
    hex::parse_decimal(value)
        .and_then(|number| u32::try_from(number).ok())
        .and_then(|number| TimelineId::new(number).ok())
        .map(Some)
        .ok_or_else(|| invalid(name, value))
}

fn incremental_lines(text: &str) -> Result<Option<IncrementalFrom>, Error> {
    let Some(lsn) = value_of(text, INCREMENTAL_LSN) else { return Ok(None) };
    let timeline =
        timeline_line(text, INCREMENTAL_TIMELINE)?.ok_or_else(|| invalid(INCREMENTAL_TIMELINE, ""))?;
    let lsn = lsn.parse().map_err(|_| invalid(INCREMENTAL_LSN, lsn))?;
    Ok(Some(IncrementalFrom { lsn, timeline }))
}

fn method_of(text: &str) -> Option<BackupMethod> {
    match text {
        "streamed" => Some(BackupMethod::Streamed),
        "pg_start_backup" => Some(BackupMethod::Exclusive),
        _ => None,
    }
}

fn source_of(text: &str) -> Option<BackupSource> {
    match text {
        "primary" | "master" => Some(BackupSource::Primary),
        "standby" => Some(BackupSource::Standby),
        _ => None,
    }
}

/// Text that goes on one line.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

impl BackupLabel {
    fn write(&self, f: &mut fmt::Formatter<'_>, stop: Option<&BackupHistory>) -> fmt::Result {
        writeln!(f, "{START}{} (file {})", self.start_lsn, self.start_segment)?;
        if let Some(stop) = stop {
            writeln!(f, "{STOP}{} (file {})", stop.stop_lsn, stop.stop_segment)?;
        }
        writeln!(f, "{CHECKPOINT}{}", self.checkpoint_lsn)?;
        match self.method {
            Some(BackupMethod::Streamed) => writeln!(f, "{METHOD}streamed")?,
            Some(BackupMethod::Exclusive) => writeln!(f, "{METHOD}pg_start_backup")?,
            None => {}
        }
        match self.source {
            Some(BackupSource::Primary) => writeln!(f, "{SOURCE}primary")?,
            Some(BackupSource::Standby) => writeln!(f, "{SOURCE}standby")?,
            None => {}
        }
        if let Some(time) = &self.start_time {
            writeln!(f, "{START_TIME}{}", one_line(time))?;
        }
        if let Some(label) = &self.label {
            writeln!(f, "{LABEL}{}", one_line(label))?;
        }
        if let Some(timeline) = self.start_timeline {
            writeln!(f, "{START_TIMELINE}{timeline}")?;
        }
        if let Some(stop) = stop {
            if let Some(time) = &stop.stop_time {
                writeln!(f, "{STOP_TIME}{}", one_line(time))?;
            }
            if let Some(timeline) = stop.stop_timeline {
                writeln!(f, "{STOP_TIMELINE}{timeline}")?;
            }
        }
        if let Some(from) = self.incremental_from {
            writeln!(f, "{INCREMENTAL_LSN}{}", from.lsn)?;
            writeln!(f, "{INCREMENTAL_TIMELINE}{}", from.timeline)?;
        }
        Ok(())
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

impl fmt::Display for BackupHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.label.write(f, Some(self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::BACKUPS;
    use crate::major::PgMajor;

    #[test]
    fn real_files_of_all_majors() {
        for files in &BACKUPS {
            let label = BackupLabel::parse(files.label).unwrap();
            assert_eq!(label.method, Some(BackupMethod::Streamed));
            assert_eq!(label.source, Some(BackupSource::Primary));
            assert_eq!(label.label, Some(format!("nightly: \"full\" of {}", files.major)));
            assert_eq!(label.start_timeline, Some(TimelineId::FIRST));
            assert!(label.start_time.as_ref().unwrap().starts_with("2026-11-20 10:5"));
            assert!(label.start_lsn < label.checkpoint_lsn);
            assert_eq!(label.incremental_from, None);
            let history = BackupHistory::parse(files.history).unwrap();
            assert_eq!(history.label, label);
            assert!(history.stop_lsn > label.checkpoint_lsn);
            assert_eq!(history.stop_segment, label.start_segment);
            assert_eq!(history.stop_timeline, Some(TimelineId::FIRST));
            assert!(history.stop_time.is_some());
            if files.major > PgMajor::V13 {
                assert_eq!(label.to_string().as_bytes(), files.label);
                assert_eq!(history.to_string().as_bytes(), files.history);
            }
        }
        let label = BackupLabel::parse(BACKUPS[5].label).unwrap();
        assert_eq!(label.start_lsn.to_string(), "0/B00028");
        assert_eq!(label.checkpoint_lsn.to_string(), "0/B00080");
        assert_eq!(label.start_segment.to_string(), "00000001000000000000000B");
    }

    #[test]
    fn an_incremental_backup_says_so() {
        let mut text = BACKUPS[4].label.to_vec();
        text.extend_from_slice(b"INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
        let label = BackupLabel::parse(&text).unwrap();
        let from = IncrementalFrom { lsn: Lsn::new(0x200_0028), timeline: TimelineId::FIRST };
        assert_eq!(label.incremental_from, Some(from));
        assert_eq!(label.to_string().as_bytes(), text);
        text.truncate(text.len() - "INCREMENTAL FROM TLI: 1\n".len());
        assert!(BackupLabel::parse(&text).is_err());
    }

    #[test]
    fn the_first_lines_are_strict() {
        let good = String::from_utf8(BACKUPS[5].label.to_vec()).unwrap();
        assert!(BackupLabel::parse(good.as_bytes()).is_ok());
        for bad in [
            String::new(),
            good.replace('\n', "\r\n"),
            good.replacen("START WAL", "START  WAL", 1),
            good.replacen("(file ", "(file", 1),
            good.replacen("0/B00028", "0B00028", 1),
            good.lines().skip(1).collect::<Vec<_>>().join("\n"),
            good.replacen("CHECKPOINT LOCATION: 0/B00080", "CHECKPOINT LOCATION: ", 1),
            good.replace("streamed", "carved in stone"),
            good.replace("primary", "attic"),
            good.replace("TIMELINE: 1", "TIMELINE: 0"),
        ] {
            assert!(BackupLabel::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_break_in_the_label_cannot_forge_a_later_line() {
        // The server writes the label as it is given; its own lines before it count.
        let text = String::from_utf8(BACKUPS[5].label.to_vec()).unwrap();
        let text = text.replace("nightly", "x\nBACKUP FROM: standby\nSTART TIME: never\n");
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        assert_eq!(label.source, Some(BackupSource::Primary));
        assert_ne!(label.start_time.as_deref(), Some("never"));
        assert_eq!(label.label.as_deref(), Some("x"));
    }

    fn labels() -> impl Strategy<Value = BackupLabel> {
        (
            (any::<u64>(), any::<u64>(), 1u32.., any::<u32>(), any::<u32>()),
            prop::option::of(any::<bool>()),
            prop::option::of(any::<bool>()),
            prop::option::of("[ -~]{0,20}"),
            prop::option::of("[ -~äß\r]{0,20}"),
            prop::option::of(any::<u64>()),
        )
            .prop_map(
                |((start, checkpoint, timeline, log, seg), method, source, time, label, from)| {
                    let timeline = TimelineId::new(timeline).unwrap();
                    BackupLabel {
                        start_lsn: Lsn::new(start),
                        start_segment: SegmentName::new(timeline, log, seg),
                        checkpoint_lsn: Lsn::new(checkpoint),
                        method: method
                            .map(|m| if m { BackupMethod::Streamed } else { BackupMethod::Exclusive }),
                        source: source.map(|s| if s { BackupSource::Primary } else { BackupSource::Standby }),
                        start_time: time,
                        label,
                        start_timeline: Some(timeline),
                        incremental_from: from.map(|lsn| IncrementalFrom { lsn: Lsn::new(lsn), timeline }),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn labels_round_trip(label in labels(), stop: u64, time in prop::option::of("[ -~]{0,20}")) {
            prop_assert_eq!(BackupLabel::parse(label.to_string().as_bytes()), Ok(label.clone()));
            let history = BackupHistory {
                stop_lsn: Lsn::new(stop),
                stop_segment: label.start_segment,
                stop_time: time,
                stop_timeline: label.start_timeline,
                label,
            };
            prop_assert_eq!(BackupHistory::parse(history.to_string().as_bytes()), Ok(history));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            let _ = BackupLabel::parse(&bytes);
            let _ = BackupHistory::parse(&bytes);
        }

        #[test]
        fn mutated_files_are_taken_or_refused(which in 0usize..6, noise: [(u8, u8); 4]) {
            let (mut label, mut history) = (BACKUPS[which].label.to_vec(), BACKUPS[which].history.to_vec());
            for (at, byte) in noise {
                let at = usize::from(at);
                let (label_at, history_at) = (at % label.len(), at % history.len());
                label[label_at] = byte;
                history[history_at] = byte;
            }
            let _ = BackupLabel::parse(&label);
            let _ = BackupHistory::parse(&history);
        }
    }
}
