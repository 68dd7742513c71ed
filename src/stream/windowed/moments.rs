//! Single rows: those that come too late are set aside, the others get their event time and go into the state as they
//! are; in the state only those stay that a later row may look at.

use std::{fmt, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use datafusion::{
    common::{Column, DFSchema, ScalarValue},
    execution::SessionState,
    functions_window::expr_fn::rank,
    logical_expr::{Expr, ExprFunctionExt, LogicalPlanBuilder, lit},
    physical_plan::ExecutionPlan,
};

use super::{
    emission::Emission,
    extensions::{StagePlanner, physical},
    late::LateRows,
    over::{Looks, Rank, RowTime, due_field},
    sieve::{Aside, Reason, Sieve, SortOut, picked},
};
use crate::{
    error::{Error, Result},
    state::{Labels, Moments, RowKeys, StateLayout, micros},
};

/// The hidden column with the event time.
const MOMENT: &str = "__tidemill_moment";

/// How an operator keeps single rows.
#[derive(Debug)]
pub struct KeptRows {
    /// What rows have in common that look at each other, over the columns of the state.
    pub keys: Vec<RowKeys>,
    looks: Looks,
    /// They are the other side of a join.
    partners: bool,
    input: DFSchema,
    state: Arc<SessionState>,
}

impl KeptRows {
    /// For rows of `input`.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn new(input: &DFSchema, looks: &Looks, state: &SessionState) -> Result<Self> {
        let mut keys = Vec::new();
        if looks.any() {
            for look in &looks.looks {
                let exprs = look.keys.iter().map(|key| state.create_physical_expr(key.clone(), input));
                keys.push(exprs.collect::<datafusion::common::Result<Vec<_>>>()?);
            }
        }
        let (input, state) = (input.clone(), Arc::new(state.clone()));
        Ok(Self { keys, looks: looks.clone(), partners: false, input, state })
    }

    /// For rows of `input` that others are joined with.
    pub fn partners(input: &DFSchema, looks: &Looks, state: &SessionState) -> Self {
        let (input, state) = (input.clone(), Arc::new(state.clone()));
        Self { keys: Vec::new(), looks: looks.clone(), partners: true, input, state }
    }

    /// `schema` is that of the state: the input's columns, then the event time.
    pub fn layout(&self, schema: &SchemaRef, behind_us: i64) -> StateLayout {
        let mut fields = self.input.as_arrow().fields().to_vec();
        if !self.partners {
            fields.push(Arc::new(due_field()));
        }
        let labels = Labels::Moments(Moments {
            ahead_us: self.looks.ahead_us,
            within_us: self.looks.within_us,
            always: self.looks.always(),
            partners: self.partners,
            emitted: Arc::new(Schema::new(fields)),
        });
        let moment = schema.fields().len() - 1;
        let schema = Arc::clone(schema);
        StateLayout { schema, keys: 0, start: moment, end: moment, time: None, rows: None, behind_us, labels }
    }

    /// Leaves out of `rows`, which are of the state, those that no row looks at any more.
    ///
    /// # Errors
    /// DataFusion's.
    pub async fn reduce(&self, rows: Arc<dyn ExecutionPlan>, watermark_us: i64) -> Result<Arc<dyn ExecutionPlan>> {
        if !self.looks.always() || watermark_us == i64::MIN {
            return Ok(rows);
        }
        let mut fields: Vec<_> =
            self.input.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        fields.push((None, Arc::new(moment_field())));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, self.input.metadata().clone())?);
        let columns: Vec<Expr> = schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
        let moment = || Expr::Column(Column::new_unqualified(MOMENT));
        let instant = |us: i64| lit(ScalarValue::TimestampMicrosecond(Some(us), None));
        // Rows that have not been given out are ranked apart from those that have.
        let waits = || moment().gt_eq(instant(watermark_us.saturating_sub(self.looks.ahead_us)));
        let mut needed = waits();
        if self.looks.within_us > 0 {
            let oldest = watermark_us.saturating_sub(self.looks.ahead_us).saturating_sub(self.looks.within_us);
            needed = needed.or(moment().gt_eq(instant(oldest)));
        }
        let mut ranks = Vec::new();
        for look in &self.looks.looks {
            let keys: Vec<Expr> = [waits()].into_iter().chain(look.keys.iter().cloned()).collect();
            let first = if let Rank::UpTo(first) = look.first { first } else { 0 };
            for (count, reversed) in [(look.last, true), (first, false)] {
                if count == 0 {
                    continue;
                }
                let mut order = look.order.clone();
                for sort in order.iter_mut().filter(|_| reversed) {
                    (sort.asc, sort.nulls_first) = (!sort.asc, !sort.nulls_first);
                }
                let name = format!("__tidemill_rank{}", ranks.len());
                ranks.push(rank().order_by(order).partition_by(keys.clone()).build()?.alias(&name));
                needed = needed.or(Expr::Column(Column::new_unqualified(name)).lt_eq(lit(count)));
            }
        }
        // Functions of one node must be sorted alike.
        let ranked = LogicalPlanBuilder::from(Emission::plan(0, schema));
        let ranked = ranks.into_iter().try_fold(ranked, |plan, rank| plan.window(vec![rank]))?;
        let plan = ranked.filter(needed)?.project(columns)?;
        let stage = StagePlanner { emissions: vec![rows], assign: None, late: Arc::new(LateRows::new(None)) };
        physical(&plan.build()?, &self.state, stage).await
    }
}

fn moment_field() -> Field {
    Field::new(MOMENT, DataType::Timestamp(TimeUnit::Microsecond, None), false)
}

/// Adds the event time to each row, and sets aside those that come after the watermark.
#[derive(Debug)]
pub struct Moment {
    time: RowTime,
    sieve: Sieve,
    schema: SchemaRef,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.time)
    }
}

impl Moment {
    /// The column of the event time is the last one of what comes out.
    pub fn new(input: &Schema, time: RowTime, sieve: Sieve) -> Self {
        let mut fields = input.fields().to_vec();
        fields.push(Arc::new(moment_field()));
        Self { time, sieve, schema: Arc::new(Schema::new(fields)) }
    }

    /// The event times, microseconds since the epoch.
    fn times(&self, batch: &RecordBatch) -> Result<Int64Array> {
        let (column, add_us) = match self.time {
            RowTime::Column(column) => (column, 0),
            RowTime::WindowEnd(column) => (column, -1_000),
            RowTime::WindowStart(column, size_us) => (column, size_us.saturating_sub(1_000)),
        };
        let column = batch.columns().get(column).ok_or_else(|| Error::internal("the event time is missing"))?;
        Ok(micros(column)?.unary(|time| time.saturating_add(add_us)))
    }
}

impl SortOut for Moment {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn sort_out(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let times = self.times(batch)?;
        let (mut kept, mut kept_us, mut aside) = (Vec::new(), Vec::new(), Aside::default());
        for (row, time) in (0u32..).zip(&times) {
            match self.sieve.in_time((row, time), &mut aside) {
                Some(time) if time >= self.sieve.bounds.closed_us => {
                    kept.push(row);
                    kept_us.push(time);
                }
                Some(_) => aside.push(row, Reason::Late),
                None => {}
            }
        }
        let set_aside = self.sieve.set_aside(batch, &times, aside)?;
        let mut columns = picked(batch, kept)?.columns().to_vec();
        columns.push(Arc::new(TimestampMicrosecondArray::from(kept_us)) as ArrayRef);
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, set_aside))
    }
}
