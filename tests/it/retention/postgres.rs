//! Backups and WAL of a real server, removed by policy and by name.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use walden_pg::PgMajor;
use walden_testkit::postgres::PgServer;
use walden_testkit::stores::S3Server;

use crate::support::{Mark, Repository, Walden, commit_rows, count_rows, describe, run};

/// A server with three backups, and moments after each.
struct History {
    walden: Walden,
    server: PgServer,
    backups: Vec<String>,
    marks: Vec<Vec<Mark>>,
}

fn history(repository: &Repository) -> History {
    let walden = Walden::new(repository, "main");
    let mut server = walden.server(PgMajor::new(17).unwrap()).init().unwrap();
    walden.init(&server);
    server.start().unwrap();
    let (mut backups, mut marks) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let report = walden.json_at(&server, &["backup", "create"]);
        backups.push(report["backup"]["id"].as_str().unwrap().to_owned());
        marks.push(commit_rows(&server, 4));
        server.archive_current_segment().unwrap();
    }
    History { walden, server, backups, marks }
}

impl History {
    fn rows_at(&self, mark: &Mark) -> i64 {
        let data = self.server.scratch_dir(&format!("restored-{}", mark.rows)).unwrap();
        let path = data.to_str().unwrap();
        self.walden.json(&[
            "restore",
            "--pgdata",
            path,
            "--target-action",
            "pause",
            "--target-time",
            &mark.time,
        ]);
        let mut restored = self.walden.restored(self.server.major(), &data);
        restored.start().unwrap();
        restored.wait_until_paused().unwrap();
        count_rows(&restored)
    }

    fn listed(&self) -> Vec<String> {
        let list = self.walden.json(&["backup", "list"]);
        list.as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    }
}

const TWO: [&str; 4] = ["--window", "none", "--keep-full", "2"];
const ONE: [&str; 4] = ["--window", "none", "--keep-full", "1"];

fn apply<'a>(policy: &[&'a str]) -> Vec<&'a str> {
    [&["retention", "apply", "--yes"], policy].concat()
}

#[test]
fn what_was_promised_is_restored_and_what_was_said_to_be_lost_is_refused() {
    let repository = Repository::local();
    let history = history(&repository);
    let walden = &history.walden;
    // Nothing goes without a policy, and nothing without a yes.
    assert_eq!(walden.fails(10, &["retention", "apply", "--yes"])["kind"], "config");
    walden.fails(2, &[&["retention", "apply"], TWO.as_slice()].concat());
    assert_eq!(history.listed(), history.backups);

    let plan = walden.json(&[&["retention", "plan"], TWO.as_slice()].concat());
    assert!(plan["removed"]["objects"].as_u64().unwrap() > 3, "{plan}");
    assert_ne!(plan["windows"][0]["lost"], Value::Array(Vec::new()), "{plan}");
    let report = walden.json(&apply(&TWO));
    assert_eq!(report["outcome"], "finished", "{report}");
    assert_eq!(report["plan"]["removed"], plan["removed"]);
    assert_eq!(history.listed(), history.backups[1..]);
    let (lost, kept) = (&history.marks[0][1], &history.marks[1][2]);
    walden.fails(22, &["plan", "--target-time", &lost.time]);
    assert_eq!(history.rows_at(kept), kept.rows);

    // A second run finds nothing to do; both are told of.
    let again = walden.json(&[&["retention", "plan"], TWO.as_slice()].concat());
    assert_eq!(again["deletions"], Value::Array(Vec::new()), "{again}");
    let log = walden.json(&["retention", "log"]);
    assert_eq!(log[0]["done"]["removed_objects"], report["removed_objects"]);
    assert_eq!(log[0]["begun"]["backups"][0]["id"], history.backups[0].as_str());

    pins_and_names(&history);
}

/// The exit code of a removal that is asked for at a terminal (`script` of util-linux gives it one) and interrupted there.
fn interrupted_at_the_question(walden: &Walden, backup: &str) -> Option<i32> {
    let asked = walden.command(&["backup", "delete", backup]);
    let words = std::iter::once(asked.get_program()).chain(asked.get_args());
    let line: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let mut command = Command::new("script");
    walden.as_server_user(&mut command);
    command.args(["-qefc", &format!("exec {}", line.join(" ")), "/dev/null"]).env("SHELL", "/bin/sh");
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(asked.get_current_dir().unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("Write \"yes\"") {
        let mut more = [0; 1024];
        let bytes = screen.read(&mut more).unwrap();
        assert!(bytes > 0, "{}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&more[..bytes]);
    }
    keys.write_all(b"\x03").unwrap();
    let output = std::thread::spawn(move || screen.read_to_end(&mut shown));
    // One that goes on waiting for an answer gets it, and must not have removed anything by then.
    for _ in 0..200 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = keys.write_all(b"yes\r");
    let code = child.wait().unwrap().code();
    output.join().unwrap().unwrap();
    code
}

/// A pinned backup stays, by policy and by name; the last one stays in any case.
fn pins_and_names(history: &History) {
    let (walden, [second, third]) = (&history.walden, [&history.backups[1], &history.backups[2]]);
    walden.json(&["backup", "pin", second, "--reason", "an audit", "--until", "30d"]);
    assert_eq!(walden.json(&["backup", "show", second])["pin"]["reason"], "an audit");
    walden.json(&apply(&ONE));
    assert_eq!(history.listed(), history.backups[1..]);
    assert_eq!(walden.fails(30, &["backup", "delete", "--yes", second])["kind"], "must_stay");
    // Its own WAL is there, what came behind it is not.
    walden.json(&["plan", "--backup", second, "--target-immediate"]);
    walden.fails(22, &["plan", "--target-time", &history.marks[1][2].time]);
    walden.json(&["backup", "unpin", second]);
    assert_eq!(interrupted_at_the_question(walden, second), Some(23));
    assert_eq!(history.listed(), history.backups[1..]);
    let report = walden.json(&["backup", "delete", "--yes", second]);
    assert_eq!(report["plan"]["asked"][0], second.as_str());
    assert_eq!(history.listed(), std::slice::from_ref(third));
    assert_eq!(walden.fails(30, &["backup", "delete", "--yes", third])["kind"], "must_stay");
    assert_eq!(walden.fails(11, &["backup", "delete", "--yes", second])["kind"], "not_found");
    let last = &history.marks[2][2];
    assert_eq!(history.rows_at(last), last.rows);
}

#[test]
fn of_two_runs_at_once_one_removes_and_locks_are_no_failure() {
    let server = S3Server::start().unwrap();
    let store = server.store("repo");
    let repository = Repository::on(store.url, store.environment, ());
    let history = history(&repository);
    let walden = &history.walden;
    // The first backup's manifest is under a lock: it is counted, and stays.
    let manifest = format!("{}/manifest.zst", history.backups[0]);
    server.keep(&manifest, "AccessDenied", "Access Denied because object protected by object lock.");
    let mut runs: Vec<_> = (0..2)
        .map(|_| {
            let mut command = walden.command(&apply(&TWO));
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let codes: Vec<i32> =
        runs.drain(..).map(|run| run.wait_with_output().unwrap().status.code().unwrap()).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 29, 30].contains(code)), "{codes:?}");
    assert_eq!(history.listed(), history.backups[1..]);
    assert!(
        std::fs::metadata(server.object_file(&format!("repo/main/{}", key_of(&server, &manifest)))).is_ok()
    );
    let log = walden.json(&["retention", "log"]);
    let locked = |run: &Value| run["done"]["locked_objects"].as_u64().unwrap_or(0);
    assert!(log.as_array().unwrap().iter().any(|run| locked(run) == 1), "{log}");
    let kept = &history.marks[1][1];
    assert_eq!(history.rows_at(kept), kept.rows);
    // A store that refuses the right to list or to remove ends with its own code, and nothing is broken.
    server.inject(
        walden_testkit::stores::FaultRule::next(walden_testkit::stores::Fault::Denied, http::Method::GET, 1)
            .after(6),
    );
    let output = run(&mut walden.command(&apply(&ONE)));
    assert_eq!(output.status.code(), Some(16), "{}", describe(&output));
    assert_eq!(history.listed(), history.backups[1..]);
}

/// The key of an object below the server's prefix, by its end.
fn key_of(server: &S3Server, end: &str) -> String {
    let requests = server.requests();
    let put = requests.iter().find(|request| request.path.ends_with(end)).unwrap();
    put.path.split_once("/repo/main/").unwrap().1.to_owned()
}
