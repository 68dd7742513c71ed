//! What a query with windows has beside one without: its state, and a place for late rows.

use super::run::{QueryState, Watermarks, stage_us};
use crate::{
    catalog::Table,
    checkpoint::{Checkpoint, Prepared},
    error::{Error, ErrorKind, Result},
    event_time::NO_WATERMARK_MS,
    sink::file::FileSink,
    store::Store,
    stream::{commit::is_left_over, forecast::Learning, output, plan::QueryPlan},
};

/// The windows of one query.
#[derive(Debug)]
pub struct Windows {
    pub state: QueryState,
    pub late_store: Store,
    pub late_sink: FileSink,
    swept: bool,
}

impl Windows {
    /// With an empty state.
    ///
    /// # Errors
    /// As planning; the sink's.
    pub async fn open(plan: &QueryPlan, sink: &Table, checkpoint: &Checkpoint) -> Result<Self> {
        let nothing = Watermarks { from_ms: NO_WATERMARK_MS, to_ms: NO_WATERMARK_MS };
        let planned = plan.windowed(0, (nothing, i64::MAX), None).await?.planned;
        let schema = plan.stages()?.late_schema();
        let schema = schema.ok_or_else(|| Error::internal("a query with windows has no window"))?;
        let (late_store, late_sink) = output::late(sink, schema, checkpoint).await?;
        let mut state = QueryState::new(&planned, plan.watermark(), checkpoint.store().clone());
        if let Some(learning) = &mut state.learning {
            learning.publish_for(&checkpoint.query_id);
        }
        Ok(Self { state, late_store, late_sink, swept: false })
    }

    /// Stands where the query stands that has committed `prepared`, whose watermark was `watermark_ms`; if it is `reset`,
    /// without its rows.
    ///
    /// # Errors
    /// The store's; `Corrupt`; `Conflict` if it is the state of another query.
    pub async fn restore(&mut self, prepared: Option<Prepared>, (watermark_ms, reset): (i64, bool)) -> Result<()> {
        if reset {
            return self.state.reset(prepared.and_then(|prepared| prepared.state), watermark_ms).await;
        }
        let Some(place) = prepared.and_then(|prepared| prepared.state) else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the checkpoint is of a query without state, this one has windows",
            )
            .help("give the query a checkpointLocation and a path of its own"));
        };
        self.state.restore(place, watermark_ms).await?;
        for operator in &mut self.state.operators {
            operator.load(stage_us(watermark_ms, operator.layout.behind_us)).await?;
        }
        // Of the batch that the run before may have died after.
        self.state.learning.as_mut().map_or(Ok(()), Learning::publish)
    }

    /// The batch that was run is committed: the files of state that nobody needs any more go.
    ///
    /// # Errors
    /// The store's.
    pub async fn committed(&mut self, query_id: &str, batch: u64) -> Result<()> {
        // Not earlier: a batch that is given up has promoted nothing.
        self.state.learning.as_mut().map_or(Ok(()), Learning::publish)?;
        // Only after a commit of our own: before, they may belong to another instance that wins, or to a batch that
        // another run prepared and this one only finishes.
        if self.state.committed().await? && !std::mem::replace(&mut self.swept, true) {
            let swept = self.state.sweep(&|name| is_left_over(name, query_id, batch)).await?;
            tracing::debug!(swept, "deleted state of batches that were never prepared");
        }
        Ok(())
    }
}
