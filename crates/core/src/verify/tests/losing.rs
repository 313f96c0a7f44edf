//! Taking damage out of a snapshot, and what the window over the rest says.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::prelude::*;
use walden_pg::{SegmentId, SegmentNumber};

use crate::layout::BackupId;
use crate::recovery::tests::world::{SEGMENT, World, timeline};
use crate::recovery::*;
use crate::snapshot::{CatalogSnapshot, Listed};
use crate::verify::*;

fn id(on: u32, number: u64) -> SegmentId {
    SegmentId::new(timeline(on), SegmentNumber::new(number))
}

fn snapshot(world: &World) -> CatalogSnapshot {
    let mut snapshot = world.snapshot();
    let told: Vec<_> = snapshot.logs.keys().copied().collect();
    for (on, log) in told {
        world.list(&mut snapshot, on.get(), log);
    }
    snapshot.listed = Listed::All;
    snapshot
}

fn window(world: &World, adjust: impl Fn(&mut CatalogSnapshot)) -> RecoveryWindow {
    let mut snapshot = snapshot(world);
    adjust(&mut snapshot);
    loop {
        match recovery_window(&snapshot, Timestamp::MAX) {
            Windowing::Window(window) => return *window,
            Windowing::Needs(needs) => {
                for need in &needs {
                    world.satisfy(&mut snapshot, need);
                }
                adjust(&mut snapshot);
            }
        }
    }
}

/// Two backups, commits between and behind.
fn world() -> (World, Vec<BackupId>) {
    let mut world = World::new();
    world.backup(1, 10);
    world.fill(1);
    for second in [20, 30, 40] {
        world.commit(1, u32::try_from(second).unwrap(), second);
        world.fill(1);
    }
    world.backup(1, 50);
    world.fill(1);
    for second in [60, 70] {
        world.commit(1, u32::try_from(second).unwrap(), second);
        world.fill(1);
    }
    let ids = world.backups.iter().map(|backup| backup.id.clone()).collect();
    (world, ids)
}

fn cost(world: &World, losses: &Losses) -> Consequences {
    let before = window(world, |snapshot| losses.put_back(snapshot));
    let after = window(world, |snapshot| losses.take_out(snapshot));
    consequences(&before, &after)
}

#[test]
fn a_damaged_segment_between_backups_costs_the_moments_behind_it() {
    let (world, ids) = world();
    let losses = Losses { segments: [id(1, 3)].into(), ..Losses::default() };
    let cost = cost(&world, &losses);
    assert_eq!(cost.backups_lost, []);
    assert_eq!(cost.newest_before, cost.newest_after);
    assert_eq!(cost.served_by.as_ref(), ids.last());
    assert_eq!(cost.windows.len(), 1);
    assert_eq!(cost.windows[0].lost.len(), 1);
    assert!(cost.windows[0].lost[0].from_stays && cost.windows[0].lost[0].to_stays);
}

#[test]
fn a_damaged_backup_leaves_the_other_one_to_serve() {
    let (world, ids) = world();
    let losses = Losses { backups: [(ids[1].clone(), "test".into())].into(), ..Losses::default() };
    let cost = cost(&world, &losses);
    assert_eq!(cost.backups_lost, [ids[1].clone()]);
    assert!(cost.windows.is_empty(), "the older one is rolled forward over the same WAL");
    assert_eq!(cost.served_by.as_ref(), Some(&ids[0]));
    assert!(cost.is_loss());
}

#[test]
fn a_damaged_segment_inside_of_a_backup_costs_the_backup() {
    let (world, ids) = world();
    let number = world.backups[1].start_lsn.get() / SEGMENT;
    let losses = Losses { segments: [id(1, number)].into(), ..Losses::default() };
    let cost = cost(&world, &losses);
    assert_eq!(cost.backups_lost, [ids[1].clone()]);
    assert_eq!(cost.served_by.as_ref(), Some(&ids[0]));
    assert!(cost.newest_after.unwrap().lsn < cost.newest_before.unwrap().lsn);
}

#[test]
fn a_missing_segment_costs_what_it_would_cost_to_lose_it() {
    let (whole, _) = world();
    let mut holed = whole.clone();
    holed.lost.insert((1, 3));
    let losses = Losses { missing: [(id(1, 3), 1)].into(), ..Losses::default() };
    let told = cost(&holed, &losses);
    let lost = cost(&whole, &Losses { segments: [id(1, 3)].into(), ..Losses::default() });
    assert_eq!(told.windows, lost.windows);
    assert_eq!(told.served_by, lost.served_by);
}

#[test]
fn no_damage_costs_nothing() {
    let (world, _) = world();
    assert!(!cost(&world, &Losses::default()).is_loss());
}

proptest! {
    #[test]
    fn what_is_taken_out_is_gone_and_nothing_else(numbers in proptest::collection::btree_set(0u64..50, 0..40), gone in proptest::collection::btree_set(0u64..50, 0..20)) {
        let (world, _) = world();
        let mut snapshot = CatalogSnapshot::new(world.snapshot().incarnation);
        for number in &numbers {
            snapshot.add_segment(id(1, *number).name(snapshot.incarnation.segment_size), *number);
        }
        let losses = Losses { segments: gone.iter().map(|number| id(1, *number)).collect(), ..Losses::default() };
        losses.take_out(&mut snapshot);
        losses.take_out(&mut snapshot);
        let left: BTreeSet<u64> = numbers.difference(&gone).copied().collect();
        for number in 0..50 {
            let bytes = snapshot.segment_bytes(id(1, number)).map(u64::from);
            prop_assert_eq!(bytes, left.contains(&number).then_some(number));
        }
        prop_assert_eq!(snapshot.segment_totals().0, left.len() as u64);
    }
}
