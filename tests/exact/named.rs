//! Histories that have shown a difference once.

use walden_pg::{PgMajor, SegmentId, TimelineId};
use walden_testkit::history::{Dice, Script, Step};

use crate::campaign::{self, Effort};
use crate::conclude;
use crate::damage::Damage;
use crate::targets::Ground;

const WORK: Step = Step::Work { clients: 3, transactions: 6 };

/// A bit that flips in the middle of the largest record: in a segment in which no record begins or ends.
fn inside_the_largest_record(dice: &mut Dice, ground: &Ground<'_>) -> Damage {
    let records = ground.paths.iter().flat_map(|(_, path)| &path.records);
    let largest = records.max_by_key(|record| record.end.bytes_since(record.start)).unwrap();
    let size = ground.files.segment_size();
    let middle = size.segment_of(largest.start).next();
    assert!(middle < size.segment_of(largest.end), "the record goes through a whole segment");
    let at = usize::try_from(dice.between(100, size.bytes() - 1)).unwrap();
    Damage::FlippedBit(SegmentId::new(TimelineId::FIRST, middle), at)
}

/// No summary told of damage in a record that nobody had read whole, and plans went past it.
#[test]
fn damage_inside_a_record_that_goes_through_a_segment() {
    let steps = vec![
        WORK,
        Step::Backup { busy: false },
        WORK,
        Step::RestorePoint("nightly"),
        Step::Large(2_600_000),
        WORK,
        Step::RestorePoint("before deploy"),
        Step::Large(1_200_000),
        WORK,
    ];
    let script = Script { seed: 77, segment_mib: 1, steps, archives_last: true };
    let effort = Effort { intact: 0, damaged: 2, on_damaged: 14 };
    if let Some(tally) = campaign::history(PgMajor::V16, &script, effort, inside_the_largest_record) {
        conclude("damage inside a large record", tally);
    }
}
