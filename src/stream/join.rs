//! Joins of a stream with stored files.
//!
//! DataFusion keeps the left side of a join in memory and lets the rows of the right side pass. So the rule here puts
//! the stored files on the left, whatever the SQL says; and since each batch sees all of the files but only some of the
//! stream, only joins are allowed that give rows of the stream.

use std::sync::Arc;

use datafusion::{
    common::{DFSchema, JoinType, Result as DataFusionResult, tree_node::Transformed, tree_node::TreeNodeRecursion},
    logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder},
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

use super::scan::reads_stream;
use crate::{
    asof::AsofJoin,
    error::{Error, Result},
};

/// Puts the stored side of each join on the left.
#[derive(Debug)]
pub struct StoredSideFirst;

impl OptimizerRule for StoredSideFirst {
    fn name(&self) -> &str {
        "stored_side_first"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> DataFusionResult<Transformed<LogicalPlan>> {
        match plan {
            // NOT IN keeps its side, and is refused afterwards.
            LogicalPlan::Join(join) if !join.null_aware && reads_stream(&join.left) && !reads_stream(&join.right) => {
                Ok(Transformed::yes(swapped(join)?))
            }
            plan => Ok(Transformed::no(plan)),
        }
    }
}

/// The same rows, with the sides the other way round.
fn swapped(join: Join) -> DataFusionResult<LogicalPlan> {
    let schema = Arc::clone(&join.schema);
    in_order(LogicalPlan::Join(swap(join)?), &schema)
}

/// The join with its sides the other way round.
///
/// # Errors
/// DataFusion's.
pub fn swap(join: Join) -> DataFusionResult<Join> {
    let join_type = join.join_type.swap();
    Join::try_new(
        join.right,
        join.left,
        join.on.into_iter().map(|(left, right)| (right, left)).collect(),
        join.filter,
        join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )
}

/// The columns of `plan` in the order of `schema`, which has the same.
///
/// # Errors
/// DataFusion's.
pub fn in_order(plan: LogicalPlan, schema: &DFSchema) -> DataFusionResult<LogicalPlan> {
    if plan.schema().as_ref().columns() == schema.columns() {
        return Ok(plan);
    }
    let columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

const STREAMS: &str = "write outputMode = 'append' (EMIT ON WINDOW CLOSE), which joins streams, or join the stored results \
                       with `tidemill query`";

/// What a join over a stream must not be, and what to do instead. `None`: one batch alone can answer it.
pub fn refusal(join: &Join) -> Option<(String, &'static str)> {
    let (what, help) = match (reads_stream(&join.left), reads_stream(&join.right), join.join_type) {
        // In append it is cut, by `windowed`.
        (true, true, _) => ("a join of two streams in this output mode", STREAMS),
        (true, false, _) if join.null_aware => {
            ("NOT IN (SELECT ...)", "write NOT EXISTS (SELECT ...), or LEFT JOIN ... WHERE the other side IS NULL")
        }
        (
            true,
            false,
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark,
        )
        | (
            false,
            true,
            JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark,
        )
        | (false, false, _) => return None,
        (_, _, JoinType::Left | JoinType::Right | JoinType::Full) => (
            "an outer join that keeps rows of stored files, which no batch can know to have no partner",
            "keep the rows of the stream: FROM stream LEFT JOIN files",
        ),
        (_, _, _) => (
            "a join that gives rows of stored files, which each batch would give again",
            "let the stream be on the left: FROM stream LEFT SEMI JOIN files",
        ),
    };
    Some((what.to_owned(), help))
}

/// As `refusal`, of an as-of join that stays as it is.
pub fn asof_refusal(asof: &AsofJoin) -> Option<(String, &'static str)> {
    match (reads_stream(&asof.left), reads_stream(&asof.right)) {
        (_, false) => None,
        (true, true) => Some(("an ASOF JOIN of two streams in this output mode".to_owned(), STREAMS)),
        (false, true) => Some((
            "an ASOF JOIN that gives rows of stored files, which each batch would give again,".to_owned(),
            "let the stream be on the left: FROM stream ASOF JOIN files",
        )),
    }
}

/// Checks every join of an optimised plan; those of one with windows are checked when it is taken apart.
///
/// # Errors
/// `Unsupported`, with the way out.
pub fn check(optimized: &LogicalPlan, windowed: bool) -> Result<()> {
    let mut refused = None;
    optimized.apply_with_subqueries(|node| {
        if refused.is_none() {
            refused = match node {
                LogicalPlan::Join(join) if !windowed => refusal(join),
                LogicalPlan::Extension(extension)
                    if !reads_stream(node) && !extension.node.as_any().is::<AsofJoin>() =>
                {
                    Some((
                        "windows over stored files".to_owned(),
                        "store their result first: COPY (SELECT ...) TO 'path' in `tidemill query`",
                    ))
                }
                _ => None,
            };
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match refused {
        Some((what, help)) => Err(Error::unsupported(format!("{what}, over a stream")).help(help)),
        None => Ok(()),
    }
}

/// The side of a join that has the rows of the stream.
pub fn stream_side(join: &Join) -> &Arc<LogicalPlan> {
    if reads_stream(&join.left) { &join.left } else { &join.right }
}
