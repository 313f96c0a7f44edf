//! The agent as a program beside the hooks: with it, without it, and with one that is not what it should be.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::shapes::{self, AgentList, AgentStatus, AgentStop, NoAgent, Push};
use crate::support::{Bench, NEXT_SEGMENT, Run, SEGMENT, replace_shape};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);
const NO_AGENT: i32 = 26;

/// A resident agent; killed when it is still there at the end.
struct Agent(Child);

impl Agent {
    /// Starts one and waits until it answers.
    fn start(bench: &Bench) -> Self {
        let agent = Self(Self::spawn(bench));
        wait_for("the agent", || asking(bench, &["agent", "status"]).code == 0);
        agent
    }

    fn spawn(bench: &Bench) -> Child {
        let mut command = hook(bench, &["agent"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for its end; what it said and how it ended.
    fn end(mut self) -> (Option<i32>, String) {
        wait_for("its end", || self.0.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let pauses = PATIENCE.as_millis() / PAUSE.as_millis();
    for _ in 0..pauses {
        if done() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// A call that looks for an agent, as it is without the bench's own settings; it starts none.
fn hook(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = bench.command(arguments);
    command.env("WALDEN_AGENT", "never");
    command
}

fn asking(bench: &Bench, arguments: &[&str]) -> Run {
    bench.finish(hook(bench, arguments))
}

fn status(bench: &Bench) -> AgentStatus {
    let run = asking(bench, &["agent", "status", "--output", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    shapes::read(&run.stdout)
}

fn stop(bench: &Bench) -> AgentStop {
    let run = asking(bench, &["agent", "stop", "--output", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    shapes::read(&run.stdout)
}

fn push(bench: &Bench) -> Run {
    asking(bench, &["-v", "wal", "push", &format!("pg_wal/{SEGMENT}")])
}

/// The spool of the bench's data directory, where an agent has been.
fn spool(bench: &Bench) -> PathBuf {
    let state = bench.path().join("home/.local/state/walden");
    let mut entries = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("agent-")).unwrap()
}

/// A bench where an agent has been, and is not any more.
fn bench_with_spool() -> Bench {
    let bench = Bench::with_repository();
    let agent = Agent::start(&bench);
    stop(&bench);
    agent.end();
    bench
}

#[test]
fn the_log_of_an_agent_has_no_colours_in_a_file_and_only_errors_when_quiet() {
    let bench = Bench::with_repository();
    for (arguments, says_it_is_there) in [(&["agent"][..], true), (&["--quiet", "agent"], false)] {
        let mut command = hook(&bench, arguments);
        let agent = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let agent = Agent(agent);
        wait_for("the agent", || asking(&bench, &["agent", "status"]).code == 0);
        stop(&bench);
        let (code, said) = agent.end();
        assert_eq!((code, said.contains("the agent is there")), (Some(0), says_it_is_there), "{said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
}

#[test]
fn without_an_agent_status_and_stop_say_so() {
    let bench = Bench::with_repository();
    for verb in ["status", "stop"] {
        let run = asking(&bench, &["agent", verb]);
        assert_eq!((run.code, run.stderr.as_str()), (NO_AGENT, ""), "{}", run.stdout);
        assert!(run.stdout.starts_with("no agent runs\n"), "{}", run.stdout);
        let run = asking(&bench, &["agent", verb, "--output", "json"]);
        let none: NoAgent = shapes::read(&run.stdout);
        assert_eq!((run.code, none.running, none.server.as_str()), (NO_AGENT, false, "main"));
    }
    let mut command = hook(&bench, &["agent", "status"]);
    command.env_remove("PGDATA");
    let run = bench.finish(command);
    assert_eq!(run.code, 10, "{}", run.stderr);
}

#[test]
fn a_push_goes_through_the_agent_and_says_the_same() {
    let bench = Bench::with_repository();
    let agent = Agent::start(&bench);
    let before = status(&bench);
    assert!(!before.on_demand && !before.leaving);
    assert_eq!((before.push.calls, before.push.archived_files), (0, 0));

    let first = push(&bench);
    assert_eq!((first.code, first.stdout.as_str()), (0, ""), "{}", first.stderr);
    let note = first.stderr.lines().next().unwrap();
    assert!(note.starts_with(&format!("walden wal push {SEGMENT}: archived; 1.0 MiB as ")), "{note}");
    assert!(note.ends_with("; by the agent"), "{note}");
    assert!(first.stderr.contains("store: no request; time: "), "{}", first.stderr);
    let after = status(&bench);
    assert_eq!((after.push.calls, after.push.archived_files), (1, 1));
    assert_eq!(after.push.last_archived.unwrap().name, SEGMENT);

    let path = format!("pg_wal/{SEGMENT}");
    let report = |run: Run| {
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        shapes::read::<Push>(&run.stdout)
    };
    let through = report(asking(&bench, &["wal", "push", &path, "--output", "json"]));
    let direct = report(asking(&bench, &["--no-agent", "wal", "push", &path, "--output", "json"]));
    assert_eq!(through.outcome, "already_stored");
    assert_eq!(
        (through.key, through.sha256, through.bytes, through.outcome),
        (direct.key, direct.sha256, direct.bytes, direct.outcome)
    );
    assert!(through.cost.store.is_empty() && !direct.cost.store.is_empty());

    let shown = asking(&bench, &["agent", "status"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    assert!(shown.stdout.contains("resident") && shown.stdout.contains(SEGMENT), "{}", shown.stdout);
    let stopped = stop(&bench);
    assert_eq!((stopped.pid, stopped.on_demand), (before.pid, false));
    let (code, said) = agent.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(asking(&bench, &["agent", "status"]).code, NO_AGENT);
}

#[test]
fn a_failure_through_the_agent_is_told_as_without_it() {
    let bench = Bench::with_segment();
    let mut other = std::fs::read(bench.segment()).unwrap();
    other[9000] ^= 1;
    std::fs::write(bench.segment(), other).unwrap();
    let path = format!("pg_wal/{SEGMENT}");
    let calls: [&[&str]; 3] = [
        &["wal", "push", &path],
        &["wal", "push", "pg_wal/0000000100000000000000FF"],
        &["wal", "push", &path, "--output", "json"],
    ];
    // A conflict tells when each of the two was made.
    let told = |run: Run| {
        let timeless = |text: &str| replace_shape(text, "dd:dd:dd.dddddd", "[TIME]");
        (run.code, timeless(&run.stdout), timeless(&run.stderr))
    };
    let direct: Vec<_> = calls.iter().map(|call| told(bench.run(call))).collect();
    let agent = Agent::start(&bench);
    for (call, direct) in calls.iter().zip(direct) {
        assert_eq!(told(asking(&bench, call)), direct, "{call:?}");
    }
    assert_eq!(status(&bench).push.calls_failed, 2);
    drop(agent);
}

#[test]
fn who_does_not_want_an_agent_does_not_ask_it() {
    let bench = Bench::with_repository();
    let _agent = Agent::start(&bench);
    let path = format!("pg_wal/{SEGMENT}");
    let run = asking(&bench, &["--no-agent", "-v", "wal", "push", &path]);
    assert!(run.code == 0 && !run.stderr.contains("agent"), "{}", run.stderr);
    let mut command = hook(&bench, &["-v", "wal", "push", &path]);
    command.env("WALDEN_AGENT", "off");
    let run = bench.finish(command);
    assert!(run.code == 0 && !run.stderr.contains("agent"), "{}", run.stderr);
    assert_eq!(status(&bench).push.calls, 0);
}

#[test]
fn a_second_agent_says_who_is_there() {
    let bench = Bench::with_repository();
    let _agent = Agent::start(&bench);
    let run = asking(&bench, &["agent"]);
    let pid = status(&bench).pid;
    assert_eq!(run.code, 10, "{}", run.stderr);
    assert!(run.stderr.contains(&format!("an agent runs already pid={pid}")), "{}", run.stderr);
    // One that a hook starts has nothing to say.
    let run = asking(&bench, &["agent", "--on-demand"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
}

#[test]
fn a_killed_agent_is_missed_by_nobody() {
    let bench = Bench::with_repository();
    let mut agent = Agent::start(&bench);
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    assert_eq!(asking(&bench, &["agent", "status"]).code, NO_AGENT);
    let run = push(&bench);
    assert!(
        run.code == 0 && run.stderr.contains("walden agent: no agent runs; done without it"),
        "{}",
        run.stderr
    );
    let _next = Agent::start(&bench);
    let run = push(&bench);
    assert!(run.code == 0 && run.stderr.contains("by the agent"), "{}", run.stderr);
}

/// Answers every connection at the bench's socket with `answer`, until the process ends.
fn impostor(bench: &Bench, answer: &'static [u8]) {
    let socket = spool(bench).join("socket");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = [0; 16];
            let _ = connection.read(&mut head);
            let _ = connection.write_all(answer);
        }
    });
}

#[test]
fn an_agent_of_another_version_is_left_alone() {
    let bench = bench_with_spool();
    // A frame of the kind "refused" of the build "9.9", of an agent that no hook started.
    impostor(&bench, b"WALDENAG\x01\x00\x04\x03\x1e\x00\x00\x009.9{\"pid\":4711,\"on_demand\":false}");
    let run = push(&bench);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
    let note = run.stderr.lines().next().unwrap();
    assert_eq!(note, "walden agent: the agent is of another build build=9.9 pid=4711; done without it");
    let run = asking(&bench, &["agent", "status"]);
    assert_eq!(run.code, 20, "{}", run.stderr);
    assert!(run.stderr.contains("build=9.9 pid=4711"), "{}", run.stderr);
}

#[test]
fn nonsense_at_the_socket_hurts_nobody() {
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\n\r\n", b"WALDENAG\x01\x00\x02\x00\xff\xff\xff\xff"] {
        let bench = bench_with_spool();
        std::fs::write(bench.pgdata().join("recovery.signal"), b"").unwrap();
        impostor(&bench, answer);
        let run = push(&bench);
        assert!(run.code == 0 && run.stderr.contains("; done without it"), "{}", run.stderr);
        let run = asking(&bench, &["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        let run = asking(&bench, &["wal", "get", NEXT_SEGMENT, "pg_wal/RECOVERYXLOG"]);
        assert_eq!((run.code, run.stderr.as_str()), (1, ""));
        let run = asking(&bench, &["agent", "status"]);
        assert_eq!(run.code, 15, "{}", run.stderr);
    }
}

#[test]
fn a_get_gives_the_file_or_proves_that_there_is_none() {
    let bench = Bench::with_segment();
    std::fs::write(bench.pgdata().join("recovery.signal"), b"").unwrap();
    let _agent = Agent::start(&bench);
    let destination = bench.pgdata().join("pg_wal/RECOVERYXLOG");
    for _ in 0..3 {
        let run = asking(&bench, &["wal", "get", SEGMENT, "pg_wal/RECOVERYXLOG"]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
        assert_eq!(std::fs::read(&destination).unwrap(), std::fs::read(bench.segment()).unwrap());
        std::fs::remove_file(&destination).unwrap();
    }
    for name in [NEXT_SEGMENT, "00000002.history"] {
        let run = asking(&bench, &["wal", "get", name, "pg_wal/RECOVERYXLOG"]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (1, "", ""), "{name}");
    }
    let run = asking(&bench, &["wal", "get", "x.history", "pg_wal/RECOVERYXLOG"]);
    assert_eq!(run.code, 217, "{}", run.stderr);
    std::fs::remove_dir_all(bench.repository()).unwrap();
    let run = asking(&bench, &["wal", "get", "0000000100000000000000FF", "pg_wal/RECOVERYXLOG"]);
    assert!(run.code > 200, "{} {}", run.code, run.stderr);
    assert!(!destination.try_exists().unwrap());
}

/// Has PostgreSQL's archiver want these files.
fn ready(bench: &Bench, names: &[&str]) {
    for name in names {
        let path = bench.pgdata().join(format!("pg_wal/archive_status/{name}.ready"));
        std::fs::write(path, b"").unwrap();
    }
}

fn calling(bench: &Bench, agent: &str, arguments: &[&str]) -> Run {
    let mut command = bench.command(arguments);
    command.env("WALDEN_AGENT", agent);
    bench.finish(command)
}

/// The pid of the agent that a hook says it started.
fn started(run: &Run) -> Option<u32> {
    let line = run.stderr.lines().find_map(|line| line.strip_prefix("walden agent: started pid="))?;
    Some(line.parse().unwrap())
}

/// Waits until the agent that a hook started has the place, or is gone again.
fn wait_for_status(bench: &Bench, code: i32) {
    wait_for("the agent", || asking(bench, &["agent", "status"]).code == code);
}

#[test]
fn a_push_with_more_behind_it_starts_an_agent_that_goes_with_the_data_directory() {
    let bench = Bench::with_repository();
    let path = format!("pg_wal/{SEGMENT}");
    ready(&bench, &[SEGMENT]);
    let alone = calling(&bench, "auto", &["-v", "wal", "push", &path]);
    assert_eq!((alone.code, started(&alone)), (0, None), "{}", alone.stderr);
    ready(&bench, &[NEXT_SEGMENT]);
    let never = calling(&bench, "never", &["-v", "wal", "push", &path]);
    assert_eq!((never.code, started(&never)), (0, None), "{}", never.stderr);
    let run = calling(&bench, "auto", &["-v", "wal", "push", &path]);
    let pid = started(&run).unwrap();
    wait_for_status(&bench, 0);
    let told = status(&bench);
    assert_eq!((told.pid, told.on_demand), (pid, true));
    let again = calling(&bench, "auto", &["-v", "wal", "push", &path]);
    assert!(again.code == 0 && started(&again).is_none(), "{}", again.stderr);
    assert!(again.stderr.contains("by the agent"), "{}", again.stderr);

    let log = spool(&bench).join("agent.log");
    std::fs::remove_dir_all(bench.pgdata().join("global")).unwrap();
    wait_for("its end", || read(&log).contains("the agent leaves"));
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_fetch_for_recovery_starts_an_agent_and_one_for_pg_rewind_does_not() {
    let bench = Bench::with_segment();
    std::fs::write(bench.pgdata().join("recovery.signal"), b"").unwrap();
    let get = |name: &str, destination: &str| {
        let run = calling(&bench, "auto", &["-v", "wal", "get", name, destination]);
        (run.code, started(&run).is_some())
    };
    assert_eq!(get(SEGMENT, "pg_wal/copy"), (0, false));
    assert_eq!(get("00000002.history", "pg_wal/RECOVERYHISTORY"), (1, false));
    assert_eq!(get(NEXT_SEGMENT, "pg_wal/RECOVERYXLOG"), (1, false));
    assert_eq!(get(SEGMENT, "pg_wal/RECOVERYXLOG"), (0, true));
    wait_for_status(&bench, 0);
    assert!(status(&bench).on_demand);
    // A resident one takes over.
    let resident = Agent(Agent::spawn(&bench));
    wait_for("the take-over", || {
        let run = asking(&bench, &["agent", "status"]);
        run.code == 0 && run.stdout.contains("resident")
    });
    stop(&bench);
    assert_eq!(resident.end().0, Some(0));
}

#[test]
fn an_idle_agent_that_a_hook_started_ends() {
    let bench = Bench::with_repository();
    ready(&bench, &[SEGMENT, NEXT_SEGMENT]);
    let mut command = bench.command(&["-v", "wal", "push", &format!("pg_wal/{SEGMENT}")]);
    command.env("WALDEN_AGENT", "auto").env("WALDEN_AGENT_IDLE", "1s");
    let run = bench.finish(command);
    assert!(started(&run).is_some(), "{}", run.stderr);
    let log = spool(&bench).join("agent.log");
    wait_for("its end", || read(&log).contains("nobody called"));
    wait_for_status(&bench, NO_AGENT);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let bench = Bench::with_repository();
    for (arguments, message) in [
        (&["agent", "--memory", "1MiB"][..], "--memory is not valid: the agent needs at least 4MiB"),
        (&["agent", "--memory", "lots"], "--memory is not valid: a size is a whole number with a unit"),
        (&["agent", "--in-flight", "0"], "--in-flight is not valid: segments in flight are 1 to 64"),
        (&["agent", "--max-rate", "1"], "--max-rate is not valid: a rate is at least 100kB per second"),
        (&["agent", "--metrics", "here"], "--metrics is not valid: it is an address with a port"),
    ] {
        let run = asking(&bench, arguments);
        assert_eq!(run.code, 10, "{arguments:?} {}", run.stderr);
        assert!(run.stderr.contains(message), "{arguments:?} {}", run.stderr);
    }
}

/// The signal that a process is sent.
fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

#[test]
fn an_agent_that_hangs_is_named_with_what_to_do() {
    use nix::sys::signal::Signal;
    let bench = Bench::with_repository();
    let agent = Agent::start(&bench);
    let pid = agent.0.id();
    signal(pid, Signal::SIGSTOP);
    for verb in ["stop", "status"] {
        let run = asking(&bench, &["agent", verb]);
        assert_eq!(run.code, 15, "{}", run.stderr);
        assert!(run.stderr.contains(&format!("pid={pid}")), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("kill -CONT {pid}")), "{}", run.stderr);
    }
    let run = asking(&bench, &["agent", "status", "--all", "--output", "json"]);
    let list: AgentList = shapes::read(&run.stdout);
    assert_eq!((run.code, list.agents.len()), (0, 1));
    assert_eq!((list.agents[0].state.as_str(), list.agents[0].pid), ("no_answer", Some(pid)));
    let checked = asking(&bench, &["check"]);
    assert!(checked.stdout.contains(&format!("pid={pid}")), "{}", checked.stdout);
    signal(pid, Signal::SIGCONT);
}

#[test]
fn agents_are_found_though_their_data_directories_are_gone() {
    use nix::sys::signal::Signal;
    let bench = Bench::with_repository();
    let agent = Agent::start(&bench);
    let pid = agent.0.id();
    let list = |arguments: &[&str]| {
        let run = asking(&bench, &[arguments, &["--output", "json"]].concat());
        (run.code, shapes::read::<AgentList>(&run.stdout))
    };
    let state = bench.path().join("home/.local/state/walden");
    let all = ["agent", "status", "--all", "--state-directory", state.to_str().unwrap()];
    let (code, found) = list(&all);
    assert_eq!((code, found.agents[0].state.as_str(), found.agents[0].pid), (0, "running", Some(pid)));
    assert!(!found.agents[0].data_directory_gone && found.agents[0].server.as_deref() == Some("main"));
    // Stopped, so that it does not see that its data directory goes.
    signal(pid, Signal::SIGSTOP);
    std::fs::rename(bench.pgdata(), bench.pgdata().with_extension("away")).unwrap();
    let mut command = hook(&bench, &["agent", "stop", "--pgdata", bench.pgdata().to_str().unwrap()]);
    let run = bench.finish({
        command.current_dir(bench.path());
        command
    });
    assert_eq!(run.code, 15, "{}", run.stderr);
    assert!(run.stderr.contains(&format!("pid={pid}")), "{}", run.stderr);
    std::fs::rename(bench.pgdata().with_extension("away"), bench.pgdata()).unwrap();
    // It was asked, and hears of it now.
    signal(pid, Signal::SIGCONT);
    agent.end();
    let (code, found) = list(&all);
    assert_eq!((code, found.agents[0].state.as_str(), found.agents[0].pid), (NO_AGENT, "not_running", None));
}

#[test]
fn what_is_left_of_a_data_directory_that_is_gone_is_cleared_by_the_next_agent() {
    let bench = bench_with_spool();
    let left = spool(&bench);
    std::fs::create_dir_all(left.join("prefetch")).unwrap();
    std::fs::write(left.join("prefetch/000000010000000000000009"), b"x").unwrap();
    let other = bench.path().join("other");
    std::fs::rename(bench.pgdata(), &other).unwrap();
    let mut command = hook(&bench, &["agent", "--pgdata", other.to_str().unwrap()]);
    let agent = command.current_dir(bench.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let _agent = Agent(agent.unwrap());
    wait_for("it to be cleared", || !left.try_exists().unwrap());
}

#[test]
fn an_agent_that_no_command_finds_says_so() {
    let bench = Bench::with_repository();
    let configure = |command: &str| {
        let line = format!("archive_command = '{command}'\n");
        std::fs::write(bench.pgdata().join("postgresql.auto.conf"), line).unwrap();
    };
    let repository = format!("file://{}", bench.repository().display());
    configure(&format!("walden --repo {repository} --server other wal push %p"));
    let agent = Agent::start(&bench);
    let told = status(&bench);
    assert_eq!(told.warnings.len(), 1, "{:?}", told.warnings);
    assert!(told.warnings[0].contains("server here=main there=other"), "{:?}", told.warnings);
    let shown = asking(&bench, &["agent", "status"]);
    assert!(shown.stdout.contains("warning: the server's commands"), "{}", shown.stdout);
    let checked = asking(&bench, &["check"]);
    assert!(checked.stdout.contains("there=other"), "{}", checked.stdout);
    stop(&bench);
    assert!(agent.end().1.contains("there=other"));

    configure(&format!("WALDEN_STATE_DIRECTORY=/elsewhere walden --repo {repository} wal push %p"));
    let agent = Agent::start(&bench);
    assert!(status(&bench).warnings[0].contains("there=/elsewhere"), "{:?}", status(&bench).warnings);
    stop(&bench);
    agent.end();

    configure(&format!("walden --repo {repository} wal push %p"));
    let _agent = Agent::start(&bench);
    assert_eq!(status(&bench).warnings, Vec::<String>::new());
}

#[test]
fn an_agent_of_a_server_that_is_not_in_the_repository_says_so() {
    let bench = Bench::with_repository();
    let mut command = hook(&bench, &["--server", "unknown", "agent"]);
    let agent = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let _agent = Agent(agent);
    let ask = ["--server", "unknown", "agent", "status"];
    wait_for("the warning", || asking(&bench, &ask).stdout.contains("warning: nothing can be archived"));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told_and_stops_no_call() {
    let bench = Bench::with_repository();
    let file = bench.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for (directory, why) in
        [(file.clone(), "it is not a directory"), (file.join("below"), "it can't be made")]
    {
        let with = |arguments: &[&str]| {
            let mut command = hook(&bench, arguments);
            command.env("WALDEN_STATE_DIRECTORY", &directory);
            bench.finish(command)
        };
        let run = with(&["agent"]);
        assert_eq!(run.code, 10, "{}", run.stderr);
        assert!(run.stderr.contains(why) && run.stderr.contains("WALDEN_STATE_DIRECTORY"), "{}", run.stderr);
        let run = with(&["-v", "wal", "push", &format!("pg_wal/{SEGMENT}")]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let line = run.stderr.lines().next().unwrap();
        assert!(line.starts_with("walden agent: ") && line.ends_with("; done without it"), "{line}");
        let run = with(&["-v", "wal", "get", NEXT_SEGMENT, "pg_wal/RECOVERYXLOG"]);
        assert!(run.stderr.contains("walden agent: "), "{}", run.stderr);
    }
}

#[test]
fn settings_of_the_agent_that_mean_nothing_are_told() {
    let bench = Bench::with_repository();
    let mut command = hook(&bench, &["-v", "wal", "push", &format!("pg_wal/{SEGMENT}")]);
    command.env("WALDEN_AGENT_MAXRATE", "1MiB");
    let run = bench.finish(command);
    assert!(
        run.code == 0 && run.stderr.contains("WALDEN_AGENT_MAXRATE means nothing to walden"),
        "{}",
        run.stderr
    );
    let mut command = hook(&bench, &["agent"]);
    command.env("WALDEN_AGENT_MAXRATE", "1MiB").stdout(Stdio::null()).stderr(Stdio::piped());
    let _agent = Agent(command.spawn().unwrap());
    wait_for("the agent", || asking(&bench, &["agent", "status"]).code == 0);
    assert!(status(&bench).warnings[0].contains("WALDEN_AGENT_MAXRATE"));
}
