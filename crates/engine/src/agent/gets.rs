//! The get side of the agent: what it answers when a `restore_command` asks.

use super::protocol::{Answer, GetAsk};
use super::status::PrefetchStatus;

/// Answers gets. Shared by all calls.
#[derive(Debug, Default)]
pub(super) struct Gets {}

impl Gets {
    /// Answers one get.
    #[expect(clippy::unused_async, reason = "nothing is fetched ahead yet")]
    pub(super) async fn get(&self, _ask: GetAsk) -> Answer {
        Answer::DoItYourself { reason: "the agent fetches nothing ahead".to_owned() }
    }

    /// Whether something is being fetched.
    pub(super) fn is_busy(&self) -> bool {
        false
    }

    /// Ends what is being fetched.
    pub(super) fn leave(&self) {}

    /// What it did.
    pub(super) fn status(&self) -> PrefetchStatus {
        PrefetchStatus::default()
    }
}
