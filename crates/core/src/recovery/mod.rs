//! Planning a recovery: from a snapshot of the catalog and a request to a plan with its proof, or a refusal.

mod answer;
mod branches;
mod detail;
mod path;
mod plan;
mod refuse;
mod request;
mod settings;
mod stop;
mod walk;
mod warnings;
mod window;

#[cfg(test)]
pub(crate) mod tests;

pub use answer::{
    BackupChoice, BackupRejection, Commit, Estimate, Moment, Need, Planning, RecoveryPlan, RecoveryRates,
    Refusal, RefusalReason, RejectedBackup, SegmentNeeds, Setting, Stop, StopKind,
};
pub use detail::{
    ParameterMark, RecordSpan, RestorePointMark, SegmentDetail, SegmentEnd, TransactionEndMark,
};
pub use path::PathStep;
pub(crate) use path::TimelinePath;
pub use plan::plan_recovery;
pub use request::{RecoveryAction, RecoveryRequest, RecoveryTarget, TargetTimeline, postgres_time};
pub(crate) use stop::{pg_time, timestamp};
pub use window::{
    RecoveryWindow, RestorableBackup, RestorableRange, TimelineWindow, WindowGap, Windowing, recovery_window,
};
