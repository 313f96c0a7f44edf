//! Runs over a store in memory: what goes, what stays plannable wherever a run is cut short, and who is stopped.

mod runs;
mod store;
mod world;

/// A context over an archive in memory that has no WAL, for tests of others who write there.
pub(crate) fn empty_archive() -> (crate::context::Context, walden_core::IncarnationLayout) {
    (world::World::new().context(), world::layout())
}
