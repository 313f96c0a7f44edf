//! How agents come and go.

use std::num::NonZeroU64;
use std::time::Duration;

use hyper::Method;
use walden_core::ErrorKind;
use walden_store::StoreConfig;
use walden_testkit::stores::{Fault, FaultRule, TestStore};

use super::bench::{bench, bench_on_s3};
use crate::agent::client::{DoItYourself, PushAnswer};
use crate::agent::lifecycle::Premises;
use crate::agent::spool::AgentLock;
use crate::agent::{AgentEnd, AgentOptions, assemble, stay};

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_and_a_resident_one_takes_the_place_of_one_on_demand() {
    let bench = bench().await;
    let name = bench.finish(2);
    let on_demand = AgentOptions { on_demand: true, ..bench.options() };
    let first = bench.start(on_demand.clone()).await;
    assert_eq!(bench.launch(on_demand.clone()).end().await.unwrap().end, AgentEnd::NotNeeded);
    let resident = bench.launch(bench.options());
    assert_eq!(first.end().await.unwrap().end, AgentEnd::Stopped);
    bench.until("the resident one answers", |status| !status.on_demand).await;
    assert_eq!(bench.launch(on_demand).end().await.unwrap().end, AgentEnd::NotNeeded);
    let refused = bench.launch(bench.options()).end().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains(&format!("pid={}", std::process::id())), "{refused}");
    assert!(matches!(bench.push(&name).await, PushAnswer::Done { .. }));
    assert!(!resident.has_ended());
    let report = resident.stop().await;
    assert_eq!((report.end, report.status.unwrap().push.archived_files), (AgentEnd::Stopped, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_demand_goes_when_nobody_calls_and_a_resident_one_stays() {
    let bench = bench().await;
    let idle = AgentOptions { idle: Duration::from_millis(50), ..bench.options() };
    let resident = bench.start(idle.clone()).await;
    let on_demand = AgentOptions { on_demand: true, ..idle };
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!resident.has_ended());
    resident.stop().await;
    assert_eq!(bench.launch(on_demand).end().await.unwrap().end, AgentEnd::Idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_when_its_spool_or_its_data_directory_does() {
    let bench = bench().await;
    let names: Vec<_> = (2..5).map(|number| bench.finish(number)).collect();
    let agent = bench.start(bench.options()).await;
    assert!(matches!(bench.push(&names[0]).await, PushAnswer::Done { .. }));
    std::fs::remove_dir_all(bench.spool.directory()).unwrap();
    assert_eq!(bench.push(&names[1]).await, PushAnswer::DoItYourself(DoItYourself::NoAgent));
    // Another one may be there before the first has seen it.
    let other = bench.start(bench.options()).await;
    assert_eq!(agent.end().await.unwrap().end, AgentEnd::Displaced);
    assert!(
        matches!(bench.push(&names[1]).await, PushAnswer::Done { .. }),
        "and left the other's socket alone"
    );
    let moved = bench.directory.path().join("moved");
    std::fs::rename(bench.data.path(), &moved).unwrap();
    assert_eq!(other.end().await.unwrap().end, AgentEnd::Displaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_finished_and_told_before_an_agent_goes() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    server.inject(FaultRule::next(Fault::Slow(Duration::from_secs(1)), Method::PUT, 1));
    let (answer, report) = tokio::join!(bench.push(&name), async {
        bench.until("the push is under way", |status| status.push.in_flight == 1).await;
        agent.stop().await
    });
    assert!(matches!(answer, PushAnswer::Done { .. }), "{answer:?}");
    assert_eq!(report.end, AgentEnd::Stopped);
    assert!(!bench.spool.socket_path().try_exists().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_that_was_killed_left_is_in_nobodys_way() {
    let bench = bench().await;
    let name = bench.finish(2);
    // A lock that nobody holds and a socket that nobody listens on.
    bench.spool.make().unwrap();
    std::fs::write(bench.spool.lock_path(), b"99999999\n").unwrap();
    drop(std::os::unix::net::UnixListener::bind(bench.spool.socket_path()).unwrap());
    assert_eq!(bench.push(&name).await, PushAnswer::DoItYourself(DoItYourself::NoAgent));
    let agent = bench.start(bench.options()).await;
    assert!(matches!(bench.push(&name).await, PushAnswer::Done { .. }));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_which_a_part_broke_off_does_not_stay_to_be_heard_from() {
    let bench = bench().await;
    let lock = AgentLock::take(&bench.spool).unwrap().unwrap();
    let (premises, _listener) = Premises::open(&bench.spool, lock, false).unwrap();
    let options = bench.options();
    let server = assemble(bench.ctx.clone(), &options, bench.spool.clone(), None);
    let (end, why) = stay(&premises, &options, &server, || false, std::future::pending()).await;
    assert_eq!(end, AgentEnd::Stopped);
    assert!(why.contains("defect"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_waits_for_what_it_has_begun_and_not_for_ever() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let options = AgentOptions { finish_within: Duration::from_millis(500), ..bench.options() };
    let agent = bench.start(options).await;
    server.inject(FaultRule::next(Fault::HangBefore, Method::PUT, 99));
    let mut hook = std::pin::pin!(bench.push(&name));
    let report = tokio::select! {
        answer = &mut hook => panic!("{answer:?}"),
        report = async {
            bench.until("the push is under way", |status| status.push.in_flight == 1).await;
            agent.stop().await
        } => report,
    };
    assert_eq!((report.end, report.status.unwrap().push.archived_files), (AgentEnd::Stopped, 0));
    server.clear_faults();
    // Here the process goes on; a real one ends, and the hook sees that its connection does.
    hook.await;
    bench.push_directly(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_keeps_to_a_rate_sends_little_at_once_and_has_hooks_wait_longer() {
    let mut bench = bench().await;
    let repository = bench.directory.path().join("repo");
    let limited = StoreConfig { max_rate: NonZeroU64::new(64 << 20), ..StoreConfig::default() };
    bench.ctx.store = TestStore::directory(&repository).open(&limited).unwrap();
    let names: Vec<_> = (2..12).map(|number| bench.finish(number)).collect();
    let options = bench.options();
    assert!(options.limits.in_flight.get() > 2);
    let agent = bench.start(options).await;
    let answer = bench.push(&names[0]).await;
    assert!(matches!(answer, PushAnswer::Done { .. }), "{answer:?}");
    let status = bench.until("the others are archived", |status| status.push.acks == 10).await;
    assert_eq!(status.load.in_flight_limit, 2);
    agent.stop().await;
}
