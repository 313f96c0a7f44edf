//! Checking the page checksums of what is copied.
//!
//! A page whose checksum is wrong was, most likely, read while the server wrote it. So it is read again, a few
//! times with short pauses; a good one takes its place. One that is newer than the backup's start needs no checksum:
//! WAL replay brings it back whole. What stays wrong is recorded, and the backup keeps the bytes as they are:
//! damage that is in the database is no reason to be without a backup of it.

use std::io;
use std::time::Duration;

use walden_core::ChecksumFailure;
use walden_pg::{DataPage, Lsn, PageVerdict};

/// Blocks that are named one by one in a failure; the rest is only counted.
const BLOCKS_NAMED_MAX: usize = 100;
/// Pauses before each further reading of bad pages. A page is written in well under a millisecond, but the writer
/// may be held up between the two halves of it.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(150),
];

/// Reads a part of the file that is being checked.
pub(super) trait ReadAt {
    /// Fills as much of `buffer` from `offset` as the file has; returns how much.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Waits before the next try.
    fn pause(&mut self, pause: Duration);
}

/// What checking needs to know about the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRules {
    /// Bytes of one page.
    pub(super) page_bytes: usize,
    /// Pages with a position from here on are repaired by replay.
    pub(super) start_lsn: Lsn,
}

/// Checks the pages of one file as they pass.
#[derive(Debug)]
pub(super) struct PageCheck {
    rules: PageRules,
    /// The number within its fork of the file's first block.
    first_block: u32,
    blocks: Vec<u32>,
    count: u64,
}

impl PageCheck {
    pub(super) fn new(rules: PageRules, first_block: u32) -> Self {
        Self { rules, first_block, blocks: Vec::new(), count: 0 }
    }

    /// Checks `chunk`, which was read from `offset` and of which `read` bytes came from the file, and puts in place
    /// of torn pages what a further reading gives. A part of a page at the end is left alone.
    ///
    /// # Errors
    /// When a further reading fails.
    pub(super) fn check(
        &mut self,
        chunk: &mut [u8],
        read: usize,
        offset: u64,
        file: &mut impl ReadAt,
    ) -> io::Result<()> {
        let page_bytes = self.rules.page_bytes;
        let pages = read.min(chunk.len()) / page_bytes;
        let in_file = u32::try_from(offset / page_bytes as u64).unwrap_or(u32::MAX);
        let mut bad: Vec<usize> = Vec::new();
        for (index, page) in chunk.chunks_exact(page_bytes).take(pages).enumerate() {
            if !self.is_acceptable(page, in_file, index) {
                bad.push(index);
            }
        }
        // A file full of damage is not read five times over.
        let pauses = if self.count < BLOCKS_NAMED_MAX as u64 { &PAUSES[..] } else { &PAUSES[..1] };
        for pause in pauses {
            if bad.is_empty() {
                return Ok(());
            }
            file.pause(*pause);
            let mut still_bad = Vec::new();
            for index in bad {
                let at = index * page_bytes;
                let Some(page) = chunk.get_mut(at..at + page_bytes) else { continue };
                page.fill(0);
                if file.read_at(page, offset + at as u64)? < page_bytes {
                    // Cut off meanwhile, and replay will cut it off too: zeros, as for any file that shrank.
                    page.fill(0);
                }
                if !self.is_acceptable(page, in_file, index) {
                    still_bad.push(index);
                }
            }
            bad = still_bad;
        }
        for index in bad {
            self.count += 1;
            if self.blocks.len() < BLOCKS_NAMED_MAX {
                self.blocks.push(in_file.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)));
            }
        }
        Ok(())
    }

    fn is_acceptable(&self, page: &[u8], in_file: u32, index: usize) -> bool {
        let block = u64::from(self.first_block) + u64::from(in_file) + index as u64;
        let Ok(page) = DataPage::new(page) else { return true };
        match page.verify(u32::try_from(block).unwrap_or(u32::MAX)) {
            PageVerdict::New | PageVerdict::Good => true,
            PageVerdict::Bad { lsn, .. } => lsn >= self.rules.start_lsn,
        }
    }

    /// What was wrong in the file, if anything was.
    pub(super) fn finish(self, path: String) -> Option<ChecksumFailure> {
        (self.count > 0).then_some(ChecksumFailure { path, blocks: self.blocks, count: self.count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 8192;
    const RULES: PageRules = PageRules { page_bytes: PAGE, start_lsn: Lsn::new(1000) };

    /// A page of block `block` with this position and this filling, its checksum right.
    fn page(block: u32, lsn: u32, fill: u8) -> Vec<u8> {
        let mut page = vec![fill; PAGE];
        page[0..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        let sum = DataPage::new(&page).unwrap().compute_checksum(block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn damaged(block: u32, lsn: u32) -> Vec<u8> {
        let mut page = page(block, lsn, 1);
        page[5000] ^= 1;
        page
    }

    /// What each further reading finds; the last one stays.
    struct Disk {
        readings: Vec<Vec<u8>>,
        pauses: usize,
    }

    impl Disk {
        fn new(readings: Vec<Vec<u8>>) -> Self {
            Self { readings, pauses: 0 }
        }
    }

    impl ReadAt for Disk {
        fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let contents =
                if self.readings.len() > 1 { self.readings.remove(0) } else { self.readings[0].clone() };
            let from = &contents[usize::try_from(offset).unwrap().min(contents.len())..];
            let bytes = from.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&from[..bytes]);
            Ok(bytes)
        }

        fn pause(&mut self, _pause: Duration) {
            self.pauses += 1;
        }
    }

    fn check(first: &[u8], disk: &mut Disk, first_block: u32) -> (Vec<u8>, Option<ChecksumFailure>) {
        let mut check = PageCheck::new(RULES, first_block);
        let mut chunk = first.to_vec();
        let read = chunk.len();
        check.check(&mut chunk, read, 0, disk).unwrap();
        (chunk, check.finish("base/5/1".to_owned()))
    }

    #[test]
    fn good_new_and_newer_pages_are_not_read_again() {
        let first = [page(131_072, 5, 7), vec![0; PAGE], damaged(131_074, 1000), vec![9; 100]].concat();
        let mut disk = Disk::new(vec![]);
        let (chunk, failure) = check(&first, &mut disk, 131_072);
        assert_eq!((chunk, failure), (first, None));
        assert_eq!(disk.pauses, 0);
    }

    #[test]
    fn a_torn_page_is_replaced_by_a_good_reading() {
        let good = [page(0, 5, 7), page(1, 5, 8)].concat();
        let torn = [page(0, 5, 7), damaged(1, 5)].concat();
        let mut disk = Disk::new(vec![torn.clone(), good.clone()]);
        assert_eq!(check(&torn, &mut disk, 0), (good, None));
        assert_eq!(disk.pauses, 2);
    }

    #[test]
    fn a_reading_that_became_newer_than_the_start_is_enough() {
        let newer = damaged(0, 1000);
        let mut disk = Disk::new(vec![newer.clone()]);
        assert_eq!(check(&damaged(0, 5), &mut disk, 0), (newer, None));
    }

    #[test]
    fn what_stays_wrong_is_recorded_and_kept() {
        let first = [page(0, 5, 7), damaged(1, 5), damaged(2, 6)].concat();
        let mut disk = Disk::new(vec![first.clone()]);
        let (chunk, failure) = check(&first, &mut disk, 0);
        assert_eq!(chunk, first);
        assert_eq!(failure, Some(ChecksumFailure { path: "base/5/1".into(), blocks: vec![1, 2], count: 2 }));
        assert_eq!(disk.pauses, PAUSES.len());
    }

    #[test]
    fn a_page_in_the_wrong_place_is_found() {
        let first = page(1, 5, 7);
        let mut disk = Disk::new(vec![first.clone()]);
        assert_eq!(check(&first, &mut disk, 0).1.unwrap().blocks, [0]);
    }

    #[test]
    fn a_bad_page_that_was_cut_off_meanwhile_becomes_zeros() {
        let mut disk = Disk::new(vec![vec![1; 100]]);
        assert_eq!(check(&damaged(0, 5), &mut disk, 0), (vec![0; PAGE], None));
    }

    #[test]
    fn named_blocks_and_further_readings_are_bounded() {
        let mut check = PageCheck::new(RULES, 0);
        let mut pauses = Vec::new();
        for chunk in 0..4_u64 {
            let first: Vec<u8> = (0..64).flat_map(|_| damaged(9999, 5)).collect();
            let mut disk = Disk::new(vec![
                [vec![0; usize::try_from(chunk).unwrap() * first.len()], first.clone()].concat(),
            ]);
            check.check(&mut first.clone(), first.len(), chunk * first.len() as u64, &mut disk).unwrap();
            pauses.push(disk.pauses);
        }
        assert_eq!(pauses, [4, 4, 1, 1]);
        let failure = check.finish("x".into()).unwrap();
        assert_eq!((failure.blocks.len(), failure.count), (100, 256));
        assert_eq!(failure.blocks[99], 99);
    }
}
