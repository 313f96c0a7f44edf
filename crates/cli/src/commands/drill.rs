//! `walden drill`.

mod html;
mod markdown;
mod show;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use walden_core::{BackupId, DrillOutcome, DrillRecord, ErrorKind, RecoveryAction};
use walden_engine::drill::{
    Assertion, DrillReport, DrillRequest, drill, list_evidence, parse_assertions, random_seed, read_evidence,
};
use walden_store::settings_fingerprint;

use super::hook_command::hook_command;
use crate::args::{DrillArgs, DrillReportArgs, DrillRunArgs, DrillVerb, OutputFormat, ReportFormat};
use crate::config::{Flags, MaxRate};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::write_stdout;
use crate::runtime;
use crate::session::Session;

/// Largest file of assertions that is read, in bytes.
const SQL_BYTES_MAX: u64 = 1 << 20;

pub(super) fn run(session: &Session, arguments: &DrillArgs) -> Result<Exit, Failure> {
    match &arguments.verb {
        None => run_drill(session, &arguments.run),
        Some(DrillVerb::List(asked)) => show::list(session, asked),
        Some(DrillVerb::Show(asked)) => show::show(session, asked),
        Some(DrillVerb::Report(asked)) => report(session, asked),
    }
}

impl DrillArgs {
    /// Adds the settings that its options give; the data directory of those of its verbs that take one.
    ///
    /// # Errors
    /// Kind `config` for a path that is not UTF-8.
    pub(super) fn add_flags(&self, flags: &mut Flags) -> Result<(Option<&PathBuf>, Option<u32>), Failure> {
        let run = &self.run;
        run.rates.add_flags(flags);
        flags.set_path("drill.directory", "--directory", run.directory.as_deref())?;
        flags.set_path("drill.pg_bin", "--pg-bin", run.pg_bin.as_deref())?;
        flags.set_path("drill.sql", "--sql", run.sql.as_deref())?;
        flags.set("drill.database", "--database", run.database.as_deref());
        flags.set("drill.user", "--user", run.user.as_deref());
        flags.set("drill.role", "--role", run.role.as_deref());
        flags.set("drill.timeout", "--timeout", run.timeout.as_deref());
        let which = match &self.verb {
            None => None,
            Some(DrillVerb::List(asked)) => Some(&asked.which),
            Some(DrillVerb::Show(asked)) => Some(&asked.which),
            Some(DrillVerb::Report(asked)) => Some(&asked.which),
        };
        Ok((which.and_then(|which| which.pgdata.as_ref()), run.jobs))
    }
}

fn run_drill(session: &Session, arguments: &DrillRunArgs) -> Result<Exit, Failure> {
    let request = request(session, arguments)?;
    let named = arguments.incarnation.incarnation;
    let timeout = session.effective.config.store.operation_timeout();
    let ctx = session.context_at_rate(timeout, arguments.max_rate.map(MaxRate::bytes_per_second))?;
    if let Some(seed) = request.seed {
        session.printer.note(&format!("seed {seed}"));
    }
    let report = runtime::run_until_signal(|stop| async {
        let record = session.incarnation_of_server(&ctx, named).await?;
        Ok(drill(&ctx, &record, request, stop).await?)
    })?;
    for warning in &report.record.warnings {
        session.printer.warning(warning);
    }
    session.printer.report(&session.with_cost(&report, &ctx), |text| {
        show::render(text, &report.record);
        show::render_evidence(text, &report);
    })?;
    session.note_cost(&ctx);
    Ok(exit_of(&report))
}

fn request(session: &Session, arguments: &DrillRunArgs) -> Result<DrillRequest, Failure> {
    let effective = &session.effective;
    let config = &effective.config.drill;
    let recovery = arguments.target.request(session.now(), effective.rates())?;
    if arguments.target.target_action.is_some() && recovery.action != RecoveryAction::Promote {
        let message = "a drill promotes what it has restored: --target-action has no place here";
        return Err(Failure::usage(message));
    }
    let seed = match (arguments.random, arguments.seed) {
        (false, _) => None,
        (true, Some(seed)) => Some(seed),
        (true, None) => Some(random_seed()?),
    };
    Ok(DrillRequest {
        recovery,
        seed,
        base: base_directory(session),
        bin_directory: config.pg_bin.clone(),
        user: config.user.clone(),
        role: config.role.clone(),
        assertions: assertions(config.sql.as_ref())?,
        database: config.database.clone(),
        skip: arguments.skip_check.clone(),
        preload: arguments.preload.clone(),
        settings: arguments.setting.clone(),
        timeout: config.timeout.0,
        jobs: usize::try_from(effective.config.jobs.get()).ok().and_then(NonZeroUsize::new),
        restore_command: hook_command(effective, "wal get %f %p")?,
        agent_settings: settings_fingerprint(&effective.config.store, &session.environment),
        evidence: !arguments.no_evidence,
    })
}

/// Where drills are made. Root's state directory is closed to the account of the server.
fn base_directory(session: &Session) -> PathBuf {
    let config = &session.effective.config;
    if let Some(directory) = &config.drill.directory {
        return directory.clone();
    }
    match &config.state_directory {
        Some(state) if !nix::unistd::geteuid().is_root() => state.join("drill"),
        _ => std::env::temp_dir(),
    }
}

fn assertions(path: Option<&PathBuf>) -> Result<Vec<Assertion>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let failed = |what: &str| {
        Failure::new(ErrorKind::Config, format!("the file of assertions {what} path={}", path.display()))
    };
    let bytes = walden_engine::fs::read_if_present(path, SQL_BYTES_MAX)?;
    let text = String::from_utf8(bytes.ok_or_else(|| failed("is not there"))?);
    let text = text.map_err(|_| failed("is not UTF-8"))?;
    let assertions = parse_assertions(&text).map_err(|reason| failed(&format!("can't be read: {reason}")))?;
    if assertions.is_empty() {
        return Err(failed("holds no statement"));
    }
    Ok(assertions)
}

/// The exit code of a drill: a scheduler acts on it.
fn exit_of(report: &DrillReport) -> Exit {
    let kind = |error: Option<&walden_core::DrillError>| {
        error.map_or(Exit::Internal, |error| exit_of_kind(&error.kind))
    };
    match report.record.outcome {
        DrillOutcome::Ok if report.evidence_error.is_some() => kind(report.evidence_error.as_ref()),
        DrillOutcome::Ok => Exit::Done,
        DrillOutcome::ChecksFailed => Exit::ProblemsFound,
        DrillOutcome::StoppedElsewhere => Exit::StoppedElsewhere,
        DrillOutcome::NoPlan => Exit::Target,
        DrillOutcome::TimedOut => Exit::Unavailable,
        DrillOutcome::Interrupted => Exit::Interrupted,
        DrillOutcome::Failed => kind(report.record.error.as_ref()),
    }
}

fn exit_of_kind(name: &str) -> Exit {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::WrongServer,
        ErrorKind::Corrupt,
        ErrorKind::Unavailable,
        ErrorKind::Denied,
        ErrorKind::Config,
        ErrorKind::Invalid,
        ErrorKind::Target,
        ErrorKind::LocalIo,
        ErrorKind::Postgres,
        ErrorKind::Unsupported,
    ];
    kinds.into_iter().find(|kind| kind.as_str() == name).map_or(Exit::Internal, Exit::from)
}

fn report(session: &Session, asked: &DrillReportArgs) -> Result<Exit, Failure> {
    if session.printer.format() != OutputFormat::Text {
        return Err(Failure::usage("a report is Markdown or HTML: --output json has no place here")
            .with_hint("walden drill show --output json"));
    }
    let id = drill_id(&asked.id)?;
    let ctx = session.context()?;
    let (record, earlier) = runtime::run(async {
        let incarnation = session.incarnation(&ctx, asked.which.incarnation.incarnation).await?;
        let record = read_evidence(&ctx, &incarnation, id.as_ref()).await?;
        let earlier = list_evidence(&ctx, &incarnation, asked.last.max(1)).await?;
        Ok((record, earlier.drills))
    })?;
    // The trend ends with the drill that is reported.
    let mut trend: Vec<DrillRecord> = earlier.into_iter().filter(|other| other.id < record.id).collect();
    trend.push(record.clone());
    let written = match asked.format {
        ReportFormat::Markdown => markdown::render(&record, &trend),
        ReportFormat::Html => html::render(&record, &trend),
    };
    write_stdout(written.as_bytes())?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

/// The drill that is meant; `None` for the newest.
fn drill_id(text: &str) -> Result<Option<BackupId>, Failure> {
    if text == "latest" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Failure::usage(format!("no drill has such a name name={text:?}"))
            .with_hint("it looks like 20261120T103905Z-7f3a; walden drill list shows them")
    })
}
