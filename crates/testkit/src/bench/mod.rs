//! The parts of `cargo xtask bench`: whole programs, side by side on one object store.
//!
//! A case is one tool doing one thing: pushing a backlog, fetching in order, asking for what is absent. It is run by a
//! worker, a small process of its own ([`worker::run`]), so that the kernel's own accounts of its children are exactly
//! the tool's ([`meter`]). The worker calls the hooks as PostgreSQL's archiver and its recovery call them
//! ([`hooks`]). [`store`] is the object store, [`delay`] makes it one far away, [`workload`] real WAL to work on, [`chart`] and [`statistics`] are for
//! the reader.

pub mod chart;
pub mod delay;
pub mod hooks;
pub mod meter;
pub mod statistics;
pub mod store;
pub mod worker;
pub mod workload;
