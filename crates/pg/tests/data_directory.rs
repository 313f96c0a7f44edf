//! Names, checksums and `pg_control` in data directories of real servers.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walden_pg::relation_file::unlogged_relations;
use walden_pg::{ClusterState, ControlFile, DataPage, Fork, PageVerdict, PgMajor, RelationFile};
use walden_testkit::postgres::{PgServer, Result, StopMode};

/// Every page of every relation's file has the checksum that it must have at its place, and what is not
/// a relation's file is not taken for one.
fn check(major: PgMajor) -> Result<()> {
    let mut server = PgServer::builder(major).setting("autovacuum", "off").start()?;
    let space = server.scratch_dir("tablespace")?;
    server.execute(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()))?;
    let session = server.session()?;
    session.execute(
        "CREATE TABLE t AS SELECT g, repeat('x', g % 500) AS body FROM generate_series(1, 20000) g;
         CREATE INDEX ON t (g);
         DELETE FROM t WHERE g % 3 = 0;
         CREATE TABLE moved TABLESPACE space AS SELECT * FROM t;
         CREATE UNLOGGED TABLE quick AS SELECT * FROM t LIMIT 10",
    )?;
    session.execute("VACUUM t")?;
    let path_of = |table: &str| session.value::<String>(&format!("SELECT pg_relation_filepath('{table}')"));
    let (moved, quick) = (path_of("moved")?, path_of("quick")?);
    let paths_of = |condition: &str| -> Result<BTreeSet<String>> {
        let rows = session.query(&format!(
            "SELECT pg_relation_filepath(oid) FROM pg_class
             WHERE pg_relation_filepath(oid) IS NOT NULL AND {condition}"
        ))?;
        Ok(rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect())
    };
    let (relations, unlogged_paths) = (paths_of("true")?, paths_of("relpersistence = 'u'")?);
    session.execute("CREATE TEMP TABLE passing AS SELECT * FROM t LIMIT 5000")?;
    server.execute("CHECKPOINT")?;
    let data = server.data_dir().to_owned();
    let mut found = Vec::new();
    walk(&data, &data, &mut found);
    server.kill9()?;

    let names: BTreeSet<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    for relation in &relations {
        assert!(names.contains(relation.as_str()), "{relation} is not among the relations' files");
    }
    assert!(names.contains(moved.as_str()) && moved.starts_with("pg_tblspc/"));
    let unlogged = unlogged_relations(names.iter().map(|path| path.rsplit('/').next().unwrap_or_default()));
    let left_out: Vec<_> = found
        .iter()
        .filter(|(_, file)| file.name.is_left_out(&unlogged))
        .map(|(path, _)| path.as_str())
        .collect();
    assert!(left_out.contains(&quick.as_str()), "{left_out:?}");
    assert!(!left_out.contains(&format!("{quick}_init").as_str()));
    assert!(found.iter().any(|(_, file)| file.name.temporary_of.is_some()));
    for (path, file) in &found {
        let main = path.split(['_', '.']).next().unwrap_or_default();
        let expected =
            file.name.temporary_of.is_some() || (unlogged_paths.contains(main) && !path.ends_with("_init"));
        assert_eq!(left_out.contains(&path.as_str()), expected, "{path}");
    }

    let mut pages = 0;
    let mut forks = BTreeSet::new();
    for (path, file) in found.iter().filter(|(_, file)| !file.name.is_left_out(&unlogged)) {
        let bytes = fs::read(data.join(path)).expect("read a relation's file");
        let first = file.name.first_block(131_072).expect("a block");
        for (block, page) in (first..).zip(bytes.chunks_exact(8192)) {
            let page = DataPage::new(page).expect("a page");
            let verdict = page.verify(block);
            assert!(
                matches!(verdict, PageVerdict::Good | PageVerdict::New),
                "{path} block {block}: {verdict:?}"
            );
            if verdict == PageVerdict::Good {
                pages += 1;
                forks.insert(file.name.fork);
            }
        }
    }
    assert!(pages > 1000, "{pages} pages");
    assert!(forks.is_superset(&[Fork::Main, Fork::Fsm, Fork::Vm].into()), "{forks:?}");
    check_control(&mut server, major)
}

/// `pg_control` through a crash recovery and a clean stop.
fn check_control(server: &mut PgServer, major: PgMajor) -> Result<()> {
    let read = |server: &PgServer| {
        let bytes = fs::read(server.data_dir().join("global/pg_control")).expect("read pg_control");
        assert_eq!(bytes.len(), ControlFile::FILE_SIZE);
        ControlFile::parse(&bytes).expect("pg_control")
    };
    assert_eq!(read(server).state, ClusterState::InProduction);
    server.start()?;
    let control = read(server);
    assert_eq!(control.major, major);
    assert_eq!(control.system_id, server.system_id()?);
    assert_eq!(control.wal_segment_size, server.wal_segment_size()?);
    let directory = control.tablespace_directory();
    let links = fs::read_dir(server.data_dir().join("pg_tblspc")).expect("read pg_tblspc");
    for link in links {
        let link = link.expect("read pg_tblspc").path();
        assert!(link.join(&directory).is_dir(), "{directory} in {}", link.display());
    }
    server.stop(StopMode::Fast)?;
    assert_eq!(read(server).state, ClusterState::ShutDown);
    Ok(())
}

/// The relations' files below `dir`, by their paths relative to `data`.
fn walk(data: &Path, dir: &Path, found: &mut Vec<(String, RelationFile)>) {
    for entry in fs::read_dir(dir).expect("read a directory") {
        let path: PathBuf = entry.expect("read a directory").path();
        if path.is_dir() {
            walk(data, &path, found);
            continue;
        }
        let relative =
            path.strip_prefix(data).ok().and_then(Path::to_str).expect("a path in the data directory");
        if let Some(file) = RelationFile::from_path(relative) {
            found.push((relative.to_owned(), file));
        }
    }
}

#[test]
fn major_13() {
    check(PgMajor::V13).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn major_16() {
    check(PgMajor::V16).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn major_18() {
    check(PgMajor::V18).unwrap_or_else(|error| panic!("{error}"));
}
