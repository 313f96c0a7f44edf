//! Azurite, Microsoft's emulator of Azure Blob Storage.

use std::io;
use std::process::Command;

use super::TestStore;
use super::child::{ServerProcess, must};
use crate::testbench::Testbench;

/// A signature over "account devstoreaccount1 may do everything until 2049", made once with the emulator's public
/// key, so that the container can be made with one plain request.
const CREATE_CONTAINER: &str = "PUT /devstoreaccount1/container?restype=container&sv=2019-12-12&ss=b&srt=sco&\
    sp=rwdlac&st=2020-01-01T00%3A00%3A00Z&se=2049-12-31T00%3A00%3A00Z&spr=https%2Chttp&sig=C1GFa6YApTajcHC8mGDc8r77Oe6kJrKtsxGyLoL6P4U%3D HTTP/1.1";

/// A running Azurite with one container.
#[derive(Debug)]
pub struct Azurite {
    server: ServerProcess,
    _directory: tempfile::TempDir,
}

impl Azurite {
    /// Starts Azurite from the test bench and makes the container `container`.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> io::Result<Self> {
        let program = Testbench::locate()?.azurite_blob()?;
        let directory = tempfile::tempdir()?;
        let server = ServerProcess::start("Azurite", |port| {
            let mut command = Command::new(&program);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"]);
            command.arg(directory.path()).args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"]);
            command
        })?;
        must(server.address, CREATE_CONTAINER, b"x-ms-version: 2019-12-12\r\n")?;
        Ok(Self { server, _directory: directory })
    }

    /// URL and environment of a repository under `prefix`.
    #[must_use]
    pub fn store(&self, prefix: &str) -> TestStore {
        let environment = [
            ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
            ("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.server.address)),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        TestStore { url: format!("az://container/{prefix}").trim_end_matches('/').to_owned(), environment }
    }
}
