//! A made-up segment with the records of a backup.

use std::path::Path;

use walden_core::{ObjectKind, Writer};
use walden_store::{CompressionLevel, HeaderFields, IdentityHash, seal_bytes};

use super::{CONTROL, control, incarnation};

/// Where the checkpoint record begins in the segment, as the label says.
const CHECKPOINT: usize = 0x80;
/// Where the checkpoint lies in `pg_control`, and its bytes.
const CHECKPOINT_IN_CONTROL: std::ops::Range<usize> = 40..128;
/// `RM_XLOG_ID` and its kinds of records.
const NOOP: u8 = 0x20;
const ONLINE_CHECKPOINT: u8 = 0x10;
const BACKUP_END: u8 = 0x50;

/// Segment 2 as a server writes it that was backed up: a checkpoint, and the end of the backup that began at
/// `start`, which ends `early` bytes before `stop`.
pub(super) fn segment(start: u64, stop: u64, early: usize) -> Vec<u8> {
    let bytes = usize::try_from(control().wal_segment_size.bytes()).unwrap();
    let base = 2 * bytes as u64;
    let mut segment = vec![0; bytes];
    let mut header = Vec::new();
    header.extend_from_slice(&0xD116_u16.to_le_bytes());
    header.extend_from_slice(&2_u16.to_le_bytes());
    header.extend_from_slice(&1_u32.to_le_bytes());
    header.extend_from_slice(&base.to_le_bytes());
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&control().system_id.get().to_le_bytes());
    header.extend_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
    header.extend_from_slice(&8192_u32.to_le_bytes());
    segment[..40].copy_from_slice(&header);
    let mut checkpoint = CONTROL[CHECKPOINT_IN_CONTROL].to_vec();
    checkpoint[..8].copy_from_slice(&super::START.to_le_bytes());
    let stop = usize::try_from(stop - base).unwrap() - early;
    let end = record(0, BACKUP_END, &start.to_le_bytes());
    let end_at = stop - end.len().next_multiple_of(8);
    let mut previous = base - 100;
    let mut put = |at: usize, info: u8, main: &[u8]| {
        let bytes = record(previous, info, main);
        segment[at..at + bytes.len()].copy_from_slice(&bytes);
        previous = base + at as u64;
        (at + bytes.len()).next_multiple_of(8)
    };
    assert_eq!(put(0x28, NOOP, &[0; CHECKPOINT - 0x28 - 26]), CHECKPOINT);
    let next = put(CHECKPOINT, ONLINE_CHECKPOINT, &checkpoint);
    assert_eq!(put(next, NOOP, &vec![0; end_at - next - 26]), end_at);
    put(end_at, BACKUP_END, &start.to_le_bytes());
    segment
}

/// The same bytes from a server with another system identifier.
pub(super) fn of_another_system(mut segment: Vec<u8>) -> Vec<u8> {
    segment[24] ^= 1;
    segment
}

/// Stores segment 2 as `walden wal push` would.
pub(super) fn archive(directory: &Path, segment: &[u8]) {
    let name = "000000010000000000000002";
    let fields = HeaderFields {
        kind: ObjectKind::Segment,
        name: name.to_owned(),
        server: "main".parse().unwrap(),
        incarnation: incarnation(),
        writer: Writer {
            host: "db1".into(),
            instance: "/data".into(),
            version: "0".into(),
            at: "2026-11-20T10:00:00Z".parse().unwrap(),
        },
        wal: None,
    };
    let sealed = seal_bytes(CompressionLevel::DEFAULT, IdentityHash::Plain, fields, segment, None).unwrap();
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join(format!("{name}.zst")), sealed.to_vec()).unwrap();
}

/// A record of the XLOG resource manager.
fn record(previous: u64, info: u8, main: &[u8]) -> Vec<u8> {
    let mut body = vec![255, u8::try_from(main.len()).unwrap()];
    body.extend_from_slice(main);
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&u32::try_from(24 + body.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&previous.to_le_bytes());
    bytes.extend_from_slice(&[info, 0, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}
