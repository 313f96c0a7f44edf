//! What a history needs of the program that archives it.

use std::path::{Path, PathBuf};

use walden_pg::{Lsn, TimelineId};

use crate::postgres::{PgServer, PgServerBuilder, Result};

/// A base backup that a history has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupTaken {
    /// Its name in the archive.
    pub id: String,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Recovery reads WAL from here.
    pub start_lsn: Lsn,
    /// Recovery is consistent from here.
    pub stop_lsn: Lsn,
    /// The transactions of the backup itself, which leave no row.
    pub transactions: Vec<u64>,
    /// The unpacked data directory, with nothing in it of a recovery's settings.
    pub template: PathBuf,
}

/// The archive of one server, by the program under test or by a plain copy.
pub trait Archive: Sync {
    /// Gives a server the settings with which it archives here.
    #[must_use]
    fn archiving(&self, builder: PgServerBuilder) -> PgServerBuilder;

    /// Gives a server the variables that its archive command needs.
    #[must_use]
    fn environment(&self, builder: PgServerBuilder) -> PgServerBuilder;

    /// Prepares the archive for a server that was just started.
    ///
    /// # Errors
    /// Whatever the program says.
    fn created(&self, server: &PgServer) -> Result<()>;

    /// Lets a restored data directory archive, before its server is started.
    ///
    /// # Errors
    /// Whatever the program says.
    fn adopt(&self, data: &Path) -> Result<()>;

    /// Takes a base backup of a running server and unpacks it below `templates`.
    ///
    /// # Errors
    /// Whatever the program says.
    fn backup(&self, server: &PgServer, templates: &Path) -> Result<BackupTaken>;

    /// Brings archived segments and history files that are not there yet into a directory, as recovery wants them.
    ///
    /// # Errors
    /// Whatever the program says.
    fn unpack_wal(&self, into: &Path) -> Result<()>;
}
