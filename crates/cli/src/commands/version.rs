//! `walden version`.

use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// The version of the repository's format that is written.
const FORMAT: u32 = 1;
const POSTGRESQL: [u16; 6] = [13, 14, 15, 16, 17, 18];

#[derive(Debug, Serialize)]
struct VersionReport {
    schema: u32,
    version: &'static str,
    format: u32,
    postgresql: [u16; 6],
    features: Vec<&'static str>,
}

pub(super) fn run(session: &Session) -> Result<Exit, Failure> {
    let features: &[&str] = if cfg!(feature = "aws-sdk") { &["aws-sdk"] } else { &[] };
    let report = VersionReport {
        schema: 1,
        version: env!("CARGO_PKG_VERSION"),
        format: FORMAT,
        postgresql: POSTGRESQL,
        features: features.to_vec(),
    };
    session.printer.report(&report, |text| {
        let majors: Vec<String> = report.postgresql.iter().map(ToString::to_string).collect();
        text.facts(&[
            ("walden", report.version.to_owned()),
            ("repository format", report.format.to_string()),
            ("PostgreSQL", majors.join(", ")),
        ]);
        if !report.features.is_empty() {
            text.facts(&[("features", report.features.join(", "))]);
        }
    })?;
    Ok(Exit::Done)
}
