//! What a person asks a verification for.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walden_pg::{SegmentId, SegmentNumber, TimelineId};

use crate::layout::BackupId;
use crate::records::BackupRecord;
use crate::snapshot::CatalogSnapshot;

/// How closely is looked. Each level includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyLevel {
    /// Listings against the catalog: what should be there is there, with the size that is known of it.
    Presence,
    /// Every byte of every object is read and compared with the hashes that it was stored with.
    Hash,
    /// What is in the objects: each WAL record's checksum and its link to the one before, each file and each page of
    /// a backup.
    Deep,
}

impl VerifyLevel {
    /// The word on the command line and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Hash => "hash",
            Self::Deep => "deep",
        }
    }
}

impl fmt::Display for VerifyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A part of everything, chosen by lot among what has gone unproven for the longest time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VerifySample {
    /// So many millionths of the bytes.
    pub millionths: u32,
    /// Decides between objects that have gone unproven for equally long. The same seed chooses the same.
    pub seed: u64,
}

/// Which WAL is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalScope {
    /// All of it.
    All,
    /// None.
    None,
    /// These stretches: timeline, first and last segment.
    Ranges(Vec<(TimelineId, SegmentNumber, SegmentNumber)>),
}

impl WalScope {
    /// Whether a segment is meant.
    #[must_use]
    pub fn holds(&self, id: SegmentId) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Ranges(ranges) => ranges.iter().any(|(timeline, first, last)| {
                *timeline == id.timeline && (*first..=*last).contains(&id.number)
            }),
        }
    }
}

/// Which objects are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyScope {
    /// These backups; `None` for all.
    pub backups: Option<BTreeSet<BackupId>>,
    /// This WAL.
    pub wal: WalScope,
    /// Only what was written to the store at this moment or later.
    pub since: Option<Timestamp>,
}

impl VerifyScope {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { backups: None, wal: WalScope::All, since: None }
    }

    /// Whether this is everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.backups.is_none() && self.wal == WalScope::All && self.since.is_none()
    }

    /// Whether a backup is meant.
    #[must_use]
    pub fn holds_backup(&self, id: &BackupId) -> bool {
        self.backups.as_ref().is_none_or(|backups| backups.contains(id))
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyRequest {
    /// How closely.
    pub level: VerifyLevel,
    /// What.
    pub scope: VerifyScope,
    /// Only a part of it.
    pub sample: Option<VerifySample>,
    /// So many bytes are read at most.
    pub max_bytes: Option<u64>,
    /// What was proven at this level, or a closer one, within this time is not read again.
    pub max_age: Option<Duration>,
}

/// The WAL that makes a backup consistent.
#[must_use]
pub fn wal_within(backup: &BackupRecord) -> Vec<(TimelineId, SegmentNumber, SegmentNumber)> {
    let size = backup.segment_size;
    let (first, last) = (size.segment_of(backup.start_lsn), size.last_segment_before(backup.stop_lsn));
    let mut ranges = vec![(backup.timeline, first, last.max(first))];
    if backup.stop_timeline != backup.timeline {
        ranges.push((backup.stop_timeline, first, last.max(first)));
    }
    ranges
}

/// The WAL that a backup can be rolled forward through: from its start to the end of the newest timeline that leads on
/// from it.
#[must_use]
pub fn wal_behind(
    snapshot: &CatalogSnapshot,
    backup: &BackupRecord,
) -> Vec<(TimelineId, SegmentNumber, SegmentNumber)> {
    let size = snapshot.incarnation.segment_size;
    let first = size.segment_of(backup.start_lsn);
    let end = SegmentNumber::new(u64::MAX);
    let leads = snapshot.histories.iter().rev().find(|(_, history)| {
        history.ranges().any(|range| {
            range.timeline == backup.timeline && range.end.is_none_or(|end| end >= backup.stop_lsn)
        })
    });
    let Some((_, history)) = leads.filter(|(timeline, _)| **timeline > backup.timeline) else {
        return vec![(backup.timeline, first, end)];
    };
    let mut ranges = Vec::new();
    for range in history.ranges() {
        let begin = size.segment_of(range.begin).max(first);
        let last = range.end.map_or(end, |end| size.segment_of(end));
        if last >= begin {
            ranges.push((range.timeline, begin, last));
        }
    }
    ranges
}
