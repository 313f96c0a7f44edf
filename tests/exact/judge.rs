//! One target: what the plan says, what PostgreSQL does, and whether that is the same.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::Value;
use walden_pg::{Lsn, PgTimestamp, TimelineId, WalLevel, Xid};
use walden_testkit::history::{
    BackupTaken, Ending, LiveHistory, PathRecord, PathWal, RecordKind, Recovery, StopLine, Stopped, WalFiles,
};

use crate::damage::{ArchiveCopy, Damage};
use crate::refusal;
use crate::slots;
use crate::tally::Verdict;
use crate::targets::{Goal, Target, Timeline};
use crate::walden::{Answer, lsn};

/// Of so many refusals one is followed to the moments that it names.
const NEAREST_EVERY: u64 = 4;

/// Generous settings, for recoveries that a person tries without a plan.
const GENEROUS: [(&str, &str); 5] = [
    ("max_connections", "200"),
    ("max_worker_processes", "20"),
    ("max_wal_senders", "20"),
    ("max_prepared_transactions", "60"),
    ("max_locks_per_transaction", "128"),
];

/// Everything that a verdict is made of.
pub(crate) struct Judge<'a> {
    pub(crate) history: &'a LiveHistory,
    pub(crate) archive: &'a ArchiveCopy,
    /// The archive before it was damaged.
    pub(crate) intact: &'a WalFiles,
    pub(crate) scratch: &'a std::path::Path,
    /// Variables of a clock for which no commit lies in the future.
    pub(crate) ahead: &'a [(String, String)],
    pub(crate) recoveries: RefCell<u64>,
    refusals: RefCell<u64>,
    paths: RefCell<BTreeMap<(TimelineId, Lsn, bool), Rc<PathWal>>>,
}

/// A commit as a plan tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    xid: Xid,
    time: PgTimestamp,
    lsn: Lsn,
}

impl Told {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            xid: Xid::new(u32::try_from(value["xid"].as_u64()?).ok()?),
            time: time(&value["time"])?,
            lsn: lsn(&value["lsn"])?,
        })
    }

    fn of(record: &PathRecord) -> Option<Self> {
        record.commit().map(|(xid, time)| Self { xid, time, lsn: record.start })
    }
}

fn time(value: &Value) -> Option<PgTimestamp> {
    let time: Timestamp = value.as_str()?.parse().ok()?;
    Some(PgTimestamp::from_unix_micros(time.as_microsecond()))
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        history: &'a LiveHistory,
        archive: &'a ArchiveCopy,
        intact: &'a WalFiles,
        scratch: &'a std::path::Path,
        ahead: &'a [(String, String)],
    ) -> Self {
        let (recoveries, refusals, paths) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { history, archive, intact, scratch, ahead, recoveries, refusals, paths }
    }

    /// Compares the plan for a target with what PostgreSQL does.
    pub(crate) fn verdict(&self, target: &Target) -> Verdict {
        match self.ask(target) {
            Answer::Plan(plan) => self.compare_stop(target, &plan),
            Answer::Refusal(refusal) => {
                let verdict = refusal::compare(self, target, &refusal);
                *self.refusals.borrow_mut() += 1;
                let follow = self.refusals.borrow().is_multiple_of(NEAREST_EVERY)
                    && !matches!(verdict, Verdict::Mismatch(_));
                if follow { self.follow_nearest(target, &refusal).unwrap_or(verdict) } else { verdict }
            }
            Answer::Failure(said) => refusal::compare_failure(self, target, &said),
        }
    }

    fn ask(&self, target: &Target) -> Answer {
        let _slot = slots::take();
        self.archive.walden.plan(&target.options(), self.ahead)
    }

    /// A refusal names the nearest moments that can be had: it must be possible to have them.
    fn follow_nearest(&self, target: &Target, refusal: &Value) -> Option<Verdict> {
        ["nearest_before", "nearest_after"].into_iter().find_map(|key| {
            let moment = &refusal[key];
            let goal = Goal::Lsn(lsn(&moment["lsn"])?);
            // Of `current` there are as many timelines as backups are on, and a position means another moment on each.
            let timeline = match (moment["timeline"].as_u64(), &target.backup) {
                (Some(number), _) => Timeline::Number(timeline(number)),
                (None, None) if target.timeline == Timeline::Current => return None,
                _ => target.timeline,
            };
            let nearest = Target { goal, exclusive: false, timeline, ..target.clone() };
            let differs = |what: String| Some(mismatch(target, refusal, &format!("{key}: {what}")));
            match self.ask(&nearest) {
                Answer::Plan(plan) => {
                    let kept = &plan["stop"]["last_kept"];
                    if !moment["xid"].is_null()
                        && (kept["xid"] != moment["xid"] || kept["time"] != moment["time"])
                    {
                        return differs(format!("leads to {}", plan["stop"]));
                    }
                    match self.compare_stop(&nearest, &plan) {
                        Verdict::Mismatch(how) => differs(how),
                        _ => None,
                    }
                }
                Answer::Refusal(refused) => differs(format!("is refused: {}", refused["message"])),
                Answer::Failure(said) => differs(format!("fails: {said}")),
            }
        })
    }

    /// The path to a timeline from a position, as far as the damaged or the intact archive has it.
    pub(crate) fn path(&self, timeline: TimelineId, from: Lsn, intact: bool) -> Rc<PathWal> {
        let mut paths = self.paths.borrow_mut();
        let path = paths.entry((timeline, from, intact)).or_insert_with(|| {
            // The plan may know from an index what a torn object held.
            let intact = intact || matches!(self.archive.damage, Damage::Torn(_));
            let files = if intact { self.intact } else { &self.archive.files };
            Rc::new(files.read_path(&files.history(timeline).unwrap(), from).unwrap())
        });
        Rc::clone(path)
    }

    /// The timeline that PostgreSQL follows with a backup.
    pub(crate) fn timeline(&self, target: &Target, backup: &BackupTaken) -> TimelineId {
        match target.timeline {
            Timeline::Latest => self.archive.files.latest_from(backup.timeline),
            Timeline::Current => backup.timeline,
            Timeline::Number(number) => number,
        }
    }

    /// Recovers with a backup.
    pub(crate) fn recover(&self, backup: &BackupTaken, settings: Vec<(String, String)>) -> Ending {
        let _slot = slots::take();
        *self.recoveries.borrow_mut() += 1;
        let recovery = Recovery {
            major: self.history.major,
            template: &backup.template,
            wal: &self.archive.wal,
            scratch: self.scratch,
            settings,
        };
        recovery.run().unwrap()
    }

    /// Recovers as a person would without a plan.
    pub(crate) fn recover_by_hand(&self, target: &Target, backup: &BackupTaken) -> Ending {
        let mut settings = target.settings();
        settings.extend(GENEROUS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.recover_around_defects(backup, settings).0
    }

    /// Recovers, and once more without hot standby when PostgreSQL fails by a defect of its own: at the first
    /// record of a timeline it looks for prepared transactions in the parent's segment with the fork, which it
    /// did not restore because it took the child's (`PrescanPreparedTransactions`, `read_local_xlog_page` in
    /// `src/backend/access/transam/{twophase,xlogutils}.c`).
    fn recover_around_defects(
        &self,
        backup: &BackupTaken,
        settings: Vec<(String, String)>,
    ) -> (Ending, Option<&'static str>) {
        let ending = self.recover(backup, settings.clone());
        match &ending {
            Ending::Failed { message } if message.starts_with("requested WAL segment") => {
                let around = [("hot_standby", "off"), ("recovery_target_action", "promote")];
                let around = around.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let ending = self.recover(backup, settings.into_iter().chain(around).collect());
                (
                    ending,
                    Some("a transaction prepared before a fork in its segment: only with hot_standby = off"),
                )
            }
            _ => (ending, None),
        }
    }

    fn compare_stop(&self, target: &Target, plan: &Value) -> Verdict {
        let id = plan["backup"]["id"].as_str().unwrap();
        let backup = self.history.backups.iter().find(|backup| backup.id == id).unwrap();
        let (ending, way) = self.recover_around_defects(backup, settings_of(plan));
        let Ending::Stopped(stopped) = ending else {
            if let (Ending::Failed { message }, Damage::Torn(_)) = (&ending, &self.archive.damage)
                && message.contains("could not restore file")
            {
                return Verdict::Careful("a torn object is met only when it is read".to_owned());
            }
            return mismatch(target, plan, &format!("the plan says it works, PostgreSQL: {ending:?}"));
        };
        let mut differences = Vec::new();
        self.check_stop(plan, &stopped, &mut differences);
        self.check_commits(target, plan, backup, &stopped, &mut differences);
        if differences.is_empty() {
            return way.map_or(Verdict::SameStop, |way| {
                Verdict::Limit(format!("PostgreSQL {}: {way}", self.history.major))
            });
        }
        let mut brief = stopped;
        brief.transactions.clear();
        mismatch(target, plan, &format!("{}\nPostgreSQL: {brief:?}", differences.join("\n")))
    }

    /// Where it stopped, and how.
    fn check_stop(&self, plan: &Value, stopped: &Stopped, differences: &mut Vec<String>) {
        let stop = &plan["stop"];
        let mut differ = |what: &str, plan: String, real: String| {
            if plan != real {
                differences.push(format!("{what}: plan={plan} PostgreSQL={real}"));
            }
        };
        differ(
            "stop.replayed_to",
            format!("{:?}", lsn(&stop["replayed_to"])),
            format!("{:?}", Some(stopped.replayed_to)),
        );
        let kept = Told::read(&stop["last_kept"]).map(|told| (told.xid, told.time));
        let real = stopped.last_commit.map(|last| (last.xid, last.time));
        differ("stop.last_kept", format!("{kept:?}"), format!("{real:?}"));
        let expected = match &stopped.said {
            None => "end_of_wal",
            Some(StopLine::Consistent) => "at_consistency",
            Some(StopLine::RestorePoint { .. }) => "after_restore_point",
            Some(StopLine::Lsn { before: true, .. }) => "before_lsn",
            Some(StopLine::Lsn { before: false, .. }) => "after_lsn",
            Some(StopLine::Transaction { before: false, .. }) => "after_transaction",
            Some(StopLine::Transaction { .. }) if plan["request"]["target"]["kind"] == "time" => {
                "before_transaction_end"
            }
            Some(StopLine::Transaction { .. }) => "before_transaction",
        };
        differ("stop.kind", stop["kind"].to_string(), format!("\"{expected}\""));
        let history = plan["target_timeline"].as_u64().unwrap();
        let path = self.path(timeline(history), lsn(&plan["backup"]["start_lsn"]).unwrap(), false);
        let at = lsn(&stop["lsn"]).unwrap();
        let record = match &stopped.said {
            Some(StopLine::Transaction { before: true, .. } | StopLine::Lsn { before: true, .. }) => {
                path.after(stopped.replayed_to)
            }
            Some(_) => path.ending_at(stopped.replayed_to),
            None => None,
        };
        if let Some(record) = record {
            // The record that recovery stops before must be read, too, to its end.
            let size = self.intact.segment_size();
            let (first, last) = (size.segment_of(path.from), size.last_segment_before(record.end));
            let needed = last.get() - first.get() + 1;
            differ("segments.count", plan["segments"]["count"].to_string(), needed.to_string());
        }
        differ("segments.missing_count", plan["segments"]["missing_count"].to_string(), "0".to_owned());
        let begins = record.map_or(stopped.replayed_to, |record| record.start);
        differ("stop.lsn", at.to_string(), begins.to_string());
        match &stopped.said {
            Some(StopLine::Lsn { lsn, .. }) => {
                differ("stop.lsn and PostgreSQL's word", at.to_string(), lsn.to_string());
            }
            Some(StopLine::Transaction { xid, time, .. }) => {
                let end = record.and_then(PathRecord::transaction_end);
                differ("the record at stop.lsn", format!("{end:?}"), format!("{:?}", Some((*xid, *time))));
            }
            _ => {}
        }
        if stopped.said.is_none() && !stopped.promoted {
            differences.push("PostgreSQL did not promote itself at the end of the WAL".to_owned());
        }
    }

    /// What is there after it, and what is not.
    fn check_commits(
        &self,
        target: &Target,
        plan: &Value,
        backup: &BackupTaken,
        stopped: &Stopped,
        differences: &mut Vec<String>,
    ) {
        let timeline = timeline(plan["target_timeline"].as_u64().unwrap());
        let path = self.path(timeline, backup.start_lsn, false);
        // What is behind a moment without enough WAL can't be recovered either.
        let minimal = |record: &&PathRecord| {
            matches!(record.kind, RecordKind::Parameters { wal_level: WalLevel::Minimal, .. })
        };
        let wall = path.records.iter().find(minimal).map_or(Lsn::MAX, |record| record.start);
        let behind: Vec<&PathRecord> = path
            .records
            .iter()
            .filter(|record| record.start < wall)
            .filter(|record| record.start >= stopped.replayed_to && record.commit().is_some())
            .collect();
        let first = behind.first().and_then(|record| Told::of(record));
        let told = Told::read(&plan["stop"]["first_left_out"]);
        // Where the plan wants more than a torn object's index, nothing is behind it.
        let torn = matches!(self.archive.damage, Damage::Torn(_));
        if told != first && !(torn && told.is_none()) {
            differences.push(format!("stop.first_left_out: plan={told:?} records={first:?}"));
        }
        let count = &plan["stop"]["commits_left_out"];
        let exact = plan["stop"]["commits_left_out_exact"] != false;
        let at_least = count.as_u64().is_some_and(|count| count <= behind.len() as u64);
        if !(*count == behind.len() || !exact && at_least) {
            differences.push(format!("stop.commits_left_out: plan={count} records={}", behind.len()));
        }
        let kept_lsn = lsn(&plan["stop"]["last_kept"]["lsn"]);
        let last =
            path.records.iter().rev().filter(|record| record.end <= stopped.replayed_to).find_map(Told::of);
        if kept_lsn != last.map(|last| last.lsn) {
            differences.push(format!("stop.last_kept.lsn: plan={kept_lsn:?} records={last:?}"));
        }
        if matches!(target.goal, Goal::Time(_)) {
            let late: Vec<Told> = behind
                .iter()
                .filter_map(|record| Told::of(record))
                .filter(|told| !target.is_past(told.time))
                .collect();
            check_left_out(plan, &late, torn, differences);
        }
        self.check_rows(timeline, backup, stopped, differences);
    }

    /// The rows that the transactions left: exactly those whose commit was replayed, or is in the backup.
    fn check_rows(
        &self,
        timeline: TimelineId,
        backup: &BackupTaken,
        stopped: &Stopped,
        differences: &mut Vec<String>,
    ) {
        let start =
            self.intact.segments().first().map(|id| self.intact.segment_size().start_of(id.number)).unwrap();
        let whole = self.path(timeline, start, true);
        // The first segment of a timeline may be lost with its server: what is in the backup is not known then.
        let known = whole.end_lsn() >= backup.start_lsn;
        let path = if known { whole } else { self.path(timeline, backup.start_lsn, true) };
        let Some(earliest) = stopped.transactions.first() else {
            differences.push("the recovered server has no rows at all".to_owned());
            return;
        };
        let replayed: BTreeSet<u64> = path
            .commits()
            .filter(|(record, ..)| record.end <= stopped.replayed_to)
            .map(|(_, xid, _)| u64::from(xid.get()))
            .filter(|xid| xid >= earliest)
            .collect();
        let of_backups =
            |xid: &u64| self.history.backups.iter().any(|backup| backup.transactions.contains(xid));
        let missing: Vec<_> =
            replayed.difference(&stopped.transactions).filter(|xid| !of_backups(xid)).collect();
        let more: Vec<_> = stopped.transactions.difference(&replayed).filter(|_| known).collect();
        if !missing.is_empty() || !more.is_empty() {
            differences.push(format!("rows: missing={missing:?} unexpected={more:?}"));
        }
    }
}

fn check_left_out(plan: &Value, late: &[Told], torn: bool, differences: &mut Vec<String>) {
    let exact = plan["left_out_by_order_exact"] == true && !torn;
    let count = plan["left_out_by_order_count"].as_u64().unwrap_or(u64::MAX);
    let told: Vec<Told> =
        plan["left_out_by_order"].as_array().into_iter().flatten().filter_map(Told::read).collect();
    let right = if exact {
        count == late.len() as u64 && told.iter().eq(late.iter().take(100))
    } else {
        count <= late.len() as u64 && told.iter().all(|told| late.contains(told))
    };
    if !right {
        differences
            .push(format!("left_out_by_order: exact={exact} count={count} plan={told:?} records={late:?}"));
    }
}

fn timeline(number: u64) -> TimelineId {
    TimelineId::new(u32::try_from(number).unwrap()).unwrap()
}

/// The settings of a plan, and the least that it says are required.
fn settings_of(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let settings = plan["settings"].as_array().into_iter().flatten();
    let mut settings: Vec<(String, String)> =
        settings.map(|setting| (text(&setting["name"]), text(&setting["value"]))).collect();
    let required = plan["required"].as_object().into_iter().flatten();
    settings.extend(required.map(|(name, value)| (name.clone(), text(value))));
    settings
}

pub(crate) fn mismatch(target: &Target, answer: &Value, what: &str) -> Verdict {
    let telling =
        ["reason", "message", "target_timeline", "timeline_path", "stop", "nearest_before", "nearest_after"];
    let telling = telling.iter().filter(|key| !answer[**key].is_null());
    let said: Vec<String> = telling.map(|key| format!("  {key}: {}", answer[*key])).collect();
    let backup = answer["backup"]["id"].as_str().unwrap_or("none");
    let command = target.options().join(" ");
    Verdict::Mismatch(format!("walden plan {command}\n{what}\nwith backup {backup}:\n{}", said.join("\n")))
}
