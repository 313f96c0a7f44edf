//! Small immutable objects, kept in the state directory so that they are not fetched again.
//!
//! Only what a listing has just shown, with its size and its time, is looked for here: the objects decide what exists.
//! A file that is not what it says is ignored and written anew. Everything in here may be lost at any moment.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use walden_store::Listed;

use crate::context::Context;

/// The directory below the state directory.
const DIRECTORY: &str = "catalog";
/// Larger objects are not kept, in bytes.
const OBJECT_BYTES_MAX: usize = 1 << 20;
/// With so many files in it the directory is emptied before the next one is written.
const FILES_MAX: usize = 2048;
/// The first bytes of every file.
const MAGIC: &[u8] = b"WALDENC1";
const HASH_BYTES: usize = 32;

/// The kept objects of one repository; without a state directory there are none.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    directory: Option<PathBuf>,
    identity: String,
}

impl Kept {
    pub(crate) fn of(ctx: &Context) -> Self {
        let directory = ctx.state_directory.as_ref().map(|state| state.join(DIRECTORY));
        Self { directory, identity: ctx.store.identity() }
    }

    /// What the object is, by all that the listing tells of it and by where it is.
    fn name(&self, listed: &Listed) -> [u8; HASH_BYTES] {
        let mut hash = Sha256::new();
        for part in [&self.identity, &listed.key, &listed.bytes.to_string(), &listed.modified.to_string()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn file(&self, name: [u8; HASH_BYTES]) -> Option<PathBuf> {
        use std::fmt::Write;
        let mut text = String::new();
        for byte in name.iter().take(16) {
            let _ = write!(text, "{byte:02x}");
        }
        Some(self.directory.as_ref()?.join(text))
    }

    /// The object's bytes, if they are kept and whole.
    pub(crate) fn get(&self, listed: &Listed) -> Option<Bytes> {
        let name = self.name(listed);
        let path = self.file(name)?;
        let metadata = std::fs::symlink_metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > (OBJECT_BYTES_MAX + MAGIC.len() + 2 * HASH_BYTES) as u64 {
            return None;
        }
        let file = Bytes::from(std::fs::read(&path).ok()?);
        let rest = file.strip_prefix(MAGIC)?.strip_prefix(name.as_slice())?;
        let (hash, bytes) = rest.split_at_checked(HASH_BYTES)?;
        let whole = hash == Sha256::digest(bytes).as_slice() && bytes.len() as u64 == listed.bytes;
        whole.then(|| file.slice_ref(bytes))
    }

    /// Keeps an object's bytes. Failing to only means that they will be fetched again.
    pub(crate) fn put(&self, listed: &Listed, bytes: &Bytes) {
        let name = self.name(listed);
        let (Some(directory), Some(path)) = (&self.directory, self.file(name)) else { return };
        if bytes.len() > OBJECT_BYTES_MAX || bytes.len() as u64 != listed.bytes {
            return;
        }
        let hash = Sha256::digest(bytes);
        let file = [MAGIC, name.as_slice(), hash.as_slice(), bytes.as_ref()].concat();
        if let Err(error) = write(directory, &path, &file) {
            tracing::debug!(%error, path = %path.display(), "an object could not be kept");
        }
    }

    /// Forgets everything; how many files that were.
    pub(crate) fn clear(&self) -> u64 {
        let Some(directory) = &self.directory else { return 0 };
        empty(directory)
    }
}

fn empty(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| u64::from(std::fs::remove_file(entry.path()).is_ok())).sum()
}

fn write(directory: &Path, path: &Path, file: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    if std::fs::read_dir(directory)?.count() >= FILES_MAX {
        empty(directory);
    }
    let staged = path.with_extension(format!("{}", std::process::id()));
    std::fs::write(&staged, file)?;
    std::fs::rename(&staged, path)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn kept(directory: &Path) -> Kept {
        Kept { directory: Some(directory.join(DIRECTORY)), identity: "s3://bucket".into() }
    }

    fn listed(key: &str, bytes: u64) -> Listed {
        Listed { key: key.into(), bytes, modified: Timestamp::from_second(1_800_000_000).unwrap() }
    }

    #[test]
    fn what_is_kept_comes_back_for_the_very_same_object_alone() {
        let directory = tempfile::tempdir().unwrap();
        let kept = kept(directory.path());
        let (object, bytes) = (listed("main/a", 5), Bytes::from_static(b"plain"));
        assert_eq!(kept.get(&object), None);
        kept.put(&object, &bytes);
        assert_eq!(kept.get(&object), Some(bytes.clone()));
        let later = Listed { modified: Timestamp::from_second(1_800_000_001).unwrap(), ..object.clone() };
        for other in [listed("main/b", 5), listed("main/a", 6), later] {
            assert_eq!(kept.get(&other), None, "{other:?}");
        }
        assert_eq!(Kept { identity: "s3://other".into(), ..kept.clone() }.get(&object), None);
        // Of another length than listed: not kept.
        kept.put(&listed("main/c", 4), &bytes);
        assert_eq!(kept.get(&listed("main/c", 4)), None);
        assert_eq!(kept.clear(), 1);
        assert_eq!(kept.get(&object), None);
    }

    #[test]
    fn a_file_that_is_damaged_is_ignored_and_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let kept = kept(directory.path());
        let (object, bytes) = (listed("main/a", 5), Bytes::from_static(b"plain"));
        kept.put(&object, &bytes);
        let file = kept.file(kept.name(&object)).unwrap();
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&file, bad).unwrap();
            assert_eq!(kept.get(&object), None, "byte {at}");
        }
        std::fs::write(&file, &good[..good.len() - 1]).unwrap();
        assert_eq!(kept.get(&object), None);
        kept.put(&object, &bytes);
        assert_eq!(kept.get(&object), Some(bytes));
    }

    #[test]
    fn there_are_only_so_many() {
        let directory = tempfile::tempdir().unwrap();
        let kept = kept(directory.path());
        for number in 0..FILES_MAX + 10 {
            kept.put(&listed(&format!("main/{number}"), 1), &Bytes::from_static(b"x"));
        }
        assert!(kept.clear() <= FILES_MAX as u64);
    }
}
