use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const VERSION: &str = "PG_17_202406281";

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap() };
        tree.files(&["global/pg_control", "PG_VERSION"]);
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn files(&self, paths: &[&str]) {
        for path in paths {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
    }

    fn directories(&self, paths: &[&str]) {
        for path in paths {
            std::fs::create_dir_all(self.path(path)).unwrap();
        }
    }

    fn scan(&self) -> Scan {
        scan(&ScanRequest {
            root: self.root.path().to_owned(),
            tablespace_directory: VERSION.to_owned(),
            statistics_directory: Some("my_stats".to_owned()),
        })
        .unwrap()
    }

    /// The paths found, with `/` after directories, `@` after links and `*` after late files.
    fn found(&self) -> Vec<String> {
        let scan = self.scan();
        let text = |item: &Item| {
            let mark = match item.kind {
                ItemKind::Directory { .. } => "/",
                ItemKind::Link { .. } => "@",
                ItemKind::File { .. } => "",
                ItemKind::Late(_) => "*",
            };
            format!("{}{mark}", shown(&scan.path(item)))
        };
        scan.items.iter().map(text).collect()
    }
}

#[test]
fn contents_that_mean_nothing_elsewhere_leave_empty_directories() {
    let tree = Tree::new();
    tree.files(&[
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/000000010000000000000001.ready",
        "pg_wal/summaries/x.summary",
        "pg_wal/other/x",
        "pg_replslot/slot/state",
        "pg_dynshmem/mmap.1",
        "pg_notify/0000",
        "pg_serial/0000",
        "pg_snapshots/1",
        "pg_stat_tmp/global.stat",
        "pg_subtrans/0000",
        "my_stats/db_0.stat",
        "pg_xact/0000",
    ]);
    assert_eq!(
        tree.found(),
        [
            "PG_VERSION",
            "backup_label*",
            "global/",
            "global/pg_control*",
            "my_stats/",
            "pg_dynshmem/",
            "pg_notify/",
            "pg_replslot/",
            "pg_serial/",
            "pg_snapshots/",
            "pg_stat_tmp/",
            "pg_subtrans/",
            "pg_wal/",
            "pg_wal/archive_status/",
            "pg_wal/summaries/",
            "pg_xact/",
            "pg_xact/0000",
            "tablespace_map*",
        ]
    );
}

#[test]
fn files_that_a_server_makes_anew_are_left_out() {
    let tree = Tree::new();
    tree.files(&[
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "recovery.signal",
        "standby.signal",
        "walden.restored.json",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "postgresql.auto.conf",
        "global/pg_internal.init",
        "base/5/pg_internal.init.12",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/5/pgsql_tmp7.1",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
    ]);
    let kept =
        ["PG_VERSION", "backup_label*", "base/", "base/5/", "base/5/PG_VERSION", "base/5/pg_filenode.map"];
    let rest = ["global/", "global/pg_control*", "postgresql.auto.conf", "tablespace_map*"];
    assert_eq!(tree.found(), [kept.as_slice(), rest.as_slice()].concat());
}

#[test]
fn temporary_and_unlogged_relations_are_left_out_but_for_the_init_fork() {
    let tree = Tree::new();
    tree.files(&[
        "base/5/16384",
        "base/5/16384_fsm",
        "base/5/16384.1",
        "base/5/16390",
        "base/5/16390_fsm",
        "base/5/16390_init",
        "base/5/16390.1",
        "base/5/t3_16400",
        "base/5/t3_16400_fsm.1",
        "base/6/16390",
        "log/16390",
        "log/16390_init",
        "log/t3_16400",
    ]);
    let found = tree.found();
    let in_base: Vec<&str> =
        found.iter().map(String::as_str).filter(|path| path.starts_with("base/")).collect();
    assert_eq!(
        in_base,
        [
            "base/",
            "base/5/",
            "base/5/16384",
            "base/5/16384.1",
            "base/5/16384_fsm",
            "base/5/16390_init",
            "base/6/",
            "base/6/16390",
        ]
    );
    assert_eq!(found.iter().filter(|path| path.starts_with("log/")).count(), 4, "no relations in there");
}

#[test]
fn the_order_is_that_of_the_paths_bytes() {
    let tree = Tree::new();
    tree.files(&["base/1/x", "base/1-a", "base/1.b", "base/10/y", "base/1/a/b", "base/1z"]);
    let scan = tree.scan();
    let paths: Vec<Vec<u8>> = scan.items.iter().map(|item| scan.path(item)).collect();
    let mut sorted = paths.clone();
    sorted.sort();
    assert_eq!(paths, sorted);
    assert_eq!(scan.files, 7);
    assert_eq!(scan.bytes, 7);
}

#[test]
fn empty_directories_and_modes_are_recorded() {
    let tree = Tree::new();
    tree.directories(&["pg_twophase", "pg_logical/snapshots"]);
    std::fs::set_permissions(tree.path("pg_twophase"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let scan = tree.scan();
    let mode =
        |wanted: &str| scan.items.iter().find(|item| scan.path(item) == wanted.as_bytes()).unwrap().kind;
    assert_eq!(mode("pg_twophase"), ItemKind::Directory { mode: 0o750 });
    assert!(tree.found().contains(&"pg_logical/snapshots/".to_owned()));
}

#[test]
fn tablespaces_are_followed_into_this_versions_directory_only() {
    let tree = Tree::new();
    let elsewhere = tempfile::tempdir().unwrap();
    for path in ["PG_17_202406281/5/16390", "PG_16_202307071/5/16390", "README"] {
        let path = elsewhere.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    tree.directories(&["pg_tblspc"]);
    symlink(elsewhere.path(), tree.path("pg_tblspc/16385")).unwrap();
    tree.files(&["pg_tblspc/16500/PG_17_202406281/5/1"]);
    let found = tree.found();
    let tablespaces: Vec<&str> =
        found.iter().map(String::as_str).filter(|path| path.starts_with("pg_tblspc")).collect();
    assert_eq!(
        tablespaces,
        [
            "pg_tblspc/",
            "pg_tblspc/16385/",
            "pg_tblspc/16385/PG_17_202406281/",
            "pg_tblspc/16385/PG_17_202406281/5/",
            "pg_tblspc/16385/PG_17_202406281/5/16390",
            "pg_tblspc/16500/",
            "pg_tblspc/16500/PG_17_202406281/",
            "pg_tblspc/16500/PG_17_202406281/5/",
            "pg_tblspc/16500/PG_17_202406281/5/1",
        ]
    );
    let scan = tree.scan();
    assert_eq!(scan.tablespaces, [LinkedTablespace { oid: 16385, target: elsewhere.path().to_owned() }]);
}

#[test]
fn a_tablespace_inside_the_data_directory_is_kept_once() {
    let tree = Tree::new();
    tree.files(&[
        &format!("my_space/{VERSION}/5/16390"),
        &format!("other/{VERSION}/5/16391"),
        "my_space/notes",
    ]);
    tree.directories(&["pg_tblspc"]);
    symlink(tree.path("my_space"), tree.path("pg_tblspc/16385")).unwrap();
    let found = tree.found();
    let kept: Vec<&str> = found.iter().map(String::as_str).filter(|path| path.contains("/5/1")).collect();
    assert_eq!(kept, [format!("other/{VERSION}/5/16391"), format!("pg_tblspc/16385/{VERSION}/5/16390")]);
    for path in ["my_space/", "my_space/notes"] {
        assert!(found.iter().any(|kept| kept == path), "{path}");
    }
}

#[test]
fn links_are_followed_where_the_server_needs_what_is_behind_them() {
    let tree = Tree::new();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(elsewhere.path().join("wal/archive_status")).unwrap();
    std::fs::create_dir_all(elsewhere.path().join("db")).unwrap();
    for file in ["wal/000000010000000000000001", "db/1259", "conf", "log"] {
        std::fs::write(elsewhere.path().join(file), b"x").unwrap();
    }
    tree.directories(&["base"]);
    for (target, link) in
        [("wal", "pg_wal"), ("db", "base/5"), ("conf", "postgresql.conf"), ("log", "log"), ("gone", "base/6")]
    {
        symlink(elsewhere.path().join(target), tree.path(link)).unwrap();
    }
    symlink("..", tree.path("base/7")).unwrap();
    let scan = tree.scan();
    let found = tree.found();
    for path in ["base/5/", "base/5/1259", "postgresql.conf", "pg_wal@", "pg_wal/archive_status/"] {
        assert!(found.contains(&path.to_owned()), "{path}");
    }
    assert!(!found.iter().any(|path| path.starts_with("log") || path == "base/6"));
    assert!(!found.contains(&"pg_wal/000000010000000000000001".to_owned()));
    assert!(scan.warnings.iter().any(|warning| warning.ends_with("path=log")), "{:?}", scan.warnings);
    assert!(scan.warnings.iter().any(|warning| warning.contains("a directory above it")), "a circle ends");
}

#[test]
fn sockets_are_left_out_with_a_warning() {
    let tree = Tree::new();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("s.sock")).unwrap();
    let scan = tree.scan();
    assert_eq!(scan.warnings, ["left out, not a file or directory path=s.sock"]);
}

#[test]
fn names_that_are_not_utf8_are_kept() {
    let tree = Tree::new();
    std::fs::write(tree.root.path().join(OsStr::from_bytes(b"caf\xe9")), b"x").unwrap();
    let scan = tree.scan();
    assert!(scan.items.iter().any(|item| scan.path(item) == b"caf\xe9"));
}
