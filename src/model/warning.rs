//! What a user should know before trusting a model.

use std::fmt;

use super::{
    dataset::Column,
    fit::{self, VARIANCE_INFLATION_MAX},
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
    /// R2 on the training rows is beyond `R2_SUSPICIOUS`.
    NearPerfect { r2: f64 },
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
        matches!(self, Self::CopyOfTarget { .. } | Self::NearPerfect { .. })
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
            Self::NearPerfect { r2 } => write!(
                f,
                "R2 on the training rows is {r2:.6}: too good to be true for most data. Is a feature computed from the \
                 target, or known only after it?"
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

/// What the training rows' factor shows. It must have passed `fit::redundant`.
pub(super) fn inspect(factor: &QrFactor, features: &[Column], target: &str) -> Vec<Warning> {
    let name = |feature: usize| features[feature].name.clone();
    let last = factor.columns() - 1;
    let mut warnings: Vec<Warning> = fit::copies_of_target(factor)
        .into_iter()
        .map(|copy| Warning::CopyOfTarget {
            feature: name(copy.feature),
            target: target.to_owned(),
            equation: fit::linear(&[(copy.slope, &features[copy.feature].name)], copy.offset),
        })
        .collect();
    let r2 = 1.0 - (factor.entry(last, last) / factor.centred_norm(last)).powi(2);
    if factor.rows() == last as u64 {
        warnings.push(Warning::NoFreedom { rows: factor.rows() });
    } else if warnings.is_empty() && r2 > R2_SUSPICIOUS {
        warnings.push(Warning::NearPerfect { r2 });
    }
    let inflated = fit::variance_inflation(factor).into_iter().enumerate();
    warnings.extend(
        inflated
            .filter(|(_, inflation)| *inflation > VARIANCE_INFLATION_MAX)
            .map(|(feature, inflation)| Warning::NearCollinear { feature: name(feature), inflation }),
    );
    warnings
}

/// A warning for each baseline that the model does not beat.
pub(super) fn no_skill(evaluation: &Evaluation) -> Vec<Warning> {
    let baselines = [("the mean", evaluation.mean.skill), ("the value before", evaluation.last_value.skill)];
    baselines
        .into_iter()
        // Against a baseline without any error no skill can be computed: nothing beats it.
        .map(|(baseline, skill)| (baseline, skill.unwrap_or(f64::NEG_INFINITY)))
        .filter(|(_, skill)| *skill <= 0.0)
        .map(|(baseline, skill)| Warning::NoSkill { baseline, skill })
        .collect()
}
