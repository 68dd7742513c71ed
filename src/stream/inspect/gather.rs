//! Puts together what the checkpoint and Kafka say.

use super::{
    remembered,
    report::{EventTimeReport, PartitionReport, Situation, StateReport},
    stand::{self, Stand},
};
use crate::{
    catalog::{Insert, Job, Table},
    checkpoint::Checkpoint,
    clock,
    error::{Error, Result},
    event_time::{Holder, NO_WATERMARK_MS, QueryWatermark, WatermarkTracker},
    source::{Offsets, offsets::data_loss},
    store::Store,
    stream::{
        inputs::Inputs,
        output::checkpoint_location,
        plan::{QueryPlan, Source},
    },
};

/// One query, planned, with its checkpoint.
struct Looked<'a> {
    name: String,
    plan: QueryPlan,
    sink: &'a Table,
    checkpoint: Option<Checkpoint>,
}

/// What each query of `job` remembers. Kafka is not asked.
///
/// # Errors
/// As planning; the store's; `Corrupt`; `Conflict` if the state is that of another query.
pub async fn state(job: &Job) -> Result<Vec<StateReport>> {
    let mut reports = Vec::new();
    for insert in &job.inserts {
        reports.push(state_of(job, insert).await?);
    }
    Ok(reports)
}

/// What one query remembers.
///
/// # Errors
/// As `state`.
pub async fn state_of(job: &Job, insert: &Insert) -> Result<StateReport> {
    let looked = look(job, insert).await?;
    let report = looked.read(async |stand| looked.report(&stand).await).await;
    report.map_err(|error| error.context(&looked.name))
}

/// What each query of `job` waits for.
///
/// # Errors
/// As `state`; Kafka's.
pub async fn situation(job: &Job) -> Result<Vec<Situation>> {
    if job.inserts.is_empty() {
        return Err(Error::invalid(format!("the job {} has no INSERT INTO: nothing is to come out", job.name))
            .help("add INSERT INTO <sink table> SELECT ... FROM <kafka table>"));
    }
    let mut situations = Vec::new();
    for insert in &job.inserts {
        let looked = look(job, insert).await?;
        let found = looked.situation().await;
        situations.push(found.map_err(|error| error.context(&looked.name))?);
    }
    Ok(situations)
}

async fn look<'a>(job: &'a Job, insert: &Insert) -> Result<Looked<'a>> {
    let plan = QueryPlan::new(job, insert).await?;
    let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
    let checkpoint = match checkpoint_location(job, insert)? {
        Some(location) => Some(Checkpoint::open_read_only(Store::open(&location).await?).await?),
        None => None,
    };
    Ok(Looked { name: format!("{}.{}", job.name, insert.target), plan, sink, checkpoint })
}

impl Looked<'_> {
    async fn read<T>(&self, read: impl AsyncFn(Stand) -> Result<T>) -> Result<T> {
        match &self.checkpoint {
            Some(checkpoint) => stand::read(checkpoint, &self.plan, self.sink, read).await,
            None => read(Stand::nowhere()).await,
        }
    }

    async fn report(&self, stand: &Stand) -> Result<StateReport> {
        let windows = match (&stand.state, &self.checkpoint) {
            (Some(state), Some(checkpoint)) => {
                let stages = self.plan.stages()?;
                Some(
                    remembered::windows((state, &stand.sessions), &stages, stand.watermark_ms, checkpoint.store())
                        .await?,
                )
            }
            _ => None,
        };
        Ok(StateReport {
            query: self.name.clone(),
            checkpoint: self.checkpoint.as_ref().map(|checkpoint| checkpoint.url().to_owned()),
            last_batch: stand.last_batch.clone(),
            windows,
        })
    }

    async fn situation(&self) -> Result<Situation> {
        let inputs = Inputs::open(&self.plan).await?;
        let read = async |stand: Stand| {
            let report = self.report(&stand).await?;
            self.with_kafka(stand, report, &inputs).await
        };
        self.read(read).await
    }

    async fn with_kafka(&self, stand: Stand, state: StateReport, inputs: &Inputs) -> Result<Situation> {
        let mut kafka = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let source = input.source()?;
            let (earliest, latest) = (source.earliest_offsets().await?, source.latest_offsets().await?);
            let position = match stand.positions.as_ref().and_then(|positions| positions.get(index)) {
                Some(position) => position.clone(),
                None => source.starting_offsets().await?,
            };
            kafka.push(InKafka { table: input.name().to_owned(), position, earliest, latest });
        }
        let now_ms = clock::now_ms();
        let (event_time, times) = match self.plan.waits() {
            true => {
                let tracker = match stand.state {
                    Some(state) => state.tracker,
                    None => self.plan.watermark(),
                };
                (Some(self.event_time(tracker.clone(), now_ms, &kafka)?), Some(tracker))
            }
            false => (None, None),
        };
        let known = |index: usize| times.as_ref().and_then(|times| times.sources().get(index));
        let each = || kafka.iter().enumerate();
        let partitions =
            each().flat_map(|(index, source)| partitions(source, event_time.as_ref(), known(index), now_ms)).collect();
        let lost = kafka.iter().flat_map(|it| data_loss(&it.position, &it.earliest, &it.latest));
        let untouched = state.last_batch.is_none() && stand.under_way.is_none();
        let mut tables = self.plan.sources.iter().map(Source::kafka).collect::<Result<Vec<_>>>()?.into_iter();
        Ok(Situation {
            now_ms,
            source: inputs.description(),
            waiting: kafka.iter().map(|it| it.position.count_to(&it.latest)).sum(),
            before_start: match untouched {
                true => kafka.iter().map(|it| it.earliest.count_to(&it.position)).sum(),
                false => 0,
            },
            under_way: stand.under_way,
            // The first minimum that is reached begins a batch.
            min_offsets: tables.clone().map(|table| table.min_offsets_per_trigger).min().flatten(),
            lost: lost.map(|loss| loss.sentence).collect(),
            fail_on_data_loss: tables.any(|table| table.fail_on_data_loss),
            event_time,
            partitions,
            state,
        })
    }

    fn event_time(&self, mut tracker: QueryWatermark, now_ms: i64, kafka: &[InKafka]) -> Result<EventTimeReport> {
        let is_behind = |source: usize, topic: &str, partition: i32| {
            kafka.get(source).is_some_and(|it| it.position.get(topic, partition) < it.latest.get(topic, partition))
        };
        let watermark_ms = tracker.advance(now_ms, &is_behind);
        let (source, holder) = tracker.holder(now_ms, &is_behind);
        let table = self.plan.sources.get(source).map(|source| &source.table);
        let policy = table.and_then(|table| table.watermark.as_ref());
        let policy = policy.ok_or_else(|| Error::internal("the source has no watermark"))?;
        Ok(EventTimeReport {
            table: table.map(|table| table.name.clone()).unwrap_or_default(),
            column: policy.column.clone(),
            delay_us: policy.delay_us,
            idle_timeout_ms: i64::try_from(policy.idle_timeout.as_millis()).unwrap_or(i64::MAX),
            advances_when_idle: policy.advances_when_idle,
            watermark_ms: (watermark_ms != NO_WATERMARK_MS).then_some(watermark_ms),
            holder,
        })
    }
}

/// A source as Kafka has it.
struct InKafka {
    table: String,
    /// Where the query stands.
    position: Offsets,
    earliest: Offsets,
    latest: Offsets,
}

fn partitions(
    source: &InKafka,
    event_time: Option<&EventTimeReport>,
    tracker: Option<&WatermarkTracker>,
    now_ms: i64,
) -> Vec<PartitionReport> {
    let report = |(topic, partition, end): (&str, i32, i64)| {
        let start = source.position.get(topic, partition).unwrap_or(0);
        let behind = u64::try_from(end - start).unwrap_or(0);
        let known = tracker.and_then(|tracker| tracker.partitions().get(topic)?.get(&partition));
        let holder = Holder::Partition { topic: topic.to_owned(), partition };
        let idle = |event_time: &EventTimeReport| {
            let silent_ms = known.map(|time| now_ms.saturating_sub(time.active_ms));
            behind == 0 && silent_ms.is_none_or(|silent| silent >= event_time.idle_timeout_ms)
        };
        PartitionReport {
            table: source.table.clone(),
            topic: topic.to_owned(),
            partition,
            position: start,
            end,
            behind,
            newest_us: known.map(|time| time.newest_us),
            active_ms: known.map(|time| time.active_ms),
            idle: event_time.is_some_and(idle),
            holds_watermark: event_time.is_some_and(|it| it.table == source.table && it.holder == holder),
        }
    };
    source.latest.iter().map(report).collect()
}
