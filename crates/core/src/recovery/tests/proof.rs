//! Random archives: the planner's answer is what recovery, spelled out, comes to.

use proptest::prelude::*;
use walden_pg::{Lsn, WalLevel};

use super::world::{Recovered, SEGMENT, What, World, at, log_of, request};
use crate::recovery::*;

/// One step in the making of an archive.
#[derive(Debug, Clone)]
enum Step {
    Record { what: u8, bytes: u64, second: i8, xid: u8 },
    Backup { long: bool },
    Fork { back: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![
        6 => Just(64u64),
        2 => Just(200 << 20),
        2 => Just(700 << 20),
        1 => Just(SEGMENT + (300 << 20)),
        1 => Just(2 * SEGMENT),
    ];
    let record = (0u8..14, bytes, -20i8..30, any::<u8>())
        .prop_map(|(what, bytes, second, xid)| Step::Record { what, bytes, second, xid });
    let step = prop_oneof![
        20 => record,
        2 => any::<bool>().prop_map(|long| Step::Backup { long }),
        1 => any::<u8>().prop_map(|back| Step::Fork { back }),
    ];
    proptest::collection::vec(step, 5..120)
}

/// The names and numbers that targets are picked from, too.
fn what(kind: u8, second: i64, xid: u32) -> What {
    match kind {
        0..=5 => What::Commit { xid, second },
        6 | 7 => What::Abort { xid, second },
        8 => What::Point(format!("p{}", xid % 3)),
        9 if xid.is_multiple_of(4) => What::Parameters { connections: 100 + xid, level: WalLevel::Replica },
        10 if xid.is_multiple_of(32) => What::Parameters { connections: 100, level: WalLevel::Minimal },
        _ => What::Other,
    }
}

fn build(steps: &[Step]) -> World {
    let mut world = World::new();
    let (mut on, mut newest, mut now, mut open) = (1, 1, 0i64, None);
    for step in steps {
        match step {
            Step::Record { what: kind, bytes, second, xid } => {
                now += i64::from(*second);
                world.add(on, *bytes, what(*kind, now, u32::from(*xid)));
            }
            Step::Backup { long } => {
                now += 5;
                match open.take() {
                    Some((timeline, start)) if timeline == on => {
                        world.add(on, 64, What::BackupEnd(start));
                        world.record_backup(on, start, now);
                    }
                    _ if *long => open = Some((on, world.add(on, 64, What::Other))),
                    _ => {
                        world.backup(on, now);
                    }
                }
            }
            Step::Fork { back } => {
                let stream = &world.streams[&on];
                let place = stream.len().saturating_sub(usize::from(*back % 8));
                let lsn = stream.get(place).map_or(world.end(on), |rec| rec.start);
                newest += 1;
                world.fork(on, newest, lsn);
                (on, open) = (newest, None);
                // A timeline begins with a checkpoint.
                world.add(on, 64, What::Other);
            }
        }
    }
    world
}

/// Takes things away, and decides who knows what.
fn spoil(world: &mut World, picks: &[(u8, u16)]) {
    for (kind, pick) in picks {
        let timelines: Vec<u32> = world.streams.keys().copied().collect();
        let on = timelines[usize::from(*pick) % timelines.len()];
        let number = 1 + u64::from(pick / 7) % (world.end(on) / SEGMENT).max(1);
        match kind {
            0 => {
                world.lost.insert((on, number));
            }
            1 => {
                let inside = |rec: &&super::world::Rec| rec.start / SEGMENT == (rec.end - 1) / SEGMENT;
                let own = world.forks.get(&on).map_or(0, |(_, lsn)| *lsn);
                let stream: Vec<u64> = world.streams[&on]
                    .iter()
                    .filter(inside)
                    .map(|rec| rec.start)
                    .filter(|start| *start >= own)
                    .collect();
                if let Some(start) = stream.get(usize::from(*pick) % stream.len().max(1)) {
                    world.damaged.insert((on, *start));
                }
            }
            2..=5 => {
                world.unjoined.insert((on, number));
            }
            6 => {
                world.without_summary.insert((on, number));
            }
            _ => {
                world.rolled_up.insert((on, log_of(number)));
            }
        }
    }
}

fn target(kind: u8, pick: u16, world: &World) -> RecoveryTarget {
    let on = *world.streams.keys().next_back().unwrap();
    let recs = &world.streams[&on];
    let rec = recs.get(usize::from(pick) % recs.len().max(1));
    let start = rec.map_or(SEGMENT, |rec| rec.start);
    let near = rec.map(|rec| rec.what.clone());
    match kind {
        0..=3 => RecoveryTarget::Time(match near {
            Some(What::Commit { second, .. } | What::Abort { second, .. }) => {
                at(second + i64::from(pick % 3) - 1)
            }
            _ => at(i64::from(pick % 1200)),
        }),
        4 => RecoveryTarget::Xid(match near {
            Some(What::Commit { xid, .. } | What::Abort { xid, .. }) => u64::from(xid),
            _ => u64::from(pick % 256),
        }),
        5 | 6 => RecoveryTarget::Lsn(Lsn::new(start + u64::from(pick % 3) * 8)),
        7 => RecoveryTarget::Name(format!("p{}", pick % 4)),
        8 => RecoveryTarget::Immediate,
        _ => RecoveryTarget::Latest,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_what_recovery_comes_to(
        steps in steps(),
        picks in proptest::collection::vec((0u8..16, any::<u16>()), 0..20),
        kind in 0u8..10,
        pick in any::<u16>(),
        exclusive in any::<bool>(),
        newest in any::<bool>(),
    ) {
        let mut world = build(&steps);
        spoil(&mut world, &picks);
        let target = target(kind, pick, &world);
        let tip = if newest { *world.streams.keys().next_back().unwrap() } else { 1 };
        let pointed = matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::Xid(_) | RecoveryTarget::Lsn(_));
        let request = RecoveryRequest {
            exclusive: exclusive && pointed,
            timeline: TargetTimeline::Id(super::world::timeline(tip)),
            ..request(target)
        };
        // A backup serves when it is on the way, ended before the target time, and recovery gets consistent.
        let serves = |backup: &crate::records::BackupRecord| {
            let history = world.history(tip);
            let on_way = history.timeline_of(backup.start_lsn) == backup.timeline
                && history.timeline_of(Lsn::new(backup.stop_lsn.get() - 1)) == backup.timeline;
            if !on_way || matches!(request.target, RecoveryTarget::Time(time) if time < backup.finished_at) {
                return None;
            }
            match world.recover(backup, tip, &request) {
                stopped @ Recovered::Stopped { replayed_to, .. } if replayed_to >= backup.stop_lsn.get() => {
                    Some(stopped)
                }
                _ => None,
            }
        };
        match world.plan(&request) {
            Ok(plan) => {
                let backup = world.backups.iter().find(|backup| backup.id == plan.backup.id).unwrap();
                let recovered = serves(backup);
                let mut planned = Recovered::of_plan(&plan);
                // Behind the stop the word of a rollup counts, and it knows of nothing that was lost since.
                let stale = world.lost.iter().any(|(on, number)| world.rolled_up.contains(&(*on, log_of(*number))));
                if let (
                    Recovered::Stopped { first, left_out, late, .. },
                    Some(Recovered::Stopped { first: real_first, left_out: real_left_out, late: real, .. }),
                ) = (&mut planned, &recovered)
                {
                    if stale {
                        (*first, *left_out) = (*real_first, *real_left_out);
                    } else {
                        // Behind a few segments only the count is kept.
                        prop_assert!(real.starts_with(late) || !plan.left_out_by_order_exact);
                        prop_assert!(plan.left_out_by_order_count <= real.len() as u64);
                        if plan.left_out_by_order_exact {
                            prop_assert_eq!(plan.left_out_by_order_count, real.len() as u64);
                        }
                    }
                    late.clone_from(real);
                }
                prop_assert_eq!(Some(planned), recovered);
                prop_assert_eq!(plan.segments.missing_count, 0);
            }
            Err(refusal) => {
                let served: Vec<_> = world.backups.iter().filter(|backup| serves(backup).is_some()).collect();
                prop_assert!(served.is_empty(), "{:?}: {} could serve", refusal, served[0].id);
            }
        }
    }

    #[test]
    fn the_window_ends_where_the_plan_to_the_end_stops(
        steps in steps(),
        picks in proptest::collection::vec((0u8..16, any::<u16>()), 0..20),
    ) {
        let mut world = build(&steps);
        spoil(&mut world, &picks);
        // The window takes the word of a rollup for directories that are full.
        let lost: Vec<(u32, u32)> = world.lost.iter().map(|(on, number)| (*on, log_of(*number))).collect();
        world.rolled_up.retain(|directory| !lost.contains(directory));
        for timeline in world.window().timelines {
            for backup in &timeline.backups {
                let request = RecoveryRequest {
                    backup: Some(backup.id.clone()),
                    timeline: TargetTimeline::Id(timeline.timeline),
                    ..request(RecoveryTarget::Immediate)
                };
                prop_assert_eq!(world.plan(&request).is_ok(), backup.last.is_some(), "{:?}", backup);
                let Some(last) = backup.last.filter(|last| last.xid.is_some()) else { continue };
                let request = RecoveryRequest { target: RecoveryTarget::Lsn(last.lsn), ..request };
                let plan = world.plan(&request).unwrap();
                prop_assert_eq!(plan.stop.last_kept.map(|commit| commit.lsn), Some(last.lsn));
                prop_assert_eq!(plan.stop.first_left_out, None, "{:?}", backup);
            }
        }
    }
}
