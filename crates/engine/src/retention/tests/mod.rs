//! Runs over a store in memory: what goes, what stays plannable wherever a run is cut short, and who is stopped.

mod runs;
mod store;
mod world;
