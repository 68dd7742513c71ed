//! How wrong predictions are, and how wrong the simplest ones are on the same rows.

use serde::{Deserialize, Serialize};

use super::exact;

/// Errors added up over rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorSums {
    rows: u64,
    absolute: f64,
    squares: f64,
    relative: f64,
    /// Rows whose target is not 0.
    relative_rows: u64,
}

impl ErrorSums {
    /// Adds one row's error.
    pub fn add(&mut self, actual: f64, predicted: f64) {
        let error = actual - predicted;
        self.rows += 1;
        self.absolute += error.abs();
        self.squares += error * error;
        if actual != 0.0 {
            self.relative += (error / actual).abs();
            self.relative_rows += 1;
        }
    }

    /// Adds those of other rows.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.absolute += other.absolute;
        self.squares += other.squares;
        self.relative += other.relative;
        self.relative_rows += other.relative_rows;
    }

    /// How many.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The sum of squares.
    pub fn squares(&self) -> f64 {
        self.squares
    }

    /// Over the rows (not none), whose targets have `spread`, the sum of squares about their own mean.
    pub fn score(&self, spread: f64) -> Score {
        let rows = self.rows as f64;
        let r2 = (spread > 0.0).then(|| 1.0 - self.squares / spread);
        let mape = (self.relative_rows > 0).then(|| self.relative / self.relative_rows as f64);
        Score { rmse: (self.squares / rows).sqrt(), mae: self.absolute / rows, mape, r2 }
    }
}

/// Squares about the mean of values that come one by one (Welford 1962).
#[derive(Debug, Clone, Copy, Default)]
pub struct Spread {
    count: f64,
    mean: f64,
    /// The sum of squares about the mean.
    pub squares: f64,
}

impl Spread {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.count += 1.0;
        let step = value - self.mean;
        self.mean += step / self.count;
        self.squares += step * (value - self.mean);
    }

    /// Adds those of other rows.
    pub fn merge(&mut self, other: &Self) {
        let count = self.count + other.count;
        if count > 0.0 {
            let step = other.mean - self.mean;
            self.squares += other.squares + step * step * self.count * other.count / count;
            self.mean += step * other.count / count;
            self.count = count;
        }
    }
}

/// Measures of error, in the target's unit but for R2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    #[serde(deserialize_with = "exact::one")]
    pub rmse: f64,
    #[serde(deserialize_with = "exact::one")]
    pub mae: f64,
    /// The mean of |error / target|, as a share, over the rows whose target is not 0.
    #[serde(default, deserialize_with = "exact::maybe")]
    pub mape: Option<f64>,
    /// 1 - squared errors / squares about the test rows' own mean, as Spark and scikit-learn have it. Absent where the
    /// target is constant.
    #[serde(default, deserialize_with = "exact::maybe")]
    pub r2: Option<f64>,
}

/// A naive prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// How many of the test rows it has a prediction for; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(deserialize_with = "exact::one")]
    pub rmse: f64,
    #[serde(deserialize_with = "exact::one")]
    pub mae: f64,
    #[serde(default, deserialize_with = "exact::maybe")]
    pub mape: Option<f64>,
    #[serde(default, deserialize_with = "exact::maybe")]
    pub r2: Option<f64>,
    /// 1 - the model's RMSE / this RMSE, on the rows that it has a prediction for: 1 is perfect, 0 is no better, below 0
    /// is worse. Absent where this is perfect.
    #[serde(default, deserialize_with = "exact::maybe")]
    pub skill: Option<f64>,
}

/// A naive prediction's errors, and the model's on the same rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct BaselineSums {
    own: ErrorSums,
    model: ErrorSums,
}

impl BaselineSums {
    /// Adds a row. A baseline that is no number has nothing to say about it.
    pub fn add(&mut self, actual: f64, predicted: f64, baseline: f64) {
        if baseline.is_finite() {
            self.own.add(actual, baseline);
            self.model.add(actual, predicted);
        }
    }

    /// Adds those of other rows.
    pub fn merge(&mut self, other: &Self) {
        self.own.merge(&other.own);
        self.model.merge(&other.model);
    }

    /// The score beside the model's; none without rows. `rows`, `spread`: of all test rows.
    pub fn baseline(&self, rows: u64, spread: f64) -> Option<Baseline> {
        if self.own.rows == 0 {
            return None;
        }
        let all = self.own.rows == rows;
        let own = self.own.score(if all { spread } else { 0.0 });
        let model = self.model.score(0.0);
        let skill = (own.rmse > 0.0).then(|| 1.0 - model.rmse / own.rmse);
        let rows = (!all).then_some(self.own.rows);
        Some(Baseline { rows, rmse: own.rmse, mae: own.mae, mape: own.mape, r2: own.r2, skill })
    }
}

/// The model and the baselines on the test rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// How many test rows.
    pub rows: u64,
    pub model: Score,
    /// Always the mean of the training target.
    pub mean: Baseline,
    /// The target's last known value: of the row before in the query's order, or at the time of the prediction. Absent
    /// where no test row has one.
    pub last_value: Option<Baseline>,
    /// The target one season before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seasonal: Option<Baseline>,
    /// Of a walk-forward or chronological evaluation, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folds: Vec<FoldScore>,
}

/// One stretch, predicted by a model of the rows before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldScore {
    /// The first row of the stretch, from 0, and its time.
    pub first_row: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    pub trained_rows: u64,
    /// Rows before it that did not train, because their target was known only after its start.
    pub left_out_rows: u64,
    pub rows: u64,
    pub rmse: f64,
    /// Against the last value.
    pub skill: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let mut sums = BaselineSums::default();
        let rows = [(1.0, 0.0), (-2.0, 0.0), (0.0, 0.0), (6.0, 3.0)];
        rows.iter().for_each(|(actual, baseline)| sums.add(*actual, *actual - 0.5, *baseline));
        sums.add(5.0, 4.5, f64::NAN);
        let baseline = sums.baseline(4, 28.0).unwrap();
        assert_eq!((baseline.rmse, baseline.mae, baseline.r2), (3.5_f64.sqrt(), 1.5, Some(0.5)));
        assert_eq!(baseline.mape, Some(2.5 / 3.0), "a target of 0 has no relative error");
        assert_eq!((baseline.rows, baseline.skill), (None, Some(1.0 - 0.5 / 3.5_f64.sqrt())));
        assert_eq!(sums.baseline(5, 28.0).unwrap().rows, Some(4));
        let mut perfect = BaselineSums::default();
        perfect.add(1.0, 2.0, 1.0);
        assert_eq!(perfect.baseline(1, 0.0).unwrap().skill, None);
        assert!(BaselineSums::default().baseline(1, 0.0).is_none());
    }
}
