//! The settings of a store, as they stand in the configuration file.
//!
//! Secrets have no place here: the file may name files and accounts, never keys. Credentials come from the
//! variables and files that the vendors' own tools read.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::budget::TryLimits;

/// How long one request may take besides its body, unless set.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may take to be made, unless set.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one operation may take with all its retries, unless set.
pub const OPERATION_TIMEOUT: Duration = Duration::from_mins(2);
/// The slowest rate that a body may go at, unless set, in bytes per second.
pub const THROUGHPUT_MIN: u64 = 512 << 10;

/// Settings of a store. Every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// How long one request may take besides its body, such as `20s`.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration")]
    pub request_timeout: Option<Duration>,
    /// How long making a connection may take, such as `5s`.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// How long one operation may take with all its retries, such as `2m`.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration")]
    pub operation_timeout: Option<Duration>,
    /// The slowest rate, in bytes per second, at which a body may go before the request counts as hung.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_min: Option<u64>,
    /// The fastest rate, in bytes per second, at which bodies may be sent and received, all requests together; no
    /// limit unless set. It is the verb's to say, so it does not stand in the file.
    #[serde(skip)]
    pub max_rate: Option<NonZeroU64>,
    /// A PEM file of certificate authorities to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<PathBuf>,
    /// Allow http:// endpoints; for addresses of this machine they are always allowed.
    pub allow_http: bool,
    /// For `s3://`.
    pub s3: S3Config,
    /// For `az://`.
    pub azure: AzureConfig,
    /// For `gs://`.
    pub gcs: GcsConfig,
}

impl StoreConfig {
    /// How long one try may take.
    #[must_use]
    pub fn try_limits(&self) -> TryLimits {
        TryLimits {
            request: self.request_timeout.unwrap_or(REQUEST_TIMEOUT),
            throughput_min: self.throughput_min.unwrap_or(THROUGHPUT_MIN),
        }
    }

    /// How long one operation may take with all its retries.
    #[must_use]
    pub fn operation_timeout(&self) -> Duration {
        self.operation_timeout.unwrap_or(OPERATION_TIMEOUT)
    }
}

/// How S3 encrypts what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerSideEncryption {
    /// SSE-S3: keys of S3 itself.
    #[serde(rename = "AES256")]
    Aes256,
    /// SSE-KMS: a key in KMS.
    #[serde(rename = "aws:kms")]
    AwsKms,
    /// DSSE-KMS: two layers with a key in KMS.
    #[serde(rename = "aws:kms:dsse")]
    AwsKmsDsse,
}

impl ServerSideEncryption {
    /// The value of S3's header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::AwsKms => "aws:kms",
            Self::AwsKmsDsse => "aws:kms:dsse",
        }
    }
}

/// A checksum that S3 is asked to verify on upload, besides the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadChecksum {
    /// SHA-256.
    Sha256,
    /// CRC-64/NVME.
    Crc64nvme,
}

/// Settings for `s3://`. What is set here wins over the `AWS_*` variable of the same meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// The endpoint, such as `https://minio.example:9000`; Amazon's own of the region unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region; `us-east-1` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket goes into the path (`true`) or into the host name. Unless set: into the path with an
    /// endpoint of one's own and for bucket names with dots, else into the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Server-side encryption; the bucket's default unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse: Option<ServerSideEncryption>,
    /// The KMS key for `aws:kms` and `aws:kms:dsse`; the account's default key unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    /// Whether S3 may derive the objects' keys from a key of the bucket, which saves calls to KMS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_key: Option<bool>,
    /// The storage class of new objects, such as `STANDARD_IA`. Classes that must be restored before reading
    /// (`GLACIER`, `DEEP_ARCHIVE`) are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// A profile of the AWS configuration files; needs a build with the cargo feature `aws-sdk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Leave the body out of the request's signature, which saves hashing it again. Unless set: for Amazon's
    /// own endpoints, to which TLS protects it; not for endpoints that are named, in front of which TLS may end early. Some
    /// buckets' policies refuse what is not signed: set it to `false` there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsigned_payload: Option<bool>,
    /// A checksum for S3 to verify on upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<UploadChecksum>,
}

/// Settings for `az://`. What is set here wins over the `AZURE_*` variable of the same meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzureConfig {
    /// The storage account; else `AZURE_STORAGE_ACCOUNT_NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The endpoint; `https://<account>.blob.core.windows.net` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Use the emulator's well-known account and key, at `endpoint` or `http://127.0.0.1:10000`.
    pub use_emulator: bool,
    /// The access tier of new objects: `Hot`, `Cool` or `Cold`. `Archive` is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_tier: Option<String>,
}

/// Settings for `gs://`. What is set here wins over the `GOOGLE_*` variable of the same meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcsConfig {
    /// The endpoint; `https://storage.googleapis.com` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A service account's key file; else `GOOGLE_APPLICATION_CREDENTIALS` and the metadata server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<PathBuf>,
    /// The storage class of new objects, such as `NEARLINE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
}

/// Durations in the form `20s`, `1m 30s` or `PT20S`; above zero.
mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, SignedDuration};

    #[expect(clippy::ref_option, reason = "serde gives the field by reference")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value.map(SignedDuration::try_from) {
            Some(Ok(duration)) => serializer.collect_str(&format_args!("{duration:#}")),
            Some(Err(error)) => Err(serde::ser::Error::custom(error)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed: SignedDuration = text.parse().map_err(serde::de::Error::custom)?;
        match Duration::try_from(parsed) {
            Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
            _ => Err(serde::de::Error::custom("a duration must be above zero")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<StoreConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_round_trip_and_leave_out_what_is_not_set() {
        let json =
            r#"{"request_timeout":"1m 30s","s3":{"endpoint":"https://s3.example","sse":"aws:kms:dsse"}}"#;
        let config = read(json).unwrap();
        assert_eq!(config.request_timeout, Some(Duration::from_secs(90)));
        assert_eq!(config.s3.sse, Some(ServerSideEncryption::AwsKmsDsse));
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(read(&again).unwrap(), config);
        assert!(!again.contains("region"), "{again}");
    }

    #[test]
    fn unknown_settings_and_secrets_are_refused() {
        for json in [
            r#"{"s3":{"secret_access_key":"x"}}"#,
            r#"{"azure":{"account_key":"x"}}"#,
            r#"{"requst_timeout":"3s"}"#,
        ] {
            assert!(read(json).unwrap_err().contains("unknown field"), "{json}");
        }
        assert!(read(r#"{"request_timeout":"0s"}"#).unwrap_err().contains("above zero"));
        assert!(read(r#"{"request_timeout":"soon"}"#).is_err());
    }
}
