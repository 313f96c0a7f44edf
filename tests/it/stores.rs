//! Repositories on every store that the tests start.

use std::any::Any;
use std::sync::Arc;

use walden_testkit::stores::{Azurite, GcsStandIn, S3Server, TestStore};

use crate::support::Repository;

fn on(store: TestStore, keep: impl Any) -> Repository {
    Repository::on(store.url, store.environment, keep)
}

/// The in-process S3 server.
pub(crate) fn s3() -> Repository {
    faulty_s3().0
}

/// The same, with the server to make it fail.
pub(crate) fn faulty_s3() -> (Repository, Arc<S3Server>) {
    let server = Arc::new(S3Server::start().unwrap());
    (on(server.store("repo"), Arc::clone(&server)), server)
}

/// Azurite.
pub(crate) fn azure() -> Repository {
    let server = Azurite::start().unwrap();
    on(server.store("repo"), server)
}

/// The stand-in for Google Cloud Storage.
pub(crate) fn gcs() -> Repository {
    let server = GcsStandIn::start().unwrap();
    on(server.store("repo"), server)
}
