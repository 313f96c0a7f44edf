//! Removing objects: many at a time, and with a word on those that stay.

use futures::StreamExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use walden_core::ObjectKey;

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::{StoreError, one_line};
use crate::failure::{Failure, FailureClass};
use crate::http::TRACE;
use crate::store::{Call, Store};

/// So many objects S3 removes in one request.
pub(crate) const S3_KEYS_MAX: usize = 1000;
/// So many Azure does.
pub(crate) const AZURE_KEYS_MAX: usize = 256;
/// So many files of a local directory are removed before their directories are made durable.
pub(crate) const LOCAL_KEYS_MAX: usize = 1000;
/// So many removals run side by side where each is a request of its own.
const SIDE_BY_SIDE: usize = 16;
/// A batch is a small request, but the store has work with it: it gets time as if it moved this much for each key.
const BYTES_PER_KEY: u64 = 16 << 10;

const ACTION: &str = "remove the objects";

/// Why an object was not removed, although everything went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptReason {
    /// It is locked: by Object Lock, an immutability policy, a retention period or a legal hold.
    Locked,
    /// The store refuses this one object to us, for lack of rights or for a reason that it does not tell.
    Denied,
}

/// An object that was to be removed and is still there, by the store's own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptObject {
    /// Its key.
    pub key: ObjectKey,
    /// Why it stays.
    pub why: KeptReason,
    /// What the store said, in one line.
    pub message: String,
}

/// What became of objects that were to be removed.
///
/// On a bucket with versions a removal leaves the older version behind a delete marker; versions are never removed
/// here. [`Store::bucket_settings`] tells whether a bucket has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// So many are gone; those that were not there count.
    pub removed: u64,
    /// Those that stay, in the order in which they were given.
    pub kept: Vec<KeptObject>,
}

/// A store's word on one key of several.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct KeyRefused {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// How removals of a store are best made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemovalMode {
    /// One call of `delete_stream` takes up to this many keys, and is one request.
    Batches(usize),
    /// One key, one call, one request; several at a time.
    SideBySide,
}

/// What became of one key.
enum Fate {
    Gone,
    Kept(KeptReason, String),
    /// It may work later.
    Again(Failure),
    /// It will not.
    Failed(Failure),
}

impl Store {
    /// Removes many objects, in batches as large as the store takes them. What is not there counts as removed. What
    /// the store refuses to remove is no error: it is named in the result, with the reason.
    ///
    /// Batches go one after another in the order of `keys`, so that the caller decides what goes first; within a
    /// batch there is no order. `budget` is for all of them together.
    ///
    /// # Errors
    /// [`StoreError::RemovalStopped`], which has what was done up to then; of the keys in the batch that failed some
    /// may be gone besides. To repeat the call with the same keys is always right.
    pub async fn delete_many(&self, keys: &[ObjectKey], budget: &RetryBudget) -> Result<Removal, StoreError> {
        let mut removal = Removal::default();
        let batch = match self.removal_mode() {
            RemovalMode::Batches(most) => most.max(1),
            RemovalMode::SideBySide => SIDE_BY_SIDE * 16,
        };
        for keys in keys.chunks(batch) {
            let done = match self.removal_mode() {
                RemovalMode::Batches(_) => self.remove_batch(keys, budget, &mut removal).await,
                RemovalMode::SideBySide => self.remove_side_by_side(keys, budget, &mut removal).await,
            };
            if let Err(source) = done {
                return Err(StoreError::RemovalStopped {
                    so_far: Box::new(removal),
                    source: Box::new(source),
                });
            }
        }
        Ok(removal)
    }

    /// Removes one object. One that is not there counts as removed.
    ///
    /// # Errors
    /// What any request can give.
    pub async fn delete(&self, key: &ObjectKey, budget: &RetryBudget) -> Result<(), StoreError> {
        let mut removal = Removal::default();
        self.remove_batch(std::slice::from_ref(key), budget, &mut removal).await?;
        let Some(kept) = removal.kept.pop() else { return Ok(()) };
        let mut failure = Failure::nonsense(&kept.message);
        failure.class = FailureClass::Denied;
        Err(failure.into_error("remove the object", 1, self.url(), key.as_str()))
    }

    async fn remove_side_by_side(
        &self,
        keys: &[ObjectKey],
        budget: &RetryBudget,
        removal: &mut Removal,
    ) -> Result<(), StoreError> {
        let each: Vec<_> = keys
            .iter()
            .map(|key| {
                let (store, key, budget) = (self.clone(), key.clone(), budget.clone());
                async move {
                    let mut one = Removal::default();
                    let done = store.remove_batch(&[key], &budget, &mut one).await;
                    (one, done)
                }
            })
            .collect();
        let mut results = futures::stream::iter(each).buffered(SIDE_BY_SIDE);
        let mut first_error = Ok(());
        while let Some((one, done)) = results.next().await {
            removal.removed += one.removed;
            removal.kept.extend(one.kept);
            // The others of this batch have been begun: what became of them is worth knowing.
            first_error = first_error.and(done);
        }
        first_error
    }

    /// One call for these keys, and again for those of which nothing is known.
    async fn remove_batch(
        &self,
        keys: &[ObjectKey],
        budget: &RetryBudget,
        removal: &mut Removal,
    ) -> Result<(), StoreError> {
        let mut open: Vec<(Path, &ObjectKey)> =
            keys.iter().map(|key| Ok((self.path(key)?, key))).collect::<Result<_, StoreError>>()?;
        let mut kept = Vec::new();
        let mut tries = 0;
        loop {
            tries += 1;
            let (fates, failure) = self.try_to_remove(&open, budget).await;
            let mut again = None;
            let mut left = Vec::new();
            for ((path, key), fate) in open.into_iter().zip(fates) {
                match fate {
                    Some(Fate::Gone) => removal.removed += 1,
                    Some(Fate::Kept(why, message)) => {
                        kept.push(KeptObject { key: key.clone(), why, message });
                    }
                    Some(Fate::Again(failure)) => {
                        again = Some(failure);
                        left.push((path, key));
                    }
                    Some(Fate::Failed(failure)) => {
                        return Err(failure.into_error(ACTION, tries, self.url(), key.as_str()));
                    }
                    None => left.push((path, key)),
                }
            }
            open = left;
            let Some(first) = open.first() else { break };
            let call = Call { operation: Operation::Delete, action: ACTION, key: first.1.as_str() };
            let failure =
                failure.or(again).unwrap_or_else(|| Failure::nonsense("the store said nothing of some keys"));
            self.pause(call, failure, tries, budget).await?;
        }
        kept.sort_by_key(|kept| keys.iter().position(|key| *key == kept.key));
        removal.kept.extend(kept);
        Ok(())
    }

    /// One try: what became of each key, as far as the store told, and how the call itself failed.
    async fn try_to_remove(
        &self,
        open: &[(Path, &ObjectKey)],
        budget: &RetryBudget,
    ) -> (Vec<Option<Fate>>, Option<Failure>) {
        let first = open.first().map(|(_, key)| key.as_str()).unwrap_or_default();
        let call = Call { operation: Operation::Delete, action: ACTION, key: first };
        self.count_request(Operation::Delete, 0);
        let timeout = budget.try_timeout(open.len() as u64 * BYTES_PER_KEY, self.limits());
        let paths: Vec<_> = open.iter().map(|(path, _)| Ok(path.clone())).collect();
        let mut fates = Vec::with_capacity(open.len());
        let work = async {
            // One answer for each key, in their order, until the call itself fails.
            let mut answers = self.objects.delete_stream(futures::stream::iter(paths).boxed());
            while let Some(answer) = answers.next().await {
                fates.push(Some(Fate::of(answer)?));
            }
            Ok(())
        };
        let mut failure = self.attempt(call, timeout, budget, work).await.err();
        if open.len() == 1
            && fates.is_empty()
            && let Some(fate) = failure.as_ref().and_then(Fate::of_one_request)
        {
            fates.push(Some(fate));
            failure = None;
        }
        fates.resize_with(open.len(), || None);
        (fates, failure)
    }
}

impl Fate {
    /// What the answer says of its key; the error when it is one of the whole call.
    fn of(answer: object_store::Result<Path>) -> object_store::Result<Self> {
        let Err(error) = answer else { return Ok(Self::Gone) };
        if let object_store::Error::Generic { source, .. } | object_store::Error::NotFound { source, .. } =
            &error
        {
            if let Some(refused) = source.downcast_ref::<KeyRefused>() {
                return Ok(Self::of_code(&refused.code, &refused.message));
            }
            if let Some((reason, status)) = azure_refusal(&source.to_string()) {
                return Ok(Self::of_azure(&reason, status));
            }
        }
        // The file system's answer, or that of a store of which we know no more; a bucket or a root that is missing is another
        // matter, and so is a request that failed as a whole.
        let trace = TRACE.try_with(std::sync::Arc::clone).unwrap_or_default();
        let failure = Failure::sort(&error, &trace);
        let answered = trace.state().status.is_none_or(|status| status < 300);
        match failure.class {
            FailureClass::Missing if answered => Ok(Self::Gone),
            FailureClass::Denied if failure.io.is_some() => {
                Ok(Self::Kept(KeptReason::Denied, failure.cause.to_string()))
            }
            _ => Err(error),
        }
    }

    /// What S3 and its compatibles say of one key.
    fn of_code(code: &str, message: &str) -> Self {
        let text = one_line(&format!("{code}: {message}"), 200);
        let text = text.trim_end_matches(": ").to_owned();
        match code {
            "NoSuchKey" | "NoSuchVersion" => Self::Gone,
            _ if is_locked(code, message) => Self::Kept(KeptReason::Locked, text),
            "AccessDenied" | "AllAccessDisabled" | "AccessForbidden" | "MethodNotAllowed" => {
                Self::Kept(KeptReason::Denied, text)
            }
            "InvalidRequest" | "MalformedXML" | "InvalidArgument" | "KeyTooLongError" => {
                let mut failure = Failure::nonsense(&text);
                failure.class = FailureClass::Config;
                Self::Failed(failure)
            }
            // InternalError, SlowDown, ServiceUnavailable, OperationAborted, and what we do not know.
            _ => Self::Again(Failure::nonsense(&text)),
        }
    }

    /// What Azure says of one blob of a batch.
    fn of_azure(reason: &str, status: u16) -> Self {
        let text = one_line(&format!("HTTP {status}: {reason}"), 200);
        match status {
            404 if reason.contains("container") => {
                let mut failure = Failure::nonsense(&text);
                failure.class = FailureClass::BucketMissing;
                Self::Failed(failure)
            }
            404 => Self::Gone,
            // Immutability policies, legal holds, leases, snapshots: the blob is held by something.
            409 | 412 => Self::Kept(KeptReason::Locked, text),
            403 => Self::Kept(KeptReason::Denied, text),
            _ => Self::Again(Failure::nonsense(&text)),
        }
    }

    /// What the failure of a request for one key says of that key, if anything.
    fn of_one_request(failure: &Failure) -> Option<Self> {
        let refused = failure.cause.status == Some(403)
            && matches!(failure.cause.code.as_deref(), None | Some("AccessDenied" | "Forbidden"));
        match failure.class {
            FailureClass::Missing => Some(Self::Gone),
            _ if failure.locked => Some(Self::Kept(KeptReason::Locked, failure.cause.to_string())),
            FailureClass::Denied if refused => {
                Some(Self::Kept(KeptReason::Denied, failure.cause.to_string()))
            }
            _ => None,
        }
    }
}

/// Takes object_store's text for one blob of a batch apart, the only form in which it tells: reason and status.
fn azure_refusal(text: &str) -> Option<(String, u16)> {
    let (_, rest) = text.split_once("Bulk delete request failed for key ")?;
    let (rest, status) = rest.trim_end_matches(')').rsplit_once(" (code: ")?;
    let (_, reason) = rest.split_once(": ")?;
    Some((reason.to_owned(), status.parse().ok()?))
}

/// Do a store's code and message for a refused removal speak of a lock? The codes are those of S3 (`AccessDenied`,
/// with "object protected by object lock" in its message), MinIO, IBM, Alibaba, Azure and Google.
pub(crate) fn is_locked(code: &str, message: &str) -> bool {
    const CODES: [&str; 8] = [
        "ObjectLocked",
        "ObjectUnderRetention",
        "FileImmutable",
        "BlobImmutableDueToPolicy",
        "BlobImmutableDueToLegalHold",
        "RetentionPolicyNotMet",
        "ObjectUnderActiveHold",
        "ObjectRetentionNotMet",
    ];
    const WORDS: [&str; 7] =
        ["object lock", "worm", "immutable", "retention", "legal hold", "under active hold", "holds"];
    let message = message.to_ascii_lowercase();
    // Amazon's word on a missing right names the bucket and the key, and a bucket for retention is no lock.
    if message.contains("is not authorized to perform") {
        return false;
    }
    CODES.iter().any(|locked| locked.eq_ignore_ascii_case(code))
        || WORDS.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_code(code: &str, message: &str) -> &'static str {
        word(&Fate::of_code(code, message))
    }

    fn word(fate: &Fate) -> &'static str {
        match fate {
            Fate::Gone => "gone",
            Fate::Kept(KeptReason::Locked, _) => "locked",
            Fate::Kept(KeptReason::Denied, _) => "denied",
            Fate::Again(_) => "again",
            Fate::Failed(_) => "failed",
        }
    }

    #[test]
    fn words_of_stores_on_one_key_are_told_apart() {
        for (code, message, expected) in [
            ("AccessDenied", "Access Denied because object protected by object lock.", "locked"),
            ("AccessDenied", "Access Denied", "denied"),
            (
                "AccessDenied",
                "User: arn:aws:iam::1:user/x is not authorized to perform: s3:DeleteObject on resource: \
                 \"arn:aws:s3:::wal-retention/main/7-17/retention/x.json\" because no identity-based policy allows it",
                "denied",
            ),
            ("ObjectLocked", "Object is WORM protected and cannot be overwritten", "locked"),
            ("RetentionPolicyNotMet", "", "locked"),
            ("NoSuchKey", "", "gone"),
            ("InternalError", "We encountered an internal error. Please try again.", "again"),
            ("SlowDown", "", "again"),
            ("MalformedXML", "", "failed"),
        ] {
            assert_eq!(of_code(code, message), expected, "{code} {message}");
        }
    }

    #[test]
    fn what_object_store_says_of_a_blob_is_understood() {
        let text = "Bulk delete request failed for key a/b: This operation is not permitted as the blob is \
                    immutable due to a policy. (code: 409)";
        let (reason, status) = azure_refusal(text).unwrap();
        assert_eq!(reason, "This operation is not permitted as the blob is immutable due to a policy.");
        assert_eq!(word(&Fate::of_azure(&reason, status)), "locked");
        assert_eq!(word(&Fate::of_azure("The specified blob does not exist.", 404)), "gone");
        assert_eq!(word(&Fate::of_azure("The specified container does not exist.", 404)), "failed");
        assert_eq!(word(&Fate::of_azure("no", 403)), "denied");
        assert_eq!(word(&Fate::of_azure("busy", 503)), "again");
        assert_eq!(azure_refusal("Got invalid bulk delete response: x"), None);
    }
}
