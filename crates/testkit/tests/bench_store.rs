//! The object store of `cargo xtask bench` is an object store.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use walden_store::StoreConfig;
use walden_testkit::bench::store::{BenchStore, stored};
use walden_testkit::conformance::{Subject, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_conformance_suite_and_counts() {
    let server = std::sync::Arc::new(BenchStore::start().unwrap());
    server.make_bucket("bucket");
    let missing = server.store("no-such-bucket", "prefix").open(&StoreConfig::default()).unwrap();
    let endpoint = format!("http://{}", server.address());
    let opened = std::sync::Arc::clone(&server);
    let subject = Subject::new(move |name| opened.store("bucket", name).open(&StoreConfig::default()));
    let failures = run(&Subject { missing_bucket: Some(missing), ..subject }).await;
    let text: Vec<_> = failures.iter().map(|(check, failed)| format!("{check}: {}", failed.0)).collect();
    assert!(failures.is_empty(), "{} checks failed:\n{}", text.len(), text.join("\n"));

    let requests = server.take_requests("bucket");
    assert!(requests["PUT"] > 10 && requests["GET"] > 10, "{requests:?}");
    assert!(server.take_requests("bucket").is_empty());
    server.make_bucket("fresh");
    assert_eq!(put(server.address(), "/fresh/a%20b/c", "hello"), "HTTP/1.1 200 OK");
    assert_eq!(server.take_requests("fresh").get("PUT"), Some(&1));
    assert_eq!(stored(&endpoint, "fresh").unwrap(), [("a b/c".to_owned(), 5)]);
    assert!(server.take_requests("fresh").is_empty(), "looking is no request");
    server.drop_bucket("fresh");
    assert!(put(server.address(), "/fresh/a", "hello").starts_with("HTTP/1.1 404"));
}

fn put(address: SocketAddr, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}
