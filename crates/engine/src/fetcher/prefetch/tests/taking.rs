//! The hook's side, and the guard of restored copies.

use super::super::super::tablespaces::tests::Crafter;
use super::*;
use crate::archiver::FileIdentity;
use crate::data_directory::RestoredMarker;

struct Offer {
    bench: Bench,
    file: ReadyFile,
    destination: PathBuf,
}

async fn offer() -> Offer {
    let bench = Bench::local().await;
    bench.put_segment(1, 1);
    let destination = bench.destination("");
    let GetAnswer::Ready(file) = bench.prefetcher().get(&name(1, 1), &destination).await else { panic!() };
    Offer { bench, file, destination }
}

#[tokio::test]
async fn a_file_is_moved_and_not_copied() {
    let Offer { bench, file, destination } = offer().await;
    std::fs::write(&destination, "what was left there").unwrap();
    let relative = Path::new("pg_wal/RECOVERYXLOG");
    let taken = take_prefetched(&file, &name(1, 1), relative, bench.data.path()).unwrap();
    assert_eq!(taken, Taken::Taken { bytes: SIZE.bytes() });
    let found = std::fs::metadata(&destination).unwrap();
    assert_eq!(found.ino(), file.file.inode);
    assert_eq!(std::fs::read(&destination).unwrap(), content(1, 1));
    assert!(!file.path.try_exists().unwrap());
}

#[tokio::test]
async fn another_file_in_its_place_is_not_taken() {
    type Exchange = fn(&Path);
    let exchanges: [(&str, Exchange); 4] = [
        ("gone", |path| std::fs::remove_file(path).unwrap()),
        ("another", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, content(1, 1)).unwrap();
        }),
        ("written to", |path| {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            // Until it shows: stamps move in steps.
            let before = stamps(path);
            while stamps(path) == before {
                file.write_all_at(b"x", 0).unwrap();
            }
        }),
        ("a link", |path| {
            let elsewhere = path.with_extension("moved");
            std::fs::rename(path, &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, path).unwrap();
        }),
    ];
    for (what, exchange) in exchanges {
        let Offer { bench, file, destination } = offer().await;
        exchange(&file.path);
        assert_eq!(bench.take(&file, &name(1, 1)), Got::Gone, "{what}");
        assert!(!destination.try_exists().unwrap(), "{what}");
        // The agent sees it too.
        bench.found(1, 1).await;
    }
}

fn stamps(path: &Path) -> FileIdentity {
    FileIdentity::of(&std::fs::metadata(path).unwrap())
}

#[tokio::test]
async fn a_file_on_another_file_system_is_copied() {
    let elsewhere = tempfile::tempdir().unwrap();
    let Offer { bench, file, .. } = offer().await;
    let data = elsewhere.path().join("data");
    std::fs::create_dir_all(data.join("pg_wal")).unwrap();
    if std::fs::metadata(&data).unwrap().dev() == file.file.device {
        return;
    }
    let target = data.join("pg_wal/RECOVERYXLOG");
    let taken = take_prefetched(&file, &name(1, 1), &target, Path::new("/")).unwrap();
    assert_eq!(taken, Taken::Taken { bytes: SIZE.bytes() });
    assert_eq!(std::fs::read(&target).unwrap(), content(1, 1));
    assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    assert!(!file.path.try_exists().unwrap());
    bench.found(1, 1).await;
}

#[tokio::test]
async fn a_destination_that_can_not_be_written_is_left_to_the_direct_way() {
    let Offer { bench, file, .. } = offer().await;
    let target = bench.directory.path().join("missing/RECOVERYXLOG");
    let taken = take_prefetched(&file, &name(1, 1), &target, Path::new("/")).unwrap();
    assert_eq!(taken, Taken::Gone);
}

impl Bench {
    /// Makes the data directory a restored copy.
    fn restored(&self) {
        let marker = RestoredMarker {
            schema: 1,
            repository_id: "r".to_owned(),
            server: self.ctx.server.clone(),
            incarnation: self.incarnation,
            backup: "20261120T103905Z-7f3a".parse().unwrap(),
            restored_at: "2026-11-20T10:00:00Z".parse().unwrap(),
            allowed_tablespaces: Vec::new(),
            drill: false,
        };
        let json = serde_json::to_vec(&marker).unwrap();
        std::fs::write(self.data.path().join(RESTORED_MARKER), json).unwrap();
    }

    /// Archives crafted WAL, from segment 1 on; gives the number of its segments.
    fn put_wal(&self, crafter: Crafter) -> u64 {
        let directory = tempfile::tempdir().unwrap();
        let segments = crafter.write_to(directory.path());
        for segment in &segments {
            let bytes = std::fs::read(directory.path().join(segment.to_string())).unwrap();
            self.put(&segment.to_string(), &bytes);
        }
        segments.len() as u64
    }

    fn live(&self) -> PathBuf {
        let live = self.directory.path().join("live");
        std::fs::create_dir_all(live.join("PG_17_202406281")).unwrap();
        live
    }
}

#[tokio::test]
async fn a_restored_copy_is_guarded_wherever_the_record_lies() {
    // Inside of the second segment, and across its beginning.
    for left in [None, Some(8), Some(32)] {
        let bench = Bench::local().await;
        bench.restored();
        let live = bench.live();
        let mut crafter = Crafter::new();
        crafter.fill_to(left.unwrap_or(0));
        if left.is_none() {
            crafter.record(21, &[1; 100]);
        }
        crafter.create_tablespace(16_500, &live);
        crafter.record(21, &[1; 300]);
        assert_eq!(bench.put_wal(crafter), 2);
        let first = bench.ask_segment(1, 1).await;
        assert!(matches!(first, Got::Bytes(_)), "{left:?} {}", short(&first));
        bench.settle().await;
        // Recovery gives it its name.
        std::fs::rename(bench.destination(""), bench.wal().join(name(1, 1))).unwrap();
        for _ in 0..2 {
            assert_eq!(bench.ask_segment(1, 2).await, Got::Failed(ErrorKind::Conflict), "{left:?}");
            assert!(!bench.destination("").try_exists().unwrap());
        }
        assert_eq!(bench.direct(&name(1, 2)).await, Got::Failed(ErrorKind::Conflict));
        // Nobody uses it any more.
        std::fs::remove_dir_all(live).unwrap();
        let got = bench.ask_segment(1, 2).await;
        assert!(matches!(got, Got::Bytes(_)), "{left:?} {}", short(&got));
    }
}

#[tokio::test]
async fn only_what_was_scanned_and_is_harmless_is_taken_without_a_look() {
    let harmless = || {
        let mut crafter = Crafter::new();
        crafter.fill_to(0);
        crafter.record(21, &[1; 100]);
        crafter.fill_to(0);
        crafter
    };
    for restored in [false, true] {
        let bench = Bench::local().await;
        if restored {
            bench.restored();
        }
        assert_eq!(bench.put_wal(harmless()), 2);
        let destination = bench.destination("");
        let answer = bench.prefetcher().get(&name(1, 2), &destination).await;
        let GetAnswer::Ready(file) = answer else { panic!("{answer:?}") };
        assert_eq!(file.guard_clean, restored);
        // What is no WAL at all may hold anything.
        bench.put_segment(1, 3);
        let answer = bench.prefetcher().get(&name(1, 3), &destination).await;
        let GetAnswer::Ready(file) = answer else { panic!("{answer:?}") };
        assert!(!file.guard_clean);
        if restored {
            std::fs::write(bench.data.path().join(RESTORED_MARKER), "{").unwrap();
            assert_eq!(bench.ask_segment(1, 2).await, bench.direct(&name(1, 2)).await);
        }
    }
}
