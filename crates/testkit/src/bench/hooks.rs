//! Calling `archive_command` and `restore_command` as PostgreSQL calls them: through a shell, in the data directory, one
//! file at a time, with `archive_status` kept as the archiver keeps it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The archiver tries a file so often before it gives up for a while.
const TRIES: u32 = 3;
/// It waits so long between two tries.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Between two looks for a file that is ready.
const POLL: Duration = Duration::from_millis(1);
/// What recovery calls the file that it asks for.
const RECOVERY_FILE: &str = "pg_wal/RECOVERYXLOG";
/// Compared at once.
const COMPARED_BYTES: usize = 64 * 1024;

/// A command with PostgreSQL's placeholders, and the surroundings in which it is called.
#[derive(Debug, Clone)]
pub struct Hook {
    /// The command; `%p` is the path from the data directory, `%f` the file's name.
    pub command: String,
    /// The data directory.
    pub directory: PathBuf,
    /// All of its environment besides `PATH`.
    pub environment: Vec<(String, String)>,
    /// Takes what it writes, as the server log does.
    pub log: PathBuf,
}

/// One call of a hook.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// From before the process is started until it has ended.
    pub elapsed: Duration,
    /// It ended with 0.
    pub succeeded: bool,
}

/// Replaces `%p`, `%f` and `%%` as PostgreSQL does.
#[must_use]
pub fn filled(command: &str, name: &str, path: &str) -> String {
    let mut text = String::with_capacity(command.len() + name.len() + path.len());
    let mut rest = command.chars();
    while let Some(character) = rest.next() {
        match (character, rest.as_str().chars().next()) {
            ('%', Some(what @ ('p' | 'f' | '%'))) => {
                rest.next();
                match what {
                    'p' => text.push_str(path),
                    'f' => text.push_str(name),
                    _ => text.push('%'),
                }
            }
            _ => text.push(character),
        }
    }
    text
}

impl Hook {
    /// Calls it for a file, through the shell.
    ///
    /// # Errors
    /// When the shell or the log can't be opened.
    pub fn call(&self, name: &str, path: &str) -> io::Result<Call> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(filled(&self.command, name, path));
        self.run(command)
    }

    /// Calls it for a file without a shell: its words are taken apart at spaces.
    ///
    /// # Errors
    /// When the program can't be started or the log opened.
    pub fn call_directly(&self, name: &str, path: &str) -> io::Result<Call> {
        let words = filled(&self.command, name, path);
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        self.run(command)
    }

    /// Runs a shell command in the same surroundings.
    ///
    /// # Errors
    /// As [`Hook::call`].
    pub fn shell(&self, line: &str) -> io::Result<Call> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line);
        self.run(command)
    }

    fn run(&self, mut command: Command) -> io::Result<Call> {
        // A file and no pipe: a daemon that the hook leaves behind would hold a pipe open.
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        command.env_clear().env("PATH", path);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory).stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let begun = Instant::now();
        let status = command.status()?;
        Ok(Call { elapsed: begun.elapsed(), succeeded: status.success() })
    }

    /// The end of what the hook has written.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }

    fn status_file(&self, name: &str, state: &str) -> PathBuf {
        self.directory.join("pg_wal/archive_status").join(format!("{name}.{state}"))
    }

    /// Marks a file as ready to be archived.
    ///
    /// # Errors
    /// When the status file can't be made.
    pub fn mark_ready(&self, name: &str) -> io::Result<()> {
        File::create(self.status_file(name, "ready")).map(drop)
    }

    /// Archives one ready file and marks it as done, with the archiver's retries. Returns the calls it took.
    ///
    /// # Errors
    /// When the hook fails three times, with the end of its log.
    pub fn archive(&self, name: &str) -> io::Result<Vec<Call>> {
        let mut calls = Vec::new();
        for attempt in 1..=TRIES {
            let call = self.call(name, &format!("pg_wal/{name}"))?;
            calls.push(call);
            if call.succeeded {
                fs::rename(self.status_file(name, "ready"), self.status_file(name, "done"))?;
                return Ok(calls);
            }
            if attempt < TRIES {
                std::thread::sleep(RETRY_AFTER);
            }
        }
        Err(io::Error::other(format!("{name} was not archived:\n{}", self.log_end())))
    }

    /// Archives one ready file without a shell and without retries, and marks it as done.
    ///
    /// # Errors
    /// When the hook fails, with the end of its log.
    pub fn archive_directly(&self, name: &str) -> io::Result<Call> {
        let call = self.call_directly(name, &format!("pg_wal/{name}"))?;
        if !call.succeeded {
            return Err(io::Error::other(format!("{name} was not archived:\n{}", self.log_end())));
        }
        fs::rename(self.status_file(name, "ready"), self.status_file(name, "done"))?;
        Ok(call)
    }

    /// Archives files that are made ready by a clock, one every `interval`, and returns the calls and how long after
    /// becoming ready each file was archived.
    ///
    /// # Errors
    /// As [`Hook::archive`] and [`Hook::mark_ready`].
    pub fn archive_paced(
        &self,
        names: &[String],
        interval: Duration,
    ) -> io::Result<(Vec<Call>, Vec<Duration>)> {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let clock = scope.spawn(|| {
                let mut due = Duration::ZERO;
                for name in names {
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    self.mark_ready(name)?;
                    due += interval;
                }
                Ok::<_, io::Error>(())
            });
            let (mut calls, mut lags, mut due) = (Vec::new(), Vec::new(), Duration::ZERO);
            for name in names {
                while !self.status_file(name, "ready").try_exists()? && !clock.is_finished() {
                    std::thread::sleep(POLL);
                }
                calls.extend(self.archive(name)?);
                lags.push(begun.elapsed().saturating_sub(due));
                due += interval;
            }
            clock.join().map_err(|_| io::Error::other("the clock stopped"))??;
            Ok((calls, lags))
        })
    }

    /// Fetches one file as recovery does and takes it away to `kept`, on the same file system.
    ///
    /// # Errors
    /// When the hook fails, with the end of its log, or leaves no file.
    pub fn restore(&self, name: &str, kept: &Path) -> io::Result<Call> {
        let call = self.call(name, RECOVERY_FILE)?;
        if !call.succeeded {
            return Err(io::Error::other(format!("{name} was not restored:\n{}", self.log_end())));
        }
        fs::rename(self.directory.join(RECOVERY_FILE), kept)?;
        Ok(call)
    }

    /// Asks for a file that must not be there.
    ///
    /// # Errors
    /// When the hook succeeds.
    pub fn restore_absent(&self, name: &str) -> io::Result<Call> {
        let call = self.call(name, RECOVERY_FILE)?;
        if call.succeeded {
            return Err(io::Error::other(format!("{name} is not in the archive and was restored")));
        }
        Ok(call)
    }
}

/// Whether a tool keeps up: the files of the last quarter wait hardly longer than those of the second one.
///
/// `lags` are the times from ready to archived, in order, in any unit, which is also that of `interval`, the time
/// between two files. A tool that is 3 % too slow falls half an interval behind in 16 files.
#[must_use]
pub fn keeps_up(lags: &[f64], interval: f64) -> bool {
    let quarter = lags.len() / 4;
    let early = super::statistics::median(lags.get(quarter..2 * quarter).unwrap_or_default());
    let late = super::statistics::median(lags.get(lags.len() - quarter..).unwrap_or_default());
    early.zip(late).is_some_and(|(early, late)| late <= early + interval / 2.0)
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// When one of them can't be read.
pub fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        let (Some(left), Some(right)) = (left.get(..read), right.get_mut(..read)) else { return Ok(false) };
        other.read_exact(right)?;
        if left != right {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(directory: &Path, command: &str) -> Hook {
        fs::create_dir_all(directory.join("pg_wal/archive_status")).unwrap();
        Hook {
            command: command.to_owned(),
            directory: directory.to_owned(),
            environment: vec![("ARCHIVE".to_owned(), directory.join("archive").display().to_string())],
            log: directory.join("log"),
        }
    }

    #[test]
    fn placeholders_are_replaced_as_postgresql_does() {
        assert_eq!(filled("cp %p /a/%f", "F", "pg_wal/F"), "cp pg_wal/F /a/F");
        assert_eq!(filled("date +%%s %x %", "F", "P"), "date +%s %x %");
    }

    #[test]
    fn a_file_is_archived_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let push = hook(dir.path(), "mkdir -p \"$ARCHIVE\" && cp %p \"$ARCHIVE/%f\"");
        fs::write(dir.path().join("pg_wal/F"), vec![5; 200_000]).unwrap();
        push.mark_ready("F").unwrap();
        assert_eq!(push.archive("F").unwrap().len(), 1);
        assert!(dir.path().join("pg_wal/archive_status/F.done").is_file());
        assert!(!dir.path().join("pg_wal/archive_status/F.ready").is_file());

        let get = Hook { command: "cp \"$ARCHIVE/%f\" %p".to_owned(), ..push };
        let kept = dir.path().join("kept");
        assert!(get.restore("F", &kept).unwrap().succeeded);
        assert!(same_bytes(&kept, &dir.path().join("pg_wal/F")).unwrap());
        assert!(!get.restore_absent("G").unwrap().succeeded);
        assert!(get.restore_absent("F").is_err());
        fs::write(&kept, vec![6; 200_000]).unwrap();
        assert!(!same_bytes(&kept, &dir.path().join("pg_wal/F")).unwrap());
    }

    #[test]
    fn a_failure_is_retried_and_told_with_what_the_hook_said() {
        let dir = tempfile::tempdir().unwrap();
        let push = hook(dir.path(), "test -e seen || { touch seen; echo no luck; exit 1; }");
        push.mark_ready("F").unwrap();
        let calls = push.archive("F").unwrap();
        assert_eq!(calls.iter().map(|call| call.succeeded).collect::<Vec<_>>(), [false, true]);
        assert!(push.log_end().contains("no luck"));
        let missing = Hook { command: "/no/such/program %p".to_owned(), ..push };
        assert!(missing.call_directly("F", "pg_wal/F").is_err());
    }

    #[test]
    fn paced_files_are_archived_as_they_become_ready() {
        let dir = tempfile::tempdir().unwrap();
        let push = hook(dir.path(), "true %p");
        let names: Vec<String> = (0..4).map(|number| format!("F{number}")).collect();
        let (calls, lags) = push.archive_paced(&names, Duration::from_millis(20)).unwrap();
        assert_eq!((calls.len(), lags.len()), (4, 4));
        assert!(dir.path().join("pg_wal/archive_status/F3.done").is_file());
    }

    #[test]
    fn keeping_up_is_told_from_falling_behind() {
        let steady: Vec<f64> = (0..32).map(|index| 50.0 + f64::from(index % 3) * 10.0).collect();
        assert!(keeps_up(&steady, 60.0));
        let behind: Vec<f64> = (0..32).map(|index| 50.0 + f64::from(index) * 6.0).collect();
        assert!(!keeps_up(&behind, 60.0), "each one waits a tenth of an interval longer");
        assert!(!keeps_up(&[], 60.0));
    }
}
