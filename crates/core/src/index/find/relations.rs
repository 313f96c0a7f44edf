//! The relations that a transaction changed, with their names, and without what no one asks for.

use std::collections::BTreeSet;

use walden_pg::Oid;

use super::names::{NameBook, NamedRelation};
use super::paths::Place;
use crate::index::events::{NotableTransaction, RelationChange, RelationOperation};

/// A relation that was changed, as far as it is known.
#[derive(Debug, Clone)]
pub(super) struct Named<'a> {
    pub(super) operation: RelationOperation,
    pub(super) oid: Option<Oid>,
    pub(super) file: Option<u32>,
    pub(super) database: String,
    pub(super) schema: Option<&'a str>,
    pub(super) relation: Option<&'a NamedRelation>,
    pub(super) rows: u64,
}

/// The tables, views and the like that a transaction changed, each once for each operation.
///
/// Their indexes, TOAST tables and sequences are left out. So are relations without a name, where a table with one was
/// changed in the same way: they are most likely its own.
pub(super) fn relations_of<'a>(
    transaction: &NotableTransaction,
    book: &'a NameBook,
    place: Place,
) -> Vec<Named<'a>> {
    let all_files_told = transaction.left_out == 0
        && !transaction
            .changes
            .iter()
            .any(|change| change.operation == RelationOperation::Drop && change.relation.is_none());
    let mut named: Vec<Named<'a>> = Vec::new();
    let mut seen = BTreeSet::new();
    for change in &transaction.changes {
        let one = name(change, transaction, book, place);
        let is_new = one.oid.is_none_or(|oid| seen.insert((one.operation, oid)));
        if is_new
            && one.relation.is_none_or(|relation| is_table(relation.kind))
            && !(one.operation == RelationOperation::Drop && is_temporary(&one, all_files_told))
        {
            named.push(one);
        }
    }
    let with_name: BTreeSet<RelationOperation> =
        named.iter().filter(|one| one.relation.is_some()).map(|one| one.operation).collect();
    named.retain(|one| {
        let is_replaced = matches!(one.operation, RelationOperation::Truncate | RelationOperation::Rewrite);
        one.relation.is_some() || !is_replaced || !with_name.contains(&one.operation)
    });
    named
}

fn name<'a>(
    change: &RelationChange,
    transaction: &NotableTransaction,
    book: &'a NameBook,
    place: Place,
) -> Named<'a> {
    let files = change.files.or(change.new_files);
    let database = files.map(|files| files.database).or(transaction.database).unwrap_or_default();
    let by_file =
        || change.files.and_then(|files| book.relation_of_file(files.database, files.relation.get(), place));
    let oid = change.relation.or_else(by_file);
    let relation = oid.and_then(|oid| book.relation(database, oid, place));
    Named {
        operation: change.operation,
        oid,
        file: files.map(|files| files.relation.get()),
        database: book.database(database, place).0,
        schema: relation.and_then(|relation| book.schema(database, relation.schema, place)),
        relation,
        rows: change.rows,
    }
}

/// Tables, partitioned tables, views, materialized views and foreign tables.
fn is_table(kind: char) -> bool {
    matches!(kind, 'r' | 'p' | 'v' | 'm' | 'f')
}

/// Whether a dropped relation is one that a session drops when it ends. The files of these are not told; of a table
/// they would be.
fn is_temporary(named: &Named<'_>, all_files_told: bool) -> bool {
    let has_no_files =
        named.file.is_none() && named.relation.is_some_and(|relation| matches!(relation.kind, 'r' | 'm'));
    (all_files_told && has_no_files) || named.schema.is_some_and(|schema| schema.starts_with("pg_temp_"))
}
