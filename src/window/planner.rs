//! From the logical nodes to execution, and everything that a session has to know.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{Column, DFSchemaRef, Result as DataFusionResult},
    execution::SessionStateBuilder,
    logical_expr::{LogicalPlan, UserDefinedLogicalNode, physical_planning_context::PhysicalPlanningContext},
    physical_plan::ExecutionPlan,
    physical_planner::{ExtensionPlanner, PhysicalPlanner},
};

use super::{
    SessionAssign, WindowAssign,
    assign_exec::{Columns, WindowAssignExec},
    grouped,
    relation::WindowRelations,
    session_exec::SessionAssignExec,
};

/// Teaches a session event-time windows, in FROM and in GROUP BY; `WindowExtensions` is their execution.
pub fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.scalar_functions().get_or_insert_default().extend(grouped::functions());
    builder.with_relation_planners(vec![Arc::new(WindowRelations)])
}

/// Plans the window nodes as a batch runs them.
#[derive(Debug)]
pub struct WindowExtensions;

#[async_trait]
impl ExtensionPlanner for WindowExtensions {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let [input] = physical_inputs else { return Ok(None) };
        let input = Arc::clone(input);
        if let Some(node) = node.as_any().downcast_ref::<WindowAssign>() {
            let columns = columns(&node.input, &node.time, node.kept(), node.schema_ref())?;
            return Ok(Some(Arc::new(WindowAssignExec::new(input, columns, node.spec))));
        }
        if let Some(node) = node.as_any().downcast_ref::<SessionAssign>() {
            let columns = columns(&node.input, &node.time, node.kept(), node.schema_ref())?;
            let schema = node.input.schema();
            let keys = node.keys.iter().map(|key| planner.create_physical_expr(key, schema, session, context));
            let keys = keys.collect::<DataFusionResult<Vec<_>>>()?;
            return Ok(Some(Arc::new(SessionAssignExec::try_new(input, columns, node.gap_us, keys)?)));
        }
        Ok(None)
    }
}

fn columns(input: &LogicalPlan, time: &Column, kept: Vec<usize>, schema: &DFSchemaRef) -> DataFusionResult<Columns> {
    let schema: SchemaRef = Arc::new(Schema::clone(schema.as_arrow()));
    Ok(Columns { kept, time: input.schema().index_of_column(time)?, schema })
}
