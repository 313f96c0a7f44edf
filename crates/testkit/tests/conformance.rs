//! The conformance suite on every store that can be had here.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use walden_store::{Environment, Store, StoreConfig, StoreUrl};
use walden_testkit::conformance::{Subject, run};
use walden_testkit::stores::{Azurite, GcsStandIn, Moto, S3Server, TestStore};

/// Points the suite at a real bucket, with the credentials of the environment: `s3://bucket/prefix`.
const URL_VARIABLE: &str = "WALDEN_TEST_URL";

async fn must_hold(subject: Subject) {
    let failures = run(&subject).await;
    let text: Vec<_> = failures.iter().map(|(check, failed)| format!("{check}: {}", failed.0)).collect();
    assert!(failures.is_empty(), "{} checks failed:\n{}", text.len(), text.join("\n"));
}

fn subject(store: impl Fn(&str) -> TestStore + Send + Sync + 'static) -> Subject {
    let mut missing = store("prefix");
    missing.url = missing.url.replace("://bucket/", "://no-such-bucket/");
    missing.url = missing.url.replace("://container/", "://no-such-container/");
    let missing = missing.open(&StoreConfig::default()).unwrap();
    let subject = Subject::new(move |name| store(name).open(&StoreConfig::default()));
    Subject { missing_bucket: Some(missing), ..subject }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let missing = TestStore::directory(&path.join("missing")).open(&StoreConfig::default()).unwrap();
    let subject =
        Subject::new(move |name| TestStore::directory(&path.join(name)).open(&StoreConfig::default()));
    must_hold(Subject { missing_bucket: Some(missing), ..subject }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_in_process() {
    let server = S3Server::start().unwrap();
    must_hold(Subject { race_rounds: 1000, ..subject(move |name| server.store(name)) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto() {
    let server = Moto::start().unwrap();
    must_hold(subject(move |name| server.store(name))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite() {
    let server = Azurite::start().unwrap();
    must_hold(subject(move |name| server.store(name))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs_stand_in() {
    let server = GcsStandIn::start().unwrap();
    must_hold(subject(move |name| server.store(name))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_of_the_environment() {
    let Ok(base) = std::env::var(URL_VARIABLE) else {
        println!("{URL_VARIABLE} is not set: nothing to check");
        return;
    };
    let environment = Environment::of_process();
    let subject = Subject::new(move |name| {
        let url: StoreUrl = format!("{}/{name}", base.trim_end_matches('/')).parse()?;
        Store::open(&url, &StoreConfig::default(), &environment)
    });
    must_hold(subject).await;
}
