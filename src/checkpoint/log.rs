//! The checkpoint directory: reading and writing its files.

use bytes::Bytes;
use uuid::Uuid;

use super::{Fingerprint, OffsetEntry, Prepared, recovery::Facts};
use crate::{
    error::{Error, ErrorKind, Result},
    source::Offsets,
    store::{Created, Store},
};

/// Batches whose files are kept, as in Spark (`minBatchesToRetain`).
const BATCHES_RETAINED: u64 = 100;
/// Old files are deleted every so many batches, so that most batches pay nothing for it.
const PURGE_INTERVAL: u64 = 10;

/// The checkpoint of one query, opened by one run of it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    store: Store,
    /// The query's identity, kept across restarts.
    pub query_id: String,
    /// This run's identity: it tells our files from those of another instance.
    pub run_id: String,
}

impl Checkpoint {
    /// Opens the directory, or makes it.
    ///
    /// # Errors
    /// The store's; `Corrupt` if `metadata` is missing although there are offsets, or cannot be read.
    pub async fn open(store: Store) -> Result<Self> {
        let run_id = Uuid::new_v4().to_string();
        let mut text = store.read("metadata").await?;
        if text.is_none() {
            if !ids(&store, "offsets").await?.is_empty() {
                return Err(Error::corrupt(format!("{}/metadata is missing, but there are offsets", store.url()))
                    .help("restore it from a backup: the query's identity is in it"));
            }
            let fresh = Bytes::from(format!("{{\"id\":\"{}\"}}", Uuid::new_v4()));
            match store.create("metadata", fresh.clone()).await? {
                Created::New => text = Some(fresh),
                Created::Exists => text = store.read("metadata").await?,
            }
        }
        let query_id = text
            .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .and_then(|json| json.get("id").and_then(|id| id.as_str()).map(str::to_owned))
            .ok_or_else(|| Error::corrupt(format!("{}/metadata holds no query id", store.url())))?;
        Ok(Self { store, query_id, run_id })
    }

    /// Opens the directory to look at it: nothing is written. A new one gets an identity for the moment only.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_read_only(store: Store) -> Result<Self> {
        let fresh = store.read("metadata").await?.is_none() && ids(&store, "offsets").await?.is_empty();
        if !fresh {
            return Self::open(store).await;
        }
        Ok(Self { store, query_id: Uuid::new_v4().to_string(), run_id: Uuid::new_v4().to_string() })
    }

    /// The absolute URL of the directory.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// The directory, for what is kept beside the logs.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Lists the logs; the sink's part is the caller's.
    ///
    /// # Errors
    /// The store's.
    pub async fn facts(&self) -> Result<Facts> {
        let offsets = ids(&self.store, "offsets").await?;
        let latest_is_ours = match offsets.last() {
            Some(latest) => self.offsets(*latest).await?.is_ours(),
            None => false,
        };
        Ok(Facts {
            offsets,
            latest_is_ours,
            prepared: ids(&self.store, "prepared").await?,
            commits: ids(&self.store, "commits").await?,
            sink_log: None,
            keeps_sink_log: false,
        })
    }

    /// Where batch 0 starts in source `source`; the first caller's answer stays.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn initial_offsets(&self, source: usize, fresh: &Offsets) -> Result<Offsets> {
        let content = Bytes::from(format!("\0v1\n{fresh}"));
        match self.store.create(&format!("sources/{source}/0"), content).await? {
            Created::New => Ok(fresh.clone()),
            Created::Exists => Ok(self.read_initial_offsets(source).await?.unwrap_or_else(|| fresh.clone())),
        }
    }

    /// Where batch 0 started in source `source`, if that is still known.
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn read_initial_offsets(&self, source: usize) -> Result<Option<Offsets>> {
        let path = format!("sources/{source}/0");
        let Some(bytes) = self.store.read(&path).await? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let json = text.trim_start_matches('\0').strip_prefix("v1\n");
        let offsets = json.ok_or_else(|| Error::corrupt("it does not start with v1")).and_then(str::parse);
        offsets.map(Some).map_err(|error| self.corrupt(&path, &error))
    }

    /// What batch `batch` reads.
    ///
    /// # Errors
    /// The store's; `Corrupt` if it is missing, torn or flipped.
    pub async fn offsets(&self, batch: u64) -> Result<OffsetEntry> {
        let path = format!("offsets/{batch}");
        OffsetEntry::parse(&self.text(&path).await?).map_err(|error| self.corrupt(&path, &error))
    }

    /// What batch `batch` produced.
    ///
    /// # Errors
    /// As `offsets`.
    pub async fn prepared(&self, batch: u64) -> Result<Prepared> {
        let found = self.find_prepared(batch).await?;
        found.ok_or_else(|| self.corrupt(&format!("prepared/{batch}"), &Error::corrupt("the file is missing")))
    }

    /// The same, or `None` for a batch that Spark ran.
    ///
    /// # Errors
    /// As `offsets`.
    pub async fn find_prepared(&self, batch: u64) -> Result<Option<Prepared>> {
        let path = format!("prepared/{batch}");
        let Some(text) = self.find_text(&path).await? else { return Ok(None) };
        Prepared::parse(&text).map(Some).map_err(|error| self.corrupt(&path, &error))
    }

    /// Announces what batch `batch` reads.
    ///
    /// # Errors
    /// `Conflict` if another instance announced it first.
    pub async fn write_offsets(&self, batch: u64, entry: &OffsetEntry) -> Result<()> {
        self.write(&format!("offsets/{batch}"), entry.to_text(&self.run_id)).await
    }

    /// Fixes what the batch produced.
    ///
    /// # Errors
    /// `Conflict` if another instance fixed it first.
    pub async fn write_prepared(&self, prepared: &Prepared) -> Result<()> {
        self.write(&format!("prepared/{}", prepared.batch_id), prepared.to_text()?).await
    }

    /// Says that the batch is done. A commit that is there already is the same: its text has no identity in it.
    ///
    /// # Errors
    /// The store's.
    pub async fn write_commit(&self, batch: u64, watermark_ms: i64) -> Result<()> {
        let text = format!("v1\n{{\"nextBatchWatermarkMs\":{watermark_ms}}}");
        self.write(&format!("commits/{batch}"), text).await
    }

    /// Deletes the files of batches that recovery can no longer need.
    ///
    /// # Errors
    /// The store's.
    pub async fn purge(&self, committed: u64) -> Result<()> {
        let Some(keep_from) = committed.checked_sub(BATCHES_RETAINED) else { return Ok(()) };
        if !committed.is_multiple_of(PURGE_INTERVAL) {
            return Ok(());
        }
        for log in ["offsets", "prepared", "commits"] {
            for id in ids(&self.store, log).await?.into_iter().filter(|id| *id < keep_from) {
                self.store.delete(&format!("{log}/{id}")).await?;
            }
        }
        Ok(())
    }

    /// Checks that the query is the one that made this checkpoint, and notes it from batch `batch` on if it is new or
    /// changed in a way that is allowed.
    ///
    /// # Errors
    /// `Conflict`, naming the difference.
    pub async fn check_fingerprint(&self, batch: u64, fingerprint: &Fingerprint) -> Result<()> {
        if let Some((id, old)) = self.compare_fingerprint(batch, fingerprint).await?
            && (Fingerprint { reset: false, ..old } == *fingerprint || id == batch)
        {
            return Ok(());
        }
        self.write_fingerprint(batch, fingerprint).await
    }

    /// The state before `batch` is given up: from there on the query is the one with `fingerprint`, and starts empty.
    ///
    /// # Errors
    /// `Conflict` for a difference that is not in the state, naming it.
    pub async fn reset_state(&self, batch: u64, fingerprint: Fingerprint) -> Result<()> {
        if let Some((id, old)) = self.newest_fingerprint(batch).await? {
            fingerprint.check_but_state(&old)?;
            if id == batch {
                self.store.delete(&format!("queries/{id}")).await?;
            }
        }
        self.write_fingerprint(batch, &Fingerprint { reset: true, ..fingerprint }).await
    }

    /// Was the state before `batch` given up?
    ///
    /// # Errors
    /// The store's; `Corrupt`.
    pub async fn is_reset(&self, batch: u64) -> Result<bool> {
        let path = format!("queries/{batch}");
        let Some(text) = self.find_text(&path).await? else { return Ok(false) };
        Ok(self.fingerprint(&path, &text)?.reset)
    }

    async fn write_fingerprint(&self, batch: u64, fingerprint: &Fingerprint) -> Result<()> {
        let text = serde_json::to_string(fingerprint)
            .map_err(|error| Error::internal("the fingerprint does not serialise").source_error(error))?;
        self.store.create(&format!("queries/{batch}"), text.into()).await.map(|_| ())
    }

    /// Compares with the newest fingerprint up to `batch`, and returns that.
    ///
    /// # Errors
    /// `Conflict`, naming the difference.
    pub async fn compare_fingerprint(
        &self,
        batch: u64,
        fingerprint: &Fingerprint,
    ) -> Result<Option<(u64, Fingerprint)>> {
        let Some((id, old)) = self.newest_fingerprint(batch).await? else { return Ok(None) };
        fingerprint.check(&old)?;
        Ok(Some((id, old)))
    }

    async fn newest_fingerprint(&self, batch: u64) -> Result<Option<(u64, Fingerprint)>> {
        let known = ids(&self.store, "queries").await?;
        let Some(id) = known.into_iter().rev().find(|id| *id <= batch) else { return Ok(None) };
        let path = format!("queries/{id}");
        Ok(Some((id, self.fingerprint(&path, &self.text(&path).await?)?)))
    }

    fn fingerprint(&self, path: &str, text: &str) -> Result<Fingerprint> {
        serde_json::from_str(text).map_err(|error| self.corrupt(path, &Error::corrupt(error.to_string())))
    }

    async fn write(&self, path: &str, text: String) -> Result<()> {
        match self.store.create(path, text.into()).await? {
            Created::New => Ok(()),
            Created::Exists => Err(Error::new(
                ErrorKind::Conflict,
                format!("{}/{path} was written by another instance: two jobs run on one checkpoint", self.store.url()),
            )
            .help("this instance stops and the other goes on; give each job a checkpointLocation of its own")),
        }
    }

    async fn text(&self, path: &str) -> Result<String> {
        let text = self.find_text(path).await?;
        text.ok_or_else(|| self.corrupt(path, &Error::corrupt("the file is missing")))
    }

    async fn find_text(&self, path: &str) -> Result<Option<String>> {
        let Some(bytes) = self.store.read(path).await? else { return Ok(None) };
        let text = String::from_utf8(bytes.into());
        text.map(Some).map_err(|_| self.corrupt(path, &Error::corrupt("the file is not UTF-8 text")))
    }

    fn corrupt(&self, path: &str, error: &Error) -> Error {
        Error::corrupt(format!("{}/{path} cannot be trusted: {}", self.store.url(), error.message()))
            .help("restore the checkpoint from a backup, or start anew with another path and checkpointLocation")
    }
}

/// The numbers of the files in a log, ascending; other names (temporaries, checksums) are not of the log.
async fn ids(store: &Store, log: &str) -> Result<Vec<u64>> {
    let mut ids: Vec<u64> = store.list(log).await?.iter().filter_map(|entry| id_of(&entry.path)).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn id_of(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().ok())?
}
