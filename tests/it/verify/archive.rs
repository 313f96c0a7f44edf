//! An archive of a real server with a promotion in it, and copies of it to be damaged.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use walden_pg::{PgMajor, WalSegmentSize};
use walden_testkit::postgres::{PgServer, ServerAccount, StopMode};

use crate::support::{Repository, Walden, commit_rows, describe, run};

/// An archive with two timelines, a backup on each, and WAL behind both.
pub(super) struct Archive {
    pub(super) repository: Repository,
    pub(super) walden: Walden,
    /// Backups, the oldest first.
    pub(super) backups: Vec<String>,
}

/// The program over a copy of an archive, with a memory of its own.
pub(super) struct Copy {
    pub(super) walden: Walden,
    pub(super) root: PathBuf,
    state: PathBuf,
    _directory: tempfile::TempDir,
}

impl Archive {
    pub(super) fn make(major: PgMajor, repository: Repository) -> Self {
        let walden = Walden::new(&repository, "main");
        let mut server = walden
            .server(major)
            .wal_segment_size(WalSegmentSize::new(1 << 20).unwrap())
            .data_checksums(true)
            .start()
            .unwrap();
        walden.init(&server);
        let mut backups = Vec::new();
        let backup = |server: &PgServer| {
            walden.json_at(server, &["backup", "create"]);
            let list = walden.json(&["backup", "list"]);
            let ids = list.as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap().to_owned());
            ids.max().unwrap()
        };
        work(&server);
        backups.push(backup(&server));
        for _ in 0..3 {
            work(&server);
            server.archive_current_segment().unwrap();
        }
        // Promoted somewhere in the middle: the fork lies behind WAL that the old timeline has, too.
        let point = server.value::<String>("SELECT pg_create_restore_point('fork')::text").unwrap();
        work(&server);
        server.archive_current_segment().unwrap();
        server.stop(StopMode::Fast).unwrap();
        let data = server.scratch_dir("promoted").unwrap();
        let path = data.to_str().unwrap();
        walden.json(&["restore", "--pgdata", path, "--target-name", "fork", "--target-action", "promote"]);
        walden.json(&["server", "adopt", "--pgdata", path]);
        let mut promoted = walden.restored(major, &data);
        promoted.start().unwrap();
        promoted.wait_until_promoted().unwrap();
        promoted.execute("ALTER SYSTEM SET archive_mode = 'on'").unwrap();
        let command = walden.archive_command();
        promoted.execute(&format!("ALTER SYSTEM SET archive_command = '{command}'")).unwrap();
        promoted.restart().unwrap();
        work(&promoted);
        // A second later, so that the names of backups rise.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        backups.push(backup(&promoted));
        for _ in 0..2 {
            work(&promoted);
            promoted.archive_current_segment().unwrap();
        }
        promoted.stop(StopMode::Fast).unwrap();
        assert!(!point.is_empty());
        Self { repository, walden, backups }
    }

    pub(super) fn local(major: PgMajor) -> Self {
        Self::make(major, Repository::local())
    }

    /// A copy that may be damaged.
    pub(super) fn copy(&self) -> Copy {
        let directory = ServerAccount::current().unwrap().temp_dir().unwrap();
        let root = directory.path().join("repository");
        let from = self.repository.directory.as_ref().unwrap();
        assert!(Command::new("cp").arg("-a").arg(from).arg(&root).status().unwrap().success());
        // Nothing in it is on its way any more.
        let mut age = Command::new("find");
        age.arg(&root).args(["-type", "f", "-exec", "touch", "-d", "2 days ago", "{}", "+"]);
        assert!(age.status().unwrap().success());
        let url = format!("file://{}", root.display());
        let repository = Repository::on(url, Vec::new(), ());
        let mut walden = Walden::new(&repository, "main");
        let state = directory.path().join("state");
        walden.set("WALDEN_STATE_DIRECTORY", state.to_str().unwrap());
        Copy { walden, root, state, _directory: directory }
    }
}

/// Rows, and enough WAL for records to cross the borders of segments.
fn work(server: &PgServer) {
    commit_rows(server, 3);
    server.execute("CREATE TABLE IF NOT EXISTS bulk (id int, payload text)").unwrap();
    server
        .execute(
            "INSERT INTO bulk SELECT n, md5(n::text) || repeat('y', 300) FROM generate_series(1, 5000) AS n",
        )
        .unwrap();
    server.execute("CHECKPOINT").unwrap();
}

impl Copy {
    /// All objects whose path holds a text, in order.
    pub(super) fn objects(&self, text: &str) -> Vec<PathBuf> {
        let (mut open, mut found) = (vec![self.root.clone()], Vec::new());
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.to_str().unwrap().contains(text) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The segments of a timeline.
    pub(super) fn segments(&self, timeline: u32) -> Vec<PathBuf> {
        let mut segments = self.objects(&format!("/wal/{timeline:08X}/"));
        segments.retain(|path| path.file_name().unwrap().len() == 24 + 4);
        segments
    }

    /// The state directory.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// The key of an object.
    pub(super) fn key(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned()
    }

    pub(super) fn verify(&self, arguments: &[&str]) -> Verified {
        Verified::of(&run(&mut self.walden.command(&[&["verify", "--output", "json"], arguments].concat())))
    }
}

/// What a run of `walden verify` said.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) code: i32,
    pub(super) report: Value,
}

impl Verified {
    pub(super) fn of(output: &Output) -> Self {
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", describe(output)));
        Self { code: output.status.code().unwrap(), report }
    }

    pub(super) fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().unwrap_or_else(|| panic!("{:#}", self.report))
    }

    /// The findings that are no notices, as verdict, kind and key.
    pub(super) fn told(&self) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let told = self.findings().iter().filter(|finding| finding["verdict"] != "notice");
        told.map(|finding| (text(&finding["verdict"]), text(&finding["kind"]), text(&finding["key"])))
            .collect()
    }

    pub(super) fn assert_good(&self, what: &str) {
        assert!(self.code == 0 && self.told().is_empty(), "{what}: {} {:#}", self.code, self.report);
        assert_eq!(self.report["verdict"], "good", "{what}");
    }
}
