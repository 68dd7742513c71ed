//! Where a query's rows go.

use std::io::Write;

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use super::{
    plan::{QueryPlan, Source},
    sample::{RowSample, Sampler},
};
use crate::{
    catalog::{Compression, Connector, FileFormat, FileTable, Insert, Job, Table},
    checkpoint::{Checkpoint, Fingerprint},
    decode::dead_letter,
    error::{Error, Result},
    sink::{
        StagedFile,
        console::ConsoleSink,
        file::{FileSink, FileSinkWriter},
        kafka::KafkaSink,
        spark_log::SparkLog,
    },
    store::Store,
};

/// The sink of one query.
pub enum Output {
    File(Box<FileOutput>),
    Kafka(Box<KafkaSink>, String),
    Console(ConsoleSink),
}

/// A directory, its log and its file sink.
#[derive(Debug)]
pub struct FileOutput {
    pub store: Store,
    pub sink: FileSink,
    pub log: SparkLog,
    /// False with `sparkMetadata = 'false'`: then there must be no log.
    pub keeps_log: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.description())
    }
}

impl Output {
    /// Opens the sink of `table` for rows of `schema`.
    ///
    /// # Errors
    /// The sink's.
    pub async fn open(table: &Table, schema: &SchemaRef, checkpoint: &Checkpoint) -> Result<Self> {
        match &table.connector {
            Connector::File(file) => {
                let store = Store::open(&file.path).await?;
                let sink = FileSink::new(store.clone(), file, schema.clone())?;
                let log = SparkLog::new(store.clone());
                Ok(Self::File(Box::new(FileOutput { store, sink, log, keeps_log: file.spark_metadata })))
            }
            Connector::Kafka(kafka) => {
                let sink = KafkaSink::open(kafka, schema.clone(), &checkpoint.query_id).await?;
                Ok(Self::Kafka(Box::new(sink), kafka.topic.clone().unwrap_or_default()))
            }
            Connector::Console(console) => Ok(Self::Console(ConsoleSink::new(console))),
        }
    }

    /// Rows of this sink replace earlier ones.
    pub fn replaces(&mut self) {
        if let Self::Kafka(sink, _) = self {
            sink.require_keys();
        }
    }

    /// Does it keep a log of committed files?
    pub fn keeps_log(&self) -> bool {
        matches!(self, Self::File(file) if file.keeps_log)
    }

    /// The newest batch in that log.
    ///
    /// # Errors
    /// The store's.
    pub async fn latest_logged(&self) -> Result<Option<u64>> {
        match self {
            Self::File(file) => file.log.latest().await,
            _ => Ok(None),
        }
    }

    /// Spark's words for the sink.
    pub fn description(&self) -> String {
        match self {
            Self::File(file) => format!("FileSink[{}]", file.store.url()),
            Self::Kafka(_, topic) => format!("KafkaSink[{topic}]"),
            Self::Console(_) => "ConsoleSink".to_owned(),
        }
    }

    /// Starts batch `batch`. With `sampled` some of its rows are kept for people to look at.
    ///
    /// # Errors
    /// The sink's.
    pub async fn begin(&mut self, batch: u64, owner: &str, sampled: bool) -> Result<BatchWriter<'_>> {
        let to = match self {
            Self::File(file) => SinkWriter::File(Box::new(file.sink.begin(owner))),
            Self::Kafka(sink, _) => {
                sink.begin(batch).await?;
                SinkWriter::Kafka(sink)
            }
            Self::Console(sink) => {
                sink.begin(batch);
                SinkWriter::Console(sink)
            }
        };
        Ok(BatchWriter { to, sampler: sampled.then(Sampler::default) })
    }
}

/// One batch's rows on their way out.
pub struct BatchWriter<'a> {
    to: SinkWriter<'a>,
    sampler: Option<Sampler>,
}

enum SinkWriter<'a> {
    File(Box<FileSinkWriter>),
    Kafka(&'a mut KafkaSink),
    Console(&'a mut ConsoleSink),
}

/// What a batch wrote, before any of it is visible.
#[derive(Debug)]
pub struct Staged {
    pub files: Vec<StagedFile>,
    /// Of a batch that was begun `sampled`.
    pub sample: Option<RowSample>,
}

impl BatchWriter<'_> {
    /// Writes rows.
    ///
    /// # Errors
    /// The sink's.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        if let Some(sampler) = &mut self.sampler
            && let Err(error) = sampler.add(rows)
        {
            // Who looks on must not stop a job.
            tracing::warn!(%error, "these rows cannot be shown");
            self.sampler = None;
        }
        match &mut self.to {
            SinkWriter::File(writer) => writer.write(rows).await,
            SinkWriter::Kafka(sink) => sink.write(rows).await,
            SinkWriter::Console(sink) => {
                sink.write(rows);
                Ok(())
            }
        }
    }

    /// Closes the staged files. A Kafka transaction stays open until the counts are known; the console prints when
    /// the batch is prepared.
    ///
    /// # Errors
    /// The sink's.
    pub async fn finish(self) -> Result<Staged> {
        let files = match self.to {
            SinkWriter::File(writer) => writer.finish().await?,
            SinkWriter::Kafka(_) | SinkWriter::Console(_) => Vec::new(),
        };
        Ok(Staged { files, sample: self.sampler.map(Sampler::finish) })
    }

    /// Gives up what was written of the batch, so that it can begin again.
    ///
    /// # Errors
    /// The sink's.
    pub async fn abandon(self) -> Result<()> {
        match self.to {
            SinkWriter::File(writer) => writer.abandon().await,
            SinkWriter::Kafka(sink) => sink.abort().await,
            // It prints when the batch is prepared, and forgets its rows when one begins.
            SinkWriter::Console(_) => Ok(()),
        }
    }
}

/// Prints the console's batch.
///
/// # Errors
/// That of the standard output.
pub fn print(sink: &mut ConsoleSink) -> Result<()> {
    let mut out = std::io::stdout().lock();
    sink.finish(&mut out)?;
    out.flush().map_err(|error| Error::internal("cannot write to the standard output").source_error(error))
}

/// The dead-letter directory of a query.
///
/// # Errors
/// As `dead_letter_path`; the store's.
pub async fn dead_letters(sink: &Table, sources: &[Source], checkpoint: &Checkpoint) -> Result<(Store, FileSink)> {
    let path = dead_letter_path(sink, sources, checkpoint.url())?;
    set_aside(plain_table(path, FileFormat::Parquet, Compression::Snappy), dead_letter::schema()).await
}

/// Where it is: beside the output, or where `deadLetterPath` says.
///
/// # Errors
/// `Invalid` if the sources name different ones.
fn dead_letter_path(sink: &Table, sources: &[Source], checkpoint_url: &str) -> Result<String> {
    let mut asked: Option<String> = None;
    for source in sources {
        match (&asked, &source.kafka()?.dead_letter_path) {
            (Some(first), Some(path)) if first != path => {
                return Err(Error::invalid(format!("the dead letters of one query go to '{first}' and to '{path}'"))
                    .at(source.table.place_of("deadLetterPath"))
                    .help("name one deadLetterPath, at the table that is written to or at one that is read"));
            }
            (_, path) => asked = asked.or_else(|| path.clone()),
        }
    }
    let beside_checkpoint = || format!("{checkpoint_url}_dead_letter");
    Ok(match &sink.connector {
        Connector::File(file) => file
            .dead_letter_path
            .clone()
            .or(asked)
            .unwrap_or_else(|| format!("{}_dead_letter", file.path.trim_end_matches('/'))),
        Connector::Kafka(kafka) => kafka.dead_letter_path.clone().or(asked).unwrap_or_else(beside_checkpoint),
        Connector::Console(_) => asked.unwrap_or_else(beside_checkpoint),
    })
}

/// What a query writes beside its rows does not go where rows are: dead letters, late rows, the checkpoint. Where other
/// files would be taken for rows they would be counted, read and swept as such.
///
/// # Errors
/// `Invalid`, at the table whose path is in the way.
pub fn check_apart(job: &Job, insert: &Insert, plan: &QueryPlan, checkpoint_url: &str) -> Result<()> {
    let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
    let clean = |path: &str| path.trim_end_matches('/').to_owned();
    let mut aside = vec![("dead letters", clean(&dead_letter_path(sink, &plan.sources, checkpoint_url)?))];
    if plan.windowed {
        aside.push(("late rows", clean(&late_path(sink, checkpoint_url))));
    }
    for table in job.inserts.iter().filter_map(|insert| job.table(&insert.target)) {
        let Connector::File(file) = &table.connector else { continue };
        let refuse = |what: &str, path: &str| {
            let message = format!("the path '{}' of '{}' is where the {what} of '{}' go", path, table.name, sink.name);
            Err(Error::invalid(message).at(table.place_of("path")))
        };
        if let Some((what, path)) = aside.iter().find(|(_, path)| *path == clean(&file.path)) {
            return refuse(what, path).map_err(|error| error.help("give each its own directory"));
        }
        // Hidden names are nobody's rows.
        let below = clean(checkpoint_url).strip_prefix(&clean(&file.path)).map(str::to_owned);
        let is_seen = |rest: &str| {
            rest.is_empty() || (rest.starts_with('/') && !rest.split('/').any(|name| name.starts_with(['_', '.'])))
        };
        if below.is_some_and(|rest| is_seen(&rest)) {
            return Err(Error::invalid(format!(
                "the checkpoint of '{}' is in the path '{}' of '{}'",
                sink.name, file.path, table.name
            ))
            .at(sink.place_of("checkpointLocation"))
            .help("put it beside the path, or below it under a name that begins with _"));
        }
    }
    Ok(())
}

/// The path of the directory of the rows that came too late: beside the output, for other sinks beside the checkpoint.
pub fn late_path(sink: &Table, checkpoint_url: &str) -> String {
    let beside = match &sink.connector {
        Connector::File(file) => file.path.trim_end_matches('/'),
        _ => checkpoint_url,
    };
    format!("{beside}_late")
}

/// The directory of the rows that came too late, in the output's format, for other sinks as Parquet.
///
/// # Errors
/// The store's, the sink's.
pub async fn late(sink: &Table, schema: SchemaRef, checkpoint: &Checkpoint) -> Result<(Store, FileSink)> {
    set_aside(late_table(sink, &schema, checkpoint.url()), schema).await
}

/// The directory of the late rows as a table of files.
pub fn late_table(sink: &Table, schema: &SchemaRef, checkpoint_url: &str) -> FileTable {
    let nested = schema.fields().iter().any(|field| field.data_type().is_nested());
    let (format, compression) = match &sink.connector {
        // CSV has no nested values; they are kept all the same.
        Connector::File(file) if !(nested && matches!(file.format, FileFormat::Csv(_))) => {
            (file.format.clone(), file.compression)
        }
        _ => (FileFormat::Parquet, Compression::Snappy),
    };
    plain_table(late_path(sink, checkpoint_url), format, compression)
}

/// A directory of files without partitions, and without a log.
fn plain_table(path: String, format: FileFormat, compression: Compression) -> FileTable {
    FileTable {
        path,
        format,
        compression,
        partition_by: Vec::new(),
        max_records_per_file: None,
        checkpoint_location: None,
        spark_metadata: false,
        dead_letter_path: None,
    }
}

async fn set_aside(table: FileTable, schema: SchemaRef) -> Result<(Store, FileSink)> {
    let store = Store::open(&table.path).await?;
    let sink = FileSink::new(store.clone(), &table, schema)?;
    Ok((store, sink))
}

/// What the checkpoint remembers of a query.
///
/// # Errors
/// As planning.
pub fn fingerprint(source: &str, output: &Output, plan: &QueryPlan, select: &str) -> Result<Fingerprint> {
    let column =
        |field: &std::sync::Arc<arrow::datatypes::Field>| (field.name().clone(), field.data_type().to_string());
    let state = if plan.windowed { plan.stages()?.signature() } else { Vec::new() };
    let forgets = plan.waits();
    Ok(Fingerprint {
        version: 1,
        source: source.to_owned(),
        sink: output.description(),
        columns: plan.schema().fields().iter().map(column).collect(),
        select: select.to_owned(),
        state,
        output_mode: plan.emit.mode.name().to_owned(),
        forgets,
        reset: false,
    })
}

/// The sink's checkpoint; `None` for a console, whose offsets need not outlive the process.
///
/// # Errors
/// `Invalid`, at the table, for a sink that needs one and has none.
pub fn checkpoint_location(job: &Job, insert: &Insert) -> Result<Option<String>> {
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
