//! Errors of forecasts that were made before the truth was known, beside those of the naive forecast on the same rows.

use serde::{Deserialize, Serialize};

use crate::model::exact;

/// Sums of errors in which older ones fade (Gama et al. 2013: prequential error with a fading factor).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prequential {
    rows: u64,
    #[serde(deserialize_with = "exact::one")]
    weight: f64,
    own: Sums,
    naive: Sums,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    #[serde(deserialize_with = "exact::one")]
    absolute: f64,
    #[serde(deserialize_with = "exact::one")]
    squares: f64,
}

impl Sums {
    fn add(&mut self, error: f64, fading: f64) {
        self.absolute = self.absolute * fading + error.abs();
        self.squares = self.squares * fading + error * error;
    }
}

/// Measures of error, in the target's unit but for the skill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    pub mae: f64,
    pub rmse: f64,
    pub naive_mae: f64,
    pub naive_rmse: f64,
    /// 1 - RMSE / RMSE of the naive forecast; absent where that is perfect.
    pub skill: Option<f64>,
}

impl Prequential {
    /// Adds a forecast that the truth has come for. `fading`: by how much all errors before it fade; 1 is not at all.
    pub fn add(&mut self, error: f64, naive_error: f64, fading: f64) {
        self.rows += 1;
        self.weight = self.weight * fading + 1.0;
        self.own.add(error, fading);
        self.naive.add(naive_error, fading);
    }

    /// How many forecasts.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// None before the first.
    pub fn scores(&self) -> Option<Scores> {
        if self.rows == 0 {
            return None;
        }
        let (rmse, naive_rmse) = ((self.own.squares / self.weight).sqrt(), (self.naive.squares / self.weight).sqrt());
        let (mae, naive_mae) = (self.own.absolute / self.weight, self.naive.absolute / self.weight);
        Some(Scores { mae, rmse, naive_mae, naive_rmse, skill: (naive_rmse > 0.0).then(|| 1.0 - rmse / naive_rmse) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_hand() {
        let mut all = Prequential::default();
        assert_eq!(all.scores(), None);
        for (error, naive) in [(1.0, 2.0), (-1.0, -2.0), (2.0, 4.0)] {
            all.add(error, naive, 1.0);
        }
        let scores = all.scores().unwrap();
        assert_eq!((scores.mae, scores.naive_mae, scores.rmse), (4.0 / 3.0, 8.0 / 3.0, 2.0_f64.sqrt()));
        assert_eq!((scores.skill, all.rows()), (Some(0.5), 3));
        let mut faded = Prequential::default();
        faded.add(4.0, 0.0, 0.5);
        assert_eq!(faded.scores().unwrap().skill, None);
        faded.add(1.0, 0.0, 0.5);
        assert_eq!(faded.scores().unwrap().mae, 2.0, "the first error counts half");
    }
}
