//! A clock that steps, for the programs that are started with it: libfaketime, where it is installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::postgres::{Error, Result};

/// Where distributions put the library.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

const SHARED_MEMORY: &str = "/dev/shm";
/// What the library makes there for every process, before its number.
const LEFT_BEHIND: [&str; 2] = ["faketime_shm_", "sem.faketime_sem_"];

/// The clock of a server that can be set forward and back while it runs. Only the time of day is touched;
/// timers go on as before.
#[derive(Debug)]
pub struct SteppedClock {
    library: PathBuf,
    file: PathBuf,
    offset_ms: i64,
}

impl SteppedClock {
    /// A clock that is right, kept in a file of this directory, which the server's account must be able to read;
    /// `None` where the library is not installed.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn new(dir: &Path) -> Result<Option<Self>> {
        let Some(library) = LIBRARIES.iter().map(PathBuf::from).find(|path| path.is_file()) else {
            return Ok(None);
        };
        let mut clock = Self { library, file: dir.join("clock"), offset_ms: 0 };
        clock.step(0)?;
        Ok(Some(clock))
    }

    /// Sets the clock forward, or back, by milliseconds.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn step(&mut self, milliseconds: i64) -> Result<()> {
        self.offset_ms += milliseconds;
        let sign = if self.offset_ms < 0 { '-' } else { '+' };
        let size = self.offset_ms.unsigned_abs();
        let text = format!("{sign}{}.{:03}\n", size / 1000, size % 1000);
        // Renamed into place: a program may read it at any moment.
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, text).map_err(|e| Error::io("write", &fresh, e))?;
        fs::rename(&fresh, &self.file).map_err(|e| Error::io("rename", &fresh, e))
    }

    /// Removes what the library leaves behind for every program that was killed.
    fn sweep() {
        for entry in fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = LEFT_BEHIND.iter().find_map(|prefix| name.strip_prefix(prefix));
            let alive = |pid: &str| Path::new("/proc").join(pid).is_dir();
            if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !alive(pid)) {
                // Another test may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// How far it is off, in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms
    }

    /// The variables with which a program takes its time from this clock.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

impl Drop for SteppedClock {
    fn drop(&mut self) {
        Self::sweep();
    }
}
