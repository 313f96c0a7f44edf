//! What PostgreSQL's own readers say.

use std::path::PathBuf;
use std::process::Command;

use walden_pg::{Lsn, Oid, PgMajor, RelFileLocator, RelFileNumber, SegmentName};
use walden_testkit::postgres::{ClientPrograms, Result};

use crate::describe::facts_of_text;
use crate::scanned::{Block, Scan, Seen};
use crate::workload::Archive;

/// Names a directory with `<major>/pg_waldump`, for majors that the distribution does not have.
const WALDUMP_ENV: &str = "WALDEN_PG_WALDUMP";

/// A stretch of WAL that can be read in one go: records of one timeline, without one that was cut off.
struct Stretch {
    first: SegmentName,
    start: Lsn,
    /// The start of the last record.
    last: Lsn,
    end: Lsn,
}

/// Cuts the scan where the tools stop: at the fork, and at a record that a crash cut off.
fn stretches(scan: &Scan) -> Vec<Stretch> {
    let mut cuts: Vec<Lsn> =
        scan.outcomes.iter().flat_map(|outcome| &outcome.overwritten).map(|over| over.page).collect();
    let segment_of = |lsn: Lsn| {
        let outcome = scan
            .outcomes
            .iter()
            .rev()
            .find(|outcome| outcome.header.is_some_and(|header| header.page.address <= lsn));
        outcome.expect("the record is in a segment")
    };
    for pair in scan.outcomes.windows(2) {
        if pair[0].segment.timeline() != pair[1].segment.timeline() {
            cuts.push(pair[1].header.expect("a header").page.address);
        }
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    for record in &scan.records {
        let cut = stretches
            .last()
            .is_none_or(|last| cuts.iter().any(|cut| last.start < *cut && *cut <= record.lsn));
        let end = record.end.expect("the scanner tells the end");
        match stretches.last_mut() {
            Some(last) if !cut => (last.last, last.end) = (record.lsn, end),
            _ => stretches.push(Stretch {
                first: segment_of(record.lsn).segment,
                start: record.lsn,
                last: record.lsn,
                end,
            }),
        }
    }
    stretches
}

/// Asks the server's `pg_walinspect`.
pub(crate) fn wal_inspect(archive: &Archive, scan: &Scan) -> Result<Vec<Seen>> {
    let session = archive.server.session()?;
    session.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect; SET timezone = 'UTC'")?;
    let mut records = Vec::new();
    for stretch in stretches(scan) {
        let rows = session.query(&format!(
            "SELECT start_lsn, end_lsn, prev_lsn, xid, resource_manager, record_type, record_length,
                fpi_length, description, block_ref
             FROM pg_get_wal_records_info('{}', '{}')",
            stretch.start, stretch.end
        ))?;
        for row in rows {
            let field = |index: usize| row[index].as_deref().unwrap_or_default();
            let lsn: Lsn = field(0).parse().expect("an LSN");
            if lsn > stretch.last {
                break;
            }
            let manager = field(4);
            records.push(Seen {
                lsn,
                end: Some(field(1).parse().expect("an LSN")),
                previous: field(2).parse().expect("an LSN"),
                xid: field(3).parse().expect("an xid"),
                manager: manager.to_owned(),
                total_length: field(6).parse().expect("a length"),
                image_length: field(7).parse().expect("a length"),
                blocks: blocks(field(9)),
                facts: facts_of_text(manager, field(5), field(8).trim()),
            });
        }
    }
    Ok(records)
}

/// A `pg_waldump`.
pub(crate) struct WalDump {
    program: PathBuf,
    /// The magic number of the pages that it reads, if it is not the WAL's.
    magic: Option<u16>,
}

impl WalDump {
    /// The program for a major version, if there is one.
    pub(crate) fn find(major: PgMajor) -> Option<Self> {
        let clients = ClientPrograms::find().ok().filter(|clients| clients.major() == major.number());
        if let Some(clients) = clients {
            return Some(Self { program: clients.bin().join("pg_waldump"), magic: None });
        }
        let dir = PathBuf::from(std::env::var_os(WALDUMP_ENV)?);
        let of = |major: PgMajor| Some(dir.join(format!("{major}/pg_waldump"))).filter(|path| path.is_file());
        if let Some(program) = of(major) {
            return Some(Self { program, magic: None });
        }
        let program = of(PgMajor::V13).filter(|_| major == PgMajor::V14)?;
        Some(Self { program, magic: Some(0xD106) })
    }

    /// Whether it is of the WAL's own major version.
    pub(crate) fn knows_every_kind(&self) -> bool {
        self.magic.is_none()
    }

    pub(crate) fn run(&self, archive: &Archive, scan: &Scan) -> Vec<Seen> {
        let dir = match self.magic {
            Some(magic) => with_magic(archive, magic),
            None => archive.dir.clone(),
        };
        let mut records = Vec::new();
        for stretch in stretches(scan) {
            let mut command = Command::new(&self.program);
            command.env("TZ", "UTC").arg("-p").arg(&dir);
            command.arg("-t").arg(stretch.first.timeline().to_string());
            command.arg("-s").arg(stretch.start.to_string());
            command.arg("-e").arg(stretch.end.to_string());
            let output = archive.server.run_as_server_user(&mut command).output().expect("start pg_waldump");
            let text = String::from_utf8_lossy(&output.stdout);
            records.extend(text.lines().filter(|line| line.starts_with("rmgr:")).map(parse_line));
        }
        records
    }
}

/// Copies the archive's segments with another magic number on every page.
fn with_magic(archive: &Archive, magic: u16) -> PathBuf {
    let dir = archive.server.scratch_dir("other-magic").expect("a directory");
    for segment in &archive.segments {
        let mut bytes = std::fs::read(archive.dir.join(segment.to_string())).expect("read a segment");
        for page in bytes.chunks_mut(8192) {
            if page[0] != 0 || page[1] != 0 {
                page[..2].copy_from_slice(&magic.to_le_bytes());
            }
        }
        std::fs::write(dir.join(segment.to_string()), bytes).expect("write a segment");
    }
    dir
}

/// `rmgr: Heap  len (rec/tot): 54/150, tx: 735, lsn: 0/01500028, prev 0/014FFFB8, desc: INSERT off 3, blkref …`
fn parse_line(line: &str) -> Seen {
    let after =
        |name: &str| line.split_once(name).unwrap_or_else(|| panic!("no {name:?} in {line}")).1.trim_start();
    let manager = after("rmgr:").split(' ').next().unwrap_or_default();
    let (length, total) = after("len (rec/tot):").split_once('/').expect("two lengths");
    let length: u32 = length.trim().parse().expect("a length");
    let total: u32 = total.split(',').next().unwrap_or_default().trim().parse().expect("a length");
    let word = |name: &str| after(name).split([',', ' ']).next().unwrap_or_default();
    let description = after("desc: ");
    let (description, references) =
        match description.find("blkref #0:").or_else(|| description.find("blkref #")) {
            Some(at) => (&description[..at], &description[at..]),
            None => (description, ""),
        };
    let description = description.trim_end().trim_end_matches(',');
    let (kind, text) = description.split_once(' ').unwrap_or((description, ""));
    Seen {
        lsn: word("lsn:").parse().expect("an LSN"),
        previous: word(" prev ").parse().expect("an LSN"),
        xid: word("tx:").parse().expect("an xid"),
        manager: manager.to_owned(),
        total_length: total,
        image_length: total - length,
        blocks: blocks(references),
        facts: facts_of_text(manager, kind, text.trim()),
        end: None,
    }
}

/// `blkref #0: rel 1663/5/16384 fork fsm blk 0 FPW, blkref #1: …`
fn blocks(text: &str) -> Vec<Block> {
    text.split("blkref #").skip(1).map(block).collect()
}

fn block(text: &str) -> Block {
    let words: Vec<_> = text.split([' ', ',', '(', ')', ';']).filter(|word| !word.is_empty()).collect();
    let after = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
    let numbers: Vec<u32> = after("rel")
        .unwrap_or_else(|| panic!("no relation in {text}"))
        .split('/')
        .map(|number| number.parse().expect("a number"))
        .collect();
    let locator = RelFileLocator {
        tablespace: Oid::new(numbers[0]),
        database: Oid::new(numbers[1]),
        relation: RelFileNumber::new(numbers[2]),
    };
    let block = after("blk").expect("a block").parse().expect("a number");
    (locator, after("fork").unwrap_or("main").to_owned(), block, words.contains(&"FPW"))
}
