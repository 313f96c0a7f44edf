//! `walden agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{PgdataArgs, help};

/// `walden agent`, and what can be asked of a running one.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<AgentVerb>,
    #[command(flatten)]
    pub(crate) run: AgentRunArgs,
}

/// The agent itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentRunArgs {
    /// The data directory of the server [env: WALDEN_PGDATA, PGDATA]
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: Option<PathBuf>,
    /// Memory for segments in flight, such as 64MiB [default: 40MiB] [env: WALDEN_AGENT_MEMORY]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Segments on their way to the store at once, 1 to 64 [default: 8] [env: WALDEN_AGENT_IN_FLIGHT]
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<u32>,
    /// Most bytes per second to and from the store, such as 50MB [env: WALDEN_AGENT_MAX_RATE]
    #[arg(long, value_name = "RATE")]
    pub(crate) max_rate: Option<String>,
    /// Disk for segments fetched ahead of recovery, 0 for none [default: 256MiB] [env: WALDEN_AGENT_PREFETCH]
    #[arg(long, value_name = "SIZE")]
    pub(crate) prefetch: Option<String>,
    /// Serve metrics in OpenMetrics form at this address, such as 127.0.0.1:9712 [env: WALDEN_AGENT_METRICS]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,
    /// How long archiving may stand still before /healthz says so [default: 10m] [env: WALDEN_AGENT_UNHEALTHY_AFTER]
    #[arg(long, value_name = "TIME")]
    pub(crate) unhealthy_after: Option<String>,
    /// How long one that a hook started stays without work [env: WALDEN_AGENT_IDLE]
    #[arg(long, value_name = "TIME", hide = true)]
    pub(crate) idle: Option<String>,
    /// As hooks start it: in the background, and gone when there is nothing to do
    #[arg(long, hide = true)]
    pub(crate) on_demand: bool,
}

/// `walden agent …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AgentVerb {
    /// Show what the running agent does: queue, rates, compression, prefetch
    #[command(long_about = help::AGENT_STATUS, after_help = help::AGENT_STATUS_EXAMPLES)]
    Status(AgentStatusArgs),
    /// End the running agent; what it has begun is finished
    #[command(long_about = help::AGENT_STOP, after_help = help::AGENT_STOP_EXAMPLES)]
    Stop(AgentStopArgs),
}

/// `walden agent status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentStatusArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// List all agents of the state directory, whatever they are for
    #[arg(long)]
    pub(crate) all: bool,
}

/// `walden agent stop`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentStopArgs {
    #[command(flatten)]
    pub(crate) pgdata: PgdataArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// Where agents and calls meet.
#[derive(Debug, Clone, Args)]
pub(crate) struct StateArgs {
    /// The state directory, where agents and calls meet [env: WALDEN_STATE_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_directory: Option<PathBuf>,
}
