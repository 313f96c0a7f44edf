//! Credentials from the AWS configuration files: profiles, SSO, AssumeRole chains, `credential_process`.
//!
//! object_store reads none of these. Only the credentials come through the AWS SDK; every request for data stays on
//! the one data plane.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

/// Credentials are renewed when they are valid for less than this.
const RENEW_BEFORE: Duration = Duration::from_mins(5);

/// Credentials as the AWS SDK finds them.
pub(crate) struct SdkCredentials {
    profile: Option<String>,
    region: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    provider: Option<SharedCredentialsProvider>,
    current: Option<(Arc<AwsCredential>, Option<SystemTime>)>,
}

impl std::fmt::Debug for SdkCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SdkCredentials").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl SdkCredentials {
    pub(crate) fn new(profile: Option<String>, region: Option<String>) -> Self {
        Self { profile, region, state: Mutex::default() }
    }

    async fn load(&self) -> Option<SharedCredentialsProvider> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        loader.load().await.credentials_provider()
    }
}

fn is_fresh(expiry: Option<SystemTime>) -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "credentials expire by the wall clock, and only that is asked"
    )]
    let now = SystemTime::now();
    expiry.is_none_or(|expiry| expiry > now + RENEW_BEFORE)
}

#[async_trait]
impl CredentialProvider for SdkCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut state = self.state.lock().await;
        if let Some((credential, expiry)) = &state.current
            && is_fresh(*expiry)
        {
            return Ok(Arc::clone(credential));
        }
        if state.provider.is_none() {
            state.provider = self.load().await;
        }
        let Some(provider) = &state.provider else {
            return Err(denied("the AWS configuration names no credentials".into()));
        };
        let found = provider.provide_credentials().await.map_err(|error| denied(Box::new(error)))?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        state.current = Some((Arc::clone(&credential), found.expiry()));
        Ok(credential)
    }
}

fn denied(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Unauthenticated { path: "credentials".to_owned(), source }
}
