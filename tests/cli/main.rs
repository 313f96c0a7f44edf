//! The command line as a program: what it prints, what it answers to programs, how it ends.
//!
//! A data directory is mostly made of the fixtures of `crates/pg`; a server runs where a verb needs one. What must hold
//! end to end is in `tests/it`.
//! Snapshots are renewed with `INSTA_UPDATE=always cargo test -p walden --test cli`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a test ends with the first surprise"
)]

mod agent;
mod docs;
mod errors;
mod help;
mod hooks;
mod json;
mod live;
mod shapes;
mod support;
mod texts;
