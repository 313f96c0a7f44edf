//! Putting the manifest together while files finish in any order.
//!
//! Files are taken up in the order of the manifest and finish nearly in it. A finished entry waits until all before
//! it are finished, then goes, rendered and compressed, to the end of what is done. So memory holds the compressed
//! manifest (some 60 bytes for each file and 12 for each extent) and at most [`WINDOW_ITEMS`] rendered entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use walden_core::{
    ChecksumFailure, ErrorKind, Extent, FileEntry, ManifestEntry, ManifestPath, ManifestTotals,
};

use super::lines::seal_error;
use super::packs::{Location, hex};
use super::queue::{Stopped, lock};
use super::scan::{ItemKind, LateFile, Scan, shown};
use crate::error::{EngineError, Result};

/// How far ahead of the oldest unfinished item a reader may begin.
const WINDOW_ITEMS: usize = 50_000;
/// Rendered lines that are compressed together.
const BLOCK_BYTES: usize = 1 << 20;
/// The manifest is compressed once more at the end; this only saves memory until then.
const BLOCK_LEVEL: i32 = 1;
/// Files with bad checksums that are listed; the rest is only counted.
const FAILURES_MAX: usize = 1000;

/// Bytes that the extents of one file may take in the manifest: what a restore reads as one line, 64 MiB, less what
/// else it may hold at that moment. That is a file of more than a tebibyte, zeros not counted.
const EXTENTS_BYTES_MAX: usize = 60 << 20;

/// One run of a file's bytes inside a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index into the items of the scan.
    pub(super) item: usize,
    pub(super) file_offset: u64,
    pub(super) bytes: u64,
    /// Where the run begins in the frame's plain bytes.
    pub(super) skip: u64,
}

impl Location {
    /// Where a piece of the frame that lies here is stored.
    pub(super) fn extent(self, piece: Piece) -> Extent {
        Extent {
            file_offset: piece.file_offset,
            bytes: piece.bytes,
            pack: u64::from(self.pack),
            frame_offset: self.frame_offset,
            frame_bytes: self.frame_bytes,
            skip: piece.skip,
        }
    }
}

/// What is known of a file once it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) modified: i64,
    pub(super) sha256: [u8; 32],
    /// How many extents it has.
    pub(super) extents: usize,
}

#[derive(Debug, Default)]
struct Partial {
    facts: Option<FileFacts>,
    extents: Vec<Extent>,
    /// What the extents take in the manifest.
    extents_bytes: usize,
}

/// A part of the manifest.
#[derive(Debug)]
enum Part {
    /// Whole lines, compressed, and their length.
    Lines(Vec<u8>, usize),
    /// The place of a file that comes last.
    Late(LateFile),
}

/// Everything that copying the files gave.
#[derive(Debug)]
pub(super) struct Collected {
    parts: Vec<Part>,
    pub(super) totals: ManifestTotals,
    pub(super) failures: Vec<ChecksumFailure>,
    /// Files with bad checksums that are not in `failures`.
    pub(super) more_failures: u64,
    /// Files that were gone when their turn came.
    pub(super) vanished: u64,
}

#[derive(Debug)]
struct State {
    /// The oldest item that is not in `parts` or `block`.
    next: usize,
    partial: HashMap<usize, Partial>,
    /// Finished files, rendered; `None` for one that is not there any more.
    finished: BTreeMap<usize, Option<Vec<u8>>>,
    block: Vec<u8>,
    collected: Collected,
    stopped: bool,
}

/// Takes what readers and compressors learn.
#[derive(Debug)]
pub(super) struct Collector {
    scan: Arc<Scan>,
    state: Mutex<State>,
    moved: Condvar,
    window: usize,
}

impl Collector {
    pub(super) fn new(scan: Arc<Scan>) -> Result<Self> {
        Self::with_window(scan, WINDOW_ITEMS)
    }

    fn with_window(scan: Arc<Scan>, window: usize) -> Result<Self> {
        let collected = Collected {
            parts: Vec::new(),
            totals: ManifestTotals::default(),
            failures: Vec::new(),
            more_failures: 0,
            vanished: 0,
        };
        let mut state = State {
            next: 0,
            partial: HashMap::new(),
            finished: BTreeMap::new(),
            block: Vec::new(),
            collected,
            stopped: false,
        };
        state.move_on(&scan)?;
        Ok(Self { scan, state: Mutex::new(state), moved: Condvar::new(), window })
    }

    /// Waits until `item` is near enough to the oldest unfinished one.
    pub(super) fn wait_for_turn(&self, item: usize) -> Result<(), Stopped> {
        let mut state = lock(&self.state);
        while !state.stopped && item > state.next.saturating_add(self.window) {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped { Err(Stopped) } else { Ok(()) }
    }

    /// Lets nobody wait any longer.
    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.moved.notify_all();
    }

    /// A file was gone when its turn came: it is left out of the manifest.
    pub(super) fn vanished(&self, item: usize) -> Result<()> {
        self.with(|state, scan| {
            state.collected.vanished += 1;
            state.partial.remove(&item);
            state.finished.insert(item, None);
            state.move_on(scan)
        })
    }

    /// A file was read to its end.
    pub(super) fn read(&self, item: usize, facts: FileFacts, failure: Option<ChecksumFailure>) -> Result<()> {
        self.with(|state, scan| {
            match failure {
                Some(failure) if state.collected.failures.len() < FAILURES_MAX => {
                    state.collected.failures.push(failure);
                }
                Some(_) => state.collected.more_failures += 1,
                None => {}
            }
            state.partial.entry(item).or_default().facts = Some(facts);
            state.complete(item, scan)
        })
    }

    /// A frame found its place.
    pub(super) fn located(&self, pieces: &[Piece], at: Location) -> Result<()> {
        self.with(|state, scan| {
            for piece in pieces {
                let extent = at.extent(*piece);
                let partial = state.partial.entry(piece.item).or_default();
                partial.extents_bytes += rendered_bytes(extent);
                partial.extents.push(extent);
                if partial.extents_bytes > EXTENTS_BYTES_MAX {
                    return Err(too_large(scan, piece.item));
                }
                state.complete(piece.item, scan)?;
            }
            Ok(())
        })
    }

    fn with(&self, change: impl FnOnce(&mut State, &Scan) -> Result<()>) -> Result<()> {
        let mut state = lock(&self.state);
        let before = state.next;
        let result = change(&mut state, &self.scan);
        if state.next != before {
            self.moved.notify_all();
        }
        result
    }

    /// Everything, once all files are finished. `None` when some are not.
    pub(super) fn finish(&self) -> Result<Option<Collected>> {
        let mut state = lock(&self.state);
        if state.next < self.scan.items.len() {
            return Ok(None);
        }
        state.close_block()?;
        state.collected.failures.sort_by(|a, b| a.path.cmp(&b.path));
        let collected = Collected {
            parts: std::mem::take(&mut state.collected.parts),
            totals: state.collected.totals.clone(),
            failures: std::mem::take(&mut state.collected.failures),
            more_failures: state.collected.more_failures,
            vanished: state.collected.vanished,
        };
        Ok(Some(collected))
    }
}

impl State {
    /// Renders a file's entry if all about it is known, and moves on.
    fn complete(&mut self, item: usize, scan: &Scan) -> Result<()> {
        let Some(partial) = self.partial.get(&item) else { return Ok(()) };
        let is_complete = partial.facts.as_ref().is_some_and(|facts| facts.extents == partial.extents.len());
        if !is_complete {
            return Ok(());
        }
        let Some(Partial { facts: Some(facts), mut extents, .. }) = self.partial.remove(&item) else {
            return Ok(());
        };
        extents.sort_unstable_by_key(|extent| extent.file_offset);
        let path = scan.items.get(item).map(|item| scan.path(item)).unwrap_or_default();
        self.collected.totals.files += 1;
        self.collected.totals.bytes += facts.bytes;
        let line = render(&file_entry(&path, &facts, extents))?;
        self.finished.insert(item, Some(line));
        self.move_on(scan)
    }

    /// Takes over everything that has nothing unfinished before it.
    fn move_on(&mut self, scan: &Scan) -> Result<()> {
        while let Some(item) = scan.items.get(self.next) {
            match item.kind {
                ItemKind::File { .. } => match self.finished.remove(&self.next) {
                    Some(Some(line)) => self.block.extend_from_slice(&line),
                    Some(None) => {}
                    None => return Ok(()),
                },
                ItemKind::Directory { mode } => {
                    self.collected.totals.directories += 1;
                    let path = ManifestPath::from_bytes(&scan.path(item));
                    self.block.extend_from_slice(&render(&ManifestEntry::Directory { path, mode })?);
                }
                ItemKind::Link { target } => {
                    let path = ManifestPath::from_bytes(&scan.path(item));
                    let target = ManifestPath::from_bytes(scan.link_target(target));
                    self.block.extend_from_slice(&render(&ManifestEntry::Link { path, target })?);
                }
                ItemKind::Late(late) => {
                    self.close_block()?;
                    self.collected.parts.push(Part::Late(late));
                }
            }
            self.next += 1;
            if self.block.len() >= BLOCK_BYTES {
                self.close_block()?;
            }
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<()> {
        if !self.block.is_empty() {
            let compressed = zstd::bulk::compress(&self.block, BLOCK_LEVEL).map_err(seal_error)?;
            self.collected.parts.push(Part::Lines(compressed, self.block.len()));
            self.block.clear();
        }
        Ok(())
    }
}

/// What an extent takes in the manifest: six numbers, commas, brackets, and a comma behind it.
fn rendered_bytes(extent: Extent) -> usize {
    let numbers: [u64; 6] = extent.into();
    numbers.iter().map(|number| number.checked_ilog10().unwrap_or_default() as usize + 1).sum::<usize>() + 8
}

fn too_large(scan: &Scan, item: usize) -> EngineError {
    let path = scan.items.get(item).map(|item| scan.path(item)).unwrap_or_default();
    EngineError::failed(
        ErrorKind::Unsupported,
        format!(
            "a file is too large for the manifest of a backup, which could not be restored path={}",
            shown(&path)
        ),
    )
    .with_hint("a server's own files are not that large: move the file out of the data directory")
}

fn render(entry: &ManifestEntry) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry).map_err(seal_error)?;
    line.push(b'\n');
    Ok(line)
}

/// The manifest's entry of a file.
pub(super) fn file_entry(path: &[u8], facts: &FileFacts, extents: Vec<Extent>) -> ManifestEntry {
    ManifestEntry::File(FileEntry {
        path: ManifestPath::from_bytes(path),
        bytes: facts.bytes,
        mode: facts.mode,
        modified: facts.modified,
        sha256: hex(&facts.sha256),
        extents,
    })
}

impl Collected {
    /// Gives the manifest's lines between header and totals, block by block, with those of the late files in their
    /// places; a late file without an entry has none.
    pub(super) fn each_block(
        &self,
        late: &[(LateFile, ManifestEntry)],
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        for part in &self.parts {
            match part {
                Part::Lines(compressed, bytes) => {
                    take(&zstd::bulk::decompress(compressed, *bytes).map_err(seal_error)?)?;
                }
                Part::Late(wanted) => {
                    if let Some((_, entry)) = late.iter().find(|(file, _)| file == wanted) {
                        take(&render(entry)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether every late file has its place in the manifest.
    pub(super) fn has_places_for_all(&self) -> bool {
        let has = |wanted: &LateFile| {
            self.parts.iter().any(|part| matches!(part, Part::Late(late) if late == wanted))
        };
        LateFile::ALL.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Item, ScanRequest, scan};
    use super::*;

    /// A walk over `files` files in one directory, and the items that are those files.
    fn walked(files: usize) -> (Arc<Scan>, Vec<usize>) {
        let root = tempfile::tempdir().unwrap();
        for directory in ["base/5", "global"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for n in 0..files {
            std::fs::write(root.path().join(format!("base/5/{n:04}")), b"x").unwrap();
        }
        let request = ScanRequest {
            root: root.path().to_owned(),
            tablespace_directory: "PG_17_202406281".into(),
            statistics_directory: None,
        };
        let scan = Arc::new(scan(&request).unwrap());
        let is_file = |(_, item): &(usize, &Item)| matches!(item.kind, ItemKind::File { .. });
        let items = scan.items.iter().enumerate().filter(is_file).map(|(index, _)| index).collect();
        (scan, items)
    }

    fn facts(extents: usize) -> FileFacts {
        FileFacts { bytes: 10, mode: 0o600, modified: 0, sha256: [0; 32], extents }
    }

    fn at(pack: u32) -> Location {
        Location { pack, frame_offset: 4096, frame_bytes: 9 }
    }

    fn paths(collected: &Collected, late: &[(LateFile, ManifestEntry)]) -> Vec<String> {
        let mut text = Vec::new();
        collected
            .each_block(late, |block| {
                text.extend_from_slice(block);
                Ok(())
            })
            .unwrap();
        let lines = String::from_utf8(text).unwrap();
        let path = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["path"].as_str().unwrap().to_owned()
        };
        lines.lines().map(path).collect()
    }

    #[test]
    fn an_extent_is_measured_as_it_is_rendered() {
        for (file_offset, frame_offset) in [(0, 9), (10, 0), (99, 100), (u64::MAX, 1 << 40)] {
            let extent =
                Extent { file_offset, bytes: 1 << 20, pack: 3, frame_offset, frame_bytes: 77, skip: 0 };
            assert_eq!(rendered_bytes(extent), serde_json::to_string(&extent).unwrap().len() + 1);
        }
    }

    #[test]
    fn a_file_that_a_restore_could_not_read_fails_the_backup() {
        let (scan, items) = walked(2);
        let collector = Collector::new(scan).unwrap();
        let piece = |item| Piece { item, file_offset: 1 << 40, bytes: 1 << 20, skip: 0 };
        let one = rendered_bytes(at(0).extent(piece(items[1])));
        let most = vec![piece(items[1]); EXTENTS_BYTES_MAX / one];
        collector.located(&most, at(0)).unwrap();
        collector.located(&[piece(items[0])], at(0)).unwrap();
        let error = collector.located(&[piece(items[1])], at(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().ends_with("path=base/5/0001"), "{error}");
    }

    #[test]
    fn files_finish_in_any_order_and_the_manifest_is_in_its_own() {
        let (scan, items) = walked(4);
        let collector = Collector::new(Arc::clone(&scan)).unwrap();
        let piece = |item, file_offset| Piece { item, file_offset, bytes: 5, skip: 0 };
        collector.located(&[piece(items[3], 5)], at(1)).unwrap();
        collector.read(items[1], facts(0), None).unwrap();
        collector.read(items[3], facts(2), None).unwrap();
        collector.vanished(items[2]).unwrap();
        assert!(collector.finish().unwrap().is_none(), "two files are open");
        collector.located(&[piece(items[3], 0), piece(items[0], 0)], at(0)).unwrap();
        collector.read(items[0], facts(1), None).unwrap();
        let collected = collector.finish().unwrap().unwrap();
        assert_eq!((collected.totals.files, collected.totals.bytes, collected.vanished), (3, 30, 1));
        assert!(collected.has_places_for_all());
        let label = file_entry(b"backup_label", &facts(0), Vec::new());
        assert_eq!(
            paths(&collected, &[(LateFile::BackupLabel, label)]),
            ["backup_label", "base", "base/5", "base/5/0000", "base/5/0001", "base/5/0003", "global"]
        );
        let mut text = String::new();
        collected
            .each_block(&[], |block| {
                text.push_str(std::str::from_utf8(block).unwrap());
                Ok(())
            })
            .unwrap();
        assert!(text.contains("[[0,5,0,4096,9,0],[5,5,1,4096,9,0]]"), "extents by offset: {text}");
    }

    #[test]
    fn a_reader_far_ahead_waits_for_the_oldest_file() {
        let (scan, items) = walked(30);
        let collector = Arc::new(Collector::with_window(scan, 10).unwrap());
        let waiting = {
            let collector = Arc::clone(&collector);
            let far = items[20];
            std::thread::spawn(move || collector.wait_for_turn(far))
        };
        for item in &items[..15] {
            collector.wait_for_turn(*item).unwrap();
            collector.read(*item, facts(0), None).unwrap();
        }
        assert_eq!(waiting.join().unwrap(), Ok(()));
        collector.stop();
        assert_eq!(collector.wait_for_turn(items[29]), Err(Stopped));
    }

    #[test]
    fn listed_failures_are_bounded() {
        let (scan, items) = walked(FAILURES_MAX + 5);
        let collector = Collector::new(scan).unwrap();
        for item in items {
            let failure = ChecksumFailure { path: "x".into(), blocks: vec![1], count: 1 };
            collector.read(item, facts(0), Some(failure)).unwrap();
        }
        let collected = collector.finish().unwrap().unwrap();
        assert_eq!((collected.failures.len(), collected.more_failures), (FAILURES_MAX, 5));
    }
}
