//! From the arguments to the verb: parsing, settings, and what to say when either fails.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::error::{ContextKind, ErrorKind as ClapErrorKind};
use tracing_subscriber::EnvFilter;
use walden_store::Environment;

use crate::args::{Cli, ColorChoice, OutputFormat, Verb, WalVerb};
use crate::commands;
use crate::config::{Flags, load};
use crate::env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::hook::{self, Hook};
use crate::printer::{Printer, Verbosity, log_line};
use crate::session::Session;

/// Runs a command line; returns how it ended and, for `wal get`, the destination that it was given.
pub(crate) fn run(arguments: &[OsString], started: Instant) -> (Exit, Option<PathBuf>) {
    match Cli::parse_arguments(arguments) {
        Ok(cli) => {
            let get = match &cli.verb {
                Verb::Wal(WalVerb::Get(asked)) => Some(asked.destination.clone()),
                _ => None,
            };
            (run_parsed(cli, started), get)
        }
        Err(error) => {
            let helped = matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion);
            let exit = tell_usage(&error, arguments);
            (exit, (!helped).then(|| hook::probable_get(arguments)).flatten())
        }
    }
}

fn run_parsed(cli: Cli, started: Instant) -> Exit {
    let environment = Environment::of_process();
    let common = &cli.common;
    let verbosity = match (common.quiet, common.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, _) => Verbosity::Verbose,
    };
    let no_color = environment.get(env::NO_COLOR).is_some();
    let printer = Printer::new(common.output, common.color, verbosity, no_color).with_terminal(&environment);
    let log = Log { verbosity, verbose: common.verbose, is_kept: cli.verb.keeps_a_log() };
    log.start(common.color.is_used(std::io::stderr().is_terminal(), no_color), &environment);
    let hook = Hook::of(&cli.verb);
    let result = cli
        .verb
        .check_output(common.output)
        .and_then(|()| cli.verb.zone())
        .and_then(|zone| open_session(&cli, printer.clone().with_zone(zone), environment, started))
        .and_then(|session| commands::run(&session, cli.verb));
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            tell_failure(&printer, &failure, hook.as_ref());
            failure.exit()
        }
    }
}

/// Hooks of PostgreSQL get one line for the server log, everybody else the whole story.
fn tell_failure(printer: &Printer, failure: &Failure, hook: Option<&Hook>) {
    match hook.filter(|_| printer.format() != OutputFormat::Json) {
        Some(hook) => log_line(&hook.line(failure)),
        None => printer.failure(failure),
    }
}

fn open_session(
    cli: &Cli,
    printer: Printer,
    environment: Environment,
    started: Instant,
) -> Result<Session, Failure> {
    let mut flags = Flags::default();
    flags.set("repo", "--repo", cli.common.repo.as_deref());
    flags.set("server", "--server", cli.common.server.as_deref());
    flags.set("agent.start", "--no-agent", cli.common.no_agent.then_some("off"));
    cli.verb.add_flags(&mut flags)?;
    let effective = load(cli.common.config.as_deref(), &environment, flags)?;
    Ok(Session::new(printer, effective, environment, cli.common.config.clone(), started))
}

/// Diagnostic messages on stderr.
#[derive(Debug, Clone, Copy)]
struct Log {
    verbosity: Verbosity,
    /// How often more was asked for.
    verbose: u8,
    /// What keeps a log tells there what happens.
    is_kept: bool,
}

impl Log {
    /// Messages are set up only where they are asked for: hooks start a hundred times a minute.
    fn start(self, colored: bool, environment: &Environment) {
        let filter = environment.get(env::LOG);
        if filter.is_none() && self.verbose < 2 && !self.is_kept {
            return;
        }
        let default = self.default_filter();
        let filter =
            EnvFilter::try_new(filter.unwrap_or(default)).unwrap_or_else(|_| EnvFilter::new(default));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colored);
        // Fails only when a subscriber is there already.
        drop(log.with_writer(std::io::stderr).try_init());
    }

    fn default_filter(self) -> &'static str {
        match (self.verbosity, self.verbose) {
            (Verbosity::Quiet, _) => "error",
            (_, 0 | 1) => "walden=info",
            (_, 2) => "walden=debug,walden_engine=debug,walden_store=debug",
            _ => "trace",
        }
    }
}

/// Prints what clap has to say: help and version to stdout, the rest as a failure.
fn tell_usage(error: &clap::Error, arguments: &[OsString]) -> Exit {
    if matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion) {
        drop(error.print());
        return Exit::Done;
    }
    let format = if wants_json(arguments) { OutputFormat::Json } else { OutputFormat::Text };
    let printer =
        Printer::new(format, ColorChoice::Auto, Verbosity::Normal, std::env::var_os(env::NO_COLOR).is_some());
    let failure = usage_failure(error);
    match (format, Hook::probable(arguments)) {
        (OutputFormat::Json, _) => printer.failure(&failure),
        (_, Some(hook)) => log_line(&hook.line(&failure)),
        (_, None) => drop(error.print()),
    }
    Exit::Usage
}

fn wants_json(arguments: &[OsString]) -> bool {
    let mut pairs = arguments.iter().zip(arguments.iter().skip(1));
    arguments.iter().any(|argument| argument == OsStr::new("--output=json"))
        || pairs.any(|(option, value)| option == OsStr::new("--output") && value == OsStr::new("json"))
}

/// clap's error in one sentence and one hint.
fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = match error.kind() {
        // Its text is the whole help.
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command is given",
        _ => lines.next().unwrap_or("the command line is not understood"),
    };
    let message: String = std::iter::once(message.trim_start_matches("error: "))
        .chain(lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("tip:")))
        .take(4)
        .collect::<Vec<_>>()
        .join(" ");
    let suggestion =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(|kind| error.get(kind))
            .map(|value| format!("did you mean {value}?"));
    Failure::usage(message).with_hint(suggestion.unwrap_or_else(|| "walden --help".to_owned()))
}

/// A panic is a defect: told in one line, without a stack that would fill a server log.
pub(crate) fn tell_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let line = format!("error: internal error: {} at={place}\n", crate::failure::one_line(message));
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }));
}
