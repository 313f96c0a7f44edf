//! The settings of drills.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use walden_engine::drill::{DRILL_MAX_AGE, DRILL_TIMEOUT};

use super::values::Span;

/// Settings of `walden drill`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrillConfig {
    /// The directory in which each drill makes its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<PathBuf>,
    /// The directory of the server's programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pg_bin: Option<PathBuf>,
    /// A file of assertions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sql: Option<PathBuf>,
    /// The database that they are made in.
    pub(crate) database: String,
    /// The account to run the server as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The role to ask as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
    /// How long everything may take.
    pub(crate) timeout: Span,
    /// How old the newest good drill may be until `walden check` warns.
    pub(crate) max_age: Span,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self {
            directory: None,
            pg_bin: None,
            sql: None,
            database: "postgres".to_owned(),
            user: None,
            role: None,
            timeout: Span(DRILL_TIMEOUT),
            max_age: Span(DRILL_MAX_AGE),
        }
    }
}
