//! What other verbs ask the agent of their data directory: its status, and nothing that they could not do without.

use walden_store::SettingsFingerprint;

use super::client::{self, DoItYourself};
use super::places::{Holder, Place};
use super::spool::Spool;
use super::status::AgentStatus;
use crate::context::Context;
use crate::data_directory::DataDirectory;

/// The status of the agent that archives this data directory into this repository; `None` when none runs, or none of
/// this build, or when it does not answer. Blocks for some seconds at most: not for async threads.
#[must_use]
pub fn status_of(ctx: &Context, data: &DataDirectory) -> Option<AgentStatus> {
    match client::status(&spool_of(ctx, data)?) {
        Ok(status) => Some(status),
        Err(reason) => {
            tracing::debug!(%reason, "no agent was asked");
            None
        }
    }
}

/// What a look for the agent of a data directory finds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AgentFound {
    /// It runs.
    Running(Box<AgentStatus>),
    /// None runs.
    None {
        /// Agents of the same data directory that run for another repository or server.
        others: Vec<Place>,
    },
    /// One is there, and has no answer.
    Unreachable {
        /// Its process, if its lock says so.
        pid: Option<u32>,
        /// Why, in words.
        reason: DoItYourself,
    },
}

/// Looks for the agent that archives this data directory into this repository. Blocks for some seconds at most. `None`
/// without a state directory.
pub(crate) fn find_agent(ctx: &Context, data: &DataDirectory) -> Option<AgentFound> {
    let spool = spool_of(ctx, data)?;
    Some(match client::status(&spool) {
        Ok(status) => AgentFound::Running(Box::new(status)),
        Err(DoItYourself::NoAgent) => AgentFound::None { others: others_of(ctx, &spool) },
        Err(DoItYourself::OtherBuild { build, pid, asked_to_leave }) => AgentFound::Unreachable {
            pid: Some(pid),
            reason: DoItYourself::OtherBuild { build, pid, asked_to_leave },
        },
        Err(reason) => AgentFound::Unreachable { pid: Holder::of(&spool).ok().and_then(Holder::pid), reason },
    })
}

fn others_of(ctx: &Context, spool: &Spool) -> Vec<Place> {
    let places = ctx.state_directory.as_deref().map(Place::all);
    let mut places = places.and_then(Result::ok).unwrap_or_default();
    places.retain(|place| {
        place.holder != Holder::Nobody
            && place.about.as_ref().is_some_and(|about| about.data_directory == spool.data_directory())
    });
    places
}

fn spool_of(ctx: &Context, data: &DataDirectory) -> Option<Spool> {
    let state_directory = ctx.state_directory.as_deref()?;
    // Settings decide whether a failure is believed, and a status is none.
    let settings = SettingsFingerprint::from_hex(&"0".repeat(64))?;
    Spool::locate(state_directory, data.path(), &ctx.store.identity(), &ctx.server, &settings).ok()
}
