//! Puts together what the checkpoint and Kafka say.

use super::{
    remembered,
    report::{EventTimeReport, PartitionReport, Situation, StateReport},
    stand::{self, Stand},
};
use crate::{
    catalog::{Connector, Insert, Job, KafkaTable, Table, Watermark},
    checkpoint::Checkpoint,
    clock,
    error::{Error, Result},
    event_time::{Holder, NO_WATERMARK_MS, WatermarkTracker},
    source::{KafkaSource, Offsets, offsets::data_loss},
    store::Store,
    stream::{output::checkpoint_location, plan::QueryPlan},
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
                Some(remembered::windows(state, &stages, stand.watermark_ms, checkpoint.store()).await?)
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
        let Connector::Kafka(table) = &self.plan.source.connector else {
            return Err(Error::internal("the source is no Kafka table"));
        };
        let source = KafkaSource::open(table).await?;
        let read = async |stand: Stand| {
            let report = self.report(&stand).await?;
            self.with_kafka(stand, report, table, &source).await
        };
        self.read(read).await
    }

    async fn with_kafka(
        &self,
        stand: Stand,
        state: StateReport,
        table: &KafkaTable,
        source: &KafkaSource,
    ) -> Result<Situation> {
        let (earliest, latest) = (source.earliest_offsets().await?, source.latest_offsets().await?);
        let position = match stand.position {
            Some(position) => position,
            None => source.starting_offsets().await?,
        };
        let now_ms = clock::now_ms();
        let (event_time, times) = match self.plan.event_time() {
            Some(policy) => {
                let tracker = match stand.state {
                    Some(state) => state.tracker,
                    None => WatermarkTracker::new(policy.clone()),
                };
                (Some(event_time(policy, tracker.clone(), now_ms, (&position, &latest))), Some(tracker))
            }
            None => (None, None),
        };
        let partitions = partitions(&position, &latest, event_time.as_ref(), times.as_ref(), now_ms);
        let lost = data_loss(&position, &earliest, &latest).into_iter().map(|loss| loss.sentence).collect();
        let untouched = state.last_batch.is_none() && stand.under_way.is_none();
        Ok(Situation {
            now_ms,
            source: source.description().to_owned(),
            waiting: position.count_to(&latest),
            before_start: if untouched { earliest.count_to(&position) } else { 0 },
            under_way: stand.under_way,
            min_offsets: table.min_offsets_per_trigger,
            lost,
            fail_on_data_loss: table.fail_on_data_loss,
            event_time,
            partitions,
            state,
        })
    }
}

fn event_time(
    policy: &Watermark,
    mut tracker: WatermarkTracker,
    now_ms: i64,
    (position, latest): (&Offsets, &Offsets),
) -> EventTimeReport {
    let is_behind = |topic: &str, partition: i32| position.get(topic, partition) < latest.get(topic, partition);
    let watermark_ms = tracker.advance(now_ms, &is_behind);
    EventTimeReport {
        column: policy.column.clone(),
        delay_us: policy.delay_us,
        idle_timeout_ms: i64::try_from(policy.idle_timeout.as_millis()).unwrap_or(i64::MAX),
        advances_when_idle: policy.advances_when_idle,
        watermark_ms: (watermark_ms != NO_WATERMARK_MS).then_some(watermark_ms),
        holder: tracker.holder(now_ms, &is_behind),
    }
}

fn partitions(
    position: &Offsets,
    latest: &Offsets,
    event_time: Option<&EventTimeReport>,
    tracker: Option<&WatermarkTracker>,
    now_ms: i64,
) -> Vec<PartitionReport> {
    let report = |(topic, partition, end): (&str, i32, i64)| {
        let start = position.get(topic, partition).unwrap_or(0);
        let behind = u64::try_from(end - start).unwrap_or(0);
        let known = tracker.and_then(|tracker| tracker.partitions().get(topic)?.get(&partition));
        let holder = Holder::Partition { topic: topic.to_owned(), partition };
        let idle = |event_time: &EventTimeReport| {
            let silent_ms = known.map(|time| now_ms.saturating_sub(time.active_ms));
            behind == 0 && silent_ms.is_none_or(|silent| silent >= event_time.idle_timeout_ms)
        };
        PartitionReport {
            topic: topic.to_owned(),
            partition,
            position: start,
            end,
            behind,
            newest_us: known.map(|time| time.newest_us),
            active_ms: known.map(|time| time.active_ms),
            idle: event_time.is_some_and(idle),
            holds_watermark: event_time.is_some_and(|event_time| event_time.holder == holder),
        }
    };
    latest.iter().map(report).collect()
}
