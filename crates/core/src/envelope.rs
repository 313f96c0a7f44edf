//! The envelope of small JSON records: who they are, which schema, and a hash of the exact bytes of the body.
//!
//! `{"walden":"server","schema":1,"sha256":"…","body":{…}}`: readable with any JSON tool, and a flipped bit in
//! an LSN is found instead of believed. Specified in `docs/format.md`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Largest record accepted, in bytes: a bound for anything read from a store.
pub(crate) const RECORD_BYTES_MAX: usize = 16 << 20;

/// The kinds of JSON records in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// `repository.json`.
    Repository,
    /// `<server>/server/<revision>.json`.
    Server,
    /// `<server>/<incarnation>/incarnation.json`.
    Incarnation,
    /// `backup/<backup id>/backup.json`.
    Backup,
    /// `drill/<id>.json`.
    Drill,
    /// `verify/<id>.json`.
    Verify,
    /// `pin/<backup id>/<revision>.json`.
    Pin,
    /// `<server>/lease/<name>/<fence>.json`.
    Lease,
    /// `retention/<id>.json` and `retention/<id>-done.json`.
    #[serde(rename = "retention-run")]
    RetentionRun,
}

impl RecordKind {
    /// The newest schema of this kind that this version writes, and the newest that it reads.
    #[must_use]
    pub fn schema(self) -> u32 {
        1
    }
}

/// Why a JSON record was refused.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is larger than any record we write.
    #[error("record is larger than {RECORD_BYTES_MAX} bytes bytes={bytes}")]
    TooLarge {
        /// The size found.
        bytes: usize,
    },
    /// It is not the JSON that we write.
    #[error("record is not valid")]
    Json(#[from] serde_json::Error),
    /// It is a record of another kind.
    #[error("record is of another kind expected={expected:?} found={found:?}")]
    OtherKind {
        /// The kind asked for.
        expected: RecordKind,
        /// The kind found.
        found: RecordKind,
    },
    /// A newer version wrote it.
    #[error(
        "record has a schema that this version does not know: use a newer walden schema={found} known={known}"
    )]
    UnknownSchema {
        /// The schema found.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
    /// The body is not the one that was written.
    #[error("record's body does not match its hash expected={expected} found={found}")]
    Hash {
        /// The hash that the record names.
        expected: String,
        /// The hash of the body found.
        found: String,
    },
}

impl EnvelopeError {
    /// True when a newer version of Walden wrote the record; false when the record is damaged or foreign.
    #[must_use]
    pub fn is_unknown_schema(&self) -> bool {
        matches!(self, Self::UnknownSchema { .. })
    }
}

#[derive(Serialize)]
struct Written<'a> {
    walden: RecordKind,
    schema: u32,
    sha256: String,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Read<'a> {
    walden: RecordKind,
    schema: u32,
    sha256: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lower-case hexadecimal SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Renders `body` in its envelope, ended by a newline.
///
/// # Errors
/// [`EnvelopeError::Json`] when `body` can't be serialised.
pub fn encode_envelope<T: Serialize>(kind: RecordKind, body: &T) -> Result<Vec<u8>, EnvelopeError> {
    let body = serde_json::value::to_raw_value(body)?;
    let sha256 = sha256_hex(body.get().as_bytes());
    let mut bytes =
        serde_json::to_vec(&Written { walden: kind, schema: kind.schema(), sha256, body: &body })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a record of the given kind, checking schema and hash before the body is looked at.
///
/// # Errors
/// See [`EnvelopeError`].
pub fn decode_envelope<T: DeserializeOwned>(kind: RecordKind, bytes: &[u8]) -> Result<T, EnvelopeError> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(EnvelopeError::TooLarge { bytes: bytes.len() });
    }
    let read: Read<'_> = serde_json::from_slice(bytes)?;
    if read.walden != kind {
        return Err(EnvelopeError::OtherKind { expected: kind, found: read.walden });
    }
    if read.schema > kind.schema() {
        return Err(EnvelopeError::UnknownSchema { found: read.schema, known: kind.schema() });
    }
    let found = sha256_hex(read.body.get().as_bytes());
    if found != read.sha256 {
        return Err(EnvelopeError::Hash { expected: read.sha256, found });
    }
    Ok(serde_json::from_str(read.body.get())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        lsn: String,
    }

    fn written() -> Vec<u8> {
        encode_envelope(RecordKind::Server, &Body { lsn: "0/3000028".into() }).unwrap()
    }

    #[test]
    fn round_trips() {
        let body: Body = decode_envelope(RecordKind::Server, &written()).unwrap();
        assert_eq!(body, Body { lsn: "0/3000028".into() });
    }

    #[test]
    fn a_changed_digit_is_found() {
        let text = String::from_utf8(written()).unwrap().replace("0/3000028", "0/3000029");
        let refused = decode_envelope::<Body>(RecordKind::Server, text.as_bytes()).unwrap_err();
        assert!(matches!(refused, EnvelopeError::Hash { .. }), "{refused}");
    }

    #[test]
    fn a_newer_schema_is_refused_before_its_body_is_read() {
        let text = String::from_utf8(written()).unwrap().replace("\"schema\":1", "\"schema\":2");
        let refused = decode_envelope::<Body>(RecordKind::Server, text.as_bytes()).unwrap_err();
        assert!(refused.is_unknown_schema(), "{refused}");
    }

    #[test]
    fn another_kind_is_refused() {
        let refused = decode_envelope::<Body>(RecordKind::Backup, &written()).unwrap_err();
        assert!(matches!(refused, EnvelopeError::OtherKind { .. }), "{refused}");
    }
}
