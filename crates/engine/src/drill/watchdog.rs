//! Ends a drilled server when the drill itself was killed and could not.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A small process that waits for the end of this one. It reads from a pipe that nobody writes to: the pipe ends when
/// this process does, however that comes about.
#[derive(Debug)]
pub(super) struct Watchdog(Option<Child>);

/// Reads until the pipe ends, then ends the server at once. The number is the server's as long as the drill lives, because
/// until then nobody else takes note of its end; right after, it is the server's still.
const SCRIPT: &str = "read -r _; kill -QUIT \"$1\" 2> /dev/null";

impl Watchdog {
    /// Watches over a server. Without a shell there is no watch: the next drill ends the server instead.
    pub(super) fn over(pid: u32) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "walden-drill-watchdog", &pid.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // What is typed at the terminal is for the drill, which cleans up.
        command.process_group(0).current_dir("/");
        Self(command.spawn().inspect_err(|error| tracing::warn!(%error, "no watchdog was started")).ok())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Before the pipe is closed: its end must not be taken for ours.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
