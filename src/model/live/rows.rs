//! Record batches in, record batches out: each row gets the forecast that is made with it and the truth that it brings.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit},
};

use super::{
    forecaster::{Forecaster, Outcome, Row},
    options::LiveOptions,
};
use crate::{
    error::{Error, Result},
    model::columns::{check_numeric, to_f64},
    state::micros,
};

/// The columns that are added. `forecast` is the prediction that was made for this row, one horizon before.
const ADDED: [&str; 10] = [
    "prediction",
    "target_time",
    "model_version",
    "forecast",
    "error",
    "naive_error",
    "prequential_mae",
    "prequential_rmse",
    "prequential_skill",
    "drift",
];

/// Between the keys of a series, and for a key that is NULL: in no text that a user writes.
pub(super) const SEPARATOR: char = '\u{1f}';
pub(super) const NULL: char = '\u{0}';

/// Where the columns of a forecast are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Columns {
    pub time: usize,
    pub target: usize,
    pub features: Vec<usize>,
    /// What tells the series apart.
    pub keys: Vec<usize>,
}

impl Columns {
    /// Are they what a forecast needs, in rows of `schema`?
    ///
    /// # Errors
    /// `Invalid` for columns of another kind, features that are given twice, and a column that has the name of one that is
    /// added.
    pub fn check(&self, schema: &Schema, options: &LiveOptions) -> Result<()> {
        let numeric = |place: usize, role: &str| {
            let field = schema.field(place);
            check_numeric(field.name(), role, field.data_type())
        };
        numeric(self.target, "target")?;
        for (at, place) in self.features.iter().enumerate() {
            numeric(*place, "feature")?;
            if self.features[..at].contains(place) {
                return Err(Error::invalid(format!("the feature '{}' is given twice", schema.field(*place).name())));
            }
        }
        let (time, data_type) = (schema.field(self.time).name(), schema.field(self.time).data_type());
        let DataType::Timestamp(unit, _) = data_type else {
            return Err(Error::invalid(format!("the time '{time}' of ML_FORECAST is {data_type}, not a TIMESTAMP"))
                .help(format!("CAST({time} AS TIMESTAMP) AS {time} in a query below")));
        };
        if options.horizon_us % unit_us(unit) != 0 {
            return Err(Error::invalid(format!("the time '{time}' is {data_type}, too coarse for the 'horizon'"))
                .help(format!("CAST({time} AS TIMESTAMP(6)) AS {time} in a query below")));
        }
        match ADDED.iter().find(|name| schema.column_with_name(name).is_some()) {
            Some(name) => Err(Error::invalid(format!("the query has a column '{name}', which ML_FORECAST adds"))
                .help("leave it out, or give it another name with AS")),
            None => Ok(()),
        }
    }

    /// The fields that are added to rows of `schema`.
    pub fn added(&self, schema: &Schema) -> Vec<Field> {
        let number = |name: &str| Field::new(name, DataType::Float64, true);
        let time = schema.field(self.time).data_type().clone();
        let fields = ADDED.map(|name| match name {
            "target_time" => Field::new(name, time.clone(), true),
            "model_version" => Field::new(name, DataType::Int64, true),
            "drift" => Field::new(name, DataType::Boolean, false),
            _ => number(name),
        });
        fields.to_vec()
    }
}

/// How many microseconds a unit has, at least one.
fn unit_us(unit: &TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
    }
}

impl Forecaster {
    /// Takes rows in the order of time and gives them back, in order, with the columns of `schema` that are added.
    ///
    /// # Errors
    /// As `step`; Arrow's, if the batch is not of the schema that `columns` were found in.
    pub fn apply(&mut self, columns: &Columns, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let of = |place: usize| {
            batch.columns().get(place).ok_or_else(|| Error::internal("a column of ML_FORECAST is missing"))
        };
        let times = micros(of(columns.time)?)?;
        let target = to_f64(of(columns.target)?)?;
        let features: Vec<Float64Array> =
            columns.features.iter().map(|place| to_f64(of(*place)?)).collect::<Result<_>>()?;
        let keys: Vec<StringArray> = columns
            .keys
            .iter()
            .map(|place| Ok(cast(of(*place)?, &DataType::Utf8)?.as_string::<i32>().clone()))
            .collect::<Result<_>>()?;
        let (mut series, mut row_features) = (String::new(), Vec::with_capacity(features.len()));
        let mut outcomes = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if times.is_null(row) {
                outcomes.push(None);
                continue;
            }
            spell_series(&keys, row, &mut series);
            row_features.clear();
            row_features.extend(features.iter().map(|column| number(column, row)));
            let usable = row_features.iter().all(|value| value.is_finite());
            outcomes.push(Some(self.step(Row {
                time_us: times.value(row),
                series: &series,
                target: number(&target, row),
                features: usable.then_some(&row_features[..]),
            })?));
        }
        let mut all = batch.columns().to_vec();
        all.extend(added(&outcomes, of(columns.time)?, self.options().horizon_us)?);
        Ok(RecordBatch::try_new(Arc::clone(schema), all)?)
    }
}

/// NaN for NULL and for what is no finite number.
fn number(column: &Float64Array, row: usize) -> f64 {
    let value = if column.is_null(row) { f64::NAN } else { column.value(row) };
    if value.is_finite() { value } else { f64::NAN }
}

fn spell_series(keys: &[StringArray], row: usize, series: &mut String) {
    series.clear();
    for key in keys {
        match key.is_null(row) {
            true => series.push(NULL),
            false => series.push_str(key.value(row)),
        }
        series.push(SEPARATOR);
    }
}

/// The columns of `ADDED`.
fn added(outcomes: &[Option<Outcome>], times: &ArrayRef, horizon_us: i64) -> Result<Vec<ArrayRef>> {
    let number = |of: &dyn Fn(&Outcome) -> f64| -> ArrayRef {
        let values = outcomes.iter().map(|outcome| outcome.as_ref().map(of).filter(|value| value.is_finite()));
        Arc::new(values.collect::<Float64Array>())
    };
    let score = |of: &dyn Fn(&super::prequential::Scores) -> Option<f64>| {
        number(&|outcome| outcome.scores.as_ref().and_then(of).unwrap_or(f64::NAN))
    };
    let versions: Int64Array = outcomes.iter().map(|it| it.map(|it| it.version.cast_signed())).collect();
    let drifts: BooleanArray = outcomes.iter().map(|outcome| Some(outcome.is_some_and(|it| it.drift))).collect();
    Ok(vec![
        number(&|outcome| outcome.prediction),
        target_times(times, horizon_us)?,
        Arc::new(versions),
        number(&|outcome| outcome.forecast),
        number(&|outcome| outcome.error),
        number(&|outcome| outcome.naive_error),
        score(&|scores| Some(scores.mae)),
        score(&|scores| Some(scores.rmse)),
        score(&|scores| scores.skill),
        Arc::new(drifts),
    ])
}

/// In the unit and the zone of `times`.
fn target_times(times: &ArrayRef, horizon_us: i64) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, _) = times.data_type() else {
        return Err(Error::internal("the time of ML_FORECAST is no timestamp"));
    };
    let horizon = match unit {
        TimeUnit::Nanosecond => horizon_us.saturating_mul(1_000),
        unit => horizon_us / unit_us(unit),
    };
    let ahead = cast(times, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .unary::<_, Int64Type>(|time| time.saturating_add(horizon));
    Ok(cast(&ahead, times.data_type())?)
}
