//! Create-once under seeded faults, against the simplest model there is: the first bytes stored stay, and nobody is
//! told anything else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use walden_core::{ErrorKind, ObjectKey};
use walden_store::{CreateOutcome, Existing, Expected, RetryBudget, Store, StoreError, TryLimits};
use walden_testkit::conformance::seal;
use walden_testkit::fault::{Crash, FaultRates, FaultStore, SplitMix64};

const NAME: &str = "000000010000000000000001";
const KEYS: usize = 6;
const LIMITS: TryLimits = TryLimits { request: Duration::from_secs(5), throughput_min: 1 << 20 };

fn over(objects: Arc<dyn ObjectStore>) -> Store {
    Store::over("s3://bucket/prefix".parse().unwrap(), objects, LIMITS)
}

fn key(n: usize) -> ObjectKey {
    ObjectKey::parse(&format!("main/wal/{n:03}.zst")).unwrap()
}

fn plain(writer: u32) -> Vec<u8> {
    format!("bytes of writer {writer}").into_bytes()
}

async fn stored(memory: &Arc<InMemory>, n: usize) -> Option<Vec<u8>> {
    let store = over(Arc::clone(memory) as Arc<dyn ObjectStore>);
    let expected = Expected { name: NAME, max_plain_bytes: 1000 };
    let budget = RetryBudget::seeded(Duration::from_secs(5), 1);
    match store.fetch_sealed(&key(n), expected, || Ok(Vec::new()), &budget).await {
        Ok(opened) => Some(opened.plain),
        Err(error) => {
            assert!(error.is_object_not_found(), "a torn object: {error:?}");
            None
        }
    }
}

/// One writer puts its bytes under all keys, in an order of its own.
async fn writer(store: Store, number: u32, seed: u64) -> BTreeMap<usize, Result<CreateOutcome, StoreError>> {
    let mut random = SplitMix64(seed ^ u64::from(number));
    let object = seal(NAME, &plain(number), number).unwrap();
    let mut outcomes = BTreeMap::new();
    for _ in 0..KEYS * 2 {
        let n = usize::try_from(random.draw() % KEYS as u64).unwrap();
        let budget = RetryBudget::seeded(Duration::from_secs(random.draw() % 20), random.draw());
        outcomes.insert(n, store.create_once(&key(n), &object, &budget).await);
    }
    outcomes
}

fn check(
    seed: u64,
    number: u32,
    n: usize,
    outcome: &Result<CreateOutcome, StoreError>,
    there: Option<&[u8]>,
) {
    let ours = there == Some(plain(number).as_slice());
    let context = || format!("seed={seed} writer={number} key={n}: {outcome:?}, stored {there:?}");
    match outcome {
        Ok(CreateOutcome::Created | CreateOutcome::AlreadyStored(_)) => {
            assert!(ours, "false ack: {}", context());
        }
        Ok(CreateOutcome::Conflict(Existing::Sealed(_))) => {
            assert!(there.is_some() && !ours, "false conflict: {}", context());
        }
        Ok(CreateOutcome::Conflict(_)) => panic!("nothing here is unreadable: {}", context()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", context()),
    }
}

#[tokio::test(start_paused = true)]
async fn two_writers_under_faults_are_told_the_truth() {
    let mut faults = 0;
    let mut conflicts = 0;
    for seed in 0..400_u64 {
        let memory = Arc::new(InMemory::new());
        // Every second run flips bits too, which the hashes and the second look have to bear.
        let wrong_bytes = if seed % 2 == 0 { 0 } else { 50 };
        let rates = FaultRates { wrong_bytes, ..FaultRates::UNRELIABLE };
        let faulty = Arc::new(FaultStore::new(Arc::clone(&memory) as Arc<dyn ObjectStore>, rates, seed));
        let store = over(Arc::clone(&faulty) as Arc<dyn ObjectStore>);
        let (a, b) = tokio::join!(writer(store.clone(), 1, seed), writer(store.clone(), 2, seed));
        for n in 0..KEYS {
            let there = stored(&memory, n).await;
            for (number, outcomes) in [(1, &a), (2, &b)] {
                let Some(outcome) = outcomes.get(&n) else { continue };
                conflicts += u64::from(matches!(outcome, Ok(CreateOutcome::Conflict(_))));
                check(seed, number, n, outcome, there.as_deref());
            }
        }
        faults += faulty.injected().len();
    }
    // A simulation without faults or without conflicts would prove nothing.
    assert!(faults > 5000 && conflicts > 300, "{faults} faults, {conflicts} conflicts");
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_at_any_effect_a_retry_makes_it_right() {
    for seed in 0..50_u64 {
        for crash_at in 0..4_u64 {
            let memory = Arc::new(InMemory::new());
            let inner = Arc::clone(&memory) as Arc<dyn ObjectStore>;
            let hook = Arc::new(move |number, _| if number >= crash_at { Err(Crash) } else { Ok(()) });
            let faulty = FaultStore::new(inner, FaultRates::UNRELIABLE, seed).with_crash_hook(hook);
            let store = over(Arc::new(faulty));
            let budget = RetryBudget::seeded(Duration::from_secs(3), seed);
            let object = seal(NAME, &plain(1), 1).unwrap();
            let before = store.create_once(&key(0), &object, &budget).await;
            let acked = matches!(before, Ok(CreateOutcome::Created));
            let there = stored(&memory, 0).await;
            assert!(!acked || there.is_some(), "seed={seed} crash_at={crash_at}: {before:?}");
            // The process that comes after it is another one, with another clock.
            let retry = over(Arc::clone(&memory) as Arc<dyn ObjectStore>);
            let again = seal(NAME, &plain(1), 7).unwrap();
            let outcome = retry.create_once(&key(0), &again, &budget).await.unwrap();
            let right = match there {
                Some(_) => matches!(outcome, CreateOutcome::AlreadyStored(_)),
                None => outcome == CreateOutcome::Created,
            };
            assert!(right, "seed={seed} crash_at={crash_at}: {outcome:?}");
            assert_eq!(stored(&memory, 0).await.unwrap(), plain(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn listings_under_faults_are_complete_or_fail() {
    for seed in 0..200_u64 {
        let memory = Arc::new(InMemory::new());
        for n in 0..40 {
            let path = format!("prefix/list/{n:03}").into();
            memory.put(&path, "x".into()).await.unwrap();
        }
        let faulty =
            FaultStore::new(Arc::clone(&memory) as Arc<dyn ObjectStore>, FaultRates::UNRELIABLE, seed);
        let store = over(Arc::new(faulty));
        let budget = RetryBudget::seeded(Duration::from_mins(1), seed);
        let listed: Result<Vec<_>, _> =
            store.list("list", &budget).map_ok(|listed| listed.key).try_collect().await;
        match listed {
            Ok(keys) => {
                let all: Vec<_> = (0..40).map(|n| format!("list/{n:03}")).collect();
                assert_eq!(keys, all, "seed={seed}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "seed={seed}: {error:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reads_under_faults_are_right_or_fail() {
    let mut right = 0;
    for seed in 0..300_u64 {
        let memory = Arc::new(InMemory::new());
        let clean = over(Arc::clone(&memory) as Arc<dyn ObjectStore>);
        let plain = walden_testkit::conformance::noise(50_000, seed);
        let budget = RetryBudget::seeded(Duration::from_mins(1), seed);
        clean.create_once(&key(0), &seal(NAME, &plain, 1).unwrap(), &budget).await.unwrap();
        let rates = FaultRates { wrong_bytes: 100, ..FaultRates::UNRELIABLE };
        let store = over(Arc::new(FaultStore::new(Arc::clone(&memory) as Arc<dyn ObjectStore>, rates, seed)));
        let expected = Expected { name: NAME, max_plain_bytes: 1 << 20 };
        match store.fetch_sealed(&key(0), expected, || Ok(Vec::new()), &budget).await {
            Ok(opened) => {
                assert!(opened.plain == plain, "seed={seed}: wrong bytes were handed out");
                right += 1;
            }
            Err(error) => {
                let honest = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt);
                assert!(honest, "seed={seed}: {error:?}");
            }
        }
    }
    assert!(right > 280, "only {right} of 300 reads came through");
}

#[tokio::test(start_paused = true)]
async fn bytes_without_a_hash_are_complete_or_fail() {
    for seed in 0..300_u64 {
        let memory = Arc::new(InMemory::new());
        let whole = walden_testkit::conformance::noise(3000, seed);
        memory.put(&"prefix/main/wal/000.zst".into(), whole.clone().into()).await.unwrap();
        let faulty = FaultStore::new(memory as Arc<dyn ObjectStore>, FaultRates::UNRELIABLE, seed);
        let store = over(Arc::new(faulty));
        let budget = RetryBudget::seeded(Duration::from_mins(1), seed);
        let read = store.get(&key(0), 10_000, &budget).await.unwrap();
        assert!(read == whole, "seed={seed}: {} bytes of {}", read.len(), whole.len());
        let part = store.get_range(&key(0), 1000..2500, &budget).await.unwrap();
        assert!(part == whole[1000..2500], "seed={seed}: {} bytes of 1500", part.len());
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_directory_a_doubt_is_settled_by_the_next_write_and_not_by_a_look() {
    let rates = FaultRates {
        error_before: 0,
        error_after: 500,
        torn_read: 0,
        wrong_bytes: 0,
        slow: 0,
        stale_list: 0,
    };
    for (url, by_looking) in [("s3://bucket/prefix", true), ("file:///prefix", false)] {
        let mut looked = false;
        for seed in 0..40 {
            // Half of the answers are lost; what was written can be read at once.
            let objects = FaultStore::new(Arc::new(InMemory::new()), rates, seed);
            let store = Store::over(url.parse().unwrap(), Arc::new(objects), LIMITS);
            let budget = RetryBudget::seeded(Duration::from_mins(5), seed);
            let outcome = store.create_once(&key(0), &seal(NAME, b"plain", 1).unwrap(), &budget).await;
            assert!(matches!(outcome, Ok(CreateOutcome::Created)), "{url}: {outcome:?}");
            let counters = store.counters();
            looked |= counters.put.requests == 1 && counters.get.requests > 0;
        }
        assert_eq!(looked, by_looking, "{url}");
    }
}
