//! What every verb works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use walden_core::{ServerLayout, ServerName, Writer};
use walden_store::{RetryBudget, Store};

use crate::clock::Clock;
use crate::progress::Progress;

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

    /// Who writes, for the instance given (mostly a data directory).
    #[must_use]
    pub fn writer(&self, instance: &str) -> Writer {
        Writer::new(&self.host, instance, self.clock.now())
    }
}
