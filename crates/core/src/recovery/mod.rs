//! Planning a recovery: from a snapshot of the catalog and a request to a plan with its proof, or a refusal.

mod answer;
mod detail;
mod path;
mod plan;
mod request;
mod window;

#[cfg(test)]
mod tests;

pub use answer::Need;
pub use detail::{
    ParameterMark, RecordSpan, RestorePointMark, SegmentDetail, SegmentEnd, TransactionEndMark,
};
pub use path::PathStep;
pub use plan::{
    BackupChoice, BackupRejection, Reach, RecoveryPlan, Refusal, RefusalReason, RejectedBackup, SegmentNeeds,
    Setting, plan_recovery,
};
pub use request::{RecoveryAction, RecoveryRequest, RecoveryTarget, TargetTimeline};
pub use window::{
    RecoveryWindow, RestorableBackup, RestorableRange, TimelineWindow, WindowGap, recovery_window,
};
