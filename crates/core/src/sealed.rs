//! The sealed object's frames as bytes: the header in front and the index behind the compressed data.
//!
//! Both are zstd skippable frames (RFC 8878 §3.1.2), so the plain `zstd` program decodes a sealed object to the
//! bytes that were sealed. Specified in `docs/format.md`; compressing and hashing are the store's part.

use serde::{Deserialize, Serialize};
use walden_pg::{Lsn, SystemId, TimelineId, WalSegmentSize};

use crate::index::SegmentSummary;
use crate::layout::{Incarnation, ServerName};
use crate::records::Writer;

/// Newest schema of the sealed header that this version writes and reads.
pub const SEALED_SCHEMA: u32 = 1;
/// The codec of schema 1: ordinary zstd frames with content size and checksum.
pub const CODEC_ZSTD: &str = "zstd";
/// A header frame, its 8 bytes of frame header included, is never larger: one range read of this many bytes
/// from the start of an object always holds it whole.
pub const HEADER_FRAME_BYTES_MAX: usize = 8192;
/// An index frame's content is never larger.
pub const INDEX_BYTES_MAX: usize = 64 << 20;

const HEADER_MAGIC: u32 = 0x184D_2A57;
const INDEX_MAGIC: u32 = 0x184D_2A58;
const HEADER_TAG: [u8; 8] = *b"WALDENH1";
const INDEX_TAG: [u8; 8] = *b"WALDENX1";
/// Frame magic and length, tag, CRC-32C.
const PREFIX_BYTES: usize = 4 + 4 + 8 + 4;

/// What a sealed object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// A complete WAL segment.
    Segment,
    /// The incomplete last segment of a timeline.
    PartialSegment,
    /// A backup history file (`.backup`).
    BackupHistory,
    /// A timeline history file.
    TimelineHistory,
    /// File contents of a base backup.
    Pack,
    /// The manifest of a base backup.
    Manifest,
    /// The names of databases, schemas and tables at a base backup.
    Names,
    /// The derived summary of a LOG directory of segments.
    Rollup,
    /// The derived copy of the records of all backups.
    BackupRollup,
}

/// The WAL facts of a sealed segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalIdentity {
    /// From the segment's first page header.
    pub system_id: SystemId,
    /// The timeline of the segment's name; its first page may still carry the parent's.
    pub timeline: TimelineId,
    /// From the segment's first page header.
    pub segment_size: WalSegmentSize,
    /// The address of the segment's first byte.
    pub start_lsn: Lsn,
    /// The address after the segment's last byte.
    pub end_lsn: Lsn,
    /// What is in it; absent when it was archived without being read as WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<SegmentSummary>,
}

/// The header of a sealed object: everything needed to know it without reading the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHeader {
    /// The schema of this header.
    pub schema: u32,
    /// What the object holds.
    pub kind: ObjectKind,
    /// The name under which it belongs: the archived file's name, or the key's last part.
    pub name: String,
    /// The server it belongs to.
    pub server: ServerName,
    /// The incarnation it belongs to.
    pub incarnation: Incarnation,
    /// Length of the plain data in bytes.
    pub plain_bytes: u64,
    /// Lower-case hexadecimal SHA-256 of the plain data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_sha256: Option<String>,
    /// Length of the compressed frames in bytes.
    pub stored_bytes: u64,
    /// Lower-case hexadecimal SHA-256 of the compressed frames. One of the two hashes is always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_sha256: Option<String>,
    /// Length of the index frame in bytes, its frame header included; 0 when there is none. It begins right
    /// after the compressed frames.
    #[serde(default)]
    pub index_bytes: u64,
    /// How the plain data became the stored frames: [`CODEC_ZSTD`].
    pub codec: String,
    /// Names of what a reader must know to read this object rightly; empty in schema 1. A reader refuses an
    /// object that requires what it does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Who wrote it.
    pub writer: Writer,
    /// For segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalIdentity>,
}

impl ObjectHeader {
    /// The hash that settles whether two objects of one name are the same: of the plain data where it is known,
    /// else of the stored frames.
    #[must_use]
    pub fn identity_hash(&self) -> Option<&str> {
        self.plain_sha256.as_deref().or(self.stored_sha256.as_deref())
    }
}

/// Why bytes are not a sealed object that this version can read.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The object does not begin (or end) with our frame.
    #[error("not a sealed object: {reason}")]
    NotSealed {
        /// What is missing.
        reason: &'static str,
    },
    /// The frame's bytes are not the ones that were written.
    #[error("{frame} frame is damaged: CRC-32C differs")]
    Damaged {
        /// Which frame.
        frame: &'static str,
    },
    /// A header or index would be larger than the format allows.
    #[error("{frame} frame is too large bytes={bytes} max={max}")]
    TooLarge {
        /// Which frame.
        frame: &'static str,
        /// The size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The header is not the JSON that we write.
    #[error("header is not valid")]
    Json(#[from] serde_json::Error),
    /// A newer version wrote the object.
    #[error("object needs a newer walden: {what}")]
    Unsupported {
        /// The schema, codec or feature that is not known.
        what: String,
    },
}

impl SealedError {
    /// True when a newer version of Walden wrote the object; false when it is damaged or foreign.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
    }
}

fn encode_frame(
    magic: u32,
    tag: [u8; 8],
    content: &[u8],
    frame: &'static str,
    max: usize,
) -> Result<Vec<u8>, SealedError> {
    let bytes = PREFIX_BYTES + content.len();
    let too_large = SealedError::TooLarge { frame, bytes, max };
    let Ok(length) = u32::try_from(bytes - 8) else { return Err(too_large) };
    if bytes > max {
        return Err(too_large);
    }
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&magic.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&tag);
    out.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    out.extend_from_slice(content);
    Ok(out)
}

/// Splits a frame of ours from the front of `bytes`: its content and its whole length.
fn decode_frame<'a>(
    magic: u32,
    tag: [u8; 8],
    bytes: &'a [u8],
    frame: &'static str,
    max: usize,
) -> Result<(&'a [u8], usize), SealedError> {
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    if word(0) != Some(magic) || bytes.get(8..16) != Some(tag.as_slice()) {
        return Err(SealedError::NotSealed { reason: "it has no frame of ours where one must be" });
    }
    let (Some(length), Some(crc)) = (word(4), word(16)) else {
        return Err(SealedError::NotSealed { reason: "it ends inside a frame of ours" });
    };
    let whole = (length as usize).saturating_add(8);
    if whole > max || whole < PREFIX_BYTES {
        return Err(SealedError::TooLarge { frame, bytes: whole, max });
    }
    let Some(content) = bytes.get(PREFIX_BYTES..whole) else {
        return Err(SealedError::NotSealed { reason: "it ends inside a frame of ours" });
    };
    if crc32c::crc32c(content) != crc {
        return Err(SealedError::Damaged { frame });
    }
    Ok((content, whole))
}

/// Renders the header frame.
///
/// # Errors
/// [`SealedError::TooLarge`] above [`HEADER_FRAME_BYTES_MAX`].
pub fn encode_header_frame(header: &ObjectHeader) -> Result<Vec<u8>, SealedError> {
    encode_frame(HEADER_MAGIC, HEADER_TAG, &serde_json::to_vec(header)?, "header", HEADER_FRAME_BYTES_MAX)
}

/// Renders the header frame of exactly `frame_bytes`: spaces after the JSON fill it. For objects whose inner
/// offsets must be known before their header is.
///
/// # Errors
/// [`SealedError::TooLarge`] when the header does not fit.
pub fn encode_padded_header_frame(header: &ObjectHeader, frame_bytes: usize) -> Result<Vec<u8>, SealedError> {
    let mut content = serde_json::to_vec(header)?;
    let room = frame_bytes.saturating_sub(PREFIX_BYTES);
    if content.len() > room {
        return Err(SealedError::TooLarge {
            frame: "header",
            bytes: PREFIX_BYTES + content.len(),
            max: frame_bytes,
        });
    }
    content.resize(room, b' ');
    encode_frame(HEADER_MAGIC, HEADER_TAG, &content, "header", HEADER_FRAME_BYTES_MAX)
}

/// Reads the header frame at the front of `bytes`, which may go on beyond it; returns the header and the length
/// of its frame, where the compressed frames begin.
///
/// # Errors
/// See [`SealedError`].
pub fn decode_header_frame(bytes: &[u8]) -> Result<(ObjectHeader, usize), SealedError> {
    /// What must be understood before the rest may be read.
    #[derive(Deserialize)]
    struct Front {
        schema: u32,
        #[serde(default)]
        codec: String,
        #[serde(default)]
        requires: Vec<String>,
    }
    let (content, whole) = decode_frame(HEADER_MAGIC, HEADER_TAG, bytes, "header", HEADER_FRAME_BYTES_MAX)?;
    let front: Front = serde_json::from_slice(content)?;
    if front.schema > SEALED_SCHEMA {
        return Err(SealedError::Unsupported { what: format!("schema {}", front.schema) });
    }
    if let Some(feature) = front.requires.first() {
        return Err(SealedError::Unsupported { what: format!("feature {feature:?}") });
    }
    if front.codec != CODEC_ZSTD {
        return Err(SealedError::Unsupported { what: format!("codec {:?}", front.codec) });
    }
    let header: ObjectHeader = serde_json::from_slice(content)?;
    if header.identity_hash().is_none() {
        return Err(SealedError::NotSealed { reason: "its header names no hash" });
    }
    Ok((header, whole))
}

/// Renders an index frame around `content`, whose form belongs to the object's kind.
///
/// # Errors
/// [`SealedError::TooLarge`] above [`INDEX_BYTES_MAX`].
pub fn encode_index_frame(content: &[u8]) -> Result<Vec<u8>, SealedError> {
    encode_frame(INDEX_MAGIC, INDEX_TAG, content, "index", INDEX_BYTES_MAX)
}

/// Reads an index frame that fills `bytes` exactly.
///
/// # Errors
/// See [`SealedError`].
pub fn decode_index_frame(bytes: &[u8]) -> Result<&[u8], SealedError> {
    let (content, whole) = decode_frame(INDEX_MAGIC, INDEX_TAG, bytes, "index", INDEX_BYTES_MAX)?;
    if whole != bytes.len() {
        return Err(SealedError::NotSealed { reason: "bytes follow its index" });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> ObjectHeader {
        ObjectHeader {
            schema: SEALED_SCHEMA,
            kind: ObjectKind::Segment,
            name: "000000010000000000000003".into(),
            server: "main".parse().unwrap(),
            incarnation: "7401234567890123456-17".parse().unwrap(),
            plain_bytes: 16 << 20,
            plain_sha256: Some("ab".repeat(32)),
            stored_bytes: 1234,
            stored_sha256: None,
            index_bytes: 0,
            codec: CODEC_ZSTD.into(),
            requires: Vec::new(),
            writer: Writer::new(
                "db1",
                "/var/lib/postgresql/17/main",
                "2026-11-20T10:39:05Z".parse().unwrap(),
            ),
            wal: Some(WalIdentity {
                system_id: SystemId::new(7_401_234_567_890_123_456),
                timeline: TimelineId::FIRST,
                segment_size: WalSegmentSize::new(16 << 20).unwrap(),
                start_lsn: Lsn::new(0x300_0000),
                end_lsn: Lsn::new(0x400_0000),
                summary: None,
            }),
        }
    }

    #[test]
    fn header_round_trips_and_says_where_the_data_begins() {
        let mut bytes = encode_header_frame(&header()).unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(b"frames that follow");
        assert_eq!(decode_header_frame(&bytes).unwrap(), (header(), length));
    }

    #[test]
    fn a_padded_header_has_the_length_asked_for() {
        let bytes = encode_padded_header_frame(&header(), 4096).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(decode_header_frame(&bytes).unwrap(), (header(), 4096));
        assert!(matches!(encode_padded_header_frame(&header(), 100), Err(SealedError::TooLarge { .. })));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let bytes = encode_header_frame(&header()).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode_header_frame(&flipped).is_err(), "bit {at}");
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_by_name() {
        for (newer, what) in [
            (ObjectHeader { schema: 2, ..header() }, "schema 2"),
            (ObjectHeader { codec: "age+zstd".into(), ..header() }, "codec \"age+zstd\""),
            (ObjectHeader { requires: vec!["delta".into()], ..header() }, "feature \"delta\""),
        ] {
            let refused = decode_header_frame(&encode_header_frame(&newer).unwrap()).unwrap_err();
            assert!(refused.is_unsupported() && refused.to_string().ends_with(what), "{refused}");
        }
    }

    #[test]
    fn a_header_stays_inside_one_range_read() {
        let long = ObjectHeader { name: "x".repeat(HEADER_FRAME_BYTES_MAX), ..header() };
        assert!(matches!(encode_header_frame(&long), Err(SealedError::TooLarge { .. })));
    }

    #[test]
    fn index_round_trips_and_must_fill_its_place() {
        let bytes = encode_index_frame(b"index").unwrap();
        assert_eq!(decode_index_frame(&bytes).unwrap(), b"index");
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(decode_index_frame(&longer).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode_header_frame(&bytes);
            let _ = decode_index_frame(&bytes);
            let framed = [&HEADER_MAGIC.to_le_bytes()[..], &bytes].concat();
            let _ = decode_header_frame(&framed);
        }
    }
}
