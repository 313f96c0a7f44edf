//! Opening a store: from URL, settings and environment to a client.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::{
    Attribute, Attributes, BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig,
};
use url::Url;

use crate::config::{CONNECT_TIMEOUT, StoreConfig, UploadChecksum};
use crate::counters::Counters;
use crate::environment::Environment;
use crate::error::{Cause, StoreError};
use crate::http::{CountingConnector, chain};
use crate::local::LocalStore;
use crate::paced::PacedClient;
use crate::rate::RateLimiter;
use crate::remove::{AZURE_KEYS_MAX, LOCAL_KEYS_MAX, RemovalMode, S3_KEYS_MAX};
use crate::s3::{S3Objects, S3Requests};
use crate::store::{Store, Transport};
use crate::url::{Scheme, StoreUrl};

/// How we call ourselves.
const AGENT: &str = concat!("walden/", env!("CARGO_PKG_VERSION"));
/// Idle connections are dropped before the services drop them, so that a request rarely meets a closing one.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// A certificate bundle is never larger, in bytes.
const CA_BUNDLE_BYTES_MAX: u64 = 16 << 20;
/// Azure's emulator has one account, whose name and key are the same everywhere and public.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000";

impl Store {
    /// Opens the store at `url`. Nothing is sent yet: wrong credentials and missing buckets show with the first
    /// request.
    ///
    /// # Errors
    /// [`StoreError::Config`] when the settings contradict each other or can't be used.
    pub fn open(url: &StoreUrl, config: &StoreConfig, environment: &Environment) -> Result<Self, StoreError> {
        install_tls();
        let counters: Arc<Counters> = Arc::default();
        let limiter = config.max_rate.map(RateLimiter::new);
        let setup = Setup { url, config, environment, counters: &counters, limiter: limiter.as_ref() };
        let (client, transport, attributes) = match url.scheme() {
            Scheme::File => {
                let directory = url.directory().unwrap_or_default();
                let objects: Arc<dyn ObjectStore> = Arc::new(LocalStore::new(directory, limiter.clone()));
                let removal = RemovalMode::Batches(LOCAL_KEYS_MAX);
                let client = Client { objects, pages: None, at: String::new(), removal, bucket: None };
                (client, Transport::Direct, Attributes::new())
            }
            Scheme::S3 => (setup.s3()?, Transport::Http, storage_class(config.s3.storage_class.as_deref())?),
            Scheme::Azure => {
                (setup.azure()?, Transport::Http, storage_class(config.azure.access_tier.as_deref())?)
            }
            Scheme::Gcs => {
                (setup.gcs()?, Transport::Http, storage_class(config.gcs.storage_class.as_deref())?)
            }
        };
        let Client { objects, pages, at, removal, bucket } = client;
        let store = Self::new(url.clone(), objects, transport, config.try_limits(), attributes, counters);
        let store = store.with_identity(&at).with_limiter(limiter).with_pages(pages);
        Ok(store.with_removal(removal).with_bucket(bucket))
    }

    /// Makes the directory of a `file://` store if it is missing; does nothing for the others, whose buckets are
    /// for their owners to make.
    ///
    /// # Errors
    /// [`StoreError::LocalIo`].
    pub async fn create_root(&self) -> Result<(), StoreError> {
        let Some(directory) = self.url().directory() else { return Ok(()) };
        let path = directory.display().to_string();
        let made = tokio::task::spawn_blocking(move || LocalStore::create_root(&directory)).await;
        let made = made.map_err(|error| StoreError::Internal { message: error.to_string() })?;
        made.map_err(|source| StoreError::LocalIo { action: "make the directory", path, source })
    }
}

/// Chooses ring for TLS, once for the process; another choice of the embedding program stands.
fn install_tls() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// All repetition is ours: see [`crate::RetryBudget`].
fn no_retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

fn storage_class(class: Option<&str>) -> Result<Attributes, StoreError> {
    let Some(class) = class else { return Ok(Attributes::new()) };
    if class.is_empty() || !class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(StoreError::config(format!("storage class is not valid class={class:?}"), None));
    }
    if ["GLACIER", "DEEP_ARCHIVE", "ARCHIVE"].contains(&class.to_ascii_uppercase().as_str()) {
        let hint = "objects of this class must be restored for hours before they can be read: use a lifecycle rule \
                    for what is old, and one that can be read at once for what is new";
        return Err(StoreError::config(
            format!("storage class can't be read at once class={class}"),
            Some(hint),
        ));
    }
    Ok(Attributes::from_iter([(Attribute::StorageClass, class.to_owned())]))
}

/// Checks an endpoint and takes it apart.
fn parse_endpoint(what: &str, endpoint: &str) -> Result<Url, StoreError> {
    let refuse = |reason: &str| Err(StoreError::config(format!("{what} is not valid: {reason}"), None));
    let Ok(url) = Url::parse(endpoint) else {
        return refuse("write it as https://host or https://host:port");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("credentials come from the environment, never from a URL");
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return refuse("write it as https://host or https://host:port");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("it has a query or a fragment");
    }
    Ok(url)
}

/// How [`Store::identity`] names an endpoint.
pub(crate) fn at_endpoint(endpoint: Option<&Url>) -> String {
    endpoint.map(|endpoint| format!(" endpoint={endpoint}")).unwrap_or_default()
}

/// Whether bodies are left out of the signature, which saves hashing each of them a second time. Only where TLS reaches from
/// here to the vendor's own endpoint, as the vendor's own tools do it. In front of other endpoints a gateway often ends TLS,
/// and behind it the signature is all that would notice a changed byte; so there it takes a word of the user's.
fn is_payload_unsigned(asked: Option<bool>, has_endpoint: bool) -> bool {
    asked.unwrap_or(!has_endpoint)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn client_error(service: &str, error: &object_store::Error) -> StoreError {
    StoreError::Config {
        message: format!("{service} client can't be set up"),
        hint: Some("look at the settings and at the vendor's environment variables"),
        source: Some(Cause::detail(chain(error))),
    }
}

fn paced_error(error: &reqwest::Error) -> StoreError {
    StoreError::Config {
        message: "client with a limited rate can't be set up".to_owned(),
        hint: None,
        source: Some(Cause::detail(chain(error))),
    }
}

/// A client, and what is known of it.
struct Client {
    objects: Arc<dyn ObjectStore>,
    /// The same client, when it can list one page at a time in the order of the keys.
    pages: Option<Arc<dyn PaginatedListStore>>,
    /// Where it goes beyond what the URL says: the part of [`Store::identity`] after the URL.
    at: String,
    removal: RemovalMode,
    /// A way to ask an S3 bucket itself.
    bucket: Option<Arc<S3Requests>>,
}

impl Client {
    fn of<C: ObjectStore + PaginatedListStore>(client: C, at: String, removal: RemovalMode) -> Self {
        let client = Arc::new(client);
        Self { objects: Arc::clone(&client) as _, pages: Some(client), at, removal, bucket: None }
    }
}

/// Where object_store will ask for the bucket that a builder describes, without a slash at the end.
fn bucket_url(builder: &AmazonS3Builder, endpoint: Option<&str>, bucket: &str, region: &str) -> String {
    let virtual_hosted = builder.get_config_value(&AmazonS3ConfigKey::VirtualHostedStyleRequest);
    let virtual_hosted = virtual_hosted.is_some_and(|value| value == "true");
    match (endpoint.map(|endpoint| endpoint.trim_end_matches('/')), virtual_hosted) {
        (Some(endpoint), true) => endpoint.to_owned(),
        (Some(endpoint), false) => format!("{endpoint}/{bucket}"),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    }
}

/// What every builder needs.
pub(crate) struct Setup<'a> {
    pub(crate) url: &'a StoreUrl,
    pub(crate) config: &'a StoreConfig,
    pub(crate) environment: &'a Environment,
    pub(crate) counters: &'a Arc<Counters>,
    pub(crate) limiter: Option<&'a RateLimiter>,
}

impl Setup<'_> {
    fn bucket(&self) -> &str {
        self.url.bucket().unwrap_or_default()
    }

    fn connector(&self, allow_http: bool) -> Result<CountingConnector, StoreError> {
        let paced = self.limiter.map(|limiter| self.paced_client(limiter, allow_http)).transpose()?;
        Ok(CountingConnector { counters: Arc::clone(self.counters), bucket: self.bucket().to_owned(), paced })
    }

    /// A client like the one that [`Self::client_options`] describe, which bodies can be paced through.
    fn paced_client(&self, limiter: &RateLimiter, allow_http: bool) -> Result<PacedClient, StoreError> {
        let mut certificates = Vec::new();
        if let Some(pem) = self.ca_pem()? {
            certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| paced_error(&error))?;
        }
        let client = reqwest::Client::builder()
            .user_agent(AGENT)
            .tls_certs_merge(certificates)
            .connect_timeout(self.config.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .https_only(!allow_http)
            .http1_only();
        let client = client.build().map_err(|error| paced_error(&error))?;
        Ok(PacedClient::new(client, limiter.clone()))
    }

    /// The certificates to trust besides the system's.
    fn ca_pem(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let bundle = self.config.ca_bundle.as_deref();
        bundle.or(self.environment.get("AWS_CA_BUNDLE").map(Path::new)).map(read_ca_bundle).transpose()
    }

    /// Refuses plain HTTP unless it is allowed or stays on this machine.
    fn allow_http(&self, endpoint: Option<&Url>, variable: &str) -> Result<bool, StoreError> {
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.scheme() == "http") else {
            return Ok(false);
        };
        let by_variable =
            self.environment.get(variable).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if self.config.allow_http || by_variable || is_loopback(endpoint) {
            return Ok(true);
        }
        let hint = "use https, or set allow_http = true if the network in between may be trusted";
        Err(StoreError::config(format!("endpoint is not encrypted endpoint={endpoint}"), Some(hint)))
    }

    fn client_options(&self, allow_http: bool) -> Result<ClientOptions, StoreError> {
        let mut options = ClientOptions::new()
            .with_user_agent(HeaderValue::from_static(AGENT))
            .with_allow_http(allow_http)
            // Every try has its own deadline, which depends on its size.
            .with_timeout_disabled()
            .with_connect_timeout(self.config.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
            .with_pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .with_default_content_type("application/octet-stream")
            .with_content_type_for_suffix("zst", "application/zstd")
            .with_content_type_for_suffix("json", "application/json");
        if let Some(pem) = self.ca_pem()? {
            let certificates =
                Certificate::from_pem_bundle(&pem).map_err(|error| client_error("TLS", &error))?;
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        Ok(options)
    }

    /// The client's settings up to where it goes, and the endpoint.
    pub(crate) fn s3_place(&self) -> Result<(AmazonS3Builder, Option<Url>), StoreError> {
        let settings = &self.config.s3;
        let mut builder = AmazonS3Builder::new();
        for (name, value) in self.environment.with_prefix("AWS_") {
            use AmazonS3ConfigKey as K;
            match name.to_ascii_lowercase().parse::<K>() {
                // These are ours to decide; the rest is as object_store's own from_env reads it.
                Err(_) | Ok(K::Bucket | K::Client(_) | K::ConditionalPut | K::CopyIfNotExists) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        let endpoint = builder
            .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint))
            .map(|endpoint| parse_endpoint("S3 endpoint", &endpoint))
            .transpose()?;
        Ok((builder, endpoint))
    }

    fn s3(&self) -> Result<Client, StoreError> {
        let settings = &self.config.s3;
        let (mut builder, endpoint) = self.s3_place()?;
        let at = at_endpoint(endpoint.as_ref());
        let allow_http = self.allow_http(endpoint.as_ref(), "AWS_ALLOW_HTTP")?;
        builder = self.s3_addressing(builder, endpoint.as_ref())?;
        builder = self.s3_encryption(builder)?;
        let by_variable = builder
            .get_config_value(&AmazonS3ConfigKey::UnsignedPayload)
            .filter(|_| self.environment.get("AWS_UNSIGNED_PAYLOAD").is_some())
            .and_then(|value| value.parse().ok());
        let asked = settings.unsigned_payload.or(by_variable);
        builder = builder.with_unsigned_payload(is_payload_unsigned(asked, endpoint.is_some()));
        if let Some(checksum) = settings.checksum {
            builder = builder.with_checksum_algorithm(match checksum {
                UploadChecksum::Sha256 => Checksum::SHA256,
                UploadChecksum::Crc64nvme => Checksum::CRC64NVME,
            });
        }
        builder = self.s3_credentials(builder)?;
        let express = builder.get_config_value(&AmazonS3ConfigKey::S3Express);
        let directory_bucket =
            self.bucket().ends_with("--x-s3") || express.is_some_and(|express| express == "true");
        let is_set = |key| builder.get_config_value(&key).is_some_and(|value| value == "true");
        let (sign, sign_payload, request_payer, singly) = (
            !is_set(AmazonS3ConfigKey::SkipSignature),
            !is_set(AmazonS3ConfigKey::UnsignedPayload),
            is_set(AmazonS3ConfigKey::RequestPayer),
            is_set(AmazonS3ConfigKey::DisableBulkDelete),
        );
        let region =
            builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        let at_url = builder
            .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
        let bucket_url = bucket_url(&builder, at_url.as_deref(), self.bucket(), &region);
        let (options, connector) = (self.client_options(allow_http)?, self.connector(allow_http)?);
        let http = connector.connect(&options).map_err(|error| client_error("S3", &error))?;
        let client = builder
            .with_bucket_name(self.bucket())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(options)
            .with_retry(no_retries())
            .with_http_connector(connector)
            .build();
        let objects = Arc::new(client.map_err(|error| client_error("S3", &error))?);
        if directory_bucket {
            // They list in any order and from the beginning, and want credentials of a session.
            let removal = RemovalMode::SideBySide;
            return Ok(Client { objects, pages: None, at, removal, bucket: None });
        }
        let pages: Arc<dyn PaginatedListStore> = Arc::clone(&objects) as _;
        let requests = Arc::new(S3Requests {
            client: http,
            objects: Arc::clone(&objects),
            bucket_url,
            region,
            sign,
            sign_payload,
            request_payer,
        });
        let bucket = Some(Arc::clone(&requests));
        Ok(if singly {
            Client { objects, pages: Some(pages), at, removal: RemovalMode::SideBySide, bucket }
        } else {
            let removal = RemovalMode::Batches(S3_KEYS_MAX);
            Client { objects: Arc::new(S3Objects(requests)), pages: Some(pages), at, removal, bucket }
        })
    }

    /// Decides between the bucket in the path and in the host name.
    fn s3_addressing(
        &self,
        builder: AmazonS3Builder,
        endpoint: Option<&Url>,
    ) -> Result<AmazonS3Builder, StoreError> {
        let bucket = self.bucket();
        let by_variable = self
            .environment
            .get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
            .map(|value| !matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"));
        // A certificate for *.s3.amazonaws.com does not cover a name with more dots.
        let unless_set = endpoint.is_some() || bucket.contains('.') || bucket.contains('_');
        let path_style = self.config.s3.path_style.or(by_variable).unwrap_or(unless_set);
        let builder = builder.with_virtual_hosted_style_request(!path_style);
        let Some(endpoint) = endpoint.filter(|_| !path_style) else { return Ok(builder) };
        let host = endpoint.host_str().unwrap_or_default();
        if host.starts_with(&format!("{bucket}.")) {
            return Ok(builder);
        }
        let mut with_bucket = endpoint.clone();
        if with_bucket.set_host(Some(&format!("{bucket}.{host}"))).is_err() {
            let message = "bucket can't go into this endpoint's host name: set s3.path_style = true";
            return Err(StoreError::config(message, None));
        }
        let text = with_bucket.as_str().trim_end_matches('/');
        Ok(builder.with_config(AmazonS3ConfigKey::S3Endpoint, text))
    }

    fn s3_encryption(&self, mut builder: AmazonS3Builder) -> Result<AmazonS3Builder, StoreError> {
        let settings = &self.config.s3;
        // object_store keeps the enum of these keys to itself, but knows them by their names.
        let key = |name: &str| name.parse().map_err(|error| client_error("S3", &error));
        let sse_key: AmazonS3ConfigKey = key("aws_server_side_encryption")?;
        if let Some(sse) = settings.sse {
            builder = builder.with_config(sse_key, sse.as_str());
        }
        if let Some(id) = &settings.kms_key_id {
            if !builder.get_config_value(&sse_key).is_some_and(|sse| sse.starts_with("aws:kms")) {
                return Err(StoreError::config(
                    "s3.kms_key_id needs s3.sse = \"aws:kms\" or \"aws:kms:dsse\"",
                    None,
                ));
            }
            builder = builder.with_config(key("aws_sse_kms_key_id")?, id);
        }
        if let Some(enabled) = settings.bucket_key {
            builder = builder.with_config(key("aws_sse_bucket_key_enabled")?, enabled.to_string());
        }
        Ok(builder)
    }

    /// Whether credentials can only come from what object_store does not read: the AWS configuration files.
    fn wants_aws_sdk(&self) -> Option<&str> {
        let env = |name| self.environment.get(name);
        let has_keys = env("AWS_ACCESS_KEY_ID").is_some() || env("AWS_SKIP_SIGNATURE").is_some();
        match &self.config.s3.profile {
            Some(profile) => Some(profile),
            None if has_keys => None,
            None => env("AWS_PROFILE").or_else(|| env("AWS_DEFAULT_PROFILE")),
        }
    }

    #[cfg(not(feature = "aws-sdk"))]
    fn s3_credentials(&self, builder: AmazonS3Builder) -> Result<AmazonS3Builder, StoreError> {
        match self.wants_aws_sdk() {
            None => Ok(builder),
            Some(profile) => {
                let hint = "build walden with the cargo feature aws-sdk, or set AWS_ACCESS_KEY_ID and \
                            AWS_SECRET_ACCESS_KEY";
                let message = format!("this build can't read AWS profiles profile={profile}");
                Err(StoreError::config(message, Some(hint)))
            }
        }
    }

    #[cfg(feature = "aws-sdk")]
    #[expect(clippy::unnecessary_wraps, reason = "without the feature it can fail")]
    fn s3_credentials(&self, builder: AmazonS3Builder) -> Result<AmazonS3Builder, StoreError> {
        let env = |name| self.environment.get(name).is_some();
        let known_to_object_store = env("AWS_ACCESS_KEY_ID")
            || env("AWS_SKIP_SIGNATURE")
            || env("AWS_WEB_IDENTITY_TOKEN_FILE")
            || env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            || env("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        match self.wants_aws_sdk() {
            None if known_to_object_store => Ok(builder),
            profile => {
                let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
                let provider = crate::aws_sdk::SdkCredentials::new(profile.map(str::to_owned), region);
                Ok(builder.with_credentials(Arc::new(provider)))
            }
        }
    }

    /// The client's settings up to where it goes, the endpoint, and what both say of the place.
    pub(crate) fn azure_place(&self) -> Result<(MicrosoftAzureBuilder, Option<Url>, String), StoreError> {
        use AzureConfigKey as K;
        let settings = &self.config.azure;
        let mut builder = MicrosoftAzureBuilder::new();
        // Names of Azure's own tools that object_store does not know, first, so that its own win.
        let aliases = [
            ("AZURE_STORAGE_ACCOUNT", K::AccountName),
            ("AZURE_STORAGE_KEY", K::AccessKey),
            ("IDENTITY_ENDPOINT", K::MsiEndpoint),
        ];
        for (name, key) in aliases {
            if let Some(value) = self.environment.get(name) {
                builder = builder.with_config(key, value);
            }
        }
        for (name, value) in self.environment.with_prefix("AZURE_") {
            match name.to_ascii_lowercase().parse::<K>() {
                Err(_) | Ok(K::ContainerName | K::UseEmulator | K::Client(_)) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        let by_variable = self.environment.get("AZURE_STORAGE_USE_EMULATOR") == Some("true");
        let mut endpoint = settings.endpoint.clone();
        if settings.use_emulator || by_variable {
            let base = endpoint.as_deref().or(self.environment.get("AZURITE_BLOB_STORAGE_URL"));
            let base = base.unwrap_or(EMULATOR_ENDPOINT).trim_end_matches('/');
            endpoint = Some(format!("{base}/{EMULATOR_ACCOUNT}"));
            builder = builder.with_account(EMULATOR_ACCOUNT).with_access_key(EMULATOR_KEY);
        }
        if let Some(account) = &settings.account {
            builder = builder.with_account(account);
        }
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let Some(account) = builder.get_config_value(&K::AccountName) else {
            let hint = "set azure.account or AZURE_STORAGE_ACCOUNT_NAME";
            return Err(StoreError::config("no Azure storage account is named", Some(hint)));
        };
        let endpoint = builder
            .get_config_value(&K::Endpoint)
            .map(|endpoint| parse_endpoint("Azure endpoint", &endpoint))
            .transpose()?;
        let at = format!(" account={account}{}", at_endpoint(endpoint.as_ref()));
        Ok((builder, endpoint, at))
    }

    fn azure(&self) -> Result<Client, StoreError> {
        let (builder, endpoint, at) = self.azure_place()?;
        let allow_http = self.allow_http(endpoint.as_ref(), "AZURE_ALLOW_HTTP")?;
        let client = builder
            .with_container_name(self.bucket())
            .with_client_options(self.client_options(allow_http)?)
            .with_retry(no_retries())
            .with_http_connector(self.connector(allow_http)?)
            .build();
        Ok(Client::of(
            client.map_err(|error| client_error("Azure", &error))?,
            at,
            RemovalMode::Batches(AZURE_KEYS_MAX),
        ))
    }

    /// The client's settings up to where it goes, and the endpoint.
    pub(crate) fn gcs_place(&self) -> Result<(GoogleCloudStorageBuilder, Option<Url>), StoreError> {
        use GoogleConfigKey as K;
        let settings = &self.config.gcs;
        let mut builder = GoogleCloudStorageBuilder::new();
        if let Some(path) = self.environment.get("SERVICE_ACCOUNT") {
            builder = builder.with_config(K::ServiceAccount, path);
        }
        for (name, value) in self.environment.with_prefix("GOOGLE_") {
            match name.to_ascii_lowercase().parse::<K>() {
                Err(_) | Ok(K::Bucket | K::Client(_)) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        if let Some(path) = &settings.service_account {
            builder = builder.with_config(K::ServiceAccount, path.display().to_string());
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_config(K::BaseUrl, endpoint.trim_end_matches('/'));
        }
        let endpoint = builder
            .get_config_value(&K::BaseUrl)
            .or_else(|| self.gcs_endpoint_of_key(&builder))
            .map(|endpoint| parse_endpoint("GCS endpoint", &endpoint))
            .transpose()?;
        Ok((builder, endpoint))
    }

    fn gcs(&self) -> Result<Client, StoreError> {
        let (builder, endpoint) = self.gcs_place()?;
        let at = at_endpoint(endpoint.as_ref());
        let allow_http = self.allow_http(endpoint.as_ref(), "GOOGLE_ALLOW_HTTP")?;
        let client = builder
            .with_bucket_name(self.bucket())
            .with_client_options(self.client_options(allow_http)?)
            .with_retry(no_retries())
            .with_http_connector(self.connector(allow_http)?)
            .build();
        Ok(Client::of(client.map_err(|error| client_error("GCS", &error))?, at, RemovalMode::SideBySide))
    }

    /// A key may name an endpoint of its own, as those of emulators do.
    #[expect(clippy::unused_self, reason = "reads as one of the setup's questions")]
    fn gcs_endpoint_of_key(&self, builder: &GoogleCloudStorageBuilder) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Key {
            gcs_base_url: Option<String>,
        }
        let text = match builder.get_config_value(&GoogleConfigKey::ServiceAccountKey) {
            Some(key) => key,
            None => {
                std::fs::read_to_string(builder.get_config_value(&GoogleConfigKey::ServiceAccount)?).ok()?
            }
        };
        serde_json::from_str::<Key>(&text).ok()?.gcs_base_url
    }
}

/// Reads a file of certificates, and looks that it holds some.
fn read_ca_bundle(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |source| StoreError::LocalIo {
        action: "read the certificate bundle",
        path: path.display().to_string(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > CA_BUNDLE_BYTES_MAX {
        return Err(StoreError::config(
            format!("certificate bundle is too large path={}", path.display()),
            None,
        ));
    }
    let pem = std::fs::read(path).map_err(failed)?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| client_error("TLS", &error))?;
    if certificates.is_empty() {
        let message = format!("certificate bundle holds no certificate path={}", path.display());
        return Err(StoreError::config(message, Some("it must be a PEM file")));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, config: &str, environment: &[(&str, &str)]) -> Result<Store, StoreError> {
        let environment = environment.iter().copied().collect();
        Store::open(&url.parse().unwrap(), &serde_json::from_str(config).unwrap(), &environment)
    }

    const KEYS: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "sEcReT")];

    #[test]
    fn every_scheme_opens_without_a_request() {
        open("file:///nowhere", "{}", &[]).unwrap();
        open("s3://bucket/prefix", "{}", &KEYS).unwrap();
        open("az://container", r#"{"azure":{"use_emulator":true}}"#, &[]).unwrap();
        let key = r#"{"private_key":"x","private_key_id":"x","client_email":"a@b.c","disable_oauth":true,
                      "gcs_base_url":"http://127.0.0.1:1"}"#;
        let store = open("gs://bucket", "{}", &[("GOOGLE_SERVICE_ACCOUNT_KEY", key)]).unwrap();
        assert_eq!(store.counters().requests(), 0);
    }

    #[test]
    fn nothing_shows_a_secret() {
        let store = open("s3://bucket/prefix", "{}", &KEYS).unwrap();
        assert!(!format!("{store:?}").contains("sEcReT"));
        let refused =
            open("s3://bucket", r#"{"s3":{"endpoint":"https://user:sEcReT@host"}}"#, &KEYS).unwrap_err();
        assert!(!format!("{refused:?} {refused}").contains("sEcReT"), "{refused}");
    }

    #[test]
    fn the_same_url_elsewhere_is_another_store() {
        let at = |endpoint: &str| {
            let config = format!(r#"{{"s3":{{"endpoint":"{endpoint}"}}}}"#);
            open("s3://bucket/prefix", &config, &KEYS).unwrap().identity()
        };
        assert_eq!(at("http://127.0.0.1:9000"), "s3://bucket/prefix endpoint=http://127.0.0.1:9000/");
        assert_ne!(at("http://127.0.0.1:9000"), at("http://127.0.0.1:9001"));
        assert_eq!(open("s3://bucket", "{}", &KEYS).unwrap().identity(), "s3://bucket");
        assert_eq!(open("file:///nowhere", "{}", &[]).unwrap().identity(), "file:///nowhere");
        let emulator = open("az://container", r#"{"azure":{"use_emulator":true}}"#, &[]).unwrap().identity();
        assert!(emulator.starts_with("az://container account=devstoreaccount1 endpoint="), "{emulator}");
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_allowed() {
        let endpoint = |endpoint: &str, more: &str| {
            open("s3://bucket", &format!(r#"{{"s3":{{"endpoint":"{endpoint}"}}{more}}}"#), &KEYS)
        };
        endpoint("http://127.0.0.1:9000", "").unwrap();
        endpoint("http://localhost:9000", "").unwrap();
        endpoint("http://[::1]:9000", "").unwrap();
        endpoint("http://minio.example:9000", r#","allow_http":true"#).unwrap();
        let refused = endpoint("http://minio.example:9000", "").unwrap_err();
        assert!(refused.hint().unwrap().contains("allow_http"), "{refused}");
        let environment =
            [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", "http://minio.example"), ("AWS_ALLOW_HTTP", "true")];
        open("s3://bucket", "{}", &environment).unwrap();
        open("s3://bucket", "{}", &environment[..3]).unwrap_err();
    }

    /// What a PUT to a plain endpoint says of its body's hash.
    async fn announced_hash(setting: &str, environment: &[(&str, &str)]) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            while !String::from_utf8_lossy(&request).contains("the body") {
                let read = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        let config = format!(r#"{{"s3":{{"endpoint":"http://127.0.0.1:{port}"{setting}}}}}"#);
        let environment: Vec<_> = KEYS.iter().chain(environment).copied().collect();
        let store = open("s3://bucket", &config, &environment).unwrap();
        let key = walden_core::ObjectKey::parse("main/x.json").unwrap();
        let body = bytes::Bytes::from_static(b"the body");
        store
            .create_record_once(&key, &body, &crate::RetryBudget::new(Duration::from_secs(20)))
            .await
            .unwrap();
        let request = server.join().unwrap().to_ascii_lowercase();
        let line = request.lines().find_map(|line| line.strip_prefix("x-amz-content-sha256: "));
        line.unwrap().to_owned()
    }

    #[tokio::test]
    async fn bodies_on_a_plain_connection_are_signed_unless_the_user_says_otherwise() {
        let hash = walden_core::sha256_hex(b"the body");
        assert_eq!(announced_hash("", &[]).await, hash);
        assert_eq!(announced_hash(r#","unsigned_payload":false"#, &[]).await, hash);
        assert_eq!(announced_hash(r#","unsigned_payload":true"#, &[]).await, "unsigned-payload");
        let variable = [("AWS_UNSIGNED_PAYLOAD", "true")];
        assert_eq!(announced_hash("", &variable).await, "unsigned-payload");
        assert_eq!(announced_hash(r#","unsigned_payload":false"#, &variable).await, hash);
    }

    #[test]
    fn bodies_for_the_vendors_own_endpoint_are_not_hashed_again_unless_the_user_says_otherwise() {
        assert!(is_payload_unsigned(None, false) && is_payload_unsigned(Some(true), false));
        assert!(!is_payload_unsigned(Some(false), false) && !is_payload_unsigned(None, true));
    }

    #[cfg(not(feature = "aws-sdk"))]
    #[test]
    fn a_profile_names_the_feature_that_it_needs() {
        for refused in [
            open("s3://bucket", "{}", &[("AWS_PROFILE", "backup")]),
            open("s3://bucket", r#"{"s3":{"profile":"backup"}}"#, &KEYS),
        ] {
            let refused = refused.unwrap_err();
            assert!(refused.to_string().contains("profile=backup"), "{refused}");
            assert!(refused.hint().unwrap().contains("aws-sdk"));
        }
        open("s3://bucket", "{}", &[KEYS[0], KEYS[1], ("AWS_PROFILE", "backup")]).unwrap();
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (url, config, reason) in [
            ("s3://bucket", r#"{"s3":{"kms_key_id":"k"}}"#, "needs s3.sse"),
            ("s3://bucket", r#"{"s3":{"sse":"AES256","kms_key_id":"k"}}"#, "needs s3.sse"),
            ("s3://bucket", r#"{"s3":{"storage_class":"DEEP_ARCHIVE"}}"#, "can't be read at once"),
            ("s3://bucket", r#"{"s3":{"storage_class":"A\nB"}}"#, "not valid"),
            ("s3://bucket", r#"{"s3":{"endpoint":"ftp://host"}}"#, "https://host"),
            ("az://container", "{}", "no Azure storage account"),
            ("s3://bucket", r#"{"ca_bundle":"/nowhere.pem"}"#, "certificate bundle"),
        ] {
            let refused = open(url, config, &KEYS).unwrap_err();
            assert!(refused.to_string().contains(reason), "{config}: {refused}");
        }
        open("s3://bucket", r#"{"s3":{"sse":"aws:kms","kms_key_id":"k","bucket_key":true}}"#, &KEYS).unwrap();
    }
}
