//! `walden config show`.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::ShownSetting;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::text::{Align, Table};

#[derive(Debug, Serialize)]
struct ConfigReport {
    schema: u32,
    files: Vec<PathBuf>,
    settings: Vec<ShownSetting>,
    warnings: Vec<String>,
}

pub(super) fn show(session: &Session) -> Result<Exit, Failure> {
    let effective = &session.effective;
    let report = ConfigReport {
        schema: 1,
        files: effective.files.clone(),
        settings: effective.shown(),
        warnings: effective.warnings.clone(),
    };
    for warning in &report.warnings {
        session.printer.warning(warning);
    }
    session.printer.report(&report, |text| {
        let mut table =
            Table::new(&[("SETTING", Align::Left), ("VALUE", Align::Left), ("COMES FROM", Align::Left)]);
        for setting in &report.settings {
            let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), str::to_owned);
            table.row([setting.name.clone(), value, setting.origin.to_string()]);
        }
        text.table(&table);
        let files: Vec<String> = report.files.iter().map(|path| path.display().to_string()).collect();
        text.gap();
        let files = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
        text.line(format!("configuration files read: {files}"));
    })?;
    Ok(Exit::Done)
}
