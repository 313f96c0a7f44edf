//! What object_store does not ask of S3: signed requests of our own for the bucket itself, and removals of many.
//!
//! object_store has a bulk removal of its own. It is not used, because it tells why a key was not removed in a text
//! only, and ends the process when an answer names a key that was not asked for.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpRequest};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use sha2::Sha256;

use crate::remove::KeyRefused;
use crate::xml::{Element, escaped};

/// Answers to requests for the bucket itself are read up to this many bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A way to ask the bucket itself.
#[derive(Debug)]
pub(crate) struct S3Requests {
    pub(crate) client: HttpClient,
    /// The client for objects, which has the credentials.
    pub(crate) objects: Arc<AmazonS3>,
    /// Where the bucket is, without a slash at its end.
    pub(crate) bucket_url: String,
    pub(crate) region: String,
    pub(crate) sign: bool,
    pub(crate) sign_payload: bool,
    pub(crate) request_payer: bool,
}

/// What a bucket answered: its status, and the document.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) document: Option<Element>,
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: source.into() }
}

impl Answer {
    /// The service's own word for what is wrong.
    pub(crate) fn code(&self) -> Option<&str> {
        self.document.as_ref().filter(|document| document.name == "Error")?.text_of("Code")
    }

    /// Says the status that another try may bring something else?
    pub(crate) fn is_worth_repeating(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 425 | 429 | 500 | 502..=599)
    }

    /// The error of a try that ended like this; what it means, the trace of the try knows.
    pub(crate) fn into_error(self) -> Error {
        generic(format!("the bucket answered with status={}", self.status))
    }
}

/// `text` as a value in a query.
pub(crate) fn encoded_query(text: &str) -> String {
    encoded_path(text).replace('/', "%2F")
}

/// A key as the path of a URL, encoded as signatures want it: all but letters, digits, `-._~` and slashes.
pub(crate) fn encoded_path(key: &str) -> String {
    let encoded = key.bytes().map(|b| match b {
        b if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    });
    encoded.collect()
}

impl S3Requests {
    /// Makes one request. `below` is what stands behind the bucket in the URL: a query, or a slash and a key.
    pub(crate) async fn send(&self, method: Method, below: &str, body: Bytes) -> Result<Answer> {
        let mut request = HttpRequest::new(body.clone().into());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{below}", self.bucket_url).parse().map_err(generic)?;
        let digest = Sha256::digest(&body);
        if !body.is_empty() {
            let header = |text: String| HeaderValue::from_str(&text).map_err(generic);
            let headers = request.headers_mut();
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            headers.insert("content-md5", header(BASE64_STANDARD.encode(Md5::digest(&body)))?);
            headers.insert("x-amz-checksum-sha256", header(BASE64_STANDARD.encode(digest))?);
        }
        if self.sign {
            let credential = self.objects.credentials().get_credential().await?;
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .with_sign_payload(self.sign_payload)
                .with_request_payer(self.request_payer)
                .try_authorize(&mut request, Some(&digest))?;
        }
        let response = self.client.execute(request).await.map_err(generic)?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(generic)?.to_bytes();
        Ok(Answer { status, document: Element::parse(&bytes) })
    }

    /// Removes up to 1,000 objects in one request. The result has one entry for each, in their order.
    async fn delete_objects(&self, paths: &[Path]) -> Result<Vec<Result<Path>>> {
        let mut body =
            String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");
        for path in paths {
            body.push_str("<Object><Key>");
            body.push_str(&escaped(path.as_ref()));
            body.push_str("</Key></Object>");
        }
        body.push_str("</Delete>");
        let answer = self.send(Method::POST, "?delete", body.into()).await?;
        let Some(document) = answer.document.filter(|document| document.name == "DeleteResult") else {
            return Err(generic(format!("answer to a removal makes no sense status={}", answer.status)));
        };
        if !answer.status.is_success() {
            return Err(generic(format!("removal was answered with status={}", answer.status)));
        }
        // Whoever is not named has been removed, or was not there.
        let mut results: Vec<Result<Path>> = paths.iter().cloned().map(Ok).collect();
        for error in document.all("Error") {
            let key = error.child("Key").map(|key| key.text.as_str()).unwrap_or_default();
            let refused = KeyRefused {
                code: error.text_of("Code").unwrap_or_default().to_owned(),
                message: error.text_of("Message").unwrap_or_default().to_owned(),
            };
            let at = paths.iter().position(|path| path.as_ref() == key);
            match at.and_then(|at| results.get_mut(at)) {
                Some(result) => *result = Err(generic(refused)),
                // An error that belongs to none of them: nothing is known of any.
                None => return Err(generic(format!("removal of another key was refused key={key:?}"))),
            }
        }
        Ok(results)
    }
}

/// S3 with removals of our own.
#[derive(Debug)]
pub(crate) struct S3Objects(pub(crate) Arc<S3Requests>);

impl std::fmt::Display for S3Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.objects.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for S3Objects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.objects.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.objects.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let requests = Arc::clone(&self.0);
        locations
            .try_chunks(crate::remove::S3_KEYS_MAX)
            .then(move |paths| {
                let requests = Arc::clone(&requests);
                async move {
                    let paths = paths.map_err(|error| error.1)?;
                    requests.delete_objects(&paths).await.map(futures::stream::iter)
                }
            })
            .try_flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.objects.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.objects.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.objects.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.objects.rename_opts(from, to, options).await
    }
}
