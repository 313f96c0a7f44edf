//! Memory for the bytes of objects: a bounded number of chunks that are used again.
//!
//! Whoever works on a file reserves what it may need at most before it begins, and gives back what it turns out not to
//! need. A chunk carries its share of the bound with it, into the body of a request and until that is gone: so what is
//! counted is what is there, whoever is cancelled when.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Size of one chunk in bytes.
pub const CHUNK_BYTES: usize = 256 << 10;

/// A bounded number of chunks. Cheap to clone; clones share the bound.
#[derive(Debug, Clone)]
pub struct ChunkPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One permit for each chunk that is not reserved.
    permits: Arc<Semaphore>,
    chunks: u32,
    free: Mutex<Vec<Vec<u8>>>,
}

impl ChunkPool {
    /// A pool of as many chunks as fit into so many bytes, at least one.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        // More than any machine has; a semaphore counts no further.
        let chunks = (bytes / CHUNK_BYTES as u64).clamp(1, 1 << 28);
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        let permits = Arc::new(Semaphore::new(chunks as usize));
        Self { shared: Arc::new(Shared { permits, chunks, free: Mutex::default() }) }
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.shared.chunks
    }

    /// How many bytes are reserved, or in use, at the moment.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        let free = self.shared.permits.available_permits() as u64;
        u64::from(self.shared.chunks).saturating_sub(free) * CHUNK_BYTES as u64
    }

    /// Waits until so many chunks are free, and reserves them; all there are if more are asked for. Whoever came first
    /// is served first.
    pub async fn reserve(&self, chunks: u32) -> Reservation {
        let permits = Arc::clone(&self.shared.permits);
        // The semaphore is never closed.
        let permit = permits.acquire_many_owned(chunks.min(self.shared.chunks)).await.ok();
        Reservation { pool: self.clone(), permit }
    }

    /// Returns the memory of chunks that nobody uses to the system.
    pub fn trim(&self) {
        std::mem::take(&mut *self.free()).clear();
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chunks that are reserved and have not been taken.
#[derive(Debug)]
pub struct Reservation {
    pool: ChunkPool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// How many chunks may still be taken.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Takes a chunk, empty; `None` when all were taken.
    pub fn take(&mut self) -> Option<Chunk> {
        let permit = self.permit.as_mut()?.split(1)?;
        let buffer = self.pool.free().pop();
        let buffer = buffer.unwrap_or_else(|| vec![0; CHUNK_BYTES]);
        Some(Chunk { buffer, filled: 0, home: Some((self.pool.clone(), permit)) })
    }

    /// Takes back a chunk that is not needed any more: another one may be taken instead. One of another pool goes back
    /// there.
    pub fn put(&mut self, mut chunk: Chunk) {
        let Some((pool, permit)) = chunk.home.take() else { return };
        if !Arc::ptr_eq(&pool.shared, &self.pool.shared) {
            chunk.home = Some((pool, permit));
            return;
        }
        pool.free().push(std::mem::take(&mut chunk.buffer));
        match &mut self.permit {
            Some(own) => own.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Gives back what is reserved beyond so many chunks.
    pub fn shrink_to(&mut self, chunks: usize) {
        let surplus = self.chunks().saturating_sub(chunks);
        if surplus > 0 {
            drop(self.permit.as_mut().and_then(|permit| permit.split(surplus)));
        }
    }
}

/// A piece of memory of [`CHUNK_BYTES`], filled from the front. It goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct Chunk {
    /// Always [`CHUNK_BYTES`] long.
    buffer: Vec<u8>,
    filled: usize,
    home: Option<(ChunkPool, OwnedSemaphorePermit)>,
}

impl Chunk {
    /// A chunk that belongs to no pool.
    #[must_use]
    pub fn unpooled() -> Self {
        Self { buffer: vec![0; CHUNK_BYTES], filled: 0, home: None }
    }

    /// The bytes in it.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// The room behind them.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// Counts so many bytes of the room as filled.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = self.filled.saturating_add(bytes).min(self.buffer.len());
    }

    /// Whether there is no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }

    /// Its bytes, to be shared; the chunk goes back when the last of those who share them is gone.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some((pool, permit)) = self.home.take() {
            pool.free().push(std::mem::take(&mut self.buffer));
            drop(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        futures::FutureExt::now_or_never(future)
    }

    #[test]
    fn no_more_is_handed_out_than_there_is() {
        let pool = ChunkPool::new(4 * CHUNK_BYTES as u64);
        let mut first = now(pool.reserve(3)).unwrap();
        assert!(now(pool.reserve(2)).is_none());
        let chunks: Vec<Chunk> = std::iter::from_fn(|| first.take()).collect();
        assert_eq!((chunks.len(), first.chunks()), (3, 0));
        assert_eq!(pool.reserved_bytes(), 3 * CHUNK_BYTES as u64);
        drop(first);
        // What was taken is in use, whatever became of the reservation.
        assert!(now(pool.reserve(2)).is_none());
        drop(chunks);
        assert_eq!(pool.reserved_bytes(), 0);
        // More than there is means all.
        assert_eq!(now(pool.reserve(100)).unwrap().chunks(), 4);
    }

    #[test]
    fn a_chunk_is_in_use_until_the_last_sharer_is_gone() {
        let pool = ChunkPool::new(2 * CHUNK_BYTES as u64);
        let mut reserved = now(pool.reserve(2)).unwrap();
        let mut chunk = reserved.take().unwrap();
        chunk.room()[..5].copy_from_slice(b"bytes");
        chunk.advance(5);
        let bytes = chunk.into_bytes();
        let shared = bytes.clone();
        drop((reserved, bytes));
        assert_eq!(shared, b"bytes"[..]);
        assert_eq!(pool.reserved_bytes(), CHUNK_BYTES as u64);
        drop(shared);
        assert_eq!(pool.reserved_bytes(), 0);
        // Its memory is used again, and shows nothing of what it held.
        let again = now(pool.reserve(1)).unwrap().take().unwrap();
        assert_eq!(again.filled(), b"");
        assert_eq!(again.buffer[..5], *b"bytes");
        pool.trim();
        assert!(pool.free().is_empty());
    }

    #[test]
    fn what_is_put_back_can_be_taken_again_and_the_surplus_goes_to_others() {
        let pool = ChunkPool::new(4 * CHUNK_BYTES as u64);
        let mut first = now(pool.reserve(4)).unwrap();
        let chunk = first.take().unwrap();
        first.put(chunk);
        assert_eq!(first.chunks(), 4);
        first.shrink_to(1);
        assert_eq!(now(pool.reserve(3)).unwrap().chunks(), 3);
        assert_eq!(first.chunks(), 1);
        first.shrink_to(5);
        assert_eq!(first.chunks(), 1);
        // A chunk of no pool, or of another one, adds nothing here.
        first.put(Chunk::unpooled());
        let other = ChunkPool::new(1);
        first.put(now(other.reserve(1)).unwrap().take().unwrap());
        assert_eq!((first.chunks(), other.reserved_bytes()), (1, 0));
    }

    #[test]
    fn waiting_that_is_given_up_takes_nothing_and_keeps_nobody_waiting() {
        let pool = ChunkPool::new(4 * CHUNK_BYTES as u64);
        let first = now(pool.reserve(3)).unwrap();
        let mut second = Box::pin(pool.reserve(4));
        let mut third = Box::pin(pool.reserve(1));
        assert!(now(&mut second).is_none());
        // First come, first served, although there is enough for the third.
        assert!(now(&mut third).is_none());
        drop(second);
        assert_eq!(now(third).unwrap().chunks(), 1);
        drop(first);
        assert_eq!(pool.reserved_bytes(), 0);
    }
}
