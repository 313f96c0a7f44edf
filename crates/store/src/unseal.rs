//! Opening sealed objects: every byte is checked, nothing is believed that was not, and no length from the outside
//! decides how much memory is taken.

use std::io::Write;

use sha2::{Digest, Sha256};
use walden_core::{
    HEADER_FRAME_BYTES_MAX, INDEX_BYTES_MAX, ObjectHeader, SealedError, decode_header_frame,
    decode_index_frame,
};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

use crate::seal::hex;

/// Largest window that a frame may ask for, as a power of two: what `zstd -d` grants without being told.
const WINDOW_LOG_MAX: u32 = 27;
/// So many plain bytes are hashed and written at once: few calls of the system, and they stay in a core's cache.
const OUTPUT_BYTES: usize = 128 << 10;
/// The index frame has a header of its own.
pub(crate) const INDEX_FRAME_BYTES_MAX: u64 = INDEX_BYTES_MAX as u64 + 64;
/// One extent of a pack is never larger, in plain bytes.
pub const EXTENT_BYTES_MAX: u64 = 64 << 20;

/// Why an object can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// Header or index are not ours, damaged, or of a newer version.
    #[error(transparent)]
    Frame(#[from] SealedError),
    /// It is another object than the one that belongs under this key.
    #[error("object has another name expected={expected} found={found}")]
    Name {
        /// The name that belongs there.
        expected: String,
        /// The name in the header.
        found: String,
    },
    /// It says that it is larger than what could belong there.
    #[error("{what} is too large bytes={bytes} max={max}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// The size.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The compressed frames are damaged.
    #[error("compressed data is damaged: {reason}")]
    Zstd {
        /// What the decompressor said.
        reason: &'static str,
    },
    /// It holds more or fewer plain bytes than its header says.
    #[error("plain data has another length expected={expected} found={found}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What was found; at least this many.
        found: u64,
    },
    /// Its contents are not the ones that were sealed.
    #[error("{what} does not match its hash expected={expected} found={found}")]
    Hash {
        /// Plain or stored data.
        what: &'static str,
        /// The hash in the header.
        expected: String,
        /// The hash found.
        found: String,
    },
    /// It ends before it is complete.
    #[error("object is cut off in its {part}")]
    Truncated {
        /// Where it ends.
        part: &'static str,
    },
    /// Something follows its end.
    #[error("object goes on behind its end bytes={bytes}")]
    TrailingBytes {
        /// How many bytes at least.
        bytes: u64,
    },
    /// The plain bytes could not be handed on.
    #[error("could not write the plain data")]
    Write(#[source] std::io::Error),
}

impl UnsealError {
    /// True when a newer version of Walden wrote the object; false when it is damaged or foreign.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Frame(error) if error.is_unsupported())
    }
}

/// What must be true of an object before its contents are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected<'a> {
    /// The name in its header.
    pub name: &'a str,
    /// Its plain data is at most this long, in bytes.
    pub max_plain_bytes: u64,
}

/// An opened object.
#[derive(Debug)]
pub struct Unsealed<W> {
    /// Its header.
    pub header: ObjectHeader,
    /// What its index frame holds, if it has one: for [`open_index`]. A damaged one spoils nothing else, because the
    /// contents have a hash of their own.
    pub index: Option<Result<Vec<u8>, SealedError>>,
    /// What the plain bytes were written to.
    pub plain: W,
}

enum Stage {
    Header(Vec<u8>),
    Frames { left: u64 },
    Index { bytes: Vec<u8>, left: u64 },
    End,
}

/// Opens an object whose bytes come in pieces. The plain bytes are written out as they come, so they may be used
/// only after [`Self::finish`] has said that they are right.
pub struct Unsealer<W> {
    expected_name: String,
    max_plain_bytes: u64,
    stage: Stage,
    header: Option<ObjectHeader>,
    index: Option<Result<Vec<u8>, SealedError>>,
    context: DCtx<'static>,
    output: Vec<u8>,
    inside_frame: bool,
    /// Whether the frames' own checksums are compared although a hash covers the plain bytes.
    strict: bool,
    plain_bytes: u64,
    plain_hash: Sha256,
    stored_hash: Sha256,
    plain: W,
}

impl<W> std::fmt::Debug for Unsealer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unsealer").field("name", &self.expected_name).finish_non_exhaustive()
    }
}

fn zstd_error(code: usize) -> UnsealError {
    UnsealError::Zstd { reason: get_error_name(code) }
}

fn decompressor() -> Result<DCtx<'static>, UnsealError> {
    let mut context = DCtx::try_create().ok_or(UnsealError::Zstd { reason: "no memory" })?;
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd_error)?;
    Ok(context)
}

impl<W: Write> Unsealer<W> {
    /// Will write the plain bytes to `plain`.
    ///
    /// # Errors
    /// [`UnsealError::Zstd`] when there is no memory for the decompressor.
    pub fn new(expected: Expected<'_>, plain: W) -> Result<Self, UnsealError> {
        Ok(Self {
            expected_name: expected.name.to_owned(),
            max_plain_bytes: expected.max_plain_bytes,
            stage: Stage::Header(Vec::new()),
            header: None,
            index: None,
            context: decompressor()?,
            output: Vec::with_capacity(OUTPUT_BYTES),
            inside_frame: false,
            strict: false,
            plain_bytes: 0,
            plain_hash: Sha256::new(),
            stored_hash: Sha256::new(),
            plain,
        })
    }

    /// Compares everything that can be compared, the frames' own checksums too: for who asks whether an object is as it was
    /// stored, and not only whether its contents can be used.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Takes the next bytes of the object.
    ///
    /// # Errors
    /// See [`UnsealError`]; after an error the object is lost.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), UnsealError> {
        while !bytes.is_empty() {
            bytes = match &mut self.stage {
                Stage::Header(buffer) => {
                    let room = HEADER_FRAME_BYTES_MAX - buffer.len();
                    let (taken, rest) = bytes.split_at(room.min(bytes.len()));
                    buffer.extend_from_slice(taken);
                    let header_bytes = std::mem::take(buffer);
                    self.read_header(header_bytes)?;
                    rest
                }
                Stage::Frames { left } => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (taken, rest) = bytes.split_at(now);
                    *left -= now as u64;
                    let last = *left == 0;
                    self.read_frames(taken)?;
                    if last {
                        self.end_frames()?;
                    }
                    rest
                }
                Stage::Index { bytes: buffer, left } => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (taken, rest) = bytes.split_at(now);
                    buffer.extend_from_slice(taken);
                    *left -= now as u64;
                    if *left == 0 {
                        self.index = Some(decode_index_frame(buffer).map(<[u8]>::to_vec));
                        self.stage = Stage::End;
                    }
                    rest
                }
                Stage::End => return Err(UnsealError::TrailingBytes { bytes: bytes.len() as u64 }),
            };
        }
        Ok(())
    }

    /// Tries to read the header; what follows it in `bytes` is taken as if it came next.
    fn read_header(&mut self, bytes: Vec<u8>) -> Result<(), UnsealError> {
        let Some(whole) = header_frame_bytes(&bytes) else {
            self.stage = Stage::Header(bytes);
            return Ok(());
        };
        if bytes.len() < whole.min(HEADER_FRAME_BYTES_MAX) {
            self.stage = Stage::Header(bytes);
            return Ok(());
        }
        let (header, used) = decode_header_frame(&bytes)?;
        if header.name != self.expected_name {
            return Err(UnsealError::Name { expected: self.expected_name.clone(), found: header.name });
        }
        let too_large = |what, bytes, max| Err(UnsealError::TooLarge { what, bytes, max });
        if header.plain_bytes > self.max_plain_bytes {
            return too_large("plain data", header.plain_bytes, self.max_plain_bytes);
        }
        if header.index_bytes > INDEX_FRAME_BYTES_MAX {
            return too_large("index", header.index_bytes, INDEX_FRAME_BYTES_MAX);
        }
        // The frames' own checksum sees nothing that SHA-256 does not.
        let hashed = header.plain_sha256.is_some() && !self.strict;
        self.context.set_parameter(DParameter::ForceIgnoreChecksum(hashed)).map_err(zstd_error)?;
        self.stage = Stage::Frames { left: header.stored_bytes };
        let empty = header.stored_bytes == 0;
        self.header = Some(header);
        if empty {
            self.end_frames()?;
        }
        match bytes.get(used..) {
            Some(rest) if !rest.is_empty() => self.push(rest),
            _ => Ok(()),
        }
    }

    fn read_frames(&mut self, stored: &[u8]) -> Result<(), UnsealError> {
        let expected = self.header.as_ref().map_or(0, |header| header.plain_bytes);
        if self.header.as_ref().is_some_and(|header| header.stored_sha256.is_some()) {
            self.stored_hash.update(stored);
        }
        let mut input = InBuffer::around(stored);
        loop {
            let before = (input.pos(), self.output.len());
            let mut output = OutBuffer::around_pos(&mut self.output, before.1);
            let hint = self.context.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
            self.inside_frame = hint != 0;
            self.plain_bytes += (self.output.len() - before.1) as u64;
            if self.plain_bytes > expected {
                return Err(UnsealError::Length { expected, found: self.plain_bytes });
            }
            let stuck = before == (input.pos(), self.output.len());
            let full = self.output.len() == self.output.capacity();
            if full {
                self.hand_on()?;
            }
            // A frame that has ended holds nothing back; inside of one, a full output may mean that more waits.
            if input.pos() == stored.len() && (hint == 0 || !full) {
                return Ok(());
            }
            if stuck {
                return Err(UnsealError::Zstd { reason: "no progress" });
            }
        }
    }

    /// Hashes what is decompressed and writes it out.
    fn hand_on(&mut self) -> Result<(), UnsealError> {
        self.plain_hash.update(&self.output);
        self.plain.write_all(&self.output).map_err(UnsealError::Write)?;
        self.output.clear();
        Ok(())
    }

    fn end_frames(&mut self) -> Result<(), UnsealError> {
        self.hand_on()?;
        let Some(header) = &self.header else { return Err(UnsealError::Truncated { part: "header" }) };
        if self.inside_frame {
            return Err(UnsealError::Truncated { part: "last frame" });
        }
        if self.plain_bytes != header.plain_bytes {
            return Err(UnsealError::Length { expected: header.plain_bytes, found: self.plain_bytes });
        }
        check_hash("plain data", header.plain_sha256.as_deref(), &mut self.plain_hash)?;
        check_hash("stored data", header.stored_sha256.as_deref(), &mut self.stored_hash)?;
        self.stage = match header.index_bytes {
            0 => Stage::End,
            left => Stage::Index { bytes: Vec::new(), left },
        };
        Ok(())
    }

    /// Says that all of the object has been given.
    ///
    /// # Errors
    /// [`UnsealError::Truncated`] when something is missing, [`UnsealError::Write`] when the last plain bytes could
    /// not be handed on.
    pub fn finish(mut self) -> Result<Unsealed<W>, UnsealError> {
        let part = match &self.stage {
            Stage::Header(bytes) => {
                // What never was a sealed object is called that, rather than cut off.
                decode_header_frame(bytes)?;
                Some("header")
            }
            Stage::Frames { .. } => Some("compressed data"),
            Stage::Index { .. } => Some("index"),
            Stage::End => None,
        };
        match (part, self.header) {
            (None, Some(header)) => {
                self.plain.flush().map_err(UnsealError::Write)?;
                Ok(Unsealed { header, index: self.index, plain: self.plain })
            }
            (part, _) => Err(UnsealError::Truncated { part: part.unwrap_or("header") }),
        }
    }
}

/// The length of the header frame, as its first eight bytes tell it.
fn header_frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    Some((u32::from_le_bytes(length) as usize).saturating_add(8))
}

fn check_hash(what: &'static str, expected: Option<&str>, hash: &mut Sha256) -> Result<(), UnsealError> {
    let Some(expected) = expected else { return Ok(()) };
    let found = hex(&hash.finalize_reset());
    if found == expected {
        return Ok(());
    }
    Err(UnsealError::Hash { what, expected: expected.to_owned(), found })
}

/// Opens an object that is in memory as a whole.
///
/// # Errors
/// See [`UnsealError`].
pub fn open_sealed(bytes: &[u8], expected: Expected<'_>) -> Result<Unsealed<Vec<u8>>, UnsealError> {
    let mut unsealer = Unsealer::new(expected, Vec::new())?;
    unsealer.push(bytes)?;
    unsealer.finish()
}

/// Decompresses what an index frame holds.
///
/// # Errors
/// [`UnsealError::TooLarge`] when it would be longer than any index, [`UnsealError::Zstd`] and
/// [`UnsealError::Length`].
pub fn open_index(content: &[u8]) -> Result<Vec<u8>, UnsealError> {
    let Ok(Some(bytes)) = zstd::zstd_safe::get_frame_content_size(content) else {
        return Err(UnsealError::Zstd { reason: "the index is not a frame that tells its length" });
    };
    if bytes > INDEX_BYTES_MAX as u64 {
        return Err(UnsealError::TooLarge { what: "index", bytes, max: INDEX_BYTES_MAX as u64 });
    }
    open_extent(content, bytes)
}

/// Decompresses one extent of a pack, one frame that holds exactly `plain_bytes`; its hash is for the caller to
/// check against the manifest.
///
/// # Errors
/// [`UnsealError::TooLarge`] above [`EXTENT_BYTES_MAX`], [`UnsealError::Zstd`] and [`UnsealError::Length`].
pub fn open_extent(stored: &[u8], plain_bytes: u64) -> Result<Vec<u8>, UnsealError> {
    if plain_bytes > EXTENT_BYTES_MAX {
        return Err(UnsealError::TooLarge { what: "extent", bytes: plain_bytes, max: EXTENT_BYTES_MAX });
    }
    let mut context = decompressor()?;
    context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
    // One byte more, so that a longer frame is seen to be longer.
    let mut plain = Vec::with_capacity(usize::try_from(plain_bytes).unwrap_or_default() + 1);
    let mut input = InBuffer::around(stored);
    let mut output = OutBuffer::around(&mut plain);
    let mut hint = 1;
    while hint != 0 && (output.pos() as u64) <= plain_bytes {
        let before = (input.pos(), output.pos());
        hint = context.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
        if hint != 0 && before == (input.pos(), output.pos()) {
            return Err(UnsealError::Truncated { part: "extent" });
        }
    }
    let (read, found) = (input.pos(), plain.len() as u64);
    if hint != 0 || found != plain_bytes {
        return Err(UnsealError::Length { expected: plain_bytes, found });
    }
    if read != stored.len() {
        return Err(UnsealError::TrailingBytes { bytes: (stored.len() - read) as u64 });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use jiff::Timestamp;
    use proptest::prelude::*;
    use walden_core::{ObjectKind, Writer};

    use super::*;
    use crate::seal::{CompressionLevel, HeaderFields, IdentityHash, SealedObject, Sealer, seal_bytes};

    const NAME: &str = "000000010000000000000003";

    fn fields() -> HeaderFields {
        HeaderFields {
            kind: ObjectKind::Segment,
            name: NAME.to_owned(),
            server: "main".parse().unwrap(),
            incarnation: "7401234567890123456-17".parse().unwrap(),
            writer: Writer::new("db1", "/pgdata", Timestamp::UNIX_EPOCH),
            wal: None,
        }
    }

    fn seal(plain: &[u8], index: Option<&[u8]>) -> SealedObject {
        seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields(), plain, index).unwrap()
    }

    fn expected() -> Expected<'static> {
        Expected { name: NAME, max_plain_bytes: 64 << 20 }
    }

    /// Half compressible, half not.
    fn sample(bytes: usize) -> Vec<u8> {
        let mut state = 0x1234_5678_u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let slow = |at: usize| u8::try_from(at / 64 % 251).unwrap();
        (0..bytes).map(|at| if at / 4096 % 2 == 0 { next() } else { slow(at) }).collect()
    }

    #[test]
    fn what_was_sealed_comes_back_with_its_index() {
        // The middle sizes fill the output buffer exactly.
        for bytes in [0, 1, 8192, OUTPUT_BYTES, 2 * OUTPUT_BYTES, (1 << 20) + 17] {
            let plain = sample(bytes);
            let object = seal(&plain, Some(b"index"));
            assert_eq!(object.object_bytes(), object.to_vec().len() as u64);
            let opened = open_sealed(&object.to_vec(), expected()).unwrap();
            assert!(opened.plain == plain, "{bytes}");
            assert_eq!(&opened.header, object.header());
            assert_eq!(open_index(&opened.index.unwrap().unwrap()).unwrap(), b"index");
        }
    }

    #[test]
    fn zeros_of_any_length_cost_next_to_nothing() {
        let object = seal(&vec![0; 16 << 20], None);
        assert!(object.object_bytes() < 4096, "{}", object.object_bytes());
        assert_eq!(open_sealed(&object.to_vec(), expected()).unwrap().plain.len(), 16 << 20);
    }

    #[test]
    fn the_zstd_program_decodes_an_object() {
        let plain = sample(3 << 20);
        let mut sealer = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Stored).unwrap();
        for part in plain.chunks(1 << 20) {
            sealer.write_frame(part).unwrap();
        }
        let object = sealer.finish(fields(), Some(b"an index that zstd must pass over")).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&object.to_vec()).unwrap();
        let mut child = Command::new("zstd")
            .args(["-d", "-q", "-c"])
            .arg(file.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the zstd program is installed");
        let mut decoded = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut decoded).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(decoded == plain);
    }

    #[test]
    fn extents_of_a_pack_open_alone() {
        let parts = [sample(1 << 20), Vec::new(), sample(5)];
        let mut sealer = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Stored).unwrap();
        let extents: Vec<_> = parts.iter().map(|part| sealer.write_frame(part).unwrap()).collect();
        let object = sealer.finish(fields(), None).unwrap();
        let stored: Vec<u8> = object.chunks()[1..].concat();
        for (extent, part) in extents.iter().zip(&parts) {
            let (from, bytes) = (
                usize::try_from(extent.stored_offset).unwrap(),
                usize::try_from(extent.stored_bytes).unwrap(),
            );
            let frame = &stored[from..from + bytes];
            assert!(open_extent(frame, extent.plain_bytes).unwrap() == *part);
            assert!(open_extent(frame, extent.plain_bytes + 1).is_err());
            assert!(open_extent(&stored[from..from + bytes - 1], extent.plain_bytes).is_err());
            assert!(extent.plain_bytes == 0 || open_extent(frame, extent.plain_bytes - 1).is_err());
        }
        assert!(matches!(open_extent(&stored, 1 << 20), Err(UnsealError::TrailingBytes { .. })));
        assert!(matches!(open_extent(&stored, EXTENT_BYTES_MAX + 1), Err(UnsealError::TooLarge { .. })));
    }

    #[test]
    fn a_frame_that_is_not_as_long_as_announced_is_refused() {
        let mut sealer = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Plain).unwrap();
        sealer.begin_frame(10).unwrap();
        sealer.write(b"12345").unwrap();
        assert!(sealer.end_frame().is_err());
        sealer.start(CompressionLevel::DEFAULT, IdentityHash::Plain).unwrap();
        sealer.begin_frame(3).unwrap();
        assert!(sealer.write(b"1234").is_err());
        sealer.start(CompressionLevel::DEFAULT, IdentityHash::Plain).unwrap();
        sealer.write_frame(b"fresh").unwrap();
        let object = sealer.finish(fields(), None).unwrap();
        assert_eq!(open_sealed(&object.to_vec(), expected()).unwrap().plain, b"fresh");
    }

    #[test]
    fn an_object_under_a_wrong_name_or_too_large_is_refused() {
        let bytes = seal(b"plain", None).to_vec();
        let wrong = open_sealed(&bytes, Expected { name: "other", max_plain_bytes: 5 }).unwrap_err();
        assert!(matches!(wrong, UnsealError::Name { .. }), "{wrong}");
        let large = open_sealed(&bytes, Expected { name: NAME, max_plain_bytes: 4 }).unwrap_err();
        assert!(matches!(large, UnsealError::TooLarge { .. }), "{large}");
    }

    #[test]
    fn a_cut_and_a_tail_are_found_wherever_they_are() {
        let bytes = seal(&sample(100), Some(b"index")).to_vec();
        for end in 0..bytes.len() {
            let cut = open_sealed(&bytes[..end], expected()).unwrap_err();
            assert!(matches!(cut, UnsealError::Truncated { .. } | UnsealError::Frame(_)), "{end}: {cut}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(open_sealed(&longer, expected()), Err(UnsealError::TrailingBytes { .. })));
        let foreign = open_sealed(b"PK\x03\x04 and so on, quite another thing", expected()).unwrap_err();
        assert!(matches!(foreign, UnsealError::Frame(SealedError::NotSealed { .. })), "{foreign}");
    }

    #[test]
    fn a_flipped_bit_is_found_or_does_no_harm() {
        for identity in [IdentityHash::Plain, IdentityHash::Stored] {
            let plain = sample(64);
            let object =
                seal_bytes(CompressionLevel::DEFAULT, identity, fields(), &plain, Some(b"i")).unwrap();
            let bytes = object.to_vec();
            let index_at = bytes.len() - usize::try_from(object.header().index_bytes).unwrap();
            for at in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                match open_sealed(&flipped, expected()) {
                    Err(_) => {}
                    Ok(opened) if opened.index.as_ref().is_some_and(Result::is_err) => {
                        assert!(at / 8 >= index_at && opened.plain == plain, "bit {at}");
                    }
                    // A zstd frame has a few bits without meaning, which only a hash of the frames can see.
                    Ok(opened) => {
                        assert!(identity == IdentityHash::Plain && opened.plain == plain, "bit {at}");
                        assert!(at / 8 < index_at, "bit {at}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same(plain in proptest::collection::vec(any::<u8>(), 0..5000), size in 1_usize..9000) {
            let object = seal(&plain, Some(b"index"));
            let mut unsealer = Unsealer::new(expected(), Vec::new()).unwrap();
            for piece in object.to_vec().chunks(size) {
                unsealer.push(piece).unwrap();
            }
            prop_assert_eq!(unsealer.finish().unwrap().plain, plain);
        }

        #[test]
        fn opening_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..300), keep in 0_usize..600) {
            let bytes = seal(b"some plain bytes", None).to_vec();
            let _ = open_sealed(&[&bytes[..keep.min(bytes.len())], &tail].concat(), expected());
            let _ = open_extent(&tail, 100);
            let _ = open_index(&tail);
        }
    }
}
