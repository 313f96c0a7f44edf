//! Whoever is not this agent's hook, and what is not a call.

use hyper::Method;
use walden_core::ErrorKind;
use walden_testkit::stores::{Fault, FaultRule};

use super::bench::{Bench, bench, bench_on_s3};
use crate::agent::client::{self, DoItYourself, PushAnswer};
use crate::agent::protocol::{
    AgentFailure, Answer, Ask, Call, Caller, Farewell, Frame, FrameKind, HEAD_BYTES, PROTOCOL, Refusal,
    bare_frame, build, frame,
};
use crate::agent::{AgentEnd, AgentOptions};
use crate::archiver::FileIdentity;

async fn answer_to(bench: &Bench, caller: Caller, name: &str) -> Answer {
    let file = FileIdentity::of(&bench.wal(name).metadata().unwrap());
    let call = Call { caller, ask: Ask::Push { name: name.to_owned(), file } };
    let bytes = frame(FrameKind::Call, build(), &call).unwrap();
    // Without the end of what is sent: the agent takes that for the end of the hook.
    let spool = bench.spool.clone();
    let raw = move || {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(spool.socket_path()).unwrap();
        stream.write_all(&bytes).unwrap();
        Frame::read(&mut stream).unwrap()
    };
    tokio::task::spawn_blocking(raw).await.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_of_another_repository_server_or_directory_is_sent_away() {
    let bench = bench().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    let ours = bench.spool.caller().clone();
    let mut elsewhere = ours.clone();
    elsewhere.data_directory.inode += 1;
    for stranger in [
        Caller { repository: "s3://other".to_owned(), ..ours.clone() },
        Caller { server: "other".parse().unwrap(), ..ours.clone() },
        elsewhere,
    ] {
        let answer = answer_to(&bench, stranger, &name).await;
        assert!(matches!(answer, Answer::DoItYourself { .. }), "{answer:?}");
    }
    assert_eq!(bench.status().await.unwrap().push.calls, 0);
    assert!(matches!(answer_to(&bench, ours, &name).await, Answer::Done { .. }));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_with_newer_credentials_tries_itself_when_the_agent_is_refused() {
    let (bench, server) = bench_on_s3().await;
    let name = bench.finish(2);
    let agent = bench.start(AgentOptions { on_demand: true, ..bench.options() }).await;
    let ours = bench.spool.caller().clone();
    server.inject(FaultRule::next(Fault::Denied, Method::PUT, 99));
    let Answer::Failed(failure) = answer_to(&bench, ours.clone(), &name).await else { panic!("not refused") };
    assert_eq!(failure.kind, ErrorKind::Denied);
    let newer = Caller { settings: "00".repeat(32), ..ours };
    let answer = answer_to(&bench, newer, &name).await;
    assert!(matches!(&answer, Answer::DoItYourself { reason } if reason.contains("settings")), "{answer:?}");
    // An agent that a hook started makes room for one that has them.
    assert_eq!(agent.end().await.unwrap().end, AgentEnd::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_matter_only_where_they_may_lead_to_another_end() {
    let (bench, server) = bench_on_s3().await;
    let taken = bench.finish(3);
    bench.push_directly(&taken).await.unwrap();
    std::fs::write(bench.wal(&taken), super::bench::segment(3, 1)).unwrap();
    let agent = bench.start(bench.options()).await;
    let newer = Caller { settings: "00".repeat(32), ..bench.spool.caller().clone() };
    // Another object has the name, whatever the credentials are.
    let Answer::Failed(failure) = answer_to(&bench, newer.clone(), &taken).await else { panic!("not told") };
    assert_eq!(failure.kind, ErrorKind::Conflict);
    server.inject(FaultRule::next(Fault::Denied, Method::PUT, 99));
    // Not before: it would be archived ahead.
    let name = bench.finish(2);
    let answer = answer_to(&bench, newer.clone(), &name).await;
    assert!(matches!(&answer, Answer::DoItYourself { reason } if reason.contains("settings")), "{answer:?}");
    server.clear_faults();
    // A resident one stays, and what it archives is archived for those, too.
    assert!(matches!(answer_to(&bench, newer, &name).await, Answer::Done { .. }));
    assert!(!agent.has_ended());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_build_is_refused_and_may_ask_an_agent_on_demand_to_leave() {
    let bench = bench().await;
    for on_demand in [false, true] {
        let agent = bench.start(AgentOptions { on_demand, ..bench.options() }).await;
        let refused = bench.send_raw(bare_frame(FrameKind::Call, "9.9.9+x")).await.unwrap();
        assert_eq!((refused.kind, refused.build.as_str()), (FrameKind::Refused, build()));
        assert_eq!(refused.parse::<Refusal>().unwrap(), Refusal { pid: std::process::id(), on_demand });
        // Whatever number its protocol has.
        let mut future = bare_frame(FrameKind::Leave, "9.9.9+x");
        future[8..10].copy_from_slice(&(PROTOCOL + 1).to_le_bytes());
        let farewell: Farewell = bench.send_raw(future).await.unwrap().parse().unwrap();
        assert_eq!(farewell.leaving, on_demand);
        if on_demand {
            assert_eq!(agent.end().await.unwrap().end, AgentEnd::Stopped);
        } else {
            assert!(bench.status().await.is_some(), "a resident one stays");
            let farewell = tokio::task::spawn_blocking({
                let spool = bench.spool.clone();
                move || client::stop(&spool).unwrap()
            });
            assert!(farewell.await.unwrap().leaving);
            assert_eq!(agent.end().await.unwrap().end, AgentEnd::Stopped);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_socket_disturbs_nobody() {
    let bench = bench().await;
    let name = bench.finish(2);
    let agent = bench.start(bench.options()).await;
    let whole = frame(FrameKind::Call, build(), &"no call").unwrap();
    for noise in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 100_000],
        whole[..HEAD_BYTES + 2].to_vec(),
        whole[..3].to_vec(),
        Vec::new(),
        whole,
        bare_frame(FrameKind::Answer, build()),
    ] {
        assert_eq!(bench.send_raw(noise).await, None);
    }
    assert!(matches!(bench.push(&name).await, PushAnswer::Done { .. }));
    agent.stop().await;
}

/// Something that takes the agent's socket and treats every connection like this.
fn impostor(bench: &Bench, treat: impl Fn(std::os::unix::net::UnixStream) + Send + 'static) {
    bench.spool.make().unwrap();
    let _ = std::fs::remove_file(bench.spool.socket_path());
    let listener = std::os::unix::net::UnixListener::bind(bench.spool.socket_path()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            treat(stream.unwrap());
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_silent_or_talks_nonsense_is_done_without() {
    use std::io::Write;
    let bench = bench().await;
    let name = bench.finish(2);
    let without = |answer: PushAnswer| match answer {
        PushAnswer::DoItYourself(reason) => reason,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(without(bench.push(&name).await), DoItYourself::NoAgent);
    for noise in [b"WALDENAG".to_vec(), vec![7; 1 << 20], bare_frame(FrameKind::Answer, build())] {
        impostor(&bench, move |mut stream| drop(stream.write_all(&noise)));
        assert!(matches!(without(bench.push(&name).await), DoItYourself::Broken(_)));
    }
    // What may be the agent's own trouble is no reason to leave a file unarchived.
    for (kind, is_told) in
        [(ErrorKind::Internal, false), (ErrorKind::LocalIo, false), (ErrorKind::Conflict, true)]
    {
        let failure = AgentFailure { kind, message: "no luck".to_owned(), causes: Vec::new(), hint: None };
        let bytes = frame(FrameKind::Answer, build(), &Answer::Failed(failure)).unwrap();
        impostor(&bench, move |mut stream| {
            Frame::read(&mut stream).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let answer = bench.push(&name).await;
        assert_eq!(matches!(answer, PushAnswer::Failed(_)), is_told, "{answer:?}");
        let expected = DoItYourself::SentAway("the agent failed: no luck".to_owned());
        assert!(is_told || without(answer) == expected);
    }
    let kept = std::sync::Mutex::new(Vec::new());
    impostor(&bench, move |stream| kept.lock().unwrap().push(stream));
    assert_eq!(without(bench.push(&name).await), DoItYourself::Silent);
    // The next hook knows: it asks nobody.
    impostor(&bench, |_| {});
    assert_eq!(without(bench.push(&name).await), DoItYourself::Silent);
    // Until an agent is there again.
    let agent = bench.start(bench.options()).await;
    assert!(matches!(bench.push(&name).await, PushAnswer::Done { .. }));
    agent.stop().await;
    assert_eq!(without(bench.push(&name).await), DoItYourself::NoAgent);
}
