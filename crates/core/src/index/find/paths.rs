//! Which timeline a position belongs to, on the way to another timeline.

use std::collections::BTreeMap;

use walden_pg::{Lsn, TimelineHistory, TimelineId};

/// A position on a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The timeline.
    pub timeline: TimelineId,
    /// The position.
    pub lsn: Lsn,
}

/// The histories of all timelines, and the newest of them.
#[derive(Debug, Clone)]
pub struct Paths {
    histories: BTreeMap<TimelineId, TimelineHistory>,
    newest: TimelineId,
}

impl Paths {
    /// The paths that these histories tell; a timeline without one has no ancestors.
    #[must_use]
    pub fn new(histories: BTreeMap<TimelineId, TimelineHistory>, newest: TimelineId) -> Self {
        Self { histories, newest }
    }

    /// The timeline on which a position was written that is read from a segment of `timeline`: a segment in which a
    /// timeline begins has the end of its parent, too.
    #[must_use]
    pub fn timeline_of(&self, timeline: TimelineId, lsn: Lsn) -> TimelineId {
        self.histories.get(&timeline).map_or(timeline, |history| history.timeline_of(lsn))
    }

    /// Whether what happened at `place` is part of the past of `timeline`.
    #[must_use]
    pub fn leads_to(&self, place: Place, timeline: TimelineId) -> bool {
        self.timeline_of(timeline, place.lsn) == place.timeline
    }

    /// Whether a place is on the way to the newest timeline.
    #[must_use]
    pub fn is_on_newest(&self, place: Place) -> bool {
        self.leads_to(place, self.newest)
    }
}
