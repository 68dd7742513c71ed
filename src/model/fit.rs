//! From a QR factor to coefficients, and to what is wrong with the columns. Pure: no rows, no I/O.

use linfa::{dataset::DatasetBase, traits::Fit as _};
use linfa_linear::LinearRegression;
use ndarray::{Array1, Array2};

use super::{penalty::Penalty, qr::QrFactor};
use crate::error::{Error, Result};

/// |corr(feature, target)| beyond 1 - 1e-9 is a copy. Here as the part of the target's deviation that the feature
/// leaves: sqrt(1 - corr^2).
const COPY_REST_MAX: f64 = 4.5e-5;

/// A feature whose share of its own variance that the others do not explain is below one in this many is reported.
/// A coefficient then has about six digits less than the data.
pub const VARIANCE_INFLATION_MAX: f64 = 1e12;

/// How many columns the description of a combination names.
const TERMS_MAX: usize = 4;

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Without an intercept the line goes through the origin.
    pub fit_intercept: bool,
    pub penalty: Penalty,
}

impl Default for Objective {
    fn default() -> Self {
        Self { fit_intercept: true, penalty: Penalty::default() }
    }
}

impl Objective {
    /// How many numbers are fitted to `features` features.
    pub fn coefficients(self, features: usize) -> usize {
        features + usize::from(self.fit_intercept)
    }
}

/// A fitted line.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// 0 without one.
    pub intercept: f64,
    /// One per feature.
    pub coefficients: Vec<f64>,
}

/// A feature that adds nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Redundant {
    /// Its place among the features, from 0.
    pub feature: usize,
    pub why: Redundancy,
}

/// Why a feature adds nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Redundancy {
    /// It has this value in every row.
    Constant(f64),
    /// It is `offset` plus these multiples of features before it.
    Combination { terms: Vec<(usize, f64)>, offset: f64 },
}

impl Redundancy {
    /// `always 3`, or `2 * buy_price - 1`.
    pub fn describe(&self, names: &[String]) -> String {
        match self {
            Self::Constant(value) => format!("it is always {}", short(*value)),
            Self::Combination { terms, .. } if terms.len() > TERMS_MAX => {
                let names: Vec<&str> = terms.iter().map(|(feature, _)| names[*feature].as_str()).collect();
                format!("it is a combination of {}", names.join(", "))
            }
            Self::Combination { terms, offset } => {
                let named: Vec<(f64, &str)> =
                    terms.iter().map(|(feature, factor)| (*factor, names[*feature].as_str())).collect();
                format!("it equals {}", linear(&named, *offset))
            }
        }
    }
}

/// The target is `slope * feature + offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// Its place among the features, from 0.
    pub feature: usize,
    pub slope: f64,
    pub offset: f64,
}

/// Solves for the coefficients. Unless there is a penalty, the factor must have passed `redundant` with nothing found
/// and have as many rows as coefficients at least.
///
/// # Errors
/// `Internal` if linfa refuses the triangle; `Invalid` if a penalised fit does not settle.
pub fn solve(factor: &QrFactor, objective: Objective) -> Result<Fit> {
    let features = factor.columns() - 2;
    let triangle = factor.triangle(objective.fit_intercept);
    if objective.penalty.is_on() {
        let triangle = if objective.fit_intercept { triangle.below_first() } else { triangle };
        let coefficients = objective.penalty.coefficients(factor, &triangle)?;
        let explained: f64 = coefficients.iter().zip(1..).map(|(value, j)| value * factor.mean(j)).sum();
        let intercept = if objective.fit_intercept { factor.mean(features + 1) - explained } else { 0.0 };
        return Ok(Fit { intercept, coefficients });
    }
    // Least squares on the triangle is least squares on the rows, for Q changes no length. The ones are its first
    // column, so linfa must not add its own.
    let size = triangle.columns();
    let x = Array2::from_shape_fn((size, size - 1), |(i, j)| triangle.entry(i, j));
    let y = Array1::from_shape_fn(size, |i| triangle.entry(i, size - 1));
    let mut numbers = least_squares(x, y)?.into_iter();
    let intercept = if objective.fit_intercept { numbers.next().unwrap_or(f64::NAN) } else { 0.0 };
    Ok(Fit { intercept, coefficients: numbers.collect() })
}

/// linfa's least squares without an intercept of its own; `x` has full rank.
///
/// # Errors
/// `Internal` if it refuses, or its solution is not finite.
pub(super) fn least_squares(x: Array2<f64>, y: Array1<f64>) -> Result<Vec<f64>> {
    if x.ncols() == 0 {
        return Ok(Vec::new());
    }
    let fitted = LinearRegression::new()
        .with_intercept(false)
        .fit(&DatasetBase::new(x, y))
        .map_err(|error| Error::internal("linfa cannot solve the regression").source_error(error.to_string()))?;
    let numbers = fitted.params().to_vec();
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(numbers);
    }
    Err(Error::internal("linfa's solution of the regression is not finite"))
}

/// What rounding leaves of a column that should vanish, relative to the columns that it was made from.
fn tolerance(factor: &QrFactor) -> f64 {
    let rows = (factor.rows() as f64).sqrt().max(16.0);
    f64::EPSILON * rows * factor.columns() as f64
}

/// Whether column `j` (the target's included) has one value in every row.
pub fn is_constant(factor: &QrFactor, j: usize) -> bool {
    factor.centred_norm(j) <= tolerance(factor) * factor.norm(j)
}

/// The features that are constant or an exact combination of features before them, in order. The first of a group
/// stays, the later ones are redundant. Without an intercept a constant is redundant only if it is 0 or follows another.
pub fn redundant(factor: &QrFactor, fit_intercept: bool) -> Vec<Redundant> {
    let silent = |j: &usize| if fit_intercept { is_constant(factor, *j) } else { factor.norm(*j) == 0.0 };
    let (constant, mut kept): (Vec<usize>, Vec<usize>) = (1..factor.columns() - 1).partition(silent);
    let constant = constant.into_iter().map(|j| (j, Redundancy::Constant(factor.mean(j))));
    let mut found: Vec<(usize, Redundancy)> = constant.collect();
    // A redundant column is left out before the next ones are looked at, for the direction that rounding gives it is
    // noise, and would explain a bit of them.
    let mut current = factor.select(&kept);
    let mut first = 1;
    while let Some((place, why)) = (first..current.columns()).find_map(|j| {
        let tolerance = tolerance(factor);
        let why = if fit_intercept {
            combination(&current, j, &kept, tolerance)
        } else {
            multiple(&current, j, &kept, tolerance)
        };
        why.map(|why| (j, why))
    }) {
        found.push((kept.remove(place - 1), why));
        current = factor.select(&kept);
        first = place;
    }
    found.sort_by_key(|(j, _)| *j);
    found.into_iter().map(|(j, why)| Redundant { feature: j - 1, why }).collect()
}

/// As `combination`, through the origin.
fn multiple(factor: &QrFactor, j: usize, columns: &[usize], tolerance: f64) -> Option<Redundancy> {
    let triangle = factor.triangle(false);
    // The triangle has no ones: its column j - 1 is the factor's column j.
    let (last, mut multiples) = (j - 1, vec![0.0; j - 1]);
    for i in (0..last).rev() {
        let known: f64 = (i + 1..last).map(|k| triangle.entry(i, k) * multiples[k]).sum();
        multiples[i] = (triangle.entry(i, last) - known) / triangle.entry(i, i);
    }
    let size = triangle.norm(last) + (0..last).map(|k| multiples[k].abs() * triangle.norm(k)).sum::<f64>();
    if last == 0 || triangle.entry(last, last).abs() > tolerance * size {
        return None;
    }
    let counts = |k: &usize| multiples[*k].abs() * triangle.norm(*k) > 1e-8 * triangle.norm(last);
    let terms = (0..last).filter(counts).map(|k| (columns[k] - 1, multiples[k])).collect();
    Some(Redundancy::Combination { terms, offset: 0.0 })
}

/// How column `j` is made from those before it, if it is. `columns[k - 1]` is column k's place in the whole factor.
fn combination(factor: &QrFactor, j: usize, columns: &[usize], tolerance: f64) -> Option<Redundancy> {
    let multiples = back_substitute(factor, j);
    let size = factor.norm(j) + (1..j).map(|k| multiples[k - 1].abs() * factor.norm(k)).sum::<f64>();
    if j < 2 || factor.entry(j, j) > tolerance * size {
        return None;
    }
    // Multiples that only rounding made are not named.
    let counts = |k: &usize| multiples[k - 1].abs() * factor.centred_norm(*k) > 1e-8 * factor.centred_norm(j);
    let named: Vec<usize> = (1..j).filter(counts).collect();
    let explained: f64 = named.iter().map(|k| multiples[k - 1] * factor.mean(*k)).sum();
    let offset = cleared(factor.mean(j) - explained, size / factor.entry(0, 0));
    let terms = named.iter().map(|k| (columns[k - 1] - 1, multiples[k - 1])).collect();
    Some(Redundancy::Combination { terms, offset })
}

/// Zero for an offset that only rounding made, `size` being that of the values it was computed from.
fn cleared(offset: f64, size: f64) -> f64 {
    if offset.abs() <= 1e-11 * size { 0.0 } else { offset }
}

/// The multiples of columns 1 .. column-1 that come nearest to `column`, means apart.
fn back_substitute(factor: &QrFactor, column: usize) -> Vec<f64> {
    let mut multiples = vec![0.0; column - 1];
    for i in (1..column).rev() {
        let known: f64 = (i + 1..column).map(|k| factor.entry(i, k) * multiples[k - 1]).sum();
        multiples[i - 1] = (factor.entry(i, column) - known) / factor.entry(i, i);
    }
    multiples
}

/// The features of which the target is an affine copy. A model with one of them is no prediction: the answer stands
/// among the questions. Fewer than three rows say nothing: a line goes through any two.
///
/// `spread` is the length of what a prediction has to explain: the target's about its mean or, where that is less, its
/// changes since its last known value. Beside a slow series its own past looks like a copy, and is none.
pub fn copies_of_target(factor: &QrFactor, spread: f64) -> Vec<Copy> {
    if factor.rows() < 3 {
        return Vec::new();
    }
    let target = factor.columns() - 1;
    let copy = |j: usize| {
        let pair = factor.select(&[j, target]);
        if is_constant(factor, j) || pair.entry(2, 2) > COPY_REST_MAX * pair.centred_norm(2).min(spread) {
            return None;
        }
        let slope = pair.entry(1, 2) / pair.entry(1, 1);
        let size = pair.norm(2) / pair.entry(0, 0);
        Some(Copy { feature: j - 1, slope, offset: cleared(pair.mean(2) - slope * pair.mean(1), size) })
    };
    (1..target).filter_map(copy).collect()
}

/// For each feature the factor by which the others inflate its coefficient's variance: 1 / (1 - R2 of the feature on
/// the others), without an intercept by the R2 about 0. The factor must have passed `redundant`.
pub fn variance_inflation(factor: &QrFactor, fit_intercept: bool) -> Vec<f64> {
    let triangle = factor.triangle(fit_intercept);
    let triangle = if fit_intercept { triangle.below_first() } else { triangle };
    let squares = |row: &Vec<f64>| row.iter().map(|value| value * value).sum::<f64>();
    triangle.inverse().iter().enumerate().map(|(j, row)| squares(row) * triangle.norm(j).powi(2)).collect()
}

/// `40000 * a - 3 * b + 20000`.
pub fn linear(terms: &[(f64, &str)], offset: f64) -> String {
    let mut text = String::new();
    let mut add = |value: f64, name: &str| {
        let sign = match (text.is_empty(), value < 0.0) {
            (true, false) => "",
            (true, true) => "-",
            (false, false) => " + ",
            (false, true) => " - ",
        };
        let size = short(value.abs());
        let shown = match (name, size.as_str()) {
            ("", _) => size,
            (_, "1") => name.to_owned(),
            _ => format!("{size} * {name}"),
        };
        text.push_str(sign);
        text.push_str(&shown);
    };
    terms.iter().for_each(|(value, name)| add(*value, name));
    if offset != 0.0 || terms.is_empty() {
        add(offset, "");
    }
    text
}

/// A number in at most six significant digits.
pub(super) fn short(value: f64) -> String {
    // Zero has no sign for a reader.
    let rounded = format!("{value:.5e}").parse().unwrap_or(value) + 0.0;
    if rounded != 0.0 && !(1e-4..1e15).contains(&rounded.abs()) { format!("{rounded:e}") } else { format!("{rounded}") }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
