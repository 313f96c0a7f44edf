//! A server: starting it, asking it, stopping it gently and not.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio_postgres::Config;
use walden_pg::PgMajor;

use super::account::ServerAccount;
use super::builder::PgServerBuilder;
use super::error::{Error, Result};
use super::install::PostgresInstall;
use super::leftovers::kill_all_in;
use super::session::{PgSession, Row};
use super::wait::wait_until;
use super::watchdog::Watchdog;

/// Names the socket; no two servers share its directory, so that it can be the same for all.
const SOCKET_PORT: u16 = 5432;

/// Set to anything, it keeps the directories of the servers for a look after the test.
const KEEP_ENV: &str = "WALDEN_TEST_KEEP";

/// How much of the end of a log is shown, in bytes.
const SHOWN_LOG: u64 = 8 * 1024;

/// What a start says that comes too early after a crash: the children of the old postmaster still live.
const STILL_IN_USE: [&str; 2] = ["is still in use", "lock file \"postmaster.pid\" already exists"];

/// Pause before another try at a start that came too early.
const START_AGAIN: Duration = Duration::from_millis(50);

/// How a running server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// With a shutdown checkpoint, and a last round of the archiver.
    Fast,
    /// At once; the next start recovers.
    Immediate,
}

/// Where a server lives and what it runs with.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) install: PostgresInstall,
    pub(super) account: ServerAccount,
    pub(super) dir: TempDir,
}

/// A PostgreSQL server for one test. See the [module](super).
#[derive(Debug)]
pub struct PgServer {
    // Dropped first: nothing is left to watch after `Drop` has stopped the server.
    watchdog: Watchdog,
    postmaster: Option<Child>,
    place: Place,
    data: PathBuf,
    /// Settings for the command line.
    overrides: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    port: u16,
    tcp: bool,
    deadline: Duration,
    /// Length of the log when the server was started last.
    log_start: u64,
}

impl PgServer {
    /// Describes a server of this major.
    pub fn builder(major: PgMajor) -> PgServerBuilder {
        PgServerBuilder::new(major)
    }

    pub(super) fn new(
        place: Place,
        data: PathBuf,
        overrides: Vec<(String, String)>,
        environment: Vec<(String, String)>,
        tcp: bool,
        deadline: Duration,
    ) -> Result<Self> {
        let watchdog = Watchdog::over(place.dir.path())?;
        let port = if tcp { free_port()? } else { SOCKET_PORT };
        let postmaster = None;
        Ok(Self {
            watchdog,
            postmaster,
            place,
            data,
            overrides,
            environment,
            port,
            tcp,
            deadline,
            log_start: 0,
        })
    }

    /// Its major version.
    pub fn major(&self) -> PgMajor {
        self.place.install.major()
    }

    /// Its programs.
    pub fn install(&self) -> &PostgresInstall {
        &self.place.install
    }

    /// The user that it runs as.
    pub fn account(&self) -> ServerAccount {
        self.place.account
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The directory of its socket, for `PGHOST`.
    pub fn socket_dir(&self) -> &Path {
        self.place.dir.path()
    }

    /// Its port, for `PGPORT`: of the socket's name, and on 127.0.0.1 after [`PgServerBuilder::tcp`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The longest time that one step may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether its postmaster was started and has not been seen to end.
    pub fn is_running(&self) -> bool {
        self.postmaster.is_some()
    }

    /// A new, empty directory of the server's account, removed with the server.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be created, or is there already.
    pub fn scratch_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.place.dir.path().join(name);
        fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        self.place.account.own(&dir)?;
        Ok(dir)
    }

    /// Prepares a command for this server: it runs as the server's account in a directory that the
    /// account can reach, with `PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE` and `PGDATA` pointing here.
    pub fn run_as_server_user<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.place
            .account
            .run(command)
            .current_dir(self.place.dir.path())
            .env("HOME", self.place.dir.path())
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("PGDATA", &self.data)
    }

    /// Starts the server and waits until it accepts connections. After a kill it tries again while the
    /// children of the old postmaster are still there.
    ///
    /// # Errors
    /// [`Error::ServerEnded`] when it ends instead; [`Error::Deadline`] when it takes too long.
    pub fn start(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            self.spawn()?;
            match self.wait_ready() {
                Err(Error::ServerEnded { log, .. })
                    if STILL_IN_USE.iter().any(|reason| log.contains(reason))
                        && started.elapsed() < self.deadline =>
                {
                    std::thread::sleep(START_AGAIN);
                }
                outcome => return outcome,
            }
        }
    }

    /// Starts the server and does not wait: for one that shall not come up. Follow it with
    /// [`Self::wait_ready`] or [`Self::wait_exit`].
    ///
    /// # Errors
    /// [`Error::WrongState`] when it runs; [`Error::Io`] when it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        if self.postmaster.is_some() {
            return Err(Error::WrongState { running: true });
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(|e| Error::io("open", &self.log_path(), e))?;
        self.log_start = log.metadata().map_err(|e| Error::io("look at", &self.log_path(), e))?.len();
        let error_log = log.try_clone().map_err(|e| Error::io("open", &self.log_path(), e))?;
        let program = self.place.install.bin().join("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(&self.data);
        for (name, value) in self.forced_settings().iter().chain(&self.overrides) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        self.run_as_server_user(&mut command);
        // The server's own variables are not those of its clients.
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log).stderr(error_log).process_group(0);
        let child = command.spawn().map_err(|e| Error::io("start", &program, e))?;
        self.watchdog.server_is(Some(child.id()));
        self.postmaster = Some(child);
        Ok(())
    }

    /// Waits until a spawned server accepts connections (a standby: read-only ones).
    ///
    /// # Errors
    /// [`Error::ServerEnded`] when it ends instead; [`Error::Deadline`] when it takes too long.
    pub fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let pid = self.postmaster.as_ref().map(Child::id).ok_or(Error::WrongState { running: false })?;
            if self.says_ready(pid) {
                return Ok(());
            }
            if let Some(status) = self.exited()? {
                return Err(Error::ServerEnded { status, log: self.log_since_start() });
            }
            if started.elapsed() >= self.deadline {
                return Err(self.late("the server to accept connections"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a running server ends by itself, and returns how.
    ///
    /// # Errors
    /// [`Error::WrongState`] when it does not run; [`Error::Deadline`] when it goes on running.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        if self.postmaster.is_none() {
            return Err(Error::WrongState { running: false });
        }
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if started.elapsed() >= self.deadline {
                return Err(self.late("the server to end"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a server that was started has ended by itself. Does not wait.
    ///
    /// # Errors
    /// [`Error::Testbench`] when the system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        self.exited()?;
        Ok(self.postmaster.is_none())
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    /// As [`Self::wait_exit`].
    pub fn stop(&mut self, mode: StopMode) -> Result<()> {
        self.signal(match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        })?;
        self.wait_exit().map(drop)
    }

    /// Stops with [`StopMode::Fast`] and starts again.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Kills the postmaster as the kernel would. Its children notice and end a little later.
    ///
    /// # Errors
    /// As [`Self::wait_exit`].
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit().map(drop)
    }

    /// Changes a setting in `postgresql.auto.conf`, and waits until new sessions see it. For settings that
    /// a reload changes.
    ///
    /// # Errors
    /// [`Error::Sql`] when the server refuses it; [`Error::Deadline`] when it never takes effect.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let literal = value.replace('\'', "''");
        self.execute(&format!("ALTER SYSTEM SET {name} = '{literal}'"))?;
        let reloads = "SELECT pg_conf_load_time()";
        let before: String = self.value(reloads)?;
        self.execute("SELECT pg_reload_conf()")?;
        wait_until(self.deadline, &format!("the setting {name}"), || {
            Ok((self.value::<String>(reloads)? != before).then_some(()))
        })
    }

    /// A new session as the superuser `postgres` in the database `postgres`.
    ///
    /// # Errors
    /// As [`PgSession::connect`].
    pub fn session(&self) -> Result<PgSession> {
        PgSession::connect(&self.client_config(), self.deadline)
    }

    /// How `tokio-postgres` connects to this server.
    pub fn client_config(&self) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.socket_dir())
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("walden-testkit")
            .connect_timeout(self.deadline);
        config
    }

    /// Runs statements in a session of their own. See [`PgSession::query`].
    ///
    /// # Errors
    /// As [`PgSession::query`].
    pub fn query(&self, sql: &str) -> Result<Vec<Row>> {
        self.session()?.query(sql)
    }

    /// Runs statements in a session of their own and ignores their rows.
    ///
    /// # Errors
    /// As [`PgSession::query`].
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.session()?.execute(sql)
    }

    /// The only value of the only row. See [`PgSession::value`].
    ///
    /// # Errors
    /// As [`PgSession::value`].
    pub fn value<T: FromStr>(&self, sql: &str) -> Result<T> {
        self.session()?.value(sql)
    }

    /// Everything that the server and its archive and restore commands have written since the last start.
    pub fn log_since_start(&self) -> String {
        self.log_from(self.log_start)
    }

    /// Waits until the log since the last start holds `text`.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it does not appear.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let started = Instant::now();
        while !self.log_since_start().contains(text) {
            if started.elapsed() >= self.deadline {
                return Err(self.late(&format!("the log to say {text:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(super) fn late(&self, what: &str) -> Error {
        Error::Deadline { what: what.to_owned(), waited: self.deadline, log: self.log_end() }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.postmaster.as_ref().ok_or(Error::WrongState { running: false })?;
        let pid = i32::try_from(child.id()).map_err(|e| Error::Testbench(std::io::Error::other(e)))?;
        kill(Pid::from_raw(pid), signal).map_err(|e| Error::Testbench(e.into()))
    }

    /// Looks whether the postmaster has ended, and forgets it if so.
    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.postmaster else { return Ok(None) };
        let status = child.try_wait().map_err(Error::Testbench)?;
        if status.is_some() {
            self.watchdog.server_is(None);
            self.postmaster = None;
        }
        Ok(status)
    }

    /// Reads the postmaster's own report of its state: the eighth line of `postmaster.pid`.
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return false };
        let mut lines = text.lines();
        let its_own = lines.next().is_some_and(|line| line.trim() == pid.to_string());
        its_own && lines.nth(6).is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
    }

    /// Settings that a restored `postgresql.conf` must not change.
    fn forced_settings(&self) -> Vec<(String, String)> {
        let socket = self.socket_dir().to_string_lossy().into_owned();
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        [
            ("unix_socket_directories", socket.as_str()),
            ("listen_addresses", listen),
            ("port", &self.port.to_string()),
            ("logging_collector", "off"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn log_path(&self) -> PathBuf {
        self.place.dir.path().join("log")
    }

    /// The last kilobytes of what the server and its archive and restore commands have written.
    pub fn log_end(&self) -> String {
        let length = fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len());
        self.log_from(length.saturating_sub(SHOWN_LOG))
    }

    fn log_from(&self, offset: u64) -> String {
        let mut bytes = Vec::new();
        let read = File::open(self.log_path()).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("the log cannot be read: {error}"),
        }
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_log();
        }
        if self.postmaster.is_some() && self.stop(StopMode::Immediate).is_err() {
            let _ = self.kill9();
        }
        kill_all_in(&self.data);
        if std::env::var_os(KEEP_ENV).is_some() {
            self.place.dir.disable_cleanup(true);
        }
    }
}

impl PgServer {
    #[expect(clippy::print_stderr, reason = "the test harness shows it beside the panic's own message")]
    fn show_log(&self) {
        eprintln!("end of the log of the server in {}:\n{}", self.data.display(), self.log_end());
    }
}

/// A port that was free a moment ago; a server that loses it to another process fails to start.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Error::Testbench)?;
    listener.local_addr().map(|address| address.port()).map_err(Error::Testbench)
}
