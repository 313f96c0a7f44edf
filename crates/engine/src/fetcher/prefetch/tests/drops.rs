//! When what is fetched ahead is dropped, and that it stays inside its bounds.

use super::*;

async fn ahead() -> Bench {
    let bench = Bench::local().await;
    bench.put_segments(1, 1..=30);
    for number in 10..=13 {
        bench.found(1, number).await;
        bench.settle().await;
    }
    assert!(bench.spooled().len() >= 4, "{:?}", bench.spooled());
    bench
}

/// The segments in the spool, without the numbers behind them.
fn segments(bench: &Bench) -> Vec<String> {
    let names = bench.spooled().into_iter();
    names.map(|name| name.split('.').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_disk_budget_holds() {
    let mut bench = Bench::local().await;
    bench.put_segments(1, 1..=30);
    for (limit, most) in [(4, 4), (1, 1), (2, 2)] {
        bench.begin(PrefetchOptions { limit_bytes: limit << 20, ..options() });
        for number in 1..=12 {
            bench.found(1, number).await;
            bench.settle().await;
            assert!(bench.spooled().len() < most, "limit={limit} {:?}", bench.spooled());
        }
        assert_eq!(bench.spooled().len(), most - 1);
    }
    bench.begin(PrefetchOptions { limit_bytes: 100, ..options() });
    assert_eq!(bench.ask_segment(1, 1).await, Got::DoItYourself);
}

#[tokio::test]
async fn a_full_file_system_is_left_alone() {
    let mut bench = Bench::local().await;
    bench.put_segments(1, 1..=3);
    bench.begin(PrefetchOptions { reserve_bytes: u64::MAX >> 1, ..options() });
    assert_eq!(bench.ask_segment(1, 1).await, Got::DoItYourself);
    assert_eq!(bench.ask_segment(1, 9).await, Got::DoItYourself);
    assert_eq!(bench.spooled(), Vec::<String>::new());
}

#[test]
fn the_reserve_is_at_most_a_tenth_of_the_file_system() {
    let directory = std::env::temp_dir();
    let reserve = |reserve_bytes| {
        PrefetchOptions { reserve_bytes, ..options() }.on_file_system_of(&directory).reserve_bytes
    };
    assert_eq!(reserve(1), 1);
    assert!(reserve(u64::MAX) <= u64::MAX / 10);
}

#[tokio::test]
async fn a_spool_that_fails_leaves_the_work_to_the_hook() {
    let bench = Bench::local().await;
    bench.put_segments(1, 1..=5);
    bench.found(1, 1).await;
    bench.settle().await;
    std::fs::remove_dir_all(bench.spool()).unwrap();
    assert_eq!(bench.ask_segment(1, 2).await, Got::DoItYourself);
    assert_eq!(bench.ask_segment(1, 3).await, Got::DoItYourself);
    std::fs::create_dir(bench.spool()).unwrap();
    bench.found(1, 3).await;
}

#[tokio::test]
async fn a_jump_back_or_far_ahead_drops_all() {
    for number in [2, 25] {
        let bench = ahead().await;
        bench.found(1, number).await;
        bench.settle().await;
        let wanted: Vec<_> = (number + 1..=number + 4).map(|number| name(1, number)).collect();
        assert_eq!(segments(&bench), wanted);
        assert!(bench.prefetcher().numbers().dropped >= 4);
    }
}

#[tokio::test]
async fn another_timeline_drops_all() {
    let bench = ahead().await;
    bench.put_segments(2, 14..=16);
    bench.found(2, 14).await;
    bench.settle().await;
    assert_eq!(segments(&bench), [name(2, 15), name(2, 16)]);
}

#[tokio::test]
async fn another_recovery_drops_all() {
    type Change = fn(&Bench);
    let changes: [(&str, Change); 3] = [
        ("a server that started", |bench| {
            let text = "77\n/data\n1800000000\n5432\n";
            std::fs::write(bench.data.path().join("postmaster.pid"), text).unwrap();
        }),
        ("a standby", |bench| bench.signal("standby.signal")),
        ("a control file that can't be read", |bench| {
            std::fs::write(bench.data.path().join("global/pg_control"), "x").unwrap();
        }),
    ];
    for (what, change) in changes {
        let bench = ahead().await;
        let before = bench.spooled();
        change(&bench);
        // What would be next, if recovery were the same: all the same it is fetched anew.
        let got = bench.ask_segment(1, 14).await;
        let expected = bench.direct(&name(1, 14)).await;
        assert!(got == expected, "{what}: {} {}", short(&got), short(&expected));
        if matches!(got, Got::Bytes(_)) {
            bench.settle().await;
            let after = bench.spooled();
            assert!(before.iter().all(|name| !after.contains(name)), "{what}: {before:?} {after:?}");
        }
    }
}

#[tokio::test]
async fn a_recovery_that_asks_no_more_leaves_nothing() {
    let mut bench = Bench::local().await;
    bench.put_segments(1, 1..=10);
    bench.begin(PrefetchOptions { idle: Duration::from_millis(40), ..options() });
    bench.found(1, 1).await;
    until(|| bench.spooled().is_empty() && bench.prefetcher().numbers().in_flight == 0).await;
    bench.found(1, 2).await;
}

#[tokio::test]
async fn nothing_outlives_the_process() {
    let mut bench = ahead().await;
    std::fs::write(bench.spool().join("of another one"), "x").unwrap();
    // As after kill -9: nothing was cleared away, and nothing of it is trusted.
    let planted = bench.spooled();
    let kept = bench.directory.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    for name in &planted {
        std::fs::copy(bench.spool().join(name), kept.join(name)).unwrap();
    }
    bench.prefetcher = None;
    assert_eq!(bench.spooled(), Vec::<String>::new());
    std::fs::remove_dir(bench.spool()).unwrap();
    std::fs::rename(&kept, bench.spool()).unwrap();
    bench.begin(options());
    assert_eq!(bench.spooled(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_that_leaves_keeps_only_what_it_offered() {
    let bench = ahead().await;
    let destination = bench.destination("");
    let GetAnswer::Ready(file) = bench.prefetcher().get(&name(1, 14), &destination).await else { panic!() };
    bench.prefetcher().leave();
    bench.settle().await;
    assert_eq!(segments(&bench), [name(1, 14)]);
    assert_eq!(bench.take(&file, &name(1, 14)), Got::Bytes(content(1, 14)));
    bench.found(1, 15).await;
    bench.settle().await;
    assert_eq!(bench.spooled(), Vec::<String>::new());
    bench.prefetcher().close();
}

/// The task that fetched a segment ahead.
fn job(bench: &Bench, number: u64) -> Job {
    let state = bench.prefetcher().inner.state();
    let number = SegmentNumber::new(number);
    let ahead = state.ahead.get(&number).unwrap();
    let situation = state.situation.clone().unwrap();
    Job { task: ahead.number, number, name: ahead.name, situation, guarded: false }
}

/// Waits until a segment is ready and flushed.
async fn flushed(bench: &Bench, number: u64) {
    until(|| {
        let state = bench.prefetcher().inner.state();
        let ahead = state.ahead.get(&SegmentNumber::new(number));
        matches!(ahead, Some(Ahead { stage: Stage::Ready { flushing: None, .. }, .. }))
    })
    .await;
}

#[tokio::test]
async fn a_file_that_can_not_be_flushed_is_not_offered() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=4);
    bench.found(1, 1).await;
    flushed(&bench, 2).await;
    let failure = EngineError::failed(ErrorKind::LocalIo, "the disk failed");
    bench.prefetcher().inner.failed(&job(&bench, 2), &failure);
    assert!(!segments(&bench).contains(&name(1, 2)));
    bench.take_requests();
    // What follows is not tried until recovery has got past it.
    bench.found(1, 2).await;
    assert!(bench.take_requests().contains(&name(1, 2)));
    assert_eq!(bench.prefetcher().numbers().failed, 1);
}

#[tokio::test]
async fn a_file_is_not_offered_while_it_is_flushed() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=2);
    bench.found(1, 1).await;
    flushed(&bench, 2).await;
    let (ending, over) = watch::channel(());
    let task = Arc::new(Task(tokio::spawn(std::future::pending::<()>()).abort_handle()));
    set_flushing(&bench, 2, Some(Flushing { _task: task, over }));
    let destination = bench.destination("");
    let file = name(1, 2);
    let mut ask = std::pin::pin!(bench.prefetcher().get(&file, &destination));
    // It takes up the wait, which only the end of the flushing ends.
    let waits = async { until(|| ending.receiver_count() > 1).await };
    tokio::select! {
        biased;
        answer = &mut ask => panic!("{answer:?}"),
        () = waits => {}
    }
    set_flushing(&bench, 2, None);
    drop(ending);
    assert!(matches!(ask.await, GetAnswer::Ready(_)));
    assert_eq!(bench.prefetcher().numbers().waited, 1);
}

fn set_flushing(bench: &Bench, number: u64, to: Option<Flushing>) {
    let mut state = bench.prefetcher().inner.state();
    let Some(Ahead { stage: Stage::Ready { flushing, .. }, .. }) =
        state.ahead.get_mut(&SegmentNumber::new(number))
    else {
        panic!("not ready")
    };
    *flushing = to;
}
