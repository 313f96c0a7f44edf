//! Carrying out a recovery plan: an empty directory becomes a data directory that a server recovers from.
//!
//! What holds:
//! - Nothing is decided here that the plan has decided; what contradicts the plan is refused.
//! - Nothing is written before the target directories were looked at and the whole manifest was judged, and nothing
//!   is ever written outside of those directories.
//! - Until everything is there, compared with its hashes and durable, the directory has no `global/pg_control` and a
//!   marker that says what it is: no server starts from it, and no second restore takes it.
//! - Memory does not grow with the cluster: the manifest is streamed, and what is fetched and not yet written is
//!   bounded.
//! - A restored directory says where it came from, so that it can't archive into its source's archive.

mod archiving;
mod configure;
mod destination;
mod files;
mod flush;
pub(crate) mod inventory;
pub(crate) mod manifest;
mod originals;
mod owner;
mod packs;
pub(crate) mod reads;
mod report;
mod request;
mod settings;
mod start;
mod steps;
#[cfg(test)]
mod tests;
mod tree;

use std::future::Future;
use std::path::PathBuf;

use walden_core::{ErrorKind, RecoveryPlan};

pub use archiving::{PushCommand, configured_push};
pub(crate) use owner::{Owner, user_name};
pub use report::{
    RestoreReport, RestoredLink, RestoredOwner, RestoredTablespace, ServerState, StartReport, StopCheck,
    StopOutcome,
};
pub(crate) use start::{Process, Programs, Server, find_programs, options_of_sessions};

pub use request::{ArchiveMode, RestoreRequest, START_TIMEOUT, StartOptions, TablespaceMapping};

use crate::context::Context;
use crate::error::{EngineError, Result};

/// The file in a directory whose restore has not ended: no server starts there.
pub const IN_PROGRESS_MARKER: &str = "walden.restore-in-progress";
/// The file in a restored data directory that holds the plan it was restored by, as JSON.
pub const PLAN_FILE: &str = "walden.recovery-plan.json";
/// The log of a server that a restore started, in its data directory.
pub const START_LOG: &str = "walden-startup.log";
/// The option of the command line that gives a tablespace another place, named in hints.
const MAPPING_OPTION: &str = "--tablespace-mapping";

/// Looks whether a directory can be restored into: before anything is asked of the store. Nothing is written.
///
/// # Errors
/// Of kind `config` when something is in it, or it lies where none can be made; `local_io` when that can't be seen.
pub fn check_target(path: &std::path::Path) -> Result<()> {
    destination::look_at_data_directory(path).map(drop)
}

/// Carries out a plan.
///
/// # Errors
/// Of kind `config` when the target can't be taken or the request contradicts itself, `corrupt` when the backup is
/// not what it says, `unsupported` when a newer version wrote it, `local_io`, `postgres` when the started server
/// did not reach the target, and what any read from the store can give. After an error that came while files were
/// written, the directory keeps its marker and must be removed.
pub async fn execute(ctx: &Context, plan: &RecoveryPlan, request: RestoreRequest) -> Result<RestoreReport> {
    execute_until(ctx, plan, request, std::future::pending()).await
}

/// Carries out a plan unless `cancel` ends first.
///
/// # Errors
/// As [`execute`]; of kind `unavailable` when it was cancelled, with what to do about what it left.
pub async fn execute_until(
    ctx: &Context,
    plan: &RecoveryPlan,
    request: RestoreRequest,
    cancel: impl Future<Output = ()>,
) -> Result<RestoreReport> {
    let restore = steps::Restore::new(ctx, plan, request);
    let outcome = {
        let mut work = Box::pin(restore.run());
        let mut cancel = std::pin::pin!(cancel);
        tokio::select! {
            biased;
            outcome = &mut work => outcome,
            () = &mut cancel => Err(EngineError::failed(ErrorKind::Unavailable, "the restore was interrupted")),
        }
    };
    outcome.map_err(|error| restore.explain(error))
}

/// Text that a person can paste into a shell as one word.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The path as text for commands.
fn shell_path(path: &std::path::Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// The log of a server started in this data directory.
pub(crate) fn log_of(pgdata: &std::path::Path) -> PathBuf {
    pgdata.join(START_LOG)
}
