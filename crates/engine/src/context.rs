//! What every verb works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use walden_core::{ServerLayout, ServerName, Writer};
use walden_store::{RetryBudget, Store};

use crate::clock::Clock;
use crate::progress::Progress;

/// A listing of an archive may take this long, however short other calls are.
const LISTING_DEADLINE: Duration = Duration::from_mins(10);

/// One server in one repository, and the means to work on it. Cheap to clone; several may live in one process.
#[derive(Clone)]
pub struct Context {
    /// The repository's store.
    pub store: Store,
    /// The server.
    pub server: ServerName,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Takes progress.
    pub progress: Arc<dyn Progress>,
    /// A directory for what may be lost without harm; `None` makes every call ask the store again.
    pub state_directory: Option<PathBuf>,
    /// The deadline of one request to the store with all its retries.
    pub store_deadline: Duration,
    /// The name of this host.
    pub host: String,
}

impl Context {
    /// The keys of the server.
    #[must_use]
    pub fn layout(&self) -> ServerLayout {
        ServerLayout::new(self.server.clone())
    }

    /// A fresh budget for one call to the store.
    #[must_use]
    pub fn budget(&self) -> RetryBudget {
        RetryBudget::new(self.store_deadline)
    }

    /// A fresh budget for one call that moves so many bytes: longer by the time that they take at the slowest rate
    /// allowed. For packs and manifests; the hooks keep to their deadline whatever they move.
    #[must_use]
    pub fn budget_for(&self, bytes: u64) -> RetryBudget {
        self.budget().with_time_for(bytes, self.store.limits())
    }

    /// A fresh budget for a listing, which may be a thousand requests long.
    #[must_use]
    pub fn listing_budget(&self) -> RetryBudget {
        RetryBudget::new(self.store_deadline.max(LISTING_DEADLINE))
    }

    /// Who writes, for the instance given (mostly a data directory).
    #[must_use]
    pub fn writer(&self, instance: &str) -> Writer {
        Writer::new(&self.host, instance, self.clock.now())
    }
}
