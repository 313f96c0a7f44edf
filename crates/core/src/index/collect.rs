//! What is gathered from the records of one segment.

use walden_pg::wal::decode::{CheckpointKind, EndOfRecovery, ParameterChange, TransactionEnd};
use walden_pg::wal::{Payload, Record, ResourceManager};
use walden_pg::{CheckPoint, Lsn, PgMajor, WalLevel};

use super::events::{Event, EventKind};
use super::facts::{CommitMark, TimeRange, WalFacts, WalFlags, XidRange, larger};
use super::segment_index::Carry;

/// Gathers facts, events and touched blocks from records in the order of the WAL.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) facts: WalFacts,
    pub(super) events: Vec<Event>,
    pub(super) major: Option<PgMajor>,
}

impl Collector {
    /// A collector that goes on where another one stopped.
    pub(super) fn new(_mass_change_rows: u64, _carry: Option<&Carry>) -> Self {
        Self { facts: WalFacts::default(), events: Vec::new(), major: None }
    }

    /// Takes a record.
    #[inline]
    pub(super) fn record(&mut self, record: &Record<'_>) {
        self.major = Some(record.major);
        let manager = record.header.manager;
        if manager == ResourceManager::TRANSACTION || manager == ResourceManager::XLOG {
            self.decoded(record);
        }
    }

    fn decoded(&mut self, record: &Record<'_>) {
        let Ok(payload) = record.payload() else { return };
        match payload {
            Payload::Commit(end) => self.commit(record, &end),
            Payload::Abort(end) => self.transaction_end(&end),
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

    fn transaction_end(&mut self, end: &TransactionEnd<'_>) {
        let facts = &mut self.facts;
        let time = TimeRange::of(end.time);
        facts.end_times = Some(facts.end_times.map_or(time, |times| times.join(time)));
        let xid = XidRange::of(end.xid);
        facts.xids = Some(facts.xids.map_or(xid, |xids| xids.join(xid)));
        facts.aborts += 1;
    }

    fn commit(&mut self, record: &Record<'_>, end: &TransactionEnd<'_>) {
        self.transaction_end(end);
        let facts = &mut self.facts;
        facts.aborts -= 1;
        facts.commits += 1;
        let mark = CommitMark { lsn: record.lsn, xid: end.xid, time: end.time };
        facts.first_commit.get_or_insert(mark);
        facts.last_commit = Some(mark);
        let time = TimeRange::of(end.time);
        facts.commit_times = Some(facts.commit_times.map_or(time, |times| times.join(time)));
    }

    fn checkpoint(&mut self, record: &Record<'_>, kind: CheckpointKind, checkpoint: &CheckPoint) {
        self.facts.flags.add(WalFlags::CHECKPOINT);
        if !checkpoint.full_page_writes {
            self.facts.flags.add(WalFlags::FULL_PAGE_WRITES_OFF);
        }
        if checkpoint.timeline != checkpoint.previous_timeline {
            self.facts.flags.add(WalFlags::TIMELINE_BEGINS);
        }
        self.wal_level(checkpoint.wal_level);
        let kind = EventKind::Checkpoint {
            shutdown: kind == CheckpointKind::Shutdown,
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

    fn wal_level(&mut self, level: Option<WalLevel>) {
        if level == Some(WalLevel::Minimal) {
            self.facts.flags.add(WalFlags::WAL_LEVEL_MINIMAL);
        }
    }
}

/// Events of one segment that are told one by one.
const EVENTS_MAX: usize = 4096;
