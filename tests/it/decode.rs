//! Decoding, seen from outside: against arrow-json and serde_json, against hostile bytes, in every mode.

mod avro;
mod hostile;
mod json;
mod modes;

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Field, TimeUnit},
};
use tidemill::{
    catalog::{Column, DecodeOptions, KafkaColumn, ParseMode, PayloadFormat},
    decode::{Decoded, RecordDecoder},
    error::Result,
    kafka::KafkaRecord,
};

fn column(name: &str, data_type: DataType) -> Column {
    Column { name: name.to_owned(), data_type, nullable: true, metadata: None }
}

fn metadata(kafka: KafkaColumn) -> Column {
    Column { metadata: Some(kafka), ..column(&format!("kafka_{}", kafka.name()), kafka.data_type()) }
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// A list of `{price, amount}`.
fn levels() -> DataType {
    let level = vec![Field::new("price", DataType::Float64, true), Field::new("amount", DataType::Int64, true)];
    DataType::List(Arc::new(Field::new("item", DataType::Struct(level.into()), true)))
}

/// Strings to whole numbers.
fn counts() -> DataType {
    let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry.into()), false)), false)
}

fn options(format: PayloadFormat, mode: ParseMode) -> DecodeOptions {
    DecodeOptions { format, mode, corrupt_column: None }
}

fn json(mode: ParseMode) -> DecodeOptions {
    options(PayloadFormat::Json, mode)
}

fn record(value: Option<&[u8]>, offset: i64) -> KafkaRecord<'_> {
    KafkaRecord {
        topic: "prices",
        partition: 3,
        offset,
        timestamp_ms: Some(1_700_000_000_123),
        timestamp_type: 0,
        key: Some(b"BTC"),
        value,
        headers: &[],
    }
}

fn records<T: AsRef<[u8]>>(payloads: &[T]) -> Vec<KafkaRecord<'_>> {
    payloads.iter().zip(0..).map(|(payload, offset)| record(Some(payload.as_ref()), offset)).collect()
}

/// All columns of all payloads.
fn decode<T: AsRef<[u8]>>(columns: &[Column], options: &DecodeOptions, payloads: &[T]) -> Result<Decoded> {
    let projection: Vec<usize> = (0..columns.len()).collect();
    let mut decoder = RecordDecoder::new(columns, &projection, options)?;
    decoder.push(&records(payloads))?;
    assert_eq!(decoder.len(), payloads.len());
    decoder.flush()
}

/// The reasons of the dead letters.
fn reasons(decoded: &Decoded) -> Vec<String> {
    let Some(dead) = &decoded.dead_letters else { return Vec::new() };
    strings(&dead["reason"])
}

fn strings(array: &ArrayRef) -> Vec<String> {
    array.as_string::<i32>().iter().map(|text| text.unwrap_or("<null>").to_owned()).collect()
}

/// One value as text, `<null>` for null.
fn shown(batch: &RecordBatch, column: &str, row: usize) -> String {
    let array = batch.column_by_name(column).unwrap_or_else(|| panic!("no column {column}"));
    if array.is_null(row) {
        return "<null>".to_owned();
    }
    arrow::util::display::array_value_to_string(array, row).unwrap()
}
