//! Why an agent may wait for calls that never come: nobody misses one that is not found, so it says so itself.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use walden_core::ErrorKind;

use super::{AgentOptions, StatusHandle};
use crate::data_directory::DataDirectory;
use crate::server::find_incarnation;

/// How often it is looked whether the server has come into the repository.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What the status warns of. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Doubts(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    lasting: Vec<String>,
    repository: Option<String>,
}

impl Doubts {
    /// Begins with what is known, and with what the data directory shows.
    pub(super) fn new(data: &DataDirectory, mut lasting: Vec<String>) -> Self {
        lasting.extend(of_another_user(data));
        Self(Arc::new(Mutex::new(Told { lasting, repository: None })))
    }

    pub(super) fn told(&self) -> Vec<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.lasting.iter().chain(&told.repository).cloned().collect()
    }

    /// Takes what the repository says; tells whether it is another thing than before.
    fn set_repository(&self, doubt: Option<&String>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = told.repository.as_ref() != doubt;
        told.repository = doubt.cloned();
        changed
    }
}

/// An agent answers its own user and root.
fn of_another_user(data: &DataDirectory) -> Option<String> {
    let owner = data.path().join("global/pg_control").metadata().ok()?.uid();
    let user = nix::unistd::geteuid().as_raw();
    (owner != user).then(|| {
        format!(
            "the data directory belongs to another user, whose calls are not answered: run the agent as the server's \
             account owner={owner} user={user}"
        )
    })
}

/// Tells what there is to warn of, and looks in the repository for the server until it is there. One that a hook started
/// comes from a call that succeeded.
pub(super) async fn doubt(status: StatusHandle, options: AgentOptions) {
    let (doubts, ctx) = (&status.0.doubts, &status.0.ctx);
    for warning in doubts.told() {
        tracing::warn!("{warning}");
    }
    if options.on_demand {
        return;
    }
    loop {
        let doubt = match find_incarnation(ctx, Some(&options.data)).await {
            Ok(_) => None,
            Err(error) if is_of_the_repository(error.kind()) => Some(match error.hint() {
                Some(hint) => format!("nothing can be archived: {error}; {hint}"),
                None => format!("nothing can be archived: {error}"),
            }),
            // A store that is not reached now says nothing of what it holds.
            Err(_) => {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
        };
        if doubts.set_repository(doubt.as_ref())
            && let Some(doubt) = &doubt
        {
            tracing::warn!("{doubt}");
        }
        if doubt.is_none() {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_of_the_repository(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::WrongServer
            | ErrorKind::Config
            | ErrorKind::Denied
            | ErrorKind::Unsupported
    )
}
