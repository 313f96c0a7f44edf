//! An S3 server that does as little as one can: what is measured is the tools, not the store.
//!
//! Objects are in memory. Requests are counted for each bucket. There is what the tools need: conditional creation,
//! which is atomic, ranges, listings, multipart uploads, bodies in signed or unsigned chunks. Signatures and checksums
//! are not looked at, so it proves neither, and nothing is ever slow on purpose. It passes the conformance suite.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_RANGE, ETAG, HeaderName, IF_NONE_MATCH, LAST_MODIFIED, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::stores::{ACCESS_KEY, SECRET_KEY, TestStore};

/// Most keys in one answer to a listing, as S3 has it.
const PAGE_KEYS: usize = 1000;
/// What [`stored`] asks; no bucket can have this name.
const COUNT_PATH: &str = "/__stored/";

type Answer = Response<Full<Bytes>>;
type Query = BTreeMap<String, String>;

/// Requests of each method.
pub type Methods = BTreeMap<String, u64>;

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, (Bytes, u64)>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    requests: Methods,
}

#[derive(Default)]
struct State {
    buckets: HashMap<String, Contents>,
    /// Makes entity tags and the names of uploads.
    numbers: u64,
}

#[derive(Default)]
struct Shared(Mutex<State>);

/// A running server; it ends when this is dropped.
pub struct BenchStore {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for BenchStore {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl BenchStore {
    /// Starts a server without buckets on a free port, with as many threads as there are cores.
    ///
    /// # Errors
    /// When no port can be bound or no thread started.
    pub fn start() -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("bench-store".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes an empty bucket, in place of one of this name.
    pub fn make_bucket(&self, name: &str) {
        self.shared.state().buckets.insert(name.to_owned(), Contents::default());
    }

    /// Removes a bucket and what is in it.
    pub fn drop_bucket(&self, name: &str) {
        self.shared.state().buckets.remove(name);
    }

    /// The requests for a bucket since the last call of this.
    #[must_use]
    pub fn take_requests(&self, bucket: &str) -> Methods {
        let mut state = self.shared.state();
        state.buckets.get_mut(bucket).map(|bucket| std::mem::take(&mut bucket.requests)).unwrap_or_default()
    }

    /// URL and environment of a repository under `prefix` in a bucket.
    #[must_use]
    pub fn store(&self, bucket: &str, prefix: &str) -> TestStore {
        let environment = [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ];
        TestStore {
            url: format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_owned(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }
}

/// What is in a bucket of a server, as keys and sizes; from any process, and not counted as a request.
///
/// # Errors
/// When the server does not answer.
pub fn stored(endpoint: &str, bucket: &str) -> std::io::Result<Vec<(String, u64)>> {
    use std::io::{Read, Write};
    let address = endpoint.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(
        format!("GET {COUNT_PATH}{bucket} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    if !head.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(format!("the store says: {head}")));
    }
    let line =
        |line: &str| line.rsplit_once(' ').and_then(|(key, size)| Some((key.to_owned(), size.parse().ok()?)));
    Ok(body.lines().filter_map(line).collect())
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
            // A connection that the client ends is no news.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = decoded(parts.uri.path());
        if let Some(bucket) = path.strip_prefix(COUNT_PATH) {
            return self.listing_of(bucket);
        }
        let (bucket, key) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
        let query: Query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        match self.state().buckets.get_mut(bucket) {
            Some(found) => *found.requests.entry(parts.method.to_string()).or_default() += 1,
            None => return refusal(StatusCode::NOT_FOUND, "NoSuchBucket"),
        }
        let chunked = parts
            .headers
            .get("x-amz-content-sha256")
            .is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-"));
        let Some(body) = whole(body, chunked).await else {
            return refusal(StatusCode::BAD_REQUEST, "IncompleteBody");
        };
        let header = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let mut state = self.state();
        // A version's number is the time of its request in microseconds, and larger than all before.
        let number = now().max(state.numbers + 1);
        state.numbers = number;
        let Some(contents) = state.buckets.get_mut(bucket) else {
            return refusal(StatusCode::NOT_FOUND, "NoSuchBucket");
        };
        let create = header(IF_NONE_MATCH).is_some();
        match parts.method {
            Method::GET | Method::HEAD if key.is_empty() && query.contains_key("list-type") => {
                xml(&contents.list(bucket, &query))
            }
            // Settings of the bucket, and its unfinished uploads.
            Method::GET | Method::HEAD if key.is_empty() => {
                refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented")
            }
            Method::GET | Method::HEAD => contents.get(key, header(RANGE)),
            Method::PUT if key.is_empty() => plain(StatusCode::OK, Bytes::new()),
            Method::PUT if query.contains_key("uploadId") => contents.put_part(&query, body, number),
            Method::PUT => contents.put(key, body, create, number),
            Method::POST if query.contains_key("uploads") => contents.begin_upload(key, number),
            Method::POST if query.contains_key("uploadId") => contents.complete(key, &query, create, number),
            Method::POST if query.contains_key("delete") => contents.remove_many(&body),
            Method::DELETE if query.contains_key("uploadId") => {
                contents.uploads.remove(query.get("uploadId").map(String::as_str).unwrap_or_default());
                plain(StatusCode::NO_CONTENT, Bytes::new())
            }
            Method::DELETE => {
                contents.objects.remove(key);
                plain(StatusCode::NO_CONTENT, Bytes::new())
            }
            _ => refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn listing_of(&self, bucket: &str) -> Answer {
        let mut text = String::new();
        for (key, (body, _)) in self.state().buckets.get(bucket).iter().flat_map(|bucket| &bucket.objects) {
            let _ = writeln!(text, "{key} {}", body.len());
        }
        plain(StatusCode::OK, text.into())
    }
}

impl Contents {
    fn put(&mut self, key: &str, body: Bytes, create: bool, number: u64) -> Answer {
        if create && self.objects.contains_key(key) {
            return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        self.objects.insert(key.to_owned(), (body, number));
        tagged(plain(StatusCode::OK, Bytes::new()), number)
    }

    fn begin_upload(&mut self, key: &str, number: u64) -> Answer {
        let id = format!("upload-{number}");
        self.uploads.insert(id.clone(), BTreeMap::new());
        xml(&format!(
            "<InitiateMultipartUploadResult><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            escaped(key)
        ))
    }

    fn put_part(&mut self, query: &Query, body: Bytes, number: u64) -> Answer {
        let upload = query.get("uploadId").and_then(|id| self.uploads.get_mut(id));
        let part = query.get("partNumber").and_then(|part| part.parse().ok());
        let (Some(upload), Some(part)) = (upload, part) else {
            return refusal(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        upload.insert(part, body);
        tagged(plain(StatusCode::OK, Bytes::new()), number)
    }

    /// All parts in order; which of them the client names is not looked at.
    fn complete(&mut self, key: &str, query: &Query, create: bool, number: u64) -> Answer {
        let Some(parts) = query.get("uploadId").and_then(|id| self.uploads.remove(id)) else {
            return refusal(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let mut body = BytesMut::with_capacity(parts.values().map(Bytes::len).sum());
        for part in parts.values() {
            body.extend_from_slice(part);
        }
        let answer = self.put(key, body.freeze(), create, number);
        if answer.status() != StatusCode::OK {
            return answer;
        }
        xml(&format!(
            "<CompleteMultipartUploadResult><Key>{}</Key><ETag>&quot;{number:032x}&quot;</ETag>\
             </CompleteMultipartUploadResult>",
            escaped(key)
        ))
    }

    /// `DeleteObjects`: the keys of an XML document.
    fn remove_many(&mut self, document: &[u8]) -> Answer {
        let document = String::from_utf8_lossy(document);
        let mut removed = String::new();
        for piece in document.split("<Key>").skip(1) {
            let key = piece.split("</Key>").next().unwrap_or_default();
            self.objects.remove(&unescaped(key));
            // Writing to a String does not fail.
            let _ = write!(removed, "<Deleted><Key>{key}</Key></Deleted>");
        }
        xml(&format!("<DeleteResult>{removed}</DeleteResult>"))
    }

    /// The whole object, or the one range that was asked for.
    fn get(&self, key: &str, range: Option<&str>) -> Answer {
        let Some((body, number)) = self.objects.get(key) else {
            return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let total = body.len();
        let asked = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let Some((first, last)) = asked else { return tagged(plain(StatusCode::OK, body.clone()), *number) };
        let (first, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => (first, last.saturating_add(1).min(total)),
            (Ok(first), Err(_)) => (first, total),
            (Err(_), last) => (total.saturating_sub(last.unwrap_or(0)), total),
        };
        if first >= end {
            return refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let mut answer = tagged(plain(StatusCode::PARTIAL_CONTENT, body.slice(first..end)), *number);
        if let Ok(value) = HeaderValue::try_from(format!("bytes {first}-{}/{total}", end - 1)) {
            answer.headers_mut().insert(CONTENT_RANGE, value);
        }
        answer
    }

    /// `ListObjectsV2`.
    fn list(&self, bucket: &str, query: &Query) -> String {
        let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter) = (of("prefix"), of("delimiter"));
        let after = of("start-after").max(of("continuation-token"));
        let page = of("max-keys").parse::<usize>().map_or(PAGE_KEYS, |keys| keys.min(PAGE_KEYS));
        // Keys and common prefixes in one order; those seen before the mark are left out.
        let mut entries: BTreeMap<String, Option<(usize, u64)>> = BTreeMap::new();
        for (key, (body, number)) in self.objects.range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let common = rest.find(delimiter).filter(|_| !delimiter.is_empty());
            let entry = match common.and_then(|end| rest.get(..end + delimiter.len())) {
                Some(common) => (format!("{prefix}{common}"), None),
                None => (key.clone(), Some((body.len(), *number))),
            };
            if entry.0.as_str() > after {
                entries.insert(entry.0, entry.1);
            }
        }
        let truncated = entries.len() > page;
        let (mut text, mut last) = (String::new(), String::new());
        for (key, object) in entries.into_iter().take(page) {
            let shown = escaped(&key);
            // Writing to a String does not fail.
            let _ = match object {
                None => write!(text, "<CommonPrefixes><Prefix>{shown}</Prefix></CommonPrefixes>"),
                Some((bytes, number)) => write!(
                    text,
                    "<Contents><Key>{shown}</Key><LastModified>{}</LastModified>\
                     <ETag>&quot;{number:032x}&quot;</ETag><Size>{bytes}</Size>\
                     <StorageClass>STANDARD</StorageClass></Contents>",
                    written(number)
                ),
            };
            last = key;
        }
        let next = if truncated {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(&last))
        } else {
            String::new()
        };
        format!(
            "<ListBucketResult><Name>{bucket}</Name><Prefix>{}</Prefix><MaxKeys>{page}</MaxKeys>\
             <IsTruncated>{truncated}</IsTruncated>{next}{text}</ListBucketResult>",
            escaped(prefix)
        )
    }
}

/// A body to its end, in one piece; out of its chunks when it comes in such. `None` when it ends early.
async fn whole(mut body: Incoming, chunked: bool) -> Option<Bytes> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut bytes = BytesMut::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.ok()?.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    let bytes = bytes.freeze();
    if chunked { unchunked(&bytes) } else { Some(bytes) }
}

/// The payload of `aws-chunked`: chunks with their size in hexadecimal digits before them, the last of size 0.
fn unchunked(mut rest: &[u8]) -> Option<Bytes> {
    let mut payload = BytesMut::with_capacity(rest.len());
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(rest.get(..end)?).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
        if size == 0 {
            return Some(payload.freeze());
        }
        let from = end + 2;
        payload.extend_from_slice(rest.get(from..from.checked_add(size)?)?);
        rest = rest.get(from + size + 2..)?;
    }
}

/// Percent-encoding undone; a plus sign stays.
fn decoded(path: &str) -> String {
    let plain = path.replace('+', "%2B");
    let pairs = url::form_urlencoded::parse(plain.as_bytes()).next();
    pairs.map_or_else(String::new, |(name, value)| {
        // An equals sign divides nothing here.
        if plain.contains('=') { format!("{name}={value}") } else { name.into_owned() }
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (name, character)| text.replace(name, character))
}

fn plain(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer
}

fn tagged(mut answer: Answer, number: u64) -> Answer {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{number:032x}\"")) {
        answer.headers_mut().insert(ETAG, tag);
    }
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&written(number));
    if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
        answer.headers_mut().insert(LAST_MODIFIED, date);
    }
    answer
}

/// Microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a server of its own, whose clock is the machine's")]
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or_default()
}

/// When a version was written, by its number.
fn written(number: u64) -> Timestamp {
    i64::try_from(number).ok().and_then(|number| Timestamp::from_microsecond(number).ok()).unwrap_or_default()
}

fn xml(body: &str) -> Answer {
    plain(StatusCode::OK, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}").into())
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    plain(
        status,
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code></Error>").into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        let body = b"5;chunk-signature=ab\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";
        assert_eq!(unchunked(body).unwrap(), "hello world");
        assert_eq!(unchunked(b"5\r\nhel"), None);
        assert_eq!(unchunked(b"ffffffffffffffff\r\nhel"), None);
        assert_eq!(unchunked(b"zz\r\n"), None);
    }

    #[test]
    fn keys_are_decoded() {
        let keys = ["/b/a%20b", "/b/a+b", "/b/a=b=c", "/b/%C3%A4"].map(decoded);
        assert_eq!(keys, ["/b/a b", "/b/a+b", "/b/a=b=c", "/b/ä"]);
    }
}
