//! Rows get the pane or the windows that they are in; rows that no open window takes are set aside.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Int64Array, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::SchemaRef,
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    physical_expr::PhysicalExpr,
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements, PlanProperties,
        SendableRecordBatchStream, stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

use super::exec::one_partition;
use super::late::{Bounds, LateRows, Reason, Sieve};
use crate::{
    error::Result,
    state::{Labels, micros, timestamps},
    window::{WindowKind, WindowSpec},
};

/// Gives each row its pane (or, if `labels` say so, each of its open windows).
#[derive(Debug, Clone)]
pub struct StreamAssignExec {
    input: Arc<dyn ExecutionPlan>,
    assign: Arc<Assign>,
    late: Arc<LateRows>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Assign {
    /// The columns of the input that come out.
    kept: Vec<usize>,
    sieve: Sieve,
    labels: Labels,
    schema: SchemaRef,
}

impl StreamAssignExec {
    /// `schema` is that of the rows that come out: the kept columns, then the window's three.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        (kept, time): (Vec<usize>, usize),
        (spec, labels): (WindowSpec, Labels),
        bounds: Bounds,
        schema: SchemaRef,
        late: Arc<LateRows>,
    ) -> Self {
        let properties = one_partition(&input, &schema);
        let sieve = Sieve::new(&input.schema(), time, spec, bounds);
        let assign = Assign { kept, sieve, labels, schema };
        Self { input, assign: Arc::new(assign), late, properties }
    }
}

impl DisplayAs for StreamAssignExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamAssignExec: {}", self.assign.sieve.spec)
    }
}

impl ExecutionPlan for StreamAssignExec {
    fn name(&self) -> &str {
        "StreamAssignExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        let input = self.input.execute(partition, context)?;
        let sender = self.late.sender();
        let (assign, late) = (Arc::clone(&self.assign), Arc::clone(&self.late));
        let stream = input.then(move |batch| {
            let (assign, late, sender) = (Arc::clone(&assign), Arc::clone(&late), sender.clone());
            async move {
                let (assigned, set_aside) = assign.assign(&batch?)?;
                if let Some(set_aside) = set_aside {
                    late.set_aside(set_aside, sender.as_ref()).await?;
                }
                Ok(assigned)
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.assign.schema), stream)))
    }
}

/// The rows of a batch, sorted out.
#[derive(Debug, Default)]
struct Sorted {
    rows: Vec<u32>,
    start_us: Vec<i64>,
    end_us: Vec<i64>,
    aside: Vec<u32>,
    reasons: Vec<Reason>,
}

/// The pane of the row before: rows near each other in the stream mostly share it.
#[derive(Debug, Clone, Copy)]
struct Pane {
    start_us: i64,
    end_us: i64,
    stands: Stands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    /// All windows that hold it are closed.
    Closed,
    /// Between the windows of a hop whose slide is longer than its size: no window asks for it.
    Between,
}

impl Assign {
    fn assign(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let times = micros(batch.column(self.sieve.time))?;
        let mut sorted = Sorted::default();
        match self.labels {
            Labels::Windows | Labels::Sessions(_) | Labels::Groups | Labels::Moments(_) => {
                self.windows(&times, &mut sorted);
            }
            Labels::Panes(_) => self.panes(&times, &mut sorted),
        }
        let aside = if sorted.aside.is_empty() {
            None
        } else {
            Some(self.sieve.set_aside(batch, &times, (&sorted.aside, &sorted.reasons))?)
        };
        let identity = sorted.rows.len() == batch.num_rows() && self.is_one_to_one();
        let kept = batch.project(&self.kept)?;
        let kept = if identity { kept } else { take_record_batch(&kept, &UInt32Array::from(sorted.rows))? };
        let mut columns = kept.columns().to_vec();
        let time: Vec<i64> = sorted.end_us.iter().map(|end| end.saturating_sub(1000)).collect();
        for values in [sorted.start_us, sorted.end_us, time] {
            let data_type = self.schema.field(columns.len()).data_type();
            columns.push(timestamps(values, data_type)?);
        }
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, aside))
    }

    fn is_one_to_one(&self) -> bool {
        matches!(self.labels, Labels::Panes(_)) || self.sieve.spec.kind == WindowKind::Tumble
    }

    fn panes(&self, times: &Int64Array, sorted: &mut Sorted) {
        let mut pane = Pane { start_us: i64::MAX, end_us: i64::MIN, stands: Stands::Between };
        for (row, time) in (0u32..).zip(times) {
            let time = match self.sieve.in_time(time) {
                Ok(time) => time,
                Err(reason) => {
                    sorted.aside.push(row);
                    sorted.reasons.push(reason);
                    continue;
                }
            };
            if time < pane.start_us || time >= pane.end_us || self.sieve.spec.zone.is_some() {
                pane = self.pane(time);
            }
            match pane.stands {
                Stands::Open => {
                    sorted.rows.push(row);
                    sorted.start_us.push(pane.start_us);
                    sorted.end_us.push(pane.end_us);
                }
                Stands::Closed => {
                    sorted.aside.push(row);
                    sorted.reasons.push(Reason::Late);
                }
                Stands::Between => {}
            }
        }
    }

    fn pane(&self, time_us: i64) -> Pane {
        let start_us = self.sieve.spec.pane_start(time_us);
        let window = self.sieve.spec.windows_of(time_us).next();
        let end_us = match (self.sieve.spec.kind, window) {
            (WindowKind::Tumble, Some(window)) => window.end_us,
            _ => start_us.saturating_add(self.sieve.spec.pane_us().unwrap_or(1)),
        };
        let stands = match window {
            None => Stands::Between,
            Some(_) if self.sieve.spec.last_end(time_us) > self.sieve.bounds.closed_us => Stands::Open,
            Some(_) => Stands::Closed,
        };
        Pane { start_us, end_us, stands }
    }

    fn windows(&self, times: &Int64Array, sorted: &mut Sorted) {
        for (row, time) in (0u32..).zip(times) {
            let time = match self.sieve.in_time(time) {
                Ok(time) => time,
                Err(reason) => {
                    sorted.aside.push(row);
                    sorted.reasons.push(reason);
                    continue;
                }
            };
            let (before, mut windows) = (sorted.rows.len(), 0);
            for window in self.sieve.spec.windows_of(time) {
                windows += 1;
                if window.end_us > self.sieve.bounds.closed_us {
                    sorted.rows.push(row);
                    sorted.start_us.push(window.start_us);
                    sorted.end_us.push(window.end_us);
                }
            }
            if sorted.rows.len() == before && windows > 0 {
                sorted.aside.push(row);
                sorted.reasons.push(Reason::Late);
            }
        }
    }
}
