//! A bounded range of a Kafka table: `startingOffsets` (earliest) to `endingOffsets` (latest), fixed when the query
//! is planned.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_plan::{
        ExecutionPlan,
        empty::EmptyExec,
        stream::RecordBatchReceiverStream,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use tokio::{runtime::Handle, sync::mpsc::Sender};

use crate::{
    catalog::{Column, EVENT_TIME, KafkaColumn, KafkaTable, StartingOffsets, Table},
    decode::RecordDecoder,
    error::Result,
    source::{KafkaSource, OffsetRange, Offsets},
};

/// Decoded batches that wait for the plan, per reader.
const BATCHES_WAITING_MAX: usize = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct KafkaRange {
    name: String,
    table: Arc<KafkaTable>,
    columns: Arc<[Column]>,
    schema: SchemaRef,
}

impl KafkaRange {
    /// Of `declared`, whose options are `table`. No declared columns means Kafka's own. Nothing is contacted.
    pub fn new(declared: &Table, table: &KafkaTable) -> Self {
        let event_time = declared.watermark.as_ref().map(|watermark| watermark.column.as_str());
        let mut table = table.clone();
        table.starting_offsets = declared.batch_starting_offsets().unwrap_or(StartingOffsets::Earliest);
        let own = |column: &KafkaColumn| Column {
            name: column.name().to_owned(),
            data_type: column.data_type(),
            nullable: true,
            metadata: Some(*column),
        };
        let is_wanted = |column: &&KafkaColumn| **column != KafkaColumn::Headers || table.include_headers;
        let columns: Arc<[Column]> = match &declared.columns[..] {
            [] => KafkaColumn::ALL.iter().filter(is_wanted).map(own).collect(),
            declared => declared.into(),
        };
        let schema = schema_of(columns.iter(), event_time);
        Self { name: declared.name.clone(), table: Arc::new(table), columns, schema }
    }

    /// The ranges to read: those that `fixed` knows, or as they are now.
    async fn ranges(&self, fixed: Option<&KafkaRanges>) -> Result<Vec<OffsetRange>> {
        if let Some(known) = fixed.and_then(|fixed| fixed.known(&self.name)) {
            return Ok(known);
        }
        let source = KafkaSource::open(&self.table).await?;
        let (start, end) = (source.starting_offsets().await?, source.ending_offsets().await?);
        let ranges = ranges_between(&start, &end);
        if let Some(fixed) = fixed {
            fixed.fix(&self.name, &ranges);
        }
        Ok(ranges)
    }
}

/// An extension of a session that reads its Kafka tables more than once: each time in the ranges of the first.
#[derive(Debug, Default)]
pub(super) struct KafkaRanges(Mutex<BTreeMap<String, Vec<OffsetRange>>>);

impl KafkaRanges {
    fn known(&self, table: &str) -> Option<Vec<OffsetRange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(table).cloned()
    }

    fn fix(&self, table: &str, ranges: &[OffsetRange]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(table.to_owned(), ranges.to_vec());
    }

    /// What was read, by table, topic and partition.
    pub fn all(&self) -> Vec<OffsetRange> {
        let mut all: Vec<OffsetRange> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect();
        all.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        all
    }
}

fn schema_of<'a>(columns: impl Iterator<Item = &'a Column>, event_time: Option<&str>) -> SchemaRef {
    let field = |column: &Column| {
        let mark = (event_time == Some(column.name.as_str())).then(|| (EVENT_TIME.to_owned(), "true".to_owned()));
        let field = Field::new(&column.name, column.data_type.clone(), column.nullable);
        field.with_metadata(mark.into_iter().collect())
    };
    Arc::new(Schema::new(columns.map(field).collect::<Vec<_>>()))
}

fn ranges_between(start: &Offsets, end: &Offsets) -> Vec<OffsetRange> {
    let ends = end.0.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |(p, end)| (topic, *p, *end)));
    ends.filter_map(|(topic, partition, end)| {
        let start = start.0.get(topic).and_then(|partitions| partitions.get(&partition)).copied()?;
        (start < end).then(|| OffsetRange { topic: topic.clone(), partition, start, end })
    })
    .collect()
}

/// Largest first, each to the reader that has the least.
fn shares(mut ranges: Vec<OffsetRange>, readers: usize) -> Vec<Vec<OffsetRange>> {
    let records = |range: &OffsetRange| range.end - range.start;
    ranges.sort_by_key(|range| std::cmp::Reverse(records(range)));
    let mut shares: Vec<Vec<OffsetRange>> = vec![Vec::new(); readers.clamp(1, ranges.len().max(1))];
    for range in ranges {
        if let Some(least) = shares.iter_mut().min_by_key(|share| share.iter().map(records).sum::<i64>()) {
            least.push(range);
        }
    }
    shares.retain(|share| !share.is_empty());
    shares
}

#[async_trait]
impl TableProvider for KafkaRange {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let wanted = projection.cloned().unwrap_or_else(|| (0..self.columns.len()).collect());
        let schema = Arc::new(self.schema.project(&wanted)?);
        let fixed = state.config().get_extension::<KafkaRanges>();
        let in_order = fixed.is_some();
        let ranges = self.ranges(fixed.as_deref()).await?;
        let shares = shares(ranges, if in_order { 1 } else { state.config().target_partitions() });
        if shares.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let partition = |ranges| -> Arc<dyn PartitionStream> {
            Arc::new(KafkaShare {
                table: Arc::clone(&self.table),
                columns: Arc::clone(&self.columns),
                wanted: wanted.clone(),
                schema: Arc::clone(&schema),
                ranges,
                in_order,
            })
        };
        let partitions = shares.into_iter().map(partition).collect();
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&schema), partitions, None, [], false, limit)?))
    }
}

/// What one reader reads.
#[derive(Debug)]
struct KafkaShare {
    table: Arc<KafkaTable>,
    columns: Arc<[Column]>,
    /// Indices into `columns`, in the order of `schema`.
    wanted: Vec<usize>,
    schema: SchemaRef,
    ranges: Vec<OffsetRange>,
    /// One range after the other, instead of as records come.
    in_order: bool,
}

impl PartitionStream for KafkaShare {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), BATCHES_WAITING_MAX);
        let (table, columns) = (Arc::clone(&self.table), Arc::clone(&self.columns));
        let (wanted, mut ranges, out) = (self.wanted.clone(), self.ranges.clone(), builder.tx());
        let at_once = if self.in_order { 1 } else { ranges.len().max(1) };
        ranges.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        builder.spawn_blocking(move || {
            let columns = (&columns[..], &wanted[..]);
            Ok(read(&table, columns, &mut ranges.chunks(at_once), &out)?)
        });
        builder.build()
    }
}

type Out = Sender<datafusion::error::Result<arrow::array::RecordBatch>>;

/// Reads `ranges` on this thread, those of one slice at the same time, until they end or nobody wants more.
fn read<'a>(
    table: &KafkaTable,
    (columns, wanted): (&[Column], &[usize]),
    ranges: &mut dyn Iterator<Item = &'a [OffsetRange]>,
    out: &Out,
) -> Result<()> {
    // The decoder wants ascending columns.
    let mut ascending = wanted.to_vec();
    ascending.sort_unstable();
    ascending.dedup();
    let order: Vec<usize> = wanted.iter().filter_map(|column| ascending.iter().position(|it| it == column)).collect();
    let mut decoder = RecordDecoder::new(columns, &ascending, &table.decode)?;
    let mut source = Handle::current().block_on(KafkaSource::open(table))?;
    let mut bad = 0;
    let mut flush = |decoder: &mut RecordDecoder| -> Result<bool> {
        let decoded = decoder.flush()?;
        bad += decoded.bad;
        Ok(decoded.rows.num_rows() == 0 || out.blocking_send(Ok(decoded.rows.project(&order)?)).is_ok())
    };
    let mut wants_more = true;
    while wants_more && let Some(ranges) = ranges.next() {
        source.read(ranges, &mut |records| {
            let mut rest = records;
            while !rest.is_empty() {
                rest = &rest[decoder.push_until_full(rest)?..];
                wants_more = !decoder.is_full() || flush(&mut decoder)?;
                if !wants_more {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
    }
    flush(&mut decoder)?;
    if bad > 0 {
        tracing::warn!(records = bad, "records that cannot be decoded are not among the rows");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn offsets(partitions: &[(i32, i64)]) -> Offsets {
        Offsets(BTreeMap::from([("t".to_owned(), partitions.iter().copied().collect())]))
    }

    #[test]
    fn ranges_are_what_lies_between() {
        let ranges = ranges_between(&offsets(&[(0, 5), (1, 7)]), &offsets(&[(0, 9), (1, 7), (2, 3)]));
        assert_eq!(ranges, [OffsetRange { topic: "t".to_owned(), partition: 0, start: 5, end: 9 }]);
    }

    #[test]
    fn readers_get_about_the_same() {
        let all =
            ranges_between(&offsets(&[(0, 0), (1, 0), (2, 0), (3, 0)]), &offsets(&[(0, 10), (1, 6), (2, 5), (3, 1)]));
        let shares = shares(all, 2);
        let records = |share: &Vec<OffsetRange>| share.iter().map(|range| range.end).sum::<i64>();
        assert_eq!(shares.iter().map(records).collect::<Vec<_>>(), [11, 11]);
        assert!(super::shares(Vec::new(), 2).is_empty());
    }
}
