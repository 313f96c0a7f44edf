//! A store that is far away: a TCP proxy on loopback that holds every answer back for a while.
//!
//! Whenever the far side begins to answer what this side has sent, the answer waits; what follows of it flows as fast as
//! it comes. So a request costs its delay once, whatever its size, requests on several connections wait side by side,
//! and bandwidth is not limited. It knows nothing of HTTP: a client that asks for `100 Continue` waits twice, as it
//! would.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A running proxy; it takes no new connections once this is dropped.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl DelayProxy {
    /// Starts a proxy to `target` on a free port of loopback.
    ///
    /// # Errors
    /// When no port can be bound or no thread started.
    pub fn start(target: SocketAddr, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&turns));
        let thread = std::thread::Builder::new().name("delay-proxy".to_owned()).spawn(move || {
            for near in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that can't be passed on is closed, which the client sees.
                let Ok(near) = near else { continue };
                let Ok(far) = TcpStream::connect(target) else { continue };
                let _ = pass_on(near, far, delay, Arc::clone(&counted));
            }
        })?;
        Ok(Self { address, stop, turns, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers held back up to now.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the two directions of one connection.
fn pass_on(near: TcpStream, far: TcpStream, delay: Duration, turns: Arc<AtomicU64>) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let asked = Arc::new(AtomicBool::new(false));
    let (mut from_near, mut to_far) = (near.try_clone()?, far.try_clone()?);
    let (mut from_far, mut to_near) = (far, near);
    let asking = Arc::clone(&asked);
    std::thread::Builder::new().name("delay-up".to_owned()).spawn(move || {
        let _ = copy(&mut from_near, &mut to_far, || asking.store(true, Ordering::SeqCst));
        let _ = to_far.shutdown(Shutdown::Write);
    })?;
    std::thread::Builder::new().name("delay-down".to_owned()).spawn(move || {
        let _ = copy(&mut from_far, &mut to_near, || {
            if asked.swap(false, Ordering::SeqCst) {
                turns.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(delay);
            }
        });
        let _ = to_near.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

/// Copies to the end; `before` is called between reading a piece and writing it.
fn copy(from: &mut TcpStream, to: &mut TcpStream, mut before: impl FnMut()) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        before();
        to.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Answers every line with as many bytes as it says.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut line = Vec::new();
                    let mut byte = [0];
                    while stream.read(&mut byte).unwrap() == 1 {
                        if byte == *b"\n" {
                            let wanted = String::from_utf8(std::mem::take(&mut line)).unwrap();
                            stream.write_all(&vec![7; wanted.parse().unwrap()]).unwrap();
                        } else {
                            line.push(byte[0]);
                        }
                    }
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, bytes: usize) {
        stream.write_all(format!("{bytes}\n").as_bytes()).unwrap();
        let mut answer = vec![0; bytes];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn every_request_waits_once_whatever_its_size() {
        let delay = Duration::from_millis(30);
        let proxy = DelayProxy::start(server(), delay).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let begun = Instant::now();
        for bytes in [1, 8 << 20, 100] {
            ask(&mut stream, bytes);
        }
        assert!(begun.elapsed() >= 3 * delay, "{:?}", begun.elapsed());
        assert_eq!(proxy.turns(), 3, "the many pieces of the large answer wait once");
    }

    #[test]
    fn the_end_of_a_connection_is_passed_on() {
        let proxy = DelayProxy::start(server(), Duration::ZERO).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        ask(&mut stream, 10);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    }
}
