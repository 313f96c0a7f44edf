//! What a committed transaction did to whole relations: dropped, truncated, rewritten, much of it changed.
//!
//! PostgreSQL writes no "DROP TABLE" to the WAL. But a commit lists the files that it deletes, from 15 on the
//! relations whose statistics it drops, and what other sessions must forget; and the transaction's records tell which
//! files it created, which rows of `pg_class` it wrote and which relations it locked. Together these tell one
//! statement from the other (`src/backend/catalog/{heap.c,index.c,storage.c}`, `src/backend/commands/cluster.c`):
//!
//! | statement | files deleted | files created | relations dropped |
//! |---|---|---|---|
//! | DROP | the old ones | none | the relation and all that belongs to it |
//! | TRUNCATE | the old ones | new ones, which stay empty | none |
//! | VACUUM FULL and the like | the old ones | those of a transient relation | the transient relation |
//! | REINDEX | the old ones | new ones, filled with pages | none |

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};
use walden_pg::wal::decode::{DroppedObject, Invalidation, TransactionEnd};
use walden_pg::{Oid, PgMajor, RelFileLocator, RelFileNumber};

use super::events::{RelationChange, RelationOperation};
use super::segment_index::{CreatedFiles, Filling, OpenTransaction};

/// So many changes are told of one transaction.
const CHANGES_MAX: usize = 1024;

/// What a commit and its transaction tell together.
struct Evidence<'a> {
    transaction: &'a OpenTransaction,
    /// Files that were there before and are deleted, in the order in which this was decided.
    deleted: Vec<RelFileLocator>,
    /// Files that were created and stay, in that order.
    created: Vec<CreatedFiles>,
    /// Relations that it made.
    made: FxHashSet<Oid>,
    /// Relations that were there before and are dropped, in that order.
    dropped: Vec<Oid>,
    /// Whether that order is known.
    in_order: bool,
    /// The files of transient relations, which became other relations' files.
    transient: FxHashSet<RelFileNumber>,
    locked: FxHashSet<Oid>,
    /// The relation that files were given to.
    owner: FxHashMap<RelFileNumber, Oid>,
}

/// The changes of a transaction that committed, and how many more there are.
pub(super) fn changes(
    major: PgMajor,
    transaction: &OpenTransaction,
    end: &TransactionEnd<'_>,
    mass_change_rows: u64,
) -> (Vec<RelationChange>, u32) {
    let mut changes = Vec::new();
    let has_storage_changes = !end.deleted_files.is_empty()
        || !end.dropped.is_empty()
        || !transaction.truncated.is_empty()
        || transaction.class_rows[2] > 0;
    if has_storage_changes {
        let evidence = Evidence::new(major, transaction, end);
        evidence.drops(&mut changes);
        evidence.replacements(&mut changes);
    }
    mass_changes(transaction, mass_change_rows, &mut changes);
    let left_out = changes.len().saturating_sub(CHANGES_MAX);
    changes.truncate(CHANGES_MAX);
    (changes, u32::try_from(left_out).unwrap_or(u32::MAX).saturating_add(u32::from(transaction.left_out)))
}

fn mass_changes(transaction: &OpenTransaction, threshold: u64, changes: &mut Vec<RelationChange>) {
    for counts in &transaction.rows {
        let kinds = [
            (RelationOperation::MassDelete, counts.deleted),
            (RelationOperation::MassUpdate, counts.updated),
        ];
        for (operation, rows) in kinds.into_iter().filter(|(_, rows)| *rows >= threshold.max(1)) {
            let files = Some(counts.files);
            changes.push(RelationChange { operation, relation: None, files, new_files: None, rows });
        }
    }
}

fn change(
    operation: RelationOperation,
    relation: Option<Oid>,
    files: Option<RelFileLocator>,
    new_files: Option<RelFileLocator>,
) -> RelationChange {
    RelationChange { operation, relation, files, new_files, rows: 0 }
}

impl<'a> Evidence<'a> {
    fn new(major: PgMajor, transaction: &'a OpenTransaction, end: &TransactionEnd<'_>) -> Self {
        let mut created = transaction.created.clone();
        created.sort_unstable_by_key(|created| created.lsn);
        let own: FxHashSet<RelFileLocator> = created.iter().map(|created| created.files).collect();
        let gone: FxHashSet<RelFileLocator> = end.deleted_files.iter().collect();
        // The server lists what it decided on last first.
        let mut deleted: Vec<_> = end.deleted_files.iter().filter(|files| !own.contains(files)).collect();
        deleted.reverse();
        let mut made: FxHashSet<Oid> = transaction.made.iter().copied().collect();
        // A new relation's first files have its own number.
        made.extend(created.iter().map(|created| Oid::new(created.files.relation.get())));
        created.retain(|created| !gone.contains(&created.files));
        let locked = transaction.locked.iter().copied().collect();
        let tells_dropped = major >= PgMajor::V15;
        let deleted_rows = transaction.class_rows[2] as usize;
        let dropped: Vec<Oid> = if tells_dropped {
            let relations = end.dropped.iter().filter(DroppedObject::is_relation);
            relations.filter_map(|object| u32::try_from(object.object).ok().map(Oid::new)).collect()
        } else {
            // The transient relation of a rewrite is deleted, too.
            let deleted_rows = deleted_rows.saturating_sub(transaction.rewritten.len());
            dropped_by_invalidations(end, &locked, &made, deleted_rows)
        };
        let (in_vain, dropped): (Vec<Oid>, Vec<Oid>) =
            dropped.into_iter().partition(|oid| made.contains(oid));
        let mut transient: FxHashSet<RelFileNumber> =
            transaction.rewritten.iter().map(|(_, files)| *files).collect();
        if tells_dropped {
            // Made and dropped, but its files stay: they became another relation's.
            let in_vain: FxHashSet<u32> = in_vain.into_iter().map(Oid::get).collect();
            let stay = created.iter().map(|created| created.files.relation);
            transient.extend(stay.filter(|number| in_vain.contains(&number.get())));
        }
        let owner = transaction.moved.iter().chain(&transaction.rewritten);
        Self {
            transient,
            owner: owner.map(|(relation, files)| (*files, *relation)).collect(),
            transaction,
            deleted,
            created,
            made,
            dropped,
            in_order: tells_dropped,
            locked,
        }
    }

    /// Dropped relations with their files, as far as these are known to be theirs.
    fn drops(&self, changes: &mut Vec<RelationChange>) {
        let mut files: VecDeque<RelFileLocator> = self.deleted.iter().copied().collect();
        let by_number: FxHashMap<u32, RelFileLocator> =
            files.iter().map(|files| (files.relation.get(), *files)).collect();
        let owned = |oid: &Oid| by_number.get(&oid.get()).copied();
        let dropped: FxHashSet<u32> = self.dropped.iter().map(|oid| oid.get()).collect();
        files.retain(|files| !dropped.contains(&files.relation.get()));
        let unpaired = self.dropped.iter().filter(|oid| owned(oid).is_none()).count();
        let nothing_new = self.replacing().next().is_none();
        // Both lists are in the order of the drops.
        let in_order = nothing_new && unpaired == files.len() && (self.in_order || unpaired == 1);
        for oid in &self.dropped {
            let files = owned(oid).or_else(|| if in_order { files.pop_front() } else { None });
            changes.push(change(RelationOperation::Drop, Some(*oid), files, None));
        }
        if nothing_new {
            let rest = files.into_iter();
            changes.extend(rest.map(|files| change(RelationOperation::Drop, None, Some(files), None)));
        }
    }

    /// New files of relations that were there before.
    fn replacing(&self) -> impl Iterator<Item = &CreatedFiles> {
        self.created.iter().filter(|created| {
            let number = created.files.relation;
            self.transient.contains(&number) || !self.transaction.made.contains(&Oid::new(number.get()))
        })
    }

    /// Truncated and rewritten relations.
    fn replacements(&self, changes: &mut Vec<RelationChange>) {
        let first = changes.len();
        let dropped: FxHashSet<u32> = self.dropped.iter().map(|oid| oid.get()).collect();
        let old: Vec<RelFileLocator> =
            self.deleted.iter().filter(|files| !dropped.contains(&files.relation.get())).copied().collect();
        let new: Vec<CreatedFiles> = self.replacing().copied().collect();
        if !new.is_empty() && !old.is_empty() {
            if self.transient.is_empty() && old.len() == new.len() {
                let pairs = old.iter().zip(&new).filter(|(_, new)| new.filling != Filling::Sequence);
                changes.extend(pairs.map(|(old, new)| self.replacement(Some(*old), Some(*new))));
            } else {
                changes.extend(old.iter().map(|old| self.replacement(Some(*old), None)));
                let new = new.iter().filter(|new| new.filling != Filling::Sequence);
                changes.extend(new.map(|new| self.replacement(None, Some(*new))));
            }
        }
        let told: FxHashSet<Oid> =
            changes.get(first..).unwrap_or_default().iter().filter_map(|change| change.relation).collect();
        for relation in &self.transaction.truncated {
            if !told.contains(relation) {
                changes.push(change(RelationOperation::Truncate, Some(*relation), None, None));
            }
        }
        self.name_first(first, changes);
    }

    fn replacement(&self, old: Option<RelFileLocator>, new: Option<CreatedFiles>) -> RelationChange {
        let is_moved = match (old, new) {
            (Some(old), Some(new)) => old.tablespace != new.files.tablespace,
            _ => false,
        };
        let is_filled = new.is_some_and(|new| new.filling == Filling::Pages);
        let operation = if !self.transient.is_empty() || is_moved || is_filled {
            RelationOperation::Rewrite
        } else {
            RelationOperation::Truncate
        };
        // A relation that was never rewritten has files of its own number.
        let by_number = old.map(|old| Oid::new(old.relation.get())).filter(|oid| self.locked.contains(oid));
        let by_row = new.and_then(|new| self.owner.get(&new.files.relation).copied());
        change(operation, by_row.or(by_number), old, new.map(|new| new.files))
    }

    /// When no relation among the changes from `first` on is known, the one that was locked first is one of them.
    fn name_first(&self, first: usize, changes: &mut Vec<RelationChange>) {
        let Some(own) = changes.get(first..).filter(|own| !own.is_empty()) else { return };
        if own.iter().any(|change| change.relation.is_some()) {
            return;
        }
        let operation =
            own.iter().map(|change| change.operation).max().unwrap_or(RelationOperation::Truncate);
        let dropped: FxHashSet<Oid> = self.dropped.iter().copied().collect();
        let mut locked = self.transaction.locked.iter();
        if let Some(relation) = locked.find(|oid| !self.made.contains(oid) && !dropped.contains(oid)) {
            changes.push(change(operation, Some(*relation), None, None));
        }
    }
}

/// The relations that a commit of 13 or 14 drops, and those that it makes: relations that it locked and of which it
/// wrote a system column's catalog entry. Indexes and views have none of these; they count by their first column if
/// the number of rows deleted from `pg_class` agrees.
fn dropped_by_invalidations(
    end: &TransactionEnd<'_>,
    locked: &FxHashSet<Oid>,
    made: &FxHashSet<Oid>,
    deleted_rows: usize,
) -> Vec<Oid> {
    let mut hashes = FxHashSet::default();
    let mut seen = FxHashSet::default();
    let mut relations = Vec::new();
    for invalidation in end.invalidations.iter() {
        match invalidation {
            Invalidation::CatalogCache { hash, .. } => {
                hashes.insert(hash);
            }
            Invalidation::Relation { relation, .. }
                if locked.contains(&relation) && seen.insert(relation) =>
            {
                relations.push(relation);
            }
            _ => {}
        }
    }
    let has = |relation: &Oid, column| hashes.contains(&column_hash(*relation, column));
    let all: Vec<Oid> =
        relations.iter().copied().filter(|relation| has(relation, -1) || has(relation, 1)).collect();
    if all.iter().filter(|relation| !made.contains(relation)).count() <= deleted_rows {
        return all;
    }
    relations.retain(|relation| has(relation, -1));
    relations
}

/// The hash by which the catalog cache of columns finds a column (`CatalogCacheComputeHashValue` in
/// `src/backend/utils/cache/catcache.c`).
fn column_hash(relation: Oid, column: i16) -> u32 {
    murmur(relation.get()) ^ murmur(i32::from(column).cast_unsigned()).rotate_left(8)
}

/// `murmurhash32` of `src/include/common/hashfn.h`.
const fn murmur(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85EB_CA6B);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xC2B2_AE35);
    hash ^ hash >> 16
}
