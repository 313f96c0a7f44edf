//! The whole program with the agent in play: what held for hooks alone still holds.

mod acks;
mod backlog;
mod bench;
mod gets;
mod kills;
mod lives;
mod recovery;
mod soak;
mod stalls;
