//! The get side of the agent: what it answers when a `restore_command` asks.

use std::path::PathBuf;

use super::protocol::{AgentFailure, Answer, GetAsk};
use super::status::PrefetchStatus;
use crate::context::Context;
use crate::data_directory::DataDirectory;
use crate::fetcher::{GetAnswer, PrefetchOptions, Prefetcher};

/// Answers gets. Shared by all calls.
#[derive(Debug)]
pub(super) struct Gets {
    limit_bytes: u64,
    /// `None` without disk space for it, or when the directory can't be used: hooks then fetch for themselves.
    prefetcher: Option<Prefetcher>,
}

impl Gets {
    /// Fetches ahead for a data directory into `directory`, which is emptied, with at most `limit_bytes` in it.
    pub(super) fn open(ctx: Context, data: DataDirectory, directory: PathBuf, limit_bytes: u64) -> Self {
        if limit_bytes == 0 {
            return Self { limit_bytes, prefetcher: None };
        }
        let options = PrefetchOptions { limit_bytes, ..PrefetchOptions::default() };
        // The directory itself may not be there yet.
        let options = options.on_file_system_of(directory.parent().unwrap_or(&directory));
        let opened = Prefetcher::new(ctx, data, directory, options);
        let prefetcher =
            opened.inspect_err(|error| tracing::warn!(%error, "nothing can be fetched ahead")).ok();
        Self { limit_bytes, prefetcher }
    }

    /// Answers one get.
    pub(super) async fn get(&self, ask: GetAsk) -> Answer {
        let Some(prefetcher) = &self.prefetcher else {
            return Answer::DoItYourself { reason: "the agent fetches nothing ahead".to_owned() };
        };
        match prefetcher.get(&ask.name, &ask.destination).await {
            GetAnswer::Ready(file) => Answer::Ready(file),
            GetAnswer::Absent => Answer::Absent,
            GetAnswer::Failed(error) => Answer::Failed(AgentFailure::from(&error)),
            GetAnswer::DoItYourself { reason } => Answer::DoItYourself { reason: reason.to_owned() },
        }
    }

    /// Whether something is being fetched.
    pub(super) fn is_busy(&self) -> bool {
        self.prefetcher.as_ref().is_some_and(|prefetcher| prefetcher.numbers().in_flight > 0)
    }

    /// Ends what is being fetched ahead. What a hook was offered stays a little longer.
    pub(super) fn leave(&self) {
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.leave();
        }
    }

    /// Removes all files: the agent ends.
    pub(super) fn close(&self) {
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.close();
        }
    }

    /// What it did.
    pub(super) fn status(&self) -> PrefetchStatus {
        let numbers = self.prefetcher.as_ref().map(Prefetcher::numbers).unwrap_or_default();
        PrefetchStatus {
            limit_bytes: self.limit_bytes,
            bytes: numbers.bytes,
            files: numbers.files,
            in_flight: numbers.in_flight,
            calls: numbers.calls,
            hits: numbers.hits,
            waited: numbers.waited,
            misses: numbers.misses,
            absent: numbers.absent,
            dropped: numbers.dropped,
            failed: numbers.failed,
            declined: numbers
                .calls
                .saturating_sub(numbers.hits + numbers.waited + numbers.misses + numbers.absent),
        }
    }
}
