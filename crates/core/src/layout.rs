//! Where everything lives in a repository: every key is made, and taken apart again, here.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use walden_pg::{ArchiveFileName, PgMajor, SystemId, TimelineId};

use crate::error::NameError;

/// Longest key that the layout makes, in bytes; well under the 1,024 of S3.
pub(crate) const KEY_BYTES_MAX: usize = 512;

/// The key of one object, relative to the root of the repository; segments are parted by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Takes a key from a listing or from outside.
    ///
    /// # Errors
    /// When it is empty, longer than 512 bytes, has an empty, `.` or `..` part, or a character other than
    /// `A-Z a-z 0-9 . _ -` and `/`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let refuse = |rule| Err(NameError::new("object key", text, rule));
        if text.is_empty() || text.len() > KEY_BYTES_MAX {
            return refuse("a key has 1 to 512 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) {
            return refuse("a key has letters, digits and ._-/ only");
        }
        if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return refuse("a key has no empty, . or .. part");
        }
        Ok(Self(text.to_owned()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of an object that is derived from others: it may be lost or overwritten without harm. Only the layout makes
/// one, so nothing else can ever be overwritten by its means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DerivedKey(ObjectKey);

impl DerivedKey {
    /// The key, for reading.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.0
    }
}

impl fmt::Display for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name that people give to one archived PostgreSQL server: 1 to 63 of `A-Z a-z 0-9 . _ -`, first a letter
/// or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

impl ServerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let legal = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if legal {
            Ok(Self(text.to_owned()))
        } else {
            let rule = "use 1 to 63 letters, digits, '.', '_' or '-', first a letter or digit";
            Err(NameError::new("server name", text, rule))
        }
    }
}

impl TryFrom<String> for ServerName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a server: a system identifier under one PostgreSQL major. initdb and pg_upgrade begin a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation {
    /// The system identifier that initdb drew.
    pub system_id: SystemId,
    /// The PostgreSQL major that writes the WAL.
    pub major: PgMajor,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.system_id.get(), self.major.number())
    }
}

impl FromStr for Incarnation {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parsed = text.split_once('-').and_then(|(system_id, major)| {
            let system_id = SystemId::new(system_id.parse().ok()?);
            let major = PgMajor::new(major.parse().ok()?).ok()?;
            Some(Self { system_id, major })
        });
        // Only the canonical spelling: one incarnation has one place.
        parsed.filter(|incarnation| incarnation.to_string() == text).ok_or_else(|| {
            NameError::new("incarnation", text, "it is <system identifier>-<PostgreSQL major>")
        })
    }
}

impl TryFrom<String> for Incarnation {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Incarnation> for String {
    fn from(incarnation: Incarnation) -> Self {
        incarnation.to_string()
    }
}

/// The name of one base backup: its UTC start time and four hexadecimal digits, `20261120T103905Z-7f3a`.
///
/// Sorts by start time; never derived from an LSN, because two backups of a standby may share their start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    /// Names a backup that starts at `at`; `salt` keeps two backups of one second apart.
    #[must_use]
    pub fn new(at: Timestamp, salt: u16) -> Self {
        Self(format!("{}-{salt:04x}", at.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The start time in the name; `None` when its digits are no time.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        let time = DateTime::strptime("%Y%m%dT%H%M%S", self.0.get(..15)?).ok()?;
        time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let bytes = text.as_bytes();
        let legal = bytes.len() == 21
            && text.is_ascii()
            && text.get(..8).is_some_and(digits)
            && bytes.get(8) == Some(&b'T')
            && text.get(9..15).is_some_and(digits)
            && text.get(15..17) == Some("Z-")
            && text
                .get(17..)
                .is_some_and(|salt| salt.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        if legal {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::new("backup id", text, "it looks like 20261120T103905Z-7f3a"))
        }
    }
}

impl TryFrom<String> for BackupId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of `repository.json`.
#[must_use]
pub fn repository_key() -> ObjectKey {
    ObjectKey("repository.json".to_owned())
}

/// The keys of one server.
#[derive(Debug, Clone)]
pub struct ServerLayout {
    server: ServerName,
}

impl ServerLayout {
    /// The keys of `server`.
    #[must_use]
    pub fn new(server: ServerName) -> Self {
        Self { server }
    }

    /// Everything of the server lies under this prefix, which ends in `/`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/", self.server)
    }

    /// The prefix of the server's revisions, which ends in `/`.
    #[must_use]
    pub fn revisions_prefix(&self) -> String {
        format!("{}/server/", self.server)
    }

    /// The record of one revision of the server; the first is 1.
    #[must_use]
    pub fn revision(&self, revision: u32) -> ObjectKey {
        ObjectKey(format!("{}/server/{revision:08}.json", self.server))
    }

    /// The revision that a key under [`Self::revisions_prefix`] names.
    #[must_use]
    pub fn parse_revision(&self, key: &str) -> Option<u32> {
        let digits = key.strip_prefix(&self.revisions_prefix())?.strip_suffix(".json")?;
        let revision = digits.parse().ok()?;
        (self.revision(revision).as_str() == key).then_some(revision)
    }

    /// The prefix of all leases of the server, which ends in `/`.
    #[must_use]
    pub fn leases_prefix(&self) -> String {
        format!("{}/lease/", self.server)
    }

    /// The prefix of the records of the lease for removing objects, which ends in `/`.
    #[must_use]
    pub fn retention_lease_prefix(&self) -> String {
        format!("{}retention/", self.leases_prefix())
    }

    /// One record of the lease for removing objects; the newest fence counts.
    #[must_use]
    pub fn retention_lease(&self, fence: u32) -> ObjectKey {
        ObjectKey(format!("{}{fence:08}.json", self.retention_lease_prefix()))
    }

    /// The fence that a key under [`Self::retention_lease_prefix`] names.
    #[must_use]
    pub fn parse_retention_lease(&self, key: &str) -> Option<u32> {
        let digits = key.strip_prefix(&self.retention_lease_prefix())?.strip_suffix(".json")?;
        let fence = digits.parse().ok()?;
        (self.retention_lease(fence).as_str() == key).then_some(fence)
    }

    /// The incarnation whose directory this prefix (as a listing by directory gives it, with or without its `/`) is.
    #[must_use]
    pub fn parse_incarnation_prefix(&self, prefix: &str) -> Option<Incarnation> {
        prefix.strip_prefix(&self.prefix())?.trim_end_matches('/').parse().ok()
    }

    /// The keys of one incarnation of the server.
    #[must_use]
    pub fn incarnation(&self, incarnation: Incarnation) -> IncarnationLayout {
        IncarnationLayout { server: self.server.clone(), incarnation }
    }
}

/// The keys of one incarnation of a server.
#[derive(Debug, Clone)]
pub struct IncarnationLayout {
    server: ServerName,
    incarnation: Incarnation,
}

/// What an object under an incarnation's prefix is, by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveObject {
    /// `incarnation.json`.
    Marker,
    /// A file that PostgreSQL archived.
    File(ArchiveFileName),
    /// The derived summary of one directory of segments.
    Rollup {
        /// The timeline.
        timeline: TimelineId,
        /// The directory: the middle eight digits of its segments' names.
        log: u32,
    },
    /// The derived copy of the records of all backups.
    BackupRollup,
    /// Part of a base backup.
    Backup(BackupId),
    /// The evidence of a drill, named by its beginning like a backup.
    Drill(BackupId),
    /// The record of a verification, named by its beginning like a backup.
    Verification(BackupId),
    /// One revision of what an operator says about keeping a backup.
    Pin {
        /// The backup.
        backup: BackupId,
        /// 1 for the first; the newest counts.
        revision: u32,
    },
    /// What a retention run was about to do or, with `done`, did; named by its beginning like a backup.
    RetentionRun {
        /// Its name.
        id: BackupId,
        /// Whether it is the record of its end.
        done: bool,
    },
}

impl IncarnationLayout {
    /// The server.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Everything of the incarnation lies under this prefix, which ends in `/`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/{}/", self.server, self.incarnation)
    }

    /// The marker: it is there exactly when this incarnation may be archived here.
    #[must_use]
    pub fn marker(&self) -> ObjectKey {
        ObjectKey(format!("{}incarnation.json", self.prefix()))
    }

    /// The prefix of all WAL files, which ends in `/`.
    #[must_use]
    pub fn wal_prefix(&self) -> String {
        format!("{}wal/", self.prefix())
    }

    /// The prefix of one timeline's WAL files, which ends in `/`.
    #[must_use]
    pub fn timeline_prefix(&self, timeline: TimelineId) -> String {
        format!("{}wal/{}/", self.prefix(), timeline.hex())
    }

    /// The prefix of one LOG directory of segments, which ends in `/`.
    #[must_use]
    pub fn log_prefix(&self, timeline: TimelineId, log: u32) -> String {
        format!("{}{log:08X}/", self.timeline_prefix(timeline))
    }

    /// The timeline whose directory this prefix (as a listing by directory gives it, with or without its `/`) is.
    #[must_use]
    pub fn parse_timeline_prefix(&self, prefix: &str) -> Option<TimelineId> {
        let digits = prefix.strip_prefix(&self.wal_prefix())?.trim_end_matches('/');
        TimelineId::from_hex(digits).ok().filter(|timeline| timeline.hex() == digits)
    }

    /// The LOG directory of a timeline that this prefix (as a listing by directory gives it) is.
    #[must_use]
    pub fn parse_log_prefix(&self, timeline: TimelineId, prefix: &str) -> Option<u32> {
        let digits = prefix.strip_prefix(&self.timeline_prefix(timeline))?.trim_end_matches('/');
        u32::from_str_radix(digits, 16).ok().filter(|log| format!("{log:08X}") == digits)
    }

    /// The summary of one LOG directory of segments.
    #[must_use]
    pub fn rollup(&self, timeline: TimelineId, log: u32) -> DerivedKey {
        DerivedKey(ObjectKey(format!("{}rollup", self.log_prefix(timeline, log))))
    }

    /// The copy of the records of all backups.
    #[must_use]
    pub fn backup_rollup(&self) -> DerivedKey {
        DerivedKey(ObjectKey(format!("{}rollup", self.backups_prefix())))
    }

    /// The prefix of the history files, which ends in `/`.
    #[must_use]
    pub fn history_prefix(&self) -> String {
        format!("{}history/", self.prefix())
    }

    /// The prefix of the base backups, which ends in `/`.
    #[must_use]
    pub fn backups_prefix(&self) -> String {
        format!("{}backup/", self.prefix())
    }

    /// The prefix of the records of verifications, which ends in `/`.
    #[must_use]
    pub fn verifications_prefix(&self) -> String {
        format!("{}verify/", self.prefix())
    }

    /// The record of one verification; its name is made like a backup's.
    #[must_use]
    pub fn verification(&self, id: &BackupId) -> ObjectKey {
        ObjectKey(format!("{}{id}.json", self.verifications_prefix()))
    }

    /// The prefix of the pins, which ends in `/`.
    #[must_use]
    pub fn pins_prefix(&self) -> String {
        format!("{}pin/", self.prefix())
    }

    /// One revision of a backup's pin.
    #[must_use]
    pub fn pin(&self, backup: &BackupId, revision: u32) -> ObjectKey {
        ObjectKey(format!("{}{backup}/{revision:08}.json", self.pins_prefix()))
    }

    /// The prefix of the audit records of retention runs, which ends in `/`.
    #[must_use]
    pub fn retention_runs_prefix(&self) -> String {
        format!("{}retention/", self.prefix())
    }

    /// What a retention run was about to do.
    #[must_use]
    pub fn retention_run(&self, id: &BackupId) -> ObjectKey {
        ObjectKey(format!("{}{id}.json", self.retention_runs_prefix()))
    }

    /// What a retention run did.
    #[must_use]
    pub fn retention_run_done(&self, id: &BackupId) -> ObjectKey {
        ObjectKey(format!("{}{id}-done.json", self.retention_runs_prefix()))
    }

    /// The prefix of the evidence of drills, which ends in `/`.
    #[must_use]
    pub fn drills_prefix(&self) -> String {
        format!("{}drill/", self.prefix())
    }

    /// The evidence of one drill; its name is made like a backup's.
    #[must_use]
    pub fn drill(&self, id: &BackupId) -> ObjectKey {
        ObjectKey(format!("{}{id}.json", self.drills_prefix()))
    }

    /// The place of a file that PostgreSQL archives.
    #[must_use]
    pub fn archive_file(&self, name: ArchiveFileName) -> ObjectKey {
        let prefix = self.prefix();
        ObjectKey(match name {
            ArchiveFileName::Segment(segment)
            | ArchiveFileName::Partial(segment)
            | ArchiveFileName::BackupHistory { segment, .. } => {
                format!("{prefix}wal/{}/{:08X}/{name}.zst", segment.timeline().hex(), segment.log())
            }
            ArchiveFileName::History(_) => format!("{prefix}history/{name}.zst"),
        })
    }

    /// The keys of one base backup.
    #[must_use]
    pub fn backup(&self, id: &BackupId) -> BackupLayout {
        BackupLayout { prefix: format!("{}{id}/", self.backups_prefix()) }
    }

    /// The backup whose directory this prefix (as a listing by directory gives it, with or without its `/`) is.
    #[must_use]
    pub fn parse_backup_prefix(&self, prefix: &str) -> Option<BackupId> {
        prefix.strip_prefix(&self.backups_prefix())?.trim_end_matches('/').parse().ok()
    }

    /// Says what the object of this key is; `None` for what the layout does not make.
    #[must_use]
    pub fn parse(&self, key: &str) -> Option<ArchiveObject> {
        let rest = key.strip_prefix(&self.prefix())?;
        if rest == "incarnation.json" {
            return Some(ArchiveObject::Marker);
        }
        if let Some(rest) = rest.strip_prefix("backup/") {
            if rest == "rollup" {
                return Some(ArchiveObject::BackupRollup);
            }
            let (id, object) = rest.split_once('/')?;
            return (!object.is_empty()).then_some(ArchiveObject::Backup(id.parse().ok()?));
        }
        if let Some(file) = rest.strip_prefix("verify/") {
            return Some(ArchiveObject::Verification(file.strip_suffix(".json")?.parse().ok()?));
        }
        if let Some(file) = rest.strip_prefix("pin/") {
            let (backup, revision) = file.strip_suffix(".json")?.split_once('/')?;
            let (backup, revision) = (backup.parse().ok()?, revision.parse().ok()?);
            let own = self.pin(&backup, revision);
            return (own.as_str() == key).then_some(ArchiveObject::Pin { backup, revision });
        }
        if let Some(file) = rest.strip_prefix("retention/") {
            let id = file.strip_suffix(".json")?;
            let done = id.strip_suffix("-done");
            let (id, done) = (done.unwrap_or(id).parse().ok()?, done.is_some());
            return Some(ArchiveObject::RetentionRun { id, done });
        }
        if let Some(file) = rest.strip_prefix("drill/") {
            return Some(ArchiveObject::Drill(file.strip_suffix(".json")?.parse().ok()?));
        }
        let (directory, file) = rest.rsplit_once('/')?;
        if file == "rollup" {
            let (timeline, log) = directory.strip_prefix("wal/")?.split_once('/')?;
            let timeline = TimelineId::from_hex(timeline).ok()?;
            let log = u32::from_str_radix(log, 16).ok()?;
            let own = self.rollup(timeline, log);
            return (own.key().as_str() == key).then_some(ArchiveObject::Rollup { timeline, log });
        }
        let name: ArchiveFileName = file.strip_suffix(".zst")?.parse().ok()?;
        // A file counts only in its own place: a copy elsewhere is a stray.
        (self.archive_file(name).as_str() == key).then_some(ArchiveObject::File(name))
    }
}

/// The keys of one base backup.
#[derive(Debug, Clone)]
pub struct BackupLayout {
    prefix: String,
}

impl BackupLayout {
    /// Everything of the backup lies under this prefix, which ends in `/`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The commit record, written last: the backup exists when it does.
    #[must_use]
    pub fn commit(&self) -> ObjectKey {
        ObjectKey(format!("{}backup.json", self.prefix))
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> ObjectKey {
        ObjectKey(format!("{}manifest.zst", self.prefix))
    }

    /// The names of databases, schemas and tables at the time of the backup.
    #[must_use]
    pub fn names(&self) -> ObjectKey {
        ObjectKey(format!("{}names.zst", self.prefix))
    }

    /// One pack, by number from 0.
    #[must_use]
    pub fn pack(&self, number: u32) -> ObjectKey {
        ObjectKey(format!("{}pack/{number:08}.zst", self.prefix))
    }

    /// Whether a key is one that a backup has; anything else in its directory is foreign.
    #[must_use]
    pub fn owns(&self, key: &str) -> bool {
        let Some(rest) = key.strip_prefix(&self.prefix) else { return false };
        let pack = rest.strip_prefix("pack/").and_then(|rest| rest.strip_suffix(".zst"));
        let is_pack =
            || pack.and_then(|digits| digits.parse().ok()).is_some_and(|n| self.pack(n).as_str() == key);
        matches!(rest, "backup.json" | "manifest.zst" | "names.zst") || is_pack()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> IncarnationLayout {
        let incarnation = "7401234567890123456-17".parse().unwrap();
        ServerLayout::new("main".parse().unwrap()).incarnation(incarnation)
    }

    #[test]
    fn every_archived_file_has_one_place() {
        let place = |name: &str| layout().archive_file(name.parse().unwrap()).to_string();
        let prefix = "main/7401234567890123456-17";
        let segment = "00000002000000A1000000FE";
        assert_eq!(place(segment), format!("{prefix}/wal/00000002/000000A1/{segment}.zst"));
        assert_eq!(
            place("00000002000000A1000000FE.partial"),
            format!("{prefix}/wal/00000002/000000A1/{segment}.partial.zst")
        );
        assert_eq!(
            place("00000002000000A1000000FE.00000028.backup"),
            format!("{prefix}/wal/00000002/000000A1/{segment}.00000028.backup.zst")
        );
        assert_eq!(place("00000002.history"), format!("{prefix}/history/00000002.history.zst"));
    }

    #[test]
    fn a_file_outside_its_place_is_a_stray() {
        let key = "main/7401234567890123456-17/wal/00000001/000000A1/00000002000000A1000000FE.zst";
        assert_eq!(layout().parse(key), None);
    }

    #[test]
    fn derived_objects_have_one_place_each() {
        let prefix = "main/7401234567890123456-17";
        let timeline = TimelineId::new(2).unwrap();
        let rollup = layout().rollup(timeline, 0xA1);
        assert_eq!(rollup.to_string(), format!("{prefix}/wal/00000002/000000A1/rollup"));
        let parsed = ArchiveObject::Rollup { timeline, log: 0xA1 };
        assert_eq!(layout().parse(rollup.key().as_str()), Some(parsed));
        let backups = layout().backup_rollup();
        assert_eq!(backups.to_string(), format!("{prefix}/backup/rollup"));
        assert_eq!(layout().parse(backups.key().as_str()), Some(ArchiveObject::BackupRollup));
        for stray in
            ["wal/rollup", "wal/00000002/rollup", "wal/2/000000a1/rollup", "wal/00000002/000000A1/x/rollup"]
        {
            assert_eq!(layout().parse(&format!("{prefix}/{stray}")), None, "{stray}");
        }
        let log = layout().log_prefix(timeline, 0xA1);
        assert_eq!(layout().parse_log_prefix(timeline, &log), Some(0xA1));
        assert_eq!(layout().parse_log_prefix(TimelineId::FIRST, &log), None);
        assert_eq!(layout().parse_timeline_prefix(&layout().timeline_prefix(timeline)), Some(timeline));
    }

    #[test]
    fn verifications_have_one_place_each() {
        let id: BackupId = "20261120T103905Z-7f3a".parse().unwrap();
        let key = layout().verification(&id);
        assert_eq!(key.as_str(), "main/7401234567890123456-17/verify/20261120T103905Z-7f3a.json");
        assert_eq!(layout().parse(key.as_str()), Some(ArchiveObject::Verification(id)));
        assert_eq!(layout().parse("main/7401234567890123456-17/verify/x.json"), None);
    }

    #[test]
    fn what_retention_writes_has_one_place_each() {
        let id: BackupId = "20261120T103905Z-7f3a".parse().unwrap();
        let pin = layout().pin(&id, 3);
        assert_eq!(pin.as_str(), "main/7401234567890123456-17/pin/20261120T103905Z-7f3a/00000003.json");
        let parsed = layout().parse(pin.as_str());
        assert_eq!(parsed, Some(ArchiveObject::Pin { backup: id.clone(), revision: 3 }));
        assert_eq!(layout().parse(&pin.as_str().replace("00000003", "3")), None);
        let backup = layout().backup(&id);
        for key in [backup.commit(), backup.manifest(), backup.names(), backup.pack(7)] {
            assert!(backup.owns(key.as_str()), "{key}");
        }
        for foreign in ["pack/7.zst", "pack/00000007", "notes.txt", "pack/00000007.zst.old"] {
            assert!(!backup.owns(&format!("{}{foreign}", backup.prefix())), "{foreign}");
        }
        for (key, done) in [(layout().retention_run(&id), false), (layout().retention_run_done(&id), true)] {
            let run = ArchiveObject::RetentionRun { id: id.clone(), done };
            assert_eq!(layout().parse(key.as_str()), Some(run));
        }
        let server = ServerLayout::new("main".parse().unwrap());
        let lease = server.retention_lease(12);
        assert_eq!(lease.as_str(), "main/lease/retention/00000012.json");
        assert_eq!(server.parse_retention_lease(lease.as_str()), Some(12));
        assert_eq!(server.parse_retention_lease("main/lease/retention/12.json"), None);
        let incarnation = layout().incarnation();
        assert_eq!(server.parse_incarnation_prefix(&layout().prefix()), Some(incarnation));
        assert_eq!(server.parse_incarnation_prefix("main/server/"), None);
    }

    #[test]
    fn drills_have_one_place_each() {
        let id: BackupId = "20261120T103905Z-7f3a".parse().unwrap();
        let key = layout().drill(&id);
        assert_eq!(key.as_str(), "main/7401234567890123456-17/drill/20261120T103905Z-7f3a.json");
        assert_eq!(layout().parse(key.as_str()), Some(ArchiveObject::Drill(id)));
        assert_eq!(layout().parse("main/7401234567890123456-17/drill/x.json"), None);
        assert_eq!(layout().parse("main/7401234567890123456-17/drill/a/20261120T103905Z-7f3a.json"), None);
    }

    #[test]
    fn names_that_could_leave_the_layout_are_refused() {
        for name in ["", ".", "..", "a/b", "-x", "a b", "ä", "x\n", &"x".repeat(64)] {
            assert!(name.parse::<ServerName>().is_err(), "{name:?}");
        }
        for key in ["", "/a", "a//b", "a/../b", "a/./b", "a/", "a b"] {
            assert!(ObjectKey::parse(key).is_err(), "{key:?}");
        }
        for incarnation in ["7-17x", "7", "07-17", "7-12", "-17", "7-017"] {
            assert!(incarnation.parse::<Incarnation>().is_err(), "{incarnation:?}");
        }
    }

    #[test]
    fn backup_ids_sort_by_time() {
        let early = BackupId::new("2026-11-20T10:39:05Z".parse().unwrap(), 0xffff);
        let late = BackupId::new("2026-11-20T10:39:06Z".parse().unwrap(), 0);
        assert_eq!(early.as_str(), "20261120T103905Z-ffff");
        assert!(early < late);
        assert_eq!(late.as_str().parse::<BackupId>().unwrap(), late);
        assert_eq!(late.started_at(), "2026-11-20T10:39:06Z".parse().ok());
        assert_eq!("20261399T103906Z-0000".parse::<BackupId>().unwrap().started_at(), None);
    }

    proptest! {
        #[test]
        fn archived_files_round_trip(timeline in 1u32.., log: u32, seg in 0u32..4096, offset: u32, kind in 0..4) {
            let segment = format!("{timeline:08X}{log:08X}{seg:08X}");
            let name: ArchiveFileName = match kind {
                0 => segment,
                1 => format!("{segment}.partial"),
                2 => format!("{segment}.{offset:08X}.backup"),
                _ => format!("{timeline:08X}.history"),
            }.parse().unwrap();
            let key = layout().archive_file(name);
            prop_assert_eq!(layout().parse(key.as_str()), Some(ArchiveObject::File(name)));
            prop_assert!(ObjectKey::parse(key.as_str()).is_ok());
        }

        #[test]
        fn parsing_never_panics(key in ".*") {
            let _ = layout().parse(&key);
            let _ = layout().parse(&format!("{}{key}", layout().prefix()));
            let _ = key.parse::<BackupId>();
            let _ = key.parse::<Incarnation>();
        }
    }
}
