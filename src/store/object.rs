//! The same stores as DataFusion reads them, for batch queries.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use hdfs_native_object_store::HdfsObjectStore;
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result as ObjectResult, local::LocalFileSystem, path::Path,
};

use super::{Backend, Store};
use crate::error::{Error, Result};

impl Store {
    /// The whole file system, NameNode or bucket that this directory is in, as DataFusion wants it. Every call on it
    /// and every piece of a stream has the store's timeout.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        match &self.backend {
            Backend::Local(_) => Arc::new(LocalFileSystem::new()),
            Backend::Hdfs(hdfs) => {
                let store = HdfsObjectStore::new(hdfs.client());
                Arc::new(Timed { store: Arc::new(store), limit: self.timeouts.call, name: self.location.base.clone() })
            }
            // Its client has timeouts of its own.
            Backend::S3(s3) => s3.client(),
        }
    }

    /// Where `object_store` has the file `path` of this directory.
    ///
    /// # Errors
    /// `Invalid` for a name that no object can have.
    pub fn object_path(&self, path: &str) -> Result<Path> {
        let url = self.path_url(path);
        let absolute = url.strip_prefix(&self.location.base).unwrap_or(&url);
        Path::parse(absolute).map_err(|error| Error::invalid(format!("{url} is not a path: {error}")))
    }

    /// Scheme and authority: the URL under which DataFusion finds `object_store`.
    ///
    /// # Errors
    /// `Invalid` for an authority that no URL can hold.
    pub fn object_store_url(&self) -> Result<::url::Url> {
        let base = &self.location.base;
        let base = if base == "file://" { "file:///" } else { base };
        ::url::Url::parse(base).map_err(|error| Error::invalid(format!("{base} is not a URL: {error}")))
    }

    /// Lets the session's queries read from and write to this store.
    ///
    /// # Errors
    /// As `object_store_url`.
    pub fn register(&self, session: &SessionContext) -> Result<()> {
        session.runtime_env().register_object_store(&self.object_store_url()?, self.object_store());
        Ok(())
    }
}

/// A store whose calls end, for a client that waits for ever.
#[derive(Debug)]
struct Timed {
    store: Arc<dyn ObjectStore>,
    limit: Duration,
    name: String,
}

impl Timed {
    async fn call<T>(&self, work: impl Future<Output = ObjectResult<T>>) -> ObjectResult<T> {
        tokio::time::timeout(self.limit, work).await.unwrap_or_else(|_| Err(timed_out(&self.name, self.limit)))
    }

    fn stream<T: Send + 'static>(
        &self,
        items: BoxStream<'static, ObjectResult<T>>,
    ) -> BoxStream<'static, ObjectResult<T>> {
        let (name, limit) = (self.name.clone(), self.limit);
        let timed = stream::unfold(Some(items), move |items| {
            let name = name.clone();
            async move {
                let mut items = items?;
                match tokio::time::timeout(limit, items.next()).await {
                    Ok(item) => Some((item?, Some(items))),
                    Err(_) => Some((Err(timed_out(&name, limit)), None)),
                }
            }
        });
        timed.boxed()
    }
}

fn timed_out(name: &str, limit: Duration) -> ObjectError {
    ObjectError::Generic {
        store: "HDFS",
        source: format!("{name} does not answer (no answer within {limit:?})").into(),
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl ObjectStore for Timed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> ObjectResult<PutResult> {
        self.call(self.store.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> ObjectResult<Box<dyn MultipartUpload>> {
        self.call(self.store.put_multipart_opts(location, options)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> ObjectResult<GetResult> {
        let mut result = self.call(self.store.get_opts(location, options)).await?;
        result.payload = match result.payload {
            GetResultPayload::Stream(pieces) => GetResultPayload::Stream(self.stream(pieces)),
            file => file,
        };
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> ObjectResult<Vec<Bytes>> {
        self.call(self.store.get_ranges(location, ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, ObjectResult<Path>>,
    ) -> BoxStream<'static, ObjectResult<Path>> {
        self.stream(self.store.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, ObjectResult<ObjectMeta>> {
        self.stream(self.store.list(prefix))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> ObjectResult<ListResult> {
        self.call(self.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> ObjectResult<()> {
        self.call(self.store.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> ObjectResult<()> {
        self.call(self.store.rename_opts(from, to, options)).await
    }
}
