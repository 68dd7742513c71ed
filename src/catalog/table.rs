//! The tables of a job, with their options parsed and checked.

use std::{collections::BTreeMap, fmt, time::Duration};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::output_mode::OutputMode;
use crate::error::{Error, Place, Result};

/// `CREATE TABLE name (columns) WITH (options)`.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    /// In declared order; empty for a sink, and for a file table whose files say their schema.
    pub columns: Vec<Column>,
    /// The event time column, and how far behind it the watermark is.
    pub watermark: Option<Watermark>,
    pub connector: Connector,
    /// `outputMode`; the INSERT's EMIT may say more: see `Job::emit`.
    pub output_mode: OutputMode,
    /// So long after the watermark a window still takes rows, and is written again, in output mode update.
    pub allowed_lateness: Duration,
    /// Where the table's name stands in the job file.
    pub place: Place,
    /// Where each option's name stands, by its documented name: for what is found out later.
    pub places: BTreeMap<String, Place>,
}

impl Table {
    /// The declared columns as an Arrow schema. Strings are `Utf8`, timestamps `Timestamp(Microsecond, _)`.
    pub fn schema(&self) -> SchemaRef {
        let is_event_time = |column: &Column| self.watermark.as_ref().is_some_and(|w| w.column == column.name);
        let field = |column: &Column| {
            let field = Field::new(&column.name, column.data_type.clone(), column.nullable);
            if !is_event_time(column) {
                return field;
            }
            field.with_metadata([(EVENT_TIME.to_owned(), "true".to_owned())].into())
        };
        std::sync::Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// Where the option stands; the table's name if it was not given.
    pub fn place_of(&self, option: &str) -> Place {
        self.places.get(option).unwrap_or(&self.place).clone()
    }

    /// Checks that the table can be the source of a stream, which has no end.
    ///
    /// # Errors
    /// `Invalid` at the option that says where to end.
    pub fn check_stream(&self) -> Result<()> {
        let ending = ["endingOffsets", "endingTimestamp", "endingOffsetsByTimestamp"];
        match ending.into_iter().find(|option| self.places.contains_key(*option)) {
            Some(option) => Err(Error::invalid(format!("the option '{option}' is only for batch queries"))
                .at(self.place_of(option))
                .help("leave it out, or read the table with `tidemill query`")),
            None => Ok(()),
        }
    }

    /// Where a batch query starts to read a Kafka table: what the options say, else the earliest record (a stream
    /// starts at the latest). `None` for another connector.
    pub fn batch_starting_offsets(&self) -> Option<StartingOffsets> {
        let Connector::Kafka(kafka) = &self.connector else { return None };
        let given = ["startingOffsets", "startingTimestamp", "startingOffsetsByTimestamp"];
        let given = given.into_iter().any(|option| self.places.contains_key(option));
        Some(if given { kafka.starting_offsets.clone() } else { StartingOffsets::Earliest })
    }

    /// The `checkpointLocation` of the query that writes this table.
    pub fn checkpoint_location(&self) -> Option<&str> {
        match &self.connector {
            Connector::Kafka(table) => table.checkpoint_location.as_deref(),
            Connector::File(table) => table.checkpoint_location.as_deref(),
            Connector::Console(table) => table.checkpoint_location.as_deref(),
        }
    }
}

/// The key of a field's metadata that marks it as an event time.
pub const EVENT_TIME: &str = "tidemill:event_time";

/// `WATERMARK FOR column AS column - INTERVAL '...'`
#[derive(Debug, Clone)]
pub struct Watermark {
    pub column: String,
    /// How much later than the newest event a row may come, in microseconds.
    pub delay_us: i64,
    /// `idleTimeout`: a partition that gave nothing for so long does not hold the watermark.
    pub idle_timeout: Duration,
    /// `idleWatermark = 'advance'`: when all partitions are idle, the watermark goes on with the wall clock.
    pub advances_when_idle: bool,
    /// `maxFutureSkew`: rows further ahead of the wall clock are set aside.
    pub max_future_skew: Duration,
    pub place: Place,
}

/// One declared column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
    /// `METADATA [FROM '...']`: filled from the Kafka record itself, not from its payload.
    pub metadata: Option<KafkaColumn>,
}

/// What Kafka knows of a record, under Spark's column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaColumn {
    Key,
    Value,
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampType,
    Headers,
}

impl KafkaColumn {
    /// In Spark's order.
    pub const ALL: [Self; 8] = [
        Self::Key,
        Self::Value,
        Self::Topic,
        Self::Partition,
        Self::Offset,
        Self::Timestamp,
        Self::TimestampType,
        Self::Headers,
    ];

    /// Spark's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Value => "value",
            Self::Topic => "topic",
            Self::Partition => "partition",
            Self::Offset => "offset",
            Self::Timestamp => "timestamp",
            Self::TimestampType => "timestampType",
            Self::Headers => "headers",
        }
    }

    /// The Arrow type; the timestamp is UTC, in milliseconds, as Kafka stores it.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Key | Self::Value => DataType::Binary,
            Self::Topic => DataType::Utf8,
            Self::Partition | Self::TimestampType => DataType::Int32,
            Self::Offset => DataType::Int64,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::Headers => DataType::new_list(
                DataType::Struct(
                    vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)].into(),
                ),
                true,
            ),
        }
    }
}

/// The `connector` option.
#[derive(Debug, Clone)]
pub enum Connector {
    Kafka(Box<KafkaTable>),
    File(Box<FileTable>),
    Console(ConsoleTable),
}

/// A Kafka topic, to read from or to write to.
#[derive(Debug, Clone)]
pub struct KafkaTable {
    pub client: KafkaClientOptions,
    /// `subscribe`, `subscribePattern` or `assign`; absent for a table that is only written to.
    pub subscription: Option<Subscription>,
    /// `topic`: where rows are written.
    pub topic: Option<String>,
    pub starting_offsets: StartingOffsets,
    /// Batch queries only; `Latest` by default.
    pub ending_offsets: StartingOffsets,
    pub fail_on_data_loss: bool,
    pub max_offsets_per_trigger: Option<u64>,
    pub min_offsets_per_trigger: Option<u64>,
    pub max_trigger_delay: Duration,
    pub include_headers: bool,
    pub decode: DecodeOptions,
    /// `key.fields`, of a table that is written to: a JSON object of these columns is the record's key.
    pub key_fields: Vec<String>,
    pub checkpoint_location: Option<String>,
    pub dead_letter_path: Option<String>,
}

/// `kafka.*` options with the prefix taken off, as librdkafka takes them. Secrets are not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaClientOptions(pub BTreeMap<String, String>);

impl fmt::Debug for KafkaClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |key: &str| ["password", "secret", "jaas", "token", "pem", ".key"].iter().any(|s| key.contains(s));
        f.debug_map().entries(self.0.iter().map(|(k, v)| (k, if secret(k) { "***" } else { v }))).finish()
    }
}

/// Which partitions a Kafka table reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// `subscribe = 'a,b'`
    Topics(Vec<String>),
    /// `subscribePattern = 'price-.*'`: matches whole topic names.
    Pattern(String),
    /// `assign = '{"topic":[0,1]}'`
    Partitions(BTreeMap<String, Vec<i32>>),
}

/// `startingOffsets`, `startingTimestamp` or `startingOffsetsByTimestamp` (and their `ending` twins).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartingOffsets {
    Earliest,
    Latest,
    /// Per topic and partition.
    Specific(BTreeMap<String, BTreeMap<i32, OffsetSpec>>),
    /// Milliseconds since the epoch, for every partition. `latest_if_none`: the `...Strategy = 'latest'`.
    Timestamp {
        ms: i64,
        latest_if_none: bool,
    },
    TimestampPerPartition {
        ms: BTreeMap<String, BTreeMap<i32, i64>>,
        latest_if_none: bool,
    },
}

/// One partition's place in Spark's offset JSON, where -2 is earliest and -1 is latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    Earliest,
    Latest,
    At(i64),
}

/// How a record's bytes become columns.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    pub format: PayloadFormat,
    pub mode: ParseMode,
    /// `columnNameOfCorruptRecord`: a declared string column that gets the text of a bad record.
    pub corrupt_column: Option<String>,
}

#[derive(Debug, Clone)]
pub enum PayloadFormat {
    Json,
    Csv(CsvOptions),
    Avro(AvroOptions),
    /// The columns are Kafka's own.
    Raw,
}

/// What becomes of a record that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseMode {
    /// The default: its bytes, topic, partition, offset and reason go to the dead-letter directory.
    DeadLetter,
    /// The fields that can be read are kept, the others are null, the corrupt column gets the text.
    Permissive,
    /// Dropped and counted.
    DropMalformed,
    /// The job stops with an error that names the record.
    FailFast,
}

#[derive(Debug, Clone, Default)]
pub struct AvroOptions {
    /// `schemaRegistry.url`: Confluent framing, the writer's schema is fetched by id.
    pub registry_url: Option<String>,
    /// `schema`: plain Avro bodies without framing, written with this schema (JSON text).
    pub schema: Option<String>,
}

/// CSV, in and out, under Spark's option names and defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// `sep` or `delimiter`
    pub delimiter: u8,
    pub quote: u8,
    pub escape: u8,
    pub header: bool,
    /// `nullValue`
    pub null_value: String,
    /// Java's pattern letters; `None` is ISO 8601.
    pub timestamp_format: Option<String>,
    pub date_format: Option<String>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: b',',
            quote: b'"',
            escape: b'\\',
            header: false,
            null_value: String::new(),
            timestamp_format: None,
            date_format: None,
        }
    }
}

/// A directory of files, to read from or to write to.
#[derive(Debug, Clone)]
pub struct FileTable {
    /// A URL (`hdfs://`, `s3://`, `file://`) or a local path.
    pub path: String,
    pub format: FileFormat,
    pub compression: Compression,
    /// Hive style: `partitionBy = 'day,symbol'`.
    pub partition_by: Vec<String>,
    /// `maxRecordsPerFile`
    pub max_records_per_file: Option<u64>,
    pub checkpoint_location: Option<String>,
    /// `sparkMetadata`: write `_spark_metadata`, on by default.
    pub spark_metadata: bool,
    pub dead_letter_path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFormat {
    Csv(CsvOptions),
    Parquet,
    /// One object per line.
    Json {
        timestamp_format: Option<String>,
    },
}

/// `compression`; the default is snappy for Parquet and none for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Snappy,
    Gzip,
    Zstd,
    Lz4,
}

/// Spark's console sink.
#[derive(Debug, Clone)]
pub struct ConsoleTable {
    /// `numRows`, 20 by default.
    pub rows_max: usize,
    /// `truncate`: cells longer than 20 characters end in `...`.
    pub truncate: bool,
    pub checkpoint_location: Option<String>,
}
