//! A process that we started, and its end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, OnceLock};

/// A child process whose end is taken note of, whatever becomes of who started it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    id: u32,
    ended: Arc<OnceLock<ExitStatus>>,
}

impl Process {
    /// Takes over a child: whoever started a process must take note of its end.
    pub(super) fn watch(mut child: Child) -> Self {
        let process = Self { id: child.id(), ended: Arc::default() };
        let ended = Arc::clone(&process.ended);
        std::thread::spawn(move || {
            // It can't be waited for when it is gone already; how it ended nobody knows then.
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(1 << 8));
            let _ = ended.set(status);
        });
        process
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.ended.get().copied()
    }
}
