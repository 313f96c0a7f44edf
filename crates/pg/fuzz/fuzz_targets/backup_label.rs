//! Backup labels and backup history files: whatever parses is written to the same contents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walden_pg::{BackupHistory, BackupLabel};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(label) = BackupLabel::parse(bytes) {
        assert_eq!(BackupLabel::parse(label.to_string().as_bytes()), Ok(label));
    }
    if let Ok(history) = BackupHistory::parse(bytes) {
        assert_eq!(BackupHistory::parse(history.to_string().as_bytes()), Ok(history));
    }
});
