//! What statements look like in the index.

use std::collections::BTreeMap;

use walden_core::index::{Event, EventKind, NotableTransaction, RelationOperation, WalFlags};
use walden_pg::{Lsn, PgMajor};
use walden_testkit::postgres::{PgServer, Result};

use crate::archive;

/// What the server calls its relations at a moment.
struct Names {
    /// By OID: the kind and the name.
    relations: BTreeMap<u32, (char, String)>,
    /// By file number: the OID.
    files: BTreeMap<u32, u32>,
}

impl Names {
    fn read(server: &PgServer) -> Result<Self> {
        let mut names = Self { relations: BTreeMap::new(), files: BTreeMap::new() };
        let query = "SELECT oid, relkind, relname, coalesce(pg_relation_filenode(oid), 0) FROM pg_class";
        for row in server.query(query)? {
            let oid: u32 = row[0].as_deref().unwrap_or_default().parse().expect("an OID");
            let kind = row[1].as_deref().unwrap_or_default().chars().next().expect("a kind");
            names.relations.insert(oid, (kind, row[2].clone().unwrap_or_default()));
            names.files.insert(row[3].as_deref().unwrap_or_default().parse().expect("a number"), oid);
        }
        Ok(names)
    }

    /// The tables, views and the like among the changes of a transaction, with what was done to them.
    fn tables(&self, transaction: &NotableTransaction) -> Vec<(RelationOperation, String)> {
        let mut tables: Vec<(RelationOperation, String)> = transaction
            .changes
            .iter()
            .filter_map(|change| {
                let by_files =
                    || change.files.and_then(|files| self.files.get(&files.relation.get()).copied());
                let oid = change.relation.map(walden_pg::Oid::get).or_else(by_files)?;
                let (kind, name) = self.relations.get(&oid)?;
                matches!(kind, 'r' | 'p' | 'v' | 'm' | 'f').then(|| (change.operation, name.clone()))
            })
            .collect();
        tables.sort();
        tables.dedup();
        tables
    }
}

struct Case {
    statement: &'static str,
    expected: &'static [(RelationOperation, &'static str)],
}

const fn case(statement: &'static str, expected: &'static [(RelationOperation, &'static str)]) -> Case {
    Case { statement, expected }
}

const SETUP: &str = "
    CREATE TABLE a (i int PRIMARY KEY, body text); INSERT INTO a SELECT g, md5(g::text) FROM generate_series(1, 3000) g;
    CREATE TABLE b (i int PRIMARY KEY, body text); INSERT INTO b SELECT g, md5(g::text) FROM generate_series(1, 300) g;
    CREATE TABLE c (i int); INSERT INTO c SELECT g FROM generate_series(1, 300) g;
    CREATE TABLE d (i int, body text); INSERT INTO d VALUES (1, 'x');
    CREATE TABLE e (i int); CREATE TABLE f (i int); CREATE TABLE g (i int PRIMARY KEY, s serial);
    CREATE TABLE refers (i int REFERENCES b);
    CREATE TABLE parts (i int) PARTITION BY RANGE (i);
    CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
    CREATE SCHEMA many; CREATE TABLE many.one (i int); CREATE TABLE many.two (i int PRIMARY KEY);
    CREATE VIEW many.seen AS SELECT * FROM many.one;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM generate_series(1, 20);
    CREATE TABLE moved (i int, body text); INSERT INTO moved SELECT g, 'b' FROM generate_series(1, 100) g;
    CREATE TABLE moved2 (i int PRIMARY KEY, body text);
    TRUNCATE moved; INSERT INTO moved SELECT g, 'b' FROM generate_series(1, 100) g; VACUUM FULL moved2";

use RelationOperation::{Drop, MassDelete, MassUpdate, Rewrite, Truncate};

const CASES: &[Case] = &[
    case("DROP TABLE e", &[(Drop, "e")]),
    case("BEGIN; DROP TABLE a; ROLLBACK", &[]),
    case("BEGIN; SAVEPOINT s; DROP TABLE a; ROLLBACK TO s; DROP TABLE f; COMMIT", &[(Drop, "f")]),
    case("BEGIN; SAVEPOINT s; DROP TABLE d; RELEASE s; COMMIT", &[(Drop, "d")]),
    case("DO $$ BEGIN BEGIN DROP TABLE g; EXCEPTION WHEN OTHERS THEN NULL; END; END $$", &[(Drop, "g")]),
    case("DROP TABLE refers", &[(Drop, "refers")]),
    case("TRUNCATE c", &[(Truncate, "c")]),
    case("TRUNCATE c", &[(Truncate, "c")]),
    case("BEGIN; TRUNCATE c; ROLLBACK", &[]),
    case("BEGIN; TRUNCATE a; INSERT INTO a VALUES (1, 'again'); COMMIT", &[(Truncate, "a")]),
    case("BEGIN; TRUNCATE a, b; COMMIT", &[(Truncate, "a"), (Truncate, "b")]),
    case("VACUUM FULL a", &[(Rewrite, "a")]),
    case("VACUUM FULL a", &[(Rewrite, "a")]),
    case("ALTER TABLE b ALTER i TYPE bigint", &[(Rewrite, "b")]),
    case("ALTER TABLE b ADD COLUMN more int; ALTER TABLE b RENAME COLUMN more TO less", &[]),
    case("REINDEX TABLE a", &[]),
    case("REFRESH MATERIALIZED VIEW kept", &[(Rewrite, "kept")]),
    case("DROP MATERIALIZED VIEW kept", &[(Drop, "kept")]),
    case("DROP TABLE parts1", &[(Drop, "parts1")]),
    case("DROP TABLE parts", &[(Drop, "parts"), (Drop, "parts2")]),
    case("DROP SCHEMA many CASCADE", &[(Drop, "one"), (Drop, "seen"), (Drop, "two")]),
    case("CREATE TABLE fleeting (i int PRIMARY KEY); DROP TABLE fleeting", &[]),
    case("BEGIN; CREATE TABLE fresh (i int PRIMARY KEY); TRUNCATE fresh; COMMIT", &[]),
    case("INSERT INTO c SELECT g FROM generate_series(1, 250) g; DELETE FROM c WHERE i <= 99", &[]),
    case("DELETE FROM c WHERE i > 100", &[(MassDelete, "c")]),
    case("INSERT INTO c SELECT g FROM generate_series(1, 100) g; UPDATE c SET i = -i", &[(MassUpdate, "c")]),
    case("BEGIN; DELETE FROM c; ROLLBACK", &[]),
    case("BEGIN; DELETE FROM c WHERE i > -60; SAVEPOINT s; DELETE FROM c; ROLLBACK TO s; COMMIT", &[]),
    case(
        "INSERT INTO c SELECT g FROM generate_series(1, 120) g;
         BEGIN; DELETE FROM c WHERE i > 60; SAVEPOINT s; DELETE FROM c; RELEASE s; COMMIT",
        &[(MassDelete, "c")],
    ),
    case(
        "BEGIN; DROP TABLE moved2; PREPARE TRANSACTION 'p'; SELECT pg_switch_wal(); COMMIT PREPARED 'p'",
        &[(Drop, "moved2")],
    ),
    case("BEGIN; DROP TABLE moved; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'", &[]),
    case("DROP TABLE moved, c", &[(Drop, "c"), (Drop, "moved")]),
    case("BEGIN; CREATE TABLE made (i int); DROP TABLE a; COMMIT", &[(Drop, "a")]),
];

struct Ran {
    case: &'static Case,
    names: Names,
    from: Lsn,
    to: Lsn,
}

fn run(server: &PgServer) -> Result<Vec<Ran>> {
    let session = server.session()?;
    for statement in SETUP.split(';') {
        session.execute(statement)?;
    }
    let mut ran = Vec::new();
    for case in CASES {
        let names = Names::read(server)?;
        let from = server.value("SELECT pg_current_wal_insert_lsn()")?;
        if case.statement.contains("$$") {
            session.execute(case.statement)?;
        } else {
            for statement in case.statement.split(';') {
                session.execute(statement)?;
            }
        }
        let to = server.value("SELECT pg_current_wal_insert_lsn()")?;
        ran.push(Ran { case, names, from, to });
    }
    Ok(ran)
}

fn check(major: PgMajor, wal_level: &str) -> Result<()> {
    let (server, dir) = archive::server(major, wal_level)?;
    let ran = run(&server)?;
    server.create_restore_point("the point")?;
    server.execute("CREATE DATABASE other")?;
    server.execute("DROP DATABASE other")?;
    server.archive_current_segment()?;
    let indexes = archive::index_all(&archive::segments(&dir));
    let events: Vec<&Event> = indexes.iter().flat_map(|index| &index.events).collect();
    let mut wrong = Vec::new();
    for Ran { case, names, from, to } in ran {
        let tables: Vec<_> = events
            .iter()
            .filter(|event| (from..to).contains(&event.lsn))
            .filter_map(|event| match &event.kind {
                EventKind::Transaction(transaction) => Some(names.tables(transaction)),
                _ => None,
            })
            .flatten()
            .collect();
        let found: Vec<(RelationOperation, &str)> =
            tables.iter().map(|(operation, name)| (*operation, name.as_str())).collect();
        if found != case.expected {
            let raw: Vec<_> = events.iter().filter(|event| (from..to).contains(&event.lsn)).collect();
            wrong.push(format!(
                "{}\n  expected {:?}\n  found    {found:?}\n  in {raw:?}",
                case.statement, case.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{major} {wal_level}:\n{}", wrong.join("\n"));
    let is_point =
        |event: &&&Event| matches!(&event.kind, EventKind::RestorePoint { name, .. } if name == "the point");
    assert_eq!(events.iter().filter(is_point).count(), 1);
    assert_eq!(
        events.iter().filter(|event| matches!(event.kind, EventKind::DatabaseDropped { .. })).count(),
        1
    );
    let flags = indexes.iter().fold(WalFlags::NONE, |all, index| all.with(index.summary.facts.flags));
    for flag in [
        WalFlags::RESTORE_POINT,
        WalFlags::CHECKPOINT,
        WalFlags::DROP,
        WalFlags::TRUNCATE,
        WalFlags::REWRITE,
        WalFlags::MASS_CHANGE,
        WalFlags::DATABASE_DROP,
        WalFlags::NAMES,
        WalFlags::SWITCHED,
    ] {
        assert!(flags.any(flag), "{flag:?}");
    }
    assert!(!flags.any(WalFlags::DAMAGED.with(WalFlags::ENDS_EARLY).with(WalFlags::WAL_LEVEL_MINIMAL)));
    Ok(())
}

#[test]
fn statements_of_13() {
    check(PgMajor::V13, "replica").expect("a server; run `cargo xtask setup`");
}

#[test]
fn statements_of_14_with_logical_decoding() {
    check(PgMajor::V14, "logical").expect("a server; run `cargo xtask setup`");
}

#[test]
fn statements_of_15() {
    check(PgMajor::V15, "replica").expect("a server; run `cargo xtask setup`");
}

#[test]
fn statements_of_16_with_logical_decoding() {
    check(PgMajor::V16, "logical").expect("a server; run `cargo xtask setup`");
}

#[test]
fn statements_of_17() {
    check(PgMajor::V17, "replica").expect("a server; run `cargo xtask setup`");
}

#[test]
fn statements_of_18() {
    check(PgMajor::V18, "replica").expect("a server; run `cargo xtask setup`");
}
