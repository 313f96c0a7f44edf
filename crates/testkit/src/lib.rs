//! Test tools.

pub mod postgres;
pub mod testbench;
