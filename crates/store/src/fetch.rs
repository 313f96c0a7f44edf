//! Fetching sealed objects: read, checked and decompressed as they arrive.

use std::io::{self, Write};

use bytes::Bytes;
use walden_core::{HEADER_FRAME_BYTES_MAX, INDEX_BYTES_MAX, ObjectKey};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::{Place, StoreError};
use crate::read::ObjectReader;
use crate::store::Store;
use crate::unseal::{Expected, UnsealError, Unsealed, Unsealer};

/// How much is handed to the decompressor at once; twice this much is held at most.
const BATCH_BYTES: usize = 256 << 10;
/// An object that arrives damaged is read this often before it counts as damaged in the store.
const READS_OF_DAMAGED: u32 = 2;

impl Store {
    /// Fetches a sealed object and writes its plain bytes to what `destination` makes.
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
            let plain = destination().map_err(|error| local(expected.name, error))?;
            match self.fetch_once(key, expected, plain, budget).await {
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

    async fn fetch_once<W: Write + Send + 'static>(
        &self,
        key: &ObjectKey,
        expected: Expected<'_>,
        plain: W,
        budget: &RetryBudget,
    ) -> Result<Unsealed<W>, StoreError> {
        let place = Place::new(self.url(), Some(key.as_str()));
        let reader = self.reader(key, budget).await?;
        let bytes = reader.object_bytes();
        if bytes > stored_bytes_max(expected.max_plain_bytes) {
            return Err(StoreError::Size { place, reason: "it is larger than it may be", bytes });
        }
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
    let mut worker = tokio::task::spawn_blocking(move || Ok(unsealer));
    loop {
        let batch = next_batch(&mut reader).await?;
        let mut unsealer = match joined(worker.await)? {
            Ok(unsealer) => unsealer,
            Err(error) => return Ok(Err(error)),
        };
        if batch.is_empty() {
            return joined(tokio::task::spawn_blocking(move || unsealer.finish()).await);
        }
        worker = tokio::task::spawn_blocking(move || {
            for piece in batch {
                unsealer.push(&piece)?;
            }
            Ok(unsealer)
        });
    }
}

/// The next bytes of the object, at least [`BATCH_BYTES`] of them unless it ends.
async fn next_batch(reader: &mut ObjectReader) -> Result<Vec<Bytes>, StoreError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES {
        let Some(chunk) = reader.next_chunk().await? else { break };
        bytes += chunk.len();
        batch.push(chunk);
    }
    Ok(batch)
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
