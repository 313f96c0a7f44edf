//! `cargo xtask test`: everything that must hold, in one command.

use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::setup::{self, Bench};
use crate::{paths, proc};

const HELP: &str = "\
Check formatting, lints and documentation, build once, and run every test

Usage: cargo xtask test [--all] [FILTER]

Arguments:
  FILTER   Run only the tests whose name holds this text, and skip the checks

Options:
  --all    Run the long campaigns too (WALDEN_CAMPAIGN=1)

The test bench is installed first when it is missing (see `cargo xtask setup --help`). Every step runs
even when an earlier one failed; a summary with the time of each closes the output.
WALDEN_TEST_KEEP=1 keeps the directories of the servers that tests start. WALDEN_SEED=N repeats the histories of the
target `exact`; its campaign tries WALDEN_EXACT_TARGETS=N targets (5000).
The campaign of faults makes WALDEN_FAULT_SEEDS=N worlds (300, with --all 10000); WALDEN_FAULT_SEED=N shows one.
The soak of the agent takes WALDEN_SOAK_SECONDS=N (1200); WALDEN_SOAK_SEED=N repeats one.
";

/// Tells the tests to run their long campaigns too.
const CAMPAIGN_ENV: &str = "WALDEN_CAMPAIGN";

/// What the tests set themselves, so that nothing of the caller's own set-up must reach them.
const FOREIGN_ENV: [&str; 7] =
    ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA", "WALDEN_REPO", "WALDEN_SERVER"];

#[derive(Debug, PartialEq, Eq, Default)]
struct Options {
    help: bool,
    all: bool,
    filter: Option<String>,
}

/// Runs the task from the command line.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    let mut steps = Steps::default();
    let bench = steps.run("set-up", setup::ensure)?;
    if options.filter.is_none() {
        check(&mut steps);
    }
    let built = steps.run("build", || proc::loud(cargo_test(&bench, &options)?.arg("--no-run")));
    if built.is_ok() {
        let _ = steps.run("tests", || {
            let mut command = cargo_test(&bench, &options)?;
            command.arg("--no-fail-fast");
            proc::loud(command.args(&options.filter))
        });
    }
    steps.summary()
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    for argument in arguments {
        match argument.as_str() {
            "--help" | "-h" => options.help = true,
            "--all" => options.all = true,
            other if other.starts_with('-') => {
                return Err(Failure::new(format!("no option {other}; see `cargo xtask test --help`")));
            }
            _ if options.filter.is_some() => {
                return Err(Failure::new("one filter at most; see `cargo xtask test --help`"));
            }
            filter => options.filter = Some(filter.to_owned()),
        }
    }
    Ok(options)
}

/// The steps that need no running of code. Lints and documentation share their build of the dependencies.
fn check(steps: &mut Steps) {
    let _ = steps.run("formatting", || proc::loud(cargo()?.args(["fmt", "--all", "--check"])));
    let _ = steps.run("lints", || {
        proc::loud(cargo()?.args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]))
    });
    let _ = steps.run("documentation", || {
        let mut command = cargo()?;
        command.env("RUSTDOCFLAGS", "-D warnings");
        proc::loud(command.args(["doc", "--workspace", "--no-deps", "--locked"]))
    });
}

/// `cargo test` over the workspace, with what the tests expect around them. Building and running use the
/// same line, so nothing is built twice; the program `walden` is built with the tests that run it.
fn cargo_test(bench: &Bench, options: &Options) -> Result<Command> {
    let mut command = cargo()?;
    command.args(["test", "--workspace", "--locked"]);
    for name in FOREIGN_ENV {
        command.env_remove(name);
    }
    command.env(paths::TESTBENCH_ENV, bench.dir());
    command.env("RUST_BACKTRACE", "1");
    if std::env::var_os("INSTA_UPDATE").is_none() {
        command.env("INSTA_UPDATE", "no");
    }
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // The slow tests wait for servers and deadlines more than they compute.
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        command.env("RUST_TEST_THREADS", (2 * cores).to_string());
    }
    if options.all {
        command.env(CAMPAIGN_ENV, "1");
    } else {
        command.env_remove(CAMPAIGN_ENV);
    }
    Ok(command)
}

pub(crate) fn cargo() -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(paths::workspace()?);
    Ok(command)
}

/// What was run, how long it took, and why it failed.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration, Option<String>)>,
}

impl Steps {
    /// Runs one step and keeps its outcome for the summary.
    fn run<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let started = Instant::now();
        let outcome = work();
        let failure = outcome.as_ref().err().map(Failure::to_string);
        if let Some(reason) = &failure {
            println!("== {name} failed: {reason}");
        }
        self.done.push((name, started.elapsed(), failure));
        outcome
    }

    fn summary(&self) -> Result<()> {
        println!("== summary");
        for (name, elapsed, failure) in &self.done {
            let outcome = if failure.is_none() { "ok" } else { "FAILED" };
            println!("{outcome:<7} {name:<14} {:>7.1} s", elapsed.as_secs_f64());
        }
        let whole: Duration = self.done.iter().map(|(_, elapsed, _)| *elapsed).sum();
        println!("{:<7} {:<14} {:>7.1} s", "", "together", whole.as_secs_f64());
        let failed: Vec<&str> =
            self.done.iter().filter(|(_, _, failure)| failure.is_some()).map(|(name, _, _)| *name).collect();
        if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("failed: {}", failed.join(", ")))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options> {
        parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_understood() {
        assert_eq!(options(&[]).unwrap(), Options::default());
        let wanted = Options { help: false, all: true, filter: Some("push".to_owned()) };
        assert_eq!(options(&["--all", "push"]).unwrap(), wanted);
        assert!(options(&["--al"]).is_err());
        assert!(options(&["one", "two"]).is_err());
    }

    #[test]
    fn one_failed_step_fails_the_whole() {
        let mut steps = Steps::default();
        steps.run("good", || Ok(())).unwrap();
        assert!(steps.summary().is_ok());
        assert!(steps.run("bad", || Err::<(), _>(Failure::new("broken"))).is_err());
        steps.run("good again", || Ok(())).unwrap();
        assert_eq!(steps.summary().unwrap_err().to_string(), "failed: bad");
    }
}
