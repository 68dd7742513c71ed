//! The INSERT's own SELECT as a batch query over exactly what the stream has read, for some windows only.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::{
        ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    error::DataFusionError,
    execution::SendableRecordBatchStream,
    logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, lit},
};

use crate::{
    catalog::{Connector, Insert, Job, KafkaTable, OffsetSpec, StartingOffsets, Table, locate_error},
    error::{Error, Result},
    query::QuerySession,
    session::{SessionLimits, plan_sql},
    source::{KafkaSource, Offsets},
    state::micros,
    stream::{Standing, normalise},
    window::{WINDOW_END, WINDOW_START, Window, WindowAssign, window_column},
};

/// Where a row has its window.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub start: usize,
    pub end: usize,
}

impl Bounds {
    /// Finds the columns, whatever they are called.
    ///
    /// # Errors
    /// `Unsupported` where the SELECT leaves one out.
    pub fn of(schema: &Schema) -> Result<Self> {
        let find = |which: &str| {
            window_column(schema.fields(), which).ok_or_else(|| {
                Error::unsupported(format!(
                    "the SELECT does not give {which}, so nobody knows which window a row is of"
                ))
                .help(format!(
                    "add {which} to the SELECT, or run the SELECT with `tidemill query --job`: it gives all windows"
                ))
            })
        };
        Ok(Self { start: find(WINDOW_START)?, end: find(WINDOW_END)? })
    }

    /// The window of each row; `None` without one.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn windows(self, batch: &RecordBatch) -> Result<Vec<Option<Window>>> {
        let (starts, ends) = (micros(batch.column(self.start))?, micros(batch.column(self.end))?);
        let window = |(start, end): (Option<i64>, Option<i64>)| Some(Window { start_us: start?, end_us: end? });
        Ok(starts.iter().zip(&ends).map(window).collect())
    }

    /// The rows of `wanted` windows, with the window of each.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn only<T>(self, batch: &RecordBatch, wanted: &BTreeMap<Window, T>) -> Result<(RecordBatch, Vec<Window>)> {
        let windows = self.windows(batch)?;
        let kept = |window: &Option<Window>| window.is_some_and(|window| wanted.contains_key(&window));
        let mask: BooleanArray = windows.iter().map(|window| Some(kept(window))).collect();
        let rows = filter_record_batch(batch, &mask)?;
        Ok((rows, windows.into_iter().flatten().filter(|window| wanted.contains_key(window)).collect()))
    }
}

/// What Kafka still has of what was read.
#[derive(Debug)]
pub struct Remaining {
    /// Where reading starts.
    pub from: Offsets,
    /// Where it ends, and for partitions that the stream has not read, where they start.
    pub to: Offsets,
    /// One sentence for each partition of which a part is gone.
    pub lost: Vec<String>,
    /// What is gone had event times before this, microseconds since the epoch; `None` if that is not known.
    pub lost_before_us: Option<i64>,
}

impl Remaining {
    /// Asks Kafka.
    ///
    /// # Errors
    /// Kafka's; `DataLoss` for a topic that was created again.
    pub async fn ask(table: &KafkaTable, standing: &Standing, future_skew_us: i64) -> Result<Self> {
        let source = KafkaSource::open(table).await?;
        Self::of(&source.earliest_offsets().await?, &source.latest_offsets().await?, standing, future_skew_us)
    }

    /// By the offsets that there are.
    fn of(earliest: &Offsets, latest: &Offsets, standing: &Standing, future_skew_us: i64) -> Result<Self> {
        let again = standing
            .to
            .iter()
            .find(|(topic, partition, end)| latest.get(topic, *partition).is_none_or(|latest| latest < *end));
        if let Some((topic, partition, end)) = again {
            return Err(lost_error(format!(
                "partition {topic}-{partition} was read up to offset {end}, and now ends before it: the topic was \
                 deleted and created again"
            )));
        }
        if standing.rewound > 0 {
            return Err(lost_error(
                "the topic was created again while the job ran: a part of what was read is gone".to_owned(),
            ));
        }
        let mut remaining =
            Self { from: Offsets::default(), to: Offsets::default(), lost: Vec::new(), lost_before_us: None };
        let mut gone = Offsets::default();
        for (topic, partition, first) in earliest.iter() {
            let end = standing.to.get(topic, partition);
            let start = end.map(|_| standing.from.get(topic, partition).unwrap_or(0)).unwrap_or(first);
            remaining.from.set(topic, partition, start.max(first));
            remaining.to.set(topic, partition, end.unwrap_or(first).max(first));
            if first > start && end.is_some_and(|end| end > start) {
                remaining.lost.push(format!("{topic}-{partition} offsets {start} to {first} are deleted"));
                gone.set(topic, partition, first);
            }
        }
        // All that is gone was read before the first batch that started behind it.
        let is_behind =
            |start: &Offsets| gone.iter().all(|(t, p, first)| start.get(t, p).is_some_and(|at| at >= first));
        let after = standing.starts.iter().find(|(start, _)| is_behind(start));
        // Rows further ahead of the clock are in no window.
        remaining.lost_before_us = after.map(|(_, ms)| ms.saturating_mul(1_000).saturating_add(future_skew_us));
        Ok(remaining)
    }

    /// Are all rows of the window there?
    pub fn has(&self, window: Window) -> bool {
        self.lost.is_empty() || self.lost_before_us.is_some_and(|before| window.start_us > before)
    }
}

/// Kafka has not what is needed.
pub fn lost_error(what: String) -> Error {
    Error::new(crate::error::ErrorKind::DataLoss, what)
        .help("these windows cannot be computed again; the late rows themselves are kept in the late directory")
}

/// The rows of all windows that are not left out below.
///
/// # Errors
/// As planning; Kafka's.
pub async fn run(
    job: &Job,
    insert: &Insert,
    source: &Table,
    remaining: &Remaining,
    limits: SessionLimits,
    times: Option<(i64, i64)>,
) -> Result<(LogicalPlan, SendableRecordBatchStream)> {
    let mut job = job.clone();
    for table in job.tables.iter_mut().filter(|table| table.name == source.name) {
        let place = table.place.clone();
        if let Connector::Kafka(kafka) = &mut table.connector {
            kafka.starting_offsets = at(&remaining.from);
            kafka.ending_offsets = at(&remaining.to);
        }
        // As if the job file said so.
        table.places.insert("startingOffsets".to_owned(), place);
    }
    let session = QuerySession::new(vec![job], limits)?;
    let state = session.context().state();
    let select = &insert.select;
    let plan = plan_sql(&state, select.sql()).await.map_err(|error| locate_error(error, select))?;
    let plan = normalise(plan)?;
    let narrowed = match times {
        Some(times) => within(plan.clone(), times)?,
        None => plan.clone(),
    };
    let frame = session.context().execute_logical_plan(narrowed).await?;
    Ok((plan, frame.execute_stream().await?))
}

fn at(offsets: &Offsets) -> StartingOffsets {
    let partitions =
        |partitions: &BTreeMap<i32, i64>| partitions.iter().map(|(p, at)| (*p, OffsetSpec::At(*at))).collect();
    StartingOffsets::Specific(offsets.0.iter().map(|(topic, all)| (topic.clone(), partitions(all))).collect())
}

/// Only rows of these times are given windows: the others would be in windows that nobody wants.
fn within(plan: LogicalPlan, (from_us, to_us): (i64, i64)) -> Result<LogicalPlan> {
    let narrowed = plan.transform_down(|node| {
        let LogicalPlan::Extension(extension) = &node else { return Ok(Transformed::no(node)) };
        let Some(assign) = extension.node.as_any().downcast_ref::<WindowAssign>().cloned() else {
            return Ok(Transformed::no(node));
        };
        let index = assign.input.schema().index_of_column(&assign.time)?;
        let wanted = assign.input.schema().field(index).data_type().clone();
        let DataType::Timestamp(_, zone) = &wanted else { return Ok(Transformed::no(node)) };
        let bound = |us: i64| {
            let us = ScalarValue::TimestampMicrosecond(Some(us), zone.clone());
            Ok::<_, DataFusionError>(lit(us.cast_to(&wanted)?))
        };
        let time = Expr::Column(assign.time.clone());
        let holds = time.clone().gt_eq(bound(from_us)?).and(time.lt(bound(to_us)?));
        let input = LogicalPlanBuilder::from(assign.input.as_ref().clone()).filter(holds)?.build()?;
        let assign = WindowAssign::try_new(Arc::new(input), assign.time, assign.spec)?;
        Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(assign) })))
    })?;
    Ok(narrowed.data)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::error::ErrorKind;

    /// Of the partitions 0 and on of one topic.
    fn offsets(ends: &[i64]) -> Offsets {
        let mut offsets = Offsets::default();
        ends.iter().zip(0..).for_each(|(end, partition)| offsets.set("t", partition, *end));
        offsets
    }

    /// Two partitions are read from 10 to 40, by batches of ten records of each that were made a second apart.
    fn standing() -> Standing {
        let starts = (1..4).map(|batch| (offsets(&[10 * batch, 10 * batch]), batch * 1_000)).collect();
        Standing {
            batch: 2,
            from: offsets(&[10, 10]),
            to: offsets(&[40, 40]),
            watermark_ms: 0,
            uncommitted: BTreeSet::new(),
            starts,
            rewound: 0,
        }
    }

    fn of(earliest: &[i64], latest: &[i64]) -> Result<Remaining> {
        Remaining::of(&offsets(earliest), &offsets(latest), &standing(), 500_000)
    }

    #[test]
    fn what_is_there_is_read_from_where_the_job_began_to_where_it_stands() {
        // Deleted up to what was read first is nothing lost. The third partition is new, and not read yet.
        let remaining = of(&[0, 10, 3], &[50, 40, 9]).unwrap();
        assert!(remaining.lost.is_empty() && remaining.has(Window { start_us: i64::MIN, end_us: 0 }), "{remaining:?}");
        assert_eq!((remaining.from, remaining.to), (offsets(&[10, 10, 3]), offsets(&[40, 40, 3])));
    }

    #[test]
    fn windows_are_whole_that_start_after_all_that_is_gone_was_read() {
        let at = |start_us| Window { start_us, end_us: start_us + 1 };
        let remaining = of(&[10, 20], &[40, 40]).unwrap();
        assert_eq!(remaining.lost, ["t-1 offsets 10 to 20 are deleted"]);
        assert_eq!((&remaining.from, &remaining.to), (&offsets(&[10, 20]), &offsets(&[40, 40])));
        // The batch that started at 20 was made at two seconds, and half a second ahead of the clock was believed.
        assert!(!remaining.has(at(2_500_000)) && remaining.has(at(2_500_001)), "{remaining:?}");
        // One record more is gone: only the next batch started behind it.
        let remaining = of(&[10, 21], &[40, 40]).unwrap();
        assert!(!remaining.has(at(3_500_000)) && remaining.has(at(3_500_001)), "{remaining:?}");
        // No batch did: nobody knows.
        let remaining = of(&[31, 10], &[40, 40]).unwrap();
        assert!(!remaining.has(at(i64::MAX - 1)), "{remaining:?}");
        // All of a partition is gone, and more than was read.
        let remaining = of(&[45, 10], &[50, 40]).unwrap();
        assert_eq!((remaining.from, remaining.to), (offsets(&[45, 10]), offsets(&[45, 40])));
    }

    #[test]
    fn another_topic_of_the_name_is_not_read() {
        for error in [of(&[0, 0], &[39, 40]), of(&[0], &[40])].map(Result::unwrap_err) {
            assert!(error.kind() == ErrorKind::DataLoss && error.to_string().contains("created again"), "{error}");
        }
        let rewound = Standing { rewound: 1, ..standing() };
        let error = Remaining::of(&offsets(&[0, 0]), &offsets(&[50, 50]), &rewound, 0).unwrap_err();
        assert!(
            error.kind() == ErrorKind::DataLoss && error.to_string().contains("a part of what was read"),
            "{error}"
        );
    }
}
