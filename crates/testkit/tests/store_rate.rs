//! A store with a limit on its rate, over a real connection: it does what any store does, slower, and fails no sooner.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use walden_core::ObjectKey;
use walden_store::{CreateOutcome, RetryBudget, Store, StoreConfig};
use walden_testkit::conformance::{Subject, noise, run};
use walden_testkit::stores::{Fault, FaultRule, S3Server, TestStore};

/// A store whose requests may take a second and a half, however large they are.
fn limited(store: &TestStore, bytes_per_second: u64) -> Store {
    let config = StoreConfig {
        max_rate: NonZeroU64::new(bytes_per_second),
        request_timeout: Some(Duration::from_millis(1500)),
        throughput_min: Some(u64::MAX),
        ..StoreConfig::default()
    };
    store.open(&config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_store_keeps_all_promises() {
    let server = S3Server::start().unwrap();
    let config = StoreConfig { max_rate: NonZeroU64::new(500_000_000), ..StoreConfig::default() };
    let subject = Subject::new(move |name| server.store(name).open(&config));
    let failures = run(&subject).await;
    assert!(failures.is_empty(), "{:?}", failures.iter().map(|(check, _)| check).collect::<Vec<_>>());
}

#[tokio::test]
async fn bodies_that_take_longer_than_a_request_may_are_no_failure() {
    let server = S3Server::start().unwrap();
    let store = limited(&server.store("prefix"), 1 << 20);
    let key = ObjectKey::parse("main/wal/object.zst").unwrap();
    let record = Bytes::from(noise(3 << 20, 7));
    // Three seconds each way, with a second and a half for a request and two for all of them.
    let budget = || RetryBudget::new(Duration::from_secs(2));
    let created = store.create_record_once(&key, &record, &budget()).await.unwrap();
    assert_eq!(created, CreateOutcome::Created);
    assert!(store.get(&key, 4 << 20, &budget()).await.unwrap() == record);
    let counts = store.counters();
    assert_eq!((counts.put.requests, counts.put.retries, counts.put.errors), (1, 0, 0));
    assert_eq!((counts.get.requests, counts.get.retries, counts.get.errors), (1, 0, 0));
    assert_eq!((counts.put.bytes_sent, counts.get.bytes_received), (3 << 20, 3 << 20));
    // It was the limit that took the time.
    assert!(store.limiter().unwrap().waited() >= Duration::from_secs(5));
}

#[tokio::test]
async fn a_store_that_hangs_is_noticed_with_a_limit_too() {
    let server = S3Server::start().unwrap();
    let store = limited(&server.store("prefix"), 10 << 20);
    server.inject(FaultRule::next(Fault::HangBefore, Method::PUT, 1));
    let key = ObjectKey::parse("main/wal/object.zst").unwrap();
    let record = Bytes::from(noise(1 << 20, 7));
    let created = store.create_record_once(&key, &record, &RetryBudget::new(Duration::from_secs(30))).await;
    assert_eq!(created.unwrap(), CreateOutcome::Created);
    assert_eq!(store.counters().put.retries, 1);
}
