//! The program as the archive of a history, and as the planner over it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use walden_pg::Lsn;
use walden_testkit::history::{Archive, BackupTaken};
use walden_testkit::postgres::{Error, PgServer, PgServerBuilder, Result, ServerAccount};

/// The server's name in every repository here.
const SERVER: &str = "main";

/// Files that a restore writes for its own recovery, and that no other recovery may meet.
const OF_ONE_RECOVERY: [&str; 1] = ["recovery.signal"];

/// The program, for one repository.
pub(crate) struct Walden {
    program: PathBuf,
    account: ServerAccount,
    pub(crate) repository: PathBuf,
    home: PathBuf,
    /// The clock that backups are taken by: that of the server.
    clock: Vec<(String, String)>,
}

/// What the planner said.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It can be done.
    Plan(Value),
    /// It can't.
    Refusal(Value),
    /// The program failed otherwise.
    Failure(String),
}

impl Walden {
    /// Over a repository in a directory; what the program keeps for itself goes below `home`.
    pub(crate) fn new(repository: &Path, home: &Path, clock: Vec<(String, String)>) -> Self {
        let account = ServerAccount::current().unwrap();
        let program = account.executable(Path::new(env!("CARGO_BIN_EXE_walden"))).unwrap();
        for dir in [repository, home] {
            fs::create_dir_all(dir).unwrap();
            account.own(dir).unwrap();
        }
        Self { program, account, repository: repository.into(), home: home.into(), clock }
    }

    fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("WALDEN_REPO", format!("file://{}", self.repository.display())),
            ("WALDEN_SERVER", SERVER.to_owned()),
            // It would change nothing but the load of the machine.
            ("WALDEN_AGENT", "off".to_owned()),
        ]
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        self.account.run(&mut command);
        command.args(arguments).current_dir(&self.home).env("HOME", &self.home).envs(self.variables());
        command
    }

    /// Asks for a plan. `ahead` are variables of a clock for which no commit lies in the future.
    pub(crate) fn plan(&self, arguments: &[String], ahead: &[(String, String)]) -> Answer {
        let fixed = ["plan", "--output", "json"];
        let all: Vec<&str> = fixed.into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let mut command = self.command(&all);
        command.envs(ahead.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap();
        let Ok(mut document) = serde_json::from_slice::<Value>(&output.stdout) else {
            return Answer::Failure(describe(&output));
        };
        if output.status.success() {
            return Answer::Plan(document);
        }
        match document["refusal"].take() {
            Value::Null => Answer::Failure(describe(&output)),
            refusal => Answer::Refusal(refusal),
        }
    }

    /// Where the objects of the only incarnation are.
    pub(crate) fn incarnation(&self) -> PathBuf {
        let server = self.repository.join(SERVER);
        let incarnation = fs::read_dir(server).unwrap().map(|entry| entry.unwrap().path());
        incarnation.into_iter().find(|path| path.join("incarnation.json").is_file()).unwrap()
    }

    fn succeed(mut command: Command) -> Result<Vec<u8>> {
        let output = command.output().map_err(Error::Testbench)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let program = format!("{command:?}");
        Err(Error::Program { program, status: output.status, output: describe(&output) })
    }
}

fn describe(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

impl Archive for Walden {
    fn archiving(&self, builder: PgServerBuilder) -> PgServerBuilder {
        // The program's own clock is not what is tested.
        builder.archive_command(format!("env -u LD_PRELOAD {} wal push %p", self.program.display()))
    }

    fn environment(&self, builder: PgServerBuilder) -> PgServerBuilder {
        self.variables().into_iter().fold(builder, |builder, (name, value)| builder.env(name, value))
    }

    fn created(&self, server: &PgServer) -> Result<()> {
        let mut command = self.command(&["init", "--pgdata", &text(server.data_dir())]);
        server.run_as_server_user(&mut command);
        Self::succeed(command).map(drop)
    }

    fn adopt(&self, data: &Path) -> Result<()> {
        Self::succeed(self.command(&["server", "adopt", "--pgdata", &text(data)])).map(drop)
    }

    fn backup(&self, server: &PgServer, templates: &Path) -> Result<BackupTaken> {
        let mut command = self.command(&["backup", "create", "--output", "json"]);
        server.run_as_server_user(&mut command);
        command.envs(self.clock.iter().map(|(name, value)| (name, value)));
        let report: Value = serde_json::from_slice(&Self::succeed(command)?).unwrap();
        let backup = &report["backup"];
        let id = backup["id"].as_str().unwrap().to_owned();
        let template = templates.join(&id);
        let place = text(&template);
        Self::succeed(self.command(&["restore", "--backup", &id, "--target-immediate", "--pgdata", &place]))?;
        for file in OF_ONE_RECOVERY {
            fs::remove_file(template.join(file)).unwrap();
        }
        fs::write(template.join("postgresql.auto.conf"), "").unwrap();
        Ok(BackupTaken {
            id,
            timeline: u32::try_from(backup["timeline"].as_u64().unwrap()).unwrap().try_into()?,
            start_lsn: lsn(&backup["start_lsn"]).unwrap(),
            stop_lsn: lsn(&backup["stop_lsn"]).unwrap(),
            transactions: backup["next_xid"].as_u64().into_iter().collect(),
            template,
        })
    }

    fn unpack_wal(&self, into: &Path) -> Result<()> {
        unpack(&self.incarnation(), into);
        self.account.own(into)
    }
}

/// Decodes the segments and histories that are not there yet. One that cannot be decoded gets a `.torn` beside it.
fn unpack(incarnation: &Path, into: &Path) {
    let mut objects = Vec::new();
    let mut pending = vec![incarnation.join("wal"), incarnation.join("history")];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let Some(name) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".zst") else {
                continue;
            };
            let wanted = name.len() == 24 || name.ends_with(".history");
            if wanted && !into.join(name).is_file() {
                objects.push((into.join(name), path));
            }
        }
    }
    if objects.is_empty() {
        return;
    }
    let mut zstd = Command::new("zstd");
    zstd.args(["-dqq", "--output-dir-flat"]).arg(into).args(objects.iter().map(|(_, object)| object));
    // It goes on after one that is damaged, and leaves nothing of it.
    let _ = zstd.output().unwrap();
    for (file, _) in objects {
        if !file.is_file() {
            let torn = format!("{}.torn", text(&file));
            fs::write(torn, "").unwrap();
        }
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A position in a JSON document.
pub(crate) fn lsn(value: &Value) -> Option<Lsn> {
    value.as_str()?.parse().ok()
}
