//! `walden wal push` and `walden wal get`: what PostgreSQL calls for every file.
//!
//! Mostly an agent has the answer, and then nothing is made here that takes time: no runtime, no TLS, no store. In
//! every other case the work is done here, and ends in the same words and with the same code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use walden_core::{ErrorKind, ServerLayout};
use walden_engine::agent::client::{self, GetAnswer, PushAnswer, share_of_agent};
use walden_engine::{
    Archiver, Context, DataDirectory, FetchOutcome, FetchReport, Fetcher, PushDamage, PushOutcome,
    PushReport, Taken, take_prefetched,
};
use walden_pg::ArchiveFileName;
use walden_store::CounterSnapshot;

use crate::agent::HookAgent;
use crate::args::OutputFormat;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::hook::is_recovery_destination;
use crate::printer::log_line;
use crate::runtime;
use crate::session::Session;
use crate::text::{count, size};

/// How much sooner the store gives up than the verb, so that its own reason is told and not just the deadline.
const ROOM_FOR_THE_REASON: Duration = Duration::from_secs(1);
/// The destination of a segment that recovery asks for.
const RECOVERY_SEGMENT: &str = "RECOVERYXLOG";

/// Who did the work.
struct By {
    /// What this process asked of the store.
    counters: CounterSnapshot,
    /// What a note says of the agent's part.
    agent: &'static str,
}

impl By {
    fn hook(ctx: &Context) -> Self {
        Self { counters: ctx.store.counters(), agent: "" }
    }

    fn agent(how: &'static str) -> Self {
        Self { counters: CounterSnapshot::default(), agent: how }
    }
}

pub(super) fn push(session: &Session, path: &Path) -> Result<Exit, Failure> {
    let deadline = session.effective.config.wal.push_deadline.0;
    let current = current_directory()?;
    let data = DataDirectory::of_wal_path(path, &current);
    let mut agent = HookAgent::find(session, data.as_ref());
    let begun = session.elapsed();
    if let Some(agent) = &mut agent {
        match client::push(agent.spool(), path, share_of_agent(deadline)) {
            PushAnswer::Done { report, ahead: true } => {
                return Ok(pushed(session, &report, &By::agent("; by the agent, before it was asked for")));
            }
            PushAnswer::Done { report, ahead: false } => {
                return Ok(pushed(session, &report, &By::agent("; by the agent")));
            }
            PushAnswer::Failed(failure) => return Err(failure.into()),
            PushAnswer::Late { waited } => agent.is_late(waited),
            PushAnswer::DoItYourself(reason) => agent.sends_away(&reason),
        }
    }
    let left = left_of(deadline, session.elapsed().saturating_sub(begun));
    let ctx = session.context_within(inner_deadline(left))?;
    let archiver = Archiver::new(ctx.clone())
        .with_level(session.effective.config.wal.compression_level.0)
        .with_data_directory(session.data_directory_if_named().ok().flatten());
    let report = runtime::run_hook(left, async { Ok(archiver.push(path, &current).await?) })?;
    let exit = pushed(session, &report, &By::hook(&ctx));
    if let Some(agent) = agent {
        agent.tell_if_late();
        agent.start_if(|data| more_is_ready(data, &report.name));
    }
    Ok(exit)
}

/// Whether another file than this one waits to be archived.
fn more_is_ready(data: &DataDirectory, name: &str) -> bool {
    // Two are enough to know: at most one of them is this one.
    let ready = client::ready_files(data.path(), 2).unwrap_or_default();
    ready.iter().any(|path| path.file_stem().is_some_and(|stem| stem != name))
}

/// Tells of a push that is done.
fn pushed(session: &Session, report: &PushReport, by: &By) -> Exit {
    let words = match report.outcome {
        PushOutcome::Stored => "archived",
        PushOutcome::AlreadyStored => "was in the archive already, with these bytes",
    };
    session.printer.note(&format!(
        "walden wal push {}: {words}; {} as {}{}",
        report.name,
        size(report.bytes),
        size(report.stored_bytes),
        by.agent
    ));
    if let Some(damage) = &report.damage {
        log_line(&damage_line(&report.name, damage));
    }
    session.note_counters(&by.counters);
    // Silent in text: PostgreSQL calls this for every segment. And the file is archived, whoever reads stdout.
    if session.printer.format() == OutputFormat::Json {
        drop(session.printer.report(&session.with_counters(report, by.counters), |_| {}));
    }
    Exit::Done
}

/// What the server log is told of a damaged segment.
fn damage_line(name: &str, damage: &PushDamage) -> String {
    let place = match damage.places.first() {
        Some(first) => format!("at {}: {}", first.lsn, first.what),
        None => "at an unknown place".to_owned(),
    };
    let more = match damage.count.saturating_sub(1) {
        0 => String::new(),
        more => format!(", and {} more", count(more, "place")),
    };
    format!(
        "walden wal push {name}: DAMAGED WAL {place}{more}; archived as it is, but no recovery gets past it; hint: take \
         a new backup now (walden backup create) and look at the disk below pg_wal"
    )
}

pub(super) fn get(session: &Session, name: &str, destination: &Path) -> Result<Exit, Failure> {
    let deadline = session.effective.config.wal.get_deadline.0;
    let current = current_directory()?;
    let mut agent = agent_for_get(session, destination, &current);
    let begun = session.elapsed();
    if let Some(agent) = &mut agent
        && let Ok(parsed) = name.parse::<ArchiveFileName>()
        && let Some(exit) = get_through(session, agent, parsed, destination, &current, deadline)?
    {
        return Ok(exit);
    }
    let left = left_of(deadline, session.elapsed().saturating_sub(begun));
    let ctx = session.context_within(inner_deadline(left))?;
    let fetcher = Fetcher::new(ctx.clone());
    let report = runtime::run_hook(left, async { Ok(fetcher.fetch(name, destination, &current).await?) })?;
    let exit = got(session, &report, &By::hook(&ctx));
    if let Some(agent) = agent {
        agent.tell_if_late();
        let segment = matches!(name.parse(), Ok(ArchiveFileName::Segment(_)));
        let recovery = destination.file_name().is_some_and(|name| name == RECOVERY_SEGMENT);
        agent.start_if(|_| segment && recovery && report.outcome == FetchOutcome::Fetched);
    }
    Ok(exit)
}

/// The agent to ask for a file: only recovery's own requests go to it. pg_rewind and people ask for files under their
/// own names, in an order that nobody can guess.
fn agent_for_get<'a>(session: &'a Session, destination: &Path, current: &Path) -> Option<HookAgent<'a>> {
    if !is_recovery_destination(destination) {
        return None;
    }
    HookAgent::find(session, DataDirectory::of_wal_path(destination, current).as_ref())
}

/// Has the agent get the file; `None` when it is to be fetched here.
fn get_through(
    session: &Session,
    agent: &mut HookAgent,
    name: ArchiveFileName,
    destination: &Path,
    current: &Path,
    deadline: Duration,
) -> Result<Option<Exit>, Failure> {
    let (data, server) = (agent.data().clone(), session.effective.config.server.clone());
    let tell = |outcome, bytes, how| {
        // The data directory has told whose file it is already; not worth a failure when it does not any more.
        let incarnation = data.incarnation().ok();
        let layout =
            incarnation.map(|incarnation| ServerLayout::new(server.clone()).incarnation(incarnation));
        let key = layout.map_or_else(String::new, |layout| layout.archive_file(name).to_string());
        let report = FetchReport { schema: 1, name: name.to_string(), outcome, key, bytes };
        got(session, &report, &By::agent(how))
    };
    match client::get(agent.spool(), &name.to_string(), &current.join(destination), share_of_agent(deadline))
    {
        GetAnswer::Absent => Ok(Some(tell(FetchOutcome::Absent, 0, "; so the agent found"))),
        GetAnswer::Failed(failure) => Err(failure.into()),
        GetAnswer::Late { waited } => {
            agent.is_late(waited);
            Ok(None)
        }
        GetAnswer::Ready(offered) => {
            match take_prefetched(&offered, &name.to_string(), destination, current)? {
                Taken::Taken { bytes } => {
                    Ok(Some(tell(FetchOutcome::Fetched, bytes, "; the agent had it ready")))
                }
                Taken::Gone => {
                    session.printer.note("walden agent: the file that it had ready is gone; done without it");
                    Ok(None)
                }
            }
        }
        GetAnswer::DoItYourself(reason) => {
            agent.sends_away(&reason);
            Ok(None)
        }
    }
}

/// Tells of a fetch that ended well, or proved that there is nothing.
fn got(session: &Session, report: &FetchReport, by: &By) -> Exit {
    let (exit, words) = match report.outcome {
        FetchOutcome::Fetched => (Exit::Done, format!("fetched, {}", size(report.bytes))),
        // Routine: PostgreSQL asks for histories and segments until one is missing.
        FetchOutcome::Absent => (Exit::Absent, "not in the archive".to_owned()),
    };
    session.printer.note(&format!("walden wal get {}: {words}{}", report.name, by.agent));
    session.note_counters(&by.counters);
    if session.printer.format() == OutputFormat::Json {
        drop(session.printer.report(&session.with_counters(report, by.counters), |_| {}));
    }
    exit
}

/// What is left of a hook's time after the agent was asked for so long. What was kept for the hook itself is left in any
/// case: with a limit of the rate the agent may take longer.
fn left_of(deadline: Duration, asked_for: Duration) -> Duration {
    deadline.saturating_sub(asked_for).max(deadline.saturating_sub(share_of_agent(deadline)))
}

/// How long the store may take of a hook's time.
pub(super) fn inner_deadline(deadline: Duration) -> Duration {
    deadline.saturating_sub(ROOM_FOR_THE_REASON.min(deadline / 10))
}

fn current_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        Failure::new(ErrorKind::LocalIo, "cannot tell the current directory").caused_by(&error)
    })
}

#[cfg(test)]
mod tests {
    use walden_core::index::DamageNote;

    use super::*;

    #[test]
    fn damage_is_one_line_with_segment_place_and_meaning() {
        let place =
            |lsn: u64| DamageNote { lsn: walden_pg::Lsn::new(lsn), what: "wrong checksum".to_owned() };
        let damage = PushDamage { count: 3, places: vec![place(0x30_0000), place(0x30_0100)] };
        let line = damage_line("000000010000000000000003", &damage);
        assert!(!line.contains('\n'));
        assert!(
            line.starts_with(
                "walden wal push 000000010000000000000003: DAMAGED WAL at 0/300000: wrong checksum, and 2 places more; \
                 archived as it is, but no recovery gets past it"
            ),
            "{line}"
        );
        let nowhere = damage_line("x", &PushDamage { count: 1, places: Vec::new() });
        assert!(nowhere.contains("at an unknown place; archived"), "{nowhere}");
    }
}
