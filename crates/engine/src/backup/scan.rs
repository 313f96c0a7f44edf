//! Walking a data directory: everything that belongs into a backup, in the order of the manifest.
//!
//! The order is that of the paths' bytes. Three entries are placed without being looked at, because their contents
//! are known only at the end: `backup_label` and `tablespace_map`, which the server makes, and `global/pg_control`,
//! which is read last.
//!
//! Links are treated as `pg_basebackup` treats them, with one difference: where PostgreSQL's own directories
//! or its configuration files are links, what they point to is copied instead of being left out with a warning;
//! without it the restored server would be broken. The links of tablespaces are followed into this version's
//! directory only, and that one is left out where it lies inside the data directory. `pg_wal`, and other directories whose contents are left out, are kept as links. Every other
//! link, and every socket, pipe and device, is left out with a warning.
//!
//! Memory: some 40 bytes for each file, so 40 MB for a million of them, and while one directory is looked through
//! 120 bytes for each name in it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walden_pg::{RelFileNumber, RelationFile, RelationFileName};

use super::exclude::{WAL_DIRECTORIES, is_emptied, is_followed, is_left_out};
use crate::error::{EngineError, Result};

/// Warnings that are kept word for word.
const WARNINGS_MAX: usize = 100;

/// A file whose contents are known only at the end of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LateFile {
    /// `backup_label`
    BackupLabel,
    /// `global/pg_control`
    ControlFile,
    /// `tablespace_map`
    TablespaceMap,
}

impl LateFile {
    pub(super) const ALL: [Self; 3] = [Self::BackupLabel, Self::ControlFile, Self::TablespaceMap];

    /// Its path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::BackupLabel => "backup_label",
            Self::ControlFile => "global/pg_control",
            Self::TablespaceMap => "tablespace_map",
        }
    }
}

/// What stands at one place of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemKind {
    /// A directory with its permission bits.
    Directory { mode: u32 },
    /// A link; where it points is [`Scan::link_target`].
    Link { target: u32 },
    /// A regular file and its size when it was seen.
    File { bytes: u64 },
    /// A file that comes last.
    Late(LateFile),
}

/// One place of the manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// Where its name lies in [`Scan::names`], and how long it is.
    name_at: usize,
    name_bytes: u16,
    /// Index into [`Scan::directories`].
    directory: u32,
    pub(super) kind: ItemKind,
}

/// A tablespace outside of the data directory, as its link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkedTablespace {
    pub(super) oid: u32,
    pub(super) target: PathBuf,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The paths of directories that hold items; the first is empty, the data directory itself.
    directories: Vec<Box<[u8]>>,
    /// The names of all items, one after another.
    names: Vec<u8>,
    link_targets: Vec<Box<[u8]>>,
    /// Everything, in the order of the manifest.
    pub(super) items: Vec<Item>,
    pub(super) tablespaces: Vec<LinkedTablespace>,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// How many files.
    pub(super) files: u64,
    pub(super) warnings: Vec<String>,
    /// Warnings that were not kept.
    pub(super) more_warnings: u64,
}

impl Scan {
    /// The path of an item relative to the data directory.
    pub(super) fn path(&self, item: &Item) -> Vec<u8> {
        let directory = self.directories.get(item.directory as usize).map_or(&[][..], |directory| directory);
        let name = self.names.get(item.name_at..item.name_at + usize::from(item.name_bytes));
        join(directory, name.unwrap_or_default())
    }

    /// Where a link points.
    pub(super) fn link_target(&self, target: u32) -> &[u8] {
        self.link_targets.get(target as usize).map_or(&[], |target| target)
    }

    fn warn(&mut self, text: String) {
        tracing::warn!("{text}");
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(text);
        } else {
            self.more_warnings += 1;
        }
    }
}

/// Where and how to walk.
#[derive(Debug, Clone)]
pub(super) struct ScanRequest {
    /// The data directory.
    pub(super) root: PathBuf,
    /// The name of this version's directory in tablespaces.
    pub(super) tablespace_directory: String,
    /// `stats_temp_directory` of 13 and 14.
    pub(super) statistics_directory: Option<String>,
}

/// Walks a data directory.
///
/// # Errors
/// [`EngineError::Local`] for what can't be looked at. What vanishes meanwhile is no error.
pub(super) fn scan(request: &ScanRequest) -> Result<Scan> {
    let linked = linked_tablespaces(request)?;
    let mut walk = Walk { request, scan: Scan::default(), above: Vec::new(), linked };
    walk.directory(&[])?;
    walk.scan.items.shrink_to_fit();
    walk.scan.names.shrink_to_fit();
    Ok(walk.scan)
}

/// This version's directories in the tablespaces behind links, by device and inode. What can't be looked at is told
/// by the walk.
fn linked_tablespaces(request: &ScanRequest) -> Result<BTreeSet<(u64, u64)>> {
    let directory = request.root.join("pg_tblspc");
    let failed = |source| EngineError::local("read directory", &directory, source);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if has_vanished(&error) => return Ok(BTreeSet::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut linked = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_symlink()
            && let Ok(metadata) = std::fs::metadata(path.join(&request.tablespace_directory))
        {
            linked.insert((metadata.dev(), metadata.ino()));
        }
    }
    Ok(linked)
}

/// The path of `name` in `directory`.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// An entry of a directory that is kept.
struct Found {
    name: Vec<u8>,
    kind: FoundKind,
}

enum FoundKind {
    Item(ItemKind),
    /// The contents of the directory of this name; sorts after the directory and after names like `5-x` and `5.x`.
    Contents,
    /// The kept directories of `pg_wal`.
    WalContents,
}

impl Found {
    /// The order of the paths' bytes: contents stand where the directory's name with a `/` does.
    fn order(&self, other: &Self) -> Ordering {
        let suffix = |found: &Self| -> &'static [u8] {
            if matches!(found.kind, FoundKind::Item(_)) { b"" } else { b"/" }
        };
        self.name.iter().chain(suffix(self)).cmp(other.name.iter().chain(suffix(other)))
    }
}

struct Walk<'a> {
    request: &'a ScanRequest,
    scan: Scan,
    /// Device and inode of the directories that the walk is in, to see circles of links.
    above: Vec<(u64, u64)>,
    /// Device and inode of this version's directories in the tablespaces behind links.
    linked: BTreeSet<(u64, u64)>,
}

fn has_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Walk<'_> {
    fn absolute(&self, path: &[u8]) -> PathBuf {
        self.request.root.join(OsStr::from_bytes(path))
    }

    /// Walks one directory and what is below it.
    fn directory(&mut self, path: &[u8]) -> Result<()> {
        let absolute = self.absolute(path);
        let identity = match std::fs::metadata(&absolute) {
            Ok(metadata) => (metadata.dev(), metadata.ino()),
            Err(error) if has_vanished(&error) && !path.is_empty() => return Ok(()),
            Err(error) => return Err(EngineError::local("look at", &absolute, error)),
        };
        if self.above.contains(&identity) {
            self.scan.warn(format!("left out, a link to a directory above it path={}", shown(path)));
            return Ok(());
        }
        self.above.push(identity);
        let walked = self.contents(path);
        self.above.pop();
        walked
    }

    fn contents(&mut self, path: &[u8]) -> Result<()> {
        let Some(names) = self.names(path)? else { return Ok(()) };
        let unlogged = unlogged_relations(path, &names);
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            if !is_left_out(&name, path.is_empty()) && !is_left_out_relation(path, &name, &unlogged) {
                self.look(path, name, &mut found)?;
            }
        }
        for late in LateFile::ALL {
            let (parent, name) = late.path().rsplit_once('/').unwrap_or(("", late.path()));
            if parent.as_bytes() == path {
                let name = name.as_bytes().to_vec();
                found.push(Found { name, kind: FoundKind::Item(ItemKind::Late(late)) });
            }
        }
        found.sort_unstable_by(Found::order);
        let directory = self.register(path);
        for Found { name, kind } in found {
            match kind {
                FoundKind::Item(kind) => self.keep(directory, &name, kind),
                FoundKind::Contents if path == b"pg_tblspc" => self.tablespace(&name)?,
                FoundKind::Contents => self.directory(&join(path, &name))?,
                FoundKind::WalContents => self.wal_directories(&join(path, &name))?,
            }
        }
        Ok(())
    }

    fn register(&mut self, path: &[u8]) -> u32 {
        self.scan.directories.push(path.into());
        u32::try_from(self.scan.directories.len() - 1).unwrap_or(u32::MAX)
    }

    fn keep(&mut self, directory: u32, name: &[u8], kind: ItemKind) {
        if let ItemKind::File { bytes } = kind {
            self.scan.files += 1;
            self.scan.bytes += bytes;
        }
        let name_at = self.scan.names.len();
        self.scan.names.extend_from_slice(name);
        let name_bytes = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.scan.items.push(Item { name_at, name_bytes, directory, kind });
    }

    /// The names in a directory; `None` when it has vanished.
    fn names(&self, path: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        let absolute = self.absolute(path);
        let failed = |source| EngineError::local("read directory", &absolute, source);
        let entries = match std::fs::read_dir(&absolute) {
            Ok(entries) => entries,
            Err(error) if has_vanished(&error) && !path.is_empty() => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(failed)?.file_name().as_bytes().to_vec());
        }
        Ok(Some(names))
    }

    /// Looks at one entry and says what of it is kept.
    fn look(&mut self, directory: &[u8], name: Vec<u8>, found: &mut Vec<Found>) -> Result<()> {
        let path = join(directory, &name);
        if LateFile::ALL.iter().any(|late| late.path().as_bytes() == path) {
            return Ok(());
        }
        let absolute = self.absolute(&path);
        let metadata = match std::fs::symlink_metadata(&absolute) {
            Ok(metadata) => metadata,
            Err(error) if has_vanished(&error) => return Ok(()),
            Err(error) => return Err(EngineError::local("look at", &absolute, error)),
        };
        let statistics = self.request.statistics_directory.as_deref().map(str::as_bytes);
        let emptied = is_emptied(&path, statistics);
        let metadata = if !metadata.file_type().is_symlink() {
            metadata
        } else if emptied {
            let Some(target) = read_link(&absolute)? else { return Ok(()) };
            self.scan.link_targets.push(target);
            let target = u32::try_from(self.scan.link_targets.len() - 1).unwrap_or(u32::MAX);
            found.push(Found { name: name.clone(), kind: FoundKind::Item(ItemKind::Link { target }) });
            if path == b"pg_wal" {
                found.push(Found { name, kind: FoundKind::WalContents });
            }
            return Ok(());
        } else {
            let Some(metadata) = self.look_behind(&path, &absolute)? else { return Ok(()) };
            metadata
        };
        if metadata.is_dir() {
            if self.is_linked_tablespace(&name, &metadata) {
                return Ok(());
            }
            let mode = mode(&metadata);
            found.push(Found { name: name.clone(), kind: FoundKind::Item(ItemKind::Directory { mode }) });
            match path.as_slice() {
                b"pg_wal" => found.push(Found { name, kind: FoundKind::WalContents }),
                _ if emptied => {}
                _ => found.push(Found { name, kind: FoundKind::Contents }),
            }
        } else if metadata.is_file() {
            found.push(Found { name, kind: FoundKind::Item(ItemKind::File { bytes: metadata.len() }) });
        } else {
            self.scan.warn(format!("left out, not a file or directory path={}", shown(&path)));
        }
        Ok(())
    }

    /// Whether this is the contents of a tablespace that somebody made inside the data directory: they are in the
    /// backup once, through the tablespace's link.
    fn is_linked_tablespace(&self, name: &[u8], metadata: &Metadata) -> bool {
        name == self.request.tablespace_directory.as_bytes()
            && self.linked.contains(&(metadata.dev(), metadata.ino()))
    }

    /// Looks at what a link points to; `None` when it is left out.
    fn look_behind(&mut self, path: &[u8], absolute: &Path) -> Result<Option<Metadata>> {
        if !is_followed(path) {
            self.scan.warn(format!("left out, a symbolic link path={}", shown(path)));
            return Ok(None);
        }
        match std::fs::metadata(absolute) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if has_vanished(&error) => {
                self.scan.warn(format!("left out, a symbolic link to nowhere path={}", shown(path)));
                Ok(None)
            }
            Err(error) => Err(EngineError::local("look behind", absolute, error)),
        }
    }

    /// Walks a tablespace: everything when it is a directory in place, this version's directory behind a link.
    fn tablespace(&mut self, name: &[u8]) -> Result<()> {
        let path = join(b"pg_tblspc", name);
        let absolute = self.absolute(&path);
        let target = match std::fs::read_link(&absolute) {
            Ok(target) => target,
            // A directory in place.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return self.directory(&path),
            Err(error) if has_vanished(&error) => return Ok(()),
            Err(error) => return Err(EngineError::local("read link", &absolute, error)),
        };
        let Some(oid) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) else {
            self.scan.warn(format!("left out, not a tablespace path={}", shown(&path)));
            return Ok(());
        };
        self.scan.tablespaces.push(LinkedTablespace { oid, target });
        let version = self.request.tablespace_directory.clone().into_bytes();
        let inner = join(&path, &version);
        let metadata = match std::fs::metadata(self.absolute(&inner)) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Ok(()),
            Err(error) if has_vanished(&error) => return Ok(()),
            Err(error) => return Err(EngineError::local("look at", &self.absolute(&inner), error)),
        };
        let directory = self.register(&path);
        self.keep(directory, &version, ItemKind::Directory { mode: mode(&metadata) });
        self.directory(&inner)
    }

    fn wal_directories(&mut self, path: &[u8]) -> Result<()> {
        let directory = self.register(path);
        for name in WAL_DIRECTORIES {
            let absolute = self.absolute(&join(path, name));
            match std::fs::metadata(&absolute) {
                Ok(metadata) => {
                    self.keep(directory, name, ItemKind::Directory { mode: mode(&metadata) });
                }
                Err(error) if has_vanished(&error) => {}
                Err(error) => return Err(EngineError::local("look at", &absolute, error)),
            }
        }
        Ok(())
    }
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o777
}

fn read_link(path: &Path) -> Result<Option<Box<[u8]>>> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Some(target.as_os_str().as_bytes().into())),
        Err(error) if has_vanished(&error) => Ok(None),
        Err(error) => Err(EngineError::local("read link", path, error)),
    }
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// What a name in `directory` says when the directory is one that holds relations.
fn relation(directory: &[u8], name: &[u8]) -> Option<RelationFileName> {
    let path = join(directory, name);
    RelationFile::from_path(std::str::from_utf8(&path).ok()?).map(|file| file.name)
}

fn unlogged_relations(directory: &[u8], names: &[Vec<u8>]) -> BTreeSet<RelFileNumber> {
    // Only directories of relations are worth the look, and one name of theirs tells.
    if relation(directory, b"1").is_none() {
        return BTreeSet::new();
    }
    walden_pg::relation_file::unlogged_relations(
        names.iter().filter_map(|name| std::str::from_utf8(name).ok()),
    )
}

fn is_left_out_relation(directory: &[u8], name: &[u8], unlogged: &BTreeSet<RelFileNumber>) -> bool {
    relation(directory, name).is_some_and(|file| file.is_left_out(unlogged))
}

#[cfg(test)]
mod tests;
