//! A job, checked and described without running it.

use std::{fmt::Write as _, time::Duration};

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};

use super::{
    forecast,
    inputs::{Inputs, per_source},
    output::{self, Output, checkpoint_location, late_path},
    plan::QueryPlan,
    windowed::Watermarks,
};
use crate::{
    catalog::{Connector, Insert, Job, Watermark},
    checkpoint::{Checkpoint, recovery::decide},
    clock,
    decode::RecordDecoder,
    error::{Error, Result},
    event_time::NO_WATERMARK_MS,
    query::FilesVersion,
    state::Labels,
    store::Store,
    window::duration,
};

/// Checks everything that can be checked without running a batch, and describes each query: schemas, plan, where it
/// stands. Writes nothing.
///
/// # Errors
/// As `launch`, before its first batch.
pub async fn describe(job: &Job) -> Result<String> {
    let mut text = String::new();
    for insert in &job.inserts {
        let location = checkpoint_location(job, insert)?;
        let description = describe_insert(job, insert, location.as_deref()).await?;
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

/// Checks what `open` checks, but writes nothing and fences nobody, and says where the query stands.
///
/// # Errors
/// As `open`.
async fn describe_insert(job: &Job, insert: &Insert, checkpoint_location: Option<&str>) -> Result<String> {
    let plan = QueryPlan::new(job, insert).await?;
    output::check_apart(job, insert, &plan, checkpoint_location.unwrap_or_default())?;
    let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
    let mut decoded = Vec::new();
    let batch = plan.batch(clock::now_ms()).await.map_err(|error| error.at(insert.place.clone()))?;
    for (source, reads) in plan.sources.iter().zip(batch.reads) {
        RecordDecoder::new(&source.table.columns, &reads.projection, &source.kafka()?.decode)?;
        let names = reads.projection.iter().map(|index| source.table.columns[*index].name.as_str());
        decoded.push(names.collect::<Vec<_>>().join(", "));
    }
    let inputs = Inputs::open(&plan).await?;
    let mut stands = "new: starts at startingOffsets".to_owned();
    let mut start = None;
    if let Some(location) = checkpoint_location {
        let store = Store::open(location).await?;
        let checkpoint = Checkpoint::open_read_only(store).await?;
        let mut facts = checkpoint.facts().await?;
        let mut output_name = None;
        if let Connector::File(file) = &sink.connector {
            let output = Output::open(sink, plan.schema(), &checkpoint).await?;
            (facts.keeps_sink_log, facts.sink_log) = (file.spark_metadata, output.latest_logged().await?);
            output_name = Some(output);
        }
        let decision = decide(&facts).map_err(|error| error.context(format!("checkpoint {location}")))?;
        if let Some(output) = output_name {
            let fingerprint =
                output::fingerprint(&inputs.description(), &output, &plan, &insert.select.mask(insert.select.sql()))?;
            checkpoint.compare_fingerprint(u64::MAX, &fingerprint).await?;
        }
        if let Some(&latest) = facts.offsets.last() {
            start = Some(per_source(checkpoint.offsets(latest).await?.ends, inputs.count())?);
            stands = format!("{decision:?}");
        }
    }
    let latest = inputs.latest_offsets().await?;
    let mut sources = String::new();
    for (index, (input, source)) in inputs.iter().zip(&plan.sources).enumerate() {
        let waiting = match (start.as_ref().and_then(|start| start.get(index)), latest.get(index)) {
            (Some(start), Some(latest)) => start.count_to(latest),
            (None, Some(latest)) => input.starting_offsets().await?.count_to(latest),
            _ => 0,
        };
        let (description, decoded) = (&input.description, decoded.get(index).map_or("", String::as_str));
        let _ = writeln!(sources, "source {description} ({waiting} records waiting), decodes {decoded}");
        sources.push_str(&print_schema(&source.table.schema()));
    }
    for version in plan.refresh().await? {
        let FilesVersion { table, files, bytes, .. } = version;
        let _ = writeln!(sources, "joins {table}: {files} files, {bytes} bytes, looked at again before each batch");
    }
    sources.push_str(&plan.models.describe());
    sources.extend(plan.question.iter().map(forecast::describe));
    let windows = match plan.windowed {
        true => describe_windows(&plan, &late_path(sink, checkpoint_location.unwrap_or("the checkpoint"))).await?,
        false => String::new(),
    };
    Ok(format!(
        "query {}.{}\n{sources}sink {}\n{}plan\n{}\n{windows}checkpoint {} ({stands})\n",
        job.name,
        insert.target,
        insert.target,
        print_schema(plan.schema()),
        plan.display()?,
        checkpoint_location.unwrap_or("in a temporary directory"),
    ))
}

/// Event time, and what each aggregate keeps.
async fn describe_windows(plan: &QueryPlan, late_path: &str) -> Result<String> {
    let mut text = String::new();
    for source in plan.sources.iter().filter(|_| plan.waits()) {
        if let Some(watermark) = &source.table.watermark {
            let of = if plan.sources.len() > 1 { format!(" of {}", source.table.name) } else { String::new() };
            describe_watermark(&mut text, &of, watermark);
        }
    }
    if plan.waits() {
        if plan.sources.len() > 1 {
            text.push_str("the query's watermark is that of the table that is furthest behind and not idle\n");
        }
        let _ = writeln!(text, "  late rows go to {late_path}");
    }
    let nothing = Watermarks { from_ms: NO_WATERMARK_MS, to_ms: NO_WATERMARK_MS };
    let planned = plan.windowed(clock::now_ms(), (nothing, i64::MAX), None).await?.planned;
    for (at, operator) in planned.operators.iter().enumerate() {
        let kept = match &operator.layout.labels {
            Labels::Windows => " and window".to_owned(),
            Labels::Sessions(pieces) => format!(" and piece of a session (gap {})", duration(pieces.gap_us)),
            Labels::Panes(spec) => {
                format!(" and {}", spec.pane_us().map_or("pane".to_owned(), |us| format!("pane of {}", duration(us))))
            }
            Labels::Groups => String::new(),
            Labels::Moments(moments) => {
                let waits = if moments.partners { "the watermark has not passed" } else { "waits" };
                let _ = write!(text, "operator {at}: {}\n  state, a row for each row that {waits}", operator.name);
                text.push_str(match (moments.always, moments.within_us) {
                    (true, _) if moments.partners => ", and the last one of each key before\n",
                    (false, _) if moments.partners => ", and those that the other side may still meet\n",
                    (true, _) => ", and the rows of each key that later ones look at\n",
                    (false, 0) => "\n",
                    (false, _) => ", and those that later ones look at\n",
                });
                text.push_str(&print_schema(&operator.layout.schema));
                continue;
            }
        };
        let _ = write!(text, "aggregate {at}: {}\n  state, a row for each key{kept}\n", operator.name);
        text.push_str(&print_schema(&operator.layout.schema));
    }
    let _ = write!(text, "output mode {}", plan.emit.mode.name());
    if let Some(period) = plan.emit.period {
        let _ = write!(text, ", at most once in {}", duration(i64::try_from(period.as_micros()).unwrap_or(i64::MAX)));
    }
    text.push('\n');
    if let Some(sentence) = plan.grows()? {
        let _ = writeln!(text, "warning: {sentence}");
    }
    Ok(text)
}

fn describe_watermark(text: &mut String, of: &str, watermark: &Watermark) {
    let Watermark { column, delay_us, idle_timeout, advances_when_idle, max_future_skew, .. } = watermark;
    let length = |length: &Duration| duration(i64::try_from(length.as_micros()).unwrap_or(i64::MAX));
    let idle = if *advances_when_idle { "goes on with the wall clock" } else { "stays" };
    let _ = write!(
        text,
        "event time{of} {column}\n  the watermark is {} behind the newest event of the slowest partition\n  \
         a partition is idle after {} without events (idleTimeout); when all are, the watermark {idle} (idleWatermark)\n  \
         events more than {} in the future are set aside (maxFutureSkew)\n",
        duration(*delay_us),
        length(idle_timeout),
        length(max_future_skew),
    );
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
