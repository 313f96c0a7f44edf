//! The command lines of PostgreSQL's hooks, parsed without the definitions of all other verbs, which take longer to
//! build than everything else that a hook does when the agent has its answer.

use std::ffi::{OsStr, OsString};

use clap::{Parser, Subcommand};

use super::{Cli, CommonArgs, Verb, WalVerb};

/// A part of [`Cli`]: what it accepts, that accepts too, with the same meaning.
#[derive(Debug, Parser)]
#[command(name = "walden", disable_help_subcommand = true, disable_help_flag = true)]
struct HookCli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    verb: HookVerb,
}

#[derive(Debug, Subcommand)]
enum HookVerb {
    #[command(subcommand, disable_help_flag = true, disable_help_subcommand = true)]
    Wal(HookWalVerb),
}

#[derive(Debug, Subcommand)]
enum HookWalVerb {
    #[command(disable_help_flag = true)]
    Push(super::WalPushArgs),
    #[command(disable_help_flag = true)]
    Get(super::WalGetArgs),
}

/// Parses a command line that is one of a hook, and has no errors. `None` for every other one: help and errors are
/// told by the whole definition.
pub(super) fn parse_hook(arguments: &[OsString]) -> Option<Cli> {
    let mut words = arguments.iter().skip_while(|argument| *argument != OsStr::new("wal")).skip(1);
    words.find(|word| *word == OsStr::new("push") || *word == OsStr::new("get"))?;
    let HookCli { common, verb: HookVerb::Wal(verb) } = HookCli::try_parse_from(arguments).ok()?;
    let verb = match verb {
        HookWalVerb::Push(arguments) => WalVerb::Push(arguments),
        HookWalVerb::Get(arguments) => WalVerb::Get(arguments),
    };
    Some(Cli { common, verb: Verb::Wal(verb) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_hook_is_parsed_as_by_the_whole_definition() {
        for line in [
            "walden wal push pg_wal/000000010000000000000003",
            "walden --repo file:///x --server y wal push pg_wal/1 -v",
            "walden wal --output json push --config=/x pg_wal/1 -q",
            "walden --no-agent wal get 000000010000000000000003 pg_wal/RECOVERYXLOG",
            "walden -vv wal get --color never f p",
            "walden wal push -- -odd",
        ] {
            let whole = Cli::try_parse_from(words(line)).unwrap();
            assert_eq!(format!("{:?}", parse_hook(&words(line)).unwrap()), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_whole_definition() {
        for line in [
            "walden",
            "walden wal",
            "walden wal list",
            "walden wal push",
            "walden wal push --help",
            "walden wal push -h x",
            "walden wal help push",
            "walden wal get f",
            "walden wal get f p q",
            "walden wal pus p",
            "walden -q -v wal push p",
            "walden --repo wal push p",
            "walden wal push p --rep x",
            "walden --version wal push p",
        ] {
            assert!(parse_hook(&words(line)).is_none(), "{line}");
        }
    }
}
