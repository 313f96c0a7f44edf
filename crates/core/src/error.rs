//! Kinds of errors, shared by every layer above this one.

use serde::{Deserialize, Serialize};

/// What sort of thing went wrong: the part of an error that callers act on.
///
/// The set is small and prescriptive. Each kind has one exit code (`docs/cli.md`) and one word in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A repository, server, backup or object that was asked for is not there, and we could see that it is not.
    NotFound,
    /// Another object stands under the same name with other bytes; nothing was overwritten.
    Conflict,
    /// The data belongs to another PostgreSQL system than the one the repository was made for.
    WrongServer,
    /// Stored or local bytes are not what they say they are.
    Corrupt,
    /// The store or the server could not be reached, or did not answer in time: try again later.
    Unavailable,
    /// The store or the server refused our credentials or our rights.
    Denied,
    /// The configuration or the command line is wrong or incomplete.
    Config,
    /// A file handed to us is not what PostgreSQL would archive: wrong size, header or name.
    Invalid,
    /// The recovery target can't be reached; the refusal says why.
    Target,
    /// A local file operation failed: disk full, no permission, no such directory.
    LocalIo,
    /// PostgreSQL could not be connected to or answered with an error.
    Postgres,
    /// The store, the server or the object uses something that this version does not know.
    Unsupported,
    /// Another run does this very thing now: try again when it has ended.
    Busy,
    /// What was to be removed must stay.
    MustStay,
    /// A defect in Walden.
    Internal,
}

impl ErrorKind {
    /// The word used in JSON output and in documentation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::WrongServer => "wrong_server",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Config => "config",
            Self::Invalid => "invalid",
            Self::Target => "target",
            Self::LocalIo => "local_io",
            Self::Postgres => "postgres",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::MustStay => "must_stay",
            Self::Internal => "internal",
        }
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that the repository's layout can't hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} value={value:?}: {rule}")]
pub struct NameError {
    /// What the name was meant to be, such as "server name".
    pub what: &'static str,
    /// The rejected text, cut to 128 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        Self { what, value: value.chars().take(128).collect(), rule }
    }
}
