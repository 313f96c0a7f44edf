//! The plan against a naive one, which looks at everything again for each next object.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use walden_pg::{ArchiveFileName, SegmentId, SegmentNumber, TimelineId};

use crate::layout::BackupId;
use crate::verify::*;

const NOW: i64 = 1_800_000_000;

#[derive(Debug, Clone)]
struct Case {
    inventory: VerifyInventory,
    memory: ProofMemory,
    request: VerifyRequest,
}

fn backup(number: u16) -> BackupId {
    BackupId::new(Timestamp::from_second(NOW).unwrap(), number)
}

fn subject(kind: u8, a: u8, b: u8) -> Subject {
    let timeline = TimelineId::new(u32::from(a % 2) + 1).unwrap();
    let segment = SegmentId::new(timeline, SegmentNumber::new(u64::from(b)));
    match kind {
        0 => Subject::File(ArchiveFileName::History(timeline)),
        1 => Subject::CommitRecord(u32::from(a % 3)),
        2 => Subject::Manifest(u32::from(a % 3)),
        3 => Subject::Rollup(timeline, u32::from(b)),
        4 | 5 => Subject::Pack(u32::from(a % 3), u32::from(b)),
        6 => Subject::Part(u32::from(a % 3), u32::from(b)),
        _ => Subject::Segment(segment),
    }
}

fn inventory() -> impl Strategy<Value = (VerifyInventory, ProofMemory)> {
    let object = (
        0u8..12,
        any::<u8>(),
        0u8..60,
        0u64..1000,
        0u32..100,
        0u64..4,
        proptest::option::of((any::<bool>(), 0i64..1000)),
    );
    proptest::collection::vec(object, 0..60).prop_map(|objects| {
        let mut inventory = VerifyInventory { backups: (0..3).map(backup).collect(), objects: Vec::new() };
        let mut memory = ProofMemory::default();
        for (kind, a, b, bytes, written, print, proven) in objects {
            let subject = subject(kind, a, b);
            if inventory.objects.iter().any(|object| object.subject == subject) {
                continue;
            }
            let id = ProofId::of(&format!("{subject:?}"));
            if let Some((deep, age)) = proven {
                let level = if deep { VerifyLevel::Deep } else { VerifyLevel::Hash };
                // Sometimes of another object that stood there.
                memory.prove(id, print.min(2), level, Timestamp::from_second(NOW - age).unwrap());
            }
            inventory.objects.push(VerifyObject { subject, bytes, written, fingerprint: print, id });
        }
        (inventory, memory)
    })
}

fn request() -> impl Strategy<Value = VerifyRequest> {
    let sample = proptest::option::of((0u32..=1_000_000, any::<u64>()));
    let backups = proptest::option::of(proptest::collection::btree_set((0u16..4).prop_map(backup), 0..3));
    let range = (1u32..3, 0u64..60, 0u64..60).prop_map(|(timeline, first, last)| {
        (TimelineId::new(timeline).unwrap(), SegmentNumber::new(first), SegmentNumber::new(last))
    });
    let wal = prop_oneof![
        3 => Just(WalScope::All),
        1 => Just(WalScope::None),
        1 => proptest::collection::vec(range, 0..3).prop_map(WalScope::Ranges),
    ];
    let since = proptest::option::of((0i64..100).prop_map(|second| Timestamp::from_second(second).unwrap()));
    (
        any::<bool>(),
        sample,
        proptest::option::of(0u64..20_000),
        proptest::option::of(0u64..1000),
        backups,
        wal,
        since,
    )
        .prop_map(|(deep, sample, max_bytes, max_age, backups, wal, since)| VerifyRequest {
            level: if deep { VerifyLevel::Deep } else { VerifyLevel::Hash },
            scope: VerifyScope { backups, wal, since },
            sample: sample.map(|(millionths, seed)| VerifySample { millionths, seed }),
            max_bytes,
            max_age: max_age.map(Duration::from_secs),
        })
}

fn cases() -> impl Strategy<Value = Case> {
    (inventory(), request()).prop_map(|((inventory, memory), request)| Case { inventory, memory, request })
}

fn plan(case: &Case) -> VerifyPlan {
    plan_verify(&case.inventory, &case.memory, &case.request, Timestamp::from_second(NOW).unwrap())
}

impl Case {
    fn age(&self, object: &VerifyObject) -> Option<i64> {
        let proof = self.memory.get(object.id, object.fingerprint)?;
        Some(NOW - i64::from(proof.at(self.request.level)?))
    }

    fn asked_for(&self, object: &VerifyObject) -> bool {
        let scope = &self.request.scope;
        let young = scope.since.is_none_or(|since| i64::from(object.written) >= since.as_second());
        match object.subject {
            Subject::File(_) => scope.wal != WalScope::None,
            Subject::Rollup(..) => young && scope.wal == WalScope::All,
            Subject::Segment(id) => young && scope.wal.holds(id),
            Subject::BackupRollup => young && scope.backups.is_none(),
            other => young && scope.holds_backup(&self.inventory.backups[other.backup().unwrap() as usize]),
        }
    }

    fn is_fresh(&self, object: &VerifyObject) -> bool {
        let max = self.request.max_age.map(|max| i64::try_from(max.as_secs()).unwrap());
        max.is_some_and(|max| self.age(object).is_some_and(|age| age <= max))
    }

    /// Which objects are taken or left together.
    fn together(a: &VerifyObject, b: &VerifyObject) -> bool {
        match (a.subject, b.subject) {
            (Subject::Segment(a), Subject::Segment(b)) => {
                a.timeline == b.timeline && a.number.get() / 16 == b.number.get() / 16
            }
            (a, b) => a == b,
        }
    }
}

proptest! {
    #[test]
    fn everything_asked_for_is_in_one_place(case in cases()) {
        let plan = plan(&case);
        let asked: Vec<&VerifyObject> = case.inventory.objects.iter().filter(|object| case.asked_for(object)).collect();
        prop_assert_eq!(plan.in_scope.objects, asked.len() as u64);
        prop_assert_eq!(plan.in_scope.bytes, asked.iter().map(|object| object.bytes).sum::<u64>());
        let fresh: Vec<_> = asked.iter().filter(|object| case.is_fresh(object)).collect();
        prop_assert_eq!(plan.fresh.objects, fresh.len() as u64);
        let parts = [plan.planned, plan.fresh, plan.unsampled, plan.over_budget];
        prop_assert_eq!(parts.iter().map(|tally| tally.objects).sum::<u64>(), plan.in_scope.objects);
        prop_assert_eq!(parts.iter().map(|tally| tally.bytes).sum::<u64>(), plan.in_scope.bytes);
        let mut items = plan.items.clone();
        items.sort_unstable();
        items.dedup();
        prop_assert_eq!(items.len(), plan.items.len());
        for at in &plan.items {
            let object = &case.inventory.objects[*at as usize];
            prop_assert!(case.asked_for(object) && !case.is_fresh(object));
        }
    }

    #[test]
    fn a_budget_is_kept_and_used(case in cases()) {
        let plan = plan(&case);
        let Some(max) = case.request.max_bytes else {
            prop_assert_eq!(plan.over_budget.objects, 0);
            return Ok(());
        };
        prop_assert!(plan.planned.bytes <= max);
        if case.request.sample.is_none() {
            let left = case.inventory.objects.iter().enumerate().filter(|(at, object)| {
                case.asked_for(object) && !case.is_fresh(object) && !plan.items.contains(&u32::try_from(*at).unwrap())
            });
            for (_, object) in left {
                prop_assert!(plan.planned.bytes + object.bytes > max);
            }
        }
    }

    #[test]
    fn what_has_waited_longest_comes_first(case in cases()) {
        let plan = plan(&case);
        let age_of_cluster = |of: &VerifyObject| {
            let members = case.inventory.objects.iter().filter(|object| {
                Case::together(of, object) && case.asked_for(object) && !case.is_fresh(object)
            });
            members.map(|object| case.age(object).unwrap_or(i64::MAX)).max().unwrap()
        };
        let taken: Vec<&VerifyObject> = plan.items.iter().map(|at| &case.inventory.objects[*at as usize]).collect();
        for pair in taken.windows(2) {
            prop_assert!(pair[0].subject.is_small() || !pair[1].subject.is_small());
            if !pair[0].subject.is_small() {
                prop_assert!(age_of_cluster(pair[0]) >= age_of_cluster(pair[1]));
            }
        }
        // Nothing is drawn that has been proven more lately than something that was not.
        let unbound = Case { request: VerifyRequest { max_bytes: None, ..case.request.clone() }, ..case.clone() };
        let drawn = self::plan(&unbound);
        let is_drawn = |object: &VerifyObject| drawn.items.iter().any(|at| case.inventory.objects[*at as usize] == *object);
        let large = || case.inventory.objects.iter().filter(|object| {
            !object.subject.is_small() && case.asked_for(object) && !case.is_fresh(object)
        });
        let youngest_in = large().filter(|object| is_drawn(object)).map(age_of_cluster).min();
        let oldest_out = large().filter(|object| !is_drawn(object)).map(age_of_cluster).max();
        if let (Some(inside), Some(outside)) = (youngest_in, oldest_out) {
            prop_assert!(inside >= outside);
        }
    }

    #[test]
    fn a_sample_has_its_share_and_no_cluster_more(case in cases()) {
        let case = Case { request: VerifyRequest { max_bytes: None, ..case.request.clone() }, ..case };
        let plan = plan(&case);
        let Some(sample) = case.request.sample else {
            prop_assert_eq!(plan.unsampled.objects, 0);
            return Ok(());
        };
        let large = case.inventory.objects.iter().filter(|object| !object.subject.is_small() && case.asked_for(object));
        let total: u128 = large.map(|object| u128::from(object.bytes)).sum();
        let target = (total * u128::from(sample.millionths)).div_ceil(1_000_000);
        let taken: Vec<&VerifyObject> = plan.items.iter().map(|at| &case.inventory.objects[*at as usize])
            .filter(|object| !object.subject.is_small()).collect();
        let drawn: u128 = taken.iter().map(|object| u128::from(object.bytes)).sum();
        prop_assert!(drawn >= target || plan.unsampled.objects == 0);
        if let Some(last) = taken.last() {
            let before: u128 = taken.iter().filter(|object| !Case::together(last, object)).map(|object| u128::from(object.bytes)).sum();
            prop_assert!(before < target);
        }
        prop_assert_eq!(self::plan(&case), plan, "the same seed draws the same");
    }
}

#[test]
fn another_seed_draws_something_else() {
    let mut inventory = VerifyInventory::default();
    for number in 0..10_000 {
        let subject = Subject::Segment(SegmentId::new(TimelineId::FIRST, SegmentNumber::new(number)));
        let id = ProofId::of(&number.to_string());
        inventory.objects.push(VerifyObject { subject, bytes: 100, written: 0, fingerprint: 0, id });
    }
    let draw = |seed| {
        let request = VerifyRequest {
            level: VerifyLevel::Hash,
            scope: VerifyScope::everything(),
            sample: Some(VerifySample { millionths: 50_000, seed }),
            max_bytes: None,
            max_age: None,
        };
        plan_verify(&inventory, &ProofMemory::default(), &request, Timestamp::UNIX_EPOCH)
    };
    let (one, other) = (draw(1), draw(2));
    assert_ne!(one.items, other.items);
    assert!((500..516).contains(&one.planned.objects), "{:?}", one.planned);
    assert_eq!(draw(1), one);
}
