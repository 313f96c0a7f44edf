//! Joining what two indexes know of the border between their segments.

use walden_pg::wal::decode_record;

use super::collect::Collector;
use super::events::EventKind;
use super::segment_index::{Fragment, SegmentIndex};

/// Checks that the WAL goes on from `previous` to `next` without a break. A record that begins in `previous` and ends
/// in `next` is put together, and what `next` tells is corrected: its facts and events then hold it.
///
/// Returns whether `next` is joined, now or already before. It stays unjoined where it does not follow `previous`,
/// where the record is so long that not all of it is kept, or where an index does not tell.
pub fn resolve_border(previous: &SegmentIndex, next: &mut SegmentIndex) -> bool {
    if next.summary.joined {
        return true;
    }
    let number = next.segment.id(next.segment_size).ok().map(|id| id.number);
    if number.is_none() || previous.carry.next != number {
        return false;
    }
    let joined = match &previous.carry.pending {
        Some(fragment) if next.head_bytes > 0 => {
            // Behind the record that reaches in, the next one must link to it.
            let links = next.first_record.is_none_or(|first| first.previous == fragment.lsn);
            links && join_record(previous, fragment, next)
        }
        None if next.head_bytes > 0 => false,
        Some(fragment) => is_overwritten(next, fragment) && follows(previous, next),
        None => follows(previous, next),
    };
    next.summary.joined = joined;
    joined
}

/// Whether the first record of `next` links to the last one of `previous`.
fn follows(previous: &SegmentIndex, next: &SegmentIndex) -> bool {
    match (next.first_record, previous.carry.last_record) {
        (Some(first), Some(last)) => first.previous == last,
        _ => false,
    }
}

/// Whether the first record of `next` says that a crash cut off the one that goes on there.
fn is_overwritten(next: &SegmentIndex, fragment: &Fragment) -> bool {
    let first = next.first_record.map(|first| first.lsn);
    let mut events = next.events.iter();
    events.any(|event| Some(event.lsn) == first && event.kind == EventKind::OverwrittenRecord(fragment.lsn))
}

/// Puts the record that crosses the border together.
fn join_record(previous: &SegmentIndex, fragment: &Fragment, next: &mut SegmentIndex) -> bool {
    let is_whole = fragment.bytes.len() == fragment.have as usize
        && next.head.len() == next.head_bytes as usize
        && fragment.have.checked_add(next.head_bytes) == Some(fragment.total);
    let Some(major) = next.major.filter(|_| is_whole) else { return false };
    let bytes = [fragment.bytes.as_slice(), next.head.as_slice()].concat();
    let mut collector = Collector::new(u64::MAX, Some(&previous.carry));
    let place = (fragment.lsn, previous.segment.timeline());
    let decoded = decode_record(place, &bytes, major, next.segment_size, |record| collector.record(record));
    // The record itself must link to the last one, too.
    let links = collector.first.zip(previous.carry.last_record);
    if decoded.is_err() || links.is_some_and(|(first, last)| first.previous != last) {
        return false;
    }
    next.first_record = collector.first;
    let mut facts = collector.facts;
    facts.append(&next.summary.facts);
    next.summary.facts = facts;
    collector.events.append(&mut next.events);
    next.events = collector.events;
    next.events.sort_by_key(|event| event.lsn);
    next.blocks.add(collector.touched.finish());
    next.head = Vec::new();
    next.head_bytes = 0;
    true
}
