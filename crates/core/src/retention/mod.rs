//! Retention: from an inventory of what is there and a policy to a plan of what goes, in an order that leaves a usable
//! archive at every instant.
//!
//! Invariants, whatever the policy: never the last restorable backup, never anything that a kept backup needs (its WAL
//! from start to stop, the backups it stands on, histories), never anything younger than a running backup, never a
//! pinned backup, never WAL from which a promised moment is restored, never what is not known or can't be read.
//! [`check_plan`] checks them by other means than [`plan_retention`] keeps them.
//!
//! Not here: reading listings, leases, removing.

mod answer;
mod check;
mod diff;
mod groups;
mod inventory;
mod keep;
mod life;
mod order;
mod plan;
mod policy;
mod reasons;
mod records;
mod removal;
mod spans;
mod wal;
mod warnings;
mod windows;

#[cfg(test)]
mod tests;

pub use answer::{
    Deletion, GroupKind, LogDirectory, LostMoments, ObjectGroup, Retaining, RetentionNeed, RetentionPlan,
    RetentionRefusal, RetentionRefusalReason, RetentionWarning, RetentionWarningKind, Totals, WindowChange,
};
pub use check::{Broken, check_plan};
pub use diff::{GroupChange, PlanDiff, diff_plans};
pub use inventory::{
    BackupObjects, FileObject, IncarnationInventory, Inventory, OpenUpload, Pin, RecordObject, RecordRole,
    RunningBackup, Written,
};
pub use plan::plan_retention;
pub use policy::{HowLong, PolicyError, PolicyZone, PromisedWindow, RetentionPolicy};
pub use reasons::{Fate, KeepReason, RemoveReason, Tier};
pub use records::{
    BackupName, LeaseRecord, LeaseState, PinRecord, RetentionBegun, RetentionDone, RetentionOutcome,
    RetentionRunRecord,
};
pub use removal::plan_removal;
pub(crate) use windows::changes as window_changes;
