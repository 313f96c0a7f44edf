//! A server, what it does, and the segments that it archived.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use walden_core::index::{IndexerOptions, SegmentIndex, SegmentIndexer};
use walden_pg::{PgMajor, SegmentName, TimelineId, WalSegmentSize};
use walden_testkit::postgres::{PgServer, Result};

pub(crate) const SIZE: WalSegmentSize = WalSegmentSize::MIN;

pub(crate) type Segment = (SegmentName, Vec<u8>);

/// A server with small segments that keeps what it archived in a directory.
pub(crate) fn server(major: PgMajor, wal_level: &str) -> Result<(PgServer, PathBuf)> {
    let mut server = PgServer::builder(major)
        .wal_segment_size(SIZE)
        .setting("wal_level", wal_level)
        .setting("max_prepared_transactions", "10")
        .setting("max_wal_size", "4GB")
        .setting("autovacuum", "off")
        .setting("archive_mode", "on")
        .setting("archive_command", "/bin/true")
        .init()?;
    let dir = server.scratch_dir("archive")?;
    let file = server.data_dir().join("postgresql.conf");
    let mut text = fs::read_to_string(&file).expect("read the configuration");
    writeln!(text, "archive_command = \'cp %p {}/%f\'", dir.display()).expect("text");
    fs::write(&file, text).expect("write the configuration");
    server.start()?;
    Ok((server, dir))
}

/// The archived segments of the first timeline, in order.
pub(crate) fn segments(dir: &PathBuf) -> Vec<Segment> {
    let mut segments: Vec<Segment> = fs::read_dir(dir)
        .expect("read the archive")
        .filter_map(|entry| {
            let entry = entry.expect("read the archive");
            let name: SegmentName = entry.file_name().to_str()?.parse().ok()?;
            assert_eq!(name.timeline(), TimelineId::FIRST);
            Some((name, fs::read(entry.path()).expect("read a segment")))
        })
        .collect();
    segments.sort();
    segments
}

pub(crate) fn options() -> IndexerOptions {
    IndexerOptions { mass_change_rows: 100, ..IndexerOptions::new(SIZE) }
}

/// Indexes a segment in pieces of `piece` bytes.
pub(crate) fn index((name, bytes): &Segment, previous: Option<&SegmentIndex>, piece: usize) -> SegmentIndex {
    let mut indexer = SegmentIndexer::new(options(), *name, previous).expect("a name of this size");
    bytes.chunks(piece).for_each(|piece| indexer.feed(piece));
    let index = indexer.finish();
    assert_eq!(SegmentIndex::decode(&index.encode()).expect("its own bytes"), index);
    index
}

/// Indexes segments, each with the index of the one before it.
pub(crate) fn index_all(segments: &[Segment]) -> Vec<SegmentIndex> {
    let mut indexes: Vec<SegmentIndex> = Vec::new();
    for segment in segments {
        // Any size of pieces must do.
        let piece = 1000 + 7919 * (indexes.len() % 50);
        indexes.push(index(segment, indexes.last(), piece));
    }
    indexes
}
