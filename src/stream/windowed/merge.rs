//! Pieces of sessions become whole: pieces of equal keys that overlap, or of which one ends where the next starts, are
//! one session.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array},
    compute::{SortOptions, take_record_batch},
    datatypes::DataType,
    row::{OwnedRow, RowConverter, Rows, SortField},
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::{
        TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream, sorts::sort::SortExec,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

use super::exec::one_partition;
use crate::{
    error::{Error, Result},
    state::{Labels, SessionPieces, StateLayout},
};

/// Keys of rows, comparable as bytes. Without keys all rows have the same.
#[derive(Debug)]
pub struct KeyRows {
    converter: RowConverter,
    is_empty: bool,
}

impl KeyRows {
    /// Of columns of these types.
    ///
    /// # Errors
    /// Arrow's.
    pub fn new(types: Vec<DataType>) -> Result<Self> {
        let is_empty = types.is_empty();
        let types = if is_empty { vec![DataType::Boolean] } else { types };
        Ok(Self { converter: RowConverter::new(types.into_iter().map(SortField::new).collect())?, is_empty })
    }

    /// The keys of `count` rows.
    ///
    /// # Errors
    /// Arrow's.
    pub fn rows(&self, columns: Vec<ArrayRef>, count: usize) -> Result<Rows> {
        let same = || vec![Arc::new(BooleanArray::from(vec![false; count])) as ArrayRef];
        let columns = if self.is_empty { same() } else { columns };
        Ok(self.converter.convert_columns(&columns)?)
    }
}

/// Which pieces come out, labelled with the bounds of the session that they belong to.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// All of them.
    All,
    /// Those of sessions that end after `from_us` and not after `to_us`; their input rows are counted.
    Closing { from_us: i64, to_us: i64, released: Arc<AtomicU64> },
    /// Those that would be forgotten when all sessions that end up to `to_us` are closed, though theirs is not.
    Outlived { to_us: i64 },
}

/// Labels pieces of sessions, which come sorted by key and start.
#[derive(Debug, Clone)]
pub struct SessionMergeExec {
    input: Arc<dyn ExecutionPlan>,
    layout: StateLayout,
    wanted: Wanted,
    ordering: LexOrdering,
    properties: Arc<PlanProperties>,
}

impl SessionMergeExec {
    /// Over rows of state in any order.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn over(input: Arc<dyn ExecutionPlan>, layout: StateLayout, wanted: Wanted) -> Result<Self> {
        let pieces = pieces(&layout)?;
        let options = SortOptions { descending: false, nulls_first: true };
        let sorted = pieces.keys.iter().chain([&layout.start]).map(|at| {
            let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(layout.schema.field(*at).name(), *at));
            PhysicalSortExpr { expr, options }
        });
        let ordering =
            LexOrdering::new(sorted).ok_or_else(|| Error::internal("sessions are ordered by their start"))?;
        let properties = one_partition(&input, &layout.schema);
        let input = Arc::new(SortExec::new(ordering.clone(), input));
        Ok(Self { input, layout, wanted, ordering, properties })
    }
}

fn pieces(layout: &StateLayout) -> Result<&SessionPieces> {
    match &layout.labels {
        Labels::Sessions(pieces) => Ok(pieces),
        Labels::Windows | Labels::Panes(_) | Labels::Moments(_) => {
            Err(Error::internal("the state of sessions holds none"))
        }
    }
}

impl DisplayAs for SessionMergeExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("SessionMergeExec")
    }
}

impl ExecutionPlan for SessionMergeExec {
    fn name(&self) -> &str {
        "SessionMergeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// Without it the optimizer would take the sort away.
    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![Some(OrderingRequirements::from(self.ordering.clone()))]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else { return internal_err!("one input") };
        Ok(Arc::new(Self { input, ..Self::clone(&self) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let pieces = pieces(&self.layout)?.clone();
        let types = pieces.keys.iter().map(|at| self.layout.schema.field(*at).data_type().clone()).collect();
        let merger = Merger {
            layout: self.layout.clone(),
            wanted: self.wanted.clone(),
            converter: KeyRows::new(types)?,
            pieces,
            open: None,
            memory: MemoryConsumer::new("SessionMergeExec").register(context.memory_pool()),
        };
        let input = self.input.execute(partition, context)?;
        let batches = futures::stream::unfold((input, Some(merger)), |(mut input, merger)| async move {
            let mut merger = merger?;
            let (batches, merger) = match input.next().await {
                Some(Ok(batch)) => (merger.push(&batch), Some(merger)),
                Some(Err(error)) => (Err(error), None),
                None => (merger.close(), None),
            };
            let batches: Vec<_> = match batches {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            Some((futures::stream::iter(batches), (input, merger)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.layout.schema), batches.flatten())))
    }
}

struct Merger {
    layout: StateLayout,
    wanted: Wanted,
    converter: KeyRows,
    pieces: SessionPieces,
    open: Option<Open>,
    /// For the rows of `open`.
    memory: MemoryReservation,
}

/// The session that may get more pieces.
struct Open {
    key: OwnedRow,
    start_us: i64,
    end_us: i64,
    parts: Vec<RecordBatch>,
}

/// Rows of one batch that are of one session, with its bounds.
#[derive(Debug, Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
    start_us: i64,
    end_us: i64,
}

impl Merger {
    /// Takes the next pieces, and gives those whose sessions are whole.
    fn push(&mut self, batch: &RecordBatch) -> DataFusionResult<Vec<RecordBatch>> {
        let count = batch.num_rows();
        if count == 0 {
            return Ok(Vec::new());
        }
        let (starts, ends) = self.layout.bounds(batch)?;
        let columns = self.pieces.keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
        let keys = self.converter.rows(columns, count)?;
        let first_is_of = |open: &Open| open.key.row() == keys.row(0) && starts.value(0) <= open.end_us;
        let mut open = self.open.take();
        let continues = open.as_ref().is_some_and(first_is_of);
        let bounds = |open: &Open| (open.start_us, open.end_us);
        let (start_us, end_us) = open.as_ref().filter(|_| continues).map_or((starts.value(0), ends.value(0)), bounds);
        let mut run = Run { from: 0, to: 0, start_us, end_us: end_us.max(ends.value(0)) };
        let mut runs = Vec::new();
        for row in 1..count {
            if keys.row(row) == keys.row(row - 1) && starts.value(row) <= run.end_us {
                run.end_us = run.end_us.max(ends.value(row));
            } else {
                runs.push(Run { to: row, ..run });
                run = Run { from: row, to: row, start_us: starts.value(row), end_us: ends.value(row) };
            }
        }
        runs.push(Run { to: count, ..run });
        let mut complete = Vec::new();
        if !continues && let Some(open) = open.take() {
            complete.extend(self.finish(open)?);
        }
        // The last of the batch stays open; the first may belong to the one that was.
        let Some(last) = runs.pop() else { return Ok(complete) };
        let mut runs = runs.into_iter();
        if let Some(mut before) = open {
            let first = runs.next();
            let Run { from, to, end_us, .. } = first.unwrap_or(last);
            before.parts.push(batch.slice(from, to - from));
            before.end_us = end_us;
            if first.is_none() {
                self.memory.try_grow(batch.get_array_memory_size())?;
                self.open = Some(before);
                return Ok(complete);
            }
            complete.extend(self.finish(before)?);
        }
        complete.extend(self.select(batch, &runs.collect::<Vec<_>>())?);
        self.memory.try_grow(batch.get_array_memory_size())?;
        let parts = vec![batch.slice(last.from, last.to - last.from)];
        let key = keys.row(last.from).owned();
        self.open = Some(Open { key, start_us: last.start_us, end_us: last.end_us, parts });
        Ok(complete)
    }

    fn close(&mut self) -> DataFusionResult<Vec<RecordBatch>> {
        self.open.take().map_or(Ok(Vec::new()), |open| self.finish(open))
    }

    fn finish(&mut self, open: Open) -> DataFusionResult<Vec<RecordBatch>> {
        self.memory.free();
        let Open { start_us, end_us, parts, .. } = open;
        let selected =
            parts.iter().map(|part| self.select(part, &[Run { from: 0, to: part.num_rows(), start_us, end_us }]));
        Ok(selected.collect::<DataFusionResult<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The pieces of `runs` that are wanted, labelled.
    fn select(&self, batch: &RecordBatch, runs: &[Run]) -> DataFusionResult<Option<RecordBatch>> {
        let last_ends = match self.wanted {
            Wanted::Outlived { .. } => self.layout.last_ends(batch)?,
            Wanted::All | Wanted::Closing { .. } => Vec::new(),
        };
        let (mut rows, mut start_us, mut end_us) = (Vec::new(), Vec::new(), Vec::new());
        for run in runs {
            let is_wanted = |row: &usize| match &self.wanted {
                Wanted::All => true,
                Wanted::Closing { from_us, to_us, .. } => run.end_us > *from_us && run.end_us <= *to_us,
                Wanted::Outlived { to_us } => {
                    run.end_us > *to_us && last_ends.get(*row).is_some_and(|end| end <= to_us)
                }
            };
            for row in (run.from..run.to).filter(is_wanted) {
                // A batch has fewer rows than 2^32.
                rows.push(u32::try_from(row).unwrap_or(u32::MAX));
                start_us.push(run.start_us);
                end_us.push(run.end_us);
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let taken = take_record_batch(batch, &UInt32Array::from(rows))?;
        if let Wanted::Closing { released, .. } = &self.wanted {
            released.fetch_add(self.layout.input_rows(&taken)?, Ordering::Relaxed);
        }
        Ok(Some(self.layout.labelled(&taken, start_us, end_us)?))
    }
}
