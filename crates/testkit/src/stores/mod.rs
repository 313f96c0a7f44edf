//! Object stores that tests start: one in the process, the others as programs of the test bench.

mod azurite;
mod child;
mod gcs;
mod moto;
mod s3;
mod virtual_bucket;

pub use azurite::Azurite;
pub use gcs::GcsStandIn;
pub use moto::Moto;
pub use s3::{ACCESS_KEY, Fault, FaultRule, IfNoneMatch, LoggedRequest, S3Server, SECRET_KEY};
pub use virtual_bucket::{Contents, VirtualBucket, VirtualObject};

use walden_store::{Environment, Store, StoreConfig, StoreError};

/// A place for a repository, and how to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestStore {
    /// The store's URL.
    pub url: String,
    /// The environment variables with which a client reaches it; for a test store these are no secrets.
    pub environment: Vec<(String, String)>,
}

impl TestStore {
    /// A directory as a store.
    #[must_use]
    pub fn directory(path: &std::path::Path) -> Self {
        Self { url: format!("file://{}", path.display()), environment: Vec::new() }
    }

    /// Opens the store in this process.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&self, config: &StoreConfig) -> Result<Store, StoreError> {
        let environment: Environment = self.environment.iter().cloned().collect();
        Store::open(&self.url.parse()?, config, &environment)
    }
}
