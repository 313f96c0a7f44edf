//! `walden backup create`, `list` and `show`.

use std::num::NonZeroU64;

use jiff::SignedDuration;
use serde::Serialize;
use walden_core::{BackupId, BackupRecord, ErrorKind, PinRecord};
use walden_engine::backup::{
    BackupReport, BackupRequest, Checkpoint, ConnectionOptions, JOBS_MAX, create as create_backup,
};
use walden_engine::load_snapshot;
use walden_engine::retention::read_pins;

use super::retention::describe_pin;
use crate::args::{BackupCreateArgs, CheckpointArg, WhichArgs};
use crate::config::MaxRate;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, duration, size};

pub(super) fn create(session: &Session, arguments: &BackupCreateArgs) -> Result<Exit, Failure> {
    let config = &session.effective.config;
    let request = BackupRequest {
        pgdata: config.pgdata.clone(),
        label: arguments.label.clone(),
        checkpoint: match arguments.checkpoint {
            CheckpointArg::Fast => Checkpoint::Fast,
            CheckpointArg::Spread => Checkpoint::Spread,
        },
        jobs: usize::try_from(config.jobs.get()).unwrap_or(JOBS_MAX).min(JOBS_MAX),
        level: config.backup.compression_level.0,
        wal_timeout: config.backup.wal_timeout.0,
        max_read_rate: arguments.max_read_rate.and_then(|rate| NonZeroU64::new(rate.bytes_per_second())),
    };
    if let Some(niceness) = arguments.nice {
        // Before there are other threads: they inherit it.
        niceness.apply().map_err(|error| {
            Failure::new(ErrorKind::LocalIo, "cannot lower the priority").caused_by(&error)
        })?;
    }
    let connection = ConnectionOptions::resolve(arguments.connection.dbname()?)?;
    let max_rate = arguments.max_rate.map(MaxRate::bytes_per_second);
    let ctx = session.context_at_rate(config.store.operation_timeout(), max_rate)?;
    let report = runtime::run_until_signal(|stop| async {
        Ok(create_backup(&ctx, request, connection, stop).await?)
    })?;
    for warning in &report.warnings {
        session.printer.warning(warning);
    }
    session.printer.report(&report, |text| render_created(text, &report))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

fn render_created(text: &mut Text, report: &BackupReport) {
    let backup = &report.backup;
    text.facts(&[
        ("backup", format!("{} ({})", backup.id, word(&backup.kind))),
        ("server", format!("{}, incarnation {}", backup.server, backup.incarnation)),
        ("size", format!("{} in {}", size(backup.bytes), count(backup.files, "file"))),
        (
            "stored",
            format!(
                "{} in {}, {}/s read, {}/s stored",
                size(backup.stored_bytes),
                count(u64::from(backup.packs), "pack"),
                size(report.bytes_per_second),
                size(report.stored_bytes_per_second)
            ),
        ),
        ("LSN", format!("{} to {} on timeline {}", backup.start_lsn, backup.stop_lsn, backup.timeline)),
        (
            "WAL",
            format!("{}, {} to {}", count(report.wal.segments, "segment"), report.wal.first, report.wal.last),
        ),
        ("finished", text.moment(backup.finished_at)),
        ("took", seconds(report.seconds.total)),
        (
            "of that",
            format!(
                "checkpoint {}, copying {}, waiting for WAL {}",
                seconds(report.seconds.checkpoint),
                seconds(report.seconds.copying),
                seconds(report.seconds.waiting)
            ),
        ),
    ]);
}

fn seconds(seconds: f64) -> String {
    SignedDuration::try_from_secs_f64(seconds).map_or_else(|_| format!("{seconds} s"), duration)
}

pub(super) fn list(session: &Session, which: &WhichArgs) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let (snapshot, pins) = runtime::run(async {
        let record = session.incarnation(&ctx, which.incarnation.incarnation).await?;
        Ok((load_snapshot(&ctx, &record).await?, read_pins(&ctx, &record).await?))
    })?;
    let now = session.now();
    let is_pinned = |id: &BackupId| {
        pins.get(id).is_some_and(|pin| pin.pinned && pin.until.is_none_or(|until| until > now))
    };
    for (id, reason) in &snapshot.unreadable_backups {
        session.printer.warning(&format!("the record of backup {id} can't be read: {reason}"));
    }
    session.printer.report(&snapshot.backups, |text| {
        if snapshot.backups.is_empty() {
            text.line("there is no backup yet");
            return;
        }
        let mut table = Table::new(&[
            ("BACKUP", Align::Left),
            ("KIND", Align::Left),
            ("FINISHED", Align::Left),
            ("TOOK", Align::Right),
            ("SIZE", Align::Right),
            ("STORED", Align::Right),
            ("TIMELINE", Align::Right),
            ("FROM LSN", Align::Left),
            ("TO LSN", Align::Left),
            ("", Align::Left),
        ]);
        for backup in &snapshot.backups {
            table.row([
                backup.id.to_string(),
                word(&backup.kind),
                text.moment(backup.finished_at),
                duration(backup.finished_at.duration_since(backup.started_at)),
                size(backup.bytes),
                size(backup.stored_bytes),
                backup.timeline.to_string(),
                backup.start_lsn.to_string(),
                backup.stop_lsn.to_string(),
                if is_pinned(&backup.id) { "pinned".to_owned() } else { String::new() },
            ]);
        }
        text.table(&table);
    })?;
    let unfinished = snapshot.unfinished_backups.len() as u64;
    if unfinished > 0 {
        session.printer.note(&format!("{} under way or interrupted", count(unfinished, "backup")));
    }
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

pub(super) fn show(session: &Session, which: &WhichArgs, id: &str) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let (record, pin) = runtime::run(async {
        let incarnation = session.incarnation(&ctx, which.incarnation.incarnation).await?;
        let snapshot = load_snapshot(&ctx, &incarnation).await?;
        let found = match id {
            "latest" => snapshot.backups.last(),
            id => snapshot.backups.iter().find(|backup| backup.id.as_str() == id),
        };
        let record = found.cloned().ok_or_else(|| {
            let unfinished = snapshot.unfinished_backups.iter().any(|unfinished| unfinished.as_str() == id);
            let state = if unfinished { " (it is unfinished)" } else { "" };
            Failure::new(ErrorKind::NotFound, format!("no such backup{state} id={id}"))
                .with_hint("walden backup list shows them")
        })?;
        let pin = read_pins(&ctx, &incarnation).await?.remove(&record.id);
        Ok((record, pin))
    })?;
    let shown = Shown { record: &record, pin: pin.as_ref() };
    session.printer.report(&session.with_cost(&shown, &ctx), |text| {
        render(text, &record);
        if let Some(pin) = pin.as_ref().filter(|pin| pin.pinned) {
            let pin = describe_pin(text, pin);
            text.line(pin);
        }
    })?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
}

/// A backup and what operators say about keeping it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    record: &'a BackupRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<&'a PinRecord>,
}

fn render(text: &mut Text, backup: &BackupRecord) {
    let settings = &backup.settings;
    text.facts(&[
        ("backup", format!("{} ({})", backup.id, word(&backup.kind))),
        ("server", format!("{}, incarnation {}", backup.server, backup.incarnation)),
        ("label", backup.label.clone()),
        ("started", text.moment(backup.started_at)),
        (
            "finished",
            format!(
                "{}, after {}",
                text.moment(backup.finished_at),
                duration(backup.finished_at.duration_since(backup.started_at))
            ),
        ),
        ("from", format!("{} on {}, {}", word(&backup.source), backup.writer.host, backup.writer.instance)),
        ("timeline", backup.timeline.to_string()),
        ("LSN", format!("{} to {} (consistent from the second)", backup.start_lsn, backup.stop_lsn)),
        ("size", format!("{} in {}", size(backup.bytes), count(backup.files, "file"))),
        ("stored", format!("{} in {}", size(backup.stored_bytes), count(u64::from(backup.packs), "pack"))),
        ("PostgreSQL", settings.server_version.clone()),
        ("page checksums", if settings.data_checksums { "on" } else { "off" }.to_owned()),
    ]);
    if !backup.tablespaces.is_empty() {
        text.heading("Tablespaces");
        let mut table = Table::new(&[("OID", Align::Right), ("PATH", Align::Left)]);
        for tablespace in &backup.tablespaces {
            table.row([tablespace.oid.to_string(), tablespace.path.clone()]);
        }
        text.table(&table);
    }
    if !backup.checksum_failures.is_empty() {
        text.heading("Pages with wrong checksums");
        for failure in &backup.checksum_failures {
            let blocks: Vec<String> = failure.blocks.iter().map(ToString::to_string).collect();
            text.line(format!(
                "{}: {} wrong: {}",
                failure.path,
                count(failure.count, "block"),
                blocks.join(", ")
            ));
        }
    }
}

/// The word that JSON has for a value.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
