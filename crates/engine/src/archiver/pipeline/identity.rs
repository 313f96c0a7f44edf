//! Which file was read: what tells it from every other file, and from itself after a write.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// So old the stamps of a file must be by the clock before it is read. The kernel takes them from a clock that moves in
/// steps of up to 10 ms: a write so soon after another one may leave them as they are.
pub const STAMPS_SETTLED_AFTER: Duration = Duration::from_millis(20);

/// A file as `stat` tells of it. Two that are equal are the same file with the same bytes, if the stamps had settled
/// ([`FileIdentity::settles_in`]) when the bytes were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The number of the file system.
    pub device: u64,
    /// The number of the file in it.
    pub inode: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// When its contents were last written, in nanoseconds since 1970 (UTC).
    pub mtime_ns: i64,
    /// When anything of it was last changed, its names and its other stamps included, in nanoseconds since 1970 (UTC).
    pub ctime_ns: i64,
}

impl FileIdentity {
    /// Takes it from what `stat` or `fstat` answered.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let stamp = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            mtime_ns: stamp(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: stamp(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long to wait before reading, so that a later write shows in the stamps: zero for a file that was left alone
    /// for [`STAMPS_SETTLED_AFTER`]. Never longer than that: a stamp from the future, as a clock that was set back
    /// leaves it, waits no longer than a fresh one.
    #[must_use]
    pub fn settles_in(&self, now: SystemTime) -> Duration {
        let newest = u64::try_from(self.mtime_ns.max(self.ctime_ns)).unwrap_or_default();
        match now.duration_since(UNIX_EPOCH + Duration::from_nanos(newest)) {
            Ok(age) => STAMPS_SETTLED_AFTER.saturating_sub(age),
            Err(_) => STAMPS_SETTLED_AFTER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mtime_ns: i64, ctime_ns: i64) -> FileIdentity {
        FileIdentity { device: 1, inode: 2, bytes: 3, mtime_ns, ctime_ns }
    }

    #[test]
    fn fresh_stamps_are_waited_for_and_no_clock_makes_that_long() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let second = 1_000_000_000;
        let ms = |ms: u64| Duration::from_millis(ms);
        assert_eq!(at(999 * second, 998 * second).settles_in(now), ms(0));
        assert_eq!(at(999 * second, 1000 * second - 5_000_000).settles_in(now), ms(15));
        assert_eq!(at(1000 * second - 5_000_000, 1).settles_in(now), ms(15));
        // Set back by a day.
        assert_eq!(at(87_400 * second, 1).settles_in(now), ms(20));
        assert_eq!(at(i64::MIN, i64::MIN).settles_in(now), ms(0));
        assert_eq!(at(i64::MAX, 0).settles_in(now), ms(20));
        assert_eq!(at(i64::MAX, 0).settles_in(UNIX_EPOCH - Duration::from_secs(5)), ms(20));
    }

    #[test]
    fn every_change_of_a_file_shows() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        let look = || FileIdentity::of(&std::fs::metadata(&file).unwrap());
        std::fs::write(&file, b"one").unwrap();
        let first = look();
        assert_eq!(first, look());
        std::thread::sleep(STAMPS_SETTLED_AFTER);
        std::fs::write(&file, b"two").unwrap();
        let second = look();
        assert_eq!(first.bytes, second.bytes);
        assert_ne!(first, second);
        // The time of the last write can be set back; the other one can't.
        std::thread::sleep(STAMPS_SETTLED_AFTER);
        let opened = std::fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(UNIX_EPOCH + Duration::from_nanos(second.mtime_ns.unsigned_abs())).unwrap();
        assert_eq!(look().mtime_ns, second.mtime_ns);
        assert_ne!(look(), second);
        std::fs::rename(&file, directory.path().join("g")).unwrap();
        std::fs::write(&file, b"two").unwrap();
        assert_ne!(look().inode, second.inode);
    }
}
