//! A store that goes wrong on purpose, reproducibly: the same seed gives the same faults.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// What is done to a store, in thousandths of all calls that it can be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates {
    /// An error, and nothing done.
    pub error_before: u16,
    /// Done, and reported as an error.
    pub error_after: u16,
    /// The body ends too early.
    pub torn_read: u16,
    /// One bit of the body is flipped.
    pub wrong_bytes: u16,
    /// A delay of up to [`FaultStore::SLOW_MAX`].
    pub slow: u16,
    /// A listing without what was written last.
    pub stale_list: u16,
}

impl FaultRates {
    /// Every fault that a store may have without breaking its word: no wrong bytes, no stale listings.
    pub const UNRELIABLE: Self =
        Self { error_before: 150, error_after: 150, torn_read: 100, wrong_bytes: 0, slow: 20, stale_list: 0 };
}

/// Between which effects a crash is to happen: called before every effect with its number, from 0, and its name;
/// an error stands for the process being gone, and nothing is done any more.
pub type CrashHook = Arc<dyn Fn(u64, &'static str) -> std::result::Result<(), Crash> + Send + Sync>;

/// The process that used the store is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash;

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("injected crash")
    }
}

impl std::error::Error for Crash {}

/// What was injected, for messages of failing tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// The number of the call.
    pub call: u64,
    /// What the call does.
    pub name: &'static str,
    /// What was done to it.
    pub fault: &'static str,
}

/// A wrapper that injects faults into another store.
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    rates: FaultRates,
    seed: u64,
    calls: AtomicU64,
    effects: AtomicU64,
    injected: Mutex<Vec<Injected>>,
    last_put: Mutex<Option<Path>>,
    crash: Option<CrashHook>,
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore")
            .field("seed", &self.seed)
            .field("rates", &self.rates)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore(seed={}, {})", self.seed, self.inner)
    }
}

/// What one call gets.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    error_before: bool,
    error_after: bool,
    torn: bool,
    wrong: bool,
    stale: bool,
    slow: Option<Duration>,
    draw: u64,
}

impl FaultStore {
    /// The longest delay.
    pub const SLOW_MAX: Duration = Duration::from_millis(20);

    /// Faults at these rates in front of `inner`; which calls they hit is a function of `seed` and of the order of
    /// the calls.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, rates: FaultRates, seed: u64) -> Self {
        Self {
            inner,
            rates,
            seed,
            calls: AtomicU64::new(0),
            effects: AtomicU64::new(0),
            injected: Mutex::default(),
            last_put: Mutex::default(),
            crash: None,
        }
    }

    /// The same with a hook before every effect.
    #[must_use]
    pub fn with_crash_hook(self, hook: CrashHook) -> Self {
        Self { crash: Some(hook), ..self }
    }

    /// How many effects (puts and removals) were begun.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.effects.load(Ordering::Relaxed)
    }

    /// What was injected so far.
    #[must_use]
    pub fn injected(&self) -> Vec<Injected> {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Draws what happens to the next call.
    fn fate(&self, name: &'static str) -> Fate {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut random = SplitMix64(self.seed ^ call.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let mut hit = |rate: u16, fault: &'static str| {
            let hit = random.draw() % 1000 < u64::from(rate);
            if hit {
                let injected = Injected { call, name, fault };
                self.injected.lock().unwrap_or_else(PoisonError::into_inner).push(injected);
            }
            hit
        };
        let mut fate = Fate {
            error_before: hit(self.rates.error_before, "error before"),
            error_after: hit(self.rates.error_after, "error after"),
            torn: hit(self.rates.torn_read, "torn read"),
            wrong: hit(self.rates.wrong_bytes, "wrong bytes"),
            stale: hit(self.rates.stale_list, "stale list"),
            ..Fate::default()
        };
        let slow = hit(self.rates.slow, "slow");
        fate.draw = random.draw();
        fate.slow = slow.then(|| Self::SLOW_MAX * u32::try_from(fate.draw % 1000).unwrap_or_default() / 1000);
        fate
    }

    async fn begin(&self, name: &'static str) -> Result<Fate> {
        let fate = self.fate(name);
        if let Some(delay) = fate.slow {
            tokio::time::sleep(delay).await;
        }
        if fate.error_before {
            return Err(injected("error before the effect"));
        }
        Ok(fate)
    }

    fn effect(&self, name: &'static str) -> Result<()> {
        let number = self.effects.fetch_add(1, Ordering::Relaxed);
        match &self.crash {
            Some(hook) => hook(number, name).map_err(|crash| generic(Box::new(crash))),
            None => Ok(()),
        }
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "FaultStore", source }
}

fn injected(text: &str) -> Error {
    generic(format!("injected {text}").into())
}

fn once<T: Send + 'static>(error: Error) -> BoxStream<'static, Result<T>> {
    futures::stream::once(std::future::ready(Err(error))).boxed()
}

/// Damages the body of an answer.
fn damage(result: GetResult, fate: Fate) -> GetResult {
    if !(fate.torn || fate.wrong) {
        return result;
    }
    let bytes = result.range.end - result.range.start;
    let at = if bytes == 0 { 0 } else { fate.draw % bytes };
    let (meta, range, attributes, extensions) =
        (result.meta.clone(), result.range.clone(), result.attributes.clone(), result.extensions.clone());
    let stream =
        futures::stream::try_unfold((result.into_stream(), 0_u64), move |(mut body, seen)| async move {
            let Some(chunk) = body.try_next().await? else { return Ok(None) };
            let end = seen + chunk.len() as u64;
            let here = (seen..end).contains(&at);
            if fate.torn && here {
                // Some clients see an error, others just an end.
                return if fate.draw.is_multiple_of(2) { Err(injected("torn read")) } else { Ok(None) };
            }
            let chunk = if fate.wrong && here { flip(&chunk, at - seen) } else { chunk };
            Ok(Some((chunk, (body, end))))
        });
    let payload = GetResultPayload::Stream(stream.boxed());
    GetResult { payload, meta, range, attributes, extensions }
}

fn flip(chunk: &Bytes, at: u64) -> Bytes {
    let mut bytes = chunk.to_vec();
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
        *byte ^= 0x10;
    }
    bytes.into()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fate = self.begin("put").await?;
        self.effect("put")?;
        let result = self.inner.put_opts(location, payload, opts).await;
        if result.is_ok() {
            *self.last_put.lock().unwrap_or_else(PoisonError::into_inner) = Some(location.clone());
        }
        if fate.error_after { Err(injected("error after the effect")) } else { result }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.begin("put_multipart").await?;
        self.effect("put_multipart")?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.begin("get").await?;
        let result = self.inner.get_opts(location, options).await?;
        if fate.error_after {
            return Err(injected("error after the effect"));
        }
        Ok(damage(result, fate))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.begin("get_ranges").await?;
        self.inner.get_ranges(location, ranges).await
    }

    /// One call is one request, however many keys it is for; each removal is an effect. What fails on the way leaves
    /// some of them done.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let fate = self.fate("delete");
        // Who gives keys one by one waits for nothing: they are all there.
        let Some(keys) = locations.collect::<Vec<_>>().now_or_never() else {
            return once(injected("error: the keys of a removal were not ready"));
        };
        let mut some = keys.len();
        let mut end = None;
        if fate.error_before {
            // A batch may be half done when it fails; of a single removal nothing is.
            some = usize::try_from(fate.draw).unwrap_or_default() % keys.len().max(1);
            end = Some(injected("error before the effect"));
        }
        let crash = (0..some).find_map(|number| Some((number, self.effect("delete").err()?)));
        if let Some((number, error)) = crash {
            (some, end) = (number, Some(error));
        }
        let first = keys.into_iter().take(some);
        let removed = self.inner.delete_stream(futures::stream::iter(first).boxed());
        let removed = removed.chain(futures::stream::iter(end.map(Err)));
        if !fate.error_after {
            return removed.boxed();
        }
        // All are gone, and the answer is lost.
        let lost = removed.filter_map(|_| std::future::ready(None));
        lost.chain(once(injected("error after the effect"))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.begin("list_level").await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.begin("copy").await?;
        self.effect("copy")?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.begin("rename").await?;
        self.effect("rename")?;
        self.inner.rename_opts(from, to, options).await
    }
}

impl FaultStore {
    fn listing(
        &self,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let fate = self.fate("list");
        if fate.error_before {
            return futures::stream::once(async { Err(injected("error before the effect")) }).boxed();
        }
        if fate.stale {
            let hidden = self.last_put.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return inner
                .try_filter(move |meta| futures::future::ready(Some(&meta.location) != hidden.as_ref()))
                .boxed();
        }
        if fate.error_after || fate.torn {
            // Some of it, then an error.
            let some = usize::try_from(fate.draw % 7).unwrap_or_default();
            let error = futures::stream::once(async { Err(injected("error in a listing")) });
            return inner.take(some).chain(error).boxed();
        }
        inner
    }
}

/// A small generator: what counts is that the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
