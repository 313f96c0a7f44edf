//! The one error of the tasks: a message for the person who started the task.

use std::fmt;
use std::path::Path;

/// Why a task stopped.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// The result of everything fallible in the tasks.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// A failed file operation: what was tried, on which path, and what the system said.
    pub(crate) fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        Self(format!("cannot {action} {}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
