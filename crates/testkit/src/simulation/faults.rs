//! What may go wrong with a request.

use std::time::Duration;

/// How often each fault happens, in thousandths of the requests that it can happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// An error, and nothing done.
    pub error_before: u16,
    /// Done, and reported as an error.
    pub error_after: u16,
    /// Done, and never answered.
    pub lost_answer: u16,
    /// Not answered for up to [`Faults::SLOW_MAX`]; who gives up meanwhile may see it carried out later all the same.
    pub slow: u16,
    /// The body of an answer ends too early, with an error or without.
    pub torn_read: u16,
    /// One bit of the body of an answer is flipped on its way.
    pub wrong_bytes: u16,
    /// Some of a removal of several objects is done.
    pub half_removed: u16,
    /// A page of a listing as it was a few seconds ago.
    pub stale_list: u16,
    /// An object that was overwritten as it was before.
    pub stale_read: u16,
    /// The actor crashes before its request is carried out.
    pub crash_before: u16,
    /// The actor crashes after its request was carried out and before it learns of it.
    pub crash_after: u16,
}

impl Faults {
    /// The longest that a slow request waits.
    pub const SLOW_MAX: Duration = Duration::from_secs(90);
    /// How old a stale listing is at most.
    pub const STALE_MAX: Duration = Duration::from_secs(5);
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        error_before: 0,
        error_after: 0,
        lost_answer: 0,
        slow: 0,
        torn_read: 0,
        wrong_bytes: 0,
        half_removed: 0,
        stale_list: 0,
        stale_read: 0,
        crash_before: 0,
        crash_after: 0,
    };

    /// Whether nothing goes wrong.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// What the store makes of a put that is to happen only if the name is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConditionalPuts {
    /// It keeps to the condition.
    #[default]
    Enforced,
    /// It overwrites, and says that all is well.
    Ignored,
    /// It refuses such a put, whatever is there.
    Unsupported,
}
