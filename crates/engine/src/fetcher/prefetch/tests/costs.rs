//! What the asks of a recovery cost in requests.

use walden_testkit::stores::{Fault, FaultRule};

use super::*;

#[tokio::test]
async fn a_segment_costs_one_request_and_the_end_of_the_archive_two_and_a_look_ahead() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=20);
    for number in 1..=20 {
        bench.found(1, number).await;
        bench.settle().await;
    }
    let mut requests = bench.take_requests();
    let looked_ahead = requests.iter().filter(|request| **request > name(1, 20)).count();
    // Several are fetched ahead at once; what lies behind the first that is absent is not tried again.
    assert!((1..=4).contains(&looked_ahead), "{requests:?}");
    requests.retain(|request| *request <= name(1, 20));
    requests.sort_unstable();
    assert_eq!(requests, (1..=20).map(|number| name(1, number)).collect::<Vec<_>>());
    let numbers = bench.prefetcher().numbers();
    assert_eq!((numbers.calls, numbers.misses, numbers.failed), (20, 1, 0));
    assert_eq!(numbers.hits + numbers.waited, 19);

    assert_eq!(bench.ask_segment(1, 21).await, Got::Absent);
    assert_eq!(bench.take_requests(), [name(1, 21), "incarnation.json".to_owned()]);
    bench.settle().await;
    assert_eq!(bench.take_requests(), Vec::<String>::new());
}

#[tokio::test]
async fn the_end_of_a_recovery_is_proven_afresh_every_time() {
    let bench = Bench::s3().await;
    bench.signal("recovery.signal");
    for _ in 0..2 {
        assert_eq!(bench.ask_segment(1, 1).await, Got::Absent);
        assert_eq!(bench.take_requests(), [name(1, 1), "incarnation.json".to_owned()]);
        assert_eq!(bench.ask("00000002.history").await, Got::Absent);
        assert_eq!(bench.take_requests(), ["00000002.history", "incarnation.json"]);
    }
}

#[tokio::test]
async fn a_poll_of_a_standby_costs_two_requests() {
    let bench = Bench::s3().await;
    bench.signal("standby.signal");
    bench.put_segments(1, 1..=3);
    for number in 1..=3 {
        bench.found(1, number).await;
    }
    bench.settle().await;
    for _ in 0..3 {
        bench.take_requests();
        // 15 and later ask twice.
        assert_eq!(bench.ask_segment(1, 4).await, Got::Absent);
        assert_eq!(bench.ask_segment(1, 4).await, Got::Absent);
        assert_eq!(bench.ask("00000002.history").await, Got::Absent);
        assert_eq!(bench.take_requests(), [name(1, 4), "LIST".to_owned()]);
        bench.pass(5000);
    }
}

#[tokio::test]
async fn a_standby_that_is_told_to_promote_right_after_a_poll_is_given_what_came_since() {
    let bench = Bench::s3().await;
    bench.signal("standby.signal");
    bench.put_segment(1, 1);
    bench.found(1, 1).await;
    assert_eq!(bench.ask_segment(1, 2).await, Got::Absent);
    assert_eq!(bench.ask("00000002.history").await, Got::Absent);
    // The primary ends, archives its last segment, and the standby is promoted: all within the same second.
    bench.put_segment(1, 2);
    bench.found(1, 2).await;
    // Without a look for a newer timeline in between, one more ask is taken for that of the same poll.
    assert_eq!(bench.ask_segment(1, 3).await, Got::Absent);
    assert_eq!(bench.ask_segment(1, 3).await, Got::Absent);
    bench.put_segment(1, 3);
    bench.found(1, 3).await;
}

#[tokio::test]
async fn a_standby_that_is_behind_no_more_is_given_one_at_a_time_without_a_look_ahead() {
    let bench = Bench::s3().await;
    bench.signal("standby.signal");
    assert_eq!(bench.ask_segment(1, 1).await, Got::Absent);
    for number in 1..=4 {
        bench.pass(5000);
        bench.put_segment(1, number);
        bench.take_requests();
        bench.found(1, number).await;
        assert_eq!(bench.ask_segment(1, number + 1).await, Got::Absent);
        assert_eq!(bench.ask("00000002.history").await, Got::Absent);
        bench.settle().await;
        assert_eq!(bench.take_requests(), [name(1, number), name(1, number + 1), "LIST".to_owned()]);
    }
    // It fell behind: what is there is fetched ahead again.
    bench.pass(5000);
    bench.put_segments(1, 5..=9);
    for number in 5..=9 {
        bench.found(1, number).await;
        bench.settle().await;
    }
    let numbers = bench.prefetcher().numbers();
    assert!(numbers.hits >= 3, "{numbers:?}");
}

#[tokio::test]
async fn a_poll_sees_a_new_timeline() {
    let bench = Bench::s3().await;
    bench.signal("standby.signal");
    bench.put_segment(1, 1);
    bench.found(1, 1).await;
    bench.settle().await;
    let text = history(&[(1, 2)]);
    bench.put("00000002.history", text.as_bytes());
    bench.take_requests();
    assert_eq!(bench.ask_segment(1, 2).await, Got::Absent);
    assert_eq!(bench.ask("00000002.history").await, Got::Bytes(text.clone().into_bytes()));
    assert_eq!(bench.ask("00000003.history").await, Got::Absent);
    let requests = bench.take_requests();
    let [first, second, rest @ ..] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((first, second.as_str()), (&name(1, 2), "LIST"));
    assert_eq!(rest, ["00000002.history", "00000003.history", "incarnation.json"]);
    // From now on polls are about the timeline after that one.
    bench.pass(5000);
    assert_eq!(bench.ask_segment(2, 2).await, Got::Absent);
    assert_eq!(bench.ask("00000003.history").await, Got::Absent);
    assert_eq!(bench.take_requests(), [name(2, 2), "LIST".to_owned()]);
}

#[tokio::test]
async fn a_proof_ends_with_the_next_ask_for_something_else() {
    let bench = Bench::s3().await;
    bench.signal("standby.signal");
    bench.put_segment(1, 1);
    bench.found(1, 1).await;
    assert_eq!(bench.ask_segment(1, 2).await, Got::Absent);
    // A promotion: the last segment again, and then the choice of the new timeline.
    bench.found(1, 1).await;
    bench.settle().await;
    bench.take_requests();
    let text = history(&[(1, 2)]);
    bench.put("00000002.history", text.as_bytes());
    assert_eq!(bench.ask("00000002.history").await, Got::Bytes(text.into_bytes()));
}

#[tokio::test]
async fn who_may_not_list_is_served_by_the_marker() {
    let bench = Bench::s3().await;
    bench.signal("standby.signal");
    let server = bench.server.as_ref().unwrap();
    server.inject(FaultRule::next(Fault::Denied, http::Method::GET, 1).after(1));
    assert_eq!(bench.ask_segment(1, 1).await, Got::Absent);
    assert_eq!(bench.ask("00000002.history").await, Got::Absent);
    let requests = bench.take_requests();
    let expected = ["LIST", "incarnation.json", "00000002.history", "incarnation.json"];
    assert_eq!(requests[1..], expected, "{requests:?}");
    // It is not asked for again.
    bench.pass(5000);
    assert_eq!(bench.ask_segment(1, 1).await, Got::Absent);
    assert_eq!(bench.take_requests(), [name(1, 1), "incarnation.json".to_owned()]);
}

#[tokio::test]
async fn an_ask_that_the_hook_did_not_take_up_is_offered_again_for_nothing() {
    let bench = Bench::s3().await;
    bench.put_segment(1, 1);
    let destination = bench.destination("");
    let GetAnswer::Ready(first) = bench.prefetcher().get(&name(1, 1), &destination).await else { panic!() };
    bench.settle().await;
    bench.take_requests();
    // The hook was killed; its successor asks.
    let GetAnswer::Ready(second) = bench.prefetcher().get(&name(1, 1), &destination).await else { panic!() };
    assert_eq!(first, second);
    assert_eq!(bench.take(&second, &name(1, 1)), Got::Bytes(content(1, 1)));
    assert_eq!(bench.take_requests(), Vec::<String>::new());
    // Recovery reads it once more.
    bench.found(1, 1).await;
    assert_eq!(bench.take_requests()[0], name(1, 1));
}

#[tokio::test]
async fn other_asks_cost_nothing_and_are_left_to_the_hook() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=3);
    let wal = bench.wal();
    let segment = name(1, 1);
    let partial = format!("{segment}.partial");
    let asks = [
        // pg_rewind asks under the file's own name.
        (segment.as_str(), wal.join(&segment)),
        (segment.as_str(), wal.join("RECOVERYHISTORY")),
        ("00000002.history", wal.join("RECOVERYXLOG")),
        (partial.as_str(), wal.join("RECOVERYXLOG")),
        ("nonsense", wal.join("RECOVERYXLOG")),
        (segment.as_str(), bench.directory.path().join("RECOVERYXLOG")),
    ];
    for (name, destination) in asks {
        let answer = bench.prefetcher().get(name, &destination).await;
        assert!(matches!(answer, GetAnswer::DoItYourself { .. }), "{name} {destination:?} {answer:?}");
    }
    assert_eq!(bench.take_requests(), Vec::<String>::new());
    assert_eq!(bench.spooled(), Vec::<String>::new());
}

#[tokio::test]
async fn the_next_ones_are_begun_while_the_first_is_still_arriving() {
    let bench = Bench::s3().await;
    bench.put_segments(1, 1..=3);
    let server = bench.server.as_ref().unwrap();
    let rule =
        FaultRule { fault: Fault::Stalled(100), method: None, path_contains: name(1, 1), skip: 0, times: 1 };
    server.inject(rule);
    let destination = bench.destination("");
    let first = name(1, 1);
    let mut ask = std::pin::pin!(bench.prefetcher().get(&first, &destination));
    let third = name(1, 3);
    let begun = until(|| server.requests().iter().any(|request| request.path.contains(&third)));
    tokio::select! {
        biased;
        answer = &mut ask => panic!("{answer:?}"),
        () = begun => {}
    }
}

#[tokio::test]
async fn nothing_is_begun_beside_an_ask_for_what_is_absent() {
    let bench = Bench::s3().await;
    assert_eq!(bench.ask_segment(1, 1).await, Got::Absent);
    bench.settle().await;
    assert_eq!(bench.take_requests(), [name(1, 1), "incarnation.json".to_owned()]);
}
