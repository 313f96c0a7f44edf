//! kill -9 of the agent, of the hook, and of both, at every effect that they have on the world.
//!
//! Afterwards: each hook that answered 0 has its file in the archive byte for byte, nothing was overwritten, and the next
//! hook works. The effects are counted for each thread, so one run kills the first thread that gets so far.
//!
//! By default some of the effects are tried, spread over all of them; `WALDEN_CAMPAIGN=1` tries every one.

use std::process::{Command, Stdio};

use super::bench::{Bench, until};
use crate::support::{describe, run};

/// The system calls that change something outside of the process.
const EFFECTS: &str = "write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,\
     mkdirat,ftruncate,connect,sendto,sendmsg,bind,listen,accept4,flock,fchmod,utimensat,setsid,execve,clone3,close";
/// More effects than a thread has here.
const EFFECTS_MAX: usize = 5_000;
/// So many runs in a row in which nobody gets as far as the effect are the end; with `WALDEN_CAMPAIGN=1`, and else.
const SPARED_MAX: (usize, usize) = (8, 2);

/// Makes a command end itself, and all that it starts, at its `effect`-th effect.
fn killed_at(effect: usize, command: &Command) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={EFFECTS}")]);
    traced.args(["-e", &format!("inject={EFFECTS}:signal=KILL:when={effect}")]);
    traced.arg(command.get_program()).args(command.get_args());
    traced.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        traced.env(name, value.unwrap_or_default());
    }
    traced.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    traced
}

/// Calls `kill` with the number of each effect until it says a few times in a row that nobody was killed: threads share
/// their work in no certain way. Returns how often somebody was.
fn at_every_effect(stride: usize, mut kill: impl FnMut(usize) -> bool) -> usize {
    let campaign = std::env::var_os("WALDEN_CAMPAIGN").is_some();
    let (stride, spared_max) = if campaign { (1, SPARED_MAX.0) } else { (stride, SPARED_MAX.1) };
    let (mut killed, mut spared) = (0, 0);
    for effect in (1..EFFECTS_MAX).step_by(stride) {
        let hit = kill(effect);
        killed += usize::from(hit);
        spared = if hit { 0 } else { spared + 1 };
        if spared == spared_max {
            println!("{killed} kills, up to effect {effect}");
            return killed;
        }
    }
    panic!("more than {EFFECTS_MAX} effects");
}

/// What must hold after a kill: the archive holds what it was told to hold and nothing else, and the next hooks work.
fn assert_sound(bench: &Bench, names: &[String], effect: usize) {
    for name in names {
        let output = bench.push(name);
        assert!(output.status.success(), "effect {effect} {name}: {}", describe(&output));
        bench.assert_stored(name);
    }
    assert_eq!(bench.names_stored(), names, "effect {effect}");
}

/// As before the first push.
fn begin_again(bench: &Bench, names: &[String]) {
    bench.processes.kill_agents();
    bench.empty_archive();
    for name in names {
        bench.mark_ready(name);
    }
}

fn agent_killed(mut bench: Bench, stride: usize) {
    // Only the agent that is watched.
    bench.walden.set("WALDEN_AGENT", "never");
    let names = bench.finish_all(12..16);
    let killed = at_every_effect(stride, |effect| {
        begin_again(&bench, &names);
        let mut agent = killed_at(effect, &bench.command(&["agent"]));
        bench.walden.as_server_user(&mut agent);
        let mut agent = agent.spawn().unwrap();
        until("the agent to answer or to end", || {
            agent.try_wait().unwrap().is_some() || bench.status().is_some()
        });
        for name in &names {
            // Whatever becomes of the agent, the hook does not fail for it.
            let output = bench.push(name);
            assert!(output.status.success(), "effect {effect} {name}: {}", describe(&output));
            bench.assert_stored(name);
        }
        let lived = agent.try_wait().unwrap().is_none();
        if lived {
            bench.must(&["agent", "stop"]);
        }
        until("the tracer to end", || agent.try_wait().unwrap().is_some());
        assert_sound(&bench, &names, effect);
        // With another one in the place of the killed one.
        let _next = bench.start();
        assert_sound(&bench, &names, effect);
        !lived
    });
    assert!(killed >= 4, "{killed}");
}

#[test]
fn an_agent_killed_at_any_effect_loses_nothing() {
    agent_killed(Bench::local(), 5);
}

#[test]
fn an_agent_killed_at_any_effect_on_s3_loses_nothing() {
    agent_killed(Bench::s3(), 11);
}

#[test]
fn a_hook_killed_at_any_effect_beside_the_agent_loses_nothing() {
    let bench = Bench::local();
    let names = bench.finish_all(12..15);
    let killed = at_every_effect(2, |effect| {
        begin_again(&bench, &names);
        let _agent = bench.start();
        let mut lived = true;
        for name in &names {
            let mut hook = killed_at(effect, &bench.hook(name));
            bench.walden.as_server_user(&mut hook);
            let done = hook.status().unwrap().success();
            lived &= done;
            if done {
                bench.assert_stored(name);
            }
        }
        // It is the agent's, although nobody waits for it any more.
        assert!(bench.status().is_some(), "effect {effect}: the agent is gone");
        assert_sound(&bench, &names, effect);
        !lived
    });
    assert!(killed >= 3, "{killed}");
}

#[test]
fn hook_and_agent_killed_at_any_effect_together_lose_nothing() {
    let mut bench = Bench::local();
    bench.walden.set("WALDEN_AGENT_IDLE", "1s");
    let names = bench.finish_all(12..16);
    let killed = at_every_effect(9, |effect| {
        begin_again(&bench, &names);
        for spool in bench.processes.spools() {
            std::fs::remove_dir_all(spool).unwrap();
        }
        // The first one starts the agent, which is watched too; strace ends when both have.
        let mut hook = killed_at(effect, &bench.hook(&names[0]));
        bench.walden.as_server_user(&mut hook);
        let mut first = hook.spawn().unwrap();
        let mut lived = true;
        for name in &names[1..] {
            let output = run(&mut bench.hook(name));
            assert!(output.status.success(), "effect {effect} {name}: {}", describe(&output));
            bench.assert_stored(name);
        }
        until("hook and agent to end", || first.try_wait().unwrap().is_some());
        let done = first.wait().unwrap().success();
        if done {
            bench.assert_stored(&names[0]);
        }
        lived &= done;
        assert_sound(&bench, &names, effect);
        !lived
    });
    assert!(killed >= 2, "{killed}");
}
