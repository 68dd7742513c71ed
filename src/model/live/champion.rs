//! The model that serves, the challenger, and which of them wins on rows that the challenger has not seen.
//!
//! The naive forecast, that nothing changes, is the first champion (version 0) and always a candidate: a model that does
//! worse is not promoted, and one that has become worse is retired.

use serde::{Deserialize, Serialize};

use super::{
    examples::{Example, Examples},
    options::LiveOptions,
};
use crate::{
    error::Result,
    model::{
        artifact::LeftOut,
        exact, fit,
        qr::QrFactor,
        score::{BaselineSums, ErrorSums, Evaluation, Spread},
    },
};

/// A linear forecast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    #[serde(deserialize_with = "exact::one")]
    pub intercept: f64,
    /// Of all features; 0 for those that were left out.
    #[serde(deserialize_with = "exact::many")]
    pub coefficients: Vec<f64>,
}

impl Line {
    /// The terms are added in the order of the features, as by `predict`.
    pub fn predict<'a>(&self, features: impl IntoIterator<Item = &'a f64>) -> f64 {
        self.coefficients
            .iter()
            .zip(features)
            .fold(self.intercept, |sum, (coefficient, value)| sum + coefficient * value)
    }
}

/// What serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Champion {
    /// How many models had been promoted when this one was; 0 for the naive forecast.
    pub version: u64,
    pub line: Option<Line>,
}

/// Why a challenger was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// There were enough rows for the first time.
    First,
    Schedule,
    Drift,
}

/// What became of a challenger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It serves from here on, as this version.
    Promoted(u64),
    /// The naive forecast serves again: it beats the champion and the challenger.
    Retired,
    /// The champion has won.
    Kept,
    /// There was none, and why.
    NoChallenger(String),
}

/// What was decided when a challenger was due. Errors are RMSE on the rows that were held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Event time, microseconds.
    pub at_us: i64,
    pub reason: Reason,
    pub verdict: Verdict,
    pub trained_rows: u64,
    pub held_out_rows: u64,
    #[serde(deserialize_with = "exact::maybe")]
    pub naive: Option<f64>,
    #[serde(deserialize_with = "exact::maybe")]
    pub champion: Option<f64>,
    #[serde(deserialize_with = "exact::maybe")]
    pub challenger: Option<f64>,
}

/// A model that was promoted: what its file needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    pub version: u64,
    pub at_us: i64,
    /// Which features it has, by place.
    pub kept: Vec<usize>,
    pub left_out: Vec<LeftOut>,
    #[serde(deserialize_with = "exact::one")]
    pub intercept: f64,
    /// Of the features that it has.
    #[serde(deserialize_with = "exact::many")]
    pub coefficients: Vec<f64>,
    pub factor: QrFactor,
    /// When the oldest and the newest row that trained were forecast, microseconds.
    pub rows_us: (i64, i64),
    /// On the rows that were held out.
    pub test: Evaluation,
}

/// A challenger before its contest.
struct Challenger {
    line: Line,
    kept: Vec<usize>,
    left_out: Vec<LeftOut>,
    coefficients: Vec<f64>,
    factor: QrFactor,
}

impl Challenger {
    /// Fits it to the rows that train; or why there is none.
    fn fit(factor: &QrFactor, options: &LiveOptions, names: &[String]) -> Result<Self, String> {
        if factor.rows() < options.min_rows {
            return Err(format!("{} rows to train on, of {}", factor.rows(), options.min_rows));
        }
        if !factor.is_finite() {
            return Err("a column's values are too large: their squares overflow".to_owned());
        }
        let redundant = match options.objective.penalty.is_on() {
            true => Vec::new(),
            false => fit::redundant(factor, options.objective.fit_intercept),
        };
        let kept: Vec<usize> =
            (0..names.len()).filter(|at| !redundant.iter().any(|redundant| redundant.feature == *at)).collect();
        let left_out = redundant.iter().filter_map(|redundant| {
            Some(LeftOut { feature: names.get(redundant.feature)?.clone(), why: redundant.why.describe(names) })
        });
        let left_out = left_out.collect();
        let columns: Vec<usize> = kept.iter().map(|at| at + 1).chain([factor.columns() - 1]).collect();
        let factor = factor.select(&columns);
        if factor.rows() < options.objective.coefficients(kept.len()) as u64 {
            return Err(format!("{} rows are too few for {} coefficients", factor.rows(), kept.len() + 1));
        }
        let fitted = fit::solve(&factor, options.objective).map_err(|error| error.message().to_owned())?;
        let mut coefficients = vec![0.0; names.len()];
        kept.iter().zip(&fitted.coefficients).for_each(|(at, value)| coefficients[*at] = *value);
        let line = Line { intercept: fitted.intercept, coefficients };
        Ok(Self { line, kept, left_out, coefficients: fitted.coefficients, factor })
    }
}

/// Trains a challenger and lets it win or lose. `version`: the next one to be promoted.
pub fn contest(
    (examples, options, names): (&Examples, &LiveOptions, &[String]),
    champion: &mut Champion,
    (at_us, reason, version): (i64, Reason, u64),
) -> (Decision, Option<Promotion>) {
    let factor = &examples.factor;
    let (trained_rows, held_out_rows) = (factor.rows(), examples.held_out_rows() as u64);
    let mut decision = Decision {
        at_us,
        reason,
        verdict: Verdict::Kept,
        trained_rows,
        held_out_rows,
        naive: None,
        champion: None,
        challenger: None,
    };
    let challenger = match Challenger::fit(factor, options, names) {
        Ok(challenger) => challenger,
        Err(why) => {
            decision.verdict = Verdict::NoChallenger(why);
            return (decision, None);
        }
    };
    let Some(evaluation) = evaluate(examples, &challenger) else {
        decision.verdict = Verdict::NoChallenger("no row is held out whose target was known before".to_owned());
        return (decision, None);
    };
    let (naive, own) = (naive_rmse(&evaluation), evaluation.model.rmse);
    let reigning = champion.line.as_ref().map_or(naive, |line| rmse(examples, line));
    (decision.naive, decision.champion, decision.challenger) = (Some(naive), Some(reigning), Some(own));
    if own < reigning && own < naive {
        decision.verdict = Verdict::Promoted(version);
        *champion = Champion { version, line: Some(challenger.line.clone()) };
        let rows_us = (examples.oldest_us.unwrap_or(at_us), examples.newest_us.unwrap_or(at_us));
        let promotion = Promotion {
            version,
            at_us,
            kept: challenger.kept,
            left_out: challenger.left_out,
            intercept: challenger.line.intercept,
            coefficients: challenger.coefficients,
            factor: challenger.factor,
            rows_us,
            test: evaluation,
        };
        return (decision, Some(promotion));
    }
    if champion.line.is_some() && naive < reigning {
        decision.verdict = Verdict::Retired;
        *champion = Champion::default();
    }
    (decision, None)
}

/// The examples that are held out and have a naive forecast: the same for all candidates.
fn comparable(examples: &Examples) -> impl Iterator<Item = (&Example, impl Iterator<Item = &f64>)> {
    examples.held_out().filter(|(example, _)| example.naive.is_finite())
}

fn rmse(examples: &Examples, line: &Line) -> f64 {
    let mut sums = ErrorSums::default();
    comparable(examples).for_each(|(example, features)| sums.add(example.truth, line.predict(features)));
    sums.score(0.0).rmse
}

fn naive_rmse(evaluation: &Evaluation) -> f64 {
    evaluation.last_value.map_or(f64::INFINITY, |naive| naive.rmse)
}

/// The challenger beside the naive forecast and the mean of its training rows; none without rows.
fn evaluate(examples: &Examples, challenger: &Challenger) -> Option<Evaluation> {
    let mean = examples.factor.mean(examples.factor.columns() - 1);
    let (mut own, mut spread) = (ErrorSums::default(), Spread::default());
    let (mut of_mean, mut of_naive) = (BaselineSums::default(), BaselineSums::default());
    for (example, features) in comparable(examples) {
        let predicted = challenger.line.predict(features);
        own.add(example.truth, predicted);
        spread.add(example.truth);
        of_mean.add(example.truth, predicted, mean);
        of_naive.add(example.truth, predicted, example.naive);
    }
    if own.rows() == 0 {
        return None;
    }
    Some(Evaluation {
        rows: own.rows(),
        model: own.score(spread.squares),
        mean: of_mean.baseline(own.rows(), spread.squares)?,
        last_value: of_naive.baseline(own.rows(), spread.squares),
        seasonal: None,
        folds: Vec::new(),
    })
}
