//! Drills: a real restore into a directory of its own, a server started there and questioned, and the evidence stored.
//!
//! What holds:
//! - The plan is the planner's, the restore is `walden restore`'s, and where recovery stopped is compared with the plan
//!   as there. Nothing is made easier for being a drill.
//! - The drilled server can reach nobody and change nothing outside of its directory (`isolation`): no archiving, no
//!   address, no other server, no jobs, no tablespace elsewhere.
//! - The repository is read; the only object that is written is the evidence, once.
//! - The directory goes with the drill, whatever ends it: an error, a signal, a panic. After `kill -9` a watchdog ends
//!   the server, and the next drill removes the directory (`place`).
//! - What was not looked at is never told as if it had been.

mod checks;
mod evidence;
mod isolation;
mod place;
mod request;
mod run;
mod session;
mod times;
mod watchdog;

pub use self::checks::CHECK_NAMES;
pub use self::evidence::{EvidenceList, UnreadableEvidence, list_evidence, read_evidence};
pub use self::request::{Assertion, DRILL_MAX_AGE, DRILL_TIMEOUT, DrillRequest, parse_assertions};
pub use self::run::{DrillReport, drill, random_seed};
