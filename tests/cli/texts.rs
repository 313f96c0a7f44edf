//! The text form of every verb that needs no running server.

use crate::support::{Bench, SEGMENT};

fn shown(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = bench.command(arguments);
    // Nothing waits here, so no agent is started; and commands to paste have no word of it.
    command.env_remove("WALDEN_AGENT");
    let run = bench.finish(command);
    assert_eq!(run.stderr, "", "{arguments:?}");
    format!("$ walden {}\n{}exit code {}\n\n", arguments.join(" "), run.stdout, run.code)
}

#[test]
fn text_of_every_verb() {
    let bench = Bench::new();
    let mut said = shown(&bench, &["init"]);
    said += &shown(&bench, &["init"]);
    said += &shown(&bench, &["wal", "push", &format!("pg_wal/{SEGMENT}")]);
    said += &shown(&bench, &["wal", "list"]);
    said += &shown(&bench, &["wal", "list", "--timeline", "2"]);
    said += &shown(&bench, &["wal", "show", SEGMENT]);
    said += &shown(&bench, &["window"]);
    said += &shown(&bench, &["backup", "list"]);
    said += &shown(&bench, &["server", "show"]);
    said += &shown(&bench, &["server", "adopt"]);
    said += &shown(&bench, &["check"]);
    said += &shown(&bench, &["version"]);
    insta::assert_snapshot!("texts", said);
}

#[test]
fn config_show() {
    let bench = Bench::new();
    std::fs::write(bench.path().join("walden.toml"), "jobs = 2\n[store.s3]\nregion = \"eu-central-1\"\n")
        .unwrap();
    let file = bench.path().join("walden.toml");
    let mut command =
        bench.command(&["--config", file.to_str().unwrap(), "--server", "orders", "config", "show"]);
    command.env("AWS_SECRET_ACCESS_KEY", "sEcReT").env_remove("WALDEN_AGENT");
    let run = bench.finish(command);
    assert!(!run.stdout.contains("sEcReT"));
    // Only the widths of columns depend on the length of the directory.
    let squeezed: Vec<String> =
        run.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    insta::assert_snapshot!("config_show", squeezed.join("\n"));
}

#[test]
fn verbose_tells_what_it_cost() {
    let bench = Bench::with_repository();
    let run = bench.run(&["-v", "wal", "push", &format!("pg_wal/{SEGMENT}")]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""));
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(
        lines[0].starts_with(&format!("walden wal push {SEGMENT}: archived; 1.0 MiB as ")),
        "{}",
        run.stderr
    );
    assert!(lines[1].starts_with("store: 1 put ("), "{}", run.stderr);
}

#[test]
fn colours_only_when_asked_for() {
    let bench = Bench::with_repository();
    let escape = '\u{1b}';
    assert!(!bench.ok(&["version"]).stdout.contains(escape));
    let colored = bench.ok(&["--color", "always", "version"]).stdout;
    assert!(colored.contains(escape));
    let mut command = bench.command(&["--color", "auto", "version"]);
    command.env("NO_COLOR", "1");
    assert!(!bench.finish(command).stdout.contains(escape));
}

#[test]
fn completions_and_manual_pages_know_every_verb() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(bench.ok(&["completions", shell]).stdout.contains("window"), "{shell}");
    }
    assert!(bench.ok(&["man"]).stdout.starts_with(".ie"));
    let pages = bench.path().join("man");
    bench.ok(&["man", pages.to_str().unwrap()]);
    for page in ["walden.1", "walden-wal-push.1", "walden-restore.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}
