//! Whether a server stopped where its plan said.
//!
//! What counts is the end of the last record applied (`pg_last_wal_replay_lsn()`), which stays readable at a pause and
//! after a promotion. A server that has ended, or lets nobody in, is judged by its own line in the log: the messages
//! of `recoveryStopsBefore` and `recoveryStopsAfter` (`src/backend/access/transam/xlogrecovery.c`, before 15 `xlog.c`),
//! and by how far `pg_control` says that it has written. One position may be on several timelines, so what is seen of
//! the timeline is compared, too.

use walden_core::{RecoveryPlan, RecoveryTarget, Stop, StopKind};
use walden_pg::{Lsn, TimelineId, Xid};

use crate::restore::report::{StopCheck, StopOutcome};

/// What a server was seen to have done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen<'a> {
    /// The end of the last record applied, when it could be asked.
    pub(super) replay_lsn: Option<Lsn>,
    /// The position that `pg_control` says must be replayed to before the files are consistent, and its timeline: never
    /// past what was replayed.
    pub(super) written_to: Option<(Lsn, TimelineId)>,
    /// The timeline that a promoted server followed until then, by the history that it wrote.
    pub(super) followed: Option<TimelineId>,
    /// The server's line about its stop, without what precedes it.
    pub(super) stop_message: Option<&'a str>,
}

/// What a plan says of the end of its recovery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned<'a> {
    pub(super) target: &'a RecoveryTarget,
    /// The timeline that recovery follows.
    pub(super) timeline: TimelineId,
    pub(super) stop: &'a Stop,
}

impl<'a> Planned<'a> {
    pub(super) fn of(plan: &'a RecoveryPlan) -> Self {
        Self { target: &plan.request.target, timeline: plan.target_timeline, stop: &plan.stop }
    }

    /// Whether what is archived after the plan was made may lead further.
    fn may_grow(&self) -> bool {
        *self.target == RecoveryTarget::Latest
    }
}

/// Compares what was seen with the stop of a plan.
pub(super) fn judge(plan: Planned<'_>, seen: Seen<'_>) -> StopCheck {
    let planned = plan.stop.replayed_to;
    let (outcome, message) = match (another_timeline(plan, seen), seen.replay_lsn) {
        (Some(message), _) => (StopOutcome::Elsewhere, message),
        (None, Some(lsn)) if lsn == planned => (StopOutcome::AsPlanned, format!("replayed to {lsn}")),
        (None, Some(lsn)) if lsn > planned && plan.may_grow() => {
            let message =
                format!("replayed to {lsn}: more was archived after the plan, which ends at {planned}");
            (StopOutcome::ArchiveGrew, message)
        }
        (None, Some(lsn)) => {
            (StopOutcome::Elsewhere, format!("replayed to {lsn}, and the plan says {planned}"))
        }
        (None, None) => judge_by_marks(plan, seen),
    };
    StopCheck { outcome, planned_lsn: planned, replayed_to: seen.replay_lsn, message }
}

/// What shows that another timeline was followed than the plan's. Timelines rise along a path, so what was replayed
/// before the stop is never of a higher one than the stop.
fn another_timeline(plan: Planned<'_>, seen: Seen<'_>) -> Option<String> {
    if let Some(followed) = seen.followed.filter(|followed| *followed != plan.timeline) {
        return Some(format!("it followed timeline {followed}, and the plan follows {}", plan.timeline));
    }
    let (lsn, timeline) = seen.written_to?;
    let stop = plan.stop;
    let other = (timeline > stop.timeline && !plan.may_grow())
        || (lsn == stop.replayed_to && timeline != stop.timeline);
    let told = || format!("it replayed {lsn} on timeline {timeline}, and the plan ends on {}", stop.timeline);
    other.then(told)
}

fn judge_by_marks(plan: Planned<'_>, seen: Seen<'_>) -> (StopOutcome, String) {
    let planned = plan.stop.replayed_to;
    let written = seen.written_to.map(|(lsn, _)| lsn);
    if let Some(written) = written.filter(|written| *written > planned && !plan.may_grow()) {
        let message = format!("pg_control needs WAL up to {written}, and the plan ends at {planned}");
        return (StopOutcome::Elsewhere, message);
    }
    let Some(said) = seen.stop_message else {
        return match plan.stop.kind {
            StopKind::EndOfWal => {
                (StopOutcome::Unknown, "it could not be asked how far it replayed".to_owned())
            }
            _ => {
                (StopOutcome::Unknown, "it could not be asked, and its log says nothing of a stop".to_owned())
            }
        };
    };
    match agrees(plan.target, plan.stop, said) {
        Some(true) => (StopOutcome::AsPlanned, format!("by its log: {said}")),
        Some(false) => (StopOutcome::Elsewhere, format!("its log says: {said}")),
        None => (StopOutcome::Unknown, format!("its log does not tell enough: {said}")),
    }
}

/// Whether the server's line is the one that the plan leads to; `None` when it can't be told.
fn agrees(target: &RecoveryTarget, stop: &Stop, said: &str) -> Option<bool> {
    let rest = said.strip_prefix("recovery stopping ")?;
    let before = |word: &str| rest.starts_with(word);
    Some(match stop.kind {
        StopKind::BeforeTransactionEnd => {
            // The plan names the commit that it stops before. Where the first one left out lies behind the stop, the
            // record at the stop is an abort, whose transaction it does not name.
            let commit = stop.first_left_out.filter(|commit| commit.lsn == stop.lsn);
            match commit {
                Some(commit) => {
                    before("before commit of transaction ") && transaction(rest) == Some(commit.xid)
                }
                None if before("before abort of transaction ") => return None,
                None => false,
            }
        }
        StopKind::BeforeTransaction => before("before ") && transaction(rest) == target_xid(target),
        StopKind::AfterTransaction => before("after ") && transaction(rest) == target_xid(target),
        StopKind::BeforeLsn => before("before WAL location") && position(rest) == Some(stop.lsn),
        StopKind::AfterLsn => before("after WAL location") && position(rest) == Some(stop.lsn),
        StopKind::AfterRestorePoint => match target {
            RecoveryTarget::Name(name) => before(&format!("at restore point \"{name}\"")),
            _ => false,
        },
        StopKind::AtConsistency => before("after reaching consistency"),
        StopKind::EndOfWal => false,
    })
}

fn target_xid(target: &RecoveryTarget) -> Option<Xid> {
    match target {
        RecoveryTarget::Xid(xid) => u32::try_from(*xid & 0xFFFF_FFFF).ok().map(Xid::new),
        _ => None,
    }
}

/// The number after `transaction`.
fn transaction(said: &str) -> Option<Xid> {
    let (_, number) = said.split_once(" transaction ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(Xid::new)
}

/// The position in quotes.
fn position(said: &str) -> Option<Lsn> {
    said.split('"').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use walden_core::Commit;
    use walden_pg::TimelineId;

    use super::*;

    #[test]
    fn the_servers_words_are_read() {
        let said = "before commit of transaction 741, time 2026-11-20 11:54:22.373184+00";
        assert_eq!(transaction(said), Some(Xid::new(741)));
        assert_eq!(transaction("after abort of transaction 4294967295, time x"), Some(Xid::new(u32::MAX)));
        assert_eq!(transaction("after reaching consistency"), None);
        let said = "after WAL location (LSN) \"16/B374D848\"";
        assert_eq!(position(said), Some("16/B374D848".parse().unwrap()));
        assert_eq!(position("before WAL location (LSN) \"0/01000028\""), Some(Lsn::new(0x0100_0028)));
        assert_eq!(position("after reaching consistency"), None);
    }

    fn stop(kind: StopKind) -> Stop {
        let commit =
            |xid, lsn| Commit { xid: Xid::new(xid), time: Timestamp::UNIX_EPOCH, lsn: Lsn::new(lsn) };
        Stop {
            lsn: Lsn::new(0x300),
            replayed_to: Lsn::new(0x2f8),
            timeline: TimelineId::FIRST,
            kind,
            last_kept: Some(commit(740, 0x200)),
            first_left_out: Some(commit(741, 0x300)),
            commits_left_out: 3,
            commits_left_out_exact: true,
        }
    }

    fn judged(target: &RecoveryTarget, stop: &Stop, seen: Seen<'_>) -> StopOutcome {
        judge(Planned { target, timeline: TimelineId::FIRST, stop }, seen).outcome
    }

    fn by_lsn(target: &RecoveryTarget, lsn: u64) -> StopOutcome {
        let seen = Seen { replay_lsn: Some(Lsn::new(lsn)), ..Seen::default() };
        judged(target, &stop(StopKind::BeforeTransactionEnd), seen)
    }

    fn by_log(target: &RecoveryTarget, kind: StopKind, said: &str) -> StopOutcome {
        let seen = Seen { stop_message: Some(said), ..Seen::default() };
        judged(target, &stop(kind), seen)
    }

    #[test]
    fn the_position_decides_and_only_without_a_target_it_may_be_further() {
        let time = RecoveryTarget::Time(Timestamp::UNIX_EPOCH);
        assert_eq!(by_lsn(&time, 0x2f8), StopOutcome::AsPlanned);
        for elsewhere in [0x2f0, 0x300] {
            assert_eq!(by_lsn(&time, elsewhere), StopOutcome::Elsewhere);
        }
        assert_eq!(by_lsn(&RecoveryTarget::Latest, 0x400), StopOutcome::ArchiveGrew);
        assert_eq!(by_lsn(&RecoveryTarget::Latest, 0x200), StopOutcome::Elsewhere);
    }

    #[test]
    fn without_an_answer_the_log_decides() {
        let time = RecoveryTarget::Time(Timestamp::UNIX_EPOCH);
        let (xid, name) = (RecoveryTarget::Xid((1 << 32) + 742), RecoveryTarget::Name("a\"b".to_owned()));
        let lsn = RecoveryTarget::Lsn(Lsn::new(0x2f9));
        let immediate = RecoveryTarget::Immediate;
        let as_planned = [
            (&time, StopKind::BeforeTransactionEnd, "before commit of transaction 741, time x"),
            (&xid, StopKind::AfterTransaction, "after abort of transaction 742, time x"),
            (&xid, StopKind::BeforeTransaction, "before commit of transaction 742, time x"),
            (&lsn, StopKind::AfterLsn, "after WAL location (LSN) \"0/300\""),
            (&lsn, StopKind::BeforeLsn, "before WAL location (LSN) \"0/300\""),
            (&name, StopKind::AfterRestorePoint, "at restore point \"a\"b\", time x"),
            (&immediate, StopKind::AtConsistency, "after reaching consistency"),
        ];
        for (target, kind, said) in as_planned {
            let said = format!("recovery stopping {said}");
            assert_eq!(by_log(target, kind, &said), StopOutcome::AsPlanned, "{said}");
        }
        let elsewhere = [
            (&time, StopKind::BeforeTransactionEnd, "before commit of transaction 740, time x"),
            (&xid, StopKind::AfterTransaction, "before commit of transaction 742, time x"),
            (&xid, StopKind::AfterTransaction, "after commit of transaction 743, time x"),
            (&lsn, StopKind::AfterLsn, "after WAL location (LSN) \"0/308\""),
            (&name, StopKind::AfterRestorePoint, "at restore point \"a\", time x"),
            (&immediate, StopKind::EndOfWal, "after reaching consistency"),
        ];
        for (target, kind, said) in elsewhere {
            let said = format!("recovery stopping {said}");
            assert_eq!(by_log(target, kind, &said), StopOutcome::Elsewhere, "{said}");
        }
        let aborted = "recovery stopping before abort of transaction 741, time x";
        assert_eq!(by_log(&time, StopKind::BeforeTransactionEnd, aborted), StopOutcome::Elsewhere);
    }

    #[test]
    fn a_stop_before_an_abort_is_no_stop_before_the_commit_behind_it() {
        let time = RecoveryTarget::Time(Timestamp::UNIX_EPOCH);
        let by_log = |left_out: Option<u64>, said: &str| {
            let mut stop = stop(StopKind::BeforeTransactionEnd);
            stop.first_left_out = stop
                .first_left_out
                .zip(left_out)
                .map(|(commit, lsn)| Commit { lsn: Lsn::new(lsn), ..commit });
            judged(&time, &stop, Seen { stop_message: Some(said), ..Seen::default() })
        };
        let (abort, commit) = (
            "recovery stopping before abort of transaction 9, time x",
            "recovery stopping before commit of transaction 741, time x",
        );
        for behind in [Some(0x400), None] {
            // Which abort is not told.
            assert_eq!(by_log(behind, abort), StopOutcome::Unknown);
            // The number is right, the place is not.
            assert_eq!(by_log(behind, commit), StopOutcome::Elsewhere);
        }
        assert_eq!(by_log(Some(0x300), commit), StopOutcome::AsPlanned);
    }

    #[test]
    fn files_written_past_the_plan_are_never_as_planned() {
        let said = Some("recovery stopping before commit of transaction 741, time x");
        let time = RecoveryTarget::Time(Timestamp::UNIX_EPOCH);
        let judged = |written_to| {
            let written_to = Some((Lsn::new(written_to), TimelineId::FIRST));
            let seen = Seen { written_to, stop_message: said, ..Seen::default() };
            judged(&time, &stop(StopKind::BeforeTransactionEnd), seen)
        };
        assert_eq!(judged(0x2f8), StopOutcome::AsPlanned);
        assert_eq!(judged(0x300), StopOutcome::Elsewhere);
    }

    #[test]
    fn the_right_position_on_another_timeline_is_elsewhere() {
        let (time, latest) = (RecoveryTarget::Time(Timestamp::UNIX_EPOCH), RecoveryTarget::Latest);
        let (first, second) = (TimelineId::FIRST, TimelineId::new(2).unwrap());
        let here = Seen { replay_lsn: Some(Lsn::new(0x2f8)), ..Seen::default() };
        let judged = |target, seen| judged(target, &stop(StopKind::BeforeTransactionEnd), seen);
        for target in [&time, &latest] {
            assert_eq!(judged(target, Seen { followed: Some(first), ..here }), StopOutcome::AsPlanned);
            assert_eq!(judged(target, Seen { followed: Some(second), ..here }), StopOutcome::Elsewhere);
        }
        let written = |lsn, timeline| Seen { written_to: Some((Lsn::new(lsn), timeline)), ..here };
        assert_eq!(judged(&time, written(0x200, first)), StopOutcome::AsPlanned);
        assert_eq!(judged(&time, written(0x200, second)), StopOutcome::Elsewhere);
        assert_eq!(judged(&time, written(0x2f8, second)), StopOutcome::Elsewhere);
        assert_eq!(judged(&latest, written(0x2f8, second)), StopOutcome::Elsewhere);
    }
}
