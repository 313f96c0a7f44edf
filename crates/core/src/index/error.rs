//! What can go wrong with an index.

/// Why an index could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// No segment of the server's size has such a name.
    #[error("the segment's name does not fit the segment size")]
    SegmentName(#[source] walden_pg::Error),
    /// The bytes do not begin as an index does.
    #[error("not {what}")]
    Foreign {
        /// What was expected.
        what: &'static str,
    },
    /// A newer version wrote it.
    #[error("{what} needs a newer walden: schema={schema}")]
    Unsupported {
        /// What it is.
        what: &'static str,
        /// Its schema.
        schema: u8,
    },
    /// It is longer than any that is written.
    #[error("{what} is too large: bytes={bytes} max={max}")]
    TooLarge {
        /// What it is, or which part of it.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// A part is missing, cut off or not what it should be.
    #[error("{part} is not valid")]
    Damaged {
        /// The part.
        part: &'static str,
    },
}

/// A result with [`IndexError`].
pub(super) type Result<T> = std::result::Result<T, IndexError>;
