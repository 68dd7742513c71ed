//! An INSERT as a bounded DataFusion plan over one batch.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    execution::{SessionState, TaskContext},
    logical_expr::LogicalPlan,
    physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream, execution_plan::reset_plan_states},
    prelude::SessionContext,
};
use tokio::sync::mpsc::Sender;

use super::{
    columns::normalise,
    constant, forecast, join, models,
    scan::{Run, StreamTable, TableScans, stream_table},
    stateless,
    static_table::{self, StaticTable},
    time::depends_on_time,
    windowed::{self, LateRows, PlannedStages, Stages, Watermarks},
};
use crate::{
    catalog::{Connector, Emit, Insert, Job, OutputMode, ParseMode, SqlText, Table, locate_error, parse_statements},
    error::{Error, ErrorKind, OUT_OF_MEMORY, Result},
    event_time::QueryWatermark,
    model::live::Question,
    query::{FilesVersion, StoredTable},
    session::{SessionLimits, plan_sql, session},
};

/// What a plan's operators may hold in memory.
const PLAN_MEMORY_BYTES: usize = 64 << 20;
/// The same for a query that joins stored files, whose rows stay in memory while a batch runs.
const JOIN_MEMORY_BYTES: usize = 192 << 20;

/// The plan of one INSERT.
pub struct QueryPlan {
    context: SessionContext,
    logical: LogicalPlan,
    /// The same for all batches, if it does not depend on when they are made: most of planning is to optimise.
    optimized: Option<LogicalPlan>,
    schema: SchemaRef,
    /// The Kafka tables that it reads, in the order of its text.
    pub sources: Vec<Source>,
    statics: Vec<Arc<StaticTable>>,
    pub models: models::QueryModels,
    /// It aggregates, or looks at earlier rows, so it needs state.
    pub windowed: bool,
    /// Which rows it writes.
    pub emit: Emit,
    /// Its windows wait for the watermark of the source.
    waits: bool,
    /// What it forecasts, if it has ML_FORECAST.
    pub question: Option<Question>,
}

/// The Kafka tables that a query may read.
type Streams<'a> = Vec<(&'a Table, Arc<StreamTable>)>;

/// A Kafka table that a query reads.
#[derive(Debug)]
pub struct Source {
    pub table: Table,
    stream: Arc<StreamTable>,
}

impl std::fmt::Debug for QueryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources: Vec<&str> = self.sources.iter().map(|source| source.table.name.as_str()).collect();
        f.debug_struct("QueryPlan").field("sources", &sources).field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// One batch's physical plan.
#[derive(Debug)]
pub struct BatchPlan {
    /// Mostly one. Of a query with windows those over the records: what becomes of their rows is not of interest.
    pub(super) physical: Vec<Arc<dyn ExecutionPlan>>,
    task: Arc<TaskContext>,
    /// What it reads of each source.
    pub reads: Vec<TableScans>,
    run: Run,
}

impl QueryPlan {
    /// Plans `insert` over the tables and views of `job`.
    ///
    /// # Errors
    /// `Invalid`, at its place, for SQL that does not plan; `Unsupported` for what one batch alone cannot answer;
    /// `NotFound` for a file table without files.
    pub async fn new(job: &Job, insert: &Insert) -> Result<Self> {
        let (read, views) = tables_read(job, insert)?;
        let files = || job.tables.iter().filter(|table| read.contains(&table.name) && is_file(table));
        let memory_bytes = if files().next().is_some() { JOIN_MEMORY_BYTES } else { PLAN_MEMORY_BYTES };
        let context = session(SessionLimits { memory_bytes, partitions: 1 })?;
        models::register(&context, job)?;
        // It makes two aggregates of a DISTINCT one, and the state of the first would be rows.
        context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
        context.add_optimizer_rule(Arc::new(join::StoredSideFirst));
        let mut streams = Vec::new();
        for table in &job.tables {
            if let Connector::Kafka(kafka) = &table.connector
                && kafka.subscription.is_some()
            {
                let stream = Arc::new(StreamTable::new(table.schema()));
                context.register_table(quoted(&table.name), Arc::clone(&stream) as _)?;
                streams.push((table, stream));
            }
        }
        let mut statics = Vec::new();
        for table in files() {
            let Connector::File(file) = &table.connector else { continue };
            let stored = StoredTable::open(&context.state(), job, table, file).await?;
            let table_of_files = Arc::new(StaticTable::new(stored));
            context.register_table(quoted(&table.name), Arc::clone(&table_of_files) as _)?;
            statics.push(table_of_files);
        }
        for view in job.views.iter().filter(|view| views.contains(&view.name)) {
            let plan = plan_select(&context, &view.select).await?;
            let provider = datafusion::datasource::view::ViewTable::new(plan, None);
            context.register_table(quoted(&view.name), Arc::new(provider))?;
        }
        let logical = plan_select(&context, &insert.select).await?;
        Self::checked(context, logical, (streams, statics), (job, insert))
            .map_err(|error| error.at(insert.place.clone()))
    }

    fn checked(
        context: SessionContext,
        logical: LogicalPlan,
        (streams, statics): (Streams<'_>, Vec<Arc<StaticTable>>),
        (job, insert): (&Job, &Insert),
    ) -> Result<Self> {
        // First: an optimizer that folds the constant would say less.
        constant::check(&context.state(), &logical)?;
        let written = normalise(logical.clone())?;
        let optimized = context.state().optimize(&written)?;
        let emit = job.emit(insert)?;
        let windowed = windowed::needs_state(&optimized, emit.mode)?;
        let question = forecast::question(&logical, windowed, emit.mode)?;
        if !windowed {
            stateless::check(&logical)?;
            stateless::check_emit(emit)?;
        }
        join::check(&optimized, windowed)?;
        let sources = sources(&logical, streams)?;
        let logical = written;
        let schema = Arc::clone(logical.schema().inner());
        let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
        windowed::check_fields(&schema, sink)?;
        let without = sources.iter().find(|source| source.table.watermark.is_none());
        if windowed
            && emit.mode == OutputMode::Append
            && let Some(Source { table, .. }) = without
        {
            return Err(Error::invalid(format!(
                "the table {} has no WATERMARK, so nobody knows when a window, or what a row looks back to or is joined with, is \
                 complete",
                table.name
            ))
            .at(table.place.clone())
            .help("declare it among the columns: WATERMARK FOR ts AS ts - INTERVAL '10' SECOND"));
        }
        let mut waits = windowed && without.is_none() && emit.mode != OutputMode::Complete;
        if windowed {
            let stages = windowed::split(optimized.clone(), emit, waits)?;
            windowed::check(&stages)?;
            windowed::check_sink(&stages, sink)?;
            waits &= stages.operators.iter().any(|operator| operator.spec.is_some());
        }
        for table in &statics {
            table.plan(&optimized)?;
        }
        let models = models::QueryModels::of(&optimized)?;
        let optimized = (!depends_on_time(&logical)?).then_some(optimized);
        Ok(Self { context, logical, optimized, schema, sources, statics, models, windowed, emit, waits, question })
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
        Ok(self.optimized(&self.context.state())?.display_indent().to_string())
    }

    /// Looks at the stored files that the next batch joins, and returns which they are.
    ///
    /// # Errors
    /// `NotFound`, naming the table; what reading them gives.
    pub async fn refresh(&self) -> Result<Vec<FilesVersion>> {
        static_table::refresh(&self.statics, &self.context.state()).await
    }

    /// Says what to do about `error`, if the stored files that are joined are the reason.
    pub fn explained(&self, error: Error) -> Error {
        let is_memory = error.kind() == ErrorKind::Internal && error.message().contains(OUT_OF_MEMORY);
        if !is_memory || self.statics.is_empty() {
            return error;
        }
        let mib = JOIN_MEMORY_BYTES >> 20;
        error.help(format!(
            "the rows of stored files that are joined must fit into {mib} MiB: join a subquery with the \
                            columns and rows that are needed"
        ))
    }

    /// Refuses a batch whose stored files have changed under it.
    ///
    /// # Errors
    /// `Unavailable`; as `refresh`.
    pub async fn check_unchanged(&self) -> Result<()> {
        static_table::check_unchanged(&self.statics).await
    }

    /// The physical plan of a batch in which `now()` is `timestamp_ms`.
    ///
    /// # Errors
    /// `Invalid` for a plan that fails when it is made (a constant expression that overflows, say).
    pub async fn batch(&self, timestamp_ms: i64) -> Result<BatchPlan> {
        self.take_scans();
        let state = self.state_at(timestamp_ms);
        let physical = state.query_planner().create_physical_plan(&self.optimized(&state)?, &state).await?;
        Ok(BatchPlan {
            physical: vec![physical],
            task: state.task_ctx(),
            reads: self.take_scans(),
            run: Run::default(),
        })
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
        self.take_scans();
        let state = self.state_at(timestamp_ms);
        let stages = windowed::split(self.optimized(&state)?, self.emit, self.waits)?;
        let planned = windowed::plan(&stages, &state, (watermarks, future_us), LateRows::new(late)).await?;
        Ok(WindowedPlan { planned, reads: self.take_scans() })
    }

    fn take_scans(&self) -> Vec<TableScans> {
        self.sources.iter().map(|source| source.stream.take_scans()).collect()
    }

    /// The parts of a plan with windows.
    ///
    /// # Errors
    /// As `batch`.
    pub fn stages(&self) -> Result<Stages> {
        // now() at one moment, so that the text of the plan is the same at every start.
        windowed::split(self.optimized(&self.state_at(0))?, self.emit, self.waits)
    }

    /// Do its windows wait for a watermark? Then they are forgotten when it has passed.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The watermark of a query with state, before the first event.
    pub fn watermark(&self) -> QueryWatermark {
        let policies = self.sources.iter().map(|source| source.table.watermark.clone().filter(|_| self.waits));
        QueryWatermark::new(policies.collect())
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

    fn optimized(&self, state: &SessionState) -> Result<LogicalPlan> {
        self.optimized.clone().map_or_else(|| Ok(state.optimize(&self.logical)?), Ok)
    }

    fn state_at(&self, timestamp_ms: i64) -> SessionState {
        let mut state = self.context.state();
        if let Some(time) = DateTime::<Utc>::from_timestamp_millis(timestamp_ms) {
            let props = state.execution_props_mut();
            *props = props.clone().with_query_execution_start_time(time);
        }
        forecast::make_room(&mut state, self.question.as_ref());
        state
    }
}

impl Source {
    /// What becomes of records that cannot be used.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn parse_mode(&self) -> Result<ParseMode> {
        Ok(self.kafka()?.decode.mode)
    }

    /// The table's options.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn kafka(&self) -> Result<&crate::catalog::KafkaTable> {
        match &self.table.connector {
            Connector::Kafka(kafka) => Ok(kafka),
            _ => Err(Error::internal("the source is no Kafka table")),
        }
    }
}

impl BatchPlan {
    /// The same plan without the metrics of its runs so far, which add up with each.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn renewed(&self) -> Result<Self> {
        let renewed = self.physical.iter().map(|physical| reset_plan_states(Arc::clone(physical)));
        let physical = renewed.collect::<Result<_, _>>()?;
        Ok(Self { physical, task: Arc::clone(&self.task), reads: self.reads.clone(), run: self.run })
    }

    /// Starts the plan once more, over `rows` of source `source` and none of the others.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn execute_over(&mut self, source: usize, rows: &RecordBatch) -> Result<Vec<SendableRecordBatchStream>> {
        self.run = Run(self.run.0 + 1);
        self.task = Arc::new(TaskContext::new(
            self.task.task_id(),
            self.task.session_id(),
            self.task.session_config().clone().with_extension(Arc::new(self.run)),
            self.task.scalar_functions().clone(),
            self.task.higher_order_functions().clone(),
            self.task.aggregate_functions().clone(),
            self.task.window_functions().clone(),
            self.task.runtime_env(),
        ));
        let scans = self.reads.get(source).ok_or_else(|| Error::internal("a source without scans"))?;
        scans.put(self.run, rows)?;
        self.execute()
    }

    /// Starts the plan, over the rows that its scans were given.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn execute(&self) -> Result<Vec<SendableRecordBatchStream>> {
        let start = |physical: &Arc<dyn ExecutionPlan>| execute_stream(Arc::clone(physical), Arc::clone(&self.task));
        Ok(self.physical.iter().map(start).collect::<Result<_, _>>()?)
    }
}

/// The physical plans of one batch of a query with windows.
#[derive(Debug)]
pub struct WindowedPlan {
    pub planned: PlannedStages,
    /// As `BatchPlan::reads`.
    pub reads: Vec<TableScans>,
}

impl WindowedPlan {
    /// What runs over the records, as a plan of its own: to find those on which it fails.
    pub fn over_records(&self) -> BatchPlan {
        let (physical, task) = self.planned.over_records();
        BatchPlan { physical, task, reads: self.reads.clone(), run: Run::default() }
    }
}

fn is_file(table: &Table) -> bool {
    matches!(table.connector, Connector::File(_))
}

/// The tables that the INSERT reads, also through views; and the views that can be planned with them: those that it uses,
/// and those that read no other files.
fn tables_read(job: &Job, insert: &Insert) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let mut of_views: Vec<(&str, BTreeSet<String>, BTreeSet<String>)> = Vec::new();
    let read = |select: &SqlText, before: &[(&str, BTreeSet<String>, BTreeSet<String>)]| {
        let (mut tables, mut views) = (BTreeSet::new(), BTreeSet::new());
        for name in names(select)? {
            tables.extend(job.table(&name).map(|table| table.name.clone()));
            if let Some((view, below, used)) = before.iter().find(|(view, ..)| view.eq_ignore_ascii_case(&name)) {
                tables.extend(below.iter().cloned());
                views.extend(used.iter().cloned().chain([(*view).to_owned()]));
            }
        }
        Ok::<_, Error>((tables, views))
    };
    for view in &job.views {
        let (tables, views) = read(&view.select, &of_views)?;
        of_views.push((&view.name, tables, views));
    }
    let (tables, mut views) = read(&insert.select, &of_views)?;
    let is_there = |name: &String| tables.contains(name) || !job.table(name).is_some_and(is_file);
    let planned = of_views.iter().filter(|(_, below, _)| below.iter().all(is_there));
    views.extend(planned.map(|(view, ..)| (*view).to_owned()));
    Ok((tables, views))
}

fn names(select: &SqlText) -> Result<Vec<String>> {
    let located = |error| locate_error(error, select);
    let statements = parse_statements(select.sql()).map_err(located)?;
    let mut names = Vec::new();
    for statement in &statements {
        let (tables, _) = datafusion::sql::resolve::resolve_table_references(statement, true).map_err(located)?;
        names.extend(tables.iter().map(|table| table.table().to_owned()));
    }
    Ok(names)
}

/// The Kafka tables that the plan reads, in order.
fn sources(logical: &LogicalPlan, mut streams: Streams<'_>) -> Result<Vec<Source>> {
    let (mut sources, mut stored) = (Vec::new(), None);
    logical.apply_with_subqueries(|node| {
        if let Some(provider) = stream_table(node) {
            let is_it = |(_, stream): &(&Table, Arc<StreamTable>)| {
                provider.downcast_ref::<StreamTable>().is_some_and(|found| std::ptr::eq(found, stream.as_ref()))
            };
            if let Some(at) = streams.iter().position(is_it) {
                let (table, stream) = streams.remove(at);
                sources.push(Source { table: table.clone(), stream });
            }
        } else if let LogicalPlan::TableScan(scan) = node {
            stored = Some(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match (sources.is_empty(), stored) {
        (false, _) => Ok(sources),
        (true, Some(stored)) => Err(Error::unsupported(format!("the INSERT reads {stored:?}, and no Kafka table"))
            .help("a stream reads a Kafka table; use `tidemill query` for stored files")),
        (true, None) => {
            Err(Error::invalid("the INSERT reads no table").help("SELECT from a Kafka table of this job file"))
        }
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
