//! Tablespaces made after the backup, on real servers: a copy beside its source keeps out of the source's.

use walden_pg::PgMajor;
use walden_testkit::postgres::StopMode;

use crate::support::{Repository, Walden, commit_rows, count_rows};

#[test]
fn a_copy_beside_its_source_does_not_replay_into_the_sources_tablespace() {
    let repository = Repository::local();
    let walden = Walden::new(&repository, "main");
    let mut server = walden.server(PgMajor::V17).start().unwrap();
    walden.init(&server);
    commit_rows(&server, 2);
    walden.json_at(&server, &["backup", "create"]);

    let space = server.scratch_dir("space").unwrap();
    server.execute(&format!("CREATE TABLESPACE live LOCATION '{}'", space.display())).unwrap();
    server.execute("CREATE TABLE kept TABLESPACE live AS SELECT generate_series(1, 1000) AS id").unwrap();
    let rows = commit_rows(&server, 2).last().unwrap().rows;
    server.archive_current_segment().unwrap();
    // What only a replay of older WAL would undo.
    server.execute("UPDATE kept SET id = id + 1000").unwrap();
    server.execute("CHECKPOINT").unwrap();

    let data = server.scratch_dir("restored").unwrap();
    walden.json(&["restore", "--pgdata", data.to_str().unwrap()]);
    let mut restored = walden.restored(PgMajor::V17, &data);
    assert!(restored.start().is_err(), "it must not come up");
    let log = restored.log_since_start();
    assert!(log.contains("replay would take a directory"), "{log}");
    assert!(log.contains(&format!("--allow-tablespace {}", space.display())), "{log}");
    assert!(log.contains("FATAL"), "{log}");
    assert_eq!(std::fs::read_dir(data.join("pg_tblspc")).unwrap().count(), 0);

    server.execute("CHECKPOINT").unwrap();
    server.stop(StopMode::Immediate).unwrap();
    server.start().unwrap();
    let kept: String = server.value("SELECT count(*) || ' ' || min(id) || ' ' || max(id) FROM kept").unwrap();
    assert_eq!(kept, "1000 1001 2000");

    // The source is gone and its directory empty, as on another host: now the copy makes its own.
    server.execute("DROP TABLE kept").unwrap();
    server.execute("DROP TABLESPACE live").unwrap();
    restored.start().unwrap();
    restored.wait_until_promoted().unwrap();
    assert_eq!(count_rows(&restored), rows);
    let kept: i64 = restored.value("SELECT max(id) FROM kept").unwrap();
    assert_eq!(kept, 1000);
}
