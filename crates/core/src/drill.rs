//! The evidence of a drill: a real restore, started and questioned, and what came of it.
//!
//! A record is written once and kept; it is read by later versions and by people's own tools, so every field that is
//! not sure to be known is optional, and unknown fields are ignored.

mod draw;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use walden_pg::{Lsn, TimelineId};

use crate::layout::{BackupId, Incarnation, ServerName};
use crate::records::Writer;
use crate::recovery::RecoveryTarget;

pub use draw::{Draw, draw_targets};

/// What came of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillOutcome {
    /// Restored, started, where the plan said, and every check held.
    Ok,
    /// The server came up where the plan said, and a check did not hold.
    ChecksFailed,
    /// Recovery stopped elsewhere than the plan said.
    StoppedElsewhere,
    /// There is no plan for the target.
    NoPlan,
    /// It took longer than it was given.
    TimedOut,
    /// Somebody ended it.
    Interrupted,
    /// It could not be carried out: what is stored is damaged, the server did not get to the target, or this host, the
    /// store or the network failed. The error's kind tells which.
    Failed,
}

impl DrillOutcome {
    /// The outcome in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ChecksFailed => "checks failed",
            Self::StoppedElsewhere => "stopped elsewhere than planned",
            Self::NoPlan => "no plan",
            Self::TimedOut => "took too long",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// What was to be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillTarget {
    /// `latest`, `immediate`, `time`, `lsn`, `xid` or `name`.
    pub kind: String,
    /// The time, the LSN, the transaction or the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether recovery stops just before it.
    #[serde(default)]
    pub exclusive: bool,
}

impl DrillTarget {
    /// A target as it is recorded.
    #[must_use]
    pub fn of(target: &RecoveryTarget, exclusive: bool) -> Self {
        let (kind, value) = match target {
            RecoveryTarget::Latest => ("latest", None),
            RecoveryTarget::Immediate => ("immediate", None),
            RecoveryTarget::Time(time) => ("time", Some(time.to_string())),
            RecoveryTarget::Lsn(lsn) => ("lsn", Some(lsn.to_string())),
            RecoveryTarget::Xid(xid) => ("xid", Some(xid.to_string())),
            RecoveryTarget::Name(name) => ("name", Some(name.clone())),
        };
        Self { kind: kind.to_owned(), value, exclusive }
    }

    /// As a person would say it.
    #[must_use]
    pub fn describe(&self) -> String {
        let value = self.value.as_deref().unwrap_or_default();
        let what = match self.kind.as_str() {
            "latest" => "the end of the archive".to_owned(),
            "immediate" => "the end of the backup".to_owned(),
            "time" => format!("time {value}"),
            "lsn" => format!("LSN {value}"),
            "xid" => format!("transaction {value}"),
            "name" => format!("restore point {value:?}"),
            other => format!("{other} {value}"),
        };
        if self.exclusive { format!("just before {what}") } else { what }
    }
}

/// Where a random target came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillDraw {
    /// The number that the moment was drawn with; the same seed over the same window gives the same moment.
    pub seed: u64,
    /// The first moment that could be drawn.
    pub from: Timestamp,
    /// The last one.
    pub to: Timestamp,
}

/// How long one part of a drill took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillPhase {
    /// `plan`, `fetch`, `replay`, `promote` or `checks`.
    pub name: String,
    /// In seconds.
    pub seconds: f64,
}

/// One check of a restored server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// Its name.
    pub name: String,
    /// False when it does not hold. A check that could not be made is `ok`, and `skipped`.
    pub ok: bool,
    /// What was seen, in words.
    pub detail: String,
    /// It was not made, or not to its end, and says nothing; the detail says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl DrillCheck {
    /// A check that was made.
    #[must_use]
    pub fn new(name: impl Into<String>, ok: bool, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok, detail: detail.into(), skipped: false, seconds: 0.0 }
    }

    /// A check that was not made.
    #[must_use]
    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { skipped: true, ..Self::new(name, true, why) }
    }
}

/// The backup that was restored, bound to its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillBackup {
    /// Its name.
    pub id: BackupId,
    /// When it ended, by the source's clock.
    pub finished_at: Timestamp,
    /// Plain bytes of all its files.
    pub bytes: u64,
    /// Bytes of its objects.
    pub stored_bytes: u64,
    /// SHA-256 of the bytes of `backup.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_sha256: Option<String>,
    /// SHA-256 of the manifest, which names the hash of every file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
}

/// A transaction's end, as far as evidence needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCommit {
    /// The low 32 bits of its number.
    pub xid: u32,
    /// Its commit time.
    pub at: Timestamp,
}

/// Where recovery was to stop, and where it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillStop {
    /// The end of the last record that was to be applied.
    pub expected_lsn: Lsn,
    /// The timeline of that position.
    pub expected_timeline: TimelineId,
    /// The last commit that was to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_last: Option<DrillCommit>,
    /// The first commit that was not to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_left_out: Option<DrillCommit>,
    /// The end of the last record applied, when the server could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_lsn: Option<Lsn>,
    /// The time of the last transaction that ended before the stop, as the server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_last_at: Option<Timestamp>,
    /// `as_planned`, `archive_grew`, `elsewhere` or `unknown`; absent when it did not come so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What was compared, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The programs that took part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillVersions {
    /// Walden.
    pub walden: String,
    /// The server that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<String>,
    /// The server that the backup was taken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Why a drill did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillError {
    /// The kind of error.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `drill/<id>.json`: everything that is known of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Its name: when it began.
    pub id: BackupId,
    /// The server.
    pub server: ServerName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The repository.
    pub repository_id: String,
    /// Whether everything went as it should.
    pub ok: bool,
    /// What came of it.
    pub outcome: DrillOutcome,
    /// What was to be reached.
    pub target: DrillTarget,
    /// Where a random target came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<DrillDraw>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over, the cleaning up excepted.
    pub finished_at: Timestamp,
    /// Its parts, in their order, as far as it came.
    pub phases: Vec<DrillPhase>,
    /// From the beginning until the server took connections at the target, open for writing.
    pub rto_seconds: Option<f64>,
    /// The moment that was wanted (for the end of the archive: of the beginning) less the last transaction that is
    /// there.
    pub rpo_seconds: Option<f64>,
    /// What was looked at.
    pub checks: Vec<DrillCheck>,
    /// The backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<DrillBackup>,
    /// Where recovery stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<DrillStop>,
    /// The recovery plan, as `walden plan --output json` gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    /// Bytes written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_bytes: Option<u64>,
    /// Segments that the server took from the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<u64>,
    /// The programs that took part.
    pub versions: DrillVersions,
    /// What a person should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why it did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<DrillError>,
    /// The last lines of the server's log, after a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Where the whole log was kept, on the host of the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_path: Option<String>,
    /// Who made it.
    pub writer: Writer,
}

impl DrillRecord {
    /// The seconds of a phase, when it came to it.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<f64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.seconds)
    }

    /// The checks that do not hold.
    pub fn failed_checks(&self) -> impl Iterator<Item = &DrillCheck> {
        self.checks.iter().filter(|check| !check.ok)
    }

    /// What came of it, in a sentence without a dot.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.outcome, &self.error) {
            (DrillOutcome::Ok, _) => format!("restored to {}", self.target.describe()),
            (DrillOutcome::ChecksFailed, _) => {
                let failed: Vec<&str> = self.failed_checks().map(|check| check.name.as_str()).collect();
                format!("checks failed: {}", failed.join(", "))
            }
            (outcome, Some(error)) => format!("{}: {}", outcome.describe(), error.message),
            (outcome, None) => outcome.describe().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_recorded_and_told() {
        let target = DrillTarget::of(&RecoveryTarget::Xid(742), true);
        assert_eq!((target.kind.as_str(), target.value.as_deref()), ("xid", Some("742")));
        assert_eq!(target.describe(), "just before transaction 742");
        assert_eq!(DrillTarget::of(&RecoveryTarget::Latest, false).describe(), "the end of the archive");
        assert_eq!(
            serde_json::to_value(DrillTarget::of(&RecoveryTarget::Latest, false)).unwrap(),
            serde_json::json!({"kind": "latest", "exclusive": false})
        );
    }

    #[test]
    fn a_record_of_a_later_version_with_more_in_it_is_read() {
        let text = r#"{"id":"20261120T103905Z-7f3a","server":"main","incarnation":"7401234567890123456-17",
            "repository_id":"x","ok":false,"outcome":"failed","target":{"kind":"moon","value":"full"},
            "started_at":"2026-11-20T10:39:05Z","finished_at":"2026-11-20T10:40:05Z","phases":[],"checks":[],
            "rto_seconds":null,"rpo_seconds":null,"versions":{"walden":"9"},"new":1,
            "error":{"kind":"corrupt","message":"no"},
            "writer":{"host":"h","instance":"i","version":"9","at":"2026-11-20T10:39:05Z"}}"#;
        let record: DrillRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.describe(), "failed: no");
        assert_eq!(record.target.describe(), "moon full");
        assert_eq!(record.phase("plan"), None);
    }
}
