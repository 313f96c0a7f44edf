//! The file in the state directory that remembers what was proven when.
//!
//! One for each archive. Proofs are appended as they are made, so that whatever ends a run, what it has proven is kept; when
//! the file has grown far beyond what it says, it is written anew. Losing it costs nothing but reading again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use walden_core::{Incarnation, PROOF_BYTES, ProofId, ProofMemory, VerifyLevel, sha256_hex};

use crate::context::Context;
use crate::fs::{read_if_present, replace_quickly};

/// So many objects are remembered at most; the ones proven longest ago are forgotten first.
const REMEMBERED_MAX: usize = 2_000_000;
/// The file has at most so many records more than it has objects, or twice as many.
const SUPERFLUOUS_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = (4 * (REMEMBERED_MAX as u64) + SUPERFLUOUS_MAX as u64) * PROOF_BYTES as u64;

/// What is remembered, and where.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) proofs: ProofMemory,
    /// Where it is written; `None` when nothing is.
    file: Option<File>,
    /// Held as long as the file is written.
    lock: Option<Flock<File>>,
    /// What a person should know about it.
    pub(super) note: Option<String>,
}

impl Memory {
    /// Reads what is remembered of an archive. Never fails: without a memory everything is read again.
    pub(super) fn open(ctx: &Context, incarnation: Incarnation) -> Self {
        let Some(path) = path(ctx, incarnation) else {
            let note = Some("there is no state directory: nothing is remembered".to_owned());
            return Self { note, ..Self::default() };
        };
        Self::open_at(&path)
    }

    pub(super) fn open_at(path: &Path) -> Self {
        let mut memory = Self::default();
        let lock = match lock(path) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                memory.read(path);
                let note =
                    "another verification of this archive runs: what this one proves is not remembered";
                memory.note = Some(note.to_owned());
                return memory;
            }
            Err(error) => {
                memory.note = Some(format!("nothing is remembered: {error}"));
                return memory;
            }
        };
        let records = memory.read(path);
        memory.proofs.shrink_to(REMEMBERED_MAX);
        if records > 2 * memory.proofs.len() + SUPERFLUOUS_MAX || memory.note.is_some() {
            let _ = replace_quickly(path, &[&memory.proofs.encode()]);
        }
        match OpenOptions::new().append(true).create(true).mode(0o600).open(path) {
            Ok(file) => (memory.file, memory.lock) = (Some(file), Some(lock)),
            Err(error) => memory.note = Some(format!("nothing is remembered: {error}")),
        }
        memory
    }

    /// Reads the file; returns how many records it has.
    fn read(&mut self, path: &Path) -> usize {
        match read_if_present(path, FILE_BYTES_MAX) {
            Ok(Some(bytes)) => {
                let unreadable = self.proofs.read(&bytes);
                if unreadable > 0 {
                    let note = format!("{unreadable} of its records can't be read and were passed over");
                    self.note = Some(note);
                }
                bytes.len() / PROOF_BYTES
            }
            Ok(None) => 0,
            Err(error) => {
                self.note = Some(format!("what was remembered can't be read: {error}"));
                0
            }
        }
    }

    /// Notes that an object was good.
    pub(super) fn prove(&mut self, id: ProofId, fingerprint: u64, level: VerifyLevel, now: Timestamp) {
        let record = self.proofs.prove(id, fingerprint, level, now);
        self.append(&record);
    }

    /// Forgets an object.
    pub(super) fn forget(&mut self, id: ProofId) {
        let record = self.proofs.forget(id);
        self.append(&record);
    }

    fn append(&mut self, record: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(record) {
            self.note = Some(format!("not everything is remembered: {error}"));
            (self.file, self.lock) = (None, None);
        }
    }
}

fn path(ctx: &Context, incarnation: Incarnation) -> Option<PathBuf> {
    let identity = format!("{}\n{}\n{incarnation}", ctx.store.identity(), ctx.server);
    let digest = sha256_hex(identity.as_bytes());
    let name = digest.get(..16).unwrap_or(&digest);
    Some(ctx.state_directory.as_ref()?.join("verify").join(format!("{name}.proofs")))
}

/// Takes the lock beside the file; `None` when another process has it.
fn lock(path: &Path) -> std::io::Result<Option<Flock<File>>> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let lock = path.with_extension("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn knows(memory: &Memory, name: &str) -> bool {
        memory.proofs.get(ProofId::of(name), 1).is_some()
    }

    #[test]
    fn what_was_proven_is_known_to_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verify/a.proofs");
        let mut first = Memory::open_at(&path);
        first.prove(ProofId::of("a"), 1, VerifyLevel::Hash, now());
        first.prove(ProofId::of("b"), 1, VerifyLevel::Hash, now());
        first.forget(ProofId::of("b"));
        let beside = Memory::open_at(&path);
        assert!(knows(&beside, "a") && beside.note.is_some_and(|note| note.contains("another")));
        drop(first);
        let next = Memory::open_at(&path);
        assert!(knows(&next, "a") && !knows(&next, "b") && next.note.is_none());
    }

    #[test]
    fn a_damaged_file_is_mended_and_one_that_grew_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.proofs");
        let mut memory = Memory::open_at(&path);
        for _ in 0..=SUPERFLUOUS_MAX + 2 {
            memory.prove(ProofId::of("a"), 1, VerifyLevel::Deep, now());
        }
        drop(memory);
        assert!(knows(&Memory::open_at(&path), "a"));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), PROOF_BYTES as u64);
        std::fs::write(&path, [std::fs::read(&path).unwrap().as_slice(), &[7; 25]].concat()).unwrap();
        let torn = Memory::open_at(&path);
        assert!(knows(&torn, "a") && torn.note.is_some());
        drop(torn);
        assert!(Memory::open_at(&path).note.is_none(), "it was mended");
        std::fs::write(&path, b"something else").unwrap();
        assert!(Memory::open_at(&path).proofs.is_empty());
    }

    #[test]
    fn a_place_that_can_t_be_written_is_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("blocked");
        std::fs::write(&blocked, b"").unwrap();
        let mut memory = Memory::open_at(&blocked.join("a.proofs"));
        memory.prove(ProofId::of("a"), 1, VerifyLevel::Hash, now());
        assert!(memory.note.is_some());
    }
}
