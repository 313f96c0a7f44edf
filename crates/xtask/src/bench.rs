//! `cargo xtask bench`: whole programs, side by side, and the figures of `docs/benchmarks.md`.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::setup::peers::{self, Peers};
use crate::test::cargo;
use crate::{paths, proc, setup};

const HELP: &str = r#"Measure walden beside pgBackRest and Barman Cloud: whole programs, in turns, on one object store

Usage: cargo xtask bench [WHAT]... [OPTIONS]

What (all but `program` unless said):
  push      Archive a backlog, file by file as PostgreSQL does: MiB/s, CPU, requests, p50/p99 of a call, memory
  fetch     Fetch it in order as recovery does, and compare the bytes
  replay    Fetch it in order with a core busy for a while after each file, as replay keeps it: p50/p99 of a call
  absent    Ask for segments that are not in the archive
  acked     Ask for files that were archived ahead of being asked (tools that work ahead)
  latency   Push to a store whose every request takes longer
  paced     Search the largest rate that each tool holds without a growing queue (measures push too)
  start     Print the version
  program   walden alone: the hooks, a backup and a restore, on a directory and on S3

Options:
  --segments N        Segments of 16 MiB in a case [64]
  --slow-segments N   The same for slow tools (Barman Cloud) [16]
  --rounds N          Repetitions, all tools in turn; medians are told [3]
  --delay MS          Added to every request by `latency` [30]
  --replay-ms N       So long a core is busy after each file of `replay`; with `fetch`, measures `replay` too [40]
  --steps N           Steps of the search of `paced` [6]
  --tools A,B         Only tools whose names begin so, such as "Walden,pgBackRest async"
  --no-peers          Only walden and what --peer names
  --peer wal-g=PATH   WAL-G's program takes part; may be given more than once
  --peer-file FILE    A tool described in a file takes part (see below)
  --walden PATH       Measure this program instead of building one
  --publish           Write the tables and charts into docs/benchmarks.md and docs/benchmarks/
  --quick             A smoke run: 6 segments, 1 round, installs no peer that is missing
  --scale N           pgbench's scale of `program` [50]

Peers are installed into the test bench when a run first asks for them (pgBackRest from Debian's mirror, Barman Cloud
from PyPI); one that can't be is left out, and the report says so. The report is shown, and written to
target/bench/bench.json and target/bench/*.svg. Run it on a machine that does nothing else.

A file for --peer-file; {endpoint}, {bucket}, {access_key}, {secret_key}, {home} and {data} are replaced, %f and %p are
PostgreSQL's; all but name, push and fetch may be left out:
  {"name": "some tool", "version": "/opt/tool --version", "prepare": ["/opt/tool init"], "push": "/opt/tool push %p",
   "fetch": "/opt/tool fetch %f %p", "stop": "/opt/tool stop", "environment": {"AWS_ENDPOINT": "{endpoint}"},
   "slow": false, "works_ahead": false}

Examples:
  cargo xtask bench
  cargo xtask bench push fetch --rounds 5 --tools Walden,pgBackRest
  cargo xtask bench --quick
  cargo xtask bench --peer wal-g=/usr/local/bin/wal-g --publish
"#;

/// What can be measured side by side, in order.
const WHAT: [&str; 8] = ["push", "fetch", "replay", "absent", "acked", "latency", "paced", "start"];
/// What `replay` takes for a segment unless said. PostgreSQL 17 takes half of that for pgbench's WAL when it waits for no
/// disk, and on a server with two cores the other half is what is left to the program beside it.
const REPLAY_MS: usize = 40;
/// Walden alone.
const PROGRAM: &str = "program";

#[derive(Debug, PartialEq, Eq, Clone)]
struct Options {
    help: bool,
    what: Vec<String>,
    segments: usize,
    slow_segments: usize,
    rounds: usize,
    delay: usize,
    replay: Option<usize>,
    steps: usize,
    scale: usize,
    tools: Option<String>,
    no_peers: bool,
    peers: Vec<String>,
    peer_files: Vec<PathBuf>,
    walden: Option<PathBuf>,
    publish: bool,
    quick: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            help: false,
            what: Vec::new(),
            segments: 64,
            slow_segments: 16,
            rounds: 3,
            delay: 30,
            replay: None,
            steps: 6,
            scale: 50,
            tools: None,
            no_peers: false,
            peers: Vec::new(),
            peer_files: Vec::new(),
            walden: None,
            publish: false,
            quick: false,
        }
    }
}

/// Runs the task from the command line.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    let bench = setup::ensure()?;
    let walden = match &options.walden {
        Some(path) => path.clone(),
        None => built(&["--package", "walden", "--bin", "walden"], "walden")?,
    };
    if options.what.iter().any(|what| what == PROGRAM) {
        let measure = built(&["--package", "walden-testkit", "--example", "measure"], "examples/measure")?;
        let mut command = std::process::Command::new(measure);
        command.arg(&walden).arg(options.scale.to_string()).env(paths::TESTBENCH_ENV, bench.dir());
        proc::loud(command.current_dir(paths::workspace()?))?;
    }
    if options.what.iter().all(|what| what == PROGRAM) && !options.what.is_empty() {
        return Ok(());
    }
    let suite = built(&["--package", "walden-testkit", "--example", "bench"], "examples/bench")?;
    let peers = if options.no_peers { Peers::default() } else { peers::ensure(bench.dir(), !options.quick)? };
    let mut command = std::process::Command::new(suite);
    command.args(passed_on(&options, &walden, &peers, &typed(arguments))?);
    command.env(paths::TESTBENCH_ENV, bench.dir()).current_dir(paths::workspace()?);
    proc::loud(&mut command)
}

/// Builds a release program and returns its path.
fn built(which: &[&str], file: &str) -> Result<PathBuf> {
    proc::loud(cargo()?.args(["build", "--release", "--locked"]).args(which))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let target = target.unwrap_or_else(|| PathBuf::from("target"));
    // A relative target directory is the workspace's.
    Ok(paths::workspace()?.join(target).join("release").join(file))
}

fn typed(arguments: &[String]) -> String {
    let words = arguments.iter().map(|word| proc::quoted(word));
    ["cargo xtask bench".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    // The numbers of a smoke run, unless others are said.
    if arguments.iter().any(|argument| argument == "--quick") {
        options = Options { quick: true, segments: 6, slow_segments: 2, rounds: 1, steps: 2, ..options };
    }
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            let value = rest.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
            Ok::<_, Failure>(value.clone())
        };
        match argument.as_str() {
            "--help" | "-h" => options.help = true,
            "--quick" => {}
            "--publish" => options.publish = true,
            "--no-peers" => options.no_peers = true,
            "--segments" => options.segments = number(argument, &value()?, 4)?,
            "--slow-segments" => options.slow_segments = number(argument, &value()?, 1)?,
            "--rounds" => options.rounds = number(argument, &value()?, 1)?,
            "--delay" => options.delay = number(argument, &value()?, 0)?,
            "--replay-ms" => options.replay = Some(number(argument, &value()?, 0)?),
            "--steps" => options.steps = number(argument, &value()?, 1)?,
            "--scale" => options.scale = number(argument, &value()?, 1)?,
            "--tools" => options.tools = Some(value()?),
            "--walden" => options.walden = Some(absolute(&value()?, argument)?),
            "--peer-file" => options.peer_files.push(absolute(&value()?, argument)?),
            "--peer" => options.peers.push(peer(&value()?)?),
            what if WHAT.contains(&what) || what == PROGRAM => options.what.push(what.to_owned()),
            other => {
                return Err(Failure::new(format!("unknown: {other}; see `cargo xtask bench --help`")));
            }
        }
    }
    Ok(options)
}

fn number(name: &str, text: &str, least: usize) -> Result<usize> {
    let number = text.parse().ok().filter(|number| *number >= least);
    number.ok_or_else(|| Failure::new(format!("{name} needs a number from {least}, not {text:?}")))
}

fn absolute(path: &str, name: &str) -> Result<PathBuf> {
    Path::new(path).canonicalize().map_err(|error| Failure::new(format!("{name} {path}: {error}")))
}

/// `NAME=PATH` with an existing file.
fn peer(text: &str) -> Result<String> {
    let (name, path) = text
        .split_once('=')
        .ok_or_else(|| Failure::new(format!("--peer needs NAME=PATH, such as wal-g=/path, not {text:?}")))?;
    Ok(format!("{name}={}", absolute(path, "--peer")?.display()))
}

/// The words for the suite, which takes pairs of names and values.
fn passed_on(options: &Options, walden: &Path, peers: &Peers, typed: &str) -> Result<Vec<String>> {
    let mut what: Vec<&str> = options.what.iter().map(String::as_str).filter(|w| *w != PROGRAM).collect();
    if what.is_empty() {
        what = WHAT.to_vec();
    }
    // The search begins at the rate with a backlog.
    if what.contains(&"paced") && !what.contains(&"push") {
        what.push("push");
    }
    if options.replay.is_some() && what.contains(&"fetch") && !what.contains(&"replay") {
        what.push("replay");
    }
    let text = |path: &Path| path.display().to_string();
    let mut pairs = vec![
        ("--walden", text(walden)),
        ("--what", what.join(",")),
        ("--segments", options.segments.to_string()),
        ("--slow-segments", options.slow_segments.min(options.segments).to_string()),
        ("--rounds", options.rounds.to_string()),
        ("--delay", options.delay.to_string()),
        ("--replay-ms", options.replay.unwrap_or(REPLAY_MS).to_string()),
        ("--steps", options.steps.to_string()),
        ("--output", text(&paths::workspace()?.join("target/bench"))),
        ("--typed", typed.to_owned()),
    ];
    pairs.extend(options.tools.iter().map(|tools| ("--tools", tools.clone())));
    pairs.extend(options.peers.iter().map(|peer| ("--peer", peer.clone())));
    pairs.extend(options.peer_files.iter().map(|file| ("--peer-file", text(file))));
    pairs.extend(peers.pgbackrest.iter().map(|path| ("--pgbackrest", text(path))));
    pairs.extend(peers.barman.iter().map(|path| ("--barman", text(path))));
    pairs.extend(peers.missing.iter().map(|(name, why)| ("--missing", format!("{name}={why}"))));
    if options.publish {
        pairs.push(("--publish", text(&paths::workspace()?.join("docs"))));
    }
    let words = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    Ok(std::iter::once("run".to_owned()).chain(words).collect())
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
        let wanted =
            Options { what: vec!["push".to_owned(), "fetch".to_owned()], rounds: 5, ..Options::default() };
        assert_eq!(options(&["push", "--rounds", "5", "fetch"]).unwrap(), wanted);
        let quick = options(&["--segments", "8", "--quick"]).unwrap();
        assert_eq!((quick.segments, quick.rounds, quick.quick), (8, 1, true));
        for wrong in
            [&["pusch"][..], &["--rounds"], &["--rounds", "0"], &["--peer", "/bin/sh"], &["--walden", "/no"]]
        {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(options(&["--peer", "wal-g=/bin/sh"]).unwrap().peers.len(), 1);
    }

    #[test]
    fn the_suite_is_told_in_pairs() {
        let peers = Peers {
            barman: Some("/b".into()),
            missing: vec![("pgBackRest".to_owned(), "no mirror".to_owned())],
            ..Peers::default()
        };
        let fetch = options(&["fetch", "--replay-ms", "25"]).unwrap();
        let words = passed_on(&fetch, Path::new("/w"), &peers, "typed").unwrap().join(" ");
        assert!(words.contains("--what fetch,replay ") && words.contains("--replay-ms 25 "), "{words}");
        let asked = options(&["paced", "program", "--publish"]).unwrap();
        let words = passed_on(&asked, Path::new("/w"), &peers, "typed").unwrap();
        assert_eq!(words.first().map(String::as_str), Some("run"));
        assert_eq!(words.len() % 2, 1);
        let value = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            words.get(at + 1).map(String::as_str)
        };
        assert_eq!(value("--what"), Some("paced,push"));
        assert_eq!(value("--barman"), Some("/b"));
        assert_eq!(value("--missing"), Some("pgBackRest=no mirror"));
        assert!(value("--publish").unwrap().ends_with("/docs"));
        assert_eq!(value("--pgbackrest"), None);
    }

    #[test]
    fn the_help_names_everything_that_can_be_measured() {
        for what in WHAT {
            assert!(HELP.contains(&format!("\n  {what} ")), "{what}");
        }
    }
}
