//! Segments that nobody has joined to the one before, and damage that is not told place by place.

use walden_pg::{Lsn, SegmentId, SegmentNumber};

use super::world::{SEGMENT, What, World, at, request, timeline};
use crate::recovery::*;

/// Plans to the end; `spoil` may change what is told of the segment `number` when its records are read.
fn plan(world: &World, number: u64, spoil: &dyn Fn(&mut SegmentDetail)) -> (Planning, Vec<Vec<SegmentId>>) {
    let mut snapshot = world.snapshot();
    let mut read = Vec::new();
    for _ in 0..100 {
        match plan_recovery(&snapshot, &request(RecoveryTarget::Latest), at(1_000_000)) {
            Planning::Needs(needs) => {
                for need in needs {
                    world.satisfy(&mut snapshot, &need);
                    let Need::Details { path } = need else { continue };
                    let id = SegmentId::new(timeline(1), SegmentNumber::new(number));
                    if path.last() == Some(&id) {
                        snapshot.details.get_mut(&id).into_iter().for_each(spoil);
                    }
                    read.push(path);
                }
            }
            other => return (other, read),
        }
    }
    panic!("no end");
}

#[test]
fn a_segment_that_was_not_joined_is_read_with_the_one_before() {
    let mut world = World::new();
    world.backup(1, 100);
    for commit in 1..=8 {
        world.commit(1, 700 + commit, 100 + i64::from(commit) * 10);
        world.fill(1);
    }
    world.add(1, 64, What::Other);
    world.unjoined.insert((1, 5));
    let (planning, read) = plan(&world, 5, &|_| {});
    assert!(matches!(planning, Planning::Plan(_)), "{planning:?}");
    let numbers: Vec<Vec<u64>> =
        read.iter().map(|path| path.iter().map(|id| id.number.get()).collect()).collect();
    // Two segments, and no more than that.
    assert!(numbers.contains(&vec![4, 5]), "{numbers:?}");
    assert!(numbers.iter().all(|path| path.len() <= 2), "{numbers:?}");
    // Where the first record there does not link to the one before, the WAL ends.
    let start = Lsn::new(5 * SEGMENT);
    let broken = |detail: &mut SegmentDetail| {
        detail.end = SegmentEnd::Damaged { lsn: start, what: "a broken link".to_owned() };
        detail.records.clear();
        detail.ends.clear();
    };
    let (planning, _) = plan(&world, 5, &broken);
    assert!(
        matches!(&planning, Planning::Refused(refusal) if refusal.reason == RefusalReason::DamagedWal),
        "{planning:?}"
    );
}

#[test]
fn damage_that_is_not_told_place_by_place_is_a_wall() {
    let mut world = World::new();
    let damaged = world.add(1, 64, What::Other);
    world.add(1, 64, What::Other);
    world.backup(1, 100);
    world.commit(1, 701, 110);
    world.add(1, 64, What::Other);
    world.damaged.insert((1, damaged));
    let first = damaged / SEGMENT;
    let (planning, _) = plan(&world, first, &|_| {});
    // Damage before the backup's start is none of its business.
    assert!(matches!(planning, Planning::Plan(_)), "{planning:?}");
    let (planning, _) = plan(&world, first, &|detail| detail.damage_count = 65);
    assert!(matches!(planning, Planning::Refused(_)), "{planning:?}");
}
