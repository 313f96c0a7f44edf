//! The crate's one error type.

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Longest piece of foreign text that an error repeats, in characters.
const MAX_QUOTED_CHARS: usize = 80;

/// Why a name, a number or a file's bytes were not accepted.
///
/// Foreign text is repeated in shortened form only, so an error is always small.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not an LSN in PostgreSQL's `X/Y` form.
    #[error("not an LSN: text={text:?}")]
    InvalidLsn {
        /// The text, shortened.
        text: String,
    },
    /// The number or text is not a timeline: timelines start at 1.
    #[error("not a timeline: text={text:?}")]
    InvalidTimeline {
        /// The text, shortened.
        text: String,
    },
    /// The text is not a system identifier, which is a decimal number of 64 bits.
    #[error("not a system identifier: text={text:?}")]
    InvalidSystemId {
        /// The text, shortened.
        text: String,
    },
    /// The major version is not one of those supported.
    #[error("unsupported PostgreSQL major version: major={major}")]
    UnsupportedMajor {
        /// The major version asked for.
        major: u64,
    },
    /// The segment size is not a power of two between 1 MiB and 1 GiB.
    #[error("not a WAL segment size (a power of two from 1 MiB to 1 GiB): bytes={bytes}")]
    InvalidSegmentSize {
        /// The size asked for, in bytes.
        bytes: u64,
    },
    /// The text is not the name of a segment: 24 upper-case hexadecimal digits.
    #[error("not a segment name: text={text:?}")]
    InvalidSegmentName {
        /// The text, shortened.
        text: String,
    },
    /// The segment name cannot occur with this segment size.
    #[error("segment name does not fit the segment size: name={name} segment_size={segment_size}")]
    SegmentNameOutOfRange {
        /// The name.
        name: String,
        /// The segment size, in bytes.
        segment_size: u64,
    },
    /// The text is no name that PostgreSQL gives to a file that it archives.
    #[error("not the name of an archived file: text={text:?}")]
    InvalidFileName {
        /// The text, shortened.
        text: String,
    },
}

/// `text`, cut to what an error may repeat.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().nth(MAX_QUOTED_CHARS).is_none() {
        return text.to_owned();
    }
    text.chars().take(MAX_QUOTED_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_repeat_only_a_piece_of_long_text() {
        let long = "é".repeat(10_000);
        assert_eq!(quoted(&long).chars().count(), MAX_QUOTED_CHARS + 1);
        assert_eq!(quoted("short"), "short");
    }
}
