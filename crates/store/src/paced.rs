//! The HTTP client of a store with a limit on its rate.
//!
//! object_store hands the chunks of a body to its own client as fast as the connection takes them, and lets nobody in
//! between. So with a limit, and only then, requests for data go through this client, which is set up like that one.

use std::error::Error;
use std::sync::Arc;

use http_body_util::BodyExt;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};

use crate::http::TRACE;
use crate::rate::{PacedBody, RateLimiter};

/// Sends bodies, and receives them, at a limited rate. Clones share connections and limit.
#[derive(Debug, Clone)]
pub(crate) struct PacedClient {
    client: reqwest::Client,
    limiter: RateLimiter,
}

impl PacedClient {
    pub(crate) fn new(client: reqwest::Client, limiter: RateLimiter) -> Self {
        Self { client, limiter }
    }

    /// Sends one request.
    pub(crate) async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url: reqwest::Url = parts
            .uri
            .to_string()
            .parse()
            .map_err(|error: url::ParseError| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if body.content_length() > 0 {
            // The connection sends the body on a task of its own, which knows nothing of the try.
            let trace = TRACE.try_with(Arc::clone).ok();
            let paced = PacedBody::new(body, self.limiter.clone(), trace);
            *request.body_mut() = Some(reqwest::Body::wrap(paced));
        }
        let response = self.client.execute(request).await.map_err(sorted)?;
        let response: http::Response<reqwest::Body> = response.into();
        let (parts, body) = response.into_parts();
        let body = HttpResponseBody::new(body.map_err(sorted));
        let paced = HttpResponseBody::new(PacedBody::new(body, self.limiter.clone(), None));
        Ok(HttpResponse::from_parts(parts, paced))
    }
}

/// Sorts a failure as far as anybody asks: no connection, too late, broken off, or the rest.
fn sorted(error: reqwest::Error) -> HttpError {
    let broken_off = |kind: std::io::ErrorKind| {
        use std::io::ErrorKind as K;
        matches!(kind, K::ConnectionAborted | K::ConnectionReset | K::BrokenPipe | K::UnexpectedEof)
    };
    let mut sources =
        std::iter::successors(error.source(), |source: &&(dyn Error + 'static)| (*source).source());
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else if sources
        .any(|source| source.downcast_ref::<std::io::Error>().is_some_and(|error| broken_off(error.kind())))
    {
        HttpErrorKind::Interrupted
    } else {
        HttpErrorKind::Unknown
    };
    HttpError::new(kind, error.without_url())
}
