//! The names that things had: from the name records of backups, and from what the WAL says since.

use std::collections::BTreeSet;

use walden_core::index::WalFlags;
use walden_core::index::find::{FindQuery, NameBook, NamedRelation, NamesFrom, Place, find as find_in};
use walden_core::{BackupRecord, sha256_hex};
use walden_pg::{Oid, SegmentNumber};
use walden_store::{Expected, StoreError};

use super::Finder;
use crate::backup::NameEntry;
use crate::error::Result;

/// So many backups' name records are read at most, the newest ones.
const BACKUPS_MAX: usize = 8;
/// Plain bytes of a name record that are read at most: some two million relations.
const RECORD_BYTES_MAX: u64 = 512 << 20;
/// So many indexes are read for names at most.
const INDEXES_MAX: usize = 1024;

impl Finder<'_> {
    /// The names of what the events found so far speak of.
    pub(super) async fn name_book(&mut self, query: &FindQuery) -> Result<NameBook> {
        let mut book = NameBook::new(self.paths());
        if !query.needs_names() {
            return Ok(book);
        }
        // Which of them are asked for by name is not known before there are names.
        let nameless = FindQuery { table: None, ..query.clone() };
        let indexes = self.indexes.iter().map(|(id, index)| (*id, index));
        let found = find_in(&nameless, indexes, [], &book);
        let places: BTreeSet<Place> = found
            .events
            .iter()
            .filter(|event| event.database.is_some() && (query.table.is_none() || event.table.is_some()))
            .map(|event| Place { timeline: event.timeline, lsn: event.lsn })
            .collect();
        let Some(last) = places.iter().map(|place| place.lsn).max() else { return Ok(book) };
        let backups = self.backups_for(&places);
        let size = self.snapshot.incarnation.segment_size;
        let before: BTreeSet<_> = backups.iter().map(|backup| backup.start_lsn).collect();
        let first_place = places.iter().map(|place| place.lsn).min().unwrap_or(last);
        let from = before.range(..=first_place).next_back().copied();
        for backup in &backups {
            self.read_names(backup, &mut book).await?;
        }
        let from = from.map_or(SegmentNumber::new(0), |lsn| size.segment_of(lsn));
        self.read_names_in_wal(from, size.segment_of(last)).await?;
        for (id, index) in &self.indexes {
            index.events.iter().for_each(|event| book.add_event(id.timeline, event));
        }
        Ok(book)
    }

    /// For each place the newest backup before it that tells names, else the oldest one after it.
    fn backups_for(&mut self, places: &BTreeSet<Place>) -> Vec<BackupRecord> {
        let paths = self.paths();
        let told = || self.snapshot.backups.iter().filter(|backup| backup.names.is_some());
        let mut chosen = BTreeSet::new();
        for place in places {
            let start = |backup: &BackupRecord| Place { timeline: backup.timeline, lsn: backup.start_lsn };
            let before = told()
                .filter(|backup| {
                    backup.start_lsn <= place.lsn && paths.leads_to(start(backup), place.timeline)
                })
                .max_by_key(|backup| backup.start_lsn);
            let after = || {
                told()
                    .filter(|backup| backup.start_lsn > place.lsn && paths.leads_to(*place, backup.timeline))
                    .min_by_key(|backup| backup.start_lsn)
            };
            chosen.extend(before.or_else(after).map(|backup| backup.id.clone()));
        }
        let mut backups: Vec<BackupRecord> =
            told().filter(|backup| chosen.contains(&backup.id)).cloned().collect();
        if backups.is_empty() {
            self.notes.push("no backup has a record of names: only the WAL tells some".to_owned());
        }
        if backups.len() > BACKUPS_MAX {
            self.notes.push(format!(
                "names are those of the newest {BACKUPS_MAX} of {} backups: narrow it with --between",
                backups.len()
            ));
            backups = backups.split_off(backups.len() - BACKUPS_MAX);
        }
        backups
    }

    /// Reads the name record of a backup. One that is damaged is told of, and done without.
    async fn read_names(&mut self, backup: &BackupRecord, book: &mut NameBook) -> Result<()> {
        let Some(reference) = &backup.names else { return Ok(()) };
        let layout = self.ctx.layout().incarnation(self.snapshot.incarnation.incarnation());
        let key = layout.backup(&backup.id).names();
        let expected = Expected { name: "names.zst", max_plain_bytes: RECORD_BYTES_MAX };
        let budget = self.ctx.budget_for(reference.object_bytes);
        let plain = match self.ctx.store.fetch_sealed(&key, expected, || Ok(Vec::new()), &budget).await {
            Ok(opened) if sha256_hex(&opened.plain) == reference.plain_sha256 => opened.plain,
            Ok(_) | Err(StoreError::Corrupt { .. } | StoreError::Size { .. }) => {
                self.notes.push(format!("the names of backup {} are damaged", backup.id));
                return Ok(());
            }
            Err(error) if error.kind() == walden_core::ErrorKind::NotFound => {
                self.notes.push(format!("the names of backup {} are missing", backup.id));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for line in plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Lines of a kind that is not known are of a newer version.
            if let Ok(entry) = serde_json::from_slice(line) {
                add(book, backup, entry);
            }
        }
        Ok(())
    }

    /// Reads the names in the indexes of the segments between two numbers.
    async fn read_names_in_wal(&mut self, first: SegmentNumber, last: SegmentNumber) -> Result<()> {
        let per_log = self.snapshot.incarnation.segment_size.segments_per_log();
        let directory = |number: SegmentNumber| number.get() / per_log;
        // Truncated and rewritten relations have other files from then on.
        let told = WalFlags::NAMES.with(WalFlags::TRUNCATE).with(WalFlags::REWRITE);
        let segments = self.segments(|id, facts| {
            let directories = directory(first)..=directory(last);
            facts.flags.any(told) && directories.contains(&directory(id.number))
        });
        let mut segments = segments.await?;
        segments.retain(|id| {
            let named = self.snapshot.summaries.get(id);
            (first..=last).contains(&id.number) && named.is_some_and(|summary| summary.facts.flags.any(told))
        });
        let segments = self.newest(segments, INDEXES_MAX, "newer names");
        self.read_indexes(segments).await
    }
}

fn add(book: &mut NameBook, backup: &BackupRecord, entry: NameEntry) {
    let from = Place { timeline: backup.timeline, lsn: backup.start_lsn };
    let told_by = NamesFrom::Backup(backup.id.clone());
    match entry {
        NameEntry::Database { oid, name, .. } => book.add_database(from, Oid::new(oid), name, told_by),
        NameEntry::Schema { database, oid, name } => {
            book.add_schema(from, Oid::new(database), Oid::new(oid), name);
        }
        NameEntry::Relation { database, oid, filenode, schema, name, kind, .. } => {
            let relation = NamedRelation {
                relation: Oid::new(oid),
                name,
                schema: Oid::new(schema),
                file_number: filenode,
                kind: kind.chars().next().unwrap_or(' '),
                from: told_by,
            };
            book.add_relation(from, Oid::new(database), relation);
        }
        NameEntry::Header { .. }
        | NameEntry::Tablespace { .. }
        | NameEntry::Unread { .. }
        | NameEntry::Totals { .. } => {}
    }
}
