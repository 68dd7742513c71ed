//! The one place that makes a DataFusion session and plans SQL in it, so that streams and queries plan alike.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{Result as DataFusionResult, tree_node::Transformed},
    error::DataFusionError,
    execution::{
        SessionState, SessionStateBuilder,
        context::QueryPlanner,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::LogicalPlan,
    optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule},
    physical_plan::ExecutionPlan,
    physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner},
    prelude::{SessionConfig, SessionContext},
    sql::parser::Statement,
};

use crate::{
    asof::{self, AsofExtensions},
    catalog::parse_statements,
    error::{Error, Result},
    model::{aggregate, live::ForecastExtension},
    window::{self, WindowExtensions},
};

/// Limits and parallelism of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Bytes for sorts, joins and aggregates; beyond it they spill to the disk's temporary directory.
    pub memory_bytes: usize,
    pub partitions: usize,
}

/// A session whose strings are `Utf8` (not views: files, state and decoders agree on one type), whose memory is
/// bounded, and which knows event-time windows.
///
/// # Errors
/// `Internal` if the temporary directory cannot be used.
pub fn session(limits: SessionLimits) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(limits.partitions).with_information_schema(true);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    // For errors that point at their place.
    options.sql_parser.collect_spans = true;
    options.execution.parquet.schema_force_view_types = false;
    options.execution.time_zone = Some("+00:00".to_owned());
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::OsTmpDirectory))
        .build_arc()?;
    let builder = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    let builder = builder.with_optimizer_rules(optimizer_rules());
    let mut builder = aggregate::register(window::register(builder)).with_query_planner(Arc::new(OurPlanner));
    builder.scalar_functions().get_or_insert_default().extend(asof::functions());
    let state = builder.build();
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    let context = SessionContext::new_with_state(state);
    Ok(context)
}

/// DataFusion's rules, of which one may fail.
fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let wrapped = |rule: Arc<dyn OptimizerRule + Send + Sync>| match rule.name() {
        "push_down_leaf_projections" => Arc::new(MayFail(rule)) as _,
        _ => rule,
    };
    Optimizer::new().rules.into_iter().map(wrapped).collect()
}

/// A rule that makes plans faster, and leaves a node as it is where it fails: `push_down_leaf_projections` does, beside a
/// field of a struct that is grouped by, when an aggregate is there twice.
#[derive(Debug)]
struct MayFail(Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for MayFail {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DataFusionResult<Transformed<LogicalPlan>> {
        self.0.rewrite(plan.clone(), config).or_else(|error| {
            tracing::debug!(%error, "the optimizer leaves the struct's fields where they are");
            Ok(Transformed::no(plan))
        })
    }
}

/// A session with the same tables, functions and memory, whose plans have one partition.
pub fn in_order(context: &SessionContext) -> SessionContext {
    let mut state = context.state();
    state.config_mut().options_mut().execution.target_partitions = 1;
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    let context = SessionContext::new_with_state(state);
    context
}

/// Plans the nodes that DataFusion does not know, as a batch runs them.
#[derive(Debug)]
struct OurPlanner;

#[async_trait]
impl QueryPlanner for OurPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let ours: Vec<Arc<dyn ExtensionPlanner + Send + Sync>> =
            vec![Arc::new(WindowExtensions), Arc::new(AsofExtensions), Arc::new(ForecastExtension)];
        DefaultPhysicalPlanner::with_extension_planners(ours).create_physical_plan(plan, session).await
    }
}

/// The logical plan of a statement that `catalog::parse_statements` made, with its windows assigned and its as-of joins in
/// their places.
///
/// # Errors
/// DataFusion's, with ours inside.
pub async fn plan_statement(state: &SessionState, statement: Statement) -> DataFusionResult<LogicalPlan> {
    let calls = window::Calls::of(&statement);
    let plan = state.statement_to_plan(statement).await?;
    asof::place(window::assign_groups(plan, &calls)?)
}

/// The logical plan of one statement.
///
/// # Errors
/// As `plan_statement`; those of the parser.
pub async fn plan_sql(state: &SessionState, sql: &str) -> DataFusionResult<LogicalPlan> {
    let mut statements = parse_statements(sql)?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => plan_statement(state, statement).await,
        _ => Err(DataFusionError::from(Error::invalid("one statement is wanted here"))),
    }
}
