//! Ridge, lasso and elastic net, with the names and the meaning of Spark MLlib's `LinearRegression`.
//!
//! Minimised is, W being the sum of the weights (the number of rows, where all weigh 1):
//!
//! ```text
//! 1/(2W) sum w (y - b0 - x.b)^2 + regParam * elasticNetParam * sum s_j |b_j|
//!                               + regParam * (1 - elasticNetParam) / (2 sd(y)) * sum s_j^2 b_j^2
//! ```
//!
//! with s_j = sd(x_j) if `standardization`, else 1. The intercept is not penalised. Two things that Spark's manual
//! does not say are so in Spark's code (`WeightedLeastSquares`, the default solver up to 4096 features), and in R's
//! glmnet: the label is standardised too, which leaves its deviation under the squared part; and deviations divide by
//! W, not by W - 1.
//!
//! The rows are never needed: their triangle has the same objective. Ridge is least squares on the triangle with p
//! more rows, which linfa-linear solves exactly; the rest is linfa-elasticnet's coordinate descent on the triangle.

use linfa::{dataset::DatasetBase, traits::Fit as _};
use linfa_elasticnet::ElasticNet;
use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::{
    fit::{is_constant, least_squares},
    qr::{QrFactor, Triangle},
};
use crate::error::{Error, Result};

/// Coordinate descent goes on until the duality gap is this part of the target's squares.
const TOLERANCE: f64 = 1e-13;

/// Passes over the coefficients; each costs p^2 steps, whatever the number of rows.
const STEPS_MAX: u32 = 200_000;

/// How large coefficients are held down.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Penalty {
    /// 0 is plain least squares.
    pub reg_param: f64,
    /// 0 is ridge, 1 is lasso.
    pub elastic_net_param: f64,
    /// Whether each feature is penalised in units of its own deviation.
    pub standardization: bool,
}

impl Default for Penalty {
    fn default() -> Self {
        Self { reg_param: 0.0, elastic_net_param: 0.0, standardization: true }
    }
}

impl Penalty {
    /// Checks the ranges.
    ///
    /// # Errors
    /// `Invalid`, naming Spark's parameter.
    pub fn check(self) -> Result<Self> {
        if !(self.reg_param >= 0.0 && self.reg_param.is_finite()) {
            return Err(Error::invalid(format!("regParam {} is not a number from 0 on", self.reg_param)));
        }
        if !(0.0..=1.0).contains(&self.elastic_net_param) {
            return Err(Error::invalid(format!("elasticNetParam {} is not between 0 and 1", self.elastic_net_param))
                .help("0 is ridge, 1 is lasso"));
        }
        Ok(self)
    }

    /// Whether it does anything.
    pub fn is_on(self) -> bool {
        self.reg_param > 0.0
    }

    /// The coefficients (one per feature), given the triangle of `[x.., y]`, less their means if there is an intercept.
    pub(super) fn coefficients(self, factor: &QrFactor, triangle: &Triangle) -> Result<Vec<f64>> {
        let root = factor.weight().sqrt();
        let deviation = |column: usize| factor.centred_norm(column) / root;
        let features = triangle.columns() - 1;
        let scales: Vec<f64> = (1..=features).map(|j| if self.standardization { deviation(j) } else { 1.0 }).collect();
        let absolute = self.reg_param * self.elastic_net_param;
        let target = deviation(features + 1);
        let squared = if target > 0.0 { self.reg_param * (1.0 - self.elastic_net_param) / target } else { 0.0 };
        // A column without any deviation says nothing beside the intercept; its scale of 0 must divide nothing.
        let silent = |j: usize| is_constant(factor, j + 1) || triangle.norm(j) == 0.0;
        let cell = |i: usize, j: usize| if silent(j) { 0.0 } else { triangle.entry(i, j) / (scales[j] * root) };
        let x = Array2::from_shape_fn((features + 1, features), |(i, j)| cell(i, j));
        let y = Array1::from_shape_fn(features + 1, |i| triangle.entry(i, features) / root);
        let scaled = if absolute > 0.0 { descend(x, y, absolute, squared)? } else { ridge(&x, &y, squared)? };
        Ok(scaled.iter().enumerate().map(|(j, value)| if silent(j) { 0.0 } else { value / scales[j] }).collect())
    }
}

/// min 1/2 |y - Xb|^2 + squared / 2 |b|^2.
fn ridge(x: &Array2<f64>, y: &Array1<f64>, squared: f64) -> Result<Vec<f64>> {
    let (rows, features) = x.dim();
    let root = squared.sqrt();
    // A column of zeros gets a row of its own all the same, so that the whole has full rank.
    let more = |i: usize, j: usize| if i - rows == j { if root > 0.0 { root } else { f64::MIN_POSITIVE } } else { 0.0 };
    let stacked =
        Array2::from_shape_fn((rows + features, features), |(i, j)| if i < rows { x[(i, j)] } else { more(i, j) });
    let target = Array1::from_shape_fn(rows + features, |i| if i < rows { y[i] } else { 0.0 });
    least_squares(stacked, target)
}

/// min 1/2 |y - Xb|^2 + absolute |b|_1 + squared / 2 |b|^2.
fn descend(x: Array2<f64>, y: Array1<f64>, absolute: f64, squared: f64) -> Result<Vec<f64>> {
    let norms: Vec<f64> = x.columns().into_iter().map(|column| column.dot(&column).sqrt()).collect();
    let smallest = norms.iter().copied().filter(|norm| *norm > 0.0).fold(f64::INFINITY, f64::min);
    let (largest, size) = (norms.iter().copied().fold(0.0, f64::max), y.dot(&y).sqrt());
    if largest == 0.0 || size == 0.0 {
        return Ok(vec![0.0; norms.len()]);
    }
    // linfa takes numbers below 2e-16 for zero: no column may be shorter than 1, no coefficient much below it.
    let unit = size * smallest / largest;
    let rows = x.nrows() as f64;
    let (x, y) = (x / smallest, y / unit);
    // Its own objective divides the squares by the number of rows, here of the triangle.
    let (absolute, squared) = (absolute / (smallest * unit * rows), squared / (smallest * smallest * rows));
    let net = ElasticNet::params()
        .with_intercept(false)
        .penalty(absolute + squared)
        .l1_ratio(absolute / (absolute + squared))
        .tolerance(TOLERANCE)
        .max_iterations(STEPS_MAX)
        .fit(&DatasetBase::new(x, y.clone()))
        .map_err(|error| Error::internal("linfa refuses the penalised regression").source_error(error.to_string()))?;
    if net.duality_gap() > TOLERANCE * y.dot(&y) {
        return Err(Error::invalid(format!(
            "the penalised regression did not settle in {STEPS_MAX} steps: features are nearly copies of one another"
        ))
        .help("leave one of them out, raise regParam, or use ridge (elasticNetParam 0), which needs no steps"));
    }
    Ok(net.hyperplane().iter().map(|value| value * unit / smallest).collect())
}

#[cfg(test)]
#[path = "penalty_tests.rs"]
mod tests;
