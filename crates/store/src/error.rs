//! What can go wrong with a store, in the words that a person needs.
//!
//! Messages name the object and the store, never a credential: nothing of a request's headers, of a signature or
//! of a response body beyond its error code and one short sentence gets in here.

use std::fmt;

use walden_core::ErrorKind;

use crate::remove::Removal;
use crate::unseal::UnsealError;
use crate::url::StoreUrl;

/// A 404 without the code that the store gives with its own.
pub(crate) const HINT_FOREIGN_NOT_FOUND: &str =
    "this 404 is not the store's own: look at the proxy, balancer or endpoint in between";

/// The object and the store that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The store.
    pub url: String,
    /// The object's key or the listing's prefix, relative to the repository's root.
    pub key: Option<String>,
}

impl Place {
    pub(crate) fn new(url: &StoreUrl, key: Option<&str>) -> Self {
        Self { url: url.to_string(), key: key.filter(|key| !key.is_empty()).map(str::to_owned) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(f, "key={key} ")?;
        }
        write!(f, "url={}", self.url)
    }
}

/// What a store or the way to it said: the innermost reason of an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// The HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// The service's own word, such as `NoSuchBucket`.
    pub code: Option<String>,
    /// One sentence more.
    pub detail: Option<String>,
}

impl Cause {
    pub(crate) fn detail(text: impl Into<String>) -> Self {
        Self { detail: Some(one_line(&text.into(), 300)), ..Self::default() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(status) = self.status {
            write!(f, "HTTP {status}")?;
            separator = " ";
        }
        if let Some(code) = &self.code {
            write!(f, "{separator}{code}")?;
            separator = ": ";
        } else if self.status.is_some() {
            separator = ": ";
        }
        match &self.detail {
            Some(detail) => write!(f, "{separator}{detail}"),
            None if separator.is_empty() => f.write_str("no reason given"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Cause {}

/// Cuts a foreign text down to one printable line of at most `max` characters.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !c.is_control()));
        if line.chars().count() > max {
            return line.chars().take(max).chain(['…']).collect();
        }
    }
    line
}

/// An error of the store layer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL does not name a place for a repository.
    #[error("store URL is not valid: {reason} url={url}")]
    Url {
        /// The URL, without anything that might be a secret.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration or the credentials can't be used as they are.
    #[error("{message}")]
    Config {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<&'static str>,
        /// What was said underneath.
        #[source]
        source: Option<Cause>,
    },
    /// There is no such object, as far as the store's answer goes.
    ///
    /// Not proof of absence: a missing bucket can give the same answer. [`crate::Store::prove_visible`] is proof.
    #[error("object not found {place}")]
    ObjectNotFound {
        /// Which.
        place: Place,
    },
    /// The bucket, container or directory itself is not there.
    #[error("{word} not found {place}")]
    BucketNotFound {
        /// `bucket`, `container` or `directory`.
        word: &'static str,
        /// Which.
        place: Place,
        /// The answer.
        #[source]
        source: Cause,
    },
    /// The marker object that every repository (or server) has is not there.
    #[error("repository or server not found: its marker is missing {place}")]
    MarkerNotFound {
        /// The marker.
        place: Place,
    },
    /// The store refused our credentials or our rights.
    #[error("store refused to {action} {place}")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On what.
        place: Place,
        /// What to look at.
        hint: &'static str,
        /// The answer.
        #[source]
        source: Cause,
    },
    /// The store did not do it within the time given.
    #[error("store unavailable: could not {action} tries={tries} {place}")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// How often.
        tries: u32,
        /// On what.
        place: Place,
        /// What the last try said.
        #[source]
        source: Cause,
    },
    /// The store gave bytes that are not what they say they are.
    #[error("object is damaged {place}")]
    Corrupt {
        /// Which.
        place: Place,
        /// How that showed.
        #[source]
        source: UnsealError,
    },
    /// The object is larger (or shorter) than anything that could belong under its key.
    #[error("object has an impossible size: {reason} bytes={bytes} {place}")]
    Size {
        /// Which.
        place: Place,
        /// What is wrong with it.
        reason: &'static str,
        /// The size found.
        bytes: u64,
    },
    /// The store or the object uses something that this version does not know.
    #[error("{what} {place}")]
    Unsupported {
        /// What it is.
        what: String,
        /// Which object.
        place: Place,
    },
    /// A local file operation failed.
    #[error("could not {action} path={path}")]
    LocalIo {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Removing many objects ended before all were dealt with.
    #[error("removal stopped after removed={} kept={}", so_far.removed, so_far.kept.len())]
    RemovalStopped {
        /// What was done, to know; to repeat it does no harm.
        so_far: Box<Removal>,
        /// Why it ended.
        #[source]
        source: Box<StoreError>,
    },
    /// A defect in Walden.
    #[error("internal error: {message}")]
    Internal {
        /// What was found.
        message: String,
    },
}

impl StoreError {
    pub(crate) fn url(url: &str, reason: &str) -> Self {
        Self::Url { url: one_line(url, 300), reason: reason.to_owned() }
    }

    pub(crate) fn config(message: impl Into<String>, hint: Option<&'static str>) -> Self {
        Self::Config { message: message.into(), hint, source: None }
    }

    /// What sort of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } | Self::Config { .. } => ErrorKind::Config,
            Self::ObjectNotFound { .. } | Self::BucketNotFound { .. } | Self::MarkerNotFound { .. } => {
                ErrorKind::NotFound
            }
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Corrupt { source, .. } if source.is_unsupported() => ErrorKind::Unsupported,
            Self::Corrupt { .. } | Self::Size { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::LocalIo { .. } => ErrorKind::LocalIo,
            Self::RemovalStopped { source, .. } => source.kind(),
            Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Config { hint, .. } => *hint,
            Self::BucketNotFound { word: "directory", .. } => Some(
                "a directory is made by walden init; if it was there before, look whether its file system is mounted",
            ),
            Self::BucketNotFound { .. } => {
                Some("check the name in the URL and the region or account; walden does not make buckets")
            }
            Self::MarkerNotFound { .. } => {
                Some("check URL and server name; a new server is set up with walden init")
            }
            Self::Denied { hint, .. } => Some(hint),
            Self::Unavailable { source, .. } if source.status == Some(404) => Some(HINT_FOREIGN_NOT_FOUND),
            Self::Corrupt { source, .. } if source.is_unsupported() => Some("use a newer version of walden"),
            Self::Corrupt { .. } => Some(
                "look at the object in the store: an older version of it or another copy may be whole; walden window shows what \
                 can be restored",
            ),
            Self::LocalIo { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("make room on the file system; nothing was left half-written")
            }
            Self::RemovalStopped { source, .. } => source.hint(),
            Self::Url { .. }
            | Self::ObjectNotFound { .. }
            | Self::Unavailable { .. }
            | Self::Size { .. }
            | Self::Unsupported { .. }
            | Self::LocalIo { .. }
            | Self::Internal { .. } => None,
        }
    }

    /// True when the store answered that the object is not there, which is not yet proof of it.
    #[must_use]
    pub fn is_object_not_found(&self) -> bool {
        matches!(self, Self::ObjectNotFound { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_reads_as_one_line() {
        let cause = Cause { status: Some(503), code: Some("SlowDown".into()), detail: Some("wait".into()) };
        assert_eq!(cause.to_string(), "HTTP 503 SlowDown: wait");
        assert_eq!(Cause { status: Some(500), ..Cause::default() }.to_string(), "HTTP 500");
        assert_eq!(Cause::detail("connection\n  refused\u{7}").to_string(), "connection refused");
        assert_eq!(Cause::default().to_string(), "no reason given");
        assert_eq!(one_line(&"x".repeat(20), 5), "xxxxx…");
    }

    #[test]
    fn messages_are_lower_case_and_end_with_values() {
        let place = Place::new(&"s3://bucket/prefix".parse().unwrap(), Some("a/b"));
        let error =
            StoreError::Unavailable { action: "write the object", tries: 3, place, source: Cause::default() };
        assert_eq!(
            error.to_string(),
            "store unavailable: could not write the object tries=3 key=a/b url=s3://bucket/prefix"
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
