//! Reading a backup's manifest from the store, line by line, hashed on the way.
//!
//! It is read twice: once to judge all of it before anything is written, once to restore by it. A small one is
//! kept in memory between the two; a large one is fetched again, so that memory does not grow with the cluster.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use walden_core::{BackupRecord, ErrorKind, ManifestEntry, ObjectHeader, ObjectKey, ObjectKind};
use walden_store::{Expected, Unsealer};

use super::inventory::refuse;
use crate::context::Context;
use crate::error::{EngineError, Result};

/// One range read of the stored manifest, in bytes.
const WINDOW_BYTES: u64 = 4 << 20;
/// A stored manifest up to this size is kept between its two readings, in bytes: about half a million files.
const KEEP_BYTES_MAX: u64 = 32 << 20;
/// How much stored data is decompressed at once, in bytes.
const PIECE_BYTES: usize = 32 << 10;
/// Longest line, in bytes: a file of a tebibyte in extents of a mebibyte has about 60 MB.
const LINE_BYTES_MAX: usize = 64 << 20;

/// The bytes that the unsealer has produced and nobody has taken yet.
#[derive(Debug, Clone, Default)]
struct Produced(Arc<Mutex<Vec<u8>>>);

impl Produced {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Produced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut produced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if produced.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a few bytes became far too many"));
        }
        produced.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stored manifest, kept for its second reading when it is small.
#[derive(Debug, Clone)]
pub(crate) struct StoredManifest {
    key: ObjectKey,
    name: String,
    plain_bytes: u64,
    plain_sha256: String,
    object_bytes: u64,
    keep_bytes_max: u64,
    window_bytes: u64,
    kept: Vec<Bytes>,
}

impl StoredManifest {
    /// The manifest that this record is bound to.
    pub(crate) fn of(record: &BackupRecord, key: ObjectKey) -> Self {
        let name = key.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        let reference = &record.manifest;
        Self {
            key,
            name,
            plain_bytes: reference.plain_bytes,
            plain_sha256: reference.plain_sha256.clone(),
            object_bytes: reference.object_bytes,
            keep_bytes_max: KEEP_BYTES_MAX,
            window_bytes: WINDOW_BYTES,
            kept: Vec::new(),
        }
    }

    /// Its size in the store, in bytes.
    pub(crate) fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// Begins a reading.
    ///
    /// # Errors
    /// Of kind `internal` when there is no memory for the decompressor.
    pub(crate) fn read(&mut self, ctx: &Context) -> Result<ManifestReader<'_>> {
        let produced = Produced::default();
        let expected = Expected { name: &self.name, max_plain_bytes: self.plain_bytes };
        let unsealer = Unsealer::new(expected, produced.clone())
            .map_err(|error| EngineError::failed(ErrorKind::Internal, error.to_string()))?;
        Ok(ManifestReader {
            ctx: ctx.clone(),
            manifest: self,
            window: 0,
            stored: Bytes::new(),
            asked: 0,
            unsealer: Some(unsealer),
            produced,
            text: Vec::new(),
            at: 0,
            searched: 0,
        })
    }
}

/// One reading of a manifest.
pub(crate) struct ManifestReader<'a> {
    ctx: Context,
    manifest: &'a mut StoredManifest,
    /// Which of the kept windows is next.
    window: usize,
    /// What is left of the window in hand.
    stored: Bytes,
    /// How many bytes of the object were asked for.
    asked: u64,
    unsealer: Option<Unsealer<Produced>>,
    produced: Produced,
    text: Vec<u8>,
    /// Where the next line begins in `text`.
    at: usize,
    /// Up to where `text` was searched for the end of that line.
    searched: usize,
}

impl ManifestReader<'_> {
    /// The next entry; `None` when all lines were read and the whole was what the backup's record is bound to.
    ///
    /// # Errors
    /// Of kind `corrupt` for a damaged, torn or foreign manifest, and what any read from the store can give.
    pub(crate) async fn next(&mut self) -> Result<Option<ManifestEntry>> {
        loop {
            let unsearched = self.text.get(self.searched..).unwrap_or_default();
            if let Some(found) = unsearched.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + found;
                let entry = parse_line(self.text.get(self.at..end).unwrap_or_default())?;
                (self.at, self.searched) = (end + 1, end + 1);
                return Ok(Some(entry));
            }
            self.searched = self.text.len();
            if self.unsealer.is_none() {
                return if self.at == self.text.len() {
                    Ok(None)
                } else {
                    Err(refuse("its last line is torn"))
                };
            }
            self.advance().await?;
        }
    }

    /// Unseals a little more; at the end of the object checks all of it.
    async fn advance(&mut self) -> Result<()> {
        if self.stored.is_empty() && !self.next_window().await? {
            if let Some(unsealer) = self.unsealer.take() {
                let unsealed = unsealer.finish().map_err(|error| refuse(&error.to_string()))?;
                self.check_header(&unsealed.header)?;
            }
        } else if let Some(unsealer) = &mut self.unsealer {
            let piece = self.stored.split_to(PIECE_BYTES.min(self.stored.len()));
            unsealer.push(&piece).map_err(|error| refuse(&error.to_string()))?;
        }
        let produced = self.produced.take();
        if self.text.len() - self.at + produced.len() > LINE_BYTES_MAX {
            return Err(refuse("a line is longer than it may be"));
        }
        self.text.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        self.text.extend_from_slice(&produced);
        Ok(())
    }

    /// Takes the next window in hand; false when there is none.
    async fn next_window(&mut self) -> Result<bool> {
        if let Some(kept) = self.manifest.kept.get(self.window) {
            self.stored = kept.clone();
            self.window += 1;
            self.asked += kept.len() as u64;
            return Ok(true);
        }
        let end = self.manifest.object_bytes.min(self.asked + self.manifest.window_bytes);
        if self.asked >= end {
            return Ok(false);
        }
        let range = self.asked..end;
        let budget = self.ctx.budget_for(range.end.saturating_sub(range.start));
        self.stored = self.ctx.store.get_range(&self.manifest.key, range, &budget).await?;
        self.asked = end;
        if self.manifest.object_bytes <= self.manifest.keep_bytes_max {
            self.manifest.kept.push(self.stored.clone());
            self.window += 1;
        }
        Ok(true)
    }

    fn check_header(&self, header: &ObjectHeader) -> Result<()> {
        let bound = header.kind == ObjectKind::Manifest
            && header.plain_bytes == self.manifest.plain_bytes
            && header.plain_sha256.as_deref() == Some(self.manifest.plain_sha256.as_str());
        if bound { Ok(()) } else { Err(refuse("it is not the one that the backup's record names")) }
    }
}

fn parse_line(line: &[u8]) -> Result<ManifestEntry> {
    serde_json::from_slice(line).map_err(|error| refuse(&format!("a line can't be read reason={error}")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture::{Fixture, noise};
    use super::*;

    async fn read_all(ctx: &Context, manifest: &mut StoredManifest) -> Result<Vec<ManifestEntry>> {
        let mut reader = manifest.read(ctx)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// More files than fit into one window or one piece.
    fn many() -> Fixture {
        let mut fixture = Fixture::new();
        for number in 0..3000 {
            fixture.file_of(&format!("base/5/{number:05}"), &noise(1, number), Vec::new());
        }
        let _ = fixture.publish();
        fixture
    }

    #[tokio::test]
    async fn both_readings_give_every_line_whether_it_was_kept_or_not() {
        let fixture = many();
        let lines = fixture.lines();
        for (keep_bytes_max, window_bytes) in [(KEEP_BYTES_MAX, WINDOW_BYTES), (0, 10_000)] {
            let of = StoredManifest::of(&fixture.record, fixture.manifest_key());
            let mut manifest = StoredManifest { keep_bytes_max, window_bytes, ..of };
            let before = fixture.ctx.store.counters().requests();
            for _ in 0..2 {
                assert!(read_all(&fixture.ctx, &mut manifest).await.unwrap() == lines);
            }
            let asked = fixture.ctx.store.counters().requests() - before;
            let windows = manifest.object_bytes.div_ceil(window_bytes);
            assert_eq!(asked, if keep_bytes_max > 0 { 1 } else { 2 * windows });
        }
    }

    #[tokio::test]
    async fn one_that_changes_between_its_readings_is_found() {
        let fixture = many();
        let of = StoredManifest::of(&fixture.record, fixture.manifest_key());
        let mut manifest = StoredManifest { keep_bytes_max: 0, window_bytes: 10_000, ..of };
        read_all(&fixture.ctx, &mut manifest).await.unwrap();
        let mut bytes = std::fs::read(fixture.manifest()).unwrap();
        let last = bytes.len() - 5;
        bytes[last] ^= 0x10;
        std::fs::write(fixture.manifest(), bytes).unwrap();
        assert_eq!(read_all(&fixture.ctx, &mut manifest).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
