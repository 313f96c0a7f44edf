//! A stand-in for Google Cloud Storage's XML API.
//!
//! No emulator speaks that API. The script beside this file answers the requests that our client sends, as Google
//! documents them: it proves our requests, not Google's behaviour.

use std::io::{self, Write};
use std::process::Command;

use super::TestStore;
use super::child::ServerProcess;

const SCRIPT: &str = include_str!("gcs_stand_in.py");

/// A running stand-in with one bucket, in memory.
#[derive(Debug)]
pub struct GcsStandIn {
    server: ServerProcess,
    _script: tempfile::NamedTempFile,
}

impl GcsStandIn {
    /// Starts the stand-in with the bucket `bucket`; it needs Python and nothing else.
    ///
    /// # Errors
    /// When there is no Python or it does not start.
    pub fn start() -> io::Result<Self> {
        let mut script = tempfile::NamedTempFile::new()?;
        script.write_all(SCRIPT.as_bytes())?;
        let server = ServerProcess::start("the GCS stand-in", |port| {
            let mut command = Command::new("python3");
            command.arg(script.path()).args([&port.to_string(), "bucket"]);
            command
        })?;
        Ok(Self { server, _script: script })
    }

    /// URL and environment of a repository under `prefix`.
    #[must_use]
    pub fn store(&self, prefix: &str) -> TestStore {
        let key = serde_json::json!({
            "private_key": "x",
            "private_key_id": "x",
            "client_email": "test@example.com",
            "disable_oauth": true,
            "gcs_base_url": format!("http://{}", self.server.address),
        });
        TestStore {
            url: format!("gs://bucket/{prefix}").trim_end_matches('/').to_owned(),
            environment: vec![("GOOGLE_SERVICE_ACCOUNT_KEY".to_owned(), key.to_string())],
        }
    }
}
