//! The rows of an operator, as a leaf of the plan above it.

use std::{cmp::Ordering, fmt, hash::Hash, sync::Arc};

use datafusion::{
    common::{DFSchemaRef, Result as DataFusionResult},
    logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore},
};

/// The rows of the windows of operator `index` that close with a batch: a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Emission {
    pub index: usize,
    pub schema: DFSchemaRef,
}

impl Emission {
    /// It as a plan.
    pub fn plan(index: usize, schema: DFSchemaRef) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { index, schema }) })
    }
}

impl PartialOrd for Emission {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.index.partial_cmp(&other.index).filter(|_| self == other || self.index != other.index)
    }
}

impl UserDefinedLogicalNodeCore for Emission {
    fn name(&self) -> &str {
        "Emission"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Emission: rows of aggregate {}", self.index)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        Ok(self.clone())
    }
}
