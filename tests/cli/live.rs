//! The verbs that need a running server: their text and their JSON.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use walden_pg::PgMajor;
use walden_testkit::postgres::{PgServer, ServerAccount};

use crate::shapes::{self, Backup, BackupCreate, Check, Plan, Restore};
use crate::support::replace_shape;

struct Live {
    server: PgServer,
    account: ServerAccount,
    program: std::path::PathBuf,
    directory: tempfile::TempDir,
}

impl Live {
    fn new() -> Self {
        Self::of(PgMajor::new(17).unwrap())
    }

    fn of(major: PgMajor) -> Self {
        let account = ServerAccount::current().unwrap();
        let program = account.executable(Path::new(env!("CARGO_BIN_EXE_walden"))).unwrap();
        let directory = account.temp_dir().unwrap();
        let repository = format!("file://{}/repository", directory.path().display());
        let command = format!("{} --repo {repository} wal push %p", program.display());
        let server = PgServer::builder(major).archive_command(command).start().unwrap();
        Self { server, account, program, directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        self.account.run(&mut command);
        self.server.run_as_server_user(&mut command);
        command.env("WALDEN_REPO", format!("file://{}/repository", self.directory.path().display()));
        command.env("PGDATA", self.server.data_dir()).env("HOME", self.directory.path()).env("TZ", "UTC");
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Waits until everything written so far is archived, and a little more.
    fn archive_all(&self) {
        let value = |sql: &str| self.server.value::<String>(sql).unwrap();
        let segment = value("SELECT pg_walfile_name(pg_switch_wal())");
        self.server.session().unwrap().execute("CREATE TABLE IF NOT EXISTS later (id int)").unwrap();
        let archived =
            format!("SELECT coalesce(last_archived_wal >= '{segment}', false)::text FROM pg_stat_archiver");
        while value(&archived) != "true" {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Restores to a target, starts the server, and says whether it stopped where the plan said.
    fn stop_of(&self, name: &str, target: &[&str]) -> shapes::StopCheck {
        let pgdata = self.directory.path().join(name).display().to_string();
        let bin = self.server.install().bin().display().to_string();
        let sockets = self.directory.path().display().to_string();
        // A port that is free now: other tests run servers, too.
        let port =
            std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
        let start = ["--start", "--pg-bin", &bin, "--socket-directory", &sockets, "--port", &port];
        let options = [&["restore", "--pgdata", &pgdata, "--start-timeout", "2m"], target, &start].concat();
        let restored: Restore = shapes::read(&self.json(&options));
        let started = restored.started.unwrap();
        if let Some(pid) = started.pid {
            let killed = Command::new("kill").args(["-QUIT", &pid.to_string()]).status().unwrap();
            assert!(killed.success());
            while Path::new(&pgdata).join("postmaster.pid").exists()
                && Path::new(&format!("/proc/{pid}")).exists()
            {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        started.stop_check
    }

    fn json(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(&[arguments, &["--output", "json"]].concat());
        assert_eq!(code, 0, "{arguments:?} {stdout} {stderr}");
        stdout
    }

    fn text(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?} {stdout} {stderr}");
        stdout
    }
}

/// The words at the beginnings of the lines: what is told, without what differs from run to run.
fn skeleton(text: &str) -> String {
    let first_words = |line: &str| {
        let measured = ["Newest restorable", "It is ", "It takes about"];
        let end =
            measured.iter().find(|begin| line.starts_with(**begin)).map_or(line.len(), |begin| begin.len());
        line[..end].split("  ").next().unwrap_or_default().trim_end().to_owned()
    };
    text.lines().map(first_words).collect::<Vec<_>>().join("\n")
}

impl Live {
    fn redact(&self, text: &str) -> String {
        let text = text.replace(self.directory.path().to_str().unwrap(), "[DIR]");
        let text = text.replace(self.program.to_str().unwrap(), "[WALDEN]");
        let text = replace_shape(&text, "dddd-dd-dd dd:dd:dd UTC", "[MOMENT]");
        replace_shape(&text, "ddddddddTddddddZ-hhhh", "[BACKUP]")
    }
}

#[test]
fn back_up_plan_and_restore() {
    let live = Live::new();
    live.json(&["init"]);
    let created: BackupCreate = shapes::read(&live.json(&["backup", "create", "--label", "nightly"]));
    assert_eq!((created.backup.label.as_str(), created.backup.kind.as_str()), ("nightly", "full"));
    let listed: Vec<Backup> = shapes::read(&live.json(&["backup", "list"]));
    assert_eq!(listed.len(), 1);
    let shown: Backup = shapes::read(&live.json(&["backup", "show", "latest"]));
    assert!(shown.id == created.backup.id && shown.cost.is_some());
    let check: Check = shapes::read(&live.json(&["check"]));
    assert!(check.checks.iter().any(|finding| finding.name == "archiver"), "the server was asked");
    let plan: Plan = shapes::read(&live.json(&["plan"]));
    assert_eq!(
        (plan.backup.id.as_str(), plan.request.action.as_str()),
        (created.backup.id.as_str(), "promote")
    );
    let plan: Plan = shapes::read(&live.json(&["plan", "--target-immediate"]));
    assert_eq!((plan.request.target.kind.as_str(), plan.request.action.as_str()), ("immediate", "pause"));

    let target = live.directory.path().join("restored");
    let target = target.to_str().unwrap();
    let restored: Restore = shapes::read(&live.json(&["restore", "--target-immediate", "--pgdata", target]));
    let command = restored.settings.iter().find(|setting| setting.name == "restore_command").unwrap();
    assert!(command.value.ends_with("--server main wal get %f %p"), "{}", command.value);
    let (code, stdout, _) = live.run(&["restore", "--pgdata", target, "--output", "json"]);
    let refused: shapes::Error = shapes::read(&stdout);
    assert_eq!((code, refused.error.kind.as_str()), (10, "config"), "{stdout}");

    let again = live.directory.path().join("again");
    let said = [
        skeleton(&live.text(&["backup", "create"])),
        skeleton(&live.text(&["backup", "show", "latest"])),
        skeleton(&live.text(&["window"])),
        skeleton(&live.text(&["plan", "--target-immediate"])),
        skeleton(&live.text(&["restore", "--target-immediate", "--pgdata", again.to_str().unwrap()])),
    ];
    insta::assert_snapshot!("live_texts", live.redact(&said.join("\n\n")));
}

#[test]
fn a_backup_that_can_not_be_taken_is_not_listed() {
    let live = Live::new();
    live.json(&["init"]);
    let (code, stdout, _) = live.run(&["backup", "create", "-d", "host=/nowhere/at/all", "--output", "json"]);
    let failed: shapes::Error = shapes::read(&stdout);
    assert_eq!((code, failed.error.kind.as_str()), (19, "postgres"), "{stdout}");

    // A checkpoint that is spread takes minutes: the signal comes while it is waited for.
    live.server
        .session()
        .unwrap()
        .execute("CREATE TABLE dirty AS SELECT generate_series(1, 100000)")
        .unwrap();
    let arguments = ["backup", "create", "--checkpoint", "spread", "--output", "json"];
    let child = live.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND state = 'active' \
                   AND pid <> pg_backend_pid()";
    while live.server.value::<i64>(waiting).unwrap() == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    let stopped: shapes::Error = shapes::read(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!((output.status.code(), stopped.error.kind.as_str()), (Some(23), "interrupted"));
    assert!(stopped.error.message.starts_with("stopped by SIGINT: "), "{}", stopped.error.message);

    let listed: Vec<Backup> = shapes::read(&live.json(&["backup", "list"]));
    assert!(listed.is_empty());
}

#[test]
fn a_restored_server_stops_where_the_plan_says_and_a_refusal_says_what_can_be_had() {
    let live = Live::new();
    live.json(&["init"]);
    live.json(&["backup", "create"]);
    let execute = |sql: &str| live.server.session().unwrap().execute(sql).unwrap();
    execute("CREATE TABLE orders (id int)");
    execute("INSERT INTO orders VALUES (1)");
    let xid: u64 = live
        .server
        .value("WITH one AS (INSERT INTO orders VALUES (2) RETURNING xmin) SELECT xmin::text FROM one")
        .unwrap();
    execute("DROP TABLE orders");
    execute("SELECT pg_create_restore_point('after the drop')");
    live.archive_all();

    let target = xid.to_string();
    let plan: Plan = shapes::read(&live.json(&["plan", "--target-xid", &target]));
    assert_eq!(plan.stop.kind, "after_transaction");
    let kept = plan.stop.last_kept.unwrap();
    assert_eq!(u64::from(kept.xid), xid);
    assert_eq!(u64::from(plan.stop.first_left_out.unwrap().xid), xid + 1);
    let settings = live.text(&["plan", "--target-xid", &target, "--output", "postgres"]);
    for line in [format!("recovery_target_xid = '{xid}'"), "recovery_target_action = 'pause'".to_owned()] {
        assert!(settings.lines().any(|written| written == line), "{settings}");
    }

    let check = live.stop_of("restored", &["--target-xid", &target, "--target-action", "shutdown"]);
    assert_eq!(check.outcome, "as_planned", "{}", check.message);
    assert_eq!((check.planned_lsn, check.replayed_to), (plan.stop.replayed_to, None));
    let third = live.directory.path().join("third");
    let (code, stdout, stderr) =
        live.run(&["restore", "--target-xid", &target, "--pgdata", third.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.starts_with(&format!("You will have every commit up to that of transaction {xid} ")),
        "{stderr}"
    );
    assert!(stdout.contains("must be adopted before it is promoted"), "{stdout}");

    // The second time the directory is not empty: that is said, and nothing of a plan.
    let (code, _, stderr) =
        live.run(&["restore", "--target-xid", &target, "--pgdata", third.to_str().unwrap()]);
    assert_eq!(code, 10, "{stderr}");
    assert!(stderr.starts_with("error: the target directory holds"), "{stderr}");

    // What a clone section can't say is refused with a command that works.
    let (code, _, stderr) = live.run(&["plan", "--output", "zalando"]);
    assert_eq!(code, 2, "{stderr}");
    let (_, command) = stderr.trim().split_once(": walden plan --target-time '").unwrap();
    let (moment, options) = command.split_once("' ").unwrap();
    let words: Vec<&str> = ["plan", "--target-time", moment].into_iter().chain(options.split(' ')).collect();
    assert!(live.text(&words).contains("timestamp: "), "{words:?}");

    // The zone of the question is the zone of the answer.
    let told = live.text(&["plan", "--target-time", moment, "--target-exclusive", "--timezone", "+05:45"]);
    assert!(told.lines().any(|line| line.starts_with("target ") && line.ends_with(" +05:45)")), "{told}");

    let (code, stdout, stderr) = live.run(&["plan", "--target-xid", "4000000"]);
    assert_eq!((code, stdout.as_str()), (22, ""), "{stderr}");
    assert!(stderr.starts_with("error: transaction 4000000 is not in the archive\n"), "{stderr}");
    let (code, stdout, _) = live.run(&["plan", "--target-time", "2001-01-01 00:00Z", "--output", "json"]);
    let refused: shapes::Error = shapes::read(&stdout);
    let refusal = refused.refusal.unwrap();
    assert_eq!((code, refusal.reason.as_str()), (22, "target_before_backups"));
    assert!(refusal.nearest_before.is_none());
    // The moment given can be asked for.
    let after = refusal.nearest_after.unwrap();
    shapes::read::<Plan>(&live.json(&["plan", "--target-lsn", &after.lsn]));
}

#[test]
fn servers_old_and_new_stop_where_the_plan_says() {
    // The oldest, the first whose recovery has a file of its own, and the newest.
    for major in [13, 15, 18] {
        let live = Live::of(PgMajor::new(major).unwrap());
        live.json(&["init"]);
        live.json(&["backup", "create"]);
        let execute = |sql: &str| live.server.session().unwrap().execute(sql).unwrap();
        execute("CREATE TABLE orders (id int)");
        let moment: String = live.server.value("SELECT clock_timestamp()::timestamptz(6)::text").unwrap();
        let lsn: String = live.server.value("SELECT pg_current_wal_insert_lsn()::text").unwrap();
        execute("DROP TABLE orders");
        execute("SELECT pg_create_restore_point('after the drop')");
        live.archive_all();
        let checks = [
            ("time", live.stop_of("time", &["--target-time", &moment])),
            ("lsn", live.stop_of("lsn", &["--target-lsn", &lsn, "--target-action", "shutdown"])),
            (
                "name",
                live.stop_of("name", &["--target-name", "after the drop", "--target-action", "promote"]),
            ),
            ("immediate", live.stop_of("immediate", &["--target-immediate"])),
            ("end", live.stop_of("end", &[])),
        ];
        for (target, check) in checks {
            assert_eq!(check.outcome, "as_planned", "{major} {target}: {}", check.message);
            let asked = check.replayed_to.as_ref();
            assert_eq!(asked.is_some(), target != "lsn", "{major} {target}: {}", check.message);
        }
    }
}
