//! From the record batches of a query to columns of `f64`, with every row that cannot be used counted.

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Schema},
};
use serde::{Deserialize, Serialize};

use super::split::Split;
use crate::error::{Error, Result, nearest};

/// A column that a model uses, with the type that it had in training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// Arrow's name of the type: `Float64`, `Decimal128(10, 2)`.
    #[serde(rename = "type", with = "type_name")]
    pub data_type: DataType,
}

mod type_name {
    use arrow::datatypes::DataType;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(data_type: &DataType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(data_type)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DataType, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Where the target and the features stand in a query's schema.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The features in order, the target last.
    pub columns: Vec<Column>,
    places: Vec<usize>,
}

impl Layout {
    /// Finds the columns. Names must be exactly those of the query's result: SQL lower-cases a name without quotes.
    ///
    /// # Errors
    /// `Invalid` for a name that is missing, ambiguous or given twice, and for a column that is not numeric.
    pub fn find(schema: &Schema, features: &[String], target: &str) -> Result<Self> {
        check_distinct(features, target)?;
        let mut columns = Vec::with_capacity(features.len() + 1);
        let mut places = Vec::with_capacity(features.len() + 1);
        for name in features.iter().map(String::as_str).chain([target]) {
            let role = if places.len() < features.len() { "feature" } else { "target" };
            let place = place_of(schema, name, role)?;
            let data_type = schema.field(place).data_type().clone();
            check_numeric(name, role, &data_type)?;
            columns.push(Column { name: name.to_owned(), data_type });
            places.push(place);
        }
        Ok(Self { columns, places })
    }

    /// The columns of a batch as `f64`: exact but for integers beyond 2^53 and decimals, which are rounded; true is 1.
    ///
    /// # Errors
    /// `Invalid` from Arrow's cast.
    pub fn columns_of(&self, batch: &RecordBatch) -> Result<Vec<Float64Array>> {
        self.places.iter().map(|place| to_f64(batch.column(*place))).collect()
    }
}

/// Whether every column plays one part. Asked before the query runs: its own error would be in other words.
///
/// # Errors
/// `Invalid` for a feature that is given twice, and for the target among the features.
pub fn check_distinct(features: &[String], target: &str) -> Result<()> {
    if features.iter().any(|name| name == target) {
        return Err(Error::invalid(format!("the target '{target}' is also a feature"))
            .help("leave it out of --features: a model that may look at the answer predicts nothing"));
    }
    let twice = features.iter().enumerate().find(|(at, name)| features[..*at].contains(name));
    match twice {
        Some((_, name)) => {
            Err(Error::invalid(format!("the feature '{name}' is given twice")).help("name it once in --features"))
        }
        None => Ok(()),
    }
}

/// One column's place by its exact name.
///
/// # Errors
/// `Invalid`, with the nearest name.
pub fn place_of(schema: &Schema, name: &str, role: &str) -> Result<usize> {
    let mut places = schema.fields().iter().enumerate().filter(|(_, field)| field.name() == name).map(|(at, _)| at);
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (Some(_), Some(_)) => Err(Error::invalid(format!("the query has several columns named '{name}' ({role})"))
            .help("give them different names with AS")),
        (None, _) => {
            let help = match nearest(name, names()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("the query's columns are: {}", names().collect::<Vec<_>>().join(", ")),
            };
            Err(Error::invalid(format!("the query has no column '{name}' ({role})")).help(help))
        }
    }
}

/// Casts a numeric or boolean column; a `Float64` one costs nothing.
///
/// # Errors
/// `Invalid` from Arrow's cast.
pub fn to_f64(column: &ArrayRef) -> Result<Float64Array> {
    if let Some(values) = column.as_primitive_opt::<Float64Type>() {
        return Ok(values.clone());
    }
    Ok(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

fn check_numeric(name: &str, role: &str, data_type: &DataType) -> Result<()> {
    if data_type.is_numeric() || *data_type == DataType::Boolean {
        return Ok(());
    }
    let error = Error::invalid(format!("the {role} '{name}' is {data_type}: a regression takes numbers"));
    Err(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            error.help(format!("convert it in the query: CAST({name} AS DOUBLE) AS {name}"))
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            error.help(format!("make it a number in the query: date_part('epoch', {name}) AS {name}"))
        }
        _ => error.help("leave it out, or make a number of it in the query"),
    })
}

/// Rows of one column that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    pub column: String,
    pub nulls: u64,
    /// NaN and the infinities.
    pub non_finite: u64,
}

/// What was read and what of it could not be used. A row with two bad columns counts once in `dropped`, and once for
/// each column in `by_column`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    pub read: u64,
    pub dropped: u64,
    /// Only columns with bad rows.
    pub by_column: Vec<Unusable>,
}

impl RowCounts {
    /// `volume: 3 null, 1 not finite; price: 2 null`.
    pub fn describe(&self) -> String {
        let part = |number: u64, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let column = |bad: &Unusable| {
            let parts: Vec<String> =
                [part(bad.nulls, "null"), part(bad.non_finite, "not finite")].into_iter().flatten().collect();
            format!("{}: {}", bad.column, parts.join(", "))
        };
        self.by_column.iter().map(column).collect::<Vec<_>>().join("; ")
    }
}

/// The usable rows of one batch.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The features in order, then the target.
    pub columns: Vec<Float64Array>,
    /// The numbers, within the batch, of the rows to train on.
    pub train: &'a [u32],
    /// Those of the rows to test on.
    pub test: &'a [u32],
    /// For each test row, the last finite target before it in the query's order.
    pub previous: &'a [f64],
}

impl Rows<'_> {
    /// The columns' values; those of unusable rows are meaningless.
    pub fn values(&self) -> Vec<&[f64]> {
        self.columns.iter().map(|column| &column.values()[..]).collect()
    }
}

/// Reads the batches of one run of the query, in order.
#[derive(Debug)]
pub struct Reader<'a> {
    layout: &'a Layout,
    split: Split,
    read: u64,
    kept: u64,
    bad: Vec<Unusable>,
    previous_target: f64,
    usable: Vec<bool>,
    train: Vec<u32>,
    test: Vec<u32>,
    previous: Vec<f64>,
}

impl<'a> Reader<'a> {
    /// From the first row.
    pub fn new(layout: &'a Layout, split: Split) -> Self {
        let bad = |column: &Column| Unusable { column: column.name.clone(), nulls: 0, non_finite: 0 };
        Self {
            layout,
            split,
            read: 0,
            kept: 0,
            bad: layout.columns.iter().map(bad).collect(),
            previous_target: f64::NAN,
            usable: Vec::new(),
            train: Vec::new(),
            test: Vec::new(),
            previous: Vec::new(),
        }
    }

    /// Takes the next batch apart.
    ///
    /// # Errors
    /// `Invalid` from Arrow's cast.
    pub fn read(&mut self, batch: &RecordBatch) -> Result<Rows<'_>> {
        let columns = self.layout.columns_of(batch)?;
        self.usable.clear();
        self.usable.resize(batch.num_rows(), true);
        for (column, bad) in columns.iter().zip(&mut self.bad) {
            mark_unusable(column, bad, &mut self.usable);
        }
        self.train.clear();
        self.test.clear();
        self.previous.clear();
        if let Some(target) = columns.last() {
            self.divide(target);
        }
        Ok(Rows { columns, train: &self.train, test: &self.test, previous: &self.previous })
    }

    /// How many rows came, and how many were dropped for which column.
    pub fn counts(&self) -> RowCounts {
        let by_column = self.bad.iter().filter(|bad| bad.nulls + bad.non_finite > 0).cloned().collect();
        RowCounts { read: self.read, dropped: self.read - self.kept, by_column }
    }

    fn divide(&mut self, target: &Float64Array) {
        for ((row, usable), value) in (0_u32..).zip(&self.usable).zip(target.values()) {
            if *usable {
                // The first usable row trains, whatever its draw: so every test row has a value before it.
                if self.kept > 0 && self.split.is_test(self.read) {
                    self.test.push(row);
                    self.previous.push(self.previous_target);
                } else {
                    self.train.push(row);
                }
                self.kept += 1;
                self.previous_target = *value;
            } else if target.is_valid(row as usize) && value.is_finite() {
                // A row without a feature still says what the target was.
                self.previous_target = *value;
            }
            self.read += 1;
        }
    }
}

fn mark_unusable(column: &Float64Array, bad: &mut Unusable, usable: &mut [bool]) {
    if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
        bad.nulls += nulls.null_count() as u64;
        for (usable, valid) in usable.iter_mut().zip(nulls) {
            *usable &= valid;
        }
    }
    // Without a branch per value, so that the usual case of none is fast. A null's own value may be anything.
    let finite = column.values().iter().fold(true, |finite, value| finite & value.is_finite());
    if !finite {
        for (row, (usable, value)) in usable.iter_mut().zip(column.values()).enumerate() {
            if !value.is_finite() && column.is_valid(row) {
                bad.non_finite += 1;
                *usable = false;
            }
        }
    }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
