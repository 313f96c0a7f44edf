//! What a verification found wrong.

use serde::Serialize;
use walden_pg::{Lsn, SegmentName};

use crate::layout::BackupId;

/// How certain a finding is, and whether it is harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingVerdict {
    /// It is there and is not what it must be.
    Damaged,
    /// It must be there and is not.
    Missing,
    /// Whether it is good is not known: it could not be read, or only a newer version can read it.
    NotProven,
    /// No harm, but worth knowing.
    Notice,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The object is not there.
    Absent,
    /// The object ends too early.
    Truncated,
    /// The object goes on behind its end.
    TrailingBytes,
    /// The object has another size than the record that names it tells.
    SizeDiffers,
    /// The bytes are not the ones that were stored: a hash or a checksum differs.
    HashDiffers,
    /// It is not an object of Walden's, or its header is damaged.
    Unreadable,
    /// Its header says that it is another object.
    WrongObject,
    /// It belongs to another server or another system.
    ForeignWriter,
    /// The contents are good, their index is damaged. Nothing is lost: it can be made again.
    IndexDamaged,
    /// The index tells something else than the WAL.
    IndexDisagrees,
    /// A WAL page or record is damaged.
    WalDamaged,
    /// The WAL does not go on from the segment before.
    ChainBroken,
    /// The WAL ends inside a segment that has a successor.
    WalEndsEarly,
    /// Segments between others are missing.
    Gap,
    /// A timeline has segments and no history file.
    HistoryMissing,
    /// A history file, a commit record or another record can't be understood.
    RecordDamaged,
    /// The manifest says something that no backup can hold, or not what the commit record says.
    ManifestDamaged,
    /// A file of a backup is not what the manifest says.
    FileDiffers,
    /// Pages of a file do not match their checksums.
    PageChecksum,
    /// `backup_label` does not say what the commit record says.
    LabelDiffers,
    /// `pg_control` is damaged, or of another system.
    ControlFile,
    /// An object that does not belong there.
    Foreign,
    /// A backup without its commit record: under way, or interrupted.
    Unfinished,
    /// The store failed, or refused.
    StoreError,
    /// Only a newer version can read it.
    Unsupported,
}

/// One thing that a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How certain, and whether it is harm.
    pub verdict: FindingVerdict,
    /// What is wrong, for machines.
    pub kind: FindingKind,
    /// The object's key, or the prefix of those that are meant.
    pub key: String,
    /// What is wrong, for people.
    pub message: String,
    /// The segment, when it is about one; the first of a gap.
    pub segment: Option<SegmentName>,
    /// The last segment of a gap.
    pub last_segment: Option<SegmentName>,
    /// The backup, when it is about one.
    pub backup: Option<BackupId>,
    /// The file inside the backup.
    pub file: Option<String>,
    /// Blocks of that file, at most 100 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<u32>,
    /// The position in the WAL.
    pub lsn: Option<Lsn>,
    /// Whether a recovery that needs the object can't get past it.
    pub stops_recovery: bool,
}

impl Finding {
    /// A finding about an object, with nothing else known.
    #[must_use]
    pub fn new(
        verdict: FindingVerdict,
        kind: FindingKind,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            verdict,
            kind,
            key: key.into(),
            message: message.into(),
            segment: None,
            last_segment: None,
            backup: None,
            file: None,
            blocks: Vec::new(),
            lsn: None,
            stops_recovery: false,
        }
    }

    /// The same about a segment.
    #[must_use]
    pub fn of_segment(self, segment: SegmentName) -> Self {
        Self { segment: Some(segment), ..self }
    }

    /// The same about a backup.
    #[must_use]
    pub fn of_backup(self, backup: &BackupId) -> Self {
        Self { backup: Some(backup.clone()), ..self }
    }

    /// The same about a file of a backup.
    #[must_use]
    pub fn of_file(self, file: impl Into<String>) -> Self {
        Self { file: Some(file.into()), ..self }
    }

    /// The same at a position in the WAL.
    #[must_use]
    pub fn at(self, lsn: Lsn) -> Self {
        Self { lsn: Some(lsn), ..self }
    }

    /// The same, which no recovery that needs the object gets past.
    #[must_use]
    pub fn that_stops_recovery(self) -> Self {
        Self { stops_recovery: true, ..self }
    }

    /// Whether something is wrong with the archive.
    #[must_use]
    pub fn is_harm(&self) -> bool {
        matches!(self.verdict, FindingVerdict::Damaged | FindingVerdict::Missing)
    }
}
