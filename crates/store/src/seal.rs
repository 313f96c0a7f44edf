//! Sealing: plain bytes in, hashed and compressed in one pass, a self-describing object out.
//!
//! The compressed bytes are kept in chunks, so that no buffer ever has to grow by copying and the object goes to
//! the socket without being put together first.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use walden_core::{
    CODEC_ZSTD, INDEX_BYTES_MAX, Incarnation, ObjectHeader, ObjectKind, SEALED_SCHEMA, SealedError,
    ServerName, WalIdentity, Writer, decode_header_frame, encode_header_frame, encode_index_frame,
};
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ParamSwitch, ResetDirective, get_error_name};

use crate::chunks::{Chunk, Reservation};

/// How hard indexes are compressed: they are small beside what they are of.
const INDEX_LEVEL: i32 = 3;

/// So many chunks of compressed bytes may be begun before the plain bytes that they are of are all written: one that
/// is being filled, and the next.
pub(crate) const SPARE_CHUNKS: usize = 2;

/// How hard to compress: -7 (fastest) to 19. Above 19 a reader would need more memory than `zstd -d` grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CompressionLevel(i32);

impl CompressionLevel {
    /// Level 1: some 500 MB/s a core on WAL, and within a tenth of what level 3 saves.
    pub const DEFAULT: Self = Self(1);

    /// A level from -7 to 19; 0 stands for zstd's own default, 3.
    #[must_use]
    pub fn new(level: i32) -> Option<Self> {
        (-7..=19).contains(&level).then_some(Self(level))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i32 {
        self.0
    }
}

/// What the plain bytes are: decides how a level is carried out, never what comes out on unpacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Anything.
    Any,
    /// WAL. Its repetitions lie close together, in pages of 8 KiB and full-page images of them: with a window of 128 KiB
    /// and a small hash table everything stays in a core's own cache. Measured on pgbench's WAL, level 1 so is a tenth
    /// faster than zstd's own level 1 and compresses it better than zstd's own level 3.
    ///
    /// What zstd leaves out at negative levels, the entropy coding of what it found no repetition of, is kept here down
    /// to level -3: text and numbers in rows become a third smaller by it, for the time that finding fewer repetitions
    /// saves. Levels -1 to -3 are therefore others than zstd's, and smaller; from -4 on speed is all that counts.
    Wal,
}

/// zstd's parameters where they are not left to the level; 0 leaves one to it.
struct Tuning {
    window_log: u32,
    hash_log: u32,
    match_bytes_min: u32,
    /// How many bytes are passed over at a place where no repetition was found.
    step: u32,
    literals: ParamSwitch,
}

impl Tuning {
    fn of(contents: Contents, level: CompressionLevel) -> Self {
        let (window_log, hash_log, match_bytes_min, step) = match (contents, level.get()) {
            (Contents::Any, _) => (0, 0, 0, 0),
            (Contents::Wal, ..=-4) => (16, 12, 6, 0),
            (Contents::Wal, -3) => (17, 12, 6, 6),
            (Contents::Wal, -2) => (17, 12, 6, 4),
            (Contents::Wal, -1) => (17, 12, 6, 2),
            (Contents::Wal, 1) => (17, 13, 5, 0),
            (Contents::Wal, _) => (18, 0, 0, 0),
        };
        let literals = if step > 0 { ParamSwitch::Enable } else { ParamSwitch::Auto };
        Self { window_log, hash_log, match_bytes_min, step, literals }
    }
}

/// Which hash names the contents of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityHash {
    /// Of the plain bytes: two compressions of the same file are the same object.
    Plain,
    /// Of the stored frames: for packs, whose files have hashes of their own in the manifest.
    Stored,
}

/// What the sealer can't know: the caller's part of the header.
#[derive(Debug, Clone)]
pub struct HeaderFields {
    /// What the object holds.
    pub kind: ObjectKind,
    /// The name under which it belongs.
    pub name: String,
    /// The server it belongs to.
    pub server: ServerName,
    /// The incarnation it belongs to.
    pub incarnation: Incarnation,
    /// Who writes it.
    pub writer: Writer,
    /// For segments.
    pub wal: Option<WalIdentity>,
}

/// A sealed object in memory, ready to be written.
#[derive(Debug, Clone)]
pub struct SealedObject {
    header: ObjectHeader,
    chunks: Vec<Bytes>,
}

impl SealedObject {
    /// Takes an object that was put together elsewhere: for packs, whose frames are made on many threads.
    ///
    /// # Errors
    /// [`SealError::Format`] when the bytes do not begin with a header frame, [`SealError::Length`] when there are
    /// more or fewer than it says.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, SealError> {
        let (header, frame_bytes) = decode_header_frame(&bytes)?;
        let announced =
            (frame_bytes as u64).saturating_add(header.stored_bytes).saturating_add(header.index_bytes);
        if announced != bytes.len() as u64 {
            return Err(SealError::Length { announced, given: bytes.len() as u64 });
        }
        Ok(Self { header, chunks: vec![bytes] })
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &ObjectHeader {
        &self.header
    }

    /// Its bytes, header frame first, in order.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Its size in bytes.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Its bytes in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.chunks.concat()
    }
}

/// Where one frame lies among the stored frames of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameExtent {
    /// Distance of its first byte from the first stored frame's first byte.
    pub stored_offset: u64,
    /// Its length in bytes.
    pub stored_bytes: u64,
    /// Length of the plain bytes in it.
    pub plain_bytes: u64,
}

/// Why bytes could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The compressor refused.
    #[error("could not compress: {reason}")]
    Zstd {
        /// What it said.
        reason: &'static str,
    },
    /// A frame was given more or fewer bytes than were announced: the file changed under our hands.
    #[error("a frame got another number of bytes than announced announced={announced} given={given}")]
    Length {
        /// The number announced.
        announced: u64,
        /// The number given.
        given: u64,
    },
    /// A frame was begun inside another, or written outside of one.
    #[error("frames were begun and ended out of turn")]
    Order,
    /// Header or index do not fit into the format.
    #[error("object does not fit the format")]
    Format(#[from] SealedError),
}

fn zstd_error(code: usize) -> SealError {
    SealError::Zstd { reason: get_error_name(code) }
}

#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    announced: u64,
    given: u64,
    stored_offset: u64,
}

/// Makes sealed objects, one after another, with one compressor that is reused.
pub struct Sealer {
    context: CCtx<'static>,
    identity: IdentityHash,
    plain_hash: Sha256,
    stored_hash: Sha256,
    plain_bytes: u64,
    stored_bytes: u64,
    chunks: Vec<Bytes>,
    current: Option<Chunk>,
    /// Where chunks come from, before the heap.
    memory: Option<Reservation>,
    open: Option<OpenFrame>,
    times: SealTimes,
}

/// How long the parts of sealing took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SealTimes {
    /// Hashing the plain bytes.
    pub hash: Duration,
    /// Compressing them.
    pub compress: Duration,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("plain_bytes", &self.plain_bytes).finish_non_exhaustive()
    }
}

impl Sealer {
    /// A sealer that compresses at `level`.
    ///
    /// # Errors
    /// [`SealError::Zstd`] when there is no memory for it.
    pub fn new(level: CompressionLevel, identity: IdentityHash) -> Result<Self, SealError> {
        let context = CCtx::try_create().ok_or(SealError::Zstd { reason: "no memory" })?;
        let mut sealer = Self {
            context,
            identity,
            plain_hash: Sha256::new(),
            stored_hash: Sha256::new(),
            plain_bytes: 0,
            stored_bytes: 0,
            chunks: Vec::new(),
            current: None,
            memory: None,
            open: None,
            times: SealTimes::default(),
        };
        sealer.context.set_parameter(CParameter::ChecksumFlag(true)).map_err(zstd_error)?;
        sealer.context.set_parameter(CParameter::ContentSizeFlag(true)).map_err(zstd_error)?;
        sealer.start(level, identity)?;
        Ok(sealer)
    }

    /// Begins a new object; one that was not finished is dropped.
    ///
    /// # Errors
    /// [`SealError::Zstd`].
    pub fn start(&mut self, level: CompressionLevel, identity: IdentityHash) -> Result<(), SealError> {
        self.start_with(level, identity, Contents::Any, None)
    }

    /// Begins a new object with what its plain bytes are, and with memory for its compressed ones. When that is used up
    /// the heap gives more; what is left of it is given back when the frames are complete.
    ///
    /// # Errors
    /// [`SealError::Zstd`].
    pub fn start_with(
        &mut self,
        level: CompressionLevel,
        identity: IdentityHash,
        contents: Contents,
        memory: Option<Reservation>,
    ) -> Result<(), SealError> {
        let tuning = Tuning::of(contents, level);
        self.context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        for parameter in [
            CParameter::CompressionLevel(level.get()),
            CParameter::WindowLog(tuning.window_log),
            CParameter::HashLog(tuning.hash_log),
            CParameter::MinMatch(tuning.match_bytes_min),
            CParameter::TargetLength(tuning.step),
            CParameter::LiteralCompressionMode(tuning.literals),
        ] {
            self.context.set_parameter(parameter).map_err(zstd_error)?;
        }
        self.memory = memory;
        self.times = SealTimes::default();
        self.identity = identity;
        self.plain_hash = Sha256::new();
        self.stored_hash = Sha256::new();
        (self.plain_bytes, self.stored_bytes) = (0, 0);
        self.chunks.clear();
        self.current = None;
        self.open = None;
        Ok(())
    }

    /// Takes back a chunk whose plain bytes were written, and gives back what memory is reserved beyond what the chunks
    /// that are still to come may need: compressed bytes are never more than plain ones by much.
    pub fn recycle(&mut self, plain: Chunk) {
        if let Some(memory) = &mut self.memory {
            memory.put(plain);
            memory.shrink_to(SPARE_CHUNKS);
        }
    }

    /// How long the parts took since the object was begun.
    #[must_use]
    pub fn times(&self) -> SealTimes {
        self.times
    }

    /// Begins a frame of exactly `plain_bytes`.
    ///
    /// # Errors
    /// [`SealError::Order`] inside of another frame.
    pub fn begin_frame(&mut self, plain_bytes: u64) -> Result<(), SealError> {
        if self.open.is_some() {
            return Err(SealError::Order);
        }
        self.context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        self.context.set_pledged_src_size(Some(plain_bytes)).map_err(zstd_error)?;
        let stored_offset = self.stored_bytes();
        self.open = Some(OpenFrame { announced: plain_bytes, given: 0, stored_offset });
        Ok(())
    }

    /// Adds plain bytes to the frame.
    ///
    /// # Errors
    /// [`SealError::Order`] outside of a frame, [`SealError::Length`] when there are more than announced.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), SealError> {
        let Some(frame) = &mut self.open else { return Err(SealError::Order) };
        frame.given += plain.len() as u64;
        if frame.given > frame.announced {
            return Err(SealError::Length { announced: frame.announced, given: frame.given });
        }
        let begun = Instant::now();
        if self.identity == IdentityHash::Plain {
            self.plain_hash.update(plain);
        }
        let hashed = Instant::now();
        self.plain_bytes += plain.len() as u64;
        let mut input = InBuffer::around(plain);
        while input.pos() < plain.len() {
            self.compress(&mut input, ZSTD_EndDirective::ZSTD_e_continue)?;
        }
        self.times.hash += hashed - begun;
        self.times.compress += hashed.elapsed();
        Ok(())
    }

    /// Ends the frame and says where it lies.
    ///
    /// # Errors
    /// [`SealError::Order`] outside of a frame, [`SealError::Length`] when there were fewer bytes than announced.
    pub fn end_frame(&mut self) -> Result<FrameExtent, SealError> {
        let Some(frame) = self.open.take() else { return Err(SealError::Order) };
        if frame.given != frame.announced {
            return Err(SealError::Length { announced: frame.announced, given: frame.given });
        }
        let begun = Instant::now();
        let mut nothing = InBuffer::around(&[]);
        while self.compress(&mut nothing, ZSTD_EndDirective::ZSTD_e_end)? > 0 {}
        self.times.compress += begun.elapsed();
        let stored_end = self.stored_bytes();
        Ok(FrameExtent {
            stored_offset: frame.stored_offset,
            stored_bytes: stored_end - frame.stored_offset,
            plain_bytes: frame.given,
        })
    }

    /// Adds one whole frame.
    ///
    /// # Errors
    /// As [`Self::begin_frame`].
    pub fn write_frame(&mut self, plain: &[u8]) -> Result<FrameExtent, SealError> {
        self.begin_frame(plain.len() as u64)?;
        self.write(plain)?;
        self.end_frame()
    }

    /// Plain bytes taken so far.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Stored bytes made so far.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes + self.current.as_ref().map_or(0, |chunk| chunk.filled().len() as u64)
    }

    /// Closes the object, with its index if it has one; that is compressed here. The sealer is then ready for
    /// [`Self::start`].
    ///
    /// # Errors
    /// [`SealError::Order`] inside of a frame, [`SealError::Format`] when header or index are too large.
    pub fn finish(&mut self, fields: HeaderFields, index: Option<&[u8]>) -> Result<SealedObject, SealError> {
        self.take_frames()?.into_object(fields, index)
    }

    /// Takes out what was made, to be closed elsewhere. The sealer is then ready for [`Self::start`].
    ///
    /// # Errors
    /// [`SealError::Order`] inside of a frame.
    pub fn take_frames(&mut self) -> Result<SealedFrames, SealError> {
        if self.open.is_some() {
            return Err(SealError::Order);
        }
        self.flush_chunk();
        self.memory = None;
        let hash = |of: IdentityHash, hash: &mut Sha256| {
            let digest = hash.finalize_reset();
            (self.identity == of).then(|| hex(&digest))
        };
        Ok(SealedFrames {
            plain_bytes: self.plain_bytes,
            plain_sha256: hash(IdentityHash::Plain, &mut self.plain_hash),
            stored_bytes: self.stored_bytes,
            stored_sha256: hash(IdentityHash::Stored, &mut self.stored_hash),
            chunks: std::mem::take(&mut self.chunks),
        })
    }

    /// Runs the compressor once; returns how many bytes it still holds back.
    fn compress(&mut self, input: &mut InBuffer<'_>, end: ZSTD_EndDirective) -> Result<usize, SealError> {
        let memory = &mut self.memory;
        let chunk = self.current.get_or_insert_with(|| {
            memory.as_mut().and_then(Reservation::take).unwrap_or_else(Chunk::unpooled)
        });
        let mut output = OutBuffer::around(chunk.room());
        let held_back = self.context.compress_stream2(&mut output, input, end).map_err(zstd_error)?;
        let made = output.pos();
        chunk.advance(made);
        if chunk.is_full() {
            self.flush_chunk();
        }
        Ok(held_back)
    }

    fn flush_chunk(&mut self) {
        let Some(chunk) = self.current.take().filter(|chunk| !chunk.filled().is_empty()) else { return };
        let chunk = chunk.into_bytes();
        if self.identity == IdentityHash::Stored {
            self.stored_hash.update(&chunk);
        }
        self.stored_bytes += chunk.len() as u64;
        self.chunks.push(chunk);
    }
}

/// The frames of an object in memory, without header and index.
#[derive(Debug)]
pub struct SealedFrames {
    plain_bytes: u64,
    plain_sha256: Option<String>,
    stored_bytes: u64,
    stored_sha256: Option<String>,
    chunks: Vec<Bytes>,
}

impl SealedFrames {
    /// Closes the object, with its index if it has one; that is compressed here.
    ///
    /// # Errors
    /// [`SealError::Format`] when header or index are too large.
    pub fn into_object(self, fields: HeaderFields, index: Option<&[u8]>) -> Result<SealedObject, SealError> {
        let index = index.map(index_frame).transpose()?.unwrap_or_default();
        let header = ObjectHeader {
            schema: SEALED_SCHEMA,
            kind: fields.kind,
            name: fields.name,
            server: fields.server,
            incarnation: fields.incarnation,
            plain_bytes: self.plain_bytes,
            plain_sha256: self.plain_sha256,
            stored_bytes: self.stored_bytes,
            stored_sha256: self.stored_sha256,
            index_bytes: index.len() as u64,
            codec: CODEC_ZSTD.to_owned(),
            requires: Vec::new(),
            writer: fields.writer,
            wal: fields.wal,
        };
        let mut chunks = Vec::with_capacity(self.chunks.len() + 2);
        chunks.push(Bytes::from(encode_header_frame(&header)?));
        chunks.extend(self.chunks);
        if !index.is_empty() {
            chunks.push(Bytes::from(index));
        }
        Ok(SealedObject { header, chunks })
    }
}

fn index_frame(plain: &[u8]) -> Result<Vec<u8>, SealError> {
    if plain.len() > INDEX_BYTES_MAX {
        let too_large = SealedError::TooLarge { frame: "index", bytes: plain.len(), max: INDEX_BYTES_MAX };
        return Err(SealError::Format(too_large));
    }
    Ok(encode_index_frame(&compress_index(plain)?)?)
}

/// The content of an index frame: one zstd frame with content size and checksum.
pub(crate) fn compress_index(plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut context = CCtx::try_create().ok_or(SealError::Zstd { reason: "no memory" })?;
    context.set_parameter(CParameter::ChecksumFlag(true)).map_err(zstd_error)?;
    context.set_parameter(CParameter::CompressionLevel(INDEX_LEVEL)).map_err(zstd_error)?;
    let mut compressed = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut compressed, plain).map_err(zstd_error)?;
    Ok(compressed)
}

/// Seals `plain` as one frame.
///
/// # Errors
/// [`SealError::Zstd`] and [`SealError::Format`].
pub fn seal_bytes(
    level: CompressionLevel,
    identity: IdentityHash,
    fields: HeaderFields,
    plain: &[u8],
    index: Option<&[u8]>,
) -> Result<SealedObject, SealError> {
    let mut sealer = Sealer::new(level, identity)?;
    sealer.write_frame(plain)?;
    sealer.finish(fields, index)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of numbers and words: few repetitions to find, much to save by coding letters shorter than others.
    fn rows() -> Vec<u8> {
        let mut state = 7_u64;
        let mut digit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b"0123456789abcdef"[usize::try_from(state >> 60).unwrap()]
        };
        std::iter::repeat_with(&mut digit).take(1 << 20).collect()
    }

    fn frame(sealer: &mut Sealer, contents: Contents, level: i32, plain: &[u8]) -> Vec<u8> {
        let level = CompressionLevel::new(level).unwrap();
        sealer.start_with(level, IdentityHash::Plain, contents, None).unwrap();
        sealer.write_frame(plain).unwrap();
        let frames = sealer.take_frames().unwrap();
        assert_eq!(frames.plain_sha256, Some(walden_core::sha256_hex(plain)));
        frames.chunks.concat()
    }

    #[test]
    fn every_level_gives_an_ordinary_frame_whatever_was_compressed_before() {
        let plain = rows();
        let mut reused = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Plain).unwrap();
        for contents in [Contents::Wal, Contents::Any] {
            for level in -7..=7 {
                let stored = frame(&mut reused, contents, level, &plain);
                assert_eq!(zstd::bulk::decompress(&stored, plain.len()).unwrap(), plain, "level {level}");
                let mut fresh = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Plain).unwrap();
                assert!(stored == frame(&mut fresh, contents, level, &plain), "level {level} after another");
            }
        }
    }

    #[test]
    fn levels_for_wal_keep_the_coding_of_literals_down_to_minus_three() {
        let plain = rows();
        let mut sealer = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Plain).unwrap();
        let mut bytes = |contents, level| frame(&mut sealer, contents, level, &plain).len();
        for level in [-1, -2, -3] {
            assert!(bytes(Contents::Wal, level) < plain.len() * 6 / 10, "level {level}");
        }
        assert!(bytes(Contents::Wal, -4) > plain.len() * 9 / 10);
        // What is no WAL is compressed as zstd means the level.
        assert!(bytes(Contents::Any, -1) > plain.len() * 9 / 10);
    }
}
