//! A look at the first test rows.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};

use super::predict::PREDICTION;
use crate::error::Result;

/// The first test rows, as Spark's `show` prints them.
#[derive(Debug)]
pub struct Shown {
    rows_max: usize,
    predictions: Vec<f64>,
    actual: Vec<f64>,
    features: Vec<String>,
}

impl Shown {
    /// Keeps so many.
    pub fn new(rows_max: usize) -> Self {
        Self { rows_max, predictions: Vec::new(), actual: Vec::new(), features: Vec::new() }
    }

    /// Row `row` of a batch whose terms are `features`.
    pub fn add(&mut self, prediction: f64, actual: f64, features: &[&[f64]], row: usize) {
        if self.predictions.len() < self.rows_max {
            self.predictions.push(prediction);
            self.actual.push(actual);
            let texts: Vec<String> = features.iter().map(|values| format!("{:?}", values[row])).collect();
            self.features.push(format!("[{}]", texts.join(",")));
        }
    }

    /// `prediction`, the target, `features` as text.
    ///
    /// # Errors
    /// `Internal` from Arrow.
    pub fn into_batch(self, target: &str) -> Result<RecordBatch> {
        let schema = Schema::new(vec![
            Field::new(PREDICTION, DataType::Float64, false),
            Field::new(target, DataType::Float64, false),
            Field::new("features", DataType::Utf8, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(self.predictions)),
            Arc::new(Float64Array::from(self.actual)),
            Arc::new(StringArray::from(self.features)),
        ];
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }
}
