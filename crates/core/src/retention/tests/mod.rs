//! Plans over small archives made by hand, and over random ones.

mod model;
mod proof;
mod rules;
mod wal_rules;
