//! The processes that are no tool's: the store, the long way to it, and the workers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use walden_testkit::bench::worker::{Case, Outcome};

use crate::Result;

/// A copy of this program that serves until it is dropped.
pub(crate) struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where it listens, as a URL.
    pub(crate) endpoint: String,
}

impl Helper {
    /// The store.
    pub(crate) fn store() -> Result<Self> {
        Self::start(&["serve"])
    }

    /// A way to `endpoint` that takes longer.
    pub(crate) fn proxy(endpoint: &str, milliseconds: u64) -> Result<Self> {
        let target = endpoint.trim_start_matches("http://");
        Self::start(&["proxy", target, &milliseconds.to_string()])
    }

    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no output")?;
        let mut helper = Self { child, input, output: BufReader::new(output), endpoint: String::new() };
        helper.endpoint = helper.line()?;
        Ok(helper)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the store or the proxy ended early; what it said is above".into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells the store to do something with a bucket: `make`, `drop`, or `requests` for those since the last call.
    pub(crate) fn tell(&mut self, what: &str, bucket: &str) -> Result<String> {
        self.input.as_mut().ok_or("no input")?.write_all(format!("{what} {bucket}\n").as_bytes())?;
        self.line()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a case in a process of its own.
pub(crate) fn worker(case: &Case) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(&serde_json::to_vec(case)?)?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().trim_start_matches("bench: ").to_owned().into())
}

/// The first line that a program writes, or nothing when it can't be had.
pub(crate) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    output.status.success().then(|| line.to_owned())
}
