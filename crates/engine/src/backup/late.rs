//! The files of a backup that come last: `global/pg_control`, and what `pg_backup_stop` returned.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use walden_core::{ErrorKind, ManifestEntry};
use walden_pg::ControlFile;

use super::collect::{FileFacts, Piece, file_entry};
use super::copy::{FrameMaker, Shared};
use super::postgres::StoppedBackup;
use super::reader::ReadError;
use super::scan::LateFile;
use crate::error::{EngineError, Result};

/// `pg_control` is read again this many times, this far apart, when it was caught half written.
const CONTROL_READS_MAX: u32 = 50;
const CONTROL_READ_PAUSE: Duration = Duration::from_millis(10);

/// The contents of a file that is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LateContents {
    pub(super) file: LateFile,
    pub(super) contents: Vec<u8>,
    pub(super) mode: u32,
    pub(super) modified: i64,
}

/// Reads `pg_control`, whole and with its checksum right.
///
/// # Errors
/// [`EngineError::Local`], and [`EngineError::Format`] when it stays damaged.
pub(super) fn read_control(root: &Path) -> Result<LateContents> {
    let path = root.join(LateFile::ControlFile.path());
    let mut reads = 1;
    loop {
        let contents = std::fs::read(&path).map_err(|source| EngineError::local("read", &path, source))?;
        match ControlFile::parse(&contents) {
            Ok(_) => {
                let metadata = std::fs::metadata(&path);
                let metadata = metadata.map_err(|source| EngineError::local("look at", &path, source))?;
                let (mode, modified) = (metadata.mode() & 0o777, metadata.mtime());
                return Ok(LateContents { file: LateFile::ControlFile, contents, mode, modified });
            }
            Err(_) if reads < CONTROL_READS_MAX => {
                reads += 1;
                std::thread::sleep(CONTROL_READ_PAUSE);
            }
            Err(source) => return Err(EngineError::Format { what: path.display().to_string(), source }),
        }
    }
}

/// The files that make a copy of the data directory a backup, exactly as the server returned them.
pub(super) fn label_files(stopped: &StoppedBackup, mode: u32, at: Timestamp) -> Vec<LateContents> {
    let modified = at.as_second();
    let file = |file, contents: &[u8]| LateContents { file, contents: contents.to_vec(), mode, modified };
    let mut files = vec![file(LateFile::BackupLabel, &stopped.label)];
    if !stopped.tablespace_map.is_empty() {
        files.push(file(LateFile::TablespaceMap, &stopped.tablespace_map));
    }
    files
}

/// Packs the late files; returns their manifest entries. Waits while the packs are full: not for async threads.
///
/// # Errors
/// Kind `internal` when compressing fails or the copy was stopped.
pub(super) fn pack_late_files(
    shared: &Arc<Shared>,
    level: walden_store::CompressionLevel,
    files: &[LateContents],
) -> Result<Vec<(LateFile, ManifestEntry)>> {
    let stopped = || {
        shared.take_error().unwrap_or_else(|| EngineError::failed(ErrorKind::Internal, "copying was stopped"))
    };
    let mut frames = FrameMaker::new(level)?;
    let mut entries = Vec::with_capacity(files.len());
    for file in files {
        let location = frames.place(&file.contents, &shared.packs).map_err(|error| match error {
            ReadError::Stopped => stopped(),
            ReadError::Failed(error) => error,
        })?;
        let bytes = file.contents.len() as u64;
        let (mode, modified) = (file.mode, file.modified);
        let sha256 = Sha256::digest(&file.contents).into();
        let facts = FileFacts { bytes, mode, modified, sha256, extents: 1 };
        let extents = vec![location.extent(Piece { item: 0, file_offset: 0, bytes, skip: 0 })];
        entries.push((file.file, file_entry(file.file.path().as_bytes(), &facts, extents)));
    }
    Ok(entries)
}
