//! The handle on one repository's store, and the one place where tries are made and repeated.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{Attributes, ObjectStore};
use tokio::time::Instant;
use walden_core::{ConditionalCreate, ObjectKey};

use crate::budget::{RetryBudget, TryLimits};
use crate::counters::{CounterSnapshot, Counters, Operation};
use crate::error::StoreError;
use crate::failure::Failure;
use crate::http::{TRACE, Trace};
use crate::rate::RateLimiter;
use crate::remove::RemovalMode;
use crate::s3::S3Requests;
use crate::url::StoreUrl;

/// Verified object I/O on one repository. Clones are cheap and share connections and counters.
#[derive(Clone)]
pub struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// The same client, when it can list one page at a time in the order of the keys.
    pub(crate) pages: Option<Arc<dyn PaginatedListStore>>,
    shared: Arc<Shared>,
    create: ConditionalCreate,
    identity: Arc<str>,
    limiter: Option<RateLimiter>,
    removal: RemovalMode,
    /// A way to ask an S3 bucket itself.
    pub(crate) bucket: Option<Arc<S3Requests>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("objects", &self.objects)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    url: StoreUrl,
    /// The repository's root inside the bucket.
    prefix: Path,
    transport: Transport,
    limits: TryLimits,
    /// Sent with every PUT, such as the storage class.
    attributes: Attributes,
    counters: Arc<Counters>,
}

/// What is under a store: decides who counts its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The HTTP client counts.
    Http,
    /// Nobody else does, so we count calls here.
    Direct,
}

/// What one call does and on what: for counting and for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) operation: Operation,
    /// Completes "could not …".
    pub(crate) action: &'static str,
    /// The key or prefix, relative to the repository's root.
    pub(crate) key: &'a str,
}

impl Store {
    pub(crate) fn new(
        url: StoreUrl,
        objects: Arc<dyn ObjectStore>,
        transport: Transport,
        limits: TryLimits,
        attributes: Attributes,
        counters: Arc<Counters>,
    ) -> Self {
        // The URL's prefix has been checked to be a path as it stands.
        let prefix = Path::parse(url.prefix()).unwrap_or_default();
        let identity = url.to_string().into();
        let shared = Arc::new(Shared { url, prefix, transport, limits, attributes, counters });
        let create = ConditionalCreate::Enforced;
        let removal = RemovalMode::SideBySide;
        Self { objects, pages: None, shared, create, identity, limiter: None, removal, bucket: None }
    }

    /// The same store with a way to list one page at a time.
    pub(crate) fn with_pages(self, pages: Option<Arc<dyn PaginatedListStore>>) -> Self {
        Self { pages, ..self }
    }

    /// The same store with what tells it from others of the same URL.
    pub(crate) fn with_identity(self, beyond_url: &str) -> Self {
        Self { identity: format!("{}{beyond_url}", self.shared.url).into(), ..self }
    }

    /// The same store, knowing the limit that its client keeps to.
    pub(crate) fn with_limiter(self, limiter: Option<RateLimiter>) -> Self {
        Self { limiter, ..self }
    }

    /// The same store, knowing how its removals are made.
    pub(crate) fn with_removal(self, removal: RemovalMode) -> Self {
        Self { removal, ..self }
    }

    /// The same store with a way to ask the bucket itself.
    pub(crate) fn with_bucket(self, bucket: Option<Arc<S3Requests>>) -> Self {
        Self { bucket, ..self }
    }

    /// Does an HTTP client of ours see every answer?
    pub(crate) fn is_over_http(&self) -> bool {
        self.shared.transport == Transport::Http
    }

    pub(crate) fn removal_mode(&self) -> RemovalMode {
        self.removal
    }

    /// The limit of the rate at which it sends and receives, when it has one.
    #[must_use]
    pub fn limiter(&self) -> Option<&RateLimiter> {
        self.limiter.as_ref()
    }

    /// A store over any implementation of object_store's trait, with the prefix and the name of `url`.
    ///
    /// For tests that put faults under the store, and for programs that bring their own client.
    #[must_use]
    pub fn over(url: StoreUrl, objects: Arc<dyn ObjectStore>, limits: TryLimits) -> Self {
        Self::new(url, objects, Transport::Direct, limits, Attributes::new(), Arc::default())
    }

    /// The same store with another implementation between it and the wire; counters are shared.
    #[must_use]
    pub fn wrapped(&self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        // What is listed by pages would go past the wrapper.
        Self { objects: wrap(Arc::clone(&self.objects)), pages: None, ..self.clone() }
    }

    /// The same store, told how far it can be trusted to refuse a second create: what [`Self::probe`] found and
    /// `repository.json` holds. Unless told, a store is taken to enforce it.
    #[must_use]
    pub fn with_conditional_create(&self, create: ConditionalCreate) -> Self {
        Self { create, ..self.clone() }
    }

    /// How far the store is trusted to refuse a second create.
    #[must_use]
    pub fn conditional_create(&self) -> ConditionalCreate {
        self.create
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.shared.url
    }

    /// Which store it is among all: the URL, and the endpoint and the account that the settings and the environment
    /// name, because the same bucket name elsewhere is another bucket. Holds no secrets.
    #[must_use]
    pub fn identity(&self) -> String {
        self.identity.to_string()
    }

    /// What was asked of it up to now, by this handle and its clones.
    #[must_use]
    pub fn counters(&self) -> CounterSnapshot {
        self.shared.counters.snapshot()
    }

    pub(crate) fn counted(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn attributes(&self) -> Attributes {
        self.shared.attributes.clone()
    }

    /// How long one try on this store may take.
    #[must_use]
    pub fn limits(&self) -> TryLimits {
        self.shared.limits
    }

    /// The place of a key in the bucket.
    pub(crate) fn path(&self, key: &ObjectKey) -> Result<Path, StoreError> {
        self.raw_path(key.as_str())
    }

    /// The place of a key or of a prefix (with or without its last slash) in the bucket.
    pub(crate) fn raw_path(&self, key: &str) -> Result<Path, StoreError> {
        let whole = match (self.shared.prefix.as_ref(), key) {
            ("", key) => Path::parse(key),
            (_, "") => Ok(self.shared.prefix.clone()),
            (prefix, key) => Path::parse(format!("{prefix}/{key}")),
        };
        whole.map_err(|error| StoreError::Internal { message: format!("key can't be a path: {error}") })
    }

    /// The key of a place in the bucket; `None` for what lies outside of the repository.
    pub(crate) fn key_of(&self, path: &Path) -> Option<String> {
        match self.shared.prefix.as_ref() {
            "" => Some(path.to_string()),
            prefix => path.as_ref().strip_prefix(prefix)?.strip_prefix('/').map(str::to_owned),
        }
    }

    pub(crate) fn count_retry(&self, operation: Operation) {
        self.shared.counters.retry(operation);
    }

    /// Counts one call where no HTTP client does.
    pub(crate) fn count_request(&self, operation: Operation, bytes_sent: u64) {
        if self.shared.transport == Transport::Direct {
            self.shared.counters.request(operation, bytes_sent);
        }
    }

    pub(crate) fn count_received(&self, operation: Operation, bytes: u64) {
        if self.shared.transport == Transport::Direct {
            self.shared.counters.received(operation, bytes);
        }
    }

    /// Makes one try: runs `work` for at most `timeout` and sorts its failure. What a limit of the rate takes of the
    /// time is not counted, and is granted to the budget.
    pub(crate) async fn attempt<T, F>(
        &self,
        call: Call<'_>,
        timeout: Duration,
        budget: &RetryBudget,
        work: F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let trace = Arc::new(Trace::default());
        let direct = self.shared.transport == Transport::Direct;
        let finished = TRACE.scope(Arc::clone(&trace), within(timeout, &trace, work)).await;
        budget.grant(trace.waited());
        let failure = match finished {
            Some(Ok(value)) => return Ok(value),
            Some(Err(error)) => Failure::sort(&error, &trace),
            None => Failure::timeout(&trace, direct),
        };
        if direct && failure.is_error() {
            self.shared.counters.error(call.operation);
        }
        tracing::debug!(
            action = call.action, key = call.key, class = ?failure.class, ambiguous = failure.ambiguous,
            cause = %failure.cause, "a try failed"
        );
        Err(failure)
    }

    /// Repeats `work` until it succeeds, fails for good, or the budget is spent. Only for what may be repeated:
    /// reads, listings and removals.
    pub(crate) async fn repeat<T, F, W>(
        &self,
        call: Call<'_>,
        bytes: u64,
        budget: &RetryBudget,
        mut work: W,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
        W: FnMut() -> F,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            self.count_request(call.operation, 0);
            let timeout = budget.try_timeout(bytes, self.shared.limits);
            match self.attempt(call, timeout, budget, work()).await {
                Ok(value) => return Ok(value),
                Err(failure) => self.pause(call, failure, tries, budget).await?,
            }
        }
    }

    /// Waits before the next try, or gives the error that ends them.
    pub(crate) async fn pause(
        &self,
        call: Call<'_>,
        failure: Failure,
        tries: u32,
        budget: &RetryBudget,
    ) -> Result<(), StoreError> {
        let pause = if failure.is_retryable(tries) { budget.backoff(tries) } else { None };
        let Some(pause) = pause else {
            return Err(failure.into_error(call.action, tries, &self.shared.url, call.key));
        };
        self.count_retry(call.operation);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Runs `work` for at most `timeout`, besides what a limit of the rate takes.
async fn within<T>(timeout: Duration, trace: &Trace, work: impl Future<Output = T>) -> Option<T> {
    let begin = Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        let allowed = timeout.saturating_add(trace.waited());
        if let Ok(done) = tokio::time::timeout_at(begin + allowed, work.as_mut()).await {
            return Some(done);
        }
        if trace.waited().saturating_add(timeout) <= allowed {
            return None;
        }
    }
}
