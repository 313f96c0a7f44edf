//! A data directory whose segments are made here, hooks that are called as PostgreSQL's archiver calls them, and the
//! agents that these start. No agent outlives its bench.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use walden_testkit::fault::SplitMix64;
use walden_testkit::postgres::ServerAccount;
use walden_testkit::stores::S3Server;

use crate::support::{Repository, Walden, describe, run};

/// A segment of PostgreSQL 18 begins with this page; its segments have 1 MiB.
const PAGE: &[u8] = include_bytes!("../../../crates/pg/fixtures/pg18/00000001000000000000000B.page");
const CONTROL: &[u8] = include_bytes!("../../../crates/pg/fixtures/pg18/pg_control");
const SEGMENT_BYTES: usize = 1 << 20;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits for something that must happen.
#[track_caller]
pub(super) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The processes of walden that share a state directory. Whoever holds this ends them all.
pub(super) struct Processes {
    state: tempfile::TempDir,
}

impl Processes {
    /// Gives the program a state directory of its own, and lets its hooks use and start agents.
    pub(super) fn of(walden: &mut Walden) -> Self {
        let state = ServerAccount::current().unwrap().temp_dir().unwrap();
        walden.set("WALDEN_STATE_DIRECTORY", state.path().to_str().unwrap());
        walden.set("WALDEN_AGENT", "auto");
        Self { state }
    }

    pub(super) fn state_directory(&self) -> &Path {
        self.state.path()
    }

    /// The agents' own directories.
    pub(super) fn spools(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("agent-")).collect()
    }

    /// The only agent's directory.
    pub(super) fn spool(&self) -> PathBuf {
        let spools = self.spools();
        assert_eq!(spools.len(), 1, "{spools:?}");
        spools[0].clone()
    }

    /// The processes whose command line has this word.
    fn with_word(&self, word: &str) -> Vec<Pid> {
        let ours = format!("WALDEN_STATE_DIRECTORY={}", self.state.path().display());
        let holds = |file: PathBuf, wanted: &str| {
            let bytes = fs::read(file).unwrap_or_default();
            bytes.split(|byte| *byte == 0).any(|text| text == wanted.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let process = |pid: i32| PathBuf::from(format!("/proc/{pid}"));
        let is_walden = |pid: &i32| {
            let program = fs::read_link(process(*pid).join("exe")).unwrap_or_default();
            program.to_string_lossy().contains("walden")
        };
        let found = pids.filter(is_walden).filter(|pid| holds(process(*pid).join("cmdline"), word));
        found.filter(|pid| holds(process(*pid).join("environ"), &ours)).map(Pid::from_raw).collect()
    }

    pub(super) fn agents(&self) -> Vec<Pid> {
        self.with_word("agent")
    }

    pub(super) fn hooks(&self) -> Vec<Pid> {
        self.with_word("wal")
    }

    /// kill -9 of all agents that there are; they are gone when this returns. Tells how many they were.
    pub(super) fn kill_agents(&self) -> usize {
        let agents = self.agents();
        for agent in &agents {
            let _ = kill(*agent, Signal::SIGKILL);
        }
        // A hook may have started the next one by then.
        until("the killed agents to be gone", || !self.agents().iter().any(|agent| agents.contains(agent)));
        agents.len()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in self.agents().into_iter().chain(self.hooks()) {
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}

/// An agent that a test started itself; killed when dropped.
pub(super) struct Agent(Child);

impl Agent {
    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits for its end by itself; its exit code.
    pub(super) fn wait(&mut self) -> Option<i32> {
        until("the agent to end", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }
}

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MemoryUse {
    /// The most that it had at any time, its program's file included.
    pub(super) peak: u64,
    /// What it has now of its program's file: much more with what a debugger needs.
    pub(super) file: u64,
    /// What it has now besides.
    pub(super) anonymous: u64,
}

impl MemoryUse {
    pub(super) fn of(pid: Pid) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        };
        Self { peak: value("VmHWM:"), file: value("RssFile:"), anonymous: value("RssAnon:") }
    }

    /// The most of both.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            peak: self.peak.max(other.peak),
            file: self.file.max(other.file),
            anonymous: self.anonymous.max(other.anonymous),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// The segments, hooks and agents of one data directory without a server.
pub(super) struct Bench {
    // Ended first.
    pub(super) processes: Processes,
    pub(super) walden: Walden,
    pub(super) repository: Repository,
    s3: Option<Arc<S3Server>>,
    directory: tempfile::TempDir,
    account: ServerAccount,
}

impl Bench {
    /// Over a directory.
    pub(super) fn local() -> Self {
        Self::over(Repository::local(), None)
    }

    /// Over the S3 server.
    pub(super) fn s3() -> Self {
        let (repository, s3) = crate::stores::faulty_s3();
        Self::over(repository, Some(s3))
    }

    fn over(repository: Repository, s3: Option<Arc<S3Server>>) -> Self {
        let account = ServerAccount::current().unwrap();
        let directory = account.temp_dir().unwrap();
        let mut walden = Walden::new(&repository, "main");
        let processes = Processes::of(&mut walden);
        let bench = Self { processes, walden, repository, s3, directory, account };
        bench.make_data_directory();
        bench.must(&["init", "--pgdata", bench.data().to_str().unwrap()]);
        bench
    }

    /// Makes the data directory, which must not be there.
    pub(super) fn make_data_directory(&self) {
        let data = self.data();
        for below in ["global", "pg_wal/archive_status"] {
            fs::create_dir_all(data.join(below)).unwrap();
        }
        let mut control = CONTROL.to_vec();
        control.resize(8192, 0);
        fs::write(data.join("global/pg_control"), control).unwrap();
        fs::write(data.join("PG_VERSION"), "18\n").unwrap();
        self.account.own(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The S3 server that it is over.
    pub(super) fn store(&self) -> &S3Server {
        self.s3.as_ref().unwrap()
    }

    pub(super) fn wal(&self, name: &str) -> PathBuf {
        self.data().join("pg_wal").join(name)
    }

    fn status_file(&self, name: &str, ending: &str) -> PathBuf {
        self.wal("archive_status").join(format!("{name}.{ending}"))
    }

    /// Finishes a segment, as the server does.
    pub(super) fn finish(&self, number: u64) -> String {
        let name = self.write(number, number);
        self.mark_ready(&name);
        name
    }

    /// Finishes several.
    pub(super) fn finish_all(&self, numbers: std::ops::Range<u64>) -> Vec<String> {
        numbers.map(|number| self.finish(number)).collect()
    }

    /// Writes the file of a segment in place, with contents of this seed.
    pub(super) fn write(&self, number: u64, seed: u64) -> String {
        let name = segment_name(number);
        fs::write(self.wal(&name), segment(number, seed)).unwrap();
        name
    }

    pub(super) fn mark_ready(&self, name: &str) {
        fs::write(self.status_file(name, "ready"), b"").unwrap();
    }

    /// What PostgreSQL's archiver does after a success.
    pub(super) fn mark_done(&self, name: &str) {
        fs::rename(self.status_file(name, "ready"), self.status_file(name, "done")).unwrap();
    }

    /// A command of the program in the data directory, as PostgreSQL runs it.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.walden.command(arguments);
        command.current_dir(self.data()).env("PGDATA", self.data()).stdin(Stdio::null());
        command
    }

    /// Runs one that must succeed, without an agent.
    pub(super) fn must(&self, arguments: &[&str]) -> Output {
        let output = run(self.command(arguments).env("WALDEN_AGENT", "off"));
        assert!(output.status.success(), "{arguments:?}: {}", describe(&output));
        output
    }

    /// Its JSON, without an agent.
    pub(super) fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        serde_json::from_slice(&self.must(&arguments).stdout).unwrap()
    }

    /// The hook for one file, as the archiver calls it.
    pub(super) fn hook(&self, name: &str) -> Command {
        self.command(&["-v", "wal", "push", &format!("pg_wal/{name}")])
    }

    pub(super) fn push(&self, name: &str) -> Output {
        run(&mut self.hook(name))
    }

    /// The hook must succeed, and then the file must be in the archive as it is now.
    pub(super) fn archive(&self, name: &str) -> Output {
        let output = self.push(name);
        assert!(output.status.success(), "{name}: {}", describe(&output));
        self.assert_stored(name);
        self.mark_done(name);
        output
    }

    /// What the archive has under a name, asked without an agent.
    pub(super) fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let directory = self.account.temp_dir().unwrap();
        let destination = directory.path().join(name);
        let path = destination.to_str().unwrap();
        let got = run(self.command(&["wal", "get", name, path]).env("WALDEN_AGENT", "off"));
        match got.status.code() {
            Some(0) => {}
            Some(1) => return None,
            _ => panic!("{name}: {}", describe(&got)),
        }
        Some(fs::read(&destination).unwrap())
    }

    /// The archive has the file as it is in `pg_wal`.
    #[track_caller]
    pub(super) fn assert_stored(&self, name: &str) {
        let stored = self.stored(name).unwrap_or_else(|| panic!("{name} is not in the archive"));
        assert!(stored == fs::read(self.wal(name)).unwrap(), "{name} has other bytes in the archive");
    }

    /// Where the objects are.
    fn root(&self) -> PathBuf {
        match (&self.repository.directory, &self.s3) {
            (Some(directory), _) => directory.clone(),
            (None, s3) => s3.as_ref().unwrap().object_file("repo"),
        }
    }

    /// The directories that hold segments, and all files in them.
    fn archived(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        let mut open = vec![self.root()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                directories.extend(path.ends_with("wal").then_some(path));
            } else if path.to_str().unwrap().contains("/wal/") {
                files.push(path);
            }
        }
        (directories, files)
    }

    /// The names of all segments in the archive, sorted.
    pub(super) fn names_stored(&self) -> Vec<String> {
        let (_, files) = self.archived();
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(".zst")?.to_owned());
        let mut names: Vec<String> = files.iter().filter_map(name).collect();
        names.retain(|name| name.len() == 24);
        names.sort();
        names
    }

    /// The files of all objects of WAL.
    pub(super) fn objects(&self) -> Vec<PathBuf> {
        self.archived().1
    }

    /// Takes all segments out of the archive.
    pub(super) fn empty_archive(&self) {
        for directory in self.archived().0 {
            fs::remove_dir_all(directory).unwrap();
        }
    }

    /// Starts a resident agent and does not wait for it.
    pub(super) fn launch(&self) -> Agent {
        self.launch_with(|_| {})
    }

    /// The same, and its command line is not the usual one.
    pub(super) fn launch_with(&self, change: impl FnOnce(&mut Command)) -> Agent {
        let mut command = self.command(&["agent"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        change(&mut command);
        Agent(command.spawn().unwrap())
    }

    /// Starts a resident agent and waits until it answers.
    pub(super) fn start(&self) -> Agent {
        self.start_with(|_| {})
    }

    /// The same, and its command line is not the usual one.
    pub(super) fn start_with(&self, change: impl FnOnce(&mut Command)) -> Agent {
        let agent = self.launch_with(change);
        let pid = u64::from(agent.0.id());
        until("the agent to answer", || self.status().is_some_and(|status| status["pid"] == pid));
        agent
    }

    /// The agent's status; `None` when none runs or none answers.
    pub(super) fn status(&self) -> Option<Value> {
        let output = run(&mut self.command(&["agent", "status", "--output", "json"]));
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Waits until the status of the agent is as wanted, and returns it.
    #[track_caller]
    pub(super) fn until_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        until(what, || {
            last = self.status();
            last.as_ref().is_some_and(&wanted)
        });
        last.unwrap()
    }

    /// Waits until so many files are archived that no hook has asked for yet.
    #[track_caller]
    pub(super) fn until_acks(&self, count: u64) -> Value {
        self.until_status(&format!("{count} acks"), |status| status["push"]["acks"] == count)
    }
}

/// The name of the segment with this number, on timeline 1.
pub(super) fn segment_name(number: u64) -> String {
    let per_log = (1_u64 << 32) / SEGMENT_BYTES as u64;
    format!("00000001{:08X}{:08X}", number / per_log, number % per_log)
}

/// A segment whose first page is right for its number, and whose rest is noise of this seed, half of it.
pub(super) fn segment(number: u64, seed: u64) -> Vec<u8> {
    let mut bytes = PAGE.to_vec();
    bytes[8..16].copy_from_slice(&(number * SEGMENT_BYTES as u64).to_le_bytes());
    let mut noise = SplitMix64(seed);
    while bytes.len() < SEGMENT_BYTES / 2 {
        bytes.extend(noise.draw().to_le_bytes());
    }
    bytes.resize(SEGMENT_BYTES, 0);
    bytes
}
