//! Reading objects: whole, in part, or as a stream that goes on where a broken connection left it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta};
use walden_core::{HEADER_FRAME_BYTES_MAX, ObjectHeader, ObjectKey, decode_header_frame};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::{Place, StoreError};
use crate::failure::Failure;
use crate::store::{Call, Store};

/// A whole object is collected in memory only up to this size, whatever the caller allows, in bytes.
const COLLECT_BYTES_MAX: u64 = 1 << 30;

/// What a look at an object's header found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderRead {
    /// It is there.
    Found {
        /// Its header.
        header: Box<ObjectHeader>,
        /// The size of the whole object in bytes, as the store tells it.
        object_bytes: u64,
    },
    /// The store answers that it is not there. Not proof of absence: see [`Store::prove_visible`].
    Missing,
}

/// The first bytes of an object, and the size of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) bytes: Bytes,
    pub(crate) object_bytes: u64,
}

impl Store {
    /// Reads a whole object of at most `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::ObjectNotFound`], [`StoreError::Size`] for a larger one, and what any read can give.
    pub async fn get(
        &self,
        key: &ObjectKey,
        max_bytes: u64,
        budget: &RetryBudget,
    ) -> Result<Bytes, StoreError> {
        let mut reader = self.reader(key, budget).await?;
        let bytes = reader.object_bytes();
        if bytes > max_bytes.min(COLLECT_BYTES_MAX) {
            let place = Place::new(self.url(), Some(key.as_str()));
            return Err(StoreError::Size { place, reason: "it is larger than it may be", bytes });
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(bytes).unwrap_or_default());
        while let Some(chunk) = reader.next_chunk().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads exactly the bytes `range` of an object; the range is not empty and lies inside of it.
    ///
    /// # Errors
    /// [`StoreError::ObjectNotFound`], [`StoreError::Size`] when the object is shorter, and what any read can give.
    pub async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        budget: &RetryBudget,
    ) -> Result<Bytes, StoreError> {
        let bytes = range.end.saturating_sub(range.start);
        let place = || Place::new(self.url(), Some(key.as_str()));
        if bytes == 0 || bytes > COLLECT_BYTES_MAX {
            return Err(StoreError::Size { place: place(), reason: "this can't be read at once", bytes });
        }
        let front = self.read_range(key, range.clone(), budget).await?;
        if front.bytes.len() as u64 != bytes {
            let reason = "it is shorter than it must be";
            return Err(StoreError::Size { place: place(), reason, bytes: front.object_bytes });
        }
        Ok(front.bytes)
    }

    /// Looks at the header of a sealed object: one range read of 8 KiB.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when what is there is not a sealed object that this version can read, and what any
    /// read can give. That the object is missing is no error, and no proof either.
    pub async fn get_header(&self, key: &ObjectKey, budget: &RetryBudget) -> Result<HeaderRead, StoreError> {
        let front = match self.front(key, HEADER_FRAME_BYTES_MAX as u64, budget).await {
            Ok(front) => front,
            Err(error) if error.is_object_not_found() => return Ok(HeaderRead::Missing),
            Err(error) => return Err(error),
        };
        match decode_header_frame(&front.bytes) {
            Ok((header, _)) => {
                Ok(HeaderRead::Found { header: Box::new(header), object_bytes: front.object_bytes })
            }
            Err(error) => {
                let place = Place::new(self.url(), Some(key.as_str()));
                Err(StoreError::Corrupt { place, source: error.into() })
            }
        }
    }

    /// Reads a small object, or proves that it is not there: `None` means that the store says so *and* that the
    /// marker can be read with the same credentials at the same place.
    ///
    /// # Errors
    /// [`StoreError::MarkerNotFound`] when neither is there, [`StoreError::Denied`], and what any read can give.
    pub async fn get_or_prove_absent(
        &self,
        key: &ObjectKey,
        marker: &ObjectKey,
        max_bytes: u64,
        budget: &RetryBudget,
    ) -> Result<Option<Bytes>, StoreError> {
        match self.get(key, max_bytes, budget).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_object_not_found() => {
                self.prove_visible(marker, budget).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Proves that we see what is in the repository: reads the marker that must be there. After this, "not found"
    /// for another key of the same repository means that there is no such object.
    ///
    /// # Errors
    /// [`StoreError::MarkerNotFound`] when it is missing, and what any read can give.
    pub async fn prove_visible(&self, marker: &ObjectKey, budget: &RetryBudget) -> Result<(), StoreError> {
        match self.front(marker, 1, budget).await {
            Ok(_) => Ok(()),
            Err(StoreError::ObjectNotFound { place }) => Err(StoreError::MarkerNotFound { place }),
            Err(error) => Err(error),
        }
    }

    /// Reads the first `bytes` of an object, or all of it when it is shorter.
    pub(crate) async fn front(
        &self,
        key: &ObjectKey,
        bytes: u64,
        budget: &RetryBudget,
    ) -> Result<Front, StoreError> {
        match self.read_range(key, 0..bytes, budget).await {
            // An empty object has no first byte to read.
            Err(StoreError::Size { .. }) => Ok(Front { bytes: Bytes::new(), object_bytes: 0 }),
            result => result,
        }
    }

    /// Reads what there is of a range that begins inside of the object.
    pub(crate) async fn read_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        budget: &RetryBudget,
    ) -> Result<Front, StoreError> {
        let path = self.path(key)?;
        let call = Call { operation: Operation::Get, action: "read the object", key: key.as_str() };
        let wanted = range.end - range.start;
        let front = self.repeat(call, wanted, budget, || async {
            // Not a suffix range: Azure has none.
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
            let result = self.objects.get_opts(&path, options).await?;
            collect(result, wanted).await
        });
        let front = front.await?;
        self.count_received(Operation::Get, front.bytes.len() as u64);
        Ok(front)
    }

    /// Opens an object for reading from its beginning to its end.
    ///
    /// # Errors
    /// [`StoreError::ObjectNotFound`], and what any read can give.
    pub async fn reader(&self, key: &ObjectKey, budget: &RetryBudget) -> Result<ObjectReader, StoreError> {
        let call = Call { operation: Operation::Get, action: "read the object", key: key.as_str() };
        let path = self.path(key)?;
        let (meta, stream) = self
            .repeat(call, 0, budget, || async {
                let result = self.objects.get_opts(&path, GetOptions::new()).await?;
                Ok((result.meta.clone(), result.into_stream()))
            })
            .await?;
        Ok(ObjectReader {
            store: self.clone(),
            key: key.clone(),
            budget: budget.clone(),
            meta,
            stream: Some(stream),
            at: 0,
            failed: 0,
        })
    }
}

/// Collects a body, holding it to the length that was announced and to `max` bytes.
async fn collect(result: GetResult, max: u64) -> object_store::Result<Front> {
    let announced = result.range.end.saturating_sub(result.range.start);
    let object_bytes = result.meta.size;
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced.min(max)).unwrap_or_default());
    let mut stream = result.into_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > max {
            break;
        }
    }
    if bytes.len() as u64 != announced {
        return Err(wrong_length(announced, bytes.len() as u64));
    }
    Ok(Front { bytes: bytes.freeze(), object_bytes })
}

fn wrong_length(announced: u64, arrived: u64) -> object_store::Error {
    let text = format!("the body has another length than announced: announced={announced} arrived={arrived}");
    object_store::Error::Generic { store: "walden", source: text.into() }
}

/// An object being read. A connection that breaks is made anew at the place where it broke, for as long as the
/// budget lasts; the bytes come in order and exactly once.
pub struct ObjectReader {
    store: Store,
    key: ObjectKey,
    budget: RetryBudget,
    meta: ObjectMeta,
    stream: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    at: u64,
    failed: u32,
}

impl std::fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectReader").field("key", &self.key).field("at", &self.at).finish_non_exhaustive()
    }
}

impl ObjectReader {
    /// The size of the whole object in bytes, as the store tells it.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.meta.size
    }

    /// The next bytes; `None` once all [`Self::object_bytes`] have been given.
    ///
    /// # Errors
    /// What any read can give; after an error there is nothing more to read.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            match self.poll().await {
                Ok(Some(chunk)) if chunk.is_empty() => {}
                Ok(chunk) => {
                    self.failed = 0;
                    return Ok(chunk);
                }
                Err(failure) => {
                    self.stream = None;
                    self.failed += 1;
                    let (store, budget, tries) = (self.store.clone(), self.budget.clone(), self.failed);
                    store.pause(call(&self.key), failure, tries, &budget).await?;
                }
            }
        }
    }

    async fn poll(&mut self) -> Result<Option<Bytes>, Failure> {
        let size = self.meta.size;
        if self.at == size && self.stream.is_none() {
            return Ok(None);
        }
        let call = call(&self.key);
        let timeout = self.budget.try_timeout(0, self.store.limits());
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.store.attempt(call, timeout, &self.budget, self.reopen()).await?,
        };
        let chunk = async { stream.next().await.transpose() };
        let next = self.store.attempt(call, timeout, &self.budget, chunk).await?;
        match next {
            Some(chunk) => {
                self.store.count_received(Operation::Get, chunk.len() as u64);
                self.at += chunk.len() as u64;
                if self.at > size {
                    return Err(Failure::nonsense("the body is longer than announced"));
                }
                self.stream = Some(stream);
                Ok(Some(chunk))
            }
            None if self.at == size => Ok(None),
            None => Err(Failure::nonsense("the body ended before its announced length")),
        }
    }

    /// Asks for what is still missing.
    fn reopen(
        &self,
    ) -> impl Future<Output = object_store::Result<BoxStream<'static, object_store::Result<Bytes>>>> {
        self.store.count_request(Operation::Get, 0);
        let range = Some(GetRange::Bounded(self.at..self.meta.size)).filter(|_| self.at > 0);
        let options = GetOptions { range, if_match: self.meta.e_tag.clone(), ..GetOptions::new() };
        let (objects, path, size) = (self.store.objects.clone(), self.meta.location.clone(), self.meta.size);
        async move {
            let result = objects.get_opts(&path, options).await?;
            if result.meta.size != size {
                let source = "the object changed while it was read".into();
                return Err(object_store::Error::Precondition { path: path.to_string(), source });
            }
            Ok(result.into_stream())
        }
    }
}

fn call(key: &ObjectKey) -> Call<'_> {
    Call { operation: Operation::Get, action: "read the object", key: key.as_str() }
}
