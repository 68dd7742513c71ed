//! How wrong predictions are, and how wrong the simplest ones are on the same rows.

use serde::{Deserialize, Serialize};

/// Errors added up over rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorSums {
    absolute: f64,
    squares: f64,
}

impl ErrorSums {
    /// Adds one row's error.
    pub fn add(&mut self, error: f64) {
        self.absolute += error.abs();
        self.squares += error * error;
    }

    /// The sum of squares.
    pub fn squares(&self) -> f64 {
        self.squares
    }

    /// Over `rows` rows (not 0) whose targets have `spread`, the sum of squares about their own mean.
    pub fn score(&self, rows: u64, spread: f64) -> Score {
        let rows = rows as f64;
        let r2 = (spread > 0.0).then(|| 1.0 - self.squares / spread);
        Score { rmse: (self.squares / rows).sqrt(), mae: self.absolute / rows, r2 }
    }
}

/// Measures of error, in the target's unit but for R2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub rmse: f64,
    pub mae: f64,
    /// 1 - squared errors / squares about the test rows' own mean, as Spark and scikit-learn have it. Absent where the
    /// target is constant.
    pub r2: Option<f64>,
}

/// A naive prediction of the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    pub rmse: f64,
    pub mae: f64,
    pub r2: Option<f64>,
    /// 1 - the model's RMSE / this RMSE: 1 is perfect, 0 is no better, below 0 is worse. Absent where this is perfect.
    pub skill: Option<f64>,
}

impl Baseline {
    /// The baseline's score beside the model's.
    pub fn new(baseline: Score, model: Score) -> Self {
        let skill = (baseline.rmse > 0.0).then(|| 1.0 - model.rmse / baseline.rmse);
        Self { rmse: baseline.rmse, mae: baseline.mae, r2: baseline.r2, skill }
    }
}

/// The model and the baselines on the test rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// How many test rows.
    pub rows: u64,
    pub model: Score,
    /// Always the mean of the training target.
    pub mean: Baseline,
    /// The target of the row before, in the query's order: means something where that order is time.
    pub last_value: Baseline,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let mut sums = ErrorSums::default();
        [1.0, -2.0, 0.0, 3.0].into_iter().for_each(|error| sums.add(error));
        let score = sums.score(4, 28.0);
        assert_eq!(score, Score { rmse: 3.5_f64.sqrt(), mae: 1.5, r2: Some(0.5) });
        assert_eq!(sums.score(4, 0.0).r2, None);
        let half = Score { rmse: score.rmse / 2.0, ..score };
        assert_eq!(Baseline::new(score, half).skill, Some(0.5));
        assert_eq!(Baseline::new(Score { rmse: 0.0, ..score }, half).skill, None);
    }
}
