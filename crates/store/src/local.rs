//! A local directory as an object store: atomic, durable, and honest about both.
//!
//! object_store has a `LocalFileSystem`, which publishes atomically and can fsync. It is not used, because an
//! archive needs more than that:
//!
//! - "Already there" must mean "already durable". A writer that was killed between publishing and fsync leaves a
//!   name that a crash of the machine can still take away; whoever then answers "already stored" acknowledges it.
//!   Here a create that finds its name taken fsyncs the file and every directory up to the root before it says so.
//! - A directory made by another process may not be durable yet either: every put fsyncs the whole chain up to
//!   the root, not only what it made itself.
//! - Listings are in the order of the keys, as everywhere else, so that they can go on after a given key.
//! - Staged files left behind by a crash are removed by a later writer instead of lying there for ever.
//!
//! Publication: a staged file in the same directory, written and fsynced, then `link(2)` to its name, which fails
//! if the name is taken; where there are no hard links, `renameat2(RENAME_NOREPLACE)`. Nothing half-written is
//! ever seen under a key, and an error on the way (a full disk) leaves nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};

use crate::rate::RateLimiter;

/// Names that begin like this are staged files; they are never listed and no key may have one.
const STAGED: &str = ".walden-staged-";
/// A staged file this much older than the newest one belongs to a writer that is gone.
const STAGED_AGE_MAX: Duration = Duration::from_hours(24);
/// Backups hold everything that the database holds: they are for their owner to write and for its group to read.
const FILE_MODE: u32 = 0o640;
/// The same for directories.
const DIRECTORY_MODE: u32 = 0o750;
/// How much of a file is read at once.
const READ_BYTES: u64 = 256 << 10;
/// How often a put makes its directories anew when a concurrent removal takes them away.
const DIRECTORY_TRIES: u32 = 16;

/// The directory that is the repository is not there.
#[derive(Debug, thiserror::Error)]
#[error("the directory does not exist")]
pub(crate) struct RootMissing;

/// The first byte asked for is behind the end of the object.
#[derive(Debug, thiserror::Error)]
#[error("the object has only {0} bytes")]
pub(crate) struct BehindEnd(u64);

/// Objects as files below one directory.
#[derive(Debug)]
pub(crate) struct LocalStore {
    root: Arc<PathBuf>,
    limiter: Option<RateLimiter>,
}

impl std::fmt::Display for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local directory {}", self.root.display())
    }
}

/// An error that carries the system's own.
fn generic(source: io::Error) -> Error {
    Error::Generic { store: "local directory", source: Box::new(source) }
}

/// Runs file operations where they may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(source) => Err(Error::JoinError { source }),
    }
}

impl LocalStore {
    /// The store at `root`; what is written and read goes at the limit's rate.
    pub(crate) fn new(root: PathBuf, limiter: Option<RateLimiter>) -> Self {
        Self { root: Arc::new(root), limiter }
    }

    /// Makes the root, durably, with everything above it that is missing.
    pub(crate) fn create_root(root: &FsPath) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut directory = root;
        while !directory.try_exists()? {
            missing.push(directory);
            match directory.parent() {
                Some(parent) => directory = parent,
                None => break,
            }
        }
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(root)?;
        for made in missing.into_iter().rev() {
            sync_directory(made)?;
            made.parent().map_or(Ok(()), sync_directory)?;
        }
        Ok(())
    }

    fn file(&self, location: &Path) -> Result<PathBuf> {
        file_of(&self.root, location)
    }
}

fn file_of(root: &FsPath, location: &Path) -> Result<PathBuf> {
    let reserved = location.parts().any(|part| part.as_ref().starts_with(STAGED));
    if reserved || location.as_ref().is_empty() {
        let path = location.to_string();
        let source = object_store::path::Error::InvalidPath { path: PathBuf::from(path) };
        return Err(Error::InvalidPath { source });
    }
    Ok(root.join(location.as_ref()))
}

impl LocalStore {
    /// What is read, at the limit's rate.
    fn paced(&self, stream: BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Bytes>> {
        let Some(limiter) = self.limiter.clone() else { return stream };
        let paced = stream.and_then(move |bytes| {
            let limiter = limiter.clone();
            async move {
                limiter.take(bytes.len() as u64).await;
                Ok(bytes)
            }
        });
        paced.boxed()
    }
}

impl LocalStore {
    /// Staged files below `directory` whose writers are gone, with their paths relative to `root` and their times. How old
    /// they are is judged by the file system's own clock.
    pub(crate) fn staged_files(
        root: &FsPath,
        directory: &FsPath,
    ) -> io::Result<Vec<(String, jiff::Timestamp)>> {
        let now = fresh_file_time(root)?;
        let (mut found, mut open) = (Vec::new(), vec![directory.to_path_buf()]);
        while let Some(directory) = open.pop() {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    open.push(entry.path());
                } else if is_abandoned(&entry.file_name(), &metadata, now)
                    && let Ok(path) = entry.path().strip_prefix(root)
                    && let (Some(path), Ok(modified)) = (path.to_str(), metadata.modified())
                {
                    found.push((path.to_owned(), jiff::Timestamp::try_from(modified).unwrap_or_default()));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes what [`Self::staged_files`] gave, if it still is such a file.
    pub(crate) fn remove_staged(root: &FsPath, key: &str) -> io::Result<()> {
        let path = root.join(key);
        let now = fresh_file_time(root)?;
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata?,
        };
        let inside =
            !FsPath::new(key).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if !inside || !path.file_name().is_some_and(|name| is_abandoned(name, &metadata, now)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file that a writer left behind"));
        }
        fs::remove_file(&path)?;
        path.parent().map_or(Ok(()), sync_directory)
    }
}

/// What time it is for the file system that holds `root`.
fn fresh_file_time(root: &FsPath) -> io::Result<SystemTime> {
    Staged::create(root, root)?.file.metadata()?.modified()
}

/// Is it a staged file that a writer, by its age, will not come back to?
fn is_abandoned(name: &OsStr, metadata: &Metadata, now: SystemTime) -> bool {
    let staged = metadata.is_file() && name.to_string_lossy().starts_with(STAGED);
    let modified = metadata.modified();
    staged && modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > STAGED_AGE_MAX))
}

/// What a failed write means: that there is no repository, or what the system says.
fn not_written(root: &FsPath, location: &str, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound && matches!(root.try_exists(), Ok(false)) {
        return Error::NotFound { path: location.to_owned(), source: Box::new(RootMissing) };
    }
    generic(error)
}

/// Turns "no such file" into what it means: no object, or no repository at all.
fn not_found(root: &FsPath, location: &str, error: io::Error) -> Error {
    let missing = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    );
    if !missing {
        return generic(error);
    }
    let path = location.to_owned();
    match root.try_exists() {
        Ok(true) => Error::NotFound { path, source: Box::new(error) },
        Ok(false) => Error::NotFound { path, source: Box::new(RootMissing) },
        Err(error) => generic(error),
    }
}

fn sync_directory(directory: &FsPath) -> io::Result<()> {
    sync(&File::open(directory)?, directory)
}

/// The one way to make something durable, so that tests can see what was.
fn sync(file: &File, path: &FsPath) -> io::Result<()> {
    file.sync_all()?;
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(path.to_path_buf()));
    #[cfg(not(test))]
    let _ = path;
    Ok(())
}

/// Fsyncs `directory` and all above it up to and including `root`.
fn sync_chain(root: &FsPath, directory: &FsPath) -> io::Result<()> {
    for directory in directory.ancestors() {
        sync_directory(directory)?;
        if directory == root {
            break;
        }
    }
    Ok(())
}

/// Makes the directories between `root` and `directory`; the root itself is never made.
fn make_directories(root: &FsPath, directory: &FsPath) -> io::Result<()> {
    let below: Vec<_> = directory.ancestors().take_while(|ancestor| *ancestor != root).collect();
    for directory in below.into_iter().rev() {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Ok(()) => give_to_owner(root, directory)?,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Gives what root has made to the owner of the repository: a backup taken by root must not lock out the server's
/// own account.
fn give_to_owner(root: &FsPath, made: &FsPath) -> io::Result<()> {
    if fs::symlink_metadata(made)?.uid() != 0 {
        return Ok(());
    }
    let owner = fs::metadata(root)?;
    if owner.uid() == 0 { Ok(()) } else { lchown(made, Some(owner.uid()), Some(owner.gid())) }
}

/// A staged file that is removed unless it is published.
struct Staged {
    path: PathBuf,
    file: File,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After publication by link this takes away the second name, after one by rename there is nothing left.
        let _ = fs::remove_file(&self.path);
    }
}

impl Staged {
    fn create(root: &FsPath, directory: &FsPath) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut tries = 0;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{STAGED}{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path) {
                Ok(file) => {
                    let staged = Self { path, file };
                    give_to_owner(root, &staged.path)?;
                    return Ok(staged);
                }
                // A process of the same number left it there.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < DIRECTORY_TRIES => {
                    tries += 1;
                    match make_directories(root, directory) {
                        // A removal took a directory that had just been made: once more.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        made => made?,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the file its name, unless that is taken.
    fn publish_new(&self, name: &FsPath) -> io::Result<()> {
        match fs::hard_link(&self.path, name) {
            Err(error) if has_no_links(&error) => rename_no_replace(&self.path, name),
            result => result,
        }
    }
}

/// Does the error say that the file system has no hard links?
fn has_no_links(error: &io::Error) -> bool {
    use nix::libc;
    error
        .raw_os_error()
        .is_some_and(|code| [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS, libc::EMLINK].contains(&code))
}

#[cfg(target_os = "linux")]
fn rename_no_replace(from: &FsPath, to: &FsPath) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn rename_no_replace(_: &FsPath, _: &FsPath) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the file system has no hard links"))
}

/// Removes what writers that are gone left in `directory`, by the file system's own clock.
fn remove_abandoned(directory: &FsPath, ours: &File) -> io::Result<()> {
    let now = ours.metadata()?.modified()?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // Most entries are objects, which need no look at their times.
        if !name.to_string_lossy().starts_with(STAGED) {
            continue;
        }
        if entry.metadata().is_ok_and(|metadata| is_abandoned(&name, &metadata, now)) {
            tracing::info!(path = %entry.path().display(), "removing a file that an interrupted writer left");
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A put on its way.
struct Put {
    root: Arc<PathBuf>,
    location: String,
    file: PathBuf,
    mode: PutMode,
}

impl Put {
    fn directory(&self) -> &FsPath {
        self.file.parent().unwrap_or(&self.root)
    }

    /// Looks whether the name is free, and makes a file for the bytes.
    fn begin(&self) -> Result<Staged> {
        match self.file.symlink_metadata() {
            Ok(found) if found.is_dir() => return Err(generic(io::ErrorKind::IsADirectory.into())),
            Ok(_) if self.mode == PutMode::Create => return Err(self.taken()),
            _ => {}
        }
        Staged::create(&self.root, self.directory()).map_err(|error| self.failed(error))
    }

    /// Makes what was written durable, and gives it its name.
    fn finish(&self, staged: Staged) -> Result<PutResult> {
        sync(&staged.file, &staged.path).map_err(generic)?;
        let directory = self.directory();
        // Tidiness must never stand in the way of a write.
        if let Err(error) = remove_abandoned(directory, &staged.file) {
            tracing::debug!(%error, directory = %directory.display(), "could not look for abandoned files");
        }
        let e_tag = Some(e_tag(&staged.file.metadata().map_err(generic)?));
        match self.mode {
            PutMode::Create => match staged.publish_new(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(self.taken()),
                result => result.map_err(|error| self.failed(error))?,
            },
            PutMode::Overwrite => {
                fs::rename(&staged.path, &self.file).map_err(|error| self.failed(error))?;
            }
            PutMode::Update(_) => return Err(not_implemented("conditional update")),
        }
        drop(staged);
        sync_chain(&self.root, directory).map_err(generic)?;
        Ok(PutResult { e_tag, version: None, extensions: Extensions::default() })
    }

    fn failed(&self, error: io::Error) -> Error {
        not_written(&self.root, &self.location, error)
    }

    fn taken(&self) -> Error {
        taken(&self.root, &self.location, &self.file)
    }

    fn whole(&self, payload: &PutPayload) -> Result<PutResult> {
        let mut staged = self.begin()?;
        for part in payload {
            staged.file.write_all(part).map_err(generic)?;
        }
        self.finish(staged)
    }

    /// The same, piece by piece at the limit's rate; no thread waits meanwhile.
    async fn paced(self, payload: PutPayload, limiter: &RateLimiter) -> Result<PutResult> {
        let put = Arc::new(self);
        let begun = Arc::clone(&put);
        let mut staged = blocking(move || begun.begin()).await?;
        for mut part in payload {
            while !part.is_empty() {
                let piece = part.split_to(part.len().min(limiter.piece_bytes()));
                limiter.take(piece.len() as u64).await;
                staged = blocking(move || {
                    staged.file.write_all(&piece).map_err(generic)?;
                    Ok(staged)
                })
                .await?;
            }
        }
        blocking(move || put.finish(staged)).await
    }
}

/// The name is taken: makes sure that what stands there will survive a crash, then says so.
fn taken(root: &FsPath, location: &str, file: &FsPath) -> Error {
    let synced = File::open(file).and_then(|open| sync(&open, file));
    match synced.and_then(|()| sync_chain(root, file.parent().unwrap_or(root))) {
        Ok(()) => {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            Error::AlreadyExists { path: location.to_owned(), source: Box::new(source) }
        }
        Err(error) => generic(error),
    }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "local directory".to_owned() }
}

/// As in object_store: changes whenever the file is replaced.
fn e_tag(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{:x}-{:x}-{:x}", metadata.ino(), modified.unwrap_or_default().as_micros(), metadata.size())
}

fn meta(location: Path, metadata: &Metadata) -> Result<ObjectMeta> {
    let last_modified = metadata.modified().map_err(generic)?.into();
    Ok(ObjectMeta {
        location,
        last_modified,
        size: metadata.len(),
        e_tag: Some(e_tag(metadata)),
        version: None,
    })
}

/// Opens an object and decides which of its bytes were asked for.
fn open(
    root: &FsPath,
    file: &FsPath,
    location: Path,
    options: &GetOptions,
) -> Result<(File, ObjectMeta, Range<u64>)> {
    let opened = File::open(file).map_err(|error| not_found(root, location.as_ref(), error))?;
    let metadata = opened.metadata().map_err(generic)?;
    if !metadata.is_file() {
        return Err(not_found(root, location.as_ref(), io::ErrorKind::IsADirectory.into()));
    }
    let meta = meta(location, &metadata)?;
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        None => 0..meta.size,
        Some(range) => range.as_range(meta.size).map_err(|_| {
            let source = Box::new(BehindEnd(meta.size));
            Error::Generic { store: "local directory", source }
        })?,
    };
    Ok((opened, meta, range))
}

/// Reads a part of a file; less than asked for only at its end.
fn read_at(file: &File, range: &Range<u64>) -> Result<Bytes> {
    let wanted = usize::try_from((range.end - range.start).min(READ_BYTES)).unwrap_or_default();
    let mut buffer = vec![0; wanted];
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, range.start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(generic(error)),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

fn read_stream(file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let file = Arc::new(file);
    futures::stream::try_unfold((file, range), |(file, mut range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let (shared, part) = (Arc::clone(&file), range.clone());
        let bytes = blocking(move || read_at(&shared, &part)).await?;
        range.start += bytes.len() as u64;
        // A file that became shorter ends here; the reader compares lengths.
        Ok((!bytes.is_empty()).then_some((bytes, (file, range))))
    })
    .boxed()
}

/// One entry of a directory. Orders as its keys do: a directory stands where its name with a `/` would.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: String,
    size_and_tag: Option<(u64, String, SystemTime)>,
}

impl Entry {
    fn is_directory(&self) -> bool {
        self.key.ends_with('/')
    }

    fn meta(self) -> Result<ObjectMeta> {
        let location = Path::parse(&self.key)?;
        let (size, e_tag, modified) = self.size_and_tag.unwrap_or((0, String::new(), std::time::UNIX_EPOCH));
        Ok(ObjectMeta { location, last_modified: modified.into(), size, e_tag: Some(e_tag), version: None })
    }
}

/// The entries of one directory whose keys begin with `prefix` (empty, or ending in `/`), in order. A directory
/// that is not there has none, unless it is the root.
fn read_directory(root: &FsPath, prefix: &str) -> Result<Vec<Entry>> {
    let directory = root.join(prefix);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) => {
            return match not_found(root, prefix, error) {
                Error::NotFound { source, .. } if !source.is::<RootMissing>() => Ok(Vec::new()),
                error => Err(error),
            };
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(generic)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.chars().any(char::is_control)) else {
            tracing::warn!(path = %entry.path().display(), "passing over a file whose name can't be a key");
            continue;
        };
        if name.starts_with(STAGED) {
            continue;
        }
        // Follows links; what vanished meanwhile, or points nowhere, is not there.
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(generic(error)),
        };
        if metadata.is_dir() {
            found.push(Entry { key: format!("{prefix}{name}/"), size_and_tag: None });
        } else if metadata.is_file() {
            let modified = metadata.modified().map_err(generic)?;
            let size_and_tag = Some((metadata.len(), e_tag(&metadata), modified));
            found.push(Entry { key: format!("{prefix}{name}"), size_and_tag });
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Could anything under this entry come after `offset`?
fn is_after(entry: &Entry, offset: &str) -> bool {
    entry.key.as_str() > offset || (entry.is_directory() && offset.starts_with(&entry.key))
}

fn walk(
    root: Arc<PathBuf>,
    prefix: String,
    offset: Option<String>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    // A stack of what is still to come, the next at its end; one directory at a time is read.
    let first = vec![Entry { key: prefix, size_and_tag: None }];
    futures::stream::try_unfold((root, first, offset), |(root, mut stack, offset)| async move {
        loop {
            let Some(entry) = stack.pop() else { return Ok(None) };
            if entry.size_and_tag.is_some() {
                return Ok(Some((entry.meta()?, (root, stack, offset))));
            }
            let (at, after) = (Arc::clone(&root), offset.clone());
            let entries = blocking(move || {
                let mut entries = read_directory(&at, &entry.key)?;
                entries.retain(|entry| after.as_deref().is_none_or(|after| is_after(entry, after)));
                Ok(entries)
            })
            .await?;
            stack.extend(entries.into_iter().rev());
        }
    })
    .boxed()
}

fn with_slash(prefix: Option<&Path>) -> String {
    match prefix {
        Some(prefix) if !prefix.as_ref().is_empty() => format!("{prefix}/"),
        _ => String::new(),
    }
}

/// Removes files; one result for each, in their order. Then makes durable that they are gone: one fsync for each
/// directory that stays.
fn delete_batch(root: &FsPath, locations: Vec<Path>) -> Vec<Result<Path>> {
    let mut changed = BTreeSet::new();
    let mut results = Vec::with_capacity(locations.len());
    for location in locations {
        let removed = delete(root, &location, &mut changed);
        results.push(removed.map(|()| location));
    }
    for directory in changed {
        match sync_directory(&directory) {
            // Another removal has taken the directory, and told its parent.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(()) => {}
            Err(error) => {
                let below = |result: &Result<Path>| {
                    result.as_ref().is_ok_and(|location| root.join(location.as_ref()).starts_with(&directory))
                };
                for result in results.iter_mut().filter(|result| below(result)) {
                    *result = Err(generic(io::Error::new(error.kind(), error.to_string())));
                }
            }
        }
    }
    results
}

/// Removes one file and the directories that are empty without it, and notes the directory that has changed.
fn delete(root: &FsPath, location: &Path, changed: &mut BTreeSet<PathBuf>) -> Result<()> {
    let file = file_of(root, location)?;
    fs::remove_file(&file).map_err(|error| not_found(root, location.as_ref(), error))?;
    // A prefix without objects is no prefix: empty directories go, as far up as they are empty. Should a writer be about
    // to make a file there, it makes the directory anew.
    let mut kept = file.parent();
    while let Some(directory) = kept.filter(|directory| *directory != root) {
        if fs::remove_dir(directory).is_err() {
            break;
        }
        changed.remove(directory);
        kept = directory.parent();
    }
    changed.extend(kept.map(FsPath::to_path_buf));
    Ok(())
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (root, file, location) = (Arc::clone(&self.root), self.file(location)?, location.to_string());
        let put = Put { root, location, file, mode: opts.mode };
        match &self.limiter {
            Some(limiter) => put.paced(payload, limiter).await,
            None => blocking(move || put.whole(&payload)).await,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (root, file, location) = (Arc::clone(&self.root), self.file(location)?, location.clone());
        let head = options.head;
        let (file, meta, range) = blocking(move || open(&root, &file, location, &options)).await?;
        let stream = if head {
            futures::stream::empty().boxed()
        } else {
            self.paced(read_stream(file, range.clone()))
        };
        let payload = GetResultPayload::Stream(stream);
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Attributes::new(),
            extensions: Extensions::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions::new().with_range(Some(range.clone()));
            parts.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(parts)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let root = Arc::clone(&self.root);
        locations
            .try_chunks(crate::remove::LOCAL_KEYS_MAX)
            .then(move |locations| {
                let root = Arc::clone(&root);
                async move {
                    let locations = locations.map_err(|error| error.1)?;
                    let results = blocking(move || Ok(delete_batch(&root, locations))).await?;
                    Ok::<_, Error>(futures::stream::iter(results))
                }
            })
            .try_flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        walk(Arc::clone(&self.root), with_slash(prefix), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        walk(Arc::clone(&self.root), with_slash(prefix), Some(offset.to_string()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (root, prefix) = (Arc::clone(&self.root), with_slash(prefix));
        let entries = blocking(move || read_directory(&root, &prefix)).await?;
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        for entry in entries {
            if entry.is_directory() {
                common_prefixes.push(Path::parse(&entry.key)?);
            } else {
                objects.push(entry.meta()?);
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("copy"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(not_implemented("rename"))
    }
}

#[cfg(test)]
mod tests;
