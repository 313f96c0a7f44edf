//! What other verbs ask the agent of their data directory: its status, and nothing that they could not do without.

use walden_store::SettingsFingerprint;

use super::client;
use super::spool::Spool;
use super::status::AgentStatus;
use crate::context::Context;
use crate::data_directory::DataDirectory;

/// The status of the agent that archives this data directory into this repository; `None` when none runs, or none of
/// this build, or when it does not answer. Blocks for some seconds at most: not for async threads.
#[must_use]
pub fn status_of(ctx: &Context, data: &DataDirectory) -> Option<AgentStatus> {
    let state_directory = ctx.state_directory.as_deref()?;
    // Settings decide whether a failure is believed, and a status is none.
    let settings = SettingsFingerprint::from_hex(&"0".repeat(64))?;
    let spool =
        Spool::locate(state_directory, data.path(), &ctx.store.identity(), &ctx.server, &settings).ok()?;
    match client::status(&spool) {
        Ok(status) => Some(status),
        Err(reason) => {
            tracing::debug!(%reason, "no agent was asked");
            None
        }
    }
}
