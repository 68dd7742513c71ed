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

#[cfg(test)]
mod tests {
    use crate::{
        catalog::{Job, Variables},
        stream::plan::QueryPlan,
    };

    const CUMULATE: &str = "SELECT window_start, window_end, window_time, symbol, count(*) AS n FROM CUMULATE(TABLE t, \
         DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '20' SECOND) GROUP BY window_start, window_end, window_time, symbol";
    const TUMBLE: &str = "SELECT window_start, window_end, symbol, count(*) AS n \
         FROM TUMBLE(t, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end, symbol";

    #[tokio::test]
    async fn a_key_holds_what_tells_groups_apart() {
        let key = |option: &str| format!("'key.fields' = '{option}', ");
        for (select, options, lacks) in [
            // A window is known by its start or its end,
            (TUMBLE, key("symbol,window_start"), None),
            (TUMBLE, key("symbol,window_end"), None),
            (TUMBLE, key("window_start,window_end"), Some("does not hold symbol")),
            (TUMBLE, key("symbol"), Some("does not hold window_start, window_end")),
            // but for those that grow: of these many have one start, and many one end.
            (CUMULATE, key("symbol,window_start,window_end"), None),
            (CUMULATE, key("symbol,window_start"), Some("does not hold window_end")),
            (CUMULATE, key("symbol,window_end"), Some("does not hold window_start")),
            (TUMBLE, key("symbol,window_start,m"), Some("names m, which is no column")),
            (TUMBLE, String::new(), Some("have no key")),
            // A column `key` is that of the record only beside a column `value`.
            ("SELECT symbol AS key, CAST(count(*) AS STRING) AS value FROM t GROUP BY symbol", String::new(), None),
            ("SELECT symbol AS key, count(*) AS n FROM t GROUP BY symbol", String::new(), Some("have no key")),
            ("SELECT symbol || 'x' AS k, count(*) AS n FROM t GROUP BY symbol", key("k"), None),
            ("SELECT symbol, count(*) AS n FROM t GROUP BY symbol, ts", key("symbol"), Some("does not hold ts")),
        ] {
            let sql = format!(
                "CREATE TABLE t (ts TIMESTAMP, symbol STRING, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) WITH \
                 (connector = 'kafka', 'kafka.bootstrap.servers' = 'a:1', subscribe = 't', format = 'json');\n\
                 CREATE TABLE out WITH (connector = 'kafka', 'kafka.bootstrap.servers' = 'a:1', topic = 'o', {options}\
                 outputMode = 'update', checkpointLocation = '/tmp/c');\nINSERT INTO out {select};\n"
            );
            let job = Job::parse("job.sql", &sql, &Variables::default()).unwrap();
            let said = QueryPlan::new(&job, &job.inserts[0]).await.map_err(|error| error.to_string()).err();
            let is_it = match (&said, lacks) {
                (Some(said), Some(lacks)) => said.contains(lacks) && said.contains("help:"),
                (said, lacks) => said.is_none() && lacks.is_none(),
            };
            assert!(is_it, "{options}{select}: {said:?}");
        }
    }
}
