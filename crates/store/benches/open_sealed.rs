//! Opening a sealed segment: header, SHA-256 and decompression, as a fetch does it, and sealing beside it at the levels
//! that an agent chooses from.
//!
//! The segments are those of 16 MiB in the directory `$WALDEN_BENCH_WAL`; else one that is made up of records as a busy
//! server writes them, which compresses as WAL does.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stderr, reason = "a benchmark reports sizes beside the times")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use walden_core::{ObjectKind, Writer};
use walden_store::{
    CompressionLevel, Contents, Expected, HeaderFields, IdentityHash, SealedObject, Sealer, open_sealed,
};

const WAL_ENV: &str = "WALDEN_BENCH_WAL";
const SEGMENT_BYTES: usize = 16 << 20;
const NAME: &str = "000000010000000000000001";
const LEVELS: [i32; 5] = [1, -1, -3, -7, 6];

fn segments() -> Vec<Vec<u8>> {
    let Some(directory) = std::env::var_os(WAL_ENV) else { return vec![made_up()] };
    let entries = std::fs::read_dir(directory).expect("a directory with segments");
    let read = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.ok()?.path()).ok();
    entries.filter_map(read).filter(|bytes| bytes.len() == SEGMENT_BYTES).collect()
}

/// Records with a counter, an id, a checksum and a row of which a part repeats, and now and then a page of zeros and rows.
fn made_up() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(SEGMENT_BYTES + 8192);
    let mut number = 0_u64;
    while bytes.len() < SEGMENT_BYTES {
        number += 1;
        let row = random();
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&(number / 5).to_le_bytes());
        bytes.extend_from_slice(&[0x0A, 0x00, 0x00, 0x7F, 0x06, 0, 0, 0x05, 0x40, 0, 0, 0]);
        bytes.extend_from_slice(&row.to_le_bytes());
        bytes.extend_from_slice(b"                                        abcdefgh");
        if number.is_multiple_of(64) {
            for at in 0..60_u64 {
                bytes.extend_from_slice(&(row % 100_000 + at).to_le_bytes());
                bytes.extend_from_slice(&random().to_le_bytes());
                bytes.extend_from_slice(&[0x20; 84]);
            }
        }
    }
    bytes.truncate(SEGMENT_BYTES);
    bytes
}

fn seal(sealer: &mut Sealer, level: CompressionLevel, plain: &[u8]) -> SealedObject {
    sealer.start_with(level, IdentityHash::Plain, Contents::Wal, None).expect("a compressor");
    sealer.write_frame(plain).expect("a frame");
    let fields = HeaderFields {
        kind: ObjectKind::Segment,
        name: NAME.to_owned(),
        server: "main".parse().expect("a name"),
        incarnation: "7401234567890123456-17".parse().expect("an incarnation"),
        writer: Writer::new("host", "data", Timestamp::UNIX_EPOCH),
        wal: None,
    };
    sealer.finish(fields, None).expect("an object")
}

fn open_cost(criterion: &mut Criterion) {
    let segments = segments();
    let mut sealer = Sealer::new(CompressionLevel::DEFAULT, IdentityHash::Plain).expect("a sealer");
    let plain_bytes = (segments.len() * SEGMENT_BYTES) as u64;
    for level in LEVELS {
        let level = CompressionLevel::new(level).expect("a level");
        let objects: Vec<Vec<u8>> =
            segments.iter().map(|plain| seal(&mut sealer, level, plain).to_vec()).collect();
        let stored: usize = objects.iter().map(Vec::len).sum();
        let permille = stored as u64 * 1000 / plain_bytes;
        eprintln!("level {}: {stored} of {plain_bytes} bytes, {permille} of 1000", level.get());
        let mut group = criterion.benchmark_group(format!("level {}", level.get()));
        group.throughput(Throughput::Bytes(plain_bytes)).sample_size(20);
        group.bench_function("seal", |bencher| {
            bencher.iter(|| {
                for plain in &segments {
                    black_box(seal(&mut sealer, level, plain).object_bytes());
                }
            });
        });
        group.bench_function("open_sealed", |bencher| {
            bencher.iter(|| {
                for object in &objects {
                    let expected = Expected { name: NAME, max_plain_bytes: SEGMENT_BYTES as u64 };
                    black_box(open_sealed(object, expected).expect("a segment").plain.len());
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, open_cost);
criterion_main!(benches);
