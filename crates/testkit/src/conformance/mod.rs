//! One suite of checks for every store: what Walden builds on must hold on each of them.
//!
//! A check gets a repository of its own, does what the engine does, and says what did not hold. The suite runs on
//! the local directory and on all stores of the test bench; `WALDEN_TEST_URL` points it at a real bucket.

mod create;
mod derived;
mod list;
mod read;
mod remove;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use walden_core::{ObjectKey, ObjectKind, Writer};
use walden_store::{
    CompressionLevel, HeaderFields, IdentityHash, RetryBudget, SealedObject, Store, StoreError, seal_bytes,
};

use crate::fault::SplitMix64;

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed(pub String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        Self(text)
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// How a check ends.
pub type Verdict = Result<(), Failed>;

/// Fails with a message unless something holds.
///
/// # Errors
/// When it does not.
pub fn ensure(holds: bool, message: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Failed(message())) }
}

/// Opens an empty repository by a name of letters, digits and `-`.
pub type OpenRepository = Box<dyn Fn(&str) -> Result<Store, StoreError> + Send + Sync>;

/// What the suite is run on.
pub struct Subject {
    /// Opens an empty repository by a name of letters, digits and `-`.
    pub repository: OpenRepository,
    /// A repository in a bucket that does not exist.
    pub missing_bucket: Option<Store>,
    /// How often two writers race.
    pub race_rounds: usize,
    /// How many objects are listed; more than 1,000 shows whether pages are put together rightly.
    pub listed_objects: usize,
    /// Told apart from other runs on the same store.
    pub run: String,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("run", &self.run).finish_non_exhaustive()
    }
}

impl Subject {
    /// A subject with the usual sizes.
    #[must_use]
    pub fn new(repository: impl Fn(&str) -> Result<Store, StoreError> + Send + Sync + 'static) -> Self {
        Self {
            repository: Box::new(repository),
            missing_bucket: None,
            race_rounds: 50,
            listed_objects: 2100,
            run: format!("run-{}", std::process::id()),
        }
    }
}

/// What one check works with.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) missing_bucket: Option<Store>,
    pub(crate) race_rounds: usize,
    pub(crate) listed_objects: usize,
}

type CheckFuture = Pin<Box<dyn Future<Output = Verdict> + Send>>;

struct Check {
    name: &'static str,
    run: fn(Arc<Bench>) -> CheckFuture,
}

/// Names a check after its function.
macro_rules! check {
    ($module:ident :: $name:ident) => {
        Check { name: stringify!($name), run: |bench| Box::pin(async move { $module::$name(&bench).await }) }
    };
}

fn checks() -> Vec<Check> {
    vec![
        check!(create::one_request_creates_and_one_reads),
        check!(create::the_same_again_is_already_stored),
        check!(create::a_retry_of_the_same_writer_is_created),
        check!(create::different_bytes_are_a_conflict_that_names_the_writer),
        check!(create::records_are_compared_byte_for_byte),
        check!(create::foreign_and_torn_objects_are_never_overwritten),
        check!(create::of_two_racing_writers_one_wins),
        check!(create::racing_writers_of_the_same_both_succeed),
        check!(create::many_writers_at_once),
        check!(create::a_big_object_round_trips),
        check!(create::a_missing_bucket_is_said),
        check!(create::the_probe_finds_conditional_create_and_cleans_up),
        check!(read::ranges_are_exact),
        check!(read::headers_of_small_empty_and_missing_objects),
        check!(read::empty_objects_are_objects),
        check!(read::size_limits_hold),
        check!(read::absence_is_proved_by_the_marker),
        check!(read::a_wrong_name_is_not_the_object),
        check!(derived::indexes_are_read_alone),
        check!(derived::a_wrong_length_is_no_index),
        check!(derived::derived_objects_are_replaced),
        check!(list::listings_are_complete_and_in_order),
        check!(list::a_level_has_directories_and_objects),
        check!(list::prefixes_are_whole_parts),
        check!(list::every_character_of_a_key_survives),
        check!(list::removed_objects_are_gone),
        check!(remove::many_objects_are_removed_and_no_others),
        check!(remove::a_removal_from_a_missing_bucket_is_an_error),
        check!(remove::the_stores_clock_is_not_behind_its_objects),
        check!(remove::buckets_tell_or_do_not_tell),
    ]
}

/// Runs all checks, each in a repository of its own that is emptied afterwards; returns what failed.
pub async fn run(subject: &Subject) -> Vec<(&'static str, Failed)> {
    let mut failures = Vec::new();
    for check in checks() {
        let name = format!("{}-{}", subject.run, check.name.replace('_', "-"));
        let verdict = match (subject.repository)(&name) {
            Ok(store) => run_one(subject, &check, store).await,
            Err(error) => Err(error.into()),
        };
        if let Err(failed) = verdict {
            failures.push((check.name, failed));
        }
    }
    failures
}

async fn run_one(subject: &Subject, check: &Check, store: Store) -> Verdict {
    store.create_root().await?;
    let bench = Arc::new(Bench {
        store: store.clone(),
        missing_bucket: subject.missing_bucket.clone(),
        race_rounds: subject.race_rounds,
        listed_objects: subject.listed_objects,
    });
    let verdict = (check.run)(bench).await;
    let cleaned = empty(&store).await;
    verdict.and(cleaned)
}

/// Removes everything in a repository.
async fn empty(store: &Store) -> Verdict {
    let budget = budget();
    let keys: Vec<_> = store.list("", &budget).try_collect().await?;
    let removals = keys.into_iter().map(|listed| {
        let (store, budget) = (store.clone(), budget.clone());
        async move {
            let key = listed.object_key().map_err(|error| Failed(error.to_string()))?;
            store.delete(&key, &budget).await.map_err(Failed::from)
        }
    });
    futures::stream::iter(removals).buffer_unordered(16).try_collect().await
}

/// Enough for any one operation of a check.
pub(crate) fn budget() -> RetryBudget {
    RetryBudget::new(Duration::from_mins(2))
}

pub(crate) fn key(text: &str) -> Result<ObjectKey, Failed> {
    ObjectKey::parse(text).map_err(|error| Failed(error.to_string()))
}

/// Who writes in these checks; `number` tells writers apart.
pub(crate) fn fields(name: &str, number: u32) -> Result<HeaderFields, Failed> {
    let server = "main".parse().map_err(|_| Failed("server name".to_owned()))?;
    let incarnation = "7401234567890123456-17".parse().map_err(|_| Failed("incarnation".to_owned()))?;
    Ok(HeaderFields {
        kind: ObjectKind::Segment,
        name: name.to_owned(),
        server,
        incarnation,
        writer: Writer::new("host", &format!("writer {number}"), Timestamp::UNIX_EPOCH),
        wal: None,
    })
}

/// Seals `plain` as writer `number` would.
///
/// # Errors
/// Never, unless sealing is broken.
pub fn seal(name: &str, plain: &[u8], number: u32) -> Result<SealedObject, Failed> {
    seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields(name, number)?, plain, None)
        .map_err(|error| Failed(error.to_string()))
}

/// Bytes that no compressor makes smaller.
#[must_use]
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = SplitMix64(seed);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend_from_slice(&random.draw().to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

pub(crate) fn record(text: &str) -> Bytes {
    Bytes::from(format!("{{\"record\":\"{text}\"}}\n"))
}
