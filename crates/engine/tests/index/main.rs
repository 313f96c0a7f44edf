//! The WAL index in the archive: made by pushes of real segments, kept by rollups, and made again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on ends loudly"
)]

mod catalog;
mod large;
mod pipeline;
mod real;
mod support;
