//! S3 in this process: s3s-fs over a temporary directory. Two of its answers differ from Amazon's and are put right
//! here: its `If-None-Match` is a look followed by a write, so conditional requests go one at a time; and it says
//! AccessDenied of an upload that is gone, where S3 says NoSuchUpload.

use std::{path::Path, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    http::{Response, StatusCode},
};
use s3s::service::{S3Service, S3ServiceBuilder};
use tidemill::store::{StoreOptions, StoreTimeouts};
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};

const KEY: (&str, &str) = ("AKIATIDEMILL", "tidemill-secret");

pub struct S3Server {
    endpoint: String,
    _root: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Serves one bucket named `bucket`.
    pub async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(s3s::auth::SimpleAuth::from_single(KEY.0, KEY.1));
        let (service, directory) = (builder.build(), Arc::<Path>::from(root.path()));
        let one_at_a_time = Arc::new(Mutex::new(()));
        let router = axum::Router::new().fallback(move |request: Request| {
            let (service, directory, lock) = (service.clone(), Arc::clone(&directory), Arc::clone(&one_at_a_time));
            async move {
                let _guard =
                    if request.headers().contains_key("if-none-match") { Some(lock.lock().await) } else { None };
                answer(&service, &directory, request).await
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, _root: root, task }
    }

    pub fn options(&self) -> StoreOptions {
        options(&self.endpoint, StoreTimeouts::default())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a user would set in the environment.
pub fn options(endpoint: &str, timeouts: StoreTimeouts) -> StoreOptions {
    let aws = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", KEY.0),
        ("AWS_SECRET_ACCESS_KEY", KEY.1),
        ("AWS_REGION", "us-east-1"),
    ];
    StoreOptions { timeouts, aws: aws.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec() }
}

async fn answer(service: &S3Service, directory: &Path, request: Request) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    if let Some(id) = query.split('&').find_map(|pair| pair.strip_prefix("uploadId="))
        && !directory.join(format!(".upload-{id}.json")).exists()
    {
        let body = "<Error><Code>NoSuchUpload</Code><Message>The upload does not exist.</Message></Error>";
        return Response::builder().status(StatusCode::NOT_FOUND).body(Body::from(body)).unwrap();
    }
    let answered = service.call(request.map(s3s::Body::http_body_unsync)).await;
    answered.unwrap().map(Body::new)
}
