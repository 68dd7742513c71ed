//! A model applied to record batches.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, Float64Array, RecordBatch},
    buffer::NullBuffer,
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use super::{
    artifact::Model,
    dataset::{place_of, to_f64},
};
use crate::error::{Error, Result};

/// The column that is added.
pub const PREDICTION: &str = "prediction";

/// Rows that one pass over the features takes: their predictions stay in the fastest cache.
const CHUNK_ROWS: usize = 1024;

/// A model bound to the schema of a query.
#[derive(Debug, Clone)]
pub struct Predictor {
    intercept: f64,
    coefficients: Vec<f64>,
    places: Vec<usize>,
    schema: SchemaRef,
}

impl Predictor {
    /// Finds the model's features in `schema`. A feature must have the type that it had in training, or a narrower
    /// one: each of its values must be one that the recorded type holds exactly. Whether it may be null is no matter.
    ///
    /// # Errors
    /// `Invalid` for a feature that is missing or of another type, naming both, and where there already is a column
    /// `prediction`.
    pub fn new(model: &Model, schema: &Schema) -> Result<Self> {
        let mut places = Vec::with_capacity(model.features.len());
        for feature in &model.features {
            let name = &feature.name;
            let place = place_of(schema, name, "a feature of the model")?;
            let found = schema.field(place).data_type();
            if !holds(&feature.data_type, found) {
                let wanted = &feature.data_type;
                return Err(Error::invalid(format!(
                    "the feature '{name}' is {found}, but the model was trained on {wanted}"
                ))
                .help(format!("cast it in the query: arrow_cast({name}, '{wanted}') AS {name}")));
            }
            places.push(place);
        }
        if schema.column_with_name(PREDICTION).is_some() {
            return Err(Error::invalid(format!("the query already has a column '{PREDICTION}'"))
                .help("leave it out, or give it another name with AS"));
        }
        let added = Arc::new(Field::new(PREDICTION, DataType::Float64, true));
        let fields: Vec<_> = schema.fields().iter().cloned().chain([added]).collect();
        Ok(Self {
            intercept: model.intercept,
            coefficients: model.coefficients.clone(),
            places,
            schema: Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())),
        })
    }

    /// The query's columns and `prediction`.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batch with `prediction` added: null where a feature is null; NaN or infinite where a feature is.
    ///
    /// # Errors
    /// `Invalid` from Arrow if the batch is not of the schema that was given.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let features: Vec<Float64Array> =
            self.places.iter().map(|place| to_f64(batch.column(*place))).collect::<Result<_>>()?;
        let values: Vec<&[f64]> = features.iter().map(|feature| &feature.values()[..]).collect();
        let mut predictions = Vec::new();
        predict_into(self.intercept, &self.coefficients, &values, batch.num_rows(), &mut predictions);
        let nulls = NullBuffer::union_many(features.iter().map(Array::nulls));
        let prediction: ArrayRef = Arc::new(Float64Array::new(predictions.into(), nulls));
        let columns = batch.columns().iter().cloned().chain([prediction]).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Writes `intercept + coefficients . features` for `rows` rows into `out`, replacing what it held. The terms are added
/// in the order of the features, so that a prediction is the same bit for bit wherever it is made.
pub(super) fn predict_into(intercept: f64, coefficients: &[f64], features: &[&[f64]], rows: usize, out: &mut Vec<f64>) {
    out.clear();
    out.resize(rows, intercept);
    for (chunk, out) in out.chunks_mut(CHUNK_ROWS).enumerate() {
        for (values, coefficient) in features.iter().zip(coefficients) {
            let values = &values[chunk * CHUNK_ROWS..][..out.len()];
            for (sum, value) in out.iter_mut().zip(values) {
                *sum += coefficient * value;
            }
        }
    }
}

/// Whether `wanted` holds every value of `found` exactly.
fn holds(wanted: &DataType, found: &DataType) -> bool {
    // The bits of a whole number that fit: its sign's apart.
    let integer_bits = |data_type: &DataType| match data_type {
        DataType::Int8 => Some((true, 7)),
        DataType::Int16 => Some((true, 15)),
        DataType::Int32 => Some((true, 31)),
        DataType::Int64 => Some((true, 63)),
        DataType::UInt8 => Some((false, 8)),
        DataType::UInt16 => Some((false, 16)),
        DataType::UInt32 => Some((false, 32)),
        DataType::UInt64 => Some((false, 64)),
        _ => None,
    };
    let float_bits = |data_type: &DataType| match data_type {
        DataType::Float16 => Some(11),
        DataType::Float32 => Some(24),
        DataType::Float64 => Some(53),
        _ => None,
    };
    if wanted == found {
        return true;
    }
    match (wanted, found) {
        (DataType::Decimal128(digits, scale), DataType::Decimal128(found_digits, found_scale)) => {
            let whole = i16::from(*digits) - i16::from(*scale);
            scale >= found_scale && whole >= i16::from(*found_digits) - i16::from(*found_scale)
        }
        _ => match (integer_bits(wanted), float_bits(wanted), integer_bits(found), float_bits(found)) {
            (Some((signed, bits)), _, Some((found_signed, found_bits)), _) => {
                bits >= found_bits && (signed || !found_signed)
            }
            (_, Some(bits), Some((_, found_bits)), _) | (_, Some(bits), _, Some(found_bits)) => bits >= found_bits,
            _ => false,
        },
    }
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
