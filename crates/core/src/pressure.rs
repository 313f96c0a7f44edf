//! How long until pg_wal is full at the present rates.
//!
//! PostgreSQL keeps every segment until it is archived. While WAL is made faster than it is archived the queue grows,
//! and when the file system that holds pg_wal is full, the server stops (`PANIC`, xlog.c). What is archived is used
//! again or removed by the next checkpoints; so it is the growth of the queue that fills the disk, not the WAL that
//! is made.
//!
//! The growth is taken from the shortest of three stretches of time in which the queue changed by more than segments
//! being counted whole can explain. So an archive that stopped a moment ago is seen soon, a burst that was archived
//! meanwhile is forgotten, and a slow leak shows over hours. Stamps that contradict each other are not used.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use walden_pg::WalSegmentSize;

/// The stretches that are looked at before everything that is known, shortest first.
const WINDOWS: [Duration; 2] = [Duration::from_mins(5), Duration::from_mins(30)];
/// Rates over less than this say nothing.
const SPAN_MIN: Duration = Duration::from_secs(30);
/// WAL is counted in whole segments: a queue that changed by no more than so many of them did not change.
const NOISE_SEGMENTS: u64 = 2;
/// So many samples are made of the stamps of files at most.
const SAMPLES_OF_MARKS: u32 = 128;
/// Stamps may lie so far in the future before they are not believed: file systems have clocks of their own.
const FUTURE_MAX: Duration = Duration::from_mins(1);

/// What was known of the WAL at one moment. Counted from any fixed beginning, in whole segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSample {
    /// The moment, on a clock that should not step; from any fixed beginning.
    pub at: Duration,
    /// Bytes of WAL finished up to now.
    pub made_bytes: u64,
    /// Bytes of WAL archived up to now.
    pub archived_bytes: u64,
    /// Bytes of WAL that wait to be archived.
    pub waiting_bytes: u64,
}

/// One segment as its files tell of it: for samples where nobody took any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalMark {
    /// When the segment was finished, since the epoch of the clock: the time of its `.ready` or `.done` file.
    pub made_at: Duration,
    /// When it was archived: the time at which `.ready` became `.done`; `None` while it waits.
    pub archived_at: Option<Duration>,
}

/// The room that WAL has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSpace {
    /// Bytes of the file system of pg_wal that are free to the server's account.
    pub free_bytes: u64,
    /// Bytes of that file system.
    pub total_bytes: u64,
    /// Bytes of segments that were made ahead, into which WAL goes before it takes any free space; 0 if not known.
    pub ahead_bytes: u64,
}

/// Whether and when pg_wal is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Pressure {
    /// The queue does not grow.
    NotFilling,
    /// The queue grows.
    Fills {
        /// In so many seconds there is no room left.
        seconds: u64,
    },
    /// There is no room for another segment.
    Full,
    /// It can't be said.
    Unknown {
        /// Why.
        reason: PressureUnknown,
    },
}

/// Why nothing can be said of the rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PressureUnknown {
    /// Nothing was seen yet, or for too short a time.
    TooShort,
    /// The stamps of files lie in the future: the clock was set back.
    ClockStepped,
}

/// The pressure on pg_wal with all that it was judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPressure {
    /// The judgement.
    #[serde(flatten)]
    pub pressure: Pressure,
    /// Bytes of WAL made each second; of the stretch that was judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_bytes_per_second: Option<u64>,
    /// Bytes of WAL archived each second, over the same stretch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_bytes_per_second: Option<u64>,
    /// The length of that stretch in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_seconds: Option<u64>,
    /// Bytes of WAL that wait to be archived.
    pub waiting_bytes: u64,
    /// Bytes of WAL for which there is room: free, and made ahead.
    pub room_bytes: u64,
    /// Bytes of the file system that are free.
    pub free_bytes: u64,
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// The arithmetic in words.
    pub detail: String,
}

/// Rates over one stretch of time.
#[derive(Debug, Clone, Copy)]
struct Rates {
    span: Duration,
    made: u64,
    archived: u64,
}

impl Rates {
    fn between(first: &WalSample, last: &WalSample) -> Self {
        Self {
            span: last.at.saturating_sub(first.at),
            made: last.made_bytes.saturating_sub(first.made_bytes),
            archived: last.archived_bytes.saturating_sub(first.archived_bytes),
        }
    }

    fn per_second(&self, bytes: u64) -> u64 {
        let millis = self.span.as_millis().max(1);
        u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
    }

    /// Seconds until the queue has grown by `room`; `None` when it does not grow.
    fn seconds_until(&self, room: u64) -> Option<u64> {
        let growth = self.made.checked_sub(self.archived).filter(|growth| *growth > 0)?;
        let millis = u128::from(room) * self.span.as_millis() / u128::from(growth);
        Some(u64::try_from(millis / 1000).unwrap_or(u64::MAX))
    }
}

/// Judges the pressure on pg_wal. The samples are in the order in which they were taken; the last one is of now.
#[must_use]
pub fn judge_pressure(samples: &[WalSample], space: WalSpace, segment_size: WalSegmentSize) -> WalPressure {
    let segment = segment_size.bytes();
    let samples = since_last_step(samples);
    let waiting = samples.last().map_or(0, |last| last.waiting_bytes);
    let room = space.free_bytes.saturating_add(space.ahead_bytes);
    let rates = rates(samples, NOISE_SEGMENTS * segment);
    let pressure = match rates {
        _ if room < segment => Pressure::Full,
        // What was before does not matter: of one segment no disk is full.
        Some(_) if waiting <= segment => Pressure::NotFilling,
        Some(rates) if rates.made.abs_diff(rates.archived) <= NOISE_SEGMENTS * segment => {
            Pressure::NotFilling
        }
        Some(rates) => {
            rates.seconds_until(room).map_or(Pressure::NotFilling, |seconds| Pressure::Fills { seconds })
        }
        None if waiting <= segment && !samples.is_empty() => Pressure::NotFilling,
        None => Pressure::Unknown { reason: PressureUnknown::TooShort },
    };
    report(pressure, rates, waiting, space)
}

/// What is said when the stamps of files can't be believed.
#[must_use]
pub fn pressure_unknown(reason: PressureUnknown, waiting_bytes: u64, space: WalSpace) -> WalPressure {
    report(Pressure::Unknown { reason }, None, waiting_bytes, space)
}

/// Makes samples of what the files of the segments tell, the last of them of `now`.
///
/// PostgreSQL removes the files of archived segments oldest first, so nothing is known of what was archived before
/// the oldest one that is left; the samples begin there, or where nothing was archived, with the oldest that waits.
///
/// # Errors
/// [`PressureUnknown::ClockStepped`] when stamps lie in the future.
pub fn samples_of_marks(
    marks: &[WalMark],
    now: Duration,
    segment_size: WalSegmentSize,
) -> Result<Vec<WalSample>, PressureUnknown> {
    let segment = segment_size.bytes();
    let mut made: Vec<Duration> = marks.iter().map(|mark| mark.made_at).collect();
    let mut archived: Vec<Duration> = marks.iter().filter_map(|mark| mark.archived_at).collect();
    made.sort_unstable();
    archived.sort_unstable();
    if made.last().max(archived.last()).is_some_and(|newest| *newest > now + FUTURE_MAX) {
        return Err(PressureUnknown::ClockStepped);
    }
    let Some(first) = archived.first().or(made.first()).copied() else { return Ok(Vec::new()) };
    let until = |stamps: &[Duration], at: Duration| stamps.partition_point(|stamp| *stamp <= at) as u64;
    let sample = |at: Duration| {
        let (made, archived) = (until(&made, at), until(&archived, at));
        WalSample {
            at,
            made_bytes: made * segment,
            archived_bytes: archived * segment,
            waiting_bytes: made.saturating_sub(archived) * segment,
        }
    };
    let (first, span) = (first.min(now), now.saturating_sub(first));
    let mut samples: Vec<WalSample> =
        (0..SAMPLES_OF_MARKS).map(|n| sample(first + span * n / SAMPLES_OF_MARKS)).collect();
    let beginnings = WINDOWS.iter().filter_map(|window| now.checked_sub(*window));
    samples.extend(beginnings.filter(|at| *at > first).map(sample));
    samples.sort_unstable_by_key(|sample| sample.at);
    // Stamps a moment ahead are of now: how many wait is a count of files, whatever their times.
    samples.push(WalSample { at: now, ..sample(now + FUTURE_MAX) });
    Ok(samples)
}

/// The samples after the last one at which time or a count went back.
fn since_last_step(samples: &[WalSample]) -> &[WalSample] {
    let goes_back = |pair: &[WalSample]| match pair {
        [earlier, later] => {
            later.at < earlier.at
                || later.made_bytes < earlier.made_bytes
                || later.archived_bytes < earlier.archived_bytes
        }
        _ => false,
    };
    let step = samples.windows(2).rposition(goes_back).map_or(0, |position| position + 1);
    samples.get(step..).unwrap_or_default()
}

/// The rates over the shortest stretch in which the queue changed by more than `noise`, or over all if it did not.
fn rates(samples: &[WalSample], noise: u64) -> Option<Rates> {
    let (first, last) = (samples.first()?, samples.last()?);
    let beginning = |window: &Duration| {
        let from = last.at.checked_sub(*window).filter(|from| *from >= first.at)?;
        samples.iter().rev().find(|sample| sample.at <= from)
    };
    let stretches = WINDOWS.iter().filter_map(beginning).chain([first]);
    let mut stretches =
        stretches.map(|first| Rates::between(first, last)).filter(|rates| rates.span >= SPAN_MIN);
    let all = Rates::between(first, last);
    let telling = stretches.find(|rates| rates.made.abs_diff(rates.archived) > noise);
    telling.or_else(|| (all.span >= SPAN_MIN).then_some(all))
}

fn report(pressure: Pressure, rates: Option<Rates>, waiting_bytes: u64, space: WalSpace) -> WalPressure {
    let room_bytes = space.free_bytes.saturating_add(space.ahead_bytes);
    WalPressure {
        pressure,
        made_bytes_per_second: rates.map(|rates| rates.per_second(rates.made)),
        archived_bytes_per_second: rates.map(|rates| rates.per_second(rates.archived)),
        over_seconds: rates.map(|rates| rates.span.as_secs()),
        waiting_bytes,
        room_bytes,
        free_bytes: space.free_bytes,
        total_bytes: space.total_bytes,
        detail: in_words(pressure, rates, waiting_bytes, space),
    }
}

fn in_words(pressure: Pressure, rates: Option<Rates>, waiting: u64, space: WalSpace) -> String {
    let room = match space.ahead_bytes {
        0 => format!("{} free of {}", size(space.free_bytes), size(space.total_bytes)),
        ahead => format!(
            "{} free of {}, and {} of segments made ahead",
            size(space.free_bytes),
            size(space.total_bytes),
            size(ahead)
        ),
    };
    let speed = |rates: Rates| {
        format!(
            "in the last {} WAL was made at {}/s and archived at {}/s",
            lasts(rates.span.as_secs()),
            size(rates.per_second(rates.made)),
            size(rates.per_second(rates.archived))
        )
    };
    match (pressure, rates) {
        (Pressure::Full, _) => {
            format!("there is no room for another segment: {room}; {} wait", size(waiting))
        }
        (Pressure::Fills { seconds }, Some(rates)) => format!(
            "pg_wal is full in {} if this goes on: {}; {} wait; {room}",
            lasts(seconds),
            speed(rates),
            size(waiting)
        ),
        (Pressure::Fills { seconds }, None) => format!("pg_wal is full in {}: {room}", lasts(seconds)),
        (Pressure::NotFilling, Some(rates)) if waiting > 0 && rates.made <= rates.archived => {
            format!("the queue does not grow: {}; {} wait; {room}", speed(rates), size(waiting))
        }
        (Pressure::NotFilling, _) if waiting > 0 => {
            format!("the queue does not grow; {} wait; {room}", size(waiting))
        }
        (Pressure::NotFilling, _) => format!("no segment waits to be archived; {room}"),
        (Pressure::Unknown { reason: PressureUnknown::TooShort }, _) => {
            format!(
                "too little was seen to tell how fast WAL is made and archived; {} wait; {room}",
                size(waiting)
            )
        }
        (Pressure::Unknown { reason: PressureUnknown::ClockStepped }, _) => format!(
            "files in pg_wal/archive_status are newer than now, so the rates can't be told; {} wait; {room}",
            size(waiting)
        ),
    }
}

/// A size as people read it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut shown = "EiB";
    for unit in UNITS {
        if tenths < 10_240 {
            shown = unit;
            break;
        }
        tenths /= 1024;
    }
    format!("{}.{} {shown}", tenths / 10, tenths % 10)
}

/// A stretch of time as people read it.
fn lasts(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn size_16() -> WalSegmentSize {
        WalSegmentSize::new(16 << 20).unwrap()
    }

    /// A sample at so many seconds, in segments.
    fn at(seconds: u64, made: u64, archived: u64) -> WalSample {
        WalSample {
            at: Duration::from_secs(seconds),
            made_bytes: made * SEGMENT,
            archived_bytes: archived * SEGMENT,
            waiting_bytes: (made - archived) * SEGMENT,
        }
    }

    /// Room for so many segments.
    fn room(segments: u64) -> WalSpace {
        WalSpace { free_bytes: segments * SEGMENT, total_bytes: 10_000 * SEGMENT, ahead_bytes: 0 }
    }

    fn judge(samples: &[WalSample], space: WalSpace) -> Pressure {
        judge_pressure(samples, space, size_16()).pressure
    }

    #[test]
    fn a_queue_that_grows_fills_the_room_at_its_growth() {
        // 2 segments a second made, 1 archived: 600 more in 10 minutes, and room for 1200.
        let samples: Vec<_> = (0..=600).map(|n| at(n, 2 * n, n)).collect();
        let judged = judge_pressure(&samples, room(1200), size_16());
        assert_eq!(judged.pressure, Pressure::Fills { seconds: 1200 });
        assert_eq!(judged.made_bytes_per_second, Some(2 * SEGMENT));
        assert_eq!(judged.archived_bytes_per_second, Some(SEGMENT));
        assert_eq!(
            judged.detail,
            "pg_wal is full in 20 min if this goes on: in the last 5 min WAL was made at 32.0 MiB/s and archived at \
             16.0 MiB/s; 9.3 GiB wait; 18.7 GiB free of 156.2 GiB"
        );
    }

    #[test]
    fn segments_made_ahead_are_room_too() {
        let samples = [at(0, 0, 0), at(100, 100, 0)];
        let space = WalSpace { ahead_bytes: 50 * SEGMENT, ..room(50) };
        assert_eq!(judge(&samples, space), Pressure::Fills { seconds: 100 });
        assert_eq!(judge(&samples, WalSpace { ahead_bytes: 0, ..space }), Pressure::Fills { seconds: 50 });
    }

    #[test]
    fn an_archive_that_stopped_a_moment_ago_is_seen_behind_hours_of_calm() {
        let mut samples: Vec<_> = (0..100).map(|n| at(60 * n, 60 * n, 60 * n)).collect();
        let stopped = samples[99];
        samples.extend((1..=5).map(|n| WalSample {
            at: stopped.at + Duration::from_secs(60 * n),
            made_bytes: stopped.made_bytes + 60 * n * SEGMENT,
            waiting_bytes: 60 * n * SEGMENT,
            ..stopped
        }));
        assert_eq!(judge(&samples, room(600)), Pressure::Fills { seconds: 600 });
    }

    #[test]
    fn a_slow_leak_shows_over_hours() {
        // A segment every ten minutes and nothing archived.
        let samples: Vec<_> = (0..=12).map(|n| at(600 * n, n, 0)).collect();
        assert_eq!(judge(&samples, room(6)), Pressure::Fills { seconds: 3600 });
    }

    #[test]
    fn a_queue_that_shrinks_or_stands_does_not_fill() {
        // Once there was an hour of growth; in the last minutes more is archived than made.
        let mut samples: Vec<_> = (0..=60).map(|n| at(60 * n, 100 * n, 0)).collect();
        samples.extend((1..=10).map(|n| at(3600 + 60 * n, 6000 + 10 * n, 100 * n)));
        assert_eq!(judge(&samples, room(10)), Pressure::NotFilling);
        let standing: Vec<_> = (0..=60).map(|n| at(60 * n, 50 + n, n)).collect();
        assert_eq!(judge(&standing, room(10)), Pressure::NotFilling);
        let noise = [at(0, 10, 10), at(60, 13, 11)];
        assert_eq!(judge(&noise, room(10)), Pressure::NotFilling);
        let worked_off = WalSample { waiting_bytes: SEGMENT, ..at(60, 200, 100) };
        assert_eq!(judge(&[at(0, 10, 10), worked_off], room(10)), Pressure::NotFilling);
        let empty_queue = [at(0, 10, 10), at(1, 5000, 5000)];
        assert_eq!(judge(&empty_queue, room(10)), Pressure::NotFilling);
    }

    #[test]
    fn what_says_too_little_is_unknown_and_a_full_disk_is_full() {
        let unknown = Pressure::Unknown { reason: PressureUnknown::TooShort };
        assert_eq!(judge(&[], room(10)), unknown);
        assert_eq!(judge(&[at(5, 9, 0)], room(10)), unknown);
        assert_eq!(judge(&[at(5, 9, 0), at(25, 400, 0)], room(10)), unknown);
        assert_eq!(judge(&[at(5, 9, 9)], room(10)), Pressure::NotFilling);
        let nearly = WalSpace { free_bytes: SEGMENT - 1, ..room(0) };
        assert_eq!(judge(&[], nearly), Pressure::Full);
        assert_eq!(judge(&[at(5, 9, 9)], nearly), Pressure::Full);
        assert_eq!(judge(&[at(5, 9, 9)], WalSpace { ahead_bytes: SEGMENT, ..nearly }), Pressure::NotFilling);
    }

    #[test]
    fn what_lies_before_a_step_of_the_clock_or_of_the_counts_is_not_used() {
        let back = [at(10_000, 1, 0), at(100, 2, 0), at(200, 102, 0)];
        assert_eq!(judge(&back, room(100)), Pressure::Fills { seconds: 100 });
        let restarted = [at(0, 90_000, 90_000), at(100, 5, 5), at(200, 105, 5)];
        assert_eq!(judge(&restarted, room(100)), Pressure::Fills { seconds: 100 });
        let only_one_left = [at(0, 90_000, 10), at(100, 50, 5)];
        assert_eq!(judge(&only_one_left, room(100)), Pressure::Unknown { reason: PressureUnknown::TooShort });
    }

    fn mark(made: u64, archived: Option<u64>) -> WalMark {
        let seconds = Duration::from_secs;
        WalMark { made_at: seconds(made), archived_at: archived.map(seconds) }
    }

    #[test]
    fn the_files_of_segments_tell_the_same_as_samples() {
        // One a second made, one every two seconds archived.
        let marks: Vec<_> = (0..1000)
            .map(|n| mark(1_000_000 + n, Some(1_000_000 + 2 * n).filter(|at| *at < 1_001_000)))
            .collect();
        let now = Duration::from_secs(1_001_000);
        let samples = samples_of_marks(&marks, now, size_16()).unwrap();
        assert_eq!(samples.last().unwrap().waiting_bytes, 500 * SEGMENT);
        let Pressure::Fills { seconds } = judge(&samples, room(1000)) else { panic!("{samples:?}") };
        assert!((1990..=2010).contains(&seconds), "{seconds}");
    }

    #[test]
    fn files_removed_by_checkpoints_do_not_pass_for_growth() {
        // All keeps pace, each segment archived a second after it was made; only the newest 20 files are left.
        let marks: Vec<_> = (980..1000).map(|n| mark(5000 + n, Some(5001 + n))).collect();
        let samples = samples_of_marks(&marks, Duration::from_mins(100), size_16()).unwrap();
        assert_eq!(judge(&samples, room(10)), Pressure::NotFilling);
        // A backlog of 100 is being worked off: what was made long ago is archived now.
        let marks: Vec<_> =
            (0..200).map(|n| mark(100 * n, Some(19_800 + n).filter(|at| *at <= 19_900))).collect();
        let samples = samples_of_marks(&marks, Duration::from_secs(19_900), size_16()).unwrap();
        assert_eq!(judge(&samples, room(10)), Pressure::NotFilling);
    }

    #[test]
    fn stamps_from_the_future_are_not_believed() {
        let marks = [mark(100, None), mark(5000, None)];
        assert_eq!(
            samples_of_marks(&marks, Duration::from_secs(200), size_16()),
            Err(PressureUnknown::ClockStepped)
        );
        // A file system that is a few seconds ahead does no harm, and its files count.
        let samples = samples_of_marks(&marks, Duration::from_secs(4990), size_16()).unwrap();
        assert_eq!(samples.last().unwrap().waiting_bytes, 2 * SEGMENT);
        assert_eq!(samples_of_marks(&[], Duration::from_secs(1), size_16()), Ok(Vec::new()));
    }

    #[test]
    fn json_says_the_state_first_and_reads_back() {
        let judged = judge_pressure(&[at(0, 0, 0), at(100, 100, 0)], room(50), size_16());
        let json = serde_json::to_value(&judged).unwrap();
        assert_eq!((&json["state"], &json["seconds"]), (&"fills".into(), &50.into()));
        assert_eq!(serde_json::from_value::<WalPressure>(json).unwrap(), judged);
        let unknown = pressure_unknown(PressureUnknown::ClockStepped, 7, room(5));
        let json = serde_json::to_value(&unknown).unwrap();
        assert_eq!((&json["state"], &json["reason"]), (&"unknown".into(), &"clock_stepped".into()));
        assert_eq!(serde_json::from_value::<WalPressure>(json).unwrap(), unknown);
    }

    proptest! {
        #[test]
        fn any_samples_and_stamps_are_judged(
            samples in proptest::collection::vec(any::<(u32, u64, u64, u64)>(), 0..20),
            stamps in proptest::collection::vec(any::<(u32, Option<u32>)>(), 0..20),
            free in any::<u64>(),
            ahead_bytes in any::<u64>(),
            now in any::<u32>(),
        ) {
            let samples: Vec<_> = samples
                .into_iter()
                .map(|(at, made_bytes, archived_bytes, waiting_bytes)| WalSample {
                    at: Duration::from_secs(at.into()), made_bytes, archived_bytes, waiting_bytes,
                })
                .collect();
            let space = WalSpace { free_bytes: free, total_bytes: free, ahead_bytes };
            let _ = judge_pressure(&samples, space, size_16());
            let marks: Vec<_> =
                stamps.into_iter().map(|(made, done)| mark(made.into(), done.map(u64::from))).collect();
            if let Ok(samples) = samples_of_marks(&marks, Duration::from_secs(now.into()), size_16()) {
                prop_assert!(samples.is_sorted_by_key(|sample| sample.at));
                let _ = judge_pressure(&samples, space, size_16());
            }
        }

        /// More room never makes the end come sooner, and faster archiving never does.
        #[test]
        fn more_room_and_faster_archiving_never_hasten_the_end(
            made in 0_u64..10_000, archived in 0_u64..10_000, more in 0_u64..100, free in 1_u64..10_000,
            span in 30_u64..100_000,
        ) {
            let end = |archived: u64, free: u64| {
                match judge(&[at(0, 0, 0), at(span, made, archived.min(made))], room(free)) {
                    Pressure::Fills { seconds } => seconds,
                    _ => u64::MAX,
                }
            };
            prop_assert!(end(archived, free + more) >= end(archived, free));
            prop_assert!(end(archived + more, free) >= end(archived, free));
        }
    }
}
