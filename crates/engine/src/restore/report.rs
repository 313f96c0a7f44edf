//! What a restore has done.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use walden_core::{BackupId, Incarnation, RecoveryTarget, ServerName, Setting};
use walden_pg::{Lsn, TimelineId};

/// What a restore has done, and what comes next.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// Schema of this document: 1.
    pub schema: u32,
    /// The server it was restored from.
    pub server: ServerName,
    /// The incarnation it was restored from.
    pub incarnation: Incarnation,
    /// The backup it was restored from.
    pub backup: BackupId,
    /// Where recovery will stop, or has stopped.
    pub target: RecoveryTarget,
    /// Whether it stops just before the target instead of just after it.
    pub target_exclusive: bool,
    /// The timeline that recovery follows.
    pub target_timeline: TimelineId,
    /// The new data directory, absolute.
    pub pgdata: PathBuf,
    /// Where the tablespaces are.
    pub tablespaces: Vec<RestoredTablespace>,
    /// Files written, each compared with its SHA-256.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Plain bytes of the files.
    pub bytes: u64,
    /// Bytes read from packs and manifest.
    pub stored_bytes: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When the data directory was complete and durable.
    pub finished_at: Timestamp,
    /// Whom the files belong to, and why; absent when they belong to the user who ran this.
    pub owner: Option<RestoredOwner>,
    /// Links of the source and what became of them.
    pub links: Vec<RestoredLink>,
    /// Files of the backup that were left out on purpose.
    pub left_out: Vec<String>,
    /// Configuration files that the backup did not have and that were generated.
    pub generated: Vec<String>,
    /// The settings written to `postgresql.auto.conf`, in order.
    pub settings: Vec<Setting>,
    /// Settings of the source that were taken out of `postgresql.auto.conf`.
    pub dropped_settings: Vec<String>,
    /// What a person should know, besides what the plan's own warnings say.
    pub warnings: Vec<String>,
    /// The command that starts the server by hand.
    pub start_command: String,
    /// How the server was started, when that was asked for.
    pub started: Option<StartReport>,
}

/// One tablespace of a restored server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredTablespace {
    /// Its OID.
    pub oid: u32,
    /// Where it was.
    pub from: PathBuf,
    /// Where it is.
    pub to: PathBuf,
}

/// Whom restored files belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredOwner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's name, when it has one.
    pub user: Option<String>,
    /// Why this one.
    pub reason: String,
}

/// A symbolic link of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredLink {
    /// Its path in the data directory.
    pub path: String,
    /// Where it pointed.
    pub target: String,
    /// True when a directory stands in its place, false when nothing does.
    pub as_directory: bool,
}

/// What a started server was last seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// At the target, read-only, waiting for the decision.
    Paused,
    /// Open for writing on a new timeline.
    Promoted,
    /// Ended at the target, as asked for.
    ShutDown,
}

/// Whether a started server stopped where the plan said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopOutcome {
    /// There and nowhere else.
    AsPlanned,
    /// Further, because more was archived after the plan for the end of the archive was made.
    ArchiveGrew,
    /// Elsewhere: what it holds is not what the plan promised.
    Elsewhere,
    /// It could not be asked, and its log does not tell.
    Unknown,
}

/// The comparison of a started server with its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StopCheck {
    /// How it came out.
    pub outcome: StopOutcome,
    /// The end of the last record that the plan has applied.
    pub planned_lsn: Lsn,
    /// The end of the last record that was applied, when the server could be asked.
    pub replayed_to: Option<Lsn>,
    /// What was compared, in words.
    pub message: String,
}

/// A restored server that was started and has met its target.
#[derive(Debug, Clone, Serialize)]
pub struct StartReport {
    /// What it is now.
    pub state: ServerState,
    /// The process; absent when it has ended.
    pub pid: Option<u32>,
    /// Its port.
    pub port: Option<u16>,
    /// The directory of its socket.
    pub socket_directory: Option<PathBuf>,
    /// The timeline it writes, once it is promoted and could be asked.
    pub timeline: Option<TimelineId>,
    /// Relations that can't be read at the pause, because a transaction that was open at the target (one that
    /// dropped a table, mostly) holds a lock on them; promotion ends it and frees them.
    pub locked_relations: u64,
    /// The end of the last record replayed, when the server could be asked.
    pub replay_lsn: Option<Lsn>,
    /// The time of the last transaction replayed, in the server's words.
    pub last_transaction_at: Option<String>,
    /// The server's own line about where it stopped.
    pub stop_message: Option<String>,
    /// Whether that is where the plan said.
    pub stop_check: StopCheck,
    /// The server's log.
    pub log: PathBuf,
    /// The command that connects to it.
    pub connect_command: Option<String>,
    /// From the start to the target, in milliseconds.
    pub elapsed_ms: u64,
    /// Why the server could not be asked, when its log alone was followed.
    pub not_asked: Option<String>,
}
