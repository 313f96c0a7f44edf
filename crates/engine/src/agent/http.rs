//! Metrics and health over HTTP, for those who asked for them: `GET /metrics` and `GET /healthz`.
//!
//! Whoever can reach the address can read them, so nothing in them is secret; and can waste no more than a few
//! connections of a few seconds each: a connection serves one request, its head is bounded in time and size, and it may
//! have no body. The work of the agent does not wait for any of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use walden_core::ErrorKind;

use super::status::AgentStatus;
use super::{AgentOptions, metrics};
use crate::error::{EngineError, Result};

/// Archiving that did not get on for this long is not healthy, unless set.
pub const UNHEALTHY_AFTER_DEFAULT: Duration = Duration::from_mins(10);
/// More connections at once are closed as they come.
const CONNECTIONS_MAX: usize = 16;
/// The head of a request must arrive within this time.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A connection ends after this time, whatever it is doing.
const CONNECTION_WITHIN: Duration = Duration::from_secs(15);
/// The head of a request has at most so many bytes …
const HEAD_BYTES_MAX: usize = 16 << 10;
/// … and so many lines.
const HEAD_LINES_MAX: usize = 64;
/// The pause when no connection can be taken: mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens where the options say. An agent that a hook started is worth more than its metrics, and goes without when the
/// address can't be had.
///
/// # Errors
/// As [`HttpListener::bind`].
pub(super) async fn listen(options: &AgentOptions) -> Result<Option<HttpListener>> {
    let Some(address) = options.metrics else { return Ok(None) };
    match HttpListener::bind(address, options.unhealthy_after).await {
        Ok(listener) => {
            let address = listener.address().unwrap_or(address);
            tracing::info!(%address, "metrics are served");
            Ok(Some(listener))
        }
        Err(error) if options.on_demand => {
            tracing::warn!(%error, "there are no metrics of this agent");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Tells the status at the moment of a request.
pub(super) type StatusSource = Arc<dyn Fn() -> AgentStatus + Send + Sync>;

/// An address that is listened on.
#[derive(Debug)]
pub(super) struct HttpListener {
    listener: TcpListener,
    unhealthy_after: Duration,
}

impl HttpListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// Kind `config` when the address can't be had.
    pub(super) async fn bind(address: SocketAddr, unhealthy_after: Duration) -> Result<Self> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|error| {
            let message = format!("cannot listen for metrics address={address}: {error}");
            EngineError::failed(ErrorKind::Config, message)
                .with_hint("another process may listen there: give another address, or none")
        })?;
        Ok(Self { listener, unhealthy_after })
    }

    /// Where it listens: the port that was chosen, when 0 was asked for.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves, for ever.
    pub(super) async fn serve(self, source: StatusSource) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot take a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (source, unhealthy_after) = (Arc::clone(&source), self.unhealthy_after);
            tokio::spawn(async move {
                let served =
                    tokio::time::timeout(CONNECTION_WITHIN, connection(stream, source, unhealthy_after));
                match served.await {
                    Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke off"),
                    Err(_) => tracing::debug!("a connection for metrics took too long"),
                    Ok(Ok(())) => {}
                }
                drop(place);
            });
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    source: StatusSource,
    unhealthy_after: Duration,
) -> std::result::Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &source, unhealthy_after);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(HEAD_LINES_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer<B: Body>(
    request: &Request<B>,
    source: &StatusSource,
    unhealthy_after: Duration,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !request.body().is_end_stream() {
        return response(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "a request has no body here\n".to_owned());
    }
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz") {
        return response(StatusCode::NOT_FOUND, TEXT, "there are /metrics and /healthz\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let status = source();
    if path == "/metrics" {
        return response(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&status));
    }
    let health = health(&status, unhealthy_after);
    let code = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(code, TEXT, health.text)
}

fn response(code: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether archiving gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Health {
    healthy: bool,
    /// Why, in lines.
    text: String,
}

/// Judges by two things: how long the oldest file has been waiting, and for how long pushes have been failing. An agent
/// for which nothing waits is healthy.
fn health(status: &AgentStatus, unhealthy_after: Duration) -> Health {
    let push = &status.push;
    let limit = unhealthy_after.as_secs_f64();
    let mut reasons = Vec::new();
    if push.queue_files > 0 && push.unarchived_seconds > limit {
        let (files, waited) = (push.queue_files, push.unarchived_seconds);
        reasons.push(format!("files wait to be archived: {files}, the oldest for {waited:.0} s"));
    }
    // What failed since the last success, while there was none for long.
    let since_success = push.last_archived.as_ref().map_or(status.uptime_seconds, |last| last.seconds_ago);
    let failed = push
        .last_failure
        .as_ref()
        .filter(|failure| push.last_archived.as_ref().is_none_or(|archived| archived.at <= failure.at));
    if let Some(failure) = failed.filter(|_| push.queue_files > 0 && since_success > limit) {
        let (name, message) = (&failure.name, &failure.failure.message);
        reasons.push(format!("nothing was archived for {since_success:.0} s; {name} failed: {message}"));
    }
    if reasons.is_empty() {
        let text = match push.queue_files {
            0 => "ok: nothing waits to be archived\n".to_owned(),
            files => format!(
                "ok: files wait to be archived: {files}, the oldest for {:.0} s\n",
                push.unarchived_seconds
            ),
        };
        return Health { healthy: true, text };
    }
    let pressure = status.pressure.as_ref().map(|pressure| pressure.detail.clone());
    let text = reasons.into_iter().chain(pressure).map(|line| one_line(&line)).collect();
    Health { healthy: false, text }
}

/// One line, whatever an error said.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::agent::protocol::AgentFailure;
    use crate::agent::status::{LastArchived, LastFailure};

    /// The status of an agent that has been running for a day.
    fn status() -> AgentStatus {
        let text = include_str!("http/status.json");
        serde_json::from_str(text).unwrap()
    }

    fn archived(at: i64, seconds_ago: f64) -> LastArchived {
        let (at, name) = (Timestamp::from_second(at).unwrap(), "000000010000000000000007".to_owned());
        LastArchived { name, at, seconds_ago, bytes: 1 << 24, stored_bytes: 1 << 20, level: 1 }
    }

    fn failed(at: i64) -> LastFailure {
        let failure = AgentFailure {
            kind: ErrorKind::Denied,
            message: "could not write\nthe object".to_owned(),
            causes: Vec::new(),
            hint: None,
        };
        let (at, name) = (Timestamp::from_second(at).unwrap(), "000000010000000000000008".to_owned());
        LastFailure { name, at, failure }
    }

    const LIMIT: Duration = Duration::from_mins(10);

    #[test]
    fn nothing_waiting_is_healthy_whatever_failed_once() {
        let mut status = status();
        assert!(health(&status, LIMIT).healthy);
        status.push.last_failure = Some(failed(1000));
        status.push.last_archived = Some(archived(500, 9999.0));
        assert_eq!(health(&status, LIMIT).text, "ok: nothing waits to be archived\n");
    }

    #[test]
    fn a_file_that_waits_too_long_is_not_healthy() {
        let mut status = status();
        (status.push.queue_files, status.push.unarchived_seconds) = (3, 600.0);
        let calm = health(&status, LIMIT);
        assert!(calm.healthy);
        assert_eq!(calm.text, "ok: files wait to be archived: 3, the oldest for 600 s\n");
        status.push.unarchived_seconds = 601.0;
        let health = health(&status, LIMIT);
        assert!(!health.healthy);
        assert_eq!(health.text, "files wait to be archived: 3, the oldest for 601 s\n");
    }

    #[test]
    fn pushes_that_fail_for_long_are_not_healthy_and_the_body_says_why() {
        let mut status = status();
        // The clock was set back: the dates of files say nothing.
        (status.push.queue_files, status.push.unarchived_seconds) = (1, 0.0);
        status.push.last_archived = Some(archived(500, 601.0));
        assert!(health(&status, LIMIT).healthy);
        status.push.last_failure = Some(failed(1000));
        let unhealthy = health(&status, LIMIT);
        assert!(!unhealthy.healthy);
        assert_eq!(
            unhealthy.text,
            "nothing was archived for 601 s; 000000010000000000000008 failed: could not write the object\n"
        );
        // It failed before the last success, or the last success is not long ago, or there was none yet.
        status.push.last_failure = Some(failed(400));
        assert!(health(&status, LIMIT).healthy);
        status.push.last_failure = Some(failed(1000));
        status.push.last_archived = Some(archived(500, 599.0));
        assert!(health(&status, LIMIT).healthy);
        status.push.last_archived = None;
        assert!(!health(&status, LIMIT).healthy, "running for a day, and nothing archived");
        status.uptime_seconds = 5.0;
        assert!(health(&status, LIMIT).healthy);
    }

    /// What a connection answers to `request`, of which the client then sends nothing more.
    async fn ask(request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let served = tokio::spawn(connection(server, Arc::new(status), LIMIT));
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let _ = served.await.unwrap();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_answered_once_and_without_a_body() {
        let metrics =
            ask("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(
            metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
        );
        assert_eq!(metrics.matches("HTTP/1.1").count(), 1);
        assert!(metrics.ends_with("# EOF\n"));
        let head = ask("HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for (request, code) in [
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", 404),
            ("DELETE /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 405),
            ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", 413),
            ("GET /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", 413),
            ("nonsense\r\n\r\n", 400),
        ] {
            let answer = ask(request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
        }
        let huge =
            format!("GET /metrics HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert!(ask(&huge).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_request_is_sent_away() {
        // On the paused clock this ends only because the head has a deadline.
        for request in ["", "GET /metrics HTTP/1.1\r\nhost: "] {
            assert!(!ask(request).await.contains("200 OK"), "{request}");
        }
    }
}
