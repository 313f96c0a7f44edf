//! Gathering touched blocks, one call for each block of each record.
//!
//! Most records touch a page that was touched just before, in one of a few relations. So a relation is looked for
//! among recent ones first, and blocks are bits in chunks of one cache line, which become sorted bitmaps at the end.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;
use walden_pg::{Fork, Oid, RelFileLocator, RelFileNumber};

use super::blocks::{ForkBlocks, RelationFork, TouchedBlocks};

/// 512 blocks.
type Chunk = [u64; 8];
const CHUNK_BITS: u32 = 9;
/// Chunks are turned into bitmaps when there are so many: 8 MiB.
const CHUNKS_MAX: usize = 128 << 10;
/// When a segment touches more forks than this, of further ones only the database is told.
const FORKS_MAX: usize = 64 << 10;
const RECENT: usize = 32;
/// The chunks of a fork's first gibibytes are found by their number.
const NEAR_MAX: u32 = 1024;
/// No chunk has this number, or this place.
const NO_CHUNK: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Touched {
    forks: Vec<TouchedFork>,
    index: FxHashMap<RelationFork, u32>,
    recent: [(RelationFork, u32); RECENT],
    chunks: Vec<Chunk>,
    /// The chunks that are not in [`TouchedFork::near`].
    chunk_of: FxHashMap<(u32, u32), u32>,
    whole_databases: Vec<(Oid, Oid)>,
}

#[derive(Debug)]
struct TouchedFork {
    key: RelationFork,
    limit: Option<u32>,
    /// The chunk that was used last: its number in the fork, and its place.
    last: (u32, u32),
    /// The places of the first chunks, as far as they are there.
    near: Vec<u32>,
    blocks: RoaringBitmap,
}

impl Touched {
    pub(super) fn new() -> Self {
        let relation = RelFileLocator {
            tablespace: Oid::new(0),
            database: Oid::new(0),
            relation: RelFileNumber::new(0),
        };
        let none = RelationFork { relation, fork: Fork::Init };
        Self {
            forks: Vec::new(),
            index: FxHashMap::default(),
            recent: [(none, u32::MAX); RECENT],
            chunks: Vec::new(),
            chunk_of: FxHashMap::default(),
            whole_databases: Vec::new(),
        }
    }

    /// A record touches a block.
    #[inline]
    pub(super) fn touch(&mut self, relation: RelFileLocator, fork: Fork, block: u32) {
        let key = RelationFork { relation, fork };
        let Some(place) = self.fork(key) else { return };
        let Some(state) = self.forks.get_mut(place as usize) else { return };
        let number = block >> CHUNK_BITS;
        let chunk = if state.last.0 == number { state.last.1 } else { self.chunk(place, number) };
        let word = (block as usize >> 6) & 7;
        if let Some(bits) = self.chunks.get_mut(chunk as usize).and_then(|chunk| chunk.get_mut(word)) {
            *bits |= 1 << (block & 63);
        }
    }

    /// A fork was created, or cut to so many blocks.
    pub(super) fn cut(&mut self, relation: RelFileLocator, fork: Fork, blocks: u32) {
        let Some(place) = self.fork(RelationFork { relation, fork }) else { return };
        if let Some(state) = self.forks.get_mut(place as usize) {
            state.limit = Some(state.limit.map_or(blocks, |limit| limit.min(blocks)));
        }
    }

    /// A database's directory was changed as a whole.
    pub(super) fn database(&mut self, tablespace: Oid, database: Oid) {
        let entry = (tablespace, database);
        if !self.whole_databases.contains(&entry) {
            self.whole_databases.push(entry);
        }
    }

    #[inline]
    fn fork(&mut self, key: RelationFork) -> Option<u32> {
        let slot = (key.relation.relation.get() as usize ^ usize::from(key.fork.number()) << 3) % RECENT;
        match self.recent.get(slot) {
            Some((recent, place)) if *recent == key && *place != u32::MAX => Some(*place),
            _ => self.find_fork(key, slot),
        }
    }

    #[cold]
    fn find_fork(&mut self, key: RelationFork, slot: usize) -> Option<u32> {
        let place = match self.index.get(&key) {
            Some(place) => *place,
            None if self.forks.len() >= FORKS_MAX => {
                self.database(key.relation.tablespace, key.relation.database);
                return None;
            }
            None => {
                let place = u32::try_from(self.forks.len()).ok()?;
                let blocks = RoaringBitmap::new();
                self.forks.push(TouchedFork {
                    key,
                    limit: None,
                    last: (NO_CHUNK, 0),
                    near: Vec::new(),
                    blocks,
                });
                self.index.insert(key, place);
                place
            }
        };
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = (key, place);
        }
        Some(place)
    }

    #[inline]
    fn chunk(&mut self, fork: u32, number: u32) -> u32 {
        let state = self.forks.get_mut(fork as usize);
        if let Some(state) = state
            && let Some(place) = state.near.get(number as usize)
            && *place != NO_CHUNK
        {
            state.last = (number, *place);
            return *place;
        }
        self.find_chunk(fork, number)
    }

    #[cold]
    fn find_chunk(&mut self, fork: u32, number: u32) -> u32 {
        if self.chunks.len() >= CHUNKS_MAX {
            self.settle();
        }
        // At most `CHUNKS_MAX`.
        let next = u32::try_from(self.chunks.len()).unwrap_or(NO_CHUNK);
        let Some(state) = self.forks.get_mut(fork as usize) else { return NO_CHUNK };
        let place = if number < NEAR_MAX {
            let length = state.near.len().max(number as usize + 1);
            state.near.resize(length, NO_CHUNK);
            if let Some(place) = state.near.get_mut(number as usize) {
                *place = next;
            }
            next
        } else {
            *self.chunk_of.entry((fork, number)).or_insert(next)
        };
        if place == next {
            self.chunks.push(Chunk::default());
        }
        state.last = (number, place);
        place
    }

    /// Turns all chunks into bitmaps.
    fn settle(&mut self) {
        let mut far: Vec<((u32, u32), u32)> = self.chunk_of.drain().collect();
        far.sort_unstable();
        let mut far = far.as_slice();
        for (fork, state) in (0u32..).zip(&mut self.forks) {
            let split = far.partition_point(|((of, _), _)| *of <= fork);
            let (own, rest) = far.split_at_checked(split).unwrap_or((far, &[]));
            far = rest;
            let near = (0u32..).zip(std::mem::take(&mut state.near));
            let far_ones = own.iter().map(|((_, number), place)| (*number, *place));
            let chunks = &self.chunks;
            let blocks = near.chain(far_ones).flat_map(|(number, place)| {
                // There is no chunk for a place of `NO_CHUNK`.
                let chunk = chunks.get(place as usize).copied().unwrap_or_default();
                bits(number << CHUNK_BITS, chunk)
            });
            let sorted = RoaringBitmap::from_sorted_iter(blocks).unwrap_or_default();
            state.last = (NO_CHUNK, 0);
            if state.blocks.is_empty() {
                state.blocks = sorted;
            } else {
                state.blocks |= sorted;
            }
        }
        self.chunks.clear();
    }

    pub(super) fn finish(mut self) -> TouchedBlocks {
        self.settle();
        let mut whole_databases = self.whole_databases;
        whole_databases.sort_unstable();
        let forks: BTreeMap<RelationFork, ForkBlocks> = self
            .forks
            .into_iter()
            .map(|fork| (fork.key, ForkBlocks { blocks: fork.blocks, limit: fork.limit }))
            .collect();
        TouchedBlocks { forks, whole_databases }
    }
}

/// The blocks of a chunk that begins at `first`, in rising order.
fn bits(first: u32, chunk: Chunk) -> impl Iterator<Item = u32> {
    (0u32..).zip(chunk).flat_map(move |(index, mut word)| {
        let first = first | index << 6;
        std::iter::from_fn(move || {
            let bit = word.trailing_zeros();
            word &= word.checked_sub(1)?;
            Some(first | bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relation(number: u32) -> RelFileLocator {
        RelFileLocator {
            tablespace: Oid::PG_DEFAULT,
            database: Oid::new(5),
            relation: RelFileNumber::new(number),
        }
    }

    #[test]
    fn the_last_block_of_all_is_kept() {
        let mut touched = Touched::new();
        touched.touch(relation(1), Fork::Main, u32::MAX);
        touched.touch(relation(1), Fork::Main, 0);
        let blocks = touched.finish();
        let fork = &blocks.forks[&RelationFork { relation: relation(1), fork: Fork::Main }];
        assert_eq!(fork.blocks.iter().collect::<Vec<_>>(), [0, u32::MAX]);
    }

    #[test]
    fn beyond_the_bound_of_forks_the_database_is_told() {
        let mut touched = Touched::new();
        for number in 0..=u32::try_from(FORKS_MAX).unwrap() {
            touched.touch(relation(number), Fork::Main, 7);
        }
        let blocks = touched.finish();
        assert_eq!(blocks.forks.len(), FORKS_MAX);
        assert_eq!(blocks.whole_databases, [(Oid::PG_DEFAULT, Oid::new(5))]);
    }

    #[test]
    fn so_many_chunks_that_they_must_settle_are_all_kept() {
        let mut touched = Touched::new();
        let count = u32::try_from(CHUNKS_MAX).unwrap() + 5;
        for _ in 0..2 {
            for chunk in 0..count {
                touched.touch(relation(chunk % 3), Fork::Main, chunk << CHUNK_BITS);
            }
        }
        let blocks = touched.finish();
        assert_eq!(blocks.forks.values().map(|fork| fork.blocks.len()).sum::<u64>(), u64::from(count));
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_set_holds(
            touches in proptest::collection::vec((0u32..50, 0u8..4, prop_oneof![0u32..3000, any::<u32>()]), 0..400),
            cuts in proptest::collection::vec((0u32..50, 0u8..4, any::<u32>()), 0..10),
        ) {
            let mut touched = Touched::new();
            let mut plain = BTreeMap::<RelationFork, ForkBlocks>::new();
            for (number, fork, block) in touches {
                let key = RelationFork { relation: relation(number), fork: Fork::from_number(fork).unwrap() };
                touched.touch(key.relation, key.fork, block);
                plain.entry(key).or_default().blocks.insert(block);
            }
            for (number, fork, blocks) in cuts {
                let key = RelationFork { relation: relation(number), fork: Fork::from_number(fork).unwrap() };
                touched.cut(key.relation, key.fork, blocks);
                let limit = &mut plain.entry(key).or_default().limit;
                *limit = Some(limit.unwrap_or(u32::MAX).min(blocks));
            }
            prop_assert_eq!(touched.finish().forks, plain);
        }
    }
}
