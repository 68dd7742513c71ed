//! Runs `tests/windows/*.slt`: the specification of windows over a stream, in the format of sqllogictest.
//!
//! A file is one stream. `JOB` and a job file's text start it; `BATCH (...), (...)` gives it one batch of records (of
//! several tables `BATCH one: (...), (...); other: (...)`) and
//! shows the rows of the windows that close with it; `IDLE 40s` lets time pass without any; `RESTART` brings everything
//! back from the checkpoint; a batch without a row shows nothing; `LATE` shows what the last batch set aside, `STATE` how many input rows are held.

use arrow::{
    array::RecordBatch,
    compute::cast,
    datatypes::SchemaRef,
    util::display::{ArrayFormatter, FormatOptions},
};
use async_trait::async_trait;
use futures::StreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio::sync::mpsc::channel;

use super::run::{QueryState, Watermarks};
use crate::{
    catalog::{Job, Variables, parse_duration},
    checkpoint::{Ledger, Read},
    error::{Error, Result},
    event_time::{NO_WATERMARK_MS, PartitionTime, PartitionTimes},
    session::{SessionLimits, session},
    state::{StateRef, micros},
    store::Store,
    stream::{plan::QueryPlan, scan::Run},
};

/// The wall clock at the start: 2024-01-01T00:00:00Z. It goes on by a second with each batch.
const START_MS: i64 = 1_704_067_200_000;

type Rows = Vec<Vec<String>>;

/// The stream of one file.
struct Corpus {
    directory: tempfile::TempDir,
    running: Option<Running>,
}

struct Running {
    plan: QueryPlan,
    state: QueryState,
    store: Store,
    saved: Option<StateRef>,
    from_ms: i64,
    now_ms: i64,
    batch: u64,
    late: Rows,
    ledger: Ledger,
}

impl Running {
    async fn new(text: &str, store: Store) -> Result<Self> {
        let job = Job::parse("job.sql", text, &Variables::default())?;
        let plan = QueryPlan::new(&job, &job.inserts[0]).await?;
        let state = Self::empty(&plan, &store).await?;
        Ok(Self {
            plan,
            state,
            store,
            saved: None,
            from_ms: NO_WATERMARK_MS,
            now_ms: START_MS,
            batch: 0,
            late: Vec::new(),
            ledger: Ledger::default(),
        })
    }

    async fn empty(plan: &QueryPlan, store: &Store) -> Result<QueryState> {
        let nothing = Watermarks { from_ms: NO_WATERMARK_MS, to_ms: NO_WATERMARK_MS };
        let planned = plan.windowed(0, (nothing, i64::MAX), None).await?.planned;
        Ok(QueryState::new(&planned, plan.watermark(), store.clone()))
    }

    async fn restart(&mut self) -> Result<()> {
        self.state = Self::empty(&self.plan, &self.store).await?;
        if let Some(place) = self.saved.clone() {
            self.state.restore(place, self.from_ms).await?;
        }
        Ok(())
    }

    /// As the engine: the records, and then a batch without any if that closes windows.
    async fn step(&mut self, records: Option<Vec<RecordBatch>>) -> Result<Rows> {
        self.late.clear();
        let mut shown = Vec::new();
        if let Some(records) = records {
            let (emits, to_ms) = self.next();
            shown = self.run(&records, emits, to_ms).await?;
        }
        let (emits, to_ms) = self.next();
        if self.state.would_give_rows(self.plan.emit, emits, Watermarks { from_ms: self.from_ms, to_ms })? {
            let sources = self.plan.sources.iter();
            let none: Vec<_> = sources.map(|source| RecordBatch::new_empty(source.table.schema())).collect();
            shown.extend(self.run(&none, emits, to_ms).await?);
        }
        Ok(shown)
    }

    /// Does the next batch write rows, and which windows close with it?
    fn next(&mut self) -> (bool, i64) {
        let emits = self.state.is_due(self.plan.emit, self.now_ms);
        let to_ms = if emits { self.state.tracker.advance(self.now_ms, &|_, _, _| false) } else { self.from_ms };
        (emits, to_ms)
    }

    async fn run(&mut self, records: &[RecordBatch], emits: bool, to_ms: i64) -> Result<Rows> {
        let watermarks = Watermarks { from_ms: self.from_ms, to_ms };
        let future_us = self.state.tracker.future_us(self.now_ms);
        let (late_in, mut late_out) = channel(100);
        let mut windowed = self.plan.windowed(self.now_ms, (watermarks, future_us), Some(late_in)).await?;
        windowed.planned.emits = emits;
        for (scans, records) in windowed.reads.iter().zip(records) {
            scans.put(Run::default(), &records.project(&scans.projection)?)?;
        }
        let (owner, mut shown, mut written) = (format!("q-{}-run", self.batch), Vec::new(), 0);
        let absorbed = self.state.absorb(&windowed.planned, watermarks, &owner).await?;
        let mut stream = windowed.planned.rest()?;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            written += batch.num_rows() as u64;
            shown.extend(show(&batch)?);
        }
        let counts = self.state.settle(&windowed.planned, absorbed).await?.counts;
        windowed.planned.late.close();
        while let Some(late) = late_out.recv().await {
            self.late.extend(show(&late)?);
        }
        self.observe(records, future_us)?;
        if emits && self.plan.emit.period.is_some() {
            self.state.emitted_ms = Some(self.now_ms);
        }
        self.saved = Some(self.state.save(self.batch, &owner).await?);
        self.state.committed().await?;
        let consumed = records.iter().map(|records| records.num_rows() as u64).sum();
        self.ledger += Ledger::of_stateful(Read { consumed, ..Read::default() }, counts, written);
        assert!(self.ledger.balances(), "{:?}", self.ledger);
        (self.from_ms, self.batch) = (to_ms, self.batch + 1);
        Ok(shown)
    }

    /// What the reading threads do: one partition of each table here.
    fn observe(&mut self, records: &[RecordBatch], future_us: i64) -> Result<()> {
        for (source, records) in records.iter().enumerate() {
            let watermark = self.plan.sources[source].table.watermark.clone().filter(|_| self.plan.waits());
            let Some(column) = watermark.map(|watermark| watermark.column) else { continue };
            let times = records.column_by_name(&column).ok_or_else(|| Error::internal("no event time"))?;
            let newest_us = micros(times)?.iter().flatten().filter(|time| *time <= future_us).max();
            if let Some(newest_us) = newest_us {
                let time = PartitionTime { newest_us, active_ms: self.now_ms };
                self.state.tracker.observe(source, &PartitionTimes::from([("t".to_owned(), [(0, time)].into())]));
            }
        }
        Ok(())
    }

    /// The records of a batch: of the one table, or of each that is named.
    async fn records(&self, text: &str) -> Result<Vec<RecordBatch>> {
        let mut records = Vec::new();
        for source in &self.plan.sources {
            let schema = source.table.schema();
            let name = format!("{}:", source.table.name);
            let part = match text.split(';').find_map(|part| part.trim().strip_prefix(&name)) {
                None if self.plan.sources.len() == 1 => Some(text),
                part => part,
            };
            records.push(match part {
                Some(part) => values(part, schema).await?,
                None => RecordBatch::new_empty(schema),
            });
        }
        Ok(records)
    }
}

fn show(batch: &RecordBatch) -> Result<Rows> {
    let options = FormatOptions::default().with_null("NULL");
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    let cell = |text: String| if text.is_empty() { "(empty)".to_owned() } else { text.replace(' ', "_") };
    let row = |row| columns.iter().map(|column| cell(column.value(row).to_string())).collect();
    Ok((0..batch.num_rows()).map(row).collect())
}

/// `(...), (...)` as records of the source.
async fn values(text: &str, schema: SchemaRef) -> Result<RecordBatch> {
    let context = session(SessionLimits { memory_bytes: 16 << 20, partitions: 1 })?;
    let batches = context.sql(&format!("SELECT * FROM (VALUES {text})")).await?.collect().await?;
    let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches)?;
    let cells = rows.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    Ok(RecordBatch::try_new(schema.clone(), cells.collect::<std::result::Result<_, _>>()?)?)
}

#[async_trait]
impl AsyncDB for Corpus {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        let (word, rest) = sql.split_once(char::is_whitespace).unwrap_or((sql, ""));
        if word == "JOB" {
            self.directory = tempfile::tempdir().map_err(|error| Error::internal("a directory").source_error(error))?;
            let store = Store::open(&self.directory.path().display().to_string()).await?;
            self.running = Some(Running::new(rest, store).await?);
            return Ok(DBOutput::StatementComplete(0));
        }
        let running = self.running.as_mut().ok_or_else(|| Error::invalid("a file starts with JOB"))?;
        let rows = match word {
            "BATCH" => {
                running.now_ms += 1_000;
                let records = running.records(rest).await?;
                running.step(Some(records)).await?
            }
            "IDLE" => {
                let time = parse_duration(rest).ok_or_else(|| Error::invalid(format!("IDLE {rest}")))?;
                running.now_ms += i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
                running.step(None).await?
            }
            "RESTART" => {
                running.restart().await?;
                return Ok(DBOutput::StatementComplete(0));
            }
            "LATE" => running.late.clone(),
            "STATE" => vec![vec![running.ledger.in_state().to_string()]],
            other => return Err(Error::invalid(format!("there is no {other}"))),
        };
        let columns = rows.first().map_or(0, Vec::len);
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }

    async fn shutdown(&mut self) {}
}

#[test]
fn the_corpus_holds() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/windows");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for file in files {
        let corpus = || async { Ok(Corpus { directory: tempfile::tempdir().unwrap(), running: None }) };
        let result = runtime.block_on(Runner::new(corpus).run_file_async(&file));
        if let Err(error) = result {
            panic!("{}", error.display(false));
        }
    }
}
