//! kill -9 of `wal push` at every effect it has on the world: afterwards the same push succeeds, and the object
//! is right and the only one.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use walden_pg::{PgMajor, SegmentId, SegmentNumber, TimelineId, WalSegmentSize};
use walden_testkit::postgres::{PgServer, StopMode};

use crate::support::{Repository, Walden, commit_rows, describe, run};

/// The system calls that change something outside of the process.
const EFFECTS: &str = "openat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,\
     mkdirat,ftruncate,connect,sendto,sendmsg";
/// More effects than any push has.
const EFFECTS_MAX: usize = 2_000;

/// Makes segments of any number from one real one.
struct Segments {
    server: PgServer,
    real: Vec<u8>,
    size: WalSegmentSize,
    next: u64,
}

impl Segments {
    fn new(walden: &Walden) -> Self {
        let size = WalSegmentSize::new(1 << 20).unwrap();
        let mut server = walden.server(PgMajor::V17).wal_segment_size(size).start().unwrap();
        walden.init(&server);
        commit_rows(&server, 1);
        let segment = server.archive_current_segment().unwrap();
        let real = fs::read(server.data_dir().join("pg_wal").join(segment.to_string())).unwrap();
        server.stop(StopMode::Fast).unwrap();
        Self { server, real, size, next: 1_000 }
    }

    /// A segment that was never archived: its name and its file.
    fn fresh(&mut self) -> (String, PathBuf) {
        let number = SegmentNumber::new(self.next);
        self.next += 1;
        let name = SegmentId::new(TimelineId::FIRST, number).name(self.size).to_string();
        let mut bytes = self.real.clone();
        bytes[8..16].copy_from_slice(&self.size.start_of(number).get().to_le_bytes());
        let path = self.server.data_dir().join("pg_wal").join(&name);
        fs::write(&path, bytes).unwrap();
        (name, path)
    }
}

/// Runs a push that is killed at its `effect`-th effect; says whether it lived to its end.
fn push_killed_at(walden: &Walden, effect: usize, path: &std::path::Path) -> bool {
    let push = walden.command(&["wal", "push", path.to_str().unwrap()]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={EFFECTS}")]);
    traced.args(["-e", &format!("inject={EFFECTS}:signal=KILL:when={effect}")]);
    traced.arg(push.get_program()).args(push.get_args());
    traced.current_dir(push.get_current_dir().unwrap());
    for (name, value) in push.get_envs() {
        traced.env(name, value.unwrap_or_default());
    }
    walden.as_server_user(&mut traced);
    let status = traced.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    status.success()
}

fn survives_kills(repository: &Repository) {
    let walden = Walden::new(repository, "main");
    let mut segments = Segments::new(&walden);
    let mut killed = 0;
    for effect in 1..EFFECTS_MAX {
        let (name, path) = segments.fresh();
        let lived = push_killed_at(&walden, effect, &path);
        let retried = run(&mut walden.command(&["wal", "push", path.to_str().unwrap()]));
        assert!(retried.status.success(), "effect {effect}: {}", describe(&retried));
        let fetched = path.with_extension("fetched");
        let got = run(&mut walden.command(&["wal", "get", &name, fetched.to_str().unwrap()]));
        assert!(got.status.success(), "effect {effect}: {}", describe(&got));
        assert!(fs::read(&fetched).unwrap() == fs::read(&path).unwrap(), "effect {effect}");
        fs::remove_file(&fetched).unwrap();
        if lived {
            break;
        }
        killed += 1;
    }
    assert!(killed > 10, "the push has more effects than {killed}");
    let list = walden.json(&["wal", "list"]);
    let runs = list["timelines"][0]["runs"].as_array().unwrap();
    let count = runs.last().unwrap()["count"].as_u64().unwrap();
    assert_eq!(count, killed + 1, "one object for each segment: {list}");
    let window = walden.json(&["window"]);
    assert_eq!(window["strays"].as_array().map(Vec::len).unwrap_or_default(), 0, "{window}");
}

#[test]
fn push_to_a_directory_survives_kill_9_at_every_effect() {
    survives_kills(&Repository::local());
}

#[test]
fn push_to_s3_survives_kill_9_at_every_effect() {
    survives_kills(&crate::stores::s3());
}
