//! RecordBatch to JSON, one object per line, as Spark writes it: null fields are left out, timestamps are ISO 8601
//! with milliseconds, and NaN and the infinities are strings (JSON has no number for them).

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch, make_array},
    datatypes::{DataType, FieldRef, Schema},
    error::ArrowError,
    json::{
        Encoder, EncoderFactory, EncoderOptions, WriterBuilder,
        writer::{LineDelimited, NullableEncoder},
    },
};

use super::text::{TextColumn, TextFormat};
use crate::error::{Error, Result};

/// Encodes batches of one schema.
#[derive(Debug)]
pub struct JsonEncoder {
    factory: Arc<SparkValues>,
}

impl JsonEncoder {
    /// `timestamp_format` is a Java pattern.
    ///
    /// # Errors
    /// `Invalid` for a column that JSON cannot hold (it is named), and for a pattern that is none.
    pub fn new(schema: &Schema, timestamp_format: Option<&str>) -> Result<Self> {
        for field in schema.fields() {
            check(field.data_type(), timestamp_format)
                .map_err(|error| error.context(format!("column '{}'", field.name())))?;
        }
        Ok(Self { factory: Arc::new(SparkValues { timestamp_format: timestamp_format.map(str::to_owned) }) })
    }

    /// Appends one line per row.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn encode(&self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let builder = WriterBuilder::new().with_explicit_nulls(false);
        let mut writer = builder.with_encoder_factory(self.factory.clone()).build::<_, LineDelimited>(out);
        writer.write(rows)?;
        writer.finish()?;
        Ok(())
    }
}

fn check(data_type: &DataType, timestamp_format: Option<&str>) -> Result<()> {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Err(Error::invalid("binary cannot be written as JSON")
                .help("cast it to a string, or use encode(column, 'base64')"))
        }
        DataType::Union(..) | DataType::Interval(_) | DataType::Duration(_) => {
            Err(Error::invalid(format!("type {data_type} cannot be written as JSON")).help("cast it to a string"))
        }
        DataType::Timestamp(..) => TextFormat::file(data_type, timestamp_format, None).map(|_| ()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => check(item.data_type(), timestamp_format),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check(field.data_type(), timestamp_format)),
        DataType::Dictionary(_, values) => check(values, timestamp_format),
        _ => Ok(()),
    }
}

/// The values that Spark writes in another way than arrow-json.
#[derive(Debug)]
struct SparkValues {
    timestamp_format: Option<String>,
}

impl EncoderFactory for SparkValues {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let quoted = match array.data_type() {
            DataType::Timestamp(..) => true,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => false,
            _ => return Ok(None),
        };
        let array: ArrayRef = make_array(array.to_data());
        let external = |error: Error| ArrowError::ExternalError(Box::new(error));
        let format = TextFormat::file(array.data_type(), self.timestamp_format.as_deref(), None).map_err(external)?;
        let nulls = array.nulls().cloned();
        let column = TextColumn::new(&array, &Arc::new(format)).map_err(external)?;
        Ok(Some(NullableEncoder::new(Box::new(SparkValue { column, quoted }), nulls)))
    }
}

struct SparkValue {
    column: TextColumn,
    quoted: bool,
}

impl Encoder for SparkValue {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        if self.quoted {
            out.push(b'"');
        }
        let text = out.len();
        self.column.write(row, out);
        // A pattern's literals may hold what JSON must escape.
        if out[text..].iter().any(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
            let raw = String::from_utf8_lossy(&out[text..]).into_owned();
            out.truncate(start);
            out.extend_from_slice(serde_json::Value::String(raw).to_string().as_bytes());
        } else if self.quoted {
            out.push(b'"');
        } else if matches!(out.last(), Some(b'N' | b'y')) {
            // NaN and Infinity
            out.insert(start, b'"');
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Float64Array, ListArray, StringArray, StructArray, TimestampMicrosecondArray},
        datatypes::{Field, Float64Type, Schema},
    };

    use super::*;

    fn rows() -> RecordBatch {
        let inner = StructArray::from(vec![(
            Arc::new(Field::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), true)),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_704_164_645_123_999), None])) as ArrayRef,
        )]);
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1e10), None]), None]);
        RecordBatch::try_from_iter_with_nullable([
            ("s", Arc::new(StringArray::from(vec![Some("a\"b"), None])) as ArrayRef, true),
            ("x", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-f64::INFINITY)])) as ArrayRef, true),
            ("inner", Arc::new(inner) as ArrayRef, true),
            ("list", Arc::new(list) as ArrayRef, true),
        ])
        .unwrap()
    }

    fn encode(format: Option<&str>) -> String {
        let mut out = Vec::new();
        JsonEncoder::new(&rows().schema(), format).unwrap().encode(&rows(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_what_spark_writes() {
        let at = r#""at":"2024-01-02T03:04:05.123""#;
        let first = format!(r#"{{"s":"a\"b","x":"NaN","inner":{{{at}}},"list":[1.0E10,null]}}"#);
        assert_eq!(encode(None), format!("{first}\n{}\n", r#"{"x":"-Infinity","inner":{}}"#));
        for line in encode(None).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn a_pattern_s_quotes_are_escaped() {
        let text = encode(Some("yyyy\"MM"));
        assert!(text.contains(r#""at":"2024\"01""#), "{text}");
    }

    #[test]
    fn binary_is_refused_by_name() {
        let schema = Schema::new(vec![Field::new("payload", DataType::Binary, true)]);
        let error = JsonEncoder::new(&schema, None).unwrap_err();
        assert!(error.message().contains("'payload'"), "{error}");
    }
}
