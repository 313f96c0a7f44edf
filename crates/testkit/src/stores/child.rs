//! Servers that are programs: a free port, a wait until they answer, an end when the test ends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that does not answer after this long is given up.
const START_MAX: Duration = Duration::from_mins(1);

/// A server program; killed when dropped.
#[derive(Debug)]
pub(super) struct ServerProcess {
    child: Child,
    pub(super) address: SocketAddr,
    log: tempfile::NamedTempFile,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl ServerProcess {
    /// Starts what `command` makes for a port, and waits until it answers HTTP there.
    pub(super) fn start(name: &str, command: impl Fn(u16) -> Command) -> io::Result<Self> {
        let port = free_port()?;
        let log = tempfile::NamedTempFile::new()?;
        let child = command(port)
            .stdin(Stdio::null())
            .stdout(log.reopen()?)
            .stderr(log.reopen()?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("could not start {name}: {error}")))?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), log };
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "{name} ended at once: {status}\n{}",
                    server.log_text()
                )));
            }
            if request(server.address, "GET / HTTP/1.1", b"").is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        Err(io::Error::other(format!("{name} did not answer in time\n{}", server.log_text())))
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }
}

/// Sends one request and returns the status of its answer.
pub(super) fn request(address: SocketAddr, line: &str, headers: &[u8]) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        format!("{line}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n").as_bytes(),
    )?;
    stream.write_all(headers)?;
    stream.write_all(b"\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other("no HTTP answer"))
}

/// As [`request`], and the answer must be a success.
pub(super) fn must(address: SocketAddr, line: &str, headers: &[u8]) -> io::Result<()> {
    match request(address, line, headers)? {
        200..=299 => Ok(()),
        status => Err(io::Error::other(format!("{line}: HTTP {status}"))),
    }
}
