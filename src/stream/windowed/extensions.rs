//! How the nodes are planned that only streams have, or that streams run in another way.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{Result as DataFusionResult, plan_err},
    execution::SessionState,
    logical_expr::{LogicalPlan, UserDefinedLogicalNode, physical_planning_context::PhysicalPlanningContext},
    physical_plan::ExecutionPlan,
    physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner},
};

use super::{
    assign::Assign,
    emission::Emission,
    guard::{KnownSessions, SessionGuardExec},
    late::LateRows,
    pairs::Pairs,
    sieve::{Bounds, Sieve, SieveExec},
    source::SessionKeys,
};
use crate::{
    asof::{AsofExtensions, AsofJoin},
    error::Result,
    model::live::ForecastExtension,
    state::Labels,
    window::{SessionAssign, WindowAssign, WindowExtensions, WindowSpec},
};

/// The physical plan of a part of a query.
///
/// # Errors
/// DataFusion's.
pub async fn physical(plan: &LogicalPlan, state: &SessionState, stage: StagePlanner) -> Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(stage), Arc::new(ForecastExtension)]);
    Ok(planner.create_physical_plan(plan, state).await?)
}

/// Plans the nodes that only streams have, or that streams run in another way.
pub struct StagePlanner {
    /// Of the operators before.
    pub emissions: Vec<Arc<dyn ExecutionPlan>>,
    pub assign: Option<Assigning>,
    pub late: Arc<LateRows>,
}

/// The one window of a stage.
pub struct Assigning {
    pub labels: Labels,
    pub bounds: Bounds,
    pub spec: WindowSpec,
    pub session: Option<SessionKeys>,
    pub known: Arc<KnownSessions>,
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
        if node.as_any().is::<AsofJoin>() {
            return AsofExtensions
                .plan_extension(planner, node, logical_inputs, physical_inputs, session, context)
                .await;
        }
        if let Some(pairs) = node.as_any().downcast_ref::<Pairs>() {
            let physical = |expr: &_, schema: &_| planner.create_physical_expr(expr, schema, session, context);
            return Ok(Some(pairs.plan(physical_inputs, &physical)?));
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
        let sieve = Sieve::new(&input.schema(), time, window.spec, assign.bounds);
        let assign = Assign::new(window.kept(), sieve, assign.labels.clone(), schema);
        Ok(Arc::new(SieveExec::new(Arc::clone(input), Arc::new(assign), Arc::clone(&self.late))))
    }
}
