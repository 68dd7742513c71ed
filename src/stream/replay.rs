//! A query with late rows, as its checkpoint has it: for those who compute its windows again.

use std::collections::BTreeSet;

use arrow::datatypes::SchemaRef;

use super::{
    inputs::per_source,
    output::{checkpoint_location, late_table},
    plan::QueryPlan,
    windowed::{Replayable, Stages},
};
use crate::{
    catalog::{FileTable, Insert, Job, Table},
    checkpoint::{Checkpoint, read_watermark},
    error::{Error, Result},
    source::Offsets,
    store::Store,
};

/// The offsets of the one source.
fn only(ends: Vec<Offsets>) -> Result<Offsets> {
    Ok(per_source(ends, 1)?.pop().unwrap_or_default())
}

/// An INSERT over windows, and where its late rows are.
#[derive(Debug)]
pub struct LateQuery {
    /// `job.table`
    pub name: String,
    pub sink: Table,
    /// The Kafka table that it reads.
    pub source: Table,
    /// Of the rows that it writes.
    pub schema: SchemaRef,
    /// The directory of the late rows.
    pub late: FileTable,
    pub late_schema: SchemaRef,
    stages: Stages,
    checkpoint: Checkpoint,
}

/// What the query has done up to its newest committed batch.
#[derive(Debug)]
pub struct Standing {
    /// The newest committed batch.
    pub batch: u64,
    /// What was read: from here,
    pub from: Offsets,
    /// to here.
    pub to: Offsets,
    /// Windows that end up to here are written.
    pub watermark_ms: i64,
    /// Files of late rows of a batch that is not committed, relative to their directory.
    pub uncommitted: BTreeSet<String>,
    /// Where batches started to read, with the time at which they were made (milliseconds since the epoch), oldest first;
    /// of those that are still known.
    pub starts: Vec<(Offsets, i64)>,
    /// Offsets that were gone back.
    pub rewound: u64,
}

impl LateQuery {
    /// `None` for an INSERT that has no windows, so no late rows.
    ///
    /// # Errors
    /// As planning; `Invalid` for a query without a checkpoint.
    pub async fn open(job: &Job, insert: &Insert) -> Result<Option<Self>> {
        let plan = QueryPlan::new(job, insert).await?;
        if !plan.windowed || !plan.waits() {
            return Ok(None);
        }
        let [source] = plan.sources.as_slice() else {
            return Err(Error::unsupported(format!("late rows of a query that reads {} tables", plan.sources.len()))
                .at(insert.place.clone())
                .help("their windows can be computed from the topics with `tidemill query`"));
        };
        let stages = plan.stages()?;
        if stages.operators.iter().any(|operator| operator.spec.is_none()) {
            return Ok(None);
        }
        let name = format!("{}.{}", job.name, insert.target);
        let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?.clone();
        let location = checkpoint_location(job, insert)?.ok_or_else(|| {
            Error::invalid(format!("{name} has no checkpoint, so it keeps no late rows beyond its run"))
                .at(sink.place.clone())
                .help("give its table a checkpointLocation")
        })?;
        let checkpoint = Checkpoint::open_read_only(Store::open(&location).await?).await?;
        let late_schema =
            stages.late_schema().ok_or_else(|| Error::internal("a query with windows has no late rows"))?;
        let late = late_table(&sink, &late_schema, checkpoint.url());
        let (source, schema) = (source.table.clone(), plan.schema().clone());
        Ok(Some(Self { name, sink, source, schema, late, late_schema, stages, checkpoint }))
    }

    /// How its late rows find their windows.
    ///
    /// # Errors
    /// `Unsupported` where a row changes more than the windows that hold its time.
    pub fn replayable(&self) -> Result<Replayable> {
        self.stages.replayable()
    }

    /// Where it stands.
    ///
    /// # Errors
    /// `NotFound` before its first committed batch; the store's; `Corrupt`.
    pub async fn standing(&self) -> Result<Standing> {
        let facts = self.checkpoint.facts().await?;
        let Some(&batch) = facts.commits.last() else {
            return Err(Error::new(
                crate::error::ErrorKind::NotFound,
                format!("{}: no batch was committed yet in the checkpoint {}", self.name, self.checkpoint.url()),
            )
            .help("run the job first: tidemill stream JOB.sql"));
        };
        let prepared = self.checkpoint.prepared(batch).await?;
        let uncommitted = match facts.prepared.last() {
            Some(&id) if id > batch => self.checkpoint.prepared(id).await?.late,
            _ => Vec::new(),
        };
        let entry = self.checkpoint.offsets(batch).await?;
        let mut starts = Vec::new();
        for id in facts.offsets.iter().filter(|id| **id <= batch) {
            let entry = self.checkpoint.offsets(*id).await?;
            if let Some(start) = entry.starts()?.map(only).transpose()? {
                starts.push((start, entry.timestamp_ms));
            }
        }
        Ok(Standing {
            batch,
            from: prepared.counted_from.parse()?,
            to: only(entry.ends)?,
            watermark_ms: read_watermark(entry.watermark_ms),
            uncommitted: uncommitted.into_iter().map(|file| file.staged.path).collect(),
            starts,
            rewound: prepared.totals.rewound,
        })
    }
}
