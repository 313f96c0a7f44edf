//! The names of the files that PostgreSQL hands to `archive_command` and asks of `restore_command`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, quoted};
use crate::hex;
use crate::segment::SegmentName;
use crate::serde_text::serde_as_text;
use crate::timeline::TimelineId;

/// What `%f` can be. This is the only parser of it.
///
/// PostgreSQL source: `src/include/access/xlog_internal.h` (`IsXLogFileName` and its siblings). The
/// parser is strict: upper-case digits, exact lengths, exact suffixes, a timeline above 0; so the text
/// of a parsed name is the text that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArchiveFileName {
    /// A complete segment: `<24 digits>`.
    Segment(SegmentName),
    /// The last, incomplete segment of a timeline that was left by a promotion:
    /// `<24 digits>.partial`. Recovery never asks for one.
    Partial(SegmentName),
    /// The note that ends an online backup: `<24 digits>.<8 digits>.backup`.
    BackupHistory {
        /// The segment of the backup's start LSN.
        segment: SegmentName,
        /// The start LSN's offset in that segment, in bytes.
        offset: u32,
    },
    /// The history of a timeline: `<8 digits>.history`.
    History(TimelineId),
}

impl ArchiveFileName {
    /// The timeline that the name starts with.
    pub const fn timeline(self) -> TimelineId {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::BackupHistory { segment, .. } => {
                segment.timeline()
            }
            Self::History(timeline) => timeline,
        }
    }

    /// The segment that the name names, if it names one.
    pub const fn segment(self) -> Option<SegmentName> {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::BackupHistory { segment, .. } => {
                Some(segment)
            }
            Self::History(_) => None,
        }
    }

    /// Whether the file has the size of a segment: a complete or a partial one.
    pub const fn is_segment_sized(self) -> bool {
        matches!(self, Self::Segment(_) | Self::Partial(_))
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(timeline) = text.strip_suffix(".history") {
            return TimelineId::from_hex(timeline).ok().map(Self::History);
        }
        if let Some(segment) = text.strip_suffix(".partial") {
            return segment.parse().ok().map(Self::Partial);
        }
        if let Some(rest) = text.strip_suffix(".backup") {
            let (segment, offset) = rest.split_once('.')?;
            let offset = hex::parse_upper8(offset)?;
            return segment.parse().ok().map(|segment| Self::BackupHistory { segment, offset });
        }
        text.parse().ok().map(Self::Segment)
    }
}

impl fmt::Display for ArchiveFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "{segment}"),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
        }
    }
}

impl FromStr for ArchiveFileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).ok_or_else(|| Error::InvalidFileName { text: quoted(text) })
    }
}

impl From<SegmentName> for ArchiveFileName {
    fn from(segment: SegmentName) -> Self {
        Self::Segment(segment)
    }
}

serde_as_text!(ArchiveFileName, "the name of an archived file");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment() -> SegmentName {
        "0000000A00000001000000FE".parse().unwrap()
    }

    #[test]
    fn each_kind_is_told_apart() {
        let parse = |text: &str| text.parse::<ArchiveFileName>().unwrap();
        assert_eq!(parse("0000000A00000001000000FE"), ArchiveFileName::Segment(segment()));
        assert_eq!(parse("0000000A00000001000000FE.partial"), ArchiveFileName::Partial(segment()));
        assert_eq!(
            parse("0000000A00000001000000FE.00000028.backup"),
            ArchiveFileName::BackupHistory { segment: segment(), offset: 0x28 }
        );
        let history = parse("0000000A.history");
        assert_eq!(history, ArchiveFileName::History(TimelineId::new(10).unwrap()));
        assert_eq!(history.timeline().get(), 10);
        assert_eq!(history.segment(), None);
        assert!(!history.is_segment_sized());
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            ".",
            "..",
            "/0000000A00000001000000FE",
            "pg_wal/0000000A00000001000000FE",
            "0000000A00000001000000FE.gz",
            "0000000A00000001000000FE.partial.partial",
            "0000000A00000001000000FE.PARTIAL",
            "0000000a00000001000000FE",
            "0000000A00000001000000FE ",
            "0000000A00000001000000FE\0",
            "0000000A00000001000000F",
            "0000000000000001000000FE",
            "00000000.history",
            "0000000a.history",
            "A.history",
            ".history",
            ".partial",
            ".backup",
            "0000000A00000001000000FE.backup",
            "0000000A00000001000000FE.0000028.backup",
            "0000000A00000001000000FE.0000002g.backup",
            "0000000A00000001000000FE.00000028.00000028.backup",
            "RECOVERYXLOG",
            "00000001000000000100002800000000010001C8.summary",
        ] {
            assert!(bad.parse::<ArchiveFileName>().is_err(), "{bad:?}");
        }
    }

    fn names() -> impl Strategy<Value = ArchiveFileName> {
        (1u32.., any::<u32>(), any::<u32>(), any::<u32>(), 0..4).prop_map(
            |(timeline, log, seg, offset, kind)| {
                let timeline = TimelineId::new(timeline).unwrap();
                let segment = SegmentName::new(timeline, log, seg);
                match kind {
                    0 => ArchiveFileName::Segment(segment),
                    1 => ArchiveFileName::Partial(segment),
                    2 => ArchiveFileName::BackupHistory { segment, offset },
                    _ => ArchiveFileName::History(timeline),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn round_trips(name in names()) {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<ArchiveFileName>(&json).unwrap(), name);
        }

        #[test]
        fn whatever_parses_is_its_own_text(text in "[0-9A-F]{0,25}(\\.[0-9A-F]{8})?(\\.(history|partial|backup))?") {
            if let Ok(name) = text.parse::<ArchiveFileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text: String) {
            let _ = text.parse::<ArchiveFileName>();
        }
    }
}
