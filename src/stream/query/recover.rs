//! Where a query stands when it starts, and what has to be done before its next batch.

use super::{StreamingQuery, logged_watermark, read_watermark};
use crate::{
    checkpoint::{Prepared, recovery::Decision},
    error::{Error, ErrorKind, Result},
    source::{Offsets, offsets::from_lines},
    store::Store,
    stream::{
        commit::{self, Totals},
        inputs,
        output::Output,
        progress::Reporter,
    },
};

impl StreamingQuery {
    pub(super) async fn recover(&mut self, reporter: &Reporter) -> Result<()> {
        let decision = self.decide().await?;
        tracing::info!(query = self.name, ?decision, "recovery");
        self.fence(decision).await?;
        match decision {
            Decision::Fresh => {
                let first = self.inputs.first_offsets(&self.checkpoint, true).await?;
                self.totals.counted_from = first.clone();
                self.inputs.stand_at(first);
            }
            Decision::Next(batch) => self.stand_after(batch - 1).await?,
            Decision::RunAgain(batch) => self.run_again(batch, reporter).await?,
            Decision::RollForward(batch) => {
                let prepared = self.checkpoint.prepared(batch).await?;
                self.check_log(&prepared).await?;
                self.watermark_ms = read_watermark(self.checkpoint.offsets(batch).await?.watermark_ms);
                let current = self.dead_letter_store.clone();
                // The job file may name another directory by now; the batch's letters lie where it staged them.
                self.dead_letter_store = Store::open(&prepared.dead_letter_url).await?;
                self.finish(&prepared).await?;
                self.dead_letter_store = current;
                self.stand_after(batch).await?;
            }
            Decision::CommitOnly(batch) => {
                self.watermark_ms = read_watermark(self.checkpoint.offsets(batch).await?.watermark_ms);
                self.checkpoint.write_commit(batch, logged_watermark(self.watermark_ms)).await?;
                self.stand_after(batch).await?;
            }
        }
        Ok(())
    }

    /// A Kafka sink becomes the query's only producer, and its topic must not be ahead of the checkpoint.
    async fn fence(&self, decision: Decision) -> Result<()> {
        let Output::Kafka(sink, _) = &self.output else { return Ok(()) };
        let known = decision.latest();
        // A start that is refused must not stop an instance that is well: the first look comes before the fence.
        self.check_marker(known, sink.committed_so_far().await?)?;
        sink.fence().await?;
        self.check_marker(known, sink.committed().await?.map(|(batch, _)| batch))
    }

    fn check_marker(&self, known: Option<u64>, committed: Option<u64>) -> Result<()> {
        let Some(batch) = committed.filter(|committed| known.is_none_or(|known| *committed > known)) else {
            return Ok(());
        };
        let checkpoint = self.checkpoint.url();
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the topic has batch {batch} of this query, the checkpoint {checkpoint} is older"),
        )
        .help("restore the newer checkpoint, or start anew with another checkpointLocation"))
    }

    /// If the sink's log has the batch already, it must be with our files: nothing is published beside another's.
    async fn check_log(&self, prepared: &Prepared) -> Result<()> {
        let Output::File(file) = &self.output else { return Ok(()) };
        if file.log.latest().await?.is_none_or(|latest| latest < prepared.batch_id) {
            return Ok(());
        }
        let logged = file.log.files().await?.unwrap_or_default();
        let is_logged = |path: &String| logged.iter().any(|file| file.path == *path);
        if prepared.files.iter().all(|file| is_logged(&file.staged.path)) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the output's log has batch {} with other files than {} prepared",
                prepared.batch_id,
                self.checkpoint.url()
            ),
        )
        .help("another engine went on with this checkpoint: go on there, or delete prepared/N to go on from its files"))
    }

    /// Stands where a query stands that has committed `batch`.
    async fn stand_after(&mut self, batch: u64) -> Result<()> {
        let entry = self.checkpoint.offsets(batch).await?;
        self.watermark_ms = read_watermark(entry.watermark_ms);
        let reset = self.checkpoint.is_reset(batch + 1).await?;
        if let Some(windows) = &mut self.windows {
            windows.restore(self.checkpoint.find_prepared(batch).await?, (self.watermark_ms, reset)).await?;
        }
        let ends = self.with_firsts(inputs::per_source(entry.ends, self.inputs.count())?).await?;
        self.inputs.stand_at(ends);
        self.next_batch = batch + 1;
        self.totals = self.totals_after(batch).await?;
        self.reset_rows = if reset { self.totals.ledger.in_state() } else { 0 };
        Ok(())
    }

    /// A source of which Spark had no offset yet stands where it starts.
    async fn with_firsts(&self, mut ends: Vec<Offsets>) -> Result<Vec<Offsets>> {
        if ends.iter().any(|end| end.0.is_empty()) {
            let first = self.inputs.first_offsets(&self.checkpoint, false).await?;
            for (end, first) in ends.iter_mut().zip(first).filter(|(end, _)| end.0.is_empty()) {
                *end = first;
            }
        }
        Ok(ends)
    }

    /// A checkpoint that Spark wrote has no ledger: the count starts where it is taken over.
    async fn totals_after(&self, batch: u64) -> Result<Totals> {
        let Some(prepared) = self.checkpoint.find_prepared(batch).await? else {
            return Ok(Totals { counted_from: self.inputs.positions(), ..Totals::default() });
        };
        let mut dead_letter_urls = prepared.earlier_dead_letter_urls;
        dead_letter_urls.push(prepared.dead_letter_url);
        Ok(Totals { ledger: prepared.totals, counted_from: from_lines(&prepared.counted_from)?, dead_letter_urls })
    }

    async fn run_again(&mut self, batch: u64, reporter: &Reporter) -> Result<()> {
        let entry = self.checkpoint.offsets(batch).await?;
        match batch.checked_sub(1) {
            Some(previous) => self.stand_after(previous).await?,
            None => {
                let first = self.inputs.first_offsets(&self.checkpoint, false).await?;
                self.totals.counted_from = first.clone();
                self.inputs.stand_at(first);
            }
        }
        self.next_batch = batch;
        if let Output::Kafka(sink, _) = &self.output
            && let Some((committed, text)) = sink.committed().await?
            && committed == batch
        {
            let prepared = commit::from_marker(batch, &text, &self.totals)?;
            self.checkpoint.write_prepared(&prepared).await?;
            self.finish(&prepared).await?;
            return self.stand_after(batch).await;
        }
        if let Some(starts) = entry.starts()? {
            self.inputs.start_at(inputs::per_source(starts, self.inputs.count())?);
        }
        let progress = self.begin_progress();
        self.run_one(&entry, progress, reporter).await
    }
}
