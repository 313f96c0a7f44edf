//! An archive made of record lists, which serves a planner's needs; and recovery as PostgreSQL does it, spelled
//! out record by record over the same lists.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use walden_pg::{
    Lsn, ParameterMaxima, PgMajor, PgTimestamp, SegmentId, SegmentNumber, SystemId, TimelineHistory,
    TimelineId, WalLevel, WalSegmentSize, Xid,
};

use crate::index::{
    CommitMark, DamageNote, LogSummary, NumberRange, SegmentSummary, Straddler, TimeRange, WalFacts,
    WalFlags, XidRange,
};
use crate::layout::BackupId;
use crate::records::{
    BackupKind, BackupRecord, BackupSource, IncarnationRecord, ObjectReference, ServerSettings, Writer,
};
use crate::recovery::*;
use crate::snapshot::{CatalogSnapshot, Listed};

/// Four segments a LOG directory: whole directories come soon.
pub(crate) const SEGMENT: u64 = 1 << 30;
pub(crate) const BASE: i64 = 1_795_000_000;

pub(crate) fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BASE + second).unwrap()
}

pub(crate) fn pg_at(second: i64) -> PgTimestamp {
    PgTimestamp::from_unix_micros((BASE + second) * 1_000_000)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Commit { xid: u32, second: i64 },
    Abort { xid: u32, second: i64 },
    Point(String),
    Parameters { connections: u32, level: WalLevel },
    BackupEnd(u64),
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) what: What,
}

/// An archive.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) major: PgMajor,
    /// All records that lead to the end of each timeline, those of its parents included.
    pub(crate) streams: BTreeMap<u32, Vec<Rec>>,
    /// For each timeline above 1 its parent and the fork.
    pub(crate) forks: BTreeMap<u32, (u32, u64)>,
    pub(crate) backups: Vec<BackupRecord>,
    /// Segments that were lost.
    pub(crate) lost: BTreeSet<(u32, u64)>,
    /// Records, by start, that are damaged, by timeline.
    pub(crate) damaged: BTreeSet<(u32, u64)>,
    /// Segments whose summaries lack the record that reaches in.
    pub(crate) unjoined: BTreeSet<(u32, u64)>,
    /// Directories that rollups tell of and that are not listed at first.
    pub(crate) rolled_up: BTreeSet<(u32, u32)>,
    /// Summaries of these were never made.
    pub(crate) without_summary: BTreeSet<(u32, u64)>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            major: PgMajor::V17,
            streams: BTreeMap::from([(1, Vec::new())]),
            forks: BTreeMap::new(),
            backups: Vec::new(),
            lost: BTreeSet::new(),
            damaged: BTreeSet::new(),
            unjoined: BTreeSet::new(),
            rolled_up: BTreeSet::new(),
            without_summary: BTreeSet::new(),
        }
    }

    pub(crate) fn end(&self, on: u32) -> u64 {
        self.streams[&on].last().map_or(SEGMENT + 0x28, |rec| rec.end)
    }

    /// Adds a record of so many bytes; returns where it begins.
    pub(crate) fn add(&mut self, on: u32, bytes: u64, what: What) -> u64 {
        let start = self.end(on);
        self.streams.get_mut(&on).unwrap().push(Rec { start, end: start + bytes, what });
        start
    }

    pub(crate) fn commit(&mut self, on: u32, xid: u32, second: i64) -> u64 {
        self.add(on, 64, What::Commit { xid, second })
    }

    /// Fills the rest of the segment, so that the next record begins in the next one.
    pub(crate) fn fill(&mut self, on: u32) {
        let end = self.end(on);
        let rest = end.next_multiple_of(SEGMENT) - end;
        if rest > 0 {
            self.add(on, rest, What::Other);
        }
    }

    /// A backup from here, ended by a record of its own at a second.
    pub(crate) fn backup(&mut self, on: u32, second: i64) -> u64 {
        let start = self.add(on, 64, What::Other);
        self.add(on, 64, What::BackupEnd(start));
        self.record_backup(on, start, second);
        start
    }

    /// Records a backup whose end is the newest record.
    pub(crate) fn record_backup(&mut self, on: u32, start: u64, second: i64) {
        let salt = u16::try_from(self.backups.len()).unwrap();
        let stop = self.end(on);
        self.backups.push(backup_record(on, start, stop, second, salt));
    }

    /// Begins a timeline where another one is now, or was at a record's start.
    pub(crate) fn fork(&mut self, parent: u32, child: u32, lsn: u64) {
        let before = self.streams[&parent].iter().filter(|rec| rec.end <= lsn).cloned().collect();
        self.streams.insert(child, before);
        self.forks.insert(child, (parent, lsn));
    }

    pub(crate) fn history(&self, of: u32) -> TimelineHistory {
        match self.forks.get(&of) {
            None => TimelineHistory::without_parents(timeline(of)),
            Some((parent, lsn)) => self.history(*parent).fork(timeline(of), Lsn::new(*lsn), "test").unwrap(),
        }
    }

    /// The segments that a timeline wrote.
    pub(crate) fn written(&self, on: u32) -> std::ops::RangeInclusive<u64> {
        let first = self.forks.get(&on).map_or(1, |(_, lsn)| lsn / SEGMENT);
        first..=(self.end(on) - 1) / SEGMENT
    }

    pub(crate) fn is_there(&self, on: u32, number: u64) -> bool {
        self.written(on).contains(&number) && !self.lost.contains(&(on, number))
    }

    fn ending_in(&self, on: u32, number: u64) -> impl Iterator<Item = &Rec> {
        self.streams[&on].iter().filter(move |rec| (rec.end - 1) / SEGMENT == number)
    }

    pub(crate) fn summary(&self, id: SegmentId) -> SegmentSummary {
        let (on, number) = (id.timeline.get(), id.number.get());
        let joined = !self.unjoined.contains(&(on, number));
        let begin = number * SEGMENT;
        let mut facts = WalFacts::default();
        let mut wal_end = begin;
        for rec in self.ending_in(on, number).filter(|rec| joined || rec.start >= begin) {
            wal_end = wal_end.max(rec.end);
            if self.damaged.contains(&(on, rec.start)) {
                facts.flags.add(WalFlags::DAMAGED);
            } else {
                facts.append(&facts_of(rec));
            }
        }
        let straddler = self.streams[&on]
            .iter()
            .find(|rec| rec.start < begin + SEGMENT && rec.end > begin + SEGMENT)
            .map(|rec| Straddler { lsn: Lsn::new(rec.start), matters: rec.what != What::Other });
        if straddler.is_none() && self.end(on) < begin + SEGMENT {
            facts.flags.add(WalFlags::ENDS_EARLY);
        }
        SegmentSummary { facts, wal_end: Lsn::new(wal_end), joined, straddler }
    }

    fn detail(&self, path: &[SegmentId]) -> SegmentDetail {
        let (first, last) = (path[0], *path.last().unwrap());
        let (on, number) = (last.timeline.get(), last.number.get());
        let mut detail = SegmentDetail {
            segment: last,
            read_from: first.number,
            joined: first.number < last.number,
            records: Vec::new(),
            ends: Vec::new(),
            restore_points: Vec::new(),
            parameters: Vec::new(),
            backup_ends: Vec::new(),
            damage: Vec::new(),
            damage_count: 0,
            end: SegmentEnd::GoesOn,
        };
        for rec in self.ending_in(on, number) {
            if rec.start / SEGMENT < first.number.get() {
                detail.joined = false;
                continue;
            }
            if self.damaged.contains(&(on, rec.start)) {
                detail.damage.push(DamageNote { lsn: Lsn::new(rec.start), what: "test".into() });
                detail.damage_count += 1;
                continue;
            }
            note(&mut detail, rec);
        }
        let goes_on = self.streams[&on].iter().any(|rec| rec.end > (number + 1) * SEGMENT);
        if !goes_on && self.end(on) < (number + 1) * SEGMENT {
            detail.end = SegmentEnd::Ends(Lsn::new(self.end(on)));
        }
        detail
    }

    /// What a first look at the archive gives.
    pub(crate) fn snapshot(&self) -> CatalogSnapshot {
        let mut snapshot = CatalogSnapshot::new(IncarnationRecord {
            server: "main".parse().unwrap(),
            repository_id: "0".repeat(32),
            system_id: SystemId::new(7),
            major: self.major,
            segment_size: WalSegmentSize::new(SEGMENT).unwrap(),
            created_by: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
        });
        snapshot.backups.clone_from(&self.backups);
        snapshot.listed = Listed::Some(BTreeSet::new());
        for on in self.streams.keys().copied() {
            if on > 1 {
                snapshot.histories.insert(timeline(on), self.history(on));
            }
            let logs: BTreeSet<u32> = self.written(on).map(log_of).collect();
            for log in logs {
                match self.log_summary(on, log).filter(|_| self.rolled_up.contains(&(on, log))) {
                    Some(summary) => {
                        snapshot.logs.insert((timeline(on), log), summary);
                    }
                    None => self.list(&mut snapshot, on, log),
                }
            }
        }
        snapshot
    }

    /// A rollup's word: made before anything was lost.
    fn log_summary(&self, on: u32, log: u32) -> Option<LogSummary> {
        let numbers: Vec<u64> = self.written(on).filter(|number| log_of(*number) == log).collect();
        if numbers.iter().any(|number| self.without_summary.contains(&(on, *number))) {
            return None;
        }
        let mut facts = WalFacts::default();
        let mut incomplete = false;
        for number in &numbers {
            let summary = self.summary(SegmentId::new(timeline(on), SegmentNumber::new(*number)));
            facts.append(&summary.facts);
            incomplete |= !summary.joined;
        }
        let first = SegmentNumber::new(*numbers.first()?);
        let present = vec![NumberRange { first, count: u32::try_from(numbers.len()).unwrap() }];
        Some(LogSummary { log, present, object_bytes: 1000, facts, incomplete })
    }

    pub(crate) fn list(&self, snapshot: &mut CatalogSnapshot, on: u32, log: u32) {
        for number in self.written(on).filter(|number| log_of(*number) == log) {
            if self.is_there(on, number) {
                let id = SegmentId::new(timeline(on), SegmentNumber::new(number));
                snapshot.add_segment(id.name(WalSegmentSize::new(SEGMENT).unwrap()), 1000);
            }
        }
        if let Listed::Some(listed) = &mut snapshot.listed {
            listed.insert((timeline(on), log));
        }
    }

    pub(crate) fn satisfy(&self, snapshot: &mut CatalogSnapshot, need: &Need) {
        match need {
            Need::Listing { timeline, first_log, last_log } => {
                (*first_log..=*last_log).for_each(|log| self.list(snapshot, timeline.get(), log));
            }
            Need::Summaries { timeline: on, log } => {
                self.list(snapshot, on.get(), *log);
                for number in self.written(on.get()).filter(|number| log_of(*number) == *log) {
                    let known = !self.without_summary.contains(&(on.get(), number));
                    if known && self.is_there(on.get(), number) {
                        let id = SegmentId::new(*on, SegmentNumber::new(number));
                        snapshot.summaries.insert(id, self.summary(id));
                    }
                }
                snapshot.summarized.insert((*on, *log));
            }
            Need::Details { path } => {
                for id in path {
                    assert!(
                        self.is_there(id.timeline.get(), id.number.get()),
                        "{id:?} is not in the archive"
                    );
                }
                snapshot.add_detail(self.detail(path));
            }
        }
    }

    /// Asks the planner until it answers.
    pub(crate) fn plan(&self, request: &RecoveryRequest) -> Result<RecoveryPlan, Refusal> {
        let mut snapshot = self.snapshot();
        let mut asked = BTreeSet::new();
        loop {
            match plan_recovery(&snapshot, request, at(1_000_000)) {
                Planning::Plan(plan) => return Ok(*plan),
                Planning::Refused(refusal) => return Err(*refusal),
                Planning::Needs(needs) => {
                    for need in needs {
                        assert!(asked.insert(need.clone()), "asked again: {need:?}");
                        self.satisfy(&mut snapshot, &need);
                    }
                }
            }
        }
    }

    pub(crate) fn window(&self) -> RecoveryWindow {
        let mut snapshot = self.snapshot();
        let mut asked = BTreeSet::new();
        loop {
            match recovery_window(&snapshot, at(1_000_000)) {
                Windowing::Window(window) => return *window,
                Windowing::Needs(needs) => {
                    for need in needs {
                        assert!(asked.insert(need.clone()), "asked again: {need:?}");
                        self.satisfy(&mut snapshot, &need);
                    }
                }
            }
        }
    }

    /// The timeline whose segment recovery reads, newest first.
    fn timeline_of(&self, tip: u32, number: u64) -> u32 {
        let mut on = tip;
        while let Some((parent, lsn)) = self.forks.get(&on) {
            if lsn / SEGMENT <= number {
                break;
            }
            on = *parent;
        }
        on
    }

    /// Whether anything of the path is there behind a missing segment, or a timeline is known to begin there.
    fn goes_on_behind(&self, tip: u32, number: u64) -> bool {
        let last = (self.end(tip) - 1) / SEGMENT;
        let there = (number..=last).any(|number| self.is_there(self.timeline_of(tip, number), number));
        let mut on = tip;
        let mut begins = false;
        while let Some((parent, lsn)) = self.forks.get(&on) {
            begins |= lsn / SEGMENT >= number;
            on = *parent;
        }
        there || begins
    }

    /// What PostgreSQL does: reads record after record from the backup's start, and stops by its rules.
    pub(crate) fn recover(&self, backup: &BackupRecord, tip: u32, request: &RecoveryRequest) -> Recovered {
        let redo = backup.start_lsn.get();
        let mut readable = Vec::new();
        let mut number = redo / SEGMENT;
        let mut ended = true;
        'records: for rec in self.streams[&tip].iter().filter(|rec| rec.start >= redo) {
            while number <= (rec.end - 1) / SEGMENT {
                if !self.is_there(self.timeline_of(tip, number), number) {
                    ended = !self.goes_on_behind(tip, number);
                    break 'records;
                }
                number += 1;
            }
            let on = self.timeline_of(tip, (rec.end - 1) / SEGMENT);
            let minimal = matches!(rec.what, What::Parameters { level: WalLevel::Minimal, .. });
            if self.damaged.contains(&(on, rec.start)) || minimal {
                ended = false;
                break;
            }
            readable.push(rec);
        }
        let Some((place, before)) = stops(&readable, backup, request) else {
            if ended && request.target == RecoveryTarget::Latest {
                let replayed_to = readable.last().map_or(redo, |rec| rec.end);
                let kept = readable.iter().rev().find_map(|rec| commit_of(rec));
                return Recovered::stopped(replayed_to, replayed_to, kept, &[], Vec::new());
            }
            return Recovered::NotReached { end_of_archive: ended };
        };
        let split = if before { place } else { place + 1 };
        let (kept, rest) = readable.split_at(split);
        let replayed_to = kept.last().map_or(redo, |rec| rec.end);
        let late: Vec<u32> = match request.target {
            RecoveryTarget::Time(_) => rest
                .iter()
                .filter_map(|rec| commit_of(rec))
                .filter(|(_, second)| !past(*second, request))
                .map(|(xid, _)| xid)
                .collect(),
            _ => Vec::new(),
        };
        let last = kept.iter().rev().find_map(|rec| commit_of(rec));
        let rest: Vec<u32> = rest.iter().filter_map(|rec| commit_of(rec)).map(|(xid, _)| xid).collect();
        Recovered::stopped(readable[place].start, replayed_to, last, &rest, late)
    }
}

/// What recovery comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovered {
    Stopped {
        lsn: u64,
        replayed_to: u64,
        last: Option<u32>,
        first: Option<u32>,
        left_out: u64,
        late: Vec<u32>,
    },
    NotReached {
        end_of_archive: bool,
    },
}

impl Recovered {
    fn stopped(lsn: u64, replayed_to: u64, last: Option<(u32, i64)>, rest: &[u32], late: Vec<u32>) -> Self {
        let (first, left_out) = (rest.first().copied(), rest.len() as u64);
        Self::Stopped { lsn, replayed_to, last: last.map(|last| last.0), first, left_out, late }
    }

    pub(crate) fn of_plan(plan: &RecoveryPlan) -> Self {
        Self::Stopped {
            lsn: plan.stop.lsn.get(),
            replayed_to: plan.stop.replayed_to.get(),
            last: plan.stop.last_kept.map(|commit| commit.xid.get()),
            first: plan.stop.first_left_out.map(|commit| commit.xid.get()),
            left_out: plan.stop.commits_left_out,
            late: plan.left_out_by_order.iter().map(|commit| commit.xid.get()).collect(),
        }
    }
}

fn past(second: i64, request: &RecoveryRequest) -> bool {
    let RecoveryTarget::Time(time) = request.target else { return false };
    if request.exclusive { at(second) >= time } else { at(second) > time }
}

fn stops(records: &[&Rec], backup: &BackupRecord, request: &RecoveryRequest) -> Option<(usize, bool)> {
    let exclusive = request.exclusive;
    records.iter().enumerate().find_map(|(place, rec)| {
        let before = match (&request.target, &rec.what) {
            (RecoveryTarget::Time(_), What::Commit { second, .. } | What::Abort { second, .. }) => {
                past(*second, request).then_some(true)
            }
            (RecoveryTarget::Xid(wanted), What::Commit { xid, .. } | What::Abort { xid, .. }) => {
                (u64::from(*xid) == *wanted).then_some(exclusive)
            }
            (RecoveryTarget::Lsn(lsn), _) => (rec.start >= lsn.get()).then_some(exclusive),
            (RecoveryTarget::Name(wanted), What::Point(name)) => (name == wanted).then_some(false),
            (RecoveryTarget::Immediate, What::BackupEnd(start)) => {
                (*start == backup.start_lsn.get()).then_some(false)
            }
            _ => None,
        };
        before.map(|before| (place, before))
    })
}

fn commit_of(rec: &Rec) -> Option<(u32, i64)> {
    match rec.what {
        What::Commit { xid, second } => Some((xid, second)),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "small worlds")]
pub(crate) fn log_of(number: u64) -> u32 {
    (number / 4) as u32
}

fn maxima(connections: u32) -> ParameterMaxima {
    ParameterMaxima {
        max_connections: connections,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 64,
    }
}

fn facts_of(rec: &Rec) -> WalFacts {
    let mut facts = WalFacts::default();
    match &rec.what {
        What::Commit { xid, second } => {
            let mark = CommitMark { lsn: Lsn::new(rec.start), xid: Xid::new(*xid), time: pg_at(*second) };
            facts.commits = 1;
            (facts.first_commit, facts.last_commit) = (Some(mark), Some(mark));
            facts.commit_times = Some(TimeRange::of(mark.time));
            facts.end_times = Some(TimeRange::of(mark.time));
            facts.xids = Some(XidRange::of(mark.xid));
        }
        What::Abort { xid, second } => {
            facts.aborts = 1;
            facts.end_times = Some(TimeRange::of(pg_at(*second)));
            facts.xids = Some(XidRange::of(Xid::new(*xid)));
        }
        What::Point(_) => facts.flags.add(WalFlags::RESTORE_POINT),
        What::Parameters { connections, level } => {
            facts.flags.add(WalFlags::PARAMETER_CHANGE);
            if *level == WalLevel::Minimal {
                facts.flags.add(WalFlags::WAL_LEVEL_MINIMAL);
            }
            facts.maxima = Some(maxima(*connections));
        }
        What::BackupEnd(_) => facts.flags.add(WalFlags::BACKUP_END),
        What::Other => {}
    }
    facts
}

fn note(detail: &mut SegmentDetail, rec: &Rec) {
    let span = RecordSpan { start: Lsn::new(rec.start), end: Lsn::new(rec.end) };
    detail.records.push(span);
    let mut end = |xid: u32, second: i64, commit: bool| {
        detail.ends.push(TransactionEndMark { span, xid: Xid::new(xid), time: pg_at(second), commit });
    };
    match &rec.what {
        What::Commit { xid, second } => end(*xid, *second, true),
        What::Abort { xid, second } => end(*xid, *second, false),
        What::Point(name) => {
            detail.restore_points.push(RestorePointMark { span, name: name.clone(), time: pg_at(0) });
        }
        What::Parameters { connections, level } => {
            let maxima = Some(maxima(*connections));
            detail.parameters.push(ParameterMark { span, maxima, wal_level: *level });
        }
        What::BackupEnd(start) => detail.backup_ends.push((span, Lsn::new(*start))),
        What::Other => {}
    }
}

pub(crate) fn backup_record(on: u32, start: u64, stop: u64, second: i64, salt: u16) -> BackupRecord {
    BackupRecord {
        id: BackupId::new(at(second - 10), salt),
        kind: BackupKind::Full,
        parent: None,
        server: "main".parse().unwrap(),
        incarnation: "7-17".parse().unwrap(),
        source: BackupSource::Primary,
        label: "test".into(),
        timeline: timeline(on),
        stop_timeline: timeline(on),
        start_lsn: Lsn::new(start),
        checkpoint_lsn: Lsn::new(start),
        stop_lsn: Lsn::new(stop),
        next_xid: 1000,
        oldest_xid: Some(1000),
        segment_size: WalSegmentSize::new(SEGMENT).unwrap(),
        started_at: at(second - 10),
        finished_at: at(second),
        bytes: 4000,
        stored_bytes: 2000,
        files: 10,
        packs: 1,
        manifest: ObjectReference { plain_bytes: 1, plain_sha256: "0".repeat(64), object_bytes: 1 },
        names: None,
        tablespaces: Vec::new(),
        settings: ServerSettings {
            server_version: "17.10".into(),
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            wal_level: "replica".into(),
            data_checksums: true,
        },
        checksum_failures: Vec::new(),
        requires: Vec::new(),
        writer: Writer::new("h", "i", Timestamp::UNIX_EPOCH),
    }
}

pub(crate) fn request(target: RecoveryTarget) -> RecoveryRequest {
    RecoveryRequest {
        target,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: RecoveryAction::Pause,
        backup: None,
        rates: RecoveryRates::default(),
    }
}
