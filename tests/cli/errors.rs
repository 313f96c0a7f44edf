//! What a person is told when something is wrong, and what a program is told.

use crate::support::Bench;

fn told(bench: &Bench, arguments: &[&str]) -> String {
    let run = bench.run(arguments);
    assert_eq!(run.stdout, "", "{arguments:?}");
    assert!(!run.stderr.contains("sEcReT"), "{}", run.stderr);
    format!("$ walden {}\n{}exit code {}\n\n", arguments.join(" "), run.stderr, run.code)
}

fn told_as_json(bench: &Bench, arguments: &[&str]) -> String {
    let run = bench.run(arguments);
    assert_eq!(run.stderr, "", "{arguments:?}");
    format!("$ walden {}\n{}exit code {}\n\n", arguments.join(" "), run.stdout, run.code)
}

#[test]
fn error_texts() {
    let bench = Bench::with_segment();
    let said: String = [
        &["--repo", "file:///nowhere/at/all", "check"][..],
        &["--repo", "backups", "check"],
        &["--repo", "s3://key:sEcReT@bucket/x", "check"],
        &["--server", "a b", "check"],
        &["--server", "other", "window"],
        &["init", "--pgdata", "/nowhere"],
        &["check", "--pgdata", "/nowhere"],
        &["plan"],
        &["plan", "--target-time", "2026-11-20 14:31:58"],
        &["plan", "--target-time", "2026-10-25 02:30", "--timezone", "Europe/Berlin"],
        &["plan", "--target-time", "2026-11-20 14:31:58", "--timezone", "CEST"],
        &["plan", "--target-timeline", "00000010"],
        &["plan", "--target-lsn", "16"],
        &["plan", "--target-lsn", "0/1", "--target-xid", "7"],
        &["plan", "--timezone", "UTC"],
        &["plan", "--target-time", "now"],
        &["plan", "--restore-rate", "0"],
        &["window", "--output", "cnpg"],
        &["restore", "--pgdata", "/nowhere", "--output", "postgres"],
        &["wal", "show", "00000001000000000000000C"],
        &["wal", "show", "rubbish"],
        &["backup", "show", "latest"],
        &["backup", "list", "--incarnation", "7-17"],
        &["backup", "list", "--incarnation", "seven"],
        &["backup", "create", "-d", "postgres://u:sEcReT@h/d"],
        &["check", "--dbname", "host=h password = sEcReT"],
        &["restor"],
        &["restore"],
    ]
    .iter()
    .map(|arguments| told(&bench, arguments))
    .collect();
    insta::assert_snapshot!("errors", said);
}

#[test]
fn errors_for_programs_are_json_on_stdout() {
    let bench = Bench::with_segment();
    let said: String = [
        &["--output", "json", "--server", "other", "window"][..],
        &["--output=json", "plan"],
        &["restor", "--output", "json"],
        &["--output", "json", "wal", "push", "pg_wal/x"],
    ]
    .iter()
    .map(|arguments| told_as_json(&bench, arguments))
    .collect();
    insta::assert_snapshot!("errors_json", said);
}

#[test]
fn a_setting_that_is_wrong_names_its_place() {
    let bench = Bench::new();
    let file = bench.path().join("walden.toml");
    std::fs::write(&file, "server = \"main\"\n[wal]\npush_dedline = \"3s\"\n").unwrap();
    let said = told(&bench, &["--config", file.to_str().unwrap(), "config", "show"]);
    insta::assert_snapshot!("setting_error", said.replace(bench.path().to_str().unwrap(), "[DIR]"));
}

#[test]
fn quiet_says_nothing_but_errors() {
    let bench = Bench::with_segment();
    let mut command = bench.command(&["-q", "config", "show"]);
    command.env("WALDEN_REPOSITORY", "x");
    assert_eq!(bench.finish(command).stderr, "");
    let mut command = bench.command(&["config", "show"]);
    command.env("WALDEN_REPOSITORY", "x");
    assert_eq!(
        bench.finish(command).stderr,
        "warning: environment variable WALDEN_REPOSITORY means nothing to walden\n"
    );
}
