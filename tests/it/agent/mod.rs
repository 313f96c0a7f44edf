//! The whole program with the agent in play: what held for hooks alone still holds.

mod acks;
mod bench;
mod kills;
mod lives;
mod stalls;
