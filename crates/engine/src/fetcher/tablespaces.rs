//! The tablespaces that replay would create in a restored copy.
//!
//! Replay of CREATE TABLESPACE links `pg_tblspc/<oid>` to the very path that the source used
//! (`create_tablespace_directories` in `src/backend/commands/tablespace.c`), whatever was mapped at the restore. On
//! the source's own host that is the directory of a running server, and the copy would write into it. `wal get` sees
//! every record before it is replayed: here such a segment is held back.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walden_core::ErrorKind;
use walden_pg::wal::{OnDamage, Payload, Record, SegmentOutcome, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, Oid, SegmentName, WalSegmentSize};

use crate::data_directory::DataDirectory;
use crate::error::{EngineError, Result};

/// How much of a segment is read at once, in bytes.
const READ_BYTES: usize = 256 << 10;
/// A record of CREATE TABLESPACE is shorter, in bytes: its path has at most `MAXPGPATH` (1024).
const RECORD_BYTES_MAX: u32 = 4096;

/// Stands between the archive and the replay of a restored copy.
#[derive(Debug)]
pub(super) struct ReplayGuard {
    pgdata: PathBuf,
    allowed: Vec<PathBuf>,
    /// Nothing outside of the copy may be taken.
    strict: bool,
    segment_size: WalSegmentSize,
}

/// A tablespace that a segment creates.
#[derive(Debug, PartialEq, Eq)]
struct Created {
    lsn: Lsn,
    oid: Oid,
    path: PathBuf,
}

impl ReplayGuard {
    /// A guard for a directory that was restored; `None` for every other: a server and its standbys create
    /// tablespaces where they want them.
    ///
    /// # Errors
    /// When the marker of the restore is there and can't be read.
    pub(super) fn of(data: &DataDirectory, segment_size: WalSegmentSize) -> Result<Option<Self>> {
        let marker = data.restored_marker()?;
        Ok(marker.map(|marker| Self {
            pgdata: data.path().to_owned(),
            allowed: marker.allowed_tablespaces.into_iter().map(PathBuf::from).collect(),
            strict: marker.drill,
            segment_size,
        }))
    }

    /// Looks through the segment in `file`, which is to become one of `directory` (`pg_wal`).
    ///
    /// # Errors
    /// Of kind `conflict` when replay would take a directory that is in use; `local_io`.
    pub(super) fn check(&self, segment: SegmentName, file: &Path, directory: &Path) -> Result<()> {
        for created in self.created(segment, file, directory)? {
            self.judge(segment, &created)?;
        }
        Ok(())
    }

    /// Whether there is nothing in the segment for a guard to look at, whatever came before it: no tablespace is created
    /// in it, and no record that could create one reaches into it.
    ///
    /// # Errors
    /// `local_io`, and when the name can't be one of this segment size.
    pub(super) fn finds_nothing(
        segment_size: WalSegmentSize,
        segment: SegmentName,
        file: &Path,
    ) -> Result<bool> {
        let mut found = Vec::new();
        let outcome = scan(&mut scanner(segment_size), segment, file, &mut found)?;
        Ok(found.is_empty() && !straddles(&outcome))
    }

    fn created(&self, segment: SegmentName, file: &Path, directory: &Path) -> Result<Vec<Created>> {
        let mut found = Vec::new();
        let outcome = scan(&mut scanner(self.segment_size), segment, file, &mut found)?;
        // What begins in the segment before: recovery keeps that until it has replayed this one.
        if straddles(&outcome)
            && let Some(previous) = self.previous(segment, directory)?
        {
            let mut scanner = scanner(self.segment_size);
            // What it creates itself was judged when it was fetched.
            let _ = scan(&mut scanner, previous, &directory.join(previous.to_string()), &mut Vec::new())?;
            found.clear();
            let _ = scan(&mut scanner, segment, file, &mut found)?;
        }
        Ok(found)
    }

    /// The segment before this one in `pg_wal`: of the same timeline, or of the newest one before it.
    fn previous(&self, segment: SegmentName, directory: &Path) -> Result<Option<SegmentName>> {
        let Some(number) = segment.id(self.segment_size).ok().and_then(|id| id.number.previous()) else {
            return Ok(None);
        };
        let failed = |source| EngineError::local("list", directory, source);
        let mut newest: Option<SegmentName> = None;
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.parse::<SegmentName>().ok()) else {
                continue;
            };
            if name.id(self.segment_size).is_ok_and(|id| id.number == number)
                && name.timeline() <= segment.timeline()
                && newest.is_none_or(|newest| newest.timeline() < name.timeline())
            {
                newest = Some(name);
            }
        }
        Ok(newest)
    }

    fn judge(&self, segment: SegmentName, created: &Created) -> Result<()> {
        let path = &created.path;
        // A relative one lies in the data directory itself.
        if !path.is_absolute() || self.allowed.contains(path) {
            return Ok(());
        }
        if self.strict && !path.starts_with(&self.pgdata) {
            let message = format!(
                "replay would take a directory outside of the drill: CREATE TABLESPACE in this WAL segment={segment} \
                 path={} oid={} lsn={}",
                path.display(),
                created.oid,
                created.lsn
            );
            return Err(EngineError::failed(ErrorKind::Unsupported, message).with_hint(
                "the tablespace is younger than the backup: take a backup, whose tablespaces a drill gives places of \
                 its own",
            ));
        }
        let why = match std::fs::read_dir(path).and_then(|mut entries| entries.next().transpose()) {
            // PostgreSQL itself wants a directory that is there and empty.
            Ok(None) => return Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Ok(Some(_)) if self.is_own(path)? => return Ok(()),
            Ok(Some(_)) => "is not empty on this host".to_owned(),
            Err(error) => format!("can't be looked at ({error})"),
        };
        let (shown, oid, lsn) = (path.display(), created.oid, created.lsn);
        let message = format!(
            "replay would take a directory that may be another server's: CREATE TABLESPACE in this WAL uses a path \
             that {why} segment={segment} path={shown} oid={oid} lsn={lsn}"
        );
        let hint = format!(
            "nothing was replayed from this segment: restore on another host, or to an earlier target; or, when no \
             server uses that directory, or the target lies before {lsn}, restore again with walden restore \
             --allow-tablespace {shown}"
        );
        Err(EngineError::failed(ErrorKind::Conflict, message).with_hint(hint))
    }

    /// Whether this cluster has the directory as a tablespace already, from the restore or from a replay before.
    fn is_own(&self, path: &Path) -> Result<bool> {
        let resolved = |path: &Path| {
            std::fs::canonicalize(path).map_err(|source| EngineError::local("resolve", path, source))
        };
        let wanted = resolved(path)?;
        let links = self.pgdata.join("pg_tblspc");
        let failed = |source| EngineError::local("list", &links, source);
        for entry in std::fs::read_dir(&links).map_err(failed)? {
            let link = entry.map_err(failed)?.path();
            // One that leads nowhere is not this one.
            if std::fs::canonicalize(&link).is_ok_and(|own| own == wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn scanner(segment_size: WalSegmentSize) -> WalScanner {
    // Recovery stops at damage; whatever lies behind it is looked at all the same.
    WalScanner::new(WalScannerOptions {
        on_damage: OnDamage::Resync,
        max_kept_bytes: RECORD_BYTES_MAX as usize,
        ..WalScannerOptions::new(segment_size)
    })
}

/// Whether a record that creates a tablespace may begin in the segment before the one that was scanned.
fn straddles(outcome: &SegmentOutcome) -> bool {
    outcome.is_damaged() || (1..=RECORD_BYTES_MAX).contains(&outcome.skipped_head)
}

fn scan(
    scanner: &mut WalScanner,
    segment: SegmentName,
    file: &Path,
    found: &mut Vec<Created>,
) -> Result<SegmentOutcome> {
    let format = |source| EngineError::Format { what: segment.to_string(), source };
    scanner.begin_segment(segment).map_err(format)?;
    let mut sink = |record: &Record<'_>| found.extend(created_by(record));
    let failed = |source| EngineError::local("read", file, source);
    let mut input = File::open(file).map_err(failed)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        scanner.feed(buffer.get(..count).unwrap_or_default(), &mut sink);
    }
    Ok(scanner.finish_segment(&mut sink))
}

fn created_by(record: &Record<'_>) -> Option<Created> {
    // What can't be decoded, recovery can't replay either.
    let Ok(Payload::TablespaceCreate(create)) = record.payload() else { return None };
    let path = PathBuf::from(OsStr::from_bytes(create.path));
    Some(Created { lsn: record.lsn, oid: create.tablespace, path })
}

#[cfg(test)]
pub(super) mod tests;
