//! Which store it is and with which settings, said without opening it: no client, no TLS, no request.
//!
//! For programs that start a hundred times a minute and mostly only ask another process of this machine.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::config::StoreConfig;
use crate::environment::Environment;
use crate::error::StoreError;
use crate::open::{Setup, at_endpoint};
use crate::url::{Scheme, StoreUrl};

/// The variables from which credentials and vendors' settings come, by the beginning of their names.
const VENDOR_VARIABLES: [&str; 5] = ["AWS_", "AZURE_", "AZURITE_", "GOOGLE_", "IDENTITY_"];
/// The same for those with a whole name.
const VENDOR_VARIABLE: &str = "SERVICE_ACCOUNT";

/// What [`crate::Store::identity`] of the opened store will say.
///
/// # Errors
/// As [`crate::Store::open`] where the place is concerned; other settings are not looked at.
pub fn store_identity(
    url: &StoreUrl,
    config: &StoreConfig,
    environment: &Environment,
) -> Result<String, StoreError> {
    let setup = Setup { url, config, environment, counters: &Arc::default(), limiter: None };
    let at = match url.scheme() {
        Scheme::File => String::new(),
        Scheme::S3 => at_endpoint(setup.s3_place()?.1.as_ref()),
        Scheme::Azure => setup.azure_place()?.2,
        Scheme::Gcs => at_endpoint(setup.gcs_place()?.1.as_ref()),
    };
    Ok(format!("{url}{at}"))
}

/// Stands for all settings and credentials of a store: equal when those are.
///
/// It is made from secrets. It is for comparing in memory and between processes of one user; it is never logged,
/// shown or kept in a file.
#[derive(Clone, PartialEq, Eq)]
pub struct SettingsFingerprint([u8; 32]);

impl SettingsFingerprint {
    /// Takes what [`Self::to_hex`] gave; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// 64 hex digits, for another process of the same user.
    #[must_use]
    pub fn to_hex(&self) -> String {
        use fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl fmt::Debug for SettingsFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SettingsFingerprint(..)")
    }
}

/// The fingerprint of the settings and of the vendors' variables, credentials included. What is in files that they
/// name is not looked at: those are read anew when they change.
#[must_use]
pub fn settings_fingerprint(config: &StoreConfig, environment: &Environment) -> SettingsFingerprint {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    };
    // Never fails: there are no maps with keys that aren't text.
    add(&serde_json::to_string(config).unwrap_or_default());
    for prefix in VENDOR_VARIABLES {
        for (name, value) in environment.with_prefix(prefix) {
            add(name);
            add(value);
        }
    }
    add(environment.get(VENDOR_VARIABLE).unwrap_or_default());
    SettingsFingerprint(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn the_identity_is_that_of_the_opened_store() {
        let keys = [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "sEcReT")];
        let google = r#"{"private_key":"x","private_key_id":"x","client_email":"a@b.c","disable_oauth":true,
                        "gcs_base_url":"http://127.0.0.1:1"}"#;
        for (url, config, environment) in [
            ("file:///nowhere", "{}", vec![]),
            ("s3://bucket/prefix", "{}", keys.to_vec()),
            ("s3://bucket", r#"{"s3":{"endpoint":"http://127.0.0.1:9000"}}"#, keys.to_vec()),
            ("s3://bucket", "{}", [&keys[..], &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9")]].concat()),
            ("az://container", r#"{"azure":{"use_emulator":true}}"#, vec![]),
            ("gs://bucket", "{}", vec![("GOOGLE_SERVICE_ACCOUNT_KEY", google)]),
        ] {
            let url: StoreUrl = url.parse().unwrap();
            let config: StoreConfig = serde_json::from_str(config).unwrap();
            let environment: Environment = environment.into_iter().collect();
            let opened = Store::open(&url, &config, &environment).unwrap();
            assert_eq!(store_identity(&url, &config, &environment).unwrap(), opened.identity());
        }
    }

    #[test]
    fn the_fingerprint_changes_with_settings_and_credentials_and_shows_neither() {
        let of = |config: &str, environment: &[(&str, &str)]| {
            let config = serde_json::from_str(config).unwrap();
            settings_fingerprint(&config, &environment.iter().copied().collect())
        };
        let keys = of("{}", &[("AWS_SECRET_ACCESS_KEY", "one")]);
        assert_eq!(keys, of("{}", &[("AWS_SECRET_ACCESS_KEY", "one"), ("PATH", "/bin")]));
        assert_ne!(keys, of("{}", &[("AWS_SECRET_ACCESS_KEY", "two")]));
        assert_ne!(keys, of(r#"{"allow_http":true}"#, &[("AWS_SECRET_ACCESS_KEY", "one")]));
        assert_ne!(of("{}", &[("AWS_A", "bAWS_Cd")]), of("{}", &[("AWS_A", "b"), ("AWS_C", "d")]));
        assert_eq!(SettingsFingerprint::from_hex(&keys.to_hex()), Some(keys.clone()));
        assert_eq!(SettingsFingerprint::from_hex("é"), None);
        assert!(!format!("{keys:?}").contains(&keys.to_hex()[..8]));
    }
}
