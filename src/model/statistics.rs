//! How far the coefficients can be trusted: standard errors, t and F tests, intervals. Pure: from the factor alone.
//!
//! All of it assumes independent errors of equal variance (or variance 1 / weight), as every regression table does. It
//! is what R's `lm` and statsmodels print; without an intercept R2 and F are about 0, as theirs are.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Continuous, ContinuousCDF, FisherSnedecor, StudentsT};

use super::{
    exact,
    fit::{Fit, Objective, variance_inflation},
    qr::{QrFactor, Triangle},
};
use crate::error::{Error, Result};

/// What is called the constant term.
pub const INTERCEPT: &str = "(intercept)";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// `(intercept)`, a feature, or `symbol=ETHUSDT`.
    pub term: String,
    #[serde(deserialize_with = "exact::one")]
    pub estimate: f64,
    pub standard_error: f64,
    /// estimate / standard error; absent if the rows lie on the line exactly.
    pub t: Option<f64>,
    /// Of a t at least as far from 0, if the coefficient were 0: two-sided.
    pub p: Option<f64>,
    /// The confidence interval.
    pub low: f64,
    pub high: f64,
    /// The factor by which the other features inflate the variance; absent for the intercept.
    pub variance_inflation: Option<f64>,
}

/// The test of all features together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FTest {
    /// Absent if the rows lie on the line exactly.
    pub value: Option<f64>,
    pub freedom: [u64; 2],
    pub p: Option<f64>,
}

/// The table below a regression. Absent for a penalised fit, whose coefficients are biased on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Of the intervals: 0.95.
    pub confidence: f64,
    /// Rows less coefficients, at least 1.
    pub freedom: u64,
    pub residual_standard_error: f64,
    pub r2: f64,
    pub adjusted_r2: f64,
    /// Absent without features.
    pub f: Option<FTest>,
    /// The intercept first, if there is one.
    pub coefficients: Vec<Coefficient>,
    /// Of the coefficients, in that order, row after row.
    #[serde(deserialize_with = "exact::many")]
    pub covariance: Vec<f64>,
}

/// Checks a confidence level.
///
/// # Errors
/// `Invalid` outside 0 < level < 1.
pub fn check_confidence(level: f64) -> Result<f64> {
    if level > 0.0 && level < 1.0 {
        return Ok(level);
    }
    Err(Error::invalid(format!("the confidence {level} is not between 0 and 1")).help("0.95 is usual"))
}

/// The table of a fit by plain least squares. None without a degree of freedom. `terms` are the features' names.
///
/// # Errors
/// `Internal` if a distribution refuses its parameters.
pub fn statistics(
    factor: &QrFactor,
    fit: &Fit,
    terms: &[String],
    fit_intercept: bool,
    confidence: f64,
) -> Result<Option<Statistics>> {
    let triangle = factor.triangle(fit_intercept);
    let count = triangle.columns() - 1;
    let freedom = factor.rows().saturating_sub(count as u64);
    if freedom == 0 || count == 0 {
        return Ok(None);
    }
    let left = triangle.entry(count, count).powi(2);
    let total = total_squares(factor, fit_intercept);
    let variance = left / freedom as f64;
    let inverse = triangle.inverse();
    let product = |i: usize, j: usize| inverse[i].iter().zip(&inverse[j]).map(|(a, b)| a * b).sum::<f64>();
    let covariance: Vec<f64> = (0..count * count).map(|at| variance * product(at / count, at % count)).collect();
    let student = student(freedom as f64)?;
    let far = quantile(&student, 0.5 + confidence / 2.0);
    let inflation = variance_inflation(factor, fit_intercept);
    let names = fit_intercept.then_some((INTERCEPT, fit.intercept, None));
    let features = terms.iter().zip(&fit.coefficients).zip(inflation);
    let features = features.map(|((term, estimate), inflation)| (term.as_str(), *estimate, Some(inflation)));
    let coefficients = names.into_iter().chain(features).enumerate().map(|(at, (term, estimate, inflation))| {
        let error = covariance[at * count + at].sqrt();
        let t = (error > 0.0).then(|| estimate / error);
        Coefficient {
            term: term.to_owned(),
            estimate,
            standard_error: error,
            t,
            p: t.map(|t| 2.0 * student.sf(t.abs())),
            low: estimate - far * error,
            high: estimate + far * error,
            variance_inflation: inflation,
        }
    });
    let coefficients = coefficients.collect();
    let r2 = 1.0 - left / total;
    let lost = (factor.rows() - u64::from(fit_intercept)) as f64 / freedom as f64;
    Ok(Some(Statistics {
        confidence,
        freedom,
        residual_standard_error: variance.sqrt(),
        r2,
        adjusted_r2: 1.0 - (1.0 - r2) * lost,
        f: f_test(total - left, left, terms.len(), freedom)?,
        coefficients,
        covariance,
    }))
}

/// The squares that a fit has to explain: about the mean, or about 0 without an intercept.
pub fn total_squares(factor: &QrFactor, fit_intercept: bool) -> f64 {
    let target = factor.columns() - 1;
    if fit_intercept { factor.centred_norm(target).powi(2) } else { factor.norm(target).powi(2) }
}

fn f_test(explained: f64, left: f64, features: usize, freedom: u64) -> Result<Option<FTest>> {
    if features == 0 {
        return Ok(None);
    }
    let value = (explained / features as f64) / (left / freedom as f64);
    let distribution = FisherSnedecor::new(features as f64, freedom as f64)
        .map_err(|error| Error::internal("the F distribution").source_error(error))?;
    let finite = value.is_finite();
    Ok(Some(FTest {
        value: finite.then_some(value),
        freedom: [features as u64, freedom],
        p: finite.then(|| distribution.sf(value.max(0.0))),
    }))
}

fn student(freedom: f64) -> Result<StudentsT> {
    StudentsT::new(0.0, 1.0, freedom).map_err(|error| Error::internal("Student's t distribution").source_error(error))
}

/// The upper quantile, `level` from 1/2 to below 1. The crate's own inverse is a start that Newton's method makes exact.
fn quantile(student: &StudentsT, level: f64) -> f64 {
    let mut at = student.inverse_cdf(level);
    for _ in 0..3 {
        let next = at + (student.sf(at) - (1.0 - level)) / student.pdf(at);
        if !next.is_finite() {
            break;
        }
        at = next;
    }
    at
}

/// Prediction intervals: where a new row's target lies with the given confidence, given its features.
#[derive(Debug, Clone)]
pub struct Intervals {
    fit_intercept: bool,
    triangle: Triangle,
    /// Student's quantile times the residual standard error.
    reach: f64,
}

impl Intervals {
    /// From the factor of a model's terms. None for a penalised fit, and without a degree of freedom.
    ///
    /// # Errors
    /// `Invalid` for a bad level.
    pub fn new(factor: &QrFactor, objective: Objective, confidence: f64) -> Result<Option<Self>> {
        check_confidence(confidence)?;
        let triangle = factor.triangle(objective.fit_intercept);
        let count = triangle.columns() - 1;
        let freedom = factor.rows().saturating_sub(count as u64);
        if objective.penalty.is_on() || freedom == 0 {
            return Ok(None);
        }
        let deviation = triangle.entry(count, count).abs() / (freedom as f64).sqrt();
        let reach = deviation * quantile(&student(freedom as f64)?, 0.5 + confidence / 2.0);
        Ok(Some(Self { fit_intercept: objective.fit_intercept, triangle, reach }))
    }

    /// Half the width for each of `rows` rows: reach * sqrt(1 + x (X'X)^-1 x'). Columns, never rows: each step takes
    /// one feature off all of them.
    pub fn half_widths(&self, features: &[&[f64]], rows: usize) -> Vec<f64> {
        let ones = usize::from(self.fit_intercept);
        let count = self.triangle.columns() - 1;
        // v solves R'v = x; its squares add up to the leverage.
        let mut solved: Vec<Vec<f64>> = Vec::with_capacity(count);
        let mut sums = vec![1.0; rows];
        for j in 0..count {
            let mut column = if j < ones { vec![1.0; rows] } else { features[j - ones][..rows].to_vec() };
            for (i, before) in solved.iter().enumerate() {
                let entry = self.triangle.entry(i, j);
                column.iter_mut().zip(before).for_each(|(value, before)| *value -= entry * before);
            }
            let pivot = self.triangle.entry(j, j);
            for (value, sum) in column.iter_mut().zip(&mut sums) {
                *value /= pivot;
                *sum += *value * *value;
            }
            solved.push(column);
        }
        sums.iter().map(|sum| self.reach * sum.sqrt()).collect()
    }
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
