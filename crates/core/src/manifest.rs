//! The manifest of a base backup: every directory, link and file, and where each byte of each file is stored.
//!
//! It is a sealed object whose plain form is JSON Lines: one header, then the entries in order of their paths,
//! then the totals. Both ends work line by line, so a cluster of a million files needs no more memory than a
//! small one. Specified in `docs/format.md`.

use serde::{Deserialize, Serialize};

use crate::envelope::hex;
use crate::layout::BackupId;

/// A path relative to the data directory, `/` between its parts. Files of a tablespace are named through its
/// link: `pg_tblspc/16385/PG_17_202406281/5/16390`.
///
/// A path that is not UTF-8 is kept as the hexadecimal of its bytes, so that nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ManifestPath {
    /// An ordinary path.
    Text(String),
    /// The bytes of a path that is not UTF-8.
    Hex {
        /// Lower-case hexadecimal.
        hex: String,
    },
}

impl ManifestPath {
    /// Takes a path's bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex { hex: hex(bytes) },
        }
    }

    /// The path's bytes, when it is a path that a backup may hold: relative, without empty, `.` or `..` parts
    /// and without NUL. `None` for anything else: such an entry must not be restored.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let bytes = match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Hex { hex } if hex.is_ascii() && hex.len() % 2 == 0 => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
                .collect::<Option<Vec<u8>>>()?,
            Self::Hex { .. } => return None,
        };
        let sound = !bytes.contains(&0)
            && bytes.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."));
        sound.then_some(bytes)
    }
}

impl std::fmt::Display for ManifestPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Hex { hex } => write!(f, "hex:{hex}"),
        }
    }
}

/// Where one run of a file's bytes is stored: inside one zstd frame of one pack.
///
/// Written as an array of six numbers. A range of a file that no extent covers is zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 6]", into = "[u64; 6]")]
pub struct Extent {
    /// Where the run begins in the file.
    pub file_offset: u64,
    /// Its length, in the file and in the frame.
    pub bytes: u64,
    /// The pack's number.
    pub pack: u64,
    /// Where the frame begins in the pack's object: with `frame_bytes`, one range read.
    pub frame_offset: u64,
    /// The length of the compressed frame.
    pub frame_bytes: u64,
    /// Where the run begins in the frame's plain bytes.
    pub skip: u64,
}

impl From<[u64; 6]> for Extent {
    fn from([file_offset, bytes, pack, frame_offset, frame_bytes, skip]: [u64; 6]) -> Self {
        Self { file_offset, bytes, pack, frame_offset, frame_bytes, skip }
    }
}

impl From<Extent> for [u64; 6] {
    fn from(extent: Extent) -> Self {
        let Extent { file_offset, bytes, pack, frame_offset, frame_bytes, skip } = extent;
        [file_offset, bytes, pack, frame_offset, frame_bytes, skip]
    }
}

/// One regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path.
    pub path: ManifestPath,
    /// Its length in bytes.
    pub bytes: u64,
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Modification time in whole seconds since 1970 when it was read.
    pub modified: i64,
    /// Lower-case hexadecimal SHA-256 of its bytes as they must be restored.
    pub sha256: String,
    /// Where its bytes are, by rising `file_offset`, without overlap.
    pub extents: Vec<Extent>,
}

/// The first line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestHeader {
    /// The schema of the manifest; this version knows 1.
    pub schema: u32,
    /// The backup it belongs to.
    pub backup: BackupId,
    /// The user who owned the data directory, when the name was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// The last line of a manifest: a manifest without it is torn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestTotals {
    /// How many files.
    pub files: u64,
    /// How many directories.
    pub directories: u64,
    /// Plain bytes of all files.
    pub bytes: u64,
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ManifestEntry {
    /// The first line.
    Header(ManifestHeader),
    /// A directory, before everything in it.
    Directory {
        /// Its path; the data directory itself has no entry.
        path: ManifestPath,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link other than a tablespace's, `pg_wal` on its own disk for example. Restored as a directory
    /// unless the operator maps it.
    Link {
        /// Its path.
        path: ManifestPath,
        /// Where it pointed.
        target: ManifestPath,
    },
    /// A regular file.
    File(FileEntry),
    /// The last line.
    Totals(ManifestTotals),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_has_the_documented_form() {
        let entry = ManifestEntry::File(FileEntry {
            path: ManifestPath::from_bytes(b"base/5/1259"),
            bytes: 8192,
            mode: 0o600,
            modified: 1_795_171_145,
            sha256: "00".repeat(32),
            extents: vec![Extent {
                file_offset: 0,
                bytes: 8192,
                pack: 2,
                frame_offset: 512,
                frame_bytes: 99,
                skip: 7,
            }],
        });
        let line = serde_json::to_string(&entry).unwrap();
        let sha256 = "00".repeat(32);
        assert_eq!(
            line,
            format!(
                r#"{{"type":"file","path":"base/5/1259","bytes":8192,"mode":384,"modified":1795171145,"sha256":"{sha256}","extents":[[0,8192,2,512,99,7]]}}"#
            )
        );
        assert_eq!(serde_json::from_str::<ManifestEntry>(&line).unwrap(), entry);
    }

    #[test]
    fn paths_that_leave_the_data_directory_are_refused() {
        for path in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            assert_eq!(ManifestPath::Text(path.into()).to_bytes(), None, "{path:?}");
        }
        assert_eq!(ManifestPath::Hex { hex: "2e2e".into() }.to_bytes(), None, "..");
        for hex in ["0", "0g", "é0"] {
            assert_eq!(ManifestPath::Hex { hex: hex.into() }.to_bytes(), None, "{hex}");
        }
    }

    proptest! {
        #[test]
        fn paths_keep_their_bytes(parts in proptest::collection::vec(proptest::collection::vec(1u8.., 1..8), 1..4)) {
            let bytes = parts.join(&b'/');
            prop_assume!(!bytes.split(|b| *b == b'/').any(|part| matches!(part, b"" | b"." | b"..")));
            let path = ManifestPath::from_bytes(&bytes);
            let line = serde_json::to_string(&path).unwrap();
            let read: ManifestPath = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read.to_bytes(), Some(bytes));
        }
    }
}
