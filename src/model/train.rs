//! Training: one pass over the query reduces the rows, a second one looks at how far off the predictions are.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::{
    artifact::{FORMAT_VERSION, KIND, LeftOut, Model, TrainScore, TrainingRecord},
    dataset::{Column, Layout, Reader, RowCounts, check_distinct},
    fit::{self, Fit},
    predict::{PREDICTION, predict_into},
    qr::{COLUMNS_MAX, QrAccumulator, QrFactor},
    score::{Baseline, ErrorSums, Evaluation},
    split::Split,
    warning::{Warning, inspect, no_skill},
};
use crate::{
    clock,
    error::{Error, Result},
};

/// What to train, and on what.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The model's name.
    pub name: String,
    /// What the query reads, in the user's words; kept in the model.
    pub source: String,
    pub target: String,
    /// May be empty: the model is then the target's mean.
    pub features: Vec<String>,
    pub seed: u64,
    /// 0 <= fraction < 1.
    pub test_fraction: f64,
    /// Leave out constant and collinear features, instead of refusing them.
    pub drop_redundant: bool,
    /// Refuse what looks like a leak, instead of warning.
    pub strict: bool,
    /// How many test rows to show with their predictions.
    pub rows_shown: usize,
}

/// A model, and a look at its predictions.
#[derive(Debug)]
pub struct Training {
    pub model: Model,
    pub warnings: Vec<Warning>,
    /// The first test rows: `prediction`, the target, `features` as text.
    pub predictions: RecordBatch,
}

/// Fits `options.target` on `options.features` over the rows of a query.
///
/// `query` runs the query from the start and is called twice if rows are held back: the factor of the first pass gives
/// the coefficients, the second pass the errors of each test row. Both must see the same rows in the same order, which
/// is checked as far as sums can tell. Memory does not grow with the rows. `progress` gets the rows of each batch.
///
/// # Errors
/// `Invalid` for columns that are missing or not numeric, too few usable rows, a constant target, redundant features
/// (unless dropped), leaks (if strict), and a query that is not repeatable; else the query's own.
pub async fn train<Q, F>(options: &TrainOptions, query: Q, progress: &(dyn Fn(u64) + Sync)) -> Result<Training>
where
    Q: Fn() -> F,
    F: Future<Output = Result<SendableRecordBatchStream>>,
{
    super::registry::check_name(&options.name)?;
    check_distinct(&options.features, &options.target)?;
    let split = Split::new(options.seed, options.test_fraction)?;
    if options.features.len() + 2 > COLUMNS_MAX {
        let (found, most) = (options.features.len(), COLUMNS_MAX - 2);
        return Err(Error::invalid(format!("{found} features are too many: {most} is the most")));
    }
    let stream = query().await?;
    let layout = Layout::find(&stream.schema(), &options.features, &options.target)?;
    let all = reduce(stream, &layout, split, progress).await?;
    check_rows(&all, &layout)?;
    let (kept, left_out) = without_redundant(&all.train, &layout, options.drop_redundant)?;
    let factor = select(&all.train, &kept);
    let features: Vec<Column> = kept.iter().map(|feature| layout.columns[*feature].clone()).collect();
    let mut warnings = inspect(&factor, &features, &options.target);
    if options.strict
        && let Some(leak) = warnings.iter().find(|warning| warning.is_leak())
    {
        return Err(Error::invalid(leak.to_string()).help("without --strict this is a warning"));
    }
    let fitted = Fitted { layout: &layout, kept: &kept, fit: fit::solve(&factor)?, mean: factor.mean(kept.len() + 1) };
    let mut shown = Shown::new(options.rows_shown);
    let mut test = None;
    if all.test.rows() > 0 {
        let errors = fitted.errors(query().await?, split, &mut shown, progress).await?;
        let evaluation = fitted.evaluate(&errors, &select(&all.test, &kept))?;
        warnings.extend(no_skill(&evaluation));
        test = Some(evaluation);
    } else {
        warnings.push(Warning::NoTestRows);
    }
    let predictions = shown.into_batch(&options.target)?;
    let target = layout.columns[layout.columns.len() - 1].clone();
    let mut model = describe(options, all, fitted.fit, factor, features, target);
    model.training.left_out = left_out;
    model.test = test;
    model.warnings = warnings.iter().map(Warning::to_string).collect();
    Ok(Training { model, warnings, predictions })
}

/// What the first pass leaves.
struct Reduced {
    train: QrFactor,
    test: QrFactor,
    counts: RowCounts,
}

async fn reduce(
    mut stream: SendableRecordBatchStream,
    layout: &Layout,
    split: Split,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Reduced> {
    let mut reader = Reader::new(layout, split);
    let mut train = QrAccumulator::new(layout.columns.len());
    let mut test = train.clone();
    while let Some(batch) = stream.try_next().await? {
        let rows = reader.read(&batch)?;
        let values = rows.values();
        train.push(&values, rows.train);
        test.push(&values, rows.test);
        progress(batch.num_rows() as u64);
    }
    Ok(Reduced { train: train.factor(), test: test.factor(), counts: reader.counts() })
}

/// The factor of these features (from 0) and the target.
fn select(factor: &QrFactor, features: &[usize]) -> QrFactor {
    let columns: Vec<usize> = features.iter().map(|feature| feature + 1).chain([factor.columns() - 1]).collect();
    factor.select(&columns)
}

/// Refuses rows that no line can be fitted to.
fn check_rows(all: &Reduced, layout: &Layout) -> Result<()> {
    let (factor, counts) = (&all.train, &all.counts);
    let coefficients = factor.columns() as u64 - 1;
    let target = &layout.columns[layout.columns.len() - 1].name;
    if counts.read == 0 {
        return Err(Error::invalid("the query has no rows: there is nothing to train on"));
    }
    if factor.rows() == 0 {
        return Err(Error::invalid(format!("none of the {} rows can be used: {}", counts.read, counts.describe()))
            .help("fill the gaps in the query (COALESCE), or leave out the column"));
    }
    if !factor.is_finite() || !all.test.is_finite() {
        return Err(Error::invalid("a column's values are too large: their squares overflow")
            .help("scale the column in the query: values up to 1e150 are fine"));
    }
    if factor.rows() < coefficients {
        let (rows, dropped) = (factor.rows(), counts.dropped);
        let mut text = format!("{rows} training rows are too few for {coefficients} coefficients (intercept included)");
        if dropped > 0 {
            text = format!("{text}; {dropped} rows were dropped: {}", counts.describe());
        }
        return Err(Error::invalid(text).help("take more rows, or fewer features"));
    }
    if fit::is_constant(factor, factor.columns() - 1) {
        let value = fit::short(factor.mean(factor.columns() - 1));
        return Err(Error::invalid(format!("the target '{target}' is {value} in every training row"))
            .help("a regression explains differences, and there are none: take more or other rows"));
    }
    Ok(())
}

/// The features (from 0) that stay, and those that do not.
fn without_redundant(factor: &QrFactor, layout: &Layout, drop: bool) -> Result<(Vec<usize>, Vec<LeftOut>)> {
    let names: Vec<String> = layout.columns.iter().map(|column| column.name.clone()).collect();
    let redundant = fit::redundant(factor);
    let left_out: Vec<LeftOut> = redundant
        .iter()
        .map(|found| LeftOut { feature: names[found.feature].clone(), why: found.why.describe(&names) })
        .collect();
    if let Some(first) = left_out.first()
        && !drop
    {
        let text: Vec<String> = left_out.iter().map(|left| format!("'{}': {}", left.feature, left.why)).collect();
        let plural = if left_out.len() == 1 { "a feature adds" } else { "some features add" };
        return Err(Error::invalid(format!(
            "{plural} nothing, and the coefficients would be arbitrary: {}",
            text.join("; ")
        ))
        .help(format!("leave out '{}', or use --drop-redundant", first.feature)));
    }
    let kept = (0..names.len() - 1).filter(|feature| redundant.iter().all(|found| found.feature != *feature));
    Ok((kept.collect(), left_out))
}

/// A fit over a query's columns.
struct Fitted<'a> {
    layout: &'a Layout,
    /// The features that were fitted, by their places in the layout.
    kept: &'a [usize],
    fit: Fit,
    /// The training target's.
    mean: f64,
}

/// The errors on the test rows.
#[derive(Default)]
struct TestErrors {
    rows: u64,
    model: ErrorSums,
    mean: ErrorSums,
    last_value: ErrorSums,
}

impl Fitted<'_> {
    /// The second pass.
    async fn errors(
        &self,
        mut stream: SendableRecordBatchStream,
        split: Split,
        shown: &mut Shown,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<TestErrors> {
        let mut reader = Reader::new(self.layout, split);
        let mut errors = TestErrors::default();
        let mut predictions = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            let rows = reader.read(&batch)?;
            let values = rows.values();
            let features: Vec<&[f64]> = self.kept.iter().map(|feature| values[*feature]).collect();
            let target = values[values.len() - 1];
            let Fit { intercept, coefficients } = &self.fit;
            predict_into(*intercept, coefficients, &features, batch.num_rows(), &mut predictions);
            for (&row, &previous) in rows.test.iter().zip(rows.previous) {
                let row = row as usize;
                errors.model.add(target[row] - predictions[row]);
                errors.mean.add(target[row] - self.mean);
                errors.last_value.add(target[row] - previous);
                shown.add(predictions[row], target[row], &features, row);
            }
            errors.rows += rows.test.len() as u64;
            progress(batch.num_rows() as u64);
        }
        Ok(errors)
    }

    /// The scores. The test rows' own factor, from the first pass, says what the squares must add up to.
    fn evaluate(&self, errors: &TestErrors, factor: &QrFactor) -> Result<Evaluation> {
        let target = factor.columns() - 1;
        let wanted = factor.residual_squares(self.fit.intercept, &self.fit.coefficients);
        let rounding = 1e-6 * wanted + 1e-12 * factor.norm(target).powi(2);
        if errors.rows != factor.rows() || (errors.model.squares() - wanted).abs() > rounding {
            return Err(Error::invalid("the query gave other rows when it ran the second time, to test the model")
                .help("give it a fixed order (ORDER BY), leave out random() and the like, or store its result first"));
        }
        let spread = if fit::is_constant(factor, target) { 0.0 } else { factor.centred_norm(target).powi(2) };
        let score = |sums: &ErrorSums| sums.score(errors.rows, spread);
        let model = score(&errors.model);
        let (mean, last_value) = (score(&errors.mean), score(&errors.last_value));
        let (mean, last_value) = (Baseline::new(mean, model), Baseline::new(last_value, model));
        Ok(Evaluation { rows: errors.rows, model, mean, last_value })
    }
}

/// The first test rows, as Spark's `show` prints them.
struct Shown {
    rows_max: usize,
    predictions: Vec<f64>,
    actual: Vec<f64>,
    features: Vec<String>,
}

impl Shown {
    fn new(rows_max: usize) -> Self {
        Self { rows_max, predictions: Vec::new(), actual: Vec::new(), features: Vec::new() }
    }

    fn add(&mut self, prediction: f64, actual: f64, features: &[&[f64]], row: usize) {
        if self.predictions.len() < self.rows_max {
            self.predictions.push(prediction);
            self.actual.push(actual);
            let texts: Vec<String> = features.iter().map(|values| format!("{:?}", values[row])).collect();
            self.features.push(format!("[{}]", texts.join(",")));
        }
    }

    fn into_batch(self, target: &str) -> Result<RecordBatch> {
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

/// All that is known, in one value.
fn describe(
    options: &TrainOptions,
    all: Reduced,
    fit: Fit,
    factor: QrFactor,
    features: Vec<Column>,
    target: Column,
) -> Model {
    let last = factor.columns() - 1;
    let rows = factor.rows();
    let squares = factor.entry(last, last).powi(2);
    let freedom = rows - last as u64;
    Model {
        version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        name: options.name.clone(),
        created: created(),
        tidemill: env!("CARGO_PKG_VERSION").to_owned(),
        source: options.source.clone(),
        schema_fingerprint: Model::fingerprint(&features, &target),
        target,
        features,
        intercept: fit.intercept,
        coefficients: fit.coefficients,
        training: TrainingRecord {
            rows,
            test_rows: all.test.rows(),
            split: Split::NAME.to_owned(),
            seed: options.seed,
            test_fraction: options.test_fraction,
            counts: all.counts,
            left_out: Vec::new(),
        },
        train: TrainScore {
            rmse: (squares / rows as f64).sqrt(),
            r2: 1.0 - squares / factor.centred_norm(last).powi(2),
            residual_deviation: (freedom > 0).then(|| (squares / freedom as f64).sqrt()),
        },
        test: None,
        warnings: Vec::new(),
        factor,
    }
}

fn created() -> String {
    let now = chrono::DateTime::from_timestamp_millis(clock::now_ms()).unwrap_or_default();
    now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
