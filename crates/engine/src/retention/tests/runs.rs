//! Runs by policy.

use walden_core::{
    ErrorKind, HowLong, LeaseRecord, LeaseState, PromisedWindow, RecordKind, RetentionOutcome,
    RetentionPolicy, ServerLayout, Writer, encode_envelope,
};

use super::world::{World, between, layout, record, segment_key, written};
use crate::retention::{PinRequest, pin, retention_log};

/// A window of a day over three days, backups twice a day: hours 1 to 71, backups at 5, 17, 29, 41 and 53.
const LAST: u64 = 71;

fn policy() -> RetentionPolicy {
    RetentionPolicy {
        window: PromisedWindow::Last(HowLong::days(1)),
        minimum_fulls: 1,
        ..RetentionPolicy::default()
    }
}

fn three_days() -> World {
    let world = World::new().with_segments(1, LAST);
    for number in [5, 17, 29, 41, 53] {
        world.backup(number, None);
    }
    world
}

#[tokio::test]
async fn what_no_longer_serves_goes_and_the_window_stays() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    // The window begins at hour 47: the backup at 41 serves its beginning.
    assert_eq!(plan.removed.objects, 3 * 3 + 40, "{:#?}", plan.groups);
    assert!(plan.loses_moments());
    let report = world.apply(&plan).await.unwrap();
    assert_eq!((report.outcome, report.locked_objects), (RetentionOutcome::Finished, 0));
    assert_eq!(report.removed_objects, plan.removed.objects);
    assert_eq!(world.segments(), (41..=LAST).collect::<Vec<u64>>());
    for number in 48..LAST {
        assert!(world.recovers(between(number)).await.is_some(), "{number}");
    }
    assert_eq!(world.recovers(between(35)).await, None);
    // Nothing is left to do, and both runs are told of.
    let again = world.plan(&policy()).await;
    assert!(again.is_empty(), "{:?}", again.deletions);
    world.apply(&again).await.unwrap();
    let log = retention_log(&world.context(), 10).await.unwrap();
    assert_eq!(log.len(), 2);
    let first = log.iter().find(|run| run.id == report.run).unwrap();
    let (begun, done) = (first.begun.as_ref().unwrap(), first.done.as_ref().unwrap());
    assert_eq!(begun.backups.len(), 3);
    assert_eq!(begun.removed, plan.removed);
    assert_eq!((done.outcome, done.removed_objects), (RetentionOutcome::Finished, plan.removed.objects));
    // Of the lease one record is left, and it says that nobody has it.
    assert_eq!(world.store.keys().iter().filter(|key| key.contains("/lease/")).count(), 1);
}

#[tokio::test]
async fn wherever_a_run_is_cut_short_the_window_stays_and_the_next_run_finishes() {
    let whole = three_days();
    let plan = whole.plan(&policy()).await;
    let before: Vec<_> =
        futures::future::join_all((48..LAST).step_by(11).map(|number| whole.recovers(between(number)))).await;
    whole.anew().apply(&plan).await.unwrap();
    let effects = {
        let world = whole.anew();
        world.apply(&plan).await.unwrap();
        let state = world.store.state();
        state.effects
    };
    // Every effect of the beginning and the end, where the order matters most; of the removal of segments some.
    let cuts = (0..effects).filter(|cut| *cut < 24 || cut % 7 == 0 || cut + 6 > effects);
    for cut in cuts {
        let world = whole.anew();
        world.store.state().effects_left = Some(cut);
        let died = world.apply(&plan).await;
        assert!(died.is_err() || cut + 6 >= effects, "{cut} of {effects}: {died:?}");
        // Somebody else comes, when the lease of the dead has expired.
        let mut after = world.anew();
        after.now = after.now.checked_add(jiff::SignedDuration::from_mins(5)).unwrap();
        after.store.state().now = after.now;
        let still: Vec<_> =
            futures::future::join_all((48..LAST).step_by(11).map(|number| after.recovers(between(number))))
                .await;
        assert_eq!(still, before, "cut after {cut} effects");
        let rest = after.plan(&policy()).await;
        after.apply(&rest).await.unwrap_or_else(|error| panic!("cut after {cut}: {error}"));
        assert_eq!(after.segments(), (41..=LAST).collect::<Vec<u64>>(), "cut after {cut}");
        for gone in [5, 17, 29] {
            let id = walden_core::BackupId::new(written(gone), 1);
            assert!(!after.has(&format!("backup/{id}/")), "cut after {cut}: {id}");
        }
    }
}

#[tokio::test]
async fn a_listing_that_breaks_ends_the_run_before_it_removes_anything() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    for (part, most) in [("7-17/", 50), ("7-17/wal/", 60), ("backup", 2), ("history", 0), ("main/", 5)] {
        let broken = world.anew();
        let before = broken.store.keys();
        broken.store.state().broken_listing = Some((part.to_owned(), most));
        let history = layout().archive_file("00000002.history".parse().unwrap());
        if part == "history" {
            broken.store.put_at(history.as_str(), b"x".as_slice(), broken.now);
        }
        broken.try_plan(&policy()).await.unwrap_err();
        broken.apply(&plan).await.unwrap_err();
        let after = broken.store.keys();
        assert!(before.iter().all(|key| after.contains(key)), "{part} {most}");
        assert!(!broken.has("/retention/2"), "{part}: nothing was begun");
    }
}

#[tokio::test]
async fn what_was_not_shown_does_not_go() {
    let world = three_days();
    let narrow = RetentionPolicy { window: PromisedWindow::Last(HowLong::days(2)), ..policy() };
    let mut shown = world.plan(&narrow).await;
    // Somebody shows one plan and has another one carried out.
    shown.policy = policy();
    let error = world.apply(&shown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MustStay, "{error}");
    assert!(error.to_string().contains("more would go"), "{error}");
    assert_eq!(world.segments().len() as u64, LAST);
    let old = walden_core::RetentionPlan { at: written(60), ..world.plan(&policy()).await };
    assert_eq!(world.apply(&old).await.unwrap_err().kind(), ErrorKind::MustStay);
}

#[tokio::test]
async fn a_backup_and_a_pin_that_come_after_the_plan_was_shown_are_respected() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    let id = walden_core::BackupId::new(written(17), 1);
    let request = PinRequest { backup: id.clone(), pinned: true, until: None, reason: "an audit".to_owned() };
    assert!(pin(&world.context(), &record(), &request).await.unwrap().written);
    let newest = world.backup(LAST, None);
    let report = world.apply(&plan).await.unwrap();
    assert_eq!(report.outcome, RetentionOutcome::Finished);
    assert!(world.has(newest.as_str()) && world.has(&format!("{id}/backup.json")));
    assert!(world.store.keys().contains(&segment_key(17)));
    assert!(!world.store.keys().contains(&segment_key(18)));
    // The backup is restored with its own WAL; what came after it is gone.
    let stop = super::world::size().start_of(walden_pg::SegmentNumber::new(17)).saturating_add(80);
    let own = walden_core::RecoveryRequest {
        target: walden_core::RecoveryTarget::Lsn(stop),
        exclusive: false,
        timeline: walden_core::TargetTimeline::Latest,
        action: walden_core::RecoveryAction::Promote,
        backup: Some(id.clone()),
        rates: walden_core::RecoveryRates::default(),
    };
    crate::planning::plan(&world.context(), &record(), &own).await.unwrap();
    assert_eq!(world.recovers(between(25)).await, None);
    // Let go of, it goes.
    let request = PinRequest { pinned: false, reason: "done".to_owned(), ..request };
    pin(&world.context(), &record(), &request).await.unwrap();
    let plan = world.plan(&policy()).await;
    world.apply(&plan).await.unwrap();
    assert!(!world.has(&format!("backup/{id}/")));
}

#[tokio::test]
async fn a_pin_that_comes_in_the_middle_stops_the_run() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    let pinned = walden_core::BackupId::new(written(17), 1);
    let record = walden_core::PinRecord {
        backup: pinned.clone(),
        revision: 1,
        pinned: true,
        until: None,
        reason: "now".to_owned(),
        writer: Writer::new("h", "i", world.now),
    };
    // It is written as soon as the run has begun to say what it will do, and before commit records go.
    let key = layout().pin(&pinned, 1).to_string();
    let bytes = encode_envelope(RecordKind::Pin, &record).unwrap();
    let survey = plan.clone();
    world.store.state().on_put = Some(("/retention/2".to_owned(), key, bytes.into()));
    let error = world.apply(&survey).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MustStay, "{error}");
    assert!(world.has(&format!("{pinned}/backup.json")));
    let log = retention_log(&world.context(), 1).await.unwrap();
    assert_eq!(log[0].done.as_ref().unwrap().outcome, RetentionOutcome::Stopped);
}

#[tokio::test]
async fn a_commit_record_that_is_there_again_stops_the_run() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    let id = walden_core::BackupId::new(written(17), 1);
    let key = layout().backup(&id).commit().to_string();
    let bytes = world.store.state().objects[&key].bytes.clone();
    world.store.state().on_removal = Some((key.clone(), key.clone(), bytes));
    let error = world.apply(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MustStay, "{error}");
    assert!(world.has(&format!("{id}/manifest.zst")));
    assert_eq!(world.segments().len() as u64, LAST);
}

#[tokio::test]
async fn a_held_lease_stops_a_second_run_until_it_expires_by_the_stores_clock() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    let lease = LeaseRecord {
        fence: 4,
        state: LeaseState::Held,
        holder: Writer::new("other", "retention", world.now),
        token: "t".into(),
        seconds: 120,
    };
    let key = ServerLayout::new(record().server).retention_lease(4);
    let bytes = encode_envelope(RecordKind::Lease, &lease).unwrap();
    world.store.put_at(key.as_str(), bytes, world.now);
    let error = world.apply(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("other:retention"), "{error}");
    assert_eq!(world.segments().len() as u64, LAST);
    // The local clock says nothing; the store's does.
    let late = world.anew();
    {
        let mut state = late.store.state();
        state.now = state.now.checked_add(jiff::SignedDuration::from_secs(121)).unwrap();
    }
    late.apply(&plan).await.unwrap();
    assert!(late.has("lease/retention/00000006.json"));
}

#[tokio::test]
async fn a_lease_that_was_lost_stops_the_run_before_the_next_batch() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    let lease = LeaseRecord {
        fence: 9,
        state: LeaseState::Held,
        holder: Writer::new("other", "retention", world.now),
        token: "t".into(),
        seconds: 120,
    };
    let key = ServerLayout::new(record().server).retention_lease(9).to_string();
    let bytes = encode_envelope(RecordKind::Lease, &lease).unwrap();
    // Taken over as soon as the first commit record is gone.
    world.store.state().on_removal = Some(("backup.json".to_owned(), key, bytes.into()));
    let error = world.apply(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(world.segments().len() as u64, LAST);
    assert!(world.has("manifest.zst"));
}

#[tokio::test]
async fn a_removal_without_an_answer_leaves_the_lease_to_expire() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    world.store.state().unanswered = Some("backup.json".to_owned());
    world.apply(&plan).await.unwrap_err();
    world.store.state().unanswered = None;
    // It may still be on its way: nobody else may decide anything until it can't be.
    let plan = world.plan(&policy()).await;
    assert_eq!(world.apply(&plan).await.unwrap_err().kind(), ErrorKind::Busy);
    let late = world.anew();
    {
        let mut state = late.store.state();
        state.now = state.now.checked_add(jiff::SignedDuration::from_secs(121)).unwrap();
    }
    late.apply(&plan).await.unwrap();
    assert_eq!(late.segments(), (41..=LAST).collect::<Vec<u64>>());
}

#[tokio::test]
async fn what_the_store_locks_is_counted_and_kept_whole() {
    let world = three_days();
    let plan = world.plan(&policy()).await;
    let id = walden_core::BackupId::new(written(17), 1);
    let commit = layout().backup(&id).commit().to_string();
    let locked = [commit.clone(), segment_key(10), segment_key(17)];
    world.store.state().locked.extend(locked.iter().cloned());
    let report = world.apply(&plan).await.unwrap();
    assert_eq!(report.outcome, RetentionOutcome::Finished, "{:?}", report.message);
    // A backup whose record stays keeps its contents and its WAL.
    assert!(world.has(&format!("{id}/manifest.zst")) && world.has(&segment_key(17)));
    assert_eq!(report.locked_objects, 2, "{:?}", report.locked);
    assert!(world.has(&segment_key(10)));
    let mut left: Vec<u64> = vec![10, 17];
    left.extend(41..=LAST);
    assert_eq!(world.segments(), left);
    // When the lock ends, the next run finishes it.
    world.store.state().locked.clear();
    let plan = world.plan(&policy()).await;
    world.apply(&plan).await.unwrap();
    assert_eq!(world.segments(), (41..=LAST).collect::<Vec<u64>>());
    assert!(!world.has(&format!("backup/{id}/")));
}

#[tokio::test]
async fn a_clock_that_is_ahead_of_the_stores_stops_the_run() {
    let mut world = three_days();
    // By less than the window: something was written within it by this clock too.
    world.now = world.now.checked_add(jiff::SignedDuration::from_hours(20)).unwrap();
    let plan = world.plan(&policy()).await;
    assert!(!plan.is_empty());
    let error = world.apply(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MustStay, "{error}");
    assert!(error.to_string().contains("ahead of the store's"), "{error}");
    assert_eq!(world.segments().len() as u64, LAST);
    assert!(!world.has("/retention/2"), "nothing was begun");
}

#[tokio::test]
async fn a_backup_that_lost_a_pack_serves_nothing_and_stays() {
    let world = three_days();
    let id = walden_core::BackupId::new(written(41), 1);
    let pack = layout().backup(&id).pack(0).to_string();
    assert!(world.store.state().objects.remove(&pack).is_some());
    let plan = world.plan(&policy()).await;
    world.apply(&plan).await.unwrap();
    assert_eq!(world.segments(), (29..=LAST).collect::<Vec<u64>>());
    assert!(world.has(&format!("{id}/manifest.zst")));
}
