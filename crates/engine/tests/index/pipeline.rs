//! Many pushes at once leave in the store what pushes one by one leave, byte for byte.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Method;
use walden_core::ErrorKind;
use walden_core::index::{SegmentIndex, WalFacts};
use walden_engine::{
    Archiver, Clock, Context, DataDirectory, EngineError, FileIdentity, NoProgress, Pipeline, PipelineLimits,
    PushOutcome, Pushed,
};
use walden_pg::{SegmentId, SegmentName, TimelineId};
use walden_store::{CompressionLevel, StoreConfig};
use walden_testkit::stores::{Fault, FaultRule, S3Server};

use super::support::{Bench, Wal, real_wal};

/// Objects tell when they were written: so that they can be compared, always at the same moment.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000).unwrap()
    }
}

/// An archive on an S3 server.
struct Archive {
    server: S3Server,
    bench: Bench,
}

impl Archive {
    async fn new(wal: &Wal) -> Self {
        let server = S3Server::start().unwrap();
        let bench = Bench::new();
        let store = server.store("r").open(&StoreConfig::default()).unwrap();
        let ctx =
            Context { store, clock: Arc::new(Stopped), progress: Arc::new(NoProgress), ..bench.ctx.clone() };
        let archive = Self { server, bench: Bench { ctx, ..bench } };
        archive.bench.init(wal).await;
        archive
    }

    /// What a reader makes of all segments.
    async fn facts(&self) -> Vec<(SegmentId, WalFacts)> {
        let summaries = self.bench.summarized().await.summaries;
        summaries.into_iter().map(|(id, summary)| (id, summary.facts)).collect()
    }

    fn pipeline(&self, limits: PipelineLimits) -> Pipeline {
        Pipeline::new(Archiver::new(self.bench.ctx.clone()), limits)
    }

    /// All objects and what is remembered of them, but for what was probed.
    async fn contents(&self, wal: &Wal) -> BTreeMap<String, Vec<u8>> {
        let layout = self.bench.layout().await;
        let root = self.server.object_file("r").join(layout.prefix());
        let mut files = BTreeMap::new();
        let mut directories = vec![root.clone(), self.bench.directory.path().join("state")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                let name = path.file_name().unwrap().to_str().unwrap();
                if let Ok(place) = path.strip_prefix(&root) {
                    files.insert(place.display().to_string(), bytes);
                } else if let Some((kind, timeline)) = name.split_once('-') {
                    // The names of those files tell the store, which differs.
                    let timeline = timeline.rsplit('-').next().unwrap();
                    files.insert(format!("state {kind} {timeline}"), bytes);
                }
            }
        }
        // Those tell which repository it is.
        files.retain(|name, _| !name.starts_with("state authority") && name != "incarnation.json");
        assert!(files.len() > wal.segments.len() / 2, "{:?}", files.keys());
        files
    }
}

fn limits(memory_mib: u64, in_flight: u32) -> PipelineLimits {
    let number = |n| NonZeroU32::new(n).unwrap();
    PipelineLimits { memory_bytes: memory_mib << 20, sealers: number(2), in_flight: number(in_flight) }
}

async fn push(pipeline: &Pipeline, path: PathBuf, wal: &Wal) -> Result<Pushed, EngineError> {
    let data = DataDirectory::open(&wal.data()).unwrap();
    pipeline.push(&path, &data, CompressionLevel::DEFAULT).await
}

/// Pushes all at once, in this order.
async fn push_all(pipeline: &Pipeline, wal: &Wal, names: &[SegmentName]) -> Vec<Result<Pushed, EngineError>> {
    let pushed = join_all(names.iter().map(|name| push(pipeline, wal.file(name), wal))).await;
    pipeline.settle().await;
    assert_eq!(pipeline.load().memory_reserved, 0);
    pushed
}

fn differing(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names = a.keys().chain(b.keys());
    let mut differing: Vec<String> = names.filter(|name| a.get(*name) != b.get(*name)).cloned().collect();
    differing.sort();
    differing.dedup();
    differing
}

/// Memory for all, for a few at a time, for one, and for none as a whole.
const LIMITS: [(u64, u32); 4] = [(20, 4), (20, 8), (2, 8), (0, 8)];

/// An archive whose server is slow with some of the first requests.
async fn slow_archive(wal: &Wal) -> Archive {
    let archive = Archive::new(wal).await;
    let slow = FaultRule::next(Fault::Slow(Duration::from_millis(60)), Method::PUT, 1);
    (0..20).filter(|n| n % 3 != 0).for_each(|n| archive.server.inject(slow.clone().after(n)));
    archive
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_once_leaves_what_one_by_one_leaves() {
    let wal = real_wal(true);
    let expected = Archive::new(&wal).await;
    expected.bench.push_all(&wal, &wal.segments).await;
    let expected = expected.contents(&wal).await;
    assert!(expected.keys().any(|name| name.contains("rollup")), "{:?}", expected.keys());
    for (memory_mib, in_flight) in LIMITS {
        let archive = slow_archive(&wal).await;
        let pipeline = archive.pipeline(limits(memory_mib, in_flight));
        for pushed in push_all(&pipeline, &wal, &wal.segments).await {
            assert_eq!(pushed.unwrap().report.outcome, PushOutcome::Stored);
        }
        let found = archive.contents(&wal).await;
        assert_eq!(differing(&found, &expected), [""; 0], "{memory_mib} {in_flight}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_order_changes_what_is_known_of_the_wal() {
    let wal = real_wal(true);
    let expected = Archive::new(&wal).await;
    expected.bench.push_all(&wal, &wal.segments).await;
    let expected = expected.facts().await;
    let mut shuffled = wal.segments.clone();
    shuffled.chunks_mut(3).for_each(<[_]>::reverse);
    let mut backwards = wal.segments.clone();
    backwards.reverse();
    for names in [&shuffled, &backwards] {
        let one_by_one = Archive::new(&wal).await;
        one_by_one.bench.push_all(&wal, names).await;
        for (memory_mib, in_flight) in LIMITS {
            let archive = slow_archive(&wal).await;
            let pipeline = archive.pipeline(limits(memory_mib, in_flight));
            for pushed in push_all(&pipeline, &wal, names).await {
                pushed.unwrap();
            }
            assert_eq!(archive.facts().await, expected, "{memory_mib} {in_flight} {names:?}");
            for name in names {
                // What is in flight is known, although another one was pushed since.
                let (ours, theirs) = (archive.bench.index(*name).await, one_by_one.bench.index(*name).await);
                assert!(ours.1.joined || !theirs.1.joined, "{name}");
                let ours: Vec<_> = ours.0.siblings.iter().map(|entry| entry.number).collect();
                let known = |number| ours.contains(number);
                assert!(theirs.0.siblings.iter().all(|entry| known(&entry.number)), "{name}: {ours:?}");
            }
            assert!(archive.contents(&wal).await.contains_key("wal/00000001/00000000/rollup"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_store_change_nothing() {
    let wal = real_wal(false);
    let expected = Archive::new(&wal).await;
    expected.bench.push_all(&wal, &wal.segments).await;
    let expected = expected.contents(&wal).await;
    let archive = Archive::new(&wal).await;
    let faults =
        [Fault::Unavailable, Fault::LostAnswer, Fault::ResetBefore, Fault::ResetAfter, Fault::Conflict];
    for (skip, fault) in (0..).step_by(2).zip(faults) {
        archive.server.inject(FaultRule::next(fault, Method::PUT, 1).on("/wal/").after(skip));
    }
    let pipeline = archive.pipeline(limits(8, 4));
    for pushed in push_all(&pipeline, &wal, &wal.segments).await {
        pushed.unwrap();
    }
    assert_eq!(differing(&archive.contents(&wal).await, &expected), [""; 0]);
    // The same once more, by a process that knows nothing: nothing is written.
    let again = archive.pipeline(limits(8, 4));
    for pushed in push_all(&again, &wal, &wal.segments).await {
        pushed.unwrap();
    }
    assert_eq!(differing(&archive.contents(&wal).await, &expected), [""; 0]);
}

/// What is wrong with one segment in the middle.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    Missing,
    Torn,
    OtherServer,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_fails_leaves_the_others_as_one_by_one() {
    let original = real_wal(false);
    for wrong in [Wrong::Missing, Wrong::Torn, Wrong::OtherServer] {
        let wal = original.copy();
        let failing = wal.segments[4];
        let good = std::fs::read(wal.file(failing)).unwrap();
        let mut bytes = good.clone();
        match wrong {
            Wrong::Missing => std::fs::remove_file(wal.file(failing)).unwrap(),
            Wrong::Torn => std::fs::write(wal.file(failing), &bytes[..700_000]).unwrap(),
            Wrong::OtherServer => {
                bytes[24] ^= 1;
                std::fs::write(wal.file(failing), bytes).unwrap();
            }
        }
        let expected = Archive::new(&wal).await;
        for name in &wal.segments {
            let one = Archiver::new(expected.bench.ctx.clone());
            assert_eq!(
                one.push(&wal.file(name), &wal.data()).await.is_ok(),
                *name != failing,
                "{wrong:?} {name}"
            );
        }
        let archive = Archive::new(&wal).await;
        let pipeline = archive.pipeline(limits(20, 8));
        for (name, pushed) in wal.segments.iter().zip(push_all(&pipeline, &wal, &wal.segments).await) {
            assert_eq!(pushed.is_ok(), *name != failing, "{wrong:?} {name}: {pushed:?}");
        }
        let (found, wanted) = (archive.contents(&wal).await, expected.contents(&wal).await);
        assert_eq!(differing(&found, &wanted), [""; 0], "{wrong:?}");
        // Late, and good.
        std::fs::write(wal.file(failing), &good).unwrap();
        expected.bench.push(&wal, failing).await;
        push_all(&pipeline, &wal, &[failing]).await.pop().unwrap().unwrap();
        let (found, wanted) = (archive.contents(&wal).await, expected.contents(&wal).await);
        assert_eq!(differing(&found, &wanted), [""; 0], "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_fails_alone_and_misleads_no_reader() {
    let wal = real_wal(false);
    let archive = Archive::new(&wal).await;
    let taken = wal.segments[4];
    let other = wal.copy();
    let mut bytes = std::fs::read(other.file(taken)).unwrap();
    let end = bytes.len() - 3000;
    bytes[end..].fill(0);
    std::fs::write(other.file(taken), bytes).unwrap();
    archive.bench.push(&other, taken).await;
    archive.bench.forget_state();
    let pipeline = archive.pipeline(limits(20, 8));
    for (name, pushed) in wal.segments.iter().zip(push_all(&pipeline, &wal, &wal.segments).await) {
        match pushed {
            Ok(_) => assert_ne!(*name, taken),
            Err(error) => assert_eq!((*name, error.kind()), (taken, ErrorKind::Conflict), "{error}"),
        }
    }
    let (stored, _) = archive.bench.index(taken).await;
    let snapshot = archive.bench.summarized().await;
    assert_eq!(snapshot.summaries.len(), wal.segments.len());
    for (id, summary) in &snapshot.summaries {
        let (index, _) = archive.bench.index(id.name(stored.segment_size)).await;
        assert_eq!((index.summary.facts, index.summary.wal_end), (summary.facts, summary.wal_end), "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_that_are_given_up_keep_nothing_and_are_made_again() {
    let wal = real_wal(false);
    let expected = Archive::new(&wal).await;
    expected.bench.push_all(&wal, &wal.segments).await;
    let archive = Archive::new(&wal).await;
    let pipeline = archive.pipeline(limits(6, 5));
    archive
        .server
        .inject(FaultRule::next(Fault::Slow(Duration::from_millis(40)), Method::PUT, u32::MAX).on("/wal/"));
    for round in 0..12 {
        let pushes: FuturesUnordered<_> =
            wal.segments.iter().map(|name| push(&pipeline, wal.file(name), &wal)).collect();
        let some = pushes.take(round % 4).collect::<Vec<_>>();
        // All others are dropped where they are.
        let _ = tokio::time::timeout(Duration::from_millis(7 * round as u64), some).await;
    }
    archive.server.clear_faults();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while pipeline.load().memory_reserved > 0 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", pipeline.load());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let load = pipeline.load();
    assert_eq!((load.waiting, load.sealing, load.sending), (0, 0, 0), "{load:?}");
    for pushed in push_all(&pipeline, &wal, &wal.segments).await {
        pushed.unwrap();
    }
    // Whatever order the rounds brought them in: everything is known of the WAL that is there to be known.
    assert_eq!(archive.facts().await, expected.facts().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_places_are_kept_to() {
    let wal = real_wal(false);
    let archive = Archive::new(&wal).await;
    archive
        .server
        .inject(FaultRule::next(Fault::Slow(Duration::from_millis(30)), Method::PUT, u32::MAX).on("/wal/"));
    let pipeline = archive.pipeline(limits(5, 3));
    let watched = pipeline.clone();
    let watch = tokio::spawn(async move {
        let (mut memory, mut flying, mut sending) = (0, 0, 0);
        loop {
            let load = watched.load();
            memory = memory.max(load.memory_reserved);
            flying = flying.max(load.sealing + load.sending);
            sending = sending.max(load.sending);
            if load.sealed > 11 && load.sending == 0 {
                return (memory, flying, sending);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for pushed in push_all(&pipeline, &wal, &wal.segments).await {
        let pushed = pushed.unwrap();
        assert!(pushed.timings.send >= Duration::from_millis(30), "{:?}", pushed.timings);
        assert_eq!(pushed.report.bytes, 1 << 20);
    }
    let (memory, flying, sending) = watch.await.unwrap();
    assert!(memory <= 5 << 20 && memory > 1 << 20, "{memory}");
    assert!(flying <= 3 && sending > 1, "{flying} {sending}");
    let load = pipeline.load();
    assert_eq!(
        (load.sealed, load.plain_bytes),
        (wal.segments.len() as u64, (wal.segments.len() as u64) << 20)
    );
    assert!(load.seal_time > Duration::ZERO && load.send_time > load.seal_time && load.stored_bytes > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamps_tell_what_was_archived_and_what_changed_meanwhile() {
    let wal = real_wal(false).copy();
    let archive = Archive::new(&wal).await;
    let pipeline = archive.pipeline(PipelineLimits::default());
    let path = wal.file(wal.segments[0]);
    // Fresh stamps: read only when a later write would show.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let begun = std::time::Instant::now();
    let pushed = push(&pipeline, path.clone(), &wal).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(10), "{:?}", begun.elapsed());
    let look = || FileIdentity::of(&std::fs::metadata(&path).unwrap());
    assert_eq!(pushed.file, look());
    std::fs::write(&path, &bytes).unwrap();
    assert_ne!(pushed.file, look());
    // Written to all the while.
    let second = wal.file(wal.segments[1]);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (writing, began) = std::sync::mpsc::channel();
    let file = second.clone();
    let writer = std::thread::spawn(move || {
        let bytes = std::fs::read(&file).unwrap();
        while stopped.try_recv().is_err() {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::options().write(true).open(&file).unwrap();
            file.write_all_at(&bytes[..8192], 0).unwrap();
            let _ = writing.send(());
        }
    });
    began.recv().unwrap();
    let refused = push(&pipeline, second.clone(), &wal).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(refused.to_string().contains("changed while it was read"), "{refused}");
    stop.send(()).unwrap();
    writer.join().unwrap();
    assert_eq!(push(&pipeline, second, &wal).await.unwrap().report.outcome, PushOutcome::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_and_partial_segments_pass_by() {
    let wal = real_wal(true);
    let archive = Archive::new(&wal).await;
    let pipeline = archive.pipeline(limits(2, 1));
    archive
        .server
        .inject(FaultRule::next(Fault::Slow(Duration::from_millis(200)), Method::PUT, 3).on("/wal/"));
    let second = TimelineId::new(2).unwrap();
    let history = wal.file(format!("{}.history", second.hex()));
    let segments = push_all(&pipeline, &wal, &wal.segments[..4]);
    let (segments, ended) = tokio::join!(segments, async {
        let pushed = push(&pipeline, history, &wal).await.unwrap();
        (pushed, pipeline.load())
    });
    assert!(segments.iter().all(Result::is_ok));
    assert!(ended.1.sealing + ended.1.sending + ended.1.waiting > 1, "{:?}", ended.1);
    // A partial segment goes on from what was pushed before it.
    let next = wal.segments[4];
    let partial = wal.file(format!("{next}.partial"));
    std::fs::copy(wal.file(next), &partial).unwrap();
    let pushed = push(&pipeline, partial, &wal).await.unwrap();
    assert_eq!(pushed.report.outcome, PushOutcome::Stored);
    let bytes = std::fs::read(archive.server.object_file("r").join(pushed.report.key)).unwrap();
    let index = index_of(&bytes);
    assert!(index.summary.joined && index.siblings.len() == 4, "{:?}", index.siblings.len());
    assert!(push(&pipeline, wal.file("nothing"), &wal).await.is_err());
}

fn index_of(object: &[u8]) -> SegmentIndex {
    let (header, _) = walden_core::decode_header_frame(object).unwrap();
    let frame = &object[object.len() - usize::try_from(header.index_bytes).unwrap()..];
    let content = walden_core::decode_index_frame(frame).unwrap();
    SegmentIndex::decode(&walden_store::open_index(content).unwrap()).unwrap()
}
