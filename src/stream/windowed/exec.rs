//! What the plans that only streams have say of themselves.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    physical_expr::EquivalenceProperties,
    physical_plan::{ExecutionPlan, Partitioning, PlanProperties, execution_plan::EmissionType},
};

/// One partition of rows of `schema`, as they come from `input`.
pub fn one_partition(input: &Arc<dyn ExecutionPlan>, schema: &SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(Arc::clone(schema)),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        input.properties().boundedness,
    ))
}
