//! The HTTP client under the cloud stores: counts every request and remembers how each one ended.
//!
//! object_store folds statuses and transport errors into a few variants and a text. Here, under it, both are still
//! known, so that failures are classified by what happened and not by what a message looks like.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_RANGE, DATE, RANGE};
use http::{HeaderMap, Method, Uri};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use tower_http::follow_redirect::RequestUri;

use crate::counters::{Counters, Operation};
use crate::error::one_line;
use crate::odd::without_odd_names;
use crate::paced::PacedClient;

/// Bodies of error answers are read up to this many bytes.
const ERROR_BODY_BYTES_MAX: usize = 16 << 10;
/// A page of a listing has a thousand entries (Azure's has five thousand) of one or two KiB at most.
const PAGE_BYTES_MAX: usize = 64 << 20;

tokio::task_local! {
    /// The trace of the try that is running.
    pub(crate) static TRACE: Arc<Trace>;
}

/// How the requests of one try went; the last one counts.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    state: Mutex<TraceState>,
    /// How long a limit of the rate held up the try, in nanoseconds.
    waited_nanos: AtomicU64,
}

/// What [`Trace`] remembers.
#[derive(Debug, Default, Clone)]
pub(crate) struct TraceState {
    /// The last status, when there was an answer.
    pub(crate) status: Option<u16>,
    /// The error code in the last answer.
    pub(crate) code: Option<String>,
    /// The message in the last answer.
    pub(crate) message: Option<String>,
    /// How the last request failed on the way.
    pub(crate) transport: Option<(HttpErrorKind, String)>,
    /// The last request asked for credentials, not for data.
    pub(crate) credentials: bool,
    /// And it asked the machine's own metadata server, which is the last resort where nothing is configured.
    pub(crate) metadata_server: bool,
    /// It asked for a part of an object that begins behind the object's end, and yet was answered with success.
    pub(crate) behind_end: bool,
    /// The last request for data was answered by another place than was asked.
    pub(crate) redirected: bool,
    /// A request for data may have reached the store.
    pub(crate) sent: bool,
    /// The time in the last answer.
    pub(crate) date: Option<Timestamp>,
}

impl Trace {
    fn update(&self, change: impl FnOnce(&mut TraceState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn state(&self) -> TraceState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long a limit of the rate held up the try; what is booked but not yet waited for included.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed))
    }
}

fn trace(change: impl FnOnce(&mut TraceState)) {
    // Outside of a try there is nobody who would ask.
    let _ = TRACE.try_with(|trace| trace.update(change));
}

/// Tells a try that a limit of the rate holds it up for `wait`: the one given, else the one that is running.
pub(crate) fn record_wait(trace: Option<&Trace>, wait: Duration) {
    let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
    let add = |trace: &Trace| trace.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    match trace {
        Some(trace) => drop(add(trace)),
        None => drop(TRACE.try_with(|trace| add(trace))),
    }
}

/// Makes the clients of one store.
#[derive(Debug)]
pub(crate) struct CountingConnector {
    pub(crate) counters: Arc<Counters>,
    /// The bucket or container: a request that names it is for data, any other for credentials.
    pub(crate) bucket: String,
    /// Sends and receives data at a limited rate; `None` without a limit.
    pub(crate) paced: Option<PacedClient>,
}

impl HttpConnector for CountingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(CountingService {
            inner: ReqwestConnector::default().connect(options)?,
            counters: Arc::clone(&self.counters),
            bucket: self.bucket.clone(),
            encoded_bucket: percent_encoded(&self.bucket),
            paced: self.paced.clone(),
        }))
    }
}

#[derive(Debug)]
struct CountingService {
    inner: HttpClient,
    counters: Arc<Counters>,
    bucket: String,
    encoded_bucket: String,
    paced: Option<PacedClient>,
}

/// As it stands in the path of a request to Google: everything but letters and digits is encoded.
fn percent_encoded(name: &str) -> String {
    let encoded = name.bytes().map(|b| match b {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    encoded.collect()
}

impl CountingService {
    /// Is the request for the bucket: by a path that begins with it (after the account, on Azure's emulator), or
    /// by a host that does?
    fn is_for_data(&self, uri: &Uri) -> bool {
        let is_bucket = |part: &str| part == self.bucket || part == self.encoded_bucket;
        let named_in_path = uri.path().split('/').skip(1).take(2).any(is_bucket);
        let host = uri.host().unwrap_or_default();
        named_in_path || host.strip_prefix(&self.bucket).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The link-local addresses and names under which the clouds' machines find their own metadata.
fn is_metadata_server(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    host.starts_with("169.254.") || host.starts_with("[fd00:ec2:") || host.starts_with("metadata")
}

/// What a request for data does, by its method and query.
fn operation(method: &Method, uri: &Uri) -> Operation {
    let query = uri.query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match *method {
        Method::PUT => Operation::Put,
        Method::GET if has("list-type") || has("restype") => Operation::List,
        Method::GET if has("uploads") => Operation::List,
        Method::GET if has("versioning") || has("object-lock") || has("lifecycle") => Operation::Other,
        Method::GET => Operation::Get,
        Method::HEAD => Operation::Head,
        Method::DELETE => Operation::Delete,
        Method::POST if has("delete") || has("comp") => Operation::Delete,
        _ => Operation::Other,
    }
}

#[async_trait]
impl HttpService for CountingService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let data = self.is_for_data(request.uri());
        let operation = if data { operation(request.method(), request.uri()) } else { Operation::Other };
        let bytes = request.body().content_length() as u64;
        self.counters.request(operation, 0);
        let metadata_server = !data && is_metadata_server(request.uri());
        trace(|state| {
            let sent = state.sent || data;
            *state = TraceState { credentials: !data, metadata_server, sent, ..TraceState::default() };
        });
        let range_start = range_start(request.headers());
        let asked = request.uri().clone();
        let answer = match self.paced.as_ref().filter(|_| data) {
            Some(paced) => paced.call(request).await,
            None => self.inner.execute(request).await,
        };
        if answer.is_ok() {
            // Counted when they are answered: with a limit of the rate, or a store that stalls, sending takes its time.
            self.counters.sent(operation, bytes);
        }
        match answer {
            Ok(response) if data && is_redirected(&asked, &response) => {
                self.counters.error(operation);
                trace(|state| state.redirected = true);
                let refused = std::io::Error::other("the endpoint redirected the request to another place");
                Err(HttpError::new(HttpErrorKind::Unknown, refused))
            }
            Ok(response) => {
                // Azurite's answer to this can't be taken apart; the services say 416.
                let behind_end =
                    range_start.zip(object_bytes(&response)).is_some_and(|(start, size)| size <= start);
                let date = date(&response);
                trace(|state| {
                    state.behind_end = response.status() == 206 && behind_end;
                    state.date = date;
                });
                self.answered(operation, response).await
            }
            Err(error) => {
                self.counters.error(operation);
                let text = chain(&error);
                trace(|state| state.transport = Some((error.kind(), text)));
                Err(error)
            }
        }
    }
}

impl CountingService {
    async fn answered(
        &self,
        operation: Operation,
        response: HttpResponse,
    ) -> Result<HttpResponse, HttpError> {
        let status = response.status().as_u16();
        trace(|state| state.status = Some(status));
        let (parts, body) = response.into_parts();
        if status == 200 && operation == Operation::List {
            return self.listed(operation, parts, body).await;
        }
        if status < 400 {
            let body = CountingBody { inner: body, counters: Arc::clone(&self.counters), operation };
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        if !matches!(status, 404 | 409 | 412 | 416) {
            self.counters.error(operation);
        }
        let bytes = read_error_body(body).await;
        self.counters.received(operation, bytes.len() as u64);
        // A text by all means: object_store gives up on an answer whose body is not.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let header = parts.headers.get("x-ms-error-code").and_then(|value| value.to_str().ok());
        let code = element(&text, "Code").or(header).map(|code| one_line(code, 80));
        let message = element(&text, "Message").map(|message| one_line(message, 160));
        trace(|state| (state.code, state.message) = (code, message));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(text)))
    }
}

impl CountingService {
    /// A page of a listing, without the names that object_store would give up on.
    async fn listed(
        &self,
        operation: Operation,
        parts: http::response::Parts,
        body: HttpResponseBody,
    ) -> Result<HttpResponse, HttpError> {
        let mut page = Vec::new();
        let mut stream = body.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.inspect_err(|error| {
                self.counters.error(operation);
                let text = chain(error);
                trace(|state| state.transport = Some((error.kind(), text)));
            })?;
            self.counters.received(operation, chunk.len() as u64);
            page.extend_from_slice(&chunk);
            if page.len() > PAGE_BYTES_MAX {
                let refused = std::io::Error::other("a page of a listing has no end");
                return Err(HttpError::new(HttpErrorKind::Decode, refused));
            }
        }
        let body = match std::str::from_utf8(&page).ok().and_then(without_odd_names) {
            Some((left, names)) => {
                self.counters.note_odd_names(names);
                HttpResponseBody::from(left)
            }
            None => HttpResponseBody::from(page),
        };
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// Did somebody else answer than was asked? The client follows redirects, and makes a GET of a PUT on its way: a page
/// behind a login would be a write acknowledged. An answer that does not say where it comes from counts as such.
fn is_redirected(asked: &Uri, response: &HttpResponse) -> bool {
    let parse = |uri: &Uri| url::Url::parse(&uri.to_string()).ok();
    let answered = response.extensions().get::<RequestUri>().and_then(|uri| parse(&uri.0));
    answered.is_none() || answered != parse(asked)
}

/// The first byte that a request asks for.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    range.split('-').next()?.parse().ok()
}

/// The size of the whole object, as the answer to a request for a part tells it.
fn object_bytes(response: &HttpResponse) -> Option<u64> {
    response.headers().get(CONTENT_RANGE)?.to_str().ok()?.rsplit('/').next()?.parse().ok()
}

/// The time that an answer carries.
fn date(response: &HttpResponse) -> Option<Timestamp> {
    let text = response.headers().get(DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// As much of an error's body as arrives and fits.
async fn read_error_body(body: HttpResponseBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stream = body.bytes_stream();
    while let Some(Ok(chunk)) = stream.next().await {
        let room = ERROR_BODY_BYTES_MAX - bytes.len();
        bytes.extend(chunk.iter().take(room));
        if bytes.len() == ERROR_BODY_BYTES_MAX {
            break;
        }
    }
    bytes
}

/// The text of the first XML element `name`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    (!text.trim().is_empty()).then_some(text)
}

/// The messages of an error and of its sources, each only once: "error sending request: connection refused".
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        if text.is_empty() {
            text = message;
        } else if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = error.source();
    }
    one_line(text.trim_start_matches("HTTP error: "), 300)
}

/// A body that counts what is read of it.
#[derive(Debug)]
struct CountingBody {
    inner: HttpResponseBody,
    counters: Arc<Counters>,
    operation: Operation,
}

impl Body for CountingBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.counters.received(self.operation, bytes as u64);
            }
            Poll::Ready(Some(Err(error))) => {
                self.counters.error(self.operation);
                let text = chain(error);
                trace(|state| state.transport = Some((error.kind(), text)));
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(bucket: &str) -> CountingService {
        #[derive(Debug)]
        struct Nothing;
        #[async_trait]
        impl HttpService for Nothing {
            async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
                unreachable!("not called in these tests")
            }
        }
        CountingService {
            inner: HttpClient::new(Nothing),
            counters: Arc::default(),
            bucket: bucket.to_owned(),
            encoded_bucket: percent_encoded(bucket),
            paced: None,
        }
    }

    #[test]
    fn requests_for_data_and_for_credentials_are_told_apart() {
        let data = |uri: &str| service("backups").is_for_data(&uri.parse().unwrap());
        assert!(data("http://127.0.0.1:9000/backups/prefix/key"));
        assert!(data("https://s3.eu-west-1.amazonaws.com/backups?list-type=2"));
        assert!(data("https://backups.s3.eu-west-1.amazonaws.com/key"));
        assert!(data("http://127.0.0.1:10000/devstoreaccount1/backups/key"));
        assert!(service("my-bucket").is_for_data(&"http://127.0.0.1:1/my%2Dbucket/key".parse().unwrap()));
        assert!(!data("http://169.254.169.254/latest/api/token"));
        assert!(!data("https://sts.eu-west-1.amazonaws.com/?Action=AssumeRoleWithWebIdentity"));
        assert!(!data("https://backups-of-another.s3.amazonaws.com/key"));
    }

    #[test]
    fn requests_are_counted_under_what_they_do() {
        let of = |method: Method, uri: &str| operation(&method, &uri.parse().unwrap());
        assert_eq!(of(Method::GET, "http://h/b?list-type=2&prefix=x"), Operation::List);
        assert_eq!(of(Method::GET, "http://h/c?restype=container&comp=list"), Operation::List);
        assert_eq!(of(Method::GET, "http://h/b/list-type"), Operation::Get);
        assert_eq!(of(Method::POST, "http://h/b?delete"), Operation::Delete);
        assert_eq!(of(Method::POST, "http://h/c?restype=container&comp=batch"), Operation::Delete);
        assert_eq!(of(Method::PUT, "http://h/b/k"), Operation::Put);
        assert_eq!(of(Method::GET, "http://h/b?uploads&prefix=x"), Operation::List);
        assert_eq!(of(Method::GET, "http://h/b?lifecycle"), Operation::Other);
    }

    #[test]
    fn error_answers_are_taken_apart() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>gone</Message></Error>";
        assert_eq!((element(xml, "Code"), element(xml, "Message")), (Some("NoSuchBucket"), Some("gone")));
        assert_eq!(element("<Code></Code>", "Code"), None);
        assert_eq!(element("<Code>open", "Code"), None);
    }
}
