//! Whole programs side by side on one object store. Run by `cargo xtask bench`, which installs the peers, builds
//! `walden` and this, and explains the options.
//!
//! It starts itself several times: `serve` is the object store and `proxy` the long way to it, so that neither's CPU
//! time is counted as anybody's; `worker` runs one case ([`walden_testkit::bench::worker`]).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it reports to a person")]

mod cases;
mod options;
mod programs;
mod publish;
mod records;
mod tables;
mod tools;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use walden_testkit::bench::delay::DelayProxy;
use walden_testkit::bench::store::BenchStore;
use walden_testkit::bench::worker;

/// Whatever stops the bench, for the person who started it.
type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of everything here.
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve"] => serve(),
        ["proxy", target, milliseconds] => proxy(target, milliseconds),
        ["worker"] => work(),
        ["run", ..] => options::parse(arguments.get(1..).unwrap_or_default()).and_then(|o| cases::run(&o)),
        _ => Err("run it as `cargo xtask bench`".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The object store: says where it is, then does what it is told, a line for a line.
fn serve() -> Result<()> {
    let store = BenchStore::start()?;
    let mut out = std::io::stdout();
    writeln!(out, "http://{}", store.address())?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let answer = match line.split_once(' ') {
            Some(("make", bucket)) => {
                store.make_bucket(bucket);
                String::new()
            }
            Some(("drop", bucket)) => {
                store.drop_bucket(bucket);
                String::new()
            }
            Some(("requests", bucket)) => serde_json::to_string(&store.take_requests(bucket))?,
            _ => return Err(format!("the store does not know: {line}").into()),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn proxy(target: &str, milliseconds: &str) -> Result<()> {
    let proxy = DelayProxy::start(target.parse()?, Duration::from_millis(milliseconds.parse()?))?;
    writeln!(std::io::stdout(), "http://{}", proxy.address())?;
    // Until the one who started it goes away.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn work() -> Result<()> {
    let case = serde_json::from_reader(std::io::stdin().lock())?;
    let outcome = worker::run(&case)?;
    serde_json::to_writer(std::io::stdout().lock(), &outcome)?;
    Ok(())
}
