//! Writers' schemas by id from a Confluent schema registry: `GET /schemas/ids/{id}`.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use url::Url;

use super::avro_schema::AvroSchema;
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
};

/// A connection to a registry and what it has told us.
#[derive(Debug)]
pub(super) struct Registry {
    url: Url,
    /// A schema, or why there is none of that id that we can use.
    known: HashMap<u32, Result<AvroSchema, String>>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Before each try after the first.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// Ids that are remembered; a topic with more writers' schemas than that fetches some of them again.
const SCHEMAS_MAX: usize = 1_000;
/// Bytes of one schema with its envelope.
const REPLY_BYTES_MAX: usize = 4 << 20;

/// What the registry says of an id.
#[derive(Debug, Deserialize)]
struct Reply {
    schema: String,
    #[serde(rename = "schemaType", default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

impl Registry {
    /// # Errors
    /// `Invalid` for something else than an HTTP URL.
    pub fn new(url: &str) -> Result<Self> {
        let wrong = |reason: &str| Error::invalid(format!("schemaRegistry.url = '{url}': {reason}"));
        let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong("neither http nor https"));
        }
        Ok(Self { url: parsed, known: HashMap::new() })
    }

    /// The schema of that id, which `load` has fetched.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn schema(&self, id: u32) -> Result<&AvroSchema, String> {
        match self.known.get(&id) {
            Some(Ok(schema)) => Ok(schema),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("schema {id} was not fetched")),
        }
    }

    /// Fetches schema `id`, unless it is known. Blocks.
    ///
    /// # Errors
    /// `Unavailable`, `PermissionDenied`; a schema that does not exist or that is no Avro is the record's flaw, and
    /// no error here.
    #[inline]
    pub fn load(&mut self, id: u32) -> Result<()> {
        if self.known.contains_key(&id) { Ok(()) } else { self.fetch(id) }
    }

    pub fn forget_unknown(&mut self) {
        self.known.retain(|_, schema| schema.is_ok());
    }

    #[cold]
    fn fetch(&mut self, id: u32) -> Result<()> {
        let mut url = self.url.clone();
        let path = format!("{}/schemas/ids/{id}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let context = |error: Error| {
            let (host, port) = (self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or(0));
            error.context(format!("schema {id} from the registry at {host}:{port}"))
        };
        // A thread of its own: the caller is one that blocks, but it need not know whether a runtime is around it.
        let request = || -> Result<_> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::internal(format!("no runtime: {error}")))?;
            runtime.block_on(get_patiently(&url))
        };
        let joined = std::thread::scope(|scope| scope.spawn(request).join());
        let reply = joined.map_err(|_| Error::internal("the request panicked")).flatten().map_err(context)?;
        if self.known.len() >= SCHEMAS_MAX {
            self.known.clear();
        }
        let schema = reply.and_then(|reply| usable(&reply));
        self.known.insert(id, schema.map_err(|reason| format!("schema {id}: {reason}")));
        Ok(())
    }
}

/// The schema in a reply.
fn usable(reply: &[u8]) -> Result<AvroSchema, String> {
    let reply: Reply = serde_json::from_slice(reply).map_err(|error| format!("the registry's reply: {error}"))?;
    match reply.schema_type.as_deref() {
        None | Some("AVRO") => {}
        Some(other) => return Err(format!("it is {other} and not AVRO")),
    }
    if !reply.references.is_empty() {
        return Err("it refers to other schemas, which is not supported".to_owned());
    }
    AvroSchema::parse(&reply.schema)
}

/// The reply's body, or a sentence if the registry has no such schema. Tries again where that may help.
async fn get_patiently(url: &Url) -> Result<Result<Vec<u8>, String>> {
    let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT).build();
    let client = client.map_err(|error| Error::internal(format!("no HTTP client: {error}")))?;
    let mut pauses = PAUSES.into_iter();
    loop {
        match get(&client, url).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => match pauses.next() {
                Some(pause) => clock::sleep(pause).await,
                None => return Err(error),
            },
            done => return done,
        }
    }
}

async fn get(client: &reqwest::Client, url: &Url) -> Result<Result<Vec<u8>, String>> {
    let unavailable = |error: reqwest::Error| {
        Error::new(ErrorKind::Unavailable, "no answer")
            .help("is the registry running, and schemaRegistry.url right?")
            .source_error(error.without_url())
    };
    let request = client.get(url.clone()).header("accept", "application/vnd.schemaregistry.v1+json, application/json");
    let mut response = request.send().await.map_err(unavailable)?;
    let status = response.status();
    match status.as_u16() {
        200 => {}
        404 => return Ok(Err("the registry does not know it".to_owned())),
        401 | 403 => {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("refused with {status}"))
                .help("put a user and a password that may read into schemaRegistry.url"));
        }
        429 | 500.. => return Err(Error::new(ErrorKind::Unavailable, format!("answered {status}"))),
        _ => return Err(Error::invalid(format!("answered {status}")).help("does schemaRegistry.url name a registry?")),
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Ok(Err(format!("it is larger than {REPLY_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Ok(body))
}
