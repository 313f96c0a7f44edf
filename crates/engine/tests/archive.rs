//! Push and get over a local directory: what may be archived, what is refused, and what an answer means.

#![expect(clippy::unwrap_used, reason = "a test that can't go on ends loudly")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use walden_core::ErrorKind;
use walden_engine::{
    Archiver, Context, DataDirectory, FetchOutcome, Fetcher, InitRequest, NoProgress, PushOutcome,
    RESTORED_MARKER, RestoredMarker, SystemClock, adopt, find_incarnation, init, load_snapshot,
};
use walden_store::{Environment, Store, StoreConfig, StoreUrl};

const CONTROL: &[u8] = include_bytes!("../../pg/fixtures/pg17/pg_control");
const PAGE: &[u8] = include_bytes!("../../pg/fixtures/pg17/000000010000000000000002.page");
const FOREIGN: &str = "00000001000000000000000B";
const NAME: &str = "000000010000000000000002";

struct Bench {
    directory: TempDir,
    ctx: Context,
    data: DataDirectory,
}

/// A data directory with one real first page, and a repository beside it.
fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let pgdata = directory.path().join("data");
    make_data_directory(&pgdata, CONTROL);
    let url: StoreUrl = format!("file://{}/repo", directory.path().display()).parse().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    std::fs::create_dir(directory.path().join("repo")).unwrap();
    let ctx = Context {
        store: Store::open(&url, &StoreConfig::default(), &Environment::default()).unwrap(),
        server: "main".parse().unwrap(),
        clock: Arc::new(SystemClock),
        progress: Arc::new(NoProgress),
        state_directory: Some(directory.path().join("state")),
        store_deadline: Duration::from_secs(20),
        host: "db1".into(),
    };
    let data = DataDirectory::open(&pgdata).unwrap();
    Bench { directory, ctx, data }
}

fn make_data_directory(pgdata: &Path, control: &[u8]) {
    for directory in ["global", "pg_wal/archive_status"] {
        std::fs::create_dir_all(pgdata.join(directory)).unwrap();
    }
    let mut control = control.to_vec();
    control.resize(8192, 0);
    std::fs::write(pgdata.join("global/pg_control"), control).unwrap();
    std::fs::write(pgdata.join("pg_wal").join(NAME), segment(0)).unwrap();
}

/// A segment whose first page is real and whose rest is `fill`.
fn segment(fill: u8) -> Vec<u8> {
    let size = usize::try_from(walden_pg::SegmentHeader::parse(PAGE).unwrap().segment_size.bytes()).unwrap();
    let mut bytes = PAGE.to_vec();
    bytes.resize(size, fill);
    bytes
}

impl Bench {
    async fn init(&self) {
        init(&self.ctx, &InitRequest { data: self.data.clone() }).await.unwrap();
    }

    fn wal(&self, name: &str) -> PathBuf {
        self.data.path().join("pg_wal").join(name)
    }

    async fn push(&self, name: &str) -> walden_engine::Result<walden_engine::PushReport> {
        Archiver::new(self.ctx.clone()).push(&Path::new("pg_wal").join(name), self.data.path()).await
    }

    async fn get(&self, name: &str) -> walden_engine::Result<walden_engine::FetchReport> {
        Fetcher::new(self.ctx.clone()).fetch(name, Path::new("pg_wal/RECOVERYXLOG"), self.data.path()).await
    }

    /// Files in pg_wal that nobody put there on purpose.
    fn litter(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.data.path().join("pg_wal")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("walden-tmp")).collect()
    }
}

#[tokio::test]
async fn what_is_pushed_comes_back_byte_for_byte() {
    let bench = bench();
    bench.init().await;
    let report = bench.push(NAME).await.unwrap();
    assert_eq!(report.outcome, PushOutcome::Stored);
    assert_eq!(bench.push(NAME).await.unwrap().outcome, PushOutcome::AlreadyStored);
    assert_eq!(bench.get(NAME).await.unwrap().outcome, FetchOutcome::Fetched);
    assert_eq!(std::fs::read(bench.wal("RECOVERYXLOG")).unwrap(), segment(0));
    let record = find_incarnation(&bench.ctx, None).await.unwrap();
    let snapshot = load_snapshot(&bench.ctx, &record).await.unwrap();
    assert_eq!(snapshot.segment_totals(), (1, report.stored_bytes));
    assert_eq!(snapshot.strays, []);
    assert_eq!(bench.litter(), Vec::<String>::new());
}

#[tokio::test]
async fn a_local_repository_is_looked_at_anew_for_every_file() {
    let bench = bench();
    bench.init().await;
    bench.push(NAME).await.unwrap();
    // The file system was unmounted: an empty mount point is no archive.
    let repo = bench.directory.path().join("repo");
    std::fs::rename(&repo, bench.directory.path().join("unmounted")).unwrap();
    std::fs::create_dir(&repo).unwrap();
    std::fs::write(bench.wal("000000010000000000000002.partial"), segment(1)).unwrap();
    let error = bench.push("000000010000000000000002.partial").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(&repo).unwrap().count(), 0);
}

#[tokio::test]
async fn a_timeline_that_was_left_is_compared_up_to_the_fork() {
    let bench = bench();
    bench.init().await;
    for name in [NAME.to_owned(), format!("{NAME}.partial")] {
        std::fs::write(bench.wal(&name), segment(0)).unwrap();
        bench.push(&name).await.unwrap();
        // The same up to the fork, something else behind it.
        let mut other = segment(0);
        let behind = other.len() / 2;
        other[behind..].fill(7);
        std::fs::write(bench.wal(&name), &other).unwrap();
        let start = walden_pg::SegmentHeader::parse(PAGE).unwrap().page.address;
        let history = bench.wal("00000002.history");
        let left_at = |offset: usize| {
            let fork = start.saturating_add(u64::try_from(offset).unwrap());
            std::fs::write(&history, format!("1\t{fork}\tpromoted\n")).unwrap();
        };
        assert_eq!(bench.push(&name).await.unwrap_err().kind(), ErrorKind::Conflict, "it was not left");
        left_at(behind + 8);
        assert_eq!(
            bench.push(&name).await.unwrap_err().kind(),
            ErrorKind::Conflict,
            "other bytes before the fork"
        );
        left_at(other.len() + 8);
        assert_eq!(
            bench.push(&name).await.unwrap_err().kind(),
            ErrorKind::Conflict,
            "left in a later segment"
        );
        left_at(behind);
        assert_eq!(bench.push(&name).await.unwrap().outcome, PushOutcome::AlreadyStored);
        std::fs::remove_file(&history).unwrap();
    }
}

#[tokio::test]
async fn torn_history_files_are_refused() {
    let bench = bench();
    bench.init().await;
    for text in ["", "rubbish", "# only a remark\n"] {
        std::fs::write(bench.wal("00000002.history"), text).unwrap();
        assert!(bench.push("00000002.history").await.is_err(), "{text:?}");
    }
    std::fs::write(bench.wal("00000002.history"), "1\t0/2000100\tpromoted\n").unwrap();
    assert_eq!(bench.push("00000002.history").await.unwrap().outcome, PushOutcome::Stored);
}

#[tokio::test]
async fn adopting_for_one_server_lifts_no_other_ban() {
    let bench = bench();
    bench.init().await;
    let record = find_incarnation(&bench.ctx, None).await.unwrap();
    let marker = RestoredMarker {
        schema: 1,
        repository_id: record.repository_id.clone(),
        server: record.server.clone(),
        incarnation: record.incarnation(),
        backup: walden_core::BackupId::new(jiff::Timestamp::UNIX_EPOCH, 0),
        restored_at: jiff::Timestamp::UNIX_EPOCH,
        allowed_tablespaces: Vec::new(),
        drill: false,
    };
    std::fs::write(bench.data.path().join(RESTORED_MARKER), serde_json::to_vec(&marker).unwrap()).unwrap();
    let copy = Context { server: "copy".parse().unwrap(), ..bench.ctx.clone() };
    init(&copy, &InitRequest { data: bench.data.clone() }).await.unwrap();
    adopt(&copy, &bench.data).await.unwrap();
    assert_eq!(bench.push(NAME).await.unwrap_err().kind(), ErrorKind::WrongServer);
}

#[tokio::test]
async fn other_bytes_under_a_name_are_a_conflict_and_change_nothing() {
    let bench = bench();
    bench.init().await;
    bench.push(NAME).await.unwrap();
    std::fs::write(bench.wal(NAME), segment(7)).unwrap();
    let error = bench.push(NAME).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.to_string().matches("written_by=db1:").count(), 2, "{error}");
    bench.get(NAME).await.unwrap();
    assert_eq!(std::fs::read(bench.wal("RECOVERYXLOG")).unwrap(), segment(0));
}

#[tokio::test]
async fn nothing_is_pushed_into_a_place_that_was_not_made_for_it() {
    let bench = bench();
    let error = bench.push(NAME).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("walden init"), "{error:?}");
    assert_eq!(std::fs::read_dir(bench.directory.path().join("repo")).unwrap().count(), 0);
    bench.init().await;
    let mistyped = Context { server: "mian".parse().unwrap(), ..bench.ctx.clone() };
    let error = Archiver::new(mistyped).push(&bench.wal(NAME), bench.data.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("known=main"), "{error}");
}

#[tokio::test]
async fn absent_is_said_only_when_the_archive_was_seen() {
    let bench = bench();
    let blind = bench.get(NAME).await.unwrap_err();
    assert_eq!(blind.kind(), ErrorKind::NotFound);
    bench.init().await;
    assert_eq!(bench.get(NAME).await.unwrap().outcome, FetchOutcome::Absent);
    assert_eq!(bench.get("00000002.history").await.unwrap().outcome, FetchOutcome::Absent);
    let mistyped = Context { server: "mian".parse().unwrap(), ..bench.ctx.clone() };
    let error =
        Fetcher::new(mistyped).fetch(NAME, &bench.wal("RECOVERYXLOG"), bench.data.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!bench.wal("RECOVERYXLOG").try_exists().unwrap());
}

#[tokio::test]
async fn another_system_is_kept_out_until_it_is_adopted() {
    let bench = bench();
    bench.init().await;
    let foreign = bench.directory.path().join("foreign");
    make_data_directory(&foreign, include_bytes!("../../pg/fixtures/pg18/pg_control"));
    let page = include_bytes!("../../pg/fixtures/pg18/00000001000000000000000B.page");
    let header = walden_pg::SegmentHeader::parse(page).unwrap();
    let mut bytes = page.to_vec();
    bytes.resize(usize::try_from(header.segment_size.bytes()).unwrap(), 0);
    std::fs::write(foreign.join("pg_wal").join(FOREIGN), bytes).unwrap();
    let data = DataDirectory::open(&foreign).unwrap();
    let archiver = Archiver::new(bench.ctx.clone());
    let error = archiver.push(&Path::new("pg_wal").join(FOREIGN), &foreign).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongServer);
    assert!(error.hint().unwrap().contains("walden server adopt"), "{error:?}");
    let refused = init(&bench.ctx, &InitRequest { data: data.clone() }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongServer);
    let adopted = adopt(&bench.ctx, &data).await.unwrap();
    assert_eq!(adopted.revision, Some(2));
    archiver.push(&Path::new("pg_wal").join(FOREIGN), &foreign).await.unwrap();
    // The first system's archive is as it was.
    bench.push(NAME).await.unwrap();
    assert_eq!(bench.get(NAME).await.unwrap().outcome, FetchOutcome::Fetched);
}

#[tokio::test]
async fn a_restored_copy_is_kept_out_of_its_source_and_only_there() {
    let bench = bench();
    bench.init().await;
    bench.push(NAME).await.unwrap();
    let record = find_incarnation(&bench.ctx, None).await.unwrap();
    let marker = RestoredMarker {
        schema: 1,
        repository_id: record.repository_id.clone(),
        server: record.server.clone(),
        incarnation: record.incarnation(),
        backup: walden_core::BackupId::new(jiff::Timestamp::UNIX_EPOCH, 0),
        restored_at: jiff::Timestamp::UNIX_EPOCH,
        allowed_tablespaces: Vec::new(),
        drill: false,
    };
    let path = bench.data.path().join(RESTORED_MARKER);
    std::fs::write(&path, serde_json::to_vec(&marker).unwrap()).unwrap();
    let error = bench.push(NAME).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongServer);
    let elsewhere = Context { server: "copy".parse().unwrap(), ..bench.ctx.clone() };
    init(&elsewhere, &InitRequest { data: bench.data.clone() }).await.unwrap();
    Archiver::new(elsewhere).push(&bench.wal(NAME), bench.data.path()).await.unwrap();
    adopt(&bench.ctx, &bench.data).await.unwrap();
    assert_eq!(bench.push(NAME).await.unwrap().outcome, PushOutcome::AlreadyStored);
    assert!(!path.try_exists().unwrap());
}

#[tokio::test]
async fn torn_renamed_and_foreign_files_are_refused() {
    let bench = bench();
    bench.init().await;
    let refused = async |name: &str, bytes: &[u8]| {
        std::fs::write(bench.wal(name), bytes).unwrap();
        bench.push(name).await.unwrap_err().kind()
    };
    let whole = segment(0);
    assert_eq!(refused("000000010000000000000003", &whole).await, ErrorKind::Invalid, "renamed");
    assert_eq!(refused(NAME, &whole[..whole.len() - 1]).await, ErrorKind::Invalid, "torn");
    assert_eq!(refused(NAME, b"").await, ErrorKind::Invalid, "empty");
    assert_eq!(refused(NAME, &vec![0; whole.len()]).await, ErrorKind::Invalid, "zeros");
    assert_eq!(refused("postgresql.conf", b"x").await, ErrorKind::Invalid, "not WAL");
    let record = find_incarnation(&bench.ctx, None).await.unwrap();
    let snapshot = load_snapshot(&bench.ctx, &record).await.unwrap();
    assert_eq!(snapshot.segment_totals().0, 0);
}

#[tokio::test]
async fn a_segment_waits_for_its_timelines_history() {
    let bench = bench();
    bench.init().await;
    let child = NAME.replacen('1', "2", 1);
    std::fs::write(bench.wal(&child), segment(0)).unwrap();
    let error = bench.push(&child).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongServer);
    assert!(error.to_string().contains("00000002.history"), "{error}");
    let start = walden_pg::SegmentHeader::parse(PAGE).unwrap().page.address;
    let history = format!("1\t{}\tno recovery target specified\n", start.saturating_add(100));
    std::fs::write(bench.wal("00000002.history"), &history).unwrap();
    // The history beside it is archived on the way, because it must come first.
    bench.push(&child).await.unwrap();
    assert_eq!(bench.get("00000002.history").await.unwrap().outcome, FetchOutcome::Fetched);
    // Another server promoted to the same timeline: its history differs, so its segments stay out.
    std::fs::write(bench.wal("00000002.history"), history.replace("no recovery", "other")).unwrap();
    assert_eq!(bench.push(&child).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(bench.push("00000002.history").await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn init_twice_changes_nothing() {
    let bench = bench();
    let first = init(&bench.ctx, &InitRequest { data: bench.data.clone() }).await.unwrap();
    assert!(first.repository_created && first.server_created && first.incarnation_created);
    let second = init(&bench.ctx, &InitRequest { data: bench.data.clone() }).await.unwrap();
    assert!(!second.repository_created && !second.server_created && !second.incarnation_created);
    assert_eq!(second.repository_id, first.repository_id);
}

#[tokio::test]
async fn a_damaged_object_is_found_and_never_handed_out() {
    let bench = bench();
    bench.init().await;
    let report = bench.push(NAME).await.unwrap();
    let object = bench.directory.path().join("repo").join(&report.key);
    let good = std::fs::read(&object).unwrap();
    let (header, _) = walden_core::decode_header_frame(&good).unwrap();
    let index_at = good.len() - usize::try_from(header.index_bytes).unwrap();
    assert!(index_at < good.len());
    // The last four bytes before the index are the frame's checksum.
    for at in [20, index_at / 2, index_at - 5] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&object, bad).unwrap();
        let error = bench.get(NAME).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
    }
    std::fs::write(&object, &good[..good.len() - 1]).unwrap();
    assert_eq!(bench.get(NAME).await.unwrap_err().kind(), ErrorKind::Corrupt, "torn");
    assert!(!bench.wal("RECOVERYXLOG").try_exists().unwrap());
    // The segment is proven by its SHA-256: damage to the frame's checksum must not cost a recovery the segment. Nor
    // must damage to the index, which is derived. Both are verify's to find.
    let mut bad = good.clone();
    bad[index_at - 1] ^= 1;
    std::fs::write(&object, bad).unwrap();
    bench.get(NAME).await.unwrap();
    assert_eq!(std::fs::read(bench.wal("RECOVERYXLOG")).unwrap(), std::fs::read(bench.wal(NAME)).unwrap());
    let mut bad = good.clone();
    bad[index_at + 30] ^= 1;
    std::fs::write(&object, bad).unwrap();
    assert_eq!(bench.get(NAME).await.unwrap().outcome, FetchOutcome::Fetched);
    assert_eq!(std::fs::read(bench.wal("RECOVERYXLOG")).unwrap(), segment(0));
    assert_eq!(bench.litter(), Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_or_broken_state_directory_is_harmless() {
    let bench = bench();
    bench.init().await;
    bench.push(NAME).await.unwrap();
    for entry in std::fs::read_dir(bench.directory.path().join("state")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"{\"broken\"").unwrap();
    }
    bench.push(NAME).await.unwrap();
    std::fs::remove_dir_all(bench.directory.path().join("state")).unwrap();
    assert_eq!(bench.push(NAME).await.unwrap().outcome, PushOutcome::AlreadyStored);
}
