//! Sealed objects whose plain form is JSON Lines: the manifest and the names.

use serde::Serialize;
use walden_core::{ErrorKind, ObjectReference};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, SealedObject, Sealer};

use crate::error::{EngineError, Result};

/// Plain bytes of one frame, at which it is closed.
const FRAME_BYTES: usize = 1 << 20;

/// Writes lines into an object in memory, compressed as they come.
#[derive(Debug)]
pub(super) struct LineSealer {
    sealer: Sealer,
    frame: Vec<u8>,
}

impl LineSealer {
    pub(super) fn new(level: CompressionLevel) -> Result<Self> {
        let sealer = Sealer::new(level, IdentityHash::Plain).map_err(seal_error)?;
        Ok(Self { sealer, frame: Vec::new() })
    }

    /// Adds a value as one line.
    pub(super) fn push(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.frame, value).map_err(seal_error)?;
        self.frame.push(b'\n');
        self.close_full_frame()
    }

    /// Adds lines that are rendered already, each with its line feed.
    pub(super) fn push_rendered(&mut self, lines: &[u8]) -> Result<()> {
        self.frame.extend_from_slice(lines);
        self.close_full_frame()
    }

    fn close_full_frame(&mut self) -> Result<()> {
        if self.frame.len() >= FRAME_BYTES {
            self.close_frame()?;
        }
        Ok(())
    }

    fn close_frame(&mut self) -> Result<()> {
        if !self.frame.is_empty() {
            self.sealer.write_frame(&self.frame).map_err(seal_error)?;
            self.frame.clear();
        }
        Ok(())
    }

    /// Closes the object.
    pub(super) fn finish(mut self, fields: HeaderFields) -> Result<SealedObject> {
        self.close_frame()?;
        self.sealer.finish(fields, None).map_err(seal_error)
    }
}

/// How a record names a sealed object.
pub(super) fn reference(object: &SealedObject) -> ObjectReference {
    let header = object.header();
    ObjectReference {
        plain_bytes: header.plain_bytes,
        plain_sha256: header.plain_sha256.clone().unwrap_or_default(),
        object_bytes: object.object_bytes(),
    }
}

pub(super) fn seal_error(error: impl std::fmt::Display) -> EngineError {
    EngineError::failed(ErrorKind::Internal, format!("cannot seal an object of the backup: {error}"))
}
