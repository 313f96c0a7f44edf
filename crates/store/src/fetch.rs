//! Fetching sealed objects: read, checked and decompressed as they arrive.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use walden_core::{HEADER_FRAME_BYTES_MAX, INDEX_BYTES_MAX, ObjectKey};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::{Place, StoreError};
use crate::read::ObjectReader;
use crate::store::Store;
use crate::unseal::{Expected, UnsealError, Unsealed, Unsealer};

/// How many pieces may wait between the connection and the decompressor.
const PIECES_WAITING: usize = 16;
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
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let worker = tokio::task::spawn_blocking(move || unseal(unsealer, pieces));
        let sent = send_all(reader, sender).await;
        // A read that failed makes the worker fail too, for want of the rest: the read's error is the reason.
        let unsealed = worker.await.map_err(|error| StoreError::Internal { message: error.to_string() })?;
        sent?;
        unsealed.map_err(|error| corrupt(&place, expected.name, error))
    }
}

/// Compressed data is never larger than this for so much plain data; beyond it something else is there.
fn stored_bytes_max(plain_bytes: u64) -> u64 {
    let frames = plain_bytes.saturating_add(plain_bytes / 64).saturating_add(1 << 20);
    frames.saturating_add((HEADER_FRAME_BYTES_MAX + INDEX_BYTES_MAX) as u64)
}

async fn send_all(mut reader: ObjectReader, sender: mpsc::Sender<Bytes>) -> Result<(), StoreError> {
    while let Some(chunk) = reader.next_chunk().await? {
        if sender.send(chunk).await.is_err() {
            // The worker has given up, and says why.
            return Ok(());
        }
    }
    Ok(())
}

fn unseal<W: Write>(
    mut unsealer: Unsealer<W>,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<Unsealed<W>, UnsealError> {
    while let Some(piece) = pieces.blocking_recv() {
        unsealer.push(&piece)?;
    }
    unsealer.finish()
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
