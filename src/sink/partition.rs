//! `partitionBy`: which rows of a batch go into which directory.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::{Schema, SchemaRef},
    row::{RowConverter, SortField},
};

use super::{
    layout::directory,
    text::{TextColumn, TextFormat, has_text},
};
use crate::error::{Error, Result, nearest};

/// The partition columns of a sink.
#[derive(Debug)]
pub(crate) struct Partitioning {
    /// Name, index and text of each partition column, in the order of `partitionBy`.
    columns: Vec<(String, usize, Arc<TextFormat>)>,
    /// Indices of the columns that stay in the files.
    kept: Vec<usize>,
    /// Makes rows comparable as bytes.
    sort_fields: Vec<SortField>,
}

/// Rows of one directory.
#[derive(Debug)]
pub(crate) struct Part {
    /// `day=2024-01-02/symbol=BTCUSDT`; empty without `partitionBy`.
    pub directory: String,
    /// Without the partition columns.
    pub rows: RecordBatch,
}

impl Partitioning {
    /// # Errors
    /// `Invalid`: names the column, and suggests the nearest.
    pub fn new(schema: &Schema, names: &[String]) -> Result<Self> {
        let mut columns: Vec<(String, usize, Arc<TextFormat>)> = Vec::with_capacity(names.len());
        for name in names {
            let (index, field) = find(schema, name)?;
            if columns.iter().any(|(_, other, _)| *other == index) {
                return Err(Error::invalid(format!("partitionBy names the column '{name}' twice")));
            }
            if !has_text(field.data_type()) {
                let text =
                    format!("partitionBy: column '{name}' of type {} cannot name a directory", field.data_type());
                return Err(Error::invalid(text).help("partition by a string, a number, a date or a boolean"));
            }
            let format = TextFormat::cast(field.data_type())?;
            columns.push((field.name().clone(), index, Arc::new(format)));
        }
        let kept: Vec<usize> =
            (0..schema.fields().len()).filter(|i| columns.iter().all(|(_, at, _)| at != i)).collect();
        if kept.is_empty() {
            return Err(Error::invalid("partitionBy names every column: nothing is left for the files")
                .help("keep at least one column out of partitionBy"));
        }
        let type_of = |index: usize| schema.field(index).data_type().clone();
        let sort_fields = columns.iter().map(|(_, index, _)| SortField::new(type_of(*index))).collect();
        Ok(Self { columns, kept, sort_fields })
    }

    /// The schema of the files.
    pub fn file_schema(&self, schema: &Schema) -> Result<SchemaRef> {
        Ok(Arc::new(schema.project(&self.kept)?))
    }

    /// Without `partitionBy`.
    pub fn is_none(&self) -> bool {
        self.columns.is_empty()
    }

    /// Splits a batch, in the order in which its directories first occur; the rows of each keep their order.
    pub fn split(&self, rows: &RecordBatch) -> Result<Vec<Part>> {
        if self.is_none() {
            return Ok(vec![Part { directory: String::new(), rows: rows.clone() }]);
        }
        let keys: Vec<_> = self.columns.iter().map(|(_, index, _)| rows.column(*index).clone()).collect();
        let converter = RowConverter::new(self.sort_fields.clone())?;
        let keys = converter.convert_columns(&keys)?;
        // Rows of one key mostly follow one another, so the last key is looked at first.
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut known: HashMap<_, usize> = HashMap::new();
        let mut last = None;
        for (row, key) in keys.iter().enumerate() {
            let group = match last {
                Some((last_key, group)) if last_key == key => group,
                _ => *known.entry(key).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                }),
            };
            last = Some((key, group));
            groups[group].push(u32::try_from(row).unwrap_or(u32::MAX));
        }
        let files = rows.project(&self.kept)?;
        if groups.len() == 1 {
            return Ok(vec![Part { directory: self.directory(rows, 0)?, rows: files }]);
        }
        // Null and "" are two keys and one directory.
        let mut parts: Vec<(String, Vec<u32>)> = Vec::with_capacity(groups.len());
        let mut named: HashMap<String, usize> = HashMap::with_capacity(groups.len());
        for group in groups {
            let first = group.first().copied().unwrap_or_default();
            let directory = self.directory(rows, usize::try_from(first).unwrap_or_default())?;
            match named.get(&directory) {
                Some(part) => {
                    parts[*part].1.extend(group);
                    parts[*part].1.sort_unstable();
                }
                None => {
                    named.insert(directory.clone(), parts.len());
                    parts.push((directory, group));
                }
            }
        }
        let taken = |(directory, indices): (String, Vec<u32>)| {
            Ok(Part { directory, rows: take_record_batch(&files, &UInt32Array::from(indices))? })
        };
        parts.into_iter().map(taken).collect()
    }

    /// The directory of one row.
    fn directory(&self, rows: &RecordBatch, row: usize) -> Result<String> {
        let mut path = String::new();
        for (name, index, format) in &self.columns {
            let column = TextColumn::new(&rows.column(*index).slice(row, 1), format)?;
            let mut text = Vec::new();
            let is_null = column.is_null(0);
            if !is_null {
                column.write(0, &mut text);
            }
            let text = String::from_utf8_lossy(&text);
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&directory(name, (!is_null).then_some(&text)));
        }
        Ok(path)
    }
}

fn find<'a>(schema: &'a Schema, name: &str) -> Result<(usize, &'a arrow::datatypes::Field)> {
    let fields = schema.fields();
    let at = fields
        .iter()
        .position(|field| field.name() == name)
        .or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name)));
    match at {
        Some(index) => Ok((index, schema.field(index))),
        None => {
            let error = Error::invalid(format!("partitionBy: the rows have no column '{name}'"));
            let names = fields.iter().map(|field| field.name().as_str());
            Err(match nearest(name, names.clone()) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None => error.help(format!("columns: {}", names.collect::<Vec<_>>().join(", "))),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, AsArray, Date32Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };

    use arrow::datatypes::DataType;

    use super::*;

    fn rows() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int64Array::from(vec![0, 1, 2, 3, 4, 5])) as ArrayRef, true),
            (
                "symbol",
                Arc::new(StringArray::from(vec![Some("a/b"), None, Some("a/b"), Some(".."), Some(""), Some("a/b")]))
                    as _,
                true,
            ),
            ("day", Arc::new(Date32Array::from(vec![0; 6])) as _, true),
        ])
        .unwrap()
    }

    fn split(names: &[&str], rows: &RecordBatch) -> Vec<(String, Vec<i64>)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let partitioning = Partitioning::new(&rows.schema(), &names).unwrap();
        let parts = partitioning.split(rows).unwrap();
        let values = |part: &Part| part.rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        for part in &parts {
            assert_eq!(part.rows.schema(), partitioning.file_schema(&rows.schema()).unwrap());
        }
        parts.iter().map(|part| (part.directory.clone(), values(part))).collect()
    }

    #[test]
    fn splits_and_keeps_the_order() {
        let hive = "day=1970-01-01/symbol=__HIVE_DEFAULT_PARTITION__".to_owned();
        assert_eq!(
            split(&["day", "symbol"], &rows()),
            [
                ("day=1970-01-01/symbol=a%2Fb".to_owned(), vec![0, 2, 5]),
                (hive, vec![1, 4]),
                ("day=1970-01-01/symbol=..".to_owned(), vec![3]),
            ]
        );
        assert_eq!(split(&["DAY"], &rows()), [("day=1970-01-01".to_owned(), vec![0, 1, 2, 3, 4, 5])]);
        assert_eq!(split(&[], &rows())[0].1.len(), 6);
        assert!(split(&["day"], &rows().slice(0, 0)).is_empty());
    }

    #[test]
    fn values_are_cast_as_spark_does() {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_710_034_200_123_450]));
        let rows = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("at", at),
            ("x", Arc::new(Float64Array::from(vec![1.5]))),
            ("b", Arc::new(arrow::array::BooleanArray::from(vec![true]))),
        ])
        .unwrap();
        assert_eq!(split(&["at", "x", "b"], &rows)[0].0, "at=2024-03-10 01%3A30%3A00.12345/x=1.5/b=true");
    }

    #[test]
    fn refusals_name_the_column() {
        let invalid = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Partitioning::new(&rows().schema(), &names).unwrap_err().to_string()
        };
        assert!(invalid(&["simbol"]).ends_with("help: did you mean 'symbol'?"), "{}", invalid(&["simbol"]));
        assert!(invalid(&["n", "symbol", "day"]).contains("every column"));
        assert!(invalid(&["day", "day"]).contains("twice"));
        let list = arrow::datatypes::Field::new("l", DataType::new_list(DataType::Int64, true), true);
        let error = Partitioning::new(&Schema::new(vec![list]), &["l".to_owned()]).unwrap_err();
        assert!(error.message().contains("'l'"), "{error}");
    }
}
