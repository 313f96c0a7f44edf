//! What is gathered from the records of one segment.

use walden_pg::wal::decode::{
    CheckpointKind, ClassRow, EndOfRecovery, ExclusiveLocks, ParameterChange, RelationMap, TransactionEnd,
};
use walden_pg::wal::{Payload, Record, RecordHeader, ResourceManager};
use walden_pg::{
    CheckPoint, Fork, Lsn, Oid, PgMajor, PgTimestamp, RelFileLocator, RelFileNumber, WalLevel, Xid,
};

use super::class_rows::ClassRows;
use super::classify::changes;
use super::events::{Event, EventKind, NotableTransaction, RelationName, RelationOperation};
use super::facts::{CommitMark, TimeRange, WalFacts, WalFlags, XidRange, larger};
use super::segment_index::{Carry, Filling, FirstRecord};
use super::touched::Touched;
use super::transactions::{RowKind, Transactions};

/// Gathers facts, events and touched blocks from records in the order of the WAL.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) facts: WalFacts,
    pub(super) events: Vec<Event>,
    pub(super) touched: Touched,
    pub(super) major: Option<PgMajor>,
    transactions: Transactions,
    /// Databases whose `pg_class` has other files than the first ones.
    class_files: Vec<(Oid, RelFileNumber)>,
    class_rows: ClassRows,
    mass_change_rows: u64,
    /// Where the last record begins: that of the carry before the first record.
    last_record: Option<Lsn>,
    /// Where the record begins that the carry has the beginning of.
    pending: Option<Lsn>,
    /// The first record.
    pub(super) first: Option<FirstRecord>,
    has_begun: bool,
}

const SEQUENCE: ResourceManager = ResourceManager::new(15);
/// `XLH_DELETE_IS_SUPER`
const DELETE_IS_UNDONE_INSERT: u8 = 1 << 3;
/// `XLH_DELETE_IS_PARTITION_MOVE`
const DELETE_IS_PARTITION_MOVE: u8 = 1 << 4;
/// A commit that tells nothing but its time.
const PLAIN_COMMIT: u8 = 0x00;
/// The OID of `pg_class`, and the number of its first files.
const PG_CLASS: u32 = 1259;
/// Databases of which it is known that `pg_class` has other files.
const CLASS_FILES_MAX: usize = 4096;

impl Collector {
    /// A collector that goes on where another one stopped.
    pub(super) fn new(mass_change_rows: u64, carry: Option<&Carry>) -> Self {
        Self {
            facts: WalFacts::default(),
            events: Vec::new(),
            touched: Touched::new(),
            major: None,
            transactions: carry.map(Transactions::resumed).unwrap_or_default(),
            class_files: carry.map(|carry| carry.class_files.clone()).unwrap_or_default(),
            class_rows: carry.map(|carry| ClassRows::resumed(&carry.class_rows)).unwrap_or_default(),
            mass_change_rows,
            last_record: carry.and_then(|carry| carry.last_record),
            pending: carry.and_then(|carry| carry.pending.as_ref()).map(|fragment| fragment.lsn),
            first: None,
            has_begun: false,
        }
    }

    /// Takes a record.
    #[inline]
    pub(super) fn record(&mut self, record: &Record<'_>) {
        if self.last_record != Some(record.header.previous) || !self.has_begun {
            self.begin(record);
        }
        self.last_record = Some(record.lsn);
        for block in record.blocks() {
            self.touched.touch(block.locator, block.fork, block.block);
            if block.image.is_some() && block.locator.relation.get() == PG_CLASS {
                self.class_rows.images(record, block.locator.database, block.locator.relation);
            }
        }
        match record.header.manager {
            ResourceManager::HEAP => self.heap(record),
            ResourceManager::XLOG if matches!(record.header.kind(), 0xA0 | 0xB0) => {
                self.filled(record, Filling::Pages);
            }
            ResourceManager::TRANSACTION => self.transaction(record),
            ResourceManager::XLOG
            | ResourceManager::STORAGE
            | ResourceManager::DATABASE
            | ResourceManager::RELMAP
            | ResourceManager::STANDBY => self.decoded(record),
            ResourceManager::HEAP2 => self.heap_more(record),
            SEQUENCE => self.filled(record, Filling::Sequence),
            _ => {}
        }
    }

    /// The first record, or one that does not follow the one before.
    #[cold]
    fn begin(&mut self, record: &Record<'_>) {
        self.major = Some(record.major);
        let follows = match self.last_record {
            Some(last) => last == record.header.previous,
            None => self.pending == Some(record.lsn),
        };
        if !self.has_begun {
            self.first = Some(FirstRecord { lsn: record.lsn, previous: record.header.previous });
        }
        // The one that the carry has the beginning of may have been passed over.
        let is_near = follows || self.pending == Some(record.header.previous);
        if !self.has_begun && !is_near {
            // What the carry told is of other WAL.
            self.transactions = Transactions::default();
            self.class_files.clear();
            self.class_rows.clear();
        } else if !follows {
            self.transactions.gap();
        }
        self.has_begun = true;
    }

    /// A record of a transaction. Most are commits that say nothing but their time.
    #[inline]
    fn transaction(&mut self, record: &Record<'_>) {
        let (xid, time) = (record.header.xid, record.main_data().first_chunk());
        match time {
            Some(time)
                if record.header.info == PLAIN_COMMIT
                    && self.transactions.end_if_dull(xid, self.mass_change_rows) =>
            {
                let time = PgTimestamp::new(i64::from_le_bytes(*time));
                self.count_commit(CommitMark { lsn: record.lsn, xid, time });
            }
            _ => self.decoded(record),
        }
    }

    #[inline]
    fn heap(&mut self, record: &Record<'_>) {
        let Some(block) = record.blocks().first() else { return };
        let (xid, files) = (record.header.xid, block.locator);
        let is_deletion = match record.header.info & 0x70 {
            0x00 => false,
            0x20 | 0x40 => {
                self.transactions.row(xid, files, RowKind::Updated);
                false
            }
            0x10 => {
                let flags = record.main_data().get(7).copied().unwrap_or_default();
                if flags & DELETE_IS_UNDONE_INSERT != 0 {
                    return;
                }
                let is_move = flags & DELETE_IS_PARTITION_MOVE != 0;
                self.transactions.row(xid, files, if is_move { RowKind::Updated } else { RowKind::Deleted });
                true
            }
            0x30 => return self.decoded(record),
            _ => return,
        };
        if files.relation.get() == PG_CLASS || !self.class_files.is_empty() {
            self.class_row(record, files, is_deletion);
        }
    }

    /// Rows inserted together.
    #[inline]
    fn heap_more(&mut self, record: &Record<'_>) {
        if record.header.info & 0x70 == 0x50
            && let Some(block) = record.blocks().first()
            && (block.locator.relation.get() == PG_CLASS || !self.class_files.is_empty())
        {
            self.class_row(record, block.locator, false);
        }
    }

    /// A row of what may be `pg_class` was deleted, or rows of it written.
    #[cold]
    fn class_row(&mut self, record: &Record<'_>, files: RelFileLocator, is_deletion: bool) {
        let moved = self.class_files.iter().find(|(database, _)| *database == files.database);
        let class_file = moved.map_or(RelFileNumber::new(PG_CLASS), |(_, number)| *number);
        if class_file != files.relation {
            return;
        }
        let xid = record.header.xid;
        if is_deletion {
            return self.transactions.class_row(xid, 2);
        }
        for row in &self.class_rows.written(record, files.database, class_file) {
            self.transactions.class_row(xid, usize::from(row.replaces.is_some()));
            let Some(relation) = row.oid else { continue };
            let rewritten = rewritten_table(row);
            if row.replaces.is_none() {
                self.transactions.made(xid, relation);
                if let (Some(table), Some(number)) = (rewritten, row.file_number) {
                    self.transactions.rewritten(xid, table, number);
                }
            } else if let Some(number) = row.file_number.filter(|number| number.get() != 0) {
                self.transactions.moved(xid, relation, number);
            }
            if let Some(name) = name_of(xid, files.database, row).filter(|_| rewritten.is_none()) {
                self.transactions.named(name);
            }
        }
    }

    /// New files may have been filled: with more than the first page, which an empty index has, too.
    #[inline]
    fn filled(&mut self, record: &Record<'_>, filling: Filling) {
        let Some(block) = record.blocks().last() else { return };
        if block.block > 0 || filling == Filling::Sequence {
            self.transactions.filled(record.header.xid, block.locator, filling);
        }
    }

    fn decoded(&mut self, record: &Record<'_>) {
        let Ok(payload) = record.payload() else {
            if may_matter(record.bytes()) {
                self.facts.flags.add(WalFlags::NOT_UNDERSTOOD);
            }
            return;
        };
        match payload {
            Payload::Commit(end) => self.commit(record, &end),
            Payload::Abort(end) => self.abort(&end),
            Payload::Prepare(prepare) => self.transactions.prepared(prepare.xid),
            Payload::RunningTransactions(running) => {
                self.transactions.running_from(running.oldest_running);
                self.transactions.next_xid(running.next_xid);
            }
            Payload::ExclusiveLocks(locks) => self.locks(record, locks),
            Payload::StorageCreate(create) => {
                self.touched.cut(create.locator, create.fork, 0);
                if create.fork == Fork::Main {
                    self.transactions.created(record.header.xid, create.locator, record.lsn);
                }
            }
            Payload::StorageTruncate(truncate) => {
                self.touched.cut(truncate.locator, Fork::Main, truncate.blocks);
                // Where the other forks are cut is not told.
                self.touched.cut(truncate.locator, Fork::Fsm, 0);
                self.touched.cut(truncate.locator, Fork::Vm, 0);
            }
            Payload::DatabaseCreate(create) if create.copied_from.is_some() => {
                self.touched.database(create.tablespace, create.database);
            }
            Payload::DatabaseDrop(drop) => {
                drop.tablespaces
                    .iter()
                    .for_each(|tablespace| self.touched.database(tablespace, drop.database));
                // One that is only moved to another tablespace is removed there without a transaction.
                let place = (record.lsn, record.end);
                self.transactions.database_dropped(record.header.xid, drop.database, place);
            }
            Payload::RelationMap(map) => self.relation_map(map),
            Payload::HeapTruncate(truncate) => {
                let xid = record.header.xid;
                truncate.tables.iter().for_each(|table| self.transactions.truncated(xid, table));
            }
            Payload::Checkpoint(kind, checkpoint) => self.checkpoint(record, kind, &checkpoint),
            Payload::CheckpointRedo(level) => self.wal_level(level),
            Payload::RestorePoint(point) => {
                self.facts.flags.add(WalFlags::RESTORE_POINT);
                let name = String::from_utf8_lossy(point.name).into_owned();
                self.event(record, EventKind::RestorePoint { name, time: point.time });
            }
            Payload::EndOfRecovery(end) => self.end_of_recovery(record, end),
            Payload::ParameterChange(change) => self.parameter_change(record, change),
            Payload::FullPageWrites(on) => {
                if !on {
                    self.facts.flags.add(WalFlags::FULL_PAGE_WRITES_OFF);
                }
                self.event(record, EventKind::FullPageWrites(on));
            }
            Payload::BackupEnd(start) => {
                self.facts.flags.add(WalFlags::BACKUP_END);
                self.event(record, EventKind::BackupEnd(start));
            }
            Payload::OverwrittenRecord(overwritten) => {
                self.facts.flags.add(WalFlags::OVERWRITTEN_RECORD);
                self.event(record, EventKind::OverwrittenRecord(overwritten.lsn));
            }
            _ => {}
        }
    }

    fn event(&mut self, record: &Record<'_>, kind: EventKind) {
        self.add_event(record.lsn, record.end, kind);
    }

    fn add_event(&mut self, lsn: Lsn, end_lsn: Lsn, kind: EventKind) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(Event { lsn, end_lsn, kind });
        } else {
            self.facts.flags.add(WalFlags::EVENTS_LEFT_OUT);
        }
    }

    #[inline]
    fn count_end(&mut self, xid: Xid, time: PgTimestamp) {
        let facts = &mut self.facts;
        let time = TimeRange::of(time);
        facts.end_times = Some(facts.end_times.map_or(time, |times| times.join(time)));
        let xid = XidRange::of(xid);
        facts.xids = Some(facts.xids.map_or(xid, |xids| xids.join(xid)));
    }

    #[inline]
    fn count_commit(&mut self, mark: CommitMark) {
        self.count_end(mark.xid, mark.time);
        let facts = &mut self.facts;
        facts.commits += 1;
        facts.first_commit.get_or_insert(mark);
        facts.last_commit = Some(mark);
        let time = TimeRange::of(mark.time);
        facts.commit_times = Some(facts.commit_times.map_or(time, |times| times.join(time)));
    }

    fn abort(&mut self, end: &TransactionEnd<'_>) {
        self.count_end(end.xid, end.time);
        self.facts.aborts += 1;
        self.transactions.forget(end.xid);
        end.subxacts.iter().for_each(|xid| self.transactions.forget(xid));
    }

    fn commit(&mut self, record: &Record<'_>, end: &TransactionEnd<'_>) {
        self.count_commit(CommitMark { lsn: record.lsn, xid: end.xid, time: end.time });
        self.notable(record, end);
    }

    /// Tells what a committed transaction did, if it is worth it.
    fn notable(&mut self, record: &Record<'_>, end: &TransactionEnd<'_>) {
        if end.is_cut {
            // What it dropped, and its subtransactions, may be in the part that was not kept.
            self.facts.flags.add(WalFlags::EVENTS_LEFT_OUT);
        }
        let is_plain = end.subxacts.is_empty() && end.deleted_files.is_empty() && end.dropped.is_empty();
        let threshold = self.mass_change_rows;
        let mut transaction = self
            .transactions
            .end(end.xid, |transaction| {
                let is_worth_it = !is_plain || transaction.is_worth_it(threshold);
                is_worth_it.then(|| std::mem::take(transaction))
            })
            .flatten();
        if is_plain && transaction.is_none() {
            return;
        }
        let transaction = transaction.get_or_insert_default();
        for xid in end.subxacts.iter() {
            self.transactions.end(xid, |other| transaction.absorb(other));
        }
        self.names(record, end, std::mem::take(&mut transaction.names));
        for (database, lsn, end_lsn) in std::mem::take(&mut transaction.databases) {
            self.facts.flags.add(WalFlags::DATABASE_DROP);
            let kind = EventKind::DatabaseDropped { database, xid: end.xid, time: end.time };
            self.add_event(lsn, end_lsn, kind);
        }
        let (changes, left_out) = changes(record.major, transaction, end, threshold);
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            self.facts.flags.add(flag_of(change.operation));
        }
        let database = changes.iter().find_map(|change| change.files.map(|files| files.database));
        let notable = NotableTransaction {
            xid: end.xid,
            time: end.time,
            database: end.database.or(database),
            changes,
            began_earlier: !self.transactions.is_complete(end.xid),
            left_out,
        };
        self.event(record, EventKind::Transaction(notable));
    }

    fn names(&mut self, record: &Record<'_>, end: &TransactionEnd<'_>, names: Vec<RelationName>) {
        for name in names {
            self.facts.flags.add(WalFlags::NAMES);
            self.event(record, EventKind::RelationNamed(RelationName { xid: end.xid, ..name }));
        }
    }

    fn locks(&mut self, record: &Record<'_>, locks: ExclusiveLocks<'_>) {
        // The locks that are held are repeated now and then, without an id in the header.
        let is_repetition = !record.header.xid.is_valid();
        for lock in locks.iter() {
            if !is_repetition || !self.transactions.is_complete(lock.xid) {
                self.transactions.locked(lock.xid, lock.relation);
            }
        }
    }

    fn relation_map(&mut self, map: RelationMap<'_>) {
        let Some((_, number)) = map.entries().find(|(catalog, _)| catalog.get() == PG_CLASS) else { return };
        self.class_files.retain(|(database, _)| *database != map.database);
        if number.get() != PG_CLASS && self.class_files.len() < CLASS_FILES_MAX {
            self.class_files.push((map.database, number));
        }
    }

    fn checkpoint(&mut self, record: &Record<'_>, kind: CheckpointKind, checkpoint: &CheckPoint) {
        self.facts.flags.add(WalFlags::CHECKPOINT);
        if checkpoint.full_page_writes {
            self.class_rows.checkpoint(checkpoint.redo);
        } else {
            self.facts.flags.add(WalFlags::FULL_PAGE_WRITES_OFF);
        }
        if checkpoint.timeline != checkpoint.previous_timeline {
            self.facts.flags.add(WalFlags::TIMELINE_BEGINS);
        }
        self.wal_level(checkpoint.wal_level);
        let is_shutdown = kind == CheckpointKind::Shutdown;
        if is_shutdown {
            self.transactions.server_ended();
            self.transactions.next_xid(checkpoint.next_xid.xid());
        }
        let kind = EventKind::Checkpoint {
            shutdown: is_shutdown,
            redo: checkpoint.redo,
            timeline: checkpoint.timeline,
            previous_timeline: checkpoint.previous_timeline,
            next_xid: checkpoint.next_xid.get(),
            time: checkpoint.time.get(),
        };
        self.event(record, kind);
    }

    fn end_of_recovery(&mut self, record: &Record<'_>, end: EndOfRecovery) {
        self.facts.flags.add(WalFlags::TIMELINE_BEGINS);
        self.transactions.server_ended();
        self.wal_level(end.wal_level);
        let (timeline, previous_timeline) = (end.timeline, end.previous_timeline);
        self.event(record, EventKind::EndOfRecovery { timeline, previous_timeline, time: end.time });
    }

    fn parameter_change(&mut self, record: &Record<'_>, change: ParameterChange) {
        self.facts.flags.add(WalFlags::PARAMETER_CHANGE);
        self.wal_level(Some(change.wal_level));
        let maxima = change.maxima;
        self.facts.maxima = Some(self.facts.maxima.map_or(maxima, |before| larger(before, maxima)));
        self.event(record, EventKind::ParameterChange { maxima, wal_level: change.wal_level });
    }

    /// What the next segment's indexer must know of the transactions.
    pub(super) fn carry(&mut self, carry: &mut Carry) {
        std::mem::take(&mut self.transactions).carry(carry);
        carry.class_files = std::mem::take(&mut self.class_files);
        carry.class_rows = std::mem::take(&mut self.class_rows).carry();
    }

    fn wal_level(&mut self, level: Option<WalLevel>) {
        if level == Some(WalLevel::Minimal) {
            self.facts.flags.add(WalFlags::WAL_LEVEL_MINIMAL);
        }
    }
}

/// Events of one segment that are told one by one.
const EVENTS_MAX: usize = 4096;

fn flag_of(operation: RelationOperation) -> WalFlags {
    match operation {
        RelationOperation::Drop => WalFlags::DROP,
        RelationOperation::Truncate => WalFlags::TRUNCATE,
        RelationOperation::Rewrite => WalFlags::REWRITE,
        RelationOperation::MassDelete | RelationOperation::MassUpdate => WalFlags::MASS_CHANGE,
    }
}

fn name_of(xid: Xid, database: Oid, row: &ClassRow) -> Option<RelationName> {
    Some(RelationName {
        database,
        relation: row.oid?,
        name: String::from_utf8_lossy(row.name.as_deref()?).into_owned(),
        schema: row.namespace?,
        file_number: row.file_number?.get(),
        tablespace: row.tablespace?,
        kind: char::from(row.kind?),
        xid,
    })
}

/// The table that a transient relation is made for, as its name tells (`make_new_heap` in
/// `src/backend/commands/cluster.c`).
fn rewritten_table(row: &ClassRow) -> Option<Oid> {
    let digits = row.name.as_deref()?.strip_prefix(b"pg_temp_")?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Oid::new)
}

/// Whether a record that begins with these bytes may be of a kind that facts are made of: a transaction's end, a
/// restore point, a change of settings. True where its header is not all there.
#[must_use]
pub fn may_matter(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..RecordHeader::SIZE) else { return true };
    let (Some(&info), Some(&manager)) = (header.get(16), header.get(17)) else { return true };
    match ResourceManager::new(manager) {
        // Not a preparation, an assignment or invalidations.
        ResourceManager::TRANSACTION => !matches!(info & 0x70, 0x10 | 0x50 | 0x60),
        // Not a page image, a used-up OID or nothing at all.
        ResourceManager::XLOG => !matches!(info & 0xF0, 0x20 | 0x30 | 0xA0 | 0xB0),
        _ => false,
    }
}
