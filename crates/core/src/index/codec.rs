//! The bytes of an index and of a rollup: four bytes that say what it is, a schema, then sections.
//!
//! A section is a number, its length and its payload. Unknown sections are passed over, so that something new gets a
//! section of its own and older readers go on without it. Specified in `docs/format.md`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{IndexError, Result};

/// The schema that this version writes and reads.
const SCHEMA: u8 = 1;
/// Number and length of a section.
const SECTION_HEADER: usize = 5;
/// No index or rollup is longer, in bytes.
pub(super) const PLAIN_BYTES_MAX: usize = 64 << 20;
/// A section of structures is never longer, in bytes: what it becomes in memory is a few times as much.
const STRUCTURES_BYTES_MAX: usize = 8 << 20;

/// What sort of bytes these are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) magic: [u8; 4],
    pub(super) what: &'static str,
}

/// Writes sections one after another.
pub(super) struct SectionWriter {
    bytes: Vec<u8>,
}

impl SectionWriter {
    pub(super) fn new(kind: Kind) -> Self {
        let mut bytes = kind.magic.to_vec();
        bytes.push(SCHEMA);
        Self { bytes }
    }

    /// Adds a section; an empty one is left out.
    pub(super) fn raw(&mut self, id: u8, payload: &[u8]) {
        let Ok(length) = u32::try_from(payload.len()) else { return };
        if length == 0 {
            return;
        }
        self.bytes.push(id);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(payload);
    }

    pub(super) fn structure<T: Serialize>(&mut self, id: u8, value: &T) {
        // Only a type that can't tell its length fails, and no such type is written.
        self.raw(id, &postcard::to_allocvec(value).unwrap_or_default());
    }

    /// Adds a list, with nothing for an empty one.
    pub(super) fn list<T: Serialize>(&mut self, id: u8, values: &[T]) {
        if !values.is_empty() {
            self.structure(id, &values);
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The sections of some bytes, in their order.
pub(super) struct Sections<'a> {
    sections: Vec<(u8, &'a [u8])>,
}

impl<'a> Sections<'a> {
    pub(super) fn read(kind: Kind, bytes: &'a [u8]) -> Result<Self> {
        let foreign = IndexError::Foreign { what: kind.what };
        let Some((&[a, b, c, d, schema], mut rest)) = bytes.split_first_chunk::<SECTION_HEADER>() else {
            return Err(foreign);
        };
        if [a, b, c, d] != kind.magic {
            return Err(foreign);
        }
        if schema != SCHEMA {
            return Err(IndexError::Unsupported { what: kind.what, schema });
        }
        if bytes.len() > PLAIN_BYTES_MAX {
            return Err(IndexError::TooLarge { what: kind.what, bytes: bytes.len(), max: PLAIN_BYTES_MAX });
        }
        let cut_off = IndexError::Damaged { part: kind.what };
        let mut sections = Vec::new();
        while !rest.is_empty() {
            let Some((&[id, a, b, c, d], behind)) = rest.split_first_chunk::<SECTION_HEADER>() else {
                return Err(cut_off);
            };
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            let Some((payload, behind)) = behind.split_at_checked(length) else { return Err(cut_off) };
            sections.push((id, payload));
            rest = behind;
        }
        Ok(Self { sections })
    }

    /// A section's bytes; empty when it is not there.
    pub(super) fn raw(&self, id: u8) -> &'a [u8] {
        self.sections.iter().find(|(found, _)| *found == id).map_or(&[], |(_, payload)| payload)
    }

    /// A section that must be there.
    pub(super) fn structure<T: DeserializeOwned>(&self, id: u8, part: &'static str) -> Result<T> {
        decode(self.raw(id), part)
    }

    /// A list of at most `max` elements; empty when its section is not there.
    pub(super) fn list<T: DeserializeOwned>(&self, id: u8, part: &'static str, max: usize) -> Result<Vec<T>> {
        let payload = self.raw(id);
        if payload.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<T> = decode(payload, part)?;
        if values.len() > max {
            return Err(IndexError::TooLarge { what: part, bytes: payload.len(), max });
        }
        Ok(values)
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8], part: &'static str) -> Result<T> {
    if payload.len() > STRUCTURES_BYTES_MAX {
        return Err(IndexError::TooLarge { what: part, bytes: payload.len(), max: STRUCTURES_BYTES_MAX });
    }
    postcard::from_bytes(payload).map_err(|_| IndexError::Damaged { part })
}
