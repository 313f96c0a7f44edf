//! The soak: a server under load archives through its agent, and server, agent, hooks and store are killed at random for
//! twenty minutes. At the end every row whose commit was acknowledged is restored, and the archive has no gap.
//!
//! Runs with `WALDEN_CAMPAIGN=1`. `WALDEN_SOAK_SECONDS` is how long, `WALDEN_SOAK_SEED` repeats what is done to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use walden_pg::{PgMajor, WalSegmentSize};
use walden_testkit::fault::SplitMix64;
use walden_testkit::postgres::{PgServer, PgSession, Result, ServerAccount, StopMode};
use walden_testkit::stores::S3Server;

use super::bench::{Processes, until};
use crate::support::{Repository, Walden, run};

const SECONDS: u64 = 20 * 60;
const CLIENTS: u64 = 3;
const ACCOUNTS: u64 = 100_000;
/// One of so many transactions writes 128 KiB more.
const BULKY: u64 = 40;
/// With more segments than this waiting to be archived the clients wait: disks are not without end.
const WAITING_MAX: usize = 300;
/// What may be left in the agents' directories, in bytes.
const SPOOL_MAX: u64 = 4 << 20;
const DEADLINE: Duration = Duration::from_mins(5);
/// Segments of 1 MiB with one LOG number.
const PER_LOG: u64 = 4096;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// One transaction: a row of the ledger, and an account whose balance it raises by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    client: u64,
    number: u64,
    account: u64,
}

/// The rows that clients were told to be committed.
#[derive(Default)]
struct Ledger {
    committed: Mutex<Vec<Row>>,
    /// How often a client lost its connection.
    broken: AtomicU64,
    over: AtomicBool,
}

impl Ledger {
    /// Commits one row after the other, whatever happens to the server.
    fn write(&self, client: u64, data: &Path, connect: impl Fn() -> Result<PgSession>, seed: u64) {
        let mut random = SplitMix64(seed ^ client);
        let mut session = None;
        for number in 1.. {
            while number % 100 == 0 && !self.over.load(Ordering::Relaxed) && waiting(data) > WAITING_MAX {
                std::thread::sleep(Duration::from_millis(100));
            }
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let connected = match session.take() {
                Some(session) => session,
                None => match connect() {
                    Ok(session) => session,
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(100));
                        continue;
                    }
                },
            };
            let row = Row { client, number, account: random.draw() % ACCOUNTS + 1 };
            if connected.execute(&transaction(row, &mut random)).is_ok() {
                self.committed.lock().unwrap().push(row);
                session = Some(connected);
            } else {
                // Committed or not: nobody was told.
                self.broken.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// How many files wait to be archived.
fn waiting(data: &Path) -> usize {
    let entries = fs::read_dir(data.join("pg_wal/archive_status")).unwrap().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "ready")).count()
}

fn transaction(row: Row, random: &mut SplitMix64) -> String {
    let Row { client, number, account } = row;
    let bulk = if random.draw().is_multiple_of(BULKY) {
        "SELECT pg_logical_emit_message(true, 'walden', repeat(md5(random()::text), 4096));"
    } else {
        ""
    };
    format!(
        "BEGIN;
         UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = {account};
         INSERT INTO ledger VALUES ({client}, {number}, {account});
         {bulk}
         COMMIT"
    )
}

/// What is being tormented.
struct Soak {
    processes: Processes,
    walden: Walden,
    server: PgServer,
    s3: Option<S3Server>,
    port: u16,
    objects: tempfile::TempDir,
    random: SplitMix64,
    done: BTreeMap<&'static str, u64>,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let account = ServerAccount::current().unwrap();
        let objects = tempfile::tempdir().unwrap();
        let s3 = S3Server::start_in(objects.path(), "bucket").unwrap();
        let store = s3.store("repo");
        let repository = Repository::on(store.url, store.environment, account);
        let mut walden = Walden::new(&repository, "main");
        let processes = Processes::of(&mut walden);
        walden.set("WALDEN_WAL_PUSH_DEADLINE", "10s");
        walden.set("WALDEN_AGENT_IDLE", "5s");
        let server = walden
            .server(PgMajor::V17)
            .wal_segment_size(WalSegmentSize::new(1 << 20).unwrap())
            .setting("checkpoint_timeout", "30s")
            .setting("max_wal_size", "128MB")
            // What is written after the clients have ended should come to an end.
            .setting("autovacuum", "off")
            .deadline(DEADLINE)
            .start()
            .unwrap();
        walden.init(&server);
        server.pgbench_init(1).unwrap();
        server
            .execute("CREATE TABLE ledger (client bigint, number bigint, account bigint, PRIMARY KEY (client, number))")
            .unwrap();
        walden.json_at(&server, &["backup", "create"]);
        let (port, random) = (s3.port(), SplitMix64(seed));
        Self { processes, walden, server, s3: Some(s3), port, objects, random, done: BTreeMap::new() }
    }

    fn pause(&mut self, max: Duration) {
        let millis = u64::try_from(max.as_millis()).unwrap();
        std::thread::sleep(Duration::from_millis(self.random.draw() % millis));
    }

    fn count(&mut self, what: &'static str, times: usize) {
        *self.done.entry(what).or_insert(0) += times as u64;
    }

    fn start_store(&mut self) {
        until("the store's port", || {
            self.s3 = S3Server::start_at(self.objects.path(), "bucket", self.port).ok();
            self.s3.is_some()
        });
    }

    /// Does something to somebody.
    fn torment(&mut self) {
        self.pause(Duration::from_secs(3));
        match self.random.draw() % 12 {
            0..=2 => {
                let killed = self.processes.kill_agents();
                self.count("agents killed", killed);
            }
            3..=6 => {
                // They live for some milliseconds only.
                let mut killed = 0;
                for _ in 0..200 {
                    killed += self
                        .processes
                        .hooks()
                        .iter()
                        .filter(|hook| kill(**hook, Signal::SIGKILL).is_ok())
                        .count();
                    if killed > 0 {
                        break;
                    }
                }
                self.count("hooks killed", killed);
            }
            7 => {
                self.server.kill9().unwrap();
                self.pause(Duration::from_secs(1));
                self.server.start().unwrap();
                self.count("servers killed", 1);
            }
            8 => {
                self.s3 = None;
                self.pause(Duration::from_secs(8));
                self.start_store();
                self.count("stores killed", 1);
            }
            9 => {
                let agents = self.processes.agents();
                for agent in &agents {
                    let _ = kill(*agent, Signal::SIGSTOP);
                }
                self.pause(Duration::from_secs(6));
                for agent in &agents {
                    let _ = kill(*agent, Signal::SIGCONT);
                }
                self.count("agents stopped", agents.len());
            }
            10 => {
                for spool in self.processes.spools() {
                    // The agent may write there at this moment.
                    let _ = fs::remove_dir_all(spool);
                }
                self.count("spools removed", 1);
            }
            _ => {
                // All at once.
                self.s3 = None;
                self.processes.kill_agents();
                self.server.kill9().unwrap();
                self.start_store();
                self.server.start().unwrap();
                self.count("all killed", 1);
            }
        }
    }
}

fn bytes_below(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() };
    }
    bytes
}

/// The rows that a server has, read from the table and not through its index.
fn ledger_of(server: &PgServer) -> Vec<Row> {
    let rows = server.query("SELECT client, number, account FROM ledger ORDER BY client, number").unwrap();
    let number = |text: &Option<String>| text.as_ref().unwrap().parse::<u64>().unwrap();
    let row = |row: &Vec<Option<String>>| Row {
        client: number(&row[0]),
        number: number(&row[1]),
        account: number(&row[2]),
    };
    rows.iter().map(row).collect()
}

/// One timeline, and on it every segment from the first to the last one that was asked for, as PostgreSQL counts them.
fn assert_whole(soak: &Soak, last: &str) {
    let window: Value = soak.walden.json(&["window"]);
    let timelines = window["timelines"].as_array().unwrap();
    assert_eq!(timelines.len(), 1, "nobody was promoted: {window}");
    assert_eq!(timelines[0]["gaps"], Value::Array(Vec::new()), "{window}");
    assert_eq!(timelines[0]["damaged"], Value::Array(Vec::new()), "{window}");
    assert_eq!(timelines[0]["restorable"].as_array().map(Vec::len), Some(1), "{window}");
    // By the objects themselves, and not by what walden says of them.
    let stored = names_below(soak.objects.path());
    let expected: BTreeSet<String> = names_up_to(stored.first().unwrap(), last).into_iter().collect();
    let missing: Vec<_> = expected.difference(&stored).collect();
    assert!(
        missing.is_empty(),
        "{} segments are missing: {:?}",
        missing.len(),
        &missing[..missing.len().min(5)]
    );
    println!("{} segments in the archive, none missing up to {last}", stored.len());
}

/// The names of all whole segments among the objects.
fn names_below(directory: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(names_below(&path));
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".zst"))
            && name.len() == 24
        {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The names of the segments of 1 MiB from one to another on its timeline, both included.
fn names_up_to(first: &str, last: &str) -> Vec<String> {
    let number = |name: &str| {
        let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).unwrap();
        part(8) * PER_LOG + part(16)
    };
    assert_eq!(first[..8], last[..8], "another timeline");
    (number(first)..=number(last))
        .map(|at| format!("{}{:08X}{:08X}", &first[..8], at / PER_LOG, at % PER_LOG))
        .collect()
}

/// What was restored is what the server had: every row that was acknowledged, none that the server did not have, and each
/// transaction whole.
fn assert_same_rows(restored: &PgServer, committed: &[Row], before: &[Row]) {
    let there = ledger_of(restored);
    let known: BTreeSet<_> = there.iter().collect();
    let lost: Vec<_> = committed.iter().filter(|row| !known.contains(row)).collect();
    assert!(lost.is_empty(), "{} rows are lost, the first are {:?}", lost.len(), &lost[..lost.len().min(5)]);
    let differ = there.iter().zip(before).find(|(there, before)| there != before);
    assert!(
        there.len() == before.len() && differ.is_none(),
        "{} of {}: {differ:?}",
        there.len(),
        before.len()
    );
    // The other half of each transaction, in another table.
    let halves = "SELECT count(*) FROM pgbench_accounts a
         FULL JOIN (SELECT account, count(*) AS raised FROM ledger GROUP BY account) l ON l.account = a.aid
         WHERE coalesce(a.abalance, 0) <> coalesce(l.raised, 0)";
    let torn = restored.query(halves).unwrap();
    assert_eq!(torn[0][0].as_deref(), Some("0"), "accounts that do not agree with the ledger");
    println!("{} rows restored, {} of them acknowledged", there.len(), committed.len());
}

#[test]
fn every_acknowledged_row_survives_random_kills_of_everything() {
    if std::env::var_os("WALDEN_CAMPAIGN").is_none() {
        return;
    }
    let seconds = setting("WALDEN_SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = setting("WALDEN_SOAK_SEED").unwrap_or_else(|| std::process::id().into());
    println!("soak of {seconds} s, WALDEN_SOAK_SEED={seed}");
    let mut soak = Soak::new(seed);
    let (ledger, config) = (Ledger::default(), soak.server.client_config());
    let data = soak.server.data_dir().to_owned();
    std::thread::scope(|scope| {
        // Also when this thread panics.
        struct Over<'a>(&'a Ledger);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.over.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&ledger);
        for client in 0..CLIENTS {
            let (ledger, config, data) = (&ledger, &config, &data);
            scope.spawn(move || ledger.write(client, data, || PgSession::connect(config, DEADLINE), seed));
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            soak.torment();
        }
    });
    let last = soak.server.archive_current_segment().unwrap();
    until("nothing to wait to be archived", || waiting(soak.server.data_dir()) == 0);
    let committed = ledger.committed.into_inner().unwrap();
    println!(
        "{} rows acknowledged, {} connections broken, the last segment is {last}; {:?}",
        committed.len(),
        ledger.broken.into_inner(),
        soak.done
    );
    assert!(committed.len() > 100, "there was no load");

    assert_whole(&soak, &last.to_string());
    let check = ["check", "--pgdata", soak.server.data_dir().to_str().unwrap()];
    let checked = run(&mut soak.walden.command_at(&soak.server, &check));
    let told = String::from_utf8_lossy(&checked.stdout);
    println!("{told}");
    for line in ["coverage", "damage"] {
        assert!(!told.lines().any(|told| told.starts_with("failed") && told.contains(line)), "{told}");
    }

    let before = ledger_of(&soak.server);
    let data = soak.server.scratch_dir("restored").unwrap();
    soak.walden.json(&["restore", "--pgdata", data.to_str().unwrap()]);
    soak.server.stop(StopMode::Fast).unwrap();
    let mut restored = soak.walden.restored(PgMajor::V17, &data);
    restored.spawn().unwrap();
    // Half an hour of WAL may take longer than a start.
    until("the start", || restored.wait_ready().is_ok());
    restored.wait_until_promoted().unwrap();
    assert_same_rows(&restored, &committed, &before);

    drop(restored);
    until("the agents to leave", || soak.processes.agents().is_empty());
    let bytes = bytes_below(soak.processes.state_directory());
    println!("{bytes} bytes are left in the state directory");
    assert!(bytes <= SPOOL_MAX, "{bytes}");
}
