//! A store that fails and stalls under the agent: hooks end with the documented code within their deadline, the agent
//! recovers, and nothing is lost or acknowledged too early.

use std::time::{Duration, Instant};

use http::Method;
use walden_testkit::stores::{Fault, FaultRule};

use super::bench::{Bench, until};
use crate::support::{describe, run};

const UNAVAILABLE: i32 = 15;
const DENIED: i32 = 16;
const DEADLINE: Duration = Duration::from_secs(4);
const FOR_EVER: u32 = u32::MAX;

fn bench() -> Bench {
    let mut bench = Bench::s3();
    bench.walden.set("WALDEN_WAL_PUSH_DEADLINE", "4s");
    bench
}

#[test]
fn pushes_through_the_agent_that_succeed_over_faults_are_readable() {
    let bench = bench();
    let _agent = bench.start();
    let mut number = 12;
    for fault in
        [Fault::Unavailable, Fault::LostAnswer, Fault::ResetBefore, Fault::ResetAfter, Fault::Conflict]
    {
        // The file asked for and those archived ahead.
        let names = bench.finish_all(number..number + 4);
        number += 4;
        bench.store().inject(FaultRule::next(fault, Method::PUT, 3));
        for name in &names {
            bench.archive(name);
        }
        bench.store().clear_faults();
    }
    assert_eq!(bench.names_stored().len(), 20);
}

#[test]
fn nothing_is_acknowledged_while_the_store_fails() {
    let bench = bench();
    let _agent = bench.start();
    let names = bench.finish_all(12..15);
    for (fault, code) in
        [(Fault::Unavailable, UNAVAILABLE), (Fault::ResetBefore, UNAVAILABLE), (Fault::Denied, DENIED)]
    {
        bench.store().clear_faults();
        bench.store().inject(FaultRule::next(fault, Method::PUT, FOR_EVER));
        let output = bench.push(&names[0]);
        assert_eq!(output.status.code(), Some(code), "{fault:?}: {}", describe(&output));
        let direct = run(bench.hook(&names[0]).env("WALDEN_AGENT", "off"));
        assert_eq!(direct.status.code(), Some(code), "{fault:?}: {}", describe(&direct));
    }
    bench.store().clear_faults();
    assert_eq!(bench.names_stored(), Vec::<String>::new());
    for name in &names {
        bench.archive(name);
    }
}

#[test]
fn a_store_that_stalls_keeps_no_hook_beyond_its_deadline() {
    let bench = bench();
    let _agent = bench.start();
    let names = bench.finish_all(12..22);
    bench.archive(&names[0]);
    bench.until_acks(9);
    bench.store().inject(FaultRule::next(Fault::HangBefore, Method::PUT, FOR_EVER));
    let more = bench.finish_all(22..32);
    for _ in 0..3 {
        let begun = Instant::now();
        let output = bench.push(&more[0]);
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{}", describe(&output));
        assert!(begun.elapsed() < DEADLINE * 5, "{:?}", begun.elapsed());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&more[0]), "{said}");
    }
    // What was archived before is still known, and what is not is not.
    assert!(bench.push(&names[1]).status.success());
    assert_eq!(bench.names_stored(), names);
    bench.store().clear_faults();
    until("the agent to recover", || bench.push(&more[0]).status.success());
    for name in &more {
        bench.archive(name);
    }
    let status = bench.status().unwrap();
    assert!(status["push"]["calls_failed"].as_u64() > Some(0), "{status}");
    assert_eq!(bench.names_stored().len(), 20);
}

/// The answers are late and not lost: what the hook gave up, the agent finishes, and the next hook finds it done.
#[test]
fn what_a_hook_gave_up_is_done_when_it_comes_again() {
    let bench = bench();
    let _agent = bench.start();
    let names = bench.finish_all(12..14);
    bench.archive(&names[0]);
    bench.until_acks(1);
    let name = bench.finish(14);
    bench.store().inject(FaultRule::next(Fault::HangAfter, Method::PUT, 1).on(&name));
    let hooks: Vec<_> =
        (0..50).map(|_| bench.push(&name)).take_while(|output| !output.status.success()).collect();
    for output in &hooks {
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{}", describe(output));
    }
    assert!(hooks.len() < 50);
    bench.assert_stored(&name);
}

/// An agent that is heard from and does not get done: its own request is never answered, and it has all the time.
#[test]
fn an_agent_that_never_gets_done_is_done_without() {
    let mut bench = Bench::s3();
    bench.walden.set("WALDEN_WAL_PUSH_DEADLINE", "16s");
    let agent = bench.start_with(|command| {
        command.env("WALDEN_WAL_PUSH_DEADLINE", "10m").env("WALDEN_STORE_REQUEST_TIMEOUT", "10m");
    });
    let names = bench.finish_all(12..14);
    bench.store().inject(FaultRule::next(Fault::HangBefore, Method::PUT, 1).on(&names[0]));
    let output = bench.archive(&names[0]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("what was then done without it") && said.contains("restart it"), "{said}");
    // The next calls don't wait for it.
    let requests = bench.store().requests().len();
    let output = bench.archive(&bench.finish(14));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("did not get done a moment ago; done without it"), "{said}");
    assert!(bench.store().requests().len() > requests);
    // And it can still be asked what it does.
    let status = bench.status().unwrap();
    assert_eq!(
        (status["pid"].as_i64(), status["push"]["in_flight"].as_i64()),
        (Some(agent.pid().as_raw().into()), Some(1))
    );
}

/// One that a hook started is replaced.
#[test]
fn an_agent_on_demand_that_never_gets_done_is_asked_to_leave() {
    let mut bench = Bench::s3();
    bench.walden.set("WALDEN_WAL_PUSH_DEADLINE", "16s");
    let names = bench.finish_all(12..14);
    let _agent = bench.start_with(|command| {
        command
            .arg("--on-demand")
            .env("WALDEN_WAL_PUSH_DEADLINE", "10m")
            .env("WALDEN_STORE_REQUEST_TIMEOUT", "10m");
    });
    bench.store().inject(FaultRule::next(Fault::HangBefore, Method::PUT, 1).on(&names[0]));
    let output = bench.archive(&names[0]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it was asked to leave"), "{said}");
    until("it to leave", || bench.status().is_none_or(|status| status["leaving"] == true));
}

/// The time that a limit of the rate takes is not the hook's.
#[test]
fn a_low_rate_is_no_reason_to_give_up() {
    let mut bench = Bench::s3();
    bench.walden.set("WALDEN_WAL_PUSH_DEADLINE", "2s");
    let _agent = bench.start_with(|command| {
        command.env("WALDEN_WAL_PUSH_DEADLINE", "2m").args(["--max-rate", "100kB"]);
    });
    // Half a MiB of noise: it takes five seconds.
    let name = bench.finish(12);
    let output = bench.archive(&name);
    assert!(String::from_utf8_lossy(&output.stderr).contains("by the agent"), "{}", describe(&output));
}
