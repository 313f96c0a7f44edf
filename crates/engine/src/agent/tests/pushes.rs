//! What a hook is told, and when something is archived ahead.

use std::fs::File;
use std::time::Duration;

use hyper::Method;
use walden_core::ErrorKind;
use walden_testkit::stores::{Fault, FaultRule};

use super::bench::{bench, bench_on_s3, name, segment};
use crate::RESTORED_MARKER;
use crate::agent::client::{DoItYourself, PushAnswer};
use crate::agent::{ACKS_MAX, AgentStatus};
use crate::archiver::PushOutcome;

fn is_done(answer: &PushAnswer, expect_ahead: bool) -> bool {
    matches!(answer, PushAnswer::Done { ahead, .. } if *ahead == expect_ahead)
}

fn failure_kind(answer: &PushAnswer) -> Option<ErrorKind> {
    match answer {
        PushAnswer::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_asked_for_is_archived_and_the_next_ones_ahead() {
    let (bench, server) = bench_on_s3().await;
    let names: Vec<_> = (2..7).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    assert!(is_done(&bench.push(&names[0]).await, false));
    bench.done(&names[0]);
    bench.until("the others are archived", |status| status.push.acks == 4).await;
    let _ = server.take_requests();
    for name in &names[1..] {
        let PushAnswer::Done { report, ahead: true } = bench.push(name).await else {
            panic!("{name} was not archived ahead")
        };
        assert_eq!((report.name.as_str(), report.outcome), (name.as_str(), PushOutcome::Stored));
        bench.done(name);
    }
    assert_eq!(server.take_requests(), [], "an ack costs nothing");
    let status = bench.until("all acks are gone", |status| status.push.acks == 0).await;
    assert_eq!((status.push.archived_files, status.push.ready_files, status.push.queue_files), (5, 0, 0));
    assert_eq!((status.push.calls, status.push.calls_ahead, status.push.calls_failed), (5, 4, 0));
    for (number, name) in (2..7).zip(&names) {
        assert_eq!(bench.fetched(name).await, segment(number, 0));
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asks_for_is_not_archived() {
    let bench = bench().await;
    let names: Vec<_> = (2..5).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    bench.until("the files are seen", |status| status.push.ready_files == 3).await;
    // archive_command may be off here. A few more looks, and nothing is begun.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let push = bench.status().await.unwrap().push;
        assert_eq!((push.archived_files, push.in_flight, push.ahead, push.queue_files), (0, 0, false, 3));
        assert!(push.unarchived_seconds > 0.0);
    }
    assert!(is_done(&bench.push(&names[1]).await, false));
    bench.until("the others are archived ahead now", |status| status.push.archived_files == 3).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_is_not_for_another_file_of_the_same_name() {
    let bench = bench().await;
    let names: Vec<_> = (2..5).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    assert!(is_done(&bench.push(&names[0]).await, false));
    bench.until("the others are archived", |status| status.push.acks == 3).await;
    // Other bytes, the same length, and the date of the last write set back to what it was.
    let path = bench.wal(&names[1]);
    let modified = path.metadata().unwrap().modified().unwrap();
    std::fs::write(&path, segment(3, 1)).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(failure_kind(&bench.push(&names[1]).await), Some(ErrorKind::Conflict));
    // The same bytes in another file are looked at again, and found to be the same.
    let path = bench.wal(&names[2]);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, segment(4, 0)).unwrap();
    let PushAnswer::Done { report, ahead: false } = bench.push(&names[2]).await else { panic!("not done") };
    assert_eq!(report.outcome, PushOutcome::AlreadyStored);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_keeps_no_other_from_its_turn() {
    let bench = bench().await;
    let names: Vec<_> = (2..6).map(|number| bench.finish(number)).collect();
    bench.push_directly(&names[0]).await.unwrap();
    std::fs::write(bench.wal(&names[0]), segment(2, 1)).unwrap();
    let agent = bench.start(bench.options()).await;
    let PushAnswer::Failed(failure) = bench.push(&names[0]).await else { panic!("not refused") };
    let alone = bench.push_directly(&names[0]).await.unwrap_err();
    assert_eq!((failure.kind, failure.hint.clone()), (alone.kind(), alone.hint()));
    assert!(failure.message.contains(&names[0]), "{failure:?}");
    let status = bench.until("the others are archived", |status| status.push.acks == 3).await;
    assert_eq!(status.push.retries.first().map(|retry| retry.name.as_str()), Some(names[0].as_str()));
    assert_eq!(status.errors.get("conflict"), Some(&1), "not tried again and again");
    assert_eq!(status.push.last_failure.unwrap().failure, failure);
    // A hook gets an answer of its own, not what is remembered.
    std::fs::write(bench.wal(&names[0]), segment(2, 0)).unwrap();
    assert!(is_done(&bench.push(&names[0]).await, false));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_data_directory_is_refused_as_without_an_agent() {
    let bench = bench().await;
    let names: Vec<_> = (2..5).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    assert!(is_done(&bench.push(&names[0]).await, false));
    bench.until("the others are archived", |status| status.push.acks == 3).await;
    let record = crate::find_incarnation(&bench.ctx, None).await.unwrap();
    let marker = crate::RestoredMarker {
        schema: 1,
        repository_id: record.repository_id.clone(),
        server: record.server.clone(),
        incarnation: record.incarnation(),
        backup: "20260101T000000Z-0123".parse().unwrap(),
        restored_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        allowed_tablespaces: Vec::new(),
        drill: false,
    };
    std::fs::write(bench.data.path().join(RESTORED_MARKER), serde_json::to_vec(&marker).unwrap()).unwrap();
    let later = bench.finish(5);
    assert_eq!(failure_kind(&bench.push(&later).await), Some(ErrorKind::WrongServer));
    // And with it goes the belief in what was archived before.
    assert_eq!(failure_kind(&bench.push(&names[1]).await), Some(ErrorKind::WrongServer));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_waits_as_long_as_it_hears_from_the_agent() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    // Longer than a hook bears silence.
    server.inject(FaultRule::next(Fault::Slow(Duration::from_secs(4)), Method::PUT, 1));
    assert!(is_done(&bench.push(&name).await, false));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_gives_up_leaves_nothing_behind() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    server.inject(FaultRule::next(Fault::Slow(Duration::from_secs(2)), Method::PUT, 1));
    let answer = bench.push_within(&name, Duration::from_millis(300)).await;
    assert!(matches!(answer, PushAnswer::Late { .. }), "{answer:?}");
    bench.until("the call counts as failed", |status| status.push.calls_failed == 1).await;
    // It goes on meanwhile, and the next call finds it done.
    bench.until("the file is archived", |status| status.push.acks == 1).await;
    assert!(is_done(&bench.push(&name).await, true));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_outside_of_pg_wal_is_the_hooks_own_matter() {
    let bench = bench().await;
    let agent = bench.start(bench.options()).await;
    let elsewhere = bench.data.path().join(name(2));
    std::fs::write(&elsewhere, segment(2, 0)).unwrap();
    let spool = bench.spool.clone();
    let push = move || crate::agent::client::push(&spool, &elsewhere, Duration::from_secs(9));
    let answer = tokio::task::spawn_blocking(push).await.unwrap();
    assert_eq!(answer, PushAnswer::DoItYourself(DoItYourself::Elsewhere));
    std::fs::write(bench.wal("postgresql.conf"), b"").unwrap();
    let answer = bench.push("postgresql.conf").await;
    assert!(matches!(answer, PushAnswer::DoItYourself(DoItYourself::SentAway(_))), "{answer:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_pushes_beside_the_agent_harm_nobody() {
    let (bench, server) = bench_on_s3().await;
    let names: Vec<_> = (2..8).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    assert!(is_done(&bench.push(&names[0]).await, false));
    for name in &names {
        let (by_agent, directly) = tokio::join!(bench.push(name), bench.push_directly(name));
        assert!(matches!(by_agent, PushAnswer::Done { .. }), "{by_agent:?}");
        directly.unwrap();
    }
    for (number, name) in (2..8).zip(&names) {
        assert_eq!(bench.fetched(name).await, segment(number, 0));
    }
    let stored = server.requests().into_iter().filter(|request| {
        request.method == Method::PUT && !request.conditional && request.path.contains("/wal/")
    });
    assert_eq!(stored.count(), 0, "nothing is ever written over");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_believed_of_an_archive_that_is_not_what_it_was() {
    let (bench, server) = bench_on_s3().await;
    let names: Vec<_> = (2..5).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    assert!(is_done(&bench.push(&names[0]).await, false));
    bench.until("the others are archived", |status| status.push.acks == 3).await;
    server.inject(FaultRule::next(Fault::NoSuchBucket, Method::PUT, 1));
    let later = bench.finish(5);
    assert!(failure_kind(&bench.push(&later).await).is_some());
    server.clear_faults();
    let _ = server.take_requests();
    // Looked at anew: the store has it, and says so.
    let PushAnswer::Done { report, ahead: false } = bench.push(&names[1]).await else { panic!("not done") };
    assert_eq!(report.outcome, PushOutcome::AlreadyStored);
    assert!(server.take_requests().iter().any(|request| request.path.contains(&names[1])));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_archived_ahead_than_allowed() {
    let bench = bench().await;
    let names: Vec<_> = (2..ACKS_MAX as u64 + 12).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    // The first can't be archived, so PostgreSQL goes no further.
    std::fs::write(bench.wal(&names[0]), b"torn").unwrap();
    assert_eq!(failure_kind(&bench.push(&names[0]).await), Some(ErrorKind::Invalid));
    let full = |status: &AgentStatus| status.push.archived_files >= ACKS_MAX as u64;
    bench.until("as many are archived as may be", full).await;
    assert_eq!(failure_kind(&bench.push(&names[0]).await), Some(ErrorKind::Invalid));
    let status = bench.until("nothing is in flight", |status| status.push.in_flight == 0).await;
    assert_eq!((status.push.archived_files, status.push.acks), (ACKS_MAX as u64, ACKS_MAX as u64));
    assert!(!status.push.ahead);
    // With every one that PostgreSQL takes there is room for another.
    bench.done(&names[1]);
    bench.until("one more is archived", |status| status.push.archived_files == ACKS_MAX as u64 + 1).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_file_that_is_under_way_waits_for_that_push() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    server.inject(FaultRule::next(Fault::Slow(Duration::from_secs(1)), Method::PUT, 1));
    let (first, second) = tokio::join!(bench.push(&name), async {
        bench.until("the push is under way", |status| status.push.in_flight == 1).await;
        bench.push(&name).await
    });
    for answer in [first, second] {
        let PushAnswer::Done { report, ahead: false } = answer else { panic!("not done: {answer:?}") };
        assert_eq!(report.outcome, PushOutcome::Stored);
    }
    assert_eq!(agent.stop().await.status.unwrap().push.archived_files, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_another_file_of_a_name_that_is_under_way_is_not_told_of_that_push() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    server.inject(FaultRule::next(Fault::Slow(Duration::from_secs(1)), Method::PUT, 1));
    let (_, second) = tokio::join!(bench.push(&name), async {
        bench.until("the push is being sent", |status| status.load.sending == 1).await;
        std::fs::remove_file(bench.wal(&name)).unwrap();
        std::fs::write(bench.wal(&name), segment(2, 1)).unwrap();
        bench.push(&name).await
    });
    assert_eq!(failure_kind(&second), Some(ErrorKind::Conflict), "{second:?}");
    agent.stop().await;
}
