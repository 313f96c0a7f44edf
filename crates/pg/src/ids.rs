//! The numbers by which PostgreSQL names transactions and relations.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An object identifier. 0 means "none" (`InvalidOid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Oid(u32);

impl Oid {
    /// The tablespace `pg_default`: `base/` in the data directory.
    pub const PG_DEFAULT: Self = Self(1663);
    /// The tablespace `pg_global`: `global/` in the data directory, with database 0.
    pub const PG_GLOBAL: Self = Self(1664);

    /// The OID with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this names an object at all, that is, is not 0.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction id of 32 bits, as in record headers. 0 means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Xid(u32);

impl Xid {
    /// PostgreSQL's `InvalidTransactionId`, "no transaction".
    pub const INVALID: Self = Self(0);

    /// The transaction with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this is a transaction at all, that is, not 0.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction id with its epoch, 64 bits, which never wraps around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FullXid(u64);

impl FullXid {
    /// The transaction with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number: the epoch in the upper 32 bits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The lower 32 bits, as in record headers.
    pub const fn xid(self) -> Xid {
        Xid((self.0 & 0xFFFF_FFFF) as u32)
    }
}

impl fmt::Display for FullXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A relation's file number, "filenode": the name of its files within a database's directory. Changes
/// with every rewrite of the relation and can be used again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelFileNumber(u32);

impl RelFileNumber {
    /// The file number with this value.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for RelFileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a relation's files are: PostgreSQL's `RelFileLocator` (before 16 `RelFileNode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct RelFileLocator {
    /// The tablespace: [`Oid::PG_DEFAULT`], [`Oid::PG_GLOBAL`] or a link in `pg_tblspc`.
    pub tablespace: Oid,
    /// The database, 0 for a relation that all databases share.
    pub database: Oid,
    /// The number in the name of the files.
    pub relation: RelFileNumber,
}

impl fmt::Display for RelFileLocator {
    /// As `pg_waldump` writes it: `<tablespace>/<database>/<relation>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.relation)
    }
}

/// A fork of a relation (`ForkNumber` in `src/include/common/relpath.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fork {
    /// The data itself; no suffix.
    Main,
    /// The free space map, `_fsm`.
    Fsm,
    /// The visibility map, `_vm`.
    Vm,
    /// What an unlogged relation is reset to after a crash, `_init`.
    Init,
}

impl Fork {
    /// Every fork, by number.
    pub const ALL: [Self; 4] = [Self::Main, Self::Fsm, Self::Vm, Self::Init];

    /// The fork with this number, 0 to 3.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Main),
            1 => Some(Self::Fsm),
            2 => Some(Self::Vm),
            3 => Some(Self::Init),
            _ => None,
        }
    }

    /// The fork's number, 0 to 3.
    pub const fn number(self) -> u8 {
        match self {
            Self::Main => 0,
            Self::Fsm => 1,
            Self::Vm => 2,
            Self::Init => 3,
        }
    }

    /// The name that `pg_waldump` and file names use: `main`, `fsm`, `vm`, `init`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Fsm => "fsm",
            Self::Vm => "vm",
            Self::Init => "init",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_round_trip() {
        for fork in Fork::ALL {
            assert_eq!(Fork::from_number(fork.number()), Some(fork));
        }
        assert_eq!(Fork::from_number(4), None);
        assert_eq!(FullXid::new(0x1_0000_0003).xid(), Xid::new(3));
    }
}
