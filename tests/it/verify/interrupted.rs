//! What is proven is kept, whatever ends a run; samples and budgets are kept to; a run leaves a record when asked to.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use walden_pg::PgMajor;

use super::archive::{Archive, Copy, Verified};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// The bytes that are remembered.
fn remembered(copy: &Copy) -> u64 {
    let directory = copy.state().join("verify");
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let proofs =
        entries.map(Result::unwrap).filter(|entry| entry.path().extension() == Some("proofs".as_ref()));
    proofs.map(|entry| entry.metadata().unwrap().len()).sum()
}

/// Begins a slow run, and ends it by a signal when it has proven something.
fn interrupt(copy: &Copy, signal: Signal) -> std::process::Output {
    let before = remembered(copy);
    let mut command = copy.walden.command(&[
        "verify",
        "--jobs",
        "1",
        "--max-rate",
        "400kB",
        "--max-age",
        "1d",
        "--output",
        "json",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while remembered(copy) < before + 4 * 40 {
        assert!(begin.elapsed() < Duration::from_mins(1), "nothing was proven");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_run_goes_on_where_another_was_ended() {
    let archive = Archive::local(PgMajor::V17);
    let copy = archive.copy();
    let killed = interrupt(&copy, Signal::SIGKILL);
    assert_eq!(killed.status.code(), None);
    let asked = Verified::of(&interrupt(&copy, Signal::SIGINT));
    assert_eq!(asked.code, 23, "{:#}", asked.report);
    assert_eq!(asked.report["stopped"], "interrupted");
    assert_eq!(asked.report["complete"], false);
    assert!(number(&asked.report["plan"]["fresh"]["objects"]) >= 4, "what the killed run had proven");
    assert!(number(&asked.report["not_reached"]["objects"]) > 0);
    let last = copy.verify(&["--max-age", "1d"]);
    last.assert_good("the rest");
    assert_eq!(last.report["complete"], true);
    let (fresh, all) = (&last.report["plan"]["fresh"], &last.report["plan"]["in_scope"]);
    assert!(number(&fresh["objects"]) >= 8, "{fresh}");
    assert_eq!(
        number(&fresh["objects"]) + number(&last.report["proven"]["objects"]),
        number(&all["objects"])
    );

    // Damage that came since is found, because the object looks another; damage that keeps its looks is found later.
    let segment = copy.segments(1)[2].clone();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(copy.verify(&["--max-age", "1d"]).code, 27);
    assert_eq!(copy.verify(&["--max-age", "1d"]).code, 27, "what was bad is not remembered as good");

    samples_and_budgets(&archive.copy());
    records(&archive.copy());
}

fn samples_and_budgets(copy: &Copy) {
    let sampled = |seed: &str| {
        let verified = copy.verify(&["--sample", "30%", "--seed", seed, "--jobs", "2"]);
        verified.assert_good("sample");
        verified.report
    };
    let first = sampled("1");
    assert_eq!((&first["seed"], first["complete"].as_bool()), (&Value::from(1), Some(false)));
    assert!(number(&first["plan"]["unsampled"]["objects"]) > 0, "{first:#}");
    assert_eq!(first["proven"], first["plan"]["planned"]);
    // Another one proves what the first one did not.
    for seed in ["2", "3", "4", "5"] {
        sampled(seed);
    }
    let rest = copy.verify(&["--max-age", "1d"]);
    assert_eq!(rest.report["proven"]["objects"], 0, "five times 30 % are everything: {:#}", rest.report);

    let half = number(&rest.report["plan"]["in_scope"]["bytes"]) / 2;
    let bounded = copy.verify(&["--max-bytes", &half.to_string()]);
    bounded.assert_good("budget");
    assert!(number(&bounded.report["bytes_read"]) <= half, "{:#}", bounded.report);
    assert!(number(&bounded.report["plan"]["over_budget"]["objects"]) > 0);
    let deep = copy.verify(&["--level", "deep", "--max-bytes", &half.to_string()]);
    assert!(number(&deep.report["bytes_read"]) <= half, "{:#}", deep.report);
    let late = copy.verify(&["--max-time", "1s", "--max-rate", "300kB"]);
    assert_eq!((late.code, &late.report["stopped"]), (0, &Value::from("max_time")), "{:#}", late.report);
    assert!(number(&late.report["not_reached"]["objects"]) > 0);
}

fn records(copy: &Copy) {
    assert_eq!(copy.verify(&["--level", "presence"]).report["record"], Value::Null);
    assert!(copy.objects("/verify/").is_empty());
    let verified = copy.verify(&["--record"]);
    let key = verified.report["record"].as_str().unwrap();
    assert!(copy.root.join(key).try_exists().unwrap(), "{key}");
    let again = copy.verify(&["--level", "presence"]);
    again.assert_good("records are known");
    assert!(again.findings().is_empty(), "{:#}", again.report);
}
