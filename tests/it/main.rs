//! End-to-end tests: the program as Postgres and people run it, against real servers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that can't go on ends loudly, and says where"
)]

mod agent;
mod checks;
mod drill;
mod faults;
mod find;
mod kills;
mod ownership;
mod recovery;
mod retention;
mod scale;
mod stores;
mod support;
mod tablespaces;
mod takeover;
mod verify;
