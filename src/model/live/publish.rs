//! A model that was promoted as a version in the directory of models, where it is listed, compared and served like any other.

use crate::{
    error::Result,
    model::{
        artifact::{FORMAT_VERSION, KIND, Model, TimeRange, TrainScore, TrainingRecord, WeightSums},
        columns::{Column, HandleInvalid},
        dataset::RowCounts,
        fit::Fit,
        horizon::Horizon,
        registry::{Registry, Stored},
        statistics::{self, total_squares},
        train::rfc3339,
        weighting::HalfLife,
    },
};

use super::{champion::Promotion, node::Question};

/// How many versions are looked at for those that an earlier run has written.
const LOOK_BACK: usize = 64;

/// Of the intervals in a model's file.
const CONFIDENCE: f64 = 0.95;

/// Which model of which query a version is: the mark by which it is recognised.
fn source(query_id: &str, promotion: &Promotion) -> String {
    format!("ML_FORECAST of the query {query_id}, version {}", promotion.version)
}

/// Writes those that are not there yet and lets the newest one serve. So it may be done twice. `now_ms`: when it is.
///
/// # Errors
/// What the disk says; `Corrupt`, naming the file.
pub fn publish(question: &Question, (query_id, now_ms): (&str, i64), promotions: &[Promotion]) -> Result<Vec<Stored>> {
    let (registry, name) = (&question.model.registry, &question.model.name);
    let Some(newest) = promotions.last() else { return Ok(Vec::new()) };
    let known = known(registry, name)?;
    let mut stored = Vec::new();
    for promotion in promotions {
        let source = source(query_id, promotion);
        if !known.iter().any(|(_, other)| *other == source) {
            stored.push(registry.save(artefact(question, promotion, source, now_ms)?)?);
        }
    }
    let source = source(query_id, newest);
    let own = known.iter().find(|(_, other)| *other == source).map(|(revision, _)| *revision);
    let revision = stored.last().map(|stored| stored.revision).or(own);
    if let Some(revision) = revision
        && registry.promoted(name)?.is_none_or(|promoted| promoted < revision)
    {
        registry.promote(&format!("{name}@{revision}"))?;
    }
    Ok(stored)
}

/// The newest versions and what they say of where they are from.
fn known(registry: &Registry, name: &str) -> Result<Vec<(u64, String)>> {
    let revisions = registry.revisions(name)?;
    let newest = revisions.iter().rev().take(LOOK_BACK);
    newest.map(|revision| Ok((*revision, registry.load(&format!("{name}@{revision}"))?.model.source))).collect()
}

fn artefact(question: &Question, promotion: &Promotion, source: String, now_ms: i64) -> Result<Model> {
    let options = &question.model.options;
    let horizon = Horizon {
        column: options.target.clone(),
        time: question.time.clone(),
        ahead_us: options.horizon_us,
        tolerance_us: options.tolerance_us,
        partition_by: question.keys.clone(),
    };
    let features: Vec<Column> = promotion.kept.iter().filter_map(|at| question.features.get(*at)).cloned().collect();
    let names: Vec<String> = features.iter().map(|feature| feature.name.clone()).collect();
    let target = Column { name: horizon.target(), ..question.target.clone() };
    let (factor, objective) = (promotion.factor.clone(), options.objective);
    let fit = Fit { intercept: promotion.intercept, coefficients: promotion.coefficients.clone() };
    let statistics = match objective.penalty.is_on() {
        true => None,
        false => statistics::statistics(&factor, &fit, &names, objective.fit_intercept, CONFIDENCE)?,
    };
    let squares = factor.residual_squares(fit.intercept, &fit.coefficients);
    let freedom = factor.rows().saturating_sub(objective.coefficients(names.len()) as u64);
    Ok(Model {
        version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        name: question.model.name.clone(),
        created: rfc3339(now_ms as f64 * 1e3),
        tidemill: env!("CARGO_PKG_VERSION").to_owned(),
        source,
        query: None,
        schema_fingerprint: Model::fingerprint(&features, &target),
        target,
        horizon: Some(horizon),
        features,
        terms: Vec::new(),
        handle_invalid: HandleInvalid::default(),
        fit_intercept: objective.fit_intercept,
        penalty: objective.penalty,
        intercept: fit.intercept,
        coefficients: fit.coefficients,
        training: training(question, promotion),
        train: TrainScore {
            rmse: (squares / factor.weight()).sqrt(),
            mae: None,
            mape: None,
            r2: 1.0 - squares / total_squares(&factor, objective.fit_intercept),
            adjusted_r2: statistics.as_ref().map(|statistics| statistics.adjusted_r2),
            residuals: None,
            residual_deviation: (freedom > 0 && !objective.penalty.is_on()).then(|| (squares / freedom as f64).sqrt()),
        },
        test: Some(promotion.test.clone()),
        statistics,
        warnings: Vec::new(),
        factor,
    })
}

fn training(question: &Question, promotion: &Promotion) -> TrainingRecord {
    let (options, factor) = (&question.model.options, &promotion.factor);
    let (rows, test_rows) = (factor.rows(), promotion.test.rows);
    let weighted = (factor.weight() - rows as f64).abs() > 1e-6 * rows as f64;
    let time = |microseconds: i64| rfc3339(microseconds as f64);
    TrainingRecord {
        rows,
        test_rows,
        split: format!("live, the newest {} held out", options.holdout),
        seed: 0,
        test_fraction: test_rows as f64 / (rows + test_rows) as f64,
        weight: None,
        weights: weighted.then(|| WeightSums { sum: factor.weight(), effective_rows: factor.effective_rows() }),
        time: Some(TimeRange {
            column: question.time.clone(),
            from: time(promotion.rows_us.0),
            to: time(promotion.rows_us.1),
        }),
        half_life: options.half_life_us.map(HalfLife::TimeUs),
        ranges: Vec::new(),
        // Those of the stream are in its checkpoint.
        offsets: Vec::new(),
        counts: RowCounts::default(),
        left_out: promotion.left_out.clone(),
    }
}
