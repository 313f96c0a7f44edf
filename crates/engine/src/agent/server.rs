//! The agent's socket: takes calls, says every second that it is at work on them, and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval_at, timeout};
use walden_core::ErrorKind;

use super::gets::Gets;
use super::lifecycle::Leaving;
use super::protocol::{
    Answer, Ask, Beat, Call, Caller, Farewell, Frame, FrameKind, HEAD_BYTES, Head, ProtocolError, Refusal,
    bare_frame, build, frame,
};
use super::push::Pusher;
use super::since_boot;
use super::status::AgentCounters;
use super::{StatusHandle, client::SILENCE_MAX};

/// How often a hook hears that the agent is at work.
const BEAT: Duration = Duration::from_secs(1);
/// More connections than this are not taken at once: PostgreSQL has one archiver and one startup process.
const CONNECTIONS_MAX: usize = 64;

/// What answers calls. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server(pub(super) Arc<ServerParts>);

/// What a [`Server`] works with.
pub(super) struct ServerParts {
    pub(super) caller: Caller,
    pub(super) on_demand: bool,
    pub(super) pusher: Pusher,
    pub(super) gets: Arc<Gets>,
    pub(super) counters: Arc<AgentCounters>,
    pub(super) status: StatusHandle,
    pub(super) leaving: Leaving,
    pub(super) calls: Calls,
    /// How long a limit of the rate may hold up a call.
    pub(super) at_rate: Duration,
}

/// The calls that are being answered, and when the last one was.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: AtomicU64,
    last_millis: AtomicU64,
}

impl Calls {
    pub(super) fn begun_now() -> Self {
        let calls = Self::default();
        calls.touch();
        calls
    }

    fn touch(&self) {
        let now = u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(now, Ordering::Relaxed);
    }

    /// Whether a call is being answered.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// For how long there was no call.
    pub(super) fn idle_for(&self) -> Duration {
        since_boot().saturating_sub(Duration::from_millis(self.last_millis.load(Ordering::Relaxed)))
    }
}

/// As long as a call is being answered.
struct Open<'a>(&'a Calls);

impl<'a> Open<'a> {
    fn new(calls: &'a Calls) -> Self {
        calls.open.fetch_add(1, Ordering::Relaxed);
        calls.touch();
        Self(calls)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Takes calls, for ever.
    pub(super) async fn run(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = server.serve(stream).await {
                            tracing::debug!(%error, "a call broke off");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly.
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: UnixStream) -> Result<(), ProtocolError> {
        let (peer, user) = (stream.peer_cred()?.uid(), nix::unistd::geteuid());
        if peer != user.as_raw() && peer != 0 {
            tracing::warn!(uid = peer, "a call of another user is not answered");
            return Ok(());
        }
        let received = timeout(SILENCE_MAX, receive(&mut stream)).await;
        let frame = received.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        match frame.kind {
            FrameKind::Leave | FrameKind::Stop => self.part(&mut stream, frame.kind).await,
            FrameKind::Call if frame.is_of(build()) => self.answer_call(&mut stream, &frame).await,
            FrameKind::Call => {
                tracing::info!(build = %frame.build, "a call of another build is refused");
                let refusal = Refusal { pid: std::process::id(), on_demand: self.0.on_demand };
                send(&mut stream, FrameKind::Refused, &refusal).await
            }
            _ => Ok(()),
        }
    }

    async fn part(&self, stream: &mut UnixStream, kind: FrameKind) -> Result<(), ProtocolError> {
        let on_demand = self.0.on_demand;
        let leaving = on_demand || kind == FrameKind::Stop;
        let sent =
            send(stream, FrameKind::Answer, &Farewell { pid: std::process::id(), on_demand, leaving }).await;
        if leaving {
            self.0.leaving.leave(if kind == FrameKind::Stop { "asked to stop" } else { "asked to leave" });
        }
        sent
    }

    async fn answer_call(&self, stream: &mut UnixStream, frame: &Frame) -> Result<(), ProtocolError> {
        let call: Call = frame.parse()?;
        let answer = match stranger(&self.0.caller, &call.caller) {
            Some(reason) => Answer::DoItYourself { reason: reason.to_owned() },
            None => match call.ask {
                // A status keeps nobody from being idle.
                Ask::Status => Answer::Status(Box::new(self.0.status.status())),
                ask => {
                    let _open = Open::new(&self.0.calls);
                    let Some(answer) = self.at_work(stream, self.work(ask)).await? else { return Ok(()) };
                    self.unless_settings_differ(answer, &call.caller)
                }
            },
        };
        send(stream, FrameKind::Answer, &answer).await
    }

    async fn work(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Push { name, file } => self.0.pusher.push(&name, file).await,
            Ask::Get(ask) => {
                let started = Instant::now();
                let answer = self.0.gets.get(ask).await;
                self.0.counters.get_calls.observe(started.elapsed());
                if let Answer::Failed(failure) = &answer {
                    self.0.counters.error(failure.kind);
                }
                answer
            }
            Ask::Status => Answer::Status(Box::new(self.0.status.status())),
        }
    }

    /// Waits for the answer and says meanwhile that it is being worked on; `None` when the hook is gone.
    async fn at_work(
        &self,
        stream: &mut UnixStream,
        work: impl Future<Output = Answer>,
    ) -> Result<Option<Answer>, ProtocolError> {
        let mut work = std::pin::pin!(work);
        let beat = self.beat()?;
        // A hook must know at once how long it is to wait.
        let first = if self.0.at_rate.is_zero() { BEAT } else { Duration::ZERO };
        let mut beats = interval_at(Instant::now() + first, BEAT);
        let mut nothing = [0; 1];
        loop {
            tokio::select! {
                biased;
                answer = &mut work => return Ok(Some(answer)),
                // A hook says nothing more; when it ends, the connection does.
                _ = stream.read(&mut nothing) => return Ok(None),
                _ = beats.tick() => write(stream, &beat).await?,
            }
        }
    }

    fn beat(&self) -> Result<Vec<u8>, ProtocolError> {
        let at_rate = self.0.at_rate;
        if at_rate.is_zero() {
            return Ok(bare_frame(FrameKind::Beat, build()));
        }
        let at_rate_ms = u64::try_from(at_rate.as_millis()).unwrap_or(u64::MAX);
        frame(FrameKind::Beat, build(), &Beat { at_rate_ms })
    }

    /// An agent with other settings may be refused where the hook would not be: then the hook tries itself.
    fn unless_settings_differ(&self, answer: Answer, caller: &Caller) -> Answer {
        let Answer::Failed(failure) = &answer else { return answer };
        if !may_be_of_settings(failure.kind) || caller.settings == self.0.caller.settings {
            return answer;
        }
        let reason = format!("the agent, whose settings are others, failed: {}", failure.message);
        if self.0.on_demand {
            // The hook's settings are newer: it may start one that has them.
            self.0.leaving.leave("the settings changed");
        }
        Answer::DoItYourself { reason }
    }
}

/// Whether other settings may lead to another end: also where the store was not reached, or was found empty, which
/// certificates, timeouts and regions decide.
fn may_be_of_settings(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Denied
            | ErrorKind::Config
            | ErrorKind::Unsupported
            | ErrorKind::Unavailable
            | ErrorKind::NotFound
    )
}

/// Why a caller is not served, if so.
fn stranger(ours: &Caller, theirs: &Caller) -> Option<&'static str> {
    if ours.repository != theirs.repository {
        Some("the agent is of another repository")
    } else if ours.server != theirs.server {
        Some("the agent is of another server")
    } else if ours.data_directory != theirs.data_directory {
        Some("the agent sees another data directory at this path")
    } else {
        None
    }
}

async fn receive(stream: &mut UnixStream) -> Result<Frame, ProtocolError> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let head = Head::parse(&head)?;
    let mut rest = Vec::new();
    stream.take(head.rest_bytes() as u64).read_to_end(&mut rest).await?;
    head.with_rest(rest)
}

async fn send(stream: &mut UnixStream, kind: FrameKind, body: &impl Serialize) -> Result<(), ProtocolError> {
    write(stream, &frame(kind, build(), body)?).await
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> Result<(), ProtocolError> {
    let written = timeout(SILENCE_MAX, stream.write_all(bytes)).await;
    written.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    Ok(())
}
