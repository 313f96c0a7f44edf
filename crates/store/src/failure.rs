//! Sorting one failed try: what it means, whether it may have had an effect, whether it is worth repeating.

use object_store::client::HttpErrorKind;

use crate::error::{Cause, HINT_FOREIGN_NOT_FOUND, Place, StoreError};
use crate::http::{Trace, TraceState, chain};
use crate::remove::is_locked;
use crate::url::{Scheme, StoreUrl};

/// What a failed try means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureClass {
    /// The name is taken, or was when the store looked.
    Exists,
    /// There is no such object.
    Missing,
    /// There is no such bucket, container or directory.
    BucketMissing,
    /// Our credentials or rights do not suffice.
    Denied,
    /// The object has no byte where we asked for some: it is shorter.
    Range,
    /// The object changed since we began to read it.
    Changed,
    /// It may work later.
    Retry,
    /// The settings are wrong; it will not work later either.
    Config,
    /// The store does not know this request.
    Unsupported,
    /// The disk under a local directory said no.
    Local,
}

/// One failed try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: FailureClass,
    /// The store may have done what was asked, although we were not told so.
    pub(crate) ambiguous: bool,
    pub(crate) cause: Cause,
    pub(crate) hint: &'static str,
    /// The store's words speak of a lock on the object.
    pub(crate) locked: bool,
    /// Worth this many tries in all, although it is no failure that time would mend.
    pub(crate) tries_max: u32,
    /// For [`FailureClass::Local`].
    pub(crate) io: Option<std::io::Error>,
}

/// How often the machine's metadata server is asked before it counts as absent.
const METADATA_TRIES: u32 = 3;

const HINT_CREDENTIALS: &str = "check the credentials in the environment and their rights on this prefix";
const HINT_LIST: &str = "check the rights on this prefix; S3 answers 403 instead of 404 for a missing key \
                         to whoever lacks s3:ListBucket";
const HINT_CLOCK: &str = "this machine's clock is off: set it, for instance with NTP";
const HINT_EXPIRED: &str = "the credentials have expired: renew them";
const HINT_NO_CREDENTIALS: &str = "no credentials could be had: set the vendor's variables (AWS_ACCESS_KEY_ID and \
    AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS, …); AWS profiles, SSO and \
    credential_process need a build with the cargo feature aws-sdk";
const HINT_CERTIFICATE: &str = "the store's certificate is not trusted: check the endpoint's name, and set ca_bundle to \
    the file of the authority that signed it";
const HINT_REGION: &str = "check the region (s3.region or AWS_REGION) and the endpoint";

const HINT_REDIRECT: &str = "redirects are not followed: set region and endpoint to the store itself, and look at the \
    proxy or the login page in between";

impl Failure {
    fn new(class: FailureClass, ambiguous: bool, cause: Cause) -> Self {
        Self { class, ambiguous, cause, hint: HINT_CREDENTIALS, locked: false, tries_max: 1, io: None }
    }

    /// A try that ran out of its time.
    pub(crate) fn timeout(trace: &Trace, local: bool) -> Self {
        let state = trace.state();
        let text = match (&state.transport, state.status) {
            (Some((_, text)), _) => format!("no answer in time: {text}"),
            (None, Some(_)) => "the answer stopped arriving".to_owned(),
            (None, None) if state.credentials => "no answer in time while fetching credentials".to_owned(),
            (None, None) => "no answer in time".to_owned(),
        };
        let cause = Cause { detail: Some(text), ..Cause::default() };
        if state.metadata_server {
            let failure = Self::new(FailureClass::Denied, false, cause);
            return Self { hint: HINT_NO_CREDENTIALS, tries_max: METADATA_TRIES, ..failure };
        }
        // Without HTTP underneath nothing is known of what was done: it counts as possible.
        let ambiguous = state.sent || local || !state.credentials;
        Self::new(FailureClass::Retry, ambiguous, cause)
    }

    /// A defect of ours, found before anything was sent.
    pub(crate) fn internal(error: &StoreError) -> Self {
        Self::new(FailureClass::Config, false, Cause::detail(error.to_string()))
    }

    /// An answer that can't be, such as a body of another length than announced.
    pub(crate) fn nonsense(text: &str) -> Self {
        Self::new(FailureClass::Retry, true, Cause::detail(text))
    }

    /// Sorts an error of object_store by what the trace saw, and where there was no HTTP by the error itself.
    pub(crate) fn sort(error: &object_store::Error, trace: &Trace) -> Self {
        let state = trace.state();
        if state.redirected {
            let cause = Cause::detail("the endpoint redirected the request to another place");
            return Self { hint: HINT_REDIRECT, ..Self::new(FailureClass::Config, true, cause) };
        }
        if let Some((kind, text)) = &state.transport {
            return Self::transport(*kind, text, &state);
        }
        match state.status {
            Some(status) if state.credentials => Self::credentials(status, &state),
            Some(status) if status >= 300 => Self::status(status, &state),
            Some(_) if state.behind_end => Self::new(FailureClass::Range, false, Cause::detail(chain(error))),
            // The answer was good, but not for the one object in it (Azure's removals), or could not be used.
            Some(_) => Self::without_http(error),
            None => Self::without_http(error),
        }
    }

    fn transport(kind: HttpErrorKind, text: &str, state: &TraceState) -> Self {
        let cause = Cause::detail(text);
        if text.contains("invalid peer certificate") {
            return Self { hint: HINT_CERTIFICATE, ..Self::new(FailureClass::Config, false, cause) };
        }
        if state.metadata_server {
            // Most likely there is none, because nothing was configured; but it may also have been a hiccup.
            let failure = Self::new(FailureClass::Denied, false, cause);
            return Self { hint: HINT_NO_CREDENTIALS, tries_max: METADATA_TRIES, ..failure };
        }
        if state.credentials {
            let cause =
                Cause { detail: Some(format!("could not fetch credentials: {text}")), ..Cause::default() };
            return Self::new(FailureClass::Retry, false, cause);
        }
        Self::new(FailureClass::Retry, kind != HttpErrorKind::Connect, cause)
    }

    fn credentials(status: u16, state: &TraceState) -> Self {
        let cause = cause(status, state);
        let class = if status >= 500 || status == 429 { FailureClass::Retry } else { FailureClass::Denied };
        Self { hint: HINT_NO_CREDENTIALS, ..Self::new(class, false, cause) }
    }

    fn status(status: u16, state: &TraceState) -> Self {
        use FailureClass::{
            BucketMissing, Changed, Config, Denied, Exists, Missing, Range, Retry, Unsupported,
        };
        let code = state.code.as_deref().unwrap_or_default();
        let (class, hint) = match (status, code) {
            (404, "NoSuchBucket" | "ContainerNotFound") => (BucketMissing, HINT_REGION),
            // Only the store's own word is an absence: anything in between answers 404 too.
            (404, "NoSuchKey" | "BlobNotFound") => (Missing, HINT_LIST),
            (404, _) => (Retry, HINT_FOREIGN_NOT_FOUND),
            (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") => (Denied, HINT_EXPIRED),
            (_, "RequestTimeTooSkewed" | "RequestExpired") => (Denied, HINT_CLOCK),
            (401, _) => (Denied, HINT_CREDENTIALS),
            (403, _) => (Denied, HINT_LIST),
            (409 | 412 | 304, _) => (Exists, HINT_CREDENTIALS),
            (416, _) => (Range, HINT_CREDENTIALS),
            (301 | 302 | 307 | 308, _) => (Config, HINT_REGION),
            (
                400,
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
            ) => (Config, HINT_REGION),
            (400, code) if code.starts_with("KMS") => (Denied, HINT_CREDENTIALS),
            // What was damaged or slow on its way there.
            (
                400,
                "RequestTimeout"
                | "BadDigest"
                | "IncompleteBody"
                | "XAmzContentSHA256Mismatch"
                | "Md5Mismatch"
                | "InvalidDigest"
                | "Crc64Mismatch",
            ) => (Retry, HINT_CREDENTIALS),
            (501, _) | (_, "NotImplemented") => (Unsupported, HINT_CREDENTIALS),
            (408 | 425 | 429, _) => (Retry, HINT_CREDENTIALS),
            (410, _) => (Changed, HINT_CREDENTIALS),
            (s, _) if s >= 500 => (Retry, HINT_CREDENTIALS),
            _ => (Config, "the store refused the request as malformed: check endpoint, region and settings"),
        };
        // Who did not hear it from the store does not know what the store did.
        let ambiguous = status >= 500 || status == 408 || (status == 404 && class == Retry);
        Self { hint, locked: speaks_of_lock(state), ..Self::new(class, ambiguous, cause(status, state)) }
    }

    fn without_http(error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let plain = |class, ambiguous| Self::new(class, ambiguous, Cause::detail(chain(error)));
        if let Some(io) = io_error(error) {
            let copy = io.raw_os_error().map_or_else(|| io.kind().into(), std::io::Error::from_raw_os_error);
            let class = match (error, io.kind()) {
                (E::NotFound { .. }, _) => FailureClass::Missing,
                (E::AlreadyExists { .. }, _) => FailureClass::Exists,
                (_, std::io::ErrorKind::PermissionDenied) => FailureClass::Denied,
                _ => FailureClass::Local,
            };
            let hint =
                "check the owner and the mode of the directory: the user that runs walden must write there";
            let cause = Cause::detail(io.to_string());
            return Self { hint, io: Some(copy), ..Self::new(class, false, cause) };
        }
        match error {
            E::NotFound { source, .. } if source.is::<crate::local::RootMissing>() => {
                Self::new(FailureClass::BucketMissing, false, Cause::detail(source.to_string()))
            }
            E::Generic { source, .. } if source.is::<crate::local::BehindEnd>() => {
                plain(FailureClass::Range, false)
            }
            E::NotFound { .. } => plain(FailureClass::Missing, false),
            E::AlreadyExists { .. } => plain(FailureClass::Exists, false),
            E::Precondition { .. } | E::NotModified { .. } => plain(FailureClass::Exists, false),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => plain(FailureClass::Denied, false),
            E::NotSupported { .. } | E::NotImplemented { .. } => plain(FailureClass::Unsupported, false),
            E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => plain(FailureClass::Config, false),
            // Neither a request nor a reason that we know: it may have been done.
            _ => plain(FailureClass::Retry, true),
        }
    }

    /// Is it an error, and not an answer such as "not there" or "taken"?
    pub(crate) fn is_error(&self) -> bool {
        use FailureClass::{BucketMissing, Exists, Missing, Range};
        !matches!(self.class, Exists | Missing | BucketMissing | Range)
    }

    /// Is there any sense in trying again?
    pub(crate) fn is_retryable(&self, tries: u32) -> bool {
        self.class == FailureClass::Retry || tries < self.tries_max
    }

    /// The error for the caller, after `tries` tries.
    pub(crate) fn into_error(
        self,
        action: &'static str,
        tries: u32,
        url: &StoreUrl,
        key: &str,
    ) -> StoreError {
        let place = Place::new(url, Some(key));
        let source = self.cause;
        match self.class {
            FailureClass::Missing => StoreError::ObjectNotFound { place },
            FailureClass::BucketMissing => {
                StoreError::BucketNotFound { word: url.scheme().container_word(), place, source }
            }
            FailureClass::Denied => StoreError::Denied { action, place, hint: self.hint, source },
            FailureClass::Retry | FailureClass::Exists | FailureClass::Changed => {
                StoreError::Unavailable { action, tries, place, source }
            }
            FailureClass::Range => {
                StoreError::Size { place, reason: "it is shorter than it must be", bytes: 0 }
            }
            FailureClass::Config => {
                let message = format!("store can't be used as it is configured: could not {action} {place}");
                StoreError::Config { message, hint: Some(self.hint), source: Some(source) }
            }
            FailureClass::Unsupported => {
                StoreError::Unsupported { what: format!("store does not support this: {source}"), place }
            }
            FailureClass::Local => {
                let path = match url.directory() {
                    Some(directory) if url.scheme() == Scheme::File => {
                        directory.join(key).display().to_string()
                    }
                    _ => place.to_string(),
                };
                let source = self.io.unwrap_or_else(|| std::io::Error::other(source));
                StoreError::LocalIo { action, path, source }
            }
        }
    }
}

fn cause(status: u16, state: &TraceState) -> Cause {
    // Refusals of credentials quote the request and its signature: only their code is shown.
    let detail =
        if matches!(status, 401 | 403) && !speaks_of_lock(state) { None } else { state.message.clone() };
    Cause { status: Some(status), code: state.code.clone(), detail }
}

fn speaks_of_lock(state: &TraceState) -> bool {
    let [code, message] = [&state.code, &state.message].map(|text| text.as_deref().unwrap_or_default());
    !code.contains("Signature") && is_locked(code, message)
}

/// The operating system's error inside, when there is one.
fn io_error(error: &object_store::Error) -> Option<&std::io::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = source.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, code: &str) -> FailureClass {
        let code = (!code.is_empty()).then(|| code.to_owned());
        Failure::status(status, &TraceState { code, ..TraceState::default() }).class
    }

    #[test]
    fn statuses_mean_what_the_services_mean_by_them() {
        use FailureClass as C;
        for (status, code, expected) in [
            (404, "NoSuchKey", C::Missing),
            (404, "BlobNotFound", C::Missing),
            (404, "", C::Retry),
            (404, "NotFound", C::Retry),
            (404, "ResourceNotFound", C::Retry),
            (404, "NoSuchBucket", C::BucketMissing),
            (404, "ContainerNotFound", C::BucketMissing),
            (403, "AccessDenied", C::Denied),
            (403, "SignatureDoesNotMatch", C::Denied),
            (401, "", C::Denied),
            (400, "ExpiredToken", C::Denied),
            (400, "KMS.DisabledException", C::Denied),
            (409, "BlobAlreadyExists", C::Exists),
            (409, "ConditionalRequestConflict", C::Exists),
            (412, "PreconditionFailed", C::Exists),
            (503, "SlowDown", C::Retry),
            (429, "", C::Retry),
            (500, "InternalError", C::Retry),
            (400, "RequestTimeout", C::Retry),
            (400, "BadDigest", C::Retry),
            (301, "PermanentRedirect", C::Config),
            (400, "AuthorizationHeaderMalformed", C::Config),
            (400, "InvalidRequest", C::Config),
            (501, "NotImplemented", C::Unsupported),
            (416, "InvalidRange", C::Range),
        ] {
            assert_eq!(class(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn refusals_show_their_code_and_not_the_request_that_they_quote() {
        let state = TraceState {
            code: Some("SignatureDoesNotMatch".into()),
            message: Some("AWS4-HMAC-SHA256 Credential=AKIA…".into()),
            ..TraceState::default()
        };
        let url = "s3://bucket/prefix".parse().unwrap();
        let error = Failure::status(403, &state).into_error("write the object", 1, &url, "a/b");
        let text = chain(&error);
        assert!(text.contains("SignatureDoesNotMatch") && !text.contains("AKIA"), "{text}");
        assert_eq!(error.kind(), walden_core::ErrorKind::Denied);
    }

    #[test]
    fn a_connection_that_was_never_made_had_no_effect() {
        let state = TraceState { sent: true, ..TraceState::default() };
        assert!(!Failure::transport(HttpErrorKind::Connect, "refused", &state).ambiguous);
        assert!(Failure::transport(HttpErrorKind::Interrupted, "reset", &state).ambiguous);
        assert!(Failure::transport(HttpErrorKind::Request, "closed", &state).ambiguous);
    }
}
