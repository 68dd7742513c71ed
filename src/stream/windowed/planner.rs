//! The physical plans of one batch.
//!
//! DataFusion plans each windowed aggregate in one piece. That piece is taken apart: *partial* over the new rows, whose
//! results are the state; *final* over the state of the windows that close; *partial reduce* to make fewer rows of
//! state out of many. Single rows are kept as they are, by `moments.rs`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use datafusion::{
    execution::{SessionState, TaskContext},
    physical_plan::{
        EmptyRecordBatchStream, ExecutionPlan, ExecutionPlanProperties, SendableRecordBatchStream,
        aggregates::{AggregateExec, AggregateMode},
        coalesce_partitions::CoalescePartitionsExec,
        execute_stream,
    },
};

use super::{
    extensions::{Assigning, StagePlanner, physical},
    guard::KnownSessions,
    late::LateRows,
    merge::{SessionMergeExec, Wanted},
    moments::{KeptRows, Moment},
    over::Looks,
    partners::{PartnerSlot, PartnersExec},
    run::Watermarks,
    sieve::{Bounds, Sieve, SieveExec},
    slot::{Slot, StateRows, from_slot},
    stages::{Kept, KeptAggregate, Operator, Partners, Stages},
};
use crate::{
    catalog::{Emit, OutputMode},
    error::{Error, Result},
    state::{Labels, RowKeys, SessionPieces, StateLayout},
};

/// One operator of a batch.
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
    /// What gives the operator's rows.
    pub emission: Option<Arc<dyn ExecutionPlan>>,
    /// Where the new rows find the sessions that there are.
    pub known: Arc<KnownSessions>,
    /// Input rows of the sessions that closed, once the final aggregate has run.
    pub released: Arc<AtomicU64>,
    bounds: Bounds,
    work: Work,
}

/// What turns state into rows, and into less state.
#[derive(Debug)]
enum Work {
    Aggregate(Arc<AggregateExec>),
    InWindows,
    Rows(KeptRows),
    Partners(KeptRows, Partners, Arc<PartnerSlot>),
}

/// The plans of one batch.
#[derive(Debug)]
pub struct PlannedStages {
    /// Which rows are written.
    pub emit: Emit,
    /// Closed windows are forgotten.
    pub forgets: bool,
    /// They are written at the end of this batch: false in between, with `EMIT PERIODIC`.
    pub emits: bool,
    /// No row is to be written.
    silent: AtomicBool,
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

    /// This batch writes no row: a total of nothing would be one.
    pub fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// The rows that the query writes.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn rest(&self) -> Result<SendableRecordBatchStream> {
        if self.silent.load(Ordering::Relaxed) {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.rest.schema())));
        }
        Ok(execute_stream(Arc::clone(&self.rest), Arc::clone(&self.task))?)
    }
}

/// Plans `stages` for a batch.
///
/// # Errors
/// DataFusion's; `Internal` if it plans an aggregate in another way than we know.
pub async fn plan(
    stages: &Stages,
    state: &SessionState,
    (watermarks, future_us): (Watermarks, i64),
    late: LateRows,
) -> Result<PlannedStages> {
    let late = Arc::new(late);
    let shapes = stages.late_shapes();
    // The rows of one operator need not be made like those of others.
    let mut shapes = shapes.iter().filter(|_| shapes.len() > 1).cloned();
    let mut operators: Vec<PlannedOperator> = Vec::new();
    let mut emissions: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    for operator in &stages.operators {
        // Windows are in time by their own watermark: only records come from clocks that may be wrong.
        let future_us = if operator.depth == 0 { future_us } else { i64::MAX };
        let bounds = watermarks.bounds(operator.behind_us, future_us);
        let known = Arc::<KnownSessions>::default();
        // What an operator gives to the next is never late there.
        let late = Arc::new(if operator.depth == 0 { late.of_one(shapes.next()) } else { LateRows::new(None) });
        let stage = StagePlanner {
            emissions: emissions.clone(),
            assign: assigning(operator, bounds, &known),
            late: Arc::clone(&late),
        };
        let physical = physical(&operator.plan, state, stage).await?;
        let mut planned = match &operator.kept {
            Kept::Aggregate(kept) => take_apart(operator, kept, (known, bounds), &physical)?,
            Kept::InWindows { start, end } => keep_in_windows(operator, (*start, *end), bounds, physical),
            Kept::Rows(looks) => {
                let rows = KeptRows::new(operator.plan.schema(), looks, state)?;
                keep_rows(operator, (looks, Work::Rows(rows)), (bounds, late), &physical)?
            }
            Kept::Partners(partners) => {
                let rows = KeptRows::partners(operator.plan.schema(), &partners.looks, state);
                let work = Work::Partners(rows, partners.clone(), Arc::default());
                keep_rows(operator, (&partners.looks, work), (bounds, late), &physical)?
            }
        };
        let emission = planned.finish(stages.emit.mode)?;
        planned.emission = Some(Arc::clone(&emission));
        emissions.push(emission);
        operators.push(planned);
    }
    let stage = StagePlanner { emissions, assign: None, late: Arc::new(LateRows::new(None)) };
    let rest = physical(&stages.rest, state, stage).await?;
    let (emit, task, silent) = (stages.emit, state.task_ctx(), AtomicBool::new(false));
    let forgets = stages.waits;
    Ok(PlannedStages { emit, forgets, emits: true, silent, operators, rest, task, late })
}

/// The windows that the rows of an operator are given, if it is over windows.
fn assigning(operator: &Operator, bounds: Bounds, known: &Arc<KnownSessions>) -> Option<Assigning> {
    let (labels, session) = match &operator.kept {
        Kept::Aggregate(kept) => (labels(operator, kept), kept.session.clone()),
        Kept::InWindows { .. } => (Labels::Windows, None),
        Kept::Rows(_) | Kept::Partners(_) => return None,
    };
    Some(Assigning { labels, bounds, spec: operator.spec?, session, known: Arc::clone(known) })
}

fn labels(operator: &Operator, kept: &KeptAggregate) -> Labels {
    let Some(spec) = operator.spec else { return Labels::Groups };
    match &kept.session {
        Some(keys) => Labels::Sessions(SessionPieces { gap_us: spec.size_us, keys: keys.groups.clone() }),
        None if kept.panes => Labels::Panes(spec),
        None => Labels::Windows,
    }
}

fn take_apart(
    operator: &Operator,
    kept: &KeptAggregate,
    (known, bounds): (Arc<KnownSessions>, Bounds),
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
    let keys = whole.group_expr().num_group_exprs();
    let (start, end, time) = (kept.start, kept.end, kept.time);
    let (behind_us, labels) = (operator.behind_us, labels(operator, kept));
    let layout = StateLayout { schema, keys, start, end, time, rows: Some(rows), behind_us, labels };
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
        work: Work::Aggregate(Arc::new(whole.clone())),
    })
}

fn keep_in_windows(
    operator: &Operator,
    (start, end): (usize, usize),
    bounds: Bounds,
    partial: Arc<dyn ExecutionPlan>,
) -> PlannedOperator {
    let schema = partial.schema();
    let (behind_us, labels) = (operator.behind_us, Labels::Windows);
    let layout = StateLayout { schema, keys: 0, start, end, time: None, rows: None, behind_us, labels };
    planned(operator, partial, layout, bounds, Work::InWindows)
}

fn keep_rows(
    operator: &Operator,
    (looks, work): (&Looks, Work),
    (bounds, late): (Bounds, Arc<LateRows>),
    physical: &Arc<dyn ExecutionPlan>,
) -> Result<PlannedOperator> {
    let spec = operator.spec.ok_or_else(|| Error::internal("rows without a window"))?;
    let sieve = Sieve::new(&physical.schema(), 0, spec, bounds);
    // The branches of a UNION ALL are partitions, which the optimiser does not see from here.
    let input: Arc<dyn ExecutionPlan> = match physical.output_partitioning().partition_count() {
        1 => Arc::clone(physical),
        _ => Arc::new(CoalescePartitionsExec::new(Arc::clone(physical))),
    };
    let moment = Moment::new(&physical.schema(), looks.time, sieve);
    let partial = SieveExec::new(input, Arc::new(moment), late);
    let (Work::Rows(rows) | Work::Partners(rows, ..)) = &work else {
        return Err(Error::internal("single rows are kept in another way"));
    };
    let layout = rows.layout(&partial.schema(), operator.behind_us);
    Ok(planned(operator, Arc::new(partial), layout, bounds, work))
}

fn planned(
    operator: &Operator,
    partial: Arc<dyn ExecutionPlan>,
    layout: StateLayout,
    bounds: Bounds,
    work: Work,
) -> PlannedOperator {
    PlannedOperator {
        name: operator.name.clone(),
        depth: operator.depth,
        partial,
        layout,
        closing: Arc::default(),
        emission: None,
        known: Arc::default(),
        released: Arc::default(),
        bounds,
        work,
    }
}

impl PlannedOperator {
    /// What rows have in common that look at each other, if single rows are kept.
    pub fn row_keys(&self) -> Option<Vec<RowKeys>> {
        match &self.work {
            Work::Rows(rows) => Some(rows.keys.clone()),
            Work::Aggregate(_) | Work::InWindows | Work::Partners(..) => None,
        }
    }

    /// Which rows the other side of a join may need, if it is one, and where it looks for them.
    pub fn partners(&self) -> Option<(&Partners, &PartnerSlot)> {
        match &self.work {
            Work::Partners(_, partners, slot) => Some((partners, slot)),
            Work::Aggregate(_) | Work::InWindows | Work::Rows(_) => None,
        }
    }

    /// From rows of state to the operator's rows.
    fn finish(&self, mode: OutputMode) -> Result<Arc<dyn ExecutionPlan>> {
        match (&self.work, &self.layout.labels) {
            (Work::Partners(_, _, slot), Labels::Moments(moments)) => {
                return Ok(Arc::new(PartnersExec::new(Arc::clone(slot), Arc::clone(&moments.emitted))));
            }
            (Work::Rows(_), Labels::Moments(moments)) => {
                return from_slot(&moments.emitted, &self.closing);
            }
            (Work::Aggregate(_), _) => {}
            _ => return from_slot(&self.layout.schema, &self.closing),
        }
        let (from_us, to_us) = (self.bounds.closed_us, self.bounds.closing_us);
        let wanted = match mode {
            OutputMode::Append => Wanted::Closing { from_us, to_us, released: Arc::clone(&self.released) },
            OutputMode::Update | OutputMode::Complete => Wanted::All,
        };
        self.over_state(AggregateMode::Final, Arc::clone(&self.closing), wanted)
    }

    /// From rows of state to fewer, or as many: single rows are left out that no row looks at which comes when the
    /// watermark is past `watermark_us`.
    ///
    /// # Errors
    /// DataFusion's.
    pub async fn reduce(&self, rows: StateRows, watermark_us: i64) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = |rows| {
            let slot = Arc::new(Slot::default());
            slot.put(rows);
            from_slot(&self.layout.schema, &slot)
        };
        match &self.work {
            Work::Aggregate(_) => self.reduced(rows, Wanted::All),
            Work::InWindows => whole(rows),
            Work::Rows(kept) | Work::Partners(kept, ..) => kept.reduce(whole(rows)?, watermark_us).await,
        }
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
        let Work::Aggregate(whole) = &self.work else { return Err(Error::internal("rows without an aggregate")) };
        let mut rows = from_slot(&self.layout.schema, &slot)?;
        if let Labels::Sessions(_) = self.layout.labels {
            rows = Arc::new(SessionMergeExec::over(rows, self.layout.clone(), wanted)?);
        }
        let count = whole.aggr_expr().len();
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            whole.group_expr().as_final(),
            whole.aggr_expr().to_vec(),
            vec![None; count],
            rows,
            whole.input_schema(),
        )?))
    }
}
