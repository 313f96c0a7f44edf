//! Fetching sealed objects: read, checked and decompressed as they arrive.

use std::io::{self, Write};

use walden_core::{HEADER_FRAME_BYTES_MAX, INDEX_BYTES_MAX, ObjectKey};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::{Place, StoreError};
use crate::read::ObjectReader;
use crate::store::Store;
use crate::unseal::{Expected, UnsealError, Unsealed, Unsealer};

/// So much is handed to the decompressor at once, at least; the last chunk that the network gave goes with it whole.
const BATCH_BYTES: usize = 256 << 10;
/// Chunks are rarely longer (hyper's buffers are not), in bytes. Room for one beyond the batch.
const CHUNK_BYTES: usize = 420 << 10;
/// An object that arrives damaged is read this often before it counts as damaged in the store.
const READS_OF_DAMAGED: u32 = 2;

impl Store {
    /// Fetches a sealed object and writes its plain bytes to what `destination` makes, once the store has begun to send
    /// the object.
    ///
    /// Memory does not grow with the object. A connection that breaks is continued where it broke; an object that
    /// arrives damaged is read a second time, into a second destination, because the damage may lie on the way.
    ///
    /// # Errors
    /// [`StoreError::ObjectNotFound`]; [`StoreError::Corrupt`] when it was damaged twice or is not the expected
    /// object; [`StoreError::LocalIo`] when the destination fails; and what any read can give. Plain bytes that
    /// were written before an error are not to be used.
    pub async fn fetch_sealed<W, D>(
        &self,
        key: &ObjectKey,
        expected: Expected<'_>,
        mut destination: D,
        budget: &RetryBudget,
    ) -> Result<Unsealed<W>, StoreError>
    where
        W: Write + Send + 'static,
        D: FnMut() -> io::Result<W>,
    {
        let mut reads = 0;
        loop {
            reads += 1;
            match self.fetch_once(key, expected, &mut destination, budget).await {
                Err(StoreError::Corrupt { source, place })
                    if reads < READS_OF_DAMAGED && !source.is_unsupported() =>
                {
                    tracing::warn!(%place, cause = %source, "an object arrived damaged: reading it again");
                    self.count_retry(Operation::Get);
                }
                result => return result,
            }
        }
    }

    async fn fetch_once<W, D>(
        &self,
        key: &ObjectKey,
        expected: Expected<'_>,
        destination: &mut D,
        budget: &RetryBudget,
    ) -> Result<Unsealed<W>, StoreError>
    where
        W: Write + Send + 'static,
        D: FnMut() -> io::Result<W>,
    {
        let place = Place::new(self.url(), Some(key.as_str()));
        let reader = self.reader(key, budget).await?;
        let bytes = reader.object_bytes();
        if bytes > stored_bytes_max(expected.max_plain_bytes) {
            return Err(StoreError::Size { place, reason: "it is larger than it may be", bytes });
        }
        let plain = destination().map_err(|error| local(expected.name, error))?;
        let unsealer =
            Unsealer::new(expected, plain).map_err(|error| corrupt(&place, expected.name, error))?;
        match unseal(reader, unsealer).await? {
            Ok(unsealed) => {
                if let Some(Err(error)) = &unsealed.index {
                    tracing::warn!(%place, cause = %error, "the contents are good, but their index is damaged");
                }
                Ok(unsealed)
            }
            Err(error) => Err(corrupt(&place, expected.name, error)),
        }
    }
}

/// Compressed data is never larger than this for so much plain data; beyond it something else is there.
fn stored_bytes_max(plain_bytes: u64) -> u64 {
    let frames = plain_bytes.saturating_add(plain_bytes / 64).saturating_add(1 << 20);
    frames.saturating_add((HEADER_FRAME_BYTES_MAX + INDEX_BYTES_MAX) as u64)
}

/// Reads and opens at the same time: while one batch is opened on another thread, the next one arrives.
///
/// No thread ever waits for the network, so a read that is given up leaves none behind.
async fn unseal<W: Write + Send + 'static>(
    mut reader: ObjectReader,
    unsealer: Unsealer<W>,
) -> Result<Result<Unsealed<W>, UnsealError>, StoreError> {
    let mut next = Vec::with_capacity(BATCH_BYTES + CHUNK_BYTES);
    let other = Vec::with_capacity(BATCH_BYTES + CHUNK_BYTES);
    let mut worker = tokio::task::spawn_blocking(move || Ok((unsealer, other)));
    loop {
        next_batch(&mut reader, &mut next).await?;
        let (mut unsealer, other) = match joined(worker.await)? {
            Ok(both) => both,
            Err(error) => return Ok(Err(error)),
        };
        if next.is_empty() {
            return joined(tokio::task::spawn_blocking(move || unsealer.finish()).await);
        }
        let batch = std::mem::replace(&mut next, other);
        worker = tokio::task::spawn_blocking(move || {
            unsealer.push(&batch)?;
            let mut batch = batch;
            batch.clear();
            Ok((unsealer, batch))
        });
    }
}

/// Fills the batch with the next bytes of the object, at least [`BATCH_BYTES`] of them unless it ends.
///
/// They are copied, so that the chunk is free again before the next bytes arrive: the network then reads into the same
/// memory over and over. Chunks that are kept cost more than a copy, because the kernel has to find fresh pages for
/// every one of them.
async fn next_batch(reader: &mut ObjectReader, batch: &mut Vec<u8>) -> Result<(), StoreError> {
    while batch.len() < BATCH_BYTES {
        let Some(chunk) = reader.next_chunk().await? else { break };
        batch.extend_from_slice(&chunk);
    }
    Ok(())
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, StoreError> {
    result.map_err(|error| StoreError::Internal { message: error.to_string() })
}

fn local(name: &str, source: io::Error) -> StoreError {
    StoreError::LocalIo { action: "write the fetched file", path: name.to_owned(), source }
}

fn corrupt(place: &Place, name: &str, error: UnsealError) -> StoreError {
    match error {
        UnsealError::Write(source) => local(name, source),
        source => StoreError::Corrupt { place: place.clone(), source },
    }
}
