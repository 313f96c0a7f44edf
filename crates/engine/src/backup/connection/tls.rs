//! TLS towards PostgreSQL, with libpq's meaning of `sslmode`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;
use walden_core::ErrorKind;

use super::TlsMode;
use crate::error::{EngineError, Result};

/// Makes the TLS side of connections.
pub(in crate::backup) type Connector = MakeRustlsConnect;

/// Where the certificates of authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// A file with certificates in PEM form.
    File(PathBuf),
    /// Those that the operating system trusts.
    System,
}

/// What TLS needs to know.
#[derive(Debug, Clone)]
pub(super) struct TlsOptions {
    pub(super) mode: TlsMode,
    pub(super) roots: Option<Roots>,
    /// The client's certificate and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

fn failed(what: &str, path: &Path, reason: &dyn std::fmt::Display) -> EngineError {
    EngineError::failed(
        ErrorKind::Config,
        format!("cannot use the {what} path={} reason={reason}", path.display()),
    )
}

impl TlsOptions {
    /// A connector that keeps to these options.
    ///
    /// # Errors
    /// Kind `config` when a certificate or key can't be used, or one is needed and not there.
    pub(super) fn connector(&self) -> Result<Connector> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| EngineError::failed(ErrorKind::Internal, format!("no TLS version: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(&provider)?);
        let config = match self.client.as_ref().filter(|_| self.mode != TlsMode::Disable) {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read_certificates(certificate)?;
                let private =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| failed("client key", key, &error))?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| failed("client certificate", certificate, &error))?
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
        let check = match (self.mode, &self.roots) {
            (TlsMode::Disable | TlsMode::Prefer, _) | (TlsMode::Require, None) => Check::Nothing,
            // libpq: with a root certificate at hand "require" checks it.
            (TlsMode::Require | TlsMode::VerifyCa, Some(roots)) => Check::Authority(read_roots(roots)?),
            (TlsMode::VerifyFull, Some(roots)) => {
                let roots = Arc::new(read_roots(roots)?);
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
                return match verifier {
                    Ok(verifier) => Ok(verifier),
                    Err(error) => Err(EngineError::failed(
                        ErrorKind::Config,
                        format!("cannot use the root certificates: {error}"),
                    )),
                };
            }
            (TlsMode::VerifyCa | TlsMode::VerifyFull, None) => {
                let message =
                    "sslmode demands a check of the server's certificate and there is no root certificate";
                return Err(EngineError::failed(ErrorKind::Config, message)
                    .with_hint("name one with sslrootcert or PGSSLROOTCERT, or sslrootcert=system"));
            }
        };
        Ok(Arc::new(Verifier { provider: Arc::clone(provider), check }))
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| failed("certificate", path, &error))?;
    if certificates.is_empty() {
        return Err(failed("certificate", path, &"it holds none"));
    }
    Ok(certificates)
}

fn read_roots(roots: &Roots) -> Result<RootCertStore> {
    let certificates = match roots {
        Roots::File(path) => read_certificates(path)?,
        Roots::System => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(EngineError::failed(ErrorKind::Config, "there is no usable root certificate"));
    }
    Ok(store)
}

/// How much of a server's certificate is checked.
#[derive(Debug)]
enum Check {
    /// Nothing: the connection is private against listeners only, as `require` alone is with libpq.
    Nothing,
    /// That an authority signed it, for whatever host.
    Authority(RootCertStore),
}

/// Checks less than a browser would, where `sslmode` says so. Signatures of the handshake are always checked.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    check: Check,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if let Check::Authority(roots) = &self.check {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
