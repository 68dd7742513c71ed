//! The columns that come from the Kafka record itself, whatever its payload is.

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::{
    column::{Column, Integer, Store, is_utc, offset},
    flaw::{Flaw, Step},
};
use crate::{
    catalog::KafkaColumn,
    error::{Error, Result},
    kafka::KafkaRecord,
};

/// That `field` can hold what Kafka has there: its own type, or one that takes every value of it. A key or a value
/// may also be a STRING, for records whose bytes are UTF-8.
///
/// # Errors
/// `Invalid`, naming the column.
pub(super) fn check(field: &Field, kafka: KafkaColumn) -> Result<()> {
    use DataType as D;
    let fits = match (kafka, field.data_type()) {
        (KafkaColumn::Key | KafkaColumn::Value, D::Binary | D::Utf8) | (KafkaColumn::Topic, D::Utf8) => true,
        (KafkaColumn::Partition | KafkaColumn::TimestampType, D::Int32 | D::Int64) => true,
        (KafkaColumn::Offset, D::Int64) => true,
        (KafkaColumn::Timestamp, D::Timestamp(_, zone)) => zone.as_deref().is_none_or(is_utc),
        (KafkaColumn::Headers, D::List(item)) => match item.data_type() {
            D::Struct(pair) => pair.len() == 2 && *pair[0].data_type() == D::Utf8 && *pair[1].data_type() == D::Binary,
            _ => false,
        },
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("column {}: Kafka's {} is no {}", field.name(), kafka.name(), field.data_type()))
        .help(format!("declare it as {}", kafka.data_type())))
}

/// Whether a Kafka record can lack it.
pub(super) fn optional(kafka: KafkaColumn) -> bool {
    matches!(kafka, KafkaColumn::Key | KafkaColumn::Value | KafkaColumn::Timestamp | KafkaColumn::Headers)
}

/// Appends what `record` has; null where it has nothing.
///
/// # Errors
/// A field flaw: null in a NOT NULL column, bytes that are no UTF-8 in a STRING.
#[inline]
pub(super) fn push(column: &mut Column, kafka: KafkaColumn, record: &KafkaRecord<'_>) -> Step<()> {
    match kafka {
        KafkaColumn::Key => bytes(column, record.key),
        KafkaColumn::Value => bytes(column, record.value),
        KafkaColumn::Topic => column.push_bytes(record.topic.as_bytes()),
        KafkaColumn::Partition => column.push_integer(i64::from(record.partition)),
        KafkaColumn::Offset => column.push_integer(record.offset),
        KafkaColumn::Timestamp => timestamp(column, record.timestamp_ms),
        KafkaColumn::TimestampType => column.push_integer(i64::from(record.timestamp_type)),
        KafkaColumn::Headers => headers(column, record.headers),
    }
}

fn bytes(column: &mut Column, value: Option<&[u8]>) -> Step<()> {
    let Some(value) = value else { return column.push_null() };
    if let Store::Bytes { text: true, .. } = column.store
        && let Err(error) = std::str::from_utf8(value)
    {
        return Err(Flaw::field(format!("invalid UTF-8 at byte {}", error.valid_up_to())));
    }
    column.push_bytes(value)
}

fn timestamp(column: &mut Column, ms: Option<i64>) -> Step<()> {
    let Some(ms) = ms else { return column.push_null() };
    let Store::Integer { kind: Integer::Timestamp(unit), .. } = column.store else {
        return column.push_integer(ms);
    };
    let ticks = match unit {
        TimeUnit::Second => Some(ms.div_euclid(1_000)),
        TimeUnit::Millisecond => Some(ms),
        TimeUnit::Microsecond => ms.checked_mul(1_000),
        TimeUnit::Nanosecond => ms.checked_mul(1_000_000),
    };
    match ticks {
        Some(ticks) => column.push_integer(ticks),
        None => Err(Flaw::field(format!("{ms} ms is out of range"))),
    }
}

fn headers(column: &mut Column, headers: &[(&str, Option<&[u8]>)]) -> Step<()> {
    if headers.is_empty() {
        return column.push_null();
    }
    let Store::List { offsets, items } = &mut column.store else {
        return Err(Flaw::field("headers need a list"));
    };
    for (name, value) in headers {
        let Store::Struct(pair) = &mut items.store else { return Err(Flaw::field("headers need a list of pairs")) };
        pair.open(0).push_bytes(name.as_bytes())?;
        bytes(pair.open(1), *value)?;
        pair.close()?;
        items.filled();
    }
    offsets.push(offset(items.len())?);
    column.filled();
    Ok(())
}
