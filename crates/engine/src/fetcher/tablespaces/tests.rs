#![expect(clippy::cast_possible_truncation, reason = "every number here is small")]

use std::os::unix::fs::symlink;

use walden_pg::{SegmentId, SegmentNumber, TimelineId};

use super::*;

const SIZE: WalSegmentSize = WalSegmentSize::MIN;
const PAGE: u64 = 8192;

/// Writes records of PostgreSQL 17 into segments, the way it does.
pub(in crate::fetcher) struct Crafter {
    wal: Vec<u8>,
    previous: u64,
}

/// Where the WAL of [`Crafter`] begins.
const START: u64 = 1 << 20;

impl Crafter {
    pub(in crate::fetcher) fn new() -> Self {
        Self { wal: Vec::new(), previous: START - 256 }
    }

    fn at(&self) -> u64 {
        START + self.wal.len() as u64
    }

    fn page_header(&mut self, missing: u32) {
        let at = self.at();
        let long = at.is_multiple_of(SIZE.bytes());
        let flags = u16::from(missing > 0) | (u16::from(long) << 1);
        self.wal.extend_from_slice(&0xD116_u16.to_le_bytes());
        self.wal.extend_from_slice(&flags.to_le_bytes());
        self.wal.extend_from_slice(&1_u32.to_le_bytes());
        self.wal.extend_from_slice(&at.to_le_bytes());
        self.wal.extend_from_slice(&missing.to_le_bytes());
        self.wal.extend_from_slice(&[0; 4]);
        if long {
            self.wal.extend_from_slice(&7_u64.to_le_bytes());
            self.wal.extend_from_slice(&(SIZE.bytes() as u32).to_le_bytes());
            self.wal.extend_from_slice(&(PAGE as u32).to_le_bytes());
        }
    }

    pub(in crate::fetcher) fn record(&mut self, manager: u8, main: &[u8]) {
        let mut body = vec![254];
        body.extend_from_slice(&(main.len() as u32).to_le_bytes());
        body.extend_from_slice(main);
        let mut header = (24 + body.len() as u32).to_le_bytes().to_vec();
        header.extend_from_slice(&1_u32.to_le_bytes());
        header.extend_from_slice(&self.previous.to_le_bytes());
        header.extend_from_slice(&[0, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_slice(&body);
        if self.at().is_multiple_of(PAGE) {
            self.page_header(0);
        }
        self.previous = self.at();
        let mut rest = header.as_slice();
        while !rest.is_empty() {
            if self.at().is_multiple_of(PAGE) {
                self.page_header(rest.len() as u32);
            }
            let room = (PAGE - self.at() % PAGE) as usize;
            let (piece, later) = rest.split_at(room.min(rest.len()));
            self.wal.extend_from_slice(piece);
            rest = later;
        }
        self.wal.resize(self.wal.len().next_multiple_of(8), 0);
    }

    pub(in crate::fetcher) fn create_tablespace(&mut self, oid: u32, path: &Path) {
        let main = [&oid.to_le_bytes()[..], path.as_os_str().as_bytes(), b"\0"].concat();
        self.record(5, &main);
    }

    /// Records that mean nothing here, until so many bytes are left in the segment.
    pub(in crate::fetcher) fn fill_to(&mut self, left: u64) {
        while SIZE.bytes() - self.at() % SIZE.bytes() > left + 512 {
            self.record(21, &[1; 100]);
        }
        let room = SIZE.bytes() - self.at() % SIZE.bytes() - left;
        self.record(21, &vec![1; room as usize - 29]);
    }

    /// Writes the segments into a directory.
    pub(in crate::fetcher) fn write_to(mut self, directory: &Path) -> Vec<SegmentName> {
        self.wal.resize(self.wal.len().next_multiple_of(SIZE.bytes() as usize), 0);
        let segments = self.wal.chunks(SIZE.bytes() as usize).zip(1..);
        segments
            .map(|(bytes, number)| {
                let name = SegmentId::new(TimelineId::FIRST, SegmentNumber::new(number)).name(SIZE);
                std::fs::write(directory.join(name.to_string()), bytes).unwrap();
                name
            })
            .collect()
    }
}

struct Bench {
    top: tempfile::TempDir,
    guard: ReplayGuard,
}

fn bench() -> Bench {
    let top = tempfile::tempdir().unwrap();
    let pgdata = top.path().join("restored");
    for name in ["pg_wal", "pg_tblspc"] {
        std::fs::create_dir_all(pgdata.join(name)).unwrap();
    }
    Bench { top, guard: ReplayGuard { pgdata, allowed: Vec::new(), strict: false, segment_size: SIZE } }
}

impl Bench {
    fn space(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn live(&self) -> PathBuf {
        let path = self.space("live");
        std::fs::create_dir_all(path.join("PG_17_202406281/5")).unwrap();
        path
    }

    /// What the guard says to the last of these segments, which is fetched under another name.
    fn check(&self, crafter: Crafter) -> Result<()> {
        let wal = self.guard.pgdata.join("pg_wal");
        let name = crafter.write_to(&wal).pop().unwrap();
        let fetched = wal.join("fetched");
        std::fs::rename(wal.join(name.to_string()), &fetched).unwrap();
        self.guard.check(name, &fetched, &wal)
    }
}

fn creates(path: &Path) -> Crafter {
    let mut crafter = Crafter::new();
    crafter.record(21, &[1; 300]);
    crafter.create_tablespace(16_500, path);
    crafter.record(21, &[1; 300]);
    crafter
}

#[test]
fn a_directory_in_use_is_not_given_to_replay() {
    let bench = bench();
    let live = bench.live();
    let error = bench.check(creates(&live)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let (text, hint) = (error.to_string(), error.hint().unwrap());
    for part in ["segment=000000010000000000000001", "oid=16500", &format!("path={}", live.display())] {
        assert!(text.contains(part), "{text}");
    }
    assert!(hint.contains(&format!("--allow-tablespace {}", live.display())), "{hint}");
}

#[test]
fn a_record_across_the_border_of_segments_is_seen() {
    for left in [8, 24, 32, 48] {
        let bench = bench();
        let mut crafter = Crafter::new();
        crafter.fill_to(left);
        crafter.create_tablespace(16_500, &bench.live());
        crafter.record(21, &[1; 300]);
        let error = bench.check(crafter).unwrap_err();
        assert!(error.to_string().contains("segment=000000010000000000000002"), "{left}: {error}");
    }
}

#[test]
fn whatever_nobody_uses_is_left_to_replay() {
    let bench = bench();
    std::fs::create_dir(bench.space("empty")).unwrap();
    std::fs::write(bench.space("file"), "").unwrap();
    for name in ["absent", "empty", "file", "file/below"] {
        bench.check(creates(&bench.space(name))).unwrap();
    }
    bench.check(creates(Path::new(""))).unwrap();
    bench.check(creates(Path::new("pg_tblspc/16500"))).unwrap();
}

#[test]
fn a_drill_takes_no_directory_outside_of_itself_however_empty() {
    let mut bench = bench();
    bench.guard.strict = true;
    for name in ["absent", "live"] {
        let error = bench.check(creates(&bench.space(name))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("outside of the drill"), "{error}");
    }
    bench.check(creates(Path::new("pg_tblspc/16500"))).unwrap();
}

#[test]
fn own_and_allowed_tablespaces_are_left_to_replay() {
    let mut bench = bench();
    let live = bench.live();
    let link = bench.guard.pgdata.join("pg_tblspc/16500");
    symlink(&live, &link).unwrap();
    bench.check(creates(&live)).unwrap();
    std::fs::remove_file(&link).unwrap();
    bench.check(creates(&live)).unwrap_err();
    bench.guard.allowed.push(live.clone());
    bench.check(creates(&live)).unwrap();
}

#[test]
fn what_is_no_wal_is_left_to_recovery_to_judge() {
    let bench = bench();
    let wal = bench.guard.pgdata.join("pg_wal");
    for bytes in [&b""[..], &vec![0; 1 << 20], &[7; 5000]] {
        std::fs::write(wal.join("fetched"), bytes).unwrap();
        let name = "000000010000000000000002".parse().unwrap();
        bench.guard.check(name, &wal.join("fetched"), &wal).unwrap();
    }
}
