//! A limit on bytes per second, shared by everything that one process moves.
//!
//! Bytes are handed out in small pieces, each at the moment at which the limit has room for it, so that the rate is
//! even and no body waits while another goes in one burst. Whoever is repeated pays again.
//!
//! Time spent here is nobody's fault: a try is not given up for it, and a [`crate::RetryBudget`] grows by it. A limit
//! makes things slow, never fail.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::{Trace, record_wait};

/// What was not used may be made up for within this time; so much goes at once after a pause.
const BURST: Duration = Duration::from_millis(50);
/// Bytes that are handed out at once, whatever the rate: at least …
const PIECE_BYTES_MIN: u64 = 1 << 10;
/// … and at most.
const PIECE_BYTES_MAX: u64 = 64 << 10;

/// Hands out so many bytes per second. Clones share the limit.
#[derive(Debug, Clone)]
pub struct RateLimiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_per_second: NonZeroU64,
    /// When everything that was handed out has been earned.
    earned_at: Mutex<Instant>,
    waited_nanos: AtomicU64,
}

impl RateLimiter {
    /// A limit of so many bytes per second.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        let earned_at = Mutex::new(Instant::now());
        Self(Arc::new(Shared { bytes_per_second, earned_at, waited_nanos: AtomicU64::new(0) }))
    }

    /// The limit.
    #[must_use]
    pub fn bytes_per_second(&self) -> NonZeroU64 {
        self.0.bytes_per_second
    }

    /// How long all that was handed out had to wait, together; more than has passed when several waited at once.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.0.waited_nanos.load(Ordering::Relaxed))
    }

    /// How many bytes should be asked for at once, so that the rate is even: 1 KiB to 64 KiB.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        let in_a_burst = self.0.bytes_per_second.get().saturating_mul(millis(BURST)) / 1000;
        let piece = in_a_burst.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        usize::try_from(piece).unwrap_or(1 << 10)
    }

    /// Books `bytes` and says how long to wait before they may go. What is booked is spent, used or not.
    #[must_use]
    pub fn book(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0.bytes_per_second.get());
        let cost =
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(Duration::from_hours(24));
        let now = Instant::now();
        let wait = {
            let mut earned_at = self.0.earned_at.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = now.checked_sub(BURST).unwrap_or(now);
            *earned_at = (*earned_at).max(oldest) + cost;
            earned_at.saturating_duration_since(now)
        };
        self.0.waited_nanos.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        wait
    }

    /// Waits until `bytes` may go.
    pub async fn take(&self, bytes: u64) {
        let wait = self.book(bytes);
        if !wait.is_zero() {
            record_wait(None, wait);
            tokio::time::sleep(wait).await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A body that goes or comes at a limited rate.
#[derive(Debug)]
pub(crate) struct PacedBody<B> {
    inner: B,
    limiter: RateLimiter,
    /// The try that sends it; a body that is read is polled within its try.
    trace: Option<Arc<Trace>>,
    /// What has come and is not yet booked.
    rest: Bytes,
    /// What is booked, and until when it waits.
    booked: Option<(Bytes, Pin<Box<Sleep>>)>,
}

impl<B> PacedBody<B> {
    pub(crate) fn new(inner: B, limiter: RateLimiter, trace: Option<Arc<Trace>>) -> Self {
        Self { inner, limiter, trace, rest: Bytes::new(), booked: None }
    }

    fn held_bytes(&self) -> u64 {
        let booked = self.booked.as_ref().map_or(0, |(bytes, _)| bytes.len());
        (self.rest.len() + booked) as u64
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for PacedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        loop {
            if let Some((_, sleep)) = &mut this.booked {
                ready!(sleep.as_mut().poll(context));
            }
            if let Some((bytes, _)) = this.booked.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.rest.is_empty() {
                match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => this.rest = data,
                        Err(other) => return Poll::Ready(Some(Ok(other))),
                    },
                    end => return Poll::Ready(end),
                }
                continue;
            }
            let piece = this.rest.split_to(this.rest.len().min(this.limiter.piece_bytes()));
            let wait = this.limiter.book(piece.len() as u64);
            record_wait(this.trace.as_deref(), wait);
            this.booked = Some((piece, Box::pin(sleep_until(Instant::now() + wait))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held_bytes() == 0 && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(self.held_bytes()));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(self.held_bytes()));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use walden_core::{ServerLayout, repository_key};

    use super::*;
    use crate::{CreateOutcome, RetryBudget, Store, StoreConfig};

    fn limiter(bytes_per_second: u64) -> RateLimiter {
        RateLimiter::new(NonZeroU64::new(bytes_per_second).unwrap())
    }

    /// What comes of a body, and when, in milliseconds from the beginning.
    async fn drain<B: Body<Data = Bytes, Error = Infallible> + Unpin>(mut body: B) -> Vec<(u128, usize)> {
        let begin = Instant::now();
        let mut seen = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            seen.push((begin.elapsed().as_millis(), frame.unwrap().into_data().unwrap().len()));
        }
        seen
    }

    /// A body of a few frames.
    struct Frames(Vec<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let frame = (!self.0.is_empty()).then(|| Ok(Frame::data(self.0.remove(0))));
            Poll::Ready(frame)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|frame| frame.len() as u64).sum())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_the_rate_and_a_pause_gives_no_more_than_a_burst() {
        let limiter = limiter(1_000_000);
        let begin = Instant::now();
        for _ in 0..100 {
            limiter.take(100_000).await;
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(9_940) && took <= Duration::from_millis(10_100), "{took:?}");
        // An hour of rest is not an hour's bytes at once.
        tokio::time::advance(Duration::from_hours(1)).await;
        let begin = Instant::now();
        limiter.take(1_050_000).await;
        assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
        assert!(limiter.waited() >= took);
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_share_a_limit_share_its_bytes_evenly() {
        let limiter = limiter(1_000_000);
        let begin = Instant::now();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move {
                    for _ in 0..100 {
                        limiter.take(10_000).await;
                    }
                    Instant::now()
                })
            })
            .collect();
        for task in tasks {
            let took = task.await.unwrap() - begin;
            // Nobody was done early at the others' expense, and together they took 8 MB's time.
            assert!(took >= Duration::from_millis(7_800) && took <= Duration::from_millis(8_100), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_paced_in_pieces_and_arrives_whole() {
        let limiter = limiter(1 << 20);
        let frames = vec![Bytes::from(vec![7; 1 << 20]), Bytes::new(), Bytes::from(vec![8; 1 << 20])];
        let body = PacedBody::new(Frames(frames), limiter.clone(), None);
        assert_eq!(body.size_hint().exact(), Some(2 << 20));
        let seen = drain(body).await;
        assert_eq!(seen.iter().map(|(_, bytes)| bytes).sum::<usize>(), 2 << 20);
        assert!(seen.iter().all(|(_, bytes)| *bytes <= limiter.piece_bytes()));
        let (last, _) = seen[seen.len() - 1];
        assert!((1_940..=2_100).contains(&last), "{last}");
        // Never ahead of the rate by more than a burst and a piece.
        let mut sent = 0;
        for (at, bytes) in seen {
            sent += bytes as u128;
            assert!(sent <= (at + 50) * (1 << 20) / 1000 + (64 << 10), "{sent} at {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_body_waited_is_told_to_its_try() {
        let trace = Arc::new(Trace::default());
        let body = PacedBody::new(
            Frames(vec![Bytes::from(vec![7; 1 << 20])]),
            limiter(1 << 20),
            Some(Arc::clone(&trace)),
        );
        drain(body).await;
        // Each wait is told; together they are the time that the body took.
        let waited = trace.waited().as_millis();
        assert!((940..=1_100).contains(&waited), "{waited}");
    }

    #[test]
    fn pieces_are_small_whatever_the_rate() {
        assert_eq!(limiter(1).piece_bytes(), 1 << 10);
        assert_eq!(limiter(400_000).piece_bytes(), 20_000);
        assert_eq!(limiter(u64::MAX).piece_bytes(), 64 << 10);
        assert!(limiter(1).book(u64::MAX) <= Duration::from_hours(25));
    }

    /// A limited store in a directory, whose requests may take a second and no longer for being large.
    fn limited(directory: &std::path::Path, bytes_per_second: u64) -> Store {
        let config = StoreConfig {
            max_rate: NonZeroU64::new(bytes_per_second),
            request_timeout: Some(Duration::from_secs(1)),
            throughput_min: Some(u64::MAX),
            ..StoreConfig::default()
        };
        let url = format!("file://{}", directory.display()).parse().unwrap();
        Store::open(&url, &config, &crate::Environment::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_makes_writes_and_reads_slow_and_no_try_fails_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = limited(directory.path(), 100_000);
        let record = Bytes::from((0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>());
        let incarnation = "7401234567890123456-17".parse().unwrap();
        let layout = ServerLayout::new("main".parse().unwrap()).incarnation(incarnation);
        let keys = [layout.marker(), repository_key()];

        let begin = Instant::now();
        let writes =
            keys.each_ref().map(|key| {
                let (store, record) = (&store, &record);
                // Half of a second for a small object, ten seconds for this one: the limit takes twenty for both.
                async move {
                    store.create_record_once(key, record, &RetryBudget::new(Duration::from_secs(2))).await
                }
            });
        for written in futures::future::join_all(writes).await {
            assert_eq!(written.unwrap(), CreateOutcome::Created);
        }
        assert!(begin.elapsed() >= Duration::from_millis(19_900), "{:?}", begin.elapsed());

        let begin = Instant::now();
        let read = store.get(&keys[0], 2_000_000, &RetryBudget::new(Duration::from_secs(2))).await.unwrap();
        assert!(read == record);
        assert!(begin.elapsed() >= Duration::from_millis(9_900), "{:?}", begin.elapsed());
        let counts = store.counters();
        assert_eq!((counts.put.requests, counts.put.retries, counts.put.errors), (2, 0, 0));
        assert_eq!((counts.get.requests, counts.get.retries, counts.get.errors), (1, 0, 0));
        assert_eq!(store.limiter().unwrap().bytes_per_second().get(), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_write_meets_a_taken_name_as_any_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = limited(directory.path(), 100_000);
        let budget = RetryBudget::new(Duration::from_secs(9));
        let write = async |text: &'static [u8]| {
            store.create_record_once(&repository_key(), &Bytes::from_static(text), &budget).await.unwrap()
        };
        assert_eq!(write(b"first").await, CreateOutcome::Created);
        assert!(matches!(write(b"first").await, CreateOutcome::AlreadyStored(_)));
        assert!(matches!(write(b"second").await, CreateOutcome::Conflict(_)));
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
