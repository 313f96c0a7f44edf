//! Create-once: an object is written if its name is free, and every doubt is settled by looking.
//!
//! "The name is taken" is never believed to mean success or conflict before the object under it has been looked at;
//! neither is an answer that got lost taken for failure. So a repetition never overwrites, never reports our own
//! object as a stranger's, and success means that an object with our identity stands under the name.

use bytes::Bytes;
use object_store::{PutMode, PutOptions, PutPayload};
use walden_core::{ConditionalCreate, HEADER_FRAME_BYTES_MAX, ObjectHeader, ObjectKey, decode_header_frame};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::StoreError;
use crate::failure::{Failure, FailureClass};
use crate::read::Front;
use crate::seal::SealedObject;
use crate::store::{Call, Store};
use crate::url::Scheme;

/// An object that never reads the same twice is given up after this many more looks.
const LOOKS_MAX: u32 = 4;

/// What stands under a name that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Existing {
    /// A sealed object; its header says what it is and who wrote it.
    Sealed(Box<ObjectHeader>),
    /// The bytes of a JSON record.
    Record(Bytes),
    /// Something that is neither: torn, damaged, or foreign. It is never overwritten.
    Unreadable {
        /// What is wrong with it.
        reason: String,
        /// Its size in bytes.
        object_bytes: u64,
    },
}

impl Existing {
    /// Who wrote it, when that is known.
    #[must_use]
    pub fn header(&self) -> Option<&ObjectHeader> {
        match self {
            Self::Sealed(header) => Some(header),
            Self::Record(_) | Self::Unreadable { .. } => None,
        }
    }
}

/// How a create ended. All three are durable facts about the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The object stands there, and we wrote it.
    Created,
    /// An object with the same identity was there already.
    AlreadyStored(Existing),
    /// Another object has the name. Nothing was overwritten.
    Conflict(Existing),
}

/// What is to be written, and how it is compared with what is there.
enum New<'a> {
    Sealed(&'a SealedObject),
    Record(&'a Bytes),
}

impl New<'_> {
    fn payload(&self) -> PutPayload {
        match self {
            Self::Sealed(object) => object.chunks().iter().cloned().collect(),
            Self::Record(bytes) => PutPayload::from_bytes((*bytes).clone()),
        }
    }

    /// How much of an existing object must be read to compare it with ours. One byte more than a record has, so
    /// that a longer one is seen to be longer.
    fn front_bytes(&self) -> u64 {
        match self {
            Self::Sealed(_) => HEADER_FRAME_BYTES_MAX as u64,
            Self::Record(bytes) => (bytes.len() as u64 + 1).max(HEADER_FRAME_BYTES_MAX as u64),
        }
    }

    fn compare(&self, front: &Front) -> CreateOutcome {
        match self {
            Self::Sealed(object) => compare_sealed(object, front),
            Self::Record(bytes) if front.bytes == **bytes => {
                CreateOutcome::AlreadyStored(Existing::Record(front.bytes.clone()))
            }
            Self::Record(_) if front.object_bytes == front.bytes.len() as u64 => {
                CreateOutcome::Conflict(Existing::Record(front.bytes.clone()))
            }
            Self::Record(_) => CreateOutcome::Conflict(Existing::Unreadable {
                reason: "it is longer than the record that belongs there".to_owned(),
                object_bytes: front.object_bytes,
            }),
        }
    }
}

fn compare_sealed(object: &SealedObject, front: &Front) -> CreateOutcome {
    let unreadable = |reason: String| {
        CreateOutcome::Conflict(Existing::Unreadable { reason, object_bytes: front.object_bytes })
    };
    let (header, frame_bytes) = match decode_header_frame(&front.bytes) {
        Ok(decoded) => decoded,
        Err(error) => return unreadable(error.to_string()),
    };
    let whole = (frame_bytes as u64).saturating_add(header.stored_bytes).saturating_add(header.index_bytes);
    if whole != front.object_bytes {
        return unreadable(format!("it is torn: its header says {whole} bytes"));
    }
    let ours = object.header();
    if header == *ours {
        // Down to the writer and its clock: a write of ours whose answer was lost.
        return CreateOutcome::Created;
    }
    let same = header.kind == ours.kind
        && header.name == ours.name
        && header.plain_bytes == ours.plain_bytes
        && same_identity(&header, ours);
    let existing = Existing::Sealed(Box::new(header));
    if same { CreateOutcome::AlreadyStored(existing) } else { CreateOutcome::Conflict(existing) }
}

/// Same plain bytes, or where one side does not know their hash, the same stored bytes.
fn same_identity(a: &ObjectHeader, b: &ObjectHeader) -> bool {
    match (&a.plain_sha256, &b.plain_sha256) {
        (Some(a), Some(b)) => a == b,
        _ => a.stored_sha256.is_some() && a.stored_sha256 == b.stored_sha256,
    }
}

impl Store {
    /// Writes a sealed object under a name that must be free, with a single PUT.
    ///
    /// A name that is taken, a lost answer, a timeout and an error of the server are settled by reading the header
    /// of what is there and comparing kind, name, length and hash. On a store that was found to ignore conditional
    /// create ([`Self::with_conditional_create`]) it looks first, writes, and reads back: of two writers at the
    /// same moment one can then lose its object to the other, and the loser learns it only if its read comes last.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the budget is spent before the answer is certain: the object may then be
    /// there or not, and the same call may simply be made again. [`StoreError::Denied`], [`StoreError::LocalIo`]
    /// and what any request can give.
    pub async fn create_once(
        &self,
        key: &ObjectKey,
        object: &SealedObject,
        budget: &RetryBudget,
    ) -> Result<CreateOutcome, StoreError> {
        self.create(key, &New::Sealed(object), budget).await
    }

    /// Writes a JSON record under a name that must be free; an existing one is the same when all its bytes are.
    ///
    /// # Errors
    /// As [`Self::create_once`].
    pub async fn create_record_once(
        &self,
        key: &ObjectKey,
        record: &Bytes,
        budget: &RetryBudget,
    ) -> Result<CreateOutcome, StoreError> {
        self.create(key, &New::Record(record), budget).await
    }

    async fn create(
        &self,
        key: &ObjectKey,
        new: &New<'_>,
        budget: &RetryBudget,
    ) -> Result<CreateOutcome, StoreError> {
        match self.conditional_create() {
            ConditionalCreate::Enforced => self.create_enforced(key, new, budget).await,
            ConditionalCreate::Ignored => self.create_watched(key, new, PutMode::Create, budget).await,
            ConditionalCreate::Unsupported => self.create_watched(key, new, PutMode::Overwrite, budget).await,
        }
    }

    async fn create_enforced(
        &self,
        key: &ObjectKey,
        new: &New<'_>,
        budget: &RetryBudget,
    ) -> Result<CreateOutcome, StoreError> {
        let call = call(key);
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.put_once(key, new, PutMode::Create, budget).await {
                Ok(()) => return Ok(CreateOutcome::Created),
                Err(failure) => failure,
            };
            let taken = failure.class == FailureClass::Exists;
            if !taken && !failure.is_retryable(tries) {
                return Err(put_error(failure, tries, self, key));
            }
            // In a directory a try that timed out may still be on its way between the name and its fsync: what can be
            // read there is not yet durable. Only the next try settles that, because "taken" makes it durable.
            let seen_is_durable = self.url().scheme() != Scheme::File;
            if (taken || (failure.ambiguous && seen_is_durable))
                && let Some(outcome) = self.look(key, new, budget).await?
            {
                return Ok(outcome);
            }
            // Nothing there after all: a race inside the store (409), or a write that did not arrive.
            self.pause(call, retried(failure), tries, budget).await?;
        }
    }

    /// For stores without conditional create: look, write, read back.
    async fn create_watched(
        &self,
        key: &ObjectKey,
        new: &New<'_>,
        mode: PutMode,
        budget: &RetryBudget,
    ) -> Result<CreateOutcome, StoreError> {
        if let Some(outcome) = self.look(key, new, budget).await? {
            return Ok(outcome);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            // Another writer may have stored during our pause.
            if tries > 1
                && let Some(outcome) = self.look(key, new, budget).await?
            {
                return Ok(outcome);
            }
            match self.put_once(key, new, mode.clone(), budget).await {
                Err(failure) if failure.class != FailureClass::Exists && !failure.is_retryable(tries) => {
                    return Err(put_error(failure, tries, self, key));
                }
                put => {
                    if let Some(outcome) = self.look(key, new, budget).await? {
                        // The very bytes that we sent are ours, whoever else sent the same ones.
                        let ours = put.is_ok()
                            && matches!(outcome, CreateOutcome::AlreadyStored(Existing::Record(_)));
                        return Ok(if ours { CreateOutcome::Created } else { outcome });
                    }
                    let failure =
                        put.err().unwrap_or_else(|| Failure::nonsense("it was written and is not there"));
                    self.pause(call(key), retried(failure), tries, budget).await?;
                }
            }
        }
    }

    /// One PUT.
    async fn put_once(
        &self,
        key: &ObjectKey,
        new: &New<'_>,
        mode: PutMode,
        budget: &RetryBudget,
    ) -> Result<(), Failure> {
        let path = self.path(key).map_err(|error| Failure::internal(&error))?;
        let payload = new.payload();
        let bytes = payload.content_length() as u64;
        self.count_request(Operation::Put, bytes);
        let options = PutOptions { mode, attributes: self.attributes(), ..PutOptions::default() };
        let timeout = budget.try_timeout(bytes, self.limits());
        let put = async { self.objects.put_opts(&path, payload, options).await.map(drop) };
        self.attempt(call(key), timeout, budget, put).await
    }

    /// Looks at what has the name, if anything has. What can't be recognised is looked at again, because the damage
    /// may have happened on the way: only what reads the same twice is called a conflict.
    async fn look(
        &self,
        key: &ObjectKey,
        new: &New<'_>,
        budget: &RetryBudget,
    ) -> Result<Option<CreateOutcome>, StoreError> {
        let mut seen = self.look_once(key, new, budget).await?;
        for _ in 0..LOOKS_MAX {
            let Some(front) = &seen else { return Ok(None) };
            let outcome = new.compare(front);
            if !matches!(outcome, CreateOutcome::Conflict(Existing::Record(_) | Existing::Unreadable { .. }))
            {
                return Ok(Some(outcome));
            }
            let again = self.look_once(key, new, budget).await?;
            if again == seen {
                return Ok(Some(outcome));
            }
            seen = again;
        }
        Ok(seen.map(|front| new.compare(&front)))
    }

    /// The first bytes of what has the name.
    async fn look_once(
        &self,
        key: &ObjectKey,
        new: &New<'_>,
        budget: &RetryBudget,
    ) -> Result<Option<Front>, StoreError> {
        match self.front(key, new.front_bytes(), budget).await {
            Ok(front) => Ok(Some(front)),
            Err(error) if error.is_object_not_found() => Ok(None),
            Err(StoreError::Denied { place, source, .. }) => Err(StoreError::Denied {
                action: "read what is already stored under this name",
                place,
                hint: "an object may stand there already, and without the right to read it (s3:GetObject) the same \
                       can't be told from a conflict",
                source,
            }),
            Err(error) => Err(error),
        }
    }
}

fn call(key: &ObjectKey) -> Call<'_> {
    Call { operation: Operation::Put, action: "write the object", key: key.as_str() }
}

/// "Taken", where nothing is, is worth another try.
fn retried(failure: Failure) -> Failure {
    let class = if failure.class == FailureClass::Exists { FailureClass::Retry } else { failure.class };
    Failure { class, ..failure }
}

fn put_error(failure: Failure, tries: u32, store: &Store, key: &ObjectKey) -> StoreError {
    of_a_put(failure).into_error("write the object", tries, store.url(), key.as_str())
}

/// Where nothing can be put, it is not the object that is missing.
pub(crate) fn of_a_put(failure: Failure) -> Failure {
    let class = match failure.class {
        FailureClass::Missing => FailureClass::BucketMissing,
        class => class,
    };
    Failure { class, ..failure }
}
