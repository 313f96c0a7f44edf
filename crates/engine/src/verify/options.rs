//! What a verification is told to do.

use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::Timestamp;
use walden_core::{
    BackupId, CatalogSnapshot, ErrorKind, VerifyLevel, VerifySample, VerifyScope, WalScope, wal_behind,
    wal_within,
};

use crate::error::{EngineError, Result};

/// Which backups and which WAL are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyTarget {
    /// All.
    Everything,
    /// One backup and the WAL that makes it consistent.
    Backup(BackupId),
    /// The newest backup and the WAL that it can be rolled forward through.
    Latest,
}

/// The options of a verification.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// How closely is looked.
    pub level: VerifyLevel,
    /// What is meant.
    pub target: VerifyTarget,
    /// Only what was written to the store since.
    pub since: Option<Timestamp>,
    /// Whether WAL is looked at.
    pub wal: bool,
    /// Whether backups are looked at.
    pub backups: bool,
    /// Only a part of it.
    pub sample: Option<VerifySample>,
    /// So many bytes are read at most.
    pub max_bytes: Option<u64>,
    /// So long is read at most.
    pub max_time: Option<Duration>,
    /// What was proven within this time is not read again.
    pub max_age: Option<Duration>,
    /// Objects read at once.
    pub jobs: NonZeroUsize,
    /// Whether a record of the run is left in the repository.
    pub record: bool,
}

impl VerifyOptions {
    /// Everything at a level, one object at a time.
    #[must_use]
    pub fn new(level: VerifyLevel) -> Self {
        Self {
            level,
            target: VerifyTarget::Everything,
            since: None,
            wal: true,
            backups: true,
            sample: None,
            max_bytes: None,
            max_time: None,
            max_age: None,
            jobs: NonZeroUsize::MIN,
            record: false,
        }
    }

    /// Which objects that is in an archive, and the same in words.
    ///
    /// # Errors
    /// Kind `not_found` when the backup is not there.
    pub(super) fn scope(&self, snapshot: &CatalogSnapshot) -> Result<(VerifyScope, String)> {
        let backup = match &self.target {
            VerifyTarget::Everything => None,
            VerifyTarget::Backup(id) => Some(snapshot.backup(id).ok_or_else(|| {
                EngineError::failed(ErrorKind::NotFound, format!("there is no such backup backup={id}"))
                    .with_hint("walden backup list shows them")
            })?),
            VerifyTarget::Latest => Some(snapshot.backups.last().ok_or_else(|| {
                EngineError::failed(ErrorKind::NotFound, "there is no finished backup")
                    .with_hint("without --latest all of the WAL is verified")
            })?),
        };
        let mut words = Vec::new();
        let mut scope = VerifyScope::everything();
        if let Some(backup) = backup {
            scope.backups = Some([backup.id.clone()].into());
            let latest = self.target == VerifyTarget::Latest;
            let ranges = if latest { wal_behind(snapshot, backup) } else { wal_within(backup) };
            scope.wal = WalScope::Ranges(ranges);
            words.push(match (latest, self.wal, self.backups) {
                (true, true, true) => format!("backup {} and the WAL behind it", backup.id),
                (false, true, true) => format!("backup {} and the WAL that it needs", backup.id),
                (_, true, false) => format!("the WAL of backup {}", backup.id),
                (_, false, _) => format!("backup {}", backup.id),
            });
        } else if !self.wal {
            words.push("all backups".to_owned());
        } else if !self.backups {
            words.push("all WAL".to_owned());
        }
        if !self.wal {
            scope.wal = WalScope::None;
        }
        if !self.backups {
            scope.backups = Some(std::collections::BTreeSet::new());
        }
        scope.since = self.since;
        if let Some(since) = self.since {
            words.push(format!("written since {since}"));
        }
        if let Some(sample) = self.sample {
            words.push(format!("a sample of {} %", percent(sample.millionths)));
        }
        Ok((scope, if words.is_empty() { "everything".to_owned() } else { words.join(", ") }))
    }
}

/// Millionths as a percentage.
fn percent(millionths: u32) -> String {
    let text = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
