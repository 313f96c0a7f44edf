//! May this file be archived? Decided from its name, its size and its first page, before anything is stored.

use walden_pg::{ArchiveFileName, Lsn, PgMajor, SystemId, TimelineId, WalSegmentSize};

use crate::records::IncarnationRecord;

/// What the first page of a segment says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// By the page's magic number.
    pub major: PgMajor,
    /// The system that wrote it.
    pub system_id: SystemId,
    /// The timeline on which the page was written; a parent's until the fork.
    pub timeline: TimelineId,
    /// The size that every segment of this system has.
    pub segment_size: WalSegmentSize,
    /// The address of the page, and so of the segment.
    pub page_address: Lsn,
}

/// A file that PostgreSQL wants archived.
#[derive(Debug, Clone, Copy)]
pub struct Incoming {
    /// Its name.
    pub name: ArchiveFileName,
    /// Its length in bytes.
    pub bytes: u64,
    /// For segments, partial ones too: what the first page says.
    pub facts: Option<SegmentFacts>,
}

/// Why a file is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    /// The first page is not a WAL page with a long header.
    #[error("its first page is not the start of a WAL segment name={name}")]
    NotWal {
        /// The file.
        name: ArchiveFileName,
    },
    /// The length differs from the segment size that the first page names.
    #[error(
        "it is torn: its length is not the segment size name={name} bytes={bytes} segment_size={segment_size}"
    )]
    WrongLength {
        /// The file.
        name: ArchiveFileName,
        /// Its length in bytes.
        bytes: u64,
        /// The segment size in bytes.
        segment_size: u64,
    },
    /// The name can't exist with this segment size.
    #[error("its name can't exist with this segment size name={name} segment_size={segment_size}")]
    ImpossibleName {
        /// The file.
        name: ArchiveFileName,
        /// The segment size in bytes.
        segment_size: u64,
    },
    /// The first page belongs to another place in the WAL: a renamed or recycled segment.
    #[error("it holds other WAL than its name says name={name} expected={expected} found={found}")]
    WrongAddress {
        /// The file.
        name: ArchiveFileName,
        /// The address that the name stands for.
        expected: Lsn,
        /// The address in the first page.
        found: Lsn,
    },
    /// The first page is of a later timeline than the name.
    #[error("it is of a later timeline than its name says name={name} found={found}")]
    LaterTimeline {
        /// The file.
        name: ArchiveFileName,
        /// The timeline in the first page.
        found: TimelineId,
    },
    /// Another system wrote it.
    #[error("it belongs to another system expected={expected} found={found}")]
    OtherSystem {
        /// The system that the repository knows.
        expected: SystemId,
        /// The system in the first page.
        found: SystemId,
    },
    /// Another major wrote it.
    #[error("it belongs to another PostgreSQL major expected={expected} found={found}")]
    OtherMajor {
        /// The major that the repository knows.
        expected: PgMajor,
        /// The major in the first page.
        found: PgMajor,
    },
    /// The system's segment size was changed after the repository was made.
    #[error("its segment size is not the one of this incarnation expected={expected} found={found}")]
    OtherSegmentSize {
        /// The size that the repository knows, in bytes.
        expected: u64,
        /// The size in the first page, in bytes.
        found: u64,
    },
}

impl SegmentFault {
    /// True when the file is sound and belongs to someone else; false when the file itself is wrong.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::OtherSystem { .. } | Self::OtherMajor { .. })
    }
}

/// The verdict on a file: it may be stored, or it must not and why.
pub type ArchiveVerdict = Result<(), SegmentFault>;

/// Judges a file by itself and, when it is known, by the incarnation that it would join.
///
/// History files and backup history files carry no facts of their own and pass; whose they are is settled by the
/// data directory that they come from.
///
/// # Errors
/// The [`SegmentFault`] found first.
pub fn judge_archive(incoming: &Incoming, incarnation: Option<&IncarnationRecord>) -> ArchiveVerdict {
    let name = incoming.name;
    let (ArchiveFileName::Segment(segment) | ArchiveFileName::Partial(segment)) = name else { return Ok(()) };
    let Some(facts) = incoming.facts else { return Err(SegmentFault::NotWal { name }) };
    let segment_size = facts.segment_size.bytes();
    if incoming.bytes != segment_size {
        return Err(SegmentFault::WrongLength { name, bytes: incoming.bytes, segment_size });
    }
    let Ok(expected) = segment.start_lsn(facts.segment_size) else {
        return Err(SegmentFault::ImpossibleName { name, segment_size });
    };
    if facts.page_address != expected {
        return Err(SegmentFault::WrongAddress { name, expected, found: facts.page_address });
    }
    if facts.timeline > segment.timeline() {
        return Err(SegmentFault::LaterTimeline { name, found: facts.timeline });
    }
    let Some(known) = incarnation else { return Ok(()) };
    if facts.system_id != known.system_id {
        return Err(SegmentFault::OtherSystem { expected: known.system_id, found: facts.system_id });
    }
    if facts.major != known.major {
        return Err(SegmentFault::OtherMajor { expected: known.major, found: facts.major });
    }
    if facts.segment_size != known.segment_size {
        return Err(SegmentFault::OtherSegmentSize {
            expected: known.segment_size.bytes(),
            found: segment_size,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::records::Writer;

    fn facts() -> SegmentFacts {
        SegmentFacts {
            major: PgMajor::new(17).unwrap(),
            system_id: SystemId::new(7),
            timeline: TimelineId::FIRST,
            segment_size: WalSegmentSize::new(16 << 20).unwrap(),
            page_address: Lsn::new(0x300_0000),
        }
    }

    fn incoming(name: &str, facts: SegmentFacts) -> Incoming {
        Incoming { name: name.parse().unwrap(), bytes: 16 << 20, facts: Some(facts) }
    }

    fn known() -> IncarnationRecord {
        IncarnationRecord {
            server: "main".parse().unwrap(),
            repository_id: "0".repeat(32),
            system_id: SystemId::new(7),
            major: PgMajor::new(17).unwrap(),
            segment_size: WalSegmentSize::new(16 << 20).unwrap(),
            created_by: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
        }
    }

    const NAME: &str = "000000010000000000000003";

    #[test]
    fn a_sound_segment_passes_partial_or_not_and_with_a_parents_first_page() {
        for name in [NAME, "000000010000000000000003.partial", "000000020000000000000003"] {
            assert_eq!(judge_archive(&incoming(name, facts()), Some(&known())), Ok(()), "{name}");
        }
    }

    #[test]
    fn histories_carry_no_facts() {
        for name in ["00000002.history", "000000010000000000000003.00000028.backup"] {
            let incoming = Incoming { name: name.parse().unwrap(), bytes: 42, facts: None };
            assert_eq!(judge_archive(&incoming, Some(&known())), Ok(()));
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let verdict = |incoming: Incoming| judge_archive(&incoming, Some(&known())).unwrap_err();
        let renamed = incoming("000000010000000000000004", facts());
        assert!(matches!(verdict(renamed), SegmentFault::WrongAddress { .. }));
        let torn = Incoming { bytes: 8192, ..incoming(NAME, facts()) };
        assert!(matches!(verdict(torn), SegmentFault::WrongLength { .. }));
        let garbage = Incoming { facts: None, ..incoming(NAME, facts()) };
        assert!(matches!(verdict(garbage), SegmentFault::NotWal { .. }));
        let later = incoming(NAME, SegmentFacts { timeline: TimelineId::new(2).unwrap(), ..facts() });
        assert!(matches!(verdict(later), SegmentFault::LaterTimeline { .. }));
        let foreign = incoming(NAME, SegmentFacts { system_id: SystemId::new(8), ..facts() });
        assert!(verdict(foreign).is_foreign());
        let upgraded = incoming(NAME, SegmentFacts { major: PgMajor::new(18).unwrap(), ..facts() });
        assert!(verdict(upgraded).is_foreign());
        let small = WalSegmentSize::new(1 << 20).unwrap();
        let resized = SegmentFacts { segment_size: small, page_address: Lsn::new(0x30_0000), ..facts() };
        let resized = Incoming { bytes: 1 << 20, ..incoming(NAME, resized) };
        assert!(matches!(verdict(resized), SegmentFault::OtherSegmentSize { .. }));
        let impossible = incoming("000000010000000000000100", facts());
        assert!(matches!(verdict(impossible), SegmentFault::ImpossibleName { .. }));
    }
}
