//! What a verb can fail with.

use std::io;
use std::path::{Path, PathBuf};

use walden_core::{EnvelopeError, ErrorKind, NameError, Refusal, SealedError, SegmentFault};
use walden_store::StoreError;

/// The result of everything fallible in this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An error of a verb: a kind to act on, a sentence to read, and mostly a hint what to do next.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A local file operation failed.
    #[error("cannot {action} path={} reason={source}", path.display())]
    Local {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// PostgreSQL could not be asked, or refused.
    #[error("cannot {action}: {message}")]
    Postgres {
        /// What was tried, as a verb.
        action: &'static str,
        /// What the server or the connection said.
        message: String,
        /// What was said underneath.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    /// A file handed to us must not be archived.
    #[error("refused to archive: {0}")]
    Segment(#[from] SegmentFault),
    /// The recovery target can't be reached.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// A name does not fit the repository's layout.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A record in the repository is damaged, foreign, or newer than this version.
    #[error("cannot use {what}")]
    Record {
        /// The object.
        what: String,
        /// What is wrong with it.
        #[source]
        source: EnvelopeError,
    },
    /// A sealed object is damaged, foreign, or newer than this version.
    #[error("cannot use {what}")]
    Sealed {
        /// The object.
        what: String,
        /// What is wrong with it.
        #[source]
        source: SealedError,
    },
    /// Bytes of PostgreSQL's are not what they should be.
    #[error("cannot read {what}")]
    Format {
        /// The file.
        what: String,
        /// What is wrong with it.
        #[source]
        source: walden_pg::Error,
    },
    /// Anything else, with its kind.
    #[error("{message}")]
    Failed {
        /// What sort of thing went wrong.
        kind: ErrorKind,
        /// What happened.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
}

impl EngineError {
    /// An error of the operating system on a path.
    #[must_use]
    pub fn local(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Local { action, path: path.to_owned(), source }
    }

    /// An error with its kind and no more structure.
    #[must_use]
    pub fn failed(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Failed { kind, message: message.into(), hint: None }
    }

    /// Adds what to do next, where there is room for it.
    #[must_use]
    pub fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Failed { kind, message, .. } => Self::Failed { kind, message, hint: Some(text.into()) },
            other => other,
        }
    }

    /// What sort of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Local { .. } => ErrorKind::LocalIo,
            Self::Postgres { .. } => ErrorKind::Postgres,
            Self::Segment(fault) if fault.is_foreign() => ErrorKind::WrongServer,
            Self::Segment(_) => ErrorKind::Invalid,
            Self::Refused(_) => ErrorKind::Target,
            Self::Name(_) => ErrorKind::Config,
            Self::Record { source, .. } if source.is_unknown_schema() => ErrorKind::Unsupported,
            Self::Sealed { source, .. } if source.is_unsupported() => ErrorKind::Unsupported,
            Self::Record { .. } | Self::Sealed { .. } | Self::Format { .. } => ErrorKind::Corrupt,
            Self::Failed { kind, .. } => *kind,
        }
    }

    /// What to do next, when that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint().map(ToString::to_string),
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Failed { hint, .. } => hint.clone(),
            Self::Local { source, .. } => local_hint(source).map(str::to_owned),
            Self::Segment(fault) if fault.is_foreign() => {
                Some("archive it under another --server, or let it in with walden server adopt".to_owned())
            }
            Self::Segment(_) => {
                Some("the file was left alone; look at pg_wal and at the disk below it".to_owned())
            }
            // Nothing here overwrites it: that is for whoever has looked at it.
            Self::Record { what, source } if what.ends_with("incarnation.json") && !source.is_unknown_schema() => Some(
                "put an older version of this one object back, or remove it and run walden init, which writes it anew and \
                 changes nothing else"
                    .to_owned(),
            ),
            Self::Record { source, .. } if source.is_unknown_schema() => {
                Some("use a newer version of walden".to_owned())
            }
            Self::Postgres { .. }
            | Self::Name(_)
            | Self::Record { .. }
            | Self::Sealed { .. }
            | Self::Format { .. } => None,
        }
    }
}

fn local_hint(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some("the disk is full: make room and try again"),
        io::ErrorKind::PermissionDenied => Some("run walden as the user that owns the data directory"),
        _ => None,
    }
}
