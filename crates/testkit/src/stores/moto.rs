//! moto, an emulator of S3. Its program creates conditionally in two steps, so it is started through a script that
//! serves one request at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::TestStore;
use super::child::{ServerProcess, must};
use crate::testbench::Testbench;

const SCRIPT: &str = include_str!("../tools/moto_serial.py");

/// A running moto with one bucket. It accepts any credentials and checks no checksum: no proof of either.
#[derive(Debug)]
pub struct Moto {
    server: ServerProcess,
}

impl Moto {
    /// Starts moto from the test bench and makes the bucket `bucket`.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> io::Result<Self> {
        let python = Testbench::locate()?.moto_python()?;
        let server = ServerProcess::start("moto", |port| {
            let mut command = Command::new(&python);
            command.args(["-c", SCRIPT, &port.to_string()]);
            command
        })?;
        must(server.address, "PUT /bucket HTTP/1.1", b"")?;
        Ok(Self { server })
    }

    /// Sends one request by its first line, such as `PUT /bucket?versioning HTTP/1.1`; nothing is signed.
    ///
    /// # Errors
    /// When it is not answered with success.
    pub fn ask(&self, line: &str, body: &[u8]) -> io::Result<()> {
        let address = self.server.address;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let length = body.len();
        let head =
            format!("{line}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let is_success = text.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        if is_success { Ok(()) } else { Err(io::Error::other(format!("{line}: {text}"))) }
    }

    /// URL and environment of a repository under `prefix`.
    #[must_use]
    pub fn store(&self, prefix: &str) -> TestStore {
        let environment = [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.server.address)),
            ("AWS_ACCESS_KEY_ID", "any".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "any".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        TestStore { url: format!("s3://bucket/{prefix}").trim_end_matches('/').to_owned(), environment }
    }
}
