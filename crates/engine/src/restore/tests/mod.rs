//! Restores of backups made by hand, good and hostile.

pub(super) mod fixture;
mod hostile;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;
use walden_core::{ErrorKind, Extent, ManifestEntry, RecoveryPlan, Setting, Tablespace};
use walden_pg::{PgMajor, TablespaceMap};

use self::fixture::{Fixture, noise};
use super::{
    ArchiveMode, IN_PROGRESS_MARKER, PLAN_FILE, RestoreRequest, TablespaceMapping, execute, execute_until,
};
use crate::data_directory::{DataDirectory, RecoveryMode};
use crate::progress::{Progress, Unit};

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn read(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}

/// A data directory with a bit of everything.
fn rich() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.file("base/5/1259", &noise(3 << 20, 1));
    // Larger than what is gathered with others.
    fixture.file("base/5/16384", &noise((6 << 20) + 8192, 2));
    fixture.file("base/5/16385_init", b"");
    // Holes at the front, in the middle and at the end.
    let mut holes = vec![0; 5 << 20];
    let (front, back) = (noise(8192, 3), noise(8192, 4));
    holes[1 << 20..][..8192].copy_from_slice(&front);
    holes[3 << 20..][..8192].copy_from_slice(&back);
    let extent = |file_offset: u64, (frame_offset, frame_bytes): (u64, u64)| Extent {
        file_offset,
        bytes: 8192,
        pack: 0,
        frame_offset,
        frame_bytes,
        skip: 0,
    };
    // The later bytes lie in front in the pack: they are written first, and the hash must not mind.
    let frame_back = fixture.frame(&back);
    let frame_front = fixture.frame(&front);
    fixture.file_of("base/5/16390", &holes, vec![extent(1 << 20, frame_front), extent(3 << 20, frame_back)]);
    let only_hole = vec![0; 100_000];
    fixture.file_of("base/5/16391", &only_hole, Vec::new());
    // Many small files in one frame.
    let bundle: Vec<Vec<u8>> = (0..200).map(|n| noise(100 + n, n as u64 + 10)).collect();
    let (frame_offset, frame_bytes) = fixture.frame(&bundle.concat());
    fixture.directory("base/6", 0o700);
    let mut skip = 0;
    for (n, bytes) in bundle.iter().enumerate() {
        let length = bytes.len() as u64;
        let extent = Extent { file_offset: 0, bytes: length, pack: 0, frame_offset, frame_bytes, skip };
        fixture.file_of(&format!("base/6/{n}"), bytes, vec![extent]);
        skip += length;
    }
    fixture
}

fn assert_contents(fixture: &Fixture, target: &Path, but: &[&str]) {
    for (path, bytes) in &fixture.contents {
        let path = std::str::from_utf8(path).unwrap();
        if !but.contains(&path) {
            assert!(std::fs::read(target.join(path)).unwrap() == *bytes, "{path}");
        }
    }
}

#[tokio::test]
async fn every_byte_is_back_and_the_server_is_told_what_to_do() {
    let mut fixture = rich();
    let plan = fixture.publish();
    let report = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let target = fixture.target();
    assert_contents(&fixture, &target, &["postgresql.auto.conf"]);
    assert_eq!(report.files, fixture.contents.len() as u64);
    assert_eq!(report.bytes, fixture.contents.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
    for needed in ["pg_wal/archive_status", "pg_logical/snapshots", "pg_replslot", "pg_wal/summaries"] {
        assert!(target.join(needed).is_dir(), "{needed}");
    }
    assert_eq!(
        read(&target.join("postgresql.auto.conf")),
        "# old\n\
         work_mem = '8MB'\n\
         # Written by walden restore of backup 20261118T110640Z-7f3a: the target and how its WAL is fetched.\n\
         recovery_target = ''\n\
         recovery_target_lsn = ''\n\
         recovery_target_xid = ''\n\
         recovery_target_name = ''\n\
         recovery_target_time = '2026-11-18 11:40:00.000000+00'\n\
         recovery_target_inclusive = 'on'\n\
         recovery_target_timeline = '1'\n\
         recovery_target_action = 'pause'\n\
         restore_command = 'walden wal get %f %p'\n\
         recovery_end_command = ''\n\
         archive_cleanup_command = ''\n\
         recovery_min_apply_delay = '0'\n\
         hot_standby = 'on'\n"
    );
    let data = DataDirectory::open(&target).unwrap();
    assert_eq!(data.recovery_mode().unwrap(), RecoveryMode::Archive);
    let marker = data.restored_marker().unwrap().unwrap();
    assert_eq!((marker.backup, marker.repository_id), (plan.backup.id.clone(), "ab".repeat(16)));
    let kept: serde_json::Value = serde_json::from_str(&read(&target.join(PLAN_FILE))).unwrap();
    assert_eq!(kept, serde_json::to_value(&plan).unwrap());
    assert!(!is_there(&target.join(IN_PROGRESS_MARKER)));
    let names: Vec<String> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.contains("walden-tmp")), "{names:?}");
    assert!(report.start_command.contains("pg_ctl -D"), "{}", report.start_command);

    let again = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Config);
    assert!(again.to_string().contains("holds a PostgreSQL data directory already"), "{again}");
}

#[tokio::test]
async fn few_requests_are_made() {
    let mut fixture = rich();
    let plan = fixture.publish();
    let before = fixture.ctx.store.counters();
    execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let after = fixture.ctx.store.counters();
    let count = |counters: walden_store::CounterSnapshot| counters.requests();
    // Records 2, manifest 1, five files that are looked at early, one large file, small ones in two reads.
    assert!(count(after) - count(before) <= 14, "{}", count(after) - count(before));
}

#[tokio::test]
async fn tablespaces_go_where_they_are_told() {
    let mut fixture = Fixture::new();
    let (old, new) = (fixture.path("old-space"), fixture.path("new-space"));
    fixture.tablespaces = vec![Tablespace { oid: 16385, path: old.display().to_string() }];
    let version = "pg_tblspc/16385/PG_17_202406281";
    fixture.directory(version, 0o700);
    fixture.directory(&format!("{version}/5"), 0o700);
    fixture.file(&format!("{version}/5/16390"), &noise(20_000, 1));
    fixture.file("tablespace_map", format!("16385 {}\n", old.display()).as_bytes());
    // In place: an ordinary directory.
    fixture.directory("pg_tblspc/16400", 0o700);
    fixture.file("pg_tblspc/16400/x", b"in place");
    let plan = fixture.publish();
    let mapping = vec![TablespaceMapping { from: "16385".into(), to: new.clone() }];
    let request = RestoreRequest { tablespace_mapping: mapping, ..fixture.request() };
    let report = execute(&fixture.ctx, &plan, request).await.unwrap();
    let target = fixture.target();
    assert_contents(&fixture, &target, &["postgresql.auto.conf", "tablespace_map"]);
    assert_eq!(std::fs::read_link(target.join("pg_tblspc/16385")).unwrap(), new);
    assert!(new.join("PG_17_202406281/5/16390").is_file() && !is_there(&old));
    let map =
        TablespaceMap::parse(&std::fs::read(target.join("tablespace_map")).unwrap(), PgMajor::V17).unwrap();
    assert_eq!(map.get(walden_pg::Oid::new(16385)), Some(new.as_path()));
    assert_eq!((report.tablespaces[0].from.clone(), report.tablespaces[0].to.clone()), (old, new));
}

#[tokio::test]
async fn a_tablespace_made_during_the_backup_goes_nowhere_else() {
    let mut fixture = Fixture::new();
    let (old, new) = (fixture.path("old-space"), fixture.path("new-space"));
    fixture.tablespaces = vec![Tablespace { oid: 16385, path: old.display().to_string() }];
    fixture.directory("pg_tblspc/16385/PG_17_202406281", 0o700);
    let plan = fixture.publish();
    let mapping = vec![TablespaceMapping { from: "16385".into(), to: new.clone() }];
    let request = RestoreRequest { tablespace_mapping: mapping, ..fixture.request() };
    let error = execute(&fixture.ctx, &plan, request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("made while the backup was taken"), "{error}");
    assert!(!is_there(&new) && !is_there(&fixture.target()));
    let report = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let said = |warning: &String| warning.contains("replay links to it where it was oid=16385");
    assert!(report.warnings.iter().any(said), "{:?}", report.warnings);
}

#[tokio::test]
async fn what_archives_elsewhere_is_switched_off() {
    for (conf, off) in [
        ("archive_mode = on\narchive_command = 'cp %p /a/%f && walden wal push %p'\n", true),
        ("archive_mode = on\narchive_command = 'walden wal push %p'\n", false),
    ] {
        let mut fixture = Fixture::new();
        fixture.file("postgresql.conf", conf.as_bytes());
        let plan = fixture.publish();
        let automatic = RestoreRequest { archive_mode: ArchiveMode::Auto, ..fixture.request() };
        let report = execute(&fixture.ctx, &plan, automatic).await.unwrap();
        let is_off = |setting: &Setting| setting.name == "archive_mode" && setting.value == "off";
        assert_eq!(report.settings.iter().any(is_off), off, "{conf}");
        let said = |warning: &String| warning.contains("archive_mode is set to off");
        assert_eq!(report.warnings.iter().any(said), off, "{:?}", report.warnings);
    }
}

#[tokio::test]
async fn links_become_directories_and_leftovers_of_the_source_stay_behind() {
    let mut fixture = Fixture::new();
    fixture.link("pg_wal", "/fast/wal");
    fixture.directory("pg_wal/archive_status", 0o700);
    fixture.file("standby.signal", b"");
    fixture.file("postmaster.pid", b"1\n");
    fixture.file("walden.restored.json", b"{}");
    let plan = fixture.publish();
    let report = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let target = fixture.target();
    assert!(target.join("pg_wal").symlink_metadata().unwrap().is_dir());
    assert!(!is_there(&target.join("standby.signal")) && !is_there(&target.join("postmaster.pid")));
    assert_eq!(report.left_out, ["postmaster.pid", "standby.signal", "walden.restored.json"]);
    assert_eq!((report.links[0].path.as_str(), report.links[0].as_directory), ("pg_wal", true));
    assert!(DataDirectory::open(&target).unwrap().restored_marker().unwrap().is_some());
}

#[tokio::test]
async fn a_configuration_that_lay_elsewhere_is_generated() {
    let mut fixture = Fixture::new();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"] {
        fixture.entries.remove(name.as_bytes());
    }
    let plan = fixture.publish();
    let report = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let target = fixture.target();
    assert_eq!(report.generated, ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"]);
    let conf = read(&target.join("postgresql.conf"));
    for line in [
        "hot_standby = 'on'",
        "wal_level = 'replica'",
        "max_connections = '117'",
        "max_prepared_transactions = '34'",
    ] {
        assert!(conf.contains(line), "{line} in {conf}");
    }
    assert!(read(&target.join("pg_hba.conf")).contains("peer"));
    assert!(report.warnings.iter().any(|warning| warning.contains("a minimal one was generated")));
}

#[tokio::test]
async fn what_the_source_ran_with_is_set_where_its_files_say_less() {
    let mut fixture = Fixture::new();
    fixture.file(
        "postgresql.conf",
        b"max_connections = 50\nhot_standby = off\narchive_mode = on\ndata_directory = '/live'\n\
          synchronous_standby_names = '*'\n",
    );
    let plan = fixture.publish();
    let request = RestoreRequest {
        archive_mode: ArchiveMode::Off,
        settings: vec![Setting { name: "port".into(), value: "5499".into() }],
        ..fixture.request()
    };
    let report = execute(&fixture.ctx, &plan, request).await.unwrap();
    let settings: Vec<String> = report.settings.iter().map(|s| format!("{}={}", s.name, s.value)).collect();
    for expected in [
        "hot_standby=on",
        "max_connections=117",
        "max_prepared_transactions=34",
        "archive_mode=off",
        "port=5499",
    ] {
        assert!(settings.iter().any(|setting| setting == expected), "{expected} in {settings:?}");
    }
    for expected in
        ["names another data directory", "synchronous_standby_names is set", "max_connections is set to 117"]
    {
        assert!(report.warnings.iter().any(|warning| warning.contains(expected)), "{expected}");
    }
    assert!(report.start_command.contains("data_directory="), "{}", report.start_command);
}

#[tokio::test]
async fn requests_that_no_server_could_follow_are_refused() {
    let mut fixture = Fixture::new();
    let plan = fixture.publish();
    let setting = |name: &str, value: &str| vec![Setting { name: name.into(), value: value.into() }];
    for request in [
        RestoreRequest { restore_command: "cp %f".into(), ..fixture.request() },
        RestoreRequest { restore_command: "cp %f %p\nrm".into(), ..fixture.request() },
        RestoreRequest { settings: setting("a b", "1"), ..fixture.request() },
        RestoreRequest { settings: setting("a", "1\nb = 2"), ..fixture.request() },
    ] {
        let error = execute(&fixture.ctx, &plan, request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(!is_there(&fixture.target()));
    }
    let other = RecoveryPlan { server: "other".parse().unwrap(), ..plan };
    assert_eq!(execute(&fixture.ctx, &other, fixture.request()).await.unwrap_err().kind(), ErrorKind::Config);
}

/// Tells somebody as soon as the first bytes are restored.
struct Tell(Arc<Notify>);

impl Progress for Tell {
    fn begin(&self, phase: &str, _: Unit, _: u64) {
        if phase == "restoring files" {
            self.0.notify_one();
        }
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

#[tokio::test]
async fn an_interrupted_restore_can_not_be_started_and_is_not_taken_for_a_good_one() {
    let mut fixture = rich();
    let plan = fixture.publish();
    let begun = Arc::new(Notify::new());
    fixture.with_progress(Arc::new(Tell(Arc::clone(&begun))));
    let error = execute_until(&fixture.ctx, &plan, fixture.request(), begun.notified()).await.unwrap_err();
    let target = fixture.target();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert!(error.hint().unwrap().contains(&format!("remove {} and restore again", target.display())));
    assert!(target.join(IN_PROGRESS_MARKER).is_file());
    assert!(!is_there(&target.join("global/pg_control")));

    let again = execute(&fixture.ctx, &plan, fixture.request()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Config);
    assert!(again.to_string().contains("an unfinished restore of backup 20261118T110640Z-7f3a"), "{again}");
    std::fs::remove_dir_all(&target).unwrap();
    execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
}

#[tokio::test]
async fn a_group_that_may_read_may_read_what_is_restored() {
    let mut fixture = Fixture::new();
    fixture.directory("global", 0o750);
    let plan = fixture.publish();
    execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&fixture.target()), 0o750);
    assert_eq!(mode(&fixture.target().join("recovery.signal")), 0o640);
}

#[tokio::test]
async fn a_path_that_is_not_utf8_is_restored() {
    let mut fixture = Fixture::new();
    fixture.file("odd", b"odd name");
    let mut entry = fixture.entry("odd").clone();
    entry.path = walden_core::ManifestPath::from_bytes(b"base/5/\xff");
    fixture.entries.remove(b"odd".as_slice());
    fixture.contents.remove(b"odd".as_slice());
    fixture.entries.insert(b"base/5/\xff".to_vec(), ManifestEntry::File(entry));
    let plan = fixture.publish();
    execute(&fixture.ctx, &plan, fixture.request()).await.unwrap();
    let path = fixture.target().join("base/5").join(std::ffi::OsStr::from_bytes(b"\xff"));
    assert_eq!(std::fs::read(path).unwrap(), b"odd name");
}
