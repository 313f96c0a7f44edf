//! The exit codes: one enum, one table, documented in `docs/cli.md`.
//!
//! PostgreSQL reads meaning into them (`src/backend/postmaster/pgarch.c`,
//! `src/backend/access/transam/xlogarchive.c`):
//! - `archive_command` above 125 ends the archiver process and is not counted in `pg_stat_archiver`, so every code
//!   of the enum is at most 125;
//! - `restore_command` from 1 to 125 means "not in the archive", and in archive recovery that is the end of WAL:
//!   the server promotes. So `wal get` adds 200 to every failure that is not a proven absence (see
//!   [`crate::hook`]).

use std::process::ExitCode;

use walden_core::ErrorKind;

/// How a run of walden ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done, or proven to have been done already.
    Done = 0,
    /// `wal get` only: the file is proven not to be in the archive.
    Absent = 1,
    /// The command line is not understood.
    Usage = 2,
    /// The configuration is wrong or incomplete.
    Config = 10,
    /// What was asked for is not there.
    NotFound = 11,
    /// Another object stands under the same name with other bytes.
    Conflict = 12,
    /// The data belongs to another PostgreSQL system.
    WrongServer = 13,
    /// Stored or local bytes are damaged.
    Corrupt = 14,
    /// The store or server can't be reached: try again later.
    Unavailable = 15,
    /// Credentials or rights were refused.
    Denied = 16,
    /// A file is not what PostgreSQL would archive.
    Invalid = 17,
    /// A local file operation failed.
    LocalIo = 18,
    /// PostgreSQL answered with an error or could not be connected to.
    Postgres = 19,
    /// Something that this version does not know.
    Unsupported = 20,
    /// A defect in walden.
    Internal = 21,
    /// The recovery target can't be reached.
    Target = 22,
    /// A signal ended the work.
    Interrupted = 23,
    /// `check` ran and found problems.
    ProblemsFound = 24,
    /// `restore --start`: the server stopped elsewhere than the plan said.
    StoppedElsewhere = 25,
    /// `agent status` and `agent stop`: no agent runs.
    NoAgent = 26,
    /// `verify`: something in the archive is damaged or missing.
    DamageFound = 27,
    /// `verify`: nothing wrong was found, but not everything that was asked for could be proven.
    NotProven = 28,
    /// Another run does this very thing now.
    Busy = 29,
    /// What was to be removed must stay.
    MustStay = 30,
}

/// The code of a process that nobody waits for. Orphans become children of process 1, which may be the postmaster, or of
/// a postmaster that was made to reap them; and to that one every code above 1 of a child it does not know is a crash,
/// after which it ends all sessions and recovers (`CleanupBackend` in `src/backend/postmaster/postmaster.c`).
pub(crate) const fn code_of_an_orphan(code: u8) -> u8 {
    if code > 1 { 1 } else { code }
}

/// Added to a failure of `wal get` that must stop recovery.
const STOP_RECOVERY: u8 = 200;

impl Exit {
    /// All of them, in order of their codes.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 24] = [
        Self::Done,
        Self::Absent,
        Self::Usage,
        Self::Config,
        Self::NotFound,
        Self::Conflict,
        Self::WrongServer,
        Self::Corrupt,
        Self::Unavailable,
        Self::Denied,
        Self::Invalid,
        Self::LocalIo,
        Self::Postgres,
        Self::Unsupported,
        Self::Internal,
        Self::Target,
        Self::Interrupted,
        Self::ProblemsFound,
        Self::StoppedElsewhere,
        Self::NoAgent,
        Self::DamageFound,
        Self::NotProven,
        Self::Busy,
        Self::MustStay,
    ];

    /// The code.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The code of a `wal get` that must not be mistaken for the end of the archive: above 200 for failures, the
    /// plain code for what is done or proven absent. Never 143, which PostgreSQL takes for a shutdown.
    pub(crate) const fn code_in_archive_recovery(self) -> u8 {
        match self {
            Self::Done | Self::Absent => self.code(),
            failure => STOP_RECOVERY + failure.code(),
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::WrongServer => Self::WrongServer,
            ErrorKind::Corrupt => Self::Corrupt,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Config => Self::Config,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Target => Self::Target,
            ErrorKind::LocalIo => Self::LocalIo,
            ErrorKind::Postgres => Self::Postgres,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::MustStay => Self::MustStay,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_never_ends_above_125_and_no_code_is_used_twice() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert!(codes.iter().all(|code| *code <= 125));
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
        assert!(codes.is_sorted());
    }

    #[test]
    fn an_orphan_never_ends_as_what_a_postmaster_takes_for_a_crash() {
        for exit in Exit::ALL {
            let code = code_of_an_orphan(exit.code());
            assert_eq!(code, u8::from(exit != Exit::Done), "{exit:?}");
        }
    }

    #[test]
    fn in_archive_recovery_only_absence_is_in_the_range_that_postgres_takes_for_absence() {
        for exit in Exit::ALL {
            let code = exit.code_in_archive_recovery();
            match exit {
                Exit::Done => assert_eq!(code, 0),
                Exit::Absent => assert_eq!(code, 1),
                _ => assert!(code > 200 && code != 143, "{exit:?} {code}"),
            }
        }
    }

    #[test]
    fn no_kind_of_error_is_taken_for_success_absence_or_usage() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Conflict,
            ErrorKind::WrongServer,
            ErrorKind::Corrupt,
            ErrorKind::Unavailable,
            ErrorKind::Denied,
            ErrorKind::Config,
            ErrorKind::Invalid,
            ErrorKind::Target,
            ErrorKind::LocalIo,
            ErrorKind::Postgres,
            ErrorKind::Unsupported,
            ErrorKind::Busy,
            ErrorKind::MustStay,
            ErrorKind::Internal,
        ] {
            assert!(Exit::from(kind).code() >= 10, "{kind}");
        }
    }
}
