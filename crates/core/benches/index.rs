//! What the index of a segment costs, against hashing and compressing the same segment, in time and in bytes.
//!
//! The WAL is that of real servers under pgbench, made anew by each run: once with full page images, and once without,
//! which is nothing but small records. Or it is what the directory in `$WALDEN_BENCH_WAL` holds: segments of 16 MiB.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stderr, reason = "a benchmark reports sizes beside the times")]

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};
use walden_core::index::{IndexerOptions, SegmentIndex, SegmentIndexer};
use walden_pg::wal::{WalScanner, WalScannerOptions};
use walden_pg::{PgMajor, SegmentName, WalSegmentSize};
use walden_testkit::postgres::PgServer;

const WAL_ENV: &str = "WALDEN_BENCH_WAL";
const SEGMENTS: usize = 4;
/// Pieces of this size are fed, as a reader of files does.
const PIECE: usize = 256 << 10;

type Segment = (SegmentName, Vec<u8>);

fn pgbench(full_page_writes: &str) -> Vec<Segment> {
    let server = PgServer::builder(PgMajor::V17)
        .setting("full_page_writes", full_page_writes)
        .setting("synchronous_commit", "off")
        .setting("wal_keep_size", "2GB")
        .setting("max_wal_size", "4GB")
        .start()
        .expect("a server; run `cargo xtask setup`");
    server.pgbench_init(20).expect("pgbench");
    server.execute("CHECKPOINT").expect("a checkpoint");
    server.pgbench(4, 15).expect("pgbench");
    server.switch_wal().expect("a switch");
    read(server.data_dir().join("pg_wal"))
}

/// The last complete segments of the directory.
fn read(dir: PathBuf) -> Vec<Segment> {
    let entries = fs::read_dir(dir).expect("a directory with segments");
    let mut segments: Vec<Segment> = entries
        .filter_map(|entry| {
            let entry = entry.expect("a directory entry");
            let name = entry.file_name().to_str()?.parse().ok()?;
            let bytes = fs::read(entry.path()).expect("a segment");
            let outcome = scanner().scan_segment(name, &bytes, |_| {}).expect("a name of this size");
            (outcome.records > 1000 && !outcome.is_damaged()).then_some((name, bytes))
        })
        .collect();
    segments.sort();
    // The very last one ends early.
    segments.pop();
    segments.split_off(segments.len().saturating_sub(SEGMENTS))
}

fn scanner() -> WalScanner {
    WalScanner::new(WalScannerOptions::new(WalSegmentSize::DEFAULT))
}

fn index(segments: &[Segment]) -> Vec<SegmentIndex> {
    let mut indexes: Vec<SegmentIndex> = Vec::new();
    for (name, bytes) in segments {
        let options = IndexerOptions::new(WalSegmentSize::DEFAULT);
        let mut indexer = SegmentIndexer::new(options, *name, indexes.last()).expect("a name of this size");
        bytes.chunks(PIECE).for_each(|piece| indexer.feed(piece));
        indexes.push(indexer.finish());
    }
    indexes
}

/// Compresses as the archiver does.
fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).expect("compression")
}

fn report(label: &str, segments: &[Segment]) {
    let compressed: usize = segments.iter().map(|(_, bytes)| compress(bytes).len()).sum();
    let indexes: usize = index(segments).iter().map(|index| compress(&index.encode()).len()).sum();
    let permille = indexes * 1000 / compressed.max(1);
    eprintln!(
        "{label}: {} segments, {compressed} bytes compressed, {indexes} bytes of indexes: {}.{} %",
        segments.len(),
        permille / 10,
        permille % 10
    );
}

fn index_cost(criterion: &mut Criterion) {
    let sets = match std::env::var_os(WAL_ENV) {
        Some(dir) => vec![("given".to_owned(), read(PathBuf::from(dir)))],
        None => ["on", "off"].map(|setting| (format!("images {setting}"), pgbench(setting))).into(),
    };
    for (label, segments) in &sets {
        report(label, segments);
        let mut group = criterion.benchmark_group(format!("index/{label}"));
        group.throughput(Throughput::Bytes(segments.iter().map(|(_, bytes)| bytes.len() as u64).sum()));
        group.sample_size(20);
        group.bench_function("scan alone", |bencher| {
            bencher.iter(|| {
                let mut scanner = scanner();
                for (name, bytes) in segments {
                    let outcome = scanner.scan_segment(*name, black_box(bytes), |record| {
                        black_box(record.lsn);
                    });
                    black_box(outcome.expect("a name of this size"));
                }
            });
        });
        group.bench_function("scan and index", |bencher| bencher.iter(|| index(black_box(segments))));
        group.bench_function("index to bytes", |bencher| {
            let indexes = index(segments);
            bencher.iter(|| indexes.iter().map(|index| compress(&index.encode()).len()).sum::<usize>());
        });
        group.bench_function("hash and compress", |bencher| {
            bencher.iter(|| {
                segments.iter().fold(0, |total, (_, bytes)| {
                    black_box(Sha256::digest(black_box(bytes)));
                    total + compress(bytes).len()
                })
            });
        });
        group.finish();
    }
}

criterion_group!(benches, index_cost);
criterion_main!(benches);
