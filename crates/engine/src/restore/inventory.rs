//! Judging a manifest line by line: nothing that it says may reach outside of the data directory.
//!
//! Pure: paths and numbers in, verdicts out. The same judge stands over the reading that comes before anything is
//! written and over the one that restores.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use walden_core::{
    BackupRecord, ErrorKind, Extent, FileEntry, ManifestEntry, ManifestHeader, ManifestPath, ManifestTotals,
};
use walden_pg::PgMajor;
use walden_store::EXTENT_BYTES_MAX;

use crate::error::{EngineError, Result};

/// The newest schema of a manifest that this version reads.
const MANIFEST_SCHEMA: u32 = 1;
/// Longest path inside a data directory, in bytes (PATH_MAX of Linux).
const PATH_BYTES_MAX: usize = 4096;
/// Longest part of a path, in bytes (NAME_MAX of Linux).
const PART_BYTES_MAX: usize = 255;
/// Largest frame of a pack, compressed, in bytes: an extent that did not shrink, and the frame's own bytes.
pub(crate) const FRAME_BYTES_MAX: u64 = EXTENT_BYTES_MAX + (1 << 20);

/// No cluster has more directories and links, which are all kept in memory.
const DIRECTORIES_MAX: usize = 4_000_000;

/// Files at the top of a data directory that belong to one run of a server, or to one restore: a new server must
/// not inherit them.
const LEFT_OUT: [&str; 9] = [
    "postmaster.pid",
    "postmaster.opts",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    super::IN_PROGRESS_MARKER,
    super::PLAN_FILE,
    super::START_LOG,
    crate::data_directory::RESTORED_MARKER,
];

/// Files that are looked at before anything is written, or written in another form than they have in the backup.
pub(crate) const CONTROL: &[u8] = b"global/pg_control";
pub(crate) const LABEL: &[u8] = b"backup_label";
pub(crate) const VERSION: &[u8] = b"PG_VERSION";
pub(crate) const MAP: &[u8] = b"tablespace_map";
pub(crate) const AUTO_CONF: &[u8] = b"postgresql.auto.conf";
pub(crate) const CONF: &[u8] = b"postgresql.conf";
pub(crate) const HBA: &[u8] = b"pg_hba.conf";
pub(crate) const IDENT: &[u8] = b"pg_ident.conf";
const NOTABLE: [&[u8]; 8] = [CONTROL, LABEL, VERSION, MAP, AUTO_CONF, CONF, HBA, IDENT];

/// One regular file to restore, its manifest entry checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedFile {
    /// Relative to the data directory; sound by [`ManifestPath::to_bytes`].
    pub(crate) path: Vec<u8>,
    pub(crate) bytes: u64,
    pub(crate) mode: u32,
    pub(crate) sha256: [u8; 32],
    /// By rising offset, without overlap, inside of the file.
    pub(crate) extents: Vec<Extent>,
}

impl PlannedFile {
    /// How many of its bytes are stored; the rest are holes.
    pub(crate) fn stored_plain_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }
}

/// A path as a person may read it.
pub(crate) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The directory that a path lies in; `None` at the top.
pub(crate) fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    path.get(..slash)
}

/// The tablespace whose link leads to a path, and whether the path is the link itself.
pub(crate) fn tablespace_of(path: &[u8]) -> Option<(u32, bool)> {
    let rest = path.strip_prefix(b"pg_tblspc/")?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let digits = std::str::from_utf8(rest.get(..end)?).ok()?;
    let oid: u32 = digits.parse().ok()?;
    // Only the canonical spelling names the link.
    (oid.to_string() == digits).then_some((oid, end == rest.len()))
}

/// What one line of a manifest asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to write.
    Nothing,
    /// A file to restore.
    File(PlannedFile),
}

/// A link of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) path: Vec<u8>,
    pub(crate) target: String,
    /// A directory takes its place.
    pub(crate) as_directory: bool,
}

/// What a whole manifest holds, its file entries excepted: their number has no bound.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) header: Option<ManifestHeader>,
    /// Every directory to make, in the order of paths, with its mode.
    pub(crate) directories: Vec<(Vec<u8>, u32)>,
    pub(crate) links: Vec<Link>,
    pub(crate) left_out: Vec<String>,
    /// Entries that are needed before their turn.
    pub(crate) notable: BTreeMap<Vec<u8>, PlannedFile>,
    /// Plain bytes of the files in each tablespace; `None` is the data directory itself.
    pub(crate) bytes: BTreeMap<Option<u32>, u64>,
    pub(crate) totals: ManifestTotals,
}

impl Inventory {
    /// Whether the source gave its group access: then the data directory has mode 0750.
    pub(crate) fn group_access(&self) -> bool {
        self.directories.iter().any(|(path, mode)| path == b"global" && mode & 0o070 != 0)
    }
}

/// Judges the lines of one manifest in order.
pub(crate) struct Judge {
    packs: u64,
    tablespaces: BTreeSet<u32>,
    major: PgMajor,
    backup: walden_core::BackupId,
    previous: Vec<u8>,
    known_directories: HashSet<Vec<u8>>,
    inventory: Inventory,
    finished: bool,
}

impl Judge {
    /// A judge over the manifest of this backup.
    pub(crate) fn new(record: &BackupRecord) -> Self {
        Self {
            packs: u64::from(record.packs),
            tablespaces: record.tablespaces.iter().map(|space| space.oid).collect(),
            major: record.incarnation.major,
            backup: record.id.clone(),
            previous: Vec::new(),
            known_directories: HashSet::new(),
            inventory: Inventory::default(),
            finished: false,
        }
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// Of kind `corrupt` for anything that a backup of PostgreSQL can't hold, `unsupported` for a newer schema.
    pub(crate) fn take(&mut self, entry: ManifestEntry) -> Result<Step> {
        if self.finished {
            return Err(refuse("lines follow its totals"));
        }
        if self.inventory.header.is_none() && !matches!(entry, ManifestEntry::Header(_)) {
            return Err(refuse("its first line is not the header"));
        }
        match entry {
            ManifestEntry::Header(header) => self.take_header(header).map(|()| Step::Nothing),
            ManifestEntry::Directory { path, mode } => {
                self.take_directory(&path, mode).map(|()| Step::Nothing)
            }
            ManifestEntry::Link { path, target } => self.take_link(&path, &target).map(|()| Step::Nothing),
            ManifestEntry::File(file) => self.take_file(file),
            ManifestEntry::Totals(totals) => self.take_totals(&totals).map(|()| Step::Nothing),
        }
    }

    /// What the manifest holds, once its last line was taken.
    ///
    /// # Errors
    /// Of kind `corrupt` when it ends before its totals.
    pub(crate) fn finish(self) -> Result<Inventory> {
        if self.finished { Ok(self.inventory) } else { Err(refuse("it ends before its totals")) }
    }

    fn take_header(&mut self, header: ManifestHeader) -> Result<()> {
        if header.schema > MANIFEST_SCHEMA {
            let message = format!("the manifest needs a newer walden schema={}", header.schema);
            return Err(EngineError::failed(ErrorKind::Unsupported, message)
                .with_hint("use a newer version of walden"));
        }
        if header.backup != self.backup {
            return Err(refuse(&format!("it belongs to another backup found={}", header.backup)));
        }
        if self.inventory.header.replace(header).is_some() {
            return Err(refuse("it has two headers"));
        }
        Ok(())
    }

    /// Checks a path's form, its place in the order, and that its directory was listed.
    fn take_path(&mut self, path: &ManifestPath) -> Result<Vec<u8>> {
        let refused = |rule: &str| Err(refuse(&format!("{rule} path={:?}", path.to_string())));
        let Some(bytes) = path.to_bytes() else { return refused("a path leaves the data directory") };
        if bytes.len() > PATH_BYTES_MAX
            || bytes.split(|byte| *byte == b'/').any(|part| part.len() > PART_BYTES_MAX)
        {
            return refused("a path is longer than any file system allows");
        }
        if bytes <= self.previous {
            return refused("a path is listed twice or out of order");
        }
        let parent_is_known = match parent_of(&bytes) {
            None => true,
            Some(parent) => {
                self.known_directories.contains(parent)
                    || tablespace_of(parent)
                        .is_some_and(|(oid, link)| link && self.tablespaces.contains(&oid))
            }
        };
        if !parent_is_known {
            return refused("a path lies below something that is not a directory of the backup");
        }
        if !self.is_sound_in_tablespace(&bytes) {
            return refused("a tablespace holds something else than the directory of the backup's major");
        }
        if self.inventory.directories.len().saturating_add(self.inventory.links.len()) >= DIRECTORIES_MAX {
            return refused("it lists more directories than any cluster has");
        }
        self.previous.clone_from(&bytes);
        Ok(bytes)
    }

    /// Below a tablespace PostgreSQL has nothing but `PG_<major>_<catalog version>` (`TABLESPACE_VERSION_DIRECTORY`).
    fn is_sound_in_tablespace(&self, path: &[u8]) -> bool {
        let Some((oid, false)) = tablespace_of(path) else { return true };
        let below = path.splitn(4, |byte| *byte == b'/').nth(2).unwrap_or_default();
        let prefix = format!("PG_{}_", self.major);
        let version = below.strip_prefix(prefix.as_bytes()).unwrap_or_default();
        !self.tablespaces.contains(&oid) || (!version.is_empty() && version.iter().all(u8::is_ascii_digit))
    }

    fn take_directory(&mut self, path: &ManifestPath, mode: u32) -> Result<()> {
        let path = self.take_path(path)?;
        if is_left_out(&path) {
            return Err(refuse(&format!(
                "a directory has the name of a file of ours path={:?}",
                display(&path)
            )));
        }
        self.inventory.totals.directories += 1;
        self.add_directory(path, mode);
        Ok(())
    }

    fn add_directory(&mut self, path: Vec<u8>, mode: u32) {
        self.known_directories.insert(path.clone());
        self.inventory.directories.push((path, (mode & 0o777) | 0o700));
    }

    fn take_link(&mut self, path: &ManifestPath, target: &ManifestPath) -> Result<()> {
        let path = self.take_path(path)?;
        if path.starts_with(b"pg_tblspc/") {
            return Err(refuse(&format!("a tablespace is listed as a link path={:?}", display(&path))));
        }
        // A backup keeps a link at the top where a directory must be whose contents mean nothing to another server
        // (pg_wal mostly). What any other link pointed to is not in the backup.
        let as_directory = !path.contains(&b'/');
        let target = target.to_string();
        self.inventory.links.push(Link { path: path.clone(), target, as_directory });
        if as_directory {
            self.add_directory(path, 0o700);
        }
        Ok(())
    }

    fn take_file(&mut self, entry: FileEntry) -> Result<Step> {
        let path = self.take_path(&entry.path)?;
        if is_top_of_tablespace_content(&path, &self.tablespaces) {
            return Err(refuse(&format!(
                "a file stands where a tablespace has its directory path={:?}",
                display(&path)
            )));
        }
        let file = self.check_file(path, entry)?;
        let space = tablespace_of(&file.path).filter(|(oid, _)| self.tablespaces.contains(oid));
        if matches!(space, Some((_, true))) {
            return Err(refuse(&format!("a tablespace is listed as a file path={:?}", display(&file.path))));
        }
        let totals = &mut self.inventory.totals;
        totals.files += 1;
        totals.bytes =
            totals.bytes.checked_add(file.bytes).ok_or_else(|| refuse("its files have absurd sizes"))?;
        if is_left_out(&file.path) {
            self.inventory.left_out.push(display(&file.path));
            return Ok(Step::Nothing);
        }
        *self.inventory.bytes.entry(space.map(|(oid, _)| oid)).or_default() += file.bytes;
        if NOTABLE.contains(&file.path.as_slice()) {
            self.inventory.notable.insert(file.path.clone(), file.clone());
        }
        Ok(Step::File(file))
    }

    fn check_file(&self, path: Vec<u8>, entry: FileEntry) -> Result<PlannedFile> {
        let refused = |rule: &str| Err(refuse(&format!("{rule} file={:?}", display(&path))));
        let Some(sha256) = parse_sha256(&entry.sha256) else {
            return refused("a file's hash is not a SHA-256");
        };
        if i64::try_from(entry.bytes).is_err() {
            return refused("a file is larger than any file system allows");
        }
        let mut end = 0;
        for extent in &entry.extents {
            if extent.bytes == 0 || extent.file_offset < end {
                return refused("extents overlap or are out of order");
            }
            end = extent.file_offset.saturating_add(extent.bytes);
            if end > entry.bytes {
                return refused("an extent reaches beyond the end of its file");
            }
            if extent.pack >= self.packs {
                return refused("an extent lies in a pack that the backup does not have");
            }
            if extent.frame_bytes == 0
                || extent.frame_bytes > FRAME_BYTES_MAX
                || extent.frame_offset.checked_add(extent.frame_bytes).is_none()
                || extent.skip.saturating_add(extent.bytes) > EXTENT_BYTES_MAX
            {
                return refused("an extent lies in a frame of an absurd size");
            }
        }
        Ok(PlannedFile { path, bytes: entry.bytes, mode: entry.mode & 0o777, sha256, extents: entry.extents })
    }

    fn take_totals(&mut self, totals: &ManifestTotals) -> Result<()> {
        let counted = &self.inventory.totals;
        if totals != counted {
            return Err(refuse(&format!(
                "it does not hold what its totals say files={}/{} directories={}/{} bytes={}/{}",
                counted.files,
                totals.files,
                counted.directories,
                totals.directories,
                counted.bytes,
                totals.bytes
            )));
        }
        self.finished = true;
        Ok(())
    }
}

/// Whether a path is a direct child of one of these tablespaces.
fn is_top_of_tablespace_content(path: &[u8], tablespaces: &BTreeSet<u32>) -> bool {
    let depth = path.split(|byte| *byte == b'/').count();
    depth == 3 && tablespace_of(path).is_some_and(|(oid, _)| tablespaces.contains(&oid))
}

fn is_left_out(path: &[u8]) -> bool {
    LEFT_OUT.iter().any(|name| name.as_bytes() == path)
}

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The manifest can't be used.
pub(crate) fn refuse(reason: &str) -> EngineError {
    EngineError::failed(ErrorKind::Corrupt, format!("the backup's manifest is damaged or not ours: {reason}"))
        .with_hint(
            "nothing is restored from it: choose another backup (--backup; walden backup list shows them)",
        )
}
