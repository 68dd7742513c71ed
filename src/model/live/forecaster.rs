//! The loop: what a row says about the forecasts before it, whether a challenger is due, and the forecast from it.

use serde::{Deserialize, Serialize};

use super::{
    champion::{Champion, Decision, Promotion, Reason, Verdict, contest},
    drift::Detector,
    examples::{Example, Examples, Waiting},
    options::{LiveOptions, Span},
    prequential::{Prequential, Scores},
    recent::{Happening, Recent, Scored},
};
use crate::{
    error::{Error, Result},
    model::exact,
};

/// After a drift a challenger is trained whenever the held-out stretch is a new one, until one wins, at most so often.
const RECOVERIES_MAX: u32 = 8;

/// Promotions that are remembered, so that their files can be written after a crash.
const PROMOTIONS_MAX: usize = 16;

/// All that a forecaster has learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Learned {
    /// How many rows there were, and the time of the last one.
    pub rows: u64,
    pub time_us: Option<i64>,
    pub waiting: Waiting,
    pub examples: Examples,
    pub champion: Champion,
    /// How many models were promoted.
    pub promoted: u64,
    pub prequential: Prequential,
    pub detector: Detector,
    /// The mean absolute error of the naive forecast, over all rows, which the detector's errors are measured by.
    pub naive: Mean,
    pub drifts: u64,
    pub last_drift_us: Option<i64>,
    recovery: Option<Recovery>,
    /// The period of the schedule that the last row is in.
    period: Option<i64>,
    /// Examples since a challenger was trained.
    examples_since: u64,
    /// There were enough rows to train one.
    tried: bool,
    pub last_decision: Option<Decision>,
    /// The newest ones.
    pub promotions: Vec<Promotion>,
    /// Rows without a forecast, because a feature is NULL or no finite number.
    pub unusable: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mean {
    rows: u64,
    #[serde(deserialize_with = "exact::one")]
    sum: f64,
}

impl Mean {
    /// An error in units of the mean, squeezed between 0 and 1; the mean of those before it is a half.
    fn squeezed(&self, error: f64) -> f64 {
        let mean = if self.rows == 0 { 0.0 } else { self.sum / self.rows as f64 };
        if error == 0.0 { 0.0 } else { error / (error + mean) }
    }

    fn add(&mut self, error: f64) {
        self.rows += 1;
        self.sum += error;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Recovery {
    since_us: i64,
    left: u32,
}

impl Learned {
    /// Adds the error of a forecast that the truth has come for. True if errors have grown.
    fn judge(&mut self, error: f64, naive_error: f64, options: &LiveOptions) -> bool {
        if !(error.is_finite() && naive_error.is_finite()) {
            return false;
        }
        self.prequential.add(error, naive_error, options.fading_factor);
        let squeezed = self.naive.squeezed(error.abs());
        self.naive.add(naive_error.abs());
        self.detector.add(squeezed, options.drift)
    }
}

/// One row of a series.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Event time, microseconds; not before the row before.
    pub time_us: i64,
    pub series: &'a str,
    /// NaN where it is not known.
    pub target: f64,
    /// All finite; absent where one of them is not.
    pub features: Option<&'a [f64]>,
}

/// What is said about a row. NaN where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Of the target one horizon later.
    pub prediction: f64,
    pub version: u64,
    /// What was predicted for this row, its error, and the naive forecast's.
    pub forecast: f64,
    pub error: f64,
    pub naive_error: f64,
    /// Up to here.
    pub scores: Option<Scores>,
    pub drift: bool,
}

/// The loop and what it has learned.
#[derive(Debug, Clone)]
pub struct Forecaster {
    options: LiveOptions,
    /// Of the features.
    names: Vec<String>,
    pub(super) learned: Learned,
    features: Vec<f64>,
    recent: Recent,
}

/// Where a forecaster stands, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Of the model that serves; 0 for the naive forecast.
    pub version: u64,
    /// Event time of the last row, microseconds.
    pub time_us: Option<i64>,
    /// Forecasts that the truth has come for, and their error.
    pub scored: u64,
    pub scores: Option<Scores>,
    pub waiting: usize,
    pub unmatched: u64,
    pub unusable: u64,
    pub trained_rows: u64,
    pub held_out_rows: usize,
    pub drifts: u64,
    pub last_drift_us: Option<i64>,
    pub last_decision: Option<Decision>,
}

impl Forecaster {
    /// Of features with these names, before the first row.
    pub fn new(options: LiveOptions, names: Vec<String>) -> Self {
        let learned = Learned {
            rows: 0,
            time_us: None,
            waiting: Waiting::default(),
            examples: Examples::new(names.len()),
            champion: Champion::default(),
            promoted: 0,
            prequential: Prequential::default(),
            detector: Detector::new(options.drift),
            naive: Mean::default(),
            drifts: 0,
            last_drift_us: None,
            recovery: None,
            period: None,
            examples_since: 0,
            tried: false,
            last_decision: None,
            promotions: Vec::new(),
            unusable: 0,
        };
        Self { options, names, learned, features: Vec::new(), recent: Recent::default() }
    }

    /// What is forecast, and how.
    pub fn options(&self) -> &LiveOptions {
        &self.options
    }

    /// The features' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Goes on with what another one of these has learned.
    pub(super) fn with(mut self, learned: Learned) -> Self {
        self.learned = learned;
        self
    }

    /// How many rows it has taken.
    pub fn rows(&self) -> u64 {
        self.learned.rows
    }

    /// The newest models that were promoted, the oldest first.
    pub fn promotions(&self) -> &[Promotion] {
        &self.learned.promotions
    }

    /// What it has done since it was asked to forget that.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Before the rows of a batch.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        let learned = &self.learned;
        Standing {
            version: learned.champion.version,
            time_us: learned.time_us,
            scored: learned.prequential.rows(),
            scores: learned.prequential.scores(),
            waiting: learned.waiting.len(),
            unmatched: learned.waiting.unmatched,
            unusable: learned.unusable,
            trained_rows: learned.examples.factor.rows(),
            held_out_rows: learned.examples.held_out_rows(),
            drifts: learned.drifts,
            last_drift_us: learned.last_drift_us,
            last_decision: learned.last_decision.clone(),
        }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// `Unsupported` if it is older than the one before, and if too many forecasts wait for the truth.
    pub fn step(&mut self, row: Row<'_>) -> Result<Outcome> {
        if self.learned.time_us.is_some_and(|before| row.time_us < before) {
            return Err(Error::unsupported("a row of ML_FORECAST came after one with a later time")
                .help("take the time in whose order the rows come out: window_end, or the column of the WATERMARK"));
        }
        self.learned.rows += 1;
        self.learned.time_us = Some(row.time_us);
        let mut outcome = Outcome {
            prediction: f64::NAN,
            version: 0,
            forecast: f64::NAN,
            error: f64::NAN,
            naive_error: f64::NAN,
            scores: None,
            drift: false,
        };
        self.score(row, &mut outcome);
        self.learned.examples.pass(row.time_us, &self.options, &mut self.features);
        if outcome.drift {
            self.drifted(row.time_us);
        }
        if let Some(reason) = self.due(row.time_us, outcome.drift) {
            self.challenge(row.time_us, reason);
        }
        outcome.scores = self.learned.prequential.scores();
        outcome.version = self.learned.champion.version;
        let Some(features) = row.features else {
            self.learned.unusable += 1;
            return Ok(outcome);
        };
        outcome.prediction = match &self.learned.champion.line {
            Some(line) => line.predict(features),
            None => row.target,
        };
        if !outcome.prediction.is_finite() {
            outcome.prediction = f64::NAN;
        }
        if outcome.prediction.is_finite() {
            let target_us = row.time_us.saturating_add(self.options.horizon_us);
            self.recent.look_ahead(row.series, target_us, outcome.prediction, outcome.version);
        }
        // One without a prediction is an example all the same.
        let forecast = (row.time_us, outcome.prediction, row.target, outcome.version);
        self.learned.waiting.add(row.series, forecast, features)?;
        Ok(outcome)
    }

    /// Holds the forecasts for this moment against the truth.
    fn score(&mut self, row: Row<'_>, outcome: &mut Outcome) {
        let learned = &mut self.learned;
        if row.target.is_finite() {
            while let Some(forecast) =
                learned.waiting.resolve(row.series, row.time_us, &self.options, &mut self.features)
            {
                learned.examples_since += 1;
                if forecast.prediction.is_finite() {
                    outcome.forecast = forecast.prediction;
                    outcome.error = row.target - forecast.prediction;
                    outcome.naive_error = row.target - forecast.naive;
                    outcome.drift |= learned.judge(outcome.error, outcome.naive_error, &self.options);
                    let scored = Scored {
                        time_us: row.time_us,
                        series: String::new(),
                        truth: row.target,
                        forecast: forecast.prediction,
                        naive: forecast.naive,
                        version: forecast.version,
                    };
                    self.recent.score(row.series, scored);
                }
                let example = Example {
                    made_us: forecast.made_us,
                    known_us: row.time_us,
                    truth: row.target,
                    naive: forecast.naive,
                };
                learned.examples.add(example, &self.features);
            }
        }
        learned.waiting.pass(row.time_us, &self.options);
    }

    fn drifted(&mut self, time_us: i64) {
        let learned = &mut self.learned;
        learned.drifts += 1;
        learned.last_drift_us = Some(time_us);
        learned.recovery = Some(Recovery { since_us: time_us, left: RECOVERIES_MAX });
        learned.examples.fade_to(self.options.min_rows);
        self.recent.happen(Happening::Drift(time_us));
    }

    /// Is a challenger to be trained, and why?
    fn due(&mut self, time_us: i64, drift: bool) -> Option<Reason> {
        let learned = &mut self.learned;
        let scheduled = match self.options.retrain {
            None => false,
            Some(Span::Rows(rows)) => learned.examples_since >= rows,
            // Periods begin at the epoch, whenever the stream did.
            Some(Span::TimeUs(period)) => {
                let now = time_us.div_euclid(period);
                learned.period.replace(now).is_some_and(|before| before != now)
            }
        };
        if drift {
            return Some(Reason::Drift);
        }
        if let Some(recovery) = learned.recovery.as_mut()
            && learned.examples.held_out_since().is_some_and(|since_us| since_us > recovery.since_us)
        {
            recovery.since_us = time_us;
            recovery.left -= 1;
            if recovery.left == 0 {
                learned.recovery = None;
            }
            return Some(Reason::Drift);
        }
        if scheduled {
            return Some(Reason::Schedule);
        }
        let examples = &learned.examples;
        let is_enough = examples.factor.rows() >= self.options.min_rows && examples.held_out_rows() > 0;
        (is_enough && !learned.tried).then_some(Reason::First)
    }

    fn challenge(&mut self, time_us: i64, reason: Reason) {
        let learned = &mut self.learned;
        learned.examples_since = 0;
        learned.tried |= learned.examples.factor.rows() >= self.options.min_rows;
        let version = learned.promoted + 1;
        let parts = (&learned.examples, &self.options, &self.names[..]);
        let (decision, promotion) = contest(parts, &mut learned.champion, (time_us, reason, version));
        if matches!(decision.verdict, Verdict::Promoted(_) | Verdict::Retired) {
            // Another model has other errors.
            learned.detector = Detector::new(self.options.drift);
        }
        self.recent.happen(Happening::Decision(decision.clone()));
        learned.last_decision = Some(decision);
        if let Some(promotion) = promotion {
            learned.promoted = version;
            learned.recovery = None;
            if learned.promotions.len() >= PROMOTIONS_MAX {
                learned.promotions.remove(0);
            }
            learned.promotions.push(promotion);
        }
    }
}

#[cfg(test)]
#[path = "forecaster_tests.rs"]
mod tests;
