//! Keeping what was promised: plans over listings, and runs that carry them out.
//!
//! The plan is `walden-core`'s; here is what it is made from and what is done with it. Invariants: everything is listed
//! under the lease before anything goes, a listing that fails ends the run, nothing goes that was not shown, and
//! after any step (and in the middle of any) the archive is usable and running again finishes the work. Why it is
//! so: `docs/adr/0014-retention-runs.md`.

mod audit;
mod check;
mod execute;
mod inventory;
mod pins;
mod planning;
mod rollups;
mod run;
mod uploads;

#[cfg(test)]
pub(crate) mod tests;

pub use audit::{RetentionLogEntry, retention_log};
pub use check::retention_checks;
pub use execute::RetentionStop;
pub use pins::{PinReport, PinRequest, pin, read_pins};
pub use run::{Allowed, RetentionReport, RetentionSurvey, apply_retention, stopping_warnings};
