//! `walden check` fails when a recovery would: each thing that it promises is taken away, one at a time.

use std::path::{Path, PathBuf};

use serde_json::Value;
use walden_pg::PgMajor;
use walden_testkit::postgres::PgServer;

use crate::support::{Repository, Walden, commit_rows, describe, run};

/// The checks that failed.
fn failures(walden: &Walden, server: &PgServer) -> Vec<String> {
    let data = server.data_dir().to_str().unwrap();
    let database = format!("host={} port={} dbname=postgres", server.socket_dir().display(), server.port());
    let arguments = ["check", "--pgdata", data, "--dbname", &database, "--output", "json"];
    let output = run(&mut walden.command_at(server, &arguments));
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", describe(&output)));
    let failed = report["checks"].as_array().unwrap().iter().filter(|check| check["status"] == "failure");
    let failed: Vec<String> = failed.map(|check| check["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(output.status.code(), Some(if failed.is_empty() { 0 } else { 24 }), "{}", describe(&output));
    failed
}

/// The largest object whose path holds a text.
fn object(directory: &Path, text: &str) -> PathBuf {
    let mut open = vec![directory.to_owned()];
    let mut found: Option<(u64, PathBuf)> = None;
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let bytes = entry.metadata().unwrap().len();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if entry.path().to_str().unwrap().contains(text)
                && found.as_ref().is_none_or(|(most, _)| bytes > *most)
            {
                found = Some((bytes, entry.path()));
            }
        }
    }
    found.unwrap().1
}

#[test]
fn a_check_fails_when_a_recovery_would() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let mut server = walden.server(PgMajor::new(17).unwrap()).init().unwrap();
    walden.init(&server);
    server.start().unwrap();
    walden.json_at(&server, &["backup", "create", "--pgdata", server.data_dir().to_str().unwrap()]);
    commit_rows(&server, 5);
    server.archive_current_segment().unwrap();
    assert_eq!(failures(&walden, &server), Vec::<String>::new());
    let directory = repository.directory.clone().unwrap();

    let pack = object(&directory, "/pack/");
    let aside = pack.with_extension("aside");
    std::fs::rename(&pack, &aside).unwrap();
    assert_eq!(failures(&walden, &server), ["backup objects"]);
    std::fs::rename(&aside, &pack).unwrap();

    let segment = object(&directory, "/wal/");
    let whole = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &whole[..9000]).unwrap();
    let failed = failures(&walden, &server);
    assert!(failed.iter().any(|name| name == "WAL"), "{failed:?}");
    std::fs::write(&segment, &whole).unwrap();
    assert_eq!(failures(&walden, &server), Vec::<String>::new());

    // The server archives into another place than the one that is looked at.
    let elsewhere = Repository::local();
    let other = Walden::new(&elsewhere, "main");
    other.init(&server);
    let command = format!("{} --repo {}", other.archive_command(), elsewhere.url);
    server.execute(&format!("ALTER SYSTEM SET archive_command = '{command}'")).unwrap();
    server.execute("SELECT pg_reload_conf()").unwrap();
    commit_rows(&server, 5);
    server.archive_current_segment().unwrap();
    assert_eq!(failures(&walden, &server), ["arrival"]);
}
