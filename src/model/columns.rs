//! The columns of a model: their types, units and vocabularies, and the terms that they make.

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit},
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, nearest};

/// The most values of one vocabulary.
const VOCABULARY_MAX: usize = 1_000;

/// A column that a model uses, with the type that it had in training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// Arrow's name of the type: `Float64`, `Decimal128(10, 2)`.
    #[serde(rename = "type", with = "type_name")]
    pub data_type: DataType,
    /// As it was declared: `USD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The values of a categorical feature, the reference level first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Vec<String>>,
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

/// A number of the fit: a numeric feature, or whether a categorical one has this value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// The feature's place.
    pub feature: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Term {
    /// `price`, or `symbol=ETHUSDT`.
    pub fn name(&self, features: &[Column]) -> String {
        let feature = &features[self.feature].name;
        match &self.value {
            Some(value) => format!("{feature}={value}"),
            None => feature.clone(),
        }
    }
}

impl Term {
    /// 1 where the row has the term's value, else 0. `places`: as `places_in` gives them.
    pub fn indicator(&self, places: &[usize], vocabulary: &[String]) -> Float64Array {
        let own = vocabulary.iter().position(|value| Some(value) == self.value.as_ref());
        places.iter().map(|place| Some(f64::from(u8::from(Some(*place) == own)))).collect()
    }
}

/// The terms of features, in order. A categorical one has a term per value; with an intercept none for the first, which
/// the others are compared with.
pub fn terms(features: &[Column], fit_intercept: bool) -> Vec<Term> {
    let of = |(feature, column): (usize, &Column)| match &column.vocabulary {
        None => vec![Term { feature, value: None }],
        Some(values) => values
            .iter()
            .skip(usize::from(fit_intercept))
            .map(|value| Term { feature, value: Some(value.clone()) })
            .collect(),
    };
    features.iter().enumerate().flat_map(of).collect()
}

/// What to do with a value outside a vocabulary; the names are Spark's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandleInvalid {
    /// Stop, naming the value.
    #[default]
    Error,
    /// Leave the row out, and count it.
    Skip,
}

/// A categorical feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Category {
    pub column: String,
    pub values: Vec<String>,
}

impl Category {
    /// Reads `symbol=BTCUSDT|ETHUSDT`.
    ///
    /// # Errors
    /// `Invalid` for another form, fewer than two values, or one given twice.
    pub fn parse(text: &str) -> Result<Self> {
        let help = "write COLUMN=VALUE|VALUE, the value that the others are compared with first";
        let Some((column, values)) = text.split_once('=') else {
            return Err(Error::invalid(format!("'{text}' in --categorical has no vocabulary")).help(help));
        };
        let values: Vec<String> = values.split('|').map(|value| value.trim().to_owned()).collect();
        let column = column.trim().to_owned();
        if let Some((_, twice)) = values.iter().enumerate().find(|(at, value)| values[..*at].contains(value)) {
            return Err(Error::invalid(format!("the value '{twice}' of '{column}' is given twice")).help(help));
        }
        if !(2..=VOCABULARY_MAX).contains(&values.len()) || values.iter().any(String::is_empty) || column.is_empty() {
            return Err(Error::invalid(format!(
                "the vocabulary '{text}' does not name two to {VOCABULARY_MAX} values of a column"
            ))
            .help(help));
        }
        Ok(Self { column, values })
    }
}

/// The strings of a categorical column.
///
/// # Errors
/// `Invalid` from Arrow's cast.
pub fn to_text(column: &ArrayRef) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// For each row the value's place in the vocabulary; `usize::MAX` for null and for unknown values, of which the first
/// is given back.
pub fn places_in(values: &StringArray, vocabulary: &[String]) -> (Vec<usize>, Option<String>) {
    let mut unknown = None;
    let mut last: Option<(&str, usize)> = None;
    let places = values.iter().map(|value| {
        let Some(value) = value else { return usize::MAX };
        if let Some((text, place)) = last
            && text == value
        {
            return place;
        }
        let place = vocabulary.iter().position(|known| known == value).unwrap_or(usize::MAX);
        if place == usize::MAX && unknown.is_none() {
            unknown = Some(value.to_owned());
        }
        last = Some((value, place));
        place
    });
    (places.collect(), unknown)
}

/// The refusal of a value outside the vocabulary.
pub fn unknown_value(column: &str, value: &str, vocabulary: &[String]) -> Error {
    Error::invalid(format!("'{value}' of the categorical feature '{column}' is not in its vocabulary")).help(format!(
        "declared are: {}; train with it in --categorical, or leave such rows out with --handle-invalid skip",
        vocabulary.join(", ")
    ))
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

/// Times in microseconds since 1970, null as in the column.
///
/// # Errors
/// `Invalid` from Arrow's cast.
pub fn to_microseconds(column: &ArrayRef) -> Result<Int64Array> {
    let times = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    Ok(cast(&times, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// Refuses a column that is no number.
///
/// # Errors
/// `Invalid`, with how to make it one.
pub fn check_numeric(name: &str, role: &str, data_type: &DataType) -> Result<()> {
    if data_type.is_numeric() || *data_type == DataType::Boolean {
        return Ok(());
    }
    let error = Error::invalid(format!("the {role} '{name}' is {data_type}: a regression takes numbers"));
    Err(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => error.help(format!(
            "convert it in the query: CAST({name} AS DOUBLE) AS {name}; or declare its values: --categorical '{name}=a|b'"
        )),
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            error.help(format!("make it a number in the query: date_part('epoch', {name}) AS {name}"))
        }
        _ => error.help("leave it out, or make a number of it in the query"),
    })
}

/// Refuses a time column that is no time.
///
/// # Errors
/// `Invalid`, with how to make it one.
pub fn check_time(name: &str, data_type: &DataType) -> Result<()> {
    if matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) {
        return Ok(());
    }
    let error = Error::invalid(format!("the time column '{name}' is {data_type}, not a timestamp"));
    Err(if data_type.is_numeric() {
        error.help(format!("make it one in the query: to_timestamp_millis({name}) AS {name}"))
    } else {
        error.help(format!("make it one in the query: CAST({name} AS TIMESTAMP) AS {name}"))
    })
}
