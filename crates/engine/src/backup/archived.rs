//! Whether the archive holds the server's own WAL under the names that a backup needs.
//!
//! Names alone do not say it: another server with the same history, say a cold copy that was started and archives
//! into the same place, makes segments of the same names. So the segments that hold the records made for this very
//! backup are read back and looked into: the checkpoint that it starts from, and the record that ends it.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use walden_core::{ErrorKind, Incarnation, IncarnationLayout};
use walden_pg::wal::{Payload, Record, SegmentOutcome, Stop, WalScanner, WalScannerOptions};
use walden_pg::{Lsn, SegmentName, SegmentNumber};
use walden_store::Expected;

use super::wait::NeededWal;
use crate::context::Context;
use crate::error::{EngineError, Result};

/// So many segments are all read; of more only those that hold the two records.
const SEGMENTS_READ_WHOLE: u64 = 4;
/// Neither of the two records is longer than this, page headers within it included, in bytes: a checkpoint takes
/// 120 and the end of a backup 40, and a segment's first page header 40.
const RECORD_BYTES_MAX: u64 = 512;

/// The records that only this backup's server can have written where it says that they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpectedRecords {
    pub(super) wal: NeededWal,
    pub(super) incarnation: Incarnation,
    /// Where the label says that the checkpoint record begins.
    pub(super) checkpoint_lsn: Lsn,
}

/// Which of the records were found.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    checkpoint: bool,
    end: bool,
}

/// The scanner with what it found, fed by the store as a segment arrives.
struct Scan {
    expected: ExpectedRecords,
    scanner: WalScanner,
    seen: Seen,
}

impl Scan {
    fn new(expected: ExpectedRecords) -> Self {
        let options = WalScannerOptions {
            system_id: Some(expected.incarnation.system_id),
            major: Some(expected.incarnation.major),
            ..WalScannerOptions::new(expected.wal.segment_size)
        };
        Self { expected, scanner: WalScanner::new(options), seen: Seen::default() }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let Self { expected, scanner, seen } = self;
        scanner.feed(bytes, |record| seen.look(expected, record));
    }

    fn finish(&mut self) -> SegmentOutcome {
        let Self { expected, scanner, seen } = self;
        scanner.finish_segment(|record| seen.look(expected, record))
    }
}

impl Seen {
    fn look(&mut self, expected: &ExpectedRecords, record: &Record<'_>) {
        if record.lsn != expected.checkpoint_lsn && record.end != expected.wal.stop_lsn {
            return;
        }
        match record.payload() {
            Ok(Payload::Checkpoint(_, checkpoint)) if record.lsn == expected.checkpoint_lsn => {
                self.checkpoint |= checkpoint.redo == expected.wal.start_lsn;
            }
            Ok(Payload::BackupEnd(start)) if record.end == expected.wal.stop_lsn => {
                self.end |= start == expected.wal.start_lsn;
            }
            _ => {}
        }
    }
}

/// Hands the plain bytes of a segment to the scanner.
struct Feed(Arc<Mutex<Scan>>);

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads back what was archived and looks for the records of this backup.
///
/// # Errors
/// Kind `conflict` when the archive holds other WAL, `corrupt` for a damaged object; and what fetching can give.
pub(super) async fn verify_archived(
    ctx: &Context,
    layout: &IncarnationLayout,
    expected: ExpectedRecords,
) -> Result<()> {
    let scan = Arc::new(Mutex::new(Scan::new(expected)));
    let last = expected.wal.last();
    let reads_all = last.get() - expected.wal.first().get() < SEGMENTS_READ_WHOLE;
    for number in segments_to_read(&expected) {
        let name = expected.wal.name(number);
        let outcome = read_segment(ctx, layout, &expected, name, &scan).await?;
        // All before the last were written to their ends.
        let goes_on = matches!(outcome.stop, Stop::SegmentEnd | Stop::SwitchTail { .. });
        if reads_all && number < last && !goes_on {
            return Err(other_wal(&expected, name, "its WAL ends early"));
        }
    }
    let seen = scan.lock().unwrap_or_else(PoisonError::into_inner).seen;
    if !seen.checkpoint {
        let name = expected.wal.name(expected.wal.segment_size.segment_of(expected.checkpoint_lsn));
        return Err(other_wal(&expected, name, "the backup's checkpoint is not in it"));
    }
    if !seen.end {
        return Err(other_wal(&expected, expected.wal.name(last), "the end of the backup is not in it"));
    }
    Ok(())
}

/// The segments that hold the two records, in order; all when they are few.
fn segments_to_read(expected: &ExpectedRecords) -> BTreeSet<SegmentNumber> {
    let (first, last) = (expected.wal.first(), expected.wal.last());
    let segment_of = |lsn: Lsn| expected.wal.segment_size.segment_of(lsn).clamp(first, last);
    let range = |from: SegmentNumber, to: SegmentNumber| {
        (from.get()..=to.get()).map(SegmentNumber::new).collect::<BTreeSet<_>>()
    };
    if last.get() - first.get() < SEGMENTS_READ_WHOLE {
        return range(first, last);
    }
    let checkpoint = expected.checkpoint_lsn;
    let mut wanted = range(segment_of(checkpoint), segment_of(checkpoint.saturating_add(RECORD_BYTES_MAX)));
    let end_begins = Lsn::new(expected.wal.stop_lsn.get().saturating_sub(RECORD_BYTES_MAX));
    wanted.append(&mut range(segment_of(end_begins), last));
    wanted
}

async fn read_segment(
    ctx: &Context,
    layout: &IncarnationLayout,
    expected: &ExpectedRecords,
    name: SegmentName,
    scan: &Arc<Mutex<Scan>>,
) -> Result<SegmentOutcome> {
    let key = layout.archive_file(name.into());
    let bytes = expected.wal.segment_size.bytes();
    let text = name.to_string();
    let before = scan.lock().unwrap_or_else(PoisonError::into_inner).seen;
    // Called again for a second read of what arrived damaged; the scanner then begins this segment anew, cold.
    let destination = || {
        let mut locked = scan.lock().unwrap_or_else(PoisonError::into_inner);
        locked.seen = before;
        locked.scanner.begin_segment(name).map_err(io::Error::other)?;
        Ok(Feed(Arc::clone(scan)))
    };
    let wanted = Expected { name: &text, max_plain_bytes: bytes };
    let unsealed = ctx.store.fetch_sealed(&key, wanted, destination, &ctx.budget_for(bytes)).await?;
    let header = &unsealed.header;
    let is_ours = header.incarnation == expected.incarnation && header.server == ctx.server;
    if !is_ours || header.plain_bytes != bytes {
        return Err(EngineError::failed(
            ErrorKind::Corrupt,
            format!(
                "a stored segment is not what its name says server={} incarnation={} bytes={} key={key}",
                header.server, header.incarnation, header.plain_bytes
            ),
        ));
    }
    Ok(scan.lock().unwrap_or_else(PoisonError::into_inner).finish())
}

fn other_wal(expected: &ExpectedRecords, name: SegmentName, why: &str) -> EngineError {
    EngineError::failed(
        ErrorKind::Conflict,
        format!(
            "the archive holds other WAL than this server's under the names that the backup needs: {why} \
             segment={name} checkpoint={} start={} stop={}",
            expected.checkpoint_lsn, expected.wal.start_lsn, expected.wal.stop_lsn
        ),
    )
    .with_hint(format!("find the other server that archives here: walden wal show {name} says who wrote it"))
}

#[cfg(test)]
mod tests {
    use walden_pg::{TimelineId, WalSegmentSize};

    use super::super::tests::incarnation;
    use super::*;

    fn numbers(start: u64, checkpoint: u64, stop: u64) -> Vec<u64> {
        let expected = ExpectedRecords {
            wal: NeededWal {
                timeline: TimelineId::FIRST,
                segment_size: WalSegmentSize::new(1 << 20).unwrap(),
                start_lsn: Lsn::new(start),
                stop_lsn: Lsn::new(stop),
            },
            incarnation: incarnation(),
            checkpoint_lsn: Lsn::new(checkpoint),
        };
        segments_to_read(&expected).into_iter().map(SegmentNumber::get).collect()
    }

    #[test]
    fn few_segments_are_all_read_and_of_many_those_with_the_records() {
        assert_eq!(numbers(0x10_0028, 0x10_0080, 0x10_0150), [1]);
        assert_eq!(numbers(0x10_0028, 0x10_0080, 0x50_0000), [1, 2, 3, 4]);
        assert_eq!(numbers(0x10_0028, 0x10_0080, 0x90_8000), [1, 9]);
        assert_eq!(numbers(0x10_0028, 0x3F_FFF0, 0x90_0030), [3, 4, 8, 9], "records that cross a border");
        assert_eq!(numbers(0x10_0028, 0x20_0080, 0x90_0000), [2, 8], "a stop where a segment ends");
    }
}
