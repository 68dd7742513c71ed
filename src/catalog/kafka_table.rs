//! `connector = 'kafka'`: a topic to read, to write, or both. Spark's option names and defaults.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::datatypes::DataType;

use super::{
    connector::csv,
    ddl::{DeclaredColumn, check_metadata, kafka_column},
    file_table::check_flat,
    kafka_offsets,
    options::{Options, Vocabulary},
    table::{
        AvroOptions, Column, DecodeOptions, KafkaClientOptions, KafkaColumn, KafkaTable, ParseMode, PayloadFormat,
        StartingOffsets, Subscription,
    },
    text::SourceText,
    watermark,
};
use crate::error::{Error, Result, nearest};

/// Spark's `maxTriggerDelay`.
const MAX_TRIGGER_DELAY: Duration = Duration::from_secs(15 * 60);

/// Kafka's own limit.
const TOPIC_CHARS_MAX: usize = 249;

const OFFSETS: &str = "use startingOffsets = 'earliest' or 'latest'; Spark ignores this one too";
const BYTES: &str = "leave it out: keys and values arrive as bytes, and 'format' says how a value is read";
const COMMIT: &str = "leave it out: the checkpoint keeps the offsets, not the consumer group";
const TASKS: &str = "it tunes Spark's executors; leave it out";

pub const VOCABULARY: Vocabulary = Vocabulary {
    owner: "the connector 'kafka'",
    names: &[
        "connector",
        "kafka.bootstrap.servers",
        "subscribe",
        "subscribePattern",
        "assign",
        "topic",
        "key.fields",
        "format",
        "startingOffsets",
        "startingTimestamp",
        "startingOffsetsByTimestamp",
        "startingOffsetsByTimestampStrategy",
        "endingOffsets",
        "endingTimestamp",
        "endingOffsetsByTimestamp",
        "failOnDataLoss",
        "maxOffsetsPerTrigger",
        "minOffsetsPerTrigger",
        "maxTriggerDelay",
        "includeHeaders",
        "mode",
        "columnNameOfCorruptRecord",
        "deadLetterPath",
        "checkpointLocation",
        "outputMode",
        "allowedLateness",
        "schemaRegistry.url",
        "schema",
        "sep",
        "quote",
        "escape",
        "nullValue",
        "timestampFormat",
        "dateFormat",
        "idleTimeout",
        "idleWatermark",
        "maxFutureSkew",
    ],
    aliases: &[
        watermark::ALIASES[0],
        watermark::ALIASES[1],
        watermark::ALIASES[2],
        watermark::ALIASES[3],
        ("delimiter", "sep"),
        ("csv.sep", "sep"),
        ("csv.delimiter", "sep"),
        ("csv.quote", "quote"),
        ("csv.escape", "escape"),
        ("csv.nullValue", "nullValue"),
        ("csv.timestampFormat", "timestampFormat"),
        ("csv.dateFormat", "dateFormat"),
    ],
    foreign: &[
        ("auto.offset.reset", OFFSETS),
        ("kafka.auto.offset.reset", OFFSETS),
        ("scan.startup.mode", "use startingOffsets = 'earliest' or 'latest'"),
        ("key.deserializer", BYTES),
        ("value.deserializer", BYTES),
        ("key.serializer", BYTES),
        ("value.serializer", BYTES),
        ("kafka.key.deserializer", BYTES),
        ("kafka.value.deserializer", BYTES),
        ("kafka.key.serializer", BYTES),
        ("kafka.value.serializer", BYTES),
        ("kafka.enable.auto.commit", COMMIT),
        ("enable.auto.commit", COMMIT),
        ("kafka.interceptor.classes", "leave it out: there is no JVM to load it"),
        ("bootstrap.servers", "write 'kafka.bootstrap.servers'"),
        ("properties.bootstrap.servers", "write 'kafka.bootstrap.servers'"),
        ("value.format", "write 'format'"),
        ("header", "a record has no header line; leave it out"),
        ("minPartitions", TASKS),
        ("maxRecordsPerPartition", TASKS),
        ("groupIdPrefix", "leave it out, or set 'kafka.group.id'"),
        ("kafkaConsumer.pollTimeoutMs", TASKS),
        ("fetchOffset.numRetries", TASKS),
        ("fetchOffset.retryIntervalMs", TASKS),
    ],
    prefix: Some("kafka."),
};

/// Options that mean something only where the table is read.
const READING: &[&str] = &[
    "startingOffsets",
    "startingTimestamp",
    "startingOffsetsByTimestamp",
    "startingOffsetsByTimestampStrategy",
    "endingOffsets",
    "endingTimestamp",
    "endingOffsetsByTimestamp",
    "failOnDataLoss",
    "maxOffsetsPerTrigger",
    "minOffsetsPerTrigger",
    "maxTriggerDelay",
    "includeHeaders",
    "mode",
    "columnNameOfCorruptRecord",
    "deadLetterPath",
    "schemaRegistry.url",
    "schema",
    "idleTimeout",
    "idleWatermark",
    "maxFutureSkew",
];

const CSV: &[&str] = &["sep", "quote", "escape", "nullValue", "timestampFormat", "dateFormat"];

const SUBSCRIPTIONS: &[&str] = &["subscribe", "subscribePattern", "assign"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Avro,
    Raw,
}

const FORMATS: &[(&str, Format)] =
    &[("json", Format::Json), ("csv", Format::Csv), ("avro", Format::Avro), ("raw", Format::Raw)];

/// Reads the options of a Kafka table, and completes its columns.
///
/// # Errors
/// `Invalid` or `Unsupported` at the option or the column.
pub fn table(
    source: &Arc<SourceText>,
    options: &mut Options<'_>,
    declared: &[DeclaredColumn],
) -> Result<(Vec<Column>, KafkaTable)> {
    let servers = "add 'kafka.bootstrap.servers' = 'localhost:9092'";
    options.required("kafka.bootstrap.servers", servers)?;
    let topic = options.not_blank("topic")?;
    if let Some(topic) = &topic {
        check_topic(options, "topic", topic)?;
    }
    let Some(subscription) = subscription(options)? else { return sink(source, options, declared, topic) };
    if topic.is_none() {
        options.refuse(
            &["checkpointLocation", "outputMode", "allowedLateness", "key.fields"],
            "a table that is written to; add topic = '...'",
        )?;
    }
    let format = format(options, declared)?;
    let include_headers = options.boolean("includeHeaders", false)?;
    let columns = columns(source, options, declared, format, include_headers)?;
    let max = options.number("maxOffsetsPerTrigger", 1)?;
    let min = options.number("minOffsetsPerTrigger", 1)?;
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let message = format!("minOffsetsPerTrigger ({min}) is more than maxOffsetsPerTrigger ({max})");
        return Err(options.at_value("minOffsetsPerTrigger", &message));
    }
    if min.is_none() {
        options.refuse(&["maxTriggerDelay"], "a table with minOffsetsPerTrigger")?;
    }
    let decode = decode(options, format, &columns)?;
    if decode.mode != ParseMode::DeadLetter || format == Format::Raw {
        options.refuse(&["deadLetterPath"], "a table whose bad records are kept, which is so without 'mode'")?;
    }
    let kafka = KafkaTable {
        client: client(options),
        starting_offsets: kafka_offsets::starting(options, &subscription)?,
        ending_offsets: kafka_offsets::ending(options, &subscription)?,
        subscription: Some(subscription),
        topic,
        key_fields: options.list("key.fields")?.unwrap_or_default(),
        fail_on_data_loss: options.boolean("failOnDataLoss", true)?,
        max_offsets_per_trigger: max,
        min_offsets_per_trigger: min,
        max_trigger_delay: options.duration("maxTriggerDelay", MAX_TRIGGER_DELAY)?,
        include_headers: columns.iter().any(|column| column.metadata == Some(KafkaColumn::Headers)),
        decode,
        checkpoint_location: options.not_blank("checkpointLocation")?,
        dead_letter_path: options.not_blank("deadLetterPath")?,
    };
    Ok((columns, kafka))
}

/// A table without a subscription: it is only written to.
fn sink(
    source: &SourceText,
    options: &mut Options<'_>,
    declared: &[DeclaredColumn],
    topic: Option<String>,
) -> Result<(Vec<Column>, KafkaTable)> {
    let reading = [READING, CSV].concat();
    options.refuse(&reading, "a table that is read; add subscribe = '...', subscribePattern or assign")?;
    if let Some(range) = declared.iter().find_map(|declared| declared.metadata.clone()) {
        let error = Error::invalid("METADATA columns are only for a table that is read").at(source.place(range));
        return Err(error.help("add subscribe = '...', subscribePattern or assign"));
    }
    let format = options.one_of("format", FORMATS)?;
    let format = match format {
        Some(Format::Json) => PayloadFormat::Json,
        None | Some(Format::Raw) => PayloadFormat::Raw,
        Some(Format::Csv | Format::Avro) => {
            let error = options.wrong("format", "'json' or 'raw' for a table that is written to");
            return Err(error.help("write the column 'value' as you want it, or one JSON object per row"));
        }
    };
    let kafka = KafkaTable {
        client: client(options),
        subscription: None,
        topic,
        key_fields: options.list("key.fields")?.unwrap_or_default(),
        starting_offsets: StartingOffsets::Latest,
        ending_offsets: StartingOffsets::Latest,
        fail_on_data_loss: true,
        max_offsets_per_trigger: None,
        min_offsets_per_trigger: None,
        max_trigger_delay: MAX_TRIGGER_DELAY,
        include_headers: false,
        decode: DecodeOptions { format, mode: ParseMode::DeadLetter, corrupt_column: None },
        checkpoint_location: options.not_blank("checkpointLocation")?,
        dead_letter_path: None,
    };
    Ok((declared.iter().map(|declared| declared.column.clone()).collect(), kafka))
}

fn client(options: &mut Options<'_>) -> KafkaClientOptions {
    KafkaClientOptions(options.with_prefix("kafka."))
}

/// Exactly one of the three, or none for a sink.
fn subscription(options: &mut Options<'_>) -> Result<Option<Subscription>> {
    let given = options.given(SUBSCRIPTIONS);
    if let [first, second, ..] = given[..] {
        let error = options.at_name(second, &format!("'{second}' and '{first}' cannot stand together"));
        return Err(error.help("keep one of subscribe, subscribePattern and assign"));
    }
    match given.first() {
        None => Ok(None),
        Some(&"subscribe") => {
            let topics = options.list("subscribe")?.unwrap_or_default();
            for topic in &topics {
                check_topic(options, "subscribe", topic)?;
            }
            Ok(Some(Subscription::Topics(topics)))
        }
        Some(&"subscribePattern") => {
            let pattern = options.not_blank("subscribePattern")?.unwrap_or_default();
            if regex::Regex::new(&pattern).is_err() {
                return Err(options.wrong("subscribePattern", "a regular expression for whole topic names"));
            }
            Ok(Some(Subscription::Pattern(pattern)))
        }
        Some(_) => {
            let expected = "JSON with the partitions of each topic, such as {\"topic\": [0, 1]}";
            let assigned: BTreeMap<String, Vec<i32>> =
                kafka_offsets::json(options, "assign", expected)?.unwrap_or_default();
            let empty = assigned.is_empty() || assigned.values().any(Vec::is_empty);
            let repeated = |list: &Vec<i32>| list.iter().enumerate().any(|(at, number)| list[..at].contains(number));
            if empty || assigned.values().any(|list| list.iter().any(|number| *number < 0) || repeated(list)) {
                return Err(options.wrong("assign", expected));
            }
            for topic in assigned.keys() {
                check_topic(options, "assign", topic)?;
            }
            Ok(Some(Subscription::Partitions(assigned)))
        }
    }
}

fn check_topic(options: &Options<'_>, option: &str, topic: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.len() <= TOPIC_CHARS_MAX && topic.chars().all(legal) && !matches!(topic, "." | ".." | "") {
        return Ok(());
    }
    let error = options.at_value(option, &format!("'{topic}' cannot be the name of a topic"));
    Err(error.help(format!("at most {TOPIC_CHARS_MAX} of the characters a-z, A-Z, 0-9, '.', '_' and '-'")))
}

/// Without columns and without a format, the columns are Kafka's own, as in Spark.
fn format(options: &mut Options<'_>, declared: &[DeclaredColumn]) -> Result<Format> {
    match options.one_of("format", FORMATS)? {
        Some(format) => Ok(format),
        None if declared.is_empty() => Ok(Format::Raw),
        None => {
            let error = Error::invalid("the option 'format' is missing").at(options.name_place());
            Err(error.help("add format = 'json', 'csv' or 'avro', or 'raw' for Kafka's own columns"))
        }
    }
}

fn columns(
    source: &SourceText,
    options: &Options<'_>,
    declared: &[DeclaredColumn],
    format: Format,
    include_headers: bool,
) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = declared.iter().map(|declared| declared.column.clone()).collect();
    match format {
        Format::Raw if declared.is_empty() => {
            let wanted = |column: &KafkaColumn| include_headers || *column != KafkaColumn::Headers;
            return Ok(KafkaColumn::ALL.into_iter().filter(wanted).map(kafka_own).collect());
        }
        Format::Raw => {
            for (column, declared) in columns.iter_mut().zip(declared) {
                column.metadata = Some(own_column(source, declared)?);
            }
        }
        Format::Avro if declared.is_empty() => {
            let error = Error::unsupported("columns cannot be taken from an Avro schema in this version");
            return Err(error.at(options.name_place()).help("declare the columns: (name TYPE, ...)"));
        }
        Format::Json | Format::Csv if declared.is_empty() => {
            let error = Error::invalid("the columns are missing").at(options.name_place());
            return Err(error.help("declare what a record holds: (name TYPE, ...); or use format = 'raw'"));
        }
        Format::Csv => check_flat(source, declared)?,
        Format::Json | Format::Avro => {}
    }
    let has_headers = columns.iter().any(|column| column.metadata == Some(KafkaColumn::Headers));
    if has_headers && options.has("includeHeaders") && !include_headers {
        return Err(options.at_name("includeHeaders", "the table has a column for the headers"));
    }
    if include_headers && !has_headers {
        let error = options.at_name("includeHeaders", "the table has no column for the headers");
        return Err(error.help("declare headers ARRAY<ROW<key STRING, value BINARY>> METADATA"));
    }
    Ok(columns)
}

fn kafka_own(column: KafkaColumn) -> Column {
    let (name, data_type) = (column.name().to_owned(), column.data_type());
    Column { name, data_type, nullable: true, metadata: Some(column) }
}

/// A declared column of a raw table must be one of Kafka's, with or without the word `METADATA`.
fn own_column(source: &SourceText, declared: &DeclaredColumn) -> Result<KafkaColumn> {
    if let Some(column) = declared.column.metadata {
        return Ok(column);
    }
    let name = &declared.column.name;
    if let Some(column) = kafka_column(name) {
        let mut declared = declared.clone();
        declared.column.metadata = Some(column);
        check_metadata(source, &declared)?;
        return Ok(column);
    }
    let names = KafkaColumn::ALL.map(KafkaColumn::name);
    let error = Error::invalid(format!("a raw table has only Kafka's own columns, not '{name}'"));
    let error = error.at(source.place(declared.name.clone()));
    Err(match nearest(name, names) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("they are {}; for the fields of a record use another format", names.join(", "))),
    })
}

fn decode(options: &mut Options<'_>, format: Format, columns: &[Column]) -> Result<DecodeOptions> {
    if format != Format::Csv {
        options.refuse(CSV, "the format 'csv'")?;
    }
    if format != Format::Avro {
        options.refuse(&["schemaRegistry.url", "schema"], "the format 'avro'")?;
    }
    let format = match format {
        Format::Json => PayloadFormat::Json,
        Format::Csv => PayloadFormat::Csv(csv(options)?),
        Format::Avro => PayloadFormat::Avro(avro(options)?),
        Format::Raw => {
            options.refuse(&["mode", "columnNameOfCorruptRecord"], "the formats 'json', 'csv' and 'avro'")?;
            PayloadFormat::Raw
        }
    };
    let modes = [
        ("PERMISSIVE", ParseMode::Permissive),
        ("DROPMALFORMED", ParseMode::DropMalformed),
        ("FAILFAST", ParseMode::FailFast),
    ];
    let mode = options.one_of("mode", &modes)?.unwrap_or(ParseMode::DeadLetter);
    if mode != ParseMode::Permissive {
        options.refuse(&["columnNameOfCorruptRecord"], "mode = 'PERMISSIVE'")?;
    }
    let corrupt_column = options.not_blank("columnNameOfCorruptRecord")?;
    if let Some(name) = &corrupt_column {
        check_corrupt_column(options, name, columns)?;
    }
    Ok(DecodeOptions { format, mode, corrupt_column })
}

fn check_corrupt_column(options: &Options<'_>, name: &str, columns: &[Column]) -> Result<()> {
    let option = "columnNameOfCorruptRecord";
    let Some(column) = columns.iter().find(|column| column.name == name) else {
        let error = options.at_value(option, &format!("the column '{name}' is not declared"));
        return Err(match nearest(name, columns.iter().map(|column| column.name.as_str())) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!("declare it: {name} STRING")),
        });
    };
    if column.data_type != DataType::Utf8 || !column.nullable || column.metadata.is_some() {
        let message = format!("the column '{name}' must be a STRING that may be null, and of the record itself");
        return Err(options.at_value(option, &message));
    }
    Ok(())
}

fn avro(options: &mut Options<'_>) -> Result<AvroOptions> {
    let given = options.given(&["schemaRegistry.url", "schema"]);
    match given[..] {
        [] => {
            let error = Error::invalid("the format 'avro' needs a schema").at(options.name_place());
            Err(error.help("add 'schemaRegistry.url' = 'http://...', or schema = '{...}'"))
        }
        [_, second, ..] => {
            let message = "'schemaRegistry.url' and 'schema' cannot stand together";
            Err(options.at_name(second, message).help("a record is framed with a schema's id, or it is not: keep one"))
        }
        [_] => {
            let expected = "an Avro schema as JSON";
            let schema = options.not_blank("schema")?;
            kafka_offsets::json::<serde_json::Value>(options, "schema", expected)?;
            Ok(AvroOptions { registry_url: options.not_blank("schemaRegistry.url")?, schema })
        }
    }
}
