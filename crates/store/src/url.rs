//! Where a repository lives: the four forms of store URL, checked before anything is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// Longest prefix inside a bucket, in bytes: with the longest key it stays under the 1,024 bytes of S3.
pub const PREFIX_BYTES_MAX: usize = 256;

/// Which service a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// `file:///dir`: a local directory.
    File,
    /// `s3://bucket/prefix`: Amazon S3 and what speaks its protocol.
    S3,
    /// `az://container/prefix`: Azure Blob Storage.
    Azure,
    /// `gs://bucket/prefix`: Google Cloud Storage.
    Gcs,
}

impl Scheme {
    /// The part of the URL before `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Gcs => "gs",
        }
    }

    /// What the service calls the thing that holds the objects.
    #[must_use]
    pub fn container_word(self) -> &'static str {
        match self {
            Self::File => "directory",
            Self::S3 | Self::Gcs => "bucket",
            Self::Azure => "container",
        }
    }
}

/// The place of a repository. Holds no credentials, so that it may be printed anywhere.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreUrl {
    scheme: Scheme,
    /// The bucket or container; empty for `file`.
    bucket: String,
    /// Inside the bucket, without slashes at its ends; for `file` the absolute path of the directory.
    prefix: String,
}

impl StoreUrl {
    /// The URL of a local directory.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the path is relative, not UTF-8, or has a `..` or control character in it.
    pub fn from_directory(directory: &Path) -> Result<Self, StoreError> {
        let Some(text) = directory.to_str() else {
            return Err(StoreError::url("file:///…", "the path is not UTF-8"));
        };
        Self::file(text)
    }

    /// Which service it names.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket or container; `None` for a local directory.
    #[must_use]
    pub fn bucket(&self) -> Option<&str> {
        (self.scheme != Scheme::File).then_some(self.bucket.as_str())
    }

    /// The prefix inside the bucket, without slashes at its ends; empty for the whole bucket and for a local
    /// directory.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self.scheme {
            Scheme::File => "",
            Scheme::S3 | Scheme::Azure | Scheme::Gcs => &self.prefix,
        }
    }

    /// The directory; `None` for the cloud stores.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        (self.scheme == Scheme::File).then(|| PathBuf::from(&self.prefix))
    }

    fn file(path: &str) -> Result<Self, StoreError> {
        let refuse = |reason: &str| Err(StoreError::url(&format!("file://{path}"), reason));
        if !path.starts_with('/') {
            return refuse("a local directory is given by its absolute path, as in file:///backups");
        }
        if path.chars().any(char::is_control) {
            return refuse("the path has a control character in it");
        }
        let path_text = path.trim_end_matches('/');
        if path_text.is_empty() {
            return refuse("the root directory can't be a repository: name a directory below it");
        }
        // The first part, before the leading slash, is empty.
        for part in path_text.split('/').skip(1) {
            if part.is_empty() || part == "." || part == ".." {
                return refuse("the path has an empty, '.' or '..' part");
            }
        }
        Ok(Self { scheme: Scheme::File, bucket: String::new(), prefix: path_text.to_owned() })
    }

    fn cloud(scheme: Scheme, rest: &str) -> Result<Self, StoreError> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let shown = format!("{}://{rest}", scheme.as_str());
        let refuse = |reason: &str| Err(StoreError::url(&shown, reason));
        if bucket.is_empty() {
            return refuse(&format!(
                "it names no {}: write {}://{}/prefix",
                scheme.container_word(),
                scheme.as_str(),
                scheme.container_word()
            ));
        }
        if let Some(reason) = bucket_fault(scheme, bucket) {
            return refuse(reason);
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.len() > PREFIX_BYTES_MAX {
            return refuse("the prefix is longer than 256 bytes");
        }
        if !prefix.is_empty() {
            if prefix.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
                return refuse("the prefix has an empty, '.' or '..' part");
            }
            if !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=/".contains(&b)) {
                return refuse("the prefix may have letters, digits and . _ - = only, parted by /");
            }
        }
        Ok(Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

fn bucket_fault(scheme: Scheme, bucket: &str) -> Option<&'static str> {
    let charset = |more: &[u8]| bucket.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    match scheme {
        Scheme::File => None,
        Scheme::Azure => (!((3..=63).contains(&bucket.len()) && charset(b"-$")))
            .then_some("a container name has 3 to 63 letters, digits and '-'"),
        Scheme::S3 => (!((3..=255).contains(&bucket.len()) && charset(b"._-")))
            .then_some("a bucket name has 3 to 63 letters, digits, '.', '_' and '-'"),
        Scheme::Gcs => (!((3..=222).contains(&bucket.len()) && charset(b"._-")))
            .then_some("a bucket name has 3 to 222 letters, digits, '.', '_' and '-'"),
    }
}

/// The URL with everything after the scheme left out: what may be shown of a URL that might hold a secret.
fn only_scheme(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, _)) if scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            format!("{scheme}://…")
        }
        _ => "…".to_owned(),
    }
}

impl FromStr for StoreUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        if text.starts_with('/') {
            return Self::file(text);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let reason = "write file:///dir, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix";
            return Err(StoreError::url(&only_scheme(text), reason));
        };
        if scheme == "file" {
            return Self::file(rest);
        }
        // From here on nothing of the text is shown before it is known to hold no secret.
        if rest.contains('@') {
            let reason = "it has an '@' in it: credentials come from the environment, never from the URL, and an \
                          Azure account from azure.account or AZURE_STORAGE_ACCOUNT_NAME";
            return Err(StoreError::url(&only_scheme(text), reason));
        }
        if rest.contains(['?', '#']) {
            let reason = "it has a query or a fragment: settings belong in the configuration";
            return Err(StoreError::url(&only_scheme(text), reason));
        }
        match scheme {
            "s3" => Self::cloud(Scheme::S3, rest),
            "az" => Self::cloud(Scheme::Azure, rest),
            "gs" => Self::cloud(Scheme::Gcs, rest),
            "s3a" | "s3n" => Err(StoreError::url(&only_scheme(text), "write s3://bucket/prefix")),
            "azure" | "abfs" | "abfss" | "adl" | "wasb" | "wasbs" => {
                Err(StoreError::url(&only_scheme(text), "write az://container/prefix"))
            }
            "gcs" => Err(StoreError::url(&only_scheme(text), "write gs://bucket/prefix")),
            "http" | "https" => Err(StoreError::url(
                &only_scheme(text),
                "write s3://, az:// or gs:// and set the endpoint in the configuration",
            )),
            _ => Err(StoreError::url(&only_scheme(text), "the scheme is one of file, s3, az and gs")),
        }
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        text.parse()
    }
}

impl From<StoreUrl> for String {
    fn from(url: StoreUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match (self.scheme, self.prefix.as_str()) {
            (Scheme::File, directory) => f.write_str(directory),
            (_, "") => f.write_str(&self.bucket),
            (_, prefix) => write!(f, "{}/{prefix}", self.bucket),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<StoreUrl>().unwrap_err().to_string()
    }

    #[test]
    fn the_four_forms_are_read_and_shown_again() {
        for (text, bucket, prefix) in [
            ("s3://pg-backups/prod/eu", Some("pg-backups"), "prod/eu"),
            ("s3://pg-backups", Some("pg-backups"), ""),
            ("az://archive/prod", Some("archive"), "prod"),
            ("gs://my.bucket_1/a=b/c.d", Some("my.bucket_1"), "a=b/c.d"),
            ("file:///var/lib/my backups", None, ""),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!((url.bucket(), url.prefix()), (bucket, prefix), "{text}");
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn slashes_at_the_end_do_not_matter() {
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        assert_eq!(url("s3://bucket/prefix/"), url("s3://bucket/prefix"));
        assert_eq!(url("file:///backups/"), url("/backups"));
        assert_eq!(url("/backups").directory().unwrap(), Path::new("/backups"));
    }

    #[test]
    fn a_secret_in_the_url_is_refused_and_never_shown() {
        for text in [
            "s3://AKIAEXAMPLE:sEcReT@bucket/prefix",
            "s3://bucket/prefix?secret=sEcReT",
            "https://user:sEcReT@host/bucket",
            "ftp://user:sEcReT@host/x",
            "user:sEcReT@host",
            "az://container@account:sEcReT/prefix",
        ] {
            let message = refusal(text);
            assert!(!message.contains("sEcReT") && !message.contains("AKIA"), "{message}");
        }
    }

    #[test]
    fn what_is_not_a_place_is_refused_with_a_reason() {
        for (text, reason) in [
            ("s3://", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("az://", "names no container"),
            ("s3://bucket/a/../b", "'..' part"),
            ("s3://bucket//a", "empty"),
            ("s3://bucket/a b", "letters, digits"),
            ("s3://bucket/a%2e", "letters, digits"),
            ("s3://bu", "3 to 63"),
            ("az://under_score", "container name"),
            ("file://relative", "absolute path"),
            ("file:///", "root directory"),
            ("file:///a/../b", "'..' part"),
            ("backups", "file:///dir"),
            ("s3a://bucket/x", "s3://bucket/prefix"),
            ("https://bucket.example/x", "endpoint"),
        ] {
            let message = refusal(text);
            assert!(message.contains(reason), "{text}: {message}");
        }
        assert!(refusal(&format!("s3://bucket/{}", "x".repeat(257))).contains("256"));
    }
}
