//! The compact form of touched blocks.
//!
//! All numbers are LEB128 of up to 64 bits. First the whole databases: how many, and for each tablespace and database.
//! Then to the end, for each fork in rising order: tablespace, database, file number; one byte with the fork's number
//! and bits that say what follows; the limit, if there is one; the blocks. These are either their count and the
//! distance of each from the one before (from -1 for the first), less 1; or a length in bytes and the portable form of a
//! roaring bitmap without run containers, whichever is shorter.

use roaring::RoaringBitmap;
use walden_pg::{Fork, Oid, RelFileLocator, RelFileNumber};

use super::blocks::{ForkBlocks, RelationFork, TouchedBlocks};
use super::error::{IndexError, Result};

const FORK_MASK: u8 = 0x03;
const HAS_LIMIT: u8 = 0x40;
const IS_ROARING: u8 = 0x80;
/// The first word of a roaring bitmap without run containers. Those with them are refused: a few bytes of them
/// can stand for a bitmap of any size.
const COOKIE_WITHOUT_RUNS: [u8; 4] = 12346u32.to_le_bytes();
/// A fork in memory takes some 150 bytes, and at least 7 in this form.
const FORKS_MAX: usize = 1 << 20;

pub(super) fn encode(blocks: &TouchedBlocks) -> Vec<u8> {
    let mut out = Vec::new();
    if blocks.forks.is_empty() && blocks.whole_databases.is_empty() {
        return out;
    }
    number(&mut out, blocks.whole_databases.len() as u64);
    for (tablespace, database) in &blocks.whole_databases {
        number(&mut out, u64::from(tablespace.get()));
        number(&mut out, u64::from(database.get()));
    }
    for (fork, touched) in &blocks.forks {
        encode_fork(&mut out, *fork, touched);
    }
    out
}

fn encode_fork(out: &mut Vec<u8>, fork: RelationFork, touched: &ForkBlocks) {
    number(out, u64::from(fork.relation.tablespace.get()));
    number(out, u64::from(fork.relation.database.get()));
    number(out, u64::from(fork.relation.relation.get()));
    let flags_at = out.len();
    let mut flags = fork.fork.number();
    out.push(flags);
    if let Some(limit) = touched.limit {
        flags |= HAS_LIMIT;
        number(out, u64::from(limit));
    }
    let list_at = out.len();
    number(out, touched.blocks.len());
    let mut last = None;
    for block in &touched.blocks {
        number(out, distance(last, block));
        last = Some(block);
    }
    let mut bitmap = touched.blocks.clone();
    bitmap.remove_run_compression();
    let bytes = bitmap.serialized_size();
    if bytes + 5 < out.len() - list_at {
        flags |= IS_ROARING;
        out.truncate(list_at);
        number(out, bytes as u64);
        // Writing to a vector never fails.
        let _ = bitmap.serialize_into(&mut *out);
    }
    if let Some(byte) = out.get_mut(flags_at) {
        *byte = flags;
    }
}

fn distance(last: Option<u32>, block: u32) -> u64 {
    match last {
        Some(last) => u64::from(block) - u64::from(last) - 1,
        None => u64::from(block),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<TouchedBlocks> {
    let mut blocks = TouchedBlocks::default();
    if bytes.is_empty() {
        return Ok(blocks);
    }
    read(&mut Bytes(bytes), &mut blocks).ok_or(IndexError::Damaged { part: "the list of touched blocks" })?;
    Ok(blocks)
}

fn read(bytes: &mut Bytes<'_>, blocks: &mut TouchedBlocks) -> Option<()> {
    for _ in 0..bytes.number()? {
        blocks.whole_databases.push((Oid::new(bytes.u32()?), Oid::new(bytes.u32()?)));
    }
    let mut last = None;
    while !bytes.0.is_empty() {
        let relation = RelFileLocator {
            tablespace: Oid::new(bytes.u32()?),
            database: Oid::new(bytes.u32()?),
            relation: RelFileNumber::new(bytes.u32()?),
        };
        let flags = bytes.byte()?;
        if flags & !(FORK_MASK | HAS_LIMIT | IS_ROARING) != 0 {
            return None;
        }
        let fork = RelationFork { relation, fork: Fork::from_number(flags & FORK_MASK)? };
        if last.is_some_and(|last| fork <= last) || blocks.forks.len() >= FORKS_MAX {
            return None;
        }
        last = Some(fork);
        let limit = if flags & HAS_LIMIT != 0 { Some(bytes.u32()?) } else { None };
        let touched = if flags & IS_ROARING != 0 { bytes.roaring()? } else { bytes.list()? };
        blocks.forks.insert(fork, ForkBlocks { blocks: touched, limit });
    }
    Some(())
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7F) as u8);
}

/// Bytes that are taken off the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if part << shift >> shift != part {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn list(&mut self) -> Option<RoaringBitmap> {
        let mut blocks = RoaringBitmap::new();
        let mut next = 0u64;
        for _ in 0..self.number()? {
            let block = u32::try_from(next.checked_add(self.number()?)?).ok()?;
            blocks.try_push(block).ok()?;
            next = u64::from(block) + 1;
        }
        Some(blocks)
    }

    fn roaring(&mut self) -> Option<RoaringBitmap> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bitmap, rest) = self.0.split_at_checked(length)?;
        if !bitmap.starts_with(&COOKIE_WITHOUT_RUNS) {
            return None;
        }
        let mut reader = bitmap;
        let blocks = RoaringBitmap::deserialize_from(&mut reader).ok()?;
        self.0 = rest;
        reader.is_empty().then_some(blocks)
    }
}
