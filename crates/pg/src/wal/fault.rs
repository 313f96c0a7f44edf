//! What can be wrong with WAL.

use crate::error::Error;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// Why bytes are not the WAL that should be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The page does not begin with a proper header.
    #[error("bad page header")]
    PageHeader(#[source] Error),
    /// The page says that it belongs elsewhere.
    #[error("the page belongs at another position: found={found}")]
    PageAddress {
        /// The position in its header.
        found: Lsn,
    },
    /// The page is of a timeline that cannot be here: newer than the segment's, or older than the page
    /// before.
    #[error("the page is of the wrong timeline: found={found}")]
    PageTimeline {
        /// The timeline in its header.
        found: TimelineId,
    },
    /// The page was written by another major version than the segment's first.
    #[error("the page is of another major version: found={found}")]
    PageMajor {
        /// The version in its header.
        found: u64,
    },
    /// The segment's first page has a short header, or another page has a long one.
    #[error("the page's header has the wrong length")]
    PageHeaderLength,
    /// The segment was written by another server.
    #[error("the segment is of another system: found={found}")]
    SystemIdentifier {
        /// The system identifier in its header.
        found: u64,
    },
    /// The segment is of a server with another segment size.
    #[error("the segment is of a server with another segment size: found={found}")]
    SegmentSize {
        /// The segment size in its header, in bytes.
        found: u64,
    },
    /// There are more bytes than a segment has.
    #[error("the file is longer than a segment")]
    TooLong,
    /// A record was cut off by the page's end, and this page does not go on with it.
    #[error("the page does not go on with the record that began before it")]
    MissingContinuation,
    /// The page goes on with a record, but none was cut off before it.
    #[error("the page goes on with a record that did not begin before it")]
    UnexpectedContinuation,
    /// The page goes on with a record of another length.
    #[error("the page goes on with a record of another length: expected={expected} found={found}")]
    ContinuationLength {
        /// The bytes that the record still lacks.
        expected: u32,
        /// The bytes that the page says are lacking.
        found: u32,
    },
    /// The record's length is impossible.
    #[error("impossible record length: found={found}")]
    RecordLength {
        /// The length in its header, in bytes.
        found: u32,
    },
    /// No such resource manager exists in this version.
    #[error("unknown resource manager: found={found}")]
    ResourceManager {
        /// The number in the record's header.
        found: u8,
    },
    /// The record does not point back to the one before it.
    #[error("the record does not follow the one before it: expected={expected} found={found}")]
    PreviousRecord {
        /// Where the record before begins; for the first record read, its own position, which the
        /// other must be below.
        expected: Lsn,
        /// Where the record says that it begins.
        found: Lsn,
    },
    /// The record does not match its checksum.
    #[error("the record does not match its checksum: stored={stored:08X} computed={computed:08X}")]
    Checksum {
        /// The CRC-32C in its header.
        stored: u32,
        /// The CRC-32C of its bytes.
        computed: u32,
    },
    /// The record matches its checksum, but its parts do not add up.
    #[error("the record's parts do not add up, {what}")]
    Layout {
        /// The part.
        what: &'static str,
    },
    /// WAL ends here, and yet goes on further down in the same segment.
    #[error("nothing is here, but the segment goes on: resumes_at={resumes_at}")]
    Hole {
        /// The first page that is as it should be.
        resumes_at: Lsn,
    },
}
