//! The transactions that are under way, and what they have done that may be worth an event.

use rustc_hash::FxHashMap;
use walden_pg::{Lsn, Oid, RelFileLocator, RelFileNumber, Xid};

use super::events::RelationName;
use super::segment_index::{Carry, CreatedFiles, Filling, OpenTransaction, RowCounts};

/// So many transactions are followed at a time.
const OPEN_MAX: usize = 64 << 10;
/// So many of them are told to the next segment.
const CARRIED_MAX: usize = 4096;
/// So many entries of each kind are kept of one transaction.
const ENTRIES_MAX: usize = 16 << 10;
/// So many of each kind are told to the next segment.
const ENTRIES_CARRIED_MAX: usize = 2048;
/// So many names are kept of one transaction.
const NAMES_MAX: usize = 1024;
/// A transaction drops one database.
const DATABASES_MAX: usize = 16;
/// Of a transaction that ended, no more memory than this is used again.
const KEPT_CAPACITY: usize = 64;

/// What to count for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    Deleted,
    Updated,
}

#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: Vec<OpenTransaction>,
    by_xid: FxHashMap<Xid, u32>,
    free: Vec<u32>,
    /// The transaction that was asked for last, and its place.
    last: Option<(Xid, u32)>,
    /// How many created files are in [`Self::open`], of transactions under way or not: with none, nobody asks how they
    /// were filled.
    created: usize,
    left_out: u32,
    complete_from: Option<Xid>,
}

/// Whether `a` is before `b`, as far as ids that wrap around tell (`TransactionIdPrecedes`).
fn precedes(a: Xid, b: Xid) -> bool {
    a.get().wrapping_sub(b.get()).cast_signed() < 0
}

impl Transactions {
    pub(super) fn resumed(carry: &Carry) -> Self {
        let mut transactions = Self { left_out: 0, complete_from: carry.complete_from, ..Self::default() };
        if carry.open_left_out > 0 {
            transactions.complete_from = None;
        }
        for transaction in carry.open.iter().take(OPEN_MAX) {
            let Ok(place) = u32::try_from(transactions.open.len()) else { break };
            transactions.created += transaction.created.len();
            transactions.by_xid.insert(transaction.xid, place);
            transactions.open.push(transaction.clone());
        }
        transactions
    }

    /// Whether all of a transaction was seen.
    pub(super) fn is_complete(&self, xid: Xid) -> bool {
        self.complete_from.is_some_and(|from| !precedes(xid, from))
    }

    /// WAL was not seen: of no transaction it is known any more whether all of it was.
    pub(super) fn gap(&mut self) {
        self.complete_from = None;
    }

    /// A moment at which this was the next id.
    pub(super) fn next_xid(&mut self, next: Xid) {
        self.complete_from.get_or_insert(next);
    }

    /// Forgets the transactions that ended without a word: those before the oldest one that is running.
    pub(super) fn running_from(&mut self, oldest: Xid) {
        let gone: Vec<Xid> = self.by_xid.keys().copied().filter(|xid| precedes(*xid, oldest)).collect();
        for xid in gone {
            self.forget(xid);
        }
    }

    /// The server stopped: only prepared transactions go on.
    pub(super) fn server_ended(&mut self) {
        let Self { by_xid, open, .. } = self;
        let is_prepared =
            |place: &u32| open.get(*place as usize).is_some_and(|transaction| transaction.prepared);
        let gone: Vec<Xid> =
            by_xid.iter().filter(|(_, place)| !is_prepared(place)).map(|(xid, _)| *xid).collect();
        for xid in gone {
            self.forget(xid);
        }
    }

    /// A transaction, noted from now on if it was not yet; `None` for id 0 and when too many are noted.
    #[inline]
    fn at(&mut self, xid: Xid) -> Option<&mut OpenTransaction> {
        let place = match self.last {
            Some((last, place)) if last == xid => place,
            _ => self.place(xid)?,
        };
        self.open.get_mut(place as usize)
    }

    fn place(&mut self, xid: Xid) -> Option<u32> {
        if !xid.is_valid() {
            return None;
        }
        let place = match self.by_xid.get(&xid) {
            Some(place) => *place,
            None => {
                if self.by_xid.len() >= OPEN_MAX {
                    self.left_out = self.left_out.saturating_add(1);
                    self.complete_from = None;
                    return None;
                }
                let place = match self.free.pop() {
                    Some(place) => place,
                    None => {
                        self.open.push(OpenTransaction::default());
                        u32::try_from(self.open.len() - 1).ok()?
                    }
                };
                self.open.get_mut(place as usize)?.xid = xid;
                self.by_xid.insert(xid, place);
                place
            }
        };
        self.last = Some((xid, place));
        Some(place)
    }

    /// A transaction deleted or updated a row.
    #[inline]
    pub(super) fn row(&mut self, xid: Xid, files: RelFileLocator, kind: RowKind) {
        let Some(counts) = self.at(xid).and_then(|transaction| transaction.counts(files)) else { return };
        match kind {
            RowKind::Deleted => counts.deleted = counts.deleted.saturating_add(1),
            RowKind::Updated => counts.updated = counts.updated.saturating_add(1),
        }
    }

    /// It wrote rows of `pg_class`: 0 for an insertion, 1 for an update, 2 for a deletion.
    pub(super) fn class_row(&mut self, xid: Xid, kind: usize) {
        let count = self.at(xid).and_then(|transaction| transaction.class_rows.get_mut(kind));
        if let Some(count) = count {
            *count = count.saturating_add(1);
        }
    }

    /// It took an access-exclusive lock.
    pub(super) fn locked(&mut self, xid: Xid, relation: Oid) {
        let Some(transaction) = self.at(xid) else { return };
        if !transaction.locked.iter().rev().take(64).any(|locked| *locked == relation) {
            push(&mut transaction.locked, relation, ENTRIES_MAX, &mut transaction.left_out);
        }
    }

    /// It truncated a relation, as the WAL itself says.
    pub(super) fn truncated(&mut self, xid: Xid, relation: Oid) {
        if let Some(transaction) = self.at(xid) {
            push(&mut transaction.truncated, relation, ENTRIES_MAX, &mut transaction.left_out);
        }
    }

    /// It created a relation's files.
    pub(super) fn created(&mut self, xid: Xid, files: RelFileLocator, lsn: Lsn) {
        let Some(transaction) = self.at(xid) else { return };
        let created = CreatedFiles { files, lsn, filling: Filling::Unknown };
        push(&mut transaction.created, created, ENTRIES_MAX, &mut transaction.left_out);
        self.created += 1;
    }

    /// Files were filled, if they are new ones.
    #[inline]
    pub(super) fn filled(&mut self, xid: Xid, files: RelFileLocator, filling: Filling) {
        if self.created == 0 || !self.by_xid.contains_key(&xid) {
            return;
        }
        let Some(transaction) = self.at(xid) else { return };
        // What is filled was mostly created last.
        if let Some(created) = transaction.created.iter_mut().rev().find(|created| created.files == files) {
            created.filling = created.filling.max(filling);
        }
    }

    /// It made a relation.
    pub(super) fn made(&mut self, xid: Xid, relation: Oid) {
        if let Some(transaction) = self.at(xid) {
            push(&mut transaction.made, relation, ENTRIES_MAX, &mut transaction.left_out);
        }
    }

    /// It gave a relation files.
    pub(super) fn moved(&mut self, xid: Xid, relation: Oid, files: RelFileNumber) {
        if let Some(transaction) = self.at(xid) {
            push(&mut transaction.moved, (relation, files), ENTRIES_MAX, &mut transaction.left_out);
        }
    }

    /// It made a transient relation, whose files are to be another one's.
    pub(super) fn rewritten(&mut self, xid: Xid, relation: Oid, files: RelFileNumber) {
        if let Some(transaction) = self.at(xid) {
            push(&mut transaction.rewritten, (relation, files), ENTRIES_MAX, &mut transaction.left_out);
        }
    }

    /// It removed a database's files.
    pub(super) fn database_dropped(&mut self, xid: Xid, database: Oid, record: (Lsn, Lsn)) {
        if let Some(transaction) = self.at(xid) {
            let entry = (database, record.0, record.1);
            push(&mut transaction.databases, entry, DATABASES_MAX, &mut transaction.left_out);
        }
    }

    /// It called a relation something.
    pub(super) fn named(&mut self, name: RelationName) {
        let Some(transaction) = self.at(name.xid) else { return };
        // A row is often written several times, such as when an index is added.
        let same = |known: &RelationName| known.relation == name.relation && known.database == name.database;
        match transaction.names.iter_mut().rev().take(8).find(|known| same(known)) {
            Some(known) => *known = name,
            None => push(&mut transaction.names, name, NAMES_MAX, &mut transaction.left_out),
        }
    }

    /// It was prepared for a two-phase commit.
    pub(super) fn prepared(&mut self, xid: Xid) {
        if let Some(place) = self.by_xid.get(&xid)
            && let Some(transaction) = self.open.get_mut(*place as usize)
        {
            transaction.prepared = true;
        }
    }

    /// Forgets a transaction that ended if nothing that is known of it is worth an event. False if something may be.
    #[inline]
    pub(super) fn end_if_dull(&mut self, xid: Xid, mass_change_rows: u64) -> bool {
        let Some(place) = self.by_xid.get(&xid) else { return true };
        let transaction = self.open.get(*place as usize);
        if transaction.is_some_and(|transaction| transaction.is_worth_it(mass_change_rows)) {
            return false;
        }
        self.forget(xid);
        true
    }

    /// A transaction ended: gives what is known of it to `then`, and forgets it.
    #[inline]
    pub(super) fn end<T>(&mut self, xid: Xid, then: impl FnOnce(&mut OpenTransaction) -> T) -> Option<T> {
        let place = self.by_xid.remove(&xid)?;
        self.last = None;
        let transaction = self.open.get_mut(place as usize)?;
        self.created = self.created.saturating_sub(transaction.created.len());
        let result = then(transaction);
        clear(transaction);
        self.free.push(place);
        Some(result)
    }

    /// A transaction ended in vain.
    pub(super) fn forget(&mut self, xid: Xid) {
        self.end(xid, |_| ());
    }

    /// What the next segment's indexer must know of them.
    pub(super) fn carry(mut self, carry: &mut Carry) {
        let mut places: Vec<u32> = self.by_xid.values().copied().collect();
        carry.open_left_out = self.left_out;
        if places.len() > CARRIED_MAX {
            let weight = |place: &u32| self.open.get(*place as usize).map(weight);
            places.sort_unstable_by_key(|place| std::cmp::Reverse(weight(place)));
            let left_out = u32::try_from(places.len() - CARRIED_MAX).unwrap_or(u32::MAX);
            carry.open_left_out = carry.open_left_out.saturating_add(left_out);
            places.truncate(CARRIED_MAX);
        }
        carry.complete_from = self.complete_from;
        for place in places {
            if let Some(transaction) = self.open.get_mut(place as usize) {
                let mut transaction = std::mem::take(transaction);
                shorten(&mut transaction);
                carry.open.push(transaction);
            }
        }
        carry.open.sort_unstable_by_key(|transaction| transaction.xid);
    }
}

fn push<T>(list: &mut Vec<T>, value: T, max: usize, left_out: &mut bool) {
    if list.len() < max {
        list.push(value);
    } else {
        *left_out = true;
    }
}

/// How much it would be missed.
fn weight(transaction: &OpenTransaction) -> (bool, u64) {
    let OpenTransaction { prepared, locked, created, class_rows, rows, .. } = transaction;
    let notable =
        *prepared || !locked.is_empty() || !created.is_empty() || class_rows.iter().any(|rows| *rows > 0);
    (
        notable,
        rows.iter().map(|counts| counts.deleted.saturating_add(counts.updated)).fold(0, u64::saturating_add),
    )
}

/// Cuts what goes over to the next segment to its bounds.
fn shorten(transaction: &mut OpenTransaction) {
    let OpenTransaction { rows, locked, truncated, created, made, moved, rewritten, left_out, .. } =
        transaction;
    let longest =
        [rows.len(), locked.len(), truncated.len(), created.len(), made.len(), moved.len(), rewritten.len()];
    *left_out |= longest.iter().any(|length| *length > ENTRIES_CARRIED_MAX);
    // The largest counts are kept; the place of the others is sorted again.
    if rows.len() > ENTRIES_CARRIED_MAX {
        rows.sort_unstable_by_key(|counts| std::cmp::Reverse(counts.deleted.saturating_add(counts.updated)));
        rows.truncate(ENTRIES_CARRIED_MAX);
        if let Some(sorted) = rows.get_mut(UNSORTED..) {
            sorted.sort_unstable_by_key(|counts| counts.files);
        }
    }
    locked.truncate(ENTRIES_CARRIED_MAX);
    truncated.truncate(ENTRIES_CARRIED_MAX);
    created.truncate(ENTRIES_CARRIED_MAX);
    made.truncate(ENTRIES_CARRIED_MAX);
    moved.truncate(ENTRIES_CARRIED_MAX);
    rewritten.truncate(ENTRIES_CARRIED_MAX);
}

/// Makes it a new one, with memory that can be used again.
fn clear(transaction: &mut OpenTransaction) {
    let rows = std::mem::take(&mut transaction.rows);
    if transaction.has_notes() {
        *transaction = OpenTransaction::default();
    }
    if rows.capacity() <= KEPT_CAPACITY {
        transaction.rows = rows;
        transaction.rows.clear();
    }
}

/// So many relations are looked through one by one; those behind them are sorted.
const UNSORTED: usize = 8;

impl OpenTransaction {
    /// The counts of a relation; `None` when there are too many.
    #[inline]
    fn counts(&mut self, files: RelFileLocator) -> Option<&mut RowCounts> {
        let known = self.rows.iter().take(UNSORTED).position(|counts| counts.files == files);
        let place = match known {
            Some(place) => place,
            None if self.rows.len() < UNSORTED => {
                self.rows.push(RowCounts { files, deleted: 0, updated: 0 });
                return self.rows.last_mut();
            }
            None => self.more_counts(files)?,
        };
        self.rows.get_mut(place)
    }

    /// The place of a relation that is not among the first few.
    #[cold]
    fn more_counts(&mut self, files: RelFileLocator) -> Option<usize> {
        let sorted = self.rows.get(UNSORTED..).unwrap_or_default();
        match sorted.binary_search_by_key(&files, |counts| counts.files) {
            Ok(found) => Some(found + UNSORTED),
            Err(_) if self.rows.len() >= ENTRIES_MAX => {
                self.left_out = true;
                None
            }
            Err(place) => {
                let place = place + UNSORTED;
                self.rows.insert(place, RowCounts { files, deleted: 0, updated: 0 });
                Some(place)
            }
        }
    }

    /// Whether it did anything but change rows.
    pub(super) fn has_notes(&self) -> bool {
        self.prepared
            || self.left_out
            || self.class_rows.iter().any(|rows| *rows > 0)
            || !(self.locked.is_empty()
                && self.truncated.is_empty()
                && self.created.is_empty()
                && self.made.is_empty()
                && self.moved.is_empty()
                && self.rewritten.is_empty()
                && self.databases.is_empty()
                && self.names.is_empty())
    }

    /// Whether its commit alone may be worth an event.
    #[inline]
    pub(super) fn is_worth_it(&self, mass_change_rows: u64) -> bool {
        self.class_rows[2] > 0
            || !self.truncated.is_empty()
            || !self.names.is_empty()
            || !self.databases.is_empty()
            || self.rows.iter().any(|rows| rows.deleted.max(rows.updated) >= mass_change_rows)
    }

    /// Takes over what a subtransaction did.
    pub(super) fn absorb(&mut self, other: &mut Self) {
        for counts in &other.rows {
            if let Some(own) = self.counts(counts.files) {
                own.deleted = own.deleted.saturating_add(counts.deleted);
                own.updated = own.updated.saturating_add(counts.updated);
            }
        }
        self.locked.append(&mut other.locked);
        self.truncated.append(&mut other.truncated);
        self.created.append(&mut other.created);
        self.made.append(&mut other.made);
        self.moved.append(&mut other.moved);
        self.rewritten.append(&mut other.rewritten);
        self.names.append(&mut other.names);
        self.databases.append(&mut other.databases);
        for (own, others) in self.class_rows.iter_mut().zip(other.class_rows) {
            *own = own.saturating_add(others);
        }
        self.left_out |= other.left_out;
    }
}
