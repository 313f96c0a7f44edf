//! Verification: what to read of an archive, in which order, and what can't be restored because of what was found.
//!
//! [`plan_verify`] decides over an inventory and the memory of earlier proofs. Reading is the engine's part; what it
//! finds are [`Finding`]s, and [`Losses`] takes them out of a snapshot, so that the recovery planner can say what they cost.

mod finding;
mod losses;
mod memory;
mod plan;
mod record;
mod request;

#[cfg(test)]
mod tests;

pub use finding::{Finding, FindingKind, FindingVerdict};
pub use losses::{Consequences, Losses, consequences};
pub use memory::{PROOF_BYTES, Proof, ProofId, ProofMemory};
pub use plan::{
    BACKUP_PART_BYTES, Subject, Tally, VerifyInventory, VerifyObject, VerifyPlan, backup_parts, plan_verify,
};
pub use record::VerifyRecord;
pub use request::{VerifyLevel, VerifyRequest, VerifySample, VerifyScope, WalScope, wal_behind, wal_within};
