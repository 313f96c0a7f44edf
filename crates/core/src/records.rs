//! The JSON records of a repository: who owns it, which servers live in it, which backups it holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walden_pg::{Lsn, PgMajor, SystemId, TimelineId, WalSegmentSize};

use crate::layout::{BackupId, Incarnation, ServerName};

/// Who wrote an object: what a person needs to find the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The host's name.
    pub host: String,
    /// The data directory, or what else tells two writers on one host apart.
    pub instance: String,
    /// Walden's version.
    pub version: String,
    /// When, by the writer's clock.
    pub at: Timestamp,
}

impl Writer {
    /// A writer of this version; texts longer than 256 characters are cut, so that headers stay bounded.
    #[must_use]
    pub fn new(host: &str, instance: &str, at: Timestamp) -> Self {
        let cut = |text: &str| text.chars().take(256).collect();
        Self { host: cut(host), instance: cut(instance), version: env!("CARGO_PKG_VERSION").to_owned(), at }
    }
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} at {}", self.host, self.instance, crate::recovery::postgres_time(self.at))
    }
}

/// Whether the store refuses to create an object that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionalCreate {
    /// The second create was refused and the first object kept.
    Enforced,
    /// The second create was answered with success and overwrote the first.
    Ignored,
    /// The store answered that it does not know conditional requests.
    Unsupported,
}

/// What a store was seen to do when the repository was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Whether a name can be taken only once.
    pub conditional_create: ConditionalCreate,
    /// Whether a part of an object can be read alone.
    pub range_reads: bool,
    /// Whether a listing can start after a given key on the store's side.
    pub list_after: bool,
    /// When the probe ran.
    pub probed_at: Timestamp,
}

/// `repository.json`: made once, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// Thirty-two random hexadecimal digits.
    pub repository_id: String,
    /// Version of the repository's layout; this version knows 1.
    pub format: u32,
    /// When and by whom.
    pub created_by: Writer,
    /// What the store was seen to do.
    pub capabilities: Capabilities,
}

/// `<server>/server/<revision>.json`: the newest revision says which incarnation is current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// 1 for the first; a change writes the next one and never touches an older.
    pub revision: u32,
    /// The server's name.
    pub server: ServerName,
    /// The repository it was made in.
    pub repository_id: String,
    /// The incarnation whose WAL is archived now.
    pub current: Incarnation,
    /// All incarnations, oldest first.
    pub incarnations: Vec<IncarnationEntry>,
    /// What operators decided about writers, oldest first.
    #[serde(default)]
    pub adoptions: Vec<Adoption>,
}

/// One incarnation in a server's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationEntry {
    /// Which.
    pub incarnation: Incarnation,
    /// When and by whom it was added.
    pub added_by: Writer,
}

/// An operator's word that a data directory may archive here although something spoke against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// The incarnation that it archives.
    pub incarnation: Incarnation,
    /// The data directory that was let in.
    pub writer: Writer,
    /// What had spoken against it.
    pub reason: String,
}

/// `<server>/<incarnation>/incarnation.json`: made once; while it is there, this system may archive here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationRecord {
    /// The server.
    pub server: ServerName,
    /// The repository it was made in.
    pub repository_id: String,
    /// The system identifier that initdb drew.
    pub system_id: SystemId,
    /// The PostgreSQL major.
    pub major: PgMajor,
    /// The size of its WAL segments.
    pub segment_size: WalSegmentSize,
    /// When and by whom.
    pub created_by: Writer,
}

impl IncarnationRecord {
    /// The incarnation that this record marks.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation { system_id: self.system_id, major: self.major }
    }
}

/// Whether a backup stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// Holds every file.
    Full,
    /// Holds what changed since its parent.
    Incremental,
}

/// What kind of server a backup was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupSource {
    /// A running primary.
    Primary,
    /// A hot standby.
    Standby,
}

/// One tablespace at the time of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lay.
    pub path: String,
}

/// An object that a record names, bound to its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReference {
    /// Length of the plain data in bytes.
    pub plain_bytes: u64,
    /// Lower-case hexadecimal SHA-256 of the plain data.
    pub plain_sha256: String,
    /// Length of the whole object in the store, in bytes.
    pub object_bytes: u64,
}

/// Pages of one file whose checksum was wrong, and stayed wrong when read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksumFailure {
    /// The file, relative to the data directory.
    pub path: String,
    /// Block numbers inside the file, at most 100 of them.
    pub blocks: Vec<u32>,
    /// How many blocks were wrong in all.
    pub count: u64,
}

/// The settings and facts of the source that a restored server depends on (`pg_control`, `SHOW`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSettings {
    /// `server_version`, such as `17.10`.
    pub server_version: String,
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `wal_level`.
    pub wal_level: String,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
}

/// `backup/<backup id>/backup.json`: the commit record, written last. A backup exists when this does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// The backup's name.
    pub id: BackupId,
    /// Whether it stands alone.
    pub kind: BackupKind,
    /// The backup it builds on, for incremental ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BackupId>,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// What kind of server it was read from.
    pub source: BackupSource,
    /// The label given to `pg_backup_start`.
    pub label: String,
    /// The timeline at the start.
    pub timeline: TimelineId,
    /// The timeline at the stop; another one only for a standby.
    pub stop_timeline: TimelineId,
    /// Recovery begins to read WAL here.
    pub start_lsn: Lsn,
    /// The checkpoint named in `backup_label`.
    pub checkpoint_lsn: Lsn,
    /// Recovery is consistent only from here on.
    pub stop_lsn: Lsn,
    /// The next transaction id (64 bits, epoch included) right after `pg_backup_stop`: transactions numbered from
    /// here on began after the backup.
    pub next_xid: u64,
    /// The oldest transaction (64 bits) that was still running right after `pg_backup_stop`: transactions numbered
    /// from here up to [`Self::next_xid`] may end after the backup. Absent when it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_xid: Option<u64>,
    /// The size of the WAL segments.
    pub segment_size: WalSegmentSize,
    /// The source server's clock before `pg_backup_start`.
    pub started_at: Timestamp,
    /// The source server's clock after `pg_backup_stop`.
    pub finished_at: Timestamp,
    /// Plain bytes of all files.
    pub bytes: u64,
    /// Bytes of all objects of this backup in the store, this record excepted.
    pub stored_bytes: u64,
    /// How many files.
    pub files: u64,
    /// How many packs, numbered from 0.
    pub packs: u32,
    /// The manifest.
    pub manifest: ObjectReference,
    /// The names of databases, schemas and tables; absent when they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<ObjectReference>,
    /// Tablespaces outside the data directory.
    #[serde(default)]
    pub tablespaces: Vec<Tablespace>,
    /// What a restored server depends on.
    pub settings: ServerSettings,
    /// Files with wrong page checksums: the backup was kept, and says so.
    #[serde(default)]
    pub checksum_failures: Vec<ChecksumFailure>,
    /// Names of what a reader must know to restore this backup rightly; a reader refuses what it does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Who wrote it.
    pub writer: Writer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_stays_bounded() {
        let writer = Writer::new(&"h".repeat(1000), &"ß".repeat(1000), Timestamp::UNIX_EPOCH);
        assert_eq!(writer.host.len(), 256);
        assert_eq!(writer.instance.chars().count(), 256);
    }
}
