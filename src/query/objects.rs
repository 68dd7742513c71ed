//! Object stores for DataFusion: HDFS, S3 and the local disk, each call with a limit on the wait.
//!
//! hdfs-native waits for ever for a server that does not answer, so nothing reaches DataFusion without a timeout.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use hdfs_native_object_store::HdfsObjectStoreBuilder;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path,
};
use url::Url;

use super::failure;
use crate::{
    error::{Error, ErrorKind, Result},
    store::STORE_TIMEOUT,
};

/// Makes DataFusion find the store of `url` (`hdfs://host:port/...`, `s3://bucket/...`, `file:///...`), and returns
/// the store's own URL. Nothing is contacted.
///
/// # Errors
/// `Invalid` for a URL or a configuration that the client refuses.
pub(super) fn register(runtime: &RuntimeEnv, url: &str) -> Result<Url> {
    let scheme_end = url.find("://").map_or(0, |at| at + 3);
    let base = url[scheme_end..].find('/').map_or(url, |at| &url[..scheme_end + at]);
    let parsed = Url::parse(base)
        .map_err(|error| Error::invalid(format!("{base} is not the URL of a store")).source_error(error))?;
    if !is_registered(runtime, &parsed) {
        runtime.register_object_store(
            &parsed,
            Arc::new(TimedStore { inner: open(base, &parsed)?, name: base.to_owned() }),
        );
    }
    Ok(parsed)
}

/// DataFusion brings a local store of its own; it is replaced too, so that all errors look alike.
fn is_registered(runtime: &RuntimeEnv, base: &Url) -> bool {
    runtime.object_store_registry.get_store(base).is_ok_and(|store| store.to_string().starts_with("timed "))
}

fn open(base: &str, parsed: &Url) -> Result<Arc<dyn ObjectStore>> {
    let refused =
        |error: object_store::Error| Error::invalid(format!("the store {base} cannot be set up")).source_error(error);
    Ok(match parsed.scheme() {
        "hdfs" => Arc::new(HdfsObjectStoreBuilder::new().with_url(base).build().map_err(refused)?),
        "s3" | "s3a" => {
            let bucket = parsed.host_str().unwrap_or_default();
            Arc::new(AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(refused)?)
        }
        _ => Arc::new(LocalFileSystem::new()),
    })
}

/// Every call of the inner store, but none waits longer than `STORE_TIMEOUT` for its next sign of life.
#[derive(Debug)]
struct TimedStore {
    inner: Arc<dyn ObjectStore>,
    /// Scheme and authority.
    name: String,
}

impl fmt::Display for TimedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed {}", self.inner)
    }
}

impl TimedStore {
    async fn timed<T>(
        &self,
        path: &Path,
        call: impl Future<Output = object_store::Result<T>> + Send,
    ) -> object_store::Result<T> {
        within(STORE_TIMEOUT, &format!("{}/{path}", self.name), call).await
    }
}

/// Waits for `call` no longer than `limit`. Errors are ours afterwards, but for the few that callers branch on.
async fn within<T>(
    limit: Duration,
    url: &str,
    call: impl Future<Output = object_store::Result<T>> + Send,
) -> object_store::Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(translate(url, error)),
        Err(_) => Err(ours(
            Error::new(ErrorKind::Unavailable, format!("{url} gave no answer within {} s", limit.as_secs()))
                .help("check that the service is up and reachable"),
        )),
    }
}

fn ours(error: Error) -> object_store::Error {
    object_store::Error::Generic { store: "tidemill", source: Box::new(error) }
}

fn translate(url: &str, error: object_store::Error) -> object_store::Error {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } | E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => error,
        other => ours(failure::from_object_store(url, other)),
    }
}

#[async_trait]
impl ObjectStore for TimedStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.timed(path, self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let inner = self.timed(path, self.inner.put_multipart_opts(path, options)).await?;
        Ok(Box::new(TimedUpload { inner, url: format!("{}/{path}", self.name) }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let mut result = self.timed(path, self.inner.get_opts(path, options)).await?;
        if let GetResultPayload::Stream(stream) = result.payload {
            let url = format!("{}/{path}", self.name);
            result.payload = GetResultPayload::Stream(timed_stream(stream, url));
        }
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        timed_stream(self.inner.delete_stream(locations), self.name.clone())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let url = format!("{}/{}", self.name, prefix.map(Path::as_ref).unwrap_or_default());
        timed_stream(self.inner.list(prefix), url)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let root = Path::default();
        self.timed(prefix.unwrap_or(&root), self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.timed(from, self.inner.copy_opts(from, to, options)).await
    }
}

/// Each item is waited for on its own: a long stream is fine, a silent one is not.
fn timed_stream<T: Send + 'static>(
    stream: BoxStream<'static, object_store::Result<T>>,
    url: String,
) -> BoxStream<'static, object_store::Result<T>> {
    futures::stream::try_unfold((stream, url), |(mut stream, url)| async move {
        let next = within(STORE_TIMEOUT, &url, stream.try_next()).await?;
        Ok(next.map(|item| (item, (stream, url))))
    })
    .boxed()
}

#[derive(Debug)]
struct TimedUpload {
    inner: Box<dyn MultipartUpload>,
    url: String,
}

#[async_trait]
impl MultipartUpload for TimedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, url) = (self.inner.put_part(data), self.url.clone());
        Box::pin(async move { within(STORE_TIMEOUT, &url, part).await })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        within(STORE_TIMEOUT, &self.url, self.inner.complete()).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        within(STORE_TIMEOUT, &self.url, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_store_is_unavailable() {
        let silent = std::future::pending::<object_store::Result<()>>();
        let error = within(Duration::from_millis(10), "hdfs://h/x", silent).await.unwrap_err();
        let error = failure::from_datafusion(error.into(), None);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("hdfs://h/x"), "{error}");
    }

    #[test]
    fn a_store_is_named_by_scheme_and_authority() {
        let runtime = RuntimeEnv::default();
        for (url, base) in [("file:///a/b", "file:///"), ("s3://bucket/a", "s3://bucket"), ("file:///", "file:///")] {
            let registered = register(&runtime, url).unwrap();
            assert_eq!(registered.as_str(), base);
            assert!(is_registered(&runtime, &registered));
        }
    }
}
