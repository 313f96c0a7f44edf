//! Progress of long work, told to whoever wants to show it.

/// What a progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, such as segments.
    Count,
}

/// Takes the progress of one verb; a library draws no bars.
pub trait Progress: Send + Sync {
    /// A phase begins: what it is, and how much there is to do (0 when that is not known).
    fn begin(&self, phase: &str, unit: Unit, total: u64);
    /// So much more of the phase is done.
    fn advance(&self, amount: u64);
    /// Something to tell beside the phase, while it is so; `None` when it is so no more.
    fn note(&self, _note: Option<&str>) {}
    /// The phase is over.
    fn end(&self);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _phase: &str, _unit: Unit, _total: u64) {}
    fn advance(&self, _amount: u64) {}
    fn end(&self) {}
}
