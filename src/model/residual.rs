//! How the residuals lie: their quartiles, and a sample of rows to draw.

use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::{score::ErrorSums, split::draw};

/// Rows of a sample. A quartile of so many is off by 0.4 % of the rows or less (one standard error).
const SAMPLE_ROWS_MAX: usize = 16_384;

/// A uniform sample of the rows that it saw: those whose numbers hash lowest. So it is the same whatever the batches.
#[derive(Debug, Default)]
pub struct Sample {
    seen: u64,
    rows: BinaryHeap<Sampled>,
}

#[derive(Debug, Clone, Copy)]
struct Sampled {
    rank: u64,
    predicted: f64,
    actual: f64,
}

impl PartialEq for Sampled {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Sampled {}

impl PartialOrd for Sampled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sampled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl Sample {
    /// Row `row` of the query.
    pub fn add(&mut self, row: u64, predicted: f64, actual: f64) {
        self.seen += 1;
        let rank = draw(0, row);
        if self.rows.len() == SAMPLE_ROWS_MAX {
            match self.rows.peek() {
                Some(highest) if highest.rank > rank => self.rows.pop(),
                _ => return,
            };
        }
        self.rows.push(Sampled { rank, predicted, actual });
    }

    /// The first `rows` of the sample, a uniform sample themselves: (predicted, actual).
    pub fn pairs(&self, rows: usize) -> Vec<(f64, f64)> {
        let mut sampled: Vec<Sampled> = self.rows.iter().copied().collect();
        sampled.sort_unstable();
        sampled.iter().take(rows).map(|row| (row.predicted, row.actual)).collect()
    }

    /// The quartiles of actual - predicted, as R's default (type 7) has them; whether they are of a sample.
    fn quartiles(&self) -> ([f64; 3], bool) {
        let mut residuals: Vec<f64> = self.rows.iter().map(|row| row.actual - row.predicted).collect();
        residuals.sort_unstable_by(f64::total_cmp);
        let quantile = |share: f64| {
            let place = share * (residuals.len() - 1) as f64;
            let (low, high) = (residuals[place.floor() as usize], residuals[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        if residuals.is_empty() {
            return ([0.0; 3], false);
        }
        ([0.25, 0.5, 0.75].map(quantile), self.seen > residuals.len() as u64)
    }
}

/// Of the rows that a model was trained on: actual - predicted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ResidualSummary {
    pub min: f64,
    pub first_quartile: f64,
    pub median: f64,
    pub third_quartile: f64,
    pub max: f64,
    /// Whether the quartiles are those of a uniform sample of 16,384 rows; else they are exact.
    pub sampled: bool,
    /// Near 2 if residuals say nothing about the next one; near 0 if they follow one another, and then the standard
    /// errors are too small (Durbin, Watson 1950). In the query's order.
    pub durbin_watson: Option<f64>,
}

/// Takes the residuals in the query's order.
#[derive(Debug)]
pub struct Residuals {
    pub errors: ErrorSums,
    pub sample: Sample,
    min: f64,
    max: f64,
    previous: f64,
    steps: f64,
}

impl Default for Residuals {
    fn default() -> Self {
        Self {
            errors: ErrorSums::default(),
            sample: Sample::default(),
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            previous: f64::NAN,
            steps: 0.0,
        }
    }
}

impl Residuals {
    /// Row `row` of the query.
    pub fn add(&mut self, row: u64, actual: f64, predicted: f64) {
        let residual = actual - predicted;
        self.errors.add(actual, predicted);
        self.sample.add(row, predicted, actual);
        self.min = self.min.min(residual);
        self.max = self.max.max(residual);
        if self.previous.is_finite() {
            self.steps += (residual - self.previous).powi(2);
        }
        self.previous = residual;
    }

    /// None without rows.
    pub fn summary(&self) -> Option<ResidualSummary> {
        if self.errors.rows() == 0 {
            return None;
        }
        let ([first_quartile, median, third_quartile], sampled) = self.sample.quartiles();
        let squares = self.errors.squares();
        Some(ResidualSummary {
            min: self.min,
            first_quartile,
            median,
            third_quartile,
            max: self.max,
            sampled,
            durbin_watson: (squares > 0.0).then(|| self.steps / squares),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_as_r_has_them() {
        let mut residuals = Residuals::default();
        [5.0, 1.0, 2.0, 10.0].iter().zip(0..).for_each(|(residual, row)| residuals.add(row, *residual, 0.0));
        let summary = residuals.summary().unwrap();
        assert_eq!((summary.min, summary.first_quartile, summary.median), (1.0, 1.75, 3.5));
        assert_eq!((summary.third_quartile, summary.max, summary.sampled), (6.25, 10.0, false));
        assert_eq!(summary.durbin_watson, Some((16.0 + 1.0 + 64.0) / 130.0));
        assert_eq!(Residuals::default().summary(), None);
    }

    #[test]
    fn beyond_its_size_it_is_a_uniform_sample() {
        let mut residuals = Residuals::default();
        (0..200_000).for_each(|row| residuals.add(row, row as f64, 0.0));
        let summary = residuals.summary().unwrap();
        assert!(summary.sampled && (summary.min, summary.max) == (0.0, 199_999.0));
        assert!((summary.median / 1e5 - 1.0).abs() < 0.03, "{summary:?}");
        assert!((summary.first_quartile / 5e4 - 1.0).abs() < 0.05, "{summary:?}");
        assert_eq!(residuals.sample.pairs(usize::MAX).len(), SAMPLE_ROWS_MAX);
        assert_eq!(residuals.sample.pairs(7).len(), 7);
    }
}
