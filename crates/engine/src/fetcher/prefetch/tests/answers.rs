//! What is answered: along forks, over damage, and while the store stalls.

use walden_testkit::stores::{Fault, FaultRule};

use super::*;

/// A rule for all GETs of what has this in its path.
fn rule(fault: Fault, on: &str) -> FaultRule {
    FaultRule::next(fault, http::Method::GET, u32::MAX).on(on)
}

#[tokio::test]
async fn the_child_is_fetched_ahead_from_the_fork_on() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=6);
    bench.put_segments(2, 4..=9);
    bench.put_segments(3, 7..=12);
    let text = history(&[(1, 4), (2, 7)]);
    bench.put("00000002.history", history(&[(1, 4)]).as_bytes());
    bench.put("00000003.history", text.as_bytes());
    // As recovery asks with the default target: what is there, the target again, and then the parents.
    for name in ["00000002.history", "00000003.history", "00000004.history", "00000003.history"] {
        let _ = bench.ask(name).await;
    }
    assert_eq!(bench.ask("00000002.history").await, Got::Bytes(history(&[(1, 4)]).into_bytes()));
    for number in 1..=12 {
        let timeline = if number < 4 {
            1
        } else if number < 7 {
            2
        } else {
            3
        };
        bench.found(timeline, number).await;
        bench.settle().await;
    }
    let numbers = bench.prefetcher().numbers();
    assert_eq!((numbers.hits, numbers.dropped), (11, 0), "{numbers:?}");
    // Every segment once, and what lies behind the end: no parent of the fork's segments.
    let mut requests = bench.take_requests();
    requests.retain(|request| request.len() == 24 && *request <= name(3, 12));
    assert_eq!(requests.len(), 12, "{requests:?}");
}

#[tokio::test]
async fn a_recovery_that_an_agent_joins_later_is_followed_by_the_histories_in_pg_wal() {
    let bench = Bench::local().await;
    bench.put_segments(1, 1..=4);
    bench.put_segments(2, 4..=8);
    std::fs::write(bench.wal().join("00000002.history"), history(&[(1, 4)])).unwrap();
    for (timeline, number) in [(1, 2), (1, 3), (2, 4), (2, 5)] {
        bench.found(timeline, number).await;
        bench.settle().await;
    }
    assert_eq!(bench.prefetcher().numbers().hits, 3);
}

#[tokio::test]
async fn a_child_that_is_missing_at_the_fork_is_answered_as_without_an_agent() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=6);
    std::fs::write(bench.wal().join("00000002.history"), history(&[(1, 4)])).unwrap();
    for number in 1..=3 {
        bench.found(1, number).await;
        bench.settle().await;
    }
    bench.take_requests();
    assert_eq!(bench.ask_segment(2, 4).await, Got::Absent);
    assert_eq!(bench.take_requests(), [name(2, 4), "incarnation.json".to_owned()]);
    bench.found(1, 4).await;
    bench.settle().await;
    assert_eq!(bench.take_requests(), [name(1, 4)]);
}

#[tokio::test]
async fn a_damaged_object_is_never_offered_and_its_own_ask_tells() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=8);
    let object = bench.object(&name(1, 4));
    let good = std::fs::read(&object).unwrap();
    let foreign = {
        let mut bytes = good.clone();
        let half = bytes.len() / 2;
        bytes[half] ^= 1;
        bytes
    };
    for bad in [foreign, bench.sealed(&name(1, 5), &content(1, 5)), bench.sealed(&name(1, 4), b"short")] {
        std::fs::write(&object, bad).unwrap();
        for number in 1..=3 {
            bench.found(1, number).await;
            bench.settle().await;
        }
        bench.take_requests();
        let got = bench.ask_segment(1, 4).await;
        assert_eq!(got, bench.direct(&name(1, 4)).await);
        assert_eq!(got, Got::Failed(ErrorKind::Corrupt));
        assert!(bench.prefetcher().numbers().failed > 0);
        assert!(bench.spooled().iter().all(|file| !file.starts_with(&name(1, 4))), "{:?}", bench.spooled());
    }
    // It is not tried ahead again and again.
    std::fs::write(&object, good).unwrap();
    bench.found(1, 4).await;
}

#[tokio::test]
async fn a_stalled_file_keeps_nobody_else_waiting() {
    let mut bench = Bench::s3().await;
    bench.ctx.store_deadline = Duration::from_secs(4);
    bench.begin(PrefetchOptions { parallel: NonZeroU32::MIN, ..options() });
    bench.put_segments(1, 1..=8);
    let server = bench.server.as_ref().unwrap();
    // The only turn hangs on the third, and the fourth waits for it.
    let stalled = FaultRule { times: 1, ..rule(Fault::Stalled(100), &name(1, 3)) };
    server.inject(stalled);
    bench.found(1, 1).await;
    bench.found(1, 2).await;
    until(|| server.requests().iter().any(|request| request.path.contains(&name(1, 3)))).await;
    bench.found(1, 4).await;
    // Dropped with the jump: the turn is free again.
    bench.settle().await;
    bench.found(1, 5).await;
    assert!(bench.prefetcher().numbers().hits > 0);
}

#[tokio::test]
async fn a_fetch_that_hangs_is_begun_anew_for_the_ask() {
    let mut bench = Bench::s3().await;
    bench.ctx.store_deadline = Duration::from_secs(2);
    bench.begin(options());
    bench.put_segments(1, 1..=2);
    let server = bench.server.as_ref().unwrap();
    server.inject(FaultRule { times: 1, ..rule(Fault::HangBefore, &name(1, 2)) });
    bench.found(1, 1).await;
    until(|| server.requests().iter().any(|request| request.path.contains(&name(1, 2)))).await;
    bench.found(1, 2).await;
}

#[tokio::test]
async fn a_broken_store_is_never_an_absence() {
    let mut bench = Bench::s3().await;
    bench.ctx.store_deadline = Duration::from_millis(300);
    bench.begin(options());
    let faults = [
        (Fault::Unavailable, ErrorKind::Unavailable),
        (Fault::Denied, ErrorKind::Denied),
        (Fault::ResetBefore, ErrorKind::Unavailable),
    ];
    for mode in ["recovery.signal", "standby.signal"] {
        bench.signal(mode);
        for (fault, kind) in faults {
            // Of the segment itself, and of the proof.
            for on in ["", "incarnation.json"] {
                let server = bench.server.as_ref().unwrap();
                server.clear_faults();
                let skip = u32::from(on.is_empty() && mode == "standby.signal");
                server.inject(FaultRule { skip, ..rule(fault, on) });
                if !on.is_empty() {
                    // Without the listing, which would be the proof.
                    bench.prefetcher().inner.lists.store(false, Ordering::Relaxed);
                }
                for name in [name(1, 1), "00000002.history".to_owned()] {
                    let got = bench.ask(&name).await;
                    assert_eq!(got, Got::Failed(kind), "{mode} {fault:?} {on:?} {name}");
                }
                bench.prefetcher().inner.lists.store(true, Ordering::Relaxed);
            }
        }
        bench.server.as_ref().unwrap().clear_faults();
        std::fs::rename(bench.marker(), bench.directory.path().join("marker")).unwrap();
        let expected = bench.direct(&name(1, 1)).await;
        assert!(matches!(expected, Got::Failed(_)));
        assert_eq!(bench.ask_segment(1, 1).await, expected);
        assert_eq!(bench.ask("00000002.history").await, expected);
        std::fs::rename(bench.directory.path().join("marker"), bench.marker()).unwrap();
    }
}

#[tokio::test]
async fn a_local_archive_is_looked_at_again_after_the_proof() {
    let bench = Bench::local().await;
    let repo = bench.directory.path().join("repo");
    let elsewhere = bench.directory.path().join("unmounted");
    std::fs::rename(&repo, &elsewhere).unwrap();
    std::fs::create_dir(&repo).unwrap();
    let expected = bench.direct(&name(1, 1)).await;
    assert!(matches!(expected, Got::Failed(_)));
    assert_eq!(bench.ask_segment(1, 1).await, expected);
    std::fs::remove_dir(&repo).unwrap();
    std::fs::rename(&elsewhere, &repo).unwrap();
    assert_eq!(bench.ask_segment(1, 1).await, Got::Absent);
    bench.put_segment(1, 1);
    bench.found(1, 1).await;
}

#[tokio::test]
async fn many_asks_at_once_are_all_answered() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=4);
    let destination = bench.destination("");
    let names: Vec<String> = (0..12).map(|index| name(1, 1 + index % 6)).collect();
    let asks = names.iter().map(|name| bench.prefetcher().get(name, &destination));
    for (name, answer) in names.iter().zip(futures::future::join_all(asks).await) {
        let expected = bench.direct(name).await;
        let got = match answer {
            GetAnswer::Ready(file) => bench.take(&file, name),
            GetAnswer::Absent => Got::Absent,
            other => panic!("{name} {other:?}"),
        };
        // A file goes to one hook; another fetches for itself.
        assert!(got == expected || got == Got::Gone, "{name} {} {}", short(&got), short(&expected));
    }
}
