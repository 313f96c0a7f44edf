//! What a person reads of plans and refusals, over small archives that are made up here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use walden_core::index::{SegmentSummary, TimeRange, WalFacts, XidRange};
use walden_core::{
    BackupId, BackupKind, BackupRecord, BackupSource, CatalogSnapshot, IncarnationRecord, ObjectReference,
    Planning, RecordSpan, RecoveryAction, RecoveryPlan, RecoveryRates, RecoveryRequest, RecoveryTarget,
    SegmentDetail, SegmentEnd, ServerSettings, TargetTimeline, TransactionEndMark, Writer, plan_recovery,
};
use walden_pg::{
    Lsn, PgMajor, PgTimestamp, SegmentId, SegmentNumber, SystemId, TimelineHistory, TimelineId,
    WalSegmentSize, Xid,
};

use super::manifests;
use super::words::Words;
use crate::text::{Canvas, Paint, Text};

const SEGMENT: u64 = 16 << 20;
pub(in crate::commands) const ZONE: &str = "Europe/Berlin";

pub(in crate::commands) fn moment(second: i64) -> Timestamp {
    // 2026-11-20 14:00 UTC.
    Timestamp::from_microsecond(1_795_183_200_000_000 + second * 1_000_000 + 204_113).unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// A made-up archive: in each segment one record, and behind it the commits of that segment.
pub(in crate::commands) struct Archive {
    snapshot: CatalogSnapshot,
    commits: BTreeMap<SegmentId, Vec<(u32, i64)>>,
}

impl Archive {
    fn new() -> Self {
        let snapshot = CatalogSnapshot::new(IncarnationRecord {
            server: "orders".parse().unwrap(),
            repository_id: "0".repeat(32),
            system_id: SystemId::new(7_710_220_745_469_219_962),
            major: PgMajor::V17,
            segment_size: WalSegmentSize::new(SEGMENT).unwrap(),
            created_by: Writer::new("db1", "/data", Timestamp::UNIX_EPOCH),
        });
        Self { snapshot, commits: BTreeMap::new() }
    }

    fn segments(mut self, on: u32, numbers: std::ops::RangeInclusive<u64>) -> Self {
        for number in numbers {
            self.commits.entry(SegmentId::new(timeline(on), SegmentNumber::new(number))).or_default();
        }
        self
    }

    fn commit(mut self, on: u32, segment: u64, xid: u32, second: i64) -> Self {
        let id = SegmentId::new(timeline(on), SegmentNumber::new(segment));
        self.commits.entry(id).or_default().push((xid, second));
        self
    }

    fn fork(mut self, child: u32, parent: u32, segment: u64) -> Self {
        let at = Lsn::new(segment * SEGMENT + 0x800_000);
        let before = self.snapshot.histories.get(&timeline(parent)).cloned();
        let history = before.unwrap_or_else(|| TimelineHistory::parse(timeline(1), b"").unwrap());
        self.snapshot
            .histories
            .insert(timeline(child), history.fork(timeline(child), at, "no target").unwrap());
        self
    }

    fn backup(mut self, on: u32, segment: u64, second: i64, gigabytes: u64) -> Self {
        let start = segment * SEGMENT + 0x28;
        self.snapshot.backups.push(BackupRecord {
            id: BackupId::new(moment(second - 60), 0x7f3a),
            kind: BackupKind::Full,
            parent: None,
            server: "orders".parse().unwrap(),
            incarnation: self.snapshot.incarnation.incarnation(),
            source: BackupSource::Primary,
            label: "nightly".into(),
            timeline: timeline(on),
            stop_timeline: timeline(on),
            start_lsn: Lsn::new(start),
            checkpoint_lsn: Lsn::new(start),
            stop_lsn: Lsn::new(start + 0x40),
            next_xid: 700,
            oldest_xid: Some(700),
            segment_size: self.snapshot.incarnation.segment_size,
            started_at: moment(second - 60),
            finished_at: moment(second),
            bytes: gigabytes << 30,
            stored_bytes: gigabytes << 28,
            files: 1000,
            packs: 3,
            manifest: ObjectReference { plain_bytes: 1, plain_sha256: "0".repeat(64), object_bytes: 1 },
            names: None,
            tablespaces: Vec::new(),
            settings: ServerSettings {
                server_version: "17.10".into(),
                max_connections: 200,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
                wal_level: "replica".into(),
                data_checksums: true,
            },
            checksum_failures: Vec::new(),
            requires: Vec::new(),
            writer: Writer::new("db1", "/data", Timestamp::UNIX_EPOCH),
        });
        self
    }

    /// The archive as a planner sees it that has asked for everything.
    pub(in crate::commands) fn snapshot(&self) -> CatalogSnapshot {
        let mut snapshot = self.snapshot.clone();
        let size = snapshot.incarnation.segment_size;
        for (id, commits) in &self.commits {
            let name = id.name(size);
            let start = size.start_of(id.number).get();
            let span = |at: u64| RecordSpan { start: Lsn::new(start + at), end: Lsn::new(start + at + 0x40) };
            let mut facts = WalFacts::default();
            let mut records = vec![span(0x28)];
            let mut ends = Vec::new();
            for (at, (xid, second)) in (1_u64..).zip(commits) {
                let time = PgTimestamp::from_unix_micros(moment(*second).as_microsecond());
                let end =
                    TransactionEndMark { span: span(at * 0x1000), xid: Xid::new(*xid), time, commit: true };
                let (mark, times) = (Some(end.mark()), Some(TimeRange::of(time)));
                facts.append(&WalFacts {
                    commits: 1,
                    first_commit: mark,
                    last_commit: mark,
                    commit_times: times,
                    end_times: times,
                    xids: Some(XidRange::of(end.xid)),
                    ..WalFacts::default()
                });
                records.push(end.span);
                ends.push(end);
            }
            let wal_end = records.last().unwrap().end;
            let summary = SegmentSummary { facts, wal_end, joined: true, straddler: None };
            snapshot.add_segment(name, 4_000_000);
            snapshot.summaries.insert(*id, summary);
            snapshot.summarized.insert((id.timeline, name.log()));
            snapshot.add_detail(SegmentDetail {
                segment: *id,
                read_from: id.number,
                joined: true,
                records,
                ends,
                restore_points: Vec::new(),
                parameters: Vec::new(),
                backup_ends: Vec::new(),
                damage: Vec::new(),
                damage_count: 0,
                end: SegmentEnd::GoesOn,
            });
        }
        snapshot
    }

    fn answer(&self, request: &RecoveryRequest) -> Planning {
        plan_recovery(&self.snapshot(), request, moment(7200))
    }

    fn plan(&self, request: &RecoveryRequest) -> RecoveryPlan {
        match self.answer(request) {
            Planning::Plan(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    /// What is printed of the answer.
    fn told(&self, request: &RecoveryRequest) -> String {
        let snapshot = self.snapshot();
        let words = Words::default();
        let canvas = Canvas { columns: 100, unicode: true };
        let mut text = Text::new(Paint::Plain, TimeZone::get(ZONE).unwrap()).with_canvas(canvas);
        match self.answer(request) {
            Planning::Plan(plan) => super::text::render(&mut text, &plan, &snapshot, &words),
            Planning::Refused(refusal) => {
                super::refusal::render(&mut text, &refusal, request, &snapshot, &words);
            }
            Planning::Needs(needs) => panic!("{needs:?}"),
        }
        text.finish()
    }
}

fn request(target: RecoveryTarget) -> RecoveryRequest {
    RecoveryRequest {
        target,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: RecoveryAction::Pause,
        backup: None,
        rates: RecoveryRates::default(),
    }
}

/// Two backups, a promotion, an abandoned end, and commits whose times do not rise.
pub(in crate::commands) fn promoted() -> Archive {
    Archive::new()
        .backup(1, 4, 0, 40)
        .backup(1, 30, 1800, 41)
        .segments(1, 4..=70)
        .commit(1, 20, 74_210, 1000)
        .commit(1, 40, 74_211, 2400)
        .commit(1, 55, 90_000, 3000)
        .fork(2, 1, 50)
        .segments(2, 50..=90)
        .commit(2, 60, 74_213, 3117)
        .commit(2, 61, 74_214, 3121)
        .commit(2, 61, 74_212, 3116)
        .commit(2, 80, 74_300, 4000)
}

/// A hole between two backups.
pub(in crate::commands) fn with_gap() -> Archive {
    Archive::new()
        .backup(1, 2, 0, 3)
        .segments(1, 2..=20)
        .commit(1, 15, 800, 600)
        .segments(1, 24..=60)
        .backup(1, 40, 4000, 3)
        .commit(1, 30, 801, 2000)
        .commit(1, 50, 802, 5000)
}

#[test]
fn a_plan_over_a_promotion() {
    insta::assert_snapshot!(promoted().told(&request(RecoveryTarget::Time(moment(3118)))));
}

#[test]
fn a_plan_to_the_end() {
    let request = RecoveryRequest { action: RecoveryAction::Promote, ..request(RecoveryTarget::Latest) };
    insta::assert_snapshot!(promoted().told(&request));
}

#[test]
fn a_target_before_the_first_backup() {
    insta::assert_snapshot!(promoted().told(&request(RecoveryTarget::Time(moment(-600)))));
}

#[test]
fn a_target_after_everything() {
    insta::assert_snapshot!(promoted().told(&request(RecoveryTarget::Time(moment(5000)))));
}

#[test]
fn a_gap_before_the_target() {
    let archive = with_gap();
    insta::assert_snapshot!(archive.told(&request(RecoveryTarget::Time(moment(1900)))));
}

#[test]
fn forms_for_others() {
    let archive = promoted();
    let repo = "s3://backups/prod".parse().unwrap();
    let now = moment(7200);
    let words = Words::default();
    let exclusive = RecoveryRequest { exclusive: true, ..request(RecoveryTarget::Time(moment(3118))) };
    let plan = archive.plan(&exclusive);
    let mut said = vec![
        manifests::postgres(&plan, "walden --repo 's3://it''s' wal get %f %p"),
        manifests::cnpg(&plan, &repo, now),
        manifests::zalando(&plan, &words, now).unwrap(),
    ];
    for (target, exclusive) in [
        (RecoveryTarget::Latest, false),
        (RecoveryTarget::Xid(74_213), false),
        (RecoveryTarget::Xid(74_214), true),
    ] {
        let plan = archive.plan(&RecoveryRequest { exclusive, ..request(target) });
        let refused = manifests::zalando(&plan, &words, now).unwrap_err();
        said.extend([refused.message, refused.hint.unwrap()]);
        let manifest = manifests::cnpg(&plan, &repo, now);
        let (_, recovery) = manifest.split_once("recoveryTarget:").unwrap();
        said.push(recovery.split("  externalClusters").next().unwrap().to_owned());
    }
    insta::assert_snapshot!(said.join("\n"));
}
