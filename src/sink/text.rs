//! One value of a column as text: for CSV, for the names of partition directories, for the console.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, LargeStringArray, PrimitiveArray,
        StringArray, StringViewArray,
    },
    buffer::NullBuffer,
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
        Decimal256Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
        UInt64Type,
    },
};

use super::{
    number::{write_decimal, write_double, write_float, write_integer},
    pattern::{Known, Pattern, Zone, write_date, write_fraction, write_iso_offset, write_time},
};
use crate::error::{Error, Result};

/// How a date or a timestamp is written.
#[derive(Debug, Clone)]
pub(crate) enum TimeStyle {
    /// `2024-01-02T03:04:05.123Z`, milliseconds truncated: Spark's text files.
    Iso,
    /// `2024-01-02 03:04:05.1234`, trailing zeros cut: Spark's cast to string.
    Cast,
    Pattern(Pattern),
}

/// What is decided once for a column, before any row.
#[derive(Debug, Clone)]
pub(crate) struct TextFormat {
    style: TimeStyle,
    zone: Zone,
}

impl TextFormat {
    /// Spark's cast to string.
    pub fn cast(data_type: &DataType) -> Result<Self> {
        Ok(Self { style: TimeStyle::Cast, zone: zone_of(data_type)? })
    }

    /// For a text file with the options `timestampFormat` and `dateFormat`.
    pub fn file(data_type: &DataType, timestamp_format: Option<&str>, date_format: Option<&str>) -> Result<Self> {
        let zone = zone_of(data_type)?;
        let style = match (data_type, timestamp_format, date_format) {
            (DataType::Timestamp(_, zone), Some(pattern), _) => {
                let known = Known { time: true, offset: zone.is_some() };
                TimeStyle::Pattern(Pattern::compile(pattern, "timestampFormat", known)?)
            }
            (DataType::Date32 | DataType::Date64, _, Some(pattern)) => {
                let known = Known { time: false, offset: false };
                TimeStyle::Pattern(Pattern::compile(pattern, "dateFormat", known)?)
            }
            _ => TimeStyle::Iso,
        };
        Ok(Self { style, zone })
    }

    /// Whether a user's pattern decides the text, which may then hold anything.
    pub fn is_custom(&self) -> bool {
        matches!(self.style, TimeStyle::Pattern(_))
    }
}

fn zone_of(data_type: &DataType) -> Result<Zone> {
    match data_type {
        DataType::Timestamp(_, zone) => Zone::parse(zone.as_deref()),
        _ => Ok(Zone::None),
    }
}

/// Whether a value of this type has one obvious text.
pub(crate) fn has_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_text(values),
        DataType::Null
        | DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Time32(_)
        | DataType::Time64(_) => true,
        other => other.is_numeric(),
    }
}

/// The values of one column of one batch, typed, so that a row costs one match and no downcast.
#[derive(Debug)]
pub(crate) struct TextColumn {
    pub values: Values,
    nulls: Option<NullBuffer>,
    format: Arc<TextFormat>,
}

#[derive(Debug)]
pub(crate) enum Values {
    Null,
    Boolean(BooleanArray),
    I8(PrimitiveArray<Int8Type>),
    I16(PrimitiveArray<Int16Type>),
    I32(PrimitiveArray<Int32Type>),
    I64(PrimitiveArray<Int64Type>),
    U8(PrimitiveArray<UInt8Type>),
    U16(PrimitiveArray<UInt16Type>),
    U32(PrimitiveArray<UInt32Type>),
    U64(PrimitiveArray<UInt64Type>),
    F32(Float32Array),
    F64(Float64Array),
    D32(PrimitiveArray<Decimal32Type>, i8),
    D64(PrimitiveArray<Decimal64Type>, i8),
    D128(PrimitiveArray<Decimal128Type>, i8),
    D256(PrimitiveArray<Decimal256Type>, i8),
    Date32(PrimitiveArray<Date32Type>),
    Date64(PrimitiveArray<Date64Type>),
    Seconds(PrimitiveArray<TimestampSecondType>),
    Millis(PrimitiveArray<TimestampMillisecondType>),
    Micros(PrimitiveArray<TimestampMicrosecondType>),
    Nanos(PrimitiveArray<TimestampNanosecondType>),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
}

impl TextColumn {
    /// # Errors
    /// `Internal` for a type that `has_text` denies.
    pub fn new(array: &ArrayRef, format: &Arc<TextFormat>) -> Result<Self> {
        // Types that are rare in files take the way over a column of a common type.
        let array = match array.data_type() {
            DataType::Dictionary(_, values) => &cast(array, values)?,
            DataType::Float16 => &cast(array, &DataType::Float32)?,
            DataType::Time32(_) | DataType::Time64(_) => &cast(array, &DataType::Utf8)?,
            _ => array,
        };
        Ok(Self { values: typed(array)?, nulls: array.logical_nulls(), format: format.clone() })
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// The value of a string column.
    #[inline]
    pub fn string(&self, row: usize) -> Option<&str> {
        match &self.values {
            Values::Text(array) => Some(array.value(row)),
            Values::LargeText(array) => Some(array.value(row)),
            Values::TextView(array) => Some(array.value(row)),
            _ => None,
        }
    }

    /// Appends the text of a value that is not null.
    #[inline]
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Values::F64(array) => write_double(out, array.value(row)),
            Values::I64(array) => write_integer(out, array.value(row)),
            Values::I32(array) => write_integer(out, array.value(row)),
            Values::Micros(array) => self.write_timestamp::<1_000_000>(out, array.value(row)),
            Values::Millis(array) => self.write_timestamp::<1_000>(out, array.value(row)),
            Values::Nanos(array) => self.write_timestamp::<1_000_000_000>(out, array.value(row)),
            Values::Seconds(array) => self.write_timestamp::<1>(out, array.value(row)),
            Values::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Values::F32(array) => write_float(out, array.value(row)),
            Values::Date32(array) => self.write_days(out, i64::from(array.value(row))),
            Values::Date64(array) => self.write_days(out, array.value(row).div_euclid(86_400_000)),
            Values::LargeText(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Values::TextView(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Values::I8(array) => write_integer(out, array.value(row)),
            Values::I16(array) => write_integer(out, array.value(row)),
            Values::U8(array) => write_integer(out, array.value(row)),
            Values::U16(array) => write_integer(out, array.value(row)),
            Values::U32(array) => write_integer(out, array.value(row)),
            Values::U64(array) => write_integer(out, array.value(row)),
            Values::D32(array, scale) => write_scaled(out, array.value(row), *scale),
            Values::D64(array, scale) => write_scaled(out, array.value(row), *scale),
            Values::D128(array, scale) => write_scaled(out, array.value(row), *scale),
            Values::D256(array, scale) => write_decimal(out, &array.value(row).to_string(), *scale),
            Values::Null => {}
        }
    }

    #[inline]
    fn write_timestamp<const TICKS: i64>(&self, out: &mut Vec<u8>, value: i64) {
        let nanos = u32::try_from(value.rem_euclid(TICKS) * (1_000_000_000 / TICKS)).unwrap_or(0);
        let moment = self.format.zone.moment(value.div_euclid(TICKS), nanos);
        match &self.format.style {
            TimeStyle::Pattern(pattern) => pattern.write(out, &moment),
            TimeStyle::Iso => {
                write_date(out, moment.days);
                out.push(b'T');
                write_time(out, moment.second_of_day);
                out.push(b'.');
                write_fraction(out, nanos, 3);
                if !matches!(self.format.zone, Zone::None) {
                    write_iso_offset(out, moment.offset_s);
                }
            }
            TimeStyle::Cast => {
                write_date(out, moment.days);
                out.push(b' ');
                write_time(out, moment.second_of_day);
                if nanos != 0 {
                    out.push(b'.');
                    write_fraction(out, nanos, 9);
                    out.truncate(out.len() - out.iter().rev().take_while(|byte| **byte == b'0').count());
                }
            }
        }
    }

    fn write_days(&self, out: &mut Vec<u8>, days: i64) {
        match &self.format.style {
            TimeStyle::Pattern(pattern) => pattern.write(out, &Zone::None.moment(days.saturating_mul(86_400), 0)),
            TimeStyle::Iso | TimeStyle::Cast => write_date(out, days),
        }
    }
}

fn write_scaled(out: &mut Vec<u8>, unscaled: impl itoa::Integer, scale: i8) {
    write_decimal(out, itoa::Buffer::new().format(unscaled), scale);
}

fn typed(array: &ArrayRef) -> Result<Values> {
    fn of<T: ArrowPrimitiveType>(array: &ArrayRef) -> PrimitiveArray<T> {
        array.as_primitive::<T>().clone()
    }
    Ok(match array.data_type() {
        DataType::Null => Values::Null,
        DataType::Boolean => Values::Boolean(array.as_boolean().clone()),
        DataType::Int8 => Values::I8(of(array)),
        DataType::Int16 => Values::I16(of(array)),
        DataType::Int32 => Values::I32(of(array)),
        DataType::Int64 => Values::I64(of(array)),
        DataType::UInt8 => Values::U8(of(array)),
        DataType::UInt16 => Values::U16(of(array)),
        DataType::UInt32 => Values::U32(of(array)),
        DataType::UInt64 => Values::U64(of(array)),
        DataType::Float32 => Values::F32(of(array)),
        DataType::Float64 => Values::F64(of(array)),
        DataType::Decimal32(_, scale) => Values::D32(of(array), *scale),
        DataType::Decimal64(_, scale) => Values::D64(of(array), *scale),
        DataType::Decimal128(_, scale) => Values::D128(of(array), *scale),
        DataType::Decimal256(_, scale) => Values::D256(of(array), *scale),
        DataType::Date32 => Values::Date32(of(array)),
        DataType::Date64 => Values::Date64(of(array)),
        DataType::Timestamp(TimeUnit::Second, _) => Values::Seconds(of(array)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Values::Millis(of(array)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Micros(of(array)),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Values::Nanos(of(array)),
        DataType::Utf8 => Values::Text(array.as_string::<i32>().clone()),
        DataType::LargeUtf8 => Values::LargeText(array.as_string::<i64>().clone()),
        DataType::Utf8View => Values::TextView(array.as_string_view().clone()),
        other => return Err(Error::internal(format!("a value of type {other} has no text"))),
    })
}
