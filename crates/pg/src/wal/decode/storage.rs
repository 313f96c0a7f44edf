//! Files of relations (`src/include/catalog/storage_xlog.h`).

use crate::ids::{Fork, RelFileLocator};
use crate::le::Reader;
use crate::wal::decode::Payload;
use crate::wal::decode::lists::locator;
use crate::wal::record::Record;

/// A relation's fork was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorageCreate {
    /// The relation.
    pub locator: RelFileLocator,
    /// The fork.
    pub fork: Fork,
}

/// A relation was cut short: by a vacuum, or by TRUNCATE of one made in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorageTruncate {
    /// The relation.
    pub locator: RelFileLocator,
    /// How many blocks of the main fork are left.
    pub blocks: u32,
}

pub(super) fn decode<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let mut reader = Reader::new(record.main_data());
    Some(match record.header.kind() {
        0x10 => {
            let locator = locator(&reader.array()?);
            let fork = u8::try_from(reader.i32()?).ok().and_then(Fork::from_number)?;
            Payload::StorageCreate(StorageCreate { locator, fork })
        }
        0x20 => {
            let blocks = reader.u32()?;
            Payload::StorageTruncate(StorageTruncate { locator: locator(&reader.array()?), blocks })
        }
        _ => Payload::Other,
    })
}
