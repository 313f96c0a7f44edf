//! The record of a verification in the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::request::VerifyLevel;
use crate::layout::{BackupId, Incarnation, ServerName};
use crate::records::Writer;

/// `<server>/<incarnation>/verify/<id>.json`: what a verification looked at and what it found, in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRecord {
    /// Its name, made like a backup's.
    pub id: BackupId,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// How closely was looked.
    pub level: VerifyLevel,
    /// What was looked at, in words; `everything` when nothing was left out.
    pub scope: String,
    /// When it began, by the clock of who ran it.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Objects in the scope.
    pub objects: u64,
    /// Of those, proven in this run.
    pub proven: u64,
    /// Of those, proven before and not read again.
    pub fresh: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Whether all of the scope was proven, now or before.
    pub complete: bool,
    /// Findings of damage.
    pub damaged: u64,
    /// Findings of what is missing.
    pub missing: u64,
    /// What could not be proven.
    pub not_proven: u64,
    /// Who ran it.
    pub writer: Writer,
}
