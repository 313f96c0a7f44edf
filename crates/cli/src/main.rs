//! The `walden` program.
fn main() {}
