//! Databases, tablespaces and the map of catalogs (`src/include/commands/dbcommands_xlog.h`,
//! `src/include/commands/tablespace.h`, `src/include/utils/relmapper.h`).

use crate::ids::{Oid, RelFileNumber};
use crate::le::Reader;
use crate::major::PgMajor;
use crate::wal::decode::Payload;
use crate::wal::decode::lists::Oids;
use crate::wal::record::Record;

/// A database was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DatabaseCreate {
    /// The database.
    pub database: Oid,
    /// The tablespace of this directory.
    pub tablespace: Oid,
    /// The database and the tablespace whose directory was copied. `None` if what the new directory
    /// holds is in the WAL (from 15 on).
    pub copied_from: Option<(Oid, Oid)>,
}

/// A database was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseDrop<'a> {
    /// The database.
    pub database: Oid,
    /// The tablespaces from which its directories were removed.
    pub tablespaces: Oids<'a>,
}

/// A tablespace was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablespaceCreate<'a> {
    /// The tablespace.
    pub tablespace: Oid,
    /// Its directory. Replay uses the very same.
    pub path: &'a [u8],
}

/// The file numbers of the catalogs that cannot look theirs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationMap<'a> {
    /// The database, 0 for the shared catalogs.
    pub database: Oid,
    entries: &'a [[u8; 8]],
}

impl<'a> RelationMap<'a> {
    /// The catalogs with their file numbers.
    pub fn entries(self) -> impl Iterator<Item = (Oid, RelFileNumber)> + 'a {
        self.entries.iter().map(|bytes| {
            let [catalog @ .., a, b, c, d] = *bytes;
            (Oid::new(u32::from_le_bytes(catalog)), RelFileNumber::new(u32::from_le_bytes([a, b, c, d])))
        })
    }
}

/// `RELMAPPER_FILEMAGIC`
const MAP_MAGIC: u32 = 0x0059_2717;

pub(super) fn decode_database<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    let creates_by_wal = record.major >= PgMajor::V15;
    Some(match record.header.kind() {
        0x00 => Payload::DatabaseCreate(DatabaseCreate {
            database: Oid::new(reader.u32()?),
            tablespace: Oid::new(reader.u32()?),
            copied_from: Some((Oid::new(reader.u32()?), Oid::new(reader.u32()?))),
        }),
        0x10 if creates_by_wal => Payload::DatabaseCreate(DatabaseCreate {
            database: Oid::new(reader.u32()?),
            tablespace: Oid::new(reader.u32()?),
            copied_from: None,
        }),
        0x10 | 0x20 => Payload::DatabaseDrop(DatabaseDrop {
            database: Oid::new(reader.u32()?),
            tablespaces: Oids(reader.counted_list()?),
        }),
        _ => Payload::Other,
    })
}

pub(super) fn decode_tablespace<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    let tablespace = Oid::new(reader.u32()?);
    Some(match record.header.kind() {
        0x00 => Payload::TablespaceCreate(TablespaceCreate { tablespace, path: reader.c_string()? }),
        0x10 => Payload::TablespaceDrop(tablespace),
        _ => Payload::Other,
    })
}

pub(super) fn decode_relation_map<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    let database = Oid::new(reader.u32()?);
    // The tablespace and the length of what follows.
    reader.bytes(8)?;
    if reader.u32()? != MAP_MAGIC {
        return None;
    }
    Some(Payload::RelationMap(RelationMap { database, entries: reader.counted_list()? }))
}
