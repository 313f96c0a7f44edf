//! What databases, schemas and relations were called, at any moment.
//!
//! WAL speaks of numbers. Names come from the name records of backups, and from rows of `pg_class` in the WAL. OIDs are
//! stable, files are not; and after a fork, two timelines may give the same number to different things. So every
//! name has a place, and counts from there on along the timelines that lead on from it.

use rustc_hash::FxHashMap;
use serde::{Serialize, Serializer};
use walden_pg::{Oid, TimelineId};

use super::paths::{Paths, Place};
use crate::index::events::{Event, EventKind};
use crate::layout::BackupId;

/// Where a name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamesFrom {
    /// The name record of a backup.
    Backup(BackupId),
    /// A row of `pg_class` in the WAL.
    Wal,
}

impl std::fmt::Display for NamesFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backup(id) => write!(f, "backup {id}"),
            Self::Wal => f.write_str("wal"),
        }
    }
}

impl Serialize for NamesFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a relation is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRelation {
    /// Its OID.
    pub relation: Oid,
    /// Its name.
    pub name: String,
    /// The OID of its schema.
    pub schema: Oid,
    /// The number of its files; 0 when it has none, or none of its own.
    pub file_number: u32,
    /// `relkind`, such as `r`.
    pub kind: char,
    /// Where this comes from.
    pub from: NamesFrom,
}

/// Things that were so from a place on.
#[derive(Debug)]
struct Timed<T>(Vec<(Place, T)>);

impl<T> Default for Timed<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Timed<T> {
    /// What was so at a place: the last before it on its path, else the first after it on a path that leads on from it.
    fn at(&self, place: Place, paths: &Paths) -> Option<&T> {
        let before =
            self.0.iter().filter(|(from, _)| from.lsn <= place.lsn && paths.leads_to(*from, place.timeline));
        let last = before.max_by_key(|(from, _)| from.lsn);
        let after = || {
            let after = self
                .0
                .iter()
                .filter(|(from, _)| from.lsn > place.lsn && paths.leads_to(place, from.timeline));
            after.min_by_key(|(from, _)| from.lsn)
        };
        last.or_else(after).map(|(_, thing)| thing)
    }

    /// What was so at a place, told before it.
    fn before(&self, place: Place, paths: &Paths) -> Option<&T> {
        let before =
            self.0.iter().filter(|(from, _)| from.lsn < place.lsn && paths.leads_to(*from, place.timeline));
        before.max_by_key(|(from, _)| from.lsn).map(|(_, thing)| thing)
    }
}

/// All names that are known.
#[derive(Debug)]
pub struct NameBook {
    paths: Paths,
    databases: FxHashMap<Oid, Timed<(String, NamesFrom)>>,
    schemas: FxHashMap<(Oid, Oid), Timed<String>>,
    relations: FxHashMap<(Oid, Oid), Timed<NamedRelation>>,
    /// The relation of a file. The tablespace is left out: a number is hardly ever in two of them.
    files: FxHashMap<(Oid, u32), Timed<Oid>>,
}

impl NameBook {
    /// An empty book.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self {
            paths,
            databases: FxHashMap::default(),
            schemas: FxHashMap::default(),
            relations: FxHashMap::default(),
            files: FxHashMap::default(),
        }
    }

    /// The timelines that it was made with.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// A database was called so.
    pub fn add_database(&mut self, from: Place, database: Oid, name: String, told_by: NamesFrom) {
        self.databases.entry(database).or_default().0.push((from, (name, told_by)));
    }

    /// A schema was called so.
    pub fn add_schema(&mut self, from: Place, database: Oid, schema: Oid, name: String) {
        self.schemas.entry((database, schema)).or_default().0.push((from, name));
    }

    /// A relation was called so. Relations that all databases share have database 0.
    pub fn add_relation(&mut self, from: Place, database: Oid, relation: NamedRelation) {
        if relation.file_number != 0 {
            let files = self.files.entry((database, relation.file_number)).or_default();
            files.0.push((from, relation.relation));
        }
        self.relations.entry((database, relation.relation)).or_default().0.push((from, relation));
    }

    /// Takes what an event tells of names and files; events come in the order of the WAL. `timeline` is that of the
    /// event's segment.
    pub fn add_event(&mut self, timeline: TimelineId, event: &Event) {
        let from = Place { timeline: self.paths.timeline_of(timeline, event.lsn), lsn: event.lsn };
        match &event.kind {
            EventKind::RelationNamed(named) if !is_transient(&named.name) => {
                let relation = NamedRelation {
                    relation: named.relation,
                    name: named.name.clone(),
                    schema: named.schema,
                    file_number: named.file_number,
                    kind: named.kind,
                    from: NamesFrom::Wal,
                };
                self.add_relation(from, named.database, relation);
            }
            EventKind::Transaction(transaction) => {
                for change in &transaction.changes {
                    let Some(new) = change.new_files else { continue };
                    let by_file = change
                        .files
                        .and_then(|old| self.relation_of_file(old.database, old.relation.get(), from));
                    if let Some(relation) = change.relation.or(by_file) {
                        let files = self.files.entry((new.database, new.relation.get())).or_default();
                        files.0.push((from, relation));
                    }
                }
            }
            _ => {}
        }
    }

    /// A database's name, or its number where that is not known.
    #[must_use]
    pub fn database(&self, database: Oid, at: Place) -> (String, Option<NamesFrom>) {
        match self.databases.get(&database).and_then(|names| names.at(at, &self.paths)) {
            Some((name, from)) => (name.clone(), Some(from.clone())),
            None if !database.is_valid() => ("shared by all databases".to_owned(), None),
            None => (format!("database {database}"), None),
        }
    }

    /// A schema's name.
    #[must_use]
    pub fn schema(&self, database: Oid, schema: Oid, at: Place) -> Option<&str> {
        // These are the same in every database.
        let known = match schema.get() {
            11 => Some("pg_catalog"),
            99 => Some("pg_toast"),
            2200 => Some("public"),
            _ => None,
        };
        let told = self.schemas.get(&(database, schema)).and_then(|names| names.at(at, &self.paths));
        told.map(String::as_str).or(known)
    }

    /// A relation by its OID.
    #[must_use]
    pub fn relation(&self, database: Oid, relation: Oid, at: Place) -> Option<&NamedRelation> {
        let names = self.relations.get(&(database, relation))?;
        // What the transaction itself called it comes after what it was called before.
        names.before(at, &self.paths).or_else(|| names.at(at, &self.paths))
    }

    /// The relation that had these files just before a place.
    #[must_use]
    pub fn relation_of_file(&self, database: Oid, file_number: u32, at: Place) -> Option<Oid> {
        let files = self.files.get(&(database, file_number))?;
        files.before(at, &self.paths).or_else(|| files.at(at, &self.paths)).copied()
    }
}

/// Whether a name is that of the transient relation that becomes a rewritten table's new files.
fn is_transient(name: &str) -> bool {
    let digits = name.strip_prefix("pg_temp_").unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}
