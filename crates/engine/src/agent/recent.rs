//! What was archived lately: a rate over the life of an agent says nothing about now.

use std::collections::VecDeque;
use std::time::Duration;

use super::status::RecentStatus;

/// So far back it goes.
const OVER: Duration = Duration::from_mins(1);
/// Totals are taken down this often at most.
const EVERY: Duration = Duration::from_secs(2);

/// What was archived since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) stored_bytes: u64,
}

/// The totals of the last minute.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Duration, Totals)>);

impl Recent {
    /// Takes down the totals of now.
    pub(super) fn observe(&mut self, now: Duration, totals: Totals) {
        if self.0.back().is_some_and(|(at, _)| now.saturating_sub(*at) < EVERY) {
            return;
        }
        self.0.push_back((now, totals));
        // One is kept that is as old as it goes back, or older.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= OVER) {
            self.0.pop_front();
        }
    }

    /// What was archived since then.
    pub(super) fn status(&self, now: Duration, totals: Totals) -> RecentStatus {
        let Some((at, before)) = self.0.front() else { return RecentStatus::default() };
        RecentStatus {
            seconds: now.saturating_sub(*at).as_secs_f64(),
            archived_files: totals.files.saturating_sub(before.files),
            archived_bytes: totals.bytes.saturating_sub(before.bytes),
            stored_bytes: totals.stored_bytes.saturating_sub(before.stored_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_the_last_minute_does_not_count() {
        let at = Duration::from_secs;
        let totals = |files| Totals { files, bytes: files * 16, stored_bytes: files * 4 };
        let mut recent = Recent::default();
        assert_eq!(recent.status(at(0), totals(0)), RecentStatus::default());
        // A thousand files at once, and then one in ten seconds.
        recent.observe(at(0), totals(0));
        for second in 1..=600 {
            recent.observe(at(second), totals(1000 + second / 10));
        }
        let status = recent.status(at(600), totals(1060));
        assert!((60.0..=63.0).contains(&status.seconds), "{status:?}");
        assert!((6..=7).contains(&status.archived_files), "{status:?}");
        assert_eq!(status.archived_bytes, status.archived_files * 16);
        assert!(recent.0.len() < 40);
    }
}
