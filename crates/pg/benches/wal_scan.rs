//! How fast WAL is scanned, against the checksums alone; and data pages are checked.
//!
//! The WAL is that of real servers under pgbench, made anew by each run: once with full page images,
//! which make up most of it, and once without, which is nothing but small records. Or it is what the
//! directory in `$WALDEN_BENCH_WAL` holds: segments of 16 MiB.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walden_pg::wal::{Payload, Record, WalScanner, WalScannerOptions};
use walden_pg::{DataPage, PgMajor, SegmentName, WalSegmentSize};
use walden_testkit::postgres::PgServer;

const WAL_ENV: &str = "WALDEN_BENCH_WAL";
const SEGMENTS: usize = 8;

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

fn scan(segments: &[Segment], mut sink: impl FnMut(&Record<'_>)) -> u64 {
    let mut scanner = scanner();
    let mut records = 0;
    for (name, bytes) in segments {
        records += scanner.scan_segment(*name, bytes, &mut sink).expect("a name of this size").records;
    }
    records
}

fn wal_scan(criterion: &mut Criterion) {
    if let Some(dir) = std::env::var_os(WAL_ENV) {
        return scan_benches(criterion, "wal_scan/given", &read(PathBuf::from(dir)));
    }
    scan_benches(criterion, "wal_scan/images", &pgbench("on"));
    scan_benches(criterion, "wal_scan/small", &pgbench("off"));
}

fn scan_benches(criterion: &mut Criterion, group: &str, segments: &[Segment]) {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    scan(segments, |record| pieces.push(record.bytes().to_vec()));
    let total: u64 = segments.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let images = {
        let mut images = 0;
        scan(segments, |record| images += record.image_length());
        images
    };
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Bytes(total));
    group.sample_size(20);
    let name = |what: &str| {
        format!(
            "{what} ({} segments, {} records, {} % images)",
            segments.len(),
            pieces.len(),
            images as u64 * 100 / total
        )
    };
    group.bench_function(name("checksums alone"), |bencher| {
        bencher.iter(|| {
            pieces.iter().fold(0, |all, piece| {
                let (header, rest) = piece.split_at_checked(24).unwrap_or_default();
                let crc = crc32c::crc32c(rest);
                all ^ crc32c::crc32c_append(crc, header.get(..20).unwrap_or_default())
            })
        });
    });
    group.bench_function(name("scan"), |bencher| {
        bencher.iter(|| {
            scan(black_box(segments), |record| {
                black_box(record.lsn);
            })
        });
    });
    group.bench_function(name("scan and decode"), |bencher| {
        bencher.iter(|| {
            let mut commits = 0u64;
            scan(black_box(segments), |record| {
                commits += u64::from(matches!(record.payload(), Ok(Payload::Commit(_))));
            });
            commits
        });
    });
    group.finish();
}

fn page_checksum(criterion: &mut Criterion) {
    let mut page = vec![0u8; DataPage::USUAL_SIZE];
    for (byte, index) in page.iter_mut().zip(0u32..) {
        *byte = index.wrapping_mul(2_654_435_761).to_le_bytes()[3];
    }
    let mut group = criterion.benchmark_group("page_checksum");
    group.throughput(Throughput::Bytes(page.len() as u64));
    group.bench_function("8 KiB", |bencher| {
        bencher.iter(|| DataPage::new(black_box(&page)).map(|page| page.compute_checksum(7)));
    });
    group.finish();
}

criterion_group!(benches, page_checksum, wal_scan);
criterion_main!(benches);
