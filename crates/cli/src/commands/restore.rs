//! `walden restore`.

use std::num::NonZeroUsize;

use walden_core::RecoveryPlan;
use walden_engine::restore::{
    ArchiveMode, RestoreReport, RestoreRequest, ServerState, StartOptions, StartReport, StopCheck,
    StopOutcome, check_target, execute_until,
};

use super::hook_command::hook_command;
use super::plan::{self, Planned, Words, render_answer, stop_in_words, target_in_words};
use crate::args::{ArchiveModeArg, OutputFormat, RestoreArgs};
use crate::config::MaxRate;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::Verbosity;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, conf_line, count, duration, size};

pub(super) fn run(session: &Session, arguments: &RestoreArgs) -> Result<Exit, Failure> {
    let now = session.now();
    let recovery = arguments.target.request(now, session.effective.rates())?;
    let request = request(session, arguments)?;
    check_target(&request.pgdata)?;
    let max_rate = arguments.max_rate.map(MaxRate::bytes_per_second);
    let timeout = session.effective.config.store.operation_timeout();
    let ctx = session.context_at_rate(timeout, max_rate)?;
    let named = arguments.incarnation.incarnation;
    let done = runtime::run_until_signal(|stop| async {
        // The directory to restore into decides nothing: the server's current incarnation, or the one named.
        let record = session.incarnation_of_server(&ctx, named).await?;
        let Planned { answer, snapshot } = plan::plan(&ctx, &record, &recovery).await?;
        let plan = match answer {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Err((refusal, snapshot))),
        };
        announce(session, &plan);
        let report = execute_until(&ctx, &plan, request, stop).await?;
        Ok(Ok((report, plan.estimate.wal_bytes)))
    })?;
    let (report, wal_bytes) = match done {
        Ok(done) => done,
        Err((refusal, snapshot)) => {
            let words = Words::new(session, named, None);
            return plan::refuse(session, &ctx, &words, &recovery, &snapshot, &refusal);
        }
    };
    for warning in &report.warnings {
        session.printer.warning(warning);
    }
    session.printer.report(&session.with_cost(&report, &ctx), |text| render(text, &report, wal_bytes))?;
    session.note_cost(&ctx);
    Ok(match report.started.as_ref().map(|started| &started.stop_check) {
        Some(check) if check.outcome == StopOutcome::Elsewhere => Exit::StoppedElsewhere,
        Some(check) if check.outcome == StopOutcome::Unknown => {
            session.printer.warning(&format!("where the server stopped was not compared: {}", check.message));
            Exit::Done
        }
        _ => Exit::Done,
    })
}

/// Says on stderr what will be done, before it is.
fn announce(session: &Session, plan: &RecoveryPlan) {
    let printer = &session.printer;
    if printer.verbosity() >= Verbosity::Normal && printer.format() == OutputFormat::Text {
        printer.aside(|text| {
            render_answer(text, plan);
            text.facts(&[
                ("backup", format!("{}, finished {}", plan.backup.id, text.moment(plan.backup.finished_at))),
                ("target", target_in_words(text, &plan.request.target, plan.request.exclusive)),
                ("stops", stop_in_words(&plan.stop)),
                ("then", plan.request.action.as_str().to_owned()),
            ]);
        });
    }
    for warning in &plan.warnings {
        printer.warning(warning);
    }
}

fn request(session: &Session, arguments: &RestoreArgs) -> Result<RestoreRequest, Failure> {
    let effective = &session.effective;
    let start = arguments.start.then(|| StartOptions {
        bin_directory: arguments.pg_bin.clone(),
        port: arguments.port,
        socket_directory: arguments.socket_directory.clone(),
        timeout: arguments.start_timeout,
        ..StartOptions::default()
    });
    Ok(RestoreRequest {
        pgdata: arguments.pgdata.clone(),
        tablespace_mapping: arguments.tablespace_mapping.clone(),
        allow_tablespaces: arguments.allow_tablespace.clone(),
        jobs: usize::try_from(effective.config.jobs.get()).ok().and_then(NonZeroUsize::new),
        restore_command: hook_command(effective, "wal get %f %p")?,
        settings: arguments.setting.clone(),
        archive_mode: match arguments.archive_mode {
            ArchiveModeArg::Auto => ArchiveMode::Auto,
            ArchiveModeArg::Preserve => ArchiveMode::Preserve,
            ArchiveModeArg::Off => ArchiveMode::Off,
        },
        drill: false,
        start,
    })
}

fn render(text: &mut Text, report: &RestoreReport, wal_bytes: u64) {
    let took = report.finished_at.duration_since(report.started_at);
    let target = target_in_words(text, &report.target, report.target_exclusive);
    text.facts(&[
        ("restored", report.pgdata.display().to_string()),
        (
            "from",
            format!("backup {} of {}, incarnation {}", report.backup, report.server, report.incarnation),
        ),
        ("target", format!("{target}, timeline {}", report.target_timeline)),
        (
            "written",
            format!(
                "{} in {}, from {} stored, in {}",
                size(report.bytes),
                count(report.files, "file"),
                size(report.stored_bytes),
                duration(took)
            ),
        ),
    ]);
    if let Some(rate) = rate(report.bytes, u64::try_from(took.as_millis()).unwrap_or(0)) {
        text.facts(&[("rate", format!("{rate} MB/s; for better estimates: --restore-rate {rate}"))]);
    }
    if let Some(owner) = &report.owner {
        let name = owner.user.clone().unwrap_or_else(|| format!("uid {}", owner.uid));
        text.facts(&[("owner", format!("{name}: {}", owner.reason))]);
    }
    if !report.tablespaces.is_empty() {
        text.heading("Tablespaces");
        let mut table = Table::new(&[("OID", Align::Right), ("FROM", Align::Left), ("TO", Align::Left)]);
        for tablespace in &report.tablespaces {
            let (from, to) = (tablespace.from.display().to_string(), tablespace.to.display().to_string());
            table.row([tablespace.oid.to_string(), from, to]);
        }
        text.table(&table);
    }
    for link in &report.links {
        let now = if link.as_directory { "a directory stands in its place" } else { "left out" };
        text.line(format!("link {} -> {}: {now}", link.path, link.target));
    }
    render_list(text, "Generated", &report.generated);
    render_list(text, "Settings of the source taken out of postgresql.auto.conf", &report.dropped_settings);
    text.heading("Settings written to postgresql.auto.conf");
    for setting in report.settings.iter().filter(|setting| !setting.value.is_empty()) {
        text.line(conf_line(&setting.name, &setting.value));
    }
    if let Some(started) = &report.started {
        render_started(text, started, wal_bytes);
    } else {
        text.heading("To start it");
        text.line(&report.start_command);
    }
    text.gap();
    text.line("It does not archive into the repository it came from; if it replaces the server for good:");
    text.line(format!("walden server adopt --pgdata {}", report.pgdata.display()));
    text.line("A standby made of it (standby.signal) must be adopted before it is promoted: until then nothing that it");
    text.line("writes is archived, the history file of its new timeline included.");
}

/// Megabytes per second, when it took long enough to be measured.
fn rate(bytes: u64, milliseconds: u64) -> Option<u64> {
    const MEASURED_MILLISECONDS_MIN: u64 = 5_000;
    (milliseconds >= MEASURED_MILLISECONDS_MIN)
        .then_some(bytes / milliseconds / 1000)
        .filter(|rate| *rate > 0)
}

fn render_list(text: &mut Text, heading: &str, items: &[String]) {
    if !items.is_empty() {
        text.heading(heading);
        text.bullets(items);
    }
}

/// Whether the server is where the plan said it would be: the first that one wants to know.
fn render_check(text: &mut Text, check: &StopCheck) {
    let paint = text.paint();
    let line = match check.outcome {
        StopOutcome::AsPlanned => paint.green(&format!("stopped where the plan said: {}", check.message)),
        StopOutcome::ArchiveGrew => {
            paint.green(&format!("stopped at the end of the archive: {}", check.message))
        }
        StopOutcome::Elsewhere => paint
            .red(&format!("STOPPED ELSEWHERE THAN THE PLAN SAID: {}; do not use this server", check.message)),
        StopOutcome::Unknown => {
            paint.yellow(&format!("where it stopped was not compared: {}", check.message))
        }
    };
    text.gap();
    text.line(line);
}

fn render_started(text: &mut Text, started: &StartReport, wal_bytes: u64) {
    render_check(text, &started.stop_check);
    text.heading("Started");
    let state = match started.state {
        ServerState::Paused => {
            "paused at the target, read-only: look at the data, then SELECT pg_wal_replay_resume()"
        }
        ServerState::Promoted => "promoted: open for writing",
        ServerState::ShutDown => "shut down at the target",
    };
    let elapsed = i64::try_from(started.elapsed_ms).unwrap_or(i64::MAX);
    let mut facts = vec![
        ("server", state.to_owned()),
        ("recovery took", duration(jiff::SignedDuration::from_millis(elapsed))),
    ];
    if let Some(rate) = rate(wal_bytes, started.elapsed_ms) {
        facts.push(("rate", format!("{rate} MB/s of WAL; for better estimates: --replay-rate {rate}")));
    }
    if let Some(lsn) = started.replay_lsn {
        facts.push(("replayed to", lsn.to_string()));
    }
    if let Some(at) = &started.last_transaction_at {
        facts.push(("last transaction", at.clone()));
    }
    if let Some(message) = &started.stop_message {
        facts.push(("the server says", message.clone()));
    }
    if let Some(timeline) = started.timeline {
        facts.push(("timeline", timeline.to_string()));
    }
    if let Some(why) = &started.not_asked {
        facts.push(("not asked", why.clone()));
    }
    facts.push(("log", started.log.display().to_string()));
    if let Some(command) = &started.connect_command {
        facts.push(("connect", command.clone()));
    }
    text.facts(&facts);
}
