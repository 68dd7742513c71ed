//! Making a batch visible: prepared -> sweep -> publish -> sink log -> commit. Each step may be done twice.

use super::{
    batch::BatchResult,
    output::{self, FileOutput, Output},
};
use crate::{
    checkpoint::{Checkpoint, Ledger, Prepared},
    error::{Error, ErrorKind, Result},
    fault::crash_point,
    query::FilesVersion,
    sink::{StagedFile, spark_log::SinkFile},
    source::{Offsets, offsets::to_lines},
    store::{Staged, Store},
};

/// The name that marks the temporaries of batch `batch` of one run of a query.
pub fn owner(checkpoint: &Checkpoint, batch: u64) -> String {
    format!("{}-{batch}-{}", checkpoint.query_id, short(&checkpoint.run_id))
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Is this the owner of a temporary that batch `batch` of our query, or one before it, left behind?
pub fn is_left_over(owner: &str, query_id: &str, batch: u64) -> bool {
    let rest = owner.strip_prefix(query_id).and_then(|rest| rest.strip_prefix('-'));
    let id = rest.and_then(|rest| rest.split('-').next()).and_then(|id| id.parse::<u64>().ok());
    id.is_some_and(|id| id <= batch)
}

/// The counts so far, and where they start.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    pub ledger: Ledger,
    pub counted_from: Vec<Offsets>,
    /// Where dead letters of earlier batches may lie: `deadLetterPath` may change.
    pub dead_letter_urls: Vec<String>,
}

impl Totals {
    fn earlier_urls(&self, current: &str) -> Vec<String> {
        self.dead_letter_urls.iter().filter(|url| *url != current).cloned().collect()
    }
}

/// Everything that making a batch visible needs.
#[derive(Debug)]
pub struct Committer<'a> {
    pub checkpoint: &'a Checkpoint,
    pub output: &'a mut Output,
    pub dead_letter_store: &'a Store,
    /// Of a query with windows.
    pub late_store: Option<&'a Store>,
    /// True until the first batch of this run is prepared: a run before it may have left temporaries.
    pub sweep: bool,
}

impl Committer<'_> {
    /// Fixes the batch's result and returns it.
    ///
    /// # Errors
    /// `Conflict` if another instance fixed it first; the store's.
    pub async fn prepare(
        &mut self,
        batch: u64,
        (result, static_tables): (BatchResult, Vec<FilesVersion>),
        before: &Totals,
    ) -> Result<Prepared> {
        let mut totals = before.ledger;
        totals += result.ledger;
        let prepared = Prepared {
            batch_id: batch,
            run_id: self.checkpoint.run_id.clone(),
            files: result.files,
            dead_letters: result.dead_letters,
            dead_letter_url: self.dead_letter_store.url().to_owned(),
            late: result.late,
            late_url: self.late_store.map(|store| store.url().to_owned()).unwrap_or_default(),
            state: result.state,
            earlier_dead_letter_urls: before.earlier_urls(self.dead_letter_store.url()),
            ledger: result.ledger,
            totals,
            counted_from: to_lines(&before.counted_from),
            static_tables,
        };
        match self.output {
            // The rows and the marker become visible together; after that the batch can only be rolled forward.
            Output::Kafka(sink, _) => sink.commit(&marker(&prepared)?).await?,
            Output::Console(sink) => output::print(sink)?,
            Output::File(_) => {}
        }
        crash_point("transaction", batch);
        self.checkpoint.write_prepared(&prepared).await?;
        crash_point("prepared", batch);
        Ok(prepared)
    }

    /// Publishes what is prepared and commits the batch.
    ///
    /// # Errors
    /// The store's; `Conflict` or `Corrupt` if a staged file is gone and its target is not ours.
    pub async fn roll_forward(&mut self, prepared: &Prepared, watermark_ms: i64) -> Result<()> {
        let batch = prepared.batch_id;
        self.sweep(prepared).await?;
        publish(self.dead_letter_store, &prepared.dead_letters).await?;
        self.publish_late(prepared).await?;
        if let Output::File(file) = self.output {
            let files = publish_counted(&file.store, &prepared.files, batch).await?;
            crash_point("published", batch);
            log(file, batch, &files).await?;
        }
        crash_point("logged", batch);
        self.checkpoint.write_commit(batch, watermark_ms).await?;
        crash_point("committed", batch);
        self.checkpoint.purge(batch).await
    }

    async fn publish_late(&self, prepared: &Prepared) -> Result<()> {
        if prepared.late.is_empty() {
            return Ok(());
        }
        match self.late_store.filter(|store| store.url() == prepared.late_url) {
            Some(store) => publish(store, &prepared.late).await,
            // The job file may name another output by now; the rows lie where the batch staged them.
            None => publish(&Store::open(&prepared.late_url).await?, &prepared.late).await,
        }
    }

    /// Temporaries are deleted only now: whoever wrote `prepared/N` has won, so no other's can be needed any more.
    async fn sweep(&mut self, prepared: &Prepared) -> Result<()> {
        if !std::mem::take(&mut self.sweep) {
            return Ok(());
        }
        let query_id = self.checkpoint.query_id.clone();
        let is_ours = move |owner: &str| is_left_over(owner, &query_id, prepared.batch_id);
        let staged = |files: &[StagedFile]| files.iter().map(|file| file.staged.clone()).collect::<Vec<Staged>>();
        let mut swept = self.dead_letter_store.sweep(&is_ours, &staged(&prepared.dead_letters)).await?;
        if let Some(store) = self.late_store {
            swept += store.sweep(&is_ours, &staged(&prepared.late)).await?;
        }
        if let Output::File(file) = self.output {
            swept += file.store.sweep(&is_ours, &staged(&prepared.files)).await?;
        }
        if swept > 0 {
            tracing::info!(swept, batch = prepared.batch_id, "deleted temporaries of an earlier run");
        }
        Ok(())
    }
}

async fn publish(store: &Store, files: &[StagedFile]) -> Result<()> {
    for file in files {
        store.publish(&file.staged).await?;
    }
    Ok(())
}

async fn publish_counted(store: &Store, files: &[StagedFile], batch: u64) -> Result<Vec<SinkFile>> {
    let mut published = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let facts = store.publish(&file.staged).await?;
        published.push(SinkFile { path: file.staged.path.clone(), published: facts, rows: Some(file.rows) });
        if index == 0 {
            crash_point("publishing", batch);
        }
    }
    Ok(published)
}

async fn log(file: &FileOutput, batch: u64, files: &[SinkFile]) -> Result<()> {
    if file.keeps_log { file.log.add(batch, files).await } else { Ok(()) }
}

/// What a Kafka transaction says of its batch: the ledger, so that recovery needs no second run.
/// Kafka keeps at most 4096 bytes, so what grows with the partitions or with time stays out: recovery knows it.
fn marker(prepared: &Prepared) -> Result<String> {
    let (counted_from, earlier_dead_letter_urls) = (String::new(), Vec::new());
    Prepared { counted_from, earlier_dead_letter_urls, ..prepared.clone() }.to_text()
}

/// The batch that a committed transaction describes.
///
/// # Errors
/// `Conflict` if the text is not of this batch.
pub fn from_marker(batch: u64, text: &str, before: &Totals) -> Result<Prepared> {
    let mut prepared =
        Prepared::parse(text).map_err(|error| error.context("the marker of the last Kafka transaction"))?;
    if prepared.batch_id == batch {
        prepared.counted_from = to_lines(&before.counted_from);
        prepared.earlier_dead_letter_urls = before.earlier_urls(&prepared.dead_letter_url);
        return Ok(prepared);
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("the last transaction says batch {}, the checkpoint batch {batch}", prepared.batch_id),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_fits_kafka_however_many_partitions_there_are() {
        let mut counted_from = Offsets::default();
        (0..1000).for_each(|partition| counted_from.set("a topic with a long name", partition, i64::MAX));
        let before = Totals {
            counted_from: vec![counted_from],
            dead_letter_urls: vec!["hdfs://old/place".repeat(300)],
            ..Totals::default()
        };
        let url = format!("hdfs://namenode.example.org:8020/{}", "directory/".repeat(20));
        let path = format!("part-00000-{}-c000.snappy.parquet", uuid::Uuid::nil());
        let hidden = crate::store::Hidden::File { path: format!(".{path}.{}.tmp", uuid::Uuid::nil()) };
        let letters = Staged { path, hidden, size_bytes: u64::MAX, crc32: u32::MAX };
        let full =
            Ledger { consumed: u64::MAX, written: u64::MAX, filtered: u64::MAX, bad: u64::MAX, ..Ledger::default() };
        let prepared = Prepared {
            batch_id: 7,
            run_id: uuid::Uuid::nil().to_string(),
            files: Vec::new(),
            dead_letters: vec![StagedFile { staged: letters, rows: u64::MAX }],
            earlier_dead_letter_urls: before.earlier_urls(&url),
            late: Vec::new(),
            late_url: String::new(),
            state: None,
            dead_letter_url: url,
            ledger: full,
            totals: full,
            counted_from: to_lines(&before.counted_from),
            static_tables: Vec::new(),
        };
        assert!(prepared.to_text().unwrap().len() > 4096);
        let text = marker(&prepared).unwrap();
        assert!(text.len() < 2048, "{} bytes", text.len());
        assert_eq!(from_marker(7, &text, &before).unwrap(), prepared);
        assert_eq!(from_marker(8, &text, &before).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn leftovers_are_ours_and_not_of_the_future() {
        let id = "ef782226-b59b-4283-a161-d0b6838ef648";
        assert!(is_left_over(&format!("{id}-7-abcdef01"), id, 7));
        assert!(is_left_over(&format!("{id}-3-abcdef01"), id, 7));
        assert!(!is_left_over(&format!("{id}-8-abcdef01"), id, 7));
        assert!(!is_left_over("00000000-b59b-4283-a161-d0b6838ef648-7-abcdef01", id, 7));
        assert!(!is_left_over("7-x", id, 7));
    }
}
