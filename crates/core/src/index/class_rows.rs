//! Rows of `pg_class` as they were last seen: an update leaves out of the WAL what did not change.
//!
//! The first record after a checkpoint that touches a page has an image of it, with all rows on it; later ones have the
//! difference. So what was seen since the last checkpoint is enough, and is told to the next segment.

use rustc_hash::FxHashMap;
use walden_pg::wal::Record;
use walden_pg::wal::decode::ClassRow;
use walden_pg::{Lsn, Oid, RelFileNumber};

use super::segment_index::ClassTuple;

/// So many rows are remembered.
const ROWS_MAX: usize = 8192;
/// So many of them, the newest, are told to the next segment.
const ROWS_CARRIED_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct ClassRows {
    /// The columns by database, block and number, and the record that they were seen in.
    rows: FxHashMap<(Oid, u32, u16), (Lsn, Vec<u8>)>,
}

impl ClassRows {
    pub(super) fn resumed(carried: &[ClassTuple]) -> Self {
        let row = |row: &ClassTuple| ((row.database, row.block, row.offset), (row.seen, row.columns.clone()));
        Self { rows: carried.iter().take(ROWS_CARRIED_MAX).map(row).collect() }
    }

    /// Takes the rows on the pages that a record has images of.
    pub(super) fn images(&mut self, record: &Record<'_>, database: Oid, class_file: RelFileNumber) {
        for (block, offset, columns) in record.class_rows_in_images(class_file) {
            self.remember((database, block, offset), record.lsn, columns);
        }
    }

    /// The rows that a record writes, with what it leaves out.
    pub(super) fn written(
        &mut self,
        record: &Record<'_>,
        database: Oid,
        class_file: RelFileNumber,
    ) -> Vec<ClassRow> {
        let before =
            |(block, offset)| self.rows.get(&(database, block, offset)).map(|(_, columns)| columns.clone());
        let written = record.class_rows_after(class_file, before);
        let take = |(row, columns): (ClassRow, Option<Vec<u8>>)| {
            if let Some(columns) = columns {
                self.remember((database, row.block, row.offset), record.lsn, columns);
            }
            row
        };
        written.into_iter().map(take).collect()
    }

    fn remember(&mut self, place: (Oid, u32, u16), seen: Lsn, columns: Vec<u8>) {
        if self.rows.len() >= ROWS_MAX {
            self.rows.clear();
        }
        self.rows.insert(place, (seen, columns));
    }

    /// From here on, records have images of pages again.
    pub(super) fn checkpoint(&mut self, redo: Lsn) {
        self.rows.retain(|_, (seen, _)| *seen >= redo);
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    /// What the next segment's indexer must know.
    pub(super) fn carry(self) -> Vec<ClassTuple> {
        let mut rows: Vec<ClassTuple> = self
            .rows
            .into_iter()
            .map(|((database, block, offset), (seen, columns))| ClassTuple {
                database,
                block,
                offset,
                seen,
                columns,
            })
            .collect();
        rows.sort_unstable_by_key(|row| (std::cmp::Reverse(row.seen), row.database, row.block, row.offset));
        rows.truncate(ROWS_CARRIED_MAX);
        rows
    }
}
