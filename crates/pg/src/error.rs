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
    /// A history file has a line that PostgreSQL would refuse.
    #[error("bad line in a timeline history file, {why}: line={line} text={text:?}")]
    InvalidHistory {
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
        /// The line, shortened.
        text: String,
    },
    /// A backup label or a backup history file lacks a line, or has it in another form.
    #[error("bad or missing line in a backup label: line={name:?} text={text:?}")]
    InvalidBackupLabel {
        /// What the line begins with.
        name: &'static str,
        /// The line found, shortened; empty if there is none.
        text: String,
    },
    /// A tablespace map has a line of another form than `<oid> <path>`, or is cut short.
    #[error("bad line in a tablespace map, {why}: line={line} text={text:?}")]
    InvalidTablespaceMap {
        /// The number of the entry, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
        /// The entry, shortened.
        text: String,
    },
    /// There are fewer bytes than the format needs.
    #[error("too short for {what}: need={need} have={have}")]
    TooShort {
        /// What was to be read.
        what: &'static str,
        /// The bytes it needs.
        need: usize,
        /// The bytes that are there.
        have: usize,
    },
    /// A field holds a value that PostgreSQL never writes there.
    #[error("impossible value in {what}: field={field} value={value}")]
    ImpossibleValue {
        /// What was read.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// `pg_control` is of a version of PostgreSQL that is not supported.
    #[error("pg_control of an unsupported version: control_version={control} catalog_version={catalog}")]
    UnsupportedControlFile {
        /// `pg_control_version`.
        control: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
    /// `pg_control` does not match its own checksum: it is damaged, or was read while the server wrote
    /// it. In a running server's data directory, read it again.
    #[error("pg_control does not match its checksum: stored={stored:08X} computed={computed:08X}")]
    ControlFileChecksum {
        /// The CRC-32C in the file.
        stored: u32,
        /// The CRC-32C of the file's bytes.
        computed: u32,
    },
    /// The bytes do not start with a WAL page header of a supported version.
    #[error("not a WAL page of a supported version: magic={magic:04X}")]
    UnknownPageMagic {
        /// The first two bytes.
        magic: u16,
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
