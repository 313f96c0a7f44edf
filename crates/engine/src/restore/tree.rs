//! The directories being filled, reached only through handles.
//!
//! Every step from a directory to a name in it is one call that follows no link (`openat` with `O_NOFOLLOW`), and
//! every file is created where nothing was. So whatever a manifest says, and whatever another process of the
//! owner puts in the way meanwhile, nothing outside of the directories is written, not even by root.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use super::destination::{Place, TablespacePlace};
use super::inventory::{display, parent_of, tablespace_of};
use super::owner::Owner;
use crate::error::{EngineError, Result};

/// So many directories are kept open at most; a backup's files come directory by directory.
const OPEN_DIRECTORIES_MAX: usize = 64;
/// The name of a file that is not complete.
const TEMPORARY_SUFFIX: &[u8] = b".walden-tmp";

type Handle = Arc<OwnedFd>;

#[derive(Debug)]
struct Top {
    path: PathBuf,
    directory: Handle,
}

/// A data directory and its tablespaces.
#[derive(Debug)]
pub(super) struct Tree {
    data: Top,
    tablespaces: BTreeMap<u32, Top>,
    owner: Option<Owner>,
    opened: Mutex<HashMap<Vec<u8>, Handle>>,
}

impl Tree {
    /// Makes the directories, or takes the empty ones that are there, with mode 0700 until the end.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn create(
        data: &Place,
        tablespaces: &[TablespacePlace],
        owner: Option<Owner>,
    ) -> Result<Self> {
        let data = Top::create(data, owner)?;
        let mut tops = BTreeMap::new();
        for space in tablespaces {
            tops.insert(space.oid, Top::create(&space.place, owner)?);
        }
        Ok(Self { data, tablespaces: tops, owner, opened: Mutex::default() })
    }

    /// Where the data directory is.
    #[cfg(test)]
    pub(super) fn path(&self) -> &std::path::Path {
        &self.data.path
    }

    /// Where a path of the manifest is, for people.
    pub(super) fn place_of(&self, path: &[u8]) -> PathBuf {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        if let Some((oid, _)) = tablespace_of(path)
            && let Some(top) = self.tablespaces.get(&oid)
        {
            let below = path.splitn(3, |byte| *byte == b'/').nth(2).unwrap_or_default();
            return if below.is_empty() { top.path.clone() } else { top.path.join(OsStr::from_bytes(below)) };
        }
        self.data.path.join(OsStr::from_bytes(path))
    }

    fn failed(&self, action: &'static str, path: &[u8], errno: nix::Error) -> EngineError {
        EngineError::local(action, &self.place_of(path), errno.into())
    }

    /// A handle on a directory; the empty path is the data directory.
    fn directory(&self, path: &[u8]) -> Result<Handle> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.data.directory));
        }
        if let Some((oid, true)) = tablespace_of(path)
            && let Some(top) = self.tablespaces.get(&oid)
        {
            return Ok(Arc::clone(&top.directory));
        }
        if let Some(handle) = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(Arc::clone(handle));
        }
        let (parent, name) = self.parent(path)?;
        let opened =
            open_directory(&*parent, name).map_err(|errno| self.failed("open directory", path, errno))?;
        let handle = Arc::new(opened);
        let mut all = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= OPEN_DIRECTORIES_MAX {
            all.clear();
        }
        all.insert(path.to_vec(), Arc::clone(&handle));
        Ok(handle)
    }

    fn parent<'a>(&self, path: &'a [u8]) -> Result<(Handle, &'a [u8])> {
        let parent = parent_of(path).unwrap_or_default();
        let name = if parent.is_empty() { path } else { path.get(parent.len() + 1..).unwrap_or_default() };
        Ok((self.directory(parent)?, name))
    }

    /// Whether a path is the place of a tablespace outside of the data directory.
    fn is_tablespace(&self, path: &[u8]) -> bool {
        tablespace_of(path).is_some_and(|(oid, link)| link && self.tablespaces.contains_key(&oid))
    }

    /// Makes a directory whose parent is there; `false` when it was there already.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn make_directory(&self, path: &[u8]) -> Result<bool> {
        if self.is_tablespace(path) {
            return Ok(false);
        }
        let (parent, name) = self.parent(path)?;
        match mkdirat(&*parent, name, Mode::S_IRWXU) {
            Ok(()) => {}
            Err(nix::Error::EEXIST) => return self.directory(path).map(|_| false),
            Err(errno) => return Err(self.failed("create directory", path, errno)),
        }
        let handle = self.directory(path)?;
        give(&*handle, self.owner).map_err(|errno| self.failed("give to its owner", path, errno))?;
        Ok(true)
    }

    /// Sets a directory's mode.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn set_directory_mode(&self, path: &[u8], mode: u32) -> Result<()> {
        let handle = self.directory(path)?;
        fchmod(&*handle, mode_of(mode)).map_err(|errno| self.failed("set the mode of", path, errno))
    }

    /// Flushes a directory.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn sync_directory(&self, path: &[u8]) -> Result<()> {
        let handle = self.directory(path)?;
        nix::unistd::fsync(&*handle).map_err(|errno| self.failed("flush directory", path, errno))
    }

    /// Creates a file, open for reading and writing, where nothing is.
    ///
    /// # Errors
    /// [`EngineError::Local`], also when something is there.
    pub(super) fn create_file(&self, path: &[u8], mode: u32) -> Result<File> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&*parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| self.failed("create", path, errno))?;
        give(&file, self.owner).map_err(|errno| self.failed("give to its owner", path, errno))?;
        fchmod(&file, mode_of(mode)).map_err(|errno| self.failed("set the mode of", path, errno))?;
        Ok(File::from(file))
    }

    /// Writes a small file durably, where nothing is: it has its name only when it is complete.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn write_file(&self, path: &[u8], bytes: &[u8], mode: u32) -> Result<()> {
        let temporary = [path, TEMPORARY_SUFFIX].concat();
        let mut file = self.create_file(&temporary, mode)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|source| EngineError::local("write", &self.place_of(&temporary), source))?;
        let (parent, name) = self.parent(path)?;
        let (_, temporary_name) = self.parent(&temporary)?;
        renameat(&*parent, temporary_name, &*parent, name)
            .map_err(|errno| self.failed("rename to", path, errno))?;
        self.sync_directory(parent_of(path).unwrap_or_default())
    }

    /// Creates a file durably, of which two restores at once can create only one.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn claim(&self, path: &[u8], bytes: &[u8]) -> Result<()> {
        let mut file = self.create_file(path, 0o600)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|source| EngineError::local("write", &self.place_of(path), source))?;
        self.sync_directory(parent_of(path).unwrap_or_default())
    }

    /// Removes a file and makes that durable.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn remove_file(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        unlinkat(&*parent, name, UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| self.failed("remove", path, errno))?;
        self.sync_directory(parent_of(path).unwrap_or_default())
    }

    /// Makes the link in `pg_tblspc` to every tablespace.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn link_tablespaces(&self) -> Result<()> {
        for (oid, top) in &self.tablespaces {
            let path = format!("pg_tblspc/{oid}").into_bytes();
            let (parent, name) = self.parent(&path)?;
            symlinkat(&top.path, &*parent, name).map_err(|errno| self.failed("link", &path, errno))?;
            if let Some(owner) = self.owner {
                fchownat(&*parent, name, Some(owner.uid), Some(owner.gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(|errno| self.failed("give to its owner", &path, errno))?;
            }
        }
        Ok(())
    }

    /// Handles on the data directory and on every tablespace.
    pub(super) fn tops(&self) -> Vec<(PathBuf, Handle)> {
        std::iter::once(&self.data)
            .chain(self.tablespaces.values())
            .map(|top| (top.path.clone(), Arc::clone(&top.directory)))
            .collect()
    }

    /// Makes the names of the directories themselves durable.
    ///
    /// # Errors
    /// [`EngineError::Local`].
    pub(super) fn sync_parents(&self) -> Result<()> {
        for (path, _) in self.tops() {
            if let Some(parent) = path.parent() {
                match crate::fs::sync_directory(parent) {
                    // Whoever may not read the directory above can't flush it either, and need not have made the
                    // name in it.
                    Err(EngineError::Local { source, .. })
                        if source.kind() == io::ErrorKind::PermissionDenied => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

impl Top {
    fn create(place: &Place, owner: Option<Owner>) -> Result<Self> {
        let path = &place.path;
        if place.existing.is_none() {
            let made = DirBuilder::new().mode(0o700).create(path);
            made.map_err(|source| EngineError::local("create directory", path, source))?;
        }
        let failed = |action, errno: nix::Error| EngineError::local(action, path, errno.into());
        let directory =
            open_directory(AT_FDCWD, path.as_os_str()).map_err(|errno| failed("open directory", errno))?;
        // Somebody may have been faster than us since we looked.
        let mut entries =
            std::fs::read_dir(path).map_err(|source| EngineError::local("list", path, source))?;
        if entries.next().is_some() {
            let message =
                format!("the directory was filled by somebody else meanwhile path={}", path.display());
            return Err(EngineError::failed(walden_core::ErrorKind::Config, message));
        }
        give(&directory, owner).map_err(|errno| failed("give to its owner", errno))?;
        fchmod(&directory, Mode::S_IRWXU).map_err(|errno| failed("set the mode of", errno))?;
        Ok(Self { path: path.clone(), directory: Arc::new(directory) })
    }
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn open_directory<P: ?Sized + nix::NixPath, F: std::os::fd::AsFd>(
    parent: F,
    name: &P,
) -> nix::Result<OwnedFd> {
    openat(parent, name, directory_flags(), Mode::empty())
}

fn give<F: std::os::fd::AsFd>(file: F, owner: Option<Owner>) -> nix::Result<()> {
    owner.map_or(Ok(()), |owner| fchown(file, Some(owner.uid), Some(owner.gid)))
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_bits_truncate((mode & 0o777) as nix::libc::mode_t)
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&display(self.data.path.as_os_str().as_encoded_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn tree(path: &Path) -> Tree {
        Tree::create(&Place { path: path.to_owned(), existing: None }, &[], None).unwrap()
    }

    #[test]
    fn links_that_somebody_puts_in_the_way_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let outside = top.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let tree = tree(&top.path().join("data"));
        symlink(&outside, tree.path().join("base")).unwrap();
        assert!(tree.make_directory(b"base").is_err());
        assert!(tree.create_file(b"base/1259", 0o600).is_err());
        symlink(outside.join("file"), tree.path().join("PG_VERSION")).unwrap();
        assert!(tree.create_file(b"PG_VERSION", 0o600).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_filled_up_meanwhile_is_not_taken() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("a"), "x").unwrap();
        let place = Place { path: top.path().canonicalize().unwrap(), existing: Some((0, 0)) };
        let error = Tree::create(&place, &[], None).unwrap_err();
        assert!(error.to_string().contains("meanwhile"), "{error}");
    }

    #[test]
    fn only_one_of_two_restores_claims_a_directory() {
        let top = tempfile::tempdir().unwrap();
        let tree = tree(&top.path().join("data"));
        tree.claim(b"marker", b"1").unwrap();
        assert!(tree.claim(b"marker", b"2").is_err());
        tree.remove_file(b"marker").unwrap();
        tree.write_file(b"other", b"3", 0o640).unwrap();
        let mode = std::fs::metadata(tree.path().join("other")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(tree.path()).unwrap().count(), 1);
    }

    #[test]
    fn tablespaces_are_reached_without_their_links() {
        let top = tempfile::tempdir().unwrap();
        let space = TablespacePlace {
            oid: 16385,
            original: "/old".into(),
            mapped: true,
            place: Place { path: top.path().join("space"), existing: None },
        };
        let data = Place { path: top.path().join("data"), existing: None };
        let tree = Tree::create(&data, &[space], None).unwrap();
        assert!(tree.make_directory(b"pg_tblspc").unwrap());
        assert!(!tree.make_directory(b"pg_tblspc/16385").unwrap());
        assert!(tree.make_directory(b"pg_tblspc/16385/PG_17").unwrap());
        drop(tree.create_file(b"pg_tblspc/16385/PG_17/1", 0o600).unwrap());
        assert!(top.path().join("space/PG_17/1").is_file());
        assert_eq!(tree.place_of(b"pg_tblspc/16385/PG_17/1"), top.path().join("space/PG_17/1"));
        tree.link_tablespaces().unwrap();
        assert_eq!(
            std::fs::read_link(top.path().join("data/pg_tblspc/16385")).unwrap(),
            top.path().join("space")
        );
    }
}
