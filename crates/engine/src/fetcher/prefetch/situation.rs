//! What must stay the same for what was learnt of a recovery to hold.

use walden_core::Incarnation;
use walden_pg::WalSegmentSize;

use crate::data_directory::{DataDirectory, RecoveryMode};
use crate::error::Result;
use crate::fs::read_if_present;

/// `postmaster.pid` is never larger, in bytes.
const PID_FILE_BYTES_MAX: u64 = 64 << 10;

/// A recovery, as far as it can be told from others of the same data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Situation {
    pub(super) incarnation: Incarnation,
    pub(super) segment_size: WalSegmentSize,
    pub(super) mode: RecoveryMode,
    /// The process that recovers and when it began: the first and the third line of `postmaster.pid`
    /// (`src/include/utils/pidfile.h`).
    server: Option<(String, String)>,
}

impl Situation {
    /// Looks at the data directory.
    ///
    /// # Errors
    /// What a direct get would meet before it asks the store.
    pub(super) fn of(data: &DataDirectory) -> Result<Self> {
        let control = data.control()?;
        let pid_file = read_if_present(&data.path().join("postmaster.pid"), PID_FILE_BYTES_MAX);
        let server = pid_file.ok().flatten().and_then(|bytes| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mut lines = text.lines();
            Some((lines.next()?.to_owned(), lines.nth(1)?.to_owned()))
        });
        Ok(Self {
            incarnation: Incarnation { system_id: control.system_id, major: control.major },
            segment_size: control.wal_segment_size,
            mode: data.recovery_mode()?,
            server,
        })
    }
}
