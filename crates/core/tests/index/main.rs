//! Indexes of the WAL of real servers.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]
#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

mod archive;
mod model;
mod statements;
