//! Which blocks of which relations the records of a segment touch.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use walden_pg::{Fork, Oid, RelFileLocator};

/// One fork of one relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFork {
    /// The relation.
    pub relation: RelFileLocator,
    /// The fork.
    pub fork: Fork,
}

/// What was touched of one fork.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ForkBlocks {
    /// Blocks that records refer to.
    pub blocks: RoaringBitmap,
    /// The shortest length, in blocks, that the fork was cut to or created with: everything from there on is new,
    /// touched or not.
    pub limit: Option<u32>,
}

/// The touched blocks of all relations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TouchedBlocks {
    /// By fork.
    pub forks: BTreeMap<RelationFork, ForkBlocks>,
    /// Databases (their tablespace and themselves) whose directories were copied, made or removed as files: nothing
    /// else need be told of what is in them.
    pub whole_databases: Vec<(Oid, Oid)>,
}

impl TouchedBlocks {
    /// Adds what other WAL touches.
    pub fn add(&mut self, other: Self) {
        for (fork, touched) in other.forks {
            let own = self.forks.entry(fork).or_default();
            own.blocks |= touched.blocks;
            own.limit = match (own.limit, touched.limit) {
                (Some(own), Some(other)) => Some(own.min(other)),
                (own, other) => own.or(other),
            };
        }
        self.whole_databases.extend(other.whole_databases);
        self.whole_databases.sort_unstable();
        self.whole_databases.dedup();
    }
}
