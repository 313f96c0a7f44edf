//! How a backup gives way: to a limit on what it reads, and to WAL that waits to be archived.
//!
//! An agent that archives for the same data directory is asked every second how its queue does. While WAL waits too
//! long, or the queue grows, readers pause between chunks. They never stop for good: a reader that paused for
//! [`CHUNK_PAUSE_MAX`] reads another chunk, and after [`HOLD_MAX`] in all the backup goes on at full speed, because a
//! backup that never ends helps nobody. Asking fails no backup: no answer means that there is nobody to give way to.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use walden_store::RateLimiter;

use crate::agent::AgentStatus;
use crate::progress::Progress;

/// A backup gives way for so long at most, pauses added up.
pub const HOLD_MAX: Duration = Duration::from_mins(30);
/// A reader waits for so long at most between two chunks.
const CHUNK_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A reader that waits looks so often whether it still must.
const LOOK: Duration = Duration::from_millis(20);
/// How often the agent is asked …
const ASK_EVERY: Duration = Duration::from_secs(1);
/// … and how often it is looked for while there is none.
const FIND_EVERY: Duration = Duration::from_secs(10);
/// WAL that waits longer than this, in seconds, is given way to.
const WAIT_MAX: f64 = 10.0;
/// A queue with so many files that grew each of the last [`GROWTHS`] times is given way to.
const GROWING_FILES: u64 = 4;
const GROWTHS: u32 = 3;
/// The way is free again when no more files wait than this, and none for longer than [`CALM_WAIT`] seconds.
const CALM_FILES: u64 = 1;
const CALM_WAIT: f64 = 5.0;

/// The pace of the readers of one backup.
#[derive(Debug)]
pub(super) struct Pace {
    limiter: Option<RateLimiter>,
    hold: AtomicBool,
    held_millis: AtomicU64,
}

impl Pace {
    /// A pace of so many bytes read each second at most, all readers together.
    pub(super) fn new(max_read_rate: Option<NonZeroU64>) -> Self {
        let limiter = max_read_rate.map(RateLimiter::new);
        Self { limiter, hold: AtomicBool::new(false), held_millis: AtomicU64::new(0) }
    }

    /// Called by a reader behind every chunk: waits as long as it must, and not when all is stopped.
    pub(super) fn after(&self, bytes: u64, stopped: &AtomicBool) {
        let limited = self.limiter.as_ref().map_or(Duration::ZERO, |limiter| limiter.book(bytes));
        let mut waited = Duration::ZERO;
        loop {
            let held = self.hold.load(Ordering::Relaxed) && waited < CHUNK_PAUSE_MAX;
            if stopped.load(Ordering::Relaxed) || (waited >= limited && !held) {
                return;
            }
            let pause = if held { LOOK } else { limited.saturating_sub(waited).min(LOOK) };
            std::thread::sleep(pause);
            waited += pause;
        }
    }

    /// How long the readers were held up for WAL.
    pub(super) fn held(&self) -> Duration {
        Duration::from_millis(self.held_millis.load(Ordering::Relaxed))
    }
}

/// Holds the readers while the agent has too much to do, for ever. `ask` may block.
pub(super) async fn give_way(
    pace: Arc<Pace>,
    progress: Arc<dyn Progress>,
    ask: impl Fn() -> Option<AgentStatus> + Send + Sync + 'static,
) {
    let ask = Arc::new(ask);
    let mut way = Way::default();
    let mut held = Duration::ZERO;
    let mut asked_at = Instant::now();
    loop {
        let asking = Arc::clone(&ask);
        let status = tokio::task::spawn_blocking(move || asking()).await.unwrap_or_default();
        let was_held = pace.hold.load(Ordering::Relaxed);
        if was_held {
            held += asked_at.elapsed();
            pace.held_millis.store(u64::try_from(held.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        asked_at = Instant::now();
        let hold = way.must_hold(status.as_ref()) && held < HOLD_MAX;
        pace.hold.store(hold, Ordering::Relaxed);
        if hold != was_held {
            tell(progress.as_ref(), hold, held, status.as_ref());
        }
        tokio::time::sleep(if status.is_some() { ASK_EVERY } else { FIND_EVERY }).await;
    }
}

fn tell(progress: &dyn Progress, hold: bool, held: Duration, status: Option<&AgentStatus>) {
    progress.note(hold.then_some("giving way to WAL"));
    let (files, waited) =
        status.map_or((0, 0.0), |status| (status.push.queue_files, status.push.unarchived_seconds));
    if hold {
        tracing::info!(files, waited, "WAL waits to be archived: the backup reads slower");
    } else if held >= HOLD_MAX {
        tracing::warn!(
            files,
            waited,
            held = held.as_secs(),
            "WAL still waits, but the backup must end: it goes on at full speed"
        );
    } else {
        tracing::info!(files, waited, held = held.as_secs(), "the backup goes on");
    }
}

/// Whether to give way, by one look after the other.
#[derive(Debug, Default)]
struct Way {
    holding: bool,
    files: Option<u64>,
    growths: u32,
}

impl Way {
    fn must_hold(&mut self, status: Option<&AgentStatus>) -> bool {
        let Some(push) = status.map(|status| &status.push) else {
            *self = Self::default();
            return false;
        };
        let (files, waited) = (push.queue_files, push.unarchived_seconds);
        self.growths = match self.files {
            Some(before) if files > before => self.growths + 1,
            Some(before) if files == before => self.growths,
            _ => 0,
        };
        self.files = Some(files);
        self.holding = if self.holding {
            files > CALM_FILES || (files > 0 && waited > CALM_WAIT)
        } else {
            (files > 0 && waited > WAIT_MAX) || (files >= GROWING_FILES && self.growths >= GROWTHS)
        };
        self.holding
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::progress::Unit;

    fn status(files: u64, waited: f64) -> AgentStatus {
        let mut status: AgentStatus =
            serde_json::from_str(include_str!("../agent/http/status.json")).unwrap();
        (status.push.queue_files, status.push.unarchived_seconds) = (files, waited);
        status
    }

    fn looks(looks: &[(u64, f64)]) -> Vec<bool> {
        let mut way = Way::default();
        looks.iter().map(|(files, waited)| way.must_hold(Some(&status(*files, *waited)))).collect()
    }

    #[test]
    fn wal_that_waits_long_is_given_way_to_until_it_is_archived() {
        let seen = looks(&[(1, 9.0), (1, 11.0), (1, 6.0), (2, 1.0), (1, 4.0), (1, 9.0), (0, 0.0)]);
        assert_eq!(seen, [false, true, true, true, false, false, false]);
    }

    #[test]
    fn a_queue_that_grows_is_given_way_to_and_one_that_stands_is_not() {
        assert_eq!(
            looks(&[(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)]),
            [false, false, false, true, true]
        );
        assert_eq!(looks(&[(9, 1.0), (9, 1.0), (9, 1.0), (9, 1.0)]), [false; 4]);
        assert_eq!(looks(&[(4, 1.0), (5, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)]), [false; 5]);
        assert_eq!(looks(&[(0, 99.0)]), [false], "what waits no more waited for nothing");
    }

    #[test]
    fn without_an_agent_there_is_nobody_to_give_way_to() {
        let mut way = Way::default();
        assert!(way.must_hold(Some(&status(5, 60.0))));
        assert!(!way.must_hold(None));
    }

    #[derive(Default)]
    struct Notes(Mutex<Vec<Option<String>>>);

    impl Progress for Notes {
        fn begin(&self, _: &str, _: Unit, _: u64) {}
        fn advance(&self, _: u64) {}
        fn note(&self, note: Option<&str>) {
            self.0.lock().unwrap().push(note.map(str::to_owned));
        }
        fn end(&self) {}
    }

    /// Gives way to what the looks see, the last one for ever, for `time`.
    async fn held_in(time: Duration, looks: Vec<Option<AgentStatus>>) -> (Arc<Pace>, Vec<Option<String>>) {
        let (pace, notes) = (Arc::new(Pace::new(None)), Arc::new(Notes::default()));
        let looks = Mutex::new(VecDeque::from(looks));
        let ask = move || {
            let mut looks = looks.lock().unwrap();
            if looks.len() > 1 { looks.pop_front().flatten() } else { looks.front().cloned().flatten() }
        };
        let way = give_way(Arc::clone(&pace), Arc::clone(&notes) as Arc<dyn Progress>, ask);
        assert!(tokio::time::timeout(time, way).await.is_err());
        let told = notes.0.lock().unwrap().clone();
        (pace, told)
    }

    #[tokio::test(start_paused = true)]
    async fn giving_way_is_told_and_counted() {
        let looks =
            vec![Some(status(0, 0.0)), Some(status(1, 20.0)), Some(status(1, 21.0)), Some(status(0, 0.0))];
        let (pace, told) = held_in(Duration::from_secs(30), looks).await;
        assert_eq!(told, [Some("giving way to WAL".to_owned()), None]);
        assert!(!pace.hold.load(Ordering::Relaxed));
        assert_eq!(pace.held(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_archive_that_is_down_for_good_does_not_hold_a_backup_for_ever() {
        let (pace, told) = held_in(Duration::from_hours(5), vec![Some(status(500, 9999.0))]).await;
        assert_eq!(told.len(), 2);
        assert!(!pace.hold.load(Ordering::Relaxed));
        assert!(pace.held() >= HOLD_MAX && pace.held() < HOLD_MAX + Duration::from_secs(5));
    }

    #[test]
    fn a_reader_that_is_held_goes_on_after_a_while_and_when_it_is_stopped() {
        let (pace, stopped) = (Pace::new(NonZeroU64::new(1)), AtomicBool::new(true));
        pace.hold.store(true, Ordering::Relaxed);
        // A byte a second: only being stopped ends this within the time of a test.
        pace.after(1 << 40, &stopped);
        let pace = Pace::new(None);
        pace.hold.store(true, Ordering::Relaxed);
        pace.after(1 << 40, &AtomicBool::new(false));
    }
}
