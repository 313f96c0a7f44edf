//! Test tools.

pub mod bench;
pub mod conformance;
pub mod craft;
pub mod fault;
pub mod history;
pub mod million;
pub mod postgres;
pub mod simulation;
pub mod stores;
pub mod testbench;
