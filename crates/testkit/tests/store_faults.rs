//! What a store does to us, and what we make of it: on an S3 server that fails on demand.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use jiff::Timestamp;
use walden_core::{ConditionalCreate, ErrorKind, ObjectKey};
use walden_store::{
    CreateOutcome, Existing, Expected, HeaderRead, RetryBudget, SealedObject, Store, StoreConfig, StoreError,
};
use walden_testkit::conformance::{noise, seal};
use walden_testkit::stores::{Fault, FaultRule, IfNoneMatch, S3Server};

const NAME: &str = "000000010000000000000001";

struct Bench {
    server: S3Server,
    store: Store,
    key: ObjectKey,
}

impl Bench {
    fn new() -> Self {
        let server = S3Server::start().unwrap();
        // Short enough for tests that wait for hangs, long enough for a busy machine.
        let config =
            StoreConfig { request_timeout: Some(Duration::from_millis(1500)), ..StoreConfig::default() };
        let store = server.store("prefix").open(&config).unwrap();
        Self { server, store, key: ObjectKey::parse("main/wal/object.zst").unwrap() }
    }

    async fn create(&self, object: &SealedObject) -> Result<CreateOutcome, StoreError> {
        self.store.create_once(&self.key, object, &long()).await
    }

    async fn fetch(&self) -> Result<Vec<u8>, StoreError> {
        let expected = Expected { name: NAME, max_plain_bytes: 64 << 20 };
        let opened = self.store.fetch_sealed(&self.key, expected, || Ok(Vec::new()), &long()).await?;
        Ok(opened.plain)
    }

    /// How many requests of a method came since the last look.
    fn count(&self, method: &Method) -> usize {
        self.server.take_requests().iter().filter(|request| request.method == *method).count()
    }
}

fn long() -> RetryBudget {
    RetryBudget::seeded(Duration::from_mins(1), 1)
}

fn short() -> RetryBudget {
    RetryBudget::seeded(Duration::from_millis(700), 1)
}

fn object(plain: &[u8], writer: u32) -> SealedObject {
    seal(NAME, plain, writer).unwrap()
}

#[tokio::test]
async fn a_write_survives_every_fault_and_is_reported_as_ours() {
    for fault in [
        Fault::Unavailable,
        Fault::LostAnswer,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::HangBefore,
        Fault::HangAfter,
        Fault::Conflict,
    ] {
        let bench = Bench::new();
        bench.server.inject(FaultRule::next(fault, Method::PUT, 2));
        let outcome = bench.create(&object(b"plain", 1)).await.unwrap();
        assert_eq!(outcome, CreateOutcome::Created, "{fault:?}");
        assert_eq!(bench.fetch().await.unwrap(), b"plain", "{fault:?}");
        let counters = bench.store.counters();
        assert!(counters.put.requests <= 3, "{fault:?}: {counters:?}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_looking_not_by_writing_again() {
    let bench = Bench::new();
    bench.server.inject(FaultRule::next(Fault::LostAnswer, Method::PUT, 1));
    assert_eq!(bench.create(&object(b"plain", 1)).await.unwrap(), CreateOutcome::Created);
    assert_eq!(bench.count(&Method::PUT), 1);
}

#[tokio::test]
async fn a_lost_answer_to_a_conflicting_write_is_a_conflict() {
    for fault in [Fault::LostAnswer, Fault::ResetAfter, Fault::HangAfter] {
        let bench = Bench::new();
        bench.create(&object(b"first", 1)).await.unwrap();
        bench.server.inject(FaultRule::next(fault, Method::PUT, 1));
        let outcome = bench.create(&object(b"second", 2)).await.unwrap();
        assert!(matches!(&outcome, CreateOutcome::Conflict(Existing::Sealed(_))), "{fault:?}: {outcome:?}");
        assert_eq!(bench.fetch().await.unwrap(), b"first");
    }
}

#[tokio::test]
async fn the_look_after_a_lost_answer_is_repeated_too() {
    let bench = Bench::new();
    bench.server.inject(FaultRule::next(Fault::ResetAfter, Method::PUT, 1));
    bench.server.inject(FaultRule::next(Fault::Unavailable, Method::GET, 2));
    assert_eq!(bench.create(&object(b"plain", 1)).await.unwrap(), CreateOutcome::Created);
    let counters = bench.store.counters();
    assert_eq!((counters.put.requests, counters.get.requests, counters.get.retries), (1, 3, 2));
}

#[tokio::test]
async fn a_store_that_stays_away_is_unavailable_within_the_budget() {
    for fault in [Fault::Unavailable, Fault::ResetBefore, Fault::HangBefore] {
        let bench = Bench::new();
        bench.server.inject(FaultRule { method: None, ..FaultRule::next(fault, Method::PUT, u32::MAX) });
        let begun = std::time::Instant::now();
        let error = bench.store.create_once(&bench.key, &object(b"plain", 1), &short()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error:?}");
        let error = bench.store.get(&bench.key, 100, &short()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error:?}");
        let listed = bench.store.list("", &short()).try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(listed.kind(), ErrorKind::Unavailable, "{fault:?}: {listed:?}");
        // Three budgets of 0.7 s, with much room for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(20), "{fault:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unavailable_and_says_so() {
    let server = S3Server::start().unwrap();
    let store = server.store("prefix").open(&StoreConfig::default()).unwrap();
    drop(server);
    let key = ObjectKey::parse("main/a").unwrap();
    let error = store.create_once(&key, &object(b"plain", 1), &short()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.to_lowercase().contains("connection refused"), "{source}");
    assert!(store.counters().put.errors >= 2, "{:?}", store.counters());
}

#[tokio::test]
async fn a_refusal_ends_at_once_with_a_hint_and_is_never_absence() {
    let bench = Bench::new();
    bench.server.inject(FaultRule { method: None, ..FaultRule::next(Fault::Denied, Method::GET, u32::MAX) });
    let marker = ObjectKey::parse("main/incarnation.json").unwrap();
    let error = bench.store.get_or_prove_absent(&bench.key, &marker, 100, &long()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains("ListBucket"), "{:?}", error.hint());
    assert_eq!(bench.store.counters().requests(), 1);
    let error = bench.create(&object(b"plain", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(bench.store.counters().put.requests, 1);
}

#[tokio::test]
async fn wrong_credentials_are_refused_by_the_server() {
    let server = S3Server::start().unwrap();
    let mut place = server.store("prefix");
    for (name, value) in &mut place.environment {
        if name == "AWS_SECRET_ACCESS_KEY" {
            "not the secret".clone_into(value);
        }
    }
    let store = place.open(&StoreConfig::default()).unwrap();
    let key = ObjectKey::parse("main/a").unwrap();
    let error = store.create_once(&key, &object(b"plain", 1), &long()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(!format!("{error:?}").contains("not the secret"));
}

#[tokio::test]
async fn without_credentials_the_error_says_where_to_put_them() {
    let server = S3Server::start().unwrap();
    let mut place = server.store("prefix");
    place.environment.retain(|(name, _)| !name.contains("KEY"));
    let store = place.open(&StoreConfig::default()).unwrap();
    let key = ObjectKey::parse("main/a").unwrap();
    let error = store.create_once(&key, &object(b"plain", 1), &long()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"), "{:?}", error.hint());
    assert!(error.hint().unwrap().contains("aws-sdk"), "{:?}", error.hint());
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn a_missing_marker_and_a_missing_bucket_are_never_absence() {
    let bench = Bench::new();
    let marker = ObjectKey::parse("main/incarnation.json").unwrap();
    let absent = |store: Store| async move {
        let key = ObjectKey::parse("main/wal/absent").unwrap();
        store.get_or_prove_absent(&key, &marker, 100, &long()).await
    };
    let error = absent(bench.store.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::MarkerNotFound { .. }), "{error:?}");
    bench.server.inject(FaultRule::next(Fault::NoSuchBucket, Method::GET, 1));
    let error = bench.store.get(&bench.key, 100, &long()).await.unwrap_err();
    assert!(matches!(error, StoreError::BucketNotFound { word: "bucket", .. }), "{error:?}");
}

#[tokio::test]
async fn a_404_of_somebody_in_between_is_never_absence() {
    let bench = Bench::new();
    let marker = ObjectKey::parse("main/incarnation.json").unwrap();
    bench.store.create_record_once(&marker, &Bytes::from_static(b"{}"), &long()).await.unwrap();
    // Only the object is hidden: the marker answers.
    bench.server.inject(FaultRule::next(Fault::ForeignNotFound, Method::GET, u32::MAX).on("object"));
    let error = bench.store.get_or_prove_absent(&bench.key, &marker, 100, &short()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.hint().unwrap().contains("proxy"), "{:?}", error.hint());
    bench.server.clear_faults();
    assert!(bench.store.get_or_prove_absent(&bench.key, &marker, 100, &long()).await.unwrap().is_none());
    bench.server.inject(FaultRule::next(Fault::ForeignNotFound, Method::PUT, 1));
    assert_eq!(bench.create(&object(b"plain", 1)).await.unwrap(), CreateOutcome::Created);
}

#[tokio::test]
async fn an_answer_from_elsewhere_acknowledges_nothing() {
    let bench = Bench::new();
    bench.server.inject(FaultRule::next(Fault::SeeOther, Method::PUT, 1));
    let error = bench.create(&object(b"plain", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.hint().unwrap().contains("redirect"), "{:?}", error.hint());
    // The client did go there.
    assert!(bench.server.requests().iter().any(|request| request.path == "/login"));
    bench.server.inject(FaultRule::next(Fault::SeeOther, Method::GET, 1));
    assert_eq!(bench.store.get(&bench.key, 100, &short()).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(bench.create(&object(b"plain", 1)).await.unwrap(), CreateOutcome::Created);
}

#[tokio::test]
async fn a_write_into_a_place_that_may_not_be_read_is_not_guessed_about() {
    let bench = Bench::new();
    bench.create(&object(b"first", 1)).await.unwrap();
    bench.server.inject(FaultRule::next(Fault::Denied, Method::GET, 1));
    let error = bench.create(&object(b"first", 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains("GetObject"), "{:?}", error.hint());
}

#[tokio::test]
async fn a_read_goes_on_where_the_connection_broke() {
    for fault in [Fault::Truncated(1_000_000), Fault::Stalled(1_000_000), Fault::Truncated(0)] {
        let bench = Bench::new();
        let plain = noise(3 << 20, 1);
        bench.create(&object(&plain, 1)).await.unwrap();
        bench.server.inject(FaultRule::next(fault, Method::GET, 2));
        assert!(bench.fetch().await.unwrap() == plain, "{fault:?}");
        let get = bench.store.counters().get;
        assert_eq!((get.requests, get.retries), (3, 2), "{fault:?}");
        // What had arrived was not fetched again.
        assert!(get.bytes_received < 4 << 20, "{fault:?}: {get:?}");
    }
}

#[tokio::test]
async fn a_read_survives_every_fault() {
    for fault in [
        Fault::Unavailable,
        Fault::LostAnswer,
        Fault::ResetBefore,
        Fault::HangBefore,
        Fault::Slow(Duration::from_millis(50)),
    ] {
        let bench = Bench::new();
        bench.create(&object(b"plain", 1)).await.unwrap();
        bench.server.inject(FaultRule::next(fault, Method::GET, 2));
        assert_eq!(bench.fetch().await.unwrap(), b"plain", "{fault:?}");
        bench.server.inject(FaultRule::next(fault, Method::GET, 1));
        let header = bench.store.get_header(&bench.key, &long()).await.unwrap();
        assert!(matches!(header, HeaderRead::Found { .. }), "{fault:?}: {header:?}");
    }
}

#[tokio::test]
async fn wrong_bytes_on_the_way_are_read_again_and_wrong_bytes_in_the_store_are_found() {
    for at in [20, 3000, 100_000] {
        let bench = Bench::new();
        let plain = noise(200_000, 2);
        bench.create(&object(&plain, 1)).await.unwrap();
        bench.server.inject(FaultRule::next(Fault::WrongBytes(at), Method::GET, 1));
        assert!(bench.fetch().await.unwrap() == plain, "{at}");
        assert_eq!(bench.store.counters().get.retries, 1);

        let file = bench.server.object_file("prefix/main/wal/object.zst");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[at] ^= 4;
        std::fs::write(&file, bytes).unwrap();
        let error = bench.fetch().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}: {error:?}");
        assert!(error.to_string().contains("prefix") && error.to_string().contains("object.zst"));
    }
}

#[tokio::test]
async fn a_listing_survives_faults_between_its_pages_and_loses_nothing() {
    let bench = Bench::new();
    let budget = long();
    let keys: Vec<_> = (0..1500).map(|n| format!("list/{n:05}")).collect();
    for chunk in keys.chunks(32) {
        let writes = chunk.iter().map(|key| async {
            let key = ObjectKey::parse(key).unwrap();
            bench.store.create_record_once(&key, &Bytes::from_static(b"x"), &budget).await.unwrap();
        });
        futures::future::join_all(writes).await;
    }
    for fault in [Fault::Unavailable, Fault::ResetAfter, Fault::Truncated(20_000)] {
        // The first page comes, the second does not at first.
        bench.server.inject(FaultRule::next(fault, Method::GET, 2).after(1));
        let listed: Vec<_> =
            bench.store.list("list", &budget).map_ok(|listed| listed.key).try_collect().await.unwrap();
        assert!(listed == keys, "{fault:?}: {} of {}", listed.len(), keys.len());
        bench.server.clear_faults();
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditional_create_is_found_out() {
    let bench = Bench::new();
    for (treatment, expected) in [
        (IfNoneMatch::Enforced, ConditionalCreate::Enforced),
        (IfNoneMatch::Ignored, ConditionalCreate::Ignored),
        (IfNoneMatch::NotImplemented, ConditionalCreate::Unsupported),
    ] {
        bench.server.set_if_none_match(treatment);
        let tag = format!("{treatment:?}");
        let found = bench.store.probe(&tag, Timestamp::UNIX_EPOCH, &long()).await.unwrap();
        assert_eq!(found.conditional_create, expected);
        assert!(found.range_reads && found.list_after, "{found:?}");
    }
    let left: Vec<_> = bench.store.list("", &long()).try_collect().await.unwrap();
    assert_eq!(left, []);
}

#[tokio::test]
async fn a_probe_is_not_misled_by_lost_answers() {
    for skip in 0..3 {
        let bench = Bench::new();
        bench.server.inject(FaultRule::next(Fault::LostAnswer, Method::PUT, 1).after(skip));
        let found = bench.store.probe("lost", Timestamp::UNIX_EPOCH, &long()).await.unwrap();
        assert_eq!(found.conditional_create, ConditionalCreate::Enforced, "skip {skip}");
    }
}

#[tokio::test]
async fn without_conditional_create_nothing_that_is_there_is_overwritten() {
    for (treatment, create) in [
        (IfNoneMatch::Ignored, ConditionalCreate::Ignored),
        (IfNoneMatch::NotImplemented, ConditionalCreate::Unsupported),
    ] {
        let bench = Bench::new();
        bench.server.set_if_none_match(treatment);
        let store = bench.store.with_conditional_create(create);
        let write = async |plain: &[u8], writer| {
            store.create_once(&bench.key, &object(plain, writer), &long()).await.unwrap()
        };
        assert_eq!(write(b"first", 1).await, CreateOutcome::Created);
        assert!(matches!(write(b"second", 2).await, CreateOutcome::Conflict(_)));
        assert!(matches!(write(b"first", 2).await, CreateOutcome::AlreadyStored(_)));
        assert_eq!(bench.fetch().await.unwrap(), b"first");
        let key = ObjectKey::parse("main/record.json").unwrap();
        let record = Bytes::from_static(b"{}");
        assert_eq!(store.create_record_once(&key, &record, &long()).await.unwrap(), CreateOutcome::Created);
        // And a lost answer is still ours.
        bench.server.inject(FaultRule::next(Fault::LostAnswer, Method::PUT, 1));
        let key = ObjectKey::parse("main/another.zst").unwrap();
        let outcome = store.create_once(&key, &object(b"x", 1), &long()).await.unwrap();
        assert_eq!(outcome, CreateOutcome::Created);
    }
}
