//! Making a server: a fresh one by `initdb`, or one over a restored data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use walden_pg::{PgMajor, WalSegmentSize};

use super::account::ServerAccount;
use super::error::{Error, Result};
use super::install::PostgresInstall;
use super::server::{PgServer, Place};

/// Longest time for one step of a server, unless the test says otherwise.
const DEADLINE: Duration = Duration::from_mins(1);

/// Small and quick, since tests run several servers at once; `fsync=off` is safe because tests kill
/// processes and never the machine.
const TEST_SETTINGS: [(&str, &str); 9] = [
    ("shared_buffers", "16MB"),
    ("max_connections", "30"),
    ("fsync", "off"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %b "),
    ("log_checkpoints", "on"),
    ("lc_messages", "C"),
];

/// What a server shall be like. See [`PgServer::builder`].
#[derive(Debug, Clone)]
pub struct PgServerBuilder {
    major: PgMajor,
    segment_size: Option<WalSegmentSize>,
    data_checksums: bool,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    tcp: bool,
    deadline: Duration,
}

impl PgServerBuilder {
    pub(super) fn new(major: PgMajor) -> Self {
        Self {
            major,
            segment_size: None,
            data_checksums: true,
            settings: Vec::new(),
            environment: Vec::new(),
            tcp: false,
            deadline: DEADLINE,
        }
    }

    /// The size of its WAL segments; PostgreSQL's default of 16 MiB when not called.
    #[must_use]
    pub fn wal_segment_size(mut self, size: WalSegmentSize) -> Self {
        self.segment_size = Some(size);
        self
    }

    /// Whether its pages have checksums; they have when not called.
    #[must_use]
    pub fn data_checksums(mut self, on: bool) -> Self {
        self.data_checksums = on;
        self
    }

    /// A setting, as in `postgresql.conf` but without quotes. Settings of a fresh server are written to
    /// that file, so they can be changed later and are part of its backups; those of an adopted data
    /// directory are given on the command line, so they win over what is restored.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Archiving through this command.
    #[must_use]
    pub fn archive_command(self, command: impl Into<String>) -> Self {
        self.setting("archive_mode", "on").setting("archive_command", command)
    }

    /// A variable of its environment, which archive and restore commands inherit.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Listen on a free port of 127.0.0.1 too.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// The longest time that starting, stopping, one statement or one wait may take; 60 s when not called.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Creates the server and starts it.
    ///
    /// # Errors
    /// As [`Self::init`] and [`PgServer::start`].
    pub fn start(self) -> Result<PgServer> {
        let mut server = self.init()?;
        server.start()?;
        Ok(server)
    }

    /// Creates the server by `initdb` and does not start it.
    ///
    /// # Errors
    /// [`Error::Testbench`] when this major is not installed; [`Error::Program`] when `initdb` fails.
    pub fn init(self) -> Result<PgServer> {
        let place = self.place()?;
        let data = place.dir.path().join("data");
        self.initdb(&place, &data)?;
        let mut text = String::from("\n# Settings of the test.\n");
        let wanted = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in TEST_SETTINGS.into_iter().chain(wanted) {
            text.extend([name, " = '", &value.replace('\'', "''"), "'\n"]);
        }
        let file = data.join("postgresql.conf");
        append(&file, &text)?;
        PgServer::new(place, data, Vec::new(), self.environment, self.tcp, self.deadline)
    }

    /// Takes over a data directory that something else has made, such as a restore: gives it to the
    /// server's account with the mode that PostgreSQL wants. It is not removed when the server is dropped.
    ///
    /// # Errors
    /// [`Error::Testbench`] when this major is not installed; [`Error::Io`] when the directory cannot be
    /// given away.
    pub fn adopt(self, data: impl Into<PathBuf>) -> Result<PgServer> {
        let data = data.into();
        let place = self.place()?;
        place.account.own(&data)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&data, private).map_err(|e| Error::io("close", &data, e))?;
        PgServer::new(place, data, self.settings, self.environment, self.tcp, self.deadline)
    }

    fn place(&self) -> Result<Place> {
        let account = ServerAccount::current()?;
        Ok(Place { install: PostgresInstall::find(self.major)?, account, dir: account.temp_dir()? })
    }

    fn initdb(&self, place: &Place, data: &Path) -> Result<()> {
        let mut command = Command::new(place.install.bin().join("initdb"));
        command.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        command.arg("--no-sync");
        if let Some(size) = self.segment_size {
            command.arg(format!("--wal-segsize={}", size.bytes() >> 20));
        }
        if self.data_checksums {
            command.arg("--data-checksums");
        } else if self.major >= PgMajor::V18 {
            command.arg("--no-data-checksums");
        }
        place.account.run(&mut command).stdin(Stdio::null()).current_dir(place.dir.path());
        let output = command.output().map_err(|e| Error::io("start", place.install.bin(), e))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(Error::Program {
            program: "initdb".to_owned(),
            status: output.status,
            output: String::from_utf8_lossy(&said).into_owned(),
        })
    }
}

fn append(file: &Path, text: &str) -> Result<()> {
    let mut content = fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
    content.push_str(text);
    // Written in place: the file keeps its owner.
    fs::write(file, content).map_err(|e| Error::io("write", file, e))
}
