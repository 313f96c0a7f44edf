//! The targets that are tried on a history: the exact moments of its records, and their neighbours.

use jiff::Timestamp;
use walden_pg::{Lsn, PgTimestamp, TimelineId};
use walden_testkit::history::{BackupTaken, Dice, PathRecord, PathWal, RecordKind, WalFiles};

/// Where recovery shall stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Goal {
    Time(PgTimestamp),
    Xid(u64),
    Lsn(Lsn),
    Name(String),
    Immediate,
    Latest,
}

/// On which timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeline {
    Latest,
    Current,
    Number(TimelineId),
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) goal: Goal,
    pub(crate) exclusive: bool,
    pub(crate) timeline: Timeline,
    pub(crate) backup: Option<String>,
}

/// A time as PostgreSQL and the program read it.
pub(crate) fn time_text(time: PgTimestamp) -> String {
    let time = Timestamp::from_microsecond(time.unix_micros()).unwrap();
    time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

impl Timeline {
    fn text(self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Current => "current".to_owned(),
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Target {
    /// A word for its kind.
    pub(crate) fn kind(&self) -> &'static str {
        match (&self.goal, self.exclusive) {
            (Goal::Time(_), false) => "time",
            (Goal::Time(_), true) => "time, exclusive",
            (Goal::Xid(_), false) => "xid",
            (Goal::Xid(_), true) => "xid, exclusive",
            (Goal::Lsn(_), false) => "lsn",
            (Goal::Lsn(_), true) => "lsn, exclusive",
            (Goal::Name(_), _) => "name",
            (Goal::Immediate, _) => "immediate",
            (Goal::Latest, _) => "latest",
        }
    }

    /// The options of `walden plan`.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = match &self.goal {
            Goal::Time(time) => vec!["--target-time".to_owned(), time_text(*time)],
            Goal::Xid(xid) => vec!["--target-xid".to_owned(), xid.to_string()],
            Goal::Lsn(lsn) => vec!["--target-lsn".to_owned(), lsn.to_string()],
            Goal::Name(name) => vec!["--target-name".to_owned(), name.clone()],
            Goal::Immediate => vec!["--target-immediate".to_owned()],
            Goal::Latest => Vec::new(),
        };
        if self.exclusive {
            options.push("--target-exclusive".to_owned());
        }
        options.extend(["--target-timeline".to_owned(), self.timeline.text()]);
        if let Some(backup) = &self.backup {
            options.extend(["--backup".to_owned(), backup.clone()]);
        }
        options
    }

    /// The settings that a person would write for it.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let setting = |name: &str, value: String| (name.to_owned(), value);
        let mut settings = vec![setting("recovery_target_timeline", self.timeline.text())];
        settings.extend(match &self.goal {
            Goal::Time(time) => Some(setting("recovery_target_time", time_text(*time))),
            Goal::Xid(xid) => Some(setting("recovery_target_xid", xid.to_string())),
            Goal::Lsn(lsn) => Some(setting("recovery_target_lsn", lsn.to_string())),
            Goal::Name(name) => Some(setting("recovery_target_name", name.clone())),
            Goal::Immediate => Some(setting("recovery_target", "immediate".to_owned())),
            Goal::Latest => None,
        });
        let inclusive = if self.exclusive { "off" } else { "on" };
        settings.push(setting("recovery_target_inclusive", inclusive.to_owned()));
        settings
    }

    /// Whether recovery by time keeps a commit of this time.
    pub(crate) fn is_past(&self, time: PgTimestamp) -> bool {
        match self.goal {
            Goal::Time(target) if self.exclusive => time >= target,
            Goal::Time(target) => time > target,
            _ => false,
        }
    }
}

/// What targets are drawn from.
pub(crate) struct Ground<'a> {
    pub(crate) files: &'a WalFiles,
    pub(crate) backups: &'a [BackupTaken],
    /// The records on the path to each timeline.
    pub(crate) paths: &'a [(TimelineId, PathWal)],
}

impl Ground<'_> {
    /// Draws one target.
    pub(crate) fn draw(&self, dice: &mut Dice) -> Target {
        let (number, path) = dice.pick(self.paths).unwrap();
        let timeline = match dice.weighted(&[5, 2, 4]) {
            0 => Timeline::Latest,
            1 => Timeline::Current,
            _ => Timeline::Number(*number),
        };
        // Mostly a path is asked for that the target is on.
        let path = match timeline {
            Timeline::Latest if dice.percent(80) => &self.paths.last().unwrap().1,
            _ => path,
        };
        // And mostly one behind the first backup.
        let consistent = self.backups.iter().map(|backup| backup.stop_lsn).min();
        let behind = |record: &&PathRecord| consistent.is_none_or(|lsn| record.start >= lsn);
        let late = PathWal { records: path.records.iter().filter(behind).cloned().collect(), ..path.clone() };
        let usable = late.records.iter().any(|record| record.commit().is_some());
        let path = if usable && dice.percent(75) { &late } else { path };
        let backup =
            if dice.percent(25) { dice.pick(self.backups).map(|taken| taken.id.clone()) } else { None };
        let exclusive = dice.percent(50);
        let (goal, exclusive) = match dice.weighted(&[38, 20, 24, 9, 4, 5]) {
            0 => (Goal::Time(self.time(dice, path)), exclusive),
            1 => (Goal::Xid(xid(dice, path)), exclusive),
            2 => (Goal::Lsn(self.lsn(dice, path)), exclusive),
            3 => (Goal::Name(name(dice, path)), false),
            4 => (Goal::Immediate, false),
            _ => (Goal::Latest, false),
        };
        let timeline = if dice.percent(2) {
            Timeline::Number(TimelineId::new(number.get() + 40).unwrap())
        } else {
            timeline
        };
        Target { goal, exclusive, timeline, backup }
    }

    fn time(&self, dice: &mut Dice, path: &PathWal) -> PgTimestamp {
        let ends: Vec<PgTimestamp> =
            path.records.iter().filter_map(PathRecord::transaction_end).map(|end| end.1).collect();
        let moved = |time: PgTimestamp, micros: i64| PgTimestamp::new(time.get() + micros);
        let earliest = ends.iter().min().copied().unwrap();
        let latest = ends.iter().max().copied().unwrap();
        let one = dice.pick(&ends).copied().unwrap();
        match dice.weighted(&[30, 14, 14, 14, 3, 3, 3, 10, 5]) {
            0 => one,
            1 => moved(one, 1),
            2 => moved(one, -1),
            3 => {
                let other = dice.pick(&ends).copied().unwrap();
                PgTimestamp::new(i64::midpoint(one.get(), other.get()))
            }
            4 => moved(earliest, -1_000_000),
            5 => latest,
            6 => moved(latest, if dice.percent(50) { 1 } else { 2_000_000 }),
            7 => self.time_in_backup(dice, path).unwrap_or(one),
            _ => moved(one, i64::try_from(dice.below(4_000_000)).unwrap() - 2_000_000),
        }
    }

    /// The end of a transaction while a backup was taken, or near that.
    fn time_in_backup(&self, dice: &mut Dice, path: &PathWal) -> Option<PgTimestamp> {
        let backup = dice.pick(self.backups)?;
        let from = path.records.partition_point(|record| record.start < backup.start_lsn);
        let to = path.records.partition_point(|record| record.start < backup.stop_lsn);
        let near = path.records.get(from.saturating_sub(20)..(to + 40).min(path.records.len()))?;
        let ends: Vec<_> = near.iter().filter_map(PathRecord::transaction_end).collect();
        dice.pick(&ends).map(|end| end.1)
    }

    fn lsn(&self, dice: &mut Dice, path: &PathWal) -> Lsn {
        let size = self.files.segment_size();
        let record = dice.pick(&path.records).unwrap();
        let moved = |lsn: Lsn, bytes: u64| lsn.saturating_add(bytes);
        let special: Vec<_> = path.records.iter().filter(|record| record.kind != RecordKind::Other).collect();
        let special = dice.pick(&special).copied().unwrap_or(record);
        let middle = special.start.get().midpoint(special.end.get());
        match dice.weighted(&[20, 14, 14, 10, 8, 10, 8, 4, 4, 8]) {
            0 => special.start,
            1 => special.end,
            2 => Lsn::new(middle),
            3 => record.start,
            4 => moved(record.start, 1),
            5 => Lsn::new(record.start.get() / 8192 * 8192),
            6 => size.start_of(size.segment_of(record.start)),
            7 => moved(size.start_of(size.segment_of(record.start)), 40),
            8 => moved(path.end_lsn(), dice.below(3_000_000)),
            _ => {
                let backup = dice.pick(self.backups).unwrap();
                if dice.percent(50) { backup.stop_lsn } else { backup.start_lsn }
            }
        }
    }
}

fn xid(dice: &mut Dice, path: &PathWal) -> u64 {
    let kind = dice.weighted(&[10, 6, 3, 3, 1]);
    let xids: Vec<u64> = path
        .records
        .iter()
        .flat_map(|record| match (&record.kind, kind) {
            (RecordKind::Commit { xid, .. }, 0)
            | (RecordKind::Abort { xid, .. }, 1)
            | (RecordKind::Prepare { xid }, 2) => vec![*xid],
            (RecordKind::Commit { subxacts, .. }, 3) => subxacts.clone(),
            _ => Vec::new(),
        })
        .map(|xid| u64::from(xid.get()))
        .collect();
    let never = 4_000_000_000 + dice.below(1_000);
    let xid = dice.pick(&xids).copied().unwrap_or(never);
    // PostgreSQL takes 64 bits and compares 32.
    if dice.percent(5) { xid + (3 << 32) } else { xid }
}

fn name(dice: &mut Dice, path: &PathWal) -> String {
    let names: Vec<&String> = path
        .records
        .iter()
        .filter_map(|record| match &record.kind {
            RecordKind::RestorePoint { name, .. } => Some(name),
            _ => None,
        })
        .collect();
    match dice.pick(&names) {
        Some(name) if dice.percent(85) => (*name).clone(),
        _ => "never made".to_owned(),
    }
}
