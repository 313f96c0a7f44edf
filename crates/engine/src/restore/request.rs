//! What a restore is asked to do.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use walden_core::{NameError, Setting};

/// How long `--start` waits for the target unless told otherwise.
pub const START_TIMEOUT: Duration = Duration::from_hours(24);

/// Where a restore puts things, and what it writes besides the plan's settings.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The new data directory: absent, or empty.
    pub pgdata: PathBuf,
    /// New places for tablespaces; one that is not named goes back to its old absolute path.
    pub tablespace_mapping: Vec<TablespaceMapping>,
    /// Directories that replay may take for tablespaces created after the backup, although something is in them.
    pub allow_tablespaces: Vec<PathBuf>,
    /// How many files are written at once; `None` takes one per core.
    pub jobs: Option<NonZeroUsize>,
    /// The whole command line for `restore_command`, with `%f` and `%p`, unquoted.
    pub restore_command: String,
    /// More settings for the restored server, written after the plan's.
    pub settings: Vec<Setting>,
    /// Whether the restored server archives.
    pub archive_mode: ArchiveMode,
    /// The copy is a drill's, and nothing outside of its directories may be written: replay may create no tablespace.
    pub drill: bool,
    /// Starts the server and waits for the target.
    pub start: Option<StartOptions>,
}

/// What becomes of `archive_mode` in a restored server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveMode {
    /// It stays as the backup has it when nothing but one `walden wal push` archives, which refuses to archive into
    /// the source's archive; else, and when that can't be told, it is switched off.
    #[default]
    Auto,
    /// It stays as the backup has it, whatever archives.
    Preserve,
    /// It is switched off.
    Off,
}

/// A new place for one tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// Its old path, or its OID in decimal.
    pub from: String,
    /// Its new, absolute path.
    pub to: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = NameError;

    /// Reads `OLD=NEW` as pg_basebackup does: a `=` that belongs to a path has a backslash before it.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = vec![String::new()];
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            let part = match (character, rest.peek()) {
                ('\\', Some('=')) => rest.next(),
                ('=', _) => {
                    parts.push(String::new());
                    None
                }
                _ => Some(character),
            };
            if let (Some(part), Some(last)) = (part, parts.last_mut()) {
                last.push(part);
            }
        }
        match parts.as_slice() {
            [from, to] if !from.is_empty() && to.starts_with('/') => {
                Ok(Self { from: from.clone(), to: PathBuf::from(to) })
            }
            _ => Err(NameError {
                what: "tablespace mapping",
                value: text.chars().take(128).collect(),
                rule: "write OLD=NEW, with the old path or the OID, and an absolute new path",
            }),
        }
    }
}

/// How to start the restored server.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The directory of the server's programs; `None` looks in PATH and where distributions put them.
    pub bin_directory: Option<PathBuf>,
    /// The port; `None` leaves it to the configuration.
    pub port: Option<u16>,
    /// The directory of the socket; `None` leaves it to the configuration.
    pub socket_directory: Option<PathBuf>,
    /// How long to wait for the target.
    pub timeout: Duration,
    /// More settings for the server's command line, for as long as it runs.
    pub settings: Vec<Setting>,
    /// The role to ask as; `None` tries the owner of the data directory, then `postgres`.
    pub user: Option<String>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            bin_directory: None,
            port: None,
            socket_directory: None,
            timeout: START_TIMEOUT,
            settings: Vec::new(),
            user: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_as_pg_basebackup_reads_them() {
        let mapping =
            |text: &str| text.parse::<TablespaceMapping>().map(|m| (m.from, m.to.display().to_string()));
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(mapping("/old=/new").unwrap(), pair("/old", "/new"));
        assert_eq!(mapping("16385=/new").unwrap(), pair("16385", "/new"));
        assert_eq!(mapping(r"/o\=ld=/n\=ew\x").unwrap(), pair("/o=ld", r"/n=ew\x"));
        for bad in ["", "/old", "/old=new", "=/new", "/a=/b=/c", "/old="] {
            assert!(mapping(bad).is_err(), "{bad:?}");
        }
    }
}
