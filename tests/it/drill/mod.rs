//! `walden drill` on real servers: good ones, bad ones, and ones that are killed.

mod bad;
mod good;
mod killed;
mod manifests;
mod report;
mod spaces;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use walden_pg::PgMajor;
use walden_testkit::postgres::{PgServer, PostgresInstall, ServerAccount};

use crate::support::{Mark, Repository, Walden, commit_rows, describe, run};

/// An archive with a backup and WAL behind it, its server, and a place to drill in.
struct Bench {
    walden: Walden,
    server: PgServer,
    repository: Repository,
    marks: Vec<Mark>,
    base: tempfile::TempDir,
    bin: PathBuf,
}

impl Bench {
    fn new(major: PgMajor) -> Self {
        let repository = Repository::local();
        let walden = Walden::new(&repository, "main");
        let server = walden.server(major).start().unwrap();
        walden.init(&server);
        commit_rows(&server, 3);
        walden.json_at(&server, &["backup", "create"]);
        let marks = commit_rows(&server, 5);
        server.execute("SELECT pg_create_restore_point('before_the_end')").unwrap();
        commit_rows(&server, 3);
        server.archive_current_segment().unwrap();
        let bin = PostgresInstall::find(major).unwrap().bin().to_owned();
        let base = ServerAccount::current().unwrap().temp_dir().unwrap();
        Self { walden, server, repository, marks, base, bin }
    }

    /// A drill with these options.
    fn command(&self, options: &[&str]) -> Command {
        let (base, bin) = (self.base.path().to_str().unwrap(), self.bin.to_str().unwrap());
        let fixed = ["drill", "--directory", base, "--pg-bin", bin, "--output", "json"];
        self.walden.command(&[&fixed[..], options].concat())
    }

    /// Drills; it must end with this code, leave nothing behind, and change nothing in the archive but add its evidence.
    fn drill(&self, code: i32, options: &[&str]) -> Value {
        let before = self.objects();
        let output = run(&mut self.command(options));
        assert_eq!(output.status.code(), Some(code), "{}", describe(&output));
        let report = document(&output);
        self.assert_no_directory();
        let mut after = self.objects();
        if let Some(key) = report["evidence"].as_str() {
            assert!(key.contains("/drill/"), "{key}");
            assert!(!before.contains_key(key));
            assert!(after.remove(key).is_some(), "{key}");
        }
        // Nobody waits for the history file of a backup: the source may archive it only now.
        after.retain(|key, _| before.contains_key(key) || !key.ends_with(".backup.zst"));
        assert_eq!(before, after);
        report
    }

    /// Every object of the repository, with its length.
    fn objects(&self) -> BTreeMap<String, u64> {
        let top = self.repository.directory.as_deref().unwrap();
        let mut found = BTreeMap::new();
        let mut open = vec![top.to_owned()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                } else {
                    let key = entry.path().strip_prefix(top).unwrap().display().to_string();
                    found.insert(key, entry.metadata().unwrap().len());
                }
            }
        }
        found
    }

    /// The directories of drills that are there.
    fn directories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.base.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    }

    fn assert_no_directory(&self) {
        assert_eq!(self.directories(), Vec::<PathBuf>::new());
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.base.path().join(name);
        std::fs::write(&path, text).unwrap();
        ServerAccount::current().unwrap().own(&path).unwrap();
        path
    }

    /// What the repository has of a drill.
    fn evidence(&self, id: &str) -> Value {
        self.walden.json(&["drill", "show", id])
    }
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", describe(output)))
}

/// A check of a report.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

fn phases(report: &Value) -> Vec<&str> {
    let phases = report["phases"].as_array().unwrap();
    phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect()
}

/// The largest object whose path holds a text.
fn object(bench: &Bench, text: &str) -> PathBuf {
    let objects = bench.objects();
    let (key, _) =
        objects.iter().filter(|(key, _)| key.contains(text)).max_by_key(|(_, bytes)| **bytes).unwrap();
    bench.repository.directory.as_deref().unwrap().join(key)
}

/// Changes one byte in the middle of a file.
fn corrupt(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    std::fs::write(path, bytes).unwrap();
}
