//! Test tools.

pub mod conformance;
pub mod fault;
pub mod postgres;
pub mod stores;
pub mod testbench;
