//! The logical node that joins rows to sessions.

use std::{
    cmp::Ordering,
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    common::{Column, DFSchemaRef, Result as DataFusionResult, plan_err},
    logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore},
};

use super::{
    WindowKind, WindowSpec,
    node::{WINDOW_COLUMNS, input_indices, kept, windowed_schema},
    spec::duration,
};
use crate::error::Result;

/// One row in, one row out, with the session that it is in: rows with equal keys of which each is at most the gap after
/// the one before. `window_start` is the first row's time, `window_end` the last one's plus the gap. Columns as in
/// `WindowAssign`. Rows whose time is NULL are left out.
#[derive(Debug, Clone)]
pub struct SessionAssign {
    pub input: Arc<LogicalPlan>,
    /// A timestamp of the input.
    pub time: Column,
    pub gap_us: i64,
    /// Expressions over the input; without them all rows share sessions.
    pub keys: Vec<Expr>,
    schema: DFSchemaRef,
}

impl SessionAssign {
    /// # Errors
    /// As `WindowAssign::try_new`; `Invalid` for a gap that is not positive.
    pub fn try_new(input: Arc<LogicalPlan>, time: Column, gap_us: i64, keys: Vec<Expr>) -> Result<Self> {
        WindowSpec::new(WindowKind::Session, gap_us, 0, None)?;
        let schema = windowed_schema(input.schema(), &time, [gap_us])?;
        Ok(Self { input, time, gap_us, keys, schema })
    }

    /// The input's columns that come out, then the three of the window.
    pub fn schema_ref(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// It as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// Which columns of the input come out, by index, in their order.
    pub fn kept(&self) -> Vec<usize> {
        kept(self.input.schema())
    }

    fn compared(&self) -> (&Column, i64, &[Expr], &LogicalPlan) {
        (&self.time, self.gap_us, &self.keys, &self.input)
    }
}

impl UserDefinedLogicalNodeCore for SessionAssign {
    fn name(&self) -> &str {
        "SessionAssign"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        std::iter::once(Expr::Column(self.time.clone())).chain(self.keys.iter().cloned()).collect()
    }

    /// A filter below would cut sessions apart, unless it takes away whole keys.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let is_key = |index: usize| self.keys.contains(&Expr::Column(self.schema.qualified_field(index).into()));
        let names = |wanted: bool| {
            let found = (0..self.schema.fields().len()).filter(move |index| is_key(*index) == wanted);
            found.map(|index| self.schema.field(index).name().clone())
        };
        // Names without their tables are all that is asked for: a key is safe if its name is nobody else's.
        let prevented: HashSet<String> = names(false).chain(WINDOW_COLUMNS.map(str::to_owned)).collect();
        prevented
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SessionAssign: SESSION(gap {}) of {}", duration(self.gap_us), self.time)?;
        if !self.keys.is_empty() {
            let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
            write!(f, " by {}", keys.join(", "))?;
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let mut exprs = exprs.into_iter();
        let (Some(Expr::Column(time)), Ok([input])) = (exprs.next(), <[LogicalPlan; 1]>::try_from(inputs)) else {
            return plan_err!("a session has one time column and one input");
        };
        Ok(Self::try_new(Arc::new(input), time, self.gap_us, exprs.collect())?)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // The columns of the keys are added by the optimizer: they are in the expressions.
        let time = self.input.schema().maybe_index_of_column(&self.time);
        Some(vec![input_indices(&self.kept(), output_columns, time)])
    }
}

impl PartialEq for SessionAssign {
    fn eq(&self, other: &Self) -> bool {
        self.compared() == other.compared()
    }
}

impl Eq for SessionAssign {}

impl PartialOrd for SessionAssign {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        // Inputs of which neither is the lesser are different still.
        self.compared().partial_cmp(&other.compared()).filter(|order| order.is_ne() || self == other)
    }
}

impl Hash for SessionAssign {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}
