//! Training: one pass over the query reduces the rows, a second one looks at how far off the predictions are.

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;

use super::{
    artifact::{FORMAT_VERSION, KIND, LeftOut, Model, TimeRange, TrainScore, TrainingRecord, WeightSums},
    columns::{Column, Term},
    dataset::{Layout, Roles},
    fit::{self, Fit, Objective},
    horizon::Horizon,
    passes::{Errors, FoldFit, Progress, Reduced, Second, count, other_rows, reduce},
    plan::{Evaluate, Fold, Marks, Plan},
    qr::{COLUMNS_MAX, QrFactor},
    shown::Shown,
    statistics::{self, check_confidence, total_squares},
    warning::{Warning, dependent, inspect, no_skill},
    weighting::HalfLife,
};
use crate::{
    clock,
    error::{Error, Result},
};

/// Rows that a report draws.
const DRAWN_ROWS: usize = 1_500;

/// What to train, and on what.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The model's name.
    pub name: String,
    /// What the query reads, in the user's words; kept in the model.
    pub source: String,
    /// The SQL that makes the features of the source, in the user's words; kept in the model.
    pub query: Option<String>,
    /// Which column is what. Features may be none: the model is then the target's mean.
    pub roles: Roles,
    /// How the target was made, if it lies ahead.
    pub horizon: Option<Horizon>,
    pub objective: Objective,
    pub half_life: Option<HalfLife>,
    pub evaluate: Evaluate,
    /// Of the intervals.
    pub confidence: f64,
    /// Features that look ahead, and by what: see `lookahead`.
    pub looking_ahead: Vec<(String, String)>,
    /// Leave out constant and collinear features, instead of refusing them.
    pub drop_redundant: bool,
    /// Refuse what looks like a leak, instead of warning.
    pub strict: bool,
    /// How many test rows to show with their predictions.
    pub rows_shown: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            source: String::new(),
            query: None,
            roles: Roles::default(),
            horizon: None,
            objective: Objective::default(),
            half_life: None,
            evaluate: Evaluate::Random { seed: 42, test_fraction: 0.2 },
            confidence: 0.95,
            looking_ahead: Vec::new(),
            drop_redundant: false,
            strict: false,
            rows_shown: 0,
        }
    }
}

/// A model, and a look at its predictions.
#[derive(Debug)]
pub struct Training {
    pub model: Model,
    pub warnings: Vec<Warning>,
    /// The first test rows: `prediction`, the target, `features` as text.
    pub predictions: RecordBatch,
    /// (predicted, actual) of a uniform sample of the test rows, or of the training rows if there are none.
    pub drawn: Vec<(f64, f64)>,
}

/// Fits the target on the features over the rows of a query.
///
/// `query` runs the query from the start for the columns that it is given, and is called twice: the factor of the first
/// pass gives the coefficients, the second pass the errors of each row. Both must see the same rows in the same order,
/// which is checked as far as sums can tell. Where rows are cut in order, a pass before them counts. Memory does not
/// grow with the rows. `progress` gets the rows of each batch.
///
/// # Errors
/// `Invalid` for columns that are missing or not numeric, too few usable rows, a constant target, redundant features
/// (unless dropped or penalised), leaks (if strict), and a query that is not repeatable; else the query's own.
pub async fn train<Q, F>(options: &TrainOptions, query: Q, progress: Progress<'_>) -> Result<Training>
where
    Q: Fn(Vec<String>) -> F,
    F: Future<Output = Result<SendableRecordBatchStream>>,
{
    check(options)?;
    let roles = &options.roles;
    let marks = match options.evaluate {
        Evaluate::Random { .. } => Marks::default(),
        _ => {
            let column = roles.time.clone().unwrap_or_else(|| roles.target.clone());
            count(query(vec![column]).await?, roles.time.is_some(), progress).await?
        }
    };
    let delay_us = options.horizon.as_ref().map_or(0, |horizon| horizon.ahead_us + horizon.tolerance_us);
    let stream = query(roles.needed()).await?;
    let layout = Layout::find(&stream.schema(), roles, options.objective.fit_intercept)?;
    if layout.terms.len() + 2 > COLUMNS_MAX {
        let (found, most) = (layout.terms.len(), COLUMNS_MAX - 2);
        return Err(Error::invalid(format!("{found} features are too many: {most} is the most")));
    }
    let plan = Plan::ordered(options.evaluate, &marks, delay_us)?;
    let all = reduce(stream, &layout, &plan, options.half_life, progress).await?;
    let trained = all.sum(&plan.kept(), options.half_life)?;
    check_rows(&all, &trained, &layout, options.objective)?;
    let (kept, redundant) = without_redundant(&trained, &layout, options)?;
    let factor = select(&trained, &kept);
    let names = layout.term_names();
    let terms: Vec<String> = kept.iter().map(|term| names[*term].clone()).collect();
    let fitted = fit::solve(&factor, options.objective)?;
    let mut warnings = warnings_of(options, &all, &factor, &terms, &fitted, &redundant);
    let leaks = warnings.iter().filter(|warning| warning.is_leak()).map(Warning::to_string);
    let leaks: Vec<String> = if options.strict { leaks.collect() } else { Vec::new() };
    if !leaks.is_empty() {
        return Err(Error::invalid(leaks.join("; ")).help("without --strict this is a warning"));
    }
    let folds = fold_fits(options, &plan, &all, &kept, &fitted)?;
    let second = Second { layout: &layout, plan: &plan, kept_terms: &kept, fit: &fitted, folds: &folds };
    let mut shown = Shown::new(options.rows_shown);
    let errors = second.errors(query(roles.needed()).await?, &mut shown, progress).await?;
    let weighted = roles.weight.is_some() || options.half_life.is_some();
    check_same(&errors, &factor, &fitted, weighted)?;
    let test = second.evaluate(&errors, weighted)?;
    warnings.extend(test.as_ref().map_or_else(|| vec![Warning::NoTestRows], no_skill));
    warnings.extend(dependent(errors.residuals.summary().and_then(|summary| summary.durbin_watson).filter(|_| {
        // Only where the order is one of time does it mean anything.
        roles.time.is_some()
    })));
    let predictions = shown.into_batch(&roles.target)?;
    let mut drawn = errors.test_sample.pairs(DRAWN_ROWS);
    if drawn.is_empty() {
        drawn = errors.residuals.sample.pairs(DRAWN_ROWS);
    }
    let mut model = describe(options, &layout, &all, fitted, factor, &kept, &errors)?;
    model.training.test_rows = test.as_ref().map_or(0, |test| test.rows);
    model.training.left_out = if options.objective.penalty.is_on() { Vec::new() } else { redundant };
    model.test = test;
    model.warnings = warnings.iter().map(Warning::to_string).collect();
    Ok(Training { model, warnings, predictions, drawn })
}

fn check(options: &TrainOptions) -> Result<()> {
    super::registry::check_name(&options.name)?;
    super::columns::check_distinct(&options.roles.features, &options.roles.target)?;
    options.evaluate.check()?;
    options.objective.penalty.check()?;
    check_confidence(options.confidence)?;
    if matches!(options.half_life, Some(HalfLife::TimeUs(_))) && options.roles.time.is_none() {
        return Err(Error::invalid("a --half-life that is a duration needs --time")
            .help("name the column of times, or write --half-life '1000 rows'"));
    }
    if matches!(options.half_life, Some(HalfLife::Rows(_))) && options.roles.time.is_some() {
        return Err(Error::invalid("with --time the --half-life is a duration, not a number of rows"));
    }
    Ok(())
}

/// The factor of these terms (from 0) and the target.
fn select(factor: &QrFactor, terms: &[usize]) -> QrFactor {
    let columns: Vec<usize> = terms.iter().map(|term| term + 1).chain([factor.columns() - 1]).collect();
    factor.select(&columns)
}

/// Refuses rows that no line can be fitted to.
fn check_rows(all: &Reduced, factor: &QrFactor, layout: &Layout, objective: Objective) -> Result<()> {
    let counts = &all.counts;
    let coefficients = objective.coefficients(layout.terms.len()) as u64;
    let target = &layout.target().name;
    if counts.read == 0 {
        return Err(Error::invalid("the query has no rows: there is nothing to train on"));
    }
    if factor.rows() == 0 {
        return Err(Error::invalid(format!("none of the {} rows can be used: {}", counts.read, counts.describe()))
            .help("fill the gaps in the query (COALESCE), or leave out the column"));
    }
    if all.parts.iter().any(|part| !part.factor.is_finite()) {
        return Err(Error::invalid("a column's values are too large: their squares overflow")
            .help("scale the column in the query: values up to 1e150 are fine"));
    }
    if factor.rows() < coefficients && !objective.penalty.is_on() {
        let (rows, dropped) = (factor.rows(), counts.dropped);
        let intercept = if objective.fit_intercept { " (intercept included)" } else { "" };
        let mut text = format!("{rows} training rows are too few for {coefficients} coefficients{intercept}");
        if dropped > 0 {
            text = format!("{text}; {dropped} rows were dropped: {}", counts.describe());
        }
        return Err(Error::invalid(text).help("take more rows or fewer features, or hold them down with --reg-param"));
    }
    let last = factor.columns() - 1;
    let constant = if objective.fit_intercept { fit::is_constant(factor, last) } else { factor.norm(last) == 0.0 };
    if constant {
        let value = fit::short(factor.mean(last));
        return Err(Error::invalid(format!("the target '{target}' is {value} in every training row"))
            .help("a regression explains differences, and there are none: take more or other rows"));
    }
    Ok(())
}

/// The terms (from 0) that stay, and those that add nothing. With a penalty all stay.
fn without_redundant(factor: &QrFactor, layout: &Layout, options: &TrainOptions) -> Result<(Vec<usize>, Vec<LeftOut>)> {
    let names = layout.term_names();
    let redundant = fit::redundant(factor, options.objective.fit_intercept);
    let left_out: Vec<LeftOut> = redundant
        .iter()
        .map(|found| LeftOut { feature: names[found.feature].clone(), why: found.why.describe(&names) })
        .collect();
    if options.objective.penalty.is_on() {
        return Ok(((0..names.len()).collect(), left_out));
    }
    if let Some(first) = left_out.first()
        && !options.drop_redundant
    {
        let text: Vec<String> = left_out.iter().map(|left| format!("'{}': {}", left.feature, left.why)).collect();
        let plural = if left_out.len() == 1 { "a feature adds" } else { "some features add" };
        return Err(Error::invalid(format!(
            "{plural} nothing, and the coefficients would be arbitrary: {}",
            text.join("; ")
        ))
        .help(format!("leave out '{}', or use --drop-redundant", first.feature)));
    }
    let kept = (0..names.len()).filter(|term| redundant.iter().all(|found| found.feature != *term));
    Ok((kept.collect(), left_out))
}

fn warnings_of(
    options: &TrainOptions,
    all: &Reduced,
    factor: &QrFactor,
    terms: &[String],
    fitted: &Fit,
    redundant: &[LeftOut],
) -> Vec<Warning> {
    let roles = &options.roles;
    let changes = (all.change_squares * factor.weight()).sqrt();
    let mut warnings = inspect(factor, terms, &roles.target, options.objective, fitted, changes);
    let looking = options.looking_ahead.iter().filter(|(feature, _)| roles.features.contains(feature));
    warnings.extend(looking.map(|(feature, by)| Warning::LooksAhead { feature: feature.clone(), by: by.clone() }));
    if options.objective.penalty.is_on() {
        let of = |left: &LeftOut| Warning::Redundant { feature: left.feature.clone(), why: left.why.clone() };
        warnings.extend(redundant.iter().map(of));
    }
    if let (Evaluate::Random { .. }, Some(time)) = (options.evaluate, &roles.time)
        && options.evaluate.test_fraction() > 0.0
    {
        warnings.push(Warning::RandomInTime { time: time.clone() });
    }
    warnings
}

/// A model for each fold, of the same terms.
fn fold_fits(options: &TrainOptions, plan: &Plan, all: &Reduced, kept: &[usize], fitted: &Fit) -> Result<Vec<FoldFit>> {
    let one = |fold: Fold| -> Result<FoldFit> {
        let factor = select(&all.sum(&fold.train, options.half_life)?, kept);
        let is_kept = fold.train == plan.kept();
        let test = select(&all.sum(&fold.test, None)?, kept);
        let fit = if is_kept { fitted.clone() } else { fit_what_can_be(&factor, options.objective)? };
        let before = fold.test.first().copied().unwrap_or_default();
        let (trained_rows, earlier) = (factor.rows(), all.rows(&(0..before).collect::<Vec<_>>()));
        let left_out_rows = if matches!(plan, Plan::Ordered { .. }) { earlier - trained_rows } else { 0 };
        Ok(FoldFit { fold, fit, is_kept, mean: factor.mean(kept.len() + 1), trained_rows, left_out_rows, test })
    };
    plan.folds().into_iter().map(one).collect()
}

/// A fit to few rows: terms that add nothing in them get the coefficient 0.
fn fit_what_can_be(factor: &QrFactor, objective: Objective) -> Result<Fit> {
    let terms = factor.columns() - 2;
    let enough = factor.rows() > objective.coefficients(terms) as u64;
    if !enough && !objective.penalty.is_on() {
        return Err(Error::invalid(format!(
            "the first fold has {} rows to train {} coefficients on",
            factor.rows(),
            objective.coefficients(terms)
        ))
        .help("take more rows, or fewer --folds"));
    }
    if objective.penalty.is_on() {
        return fit::solve(factor, objective);
    }
    let redundant = fit::redundant(factor, objective.fit_intercept);
    let kept: Vec<usize> = (0..terms).filter(|term| redundant.iter().all(|found| found.feature != *term)).collect();
    let part = fit::solve(&select(factor, &kept), objective)?;
    let mut coefficients = vec![0.0; terms];
    kept.iter().zip(part.coefficients).for_each(|(term, value)| coefficients[*term] = value);
    Ok(Fit { intercept: part.intercept, coefficients })
}

/// The training rows of the second pass must leave the residuals that the factor of the first one says.
fn check_same(errors: &Errors, factor: &QrFactor, fitted: &Fit, weighted: bool) -> Result<()> {
    let wanted = factor.residual_squares(fitted.intercept, &fitted.coefficients);
    let rounding = 1e-6 * wanted + 1e-12 * factor.norm(factor.columns() - 1).powi(2);
    let same = weighted || (errors.trained_squares - wanted).abs() <= rounding;
    if errors.residuals.errors.rows() == factor.rows() && same { Ok(()) } else { Err(other_rows()) }
}

/// All that is known, in one value.
fn describe(
    options: &TrainOptions,
    layout: &Layout,
    all: &Reduced,
    fit: Fit,
    factor: QrFactor,
    kept: &[usize],
    errors: &Errors,
) -> Result<Model> {
    let Objective { fit_intercept, penalty } = options.objective;
    let (features, terms) = used(layout, kept);
    let target = layout.target().clone();
    let names: Vec<String> = terms.iter().map(|term| term.name(&features)).collect();
    let statistics = if penalty.is_on() {
        None
    } else {
        statistics::statistics(&factor, &fit, &names, fit_intercept, options.confidence)?
    };
    let rows = factor.rows();
    let squares = factor.residual_squares(fit.intercept, &fit.coefficients);
    let freedom = rows.saturating_sub(options.objective.coefficients(kept.len()) as u64);
    let sums = errors.residuals.errors.score(0.0);
    let weighted = options.roles.weight.is_some() || options.half_life.is_some();
    let named = |column: &String| names.contains(column) || *column == target.name;
    Ok(Model {
        version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        name: options.name.clone(),
        created: rfc3339(clock::now_ms() as f64 * 1e3),
        tidemill: env!("CARGO_PKG_VERSION").to_owned(),
        source: options.source.clone(),
        query: options.query.clone(),
        horizon: options.horizon.clone(),
        schema_fingerprint: Model::fingerprint(&features, &target),
        handle_invalid: options.roles.handle_invalid,
        fit_intercept,
        penalty,
        intercept: fit.intercept,
        coefficients: fit.coefficients,
        training: TrainingRecord {
            rows,
            test_rows: 0,
            split: options.evaluate.name(),
            seed: options.evaluate.seed(),
            test_fraction: options.evaluate.test_fraction(),
            weight: options.roles.weight.clone(),
            weights: weighted.then(|| WeightSums { sum: factor.weight(), effective_rows: factor.effective_rows() }),
            time: options.roles.time.clone().zip(all.times).map(|(column, (from, to))| TimeRange {
                column,
                from: rfc3339(from),
                to: rfc3339(to),
            }),
            half_life: options.half_life,
            ranges: all.ranges.iter().filter(|range| named(&range.column)).cloned().collect(),
            offsets: Vec::new(),
            counts: all.counts.clone(),
            left_out: Vec::new(),
        },
        train: TrainScore {
            rmse: (squares / factor.weight()).sqrt(),
            mae: Some(sums.mae),
            mape: sums.mape,
            r2: 1.0 - squares / total_squares(&factor, fit_intercept),
            adjusted_r2: statistics.as_ref().map(|statistics| statistics.adjusted_r2),
            residuals: errors.residuals.summary(),
            residual_deviation: (freedom > 0 && !penalty.is_on()).then(|| (squares / freedom as f64).sqrt()),
        },
        test: None,
        statistics,
        warnings: Vec::new(),
        target,
        features,
        terms,
        factor,
    })
}

/// The features that have a term among `kept`, and these terms.
fn used(layout: &Layout, kept: &[usize]) -> (Vec<Column>, Vec<Term>) {
    let mut places: Vec<usize> = kept.iter().map(|term| layout.terms[*term].feature).collect();
    places.dedup();
    let place = |feature: usize| places.iter().position(|place| *place == feature).unwrap_or_default();
    let terms =
        kept.iter().map(|term| Term { feature: place(layout.terms[*term].feature), ..layout.terms[*term].clone() });
    (places.iter().map(|place| layout.columns[*place].clone()).collect(), terms.collect())
}

/// A time as models have it.
pub(super) fn rfc3339(microseconds: f64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(microseconds as i64).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
