//! What the end-to-end tests share: repositories on every store, and the program run as Postgres runs it.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use walden_pg::{Lsn, PgMajor};
use walden_testkit::postgres::{PgServer, PgServerBuilder, ServerAccount};

/// A place for a repository, and what the environment must hold to reach it.
pub(crate) struct Repository {
    pub(crate) url: String,
    pub(crate) environment: Vec<(String, String)>,
    /// Where the objects are, when they are files.
    pub(crate) directory: Option<PathBuf>,
    _keep: Box<dyn Any>,
}

impl Repository {
    /// A directory that the server's account owns.
    pub(crate) fn local() -> Self {
        let directory = ServerAccount::current().unwrap().temp_dir().unwrap();
        let path = directory.path().to_path_buf();
        let url = format!("file://{}", path.display());
        Self { url, environment: Vec::new(), directory: Some(path), _keep: Box::new(directory) }
    }

    /// Something that a test started and keeps.
    pub(crate) fn on(url: String, environment: Vec<(String, String)>, keep: impl Any) -> Self {
        Self { url, environment, directory: None, _keep: Box::new(keep) }
    }
}

/// The program, for one server's archive.
pub(crate) struct Walden {
    program: PathBuf,
    account: ServerAccount,
    home: tempfile::TempDir,
    pub(crate) environment: Vec<(String, String)>,
}

impl Walden {
    pub(crate) fn new(repository: &Repository, server: &str) -> Self {
        let account = ServerAccount::current().unwrap();
        // Another build of the program can be tried, such as the one to be released.
        let built =
            std::env::var("WALDEN_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_walden").into());
        let program = account.executable(Path::new(&built)).unwrap();
        let mut environment = repository.environment.clone();
        environment.push(("WALDEN_REPO".into(), repository.url.clone()));
        environment.push(("WALDEN_SERVER".into(), server.into()));
        // What a hook does by itself is what is tested; tests of the agent say otherwise.
        environment.push(("WALDEN_AGENT".into(), "off".into()));
        Self { program, account, home: account.temp_dir().unwrap(), environment }
    }

    /// Sets a variable for everything that is run from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Runs another file than the one that was built.
    pub(crate) fn set_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The archive_command of this archive.
    pub(crate) fn archive_command(&self) -> String {
        format!("{} wal push %p", self.program.display())
    }

    /// A server that will archive here, with everything its hooks need in its environment.
    pub(crate) fn server(&self, major: PgMajor) -> PgServerBuilder {
        let builder = PgServer::builder(major).archive_command(self.archive_command());
        self.environment.iter().fold(builder, |builder, (name, value)| builder.env(name, value))
    }

    /// A server over a restored data directory, with everything its hooks need in its environment.
    pub(crate) fn restored(&self, major: PgMajor, data: &Path) -> PgServer {
        let builder = PgServer::builder(major);
        let builder =
            self.environment.iter().fold(builder, |builder, (name, value)| builder.env(name, value));
        builder.adopt(data).unwrap()
    }

    /// A command of the program, run as the server's account.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        self.account.run(&mut command);
        command.args(arguments).current_dir(self.home.path()).env("HOME", self.home.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Makes another program run as the server's account.
    pub(crate) fn as_server_user(&self, command: &mut Command) {
        self.account.run(command);
    }

    /// The same, beside a running server.
    pub(crate) fn command_at(&self, server: &PgServer, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        server.run_as_server_user(&mut command);
        command
    }

    /// Runs it and takes its JSON; it must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        succeed_json(self.command(&with_json(arguments)))
    }

    /// The same, beside a running server.
    pub(crate) fn json_at(&self, server: &PgServer, arguments: &[&str]) -> Value {
        succeed_json(self.command_at(server, &with_json(arguments)))
    }

    /// Runs it; it must fail with this exit code, and its JSON error is returned.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> Value {
        let output = run(&mut self.command(&with_json(arguments)));
        assert_eq!(output.status.code(), Some(code), "{}", describe(&output));
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", describe(&output)));
        value["error"].clone()
    }

    /// Makes the archive for a server.
    pub(crate) fn init(&self, server: &PgServer) -> Value {
        self.json_at(server, &["init", "--pgdata", server.data_dir().to_str().unwrap()])
    }
}

fn with_json<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--output", "json"]].concat()
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(crate) fn describe(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn succeed_json(mut command: Command) -> Value {
    let output = run(&mut command);
    assert!(output.status.success(), "{command:?}\n{}", describe(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", describe(&output)))
}

/// One committed row, and everything that can name the moment after it.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// Rows in the table after it.
    pub(crate) rows: i64,
    pub(crate) xid: u64,
    /// The end of WAL after the commit.
    pub(crate) lsn: Lsn,
    /// A time after this commit and before the next.
    pub(crate) time: String,
}

/// Commits rows one by one, each a transaction of its own, and remembers the moment after each.
pub(crate) fn commit_rows(server: &PgServer, count: usize) -> Vec<Mark> {
    let session = server.session().unwrap();
    session
        .execute("CREATE TABLE IF NOT EXISTS walden_marks (id bigserial PRIMARY KEY, payload text)")
        .unwrap();
    (0..count)
        .map(|_| {
            session.execute("INSERT INTO walden_marks (payload) VALUES (repeat('x', 100))").unwrap();
            Mark {
                rows: session.value("SELECT count(*) FROM walden_marks").unwrap(),
                xid: session.value("SELECT xmin FROM walden_marks ORDER BY id DESC LIMIT 1").unwrap(),
                lsn: session.value("SELECT pg_current_wal_insert_lsn()").unwrap(),
                time: session.value("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')").unwrap(),
            }
        })
        .collect()
}

/// The rows of [`commit_rows`] in a server.
pub(crate) fn count_rows(server: &PgServer) -> i64 {
    server.value("SELECT count(*) FROM walden_marks").unwrap()
}
