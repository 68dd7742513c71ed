//! An INSERT as a bounded DataFusion plan over one batch.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef, TimeUnit},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::{
    catalog::{Session, TableProvider},
    common::Result as DataFusionResult,
    execution::{SessionState, TaskContext},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType, cast},
    physical_plan::{
        ExecutionPlan, SendableRecordBatchStream,
        execution_plan::reset_plan_states,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
    prelude::SessionContext,
};
use tokio::sync::mpsc::{Receiver, Sender};

use super::{
    constant, stateless,
    windowed::{self, LateRows, PlannedStages, Stages, Watermarks},
};
use crate::{
    catalog::{Connector, Emit, Insert, Job, OutputMode, ParseMode, SqlText, Table, Watermark, locate_error},
    error::{Error, Result},
    session::{SessionLimits, plan_sql, session},
};

/// What a plan's operators may hold in memory.
const PLAN_MEMORY_BYTES: usize = 64 << 20;

/// The plan of one INSERT.
pub struct QueryPlan {
    context: SessionContext,
    logical: LogicalPlan,
    schema: SchemaRef,
    /// The Kafka table that it reads.
    pub source: Table,
    input: Arc<BatchInput>,
    /// It aggregates, so it needs state.
    pub windowed: bool,
    /// Which rows it writes.
    pub emit: Emit,
    /// Its windows wait for the watermark of the source.
    waits: bool,
}

impl std::fmt::Debug for QueryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryPlan")
            .field("source", &self.source.name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Where a plan's leaf finds the rows of the current batch, and where it says which columns it wants.
#[derive(Debug)]
struct BatchInput {
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    projection: Option<Vec<usize>>,
    rows: Option<Receiver<Result<RecordBatch>>>,
}

/// One batch's physical plan.
#[derive(Debug)]
pub struct BatchPlan {
    physical: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    /// Indices into the source's columns, ascending: what must be decoded.
    pub projection: Vec<usize>,
    input: Arc<BatchInput>,
}

impl QueryPlan {
    /// Plans `insert` over the tables and views of `job`.
    ///
    /// # Errors
    /// `Invalid`, at its place, for SQL that does not plan; `Unsupported` for what one batch alone cannot answer.
    pub async fn new(job: &Job, insert: &Insert) -> Result<Self> {
        let context = session(SessionLimits { memory_bytes: PLAN_MEMORY_BYTES, partitions: 1 })?;
        // It makes two aggregates of a DISTINCT one, and the state of the first would be rows.
        context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
        let mut inputs = Vec::new();
        for table in &job.tables {
            if let Connector::Kafka(kafka) = &table.connector
                && kafka.subscription.is_some()
            {
                let input = Arc::new(BatchInput { slot: Mutex::default() });
                let provider = StreamTable { schema: table.schema(), input: Arc::clone(&input) };
                context.register_table(quoted(&table.name), Arc::new(provider))?;
                inputs.push((table, input));
            }
        }
        for view in &job.views {
            let plan = plan_select(&context, &view.select).await?;
            let provider = datafusion::datasource::view::ViewTable::new(plan, None);
            context.register_table(quoted(&view.name), Arc::new(provider))?;
        }
        let logical = plan_select(&context, &insert.select).await?;
        // First: an optimizer that folds the constant would say less.
        constant::check(&context.state(), &logical).map_err(|error| error.at(insert.place.clone()))?;
        let emit = job.emit(insert)?;
        let (source, windowed) = source(&context, &logical, emit).map_err(|error| error.at(insert.place.clone()))?;
        let found = inputs.into_iter().find(|(table, _)| table.name.eq_ignore_ascii_case(&source));
        let (table, input) = found.ok_or_else(|| {
            Error::unsupported(format!("the INSERT reads {source:?}, which is no Kafka table"))
                .at(insert.place.clone())
                .help("a stream reads one Kafka table; use `tidemill query` for stored files")
        })?;
        let logical = normalise(logical).map_err(|error| error.at(insert.place.clone()))?;
        let schema = Arc::clone(logical.schema().inner());
        let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
        windowed::check_fields(&schema, sink)?;
        if windowed && table.watermark.is_none() && emit.mode == OutputMode::Append {
            return Err(Error::invalid(format!(
                "the table {} has no WATERMARK, so nobody knows when a window, or what a row looks back to, is complete",
                table.name
            ))
            .at(table.place.clone())
            .help("declare it among the columns: WATERMARK FOR ts AS ts - INTERVAL '10' SECOND"));
        }
        let mut waits = windowed && table.watermark.is_some() && emit.mode != OutputMode::Complete;
        if windowed {
            let stages = windowed::split(context.state().optimize(&logical)?, emit, waits).and_then(|stages| {
                windowed::check(&stages)?;
                windowed::check_sink(&stages, sink)?;
                Ok(stages)
            });
            let stages = stages.map_err(|error| error.at(insert.place.clone()))?;
            waits &= stages.operators.iter().any(|operator| operator.spec.is_some());
        }
        Ok(Self { context, logical, schema, source: table.clone(), input, windowed, emit, waits })
    }

    /// The schema of the rows that it gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The optimised logical plan, indented.
    ///
    /// # Errors
    /// As `batch`.
    pub fn display(&self) -> Result<String> {
        Ok(self.context.state().optimize(&self.logical)?.display_indent().to_string())
    }

    /// The physical plan of a batch in which `now()` is `timestamp_ms`.
    ///
    /// # Errors
    /// `Invalid` for a plan that fails when it is made (a constant expression that overflows, say).
    pub async fn batch(&self, timestamp_ms: i64) -> Result<BatchPlan> {
        self.input.lock().projection = None;
        let state = self.state_at(timestamp_ms);
        let physical = state.create_physical_plan(&self.logical).await?;
        // A plan that is empty by its text (WHERE false) never asks; its records are consumed and filtered.
        let projection = self.input.lock().projection.take().unwrap_or_default();
        Ok(BatchPlan { physical, task: state.task_ctx(), projection, input: Arc::clone(&self.input) })
    }

    /// The physical plans of a batch of a query with windows.
    ///
    /// # Errors
    /// As `batch`.
    pub async fn windowed(
        &self,
        timestamp_ms: i64,
        (watermarks, future_us): (Watermarks, i64),
        late: Option<Sender<RecordBatch>>,
    ) -> Result<WindowedPlan> {
        self.input.lock().projection = None;
        let state = self.state_at(timestamp_ms);
        let stages = windowed::split(state.optimize(&self.logical)?, self.emit, self.waits)?;
        let planned = windowed::plan(&stages, &state, (watermarks, future_us), LateRows::new(late)).await?;
        let projection = self.input.lock().projection.take().unwrap_or_default();
        Ok(WindowedPlan { planned, projection, input: Arc::clone(&self.input) })
    }

    /// The parts of a plan with windows.
    ///
    /// # Errors
    /// As `batch`.
    pub fn stages(&self) -> Result<Stages> {
        // now() at one moment, so that the text of the plan is the same at every start.
        windowed::split(self.state_at(0).optimize(&self.logical)?, self.emit, self.waits)
    }

    /// What the table says of event time, if windows wait for it: then they are forgotten when it has passed.
    pub fn event_time(&self) -> Option<&Watermark> {
        self.source.watermark.as_ref().filter(|_| self.waits)
    }

    /// A warning, if the state grows for ever.
    ///
    /// # Errors
    /// As `batch`.
    pub fn grows(&self) -> Result<Option<String>> {
        if !self.windowed || !windowed::grows(&self.stages()?) {
            return Ok(None);
        }
        let mode = self.emit.mode.name();
        let why = match self.emit.mode {
            OutputMode::Complete => "needs all groups for ever".to_owned(),
            _ => "has no window that a WATERMARK closes".to_owned(),
        };
        Ok(Some(format!("output mode {mode} {why}: nothing is forgotten, and the state grows with each new group")))
    }

    /// What becomes of records that cannot be used.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn parse_mode(&self) -> Result<ParseMode> {
        match &self.source.connector {
            Connector::Kafka(kafka) => Ok(kafka.decode.mode),
            _ => Err(Error::internal("the source is no Kafka table")),
        }
    }

    fn state_at(&self, timestamp_ms: i64) -> SessionState {
        let mut state = self.context.state();
        if let Some(time) = DateTime::<Utc>::from_timestamp_millis(timestamp_ms) {
            let props = state.execution_props_mut();
            *props = props.clone().with_query_execution_start_time(time);
        }
        state
    }
}

impl BatchPlan {
    /// The same plan without the metrics of its runs so far, which add up with each.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn renewed(&self) -> Result<Self> {
        let physical = reset_plan_states(Arc::clone(&self.physical))?;
        let (task, input) = (Arc::clone(&self.task), Arc::clone(&self.input));
        Ok(Self { physical, task, projection: self.projection.clone(), input })
    }

    /// Starts the plan over the rows that come through `rows`. The second value gives `rows` back if the plan never
    /// reads them.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn execute(
        &self,
        rows: Receiver<Result<RecordBatch>>,
    ) -> Result<(SendableRecordBatchStream, Option<Receiver<Result<RecordBatch>>>)> {
        self.input.lock().rows = Some(rows);
        let stream = datafusion::physical_plan::execute_stream(Arc::clone(&self.physical), Arc::clone(&self.task));
        // Taken also after an error: a receiver that stayed here would block the reading thread for ever.
        let unread = self.input.lock().rows.take();
        Ok((stream?, unread))
    }
}

/// The physical plans of one batch of a query with windows.
#[derive(Debug)]
pub struct WindowedPlan {
    pub planned: PlannedStages,
    /// As `BatchPlan::projection`.
    pub projection: Vec<usize>,
    input: Arc<BatchInput>,
}

impl WindowedPlan {
    /// The first aggregate will read `rows`.
    pub fn feed(&self, rows: Receiver<Result<RecordBatch>>) {
        self.input.lock().rows = Some(rows);
    }

    /// What runs over the records, as a plan of its own: to find those on which it fails.
    pub fn over_records(&self) -> Option<BatchPlan> {
        let (physical, task) = self.planned.over_records()?;
        Some(BatchPlan { physical, task, projection: self.projection.clone(), input: Arc::clone(&self.input) })
    }

    /// Gives the rows back if no plan has read them.
    pub fn unread(&self) -> Option<Receiver<Result<RecordBatch>>> {
        self.input.lock().rows.take()
    }
}

/// The one table that the plan reads, and whether it needs state.
fn source(context: &SessionContext, logical: &LogicalPlan, emit: Emit) -> Result<(String, bool)> {
    let optimized = context.state().optimize(logical)?;
    if !windowed::needs_state(&optimized, emit.mode)? {
        let source = stateless::streaming_source(logical)?;
        stateless::check_emit(emit)?;
        return Ok((source, false));
    }
    Ok((stateless::one_table(logical)?, true))
}

impl BatchInput {
    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn plan_select(context: &SessionContext, select: &SqlText) -> Result<LogicalPlan> {
    let plan = plan_sql(&context.state(), select.sql()).await.map_err(|error| locate_error(error, select))?;
    windowed::number_rows(plan).map_err(|error| error.at(select.place(0..0)))
}

/// The name as SQL identifiers are compared: DataFusion folds what is not quoted to lower case.
fn quoted(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name.to_owned())
}

/// A Kafka table inside a plan.
#[derive(Debug)]
struct StreamTable {
    schema: SchemaRef,
    input: Arc<BatchInput>,
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        self.input.lock().projection = Some(projection);
        let partition = StreamPartition { schema: Arc::clone(&schema), input: Arc::clone(&self.input) };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, [], false, None)?))
    }
}

#[derive(Debug)]
struct StreamPartition {
    schema: SchemaRef,
    input: Arc<BatchInput>,
}

impl PartitionStream for StreamPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.input.lock().rows.take();
        let stream = futures::stream::unfold(rows, |rows| async move {
            let mut rows = rows?;
            let batch = rows.recv().await?;
            Some((batch.map_err(Into::into), Some(rows)))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

/// Casts the output to the types that files hold: no views or dictionaries, timestamps in microseconds.
///
/// # Errors
/// `Invalid` for a column without a type.
pub fn normalise(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut columns = Vec::new();
    let mut changed = false;
    for (qualifier, field) in plan.schema().iter() {
        if *field.data_type() == DataType::Null {
            return Err(Error::invalid(format!("the column {:?} is NULL without a type", field.name()))
                .help("CAST it to the type that the files shall have"));
        }
        let column = Expr::Column((qualifier, field).into());
        let wanted = file_type(field.data_type());
        let qualified = qualifier.is_some();
        if wanted != *field.data_type() {
            columns.push(cast(column, wanted).alias(field.name()));
            changed = true;
        } else {
            changed |= qualified;
            columns.push(column.alias(field.name()));
        }
    }
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

fn file_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => file_type(values),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        other => other.clone(),
    }
}
