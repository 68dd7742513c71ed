//! From a QR factor to coefficients, and to what is wrong with the columns. Pure: no rows, no I/O.

use linfa::{dataset::DatasetBase, traits::Fit as _};
use linfa_linear::LinearRegression;
use ndarray::{Array1, Array2};

use super::qr::QrFactor;
use crate::error::{Error, Result};

/// |corr(feature, target)| beyond 1 - 1e-9 is a copy. Here as the part of the target's deviation that the feature
/// leaves: sqrt(1 - corr^2).
const COPY_REST_MAX: f64 = 4.5e-5;

/// A feature whose share of its own variance that the others do not explain is below one in this many is reported.
/// A coefficient then has about six digits less than the data.
pub const VARIANCE_INFLATION_MAX: f64 = 1e12;

/// How many columns the description of a combination names.
const TERMS_MAX: usize = 4;

/// A fitted line.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
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

/// Solves for the coefficients. The factor must have passed `redundant` with nothing found and have as many rows as
/// coefficients at least.
///
/// # Errors
/// `Internal` if linfa refuses the triangle.
pub fn solve(factor: &QrFactor) -> Result<Fit> {
    let columns = factor.columns();
    let target = columns - 1;
    // Least squares on the triangle is least squares on the rows, for Q changes no length. The ones are its first
    // column, so linfa must not add its own.
    let x = Array2::from_shape_fn((columns, target), |(i, j)| factor.entry(i, j));
    let y = Array1::from_shape_fn(columns, |i| factor.entry(i, target));
    let fitted = LinearRegression::new()
        .with_intercept(false)
        .fit(&DatasetBase::new(x, y))
        .map_err(|error| Error::internal("linfa cannot solve the regression").source_error(error.to_string()))?;
    let mut numbers = fitted.params().iter().copied();
    let fit = Fit { intercept: numbers.next().unwrap_or(f64::NAN), coefficients: numbers.collect() };
    if fit.intercept.is_finite() && fit.coefficients.iter().all(|number| number.is_finite()) {
        return Ok(fit);
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
/// stays, the later ones are redundant.
pub fn redundant(factor: &QrFactor) -> Vec<Redundant> {
    let (constant, mut kept): (Vec<usize>, Vec<usize>) =
        (1..factor.columns() - 1).partition(|j| is_constant(factor, *j));
    let constant = constant.into_iter().map(|j| (j, Redundancy::Constant(factor.mean(j))));
    let mut found: Vec<(usize, Redundancy)> = constant.collect();
    // A redundant column is left out before the next ones are looked at, for the direction that rounding gives it is
    // noise, and would explain a bit of them.
    let mut current = factor.select(&kept);
    let mut first = 1;
    while let Some((place, why)) =
        (first..current.columns()).find_map(|j| combination(&current, j, &kept, tolerance(factor)).map(|why| (j, why)))
    {
        found.push((kept.remove(place - 1), why));
        current = factor.select(&kept);
        first = place;
    }
    found.sort_by_key(|(j, _)| *j);
    found.into_iter().map(|(j, why)| Redundant { feature: j - 1, why }).collect()
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
pub fn copies_of_target(factor: &QrFactor) -> Vec<Copy> {
    if factor.rows() < 3 {
        return Vec::new();
    }
    let target = factor.columns() - 1;
    let copy = |j: usize| {
        let pair = factor.select(&[j, target]);
        if is_constant(factor, j) || pair.entry(2, 2) > COPY_REST_MAX * pair.centred_norm(2) {
            return None;
        }
        let slope = pair.entry(1, 2) / pair.entry(1, 1);
        let size = pair.norm(2) / pair.entry(0, 0);
        Some(Copy { feature: j - 1, slope, offset: cleared(pair.mean(2) - slope * pair.mean(1), size) })
    };
    (1..target).filter_map(copy).collect()
}

/// For each feature the factor by which the others inflate its coefficient's variance: 1 / (1 - R2 of the feature on
/// the others). The factor must have passed `redundant`.
pub fn variance_inflation(factor: &QrFactor) -> Vec<f64> {
    let features = factor.columns() - 2;
    // Row i of the inverse of the centred triangle, whose squared length is the i-th diagonal entry of (X'X)^-1.
    let mut inverse = vec![0.0; features * features];
    for column in 1..=features {
        for i in (1..=column).rev() {
            let known: f64 =
                (i + 1..=column).map(|k| factor.entry(i, k) * inverse[(k - 1) * features + column - 1]).sum();
            let unit = if i == column { 1.0 } else { 0.0 };
            inverse[(i - 1) * features + column - 1] = (unit - known) / factor.entry(i, i);
        }
    }
    let inflation = |j: usize| {
        let squares: f64 = inverse[(j - 1) * features..j * features].iter().map(|value| value * value).sum();
        squares * factor.centred_norm(j).powi(2)
    };
    (1..=features).map(inflation).collect()
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
    let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    if rounded != 0.0 && !(1e-4..1e15).contains(&rounded.abs()) { format!("{rounded:e}") } else { format!("{rounded}") }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
