//! What can go wrong around a test server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// The result of everything fallible in this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a step with a test server failed.
///
/// `Debug` prints what `Display` does, with the causes, so that `unwrap` in a test shows a server's log
/// as lines and not as one escaped text.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine lacks something that the tests need.
    #[error("the test bench is incomplete")]
    Testbench(#[source] std::io::Error),
    /// A file operation failed.
    #[error("cannot {action}: path={}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed: status={status}\n{output}")]
    Program {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// The server ended where it should have run.
    #[error("the server ended: status={status}\n{log}")]
    ServerEnded {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("waited in vain for {what}: seconds={}\n{log}", waited.as_secs_f64())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// What may explain it: the last state seen, or the end of the server's log.
        log: String,
    },
    /// The call needs a running server, and this one is stopped; or the other way round.
    #[error("the server is {}running", if *running { "" } else { "not " })]
    WrongState {
        /// Whether it is running.
        running: bool,
    },
    /// The server refused a statement, or the connection failed.
    #[error("the server refused: sql={sql}")]
    Sql {
        /// The statement.
        sql: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// A statement's answer is not what was asked for.
    #[error("unexpected answer: sql={sql} answer={answer}")]
    Answer {
        /// The statement.
        sql: String,
        /// What came.
        answer: String,
    },
    /// A longer undertaking failed on its way.
    #[error("{so_far}\nthen it failed; the end of the server's log:\n{log}")]
    Undertaking {
        /// What was done before.
        so_far: String,
        /// The end of the server's log.
        log: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// A name or number from the server could not be understood.
    #[error("not understood from the server")]
    Format(#[from] walden_pg::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(formatter, "\n  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
