//! Joining what two indexes know of the record that crosses the border between their segments.

use walden_pg::wal::decode_record;

use super::collect::Collector;
use super::segment_index::SegmentIndex;

/// Puts the record that begins in `previous` and ends in `next` together, and corrects what `next` tells: its facts
/// and events then hold it, and it is joined.
///
/// Returns whether `next` is joined, now or already before. It stays unjoined where it does not follow `previous`, or
/// where the record is so long that not all of it is kept.
pub fn resolve_border(previous: &SegmentIndex, next: &mut SegmentIndex) -> bool {
    if next.summary.joined {
        return true;
    }
    let number = next.segment.id(next.segment_size).ok().map(|id| id.number);
    let (Some(fragment), Some(major)) = (&previous.carry.pending, next.major) else { return false };
    let is_whole = fragment.bytes.len() == fragment.have as usize
        && next.head.len() == next.head_bytes as usize
        && fragment.have.checked_add(next.head_bytes) == Some(fragment.total);
    if number.is_none() || previous.carry.next != number || !is_whole {
        return false;
    }
    let bytes = [fragment.bytes.as_slice(), next.head.as_slice()].concat();
    let mut collector = Collector::new(u64::MAX, Some(&previous.carry));
    let place = (fragment.lsn, previous.segment.timeline());
    let decoded = decode_record(place, &bytes, major, next.segment_size, |record| collector.record(record));
    if decoded.is_err() {
        return false;
    }
    let mut facts = collector.facts;
    facts.append(&next.summary.facts);
    next.summary.facts = facts;
    next.summary.joined = true;
    collector.events.append(&mut next.events);
    next.events = collector.events;
    next.events.sort_by_key(|event| event.lsn);
    next.blocks.add(collector.touched.finish());
    next.head = Vec::new();
    next.head_bytes = 0;
    true
}
