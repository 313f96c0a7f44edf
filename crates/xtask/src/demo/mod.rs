//! `cargo xtask demo`: the whole story on a throw-away server, told by the commands that it runs.
//!
//! Every line after a `$` is run by a shell exactly as printed, so that it can be typed again.

mod shell;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::setup::{self, Bench};
use crate::{paths, proc};
use shell::Shell;

const HELP: &str = "\
Archive, back up, drop a table and bring it back, on a throw-away server

Usage: cargo xtask demo [--keep] [--release | --walden PATH]

Options:
  --keep          Keep the directory with both clusters and the repository
  --release       Show the optimised program (a longer build)
  --walden PATH   Show this program and build nothing

Prints every command that it runs. Takes less than two minutes after the build. When a step fails, the
directory is kept and its path printed.
";

/// Client programs of the distribution; they work with every server.
const CLIENT_PROGRAMS: [&str; 2] = ["psql", "pgbench"];

/// The account that runs the server when the demo is started by root.
const SERVER_USER: &str = "postgres";

/// What the accident destroys; counted and added up before and after.
const COUNT: &str = r#"psql -At -c "SELECT count(*), sum(abalance), sum(aid::bigint) FROM pgbench_accounts""#;

#[derive(Debug, Default)]
struct Options {
    help: bool,
    keep: bool,
    release: bool,
    walden: Option<PathBuf>,
}

/// Runs the task from the command line.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    let bench = setup::ensure()?;
    let walden = match options.walden {
        Some(program) => program,
        None => build(options.release)?,
    };
    let started = Instant::now();
    let stage = Stage::new(&bench, &walden)?;
    let outcome = stage.play();
    if outcome.is_err() {
        stage.show_logs();
    }
    let kept = options.keep || outcome.is_err();
    stage.clean(kept)?;
    outcome?;
    println!("\nThe demo took {:.0} seconds.", started.elapsed().as_secs_f64());
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => options.help = true,
            "--keep" => options.keep = true,
            "--release" => options.release = true,
            "--walden" => match words.next() {
                Some(path) => options.walden = Some(PathBuf::from(path)),
                None => return Err(Failure::new("--walden needs the path of a program")),
            },
            other => return Err(Failure::new(format!("no option {other}; see `cargo xtask demo --help`"))),
        }
    }
    Ok(options)
}

/// Builds `walden` and returns its path.
fn build(release: bool) -> Result<PathBuf> {
    println!("building walden");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(paths::workspace()?).args([
        "build",
        "--package",
        "walden",
        "--bin",
        "walden",
        "--locked",
    ]);
    let debug_dir = paths::debug_dir()?;
    let dir = if release {
        command.arg("--release");
        debug_dir.with_file_name("release")
    } else {
        debug_dir
    };
    proc::loud(&mut command)?;
    Ok(dir.join("walden"))
}

/// The directory of one demo, and a shell in it.
struct Stage {
    dir: PathBuf,
    shell: Shell,
}

impl Stage {
    /// Makes the directory, with a copy of `walden` that the server's account can run.
    fn new(bench: &Bench, walden: &Path) -> Result<Self> {
        let clients = paths::distribution_bin(&CLIENT_PROGRAMS)
            .ok_or_else(|| Failure::new("no psql and pgbench below /usr/lib/postgresql"))?;
        let account = if paths::is_root() {
            let found = paths::account(SERVER_USER);
            Some(found.ok_or_else(|| Failure::new(format!("no user {SERVER_USER} to run the server as")))?)
        } else {
            None
        };
        // Short, since the path of a socket may have a hundred characters only.
        let dir = PathBuf::from(format!("/tmp/walden-demo-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| Failure::io("create", &dir, &e))?;
        for part in ["bin", "repository"] {
            let part = dir.join(part);
            fs::create_dir(&part).map_err(|e| Failure::io("create", &part, &e))?;
        }
        let program = dir.join("bin/walden");
        fs::copy(walden, &program).map_err(|e| Failure::io("copy", walden, &e))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .map_err(|e| Failure::io("make executable", &program, &e))?;
        if let Some((user, group)) = account {
            for path in [&dir, &dir.join("repository")] {
                chown(path, Some(user), Some(group)).map_err(|e| Failure::io("give away", path, &e))?;
            }
        }
        let servers = bench.postgres_bin(setup::NEWEST_MAJOR);
        let shell = Shell::new(&dir, account, environment(&dir, &[&servers, &clients]))?;
        Ok(Self { dir, shell })
    }

    /// The story.
    fn play(&self) -> Result<()> {
        self.introduce();
        self.server()?;
        self.backup()?;
        let (before, moment) = self.accident()?;
        self.rescue(&moment)?;
        let after = self.shell.run(COUNT)?;
        if after != before {
            return Err(Failure::new(format!("the rows differ: {before} before, {after} after")));
        }
        println!(
            "\nEvery row is back: {after} (rows | sum of balances | sum of keys), as before the accident."
        );
        Ok(())
    }

    fn introduce(&self) {
        println!("\nA throw-away PostgreSQL {} in {}", setup::NEWEST_MAJOR, self.dir.display());
        if paths::is_root() {
            println!("All commands run as the user {SERVER_USER}: runuser -u {SERVER_USER} -- bash");
        }
        println!("Their place and environment:\n  cd {}", self.dir.display());
        for (name, value) in self.shell.environment() {
            println!("  export {name}={}", proc::quoted(value));
        }
    }

    fn server(&self) -> Result<()> {
        chapter("A server that archives with walden");
        let shell = &self.shell;
        shell.run("initdb --username=postgres --auth=trust --no-sync >initdb.log")?;
        shell.run("walden init")?;
        shell.run(SETTINGS)?;
        shell.run("pg_ctl start --wait --silent --log=server.log").map(drop)
    }

    fn backup(&self) -> Result<()> {
        chapter("Load, a base backup while the server works, more load");
        let shell = &self.shell;
        shell.run("pgbench --initialize --quiet --scale=5 2>&1 | tail -n 1")?;
        shell.run("pgbench --client=2 --time=8 --no-vacuum >pgbench.log 2>&1 &")?;
        shell.run("walden backup create")?;
        shell.run(
            "until grep -q '^tps' pgbench.log; do sleep 0.2; done; grep -E '^tps|processed' pgbench.log",
        )?;
        shell.run("walden backup list")?;
        shell.run("walden check").map(drop)
    }

    /// Returns what was counted before, and a moment at which it was still so.
    fn accident(&self) -> Result<(String, String)> {
        chapter("The accident");
        let shell = &self.shell;
        let before = shell.run(COUNT)?;
        let moment = shell.run(r#"psql -At -c "SELECT clock_timestamp()""#)?;
        shell.run(r#"psql -c "DROP TABLE pgbench_accounts""#)?;
        Ok((before, moment))
    }

    fn rescue(&self, moment: &str) -> Result<()> {
        chapter("Back to the moment before");
        let shell = &self.shell;
        shell.run("pg_ctl stop --mode=fast --silent   # archives the rest of the WAL")?;
        shell.run("walden window")?;
        let target = format!("--target-time={}", proc::quoted(moment));
        shell.run(&format!("walden plan {target}"))?;
        shell.run(&format!(
            "walden restore {target} --target-action=promote --pgdata=\"$RESTORED\" --start"
        ))?;
        Ok(())
    }

    /// Shows what may explain a failure.
    fn show_logs(&self) {
        for name in ["server.log", "restored/walden-startup.log"] {
            if let Ok(log) = fs::read_to_string(self.dir.join(name)) {
                let lines: Vec<&str> = log.lines().collect();
                println!("\nend of {}:", self.dir.join(name).display());
                for line in lines.iter().skip(lines.len().saturating_sub(20)) {
                    println!("  | {line}");
                }
            }
        }
    }

    /// Stops what runs, and removes the directory unless it is kept.
    fn clean(self, kept: bool) -> Result<()> {
        self.shell.stop_servers();
        self.shell.dismiss_guard();
        if kept {
            println!("\nkept: {}", self.dir.display());
            return Ok(());
        }
        fs::remove_dir_all(&self.dir).map_err(|e| Failure::io("remove", &self.dir, &e))
    }
}

const SETTINGS: &str = r#"cat >> "$PGDATA/postgresql.conf" <<END
archive_mode = on
archive_command = 'walden wal push %p'
listen_addresses = ''
unix_socket_directories = '$PGHOST'
fsync = off              # this server is thrown away; never do it with yours
END"#;

fn chapter(title: &str) {
    println!("\n== {title}");
}

fn environment(dir: &Path, programs: &[&Path]) -> Vec<(&'static str, String)> {
    let text = |path: &Path| path.display().to_string();
    let mut path = text(&dir.join("bin"));
    for bin in programs {
        path = format!("{path}:{}", text(bin));
    }
    vec![
        ("PATH", format!("{path}:/usr/bin:/bin")),
        ("PGDATA", text(&dir.join("data"))),
        ("RESTORED", text(&dir.join("restored"))),
        ("PGHOST", text(dir)),
        ("PGUSER", "postgres".to_owned()),
        ("PGDATABASE", "postgres".to_owned()),
        ("WALDEN_REPO", format!("file://{}", text(&dir.join("repository")))),
        ("WALDEN_SERVER", "demo".to_owned()),
    ]
}
