//! Reading files as a backup must have them: to the size first seen, whatever happens to them meanwhile.
//!
//! A file that shrank is filled up with zeros: it was cut off after the backup's start, and replay cuts it off
//! again. One that grew is read to the size that it had: what came later is in the WAL. One that vanished is left
//! out. Chunks of zeros are not stored at all: a range without an extent is zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use walden_core::ChecksumFailure;
use walden_pg::RelationFile;

use super::collect::{FileFacts, Piece};
use super::pages::{PageCheck, PageRules, ReadAt};
use super::queue::Stopped;
use super::scan::shown;
use crate::error::EngineError;

/// Plain bytes of one chunk of a large file, and of one bundle of small ones: one frame of a pack.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Files up to this size share frames.
pub(super) const SMALL_BYTES: u64 = 256 << 10;

/// Plain bytes that become one frame, and whose they are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) plain: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
}

/// Why reading ended early.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It was told to.
    Stopped,
    Failed(EngineError),
}

impl From<Stopped> for ReadError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<EngineError> for ReadError {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// Where chunks go, and where their memory comes from.
pub(super) trait Sink {
    /// Takes a full chunk.
    fn put(&self, chunk: Chunk) -> Result<(), Stopped>;

    /// A buffer, used before or new.
    fn buffer(&self) -> Vec<u8>;

    /// So many bytes of files were read.
    fn advance(&self, bytes: u64);
}

/// How the pages of relations are checked; `None` in clusters without checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checksums {
    pub(super) rules: PageRules,
    /// Pages of one segment of a relation's file.
    pub(super) relation_segment_blocks: u32,
}

impl Checksums {
    fn check_of(self, path: &[u8]) -> Option<PageCheck> {
        let file = RelationFile::from_path(std::str::from_utf8(path).ok()?)?;
        Some(PageCheck::new(self.rules, file.name.first_block(self.relation_segment_blocks)?))
    }
}

/// What reading a file gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileRead {
    Vanished,
    Read(FileFacts, Option<ChecksumFailure>),
}

impl ReadAt for File {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn pause(&mut self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// Reads one file after another and cuts them into chunks.
pub(super) struct Reader<'a, S> {
    sink: &'a S,
    checksums: Option<Checksums>,
    /// Small files that share the next frame.
    bundle: Chunk,
}

impl<'a, S: Sink> Reader<'a, S> {
    pub(super) fn new(sink: &'a S, checksums: Option<Checksums>) -> Self {
        Self { sink, checksums, bundle: Chunk { plain: Vec::new(), pieces: Vec::new() } }
    }

    /// Reads the file at `absolute`, which is `path` in the backup.
    pub(super) fn read(&mut self, item: usize, path: &[u8], absolute: &Path) -> Result<FileRead, ReadError> {
        let mut file = match File::open(absolute) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(FileRead::Vanished);
            }
            Err(error) => return Err(EngineError::local("read", absolute, error).into()),
        };
        let metadata = file.metadata().map_err(|error| EngineError::local("look at", absolute, error))?;
        if !metadata.is_file() {
            return Ok(FileRead::Vanished);
        }
        let check = self.checksums.and_then(|checksums| checksums.check_of(path));
        let mut reading = Reading { item, bytes: metadata.len(), check, hash: Sha256::new(), extents: 0 };
        let read = if reading.bytes <= SMALL_BYTES {
            self.read_small(&mut file, &mut reading)
        } else {
            self.read_large(&mut file, &mut reading)
        };
        match read {
            Ok(()) => {}
            Err(Interruption::Stopped) => return Err(ReadError::Stopped),
            Err(Interruption::Io(error)) => return Err(EngineError::local("read", absolute, error).into()),
        }
        let facts = FileFacts {
            bytes: reading.bytes,
            mode: metadata.mode() & 0o777,
            modified: metadata.mtime(),
            sha256: reading.hash.finalize().into(),
            extents: reading.extents,
        };
        Ok(FileRead::Read(facts, reading.check.and_then(|check| check.finish(shown(path)))))
    }

    /// Sends what small files there are on their way.
    pub(super) fn flush(&mut self) -> Result<(), Stopped> {
        if self.bundle.pieces.is_empty() {
            self.bundle.plain.clear();
            return Ok(());
        }
        let mut plain = self.sink.buffer();
        plain.clear();
        self.sink.put(std::mem::replace(&mut self.bundle, Chunk { plain, pieces: Vec::new() }))
    }

    fn read_small(&mut self, file: &mut File, reading: &mut Reading) -> Result<(), Interruption> {
        let bytes = usize::try_from(reading.bytes).unwrap_or(CHUNK_BYTES);
        if self.bundle.plain.len() + bytes > CHUNK_BYTES {
            self.flush()?;
        }
        let skip = self.bundle.plain.len();
        self.bundle.plain.resize(skip + bytes, 0);
        let own = self.bundle.plain.get_mut(skip..).unwrap_or_default();
        if reading.take(file, own, 0)? {
            self.bundle.plain.truncate(skip);
        } else {
            let piece = Piece { item: reading.item, file_offset: 0, bytes: reading.bytes, skip: skip as u64 };
            self.bundle.pieces.push(piece);
        }
        self.sink.advance(reading.bytes);
        Ok(())
    }

    fn read_large(&mut self, file: &mut File, reading: &mut Reading) -> Result<(), Interruption> {
        let mut offset = 0;
        while offset < reading.bytes {
            let bytes = (reading.bytes - offset).min(CHUNK_BYTES as u64);
            let mut plain = self.sink.buffer();
            plain.clear();
            plain.resize(usize::try_from(bytes).unwrap_or(CHUNK_BYTES), 0);
            if !reading.take(file, &mut plain, offset)? {
                let piece = Piece { item: reading.item, file_offset: offset, bytes, skip: 0 };
                self.sink.put(Chunk { plain, pieces: vec![piece] })?;
            }
            self.sink.advance(bytes);
            offset += bytes;
        }
        Ok(())
    }
}

enum Interruption {
    Stopped,
    Io(io::Error),
}

impl From<Stopped> for Interruption {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<io::Error> for Interruption {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file that is being read.
struct Reading {
    item: usize,
    bytes: u64,
    check: Option<PageCheck>,
    hash: Sha256,
    extents: usize,
}

impl Reading {
    /// Reads, checks and hashes one run of the file into `plain`, which is all zeros; says whether it stayed so.
    fn take(&mut self, file: &mut File, plain: &mut [u8], offset: u64) -> io::Result<bool> {
        let read = ReadAt::read_at(file, plain, offset)?;
        if let Some(check) = &mut self.check {
            check.check(plain, read, offset, file)?;
        }
        self.hash.update(&*plain);
        let is_zero = is_zero(plain);
        self.extents += usize::from(!is_zero);
        Ok(is_zero)
    }
}

/// Whether all bytes are zero; gives up early on those that are not.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use walden_pg::Lsn;

    use super::*;

    #[derive(Default)]
    struct Kept {
        chunks: RefCell<Vec<Chunk>>,
        advanced: RefCell<u64>,
    }

    impl Sink for Kept {
        fn put(&self, chunk: Chunk) -> Result<(), Stopped> {
            self.chunks.borrow_mut().push(chunk);
            Ok(())
        }

        fn buffer(&self) -> Vec<u8> {
            vec![7; 10]
        }

        fn advance(&self, bytes: u64) {
            *self.advanced.borrow_mut() += bytes;
        }
    }

    fn facts(read: FileRead) -> FileFacts {
        match read {
            FileRead::Read(facts, None) => facts,
            other => panic!("{other:?}"),
        }
    }

    fn sha(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    #[test]
    fn small_files_share_a_frame_and_zeros_cost_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let sink = Kept::default();
        let mut reader = Reader::new(&sink, None);
        let contents: [&[u8]; 4] = [b"one", b"", &[0; 9000], b"three"];
        for (item, contents) in contents.iter().enumerate() {
            let path = directory.path().join(item.to_string());
            std::fs::write(&path, contents).unwrap();
            let facts = facts(reader.read(item, b"x", &path).unwrap());
            assert_eq!(facts.sha256, sha(contents));
            assert_eq!((facts.bytes, facts.extents), (contents.len() as u64, usize::from(item % 3 == 0)));
        }
        reader.flush().unwrap();
        let chunks = sink.chunks.take();
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].plain, b"onethree");
        let piece = |item, bytes, skip| Piece { item, file_offset: 0, bytes, skip };
        assert_eq!(chunks[0].pieces, [piece(0, 3, 0), piece(3, 5, 3)]);
        assert_eq!(*sink.advanced.borrow(), 9008);
    }

    #[test]
    fn large_files_are_cut_and_their_zero_chunks_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let contents = [vec![1; CHUNK_BYTES], vec![0; CHUNK_BYTES], vec![2; 5000]].concat();
        std::fs::write(&path, &contents).unwrap();
        let sink = Kept::default();
        let mut reader = Reader::new(&sink, None);
        let facts = facts(reader.read(0, b"f", &path).unwrap());
        assert_eq!((facts.bytes, facts.extents, facts.sha256), (contents.len() as u64, 2, sha(&contents)));
        let chunks = sink.chunks.take();
        let offsets: Vec<(u64, usize)> =
            chunks.iter().map(|chunk| (chunk.pieces[0].file_offset, chunk.plain.len())).collect();
        assert_eq!(offsets, [(0, CHUNK_BYTES), (2 << 20, 5000)]);
        assert_eq!(chunks[1].plain, vec![2; 5000], "a used buffer leaves nothing behind");
    }

    #[test]
    fn what_vanished_is_said_and_what_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let sink = Kept::default();
        let mut reader = Reader::new(&sink, None);
        let read = |reader: &mut Reader<'_, Kept>, path: &Path| reader.read(0, b"x", path);
        assert_eq!(read(&mut reader, &directory.path().join("gone")).unwrap(), FileRead::Vanished);
        assert_eq!(read(&mut reader, directory.path()).unwrap(), FileRead::Vanished, "a directory now");
        let looped = directory.path().join("loop");
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        assert!(matches!(read(&mut reader, &looped), Err(ReadError::Failed(_))));
    }

    #[test]
    fn a_file_that_shrinks_is_filled_with_zeros_and_one_that_grows_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        for (first, later) in [(3 * CHUNK_BYTES, CHUNK_BYTES + 10), (3 * CHUNK_BYTES, 4 * CHUNK_BYTES)] {
            std::fs::write(&path, vec![1; first]).unwrap();
            let mut file = File::open(&path).unwrap();
            let sink = Kept::default();
            let mut reader = Reader::new(&sink, None);
            let mut reading =
                Reading { item: 0, bytes: first as u64, check: None, hash: Sha256::new(), extents: 0 };
            File::options().write(true).open(&path).unwrap().set_len(later as u64).unwrap();
            assert!(reader.read_large(&mut file, &mut reading).is_ok());
            let mut expected = vec![1; first.min(later)];
            expected.resize(first, 0);
            let hash: [u8; 32] = reading.hash.finalize().into();
            assert_eq!(hash, sha(&expected));
            assert_eq!(reading.extents, if later < first { 2 } else { 3 });
        }
    }

    #[test]
    fn only_relations_are_checked_and_by_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut page = vec![1; 8192];
        page[0..8].fill(0);
        std::fs::write(&path, &page).unwrap();
        let sink = Kept::default();
        let rules = PageRules { page_bytes: 8192, start_lsn: Lsn::new(1000) };
        let mut reader = Reader::new(&sink, Some(Checksums { rules, relation_segment_blocks: 131_072 }));
        facts(reader.read(0, b"base/5/pg_filenode.map", &path).unwrap());
        let FileRead::Read(_, Some(failure)) = reader.read(1, b"base/5/1259.1", &path).unwrap() else {
            panic!()
        };
        assert_eq!(failure, ChecksumFailure { path: "base/5/1259.1".into(), blocks: vec![0], count: 1 });
    }
}
