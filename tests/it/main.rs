//! End-to-end tests: the program as Postgres and people run it, against real servers.

mod faults;
mod kills;
mod ownership;
mod recovery;
mod stores;
mod support;
mod takeover;
