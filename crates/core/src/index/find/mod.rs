//! Looking for what happened: who dropped the table, and where to stop just before it.
//!
//! A [`FindQuery`] says which stretches of WAL may hold what is looked for, so that only those indexes need be read;
//! [`find`] then tells the events in them, with the names that relations had at that moment.

mod names;
mod paths;
mod query;
mod relations;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{Lsn, PgTimestamp, SegmentId, TimelineId, Xid};

pub use self::names::{NameBook, NamedRelation, NamesFrom};
pub use self::paths::{Paths, Place};
pub use self::query::{FindOperation, FindQuery, TablePattern};
use self::relations::{Named, relations_of};
use super::events::{Event, EventKind, NotableTransaction};
use super::segment_index::SegmentIndex;
use crate::recovery::{SegmentDetail, pg_time, timestamp};

/// How many commits are told on each side of a moment.
const AROUND: usize = 10;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundEvent {
    /// What.
    pub op: FindOperation,
    /// When: the commit time, or that of a restore point.
    pub time: Timestamp,
    /// Where its record begins. A recovery that stops before it (`--target-lsn`, `--target-exclusive`) undoes it.
    pub lsn: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// The transaction.
    pub xid: Option<Xid>,
    /// The database's name; `database <oid>` where it is not known.
    pub database: Option<String>,
    /// The schema's name, where it is known.
    pub schema: Option<String>,
    /// The table's name; `relation <oid>` or `file <number>` where it is not known.
    pub table: Option<String>,
    /// Rows, for mass changes.
    pub rows: Option<u64>,
    /// Whether there may have been more rows, in WAL that was not seen.
    pub rows_at_least: bool,
    /// The name of a restore point.
    pub name: Option<String>,
    /// Where the table's name comes from; `None` where it is not known.
    pub names_from: Option<NamesFrom>,
    /// Whether the position lies on the way to the newest timeline, so that no other need be asked for.
    pub on_newest: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// In the order of timelines and positions.
    pub events: Vec<FoundEvent>,
    /// Changes of relations that may be the one asked for, but whose names are not known.
    pub unnamed: u64,
    /// Transactions of which not all changes are known.
    pub incomplete: u64,
}

/// Finds what a query asks for in indexes and records. Where a segment stands twice, with and without its timeline's
/// fork, each event is told once.
#[must_use]
pub fn find<'a>(
    query: &FindQuery,
    indexes: impl IntoIterator<Item = (SegmentId, &'a SegmentIndex)>,
    details: impl IntoIterator<Item = &'a SegmentDetail>,
    book: &NameBook,
) -> Found {
    let mut finder = Finder { query, book, found: Found::default(), seen: BTreeSet::new() };
    for (segment, index) in indexes {
        for event in &index.events {
            finder.event(segment, event);
        }
    }
    finder.records(details);
    let mut found = finder.found;
    found.events.sort_by_key(|event| (event.timeline, event.lsn, event.op));
    found
}

struct Finder<'a> {
    query: &'a FindQuery,
    book: &'a NameBook,
    found: Found,
    seen: BTreeSet<(TimelineId, Lsn, FindOperation)>,
}

impl Finder<'_> {
    fn event(&mut self, segment: SegmentId, event: &Event) {
        let lsn = event.lsn;
        match &event.kind {
            EventKind::RestorePoint { name, time }
                if self.query.restore_point.as_ref().is_none_or(|wanted| wanted == name) =>
            {
                if let Some(found) = self.begin(segment, lsn, FindOperation::RestorePoint, *time, None) {
                    self.found.events.push(FoundEvent { name: Some(name.clone()), ..found });
                }
            }
            EventKind::DatabaseDropped { database, xid, time } if self.query.table.is_none() => {
                let op = FindOperation::DatabaseDrop;
                if let Some(found) = self.begin(segment, lsn, op, *time, Some(*xid)) {
                    let (database, from) = self.book.database(*database, self.place(segment, lsn));
                    let found = FoundEvent { database: Some(database), names_from: from, ..found };
                    self.found.events.push(found);
                }
            }
            EventKind::Transaction(transaction) => self.transaction(segment, lsn, transaction),
            _ => {}
        }
    }

    fn place(&self, segment: SegmentId, lsn: Lsn) -> Place {
        Place { timeline: self.book.paths().timeline_of(segment.timeline, lsn), lsn }
    }

    /// An event, if it is asked for and was not told yet.
    fn begin(
        &mut self,
        segment: SegmentId,
        lsn: Lsn,
        op: FindOperation,
        time: PgTimestamp,
        xid: Option<Xid>,
    ) -> Option<FoundEvent> {
        let place = self.place(segment, lsn);
        let wanted = self.query.wants(op, xid) && self.query.is_between(time);
        if !wanted || !self.seen.insert((place.timeline, lsn, op)) {
            return None;
        }
        Some(FoundEvent {
            op,
            time: timestamp(time),
            lsn,
            timeline: place.timeline,
            xid,
            database: None,
            schema: None,
            table: None,
            rows: None,
            rows_at_least: false,
            name: None,
            names_from: None,
            on_newest: self.book.paths().is_on_newest(place),
        })
    }

    fn transaction(&mut self, segment: SegmentId, lsn: Lsn, transaction: &NotableTransaction) {
        let place = self.place(segment, lsn);
        let mut begun: Vec<FoundEvent> = Vec::new();
        for named in relations_of(transaction, self.book, place) {
            let op = FindOperation::of(named.operation);
            let found = match begun.iter().find(|found| found.op == op) {
                Some(found) => found.clone(),
                None => match self.begin(segment, lsn, op, transaction.time, Some(transaction.xid)) {
                    Some(found) => {
                        self.found.incomplete += u64::from(transaction.left_out > 0 && begun.is_empty());
                        begun.push(found.clone());
                        found
                    }
                    None => continue,
                },
            };
            if let Some(found) = self.relation(found, &named, transaction) {
                self.found.events.push(found);
            }
        }
    }

    fn relation(
        &mut self,
        found: FoundEvent,
        named: &Named<'_>,
        transaction: &NotableTransaction,
    ) -> Option<FoundEvent> {
        if let Some(pattern) = &self.query.table {
            let Some(relation) = named.relation else {
                self.found.unnamed += 1;
                return None;
            };
            if !pattern.matches(&named.database, named.schema, &relation.name) {
                return None;
            }
        }
        let table = match (named.relation, named.oid, named.file) {
            (Some(relation), ..) => relation.name.clone(),
            (None, Some(oid), _) => format!("relation {oid}"),
            (None, None, Some(file)) => format!("file {file}"),
            (None, None, None) => return None,
        };
        let is_mass = matches!(found.op, FindOperation::MassDelete | FindOperation::MassUpdate);
        Some(FoundEvent {
            database: Some(named.database.clone()),
            schema: named.schema.map(str::to_owned),
            table: Some(table),
            rows: is_mass.then_some(named.rows),
            rows_at_least: is_mass && transaction.began_earlier,
            names_from: named.relation.map(|relation| relation.from.clone()),
            ..found
        })
    }

    /// Commits and aborts, which only the records themselves tell one by one.
    fn records<'a>(&mut self, details: impl IntoIterator<Item = &'a SegmentDetail>) {
        let mut ends: Vec<FoundEvent> = Vec::new();
        for detail in details {
            for end in &detail.ends {
                let op = if end.commit { FindOperation::Commit } else { FindOperation::Abort };
                ends.extend(self.begin(detail.segment, end.span.start, op, end.time, Some(end.xid)));
            }
        }
        if let Some(around) = self.query.around {
            ends.retain(|end| end.op == FindOperation::Commit);
            ends.sort_by_key(|end| (end.timeline, end.lsn));
            // Where a recovery to this time stops.
            let stop = ends.iter().position(|end| pg_time(end.time) > pg_time(around)).unwrap_or(ends.len());
            let first = stop.saturating_sub(AROUND);
            ends = ends.into_iter().skip(first).take(stop - first + AROUND).collect();
        }
        self.found.events.extend(ends);
    }
}

#[cfg(test)]
mod tests;
