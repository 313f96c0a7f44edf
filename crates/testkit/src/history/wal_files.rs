//! A plain directory of archived files, as `restore_command` copies from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use walden_pg::wal::{Stop, WalScanner, WalScannerOptions};
use walden_pg::{ArchiveFileName, Lsn, SegmentId, TimelineHistory, TimelineId, WalSegmentSize};

use super::records::{PathRecord, PathWal, WalEnd};
use crate::postgres::{Error, Result};

/// Marks a file that the archive cannot give back; see [`super::Recovery`].
pub(super) const TORN: &str = "torn";

/// The segments and histories in a directory.
#[derive(Debug, Clone)]
pub struct WalFiles {
    dir: PathBuf,
    segment_size: WalSegmentSize,
    segments: BTreeSet<SegmentId>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
}

impl WalFiles {
    /// Lists a directory. Files that cannot be given back (there is a `<name>.torn`) count as missing.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::Format`] when a history file cannot be understood.
    pub fn list(dir: &Path, segment_size: WalSegmentSize) -> Result<Self> {
        let mut files = Self {
            dir: dir.to_path_buf(),
            segment_size,
            segments: BTreeSet::new(),
            histories: BTreeMap::new(),
        };
        for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
            let path = entry.map_err(|e| Error::io("list", dir, e))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if dir.join(format!("{name}.{TORN}")).try_exists().map_err(|e| Error::io("look for", dir, e))? {
                continue;
            }
            match name.parse() {
                Ok(ArchiveFileName::Segment(segment)) => {
                    files.segments.insert(segment.id(segment_size)?);
                }
                Ok(ArchiveFileName::History(timeline)) => {
                    let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
                    files.histories.insert(timeline, TimelineHistory::parse(timeline, &bytes)?);
                }
                _ => {}
            }
        }
        Ok(files)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's segment size.
    pub fn segment_size(&self) -> WalSegmentSize {
        self.segment_size
    }

    /// The segments, by timeline and number.
    pub fn segments(&self) -> &BTreeSet<SegmentId> {
        &self.segments
    }

    /// The timelines that have a history file.
    pub fn histories(&self) -> &BTreeMap<TimelineId, TimelineHistory> {
        &self.histories
    }

    /// The history of a timeline as PostgreSQL sees it: without a file it has no parents.
    ///
    /// # Errors
    /// None for timelines that exist.
    pub fn history(&self, timeline: TimelineId) -> Result<TimelineHistory> {
        match self.histories.get(&timeline) {
            Some(history) => Ok(history.clone()),
            None => Ok(TimelineHistory::parse(timeline, b"")?),
        }
    }

    /// What `recovery_target_timeline = 'latest'` finds, beginning from a timeline: it asks for one history
    /// after the other, up to the first that is not there.
    pub fn latest_from(&self, timeline: TimelineId) -> TimelineId {
        let mut latest = timeline;
        while let Ok(next) = TimelineId::new(latest.get() + 1)
            && self.histories.contains_key(&next)
        {
            latest = next;
        }
        latest
    }

    /// The segment that belongs to a path: of the newest timeline that begins in it or before it.
    pub fn segment_on(&self, history: &TimelineHistory, lsn: Lsn) -> SegmentId {
        let number = self.segment_size.segment_of(lsn);
        let begins = |begin: Lsn| !begin.is_valid() || self.segment_size.segment_of(begin) <= number;
        let range = history.ranges().find(|range| begins(range.begin));
        SegmentId::new(range.map_or(history.timeline(), |range| range.timeline), number)
    }

    /// The records on a path from a position on, up to where it cannot be read on. A segment that is missing
    /// under the name it should have is the end, even if PostgreSQL would take an older timeline's for it.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; [`Error::Format`] when `from` is no position of a segment.
    pub fn read_path(&self, history: &TimelineHistory, from: Lsn) -> Result<PathWal> {
        let size = self.segment_size;
        let mut scanner = WalScanner::new(WalScannerOptions::new(size));
        let mut records: Vec<PathRecord> = Vec::new();
        let mut at = size.start_of(size.segment_of(from));
        let end = loop {
            let id = self.segment_on(history, at);
            let name = id.name(size);
            if !self.segments.contains(&id) {
                break WalEnd::Missing(name);
            }
            let path = self.dir.join(name.to_string());
            let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            let outcome = scanner.scan_segment(name, &bytes, |record| {
                if record.lsn >= from {
                    records.push(PathRecord::of(record));
                }
            })?;
            match outcome.stop {
                Stop::SegmentEnd | Stop::SwitchTail { .. } => at = size.end_of(id.number),
                Stop::ZeroTail { lsn } | Stop::RecycledTail { lsn } => break WalEnd::Ends(lsn),
                Stop::Truncated { lsn } => break WalEnd::Damaged(lsn, "cut off".to_owned()),
                Stop::Corrupt(damage) => break WalEnd::Damaged(damage.lsn, damage.fault.to_string()),
                other => break WalEnd::Damaged(at, format!("{other:?}")),
            }
        };
        Ok(PathWal { from, records, end })
    }
}
