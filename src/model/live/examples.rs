//! From forecasts that wait for the truth, to examples that are held out, to the factor that models are fitted to.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::options::{LiveOptions, Span};
use crate::{
    error::{Error, Result},
    model::{
        exact,
        qr::QrFactor,
        weighting::{HalfLife, fade},
    },
};

/// The most forecasts that wait for the truth: those of one horizon.
const WAITING_MAX: usize = 1 << 16;

/// The most examples that are held out: older ones train, however long the stretch was asked to be.
const HELD_OUT_MAX: usize = 1 << 15;

/// Series that have no forecast any more are dropped when there are twice as many as before, and so many.
const SERIES_SPARE: usize = 64;

/// A forecast that waits for the truth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// When it was made, microseconds of event time.
    pub made_us: i64,
    /// NaN where it is not known.
    #[serde(deserialize_with = "exact::or_nan")]
    pub prediction: f64,
    /// The naive one: what the target was then; NaN where that was not known.
    #[serde(deserialize_with = "exact::or_nan")]
    pub naive: f64,
    pub version: u64,
    /// The truth has come.
    resolved: bool,
}

/// The forecasts that wait, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The number of the first of `forecasts`, of all there ever were.
    first: u64,
    forecasts: VecDeque<Forecast>,
    /// Of each forecast, one after the other.
    #[serde(deserialize_with = "exact::queue")]
    features: VecDeque<f64>,
    /// The numbers of the forecasts of each series; and how many there were when those without any were dropped.
    series: BTreeMap<String, VecDeque<u64>>,
    kept: usize,
    /// The truth never came for so many.
    pub unmatched: u64,
}

impl Waiting {
    /// How many there are room for; those that are resolved among them.
    pub fn len(&self) -> usize {
        self.forecasts.len()
    }

    /// Adds a forecast of `series`, made from `features`.
    ///
    /// # Errors
    /// `Unsupported` if too many wait.
    pub fn add(&mut self, series: &str, forecast: (i64, f64, f64, u64), features: &[f64]) -> Result<()> {
        if self.forecasts.len() >= WAITING_MAX {
            return Err(Error::unsupported(format!(
                "more than {WAITING_MAX} forecasts of ML_FORECAST wait for what comes true"
            ))
            .help("shorten the 'horizon', or forecast fewer rows: one for each window, as in sql/forecast.sql"));
        }
        let number = self.first + self.forecasts.len() as u64;
        let (made_us, prediction, naive, version) = forecast;
        self.forecasts.push_back(Forecast { made_us, prediction, naive, version, resolved: false });
        self.features.extend(features);
        match self.series.get_mut(series) {
            Some(numbers) => numbers.push_back(number),
            None => drop(self.series.insert(series.to_owned(), VecDeque::from([number]))),
        }
        Ok(())
    }

    /// The next forecast of `series` for a moment up to `time_us` whose truth is what is known at `time_us`; its features
    /// go into `features`.
    pub fn resolve(
        &mut self,
        series: &str,
        time_us: i64,
        options: &LiveOptions,
        features: &mut Vec<f64>,
    ) -> Option<Forecast> {
        let numbers = self.series.get_mut(series)?;
        while let Some(number) = numbers.front() {
            let Some(at) = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
                // It has been given up.
                numbers.pop_front();
                continue;
            };
            let forecast = self.forecasts.get_mut(at)?;
            let wanted_us = forecast.made_us.saturating_add(options.horizon_us);
            if wanted_us > time_us {
                return None;
            }
            numbers.pop_front();
            if time_us > wanted_us.saturating_add(options.tolerance_us) {
                continue;
            }
            forecast.resolved = true;
            let count = self.features.len() / self.forecasts.len();
            features.clear();
            features.extend(self.features.range(at * count..(at + 1) * count));
            return self.forecasts.get(at).copied();
        }
        None
    }

    /// Gives up what no truth can come for any more, and forgets what it has come for.
    pub fn pass(&mut self, time_us: i64, options: &LiveOptions) {
        while let Some(front) = self.forecasts.front() {
            let is_over = front.made_us.saturating_add(options.delay_us()) < time_us;
            if !front.resolved && !is_over {
                break;
            }
            self.unmatched += u64::from(!front.resolved);
            let count = self.features.len() / self.forecasts.len();
            self.forecasts.pop_front();
            self.features.drain(..count);
            self.first += 1;
        }
        // Not with every row: looking at all series costs as many steps as there are.
        if self.series.len() >= 2 * self.kept + SERIES_SPARE {
            self.series.retain(|_, numbers| numbers.back().is_some_and(|last| *last >= self.first));
            self.kept = self.series.len();
        }
    }
}

/// An example: the truth has come for a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// When the forecast was made, and when the truth was known.
    pub made_us: i64,
    pub known_us: i64,
    #[serde(deserialize_with = "exact::one")]
    pub truth: f64,
    #[serde(deserialize_with = "exact::or_nan")]
    pub naive: f64,
}

/// The examples: the newest ones are held out, the older ones are in the factor. In between lie those whose truth was
/// not known yet when the first forecast of the held-out stretch was made: they do neither.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    queue: VecDeque<Example>,
    #[serde(deserialize_with = "exact::queue")]
    features: VecDeque<f64>,
    /// How many of the queue are not held out.
    between: usize,
    /// Of those that left the queue.
    pub factor: QrFactor,
    /// When the newest forecast in the factor was made, which its weights refer to; and the oldest.
    pub newest_us: Option<i64>,
    pub oldest_us: Option<i64>,
}

impl Examples {
    /// Of `features` features.
    pub fn new(features: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            features: VecDeque::new(),
            between: 0,
            factor: QrFactor::empty(features + 2),
            newest_us: None,
            oldest_us: None,
        }
    }

    fn count(&self) -> usize {
        self.factor.columns() - 2
    }

    /// How many are held out.
    pub fn held_out_rows(&self) -> usize {
        self.queue.len() - self.between
    }

    /// When the truth of the first one that is held out was known.
    pub fn held_out_since(&self) -> Option<i64> {
        self.queue.get(self.between).map(|example| example.known_us)
    }

    /// Those that are held out, with their features.
    pub fn held_out(&self) -> impl Iterator<Item = (&Example, impl Iterator<Item = &f64>)> {
        let count = self.count();
        (self.between..self.queue.len())
            .filter_map(move |at| Some((self.queue.get(at)?, self.features.range(at * count..(at + 1) * count))))
    }

    /// Adds the newest.
    pub fn add(&mut self, example: Example, features: &[f64]) {
        self.queue.push_back(example);
        self.features.extend(features);
    }

    /// Time goes on to `now_us`: what is no longer held out trains, once it may. `row` is for use here.
    pub fn pass(&mut self, now_us: i64, options: &LiveOptions, row: &mut Vec<f64>) {
        let held_out_max = match options.holdout {
            Span::Rows(rows) => usize::try_from(rows).unwrap_or(HELD_OUT_MAX).min(HELD_OUT_MAX),
            Span::TimeUs(_) => HELD_OUT_MAX,
        };
        while let Some(first) = self.queue.get(self.between) {
            let is_old = match options.holdout {
                Span::TimeUs(span) => first.known_us <= now_us.saturating_sub(span),
                Span::Rows(_) => false,
            };
            if !is_old && self.held_out_rows() <= held_out_max {
                break;
            }
            self.between += 1;
        }
        let start_us = self.held_out_since().unwrap_or(now_us).saturating_sub(options.delay_us());
        while self.between > 0
            && let Some(example) = self.queue.front().copied().filter(|example| example.known_us <= start_us)
        {
            self.queue.pop_front();
            self.between -= 1;
            row.clear();
            row.push(1.0);
            row.extend(self.features.drain(..self.factor.columns() - 2));
            row.push(example.truth);
            self.train(&example, row, options.half_life_us);
        }
    }

    fn train(&mut self, example: &Example, row: &mut [f64], half_life_us: Option<i64>) {
        let newest_us = self.newest_us.map_or(example.made_us, |newest| newest.max(example.made_us));
        let mut weight = 1.0;
        if let Some(half_life) = half_life_us.map(HalfLife::TimeUs) {
            let age = |from_us: i64| newest_us.saturating_sub(from_us) as f64;
            if let Some(before) = self.newest_us.filter(|before| *before < newest_us) {
                self.factor.scale_weights(fade(age(before), half_life));
            }
            weight = fade(age(example.made_us), half_life);
        }
        self.newest_us = Some(newest_us);
        self.oldest_us = Some(self.oldest_us.map_or(example.made_us, |oldest| oldest.min(example.made_us)));
        // One by one: a block would make the result depend on where a batch ends.
        self.factor.add_row(row, weight);
    }

    /// What was learned so far weighs as `rows` rows at most.
    pub fn fade_to(&mut self, rows: u64) {
        let weight = self.factor.weight();
        if weight > rows as f64 {
            self.factor.scale_weights(rows as f64 / weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::options::tests::options, *};

    const MINUTE: i64 = 60_000_000;

    fn resolved(waiting: &mut Waiting, series: &str, time_us: i64, options: &LiveOptions) -> Vec<(i64, Vec<f64>)> {
        let mut features = Vec::new();
        let mut found = Vec::new();
        while let Some(forecast) = waiting.resolve(series, time_us, options, &mut features) {
            found.push((forecast.made_us / MINUTE, features.clone()));
        }
        waiting.pass(time_us, options);
        found
    }

    #[test]
    fn each_series_has_a_truth_of_its_own() {
        let mut waiting = Waiting::default();
        let two = LiveOptions { horizon_us: 2 * MINUTE, ..options(&[]).unwrap() };
        for minute in 0..3 {
            let number = minute as f64;
            waiting.add("a", (minute * MINUTE, 0.0, 0.0, 0), &[number, 1.0]).unwrap();
            waiting.add("b", (minute * MINUTE, 0.0, 0.0, 0), &[number, 2.0]).unwrap();
        }
        assert_eq!(resolved(&mut waiting, "a", MINUTE, &two), []);
        assert_eq!(resolved(&mut waiting, "a", 2 * MINUTE, &two), [(0, vec![0.0, 1.0])]);
        assert_eq!(resolved(&mut waiting, "a", 2 * MINUTE, &two), [], "the first value is the truth");
        assert_eq!(resolved(&mut waiting, "b", 2 * MINUTE, &two), [(0, vec![0.0, 2.0])]);
        assert_eq!(waiting.len(), 4);
        // Minute 3 is missing in a, and minute 4 is too late for minute 1.
        assert_eq!(resolved(&mut waiting, "a", 4 * MINUTE, &two), [(2, vec![2.0, 1.0])]);
        assert_eq!((waiting.unmatched, waiting.len()), (2, 1), "both of minute 1 are given up");
        assert_eq!(resolved(&mut waiting, "c", 9 * MINUTE, &two), []);
        assert_eq!((waiting.unmatched, waiting.len()), (3, 0));
        // Series that have gone are not kept for ever.
        for minute in 0..1_000 {
            waiting.add(&format!("{minute}"), ((10 + minute) * MINUTE, 0.0, 0.0, 0), &[0.0, 0.0]).unwrap();
            waiting.pass((10 + minute) * MINUTE, &two);
        }
        assert!(waiting.series.len() < 100, "{}", waiting.series.len());
    }

    #[test]
    fn too_many_that_wait_are_refused() {
        let mut waiting = Waiting::default();
        (0..WAITING_MAX).for_each(|_| waiting.add("", (0, 0.0, 0.0, 0), &[]).unwrap());
        let error = waiting.add("", (0, 0.0, 0.0, 0), &[]).unwrap_err();
        assert!(error.advice().unwrap().contains("horizon"), "{error}");
    }

    fn passed(options: &LiveOptions, minutes: i64) -> Examples {
        let (mut examples, mut row) = (Examples::new(1), Vec::new());
        for minute in 0..minutes {
            let (made_us, known_us) = (minute * MINUTE, minute * MINUTE + options.horizon_us);
            examples.add(Example { made_us, known_us, truth: minute as f64, naive: 0.0 }, &[1.0 + minute as f64]);
            examples.pass(known_us, options, &mut row);
        }
        examples
    }

    #[test]
    fn what_is_held_out_was_not_known_to_what_trains() {
        let five = |holdout| LiveOptions {
            horizon_us: 5 * MINUTE,
            tolerance_us: MINUTE / 2,
            ..options(&[("holdout", holdout)]).unwrap()
        };
        for (holdout, rows) in [("20 rows", 20), ("20m", 20)] {
            let examples = passed(&five(holdout), 100);
            assert_eq!(examples.held_out_rows(), rows, "{holdout}");
            let first = examples.held_out().next().unwrap().0;
            assert_eq!(first.made_us, 80 * MINUTE);
            // Its forecast was made at minute 80: what trains was known by then.
            assert_eq!((examples.factor.rows(), examples.newest_us), (75, Some(74 * MINUTE)));
            let features: Vec<f64> = examples.held_out().flat_map(|(_, features)| features.copied()).collect();
            assert_eq!((features.first(), features.last()), (Some(&81.0), Some(&100.0)));
        }
    }

    #[test]
    fn old_rows_fade() {
        let mut examples = passed(&options(&[("halfLife", "10m"), ("holdout", "1 rows")]).unwrap(), 200);
        assert!((examples.factor.weight() - 1.0 / (1.0 - (-0.1_f64).exp2())).abs() < 1e-3);
        examples.fade_to(3);
        assert!((examples.factor.weight() - 3.0).abs() < 1e-9);
        examples.fade_to(3_000);
        assert!((examples.factor.weight() - 3.0).abs() < 1e-9);
    }
}
