//! The physical plans of one batch.
//!
//! DataFusion plans each windowed aggregate in one piece. That piece is taken apart: *partial* over the new rows, whose
//! results are the state; *final* over the state of the windows that close; *partial reduce* to make fewer rows of
//! state out of many.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::{
    common::{Result as DataFusionResult, plan_err},
    execution::{SessionState, TaskContext},
    logical_expr::{LogicalPlan, UserDefinedLogicalNode, physical_planning_context::PhysicalPlanningContext},
    physical_plan::{
        ExecutionPlan, SendableRecordBatchStream,
        aggregates::{AggregateExec, AggregateMode},
        execute_stream,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
    physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner},
};

use super::{
    assign::StreamAssignExec,
    guard::{KnownSessions, SessionGuardExec},
    late::{Bounds, LateRows, Sieve},
    merge::{SessionMergeExec, Wanted},
    source::SessionKeys,
    stages::{Emission, Operator, Stages},
};
use crate::{
    error::{Error, Result},
    state::{Labels, SessionPieces, StateLayout},
    window::{SessionAssign, WindowAssign, WindowExtensions, WindowSpec},
};

/// Rows of state for the scan of a plan.
pub type StateRows = std::pin::Pin<Box<dyn futures::Stream<Item = Result<RecordBatch>> + Send>>;

/// One windowed aggregate of a batch.
#[derive(Debug)]
pub struct PlannedOperator {
    pub name: String,
    /// How many operators a row has gone through before.
    pub depth: usize,
    /// Over the new rows; gives rows of state.
    pub partial: Arc<dyn ExecutionPlan>,
    pub layout: StateLayout,
    /// Where the final aggregate finds the rows of the windows that close.
    pub closing: Arc<Slot>,
    /// The final aggregate.
    pub emission: Option<Arc<dyn ExecutionPlan>>,
    /// Where the new rows find the sessions that there are.
    pub known: Arc<KnownSessions>,
    /// Input rows of the sessions that closed, once the final aggregate has run.
    pub released: Arc<AtomicU64>,
    bounds: Bounds,
    whole: Arc<AggregateExec>,
}

/// The plans of one batch.
#[derive(Debug)]
pub struct PlannedStages {
    pub operators: Vec<PlannedOperator>,
    rest: Arc<dyn ExecutionPlan>,
    pub task: Arc<TaskContext>,
    pub late: Arc<LateRows>,
}

impl PlannedStages {
    /// The part that runs over the records: all expressions that a single record can make fail.
    pub fn over_records(&self) -> (Vec<Arc<dyn ExecutionPlan>>, Arc<TaskContext>) {
        let over_records = self.operators.iter().filter(|operator| operator.depth == 0);
        (over_records.map(|operator| Arc::clone(&operator.partial)).collect(), Arc::clone(&self.task))
    }

    /// The rows that the query writes.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn rest(&self) -> Result<SendableRecordBatchStream> {
        Ok(execute_stream(Arc::clone(&self.rest), Arc::clone(&self.task))?)
    }
}

/// Plans `stages` for a batch.
///
/// # Errors
/// DataFusion's; `Internal` if it plans an aggregate in another way than we know.
pub async fn plan(stages: &Stages, state: &SessionState, bounds: &[Bounds], late: LateRows) -> Result<PlannedStages> {
    let late = Arc::new(late);
    let shapes = stages.late_shapes();
    // The rows of one aggregate need not be made like those of others.
    let mut shapes = shapes.iter().filter(|_| shapes.len() > 1).cloned();
    let mut operators: Vec<PlannedOperator> = Vec::new();
    let mut emissions: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    for (operator, bounds) in stages.operators.iter().zip(bounds) {
        let (labels, known) = (labels(operator), Arc::<KnownSessions>::default());
        let assign = Assigning {
            labels: labels.clone(),
            bounds: *bounds,
            spec: operator.spec,
            session: operator.session.clone(),
            known: Arc::clone(&known),
        };
        let stage = StagePlanner {
            emissions: emissions.clone(),
            assign: Some(assign),
            // What an aggregate gives to the next is never late there.
            late: Arc::new(if operator.depth == 0 { late.of_one(shapes.next()) } else { LateRows::new(None) }),
        };
        let physical = physical(&operator.aggregate, state, stage).await?;
        let mut planned = take_apart(operator, (labels, known), *bounds, &physical)?;
        let emission = planned.finish()?;
        planned.emission = Some(Arc::clone(&emission));
        emissions.push(emission);
        operators.push(planned);
    }
    let stage = StagePlanner { emissions, assign: None, late: Arc::new(LateRows::new(None)) };
    let rest = physical(&stages.rest, state, stage).await?;
    Ok(PlannedStages { operators, rest, task: state.task_ctx(), late })
}

fn labels(operator: &Operator) -> Labels {
    match &operator.session {
        Some(keys) => Labels::Sessions(SessionPieces { gap_us: operator.spec.size_us, keys: keys.groups.clone() }),
        None if operator.panes => Labels::Panes(operator.spec),
        None => Labels::Windows,
    }
}

async fn physical(plan: &LogicalPlan, state: &SessionState, stage: StagePlanner) -> Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(stage)]);
    Ok(planner.create_physical_plan(plan, state).await?)
}

fn take_apart(
    operator: &Operator,
    (labels, known): (Labels, Arc<KnownSessions>),
    bounds: Bounds,
    physical: &Arc<dyn ExecutionPlan>,
) -> Result<PlannedOperator> {
    let unknown = || Error::internal(format!("the aggregate {} was planned in an unknown way", operator.name));
    let single = |aggregate: &&AggregateExec| {
        matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::SinglePartitioned)
    };
    let whole = physical.downcast_ref::<AggregateExec>().filter(single).ok_or_else(unknown)?;
    let partial = AggregateExec::try_new(
        AggregateMode::Partial,
        whole.group_expr().clone(),
        whole.aggr_expr().to_vec(),
        whole.filter_expr().to_vec(),
        Arc::clone(whole.input()),
        whole.input_schema(),
    )?;
    let schema = partial.schema();
    // The hidden count comes last, and its state is the count.
    let rows = schema.fields().len().checked_sub(1).ok_or_else(unknown)?;
    let layout = StateLayout { schema, start: operator.start, end: operator.end, time: operator.time, rows, labels };
    Ok(PlannedOperator {
        name: operator.name.clone(),
        depth: operator.depth,
        partial: Arc::new(partial),
        layout,
        closing: Arc::default(),
        emission: None,
        known,
        released: Arc::default(),
        bounds,
        whole: Arc::new(whole.clone()),
    })
}

impl PlannedOperator {
    /// From rows of state to the aggregate's rows.
    fn finish(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let (from_us, to_us) = (self.bounds.closed_us, self.bounds.closing_us);
        let wanted = Wanted::Closing { from_us, to_us, released: Arc::clone(&self.released) };
        self.over_state(AggregateMode::Final, Arc::clone(&self.closing), wanted)
    }

    /// From rows of state to fewer.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn reduce(&self, rows: StateRows) -> Result<Arc<dyn ExecutionPlan>> {
        self.reduced(rows, Wanted::All)
    }

    /// From the pieces of sessions to those that must be written anew when all that end up to `to_us` are closed, because
    /// their session outlives them.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn outlived(&self, rows: StateRows, to_us: i64) -> Result<Arc<dyn ExecutionPlan>> {
        self.reduced(rows, Wanted::Outlived { to_us })
    }

    fn reduced(&self, rows: StateRows, wanted: Wanted) -> Result<Arc<dyn ExecutionPlan>> {
        let slot = Arc::new(Slot::default());
        slot.put(rows);
        self.over_state(AggregateMode::PartialReduce, slot, wanted)
    }

    /// `wanted` is for sessions only: other windows have their bounds already.
    fn over_state(&self, mode: AggregateMode, slot: Arc<Slot>, wanted: Wanted) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = Arc::clone(&self.layout.schema);
        let partition = StateStream { schema: Arc::clone(&schema), slot };
        let mut rows: Arc<dyn ExecutionPlan> =
            Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, [], false, None)?);
        if let Labels::Sessions(_) = self.layout.labels {
            rows = Arc::new(SessionMergeExec::over(rows, self.layout.clone(), wanted)?);
        }
        let count = self.whole.aggr_expr().len();
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            self.whole.group_expr().as_final(),
            self.whole.aggr_expr().to_vec(),
            vec![None; count],
            rows,
            self.whole.input_schema(),
        )?))
    }
}

/// Holds the rows of a scan until it is executed.
#[derive(Default)]
pub struct Slot(Mutex<Option<StateRows>>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    fn take(&self) -> Option<StateRows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has no plan read the rows?
    pub fn is_unread(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// For the next execution.
    pub fn put(&self, rows: StateRows) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
    }
}

#[derive(Debug)]
struct StateStream {
    schema: SchemaRef,
    slot: Arc<Slot>,
}

impl PartitionStream for StateStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        use futures::StreamExt;
        // Not before they are asked for: a join with nothing leaves its other side alone.
        let slot = Arc::clone(&self.slot);
        let rows = futures::stream::once(async move { slot.take() }).flat_map(futures::stream::iter).flatten();
        let rows = rows.map(|batch: Result<RecordBatch>| batch.map_err(Into::into));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// Plans the nodes that only streams have, or that streams run in another way.
struct StagePlanner {
    /// Of the operators before.
    emissions: Vec<Arc<dyn ExecutionPlan>>,
    assign: Option<Assigning>,
    late: Arc<LateRows>,
}

/// The one window of a stage.
struct Assigning {
    labels: Labels,
    bounds: Bounds,
    spec: WindowSpec,
    session: Option<SessionKeys>,
    known: Arc<KnownSessions>,
}

#[async_trait]
impl ExtensionPlanner for StagePlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(emission) = node.as_any().downcast_ref::<Emission>() {
            return Ok(self.emissions.get(emission.index).cloned());
        }
        let (window, sessions) = (node.as_any().downcast_ref(), node.as_any().downcast_ref());
        if window.is_none() && sessions.is_none() {
            return Ok(None);
        }
        let (Some(assign), [input]) = (&self.assign, physical_inputs) else {
            return plan_err!("a window without an aggregate over it");
        };
        if let Some(window) = window {
            return Ok(Some(self.windows(window, assign, input)?));
        }
        let Some(sessions) = sessions else { return Ok(None) };
        let sessions: &SessionAssign = sessions;
        let schema = sessions.input.schema();
        let keys = assign.session.iter().flat_map(|keys| &keys.exprs);
        let keys = keys.map(|key| planner.create_physical_expr(key, schema, session, context));
        let keys = keys.collect::<DataFusionResult<Vec<_>>>()?;
        let time = schema.index_of_column(&sessions.time)?;
        let sieve = Sieve::new(&input.schema(), time, assign.spec, assign.bounds);
        let (known, late) = (Arc::clone(&assign.known), Arc::clone(&self.late));
        let guarded: Arc<dyn ExecutionPlan> =
            Arc::new(SessionGuardExec::new(Arc::clone(input), sieve, keys, known, late));
        // Within a batch rows are put into sessions as those of a table are.
        WindowExtensions.plan_extension(planner, node, logical_inputs, &[guarded], session, context).await
    }
}

impl StagePlanner {
    fn windows(
        &self,
        window: &WindowAssign,
        assign: &Assigning,
        input: &Arc<dyn ExecutionPlan>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let time = window.input.schema().index_of_column(&window.time)?;
        let schema = Arc::clone(window.schema().inner());
        Ok(Arc::new(StreamAssignExec::new(
            Arc::clone(input),
            (window.kept(), time),
            (window.spec, assign.labels.clone()),
            assign.bounds,
            schema,
            Arc::clone(&self.late),
        )))
    }
}
