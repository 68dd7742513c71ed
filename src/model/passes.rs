//! The passes over a query: one that reduces the rows, one that looks at the errors, and before them, where rows are
//! cut in order, one that counts.

use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use arrow::array::Array;

use super::{
    artifact::Range,
    columns::to_microseconds,
    dataset::{Layout, Reader, RowCounts},
    fit::Fit,
    plan::{Fold, Marks, Plan},
    predict::predict_into,
    qr::QrFactor,
    residual::{Residuals, Sample},
    score::{BaselineSums, ErrorSums, Evaluation, FoldScore, Spread},
    shown::Shown,
    weighting::{AgedAccumulator, AgedFactor, HalfLife},
};
use crate::error::{Error, Result};

/// What hears of the rows of each batch.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Counts the rows and remembers times to cut at. The query's first column is that of times, if `timed`.
///
/// # Errors
/// The query's.
pub async fn count(mut stream: SendableRecordBatchStream, timed: bool, progress: Progress<'_>) -> Result<Marks> {
    let mut marks = Marks::default();
    while let Some(batch) = stream.try_next().await? {
        let times = if timed { Some(to_microseconds(batch.column(0))?) } else { None };
        for row in 0..batch.num_rows() {
            marks.add(times.as_ref().filter(|times| times.is_valid(row)).map(|times| times.value(row)));
        }
        progress(batch.num_rows() as u64);
    }
    Ok(marks)
}

/// What the first pass leaves.
#[derive(Debug)]
pub struct Reduced {
    /// Of each part of the plan.
    pub parts: Vec<AgedFactor>,
    pub counts: RowCounts,
    pub ranges: Vec<Range>,
    /// The first and the last time, in microseconds, if there is a time column.
    pub times: Option<(f64, f64)>,
    /// The mean square of target - last known value; infinite if there is none.
    pub change_squares: f64,
}

/// Reduces each part of the plan to its factor.
///
/// # Errors
/// The query's, and those of `Reader::read`.
pub async fn reduce(
    mut stream: SendableRecordBatchStream,
    layout: &Layout,
    plan: &Plan,
    half_life: Option<HalfLife>,
    progress: Progress<'_>,
) -> Result<Reduced> {
    let mut reader = Reader::new(layout, plan);
    let values = layout.terms.len() + 1;
    let mut parts = vec![AgedAccumulator::new(values, half_life); plan.parts()];
    let mut ranges = vec![(f64::INFINITY, f64::NEG_INFINITY); values];
    let mut times = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut changes, mut changed) = (0.0, 0_u64);
    while let Some(batch) = stream.try_next().await? {
        let rows = reader.read(&batch)?;
        let columns = rows.values();
        let target = columns[values - 1];
        for (part, numbers) in parts.iter_mut().zip(rows.parts) {
            part.push(&columns, rows.weights(), rows.moments, numbers);
            for row in numbers {
                let row = *row as usize;
                times = (times.0.min(rows.moments[row]), times.1.max(rows.moments[row]));
                let change = target[row] - rows.last_values[row];
                if change.is_finite() {
                    changes += change * change;
                    changed += 1;
                }
            }
        }
        let whole = rows.parts.iter().map(Vec::len).sum::<usize>() == batch.num_rows();
        for (range, column) in ranges.iter_mut().zip(&columns) {
            if whole {
                widen(range, column);
            } else {
                let usable = rows.parts.iter().flatten().map(|row| column[*row as usize]);
                *range = usable.fold(*range, |(min, max), value| (min.min(value), max.max(value)));
            }
        }
        progress(batch.num_rows() as u64);
    }
    let names = layout.term_names().into_iter().chain([layout.target().name.clone()]);
    let ranges = names.zip(ranges).map(|(column, (min, max))| Range { column, min, max }).collect();
    Ok(Reduced {
        parts: parts.iter_mut().map(AgedAccumulator::factor).collect(),
        counts: reader.counts(),
        ranges,
        times: (layout.is_timed() && times.0 <= times.1).then_some(times),
        change_squares: if changed > 0 { changes / changed as f64 } else { f64::INFINITY },
    })
}

/// The range with these finite values, in several at a time so that the compiler can use vector instructions.
fn widen(range: &mut (f64, f64), values: &[f64]) {
    const LANES: usize = 8;
    let (mut least, mut most) = ([range.0; LANES], [range.1; LANES]);
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            least[lane] = if chunk[lane] < least[lane] { chunk[lane] } else { least[lane] };
            most[lane] = if chunk[lane] > most[lane] { chunk[lane] } else { most[lane] };
        }
    }
    *range = least
        .iter()
        .chain(rest)
        .zip(most.iter().chain(rest))
        .fold(*range, |(min, max), (low, high)| (min.min(*low), max.max(*high)));
}

impl Reduced {
    /// The factor of several parts.
    ///
    /// # Errors
    /// As `QrFactor::merge`.
    pub fn sum(&self, parts: &[usize], half_life: Option<HalfLife>) -> Result<QrFactor> {
        let columns = self.parts[0].factor.columns();
        let mut sum = AgedFactor::empty(columns);
        for part in parts {
            sum.merge(&self.parts[*part], half_life)?;
        }
        Ok(sum.factor)
    }

    /// The plain number of rows in parts.
    pub fn rows(&self, parts: &[usize]) -> u64 {
        parts.iter().map(|part| self.parts[*part].factor.rows()).sum()
    }
}

/// A fold's model.
#[derive(Debug)]
pub struct FoldFit {
    pub fold: Fold,
    pub fit: Fit,
    /// Whether it is the model that is kept.
    pub is_kept: bool,
    /// The training target's.
    pub mean: f64,
    pub trained_rows: u64,
    /// Rows before its test rows that did not train.
    pub left_out_rows: u64,
    /// Of its test rows: what the second pass has to add up to.
    pub test: QrFactor,
}

#[derive(Debug, Default)]
struct FoldErrors {
    model: ErrorSums,
    spread: Spread,
    mean: BaselineSums,
    last_value: BaselineSums,
    seasonal: BaselineSums,
}

/// What the second pass leaves.
#[derive(Debug)]
pub struct Errors {
    folds: Vec<FoldErrors>,
    /// Of the rows that the kept model was trained on.
    pub residuals: Residuals,
    pub test_sample: Sample,
    /// The first pass saw the same rows, as far as the sums of the kept model's residuals can tell.
    pub trained_squares: f64,
}

/// What is looked at in the second pass.
#[derive(Debug)]
pub struct Second<'a> {
    pub layout: &'a Layout,
    pub plan: &'a Plan,
    /// The terms that were fitted, by their places in the layout.
    pub kept_terms: &'a [usize],
    pub fit: &'a Fit,
    pub folds: &'a [FoldFit],
}

impl Second<'_> {
    /// Predicts every row that trained the kept model, and every test row by its fold's.
    ///
    /// # Errors
    /// The query's, and those of `Reader::read`.
    pub async fn errors(
        &self,
        mut stream: SendableRecordBatchStream,
        shown: &mut Shown,
        progress: Progress<'_>,
    ) -> Result<Errors> {
        let mut reader = Reader::new(self.layout, self.plan);
        let kept_parts = self.plan.kept();
        let mut errors = Errors {
            folds: self.folds.iter().map(|_| FoldErrors::default()).collect(),
            residuals: Residuals::default(),
            test_sample: Sample::default(),
            trained_squares: 0.0,
        };
        let (mut predictions, mut fold_predictions) = (Vec::new(), Vec::new());
        let mut trained: Vec<u32> = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            let rows = reader.read(&batch)?;
            let values = rows.values();
            let terms: Vec<&[f64]> = self.kept_terms.iter().map(|term| values[*term]).collect();
            let target = values[values.len() - 1];
            let count = batch.num_rows();
            predict_into(self.fit.intercept, &self.fit.coefficients, &terms, count, &mut predictions);
            trained.clear();
            kept_parts.iter().for_each(|part| trained.extend(&rows.parts[*part]));
            // Durbin and Watson's figure wants the query's order.
            if kept_parts.len() > 1 {
                trained.sort_unstable();
            }
            for row in &trained {
                let at = *row as usize;
                errors.residuals.add(rows.first + u64::from(*row), target[at], predictions[at]);
                let weight = rows.weights().map_or(1.0, |weights| weights[at]);
                errors.trained_squares += weight * (target[at] - predictions[at]).powi(2);
            }
            for (fold, sums) in self.folds.iter().zip(&mut errors.folds) {
                let tested = fold.fold.test.iter().flat_map(|part| &rows.parts[*part]);
                let mut tested = tested.peekable();
                if tested.peek().is_none() {
                    continue;
                }
                let predicted = if fold.is_kept {
                    &predictions
                } else {
                    predict_into(fold.fit.intercept, &fold.fit.coefficients, &terms, count, &mut fold_predictions);
                    &fold_predictions
                };
                for row in tested {
                    let at = *row as usize;
                    let (actual, predicted) = (target[at], predicted[at]);
                    sums.model.add(actual, predicted);
                    sums.spread.add(actual);
                    sums.mean.add(actual, predicted, fold.mean);
                    sums.last_value.add(actual, predicted, rows.last_values[at]);
                    if let Some(seasonal) = rows.seasonal.get(at) {
                        sums.seasonal.add(actual, predicted, *seasonal);
                    }
                    errors.test_sample.add(rows.first + u64::from(*row), predicted, actual);
                    shown.add(predicted, actual, &terms, at);
                }
            }
            progress(count as u64);
        }
        Ok(errors)
    }

    /// The scores. The test rows' own factors, from the first pass, say what the squares must add up to.
    ///
    /// # Errors
    /// `Invalid` if the query gave other rows the second time.
    pub fn evaluate(&self, errors: &Errors, weighted: bool) -> Result<Option<Evaluation>> {
        let mut spread = Spread::default();
        let (mut model, mut mean) = (ErrorSums::default(), BaselineSums::default());
        let (mut last_value, mut seasonal) = (BaselineSums::default(), BaselineSums::default());
        let mut folds = Vec::new();
        for (fold, sums) in self.folds.iter().zip(&errors.folds) {
            if fold.test.rows() == 0 && sums.model.rows() == 0 {
                continue;
            }
            let wanted = fold.test.residual_squares(fold.fit.intercept, &fold.fit.coefficients);
            let target = fold.test.columns() - 1;
            let rounding = 1e-6 * wanted + 1e-12 * fold.test.norm(target).powi(2);
            let same = weighted || (sums.model.squares() - wanted).abs() <= rounding;
            if sums.model.rows() != fold.test.rows() || !same {
                return Err(other_rows());
            }
            spread.merge(&sums.spread);
            model.merge(&sums.model);
            mean.merge(&sums.mean);
            last_value.merge(&sums.last_value);
            seasonal.merge(&sums.seasonal);
            folds.push(self.fold_score(fold, sums));
        }
        let (rows, spread) = (model.rows(), spread.squares);
        let Some(mean) = mean.baseline(rows, spread) else { return Ok(None) };
        Ok(Some(Evaluation {
            rows,
            model: model.score(spread),
            mean,
            last_value: last_value.baseline(rows, spread),
            seasonal: seasonal.baseline(rows, spread),
            folds: if matches!(self.plan, Plan::Ordered { .. }) { folds } else { Vec::new() },
        }))
    }

    fn fold_score(&self, fold: &FoldFit, sums: &FoldErrors) -> FoldScore {
        let block = fold.fold.test.first().map_or(0, |part| part / 2);
        let cut = match self.plan {
            Plan::Ordered { cuts, .. } => cuts.get(block.wrapping_sub(1)).copied(),
            Plan::Random(_) => None,
        };
        let rows = sums.model.rows();
        FoldScore {
            first_row: cut.map_or(0, |cut| cut.row),
            time: cut.and_then(|cut| cut.time_us).map(|time| super::train::rfc3339(time as f64)),
            trained_rows: fold.trained_rows,
            left_out_rows: fold.left_out_rows,
            rows,
            rmse: sums.model.score(0.0).rmse,
            skill: sums.last_value.baseline(rows, 0.0).and_then(|baseline| baseline.skill),
        }
    }
}

/// The refusal of a query that is not repeatable.
pub fn other_rows() -> Error {
    Error::invalid("the query gave other rows when it ran the second time, to test the model")
        .help("give it a fixed order (ORDER BY), leave out random() and the like, or store its result first")
}
