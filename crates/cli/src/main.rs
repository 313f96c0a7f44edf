//! The `walden` program: command line in, one call of the engine, output and exit code out.

mod agent;
mod args;
mod commands;
mod config;
mod draw;
mod env;
mod exit;
mod failure;
mod hook;
mod printer;
mod progress;
mod runtime;
mod session;
mod start;
mod text;
mod times;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use crate::exit::Exit;

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    start::tell_panics_in_one_line();
    // A panic would end with 101, which `restore_command` reads as "not in the archive".
    let end = catch_unwind(AssertUnwindSafe(|| start::run(&arguments, started)));
    let (exit, get) = end.unwrap_or_else(|_| (Exit::Internal, hook::probable_get(&arguments)));
    let code = hook::exit_code(exit, get.as_deref());
    // Looked for as it stands, so that it holds for a command line that is not understood, too.
    if arguments.iter().any(|argument| argument == "--on-demand") {
        return exit::code_of_an_orphan(code).into();
    }
    code.into()
}
