//! `walden backup create`, `list` and `show`.

use serde::Serialize;
use walden_core::{BackupRecord, ErrorKind};
use walden_engine::load_snapshot;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::runtime;
use crate::session::Session;
use crate::text::{Align, Table, Text, count, duration, size};

/// One backup in `backup list`.
#[derive(Debug, Serialize)]
struct ListedBackup<'a> {
    #[serde(flatten)]
    record: &'a BackupRecord,
}

pub(super) fn list(session: &Session) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let snapshot = runtime::run(async {
        let record = session.incarnation(&ctx).await?;
        Ok(load_snapshot(&ctx, &record).await?)
    })?;
    let listed: Vec<ListedBackup<'_>> =
        snapshot.backups.iter().map(|record| ListedBackup { record }).collect();
    session.printer.report(&listed, |text| {
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

pub(super) fn show(session: &Session, id: &str) -> Result<Exit, Failure> {
    let ctx = session.context()?;
    let record = runtime::run(async {
        let incarnation = session.incarnation(&ctx).await?;
        let snapshot = load_snapshot(&ctx, &incarnation).await?;
        let found = match id {
            "latest" => snapshot.backups.last(),
            id => snapshot.backups.iter().find(|backup| backup.id.as_str() == id),
        };
        found.cloned().ok_or_else(|| {
            let unfinished = snapshot.unfinished_backups.iter().any(|unfinished| unfinished.as_str() == id);
            let state = if unfinished { " (it is unfinished)" } else { "" };
            Failure::new(ErrorKind::NotFound, format!("no such backup{state} id={id}"))
                .with_hint("walden backup list shows them")
        })
    })?;
    session.printer.report(&session.with_cost(&record, &ctx), |text| render(text, &record))?;
    session.note_cost(&ctx);
    Ok(Exit::Done)
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
