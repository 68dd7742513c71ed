//! How much a row counts: a weight column, and exponential forgetting.

use serde::{Deserialize, Serialize};

use super::qr::{QrAccumulator, QrFactor};
use crate::error::{Error, Result};

/// After how long a row counts half.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HalfLife {
    /// By the time column.
    TimeUs(i64),
    /// By the place in the query's order.
    Rows(u64),
}

impl HalfLife {
    fn length(self) -> f64 {
        match self {
            Self::TimeUs(microseconds) => microseconds as f64,
            Self::Rows(rows) => rows as f64,
        }
    }
}

/// A factor whose rows' weights refer to a moment: the newest row's.
#[derive(Debug, Clone)]
pub struct AgedFactor {
    pub factor: QrFactor,
    newest: f64,
}

impl AgedFactor {
    /// Of no rows.
    pub fn empty(columns: usize) -> Self {
        Self { factor: QrFactor::empty(columns), newest: f64::NEG_INFINITY }
    }

    /// Adds the rows of another; the older one's weights fade to the newer one's moment first.
    ///
    /// # Errors
    /// As `QrFactor::merge`.
    pub fn merge(&mut self, other: &Self, half_life: Option<HalfLife>) -> Result<()> {
        if self.factor.rows() == 0 {
            self.newest = other.newest;
            return self.factor.merge(&other.factor);
        }
        let Some(half_life) = half_life.filter(|_| other.factor.rows() > 0) else {
            return self.factor.merge(&other.factor);
        };
        let faded = fade(self.newest - other.newest, half_life);
        if faded > 1.0 {
            self.factor.scale_weights(1.0 / faded);
            self.newest = other.newest;
            return self.factor.merge(&other.factor);
        }
        let mut older = other.factor.clone();
        older.scale_weights(faded);
        self.factor.merge(&older)
    }
}

/// The weight of a row that is this much older than the newest.
pub(super) fn fade(age: f64, half_life: HalfLife) -> f64 {
    (-age / half_life.length()).exp2()
}

/// Takes rows with weights and moments.
#[derive(Debug, Clone)]
pub struct AgedAccumulator {
    accumulator: QrAccumulator,
    half_life: Option<HalfLife>,
    newest: f64,
    weights: Vec<f64>,
}

impl AgedAccumulator {
    /// For `values` columns beside the ones.
    pub fn new(values: usize, half_life: Option<HalfLife>) -> Self {
        Self { accumulator: QrAccumulator::new(values), half_life, newest: f64::NEG_INFINITY, weights: Vec::new() }
    }

    /// Adds rows as `QrAccumulator::push`. `moments`: of each row of the batch, in the unit of the half-life, whose
    /// place in the batch is that of the columns' values.
    pub fn push(&mut self, columns: &[&[f64]], weights: Option<&[f64]>, moments: &[f64], rows: &[u32]) {
        let Some(half_life) = self.half_life.filter(|_| !rows.is_empty()) else {
            self.accumulator.push(columns, weights, rows);
            return;
        };
        let newest = rows.iter().map(|row| moments[*row as usize]).fold(self.newest, f64::max);
        if newest > self.newest && self.newest.is_finite() {
            self.accumulator.scale_weights(fade(newest - self.newest, half_life));
        }
        self.newest = newest;
        self.weights.clear();
        self.weights.extend(moments.iter().map(|moment| fade(newest - moment, half_life)));
        if let Some(weights) = weights {
            self.weights.iter_mut().zip(weights).for_each(|(faded, weight)| *faded *= weight);
        }
        self.accumulator.push(columns, Some(&self.weights), rows);
    }

    /// Of all rows so far.
    pub fn factor(&mut self) -> AgedFactor {
        AgedFactor { factor: self.accumulator.factor(), newest: self.newest }
    }
}

/// `10 minutes`, `5m`, `90s`, `1h`, `250ms` in microseconds.
///
/// # Errors
/// `Invalid`, with the spelling.
pub fn duration_us(text: &str) -> Result<i64> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[at..].trim().to_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => 1.0,
        "ms" | "millisecond" | "milliseconds" => 1e3,
        "s" | "sec" | "second" | "seconds" => 1e6,
        "m" | "min" | "minute" | "minutes" => 60e6,
        "h" | "hour" | "hours" => 3_600e6,
        "d" | "day" | "days" => 86_400e6,
        "w" | "week" | "weeks" => 7.0 * 86_400e6,
        _ => 0.0,
    };
    let length = text[..at].parse::<f64>().map_or(0.0, |number| number * unit);
    if (1.0..9e15).contains(&length) {
        return Ok(length.round() as i64);
    }
    Err(Error::invalid(format!("'{text}' is no duration")).help("write 250ms, 90s, 5m, 1h, 7d or '10 minutes'"))
}

/// `500 rows`, or nothing if it is not written so.
pub fn row_count(text: &str) -> Option<u64> {
    let number = text.trim().strip_suffix("rows").or_else(|| text.trim().strip_suffix("row"))?;
    number.trim().parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rows() {
        for (text, wanted) in
            [("5m", 300_000_000), ("1.5 hours", 5_400_000_000), ("250ms", 250_000), ("1d", 86_400_000_000)]
        {
            assert_eq!(duration_us(text).unwrap(), wanted, "{text}");
        }
        for text in ["", "5", "m", "-5m", "5 years", "0s", "1e3s"] {
            assert!(duration_us(text).is_err(), "{text}");
        }
        assert_eq!(
            (row_count("12 rows"), row_count("1row"), row_count("0 rows"), row_count("5m")),
            (Some(12), Some(1), None, None)
        );
    }

    /// Forgetting is nothing but weights: however the rows come in batches, and whatever is merged.
    #[test]
    fn forgetting_is_a_weight_of_age() {
        let x: Vec<f64> = (0..500).map(|row| f64::from(row * 37 % 101)).collect();
        let y: Vec<f64> = (0..500).map(|row| f64::from(row * 53 % 97)).collect();
        let moments: Vec<f64> = (0..500).map(|row| f64::from(row / 3) * 10.0).collect();
        let half_life = Some(HalfLife::TimeUs(200));
        let last = moments[499];
        let weights: Vec<f64> = moments.iter().map(|moment| (-(last - moment) / 200.0).exp2()).collect();
        let mut plain = QrAccumulator::new(2);
        let all: Vec<u32> = (0..500).collect();
        plain.push(&[&x, &y], Some(&weights), &all);
        let wanted = plain.factor();
        let near = |found: &QrFactor| {
            assert_eq!(found.rows(), 500);
            assert!((found.effective_rows() / wanted.effective_rows() - 1.0).abs() < 1e-9);
            for (a, b) in found.to_numbers().iter().zip(wanted.to_numbers()) {
                assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} {b}");
            }
        };
        for chunk in [1, 7, 500] {
            let mut aged = AgedAccumulator::new(2, half_life);
            all.chunks(chunk).for_each(|rows| aged.push(&[&x, &y], None, &moments, rows));
            near(&aged.factor().factor);
        }
        let part = |rows: &[u32]| {
            let mut aged = AgedAccumulator::new(2, half_life);
            aged.push(&[&x, &y], None, &moments, rows);
            aged.factor()
        };
        let mut old = part(&all[..200]);
        old.merge(&part(&all[200..]), half_life).unwrap();
        near(&old.factor);
        let mut new = AgedFactor::empty(3);
        new.merge(&part(&all[200..]), half_life).unwrap();
        new.merge(&part(&all[..200]), half_life).unwrap();
        near(&new.factor);
    }
}
