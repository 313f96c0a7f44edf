//! A long backlog, as after a night without the store: drained by hooks that are called one after the other, through the
//! agent that the first of them starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use http::Method;
use serde_json::Value;
use walden_core::sha256_hex;
use walden_pg::{PgMajor, WalSegmentSize};
use walden_testkit::postgres::{PgServer, StopMode};
use walden_testkit::stores::S3Server;

use super::bench::{MemoryUse, Processes, until};
use crate::stores::faulty_s3;
use crate::support::{Repository, Walden, describe, run};

/// With `WALDEN_CAMPAIGN=1`, and else.
const SEGMENTS: (usize, usize) = (2_000, 400);
/// What an agent with the default settings may have in memory at any time, in bytes.
const PEAK_MAX: u64 = 64 << 20;
/// What a build to be released has of its own file in memory, at least, in bytes.
const RELEASED_FILE: u64 = 12 << 20;
/// Requests that are not of one segment: who may archive here, and the like.
const REQUESTS_BESIDES: usize = 20;

/// A stopped server, and what it left to be archived.
struct Backlog {
    processes: Processes,
    walden: Walden,
    server: PgServer,
    s3: Arc<S3Server>,
    names: Vec<String>,
    _repository: Repository,
}

/// What makes the segments runs with archiving on and no command.
fn backlog(size: u64, make: &str) -> Backlog {
    let (repository, s3) = faulty_s3();
    let mut walden = Walden::new(&repository, "main");
    let processes = Processes::of(&mut walden);
    walden.set("WALDEN_AGENT_IDLE", "3s");
    let mut server = PgServer::builder(PgMajor::V17)
        .wal_segment_size(WalSegmentSize::new(size).unwrap())
        .setting("archive_mode", "on")
        .setting("max_wal_size", "8GB")
        .setting("wal_init_zero", "off")
        .deadline(std::time::Duration::from_mins(5))
        .start()
        .unwrap();
    walden.init(&server);
    server.execute(make).unwrap();
    server.stop(StopMode::Fast).unwrap();
    let status = fs::read_dir(server.data_dir().join("pg_wal/archive_status")).unwrap();
    let names = status.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned())).collect();
    names.sort();
    drop(s3.take_requests());
    Backlog { processes, walden, server, s3, names, _repository: repository }
}

impl Backlog {
    fn wal(&self, name: &str) -> PathBuf {
        self.server.data_dir().join("pg_wal").join(name)
    }

    /// Does what the archiver does until nothing is left. Returns how many calls found their file archived, and the
    /// memory that the agent had.
    fn drain(&self) -> (usize, MemoryUse) {
        let (mut ahead, mut memory, mut agent) = (0, MemoryUse::default(), None);
        for name in &self.names {
            let path = format!("pg_wal/{name}");
            let mut hook = self.walden.command(&["-v", "wal", "push", &path]);
            let output = run(hook.current_dir(self.server.data_dir()).stdin(Stdio::null()));
            assert!(output.status.success(), "{name}: {}", describe(&output));
            ahead += usize::from(String::from_utf8_lossy(&output.stderr).contains("before it was asked for"));
            let status = |ending| self.wal("archive_status").join(format!("{name}.{ending}"));
            fs::rename(status("ready"), status("done")).unwrap();
            if agent.is_none() {
                let agents = self.processes.agents();
                assert!(agents.len() <= 1, "{agents:?}");
                agent = agents.first().copied();
            }
            // Calls come without a pause, so that it is there until the end.
            memory = agent.map_or(memory, |agent| memory.max(MemoryUse::of(agent)));
        }
        assert!(agent.is_some(), "a hook starts an agent");
        assert_eq!(self.processes.agents(), Vec::from_iter(agent), "the same one, and no other");
        println!("{} segments, {ahead} archived ahead; {memory:?}", self.names.len());
        (ahead, memory)
    }

    /// What the header of each object says of the file that is in it.
    fn hashes(&self) -> BTreeMap<String, String> {
        let mut open = vec![self.s3.object_file("repo")];
        let mut hashes = BTreeMap::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.to_str().unwrap().contains("/wal/") && path.extension().is_some_and(|e| e == "zst")
            {
                let object = fs::read(&path).unwrap();
                let length = u32::from_le_bytes(object[4..8].try_into().unwrap()) as usize;
                let header: Value = serde_json::from_slice(&object[20..8 + length]).unwrap();
                let text = |key: &str| header[key].as_str().unwrap().to_owned();
                hashes.insert(text("name"), text("plain_sha256"));
            }
        }
        hashes
    }

    fn assert_archived(&self) {
        let expected = self.names.iter().map(|name| {
            let bytes = fs::read(self.wal(name)).unwrap();
            (name.clone(), sha256_hex(&bytes))
        });
        assert!(self.hashes() == expected.collect(), "the archive and pg_wal differ");
        // And some of it as a recovery gets it.
        for name in [&self.names[0], &self.names[self.names.len() / 2], self.names.last().unwrap()] {
            let fetched = self.wal("fetched");
            let mut get = self.walden.command(&["--no-agent", "wal", "get", name, fetched.to_str().unwrap()]);
            let output = run(&mut get);
            assert!(output.status.success(), "{}", describe(&output));
            assert!(fs::read(&fetched).unwrap() == fs::read(self.wal(name)).unwrap(), "{name}");
            fs::remove_file(&fetched).unwrap();
        }
        let list = self.walden.json(&["wal", "list"]);
        let runs = list["timelines"][0]["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 1, "a gap: {list}");
        assert_eq!(runs[0]["count"], self.names.len());
    }

    /// One PUT for each segment, and hardly anything besides.
    fn assert_requests(&self) {
        let requests = self.s3.take_requests();
        let is_segment = |path: &str| path.contains("/wal/");
        let puts =
            requests.iter().filter(|request| request.method == Method::PUT && is_segment(&request.path));
        assert_eq!(puts.count(), self.names.len());
        let others: Vec<_> = requests
            .iter()
            .filter(|request| request.method != Method::PUT || !is_segment(&request.path))
            .map(|request| format!("{} {}?{}", request.method, request.path, request.query))
            .collect();
        println!("{} segments, {} other requests", self.names.len(), others.len());
        assert!(others.len() <= REQUESTS_BESIDES, "{others:#?}");
    }

    fn assert_agent_leaves(&self) {
        until("the agent to leave", || self.processes.agents().is_empty());
        let left: Vec<_> =
            fs::read_dir(self.processes.spool()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name == "socket"), "{left:?}");
    }
}

/// All of it in a build to be released. A build for tests has much more of its own file in memory; there it is the rest
/// that counts, beside what a released one has of its file.
fn assert_within_memory(memory: MemoryUse) {
    assert!(memory.anonymous <= PEAK_MAX - RELEASED_FILE, "{memory:?}");
    if !cfg!(debug_assertions) || std::env::var_os("WALDEN_TEST_PROGRAM").is_some() {
        assert!(memory.peak <= PEAK_MAX, "{memory:?}");
    }
}

#[test]
fn a_long_backlog_is_drained_with_a_request_for_each_segment_and_bounded_memory() {
    let campaign = std::env::var_os("WALDEN_CAMPAIGN").is_some();
    let segments = if campaign { SEGMENTS.0 } else { SEGMENTS.1 };
    let backlog = backlog(
        1 << 20,
        &format!(
            "DO $$ BEGIN FOR i IN 1..{segments} LOOP
                 PERFORM pg_logical_emit_message(false, 'walden', repeat(md5(i::text) || i, 50));
                 PERFORM pg_switch_wal();
             END LOOP; END $$"
        ),
    );
    assert!(backlog.names.len() >= segments, "{}", backlog.names.len());
    let (ahead, memory) = backlog.drain();
    backlog.assert_requests();
    assert!(ahead > backlog.names.len() / 2, "{ahead}");
    assert_within_memory(memory);
    backlog.assert_archived();
    backlog.assert_agent_leaves();
}

#[test]
fn large_segments_that_do_not_compress_stay_within_memory() {
    // A message of 4 MiB that no window of the compressor's holds twice; every third segment is nearly empty.
    let backlog = backlog(
        16 << 20,
        "CREATE TABLE noise AS SELECT string_agg(sha256((random()::text || n)::bytea), '') AS bytes
             FROM generate_series(1, 131072) n;
         DO $$ DECLARE noise bytea; BEGIN
             SELECT bytes INTO noise FROM noise;
             FOR i IN 1..5 LOOP
                 FOR j IN 1..8 LOOP PERFORM pg_logical_emit_message(false, 'walden', noise); END LOOP;
                 PERFORM pg_switch_wal();
             END LOOP;
         END $$",
    );
    assert!(backlog.names.len() >= 10, "{}", backlog.names.len());
    let (_, memory) = backlog.drain();
    backlog.assert_requests();
    assert_within_memory(memory);
    backlog.assert_archived();
    backlog.assert_agent_leaves();
}
