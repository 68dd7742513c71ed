//! What DataFusion's readers of text files cannot do: times in the user's own pattern, and a word for null. They take
//! such columns for text, and an expression above them makes values of it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, timezone::Tz},
    compute::{CastOptions, cast, cast_with_options},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use chrono::{DateTime, TimeZone};
use datafusion::{
    error::DataFusionError,
    logical_expr::ColumnarValue,
    physical_expr::{PhysicalExpr, expressions::Column},
    physical_plan::{ExecutionPlan, projection::ProjectionExec, projection::ProjectionExpr},
};

use crate::{
    catalog::CsvOptions,
    decode::TimePattern,
    error::{Error, ErrorKind, Result},
};

/// How the text of one column is read.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TextValue {
    column: String,
    data_type: DataType,
    /// The text that means null, beside none at all.
    null: String,
    time: Option<TimeText>,
}

/// A pattern for times.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeText {
    option: &'static str,
    text: String,
    pattern: TimePattern,
}

/// One entry for each column of `schema`: how it is read, if the reader cannot. `place` is for messages.
///
/// # Errors
/// `Invalid` for a pattern; `Unsupported` for a time inside a nested column.
pub(super) fn of_columns(schema: &Schema, options: &CsvOptions, place: &str) -> Result<Vec<Option<Arc<TextValue>>>> {
    let of_field = |field: &Arc<Field>| {
        let pattern = match field.data_type() {
            DataType::Timestamp(..) => options.timestamp_format.as_ref().map(|text| ("timestampFormat", text)),
            DataType::Date32 | DataType::Date64 => options.date_format.as_ref().map(|text| ("dateFormat", text)),
            nested if nested.is_nested() && options.timestamp_format.is_some() && holds_timestamp(nested) => {
                let text = format!("the column '{}' of {place} holds timestamps inside", field.name());
                return Err(Error::unsupported(format!("{text}, which no query reads by 'timestampFormat'"))
                    .help("declare it in a table of its own, with VARCHAR for them, and use to_timestamp"));
            }
            _ => None,
        };
        if pattern.is_none() && options.null_value.is_empty() {
            return Ok(None);
        }
        let time = |(option, text): (&'static str, &String)| -> Result<TimeText> {
            Ok(TimeText { option, text: text.clone(), pattern: TimePattern::new(option, text)? })
        };
        let (column, data_type) = (field.name().clone(), field.data_type().clone());
        let (null, time) = (options.null_value.clone(), pattern.map(time).transpose()?);
        Ok(Some(Arc::new(TextValue { column, data_type, null, time })))
    };
    schema.fields().iter().map(of_field).collect()
}

fn holds_timestamp(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(..) => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => holds_timestamp(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_timestamp(field.data_type())),
        _ => false,
    }
}

/// What the files' reader takes the columns for.
pub(super) fn as_text(schema: &Schema, values: &[Option<Arc<TextValue>>]) -> SchemaRef {
    let field = |(field, value): (&Arc<Field>, &Option<_>)| match value {
        Some(_) => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        None => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().zip(values).map(field).collect::<Vec<_>>()))
}

/// Makes values of text: column `i` of `input` is column `columns[i]` of the table.
///
/// # Errors
/// DataFusion's.
pub(super) fn parsed(
    input: Arc<dyn ExecutionPlan>,
    columns: &[usize],
    values: &[Option<Arc<TextValue>>],
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let value_of = |column: usize| values.get(column).and_then(Option::as_ref);
    if !columns.iter().any(|column| value_of(*column).is_some()) {
        return Ok(input);
    }
    let schema = input.schema();
    let expression = |(index, column): (usize, &usize)| {
        let alias = schema.field(index).name().clone();
        let text: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&alias, index));
        let expr = match value_of(*column) {
            Some(value) => Arc::new(ParsedText { text, value: Arc::clone(value) }),
            None => text,
        };
        ProjectionExpr { expr, alias }
    };
    let expressions: Vec<_> = columns.iter().enumerate().map(expression).collect();
    let projection = ProjectionExec::try_new(expressions, Arc::clone(&input))?;
    // In the reader, which names the file in an error.
    let inside = input.try_swapping_with_projection(&projection)?;
    Ok(inside.unwrap_or_else(|| Arc::new(projection)))
}

impl TextValue {
    fn read(&self, texts: &ArrayRef) -> Result<ArrayRef> {
        let texts = cast(texts, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>().iter().map(|text| text.filter(|text| *text != self.null));
        let Some(time) = &self.time else {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            let texts: StringArray = texts.collect();
            return cast_with_options(&texts, &self.data_type, &options).map_err(|error| {
                Error::new(ErrorKind::BadRecord, format!("column '{}': {error}", self.column))
                    .help("declare the column as VARCHAR in a table of its own, and use TRY_CAST")
            });
        };
        let zone = match &self.data_type {
            DataType::Timestamp(_, Some(zone)) => Some(zone.parse::<Tz>()?),
            _ => None,
        };
        let value = |text: &str| {
            time.value(text.as_bytes(), &self.data_type, zone).ok_or_else(|| {
                let (column, TimeText { option, text: pattern, .. }) = (&self.column, time);
                let message = format!("column '{column}' is '{text}', which is not {option} = '{pattern}'");
                Error::new(ErrorKind::BadRecord, message)
                    .help("declare the column as VARCHAR in a table of its own, and use to_timestamp")
            })
        };
        let values = texts.map(|text| text.map(value).transpose()).collect::<Result<Int64Array>>()?;
        Ok(match self.data_type {
            DataType::Timestamp(..) => cast(&values, &self.data_type)?,
            _ => cast(&cast(&cast(&values, &DataType::Int32)?, &DataType::Date32)?, &self.data_type)?,
        })
    }
}

impl TimeText {
    /// Ticks or days since the epoch.
    fn value(&self, text: &[u8], data_type: &DataType, zone: Option<Tz>) -> Option<i64> {
        let DataType::Timestamp(unit, _) = data_type else { return self.pattern.date(text) };
        let (mut instant, has_zone) = self.pattern.moment(text)?;
        if let (false, Some(zone)) = (has_zone, zone) {
            // The writer wrote the wall clock of the column's zone. Of an hour that comes twice, the first.
            let wall = DateTime::from_timestamp(instant.seconds, 0)?.naive_utc();
            instant.seconds = zone.from_local_datetime(&wall).earliest()?.timestamp();
        }
        instant.ticks(*unit)
    }
}

/// The expression.
#[derive(Debug)]
struct ParsedText {
    text: Arc<dyn PhysicalExpr>,
    value: Arc<TextValue>,
}

impl PartialEq for ParsedText {
    fn eq(&self, other: &Self) -> bool {
        self.text.eq(&other.text) && self.value == other.value
    }
}

impl Eq for ParsedText {}

impl Hash for ParsedText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
        self.value.hash(state);
    }
}

impl fmt::Display for ParsedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parse({} as {})", self.text, self.value.data_type)
    }
}

impl PhysicalExpr for ParsedText {
    fn data_type(&self, _input: &Schema) -> datafusion::error::Result<DataType> {
        Ok(self.value.data_type.clone())
    }

    fn nullable(&self, _input: &Schema) -> datafusion::error::Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> datafusion::error::Result<ColumnarValue> {
        let texts = self.text.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(self.value.read(&texts).map_err(DataFusionError::from)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.text]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> datafusion::error::Result<Arc<dyn PhysicalExpr>> {
        let text = children.pop().unwrap_or_else(|| Arc::clone(&self.text));
        Ok(Arc::new(Self { text, value: Arc::clone(&self.value) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::Array, datatypes::TimeUnit, util::display::array_value_to_string};

    use super::*;

    fn read(data_type: DataType, pattern: &str, text: &str) -> Result<String> {
        let schema = Schema::new(vec![Field::new("at", data_type, true)]);
        let pattern = Some(pattern.to_owned());
        let options = CsvOptions { timestamp_format: pattern.clone(), date_format: pattern, ..CsvOptions::default() };
        let values = of_columns(&schema, &options, "t").unwrap();
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(text), None]));
        let values = values[0].as_ref().unwrap().read(&texts)?;
        assert!(values.is_null(1) && values.data_type() == schema.field(0).data_type());
        Ok(array_value_to_string(&values, 0).unwrap())
    }

    #[test]
    fn the_wall_clock_is_that_of_the_columns_zone() {
        let pattern = "d.M.yyyy HH:mm:ss[.SSS][ XXX]";
        let zoned = |zone: &str| DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
        let text = "2.7.2024 15:04:05.500";
        let plain = DataType::Timestamp(TimeUnit::Millisecond, None);
        assert_eq!(read(plain, pattern, text).unwrap(), "2024-07-02T15:04:05.500");
        assert_eq!(read(zoned("Europe/Paris"), pattern, text).unwrap(), "2024-07-02T15:04:05.500+02:00");
        assert_eq!(read(zoned("+00:00"), pattern, "2.7.2024 15:04:05 +02:00").unwrap(), "2024-07-02T13:04:05Z");
        assert_eq!(read(DataType::Date32, "dd/MM/yy", "31/12/24").unwrap(), "2024-12-31");
        assert_eq!(read(DataType::Date64, "dd/MM/yy", "31/12/24").unwrap(), "2024-12-31T00:00:00");
        let error = read(DataType::Date32, "dd/MM/yy", "2024-12-31").unwrap_err();
        assert!(error.message().contains("'at' is '2024-12-31', which is not dateFormat = 'dd/MM/yy'"), "{error}");
    }

    #[test]
    fn the_word_for_null_is_null_in_every_type() {
        let schema = Schema::new(vec![Field::new("s", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]);
        let options = CsvOptions { null_value: "NULL".to_owned(), ..CsvOptions::default() };
        let values = of_columns(&schema, &options, "t").unwrap();
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["NULL", "7"]));
        for (value, field) in values.iter().zip(schema.fields()) {
            let read = value.as_ref().unwrap().read(&texts).unwrap();
            assert!(read.is_null(0) && read.is_valid(1) && read.data_type() == field.data_type());
        }
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["seven"]));
        let error = values[1].as_ref().unwrap().read(&texts).unwrap_err();
        assert!(error.message().contains("column 'n'") && error.message().contains("'seven'"), "{error}");
    }
}
