//! Removing many objects: what locks keep, what faults leave, and what buckets tell of themselves.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use walden_core::{ErrorKind, ObjectKey};
use walden_store::{
    DefaultRetention, KeptReason, LockMode, ObjectLock, Removal, RetryBudget, Shown, Store, StoreConfig,
    StoreError, Versioning,
};
use walden_testkit::fault::{FaultRates, FaultStore};
use walden_testkit::stores::{Azurite, Fault, FaultRule, GcsStandIn, Moto, S3Server, TestStore};

fn budget() -> RetryBudget {
    RetryBudget::new(Duration::from_mins(1))
}

fn open(store: &TestStore) -> Store {
    store.open(&StoreConfig::default()).unwrap()
}

async fn filled(store: &Store, count: usize) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    for number in 0..count {
        let key = ObjectKey::parse(&format!("wal/{number:08X}.zst")).unwrap();
        let bytes = Bytes::from(format!("{{\"n\":{number}}}\n"));
        store.create_record_once(&key, &bytes, &budget()).await.unwrap();
        keys.push(key);
    }
    keys
}

async fn left(store: &Store) -> usize {
    store.list("", &budget()).try_collect::<Vec<_>>().await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lock_keeps_is_named_and_no_error() {
    let server = S3Server::start().unwrap();
    let store = open(&server.store("repo"));
    let keys = filled(&store, 20).await;
    server.keep("00000003", "AccessDenied", "Access Denied because object protected by object lock.");
    server.keep("00000007", "AccessDenied", "Access Denied");
    let _ = server.take_requests();
    let removal = store.delete_many(&keys, &budget()).await.unwrap();
    assert_eq!(server.take_requests().len(), 1);
    assert_eq!(removal.removed, 18);
    let kept: Vec<_> = removal.kept.iter().map(|kept| (kept.key.clone(), kept.why)).collect();
    assert_eq!(kept, [(keys[3].clone(), KeptReason::Locked), (keys[7].clone(), KeptReason::Denied)]);
    assert_eq!(
        removal.kept[0].message,
        "AccessDenied: Access Denied because object protected by object lock."
    );
    assert_eq!(left(&store).await, 2);
    let error = store.delete(&keys[3], &budget()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_many_at_once_are_switched_off_it_goes_one_by_one() {
    let server = S3Server::start().unwrap();
    let mut place = server.store("repo");
    place.environment.push(("AWS_DISABLE_BULK_DELETE".to_owned(), "true".to_owned()));
    let store = open(&place);
    let keys = filled(&store, 20).await;
    server.keep("00000003", "ObjectLocked", "Object is WORM protected and cannot be overwritten");
    server.keep("00000007", "AccessDenied", "Access Denied");
    let removal = store.delete_many(&keys, &budget()).await.unwrap();
    let kept: Vec<_> = removal.kept.iter().map(|kept| (kept.key.clone(), kept.why)).collect();
    assert_eq!(kept, [(keys[3].clone(), KeptReason::Locked), (keys[7].clone(), KeptReason::Denied)]);
    assert_eq!((removal.removed, left(&store).await), (18, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_passes_is_repeated_for_the_keys_that_it_was_about() {
    let server = S3Server::start().unwrap();
    let store = open(&server.store("repo"));
    let keys = filled(&store, 30).await;
    for fault in [Fault::Unavailable, Fault::LostAnswer, Fault::ResetAfter, Fault::Truncated(30)] {
        server.inject(FaultRule::next(fault, Method::POST, 1));
    }
    let removal = store.delete_many(&keys, &budget()).await.unwrap();
    assert_eq!(removal, Removal { removed: 30, kept: Vec::new() });
    assert_eq!(left(&store).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_all_is_an_error_that_tells_what_was_done() {
    let server = S3Server::start().unwrap();
    let store = open(&server.store("repo"));
    let keys: Vec<ObjectKey> =
        (0..1500).map(|n| ObjectKey::parse(&format!("wal/{n:08X}.zst")).unwrap()).collect();
    server.inject(FaultRule::next(Fault::Denied, Method::POST, 1).after(1));
    match store.delete_many(&keys, &budget()).await {
        Err(error @ StoreError::RemovalStopped { .. }) => {
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert_eq!(error.to_string(), "removal stopped after removed=1000 kept=0");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_stays_for_one_key_ends_it() {
    let server = S3Server::start().unwrap();
    let store = open(&server.store("repo"));
    let keys = filled(&store, 3).await;
    server.keep("00000001", "InternalError", "We encountered an internal error. Please try again.");
    match store.delete_many(&keys, &RetryBudget::new(Duration::from_secs(1))).await {
        Err(error @ StoreError::RemovalStopped { .. }) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        other => panic!("{other:?}"),
    }
    assert_eq!(left(&store).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_faults_everything_goes_in_the_end_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..60 {
        let root = directory.path().join(seed.to_string());
        std::fs::create_dir(&root).unwrap();
        let plain = open(&TestStore::directory(&root));
        let keys = filled(&plain, 12).await;
        let mut faults = None;
        let faulty = plain.wrapped(|inner| {
            let store = Arc::new(FaultStore::new(inner, FaultRates::UNRELIABLE, seed));
            faults = Some(Arc::clone(&store));
            store
        });
        let removal = faulty.delete_many(&keys[2..], &budget()).await.unwrap();
        assert_eq!(removal, Removal { removed: 10, kept: Vec::new() }, "seed {seed}");
        assert_eq!(left(&plain).await, 2, "seed {seed}");
        assert!(faults.unwrap().effects() >= 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_tells_its_settings_in_three_requests() {
    let server = S3Server::start().unwrap();
    let store = open(&server.store("repo"));
    server.set_bucket_document(
        "versioning",
        200,
        "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    );
    server.set_bucket_document(
        "object-lock",
        404,
        "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>",
    );
    server.set_bucket_document("lifecycle", 403, "<Error><Code>AccessDenied</Code></Error>");
    let _ = server.take_requests();
    let settings = store.bucket_settings(&budget()).await.unwrap();
    assert_eq!(server.take_requests().len(), 3);
    assert_eq!(settings.versioning, Shown::Known(Versioning::Enabled));
    assert_eq!(settings.object_lock, Shown::Known(None));
    assert_eq!(settings.lifecycle, Shown::Denied("HTTP 403 AccessDenied".to_owned()));
    server.set_bucket_document("lifecycle", 404, "<Error><Code>NoSuchBucket</Code></Error>");
    assert_eq!(store.bucket_settings(&budget()).await.unwrap_err().kind(), ErrorKind::NotFound);
    server.set_bucket_document("lifecycle", 501, "<Error><Code>NotImplemented</Code></Error>");
    assert_eq!(store.bucket_settings(&budget()).await.unwrap().lifecycle, Shown::NotTold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto_tells_what_was_set_and_what_is_unfinished() {
    let server = Moto::start().unwrap();
    let store = open(&server.store("repo"));
    let before = store.bucket_settings(&budget()).await.unwrap();
    assert_eq!(before.versioning, Shown::Known(Versioning::Off));
    assert_eq!(before.object_lock, Shown::Known(None));
    assert_eq!(before.lifecycle, Shown::Known(Vec::new()));
    let rule = "<LifecycleConfiguration><Rule><ID>tidy</ID><Filter><Prefix>repo/</Prefix></Filter>\
                <Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>";
    server.ask("PUT /bucket?lifecycle HTTP/1.1", rule.as_bytes()).unwrap();
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    server.ask("PUT /bucket?versioning HTTP/1.1", enabled.as_bytes()).unwrap();
    let lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                <Mode>GOVERNANCE</Mode><Days>7</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    let locked = server.ask("PUT /bucket?object-lock HTTP/1.1", lock.as_bytes());
    let after = store.bucket_settings(&budget()).await.unwrap();
    assert_eq!(after.versioning, Shown::Known(Versioning::Enabled));
    let rules = after.lifecycle.known().unwrap();
    assert_eq!((rules.len(), rules[0].expire_days, rules[0].id.as_str()), (1, Some(30), "tidy"));
    assert!(rules[0].meets("repo/main/") && !rules[0].meets("other/"));
    if locked.is_ok() {
        let default_retention = Some(DefaultRetention { mode: LockMode::Governance, days: 7 });
        assert_eq!(after.object_lock, Shown::Known(Some(ObjectLock { default_retention })));
    }
    server.ask("POST /bucket/repo/main/half.zst?uploads HTTP/1.1", b"").unwrap();
    server.ask("POST /bucket/elsewhere/half.zst?uploads HTTP/1.1", b"").unwrap();
    let uploads = store.open_uploads("", &budget()).await.unwrap();
    assert_eq!(uploads.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), ["main/half.zst"]);
    for _ in 0..2 {
        // The second time it is gone already.
        store.abort_upload(&uploads[0], &budget()).await.unwrap();
    }
    assert!(store.open_uploads("", &budget()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_and_google_take_their_own_ways_in_few_requests() {
    let azurite = Azurite::start().unwrap();
    let store = open(&azurite.store("repo"));
    let keys = filled(&store, 300).await;
    let before = store.counters();
    assert_eq!(store.delete_many(&keys, &budget()).await.unwrap().removed, 300);
    assert_eq!(store.counters().since(&before).delete.requests, 2);
    assert_eq!(store.bucket_settings(&budget()).await.unwrap().lifecycle, Shown::NotTold);
    assert!(store.open_uploads("", &budget()).await.unwrap().is_empty());
    let google = GcsStandIn::start().unwrap();
    let store = open(&google.store("repo"));
    let mut keys = filled(&store, 20).await;
    let held = ObjectKey::parse("wal/retention-held.zst").unwrap();
    store.create_record_once(&held, &Bytes::from_static(b"{}\n"), &budget()).await.unwrap();
    keys.insert(4, held.clone());
    let removal = store.delete_many(&keys, &budget()).await.unwrap();
    assert_eq!(removal.removed, 20);
    let kept: Vec<_> = removal.kept.iter().map(|kept| (kept.key.clone(), kept.why)).collect();
    assert_eq!(kept, [(held, KeptReason::Locked)]);
}

#[tokio::test]
async fn files_that_writers_left_are_found_by_their_age() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&TestStore::directory(directory.path()));
    filled(&store, 1).await;
    let old = directory.path().join("wal/.walden-staged-1-1");
    let young = directory.path().join("wal/.walden-staged-1-2");
    std::fs::write(&old, b"half").unwrap();
    std::fs::write(&young, b"half").unwrap();
    let file = std::fs::File::options().write(true).open(&old).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - Duration::from_hours(30)).unwrap();
    let found = store.open_uploads("", &budget()).await.unwrap();
    assert_eq!(found.iter().map(|found| found.key.as_str()).collect::<Vec<_>>(), ["wal/.walden-staged-1-1"]);
    store.abort_upload(&found[0], &budget()).await.unwrap();
    assert!(!old.try_exists().unwrap() && young.try_exists().unwrap());
    for key in ["wal/.walden-staged-1-2", "wal/00000000.zst", "../elsewhere"] {
        let other = walden_store::OpenUpload { key: key.to_owned(), ..found[0].clone() };
        let _ = store.abort_upload(&other, &budget()).await;
    }
    assert!(young.try_exists().unwrap());
    assert_eq!(left(&store).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_cannot_be_keys_spoil_no_listing_and_are_told() {
    let server = Moto::start().unwrap();
    let store = open(&server.store("repo"));
    filled(&store, 3).await;
    for name in ["repo/wal//x", "repo/wal/a/./b", "repo//top", "else//where"] {
        server.ask(&format!("PUT /bucket/{name} HTTP/1.1"), b"foreign").unwrap();
    }
    assert_eq!(left(&store).await, 3);
    assert_eq!(store.odd_names(), ["/top", "wal//x", "wal/a/./b"]);
    let level = store.list_level("wal", &budget()).await.unwrap();
    assert_eq!((level.directories, level.objects.len()), (vec!["wal/a/".to_owned()], 3));
    let level = store.list_level("", &budget()).await.unwrap();
    assert_eq!(level.directories, ["wal/"]);
    // They are there as before.
    let other = open(&server.store("repo"));
    assert!(other.odd_names().is_empty());
    assert_eq!(left(&other).await, 3);
    assert_eq!(other.odd_names().len(), 3);
}
