//! TLS on the data plane: a certificate authority of one's own, and nothing without it.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use walden_core::{ErrorKind, ObjectKey};
use walden_store::{CreateOutcome, Expected, RetryBudget, S3Config, StoreConfig};
use walden_testkit::conformance::seal;
use walden_testkit::stores::S3Server;

/// Puts TLS in front of a server; returns the port and a file with the authority's certificate.
async fn tls_in_front_of(server: &S3Server) -> (u16, tempfile::NamedTempFile) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut bundle = tempfile::NamedTempFile::new().unwrap();
    let certificate = authority.self_signed(&authority_key).unwrap();
    bundle.write_all(certificate.pem().as_bytes()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let target = server.endpoint().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (port, bundle)
}

#[tokio::test]
async fn an_own_authority_is_trusted_when_named_and_only_then() {
    let server = S3Server::start().unwrap();
    let (port, bundle) = tls_in_front_of(&server).await;
    let open = |ca_bundle, unsigned_payload| {
        let endpoint = Some(format!("https://127.0.0.1:{port}"));
        let s3 = S3Config { endpoint, unsigned_payload, ..S3Config::default() };
        server.store("prefix").open(&StoreConfig { ca_bundle, s3, ..StoreConfig::default() }).unwrap()
    };
    let object = seal("name", b"plain", 1).unwrap();
    for (n, unsigned) in [None, Some(false), Some(true)].into_iter().enumerate() {
        let store = open(Some(bundle.path().to_owned()), unsigned);
        let budget = RetryBudget::seeded(Duration::from_mins(1), 1);
        let key = ObjectKey::parse(&format!("main/{n}.zst")).unwrap();
        let outcome = store.create_once(&key, &object, &budget).await.unwrap();
        assert_eq!(outcome, CreateOutcome::Created);
        let expected = Expected { name: "name", max_plain_bytes: 100 };
        let opened = store.fetch_sealed(&key, expected, || Ok(Vec::new()), &budget).await.unwrap();
        assert_eq!(opened.plain, b"plain");
    }
    let budget = RetryBudget::seeded(Duration::from_mins(1), 1);
    let key = ObjectKey::parse("main/none.zst").unwrap();
    let store = open(None, None);
    let error = store.create_once(&key, &object, &budget).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.hint().unwrap().contains("ca_bundle"), "{:?}", error.hint());
    assert_eq!(store.counters().put.requests, 1, "it is not tried again");
}
