//! Some of the rows that a batch writes, for people to look at: one in so many, and the last one.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array},
    compute::{cast, take_record_batch},
    datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType},
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::Value;

use crate::error::Result;

/// Rows of a batch that are kept, at most, beside the last one.
const SAMPLE_ROWS_MAX: usize = 64;
/// Columns that are kept, the first ones.
const SAMPLE_COLUMNS_MAX: usize = 32;
/// Of a cell's text.
const CELL_CHARS_MAX: usize = 120;
/// Beyond it a whole number is not exact in JavaScript (IEEE 754's 53 bits).
const INTEGER_MAX: u64 = 1 << 53;

/// Rows as JSON: numbers, texts, booleans, NULL; a timestamp is its milliseconds since the epoch, with a fraction.
#[derive(Debug, Clone, Default)]
pub struct RowSample {
    /// Of the first `SAMPLE_COLUMNS_MAX` columns; none if there was no row.
    pub schema: Option<SchemaRef>,
    /// In the order in which they were written.
    pub rows: Vec<Vec<Value>>,
}

/// Takes rows as they are written and thins out those that it has, so that it never has many.
#[derive(Debug, Default)]
pub struct Sampler {
    schema: Option<SchemaRef>,
    /// With their numbers.
    kept: Vec<(u64, Vec<Value>)>,
    thinned: Thinned,
    seen: u64,
    last: Option<Vec<Value>>,
}

/// Which items of a series are kept: one in so many, chosen by a hash of its number. Every n-th would be those of one key
/// alone, where several take turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thinned {
    halvings: u32,
}

impl Thinned {
    /// Is the item of this number kept?
    pub fn keeps(self, number: u64) -> bool {
        mix(number).trailing_zeros() >= self.halvings
    }

    /// Keeps half of the items from now on.
    pub fn halve(&mut self) {
        self.halvings += 1;
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): each bit depends on all; 0 stays 0.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Sampler {
    /// The next rows of the batch.
    ///
    /// # Errors
    /// Arrow's, for a column that it cannot show.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        let count = rows.num_rows() as u64;
        if count == 0 {
            return Ok(());
        }
        let start = self.seen;
        self.seen += count;
        let mut chosen: Vec<u64> = (start..self.seen).filter(|number| self.thinned.keeps(*number)).collect();
        while self.kept.len() + chosen.len() > SAMPLE_ROWS_MAX {
            self.thinned.halve();
            let thinned = self.thinned;
            self.kept.retain(|(number, _)| thinned.keeps(*number));
            chosen.retain(|number| thinned.keeps(*number));
        }
        let last = self.seen - 1;
        let is_kept = chosen.last() == Some(&last);
        // Only these become JSON.
        let places = chosen.iter().copied().chain((!is_kept).then_some(last)).map(|number| number - start);
        let shown: Vec<usize> = (0..rows.num_columns().min(SAMPLE_COLUMNS_MAX)).collect();
        let rows = take_record_batch(&rows.project(&shown)?, &places.collect::<UInt64Array>())?;
        let cells = Cells::of(&rows)?;
        for (row, number) in chosen.iter().enumerate() {
            self.kept.push((*number, cells.row(row)?));
        }
        self.last = if is_kept { None } else { Some(cells.row(chosen.len())?) };
        self.schema = Some(rows.schema());
        Ok(())
    }

    /// What was kept.
    pub fn finish(self) -> RowSample {
        RowSample { schema: self.schema, rows: self.kept.into_iter().map(|(_, row)| row).chain(self.last).collect() }
    }
}

/// How the columns of one `RecordBatch` become JSON.
struct Cells<'a> {
    columns: Vec<Cell<'a>>,
}

enum Cell<'a> {
    Integer(ArrayRef),
    Double(ArrayRef),
    /// Microseconds.
    Time(ArrayRef),
    Boolean(&'a ArrayRef),
    Text(&'a ArrayRef, ArrayFormatter<'a>),
}

const SHOWN: FormatOptions<'static> = FormatOptions::new().with_display_error(true);

impl<'a> Cells<'a> {
    fn of(rows: &'a RecordBatch) -> Result<Self> {
        let cell = |column: &'a ArrayRef| -> Result<Cell<'a>> {
            Ok(match column.data_type() {
                // Whole numbers of 64 bits without a sign do not fit, and are shown as text.
                DataType::UInt64 => Cell::Text(column, ArrayFormatter::try_new(column.as_ref(), &SHOWN)?),
                whole if whole.is_integer() => Cell::Integer(cast(column, &DataType::Int64)?),
                DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                    Cell::Double(cast(column, &DataType::Float64)?)
                }
                DataType::Timestamp(_, zone) => {
                    Cell::Time(cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?)
                }
                DataType::Boolean => Cell::Boolean(column),
                _ => Cell::Text(column, ArrayFormatter::try_new(column.as_ref(), &SHOWN)?),
            })
        };
        Ok(Self { columns: rows.columns().iter().map(cell).collect::<Result<_>>()? })
    }

    fn row(&self, row: usize) -> Result<Vec<Value>> {
        self.columns.iter().map(|column| column.value(row)).collect()
    }
}

impl Cell<'_> {
    fn value(&self, row: usize) -> Result<Value> {
        let array: &dyn Array = match self {
            Self::Integer(array) | Self::Double(array) | Self::Time(array) => array,
            Self::Boolean(array) | Self::Text(array, _) => *array,
        };
        if array.is_null(row) {
            return Ok(Value::Null);
        }
        Ok(match self {
            Self::Integer(array) => match array.as_primitive::<Int64Type>().value(row) {
                value if value.unsigned_abs() <= INTEGER_MAX => Value::from(value),
                value => Value::from(value.to_string()),
            },
            Self::Double(array) => match array.as_primitive::<Float64Type>().value(row) {
                value if value.is_finite() => Value::from(value),
                // JSON has no such number.
                value => Value::from(value.to_string()),
            },
            Self::Time(array) => Value::from(array.as_primitive::<TimestampMicrosecondType>().value(row) as f64 / 1e3),
            Self::Boolean(array) => Value::from(array.as_boolean().value(row)),
            Self::Text(_, formatter) => Value::from(cut(formatter.value(row).try_to_string()?)),
        })
    }
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(CELL_CHARS_MAX) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

/// What a page does with a column.
fn kind_of(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(..) => "timestamp",
        DataType::Boolean => "boolean",
        number if number.is_numeric() => "number",
        _ => "text",
    }
}

impl RowSample {
    /// Names and kinds of the columns.
    pub fn columns(&self) -> Vec<(String, &'static str)> {
        let fields = self.schema.iter().flat_map(|schema| schema.fields());
        fields.map(|field| (field.name().clone(), kind_of(field.data_type()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampNanosecondArray},
        datatypes::{Field, Schema},
    };
    use serde_json::json;

    use super::*;

    fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(range))]).unwrap()
    }

    fn sampled(cuts: &[i64]) -> Vec<i64> {
        let (mut sampler, mut start) = (Sampler::default(), 0);
        for end in cuts {
            sampler.add(&numbers(start..*end)).unwrap();
            start = *end;
        }
        sampler.finish().rows.iter().map(|row| row[0].as_i64().unwrap()).collect()
    }

    #[test]
    fn few_rows_are_all_kept_and_many_are_thinned_out_alike() {
        assert_eq!(sampled(&[]), [0; 0]);
        assert_eq!(sampled(&[0, 3, 3, 64]), (0..64).collect::<Vec<_>>());
        let kept = sampled(&[1_000_000]);
        assert!(kept.len() > SAMPLE_ROWS_MAX / 4 && kept.len() <= SAMPLE_ROWS_MAX + 1, "{}", kept.len());
        assert_eq!((kept[0], kept.last()), (0, Some(&999_999)));
        // Of each quarter, and of each of the keys that take turns, about as many.
        for part in 0..4 {
            let quarter = kept.iter().filter(|row| **row / 250_000 == part).count();
            let key = kept.iter().filter(|row| **row % 4 == part).count();
            assert!(quarter >= kept.len() / 10 && key >= kept.len() / 10, "{part}: {quarter}, {key}, {kept:?}");
        }
    }

    #[test]
    fn how_rows_arrive_does_not_matter() {
        for cuts in [&[1, 2, 3, 700][..], &[69, 70, 71, 700], &[350, 700], &[699, 700]] {
            assert_eq!(sampled(cuts), sampled(&[700]), "{cuts:?}");
        }
    }

    #[test]
    fn cells_are_json_that_a_page_can_read() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int64Array::from(vec![Some(7), None, Some(i64::MAX)]))),
            ("u", Arc::new(UInt64Array::from(vec![u64::MAX; 3]))),
            ("d", Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None]))),
            ("t", Arc::new(TimestampNanosecondArray::from(vec![Some(1_500_250_000), None, Some(-1_000_000)]))),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("m", Arc::new(Decimal128Array::from(vec![12345; 3]).with_precision_and_scale(9, 2).unwrap())),
            ("s", Arc::new(StringArray::from(vec![Some("<b>"), None, Some("\u{e9}".repeat(200).as_str())]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut sampler = Sampler::default();
        sampler.add(&rows).unwrap();
        let sample = sampler.finish();
        let kinds: Vec<&str> = sample.columns().iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds, ["number", "number", "number", "timestamp", "boolean", "number", "text"]);
        let long = "\u{e9}".repeat(CELL_CHARS_MAX) + "...";
        let expected = json!([
            [7, "18446744073709551615", 1.5, 1500.25, true, "123.45", "<b>"],
            [null, "18446744073709551615", "NaN", null, null, "123.45", null],
            ["9223372036854775807", "18446744073709551615", null, -1.0, false, "123.45", long],
        ]);
        assert_eq!(json!(sample.rows), expected);
    }
}
