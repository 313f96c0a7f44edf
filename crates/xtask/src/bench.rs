//! `cargo xtask bench`: the figures of `docs/benchmarks.md`.

use crate::failure::{Failure, Result};
use crate::paths;
use crate::proc;
use crate::setup;
use crate::test::cargo;

const HELP: &str = "\
Measure the program as its users feel it: start-up, the two hooks, a backup and a restore

Usage: cargo xtask bench [SCALE]

SCALE is pgbench's (50 by default, about 750 MB). Builds the release binary, runs it against a local directory and
the in-process S3 server, prints the figures and writes them to target/bench/walden.json.
";

pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let scale = match arguments {
        [] => "50".to_owned(),
        [help] if help == "--help" || help == "-h" => {
            print!("{HELP}");
            return Ok(());
        }
        [scale] if scale.parse::<u32>().is_ok() => scale.clone(),
        _ => return Err(Failure::new("see `cargo xtask bench --help`")),
    };
    let bench = setup::ensure()?;
    proc::loud(cargo()?.args(["build", "--release", "--locked", "--package", "walden"]))?;
    let mut measure = cargo()?;
    measure.args([
        "run",
        "--release",
        "--locked",
        "--package",
        "walden-testkit",
        "--example",
        "measure",
        "--",
    ]);
    measure.args(["target/release/walden", &scale]).env(paths::TESTBENCH_ENV, bench.dir());
    proc::loud(&mut measure)
}
