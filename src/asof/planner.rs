//! From the logical node to what runs it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::Result as DataFusionResult,
    logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode, physical_planning_context::PhysicalPlanningContext},
    physical_expr::PhysicalExpr,
    physical_plan::ExecutionPlan,
    physical_planner::{ExtensionPlanner, PhysicalPlanner},
};

use super::{
    exec::{AsofJoinExec, Side},
    node::AsofJoin,
};

/// Plans as-of joins.
#[derive(Debug)]
pub struct AsofExtensions;

#[async_trait]
impl ExtensionPlanner for AsofExtensions {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(node), [left, right]) = (node.as_any().downcast_ref::<AsofJoin>(), physical_inputs) else {
            return Ok(None);
        };
        let physical = |expr: &Expr, side: &LogicalPlan| -> DataFusionResult<Arc<dyn PhysicalExpr>> {
            planner.create_physical_expr(expr, side.schema(), session, context)
        };
        let keys = node.keys.iter().map(|(key, _)| physical(key, &node.left));
        let keys = keys.collect::<DataFusionResult<Vec<_>>>()?;
        let left = Side { input: Arc::clone(left), keys, order: vec![physical(&node.times.0, &node.left)?] };
        let keys = node.keys.iter().map(|(_, key)| physical(key, &node.right));
        let keys = keys.collect::<DataFusionResult<Vec<_>>>()?;
        let order = node.order();
        let order = order.iter().map(|sort| physical(&sort.expr, &node.right));
        let order = order.collect::<DataFusionResult<Vec<_>>>()?;
        let right = Side { input: Arc::clone(right), keys, order };
        let schema = Arc::clone(node.schema_ref().inner());
        Ok(Some(Arc::new(AsofJoinExec::try_new(left, right, (node.strict, node.outer), schema)?)))
    }
}
