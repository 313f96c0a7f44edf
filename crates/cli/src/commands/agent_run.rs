//! `walden agent` itself: stays, or was started by a hook.

use std::os::unix::process::CommandExt;
use std::process::Command;

use walden_core::ErrorKind;
use walden_engine::PipelineLimits;
use walden_engine::agent::client::ALLOCATOR_SETTING;
use walden_engine::agent::{AgentOptions, lifecycle, run as run_agent};
use walden_store::settings_fingerprint;

use super::findable::{doubts, usable_state_directory};
use super::hooks::inner_deadline;
use crate::args::OutputFormat;
use crate::config::MaxRate;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;

pub(super) fn run(session: &Session, on_demand: bool) -> Result<Exit, Failure> {
    begin_again_with_allocator_setting();
    // Everything that is relative to the current directory is absolute by now.
    let mut options = options(session, on_demand)?;
    usable_state_directory(session)?;
    if !on_demand {
        // A hook starts its own, and has told of its own settings.
        options.warnings = doubts(session, &options.data);
    }
    if on_demand {
        lifecycle::detach().map_err(|error| {
            Failure::new(ErrorKind::LocalIo, "cannot leave the hook that started the agent").caused_by(&error)
        })?;
    }
    let deadline = inner_deadline(session.effective.config.wal.push_deadline.0);
    let ctx = session.context_at_rate(deadline, options.max_rate)?;
    let report = runtime::run_until_signal(|stop| async move { Ok(run_agent(ctx, options, stop).await?) })?;
    // In text its log has told everything.
    if session.printer.format() == OutputFormat::Json {
        session.printer.report(&report, |_| {})?;
    }
    Ok(Exit::Done)
}

/// An agent that a hook starts has the setting from it; any other one becomes the same program with it.
fn begin_again_with_allocator_setting() {
    let (variable, value) = ALLOCATOR_SETTING;
    if std::env::var_os(variable).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Comes back only when it fails, and then more memory is all that it costs.
        let _ = Command::new(program).args(std::env::args_os().skip(1)).env(variable, value).exec();
    }
}

fn options(session: &Session, on_demand: bool) -> Result<AgentOptions, Failure> {
    let config = &session.effective.config;
    let agent = &config.agent;
    let best = config.wal.compression_level.0;
    let settings = settings_fingerprint(&config.store, &session.environment);
    Ok(AgentOptions {
        on_demand,
        idle: agent.idle.0,
        limits: PipelineLimits {
            memory_bytes: agent.memory.bytes(),
            in_flight: agent.in_flight.0,
            ..PipelineLimits::default()
        },
        max_rate: agent.max_rate.map(MaxRate::bytes_per_second),
        metrics: agent.metrics.map(|address| address.0),
        unhealthy_after: agent.unhealthy_after.0,
        prefetch_bytes: agent.prefetch.0,
        ..AgentOptions::new(session.data_directory()?, settings, best)
    })
}
