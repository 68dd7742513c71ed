//! Rows as Kafka records, under Spark's column names.

use std::ops::Range;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Int32Array, ListArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int32Type, Schema},
};
use rdkafka::message::{Header, OwnedHeaders};

use crate::{
    error::{Error, Result},
    sink::json::JsonEncoder,
};

/// Where the parts of a record are among the columns.
#[derive(Debug)]
pub(super) struct RecordShape {
    /// `None`: the whole row is the value, as a JSON object.
    value: Option<usize>,
    json: Option<JsonEncoder>,
    key: Key,
    topic: Option<usize>,
    partition: Option<usize>,
    headers: Option<usize>,
}

/// Where the keys come from.
#[derive(Debug)]
enum Key {
    None,
    Column(usize),
    /// A JSON object of these columns, with microseconds, so that different values give different keys.
    Fields(Vec<usize>, JsonEncoder),
}

const KEY_TIMESTAMPS: &str = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS[XXX]";

/// The rows of one batch as records.
#[derive(Debug)]
pub(super) struct Records {
    value: Values,
    key: Option<Values>,
    topic: Option<BinaryArray>,
    partition: Option<Int32Array>,
    headers: Option<HeaderColumn>,
}

/// The column `headers`, its keys and its values.
#[derive(Debug)]
struct HeaderColumn {
    lists: ListArray,
    keys: BinaryArray,
    values: BinaryArray,
}

#[derive(Debug)]
enum Values {
    Column(BinaryArray),
    /// Lines of JSON, and where each ends.
    Lines(Vec<u8>, Vec<usize>),
}

/// One record.
#[derive(Debug)]
pub(super) struct RecordRow<'a> {
    pub topic: Option<&'a str>,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    headers: Option<(&'a HeaderColumn, Range<usize>)>,
}

impl RecordShape {
    /// `key_fields`: the columns that make the key of a row that becomes JSON.
    ///
    /// # Errors
    /// `Invalid`: names the column and the type that it must have.
    pub fn new(schema: &Schema, key_fields: &[String]) -> Result<Self> {
        let value = column(schema, "value", "a string or binary", is_bytes)?;
        if value.is_none() {
            let json = Some(JsonEncoder::new(schema, None)?);
            let key = Key::of(schema, key_fields)?;
            return Ok(Self { value, json, key, topic: None, partition: None, headers: None });
        }
        if !key_fields.is_empty() {
            return Err(Error::invalid(
                "'key.fields' makes the key of a row that becomes JSON, and this one has a column 'value'",
            )
            .help("SELECT ... AS key beside the value, or leave out the column 'value'"));
        }
        for field in schema.fields() {
            if !["key", "value", "topic", "partition", "headers"].contains(&field.name().as_str()) {
                return Err(Error::invalid(format!("a row for Kafka has no place for the column '{}'", field.name()))
                    .help("beside 'value' there may be key, topic, partition and headers; without 'value' the whole row becomes JSON"));
            }
        }
        Ok(Self {
            value,
            json: None,
            key: column(schema, "key", "a string or binary", is_bytes)?.map_or(Key::None, Key::Column),
            topic: column(schema, "topic", "a string", is_string)?,
            partition: column(schema, "partition", "an int", |data_type| *data_type == DataType::Int32)?,
            headers: column(schema, "headers", "array<struct<key: string, value: binary>>", is_headers)?,
        })
    }

    /// The rows of a batch.
    pub fn records(&self, rows: &RecordBatch) -> Result<Records> {
        let value = match (self.value, &self.json) {
            (Some(index), _) => Values::Column(bytes(rows.column(index))?),
            (None, Some(json)) => Values::json(json, rows)?,
            (None, None) => return Err(Error::internal("a record has no value")),
        };
        let bytes_at = |index: Option<usize>| index.map(|index| bytes(rows.column(index))).transpose();
        Ok(Records {
            value,
            key: match &self.key {
                Key::None => None,
                Key::Column(index) => Some(Values::Column(bytes(rows.column(*index))?)),
                Key::Fields(fields, json) => Some(Values::json(json, &rows.project(fields)?)?),
            },
            topic: bytes_at(self.topic)?,
            partition: self.partition.map(|index| rows.column(index).as_primitive::<Int32Type>().clone()),
            headers: self.headers.map(|index| HeaderColumn::new(rows.column(index))).transpose()?,
        })
    }
}

impl Key {
    fn of(schema: &Schema, fields: &[String]) -> Result<Self> {
        if fields.is_empty() {
            return Ok(Self::None);
        }
        let index = |name: &String| {
            schema.index_of(name).map_err(|_| {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                Error::invalid(format!("'key.fields' names {name}, which is no column of the rows"))
                    .help(format!("they have {}", names.join(", ")))
            })
        };
        let fields = fields.iter().map(index).collect::<Result<Vec<_>>>()?;
        let json = JsonEncoder::new(&schema.project(&fields)?, Some(KEY_TIMESTAMPS))?;
        Ok(Self::Fields(fields, json))
    }
}

impl Values {
    fn json(json: &JsonEncoder, rows: &RecordBatch) -> Result<Self> {
        let mut text = Vec::new();
        json.encode(rows, &mut text)?;
        // JSON escapes line feeds, so each one ends a row.
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', &text).collect();
        if ends.len() != rows.num_rows() {
            return Err(Error::internal(format!("{} rows gave {} lines", rows.num_rows(), ends.len())));
        }
        Ok(Self::Lines(text, ends))
    }

    fn row(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Column(array) => at(array, row),
            Self::Lines(text, ends) => {
                let start = if row == 0 { 0 } else { ends[row - 1] + 1 };
                Some(&text[start..ends[row]])
            }
        }
    }
}

impl Records {
    /// # Errors
    /// `Invalid` for a partition number below 0.
    pub fn row(&self, row: usize) -> Result<RecordRow<'_>> {
        let value = self.value.row(row);
        let topic = match self.topic.as_ref().and_then(|array| at(array, row)) {
            Some(topic) => Some(std::str::from_utf8(topic).map_err(|error| Error::internal(error.to_string()))?),
            None => None,
        };
        let partition = self.partition.as_ref().filter(|array| array.is_valid(row)).map(|array| array.value(row));
        if let Some(partition) = partition.filter(|partition| *partition < 0) {
            return Err(Error::invalid(format!("column 'partition' holds {partition}"))
                .help("a partition is 0 or more; NULL lets the key decide"));
        }
        let key = self.key.as_ref().and_then(|keys| keys.row(row));
        let headers = self.headers.as_ref().and_then(|column| Some((column, column.range(row)?)));
        Ok(RecordRow { topic, partition, key, value, headers })
    }
}

impl RecordRow<'_> {
    /// For librdkafka, which takes them over with each attempt to send.
    pub fn headers(&self) -> Option<OwnedHeaders> {
        let (column, range) = self.headers.as_ref()?;
        let mut headers = OwnedHeaders::new_with_capacity(range.len());
        for i in range.clone() {
            let key = at(&column.keys, i).and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
            headers = headers.insert(Header { key, value: at(&column.values, i) });
        }
        Some(headers)
    }
}

impl HeaderColumn {
    fn new(array: &ArrayRef) -> Result<Self> {
        let lists = array.as_list::<i32>().clone();
        let pairs = lists.values().as_struct();
        Ok(Self { keys: bytes(pairs.column(0))?, values: bytes(pairs.column(1))?, lists })
    }

    /// Where a row's headers are; `None` for null.
    fn range(&self, row: usize) -> Option<Range<usize>> {
        let offsets = self.lists.value_offsets();
        let at = |i: usize| usize::try_from(offsets[i]).ok();
        if self.lists.is_null(row) { None } else { Some(at(row)?..at(row + 1)?) }
    }
}

fn at(array: &BinaryArray, row: usize) -> Option<&[u8]> {
    array.is_valid(row).then(|| array.value(row))
}

/// Strings are bytes already: for the common types the cast copies nothing.
fn bytes(array: &ArrayRef) -> Result<BinaryArray> {
    Ok(cast(array, &DataType::Binary)?.as_binary::<i32>().clone())
}

fn column(schema: &Schema, name: &str, wanted: &str, fits: fn(&DataType) -> bool) -> Result<Option<usize>> {
    let Some((index, field)) = schema.column_with_name(name) else { return Ok(None) };
    if fits(field.data_type()) {
        return Ok(Some(index));
    }
    Err(Error::invalid(format!("column '{name}' of a row for Kafka must be {wanted}, not {}", field.data_type()))
        .help(format!("cast it, as in CAST({name} AS VARCHAR)")))
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    is_string(data_type) || matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_headers(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) => {
                fields.len() == 2 && is_string(fields[0].data_type()) && is_bytes(fields[1].data_type())
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::Field,
    };
    use rdkafka::message::Headers;

    use super::*;
    use crate::catalog::KafkaColumn;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    #[test]
    fn a_row_without_value_is_json() {
        let rows = rows(vec![
            ("key", Arc::new(StringArray::from(vec![Some("a\nb"), None])) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
        ]);
        let records = RecordShape::new(&rows.schema(), &[]).unwrap().records(&rows).unwrap();
        assert_eq!(records.row(0).unwrap().value, Some(br#"{"key":"a\nb","n":1}"#.as_slice()));
        let second = records.row(1).unwrap();
        assert_eq!((second.value, second.key), (Some(br#"{"n":2}"#.as_slice()), None));
    }

    #[test]
    fn key_fields_become_a_json_object() {
        let rows = rows(vec![
            ("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("s", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("t", Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![1_000_001, 2]))),
        ]);
        let shape = |fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
            RecordShape::new(&rows.schema(), &fields)
        };
        let records = shape(&["s", "t"]).unwrap().records(&rows).unwrap();
        let key = |row| String::from_utf8(records.row(row).unwrap().key.unwrap().to_vec()).unwrap();
        assert_eq!(key(0), r#"{"s":"a","t":"1970-01-01T00:00:01.000001"}"#);
        assert_eq!(key(1), r#"{"t":"1970-01-01T00:00:00.000002"}"#);
        assert!(records.row(1).unwrap().value.unwrap().starts_with(br#"{"n":2"#));
        assert!(shape(&["x"]).unwrap_err().to_string().contains("names x"));
        let value = Schema::new(vec![Field::new("value", DataType::Utf8, true)]);
        assert!(RecordShape::new(&value, &["value".to_owned()]).unwrap_err().message().contains("'key.fields'"));
    }

    #[test]
    fn columns_become_the_record() {
        let DataType::List(item) = KafkaColumn::Headers.data_type() else { unreachable!() };
        let DataType::Struct(fields) = item.data_type().clone() else { unreachable!() };
        let pairs = arrow::array::StructArray::new(
            fields,
            vec![Arc::new(StringArray::from(vec!["h"])), Arc::new(BinaryArray::from(vec![Some(b"v".as_slice())]))],
            None,
        );
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 0]);
        let headers = ListArray::new(item, offsets, Arc::new(pairs), Some(vec![true, false].into()));
        let rows = rows(vec![
            ("value", Arc::new(StringArray::from(vec![Some("v"), None])) as ArrayRef),
            ("key", Arc::new(BinaryArray::from(vec![None, Some(b"k".as_slice())]))),
            ("topic", Arc::new(StringArray::from(vec![None, Some("other")]))),
            ("partition", Arc::new(Int32Array::from(vec![Some(3), None]))),
            ("headers", Arc::new(headers)),
        ]);
        let records = RecordShape::new(&rows.schema(), &[]).unwrap().records(&rows).unwrap();
        let first = records.row(0).unwrap();
        assert_eq!(
            (first.value, first.key, first.topic, first.partition),
            (Some(b"v".as_slice()), None, None, Some(3))
        );
        let header = first.headers().unwrap();
        assert_eq!((header.get(0).key, header.get(0).value), ("h", Some(b"v".as_slice())));
        let second = records.row(1).unwrap();
        assert_eq!((second.value, second.key, second.topic), (None, Some(b"k".as_slice()), Some("other")));
        assert!(second.headers().is_none());
    }

    #[test]
    fn refusals_name_the_column() {
        let refuse = |name: &str, data_type: DataType| {
            let value = Field::new("value", DataType::Utf8, true);
            let fields = if name == "value" { vec![] } else { vec![value] };
            let fields = [fields, vec![Field::new(name, data_type, true)]].concat();
            RecordShape::new(&Schema::new(fields), &[]).unwrap_err().to_string()
        };
        assert!(refuse("value", DataType::Int64).contains("'value'"));
        assert!(refuse("partition", DataType::Int64).contains("must be an int"));
        assert!(refuse("headers", DataType::Utf8).contains("array<struct"));
        assert!(refuse("price", DataType::Float64).contains("'price'"));
        let rows = rows(vec![
            ("value", Arc::new(StringArray::from(vec!["v"])) as ArrayRef),
            ("partition", Arc::new(Int32Array::from(vec![-1]))),
        ]);
        let records = RecordShape::new(&rows.schema(), &[]).unwrap().records(&rows).unwrap();
        assert!(records.row(0).unwrap_err().message().contains("-1"));
    }
}
