//! What was just proven not to be in the archive.
//!
//! A standby without a primary to stream from asks for the next segment and then for the next timeline's history, both
//! in vain, every `wal_retrieve_retry_interval`; 15 and later ask for the segment twice. One proof answers all of them.
//! It holds for [`HOLDS_FOR`], for standbys only, and only as long as nothing else is asked. Of the segment it answers
//! one more ask, and none after one for a history: what comes then comes after a wait, and a standby that is told to
//! promote looks for what was archived meanwhile one last time (`WaitForWALToBecomeAvailable` in
//! `src/backend/access/transam/xlogrecovery.c`). So an answer that can end a recovery, or that chooses the timeline of a
//! promotion, is given afresh.

use std::time::Duration;

use walden_core::Incarnation;
use walden_pg::{ArchiveFileName, SegmentName, TimelineId};
use walden_store::RetryBudget;

use super::super::Fetcher;
use crate::error::Result;

/// How long a proof holds.
pub(super) const HOLDS_FOR: Duration = Duration::from_secs(1);
/// So many keys are asked for: the marker, and newer histories before it.
const KEYS: usize = 3;

/// A proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Absence {
    /// The segment that is absent.
    pub(super) segment: SegmentName,
    /// When the proof began.
    pub(super) at: Duration,
    /// No history of a timeline after this one is in the archive.
    pub(super) no_history_after: Option<TimelineId>,
    /// The segment may be asked for once more.
    pub(super) again: bool,
}

impl Absence {
    /// Whether it answers this ask, which it may not do a second time.
    pub(super) fn answer(&mut self, name: ArchiveFileName, now: Duration) -> bool {
        self.covers(name, now) && {
            let again = std::mem::take(&mut self.again);
            again || !matches!(name, ArchiveFileName::Segment(_))
        }
    }

    fn covers(&self, name: ArchiveFileName, now: Duration) -> bool {
        let young = now.checked_sub(self.at).is_some_and(|age| age <= HOLDS_FOR);
        young
            && match name {
                ArchiveFileName::Segment(segment) => segment == self.segment,
                ArchiveFileName::History(timeline) => {
                    self.no_history_after.is_some_and(|newest| newest < timeline)
                }
                ArchiveFileName::Partial(_) | ArchiveFileName::BackupHistory { .. } => false,
            }
    }
}

/// What one small listing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// The archive was seen, and no newer history is in it.
    NothingNewer,
    /// The archive was seen, and there may be newer histories.
    Visible,
    /// Nothing that could be relied on.
    Nothing,
    /// This store can't be asked so.
    Unable,
}

/// Proves with one request that the archive can be seen, and that no history after that of `newest` is in it: in the
/// order of the keys, the marker comes next.
pub(super) async fn list_newer(
    fetcher: &Fetcher,
    incarnation: Incarnation,
    newest: TimelineId,
    budget: &RetryBudget,
) -> Result<Listed> {
    let layout = fetcher.ctx.layout().incarnation(incarnation);
    let after = layout.archive_file(ArchiveFileName::History(newest));
    let marker = layout.marker();
    let found = fetcher.ctx.store.first_keys_after(&layout.prefix(), after.as_str(), KEYS, budget).await?;
    let Some(found) = found else { return Ok(Listed::Unable) };
    Ok(match found.keys.iter().position(|key| key == marker.as_str()) {
        Some(0) => Listed::NothingNewer,
        Some(_) => Listed::Visible,
        None => Listed::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(absence: &Absence, name: &str, milliseconds: u64) -> bool {
        absence.covers(name.parse().unwrap(), Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_proof_answers_what_it_proved_and_for_a_moment() {
        let absence = Absence {
            segment: "000000020000000000000005".parse().unwrap(),
            at: Duration::from_secs(5),
            no_history_after: Some(TimelineId::new(2).unwrap()),
            again: true,
        };
        assert!(covers(&absence, "000000020000000000000005", 6000));
        assert!(covers(&absence, "00000003.history", 6000));
        assert!(covers(&absence, "00000004.history", 5000));
        assert!(!covers(&absence, "00000002.history", 5000));
        assert!(!covers(&absence, "000000020000000000000006", 5000));
        assert!(!covers(&absence, "000000020000000000000005.partial", 5000));
        assert!(!covers(&absence, "00000003.history", 6001));
        // A clock that went back proves nothing.
        assert!(!covers(&absence, "00000003.history", 4999));
        let without = Absence { no_history_after: None, ..absence };
        assert!(!covers(&without, "00000003.history", 5000));
    }
}
