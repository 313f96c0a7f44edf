//! An agent and its hooks in one process, over real directories and stores.

mod bench;
mod lives;
mod pushes;
mod strangers;
