//! Rows that replace others need a key that says which: the groups of a query in output mode update.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use datafusion::{
    common::Result as DataFusionResult,
    logical_expr::{Expr, LogicalPlan},
};

use super::stages::{Kept, Stages};
use crate::{
    catalog::{Connector, KafkaTable, OutputMode, Table},
    error::{Error, Result},
    window::WindowKind,
};

/// Checks that the columns exist that `key.fields` names.
///
/// # Errors
/// `Invalid`, at the option, naming the column.
pub fn check_fields(schema: &Schema, sink: &Table) -> Result<()> {
    let Connector::Kafka(kafka) = &sink.connector else { return Ok(()) };
    let Some(unknown) = kafka.key_fields.iter().find(|name| schema.column_with_name(name).is_none()) else {
        return Ok(());
    };
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    Err(Error::invalid(format!("'key.fields' names {unknown}, which is no column of the rows"))
        .at(sink.place_of("key.fields"))
        .help(format!("they have {}", names.join(", "))))
}

/// Checks that the records of a Kafka sink have keys that tell groups apart, if later rows replace earlier ones.
///
/// # Errors
/// `Invalid`, naming what the key lacks and what to do.
pub fn check_sink(stages: &Stages, sink: &Table) -> Result<()> {
    let (Connector::Kafka(kafka), OutputMode::Update) = (&sink.connector, stages.emit.mode) else { return Ok(()) };
    let names = key_columns(kafka, &stages.rest);
    let missing = missing(stages, &names)?;
    if names.is_empty() {
        let keys = missing.join(", ");
        return Err(Error::invalid(format!(
            "the rows for '{}' have no key, and in output mode update a row replaces the one of its group",
            sink.name
        ))
        .help(if keys.is_empty() {
            "SELECT 'total' AS key, ... AS value: a total is one group".to_owned()
        } else {
            format!("add 'key.fields' = '{keys}' to its options, or SELECT {keys} AS key, ... AS value")
        }));
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the key of the rows for '{}' does not hold {}: rows of different groups would replace each other",
        sink.name,
        missing.join(", ")
    ))
    .help(
        "in output mode update the key must hold all that the query groups by: in 'key.fields', or in the column key",
    ))
}

/// The columns that make the key of a record.
fn key_columns(kafka: &KafkaTable, rest: &LogicalPlan) -> Vec<String> {
    if !kafka.key_fields.is_empty() {
        return kafka.key_fields.clone();
    }
    let has = |name: &str| rest.schema().fields().iter().any(|field| field.name() == name);
    if has("key") && has("value") { vec!["key".to_owned()] } else { Vec::new() }
}

/// The grouping expressions that none of the columns `names` of the output depends on. A window is known by its start or
/// by its end.
fn missing(stages: &Stages, names: &[String]) -> Result<Vec<String>> {
    let [operator] = stages.operators.as_slice() else { return Ok(Vec::new()) };
    let (LogicalPlan::Aggregate(aggregate), Kept::Aggregate(kept)) = (&operator.plan, &operator.kept) else {
        return Ok(Vec::new());
    };
    let output = stages.rest.schema();
    let wanted = output.fields().iter().enumerate().filter(|(_, field)| names.contains(field.name()));
    let held = sources(&stages.rest, wanted.map(|(at, _)| at).collect())?;
    let groups = aggregate.group_expr.len();
    let is_held = |at: &usize| held.contains(at);
    let window = operator.spec.map(|spec| {
        let either = !matches!(spec.kind, WindowKind::Cumulate { .. }) && (is_held(&kept.start) || is_held(&kept.end));
        (either, [Some(kept.start), Some(kept.end), kept.time])
    });
    let is_known = |at: &usize| match &window {
        Some((true, columns)) => columns.contains(&Some(*at)),
        // The start and the end are asked for themselves.
        Some((false, columns)) => columns[2] == Some(*at),
        None => false,
    };
    let missing = (0..groups).filter(|at| !is_held(at) && !is_known(at));
    Ok(missing.map(|at| name(&aggregate.group_expr[at])).collect())
}

fn name(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        other => other.to_string(),
    }
}

/// The columns of the aggregate that the columns `wanted` of `plan` are made of.
fn sources(plan: &LogicalPlan, wanted: BTreeSet<usize>) -> DataFusionResult<BTreeSet<usize>> {
    match (plan, plan.inputs().as_slice()) {
        (LogicalPlan::Projection(projection), [input]) => {
            let mut below = BTreeSet::new();
            for expr in wanted.iter().filter_map(|at| projection.expr.get(*at)) {
                for column in expr.column_refs() {
                    below.insert(input.schema().index_of_column(column)?);
                }
            }
            sources(input, below)
        }
        // A filter and an alias have the columns of their input.
        (_, [input]) => sources(input, wanted),
        _ => Ok(wanted),
    }
}
