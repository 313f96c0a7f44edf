//! Objects as somebody else would have written them: sound in every hash, and wrong in what they hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use walden_core::index::{IndexerOptions, SegmentIndex, SegmentIndexer};
use walden_core::{
    BackupRecord, Extent, ManifestEntry, ObjectHeader, ObjectKind, RecordKind, decode_envelope,
    decode_header_frame, encode_envelope, encode_header_frame, sha256_hex,
};
use walden_store::{
    CompressionLevel, Expected, HeaderFields, IdentityHash, Sealer, open_extent, open_index, open_sealed,
    seal_bytes,
};

/// An opened object.
pub(super) struct Opened {
    pub(super) header: ObjectHeader,
    pub(super) plain: Vec<u8>,
    pub(super) index: Option<SegmentIndex>,
}

pub(super) fn open(path: &Path) -> Opened {
    let bytes = fs::read(path).unwrap();
    let (header, _) = decode_header_frame(&bytes).unwrap();
    let opened = open_sealed(&bytes, Expected { name: &header.name, max_plain_bytes: 1 << 30 }).unwrap();
    let index =
        opened.index.map(|index| SegmentIndex::decode(&open_index(&index.unwrap()).unwrap()).unwrap());
    Opened { header, plain: opened.plain, index }
}

/// Writes an object with these contents and this index, all hashes right.
pub(super) fn seal(path: &Path, header: &ObjectHeader, plain: &[u8], index: Option<&SegmentIndex>) {
    let mut wal = header.wal.clone();
    if let (Some(wal), Some(index)) = (&mut wal, index) {
        wal.summary = Some(index.summary);
    }
    let fields = HeaderFields {
        kind: header.kind,
        name: header.name.clone(),
        server: header.server.clone(),
        incarnation: header.incarnation,
        writer: header.writer.clone(),
        wal,
    };
    let index = index.map(SegmentIndex::encode);
    let level = CompressionLevel::new(1).unwrap();
    let object = seal_bytes(level, IdentityHash::Plain, fields, plain, index.as_deref()).unwrap();
    fs::write(path, object.to_vec()).unwrap();
}

/// The index that an archiver makes which does not know the segment before.
pub(super) fn index_of(opened: &Opened, plain: &[u8]) -> SegmentIndex {
    let wal = opened.header.wal.as_ref().unwrap();
    let options = IndexerOptions {
        major: Some(opened.header.incarnation.major),
        ..IndexerOptions::new(wal.segment_size)
    };
    let mut indexer = SegmentIndexer::new(options, opened.header.name.parse().unwrap(), None).unwrap();
    indexer.feed(plain);
    indexer.finish()
}

/// A segment whose first record, which begins and ends on its first page, says that another one comes before it. Its own
/// checksum is right, so that the segment alone is valid. `None` where there is no such record.
pub(super) fn relinked(plain: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(plain[at..at + 4].try_into().unwrap()) as usize;
    // XLogLongPageHeaderData has 40 bytes; xlp_rem_len is at 16.
    let at = 40 + word(16).next_multiple_of(8);
    let length = if at + 24 <= 8192 { word(at) } else { return None };
    if !(24..8192).contains(&length) || at + length > 8192 {
        return None;
    }
    let mut changed = plain.to_vec();
    // xl_prev; still in the segment before, and no record there begins eight bytes further back.
    let previous = u64::from_le_bytes(plain[at + 8..at + 16].try_into().unwrap()) - 8;
    changed[at + 8..at + 16].copy_from_slice(&previous.to_le_bytes());
    let checksum = crc32c(&[&changed[at + 24..at + length], &changed[at..at + 20]].concat());
    changed[at + 20..at + 24].copy_from_slice(&checksum.to_le_bytes());
    Some(changed)
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Changes one file of a backup as if the server had held it so: pack, manifest and commit record agree. Gives the file's
/// path. The file is the first one that `chosen` takes, in one extent; `change` gets its bytes.
pub(super) fn change_file(
    backup: &Path,
    chosen: impl Fn(&str, u64) -> bool,
    change: impl Fn(&mut [u8]),
) -> String {
    let manifest = backup.join("manifest.zst");
    let opened = open(&manifest);
    let text = String::from_utf8(opened.plain).unwrap();
    let mut entries: Vec<ManifestEntry> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let file = entries
        .iter()
        .find_map(|entry| match entry {
            ManifestEntry::File(file)
                if file.extents.len() == 1 && chosen(&file.path.to_string(), file.bytes) =>
            {
                Some(file.clone())
            }
            _ => None,
        })
        .unwrap();
    let own = file.extents[0];
    let pack = backup.join(format!("pack/{:08}.zst", own.pack));
    let rewritten = rewrite_pack(&pack, own, &entries, change);
    for entry in &mut entries {
        let ManifestEntry::File(other) = entry else { continue };
        for extent in other.extents.iter_mut().filter(|extent| extent.pack == own.pack) {
            (extent.frame_offset, extent.frame_bytes) = rewritten.moved[&extent.frame_offset];
        }
        if other.path == file.path {
            other.sha256.clone_from(&rewritten.sha256);
        }
    }
    let text: String = entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect();
    let before = fs::metadata(&manifest).unwrap().len();
    seal(&manifest, &opened.header, text.as_bytes(), None);
    let after = fs::metadata(&manifest).unwrap().len();
    let commit = backup.join("backup.json");
    let mut record: BackupRecord = decode_envelope(RecordKind::Backup, &fs::read(&commit).unwrap()).unwrap();
    record.stored_bytes = record.stored_bytes + rewritten.bytes.1 + after - rewritten.bytes.0 - before;
    record.manifest.plain_bytes = text.len() as u64;
    record.manifest.plain_sha256 = sha256_hex(text.as_bytes());
    record.manifest.object_bytes = after;
    fs::write(&commit, encode_envelope(RecordKind::Backup, &record).unwrap()).unwrap();
    file.path.to_string()
}

/// A pack that was written anew.
struct Rewritten {
    /// Where each frame is now, by where it was.
    moved: BTreeMap<u64, (u64, u64)>,
    /// The hash of the changed file.
    sha256: String,
    /// The object's bytes before and after.
    bytes: (u64, u64),
}

/// Changes the bytes of an extent.
fn rewrite_pack(
    pack: &Path,
    own: Extent,
    entries: &[ManifestEntry],
    change: impl Fn(&mut [u8]),
) -> Rewritten {
    let bytes = fs::read(pack).unwrap();
    let (header, header_bytes) = decode_header_frame(&bytes).unwrap();
    // Every frame of the pack, in order.
    let mut frames: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in entries {
        let ManifestEntry::File(file) = entry else { continue };
        let here = file.extents.iter().filter(|extent| extent.pack == own.pack);
        frames.extend(here.map(|extent| (extent.frame_offset, extent.frame_bytes)));
    }
    let at = |number: u64| usize::try_from(number).unwrap();
    let mut sealer = Sealer::new(CompressionLevel::new(1).unwrap(), IdentityHash::Stored).unwrap();
    let (mut moved, mut sha256, mut offset) = (BTreeMap::new(), String::new(), header_bytes as u64);
    for (frame_offset, frame_bytes) in &frames {
        let stored = &bytes[at(*frame_offset)..at(frame_offset + frame_bytes)];
        let mut plain = open_extent(stored, content_size(stored)).unwrap();
        if *frame_offset == own.frame_offset {
            let part = &mut plain[at(own.skip)..at(own.skip + own.bytes)];
            change(part);
            sha256 = sha256_hex(part);
        }
        let written = sealer.write_frame(&plain).unwrap();
        moved.insert(*frame_offset, (offset, written.stored_bytes));
        offset += written.stored_bytes;
    }
    let fields = |header: &ObjectHeader| HeaderFields {
        kind: header.kind,
        name: header.name.clone(),
        server: header.server.clone(),
        incarnation: header.incarnation,
        writer: header.writer.clone(),
        wal: None,
    };
    let sealed = sealer.finish(fields(&header), None).unwrap();
    let stored: Vec<u8> = sealed.chunks()[1..].concat();
    let header = ObjectHeader { plain_bytes: sealed.header().plain_bytes, ..header };
    let header = ObjectHeader {
        stored_bytes: stored.len() as u64,
        stored_sha256: Some(sha256_hex(&stored)),
        ..header
    };
    assert_eq!(header.kind, ObjectKind::Pack);
    let frame = walden_core::encode_padded_header_frame(&header, header_bytes).unwrap();
    assert!(encode_header_frame(&header).is_ok());
    let pack_bytes = [frame, stored].concat();
    fs::write(pack, &pack_bytes).unwrap();
    Rewritten { moved, sha256, bytes: (bytes.len() as u64, pack_bytes.len() as u64) }
}

/// How many plain bytes a zstd frame says that it has (RFC 8878, 3.1.1.1).
fn content_size(frame: &[u8]) -> u64 {
    let descriptor = frame[4];
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let at = 5 + usize::from(!single) + dictionary;
    let number = |bytes: usize| {
        frame[at..at + bytes].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    match descriptor >> 6 {
        0 => number(1),
        1 => number(2) + 256,
        2 => number(4),
        _ => number(8),
    }
}
