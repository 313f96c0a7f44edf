//! The command line as a program: what it prints, what it answers to programs, how it ends.
//!
//! No server runs here: a data directory is made of the fixtures of `crates/pg`. Real servers are in `tests/it`.
//! Snapshots are renewed with `INSTA_UPDATE=always cargo test -p walden --test cli`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a test ends with the first surprise"
)]

mod errors;
mod help;
mod hooks;
mod json;
mod support;
mod texts;
