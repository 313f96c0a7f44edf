//! What is derived from the archive and may be lost without harm: the indexes of sealed objects, and the objects
//! that repeat what many of them say.

use object_store::{PutMode, PutOptions, PutPayload};
use walden_core::{DerivedKey, ObjectKey, decode_index_frame};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::create::of_a_put;
use crate::error::{Place, StoreError};
use crate::read::HeaderRead;
use crate::seal::SealedObject;
use crate::store::{Call, Store};
use crate::unseal::{INDEX_FRAME_BYTES_MAX, UnsealError, open_index};

/// So much of an object's end is read when the length of its index is not known: most indexes are shorter.
const TAIL_BYTES: u64 = 128 << 10;
/// An index that arrives damaged is read this often before it counts as damaged in the store.
const READS_OF_DAMAGED: u32 = 2;
/// Length of an index frame up to its content.
const FRAME_PREFIX_BYTES: usize = 20;

/// The index of an object, as it was read alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRead {
    /// Length of the index frame in bytes; 0 when there is none.
    pub index_bytes: u64,
    /// The index, decompressed; `None` when there is none.
    pub plain: Option<Vec<u8>>,
}

impl Store {
    /// Reads the index of a sealed object without the rest: one request when `index_bytes`, the length of its frame,
    /// is known. When it is not, one request if the index lies in the object's last 128 KiB, else two or three.
    ///
    /// The object's contents are not looked at, and neither is its header unless it must be.
    ///
    /// # Errors
    /// [`StoreError::ObjectNotFound`]; [`StoreError::Corrupt`] when the index is damaged, or is not where it should
    /// be; [`StoreError::Size`] when the object has not `object_bytes`; and what any read can give.
    pub async fn get_index(
        &self,
        key: &ObjectKey,
        object_bytes: u64,
        index_bytes: Option<u64>,
        budget: &RetryBudget,
    ) -> Result<IndexRead, StoreError> {
        let mut reads = 0;
        loop {
            reads += 1;
            let read = match index_bytes {
                Some(index_bytes) => self.index_at_end(key, object_bytes, index_bytes, budget).await,
                None => self.index_of_unknown_length(key, object_bytes, budget).await,
            };
            match read {
                Err(StoreError::Corrupt { source, place })
                    if reads < READS_OF_DAMAGED && !source.is_unsupported() =>
                {
                    tracing::warn!(%place, cause = %source, "an index arrived damaged: reading it again");
                    self.count_retry(Operation::Get);
                }
                read => return read,
            }
        }
    }

    async fn index_at_end(
        &self,
        key: &ObjectKey,
        object_bytes: u64,
        index_bytes: u64,
        budget: &RetryBudget,
    ) -> Result<IndexRead, StoreError> {
        if index_bytes == 0 {
            return Ok(IndexRead { index_bytes, plain: None });
        }
        let place = || Place::new(self.url(), Some(key.as_str()));
        if index_bytes > object_bytes.min(INDEX_FRAME_BYTES_MAX) {
            let reason = "it has no room for such an index";
            return Err(StoreError::Size { place: place(), reason, bytes: object_bytes });
        }
        let frame = self.read_end(key, object_bytes, index_bytes, budget).await?;
        let plain = decode_index_frame(&frame).map_err(UnsealError::from).and_then(open_index);
        match plain {
            Ok(plain) => Ok(IndexRead { index_bytes, plain: Some(plain) }),
            Err(source) => Err(StoreError::Corrupt { place: place(), source }),
        }
    }

    async fn index_of_unknown_length(
        &self,
        key: &ObjectKey,
        object_bytes: u64,
        budget: &RetryBudget,
    ) -> Result<IndexRead, StoreError> {
        if object_bytes > 0 {
            let tail = self.read_end(key, object_bytes, object_bytes.min(TAIL_BYTES), budget).await?;
            if let Some((index_bytes, plain)) = find_index(&tail) {
                return Ok(IndexRead { index_bytes, plain: Some(plain) });
            }
        }
        match self.get_header(key, budget).await? {
            HeaderRead::Found { header, object_bytes } => {
                self.index_at_end(key, object_bytes, header.index_bytes, budget).await
            }
            HeaderRead::Missing => {
                Err(StoreError::ObjectNotFound { place: Place::new(self.url(), Some(key.as_str())) })
            }
        }
    }

    /// The last `bytes` of an object that is known to have `object_bytes`.
    async fn read_end(
        &self,
        key: &ObjectKey,
        object_bytes: u64,
        bytes: u64,
        budget: &RetryBudget,
    ) -> Result<bytes::Bytes, StoreError> {
        let range = object_bytes.saturating_sub(bytes)..object_bytes;
        let front = self.read_range(key, range, budget).await?;
        if front.object_bytes == object_bytes && front.bytes.len() as u64 == bytes {
            return Ok(front.bytes);
        }
        let place = Place::new(self.url(), Some(key.as_str()));
        Err(StoreError::Size { place, reason: "it has another length than told", bytes: front.object_bytes })
    }

    /// Writes an object that is derived from others, over whatever has its name. Two writers at the same moment leave
    /// the object of one of them.
    ///
    /// # Errors
    /// What any request can give; the object is then the old one, the new one, or missing as before.
    pub async fn replace_derived(
        &self,
        key: &DerivedKey,
        object: &SealedObject,
        budget: &RetryBudget,
    ) -> Result<(), StoreError> {
        let path = self.path(key.key())?;
        let call =
            Call { operation: Operation::Put, action: "write the derived object", key: key.key().as_str() };
        let bytes = object.object_bytes();
        let mut tries = 0;
        loop {
            tries += 1;
            self.count_request(Operation::Put, bytes);
            let payload: PutPayload = object.chunks().iter().cloned().collect();
            let options = PutOptions {
                mode: PutMode::Overwrite,
                attributes: self.attributes(),
                ..PutOptions::default()
            };
            let put = async { self.objects.put_opts(&path, payload, options).await.map(drop) };
            match self.attempt(call, budget.try_timeout(bytes, self.limits()), budget, put).await {
                Ok(()) => return Ok(()),
                // The same bytes again do no harm, whatever became of the first ones.
                Err(failure) => self.pause(call, of_a_put(failure), tries, budget).await?,
            }
        }
    }
}

/// Looks for an index frame that ends where `tail` ends: magic, length, tag and checksum must all fit.
fn find_index(tail: &[u8]) -> Option<(u64, Vec<u8>)> {
    let starts = 0..tail.len().checked_sub(FRAME_PREFIX_BYTES)?;
    // The last one: the contents could hold another whole object.
    starts.rev().find_map(|start| {
        let frame = tail.get(start..)?;
        let length = u32::from_le_bytes(frame.get(4..8)?.try_into().ok()?);
        if length as usize != frame.len() - 8 {
            return None;
        }
        let plain = open_index(decode_index_frame(frame).ok()?).ok()?;
        Some((frame.len() as u64, plain))
    })
}

#[cfg(test)]
mod tests {
    use walden_core::encode_index_frame;

    use super::*;
    use crate::seal::compress_index;

    #[test]
    fn an_index_is_found_at_the_end_and_nowhere_else() {
        let frame = encode_index_frame(&compress_index(b"an index").unwrap()).unwrap();
        let object = [b"frames before".as_slice(), &frame, b"between", &frame].concat();
        assert_eq!(find_index(&object), Some((frame.len() as u64, b"an index".to_vec())));
        assert_eq!(find_index(&frame), Some((frame.len() as u64, b"an index".to_vec())));
        assert_eq!(find_index(&[object.as_slice(), b"x"].concat()), None);
        assert_eq!(find_index(&frame[1..]), None);
        assert_eq!(find_index(b""), None);
        for at in 0..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 1;
            assert_eq!(find_index(&bad), None, "byte {at}");
        }
    }
}
