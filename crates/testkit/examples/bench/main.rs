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
use walden_testkit::bench::worker;
use walden_testkit::stores::S3Server;

/// Whatever stops the bench, for the person who started it.
type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of everything here.
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", root] => serve(root),
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

/// The object store: says where it is, then answers every line with the requests since the last one.
fn serve(root: &str) -> Result<()> {
    let server = S3Server::start_in(root.as_ref(), "bucket")?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", server.endpoint())?;
    for line in std::io::stdin().lines() {
        drop(line?);
        let requests = server.take_requests();
        let paths = requests.iter().map(|request| (request.method.as_str(), request.path.as_str()));
        writeln!(out, "{}", serde_json::to_string(&records::counted(paths))?)?;
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
