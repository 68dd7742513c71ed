//! A prefix of an S3 bucket.
//!
//! S3 has no rename. A staged file is a multipart upload that is not completed yet, which no listing shows; publishing
//! completes it. `If-None-Match: *` makes both that and `create` fail where an object is already.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    ClientOptions, HeaderMap, HeaderValue, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    multipart::{MultipartStore, PartId},
    path::Path,
};
use tokio::task::JoinHandle;

use super::{
    Entry, Hidden, Published, Put, READ_BYTES_MAX, Reveal, Staged, StoreOptions, StoreTimeouts, retry::retrying,
    url::Location,
};
use crate::error::{Error, ErrorKind, Result};

/// Every part but the last has this size: S3 asks for at least 5 MiB, R2 for equal ones. One is filled while another
/// is on its way, so two are in memory.
const PART_BYTES: usize = 8 << 20;

/// S3 takes no more parts than this in one upload.
const PARTS_MAX: usize = 10_000;

/// What Spark's log says of an object (Hadoop's S3A: one copy, 32 MiB blocks).
const BLOCK_SIZE_BYTES: u64 = 32 << 20;

/// How often the client that DataFusion reads through tries again. Ours do not: `retrying` does.
const QUERY_RETRIES_MAX: usize = 4;

#[derive(Clone)]
pub(super) struct S3 {
    bucket: Arc<Bucket>,
    /// Empty, or segments without a slash at either end.
    root: String,
}

struct Bucket {
    /// `s3://bucket`, for the messages.
    base: String,
    /// Where requests go, if that is not Amazon.
    endpoint: String,
    store: AmazonS3,
    for_queries: Arc<AmazonS3>,
    /// The same with `If-None-Match: *` on each request; completes uploads, and does nothing else.
    completer: AmazonS3,
    timeouts: StoreTimeouts,
    /// Uploads that this process began and has neither published nor aborted.
    uploads: Mutex<Vec<Upload>>,
}

struct Upload {
    owner: String,
    key: Path,
    id: String,
}

type Outcome<T> = object_store::Result<T>;

impl S3 {
    pub fn open(location: &Location, options: &StoreOptions) -> Result<Self> {
        let timeouts = options.timeouts;
        let settings = settings(options)?;
        let build = |client: ClientOptions, max_retries: usize| {
            let mut retry = RetryConfig { max_retries, retry_timeout: timeouts.call, ..Default::default() };
            retry.backoff.init_backoff = super::BACKOFF_FIRST;
            let (client, builder) =
                settings.iter().fold((client, AmazonS3Builder::new()), |(client, builder), (key, value)| match key {
                    AmazonS3ConfigKey::Client(key) => (client.with_config(*key, value), builder),
                    key => (client, builder.with_config(*key, value)),
                });
            let builder = builder.with_bucket_name(location.authority()).with_client_options(client).with_retry(retry);
            builder.build().map_err(|error| {
                Error::invalid(format!("cannot open {}: {}", location.base, reason(&error)))
                    .help("check the AWS_* variables of the environment")
            })
        };
        let client = ClientOptions::new().with_timeout(timeouts.call).with_connect_timeout(timeouts.call / 4);
        let mut only_new = HeaderMap::new();
        only_new.insert("if-none-match", HeaderValue::from_static("*"));
        let endpoint = |wanted| settings.iter().rfind(|(key, _)| *key == wanted).map(|(_, url)| without_user(url));
        let bucket = Bucket {
            base: location.base.clone(),
            endpoint: endpoint(AmazonS3ConfigKey::S3Endpoint)
                .or_else(|| endpoint(AmazonS3ConfigKey::Endpoint))
                .unwrap_or_default(),
            store: build(client.clone(), 0)?,
            for_queries: Arc::new(build(client.clone(), QUERY_RETRIES_MAX)?),
            completer: build(client.with_default_headers(only_new), 0)?,
            timeouts,
            uploads: Mutex::new(Vec::new()),
        };
        let root = location.root.trim_start_matches('/').to_owned();
        Ok(Self { bucket: Arc::new(bucket), root })
    }

    pub fn with_root(&self, root: &str) -> Self {
        Self { bucket: Arc::clone(&self.bucket), root: root.trim_start_matches('/').to_owned() }
    }

    pub fn client(&self) -> Arc<AmazonS3> {
        Arc::clone(&self.bucket.for_queries)
    }

    fn at(&self, path: &str) -> Result<Path> {
        let joined = if self.root.is_empty() || path.is_empty() {
            format!("{}{path}", self.root)
        } else {
            format!("{}/{path}", self.root)
        };
        Path::parse(&joined).map_err(|error| Error::invalid(format!("{joined} cannot be a key on S3: {error}")))
    }

    pub async fn put(&self, path: &str, content: Bytes) -> Result<Put> {
        let key = self.at(path)?;
        match self.bucket.store.put_opts(&key, PutPayload::from_bytes(content), PutMode::Create.into()).await {
            Ok(_) => Ok(Put::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Taken),
            Err(error) => Err(self.bucket.error("create", &key, &error)),
        }
    }

    pub async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let key = self.at(path)?;
        let found = match self.bucket.store.get(&key).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.bucket.error("read", &key, &error)),
        };
        if found.meta.size > READ_BYTES_MAX {
            return Err(super::too_large(&self.bucket.url(&key), found.meta.size));
        }
        found.bytes().await.map(Some).map_err(|error| self.bucket.error("read", &key, &error))
    }

    pub async fn checksum(&self, path: &str) -> Result<u32> {
        let key = self.at(path)?;
        let failed = |error| self.bucket.error("read", &key, &error);
        let mut pieces = self.bucket.store.get(&key).await.map_err(failed)?.into_stream();
        let mut crc = crc32fast::Hasher::new();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            crc.update(&piece);
        }
        Ok(crc.finalize())
    }

    pub async fn list(&self, path: &str, recursive: bool) -> Result<Vec<Entry>> {
        let key = self.at(path)?;
        let prefix = (!key.as_ref().is_empty()).then_some(&key);
        let listed: Outcome<Vec<ObjectMeta>> = if recursive {
            self.bucket.store.list(prefix).try_collect().await
        } else {
            self.bucket.store.list_with_delimiter(prefix).await.map(|listing| listing.objects)
        };
        let below = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
        let objects = listed.map_err(|error| self.bucket.error("list", &key, &error))?;
        // What does not start with the prefix is the marker of the directory itself, as some tools write it.
        Ok(objects
            .iter()
            .filter_map(|meta| {
                let path = meta.location.as_ref().strip_prefix(&below)?.to_owned();
                Some(Entry { path, size_bytes: meta.size, modified_ms: meta.last_modified.timestamp_millis() })
            })
            .collect())
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        let key = self.at(path)?;
        match self.bucket.store.delete(&key).await {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(self.bucket.error("delete", &key, &error)),
        }
    }

    pub async fn published(&self, path: &str) -> Result<Option<Published>> {
        let key = self.at(path)?;
        match self.bucket.store.head(&key).await {
            Ok(meta) => Ok(Some(Published {
                size_bytes: meta.size,
                modified_ms: meta.last_modified.timestamp_millis(),
                block_replication: 1,
                block_size_bytes: BLOCK_SIZE_BYTES,
            })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.bucket.error("look at", &key, &error)),
        }
    }

    pub async fn stage(&self, path: &str, owner: &str) -> Result<S3Writer> {
        let key = self.at(path)?;
        let started = self.bucket.store.create_multipart(&key).await;
        let id = started.map_err(|error| self.bucket.error("create", &key, &error))?;
        self.bucket.uploads().push(Upload { owner: owner.to_owned(), key: key.clone(), id: id.clone() });
        let bucket = Arc::clone(&self.bucket);
        Ok(S3Writer { bucket, key, id, buffer: Vec::new(), buffered: 0, count: 0, in_flight: None, parts: Vec::new() })
    }

    pub async fn reveal(&self, path: &str, id: &str, parts: &[String]) -> Result<Reveal> {
        // Not every store that speaks S3 knows `If-None-Match` here; for those this look is the guard.
        if self.published(path).await?.is_some() {
            return Ok(Reveal::Taken);
        }
        let key = self.at(path)?;
        let parts = parts.iter().map(|content_id| PartId { content_id: content_id.clone() }).collect();
        match self.bucket.completer.complete_multipart(&key, &id.to_owned(), parts).await {
            Ok(_) => {}
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {
                return Ok(Reveal::Taken);
            }
            Err(object_store::Error::NotFound { .. }) => return Ok(Reveal::Lost),
            Err(error) => return Err(self.bucket.error("publish", &key, &error)),
        }
        self.bucket.forget(id);
        match self.published(path).await? {
            Some(found) => Ok(Reveal::Done(found)),
            None => Err(super::vanished(&self.bucket.url(&key))),
        }
    }

    pub async fn abort(&self, path: &str, id: &str) -> Result<()> {
        self.bucket.abort(&self.at(path)?, id).await
    }

    pub async fn sweep(&self, is_ours: &(dyn Fn(&str) -> bool + Sync), keep: &[Staged]) -> Result<usize> {
        let kept = |id: &str| keep.iter().any(|s| matches!(&s.hidden, Hidden::Upload { id: kept, .. } if kept == id));
        let below = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
        let ours: Vec<(Path, String)> = (self.bucket.uploads().iter())
            .filter(|upload| upload.key.as_ref().starts_with(&below) && is_ours(&upload.owner) && !kept(&upload.id))
            .map(|upload| (upload.key.clone(), upload.id.clone()))
            .collect();
        for (key, id) in &ours {
            retrying(self.bucket.timeouts, || self.bucket.abort(key, id)).await?;
        }
        Ok(ours.len())
    }
}

impl Bucket {
    fn uploads(&self) -> std::sync::MutexGuard<'_, Vec<Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: &str) {
        self.uploads().retain(|upload| upload.id != id);
    }

    async fn abort(&self, key: &Path, id: &str) -> Result<()> {
        match self.store.abort_multipart(key, &id.to_owned()).await {
            Ok(()) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(self.error("abort the upload of", key, &error)),
        }
        self.forget(id);
        Ok(())
    }

    fn url(&self, key: &Path) -> String {
        format!("{}/{key}", self.base)
    }

    /// Of what the service sent, only code and message: the rest of a refusal repeats the key's id and signature.
    fn error(&self, what: &str, key: &Path, error: &object_store::Error) -> Error {
        use object_store::Error as E;
        let mut message = format!("cannot {what} {}: {}", self.url(key), reason(error));
        if !self.endpoint.is_empty() {
            let _ = write!(message, " (endpoint {})", self.endpoint);
        }
        let (kind, help) = match error {
            E::NotSupported { .. } | E::NotImplemented { .. } => {
                (ErrorKind::Unsupported, "the service lacks this call")
            }
            E::InvalidPath { .. } => (ErrorKind::Invalid, "choose another path"),
            error => judge(error, &message),
        };
        Error::new(kind, message).help(help)
    }
}

/// Sends parts of one upload. Dropped, the upload stays for `sweep`.
pub(super) struct S3Writer {
    bucket: Arc<Bucket>,
    key: Path,
    id: String,
    buffer: Vec<Bytes>,
    buffered: usize,
    /// Parts sent so far.
    count: usize,
    in_flight: Option<JoinHandle<Result<String>>>,
    parts: Vec<String>,
}

impl S3Writer {
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while self.buffered + bytes.len() >= PART_BYTES {
            let piece = bytes.split_to(PART_BYTES - self.buffered);
            self.buffer.push(piece);
            self.send().await?;
        }
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            self.buffer.push(bytes);
        }
        Ok(())
    }

    /// Sends what is buffered as the next part, once the one before it has arrived.
    async fn send(&mut self) -> Result<()> {
        self.arrive().await?;
        let index = self.count;
        if index == PARTS_MAX {
            let largest_gib = (PARTS_MAX * PART_BYTES) >> 30;
            return Err(Error::unsupported(format!("{} is larger than {largest_gib} GiB", self.bucket.url(&self.key)))
                .help("set maxRecordsPerFile, so that a batch is written as several files"));
        }
        let payload = PutPayload::from_iter(std::mem::take(&mut self.buffer));
        (self.buffered, self.count) = (0, index + 1);
        let (bucket, key, id) = (Arc::clone(&self.bucket), self.key.clone(), self.id.clone());
        self.in_flight = Some(tokio::spawn(async move {
            retrying(bucket.timeouts, || async {
                let sent = bucket.store.put_part(&key, &id, index, payload.clone()).await;
                sent.map(|part| part.content_id).map_err(|error| bucket.error("write", &key, &error))
            })
            .await
        }));
        Ok(())
    }

    async fn arrive(&mut self) -> Result<()> {
        let Some(sent) = &mut self.in_flight else { return Ok(()) };
        let part = sent.await;
        self.in_flight = None;
        self.parts.push(part.map_err(|error| Error::internal(format!("the task that uploads died: {error}")))??);
        Ok(())
    }

    pub async fn finish(mut self) -> Result<Hidden> {
        // An upload needs a part, be it empty.
        if self.buffered > 0 || self.count == 0 {
            self.send().await?;
        }
        self.arrive().await?;
        Ok(Hidden::Upload { id: self.id.clone(), parts: std::mem::take(&mut self.parts) })
    }

    pub async fn abandon(mut self) -> Result<()> {
        if let Some(sent) = self.in_flight.take() {
            // Otherwise its part could arrive after the abort, and be paid for.
            sent.abort();
            let _ = sent.await;
        }
        retrying(self.bucket.timeouts, || self.bucket.abort(&self.key, &self.id)).await
    }
}

impl Drop for S3Writer {
    fn drop(&mut self) {
        if let Some(sent) = &self.in_flight {
            sent.abort();
        }
    }
}

/// What the environment says (those of the `AWS_*` variables that this client knows), and over it the options.
fn settings(options: &StoreOptions) -> Result<Vec<(AmazonS3ConfigKey, String)>> {
    let environment = std::env::vars().filter(|(name, _)| name.starts_with("AWS_"));
    let mut settings: Vec<(AmazonS3ConfigKey, String)> =
        environment.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value))).collect();
    for (name, value) in &options.aws {
        match name.to_ascii_lowercase().parse() {
            Ok(key) => settings.push((key, value.clone())),
            Err(_) => return Err(Error::invalid(format!("'{name}' is not a setting of the S3 client"))),
        }
    }
    Ok(settings)
}

/// The kind of a refusal. A listing's comes without a variant of its own, so the status is looked for in the text.
fn judge(error: &object_store::Error, message: &str) -> (ErrorKind, &'static str) {
    use object_store::Error as E;
    let text = error.to_string();
    let status = |code: &str| text.contains(&format!("status code: {code} "));
    if matches!(error, E::NotFound { .. }) || status("404") {
        return (ErrorKind::NotFound, "check the bucket's name and region (AWS_REGION)");
    }
    if matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. }) || status("403") || status("401") {
        return (
            ErrorKind::PermissionDenied,
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the policy must allow s3:GetObject, s3:PutObject, \
             s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucket",
        );
    }
    if is_full(message) {
        return (ErrorKind::StorageFull, "raise the quota of the bucket, then start again");
    }
    // 409: a write to the same key is under way. The rest: not reached, or a server error.
    (ErrorKind::Unavailable, "check the network, AWS_ENDPOINT_URL and AWS_REGION")
}

/// The object is not there; a bucket that is not there is another matter.
fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { source, .. } if !source.to_string().contains("NoSuchBucket"))
}

fn is_full(message: &str) -> bool {
    ["QuotaExceeded", "StorageFull", "InsufficientStorage", "507 "].iter().any(|code| message.contains(code))
}

/// Code and message of the service's answer, or else the cause underneath all others.
fn reason(error: &object_store::Error) -> String {
    let text = error.to_string();
    if let Some(code) = element(&text, "Code") {
        return element(&text, "Message").map_or(code.to_owned(), |message| format!("{code}: {message}"));
    }
    if let Some(at) = text.find("status code: ") {
        let status = text[at..].split('<').next().unwrap_or_default();
        return status.trim_end_matches([':', ' ']).chars().take(100).collect();
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    without_user(&deepest.to_string())
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let length = xml[start..].find(&format!("</{name}>"))?;
    Some(&xml[start..start + length])
}

/// Takes `user:password@` out of a URL.
fn without_user(text: &str) -> String {
    let Some(start) = text.find("://").map(|at| at + 3) else { return text.to_owned() };
    let end = text[start..].find(['/', ' ', ')']).map_or(text.len(), |at| start + at);
    match text[start..end].rfind('@') {
        Some(at) => format!("{}{}", &text[..start], &text[start + at + 1..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_does_not_repeat_the_key() {
        let body = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
                    <Message>The signature does not match.</Message><AWSAccessKeyId>AKIASECRET</AWSAccessKeyId></Error>";
        let error = object_store::Error::PermissionDenied { path: "a".into(), source: body.into() };
        assert_eq!(reason(&error), "SignatureDoesNotMatch: The signature does not match.");
        let bare = object_store::Error::Generic { store: "S3", source: "x status code: 503 Slow: <html>AKIA".into() };
        assert_eq!(reason(&bare), "status code: 503 Slow");
    }

    #[test]
    fn a_password_is_taken_out_of_an_endpoint() {
        assert_eq!(without_user("http://me:secret@host:9000/a"), "http://host:9000/a");
        assert_eq!(without_user("error for http://me:s@host) at"), "error for http://host) at");
        assert_eq!(without_user("http://host/a@b"), "http://host/a@b");
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        let missing = |code: &str| object_store::Error::NotFound {
            path: "a".into(),
            source: format!("status code: 404 Not Found: <Error><Code>{code}</Code></Error>").into(),
        };
        assert!(is_missing(&missing("NoSuchKey")) && !is_missing(&missing("NoSuchBucket")));
    }

    #[test]
    fn full_is_not_unavailable() {
        assert!(is_full("XMinioStorageFull: no space"));
        assert!(!is_full("SlowDown: reduce your rate"));
    }
}
