//! Spark's sink log, `<output>/_spark_metadata`: which files of the directory are committed.
//!
//! One file per batch, named by its number; every tenth batch writes `N.compact`, which holds all files so far.
//! `line.rs` is the text of one file, `plan.rs` decides from a listing what to read, to compact and to delete.
//! The paths in the log are absolute: a directory that was moved has a log that speaks of the old place.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{
    clock,
    error::{Error, ErrorKind, Result},
    store::{Created, Published, Store},
};

mod line;
mod plan;
mod uri;

pub use uri::{decode_path, encode_path};

use line::{Line, parse, render};
use plan::Listing;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkFile {
    /// Relative to the output directory.
    pub path: String,
    pub published: Published,
    /// Ours, beside Spark's seven fields (whose readers skip it); absent in a file that Spark wrote.
    pub rows: Option<u64>,
}

/// The log of one output directory.
#[derive(Debug, Clone)]
pub struct SparkLog {
    output: Store,
}

/// The log's directory, below the output directory.
pub const SPARK_METADATA: &str = "_spark_metadata";

/// Log files that are read at the same time.
const READS_MAX: usize = 8;
/// Old log files that one `add` deletes; the next one goes on.
const DELETES_MAX: usize = 32;

impl SparkLog {
    /// `output` is the output directory.
    pub fn new(output: Store) -> Self {
        Self { output }
    }

    /// The largest batch id in the log; `None` if there is no log.
    ///
    /// # Errors
    /// The store's.
    pub async fn latest(&self) -> Result<Option<u64>> {
        Ok(self.listing().await?.latest())
    }

    /// Adds batch `batch` (every tenth one compacts, as Spark does); a batch that is there already with the same
    /// files is done.
    ///
    /// # Errors
    /// `Conflict` if it is there with other files; `Corrupt` if a file that compaction needs is missing or torn,
    /// and if `batch` is not the one that follows the log's last.
    pub async fn add(&self, batch: u64, files: &[SinkFile]) -> Result<()> {
        let lines = files.iter().map(|file| Line::new(&self.output, file)).collect::<Result<Vec<_>>>()?;
        let listing = self.listing().await?;
        let next = listing.latest().map_or(0, |latest| latest + 1);
        if batch < next {
            return self.check_same(&listing, batch, &lines).await;
        }
        if batch > next {
            return Err(self.gap(batch, listing.latest()));
        }
        let interval = listing.interval();
        let compacts = plan::is_compaction(batch, interval);
        let content = if compacts {
            let mut all = Vec::new();
            for id in batch.saturating_sub(interval)..batch {
                all.extend(self.read(&listing.name_of(id, interval)).await?);
            }
            all.extend(lines);
            render(&all)
        } else {
            render(&lines)
        };
        let name = if compacts { format!("{batch}.compact") } else { batch.to_string() };
        if self.output.url().starts_with("file:") {
            // Hadoop checks a file against the checksum beside it: one that an earlier file left would condemn ours.
            self.output.delete(&path_of(&format!(".{name}.crc"))).await?;
        }
        match self.output.create(&path_of(&name), Bytes::from(content)).await? {
            Created::New => {}
            Created::Exists => return Err(self.conflict(&name)),
        }
        self.clean_up(&listing, batch, interval).await;
        Ok(())
    }

    /// All committed files, in order of batch; `None` if the directory has no log.
    ///
    /// # Errors
    /// `Corrupt`, naming the file and what is wrong with it.
    pub async fn files(&self) -> Result<Option<Vec<SinkFile>>> {
        let lines = self.lines().await?;
        let Some(lines) = lines else { return Ok(None) };
        let mut files = Vec::with_capacity(lines.len());
        let mut seen = std::collections::HashSet::with_capacity(lines.len());
        for line in lines {
            let path = decode_path(self.output.url(), &line.path)
                .map_err(|error| error.context(format!("the sink log {}", self.place(""))))?;
            if !seen.insert(path.clone()) {
                return Err(Error::corrupt(format!("the sink log {} lists {path} twice", self.place("")))
                    .help("its rows would be counted twice: remove one of the lines"));
            }
            files.push(line.into_file(path));
        }
        Ok(Some(files))
    }

    /// The lines of all batches. A reader may be overtaken by a compaction and the deletion of what it was about to
    /// read: then it looks once more.
    async fn lines(&self) -> Result<Option<Vec<Line>>> {
        let listing = self.listing().await?;
        let Some(latest) = listing.latest() else { return Ok(None) };
        match self.read_set(&listing).await {
            Ok(lines) => Ok(Some(lines)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let again = self.listing().await?;
                let interval = again.interval();
                if again
                    .latest()
                    .is_some_and(|id| plan::last_compaction(id, interval) > plan::last_compaction(latest, interval))
                {
                    self.read_set(&again).await.map(Some)
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn read_set(&self, listing: &Listing) -> Result<Vec<Line>> {
        let names = listing.read_set();
        let reads = futures::stream::iter(names).map(|name| async move { self.read(&name).await });
        let files: Vec<Vec<Line>> = reads.buffered(READS_MAX).try_collect().await?;
        Ok(files.into_iter().flatten().collect())
    }

    async fn read(&self, name: &str) -> Result<Vec<Line>> {
        match self.output.read(&path_of(name)).await? {
            Some(content) => parse(&content).map_err(|error| error.context(self.place(name))),
            None => Err(Error::corrupt(format!("{} is missing", self.place(name)))
                .help("the log cannot be read without it: restore it, or remove _spark_metadata to give up the log")),
        }
    }

    async fn listing(&self) -> Result<Listing> {
        Ok(Listing::new(&self.output.list(SPARK_METADATA).await?))
    }

    /// The batch is in the log: with these files?
    async fn check_same(&self, listing: &Listing, batch: u64, lines: &[Line]) -> Result<()> {
        let plain = batch.to_string();
        let same = if listing.has(&plain) {
            let there = self.read(&plain).await?;
            there.len() == lines.len() && there.iter().zip(lines).all(|(a, b)| a.is_same_file(b))
        } else {
            // In a compacted file the batches can no longer be told apart; its files can.
            let all = self.read_set(listing).await?;
            lines.iter().all(|line| all.iter().any(|there| there.is_same_file(line)))
        };
        if same { Ok(()) } else { Err(self.conflict(&plain)) }
    }

    fn conflict(&self, name: &str) -> Error {
        let text = format!("{} was written by another query", self.place(name));
        Error::new(ErrorKind::Conflict, text)
            .help("only one query may write to an output directory: stop the other one, or choose another path")
    }

    fn gap(&self, batch: u64, latest: Option<u64>) -> Error {
        let log = self.place("");
        let text = match latest {
            Some(latest) => format!("batch {batch} cannot follow batch {latest} in the sink log {log}"),
            None => format!("batch {batch} cannot be the first in the sink log {log}, which is empty or missing"),
        };
        Error::corrupt(text).help(
            "the checkpoint and the output directory do not belong together: restore _spark_metadata, or start with \
             a new checkpointLocation and a new path, or set sparkMetadata = 'false'",
        )
    }

    /// Deletes log files that a compacted one replaces. The batch is committed, so a failure is only told.
    async fn clean_up(&self, listing: &Listing, batch: u64, interval: u64) {
        for name in listing.deletable(batch, interval, clock::now_ms()).into_iter().take(DELETES_MAX) {
            if let Err(error) = self.output.delete(&path_of(&name)).await {
                tracing::warn!(%error, "an old log file could not be deleted; the next batch tries again");
                return;
            }
        }
    }

    fn place(&self, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("{}/{SPARK_METADATA}{slash}{name}", self.output.url())
    }
}

fn path_of(name: &str) -> String {
    format!("{SPARK_METADATA}/{name}")
}
