//! An S3 server over a bucket that does not exist: names and sizes are in a map, contents are made when they are asked
//! for. So a client can be shown an archive of a million objects, and remove some of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{ACCESS_KEY, SECRET_KEY, TestStore};

/// Most keys in one answer to a listing, as S3 has it.
const PAGE_KEYS: usize = 1000;
const BUCKET: &str = "virtual";

/// What makes an object's contents.
pub type Contents = Arc<dyn Fn() -> Bytes + Send + Sync>;

/// An object: its size as listings tell it, and its contents, if a client is ever to read it.
#[derive(Clone)]
pub struct VirtualObject {
    /// The size in listings.
    pub bytes: u64,
    /// Makes the contents; without it reading the object answers 500.
    pub contents: Option<Contents>,
}

impl VirtualObject {
    /// An object with these contents.
    #[must_use]
    pub fn of(contents: Bytes) -> Self {
        Self { bytes: contents.len() as u64, contents: Some(Arc::new(move || contents.clone())) }
    }

    /// An object that is listed and never read.
    #[must_use]
    pub fn listed(bytes: u64) -> Self {
        Self { bytes, contents: None }
    }
}

struct Shared {
    objects: RwLock<BTreeMap<String, VirtualObject>>,
    requests: Mutex<Vec<String>>,
}

/// A running server; it ends when this is dropped.
pub struct VirtualBucket {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for VirtualBucket {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl VirtualBucket {
    /// Starts a server with these objects, on a thread of its own.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(objects: BTreeMap<String, VirtualObject>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { objects: RwLock::new(objects), requests: Mutex::default() });
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("virtual-bucket".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// URL and environment of the repository at the bucket's root.
    #[must_use]
    pub fn store(&self) -> TestStore {
        let environment = [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ];
        TestStore {
            url: format!("s3://{BUCKET}"),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }

    /// How many objects there are.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.shared.objects.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The requests since the last call of this, oldest first: method, path and query.
    #[must_use]
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let path = parts.uri.path().trim_start_matches('/');
        let key = path.strip_prefix(BUCKET).map(|key| key.trim_start_matches('/')).unwrap_or_default();
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return plain(StatusCode::BAD_REQUEST, Bytes::new());
        };
        match (&parts.method, key) {
            (&Method::POST, "") if query.contains_key("delete") => self.remove(&body),
            (&Method::GET, "") => plain(StatusCode::OK, Bytes::from(self.about_bucket(&query))),
            (&Method::PUT, key) if !key.is_empty() => {
                self.put(key, body, parts.headers.contains_key("if-none-match"))
            }
            (&Method::GET | &Method::HEAD, key) if !key.is_empty() => {
                let range = parts.headers.get("range").and_then(|range| range.to_str().ok());
                self.read(key, range)
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
        }
    }

    fn about_bucket(&self, query: &BTreeMap<String, String>) -> String {
        let documents = [
            ("versioning", "<VersioningConfiguration/>"),
            (
                "uploads",
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
            ),
            ("lifecycle", "<LifecycleConfiguration/>"),
            ("object-lock", "<ObjectLockConfiguration/>"),
        ];
        let asked = documents.iter().find(|(name, _)| query.contains_key(*name));
        asked.map_or_else(|| self.list(query), |(_, document)| (*document).to_owned())
    }

    /// DeleteObjects.
    fn remove(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let body = String::from_utf8_lossy(body);
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<&str> =
            body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
        if keys.len() > PAGE_KEYS {
            return plain(
                StatusCode::BAD_REQUEST,
                Bytes::from_static(b"<Error><Code>MalformedXML</Code></Error>"),
            );
        }
        for key in keys {
            objects.remove(key);
        }
        plain(StatusCode::OK, Bytes::from_static(b"<DeleteResult></DeleteResult>"))
    }

    fn put(&self, key: &str, body: Bytes, create: bool) -> Response<Full<Bytes>> {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        if create && objects.contains_key(key) {
            let taken = Bytes::from_static(b"<Error><Code>PreconditionFailed</Code></Error>");
            return plain(StatusCode::PRECONDITION_FAILED, taken);
        }
        objects.insert(key.to_owned(), VirtualObject::of(body));
        let mut response = plain(StatusCode::OK, Bytes::new());
        response.headers_mut().insert("etag", http::HeaderValue::from_static("\"0\""));
        response
    }

    fn read(&self, key: &str, range: Option<&str>) -> Response<Full<Bytes>> {
        let object = self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let Some(object) = object else {
            let missing = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>";
            return plain(StatusCode::NOT_FOUND, Bytes::from_static(missing.as_bytes()));
        };
        let Some(contents) = object.contents.as_ref().map(|make| make()) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
        };
        part(&contents, range)
    }

    /// ListObjectsV2.
    fn list(&self, query: &BTreeMap<String, String>) -> String {
        let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter) = (of("prefix"), of("delimiter"));
        let mut after = of("start-after").max(of("continuation-token")).to_owned();
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let (mut keys, mut prefixes, mut next) = (String::new(), String::new(), None);
        let mut count = 0;
        loop {
            // After a common prefix comes what is behind all that begin with it.
            let from = if after.as_str() < prefix { prefix.to_owned() } else { format!("{after}\0") };
            let from = if !delimiter.is_empty() && after.ends_with(delimiter) {
                format!("{after}\u{7f}")
            } else {
                from
            };
            let Some((key, object)) = objects.range(from..).next().filter(|(key, _)| key.starts_with(prefix))
            else {
                break;
            };
            if count == PAGE_KEYS {
                next = Some(after.clone());
                break;
            }
            count += 1;
            let rest = key.get(prefix.len()..).unwrap_or_default();
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(end) => {
                    let common = format!("{prefix}{}", rest.get(..=end).unwrap_or_default());
                    let _ = write!(prefixes, "<CommonPrefixes><Prefix>{common}</Prefix></CommonPrefixes>");
                    after = common;
                }
                None => {
                    let _ = write!(
                        keys,
                        "<Contents><Key>{key}</Key><LastModified>2026-11-20T10:00:00.000Z</LastModified>\
                         <ETag>&quot;0&quot;</ETag><Size>{}</Size></Contents>",
                        object.bytes
                    );
                    after.clone_from(key);
                }
            }
        }
        let more = next.map_or_else(String::new, |next| {
            format!("<NextContinuationToken>{next}</NextContinuationToken>")
        });
        format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>{BUCKET}</Name><Prefix>{prefix}</Prefix>\
             <KeyCount>{count}</KeyCount><MaxKeys>{PAGE_KEYS}</MaxKeys><IsTruncated>{}</IsTruncated>\
             {more}{keys}{prefixes}</ListBucketResult>",
            !more.is_empty()
        )
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

/// The whole, or the one range that was asked for.
fn part(contents: &Bytes, range: Option<&str>) -> Response<Full<Bytes>> {
    let total = contents.len();
    let asked = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (status, first, end) = match asked {
        None => (StatusCode::OK, 0, total),
        Some(("", last)) => {
            (StatusCode::PARTIAL_CONTENT, total.saturating_sub(last.parse().unwrap_or(0)), total)
        }
        Some((first, last)) => {
            let last: usize = last.parse().unwrap_or(total);
            (StatusCode::PARTIAL_CONTENT, first.parse().unwrap_or(0), last.saturating_add(1).min(total))
        }
    };
    let body = contents.slice(first.min(end)..end);
    let mut response = plain(status, body);
    let headers = response.headers_mut();
    headers.insert("etag", http::HeaderValue::from_static("\"0\""));
    headers.insert("last-modified", http::HeaderValue::from_static("Fri, 20 Nov 2026 10:00:00 GMT"));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = format!("bytes {first}-{}/{total}", end.saturating_sub(1)).parse()
    {
        headers.insert("content-range", value);
    }
    response
}
