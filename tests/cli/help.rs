//! Every help text, as a person sees it.

use std::process::Command;

/// Every verb, as words after `walden`. A verb that is missing here is found by `every_verb_is_covered`.
pub(crate) const VERBS: &[&str] = &[
    "",
    "init",
    "server",
    "server show",
    "server adopt",
    "check",
    "config",
    "config show",
    "wal",
    "wal push",
    "wal get",
    "wal list",
    "wal show",
    "wal find",
    "wal index",
    "wal index rebuild",
    "backup",
    "backup create",
    "backup list",
    "backup show",
    "backup pin",
    "backup unpin",
    "backup delete",
    "retention",
    "retention plan",
    "retention apply",
    "retention log",
    "catalog",
    "catalog show",
    "catalog rebuild",
    "window",
    "plan",
    "restore",
    "drill",
    "drill list",
    "drill show",
    "drill report",
    "verify",
    "agent",
    "agent status",
    "agent stop",
    "completions",
    "man",
    "version",
];

fn help(verb: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walden"));
    command.env_clear().env("COLUMNS", "100").args(verb.split_whitespace()).arg("--help");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_help_text() {
    for verb in VERBS {
        let name = if verb.is_empty() { "walden".to_owned() } else { verb.replace(' ', "_") };
        insta::assert_snapshot!(format!("help_{name}"), help(verb));
    }
}

#[test]
fn every_verb_is_covered() {
    let mut found = vec![String::new()];
    let mut next = 0;
    while let Some(verb) = found.get(next).cloned() {
        next += 1;
        let text = help(&verb);
        let commands = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in commands.take_while(|line| !line.is_empty()) {
            // A verb's line is indented by two; what goes on below a long description by more.
            let Some(word) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
            let word = word.split_whitespace().next().unwrap();
            found.push(format!("{verb} {word}").trim().to_owned());
        }
    }
    found.sort();
    let mut known: Vec<String> = VERBS.iter().map(|verb| (*verb).to_owned()).collect();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn every_verb_that_works_has_examples() {
    for verb in VERBS {
        let text = help(verb);
        if !text.contains("Commands:") || verb.is_empty() {
            assert!(text.contains("Examples:") || *verb == "version", "{verb}");
        }
    }
}
