//! Packs: frames of file contents, put together to objects of a size that stores like.
//!
//! A pack is a sealed object whose header frame is padded to [`HEADER_BYTES`], so that every frame's place is known
//! as soon as it is added, before the header can be written. Its identity is the SHA-256 of its frames; the
//! files in it have hashes of their own in the manifest.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use walden_core::{
    CODEC_ZSTD, Incarnation, ObjectHeader, ObjectKind, SEALED_SCHEMA, ServerName, Writer,
    encode_padded_header_frame,
};
use walden_store::SealedObject;

use super::lines::seal_error;
use super::queue::{Stopped, lock};
use crate::error::Result;

/// Length of a pack's header frame, and the place of its first frame.
pub(super) const HEADER_BYTES: usize = 4096;
/// A pack is closed before it would become larger than this, unless it holds one frame only.
pub(super) const PACK_BYTES: usize = 24 << 20;
/// Packs in memory: one being filled, the others on their way to the store.
pub(super) const PACKS_IN_MEMORY: usize = 4;

/// Where a frame ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: u32,
    /// From the first byte of the object.
    pub(super) frame_offset: u64,
    pub(super) frame_bytes: u64,
}

/// A pack that is full and waits to be sealed and stored. Holds one of the places in memory until it is dropped.
#[derive(Debug)]
pub(super) struct FullPack {
    pub(super) number: u32,
    plain_bytes: u64,
    /// Room for the header, then the frames.
    buffer: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Filling {
    current: Option<FullPack>,
    next_number: u32,
    /// Gone once the last pack has been handed over.
    full: Option<UnboundedSender<FullPack>>,
}

/// Collects frames from all threads.
#[derive(Debug)]
pub(super) struct PackWriter {
    filling: Mutex<Filling>,
    places: Arc<Semaphore>,
    pack_bytes: usize,
}

impl PackWriter {
    pub(super) fn new(full: UnboundedSender<FullPack>) -> Self {
        Self::with_limits(full, PACK_BYTES, PACKS_IN_MEMORY)
    }

    pub(super) fn with_limits(full: UnboundedSender<FullPack>, pack_bytes: usize, in_memory: usize) -> Self {
        let filling = Filling { current: None, next_number: 0, full: Some(full) };
        Self { filling: Mutex::new(filling), places: Arc::new(Semaphore::new(in_memory)), pack_bytes }
    }

    /// Adds a frame that holds `plain_bytes`. Waits while all places in memory are taken; not to be called from
    /// async code.
    pub(super) fn add(&self, frame: &[u8], plain_bytes: usize) -> Result<Location, Stopped> {
        let mut filling = lock(&self.filling);
        if filling.full.is_none() {
            return Err(Stopped);
        }
        let is_full = |pack: &FullPack| pack.buffer.len() + frame.len() > self.pack_bytes;
        if filling.current.as_ref().is_some_and(is_full) {
            filling.hand_over()?;
        }
        let pack = match &mut filling.current {
            Some(pack) => pack,
            None => {
                // The lock stays held: whoever else has a frame could not place it either.
                let place = futures::executor::block_on(Arc::clone(&self.places).acquire_owned());
                let pack = filling.begin(place.map_err(|_| Stopped)?, self.pack_bytes);
                filling.current.insert(pack)
            }
        };
        let location = Location {
            pack: pack.number,
            frame_offset: pack.buffer.len() as u64,
            frame_bytes: frame.len() as u64,
        };
        pack.buffer.extend_from_slice(frame);
        pack.plain_bytes += plain_bytes as u64;
        Ok(location)
    }

    /// Hands over the last pack; nothing can be added after it. Returns how many packs there are.
    pub(super) fn finish(&self) -> Result<u32, Stopped> {
        let mut filling = lock(&self.filling);
        filling.hand_over()?;
        filling.full = None;
        Ok(filling.next_number)
    }

    /// Wakes who waits for a place, and lets nobody have one any more.
    pub(super) fn stop(&self) {
        self.places.close();
    }
}

impl Filling {
    fn begin(&mut self, place: OwnedSemaphorePermit, pack_bytes: usize) -> FullPack {
        let number = self.next_number;
        self.next_number += 1;
        let mut buffer = Vec::with_capacity(pack_bytes);
        buffer.resize(HEADER_BYTES, 0);
        FullPack { number, plain_bytes: 0, buffer, _place: place }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        match (self.current.take(), &self.full) {
            (None, _) => Ok(()),
            (Some(pack), Some(full)) => full.send(pack).map_err(|_| Stopped),
            (Some(_), None) => Err(Stopped),
        }
    }
}

/// What all packs of a backup have in common.
#[derive(Debug, Clone)]
pub(super) struct PackIdentity {
    pub(super) server: ServerName,
    pub(super) incarnation: Incarnation,
    pub(super) writer: Writer,
}

/// A pack ready to be stored.
#[derive(Debug)]
pub(super) struct SealedPack {
    pub(super) number: u32,
    pub(super) object: SealedObject,
    /// Holds the place in memory until the pack is stored.
    _place: OwnedSemaphorePermit,
}

impl FullPack {
    /// Writes the header into its place. Hashes the whole pack, so not for async threads.
    pub(super) fn seal(self, identity: PackIdentity) -> Result<SealedPack> {
        let Self { number, plain_bytes, mut buffer, _place: place } = self;
        let frames = buffer.get(HEADER_BYTES..).unwrap_or_default();
        let header = ObjectHeader {
            schema: SEALED_SCHEMA,
            kind: ObjectKind::Pack,
            name: format!("{number:08}.zst"),
            server: identity.server,
            incarnation: identity.incarnation,
            plain_bytes,
            plain_sha256: None,
            stored_bytes: frames.len() as u64,
            stored_sha256: Some(hex(&Sha256::digest(frames))),
            index_bytes: 0,
            codec: CODEC_ZSTD.to_owned(),
            requires: Vec::new(),
            writer: identity.writer,
            wal: None,
        };
        let header = encode_padded_header_frame(&header, HEADER_BYTES).map_err(seal_error)?;
        for (to, from) in buffer.iter_mut().zip(header) {
            *to = from;
        }
        let object = SealedObject::from_bytes(Bytes::from(buffer)).map_err(seal_error)?;
        Ok(SealedPack { number, object, _place: place })
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::sync::mpsc;
    use walden_core::decode_header_frame;

    use super::*;

    fn identity() -> PackIdentity {
        PackIdentity {
            server: "main".parse().unwrap(),
            incarnation: "7401234567890123456-17".parse().unwrap(),
            writer: Writer::new("db1", &"/long".repeat(100), Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn frames_lie_where_it_is_said_and_the_header_names_their_hash() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let packs = PackWriter::with_limits(sender, HEADER_BYTES + 100, 9);
        let frames: Vec<Vec<u8>> = (0..10_u8).map(|n| vec![n; 30 + usize::from(n)]).collect();
        let places: Vec<Location> = frames.iter().map(|frame| packs.add(frame, 7).unwrap()).collect();
        let huge = packs.add(&[9; 500], 500).unwrap();
        assert_eq!(packs.finish().unwrap(), 6);
        assert_eq!(packs.add(&[1], 1), Err(Stopped));
        let mut sealed = Vec::new();
        while let Ok(pack) = receiver.try_recv() {
            assert_eq!(pack.number as usize, sealed.len());
            sealed.push(pack.seal(identity()).unwrap());
        }
        assert_eq!(sealed.len(), 6);
        assert_eq!((huge.pack, huge.frame_offset, huge.frame_bytes), (5, 4096, 500));
        for (frame, place) in frames.iter().zip(places) {
            let object = sealed[place.pack as usize].object.to_vec();
            let (from, bytes) = (usize::try_from(place.frame_offset).unwrap(), frame.len());
            assert_eq!(&object[from..from + bytes], frame.as_slice());
            let (header, length) = decode_header_frame(&object).unwrap();
            assert_eq!((length, header.stored_bytes), (HEADER_BYTES, (object.len() - HEADER_BYTES) as u64));
            assert_eq!(header.stored_sha256.unwrap(), hex(&Sha256::digest(&object[HEADER_BYTES..])));
            assert_eq!(header.name, format!("{:08}.zst", place.pack));
        }
    }

    #[test]
    fn no_more_packs_than_places_are_in_memory_and_stopping_frees_who_waits() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let packs = Arc::new(PackWriter::with_limits(sender, HEADER_BYTES + 10, 2));
        let filler = {
            let packs = Arc::clone(&packs);
            std::thread::spawn(move || (0..100).flat_map(|_| packs.add(&[1; 10], 10)).count())
        };
        let first = receiver.blocking_recv().unwrap();
        // The second place is taken by the pack being filled; the third pack needs the first one's.
        drop(first);
        let second = receiver.blocking_recv().unwrap();
        packs.stop();
        let placed = filler.join().unwrap();
        assert!((2..=3).contains(&placed), "{placed}");
        drop(second);
    }
}
