//! The harness itself, on every supported major.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use walden_pg::{Lsn, PgMajor, WalSegmentSize};
use walden_testkit::postgres::{ClientPrograms, Error, PgServer, Result, StopMode, wait_until};

/// Starts, answers, keeps committed rows over a kill and over a restart, and leaves nothing behind.
fn lives(major: PgMajor) -> Result<()> {
    let mut server = PgServer::builder(major).start()?;
    let version: u64 = server.value("SELECT current_setting('server_version_num')")?;
    assert_eq!(PgMajor::from_server_version_num(version)?, major);
    assert_eq!(server.value::<String>("SHOW data_checksums")?, "on");
    server.insert_rows(100)?;

    server.kill9()?;
    assert!(!server.is_running());
    assert!(matches!(server.kill9(), Err(Error::WrongState { running: false })));
    server.start()?;
    assert!(server.log_since_start().contains("was not properly shut down"), "{}", server.log_since_start());
    assert!(matches!(server.start(), Err(Error::WrongState { running: true })));
    server.restart()?;
    assert!(!server.log_since_start().contains("was not properly shut down"));
    assert_eq!(server.value::<u64>("SELECT count(*) FROM walden_load")?, 100);

    let dir = server.socket_dir().to_path_buf();
    drop(server);
    assert!(!dir.is_dir(), "{} is left", dir.display());
    Ok(())
}

#[test]
fn postgresql_13_lives() -> Result<()> {
    lives(PgMajor::V13)
}

#[test]
fn postgresql_14_lives() -> Result<()> {
    lives(PgMajor::V14)
}

#[test]
fn postgresql_15_lives() -> Result<()> {
    lives(PgMajor::V15)
}

#[test]
fn postgresql_16_lives() -> Result<()> {
    lives(PgMajor::V16)
}

#[test]
fn postgresql_17_lives() -> Result<()> {
    lives(PgMajor::V17)
}

#[test]
fn postgresql_18_lives() -> Result<()> {
    lives(PgMajor::V18)
}

#[test]
fn segments_are_named_switched_and_archived() {
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let server = PgServer::builder(PgMajor::V13)
        .wal_segment_size(size)
        .data_checksums(false)
        .env("ARCHIVE", "kept")
        .archive_command(r#"mkdir -p ../"$ARCHIVE" && cp %p ../"$ARCHIVE"/%f"#)
        .start()
        .unwrap();
    assert_eq!(server.wal_segment_size().unwrap(), size);
    assert_eq!(server.value::<String>("SHOW data_checksums").unwrap(), "off");
    let first = server.archive_current_segment().unwrap();
    let second = server.archive_current_segment().unwrap();
    assert!(first < second);
    let archived = server.socket_dir().join("kept").join(second.to_string());
    assert_eq!(std::fs::metadata(archived).unwrap().len(), size.bytes());

    let before = server.current_lsn().unwrap();
    let point = server.create_restore_point("it's here").unwrap();
    let end = server.generate_wal(2 << 20).unwrap();
    assert!(before < point && point < end && end.bytes_since(before).unwrap() >= 2 << 20);
    assert!(server.current_lsn().unwrap() > point);
}

#[test]
fn a_failing_archive_command_is_reported_at_the_deadline() {
    let server = PgServer::builder(PgMajor::V16)
        .archive_command("echo no room >&2; exit 9")
        .deadline(Duration::from_secs(10))
        .start()
        .unwrap();
    let segment = server.switch_wal().unwrap();
    server.wait_for_log("no room").unwrap();
    let Err(Error::Deadline { what, log, .. }) = server.wait_for_archived(segment) else {
        panic!("nothing was archived")
    };
    assert!(what.contains(&segment.to_string()) && log.contains("no room"), "{what}\n{log}");
    server.set("archive_command", "true").unwrap();
    server.wait_for_archived(segment).unwrap();
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let mut server = PgServer::builder(PgMajor::V17).setting("wal_level", "nonsense").init().unwrap();
    let error = server.start().unwrap_err();
    assert!(matches!(error, Error::ServerEnded { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("invalid value for parameter \"wal_level\""), "{error:?}");
}

#[test]
fn a_copied_data_directory_is_adopted() {
    let mut source = PgServer::builder(PgMajor::V18).tcp().start().unwrap();
    source.insert_rows(10).unwrap();
    source.stop(StopMode::Fast).unwrap();
    let parent = source.scratch_dir("restored").unwrap();
    let copied = Command::new("cp").arg("-R").arg(source.data_dir()).arg(&parent).status().unwrap();
    assert!(copied.success());
    let copy = parent.join("data");
    source.start().unwrap();
    let adopted = PgServer::builder(PgMajor::V18).setting("cluster_name", "copy");
    let mut adopted = adopted.adopt(&copy).unwrap();
    adopted.start().unwrap();
    assert_eq!(adopted.value::<u64>("SELECT count(*) FROM walden_load").unwrap(), 10);
    assert_eq!(adopted.value::<String>("SHOW cluster_name").unwrap(), "copy");
    assert_eq!(adopted.system_id().unwrap(), source.system_id().unwrap());
    drop(adopted);
    assert!(copy.join("PG_VERSION").try_exists().unwrap(), "an adopted directory is not removed");
}

#[test]
fn acknowledged_commits_survive_a_kill() {
    let mut server = PgServer::builder(PgMajor::V15).start().unwrap();
    let load = server.start_load(2).unwrap();
    wait_until(server.deadline(), "fifty rows", || {
        Ok((server.value::<u64>("SELECT count(*) FROM walden_load")? >= 50).then_some(()))
    })
    .unwrap();
    server.kill9().unwrap();
    let report = load.stop();
    assert!(!report.errors.is_empty(), "the kill ended the clients");
    assert!(report.commits.len() >= 48);
    server.start().unwrap();
    let kept = server.query("SELECT id FROM walden_load ORDER BY id").unwrap();
    let kept: Vec<i64> = kept.iter().flatten().flatten().map(|id| id.parse().unwrap()).collect();
    assert!(report.commits.iter().all(|commit| kept.binary_search(&commit.id).is_ok()));
    assert!(report.commits.iter().all(|commit| commit.lsn > Lsn::default() && commit.xid > 0));
}

#[test]
fn a_hanging_archive_command_ends_with_its_server() {
    let mut server =
        PgServer::builder(PgMajor::V14).archive_command("echo $$ >archiver; exec sleep 600").start().unwrap();
    server.switch_wal().unwrap();
    let note = server.data_dir().join("archiver");
    let pid = wait_until(server.deadline(), "the command to start", || {
        Ok(std::fs::read_to_string(&note).ok().filter(|pid| pid.ends_with('\n')))
    });
    let hanging = PathBuf::from("/proc").join(pid.unwrap().trim()).join("cwd");
    server.kill9().unwrap();
    assert!(hanging.read_link().is_ok(), "a kill of the postmaster does not reach it");
    drop(server);
    assert!(hanging.read_link().is_err(), "it hangs still");
}

#[tokio::test]
async fn calls_work_inside_a_runtime() {
    let server = PgServer::builder(PgMajor::V18).start().unwrap();
    assert_eq!(server.value::<u64>("SELECT 1 + 1").unwrap(), 2);
    assert!(matches!(server.value::<u64>("SELECT 1, 2"), Err(Error::Answer { .. })));
    assert!(matches!(server.execute("SELECT nonsense"), Err(Error::Sql { .. })));
    let (client, connection) = server.client_config().connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query_one("SELECT 3", &[]).await.unwrap().get::<_, i32>(0), 3);
}

#[test]
fn client_programs_talk_to_the_newest_server() {
    assert!(ClientPrograms::find().unwrap().major() >= 13);
    let server = PgServer::builder(PgMajor::V18).start().unwrap();
    let answer = server
        .client_program("psql", &["--tuples-only", "--no-align", "--command", "SHOW server_version_num"]);
    assert!(answer.unwrap().starts_with("18"));
    server.pgbench_init(1).unwrap();
    assert!(server.pgbench(1, 1).unwrap().contains("tps"));
    assert_eq!(server.value::<u64>("SELECT count(*) FROM pgbench_accounts").unwrap(), 100_000);
}

/// Tells the test below, run in a process of its own, to be the one that is killed.
const VICTIM_ENV: &str = "WALDEN_TESTKIT_VICTIM";

#[test]
fn a_killed_test_leaves_no_server_and_no_directory() {
    if std::env::var_os(VICTIM_ENV).is_some() {
        let server = PgServer::builder(PgMajor::V18).start().unwrap();
        println!("\nserver in {}", server.data_dir().display());
        std::thread::sleep(Duration::from_mins(10));
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_no_server_and_no_directory", "--nocapture"])
        .env(VICTIM_ENV, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let place = lines
        .map_while(std::io::Result::ok)
        .find_map(|line| line.strip_prefix("server in ").map(PathBuf::from));
    let data = place.expect("the victim starts a server");
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let process = PathBuf::from("/proc").join(file.lines().next().unwrap()).join("exe");
    assert!(process.read_link().is_ok(), "the server runs");
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until(Duration::from_mins(1), "the server and its directory to go", || {
        Ok((process.read_link().is_err() && !data.is_dir()).then_some(()))
    })
    .unwrap();
}
