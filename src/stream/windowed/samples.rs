//! The first rows of a batch that were set aside, for people to look at.

use arrow::{array::RecordBatch, json::LineDelimitedWriter};
use serde_json::Value;

use crate::error::{Error, Result};

/// Rows of a batch that are kept as a sample.
pub const SAMPLES_MAX: usize = 3;

/// Characters of a string in a sample; the rest is cut off.
const STRING_CHARS_MAX: usize = 200;

/// The first rows of `rows` as JSON objects, at most `room`.
///
/// # Errors
/// `Internal` for a type that JSON cannot hold.
pub fn samples(rows: &RecordBatch, room: usize) -> Result<Vec<Value>> {
    let rows = rows.slice(0, rows.num_rows().min(room));
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    let lines = writer.into_inner();
    let parsed = serde_json::Deserializer::from_slice(&lines).into_iter::<Value>().map(|value| value.map(shortened));
    parsed
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::internal("a late row is no JSON").source_error(error))
}

fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(STRING_CHARS_MAX) {
            Some((end, _)) => Value::String(format!("{}...", text.get(..end).unwrap_or_default())),
            None => Value::String(text),
        },
        Value::Array(values) => Value::Array(values.into_iter().take(STRING_CHARS_MAX).map(shortened).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, shortened(value))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn the_first_rows_with_short_strings() {
        let long = "x".repeat(1000);
        let text: ArrayRef = Arc::new(StringArray::from(vec![long.as_str(), "short", "third"]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let rows = RecordBatch::try_from_iter([("text", text), ("number", number)]).unwrap();
        let found = samples(&rows, 2).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["text"].as_str().unwrap().len(), STRING_CHARS_MAX + 3);
        assert_eq!((&found[0]["number"], &found[1]["text"]), (&1.into(), &"short".into()));
        assert!(samples(&rows, 0).unwrap().is_empty());
    }
}
