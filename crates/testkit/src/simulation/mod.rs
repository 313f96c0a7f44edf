//! A stage for actors that share a store: every request of theirs is carried out one at a time, in an order that a seed
//! decides, and goes wrong as the seed decides.
//!
//! The stage stands in for the store, the network and the moment of a crash. It must run on a single-threaded runtime
//! whose clock is paused: that clock moves only when nothing is left to do, and so each request is chosen when every
//! actor waits for an answer or for time to pass. Threads that actors use for blocking work are waited for as well.
//! What an actor does between two requests must be a function of the answers that it got; then the seed decides all.
//!
//! Not here: what goes wrong below HTTP and in it (`stores::S3Server` does that), and crashes between two local file
//! operations (the campaign of kills does).

mod clock;
mod faults;
mod stage;
mod state;
mod store;

pub use clock::{EPOCH_SECONDS, SimulatedClock};
pub use faults::{ConditionalPuts, Faults};
pub use stage::{ActorId, Defect, Stage};
pub use state::{Effect, Stored};
pub use store::ActorStore;
