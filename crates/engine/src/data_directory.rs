//! A PostgreSQL data directory, looked at from outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walden_core::{BackupId, ErrorKind, Incarnation, ServerName};
use walden_pg::ControlFile;

use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// The file in a restored data directory that says where it came from: archiving from it into the same server
/// is refused until an operator adopts it.
pub const RESTORED_MARKER: &str = "walden.restored.json";

/// A pg_control that is being written is read again this many times, this far apart.
const CONTROL_READS_MAX: u32 = 20;
const CONTROL_READ_PAUSE: Duration = Duration::from_millis(10);

/// What [`RESTORED_MARKER`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredMarker {
    /// Schema of the file: 1.
    pub schema: u32,
    /// The repository it was restored from.
    pub repository_id: String,
    /// The server it was restored from.
    pub server: ServerName,
    /// The incarnation it was restored from.
    pub incarnation: Incarnation,
    /// The backup it was restored from.
    pub backup: BackupId,
    /// When.
    pub restored_at: Timestamp,
    /// Directories that replay may take for tablespaces it creates although something is in them: absolute paths.
    #[serde(default)]
    pub allowed_tablespaces: Vec<String>,
    /// It is a drill's: replay may create no tablespace at all, because nothing outside of the drill is written to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drill: bool,
}

/// Which kind of recovery the server in a data directory is told to do, by its signal files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryMode {
    /// No signal file.
    None,
    /// `recovery.signal`: the end of WAL ends recovery.
    Archive,
    /// `standby.signal`, which wins when both are there: the end of WAL means wait.
    Standby,
}

/// A data directory (PGDATA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDirectory {
    path: PathBuf,
}

impl DataDirectory {
    /// Takes a directory that holds `global/pg_control`.
    ///
    /// # Errors
    /// [`EngineError::Failed`] of kind `config` when it does not.
    pub fn open(path: &Path) -> Result<Self> {
        let control = path.join("global/pg_control");
        match control.try_exists() {
            Ok(true) => {
                let path = std::path::absolute(path)
                    .map_err(|source| EngineError::local("resolve", path, source))?;
                Ok(Self { path })
            }
            Ok(false) => Err(EngineError::failed(
                ErrorKind::Config,
                format!(
                    "not a PostgreSQL data directory, it has no global/pg_control path={}",
                    path.display()
                ),
            )
            .with_hint("name the data directory with --pgdata or PGDATA")),
            Err(source) => Err(EngineError::local("look at", &control, source)),
        }
    }

    /// The data directory that a `%p` belongs to: PostgreSQL runs its commands there with `%p` relative to it;
    /// pg_rewind and operators give absolute paths into its `pg_wal`. `None` when neither is one.
    #[must_use]
    pub fn of_wal_path(path: &Path, current_directory: &Path) -> Option<Self> {
        let file = current_directory.join(path);
        let around = file.parent().and_then(Path::parent);
        around.and_then(|directory| Self::open(directory).ok()).or_else(|| Self::open(current_directory).ok())
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `pg_control`; read again while the server is writing it.
    ///
    /// # Errors
    /// [`EngineError::Local`], or [`EngineError::Format`] when it stays unreadable.
    pub fn control(&self) -> Result<ControlFile> {
        let path = self.path.join("global/pg_control");
        let mut reads = 1;
        loop {
            let bytes = std::fs::read(&path).map_err(|source| EngineError::local("read", &path, source))?;
            match ControlFile::parse(&bytes) {
                Ok(control) => return Ok(control),
                Err(_) if reads < CONTROL_READS_MAX => {
                    reads += 1;
                    std::thread::sleep(CONTROL_READ_PAUSE);
                }
                Err(source) => return Err(EngineError::Format { what: path.display().to_string(), source }),
            }
        }
    }

    /// The incarnation that its `pg_control` names.
    ///
    /// # Errors
    /// As [`Self::control`].
    pub fn incarnation(&self) -> Result<Incarnation> {
        let control = self.control()?;
        Ok(Incarnation { system_id: control.system_id, major: control.major })
    }

    /// The kind of recovery that its signal files ask for.
    ///
    /// # Errors
    /// [`EngineError::Local`] when they can't be looked at.
    pub fn recovery_mode(&self) -> Result<RecoveryMode> {
        let has = |name: &str| {
            let path = self.path.join(name);
            path.try_exists().map_err(|source| EngineError::local("look at", &path, source))
        };
        Ok(if has("standby.signal")? {
            RecoveryMode::Standby
        } else if has("recovery.signal")? {
            RecoveryMode::Archive
        } else {
            RecoveryMode::None
        })
    }

    /// The marker that a restore left, if there is one.
    ///
    /// # Errors
    /// When it is there and can't be read: better refused than overlooked.
    pub fn restored_marker(&self) -> Result<Option<RestoredMarker>> {
        let path = self.path.join(RESTORED_MARKER);
        let Some(bytes) = read_if_present(&path, 1 << 16)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            EngineError::failed(
                ErrorKind::Corrupt,
                format!("the restore marker is not readable path={} reason={error}", path.display()),
            )
            .with_hint("walden server adopt replaces it, when this data directory may archive")
        })
    }

    /// Whether a `postmaster.pid` is there: the server runs, or ended without removing it.
    ///
    /// # Errors
    /// [`EngineError::Local`] when it can't be looked at.
    pub fn has_postmaster_pid(&self) -> Result<bool> {
        let path = self.path.join("postmaster.pid");
        path.try_exists().map_err(|source| EngineError::local("look at", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("global")).unwrap();
        std::fs::write(directory.path().join("global/pg_control"), b"x").unwrap();
        directory
    }

    #[test]
    fn the_data_directory_is_found_from_both_forms_of_a_wal_path() {
        let data = directory();
        let elsewhere = tempfile::tempdir().unwrap();
        let relative = DataDirectory::of_wal_path(Path::new("pg_wal/RECOVERYXLOG"), data.path()).unwrap();
        assert_eq!(relative.path(), data.path());
        let inside =
            DataDirectory::of_wal_path(Path::new("RECOVERYXLOG"), &data.path().join("pg_wal")).unwrap();
        assert_eq!(inside.path(), data.path());
        let absolute = data.path().join("pg_wal/000000010000000000000001");
        assert_eq!(DataDirectory::of_wal_path(&absolute, elsewhere.path()).unwrap().path(), data.path());
        assert!(DataDirectory::of_wal_path(Path::new("/x/y"), elsewhere.path()).is_none());
    }

    #[test]
    fn standby_signal_wins() {
        let data = directory();
        let opened = DataDirectory::open(data.path()).unwrap();
        assert_eq!(opened.recovery_mode().unwrap(), RecoveryMode::None);
        std::fs::write(data.path().join("recovery.signal"), b"").unwrap();
        assert_eq!(opened.recovery_mode().unwrap(), RecoveryMode::Archive);
        std::fs::write(data.path().join("standby.signal"), b"").unwrap();
        assert_eq!(opened.recovery_mode().unwrap(), RecoveryMode::Standby);
    }

    #[test]
    fn an_unreadable_marker_is_an_error_and_not_an_absence() {
        let data = directory();
        let opened = DataDirectory::open(data.path()).unwrap();
        assert_eq!(opened.restored_marker().unwrap(), None);
        std::fs::write(data.path().join(RESTORED_MARKER), b"{").unwrap();
        assert_eq!(opened.restored_marker().unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
