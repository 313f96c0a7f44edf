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
        let wanted = [name(1, number + 1), name(1, number + 2)];
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
