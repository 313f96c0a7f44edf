//! Waiting until the repository holds every WAL segment that a backup needs.
//!
//! PostgreSQL's own wait believes `archive_command`; this one looks into the repository, by name. Nothing is
//! nudged: `pg_backup_stop` has ended the last segment, and archiving it is the server's business.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use serde::Serialize;
use tokio::time::Instant;
use walden_core::{ArchiveObject, ErrorKind, IncarnationLayout};
use walden_pg::{ArchiveFileName, Lsn, SegmentId, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

use super::postgres::{ArchiverState, PostgresControl};
use crate::context::Context;
use crate::error::{EngineError, Result};
use crate::progress::Unit;

/// Pauses between two looks: the first, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long the server may take to say how archiving goes: one that is gone without a word must not hold us up.
const ARCHIVER_TIMEOUT: Duration = Duration::from_secs(10);
/// When the server has said for this long that it archived what is not in the repository, it archives elsewhere.
const ELSEWHERE_GRACE: Duration = Duration::from_secs(30);

/// The WAL that makes a backup restorable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeededWal {
    pub(super) timeline: TimelineId,
    pub(super) segment_size: WalSegmentSize,
    pub(super) start_lsn: Lsn,
    pub(super) stop_lsn: Lsn,
}

impl NeededWal {
    pub(super) fn first(&self) -> SegmentNumber {
        self.segment_size.segment_of(self.start_lsn)
    }

    pub(super) fn last(&self) -> SegmentNumber {
        self.segment_size.last_segment_before(self.stop_lsn).max(self.first())
    }

    pub(super) fn name(&self, number: SegmentNumber) -> SegmentName {
        SegmentId::new(self.timeline, number).name(self.segment_size)
    }
}

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalWait {
    /// The first segment needed.
    pub first: SegmentName,
    /// The last segment needed.
    pub last: SegmentName,
    /// How many are needed.
    pub segments: u64,
    /// How many of them were not there at the first look.
    pub waited_for: u64,
}

/// Waits until all is there; `timeout` is for the time without any progress.
///
/// # Errors
/// Kind `unavailable` when nothing more arrives, with what the server says about its archiver; kind `config` when
/// the server archives elsewhere; and what listing can give.
pub(super) async fn wait_for_wal(
    ctx: &Context,
    layout: &IncarnationLayout,
    needed: NeededWal,
    timeout: Duration,
    postgres: &mut impl PostgresControl,
) -> Result<WalWait> {
    let (first, last) = (needed.first(), needed.last());
    let total = last.get() - first.get() + 1;
    ctx.progress.begin("waiting for WAL", Unit::Count, total);
    let mut missing = first;
    let mut waited_for = None;
    let mut moved_at = Instant::now();
    let mut elsewhere_since = None;
    let mut pause = PAUSE_FIRST;
    loop {
        let before = missing;
        missing = first_missing(ctx, layout, needed, missing).await?;
        ctx.progress.advance(missing.get() - before.get());
        waited_for.get_or_insert((last.get() + 1).saturating_sub(missing.get()));
        if missing > last {
            break;
        }
        if missing > before {
            (moved_at, pause, elsewhere_since) = (Instant::now(), PAUSE_FIRST, None);
        }
        // The server may be gone by now; the backup does not need it any more.
        let answer = tokio::time::timeout(ARCHIVER_TIMEOUT, postgres.archiver()).await;
        let archiver = answer.ok().and_then(Result::ok).unwrap_or_default();
        let name = needed.name(missing);
        if says_archived(&archiver, name) {
            let since = *elsewhere_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= ELSEWHERE_GRACE {
                return Err(archived_elsewhere(ctx, &archiver, name));
            }
        }
        if moved_at.elapsed() >= timeout {
            return Err(timed_out(&archiver, name, timeout));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    ctx.progress.end();
    let (first, last) = (needed.name(first), needed.name(last));
    Ok(WalWait { first, last, segments: total, waited_for: waited_for.unwrap_or_default() })
}

/// The first segment from `from` on that is not in the repository; the one after the last when all are.
async fn first_missing(
    ctx: &Context,
    layout: &IncarnationLayout,
    needed: NeededWal,
    from: SegmentNumber,
) -> Result<SegmentNumber> {
    let mut number = from;
    let mut listed: Option<(String, BTreeSet<SegmentName>)> = None;
    while number <= needed.last() {
        let name = needed.name(number);
        let key = layout.archive_file(name.into());
        let directory = key.as_str().rsplit_once('/').map(|(directory, _)| format!("{directory}/"));
        let directory = directory.unwrap_or_default();
        let there = match &listed {
            Some((known, there)) if *known == directory => there,
            _ => {
                let there = list_segments(ctx, layout, &directory).await?;
                &listed.insert((directory, there)).1
            }
        };
        if !there.contains(&name) {
            break;
        }
        number = number.next();
    }
    Ok(number)
}

async fn list_segments(
    ctx: &Context,
    layout: &IncarnationLayout,
    prefix: &str,
) -> Result<BTreeSet<SegmentName>> {
    let mut listing = std::pin::pin!(ctx.store.list(prefix, &ctx.listing_budget()));
    let mut there = BTreeSet::new();
    while let Some(object) = listing.try_next().await? {
        if let Some(ArchiveObject::File(ArchiveFileName::Segment(name))) = layout.parse(&object.key) {
            there.insert(name);
        }
    }
    Ok(there)
}

/// Whether the server says that it has archived this segment, or a later one of its timeline: it archives them in
/// the order of their names, a backup history file right after its segment.
fn says_archived(archiver: &ArchiverState, name: SegmentName) -> bool {
    let last = archiver.last_archived.as_deref().and_then(|last| last.parse::<ArchiveFileName>().ok());
    let Some(ArchiveFileName::Segment(last) | ArchiveFileName::BackupHistory { segment: last, .. }) = last
    else {
        return false;
    };
    last.timeline() == name.timeline() && last >= name
}

fn archived_elsewhere(ctx: &Context, archiver: &ArchiverState, name: SegmentName) -> EngineError {
    EngineError::failed(
        ErrorKind::Config,
        format!(
            "the server says that it has archived {}, but {name} is not in this repository url={} server={}",
            archiver.last_archived.as_deref().unwrap_or_default(),
            ctx.store.url(),
            ctx.server
        ),
    )
    .with_hint("let archive_command push into this repository and server; then take the backup again")
}

fn timed_out(archiver: &ArchiverState, name: SegmentName, timeout: Duration) -> EngineError {
    let failed = match (&archiver.last_failed, archiver.last_failed_at) {
        (Some(file), Some(at)) => {
            let at = walden_core::postgres_time(at);
            format!(" last_failed={file} last_failed_at={at:?} failed_count={}", archiver.failed_count)
        }
        _ => String::new(),
    };
    EngineError::failed(
        ErrorKind::Unavailable,
        format!(
            "the server archived nothing more of the backup's WAL within {} s missing={name} last_archived={}{failed}",
            timeout.as_secs(),
            archiver.last_archived.as_deref().unwrap_or("none")
        ),
    )
    .with_hint("the server's log says why archive_command fails; once it works take the backup again")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FakePostgres, context, incarnation};
    use super::*;

    fn needed() -> NeededWal {
        NeededWal {
            timeline: TimelineId::FIRST,
            segment_size: WalSegmentSize::new(1 << 30).unwrap(),
            start_lsn: Lsn::new(0x2_C000_0028),
            stop_lsn: Lsn::new(0x3_4000_0000),
        }
    }

    fn put(store: &std::path::Path, name: &str) {
        let directory = store.join(format!("main/{}/wal/{}/{}", incarnation(), &name[..8], &name[8..16]));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("{name}.zst")), b"x").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn every_segment_up_to_the_one_that_ends_at_the_stop_is_needed() {
        let store = tempfile::tempdir().unwrap();
        let ctx = context(store.path());
        let layout = ctx.layout().incarnation(incarnation());
        for name in ["000000010000000200000003", "000000010000000300000000"] {
            put(store.path(), name);
        }
        let mut postgres = FakePostgres::default();
        let wait =
            wait_for_wal(&ctx, &layout, needed(), Duration::from_mins(1), &mut postgres).await.unwrap();
        assert_eq!((wait.segments, wait.waited_for), (2, 0));
        assert_eq!(wait.last.to_string(), "000000010000000300000000");
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_late_is_waited_for() {
        let store = tempfile::tempdir().unwrap();
        let ctx = context(store.path());
        let layout = ctx.layout().incarnation(incarnation());
        put(store.path(), "000000010000000200000003");
        let late = async {
            tokio::time::sleep(Duration::from_secs(50)).await;
            put(store.path(), "000000010000000300000000");
        };
        let mut postgres = FakePostgres::default();
        let wait = wait_for_wal(&ctx, &layout, needed(), Duration::from_mins(1), &mut postgres);
        let (wait, ()) = tokio::join!(wait, late);
        assert_eq!(wait.unwrap().waited_for, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_archiver_is_named() {
        let store = tempfile::tempdir().unwrap();
        let ctx = context(store.path());
        let layout = ctx.layout().incarnation(incarnation());
        put(store.path(), "000000010000000300000000");
        let mut postgres = FakePostgres::default();
        postgres.archiver.last_failed = Some("000000010000000200000003".into());
        postgres.archiver.last_failed_at = Some("2026-11-20T10:00:00Z".parse().unwrap());
        let wait = wait_for_wal(&ctx, &layout, needed(), Duration::from_mins(1), &mut postgres).await;
        let error = wait.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!(text.contains("missing=000000010000000200000003"), "{text}");
        assert!(text.contains("last_failed=000000010000000200000003"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_does_not_stop_the_timeout() {
        let store = tempfile::tempdir().unwrap();
        let ctx = context(store.path());
        let layout = ctx.layout().incarnation(incarnation());
        let mut postgres = FakePostgres::default();
        postgres.is_mute = true;
        let wait = wait_for_wal(&ctx, &layout, needed(), Duration::from_mins(1), &mut postgres);
        let waited = tokio::time::timeout(Duration::from_hours(1), wait).await.unwrap();
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn an_archiver_that_works_elsewhere_is_found_out_early() {
        let store = tempfile::tempdir().unwrap();
        let ctx = context(store.path());
        let layout = ctx.layout().incarnation(incarnation());
        let mut postgres = FakePostgres::default();
        postgres.archiver.last_archived = Some("000000010000000200000003.00000028.backup".into());
        let begun = Instant::now();
        let wait = wait_for_wal(&ctx, &layout, needed(), Duration::from_hours(1), &mut postgres).await;
        assert_eq!(wait.unwrap_err().kind(), ErrorKind::Config);
        assert!(begun.elapsed() < Duration::from_mins(1));
    }
}
