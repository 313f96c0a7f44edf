//! Rows of `pg_class`: which relation had which name and which file.
//!
//! PostgreSQL source: `src/include/catalog/pg_class.h`, `log_heap_insert`, `heap_multi_insert` and
//! `log_heap_update` in `src/backend/access/heap/heapam.c`, `src/include/access/heapam_xlog.h`.

use crate::ids::{Fork, Oid, RelFileNumber};
use crate::le::{self, Reader};
use crate::major::PgMajor;
use crate::wal::image::tuple_on_page;
use crate::wal::items::BlockRef;
use crate::wal::record::{Record, ResourceManager};

/// A row that was inserted into `pg_class`, or became one by an update.
///
/// What the record does not tell is `None`: an update on the same page leaves out what the row has in
/// common with the one before it, at its beginning and at its end; and an image of the page may not be
/// readable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClassRow {
    /// The block of `pg_class` that the row is in.
    pub block: u32,
    /// The row's number in that block, from 1.
    pub offset: u16,
    /// Where the row was that it takes the place of, block and number; `None` for a new one.
    pub replaces: Option<(u32, u16)>,
    /// The relation.
    pub oid: Option<Oid>,
    /// Its name, at most 63 bytes, in the encoding of the database.
    pub name: Option<Vec<u8>>,
    /// The schema.
    pub namespace: Option<Oid>,
    /// The number of its files; 0 if it has none, or if a relation map tells it (`pg_class` itself and a
    /// few more).
    pub file_number: Option<RelFileNumber>,
    /// The tablespace, 0 for the database's own.
    pub tablespace: Option<Oid>,
    /// What it is, as in `relkind`: `r` a table, `i` an index, `S` a sequence, `t` a TOAST table, `v` a
    /// view, `m` a materialized view, `c` a composite type, `f` a foreign table, `p` a partitioned table,
    /// `I` a partitioned index.
    pub kind: Option<u8>,
}

const KIND_MASK: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;
const PREFIX_FROM_OLD: u8 = 1 << 5;
const SUFFIX_FROM_OLD: u8 = 1 << 6;

/// `SizeofHeapTupleHeader`: in a record, a tuple begins behind it.
const TUPLE_HEADER: usize = 23;
/// `SizeOfHeapHeader`: what a record keeps of the header.
const KEPT_HEADER: usize = 5;
/// `NAMEDATALEN`
const NAME_SIZE: usize = 64;

const OID: usize = 0;
const NAME: usize = 4;
const NAMESPACE: usize = 68;
const FILE_NUMBER: usize = 88;
const TABLESPACE: usize = 92;

/// Where `relkind` is: 18 added `relallfrozen` before it.
const fn kind_at(major: PgMajor) -> usize {
    if major.number() >= 18 { 119 } else { 115 }
}

/// Of a row of `pg_class`, so many bytes of columns are kept: far more than those of fixed length take.
const COLUMNS_MAX: usize = 1024;

/// A row, and its columns as far as the record tells them.
type Written = (ClassRow, Columns);

impl Record<'_> {
    /// The rows that this record inserts into `pg_class`, or updates to.
    ///
    /// `class_file` is the number of the files of `pg_class` in the record's database: 1259, until a
    /// [`RelationMap`](super::RelationMap) for that database gives OID 1259 another one. Of any other
    /// record, and of one that is not as its kind should be, there are none. Deletions are
    /// [`HeapChange`](super::HeapChange)s, whose block and offset are those of an earlier row.
    pub fn class_rows(&self, class_file: RelFileNumber) -> Vec<ClassRow> {
        self.class_rows_written(class_file).into_iter().map(|(row, _)| row).collect()
    }

    /// The same, with what an update leaves out taken from the row that it takes the place of: `before`
    /// gives the columns of the row at a block and a number, where they are known. With each row come its
    /// own columns, unless some are not known or they are 1,024 bytes or more.
    pub fn class_rows_after(
        &self,
        class_file: RelFileNumber,
        mut before: impl FnMut((u32, u16)) -> Option<Vec<u8>>,
    ) -> Vec<(ClassRow, Option<Vec<u8>>)> {
        let complete = |(mut row, columns): Written| {
            if !columns.is_whole()
                && let Some(columns) =
                    row.replaces.and_then(&mut before).and_then(|before| columns.after(&before))
            {
                let replaces = row.replaces;
                row = columns.row(self.major, row.block, row.offset);
                row.replaces = replaces;
                return (row, columns.kept());
            }
            (row, columns.kept())
        };
        self.class_rows_written(class_file).into_iter().map(complete).collect()
    }

    /// The rows on the pages of `pg_class` that the record has images of: block and number, and the columns if
    /// they are less than 1,024 bytes. Also rows that no longer count.
    pub fn class_rows_in_images(&self, class_file: RelFileNumber) -> Vec<(u32, u16, Vec<u8>)> {
        let mut rows = Vec::new();
        for block in self.blocks() {
            let is_class = block.locator.relation == class_file && block.fork == Fork::Main;
            let Some(image) = block.image.as_ref().filter(|_| is_class) else { continue };
            let Some(page) = self.restore_image(image) else { continue };
            // A page of 8 KiB has room for 291 tuples.
            let found =
                (1..=291).filter_map(|offset| Some((block.block, offset, known_in(&page, offset)?.kept()?)));
            rows.extend(found);
        }
        rows
    }

    fn class_rows_written(&self, class_file: RelFileNumber) -> Vec<Written> {
        let decode = match (self.header.manager, self.header.info & KIND_MASK) {
            (ResourceManager::HEAP, 0x00) => inserted,
            (ResourceManager::HEAP, 0x20 | 0x40) => updated,
            (ResourceManager::HEAP2, 0x50) => inserted_together,
            _ => return Vec::new(),
        };
        match self.block(0) {
            Some(block) if block.locator.relation == class_file && block.fork == Fork::Main => {
                decode(self, block).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

fn inserted(record: &Record<'_>, block: &BlockRef) -> Option<Vec<Written>> {
    let offset = le::u16_at(record.main_data(), 0)?;
    let data = record.block_data(block);
    let page = page_instead_of(data, record, block);
    let columns = match &page {
        Some(page) => known_in(page, offset),
        None => data.get(4).and_then(|hoff| {
            let bitmap = usize::from(*hoff).checked_sub(TUPLE_HEADER)?;
            Some(Columns::whole(data.get(KEPT_HEADER + bitmap..)?))
        }),
    };
    Some(vec![columns.unwrap_or(Columns::NOTHING).written(record.major, block.block, offset)])
}

fn inserted_together(record: &Record<'_>, block: &BlockRef) -> Option<Vec<Written>> {
    let mut main = Reader::new(record.main_data());
    // Flags, and padding.
    main.u16()?;
    let count = main.u16()?;
    let offsets = if record.header.info & INIT_PAGE != 0 {
        (1..=count).collect()
    } else {
        main.list::<2>(usize::from(count))?.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect::<Vec<_>>()
    };
    let data = record.block_data(block);
    let page = page_instead_of(data, record, block);
    let mut tuples = Reader::new(data);
    let mut rows = Vec::with_capacity(offsets.len().min(512));
    for offset in offsets {
        let columns = match &page {
            Some(page) => known_in(page, offset),
            None => Some(next_tuple(&mut tuples)?),
        };
        rows.push(columns.unwrap_or(Columns::NOTHING).written(record.major, block.block, offset));
    }
    Some(rows)
}

/// One of several tuples in a block's data (`xl_multi_insert_tuple`), each at an even position.
fn next_tuple(tuples: &mut Reader<'_>) -> Option<Columns> {
    if !tuples.consumed().is_multiple_of(2) {
        tuples.u8()?;
    }
    let length = usize::from(tuples.u16()?);
    let [.., hoff] = tuples.array::<KEPT_HEADER>()?;
    let bitmap = usize::from(hoff).checked_sub(TUPLE_HEADER)?;
    Some(Columns::whole(tuples.bytes(length)?.get(bitmap..)?))
}

fn updated(record: &Record<'_>, block: &BlockRef) -> Option<Vec<Written>> {
    let mut main = Reader::new(record.main_data());
    main.u32()?;
    let old_offset = main.u16()?;
    main.u8()?;
    let flags = main.u8()?;
    main.u32()?;
    let offset = main.u16()?;
    // The old row is in block 1 if it is not in the same.
    let old = record.block(1).filter(|old| old.fork == Fork::Main).unwrap_or(block);
    let data = record.block_data(block);
    let page = page_instead_of(data, record, block);
    let columns = match &page {
        Some(page) => known_in(page, offset),
        None => changed(data, flags),
    };
    let (mut row, columns) = columns.unwrap_or(Columns::NOTHING).written(record.major, block.block, offset);
    row.replaces = Some((old.block, old_offset));
    Some(vec![(row, columns)])
}

/// What an update tells of the new row.
fn changed(data: &[u8], flags: u8) -> Option<Columns> {
    let mut reader = Reader::new(data);
    let prefix = if flags & PREFIX_FROM_OLD != 0 { usize::from(reader.u16()?) } else { 0 };
    let suffix = if flags & SUFFIX_FROM_OLD != 0 { usize::from(reader.u16()?) } else { 0 };
    let [.., hoff] = reader.array::<KEPT_HEADER>()?;
    reader.bytes(usize::from(hoff).checked_sub(TUPLE_HEADER)?)?;
    Some(Columns { start: prefix, missing: suffix, ..Columns::whole(data.get(reader.consumed()..)?) })
}

/// The page, if the record has an image of it in place of the data. An image that cannot be read is an
/// empty page.
fn page_instead_of(data: &[u8], record: &Record<'_>, block: &BlockRef) -> Option<Vec<u8>> {
    let image = block.image.as_ref().filter(|_| data.is_empty())?;
    Some(record.restore_image(image).unwrap_or_default())
}

fn known_in(page: &[u8], offset: u16) -> Option<Columns> {
    let tuple = tuple_on_page(page, offset)?;
    let hoff = usize::from(*tuple.get(TUPLE_HEADER - 1)?);
    Some(Columns::whole(tuple.get(hoff.max(TUPLE_HEADER)..)?))
}

/// The bytes of a row's columns that a record tells.
struct Columns {
    /// Where they begin: so many at the beginning are those of the row before.
    start: usize,
    bytes: Vec<u8>,
    /// So many at the end are those of the row before.
    missing: usize,
}

impl Columns {
    const NOTHING: Self = Self { start: 0, bytes: Vec::new(), missing: 0 };

    fn whole(bytes: &[u8]) -> Self {
        let kept = bytes.get(..COLUMNS_MAX).unwrap_or(bytes);
        Self { start: 0, bytes: kept.to_vec(), missing: 0 }
    }

    const fn is_whole(&self) -> bool {
        self.start == 0 && self.missing == 0
    }

    /// The bytes, if they are all of them.
    fn kept(self) -> Option<Vec<u8>> {
        let is_sound = self.is_whole() && !self.bytes.is_empty() && self.bytes.len() < COLUMNS_MAX;
        is_sound.then_some(self.bytes)
    }

    /// All of them, with what is missing taken from the row before.
    fn after(&self, before: &[u8]) -> Option<Self> {
        let first = before.get(..self.start)?;
        let last = before.get(before.len().checked_sub(self.missing)?..)?;
        Some(Self::whole(&[first, &self.bytes, last].concat()))
    }

    fn bytes(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.bytes.get(at.checked_sub(self.start)?..)?.get(..length)
    }

    fn oid(&self, at: usize) -> Option<Oid> {
        le::u32_at(self.bytes(at, 4)?, 0).map(Oid::new)
    }

    fn written(self, major: PgMajor, block: u32, offset: u16) -> Written {
        (self.row(major, block, offset), self)
    }

    fn row(&self, major: PgMajor, block: u32, offset: u16) -> ClassRow {
        let name = self.bytes(NAME, NAME_SIZE);
        ClassRow {
            block,
            offset,
            replaces: None,
            oid: self.oid(OID),
            name: name.and_then(|field| field.split(|&byte| byte == 0).next()).map(<[u8]>::to_vec),
            namespace: self.oid(NAMESPACE),
            file_number: self.oid(FILE_NUMBER).map(|oid| RelFileNumber::new(oid.get())),
            tablespace: self.oid(TABLESPACE),
            kind: self.bytes(kind_at(major), 1).and_then(|bytes| bytes.first().copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::craft::{Crafter, SIZE};
    use crate::wal::scanner::{WalScanner, WalScannerOptions};

    const CLASS: RelFileNumber = RelFileNumber::new(1259);

    /// The rows of a record with one block of `pg_class`.
    fn rows(major: PgMajor, (manager, info): (u8, u8), data: &[u8], main: &[u8]) -> Vec<ClassRow> {
        let mut body = vec![0, if data.is_empty() { 0 } else { 0x20 }];
        body.extend_from_slice(&u16::try_from(data.len()).unwrap().to_le_bytes());
        for number in [1663u32, 5, CLASS.get(), 3] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&[255, u8::try_from(main.len()).unwrap()]);
        body.extend_from_slice(data);
        body.extend_from_slice(main);
        let mut wal = Crafter::new(major);
        wal.record_with_body(1, manager, info, &body);
        let (name, bytes) = wal.segment();
        let mut rows = Vec::new();
        let outcome = WalScanner::new(WalScannerOptions::new(SIZE)).scan_segment(name, &bytes, |record| {
            assert_eq!(record.class_rows(RelFileNumber::new(1260)), []);
            rows = record.class_rows(CLASS);
        });
        assert_eq!(outcome.unwrap().records, 1);
        rows
    }

    /// A row's columns, up to and with `relkind` of 18.
    fn columns(oid: u32, name: &str) -> Vec<u8> {
        let mut row = vec![0; 120];
        row[..4].copy_from_slice(&oid.to_le_bytes());
        row[4..4 + name.len()].copy_from_slice(name.as_bytes());
        row[68..72].copy_from_slice(&2200u32.to_le_bytes());
        row[88..92].copy_from_slice(&(oid + 1).to_le_bytes());
        row[92..96].copy_from_slice(&0u32.to_le_bytes());
        row[115] = b'i';
        row[119] = b'r';
        row
    }

    /// With a header whose bitmap takes 9 bytes up to the columns.
    fn tuple(columns: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, 32][..], &[0xFF; 9], columns].concat()
    }

    fn row(offset: u16, oid: u32, name: &str, kind: u8) -> ClassRow {
        ClassRow {
            block: 3,
            offset,
            replaces: None,
            oid: Some(Oid::new(oid)),
            name: Some(name.as_bytes().to_vec()),
            namespace: Some(Oid::new(2200)),
            file_number: Some(RelFileNumber::new(oid + 1)),
            tablespace: Some(Oid::new(0)),
            kind: Some(kind),
        }
    }

    #[test]
    fn one_row_or_several() {
        let data = tuple(&columns(16384, "orders"));
        assert_eq!(rows(PgMajor::V18, (10, 0), &data, &[7, 0, 0]), [row(7, 16384, "orders", b'r')]);
        assert_eq!(rows(PgMajor::V17, (10, 0x80), &data, &[7, 0, 0]), [row(7, 16384, "orders", b'i')]);
        let several = |columns: &[u8]| {
            let tuple = tuple(columns);
            // The second one begins at an even position.
            let length = u16::try_from(tuple.len() - 5).unwrap().to_le_bytes();
            [&length[..], &tuple].concat()
        };
        let mut odd = columns(1, "first");
        odd.pop();
        let mut data = several(&odd);
        assert!(!data.len().is_multiple_of(2));
        data.push(0xEE);
        data.extend(several(&columns(2, "second")));
        let expected = [ClassRow { kind: None, ..row(4, 1, "first", 0) }, row(9, 2, "second", b'r')];
        assert_eq!(rows(PgMajor::V18, (9, 0x50), &data, &[0, 0, 2, 0, 4, 0, 9, 0]), expected);
        let expected = [ClassRow { kind: None, ..row(1, 1, "first", 0) }, row(2, 2, "second", b'r')];
        assert_eq!(rows(PgMajor::V18, (9, 0xD0), &data, &[0, 0, 2, 0]), expected);
        assert_eq!(rows(PgMajor::V18, (10, 0x10), &data, &[0; 8]), [], "a deletion");
        // Neither data nor an image.
        let nothing = ClassRow { block: 3, offset: 7, ..Columns::NOTHING.row(PgMajor::V18, 3, 7) };
        assert_eq!(rows(PgMajor::V18, (10, 0), &[], &[7, 0, 0]), [nothing]);
    }

    #[test]
    fn what_an_update_leaves_out_is_that_of_the_row_before() {
        let before = columns(16384, "orders");
        let after = columns(16384, "offers");
        // "or" and "of" differ in their second letter; behind the name nothing does.
        let columns = Columns { start: 5, missing: before.len() - 10, bytes: after[5..10].to_vec() };
        assert_eq!(columns.row(PgMajor::V18, 3, 7).name, None);
        let whole = columns.after(&before).unwrap();
        assert_eq!(whole.bytes, after);
        assert_eq!(whole.row(PgMajor::V18, 3, 7), row(7, 16384, "offers", b'r'));
        assert!(columns.after(&before[..before.len() - 11 + 5]).is_some(), "no longer than it is");
        assert!(columns.after(&[]).is_none() && columns.after(&before[..4]).is_none());
    }

    #[test]
    fn what_an_update_leaves_out_is_not_known() {
        let main = |flags| [0, 0, 0, 0, 6, 0, 0, flags, 0, 0, 0, 0, 8, 0];
        let full = columns(16384, "orders");
        let mut expected = row(8, 16384, "orders", b'r');
        expected.replaces = Some((3, 6));
        assert_eq!(rows(PgMajor::V18, (10, 0x20), &tuple(&full), &main(0)), [expected.clone()]);
        // The OID and half of the name are as before, and all behind the file number.
        let data = [&[7, 0, 28, 0][..], &tuple(&full[7..92])].concat();
        let mut cut = ClassRow { oid: None, name: None, tablespace: None, kind: None, ..expected };
        assert_eq!(rows(PgMajor::V18, (10, 0x40), &data, &main(0x60)), [cut.clone()]);
        // The suffix alone.
        let data = [&[28, 0][..], &tuple(&full[..92])].concat();
        (cut.oid, cut.name) = (Some(Oid::new(16384)), Some(b"orders".to_vec()));
        assert_eq!(rows(PgMajor::V18, (10, 0x40), &data, &main(0x40)), [cut]);
    }

    proptest! {
        #[test]
        fn any_data_are_taken_or_refused(
            which in 0usize..6,
            kind in 0usize..5,
            data in prop::collection::vec(any::<u8>(), 0..300),
            main in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let kinds = [(10, 0), (10, 0x20), (10, 0x40), (9, 0x50), (9, 0xD0)];
            let _ = rows(PgMajor::ALL[which], kinds[kind], &data, &main);
        }
    }
}
