//! Indexes of the WAL of real servers, and of WAL that was written for them.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]
#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

mod archive;
mod borders;
mod craft;
mod damage;
mod model;
mod statements;
