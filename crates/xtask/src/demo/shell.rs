//! The shell of the demo: prints a line, runs it, prints what it said.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Longest time of one line.
const DEADLINE: Duration = Duration::from_secs(90);

/// Stops the servers of the demo and removes its directory ($0), when the demo was interrupted before it
/// could: its input ends without a farewell then. Ctrl-C in the terminal does not reach it.
const GUARD: &str = r#"
trap '' INT TERM HUP
read -r farewell && exit 0
for data in "$0/data" "$0/restored"; do
    if [ -f "$data/postmaster.pid" ]; then
        kill -QUIT "$(head -n 1 "$data/postmaster.pid")"
    fi
done
sleep 1
rm -rf -- "$0"
"#;

/// Runs lines with one environment, in one directory, as one user.
pub(super) struct Shell {
    dir: PathBuf,
    account: Option<(u32, u32)>,
    environment: Vec<(&'static str, String)>,
    guard: Child,
}

impl Shell {
    pub(super) fn new(
        dir: &Path,
        account: Option<(u32, u32)>,
        environment: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let guard = Command::new("sh")
            .args(["-c", GUARD])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| Failure::new(format!("cannot start sh: {e}")))?;
        Ok(Self { dir: dir.to_path_buf(), account, environment, guard })
    }

    pub(super) fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// Prints a line, runs it, and returns what it wrote to its standard output, without the last newline.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        println!("\n$ {}", line.replace('\n', "\n> "));
        self.silent(line, true)
    }

    /// Stops the servers that still run; failures do not matter any more.
    pub(super) fn stop_servers(&self) {
        for data in ["$PGDATA", "$RESTORED"] {
            let stop = format!("pg_ctl stop --pgdata=\"{data}\" --mode=immediate --silent");
            let line = format!("[ ! -f \"{data}/postmaster.pid\" ] || {stop}");
            let _ = self.silent(&line, false);
        }
    }

    /// Ends the guard, which without this would remove the directory.
    pub(super) fn dismiss_guard(mut self) {
        if let Some(mut pipe) = self.guard.stdin.take() {
            // It can only fail when the guard is gone already.
            let _ = pipe.write_all(b"farewell\n");
        }
        let _ = self.guard.wait();
    }

    fn silent(&self, line: &str, shown: bool) -> Result<String> {
        // Files, not pipes: a server started by the line would keep a pipe open for ever.
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        let create = |path: &Path| File::create(path).map_err(|e| Failure::io("create", path, &e));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(&self.dir)
            .env_clear()
            .env("HOME", &self.dir)
            .env("LC_ALL", "C");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?).process_group(0);
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        let mut child = command.spawn().map_err(|e| Failure::new(format!("cannot start sh: {e}")))?;
        let started = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if started.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(10)),
                _ => {
                    let _ = child.kill();
                    break None;
                }
            }
        };
        let read = |path: &Path| fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e));
        let (said, complained) = (read(&out)?, read(&err)?);
        if shown {
            print!("{said}{complained}");
        }
        match status {
            Some(status) if status.success() => Ok(said.trim_end_matches('\n').to_owned()),
            Some(status) => Err(Failure::new(format!("this line failed ({status}): {line}"))),
            None => Err(Failure::new(format!("this line took over {} seconds: {line}", DEADLINE.as_secs()))),
        }
    }
}
