//! Developer tasks of Walden, run as `cargo xtask TASK`.
//!
//! A build tool: it uses the standard library only, so that it compiles in a few seconds, and it
//! leaves everything else to programs that it starts and names. Nothing here is part of `walden`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a build tool talks to a person")]

mod bench;
mod demo;
mod failure;
mod paths;
mod proc;
mod setup;
mod test;

use std::process::ExitCode;

use crate::failure::{Failure, Result};

const HELP: &str = "\
Developer tasks of Walden

Usage: cargo xtask TASK [OPTIONS]

Tasks:
  setup    Install what the tests and the demo need: client programs, six PostgreSQL majors, store emulators
  test     Check formatting, lints and documentation, build once, and run every test
  demo     Archive, back up, drop a table and bring it back, on a throw-away server
  bench    Measure walden beside other tools: push, fetch, latency, pace; tables, JSON, charts

Every task has --help. What is installed goes into $WALDEN_TESTBENCH, or /var/cache/walden-testbench for
root, or ~/.cache/walden-testbench.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (task, rest) = match arguments.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("--help", arguments),
    };
    match task {
        "setup" => setup::main(rest),
        "test" => test::main(rest),
        "demo" => demo::main(rest),
        "bench" => bench::main(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(Failure::new(format!("no task named {other:?}; `cargo xtask --help` lists them"))),
    }
}
