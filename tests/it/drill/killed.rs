//! Drills that are ended in the middle: politely, and not.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use walden_pg::PgMajor;
use walden_testkit::postgres::ClientPrograms;

use super::Bench;

const PATIENCE: Duration = Duration::from_mins(1);

fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a drill that stays at its assertions, and waits for its server. Returns the postmaster too.
fn start(bench: &Bench) -> (Child, PathBuf, Pid) {
    let slow = bench.file("slow.sql", "SELECT pg_sleep(1000) IS NOT NULL");
    let mut command = bench.command(&["--sql", slow.to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let directory = wait_for("the directory", || bench.directories().pop());
    let postmaster = wait_for("the server", || postmaster(&directory));
    wait_for("the assertion", || sleeps(bench, &directory).then_some(()));
    (child, directory, postmaster)
}

fn postmaster(directory: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(directory.join("data/postmaster.pid")).ok()?;
    // Its last line is there when it takes connections.
    let ready = text.lines().nth(7).is_some_and(|line| line.trim() == "ready");
    ready.then(|| Pid::from_raw(text.lines().next().unwrap().parse().unwrap()))
}

/// Whether the drill has come to its assertion.
fn sleeps(bench: &Bench, directory: &Path) -> bool {
    let psql = ClientPrograms::find().unwrap().bin().join("psql");
    let mut command = Command::new(psql);
    bench.walden.as_server_user(&mut command);
    let question = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    command.args(["-XAtU", "postgres", "-c", question, "postgres"]).arg("-h").arg(directory.join("s"));
    let output = command.current_dir("/").env_remove("PGPORT").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim() == "1"
}

fn is_gone(process: Pid) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat"));
    kill(process, None) == Err(Errno::ESRCH) || state.is_ok_and(|state| state.contains(") Z "))
}

#[test]
fn what_a_killed_drill_leaves_the_next_one_removes() {
    let bench = Bench::new(PgMajor::V17);
    let (mut child, directory, postmaster) = start(&bench);
    // Somebody's own, however it is named.
    let own = bench.base.path().join("walden-drill-20200101T000000Z-0000");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("notes"), "mine").unwrap();
    // While it lives, nobody else takes it for dead.
    let other = bench.command(&["--target-immediate", "--no-evidence"]).output().unwrap();
    assert!(other.status.success());
    assert!(directory.is_dir() && !is_gone(postmaster));

    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the end of the server", || is_gone(postmaster).then_some(()));
    assert!(directory.is_dir(), "nobody was there to remove it");
    let next = bench.command(&["--target-immediate", "--no-evidence"]).output().unwrap();
    let said = String::from_utf8_lossy(&next.stderr).into_owned();
    assert!(next.status.success(), "{said}");
    assert!(said.contains("removed what an earlier drill had left"), "{said}");
    assert_eq!(bench.directories(), std::slice::from_ref(&own));
    assert_eq!(std::fs::read_to_string(own.join("notes")).unwrap(), "mine");
}

#[test]
fn a_signal_ends_a_drill_and_leaves_nothing_but_evidence() {
    let bench = Bench::new(PgMajor::V17);
    for (signal, name) in [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGINT, "SIGINT")] {
        let (child, _, postmaster) = start(&bench);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(23), "{name}");
        assert!(is_gone(postmaster));
        bench.assert_no_directory();
        let evidence = bench.evidence("latest");
        assert_eq!(evidence["outcome"], "interrupted");
        // What was seen until then is told.
        assert_eq!(super::check(&evidence, "last transaction")["ok"], true);
    }
}
