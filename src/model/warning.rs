//! What a user should know before trusting a model.

use std::fmt;

use super::{
    fit::{self, Fit, Objective, VARIANCE_INFLATION_MAX},
    qr::QrFactor,
    score::Evaluation,
};

/// A fit that explains more than this on its own rows is too good to be true for a price.
const R2_SUSPICIOUS: f64 = 0.9999;

/// Something that the user should know about a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// The target is an affine function of one feature.
    CopyOfTarget { feature: String, target: String, equation: String },
    /// More than `R2_SUSPICIOUS` of what there is to explain is explained.
    NearPerfect { explained: f64, of_changes: bool },
    /// A feature is computed from rows that come after its own.
    LooksAhead { feature: String, by: String },
    /// A random split of rows that follow one another in time.
    RandomInTime { time: String },
    /// A feature that adds nothing, beside a penalty, which makes its coefficient definite.
    Redundant { feature: String, why: String },
    /// Targets that lie further ahead than the next row overlap, so that errors follow one another.
    Dependent { durbin_watson: f64 },
    /// As many coefficients as rows.
    NoFreedom { rows: u64 },
    /// A feature that the others nearly make up.
    NearCollinear { feature: String, inflation: f64 },
    /// The split gave no test rows.
    NoTestRows,
    /// A baseline is at least as good.
    NoSkill { baseline: &'static str, skill: f64 },
}

impl Warning {
    /// Whether the answer seems to stand among the features: refused by `strict`.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::CopyOfTarget { .. } | Self::NearPerfect { .. } | Self::LooksAhead { .. })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CopyOfTarget { feature, target, equation } => write!(
                f,
                "the feature '{feature}' is the target in other units: {target} = {equation}. The answer stands among \
                 the features, so the error means nothing, and nothing is predicted. Leave out '{feature}'"
            ),
            Self::NearPerfect { explained, of_changes } => {
                let what = if *of_changes { "the share of the target's changes that is explained" } else { "R2" };
                write!(
                    f,
                    "{what} on the training rows is {explained:.6}: too good to be true for most data. Is a feature \
                     computed from the target, or known only after it?"
                )
            }
            Self::LooksAhead { feature, by } => write!(
                f,
                "the feature '{feature}' looks ahead: {by}. At the time of a prediction it is not known, so the error \
                 means nothing. Make it of the row's own values and of rows before it"
            ),
            Self::RandomInTime { time } => write!(
                f,
                "test rows were drawn at random, though the rows follow one another in '{time}': rows beside a test row \
                 were trained on, which flatters the model. Use --evaluate chronological or walk-forward"
            ),
            Self::Redundant { feature, why } => write!(
                f,
                "the feature '{feature}' adds nothing: {why}. The penalty makes its coefficient definite, but it means \
                 little"
            ),
            Self::Dependent { durbin_watson } => write!(
                f,
                "the residuals follow one another (Durbin-Watson {durbin_watson:.2}, 2 is independent): standard errors, \
                 p values and intervals are too optimistic"
            ),
            Self::NoFreedom { rows } => write!(
                f,
                "{rows} training rows for {rows} coefficients: the fit goes through every row whatever they are, so \
                 its error says nothing"
            ),
            Self::NearCollinear { feature, inflation } => write!(
                f,
                "the feature '{feature}' is almost a combination of the others (variance inflation {inflation:.1e}): \
                 the coefficients have few reliable digits, the predictions do not suffer"
            ),
            Self::NoTestRows => write!(f, "no row was held back to test on: the error on new rows is unknown"),
            Self::NoSkill { baseline, skill } => write!(
                f,
                "the model predicts the test rows no better than {baseline} (skill {skill:.4}): do not rely on it"
            ),
        }
    }
}

/// The residuals follow one another beyond this.
const DURBIN_WATSON_MIN: f64 = 1.0;

/// What the training rows' factor shows. Without a penalty it must have passed `fit::redundant`. `changes`: the length
/// of the target's changes since its last known value.
pub(super) fn inspect(
    factor: &QrFactor,
    terms: &[String],
    target: &str,
    objective: Objective,
    fit: &Fit,
    changes: f64,
) -> Vec<Warning> {
    let last = factor.columns() - 1;
    let about_mean = factor.centred_norm(last);
    let spread = about_mean.min(changes);
    let mut warnings: Vec<Warning> = fit::copies_of_target(factor, spread)
        .into_iter()
        .map(|copy| Warning::CopyOfTarget {
            feature: terms[copy.feature].clone(),
            target: target.to_owned(),
            equation: fit::linear(&[(copy.slope, &terms[copy.feature])], copy.offset),
        })
        .collect();
    let explained = 1.0 - factor.residual_squares(fit.intercept, &fit.coefficients) / spread.powi(2);
    let coefficients = objective.coefficients(terms.len()) as u64;
    if !objective.penalty.is_on() && factor.rows() == coefficients {
        warnings.push(Warning::NoFreedom { rows: factor.rows() });
    } else if warnings.is_empty() && explained > R2_SUSPICIOUS {
        warnings.push(Warning::NearPerfect { explained, of_changes: changes < about_mean });
    }
    if objective.penalty.is_on() {
        return warnings;
    }
    let inflated = fit::variance_inflation(factor, objective.fit_intercept).into_iter().enumerate();
    warnings.extend(
        inflated
            .filter(|(_, inflation)| *inflation > VARIANCE_INFLATION_MAX)
            .map(|(term, inflation)| Warning::NearCollinear { feature: terms[term].clone(), inflation }),
    );
    warnings
}

/// A warning if the residuals follow one another.
pub(super) fn dependent(durbin_watson: Option<f64>) -> Option<Warning> {
    let durbin_watson = durbin_watson.filter(|value| *value < DURBIN_WATSON_MIN)?;
    Some(Warning::Dependent { durbin_watson })
}

/// A warning for each baseline that the model does not beat.
pub(super) fn no_skill(evaluation: &Evaluation) -> Vec<Warning> {
    let baselines = [
        ("the mean", Some(evaluation.mean)),
        ("the value before", evaluation.last_value),
        ("the season before", evaluation.seasonal),
    ];
    baselines
        .into_iter()
        .filter_map(|(baseline, score)| score.map(|score| (baseline, score.skill)))
        // Against a baseline without any error no skill can be computed: nothing beats it.
        .map(|(baseline, skill)| (baseline, skill.unwrap_or(f64::NEG_INFINITY)))
        .filter(|(_, skill)| *skill <= 0.0)
        .map(|(baseline, skill)| Warning::NoSkill { baseline, skill })
        .collect()
}
