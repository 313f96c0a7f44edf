//! The WAL of a small world: one server, what it becomes when it is promoted, and a clone of it that goes its own way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;

use walden_core::Incarnation;
use walden_pg::{ControlFile, Lsn, PgTimestamp, SegmentName, TimelineId, WalSegmentSize};
use walden_testkit::craft::Crafter;
use walden_testkit::simulation::EPOCH_SECONDS;

pub(crate) const SIZE: WalSegmentSize = WalSegmentSize::MIN;
/// The first segment: three before the end of a LOG directory.
pub(crate) const FIRST: u64 = 0xFFD;
/// Segments of each server.
pub(crate) const COUNT: u64 = 7;
/// The segment in which the promoted server leaves timeline 1.
pub(crate) const FORK: u64 = 0x1000;
/// From this segment on the clone's WAL is its own.
const CLONE_FROM: u64 = 0xFFF;

const CONTROL: &[u8] = include_bytes!("../../../pg/fixtures/pg17/pg_control");
const CONTROL_CRC: usize = 288;
const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;

/// A file of `pg_wal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WalFile {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// A commit in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) lsn: Lsn,
    pub(crate) xid: u32,
    pub(crate) time: PgTimestamp,
}

/// A place where a backup can begin and end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) timeline: TimelineId,
    pub(crate) segment: SegmentName,
    pub(crate) start: Lsn,
    pub(crate) checkpoint: Lsn,
    /// When it begins.
    pub(crate) begun: PgTimestamp,
    /// Where and when it ends, in its own segment or in the next one.
    pub(crate) stops: Vec<(Lsn, PgTimestamp)>,
}

/// What one server writes, in the order in which it archives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) files: Vec<WalFile>,
    pub(crate) slots: Vec<Slot>,
    /// The commits of each segment, in order.
    pub(crate) commits: BTreeMap<SegmentName, Vec<Commit>>,
}

/// All servers.
#[derive(Debug)]
pub(crate) struct Wal {
    pub(crate) primary: Server,
    pub(crate) promoted: Server,
    pub(crate) clone: Server,
}

pub(crate) fn incarnation() -> Incarnation {
    let control = ControlFile::parse(CONTROL).unwrap();
    Incarnation { system_id: control.system_id, major: control.major }
}

/// A `pg_control` of a server that wrote a checkpoint there.
pub(crate) fn control(slot: Option<&Slot>) -> Vec<u8> {
    let mut bytes = CONTROL.to_vec();
    bytes[228..232].copy_from_slice(&u32::try_from(SIZE.bytes()).unwrap().to_le_bytes());
    if let Some(slot) = slot {
        bytes[32..40].copy_from_slice(&slot.checkpoint.get().to_le_bytes());
        bytes[40..128].copy_from_slice(&checkpoint(slot.start, slot.timeline));
    }
    let crc = crc32c::crc32c(&bytes[..CONTROL_CRC]);
    bytes[CONTROL_CRC..CONTROL_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(ControlFile::FILE_SIZE, 0);
    bytes
}

fn checkpoint(redo: Lsn, timeline: TimelineId) -> Vec<u8> {
    let mut bytes = CONTROL[40..128].to_vec();
    bytes[..8].copy_from_slice(&redo.get().to_le_bytes());
    for at in [8, 12] {
        bytes[at..at + 4].copy_from_slice(&timeline.get().to_le_bytes());
    }
    bytes
}

/// A writer that keeps account of what it writes.
#[derive(Clone)]
struct Author {
    crafter: Crafter,
    timeline: TimelineId,
    server: Server,
    /// Added to every time and xid, so that a clone's differ.
    salt: u32,
    xid: u32,
    /// The time of the last commit.
    now: PgTimestamp,
}

impl Author {
    fn segment(&self) -> SegmentName {
        let number = SIZE.segment_of(self.crafter.at);
        walden_pg::SegmentId::new(self.timeline, number).name(SIZE)
    }

    fn commit(&mut self) {
        self.xid += 1;
        let micros = (EPOCH_SECONDS - 86_400) * 1_000_000 + i64::from(self.xid) * 20_000_000;
        let time = PgTimestamp::from_unix_micros(micros + i64::from(self.salt));
        let segment = self.segment();
        let lsn = self.crafter.record(self.xid, TRANSACTION, 0, &time.get().to_le_bytes());
        self.now = time;
        let commit = Commit { lsn, xid: self.xid, time };
        self.server.commits.entry(segment).or_default().push(commit);
    }

    /// A segment with three commits, a checkpoint and the ends of backups that began in it or in the one before.
    fn write_segment(&mut self) {
        let segment = self.segment();
        self.commit();
        let (start, begun) = (self.crafter.at, self.now);
        self.crafter.record(0, XLOG, 0x20, &[9; 30]);
        let checkpoint = self.crafter.record(0, XLOG, 0x10, &checkpoint(start, self.timeline));
        self.commit();
        if let Some(before) = self.server.slots.last_mut().filter(|slot| slot.timeline == self.timeline) {
            self.crafter.record(0, XLOG, 0x50, &before.start.get().to_le_bytes());
            before.stops.push((self.crafter.at, self.now));
        }
        self.crafter.record(0, XLOG, 0x50, &start.get().to_le_bytes());
        let stops = vec![(self.crafter.at, self.now)];
        self.server.slots.push(Slot { timeline: self.timeline, segment, start, checkpoint, begun, stops });
        self.commit();
        self.crafter.switch();
    }

    /// Adds the segments from the first on to the files, with a backup history file behind every other one.
    fn publish(mut self) -> Server {
        for (name, bytes) in self.crafter.segments() {
            if SIZE.segment_of(name.start_lsn(SIZE).unwrap()) >= SIZE.segment_of(self.crafter.at) {
                continue;
            }
            self.server.files.push(WalFile { name: name.to_string(), bytes });
            if let Some(slot) = self
                .server
                .slots
                .iter()
                .find(|slot| slot.segment == name && slot.start.get() & 0x10_0000 == 0)
            {
                let offset = SIZE.offset_in_segment(slot.start);
                let text = format!("START WAL LOCATION: {} (file {name})\nLABEL: walden\n", slot.start);
                self.server
                    .files
                    .push(WalFile { name: format!("{name}.{offset:08X}.backup"), bytes: text.into_bytes() });
            }
        }
        self.server
    }
}

fn make() -> Wal {
    let incarnation = incarnation();
    let crafter = Crafter::new(SIZE, incarnation.major, incarnation.system_id, FIRST);
    let mut author = Author {
        crafter,
        timeline: TimelineId::FIRST,
        server: Server::default(),
        salt: 0,
        xid: 1000,
        now: PgTimestamp::new(0),
    };
    let (mut clone, mut fork) = (None, None);
    for number in FIRST..FIRST + COUNT {
        if number == CLONE_FROM {
            clone = Some(author.clone());
        }
        if number == FORK {
            let mut writer = author.clone();
            writer.commit();
            fork = Some(writer);
        }
        author.write_segment();
    }
    let mut clone = clone.unwrap();
    clone.salt = 777_000;
    for _ in CLONE_FROM..FIRST + COUNT {
        clone.write_segment();
    }
    Wal { primary: author.publish(), promoted: promote(fork.unwrap()), clone: clone.publish() }
}

/// A server that is promoted in the middle of a segment.
fn promote(before: Author) -> Server {
    let second = TimelineId::new(2).unwrap();
    let switch = before.crafter.at;
    let (left, name) = (before.crafter.segments().pop().unwrap(), before.segment());
    assert_eq!(left.0, name);
    let mut files = before.clone().publish().files;
    files.push(WalFile { name: format!("{name}.partial"), bytes: left.1 });
    let history = format!("1\t{switch}\tno recovery target specified\n");
    files.push(WalFile { name: "00000002.history".to_owned(), bytes: history.into_bytes() });
    let mut after = before;
    after.crafter = after.crafter.fork(second);
    after.timeline = second;
    let mut ended = (EPOCH_SECONDS - 86_400).to_le_bytes().to_vec();
    ended.extend_from_slice(&second.get().to_le_bytes());
    ended.extend_from_slice(&1_u32.to_le_bytes());
    ended.extend_from_slice(&1_u32.to_le_bytes());
    after.crafter.record(0, XLOG, 0x90, &ended);
    // What was written up to the fork counts in the child's segment too.
    let shared = after.server.commits.remove(&name).unwrap_or_default();
    after.server.commits.insert(after.segment(), shared);
    for _ in FORK..FIRST + COUNT {
        after.write_segment();
    }
    let later = after.publish();
    files.extend(later.files);
    Server { files, ..later }
}

/// The WAL of the world, made once.
pub(crate) fn wal() -> &'static Wal {
    static WAL: OnceLock<Wal> = OnceLock::new();
    WAL.get_or_init(make)
}

/// The files of all servers, written once for all worlds that run at the same time.
pub(crate) struct Pool(TempDir);

impl Pool {
    /// The pool, made if nobody has it.
    pub(crate) fn obtain() -> Arc<Self> {
        static POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pool.upgrade() {
            return pool;
        }
        let made = Arc::new(Self(temporary_directory()));
        let wal = wal();
        for (name, server) in [("primary", &wal.primary), ("promoted", &wal.promoted), ("clone", &wal.clone)]
        {
            std::fs::create_dir(made.0.path().join(name)).unwrap();
            for file in &server.files {
                std::fs::write(made.path(name, file), &file.bytes).unwrap();
            }
        }
        // A pipeline waits for the stamps of fresh files, by the system's clock.
        std::thread::sleep(Duration::from_millis(50));
        *pool = Arc::downgrade(&made);
        made
    }

    fn path(&self, name: &str, file: &WalFile) -> PathBuf {
        self.0.path().join(name).join(&file.name)
    }

    /// Puts links to the files of a server into a directory.
    pub(crate) fn link(&self, server: &Server, directory: &Path) {
        let wal = wal();
        let name = [("primary", &wal.primary), ("promoted", &wal.promoted), ("clone", &wal.clone)]
            .into_iter()
            .find(|(_, known)| std::ptr::eq(*known, server))
            .unwrap()
            .0;
        for file in &server.files {
            std::os::unix::fs::symlink(self.path(name, file), directory.join(&file.name)).unwrap();
        }
    }
}

/// A directory that needs no disk, where there is one.
pub(crate) fn temporary_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}
