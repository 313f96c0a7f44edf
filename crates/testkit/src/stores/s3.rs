//! An S3 server inside the test process, with faults on demand.
//!
//! s3s-fs answers the protocol over a directory. What it lacks is added here: one lock per key around conditional
//! PUTs (its own check and rename are two steps), `TCP_NODELAY` (without it every GET waits 44 ms for an ACK), faults,
//! a mode that ignores `If-None-Match` as some S3-compatible stores do, and a log of requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpRequest};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::TestStore;

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "walden-test";
/// Its secret.
pub const SECRET_KEY: &str = "walden-test-secret";
/// Where [`Fault::SeeOther`] sends the client.
const LOGIN_PATH: &str = "/login";
/// At most this many requests are remembered.
const LOG_MAX: usize = 100_000;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type OutBody = UnsyncBoxBody<Bytes, BoxError>;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 `SlowDown`, and nothing done.
    Unavailable,
    /// Done, and answered with 500: the answer is lost.
    LostAnswer,
    /// Nothing done, and the connection reset.
    ResetBefore,
    /// Done, and the connection reset without an answer.
    ResetAfter,
    /// Nothing done, and never answered.
    HangBefore,
    /// Done, and never answered.
    HangAfter,
    /// 403 `AccessDenied`, and nothing done.
    Denied,
    /// 404 `NoSuchBucket`, and nothing done.
    NoSuchBucket,
    /// 404 with an HTML page, as a proxy in between gives it, and nothing done.
    ForeignNotFound,
    /// 303 to a page that answers every GET with 200, as a login in between gives it, and nothing done.
    SeeOther,
    /// 409 `ConditionalRequestConflict`, and nothing done.
    Conflict,
    /// The body of the answer ends after so many bytes, and the connection with it.
    Truncated(usize),
    /// The body of the answer stops after so many bytes, and the connection stays.
    Stalled(usize),
    /// One bit of the byte at this place of the answer's body is flipped.
    WrongBytes(usize),
    /// Done after a delay.
    Slow(Duration),
}

/// Which requests go wrong, and how often.
#[derive(Debug, Clone)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// To requests of this method; to all unless set.
    pub method: Option<Method>,
    /// To requests whose path contains this.
    pub path_contains: String,
    /// So many fitting requests pass first.
    pub skip: u32,
    /// To so many fitting requests after those.
    pub times: u32,
}

impl FaultRule {
    /// The next `times` requests of this method, whatever their path.
    #[must_use]
    pub fn next(fault: Fault, method: Method, times: u32) -> Self {
        Self { fault, method: Some(method), path_contains: String::new(), skip: 0, times }
    }

    /// The same after `skip` more requests.
    #[must_use]
    pub fn after(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// The same, only for paths that contain `text`.
    #[must_use]
    pub fn on(self, text: &str) -> Self {
        Self { path_contains: text.to_owned(), ..self }
    }

    fn fits(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method) && path.contains(&self.path_contains)
    }
}

/// One request that the server got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its query.
    pub query: String,
    /// It had `If-None-Match`.
    pub conditional: bool,
    /// What was done to it.
    pub fault: Option<Fault>,
}

/// How the server treats `If-None-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfNoneMatch {
    /// As S3 does.
    #[default]
    Enforced,
    /// Overwrites, and answers 200.
    Ignored,
    /// Answers 501.
    NotImplemented,
}

#[derive(Default)]
struct State {
    rules: Vec<FaultRule>,
    log: Vec<LoggedRequest>,
    if_none_match: IfNoneMatch,
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    kept: Vec<Kept>,
    /// Answers to questions about the bucket, by their query.
    documents: HashMap<String, (u16, String)>,
}

/// Objects that are not removed.
#[derive(Debug, Clone)]
struct Kept {
    contains: String,
    code: String,
    message: String,
}

impl Kept {
    fn error(&self, element: &str, key: &str) -> String {
        let (code, message) = (&self.code, &self.message);
        let key = if key.is_empty() { String::new() } else { format!("<Key>{key}</Key>") };
        format!("<{element}>{key}<Code>{code}</Code><Message>{message}</Message></{element}>")
    }
}

struct Shared {
    root: PathBuf,
    s3: S3Service,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server; it ends when this is dropped.
pub struct S3Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    bucket: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    directory: Option<tempfile::TempDir>,
}

impl std::fmt::Debug for S3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Only now nobody writes there any more.
        drop(self.directory.take());
    }
}

impl S3Server {
    /// Starts a server with one empty bucket named `bucket` over a temporary directory.
    ///
    /// # Errors
    /// When the directory can't be made or no port be bound.
    pub fn start() -> std::io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut server = Self::start_in(directory.path(), "bucket")?;
        server.directory = Some(directory);
        Ok(server)
    }

    /// Starts a server over `directory`, which stays, and makes `bucket` in it if it is not there.
    ///
    /// It runs on a thread and a runtime of its own, so that tests of programs can use it too.
    ///
    /// # Errors
    /// When the directory can't be used or no port be bound.
    pub fn start_in(directory: &Path, bucket: &str) -> std::io::Result<Self> {
        Self::start_at(directory, bucket, 0)
    }

    /// The same on a port that is known: a server that comes back after it was dropped, with whatever it had stored by
    /// then. Requests that were under way are lost as when the process is killed. 0 is any port.
    ///
    /// # Errors
    /// As [`Self::start_in`].
    pub fn start_at(directory: &Path, bucket: &str, port: u16) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory.join(bucket))?;
        let files = s3s_fs::FileSystem::new(directory)
            .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared =
            Arc::new(Shared { root: directory.to_owned(), s3: builder.build(), state: Mutex::default() });
        let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("s3-server".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        let bucket = bucket.to_owned();
        Ok(Self { shared, address, bucket, stop: Some(stop), thread: Some(thread), directory: None })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The endpoint, `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// URL and environment of a repository under `prefix`.
    #[must_use]
    pub fn store(&self, prefix: &str) -> TestStore {
        TestStore {
            url: format!("s3://{}/{prefix}", self.bucket).trim_end_matches('/').to_owned(),
            environment: self.environment(),
        }
    }

    /// The variables with which a client, in the process or out of it, reaches the server.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The file that holds an object: tests damage it to see the damage found.
    #[must_use]
    pub fn object_file(&self, key: &str) -> PathBuf {
        self.shared.root.join(&self.bucket).join(key)
    }

    /// Adds a rule; of several that fit a request, the first that is not used up is taken.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.state().rules.push(rule);
    }

    /// Takes all rules away.
    pub fn clear_faults(&self) {
        self.shared.state().rules.clear();
    }

    /// Changes the treatment of `If-None-Match`.
    pub fn set_if_none_match(&self, treatment: IfNoneMatch) {
        self.shared.state().if_none_match = treatment;
    }

    /// From now on removals of objects whose key contains `text` are refused, with this code and message: as a lock
    /// does it, or the lack of a right.
    pub fn keep(&self, text: &str, code: &str, message: &str) {
        let kept = Kept { contains: text.to_owned(), code: code.to_owned(), message: message.to_owned() };
        self.shared.state().kept.push(kept);
    }

    /// From now on the bucket answers a GET of this query (`versioning`, `object-lock`, `lifecycle`, `uploads`) with this
    /// status and document.
    pub fn set_bucket_document(&self, query: &str, status: u16, document: &str) {
        self.shared.state().documents.insert(query.to_owned(), (status, document.to_owned()));
    }

    /// The requests up to now, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.shared.state().log.clone()
    }

    /// The requests since the last call of this, oldest first.
    #[must_use]
    pub fn take_requests(&self) -> Vec<LoggedRequest> {
        std::mem::take(&mut self.shared.state().log)
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let connection = Connection(Arc::clone(&shared));
        tokio::spawn(async move {
            // A connection that a fault or the client ends is no news.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), connection)
                .await;
        });
    }
}

struct Connection(Arc<Shared>);

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<OutBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.answer(request).await })
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<OutBody>, BoxError> {
        let fault = self.note(&request);
        if request.uri().path() == LOGIN_PATH {
            return Ok(page(200, "<html>Who are you?</html>".to_owned()));
        }
        match fault {
            Some(Fault::Unavailable) => return Ok(refusal(503, "SlowDown")),
            Some(Fault::Denied) => return Ok(refusal(403, "AccessDenied")),
            Some(Fault::NoSuchBucket) => return Ok(refusal(404, "NoSuchBucket")),
            Some(Fault::ForeignNotFound) => {
                return Ok(page(404, "<html><h1>Not Found</h1></html>".to_owned()));
            }
            Some(Fault::SeeOther) => {
                let mut response = page(303, String::new());
                response.headers_mut().insert(http::header::LOCATION, HeaderValue::from_static(LOGIN_PATH));
                return Ok(response);
            }
            Some(Fault::Conflict) => return Ok(refusal(409, "ConditionalRequestConflict")),
            Some(Fault::ResetBefore) => return Err("injected reset".into()),
            Some(Fault::HangBefore) => std::future::pending().await,
            Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        let response = self.execute(request).await?;
        match fault {
            Some(Fault::LostAnswer) => Ok(refusal(500, "InternalError")),
            Some(Fault::ResetAfter) => Err("injected reset".into()),
            Some(Fault::HangAfter) => std::future::pending().await,
            Some(Fault::Truncated(keep)) => cut(response, keep, false).await,
            Some(Fault::Stalled(keep)) => cut(response, keep, true).await,
            Some(Fault::WrongBytes(at)) => flip(response, at).await,
            _ => Ok(response),
        }
    }

    /// Logs a request and chooses its fault.
    fn note(&self, request: &Request<Incoming>) -> Option<Fault> {
        let (method, path) = (request.method(), request.uri().path());
        let mut state = self.state();
        let mut fault = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.times > 0 && rule.fits(method, path)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            fault = Some(rule.fault);
            break;
        }
        if state.log.len() < LOG_MAX {
            state.log.push(LoggedRequest {
                method: method.clone(),
                path: path.to_owned(),
                query: request.uri().query().unwrap_or_default().to_owned(),
                conditional: request.headers().contains_key("if-none-match"),
                fault,
            });
        }
        fault
    }

    async fn execute(&self, request: Request<Incoming>) -> Result<Response<OutBody>, BoxError> {
        let path = request.uri().path().to_owned();
        if self.lacks_bucket(request.method(), &path) {
            return Ok(refusal(404, "NoSuchBucket"));
        }
        if let Some((status, document)) = self.bucket_document(&request) {
            return Ok(page(status, document));
        }
        let removes = request.uri().query().is_some_and(|query| query.starts_with("delete"));
        if request.method() == Method::POST && removes && !self.state().kept.is_empty() {
            return self.remove_but_kept(request).await;
        }
        if request.method() == Method::DELETE
            && let Some(kept) = self.kept(&path)
        {
            return Ok(page(403, kept.error("Error", "")));
        }
        let conditional = request.method() == Method::PUT && request.headers().contains_key("if-none-match");
        if !conditional {
            return self.handle(request).await;
        }
        let (treatment, lock) = {
            let mut state = self.state();
            (state.if_none_match, Arc::clone(state.locks.entry(path.clone()).or_default()))
        };
        let _held = lock.lock().await;
        match treatment {
            IfNoneMatch::Enforced => {}
            IfNoneMatch::NotImplemented => return Ok(refusal(501, "NotImplemented")),
            // The header is signed and can't be taken away: what it asks about goes instead.
            IfNoneMatch::Ignored => {
                let _ = std::fs::remove_file(self.root.join(path.trim_start_matches('/')));
            }
        }
        self.handle(request).await
    }

    fn bucket_document(&self, request: &Request<Incoming>) -> Option<(u16, String)> {
        let query = request.uri().query()?.split(['&', '=']).next()?;
        let is_get = request.method() == Method::GET;
        self.state().documents.get(query).filter(|_| is_get).cloned()
    }

    fn kept(&self, key: &str) -> Option<Kept> {
        self.state().kept.iter().find(|kept| key.contains(&kept.contains)).cloned()
    }

    /// DeleteObjects, where some are kept.
    async fn remove_but_kept(&self, request: Request<Incoming>) -> Result<Response<OutBody>, BoxError> {
        let bucket = self.root.join(request.uri().path().trim_matches('/'));
        let body = request.into_body().collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        let mut answer = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeleteResult>");
        for key in body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            match self.kept(key) {
                Some(kept) => answer.push_str(&kept.error("Error", key)),
                None => {
                    let _ = std::fs::remove_file(bucket.join(key));
                }
            }
        }
        answer.push_str("</DeleteResult>");
        Ok(page(200, answer))
    }

    /// Is the request for a bucket that is not there? s3s-fs would make it.
    fn lacks_bucket(&self, method: &Method, path: &str) -> bool {
        let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let creates = key.is_empty() && method == Method::PUT;
        !creates && !bucket.is_empty() && !self.root.join(bucket.trim_start_matches('/')).is_dir()
    }

    async fn handle(&self, request: Request<Incoming>) -> Result<Response<OutBody>, BoxError> {
        let response = self.s3.call(HttpRequest::from(request.map(Body::from))).await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

fn full(bytes: Bytes) -> OutBody {
    http_body_util::Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn refusal(status: u16, code: &str) -> Response<OutBody> {
    page(status, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code></Error>"))
}

fn page(status: u16, body: String) -> Response<OutBody> {
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

async fn flip(response: Response<OutBody>, at: usize) -> Result<Response<OutBody>, BoxError> {
    let (parts, body) = response.into_parts();
    let mut bytes = body.collect().await?.to_bytes().to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1;
    }
    Ok(Response::from_parts(parts, full(bytes.into())))
}

/// The first `keep` bytes of a body that was announced in full, then an end or a stop.
async fn cut(response: Response<OutBody>, keep: usize, stall: bool) -> Result<Response<OutBody>, BoxError> {
    let (mut parts, body) = response.into_parts();
    let whole = body.collect().await?.to_bytes();
    parts.headers.insert(http::header::CONTENT_LENGTH, whole.len().into());
    let kept = whole.slice(..keep.min(whole.len()));
    let frames = futures::stream::unfold(Some(kept), move |kept| async move {
        match kept {
            Some(kept) => Some((Ok(http_body::Frame::data(kept)), None)),
            None if stall => std::future::pending().await,
            // Let what was kept get out first.
            None => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Err(BoxError::from("injected end")), None))
            }
        }
    });
    Ok(Response::from_parts(parts, http_body_util::StreamBody::new(frames).boxed_unsync()))
}
