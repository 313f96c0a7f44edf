//! From files to range reads: which parts of which packs are asked for together.
//!
//! Pure. A large file is one task, read in the order of its bytes, so that its hash needs no second look at it.
//! Small files are gathered into tasks and read in the order of the packs: a frame that bundles many of them is
//! fetched once, and neighbouring frames come in one request.

use std::ops::Range;

use super::inventory::PlannedFile;

/// Frames are asked for together up to so many stored bytes.
const READ_BYTES_MAX: u64 = 8 << 20;
/// The plain bytes taken from one request, about: bounds the memory for decompressed frames.
const READ_PLAIN_BYTES_MAX: u64 = 16 << 20;
/// Bytes between two frames that nobody asked for and that are read nevertheless, to save a request.
const GAP_BYTES_MAX: u64 = 256 << 10;
/// A file with more stored plain bytes than this is a task of its own.
const SMALL_BYTES_MAX: u64 = 4 << 20;
/// A task of small files has so many plain bytes, about,
const TASK_BYTES: u64 = 16 << 20;
/// and so many files at most,
const TASK_FILES_MAX: usize = 4096;
/// and so many files of several extents at most: such a file stays open until its last extent is written.
const TASK_PARTED_FILES_MAX: usize = 64;

/// One stretch of a file inside of a decompressed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Which file of the task.
    pub(crate) file: usize,
    /// Which extent of that file.
    pub(crate) extent: usize,
}

/// One frame to decompress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) runs: Vec<Run>,
}

impl Frame {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// One range read of one pack; it is never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) pack: u64,
    pub(crate) range: Range<u64>,
    /// By rising offset, without overlap.
    pub(crate) frames: Vec<Frame>,
    /// Plain bytes that the runs take from it.
    pub(crate) plain_bytes: u64,
}

/// Files that are written by one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) files: Vec<PlannedFile>,
    /// In the order in which they are to be written.
    pub(crate) reads: Vec<Read>,
}

impl Task {
    fn large(file: PlannedFile) -> Self {
        let runs: Vec<Run> = (0..file.extents.len()).map(|extent| Run { file: 0, extent }).collect();
        let files = vec![file];
        Self { reads: group(&files, &runs), files }
    }

    fn small(files: Vec<PlannedFile>) -> Self {
        let of = |file: usize, planned: &PlannedFile| {
            (0..planned.extents.len()).map(move |extent| Run { file, extent })
        };
        let mut runs: Vec<Run> =
            files.iter().enumerate().flat_map(|(file, planned)| of(file, planned)).collect();
        runs.sort_by_key(|run| {
            extent_of(&files, *run).map(|extent| (extent.pack, extent.frame_offset, extent.frame_bytes))
        });
        Self { reads: group(&files, &runs), files }
    }
}

/// The extent that a run writes.
pub(crate) fn extent_of(files: &[PlannedFile], run: Run) -> Option<walden_core::Extent> {
    files.get(run.file)?.extents.get(run.extent).copied()
}

/// Joins runs, in the order given, into frames and reads.
fn group(files: &[PlannedFile], runs: &[Run]) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    for run in runs {
        let Some(extent) = extent_of(files, *run) else { continue };
        let end = extent.frame_offset.saturating_add(extent.frame_bytes);
        if let Some(read) = reads.last_mut().filter(|read| read.pack == extent.pack) {
            let last = read.frames.last_mut();
            let same =
                last.filter(|frame| frame.offset == extent.frame_offset && frame.bytes == extent.frame_bytes);
            if let Some(frame) = same {
                frame.runs.push(*run);
                read.plain_bytes += extent.bytes;
                continue;
            }
            let reached = read.frames.last().map_or(0, Frame::end);
            if extent.frame_offset >= reached
                && extent.frame_offset - reached <= GAP_BYTES_MAX
                && end - read.range.start <= READ_BYTES_MAX
                && read.plain_bytes + extent.bytes <= READ_PLAIN_BYTES_MAX
            {
                read.range.end = end;
                read.plain_bytes += extent.bytes;
                read.frames.push(Frame {
                    offset: extent.frame_offset,
                    bytes: extent.frame_bytes,
                    runs: vec![*run],
                });
                continue;
            }
        }
        reads.push(Read {
            pack: extent.pack,
            range: extent.frame_offset..end,
            frames: vec![Frame { offset: extent.frame_offset, bytes: extent.frame_bytes, runs: vec![*run] }],
            plain_bytes: extent.bytes,
        });
    }
    reads
}

/// Gathers files, in the order of the manifest, into tasks.
#[derive(Debug, Default)]
pub(crate) struct TaskBuilder {
    small: Vec<PlannedFile>,
    bytes: u64,
    parted: usize,
}

impl TaskBuilder {
    /// Takes a file; gives a task when one is complete.
    pub(crate) fn add(&mut self, file: PlannedFile) -> Option<Task> {
        let bytes = file.stored_plain_bytes();
        if bytes > SMALL_BYTES_MAX {
            return Some(Task::large(file));
        }
        self.bytes += bytes;
        self.parted += usize::from(file.extents.len() > 1);
        self.small.push(file);
        let full = self.bytes >= TASK_BYTES
            || self.small.len() >= TASK_FILES_MAX
            || self.parted >= TASK_PARTED_FILES_MAX;
        if full { self.finish() } else { None }
    }

    /// The task of what is left.
    pub(crate) fn finish(&mut self) -> Option<Task> {
        let files = std::mem::take(&mut self.small);
        (self.bytes, self.parted) = (0, 0);
        (!files.is_empty()).then(|| Task::small(files))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walden_core::Extent;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn extent(
        file_offset: u64,
        bytes: u64,
        pack: u64,
        frame_offset: u64,
        frame_bytes: u64,
        skip: u64,
    ) -> Extent {
        Extent { file_offset, bytes, pack, frame_offset, frame_bytes, skip }
    }

    fn file(name: &str, extents: Vec<Extent>) -> PlannedFile {
        let bytes = extents.last().map_or(0, |extent| extent.file_offset + extent.bytes);
        PlannedFile { path: name.into(), bytes, mode: 0o600, sha256: [0; 32], extents }
    }

    fn ranges(task: &Task) -> Vec<(u64, u64, u64, usize)> {
        task.reads
            .iter()
            .map(|read| (read.pack, read.range.start, read.range.end, read.frames.len()))
            .collect()
    }

    #[test]
    fn a_large_file_is_read_in_its_own_order_a_few_mebibytes_at_a_time() {
        let extents = (0..20).map(|n| extent(n * MIB, MIB, 0, 1000 + n * MIB / 2, MIB / 2, 0)).collect();
        let task = TaskBuilder::default().add(file("large", extents)).unwrap();
        assert_eq!(ranges(&task), [(0, 1000, 1000 + 8 * MIB, 16), (0, 1000 + 8 * MIB, 1000 + 10 * MIB, 4)]);
    }

    #[test]
    fn small_files_of_one_frame_share_one_read() {
        let mut builder = TaskBuilder::default();
        for n in 0..100 {
            assert!(
                builder.add(file(&n.to_string(), vec![extent(0, 8192, 3, 4096, 90_000, n * 8192)])).is_none()
            );
        }
        let task = builder.finish().unwrap();
        assert_eq!(ranges(&task), [(3, 4096, 94_096, 1)]);
        assert_eq!(task.reads[0].frames[0].runs.len(), 100);
        assert!(builder.finish().is_none());
    }

    #[test]
    fn far_and_overlapping_frames_are_not_joined() {
        let files =
            [(0, 0, 100), (0, 100 + GAP_BYTES_MAX, 100), (0, 1000 + 2 * GAP_BYTES_MAX, 100), (1, 0, 100)];
        let mut builder = TaskBuilder::default();
        for (n, (pack, offset, bytes)) in files.into_iter().enumerate() {
            assert!(builder.add(file(&n.to_string(), vec![extent(0, 50, pack, offset, bytes, 0)])).is_none());
        }
        builder.add(file("overlaps", vec![extent(0, 50, 1, 50, 100, 0)]));
        let task = builder.finish().unwrap();
        let far = 1000 + 2 * GAP_BYTES_MAX;
        assert_eq!(
            ranges(&task),
            [(0, 0, 200 + GAP_BYTES_MAX, 2), (0, far, far + 100, 1), (1, 0, 100, 1), (1, 50, 150, 1)]
        );
    }

    #[test]
    fn files_without_stored_bytes_need_no_read() {
        let mut builder = TaskBuilder::default();
        builder.add(PlannedFile { bytes: 1 << 30, ..file("holes", Vec::new()) });
        assert_eq!(ranges(&builder.finish().unwrap()), []);
    }

    proptest! {
        /// Whatever the layout: every extent is written exactly once, out of a read that holds its frame.
        #[test]
        fn every_extent_is_read_once(
            layout in prop::collection::vec(prop::collection::vec((1u64..3 * MIB, 0u64..3, 0u64..40, 1u64..2 * MIB), 0..6), 0..40)
        ) {
            let mut builder = TaskBuilder::default();
            let mut tasks = Vec::new();
            let mut expected = 0;
            for (n, extents) in layout.into_iter().enumerate() {
                let mut at = 0;
                let extents: Vec<Extent> = extents.into_iter().map(|(bytes, pack, slot, frame_bytes)| {
                    let made = extent(at, bytes, pack, slot * MIB / 2, frame_bytes, 0);
                    at += bytes;
                    made
                }).collect();
                expected += extents.len();
                tasks.extend(builder.add(file(&n.to_string(), extents)));
            }
            tasks.extend(builder.finish());
            let mut seen = std::collections::HashSet::new();
            for (number, task) in tasks.iter().enumerate() {
                for read in &task.reads {
                    prop_assert!(read.range.start < read.range.end);
                    let mut reached = read.range.start;
                    for frame in &read.frames {
                        prop_assert!(frame.offset >= reached && frame.end() <= read.range.end);
                        reached = frame.end();
                        for run in &frame.runs {
                            let extent = extent_of(&task.files, *run).unwrap();
                            prop_assert_eq!((extent.pack, extent.frame_offset, extent.frame_bytes), (read.pack, frame.offset, frame.bytes));
                            prop_assert!(seen.insert((number, run.file, run.extent)));
                        }
                    }
                }
            }
            prop_assert_eq!(seen.len(), expected);
        }
    }
}
