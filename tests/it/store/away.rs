//! Services that are not there, never answer, or say no.

use std::time::{Duration, Instant};

use datafusion::prelude::{CsvReadOptions, SessionContext};
use tidemill::{
    error::ErrorKind,
    store::{Created, Hidden, Staged, Store, StoreOptions, StoreTimeouts},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::{
    bytes, read,
    s3_server::{self, S3Server},
};
use crate::support;

async fn all_unavailable(store: &Store, address: &str, limit: Duration) {
    let staged = Staged {
        path: "part-0".into(),
        hidden: if store.url().starts_with("s3") {
            Hidden::Upload { id: "x".into(), parts: vec!["y".into()] }
        } else {
            Hidden::File { path: ".part-0.job.tmp".into() }
        },
        size_bytes: 1,
        crc32: 1,
    };
    let start = Instant::now();
    let errors = [
        store.create("a", bytes("x")).await.unwrap_err(),
        store.read("a").await.unwrap_err(),
        store.list_all("").await.unwrap_err(),
        store.delete("a").await.unwrap_err(),
        store.stage("a", "job").await.unwrap_err(),
        store.publish(&staged).await.unwrap_err(),
    ];
    for error in &errors {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(address) && error.to_string().contains("help:"), "{error}");
    }
    let mean = start.elapsed() / u32::try_from(errors.len()).unwrap();
    assert!(mean < limit, "{mean:?} for one call; {}", errors[0]);
}

async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Accepts, and never answers.
async fn silent_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    address
}

const HASTY: StoreTimeouts = StoreTimeouts { call: Duration::from_millis(300), tries: 5 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_node() {
    let address = closed_port().await;
    let store = Store::open(&format!("hdfs://{address}/a")).await.unwrap();
    all_unavailable(&store, &address, Duration::from_secs(15)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_name_node() {
    let address = silent_port().await;
    let options = StoreOptions { timeouts: HASTY, ..StoreOptions::default() };
    let store = Store::open_with(&format!("hdfs://{address}/a"), &options).await.unwrap();
    all_unavailable(&store, &address, Duration::from_secs(2)).await;
    let session = SessionContext::new();
    store.register(&session).unwrap();
    let query = session.read_csv(format!("hdfs://{address}/a/"), CsvReadOptions::new());
    let error = tokio::time::timeout(Duration::from_secs(10), query).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

/// The first connection is dead, as after a power cut of the NameNode or a firewall that forgot it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_given_up() {
    let upstream = support::hdfs().trim_start_matches("hdfs://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (_dead, _) = listener.accept().await.unwrap();
        while let Ok((mut down, _)) = listener.accept().await {
            let mut up = TcpStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut down, &mut up).await });
        }
    });
    let timeouts = StoreTimeouts { call: Duration::from_secs(3), tries: 1 };
    let options = StoreOptions { timeouts, ..StoreOptions::default() };
    let url = format!("hdfs://{address}/{}", support::unique("store"));
    let store = Store::open_with(&url, &options).await.unwrap();
    assert_eq!(store.read("a").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.create("a", bytes("x")).await.unwrap(), Created::New);
    assert_eq!(read(&store, "a").await.as_deref(), Some("x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_s3() {
    let address = closed_port().await;
    let options = s3_server::options(&format!("http://me:hunter2@{address}"), StoreTimeouts::default());
    let store = Store::open_with("s3://bucket/a", &options).await.unwrap();
    all_unavailable(&store, &address, Duration::from_secs(15)).await;
    let error = store.read("a").await.unwrap_err();
    let shown = format!("{error} {error:?} {store:?} {options:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("tidemill-secret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_s3() {
    let address = silent_port().await;
    let options = s3_server::options(&format!("http://{address}"), HASTY);
    let store = Store::open_with("s3://bucket/a", &options).await.unwrap();
    all_unavailable(&store, &address, Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_bucket_and_a_wrong_key() {
    let server = S3Server::start().await;
    let store = Store::open_with("s3://elsewhere/a", &server.options()).await.unwrap();
    // (To `read`, s3s-fs says NoSuchKey, where S3 says NoSuchBucket.)
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("NoSuchBucket") && error.to_string().contains("s3://elsewhere"), "{error}");
    let mut options = server.options();
    options.aws.push(("AWS_SECRET_ACCESS_KEY".into(), "wrong-secret".into()));
    let store = Store::open_with("s3://bucket/a", &options).await.unwrap();
    for error in [store.create("a", bytes("x")).await.unwrap_err(), store.list("").await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("wrong-secret") && !shown.contains("AKIATIDEMILL"), "{shown}");
    }
    options.aws.push(("AWS_REGIOM".into(), "x".into()));
    let error = Store::open_with("s3://bucket/a", &options).await.unwrap_err();
    assert!(error.to_string().contains("AWS_REGIOM"), "{error}");
}
