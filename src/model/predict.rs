//! A model applied to record batches.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, Float64Array, RecordBatch},
    buffer::NullBuffer,
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use super::{
    artifact::Model,
    columns::{Column, HandleInvalid, Term, place_of, places_in, to_f64, to_text, unknown_value},
    statistics::Intervals,
};
use crate::error::{Error, Result};

/// The column that is added.
pub const PREDICTION: &str = "prediction";

/// The bounds of the prediction interval, where it is asked for.
pub const BOUNDS: [&str; 2] = ["prediction_low", "prediction_high"];

/// Rows that one pass over the features takes: their predictions stay in the fastest cache.
const CHUNK_ROWS: usize = 1024;

/// A model's arithmetic, apart from names: features in, predictions out.
#[derive(Debug, Clone)]
pub struct Scorer {
    intercept: f64,
    coefficients: Vec<f64>,
    features: Vec<Column>,
    terms: Vec<Term>,
    handle_invalid: HandleInvalid,
    intervals: Option<Intervals>,
}

/// What a scorer says about rows: null where a feature is null or, if the model skips them, unknown.
#[derive(Debug)]
pub struct Predictions {
    pub values: Float64Array,
    /// The lower and the upper bounds, if asked for.
    pub bounds: Option<[Float64Array; 2]>,
}

impl Scorer {
    /// With `confidence`, also intervals in which a new target lies with that confidence.
    ///
    /// # Errors
    /// `Invalid` if the model cannot give intervals.
    pub fn new(model: &Model, confidence: Option<f64>) -> Result<Self> {
        let intervals = match confidence {
            None => None,
            Some(confidence) => {
                let intervals = Intervals::new(&model.factor, model.objective(), confidence)?;
                Some(intervals.ok_or_else(|| {
                    let why = if model.penalty.is_on() { "it is penalised" } else { "it has as many terms as rows" };
                    Error::invalid(format!("the model '{}' has no prediction intervals: {why}", model.name))
                        .help("train it without --reg-param, on more rows than features")
                })?)
            }
        };
        Ok(Self {
            intercept: model.intercept,
            coefficients: model.coefficients.clone(),
            features: model.features.clone(),
            terms: model.all_terms(),
            handle_invalid: model.handle_invalid,
            intervals,
        })
    }

    /// Predicts `rows` rows of the model's features, in their order.
    ///
    /// # Errors
    /// `Invalid` from Arrow's cast, and for a value outside a vocabulary if the model does not skip them.
    pub fn score(&self, features: &[ArrayRef], rows: usize) -> Result<Predictions> {
        let mut terms = Vec::with_capacity(self.terms.len());
        let mut nulls = Vec::new();
        for (place, (column, array)) in self.features.iter().zip(features).enumerate() {
            let Some(vocabulary) = &column.vocabulary else {
                let values = to_f64(array)?;
                nulls.push(values.nulls().cloned());
                terms.push(values);
                continue;
            };
            let text = to_text(array)?;
            let (places, unknown) = places_in(&text, vocabulary);
            if let Some(unknown) = unknown
                && self.handle_invalid == HandleInvalid::Error
            {
                return Err(unknown_value(&column.name, &unknown, vocabulary));
            }
            nulls.push(Some(places.iter().map(|place| *place != usize::MAX).collect::<NullBuffer>()));
            let own = self.terms.iter().filter(|term| term.feature == place);
            terms.extend(own.map(|term| term.indicator(&places, vocabulary)));
        }
        let nulls = NullBuffer::union_many(nulls.iter().map(Option::as_ref)).filter(|nulls| nulls.null_count() > 0);
        let values: Vec<&[f64]> = terms.iter().map(|term| &term.values()[..]).collect();
        let mut predictions = Vec::new();
        predict_into(self.intercept, &self.coefficients, &values, rows, &mut predictions);
        let bounds = self.intervals.as_ref().map(|intervals| {
            let half = intervals.half_widths(&values, rows);
            let bound = |sign: f64| {
                let bound: Vec<f64> = predictions.iter().zip(&half).map(|(at, half)| at + sign * half).collect();
                Float64Array::new(bound.into(), nulls.clone())
            };
            [bound(-1.0), bound(1.0)]
        });
        Ok(Predictions { values: Float64Array::new(predictions.into(), nulls), bounds })
    }
}

/// Which of the model's features a schema does not have, or has otherwise: empty if it fits.
pub fn differences(model: &Model, schema: &Schema) -> Vec<Error> {
    let difference = |feature: &Column| -> Result<()> {
        let name = &feature.name;
        let place = place_of(schema, name, "a feature of the model")?;
        let found = schema.field(place).data_type();
        let is_text =
            |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let same_text = feature.vocabulary.is_some() && is_text(&feature.data_type) && is_text(found);
        if same_text || holds(&feature.data_type, found) {
            return Ok(());
        }
        let wanted = &feature.data_type;
        Err(Error::invalid(format!("the feature '{name}' is {found}, but the model was trained on {wanted}"))
            .help(format!("cast it in the query: arrow_cast({name}, '{wanted}') AS {name}")))
    };
    model.features.iter().filter_map(|feature| difference(feature).err()).collect()
}

/// One error of all differences; the first one's help.
fn refuse(mut differences: Vec<Error>) -> Result<()> {
    let texts: Vec<String> = differences.iter().map(|error| error.message().to_owned()).collect();
    match differences.len() {
        0 => Ok(()),
        1 => Err(differences.swap_remove(0)),
        more => Err(Error::invalid(format!("{more} features differ from the model's: {}", texts.join("; ")))
            .help("give the query the names and types that the model was trained on: `tidemill models show`")),
    }
}

/// A model bound to the schema of a query.
#[derive(Debug, Clone)]
pub struct Predictor {
    scorer: Scorer,
    places: Vec<usize>,
    schema: SchemaRef,
}

impl Predictor {
    /// Finds the model's features in `schema`. A feature must have the type that it had in training, or a narrower
    /// one: each of its values must be one that the recorded type holds exactly. Whether it may be null is no matter.
    /// With `confidence` the bounds of the prediction interval are added too.
    ///
    /// # Errors
    /// `Invalid` for features that are missing or of another type, naming all of them, and where there already is a
    /// column of an added name.
    pub fn new(model: &Model, schema: &Schema, confidence: Option<f64>) -> Result<Self> {
        refuse(differences(model, schema))?;
        let place = |feature: &Column| place_of(schema, &feature.name, "a feature of the model");
        let places: Vec<usize> = model.features.iter().map(place).collect::<Result<_>>()?;
        let bounds: &[&str] = if confidence.is_some() { &BOUNDS } else { &[] };
        let added: Vec<&str> = std::iter::once(PREDICTION).chain(bounds.iter().copied()).collect();
        if let Some(name) = added.iter().find(|name| schema.column_with_name(name).is_some()) {
            return Err(Error::invalid(format!("the query already has a column '{name}'"))
                .help("leave it out, or give it another name with AS"));
        }
        let added = added.iter().map(|name| Arc::new(Field::new(*name, DataType::Float64, true)));
        let fields: Vec<_> = schema.fields().iter().cloned().chain(added).collect();
        Ok(Self {
            scorer: Scorer::new(model, confidence)?,
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
    /// `Invalid` from Arrow if the batch is not of the schema that was given; as `Scorer::score`.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let features: Vec<ArrayRef> = self.places.iter().map(|place| Arc::clone(batch.column(*place))).collect();
        let Predictions { values, bounds } = self.scorer.score(&features, batch.num_rows())?;
        let added = std::iter::once(values).chain(bounds.into_iter().flatten());
        let added = added.map(|column| Arc::new(column) as ArrayRef);
        let columns = batch.columns().iter().cloned().chain(added).collect();
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
