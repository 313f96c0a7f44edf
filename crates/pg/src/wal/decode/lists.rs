//! Lists within records.

use crate::ids::{Oid, RelFileLocator, RelFileNumber, Xid};
use crate::le;
use crate::major::PgMajor;

/// Defines a list over elements of a fixed number of bytes.
macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $size:literal, $item:ty, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name<'a>(pub(super) &'a [[u8; $size]]);

        impl<'a> $name<'a> {
            /// How many there are.
            pub const fn len(self) -> usize {
                self.0.len()
            }

            /// Whether there are none.
            pub const fn is_empty(self) -> bool {
                self.0.is_empty()
            }

            /// The elements in the order of the record.
            pub fn iter(self) -> impl Iterator<Item = $item> + 'a {
                self.0.iter().map($read)
            }
        }
    };
}
pub(super) use list;

list!(
    /// Transaction ids.
    Xids,
    4,
    Xid,
    |bytes| Xid::new(u32::from_le_bytes(*bytes))
);

list!(
    /// Object identifiers.
    Oids,
    4,
    Oid,
    |bytes| Oid::new(u32::from_le_bytes(*bytes))
);

list!(
    /// Places of relations.
    Locators,
    12,
    RelFileLocator,
    locator
);

list!(
    /// Messages to other sessions to forget what they know of a catalog entry.
    Invalidations,
    16,
    Invalidation,
    invalidation
);

/// Reads the three numbers of a locator.
pub(super) fn locator(bytes: &[u8; 12]) -> RelFileLocator {
    let at = |offset| le::u32_at(bytes, offset).unwrap_or_default();
    RelFileLocator {
        tablespace: Oid::new(at(0)),
        database: Oid::new(at(4)),
        relation: RelFileNumber::new(at(8)),
    }
}

/// A message to other sessions (`src/include/storage/sinval.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// An entry of a catalog cache changed.
    CatalogCache {
        /// The number of the cache, which differs between major versions.
        cache: u8,
        /// The database, 0 for a shared catalog.
        database: Oid,
        /// The hash of the entry's key.
        hash: u32,
    },
    /// A catalog changed as a whole.
    Catalog {
        /// The database, 0 for a shared catalog.
        database: Oid,
        /// The catalog.
        catalog: Oid,
    },
    /// A relation's definition or storage changed.
    Relation {
        /// The database, 0 for a shared relation.
        database: Oid,
        /// The relation, 0 for all.
        relation: Oid,
    },
    /// Another kind.
    Other {
        /// The kind's number.
        kind: i8,
    },
}

fn invalidation(bytes: &[u8; 16]) -> Invalidation {
    let at = |offset| le::u32_at(bytes, offset).unwrap_or_default();
    let kind = i8::from_le_bytes([bytes[0]]);
    match kind {
        0.. => {
            Invalidation::CatalogCache { cache: kind.unsigned_abs(), database: Oid::new(at(4)), hash: at(8) }
        }
        -1 => Invalidation::Catalog { database: Oid::new(at(4)), catalog: Oid::new(at(8)) },
        -2 => Invalidation::Relation { database: Oid::new(at(4)), relation: Oid::new(at(8)) },
        _ => Invalidation::Other { kind },
    }
}

/// Objects whose statistics a commit or an abort drops, because the objects are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedObjects<'a> {
    /// 15 to 17
    Short(&'a [[u8; 12]]),
    /// 18
    Long(&'a [[u8; 16]]),
}

/// An object whose statistics are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DroppedObject {
    /// The kind of statistics; [`DroppedObject::is_relation`] tells the one of tables and indexes.
    pub kind: i32,
    /// The database, 0 for a shared object.
    pub database: Oid,
    /// The object: an OID in all kinds that the server itself defines.
    pub object: u64,
}

impl DroppedObject {
    /// Whether it is a table, an index or the like (`PGSTAT_KIND_RELATION`).
    pub const fn is_relation(&self) -> bool {
        self.kind == 2
    }
}

impl Default for DroppedObjects<'_> {
    fn default() -> Self {
        Self::Short(&[])
    }
}

impl<'a> DroppedObjects<'a> {
    pub(super) fn read(reader: &mut le::Reader<'a>, major: PgMajor) -> Option<Self> {
        if major >= PgMajor::V18 {
            return reader.counted_list().map(Self::Long);
        }
        reader.counted_list().map(Self::Short)
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        match self {
            Self::Short(list) => list.len(),
            Self::Long(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The elements in the order of the record.
    pub fn iter(self) -> impl Iterator<Item = DroppedObject> + 'a {
        let (short, long): (&[[u8; 12]], &[[u8; 16]]) = match self {
            Self::Short(list) => (list, &[]),
            Self::Long(list) => (&[], list),
        };
        short.iter().map(|bytes| dropped(bytes)).chain(long.iter().map(|bytes| dropped(bytes)))
    }
}

/// Reads an element with an object number of 32 or of 64 bits, the lower half first.
fn dropped(bytes: &[u8]) -> DroppedObject {
    let at = |offset| le::u32_at(bytes, offset).unwrap_or_default();
    DroppedObject {
        kind: at(0).cast_signed(),
        database: Oid::new(at(4)),
        object: u64::from(at(12)) << 32 | u64::from(at(8)),
    }
}
