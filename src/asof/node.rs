//! The logical node of an as-of join.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    common::{DFSchema, DFSchemaRef, Result as DataFusionResult, TableReference, plan_err},
    logical_expr::{Expr, Extension, LogicalPlan, SortExpr, UserDefinedLogicalNodeCore},
};

use crate::catalog::EVENT_TIME;

/// The rows of the left side, each with the last row of the right side that has equal keys and is not newer.
#[derive(Debug, Clone)]
pub struct AsofJoin {
    pub left: Arc<LogicalPlan>,
    pub right: Arc<LogicalPlan>,
    /// What must be equal, of the left and of the right side; of one type.
    pub keys: Vec<(Expr, Expr)>,
    /// The times of both sides, of one type.
    pub times: (Expr, Expr),
    /// The right row must be older.
    pub strict: bool,
    /// Rows without a partner stay, with NULL in the columns of the right side.
    pub outer: bool,
    schema: DFSchemaRef,
}

impl AsofJoin {
    /// # Errors
    /// DataFusion's, for columns of the same name.
    pub fn try_new(
        (left, right): (Arc<LogicalPlan>, Arc<LogicalPlan>),
        keys: Vec<(Expr, Expr)>,
        times: (Expr, Expr),
        (strict, outer): (bool, bool),
    ) -> DataFusionResult<Self> {
        let mut fields: Vec<_> =
            left.schema().iter().map(|(table, field)| (table.cloned(), Arc::clone(field))).collect();
        for (table, field) in right.schema().iter() {
            // The rows come in the order of the left time: the right one is an event time no more.
            let mut metadata = field.metadata().clone();
            metadata.remove(EVENT_TIME);
            let nullable = field.is_nullable() || outer;
            let field = field.as_ref().clone().with_metadata(metadata).with_nullable(nullable);
            fields.push((table.cloned(), Arc::new(field)));
        }
        let schema: Vec<(Option<TableReference>, _)> = fields;
        let schema = Arc::new(DFSchema::new_with_metadata(schema, left.schema().metadata().clone())?);
        Ok(Self { left, right, keys, times, strict, outer, schema })
    }

    /// It as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The columns of both sides.
    pub fn schema_ref(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// The order in which the last of the right rows is taken: by time, and of one time by all columns.
    pub fn order(&self) -> Vec<SortExpr> {
        let columns = self.right.schema().iter().filter(|(_, field)| !field.data_type().is_nested());
        let columns = columns.map(|column| Expr::Column(column.into()));
        [self.times.1.clone()].into_iter().chain(columns).map(|expr| expr.sort(true, true)).collect()
    }
}

impl UserDefinedLogicalNodeCore for AsofJoin {
    fn name(&self) -> &str {
        "AsofJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let (left, right): (Vec<Expr>, Vec<Expr>) = self.keys.iter().cloned().unzip();
        left.into_iter().chain(right).chain([self.times.0.clone(), self.times.1.clone()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        let (kind, than) = (if self.outer { "Left" } else { "Inner" }, if self.strict { ">" } else { ">=" });
        write!(f, "AsofJoin: {kind} {}, last of {} {than} {}", keys.join(", "), self.times.0, self.times.1)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let Ok([left, right]) = <[LogicalPlan; 2]>::try_from(inputs) else {
            return plan_err!("an as-of join has two inputs");
        };
        let count = self.keys.len();
        if exprs.len() != 2 * count + 2 {
            return plan_err!("an as-of join has two times and pairs of keys");
        }
        let times = exprs.split_off(2 * count);
        let rights = exprs.split_off(count);
        let Ok([left_time, right_time]) = <[Expr; 2]>::try_from(times) else {
            return plan_err!("an as-of join has two times");
        };
        let keys = exprs.into_iter().zip(rights).collect();
        let options = (self.strict, self.outer);
        Self::try_new((Arc::new(left), Arc::new(right)), keys, (left_time, right_time), options)
    }

    /// All columns of the right side: which row is the last may depend on each.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.left.schema();
        let exprs = self.keys.iter().map(|(left, _)| left).chain([&self.times.0]);
        let used =
            exprs.flat_map(|expr| expr.column_refs().into_iter().filter_map(|it| schema.maybe_index_of_column(it)));
        let output = output_columns.iter().copied().filter(|at| *at < schema.fields().len());
        let mut left: Vec<usize> = output.chain(used).collect();
        left.sort_unstable();
        left.dedup();
        Some(vec![left, (0..self.right.schema().fields().len()).collect()])
    }
}

type Parts<'a> = (&'a LogicalPlan, &'a LogicalPlan, &'a [(Expr, Expr)], &'a (Expr, Expr), bool, bool);

impl AsofJoin {
    // The schema follows from the rest.
    fn parts(&self) -> Parts<'_> {
        (&self.left, &self.right, &self.keys, &self.times, self.strict, self.outer)
    }
}

impl PartialEq for AsofJoin {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for AsofJoin {}

impl PartialOrd for AsofJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.parts().partial_cmp(&other.parts())
    }
}

impl Hash for AsofJoin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}
