//! Columns while they grow: plain vectors, which can be cut back to a row count when a record turns out to be bad,
//! and which become Arrow arrays without a copy.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int64Array, ListArray,
        MapArray, NullBufferBuilder, PrimitiveArray, StringArray, StructArray, types,
    },
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field, FieldRef, Fields, TimeUnit},
};

use super::{
    ROWS_PER_BATCH,
    flaw::{Flaw, Step},
    row::Row,
};
use crate::error::{Error, Result};

/// One growing column.
#[derive(Debug)]
pub(super) struct Column {
    pub field: FieldRef,
    pub store: Store,
    nulls: NullBufferBuilder,
}

/// The values; a null has a placeholder.
#[derive(Debug)]
pub(super) enum Store {
    Boolean(Vec<bool>),
    Integer {
        values: Vec<i64>,
        kind: Integer,
    },
    /// `single`: a FLOAT, whose values are exact in a double.
    Float {
        values: Vec<f64>,
        single: bool,
    },
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    /// `text`: UTF-8, else any bytes.
    Bytes {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
        text: bool,
    },
    List {
        offsets: Vec<i32>,
        items: Box<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Box<Column>,
        values: Box<Column>,
        entries: Fields,
    },
    Struct(Box<Row>),
}

/// What a 64-bit integer of a column stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    /// Of so many bits, two's complement.
    Signed(u8),
    /// Of so many bits; 64 of them are kept as the same bits in an `i64`.
    Unsigned(u8),
    /// Days since the epoch.
    Date,
    /// Since the epoch, UTC.
    Timestamp(TimeUnit),
}

impl Integer {
    /// `value`, if a plain integer of this kind can hold it.
    #[inline]
    pub fn fit(self, value: i64) -> Option<i64> {
        let fits = match self {
            Self::Signed(bits) => value == value << (64 - bits) >> (64 - bits),
            Self::Unsigned(bits) => value >= 0 && value.leading_zeros() + u32::from(bits) >= 64,
            Self::Date | Self::Timestamp(_) => false,
        };
        fits.then_some(value)
    }
}

impl Column {
    /// An empty column for `field`.
    ///
    /// # Errors
    /// `Unsupported` for a type that no payload can give; names the field.
    pub fn new(field: FieldRef) -> Result<Self> {
        use DataType as D;
        let integer = |kind| Store::Integer { values: Vec::new(), kind };
        let store = match field.data_type() {
            D::Boolean => Store::Boolean(Vec::new()),
            D::Int8 => integer(Integer::Signed(8)),
            D::Int16 => integer(Integer::Signed(16)),
            D::Int32 => integer(Integer::Signed(32)),
            D::Int64 => integer(Integer::Signed(64)),
            D::UInt8 => integer(Integer::Unsigned(8)),
            D::UInt16 => integer(Integer::Unsigned(16)),
            D::UInt32 => integer(Integer::Unsigned(32)),
            D::UInt64 => integer(Integer::Unsigned(64)),
            D::Date32 => integer(Integer::Date),
            D::Timestamp(unit, zone) if zone.as_deref().is_none_or(is_utc) => integer(Integer::Timestamp(*unit)),
            D::Float32 => Store::Float { values: Vec::new(), single: true },
            D::Float64 => Store::Float { values: Vec::new(), single: false },
            D::Decimal128(precision, scale) => {
                Store::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            D::Utf8 => Store::Bytes { offsets: vec![0], bytes: Vec::new(), text: true },
            D::Binary => Store::Bytes { offsets: vec![0], bytes: Vec::new(), text: false },
            D::List(item) => Store::List { offsets: vec![0], items: Box::new(Self::new(item.clone())?) },
            D::Struct(fields) => Store::Struct(Box::new(Row::new(fields.iter().cloned())?)),
            D::Map(entries, _) => match entries.data_type() {
                D::Struct(fields) if fields.len() == 2 && *fields[0].data_type() == D::Utf8 => Store::Map {
                    offsets: vec![0],
                    keys: Box::new(Self::new(fields[0].clone())?),
                    values: Box::new(Self::new(fields[1].clone())?),
                    entries: fields.clone(),
                },
                _ => return Err(unsupported(&field)),
            },
            _ => return Err(unsupported(&field)),
        };
        Ok(Self { field, store, nulls: NullBufferBuilder::new(ROWS_PER_BATCH) })
    }

    /// The name that users know the type by, for reasons.
    pub fn type_name(&self) -> String {
        type_name(self.field.data_type())
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Notes that a value was put into `store`.
    #[inline]
    pub fn filled(&mut self) {
        self.nulls.append_non_null();
    }

    /// Appends a null, which the column must allow.
    ///
    /// # Errors
    /// A field flaw if the column is NOT NULL.
    #[inline]
    pub fn push_null(&mut self) -> Step<()> {
        if !self.field.is_nullable() {
            return Err(Flaw::field("null or missing, but NOT NULL"));
        }
        self.push_placeholder();
        Ok(())
    }

    /// A null, also where the column is NOT NULL but its parent is null.
    pub fn push_placeholder(&mut self) {
        match &mut self.store {
            Store::Boolean(values) => values.push(false),
            Store::Integer { values, .. } => values.push(0),
            Store::Float { values, .. } => values.push(0.0),
            Store::Decimal { values, .. } => values.push(0),
            Store::Bytes { offsets, .. } | Store::List { offsets, .. } | Store::Map { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
            }
            Store::Struct(row) => row.push_placeholders(),
        }
        self.nulls.append_null();
    }

    /// Appends text or bytes to a `Store::Bytes`.
    ///
    /// # Errors
    /// `Flaw::Full`; a field flaw if the column has another type.
    #[inline]
    pub fn push_bytes(&mut self, value: &[u8]) -> Step<()> {
        let Store::Bytes { offsets, bytes, .. } = &mut self.store else {
            return Err(Flaw::field(format!("text is no {}", self.type_name())));
        };
        bytes.extend_from_slice(value);
        offsets.push(offset(bytes.len())?);
        self.filled();
        Ok(())
    }

    /// Appends an integer, or the ticks of a date or a timestamp in the column's own unit.
    ///
    /// # Errors
    /// A field flaw if it is out of range, or the column has another type.
    #[inline]
    pub fn push_integer(&mut self, value: i64) -> Step<()> {
        let fitted = match &mut self.store {
            Store::Integer { values, kind } => {
                let ticks = matches!(kind, Integer::Date | Integer::Timestamp(_));
                let fitted = if ticks { Some(value) } else { kind.fit(value) };
                values.extend(fitted);
                fitted
            }
            _ => None,
        };
        if fitted.is_none() {
            return Err(Flaw::field(format!("{value} is no {}", self.type_name())));
        }
        self.filled();
        Ok(())
    }

    /// Cuts back to `rows` rows.
    pub fn truncate(&mut self, rows: usize) {
        if self.len() > rows {
            self.nulls.truncate(rows);
        }
        // The store may hold part of a value that never became a row.
        let end = |offsets: &mut Vec<i32>| {
            offsets.truncate(rows + 1);
            offsets.last().map_or(0, |last| usize::try_from(*last).unwrap_or(0))
        };
        match &mut self.store {
            Store::Boolean(values) => values.truncate(rows),
            Store::Integer { values, .. } => values.truncate(rows),
            Store::Float { values, .. } => values.truncate(rows),
            Store::Decimal { values, .. } => values.truncate(rows),
            Store::Bytes { offsets, bytes, .. } => bytes.truncate(end(offsets)),
            Store::List { offsets, items } => items.truncate(end(offsets)),
            Store::Map { offsets, keys, values, .. } => {
                let end = end(offsets);
                keys.truncate(end);
                values.truncate(end);
            }
            Store::Struct(row) => row.truncate(rows),
        }
    }

    /// Bytes that the values take.
    pub fn buffered_bytes(&self) -> usize {
        match &self.store {
            Store::Boolean(values) => values.len(),
            Store::Integer { values, .. } => values.len() * 8,
            Store::Float { values, .. } => values.len() * 8,
            Store::Decimal { values, .. } => values.len() * 16,
            Store::Bytes { offsets, bytes, .. } => offsets.len() * 4 + bytes.len(),
            Store::List { offsets, items } => offsets.len() * 4 + items.buffered_bytes(),
            Store::Map { offsets, keys, values, .. } => {
                offsets.len() * 4 + keys.buffered_bytes() + values.buffered_bytes()
            }
            Store::Struct(row) => row.buffered_bytes(),
        }
    }

    /// The array; the column is empty afterwards.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        let defect = |error| Error::internal(format!("column {}: {error}", self.field.name()));
        Ok(match &mut self.store {
            Store::Boolean(values) => Arc::new(BooleanArray::new(renew(values).into(), nulls)),
            Store::Integer { values, kind } => {
                let array = Int64Array::new(renew(values).into(), nulls);
                return integers(array, *kind, self.field.data_type()).map_err(defect);
            }
            Store::Float { values, single: false } => Arc::new(Float64Array::new(renew(values).into(), nulls)),
            Store::Float { values, .. } => {
                let narrow = renew(values).into_iter().map(|value| value as f32);
                Arc::new(Float32Array::new(narrow.collect::<Vec<_>>().into(), nulls))
            }
            Store::Decimal { values, precision, scale } => {
                let array = Decimal128Array::new(renew(values).into(), nulls);
                Arc::new(array.with_precision_and_scale(*precision, *scale).map_err(defect)?)
            }
            Store::Bytes { offsets, bytes, text } => {
                let (offsets, bytes) = (renew_offsets(offsets), Buffer::from_vec(renew_text(bytes)));
                match text {
                    true => Arc::new(StringArray::try_new(offsets, bytes, nulls).map_err(defect)?),
                    false => Arc::new(BinaryArray::try_new(offsets, bytes, nulls).map_err(defect)?),
                }
            }
            Store::List { offsets, items } => {
                let (item, values) = (items.field.clone(), items.finish()?);
                Arc::new(ListArray::try_new(item, renew_offsets(offsets), values, nulls).map_err(defect)?)
            }
            Store::Map { offsets, keys, values, entries } => {
                let pairs = StructArray::try_new(entries.clone(), vec![keys.finish()?, values.finish()?], None);
                let DataType::Map(entry, sorted) = self.field.data_type() else {
                    return Err(Error::internal(format!("column {} is no map", self.field.name())));
                };
                let pairs = pairs.map_err(defect)?;
                let offsets = renew_offsets(offsets);
                Arc::new(MapArray::try_new(entry.clone(), offsets, pairs, nulls, *sorted).map_err(defect)?)
            }
            Store::Struct(row) => {
                let (length, arrays) = row.finish()?;
                let fields: Fields = row.columns.iter().map(|column| column.field.clone()).collect();
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, length).map_err(defect)?)
            }
        })
    }
}

/// Takes the values, and leaves room for as many: the next batch is likely to be like this one.
fn renew<T>(values: &mut Vec<T>) -> Vec<T> {
    let capacity = values.len();
    std::mem::replace(values, Vec::with_capacity(capacity))
}

/// The same for text, whose length varies a little: without a reserve every other batch would copy its buffer to grow.
fn renew_text(bytes: &mut Vec<u8>) -> Vec<u8> {
    let capacity = bytes.len() + bytes.len() / 16;
    std::mem::replace(bytes, Vec::with_capacity(capacity))
}

fn renew_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = renew(offsets);
    offsets.push(0);
    OffsetBuffer::new(taken.into())
}

/// `length` as an Arrow offset.
///
/// # Errors
/// `Flaw::Full`
#[inline]
pub(super) fn offset(length: usize) -> Step<i32> {
    i32::try_from(length).map_err(|_| Box::new(Flaw::Full))
}

pub(super) fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Z")
}

fn unsupported(field: &Field) -> Error {
    Error::unsupported(format!("column {}: a payload cannot give {}", field.name(), field.data_type()))
        .help("declare another type and CAST in the query; timestamps are UTC, map keys are strings")
}

/// SQL's name of the type.
pub(super) fn type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 => "STRING",
        DataType::Binary => "BINARY",
        DataType::Date32 => "DATE",
        DataType::Timestamp(..) => "TIMESTAMP",
        DataType::List(_) => "ARRAY",
        DataType::Struct(_) => "STRUCT",
        DataType::Map(..) => "MAP",
        DataType::Decimal128(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        other => return other.to_string(),
    };
    name.to_owned()
}

/// The 64-bit integers as the column's own type; they are known to fit.
fn integers(
    array: Int64Array,
    kind: Integer,
    data_type: &DataType,
) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    fn narrow<T: types::ArrowPrimitiveType>(array: &Int64Array, convert: impl Fn(i64) -> T::Native) -> ArrayRef {
        let values: ScalarBuffer<T::Native> = array.values().iter().map(|value| convert(*value)).collect();
        Arc::new(PrimitiveArray::<T>::new(values, array.nulls().cloned()))
    }
    Ok(match kind {
        Integer::Signed(8) => narrow::<types::Int8Type>(&array, |value| value as i8),
        Integer::Signed(16) => narrow::<types::Int16Type>(&array, |value| value as i16),
        Integer::Signed(32) => narrow::<types::Int32Type>(&array, |value| value as i32),
        Integer::Unsigned(8) => narrow::<types::UInt8Type>(&array, |value| value as u8),
        Integer::Unsigned(16) => narrow::<types::UInt16Type>(&array, |value| value as u16),
        Integer::Unsigned(32) => narrow::<types::UInt32Type>(&array, |value| value as u32),
        Integer::Unsigned(_) => narrow::<types::UInt64Type>(&array, |value| value as u64),
        Integer::Date => narrow::<types::Date32Type>(&array, |value| value as i32),
        // The same bits under another type.
        Integer::Signed(_) | Integer::Timestamp(_) => {
            let data = array.to_data().into_builder().data_type(data_type.clone());
            arrow::array::make_array(data.build()?)
        }
    })
}
