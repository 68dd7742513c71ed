//! Every INSERT of a job file as a query of its own, started, watched and stopped together.

use std::{fmt::Write as _, path::PathBuf};

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    progress::{ProgressFormat, Reporter},
    query::StreamingQuery,
    trigger::Trigger,
};
use crate::{
    catalog::{Connector, Insert, Job, Table},
    checkpoint::Ledger,
    error::{Error, Result},
};

/// How a job is run.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    pub trigger: Trigger,
    pub progress: ProgressFormat,
    pub progress_log: Option<PathBuf>,
}

/// Runs all queries of `job` until their trigger is done, one fails, or `stop` is cancelled; in the last two cases
/// each finishes the batch that it is in. Returns each query's name and totals.
///
/// # Errors
/// That of the query which failed first.
pub async fn launch(job: &Job, options: &StreamOptions, stop: &CancellationToken) -> Result<Vec<(String, Ledger)>> {
    if job.inserts.is_empty() {
        return Err(Error::invalid(format!("the job {} has no INSERT INTO, so there is nothing to run", job.name))
            .help(
                "add INSERT INTO <sink table> SELECT ... FROM <kafka table>; or use `tidemill query --job` to read",
            ));
    }
    let reporter = std::sync::Arc::new(Reporter::new(options.progress, options.progress_log.clone())?);
    // All are opened before one is run: a mistake in the second must not let the first begin.
    let mut queries = Vec::new();
    let mut temporary = Vec::new();
    for insert in &job.inserts {
        let location = checkpoint_location(job, insert)?;
        let location = match location {
            Some(location) => location,
            None => {
                let directory = std::env::temp_dir().join(format!("tidemill-{}", uuid::Uuid::new_v4()));
                temporary.push(directory.clone());
                directory.to_string_lossy().into_owned()
            }
        };
        queries.push(StreamingQuery::open(job, insert, &location).await?);
    }
    let result = run_all(queries, options.trigger, stop, &reporter).await;
    for directory in temporary {
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            tracing::warn!(directory = %directory.display(), %error, "the temporary checkpoint stays behind");
        }
    }
    result
}

async fn run_all(
    queries: Vec<StreamingQuery>,
    trigger: Trigger,
    stop: &CancellationToken,
    reporter: &std::sync::Arc<Reporter>,
) -> Result<Vec<(String, Ledger)>> {
    let stop = stop.child_token();
    let mut tasks = JoinSet::new();
    for query in queries {
        let (stop, reporter, name) = (stop.clone(), std::sync::Arc::clone(reporter), query.name.clone());
        tasks.spawn(async move { query.run(trigger, &stop, &reporter).await.map(|totals| (name, totals)) });
    }
    let (mut totals, mut failure) = (Vec::new(), None);
    while let Some(joined) = tasks.join_next().await {
        match joined.unwrap_or_else(|error| Err(Error::internal("a query's task died").source_error(error))) {
            Ok(done) => totals.push(done),
            Err(error) if failure.is_none() => {
                stop.cancel();
                failure = Some(error);
            }
            Err(error) => reporter.warn("also", &error.to_string()),
        }
    }
    totals.sort_by(|a, b| a.0.cmp(&b.0));
    failure.map_or(Ok(totals), Err)
}

/// The sink's checkpoint; `None` for a console, whose offsets need not outlive the process.
fn checkpoint_location(job: &Job, insert: &Insert) -> Result<Option<String>> {
    let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
    let location = match &sink.connector {
        Connector::File(file) => file.checkpoint_location.clone(),
        Connector::Kafka(kafka) => kafka.checkpoint_location.clone(),
        Connector::Console(console) => return Ok(console.checkpoint_location.clone()),
    };
    location.map(Some).ok_or_else(|| missing_checkpoint(sink))
}

fn missing_checkpoint(sink: &Table) -> Error {
    Error::invalid(format!("the table {} has no checkpointLocation", sink.name))
        .at(sink.place.clone())
        .help("add checkpointLocation = '...' to its WITH: a directory of its own for each INSERT")
}

/// Checks everything that can be checked without running a batch, and describes each query: schemas, plan, where it
/// stands. Writes nothing.
///
/// # Errors
/// As `launch`, before its first batch.
pub async fn describe(job: &Job) -> Result<String> {
    let mut text = String::new();
    for insert in &job.inserts {
        let location = checkpoint_location(job, insert)?;
        let description = StreamingQuery::describe(job, insert, location.as_deref()).await?;
        text.push_str(&description);
        text.push('\n');
    }
    Ok(text)
}

/// The schema as Spark's `printSchema` shows it.
pub fn print_schema(schema: &SchemaRef) -> String {
    let mut text = "root\n".to_owned();
    for field in schema.fields() {
        print_field(&mut text, field, 1);
    }
    text
}

fn print_field(text: &mut String, field: &Field, depth: usize) {
    let (indent, nullable) = (" |   ".repeat(depth - 1), field.is_nullable());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{indent} |-- {}: {} (nullable = {nullable})", field.name(), spark_type(field.data_type()));
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().for_each(|field| print_field(text, field, depth + 1)),
        DataType::List(item) | DataType::LargeList(item) => {
            if let DataType::Struct(fields) = item.data_type() {
                fields.iter().for_each(|field| print_field(text, field, depth + 1));
            }
        }
        _ => {}
    }
}

fn spark_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "byte".into(),
        DataType::Int16 => "short".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "long".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 => "string".into(),
        DataType::Binary => "binary".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Struct(_) => "struct".into(),
        DataType::List(item) => format!("array<{}>", spark_type(item.data_type())),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_looks_like_sparks() {
        let item = Field::new("item", DataType::Utf8, true);
        let schema = arrow::datatypes::Schema::new(vec![
            Field::new("symbol", DataType::Utf8, true),
            Field::new("quote", DataType::Struct(vec![Field::new("bid", DataType::Float64, false)].into()), true),
            Field::new("tags", DataType::List(item.into()), true),
        ]);
        assert_eq!(
            print_schema(&schema.into()),
            "root\n |-- symbol: string (nullable = true)\n |-- quote: struct (nullable = true)\n \
             |    |-- bid: double (nullable = false)\n |-- tags: array<string> (nullable = true)\n"
        );
    }
}
