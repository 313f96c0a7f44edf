//! The pressure on pg_wal, as the files of a data directory tell of it.
//!
//! How it is judged: [`walden_core::judge_pressure`]. Here the numbers are collected: the segments that wait and those
//! that are archived from `pg_wal/archive_status` (`src/backend/access/transam/xlogarchive.c`: `.ready` is made when a
//! segment is finished, and renamed to `.done` when it is archived, which leaves its modification time alone), the room
//! from the file system of `pg_wal`.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use walden_core::{
    Pressure, PressureUnknown, WalMark, WalPressure, WalSample, WalSpace, judge_pressure, pressure_unknown,
    samples_of_marks,
};
use walden_pg::{SegmentName, WalSegmentSize};

use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// A sample is kept for each stretch of this length.
const SAMPLE_EVERY: Duration = Duration::from_secs(15);
/// So many samples are kept: six hours.
const SAMPLES_MAX: usize = 6 * 3600 / 15;

/// What pg_wal holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalDirectory {
    /// The segments that wait or were archived, as far as their files are still there.
    marks: Vec<WalMark>,
    /// Segments that wait.
    waiting: u64,
    /// The number of the newest finished segment; 0 when there is none.
    newest: u64,
    space: WalSpace,
}

impl WalDirectory {
    /// Looks at the pg_wal of a data directory.
    ///
    /// # Errors
    /// Of the operating system; files that vanish meanwhile are none.
    pub fn look(data: &Path, size: WalSegmentSize) -> io::Result<Self> {
        let wal = data.join("pg_wal");
        let mut marks = Vec::new();
        let mut waiting = 0;
        let mut newest: Option<SegmentName> = None;
        for entry in std::fs::read_dir(wal.join("archive_status"))? {
            let entry = entry?;
            let Some((name, archived)) = entry.file_name().to_str().and_then(status_file) else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let made_at = since_epoch(metadata.mtime(), metadata.mtime_nsec());
            let changed_at = since_epoch(metadata.ctime(), metadata.ctime_nsec());
            marks.push(WalMark { made_at, archived_at: archived.then_some(changed_at) });
            waiting += u64::from(!archived);
            newest = newest.max(Some(name));
        }
        let ahead = newest.map_or(Ok(0), |newest| ahead_of(&wal, newest))?;
        let system = statvfs(&wal).map_err(io::Error::from)?;
        let fragment = system.fragment_size();
        let space = WalSpace {
            free_bytes: system.blocks_available().saturating_mul(fragment),
            total_bytes: system.blocks().saturating_mul(fragment),
            ahead_bytes: ahead.saturating_mul(size.bytes()),
        };
        let newest = newest.and_then(|name| name.id(size).ok()).map_or(0, |id| id.number.get());
        Ok(Self { marks, waiting, newest, space })
    }

    /// The pressure as the dates of the files tell it.
    #[must_use]
    pub fn pressure(&self, now: Timestamp, size: WalSegmentSize) -> WalPressure {
        let now = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
        match samples_of_marks(&self.marks, now, size) {
            Ok(samples) if samples.is_empty() => judge_pressure(&[WalSample::default()], self.space, size),
            Ok(samples) => judge_pressure(&samples, self.space, size),
            Err(reason) => pressure_unknown(reason, self.waiting_bytes(size), self.space),
        }
    }

    fn waiting_bytes(&self, size: WalSegmentSize) -> u64 {
        self.waiting.saturating_mul(size.bytes())
    }

    /// What it says of the WAL, for one who looks again and again.
    fn sample(&self, at: Duration, size: WalSegmentSize) -> WalSample {
        let made_bytes = self.newest.saturating_mul(size.bytes());
        let waiting_bytes = self.waiting_bytes(size);
        WalSample { at, made_bytes, archived_bytes: made_bytes.saturating_sub(waiting_bytes), waiting_bytes }
    }
}

/// The pressure on the pg_wal of a data directory, judged once.
///
/// # Errors
/// [`EngineError::Local`] when the directory can't be looked at, and what reading its `pg_control` can give.
pub fn wal_pressure(data: &DataDirectory, now: Timestamp) -> Result<WalPressure> {
    let size = data.control()?.wal_segment_size;
    let looked = WalDirectory::look(data.path(), size);
    let looked =
        looked.map_err(|source| EngineError::local("look at", &data.path().join("pg_wal"), source))?;
    Ok(looked.pressure(now, size))
}

/// Looks at one pg_wal again and again, and so knows its rates however short the files live and whatever is done to the
/// clock.
#[derive(Debug)]
pub struct PressureWatch {
    data: PathBuf,
    size: WalSegmentSize,
    samples: VecDeque<WalSample>,
}

impl PressureWatch {
    /// A watch that has seen nothing yet.
    #[must_use]
    pub fn new(data: &Path, size: WalSegmentSize) -> Self {
        Self { data: data.to_owned(), size, samples: VecDeque::new() }
    }

    /// Looks, and judges by all that was seen. `at` is a moment on a clock that does not step; `now` is compared with the
    /// dates of files until enough was seen.
    ///
    /// # Errors
    /// As [`WalDirectory::look`].
    pub fn look(&mut self, at: Duration, now: Timestamp) -> io::Result<WalPressure> {
        let seen = WalDirectory::look(&self.data, self.size)?;
        let sample = seen.sample(at, self.size);
        let kept = self.samples.iter().rev().nth(1).map(|sample| sample.at);
        if kept.is_some_and(|kept| at.saturating_sub(kept) < SAMPLE_EVERY) {
            // The last one was only of its moment.
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
        let judged = judge_pressure(self.samples.make_contiguous(), seen.space, self.size);
        Ok(match judged.pressure {
            Pressure::Unknown { reason: PressureUnknown::TooShort } => seen.pressure(now, self.size),
            _ => judged,
        })
    }
}

/// The segment of a file in `archive_status`, and whether it is archived. Other files are small, and need no room.
fn status_file(file: &str) -> Option<(SegmentName, bool)> {
    let (name, archived) = match file.strip_suffix(".ready") {
        Some(name) => (name, false),
        None => (file.strip_suffix(".done")?, true),
    };
    Some((name.parse().ok()?, archived))
}

/// How many segments there are behind the one that is being written, which is the first behind the newest finished one.
fn ahead_of(wal: &Path, newest: SegmentName) -> io::Result<u64> {
    let mut behind: u64 = 0;
    for entry in std::fs::read_dir(wal)? {
        let name = entry?.file_name();
        let segment = name.to_str().and_then(|name| name.parse::<SegmentName>().ok());
        behind += u64::from(segment.is_some_and(|segment| segment > newest));
    }
    Ok(behind.saturating_sub(1))
}

fn since_epoch(seconds: i64, nanos: i64) -> Duration {
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).unwrap_or_default();
    Duration::new(u64::try_from(seconds).unwrap_or_default(), nanos)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::SystemTime;

    use super::*;

    const SEGMENT: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(SEGMENT).unwrap()
    }

    struct Wal(tempfile::TempDir);

    impl Wal {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(directory.path().join("pg_wal/archive_status")).unwrap();
            Self(directory)
        }

        fn name(number: u32) -> String {
            format!("0000000100000000{number:08X}")
        }

        fn segment(&self, number: u32) {
            File::create(self.0.path().join("pg_wal").join(Self::name(number))).unwrap();
        }

        fn ready(&self, number: u32, made_at: SystemTime) {
            let file = File::create(self.status(number, "ready")).unwrap();
            file.set_times(FileTimes::new().set_modified(made_at)).unwrap();
        }

        fn status(&self, number: u32, suffix: &str) -> PathBuf {
            self.0.path().join("pg_wal/archive_status").join(format!("{}.{suffix}", Self::name(number)))
        }

        fn done(&self, number: u32) {
            std::fs::rename(self.status(number, "ready"), self.status(number, "done")).unwrap();
        }

        fn look(&self) -> WalDirectory {
            WalDirectory::look(self.0.path(), size()).unwrap()
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    #[test]
    fn files_tell_what_waits_what_is_archived_and_what_is_made_ahead() {
        let wal = Wal::new();
        for number in 3..=9 {
            wal.segment(number);
        }
        for number in 3..=5 {
            wal.ready(number, at(number.into()));
        }
        wal.done(3);
        std::fs::write(wal.0.path().join("pg_wal/archive_status/00000002.history.ready"), b"").unwrap();
        std::fs::write(wal.0.path().join("pg_wal/archive_status/nonsense.ready"), b"").unwrap();
        let seen = wal.look();
        assert_eq!((seen.waiting, seen.newest, seen.marks.len()), (2, 5, 3));
        // 6 is being written; 7, 8 and 9 are there for later.
        assert_eq!(seen.space.ahead_bytes, 3 * SEGMENT);
        assert!(seen.space.total_bytes >= seen.space.free_bytes && seen.space.total_bytes > 0);
        let archived: Vec<_> = seen.marks.iter().filter(|mark| mark.archived_at.is_some()).collect();
        assert_eq!(archived.len(), 1);
        // Renaming left the time at which the segment was finished alone.
        assert_eq!(archived[0].made_at, Duration::from_secs(1_700_000_003));
        assert!(archived[0].archived_at > Some(archived[0].made_at));
    }

    #[test]
    fn a_growing_queue_is_told_from_the_dates_of_its_files() {
        let wal = Wal::new();
        for number in 0..60 {
            wal.ready(number, at(10 * u64::from(number)));
        }
        let now = Timestamp::try_from(at(600)).unwrap();
        let judged = wal.look().pressure(now, size());
        let Pressure::Fills { seconds } = judged.pressure else { panic!("{judged:?}") };
        assert_eq!(judged.waiting_bytes, 60 * SEGMENT);
        // A mebibyte each ten seconds.
        let expected = judged.room_bytes / SEGMENT * 10;
        assert!(seconds.abs_diff(expected) <= expected / 20, "{seconds} {expected}");
        let stepped = Timestamp::try_from(at(100)).unwrap();
        let unknown = Pressure::Unknown { reason: PressureUnknown::ClockStepped };
        assert_eq!(wal.look().pressure(stepped, size()).pressure, unknown);
    }

    #[test]
    fn an_idle_server_is_under_no_pressure() {
        let wal = Wal::new();
        let now = Timestamp::try_from(at(0)).unwrap();
        assert_eq!(wal.look().pressure(now, size()).pressure, Pressure::NotFilling);
    }

    #[test]
    fn a_watch_knows_rates_that_the_files_do_not_tell() {
        let wal = Wal::new();
        let mut watch = PressureWatch::new(wal.0.path(), size());
        // All dates are of one moment, long ago: files alone would tell of a queue that stands still.
        let mut judged = None;
        for minute in 0..10_u32 {
            for number in minute * 10..(minute + 1) * 10 {
                wal.ready(number, at(0));
            }
            if minute > 0 {
                wal.done(minute);
            }
            let now = Timestamp::try_from(at(100_000)).unwrap();
            judged = Some(watch.look(Duration::from_secs(60 * u64::from(minute)), now).unwrap());
        }
        let judged = judged.unwrap();
        assert!(matches!(judged.pressure, Pressure::Fills { .. }), "{judged:?}");
        assert_eq!(judged.made_bytes_per_second, Some(10 * SEGMENT / 60));
        assert_eq!(judged.archived_bytes_per_second, Some(SEGMENT / 60));
        assert_eq!(judged.over_seconds, Some(300));
    }

    #[test]
    fn a_watch_keeps_a_bounded_number_of_samples() {
        let wal = Wal::new();
        let mut watch = PressureWatch::new(wal.0.path(), size());
        for second in 0..600 {
            watch.look(Duration::from_secs(second), Timestamp::UNIX_EPOCH).unwrap();
        }
        assert!((40..=45).contains(&watch.samples.len()), "{}", watch.samples.len());
        assert_eq!(watch.samples.back().unwrap().at, Duration::from_secs(599));
    }
}
