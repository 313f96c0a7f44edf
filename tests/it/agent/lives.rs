//! Agents that are not alone, not of this build, stopped, without room, or over a data directory that is not what it was.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;

use nix::sys::signal::Signal;
use walden_testkit::postgres::ServerAccount;
use walden_testkit::stores::{Fault, FaultRule};

use super::bench::{Bench, Processes, segment, until};
use crate::support::{describe, run};

const CONFLICT: i32 = 12;

#[test]
fn an_agent_whose_spool_is_deleted_gives_way_to_the_next() {
    let bench = Bench::local();
    let names = bench.finish_all(12..20);
    let mut first = bench.start();
    bench.archive(&names[0]);
    bench.until_acks(7);
    fs::remove_dir_all(bench.processes.spool()).unwrap();
    // For up to a second there are two, and hooks find either of them, or none.
    let second = bench.start();
    for name in &names[1..4] {
        bench.archive(name);
    }
    assert_eq!(first.wait(), Some(0));
    for name in &names[4..] {
        bench.archive(name);
    }
    let status = bench.status().unwrap();
    assert_eq!(status["pid"], second.pid().as_raw(), "{status}");
    assert!(status["push"]["calls"].as_u64().unwrap() >= 4, "{status}");
    assert_eq!(bench.names_stored(), names);
}

#[test]
fn two_agents_with_two_state_directories_do_the_same_work_twice() {
    let mut bench = Bench::s3();
    let names = bench.finish_all(12..24);
    let _one = bench.start();
    let one = bench.processes.state_directory().to_owned();
    let others = Processes::of(&mut bench.walden);
    let _other = bench.start();
    for (index, name) in names.iter().enumerate() {
        let state = if index % 2 == 0 { &one } else { others.state_directory() };
        let output = run(bench.hook(name).env("WALDEN_STATE_DIRECTORY", state));
        assert!(output.status.success(), "{}", describe(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("by the agent"), "{}", describe(&output));
        bench.assert_stored(name);
        bench.mark_done(name);
    }
    assert_eq!(bench.names_stored(), names);
}

#[test]
fn pushes_through_the_agent_and_beside_it_agree() {
    let bench = Bench::local();
    let names = bench.finish_all(12..24);
    let _agent = bench.start();
    for name in &names {
        let direct = bench.hook(name).env("WALDEN_AGENT", "off").stderr(Stdio::piped()).spawn().unwrap();
        let through = bench.hook(name).stderr(Stdio::piped()).spawn().unwrap();
        for child in [direct, through] {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", describe(&output));
            bench.assert_stored(name);
        }
        bench.mark_done(name);
    }
    assert_eq!(bench.names_stored(), names);
}

/// A copy of the program: the same version, and another file.
fn another_build(bench: &Bench) -> tempfile::TempDir {
    let directory = ServerAccount::current().unwrap().temp_dir().unwrap();
    let copy = directory.path().join("walden");
    fs::copy(bench.walden.program(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[test]
fn an_agent_of_another_build_is_done_without() {
    let mut bench = Bench::local();
    let names = bench.finish_all(12..16);
    let (built, copy) = (bench.walden.program().to_owned(), another_build(&bench));
    bench.walden.set_program(copy.path().join("walden"));
    let mut other = bench.start();
    bench.archive(&names[0]);
    bench.until_acks(3);

    bench.walden.set_program(built);
    let output = bench.archive(&names[1]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another build") && said.contains("done without it"), "{said}");
    // It is resident: whoever started it replaces it. A second one does not push it away.
    let second = bench.launch().wait();
    assert_ne!(second, Some(0));
    bench.must(&["agent", "stop"]);
    assert_eq!(other.wait(), Some(0));
}

#[test]
fn an_agent_of_another_build_that_a_hook_started_is_replaced() {
    let mut bench = Bench::local();
    let names = bench.finish_all(12..20);
    let (built, copy) = (bench.walden.program().to_owned(), another_build(&bench));
    bench.walden.set_program(copy.path().join("walden"));
    bench.archive(&names[0]);
    until("the first agent", || bench.status().is_some());
    let old = bench.processes.agents();
    assert_eq!(old.len(), 1);

    bench.walden.set_program(built);
    let output = bench.archive(&names[1]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("another build"), "{}", describe(&output));
    until("the old agent to leave", || !bench.processes.agents().contains(&old[0]));
    // One of the next hooks starts the new one: they try once in ten seconds.
    let mut rest = names[2..].iter();
    let mut left = rest.next();
    until("an agent of this build", || {
        if bench.status().is_some() {
            return true;
        }
        let name = left.unwrap();
        let output = bench.push(name);
        assert!(output.status.success(), "{}", describe(&output));
        false
    });
    for name in left.take().into_iter().chain(rest) {
        bench.archive(name);
    }
    assert_eq!(bench.names_stored(), names);
}

#[test]
fn a_stopped_agent_keeps_no_hook_waiting() {
    let mut bench = Bench::local();
    bench.walden.set("WALDEN_WAL_PUSH_DEADLINE", "30s");
    let names = bench.finish_all(12..20);
    let agent = bench.start();
    bench.archive(&names[0]);
    bench.until_acks(7);
    agent.signal(Signal::SIGSTOP);
    // The first finds out, the next ones are told.
    for name in &names[1..5] {
        let output = bench.archive(name);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("the agent does not answer; done without it"), "{said}");
    }
    agent.signal(Signal::SIGCONT);
    bench.until_status("the agent to be asked again", |_| true);
    for name in &names[5..] {
        let output = bench.archive(name);
        assert!(String::from_utf8_lossy(&output.stderr).contains("by the agent"), "{}", describe(&output));
    }
    assert_eq!(bench.names_stored(), names);
}

#[test]
fn an_agent_stopped_while_a_hook_waits_is_done_without() {
    let bench = Bench::s3();
    let names = bench.finish_all(12..14);
    let agent = bench.start();
    // The agent's own request gets no answer; the hook's will.
    bench.store().inject(FaultRule::next(Fault::HangBefore, http::Method::PUT, 1).on(&names[0]));
    let hook = bench.hook(&names[0]).stderr(Stdio::piped()).spawn().unwrap();
    bench.until_status("the push to be under way", |status| status["load"]["sending"].as_u64() > Some(0));
    agent.signal(Signal::SIGSTOP);
    let output = hook.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    bench.assert_stored(&names[0]);
    agent.signal(Signal::SIGCONT);
}

/// Runs a script in which the state directory is a tmpfs with these options, as root or as the root of a user namespace.
fn with_small_state(bench: &Bench, options: &str, script: &str) -> std::process::Output {
    let mut command = bench.command(&[]);
    let mut starved = std::process::Command::new("unshare");
    starved.arg(if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" }).args(["sh", "-ec"]);
    starved.arg(format!("mount -t tmpfs -o {options} tmpfs \"$WALDEN_STATE_DIRECTORY\"\n{script}"));
    starved.arg(bench.walden.program()).current_dir(bench.data());
    command.env("WALDEN_AGENT", "auto");
    starved.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(&mut starved)
}

#[test]
fn a_full_disk_under_the_spool_hinders_nobody() {
    let bench = Bench::local();
    let names = bench.finish_all(12..18);
    // Every byte is taken before the agent comes; it makes its socket and acks all the same.
    let script = format!(
        "dd if=/dev/zero of=\"$WALDEN_STATE_DIRECTORY/full\" bs=4k 2> /dev/null || true
         \"$0\" agent 2> /dev/null & agent=$!
         i=0; until \"$0\" agent status > /dev/null 2>&1; do sleep 0.05; i=$((i+1)); [ $i -lt 400 ]; done
         for name in {}; do \"$0\" -v wal push pg_wal/$name; sleep 0.2; done
         kill $agent; wait $agent",
        names.join(" ")
    );
    let output = with_small_state(&bench, "size=64k,mode=777", &script);
    assert!(output.status.success(), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("by the agent"), "{said}");
    for name in &names {
        bench.assert_stored(name);
    }
    assert_eq!(bench.names_stored(), names);
}

#[test]
fn a_spool_that_cannot_be_made_hinders_nobody() {
    let bench = Bench::local();
    let names = bench.finish_all(12..18);
    // No inode is left: there is no socket, and no agent.
    let script = format!(
        "\"$0\" agent 2> /dev/null && exit 99
         for name in {}; do \"$0\" -v wal push pg_wal/$name; done",
        names.join(" ")
    );
    let output = with_small_state(&bench, "nr_inodes=1,mode=777", &script);
    assert!(output.status.success(), "{}", describe(&output));
    for name in &names {
        bench.assert_stored(name);
    }
    assert_eq!(bench.names_stored(), names);
}

#[test]
fn a_data_directory_that_was_replaced_is_not_the_agents() {
    let bench = Bench::local();
    let names = bench.finish_all(12..16);
    let mut agent = bench.start();
    bench.archive(&names[0]);
    bench.until_acks(3);
    // Another one is at the path: a clone, whose segments have other bytes under the same names.
    let aside = bench.data().with_extension("old");
    fs::rename(bench.data(), &aside).unwrap();
    bench.make_data_directory();
    bench.write(13, 99);
    bench.mark_ready(&names[1]);
    let output = bench.push(&names[1]);
    assert_eq!(output.status.code(), Some(CONFLICT), "{}", describe(&output));
    assert_eq!(agent.wait(), Some(0), "the agent ends by itself");
    assert!(bench.stored(&names[1]).unwrap() == segment(13, 13));
    // And what is new there is archived by its own hooks.
    let next = bench.finish(20);
    bench.archive(&next);
}

#[test]
fn an_agent_ends_when_its_data_directory_is_removed() {
    let bench = Bench::local();
    let name = bench.finish(12);
    let mut agent = bench.start();
    bench.archive(&name);
    fs::remove_dir_all(bench.data()).unwrap();
    assert_eq!(agent.wait(), Some(0));
    bench.make_data_directory();
}

/// Runs a script as process 1 of a process namespace, as the owner of the data directory.
fn as_first_process(bench: &Bench, script: &str) -> std::process::Output {
    let owner = bench.data().metadata().unwrap();
    let mut command = std::process::Command::new("unshare");
    if nix::unistd::geteuid().is_root() {
        let (user, group) = (format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid()));
        command.args(["-pf", "setpriv", &user, &group, "--clear-groups", "sh", "-ec", script]);
    } else {
        command.args(["-rpf", "sh", "-ec", script]);
    }
    let hook = bench.command(&[]);
    command.arg(bench.walden.program()).current_dir(bench.data());
    command.envs(hook.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(&mut command)
}

#[test]
fn an_agent_that_became_the_servers_child_leaves_and_never_keeps_the_server() {
    let bench = Bench::local();
    let names = bench.finish_all(12..18);
    // The shell stands for a server that reaps orphans, and is only found out once one has become its child.
    let script = format!(
        "push() {{ \"$0\" -v wal push pg_wal/$1; mv pg_wal/archive_status/$1.ready pg_wal/archive_status/$1.done; }}
         until_there() {{ i=0; until \"$0\" agent status > /dev/null 2>&1; do sleep 0.05; i=$((i+1)); [ $i -lt 400 ]; done; }}
         until_gone() {{ i=0; while \"$0\" agent status > /dev/null 2>&1; do sleep 0.05; i=$((i+1)); [ $i -lt 400 ]; done; }}
         push {0}
         until_there
         printf '1\\n%s\\n1700000000\\n' \"$PWD\" > postmaster.pid
         until_gone
         push {1}
         sleep 11
         push {2}
         ! \"$0\" agent status > /dev/null 2>&1
         rm postmaster.pid
         push {3}
         until_there
         echo the server ends",
        names[0], names[1], names[2], names[3]
    );
    let output = as_first_process(&bench, &script);
    assert!(output.status.success(), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("the server ends"), "{}", describe(&output));
    // With process 1 all others are gone, and what they pushed is there.
    assert_eq!(bench.processes.agents(), []);
    for name in &names[..4] {
        bench.assert_stored(name);
    }
}

#[test]
fn an_agent_on_demand_goes_with_the_server() {
    let bench = Bench::local();
    let names = bench.finish_all(12..15);
    let mut server = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(bench.data().join("postmaster.pid"), format!("{}\n/data\n1700000000\n", server.id())).unwrap();
    bench.archive(&names[0]);
    until("the agent", || bench.status().is_some());
    server.kill().unwrap();
    server.wait().unwrap();
    // The file is still there: it was killed.
    until("it to go", || bench.processes.agents().is_empty());
}

/// Where a clock that jumps comes from, if it is installed.
fn faketime() -> Option<&'static str> {
    let places =
        ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
    places.into_iter().find(|place| fs::exists(format!("{place}/libfaketimeMT.so.1")).unwrap_or(false))
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let Some(library) = faketime() else {
        println!("libfaketime is not installed; only the spool's own tests have a clock that jumps");
        return;
    };
    let mut bench = Bench::local();
    let directory = ServerAccount::current().unwrap().temp_dir().unwrap();
    let clock = directory.path().join("clock");
    let jump = |to: &str| fs::write(&clock, to).unwrap();
    jump("+0d");
    bench.walden.set("LD_PRELOAD", &format!("{library}/libfaketimeMT.so.1"));
    bench.walden.set("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
    bench.walden.set("FAKETIME_NO_CACHE", "1");
    // The dates of files and the time since boot are the kernel's own.
    bench.walden.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    bench.walden.set("NO_FAKE_STAT", "1");
    let agent = bench.start();
    let mut number = 12;
    for to in ["+0d", "+3650d", "-3650d", "+1d", "-1d", "+0d"] {
        let names = bench.finish_all(number..number + 4);
        number += 4;
        jump(to);
        for name in &names {
            let output = bench.archive(name);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("by the agent"), "{to}: {said}");
        }
        let status = bench.status().unwrap();
        assert_eq!(status["pid"], agent.pid().as_raw(), "{to}: {status}");
        // What changed under an ack is seen whatever the clock says.
        let [first, changed] = [number, number + 1];
        let names = bench.finish_all(first..changed + 1);
        number += 2;
        bench.archive(&names[0]);
        bench.until_status("an ack", |status| status["push"]["acks"] == 1);
        jump("+7d");
        bench.write(changed, 99);
        assert_eq!(bench.push(&names[1]).status.code(), Some(CONFLICT), "{to}");
        bench.mark_done(&names[1]);
    }
}
