//! `walden retention`, and `walden backup pin`, `unpin` and `delete`.

mod show;

use std::io::{self, BufRead, IsTerminal};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use walden_core::{
    BackupId, ErrorKind, HowLong, PlanDiff, RetentionOutcome, RetentionPlan, RetentionPolicy,
    RetentionWarningKind, diff_plans,
};
use walden_engine::Context;
use walden_engine::retention::{
    Allowed, PinRequest, RetentionReport, RetentionSurvey, apply_retention, pin as write_pin, retention_log,
    stopping_warnings,
};

use crate::args::{
    AllowArgs, BackupDeleteArgs, BackupPinArgs, BackupUnpinArgs, OutputFormat, RetentionApplyArgs,
    RetentionLogArgs, RetentionPlanArgs, RetentionVerb,
};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{count, size};
use crate::times::parse_time;

pub(super) fn run(session: &Session, verb: &RetentionVerb) -> Result<Exit, Failure> {
    match verb {
        RetentionVerb::Plan(arguments) => plan(session, arguments),
        RetentionVerb::Apply(arguments) => apply(session, arguments),
        RetentionVerb::Log(arguments) => log(session, arguments),
    }
}

/// A plan, and with `--compare` what the configured policy would do now.
#[derive(Debug, Serialize)]
struct PlanDocument<'a> {
    #[serde(flatten)]
    plan: &'a RetentionPlan,
    /// Whether a policy is configured, or given on the command line.
    configured: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<&'a PlanDiff>,
}

fn plan(session: &Session, arguments: &RetentionPlanArgs) -> Result<Exit, Failure> {
    let now = session.now();
    let at = arguments.at.as_deref().map(|text| parse_moment(text, now)).transpose()?.unwrap_or(now);
    if at < now {
        return Err(Failure::usage("--at lies in the past: what was there then is not known"));
    }
    let configured = session.effective.config.retention.clone();
    let base = configured.clone().unwrap_or_default();
    let (policy, says) = arguments.policy.over(&base)?;
    let ctx = session.context()?;
    let (plan, compared) = runtime::run(async {
        let mut survey = RetentionSurvey::take(&ctx).await?;
        let mut plan = survey.plan(&ctx, &policy, at).await?;
        if at > now {
            // Looking ahead means that nothing new comes.
            plan.warnings.retain(|warning| warning.kind != RetentionWarningKind::NothingNew);
        }
        let compared = if arguments.compare {
            Some(diff_plans(&survey.plan(&ctx, &base, now).await?, &plan))
        } else {
            None
        };
        warn(session, survey.notes());
        Ok((plan, compared))
    })?;
    let configured = configured.is_some() || says;
    let document = PlanDocument { plan: &plan, configured, compared: compared.as_ref() };
    session.printer.report(&session.with_cost(&document, &ctx), |text| {
        show::plan(text, &plan, at > now);
        if let Some(compared) = &compared {
            show::comparison(text, compared);
        }
        if !configured {
            text.gap();
            text.line(
                "No policy is configured: these are the defaults, and walden retention apply wants yours.",
            );
        }
    })?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn warn(session: &Session, notes: &[String]) {
    for note in notes {
        session.printer.warning(note);
    }
}

/// A moment: a time from now (`30d`), a day in UTC, or a time.
fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(HowLong::Seconds(seconds)) = text.parse::<HowLong>() {
        let moment = now.checked_add(SignedDuration::from_secs(seconds)).ok();
        return moment.ok_or_else(|| Failure::usage("the time is out of range"));
    }
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    parse_time(&whole, None, now).map_err(|error| Failure::usage(error.reason).with_hint(error.hint))
}

fn allowed(arguments: AllowArgs) -> Allowed {
    Allowed { nothing_new: arguments.allow_nothing_new, clock_behind: arguments.allow_clock_behind }
}

fn apply(session: &Session, arguments: &RetentionApplyArgs) -> Result<Exit, Failure> {
    let configured = session.effective.config.retention.clone();
    let (policy, says) = arguments.policy.over(&configured.clone().unwrap_or_default())?;
    if configured.is_none() && !says {
        let failure =
            Failure::new(ErrorKind::Config, "no retention policy is configured: nothing is removed");
        return Err(failure.with_hint(
            "say what has to stay, in [retention] of the configuration or with --window and the like; \
             walden retention plan shows what it would do",
        ));
    }
    carry_out(session, &policy, &[], arguments.yes, arguments.allow)
}

pub(super) fn delete(session: &Session, arguments: &BackupDeleteArgs) -> Result<Exit, Failure> {
    let policy = session.effective.config.retention.clone().unwrap_or_default();
    carry_out(session, &policy, &arguments.ids, arguments.yes, arguments.allow)
}

/// Shows a plan, asks, and carries it out.
fn carry_out(
    session: &Session,
    policy: &RetentionPolicy,
    asked: &[BackupId],
    yes: bool,
    allow: AllowArgs,
) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let now = session.now();
    let plan = runtime::run(async {
        let mut survey = RetentionSurvey::take(&ctx).await?;
        let plan = if asked.is_empty() {
            survey.plan(&ctx, policy, now).await?
        } else {
            survey.plan_removal(&ctx, policy, asked, now).await?
        };
        warn(session, survey.notes());
        Ok(plan)
    })?;
    let is_text = session.printer.format() == OutputFormat::Text;
    if is_text {
        session.printer.report(&(), |text| show::plan(text, &plan, false))?;
    }
    let stopping = stopping_warnings(&plan, allowed(allow));
    if let Some(warning) = stopping.first().filter(|_| !plan.is_empty()) {
        let failure = Failure::new(ErrorKind::MustStay, format!("stopped by a warning: {warning}"));
        return Err(
            failure.with_hint("look at the clocks and at archiving; --help says how to go on all the same")
        );
    }
    if !plan.is_empty() && !yes {
        confirm(&plan)?;
    }
    let report = runtime::run_until_signal(|stop| async {
        Ok(apply_retention(&ctx, &plan, allowed(allow), Some(stop)).await?)
    })?;
    finish(session, &ctx, &report)
}

fn finish(session: &Session, ctx: &Context, report: &RetentionReport) -> Result<Exit, Failure> {
    session.printer.report(&session.with_cost(report, ctx), |text| show::done(text, report))?;
    session.note_cost(ctx);
    Ok(match report.outcome {
        RetentionOutcome::Finished => Exit::Done,
        RetentionOutcome::Stopped => Exit::Interrupted,
        RetentionOutcome::Denied => Exit::Denied,
    })
}

/// Asks whoever sits at the terminal.
fn confirm(plan: &RetentionPlan) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage("nobody can be asked: there is no terminal")
            .with_hint("look at the plan, then give --yes"));
    }
    let loses = if plan.loses_moments() { ", and with it moments that can be restored now" } else { "" };
    let question = format!(
        "Remove {} ({}){loses}? Write \"yes\": ",
        count(plan.removed.objects, "object"),
        size(plan.removed.bytes)
    );
    crate::printer::ask(&question);
    match read_answer()? {
        Some(answer) if answer.trim() == "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was removed: the answer was not \"yes\"")),
    }
}

/// A line from the terminal, unless a signal comes first. Signals are caught since the first runtime of this process,
/// so nobody but a runtime hears them; and a thread of our own reads, because nothing ends a read that waits.
fn read_answer() -> Result<Option<String>, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        // Nobody waits any more after a signal.
        let _ = sender.send(read.ok().map(|_| answer));
    });
    runtime::run(async { Ok(receiver.await.ok().flatten()) })
}

fn log(session: &Session, arguments: &RetentionLogArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let runs = runtime::run(async { Ok(retention_log(&ctx, arguments.last).await?) })?;
    session.printer.report(&runs, |text| show::log(text, &runs))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

pub(super) fn pin(session: &Session, arguments: &BackupPinArgs) -> Result<Exit, Failure> {
    let now = session.now();
    let until = arguments.until.as_deref().map(|text| parse_moment(text, now)).transpose()?;
    if until.is_some_and(|until| until <= now) {
        return Err(Failure::usage("--until lies in the past"));
    }
    if arguments.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty: whoever meets the pin will want to know"));
    }
    let request = PinRequest {
        backup: arguments.id.clone(),
        pinned: true,
        until,
        reason: arguments.reason.trim().to_owned(),
    };
    change_pin(session, arguments.which.incarnation.incarnation, &request)
}

pub(super) fn unpin(session: &Session, arguments: &BackupUnpinArgs) -> Result<Exit, Failure> {
    let request = PinRequest {
        backup: arguments.id.clone(),
        pinned: false,
        until: None,
        reason: arguments.reason.trim().to_owned(),
    };
    change_pin(session, arguments.which.incarnation.incarnation, &request)
}

fn change_pin(
    session: &Session,
    incarnation: Option<walden_core::Incarnation>,
    request: &PinRequest,
) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let report = runtime::run(async {
        let record = session.incarnation(&ctx, incarnation).await?;
        Ok(write_pin(&ctx, &record, request).await?)
    })?;
    for warning in &report.warnings {
        session.printer.warning(warning);
    }
    session.printer.report(&session.with_cost(&report, &ctx), |text| {
        let state = show::pin(text, &report.pin);
        let already = if report.written { "" } else { " already" };
        text.line(format!("backup {} is{already} {state}", report.pin.backup));
    })?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

pub(super) use show::pin as describe_pin;
