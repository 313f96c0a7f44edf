//! What the index adds to sealing a segment: reading, hashing and compressing alone, against the same with the index
//! made on the way, in time and in stored bytes.
//!
//! The WAL is that of a real server under pgbench and bulk loads, made anew by each run, or what the directory in
//! `$WALDEN_BENCH_WAL` holds: segments of 16 MiB.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stderr, reason = "a benchmark reports sizes beside the times")]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use walden_core::index::{IndexerOptions, RollupEntry, SegmentIndex, SegmentIndexer};
use walden_core::{ObjectKind, Writer};
use walden_pg::{PgMajor, SegmentName, WalSegmentSize};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, SealedObject, Sealer};
use walden_testkit::postgres::PgServer;

const WAL_ENV: &str = "WALDEN_BENCH_WAL";
const SEGMENTS: usize = 6;
/// As much as a push reads at once.
const READ_BYTES: usize = 256 << 10;

/// Real WAL; the directory lives as long as this.
struct Wal {
    _server: Option<PgServer>,
    segments: Vec<(SegmentName, PathBuf)>,
}

impl Wal {
    fn find() -> Self {
        if let Some(directory) = std::env::var_os(WAL_ENV) {
            return Self { _server: None, segments: segments_in(Path::new(&directory)) };
        }
        let server = PgServer::builder(PgMajor::V17)
            .setting("synchronous_commit", "off")
            .setting("wal_keep_size", "4GB")
            .setting("max_wal_size", "4GB")
            .start()
            .expect("a server; run `cargo xtask setup`");
        server.pgbench_init(20).expect("pgbench");
        let load = server.start_load(2).expect("load");
        server.pgbench(4, 15).expect("pgbench");
        server.insert_rows(20_000).expect("rows");
        load.stop();
        server.switch_wal().expect("a switch");
        let segments = segments_in(&server.data_dir().join("pg_wal"));
        Self { _server: Some(server), segments }
    }
}

/// The last complete segments of a directory.
fn segments_in(directory: &Path) -> Vec<(SegmentName, PathBuf)> {
    let entries = fs::read_dir(directory).expect("a directory with segments");
    let mut segments: Vec<(SegmentName, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.expect("a directory entry").path();
            let name = path.file_name()?.to_str()?.parse().ok()?;
            let index = seal(name, &path, Indexing::After(None)).1?;
            (index.summary.facts.commits > 10 && index.damage_count == 0).then_some((name, path))
        })
        .collect();
    segments.sort();
    // The very last one ends early.
    segments.pop();
    segments.split_off(segments.len().saturating_sub(SEGMENTS))
}

/// Whether a segment is indexed on the way.
#[derive(Clone, Copy)]
enum Indexing<'a> {
    Off,
    /// Joined to the segment before, where that is known.
    After(Option<&'a SegmentIndex>),
}

/// Seals a file as a push does.
fn seal(name: SegmentName, path: &Path, indexing: Indexing<'_>) -> (SealedObject, Option<SegmentIndex>) {
    let mut file = File::open(path).expect("the segment");
    let bytes = file.metadata().expect("its size").len();
    let mut sealer = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Plain).expect("a sealer");
    let options = IndexerOptions::new(WalSegmentSize::DEFAULT);
    let mut indexer = match indexing {
        Indexing::Off => None,
        Indexing::After(before) => {
            Some(SegmentIndexer::new(options, name, before).expect("a name of this size"))
        }
    };
    sealer.begin_frame(bytes).expect("a frame");
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer).expect("bytes");
        let piece = buffer.get(..read).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        sealer.write(piece).expect("room");
        if let Some(indexer) = &mut indexer {
            indexer.feed(piece);
        }
    }
    sealer.end_frame().expect("the whole frame");
    let mut index = indexer.map(SegmentIndexer::finish);
    if let (Some(index), Indexing::After(Some(previous))) = (&mut index, indexing) {
        index.siblings = siblings(previous);
    }
    let fields = HeaderFields {
        kind: ObjectKind::Segment,
        name: name.to_string(),
        server: "main".parse().expect("a name"),
        incarnation: "7401234567890123456-17".parse().expect("an incarnation"),
        writer: Writer::new("host", "data", Timestamp::UNIX_EPOCH),
        wal: None,
    };
    let encoded = index.as_ref().map(SegmentIndex::encode);
    (sealer.finish(fields, encoded.as_deref()).expect("an object"), index)
}

/// As many as a segment in the middle of its LOG directory repeats.
fn siblings(previous: &SegmentIndex) -> Vec<RollupEntry> {
    let number = previous.segment.id(WalSegmentSize::DEFAULT).expect("a name of this size").number;
    let entry =
        RollupEntry { number, object_bytes: 5_000_000, index_bytes: 40_000, summary: Some(previous.summary) };
    let vary = |at: u64| RollupEntry {
        object_bytes: 5_000_000 + u32::try_from(at * 7919 % 100_000).unwrap_or_default(),
        number: walden_pg::SegmentNumber::new(number.get() + at),
        ..entry
    };
    (0..128).map(vary).collect()
}

fn seal_all(wal: &Wal) -> u64 {
    wal.segments.iter().map(|(name, path)| seal(*name, path, Indexing::Off).0.object_bytes()).sum()
}

fn index_all(wal: &Wal) -> u64 {
    let (mut total, mut previous) = (0, None);
    for (name, path) in &wal.segments {
        let (object, index) = seal(*name, path, Indexing::After(previous.as_ref()));
        total += object.object_bytes();
        previous = index;
    }
    total
}

fn seal_cost(criterion: &mut Criterion) {
    let wal = Wal::find();
    let (alone, indexed) = (seal_all(&wal), index_all(&wal));
    let permille = (indexed - alone) * 1000 / alone.max(1);
    eprintln!(
        "{} segments: {alone} bytes stored alone, {indexed} with the index: {}.{} % more",
        wal.segments.len(),
        permille / 10,
        permille % 10
    );
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(wal.segments.len() as u64 * WalSegmentSize::DEFAULT.bytes()));
    group.sample_size(20);
    group.bench_function("alone", |bencher| bencher.iter(|| black_box(seal_all(&wal))));
    group.bench_function("with the index", |bencher| bencher.iter(|| black_box(index_all(&wal))));
    group.finish();
}

criterion_group!(benches, seal_cost);
criterion_main!(benches);
