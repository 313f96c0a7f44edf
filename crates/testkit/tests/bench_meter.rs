//! The meter of `cargo xtask bench`. Alone in its program: it waits for every child of its process.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::process::Command;
use std::time::Duration;

use walden_testkit::bench::meter::TreeMeter;
use walden_testkit::bench::worker::{Case, Work, run};

/// Burns at least 0.3 s of CPU time in the shell itself.
const BURN: &str = "t=0; while [ $t -lt 30 ]; do j=0; while [ $j -lt 20000 ]; do j=$((j+1)); done; \
                    t=$(cut -d\" \" -f14 /proc/$$/stat); done";
/// Holds at least 64 MiB for a while: a string of that size in awk.
const HOLD: &str = "awk 'BEGIN { s = \"x\"; while (length(s) < 67108864) s = s s; system(\"sleep 0.3\"); print length(s) > \"/dev/null\" }'";

#[test]
fn a_daemon_and_its_children_are_accounted_for() {
    let meter = TreeMeter::start().unwrap();
    let before = std::time::Instant::now();
    // The shell ends at once and leaves a daemon behind, in a session of its own, which runs children.
    let script = format!(
        "setsid sh -c '{}; ({HOLD_QUOTED}) & wait' >/dev/null 2>&1 &",
        BURN.replace('\'', "'\\''"),
        HOLD_QUOTED = HOLD.replace('\'', "'\\''")
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let usage = meter.finish(Duration::from_secs(30)).unwrap();
    assert!(usage.cpu_seconds >= 0.3, "{usage:?}");
    assert!(usage.cpu_seconds <= 2.0 * before.elapsed().as_secs_f64() + 0.1, "{usage:?}");
    assert!(usage.largest_rss_bytes >= 64 << 20, "{usage:?}");
    assert!(usage.sum_rss_bytes >= 64 << 20, "{usage:?}");
    assert_eq!(usage.killed, 0);

    // What does not end is ended.
    let meter = TreeMeter::start().unwrap();
    assert!(Command::new("sh").args(["-c", "setsid sleep 600 &"]).status().unwrap().success());
    let usage = meter.finish(Duration::from_millis(100)).unwrap();
    assert_eq!(usage.killed, 1);
    assert!(usage.cpu_seconds < 0.3, "the first tree does not count again: {usage:?}");

    a_worker_pushes_and_fetches();
}

/// With `cp` as the tool.
fn a_worker_pushes_and_fetches() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let archive = dir.path().join("archive");
    std::fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
    std::fs::create_dir(&archive).unwrap();
    let segments: Vec<String> = (1..=3).map(|number| format!("00000001000000000000000{number}")).collect();
    for name in &segments {
        std::fs::write(data.join("pg_wal").join(name), name.repeat(1000)).unwrap();
    }
    let case = |work, command: &str| Case {
        work,
        command: command.to_owned(),
        stop: None,
        directory: data.clone(),
        environment: vec![("ARCHIVE".to_owned(), archive.display().to_string())],
        log: dir.path().join("log"),
        segments: segments.clone(),
        deadline_seconds: 60,
    };
    let pushed = run(&case(Work::Push, "cp %p $ARCHIVE/%f")).unwrap();
    assert_eq!((pushed.calls_ms.len(), pushed.failures), (3, 0));
    assert!(pushed.seconds * 1e3 >= pushed.calls_ms.iter().sum());
    assert!(pushed.usage.cpu_seconds > 0.0 && pushed.usage.largest_rss_bytes > 0);

    let originals = data.join("pg_wal");
    let fetch = case(Work::Fetch { originals: originals.clone() }, "cp $ARCHIVE/%f %p");
    assert_eq!(run(&fetch).unwrap().calls_ms.len(), 3);
    let absent = Case {
        segments: vec!["0000000100000000000000FF".to_owned()],
        ..case(Work::Absent, "cp $ARCHIVE/%f %p")
    };
    assert_eq!(run(&absent).unwrap().failures, 0);
    assert!(run(&case(Work::Absent, "cp $ARCHIVE/%f %p")).is_err(), "they are there");

    std::fs::write(archive.join(&segments[1]), "other bytes").unwrap();
    let wrong = run(&fetch).unwrap_err().to_string();
    assert!(wrong.contains(&segments[1]), "{wrong}");
    let stuck = run(&Case { deadline_seconds: 1, ..case(Work::Push, "sleep 600 # %p") });
    assert!(stuck.unwrap_err().to_string().contains("killed"));
}
